/**
 * What an operation costs: CPU of this process, CPU of the server and operations a second, at a given concurrency. Every
 * round runs each subject once, in an order that turns from round to round; what counts is the median over the rounds,
 * and ratios are taken round by round to a subject of the same rounds, so that a drift of the machine falls on both.
 */
import { Effect, type Scope } from "effect"
import type * as RedisServer from "../../../servers/src/RedisServer.ts"
import { keep, machine } from "../Harness.ts"

/** Something to measure: what one of several workers does again and again. */
export interface Subject {
  readonly name: string
  readonly promise?: (worker: number) => () => Promise<unknown>
  readonly effect?: (worker: number) => Effect.Effect<unknown, unknown>
  /** What it does not do that the others do. */
  readonly lacks?: string
}

/** A limit on the CPU of this process (or of the server) for an operation, as a ratio or as a difference in microseconds. */
export interface Limit {
  readonly subject: string
  readonly to: string
  readonly atMost: number
  readonly of?: "client" | "server"
  readonly as?: "ratio" | "difference"
}

export interface Comparison {
  readonly title: string
  /** The subject that the ratios are taken to. */
  readonly base: string
  readonly subjects: ReadonlyArray<Subject>
  readonly limits?: ReadonlyArray<Limit>
  readonly concurrency?: ReadonlyArray<number>
  readonly rounds?: number
  readonly sliceMs?: number
}

/** What was measured in one slice, for one operation. */
export interface Sample {
  readonly operations: number
  readonly clientUs: number
  readonly serverUs: number
  readonly perSecond: number
}

export interface Row {
  readonly name: string
  readonly concurrency: number
  readonly clientUs: number
  readonly clientRatio: number
  readonly serverUs: number
  readonly serverRatio: number
  readonly perSecond: number
  readonly perSecondRatio: number
  readonly lacks: string | undefined
}

export interface Verdict extends Limit {
  readonly concurrency: number
  readonly value: number
  readonly within: boolean
}

export interface Result {
  readonly title: string
  readonly base: string
  readonly rounds: number
  readonly sliceMs: number
  readonly rows: ReadonlyArray<Row>
  readonly verdicts: ReadonlyArray<Verdict>
  readonly samples: Readonly<Record<string, ReadonlyArray<Sample>>>
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2
}

/** The value below which this part of the values lies. */
export const percentile = (values: ReadonlyArray<number>, part: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * part) - 1)] ?? Number.NaN
}

/** Asks the server how much CPU its main thread has used, in microseconds. */
export type ServerCpu = () => Promise<number>

/** A connection of its own to the server, for the question. */
export const serverCpu = (
  server: RedisServer.RedisServer
): Effect.Effect<ServerCpu, RedisServer.RedisServerError, Scope.Scope> =>
  Effect.map(server.connect, (connection) => async () => {
    const info = String(await Effect.runPromise(connection.call("INFO", "cpu")))
    const seconds = (field: string): number =>
      Number(new RegExp(`^${field}:([\\d.]+)`, "m").exec(info)?.[1] ?? Number.NaN)
    return (seconds("used_cpu_sys_main_thread") + seconds("used_cpu_user_main_thread")) * 1e6
  })

type Worker = { readonly promise: () => Promise<unknown> } | { readonly effect: Effect.Effect<unknown, unknown> }

const workersOf = (subject: Subject, concurrency: number): ReadonlyArray<Worker> =>
  Array.from({ length: concurrency }, (_, worker) => {
    if (subject.effect !== undefined) return { effect: subject.effect(worker) }
    if (subject.promise !== undefined) return { promise: subject.promise(worker) }
    throw new Error(`${subject.name} does nothing`)
  })

/** Runs all workers until the time is over and gives how many operations they did. */
const runFor = async (workers: ReadonlyArray<Worker>, millis: number): Promise<number> => {
  const until = performance.now() + millis
  let operations = 0
  const goesOn = (): boolean => performance.now() < until
  const count = (): void => {
    operations++
  }
  await Promise.all(
    workers.map(async (worker) => {
      if ("promise" in worker) {
        const { promise } = worker
        while (goesOn()) {
          await promise()
          count()
        }
      } else {
        const { effect } = worker
        await Effect.runPromise(Effect.whileLoop({ while: goesOn, body: () => effect, step: count }))
      }
    })
  )
  return operations
}

/** Measures what does operations in one go and says how many they were. */
const sampled = async (server: ServerCpu, run: () => Promise<number>): Promise<Sample> => {
  const serverBefore = await server()
  const before = process.cpuUsage()
  const started = performance.now()
  const operations = await run()
  const wall = performance.now() - started
  const { system, user } = process.cpuUsage(before)
  return {
    operations,
    clientUs: (system + user) / operations,
    serverUs: ((await server()) - serverBefore) / operations,
    perSecond: (operations * 1_000) / wall
  }
}

