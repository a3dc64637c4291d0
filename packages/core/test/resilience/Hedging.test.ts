import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, type ErrorClass, Hedge, Policy, RetryBudget, RetryPolicy } from "@underlay/core"
import { Cause, Clock, Context, Data, Deferred, Duration, Effect, Exit, Fiber, FiberRef, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number }> {
  get isRetryable() {
    return true
  }
}
class Refused extends Data.TaggedError("Refused")<{ readonly n?: number }> {
  get isRetryable() {
    return false
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

/** A call that does the n-th of what it is given, and writes down when it began and how it ended. */
const scripted = <A, E>(steps: ReadonlyArray<Effect.Effect<A, E>>) => {
  const at: Array<number> = []
  const ended: Array<string> = []
  const call = Effect.suspend(() => {
    const n = at.length
    const step = steps[Math.min(n, steps.length - 1)] ?? Effect.die("no step")
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      at.push(now)
      return Effect.onExit(step, (exit) =>
        Effect.sync(() => {
          ended[n] = Exit.isSuccess(exit) ? "success" : Cause.isInterruptedOnly(exit.cause) ? "interrupted" : "failure"
        })
      )
    })
  })
  return { at, ended, call }
}

const giving = <A>(value: A, duration: `${number} ${"millis" | "seconds"}`) =>
  Effect.delay(Effect.succeed(value), duration)

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.gen(function* () {
    const bulkhead = yield* Bulkhead.make({ name: "x", maxConcurrent: 10, maxQueue: 10, maxWait: "1 minute" })
    const policy = yield* Effect.orDie(
      Policy.make({ name: "x", retry: false, bulkhead, hedge: { delay: "100 millis" }, ...options })
    )
    const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
    return { policy, bulkhead: policy.bulkhead ?? bulkhead, breaker }
  })

const held = ({ bulkhead, breaker, policy }: Effect.Effect.Success<ReturnType<typeof make>>) =>
  Effect.gen(function* () {
    const places = yield* bulkhead.snapshot
    return {
      places: places.active,
      queued: places.queued,
      permits: (yield* breaker.snapshot).inFlight,
      orphans: (yield* policy.orphans).current
    }
  })

const nothing = { places: 0, queued: 0, permits: 0, orphans: 0 }

