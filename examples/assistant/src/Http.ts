/**
 * The API, the page, health and metrics on an HTTP server.
 *
 * @since 0.1.0
 */
import {
  FileSystem,
  HttpApiBuilder,
  HttpApiError,
  HttpRouter,
  type HttpServer,
  HttpServerError,
  HttpServerRequest,
  HttpServerResponse,
  Path
} from "@effect/platform"
import type { PlatformError } from "@effect/platform/Error"
import { Correlation, Health, Telemetry } from "@underlay/core"
import { Cause, Clock, Effect, Layer, Metric, MetricBoundaries, Option, Schema, Stream } from "effect"
import { api, maxBody } from "./Api.ts"
import { Assistant } from "./Assistant.ts"
import { AskEvent, SessionBusy, SessionNotFound, ShuttingDown, StoreUnavailable } from "./Conversation.ts"
import { Parts } from "./Parts.ts"
import { Runbooks } from "./Runbooks.ts"

const encodeEvent = Schema.encodeSync(Schema.parseJson(AskEvent))

/** One server-sent event. JSON has no line breaks of its own, so that one `data` line holds it. */
const frame = (event: AskEvent): string => `event: ${event._tag}\ndata: ${encodeEvent(event)}\n\n`

const questions = Metric.counter("assistant_questions", {
  description: "Questions that were answered, by how the answer ended",
  incremental: true
})
const seconds = Metric.histogram(
  "assistant_answer_seconds",
  MetricBoundaries.fromIterable([0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]),
  "Time from a question to the end of its answer"
)

const outcomeOf = (event: AskEvent): string | undefined =>
  event._tag === "done" ? event.kind : event._tag === "error" ? event.code : undefined

/** Counts and times an answer when it ends; one that its client gave up counts as such. */
const measured = (events: Stream.Stream<AskEvent>): Stream.Stream<AskEvent> =>
  Stream.unwrap(
    Effect.map(Clock.currentTimeMillis, (began) => {
      let outcome = "GivenUp"
      return events.pipe(
        Stream.tap((event) =>
          Effect.sync(() => {
            outcome = outcomeOf(event) ?? outcome
          })
        ),
        Stream.ensuring(
          Effect.flatMap(Clock.currentTimeMillis, (now) =>
            Effect.andThen(
              Metric.update(Metric.tagged(questions, "outcome", outcome), 1),
              Metric.update(seconds, (now - began) / 1000)
            )
          )
        )
      )
    })
  )

const sessionsLive = HttpApiBuilder.group(api, "sessions", (handlers) =>
  Effect.gen(function* () {
    const assistant = yield* Assistant
    return handlers
      .handle("create", () => Effect.map(assistant.createSession, (id) => ({ id })))
      .handle("ask", ({ path, payload }) =>
        Effect.gen(function* () {
          const events = yield* assistant.ask(path.id, payload.question)
          // A comment now and then keeps proxies from closing a stream in which a model is still thinking.
          const body = measured(events).pipe(
            Stream.map(frame),
            Stream.merge(Stream.as(Stream.drop(Stream.tick("15 seconds"), 1), ": still here\n\n"), {
              haltStrategy: "left"
            }),
            Stream.encodeText
          )
          return HttpServerResponse.stream(body, {
            contentType: "text/event-stream; charset=utf-8",
            headers: { "cache-control": "no-store", "x-accel-buffering": "no" }
          })
        })
      )
      .handle("history", ({ path }) => Effect.map(assistant.history(path.id), (messages) => ({ messages })))
  })
)

const partsLive = HttpApiBuilder.group(api, "parts", (handlers) =>
  Effect.gen(function* () {
    const health = yield* Health.Health
    const parts = yield* Parts
    const runbooks = yield* Runbooks
    return handlers.handle("parts", () =>
      Effect.map(health.report(), ({ checks }) => ({
        parts: parts.map(({ check, ...part }) => ({
          ...part,
          status: (check === undefined ? undefined : checks[check]?.status) ?? ("up" as const)
        })),
        runbooks: runbooks.all.map(({ id, service, title }) => ({ id, service, title }))
      }))
    )
  })
)

const security = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cache-control": "no-cache"
}

const pageFiles = [
  { path: "/", file: "index.html", contentType: "text/html; charset=utf-8" },
  { path: "/page.css", file: "page.css", contentType: "text/css; charset=utf-8" },
  { path: "/page.js", file: "page.js", contentType: "text/javascript; charset=utf-8" },
  { path: "/favicon.svg", file: "favicon.svg", contentType: "image/svg+xml" }
] as const

