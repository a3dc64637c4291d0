/**
 * What language model clients cost: CPU of this process for a whole answer and for each piece of a streamed one, 50 at
 * once, against the floor of `fetch` and `JSON.parse`; with many events to a packet and with one; and how much memory a
 * stream of a million pieces needs. The server is a process of its own. Entry `llm`; by itself, all or those named:
 *
 *     node --import ./src/published.mjs src/llm/clients.ts generate chunks packets memory
 *     node --import ./src/published.mjs src/llm/clients.ts chunks '--only=fetch|underlay' --rounds=3
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import * as Path from "node:path"
import { keep, machine } from "../Harness.ts"
import * as Subjects from "./subjects.ts"

const loader = Path.resolve(import.meta.dirname, "../published.mjs")
const width = 34

const startServer = (): Promise<{ readonly url: string; readonly child: ChildProcess }> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--import", loader, Path.join(import.meta.dirname, "server.ts")], {
      stdio: ["pipe", "pipe", "inherit"]
    })
    child.once("error", reject)
    child.stdout?.once("data", (port) => resolve({ url: `http://127.0.0.1:${String(port).trim()}/v1`, child }))
  })

const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

interface Measured {
  readonly cpuUs: number
  readonly wallUs: number
}

/** CPU and time of this process while `work` runs, for each of `units`. */
const measure = async (units: number, work: () => Promise<unknown>): Promise<Measured> => {
  const cpu = process.cpuUsage()
  const started = process.hrtime.bigint()
  await work()
  const wall = Number(process.hrtime.bigint() - started) / 1000
  const { system, user } = process.cpuUsage(cpu)
  return { cpuUs: (user + system) / units, wallUs: wall / units }
}

const atOnce = async (concurrency: number, total: number, work: () => Promise<number>): Promise<void> => {
  let left = total
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (left-- > 0) if ((await work()) === 0) throw new Error("a client gave an empty answer")
    })
  )
}

interface Row {
  readonly name: string
  readonly cpuUs: number
  readonly ratio: number
  readonly perSecond: number
  readonly samples: ReadonlyArray<Measured>
}

const compare = async (
  title: string,
  subjects: ReadonlyArray<Subjects.Subject>,
  rounds: number,
  warmUp: number,
  units: (subject: Subjects.Subject) => number,
  work: (subject: Subjects.Subject) => Promise<unknown>
): Promise<ReadonlyArray<Row>> => {
  const samples = new Map<string, Array<Measured>>(subjects.map(({ name }) => [name, []]))
  // What is measured is the steady state: the first thousands of calls are compiled while they run.
  for (const subject of subjects) for (let pass = 0; pass < warmUp; pass++) await work(subject)
  for (let round = 0; round < rounds; round++) {
    for (let index = 0; index < subjects.length; index++) {
      const subject = subjects[(index + round) % subjects.length]
      if (subject === undefined) continue
      samples.get(subject.name)?.push(await measure(units(subject), () => work(subject)))
    }
  }
  const rows = subjects.map((subject): Row => {
    const mine = samples.get(subject.name) ?? []
    const base = subjects.find(({ api, name }) => api === subject.api && name.startsWith("fetch"))
    const bases = samples.get(base?.name ?? "") ?? []
    return {
      name: subject.name,
      cpuUs: median(mine.map(({ cpuUs }) => cpuUs)),
      ratio: median(mine.map(({ cpuUs }, round) => cpuUs / (bases[round]?.cpuUs ?? Number.NaN))),
      perSecond: median(mine.map(({ wallUs }) => 1e6 / wallUs)),
      samples: mine
    }
  })
  console.log(`\n${title}  (${rounds} rounds)`)
  for (const { cpuUs, name, perSecond, ratio } of rows) {
    console.log(
      `  ${name.padEnd(width)} ${cpuUs.toFixed(1).padStart(9)} us CPU  x ${ratio.toFixed(2).padStart(6)}  ${Math.round(perSecond).toLocaleString("en").padStart(9)}/s`
    )
  }
  return rows
}

