/**
 * The arithmetic under the policies, told to the last step: fractions, time that only goes forward, quantiles.
 */
import { assert, describe, it } from "@effect/vitest"
import { FastCheck } from "effect"
import { Elapsed } from "../../src/internal/resilience/elapsed.ts"
import { HedgeDelay, type Settings } from "../../src/internal/resilience/hedgeDelay.ts"
import { LatencyQuantile, relativeError } from "../../src/internal/resilience/latencyQuantile.ts"
import * as Ratio from "../../src/internal/resilience/ratio.ts"

describe("ratio", () => {
  it("what arithmetic has spoilt in the last digit is the simple fraction that was meant", () => {
    assert.deepStrictEqual(Ratio.of(0.1 + 0.2), [3, 10])
    assert.deepStrictEqual(Ratio.of(1.1 - 1), [1, 10])
    assert.deepStrictEqual(Ratio.of(0.7 * 100), [70, 1])
    assert.deepStrictEqual(Ratio.of(0), [0, 1])
  })

  it("is never made of numbers that cannot be counted exactly", () => {
    for (const value of [1e-17, 3e-16, 1e-20, 2 ** -60]) {
      const [numerator, denominator] = Ratio.of(value)
      assert.isTrue(Number.isSafeInteger(numerator) && Number.isSafeInteger(denominator), `${value}`)
      assert.isAtMost(Math.abs(numerator / denominator - value), 1e-15)
    }
    FastCheck.assert(
      FastCheck.property(FastCheck.double({ min: 1e-9, max: 1e12, noNaN: true }), (value) => {
        const [numerator, denominator] = Ratio.of(value)
        assert.isTrue(Number.isSafeInteger(numerator) && Number.isSafeInteger(denominator))
        assert.isAtMost(Math.abs(numerator / denominator - value), Math.max(value * 1e-9, 1e-12))
      })
    )
  })
})

describe("elapsed time", () => {
  it("counts a step back of the clock once, and neither the first reading nor one that is the same", () => {
    const elapsed = new Elapsed()
    assert.strictEqual(elapsed.at(5_000), 0)
    assert.strictEqual(elapsed.steps, 0)
    assert.strictEqual(elapsed.at(5_000), 0)
    assert.strictEqual(elapsed.steps, 0)
    assert.strictEqual(elapsed.at(4_000), 0)
    assert.strictEqual(elapsed.steps, 1)
    assert.strictEqual(elapsed.at(4_250), 250)
    assert.strictEqual(elapsed.steps, 1)
  })
})

describe("quantile", () => {
  it("is within 2 %", () => {
    assert.isAtMost(relativeError, 0.02)
    assert.isAbove(relativeError, 0)
  })

  it("is unknown before the first time, also where it is set anew before it", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    quantile.reload(0.9, 500)
    assert.isUndefined(quantile.estimate())
    assert.strictEqual(quantile.samples(1_000), 0)
    quantile.record(1_000, 100)
    assert.strictEqual(quantile.samples(1_000), 1)
  })

  it("keeps the weights of what it knows where the half-life is set anew, and halves them by the new one from then on", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    quantile.record(0, 100)
    quantile.record(1_000, 400)
    assert.closeTo(quantile.samples(1_000), 1.5, 1e-9)
    quantile.reload(0.5, 500)
    assert.closeTo(quantile.samples(1_000), 1.5, 1e-9)
    assert.closeTo(quantile.samples(1_500), 0.75, 1e-9)
  })

  it("knows times of more than an hour as such, and forgets none of them", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    quantile.record(0, 36_000_000)
    quantile.record(0, 36_000_000)
    quantile.reload(0.9, 1_000)
    assert.strictEqual(quantile.samples(0), 2)
    assert.isAbove(quantile.estimate() ?? 0, 3_000_000)
  })

  it("counts nothing before the first time, whatever the clock does", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    for (const now of [1_700_000_000_000, 0, 1_700_000_000_000]) assert.strictEqual(quantile.samples(now), 0)
    quantile.record(1_700_000_000_000, 100)
    assert.strictEqual(quantile.samples(1_700_000_000_000), 1)
  })

  it("has forgotten all after a long rest, and is set anew then as one that knows nothing", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    quantile.record(0, 100)
    quantile.record(0, 5_000)
    quantile.samples(10 ** 12)
    quantile.reload(0.9, 500)
    assert.strictEqual(quantile.samples(10 ** 12), 0)
    assert.isUndefined(quantile.estimate())
    quantile.record(10 ** 12, 20)
    assert.closeTo(quantile.estimate() ?? 0, 20, 0.4)
  })

  it("a half-life of less than a millisecond forgets what is old, and nothing else", () => {
    const quantile = new LatencyQuantile(0.5, 0.1)
    quantile.record(0, 10)
    quantile.record(150, 20)
    assert.strictEqual(quantile.samples(150), 1)
    assert.closeTo(quantile.estimate() ?? 0, 20, 0.4)
  })

  it("goes on while the clock steps back again and again", () => {
    const quantile = new LatencyQuantile(0.5, 1_000)
    for (let step = 0; step < 300; step++) {
      quantile.record(0, 100)
      quantile.record(10_000, 100)
    }
    assert.closeTo(quantile.samples(10_000), 1 + 2 ** -9, 2 ** -15)
    assert.closeTo(quantile.estimate() ?? 0, 100, 2)
  })

  it("is never beyond the longest time that it knows, however its sums are rounded", () => {
    const longest = new LatencyQuantile(0.5, 1_000)
    longest.record(0, Number.POSITIVE_INFINITY)
    for (const pause of [2, 3, 5, 7]) {
      const quantile = new LatencyQuantile(1 - Number.EPSILON / 2, 1_000)
      for (let step = 0; step < 50; step++) {
        quantile.record(step * pause, step % 2 === 0 ? 1 : Number.POSITIVE_INFINITY)
        if (step > 0) assert.strictEqual(quantile.estimate(), longest.estimate())
      }
    }
  })

  it("goes on for thousands of half-lives, with or without pauses", () => {
    for (const pause of [0, 30, 70, 5_000]) {
      const quantile = new LatencyQuantile(0.5, 1_000)
      let now = 1_700_000_000_000
      quantile.record(now, 10)
      now += pause * 1_000
      for (let step = 0; step < 3_000; step++) {
        quantile.record(now, step < 1_500 ? 100 : 1_000)
        now += 1_000
      }
      now -= 1_000
      assert.closeTo(quantile.samples(now), 2, 1e-6, `${pause}`)
      assert.closeTo(quantile.estimate() ?? 0, 1_000, 20, `${pause}`)
    }
  })
})

describe("delay of a hedge", () => {
  const percentile: Settings = {
    maxHedges: 1,
    delay: {
      type: "percentile",
      percentile: 0.5,
      initial: 300,
      min: 1,
      max: 10_000,
      minimumSamples: 2,
      halfLife: 60_000
    }
  }
  const fixed: Settings = { maxHedges: 1, delay: { type: "fixed", millis: 50 } }

  it("starts anew after a fixed one, and not after another percentile", () => {
    const delay = new HedgeDelay(percentile)
    for (let n = 0; n < 4; n++) delay.record(0, 1_000)
    assert.strictEqual(delay.samples(0), 4)
    delay.reload({ ...percentile, maxHedges: 2 })
    assert.closeTo(delay.delay(0), 1_000, 20)
    delay.reload(fixed)
    assert.strictEqual(delay.delay(0), 50)
    delay.reload(percentile)
    assert.strictEqual(delay.samples(0), 0)
    assert.strictEqual(delay.delay(0), 300)
  })
})
