/**
 * The circuit breaker to the last step: its windows bucket by bucket, what each change of mode and settings does to what is
 * known, and what is told to whom.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Cause, Chunk, Deferred, Duration, Effect, Exit, Fiber, FiberId, Stream } from "effect"
import type { Breaker, Change, Owner, Permit } from "../../src/internal/resilience/breaker.ts"
import { CountWindow, TimeWindow } from "../../src/internal/resilience/breakerWindow.ts"
import { currentRandom } from "../../src/internal/resilience/currentRandom.ts"

type Options = Omit<CircuitBreaker.Options, "name">

const once = { window: { type: "consecutive", failures: 1 } } as const
const many = { window: { type: "consecutive", failures: 100 } } as const
const ramp = { rampUp: { over: 10_000, from: 0.1 } } as const

/** What the pipeline and shared control call: not for users, so it is in no type. */
interface Internals {
  readonly machine: Breaker
  readonly description: string
  readonly control: (
    overrides: ReadonlyMap<string, { readonly mode: CircuitBreaker.Mode; readonly until: number }>,
    now: number
  ) => void
  readonly settle: (permit: Permit, exit: Exit.Exit<unknown, unknown> | undefined, now: number) => void
}

const breakerOf = (options: Options = {}): CircuitBreaker.CircuitBreaker & Internals =>
  Effect.runSync(CircuitBreaker.make({ ...options, name: "x" })) as CircuitBreaker.CircuitBreaker & Internals

/** The state machine of a breaker with those settings; the time is what each step is given. */
const machineOf = (options: Options = once): Breaker => breakerOf(options).machine

const enter = (machine: Breaker, now: number): Permit => {
  const given = machine.acquire(now)
  if (typeof given === "number") throw new Error(`refused for ${given} ms`)
  return given
}
const call = (machine: Breaker, outcome: CircuitBreaker.Outcome, now: number, retryAfter?: number): void =>
  machine.settle(enter(machine, now), outcome, now, retryAfter)

/** What it tells of its changes: from, to, when. */
const heardOf = (machine: Breaker): Array<readonly [string, string, number]> => {
  const heard: Array<readonly [string, string, number]> = []
  machine.listeners.add(({ at, from, to }) => heard.push([from, to, at]))
  return heard
}

describe("a window of results", () => {
  it("takes the newest of what it is given, failures and slow ones alike", () => {
    const window = CountWindow.from(3, "0123")
    assert.deepInclude(window, { calls: 3, failures: 2, slow: 2 })
    assert.strictEqual(window.content(), "123")
    window.push(false, false)
    assert.deepInclude(window, { calls: 3, failures: 1, slow: 2 })
    window.push(true, false)
    assert.deepInclude(window, { calls: 3, failures: 2, slow: 1 })
    assert.strictEqual(window.content(), "301")
    assert.strictEqual(CountWindow.from(5, window.content()).content(), "301")
  })

  it("takes its slow results along to another size", () => {
    const window = { type: "count", size: 10, failureRate: 1 } as const
    const slowly = { slowCallDuration: 1 } as const
    const machine = machineOf({ window, ...slowly })
    for (const outcome of ["success", "failure"] as const) machine.settle(enter(machine, 0), outcome, 5)
    call(machine, "success", 5)
    machine.reload(machineOf({ window: { ...window, size: 5 }, ...slowly }).settings, 5)
    const seen = machine.snapshot(5)
    assert.deepInclude(seen, { calls: 3, failures: 1, slow: 2 })
    assert.deepStrictEqual(seen.window, { type: "count", results: "230" })
  })
})

