import { createServer } from "node:http"
import {
  FetchHttpClient,
  HttpClient,
  HttpClientRequest,
  HttpRouter,
  HttpServer,
  HttpServerRequest,
  HttpServerResponse
} from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, FastCheck, Fiber, HashMap, Layer, Logger, Option, Stream, TestClock, Tracer } from "effect"
import * as Correlation from "../../src/operations/Correlation.ts"

interface Line {
  readonly message: string
  readonly id: unknown
}

const recordingLogger = (lines: Array<Line>) =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make<unknown, void>(({ annotations, message }) => {
      lines.push({
        message: String(message),
        id: Option.getOrUndefined(HashMap.get(annotations, Correlation.logAnnotation))
      })
    })
  )

const recordingTracer = (spans: Array<Tracer.Span>) => {
  let made = 0
  return Tracer.make({
    span: (name, parent, context, links, startTime, kind) => {
      const attributes = new Map<string, unknown>()
      const span: Tracer.Span = {
        _tag: "Span",
        name,
        spanId: `span-${++made}`,
        traceId: "trace",
        parent,
        context,
        status: { _tag: "Started", startTime },
        attributes,
        links,
        sampled: true,
        kind,
        end: () => {},
        attribute: (key, value) => {
          attributes.set(key, value)
        },
        event: () => {},
        addLinks: () => {}
      }
      spans.push(span)
      return span
    },
    context: (f) => f()
  })
}

const random = NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })

const baseUrl = Effect.map(HttpServer.HttpServer, (server) =>
  server.address._tag === "TcpAddress" ? `http://127.0.0.1:${server.address.port}` : "unix"
)

