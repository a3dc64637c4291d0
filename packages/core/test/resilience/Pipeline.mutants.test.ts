/**
 * What the pipeline tells its parts and its observers of each call, and what it keeps of a call: once each, at odd moments
 * too.
 */
import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, Chaos, Deadline, ErrorClass, Policy, RetryBudget, RetryPolicy } from "@underlay/core"
import {
  Cause,
  Clock,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Fiber,
  Metric,
  MetricState,
  Stream,
  TestClock
} from "effect"
import * as pipeline from "../../src/internal/resilience/pipeline.ts"
import { Manual } from "./manual.ts"
import { run as virtually } from "./virtual.ts"

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

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), turn)

const make = (options: Omit<Policy.Options, "name"> = {}, name = "x") =>
  Effect.orDie(Policy.make({ name, retry: false, breaker: false, ...options }))

/** Every counter and how often each duration was measured, of the policy of this name. */
const counted = (policy: string) =>
  Effect.map(Metric.snapshot, (all) => {
    const found: Record<string, number> = {}
    for (const { metricKey, metricState } of all) {
      const labels = Object.fromEntries(metricKey.tags.map((tag) => [tag.key, tag.value]))
      if (labels["policy"] !== policy) continue
      const value = labels["outcome"] ?? labels["reason"] ?? labels["scope"]
      const name = metricKey.name.replace(/^resilience_/, "") + (value === undefined ? "" : ` ${value}`)
      if (MetricState.isCounterState(metricState)) found[name] = Number(metricState.count)
      if (MetricState.isHistogramState(metricState)) found[`${name} sum`] = metricState.sum
    }
    return found
  })

describe("an observer", () => {
  const observed = (policy: Policy.Policy, more: Partial<pipeline.Observer> = {}) => {
    const told: Array<string> = []
    const stages = Reflect.get(policy, "stages") as pipeline.Stages
    const observer: pipeline.Observer = {
      onRetry: (error, delay, attempt, now) =>
        told.push(`retry ${attempt} after ${delay} at ${now}: ${(error as Busy)._tag}`),
      onHedge: (now) => told.push(`hedge at ${now}`),
      onBudgetRefused: () => told.push("budget"),
      ...more
    }
    const run = <A, E, R>(effect: Effect.Effect<A, E, R>, given: pipeline.Observer = observer) =>
      pipeline.run(() => stages, effect, given)
    return { told, run }
  }

  it.effect("is told of retries and hedges, each with its time", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: { ...steady, attempts: 2 }, hedge: { delay: "100 millis" } })
      const { run, told } = observed(policy)
      let calls = 0
      const call = Effect.suspend(() => (++calls === 1 ? Effect.fail(new Busy({})) : calls === 2 ? Effect.never : turn))
      const fiber = yield* fork(run(call))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(told, ["retry 1 after 1000 at 0: Busy", "hedge at 1100"])
    })
  )

  it.effect("is told of what the budget refuses; one that asks for nothing is told nothing", () =>
    Effect.gen(function* () {
      const policy = yield* make({
        retry: { ...steady, attempts: 2 },
        budget: { type: "grpc", maxTokens: 1 },
        hedge: { delay: "100 millis" }
      })
      const { run, told } = observed(policy)
      yield* Effect.exit(run(Effect.fail(new Busy({}))))
      assert.strictEqual((yield* Effect.flip(run(Effect.fail(new Busy({})), {})))._tag, "Busy")
      assert.deepStrictEqual(told, ["budget"])
      const fiber = yield* fork(run(Effect.sleep("200 millis"), {}))
      yield* TestClock.adjust("200 millis")
      yield* Fiber.join(fiber)
    })
  )

  it.effect("may add to the context of the attempts", () =>
    Effect.gen(function* () {
      class Tenant extends Context.Tag("test/Tenant")<Tenant, string>() {}
      const policy = yield* make({ hedge: { delay: "100 millis" } })
      const { run } = observed(policy, { services: (services) => services.set(Tenant.key, "acme") })
      assert.strictEqual(yield* run(Tenant).pipe(Effect.provideService(Tenant, "nobody")), "acme")
    })
  )

  it.effect("that counts the call itself leaves only the attempts to the policy", () =>
    Effect.gen(function* () {
      const name = "observer-counted"
      const policy = yield* make({ metrics: true, breaker: { window: { type: "consecutive", failures: 1 } } }, name)
      const { run } = observed(policy, { counted: true })
      yield* run(Effect.void)
      yield* Effect.exit(run(Effect.fail(new Busy({}))))
      yield* Effect.exit(run(Effect.void))
      assert.deepStrictEqual(yield* counted(name), {
        "attempts_total success": 1,
        "attempts_total failure": 1,
        "attempts_total rejected": 1,
        "rejections_total circuit-open": 1
      })
    })
  )
})

