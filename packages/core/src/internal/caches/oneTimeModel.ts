/**
 * The models and the error of one-time stores, which the public module gives on.
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * Why a one-time store, or what is made on it, could not do what it was asked.
 *
 * - `InvalidOptions`, `InvalidKey`, `InvalidValue`: the argument cannot be accepted; nothing was sent.
 * - `Corrupt`: what was kept is not what it should be, for it was written by something else.
 * - `Unavailable`, `Timeout`: the store cannot be reached, or did not answer in time.
 * - `Rejected`: the store answered with a refusal.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidOptions",
  "InvalidKey",
  "InvalidValue",
  "Corrupt",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a one-time store, a confirmation cache or a sign-up cache. That a code is wrong, or that there is none, is
 * no failure but an answer. The message never holds a key, a code or what was kept.
 *
 * @since 0.1.0
 * @category errors
 */
export class OneTimeStoreError extends Schema.TaggedError<OneTimeStoreError>("@underlay/core/state/OneTimeStoreError")(
  "OneTimeStoreError",
  {
    reason: Reason,
    method: Schema.String,
    description: Schema.String,
    outcome: Schema.Literal("not-done", "unknown"),
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `${this.method}: ${this.description}${unknown}`
  }

  /** Whether the same call can be made again: one whose outcome is unknown may have used up a code or a try. */
  get isRetryable(): boolean {
    return (this.reason === "Unavailable" || this.reason === "Timeout") && this.outcome === "not-done"
  }
}

/**
 * An entry to keep: a text that is given out once, to who has its token. Times are whole milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Entry {
  /** Letters, digits and `:._-`; no secret and nothing personal. */
  readonly key: string
  /** What who takes it must have: a hash, never the secret itself. */
  readonly token: string
  readonly text: string
  readonly ttl: number
  /** How many wrong tokens are allowed; with the last of them the entry is shut. None: any number. */
  readonly tries?: number | undefined
  /** What happens when there is an entry that is not expired: it stays, or this one takes its place. */
  readonly present: "keep" | "replace"
  /** How long after an entry of the key was kept none is, unless that was taken meanwhile. 0: no pause. */
  readonly pause: number
  /** How many entries of the key are kept in a time that begins with the first of them. */
  readonly quota?: { readonly limit: number; readonly within: number } | undefined
}

/**
 * What became of an entry: kept; refused because there is one (`Present`), for `left` milliseconds at the most; or refused
 * because there were others before it (`Throttled`), for `left` milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export type Put =
  | { readonly _tag: "Put" }
  | { readonly _tag: "Present"; readonly left: number }
  | { readonly _tag: "Throttled"; readonly left: number }

/**
 * What was found under a token. `Taken`: it was the right one, and the entry is gone. `Wrong`: it was not, and so many
 * tries are left (infinite where they are not counted). `Exhausted`: there are none left; the token was not looked at.
 *
 * @since 0.1.0
 * @category models
 */
export type Taken =
  | { readonly _tag: "Taken"; readonly text: string }
  | { readonly _tag: "Wrong"; readonly triesLeft: number }
  | { readonly _tag: "Exhausted" }
  | { readonly _tag: "Absent" }

/**
 * What is seen without taking it: only who has the token sees it, and a wrong one is not counted.
 *
 * @since 0.1.0
 * @category models
 */
export type Seen = { readonly text: string; readonly left: number } | undefined

/**
 * What a one-time store does. Each operation is one atomic step: of any number of callers at once no more than the
 * allowed tries are compared, and at most one takes the entry.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  readonly put: (entry: Entry) => Effect.Effect<Put, OneTimeStoreError>
  readonly take: (key: string, token: string) => Effect.Effect<Taken, OneTimeStoreError>
  /** For tokens that cannot be guessed: it counts nothing, and an entry whose tries are counted is not seen. */
  readonly peek: (key: string, token: string) => Effect.Effect<Seen, OneTimeStoreError>
  /**
   * Drops the entry, and says whether there was one. With a token: only if it is the entry's. The pause and what was
   * counted of the key's entries stay.
   */
  readonly drop: (key: string, token: string | undefined) => Effect.Effect<boolean, OneTimeStoreError>
}