describe("a race of attempts", () => {
  it.effect("a quick call is not hedged, and leaves no timer", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { at, call } = scripted([Effect.succeed("at once"), giving("soon", "99 millis")])
      assert.strictEqual(yield* made.policy.run(call), "at once")
      assert.deepStrictEqual(yield* held(made), nothing)
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("99 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "soon")
      assert.deepStrictEqual(yield* held(made), nothing)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(at, [0, 0])
    })
  )

  it.effect("another attempt starts beside a slow one; the first success wins and the other is interrupted", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { at, call, ended } = scripted([giving("slow", "10 seconds"), giving("quick", "50 millis")])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("149 millis")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
      yield* turn
      assert.deepStrictEqual(
        [at, ended],
        [
          [0, 100],
          ["interrupted", "success"]
        ]
      )
      assert.deepStrictEqual(yield* held(made), nothing)
      // The service has answered once; of the other attempt it is not known.
      assert.deepInclude((yield* made.breaker.snapshot).counters, { successes: 1, failures: 0, neutral: 1 })
    })
  )

  it.effect("the slow one may win as well, and the hedge is interrupted", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { call, ended } = scripted([giving("slow", "120 millis"), giving("quick", "50 millis")])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("120 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "slow")
      yield* turn
      assert.deepStrictEqual(ended, ["success", "interrupted"])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a loser that cannot be interrupted is not waited for, and keeps its place until it really ends", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { call, ended } = scripted([giving("slow", "10 seconds"), giving("quick", "1 millis")])
      const fiber = yield* Effect.fork(made.policy.run(Effect.uninterruptible(call)))
      yield* TestClock.adjust("101 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
      assert.deepInclude(yield* held(made), { places: 1, permits: 1 })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.strictEqual(ended[0], "success")
      // It was interrupted as soon as it could be.
      assert.deepInclude((yield* made.breaker.snapshot).counters, { successes: 1, failures: 0, neutral: 1 })
    })
  )

  it.effect("as many hedges as allowed, each after the delay", () =>
    Effect.gen(function* () {
      const made = yield* make({ hedge: { delay: "100 millis", maxHedges: 3 } })
      const { at, call, ended } = scripted<string, never>([Effect.never])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(at, [0, 100, 200, 300])
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(ended, ["interrupted", "interrupted", "interrupted", "interrupted"])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("without a delay all start at once, and a failure at once of one of them ends nothing", () =>
    Effect.gen(function* () {
      const made = yield* make({ hedge: { delay: 0, maxHedges: 3 } })
      const { at, call } = scripted([
        giving("slow", "10 seconds"),
        Effect.fail(new Busy({})),
        giving("quick", "5 millis"),
        giving("slow", "10 seconds")
      ])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* turn
      assert.deepStrictEqual(at, [0, 0, 0, 0])
      yield* TestClock.adjust("5 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a failure that is worth another try waits for the attempts that still run", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { at, call } = scripted([
        giving("slow", "1 seconds"),
        Effect.delay(Effect.fail(new Busy({ n: 2 })), "10 millis")
      ])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("500 millis")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "slow")
      assert.deepStrictEqual(at, [0, 100])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a permanent failure is the answer: no other attempt is waited for or started", () =>
    Effect.gen(function* () {
      const made = yield* make({ hedge: { delay: "100 millis", maxHedges: 3 } })
      const { at, call, ended } = scripted<string, Refused>([
        Effect.delay(Effect.fail(new Refused({ n: 1 })), "150 millis"),
        Effect.never
      ])
      const fiber = yield* Effect.fork(Effect.flip(made.policy.run(call)))
      yield* TestClock.adjust("150 millis")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "Refused" && error.n === 1)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(
        [at, ended],
        [
          [0, 100],
          ["failure", "interrupted"]
        ]
      )
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("a defect of one attempt is the call's, at once", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { call } = scripted<string, never>([Effect.never, Effect.die("bug")])
      const fiber = yield* Effect.fork(Effect.exit(made.policy.run(call)))
      yield* TestClock.adjust("100 millis")
      const exit = fiber.unsafePoll()
      assert.isTrue(
        exit !== null && Exit.isSuccess(exit) && Exit.isFailure(exit.value) && Cause.isDie(exit.value.cause)
      )
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("if all fail, the retry starts another race; the last error tells of every attempt", () =>
    Effect.gen(function* () {
      const made = yield* make({ retry: { ...steady, attempts: 2 } })
      const { at, call } = scripted<string, Busy>(
        [1, 2, 3, 4].map((n) => Effect.delay(Effect.fail(new Busy({ n })), "150 millis"))
      )
      const fiber = yield* Effect.fork(Effect.flip(made.policy.run(call)))
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(fiber)
      // 0 and 100 fail at 150 and 250; a second later again.
      assert.deepStrictEqual(at, [0, 100, 1_250, 1_350])
      assert.isTrue(error._tag === "Busy" && error.n === 3)
      assert.deepStrictEqual(
        RetryPolicy.attemptsOf(error).map((each) => [each.number, each.startedAt, each.endedAt]),
        [
          [1, 0, 150],
          [2, 100, 250],
          [3, 1_250, 1_400],
          [4, 1_350, 1_500]
        ]
      )
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("the error that leaves is the one that was failed with, also where a hedge failed after it", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const first = new Busy({ n: 1 })
      const { call } = scripted<string, Busy>([
        Effect.delay(Effect.fail(first), "150 millis"),
        Effect.delay(Effect.fail(new Busy({ n: 2 })), "150 millis")
      ])
      const fiber = yield* Effect.fork(Effect.flip(policy.run(call)))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error === first)
      assert.strictEqual(RetryPolicy.attemptsOf(error).length, 2)
    })
  )

  it.effect("a hedge that is refused for want of a place does not hide what the service said", () =>
    Effect.gen(function* () {
      const made = yield* make({ bulkhead: { maxConcurrent: 2 } })
      const other = yield* Effect.fork(made.bulkhead.run(Effect.never))
      yield* turn
      const { at, call } = scripted<string, Busy>([Effect.delay(Effect.fail(new Busy({ n: 1 })), "1 seconds")])
      const fiber = yield* Effect.fork(Effect.flip(made.policy.run(call)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Busy")
      assert.deepStrictEqual(at, [0])
      assert.strictEqual((yield* made.bulkhead.snapshot).rejected, 1)
      yield* Fiber.interrupt(other)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("an attempt that waits for its turn is not slow: no other one is queued behind it", () =>
    Effect.gen(function* () {
      const made = yield* make({ bulkhead: { maxConcurrent: 2, maxQueue: 10, maxWait: "20 seconds" } })
      const first = yield* Effect.fork(made.policy.run(Effect.sleep("10 seconds"), { hedge: false, weight: 2 }))
      yield* turn
      const { at, call } = scripted([giving("slow", "1 seconds"), giving("quick", "10 millis")])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 2, queued: 1, permits: 2 })
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(first)
      // It began at 10 seconds, and was slow from then on.
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
      assert.deepStrictEqual(at, [10_000, 10_100])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("the delay counts from when the attempt has got its turn", () =>
    Effect.gen(function* () {
      const made = yield* make({ rateLimit: { limit: 1, interval: "1 second", maxWait: "20 seconds", maxQueue: 10 } })
      const { at, call } = scripted([Effect.succeed("first"), Effect.never, giving("third", "10 millis")])
      yield* made.policy.run(call)
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "third")
      assert.deepStrictEqual(at, [0, 1_000, 2_000])
    })
  )

  it.effect("no hedge starts when the deadline is over, and none after the end of the call", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { at, call } = scripted<string, never>([Effect.never])
      const fiber = yield* Effect.fork(Effect.flip(made.policy.run(call, { timeout: "100 millis" })))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
      assert.deepStrictEqual(at, [0])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("the total deadline ends all attempts", () =>
    Effect.gen(function* () {
      const made = yield* make({ timeout: "1 second", attemptTimeout: false })
      const { call, ended } = scripted<string, never>([Effect.never])
      const fiber = yield* Effect.fork(Effect.flip(made.policy.run(call)))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "CallTimeout" && error.scope === "total")
      assert.deepStrictEqual(ended, ["interrupted", "interrupted"])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("an interruption from outside interrupts all attempts and waits for them", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 hour", timeout: false })
      let running = 0
      const call = Effect.acquireUseRelease(
        Effect.sync(() => running++),
        () => Effect.never,
        () =>
          Effect.delay(
            Effect.sync(() => running--),
            "1 second"
          )
      )
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(running, 2)
      const interruption = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual([interruption.unsafePoll(), running], [null, 2])
      yield* TestClock.adjust("1 millis")
      const exit = yield* Fiber.join(interruption)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
      assert.strictEqual(running, 0)
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { successes: 0, failures: 0, neutral: 2 })
    })
  )

  it.effect("an attempt that interrupts itself leaves the race to the other", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { call } = scripted([giving("slow", "1 seconds"), Effect.interrupt])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), "slow")
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("what the winner sets in fiber references is the caller's, what the loser sets is not", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const ref = FiberRef.unsafeMake("before")
      const { call } = scripted([
        Effect.zipRight(FiberRef.set(ref, "slow"), giving("slow", "1 seconds")),
        Effect.zipRight(FiberRef.set(ref, "quick"), giving("quick", "10 millis"))
      ])
      const fiber = yield* Effect.fork(Effect.zipRight(policy.run(call), FiberRef.get(ref)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
    })
  )

  it.effect("attempts that take an abort signal: the loser's is aborted", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const signals: Array<AbortSignal> = []
      const settle: Array<(value: string) => void> = []
      const fiber = yield* Effect.fork(
        made.policy.tryPromise((signal) => {
          signals.push(signal)
          return new Promise<string>((resolve) => settle.push(resolve))
        })
      )
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(signals.length, 2)
      settle[1]?.("quick")
      yield* turn
      assert.strictEqual(yield* Fiber.join(fiber), "quick")
      yield* turn
      assert.deepStrictEqual(
        signals.map((each) => each.aborted),
        [true, false]
      )
      // It has not listened to the abort: it keeps its place.
      assert.deepInclude(yield* held(made), { places: 1, permits: 0, orphans: 1 })
      settle[0]?.("slow")
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("both end in the same moment: one result, one more success, nothing left", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const gate = yield* Deferred.make<void>()
      const { call, ended } = scripted([Effect.as(Deferred.await(gate), 1), Effect.as(Deferred.await(gate), 2)])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("100 millis")
      yield* Deferred.succeed(gate, undefined)
      const value = yield* Fiber.join(fiber)
      assert.include([1, 2], value)
      yield* turn
      assert.strictEqual(ended.length, 2)
      assert.deepStrictEqual(yield* held(made), nothing)
      const { failures, neutral, successes } = (yield* made.breaker.snapshot).counters
      assert.deepStrictEqual([failures, neutral + successes], [0, 2])
    })
  )

  it.effect("a hedge in half-open takes no probe that is not there", () =>
    Effect.gen(function* () {
      const made = yield* make({
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds", halfOpenPermits: 1 }
      })
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("10 seconds")
      const { at, call } = scripted([giving("slow", "1 seconds"), giving("quick", "10 millis")])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual(at, [10_000])
      assert.strictEqual((yield* made.breaker.snapshot).probesInFlight, 1)
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "slow")
      assert.strictEqual(yield* made.breaker.state, "closed")
    })
  )

  it.effect("settings that are reloaded while attempts race are those of the next race", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { at, call } = scripted([Effect.never, giving("second", "10 seconds"), Effect.never])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("50 millis")
      yield* made.policy.reload({ retry: false, bulkhead: made.bulkhead, hedge: { delay: "1 second", maxHedges: 2 } })
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "second")
      const next = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(at, [0, 100, 20_050, 21_050, 22_050])
      yield* Fiber.interrupt(next)
      assert.strictEqual((yield* held(made)).places, 0)
    })
  )
})

/** What the pipeline tells a budget, as far as it is listened to here. */
interface RetryBudgetMachine {
  readonly called: (now: number) => void
  readonly succeeded: (now: number, taken: number) => void
  readonly failed: (now: number, found: ErrorClass.Classification) => void
  readonly take: (now: number, found: ErrorClass.Classification | undefined, error?: unknown) => number
}

describe("what hedges take from the budget", () => {
  it.effect("each hedge takes once, the first attempt nothing, and a refused hedge is not made", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "percentage", ratio: 0.001, minPerSecond: 0.1, ttl: "20 seconds" })
      assert.strictEqual((yield* budget.snapshot).available, 2)
      const made = yield* make({ budget, hedge: { delay: "100 millis", maxHedges: 5 } })
      const { at, call } = scripted<string, never>([Effect.never])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(at, [0, 100, 200])
      assert.deepInclude(yield* budget.snapshot, { available: 0, taken: 2, refused: 1 })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("what the attempt that succeeds had taken is given back, and no other's", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "aws", capacity: 100, retryCost: 5, successIncrement: 1 })
      // The stage holds the first attempt back until the hedge has taken what it costs.
      let started = 0
      const late = Policy.stage({
        name: "late",
        wrap: (effect) => Effect.suspend(() => (++started === 1 ? Effect.delay(effect, "1 second") : effect))
      })
      const made = yield* make({ budget, stages: [late], hedge: { delay: "100 millis", maxHedges: 1 } })
      const drain = yield* Effect.fork(made.policy.run(Effect.void))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(drain)
      assert.strictEqual((yield* budget.snapshot).available, 100)
      const { call } = scripted([giving("slow", "10 seconds"), giving("quick", "10 millis")])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("105 millis")
      assert.strictEqual((yield* budget.snapshot).available, 95)
      yield* TestClock.adjust("5 millis")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* budget.snapshot).available, 100)
      // The first one wins: the hedge's five stay taken, and a first attempt that succeeds brings one.
      const { call: second } = scripted([giving("slow", "150 millis"), Effect.never])
      const other = yield* Effect.fork(made.policy.run(second))
      yield* TestClock.adjust("150 millis")
      assert.strictEqual(yield* Fiber.join(other), "slow")
      assert.strictEqual((yield* budget.snapshot).available, 96)
    })
  )

  it.effect("calls, attempts and hedges are told to the budget once each", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "grpc", maxTokens: 10, tokenRatio: 0.5 })
      const told: Array<string> = []
      const machine = (budget as unknown as { readonly machine: RetryBudgetMachine }).machine
      const spied: RetryBudget.RetryBudget = Object.create(budget, {
        machine: {
          value: Object.create(machine, {
            called: {
              value: (now: number) => {
                told.push("called")
                machine.called(now)
              }
            },
            succeeded: {
              value: (now: number, taken: number) => {
                told.push(`succeeded ${taken}`)
                machine.succeeded(now, taken)
              }
            },
            failed: {
              value: (now: number, found: ErrorClass.Classification) => {
                told.push(`failed ${found.class}`)
                machine.failed(now, found)
              }
            },
            take: {
              value: (...args: Parameters<typeof machine.take>) => {
                told.push(args[1] === undefined ? "hedge" : "retry")
                return machine.take(...args)
              }
            }
          })
        }
      })
      const made = yield* make({ budget: spied, retry: { ...steady, attempts: 3 }, attemptTimeout: "5 seconds" })
      const { call } = scripted([
        Effect.fail(new Busy({})),
        Effect.delay(Effect.fail(new Busy({})), "150 millis"),
        Effect.delay(Effect.fail(new Busy({})), "150 millis"),
        Effect.never,
        giving("ok", "10 millis")
      ])
      const fiber = yield* Effect.fork(made.policy.run(call))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      assert.deepStrictEqual(told, [
        "called",
        "failed transient",
        "retry",
        "hedge",
        "failed transient",
        "failed transient",
        "retry",
        "hedge",
        "succeeded 1"
      ])
    })
  )
})

