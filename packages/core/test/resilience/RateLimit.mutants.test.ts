/**
 * The rate limit to the last step: settings and waits at their bounds, turns that come at whatever step, and what several
 * things in the same moment come to.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deadline, RateLimit } from "@underlay/core"
import { Cause, Clock, Duration, Effect, Exit, Fiber, FiberId, FiberRef, TestClock } from "effect"
import { RateLimiter } from "../../src/internal/resilience/rateLimit.ts"
import { Intruder } from "./steps.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 20)

const patient = { maxWait: Duration.infinity, maxQueue: Number.POSITIVE_INFINITY } as const

const algorithms = ["gcra", "sliding-window"] as const

/** What is said against the settings, or nothing. */
const complaint = (options: Omit<RateLimit.Options, "name">) =>
  Effect.map(Effect.exit(RateLimit.make({ name: "x", ...options })), (exit) =>
    Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
  )

/** The clock with another way to sleep or to tell the time. */
const changed = (
  clock: Clock.Clock,
  sleep: (duration: Duration.Duration) => Effect.Effect<void>,
  offset = (): number => 0
): Clock.Clock => ({
  [Clock.ClockTypeId]: Clock.ClockTypeId,
  sleep,
  unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis() + offset(),
  unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
  currentTimeMillis: Effect.sync(() => clock.unsafeCurrentTimeMillis() + offset()),
  currentTimeNanos: clock.currentTimeNanos
})

const description = (limit: RateLimit.RateLimit): unknown => Reflect.get(limit, "description")

describe("settings", () => {
  it.effect("at their bounds are fine, beyond them each is named alone", () =>
    Effect.gen(function* () {
      const fine: ReadonlyArray<Omit<RateLimit.Options, "name">> = [
        { limit: 0.001 },
        { limit: 1, burst: 1 },
        { limit: 1, maxQueue: 0 },
        { limit: 1, maxQueue: Number.POSITIVE_INFINITY },
        { limit: 1, maxWait: 0 },
        { limit: 1, maxWait: false },
        { limit: 1, maxWait: Duration.infinity },
        { limit: 1, algorithm: "sliding-window" },
        { limit: 1, interval: 1 },
        // Too fine for a bucket, but not for a log.
        { limit: 1_000, interval: Math.PI * 1e13, algorithm: "sliding-window" }
      ]
      for (const options of fine) assert.strictEqual(yield* complaint(options), "", JSON.stringify(options))
      const wrong: ReadonlyArray<readonly [Omit<RateLimit.Options, "name">, string]> = [
        [{ limit: 0 }, "rateLimit.limit"],
        [{ limit: Number.POSITIVE_INFINITY }, "rateLimit.limit"],
        [{ limit: Number.POSITIVE_INFINITY, algorithm: "sliding-window" }, "rateLimit.limit"],
        [{ limit: 1.5, algorithm: "sliding-window" }, "rateLimit.limit"],
        [{ limit: 1, burst: 1.5 }, "rateLimit.burst"],
        [{ limit: 1, burst: Number.POSITIVE_INFINITY }, "rateLimit.burst"],
        [{ limit: 1, maxQueue: 1.5 }, "rateLimit.maxQueue"],
        [{ limit: 1, maxQueue: Number.NaN }, "rateLimit.maxQueue"],
        [{ limit: 1, interval: 0 }, "rateLimit.interval"]
      ]
      for (const [options, name] of wrong) {
        const text = yield* complaint(options)
        assert.deepStrictEqual([...text.matchAll(/rateLimit\.\w+ is/g)].join(), `${name} is`, JSON.stringify(options))
        assert.notInclude(text, "too fine")
      }
      const both = yield* complaint({ limit: 0, interval: 0 })
      assert.match(both, /RateLimit "x": rateLimit\.limit is 0: .*; rateLimit\.interval is 0 ms: /)
    })
  )

  it.effect("are described: who may wait for any time, and where nobody may", () =>
    Effect.gen(function* () {
      const described = (options: Omit<RateLimit.Options, "name">) =>
        Effect.map(RateLimit.make({ name: "x", ...options }), description)
      assert.strictEqual(
        yield* described({ limit: 10, burst: 3, maxWait: Duration.infinity, maxQueue: 7 }),
        "10 in any 1s, spread evenly, 3 at once, up to 7 wait for any time"
      )
      const refused = "10 in any 1s, spread evenly, 1 at once, refused at once beyond"
      for (const options of [{ maxQueue: 0 }, { maxWait: 0 }, { maxWait: false }] as const) {
        assert.strictEqual(yield* described({ limit: 10, ...options }), refused)
      }
    })
  )

  it.effect("isRateLimit: rate limits, and nothing else", () =>
    Effect.gen(function* () {
      assert.isTrue(RateLimit.isRateLimit(yield* RateLimit.make({ name: "x", limit: 1 })))
      for (const other of [undefined, null, "rate", 1, {}]) assert.isFalse(RateLimit.isRateLimit(other))
    })
  )
})

