/**
 * Our errors as those of `@effect/ai`: each keeps the error that it was as its `cause`.
 */
import * as AiError from "@effect/ai/AiError"
import type { EmbeddingsError } from "@underlay/core/storage/Embeddings"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import { LlmError, type Reason } from "../LlmError.ts"

/** Where an error is said to come from. */
export interface Origin {
  readonly module: string
  readonly method: string
}

/** Our errors do not know the address that was asked: what stands in its place names the provider and the model. */
const requestOf = (error: LlmError): typeof AiError.HttpRequestDetails.Type => ({
  method: "POST",
  url: `llm://${error.provider}${error.model === undefined ? "" : `/${error.model}`}`,
  urlParams: [],
  hash: Option.none(),
  headers: {}
})

/** How long to wait, in the headers in which clients look for it, wherever the provider said it. */
const headersOf = ({ retryAfter }: LlmError): Readonly<Record<string, string>> => {
  if (retryAfter === undefined || !Duration.isFinite(retryAfter)) return {}
  const millis = Math.ceil(Duration.toMillis(retryAfter))
  return { "retry-after": String(Math.ceil(millis / 1000)), "retry-after-ms": String(millis) }
}

/** An error of a kind that has no field for its cause gets one, as every `Error` may have. */
const withCause = <E extends object>(error: E, cause: unknown): E =>
  Object.defineProperty(error, "cause", { value: cause, enumerable: false, writable: true, configurable: true })

const unreached: ReadonlySet<Reason> = new Set(["Network", "Timeout"])
const bad: ReadonlySet<Reason> = new Set(["MalformedResponse", "StreamTruncated"])

/** Messages of ours hold nothing of the request or the answer, and no more do these. */
export const fromLlmError = (error: LlmError, origin: Origin): AiError.AiError => {
  const description = error.message
  const { status } = error
  if (status !== undefined && status >= 400) {
    const made = new AiError.HttpResponseError({
      ...origin,
      reason: "StatusCode",
      description,
      request: requestOf(error),
      response: { status, headers: headersOf(error) }
    })
    return withCause(made, error)
  }
  const facts = { ...origin, description, cause: error }
  if (bad.has(error.reason)) return new AiError.MalformedOutput(facts)
  if (error.midStream) return new AiError.UnknownError(facts)
  if (unreached.has(error.reason)) {
    return new AiError.HttpRequestError({ ...facts, reason: "Transport", request: requestOf(error) })
  }
  return error.reason === "InvalidRequest" ? new AiError.MalformedInput(facts) : new AiError.UnknownError(facts)
}

/** The same of embeddings. */
export const fromEmbeddingsError = (error: EmbeddingsError, origin: Origin): AiError.AiError => {
  const { cause, message: description } = error
  if (cause instanceof LlmError && cause.status !== undefined && cause.status >= 400) {
    return withCause(fromLlmError(cause, origin), error)
  }
  const facts = { ...origin, description, cause: error }
  switch (error.reason) {
    case "InvalidRequest":
    case "ContextLengthExceeded":
      return new AiError.MalformedInput(facts)
    case "MalformedResponse":
      return new AiError.MalformedOutput(facts)
    default:
      return new AiError.UnknownError(facts)
  }
}

/** What did not fit, by path and kind only. */
export const pathsOf = (issue: ParseResult.ParseIssue): string => {
  const places = ParseResult.ArrayFormatter.formatIssueSync(issue).map(
    ({ _tag, path }) => `${path.length === 0 ? "the root" : path.map(String).join(".")}: ${_tag}`
  )
  return [...new Set(places)].slice(0, 10).join("; ")
}
