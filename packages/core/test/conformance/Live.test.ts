/**
 * What only the process's own timers and listeners can show.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ExternalClient, Policy } from "@underlay/core"
import { Data, Effect, Fiber, Stream, TestClock } from "effect"
import * as Timers from "../timers.ts"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy()))
const once = { window: { type: "consecutive", failures: 1 } } as const

describe("conformance, live", () => {
  it.scopedLive("settled-calls-hold-no-timer: nor a listener (cockatiel #11, #69, node-retry #26)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", timeout: "1 hour", attemptTimeout: "30 minutes" })
      const timers = yield* Timers.watch((millis) => millis > 25 * 60_000)
      const warnings: Array<Error> = []
      const listen = (warning: Error) => {
        warnings.push(warning)
      }
      process.on("warning", listen)
      yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => policy.run(Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))),
        { concurrency: "unbounded" }
      )
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      process.off("warning", listen)
      assert.isAtLeast(timers.made, 100)
      assert.strictEqual(timers.open.size, 0)
      assert.deepStrictEqual(warnings, [])
    })
  )

  it.live("health-watch-ends: open breakers with readers, seen by clients' health, hold no timers (opossum)", () =>
    Effect.gen(function* () {
      // Those of no or hardly any time are turns of the event loop.
      const timers = yield* Timers.watch((millis) => millis >= 100)
      const readers = yield* Effect.forEach(Array.from({ length: 20 }), (_, index) =>
        Effect.gen(function* () {
          const client = yield* ExternalClient.make({ service: `x${index}`, policy: { breaker: once, retry: false } })
          if (client.breaker === undefined) return assert.fail("no breaker")
          const reader = yield* Effect.fork(Stream.runDrain(client.breaker.changes))
          yield* Effect.exit(client.call("a", busy))
          assert.strictEqual(yield* client.breaker.state, "open")
          return reader
        })
      )
      assert.strictEqual(timers.open.size, 0)
      yield* Fiber.interruptAll(readers)
    }).pipe(Effect.scoped)
  )

  it.effect("many-breakers: ten thousand open ones hold no timer, and each is half-open in its time", () =>
    Effect.gen(function* () {
      const breakers = yield* Effect.forEach(Array.from({ length: 10_000 }), (_, n) =>
        CircuitBreaker.make({ ...once, name: `key-${n}` })
      )
      yield* Effect.forEach(breakers, (breaker) => Effect.exit(breaker.run(busy)), { discard: true })
      assert.strictEqual((yield* TestClock.sleeps()).length, 0)
      yield* TestClock.adjust("30 seconds")
      const states = yield* Effect.forEach(breakers, (breaker) => breaker.state)
      assert.isTrue(states.every((state) => state === "half-open"))
    })
  )

  it.effect("retry-success-costs-nothing: a call or a stream that needs no wait sets no timer", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", attemptTimeout: "1 second" })
      yield* Effect.repeatN(policy.run(Effect.void), 99)
      yield* Stream.runDrain(policy.stream(Stream.range(1, 100)))
      assert.strictEqual((yield* TestClock.sleeps()).length, 0)
    })
  )
})