describe("waiting", () => {
  it.effect("as long as may be waited is not too long, a millisecond more is", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        for (const [maxWait, passes] of [
          [1_000, true],
          [999, false]
        ] as const) {
          const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm, maxWait })
          yield* limit.take()
          const fiber = yield* Effect.fork(Effect.exit(limit.take()))
          yield* settle
          assert.strictEqual((yield* limit.snapshot).waiting, passes ? 1 : 0)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(Exit.isSuccess(yield* Fiber.join(fiber)), passes)
          yield* TestClock.adjust("1 minute")
        }
      }
    })
  )

  it.effect("until the very deadline is of no use, until a millisecond before is", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        for (const [within, passes] of [
          [1_000, false],
          [1_001, true]
        ] as const) {
          const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm, ...patient })
          yield* limit.take()
          const fiber = yield* Effect.fork(Effect.exit(Deadline.within(limit.take(), within)))
          yield* settle
          assert.strictEqual((yield* limit.snapshot).waiting, passes ? 1 : 0)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(Exit.isSuccess(yield* Fiber.join(fiber)), passes)
        }
      }
    })
  )

  it.effect("others' turn comes first, also where there would be room for one that costs less", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const burst = algorithm === "gcra" ? { limit: 1, burst: 10 } : { limit: 10, interval: "10 seconds" as const }
        const limit = yield* RateLimit.make({ name: "x", algorithm, ...burst, ...patient })
        yield* limit.take(5)
        assert.strictEqual((yield* limit.snapshot).available, 5)
        const fiber = yield* Effect.fork(limit.take(8))
        yield* settle
        assert.deepInclude(yield* limit.snapshot, { available: 0, waiting: 1, passed: 5 })
        assert.isFalse(yield* limit.tryTake(1))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(fiber)
        assert.deepInclude(yield* limit.snapshot, { waiting: 0, passed: 13, rejected: 0 })
        yield* TestClock.adjust("1 hour")
      }
    })
  )

  it.effect("a turn that comes at whatever step of one who begins to wait is theirs", () =>
    Effect.gen(function* () {
      let steps = 0
      for (let reached = true; reached; steps++) {
        const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm: "sliding-window", ...patient })
        yield* limit.take()
        const more = limit.reload({ limit: 2, algorithm: "sliding-window", ...patient })
        const runtime = yield* Effect.runtime()
        const scheduler = new Intruder(steps, runtime, more)
        const call = limit.run(Effect.succeed("ran"))
        const waiting = yield* Effect.fork(Effect.locally(call, FiberRef.currentScheduler, scheduler))
        yield* settle
        yield* more
        yield* settle
        reached = scheduler.reached
        assert.deepStrictEqual(waiting.unsafePoll(), Exit.succeed("ran"), `after ${steps} steps`)
        assert.deepInclude(yield* limit.snapshot, { waiting: 0, passed: 2, rejected: 0 })
      }
      assert.isAbove(steps, 10)
    })
  )

  it.effect("who comes when others are due passes behind them at once, although the timer has not rung", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      const silent = changed(clock, () => Effect.never)
      for (const algorithm of algorithms) {
        const options = algorithm === "gcra" ? { limit: 1, burst: 3 } : { limit: 3, interval: "3 seconds" as const }
        const limit = yield* RateLimit.make({ name: "x", algorithm, ...options, ...patient })
        yield* limit.take(3)
        const waiting = yield* Effect.fork(Effect.withClock(limit.take(), silent))
        yield* settle
        yield* TestClock.adjust("3 seconds")
        const next = yield* Effect.fork(limit.take())
        yield* settle
        assert.deepStrictEqual([waiting.unsafePoll(), next.unsafePoll()], [Exit.void, Exit.void])
        yield* TestClock.adjust("1 minute")
      }
    })
  )

  it.effect("a timer that rings early lets nobody pass early", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      let timers = 0
      const early = changed(clock, (duration) =>
        clock.sleep(timers++ === 0 ? Duration.subtract(duration, Duration.millis(10)) : duration)
      )
      for (const algorithm of algorithms) {
        timers = 0
        const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm, ...patient })
        yield* limit.take()
        const waiting = yield* Effect.fork(Effect.withClock(limit.take(), early))
        yield* TestClock.adjust("999 millis")
        assert.deepInclude(yield* limit.snapshot, { passed: 1, waiting: 1 })
        yield* TestClock.adjust("1 millis")
        assert.deepInclude(yield* limit.snapshot, { passed: 2, waiting: 0 })
        yield* Fiber.join(waiting)
        yield* TestClock.adjust("1 minute")
      }
    })
  )

  it.effect("under a clock that is set back nobody passes before their turn", () =>
    Effect.gen(function* () {
      let offset = 0
      const clock = yield* Effect.clock
      const shifted = changed(
        clock,
        (duration) => clock.sleep(duration),
        () => offset
      )
      const limit = yield* RateLimit.make({ name: "x", limit: 2, algorithm: "sliding-window", ...patient })
      yield* limit.take()
      yield* TestClock.adjust("500 millis")
      yield* limit.take()
      const fibers = yield* Effect.withClock(
        Effect.forEach([1, 2], () => Effect.fork(limit.take())),
        shifted
      )
      yield* TestClock.adjust("200 millis")
      offset = -3_600_000
      const seen = Effect.withClock(limit.snapshot, shifted)
      yield* seen
      yield* TestClock.adjust("300 millis")
      assert.deepInclude(yield* seen, { passed: 3, waiting: 1 })
      yield* TestClock.adjust("500 millis")
      assert.deepInclude(yield* seen, { passed: 4, waiting: 0 })
      yield* Effect.forEach(fibers, Fiber.join)
    })
  )

  it.effect("is told to the millisecond where calls of several units wait", () =>
    Effect.gen(function* () {
      const limit = yield* RateLimit.make({ name: "x", limit: 5, algorithm: "sliding-window", ...patient })
      yield* limit.take(4)
      yield* TestClock.adjust("500 millis")
      yield* limit.take(1)
      const waiting = yield* Effect.fork(limit.take(3))
      yield* settle
      // Behind it there is room for one more, as soon as the first four are forgotten.
      assert.deepStrictEqual((yield* limit.snapshot).retryAfter, Duration.millis(500))
      yield* TestClock.adjust("500 millis")
      yield* Fiber.join(waiting)
      assert.deepInclude(yield* limit.snapshot, { available: 1, passed: 8 })
    })
  )

  it.effect(
    "goes on under new settings up to a millisecond before the deadline, and ends where it would come to it",
    () =>
      Effect.gen(function* () {
        yield* TestClock.adjust("5 seconds")
        for (const algorithm of algorithms) {
          for (const [interval, goesOn] of [
            [1_999, true],
            [2_000, false]
          ] as const) {
            const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm, ...patient })
            yield* limit.take()
            const fiber = yield* Effect.fork(Effect.exit(Deadline.within(limit.take(), "2 seconds")))
            yield* settle
            yield* limit.reload({ limit: 1, interval, algorithm, ...patient })
            yield* settle
            assert.deepInclude(yield* limit.snapshot, { waiting: goesOn ? 1 : 0, rejected: goesOn ? 0 : 1 }, algorithm)
            yield* TestClock.adjust("2 seconds")
            assert.strictEqual(Exit.isSuccess(yield* Fiber.join(fiber)), goesOn)
            yield* TestClock.adjust("1 minute")
          }
        }
      })
  )

  it.effect("who gives back what came in the same moment gives back just that, once", () =>
    Effect.gen(function* () {
      const limit = yield* RateLimit.make({ name: "x", limit: 5, algorithm: "sliding-window", ...patient })
      yield* limit.take(5)
      const first = yield* Effect.fork(limit.take())
      const second = yield* Effect.fork(limit.take())
      yield* settle
      // There is room for both now; the first is interrupted before it has had its turn.
      yield* limit.reload({ limit: 7, algorithm: "sliding-window", ...patient })
      first.unsafeInterruptAsFork(FiberId.none)
      yield* Fiber.await(first)
      yield* Fiber.join(second)
      assert.deepInclude(yield* limit.snapshot, { available: 1, passed: 6, waiting: 0 })
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* limit.snapshot, { available: 7, passed: 6 })
    })
  )

  it.effect("who is refused by new settings and interrupted in the same moment gives nothing back", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const limit = yield* RateLimit.make({ name: "x", limit: 1, algorithm, maxWait: "3 seconds" })
        yield* limit.take()
        const first = yield* Effect.fork(limit.take())
        yield* settle
        yield* TestClock.adjust("900 millis")
        yield* limit.reload({ limit: 1, interval: "1 hour", algorithm, maxWait: "3 seconds" })
        first.unsafeInterruptAsFork(FiberId.none)
        yield* Fiber.await(first)
        assert.deepInclude(yield* limit.snapshot, { available: 0, waiting: 0, passed: 1, rejected: 1 })
      }
    })
  )

  it.effect("whose cost can never pass any more ends with a defect that says so, and holds up nobody behind", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const of = (size: number) => (algorithm === "gcra" ? { limit: 1, burst: size } : { limit: size })
        const limit = yield* RateLimit.make({ name: "x", algorithm, ...of(5), ...patient })
        yield* limit.take(5)
        const heavy = yield* Effect.fork(Effect.exit(limit.take(5)))
        const light = yield* Effect.fork(limit.take(1))
        yield* settle
        yield* limit.reload({ algorithm, ...of(2), ...patient })
        const exit = yield* Fiber.join(heavy)
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "a call that costs 5 can never pass")
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(light)
        assert.deepInclude(yield* limit.snapshot, { waiting: 0, passed: 6, rejected: 0 })
      }
    })
  )
})

describe("the even rate", () => {
  it("of an interval that is no whole number of milliseconds is what the settings say", () => {
    const settings = { algorithm: "gcra", limit: 3, interval: 1.5, burst: 1, maxWait: 0, maxQueue: 0 } as const
    const machine = new RateLimiter("x", settings, (retryAfter) => retryAfter)
    let passed = 0
    for (let at = 0; at < 1_000; at++) while (machine.tryEnter(at, 1)) passed++
    assert.closeTo(passed, 2_000, 4)
  })
})