describe("Correlation", () => {
  it("accepts tokens of bounded length and nothing else", () => {
    for (const sane of ["a", "abc-123", "01975c2e-7f0a-7abc-8def-0123456789ab", "req:1/2+3=@x", "9".repeat(128)]) {
      assert.deepStrictEqual(Correlation.accept(sane), Option.some(sane))
    }
    for (const odd of [
      "",
      " a",
      "a b",
      "a\nb",
      "a\r\nset-cookie: x",
      "<script>",
      "-a",
      "é",
      "a\u0000",
      'a"b',
      "9".repeat(129),
      undefined,
      null
    ]) {
      assert.deepStrictEqual(Correlation.accept(odd), Option.none())
    }
  })

  it("what is accepted never needs escaping in a header, a log line or JSON", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.fullUnicodeString({ maxLength: 140 }), (text) => {
        const accepted = Correlation.accept(text)
        return (
          Option.isNone(accepted) ||
          (JSON.stringify(accepted.value) === `"${accepted.value}"` && /^[!-~]{1,128}$/.test(accepted.value))
        )
      })
    )
  })

  it.effect("makes UUIDs of version 7 that are unique and sort by time", () =>
    Effect.gen(function* () {
      const early = yield* Effect.replicateEffect(Correlation.make, 100)
      yield* TestClock.adjust("1 second")
      const late = yield* Effect.replicateEffect(Correlation.make, 100)
      for (const id of [...early, ...late]) {
        assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        assert.deepStrictEqual(Correlation.accept(id), Option.some(id))
      }
      assert.strictEqual(new Set([...early, ...late]).size, 200)
      assert.isTrue(early.every((a) => late.every((b) => a < b)))
    })
  )

  it.effect("there is none outside, and each of many concurrent calls sees its own, in its forks too", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* Correlation.Current, Option.none())
      const seen = yield* Effect.forEach(
        ["a", "b", "c"],
        (id) =>
          Effect.gen(function* () {
            const fiber = yield* Effect.fork(Effect.andThen(Effect.sleep("1 second"), Correlation.current))
            return yield* Fiber.join(fiber)
          }).pipe(Correlation.within(id)),
        { concurrency: "unbounded" }
      ).pipe(Effect.fork)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(seen), [Option.some("a"), Option.some("b"), Option.some("c")])
      assert.deepStrictEqual(yield* Correlation.Current, Option.none())
    })
  )

  it.effect("ensure keeps an id and makes one where there is none; without drops it", () =>
    Effect.gen(function* () {
      const kept = yield* Correlation.within(Correlation.ensure(Correlation.Current), "kept")
      assert.deepStrictEqual(kept, Option.some("kept"))
      assert.isTrue(Option.isSome(yield* Correlation.ensure(Correlation.Current)))
      assert.deepStrictEqual(
        yield* Correlation.within(Correlation.without(Correlation.Current), "dropped"),
        Option.none()
      )
    })
  )

  it.effect("log lines and spans carry the id of the caller, also through a layer that another caller built", () => {
    const lines: Array<Line> = []
    const spans: Array<Tracer.Span> = []
    class Shared extends Context.Tag("Shared")<Shared, { readonly work: Effect.Effect<void> }>() {}
    const shared = Layer.effect(
      Shared,
      Effect.as(Effect.log("built"), { work: Effect.withSpan(Effect.log("worked"), "work") })
    )
    return Effect.gen(function* () {
      const context = yield* Correlation.within(Layer.build(shared), "first")
      const use = Effect.flatMap(Context.get(context, Shared).work, () => Effect.void)
      yield* Correlation.within(use, "second")
      yield* Effect.fork(Correlation.within(use, "third")).pipe(Effect.flatMap(Fiber.join))
      yield* use
      yield* Effect.annotateLogs(Correlation.within(Effect.log("named"), "x"), Correlation.logAnnotation, "own")
      assert.deepStrictEqual(lines, [
        { message: "built", id: "first" },
        { message: "worked", id: "second" },
        { message: "worked", id: "third" },
        { message: "worked", id: undefined },
        { message: "named", id: "own" }
      ])
      assert.deepStrictEqual(
        spans.map((span) => span.attributes.get(Correlation.spanAttribute)),
        ["second", "third", undefined]
      )
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.provideMerge(
          Correlation.layer,
          Layer.merge(recordingLogger(lines), Layer.setTracer(recordingTracer(spans)))
        )
      )
    )
  })

  describe("over HTTP", () => {
    const router = HttpRouter.empty.pipe(
      HttpRouter.get(
        "/id",
        Effect.map(Correlation.Current, (id) => HttpServerResponse.text(Option.getOrElse(id, () => "none")))
      ),
      HttpRouter.get("/fail", Effect.fail("no" as const)),
      HttpRouter.get("/die", Effect.die(new Error("no"))),
      HttpRouter.get(
        "/stream",
        Effect.succeed(
          HttpServerResponse.stream(
            Stream.fromEffect(
              Effect.tap(Correlation.Current, () => Effect.log("streamed")).pipe(
                Effect.map((id) => new TextEncoder().encode(Option.getOrElse(id, () => "none")))
              )
            )
          )
        )
      ),
      HttpRouter.get(
        "/forward",
        Effect.gen(function* () {
          const request = yield* HttpServerRequest.HttpServerRequest
          const client = Correlation.propagate(yield* HttpClient.HttpClient)
          const inner = yield* client.get(`http://${request.headers.host}/id`)
          return HttpServerResponse.text(yield* inner.text)
        })
      )
    )

    const get = (path: string, id?: string) =>
      Effect.gen(function* () {
        const client = yield* HttpClient.HttpClient
        const request = HttpClientRequest.get(`${yield* baseUrl}${path}`)
        const response = yield* client.execute(
          id === undefined ? request : HttpClientRequest.setHeader(request, Correlation.header, id)
        )
        return { status: response.status, id: response.headers[Correlation.header], body: yield* response.text }
      })

    const suite = (
      name: string,
      served: Layer.Layer<never, never, HttpServer.HttpServer | HttpClient.HttpClient>,
      lines: Array<Line>
    ) =>
      describe(name, () => {
        const layer = served.pipe(
          Layer.provideMerge(random),
          Layer.provideMerge(FetchHttpClient.layer),
          Layer.provide(Layer.provideMerge(Correlation.layer, recordingLogger(lines)))
        )
        it.scopedLive("keeps a sane id, replaces any other, and answers with it whatever happens", () =>
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* get("/id", "abc-1"), { status: 200, id: "abc-1", body: "abc-1" })
            const odd = yield* get("/id", "not sane")
            assert.match(odd.id ?? "", /^[0-9a-f-]{36}$/)
            assert.strictEqual(odd.body, odd.id)
            const without = yield* get("/id")
            assert.match(without.id ?? "", /^[0-9a-f-]{36}$/)
            assert.notStrictEqual(without.id, odd.id)
            for (const [path, status] of [
              ["/fail", 500],
              ["/die", 500],
              ["/nowhere", 404]
            ] as const) {
              const response = yield* get(path, "abc-2")
              assert.deepStrictEqual([response.status, response.id], [status, "abc-2"])
            }
          }).pipe(Effect.provide(layer))
        )

        it.scopedLive("the body that is streamed after the handler has returned runs under the id", () =>
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* get("/stream", "abc-3"), { status: 200, id: "abc-3", body: "abc-3" })
            assert.deepInclude(lines, { message: "streamed", id: "abc-3" })
          }).pipe(Effect.provide(layer))
        )

        it.scopedLive("is sent on to the next service, for each of many requests its own", () =>
          Effect.gen(function* () {
            const ids: Array<string> = Array.from({ length: 10 }, (_, n) => `call-${n}`)
            const responses = yield* Effect.forEach(ids, (id) => get("/forward", id), { concurrency: "unbounded" })
            assert.deepStrictEqual(
              responses.map((response) => response.body),
              ids
            )
          }).pipe(Effect.provide(layer))
        )
      })

    const outer: Array<Line> = []
    suite("as the middleware of the server", HttpServer.serve(router, Correlation.middleware), outer)
    const inner: Array<Line> = []
    suite("round an application", HttpServer.serve(router.pipe(Correlation.middleware)), inner)

    it.scopedLive("the server's span carries the id", () => {
      const spans: Array<Tracer.Span> = []
      return Effect.gen(function* () {
        yield* get("/id", "abc-4")
        const server = spans.find((span) => span.kind === "server")
        assert.strictEqual(server?.attributes.get(Correlation.spanAttribute), "abc-4")
      }).pipe(
        Effect.provide(
          HttpServer.serve(router, Correlation.middleware).pipe(
            Layer.provideMerge(random),
            Layer.provideMerge(FetchHttpClient.layer),
            Layer.provide(Layer.setTracer(recordingTracer(spans)))
          )
        )
      )
    })

    it.effect("a request that names an id already keeps it", () =>
      Effect.gen(function* () {
        const request = HttpClientRequest.setHeader(HttpClientRequest.get("/"), Correlation.header, "own")
        const same = yield* Correlation.within(Correlation.annotateRequest(request), "other")
        assert.strictEqual(same.headers[Correlation.header], "own")
        const bare = yield* Correlation.annotateRequest(HttpClientRequest.get("/"))
        assert.isUndefined(bare.headers[Correlation.header])
      })
    )
  })
})
