import { assert, describe, it } from "@effect/vitest"
import { Timeout } from "@underlay/core"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, FiberRef, TestClock } from "effect"
import * as Timers from "../timers.ts"

const limited = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Timeout.within(effect, { duration: "50 millis", service: "weather" })

describe("Timeout", () => {
  it.effect("lets pass what ends in time, and waits for nothing else", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* limited(Effect.succeed(1)), 1)
      assert.strictEqual(yield* Effect.flip(limited(Effect.fail("no"))), "no")
      const fiber = yield* Effect.fork(limited(Effect.as(Effect.sleep("49 millis"), 2)))
      yield* TestClock.adjust("49 millis")
      assert.strictEqual(yield* Fiber.join(fiber), 2)
    })
  )

  it.effect("fails with what ran out, and interrupts the work", () =>
    Effect.gen(function* () {
      let interrupted = false
      const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (interrupted = true)))
      const fiber = yield* Effect.fork(Effect.flip(limited(work)))
      yield* TestClock.adjust("50 millis")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.message, "weather: the call took longer than 50 ms")
      assert.isTrue(interrupted)
      assert.strictEqual((yield* Timeout.orphans).current, 0)
    })
  )

  it.effect("returns on time over uninterruptible work, which is an orphan until it ends", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const before = yield* Timeout.orphans
      const fiber = yield* Effect.fork(Effect.exit(limited(Effect.uninterruptible(Deferred.await(gate)))))
      yield* TestClock.adjust("50 millis")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.strictEqual(yield* Clock.currentTimeMillis, 50)
      const during = yield* Timeout.orphans
      assert.deepStrictEqual([during.current - before.current, during.total - before.total], [1, 1])
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.yieldNow()
      yield* TestClock.adjust("1 milli")
      const after = yield* Timeout.orphans
      assert.deepStrictEqual([after.current - before.current, after.total - before.total], [0, 1])
    })
  )

  it.effect("works where the caller cannot be interrupted, as in a finalizer", () =>
    Effect.gen(function* () {
      let interrupted = false
      const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (interrupted = true)))
      const fiber = yield* Effect.fork(Effect.uninterruptible(Effect.exit(limited(work))))
      yield* TestClock.adjust("50 millis")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      assert.isTrue(interrupted)
    })
  )

  it.effect("an interruption from outside reaches the work and waits for its finalizers", () =>
    Effect.gen(function* () {
      const closing = yield* Deferred.make<void>()
      let closed = false
      const work = Effect.onInterrupt(Effect.never, () =>
        Effect.andThen(Deferred.await(closing), () => {
          closed = true
        })
      )
      const fiber = yield* Effect.fork(limited(work))
      yield* TestClock.adjust("10 millis")
      const interruption = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("10 millis")
      assert.isNull(interruption.unsafePoll())
      yield* Deferred.succeed(closing, undefined)
      const exit = yield* Fiber.join(interruption)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
      assert.isTrue(closed)
    })
  )

  it.effect("the work sees the caller's fiber references, and the caller what the work set", () =>
    Effect.gen(function* () {
      const ref = FiberRef.unsafeMake("none")
      yield* FiberRef.set(ref, "outer")
      const seen = yield* limited(
        Effect.gen(function* () {
          yield* Effect.yieldNow()
          const before = yield* FiberRef.get(ref)
          yield* FiberRef.set(ref, "inner")
          return before
        })
      )
      assert.deepStrictEqual([seen, yield* FiberRef.get(ref)], ["outer", "inner"])
    })
  )

  it.live("by the real clock: a call that ends in time leaves no timer that would hold the process", () =>
    Effect.gen(function* () {
      const timers = yield* Timers.watch((millis) => millis === 3_600_000)
      const hour = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        Timeout.within(effect, { duration: "1 hour", service: "weather" })
      yield* Effect.all(
        Array.from({ length: 20 }, () => hour(Effect.promise(() => new Promise((resolve) => setImmediate(resolve))))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual([timers.made, timers.open.size], [20, 0])
      const stuck = yield* Effect.fork(hour(Effect.never))
      yield* Effect.yieldNow()
      assert.deepStrictEqual([timers.made, timers.open.size], [21, 1])
      yield* Fiber.interrupt(stuck)
      assert.strictEqual(timers.open.size, 0)
    }).pipe(Effect.scoped)
  )

  it.live("by the real clock: 50 ms over work of half a second", () =>
    Effect.gen(function* () {
      // the quickest of several: what a busy machine adds is not ours
      const all: Array<number> = []
      while (all.length < 10 && !(Math.min(...all) < 400)) {
        const started = yield* Clock.currentTimeMillis
        const exit = yield* Effect.exit(limited(Effect.uninterruptible(Effect.sleep("500 millis"))))
        const took = (yield* Clock.currentTimeMillis) - started
        assert.isTrue(Exit.isFailure(exit))
        assert.isAtLeast(took, 45)
        all.push(took)
      }
      assert.isBelow(Math.min(...all), 400)
    })
  )
})