describe("a race of attempts", () => {
  const racing = (retry: RetryPolicy.ExponentialOptions, first: Effect.Effect<string, Busy | Refused>) =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: { ...steady, attempts: 1, ...retry }, hedge: { delay: "100 millis" } })
      let calls = 0
      const call = Effect.suspend(() => (++calls === 1 ? first : Effect.delay(Effect.succeed("second"), "1 second")))
      const fiber = yield* fork(Effect.exit(policy.run(call)))
      yield* TestClock.adjust("200 millis")
      const early = fiber.unsafePoll() !== null
      yield* TestClock.adjust("2 seconds")
      return [early, Exit.isSuccess(yield* Effect.flatten(Fiber.join(fiber)).pipe(Effect.exit))]
    })
  const late = <E>(error: E) => Effect.delay(Effect.fail(error), "150 millis")

  it.effect("is ended by an error that the retry takes for permanent, and by no other", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* racing({}, late(new Refused({}))), [true, false])
      assert.deepStrictEqual(yield* racing({}, late(new Busy({}))), [false, true])
      // What is made again, whatever it is classified as, may well be waited for.
      assert.deepStrictEqual(yield* racing({ attempts: 2, retryOn: () => true }, late(new Refused({}))), [false, true])
      assert.deepStrictEqual(yield* racing({ stopOn: () => true }, late(new Busy({}))), [false, true])
    })
  )

  it.effect("is ended by a classification that throws, though another attempt runs", () =>
    Effect.gen(function* () {
      const classify = (): ErrorClass.Classification => {
        throw new Error("a bug")
      }
      assert.deepStrictEqual(yield* racing({ classify }, late(new Busy({}))), [true, false])
      // Or by any other function that is asked about the error.
      assert.deepStrictEqual(yield* racing({ attempts: 2, retryOn: classify as never }, late(new Refused({}))), [
        true,
        false
      ])
    })
  )

  it.effect("goes on without a hedge that the budget refuses at once", () =>
    Effect.gen(function* () {
      const budget = { type: "grpc", maxTokens: 1 } as const
      const policy = yield* make({ retry: { ...steady, attempts: 2 }, budget, hedge: { delay: 0 } })
      yield* Effect.exit(policy.run(Effect.fail(new Busy({}))))
      assert.strictEqual(yield* policy.run(Effect.as(turn, "ok")), "ok")
    })
  )

  it.effect("fails as the attempt did that failed, though another one interrupted itself", () =>
    Effect.gen(function* () {
      const policy = yield* make({ hedge: { delay: "100 millis" } })
      let calls = 0
      const call = Effect.suspend(() =>
        ++calls === 1
          ? Effect.delay(Effect.interrupt, "150 millis")
          : Effect.delay(Effect.fail(new Busy({})), "1 second")
      )
      const fiber = yield* fork(Effect.exit(policy.run(call)))
      yield* TestClock.adjust("2 seconds")
      const exit = yield* Fiber.join(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.isFailure(exit.cause))
    })
  )

  it.effect("tells the delay of a slow attempt that lost at the very moment of its delay", () =>
    Effect.gen(function* () {
      const policy = yield* make({ hedge: { delay: { percentile: 0.5, initial: "1 second" } } })
      let calls = 0
      const fiber = yield* fork(policy.run(Effect.suspend(() => (++calls === 1 ? Effect.never : Effect.succeed("ok")))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      yield* turn
      const hedge = yield* Effect.orDie(Effect.fromNullable(policy.hedge))
      assert.strictEqual(Math.round((yield* hedge.snapshot).samples), 1)
    })
  )

  it.effect("whose attempts have spent the attempts of a policy inside is not run again, whatever they fail with", () =>
    Effect.gen(function* () {
      const inner = yield* make({ retry: { ...steady, attempts: 2 } })
      const outer = yield* make({ retry: { ...steady, attempts: 3 }, hedge: { delay: "10 seconds" } })
      let calls = 0
      const call = Effect.suspend(() => {
        calls++
        return Effect.fail(new Busy({ n: calls }))
      })
      const fiber = yield* fork(Effect.exit(outer.run(Effect.mapError(inner.run(call), () => new Busy({ n: 0 })))))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(calls, 2)
    })
  )

  it.effect("starts no attempt at the deadline", () =>
    Effect.gen(function* () {
      const name = "race-deadline"
      const policy = yield* make({ metrics: true, hedge: { delay: "100 millis" } }, name)
      const stuck = Effect.uninterruptible(Effect.sleep("1 second"))
      const fiber = yield* fork(Effect.exit(policy.run(stuck)).pipe(Effect.provideService(Deadline.Current, 100)))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      const found = yield* counted(name)
      assert.notProperty(found, "hedges_total")
      assert.strictEqual(found["timeouts_total total"], 1)
    })
  )
})

