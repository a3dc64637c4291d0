import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, Deadline, ErrorClass, Policy, RetryPolicy, Timeout } from "@underlay/core"
import {
  Cause,
  Chunk,
  Clock,
  Data,
  Deferred,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Schedule,
  Stream,
  TestClock
} from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number; readonly retryAfter?: Duration.Duration }> {
  get isRetryable() {
    return true
  }
}
class Refused extends Data.TaggedError("Refused") {
  get isRetryable() {
    return false
  }
}

const steady = { jitter: "none" } as const

/** A call that writes down when it was made and does the n-th of what it is given. */
const scripted = <A, E>(steps: ReadonlyArray<Effect.Effect<A, E>>) => {
  const at: Array<number> = []
  const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const step = steps[Math.min(at.length, steps.length - 1)] ?? Effect.die("no step")
    at.push(now)
    return step
  })
  return { at, call }
}

describe("Policy.make", () => {
  const refused = (options: Omit<Policy.Options, "name">) =>
    Effect.map(Effect.flip(Policy.make({ ...options, name: "weather" })), (error) => error.message)

  it.effect("refuses what cannot work, and says what to write instead", () =>
    Effect.gen(function* () {
      assert.include(
        yield* refused({ timeout: "1 second", attemptTimeout: "5 seconds" }),
        "attemptTimeout (5s) is longer than timeout (1s), so it could never end an attempt: lower attemptTimeout or raise timeout"
      )
      assert.include(
        yield* refused({ idempotent: false, retry: { attempts: 3 } }),
        "set retry.unsentOnly to true (again only where nothing was sent), retry to false, or idempotent to true"
      )
      assert.include(yield* refused({ retry: { attempts: 0 } }), "give a whole number of 1 or more")
      assert.include(
        yield* refused({ timeout: "2 seconds", retry: { base: "5 seconds", jitter: "none" } }),
        "lower retry.base or raise timeout"
      )
      assert.include(
        yield* refused({ breaker: { window: { type: "count", size: 5, failureRate: 50 } } }),
        "give a part above 0 and up to 1 (0.5 is half)"
      )
      assert.include(
        yield* refused({ attemptTimeout: "20 seconds", breaker: { probeLease: "5 seconds" } }),
        "raise probeLease or lower attemptTimeout"
      )
    })
  )

  it.effect("reports all problems at once", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Policy.make({ name: "x", timeout: 0, retry: { attempts: -1 }, breaker: { halfOpenPermits: 0 } })
      )
      assert.strictEqual(error.problems.length, 3)
    })
  )

  it.effect("describes the pipeline, outermost first", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "weather", attemptTimeout: "5 seconds" })
      assert.strictEqual(
        Policy.describe(policy),
        [
          'policy "weather"',
          "  total timeout    30s",
          "  retry            3 attempts, waits of 1s x 2 up to 30s, full jitter",
          "  retry budget     20 % of the calls and 10 a second",
          "  circuit breaker  5 failures in a row open it for 30s, 1 probe",
          "  attempt timeout  5s",
          "  the call"
        ].join("\n")
      )
    })
  )
})

