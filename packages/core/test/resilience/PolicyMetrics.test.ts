import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Deadline, Fallback, Policy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Chunk, Data, Deferred, Effect, Fiber, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy()))

/** How much each metric of the policy has changed since the last `clear`. */
const changes = Effect.gen(function* () {
  const { metrics } = yield* Recording.Recording
  const found: Record<string, number> = {}
  for (const each of yield* metrics) {
    const { policy, service, ...rest } = each.labels
    const change = each.after - each.before
    if ((policy ?? service) === "weather" && change !== 0) {
      found[[each.name.replace(/^resilience_/, ""), ...Object.values(rest).sort()].join(" ")] = change
    }
  }
  return found
})

const clear = Effect.flatMap(Recording.Recording, (recording) => recording.clear)

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.tap(Policy.make({ metrics: true, ...options, name: "weather" }), clear)

const test = (name: string, effect: Effect.Effect<void, unknown, Recording.Recording>) =>
  it.effect(name, () => Effect.provide(effect, Recording.layer))

describe("metrics of a policy: each thing is counted once", () => {
  test(
    "a success",
    Effect.gen(function* () {
      const policy = yield* make()
      yield* policy.run(Effect.void)
      assert.deepStrictEqual(yield* changes, {
        "calls_total success": 1,
        "attempts_total success": 1,
        call_duration_seconds: 1
      })
    })
  )

  test(
    "a success after retries",
    Effect.gen(function* () {
      const policy = yield* make({ retry: { base: "1 second", jitter: "none" } })
      let calls = 0
      const fiber = yield* Effect.fork(policy.run(Effect.suspend(() => (++calls < 3 ? busy : Effect.void))))
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* changes, {
        "calls_total success": 1,
        "attempts_total failure": 2,
        "attempts_total success": 1,
        retries_total: 2,
        call_duration_seconds: 1
      })
    })
  )

  test(
    "a failure, a defect, an interruption",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false })
      yield* Effect.exit(policy.run(busy))
      yield* Effect.exit(policy.run(Effect.die("bug")))
      const fiber = yield* Effect.fork(policy.run(Effect.never))
      yield* Effect.yieldNow()
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* changes, {
        "calls_total failure": 2,
        "calls_total cancelled": 1,
        "attempts_total failure": 2,
        "attempts_total cancelled": 1,
        call_duration_seconds: 3
      })
    })
  )

  test(
    "an interruption between two attempts, and a defect in a later one",
    Effect.gen(function* () {
      const policy = yield* make({ breaker: false, retry: { base: "1 second", jitter: "none" } })
      const waiting = yield* Effect.fork(policy.run(busy))
      yield* TestClock.adjust("500 millis")
      yield* Fiber.interrupt(waiting)
      let calls = 0
      const dying = yield* Effect.fork(
        Effect.exit(policy.run(Effect.suspend(() => (++calls === 1 ? busy : Effect.die("bug")))))
      )
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(dying)
      assert.deepStrictEqual(yield* changes, {
        "calls_total cancelled": 1,
        "calls_total failure": 1,
        "attempts_total failure": 3,
        retries_total: 2,
        call_duration_seconds: 2
      })
    })
  )

  test(
    "timeouts of an attempt and of the whole call",
    Effect.gen(function* () {
      const policy = yield* make({
        breaker: false,
        timeout: "5 seconds",
        attemptTimeout: "3 seconds",
        retry: { base: "1 second", jitter: "none" }
      })
      const fiber = yield* Effect.fork(Effect.exit(policy.run(Effect.never)))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* changes, {
        "calls_total timeout": 1,
        "attempts_total timeout": 2,
        "timeouts_total attempt": 1,
        "timeouts_total total": 1,
        retries_total: 1,
        call_duration_seconds: 1
      })
    })
  )

  test(
    "a deadline that is over before there was an attempt",
    Effect.gen(function* () {
      const policy = yield* make()
      yield* Effect.exit(policy.run(Effect.void).pipe(Effect.provideService(Deadline.Current, -1)))
      assert.deepStrictEqual(yield* changes, {
        "calls_total timeout": 1,
        "timeouts_total total": 1,
        call_duration_seconds: 1
      })
    })
  )

  test(
    "work that goes on though its attempt timed out, until it ends",
    Effect.gen(function* () {
      const policy = yield* make({ attemptTimeout: "1 second", retry: false, breaker: false })
      const hold = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(Effect.exit(policy.run(Effect.uninterruptible(Deferred.await(hold)))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* changes)["orphans"], 1)
      yield* Deferred.succeed(hold, undefined)
      yield* TestClock.adjust("1 second")
      assert.notProperty(yield* changes, "orphans")
    })
  )

  test(
    "a hedge",
    Effect.gen(function* () {
      const policy = yield* make({ hedge: { delay: "1 second" } })
      let calls = 0
      const fiber = yield* Effect.fork(policy.run(Effect.suspend(() => (++calls === 1 ? Effect.never : Effect.void))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* changes, {
        "calls_total success": 1,
        "attempts_total success": 1,
        "attempts_total cancelled": 1,
        hedges_total: 1,
        call_duration_seconds: 1
      })
    })
  )

  test(
    "what the budget refuses, of retries and hedges",
    Effect.gen(function* () {
      const policy = yield* make({
        budget: { type: "grpc", maxTokens: 1 },
        hedge: { delay: "1 second" },
        retry: { base: "1 second", jitter: "none" },
        breaker: false
      })
      yield* Effect.exit(policy.run(busy))
      const fiber = yield* Effect.fork(policy.run(Effect.delay(Effect.void, "2 seconds")))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      const seen = yield* changes
      assert.strictEqual(seen["retry_budget_refusals_total"], 2)
      assert.notProperty(seen, "hedges_total")
      assert.notProperty(seen, "retries_total")
    })
  )

  test(
    "the state of a circuit that opens, and its refusals",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: { window: { type: "consecutive", failures: 1 } } })
      yield* Effect.exit(policy.run(busy))
      yield* Effect.exit(policy.run(Effect.void))
      assert.deepStrictEqual(yield* changes, {
        "calls_total failure": 1,
        "calls_total rejected": 1,
        "attempts_total failure": 1,
        "attempts_total rejected": 1,
        "rejections_total circuit-open": 1,
        circuit_breaker_state: 2,
        call_duration_seconds: 1
      })
      yield* TestClock.adjust("30 seconds")
      yield* policy.run(Effect.void)
      assert.notProperty(yield* changes, "circuit_breaker_state")
    })
  )

  test(
    "the places of a bulkhead: in flight, waiting, the limit; a refusal",
    Effect.gen(function* () {
      const policy = yield* make({
        retry: false,
        bulkhead: { maxConcurrent: 2, maxQueue: 1, maxWait: "10 seconds" }
      })
      const hold = yield* Deferred.make<void>()
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(policy.run(Deferred.await(hold))))
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(policy.run(Effect.void))
      const busy = yield* changes
      assert.deepStrictEqual([busy["bulkhead_in_flight"], busy["bulkhead_queued"], busy["bulkhead_limit"]], [2, 1, 2])
      assert.strictEqual(busy["rejections_total bulkhead-full"], 1)
      yield* Deferred.succeed(hold, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      const idle = yield* changes
      assert.notProperty(idle, "bulkhead_in_flight")
      assert.notProperty(idle, "bulkhead_queued")
      assert.strictEqual(idle["calls_total success"], 3)
    })
  )

  test(
    "refusals of the rate limit",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, rateLimit: { limit: 1, interval: "1 minute", maxWait: false } })
      yield* policy.run(Effect.void)
      yield* Effect.exit(policy.run(Effect.void))
      const seen = yield* changes
      assert.deepStrictEqual(
        [seen["rejections_total rate-limit"], seen["attempts_total rejected"], seen["calls_total rejected"]],
        [1, 1, 1]
      )
      assert.strictEqual(seen["call_duration_seconds"], 1)
    })
  )

  test(
    "fallbacks that answer, that fail too, and none that lets the error pass",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false })
      yield* policy.run(busy, { fallback: Fallback.value(1) })
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.effect(() => Effect.fail("no cache")) }))
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.when(() => false, Fallback.value(1)) }))
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.effect(() => Effect.die("bug")) }))
      yield* Effect.exit(
        policy.run(busy, {
          fallback: Fallback.effect((): Effect.Effect<number> => {
            throw new Error("bug")
          })
        })
      )
      yield* policy.run(Effect.succeed(2), { fallback: Fallback.value(1) })
      const seen = yield* changes
      assert.deepStrictEqual([seen["fallbacks_total success"], seen["fallbacks_total failure"]], [1, 3])
      // What the service did is counted whoever answers in its place.
      assert.deepStrictEqual([seen["calls_total failure"], seen["calls_total success"]], [5, 1])
    })
  )

  test(
    "promises",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false })
      yield* policy.tryPromise(() => Promise.resolve(1))
      yield* Effect.exit(policy.tryPromise(() => Promise.reject(new Error("no"))))
      assert.deepStrictEqual(yield* changes, {
        "calls_total success": 1,
        "calls_total failure": 1,
        "attempts_total success": 1,
        "attempts_total failure": 1,
        call_duration_seconds: 2
      })
    })
  )
})

