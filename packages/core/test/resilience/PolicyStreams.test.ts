/**
 * Streams through a policy: what is held while they flow, how they are opened in a race, and what becomes of those that
 * lose it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Policy } from "@underlay/core"
import { Chunk, Data, Deferred, Effect, Exit, Fiber, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number }> {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), turn)

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.gen(function* () {
    const policy = yield* Effect.orDie(
      Policy.make({
        name: "x",
        retry: false,
        bulkhead: { maxConcurrent: 4, maxQueue: 10, maxWait: "20 seconds" },
        ...options
      })
    )
    const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
    const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
    return { policy, bulkhead, breaker }
  })

type Made = Effect.Effect.Success<ReturnType<typeof make>>

const held = ({ bulkhead, breaker, policy }: Made) =>
  Effect.gen(function* () {
    const places = yield* bulkhead.snapshot
    return {
      places: places.active,
      queued: places.queued,
      permits: (yield* breaker.snapshot).inFlight,
      orphans: (yield* policy.orphans).current
    }
  })

const nothing = { places: 0, queued: 0, permits: 0, orphans: 0 }

const collect = <A, E>(stream: Stream.Stream<A, E>) => Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

/** Streams that say which of them are open; the n-th does the n-th of what it is given. */
const opening = <A, E>(steps: ReadonlyArray<Stream.Stream<A, E>>) => {
  const open: Array<number> = []
  const closed: Array<number> = []
  let opened = 0
  const stream = Stream.unwrapScoped(
    Effect.acquireRelease(
      Effect.sync(() => {
        const n = ++opened
        open.push(n)
        return n
      }),
      (n) =>
        Effect.sync(() => {
          open.splice(open.indexOf(n), 1)
          closed.push(n)
        })
    ).pipe(Effect.map((n) => steps[Math.min(n, steps.length) - 1] ?? Stream.die("no step")))
  )
  return { open, closed, stream, opened: () => opened }
}

const first = <A>(value: A, delay: `${number} ${"millis" | "seconds"}`) =>
  Stream.concat(Stream.fromEffect(Effect.delay(Effect.succeed(value), delay)), Stream.never)

describe("a stream's place in the bulkhead", () => {
  it.effect("is kept until the stream ends, by whatever", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const source = Stream.concat(Stream.make(1), Stream.fromEffect(Effect.delay(Effect.succeed(2), "10 seconds")))
      const ends = {
        "its end": source,
        "a failure": Stream.concat(source, Stream.fail(new Busy({}))),
        "a defect": Stream.concat(source, Stream.die("bug"))
      }
      for (const [name, stream] of Object.entries(ends)) {
        const fiber = yield* fork(Effect.exit(collect(made.policy.stream(stream))))
        assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 }, name)
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* held(made), nothing, name)
      }
      yield* Stream.runDrain(Stream.take(made.policy.stream(source), 1))
      assert.deepStrictEqual(yield* held(made), nothing, "the reader has enough")
      const fiber = yield* fork(Stream.runDrain(made.policy.stream(source)))
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* held(made), nothing, "an interruption")
      assert.deepInclude((yield* made.breaker.snapshot).counters, { successes: 2, failures: 2, neutral: 1 })
    })
  )

  it.effect("one that waits for a place gets that of a stream that has ended", () =>
    Effect.gen(function* () {
      const made = yield* make({ bulkhead: { maxConcurrent: 1, maxQueue: 10, maxWait: "20 seconds" } })
      const source = Stream.concat(Stream.make(1), Stream.fromEffect(Effect.delay(Effect.succeed(2), "10 seconds")))
      const fibers = yield* Effect.forEach([1, 2], () => fork(collect(made.policy.stream(source))))
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, queued: 1, permits: 2 })
      yield* TestClock.adjust("10 seconds")
      yield* turn
      assert.isNotNull(fibers[0]?.unsafePoll())
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
      yield* TestClock.adjust("10 seconds")
      for (const fiber of fibers) assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 2])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("is given back when the stream ends, though its reader goes on with another", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const fiber = yield* fork(Stream.runDrain(Stream.concat(made.policy.stream(Stream.make(1, 2)), Stream.never)))
      assert.deepStrictEqual(yield* held(made), nothing)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("is given back only after the stream's finalizers", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const seen: Array<number> = []
      const look = Effect.map(made.bulkhead.snapshot, ({ active }) => void seen.push(active))
      const source = (end: Stream.Stream<number, Busy>) => Stream.ensuring(Stream.concat(Stream.make(1), end), look)
      yield* Stream.runDrain(made.policy.stream(source(Stream.empty)))
      yield* Effect.exit(Stream.runDrain(made.policy.stream(source(Stream.fail(new Busy({}))))))
      yield* Stream.runDrain(Stream.take(made.policy.stream(source(Stream.never)), 1))
      assert.deepStrictEqual(seen, [1, 1, 1])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("is kept by an opening that cannot be interrupted, until that ends; what it opens then is closed", () =>
    Effect.gen(function* () {
      const made = yield* make({ attemptTimeout: "1 second" })
      const { closed, open, stream } = opening([Stream.fromEffect(Effect.uninterruptible(Effect.sleep("5 seconds")))])
      const fiber = yield* fork(Effect.flip(Stream.runDrain(made.policy.stream(stream))))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "CallTimeout" && error.scope === "first-element")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, orphans: 1 })
      yield* TestClock.adjust("4 seconds")
      yield* turn
      assert.deepStrictEqual([open, closed], [[], [1]])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("is kept by an element that cannot be interrupted, after the idle timeout, until that ends", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const source = Stream.concat(Stream.make(1), Stream.fromEffect(Effect.uninterruptible(Effect.sleep("5 seconds"))))
      const fiber = yield* fork(Effect.flip(Stream.runDrain(made.policy.stream(source, { idleTimeout: "1 second" }))))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "CallTimeout" && error.scope === "idle")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, orphans: 1 })
      assert.strictEqual((yield* made.breaker.snapshot).counters.failures, 1)
      yield* TestClock.adjust("4 seconds")
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("and by finalizers that nobody waits for after the idle timeout", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const source = Stream.ensuring(Stream.concat(Stream.make(1), Stream.never), Effect.sleep("5 seconds"))
      const fiber = yield* fork(Effect.flip(Stream.runDrain(made.policy.stream(source, { idleTimeout: "1 second" }))))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1 })
      yield* TestClock.adjust("5 seconds")
      yield* turn
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )
})

