import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Deferred, Duration, Effect, Exit, Fiber, Random, TestClock } from "effect"

const down = Effect.fail({ isRetryable: true })
const once = { name: "x", window: { type: "consecutive", failures: 1 } } as const
const fail = (breaker: CircuitBreaker.CircuitBreaker) => Effect.exit(breaker.run(down))
/** For how long it refuses. */
const refusedFor = (breaker: CircuitBreaker.CircuitBreaker) =>
  Effect.map(Effect.flip(breaker.run(Effect.die("not to be reached"))), (error) => Duration.toMillis(error.retryAfter))

describe("open time", () => {
  it.effect("grows by a factor up to its maximum, and is the first one again after closing", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        ...once,
        openFor: { initial: "1 second", factor: 3, max: "10 seconds" }
      })
      const times: Array<number> = []
      for (let opening = 0; opening < 5; opening++) {
        yield* fail(breaker)
        const millis = yield* refusedFor(breaker)
        times.push(millis)
        yield* TestClock.adjust(millis)
      }
      assert.deepStrictEqual(times, [1_000, 3_000, 9_000, 10_000, 10_000])
      yield* breaker.run(Effect.void)
      yield* fail(breaker)
      assert.strictEqual(yield* refusedFor(breaker), 1_000)
    })
  )

  it.effect("doubles up to five minutes, if nothing is said of it", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, openFor: { initial: "100 seconds" } })
      const times: Array<number> = []
      for (let opening = 0; opening < 4; opening++) {
        yield* fail(breaker)
        times.push(yield* refusedFor(breaker))
        yield* TestClock.adjust("5 minutes")
      }
      assert.deepStrictEqual(times, [100_000, 200_000, 300_000, 300_000])
    })
  )

  it.effect("does not grow beyond what a number can hold", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, openFor: { initial: 1, factor: 1e10, max: "1 minute" } })
      for (let opening = 0; opening < 50; opening++) {
        yield* fail(breaker)
        yield* TestClock.adjust("1 minute")
      }
      yield* fail(breaker)
      assert.strictEqual(yield* refusedFor(breaker), 60_000)
    })
  )

  it.effect("a function that throws or gives no time does not wedge it: 30 seconds", () =>
    Effect.gen(function* () {
      for (const openFor of [
        () => Number.POSITIVE_INFINITY,
        () => {
          throw new Error("a bug")
        }
      ]) {
        const breaker = yield* CircuitBreaker.make({ ...once, openFor })
        yield* fail(breaker)
        assert.strictEqual(yield* refusedFor(breaker), 30_000)
      }
    })
  )

  it.effect("jitter shortens it, by the Random of the fiber that opened it", () =>
    Effect.gen(function* () {
      const opened = (seed: string) =>
        Effect.gen(function* () {
          const breaker = yield* CircuitBreaker.make({ ...once, openFor: "10 seconds", openJitter: 0.5 })
          const times: Array<number> = []
          for (let opening = 0; opening < 20; opening++) {
            yield* fail(breaker)
            times.push(yield* refusedFor(breaker))
            yield* TestClock.adjust("10 seconds")
          }
          return times
        }).pipe(Effect.withRandom(Random.make(seed)))
      const times = yield* opened("a")
      assert.deepStrictEqual(yield* opened("a"), times)
      assert.notDeepEqual(yield* opened("b"), times)
      assert.isAbove(new Set(times).size, 10)
      assert.isTrue(times.every((millis) => millis >= 5_000 && millis <= 10_000))
    })
  )

  it.effect("or by a given function, whose nonsense is none", () =>
    Effect.gen(function* () {
      for (const [random, millis] of [
        [0, 10_000],
        [1, 8_000],
        [0.5, 9_000],
        [Number.NaN, 10_000],
        [-5, 10_000],
        ["throws", 10_000]
      ] as const) {
        const breaker = yield* CircuitBreaker.make({
          ...once,
          openFor: "10 seconds",
          openJitter: 0.2,
          random: () => {
            if (random === "throws") throw new Error("a bug")
            return random
          }
        })
        yield* fail(breaker)
        assert.strictEqual(yield* refusedFor(breaker), millis)
      }
    })
  )

  it.effect("the service's own wish is the least, up to the cap, where it is minded", () =>
    Effect.gen(function* () {
      const openedFor = (retryAfterCap: Duration.DurationInput | undefined, error: object) =>
        Effect.gen(function* () {
          const breaker = yield* CircuitBreaker.make({ ...once, openFor: "10 seconds", retryAfterCap })
          yield* Effect.exit(breaker.run(Effect.fail(error)))
          return yield* refusedFor(breaker)
        })
      const asking = (seconds: number) => ({ errorClass: "transient", retryAfter: Duration.seconds(seconds) })
      assert.strictEqual(yield* openedFor("1 minute", asking(45)), 45_000)
      assert.strictEqual(yield* openedFor("1 minute", asking(3)), 10_000)
      assert.strictEqual(yield* openedFor("1 minute", asking(3_600)), 60_000)
      assert.strictEqual(yield* openedFor(undefined, asking(45)), 10_000)
      // As a moment, which an HTTP date is.
      yield* TestClock.setTime(Date.UTC(2026, 0, 1))
      const date = { status: 503, headers: { "retry-after": "Thu, 01 Jan 2026 00:00:20 GMT" } }
      assert.strictEqual(yield* openedFor("1 minute", date), 20_000)
    })
  )

  it.effect("a clock that steps back an hour does not keep it open for an hour", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(7_200_000)
      const breaker = yield* CircuitBreaker.make(once)
      yield* fail(breaker)
      yield* TestClock.setTime(3_600_000)
      assert.strictEqual(yield* refusedFor(breaker), 30_000)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* breaker.state, "half-open")
    })
  )
})