describe("the record of attempts", () => {
  it("keeps the last 1,000, by their numbers", () => {
    let attempts = 0
    let found: ReadonlyArray<RetryPolicy.Attempt> = []
    virtually(1_100, () =>
      Effect.gen(function* () {
        const policy = yield* make({
          timeout: false,
          budget: false,
          retry: { ...steady, attempts: 1_003, base: 1, factor: 1, cap: 1 }
        })
        const error = yield* Effect.flip(policy.run(Effect.suspend(() => Effect.fail(new Busy({ n: ++attempts })))))
        found = RetryPolicy.attemptsOf(error)
      })
    )
    assert.deepStrictEqual(
      [attempts, found.length, found[0]?.number, found[0]?.startedAt, found.at(-1)?.number],
      [1_003, 1_000, 4, 3, 1_003]
    )
  })

  it.effect("is not on the error of a single attempt, nor is one given a mark that was not spent", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: { ...steady, attempts: 3 } })
      const single = new Refused({})
      const found = yield* Effect.flip(policy.run(Effect.fail(single)))
      assert.isTrue(found === single && !ErrorClass.isExhausted(found))
      assert.deepStrictEqual(RetryPolicy.attemptsOf(found), [])
      let calls = 0
      const second = new Refused({})
      const fiber = yield* fork(
        Effect.flip(policy.run(Effect.suspend(() => Effect.fail(++calls === 1 ? new Busy({}) : second))))
      )
      yield* TestClock.adjust("1 second")
      const last = yield* Fiber.join(fiber)
      assert.isTrue(last === second && !ErrorClass.isExhausted(last))
      assert.strictEqual(RetryPolicy.attemptsOf(last).length, 2)
    })
  )

  it.effect("is on a copy where several attempts failed with one object, and on the error itself where not", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: { ...steady, attempts: 3 } })
      const outcome = (errors: ReadonlyArray<Busy>) =>
        Effect.gen(function* () {
          let calls = 0
          const fiber = yield* fork(
            Effect.flip(policy.run(Effect.suspend(() => Effect.fail(errors[calls++] ?? new Busy({})))))
          )
          yield* TestClock.adjust("1 minute")
          return yield* Fiber.join(fiber)
        })
      const [a, b, c] = [new Busy({ n: 1 }), new Busy({ n: 2 }), new Busy({ n: 3 })]
      const copied = yield* outcome([a, b, b])
      assert.notStrictEqual(copied, b)
      assert.isTrue(copied._tag === "Busy" && copied.n === 2 && ErrorClass.isExhausted(copied))
      assert.deepStrictEqual([RetryPolicy.attemptsOf(copied).length, RetryPolicy.attemptsOf(b).length], [3, 0])
      // The last one has come only once, whatever came before.
      const same = yield* outcome([a, a, c])
      assert.strictEqual(same, c)
      assert.isTrue(ErrorClass.isExhausted(same))
      // And has been through a call before.
      const again = yield* outcome([a, b, c])
      assert.notStrictEqual(again, c)
    })
  )
})

