/**
 * `ExternalClient` for HTTP: every request is watched, its attempts are child spans, and `traceparent` and the
 * correlation id go out on each of them.
 *
 * @since 0.1.0
 */
import * as Headers from "@effect/platform/Headers"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as UrlParams from "@effect/platform/UrlParams"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as CurrentCall from "../internal/external/currentCall.ts"
import { onceOf } from "../internal/external/onceBody.ts"
import { shownExit } from "../internal/external/shownExit.ts"
import * as shownUrl from "../internal/external/shownUrl.ts"
import * as Correlation from "../operations/Correlation.ts"
import * as Redaction from "../operations/Redaction.ts"
import type { PolicyError } from "../resilience/Policy.ts"
import * as ExternalClient from "./ExternalClient.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends ExternalClient.Options {
  /** Put before the URL of every request. */
  readonly baseUrl?: string | undefined
  /** Set on every request. They never show in spans or log lines. */
  readonly headers?: Headers.Input | undefined
  /** Which statuses are successes; all others fail with `ResponseError`. By default those from 200 to 299. */
  readonly acceptStatus?: ((status: number) => boolean) | undefined
  /** The name of the call that a request on its own is. By default its method. */
  readonly operation?: ((request: HttpClientRequest.HttpClientRequest) => string) | undefined
  /**
   * Whether a request on its own may be sent twice. By default as `operations` says of its operation, else by its method,
   * or if it has an `idempotency-key` header.
   */
  readonly idempotent?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
}

/**
 * What a request on its own fails with.
 *
 * @since 0.1.0
 * @category errors
 */
export type HttpError = HttpClientError.HttpClientError | PolicyError

/**
 * An `ExternalClient` with the client that its calls send their requests with.
 *
 * Within `call` and `stream` of this handle a request through `client` is one attempt of that call: a child span, with no
 * policy of its own. Anywhere else a request is a call by itself, with all that belongs to one. A status that is not
 * accepted fails with `ResponseError`, whose `response.text` and `response.json` can still be read (the first mebibyte of
 * the body, and what of it came within two seconds).
 *
 * Every request carries the `traceparent` of its span or, where the tracer is switched off, of the nearest span around it
 * that has an id. Where there is none, none is made up: it would name a trace that nobody records, and decide for the
 * service whether its own is sampled. The correlation id goes out in any case.
 *
 * @since 0.1.0
 * @category models
 */
export interface ExternalHttp extends ExternalClient.ExternalClient {
  /**
   * An ordinary `HttpClient`. Failures of the policy (an open circuit, a timeout), which only a request on its own can
   * meet, show as `RequestError` of reason `Transport` with them as its cause.
   */
  readonly client: HttpClient.HttpClient
  /** One request, with the failures of the policy as they are. */
  readonly execute: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, HttpError>
}

const idempotentMethods: ReadonlySet<string> = new Set(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])

const mayRepeat = (request: HttpClientRequest.HttpClientRequest): boolean =>
  idempotentMethods.has(request.method) || Headers.has(request.headers, "idempotency-key")

