/**
 * The bulkhead to the last step: what is counted, what happens in the same moment, and what tells load from failure.
 */
import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, Deadline, ErrorClass } from "@underlay/core"
import {
  Cause,
  Chunk,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberId,
  FiberRef,
  Stream,
  TestClock
} from "effect"
import { schedule } from "../../src/internal/resilience/timer.ts"
import { Intruder } from "./steps.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 20)

/** What a call that ends so says of the load. */
const outcome = (bulkhead: Bulkhead.Bulkhead, error: unknown): unknown =>
  (bulkhead as Bulkhead.Bulkhead & { readonly outcome: (cause: Cause.Cause<unknown>) => unknown }).outcome(
    Cause.fail(error)
  )

const description = (bulkhead: Bulkhead.Bulkhead): unknown => Reflect.get(bulkhead, "description")

describe("what is counted", () => {
  it.effect("each call that got in is one, however it did", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 2, maxQueue: 5, maxWait: "1 minute" })
      const gate = yield* Deferred.make<void>()
      const held = Effect.fork(bulkhead.run(Deferred.await(gate)))
      // At once; then one that waits; then one of a higher priority that passes the heavy one.
      const first = yield* held
      yield* settle
      const heavy = yield* Effect.fork(bulkhead.run(Deferred.await(gate), { weight: 2, priority: "low" }))
      yield* settle
      yield* bulkhead.run(Effect.void, { priority: "high" })
      assert.deepInclude(yield* bulkhead.snapshot, { entered: 2, waited: 1, queued: 1, active: 1 })
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(heavy)
      assert.deepInclude(yield* bulkhead.snapshot, { entered: 3, waited: 1, rejected: 0, queued: 0, active: 0 })
    })
  )

  it.effect("who is refused and interrupted in the same moment gives no place back", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 2, maxQueue: 5, maxWait: "1 minute" })
      const running = yield* Effect.fork(bulkhead.run(Effect.never))
      yield* settle
      const waiting = yield* Effect.fork(bulkhead.run(Effect.void, { weight: 2 }))
      yield* settle
      yield* bulkhead.reload({ maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
      waiting.unsafeInterruptAsFork(FiberId.none)
      yield* Fiber.await(waiting)
      assert.deepInclude(yield* bulkhead.snapshot, { active: 1, queued: 0 })
      yield* Fiber.interrupt(running)
      assert.deepInclude(yield* bulkhead.snapshot, { active: 0, queued: 0 })
    })
  )

  it.effect("a place that comes free in the moment in which the wait ends is held once, or not at all", () =>
    Effect.gen(function* () {
      for (const late of [false, true]) {
        const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 second" })
        const gate = yield* Deferred.make<void>()
        const holder = bulkhead.run(Effect.andThen(Deferred.await(gate), late ? Effect.void : Effect.sleep("1 second")))
        const running = yield* Effect.fork(holder)
        yield* settle
        if (!late) yield* Deferred.succeed(gate, undefined)
        yield* settle
        const waiting = yield* Effect.fork(Effect.exit(bulkhead.run(Effect.void)))
        yield* settle
        if (late) yield* Effect.fork(Effect.andThen(Effect.sleep("1 second"), Deferred.succeed(gate, undefined)))
        yield* settle
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(running)
        const exit = yield* Fiber.join(waiting)
        const seen = yield* bulkhead.snapshot
        assert.deepInclude(seen, { active: 0, queued: 0 })
        assert.strictEqual(seen.entered + seen.rejected, 2)
        assert.strictEqual(seen.rejected, Exit.isFailure(exit) ? 1 : 0)
        // It works as before.
        yield* bulkhead.run(Effect.void)
      }
    })
  )

  it.effect("a place that comes free at whatever step of one who begins to wait is theirs", () =>
    Effect.gen(function* () {
      let steps = 0
      for (let reached = true; reached; steps++) {
        const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
        yield* Effect.fork(bulkhead.run(Effect.never))
        yield* settle
        const runtime = yield* Effect.runtime()
        const more = bulkhead.reload({ maxConcurrent: 2, maxQueue: 5, maxWait: "1 minute" })
        const scheduler = new Intruder(steps, runtime, more)
        const call = bulkhead.run(Effect.succeed("ran"))
        const waiting = yield* Effect.fork(Effect.locally(call, FiberRef.currentScheduler, scheduler))
        yield* settle
        yield* more
        yield* settle
        reached = scheduler.reached
        assert.deepStrictEqual(waiting.unsafePoll(), Exit.succeed("ran"), `after ${steps} steps`)
        assert.deepInclude(yield* bulkhead.snapshot, { active: 1, queued: 0, entered: 2, rejected: 0 })
      }
      assert.isAbove(steps, 10)
    })
  )

  it.effect("a timer that cannot be taken back and comes too late does nothing", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      const stubborn: Clock.Clock = {
        ...clock,
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        currentTimeMillis: clock.currentTimeMillis,
        currentTimeNanos: clock.currentTimeNanos,
        unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        sleep: (duration) => Effect.uninterruptible(clock.sleep(duration))
      }
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 second" })
      const gate = yield* Deferred.make<void>()
      yield* Effect.fork(bulkhead.run(Deferred.await(gate)))
      yield* settle
      const waiting = yield* Effect.fork(bulkhead.run(Effect.sleep("1 minute")).pipe(Effect.withClock(stubborn)))
      yield* settle
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      yield* TestClock.adjust("10 seconds")
      assert.deepInclude(yield* bulkhead.snapshot, { active: 1, queued: 0, rejected: 0 })
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(waiting)
      assert.deepInclude(yield* bulkhead.snapshot, { active: 0, queued: 0, rejected: 0 })
    })
  )

  it.effect("a place that comes free at the very deadline of one who waits is of no use to them", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
      // The timer that was set last rings first.
      const gate = yield* Deferred.make<void>()
      const running = yield* Effect.fork(bulkhead.run(Effect.andThen(Deferred.await(gate), Effect.sleep("1 second"))))
      yield* settle
      let ran = false
      const call = bulkhead.run(
        Effect.sync(() => {
          ran = true
        })
      )
      const waiting = yield* Effect.fork(Effect.flip(Deadline.within(call, "1 second")))
      yield* settle
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(running)
      const error = yield* Fiber.join(waiting)
      assert.strictEqual(error.reason, "wait-too-long")
      assert.isFalse(ran)
    })
  )

  it.effect(
    "where nobody may wait any more those who do keep their place, and a higher priority does not take it",
    () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
        const gate = yield* Deferred.make<void>()
        yield* Effect.fork(bulkhead.run(Deferred.await(gate)))
        yield* settle
        const waiting = yield* Effect.fork(bulkhead.run(Effect.succeed("served"), { priority: "low" }))
        yield* settle
        yield* bulkhead.reload({ maxConcurrent: 1, maxQueue: 0, maxWait: 0 })
        const error = yield* Effect.flip(bulkhead.run(Effect.void, { priority: "high" }))
        assert.strictEqual(error.reason, "queue-full")
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(waiting), "served")
        assert.deepInclude(yield* bulkhead.snapshot, { displaced: 0, rejected: 1 })
      })
  )
})

