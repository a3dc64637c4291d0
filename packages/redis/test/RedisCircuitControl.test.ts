import { assert, describe, it, layer } from "@effect/vitest"
import { CircuitBreaker, CircuitControl } from "@underlay/core"
import { CircuitControlSuite, Recording, Suite } from "@underlay/core/testing"
import { RedisCircuitControl, RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Deferred, Duration, Effect, Fiber, Layer, Queue, Stream, TestClock, TestServices } from "effect"
import { advanceCircuits as advance, send } from "./limits.ts"
import { client, pause, RedisServer, server } from "./support.ts"

const real = RedisCircuitControl.layer().pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

/** Until it holds, in time of the machine's own: a server does it in its own time. */
const eventually = <E, R>(what: string, holds: Effect.Effect<boolean, E, R>): Effect.Effect<void, E, R> => {
  const look = (left: number): Effect.Effect<void, E, R> =>
    Effect.flatMap(holds, (yes) => {
      if (yes) return Effect.void
      return left === 0 ? Effect.dieMessage(`never: ${what}`) : Effect.zipRight(pause(10), look(left - 1))
    })
  return look(1_000)
}

describe.skipIf(Need.missing("redis-server"))(Need.title("CircuitControl on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = CircuitControlSuite.make({ advance })
    for (const one of Suite.applicable(suite, ["tells"])) it.effect(one.name, () => one.run)
  })

  it.scoped("an override ends by the server's clock, whatever the clocks of those who set and read it say", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      // the clock of who sets it is in 1970, and then ten hours on
      yield* control.set("a", "forced-open", { for: "1 hour" })
      yield* TestClock.adjust("10 hours")
      const [mine] = yield* control.overrides
      const left = (mine?.until ?? 0) - Duration.toMillis("10 hours")
      assert.isTrue(left > 3_590_000 && left <= 3_601_000, `an hour from the reader's now on: ${left}`)
      const [real] = yield* TestServices.provideLive(control.overrides)
      assert.isTrue((real?.until ?? 0) > Date.UTC(2024), "by a clock like the server's as the server keeps it")
      yield* advance(Duration.hours(1))
      assert.deepStrictEqual(yield* control.overrides, [])
      assert.strictEqual(yield* send("HLEN", "circuit-control"), 0, "what is over goes")
    }).pipe(Effect.provide(real))
  )

  it.scoped("what is kept is JSON of the schema, in a hash that has a time to live", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("hosts/a", "metrics-only", { reason: 'say "it" \\ }' })
      assert.deepStrictEqual(JSON.parse(String(yield* send("HGET", "circuit-control", "hosts/a"))), {
        name: "hosts/a",
        mode: "metrics-only",
        until: null,
        reason: 'say "it" \\ }'
      })
      const days = Number(yield* send("PTTL", "circuit-control")) / 86_400_000
      assert.isTrue(days > 89 && days <= 90)
      yield* send("PEXPIRE", "circuit-control", 1_000_000)
      yield* control.overrides
      assert.isAbove(Number(yield* send("PTTL", "circuit-control")), 1_000_000, "whoever reads it keeps it")
    }).pipe(Effect.provide(real))
  )

  it.scoped("a reason that looks like an end is none", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("a", "disabled", { reason: '"until":1}' })
      yield* control.set("b", "disabled", { reason: '"until":1', for: "1 hour" })
      yield* control.set('"until":2', "disabled")
      assert.strictEqual((yield* control.overrides).length, 3)
      assert.isTrue(yield* control.clear("a"))
    }).pipe(Effect.provide(real))
  )

  it.scoped("what is over is nothing to clear, also where nobody has read since", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("a", "disabled", { for: "1 minute" })
      yield* advance(Duration.seconds(62))
      assert.isFalse(yield* control.clear("a"))
      assert.strictEqual(yield* send("HLEN", "circuit-control"), 0)
    }).pipe(Effect.provide(real))
  )

  it.scoped("an override that nobody can read is left out, with one warning, and the others hold", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("a", "forced-open")
      for (const [index, text] of ["", "{", "null", '{"name":"x","mode":"odd","until":null,"reason":null}'].entries()) {
        yield* send("HSET", "circuit-control", `x${index}`, text)
      }
      const recording = yield* Recording.make
      yield* recording.within(Effect.repeatN(control.overrides, 3))
      assert.deepStrictEqual(
        (yield* recording.lines).map((line) => line.level.label),
        ["WARN"]
      )
      assert.deepStrictEqual(
        (yield* control.overrides).map((each) => each.name),
        ["a"]
      )
    }).pipe(Effect.provide(real))
  )

  it.scoped("a key of another type, and a server that is away, are typed failures", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* send("SET", "circuit-control", "text")
      assert.strictEqual((yield* Effect.flip(control.overrides)).reason, "Rejected")
      assert.strictEqual((yield* Effect.flip(control.set("a", "disabled"))).reason, "Rejected")
      const { kill } = yield* RedisServer
      yield* kill
      for (const each of [control.overrides, control.set("a", "disabled"), Effect.asVoid(control.clear("a"))]) {
        const error = yield* Effect.flip(Effect.asVoid(each))
        assert.include(["Unavailable", "Timeout"], error.reason)
        assert.isTrue(error.isRetryable)
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped("two systems on one server have keys of their own", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const [one, other] = [
        RedisCircuitControl.make(redis, { key: "one" }),
        RedisCircuitControl.make(redis, { key: "other" })
      ]
      const heard = yield* Deferred.make<void>()
      let times = 0
      const listener = yield* other.changes.pipe(
        Stream.runForEach(() => {
          times++
          return Deferred.succeed(heard, undefined)
        }),
        Effect.fork
      )
      yield* Deferred.await(heard)
      yield* one.set("a", "disabled")
      assert.deepStrictEqual(yield* other.overrides, [])
      assert.strictEqual((yield* one.overrides).length, 1)
      assert.strictEqual(times, 1)
      yield* Fiber.interrupt(listener)
    }).pipe(Effect.provide(real))
  )

  it.scoped("a breaker that follows does what another process says, also after the server was away", () =>
    TestServices.provideLive(
      Effect.gen(function* () {
        const control = yield* CircuitControl.CircuitControl
        const { kill, start } = yield* RedisServer
        const breaker = yield* CircuitBreaker.make({ name: "payments" })
        const call = Effect.map(Effect.either(breaker.run(Effect.void)), (result) => result._tag)
        // what is not told is found after longer than this test takes
        yield* CircuitControl.follow(breaker, { refresh: "1 hour" })
        assert.strictEqual(yield* call, "Right")
        yield* control.set("payments", "forced-open")
        yield* eventually(
          "open",
          Effect.map(call, (tag) => tag === "Left")
        )
        yield* control.clear("payments")
        yield* eventually(
          "closed",
          Effect.map(call, (tag) => tag === "Right")
        )
        yield* kill
        yield* start
        yield* eventually("back", Effect.isSuccess(control.set("payments", "forced-open")))
        yield* eventually(
          "open again",
          Effect.map(call, (tag) => tag === "Left")
        )
      })
    ).pipe(Effect.provide(real))
  )

  it.scoped("says that changes may have been missed when its connection was lost and is back", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      const { command } = yield* RedisServer
      const heard = yield* Queue.unbounded<void>()
      yield* Effect.forkScoped(Stream.runForEach(control.changes, () => Queue.offer(heard, undefined)))
      yield* Queue.take(heard)
      yield* command("CLIENT", "KILL", "TYPE", "pubsub")
      yield* Queue.take(heard)
      yield* control.set("a", "disabled")
      yield* Queue.take(heard)
    }).pipe(Effect.provide(real))
  )

  it.scoped("emits nothing: no span, no log line, no metric", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          for (let n = 0; n < 20; n++) {
            yield* control.set(`${n}`, "disabled", { for: "1 minute" })
            yield* control.overrides
            yield* control.clear(`${n}`)
          }
          yield* control.changes.pipe(Stream.take(1), Stream.runDrain)
        })
      )
    }).pipe(Effect.provide(real))
  )
})
