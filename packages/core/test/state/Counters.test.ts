import { assert, describe, it } from "@effect/vitest"
import { Counters } from "@underlay/core"
import { CountersSuite, Recording, Suite } from "@underlay/core/testing"
import { Clock, DateTime, Duration, Effect, FastCheck, TestClock } from "effect"
import * as Calendar from "../../src/internal/calendar.ts"

const suite = CountersSuite.make({ advance: TestClock.adjust, now: Clock.currentTimeMillis })

describe("Counters in memory", () => {
  for (const one of Suite.applicable(suite, [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(Counters.layerMemory())))
  }
})

const zones = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Beirut", "Asia/Kathmandu"]
const instant = FastCheck.integer({ min: Date.UTC(1980), max: Date.UTC(2080) })

describe("Counters", () => {
  it.prop(
    "the windows of a calendar hold their moments, follow each other without a gap and last about as long as they are called",
    [instant, FastCheck.constantFrom(...Calendar.units), FastCheck.constantFrom(...zones)],
    ([now, unit, name]) => {
      const zone = DateTime.zoneUnsafeMakeNamed(name)
      const { end, start } = Calendar.windowOf(unit, zone, now)
      assert.isTrue(start <= now && now < end)
      assert.strictEqual(Calendar.windowOf(unit, zone, end).start, end)
      assert.deepStrictEqual(Calendar.windowOf(unit, zone, end - 1), { start, end })
      assert.deepStrictEqual(Calendar.windowOf(unit, zone, start), { start, end })
      const hours = (end - start) / 3_600_000
      const [least, most] = { hour: [1, 1], day: [23, 25], week: [167, 169], month: [671, 745], year: [8_759, 8_785] }[
        unit
      ] as [number, number]
      assert.isTrue(hours >= least && hours <= most, `${hours} hours`)
    },
    { fastCheck: { numRuns: 500 } }
  )

  it("days of a zone are as long as they are there: 23 hours, 25, and from one o'clock where midnight is left out", () => {
    const day = (name: string, at: string) => {
      const { end, start } = Calendar.windowOf("day", DateTime.zoneUnsafeMakeNamed(name), Date.parse(at))
      return [new Date(start).toISOString(), (end - start) / 3_600_000]
    }
    assert.deepStrictEqual(day("Europe/Berlin", "2026-03-29T12:00:00Z"), ["2026-03-28T23:00:00.000Z", 23])
    assert.deepStrictEqual(day("Europe/Berlin", "2026-10-25T12:00:00Z"), ["2026-10-24T22:00:00.000Z", 25])
    assert.deepStrictEqual(day("Asia/Beirut", "2024-03-31T12:00:00Z"), ["2024-03-30T22:00:00.000Z", 23])
    assert.deepStrictEqual(day("America/Havana", "2024-11-03T12:00:00Z"), ["2024-11-03T04:00:00.000Z", 25])
  })

  it.effect("a budget of the month begins anew with the month of its zone", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      const spend = counters.add("team", 60, { window: "month", timeZone: "Europe/Berlin", limit: 100 })
      yield* TestClock.setTime(Date.parse("2026-02-10T12:00:00Z"))
      const first = yield* spend
      assert.strictEqual(Duration.toDays(first.resetAfter), 18 + 11 / 24)
      yield* TestClock.setTime(Date.parse("2026-02-28T22:59:59.999Z"))
      assert.deepInclude(yield* spend, { allowed: false, value: 60 })
      yield* TestClock.setTime(Date.parse("2026-02-28T23:00:00.000Z"))
      assert.deepInclude(yield* spend, { allowed: true, value: 60 })
      // what is given back too late is not given to the new month
      assert.deepInclude(yield* counters.add("team", -200, { window: "month" }), { allowed: true, value: 0 })
    }).pipe(Effect.provide(Counters.layerMemory()))
  )

  it.effect("in memory the counter used least recently is forgotten first", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      for (const key of ["a", "b"]) yield* counters.add(key, 1, { ttl: "1 hour" })
      yield* counters.get("a")
      yield* counters.add("c", 1, { ttl: "1 hour" })
      const left = yield* Effect.forEach(["a", "b", "c"], counters.get)
      assert.deepStrictEqual(left, [1, 0, 1])
    }).pipe(Effect.provide(Counters.layerMemory({ capacity: 2 })))
  )

  it("an add whose outcome is unknown is not to be done again, all else is", () => {
    const error = (method: string, outcome: "not-done" | "unknown", reason: Counters.Reason = "Timeout") =>
      new Counters.CountersError({ reason, method, outcome, description: "no answer" })
    assert.isFalse(error("add", "unknown").isRetryable)
    assert.isTrue(error("add", "not-done").isRetryable)
    assert.isTrue(error("set", "unknown").isRetryable)
    assert.isFalse(error("add", "not-done", "Rejected").isRetryable)
    assert.strictEqual(error("add", "unknown").message, "Counters.add: no answer (it may have been done)")
  })

  it.effect("emits nothing: no span, no log line, no metric", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          for (let n = 0; n < 20; n++) {
            yield* counters.add("a", 1, { window: "week", limit: 10 })
            yield* counters.get("a")
            yield* counters.set("b", n, { ttl: "1 hour" })
            yield* counters.reset("b")
          }
        })
      )
    }).pipe(Effect.provide(Counters.layerMemory()))
  )
})
