/**
 * The gates of the pipeline and what is held between them: nothing is given twice, nothing is kept, and whoever has waited
 * is looked at again before the call is made.
 */
import { assert, describe, it } from "@effect/vitest"
import { Policy, RetryBudget, RetryPolicy } from "@underlay/core"
import { Cause, Clock, Data, type Duration, Effect, Exit, Fiber, Metric, Random, Stream, TestClock } from "effect"
import { Manual } from "./manual.ts"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number }> {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), turn)

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.gen(function* () {
    const policy = yield* Effect.orDie(
      Policy.make({
        name: "x",
        retry: false,
        bulkhead: { maxConcurrent: 1, maxQueue: 1_000, maxWait: "20 seconds" },
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" },
        ...options
      })
    )
    const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
    const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
    return { policy, bulkhead, breaker }
  })

type Made = Effect.Effect.Success<ReturnType<typeof make>>

const held = ({ bulkhead, breaker, policy }: Made) =>
  Effect.gen(function* () {
    const places = yield* bulkhead.snapshot
    const rate = policy.rateLimit === undefined ? undefined : yield* policy.rateLimit.snapshot
    return {
      places: places.active,
      queued: places.queued + (rate?.waiting ?? 0),
      permits: (yield* breaker.snapshot).inFlight,
      orphans: (yield* policy.orphans).current
    }
  })

const nothing = { places: 0, queued: 0, permits: 0, orphans: 0 }

const tagOf = (exit: Exit.Exit<unknown, { readonly _tag: string }> | null): string =>
  exit === null
    ? "running"
    : Exit.isSuccess(exit)
      ? "success"
      : Exit.isInterrupted(exit)
        ? "interrupted"
        : Cause.failureOption(exit.cause).pipe((error) => (error._tag === "Some" ? error.value._tag : "defect"))

