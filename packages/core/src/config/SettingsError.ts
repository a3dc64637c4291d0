/**
 * What is wrong with the settings: every problem at once, each with the place where it stands, what was expected there
 * and why, and never the value itself.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Where a value comes from: a place in a file, a variable (with its place, if it is from a `.env` file), the defaults or
 * the explicit overrides that the program gave. Lines and columns count from 1.
 *
 * @since 0.1.0
 * @category models
 */
export const Origin = Schema.Union(
  Schema.Struct({
    type: Schema.Literal("file"),
    file: Schema.String,
    line: Schema.Number,
    column: Schema.Number
  }),
  Schema.Struct({
    type: Schema.Literal("environment"),
    variable: Schema.String,
    file: Schema.optionalWith(Schema.String, { exact: true }),
    line: Schema.optionalWith(Schema.Number, { exact: true })
  }),
  Schema.Struct({ type: Schema.Literal("default") }),
  Schema.Struct({ type: Schema.Literal("override") })
)
/**
 * @since 0.1.0
 * @category models
 */
export type Origin = typeof Origin.Type

/**
 * The place as text: `resources/application-db.yaml:3:9`, `variable REDIS_PORT`, `variable REDIS_PORT (.env:2)`.
 *
 * @since 0.1.0
 * @category formatting
 */
export const formatOrigin = (origin: Origin): string => {
  switch (origin.type) {
    case "file":
      return `${origin.file}:${origin.line}:${origin.column}`
    case "environment":
      return origin.file === undefined
        ? `variable ${origin.variable}`
        : `variable ${origin.variable} (${origin.file}${origin.line === undefined ? "" : `:${origin.line}`})`
    case "default":
      return "default"
    case "override":
      return "override"
  }
}

/**
 * One thing that is wrong. `syntax`: a file cannot be parsed; `reference`: a `${…}` cannot be understood; `unreadable`: a
 * file cannot be read; `missing`: a required setting has no value; `invalid`: it has one that does not fit. `found`
 * describes the value ("text of 3 characters") without showing it.
 *
 * @since 0.1.0
 * @category models
 */
export const Problem = Schema.Struct({
  reason: Schema.Literal("syntax", "reference", "unreadable", "missing", "invalid"),
  path: Schema.String,
  origin: Schema.optionalWith(Origin, { exact: true }),
  expected: Schema.optionalWith(Schema.String, { exact: true }),
  found: Schema.optionalWith(Schema.String, { exact: true }),
  detail: Schema.optionalWith(Schema.String, { exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export type Problem = typeof Problem.Type

/**
 * The problem as one line.
 *
 * @since 0.1.0
 * @category formatting
 */
export const formatProblem = (problem: Problem): string => {
  const place = problem.origin === undefined ? [] : [formatOrigin(problem.origin)]
  const path = problem.path === "" ? [] : [problem.path]
  const parts: Array<string> = []
  if (problem.reason === "missing") {
    parts.push(problem.expected === undefined ? "missing" : `missing, expected ${problem.expected}`)
  } else if (problem.expected !== undefined) {
    parts.push(`expected ${problem.expected}${problem.found === undefined ? "" : `, found ${problem.found}`}`)
  }
  if (problem.detail !== undefined) {
    parts.push(problem.detail)
  }
  return [...place, ...path, parts.join("; ")].join(": ")
}

/**
 * The settings cannot be used. Holds every problem that was found; the message lists them, one a line.
 *
 * @since 0.1.0
 * @category errors
 */
export class SettingsError extends Schema.TaggedError<SettingsError>("@underlay/core/SettingsError")("SettingsError", {
  problems: Schema.Array(Problem)
}) {
  /** A wrong setting stays wrong until someone changes it. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    const count = this.problems.length
    const lines = this.problems.map((problem) => `  - ${formatProblem(problem)}`)
    return [`${count} ${count === 1 ? "problem" : "problems"} in the settings:`, ...lines].join("\n")
  }
}
