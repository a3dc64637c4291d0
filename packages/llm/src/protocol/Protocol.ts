/**
 * What a wire format is to the rest of this package: requests out, whole answers, streamed answers and errors in. For
 * those who write a provider with a format of its own.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type CallContext, envelopeOfBody, errorOf, type ResponseHeaders } from "../internal/classify.ts"
import { rateLimitsOf, withRateLimits } from "../internal/rateLimits.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmResponse, LlmStreamPart, PartialResponse, Usage } from "../LlmResponse.ts"

/**
 * Who is asked for what: goes into every error.
 *
 * @since 0.1.0
 * @category models
 */
export type { CallContext, ResponseHeaders }

/**
 * How a request is to be written: for `model` (which the request may override), streamed or not; `method` goes into errors.
 *
 * @since 0.1.0
 * @category models
 */
export interface EncodeOptions {
  readonly model: string
  readonly stream: boolean
  readonly method: string
}

/**
 * A wire format.
 *
 * - `encode` gives the JSON body of a request, or fails with `InvalidRequest` for what the format cannot carry.
 * - `decode` reads a whole answer; a body that is an error in spite of its status fails with that error, anything else
 *   that the format does not allow with `MalformedResponse`.
 * - `makeStreamDecoder` begins to read a streamed answer.
 * - `amend` is there for formats whose requests hold what some servers and models refuse.
 *
 * @since 0.1.0
 * @category models
 */
export interface Protocol {
  readonly encode: (request: LlmRequest, options: EncodeOptions) => Either.Either<string, LlmError>
  readonly decode: (body: string, context: CallContext) => Either.Either<LlmResponse, LlmError>
  readonly makeStreamDecoder: (context: CallContext) => StreamDecoder
  /**
   * What is asked in the place of a request that the server refused for something it can do without (a hint, reasoning of
   * before), and at once; `undefined` for every other error. What a model does not know may be remembered.
   */
  readonly amend?:
    | ((error: LlmError, request: LlmRequest, options: { readonly model: string }) => LlmRequest | undefined)
    | undefined
  /**
   * How the format wants the properties of an object that may be left out, where a model is to be held to a schema: as
   * required ones that may be null, or (by default) as they are.
   */
  readonly optionalProperties?: "nullable" | undefined
}

/**
 * Decodes one streamed answer that is pushed in as bytes. Mutable, since it runs for every chunk.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamDecoder {
  /** Takes bytes; gives the parts that they complete. */
  readonly push: (bytes: Uint8Array) => ReadonlyArray<LlmStreamPart>
  /** The body has ended: gives the last parts. */
  readonly end: () => ReadonlyArray<LlmStreamPart>
  /** Why the stream failed, once it has: nothing that comes after counts. */
  readonly failure: () => LlmError | undefined
  /** The connection broke: the error to fail with, or `undefined` if the answer was already whole. */
  readonly broken: (cause: LlmError) => LlmError | undefined
  /** Whether the finish has been seen, so that nothing but usage can come. */
  readonly finished: () => boolean
  /** Whether the last word of the stream has been seen. */
  readonly done: () => boolean
  /** What has arrived so far. */
  readonly partial: () => PartialResponse
  /** What the provider has said of the usage so far. */
  readonly usage: () => Usage
  /**
   * A number that grows when the provider shows that it is at work though it has nothing to hand on: reasoning that it does
   * not show, tools that it runs itself, usage that grows. Pings leave it as it is. By default only parts count.
   */
  readonly progress?: (() => number) | undefined
}

/**
 * The error in a response of status 400 or above, whatever the format: one table for the envelopes of all providers, for
 * plain text and for the pages of gateways. `now` (milliseconds) is what dates in `retry-after` are counted from.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeError = (
  response: { readonly status: number; readonly headers: ResponseHeaders; readonly body: string; readonly now: number },
  context: CallContext
): LlmError =>
  withRateLimits(
    errorOf(envelopeOfBody(response.body, response.headers["content-type"]), {
      context,
      status: response.status,
      midStream: false,
      hadContent: false,
      headers: response.headers,
      now: response.now
    }),
    rateLimitsOf(response.headers, response.now)
  )

/**
 * What a decoder answers when the body fails before the answer is whole: `StreamTruncated` for a connection that broke, and
 * the error itself for a body that knows what went wrong, each with what had arrived.
 *
 * @since 0.1.0
 * @category combinators
 */
