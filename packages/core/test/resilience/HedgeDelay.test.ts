import { assert, describe, it } from "@effect/vitest"
import { Hedge } from "@underlay/core"
import { Cause, Duration, Effect, FastCheck, TestClock } from "effect"
import type { HedgeDelay } from "../../src/internal/resilience/hedgeDelay.ts"
import { LatencyQuantile, relativeError } from "../../src/internal/resilience/latencyQuantile.ts"

/** The smallest value that at least this part of the weight is at or below. */
const exact = (part: number, samples: ReadonlyArray<{ readonly millis: number; readonly weight: number }>): number => {
  const sorted = [...samples].sort((left, right) => left.millis - right.millis)
  const total = sorted.reduce((sum, each) => sum + each.weight, 0)
  let below = 0
  for (const each of sorted) {
    below += each.weight
    if (below >= part * total) return each.millis
  }
  return Number.NaN
}

const within = (estimate: number | undefined, expected: number): void => {
  assert.isDefined(estimate)
  assert.isAtMost(Math.abs((estimate ?? 0) - expected) / expected, relativeError * 1.000001)
}

/** With what a policy sees of it. */
const make = (options: Hedge.Options) =>
  Effect.map(
    Hedge.make(options),
    (hedge) => hedge as Hedge.Hedge & { readonly machine: HedgeDelay; readonly description: string }
  )

const percentile: Hedge.PercentileDelay = { percentile: 0.9, initial: 300, minimumSamples: 10, halfLife: 1000 }
const milliseconds = FastCheck.double({ min: 1, max: 3_000_000, noNaN: true })
const parts = FastCheck.constantFrom(0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999)

describe("LatencyQuantile", () => {
  it("is within 2 % of the exact quantile, whatever the latencies are and in whatever order they come", () => {
    FastCheck.assert(
      FastCheck.property(parts, FastCheck.array(milliseconds, { minLength: 1, maxLength: 400 }), (part, latencies) => {
        const quantile = new LatencyQuantile(part, 60_000)
        const samples: Array<{ millis: number; weight: number }> = []
        for (const millis of latencies) {
          quantile.record(1_000_000, millis)
          samples.push({ millis, weight: 1 })
          within(quantile.estimate(), exact(part, samples))
        }
        assert.strictEqual(quantile.samples(1_000_000), latencies.length)
      })
    )
  })

  it("weighs a latency half as much after each half-life, over days of it", () => {
    const steps = FastCheck.record({ after: FastCheck.integer({ min: 0, max: 5_000 }), millis: milliseconds })
    FastCheck.assert(
      FastCheck.property(parts, FastCheck.array(steps, { minLength: 1, maxLength: 200 }), (part, records) => {
        const quantile = new LatencyQuantile(part, 1_000)
        let now = 1_700_000_000_000
        const all: Array<{ at: number; millis: number }> = []
        for (const { after, millis } of records) {
          now += after
          quantile.record(now, millis)
          all.push({ at: now, millis })
        }
        const weighted = all.map(({ at, millis }) => ({ millis, weight: 2 ** ((at - now) / 1_000) }))
        const total = weighted.reduce((sum, each) => sum + each.weight, 0)
        assert.isAtMost(Math.abs(quantile.samples(now) - total), total * 1e-6)
        // Sums of fractions are not exact: on a border between two values either is right.
        const estimate = quantile.estimate() ?? Number.NaN
        const bounds = [part - 1e-5, part + 1e-5].map((each) => exact(Math.min(1, Math.max(0, each)), weighted))
        assert.isAtLeast(estimate, (bounds[0] ?? Number.NaN) * (1 - relativeError * 1.000001))
        assert.isAtMost(estimate, (bounds[1] ?? Number.NaN) * (1 + relativeError * 1.000001))
      })
    )
  })

  it("a clock that steps back neither forgets nor holds on to what it knew", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.integer({ min: 1, max: 10 ** 9 }), (back) => {
        const quantile = new LatencyQuantile(0.5, 1_000)
        const start = 10 ** 12
        for (let index = 0; index < 100; index++) quantile.record(start, 100)
        assert.strictEqual(Math.round(quantile.samples(start - back)), 100)
        for (let index = 0; index < 101; index++) quantile.record(start - back, 400)
        within(quantile.estimate(), 400)
        // one half-life later by the new time half is left
        assert.strictEqual(Math.round(quantile.samples(start - back + 1_000)), 101)
      })
    )
  })

  it("a long rest or a clock that steps far ahead leaves nothing", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    for (let index = 0; index < 1_000; index++) quantile.record(0, 5_000)
    assert.isBelow(quantile.samples(10 ** 12), 1e-9)
    quantile.record(10 ** 12, 20)
    assert.strictEqual(quantile.samples(10 ** 12), 1)
    within(quantile.estimate(), 20)
  })

  it("another percentile or half-life of the same latencies", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    for (let millis = 1; millis <= 100; millis++) quantile.record(0, millis)
    within(quantile.estimate(), 50)
    quantile.reload(0.99, 10)
    within(quantile.estimate(), 99)
    quantile.reload(0.1, 10)
    within(quantile.estimate(), 10)
    assert.strictEqual(Math.round(quantile.samples(10)), 50)
  })

  it("latencies outside its range, or that are no numbers, are its ends", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    for (const odd of [0, -5, Number.NaN]) quantile.record(0, odd)
    within(quantile.estimate(), 1)
    for (let index = 0; index < 4; index++) quantile.record(0, Number.POSITIVE_INFINITY)
    assert.isAbove(quantile.estimate() ?? 0, 3_000_000)
    assert.isTrue(Number.isFinite(quantile.estimate()))
  })
})

