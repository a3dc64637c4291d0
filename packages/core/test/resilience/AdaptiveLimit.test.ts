import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Timeout } from "@underlay/core"
import { Clock, Deferred, Duration, Effect, FastCheck, Fiber, Stream, TestClock } from "effect"
import * as adaptive from "../../src/internal/resilience/adaptiveLimit.ts"

const settings: adaptive.AdaptiveSettings = {
  algorithm: "gradient",
  initial: 20,
  min: 1,
  max: 200,
  window: 1_000,
  minimumSamples: 10,
  smoothing: 0.3,
  tolerance: 1.2,
  backoff: 0.9,
  probeEvery: 60_000
}

/** A service with so many workers and a queue without end, whose work takes so long, more or less. */
interface Service {
  readonly workers: number
  readonly takes: number
  /** By which part the work takes more or less, at most. */
  readonly spread?: number
  /** Instead: how many times as long the work takes, for a number of chance from 0 to 1. */
  readonly law?: (random: number) => number
  /** How many calls would be made at once if they were let. */
  readonly demand?: number
  /** Calls that have taken longer are told as dropped. */
  readonly timeout?: number
}

/** Simulates the service under the limit; what it may be called with is asked for again in each step. */
class World {
  now: number
  ended = 0
  private took = 0
  lowest = Number.POSITIVE_INFINITY
  highest = 0
  readonly limit: adaptive.AdaptiveLimit
  private active = 0
  private waiting: Array<number> = []
  private running: Array<{ readonly startedAt: number; readonly endsAt: number }> = []
  private seed = 42

  constructor(limit: adaptive.AdaptiveLimit, now = 1_000_000) {
    this.limit = limit
    this.now = now
  }

  /** Calls ended a second, and how long they took, since the last time of asking. */
  run(millis: number, service: Service): { readonly rate: number; readonly latency: number } {
    const until = this.now + millis
    this.ended = 0
    this.took = 0
    while (this.now < until) {
      this.begin(service)
      const next = this.running.shift()
      if (next === undefined || next.endsAt >= until) {
        if (next !== undefined) this.running.unshift(next)
        this.now = until
        break
      }
      this.now = next.endsAt
      this.end(next.startedAt, service)
    }
    return { rate: (this.ended * 1_000) / millis, latency: this.took / this.ended }
  }

  /** All times of before are that much later now. */
  step(millis: number): void {
    this.now += millis
    this.running = this.running.map((each) => ({ startedAt: each.startedAt, endsAt: each.endsAt + millis }))
  }

  private begin({ demand = 1_000, law, spread = 0, takes, workers }: Service): void {
    while (this.active < Math.min(demand, this.limit.limit)) {
      this.active++
      this.waiting.push(this.now)
    }
    while (this.running.length < workers && this.waiting.length > 0) {
      const random = this.random()
      const lasts = Math.round(takes * (law === undefined ? 1 + spread * (random * 2 - 1) : law(random)))
      this.running.push({ startedAt: this.waiting.shift() ?? this.now, endsAt: this.now + lasts })
      this.running.sort((a, b) => a.endsAt - b.endsAt)
    }
  }

  private end(startedAt: number, { timeout = Number.POSITIVE_INFINITY }: Service): void {
    const took = this.now - startedAt
    this.limit.record({ startedAt, outcome: took > timeout ? "dropped" : "success" }, this.active, this.now)
    this.active--
    this.ended++
    this.took += took
    this.lowest = Math.min(this.lowest, this.limit.limit)
    this.highest = Math.max(this.highest, this.limit.limit)
  }

  private random(): number {
    this.seed = (this.seed * 1_103_515_245 + 12_345) % 2 ** 31
    return this.seed / 2 ** 31
  }
}

const world = (changes: Partial<adaptive.AdaptiveSettings> = {}) =>
  new World(new adaptive.AdaptiveLimit({ ...settings, ...changes }))

/** Where the limit of a service of this capacity should settle: enough to keep it busy, little more. */
const range = (algorithm: adaptive.Algorithm, workers: number): readonly [number, number] =>
  algorithm === "gradient"
    ? [workers, 1.25 * workers + Math.sqrt(2 * workers) + 1]
    : [workers, workers + 7 * Math.max(1, Math.log10(workers))]

