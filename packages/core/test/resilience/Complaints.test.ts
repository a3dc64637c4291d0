/**
 * What users of other libraries complain of, each as a test of ours: the issues are named where they were raised.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Deadline, ErrorClass, ExternalClient, Policy, RetryPolicy, Timeout } from "@underlay/core"
import { Cause, Clock, Data, Deferred, Duration, Effect, Exit, Fiber, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number; readonly retryAfter?: Duration.Duration }> {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy({})))
const once = { window: { type: "consecutive", failures: 1 } } as const
const steady = { jitter: "none" } as const

const counted = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
  const seen = { calls: 0, inFlight: 0, most: 0 }
  const call = Effect.acquireUseRelease(
    Effect.sync(() => {
      seen.calls++
      seen.inFlight++
      seen.most = Math.max(seen.most, seen.inFlight)
    }),
    () => effect,
    () => Effect.sync(() => seen.inFlight--)
  )
  return { seen, call }
}

const opened = (options: Omit<CircuitBreaker.Options, "name"> = once) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({ ...once, ...options, name: "x" })
    yield* Effect.exit(breaker.run(busy))
    yield* TestClock.adjust("30 seconds")
    return breaker
  })

describe("half-open", () => {
  it.effect("does not let a herd through after the probe (opossum #819, resilience4j #1432, cockatiel)", () =>
    Effect.gen(function* () {
      const breaker = yield* opened()
      const gate = yield* Deferred.make<void>()
      const { call, seen } = counted(Deferred.await(gate))
      const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () =>
        Effect.fork(Effect.exit(breaker.run(call)))
      )
      yield* TestClock.adjust("1 second")
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual([seen.calls, seen.most], [1, 1])
    })
  )

  it.effect("is not stuck by a probe that never settles (resilience4j #903, #935; OmniRoute #13836)", () =>
    Effect.gen(function* () {
      const breaker = yield* opened({ probeLease: "10 seconds" })
      yield* Effect.fork(breaker.run(Effect.never))
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* Effect.flip(breaker.run(Effect.void)))._tag, "CircuitOpen")
      yield* TestClock.adjust("1 second")
      yield* breaker.run(Effect.void)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect(
    "is not stuck by a probe that is interrupted, dies or fails with an ignored error (rezilience #521, monix #1080, resilience4j #544, #2028)",
    () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const probe = yield* Effect.fork(breaker.run(Effect.never))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(probe)
        assert.strictEqual(yield* breaker.state, "half-open")
        yield* Effect.exit(breaker.run(Effect.fail({ errorClass: "rate-limited" })))
        assert.strictEqual(yield* breaker.state, "half-open")
        yield* Effect.exit(breaker.run(Effect.die("bug")))
        assert.strictEqual(yield* breaker.state, "open")
        yield* TestClock.adjust("30 seconds")
        yield* breaker.run(Effect.void)
        assert.strictEqual(yield* breaker.state, "closed")
      })
  )
})

describe("cancellation", () => {
  it.effect(
    "is no failure: three callers that give up do not open the circuit (cockatiel, resilience4j #682, agentic-harness #353)",
    () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name: "x", breaker: once })
        const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(policy.run(Effect.never)))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interruptAll(fibers)
        assert.strictEqual(yield* policy.run(Effect.succeed(1)), 1)
      })
  )

  it.effect("and an inner timeout is not mistaken for it (resilience4j #1123, Polly #3094)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", breaker: once, retry: false, attemptTimeout: "1 second" })
      const fiber = yield* Effect.fork(Effect.flip(policy.run(Effect.never)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
      assert.strictEqual((yield* Effect.flip(policy.run(Effect.void)))._tag, "CircuitOpen")
    })
  )

  it.effect("an interrupted wait makes no further attempt (cockatiel, vercel/ai #7656, openai-node #2580)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { call, seen } = counted(busy)
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("50 millis")
      const before = yield* Clock.currentTimeMillis
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* Clock.currentTimeMillis) - before, 0)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(seen.calls, 1)
    })
  )

  it.effect("one call's timeout does not touch another (opossum's shared abort controller)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: false, attemptTimeout: "1 second" })
      const signals: Array<AbortSignal> = []
      const call = (until: Promise<string>) =>
        Effect.promise((signal) => {
          signals.push(signal)
          return until
        })
      let finish: (value: string) => void = () => {}
      const slow = yield* Effect.fork(Effect.flip(policy.run(call(new Promise(() => {})))))
      yield* TestClock.adjust("900 millis")
      const good = yield* Effect.fork(policy.run(call(new Promise((resolve) => (finish = resolve)))))
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(slow)
      assert.deepStrictEqual(
        signals.map((signal) => signal.aborted),
        [true, false]
      )
      finish("fine")
      assert.strictEqual(yield* Fiber.join(good), "fine")
    })
  )
})

describe("results of an earlier time", () => {
  it.effect(
    "a late failure does not open it again, nor drop the good probe (cockatiel, Polly #217, denoland/std #7306)",
    () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
        const late = yield* Deferred.make<never, Busy>()
        const old = yield* Effect.fork(Effect.exit(breaker.run(Deferred.await(late))))
        yield* Effect.yieldNow()
        yield* Effect.exit(breaker.run(busy))
        yield* TestClock.adjust("30 seconds")
        const gate = yield* Deferred.make<void>()
        const probe = yield* Effect.fork(breaker.run(Deferred.await(gate)))
        yield* TestClock.adjust("1 second")
        yield* Deferred.fail(late, new Busy({}))
        yield* Fiber.join(old)
        assert.strictEqual(yield* breaker.state, "half-open")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(probe)
        assert.strictEqual(yield* breaker.state, "closed")
        assert.strictEqual((yield* breaker.snapshot).counters.stale, 1)
      })
  )

  it.effect("a late success does not close it without a probe (opossum, Kevlar #227)", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
      const late = yield* Deferred.make<void>()
      const old = yield* Effect.fork(breaker.run(Deferred.await(late)))
      yield* Effect.yieldNow()
      yield* Effect.exit(breaker.run(busy))
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* Deferred.succeed(late, undefined)
      yield* Fiber.join(old)
      assert.strictEqual(yield* breaker.state, "half-open")
    })
  )
})

describe("what counts", () => {
  it.effect("own refusals do not open a circuit (opossum, resilience4j #1657)", () =>
    Effect.gen(function* () {
      const inner = yield* CircuitBreaker.make({ name: "inner" })
      yield* inner.setMode("forced-open")
      const outer = yield* Policy.make({ name: "outer", breaker: once, retry: false })
      yield* Effect.repeatN(Effect.exit(outer.run(inner.run(Effect.void))), 9)
      assert.strictEqual(outer.breaker === undefined ? "" : yield* outer.breaker.state, "closed")
    })
  )

  it.effect("refused calls do not dilute the rate (opossum's fires)", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "count", size: 4, failureRate: 0.5, minimumCalls: 2 }
      })
      yield* Effect.repeatN(Effect.exit(breaker.run(busy)), 1)
      yield* Effect.repeatN(Effect.exit(breaker.run(busy)), 99)
      const { counters } = yield* breaker.snapshot
      assert.deepStrictEqual([counters.failures, counters.rejected], [2, 100])
    })
  )

  it.effect("the state is what the clock says when it is read, for health checks (Kevlar #227, Polly #1828)", () =>
    Effect.gen(function* () {
      const breaker = yield* opened()
      assert.strictEqual(yield* breaker.state, "half-open")
      assert.strictEqual((yield* breaker.snapshot).state, "half-open")
    })
  )

  it.effect("a breaker keeps no error of a call, which could leak to another (Kevlar #227)", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
      yield* Effect.exit(breaker.run(Effect.fail({ isRetryable: true, secret: "of the first caller" })))
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.notInclude(JSON.stringify([error, yield* breaker.snapshot]), "of the first caller")
    })
  )
})

describe("timeouts", () => {
  it.effect("return on time over uninterruptible work (Effect.timeout: 505 ms instead of 50)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: false, attemptTimeout: "50 millis" })
      const fiber = yield* Effect.fork(Effect.flip(policy.run(Effect.uninterruptible(Effect.sleep("505 millis")))))
      yield* TestClock.adjust("50 millis")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
      assert.strictEqual((yield* policy.orphans).current, 1)
      yield* TestClock.adjust("455 millis")
      assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 1 })
    })
  )

  it.effect("work that ignores its signal goes on, and somebody is told (Effect.promise; Polly #1133)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: false, attemptTimeout: "50 millis" })
      let finish: () => void = () => {}
      const stuck = Effect.uninterruptible(Effect.promise(() => new Promise<void>((resolve) => (finish = resolve))))
      const fiber = yield* Effect.fork(Effect.exit(policy.run(stuck)))
      yield* TestClock.adjust("50 millis")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* policy.orphans).current, 1)
      finish()
      yield* TestClock.adjust("1 milli")
      assert.strictEqual((yield* policy.orphans).current, 0)
    })
  )

  it.scopedLive(
    "leave no timer that holds the process (cockatiel #11, node-retry #26), and no listener (cockatiel #69)",
    () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name: "x", timeout: "1 hour", attemptTimeout: "30 minutes" })
        // The policy's timers are those of many minutes: the runner, which has timers of its own, has none so long.
        const { clearTimeout, setTimeout } = globalThis
        const pending = new Set<unknown>()
        let made = 0
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            globalThis.setTimeout = Object.assign((...args: Parameters<typeof setTimeout>) => {
              const timer = setTimeout(...args)
              if (Number(args[1]) > 25 * 60_000) {
                made++
                pending.add(timer)
              }
              return timer
            }, setTimeout)
            globalThis.clearTimeout = (timer) => {
              pending.delete(timer)
              clearTimeout(timer)
            }
          }),
          () =>
            Effect.sync(() => {
              Object.assign(globalThis, { setTimeout, clearTimeout })
            })
        )
        const warnings: Array<Error> = []
        const listen = (warning: Error) => {
          warnings.push(warning)
        }
        process.on("warning", listen)
        yield* Effect.forEach(
          Array.from({ length: 100 }),
          () => policy.run(Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))),
          { concurrency: "unbounded" }
        )
        yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
        process.off("warning", listen)
        assert.isAtLeast(made, 100)
        assert.strictEqual(pending.size, 0)
        assert.deepStrictEqual(warnings, [])
      })
  )
})

describe("retries", () => {
  it.effect("do not multiply when they are nested (opendal #7376, aws-sdk-rust #1234)", () =>
    Effect.gen(function* () {
      const make = Policy.make({ name: "x", retry: steady, breaker: false })
      const [a, b, c] = [yield* make, yield* make, yield* make]
      const { call, seen } = counted(busy)
      const fiber = yield* Effect.fork(Effect.exit(a.run(b.run(c.run(call)))))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(seen.calls, 3)
    })
  )

  it.effect("keep the cause of every attempt (Effect.retry, retry4j #41, opik #1334)", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      let n = 0
      const fiber = yield* Effect.fork(Effect.flip(policy.run(Effect.suspend(() => Effect.fail(new Busy({ n: ++n }))))))
      yield* TestClock.adjust("1 minute")
      const causes = RetryPolicy.attemptsOf(yield* Fiber.join(fiber)).map((each) => Cause.squash(each.cause) as Busy)
      assert.deepStrictEqual(
        causes.map((each) => each.n),
        [1, 2, 3]
      )
    })
  )

  it.effect("honour Retry-After as a date (fetch-retry #31, Polly #414, dapr #5872)", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Date.UTC(2026, 0, 1))
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const at: Array<number> = []
      const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
        at.push(now - Date.UTC(2026, 0, 1))
        return Effect.fail({ status: 503, headers: { "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT" } })
      })
      const fiber = yield* Effect.fork(Effect.exit(policy.run(call)))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(at, [0, 5000, 5000])
    })
  )

  it.effect(
    "cut an unreasonable Retry-After, and fail at once where it would pass the deadline (CopilotKit #3842)",
    () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name: "x", retry: { ...steady, retryAfterCap: "1 minute" } })
        const { call, seen } = counted(Effect.suspend(() => Effect.fail(new Busy({ retryAfter: Duration.hours(9) }))))
        const error = yield* Effect.flip(policy.run(call))
        assert.deepStrictEqual([error._tag, seen.calls], ["Busy", 1])
        const fiber = yield* Effect.fork(Effect.exit(policy.run(call, { timeout: false })))
        yield* TestClock.adjust("2 minutes")
        yield* Fiber.join(fiber)
        assert.strictEqual(seen.calls, 4)
      })
  )

  it.effect("do not start where the caller's deadline has passed", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      const { call, seen } = counted(Effect.void)
      const error = yield* Effect.flip(Deadline.at(policy.run(call), 0))
      assert.isTrue(error instanceof Timeout.CallTimeout)
      assert.strictEqual(seen.calls, 0)
    })
  )
})

describe("orders and settings that cannot work", () => {
  it.effect("are refused with the remedy (resilience4j #515, #614, #920, #1653; Kevlar)", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Policy.make({ name: "x", timeout: "1 second", attemptTimeout: "1 minute", idempotent: false, retry: {} })
      )
      assert.strictEqual(error.problems.length, 2)
      assert.include(error.message, "lower attemptTimeout or raise timeout")
      assert.include(error.message, "set retry.unsentOnly to true")
    })
  )
})

describe("cost", () => {
  it.effect("a breaker is small and has no timer: ten thousand of them (resilience4j #650, opossum #248, #648)", () =>
    Effect.gen(function* () {
      const breakers = yield* Effect.forEach(Array.from({ length: 10_000 }), (_, n) =>
        CircuitBreaker.make({ ...once, name: `key-${n}` })
      )
      yield* Effect.forEach(breakers, (breaker) => Effect.exit(breaker.run(busy)), { discard: true })
      assert.strictEqual((yield* TestClock.sleeps()).length, 0)
      yield* TestClock.adjust("30 seconds")
      const states = yield* Effect.forEach(breakers, (breaker) => breaker.state)
      assert.isTrue(states.every((state) => state === "half-open"))
    })
  )

  it.live("an open breaker with readers, seen by a client's health, holds no timer (opossum's health interval)", () =>
    Effect.gen(function* () {
      const timers = () => process.getActiveResourcesInfo().filter((each) => each === "Timeout").length
      const before = timers()
      const client = yield* ExternalClient.make({ service: "x", policy: { breaker: once, retry: false } })
      if (client.breaker === undefined) return assert.fail("no breaker")
      const reader = yield* Effect.fork(Stream.runDrain(client.breaker.changes))
      yield* Effect.exit(client.call("a", busy))
      assert.strictEqual(yield* client.breaker.state, "open")
      assert.strictEqual(timers(), before)
      yield* Fiber.interrupt(reader)
    }).pipe(Effect.scoped)
  )

  it.effect("a call that succeeds starts no schedule, and one that needs no wait no timer", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", attemptTimeout: "1 second" })
      yield* Effect.repeatN(policy.run(Effect.void), 99)
      yield* Stream.runDrain(policy.stream(Stream.range(1, 100)))
      assert.strictEqual((yield* TestClock.sleeps()).length, 0)
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(policy.run(Effect.void))))
      assert.isTrue(ErrorClass.isRetryable(new Busy({})))
    })
  )
})