describe("time that is up", () => {
  const limitOf = (exit: Exit.Exit<unknown, unknown>) => {
    const error = Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Record<string, unknown>) : {}
    return [error["_tag"], error["scope"], error["limitMillis"]]
  }

  it.effect("at the very moment of a call is no time for an attempt", () =>
    Effect.gen(function* () {
      const policy = yield* make()
      let calls = 0
      const call = Effect.sync(() => ++calls)
      const exit = yield* Effect.exit(policy.run(call).pipe(Effect.provideService(Deadline.Current, 0)))
      assert.deepStrictEqual([limitOf(exit)[1], calls], ["total", 0])
    })
  )

  it.effect("nor at the very moment at which its turn has come", () =>
    Effect.gen(function* () {
      const name = "turn-too-late"
      const clock = new Manual()
      const policy = yield* make(
        { metrics: true, rateLimit: { limit: 1, interval: "1 second", maxWait: "20 seconds", maxQueue: 10 } },
        name
      )
      yield* Effect.withClock(policy.run(Effect.void), clock)
      let calls = 0
      const call = Effect.sync(() => ++calls)
      const fiber = yield* fork(Effect.withClock(Effect.exit(policy.run(call)), clock))
      clock.advance(30_000)
      assert.deepStrictEqual([limitOf(yield* Fiber.join(fiber))[1], calls], ["total", 0])
      assert.strictEqual((yield* counted(name))["timeouts_total total"], 1)
    })
  )

  it.effect("says how long the call had: its own limit, or what the caller's deadline left of it", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 hour")
      const now = yield* Clock.currentTimeMillis
      const policy = yield* make({ timeout: "10 seconds", attemptTimeout: "5 seconds" })
      const outcome = (deadline: number, options?: Policy.CallOptions) =>
        Effect.gen(function* () {
          const fiber = yield* fork(
            Effect.exit(policy.run(Effect.never, options)).pipe(Effect.provideService(Deadline.Current, deadline))
          )
          yield* TestClock.adjust("1 minute")
          return limitOf(yield* Fiber.join(fiber))
        })
      assert.deepStrictEqual(yield* outcome(Number.POSITIVE_INFINITY), ["CallTimeout", "attempt", 5_000])
      assert.deepStrictEqual(yield* outcome(Number.POSITIVE_INFINITY, { timeout: 5_000 }), [
        "CallTimeout",
        "attempt",
        5_000
      ])
      assert.deepStrictEqual(yield* outcome(Number.POSITIVE_INFINITY, { timeout: 4_000 }), [
        "CallTimeout",
        "total",
        4_000
      ])
      const later = yield* Clock.currentTimeMillis
      assert.deepStrictEqual(yield* outcome(later + 2_000), ["CallTimeout", "total", 2_000])
      assert.deepStrictEqual(yield* outcome(now), ["CallTimeout", "total", 0])
    })
  )

  it.effect("is counted by its scope, as it is told", () =>
    Effect.gen(function* () {
      const name = "scopes"
      const policy = yield* make({ metrics: true, timeout: "5 seconds", attemptTimeout: "5 seconds" }, name)
      const expire = Effect.fnUntraced(function* (options: Policy.CallOptions) {
        const fiber = yield* fork(Effect.exit(policy.run(Effect.never, options)))
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(fiber)
      })
      yield* expire({})
      assert.deepInclude(yield* counted(name), { "timeouts_total attempt": 1, "attempts_total timeout": 1 })
      yield* expire({ timeout: "4 seconds" })
      assert.deepInclude(yield* counted(name), { "timeouts_total attempt": 1, "timeouts_total total": 1 })
    })
  )

  it.effect("is never less than none, where the clock is set back", () =>
    Effect.gen(function* () {
      const name = "set-back"
      const policy = yield* make({ metrics: true, timeout: false, hedge: { delay: "1 hour" } }, name)
      const clock = new Manual()
      clock.set(10_000)
      const calls = yield* Effect.forEach([turn, Effect.zipRight(turn, Effect.fail("no"))], (work) =>
        Effect.fork(Effect.exit(Effect.withClock(policy.run(work as Effect.Effect<unknown, string>), clock)))
      )
      yield* Effect.yieldNow()
      clock.set(1_000)
      for (const call of calls) yield* Fiber.join(call)
      assert.strictEqual((yield* counted(name))["call_duration_seconds sum"], 0)
    })
  )
})