const within = (value: number, [low, high]: readonly [number, number], what: string): void => {
  assert.isAtLeast(value, Math.floor(low), what)
  assert.isAtMost(value, Math.ceil(high), what)
}

/** The limit while the baseline is not being measured. */
const settledLimit = (subject: World, service: Service): number => {
  while (subject.limit.probing) subject.run(100, service)
  return subject.limit.limit
}

describe("adaptive limit", () => {
  for (const algorithm of ["gradient", "vegas"] as const) {
    for (const spread of [0, 0.5]) {
      it(`${algorithm} settles near the capacity of the service, latencies spread by ${spread * 100} %`, () => {
        for (const workers of [3, 10, 40]) {
          const service = { workers, takes: 50, spread }
          const subject = world({ algorithm })
          subject.run(120_000, service)
          for (let minute = 0; minute < 3; minute++) {
            const { latency, rate } = subject.run(60_000, service)
            const what = `${workers} workers, minute ${minute}`
            within(settledLimit(subject, service), range(algorithm, workers), what)
            // The service is busy, and nobody waits long in it.
            assert.isAtLeast(rate, workers * 20 * 0.96, what)
            assert.isAtMost(latency, (50 * range(algorithm, workers)[1]) / workers + 5, what)
          }
        }
      })
    }

    for (const [named, law, most] of [
      ["as chance has it", (random: number) => -Math.log(1 - random), 2],
      ["a tenth of them fifty times as long", (random: number) => (random < 0.9 ? 0.17 : 8.5), 2.6]
    ] as const) {
      it(`${algorithm} keeps the service busy where calls are long and short, ${named}`, () => {
        const service = { workers: 40, takes: 50, law }
        const subject = world({ algorithm })
        subject.run(120_000, service)
        for (let minute = 0; minute < 8; minute++) {
          const { rate } = subject.run(60_000, service)
          assert.isAtLeast(rate, 0.9 * 40 * 20, `minute ${minute}`)
          within(settledLimit(subject, service), [36, most * 40], `minute ${minute}`)
        }
      })
    }

    it(`${algorithm} grows to the maximum where the service has no limit, however calls vary`, () => {
      const subject = world({ algorithm, max: 100 })
      const service = { workers: 1_000, takes: 50, law: (random: number) => -Math.log(1 - random) }
      subject.run(300_000, service)
      assert.strictEqual(settledLimit(subject, service), 100)
    })

    it(`${algorithm} does not creep up under an overload that lasts`, () => {
      const service = { workers: 10, takes: 50, spread: 0.5 }
      const subject = world({ algorithm })
      subject.run(60_000, service)
      subject.highest = 0
      subject.run(3_600_000, service)
      assert.isAtMost(subject.highest, range(algorithm, 10)[1] + 3)
    })

    it(`${algorithm} recovers after a slow phase`, () => {
      const fast = { workers: 20, takes: 50, spread: 0.2 }
      const slow = { workers: 4, takes: 50, spread: 0.2 }
      const subject = world({ algorithm })
      subject.run(60_000, fast)
      within(settledLimit(subject, fast), range(algorithm, 20), "before")
      subject.run(60_000, slow)
      within(settledLimit(subject, slow), range(algorithm, 4), "in the slow phase")
      subject.run(90_000, fast)
      within(settledLimit(subject, fast), range(algorithm, 20), "after")
      assert.isAtLeast(subject.run(60_000, fast).rate, 20 * 20 * 0.96)
    })

    it(`${algorithm} follows a baseline that drifts, and one that jumps, both ways`, () => {
      const subject = world({ algorithm })
      const service = (takes: number) => ({ workers: 20, takes, spread: 0.2 })
      for (let takes = 50; takes < 200; takes *= 1.05) subject.run(60_000, service(takes))
      within(settledLimit(subject, service(200)), range(algorithm, 20), "drifted")
      assert.closeTo(subject.limit.baseline, 195, 25)
      for (const takes of [50, 500, 20]) {
        subject.run(120_000, service(takes))
        within(settledLimit(subject, service(takes)), range(algorithm, 20), `jumped to ${takes}`)
        assert.closeTo(subject.limit.baseline, takes, takes * 0.15)
      }
    })
  }

  it("aimd settles where calls begin to be dropped, and goes by nothing else", () => {
    const service = { workers: 10, takes: 50, timeout: 100 }
    const subject = world({ algorithm: "aimd" })
    subject.run(60_000, service)
    subject.lowest = Number.POSITIVE_INFINITY
    subject.highest = 0
    const { rate } = subject.run(300_000, service)
    assert.isAtLeast(subject.lowest, 16)
    assert.isAtMost(subject.highest, 22)
    assert.isAtLeast(rate, 190)
    const patient = world({ algorithm: "aimd", max: 60 })
    patient.run(300_000, { workers: 1, takes: 50 })
    assert.strictEqual(patient.limit.limit, 60)
  })

  it("drops lower every algorithm, once for each window and not for calls begun before", () => {
    for (const algorithm of ["gradient", "vegas", "aimd"] as const) {
      const limit = new adaptive.AdaptiveLimit({ ...settings, algorithm, initial: 100, probeEvery: 1_000_000 })
      const record = (startedAt: number, now: number, outcome: adaptive.Outcome) =>
        limit.record({ startedAt, outcome }, 100, now)
      for (let index = 0; index < 20; index++) record(0, 500, "dropped")
      assert.strictEqual(limit.limit, 100)
      record(0, 2_000, "dropped")
      assert.strictEqual(limit.limit, 90, algorithm)
      // All begun while the limit was 100.
      for (let index = 0; index < 50; index++) record(1_000, 2_100 + index * 100, "dropped")
      assert.strictEqual(limit.limit, 90, algorithm)
      for (let index = 0; index < 50; index++) record(8_000, 8_000 + index * 100, "dropped")
      assert.isAtMost(limit.limit, 81, algorithm)
    }
  })

  it("a measurement minds neither what calls weigh nor how soon others fail", () => {
    for (const [weight, failing] of [
      [1, false],
      [3, false],
      [1, true]
    ] as const) {
      const limit = new adaptive.AdaptiveLimit({ ...settings, max: 20 })
      for (let now = 0; now < 20_000; now += 10) {
        // Five in flight at a time, each for 50 ms; and now and then another that fails after 10.
        const fails = failing && now % 20 === 0
        const active = limit.probing ? weight * (failing ? 3 : 5) : 20
        limit.record(
          { startedAt: now - (fails ? 10 : 50), outcome: fails ? "failure" : "success" },
          active,
          now,
          weight
        )
      }
      assert.closeTo(limit.baseline, 50, 1, `${weight}, ${failing}`)
    }
  })

  it("a rare drop is chance", () => {
    const limit = new adaptive.AdaptiveLimit({ ...settings, algorithm: "aimd", initial: 100 })
    for (let second = 0; second < 20; second++) {
      for (let index = 0; index < 100; index++) {
        const now = second * 1_000 + index * 10
        limit.record({ startedAt: now, outcome: index === 50 ? "dropped" : "success" }, 100, now)
      }
    }
    assert.isAbove(limit.limit, 110)
  })

  it("failures say nothing of latency", () => {
    const limit = new adaptive.AdaptiveLimit(settings)
    const round = (from: number, took: number, outcome: adaptive.Outcome) => {
      for (let index = 0; index < 1_000; index++) {
        limit.record({ startedAt: from + index * 10 - took, outcome }, 20, from + index * 10)
      }
    }
    round(0, 5_000, "failure")
    round(10_000, 1, "failure")
    assert.deepStrictEqual([limit.limit, limit.baseline, limit.latency], [20, 0, 0])
    round(20_000, 50, "success")
    assert.deepStrictEqual([limit.baseline, limit.latency], [50, 50])
  })

  for (const algorithm of ["gradient", "vegas", "aimd"] as const) {
    it(`${algorithm}: samples taken while far below the limit do not move it`, () => {
      const subject = world({ algorithm, initial: 40 })
      const quiet = { workers: 100, takes: 50, demand: 19 }
      subject.run(600_000, quiet)
      assert.deepStrictEqual([subject.lowest, subject.highest], [40, 40])
      // Not even if the service has become slow: it is not for the load of ours. But the baseline is known.
      subject.run(60_000, { ...quiet, takes: 500 })
      assert.strictEqual(subject.limit.limit, 40)
      if (algorithm !== "aimd") assert.closeTo(subject.limit.baseline, 500, 25)
      subject.run(60_000, { workers: 100, takes: 50, demand: 40 })
      assert.isAbove(subject.limit.limit, 40)
    })
  }

  it("is never below min or above max, whatever happens", () => {
    const phase = FastCheck.record({
      workers: FastCheck.integer({ min: 1, max: 60 }),
      takes: FastCheck.integer({ min: 0, max: 3_000 }),
      spread: FastCheck.constantFrom(0, 0.9),
      demand: FastCheck.integer({ min: 1, max: 100 }),
      timeout: FastCheck.constantFrom(100, 2_000, Number.POSITIVE_INFINITY),
      step: FastCheck.constantFrom(0, 0, 0, -3_600_000, -10, 3_600_000)
    })
    FastCheck.assert(
      FastCheck.property(
        FastCheck.constantFrom<Array<adaptive.Algorithm>>("gradient", "vegas", "aimd"),
        FastCheck.integer({ min: 1, max: 10 }),
        FastCheck.integer({ min: 10, max: 50 }),
        FastCheck.array(phase, { minLength: 1, maxLength: 8 }),
        (algorithm, min, max, phases) => {
          const subject = world({ algorithm, initial: 10, min, max, probeEvery: 10_000 })
          for (const { step, ...service } of phases) {
            subject.step(step)
            subject.run(10_000, { ...service, takes: Math.max(5, service.takes) })
            assert.isTrue(Number.isInteger(subject.limit.limit))
          }
          assert.isAtLeast(subject.lowest, min)
          assert.isAtMost(subject.highest, max)
        }
      ),
      { numRuns: 100 }
    )
  })

  for (const algorithm of ["gradient", "vegas", "aimd"] as const) {
    it(`${algorithm}: steps of the clock do no harm`, () => {
      const expected = (workers: number): readonly [number, number] =>
        algorithm === "aimd" ? [1.6 * workers, 2.2 * workers] : range(algorithm, workers)
      for (const millis of [-3_600_000, -700, -5, 3_600_000]) {
        const subject = world({ algorithm })
        for (const workers of [10, 20, 10, 15]) {
          const service = { workers, takes: 50, ...(algorithm === "aimd" ? { timeout: 100 } : {}) }
          // It goes on learning at once: not after an hour, when the clock is where it was.
          subject.run(90_000, service)
          const { rate } = subject.run(30_000, service)
          within(settledLimit(subject, service), expected(workers), `${millis}, ${workers} workers`)
          assert.isAtLeast(rate, workers * 19)
          subject.step(millis)
        }
      }
    })
  }

  it("a call that ended before it began, by the clock, says nothing", () => {
    const limit = new adaptive.AdaptiveLimit(settings)
    for (let now = 0; now < 3_000; now += 100) limit.record({ startedAt: now + 500, outcome: "success" }, 20, now)
    assert.strictEqual(limit.latency, 0)
    for (let now = 3_000; now < 6_000; now += 100) limit.record({ startedAt: now - 50, outcome: "success" }, 20, now)
    assert.strictEqual(limit.latency, 50)
  })

  it("a window lasts for twice as long as the calls in it", () => {
    const limit = new adaptive.AdaptiveLimit(settings)
    const run = (from: number, to: number) => {
      for (let now = from; now < to; now += 100) limit.record({ startedAt: now - 2_000, outcome: "success" }, 20, now)
    }
    run(10_000, 14_000)
    assert.strictEqual(limit.latency, 0)
    run(14_000, 14_100)
    assert.strictEqual(limit.latency, 2_000)
  })

  for (const algorithm of ["gradient", "vegas"] as const) {
    it(`${algorithm} measures anew as soon as there is doubt, not only when it is time`, () => {
      const subject = world({ algorithm, probeEvery: 3_600_000 })
      for (const takes of [50, 500, 50]) {
        const service = { workers: 20, takes }
        subject.run(60_000, service)
        within(settledLimit(subject, service), range(algorithm, 20), `${takes} ms`)
        assert.closeTo(subject.limit.baseline, takes, takes * 0.1)
      }
    })

    it(`${algorithm} goes on measuring until two measurements agree`, () => {
      for (const initial of [12, 20, 30, 150]) {
        const subject = world({ algorithm, initial, probeEvery: 3_600_000 })
        const service = { workers: 2, takes: 50 }
        subject.run(180_000, service)
        within(settledLimit(subject, service), range(algorithm, 2), `from ${initial}`)
        assert.closeTo(subject.limit.baseline, 50, 5)
      }
    })
  }

  it("a measurement does not only see the calls that are quick", () => {
    const subject = world({ probeEvery: 10_000 })
    const service = { workers: 40, takes: 50, spread: 0.95 }
    subject.run(60_000, service)
    let sum = 0
    for (let index = 0; index < 30; index++) {
      subject.run(10_000, service)
      settledLimit(subject, service)
      sum += subject.limit.baseline
    }
    assert.closeTo(sum / 30, 50, 5)
  })

  /** Calls of 50 ms until the baseline is being measured. */
  const untilProbing = (limit: adaptive.AdaptiveLimit, from: number): number => {
    let now = from
    for (; !limit.probing; now += 10) limit.record({ startedAt: now - 50, outcome: "success" }, 20, now)
    return now
  }

  it("drops while it measures lower the limit too", () => {
    const limit = new adaptive.AdaptiveLimit({ ...settings, algorithm: "vegas", max: 40 })
    let now = untilProbing(limit, 100_000)
    for (; limit.probing; now += 10) {
      limit.record({ startedAt: now - 5, outcome: now % 30 === 0 ? "dropped" : "success" }, 2, now)
    }
    assert.strictEqual(limit.limit, 36)
  })

  it("where the limit cannot be lower, the latency that there is becomes the baseline", () => {
    const subject = world({ min: 20, max: 20, probeEvery: 3_600_000 })
    subject.run(30_000, { workers: 30, takes: 50 })
    assert.closeTo(subject.limit.baseline, 50, 0.1)
    subject.run(60_000, { workers: 2, takes: 50 })
    assert.strictEqual(subject.limit.limit, 20)
    assert.closeTo(subject.limit.baseline, 500, 25)
  })

  it("one window, however slow, lowers the limit by no more than half of the way", () => {
    const limit = new adaptive.AdaptiveLimit({ ...settings, initial: 100 })
    let now = 0
    for (; now < 20_000; now += 50) {
      limit.record({ startedAt: now - 50, outcome: "success" }, limit.probing ? 1 : 100, now)
    }
    assert.strictEqual(limit.baseline, 50)
    let before = 0
    for (; limit.latency < 400 && now < 30_000; now += 50) {
      before = limit.limit
      limit.record({ startedAt: now - 400, outcome: "success" }, 100, now)
    }
    assert.closeTo(limit.limit, before * 0.85 + Math.sqrt(before) * 0.3, 1)
  })

  it("reload brings the next measurement forward", () => {
    const limit = new adaptive.AdaptiveLimit({ ...settings, max: 20, probeEvery: 3_600_000 })
    let now = 100_000
    const run = (millis: number) => {
      let probed = false
      for (const until = now + millis; now < until; now += 10) {
        limit.record({ startedAt: now - 50, outcome: "success" }, limit.probing ? 5 : 20, now)
        probed ||= limit.probing
      }
      return probed
    }
    assert.isTrue(run(30_000))
    assert.isFalse(run(60_000))
    limit.reload({ ...settings, max: 20, probeEvery: 10_000 })
    assert.isFalse(run(9_000))
    assert.isTrue(run(3_000))
  })

  it("a step back in the middle of a measurement ends it", () => {
    const limit = new adaptive.AdaptiveLimit(settings)
    let now = 100_000
    while (!limit.probing) {
      limit.record({ startedAt: now - 50, outcome: "success" }, 20, now)
      now += 10
    }
    const lowered = limit.limit
    assert.isAtMost(lowered, 6)
    limit.look(now - 50_000)
    assert.isFalse(limit.probing)
    assert.isAbove(limit.limit, 20)
  })

  it("a measurement ends with its time where no calls end any more, and lowers the limit for no long part", () => {
    const limit = new adaptive.AdaptiveLimit(settings)
    let now = 100_000
    while (!limit.probing) {
      limit.record({ startedAt: now - 50, outcome: "success" }, 20, now)
      now += 10
    }
    limit.look(now + 14_000)
    assert.isTrue(limit.probing)
    limit.look(now + 15_000)
    assert.isFalse(limit.probing)
    assert.isAbove(limit.limit, 20)
    // Calls that take two seconds are measured for ten, so less often.
    const subject = world()
    const service = { workers: 20, takes: 2_000, spread: 0.3 }
    subject.run(600_000, service)
    let lowered = 0
    for (let tenth = 0; tenth < 36_000; tenth++) {
      subject.run(100, service)
      if (subject.limit.probing) lowered++
    }
    assert.isAbove(lowered, 0)
    assert.isAtMost(lowered / 36_000, 0.08)
  })

  it("reload keeps what was learned, within the new bounds", () => {
    const subject = world()
    const service = { workers: 20, takes: 50 }
    subject.run(120_000, service)
    const { baseline } = subject.limit
    subject.limit.reload({ ...settings, max: 12 })
    assert.deepStrictEqual([subject.limit.limit, subject.limit.baseline], [12, baseline])
    subject.limit.reload({ ...settings, min: 50 })
    assert.strictEqual(subject.limit.limit, 50)
    subject.limit.reload(settings)
    subject.run(60_000, service)
    within(settledLimit(subject, service), range("gradient", 20), "after")
  })
})

