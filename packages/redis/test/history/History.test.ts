import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Effect } from "effect"
import * as Run from "./run.ts"

/** How long the long runs are, in seconds: `UNDERLAY_HISTORY_SECONDS=600` for a night. */
const seconds = Number(process.env["UNDERLAY_HISTORY_SECONDS"] ?? "8")

/** `UNDERLAY_HISTORY_SEED` runs one again. */
const given = process.env["UNDERLAY_HISTORY_SEED"]
const seeds = given === undefined ? [1, 1 + Math.floor(Math.random() * 1_000_000)] : [Number(given)]

const isVerbose = seconds > 60 || given !== undefined

const report = (what: string, { anomalies, ...rest }: Run.Report) => {
  const text = `${what}: ${JSON.stringify(rest)}\n${anomalies.slice(0, 3).join("\n")}`
  if (isVerbose) process.stderr.write(`${text}\n`)
  return text
}

const timeout = seconds * 4_000 + 120_000

describe.skipIf(Need.missing("redis-server"))(Need.title("histories", "redis-server"), () => {
  for (const [index, seed] of seeds.entries()) {
    const thefts = index > 0
    it.scopedLive(
      `sessions are linearizable under faults, seed ${seed}`,
      () =>
        Effect.gen(function* () {
          const result = yield* Run.sessions({ seed, seconds: seconds / seeds.length })
          const text = report("sessions", result)
          assert.deepStrictEqual(result.anomalies, [], text)
          assert.isAbove(result.operations, 50, text)
        }),
      timeout
    )

    it.scopedLive(
      `a fenced resource is safe under faults${thefts ? ", also where locks are deleted" : ""}, seed ${seed}`,
      () =>
        Effect.gen(function* () {
          const result = yield* Run.locks({ seed, seconds: seconds / seeds.length, thefts })
          const text = report("locks", result)
          assert.deepStrictEqual(result.anomalies, [], text)
          assert.isAbove(result.operations, 5, text)
        }),
      timeout
    )
  }

  // that it finds what is wrong: the same runs with a part of the safety taken out
  it.scopedLive(
    "without compare-and-set, updates are lost and it says so",
    () =>
      Effect.gen(function* () {
        const result = yield* Run.sessions({ seed: 2, seconds: 2, mode: "blind", calm: true })
        assert.isAbove(result.anomalies.length, 0, report("blind", result))
      }),
    timeout
  )

  it.scopedLive(
    "without tombstones, sessions come back and it says so",
    () =>
      Effect.gen(function* () {
        const result = yield* Run.sessions({ seed: 3, seconds: 2, mode: "graveless", calm: true })
        assert.isAbove(result.anomalies.length, 0, report("graveless", result))
      }),
    timeout
  )

  it.scopedLive(
    "without fencing, holders that were stopped write late and it says so",
    () =>
      Effect.gen(function* () {
        const result = yield* Run.locks({ seed: 4, seconds: 4, mode: "unfenced", stops: 0.2, calm: true })
        assert.isTrue(
          result.anomalies.some((one) => one.includes("LateWrite") || one.includes("LostUpdate")),
          report("unfenced", result)
        )
      }),
    timeout
  )
})