describe("what the parts hear of a call", () => {
  it.effect("the rate limit what it costs, whether it waits or not", () =>
    Effect.gen(function* () {
      const policy = yield* make({
        timeout: false,
        rateLimit: { limit: 5, interval: "1 minute", algorithm: "sliding-window", maxWait: "5 minutes", maxQueue: 10 }
      })
      const rateLimit = yield* Effect.orDie(Effect.fromNullable(policy.rateLimit))
      const available = Effect.map(rateLimit.snapshot, (seen) => seen.available)
      yield* policy.run(Effect.void, { cost: 3 })
      assert.strictEqual(yield* available, 2)
      yield* policy.run(Effect.void)
      assert.strictEqual(yield* available, 1)
      const waiting = yield* fork(policy.run(Effect.void, { cost: 4 }))
      assert.isNull(waiting.unsafePoll())
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(waiting)
      assert.strictEqual(yield* available, 1)
    })
  )

  it.effect("the bulkhead its priority and weight, each without the other too", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 2, maxQueue: 10, maxWait: "1 minute" }, timeout: false })
      const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
      const blocker = yield* fork(policy.run(Effect.sleep("1 second"), { weight: 2 }))
      assert.strictEqual((yield* bulkhead.snapshot).active, 2)
      const order: Array<string> = []
      const call = (name: string, options?: Policy.CallOptions) =>
        fork(
          policy.run(
            Effect.zipRight(
              Effect.sync(() => order.push(name)),
              Effect.sleep("1 second")
            ),
            options
          )
        )
      const calls = [
        yield* call("said nothing"),
        yield* call("normal", { weight: 2 }),
        yield* call("low", { priority: "low" }),
        yield* call("high", { priority: "high" })
      ]
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(blocker)
      assert.strictEqual((yield* bulkhead.snapshot).active, 2)
      yield* TestClock.adjust("10 seconds")
      for (const each of calls) yield* Fiber.join(each)
      assert.deepStrictEqual(order, ["high", "said nothing", "normal", "low"])
    })
  )

  it.effect("the throttle and the budget nothing of refusals of our own, and what failed once", () =>
    Effect.gen(function* () {
      const quota = Policy.stage({
        name: "quota",
        at: "inner",
        wrap: (_, { policy: service }) =>
          Effect.fail(new Policy.StageRejected({ service, stage: "quota", reason: "used up" }))
      })
      const budget = yield* RetryBudget.make({ type: "grpc", maxTokens: 10, tokenRatio: 0.5 })
      const refusing = yield* make({ budget, throttle: {}, stages: [quota] })
      yield* Effect.exit(refusing.run(Effect.void))
      assert.strictEqual((yield* (yield* Effect.orDie(Effect.fromNullable(refusing.throttle))).snapshot).requests, 0)
      assert.strictEqual((yield* budget.snapshot).available, 10)
      const policy = yield* make({ budget, throttle: {} })
      const throttle = yield* Effect.orDie(Effect.fromNullable(policy.throttle))
      const seen = Effect.map(throttle.snapshot, ({ accepts, requests }) => [requests, accepts])
      yield* Effect.exit(policy.run(Effect.fail(new Busy({}))))
      assert.deepStrictEqual(yield* seen, [1, 0])
      assert.strictEqual((yield* budget.snapshot).available, 9)
      // It answered, and the answer was no.
      yield* Effect.exit(policy.run(Effect.fail(new Refused({}))))
      assert.deepStrictEqual(yield* seen, [2, 1])
      yield* Effect.exit(policy.run(Effect.die("bug")))
      assert.deepStrictEqual(yield* seen, [3, 1])
      yield* policy.run(Effect.void)
      assert.deepStrictEqual(yield* seen, [4, 2])
      const stuck = yield* fork(policy.run(Effect.never))
      yield* Fiber.interrupt(stuck)
      assert.deepStrictEqual(yield* seen, [4, 2])
    })
  )

  it.effect("an adaptive bulkhead successes and drops, of calls and of the first elements of streams", () =>
    Effect.gen(function* () {
      const limits = Effect.fnUntraced(function* (
        work: (policy: Policy.Policy) => Effect.Effect<unknown, unknown>,
        calls: number
      ) {
        const policy = yield* make({
          attemptTimeout: "2 seconds",
          bulkhead: { algorithm: "aimd", initial: 10, min: 1, max: 20, window: 1, minimumSamples: 10, backoff: 0.5 }
        })
        const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
        for (let round = 0; round < 2; round++) {
          const fibers = yield* Effect.forEach(Array.from({ length: calls }), () =>
            Effect.fork(Effect.exit(work(policy)))
          )
          yield* TestClock.adjust("3 seconds")
          yield* Effect.forEach(fibers, Fiber.await)
        }
        return (yield* bulkhead.snapshot).limit
      })
      const second = Effect.sleep("1 second")
      assert.isAbove(yield* limits((policy) => policy.run(second), 10), 10)
      assert.isAbove(yield* limits((policy) => policy.tryPromise(() => Promise.resolve(1)), 10), 9)
      assert.isAbove(yield* limits((policy) => Stream.runDrain(policy.stream(Stream.fromEffect(second))), 10), 10)
      assert.isBelow(yield* limits((policy) => policy.run(Effect.never), 10), 10)
      // What the caller ended, and what our own side refused, says nothing of load.
      assert.strictEqual(yield* limits((policy) => policy.run(Effect.interrupt), 10), 10)
    })
  )

  it.effect("a breaker one question of each call, and nothing that is neither success nor failure", () =>
    Effect.gen(function* () {
      const policy = yield* make({
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" },
        bulkhead: { maxConcurrent: 1, maxQueue: 1, maxWait: "5 seconds" }
      })
      const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
      const calls = yield* Effect.forEach([1, 2], () => fork(policy.run(Effect.sleep("1 second"))))
      yield* TestClock.adjust("2 seconds")
      for (const call of calls) yield* Fiber.join(call)
      assert.deepInclude((yield* breaker.snapshot).counters, { successes: 2, neutral: 0 })
      yield* Effect.exit(policy.run(Effect.fail(new Busy({}))))
      yield* Effect.exit(policy.run(Effect.void))
      assert.deepInclude((yield* breaker.snapshot).counters, { rejected: 1 })
      yield* TestClock.adjust("10 seconds")
      yield* policy.run(Effect.void)
      assert.deepInclude((yield* breaker.snapshot).counters, { successes: 3, failures: 1, neutral: 0 })
    })
  )

  it.effect("metrics which gate refused it, also where it had waited", () =>
    Effect.gen(function* () {
      const name = "refused-by"
      const policy = yield* make(
        {
          metrics: true,
          breaker: { window: { type: "consecutive", failures: 1 } },
          bulkhead: { maxConcurrent: 1, maxQueue: 1, maxWait: "5 seconds" }
        },
        name
      )
      const failing = yield* fork(Effect.exit(policy.run(Effect.delay(Effect.fail(new Busy({})), "1 second"))))
      const waiting = yield* fork(Effect.exit(policy.run(Effect.void)))
      const gauges = yield* Effect.map(Metric.snapshot, (all) =>
        all.flatMap(({ metricKey, metricState }) =>
          metricKey.name === "resilience_bulkhead_queued" &&
          metricKey.tags.some(({ value }) => value === name) &&
          MetricState.isGaugeState(metricState)
            ? [Number(metricState.value)]
            : []
        )
      )
      assert.deepStrictEqual(gauges, [1])
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(failing)
      yield* Fiber.join(waiting)
      assert.strictEqual((yield* counted(name))["rejections_total circuit-open"], 1)
      const racing = "refused-in-a-race"
      const open = { window: { type: "consecutive", failures: 1 } } as const
      const hedged = yield* make({ metrics: true, breaker: open, hedge: { delay: "1 second" } }, racing)
      for (let n = 0; n < 2; n++) yield* Effect.exit(hedged.run(Effect.fail(new Busy({}))))
      assert.strictEqual((yield* counted(racing))["rejections_total circuit-open"], 1)
      const throttled = "refused-by-throttle"
      const other = yield* make(
        { metrics: true, throttle: { minimumCalls: 1, ratio: 1, maxProbability: 1 } },
        throttled
      )
      for (let n = 0; n < 50; n++) yield* Effect.exit(other.run(Effect.fail(new Busy({}))))
      assert.isAbove((yield* counted(throttled))["rejections_total throttled"] ?? 0, 0)
    })
  )

  it.effect("a budget of a timeout as of a failure", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "grpc", maxTokens: 10 })
      const policy = yield* make({ budget, attemptTimeout: "1 second" })
      const fiber = yield* fork(Effect.exit(policy.run(Effect.never)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* budget.snapshot).available, 9)
    })
  )

  it.effect("a refused call is counted as refused, once, also where refusals are tried again", () =>
    Effect.gen(function* () {
      const name = "refused-again"
      const budget = yield* RetryBudget.make({ type: "percentage", ratio: 1, minPerSecond: 1, ttl: "1 minute" })
      const policy = yield* make(
        {
          metrics: true,
          budget,
          retry: { ...steady, attempts: 2, base: "1 second", retryRejections: true },
          breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" }
        },
        name
      )
      yield* Effect.exit(policy.run(Effect.fail(new Busy({})), { retries: 0 }))
      const before = (yield* budget.snapshot).available
      const fiber = yield* fork(policy.run(Effect.void))
      // With a ratio of 1 the call brings as much as its retry takes.
      assert.strictEqual((yield* budget.snapshot).available, before)
      yield* TestClock.adjust("20 seconds")
      yield* Fiber.join(fiber)
      const { "call_duration_seconds sum": _, ...found } = yield* counted(name)
      assert.deepStrictEqual(found, {
        "attempts_total failure": 1,
        "calls_total failure": 1,
        "rejections_total circuit-open": 1,
        "attempts_total rejected": 1,
        retries_total: 1,
        "attempts_total success": 1,
        "calls_total success": 1
      })
    })
  )
})

