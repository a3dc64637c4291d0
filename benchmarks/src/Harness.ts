/**
 * Measures cases against each other in one process: every round runs each case once, in an order that turns from round
 * to round, and what counts is each case's median over the rounds and its ratio to a base case of the same run.
 * Machines are noisy: read the ratios, not the times.
 */
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Effect, Logger, LogLevel } from "effect"

/** A case: `run(n)` does `n` operations, one after the other unless its name says otherwise. */
export interface Case {
  readonly name: string
  readonly run: (operations: number) => Promise<void>
}

/** `n` times one after the other, as one fiber does it. */
export const inFiber = (name: string, effect: Effect.Effect<unknown, unknown>): Case => ({
  name,
  run: (n) =>
    Effect.runPromise(
      Effect.gen(function* () {
        for (let i = 0; i < n; i++) yield* effect
      }).pipe(Effect.ignore, Logger.withMinimumLogLevel(LogLevel.Info))
    )
})

/** `n` promises one after the other. */
export const promised = (name: string, f: () => Promise<unknown>): Case => ({
  name,
  run: async (n) => {
    for (let i = 0; i < n; i++) await f()
  }
})

export interface Options {
  readonly name: string
  readonly title: string
  /** The case that the ratios are taken to. */
  readonly base: string
  readonly cases: ReadonlyArray<Case>
  /** How long one case runs in one round, in milliseconds (default 150). */
  readonly sliceMs?: number
  /** How many rounds count (default 11). */
  readonly rounds?: number
}

export interface Row {
  readonly name: string
  readonly operations: number
  readonly medianNs: number
  readonly minNs: number
  readonly maxNs: number
  readonly ratio: number
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2
}

const once = async (test: Case, operations: number): Promise<number> => {
  const started = process.hrtime.bigint()
  await test.run(operations)
  return Number(process.hrtime.bigint() - started) / operations
}

/** How many operations fill a slice: doubled until they take long enough, which also warms the case up. */
const calibrate = async (test: Case, sliceMs: number): Promise<number> => {
  for (let operations = 16; ; operations *= 2) {
    const perOperation = await once(test, operations)
    if (perOperation * operations >= sliceMs * 5e5) return Math.max(16, Math.round((sliceMs * 1e6) / perOperation))
  }
}

/** What the machine is: without it a time says nothing. */
export const machine = () => ({
  node: process.versions.node,
  v8: process.versions.v8,
  platform: `${Os.platform()} ${Os.release()} ${Os.arch()}`,
  cpu: Os.cpus()[0]?.model ?? "unknown",
  cores: Os.cpus().length,
  memoryGiB: Math.round(Os.totalmem() / 2 ** 30),
  loadAtStart: Os.loadavg()[0]
})

const format = (ns: number): string => (ns >= 1e6 ? `${(ns / 1e6).toFixed(2)} ms` : `${(ns / 1e3).toFixed(2)} us`)

/** Runs the cases, prints a table and keeps the raw figures in `benchmarks/results/<date>-<name>.json`. */
export const compare = async (options: Options): Promise<ReadonlyArray<Row>> => {
  const sliceMs = options.sliceMs ?? 150
  const rounds = options.rounds ?? 11
  const host = machine()
  const counts = new Map<string, number>()
  for (const test of options.cases) counts.set(test.name, await calibrate(test, sliceMs))
  const samples = new Map<string, Array<number>>(options.cases.map((test) => [test.name, []]))
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < options.cases.length; i++) {
      const test = options.cases[(i + round) % options.cases.length]
      if (test === undefined) continue
      samples.get(test.name)?.push(await once(test, counts.get(test.name) ?? 16))
    }
  }
  const base = median(samples.get(options.base) ?? [])
  const rows: Array<Row> = options.cases.map((test) => {
    const values = samples.get(test.name) ?? []
    // The ratio is taken round by round, so that a drift of the machine's speed falls on both.
    const bases = samples.get(options.base) ?? []
    const ratio = median(values.map((value, round) => value / (bases[round] ?? base)))
    return {
      name: test.name,
      operations: counts.get(test.name) ?? 0,
      medianNs: median(values),
      minNs: Math.min(...values),
      maxNs: Math.max(...values),
      ratio
    }
  })
  const width = Math.max(...rows.map((row) => row.name.length))
  console.log(`\n${options.title}  (${rounds} rounds, ratio to "${options.base}")`)
  for (const row of rows) {
    console.log(
      `  ${row.name.padEnd(width)}  ${format(row.medianNs).padStart(11)}  min ${format(row.minNs).padStart(11)}  x ${row.ratio.toFixed(2)}`
    )
  }
  keep(
    options.name,
    {
      ...options,
      cases: undefined,
      sliceMs,
      rounds,
      rows,
      samples: Object.fromEntries(samples)
    },
    host
  )
  return rows
}

/** Keeps raw figures in `benchmarks/results/<date>-<name>.json`, with what the machine is. */
export const keep = (name: string, figures: object, host = machine()): void => {
  const folder = Path.resolve(import.meta.dirname, "../results")
  Fs.mkdirSync(folder, { recursive: true })
  const now = new Date().toISOString()
  Fs.writeFileSync(
    Path.join(folder, `${now.slice(0, 10)}-${name}.json`),
    `${JSON.stringify({ date: now, machine: host, ...figures }, null, 1)}\n`
  )
}
