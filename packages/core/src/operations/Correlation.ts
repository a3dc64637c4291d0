/**
 * The id that ties together everything done for one request: taken from a header or made, kept in a reference, put on
 * every log line and span, and sent on to other services.
 *
 * @since 0.1.0
 */
import * as Headers from "@effect/platform/Headers"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import { dual } from "effect/Function"
import * as HashMap from "effect/HashMap"
import * as HashSet from "effect/HashSet"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"

/**
 * The id of the work that is being done, if it has one. It is read at the time of the call and inherited by child
 * fibers; nothing may capture it when a layer is built.
 *
 * @since 0.1.0
 * @category references
 */
export class Current extends Context.Reference<Current>()("@underlay/core/Correlation/Current", {
  defaultValue: (): Option.Option<string> => Option.none()
}) {}

/**
 * The id of the work that is being done, as a plain effect. (`Current` is a class, which functions like `Effect.andThen`
 * take for a function to call.)
 *
 * @since 0.1.0
 * @category accessors
 */
export const current: Effect.Effect<Option.Option<string>> = Effect.map(Current, (id) => id)

/**
 * The header that carries the id, in and out: `x-correlation-id`.
 *
 * @since 0.1.0
 * @category constants
 */
export const header = "x-correlation-id"

/**
 * The name of the id among the annotations of a log line.
 *
 * @since 0.1.0
 * @category constants
 */
export const logAnnotation = "correlationId"

/**
 * The name of the id among the attributes of a span.
 *
 * @since 0.1.0
 * @category constants
 */
export const spanAttribute = "correlation.id"

/**
 * The longest id that is accepted from outside, in characters.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxLength = 128

const token = /^[A-Za-z0-9][A-Za-z0-9._:+/=@-]*$/

/**
 * The candidate itself if it is safe to log and to send on: 1 to 128 characters, letters, digits and `. _ : + / = @ -`,
 * beginning with a letter or a digit. Everything else (line breaks, markup, blanks, floods) is refused.
 *
 * @since 0.1.0
 * @category constructors
 */
export const accept = (candidate: string | null | undefined): Option.Option<string> =>
  typeof candidate === "string" && candidate.length <= maxLength && token.test(candidate)
    ? Option.some(candidate)
    : Option.none()

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0")

/**
 * Makes a new id, a UUID of version 7: the time first, so that ids sort by it, then 74 random bits. It is driven by
 * `Clock` and `Random`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<string> = Effect.gen(function* () {
  const time = hex(yield* Clock.currentTimeMillis, 12)
  const a = yield* Random.nextIntBetween(0, 0x1000)
  const b = yield* Random.nextIntBetween(0, 0x4000)
  const c = yield* Random.nextIntBetween(0, 0x1000000)
  const d = yield* Random.nextIntBetween(0, 0x1000000)
  return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(a, 3)}-${hex(0x8000 | b, 4)}-${hex(c, 6)}${hex(d, 6)}`
})

/**
 * Runs the effect under the given id.
 *
 * @since 0.1.0
 * @category combinators
 */
export const within: {
  (id: string): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, id: string): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, id: string): Effect.Effect<A, E, R> =>
    Effect.mapInputContext(effect, (context: Context.Context<R>) => Context.add(context, Current, Option.some(id)))
)

/**
 * Runs the effect under the current id, or under a new one where there is none.
 *
 * @since 0.1.0
 * @category combinators
 */
export const ensure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(
    Current,
    Option.match({
      onNone: () => Effect.flatMap(make, (id) => within(effect, id)),
      onSome: () => effect
    })
  )

/**
 * Runs the effect without an id. For shared work (a cached health check, a layer made on demand) that must not carry the
 * id of whoever happened to ask first.
 *
 * @since 0.1.0
 * @category combinators
 */
export const without = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.mapInputContext(effect, (context: Context.Context<R>) => Context.add(context, Current, Option.none()))

const withinStream = <A, E>(stream: Stream.Stream<A, E>, id: string): Stream.Stream<A, E> =>
  Stream.mapInputContext(stream, (context: Context.Context<never>) => Context.add(context, Current, Option.some(id)))

