import { assert, describe, it } from "@effect/vitest"
import { Policy } from "@underlay/core"
import { Data, Effect, Fiber, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const lines = (policy: Policy.Policy) =>
  Object.fromEntries(
    policy.description
      .split("\n")
      .slice(1, -1)
      .map((line) => line.trim().split(/ {2,}/))
  )

describe("Policy.standard", () => {
  it.effect("has the settings that its documentation names", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.standard({ name: "weather" })
      const found = lines(policy)
      assert.strictEqual(found["total timeout"], "30s")
      assert.strictEqual(found["attempt timeout"], "10s")
      assert.strictEqual(found["retry"], "3 attempts, waits of 1s x 2 up to 30s, full jitter")
      assert.strictEqual(found["retry budget"], "20 % of the calls and 10 a second")
      assert.include(found["bulkhead"], "at most 100 at once, 100 wait up to 2s")
      assert.include(found["circuit breaker"], "50 %")
      assert.isUndefined(policy.hedge)
    })
  )

  it.effect("opens at half failures of the last 30 seconds, from 20 calls on", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.standard({ name: "weather", retry: false })
      const breaker = yield* Effect.fromNullable(policy.breaker)
      for (let n = 0; n < 9; n++) yield* Effect.ignore(policy.run(Effect.fail(new Busy())))
      for (let n = 0; n < 10; n++) yield* policy.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* Effect.ignore(policy.run(Effect.fail(new Busy())))
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* breaker.state, "half-open")
    })
  )

  it.effect("what is given stands in place of what it has, what is undefined does not", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.standard({
        name: "weather",
        timeout: "20 seconds",
        attemptTimeout: undefined,
        bulkhead: undefined,
        breaker: false
      })
      const found = lines(policy)
      assert.strictEqual(found["total timeout"], "20s")
      assert.strictEqual(found["attempt timeout"], "10s")
      assert.include(found["bulkhead"], "at most 100")
      assert.isUndefined(policy.breaker)
    })
  )

  it.effect("and is checked with it", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Policy.standard({ name: "weather", timeout: "5 seconds" }))
      assert.include(error.message, "attemptTimeout (10s) is longer than timeout (5s)")
    })
  )

  it.effect("runs", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.standard({ name: "weather" })
      let calls = 0
      const fiber = yield* Effect.fork(
        policy.run(Effect.suspend(() => (++calls < 3 ? Effect.fail(new Busy()) : Effect.succeed(calls))))
      )
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 3)
    })
  )
})

describe("Policy.standardHedged", () => {
  it.effect("hedges what is slower than 95 of 100, at first after 2 seconds", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.standardHedged({ name: "weather" })
      assert.strictEqual(policy.hedge !== undefined, true)
      let calls = 0
      const fiber = yield* Effect.fork(
        policy.run(Effect.suspend(() => (++calls === 1 ? Effect.never : Effect.succeed("second"))))
      )
      yield* TestClock.adjust("1999 millis")
      assert.strictEqual(calls, 1)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "second")
    })
  )

  it.effect("is refused for calls that must not happen twice", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Policy.standardHedged({ name: "weather", idempotent: false, retry: false, hedge: undefined })
      )
      assert.include(error.message, "hedge is set but idempotent is false")
      yield* Policy.standardHedged({ name: "weather", idempotent: false, retry: false, hedge: false })
    })
  )
})