describe("what is no error of the call's type", () => {
  it.effect("is not tried again, whatever the retry would say of it, and leaves as it came", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: { ...steady, attempts: 3, retryOn: () => true } })
      let calls = 0
      const dying = Effect.suspend(() => {
        calls++
        return Effect.die("bug")
      })
      const exit = yield* Effect.exit(policy.run(dying))
      assert.deepStrictEqual([exit, calls], [Exit.die("bug"), 1])
      const late = yield* fork(
        Effect.exit(policy.run(Effect.suspend(() => (++calls === 2 ? Effect.fail(new Busy({})) : Effect.die("bug")))))
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(late), Exit.die("bug"))
    })
  )

  it.effect("what a classification throws leaves the call as it was thrown, and counts as a failure", () =>
    Effect.gen(function* () {
      const bug = new Error("a bug")
      const classify = (): ErrorClass.Classification => {
        throw bug
      }
      const policy = yield* make({ breaker: { classify: ErrorClass.classify }, retry: { ...steady, classify } })
      const exit = yield* Effect.exit(policy.run(Effect.fail(new Busy({}))))
      assert.deepStrictEqual(exit, Exit.die(bug))
      const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
      assert.deepInclude((yield* breaker.snapshot).counters, { failures: 1, neutral: 0 })
    })
  )

  it.effect("an attempt that interrupts itself in a race is not the end of its call", () =>
    Effect.gen(function* () {
      const name = "interrupted-in-a-race"
      const policy = yield* make({ metrics: true, hedge: { delay: "100 millis" } }, name)
      let calls = 0
      const call = Effect.suspend(() => (++calls % 2 === 1 ? Effect.sleep("1 second") : Effect.interrupt))
      const fiber = yield* fork(policy.run(call))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      const outcomes = Effect.map(counted(name), (found) => [
        found["calls_total success"],
        found["calls_total cancelled"]
      ])
      assert.deepStrictEqual(yield* outcomes, [1, undefined])
      // Unless the caller is interrupted, or each attempt interrupts itself.
      const left = yield* fork(policy.run(Effect.never))
      yield* TestClock.adjust("500 millis")
      yield* Fiber.interrupt(left)
      assert.deepStrictEqual(yield* outcomes, [1, 1])
      yield* Effect.exit(policy.run(Effect.interrupt))
      assert.deepStrictEqual(yield* outcomes, [1, 2])
    })
  )
})

