import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Hedge, Policy, RateLimit, RetryBudget, Throttle } from "@underlay/core"
import { Data, Deferred, Effect, Fiber, Metric, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy()))

const make = (options: Omit<Policy.Options, "name">) => Policy.make({ retry: false, ...options, name: "weather" })

const tagOf = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>) =>
  Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "success" as const })

const circuit = (policy: Policy.Policy) => Effect.flatMap(Effect.fromNullable(policy.breaker), (each) => each.snapshot)
const places = (policy: Policy.Policy) => Effect.flatMap(Effect.fromNullable(policy.bulkhead), (each) => each.snapshot)

describe("Policy.reload keeps state where the shape is unchanged", () => {
  it.effect("an open circuit stays open, for the time it was opened for", () =>
    Effect.gen(function* () {
      const breaker = { window: { type: "consecutive", failures: 1 }, openFor: "30 seconds" } as const
      const policy = yield* make({ breaker })
      yield* Effect.ignore(policy.run(busy))
      const before = policy.breaker
      yield* policy.reload({ retry: false, timeout: "5 seconds", breaker: { ...breaker, halfOpenPermits: 2 } })
      assert.strictEqual(policy.breaker, before)
      assert.strictEqual((yield* circuit(policy)).state, "open")
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "CircuitOpen")
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "success")
    })
  )

  it.effect("failures that were counted still count", () =>
    Effect.gen(function* () {
      const policy = yield* make({
        breaker: { window: { type: "count", size: 10, failureRate: 0.5, minimumCalls: 4 } }
      })
      for (let n = 0; n < 3; n++) yield* Effect.ignore(policy.run(busy))
      yield* policy.reload({
        retry: false,
        breaker: { window: { type: "count", size: 10, failureRate: 0.4, minimumCalls: 4 } }
      })
      yield* Effect.ignore(policy.run(busy))
      assert.strictEqual((yield* circuit(policy)).state, "open")
    })
  )

  it.effect("places that are taken stay taken, and who waits gets those that are added", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 1, maxQueue: 5, maxWait: "10 seconds" } })
      const hold = yield* Deferred.make<void>()
      const running = yield* Effect.fork(policy.run(Deferred.await(hold)))
      const waiting = yield* Effect.fork(policy.run(Effect.succeed("in")))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* places(policy)).queued, 1)
      yield* policy.reload({ retry: false, bulkhead: { maxConcurrent: 2, maxQueue: 5, maxWait: "10 seconds" } })
      assert.strictEqual(yield* Fiber.join(waiting), "in")
      assert.strictEqual((yield* places(policy)).active, 1)
      yield* policy.reload({ retry: false, bulkhead: { maxConcurrent: 1 } })
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "BulkheadFull")
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(running)
      assert.strictEqual((yield* places(policy)).active, 0)
    })
  )

  it.effect("a bulkhead that becomes adaptive and back holds the places that are taken", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 3 } })
      const hold = yield* Deferred.make<void>()
      const fibers = yield* Effect.forEach([1, 2], () => Effect.fork(policy.run(Deferred.await(hold))))
      yield* Effect.yieldNow()
      yield* policy.reload({ retry: false, bulkhead: { algorithm: "aimd", initial: 2, min: 2, max: 10 } })
      assert.deepInclude(yield* places(policy), { active: 2, limit: 2 })
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "BulkheadFull")
      yield* policy.reload({ retry: false, bulkhead: { maxConcurrent: 3 } })
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "success")
      yield* Deferred.succeed(hold, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      assert.strictEqual((yield* places(policy)).active, 0)
    })
  )

  it.effect("what is used up of a rate limit stays used up", () =>
    Effect.gen(function* () {
      const rateLimit = { limit: 2, interval: "1 minute", algorithm: "sliding-window", maxWait: false } as const
      const policy = yield* make({ rateLimit })
      yield* policy.run(Effect.void)
      yield* policy.run(Effect.void)
      yield* policy.reload({ retry: false, rateLimit: { ...rateLimit, limit: 3 } })
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "success")
      assert.strictEqual(yield* tagOf(policy.run(Effect.void)), "RateLimitExceeded")
    })
  )

  it.effect("what is taken of a budget stays taken", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "weather",
        breaker: false,
        budget: { type: "grpc", maxTokens: 4 },
        retry: { attempts: 2, base: "1 millis", jitter: "none" }
      })
      const budget = yield* Effect.fromNullable(policy.budget)
      yield* Effect.fork(Effect.ignore(policy.run(busy)))
      yield* TestClock.adjust("1 second")
      const { available } = yield* budget.snapshot
      assert.isBelow(available, 4)
      yield* policy.reload({ breaker: false, budget: { type: "grpc", maxTokens: 4, tokenRatio: 0.2 } })
      assert.strictEqual(policy.budget, budget)
      assert.strictEqual((yield* budget.snapshot).available, available)
    })
  )

  it.effect("what a throttle has counted and what a hedge has learnt", () =>
    Effect.gen(function* () {
      const delay = { percentile: 0.5, initial: "10 seconds", minimumSamples: 3 } as const
      const policy = yield* make({ breaker: false, throttle: { ratio: 1.1, minimumCalls: 3 }, hedge: { delay } })
      const { hedge, throttle } = policy
      for (let n = 0; n < 5; n++) {
        const fiber = yield* Effect.fork(policy.run(Effect.delay(Effect.void, "1 second")))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
      }
      yield* policy.reload({
        retry: false,
        breaker: false,
        throttle: { ratio: 2, minimumCalls: 3 },
        hedge: { delay, maxHedges: 2 }
      })
      assert.strictEqual(policy.hedge, hedge)
      assert.strictEqual(policy.throttle, throttle)
      assert.strictEqual((yield* (yield* Effect.fromNullable(throttle)).snapshot).requests, 5)
      const seen = yield* (yield* Effect.fromNullable(hedge)).snapshot
      assert.strictEqual(seen.maxHedges, 2)
      assert.isAbove(seen.samples, 3)
    })
  )
})

