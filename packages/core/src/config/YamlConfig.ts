/**
 * YAML as a tree of settings in which every value knows its file, line and column, with `${VAR}`, `${VAR:default}` and
 * `${VAR:-default}` substituted in the parsed scalars, so that no value can inject YAML.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Yaml from "yaml"
import { type Origin, type Problem, SettingsError } from "./SettingsError.ts"

/**
 * A single value. `value` is what its form says (a plain `5` is a number, a quoted `"5"` is text), `text` what stands
 * there, so that a setting that is text reads `1.10` as `"1.10"`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Scalar {
  readonly _tag: "Scalar"
  readonly value: string | number | boolean
  readonly text: string
  readonly origin: Origin
}

/**
 * A list. A higher source replaces it whole.
 *
 * @since 0.1.0
 * @category models
 */
export interface List {
  readonly _tag: "List"
  readonly items: ReadonlyArray<Node>
  readonly origin: Origin
}

/**
 * Values by name, in the order of the file.
 *
 * @since 0.1.0
 * @category models
 */
export interface Table {
  readonly _tag: "Table"
  readonly entries: ReadonlyMap<string, Node>
  readonly origin: Origin
}

/**
 * A name without a value: an explicit null (`cleared`), which also hides the value of a lower source, or a reference to a
 * variable that is not set and has no default, which does not.
 *
 * @since 0.1.0
 * @category models
 */
export interface Absent {
  readonly _tag: "Absent"
  readonly cleared: boolean
  readonly why: string
  readonly origin: Origin
}

/**
 * @since 0.1.0
 * @category models
 */
export type Node = Scalar | List | Table | Absent

// ---------------------------------------------------------------------------------------------------------------------
// references
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A text with references, taken apart. `emptyIsUnset` is true for `${VAR:-default}`, where an empty variable counts as
 * unset, and false for `${VAR:default}`.
 *
 * @since 0.1.0
 * @category models
 */
export type Template = ReadonlyArray<
  | string
  | {
      readonly name: string
      readonly otherwise: Template | undefined
      readonly emptyIsUnset: boolean
    }
>

/**
 * A reference that cannot be understood, and where in the text it begins (from 0).
 *
 * @since 0.1.0
 * @category models
 */
export interface TemplateFault {
  readonly offset: number
  readonly message: string
}

/**
 * Takes a text apart. The default of a reference runs to the matching brace and may hold references itself; `$$` stands
 * for one `$`; a `$` before anything but `{` or `$` is plain text.
 *
 * @since 0.1.0
 * @category parsing
 */
export const parseTemplate = (text: string): Either.Either<Template, TemplateFault> => {
  const parsed = templateFrom(text, 0, false)
  return "message" in parsed ? Either.left(parsed) : Either.right(parsed.template)
}

const variableName = /[A-Za-z_][A-Za-z0-9_]*/y

const maxNesting = 32