describe("a promise inside a stage of one's own", () => {
  it.effect("that has settled does not give the place back before the stage has ended", () =>
    Effect.gen(function* () {
      const slow = Policy.stage({
        name: "slow",
        at: "inner",
        wrap: (effect) => Effect.zipLeft(effect, Effect.sleep("1 second"))
      })
      const policy = yield* make({ bulkhead: {}, stages: [slow] })
      const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
      const fiber = yield* fork(policy.tryPromise(() => Promise.resolve(1)))
      yield* turn
      assert.strictEqual((yield* bulkhead.snapshot).active, 1)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )
})

describe("faults on purpose", () => {
  it.effect("befall effects and promises, and cost nothing where they are off", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ rate: 1 })] })
      const policy = yield* make({ chaos, stages: [] })
      for (const call of [policy.run(Effect.succeed("ok")), policy.tryPromise(() => Promise.resolve("ok"))]) {
        const exit = yield* Effect.exit(call)
        assert.isTrue(Exit.isFailure(exit), String(exit))
      }
      const broken = yield* Effect.exit(Stream.runDrain(policy.stream(Stream.make(1))))
      assert.isTrue(Exit.isFailure(broken))
      yield* chaos.setEnabled(false)
      assert.strictEqual(yield* policy.run(Effect.succeed("ok")), "ok")
      assert.strictEqual(yield* policy.tryPromise(() => Promise.resolve("ok")), "ok")
      yield* Stream.runDrain(policy.stream(Stream.make(1)))
    })
  )

  it.effect("befall a stream once, where they say: after its elements, and not its attempts besides", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ rate: 1, afterElements: 2 })] })
      const policy = yield* make({ chaos })
      const seen: Array<number> = []
      const through = Stream.runForEach(policy.stream(Stream.range(1, 9, 1)), (n) => Effect.sync(() => seen.push(n)))
      const exit = yield* Effect.exit(through)
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(seen, [1, 2])
    })
  )
})