describe("Policy.reload switches parts on and off", () => {
  it.effect("every part, and back", () =>
    Effect.gen(function* () {
      const all: Omit<Policy.Options, "name"> = {
        budget: { type: "percentage" },
        hedge: { delay: "1 second" },
        throttle: {},
        rateLimit: { limit: 10 },
        breaker: {},
        bulkhead: {}
      }
      const none: Omit<Policy.Options, "name"> = {
        retry: false,
        budget: false,
        hedge: false,
        throttle: false,
        rateLimit: false,
        breaker: false,
        bulkhead: false
      }
      const policy = yield* make(none)
      const parts = () => [
        policy.budget,
        policy.hedge,
        policy.throttle,
        policy.rateLimit,
        policy.breaker,
        policy.bulkhead
      ]
      assert.isTrue(parts().every((each) => each === undefined))
      yield* policy.reload(all)
      assert.isTrue(parts().every((each) => each !== undefined))
      assert.strictEqual(policy.retry.attempts, 3)
      yield* policy.run(Effect.void)
      yield* policy.reload(none)
      assert.isTrue(parts().every((each) => each === undefined))
      yield* policy.run(Effect.void)
    })
  )

  it.effect("a call under way gives its place back to the bulkhead that it got it from", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 1 } })
      const first = yield* Effect.fromNullable(policy.bulkhead)
      const hold = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(policy.run(Deferred.await(hold)))
      yield* Effect.yieldNow()
      yield* policy.reload({ retry: false, bulkhead: false })
      yield* policy.reload({ retry: false, bulkhead: { maxConcurrent: 1 } })
      assert.notStrictEqual(policy.bulkhead, first)
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* first.snapshot).active, 0)
      assert.strictEqual((yield* places(policy)).active, 0)
    })
  )
})