describe("a window of time", () => {
  it("tells its buckets, the oldest first, and forgets calls, failures and slow ones alike", () => {
    const window = new TimeWindow(1_000, 4, 0)
    window.push(true, true)
    window.push(false, true)
    window.advance(250)
    window.push(true, false)
    window.advance(500)
    window.push(false, false)
    assert.deepInclude(window, { calls: 4, failures: 2, slow: 2, since: 500 })
    assert.deepStrictEqual(window.content(), [
      [0, 0, 0],
      [2, 1, 2],
      [1, 1, 0],
      [1, 0, 0]
    ])
    window.advance(1_249)
    assert.deepInclude(window, { calls: 2, failures: 1, slow: 0, since: 1_000 })
    assert.deepStrictEqual(window.content(), [
      [1, 1, 0],
      [1, 0, 0],
      [0, 0, 0],
      [0, 0, 0]
    ])
    window.advance(1_250)
    assert.deepInclude(window, { calls: 1, failures: 0, slow: 0 })
    window.push(true, true)
    window.advance(3_600_000)
    assert.deepInclude(window, { calls: 0, failures: 0, slow: 0, since: 3_600_000 })
    assert.deepStrictEqual(
      window.content(),
      Array.from({ length: 4 }, () => [0, 0, 0] as const)
    )
  })

  it("goes on with those of its buckets that are not too old", () => {
    const buckets = [
      [5, 4, 3],
      [1, 1, 0],
      [2, 0, 1],
      [3, 1, 0]
    ] as const
    const none = [0, 0, 0] as const
    for (const [time, kept, calls, failures, slow] of [
      [0, buckets, 11, 6, 4],
      [249, buckets, 11, 6, 4],
      // Began later than it is now, by a clock that was wrong.
      [-5_000, buckets, 11, 6, 4],
      [250, [buckets[1], buckets[2], buckets[3], none], 6, 2, 1],
      [500, [buckets[2], buckets[3], none, none], 5, 1, 1],
      [1_000, [none, none, none, none], 0, 0, 0],
      [60_000, [none, none, none, none], 0, 0, 0]
    ] as const) {
      const window = TimeWindow.from(1_000, buckets, 0, time)
      assert.deepStrictEqual(window.content(), kept, `at ${time}`)
      assert.deepInclude(window, { calls, failures, slow }, `at ${time}`)
    }
  })

  it("forgets as a whole also what is more than it can count", () => {
    const most = 2 ** 32 - 1
    const window = TimeWindow.from(
      1_000,
      [
        [0, 0, 0],
        [most, most, most]
      ],
      500,
      500
    )
    window.push(true, true)
    assert.deepInclude(window, { calls: most + 1, failures: most + 1, slow: most + 1 })
    window.advance(1_500)
    assert.deepInclude(window, { calls: 0, failures: 0, slow: 0 })
  })

  it("has no rate of nothing, nor have failures in a row", () => {
    const inRow = machineOf(many)
    call(inRow, "failure", 0)
    assert.deepInclude(inRow.snapshot(0), { calls: 1, failures: 1, failureRate: null, slowRate: null })
    const machine = machineOf({ window: { type: "time", over: 1_000, failureRate: 1 } })
    call(machine, "failure", 0)
    assert.deepInclude(machine.snapshot(0), { calls: 1, failureRate: 1, slowRate: 0 })
    assert.deepInclude(machine.snapshot(5_000), { calls: 0, failureRate: null, slowRate: null })
  })
})

describe("windows of different types", () => {
  const windows: ReadonlyArray<CircuitBreaker.Window> = [
    { type: "consecutive", failures: 10 },
    { type: "count", size: 10, failureRate: 1 },
    { type: "time", over: 10_000, buckets: 5, failureRate: 1, minimumCalls: 10 },
    { type: "time", over: 20_000, buckets: 5, failureRate: 1, minimumCalls: 10 },
    { type: "time", over: 10_000, buckets: 10, failureRate: 1, minimumCalls: 10 }
  ]
  const seenBy = (machine: Breaker) => {
    const { calls, failureRate, failures, slow, slowRate, window } = machine.snapshot(0)
    return { calls, failureRate, failures, slow, slowRate, window }
  }

  it("take nothing from each other, neither from a snapshot nor with other settings; the same go on", () => {
    for (const from of windows) {
      for (const to of windows) {
        const old = machineOf({ window: from })
        for (let failure = 0; failure < 3; failure++) call(old, "failure", 0)
        const restored = machineOf({ window: to })
        restored.restore(old.snapshot(0), 0)
        const expected = seenBy(from === to ? old : machineOf({ window: to }))
        const names = `${JSON.stringify(from)} to ${JSON.stringify(to)}`
        assert.deepStrictEqual(seenBy(restored), expected, `restored, ${names}`)
        old.reload(machineOf({ window: to }).settings, 0)
        assert.deepStrictEqual(seenBy(old), expected, `reloaded, ${names}`)
      }
    }
  })
})

describe("a refusal", () => {
  it("at a glance says what a look says, and is counted", () => {
    const machine = machineOf()
    assert.isUndefined(machine.refuses(0))
    call(machine, "failure", 0)
    assert.strictEqual(machine.refuses(10_000), 20_000)
    assert.strictEqual(machine.acquire(10_000), 20_000)
    assert.strictEqual(machine.counters.rejected, 2)
    // The call that may probe is none, of whichever way.
    assert.isUndefined(machine.refuses(30_000))
    assert.strictEqual(machine.counters.rejected, 2)
    assert.isNumber(enter(machine, 30_000).leaseUntil)
  })

  it("of what is held open has no end; of what is overridden it takes a look", () => {
    const machine = machineOf()
    machine.setMode("forced-open", 0)
    assert.strictEqual(machine.refuses(0), Number.POSITIVE_INFINITY)
    assert.strictEqual(machine.acquire(0), Number.POSITIVE_INFINITY)
    machine.setMode("automatic", 0)
    machine.setOverride({ mode: "forced-open", millis: 60_000, holds: true }, 0)
    assert.isUndefined(machine.refuses(1_000))
    assert.strictEqual(machine.acquire(1_000), 59_000)
  })

  it("is none where only the books are kept", () => {
    const machine = machineOf()
    machine.setMode("metrics-only", 0)
    call(machine, "failure", 0)
    assert.strictEqual(machine.snapshot(1).wouldBe, "open")
    assert.isUndefined(machine.refuses(1))
    assert.deepInclude(machine.counters, { rejected: 0, wouldReject: 0 })
    enter(machine, 1)
    assert.deepInclude(machine.counters, { rejected: 0, wouldReject: 1 })
  })
})

