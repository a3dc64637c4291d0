/** What goes wrong around a request over `undici`: bodies that are gone, owners that are gone, dispatchers that throw. */
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import type * as Http from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Zlib from "node:zlib"
import { HttpBody, HttpClient, HttpClientError, HttpClientRequest } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ExternalHttp, HttpTransport } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Deferred, Effect, Exit, Fiber, Layer, Schedule, Scope, Stream } from "effect"
import { Exchange } from "../../src/internal/external/undiciExchange.ts"
import * as Server from "./LoopbackServer.ts"

const transport = Layer.orDie(HttpTransport.layerUndici())

const connections = (server: Http.Server): Effect.Effect<number> =>
  Effect.async((resume) => {
    server.getConnections((_, count) => resume(Effect.succeed(count)))
  })

const until = (what: string, test: Effect.Effect<boolean>) =>
  Effect.flatMap(test, (is) => (is ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("2 millis").pipe(Schedule.upTo("10 seconds")))
  )

/** Answers by a script, and keeps the bodies. */
const recording = (statuses: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const bodies: Array<string> = []
    const answer: Server.Answer = (incoming, outgoing) => {
      const nth = bodies.push("") - 1
      incoming.on("data", (part: Buffer) => {
        bodies[nth] += part.toString()
      })
      incoming.on("end", () => {
        outgoing.writeHead(statuses[Math.min(nth, statuses.length - 1)] ?? 200)
        outgoing.end()
      })
    }
    return { ...(yield* Server.make([answer])), bodies }
  })

const failedWith = (exit: Exit.Exit<unknown, unknown>, reason: string) => {
  assert.isTrue(Exit.isFailure(exit))
  if (Exit.isSuccess(exit)) return
  assert.strictEqual(exit.cause._tag, "Fail")
  if (exit.cause._tag !== "Fail") return
  assert.instanceOf(exit.cause.error, HttpClientError.RequestError)
  assert.strictEqual((exit.cause.error as HttpClientError.RequestError).reason, reason)
}

describe("a body that can be read once", () => {
  const file = Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "transport-"))
      writeFileSync(join(folder, "body"), "0123456789")
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
  )
  const bodies: ReadonlyArray<readonly [string, (folder: string) => unknown]> = [
    ["a file", (folder) => createReadStream(join(folder, "body"))],
    ["a stream of the web", () => new Blob(["0123456789"]).stream()],
    [
      "a generator",
      async function* () {
        yield Buffer.from("0123456789")
      }
    ]
  ]
  for (const [title, open] of bodies) {
    it.scopedLive(`${title}: a call that failed is not tried again, for nothing would be sent and taken for all`, () =>
      Effect.gen(function* () {
        const { bodies, url } = yield* recording([503, 200])
        const http = yield* ExternalHttp.make({
          service: "x",
          baseUrl: url,
          policy: { retry: { attempts: 3, base: "1 millis" } }
        })
        const request = HttpClientRequest.put("/o").pipe(
          HttpClientRequest.setBody(HttpBody.raw(open(yield* file), { contentType: "text/plain" }))
        )
        const error = yield* Effect.flip(http.execute(request))
        assert.strictEqual(error._tag, "ResponseError")
        assert.deepStrictEqual(bodies, ["0123456789"])
        const client = yield* HttpClient.HttpClient
        failedWith(yield* Effect.exit(client.execute(HttpClientRequest.prependUrl(request, url))), "Encode")
        assert.deepStrictEqual(bodies, ["0123456789"])
      }).pipe(Effect.provide(transport))
    )
  }

  it.scopedLive("bytes, text and streams of Effect are sent again", () =>
    Effect.gen(function* () {
      const { bodies, url } = yield* recording([503, 200, 503, 200, 503, 200])
      const http = yield* ExternalHttp.make({
        service: "x",
        baseUrl: url,
        policy: { retry: { attempts: 3, base: "1 millis" } }
      })
      for (const body of [
        HttpBody.text("0123456789"),
        HttpBody.raw("0123456789"),
        HttpBody.stream(Stream.make(Buffer.from("0123456789")))
      ]) {
        yield* http.execute(HttpClientRequest.put("/o").pipe(HttpClientRequest.setBody(body)))
      }
      assert.deepStrictEqual(
        bodies,
        Array.from({ length: 6 }, () => "0123456789")
      )
    }).pipe(Effect.provide(transport))
  )
})