describe("streams", () => {
  it.effect("wait by their priority, which is normal unless it is told", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
      const began: Array<string> = []
      const gate = yield* Deferred.make<void>()
      const running = yield* Effect.fork(bulkhead.run(Deferred.await(gate)))
      yield* settle
      const stream = (name: string, options?: Bulkhead.RunOptions) =>
        Effect.fork(
          Stream.runDrain(bulkhead.runStream(Stream.fromEffect(Effect.sync(() => began.push(name))), options))
        )
      const fibers: Array<Fiber.RuntimeFiber<unknown, unknown>> = []
      for (const [name, options] of [
        ["low", { priority: "low" }],
        ["untold", undefined],
        ["normal", { priority: "normal" }],
        ["high", { priority: "high" }]
      ] as const) {
        fibers.push(yield* stream(name, options))
        yield* settle
      }
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(running)
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(began, ["high", "untold", "normal", "low"])
    })
  )
})

describe("an adaptive bulkhead", () => {
  const make = (options: Omit<Bulkhead.AdaptiveOptions, "name" | "algorithm">) =>
    Bulkhead.adaptive({ name: "b", algorithm: "vegas", ...options })

  it.effect("begins with 20, or with what is next to it within its bounds", () =>
    Effect.gen(function* () {
      const limits = yield* Effect.forEach(
        [{}, { min: 30 }, { max: 5 }, { min: 2, max: 50 }, { initial: 7 }],
        (options) => Effect.flatMap(make(options), (bulkhead) => Effect.map(bulkhead.snapshot, (seen) => seen.limit))
      )
      assert.deepStrictEqual(limits, [20, 30, 5, 20, 7])
    })
  )

  it.effect("refuses an algorithm that there is none of, and describes the one it has", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Bulkhead.adaptive({ name: "b", algorithm: "magic" as never }))
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "bulkhead.algorithm is magic")
      assert.strictEqual(
        description(yield* make({ min: 2, max: 50, initial: 10 })),
        "2 to 50 at once, found by vegas from 10"
      )
      assert.strictEqual(description(yield* Bulkhead.make({ name: "b", maxConcurrent: 3 })), "at most 3 at once")
    })
  )

  it.effect("takes for load what is a timeout or says so, and nothing else, whatever errors are", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({})
      const drops = [
        { _tag: "CallTimeout" },
        { _tag: "TimeoutException" },
        { name: "TimeoutError" },
        { status: 429 },
        { status: 503 },
        { statusCode: 503 },
        { isRetryable: true, response: { status: 503 } }
      ]
      for (const error of drops) assert.strictEqual(outcome(bulkhead, error), "dropped", JSON.stringify(error))
      const others = [
        new TypeError("x"),
        { name: "AbortError" },
        { status: 500 },
        { response: undefined },
        "text",
        null,
        5
      ]
      for (const error of others) assert.notStrictEqual(outcome(bulkhead, error), "dropped", String(error))
      const refusal = { errorClass: "rate-limited", rejection: true }
      assert.isUndefined(outcome(bulkhead, refusal))
      assert.isUndefined(outcome(bulkhead, { errorClass: "cancelled" }))
    })
  )

  it.effect("goes by the classification that a reload brings, and by the usual one where it brings none", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({})
      const classify = (): ErrorClass.Classification => ({ class: "rate-limited" })
      yield* bulkhead.reload({ algorithm: "vegas", classify })
      assert.strictEqual(outcome(bulkhead, "text"), "dropped")
      yield* bulkhead.reload({ algorithm: "vegas" })
      assert.notStrictEqual(outcome(bulkhead, "text"), "dropped")
    })
  )

  it.effect("knows defects and failures for ends that say nothing of latency, and interruptions for none", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({})
      const outcomeOf = (cause: Cause.Cause<unknown>): unknown =>
        (Reflect.get(bulkhead, "outcome") as (cause: Cause.Cause<unknown>) => unknown).call(bulkhead, cause)
      assert.strictEqual(outcomeOf(Cause.die("bug")), "failure")
      assert.isUndefined(outcomeOf(Cause.interrupt(FiberId.none)))
      for (const error of [{ status: 500 }, { status: 404 }, "text", null]) {
        assert.strictEqual(outcomeOf(Cause.fail(error)), "failure")
      }
      const circle: { response?: unknown } = {}
      circle.response = circle
      assert.strictEqual(outcomeOf(Cause.fail(circle)), "failure")
    })
  )

  it.effect("a setting that is wrong is named, and not what was only derived from it", () =>
    Effect.gen(function* () {
      for (const wrong of [{ min: Number.NaN }, { max: 1.5 }]) {
        const exit = yield* Effect.exit(make(wrong))
        const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
        assert.include(text, `bulkhead.${Object.keys(wrong).join()} is ${Object.values(wrong).join()}`)
        assert.notInclude(text, "bulkhead.initial")
      }
    })
  )

  it.effect("is not moved by calls that were cancelled, nor by streams that fail in another way than by load", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({ minimumSamples: 1, window: "1 second" })
      const latency = Effect.map(bulkhead.snapshot, (seen) => seen.adaptive?.latency)
      const served = Effect.fork(bulkhead.run(Effect.sleep("100 millis")))
      yield* Effect.andThen(served, TestClock.adjust("100 millis"))
      yield* Effect.andThen(served, TestClock.adjust("100 millis"))
      const cancelled = yield* Effect.fork(bulkhead.run(Effect.never))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.interrupt(cancelled)
      assert.deepStrictEqual(yield* latency, Duration.zero)
      yield* Effect.exit(Stream.runDrain(bulkhead.runStream(Stream.fail("down"))))
      assert.deepStrictEqual(yield* latency, Duration.zero)
      // The next call that is served ends the window.
      yield* Effect.andThen(served, TestClock.adjust("100 millis"))
      assert.deepStrictEqual(yield* latency, Duration.millis(100))
    })
  )

  it.effect("learns of a stream by how long its first element took, however long it flows", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({ minimumSamples: 1, window: "1 second" })
      const nothing = Stream.filter(Stream.make(0), () => false)
      const ticks = Stream.repeatEffect(Effect.as(Effect.sleep("50 millis"), 1))
      const read = Stream.runCollect(bulkhead.runStream(Stream.concat(nothing, Stream.take(ticks, 100))))
      const fiber = yield* Effect.fork(read)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(Chunk.size(yield* Fiber.join(fiber)), 100)
      // The window that its answer began ends with one that took as long.
      const after = yield* Effect.fork(bulkhead.run(Effect.sleep("50 millis")))
      yield* TestClock.adjust("50 millis")
      yield* Fiber.join(after)
      assert.deepStrictEqual((yield* bulkhead.snapshot).adaptive?.latency, Duration.millis(50))
    })
  )

  it.effect("may become fixed before a stream has answered and while calls are made", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({})
      const stream = yield* Effect.fork(
        Stream.runCollect(bulkhead.runStream(Stream.fromEffect(Effect.as(Effect.sleep("1 second"), 1))))
      )
      const call = yield* Effect.fork(bulkhead.run(Effect.as(Effect.sleep("1 second"), 2)))
      yield* settle
      yield* bulkhead.reload({ maxConcurrent: 3 })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([...(yield* Fiber.join(stream))], [1])
      assert.strictEqual(yield* Fiber.join(call), 2)
      assert.deepInclude(yield* bulkhead.snapshot, { active: 0, limit: 3, adaptive: undefined })
    })
  )

  it.effect("calls that fail with no object end as any", () =>
    Effect.gen(function* () {
      const bulkhead = yield* make({})
      for (const error of [null, undefined, "text"]) {
        assert.strictEqual(yield* Effect.flip(bulkhead.run(Effect.fail(error))), error)
      }
      assert.deepInclude(yield* bulkhead.snapshot, { active: 0, limit: 20 })
    })
  )
})