describe("Hedge", () => {
  it.effect("a fixed delay stays as it is", () =>
    Effect.gen(function* () {
      const hedge = yield* make({ delay: "50 millis" })
      for (let index = 0; index < 100; index++) hedge.machine.record(0, 1_000)
      assert.deepStrictEqual(yield* hedge.snapshot, { maxHedges: 1, delay: Duration.millis(50), samples: 0 })
      assert.strictEqual(hedge.description, "up to 1 more attempt, each after 50ms")
      const atOnce = yield* make({ delay: 0, maxHedges: 3 })
      assert.strictEqual(atOnce.machine.delay(0), 0)
      assert.strictEqual(atOnce.maxHedges, 3)
      assert.strictEqual(atOnce.description, "up to 3 more attempts, all at once")
    })
  )

  it.effect(
    "a percentile: the initial delay until enough is known, then what the service shows, and again after a rest",
    () =>
      Effect.gen(function* () {
        const hedge = yield* make({ delay: percentile })
        for (let index = 1; index <= 9; index++) hedge.machine.record(0, index * 10)
        assert.strictEqual(hedge.machine.delay(0), 300)
        hedge.machine.record(0, 100)
        within(hedge.machine.delay(0), 90)
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual((yield* hedge.snapshot).delay, Duration.millis(300))
      })
  )

  it.effect("follows a service that becomes slower, and one that becomes fast again", () =>
    Effect.gen(function* () {
      const hedge = yield* make({ delay: percentile })
      let now = 0
      const serve = (millis: number): void => {
        for (let index = 0; index < 500; index++) {
          now += 20
          hedge.machine.record(now, millis)
        }
      }
      serve(40)
      within(hedge.machine.delay(now), 40)
      serve(200)
      within(hedge.machine.delay(now), 200)
      serve(40)
      within(hedge.machine.delay(now), 40)
    })
  )

  it.effect("stays between min and max, which is never below 1 ms", () =>
    Effect.gen(function* () {
      const bounded = yield* make({ delay: { ...percentile, min: 200, max: 400 } })
      for (let index = 0; index < 100; index++) bounded.machine.record(0, 5)
      assert.strictEqual(bounded.machine.delay(0), 200)
      for (let index = 0; index < 1_000; index++) bounded.machine.record(0, 5_000)
      assert.strictEqual(bounded.machine.delay(0), 400)
      const free = yield* make({ delay: percentile })
      for (let index = 0; index < 100; index++) free.machine.record(0, 0)
      assert.strictEqual(free.machine.delay(0), 1)
    })
  )

  it.effect("reload keeps what it knows while a percentile is asked for", () =>
    Effect.gen(function* () {
      const hedge = yield* make({ delay: percentile })
      for (let millis = 1; millis <= 100; millis++) hedge.machine.record(0, millis)
      yield* hedge.reload({ delay: { ...percentile, percentile: 0.5 }, maxHedges: 2 })
      within(hedge.machine.delay(0), 50)
      assert.strictEqual(hedge.maxHedges, 2)
      assert.include(hedge.description, "50th percentile")
      yield* hedge.reload({ delay: 70 })
      assert.strictEqual(hedge.machine.delay(0), 70)
      yield* hedge.reload({ delay: percentile })
      assert.strictEqual(hedge.machine.delay(0), 300)
      const exit = yield* Effect.exit(hedge.reload({ delay: Duration.infinity }))
      assert.isTrue(exit._tag === "Failure" && Cause.isDie(exit.cause))
      assert.strictEqual(hedge.machine.delay(0), 300)
    })
  )

  it.effect("waits for as many latencies as the percentile needs to mean something", () =>
    Effect.gen(function* () {
      for (const [part, needed] of [
        [0.5, 10],
        [0.95, 20],
        [0.99, 100]
      ] as const) {
        const hedge = yield* make({ delay: { percentile: part, initial: 300 } })
        for (let index = 0; index < needed - 1; index++) hedge.machine.record(0, 10)
        assert.strictEqual(hedge.machine.delay(0), 300)
        hedge.machine.record(0, 10)
        within(hedge.machine.delay(0), 10)
      }
    })
  )

  it.effect("settings that cannot work are named with the fix", () =>
    Effect.gen(function* () {
      const wrong = (options: Hedge.Options) =>
        Effect.map(Effect.exit(make(options)), (exit) => (exit._tag === "Failure" ? Cause.pretty(exit.cause) : "fine"))
      const delay = { percentile: 0.95, initial: 100 }
      assert.strictEqual(yield* wrong({ delay: { ...delay, min: 10, max: 200 }, maxHedges: 10 }), "fine")
      for (const maxHedges of [0, 11, 1.5]) {
        assert.include(
          yield* wrong({ delay: 10, maxHedges }),
          `hedge.maxHedges is ${maxHedges}: give a whole number from 1 to 10`
        )
      }
      assert.include(yield* wrong({ delay: Duration.infinity }), "hedge.delay is infinite")
      // which would count as 0: every call would be made twice
      for (const each of [Number.NaN, -5]) {
        assert.include(yield* wrong({ delay: each }), `hedge.delay is ${each} ms: give a duration of 0 or more`)
      }
      for (const each of [0, 1, 95, Number.NaN]) {
        assert.include(yield* wrong({ delay: { ...delay, percentile: each } }), `hedge.delay.percentile is ${each}`)
      }
      assert.include(yield* wrong({ delay: { ...delay, initial: 0 } }), "hedge.delay.initial is 0 ms")
      assert.include(yield* wrong({ delay: { ...delay, initial: 1_000, max: 500 } }), "give one from 1 to 500 ms")
      assert.include(yield* wrong({ delay: { ...delay, min: 0 } }), "hedge.delay.min is not positive")
      assert.include(yield* wrong({ delay: { ...delay, min: 300, max: 200 } }), "lower min or raise max")
      assert.include(yield* wrong({ delay: { ...delay, minimumSamples: 0 } }), "hedge.delay.minimumSamples is 0")
      assert.include(yield* wrong({ delay: { ...delay, halfLife: 0 } }), "hedge.delay.halfLife is 0 ms")
      // all that is wrong is told at once
      assert.include(yield* wrong({ delay: Duration.infinity, maxHedges: 0 }), "Hedge: hedge.maxHedges is 0")
      assert.include(yield* wrong({ delay: Duration.infinity, maxHedges: 0 }), "; hedge.delay is infinite")
    })
  )

  it.effect("describes itself and is recognised", () =>
    Effect.gen(function* () {
      const hedge = yield* make({ delay: { percentile: 0.95, initial: "1 second", max: "2 seconds" } })
      assert.strictEqual(
        hedge.description,
        "up to 1 more attempt, each after the 95th percentile of recent latencies (at first 1s, at least 1ms, at most 2s)"
      )
      assert.isTrue(Hedge.isHedge(hedge))
      assert.isFalse(Hedge.isHedge({ delay: 1 }))
    })
  )
})
