/**
 * The one error of language models. Its `reason` says what went wrong, `isRetryable` whether the same request may succeed
 * when it is sent again, and its message never holds prompts, answers or keys.
 *
 * @since 0.1.0
 */
import * as Withheld from "@underlay/core/connection/Withheld"
import * as Duration from "effect/Duration"
import { NodeInspectSymbol } from "effect/Inspectable"
import * as Schema from "effect/Schema"
import { PartialResponse, RateLimits, Usage } from "./LlmResponse.ts"

/**
 * What went wrong.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "RateLimited",
  "QuotaExhausted",
  "Overloaded",
  "ContextLengthExceeded",
  "ContentFiltered",
  "Authentication",
  "PermissionDenied",
  "InvalidRequest",
  "NotFound",
  "ServerError",
  "Timeout",
  "Network",
  "StreamTruncated",
  "MalformedResponse",
  "BudgetExceeded",
  "CircuitOpen",
  "Unknown"
)
/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

const advice: { readonly [K in Reason]: string } = {
  RateLimited: "too many requests or tokens for now",
  QuotaExhausted: "the account's quota or credit is used up; look at its billing",
  Overloaded: "the provider is overloaded",
  ContextLengthExceeded: "the request is longer than the model's context window; shorten the conversation",
  ContentFiltered: "the provider's content filter or the model refused",
  Authentication: "the API key is missing, wrong or expired",
  PermissionDenied: "the API key may not do this",
  InvalidRequest: "the provider does not accept this request",
  NotFound: "no such model or address; look at the model's name and the base URL",
  ServerError: "the provider failed",
  Timeout: "the provider took too long",
  Network: "the provider could not be reached",
  StreamTruncated: "the answer broke off before its end",
  MalformedResponse: "the answer is not what the protocol or the schema allows",
  BudgetExceeded: "the budget for language models is used up",
  CircuitOpen: "the provider failed too often lately and is left alone for a while",
  Unknown: "the provider answered something unexpected"
}

const fields = {
  reason: Reason,
  method: Schema.String,
  provider: Schema.String,
  model: Schema.optional(Schema.String),
  status: Schema.optional(Schema.Number),
  code: Schema.optional(Schema.String),
  providerMessage: Schema.optional(Schema.String),
  issue: Schema.optional(Schema.String),
  retryable: Schema.Boolean,
  retryAfter: Schema.optional(Schema.DurationFromMillis),
  midStream: Schema.Boolean,
  limit: Schema.optional(Schema.Number),
  actual: Schema.optional(Schema.Number),
  partial: Schema.optional(PartialResponse),
  usage: Schema.optional(Usage),
  rateLimits: Schema.optional(RateLimits),
  cause: Schema.optional(Schema.Defect)
}

/** Fields that are read by their names and shown by nothing: `Cause.prettyErrors` copies what is enumerable. */
const hidden = ["providerMessage", "partial"] as const

/**
 * A language model that could not answer.
 *
 * - `method`: what was asked: `generate`, `stream`, `generateObject`, `countTokens`, `embed`, `health`.
 * - `retryable`, `retryAfter`: whether and how soon the same request may succeed; false once any part of a streamed
 *   answer had arrived, because a second one would repeat it.
 * - `midStream`: it came after a streamed answer had begun.
 * - `status`, `code`: the HTTP status and the provider's own code or type of the error.
 * - `providerMessage`: the provider's words. They may quote the request, so they are left out of `message`, of
 *   `toJSON` and of what is printed; show them to people, do not log them.
 * - `issue`: what did not fit or was found (paths in an answer, categories of a content filter, a limit of time), never a
 *   value.
 * - `limit`, `actual`: for `ContextLengthExceeded`, in tokens, where the provider says them.
 * - `partial`, `usage`: what had arrived of a streamed answer.
 * - `rateLimits`: what the provider says of its limits, where it does.
 * - `cause`: what was thrown below, without its words, which may quote the request, the answer or a key: nothing of it is
 *   printed but its name, its code and where it came from. `original` is the error itself.
 *
 * `providerMessage` and `partial` are not enumerable either: `with` takes them along, a spread does not.
 *
 * @since 0.1.0
 * @category errors
 */
