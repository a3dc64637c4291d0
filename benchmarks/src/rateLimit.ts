/**
 * How near a rate limit comes to its rate on a live clock, whose timers have a grain of a millisecond and are late: ours
 * in both algorithms, and Effect's own. Fibers ask for more than there is for three seconds. What counts is what passed
 * after the first second, in which a token bucket lets its burst pass; and the most in any second and in any millisecond,
 * as the callers saw it, who have their turn a little after they were let through. The second table is what a call costs
 * that need not wait, and one that is refused.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { RateLimit } from "@underlay/core"
import { Duration, Effect, RateLimiter } from "effect"
import { type Case, compare, machine } from "./Harness.ts"

interface Measured {
  readonly name: string
  readonly rate: number
  readonly measured: number
  readonly error: number
  readonly mostInASecond: number
  readonly mostInAMillisecond: number
}

const millis = 3_000
const patient = { maxWait: Duration.infinity, maxQueue: Number.POSITIVE_INFINITY } as const
const rates = [10, 100, 1_000, 1_500, 3_000, 10_000, 50_000]

/** What passed in each millisecond while callers always wanted more. */
const saturate = (take: Effect.Effect<unknown, unknown>, workers: number): Effect.Effect<Array<number>> =>
  Effect.gen(function* () {
    const passed = new Array<number>(millis).fill(0)
    const started = Date.now()
    const worker = Effect.forever(
      Effect.zipRight(
        take,
        Effect.sync(() => {
          const at = Date.now() - started
          if (at < millis) passed[at] = (passed[at] ?? 0) + 1
        })
      )
    )
    yield* Effect.forEach(Array.from({ length: workers }), () => Effect.ignore(worker), {
      concurrency: "unbounded",
      discard: true
    }).pipe(Effect.timeout(millis), Effect.ignore)
    return passed
  })

const measure = (name: string, rate: number, passed: ReadonlyArray<number>): Measured => {
  const settled = passed.slice(1_000)
  const measured = (settled.reduce((total, each) => total + each, 0) * 1_000) / settled.length
  let inside = 0
  let most = 0
  for (let i = 0; i < passed.length; i++) {
    inside += (passed[i] ?? 0) - (i >= 1_000 ? (passed[i - 1_000] ?? 0) : 0)
    most = Math.max(most, inside)
  }
  return {
    name,
    rate,
    measured,
    error: (measured - rate) / rate,
    mostInASecond: most,
    mostInAMillisecond: passed.reduce((found, each) => Math.max(found, each), 0)
  }
}

const accuracy = Effect.gen(function* () {
  const rows: Array<Measured> = []
  for (const rate of rates) {
    const workers = 20 + Math.ceil((rate / 1_000) * 15)
    const gcra = yield* RateLimit.make({ name: "gcra", limit: rate, ...patient })
    rows.push(measure("gcra", rate, yield* saturate(gcra.take(), workers)))
    const window = yield* RateLimit.make({ name: "window", limit: rate, algorithm: "sliding-window", ...patient })
    rows.push(measure("sliding window", rate, yield* saturate(window.take(), workers)))
    const theirs = yield* Effect.scoped(
      Effect.flatMap(RateLimiter.make({ limit: rate, interval: "1 second" }), (limiter) =>
        saturate(limiter(Effect.void), workers)
      )
    )
    rows.push(measure("Effect's RateLimiter", rate, theirs))
  }
  return rows
})

const inFiber = (name: string, effect: Effect.Effect<unknown, unknown>): Case => ({
  name,
  run: (n) =>
    Effect.runPromise(
      Effect.gen(function* () {
        for (let i = 0; i < n; i++) yield* Effect.exit(effect)
      })
    )
})

export const run = async (): Promise<void> => {
  const host = machine()
  const rows = await Effect.runPromise(accuracy)
  console.log(`\nA rate limit on a live clock  (${millis / 1_000} s each, the first second not counted)`)
  for (const row of rows) {
    console.log(
      `  ${row.name.padEnd(20)}  ${String(row.rate).padStart(6)}/s  measured ${row.measured.toFixed(1).padStart(8)}/s  ` +
        `${(row.error * 100).toFixed(1).padStart(6)} %  at most ${String(row.mostInASecond).padStart(6)} in a second, ` +
        `${String(row.mostInAMillisecond).padStart(5)} in a millisecond`
    )
  }
  const folder = Path.resolve(import.meta.dirname, "../results")
  Fs.mkdirSync(folder, { recursive: true })
  const date = new Date().toISOString()
  Fs.writeFileSync(
    Path.join(folder, `${date.slice(0, 10)}-rate-limit-accuracy.json`),
    `${JSON.stringify({ name: "rate-limit-accuracy", date, machine: host, millis, rows }, null, 1)}\n`
  )

  const open = Effect.runSync(RateLimit.make({ name: "open", limit: 1e9, burst: 1e6 }))
  const openWindow = Effect.runSync(RateLimit.make({ name: "open", limit: 1e9, algorithm: "sliding-window" }))
  const shut = Effect.runSync(RateLimit.make({ name: "shut", limit: 1, interval: "1 day", maxWait: false }))
  Effect.runSync(shut.take())
  await compare({
    name: "rate-limit",
    title: "What a rate limit costs, in a fiber",
    base: "nothing",
    cases: [
      inFiber("nothing", Effect.void),
      inFiber("gcra, passes", open.run(Effect.void)),
      inFiber("sliding window, passes", openWindow.run(Effect.void)),
      inFiber("gcra, refused", shut.run(Effect.void))
    ]
  })
}