const options = new Map(
  process.argv.slice(2).flatMap((word) => {
    const [, name, value] = /^--(only|rounds)=(.*)$/.exec(word) ?? []
    return name === undefined || value === undefined ? [] : [[name, value] as const]
  })
)
const rounds = options.has("rounds") ? Number(options.get("rounds")) : undefined
const wanted = process.argv.slice(2).filter((word) => !word.startsWith("--"))
const wants = (name: string) => wanted.length === 0 || wanted.includes(name)

/** One subject in a process of its own: how much more it holds after a stream of a million pieces than before. */
const memory = async (name: string, url: string, pieces: number): Promise<void> => {
  const subject = Subjects.all(url).find((one) => one.name === name)
  if (subject === undefined || globalThis.gc === undefined) throw new Error(`no such subject: ${name}`)
  await subject.stream("chunks-2000")
  globalThis.gc()
  const before = process.memoryUsage().heapUsed
  let peak = 0
  // A collection now and then, so that what counts is what is held and not what is waiting to be collected.
  const timer = setInterval(() => {
    globalThis.gc?.()
    peak = Math.max(peak, process.memoryUsage().heapUsed - before)
  }, 250)
  const length = await subject.stream(`chunks-${pieces}`)
  clearInterval(timer)
  globalThis.gc()
  const after = process.memoryUsage().heapUsed - before
  console.log(JSON.stringify({ length, peak, after }))
  process.exit(0)
}

if (wanted[0] === "memory-of") {
  await memory(wanted[1] ?? "", wanted[2] ?? "", Number(wanted[3]))
}

const host = machine()
const { child, url } = await startServer()
const only = new RegExp(options.get("only") ?? "")
const subjects = Subjects.all(url).filter(({ name }) => only.test(name))
const results: Record<string, unknown> = {}

/** As many as show a difference; fewer of a client that would take minutes. */
const streams = (subject: Subjects.Subject): number => (subject.slow === true ? 5 : 50)

if (wants("generate")) {
  results["generate"] = await compare(
    "A whole answer, 50 at once",
    subjects,
    rounds ?? 11,
    8,
    () => 500,
    (subject) => atOnce(50, 500, subject.generate)
  )
}
if (wants("chunks")) {
  results["chunks"] = await compare(
    "A piece of a streamed answer, 50 streams of 2,000",
    subjects,
    rounds ?? 5,
    1,
    (subject) => streams(subject) * 2000,
    (subject) => atOnce(50, streams(subject), () => subject.stream("chunks-2000"))
  )
}
if (wants("packets")) {
  results["packets"] = await compare(
    "The same with each event in a packet of its own, 50 streams of 200 at 100 a second",
    subjects,
    rounds ?? 5,
    1,
    (subject) => streams(subject) * 200,
    (subject) => atOnce(50, streams(subject), () => subject.stream("packets-200"))
  )
}
if (wants("memory")) {
  const pieces = 1_000_000
  console.log("\nA stream of 1,000,000 pieces: held above what was held before, as a multiple of the text")
  const rows = subjects
    .filter(({ slow }) => slow !== true)
    .map(({ name }) => {
      const run = spawnSync(
        process.execPath,
        ["--expose-gc", "--import", loader, import.meta.filename, "memory-of", name, url, String(pieces)],
        { encoding: "utf8", timeout: 300_000 }
      )
      const last = run.stdout?.trim().split("\n").at(-1) ?? ""
      const row = last.startsWith("{")
        ? (JSON.parse(last) as { length: number; peak: number; after: number })
        : { length: 0, peak: Number.NaN, after: Number.NaN }
      const ratio = row.peak / row.length
      console.log(
        `  ${name.padEnd(width)} ${(row.length / 2 ** 20).toFixed(1)} MiB of text, at most ${(row.peak / 2 ** 20).toFixed(1)} MiB (x ${ratio.toFixed(2)}), ${(row.after / 2 ** 20).toFixed(1)} MiB at the end`
      )
      return { name, ...row, ratio }
    })
  results["memory"] = rows
}

for (const subject of subjects) await subject.close?.()
child.kill()
// A part of the whole is not what is kept.
if (process.argv.length === 2) keep("llm", { pieces: "see the titles", results }, host)
process.exit(0)
