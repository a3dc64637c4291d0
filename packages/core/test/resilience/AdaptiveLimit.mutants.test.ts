import { assert, describe, it } from "@effect/vitest"
import * as adaptive from "../../src/internal/resilience/adaptiveLimit.ts"

const settings: adaptive.AdaptiveSettings = {
  algorithm: "gradient",
  initial: 100,
  min: 1,
  max: 200,
  window: 1_000,
  minimumSamples: 10,
  smoothing: 0.3,
  tolerance: 1.2,
  backoff: 0.9,
  probeEvery: 3_600_000
}

/** A limit and calls of a service, a hundredth of a second apart. */
class Calls {
  now = 1_000_000
  readonly limit: adaptive.AdaptiveLimit

  constructor(changes: Partial<adaptive.AdaptiveSettings> = {}) {
    this.limit = new adaptive.AdaptiveLimit({ ...settings, ...changes })
  }

  /** One call has ended that took so long, with so many in flight. */
  end(took: number, active = 100, outcome: adaptive.Outcome = "success"): void {
    this.limit.record({ startedAt: this.now - took, outcome }, active, this.now)
  }

  for(millis: number, each: () => void): void {
    for (const until = this.now + millis; this.now < until; this.now += 10) each()
  }

  untilProbing(took: number, active = 100): void {
    while (!this.limit.probing) {
      this.end(took, active)
      this.now += 10
    }
  }

  /** As after the first measurement: the baseline is known. */
  measured(took: number): void {
    this.untilProbing(took)
    while (this.limit.probing) {
      this.end(took, took / 10)
      this.now += 10
    }
  }

  /** Sets the limit, and gives the one after a window of calls that took so long. */
  after(from: number, took: number): number {
    this.limit.reload({ ...this.limit.settings, min: from, max: from })
    this.limit.reload({ ...this.limit.settings, min: 1, max: 200 })
    assert.strictEqual(this.limit.limit, from)
    // The window ends with the hundredth call.
    this.for(1_010, () => this.end(took))
    return this.limit.limit
  }
}