describe("the delay that follows the service", () => {
  const percentile = {
    percentile: 0.5,
    initial: "1 second",
    min: "1 millis",
    max: "1 minute",
    minimumSamples: 1,
    halfLife: "1 hour"
  } as const

  const learning = (options: Omit<Policy.Options, "name"> = {}) =>
    Effect.gen(function* () {
      const hedge = yield* Hedge.make({ delay: percentile })
      const made = yield* make({ hedge, timeout: false, ...options })
      return { ...made, hedge, samples: Effect.map(hedge.snapshot, (seen) => Math.round(seen.samples)) }
    })

  /** Twice, so that a little forgetting leaves more than one sample. */
  const run = (policy: Policy.Policy, effect: Effect.Effect<unknown, unknown>) =>
    Effect.repeatN(once(policy, effect), 1)

  const once = (policy: Policy.Policy, effect: Effect.Effect<unknown, unknown>) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(Effect.exit(policy.run(effect)))
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(fiber)
    })

  const near = (hedge: Hedge.Hedge, millis: number) =>
    Effect.map(hedge.snapshot, (seen) => {
      const delay = Duration.toMillis(seen.delay)
      assert.isTrue(Math.abs(delay - millis) <= millis * 0.03, `${delay} is not ${millis}`)
    })

  it.effect("learns from successes and not from failures", () =>
    Effect.gen(function* () {
      const { hedge, policy, samples } = yield* learning()
      yield* run(policy, Effect.sleep("200 millis"))
      assert.strictEqual(yield* samples, 2)
      yield* near(hedge, 200)
      yield* run(policy, Effect.fail(new Busy({})))
      assert.strictEqual(yield* samples, 2)
    })
  )

  it.effect("not from the time that was waited for a place", () =>
    Effect.gen(function* () {
      const { hedge, policy } = yield* learning({ bulkhead: { maxConcurrent: 2, maxQueue: 1, maxWait: "1 minute" } })
      const first = yield* Effect.fork(policy.run(Effect.sleep("20 seconds"), { hedge: false, weight: 2 }))
      yield* turn
      yield* run(policy, Effect.sleep("200 millis"))
      yield* Fiber.join(first)
      yield* near(hedge, 200)
    })
  )

  it.effect("a slow attempt that lost to its hedge took at least as long as it had", () =>
    Effect.gen(function* () {
      const { hedge, policy, samples } = yield* learning()
      let calls = 0
      const call = Effect.suspend(() => (++calls % 2 === 1 ? Effect.never : Effect.sleep("2 seconds")))
      yield* once(policy, call)
      assert.strictEqual(yield* samples, 1)
      yield* once(policy, call)
      // The first delay is a second; that of the second call was the three seconds of the first.
      yield* near(hedge, 3_000)
      assert.strictEqual(yield* samples, 2)
    })
  )

  it.effect("and so did an attempt that timed out", () =>
    Effect.gen(function* () {
      const { hedge, policy, samples } = yield* learning({ attemptTimeout: "5 seconds" })
      yield* run(policy, Effect.never)
      assert.strictEqual(yield* samples, 2)
      yield* near(hedge, 5_000)
    })
  )

  it.effect("an interruption by the caller before the delay says nothing", () =>
    Effect.gen(function* () {
      const { policy, samples } = yield* learning()
      const fiber = yield* Effect.fork(policy.run(Effect.never))
      yield* TestClock.adjust("500 millis")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* samples, 0)
    })
  )
})