describe("who keeps it", () => {
  const kept = (options?: Options) => {
    const machine = machineOf(options)
    const seen = { away: false, placed: 0, called: [] as Array<number>, changes: [] as Array<Change> }
    const owner: Owner = {
      get away() {
        return seen.away
      },
      called: (now) => {
        seen.away = false
        seen.called.push(now)
      },
      placed: () => {
        seen.placed++
      },
      changed: (change) => {
        seen.changes.push(change)
      }
    }
    machine.owner = owner
    return { machine, seen }
  }

  it("hears of the first of many calls and of the last that ends, not of each", () => {
    const { machine, seen } = kept()
    const first = enter(machine, 0)
    assert.strictEqual(seen.placed, 1)
    const second = enter(machine, 0)
    machine.settle(first, "success", 0)
    assert.strictEqual(seen.placed, 1)
    machine.settle(second, "success", 0)
    assert.strictEqual(seen.placed, 2)
    machine.settle(second, "success", 0)
    assert.deepStrictEqual([seen.placed, machine.inFlight], [2, 0])
  })

  it("hears that it is used again before that shows any effect", () => {
    const { machine, seen } = kept()
    call(machine, "failure", 0)
    const saved = machine.snapshot(0)
    seen.away = true
    // At a glance nobody hears of it.
    assert.isUndefined(machine.refuses(1))
    assert.deepStrictEqual(seen.called, [])
    machine.acquire(1)
    assert.deepStrictEqual([seen.called, machine.refuses(1)], [[1], 29_999])
    seen.away = true
    machine.setMode("disabled", 2)
    seen.away = true
    machine.restore(saved, 3)
    machine.acquire(4)
    assert.deepStrictEqual(seen.called, [1, 2, 3])
  })

  it("is told of every change, and of nothing that is none", () => {
    const { machine, seen } = kept()
    call(machine, "failure", 5)
    assert.deepStrictEqual(seen.changes, [{ from: "closed", to: "open", at: 5 }])
    const { placed } = seen
    // No override for one that has none: it is not even looked at.
    machine.setOverride(undefined, 60_000)
    assert.deepStrictEqual([seen.changes.length, seen.placed], [1, placed])
    machine.setOverride({ mode: "disabled", millis: 10, holds: true }, 60_000)
    assert.isAbove(seen.placed, placed)
  })

  it("may let go of a closed one at once, and of one in trouble when it has waited in vain", () => {
    const { machine } = kept({ ...once, ...ramp })
    assert.isTrue(machine.isForgettable(0, 1_000))
    assert.isTrue(machine.isResting)
    call(machine, "failure", 0)
    assert.isFalse(machine.isResting)
    assert.isFalse(machine.isForgettable(30_999, 1_000))
    assert.isTrue(machine.isForgettable(31_000, 1_000))
    // Half-open since its time was over, not since somebody looked.
    assert.strictEqual(machine.state(40_000), "half-open")
    assert.isFalse(machine.isForgettable(40_000, 20_000))
    assert.isFalse(machine.isForgettable(49_999, 20_000))
    assert.isTrue(machine.isForgettable(50_000, 20_000))
    call(machine, "success", 60_000)
    assert.isFalse(machine.isResting)
    assert.isFalse(machine.isForgettable(69_999, 0))
    assert.isTrue(machine.isForgettable(70_000, 1_000_000))
  })

  it("keeps one that somebody forces by hand, and not one that many are told to follow", () => {
    const { machine } = kept()
    assert.isFalse(machine.isForced)
    machine.setMode("metrics-only", 0)
    assert.isTrue(machine.isForced)
    machine.setMode("automatic", 0)
    machine.setOverride({ mode: "disabled", millis: 10, holds: false }, 0)
    assert.isFalse(machine.isForced)
    machine.setOverride({ mode: "disabled", millis: 10, holds: true }, 0)
    assert.isTrue(machine.isForced)
    assert.strictEqual(machine.state(10), "closed")
    assert.isFalse(machine.isForced)
  })
})