describe("what it is known by", () => {
  it("a refusal says whether it can be another time", () => {
    const full = (reason: Bulkhead.Reason) => new Bulkhead.BulkheadFull({ service: "b", reason, weight: 3 })
    for (const reason of ["queue-full", "wait-too-long"] as const) {
      assert.isTrue(full(reason).isRetryable)
      assert.isTrue(ErrorClass.classify(full(reason)).class === "transient")
    }
    assert.isFalse(full("weight-above-limit").isRetryable)
    assert.include(full("weight-above-limit").message, "more than the limit: lower")
  })

  it.effect("isBulkhead: bulkheads, and nothing else", () =>
    Effect.gen(function* () {
      assert.isTrue(Bulkhead.isBulkhead(yield* Bulkhead.make({ name: "b" })))
      for (const other of [undefined, null, "bulkhead", 1, {}]) assert.isFalse(Bulkhead.isBulkhead(other))
    })
  )
})

describe("timers", () => {
  it.live("a time that no timer knows never comes, instead of at once", () =>
    Effect.withFiberRuntime<void>((fiber) => {
      let rang = false
      const ring = () => {
        rang = true
      }
      const cancels = [2 ** 31, 2 ** 40, Number.POSITIVE_INFINITY].map((millis) => schedule(fiber, millis, ring))
      return Effect.map(Effect.sleep("5 millis"), () => {
        for (const cancel of cancels) cancel()
        assert.isFalse(rang)
      })
    })
  )
})
