import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Effect, FastCheck, TestClock } from "effect"

/** What the pipeline calls: not for users, so it is in no type. */
interface Machine {
  readonly acquire: (now: number) => Permit | number
  readonly refuses: (now: number) => number | undefined
  readonly settle: (permit: Permit, outcome: CircuitBreaker.Outcome, now: number, retryAfter?: number) => void
  readonly progressed: (permit: Permit, now: number) => Permit
  readonly isCurrent: (permit: Permit) => boolean
  readonly setMode: (mode: CircuitBreaker.Mode, now: number) => void
  readonly setOverride: (
    override: { readonly mode: CircuitBreaker.Mode; readonly millis: number; readonly holds: boolean } | undefined,
    now: number
  ) => void
  readonly reset: (now: number) => void
  readonly snapshot: (now: number) => CircuitBreaker.Snapshot
  readonly restore: (snapshot: CircuitBreaker.Snapshot, now: number) => void
}
interface Permit {
  readonly settled: boolean
}

type Step =
  | { readonly do: "begin" | "begin again" | "progress" | "reset" | "save" | "restore" }
  | { readonly do: "end"; readonly which: number; readonly how: CircuitBreaker.Outcome; readonly retryAfter: number }
  | { readonly do: "mode"; readonly mode: CircuitBreaker.Mode }
  | { readonly do: "override"; readonly mode: CircuitBreaker.Mode | undefined; readonly millis: number }
  | { readonly do: "reload"; readonly which: number }
  | { readonly do: "pass"; readonly millis: number }

const settings: ReadonlyArray<Omit<CircuitBreaker.Options, "name">> = [
  { window: { type: "consecutive", failures: 2 }, openFor: 500, probeLease: 700 },
  {
    window: { type: "count", size: 5, failureRate: 0.5, minimumCalls: 2 },
    openFor: { initial: 100, max: 2_000 },
    slowCallDuration: 300,
    slowCallRate: 0.5,
    halfOpenPermits: 3,
    halfOpenSuccessRate: 0.6,
    retryAfterCap: 1_500,
    probeLease: 400
  },
  {
    window: { type: "time", over: 1_000, failureRate: 0.5, minimumCalls: 1 },
    openFor: 300,
    halfOpenPermits: 2,
    rampUp: { over: 1_000, from: 0.001 },
    probeLease: 1_000
  }
]

const modes = ["automatic", "forced-open", "disabled", "metrics-only"] as const
const often = <A>(weight: number, arbitrary: FastCheck.Arbitrary<A>) => ({ arbitrary, weight })
const step: FastCheck.Arbitrary<Step> = FastCheck.oneof(
  often(8, FastCheck.constantFrom<Array<Step>>({ do: "begin" })),
  often(2, FastCheck.constantFrom<Array<Step>>({ do: "begin again" }, { do: "progress" })),
  often(
    8,
    FastCheck.record({
      do: FastCheck.constant("end" as const),
      which: FastCheck.nat(9),
      how: FastCheck.constantFrom<Array<CircuitBreaker.Outcome>>("success", "failure", "failure", "neutral"),
      retryAfter: FastCheck.constantFrom(0, 0, 5_000, Number.NaN, Number.POSITIVE_INFINITY)
    })
  ),
  often(
    4,
    FastCheck.record({ do: FastCheck.constant("pass" as const), millis: FastCheck.integer({ min: -500, max: 700 }) })
  ),
  often(
    1,
    FastCheck.oneof(
      FastCheck.record({ do: FastCheck.constant("mode" as const), mode: FastCheck.constantFrom(...modes) }),
      FastCheck.record({
        do: FastCheck.constant("override" as const),
        mode: FastCheck.constantFrom<Array<CircuitBreaker.Mode | undefined>>(undefined, ...modes.slice(1)),
        millis: FastCheck.constantFrom(1, 400, Number.POSITIVE_INFINITY)
      }),
      FastCheck.record({ do: FastCheck.constant("reload" as const), which: FastCheck.nat(settings.length - 1) }),
      FastCheck.constantFrom<Array<Step>>({ do: "reset" }, { do: "save" }, { do: "restore" })
    )
  )
)