/** The page's files, read once. */
const page = (directory: string) =>
  HttpApiBuilder.Router.use((router) =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      for (const { contentType, file, path: route } of pageFiles) {
        const text = yield* fs.readFileString(path.join(directory, file))
        yield* router.get(route, HttpServerResponse.text(text, { contentType, headers: security }))
      }
    })
  )

const operations = HttpApiBuilder.Router.use((router) =>
  Effect.gen(function* () {
    const health = yield* Health.Health
    yield* router.concat(HttpRouter.provideService(Health.routes, Health.Health, health))
    yield* router.concat(Telemetry.routes)
  })
)

/** The process is ready while it takes questions. */
const readiness = Layer.scopedDiscard(
  Effect.gen(function* () {
    const assistant = yield* Assistant
    const health = yield* Health.Health
    yield* health.register({
      name: "assistant",
      cacheFor: 0,
      check: Effect.map(assistant.accepting, (accepting) => (accepting ? Health.up() : Health.down({ draining: true })))
    })
  })
)

const json = (status: number, body: { readonly _tag: string; readonly message: string; readonly problems?: unknown }) =>
  HttpServerResponse.unsafeJson(body, { status })

const isApiError = (error: unknown): boolean =>
  error instanceof SessionNotFound ||
  error instanceof SessionBusy ||
  error instanceof StoreUnavailable ||
  error instanceof ShuttingDown

const fieldOf = (path: ReadonlyArray<PropertyKey>): string => path.map(String).join(".")

/**
 * What a failed request is answered with. Errors of the API go on to be encoded; the cause of a surprise goes to the log,
 * never to the client.
 */
const problemResponse = <E>(cause: Cause.Cause<E>): Effect.Effect<HttpServerResponse.HttpServerResponse, E> => {
  const error: unknown = Cause.squash(cause)
  if (Cause.isInterruptedOnly(cause) || isApiError(error)) return Effect.failCause(cause)
  if (error instanceof HttpApiError.HttpApiDecodeError) {
    const problems = error.issues.map(({ message, path }) => ({ field: fieldOf(path), problem: message }))
    const message = problems.map(({ field, problem }) => (field === "" ? problem : `${field}: ${problem}`)).join("; ")
    return Effect.succeed(json(400, { _tag: "BadRequest", message, problems }))
  }
  if (error instanceof HttpServerError.RequestError) {
    return Effect.succeed(
      /maxBytes exceeded/i.test(String(error.cause))
        ? json(413, { _tag: "BodyTooLarge", message: `The request body must not be larger than ${maxBody} bytes.` })
        : json(400, { _tag: "BadRequest", message: "The request body is not valid JSON.", problems: [] })
    )
  }
  if (error instanceof HttpServerError.RouteNotFound) {
    return Effect.succeed(json(404, { _tag: "NotFound", message: "There is nothing at this address." }))
  }
  return Effect.as(
    Effect.logError("a request failed", cause),
    json(500, { _tag: "Internal", message: "The request failed. The log says why, under the id in x-correlation-id." })
  )
}

/** A body that announces itself as too large is refused before it is read. */
const announcedTooLarge = Effect.map(HttpServerRequest.HttpServerRequest, (request) =>
  Number(request.headers["content-length"] ?? 0) > maxBody
    ? Option.some(
        json(413, { _tag: "BodyTooLarge", message: `The request body must not be larger than ${maxBody} bytes.` })
      )
    : Option.none()
)

const guard = HttpApiBuilder.middleware((app) =>
  Effect.flatMap(announcedTooLarge, (refused) =>
    Option.isSome(refused)
      ? Effect.succeed(refused.value)
      : Effect.catchAllCause(
          HttpServerRequest.withMaxBodySize(app, Option.some(FileSystem.Size(maxBody))),
          problemResponse
        )
  )
)

const apiLive = HttpApiBuilder.api(api).pipe(Layer.provide([sessionsLive, partsLive]))

/**
 * Serves everything on the `HttpServer` of the environment. `page` is the folder of the page's files.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: {
  readonly page: string
}): Layer.Layer<
  never,
  PlatformError,
  | Assistant
  | FileSystem.FileSystem
  | Health.Health
  | HttpRouter.HttpRouter.DefaultServices
  | HttpServer.HttpServer
  | Parts
  | Path.Path
  | Runbooks
> =>
  HttpApiBuilder.serve(Correlation.middleware).pipe(
    Layer.provide([
      HttpApiBuilder.middlewareOpenApi().pipe(Layer.provide(apiLive)),
      guard,
      page(options.page),
      operations,
      readiness
    ]),
    Layer.provide(apiLive)
  )