/** Measures, prints a table and gives the figures. */
export const compare = async (comparison: Comparison, server: ServerCpu): Promise<Result> => {
  const { base, concurrency = [1, 50], limits = [], rounds = 9, sliceMs = 80, subjects, title } = comparison
  const rows: Array<Row> = []
  const verdicts: Array<Verdict> = []
  const samples: Record<string, Array<Sample>> = {}
  for (const level of concurrency) {
    const workers = new Map(subjects.map((subject) => [subject.name, workersOf(subject, level)]))
    const taken = new Map<string, Array<Sample>>(subjects.map((subject) => [subject.name, []]))
    for (const all of workers.values()) await runFor(all, sliceMs * 2)
    for (let round = 0; round < rounds; round++) {
      for (let index = 0; index < subjects.length; index++) {
        const subject = subjects[(index + round) % subjects.length]
        if (subject === undefined) continue
        taken.get(subject.name)?.push(await sampled(server, () => runFor(workers.get(subject.name) ?? [], sliceMs)))
      }
    }
    const against = (name: string, to: string, f: (sample: Sample, base: Sample) => number): number => {
      const bases = taken.get(to) ?? []
      return median((taken.get(name) ?? []).map((sample, round) => f(sample, bases[round] ?? sample)))
    }
    const ratio = (name: string, to: string, of: (sample: Sample) => number): number =>
      against(name, to, (sample, its) => of(sample) / of(its))
    for (const { lacks, name } of subjects) {
      const own = taken.get(name) ?? []
      samples[`${name} (${level})`] = own
      rows.push({
        name,
        concurrency: level,
        clientUs: median(own.map((sample) => sample.clientUs)),
        clientRatio: ratio(name, base, (sample) => sample.clientUs),
        serverUs: median(own.map((sample) => sample.serverUs)),
        serverRatio: ratio(name, base, (sample) => sample.serverUs),
        perSecond: median(own.map((sample) => sample.perSecond)),
        perSecondRatio: ratio(name, base, (sample) => sample.perSecond),
        lacks
      })
    }
    for (const limit of limits) {
      const of = limit.of === "server" ? (sample: Sample) => sample.serverUs : (sample: Sample) => sample.clientUs
      const value =
        limit.as === "difference"
          ? against(limit.subject, limit.to, (sample, its) => of(sample) - of(its))
          : ratio(limit.subject, limit.to, of)
      verdicts.push({ ...limit, concurrency: level, value, within: value <= limit.atMost })
    }
  }
  const result: Result = { title, base, rounds, sliceMs, rows, verdicts, samples }
  print(result)
  return result
}

/** Measures something that does so many operations in one go. */
export const once =
  (operations: number, server: ServerCpu, run: () => Promise<unknown>): (() => Promise<Sample>) =>
  () =>
    sampled(server, async () => {
      await run()
      return operations
    })

/** A table of samples that were taken already, each round one of each. */
export const fromSamples = (
  title: string,
  base: string,
  samples: Readonly<Record<string, ReadonlyArray<Sample>>>
): Result => {
  const bases = samples[base] ?? []
  const rows = Object.entries(samples).map(([name, own]): Row => {
    const ratio = (of: (sample: Sample) => number) =>
      median(own.map((sample, round) => of(sample) / of(bases[round] ?? sample)))
    return {
      name,
      concurrency: 1,
      clientUs: median(own.map((sample) => sample.clientUs)),
      clientRatio: ratio((sample) => sample.clientUs),
      serverUs: median(own.map((sample) => sample.serverUs)),
      serverRatio: ratio((sample) => sample.serverUs),
      perSecond: median(own.map((sample) => sample.perSecond)),
      perSecondRatio: ratio((sample) => sample.perSecond),
      lacks: undefined
    }
  })
  const result: Result = { title, base, rounds: bases.length, sliceMs: 0, rows, verdicts: [], samples }
  print(result)
  return result
}

const print = ({ base, rounds, rows, title, verdicts }: Result): void => {
  const width = Math.max(...rows.map((row) => row.name.length))
  const levels = [...new Set(rows.map((row) => row.concurrency))]
  console.log(`\n${title}  (${rounds} rounds, ratios to "${base}")`)
  for (const level of levels) {
    console.log(`  ${`concurrency ${level}`.padEnd(width)}    client CPU          server CPU          operations/s`)
    for (const row of rows.filter((one) => one.concurrency === level)) {
      console.log(
        `  ${row.name.padEnd(width)}  ${row.clientUs.toFixed(2).padStart(8)} us x ${row.clientRatio.toFixed(2).padStart(5)}` +
          // where it is not measured it is 0
          (row.serverUs === 0
            ? " ".repeat(20)
            : `  ${row.serverUs.toFixed(2).padStart(8)} us x ${row.serverRatio.toFixed(2).padStart(5)}`) +
          `  ${row.perSecond.toFixed(0).padStart(8)} x ${row.perSecondRatio.toFixed(2)}` +
          (row.lacks === undefined ? "" : `   ${row.lacks}`)
      )
    }
  }
  for (const verdict of verdicts) {
    const unit = verdict.as === "difference" ? " us" : ""
    console.log(
      `  ${verdict.within ? "within" : "ABOVE "} ${verdict.atMost.toFixed(2)}${unit}: ${verdict.value.toFixed(2)}${unit} ` +
        `${verdict.of ?? "client"} CPU of "${verdict.subject}" to "${verdict.to}", concurrency ${verdict.concurrency}`
    )
  }
}

/** Keeps the comparisons of one entry as a result file. */
export const keepAll = (name: string, comparisons: ReadonlyArray<Result>, more: object = {}, host = machine()): void =>
  keep(name, { name, ...more, comparisons }, host)

/** One slice of one subject. */
export const slice = (subject: Subject, concurrency: number, millis: number, server: ServerCpu): Promise<Sample> =>
  sampled(server, () => runFor(workersOf(subject, concurrency), millis))