/**
 * Makes a handle on the `HttpClient` that is in the context. Settings of a policy that cannot work are a defect here;
 * where they come from outside, make the policy with `Policy.make`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<ExternalHttp, never, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    // Its own span would show the whole URL; ours takes its place.
    const transport = HttpClient.withTracerDisabledWhen(yield* HttpClient.HttpClient, () => true)
    const external = yield* ExternalClient.make(options)
    const operation = options.operation ?? ((request) => request.method)
    const { idempotent, operations } = options
    // What the operation says of all its requests goes before what their method tells.
    const repeats = (name: string, request: HttpClientRequest.HttpClientRequest): boolean =>
      // What can be read once cannot be sent twice, whatever else is said.
      onceOf(request.body) !== undefined
        ? false
        : idempotent !== undefined
          ? idempotent(request)
          : ((operations !== undefined && Object.hasOwn(operations, name) ? operations[name]?.idempotent : undefined) ??
            mayRepeat(request))
    const accept = options.acceptStatus ?? ((status) => status >= 200 && status < 300)
    const prepare = (request: HttpClientRequest.HttpClientRequest): HttpClientRequest.HttpClientRequest => {
      const located = options.baseUrl === undefined ? request : HttpClientRequest.prependUrl(request, options.baseUrl)
      // What the request itself says comes before what all of them say.
      return options.headers === undefined
        ? located
        : HttpClientRequest.setHeaders(located, Headers.merge(Headers.fromInput(options.headers), located.headers))
    }
    const execute = (
      request: HttpClientRequest.HttpClientRequest
    ): Effect.Effect<HttpClientResponse.HttpClientResponse, HttpError> =>
      Effect.withFiberRuntime((fiber) => {
        const current = Context.get(fiber.currentContext, CurrentCall.Current)
        if (current !== undefined && current.owner === external && !current.over) {
          return attempt(transport, prepare(request), current, accept)
        }
        const name = operation(request)
        return external.call(
          name,
          Effect.flatMap(CurrentCall.Current, (call) => attempt(transport, prepare(request), call, accept)),
          { idempotent: repeats(name, request) }
        ) as Effect.Effect<HttpClientResponse.HttpClientResponse, HttpError>
      })
    return {
      service: external.service,
      policy: external.policy,
      get breaker() {
        return external.breaker
      },
      inFlight: external.inFlight,
      call: external.call,
      stream: external.stream,
      execute,
      client: HttpClient.makeWith<never, never, HttpClientError.HttpClientError, never>(
        Effect.flatMap((request) =>
          Effect.catchIf(execute(request), isPolicyError, (cause) =>
            Effect.fail(new HttpClientError.RequestError({ request, reason: "Transport", cause }))
          )
        ),
        Effect.succeed
      )
    }
  })

/**
 * Watches the `HttpClient` below it: everything above sends its requests through this service's policy.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<HttpClient.HttpClient, never, HttpClient.HttpClient> =>
  Layer.scoped(
    HttpClient.HttpClient,
    Effect.map(make(options), (external) => external.client)
  )

const isPolicyError = (error: HttpError): error is PolicyError => !HttpClientError.isHttpClientError(error)

/** One request, under a span of its own. */
const attempt = (
  transport: HttpClient.HttpClient,
  request: HttpClientRequest.HttpClientRequest,
  call: CurrentCall.CurrentCall | undefined,
  accept: (status: number) => boolean
): Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Correlation.annotateRequest(request), (annotated) => {
      const attributes = attributesOf(request, call)
      return Effect.flatMap(
        Effect.makeSpan(request.method, { kind: "client", captureStackTrace: false, attributes }),
        (span) => {
          if (call !== undefined) call.requests++
          const traceparent = traceparentOf(span)
          return transport
            .execute(
              traceparent === undefined ? annotated : HttpClientRequest.setHeader(annotated, "traceparent", traceparent)
            )
            .pipe(
              Effect.flatMap((response) => {
                span.attribute("http.response.status_code", response.status)
                return accept(response.status) ? Effect.succeed(response) : refuse(request, response, span)
              }),
              Effect.provideService(Tracer.ParentSpan, span),
              restore,
              Effect.matchCauseEffect({
                onFailure: (cause) => {
                  if (!span.attributes.has("error.type") && !Cause.isInterruptedOnly(cause)) {
                    span.attribute("error.type", Redaction.error(Cause.squash(cause)).tag)
                  }
                  return ended(span, Exit.failCause(cause))
                },
                onSuccess: (response) => ended(span, Exit.succeed(response))
              })
            )
        }
      )
    })
  )

const ended = <A, E>(span: Tracer.Span, exit: Exit.Exit<A, E>): Effect.Effect<A, E> =>
  Effect.flatMap(Clock.currentTimeNanos, (now) => {
    span.end(now, shownExit(exit))
    return exit
  })

/** How much is kept of the body of an error, and how long is waited for it. */
const maxErrorBody = 1_048_576
const maxErrorWait = "2 seconds"

