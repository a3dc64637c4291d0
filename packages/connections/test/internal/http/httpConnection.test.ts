import * as Http from "node:http"
import type { AddressInfo, Socket } from "node:net"
import * as Net from "node:net"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import { assert, describe, it } from "@effect/vitest"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Recording from "@underlay/core/testing/Recording"
import {
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Inspectable,
  Redacted,
  Ref,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import * as HttpConnection from "../../../src/internal/http/httpConnection.ts"

interface Server {
  readonly url: string
  readonly requests: Array<{
    readonly url: string
    readonly method: string
    readonly headers: Http.IncomingHttpHeaders
  }>
  readonly sockets: Set<Socket>
}

const serve = (answer: (request: Http.IncomingMessage, response: Http.ServerResponse, count: number) => void) =>
  Effect.acquireRelease(
    Effect.async<Server & { readonly server: Http.Server }>((resume) => {
      const requests: Server["requests"] = []
      const sockets = new Set<Socket>()
      const server = Http.createServer((request, response) => {
        requests.push({ url: request.url ?? "", method: request.method ?? "", headers: request.headers })
        answer(request, response, requests.length)
      })
      server.on("connection", (socket) => {
        sockets.add(socket)
        socket.on("close", () => sockets.delete(socket))
      })
      server.listen(0, "127.0.0.1", () => {
        const { port } = server.address() as AddressInfo
        resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, requests, sockets, server }))
      })
    }),
    ({ server }) =>
      Effect.async<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )

const json = (response: Http.ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}) => {
  response.writeHead(status, { "content-type": "application/json", ...headers })
  response.end(JSON.stringify(body))
}

const make = (url: string, options: Partial<HttpConnection.Options> = {}) =>
  HttpConnection.make({
    kind: "thing",
    name: "thing",
    plane: "internal",
    connect: "lazy",
    baseUrl: url,
    check: (http) => http.request("Thing.ping", HttpClientRequest.get("/ping")),
    ...options
  })

const eventually = (what: string, holds: () => boolean) =>
  Effect.suspend(() => (holds() ? Effect.void : Effect.fail(what))).pipe(
    Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 300 })
  )

const Item = Schema.Struct({ id: Schema.Number })

const errorOf = (exit: Exit.Exit<unknown, ConnectionError>): ConnectionError => {
  if (Exit.isSuccess(exit) || exit.cause._tag !== "Fail") throw new Error("it did not fail typed")
  return exit.cause.error
}