describe("metrics of streams", () => {
  test(
    "a stream that ends, one that its reader ends, one without elements",
    Effect.gen(function* () {
      const policy = yield* make()
      yield* Stream.runDrain(policy.stream(Stream.make(1, 2, 3)))
      yield* Stream.runCollect(Stream.take(policy.stream(Stream.range(1, 100, 1)), 2))
      yield* Stream.runDrain(policy.stream(Stream.empty))
      assert.deepStrictEqual(yield* changes, {
        "calls_total success": 3,
        "attempts_total success": 3,
        call_duration_seconds: 3
      })
    })
  )

  test(
    "one that fails before its first element, and one that fails later",
    Effect.gen(function* () {
      const policy = yield* make({ retry: { attempts: 2, base: "1 second", jitter: "none" } })
      const early = yield* Effect.fork(Effect.exit(Stream.runDrain(policy.stream(Stream.fail(new Busy())))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(early)
      assert.deepStrictEqual(yield* changes, {
        "calls_total failure": 1,
        "attempts_total failure": 2,
        retries_total: 1,
        call_duration_seconds: 1
      })
      yield* clear
      yield* Effect.exit(Stream.runDrain(policy.stream(Stream.concat(Stream.make(1), Stream.fail(new Busy())))))
      const late = yield* changes
      assert.strictEqual(late["calls_total failure"], 1)
      assert.notProperty(late, "calls_total success")
    })
  )

  test(
    "timeouts of the first element and between elements; an interruption; a refusal",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false, bulkhead: { maxConcurrent: 1 } })
      const run = (stream: Stream.Stream<number>) =>
        Effect.fork(
          Effect.exit(
            Stream.runDrain(policy.stream(stream, { firstElementTimeout: "2 seconds", idleTimeout: "3 seconds" }))
          )
        )
      const silent = yield* run(Stream.never)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(silent)
      const stuck = yield* run(Stream.concat(Stream.make(1), Stream.never))
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(stuck)
      const left = yield* Effect.fork(Stream.runDrain(policy.stream(Stream.concat(Stream.make(1), Stream.never))))
      yield* Effect.yieldNow()
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(Stream.runDrain(policy.stream(Stream.make(1))))
      yield* Fiber.interrupt(left)
      const seen = yield* changes
      assert.deepStrictEqual(
        {
          timeout: seen["calls_total timeout"],
          cancelled: seen["calls_total cancelled"],
          rejected: seen["calls_total rejected"],
          first: seen["timeouts_total first-element"],
          idle: seen["timeouts_total idle"],
          full: seen["rejections_total bulkhead-full"]
        },
        { timeout: 2, cancelled: 1, rejected: 1, first: 1, idle: 1, full: 1 }
      )
    })
  )

  test(
    "what its reader fails with is not the service's failure",
    Effect.gen(function* () {
      const policy = yield* make()
      yield* Effect.exit(Stream.runForEach(policy.stream(Stream.make(1, 2)), () => Effect.fail("mine")))
      const seen = yield* changes
      assert.notProperty(seen, "calls_total failure")
    })
  )

  test(
    "a fallback",
    Effect.gen(function* () {
      const policy = yield* make({ retry: false })
      const answer = yield* Stream.runCollect(
        policy.stream(Stream.fail(new Busy()), { fallback: Fallback.value(Stream.make("calm")) })
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(answer), ["calm"])
      assert.strictEqual((yield* changes)["fallbacks_total success"], 1)
    })
  )
})