describe("a request that is not sent", () => {
  it.scopedLive("its body fails while it waits for a connection: nothing is unhandled, and it fails in its turn", () =>
    Effect.gen(function* () {
      const open: Array<Http.ServerResponse> = []
      const { asked, url } = yield* Server.make([
        (_, outgoing) => {
          open.push(outgoing)
        }
      ])
      const unhandled: Array<unknown> = []
      const hear = (error: unknown) => unhandled.push(error)
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("uncaughtExceptionMonitor", hear)),
        () => Effect.sync(() => process.off("uncaughtExceptionMonitor", hear))
      )
      const client = yield* HttpTransport.make({ connections: 2 })
      const others = yield* Effect.fork(
        Effect.all([client.execute(HttpClientRequest.get(url)), client.execute(HttpClientRequest.get(url))], {
          concurrency: 2
        })
      )
      yield* until(
        "both are asked",
        Effect.sync(() => asked.length === 2)
      )
      const failed = yield* Deferred.make<void>()
      const broken = Stream.fromEffect(Effect.fail("broken")).pipe(Stream.ensuring(Deferred.succeed(failed, undefined)))
      const waiting = yield* Effect.fork(
        Effect.exit(
          client.execute(HttpClientRequest.post(url).pipe(HttpClientRequest.setBody(HttpBody.stream(broken))))
        )
      )
      yield* Deferred.await(failed)
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(() => setImmediate(resolve))))
      for (const one of open) one.end()
      yield* Effect.forEach(yield* Fiber.join(others), (response) => response.text)
      failedWith(yield* Fiber.join(waiting), "Transport")
      assert.deepStrictEqual(unhandled, [])
    })
  )

  it.scopedLive("a dispatcher that throws: a typed error, and the body is released", () =>
    Effect.gen(function* () {
      const released = yield* Deferred.make<void>()
      const client = HttpTransport.fromDispatcher({
        dispatch: () => {
          throw new Error("no")
        }
      })
      const body = Stream.concat(Stream.make(Buffer.from("x")), Stream.never).pipe(
        Stream.ensuring(Deferred.succeed(released, undefined))
      )
      const exit = yield* Effect.exit(
        client.execute(
          HttpClientRequest.post("http://127.0.0.1:1").pipe(HttpClientRequest.setBody(HttpBody.stream(body)))
        )
      )
      failedWith(exit, "Transport")
      yield* Effect.timeout(Deferred.await(released), "10 seconds")
    })
  )

  it.scopedLive("its owner is gone: nothing goes out", () =>
    Effect.gen(function* () {
      const { asked, url } = yield* Server.make([Server.status(200)])
      const client = HttpClient.withScope(yield* HttpClient.HttpClient)
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      failedWith(yield* Effect.exit(Scope.extend(client.execute(HttpClientRequest.post(url)), scope)), "Transport")
      assert.deepStrictEqual(asked, [])
    }).pipe(Effect.provide(transport))
  )
})

describe("compression", () => {
  it.scopedLive("what comes behind the end of what was compressed does not hold the connection", () =>
    Effect.gen(function* () {
      const { server, url } = yield* Server.make([
        (_, outgoing) => {
          outgoing.writeHead(200, { "content-encoding": "br" })
          outgoing.write(Buffer.concat([Zlib.brotliCompressSync("x"), Buffer.from([0])]))
        }
      ])
      const client = yield* HttpTransport.make({ compression: true })
      const response = yield* client.execute(HttpClientRequest.get(url))
      assert.strictEqual(yield* response.text, "x")
      yield* until(
        "no connection",
        Effect.map(connections(server), (count) => count === 0)
      )
    })
  )

  for (const coding of ["gzip", "br"]) {
    it.scopedLive(`an empty body that is said to be ${coding} is empty`, () =>
      Effect.gen(function* () {
        const { url } = yield* Server.make([Server.status(202, { "content-encoding": coding, "content-length": "0" })])
        const client = yield* HttpTransport.make({ compression: true })
        const response = yield* client.execute(HttpClientRequest.post(url))
        assert.strictEqual(yield* response.text, "")
      })
    )
  }
})

it.effect("what came between the look and the waiting is not waited for", () =>
  Effect.gen(function* () {
    const controller = { abort: () => {}, pause: () => {}, resume: () => {} }
    const ended = new Exchange(null, undefined)
    ended.onRequestStart(controller)
    ended.onResponseStart(controller, 200, {})
    ended.onResponseEnd()
    yield* Effect.promise(() => ended.next())
    const open = new Exchange(null, undefined)
    open.onRequestStart(controller)
    open.onResponseStart(controller, 200, {})
    open.onResponseData(controller, Buffer.from("x"))
    yield* Effect.promise(() => open.next())
    assert.strictEqual(Buffer.concat(open.take()).toString(), "x")
    let woken = false
    const waiting = open.next().then(() => {
      woken = true
    })
    yield* Effect.promise(() => Promise.resolve())
    assert.isFalse(woken)
    open.onResponseError(controller, new Error("gone"))
    yield* Effect.promise(() => waiting)
    assert.isTrue(woken)
  })
)

it.scopedLive("the parameters of one request are not shown as those of the next to the same place", () =>
  Effect.gen(function* () {
    const { url } = yield* Server.make([Server.status(200)])
    const http = yield* ExternalHttp.make({ service: "x", baseUrl: url })
    const place = "/of-this-test"
    yield* http.execute(HttpClientRequest.get(place, { urlParams: { q: "alice" } }))
    yield* http.execute(HttpClientRequest.get(place))
    yield* http.execute(HttpClientRequest.get(place))
    const spans = yield* Effect.flatMap(Recording.Recording, (recording) => recording.spans)
    const shown = spans.filter((span) => span.name === "GET").map((span) => span.attributes.get("url.full"))
    assert.deepStrictEqual(shown.slice(-2), [`${url}${place}`, `${url}${place}`])
  }).pipe(Effect.provide([transport, Recording.layer]))
)