describe("httpConnection", () => {
  it.live("a request has the base address and the headers, and its answer is decoded leniently", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 200, { id: 1, more: true }))
      const http = yield* make(`${server.url}/base/`, {
        headers: Effect.succeed({ Authorization: Redacted.make("Bearer secret"), "x-plain": "1" })
      })
      const found = yield* http.request("Thing.get", HttpClientRequest.get("/items/1"), { schema: Item })
      assert.deepStrictEqual(found, { id: 1 })
      assert.strictEqual(server.requests[0]?.url, "/base/items/1")
      assert.strictEqual(server.requests[0]?.headers["authorization"], "Bearer secret")
      assert.strictEqual(server.requests[0]?.headers["x-plain"], "1")
    }).pipe(Effect.scoped)
  )

  it.live("headers are asked for each attempt, so that a token can be replaced meanwhile", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response, count) =>
        count === 1 ? json(response, 503, {}) : json(response, 200, { id: count })
      )
      const tokens = yield* Ref.make(0)
      const http = yield* make(server.url, {
        plane: "external",
        retryDelay: "1 millis",
        headers: Effect.map(
          Ref.updateAndGet(tokens, (n) => n + 1),
          (n) => ({ authorization: `token ${n}` })
        )
      })
      yield* http.request("Thing.get", HttpClientRequest.get("/"), { schema: Item })
      assert.deepStrictEqual(
        server.requests.map(({ headers }) => headers["authorization"]),
        ["token 1", "token 2"]
      )
    }).pipe(Effect.scoped)
  )

  const statuses: ReadonlyArray<readonly [number, string, boolean]> = [
    [400, "InvalidRequest", false],
    [401, "Authentication", false],
    [403, "PermissionDenied", false],
    [404, "NotFound", false],
    [408, "Timeout", true],
    [409, "Conflict", true],
    [410, "NotFound", false],
    [412, "Conflict", true],
    [422, "InvalidRequest", false],
    [429, "Throttled", true],
    [500, "Unavailable", true],
    [501, "Unsupported", false],
    [502, "Unavailable", true],
    [503, "Unavailable", true],
    [504, "Timeout", true],
    [302, "Unknown", false]
  ]
  for (const [status, reason, retryable] of statuses) {
    it.live(`status ${status} is ${reason}`, () =>
      Effect.gen(function* () {
        const server = yield* serve((_, response) => json(response, status, { secret: "body" }))
        const http = yield* make(server.url)
        const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
        assert.strictEqual(error.reason, reason)
        assert.strictEqual(error.code, String(status))
        assert.strictEqual(error.isRetryable, retryable)
        assert.strictEqual(error.method, "Thing.get")
        assert.notInclude(error.message, "body")
        assert.strictEqual(server.requests.length, 1)
      }).pipe(Effect.scoped)
    )
  }

  const waits: ReadonlyArray<readonly [string, number, Record<string, string>, string, number | undefined]> = [
    ["in seconds", 429, { "retry-after": "7" }, "Throttled", 7_000],
    ["in seconds, of a 503", 503, { "retry-after": "2" }, "Throttled", 2_000],
    [
      "as a date, by the clock of the service",
      429,
      { date: "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT" },
      "Throttled",
      30_000
    ],
    ["in milliseconds", 429, { "retry-after-ms": "1500", "retry-after": "9" }, "Throttled", 1_500],
    ["unreadable", 429, { "retry-after": "soon" }, "Throttled", undefined]
  ]
  for (const [how, status, headers, reason, millis] of waits) {
    it.live(`Retry-After ${how}`, () =>
      Effect.gen(function* () {
        const server = yield* serve((_, response) => json(response, status, {}, headers))
        const http = yield* make(server.url)
        const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
        assert.strictEqual(error.reason, reason)
        assert.strictEqual(error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter), millis)
      }).pipe(Effect.scoped)
    )
  }

  it.live("Retry-After as a date, of a service that does not tell its own time", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => {
        response.sendDate = false
        json(response, 503, {}, { "retry-after": new Date(Date.now() + 60_000).toUTCString() })
      })
      const http = yield* make(server.url)
      const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
      assert.strictEqual(error.reason, "Throttled")
      const wait = error.retryAfter === undefined ? 0 : Duration.toMillis(error.retryAfter)
      assert.isTrue(wait > 50_000 && wait <= 60_000, String(wait))
    }).pipe(Effect.scoped)
  )

  it.live("the service's own codes go before the status, and what they leave open follows from it", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 400, { code: "THING_EXISTS" }))
      const http = yield* make(server.url, {
        errorOf: (_, body) =>
          typeof body === "object" && body !== null && "code" in body && body.code === "THING_EXISTS"
            ? { reason: "Conflict", code: "THING_EXISTS" }
            : {}
      })
      const error = errorOf(yield* Effect.exit(http.request("Thing.put", HttpClientRequest.put("/"))))
      assert.deepStrictEqual([error.reason, error.code], ["Conflict", "THING_EXISTS"])
    }).pipe(Effect.scoped)
  )

  it.live("what is accepted is no error", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 404, { id: 4 }))
      for (const plane of ["internal", "external"] as const) {
        const http = yield* make(server.url, { plane })
        const found = yield* http.request("Thing.get", HttpClientRequest.get("/"), {
          schema: Item,
          accept: (status) => status === 404
        })
        assert.deepStrictEqual(found, { id: 4 })
      }
    }).pipe(Effect.scoped)
  )

  it.live("an answer that is not what was expected is an error that shows no value", () =>
    Effect.gen(function* () {
      const server = yield* serve((request, response) =>
        request.url === "/text" ? response.end("<html>secret</html>") : json(response, 200, { id: "secret" })
      )
      const http = yield* make(server.url)
      const wrong = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"), { schema: Item })))
      assert.strictEqual(wrong.reason, "Unknown")
      assert.include(wrong.description, "id: expected number")
      const text = errorOf(
        yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/text"), { schema: Item }))
      )
      for (const error of [wrong, text]) {
        assert.notInclude(error.message, "secret")
        assert.notInclude(JSON.stringify(error), "secret")
      }
    }).pipe(Effect.scoped)
  )

  it.live("nobody there: Unavailable, and certain that nothing was sent", () =>
    Effect.gen(function* () {
      const http = yield* make("http://127.0.0.1:1", { headers: Effect.succeed({ authorization: "Bearer hush" }) })
      const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
      assert.deepStrictEqual([error.reason, error.sent], ["Unavailable", false])
      assert.notInclude(JSON.stringify(error), "hush")
    }).pipe(Effect.scoped)
  )

  it.live("a connection that is reset before the answer is Unavailable; one in the middle of a body too", () =>
    Effect.gen(function* () {
      const server = yield* serve((request, response) => {
        if (request.url === "/reset") return void request.socket.resetAndDestroy()
        response.writeHead(200, { "content-length": "100" })
        response.write("{")
        setImmediate(() => request.socket.destroy())
      })
      const http = yield* make(server.url)
      for (const path of ["/reset", "/broken"]) {
        const error = errorOf(
          yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get(path), { schema: Item }))
        )
        assert.strictEqual(error.reason, "Unavailable", path)
      }
    }).pipe(Effect.scoped)
  )

  it.live("a service that says nothing: Timeout at the limit of the call", () =>
    Effect.gen(function* () {
      const server = yield* serve(() => {})
      for (const plane of ["internal", "external"] as const) {
        const http = yield* make(server.url, { plane, timeout: "100 millis" })
        const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
        assert.strictEqual(error.reason, "Timeout")
      }
      yield* eventually("every socket is closed", () => server.sockets.size === 0)
    }).pipe(Effect.scoped)
  )

  it.live("an address that is none, or holds a password, is an error of the settings that does not show it", () =>
    Effect.gen(function* () {
      for (const url of ["nonsense", "ftp://host/", "http://user:hush@host/"]) {
        const error = errorOf(yield* Effect.exit(Effect.scoped(make(url))))
        assert.strictEqual(error.reason, "InvalidSettings")
        assert.notInclude(error.message, "hush")
      }
    })
  )

  it.live("the internal plane shows nothing, makes no traceparent up and sends nothing twice", () =>
    Effect.gen(function* () {
      const server = yield* serve((request, response) =>
        request.url === "/bad" ? json(response, 503, {}) : json(response, 200, { id: 1 })
      )
      yield* Effect.gen(function* () {
        const http = yield* make(server.url)
        yield* http.request("Thing.get", HttpClientRequest.get("/"), { schema: Item })
        yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/bad")))
        yield* http.connection.health
        yield* http.connection.use((it) => it.request("Thing.get", HttpClientRequest.get("/")))
      }).pipe(Effect.scoped, Recording.assertSilent)
      assert.isTrue(server.requests.every(({ headers }) => headers["traceparent"] === undefined))
      assert.strictEqual(server.requests.filter(({ url }) => url === "/bad").length, 1)
    }).pipe(Effect.scoped)
  )

  it.live("the external plane: one span a call with its attempts below, one log line, no header in any of them", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response, count) =>
        count < 3 ? json(response, 503, {}) : json(response, 200, { id: count })
      )
      const recording = yield* Recording.make
      yield* recording.within(
        Effect.scoped(
          Effect.gen(function* () {
            const http = yield* make(server.url, {
              plane: "external",
              retryDelay: "1 millis",
              headers: Effect.succeed({ authorization: Redacted.make("Bearer hush") })
            })
            yield* http.request("Thing.get", HttpClientRequest.get("/items/1"), { schema: Item })
          })
        )
      )
      const spans = yield* recording.spans
      const calls = spans.filter(({ name }) => name === "Thing.get")
      assert.strictEqual(calls.length, 1)
      assert.strictEqual(spans.length, 4)
      assert.isTrue(spans.every(({ kind }) => kind === "client"))
      assert.strictEqual((yield* recording.lines).length, 1)
      assert.strictEqual(server.requests.length, 3)
      assert.isTrue(server.requests.every(({ headers }) => headers["traceparent"] !== undefined))
      const shown = Inspectable.toStringUnknown([
        spans.map((span) => [span.name, [...span.attributes], span.events, span.status]),
        yield* recording.lines
      ])
      assert.include(shown, "Thing.get")
      assert.notInclude(shown, "hush")
    }).pipe(Effect.scoped)
  )

  it.live("what is not idempotent is not sent twice", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 503, {}))
      const http = yield* make(server.url, { plane: "external", retryDelay: "1 millis", breaker: false })
      yield* Effect.exit(http.request("Thing.create", HttpClientRequest.post("/")))
      assert.strictEqual(server.requests.length, 1)
      yield* Effect.exit(http.request("Thing.search", HttpClientRequest.post("/"), { idempotent: true }))
      assert.strictEqual(server.requests.length, 4)
      // An earlier conflict is a conflict again.
      yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/")))
      assert.strictEqual(server.requests.length, 7)
    }).pipe(Effect.scoped)
  )

  it.live("a conflict is not sent twice and does not open the circuit", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 412, {}))
      const http = yield* make(server.url, { plane: "external", retryDelay: "1 millis" })
      for (let n = 0; n < 8; n++) {
        const error = errorOf(yield* Effect.exit(http.request("Thing.put", HttpClientRequest.put("/"))))
        assert.strictEqual(error.reason, "Conflict")
      }
      assert.strictEqual(server.requests.length, 8)
    }).pipe(Effect.scoped)
  )

  it.live("an open circuit is Unavailable, with when to ask again", () =>
    Effect.gen(function* () {
      const server = yield* serve((_, response) => json(response, 500, {}))
      const http = yield* make(server.url, { plane: "external", retries: 0 })
      for (let n = 0; n < 5; n++) yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/")))
      const error = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
      assert.strictEqual(server.requests.length, 5)
      assert.strictEqual(error.reason, "Unavailable")
      assert.isDefined(error.retryAfter)
    }).pipe(Effect.scoped)
  )

  it.live("bodies are read or given up: no socket is left busy by errors, unread answers or interrupted reads", () =>
    Effect.gen(function* () {
      const server = yield* serve((request, response) => {
        if (request.url === "/error") return json(response, 500, { long: "x".repeat(200_000) })
        if (request.url === "/drip") {
          response.writeHead(200)
          response.write("a")
          return
        }
        json(response, 200, { id: 1, long: "x".repeat(200_000) })
      })
      const http = yield* make(server.url, { maxConnections: 2 })
      for (let n = 0; n < 10; n++) {
        yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/error")))
        yield* http.request("Thing.get", HttpClientRequest.get("/"))
        yield* Effect.scoped(http.response("Thing.open", HttpClientRequest.get("/")))
        yield* Effect.scoped(http.response("Thing.open", HttpClientRequest.get("/drip")))
        const fiber = yield* Effect.fork(http.request("Thing.get", HttpClientRequest.get("/drip"), { schema: Item }))
        yield* eventually("it is under way", () => server.requests.length >= 5 * n + 5)
        yield* Fiber.interrupt(fiber)
      }
      // With two connections, one that were held would stop this.
      yield* Effect.timeout(
        Effect.all(
          Array.from({ length: 6 }, () => http.request("Thing.get", HttpClientRequest.get("/"))),
          {
            concurrency: "unbounded"
          }
        ),
        "3 seconds"
      )
      yield* eventually("no more sockets than connections", () => server.sockets.size <= 2)
    }).pipe(Effect.scoped)
  )

  it.live(
    "a body can be streamed, is counted as long, and its connection is cut when the release waits no longer",
    () =>
      Effect.gen(function* () {
        const server = yield* serve((_, response) => {
          response.writeHead(200)
          response.write("first")
        })
        const scope = yield* Scope.make()
        const http = yield* Scope.extend(make(server.url, { drainTimeout: "50 millis" }), scope)
        const first = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          Effect.scoped(
            Effect.flatMap(http.response("Thing.open", HttpClientRequest.get("/")), (response) =>
              Stream.runCollect(Stream.tap(response.stream, () => Deferred.succeed(first, undefined)))
            )
          )
        )
        yield* Deferred.await(first)
        yield* Scope.close(scope, Exit.void)
        const report = yield* http.connection.drained
        assert.deepStrictEqual([report.inUse, report.cut], [1, 1])
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        yield* eventually("the socket is closed", () => server.sockets.size === 0)
      }).pipe(Effect.scoped)
  )

  it.live("at its release what is under way may end, what comes after is refused, no socket is left", () =>
    Effect.gen(function* () {
      const waiting: Array<Http.ServerResponse> = []
      const server = yield* serve((_, response) => void waiting.push(response))
      const scope = yield* Scope.make()
      const http = yield* Scope.extend(make(server.url), scope)
      const fiber = yield* Effect.fork(http.request("Thing.get", HttpClientRequest.get("/"), { schema: Item }))
      yield* eventually("it is under way", () => waiting.length === 1)
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* Effect.repeat(http.connection.state, { until: (state) => state === "draining" })
      const refused = errorOf(yield* Effect.exit(http.request("Thing.get", HttpClientRequest.get("/"))))
      assert.strictEqual(refused.reason, "Closed")
      for (const response of waiting) json(response, 200, { id: 5 })
      assert.deepStrictEqual(yield* Fiber.join(fiber), { id: 5 })
      yield* Fiber.join(closing)
      const report = yield* http.connection.drained
      assert.deepStrictEqual([report.inUse, report.finished, report.cut], [1, 1, 0])
      yield* eventually("the socket is closed", () => server.sockets.size === 0)
    }).pipe(Effect.scoped)
  )

  it.live("health asks, without being watched, and tells what is wrong", () =>
    Effect.gen(function* () {
      let status = 200
      const server = yield* serve((_, response) => json(response, status, {}))
      const recording = yield* Recording.make
      yield* recording.within(
        Effect.scoped(
          Effect.gen(function* () {
            const http = yield* make(server.url, { plane: "external", connect: "eager" })
            assert.strictEqual((yield* http.connection.health).status, "up")
            status = 401
            const health = yield* http.connection.health
            assert.strictEqual(health.status, "down")
            assert.strictEqual(health.details?.["reason"], "Authentication")
            assert.strictEqual(yield* http.connection.state, "down")
          })
        )
      )
      assert.strictEqual((yield* recording.spans).length, 0)
    }).pipe(Effect.scoped)
  )

  it.live("eager fails where the service is not there; in the background it is ready when the service is", () =>
    Effect.gen(function* () {
      const error = errorOf(
        yield* Effect.exit(Effect.scoped(make("http://127.0.0.1:1", { connect: "eager", retries: 0 })))
      )
      assert.strictEqual(error.reason, "Unavailable")
      const free = yield* Effect.async<number>((resume) => {
        const probe = Net.createServer().listen(0, "127.0.0.1", () => {
          const { port } = probe.address() as AddressInfo
          probe.close(() => resume(Effect.succeed(port)))
        })
      })
      const http = yield* make(`http://127.0.0.1:${free}`, { connect: "background" })
      assert.include(["connecting", "down"], yield* http.connection.state)
      const server = Http.createServer((_, response) => json(response, 200, {}))
      yield* Effect.acquireRelease(
        Effect.async<void>((resume) => void server.listen(free, "127.0.0.1", () => resume(Effect.void))),
        () => Effect.sync(() => void server.close())
      )
      yield* Effect.repeat(http.connection.state, {
        until: (state) => state === "ready",
        schedule: Schedule.spaced("20 millis")
      }).pipe(Effect.timeout("5 seconds"))
    }).pipe(Effect.scoped)
  )
})