describe("a permit", () => {
  it("that was given back is no right to anything any more", () => {
    const machine = machineOf()
    const ended = enter(machine, 0)
    assert.isTrue(machine.isCurrent(ended))
    machine.settle(ended, "success", 0)
    assert.isFalse(machine.isCurrent(ended))
    call(machine, "failure", 0)
    const probe = enter(machine, 30_000)
    machine.settle(probe, "neutral", 30_000)
    const other = enter(machine, 30_001)
    // Its first element comes after it was given up.
    assert.strictEqual(machine.progressed(probe, 30_002), probe)
    assert.deepInclude(machine.counters, { stale: 0 })
    assert.isTrue(machine.isCurrent(other))
  })

  it("to probe is one of so many, however those before it went", () => {
    const machine = machineOf({ ...once, halfOpenPermits: 3, halfOpenSuccessRate: 0.5 })
    call(machine, "failure", 0)
    call(machine, "failure", 30_000)
    enter(machine, 30_000)
    enter(machine, 30_000)
    assert.isNumber(machine.acquire(30_000))
    assert.strictEqual(machine.probesInFlight(30_000), 2)
  })

  it("of an override is one as long as that lets calls pass", () => {
    const machine = machineOf()
    machine.setOverride({ mode: "disabled", millis: 1_000, holds: true }, 0)
    const permit = enter(machine, 0)
    assert.isTrue(machine.isCurrent(permit))
    machine.setOverride({ mode: "metrics-only", millis: 1_000, holds: true }, 0)
    assert.isTrue(machine.isCurrent(permit))
    machine.setOverride({ mode: "forced-open", millis: 1_000, holds: true }, 0)
    assert.isFalse(machine.isCurrent(permit))
    machine.setOverride(undefined, 0)
    assert.isFalse(machine.isCurrent(permit))
  })
})

describe("another mode", () => {
  it("is a change where calls are let pass that were not, or the other way round", () => {
    const machine = machineOf()
    const heard = heardOf(machine)
    machine.setMode("metrics-only", 1)
    machine.setMode("forced-open", 2)
    machine.setMode("forced-open", 3)
    machine.setMode("disabled", 4)
    machine.setMode("automatic", 5)
    assert.deepStrictEqual(heard, [
      ["closed", "open", 2],
      ["open", "closed", 4]
    ])
  })

  it("shows only when the override before it is gone", () => {
    const machine = machineOf()
    const heard = heardOf(machine)
    machine.setOverride({ mode: "forced-open", millis: Number.POSITIVE_INFINITY, holds: true }, 1)
    const { generation } = machine
    machine.setMode("disabled", 2)
    assert.deepStrictEqual([machine.state(2), machine.generation], ["open", generation])
    machine.setOverride(undefined, 3)
    assert.deepStrictEqual([machine.state(3), machine.snapshot(3).mode], ["closed", "disabled"])
    assert.deepStrictEqual(heard, [
      ["closed", "open", 1],
      ["open", "closed", 3]
    ])
  })

  it("lets everybody back at once where nothing is counted, and slowly where something is", () => {
    for (const [mode, share] of [
      ["disabled", 1],
      ["metrics-only", 0.1],
      ["automatic", 0.1]
    ] as const) {
      const machine = machineOf({ ...once, ...ramp })
      machine.setMode("forced-open", 0)
      machine.setMode(mode, 5)
      assert.strictEqual(machine.snapshot(5).rampShare, share, mode)
    }
  })

  it("keeps the results where it is the same by another name", () => {
    const machine = machineOf(many)
    machine.setMode("metrics-only", 0)
    call(machine, "failure", 0)
    machine.setOverride({ mode: "metrics-only", millis: 1_000, holds: true }, 0)
    call(machine, "failure", 0)
    machine.setOverride({ mode: "metrics-only", millis: 100, holds: true }, 0)
    assert.deepInclude(machine.snapshot(99), { failures: 2, override: "metrics-only" })
    assert.deepInclude(machine.snapshot(100), { failures: 2, override: null })
    machine.setMode("metrics-only", 100)
    assert.strictEqual(machine.snapshot(100).failures, 2)
  })
})

