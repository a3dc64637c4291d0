import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, type ErrorClass, Policy, RetryBudget, RetryPolicy, Timeout } from "@underlay/core"
import { Cause, Data, Effect, Exit, Fiber, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly reason?: unknown }> {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const busy = (reason: unknown) => new Busy({ reason })

/** A promise that is settled by hand, and what is seen of the call that waits for it. */
const pending = <A>() => {
  const seen = { calls: 0, signals: [] as Array<AbortSignal | undefined> }
  const settle: Array<{ readonly resolve: (value: A) => void; readonly reject: (error: unknown) => void }> = []
  const ask = (signal: AbortSignal | undefined): Promise<A> =>
    new Promise<A>((resolve, reject) => {
      seen.calls++
      seen.signals.push(signal)
      settle.push({ resolve, reject })
    })
  return { seen, settle, ask }
}

/** As `fetch` does it: rejects as soon as it is aborted. */
const obedient = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.gen(function* () {
    const bulkhead = yield* Bulkhead.make({ name: "x", maxConcurrent: 10 })
    const policy = yield* Effect.orDie(Policy.make({ name: "x", retry: false, bulkhead, ...options }))
    const breaker = yield* Effect.fromNullable(policy.breaker).pipe(Effect.orDie)
    return { policy, bulkhead, breaker }
  })

/** What is held of a policy. */
const held = ({ bulkhead, breaker, policy }: Effect.Effect.Success<ReturnType<typeof make>>) =>
  Effect.gen(function* () {
    const circuit = yield* breaker.snapshot
    return {
      places: (yield* bulkhead.snapshot).active,
      permits: circuit.inFlight,
      orphans: (yield* policy.orphans).current
    }
  })

const nothing = { places: 0, permits: 0, orphans: 0 }

describe("a call that takes an abort signal", () => {
  it.effect("succeeds with what the promise gives, and fails with what `catch` makes of its rejection", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { policy } = made
      assert.strictEqual(yield* policy.tryPromise(() => Promise.resolve(1)), 1)
      assert.strictEqual(yield* policy.tryPromise({ try: (_signal) => Promise.resolve(2), catch: busy }), 2)
      const error = yield* Effect.flip(policy.tryPromise({ try: () => Promise.reject("no"), catch: busy }))
      assert.deepStrictEqual([error._tag, error._tag === "Busy" && error.reason], ["Busy", "no"])
      const unknown = yield* Effect.flip(policy.tryPromise(() => Promise.reject("no")))
      assert.deepStrictEqual(
        [unknown._tag, unknown._tag === "UnknownException" && unknown.error],
        ["UnknownException", "no"]
      )
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("gets a signal only where it names the parameter, and is never aborted after its end", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const seen: Array<unknown> = []
      yield* policy.tryPromise({
        try: (signal) => {
          seen.push(signal)
          return Promise.resolve()
        },
        catch: busy
      })
      yield* Effect.exit(
        policy.tryPromise({
          try: (signal) => {
            seen.push(signal)
            return Promise.reject("no")
          },
          catch: busy
        })
      )
      yield* policy.tryPromise({
        try: (...given: ReadonlyArray<unknown>) => {
          seen.push(given[0])
          return Promise.resolve()
        },
        catch: busy
      })
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(
        seen.map((each) => (each instanceof AbortSignal ? each.aborted : each)),
        [false, false, undefined]
      )
    })
  )

  it.effect("is aborted with the timeout as the reason when its time is over", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const reasons: Array<unknown> = []
      const fiber = yield* Effect.fork(
        made.policy.tryPromise({
          try: (signal) => {
            signal.addEventListener("abort", () => reasons.push(signal.reason))
            return obedient(signal)
          },
          catch: busy
        })
      )
      yield* TestClock.adjust("999 millis")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 millis")
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.isTrue(error instanceof Timeout.CallTimeout && error.scope === "attempt" && error.limitMillis === 1_000)
      assert.deepStrictEqual(reasons, [error])
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.breaker.snapshot).counters.failures, 1)
    })
  )

  it.effect("one that does not listen keeps its place in the bulkhead until it really ends, and is counted", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const { ask, settle } = pending<number>()
      const fiber = yield* Effect.fork(made.policy.tryPromise({ try: (signal) => ask(signal), catch: busy }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "CallTimeout")
      assert.deepStrictEqual(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      settle[0]?.resolve(1)
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.policy.orphans).total, 1)
      // The late success is no result: the timeout was.
      assert.deepInclude((yield* made.breaker.snapshot).counters, { failures: 1, successes: 0 })
    })
  )

  it.effect("an interruption aborts it, is not waited for, and says nothing of the service", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const { ask, seen, settle } = pending<number>()
      const fiber = yield* Effect.fork(made.policy.tryPromise({ try: (signal) => ask(signal), catch: busy }))
      yield* turn
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
      assert.isTrue(seen.signals[0]?.aborted)
      assert.deepStrictEqual(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      settle[0]?.reject("aborted")
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { failures: 0, successes: 0, neutral: 1 })
    })
  )

  it.effect("one that ends by the abort leaves no orphan", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const fiber = yield* Effect.fork(made.policy.tryPromise({ try: obedient, catch: busy }))
      yield* turn
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.policy.orphans).total, 0)
    })
  )

  it.effect("an interruption in the same moment as the timeout counts once", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const { ask, settle } = pending<number>()
      const fiber = yield* Effect.fork(made.policy.tryPromise({ try: (signal) => ask(signal), catch: busy }))
      yield* turn
      yield* TestClock.adjust("1 second")
      fiber.unsafeInterruptAsFork(fiber.id())
      yield* Fiber.await(fiber)
      assert.deepStrictEqual(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      settle[0]?.resolve(1)
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
      const { failures, neutral } = (yield* made.breaker.snapshot).counters
      assert.strictEqual(failures + neutral, 1)
    })
  )

  it.effect("one that throws at once fails like one that rejects", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const error = yield* Effect.flip(
        made.policy.tryPromise({
          try: () => {
            throw "at once"
          },
          catch: busy
        })
      )
      assert.isTrue(error._tag === "Busy" && error.reason === "at once")
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.breaker.snapshot).counters.failures, 1)
    })
  )

  it.effect("one that gives no promise at all fails through `catch` and leaves nothing held", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      for (const wrong of [undefined, 1, {}]) {
        const error = yield* Effect.flip(
          made.policy.tryPromise({ try: () => wrong as unknown as Promise<number>, catch: busy })
        )
        assert.isTrue(error._tag === "Busy" && error.reason instanceof TypeError)
      }
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.breaker.snapshot).counters.failures, 3)
    })
  )

  it.effect("a `catch` that throws is a defect, and leaves nothing held", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      for (const call of [
        () => Promise.reject("no"),
        () => {
          throw "no"
        }
      ]) {
        const exit = yield* Effect.exit(
          made.policy.tryPromise<never, Busy>({
            try: call,
            catch: () => {
              throw "bug"
            }
          })
        )
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      }
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* made.breaker.snapshot).counters.failures, 2)
    })
  )

  const thenable = (then: (resolve: (value: number) => void, reject: (error: unknown) => void) => void) =>
    ({ then }) as unknown as PromiseLike<number>

  it.effect("thenables: at once, more than once, or with an exception", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const ask = (then: Parameters<typeof thenable>[0]) =>
        Effect.exit(made.policy.tryPromise({ try: () => thenable(then), catch: busy }))
      assert.deepStrictEqual(yield* ask((resolve) => resolve(1)), Exit.succeed(1))
      assert.deepStrictEqual(
        yield* ask((resolve, reject) => {
          resolve(2)
          reject("no")
          resolve(3)
        }),
        Exit.succeed(2)
      )
      const thrown = yield* ask(() => {
        throw "then"
      })
      assert.isTrue(Exit.isFailure(thrown) && Cause.isFailType(thrown.cause))
      assert.deepStrictEqual(
        yield* ask((resolve) => {
          resolve(4)
          throw "too late"
        }),
        Exit.succeed(4)
      )
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { failures: 1, successes: 3 })
    })
  )

  it.effect("an orphan that settles twice is counted off once", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const before = yield* Timeout.orphans
      let settle: ((value: number) => void) | undefined
      const fiber = yield* Effect.fork(
        made.policy.tryPromise({
          try: () =>
            thenable((resolve) => {
              settle = resolve
            }),
          catch: busy
        })
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.await(fiber)
      assert.deepStrictEqual(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      settle?.(1)
      settle?.(2)
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual((yield* Timeout.orphans).current, before.current)
    })
  )

  it.effect("is tried again, each time with a signal of its own", () =>
    Effect.gen(function* () {
      const made = yield* make({ retry: steady, attemptTimeout: "5 seconds" })
      const signals: Array<AbortSignal> = []
      const fiber = yield* Effect.fork(
        made.policy.tryPromise({
          try: (signal) => {
            signals.push(signal)
            return signals.length === 1 ? obedient(signal) : Promise.resolve(signals.length)
          },
          catch: busy
        })
      )
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 2)
      assert.deepStrictEqual(
        signals.map((each) => each.aborted),
        [true, false]
      )
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("the last error tells of all attempts", () =>
    Effect.gen(function* () {
      const made = yield* make({ retry: steady })
      let calls = 0
      const fiber = yield* Effect.fork(
        made.policy.tryPromise({ try: () => Promise.reject(++calls), catch: busy }).pipe(Effect.flip)
      )
      yield* TestClock.adjust("1 second")
      yield* turn
      yield* TestClock.adjust("2 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        RetryPolicy.attemptsOf(error).map((each) => [each.number, each.startedAt, each.endedAt]),
        [
          [1, 0, 0],
          [2, 1_000, 1_000],
          [3, 3_000, 3_000]
        ]
      )
      assert.isTrue(error._tag === "Busy" && error.reason === 3)
    })
  )

  it.effect("with a stage next to the call it still keeps its place until it really ends", () =>
    Effect.gen(function* () {
      const made = yield* make({
        attemptTimeout: "1 second",
        stages: [Policy.stage({ name: "own", at: "inner", wrap: (effect) => effect })]
      })
      const { ask, seen, settle } = pending<number>()
      const call = made.policy.tryPromise({ try: (signal) => ask(signal), catch: busy })
      const fiber = yield* Effect.fork(call)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "CallTimeout")
      assert.isTrue(seen.signals[0]?.aborted)
      assert.deepStrictEqual(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      const second = yield* Effect.fork(call)
      yield* turn
      yield* Fiber.interrupt(second)
      assert.isTrue(seen.signals[1]?.aborted)
      assert.deepStrictEqual(yield* held(made), { places: 2, permits: 0, orphans: 2 })
      settle[0]?.resolve(1)
      settle[1]?.resolve(1)
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )
})

describe("functions of the user's that throw", () => {
  const thrower: ErrorClass.Classify = () => {
    throw new Error("a bug in classify")
  }

  const work = {
    "a promise": (policy: Policy.Policy) => policy.tryPromise({ try: () => Promise.reject("no"), catch: busy }),
    "an effect that ends at once": (policy: Policy.Policy) => policy.run(Effect.fail(new Busy({}))),
    "an effect that waits": (policy: Policy.Policy) => policy.run(Effect.delay(Effect.fail(new Busy({})), "1 second"))
  }

  for (const [name, call] of Object.entries(work)) {
    for (const attemptTimeout of ["5 seconds", false] as const) {
      for (const hedge of [{ delay: "3 seconds" }, false] as const) {
        it.effect(
          `a classify that throws is a defect of the call, which ends and leaves nothing held: ${name}, ` +
            `attempt timeout ${attemptTimeout}, hedge ${hedge !== false}`,
          () =>
            Effect.gen(function* () {
              const made = yield* make({ retry: steady, classify: thrower, attemptTimeout, timeout: false, hedge })
              const fiber = yield* Effect.fork(call(made.policy))
              yield* TestClock.adjust("1 second")
              yield* turn
              yield* TestClock.adjust("1 second")
              const exit = fiber.unsafePoll()
              assert.isTrue(exit !== null && Exit.isFailure(exit) && Cause.isDie(exit.cause))
              assert.deepStrictEqual(yield* held(made), nothing)
            })
        )
      }
    }
  }
})

describe("the retry budget", () => {
  it.effect("a retry after a timeout of ours costs what a timeout costs", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "aws", capacity: 100, retryCost: 5, timeoutCost: 10 })
      const { policy } = yield* make({ budget, retry: { ...steady, attempts: 2 }, attemptTimeout: "1 second" })
      const fiber = yield* Effect.fork(Effect.exit(policy.tryPromise({ try: obedient, catch: busy })))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* budget.snapshot).available, 90)
    })
  )
})