describe("the gates", () => {
  it.effect("what the open circuit refuses takes no token and no place, and asks no throttle", () =>
    Effect.gen(function* () {
      const made = yield* make({
        rateLimit: { limit: 2, interval: "1 hour" },
        throttle: { minimumCalls: 1, ratio: 1.1, window: "1 hour" }
      })
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      const before = yield* made.policy.rateLimit?.snapshot ?? Effect.die("none")
      for (let i = 0; i < 10; i++) {
        assert.strictEqual(tagOf(yield* Effect.exit(made.policy.run(Effect.void))), "CircuitOpen")
      }
      assert.deepInclude(yield* made.policy.rateLimit?.snapshot ?? Effect.die("none"), {
        available: before.available,
        rejected: before.rejected
      })
      assert.strictEqual((yield* made.bulkhead.snapshot).rejected, 0)
      assert.strictEqual((yield* made.policy.throttle?.snapshot ?? Effect.die("none")).rejected, 0)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  const probes = { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds", halfOpenPermits: 1 } as const

  const refusals = {
    RateLimitExceeded: { rateLimit: { limit: 1, interval: "1 hour" } },
    BulkheadFull: { bulkhead: { maxConcurrent: 1 } },
    CallThrottled: { throttle: { minimumCalls: 1, ratio: 1.1, window: "1 hour", maxProbability: 1 } }
  } as const

  for (const [tag, options] of Object.entries(refusals)) {
    it.effect(`a probe that is refused by ${tag} gives its place back: the next caller can be the probe`, () =>
      Effect.gen(function* () {
        const made = yield* make({ breaker: probes, ...options })
        const { bulkhead, breaker, policy } = made
        yield* Effect.exit(breaker.run(Effect.fail(new Busy({}))))
        yield* TestClock.adjust("10 seconds")
        // Others use up what is limited.
        const blocker = yield* fork(bulkhead.run(Effect.never))
        if (tag !== "BulkheadFull") yield* Fiber.interrupt(blocker)
        while ((yield* policy.rateLimit?.tryTake() ?? Effect.succeed(false)) === true);
        for (let i = 0; i < 50; i++) yield* Effect.exit(policy.throttle?.run(Effect.fail(new Busy({}))) ?? Effect.void)
        let refused = 0
        for (let i = 0; i < 5; i++) {
          const found = tagOf(yield* Effect.exit(policy.run(Effect.fail({ status: 429, _tag: "Neutral" }))))
          assert.include([tag, "Neutral"], found)
          if (found === tag) refused++
          assert.deepInclude(yield* breaker.snapshot, { state: "half-open", probesInFlight: 0, inFlight: 0 })
        }
        assert.isAbove(refused, 2)
        yield* Fiber.interrupt(blocker)
        assert.deepStrictEqual(yield* held(made), nothing)
        // A throttle refuses by chance: what it draws is given.
      }).pipe(Effect.withRandom(Random.fixed([0.5])))
    )
  }

  it.effect("a circuit that opens while a call waits in the queue: the call is refused and never made", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const first = yield* fork(Effect.exit(made.policy.run(Effect.delay(Effect.fail(new Busy({})), "1 second"))))
      let calls = 0
      const others = yield* Effect.forEach(Array.from({ length: 10 }), () =>
        fork(Effect.exit(made.policy.run(Effect.sync(() => ++calls))))
      )
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, queued: 10, permits: 11 })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(tagOf(yield* Fiber.join(first)), "Busy")
      for (const other of others) assert.strictEqual(tagOf(yield* Fiber.join(other)), "CircuitOpen")
      assert.strictEqual(calls, 0)
      assert.deepStrictEqual(yield* held(made), nothing)
      // The permits of those that were never made are neither successes nor failures.
      assert.deepInclude((yield* made.breaker.snapshot).counters, { failures: 1, successes: 0, neutral: 10 })
    })
  )

  it.effect("the same while it waits for the rate limit", () =>
    Effect.gen(function* () {
      const made = yield* make({
        bulkhead: { maxConcurrent: 10 },
        rateLimit: { limit: 1, interval: "1 second", maxWait: "20 seconds", maxQueue: 10 }
      })
      const first = yield* fork(Effect.exit(made.policy.run(Effect.delay(Effect.fail(new Busy({})), "500 millis"))))
      let calls = 0
      const second = yield* fork(Effect.exit(made.policy.run(Effect.sync(() => ++calls))))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(tagOf(yield* Fiber.join(first)), "Busy")
      assert.strictEqual(tagOf(yield* Fiber.join(second)), "CircuitOpen")
      assert.strictEqual(calls, 0)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a call that has waited until the circuit is half-open is one of the probes, and no more than those", () =>
    Effect.gen(function* () {
      const made = yield* make({ bulkhead: { maxConcurrent: 2, maxQueue: 1_000, maxWait: "25 seconds" } })
      const long = yield* fork(Effect.exit(made.policy.run(Effect.sleep("12 seconds"))))
      const failing = yield* fork(Effect.exit(made.policy.run(Effect.delay(Effect.fail(new Busy({})), "11 seconds"))))
      const slow = yield* fork(Effect.exit(made.policy.run(Effect.sleep("2 seconds"))))
      // It opens at 11 seconds: nobody is left in the queue by 21, when it is half-open.
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(failing)), "Busy")
      assert.strictEqual(tagOf(yield* Fiber.join(slow)), "CircuitOpen")
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(long)
      assert.strictEqual((yield* made.breaker.snapshot).counters.stale, 2)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a probe that has waited for its turn has its whole lease before it", () =>
    Effect.gen(function* () {
      const made = yield* make({
        timeout: "1 minute",
        attemptTimeout: "10 seconds",
        breaker: { ...probes, probeLease: "10 seconds" },
        bulkhead: { maxConcurrent: 1, maxQueue: 10, maxWait: "20 seconds" }
      })
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("10 seconds")
      // Somebody else has the only place for nine seconds.
      yield* fork(made.bulkhead.run(Effect.sleep("9 seconds")))
      let running = 0
      let most = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => {
          most = Math.max(most, ++running)
        }),
        () => Effect.sleep("9 seconds"),
        () => Effect.sync(() => running--)
      )
      const probe = yield* fork(Effect.exit(made.policy.run(work)))
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual(running, 1)
      // Two seconds after it began, though eleven after it asked, it is still the probe.
      assert.strictEqual((yield* made.breaker.snapshot).probesInFlight, 1)
      assert.strictEqual(tagOf(yield* Effect.exit(made.policy.run(work))), "CircuitOpen")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(probe)), "success")
      assert.deepStrictEqual([most, yield* made.breaker.state], [1, "closed"])
      assert.strictEqual((yield* made.breaker.snapshot).counters.leasesLost, 0)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("how slow a call was does not count what it waited", () =>
    Effect.gen(function* () {
      const made = yield* make({
        breaker: {
          window: { type: "count", size: 2, failureRate: 1 },
          slowCallDuration: "2 seconds",
          slowCallRate: 0.5
        }
      })
      const calls = yield* Effect.forEach([1, 2, 3, 4], () => fork(made.policy.run(Effect.sleep("1 second"))))
      yield* TestClock.adjust("4 seconds")
      for (const call of calls) yield* Fiber.join(call)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { slow: 0, successes: 4 })
    })
  )

  it.effect("a call whose deadline passes while it waits leaves the queue at that time", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const first = yield* fork(made.policy.run(Effect.sleep("10 seconds")))
      const second = yield* fork(Effect.exit(made.policy.run(Effect.void, { timeout: "3 seconds" })))
      yield* TestClock.adjust("2999 millis")
      assert.isNull(second.unsafePoll())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(tagOf(yield* Fiber.join(second)), "BulkheadFull")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
      yield* TestClock.adjust("7 seconds")
      yield* Fiber.join(first)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a clock that jumps past the deadline while a call waits: it is not made, and gives back what it got", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      const made = yield* make({
        bulkhead: { maxConcurrent: 10 },
        rateLimit: { limit: 1, interval: "1 second", maxWait: "20 seconds", maxQueue: 10 }
      })
      yield* Effect.withClock(made.policy.run(Effect.void), clock)
      let calls = 0
      const second = yield* fork(Effect.withClock(Effect.exit(made.policy.run(Effect.sync(() => ++calls))), clock))
      assert.strictEqual((yield* held(made)).queued, 1)
      clock.advance(3_600_000)
      assert.strictEqual(tagOf(yield* Fiber.join(second)), "CallTimeout")
      assert.deepStrictEqual([calls, clock.sleepers.size], [0, 0])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a call of weight gives its weight back, whatever becomes of it", () =>
    Effect.gen(function* () {
      const made = yield* make({ bulkhead: { maxConcurrent: 5, maxQueue: 5 }, attemptTimeout: "1 second" })
      const endings: ReadonlyArray<Effect.Effect<void, Busy>> = [
        Effect.void,
        Effect.fail(new Busy({})),
        Effect.never,
        Effect.die("bug")
      ]
      for (const ending of endings) {
        yield* made.breaker.reset
        const fiber = yield* fork(Effect.exit(made.policy.run(ending, { weight: 3 })))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* held(made), nothing)
      }
    })
  )
})