describe("an override", () => {
  it("ends in its last moment, and what it held open is a change then", () => {
    const machine = machineOf({ ...once, ...ramp })
    const heard = heardOf(machine)
    machine.setOverride({ mode: "forced-open", millis: 1_000, holds: true }, 0)
    assert.strictEqual(machine.state(999), "open")
    assert.strictEqual(machine.state(1_000), "closed")
    assert.strictEqual(machine.snapshot(1_000).rampShare, 0.1)
    assert.deepStrictEqual(heard, [
      ["closed", "open", 0],
      ["open", "closed", 1_000]
    ])
  })

  it("that let calls pass ends without a change, and what is forced open here is so from then on", () => {
    const machine = machineOf()
    const heard = heardOf(machine)
    machine.setOverride({ mode: "disabled", millis: 1_000, holds: true }, 0)
    assert.strictEqual(machine.state(1_000), "closed")
    assert.deepStrictEqual(heard, [])
    machine.setOverride({ mode: "disabled", millis: 1_000, holds: true }, 1_000)
    machine.setMode("forced-open", 1_500)
    assert.strictEqual(machine.state(1_999), "closed")
    assert.strictEqual(machine.state(2_000), "open")
    assert.deepStrictEqual(heard, [["closed", "open", 2_000]])
  })

  it("that only keeps the books tells nobody what the state would be", () => {
    const machine = machineOf()
    const heard = heardOf(machine)
    machine.setOverride({ mode: "metrics-only", millis: 1_000, holds: true }, 0)
    call(machine, "failure", 0)
    assert.deepInclude(machine.snapshot(0), { state: "closed", wouldBe: "open" })
    assert.deepStrictEqual(heard, [])
  })

  it("that is over when it is said never was", () => {
    const breaker = breakerOf()
    const heard = heardOf(breaker.machine)
    const say = (until: number) => breaker.control(new Map([["x", { mode: "forced-open", until }]]), 1_000)
    for (const until of [500, 1_000]) {
      say(until)
      assert.isNull(breaker.machine.snapshot(1_000).override)
    }
    assert.deepStrictEqual(heard, [])
    say(1_001)
    assert.deepStrictEqual(heard, [["closed", "open", 1_000]])
    // It is about this breaker alone, which must be kept for it.
    assert.isTrue(breaker.machine.isForced)
  })
})

describe("reset and restore", () => {
  it("tell what they change, and nothing where they change nothing", () => {
    const machine = machineOf()
    const heard = heardOf(machine)
    machine.reset(1)
    const fresh = machine.snapshot(1)
    assert.deepStrictEqual(heard, [])
    call(machine, "failure", 2)
    const open = machine.snapshot(2)
    machine.restore(open, 3)
    machine.reset(4)
    machine.restore(fresh, 5)
    machine.restore(open, 6)
    assert.deepStrictEqual(heard, [
      ["closed", "open", 2],
      ["open", "closed", 4],
      ["closed", "open", 6]
    ])
  })

  it("an open time begins and ends when it did, whatever the settings are now", () => {
    const old = machineOf({ ...once, openFor: 10_000 })
    call(old, "failure", 100_000)
    const saved = old.snapshot(100_000)
    const machine = machineOf()
    machine.restore(saved, 104_000)
    assert.deepInclude(machine.snapshot(104_000), { openedAt: 100_000, openUntil: 110_000 })
    // Where the clock was wrong then, it is open for as long as it was to be then.
    const early = machineOf()
    early.restore(saved, 50_000)
    assert.strictEqual(early.refuses(50_000), 10_000)
  })

  it("go by the clock also where it has stepped back", () => {
    const machine = machineOf()
    machine.state(7_200_000)
    machine.state(3_600_000)
    const old = machineOf()
    call(old, "failure", 3_600_000)
    machine.restore(old.snapshot(3_600_000), 3_610_000)
    assert.strictEqual(machine.refuses(3_610_000), 20_000)
    assert.deepInclude(machine.snapshot(3_610_000), { openedAt: 3_600_000, openUntil: 3_630_000 })
  })

  it.effect("a closed one is closed, whatever else its snapshot says of an open time", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
      const seen = yield* breaker.snapshot
      for (const odd of [{ openedAt: 0, openUntil: 60_000 }, { openedAt: 0 }, { openUntil: 60_000 }]) {
        yield* breaker.restore({ ...seen, ...odd })
        assert.strictEqual(yield* breaker.state, "closed", JSON.stringify(odd))
      }
    })
  )
})