describe("adaptive bulkhead", () => {
  /** A service of so many workers, first come, first served, by the test's clock. */
  const service = (workers: number, takes: number) => {
    const free = Array.from({ length: workers }, () => 0)
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      free.sort((a, b) => a - b)
      const ends = Math.max(now, free.shift() ?? now) + takes
      free.push(ends)
      return Effect.sleep(ends - now)
    })
  }

  it.effect(
    "finds the capacity of a service, and again after it has changed",
    () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.adaptive({
          name: "weather",
          algorithm: "gradient",
          initial: 12,
          window: "200 millis",
          minimumSamples: 5,
          probeEvery: "4 seconds",
          maxQueue: 100,
          maxWait: "1 minute"
        })
        let call = service(4, 100)
        let most = 0
        let inFlight = 0
        const client = Effect.forever(
          bulkhead.run(
            Effect.acquireUseRelease(
              Effect.sync(() => {
                most = Math.max(most, ++inFlight)
              }),
              () => Effect.suspend(() => call),
              () => Effect.sync(() => inFlight--)
            )
          )
        )
        const clients = yield* Effect.forEach(Array.from({ length: 24 }), () => Effect.fork(client))
        const pass = (seconds: number) => Effect.repeatN(TestClock.adjust("100 millis"), seconds * 10 - 1)
        yield* pass(10)
        const limit = Effect.map(bulkhead.snapshot, (seen) => (seen.adaptive?.probing === true ? 0 : seen.limit))
        within(yield* limit, range("gradient", 4), "at first")
        assert.isAtMost(most, 16)
        call = service(8, 100)
        yield* pass(12)
        within(yield* limit, range("gradient", 8), "with more workers")
        const seen = yield* bulkhead.snapshot
        assert.strictEqual(seen.adaptive?.algorithm, "gradient")
        assert.closeTo(Duration.toMillis(seen.adaptive?.baseline ?? 0), 100, 15)
        assert.isAtLeast(Duration.toMillis(seen.adaptive?.latency ?? 0), 100)
        assert.strictEqual(seen.rejected, 0)
        yield* Fiber.interruptAll(clients)
        const after = yield* bulkhead.snapshot
        assert.deepStrictEqual([after.active, after.queued, inFlight], [0, 0, 0])
      }),
    60_000
  )

  it.effect("takes timeouts and answers that say overload for drops, and nothing else", () =>
    Effect.gen(function* () {
      const endings: ReadonlyArray<readonly [unknown, boolean]> = [
        [{ status: 503 }, true],
        [{ response: { status: 503 } }, true],
        [{ statusCode: 429 }, true],
        [{ errorClass: "rate-limited" }, true],
        [new Timeout.CallTimeout({ service: "weather", scope: "attempt", limitMillis: 50 }), true],
        [new DOMException("late", "TimeoutError"), true],
        [{ status: 500 }, false],
        [{ status: 404 }, false],
        ["unknown", false],
        [new CircuitBreaker.CircuitOpen({ service: "weather", retryAfter: Duration.zero }), false],
        [new Bulkhead.BulkheadFull({ service: "weather", reason: "queue-full" }), false],
        [{ errorClass: "cancelled" }, false]
      ]
      for (const [error, drops] of endings) {
        const bulkhead = yield* Bulkhead.adaptive({
          name: "weather",
          algorithm: "aimd",
          initial: 5,
          minimumSamples: 1,
          window: "150 millis"
        })
        const call = Effect.exit(bulkhead.run(Effect.andThen(Effect.sleep("100 millis"), Effect.fail(error))))
        const calls = yield* Effect.fork(
          Effect.forEach(Array.from({ length: 3 }), () => Effect.repeatN(call, 3), { concurrency: 3 })
        )
        yield* Effect.repeatN(TestClock.adjust("100 millis"), 3)
        yield* Fiber.join(calls)
        assert.strictEqual((yield* bulkhead.snapshot).limit < 5, drops, JSON.stringify(error))
      }
    })
  )

  it.effect("interrupted calls and defects are no drops either, and give their places back", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({ name: "weather", algorithm: "aimd", initial: 20, minimumSamples: 1 })
      for (let second = 0; second < 5; second++) {
        const calls = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.fork(bulkhead.run(Effect.never)))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interruptAll(calls)
        yield* Effect.exit(bulkhead.run(Effect.die("bug")))
      }
      const seen = yield* bulkhead.snapshot
      assert.deepStrictEqual([seen.limit, seen.active], [20, 0])
    })
  )

  it.effect("a call may weigh as much as the limit will always be", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({ name: "weather", algorithm: "vegas", min: 3, initial: 10 })
      assert.strictEqual(yield* bulkhead.run(Effect.succeed(1), { weight: 3 }), 1)
      const error = yield* Effect.flip(bulkhead.run(Effect.succeed(1), { weight: 4 }))
      assert.include(error.message, "the call weighs 4, more than the limit of 3")
    })
  )

  it.effect("a stream is judged by its first element, and keeps its place", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({ name: "weather", algorithm: "vegas", initial: 2, minimumSamples: 1 })
      const gate = yield* Deferred.make<void>()
      const stream = Stream.concat(
        Stream.fromEffect(Effect.sleep("200 millis")),
        Stream.fromEffect(Deferred.await(gate))
      )
      const open = () => Effect.fork(Stream.runDrain(bulkhead.runStream(stream)))
      const first = [yield* open(), yield* open()]
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.interruptAll(first)
      const second = [yield* open(), yield* open()]
      yield* TestClock.adjust("2 seconds")
      const seen = yield* bulkhead.snapshot
      assert.strictEqual(Duration.toMillis(seen.adaptive?.latency ?? 0), 200)
      assert.strictEqual(seen.active, 2)
      yield* Deferred.succeed(gate, undefined)
      for (const each of second) yield* Fiber.join(each)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("a stream that is dropped lowers the limit", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({
        name: "weather",
        algorithm: "aimd",
        initial: 5,
        minimumSamples: 1,
        window: "50 millis"
      })
      const call = (error: unknown) =>
        Effect.ignore(
          Stream.runDrain(
            bulkhead.runStream(Stream.fromEffect(Effect.andThen(Effect.sleep("100 millis"), Effect.fail(error))))
          )
        )
      const times = (error: unknown) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.fork(Effect.repeatN(call(error), 2))
          yield* Effect.repeatN(TestClock.adjust("100 millis"), 2)
          yield* Fiber.join(fiber)
          return (yield* bulkhead.snapshot).limit
        })
      assert.strictEqual(yield* times({ status: 500 }), 5)
      assert.isBelow(yield* times({ status: 503 }), 5)
    })
  )

  it.effect("a limit that has grown while a stream flows lets in at once who waits", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({
        name: "weather",
        algorithm: "aimd",
        initial: 1,
        minimumSamples: 1,
        window: "100 millis",
        maxQueue: 5
      })
      const open = (stream: Stream.Stream<number>) => Effect.fork(Stream.runDrain(bulkhead.runStream(stream)))
      const slow = Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep("200 millis"), 1)), Stream.never)
      // The first sample opens the window.
      yield* bulkhead.run(Effect.void)
      const flowing = yield* open(slow)
      yield* Effect.yieldNow()
      let called = false
      const waiting = yield* Effect.fork(bulkhead.run(Effect.sync(() => (called = true))))
      yield* TestClock.adjust("199 millis")
      assert.isFalse(called)
      yield* TestClock.adjust("1 milli")
      assert.isTrue(called)
      yield* Fiber.join(waiting)
      assert.strictEqual((yield* bulkhead.snapshot).active, 1)
      yield* Fiber.interrupt(flowing)
    })
  )

  it.effect("reload goes from one kind to the other; those who wait get in as far as the new limit goes", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "weather", maxConcurrent: 1, maxQueue: 20 })
      const calls = yield* Effect.forEach(Array.from({ length: 8 }), () => Effect.fork(bulkhead.run(Effect.never)))
      yield* Effect.yieldNow()
      yield* bulkhead.reload({ algorithm: "gradient", initial: 5, maxQueue: 20 })
      const found = yield* bulkhead.snapshot
      assert.deepStrictEqual(
        [found.active, found.queued, found.limit, found.adaptive?.algorithm],
        [5, 3, 5, "gradient"]
      )
      yield* bulkhead.reload({ algorithm: "aimd", initial: 9, min: 6, maxQueue: 20 })
      const moved = yield* bulkhead.snapshot
      assert.deepStrictEqual([moved.active, moved.queued, moved.limit, moved.adaptive?.algorithm], [6, 2, 6, "aimd"])
      yield* bulkhead.reload({ maxConcurrent: 7, maxQueue: 20 })
      const fixed = yield* bulkhead.snapshot
      assert.deepStrictEqual([fixed.active, fixed.queued, fixed.limit, fixed.adaptive], [7, 1, 7, undefined])
      yield* Fiber.interruptAll(calls)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("a burst after a measurement that nobody ended is not held back by it", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({
        name: "weather",
        algorithm: "gradient",
        initial: 8,
        max: 8,
        window: "100 millis",
        minimumSamples: 5
      })
      const call = bulkhead.run(Effect.sleep("100 millis"))
      const probing = Effect.map(bulkhead.snapshot, (seen) => seen.adaptive?.probing === true)
      for (let round = 0; round < 200 && !(yield* probing); round++) {
        yield* Effect.forEach(Array.from({ length: 8 }), () => Effect.fork(Effect.ignore(call)))
        yield* TestClock.adjust("100 millis")
      }
      assert.isTrue(yield* probing)
      assert.strictEqual((yield* bulkhead.snapshot).limit, 2)
      yield* TestClock.adjust("1 hour")
      const burst = yield* Effect.fork(
        Effect.forEach(Array.from({ length: 8 }), () => Effect.exit(call), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual(new Set((yield* Fiber.join(burst)).map((exit) => exit._tag)), new Set(["Success"]))
    })
  )

  it.effect("who waits for the end of a measurement gets in with the next that comes, before it", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.adaptive({
        name: "weather",
        algorithm: "gradient",
        initial: 8,
        max: 8,
        window: "50 millis",
        minimumSamples: 5,
        probeEvery: "400 millis",
        maxQueue: 10
      })
      const began: Array<number> = []
      const probing = Effect.map(bulkhead.snapshot, (seen) => seen.adaptive?.probing === true)
      while (!(yield* probing)) {
        yield* Effect.forEach(Array.from({ length: 8 }), () => Effect.fork(bulkhead.run(Effect.sleep("20 millis"))))
        yield* TestClock.adjust("20 millis")
      }
      const open = (index: number) =>
        Effect.andThen(
          Effect.fork(
            Effect.ignore(
              bulkhead.run(
                Effect.andThen(
                  Effect.sync(() => began.push(index)),
                  Effect.never
                )
              )
            )
          ),
          Effect.yieldNow()
        )
      for (let index = 0; index < 5; index++) yield* open(index)
      yield* TestClock.adjust("250 millis")
      assert.deepStrictEqual(began, [0, 1])
      yield* open(5)
      yield* Effect.repeatN(Effect.yieldNow(), 5)
      assert.sameMembers(began, [0, 1, 2, 3, 4, 5])
    })
  )
})
