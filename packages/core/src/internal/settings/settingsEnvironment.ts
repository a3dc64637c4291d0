/**
 * The environment as a source of settings: `.env` files, names matched to paths, secrets in files, and the addresses that
 * Kubernetes injects.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Origin, Problem } from "../../config/SettingsError.ts"

/** One variable and where it was set. */
export interface Variable {
  readonly name: string
  readonly value: string
  readonly origin: Origin
}

// ---------------------------------------------------------------------------------------------------------------------
// .env files
// ---------------------------------------------------------------------------------------------------------------------

const assignment = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=[ \t]*/

const escapes: Record<string, string> = { n: "\n", r: "\r", t: "\t" }

/**
 * Reads the lines of a `.env` file: `NAME=value`, `export`, comments, single, double and back quotes over several lines,
 * escapes in double quotes. Values are taken as they are: nothing in them is substituted.
 */
export const parseDotEnv = (
  text: string,
  file: string
): { readonly variables: ReadonlyArray<Variable>; readonly problems: ReadonlyArray<Problem> } => {
  const variables: Array<Variable> = []
  const problems: Array<Problem> = []
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/)
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index] ?? ""
    const number = index + 1
    if (/^\s*(?:#|$)/.test(line)) {
      continue
    }
    const begins = assignment.exec(line)
    const name = begins?.[1]
    if (begins === null || name === undefined) {
      problems.push({
        reason: "syntax",
        path: "",
        origin: { type: "file", file, line: number, column: 1 },
        expected: "NAME=value, a comment or an empty line"
      })
      continue
    }
    const origin: Origin = { type: "environment", variable: name, file, line: number }
    const rest = line.slice(begins[0].length)
    const quote = rest[0]
    if (quote !== '"' && quote !== "'" && quote !== "`") {
      variables.push({ name, value: rest.replace(/(?:^|\s+)#.*$/, "").trim(), origin })
      continue
    }
    let body = rest.slice(1)
    let end = closing(body, quote)
    while (end < 0 && index + 1 < lines.length) {
      index++
      body += `\n${lines[index] ?? ""}`
      end = closing(body, quote)
    }
    if (end < 0 || !/^\s*(?:#.*)?$/.test(body.slice(end + 1))) {
      problems.push({
        reason: "syntax",
        path: "",
        origin: { type: "file", file, line: number, column: begins[0].length + 1 },
        expected: end < 0 ? `a closing ${quote}` : `nothing but a comment after the closing ${quote}`
      })
      continue
    }
    const inner = body.slice(0, end)
    variables.push({
      name,
      value: quote === '"' ? inner.replace(/\\([\s\S])/g, (whole, char: string) => escape(whole, char)) : inner,
      origin
    })
  }
  return { variables, problems }
}

const escape = (whole: string, char: string): string =>
  escapes[char] ?? (char === '"' || char === "\\" || char === "$" || char === "\n" ? char.replace("\n", "") : whole)

const closing = (text: string, quote: string): number => {
  for (let at = 0; at < text.length; at++) {
    if (quote === '"' && text[at] === "\\") {
      at++
    } else if (text[at] === quote) {
      return at
    }
  }
  return -1
}

// ---------------------------------------------------------------------------------------------------------------------
// names and paths
// ---------------------------------------------------------------------------------------------------------------------

/** The form in which names are compared: `apiKey`, `api-key`, `API_KEY` and `api_key` are the same. */
export const canonical = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, "")

/** The index in a segment `[3]`, or `undefined` for a name. */
export const indexOf = (segment: string): number | undefined => {
  const digits = /^\[(\d+)\]$/.exec(segment)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** The variable that one would set for a path: `["llm", "apiKey"]` is `LLM_API_KEY`. */
export const variableFor = (path: ReadonlyArray<string>): string =>
  path
    .map((segment) =>
      String(indexOf(segment) ?? segment)
        .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
        .replace(/[^A-Za-z0-9]+/g, "_")
        .toUpperCase()
    )
    .join("_")

// Names that every shell sets. A setting of one word (`user`, `path`, `home`) is not read from them, unless it is asked for
// by exactly their name.
const systemNames = new Set(
  "PATH HOME USER USERNAME LOGNAME SHELL PWD OLDPWD LANG LANGUAGE TERM HOSTNAME HOST EDITOR VISUAL PAGER TMPDIR TMP TEMP TZ MAIL DISPLAY OS SHLVL PROMPT NAME COLUMNS LINES".split(
    " "
  )
)

const parts = (name: string): ReadonlyArray<string> =>
  name
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter((part) => part !== "")

// How many of the parts spell the path, so that every boundary between segments is one between parts; -1 if they do not.
const consumed = (have: ReadonlyArray<string>, want: ReadonlyArray<string>): number => {
  let at = 0
  for (const segment of want) {
    let spelt = ""
    while (spelt.length < segment.length && at < have.length) {
      spelt += have[at] ?? ""
      at++
    }
    if (spelt !== segment || segment === "") {
      return -1
    }
  }
  return at
}

/** The variables, to be asked by path. */
export interface Environment {
  /** The variable with exactly this name, as it is used in `${NAME}`. */
  readonly named: (name: string) => Effect.Effect<Option.Option<Variable>, Problem>
  /** The variable that sets a path. */
  readonly at: (path: ReadonlyArray<string>) => Effect.Effect<Option.Option<Variable>, Problem>
  /** The first parts, in lower case, of the names that go on after a path. */
  readonly below: (path: ReadonlyArray<string>) => ReadonlyArray<{ readonly parts: ReadonlyArray<string> }>
}

const maxSecretBytes = 1_048_576

export const makeEnvironment = (
  variables: ReadonlyMap<string, Variable>,
  fileSystem: FileSystem.FileSystem
): Environment => {
  const known = Array.from(variables.values(), (variable) => ({ variable, parts: parts(variable.name) }))

  // Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 for a service called redis.
  const understood = (variable: Variable): Variable => {
    const port = /port$/i.test(variable.name)
      ? /^(?:tcp|udp|sctp):\/\/(?:\[[0-9a-fA-F:.]+\]|[^\s/:]+):(\d+)$/.exec(variable.value)?.[1]
      : undefined
    return port === undefined ? variable : { ...variable, value: port }
  }

  const secret = (variable: Variable): Effect.Effect<Variable, Problem> => {
    const problem: Problem = {
      reason: "unreadable",
      path: "",
      origin: variable.origin,
      expected: `the name of a readable file of at most ${maxSecretBytes} bytes`
    }
    return fileSystem.stat(variable.value).pipe(
      Effect.filterOrFail(
        (info) => info.type !== "Directory" && info.size <= maxSecretBytes,
        () => problem
      ),
      Effect.andThen(fileSystem.readFileString(variable.value)),
      Effect.mapBoth({
        onFailure: () => problem,
        onSuccess: (text) => ({ ...variable, value: text.replace(/[\r\n]+$/, "") })
      })
    )
  }

  const filled = (
    direct: Variable | undefined,
    file: Variable | undefined
  ): Effect.Effect<Option.Option<Variable>, Problem> => {
    if (file !== undefined && file.value !== "" && (direct === undefined || direct.value === "")) {
      return Effect.asSome(secret(file))
    }
    return Effect.succeed(Option.map(Option.fromNullable(direct), understood))
  }

  const named: Environment["named"] = (name) => filled(variables.get(name), variables.get(`${name}_FILE`))

  const find = (wanted: ReadonlyArray<string>, spelling: string | undefined): Variable | undefined => {
    const matches = known.filter((candidate) => consumed(candidate.parts, wanted) === candidate.parts.length)
    const exact = matches.find(({ variable }) => variable.name === spelling)
    if (exact !== undefined) {
      return exact.variable
    }
    const rest = matches.filter(({ variable }) => wanted.length > 1 || !systemNames.has(variable.name.toUpperCase()))
    const inProcess = rest.filter(
      ({ variable }) => variable.origin.type === "environment" && variable.origin.file === undefined
    )
    const among = inProcess.length > 0 ? inProcess : rest
    return (among.find(({ variable }) => variable.name === variable.name.toUpperCase()) ?? among[0])?.variable
  }

  const wantedFor = (path: ReadonlyArray<string>): ReadonlyArray<string> =>
    path.map((segment) => canonical(String(indexOf(segment) ?? segment)))

  const at: Environment["at"] = (path) => {
    const spelling = path.length === 1 ? path[0] : undefined
    const wanted = wantedFor(path)
    return path.length === 0
      ? Effect.succeedNone
      : filled(
          find(wanted, spelling),
          find([...wanted, "file"], spelling === undefined ? undefined : `${spelling}_FILE`)
        )
  }

  const below: Environment["below"] = (path) => {
    const wanted = wantedFor(path)
    return known.flatMap((candidate) => {
      const used = consumed(candidate.parts, wanted)
      return used > 0 && used < candidate.parts.length ? [{ parts: candidate.parts.slice(used) }] : []
    })
  }

  return { named, at, below }
}