describe("work that cannot be interrupted", () => {
  it.effect("keeps its place in the bulkhead after its timeout until it really ends, and is no result then", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second", bulkhead: { maxConcurrent: 2 } })
      yield* made.breaker.setMode("disabled")
      const calls = yield* Effect.forEach([3, 5], (seconds) =>
        fork(Effect.exit(made.policy.run(Effect.uninterruptible(Effect.sleep(`${seconds} seconds`)))))
      )
      yield* TestClock.adjust("1 second")
      for (const call of calls) assert.strictEqual(tagOf(yield* Fiber.join(call)), "CallTimeout")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 2, orphans: 2 })
      // Two are really in flight: a third would be one too many.
      assert.strictEqual(tagOf(yield* Effect.exit(made.policy.run(Effect.void))), "BulkheadFull")
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, orphans: 1 })
      assert.strictEqual(tagOf(yield* Effect.exit(made.policy.run(Effect.void))), "success")
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { failures: 2, successes: 1 })
      assert.strictEqual((yield* made.policy.orphans).total, 2)
    })
  )

  it.effect("a retry after such a timeout waits for a place of its own", () =>
    Effect.gen(function* () {
      const made = yield* make({
        retry: { ...steady, attempts: 2, base: "1 second" },
        attemptTimeout: "1 second",
        breaker: { window: { type: "consecutive", failures: 5 } }
      })
      const at: Array<number> = []
      const work = Effect.flatMap(Clock.currentTimeMillis, (now) => {
        at.push(now)
        return Effect.sleep(at.length === 1 ? "10 seconds" : "500 millis")
      })
      const fiber = yield* fork(Effect.exit(made.policy.run(Effect.uninterruptible(work))))
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(fiber)), "success")
      assert.deepStrictEqual(at, [0, 10_000])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )
})

