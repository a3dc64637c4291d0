import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Chunk, Data, Deferred, Duration, Effect, Exit, Fiber, Stream, TestClock } from "effect"

class Down extends Data.TaggedError("Down") {
  get isRetryable() {
    return true
  }
}
class Refused extends Data.TaggedError("Refused") {
  get isRetryable() {
    return false
  }
}

const down = Effect.fail(new Down())
const fail = (breaker: CircuitBreaker.CircuitBreaker, times = 1) =>
  Effect.repeatN(Effect.exit(breaker.run(down)), times - 1)

describe("CircuitBreaker", () => {
  it.effect("opens after five failures in a row, refuses with the time that is left, closes after a good probe", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "weather" })
      yield* fail(breaker, 4)
      yield* breaker.run(Effect.void)
      yield* fail(breaker, 4)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("10 seconds")
      const error = yield* Effect.flip(breaker.run(Effect.die("not reached")))
      assert.deepStrictEqual([error.service, error.retryAfter], ["weather", Duration.seconds(20)])
      assert.strictEqual(error.message, "weather: the circuit is open, ask again in 20s")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* breaker.state, "half-open")
      assert.strictEqual(yield* breaker.run(Effect.succeed(1)), 1)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("opens again after a bad probe; the time open can grow", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "consecutive", failures: 1 },
        openFor: (openings) => Duration.seconds(10 * openings)
      })
      yield* fail(breaker)
      yield* TestClock.adjust("10 seconds")
      yield* fail(breaker)
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(20))
      yield* TestClock.adjust("20 seconds")
      yield* breaker.run(Effect.void)
      yield* fail(breaker)
      assert.deepStrictEqual((yield* Effect.flip(breaker.run(Effect.void))).retryAfter, Duration.seconds(10))
    })
  )

  it.effect("count window: the rate counts from the minimum of calls on, and old results fall out", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "count", size: 10, failureRate: 0.5, minimumCalls: 4 }
      })
      yield* fail(breaker, 3)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* Effect.repeatN(breaker.run(Effect.void), 9)
      yield* fail(breaker, 4)
      // the last ten: six successes and four failures
      assert.strictEqual(yield* breaker.state, "closed")
      assert.strictEqual((yield* breaker.snapshot).failures, 4)
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.effect("what counts: transient and unknown errors and defects; not permanent ones, not interruption", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 1000 } })
      const failures = Effect.map(breaker.snapshot, (seen) => seen.failures)
      yield* fail(breaker)
      yield* Effect.exit(breaker.run(Effect.fail("unknown")))
      yield* Effect.exit(breaker.run(Effect.die("bug")))
      assert.strictEqual(yield* failures, 3)
      yield* Effect.exit(breaker.run(Effect.fail({ status: 429 })))
      yield* Effect.exit(breaker.run(Effect.interrupt))
      assert.strictEqual(yield* failures, 3)
      yield* Effect.exit(breaker.run(Effect.fail(new Refused())))
      assert.strictEqual(yield* failures, 0)
    })
  )

  it.effect("half-open with several probes and a success ratio", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "consecutive", failures: 1 },
        halfOpenPermits: 4,
        halfOpenSuccessRate: 0.5
      })
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      yield* fail(breaker, 2)
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      yield* fail(breaker, 3)
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.effect("half-open under 500 callers: one probe, the rest refused, also in the moment after it", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 1 } })
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      const gate = yield* Deferred.make<void>()
      let inFlight = 0
      let most = 0
      const call = breaker.run(
        Effect.acquireUseRelease(
          Effect.sync(() => {
            inFlight++
            most = Math.max(most, inFlight)
          }),
          () => Deferred.await(gate),
          () => Effect.sync(() => inFlight--)
        )
      )
      const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () => Effect.fork(Effect.exit(call)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(most, 1)
      yield* Deferred.succeed(gate, undefined)
      const exits = yield* Effect.forEach(fibers, Fiber.join)
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.strictEqual(most, 1)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.counters.rejected, seen.probesInFlight], ["closed", 499, 0])
    })
  )

  it.effect("500 interrupted calls leave no permit and no failure behind, closed and half-open", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "consecutive", failures: 1 },
        halfOpenPermits: 500
      })
      const interrupted = Effect.gen(function* () {
        const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () => Effect.fork(breaker.run(Effect.never)))
        yield* TestClock.adjust("1 milli")
        const before = (yield* breaker.snapshot).probesInFlight
        yield* Fiber.interruptAll(fibers)
        return before
      })
      yield* interrupted
      assert.strictEqual(yield* breaker.state, "closed")
      assert.strictEqual((yield* breaker.snapshot).counters.neutral, 500)
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* interrupted, 500)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.probesInFlight, seen.counters.neutral], ["half-open", 0, 1000])
    })
  )

  it.effect("a probe that never settles loses its lease, and its late result changes nothing", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "consecutive", failures: 1 },
        probeLease: "5 seconds"
      })
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      const gate = yield* Deferred.make<void, Down>()
      const stuck = yield* Effect.fork(Effect.exit(breaker.run(Deferred.await(gate))))
      yield* TestClock.adjust("4 seconds")
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(1))
      yield* TestClock.adjust("1 second")
      const second = yield* Deferred.make<void>()
      const probe = yield* Effect.fork(breaker.run(Deferred.await(second)))
      yield* TestClock.adjust("1 milli")
      yield* Deferred.fail(gate, new Down())
      yield* Fiber.join(stuck)
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* Deferred.succeed(second, undefined)
      yield* Fiber.join(probe)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.counters.leasesLost, seen.counters.stale], ["closed", 1, 1])
    })
  )

  it.effect("forced open, disabled, and back", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 1 } })
      yield* breaker.setMode("forced-open")
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.isFalse(Duration.isFinite(error.retryAfter))
      yield* breaker.setMode("disabled")
      yield* fail(breaker, 10)
      assert.strictEqual(yield* breaker.run(Effect.succeed(1)), 1)
      yield* breaker.setMode("automatic")
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
      yield* breaker.reset
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("tells of its changes", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 1 } })
      const fiber = yield* Effect.fork(Stream.runCollect(Stream.take(breaker.changes, 3)))
      yield* Effect.yieldNow()
      yield* TestClock.adjust("1 second")
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      yield* breaker.run(Effect.void)
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(fiber)), [
        { from: "closed", to: "open", at: 1_000 },
        { from: "open", to: "half-open", at: 31_000 },
        { from: "half-open", to: "closed", at: 31_000 }
      ])
    })
  )

  it.effect("settings that cannot work are defects that name the remedy", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(
        CircuitBreaker.make({ name: "x", window: { type: "count", size: 5, failureRate: 0.5, minimumCalls: 10 } })
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.include(String(exit), "lower minimumCalls or raise size")
    })
  )

  it.effect("a refusal has no stack", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x" })
      yield* breaker.setMode("forced-open")
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.isFalse(error instanceof Error)
      assert.notProperty(error, "stack")
    })
  )
})
