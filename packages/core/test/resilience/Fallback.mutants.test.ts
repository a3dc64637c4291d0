/**
 * Fallbacks to the last step: what stands in the causes of those that fail too, and what two of them keep.
 */
import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Fallback } from "@underlay/core"
import { Cause, Chunk, Data, Effect, FiberId, Option, Schema, Stream } from "effect"

class Down extends Data.TaggedError("Down") {}
class Gone extends Data.TaggedError("Gone") {}
class Coded extends Schema.TaggedError<Coded>()("Coded", { code: Schema.Number }) {}

const down = Effect.suspend(() => Effect.fail(new Down()))

/** What the call ends with when its fallback ends so. */
const causeOf = <E>(cause: Cause.Cause<E>, call: Effect.Effect<never, unknown> = down) =>
  Effect.flip(
    Effect.sandbox(
      Fallback.run(
        call,
        Fallback.effect(() => Effect.failCause(cause))
      )
    )
  )

describe("a fallback that fails too", () => {
  it.effect("with an error fails with that error alone, which tells of the first", () =>
    Effect.gen(function* () {
      const gone = new Gone()
      const cause = yield* causeOf(Cause.fail(gone))
      assert.isTrue(Cause.isFailType(cause))
      const error = Option.getOrUndefined(Cause.failureOption(cause))
      assert.instanceOf(error, Gone)
      assert.instanceOf(Fallback.reason(error), Down)
    })
  )

  it.effect("with no object fails with both, its own first", () =>
    Effect.gen(function* () {
      for (const error of ["text", null, undefined]) {
        const failures = Cause.failures(yield* causeOf(Cause.fail(error)))
        assert.strictEqual(Chunk.size(failures), 2)
        assert.strictEqual(Chunk.unsafeGet(failures, 0), error)
        assert.instanceOf(Chunk.unsafeGet(failures, 1), Down)
      }
    })
  )

  it.effect("with the first one among others does not name it twice", () =>
    Effect.gen(function* () {
      const cause = yield* causeOf(Cause.parallel(Cause.fail("text"), Cause.die(new Gone())), Effect.fail("text"))
      assert.deepStrictEqual(Chunk.toReadonlyArray(Cause.failures(cause)), ["text"])
      assert.strictEqual(Chunk.size(Cause.defects(cause)), 1)
    })
  )

  it.effect("or is interrupted, or fails in several places, keeps its cause as it is", () =>
    Effect.gen(function* () {
      const by = FiberId.runtime(7, 0)
      const interrupted = yield* causeOf(Cause.interrupt(by))
      assert.deepStrictEqual([interrupted._tag, ...Cause.interruptors(interrupted)], ["Interrupt", by])
      const sequential = yield* causeOf(Cause.sequential(Cause.fail(new Gone()), Cause.die(new Gone())))
      assert.strictEqual(sequential._tag, "Sequential")
      const parallel = yield* causeOf(Cause.parallel(Cause.fail(new Gone()), Cause.interrupt(by)))
      assert.strictEqual(parallel._tag, "Parallel")
    })
  )

  it.effect("is printed as its own error, however it is looked at", () =>
    Effect.gen(function* () {
      const coded = new Coded({ code: 7 })
      const ran = Fallback.run(
        Effect.fail("first"),
        Fallback.effect(() => Effect.fail(coded))
      )
      const error = yield* Effect.flip(ran)
      assert.notStrictEqual(error, coded)
      assert.strictEqual(inspect(error), inspect(coded))
      assert.strictEqual(inspect({ deep: [error] }), inspect({ deep: [coded] }))
      // Node looks through to the error. Who cannot is handed it, and does not ask the same again for ever.
      const asked: unknown = Reflect.get(error as object, inspect.custom)
      assert.strictEqual(typeof asked === "function" ? asked.call(error) : undefined, coded)
    })
  )

  it.effect("shows what led to it as its cause wherever it has none of its own and one can be shown", () =>
    Effect.gen(function* () {
      const shown = (error: object) =>
        Effect.map(causeOf(Cause.fail(error)), (cause) => {
          const found = Option.getOrUndefined(Cause.failureOption(cause))
          return Reflect.get(Object(found), "cause")
        })
      assert.instanceOf(yield* shown({ cause: null }), Down)
      assert.instanceOf(yield* shown({ cause: undefined }), Down)
      const writable = Object.defineProperty({}, "cause", { value: undefined, writable: true, configurable: false })
      assert.instanceOf(yield* shown(writable), Down)
      const computed = Object.defineProperty({}, "cause", { get: () => undefined, configurable: false })
      assert.instanceOf(yield* shown(computed), Down)
      const fixed = Object.defineProperty({}, "cause", { value: undefined, writable: false, configurable: false })
      assert.isUndefined(yield* shown(fixed))
      assert.strictEqual(yield* shown({ cause: "mine" }), "mine")
    })
  )
})

describe("one or else another", () => {
  it.effect("keeps good answers for whichever of the two wants them", () =>
    Effect.gen(function* () {
      const one = yield* Fallback.stale<string>({ capacity: 2, maxAge: "1 minute" })
      const two = yield* Fallback.stale<string>({ capacity: 2, maxAge: "1 minute" })
      const kept = (store: Fallback.Stale<string>) =>
        Effect.map(store.get("a"), (found) => (Option.isSome(found) ? found.value.value : undefined))
      const answer = (text: string) => Effect.succeed(text)
      assert.strictEqual(
        yield* Fallback.run(answer("first"), Fallback.orElse(Fallback.value("none"), two.for("a"))),
        "first"
      )
      assert.deepStrictEqual([yield* kept(one), yield* kept(two)], [undefined, "first"])
      yield* Fallback.run(answer("second"), Fallback.orElse(one.for("a"), two.for("a")))
      assert.deepStrictEqual([yield* kept(one), yield* kept(two)], ["second", "second"])
      yield* Fallback.run(answer("third"), Fallback.orElse(one.for("a"), Fallback.value("none")))
      assert.deepStrictEqual([yield* kept(one), yield* kept(two)], ["third", "second"])
      assert.strictEqual(
        yield* Fallback.run(answer("fourth"), Fallback.orElse(Fallback.value("a"), Fallback.value("b"))),
        "fourth"
      )
    })
  )
})

describe("streams", () => {
  it.effect("a chunk with nothing in it is no beginning", () =>
    Effect.gen(function* () {
      const empty = Stream.filter(Stream.make(1, 2), () => false)
      const stream = Stream.concat(empty, Stream.fail("down"))
      const all = yield* Stream.runCollect(Fallback.runStream(stream, Fallback.value(Stream.make(3, 4))))
      assert.deepStrictEqual(Chunk.toReadonlyArray(all), [3, 4])
    })
  )
})

describe("what it is known by", () => {
  it("isFallback: fallbacks, and nothing else", () => {
    assert.isTrue(Fallback.isFallback(Fallback.value(1)))
    for (const other of [undefined, null, "fallback", 1, {}]) assert.isFalse(Fallback.isFallback(other))
  })
})