const answer = (response: HttpServerResponse.HttpServerResponse, id: string): HttpServerResponse.HttpServerResponse => {
  const named = HttpServerResponse.setHeader(response, header, id)
  return named.body._tag === "Stream"
    ? HttpServerResponse.setBody(
        named,
        HttpBody.stream(withinStream(named.body.stream, id), named.body.contentType, named.body.contentLength)
      )
    : named
}

/**
 * Takes the id of each request from its `x-correlation-id` header if `accept` finds it sane, otherwise makes one; runs
 * the application (and the body it streams) under it; puts it on the server's span and on every response, failures
 * included. Usable as the middleware of `HttpServer.serve` and `HttpApiBuilder.serve`, or round any `HttpApp`.
 *
 * @since 0.1.0
 * @category middleware
 */
export const middleware = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const given = Option.flatMap(
      Context.getOption(fiber.currentContext, HttpServerRequest.HttpServerRequest),
      (request) => Option.flatMap(Headers.get(request.headers, header), accept)
    )
    return Effect.flatMap(
      Option.match(given, { onNone: () => make, onSome: Effect.succeed }),
      (id): HttpApp.Default<E, R> =>
        Effect.annotateCurrentSpan(spanAttribute, id).pipe(
          Effect.andThen(
            HttpApp.appendPreResponseHandler((_request, response) => Effect.succeed(answer(response, id)))
          ),
          Effect.andThen(within(app, id))
        )
    )
  })

/**
 * Puts the current id on an outgoing request, unless the request names one already.
 *
 * @since 0.1.0
 * @category combinators
 */
export const annotateRequest = (
  request: HttpClientRequest.HttpClientRequest
): Effect.Effect<HttpClientRequest.HttpClientRequest> =>
  Effect.map(Current, (current) =>
    Option.isNone(current) || Headers.has(request.headers, header)
      ? request
      : HttpClientRequest.setHeader(request, header, current.value)
  )

/**
 * A client that sends the current id with every request.
 *
 * @since 0.1.0
 * @category combinators
 */
export const propagate: <E, R>(client: HttpClient.HttpClient.With<E, R>) => HttpClient.HttpClient.With<E, R> =
  HttpClient.mapRequestEffect(annotateRequest)

/**
 * A logger whose lines carry the id that is current where the line is logged, as the annotation `correlationId`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const logger = <Message, Output>(self: Logger.Logger<Message, Output>): Logger.Logger<Message, Output> =>
  Logger.mapInputOptions(self, (options: Logger.Logger.Options<Message>) => {
    const id = fromFiberRefs(options.context)
    return Option.isNone(id) || HashMap.has(options.annotations, logAnnotation)
      ? options
      : { ...options, annotations: HashMap.set(options.annotations, logAnnotation, id.value) }
  })

/**
 * The id that is current in a fiber with these references; what a logger of one's own reads.
 *
 * @since 0.1.0
 * @category accessors
 */
export const fromFiberRefs = (refs: FiberRefs.FiberRefs): Option.Option<string> =>
  Option.flatMap(FiberRefs.get(refs, FiberRef.currentContext), (context) => Context.get(context, Current))

/**
 * A tracer whose spans carry the id that is current where the span is started, as the attribute `correlation.id`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const tracer = (self: Tracer.Tracer): Tracer.Tracer =>
  Tracer.make({
    span(name, parent, context, links, startTime, kind, options) {
      const span = self.span(name, parent, context, links, startTime, kind, options)
      const id = Option.flatMap(Fiber.getCurrentFiber(), (fiber) => Context.get(fiber.currentContext, Current))
      if (Option.isSome(id)) {
        span.attribute(spanAttribute, id.value)
      }
      return span
    },
    context: (f, fiber) => self.context(f, fiber)
  })

/**
 * Puts the current id on every log line and every span of the program that it is provided to: it wraps the loggers and
 * the tracer that are installed below it.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<never> = Layer.provideMerge(
  Layer.unwrapEffect(Effect.map(Effect.tracer, (current) => Layer.setTracer(tracer(current)))),
  Layer.scopedDiscard(Effect.locallyScopedWith(FiberRef.currentLoggers, HashSet.map(logger)))
)
