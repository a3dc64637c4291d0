/**
 * The settings of a hedging at their bounds, and races in which attempts end, begin or begin again at odd moments.
 */
import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, Hedge, Policy } from "@underlay/core"
import { Cause, Clock, Data, Deferred, Duration, Effect, Fiber, TestClock } from "effect"
import type { HedgeDelay } from "../../src/internal/resilience/hedgeDelay.ts"
import { Manual } from "./manual.ts"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.orDie(Policy.make({ name: "x", retry: false, hedge: { delay: "100 millis" }, ...options }))

/** A call that does the n-th of what it is given, and writes down when it was made. */
const scripted = <A, E>(steps: ReadonlyArray<Effect.Effect<A, E>>) => {
  const at: Array<number> = []
  const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const step = steps[Math.min(at.length, steps.length - 1)] ?? Effect.die("no step")
    at.push(now)
    return step
  })
  return { at, call }
}

describe("the settings of a hedging", () => {
  const delay = { percentile: 0.95, initial: 100 }
  const wrong = (options: Hedge.Options) =>
    Effect.map(Effect.exit(Hedge.make(options)), (exit) =>
      exit._tag === "Failure" ? (Cause.pretty(exit.cause).split("\n")[0] ?? "").replace(/^\w+: /, "") : "fine"
    )

  it.effect("are taken up to their bounds", () =>
    Effect.gen(function* () {
      for (const options of [
        { delay: 0 },
        { delay: 10, maxHedges: 1 },
        { delay: 10, maxHedges: 10 },
        { delay: { ...delay, min: 100, max: 100 } },
        { delay: { ...delay, min: 100 } },
        { delay: { ...delay, max: 100 } },
        { delay: { ...delay, minimumSamples: 1 } },
        { delay: { ...delay, initial: 1 } }
      ]) {
        assert.strictEqual(yield* wrong(options), "fine", JSON.stringify(options))
      }
    })
  )

  it.effect("are refused beyond them, each with one reason", () =>
    Effect.gen(function* () {
      for (const [options, start] of [
        [{ delay: 10, maxHedges: 0 }, "hedge.maxHedges is 0"],
        [{ delay: 10, maxHedges: 11 }, "hedge.maxHedges is 11"],
        [{ delay: -1 }, "hedge.delay is -1 ms"],
        [{ delay: Duration.infinity }, "hedge.delay is infinite"],
        [{ delay: { ...delay, percentile: 0 } }, "hedge.delay.percentile is 0"],
        [{ delay: { ...delay, percentile: 1 } }, "hedge.delay.percentile is 1"],
        [{ delay: { ...delay, initial: Duration.infinity } }, "hedge.delay.initial is Infinity ms"],
        [{ delay: { ...delay, initial: 99, min: 100 } }, "hedge.delay.initial (99 ms) is not between its min and max"],
        [
          { delay: { ...delay, initial: 101, max: 100 } },
          "hedge.delay.initial (101 ms) is not between its min and max"
        ],
        [{ delay: { ...delay, min: 0 } }, "hedge.delay.min is not positive"],
        [{ delay: { ...delay, min: 300, max: 200 } }, "hedge.delay.min (300 ms) is more than its max (200 ms)"],
        [{ delay: { ...delay, minimumSamples: 0.9 } }, "hedge.delay.minimumSamples is 0.9"],
        [{ delay: { ...delay, minimumSamples: Number.POSITIVE_INFINITY } }, "hedge.delay.minimumSamples is Infinity"],
        [{ delay: { ...delay, halfLife: 0 } }, "hedge.delay.halfLife is 0 ms"],
        [{ delay: { ...delay, halfLife: Duration.infinity } }, "hedge.delay.halfLife is Infinity ms"]
      ] as const) {
        const found = yield* wrong(options)
        assert.isTrue(found.startsWith(`Hedge: ${start}`), `${JSON.stringify(options)}: ${found}`)
        assert.notInclude(found, ";")
      }
      // Which is not above 0, nor, then, between min and max.
      assert.strictEqual((yield* wrong({ delay: { ...delay, initial: 0 } })).split(";").length, 2)
    })
  )

  it.effect("are told in words, as they are in force", () =>
    Effect.gen(function* () {
      const words = (options: Hedge.Options) =>
        Effect.map(make({ hedge: options, breaker: false }), (policy) =>
          policy.description
            .split("\n")
            .find((line) => line.trim().startsWith("hedge"))
            ?.replace(/^ *hedge */, "")
        )
      assert.strictEqual(yield* words({ delay: 0 }), "up to 1 more attempt, all at once")
      assert.strictEqual(yield* words({ delay: 50, maxHedges: 2 }), "up to 2 more attempts, each after 50ms")
      assert.strictEqual(
        yield* words({ delay }),
        "up to 1 more attempt, each after the 95th percentile of recent latencies (at first 100ms, at least 1ms)"
      )
      assert.strictEqual(
        yield* words({ delay: { ...delay, percentile: 0.999, max: 200 } }),
        "up to 1 more attempt, each after the 99.9th percentile of recent latencies (at first 100ms, at least 1ms, at most 200ms)"
      )
    })
  )

  it.effect("want so many latencies that the percentile means something, and no fewer than 10", () =>
    Effect.gen(function* () {
      for (const [percentile, needed] of [
        [0.01, 10],
        [0.5, 10],
        [0.95, 20],
        [0.99, 100]
      ] as const) {
        const hedge = yield* Hedge.make({ delay: { percentile, initial: 300 } })
        const { machine } = hedge as unknown as { readonly machine: HedgeDelay }
        for (let index = 1; index < needed; index++) machine.record(0, 10)
        assert.strictEqual(machine.delay(0), 300)
        machine.record(0, 10)
        assert.isBelow(machine.delay(0), 11)
      }
    })
  )

  it.effect("nothing else is taken for a hedging", () =>
    Effect.sync(() => {
      for (const other of [null, undefined, "hedge", { delay: 1 }]) assert.isFalse(Hedge.isHedge(other))
    })
  )
})