describe("CircuitBreaker, whatever its history", () => {
  it.effect("counts every call once, refuses with a time that passes, and always lets a call through in the end", () =>
    Effect.gen(function* () {
      for (const history of FastCheck.sample(FastCheck.array(step, { maxLength: 120, size: "max" }), 150)) {
        yield* play(history)
      }
    })
  )

  const play = (history: ReadonlyArray<Step>) =>
    Effect.gen(function* () {
      const told = (problem: string) => `${problem}, after ${JSON.stringify(history)}`
      const breaker = yield* CircuitBreaker.make({ ...settings[0], name: "x" })
      const { machine } = breaker as unknown as { readonly machine: Machine }
      let now = 1_790_000_000_000
      let saved: CircuitBreaker.Snapshot | undefined
      let probes = 3
      const calls: Array<Permit> = []
      let ended = 0
      const refusedFor = (millis: number): void => {
        const seen = machine.snapshot(now)
        assert.isAbove(millis, 0, told("a refusal says when to ask again"))
        if (millis === Number.POSITIVE_INFINITY) {
          assert.include([seen.mode, seen.override], "forced-open", told("only who is held open says never"))
        }
      }
      for (const each of history) {
        switch (each.do) {
          case "begin": {
            // The short way to a refusal says what the long one says.
            const quick = machine.refuses(now)
            const given = machine.acquire(now)
            if (quick !== undefined) assert.strictEqual(given, quick, told("both ways refuse alike"))
            if (typeof given === "number") refusedFor(given)
            else calls.push(given)
            break
          }
          case "begin again": {
            const permit = calls[0]
            if (permit === undefined || machine.isCurrent(permit)) break
            machine.settle(permit, "neutral", now)
            calls.shift()
            ended++
            break
          }
          case "progress": {
            const permit = calls.shift()
            if (permit === undefined) break
            const rest = machine.progressed(permit, now)
            // The end of what is no permit any more.
            if (rest !== permit) machine.settle(permit, "failure", now)
            calls.push(rest)
            break
          }
          case "end": {
            const [permit] = calls.splice(each.which % Math.max(1, calls.length), 1)
            if (permit === undefined) break
            machine.settle(permit, each.how, now, each.retryAfter)
            machine.settle(permit, "failure", now)
            ended++
            break
          }
          case "pass":
            now += each.millis
            break
          case "mode":
            machine.setMode(each.mode, now)
            break
          case "override":
            machine.setOverride(
              each.mode === undefined ? undefined : { mode: each.mode, millis: each.millis, holds: true },
              now
            )
            break
          case "reload":
            yield* TestClock.setTime(now)
            yield* breaker.reload(settings[each.which] ?? {})
            break
          case "reset":
            machine.reset(now)
            break
          case "save":
            saved = machine.snapshot(now)
            break
          case "restore":
            if (saved === undefined) break
            machine.restore(saved, now)
            ended = saved.counters.successes + saved.counters.failures + saved.counters.neutral
            break
        }
        const seen = machine.snapshot(now)
        assert.strictEqual(seen.inFlight, calls.length, told("what is under way"))
        assert.isAtMost(seen.probesInFlight, Math.min(probes, calls.length), told("probes"))
        const { failures, neutral, successes } = seen.counters
        assert.strictEqual(successes + failures + neutral, ended, told("each call ends once"))
        assert.isAtMost(seen.failures, seen.calls, told("failures in the window"))
        if (seen.openUntil !== null) assert.isAtMost(seen.openUntil - now, 2_000, told("an open time ends"))
        // Probes of before may be more than are permitted now.
        probes = Math.max(1, seen.probesInFlight, 3)
      }
      // However it was left, with calls that never end: it lets a call through soon.
      machine.setOverride(undefined, now)
      machine.setMode("automatic", now)
      let waited = 0
      for (let given = machine.acquire(now); typeof given === "number"; given = machine.acquire(now)) {
        refusedFor(given)
        waited += given
        now += given
        assert.isBelow(waited, 5_000, told("it is wedged"))
      }
    })
})
