/**
 * Deadlines: how long is left, for effects and streams, and which of two holds.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deadline, Policy } from "@underlay/core"
import { Chunk, Duration, Effect, Exit, Fiber, Option, Stream, TestClock } from "effect"

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

  // Effect gives who joins a fiber what that fiber's context has more: a request that shared another one's work had the
  // other's deadline ever after, and no time left once that was past.
  it.effect("who joins a fiber that somebody else forked does not have its deadline", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "shared" })
      const shares = {
        within: Deadline.within(Effect.forkDaemon(Effect.as(Effect.sleep("5 seconds"), 1)), "10 seconds"),
        policy: policy.run(Effect.forkDaemon(Effect.as(Effect.sleep("5 seconds"), 1)), { timeout: "10 seconds" })
      }
      for (const [how, share] of Object.entries(shares)) {
        // The fiber that forks ends, and another one joins what it has left.
        const shared = yield* Effect.flatMap(Effect.fork(share), Fiber.await)
        const work = yield* shared
        const joining = (own: <A>(effect: Effect.Effect<A>) => Effect.Effect<A>) =>
          Effect.fork(
            own(
              Effect.gen(function* () {
                yield* Fiber.join(work)
                const after = yield* left
                const policed = yield* Effect.exit(policy.run(Effect.succeed("done")))
                const inner = yield* left.pipe(Deadline.within("1 hour"))
                return [after, Exit.isSuccess(policed), inner]
              })
            )
          )
        const free = yield* joining((effect) => effect)
        const bound = yield* joining(Deadline.within("30 minutes"))
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* Fiber.join(free), [undefined, true, 3_600_000], how)
        assert.deepStrictEqual(yield* Fiber.join(bound), [1_795_000, true, 1_795_000], how)
        yield* TestClock.adjust("1 hour")
      }
    })
  )

  it.effect("a fiber has the deadline of who forked it, also when it is joined by that one", () =>
    Effect.gen(function* () {
      const seen = yield* Effect.gen(function* () {
        const fiber = yield* Effect.fork(Effect.zip(left, Effect.delay(left, "2 seconds")))
        yield* TestClock.adjust("2 seconds")
        return [yield* Fiber.join(fiber), yield* left]
      }).pipe(Deadline.within("10 seconds"))
      assert.deepStrictEqual(seen, [[10_000, 8_000], 8_000])
    })
  )
})
