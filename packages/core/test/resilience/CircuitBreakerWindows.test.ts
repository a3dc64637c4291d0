import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Duration, Effect, Exit, FastCheck, TestClock } from "effect"

const down = Effect.fail({ isRetryable: true })
const fail = (breaker: CircuitBreaker.CircuitBreaker, times = 1) =>
  Effect.repeatN(Effect.exit(breaker.run(down)), times - 1)
const ok = (breaker: CircuitBreaker.CircuitBreaker, times = 1) => Effect.repeatN(breaker.run(Effect.void), times - 1)
/** A call that takes that long, made and ended in one step by the clock. */
const taking = <A, E>(breaker: CircuitBreaker.CircuitBreaker, millis: number, effect: Effect.Effect<A, E>) =>
  Effect.exit(breaker.run(Effect.andThen(TestClock.adjust(millis), effect)))

const overTenSeconds = { type: "time", over: "10 seconds", failureRate: 0.5, minimumCalls: 4 } as const

describe("time window", () => {
  it.effect("counts the calls of its time, from their minimum on", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: overTenSeconds })
      yield* fail(breaker, 3)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* TestClock.adjust("11 seconds")
      // The three are forgotten, so these are three again.
      yield* fail(breaker, 3)
      assert.deepStrictEqual([yield* breaker.state, (yield* breaker.snapshot).calls], ["closed", 3])
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.effect("forgets a bucket at a time", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { ...overTenSeconds, buckets: 5, minimumCalls: 100 }
      })
      for (let second = 0; second < 10; second++) {
        yield* fail(breaker)
        yield* TestClock.adjust("1 second")
      }
      const seen: Array<number> = []
      for (let second = 10; second < 20; second++) {
        seen.push((yield* breaker.snapshot).failures)
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(seen, [8, 8, 6, 6, 4, 4, 2, 2, 0, 0])
    })
  )

  it.effect("a clock that steps back an hour does not hold the results for an hour", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { ...overTenSeconds, minimumCalls: 100 } })
      yield* TestClock.setTime(7_200_000)
      yield* fail(breaker, 3)
      yield* TestClock.setTime(3_600_000)
      assert.strictEqual((yield* breaker.snapshot).failures, 3)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* breaker.snapshot).failures, 0)
    })
  )

  it.effect("a window of moments, whose numbers are beyond what is exact, hangs nothing", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_790_000_000_000)
      const window = { type: "time", over: "1 nanos", failureRate: 0.5 } as const
      const breaker = yield* CircuitBreaker.make({ name: "x", window })
      yield* breaker.run(Effect.void)
      assert.strictEqual((yield* breaker.snapshot).calls, 1)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* breaker.snapshot).calls, 0)
      // A few milliseconds are as many buckets.
      yield* breaker.reload({ window: { ...window, over: "3 millis" } })
      for (let calls = 1; calls <= 3; calls++) {
        yield* breaker.run(Effect.void)
        assert.strictEqual((yield* breaker.snapshot).calls, calls)
        yield* TestClock.adjust("1 millis")
      }
      assert.strictEqual((yield* breaker.snapshot).calls, 2)
    })
  )

  it.effect("twenty calls in ten buckets, if nothing is said of it", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "time", over: "10 seconds", failureRate: 1 }
      })
      yield* fail(breaker, 19)
      const seen = yield* breaker.snapshot
      assert.strictEqual(seen.state, "closed")
      assert.strictEqual(seen.window.type === "time" ? seen.window.buckets.length : 0, 10)
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
    })
  )
})

describe("slow calls", () => {
  const window = { type: "count", size: 4, failureRate: 1 } as const
  const slow = { slowCallDuration: "1 second", slowCallRate: 0.5 } as const

  it.effect("open it at their rate, though they succeed", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window, ...slow })
      yield* ok(breaker, 2)
      yield* taking(breaker, 1_001, Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
      yield* taking(breaker, 1_001, Effect.void)
      assert.strictEqual(yield* breaker.state, "open")
      const { counters } = yield* breaker.snapshot
      assert.deepStrictEqual([counters.successes, counters.failures, counters.slow], [4, 0, 2])
    })
  )

  it.effect("one that takes just as long as it may is not slow; nor is one that was cancelled", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window, ...slow })
      yield* taking(breaker, 1_000, Effect.void)
      yield* taking(breaker, 9_000, Effect.interrupt)
      assert.strictEqual((yield* breaker.snapshot).counters.slow, 0)
    })
  )

  it.effect("are only counted where no rate is set", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window, slowCallDuration: "1 second" })
      for (let call = 0; call < 8; call++) yield* taking(breaker, 2_000, Effect.void)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.slow, seen.slowRate, seen.counters.slow], ["closed", 4, 1, 8])
    })
  )

  it.effect("a slow probe has not shown that the service is well", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { ...window, size: 1 }, ...slow })
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      yield* taking(breaker, 2_000, Effect.void)
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("30 seconds")
      yield* taking(breaker, 500, Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("fast successes do not open it, however many slow calls are in the window still", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { ...window, size: 10, minimumCalls: 3 },
        slowCallDuration: "1 second",
        slowCallRate: 0.5
      })
      yield* taking(breaker, 2_000, Effect.void)
      yield* taking(breaker, 2_000, Effect.void)
      yield* ok(breaker)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )
})