describe("Policy.run", () => {
  it.effect("tries again after transient failures until one succeeds", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted<string, Busy>([
        Effect.fail(new Busy({})),
        Effect.fail(new Busy({})),
        Effect.succeed("ok")
      ])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      assert.deepStrictEqual(at, [0, 1000, 3000])
    })
  )

  it.effect("does not try again after a permanent failure, a defect or an interruption", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      for (const step of [Effect.fail(new Refused()), Effect.die("bug"), Effect.interrupt]) {
        const { at, call } = scripted<never, Refused>([step])
        const exit = yield* Effect.exit(policy.run(call))
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(at.length, 1)
      }
    })
  )

  it.effect("keeps every attempt's cause and times reachable from the final error", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { call } = scripted([1, 2, 3].map((n) => Effect.fail(new Busy({ n }))))
      const fiber = yield* Effect.fork(Effect.flip(policy.run(call)))
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag === "Busy" ? error.n : 0, 3)
      const attempts = RetryPolicy.attemptsOf(error)
      assert.deepStrictEqual(
        attempts.map((each) => [each.number, each.startedAt, each.endedAt, Cause.squash(each.cause)]),
        [
          [1, 0, 0, new Busy({ n: 1 })],
          [2, 1000, 1000, new Busy({ n: 2 })],
          [3, 3000, 3000, new Busy({ n: 3 })]
        ]
      )
      assert.deepStrictEqual(RetryPolicy.attemptsOf(new Error("outer", { cause: error })), attempts)
    })
  )

  it.effect("an error that is a constant carries nothing from one call to the next", () =>
    Effect.gen(function* () {
      const constant = new Busy({})
      const policy = yield* Policy.make({ name: "x", retry: steady, breaker: false })
      const run = Effect.gen(function* () {
        const { at, call } = scripted([Effect.fail(constant)])
        const fiber = yield* Effect.fork(Effect.flip(policy.run(call)))
        yield* TestClock.adjust("10 seconds")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error instanceof Busy)
        assert.strictEqual(error._tag, "Busy")
        return [at.length, RetryPolicy.attemptsOf(error).length]
      })
      assert.deepStrictEqual(yield* run, [3, 3])
      assert.deepStrictEqual(yield* run, [3, 3])
      assert.isFalse(ErrorClass.isExhausted(constant))
    })
  )

  it.effect("the total deadline bounds all attempts and waits, and fails at once instead of waiting past it", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", timeout: "10 seconds", retry: { ...steady, attempts: 9 } })
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(Effect.flip(policy.run(call)))
      yield* TestClock.adjust("7 seconds")
      // 0, 1, 3, 7; the next would be at 15
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Busy")
      assert.deepStrictEqual(at, [0, 1000, 3000, 7000])
    })
  )

  it.effect("an attempt is cut by its own timeout and tried again, by the total and not", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "x",
        timeout: "10 seconds",
        attemptTimeout: "4 seconds",
        retry: steady
      })
      const { at, call } = scripted([Effect.never])
      const fiber = yield* Effect.fork(Effect.flip(policy.run(call)))
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(at, [0, 5000])
      assert.isTrue(error instanceof Timeout.CallTimeout)
      // 4 seconds of the second attempt end at 9; the next wait of 2 would pass the deadline
      assert.strictEqual(error._tag === "CallTimeout" ? error.scope : "", "attempt")
      const slow = scripted([Effect.never])
      const second = yield* Effect.fork(
        Effect.flip(policy.run(slow.call, { timeout: "1 second", attemptTimeout: false }))
      )
      yield* TestClock.adjust("1 second")
      const total = yield* Fiber.join(second)
      assert.strictEqual(total._tag === "CallTimeout" ? `${total.scope} ${total.limitMillis}` : "", "total 1000")
    })
  )

  it.effect("an inherited deadline is checked before every attempt", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(Effect.flip(Deadline.within(policy.run(call), "2 seconds")))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(at, [0, 1000])
      const late = yield* Effect.flip(Deadline.at(policy.run(Effect.die("not reached")), 500))
      assert.strictEqual(late.message, "x: the deadline had passed before the call")
    })
  )

  it.effect("the call inside sees the deadline, and nested policies inherit it", () =>
    Effect.gen(function* () {
      const outer = yield* Policy.make({ name: "outer", timeout: "5 seconds" })
      const inner = yield* Policy.make({ name: "inner" })
      assert.strictEqual(yield* outer.run(Deadline.Current), 5000)
      assert.strictEqual(yield* outer.run(inner.run(Deadline.Current)), 5000)
      assert.strictEqual(yield* outer.run(inner.run(Deadline.Current, { timeout: "2 seconds" })), 2000)
      const fiber = yield* Effect.fork(Effect.flip(outer.run(inner.run(Effect.never))))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
    })
  )

  it.effect("3 x 3 x 3 makes 3 attempts, also if the errors are mapped on the way", () =>
    Effect.gen(function* () {
      const make = (name: string) => Policy.make({ name, retry: steady, breaker: false })
      const [a, b, c] = [yield* make("a"), yield* make("b"), yield* make("c")]
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const plain = yield* Effect.fork(Effect.flip(a.run(b.run(c.run(call)))))
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(plain)
      assert.strictEqual(at.length, 3)
      assert.isTrue(ErrorClass.isExhausted(error))
      const mapped = scripted([Effect.fail(new Busy({}))])
      const renamed = Effect.mapError(c.run(mapped.call), () => new Busy({ n: 7 }))
      const fiber = yield* Effect.fork(Effect.flip(a.run(Effect.mapError(b.run(renamed), () => new Busy({ n: 8 })))))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(mapped.at.length, 3)
    })
  )

  it.effect("an inner policy that has spent its attempts does not bind later attempts that fail otherwise", () =>
    Effect.gen(function* () {
      const inner = yield* Policy.make({ name: "inner", retry: steady, breaker: false })
      const outer = yield* Policy.make({ name: "outer", retry: steady, breaker: false })
      const recovered = Effect.orElseSucceed(inner.run(Effect.fail(new Busy({}))), () => "fallback")
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(
        Effect.flip(outer.run(Effect.andThen(recovered, Effect.andThen(inner.run(Effect.void), call))))
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(at.length, 3)
    })
  )

  it.effect("also where only a later attempt meets an inner policy that spends its attempts", () =>
    Effect.gen(function* () {
      const inner = yield* Policy.make({ name: "inner", retry: steady, breaker: false })
      const outer = yield* Policy.make({ name: "outer", retry: steady, breaker: false, timeout: false })
      const spent = scripted([Effect.fail(new Busy({}))])
      const { at, call } = scripted([
        Effect.fail(new Busy({})),
        Effect.mapError(inner.run(spent.call), () => new Busy({ n: 1 }))
      ])
      const fiber = yield* Effect.fork(Effect.flip(outer.run(call)))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual([at.length, spent.at.length], [2, 3])
    })
  )

  it.effect("an interrupted call that takes longer to end than its timeout is still no failure", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", timeout: "1 second" })
      const slow = Effect.onInterrupt(Effect.never, () => Effect.sleep("5 seconds"))
      const fiber = yield* Effect.fork(policy.run(slow))
      yield* TestClock.adjust("500 millis")
      const interruption = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(interruption)
      const counters = policy.breaker === undefined ? undefined : (yield* policy.breaker.snapshot).counters
      assert.deepStrictEqual([counters?.failures, counters?.neutral], [0, 1])
      assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 0 })
    })
  )

  it.effect("outer retries can be opted in", () =>
    Effect.gen(function* () {
      const inner = yield* Policy.make({ name: "inner", retry: steady, breaker: false })
      const outer = yield* Policy.make({ name: "outer", retry: { ...steady, retryExhausted: true }, breaker: false })
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(Effect.flip(outer.run(inner.run(call))))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(at.length, 9)
    })
  )

  it.effect("per call: retries, delay, idempotence, classification", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady, breaker: false })
      const times = (options: Policy.CallOptions, error: unknown = new Busy({})) =>
        Effect.gen(function* () {
          const { at, call } = scripted([Effect.fail(error)])
          const started = yield* Clock.currentTimeMillis
          const fiber = yield* Effect.fork(Effect.flip(policy.run(call, { timeout: false, ...options })))
          yield* TestClock.adjust("5 minutes")
          yield* Fiber.join(fiber)
          return at.map((each) => each - started)
        })
      assert.deepStrictEqual(yield* times({ retries: 0 }), [0])
      assert.deepStrictEqual(yield* times({ retries: 1, retryDelay: "100 millis" }), [0, 100])
      assert.deepStrictEqual(yield* times({ idempotent: false }), [0])
      assert.deepStrictEqual((yield* times({ idempotent: false }, { code: "ECONNREFUSED" })).length, 3)
      assert.deepStrictEqual((yield* times({ stopOn: () => true })).length, 1)
      assert.deepStrictEqual((yield* times({ retryOn: () => true }, "odd")).length, 3)
      assert.deepStrictEqual((yield* times({ classify: () => ({ class: "permanent" }) })).length, 1)
    })
  )

  it.effect("the breaker counts attempts; once open, calls are refused without a retry", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(
        Effect.all([Effect.flip(policy.run(call)), Effect.flip(policy.run(call))], { concurrency: 1 })
      )
      yield* TestClock.adjust("1 minute")
      const [first, second] = yield* Fiber.join(fiber)
      // three attempts, then two; the sixth meets an open circuit
      assert.strictEqual(at.length, 5)
      assert.deepStrictEqual([first._tag, second._tag], ["Busy", "CircuitOpen"])
      assert.strictEqual(RetryPolicy.attemptsOf(second).length, 3)
    })
  )

  it.effect("a shared breaker, and none", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "shared", window: { type: "consecutive", failures: 1 } })
      const a = yield* Policy.make({ name: "a", breaker, retry: false })
      const b = yield* Policy.make({ name: "b", breaker, retry: false })
      yield* Effect.exit(a.run(Effect.fail(new Busy({}))))
      assert.strictEqual((yield* Effect.flip(b.run(Effect.void)))._tag, "CircuitOpen")
      const none = yield* Policy.make({ name: "c", breaker: false, timeout: false, retry: false })
      assert.strictEqual(yield* none.run(Effect.succeed(1)), 1)
      assert.strictEqual((yield* Effect.flip(none.run(Effect.fail(new Busy({})))))._tag, "Busy")
    })
  )

  it.effect("500 interrupted calls leave nothing: no permit, no timer, no orphan", () =>
    Effect.gen(function* () {
      for (const timeout of ["1 hour", false] as const) {
        const policy = yield* Policy.make({ name: "x", timeout, breaker: { halfOpenPermits: 500 } })
        const breaker = policy.breaker
        if (breaker === undefined) return assert.fail("no breaker")
        yield* Effect.repeatN(Effect.exit(policy.run(Effect.fail(new Busy({})), { retries: 0 })), 4)
        yield* TestClock.adjust("30 seconds")
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.never,
          () => Effect.sync(() => running--)
        )
        const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () => Effect.fork(policy.run(call)))
        yield* TestClock.adjust("1 milli")
        assert.deepStrictEqual([running, (yield* breaker.snapshot).probesInFlight], [500, 500])
        yield* Fiber.interruptAll(fibers)
        const seen = yield* breaker.snapshot
        assert.deepStrictEqual([running, seen.probesInFlight, seen.state], [0, 0, "half-open"])
        assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 0 })
      }
    })
  )

  it.effect("an interruption during the wait ends the call at once, and makes no further attempt", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted([Effect.fail(new Busy({}))])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("500 millis")
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(at.length, 1)
    })
  )
})

