import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { Abort } from "../../../src/internal/mongo/abort.ts"
import { attempt } from "../../../src/internal/mongo/operation.ts"

const at = { kind: "mongodb", name: "test", method: "find" }

/** An operation that is answered when the test says so. */
const asked = () => {
  let answer = (): void => undefined
  const promise = new Promise<void>((resolve) => {
    answer = resolve
  })
  return { promise, answer: () => answer() }
}

describe("one operation of the driver", () => {
  it.live("interrupted between its answer and who waits for that: nothing is aborted, and no timer is left", () =>
    Effect.gen(function* () {
      const { answer, promise } = asked()
      const begun = yield* Deferred.make<Abort>()
      const fiber = yield* Effect.fork(
        attempt(
          at,
          5_000,
          false,
          (signal) => {
            Deferred.unsafeDone(begun, Exit.succeed(signal))
            return promise
          },
          { grace: 20 }
        )
      )
      const signal = yield* Deferred.await(begun)
      const interrupted = promise.then(() => fiber.unsafeInterruptAsFork(fiber.id()))
      answer()
      yield* Effect.promise(() => interrupted)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
      yield* Effect.sleep(60)
      assert.isFalse(signal.aborted)
    })
  )

  it.live("interrupted while it waits: aborted at once, or after its grace", () =>
    Effect.gen(function* () {
      for (const grace of [undefined, 30]) {
        const begun = yield* Deferred.make<Abort>()
        const fiber = yield* Effect.fork(
          attempt(
            at,
            5_000,
            false,
            (signal) => {
              Deferred.unsafeDone(begun, Exit.succeed(signal))
              return new Promise(() => {})
            },
            { grace }
          )
        )
        const signal = yield* Deferred.await(begun)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(signal.aborted, grace === undefined)
        yield* Effect.sleep(80)
        assert.isTrue(signal.aborted)
      }
    })
  )
})

describe("the signal that the driver is given", () => {
  it("tells each listener once, with itself and its reason, and nobody who has gone", () => {
    const abort = new Abort()
    const told: Array<unknown> = []
    const first = function (this: AbortSignal) {
      told.push(this.reason)
    }
    const second = { handleEvent: () => told.push("second") }
    const gone = () => told.push("gone")
    for (const listener of [first, first, second, gone]) abort.addEventListener("abort", listener)
    abort.removeEventListener("abort", gone)
    const native = abort.toNative()
    const reason = new Error("enough")
    abort.abort(reason)
    abort.abort(new Error("again"))
    assert.deepStrictEqual(told, [reason, "second"])
    assert.isTrue(native.aborted)
    assert.strictEqual(native.reason, reason)
    assert.throws(() => abort.throwIfAborted(), "enough")
    assert.strictEqual(abort.toNative().reason, reason)
  })
})