/** Statuses that cannot have a body. */
const bodiless: ReadonlySet<number> = new Set([101, 103, 204, 205, 304])

/**
 * The status as an error. Its body is read now: it is kept with the response, so that it can be read from the error, and
 * the connection is free again for the next attempt.
 */
const refuse = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse,
  span: Tracer.Span
): Effect.Effect<never, HttpClientError.ResponseError> => {
  span.attribute("error.type", String(response.status))
  return Effect.flatMap(kept(response), (body) =>
    Effect.fail(
      new HttpClientError.ResponseError({
        request,
        response:
          bodiless.has(response.status) || response.status < 200 || response.status > 599
            ? response
            : HttpClientResponse.fromWeb(
                request,
                new Response(body, { status: response.status, headers: response.headers })
              ),
        reason: "StatusCode",
        description: "the service answered with an error"
      })
    )
  )
}

/** The first part of the body, whatever becomes of the rest. */
const kept = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<Uint8Array<ArrayBuffer>> =>
  Effect.suspend(() => {
    const parts: Array<Uint8Array> = []
    let size = 0
    return response.stream.pipe(
      Stream.takeUntil((part) => {
        parts.push(part.subarray(0, maxErrorBody - size))
        size = Math.min(maxErrorBody, size + part.length)
        return size === maxErrorBody
      }),
      Stream.runDrain,
      Effect.timeoutOption(maxErrorWait),
      Effect.ignore,
      Effect.map(() => {
        const body = new Uint8Array(size)
        let at = 0
        for (const part of parts) {
          body.set(part, at)
          at += part.length
        }
        return body
      })
    )
  })

const attributesOf = (
  request: HttpClientRequest.HttpClientRequest,
  call: CurrentCall.CurrentCall | undefined
): Record<string, unknown> => {
  const attributes: Record<string, unknown> = { "http.request.method": request.method }
  if (call !== undefined && call.requests > 0) attributes["http.request.resend_count"] = call.requests
  const place = placeOf(request)
  if (place === undefined) return attributes
  attributes["server.address"] = place.address
  attributes["server.port"] = place.port
  attributes["url.full"] = place.full
  return attributes
}

/** Where a request goes, as it may be shown. */
interface Place {
  readonly address: string
  readonly port: number
  readonly full: string
}

// To tell what of a URL may be shown costs as much as the rest of an attempt, and a few are asked for again and again. One
// that has something to hide is not kept.
const places = new Map<string, Place>()
const maxPlaces = 500

const placeOf = (request: HttpClientRequest.HttpClientRequest): Place | undefined => {
  // Parameters and a fragment are no part of the key.
  const whole = request.urlParams.length === 0 && Option.isNone(request.hash)
  const known = whole ? places.get(request.url) : undefined
  if (known !== undefined) return known
  const made = UrlParams.makeUrl(request.url, request.urlParams, request.hash)
  if (Either.isLeft(made)) return undefined
  const url = made.right
  const place: Place = {
    address: url.hostname,
    port: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port),
    full: shownUrl.show(url)
  }
  const hidesNothing = whole && place.full === url.href && request.url.length <= 500
  if (hidesNothing && places.size < maxPlaces) places.set(request.url, place)
  return place
}

const traceIdForm = /^(?!0{32})[0-9a-f]{32}$/
const spanIdForm = /^(?!0{16})[0-9a-f]{16}$/

/** The nearest span that the W3C format can name: spans of a disabled tracer have no ids, those from outside no parent. */
const traceparentOf = (span: Tracer.Span): string | undefined => {
  for (let current: Tracer.AnySpan | undefined = span; current !== undefined; ) {
    if (traceIdForm.test(current.traceId) && spanIdForm.test(current.spanId)) {
      return `00-${current.traceId}-${current.spanId}-${current.sampled ? "01" : "00"}`
    }
    current = current._tag === "Span" && current.parent._tag === "Some" ? current.parent.value : undefined
  }
  return undefined
}
