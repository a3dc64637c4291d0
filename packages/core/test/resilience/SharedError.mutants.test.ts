/** Which errors get an identity of their own: those that another call has marked, and no others. */
import { assert, describe, it } from "@effect/vitest"
import { ErrorClass, Policy, RetryPolicy } from "@underlay/core"
import { Effect, Fiber, TestClock } from "effect"

const busy = (): object => ({ isRetryable: true })

/** What a call ends with whose attempts fail with these errors, one after the other. */
const failed = (errors: ReadonlyArray<object>) =>
  Effect.gen(function* () {
    const policy = yield* Policy.make({ name: "x", retry: { jitter: "none" }, breaker: false })
    let attempt = 0
    const call = policy.run(Effect.suspend(() => Effect.fail(errors[attempt++])))
    const fiber = yield* Effect.fork(Effect.flip(call))
    yield* TestClock.adjust("1 minute")
    return yield* Fiber.join(fiber)
  })

describe("the last error of a call", () => {
  it.effect("that is new is itself, with its attempts", () =>
    Effect.gen(function* () {
      const last = busy()
      assert.strictEqual(yield* failed([busy(), busy(), last]), last)
      assert.strictEqual(RetryPolicy.attemptsOf(last).length, 3)
      assert.isTrue(ErrorClass.isExhausted(last))
    })
  )

  it.effect("that ended another call before keeps that call's attempts, whether they were spent or not", () =>
    Effect.gen(function* () {
      for (const constant of [busy(), { isRetryable: false }]) {
        const first = yield* failed([busy(), busy(), constant])
        const attempts = RetryPolicy.attemptsOf(first)
        assert.strictEqual(attempts.length, 3)
        const second = yield* failed([busy(), constant])
        assert.notStrictEqual(second, first)
        assert.strictEqual(RetryPolicy.attemptsOf(first), attempts)
        assert.notStrictEqual(RetryPolicy.attemptsOf(second), attempts)
        assert.strictEqual(RetryPolicy.attemptsOf(second).length, 2)
      }
    })
  )

  it.effect("that somebody else has marked is not given attempts that were never made for it", () =>
    Effect.gen(function* () {
      const constant = ErrorClass.markExhausted(busy())
      const error = yield* failed([busy(), constant])
      assert.notStrictEqual(error, constant)
      assert.strictEqual(RetryPolicy.attemptsOf(error).length, 2)
      assert.deepStrictEqual(RetryPolicy.attemptsOf(constant), [])
    })
  )
})