describe("Policy.reload leaves alone", () => {
  it.effect("calls under way, which end as they began", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "weather",
        breaker: false,
        retry: { attempts: 3, base: "1 second", jitter: "none" }
      })
      let calls = 0
      const count = Effect.suspend(() => {
        calls++
        return busy
      })
      const fiber = yield* Effect.fork(Effect.exit(policy.run(count)))
      const late = yield* Effect.fork(tagOf(policy.run(Effect.never)))
      yield* TestClock.adjust("500 millis")
      yield* policy.reload({ breaker: false, retry: false, timeout: "1 second" })
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(calls, 3)
      assert.isNull(yield* Fiber.poll(late).pipe(Effect.map((found) => (found._tag === "None" ? null : found))))
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* Fiber.join(late), "CallTimeout")
      // Those that start now have the new settings.
      calls = 0
      yield* Effect.exit(policy.run(count))
      assert.strictEqual(calls, 1)
    })
  )

  it.effect("parts that were made elsewhere", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "shared", window: { type: "consecutive", failures: 1 } })
      const bulkhead = yield* Bulkhead.make({ name: "shared", maxConcurrent: 7 })
      const rateLimit = yield* RateLimit.make({ name: "shared", limit: 7 })
      const throttle = yield* Throttle.make({ name: "shared", ratio: 3 })
      const budget = yield* RetryBudget.make({ type: "grpc", maxTokens: 7 })
      const hedge = yield* Hedge.make({ delay: "7 seconds" })
      const shared = { breaker, bulkhead, rateLimit, throttle, budget, hedge }
      const policy = yield* make(shared)
      const words = () =>
        [breaker, bulkhead, rateLimit, throttle, budget, hedge].map((each) => Reflect.get(each, "description"))
      const before = words()
      yield* policy.reload({
        retry: false,
        breaker: { openFor: "1 second" },
        bulkhead: { maxConcurrent: 2 },
        rateLimit: { limit: 1 },
        throttle: { ratio: 1 },
        budget: { type: "percentage" },
        hedge: { delay: "1 second" }
      })
      assert.deepStrictEqual(words(), before)
      assert.notStrictEqual(policy.breaker, breaker)
      assert.notStrictEqual(policy.budget, budget)
      // And back, and a reload of anything else.
      yield* policy.reload({ ...shared, retry: false })
      yield* policy.reload({ ...shared, retry: false, timeout: "5 seconds" })
      assert.deepStrictEqual(words(), before)
      assert.strictEqual(policy.breaker, breaker)
      yield* policy.reload({ retry: false })
      assert.deepStrictEqual(words(), before)
    })
  )

  it.effect("everything, if the settings cannot work", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 5 }, breaker: { openFor: "7 seconds" } })
      const before = policy.description
      const { bulkhead } = policy
      const error = yield* Effect.flip(
        policy.reload({ bulkhead: { maxConcurrent: 9 }, breaker: { openFor: "1 second" }, timeout: 0 })
      )
      assert.strictEqual(error._tag, "PolicyInvalid")
      assert.include(error.message, "timeout is not positive")
      assert.strictEqual(policy.description, before)
      assert.strictEqual(policy.bulkhead, bulkhead)
      for (const wrong of [
        { breaker: { halfOpenPermits: 0 }, bulkhead: { maxConcurrent: 9 } },
        { rateLimit: { limit: -1 }, bulkhead: { maxConcurrent: 9 } },
        { retry: { attempts: 0 }, bulkhead: { maxConcurrent: 9 } }
      ]) {
        assert.strictEqual((yield* Effect.flip(policy.reload(wrong)))._tag, "PolicyInvalid")
        assert.strictEqual(policy.description, before)
      }
    })
  )
})

describe("metrics and Policy.reload", () => {
  const gauge = Effect.map(
    Metric.value(
      Metric.gauge("circuit_breaker_state", { description: "0 closed, 1 half-open, 2 open" }).pipe(
        Metric.tagged("service", "weather")
      )
    ),
    ({ value }) => value
  )
  const listeners = (breaker: CircuitBreaker.CircuitBreaker | undefined): number =>
    (breaker as unknown as { readonly machine: { readonly listeners: ReadonlySet<unknown> } }).machine.listeners.size

  it.effect("listeners are not doubled, and go with the metrics", () =>
    Effect.gen(function* () {
      const policy = yield* make({ metrics: true })
      for (let n = 0; n < 5; n++) yield* policy.reload({ retry: false, metrics: true })
      assert.strictEqual(listeners(policy.breaker), 1)
      yield* policy.reload({ retry: false })
      assert.strictEqual(listeners(policy.breaker), 0)
      yield* policy.reload({ retry: false, metrics: true })
      assert.strictEqual(listeners(policy.breaker), 1)
    })
  )

  it.effect("a circuit that is open when metrics are switched on shows at once", () =>
    Effect.gen(function* () {
      const policy = yield* make({ breaker: { window: { type: "consecutive", failures: 1 } } })
      yield* Effect.ignore(policy.run(busy))
      yield* policy.reload({
        retry: false,
        metrics: true,
        breaker: { window: { type: "consecutive", failures: 1 } }
      })
      assert.strictEqual(yield* gauge, 2)
    })
  )

  it.effect("a circuit that is switched off is not shown as open for ever, whatever becomes of calls under way", () =>
    Effect.gen(function* () {
      const breaker = { window: { type: "consecutive", failures: 1 } } as const
      const policy = yield* make({ metrics: true, breaker })
      const hold = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(Effect.exit(policy.run(Effect.zipRight(Deferred.await(hold), busy))))
      yield* Effect.ignore(policy.run(busy))
      assert.strictEqual(yield* gauge, 2)
      yield* policy.reload({ retry: false, metrics: true, breaker: false })
      assert.strictEqual(yield* gauge, 0)
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* gauge, 0)
    })
  )
})