export class LlmError extends Schema.TaggedError<LlmError>("@underlay/llm/LlmError")("LlmError", fields) {
  // Decoding goes through here with the same arguments. Anywhere later is too late: the schema's class keeps what it is given.
  // @effect-diagnostics-next-line overriddenSchemaConstructor:off
  constructor(properties: Schema.Struct.Constructor<typeof fields>, options?: Schema.MakeOptions) {
    super(
      properties.cause === undefined ? properties : { ...properties, cause: Withheld.withhold(properties.cause) },
      options
    )
    for (const name of hidden) if (name in this) Object.defineProperty(this, name, { enumerable: false })
  }

  /** The same error with some fields changed; its cause stays. */
  with(changes: Partial<ConstructorParameters<typeof LlmError>[0]>): LlmError {
    const { cause, partial, providerMessage } = this
    return new LlmError({
      ...this,
      ...(providerMessage === undefined ? {} : { providerMessage }),
      ...(partial === undefined ? {} : { partial }),
      ...(cause === undefined ? {} : { cause }),
      ...changes
    })
  }

  /** What was thrown below, with its words, which may quote the request, the answer or a key: do not log it. */
  get original(): unknown {
    return Withheld.originalOf(this.cause)
  }

  /** Whether the same request, sent again unchanged, may succeed and repeats nothing. */
  get isRetryable(): boolean {
    return this.retryable
  }

  /** How `@underlay/core` treats it: waits for rate limits, retries what is transient, gives up at once otherwise. */
  get errorClass(): "transient" | "rate-limited" | "permanent" {
    if (!this.retryable) return "permanent"
    return this.reason === "RateLimited" ? "rate-limited" : "transient"
  }

  /** Whether it is a refusal of our own: the provider was not asked. */
  get rejection(): boolean {
    return (
      this.reason === "CircuitOpen" ||
      (typeof this.cause === "object" &&
        this.cause !== null &&
        (this.cause as { readonly rejection?: unknown }).rejection === true)
    )
  }

  override get message(): string {
    const where = this.model === undefined ? this.provider : `${this.provider} ${this.model}`
    const facts: Array<string> = []
    if (this.status !== undefined) facts.push(`HTTP ${this.status}`)
    if (this.code !== undefined) facts.push(this.code)
    if (this.issue !== undefined) facts.push(this.issue)
    if (this.limit !== undefined) facts.push(`limit ${this.limit} tokens`)
    if (this.actual !== undefined) facts.push(`got ${this.actual} tokens`)
    if (this.retryAfter !== undefined) facts.push(`try again in ${Duration.toMillis(this.retryAfter)} ms`)
    const detail = facts.length === 0 ? "" : ` (${facts.join(", ")})`
    return `${where}: ${this.method}: ${this.reason}: ${advice[this.reason]}${detail}`
  }

  /** Everything that is safe to log: nothing of the request, of the answer or in the provider's words. */
  override toJSON(): unknown {
    return {
      _tag: this._tag,
      reason: this.reason,
      method: this.method,
      provider: this.provider,
      model: this.model,
      status: this.status,
      code: this.code,
      issue: this.issue,
      retryable: this.retryable,
      retryAfterMs: this.retryAfter === undefined ? undefined : Duration.toMillis(this.retryAfter),
      midStream: this.midStream,
      limit: this.limit,
      actual: this.actual,
      usage: this.usage,
      rateLimits: this.rateLimits,
      message: this.message
    }
  }

  override toString(): string {
    return `LlmError: ${this.message}`
  }

  override [NodeInspectSymbol](): unknown {
    return this.toJSON()
  }
}
