/**
 * The runbooks: markdown files with a small front matter, cut into the sections that are searched, shown and cited.
 *
 * @since 0.1.0
 */
import { FileSystem, Path } from "@effect/platform"
import { Context, Effect, Layer, ParseResult, Schema } from "effect"

/**
 * What a section of a runbook is for. The headings of the files are mapped to these, so that a question such as "how do
 * I prevent it?" can be answered from the section that says so.
 *
 * @since 0.1.0
 * @category models
 */
export type Purpose = "overview" | "symptoms" | "causes" | "diagnose" | "fix" | "prevent" | "escalate" | "other"

/**
 * One section: the unit of search and of citation. `id` is `<runbook>#<slug of the heading>`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Section {
  readonly id: string
  readonly runbook: string
  readonly title: string
  readonly heading: string
  readonly purpose: Purpose
  readonly text: string
}

/**
 * One runbook and its sections, in the order of the file.
 *
 * @since 0.1.0
 * @category models
 */
export interface Runbook {
  readonly id: string
  readonly title: string
  readonly service: string
  readonly severity: string
  readonly tags: ReadonlyArray<string>
  readonly sections: ReadonlyArray<Section>
}

/**
 * A runbook file that cannot be used, with what is wrong in it.
 *
 * @since 0.1.0
 * @category errors
 */
export class RunbookError extends Schema.TaggedError<RunbookError>()("RunbookError", {
  file: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `Runbook ${this.file}: ${this.problem}`
  }
}

/**
 * The runbooks of this service.
 *
 * @since 0.1.0
 * @category tags
 */
export class Runbooks extends Context.Tag("@underlay/examples/assistant/Runbooks")<
  Runbooks,
  {
    readonly all: ReadonlyArray<Runbook>
    readonly sections: ReadonlyArray<Section>
    readonly runbook: (id: string) => Runbook | undefined
    readonly section: (id: string) => Section | undefined
  }
>() {}

const FrontMatter = Schema.Struct({
  id: Schema.String.pipe(Schema.pattern(/^[a-z0-9]+(-[a-z0-9]+)*$/)),
  title: Schema.NonEmptyTrimmedString,
  service: Schema.NonEmptyTrimmedString,
  severity: Schema.Literal("low", "medium", "high", "critical"),
  tags: Schema.Array(Schema.NonEmptyTrimmedString)
})

const decodeFrontMatter = Schema.decodeUnknown(FrontMatter, { errors: "all" })

const unquote = (text: string): string => {
  const trimmed = text.trim()
  const quote = trimmed[0]
  return trimmed.length > 1 && (quote === '"' || quote === "'") && trimmed.endsWith(quote)
    ? trimmed.slice(1, -1)
    : trimmed
}

/** The two shapes a line of the front matter may have: `key: text` and `key: [a, b]`. */
const parseFrontMatter = (lines: ReadonlyArray<string>): Record<string, unknown> => {
  const record: Record<string, unknown> = {}
  for (const line of lines) {
    const colon = line.indexOf(":")
    if (colon < 1) continue
    const value = line.slice(colon + 1).trim()
    record[line.slice(0, colon).trim()] =
      value.startsWith("[") && value.endsWith("]")
        ? value
            .slice(1, -1)
            .split(",")
            .map(unquote)
            .filter((item) => item !== "")
        : unquote(value)
  }
  return record
}

const slug = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-|-$/g, "")

const purposes: ReadonlyArray<readonly [RegExp, Purpose]> = [
  [/symptom|sign/i, "symptoms"],
  [/cause/i, "causes"],
  [/diagnos|investigat|check/i, "diagnose"],
  [/fix|repair|resol|mitigat|recover/i, "fix"],
  [/prevent|avoid/i, "prevent"],
  [/escalat/i, "escalate"]
]

const purposeOf = (heading: string): Purpose => purposes.find(([pattern]) => pattern.test(heading))?.[1] ?? "other"

/**
 * Parses one runbook file. Headings inside fenced code are text. The text before the first second-level heading is the
 * section `Overview`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const parse = (file: string, markdown: string): Effect.Effect<Runbook, RunbookError> =>
  Effect.gen(function* () {
    const lines = markdown
      .replaceAll("\r\n", "\n")
      .replace(/^\uFEFF/, "")
      .split("\n")
    const end = lines[0] === "---" ? lines.indexOf("---", 1) : -1
    if (end < 0)
      return yield* new RunbookError({ file, problem: "it does not begin with front matter between --- lines" })
    const matter = yield* decodeFrontMatter(parseFrontMatter(lines.slice(1, end))).pipe(
      Effect.mapError(
        (error) =>
          new RunbookError({ file, problem: `front matter: ${ParseResult.TreeFormatter.formatErrorSync(error)}` })
      )
    )
    const sections: Array<Section> = []
    const seen = new Set<string>()
    let heading = "Overview"
    let body: Array<string> = []
    let fenced = false
    const close = () => {
      const text = body.join("\n").trim()
      body = []
      if (text === "") return
      const base = slug(heading)
      let name = base
      for (let n = 2; seen.has(name); n++) name = `${base}-${n}`
      seen.add(name)
      sections.push({
        id: `${matter.id}#${name}`,
        runbook: matter.id,
        title: matter.title,
        heading,
        purpose: heading === "Overview" ? "overview" : purposeOf(heading),
        text
      })
    }
    for (const line of lines.slice(end + 1)) {
      if (/^\s*(```|~~~)/.test(line)) fenced = !fenced
      const second = fenced ? null : /^##\s+(.+?)\s*#*$/.exec(line)
      if (second?.[1] !== undefined) {
        close()
        heading = second[1]
      } else if (fenced || !/^#\s/.test(line)) {
        body.push(line)
      }
    }
    close()
    if (fenced) return yield* new RunbookError({ file, problem: "a code block is opened and never closed" })
    if (sections.length === 0) return yield* new RunbookError({ file, problem: "it has no text" })
    return { ...matter, sections }
  })

/**
 * The service of a fixed list of runbooks. Two runbooks of one id are an error.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (all: ReadonlyArray<Runbook>): Effect.Effect<Context.Tag.Service<Runbooks>, RunbookError> =>
  Effect.gen(function* () {
    const runbooks = new Map<string, Runbook>()
    const sections = new Map<string, Section>()
    for (const runbook of all) {
      if (runbooks.has(runbook.id)) {
        return yield* new RunbookError({ file: `${runbook.id}.md`, problem: "another runbook has the same id" })
      }
      runbooks.set(runbook.id, runbook)
      for (const section of runbook.sections) sections.set(section.id, section)
    }
    return {
      all,
      sections: Array.from(sections.values()),
      runbook: (id: string) => runbooks.get(id),
      section: (id: string) => sections.get(id)
    }
  })

/**
 * Reads every `.md` file of a folder, in the order of their names.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (directory: string): Layer.Layer<Runbooks, RunbookError, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(
    Runbooks,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const unreadable = (file: string) => (cause: Error) => new RunbookError({ file, problem: cause.message })
      const names = yield* fs.readDirectory(directory).pipe(Effect.mapError(unreadable(directory)))
      const files = names.filter((name) => name.endsWith(".md")).sort()
      if (files.length === 0) return yield* new RunbookError({ file: directory, problem: "there is no .md file in it" })
      const all = yield* Effect.forEach(
        files,
        (name) =>
          fs.readFileString(path.join(directory, name)).pipe(
            Effect.mapError(unreadable(name)),
            Effect.flatMap((markdown) => parse(name, markdown))
          ),
        { concurrency: 8 }
      )
      return yield* make(all)
    })
  )
