/**
 * What becomes of a call that fails, whichever layer it fails in: the connection, the provider's answer, or a policy of
 * ours.
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import { BulkheadFull } from "@underlay/core/resilience/Bulkhead"
import { CircuitOpen } from "@underlay/core/resilience/CircuitBreaker"
import * as Policy from "@underlay/core/resilience/Policy"
import { RateLimitExceeded } from "@underlay/core/resilience/RateLimit"
import { CallThrottled } from "@underlay/core/resilience/Throttle"
import { CallTimeout } from "@underlay/core/resilience/Timeout"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { LlmError } from "../LlmError.ts"
import { decodeError, type StreamDecoder } from "../protocol/Protocol.ts"
import type { CallContext } from "./classify.ts"

/** What had arrived of a streamed answer. */
export interface Arrived {
  readonly hadContent: boolean
  readonly decoder: StreamDecoder | undefined
}

/** Settings that cannot work. */
export const unusable = (at: { readonly provider: string; readonly model: string }, issue: string): LlmError =>
  new LlmError({
    reason: "InvalidRequest",
    method: "layer",
    provider: at.provider,
    model: at.model,
    issue,
    retryable: false,
    midStream: false
  })

/** The errors of platform's client hold the request, and with it prompts and keys: only what is below them is kept. */
const causeOf = (error: HttpClientError.HttpClientError): unknown =>
  HttpClientError.isHttpClientError(error.cause) ? undefined : error.cause

/** A connection that could not be made, or broke. */
export const networkError = (error: HttpClientError.HttpClientError, context: CallContext): LlmError =>
  new LlmError({
    ...context,
    reason: "Network",
    retryable: true,
    midStream: false,
    cause: causeOf(error)
  })

const fromHttp = (error: HttpClientError.HttpClientError, context: CallContext): Effect.Effect<LlmError> => {
  if (error._tag === "RequestError") {
    // A client with a policy of its own, put below this one, shows the errors of that policy like this.
    const own = error.reason === "Transport" ? fromPolicy(error.cause, context) : undefined
    if (own !== undefined) return Effect.succeed(own)
    return Effect.succeed(
      error.reason === "Transport"
        ? networkError(error, context)
        : new LlmError({
            ...context,
            reason: "InvalidRequest",
            retryable: false,
            midStream: false,
            issue: "the request could not be built"
          })
    )
  }
  if (error.reason !== "StatusCode") return Effect.succeed(networkError(error, context))
  const { headers, status } = error.response
  return Effect.zipWith(
    Effect.orElseSucceed(error.response.text, () => ""),
    Clock.currentTimeMillis,
    (body, now) => decodeError({ status, headers, body, now }, context)
  )
}

/** The errors of a policy as ours; undefined for all others. `progress` has what had arrived of a streamed answer. */
const fromPolicy = (error: unknown, context: CallContext, progress?: Arrived): LlmError | undefined => {
  if (error instanceof CallTimeout) {
    const decoder = progress?.hadContent === true ? progress.decoder : undefined
    return new LlmError({
      ...context,
      reason: "Timeout",
      retryable: decoder === undefined,
      midStream: decoder !== undefined,
      ...(decoder === undefined ? {} : { status: 200, partial: decoder.partial(), usage: decoder.usage() }),
      // What a piece of a stream was given is what the pieces before it had left.
      issue:
        decoder !== undefined && error.scope === "total"
          ? "the whole call took longer than it may"
          : waits[error.scope](error.limitMillis),
      cause: error
    })
  }
  const refused = (
    reason: LlmError["reason"],
    retryable: boolean,
    issue: string | undefined,
    retryAfter?: Duration.Duration | undefined
  ): LlmError =>
    new LlmError({
      ...context,
      reason,
      retryable,
      midStream: false,
      ...(retryAfter !== undefined && Duration.isFinite(retryAfter) ? { retryAfter } : {}),
      ...(issue === undefined ? {} : { issue }),
      cause: error
    })
  if (error instanceof CircuitOpen) return refused("CircuitOpen", true, undefined, error.retryAfter)
  if (error instanceof RateLimitExceeded) {
    return refused("RateLimited", true, "our own limit, the provider was not asked", error.retryAfter)
  }
  if (error instanceof BulkheadFull) {
    return error.isRetryable
      ? refused("Overloaded", true, "too many calls are in flight here, the provider was not asked")
      : refused("InvalidRequest", false, "the call weighs more than there are places in its bulkhead")
  }
  if (error instanceof CallThrottled) {
    return refused("Overloaded", true, "the provider refuses much lately, so this call was not made")
  }
  if (error instanceof Policy.StageRejected) {
    return refused(
      error.retryAfter === undefined ? "Overloaded" : "RateLimited",
      true,
      `refused by the stage ${error.stage}, the provider was not asked`,
      error.retryAfter
    )
  }
  return undefined
}

/** Any error of a call as ours. `progress` has what had arrived of a streamed answer. */
export const toLlmError = (error: unknown, context: CallContext, progress?: Arrived): Effect.Effect<LlmError> => {
  if (error instanceof LlmError) return Effect.succeed(error)
  if (HttpClientError.isHttpClientError(error)) return fromHttp(error, context)
  const own = fromPolicy(error, context, progress)
  if (own !== undefined) return Effect.succeed(own)
  return Effect.succeed(
    new LlmError({ ...context, reason: "MalformedResponse", retryable: false, midStream: false, cause: error })
  )
}

const waits: { readonly [K in CallTimeout["scope"]]: (limit: number) => string } = {
  attempt: (limit) => `an attempt took longer than ${limit} ms`,
  total: (limit) => `the whole call took longer than ${limit} ms`,
  "first-element": (limit) => `no content within ${limit} ms`,
  idle: (limit) => `no further content within ${limit} ms`
}
