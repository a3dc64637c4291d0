/**
 * Deadlines: how long is left, for effects and streams, and which of two holds.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deadline } from "@underlay/core"
import { Chunk, Duration, Effect, Option, Stream, TestClock } from "effect"

const left = Effect.map(Deadline.remaining, (found) =>
  Option.isSome(found) ? Duration.toMillis(found.value) : undefined
)
const leftInStream = (stream: (of: Stream.Stream<number | undefined>) => Stream.Stream<number | undefined>) =>
  Effect.map(Stream.runCollect(stream(Stream.fromEffect(left))), (all) => Chunk.unsafeHead(all))

describe("Deadline", () => {
  it.effect("there is none unless somebody sets one", () =>
    Effect.gen(function* () {
      assert.isUndefined(yield* left)
      assert.strictEqual(yield* Deadline.Current, Number.POSITIVE_INFINITY)
    })
  )

  it.effect("the sooner of two holds, wherever it was set, and what is past leaves nothing", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* left.pipe(Deadline.within("10 seconds")), 10_000)
      assert.strictEqual(yield* left.pipe(Deadline.within("10 seconds"), Deadline.within("3 seconds")), 3_000)
      assert.strictEqual(yield* left.pipe(Deadline.within("3 seconds"), Deadline.within("10 seconds")), 3_000)
      assert.strictEqual(yield* left.pipe(Deadline.at(3_600_500)), 500)
      assert.strictEqual(yield* left.pipe(Deadline.at(1_000)), 0)
    })
  )

  it.effect("a stream's is set when it starts, and is the sooner of two as well", () =>
    Effect.gen(function* () {
      const started = Stream.concat(
        Stream.fromEffect(left),
        Stream.fromEffect(Effect.andThen(TestClock.adjust("2 seconds"), left))
      ).pipe(Deadline.withinStream("10 seconds"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Stream.runCollect(started)), [10_000, 8_000])
      const inner = leftInStream(Deadline.withinStream("10 seconds"))
      assert.strictEqual(yield* inner.pipe(Deadline.within("4 seconds")), 4_000)
      assert.strictEqual(yield* inner.pipe(Deadline.within("1 hour")), 10_000)
    })
  )

  it.effect("work that outlives the call goes on without one", () =>
    Effect.gen(function* () {
      assert.isUndefined(yield* Deadline.without(left).pipe(Deadline.within("1 second")))
    })
  )
})
