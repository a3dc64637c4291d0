/**
 * Streams through a policy at odd moments: an idle timeout beside a deadline, readers that are slow, clocks that are set
 * back, finalizers that are waited for; and what is told of a stream while it flows.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deadline, Policy } from "@underlay/core"
import {
  Cause,
  Chunk,
  Clock,
  Data,
  Deferred,
  Effect,
  Exit,
  Fiber,
  FiberRef,
  Metric,
  MetricState,
  Stream,
  TestClock
} from "effect"
import * as streaming from "../../src/internal/resilience/streaming.ts"
import { Manual } from "./manual.ts"
import { Pauser } from "./steps.ts"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number }> {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), turn)

const make = (options: Omit<Policy.Options, "name"> = {}, name = "x") =>
  Effect.gen(function* () {
    const policy = yield* Effect.orDie(Policy.make({ name, retry: false, bulkhead: {}, ...options }))
    const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
    const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
    return { policy, bulkhead, breaker }
  })

/** How a stream has timed out, and when. */
const timeoutOf = <A, E>(stream: Stream.Stream<A, E>) =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(Stream.runDrain(stream))
    const now = yield* Clock.currentTimeMillis
    return error instanceof Error && "scope" in error && "limitMillis" in error
      ? [error.scope, error.limitMillis, now]
      : assert.fail(String(error))
  })

describe("the time for each further element", () => {
  const stalled = Stream.concat(Stream.make(1), Stream.never)

  it.effect("is the idle timeout or what is left of the deadline, whichever is shorter", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      for (const [idle, deadline, found] of [
        ["2 seconds", 3_000, ["idle", 2_000, 2_000]],
        ["2 seconds", 2_000, ["idle", 2_000, 2_000]],
        ["2 seconds", 1_000, ["total", 1_000, 1_000]],
        [false, 1_000, ["total", 1_000, 1_000]]
      ] as const) {
        const now = yield* Clock.currentTimeMillis
        const fiber = yield* fork(
          timeoutOf(policy.stream(stalled, { idleTimeout: idle })).pipe(
            Effect.provideService(Deadline.Current, now + deadline)
          )
        )
        yield* TestClock.adjust("5 seconds")
        const [scope, limit, at] = yield* Fiber.join(fiber)
        assert.deepStrictEqual([scope, limit, Number(at) - now], [...found])
      }
    })
  )

  it.effect("is over for a reader that comes back after the deadline, or at it: the source is not asked again", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      for (const late of [1_000, 3_000]) {
        let asked = 0
        const source = Stream.repeatEffect(Effect.sync(() => ++asked))
        const now = yield* Clock.currentTimeMillis
        const fiber = yield* fork(
          timeoutOf(Stream.tap(policy.stream(source), () => Effect.sleep(late))).pipe(
            Effect.provideService(Deadline.Current, now + 1_000)
          )
        )
        yield* TestClock.adjust("5 seconds")
        const [scope, limit, at] = yield* Fiber.join(fiber)
        assert.deepStrictEqual([scope, limit, Number(at) - now, asked], ["total", 0, late, 1])
      }
    })
  )

  it.effect("begins anew with a chunk without elements, which is none for the first", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const life = Stream.fromChunk(Chunk.empty<number>())
      const quiet = (element: number, after: number) =>
        Stream.concat(
          Stream.make(element),
          Stream.concat(
            Stream.repeatEffectChunk(Effect.delay(Effect.succeed(Chunk.empty<number>()), "2 seconds")).pipe(
              Stream.interruptAfter(after)
            ),
            Stream.make(2)
          )
        )
      const read = yield* fork(Stream.runCollect(policy.stream(quiet(1, 9_000), { idleTimeout: "3 seconds" })))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([...(yield* Fiber.join(read))], [1, 2])
      const first = Stream.repeatEffectChunk(Effect.delay(Effect.succeed(Chunk.empty<number>()), "2 seconds"))
      const waits = yield* fork(
        timeoutOf(
          policy.stream(Stream.concat(life, first), { firstElementTimeout: "5 seconds", idleTimeout: "3 seconds" })
        )
      )
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual((yield* Fiber.join(waits)).slice(0, 2), ["first-element", 5_000])
    })
  )

  it.effect("begins anew with each element", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const source = Stream.repeatEffect(Effect.delay(Effect.succeed(1), "2 seconds"))
      const fiber = yield* fork(Stream.runCount(Stream.take(policy.stream(source, { idleTimeout: "3 seconds" }), 5)))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 5)
    })
  )
})

