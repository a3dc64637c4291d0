/** What clients show when services, errors and callers are not as they should be. */
import { FetchHttpClient, HttpClientError, HttpClientRequest } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ExternalClient, ExternalHttp, Policy, RetryPolicy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Layer, Schema, Stream, TestClock } from "effect"
import * as Server from "./LoopbackServer.ts"

const live = Layer.merge(Recording.layer, NodeHttpClient.layerUndici)

/** All that a recording has, as text. */
const shown = Effect.gen(function* () {
  const recording = yield* Recording.Recording
  return [
    ...(yield* recording.spans).flatMap((span) => [
      JSON.stringify([span.name, [...span.attributes], span.events.map((event) => event.attributes)]),
      ...(span.status._tag === "Ended" && Exit.isFailure(span.status.exit)
        ? [Cause.pretty(span.status.exit.cause, { renderErrorCause: true }), JSON.stringify(span.status.exit)]
        : [])
    ]),
    ...(yield* recording.lines).map(
      (line) => `${line.message} ${JSON.stringify(line.annotations)} ${Cause.pretty(line.cause)}`
    )
  ].join("\n")
})

class Upstream extends Error {
  readonly _tag = "Upstream"
}

describe("secrets stay out of spans and lines", () => {
  const secret = "sk-live-abcdef0123456789"
  it.scoped.each<[string, Effect.Effect<never, unknown>]>([
    ["in a defect", Effect.die(new Error(`Bearer ${secret}`))],
    ["in what caused an error", Effect.fail(new Upstream("no", { cause: new Error(`token=${secret}`) }))],
    ["in what caused a defect", Effect.die(new Error("no", { cause: new Error(`password: ${secret}`) }))],
    ["in fields of an object that is no error", Effect.fail({ _tag: "Odd", body: { apiKey: secret } })],
    ["in a text", Effect.fail(`api_key=${secret}`)]
  ])("%s", ([, effect]) =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "x", policy: { retry: false } })
      yield* Effect.exit(client.call("a", effect))
      yield* Effect.exit(Stream.runDrain(client.stream("b", Stream.fromEffect(effect))))
      assert.notInclude(
        (yield* shown)
          .split("\n")
          // the runtime writes a line of its own about a stream's fiber
          .filter((line) => !line.includes("Fiber terminated"))
          .join("\n"),
        secret
      )
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("in the text of attributes", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "x", attributes: { url: `https://h/?api_key=${secret}` } })
      yield* client.call("a", Effect.void, { attributes: { note: `Bearer ${secret}`, more: { token: secret } } })
      assert.notInclude(yield* shown, secret)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("in parameters that only URLs know as secrets, and in the error that names the URL", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(403)])
      const http = yield* ExternalHttp.make({ service: "x", baseUrl: server.url, policy: { retry: false } })
      yield* Effect.exit(http.execute(HttpClientRequest.get("/maps?key=hunter22&q=oslo&sig=hunter23")))
      const free = yield* ExternalHttp.make({ service: "x", policy: { retry: false } })
      yield* Effect.exit(free.execute(HttpClientRequest.get("http://127.0.0.1:1/maps?key=hunter24")))
      yield* Effect.exit(http.execute(HttpClientRequest.get("http://twice/maps?key=hunter25")))
      const text = yield* shown
      assert.deepStrictEqual(
        text.split("\n").filter((line) => line.includes("hunter2")),
        []
      )
      assert.include(text, "key=<redacted>&q=oslo&sig=<redacted>")
      assert.include(text, "127.0.0.1:1/maps?key=<redacted>")
    }).pipe(Effect.provide(live))
  )

  it.scoped("a response that does not fit: the places and the schema, no value that came", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "x" })
      const Report = Schema.Struct({
        degrees: Schema.NumberFromString,
        more: Schema.parseJson(Schema.Struct({ a: Schema.Int })),
        name: Schema.String.pipe(Schema.minLength(20))
      })
      const check = (value: unknown) =>
        Effect.map(Effect.flip(client.call("a", Effect.succeed(value), { schema: Report })), (error) => error.message)
      const messages = [
        yield* check({ degrees: "hunter2", more: '{"a":1}', name: "n".repeat(20) }),
        yield* check({ degrees: "1", more: "hunter2", name: "n".repeat(20) }),
        yield* check({ degrees: "1", more: '{"a":1}', name: "hunter2" })
      ]
      assert.notInclude(messages.join(), "hunter2")
      assert.match(messages[0] ?? "", /\(degrees: expected NumberFromString\)/)
      assert.match(messages[1] ?? "", /\(more: expected /)
      assert.match(messages[2] ?? "", /\(name: expected .*20/)
    })
  )
})