describe("clocks that are set back", () => {
  it.effect("no attempt gets more time than the whole call has", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      clock.set(10_000_000)
      const made = yield* make({ timeout: "30 seconds", retry: { ...steady, attempts: 3 }, breaker: {} })
      let calls = 0
      const call = Effect.suspend(() => (++calls === 1 ? Effect.fail(new Busy({})) : Effect.never))
      const fiber = yield* fork(Effect.withClock(made.policy.run(call), clock))
      clock.set(5_000_000)
      clock.advance(1_000)
      yield* turn
      assert.strictEqual(calls, 2)
      clock.advance(29_999)
      yield* turn
      assert.strictEqual(tagOf(fiber.unsafePoll()), "running")
      clock.advance(1)
      yield* turn
      assert.strictEqual(tagOf(fiber.unsafePoll()), "CallTimeout")
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual(clock.sleepers.size, 0)
    })
  )

  it.effect("nor one that has waited for a place meanwhile", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      clock.set(10_000_000)
      const made = yield* make({ timeout: "30 seconds" })
      const first = yield* fork(made.bulkhead.run(Effect.never))
      const fiber = yield* fork(Effect.withClock(made.policy.run(Effect.never), clock))
      clock.set(5_000_000)
      yield* Fiber.interrupt(first)
      yield* turn
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
      clock.advance(30_000)
      yield* turn
      assert.strictEqual(tagOf(fiber.unsafePoll()), "CallTimeout")
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual(clock.sleepers.size, 0)
    })
  )
})

describe("settings that are reloaded while calls wait", () => {
  it.effect("more places let in who waits; fewer take none away from who has one", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const settings = (maxConcurrent: number) => ({
        retry: false as const,
        bulkhead: { maxConcurrent, maxQueue: 1_000, maxWait: "20 seconds" } as const,
        breaker: { window: { type: "consecutive", failures: 1 } } as const
      })
      const calls = yield* Effect.forEach([1, 2, 3], () => fork(made.policy.run(Effect.sleep("5 seconds"))))
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, queued: 2, permits: 3 })
      yield* Effect.orDie(made.policy.reload(settings(2)))
      yield* turn
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 2, queued: 1, permits: 3 })
      yield* Effect.orDie(made.policy.reload(settings(1)))
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 2, queued: 1, permits: 3 })
      yield* TestClock.adjust("10 seconds")
      for (const call of calls) yield* Fiber.join(call)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("without the bulkhead: those who hold a place give it back to the one they have it from", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const calls = yield* Effect.forEach([1, 2], () => fork(made.policy.run(Effect.sleep("5 seconds"))))
      yield* Effect.orDie(made.policy.reload({ retry: false }))
      assert.isUndefined(made.policy.bulkhead)
      const third = yield* fork(made.policy.run(Effect.sleep("1 second")))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(third)
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, queued: 1, permits: 2 })
      yield* TestClock.adjust("9 seconds")
      for (const call of calls) yield* Fiber.join(call)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a call under way is retried as it began", () =>
    Effect.gen(function* () {
      const made = yield* make({ retry: steady, breaker: {} })
      let calls = 0
      const fiber = yield* fork(
        Effect.exit(
          made.policy.run(
            Effect.suspend(() => {
              calls++
              return Effect.fail(new Busy({}))
            })
          )
        )
      )
      yield* Effect.orDie(made.policy.reload({ retry: false }))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(tagOf(yield* Fiber.join(fiber)), "Busy")
      assert.strictEqual(calls, 3)
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      assert.strictEqual(calls, 3)
    })
  )
})