const templateFrom = (
  text: string,
  from: number,
  inDefault: boolean,
  nesting = 0
): { readonly template: Template; readonly end: number } | TemplateFault => {
  const parts: Array<Template[number]> = []
  let literal = ""
  let depth = 0
  let at = from
  const flush = () => {
    if (literal !== "") {
      parts.push(literal)
      literal = ""
    }
  }
  while (at < text.length) {
    const char = text[at]
    const next = text[at + 1]
    if (char === "$" && next === "$") {
      literal += "$"
      at += 2
      continue
    }
    if (char === "$" && next === "{") {
      if (nesting >= maxNesting) {
        return { offset: at, message: "references are nested too deeply" }
      }
      variableName.lastIndex = at + 2
      const name = variableName.exec(text)?.[0]
      if (name === undefined) {
        return {
          offset: at,
          message: "expected the name of a variable after ${ (write $${ for the characters themselves)"
        }
      }
      const after = at + 2 + name.length
      if (text[after] === "}") {
        flush()
        parts.push({ name, otherwise: undefined, emptyIsUnset: false })
        at = after + 1
        continue
      }
      if (text[after] !== ":") {
        return {
          offset: at,
          message:
            after >= text.length
              ? `the reference to ${name} is not closed by }`
              : `expected } or : after ${name} (the forms are \${VAR}, \${VAR:default} and \${VAR:-default})`
        }
      }
      const emptyIsUnset = text[after + 1] === "-"
      const otherwise = templateFrom(text, after + (emptyIsUnset ? 2 : 1), true, nesting + 1)
      if ("message" in otherwise) {
        return otherwise
      }
      if (text[otherwise.end] !== "}") {
        return { offset: at, message: `the reference to ${name} is not closed by }` }
      }
      flush()
      parts.push({ name, otherwise: otherwise.template, emptyIsUnset })
      at = otherwise.end + 1
      continue
    }
    if (inDefault) {
      if (char === "}" && depth === 0) {
        break
      }
      depth += char === "{" ? 1 : char === "}" ? -1 : 0
    }
    literal += char
    at++
  }
  flush()
  return { template: parts, end: at }
}

/**
 * Gives the value of a variable, if it is set. Fails with a problem if it is set but cannot be read.
 *
 * @since 0.1.0
 * @category models
 */
export type Variables = (name: string) => Effect.Effect<Option.Option<string>, Problem>

const evaluate = (template: Template, variables: Variables): Effect.Effect<Either.Either<string, string>, Problem> =>
  Effect.gen(function* () {
    let text = ""
    for (const part of template) {
      if (typeof part === "string") {
        text += part
        continue
      }
      const set = yield* variables(part.name)
      if (Option.isSome(set) && !(part.emptyIsUnset && set.value === "")) {
        text += set.value
      } else if (part.otherwise === undefined) {
        return Either.left(part.name)
      } else {
        const otherwise = yield* evaluate(part.otherwise, variables)
        if (Either.isLeft(otherwise)) {
          return otherwise
        }
        text += otherwise.right
      }
    }
    return Either.right(text)
  })

/**
 * Puts the values of variables into a text: the text, or on the left the variable that is not set and has no default. What
 * a variable holds is not searched for references.
 *
 * @since 0.1.0
 * @category parsing
 */
export const substitute = (
  text: string,
  variables: Variables
): Effect.Effect<Either.Either<string, string>, Problem | TemplateFault> =>
  Effect.flatMap(parseTemplate(text), (template) => evaluate(template, variables))

// ---------------------------------------------------------------------------------------------------------------------
// plain scalars: the core schema of YAML 1.2
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The value of a plain scalar by the core schema of YAML 1.2.
 *
 * @since 0.1.0
 * @category parsing
 */
export const plainValue = (text: string): string | number | boolean | null => {
  if (/^(?:~|null|Null|NULL)?$/.test(text)) {
    return null
  }
  if (/^(?:true|True|TRUE)$/.test(text)) {
    return true
  }
  if (/^(?:false|False|FALSE)$/.test(text)) {
    return false
  }
  if (/^[-+]?[0-9]+$/.test(text) || /^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/.test(text)) {
    return Number(text)
  }
  if (/^0o[0-7]+$/.test(text) || /^0x[0-9a-fA-F]+$/.test(text)) {
    return Number(text)
  }
  if (/^[-+]?\.(?:inf|Inf|INF)$/.test(text)) {
    return text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY
  }
  return /^\.(?:nan|NaN|NAN)$/.test(text) ? Number.NaN : text
}

// ---------------------------------------------------------------------------------------------------------------------
// documents
// ---------------------------------------------------------------------------------------------------------------------

const maxNodes = 100_000

/**
 * Parses one YAML document. `file` is the name shown in origins and problems. Fails with every problem of the file: syntax
 * errors, duplicate keys, unknown tags, references that cannot be understood.
 *
 * @since 0.1.0
 * @category parsing
 */