describe("a ramp", () => {
  /** Closed at 30 s, and open to all at 40 s. */
  const ramping = () => {
    const machine = machineOf({ ...once, ...ramp })
    call(machine, "failure", 0)
    call(machine, "success", 30_000)
    return machine
  }

  it("ends when the clock says, also where that has stepped back", () => {
    const machine = ramping()
    assert.deepInclude(machine.snapshot(35_000), { rampShare: 0.55, rampUntil: 40_000 })
    assert.deepInclude(machine.snapshot(15_000), { rampShare: 0.55, rampUntil: 20_000 })
    assert.deepInclude(machine.snapshot(19_999), { rampUntil: 20_000 })
    assert.deepInclude(machine.snapshot(20_000), { rampShare: 1, rampUntil: null, openings: 0 })
  })

  it("counts openings in a row until it ends, also where a call only ends later", () => {
    for (const [end, openings] of [
      [39_999, 2],
      [40_000, 1],
      [40_001, 1]
    ] as const) {
      const machine = ramping()
      assert.strictEqual(machine.snapshot(30_000).openings, 1)
      const permit = enter(machine, 30_000)
      machine.settle(permit, "failure", end)
      assert.deepInclude(machine.snapshot(end), { state: "open", openings })
    }
  })

  it("is gone with the settings that it was of, and then no opening is in a row", () => {
    const saved = ramping().snapshot(32_000)
    const machine = machineOf({ ...once, ...ramp })
    machine.restore(saved, 33_000)
    assert.deepInclude(machine.snapshot(33_000), { rampShare: 0.37, rampUntil: 40_000, openings: 1 })
    for (const [options, now] of [
      [once, 33_000],
      [{ ...once, ...ramp }, 40_000],
      [{ ...once, ...ramp }, 50_000]
    ] as const) {
      const other = machineOf(options)
      other.restore(saved, now)
      assert.deepInclude(other.snapshot(now), { rampShare: 1, rampUntil: null, openings: 0 })
      call(other, "failure", now)
      assert.strictEqual(other.snapshot(now).openings, 1)
    }
    // Nor is there one where there was none.
    machine.restore(machineOf().snapshot(60_000), 60_000)
    assert.deepInclude(machine.snapshot(60_000), { rampShare: 1, rampUntil: null })
  })

  it("is none where none is set, and then closed is wholly closed", () => {
    const machine = machineOf()
    call(machine, "failure", 0)
    assert.strictEqual(machine.snapshot(0).openings, 1)
    call(machine, "success", 30_000)
    assert.deepInclude(machine.snapshot(30_000), { rampShare: 1, rampUntil: null, openings: 0 })
  })
})

describe("the time it is open", () => {
  const openedFor = (options: Options, retryAfter?: number) => {
    const machine = machineOf({ ...once, ...options })
    call(machine, "failure", 0, retryAfter)
    return machine.refuses(0)
  }

  it("of a function is what it gives; what is no time is 30 seconds", () => {
    for (const [given, millis] of [
      ["5 seconds", 5_000],
      [Duration.minutes(1), 60_000],
      [1_234, 1_234],
      [Number.NaN, 30_000],
      [-5, 30_000],
      [Number.POSITIVE_INFINITY, 30_000],
      [Duration.infinity, 30_000],
      // At once half-open.
      [0, undefined]
    ] as const) {
      assert.strictEqual(openedFor({ openFor: () => given }), millis, String(given))
    }
  })

  it("is drawn only where it is to be, and as it is otherwise", () => {
    let drawn = 0
    const random = () => {
      drawn++
      return 0.5
    }
    assert.strictEqual(openedFor({ openFor: Duration.millis(1_000.4), random }), 1_000.4)
    assert.strictEqual(drawn, 0)
    assert.strictEqual(openedFor({ openFor: 1_000, openJitter: 0.2, random }), 900)
    assert.strictEqual(drawn, 1)
    assert.strictEqual(openedFor({ openFor: 1_000, openJitter: 0.2, random: () => 1.5 }), 1_000)
  })

  it("is not shortened by a wish that is none", () => {
    for (const retryAfter of [0, -60_000, Number.NaN]) {
      assert.strictEqual(openedFor({ retryAfterCap: 60_000 }, retryAfter), 30_000, String(retryAfter))
    }
    assert.strictEqual(openedFor({ retryAfterCap: 60_000 }, 40_000), 40_000)
  })

  it("can be drawn where no fiber runs", () => {
    const drawn = Array.from({ length: 20 }, currentRandom)
    assert.isTrue(drawn.every((each) => each >= 0 && each < 1))
    assert.isAbove(new Set(drawn).size, 10)
  })
})