describe("nested policies", () => {
  const three = (timeout: Duration.DurationInput) =>
    Effect.orDie(
      Policy.make({
        name: "x",
        retry: { ...steady, attempts: 3 },
        timeout,
        breaker: false,
        bulkhead: { maxConcurrent: 5, maxQueue: 5 },
        rateLimit: { limit: 100, interval: "1 second" }
      })
    )

  for (const kind of ["effect", "promise"] as const) {
    it.effect(`3 x 3 x 3 makes 3 attempts, through all gates: ${kind}`, () =>
      Effect.gen(function* () {
        const inner = yield* three("30 seconds")
        const middle = yield* three("40 seconds")
        const outer = yield* three("50 seconds")
        let calls = 0
        const call =
          kind === "effect"
            ? inner.run(Effect.suspend(() => Effect.fail(new Busy({ n: ++calls }))))
            : inner.tryPromise({ try: () => Promise.reject(++calls), catch: (n) => new Busy({ n: Number(n) }) })
        const fiber = yield* fork(Effect.flip(outer.run(middle.run(call))))
        for (let i = 0; i < 10; i++) {
          yield* TestClock.adjust("1 second")
          yield* turn
        }
        const error = yield* Fiber.join(fiber)
        assert.strictEqual(calls, 3)
        assert.isTrue(error._tag === "Busy" && error.n === 3)
        assert.deepStrictEqual(
          RetryPolicy.attemptsOf(error).map((each) => [each.number, each.startedAt]),
          [
            [1, 0],
            [2, 1_000],
            [3, 3_000]
          ]
        )
        for (const policy of [inner, middle, outer]) {
          assert.strictEqual((yield* policy.bulkhead?.snapshot ?? Effect.die("none")).active, 0)
        }
      })
    )
  }

  it.effect("an orphan of an earlier attempt says nothing of the attempt that is under way", () =>
    Effect.gen(function* () {
      const inner = yield* Policy.make({ name: "x", retry: { ...steady, attempts: 2 }, breaker: false })
      const outer = yield* Policy.make({
        name: "x",
        retry: { ...steady, attempts: 3 },
        breaker: false,
        attemptTimeout: "500 millis",
        timeout: "1 minute"
      })
      let calls = 0
      // The first attempt's inner policy spends its attempts at 1.6 seconds, while the second one of the outer runs.
      const call = Effect.suspend(() =>
        ++calls === 1
          ? Effect.uninterruptible(inner.run(Effect.delay(Effect.fail(new Busy({ n: 1 })), "300 millis")))
          : calls === 2
            ? Effect.delay(Effect.fail(new Busy({ n: 2 })), "400 millis")
            : Effect.succeed("ok")
      )
      const fiber = yield* fork(Effect.exit(outer.run(call)))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(tagOf(yield* Fiber.join(fiber)), "success")
      assert.strictEqual(calls, 3)
    })
  )
})