describe("where there are none", () => {
  test(
    "nothing is counted on the internal plane, whatever happens",
    Effect.gen(function* () {
      const policy = yield* make({
        metrics: false,
        bulkhead: { maxConcurrent: 1 },
        hedge: false,
        breaker: { window: { type: "consecutive", failures: 1 } },
        retry: false,
        stages: [Policy.stage({ name: "audit", wrap: (effect) => effect })]
      })
      yield* Effect.exit(policy.run(busy))
      yield* Effect.exit(policy.run(Effect.void))
      yield* policy.run(busy, { fallback: Fallback.value(1) })
      yield* Effect.exit(Stream.runDrain(policy.stream(Stream.make(1))))
      assert.deepStrictEqual(yield* changes, {})
      yield* Recording.assertSilent(policy.run(Effect.void, { fallback: Fallback.value(undefined) }))
    })
  )

  test(
    "a breaker that others share is theirs to show",
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "shared" })
      const policy = yield* make({ breaker })
      yield* breaker.setMode("forced-open")
      yield* Effect.exit(policy.run(Effect.void))
      const seen = yield* changes
      assert.notProperty(seen, "circuit_breaker_state")
      assert.strictEqual(seen["rejections_total circuit-open"], 1)
    })
  )
})

describe("labels", () => {
  test(
    "hold the policy and words of ours, nothing of errors or values",
    Effect.gen(function* () {
      const { metrics } = yield* Recording.Recording
      const policy = yield* make({ retry: false, breaker: false })
      for (let n = 0; n < 50; n++) {
        yield* Effect.exit(policy.run(Effect.fail(`no ${n}`)))
        yield* policy.run(Effect.succeed(`value ${n}`))
      }
      const own = (yield* metrics).filter((each) => each.labels["policy"] === "weather" && each.after !== each.before)
      assert.isAtMost(own.length, 6)
      for (const { labels } of own) {
        for (const value of Object.values(labels)) assert.match(value, /^[a-z-]+$/)
      }
    })
  )
})