describe("bodies of errors", () => {
  const read = (error: unknown) =>
    error instanceof HttpClientError.ResponseError ? error.response.text : Effect.succeed("no response")

  for (const [name, layer] of [
    ["undici", NodeHttpClient.layerUndici],
    ["fetch", FetchHttpClient.layer]
  ] as const) {
    it.scopedLive(`one that never ends does not hold the call, over ${name}`, () =>
      Effect.gen(function* () {
        const server = yield* Server.make([
          (_, response) => {
            response.writeHead(503, { "retry-after": "60" })
            response.write("busy")
          }
        ])
        const http = yield* ExternalHttp.make({ service: "x", baseUrl: server.url })
        const started = yield* Clock.currentTimeMillis
        const error = yield* Effect.flip(http.execute(HttpClientRequest.get("/")))
        assert.isBelow((yield* Clock.currentTimeMillis) - started, 4_000)
        assert.deepStrictEqual([error._tag, yield* read(error)], ["ResponseError", "busy"])
      }).pipe(Effect.provide(layer))
    )

    it.scopedLive(`one of any size is kept in part, over ${name}`, () =>
      Effect.gen(function* () {
        const flood = "x".repeat(65_536)
        const server = yield* Server.make([
          (_, response) => {
            response.writeHead(400)
            const more = () => {
              while (!response.destroyed && response.write(flood)) {}
            }
            response.on("drain", more)
            more()
          }
        ])
        const http = yield* ExternalHttp.make({ service: "x", baseUrl: server.url })
        const error = yield* Effect.flip(http.execute(HttpClientRequest.get("/")))
        assert.strictEqual((yield* read(error)).length, 1_048_576)
      }).pipe(Effect.provide(layer))
    )
  }
})

describe("what several share", () => {
  it.scoped("two clients of one service count their calls under way together; refusals have no duration", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const [a, b] = [
        yield* ExternalClient.make({ service: "shared-name" }),
        yield* ExternalClient.make({ service: "shared-name" })
      ]
      const value = (name: string) =>
        Effect.map(
          recording.metrics,
          (all) => all.find((each) => each.name === name && each.labels["service"] === "shared-name")?.after ?? 0
        )
      const gate = yield* Deferred.make<void>()
      const fibers = [
        yield* Effect.fork(a.call("x", Deferred.await(gate))),
        yield* Effect.fork(b.call("x", Deferred.await(gate)))
      ]
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* value("external_calls_in_flight"), 2)
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      assert.strictEqual(yield* value("external_calls_in_flight"), 0)
      const before = yield* value("external_call_duration_seconds")
      yield* a.breaker?.setMode("forced-open") ?? Effect.void
      yield* Effect.exit(a.call("x", Effect.void))
      assert.strictEqual(yield* value("external_call_duration_seconds"), before)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("what a call leaves in the background makes calls of its own once it is over", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const server = yield* Server.make([Server.status(200)])
      const http = yield* ExternalHttp.make({ service: "x", baseUrl: server.url })
      const gate = yield* Deferred.make<void>()
      const fiber = yield* http.call(
        "begin",
        Effect.forkDaemon(Effect.zipRight(Deferred.await(gate), http.execute(HttpClientRequest.get("/later"))))
      )
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        (yield* recording.spans).map((span) => span.name),
        ["x.begin", "x.GET", "GET"]
      )
    }).pipe(Effect.provide(live))
  )

  it.scoped("operations that callers make up do not grow the metrics without end", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "many-names" })
      yield* Effect.forEach(Array.from({ length: 700 }), (_, n) => client.call(`op-${n}`, Effect.void))
      const names = new Set((yield* recording.metrics).flatMap((each) => each.labels["operation"] ?? []))
      assert.isAtMost(names.size, 501)
      assert.isTrue(names.has("other"))
    }).pipe(Effect.provide(Recording.layer))
  )
})

describe("limits", () => {
  const busy = { isRetryable: true }

  it.effect("a reset of a breaker that was held open is a change of state, for its readers and its metric", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x" })
      const fiber = yield* Effect.fork(Stream.runCollect(Stream.take(breaker.changes, 2)))
      yield* TestClock.adjust("1 milli")
      yield* breaker.setMode("forced-open")
      yield* breaker.reset
      yield* TestClock.adjust("1 milli")
      assert.deepStrictEqual(
        Array.from(yield* Fiber.join(fiber), (each) => each.to),
        ["open", "closed"]
      )
    })
  )

  it.effect("a number of retries that is none is none", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", breaker: false, timeout: false, retry: { jitter: "none" } })
      let calls = 0
      const call = Effect.suspend(() => Effect.fail({ ...busy, n: ++calls }))
      for (const retries of [Number.NaN, -3, 0.5]) yield* Effect.exit(policy.run(call, { retries }))
      assert.strictEqual(calls, 3)
    })
  )

  it.effect("a call that is made again for ever keeps the last thousand attempts", () =>
    Effect.gen(function* () {
      let calls = 0
      const policy = yield* Policy.make({
        name: "x",
        breaker: false,
        timeout: false,
        budget: false,
        retry: RetryPolicy.fixed({ delay: 0, attempts: 1_500 })
      })
      const fiber = yield* Effect.fork(
        Effect.flip(policy.run(Effect.suspend(() => Effect.fail({ ...busy, n: ++calls }))))
      )
      yield* TestClock.adjust("1 second")
      const attempts = RetryPolicy.attemptsOf(yield* Fiber.join(fiber))
      assert.deepStrictEqual(
        [calls, attempts.length, attempts[0]?.number, attempts.at(-1)?.number],
        [1500, 1000, 501, 1500]
      )
    })
  )
})