describe("the record of attempts", () => {
  it.effect("has refusals and timeouts as well as failures, each with its times", () =>
    Effect.gen(function* () {
      const made = yield* make({
        retry: { ...steady, attempts: 4, retryRejections: true },
        attemptTimeout: "1 second",
        breaker: { window: { type: "consecutive", failures: 2 }, openFor: "3 seconds" }
      })
      let calls = 0
      const call = Effect.suspend(() => (++calls === 2 ? Effect.never : Effect.fail(new Busy({ n: calls }))))
      const fiber = yield* fork(Effect.flip(made.policy.run(call)))
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        RetryPolicy.attemptsOf(error).map((each) => [
          each.number,
          each.startedAt,
          each.endedAt,
          tagOf(Exit.failCause(each.cause as Cause.Cause<{ readonly _tag: string }>))
        ]),
        [
          [1, 0, 0, "Busy"],
          [2, 1_000, 2_000, "CallTimeout"],
          [3, 4_000, 4_000, "CircuitOpen"],
          [4, 5_000, 5_000, "Busy"]
        ]
      )
      assert.strictEqual(calls, 3)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("an attempt that has waited begins when it has got its turn", () =>
    Effect.gen(function* () {
      const made = yield* make({ retry: { ...steady, attempts: 2 }, breaker: {} })
      yield* fork(made.bulkhead.run(Effect.sleep("5 seconds")))
      const fiber = yield* fork(Effect.flip(made.policy.run(Effect.fail(new Busy({})))))
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        RetryPolicy.attemptsOf(error).map((each) => [each.startedAt, each.endedAt]),
        [
          [5_000, 5_000],
          [6_000, 6_000]
        ]
      )
    })
  )
})

describe("half-open under 500 waiting callers", () => {
  it.effect("never more than the permitted probes in flight, and a slow return after", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "percentage", ratio: 1 })
      const made = yield* make({
        timeout: "1 minute",
        attemptTimeout: "5 seconds",
        retry: { ...steady, attempts: 2 },
        budget,
        hedge: { delay: "500 millis" },
        throttle: { ratio: 10 },
        rateLimit: { limit: 10_000, interval: "1 second", burst: 1_000, maxWait: "1 second", maxQueue: 1_000 },
        breaker: {
          window: { type: "consecutive", failures: 3 },
          openFor: "10 seconds",
          halfOpenPermits: 5,
          halfOpenSuccessRate: 1,
          rampUp: { over: "10 seconds", from: 0.1 }
        },
        bulkhead: { maxConcurrent: 100, maxQueue: 1_000, maxWait: "20 seconds" }
      })
      for (let i = 0; i < 3; i++) yield* Effect.exit(made.policy.run(Effect.fail(new Busy({})), { retries: 0 }))
      assert.strictEqual(yield* made.breaker.state, "open")
      yield* TestClock.adjust("10 seconds")
      let running = 0
      let most = 0
      let calls = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => {
          calls++
          most = Math.max(most, ++running)
        }),
        () => Effect.sleep("1 second"),
        () => Effect.sync(() => running--)
      )
      const herd = () =>
        Effect.gen(function* () {
          const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () =>
            Effect.fork(Effect.exit(made.policy.run(work)))
          )
          yield* turn
          return fibers
        })
      const first = yield* herd()
      assert.deepStrictEqual([running, (yield* made.breaker.snapshot).probesInFlight], [5, 5])
      // The hedges are in the same half-open circuit: there is no place for them.
      yield* TestClock.adjust("600 millis")
      const second = yield* herd()
      assert.deepStrictEqual([running, most], [5, 5])
      yield* TestClock.adjust("400 millis")
      yield* turn
      assert.strictEqual(yield* made.breaker.state, "closed")
      const seen = yield* Effect.forEach([...first, ...second], (fiber) => Effect.sync(() => tagOf(outcome(fiber))))
      assert.deepStrictEqual(
        [seen.filter((each) => each === "success").length, seen.filter((each) => each === "CircuitOpen").length],
        [5, 995]
      )
      assert.strictEqual(calls, 5)
      // A tenth of the calls pass at first, half of them in the middle, all in the end.
      const passed = (): Effect.Effect<number> =>
        Effect.gen(function* () {
          const before = calls
          const fibers = yield* Effect.forEach(Array.from({ length: 100 }), () =>
            Effect.fork(Effect.exit(made.policy.run(work, { hedge: false })))
          )
          yield* turn
          const now = calls - before
          yield* Fiber.interruptAll(fibers)
          return now
        })
      assert.approximately(yield* passed(), 10, 3)
      yield* TestClock.adjust("5 seconds")
      assert.approximately(yield* passed(), 55, 5)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* passed(), 100)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  const outcome = (fiber: Fiber.RuntimeFiber<Exit.Exit<unknown, { readonly _tag: string }>>) => {
    const polled = fiber.unsafePoll()
    return polled === null ? null : Exit.flatten(polled)
  }

  for (const [name, probe] of Object.entries({
    hangs: Effect.never,
    dies: Effect.die("bug"),
    "interrupts itself": Effect.interrupt,
    "cannot be interrupted": Effect.uninterruptible(Effect.sleep("1 hour"))
  })) {
    it.effect(`a probe that ${name} does not wedge it`, () =>
      Effect.gen(function* () {
        const made = yield* make({ attemptTimeout: "5 seconds", bulkhead: { maxConcurrent: 2 } })
        yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
        yield* TestClock.adjust("10 seconds")
        yield* fork(Effect.exit(made.policy.run(probe)))
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual(tagOf(yield* Effect.exit(made.policy.run(Effect.void))), "success")
        assert.strictEqual(yield* made.breaker.state, "closed")
      })
    )
  }
})

