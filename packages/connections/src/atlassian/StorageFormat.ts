/**
 * Confluence's storage format (XHTML with elements of its own) as Markdown, and Markdown as the storage format. What
 * Markdown has no form for is kept inside it, so that it comes back as it was.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * A text that cannot be converted. `Malformed`: the storage format is not well-formed. `TooDeep`, `TooComplex` and
 * `TooLarge`: it would take too long, or more stack than there is; nothing was converted. It holds none of the text.
 *
 * @since 0.1.0
 * @category errors
 */
export class StorageFormatError extends Schema.TaggedError<StorageFormatError>(
  "@underlay/connections/StorageFormatError"
)("StorageFormatError", {
  reason: Schema.Literal("Malformed", "TooDeep", "TooComplex", "TooLarge"),
  method: Schema.Literal("toMarkdown", "fromMarkdown"),
  description: Schema.String,
  /** Where, counted from 1, if there is one place. */
  line: Schema.optionalWith(Schema.Number, { exact: true }),
  column: Schema.optionalWith(Schema.Number, { exact: true })
}) {
  /** The same text gives the same. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    const at = this.line === undefined ? "" : ` (line ${this.line}, column ${this.column ?? 1})`
    return `StorageFormat.${this.method}: ${this.reason}: ${this.description}${at}`
  }
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ToMarkdownOptions {
  /**
   * What becomes of what Markdown has no form for, such as most macros: kept inside the Markdown, in comments and in fenced
   * blocks of the language `confluence-storage`, or its visible text alone. `keep` by default; `text` reads better, for a
   * search index or a model, and does not come back as it was.
   */
  readonly unsupported?: "keep" | "text" | undefined
  /** The longest text that is taken, in UTF-16 units: 5,000,000. */
  readonly maxLength?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface FromMarkdownOptions {
  /**
   * Whether storage format inside the Markdown is taken as such. By default it is. `false` for Markdown of others, such as
   * a model's: no macro comes from it, and it shows as text or code, comments not at all. Links to scripts
   * (`javascript:`, `data:`) are their text alone, and handlers of events are left out.
   */
  readonly raw?: boolean | undefined
  /** The longest text that is taken, in UTF-16 units: 500,000. Parsing takes one to several seconds for each million. */
  readonly maxLength?: number | undefined
}

const helpers = Effect.promise(() => import("../internal/atlassian/storage.ts"))

/**
 * Storage format as Markdown (CommonMark with tables, strikethrough and task lists). Code macros are fenced blocks, info
 * panels are quotes that begin with `[!INFO]`, expand macros are `<details>`, links to pages, users and attachments are
 * links to `confluence:page?content-title=…`, images of attachments are images of `attachment:<name>`. Layouts and macros
 * with a body stay in comments round what they hold, other macros as they are in a fenced block or a comment.
 *
 * Gone are: attributes of elements that Markdown has itself (styles, ids), columns' widths, ids of tasks and of code and
 * panel macros, empty paragraphs. A table with merged cells, blocks in cells or headers in other places than its first row
 * is kept as it is.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toMarkdown = (
  storage: string,
  options: ToMarkdownOptions = {}
): Effect.Effect<string, StorageFormatError> =>
  Effect.flatMap(helpers, (helper) =>
    attempt("toMarkdown", helper, () => helper.toMarkdown(storage, options.unsupported ?? "keep", options.maxLength))
  )

/**
 * Markdown as storage format. HTML in it is taken as far as the storage format has it, else as text; link definitions are
 * resolved; footnotes are text. Its one form (`fromMarkdown(toMarkdown(storage))`) is what documents have that were
 * converted once: from there on both directions are each other's inverse.
 *
 * @since 0.1.0
 * @category conversions
 */
export const fromMarkdown = (
  markdown: string,
  options: FromMarkdownOptions = {}
): Effect.Effect<string, StorageFormatError> =>
  Effect.flatMap(helpers, (helper) =>
    attempt("fromMarkdown", helper, () => helper.fromMarkdown(markdown, options.raw ?? true, options.maxLength))
  )

const attempt = (
  method: "toMarkdown" | "fromMarkdown",
  helper: typeof import("../internal/atlassian/storage.ts"),
  f: () => string
): Effect.Effect<string, StorageFormatError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(f())
    } catch (error) {
      if (!(error instanceof helper.Refused)) return Effect.die(error)
      return Effect.fail(
        new StorageFormatError({
          reason: error.reason,
          method,
          description: error.message,
          ...(error.line === undefined ? {} : { line: error.line }),
          ...(error.column === undefined ? {} : { column: error.column })
        })
      )
    }
  })