export const truncatedBy = (
  cause: LlmError,
  context: CallContext,
  arrived: { readonly hadContent: boolean; readonly partial: PartialResponse; readonly usage: Usage }
): LlmError =>
  cause.reason === "Network"
    ? new LlmError({
        ...context,
        reason: "StreamTruncated",
        status: 200,
        retryable: !arrived.hadContent,
        midStream: true,
        partial: arrived.partial,
        usage: arrived.usage,
        cause: cause.cause ?? cause
      })
    : cause.with({
        retryable: cause.retryable && !arrived.hadContent,
        midStream: true,
        partial: arrived.partial,
        usage: arrived.usage
      })

/** No part, but a sign that the provider is at work. */
const working: Effect.Effect<Chunk.Chunk<LlmStreamPart>> = Effect.succeed(Chunk.empty())

/**
 * Decodes the body of a streamed answer. Text that has arrived is always handed on before the stream fails.
 *
 * A stream that ends before its finish fails with `StreamTruncated`; one that breaks or stalls after it is whole, its usage
 * perhaps unknown. `lastWaitMillis` (by default 2 seconds) is how long the usage and the end are waited for after the
 * finish. The `decoder` can be looked at while the stream runs. A chunk without parts is a sign of life: the provider works.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeStream = (
  body: Stream.Stream<Uint8Array, LlmError>,
  decoder: StreamDecoder,
  options?: { readonly lastWaitMillis?: number | undefined }
): Stream.Stream<LlmStreamPart, LlmError> =>
  Stream.unwrapScoped(Effect.map(decodePull(body, decoder, options), Stream.repeatEffectChunkOption))

/**
 * `decodeStream` as what pulls its chunks, opened in the scope at hand: for those who read it themselves, since a stream
 * within a stream costs more for each chunk than to decode it. It fails with none at the end.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodePull = (
  body: Stream.Stream<Uint8Array, LlmError>,
  decoder: StreamDecoder,
  options?: { readonly lastWaitMillis?: number | undefined }
): Effect.Effect<Effect.Effect<Chunk.Chunk<LlmStreamPart>, Option.Option<LlmError>>, never, Scope.Scope> =>
  Effect.map(Stream.toPull(body), (pull) => {
    const lastWait = options?.lastWaitMillis ?? 2000
    let over = false
    let deadline: number | undefined
    let known = 0

    /** Whether the provider has shown since the last time that it is at work. */
    const progressed = (): boolean => {
      const progress = decoder.progress?.() ?? 0
      if (!(progress > known)) return false
      known = progress
      return true
    }

    const emit = (
      parts: ReadonlyArray<LlmStreamPart>
    ): Effect.Effect<Chunk.Chunk<LlmStreamPart>, Option.Option<LlmError>> => {
      const worked = progressed()
      if (parts.length > 0) return Effect.succeed(Chunk.unsafeFromArray(parts))
      const failure = decoder.failure()
      if (failure !== undefined) return Effect.fail(Option.some(failure))
      if (over) return Effect.fail(Option.none())
      return worked ? working : next
    }

    const onEnd = () => {
      over = true
      return emit(decoder.end())
    }

    const onBytes = (chunk: Chunk.Chunk<Uint8Array>) => {
      const parts: Array<LlmStreamPart> = []
      for (const bytes of chunk) {
        for (const part of decoder.push(bytes)) parts.push(part)
      }
      return emit(parts)
    }

    const onError = (error: Option.Option<LlmError>) => {
      if (Option.isNone(error)) return onEnd()
      over = true
      const failure = decoder.broken(error.value)
      return failure === undefined ? emit(decoder.end()) : Effect.fail(Option.some(failure))
    }

    // After the finish the server has little left to say: one that keeps the connection open must not hold us.
    const last = Effect.flatMap(Clock.currentTimeMillis, (now) => {
      deadline ??= now + lastWait
      return Effect.matchEffect(Effect.timeoutOption(pull, Math.max(0, deadline - now)), {
        onFailure: onError,
        onSuccess: (chunk) => (Option.isNone(chunk) ? onEnd() : onBytes(chunk.value))
      })
    })

    const next: Effect.Effect<Chunk.Chunk<LlmStreamPart>, Option.Option<LlmError>> = Effect.suspend(() => {
      const failure = decoder.failure()
      if (failure !== undefined) return Effect.fail(Option.some(failure))
      if (over) return Effect.fail(Option.none())
      if (decoder.finished() || decoder.done()) return last
      return Effect.matchEffect(pull, { onFailure: onError, onSuccess: onBytes })
    })

    return next
  })