describe("nested policies and hedges", () => {
  it.effect("3 x 3 x 3 with a hedge outside: each of the racing attempts is retried by the innermost only", () =>
    Effect.gen(function* () {
      const name = "x"
      const retry = { ...steady, attempts: 3 }
      const inner = yield* Policy.make({ name, retry, breaker: false })
      const middle = yield* Policy.make({ name, retry, breaker: false, timeout: "1 minute" })
      const outer = yield* Policy.make({
        name,
        retry,
        breaker: false,
        timeout: "2 minutes",
        hedge: { delay: "500 millis" }
      })
      const { at, call } = scripted<string, Busy>([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(Effect.exit(outer.run(middle.run(inner.run(call)))))
      yield* TestClock.adjust("10 minutes")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      // Two races of 0, 1 and 3 seconds, half a second apart, and none after.
      assert.deepStrictEqual(at, [0, 500, 1_000, 1_500, 3_000, 3_500])
    })
  )

  it.effect("an inner policy inside the loser of a race says nothing of the winner", () =>
    Effect.gen(function* () {
      const inner = yield* Policy.make({ name: "x", retry: { ...steady, attempts: 1 }, breaker: false })
      const outer = yield* Policy.make({
        name: "x",
        retry: { ...steady, attempts: 3 },
        breaker: false,
        hedge: { delay: "500 millis" }
      })
      const { at, call } = scripted([
        Effect.delay(Effect.fail(new Busy({ n: 1 })), "600 millis"),
        Effect.delay(Effect.fail(new Busy({ n: 2 })), "200 millis"),
        Effect.succeed("ok")
      ])
      const fiber = yield* Effect.fork(outer.run(inner.run(call)))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      assert.strictEqual(at.length, 3)
    })
  )

  it.effect("the attempts see the context of the caller", () =>
    Effect.gen(function* () {
      class Tenant extends Context.Tag("Tenant")<Tenant, string>() {}
      const { policy } = yield* make()
      let calls = 0
      const call = Effect.flatMap(Tenant, (tenant) => (++calls === 1 ? Effect.never : Effect.succeed(tenant)))
      const fiber = yield* Effect.fork(Effect.provideService(policy.run(call), Tenant, "acme"))
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "acme")
    })
  )
})