describe("a call inside another", () => {
  it.effect("that succeeds for an attempt that has timed out says nothing of the attempt after it", () =>
    Effect.gen(function* () {
      const inner = yield* make({ retry: { ...steady, attempts: 2, base: "10 millis" } })
      const outer = yield* make({
        retry: { ...steady, attempts: 3 },
        attemptTimeout: "500 millis",
        timeout: "1 minute"
      })
      let calls = 0
      const call = Effect.suspend(
        (): Effect.Effect<unknown, unknown> =>
          ++calls === 1
            ? Effect.uninterruptible(inner.run(Effect.sleep("1600 millis")))
            : Effect.catchAll(inner.run(Effect.fail(new Busy({}))), () =>
                Effect.delay(Effect.fail(new Busy({})), "300 millis")
              )
      )
      const fiber = yield* fork(Effect.exit(outer.run(call)))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      // The second attempt, from 1.5 seconds on, has spent the inner policy's attempts before the orphan ends at 1.6.
      assert.strictEqual(calls, 2)
    })
  )

  it.effect("finds its context and deadline where a stage stands inside, and where none does", () =>
    Effect.gen(function* () {
      const stage = Policy.stage({ name: "own", at: "inner", wrap: (effect) => effect })
      for (const stages of [[], [stage]]) {
        const policy = yield* make({ timeout: "7 seconds", stages })
        const now = yield* Clock.currentTimeMillis
        assert.strictEqual((yield* policy.run(Deadline.Current)) - now, 7_000)
        const bounded = policy.run(Deadline.Current).pipe(Effect.provideService(Deadline.Current, now + 3_000))
        assert.strictEqual((yield* bounded) - now, 3_000)
      }
    })
  )

  it.effect("gives a bulkhead that others share back what it took, and tells of its places", () =>
    Effect.gen(function* () {
      const name = "shared-places"
      const bulkhead = yield* Bulkhead.make({ name: "shared", maxConcurrent: 3 })
      const policy = yield* make({ metrics: true, bulkhead, timeout: Duration.minutes(1) }, name)
      const fiber = yield* fork(policy.run(Effect.sleep("1 second"), { weight: 2 }))
      assert.strictEqual((yield* bulkhead.snapshot).active, 2)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )
})