describe("adaptive limit, step by step", () => {
  // A limit of 100 with a baseline of 100 ms: of calls that take 125 ms, 20 wait in the service.
  const steps: ReadonlyArray<readonly [took: number, limit: number, what: string]> = [
    [100, 112, "grows by six steps where nothing waits"],
    [101, 112, "grows by six steps where one waits"],
    [104, 102, "grows by one step where four wait"],
    [109, 100, "stays where eight wait"],
    [125, 96, "is lowered by half of what waits beyond twelve"],
    [114, 98, "is lowered by a step at least"]
  ]
  for (const [took, expected, what] of steps) {
    it(`vegas ${what}`, () => {
      const calls = new Calls({ algorithm: "vegas" })
      calls.measured(100)
      assert.closeTo(calls.limit.baseline, 100, 0.001)
      assert.strictEqual(calls.after(100, took), expected)
    })
  }

  it("where there is doubt, the next measurement is five windows later, not at once", () => {
    const calls = new Calls()
    // Two measurements that agree are enough for the next hour.
    calls.measured(100)
    calls.measured(100)
    calls.for(60_000, () => calls.end(100))
    assert.isFalse(calls.limit.probing)
    // Quicker than anything known: the baseline is in doubt.
    let waited = 0
    while (!calls.limit.probing && waited < 60_000) {
      calls.end(50)
      calls.now += 10
      waited += 10
    }
    assert.isAtLeast(waited, 5_000)
    assert.isAtMost(waited, 8_000)
  })

  it("a first measurement is in five windows, whatever the clock says", () => {
    const calls = new Calls()
    const from = calls.now
    calls.untilProbing(50)
    assert.closeTo(calls.now - from, 5_000, 1_010)
  })

  it("a measurement goes on until it has seen as many calls as a window", () => {
    const calls = new Calls()
    calls.untilProbing(50)
    // One call each second, of those that began while few were in flight.
    let seen = 0
    for (; calls.limit.probing && seen < 60; seen++) {
      calls.end(50, 1)
      calls.now += 1_000
    }
    // The first one only shows that few are in flight.
    assert.strictEqual(seen, 11)
    assert.strictEqual(calls.limit.latency, 50)
  })

  it("drops lower the limit also where the measurement never saw few calls in flight", () => {
    const calls = new Calls({ algorithm: "gradient", max: 100 })
    calls.untilProbing(50)
    while (calls.limit.probing) {
      calls.end(10, 100, "dropped")
      calls.now += 1_000
    }
    assert.strictEqual(calls.limit.limit, 90)
  })

  it("drops of calls that began before the limit was lowered do not lower it again in a measurement", () => {
    const calls = new Calls({ algorithm: "gradient", max: 100 })
    // The window that ends with a measurement has drops in it: the limit is lowered for them.
    const begun = calls.now
    while (!calls.limit.probing) {
      calls.end(50, 100, calls.now % 50 === 0 ? "dropped" : "success")
      calls.now += 10
    }
    while (calls.limit.probing) {
      // Begun before the limit was lowered, all of them.
      calls.limit.record({ startedAt: begun, outcome: "dropped" }, 100, calls.now)
      calls.now += 1_000
    }
    const again = new Calls({ algorithm: "gradient", max: 100 })
    while (!again.limit.probing) {
      again.end(50, 100, again.now % 50 === 0 ? "dropped" : "success")
      again.now += 10
    }
    while (again.limit.probing) {
      again.limit.look(again.now)
      again.now += 1_000
    }
    assert.isBelow(again.limit.limit, 100)
    assert.strictEqual(calls.limit.limit, again.limit.limit)
  })

  it("how long a measurement may go on is by how long calls take, where that is longer", () => {
    for (const [took, probeEvery, most] of [
      [2_000, 20_000, 20_000],
      [100, 20_000, 5_000]
    ] as const) {
      const calls = new Calls({ probeEvery })
      calls.untilProbing(took)
      const from = calls.now - 10
      calls.limit.look(from + most - 1)
      assert.isTrue(calls.limit.probing, `${took} ms`)
      calls.limit.look(from + most)
      assert.isFalse(calls.limit.probing, `${took} ms`)
    }
  })

  it("as many calls as a window needs are enough", () => {
    const calls = new Calls()
    // The first call begins the window.
    for (let n = 0; n < 9; n++) calls.end(50)
    calls.now += 1_000
    calls.end(50)
    assert.strictEqual(calls.limit.latency, 50)
  })

  it("calls that began before the limit was raised say something of it, those before it was lowered do not", () => {
    for (const [took, expected] of [
      [100, 110],
      [300, 300]
    ] as const) {
      const calls = new Calls()
      calls.measured(100)
      calls.for(1_000, () => calls.end(took))
      assert.strictEqual(calls.limit.latency, took)
      // They all began before the end of the window, in which the limit was moved.
      calls.for(90, () => calls.end(110))
      calls.now += 1_000
      calls.end(110)
      assert.strictEqual(calls.limit.latency, expected)
    }
  })

  it("new settings in the middle of a measurement leave the limit as low as the measurement needs", () => {
    const calls = new Calls()
    calls.untilProbing(50)
    assert.isTrue(calls.limit.probing)
    const { limit } = calls.limit
    assert.isBelow(limit, 50)
    calls.limit.reload({ ...settings, smoothing: 0.4 })
    assert.strictEqual(calls.limit.limit, limit)
  })

  it("three calls are enough for a measurement whose time is over, two are not", () => {
    for (const [seen, baseline] of [
      [2, 0],
      [3, 200]
    ] as const) {
      const calls = new Calls({ probeEvery: 20_000 })
      calls.untilProbing(50)
      const known = calls.limit.baseline
      // The first one only shows that few are in flight; one at a time is in flight for a fifth of a second.
      calls.end(50, 1)
      for (let n = 0; n < seen; n++) {
        calls.now += 200
        calls.end(200, 1)
      }
      calls.limit.look(calls.now + 20_000)
      assert.isFalse(calls.limit.probing)
      assert.closeTo(calls.limit.baseline, baseline === 0 ? known : baseline, 1, `${seen}`)
    }
  })
})