describe("a stream that ends", () => {
  it.effect("without an element is known to have succeeded before its finalizers are through", () =>
    Effect.gen(function* () {
      const { breaker, bulkhead, policy } = yield* make()
      const source = Stream.ensuring(Stream.empty, Effect.sleep("5 seconds"))
      const fiber = yield* fork(Stream.runDrain(policy.stream(source)))
      assert.strictEqual((yield* breaker.snapshot).counters.successes, 1)
      assert.strictEqual((yield* bulkhead.snapshot).active, 1)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* breaker.snapshot).counters.successes, 1)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("by a failure is waited for with its finalizers, and counts before them", () =>
    Effect.gen(function* () {
      const { breaker, policy } = yield* make()
      const source = Stream.ensuring(
        Stream.concat(Stream.make(1), Stream.fail(new Busy({ n: 1 }))),
        Effect.sleep("5 seconds")
      )
      for (const idleTimeout of [false, "1 minute"] as const) {
        const before = (yield* breaker.snapshot).counters.failures
        const fiber = yield* fork(Effect.flip(Stream.runDrain(policy.stream(source, { idleTimeout }))))
        assert.isNull(fiber.unsafePoll())
        assert.strictEqual((yield* breaker.snapshot).counters.failures, before + 1)
        yield* TestClock.adjust("5 seconds")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error._tag === "Busy" && error.n === 1)
      }
    })
  )

  it.effect("by a defect or by interrupting itself does so for its reader", () =>
    Effect.gen(function* () {
      const { breaker, policy } = yield* make()
      const run = (end: Effect.Effect<never>) =>
        Effect.exit(Stream.runDrain(policy.stream(Stream.concat(Stream.make(1), Stream.fromEffect(end)))))
      const died = yield* run(Effect.die("bug"))
      assert.isTrue(Exit.isFailure(died) && Cause.isDie(died.cause))
      assert.strictEqual((yield* breaker.snapshot).counters.failures, 1)
      const interrupted = yield* run(Effect.interrupt)
      assert.isTrue(Exit.isFailure(interrupted) && Cause.isInterruptedOnly(interrupted.cause))
      assert.strictEqual((yield* breaker.snapshot).counters.failures, 1)
    })
  )
})

describe("a race of streams", () => {
  // Every sixth step in each, so that none takes long.
  const from = [1, 2, 3, 4, 5, 6]
  it.effect.each(from)(
    "that open in the same moment has one winner, whoever is held up at step %i, or 6, 12, … later",
    (start) =>
      Effect.gen(function* () {
        for (let step = start; ; step += 6) {
          const { breaker, bulkhead, policy } = yield* make({ hedge: { delay: 0 }, timeout: false })
          const pauser = new Pauser(step)
          pauser.armed = false
          const gate = yield* Deferred.make<void>()
          const open = new Set<number>()
          let opened = 0
          const source = Stream.unwrapScoped(
            Effect.acquireRelease(
              Effect.sync(() => {
                open.add(++opened)
                return opened
              }),
              (n) => Effect.sync(() => open.delete(n))
            ).pipe(
              Effect.map((n) => Stream.concat(Stream.fromEffect(Effect.as(Deferred.await(gate), n)), Stream.never))
            )
          )
          const seen: Array<number> = []
          const fiber = yield* fork(
            Effect.locally(
              Stream.runForEach(policy.stream(source), (n) => Effect.sync(() => seen.push(n))),
              FiberRef.currentScheduler,
              pauser
            )
          )
          assert.strictEqual(open.size, 2)
          pauser.armed = true
          yield* Deferred.succeed(gate, undefined)
          for (let turns = 0; turns < 4; turns++) yield* turn
          assert.deepStrictEqual([seen.length, [...open]], [1, seen], `step ${step}`)
          assert.deepStrictEqual(
            [(yield* bulkhead.snapshot).active, (yield* breaker.snapshot).inFlight],
            [1, 1],
            `step ${step}`
          )
          const reached = pauser.taken >= step
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(
            [open.size, (yield* bulkhead.snapshot).active, (yield* breaker.snapshot).inFlight],
            [0, 0, 0],
            `step ${step}`
          )
          if (!reached) {
            assert.isAbove(step, 50)
            return
          }
        }
      })
  )
})

describe("the metrics of a stream", () => {
  const durations = (policy: string) =>
    Effect.map(Metric.snapshot, (all) => {
      for (const { metricKey, metricState } of all) {
        const own = metricKey.tags.some((tag) => tag.key === "policy" && tag.value === policy)
        if (own && metricKey.name === "resilience_call_duration_seconds" && MetricState.isHistogramState(metricState)) {
          return [metricState.count, metricState.sum]
        }
      }
      return []
    })

  it.effect("count how long it flows, and nothing less than no time where the clock is set back", () =>
    Effect.gen(function* () {
      const { policy } = yield* make({ metrics: true, timeout: false }, "stream-times")
      const clock = new Manual()
      clock.set(10_000)
      const gate = yield* Deferred.make<void>()
      const source = Stream.concat(Stream.make(1), Stream.fromEffect(Deferred.await(gate)))
      const through = Effect.withClock(Stream.runDrain(policy.stream(source)), clock)
      const first = yield* fork(through)
      const second = yield* fork(through)
      clock.advance(2_500)
      yield* Fiber.interrupt(first)
      assert.deepStrictEqual(yield* durations("stream-times"), [1, 2.5])
      clock.set(0)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(second)
      assert.deepStrictEqual(yield* durations("stream-times"), [2, 2.5])
    })
  )
})

