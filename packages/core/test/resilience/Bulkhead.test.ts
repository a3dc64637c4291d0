import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Deadline, ErrorClass, Timeout } from "@underlay/core"
import {
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberRef,
  FiberRefs,
  Option,
  Stream,
  Supervisor,
  TestClock
} from "effect"
import type * as machine from "../../src/internal/resilience/bulkhead.ts"
import * as Timers from "../timers.ts"
import { Interrupter } from "./steps.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 10)

/** Calls that run until they are let go, in the order in which they began. */
const service = (bulkhead: Bulkhead.Bulkhead) => {
  const began: Array<string> = []
  const gates = new Map<string, Deferred.Deferred<void>>()
  const start = (name: string, options?: Bulkhead.RunOptions) =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      gates.set(name, gate)
      const work = Effect.suspend(() => {
        began.push(name)
        return Deferred.await(gate)
      })
      const fiber = yield* Effect.fork(Effect.exit(bulkhead.run(work, options)))
      yield* settle
      return fiber
    })
  const finish = (name: string) =>
    Effect.andThen(
      Effect.suspend(() => Deferred.succeed(gates.get(name) ?? assert.fail(name), undefined)),
      settle
    )
  return { began, start, finish }
}

/** What the types do not show. */
const inside = (bulkhead: Bulkhead.Bulkhead) =>
  bulkhead as Bulkhead.Bulkhead & {
    readonly machine: machine.Bulkhead<Bulkhead.BulkheadFull>
    readonly description: string
  }

const refused = (exit: Exit.Exit<unknown, unknown>): Bulkhead.BulkheadFull => {
  const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.failureOption(exit.cause)) : undefined
  return error instanceof Bulkhead.BulkheadFull ? error : assert.fail(`not refused: ${exit}`)
}