describe("a race", () => {
  it.effect("without a delay asks for no timer: all attempts start in the same moment", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      const policy = yield* make({ hedge: { delay: 0, maxHedges: 3 }, timeout: false })
      const { at, call } = scripted([Effect.never])
      const fiber = yield* Effect.fork(Effect.withClock(policy.run(call), clock))
      yield* turn
      assert.deepStrictEqual([at, clock.sleepers.size], [[0, 0, 0, 0], 0])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("is won by the attempt that ended first, though another ends before the caller hears of it", () =>
    Effect.gen(function* () {
      const policy = yield* make({ timeout: false })
      const gate = yield* Deferred.make<void>()
      const giving = (value: string) => Effect.uninterruptible(Effect.as(Deferred.await(gate), value))
      const { call } = scripted([giving("first"), giving("second")])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("100 millis")
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(yield* Fiber.join(fiber), "first")
    })
  )

  /** A stage of one's own that makes an attempt again at once where it fails, and holds back the n-th. */
  const again = (held: ReadonlyArray<number> = []) => {
    let attempts = 0
    return Policy.stage({
      name: "again",
      wrap: (effect) =>
        Effect.suspend(() => {
          const twice = Effect.retry(effect, { times: 1 })
          return held.includes(++attempts) ? Effect.delay(twice, "1 second") : twice
        })
    })
  }
  const failing = Effect.delay(Effect.fail(new Busy()), "50 millis")

  it.effect("has no more attempts than allowed, where a stage makes one of them again", () =>
    Effect.gen(function* () {
      const policy = yield* make({ stages: [again()] })
      const { at, call } = scripted([failing, Effect.never])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("1 second")
      // The first attempt twice, and one hedge.
      assert.deepStrictEqual(at, [0, 50, 100])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("gives each attempt its whole delay, where a stage makes one of them again", () =>
    Effect.gen(function* () {
      const policy = yield* make({ stages: [again()], hedge: { delay: "100 millis", maxHedges: 2 } })
      const { at, call } = scripted([failing, Effect.never])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(at, [0, 50, 100, 200])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("does not take an older attempt that is made again for the youngest, which waits", () =>
    Effect.gen(function* () {
      const policy = yield* make({ stages: [again([2])], hedge: { delay: "100 millis", maxHedges: 2 } })
      const { at, call } = scripted([Effect.delay(Effect.fail(new Busy()), "150 millis"), Effect.never])
      const fiber = yield* Effect.fork(policy.run(call))
      yield* TestClock.adjust("2 seconds")
      // The hedge is held back from 100 to 1,100 milliseconds, and is slow 100 after that.
      assert.deepStrictEqual(at, [0, 150, 1_100, 1_200])
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("leaves no timer behind, where a stage makes an attempt again", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      const bulkhead = yield* Bulkhead.make({ name: "x", maxConcurrent: 10 })
      const policy = yield* make({ stages: [again()], timeout: false, bulkhead })
      let calls = 0
      const call = Effect.suspend(() => Effect.zipRight(turn, ++calls === 1 ? Effect.fail(new Busy()) : turn))
      const fiber = yield* Effect.fork(Effect.withClock(policy.run(call), clock))
      yield* Fiber.join(fiber)
      yield* turn
      assert.deepStrictEqual([calls, clock.sleepers.size], [2, 0])
    })
  )
})