describe("what is counted", () => {
  const counts = (policy: string) =>
    Effect.map(Metric.snapshot, (all) => {
      const found: Record<string, number> = {}
      for (const { metricKey, metricState } of all) {
        const tags = Object.fromEntries(metricKey.tags.map((tag) => [tag.key, tag.value]))
        if (metricKey.name !== "resilience_calls_total" || tags["policy"] !== policy) continue
        found[String(tags["outcome"])] = Number((metricState as unknown as { readonly count: number }).count)
      }
      return found
    })

  it.effect("a stream as one call that lasts as long as the stream and ends as it ends", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(
        Policy.make({ name: "counted-streams", retry: false, breaker: { openFor: "1 hour" }, metrics: true })
      )
      const through = <A, E>(stream: Stream.Stream<A, E>) => Effect.exit(Stream.runDrain(policy.stream(stream)))
      const flowing = yield* fork(through(Stream.concat(Stream.make(1), Stream.fromEffect(Effect.sleep("5 seconds")))))
      assert.deepStrictEqual(yield* counts("counted-streams"), {})
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(flowing)
      assert.deepStrictEqual(yield* counts("counted-streams"), { success: 1 })
      yield* through(Stream.concat(Stream.make(1), Stream.fail(new Busy({}))))
      yield* through(Stream.fail(new Busy({})))
      assert.deepStrictEqual(yield* counts("counted-streams"), { success: 1, failure: 2 })
      yield* through(Stream.take(Stream.concat(Stream.make(1), Stream.never), 1))
      const cut = yield* fork(through(Stream.concat(Stream.make(1), Stream.never)))
      yield* Fiber.interrupt(cut)
      assert.deepStrictEqual(yield* counts("counted-streams"), { success: 2, failure: 2, cancelled: 1 })
      yield* Effect.orDie(Effect.fromNullable(policy.breaker)).pipe(
        Effect.flatMap((breaker) => breaker.setMode("forced-open"))
      )
      yield* through(Stream.make(1))
      assert.deepStrictEqual(yield* counts("counted-streams"), { success: 2, failure: 2, cancelled: 1, rejected: 1 })
    })
  )

  it.effect("each call once, also one that dies, or is interrupted while it waits for a place", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(
        Policy.make({
          name: "counted-once",
          retry: steady,
          bulkhead: { maxConcurrent: 1, maxQueue: 10, maxWait: "20 seconds" },
          breaker: false,
          metrics: true
        })
      )
      yield* Effect.exit(policy.run(Effect.die("bug")))
      assert.deepStrictEqual(yield* counts("counted-once"), { failure: 1 })
      const first = yield* fork(policy.run(Effect.sleep("1 second")))
      const second = yield* fork(policy.run(Effect.void))
      yield* Fiber.interrupt(second)
      assert.deepStrictEqual(yield* counts("counted-once"), { failure: 1, cancelled: 1 })
      const third = yield* fork(policy.run(Effect.never))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(first)
      yield* Fiber.interrupt(third)
      assert.deepStrictEqual(yield* counts("counted-once"), { failure: 1, cancelled: 2, success: 1 })
    })
  )
})