/** A breaker that lets probes through, 500 callers that come at once, and what they met. */
const herd = (options: Omit<CircuitBreaker.Options, "name" | "window">) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({ ...once, ...options })
    yield* fail(breaker)
    yield* TestClock.adjust("30 seconds")
    const gate = yield* Deferred.make<void, unknown>()
    const seen = { inFlight: 0, most: 0, calls: 0 }
    const call = breaker.run(
      Effect.acquireUseRelease(
        Effect.sync(() => {
          seen.calls++
          seen.inFlight++
          seen.most = Math.max(seen.most, seen.inFlight)
        }),
        () => Deferred.await(gate),
        () => Effect.sync(() => seen.inFlight--)
      )
    )
    const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () => Effect.fork(Effect.exit(call)))
    yield* Effect.yieldNow()
    return { breaker, gate, seen, call, fibers }
  })

describe("half-open under 500 waiting callers", () => {
  it.effect("never more than the permitted probes are in flight, and no herd after them", () =>
    Effect.gen(function* () {
      for (const halfOpenPermits of [1, 3, 10]) {
        const { breaker, fibers, gate, seen } = yield* herd({ halfOpenPermits })
        assert.deepStrictEqual(
          [seen.most, (yield* breaker.snapshot).probesInFlight],
          [halfOpenPermits, halfOpenPermits]
        )
        yield* Deferred.succeed(gate, undefined)
        const exits = yield* Effect.forEach(fibers, Fiber.join)
        assert.strictEqual(exits.filter(Exit.isSuccess).length, halfOpenPermits)
        assert.strictEqual(seen.most, halfOpenPermits)
        const after = yield* breaker.snapshot
        assert.deepStrictEqual([after.state, after.inFlight, after.probesInFlight], ["closed", 0, 0])
      }
    })
  )

  it.effect("callers that try again and again still meet no more than the permits, whatever the probes do", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        ...once,
        halfOpenPermits: 2,
        probeLease: "5 seconds",
        openFor: "2 seconds"
      })
      yield* fail(breaker)
      let probing = 0
      let most = 0
      let calls = 0
      const call = breaker.run(
        Effect.acquireUseRelease(
          Effect.sync(() => {
            calls++
            probing++
            most = Math.max(most, probing)
            return calls % 5
          }),
          // Fails, dies, is limited, takes its time, gives up.
          (how) =>
            Effect.andThen(
              Effect.sleep(how * 300 + 100),
              [down, Effect.die("bug"), Effect.fail({ errorClass: "rate-limited" }), down, Effect.interrupt][how] ??
                down
            ),
          () => Effect.sync(() => probing--)
        )
      )
      for (let round = 0; round < 30; round++) {
        yield* Effect.forEach(Array.from({ length: 500 }), () => Effect.fork(Effect.exit(call)))
        yield* TestClock.adjust("700 millis")
      }
      yield* TestClock.adjust("10 seconds")
      assert.isAbove(calls, 10)
      assert.strictEqual(most, 2)
      const after = yield* breaker.snapshot
      assert.deepStrictEqual([after.inFlight, after.probesInFlight], [0, 0])
    })
  )

  it.effect("after a good probe the calls come back slowly", () =>
    Effect.gen(function* () {
      const { breaker, fibers, gate } = yield* herd({ rampUp: { over: "10 seconds", from: 0.1 } })
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      const passed: Array<number> = []
      for (let second = 0; second <= 10; second += 2) {
        let through = 0
        for (let call = 0; call < 500; call++) {
          yield* Effect.ignore(breaker.run(Effect.sync(() => through++)))
        }
        passed.push(through)
        yield* TestClock.adjust("2 seconds")
      }
      // A tenth at first, then 18 % more of all every two seconds.
      for (const [index, share] of [0.1, 0.28, 0.46, 0.64, 0.82, 1].entries()) {
        assert.closeTo(passed[index] ?? 0, 500 * share, 1)
      }
      assert.deepStrictEqual([yield* breaker.state, (yield* breaker.snapshot).rampShare], ["closed", 1])
    })
  )
})

