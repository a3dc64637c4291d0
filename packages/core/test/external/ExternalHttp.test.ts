import { FetchHttpClient, HttpClient, HttpClientError, HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Correlation, Deadline, ErrorClass, ExternalHttp, RetryPolicy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Chunk, Effect, Exit, Fiber, Layer, Option, Schema, Stream, TestClock, Tracer } from "effect"
import * as Server from "./LoopbackServer.ts"

const steady = { jitter: "none" } as const
const live = Layer.merge(Recording.layer, NodeHttpClient.layerUndici)

/** A turn of the event loop, in which real input and output happen. */
const turn = Effect.async<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

/** Until the condition holds, looked at after each turn of the event loop, whatever the clock of the test says. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.zipRight(turn, condition).pipe(
    Effect.filterOrFail(
      (holds) => holds,
      () => "it never held"
    ),
    Effect.retry({ times: 500_000 })
  )

const sleepingUntil = (at: number) =>
  Effect.map(
    TestClock.sleeps(),
    Chunk.some((each) => each === at)
  )

const streamed: Server.Answer = (_, response) => {
  response.writeHead(200, { "content-type": "text/plain" })
  response.write("one ")
  setImmediate(() => {
    response.write("two ")
    setImmediate(() => response.end("three"))
  })
}

const script = [Server.status(429, { "retry-after": "7" }, "slow down"), Server.status(500, {}, "oops"), streamed]

const answerOf = (http: ExternalHttp.ExternalHttp) =>
  http
    .stream(
      "answer",
      Stream.unwrap(
        Effect.map(
          http.client.execute(HttpClientRequest.post("/chat", { body: undefined })),
          (response) => response.stream
        )
      )
    )
    .pipe(Stream.decodeText(), Stream.mkString)

const checkTrace = (server: { readonly asked: ReadonlyArray<Server.Asked> }) =>
  Effect.gen(function* () {
    const recording = yield* Recording.Recording
    const [ours, ...attempts] = yield* recording.spans
    assert.deepStrictEqual([ours?.name, ours?.kind, ours?.ends], ["model.answer", "client", 1])
    assert.strictEqual(ours?.parent._tag, "None")
    assert.deepStrictEqual(
      attempts.map((span) => [
        span.name,
        span.kind,
        Option.getOrThrow(span.parent).spanId === ours?.spanId,
        span.attributes.get("http.response.status_code"),
        span.attributes.get("http.request.resend_count")
      ]),
      [
        ["POST", "client", true, 429, undefined],
        ["POST", "client", true, 500, 1],
        ["POST", "client", true, 200, 2]
      ]
    )
    assert.deepStrictEqual(
      server.asked.map((each) => each.headers["traceparent"]),
      attempts.map((span) => `00-${span.traceId}-${span.spanId}-01`)
    )
    const lines = (yield* recording.lines).filter((line) => line.annotations["service"] === "model")
    assert.strictEqual(lines.length, 1)
    assert.strictEqual(lines[0]?.annotations["attempts"], 3)
  })

describe("a server that answers 429 with Retry-After, then 500, then a stream", () => {
  it.scoped("by the test's clock: one span, three attempts, the wait as asked, the stream once", () =>
    Effect.gen(function* () {
      const server = yield* Server.make(script)
      const http = yield* ExternalHttp.make({ service: "model", baseUrl: server.url, policy: { retry: steady } })
      const fiber = yield* Effect.fork(Correlation.within(answerOf(http), "req-1"))
      yield* until(sleepingUntil(7_000))
      assert.strictEqual(server.asked.length, 1)
      yield* TestClock.adjust("6999 millis")
      // Not yet: it sleeps still, and only for the moment that was asked for.
      assert.isTrue(yield* sleepingUntil(7_000))
      assert.strictEqual(server.asked.length, 1)
      yield* TestClock.adjust("1 millis")
      yield* until(sleepingUntil(9_000))
      assert.strictEqual(server.asked.length, 2)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "one two three")
      assert.deepStrictEqual(
        server.asked.map((each) => each.headers["x-correlation-id"]),
        ["req-1", "req-1", "req-1"]
      )
      yield* checkTrace(server)
    }).pipe(Effect.provide(live))
  )

  it.scopedLive("by the real clock", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(429, { "retry-after-ms": "300" }), ...script.slice(1)])
      const http = yield* ExternalHttp.make({
        service: "model",
        baseUrl: server.url,
        policy: { retry: { ...steady, base: "20 millis" } }
      })
      assert.strictEqual(yield* answerOf(http), "one two three")
      const [first, second, third] = server.asked.map((each) => each.at)
      assert.isAtLeast((second ?? 0) - (first ?? 0), 295)
      assert.isAtLeast((third ?? 0) - (second ?? 0), 35)
      yield* checkTrace(server)
    }).pipe(Effect.provide(live))
  )
})

describe("ExternalHttp", () => {
  it.scoped("a request on its own is a call: retried by its method, one span with its attempt inside", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const server = yield* Server.make([Server.status(503), Server.status(200, {}, '{"ok":true}')])
      const http = yield* ExternalHttp.make({
        service: "api",
        baseUrl: server.url,
        policy: { retry: { ...steady, base: 1, cap: 1 }, breaker: false }
      })
      const fiber = yield* Effect.fork(Effect.flatMap(http.client.get("/things"), (response) => response.json))
      yield* until(sleepingUntil(1))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(fiber), { ok: true })
      const spans = yield* recording.spans
      assert.deepStrictEqual(
        spans.map((span) => span.name),
        ["api.GET", "GET", "GET"]
      )
    }).pipe(Effect.provide(live))
  )

  it.scoped("a POST is sent again only where nothing was sent, or with an idempotency key", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(503)])
      const http = yield* ExternalHttp.make({
        service: "api",
        policy: { retry: { ...steady, base: "1 milli" }, breaker: false, timeout: false }
      })
      const run = (request: HttpClientRequest.HttpClientRequest) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.fork(Effect.flip(http.execute(request)))
          yield* until(
            Effect.andThen(
              TestClock.adjust("1 second"),
              Effect.sync(() => fiber.unsafePoll() !== null)
            )
          )
          return RetryPolicy.attemptsOf(yield* Fiber.join(fiber)).length
        })
      assert.strictEqual(yield* run(HttpClientRequest.post(`${server.url}/orders`)), 0)
      assert.strictEqual(server.asked.length, 1)
      const keyed = HttpClientRequest.setHeader(HttpClientRequest.post(`${server.url}/orders`), "idempotency-key", "k1")
      assert.strictEqual(yield* run(keyed), 3)
      assert.strictEqual(server.asked.length, 4)
      // Nothing listens on port 1: the connection is refused before anything is sent.
      assert.strictEqual(yield* run(HttpClientRequest.post("http://127.0.0.1:1/orders")), 3)
    }).pipe(Effect.provide(live))
  )

  it.scoped("a status that is not accepted is an error whose body can be read, and the connection is free", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(404, { "content-type": "application/json" }, '{"error":"no"}')])
      const http = yield* ExternalHttp.make({ service: "api", baseUrl: server.url })
      const error = yield* Effect.flip(http.execute(HttpClientRequest.get("/x")))
      if (!(error instanceof HttpClientError.ResponseError)) return assert.fail(String(error))
      assert.strictEqual(error.response.status, 404)
      assert.deepStrictEqual(yield* error.response.json, { error: "no" })
      const lenient = yield* ExternalHttp.make({
        service: "api",
        baseUrl: server.url,
        acceptStatus: (status) => status < 500
      })
      assert.strictEqual((yield* lenient.client.get("/x")).status, 404)
    }).pipe(Effect.provide(live))
  )

  it.scoped("secrets in headers and URLs reach the server and nobody else", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const server = yield* Server.make([Server.status(401, {}, "no")])
      const http = yield* ExternalHttp.make({
        service: "api",
        baseUrl: server.url,
        headers: { authorization: "Bearer topsecret-1234567890", "x-goog-api-key": "another-secret" }
      })
      yield* Effect.flip(http.execute(HttpClientRequest.get("/x?q=1&api_key=third-secret")))
      assert.deepStrictEqual(
        [server.asked[0]?.headers["authorization"], server.asked[0]?.headers["x-goog-api-key"], server.asked[0]?.url],
        ["Bearer topsecret-1234567890", "another-secret", "/x?q=1&api_key=third-secret"]
      )
      const shown = [
        ...(yield* recording.spans).flatMap((span) => [
          span.name,
          ...[...span.attributes].map(String),
          span.status._tag === "Ended" && Exit.isFailure(span.status.exit) ? String(span.status.exit.cause) : "",
          span.status._tag === "Ended" ? JSON.stringify(span.status.exit) : ""
        ]),
        ...(yield* recording.lines).map((line) => `${line.message} ${JSON.stringify(line.annotations)} ${line.cause}`)
      ].join("\n")
      for (const secret of ["topsecret-1234567890", "another-secret", "third-secret"]) {
        assert.notInclude(shown, secret)
      }
      assert.include(shown, `${server.url}/x?q=1&api_key=<redacted>`)
    }).pipe(Effect.provide(live))
  )

  it.scoped("an interrupted request is aborted on the wire, and no failure", () =>
    Effect.gen(function* () {
      let aborted = false
      const server = yield* Server.make([
        (request, response) => {
          response.on("close", () => {
            aborted = true
          })
          request.resume()
        }
      ])
      const http = yield* ExternalHttp.make({ service: "api", baseUrl: server.url })
      const fiber = yield* Effect.fork(http.client.get("/slow"))
      yield* until(Effect.sync(() => server.asked.length === 1))
      yield* Fiber.interrupt(fiber)
      yield* until(Effect.sync(() => aborted))
      assert.strictEqual(http.breaker === undefined ? -1 : (yield* http.breaker.snapshot).failures, 0)
    }).pipe(Effect.provide(live))
  )

  it.scoped("inside the call of another client a request is a call of its own, and retries do not multiply", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const server = yield* Server.make([Server.status(503)])
      const policy = { retry: { ...steady, base: "1 milli" }, breaker: false } as const
      const inner = yield* ExternalHttp.make({ service: "inner", baseUrl: server.url, policy })
      const outer = yield* ExternalHttp.make({ service: "outer", policy })
      const fiber = yield* Effect.fork(Effect.flip(outer.call("work", inner.client.get("/x"))))
      yield* until(
        Effect.andThen(
          TestClock.adjust("10 millis"),
          Effect.sync(() => fiber.unsafePoll() !== null)
        )
      )
      assert.isTrue(ErrorClass.isExhausted(yield* Fiber.join(fiber)))
      assert.deepStrictEqual(
        (yield* recording.spans).map((span) => span.name),
        ["outer.work", "inner.GET", "GET", "GET", "GET"]
      )
    }).pipe(Effect.provide(live))
  )

  it.scoped(
    "as a layer it watches the HttpClient below it; the policy's failures are transport errors with their cause",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make([Server.status(200, {}, '{"n":"1"}')])
        const client = yield* HttpClient.HttpClient
        const decoded = yield* Effect.flatMap(
          client.get(`${server.url}/n`),
          HttpClientResponse.schemaBodyJson(Schema.Struct({ n: Schema.NumberFromString }))
        )
        assert.deepStrictEqual(decoded, { n: 1 })
        const late = yield* Effect.flip(Deadline.at(client.get(`${server.url}/n`), -1))
        assert.deepStrictEqual(
          [late._tag, late._tag === "RequestError" ? late.reason : ""],
          ["RequestError", "Transport"]
        )
        assert.strictEqual((late.cause as { readonly _tag?: string })._tag, "CallTimeout")
      }).pipe(Effect.provide(Layer.provide(ExternalHttp.layer({ service: "api" }), FetchHttpClient.layer)))
  )

  it.scoped("without a tracer no false traceparent goes out, but that of the span around", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(200)])
      const http = yield* ExternalHttp.make({ service: "api", baseUrl: server.url })
      yield* Effect.withTracerEnabled(http.client.get("/a"), false)
      yield* Effect.withSpan(Effect.withTracerEnabled(http.client.get("/b"), false), "around")
      const around = (yield* (yield* Recording.Recording).spans).find((span) => span.name === "around")
      assert.deepStrictEqual(
        server.asked.map((each) => each.headers["traceparent"]),
        [undefined, `00-${around?.traceId}-${around?.spanId}-01`]
      )
    }).pipe(Effect.provide(live))
  )

  it.scoped("with the tracer switched off, that of the request that came in goes on, sampled or not", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(200)])
      const http = yield* ExternalHttp.make({ service: "api", baseUrl: server.url })
      const traceId = "0af7651916cd43dd8448eb211c80319c"
      for (const sampled of [true, false]) {
        const incoming = Tracer.externalSpan({ traceId, spanId: "b7ad6b7169203331", sampled })
        yield* http.client.get("/a").pipe(Effect.withParentSpan(incoming), Effect.withTracerEnabled(false))
      }
      const own = `00-${traceId}-00f067aa0ba902b7-01`
      yield* Effect.withTracerEnabled(http.client.get("/b", { headers: { traceparent: own } }), false)
      assert.deepStrictEqual(
        server.asked.map((each) => each.headers["traceparent"]),
        [`00-${traceId}-b7ad6b7169203331-01`, `00-${traceId}-b7ad6b7169203331-00`, own]
      )
    }).pipe(Effect.provide(live))
  )
})
