/** An error that is one object for all calls gets an identity of its own for each: it must read as the error it stands for. */
import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Policy, RetryPolicy } from "@underlay/core"
import { Cause, Data, Effect, Equal, Fiber, Hash, Schema, TestClock } from "effect"

class Tagged extends Schema.TaggedError<Tagged>()("Tagged", {
  code: Schema.Number,
  cause: Schema.optional(Schema.Defect)
}) {
  get isRetryable() {
    return true
  }
  override get message() {
    return `code ${this.code}`
  }
}
class Plain extends Data.TaggedError("Plain")<{ readonly code: number }> {
  get isRetryable() {
    return true
  }
}
class Native extends Error {
  readonly isRetryable = true
  override name = "Native"
}

const stand = <E>(shared: E) =>
  Effect.gen(function* () {
    const policy = yield* Policy.make({ name: "x", retry: { jitter: "none" }, breaker: false })
    const fiber = yield* Effect.fork(Effect.sandbox(policy.run(Effect.fail(shared))).pipe(Effect.flip))
    yield* TestClock.adjust("1 minute")
    const cause = yield* Fiber.join(fiber)
    const error = Cause.squash(cause) as E
    assert.notStrictEqual(error, shared)
    assert.strictEqual(RetryPolicy.attemptsOf(error).length, 3)
    return { cause, error }
  })

describe("an error that is one object for all calls", () => {
  it.effect("is equal to itself, an instance of its class, caught by its tag, encoded as its schema says", () =>
    Effect.gen(function* () {
      const shared = new Tagged({ code: 7, cause: new Error("inner") })
      const { cause, error } = yield* stand(shared)
      assert.isTrue(error instanceof Tagged && error instanceof Error)
      assert.isTrue(Equal.equals(error, shared) && Equal.equals(shared, error))
      assert.strictEqual(Hash.hash(error), Hash.hash(shared))
      assert.strictEqual(
        yield* Effect.catchTag(Effect.failCause(cause as Cause.Cause<Tagged>), "Tagged", (each) =>
          Effect.succeed(each.code)
        ),
        7
      )
      assert.deepStrictEqual(yield* Schema.encode(Tagged)(error), yield* Schema.encode(Tagged)(shared))
      assert.isTrue(Schema.is(Tagged)(error))
      assert.strictEqual(JSON.stringify(error), JSON.stringify(shared))
      assert.deepStrictEqual(
        [error.message, String(error), error.stack],
        [shared.message, String(shared), shared.stack]
      )
      // It can be yielded, as any tagged error.
      const yielded: Effect.Effect<never, Tagged> = error
      const again = yield* Effect.flip(yielded)
      assert.strictEqual(again.code, 7)
    })
  )

  it.effect("prints as the error does", () =>
    Effect.gen(function* () {
      for (const shared of [
        new Tagged({ code: 7 }),
        new Plain({ code: 7 }),
        new Native("seven"),
        { isRetryable: true, n: 7 }
      ]) {
        const { cause, error } = yield* stand(shared)
        assert.strictEqual(Cause.pretty(cause), Cause.pretty(Cause.fail(shared)))
        assert.strictEqual(inspect(error), inspect(shared))
        assert.strictEqual(inspect({ deep: [error] }), inspect({ deep: [shared] }))
        assert.strictEqual(JSON.stringify(error), JSON.stringify(shared))
        assert.deepStrictEqual(Object.keys(error), Object.keys(shared))
      }
    })
  )

  it.effect("a frozen one too", () =>
    Effect.gen(function* () {
      const { error } = yield* stand(Object.freeze({ isRetryable: true, n: 7 }))
      assert.deepStrictEqual({ ...error }, { isRetryable: true, n: 7 })
    })
  )
})