describe("a reader", () => {
  it.effect("that is interrupted with an element in its hands ends a call that was cancelled", () =>
    Effect.gen(function* () {
      const name = "stream-reader"
      const { breaker, policy } = yield* make({ metrics: true }, name)
      const fiber = yield* fork(Stream.runForEach(policy.stream(Stream.make(1, 2)), () => Effect.never))
      yield* Fiber.interrupt(fiber)
      const outcomes = Effect.map(Metric.snapshot, (all) =>
        all.flatMap(({ metricKey: { name: metric, tags } }) => {
          const labels = Object.fromEntries(tags.map(({ key, value }) => [key, value]))
          return metric === "resilience_calls_total" && labels["policy"] === name ? [labels["outcome"]] : []
        })
      )
      assert.deepStrictEqual(yield* outcomes, ["cancelled"])
      assert.deepInclude((yield* breaker.snapshot).counters, { successes: 0, failures: 0, neutral: 1 })
    })
  )
})

describe("what is told of a stream", () => {
  const observed = (policy: Policy.Policy, counted?: true) => {
    const told: Array<string> = []
    const stages = Reflect.get(policy, "stages") as streaming.Stages
    const observer: streaming.Observer = {
      onRetry: (error, delay, attempt) => told.push(`retry ${attempt} after ${delay}: ${(error as Busy)._tag}`),
      onHedge: () => told.push("hedge"),
      onBudgetRefused: () => told.push("budget"),
      onFirst: () => told.push("first"),
      onElements: (count) => told.push(`elements ${count}`),
      onBroken: (cause) => told.push(`broken: ${(Cause.squash(cause) as Busy)._tag}`),
      ...(counted === undefined ? {} : { counted })
    }
    const run = <A, E>(stream: Stream.Stream<A, E>, given: streaming.Observer = observer) =>
      streaming.run(() => ({ ...stages, idle: Number.POSITIVE_INFINITY }), stream, given)
    return { told, run }
  }

  it.effect("its first element, all elements, retries, and that it broke", () =>
    Effect.gen(function* () {
      const { policy } = yield* make({ retry: { ...steady, attempts: 2 } })
      const { run, told } = observed(policy)
      let opened = 0
      const source = Stream.suspend(() =>
        ++opened === 1
          ? Stream.fail(new Busy({}))
          : Stream.concat(
              Stream.fromChunks(Chunk.empty<number>(), Chunk.make(1, 2), Chunk.make(3)),
              Stream.fail(new Busy({}))
            )
      )
      const fiber = yield* fork(Effect.exit(Stream.runDrain(run(source))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(told, ["retry 1 after 1000: Busy", "first", "elements 2", "elements 1", "broken: Busy"])
    })
  )

  it.effect("its hedges, and what the budget refuses", () =>
    Effect.gen(function* () {
      const { policy } = yield* make({
        retry: { ...steady, attempts: 2 },
        budget: { type: "percentage", ratio: 0, minPerSecond: 0.1, ttl: "10 seconds" },
        hedge: { delay: "100 millis" }
      })
      const { run, told } = observed(policy)
      let opened = 0
      const source = Stream.suspend(() => (++opened === 1 ? Stream.never : Stream.make(1)))
      const fiber = yield* fork(Stream.runDrain(run(source)))
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(told, ["hedge", "first", "elements 1"])
      yield* Effect.exit(Stream.runDrain(run(Stream.fail(new Busy({})))))
      assert.strictEqual(told.at(-1), "budget")
    })
  )

  it.effect("an end, and an end without elements, is no break", () =>
    Effect.gen(function* () {
      const { policy } = yield* make()
      const { run, told } = observed(policy)
      yield* Stream.runDrain(run(Stream.make(1)))
      yield* Stream.runDrain(run(Stream.empty))
      assert.deepStrictEqual(told, ["first", "elements 1"])
      // Whoever asks for none of it is told nothing.
      yield* Effect.exit(Stream.runDrain(run(Stream.concat(Stream.make(1), Stream.fail(new Busy({}))), {})))
      assert.strictEqual(told.length, 2)
    })
  )

  it.effect("where it is counted elsewhere it is not counted twice", () =>
    Effect.gen(function* () {
      const { policy } = yield* make({ metrics: true }, "stream-counted")
      const calls = Effect.map(Metric.snapshot, (all) =>
        all
          .filter(({ metricKey }) => metricKey.name === "resilience_calls_total")
          .filter(({ metricKey }) => metricKey.tags.some(({ value }) => value === "stream-counted"))
          .reduce(
            (sum, { metricState }) => sum + (MetricState.isCounterState(metricState) ? Number(metricState.count) : 0),
            0
          )
      )
      yield* Stream.runDrain(observed(policy, true).run(Stream.make(1)))
      assert.strictEqual(yield* calls, 0)
      yield* Stream.runDrain(observed(policy).run(Stream.make(1)))
      assert.strictEqual(yield* calls, 1)
    })
  )
})