describe("Policy.stream", () => {
  const collect = <A, E>(stream: Stream.Stream<A, E>) => Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

  it.effect("tries again before the first element, and delivers each element once", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted<Stream.Stream<number, Busy>, Busy>([
        Effect.fail(new Busy({})),
        Effect.succeed(Stream.fail(new Busy({}))),
        Effect.succeed(Stream.concat(Stream.make(1, 2), Stream.make(3)))
      ])
      const fiber = yield* Effect.fork(collect(policy.stream(Stream.unwrap(call))))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 2, 3])
      assert.deepStrictEqual(at, [0, 1000, 3000])
    })
  )

  it.effect("a failure in mid-stream is the caller's, typed, counted, and not tried again", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      const { at, call } = scripted([Effect.succeed(Stream.concat(Stream.make(1), Stream.fail(new Busy({ n: 9 }))))])
      const seen: Array<number> = []
      const error = yield* Effect.flip(
        Stream.runForEach(policy.stream(Stream.unwrap(call)), (n) => Effect.sync(() => seen.push(n)))
      )
      assert.deepStrictEqual([seen, error, at.length], [[1], new Busy({ n: 9 }), 1])
      assert.strictEqual(policy.breaker === undefined ? 0 : (yield* policy.breaker.snapshot).failures, 1)
    })
  )

  it.effect("streams that always break in the middle open the circuit", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: false })
      const broken = Stream.concat(Stream.make(1), Stream.fail(new Busy({})))
      yield* Effect.repeatN(Effect.exit(collect(policy.stream(broken))), 4)
      assert.strictEqual((yield* Effect.flip(collect(policy.stream(broken))))._tag, "CircuitOpen")
    })
  )

  it.effect("first-element and idle timeouts", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: { ...steady, attempts: 2 } })
      const waiting = yield* Effect.fork(
        Effect.flip(collect(policy.stream(Stream.never, { firstElementTimeout: "2 seconds" })))
      )
      yield* TestClock.adjust("5 seconds")
      const first = yield* Fiber.join(waiting)
      assert.strictEqual(first._tag === "CallTimeout" ? first.scope : "", "first-element")
      const stalls = Stream.concat(Stream.make(1, 2), Stream.never)
      const idle = yield* Effect.fork(Effect.flip(collect(policy.stream(stalls, { idleTimeout: "3 seconds" }))))
      yield* TestClock.adjust("3 seconds")
      const second = yield* Fiber.join(idle)
      assert.strictEqual(second._tag === "CallTimeout" ? `${second.scope} ${second.limitMillis}` : "", "idle 3000")
    })
  )

  it.effect(
    "the total timeout is for the first element; a long stream goes on, but not past the caller's deadline",
    () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name: "x", timeout: "10 seconds" })
        const ticking = Stream.schedule(Stream.range(1, 60), Schedule.spaced("1 second"))
        const long = yield* Effect.fork(collect(policy.stream(ticking)))
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual((yield* Fiber.join(long)).length, 60)
        const bounded = yield* Effect.fork(
          Effect.flip(collect(Deadline.withinStream(policy.stream(ticking), "20 seconds")))
        )
        yield* TestClock.adjust("20 seconds")
        const error = yield* Fiber.join(bounded)
        assert.strictEqual(error._tag === "CallTimeout" ? error.scope : "", "total")
      })
  )

  it.effect("closes the stream of every attempt, once", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x", retry: steady })
      let open = 0
      let opened = 0
      let most = 0
      const resource = Stream.acquireRelease(
        Effect.sync(() => {
          most = Math.max(most, ++open)
          opened++
        }),
        () => Effect.sync(() => open--)
      )
      const stream = Stream.flatMap(resource, () =>
        opened < 3 ? Stream.fail(new Busy({})) : Stream.concat(Stream.make("a"), Stream.never)
      )
      const fiber = yield* Effect.fork(Effect.map(Stream.runCollect(Stream.take(policy.stream(stream), 1)), Chunk.size))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
      assert.deepStrictEqual([opened, open, most], [3, 0, 1])
    })
  )

  it.effect("an end by the consumer is a success, an interruption is neutral", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      const breaker = policy.breaker
      if (breaker === undefined) return assert.fail("no breaker")
      const endless = Stream.concat(Stream.make(1), Stream.never)
      yield* Stream.runDrain(Stream.take(policy.stream(endless), 1))
      assert.strictEqual((yield* breaker.snapshot).counters.successes, 1)
      const fiber = yield* Effect.fork(Stream.runDrain(policy.stream(endless)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(
        [(yield* breaker.snapshot).counters.neutral, (yield* breaker.snapshot).counters.failures],
        [1, 0]
      )
    })
  )

  it.effect("a probe is judged by its first element, so a long stream does not hold the half-open circuit", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "x",
        retry: false,
        breaker: { window: { type: "consecutive", failures: 1 } }
      })
      const breaker = policy.breaker
      if (breaker === undefined) return assert.fail("no breaker")
      yield* Effect.exit(policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("30 seconds")
      const gate = yield* Deferred.make<void>()
      const long = Stream.concat(Stream.make(1), Stream.fromEffect(Deferred.await(gate)))
      const fiber = yield* Effect.fork(Stream.runDrain(policy.stream(long)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* breaker.state, "closed")
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("an empty stream is a success", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      assert.deepStrictEqual(yield* collect(policy.stream(Stream.empty)), [])
      assert.strictEqual(policy.breaker === undefined ? 0 : (yield* policy.breaker.snapshot).counters.successes, 1)
    })
  )
})
