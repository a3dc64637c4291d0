import { assert, describe, it } from "@effect/vitest"
import { Deadline, ErrorClass, RetryPolicy } from "@underlay/core"
import { Chunk, Clock, Data, Duration, Effect, Exit, FastCheck, Fiber, Random, Schedule, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter?: Duration.Duration; readonly retryable?: boolean }> {
  get isRetryable() {
    return this.retryable ?? true
  }
}

/** The waits that a schedule gives to these errors, in milliseconds. */
const waits = (policy: RetryPolicy.RetryPolicy, errors: ReadonlyArray<unknown>) =>
  Effect.gen(function* () {
    const found: Array<number> = []
    let state: unknown = policy.schedule.initial
    for (const error of errors) {
      const now = yield* Clock.currentTimeMillis
      const [next, wait, decision] = yield* policy.schedule.step(now, error, state)
      if (decision._tag === "Done") break
      found.push(Duration.toMillis(wait))
      state = next
    }
    return found
  })

const busy = (n: number) => Array.from({ length: n }, () => new Busy({}))

describe("RetryPolicy", () => {
  it.effect("doubles from the base up to the cap and ends with the attempts", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.make({ attempts: 8, jitter: "none" })
      assert.deepStrictEqual(yield* waits(policy, busy(20)), [1000, 2000, 4000, 8000, 16000, 30000, 30000])
    })
  )

  it.effect("by default makes three attempts with full jitter", () =>
    Effect.gen(function* () {
      const found = yield* Effect.withRandom(waits(RetryPolicy.make(), busy(20)), Random.fixed([0.5]))
      assert.deepStrictEqual(found, [500, 1000])
    })
  )

  it.effect("jitter: equal keeps the upper half, decorrelated grows from the wait before", () =>
    Effect.gen(function* () {
      const fixed = Random.fixed([0.5])
      const equal = RetryPolicy.make({ attempts: 4, jitter: "equal" })
      assert.deepStrictEqual(yield* Effect.withRandom(waits(equal, busy(9)), fixed), [750, 1500, 3000])
      const decorrelated = RetryPolicy.make({ attempts: 4, jitter: "decorrelated" })
      // base + 0.5 * (3 * previous - base), the base counting as the first previous wait
      assert.deepStrictEqual(yield* Effect.withRandom(waits(decorrelated, busy(9)), fixed), [2000, 3500, 5750])
    })
  )

  it.effect("law: every wait is within the bounds of its jitter, and never above the cap", () =>
    Effect.promise(() =>
      FastCheck.assert(
        FastCheck.asyncProperty(
          FastCheck.constantFrom<RetryPolicy.Jitter>("none", "full", "equal", "decorrelated"),
          FastCheck.integer({ min: 1, max: 5_000 }),
          FastCheck.double({ min: 1, max: 4, noNaN: true }),
          FastCheck.integer({ min: 5_000, max: 60_000 }),
          FastCheck.string(),
          async (jitter, base, factor, cap, seed) => {
            const policy = RetryPolicy.make({ attempts: 12, base, factor, cap, jitter })
            const found = await Effect.runPromise(Effect.withRandom(waits(policy, busy(30)), Random.make(seed)))
            assert.strictEqual(found.length, 11)
            found.forEach((wait, i) => {
              const planned = Math.min(cap, base * factor ** i)
              assert.isAtMost(wait, cap)
              if (jitter === "none") assert.closeTo(wait, planned, 1)
              if (jitter === "full") assert.isAtMost(wait, planned + 1)
              if (jitter === "equal") {
                assert.isAtLeast(wait, planned / 2 - 1)
                assert.isAtMost(wait, planned + 1)
              }
              if (jitter === "decorrelated") {
                assert.isAtLeast(wait, Math.min(base, cap) - 1)
                assert.isAtMost(wait, Math.max(base, (found[i - 1] ?? base) * 3) + 1)
              }
            })
          }
        ),
        { numRuns: 100 }
      )
    )
  )

  it.effect("Retry-After comes before the wait of its own and is cut to its cap", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.make({ attempts: 5, retryAfterCap: "10 seconds" })
      const errors = [3_000, 0, 3_600_000].map((millis) => new Busy({ retryAfter: Duration.millis(millis) }))
      assert.deepStrictEqual(yield* waits(policy, errors), [3_000, 0, 10_000])
    })
  )

  it.effect("a Retry-After that is a date counts from the clock", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Date.UTC(2026, 0, 1, 0, 0, 0))
      const dated = (date: string) => ({ status: 503, headers: { "retry-after": date } })
      const found = yield* waits(RetryPolicy.make({ attempts: 5 }), [
        dated("Thu, 01 Jan 2026 00:00:12 GMT"),
        dated("Wed, 31 Dec 2025 23:00:00 GMT")
      ])
      assert.deepStrictEqual(found, [12_000, 0])
    })
  )

  it.effect("gives up at once when the wait would pass the deadline", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.make({ jitter: "none" })
      const slow = [new Busy({ retryAfter: Duration.seconds(20) })]
      assert.deepStrictEqual(yield* Deadline.within(waits(policy, slow), "20 seconds"), [])
      assert.deepStrictEqual(yield* Deadline.within(waits(policy, slow), "21 seconds"), [20_000])
    })
  )

  it.effect("tries again only after what is transient or rate-limited", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.make({ jitter: "none" })
      assert.deepStrictEqual(yield* waits(policy, [new Busy({ retryable: false })]), [])
      assert.deepStrictEqual(yield* waits(policy, ["unknown"]), [])
      assert.deepStrictEqual(yield* waits(policy, [{ status: 429 }]), [1000])
      assert.isFalse(policy.shouldRetry(ErrorClass.markExhausted(new Busy({}))))
      assert.isTrue(RetryPolicy.make({ retryExhausted: true }).shouldRetry(ErrorClass.markExhausted(new Busy({}))))
    })
  )

  it("retryOn, stopOn and unsentOnly", () => {
    const own = RetryPolicy.make({ retryOn: (error) => error === "odd", stopOn: (error) => error instanceof Busy })
    assert.isTrue(own.shouldRetry("odd"))
    assert.isFalse(own.shouldRetry(new Busy({})))
    const careful = RetryPolicy.make({ unsentOnly: true })
    assert.isFalse(careful.shouldRetry({ code: "ECONNRESET" }))
    assert.isTrue(careful.shouldRetry({ code: "ECONNREFUSED" }))
  })

  it.effect("fixed and custom waits", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* waits(RetryPolicy.fixed({ delay: "250 millis", attempts: 4 }), busy(9)),
        [250, 250, 250]
      )
      const fibonacci = RetryPolicy.custom({
        schedule: Schedule.fibonacci("1 second").pipe(Schedule.upTo("1 hour")),
        cap: "4 seconds",
        attempts: 7
      })
      assert.deepStrictEqual(yield* waits(fibonacci, busy(9)), [1000, 1000, 2000, 3000, 4000, 4000])
      const ended = RetryPolicy.custom({ schedule: Schedule.recurs(2) })
      assert.strictEqual((yield* waits(ended, busy(9))).length, 2)
    })
  )

  it.effect("its schedule is an ordinary one: Effect.retry takes it, and so do the combinators of Schedule", () =>
    Effect.gen(function* () {
      let calls = 0
      const at: Array<number> = []
      const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
        calls++
        at.push(now)
        return calls < 3 ? Effect.fail(new Busy({})) : Effect.succeed("done")
      })
      const { schedule } = RetryPolicy.make({ jitter: "none" })
      const fiber = yield* Effect.fork(Effect.retry(call, schedule))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "done")
      assert.deepStrictEqual(at, [0, 1000, 3000])
      const collected = yield* Effect.fork(Schedule.run(Schedule.delays(schedule), 0, busy(9)))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(
        Chunk.toReadonlyArray(yield* Fiber.join(collected))
          .slice(0, 2)
          .map((wait) => Duration.toMillis(wait)),
        [1000, 2000]
      )
    })
  )

  it.effect("a schedule can be used by many at once: its state belongs to each use", () =>
    Effect.gen(function* () {
      const { schedule } = RetryPolicy.make({ jitter: "none", attempts: 3 })
      const call = (log: Array<number>) =>
        Effect.retry(
          Effect.flatMap(Clock.currentTimeMillis, (now) => {
            log.push(now)
            return Effect.fail(new Busy({}))
          }),
          schedule
        )
      const logs: [Array<number>, Array<number>] = [[], []]
      const fiber = yield* Effect.fork(
        Effect.all([Effect.exit(call(logs[0])), Effect.exit(call(logs[1]))], { concurrency: 2 })
      )
      yield* TestClock.adjust("10 seconds")
      const [first, second] = yield* Fiber.join(fiber)
      assert.isTrue(Exit.isFailure(first) && Exit.isFailure(second))
      assert.deepStrictEqual(logs, [
        [0, 1000, 3000],
        [0, 1000, 3000]
      ])
    })
  )
})