describe("ramp-up", () => {
  const ramping = (from: number) =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        ...once,
        openFor: (openings) => Duration.seconds(openings),
        rampUp: { over: "10 seconds", from }
      })
      yield* fail(breaker)
      yield* TestClock.adjust("1 second")
      yield* breaker.run(Effect.void)
      return breaker
    })

  it.effect("takes no dice: every tenth call of a tenth, the first one at once", () =>
    Effect.gen(function* () {
      const breaker = yield* ramping(0.1)
      const passed: Array<number> = []
      for (let call = 0; call < 41; call++) {
        yield* Effect.ignore(breaker.run(Effect.sync(() => passed.push(call))))
      }
      assert.deepStrictEqual(passed, [0, 10, 20, 30, 40])
    })
  )

  it.effect("the others are refused as by an open circuit, for a moment", () =>
    Effect.gen(function* () {
      const breaker = yield* ramping(0.1)
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* refusedFor(breaker), 1_000)
      yield* TestClock.adjust("9900 millis")
      // Nearly all pass; if one does not, it need not wait longer than the ramp.
      let longest = 0
      for (let call = 0; call < 200; call++) {
        const exit = yield* Effect.either(breaker.run(Effect.void))
        if (exit._tag === "Left") longest = Math.max(longest, Duration.toMillis(exit.left.retryAfter))
      }
      assert.isAtMost(longest, 100)
    })
  )

  it.effect("a failure meanwhile is one more opening in a row; after it, the first again", () =>
    Effect.gen(function* () {
      const breaker = yield* ramping(1)
      yield* fail(breaker)
      assert.strictEqual(yield* refusedFor(breaker), 2_000)
      yield* TestClock.adjust("2 seconds")
      yield* breaker.run(Effect.void)
      yield* TestClock.adjust("10 seconds")
      yield* fail(breaker)
      assert.strictEqual(yield* refusedFor(breaker), 1_000)
    })
  )

  it.effect("after being held open by hand too", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, rampUp: { over: "10 seconds", from: 0.5 } })
      assert.strictEqual((yield* breaker.snapshot).rampShare, 1)
      yield* breaker.setMode("forced-open")
      yield* breaker.setMode("automatic")
      assert.strictEqual((yield* breaker.snapshot).rampShare, 0.5)
      yield* breaker.reset
      assert.strictEqual((yield* breaker.snapshot).rampShare, 1)
    })
  )
})

describe("a probe", () => {
  const probing = (options?: Omit<CircuitBreaker.Options, "name" | "window">) =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, probeLease: "5 seconds", ...options })
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      return breaker
    })

  it.effect("that is interrupted gives its place back at once", () =>
    Effect.gen(function* () {
      const breaker = yield* probing()
      for (let round = 0; round < 5; round++) {
        const fiber = yield* Effect.fork(breaker.run(Effect.never))
        yield* Effect.yieldNow()
        assert.strictEqual((yield* breaker.snapshot).probesInFlight, 1)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* breaker.snapshot).probesInFlight, 0)
      }
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("that dies opens it again, and the next one may close it", () =>
    Effect.gen(function* () {
      const breaker = yield* probing()
      yield* Effect.exit(breaker.run(Effect.die("bug")))
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("30 seconds")
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("that hangs loses its place, every time; also under a clock that steps back", () =>
    Effect.gen(function* () {
      const breaker = yield* probing()
      for (let round = 0; round < 5; round++) {
        yield* Effect.fork(breaker.run(Effect.never))
        yield* Effect.yieldNow()
        assert.isAtMost(yield* refusedFor(breaker), 1_000)
        if (round === 2) {
          yield* TestClock.setTime(1_000)
          assert.isAtMost(yield* refusedFor(breaker), 1_000)
        }
        yield* TestClock.adjust("5 seconds")
      }
      yield* breaker.run(Effect.void)
      assert.deepStrictEqual([yield* breaker.state, (yield* breaker.snapshot).counters.leasesLost], ["closed", 5])
    })
  )

  it.effect("whose error cannot even be classified is a failed one, and its place is free", () =>
    Effect.gen(function* () {
      for (const broken of [
        {
          classify: () => {
            throw new Error("a bug")
          }
        },
        {
          counts: () => {
            throw new Error("a bug")
          }
        },
        // Not what its type says.
        { classify: () => ({ class: "transient", retryAfter: "soon" as never }) as const }
      ]) {
        const breaker = yield* CircuitBreaker.make({ ...once, ...broken })
        const error = yield* Effect.flip(breaker.run(Effect.fail("the caller's own")))
        assert.strictEqual(error, "the caller's own")
        const seen = yield* breaker.snapshot
        assert.deepStrictEqual([seen.state, seen.inFlight, seen.counters.failures], ["open", 0, 1])
      }
    })
  )

  it.effect("decides although fewer probes are permitted meanwhile", () =>
    Effect.gen(function* () {
      const breaker = yield* probing({ halfOpenPermits: 4 })
      yield* breaker.run(Effect.void)
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* breaker.reload({ window: once.window, halfOpenPermits: 2 })
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )
})