describe("a hedged stream", () => {
  const hedged = { hedge: { delay: "100 millis" } } as const

  it.effect("the first element decides: the other stream is closed and gives back what it held", () =>
    Effect.gen(function* () {
      const made = yield* make(hedged)
      const { closed, open, stream } = opening([first("slow", "10 seconds"), first("quick", "50 millis")])
      const fiber = yield* fork(Stream.runHead(made.policy.stream(stream)))
      yield* TestClock.adjust("120 millis")
      assert.deepStrictEqual(open, [1, 2])
      yield* TestClock.adjust("30 millis")
      assert.deepStrictEqual(yield* Fiber.join(fiber), { _id: "Option", _tag: "Some", value: "quick" } as never)
      yield* turn
      assert.deepStrictEqual(open, [])
      assert.sameMembers(closed, [1, 2])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("while the winner flows the loser is closed already", () =>
    Effect.gen(function* () {
      const made = yield* make(hedged)
      const { closed, open, stream } = opening([first("slow", "10 seconds"), first("quick", "50 millis")])
      const fiber = yield* fork(Stream.runDrain(made.policy.stream(stream)))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([open, closed], [[2], [1]])
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([open, closed], [[], [1, 2]])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("both get their first element in the same moment: one of them flows, the other is closed", () =>
    Effect.gen(function* () {
      for (const attemptTimeout of ["10 seconds", false] as const) {
        const made = yield* make({
          ...hedged,
          attemptTimeout,
          timeout: attemptTimeout === false ? false : "30 seconds"
        })
        const gate = yield* Deferred.make<void>()
        const both = Stream.concat(Stream.fromEffect(Deferred.await(gate)), Stream.never)
        const { closed, open, stream } = opening([both])
        let elements = 0
        const fiber = yield* fork(Stream.runForEach(made.policy.stream(stream), () => Effect.sync(() => ++elements)))
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(open, [1, 2])
        yield* Deferred.succeed(gate, undefined)
        yield* turn
        assert.strictEqual(elements, 1)
        assert.deepStrictEqual([open.length, closed.length], [1, 1])
        assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(open, [])
        assert.deepStrictEqual(yield* held(made), nothing)
      }
    })
  )

  it.effect("a late one that could not be interrupted is closed as soon as it opens", () =>
    Effect.gen(function* () {
      const made = yield* make(hedged)
      const late = Stream.concat(
        Stream.fromEffect(Effect.uninterruptible(Effect.delay(Effect.succeed("late"), "5 seconds"))),
        Stream.never
      )
      const { closed, open, stream } = opening([late, first("quick", "50 millis")])
      const fiber = yield* fork(Stream.runDrain(made.policy.stream(stream)))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 2, permits: 2 })
      yield* TestClock.adjust("5 seconds")
      yield* turn
      assert.deepStrictEqual([open, closed], [[2], [1]])
      assert.deepStrictEqual(yield* held(made), { ...nothing, places: 1, permits: 1 })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("an interruption while both are being opened closes both", () =>
    Effect.gen(function* () {
      const made = yield* make(hedged)
      const { closed, open, stream } = opening<string, never>([Stream.never])
      const fiber = yield* fork(Stream.runDrain(made.policy.stream(stream)))
      yield* TestClock.adjust("150 millis")
      assert.deepStrictEqual(open, [1, 2])
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([open, closed.length], [[], 2])
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepInclude((yield* made.breaker.snapshot).counters, { successes: 0, failures: 0, neutral: 2 })
    })
  )

  it.effect("a failure before the first element is tried again, after it is the reader's", () =>
    Effect.gen(function* () {
      const made = yield* make({ ...hedged, retry: { ...steady, attempts: 2 } })
      const { open, opened, stream } = opening<number, Busy>([
        Stream.fail(new Busy({ n: 1 })),
        Stream.concat(Stream.make(1), Stream.fail(new Busy({ n: 2 })))
      ])
      const fiber = yield* fork(Effect.flip(Stream.runDrain(made.policy.stream(stream))))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "Busy" && error.n === 2)
      assert.deepStrictEqual([open, opened()], [[], 2])
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )
})

describe("a stream as a probe", () => {
  it.effect("is judged by its first element, and a failure after it counts like any other", () =>
    Effect.gen(function* () {
      const made = yield* make({
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" }
      })
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("10 seconds")
      const gate = yield* Deferred.make<never, Busy>()
      const probe = yield* fork(
        Effect.exit(Stream.runDrain(made.policy.stream(Stream.concat(first(1, "1 seconds"), Stream.empty))))
      )
      assert.strictEqual((yield* made.breaker.snapshot).probesInFlight, 1)
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* made.breaker.snapshot, { state: "closed", probesInFlight: 0, inFlight: 1 })
      const other = yield* fork(
        Effect.exit(
          Stream.runDrain(made.policy.stream(Stream.concat(Stream.make(1), Stream.fromEffect(Deferred.await(gate)))))
        )
      )
      yield* Deferred.fail(gate, new Busy({}))
      yield* Fiber.join(other)
      assert.strictEqual(yield* made.breaker.state, "open")
      yield* Fiber.interrupt(probe)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("that is interrupted before its first element gives its place to the next", () =>
    Effect.gen(function* () {
      const made = yield* make({
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" }
      })
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("10 seconds")
      const probe = yield* fork(Stream.runDrain(made.policy.stream(Stream.never)))
      assert.strictEqual((yield* made.breaker.snapshot).probesInFlight, 1)
      yield* Fiber.interrupt(probe)
      assert.deepStrictEqual(yield* held(made), nothing)
      assert.deepStrictEqual(yield* collect(made.policy.stream(Stream.make(1))), [1])
      assert.strictEqual(yield* made.breaker.state, "closed")
    })
  )

  it.effect("one that is open when the circuit opens flows on; its end says nothing of the new state", () =>
    Effect.gen(function* () {
      const made = yield* make({ breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" } })
      const long = yield* fork(
        collect(
          made.policy.stream(Stream.concat(Stream.make(1), Stream.fromEffect(Effect.as(Effect.sleep("5 seconds"), 2))))
        )
      )
      yield* Effect.exit(made.policy.run(Effect.fail(new Busy({}))))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* Fiber.join(long), [1, 2])
      assert.strictEqual(yield* made.breaker.state, "open")
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )
})

describe("the same stream, run more than once", () => {
  it.effect("goes through the policy each time", () =>
    Effect.gen(function* () {
      const made = yield* make()
      const { closed, opened, stream } = opening([Stream.make(1, 2)])
      const through = made.policy.stream(stream)
      for (let i = 0; i < 2; i++) assert.deepStrictEqual(yield* collect(through), [1, 2])
      assert.deepStrictEqual([opened(), closed], [2, [1, 2]])
      assert.strictEqual((yield* made.breaker.snapshot).counters.successes, 2)
      assert.deepStrictEqual(yield* held(made), nothing)
    })
  )

  it.effect("by the settings that are in force then", () =>
    Effect.gen(function* () {
      const made = yield* make({ breaker: {} })
      let calls = 0
      const through = made.policy.stream(
        Stream.suspend(() => {
          calls++
          return Stream.fail(new Busy({}))
        })
      )
      yield* Effect.exit(Stream.runDrain(through))
      assert.strictEqual(calls, 1)
      yield* Effect.orDie(made.policy.reload({ retry: { ...steady, attempts: 3 } }))
      const fiber = yield* fork(Effect.exit(Stream.runDrain(through)))
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(fiber)))
      assert.strictEqual(calls, 4)
    })
  )
})