describe("Bulkhead", () => {
  it.effect("lets in as many as there are places and refuses the next at once, unless it may wait", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      yield* start("b")
      const error = refused(yield* Fiber.join(yield* start("c")))
      assert.strictEqual(error.reason, "queue-full")
      assert.strictEqual(error.message, "weather: too many calls are in flight, and no more may wait")
      yield* finish("a")
      yield* start("d")
      assert.deepStrictEqual(began, ["a", "b", "d"])
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual(seen, {
        active: 2,
        queued: 0,
        limit: 2,
        entered: 3,
        waited: 0,
        rejected: 1,
        displaced: 0,
        interrupted: 0,
        adaptive: undefined
      })
    })
  )

  it.effect("has 25 places and no queue, unless told otherwise", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather" })
      const { start } = service(bulkhead)
      for (let index = 0; index < 25; index++) yield* start(`${index}`)
      assert.strictEqual((yield* bulkhead.snapshot).active, 25)
      assert.strictEqual(refused(yield* Fiber.join(yield* start("one more"))).reason, "queue-full")
      const queued = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 1 })
      const other = service(queued)
      yield* other.start("a")
      const fiber = yield* other.start("b")
      yield* TestClock.adjust("999 millis")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 milli")
      assert.strictEqual(refused(yield* Fiber.join(fiber)).reason, "wait-too-long")
    })
  )

  it.effect("is first come, first served, and passes on what a call fails with", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 10 })
      const { began, start, finish } = service(bulkhead)
      for (const name of ["a", "b", "c", "d"]) yield* start(name)
      for (const name of ["a", "b", "c", "d"]) yield* finish(name)
      assert.deepStrictEqual(began, ["a", "b", "c", "d"])
      assert.strictEqual((yield* bulkhead.snapshot).waited, 3)
      assert.strictEqual(yield* Effect.flip(bulkhead.run(Effect.fail("no"))), "no")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(bulkhead.run(Effect.die("bug")))))
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("Effect's semaphore serves a waiter for two places last: here it is not overtaken", () =>
    Effect.gen(function* () {
      const order: Array<string> = []
      const semaphore = yield* Effect.makeSemaphore(2)
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2, maxQueue: 10, maxWait: "1 minute" })
      const { began, start, finish } = service(bulkhead)
      for (const [name, weight] of [
        ["a", 1],
        ["b", 1],
        ["heavy", 2],
        ["c", 1],
        ["d", 1]
      ] as const) {
        yield* start(name, { weight })
        const work = Effect.andThen(
          Effect.sync(() => order.push(name)),
          Effect.sleep("1 second")
        )
        yield* Effect.fork(semaphore.withPermits(weight)(work))
      }
      yield* finish("a")
      assert.deepStrictEqual(began, ["a", "b"])
      yield* finish("b")
      assert.deepStrictEqual(began, ["a", "b", "heavy"])
      yield* finish("heavy")
      assert.deepStrictEqual(began, ["a", "b", "heavy", "c", "d"])
      yield* TestClock.adjust("10 seconds")
      // What it is compared with; should this fail one day, Effect has mended it.
      assert.deepStrictEqual(order, ["a", "b", "c", "d", "heavy"])
    })
  )

  it.effect("serves the higher priority first", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 10 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      yield* start("low", { priority: "low" })
      yield* start("normal 1")
      yield* start("high 1", { priority: "high" })
      yield* start("normal 2", { priority: "normal" })
      yield* start("high 2", { priority: "high" })
      const order = ["a", "high 1", "high 2", "normal 1", "normal 2", "low"]
      for (const name of order) yield* finish(name)
      assert.deepStrictEqual(began, order)
    })
  )

  it.effect("a lower priority waits for no longer than maxWait while higher ones take every place", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "x", maxConcurrent: 1, maxQueue: 10, maxWait: "1 second" })
      const { began, finish, start } = service(bulkhead)
      yield* start("high 0", { priority: "high" })
      const low = yield* start("low", { priority: "low" })
      for (let index = 1; index <= 10; index++) {
        yield* start(`high ${index}`, { priority: "high" })
        assert.strictEqual(low.unsafePoll(), null)
        yield* TestClock.adjust("100 millis")
        yield* finish(`high ${index - 1}`)
      }
      assert.strictEqual(refused(yield* Fiber.join(low)).reason, "wait-too-long")
      assert.notInclude(began, "low")
      yield* finish("high 10")
      const { active, queued } = yield* bulkhead.snapshot
      assert.deepStrictEqual([active, queued], [0, 0])
    })
  )

  it.effect("a higher priority enters past a heavy call of a lower one that does not fit", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2, maxQueue: 10 })
      const { began, start } = service(bulkhead)
      yield* start("a")
      yield* start("heavy", { weight: 2, priority: "low" })
      yield* start("light", { priority: "low" })
      assert.deepStrictEqual(began, ["a"])
      yield* start("high", { priority: "high" })
      assert.deepStrictEqual(began, ["a", "high"])
    })
  )

  it.effect("a full queue gives the place of the youngest of the lowest priority to a higher one", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 3 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      const older = yield* start("low 1", { priority: "low" })
      const younger = yield* start("low 2", { priority: "low" })
      const normal = yield* start("normal")
      const high = yield* start("high", { priority: "high" })
      assert.strictEqual(refused(yield* Fiber.join(younger)).reason, "queue-full")
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
      yield* start("normal 2")
      assert.strictEqual(refused(yield* Fiber.join(older)).reason, "queue-full")
      // Nobody of its own priority is pushed out.
      assert.strictEqual(refused(yield* Fiber.join(yield* start("normal 3"))).reason, "queue-full")
      yield* start("high 2", { priority: "high" })
      for (const name of ["a", "high", "high 2", "normal"]) yield* finish(name)
      assert.deepStrictEqual(began, ["a", "high", "high 2", "normal"])
      assert.isNotNull(normal.unsafePoll())
      assert.isNotNull(high.unsafePoll())
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual([seen.displaced, seen.rejected, seen.queued], [3, 4, 0])
    })
  )

  it.effect("a call heavier than the limit is told so, not left to wait, and it counts for nothing", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 3, maxQueue: 5 })
      const { start } = service(bulkhead)
      const error = refused(yield* Fiber.join(yield* start("a", { weight: 4 })))
      assert.strictEqual(
        error.message,
        "weather: the call weighs 4, more than the limit of 3: lower its weight or raise the limit"
      )
      assert.strictEqual(error.reason, "weight-above-limit")
      assert.isFalse(ErrorClass.isRetryable(error))
      for (const weight of [0, -1, 1.5, Number.NaN]) {
        const exit = yield* Fiber.join(yield* start("b", { weight }))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        assert.include(
          Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "",
          `the weight is ${weight}: give a whole number of 1 or more`
        )
      }
      yield* start("c", { weight: 3 })
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual([seen.active, seen.queued], [3, 0])
    })
  )

  it.effect("the caller's deadline is not waited past, and one that has passed refuses at once", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5, maxWait: "1 minute" })
      let called = false
      const call = bulkhead.run(Effect.sync(() => (called = true)))
      yield* TestClock.setTime(1_000)
      // There is a place, but no time.
      assert.strictEqual((yield* Effect.flip(Deadline.at(call, 1_000))).reason, "wait-too-long")
      const { start, finish } = service(bulkhead)
      yield* start("a")
      assert.strictEqual((yield* Effect.flip(Deadline.at(call, 1_000))).reason, "wait-too-long")
      const fiber = yield* Effect.fork(Effect.flip(Deadline.within(call, "300 millis")))
      yield* TestClock.adjust("299 millis")
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 milli")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.message, "weather: too many calls are in flight, and no place came free in time")
      yield* finish("a")
      assert.isFalse(called)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("a place that comes free after the deadline goes to the next in the queue", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5 })
      const { machine } = inside(bulkhead)
      assert.isTrue(machine.tryEnter(0, 1))
      const late = yield* Effect.fork(Effect.exit(Deadline.at(bulkhead.run(Effect.void), 100)))
      const next = yield* Effect.fork(bulkhead.run(Effect.succeed("next")))
      yield* settle
      // The clock is past the deadline before the timer has run, as after a long step of somebody else.
      machine.leave(150, undefined)
      assert.strictEqual(refused(yield* Fiber.join(late)).reason, "wait-too-long")
      assert.strictEqual(yield* Fiber.join(next), "next")
    })
  )

  it.effect("who waits keeps their turn when the clock steps back", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(100_000)
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      yield* start("b")
      yield* TestClock.setTime(50_000)
      yield* start("c")
      for (const name of ["a", "b", "c"]) yield* finish(name)
      assert.deepStrictEqual(began, ["a", "b", "c"])
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual([seen.active, seen.queued], [0, 0])
    })
  )

  it.effect("a longer wait than JavaScript's timers know ends with the longest that they do", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5, maxWait: "60 days" })
      const { start } = service(bulkhead)
      yield* start("a")
      const fiber = yield* start("b")
      yield* TestClock.adjust(2 ** 31 - 2)
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust(1)
      assert.strictEqual(refused(yield* Fiber.join(fiber)).reason, "wait-too-long")
    })
  )

  it.effect("reload: a higher limit lets in at once, a lower one lets those in flight end", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      yield* start("b")
      yield* start("c")
      yield* start("d")
      yield* bulkhead.reload({ maxConcurrent: 3, maxQueue: 5 })
      yield* settle
      assert.deepStrictEqual(began, ["a", "b", "c"])
      assert.strictEqual(inside(bulkhead).description, "at most 3 at once, 5 wait up to 1s")
      const heavy = yield* start("heavy", { weight: 2 })
      yield* bulkhead.reload({ maxConcurrent: 1, maxQueue: 1 })
      // It could never enter now.
      assert.strictEqual(refused(yield* Fiber.join(heavy)).reason, "weight-above-limit")
      assert.deepStrictEqual([(yield* bulkhead.snapshot).active, (yield* bulkhead.snapshot).limit], [3, 1])
      assert.strictEqual(refused(yield* Fiber.join(yield* start("e"))).reason, "queue-full")
      yield* finish("a")
      yield* finish("b")
      assert.deepStrictEqual(began, ["a", "b", "c"])
      yield* finish("c")
      assert.deepStrictEqual(began, ["a", "b", "c", "d"])
    })
  )

  it.effect("reload: the longest wait is that of when the wait began", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5 })
      const { start } = service(bulkhead)
      yield* start("a")
      const before = yield* start("b")
      yield* bulkhead.reload({ maxConcurrent: 1, maxQueue: 5, maxWait: "10 millis" })
      const after = yield* start("c")
      yield* TestClock.adjust("10 millis")
      assert.deepStrictEqual([before.unsafePoll() === null, after.unsafePoll() === null], [true, false])
    })
  )

  it.effect("places that are got in the same moment as an interruption are given back, all of them", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 3, maxQueue: 5 })
      const { machine } = inside(bulkhead)
      assert.isTrue(machine.tryEnter(0, 3))
      let called = false
      const first = yield* Effect.fork(
        bulkhead.run(
          Effect.sync(() => (called = true)),
          { weight: 2 }
        )
      )
      const second = yield* Effect.fork(bulkhead.run(Effect.succeed(2), { weight: 3 }))
      yield* settle
      machine.leave(0, undefined, 3)
      assert.strictEqual(machine.active, 2)
      yield* Fiber.interrupt(first)
      assert.isFalse(called)
      assert.strictEqual(yield* Fiber.join(second), 2)
      assert.strictEqual(machine.active, 0)
    })
  )

  it.effect("cockatiel #112: after an abort in the queue those behind are served", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 3 })
      const { began, start, finish } = service(bulkhead)
      yield* start("a")
      const waiting = [yield* start("b"), yield* start("c"), yield* start("d")]
      for (const each of waiting.slice(0, 2)) yield* Fiber.interrupt(each)
      assert.strictEqual((yield* bulkhead.snapshot).queued, 1)
      // Their places in the queue are free again.
      yield* start("e")
      yield* start("f")
      for (const name of ["a", "d", "e", "f"]) yield* finish(name)
      assert.deepStrictEqual(began, ["a", "d", "e", "f"])
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual([seen.active, seen.queued, seen.interrupted], [0, 0, 2])
    })
  )

  it.effect("an interrupted heavy call at the head of the queue makes way for the light ones behind it", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2, maxQueue: 3 })
      const { began, start } = service(bulkhead)
      yield* start("a")
      const heavy = yield* start("heavy", { weight: 2 })
      yield* start("b")
      assert.deepStrictEqual(began, ["a"])
      yield* Fiber.interrupt(heavy)
      yield* settle
      assert.deepStrictEqual(began, ["a", "b"])
    })
  )

  it.effect("so does one whose wait is over", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2, maxQueue: 3 })
      const { began, start } = service(bulkhead)
      yield* start("a")
      yield* start("heavy", { weight: 2 })
      yield* TestClock.adjust("500 millis")
      yield* start("b")
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual(began, ["a", "b"])
    })
  )

  it.effect("opossum: with capacity 2 and timeouts no more than 2 are really in flight", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 2 })
      const release = yield* Deferred.make<void>()
      let inFlight = 0
      let most = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => {
          most = Math.max(most, ++inFlight)
        }),
        () => Effect.uninterruptible(Deferred.await(release)),
        () => Effect.sync(() => inFlight--)
      )
      const call = Timeout.within(bulkhead.run(work), { duration: "50 millis", service: "weather" })
      const tags: Array<string> = []
      for (let index = 0; index < 10; index++) {
        const fiber = yield* Effect.fork(Effect.flip(call))
        yield* TestClock.adjust("50 millis")
        tags.push((yield* Fiber.join(fiber))._tag)
      }
      assert.deepStrictEqual(tags, ["CallTimeout", "CallTimeout", ...Array.from({ length: 8 }, () => "BulkheadFull")])
      assert.deepStrictEqual([most, inFlight, (yield* bulkhead.snapshot).active], [2, 2, 2])
      yield* Deferred.succeed(release, undefined)
      yield* settle
      assert.deepStrictEqual([inFlight, (yield* bulkhead.snapshot).active], [0, 0])
    })
  )

  it.effect("opossum: own rejections are no failures of a healthy service", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "weather", window: { type: "consecutive", failures: 3 } })
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 1 })
      const calls = Array.from({ length: 20 }, () => Effect.exit(breaker.run(bulkhead.run(Effect.sleep("2 seconds")))))
      const fiber = yield* Effect.fork(Effect.all(calls, { concurrency: "unbounded" }))
      yield* TestClock.adjust("2 seconds")
      const exits = yield* Fiber.join(fiber)
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.strictEqual(exits.filter((exit) => Exit.isFailure(exit) && refused(exit)).length, 19)
      yield* breaker.run(Effect.ignore(bulkhead.run(Effect.void, { weight: 2 })))
      const heavy = yield* Effect.exit(breaker.run(bulkhead.run(Effect.void, { weight: 2 })))
      assert.strictEqual(refused(heavy).reason, "weight-above-limit")
      assert.strictEqual(yield* breaker.state, "closed")
      const { counters } = yield* breaker.snapshot
      assert.deepStrictEqual([counters.failures, counters.neutral], [0, 20])
    })
  )

  it.effect("a refusal says that nothing was sent, is a plain object, and stays itself under a span", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1 })
      yield* Effect.fork(bulkhead.run(Effect.never))
      yield* settle
      const exit = yield* Effect.exit(Effect.withSpan(bulkhead.run(Effect.void), "call"))
      const error = refused(exit)
      assert.strictEqual(Object.getPrototypeOf(error), Bulkhead.BulkheadFull.prototype)
      assert.isFalse(error instanceof Error)
      assert.deepStrictEqual({ ...ErrorClass.classify(error) }, { class: "transient", rejection: true, sent: false })
      assert.strictEqual(`${error}`, "BulkheadFull: weather: too many calls are in flight, and no more may wait")
    })
  )

  it.live("500 waiting calls interrupted leave 0 places, 0 timers, 0 fibers", () =>
    Effect.gen(function* () {
      const timers = yield* Timers.watch((millis) => millis === 3_600_000)
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 500, maxWait: "1 hour" })
      const supervisor = yield* Supervisor.track
      yield* Effect.gen(function* () {
        const holder = yield* Effect.fork(bulkhead.run(Effect.never))
        yield* settle
        const waiting = yield* Effect.forEach(
          Array.from({ length: 500 }, (_, index) => ranks[index % 3]),
          (priority) => Effect.fork(bulkhead.run(Effect.never, { priority }))
        )
        yield* settle
        const during = yield* bulkhead.snapshot
        assert.deepStrictEqual([during.active, during.queued], [1, 500])
        assert.deepStrictEqual([timers.made, timers.open.size], [500, 500])
        yield* Fiber.interruptAll(waiting)
        assert.deepStrictEqual([inside(bulkhead).machine.active, inside(bulkhead).machine.queued], [1, 0])
        yield* Fiber.interrupt(holder)
      }).pipe(Effect.supervised(supervisor))
      const after = yield* bulkhead.snapshot
      assert.deepStrictEqual([after.active, after.queued, after.interrupted], [0, 0, 500])
      assert.strictEqual(timers.open.size, 0)
      assert.deepStrictEqual(yield* supervisor.value, [])
      assert.strictEqual(yield* bulkhead.run(Effect.succeed("free")), "free")
    }).pipe(Effect.scoped)
  )

  it.live("no timer while nobody waits, and none is left by those who got in", () =>
    Effect.gen(function* () {
      const timers = yield* Timers.watch((millis) => millis === 7_777)
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5, maxWait: 7_777 })
      yield* bulkhead.run(Effect.yieldNow())
      assert.strictEqual(timers.made, 0)
      const { start, finish } = service(bulkhead)
      yield* start("a")
      yield* start("b")
      assert.deepStrictEqual([timers.made, timers.open.size], [1, 1])
      yield* finish("a")
      assert.deepStrictEqual([timers.made, timers.open.size], [1, 0])
      yield* finish("b")
    }).pipe(Effect.scoped)
  )

  it.live("whatever step the interruption of a waiting call comes at, nothing is lost", () =>
    Effect.gen(function* () {
      let interrupted = 0
      for (let step = 1; ; step++) {
        const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5, maxWait: "1 hour" })
        const { machine } = inside(bulkhead)
        assert.isTrue(machine.tryEnter(0, 1))
        const stepper = new Interrupter(step)
        const fiber = yield* Effect.fork(Effect.locally(bulkhead.run(Effect.void), FiberRef.currentScheduler, stepper))
        yield* settle
        const behind = yield* Effect.fork(bulkhead.run(Effect.succeed("behind")))
        yield* settle
        machine.leave(0, undefined)
        const exit = yield* Fiber.await(fiber)
        assert.strictEqual(yield* Fiber.join(behind), "behind", `step ${step}`)
        assert.deepStrictEqual([machine.active, machine.queued], [0, 0], `step ${step}`)
        if (Exit.isInterrupted(exit)) interrupted++
        else if (!stepper.reached) break
      }
      assert.isAtLeast(interrupted, 8)
    })
  )

  it.effect("a stream holds its place until it and its finalizers have ended", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 5 })
      const seen: Array<number> = []
      const active = Effect.sync(() => seen.push(inside(bulkhead).machine.active))
      const stream = Stream.ensuring(
        Stream.mapEffect(Stream.make(1, 2), (each) => Effect.as(active, each)),
        active
      )
      const piped = stream.pipe(Bulkhead.runStream(bulkhead))
      assert.strictEqual(inside(bulkhead).machine.active, 0)
      assert.strictEqual(yield* Stream.runCount(piped), 2)
      assert.deepStrictEqual(seen, [1, 1, 1])
      assert.strictEqual(inside(bulkhead).machine.active, 0)
      yield* Effect.ignore(Stream.runDrain(Bulkhead.runStream(Stream.fail("no"), bulkhead)))
      yield* Stream.runDrain(
        Stream.take(
          Bulkhead.runStream(
            Stream.iterate(0, (n) => n + 1),
            bulkhead
          ),
          3
        )
      )
      assert.strictEqual(inside(bulkhead).machine.active, 0)
      const endless = yield* Effect.fork(Stream.runDrain(bulkhead.runStream(Stream.never, { weight: 1 })))
      yield* settle
      const waiting = yield* Effect.fork(Effect.flip(Stream.runDrain(bulkhead.runStream(Stream.make(1)))))
      const left = yield* Effect.fork(Stream.runDrain(bulkhead.runStream(Stream.make(1), { priority: "high" })))
      yield* settle
      assert.strictEqual(inside(bulkhead).machine.queued, 2)
      yield* Fiber.interrupt(left)
      assert.strictEqual(inside(bulkhead).machine.queued, 1)
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(waiting)
      assert.strictEqual(error._tag, "BulkheadFull")
      yield* Fiber.interrupt(endless)
      assert.deepStrictEqual([inside(bulkhead).machine.active, inside(bulkhead).machine.queued], [0, 0])
    })
  )

  it.effect("run is a combinator too, and effects keep what they need", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather" })
      assert.strictEqual(yield* Effect.succeed(1).pipe(Bulkhead.run(bulkhead, { weight: 2 })), 1)
      assert.strictEqual(yield* Bulkhead.run(Effect.succeed(2), bulkhead), 2)
      assert.isTrue(Bulkhead.isBulkhead(bulkhead))
      assert.isFalse(Bulkhead.isBulkhead({}))
      const ref = FiberRef.unsafeMake(0)
      yield* bulkhead.run(FiberRef.set(ref, 1))
      assert.strictEqual(yield* FiberRef.get(ref), 1)
      assert.strictEqual(FiberRefs.getOrDefault(yield* Effect.getFiberRefs, ref), 1)
    })
  )

  it.effect("settings that cannot work are defects that name what to write instead", () =>
    Effect.gen(function* () {
      const said = (options: Bulkhead.Settings) =>
        Effect.map(Effect.exit(Bulkhead.fromOptions({ ...options, name: "weather" })), (exit) =>
          Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
        )
      for (const fine of [
        {},
        { maxWait: 0 },
        { maxQueue: 0 },
        { algorithm: "gradient" },
        { algorithm: "vegas", min: 50, max: 60 },
        { algorithm: "aimd", max: 5 },
        { algorithm: "gradient", smoothing: 1, tolerance: 1, min: 3, max: 3, initial: 3, minimumSamples: 1 }
      ] satisfies Array<Bulkhead.Settings>) {
        assert.strictEqual(yield* said(fine), "")
      }
      for (const [options, words] of [
        [{ maxConcurrent: 0 }, "bulkhead.maxConcurrent is 0: give a whole number of 1 or more"],
        [{ maxConcurrent: Number.NaN }, "bulkhead.maxConcurrent is NaN"],
        [{ maxQueue: -1 }, "bulkhead.maxQueue is -1: give a whole number, 0 if no call may wait"],
        [{ maxQueue: 2, maxWait: 0 }, "so none of the 2 of bulkhead.maxQueue could wait: raise it or give no maxQueue"],
        [{ maxWait: Duration.infinity }, "bulkhead.maxWait is infinite: give the longest time that a call may wait"],
        [
          { algorithm: "vegas", min: 5, max: 4 },
          "bulkhead.min (5) is more than bulkhead.max (4): lower min or raise max"
        ],
        [{ algorithm: "vegas", min: 5, initial: 4 }, "bulkhead.initial (4) is not within min (5) and max (200)"],
        [{ algorithm: "aimd", max: 10, initial: 11 }, "bulkhead.initial (11) is not within min (1) and max (10)"],
        [{ algorithm: "aimd", initial: 1.5 }, "bulkhead.initial is 1.5: give a whole number of 1 or more"],
        [{ algorithm: "aimd", min: 0 }, "bulkhead.min is 0: give a whole number"],
        [{ algorithm: "aimd", max: 1.5 }, "bulkhead.max is 1.5: give a whole number"],
        [{ algorithm: "aimd", minimumSamples: 0 }, "bulkhead.minimumSamples is 0: give a whole number"],
        [{ algorithm: "gradient", window: 0 }, "bulkhead.window is 0 ms: give a positive, finite duration"],
        [{ algorithm: "gradient", probeEvery: Duration.infinity }, "bulkhead.probeEvery is Infinity ms"],
        [{ algorithm: "gradient", smoothing: 0 }, "bulkhead.smoothing is 0: give a part above 0 and up to 1"],
        [{ algorithm: "gradient", smoothing: 1.1 }, "bulkhead.smoothing is 1.1"],
        [{ algorithm: "gradient", tolerance: 0.9 }, "bulkhead.tolerance is 0.9: give a factor of 1 or more"],
        [{ algorithm: "aimd", backoff: 1 }, "bulkhead.backoff is 1: give a factor above 0 and below 1"],
        [{ algorithm: "aimd", backoff: 0 }, "bulkhead.backoff is 0"]
      ] satisfies Array<[Bulkhead.Settings, string]>) {
        assert.include(yield* said(options), words)
      }
    })
  )

  it.effect("they are defects of make and of reload, which then changes nothing", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Bulkhead.make({ name: "weather", maxConcurrent: 0, maxQueue: -1 }))
      assert.include(
        Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "",
        'Bulkhead "weather": bulkhead.maxConcurrent is 0: give a whole number of 1 or more; bulkhead.maxQueue is -1'
      )
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 3 })
      const reloaded = yield* Effect.exit(bulkhead.reload({ maxConcurrent: 0 }))
      assert.isTrue(Exit.isFailure(reloaded) && Cause.isDie(reloaded.cause))
      assert.strictEqual((yield* bulkhead.snapshot).limit, 3)
      assert.strictEqual(inside(bulkhead).description, "at most 3 at once")
    })
  )
})

const ranks = ["high", "normal", "low"] as const