describe("options", () => {
  const count = { type: "count", size: 10, failureRate: 0.5 } as const
  const time = { type: "time", over: "10 millis", failureRate: 0.5 } as const
  const made = (options: Options) => CircuitBreaker.make({ ...options, name: "x" })

  it.effect("what is just allowed is", () =>
    Effect.gen(function* () {
      for (const options of [
        { window: { ...count, size: 1_000_000 } },
        { window: { ...count, minimumCalls: 10 } },
        { window: { ...time, buckets: 10 } },
        { window: { ...time, over: "1 minute", buckets: 10_000, minimumCalls: 1_000 } },
        { window: { ...time, over: "1 nanos", buckets: 1 } },
        { openFor: { initial: "1 second", factor: 1, max: "1 second" } },
        { openJitter: 0 },
        { halfOpenSuccessRate: 1 }
      ] as ReadonlyArray<Options>) {
        assert.isTrue(Exit.isSuccess(yield* Effect.exit(made(options))), JSON.stringify(options))
      }
    })
  )

  it.effect("what is just not is not, and is named", () =>
    Effect.gen(function* () {
      for (const [options, remedy] of [
        [{ window: { ...count, size: 1_000_001 } }, "breaker.window.size is 1000001"],
        [{ window: { ...count, minimumCalls: 0 } }, "breaker.window.minimumCalls is 0"],
        [{ window: { ...count, minimumCalls: 11 } }, "breaker.window.minimumCalls (11) is more than its size (10)"],
        [{ window: { ...time, over: "1 minute", buckets: 10_001 } }, "breaker.window.buckets is 10001"],
        [{ window: { ...time, buckets: 11 } }, "breaker.window.buckets (11) are shorter"],
        [{ openFor: 0 }, "breaker.openFor is 0 ms"],
        [{ openFor: { initial: "1 second", max: Duration.infinity } }, "breaker.openFor.max is Infinity ms"],
        [{ openJitter: -0.1 }, "breaker.openJitter is -0.1"],
        [
          { window: { type: "consecutive", failures: 5 }, slowCallRate: 0.5, slowCallDuration: "1 second" },
          "breaker.slowCallRate is not minded"
        ]
      ] as ReadonlyArray<readonly [Options, string]>) {
        const said = yield* made(options).pipe(Effect.sandbox, Effect.flip, Effect.map(Cause.pretty))
        assert.include(said, `CircuitBreaker "x": ${remedy}`)
        // And nothing else.
        assert.notInclude(said, ";")
      }
    })
  )

  it("that are the same are kept once, as far as they are in use", () => {
    const settings = (options: Options) => machineOf(options).settings
    const growing = (initial: number) => ({ openFor: { initial } })
    const first = settings(growing(111))
    const second = settings(growing(112))
    assert.strictEqual(settings(growing(111)), first)
    assert.strictEqual(settings(growing(112)), second)
    // Also their parts, where the whole is another.
    const other = settings({ ...growing(111), halfOpenPermits: 3 })
    assert.notStrictEqual(other, first)
    assert.strictEqual(other.openFor, first.openFor)
    assert.strictEqual(settings({ window: count }).window, settings({ window: count, openJitter: 0.25 }).window)
    // No more than the last eight are compared with.
    const ninth = Array.from({ length: 8 }, (_, more) => settings(growing(200 + more)))
    assert.notStrictEqual(settings(growing(111)), first)
    assert.strictEqual(settings(growing(207)), ninth[7])
  })

  it("are told in a sentence", () => {
    const described = (options: Options) => breakerOf(options).description
    assert.strictEqual(described({}), "5 failures in a row open it for 30s, 1 probe")
    assert.strictEqual(
      described({
        window: count,
        openFor: { initial: "1 second", factor: 3, max: "1 minute" },
        openJitter: 0.125,
        halfOpenPermits: 4,
        halfOpenSuccessRate: 0.5,
        ...ramp
      }),
      "50 % of the last 10 (at least 10) open it for 1s, growing by 3 up to 1m less up to 12.5 %, " +
        "4 probes of which 50 % must succeed, then from 10 % to all calls over 10s"
    )
    assert.strictEqual(
      described({
        window: { ...time, over: "1 minute" },
        slowCallDuration: "2 seconds",
        slowCallRate: 0.25,
        openFor: () => 1
      }),
      "50 % failed or 25 % slower than 2s of those of the last 1m (at least 20) open it for a growing time, 1 probe"
    )
  })
})

describe("what it is known by", () => {
  it.effect("isCircuitBreaker: breakers, and nothing else", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x" })
      assert.isTrue(CircuitBreaker.isCircuitBreaker(breaker))
      assert.strictEqual(breaker[CircuitBreaker.TypeId], CircuitBreaker.TypeId)
      for (const other of [undefined, null, "breaker", 1, {}, () => breaker]) {
        assert.isFalse(CircuitBreaker.isCircuitBreaker(other))
      }
    })
  )

  it.effect("a tag of one's own brings its layer along", () => {
    class Mail extends CircuitBreaker.tag("test/Mail", { ...once, name: "mail" })<Mail>() {}
    return Effect.gen(function* () {
      const mail = yield* Mail
      assert.strictEqual(mail.name, "mail")
      yield* Effect.exit(mail.run(Effect.fail("down")))
      assert.strictEqual(yield* mail.state, "open")
    }).pipe(Effect.provide(Mail.layer))
  })

  it.effect("run is the method, before or after the effect", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
      assert.strictEqual(yield* CircuitBreaker.run(Effect.succeed(1), breaker), 1)
      assert.strictEqual(yield* Effect.succeed(2).pipe(CircuitBreaker.run(breaker)), 2)
      yield* Effect.exit(CircuitBreaker.run(Effect.fail("down"), breaker))
      const refused = yield* Effect.flip(CircuitBreaker.run(Effect.void, breaker))
      assert.strictEqual(refused._tag, "CircuitOpen")
      assert.strictEqual(refused.message, "x: the circuit is open, ask again in 30s")
      yield* breaker.setMode("forced-open")
      assert.strictEqual((yield* Effect.flip(breaker.run(Effect.void))).message, "x: the circuit is held open")
    })
  )
})