export const parse = (
  text: string,
  options: { readonly file: string; readonly variables: Variables }
): Effect.Effect<Node, SettingsError> =>
  Effect.gen(function* () {
    const { file, variables } = options
    const lines = new Yaml.LineCounter()
    const originAt = (offset: number): Origin => {
      const { line, col } = lines.linePos(offset)
      return { type: "file", file, line: Math.max(line, 1), column: Math.max(col, 1) }
    }
    const documents = Yaml.parseAllDocuments(text.startsWith("\uFEFF") ? text.slice(1) : text, {
      lineCounter: lines,
      prettyErrors: false,
      version: "1.2",
      schema: "core",
      uniqueKeys: true
    })
    const problems: Array<Problem> = []
    const all = Array.isArray(documents) ? documents : []
    for (const document of all) {
      for (const fault of [...document.errors, ...document.warnings]) {
        problems.push({ reason: "syntax", path: "", origin: originAt(fault.pos[0]), detail: withoutText(fault) })
      }
    }
    const [document, second] = all
    if (second !== undefined) {
      problems.push({
        reason: "syntax",
        path: "",
        origin: originAt(second.range[0]),
        detail: "a second document begins here; a file of settings holds one"
      })
    }
    const start: Origin = { type: "file", file, line: 1, column: 1 }
    const empty: Table = { _tag: "Table", entries: new Map(), origin: start }
    if (problems.length > 0) {
      return yield* new SettingsError({ problems })
    }
    if (document === undefined || document.contents === null) {
      return empty
    }

    let count = 0
    const walk = (node: unknown, path: string, ancestors: ReadonlyArray<unknown>): Effect.Effect<Node> =>
      Effect.suspend(() => {
        const origin = Yaml.isNode(node) && node.range ? originAt(node.range[0]) : start
        const fail = (problem: Omit<Problem, "path" | "origin">): Effect.Effect<Node> => {
          problems.push({ ...problem, path, origin })
          return Effect.succeed({ _tag: "Absent", cleared: false, why: "it has a problem", origin })
        }
        if (++count > maxNodes) {
          return count === maxNodes + 1
            ? fail({
                reason: "syntax",
                detail: `the file has more than ${maxNodes} values once its aliases are followed`
              })
            : Effect.succeed<Node>({ _tag: "Absent", cleared: false, why: "the file is too large", origin })
        }
        if (Yaml.isAlias(node)) {
          const target = node.resolve(document)
          if (target === undefined) {
            return fail({ reason: "syntax", detail: "the alias refers to no anchor" })
          }
          return ancestors.includes(target)
            ? fail({ reason: "syntax", detail: "the alias refers to what it is part of" })
            : walk(target, path, ancestors)
        }
        if (Yaml.isMap(node)) {
          return walkMap(node, path, [...ancestors, node], origin)
        }
        if (Yaml.isSeq(node)) {
          return Effect.map(
            Effect.forEach(node.items, (item, index) => walk(item, `${path}[${index}]`, [...ancestors, node])),
            (items): Node => ({
              _tag: "List",
              items: items.filter((item) => item._tag !== "Absent" || item.cleared),
              origin
            })
          )
        }
        if (Yaml.isScalar(node)) {
          return scalar(node, path, origin)
        }
        return node === null || node === undefined
          ? Effect.succeed<Node>({ _tag: "Absent", cleared: true, why: "it is null", origin })
          : fail({ reason: "syntax", expected: "a table, a list or a single value" })
      })

    const walkMap = (
      map: Yaml.YAMLMap,
      path: string,
      ancestors: ReadonlyArray<unknown>,
      origin: Origin
    ): Effect.Effect<Node> =>
      Effect.gen(function* () {
        const own = new Map<string, Node>()
        const merged = new Map<string, Node>()
        for (const pair of map.items) {
          const key = pair.key
          const keyOrigin = Yaml.isNode(key) && key.range ? originAt(key.range[0]) : origin
          if (Yaml.isScalar(key) && key.type === "PLAIN" && key.source === "<<") {
            const sources = Yaml.isSeq(pair.value) ? pair.value.items : [pair.value]
            for (const source of sources) {
              const node = yield* walk(source, path, ancestors)
              if (node._tag !== "Table") {
                problems.push({
                  reason: "syntax",
                  path,
                  origin: keyOrigin,
                  expected: "a table or a list of tables after <<"
                })
              } else {
                for (const [name, value] of node.entries) {
                  if (!merged.has(name)) {
                    merged.set(name, value)
                  }
                }
              }
            }
            continue
          }
          const name =
            Yaml.isScalar(key) && key.value !== null && typeof key.value !== "object"
              ? (key.source ?? String(key.value))
              : undefined
          if (name === undefined) {
            problems.push({
              reason: "syntax",
              path,
              origin: keyOrigin,
              expected: "a name",
              found: "another kind of key"
            })
            continue
          }
          const node = yield* walk(pair.value, path === "" ? name : `${path}.${name}`, ancestors)
          own.set(name, node._tag === "Absent" && pair.value === null ? { ...node, origin: keyOrigin } : node)
        }
        const entries = new Map<string, Node>()
        for (const [name, node] of merged) {
          if (!own.has(name)) {
            entries.set(name, node)
          }
        }
        for (const [name, node] of own) {
          entries.set(name, node)
        }
        return { _tag: "Table", entries, origin }
      })

    const scalar = (node: Yaml.Scalar, path: string, origin: Origin): Effect.Effect<Node> => {
      const plain = (node.type === "PLAIN" || node.type === undefined) && node.tag === undefined
      if (node.value === null) {
        return Effect.succeed({ _tag: "Absent", cleared: true, why: "it is null", origin })
      }
      if (typeof node.value !== "string") {
        const value =
          typeof node.value === "number" || typeof node.value === "boolean" ? node.value : String(node.value)
        return Effect.succeed({ _tag: "Scalar", value, text: node.source ?? String(node.value), origin })
      }
      const source = node.value
      if (!source.includes("$")) {
        return Effect.succeed({ _tag: "Scalar", value: source, text: source, origin })
      }
      return Effect.match(substitute(source, variables), {
        onFailure: (fault): Node => {
          problems.push(
            "offset" in fault
              ? {
                  reason: "reference",
                  path,
                  origin: originAt((node.range?.[0] ?? 0) + (node.type === "PLAIN" ? fault.offset : 0)),
                  detail: fault.message
                }
              : { ...fault, path }
          )
          return { _tag: "Absent", cleared: false, why: "its reference cannot be understood", origin }
        },
        onSuccess: Either.match({
          onLeft: (name): Node => ({
            _tag: "Absent",
            cleared: false,
            why: `the variable ${name} is not set and has no default`,
            origin
          }),
          onRight: (value): Node => {
            const typed = plain ? plainValue(value) : value
            return typed === null
              ? { _tag: "Absent", cleared: true, why: "it is empty", origin }
              : { _tag: "Scalar", value: typed, text: value, origin }
          }
        })
      })
    }

    const root = yield* walk(document.contents, "", [])
    if (problems.length > 0) {
      return yield* new SettingsError({ problems })
    }
    if (root._tag === "Table") {
      return root
    }
    if (root._tag === "Absent") {
      return empty
    }
    return yield* new SettingsError({
      problems: [
        {
          reason: "syntax",
          path: "",
          origin: root.origin,
          expected: "a table of settings",
          found: root._tag === "List" ? "a list" : "a single value"
        }
      ]
    })
  })

// The library's messages may quote what stands in the file; what it is about is said by the code and the place.
const withoutText = (fault: Yaml.YAMLError): string => {
  const said = fault.message.replace(/(["'`]).*?\1/gs, "…").replace(/:\s.*$/s, "")
  return `${said.trim()} (${fault.code})`
}