describe("rates", () => {
  it.effect("the threshold is met exactly, also by a rate that was computed with an error", () =>
    Effect.gen(function* () {
      for (const [failureRate, size, failures] of [
        [0.1 + 0.2, 10, 3],
        [0.07, 100, 7],
        [0.57, 100, 57],
        [2 / 3, 3, 2],
        [1 / 3, 3, 1],
        [1 - 0.9, 10, 1],
        [0.7, 10, 7]
      ] as const) {
        const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "count", size, failureRate } })
        yield* ok(breaker, size - failures)
        if (failures > 1) yield* fail(breaker, failures - 1)
        assert.strictEqual(yield* breaker.state, "closed", `${failureRate} of ${size}`)
        yield* fail(breaker)
        assert.strictEqual(yield* breaker.state, "open", `${failureRate} of ${size}`)
      }
    })
  )

  it.effect("one failure fewer than the rate does not open it, at any size", () =>
    Effect.gen(function* () {
      const cases = FastCheck.sample(
        FastCheck.tuple(FastCheck.integer({ min: 2, max: 60 }), FastCheck.integer({ min: 1, max: 100 })),
        40
      )
      for (const [size, percent] of cases) {
        const needed = Math.floor((size * percent + 99) / 100)
        const breaker = yield* CircuitBreaker.make({
          name: "x",
          window: { type: "count", size, failureRate: percent / 100 }
        })
        if (size > needed) yield* ok(breaker, size - needed)
        if (needed > 1) yield* fail(breaker, needed - 1)
        assert.strictEqual(yield* breaker.state, "closed", `${percent} % of ${size}`)
        yield* fail(breaker)
        assert.strictEqual(yield* breaker.state, "open", `${percent} % of ${size}`)
      }
    })
  )

  it.effect("as many probes as the success rate says, and not one more for a rounding error", () =>
    Effect.gen(function* () {
      for (const [permits, rate, needed] of [
        [100, 0.07, 7],
        [10, 0.1 + 0.2, 3],
        [3, 2 / 3, 2],
        [3, 0.5, 2],
        [1, 0.01, 1]
      ] as const) {
        const breaker = yield* CircuitBreaker.make({
          name: "x",
          window: { type: "consecutive", failures: 1 },
          halfOpenPermits: permits,
          halfOpenSuccessRate: rate
        })
        yield* fail(breaker)
        yield* TestClock.adjust("30 seconds")
        if (needed > 1) yield* ok(breaker, needed - 1)
        if (needed > 1) assert.strictEqual(yield* breaker.state, "half-open", `${rate} of ${permits}`)
        yield* ok(breaker)
        assert.strictEqual(yield* breaker.state, "closed", `${rate} of ${permits}`)
      }
    })
  )
})

describe("settings that cannot work", () => {
  const refused = (options: Omit<CircuitBreaker.Options, "name">) =>
    Effect.map(Effect.exit(CircuitBreaker.make({ ...options, name: "x" })), (exit) => {
      assert.isTrue(Exit.isFailure(exit))
      return String(exit)
    })

  it.effect("are named with what to write instead", () =>
    Effect.gen(function* () {
      const count = { type: "count", size: 10, failureRate: 0.5 } as const
      for (const [options, remedy] of [
        [{ window: { type: "time", over: 0, failureRate: 0.5 } }, "window.over is 0 ms"],
        [{ window: { type: "time", over: "1 minute", failureRate: 2 } }, "part above 0 and up to 1"],
        [{ window: { type: "time", over: "1 minute", failureRate: 0.5, buckets: 0 } }, "window.buckets is 0"],
        [{ window: { ...count, size: 1e9 } }, "from 1 to 1,000,000"],
        [{ slowCallDuration: 0 }, "slowCallDuration is 0 ms"],
        [{ window: count, slowCallRate: 0.5 }, "set slowCallDuration too"],
        [{ slowCallRate: 0.5, slowCallDuration: "1 second" }, "is not minded in a window of type"],
        [{ window: count, slowCallRate: 50, slowCallDuration: "1 second" }, "slowCallRate is 50"],
        [{ openFor: { initial: 0 } }, "openFor.initial is 0 ms"],
        [{ openFor: { initial: "1 second", factor: 0.5 } }, "give 1 or more (2 doubles the time)"],
        [{ openFor: { initial: "10 minutes" } }, "lower initial or raise max"],
        [{ openFor: Number.POSITIVE_INFINITY }, "positive, finite duration"],
        [{ openJitter: 1 }, "from 0 and below 1"],
        [{ retryAfterCap: 0 }, "the longest time that the service may ask for"],
        [{ rampUp: { over: 0, from: 0.1 } }, "rampUp.over is 0 ms"],
        [{ rampUp: { over: "1 minute", from: 0 } }, "rampUp.from is 0"],
        [{ halfOpenSuccessRate: 0 }, "halfOpenSuccessRate is 0"],
        [
          { window: { type: "time", over: "9 millis", buckets: 10, failureRate: 0.5 } },
          "lower buckets to 9 or less, or raise over"
        ],
        [{ probeLease: 0 }, "the longest time that a probe may take"],
        [{ probeLease: Duration.infinity }, "the longest time that a probe may take"]
      ] as ReadonlyArray<readonly [Omit<CircuitBreaker.Options, "name">, string]>) {
        assert.include(yield* refused(options), remedy)
      }
    })
  )

  it.effect("all of them at once", () =>
    Effect.gen(function* () {
      const said = yield* refused({ openJitter: 7, halfOpenPermits: 0, window: { type: "consecutive", failures: 0 } })
      for (const each of ["openJitter", "halfOpenPermits", "window.failures"]) assert.include(said, each)
    })
  )
})