describe("what counts", () => {
  it.effect("an error by what it says of the service; a refusal of our own says nothing of it", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x" })
      const refusal = new CircuitBreaker.CircuitOpen({ service: "y", retryAfter: Duration.seconds(1) })
      for (const [cause, outcome] of [
        [Cause.fail(refusal), "neutral"],
        [Cause.fail({ status: 503 }), "failure"],
        [Cause.fail({ status: 404 }), "success"],
        [Cause.fail({ status: 429 }), "neutral"],
        [Cause.fail("unknown"), "failure"],
        [Cause.die("bug"), "failure"],
        [Cause.empty, "neutral"]
      ] as const) {
        assert.strictEqual(breaker.outcome(cause), outcome, String(cause))
      }
    })
  )

  it("a permit is given back with how its call ended, or with nothing where that was given up as too slow", () => {
    const breaker = breakerOf(many)
    const { machine } = breaker
    breaker.settle(enter(machine, 0), Exit.void, 0)
    assert.deepInclude(machine.counters, { successes: 1, failures: 0, neutral: 0 })
    breaker.settle(enter(machine, 0), undefined, 0)
    assert.deepInclude(machine.counters, { successes: 1, failures: 1, neutral: 0 })
    breaker.settle(enter(machine, 0), Exit.fail({ status: 404 }), 0)
    assert.deepInclude(machine.counters, { successes: 2, failures: 1, neutral: 0 })
    breaker.settle(enter(machine, 0), Exit.fail({ status: 503 }), 0)
    assert.deepInclude(machine.counters, { successes: 2, failures: 2, neutral: 0 })
    breaker.settle(enter(machine, 0), Exit.interrupt(FiberId.none), 0)
    assert.deepInclude(machine.counters, { successes: 2, failures: 2, neutral: 1 })
    assert.strictEqual(machine.inFlight, 0)
  })
})

describe("changes", () => {
  it.effect("a reader that is held up has the last 64 to read, and the one that it was at", () =>
    Effect.gen(function* () {
      const breaker = breakerOf()
      const gate = yield* Deferred.make<void>()
      const reader = yield* breaker.changes.pipe(
        Stream.tap(() => Deferred.await(gate)),
        Stream.map((change) => change.at),
        Stream.takeUntil((at) => at === 200),
        Stream.runCollect,
        Effect.fork
      )
      yield* Effect.repeatN(Effect.yieldNow(), 20)
      for (let at = 1; at <= 200; at++) breaker.machine.setMode(at % 2 === 1 ? "forced-open" : "automatic", at)
      yield* Deferred.succeed(gate, undefined)
      const read = Chunk.toReadonlyArray(yield* Fiber.join(reader))
      assert.deepStrictEqual(
        read.slice(-64),
        Array.from({ length: 64 }, (_, index) => 137 + index)
      )
      assert.isAtMost(read.length, 70)
    })
  )
})

describe("a snapshot that cannot be", () => {
  const open = Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({ ...once, name: "x" })
    yield* Effect.exit(breaker.run(Effect.fail("down")))
    const good = yield* breaker.snapshot
    const problem = (with_: object) => Effect.map(Effect.flip(breaker.restore({ ...good, ...with_ })), (e) => e.problem)
    return { breaker, good, problem }
  })

  it.effect("is refused with all that is wrong with it", () =>
    Effect.gen(function* () {
      const { good, problem } = yield* open
      const said = yield* problem({ generation: -1, inFlight: "one", counters: { ...good.counters, stale: "many" } })
      for (const each of ["actual -1", 'actual "one"', 'actual "many"']) assert.include(said, each)
    })
  )

  it.effect("also where only one of two is missing, or only slow calls are too many", () =>
    Effect.gen(function* () {
      const { problem } = yield* open
      assert.include(yield* problem({ openedAt: null }), "since and until when")
      assert.include(yield* problem({ slow: 2 }), "more failures or slow calls than calls")
      const window = {
        type: "time",
        over: 1,
        since: 0,
        buckets: [
          [1, 1, 2],
          [1, 1, 1]
        ]
      }
      assert.include(yield* problem({ window }), "a bucket of its window has more failures or slow calls")
    })
  )

  it.effect("not where it is odd and yet possible: open for no time, or overridden", () =>
    Effect.gen(function* () {
      const { breaker, good } = yield* open
      yield* breaker.restore({ ...good, openedAt: 5, openUntil: 5 })
      assert.strictEqual(yield* breaker.state, "half-open")
      yield* breaker.restore({ ...good, override: "disabled", state: "closed" })
      assert.strictEqual(yield* breaker.state, "open")
    })
  )
})
