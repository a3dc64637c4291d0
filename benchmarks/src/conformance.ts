/**
 * The cases of `ResilienceSuite` on this library, cockatiel and opossum: what each does, what it lacks and where it fails.
 *
 * A peer is asked twice: as its README has it, and with everything set that its README knows. A case that only the second
 * passes is `by setting`; one that neither passes is a failure. Every library has a process of its own, whose timers are
 * moved by hand.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { ResilienceSuite } from "@underlay/core/testing"
import { type Name, names } from "./conformance/drivers.ts"
import { machine } from "./Harness.ts"

type Verdict = "passes" | "by setting" | "fails" | "has none"

interface Answer {
  readonly verdict: Verdict
  readonly problem?: string | undefined
}

const worker = Path.join(import.meta.dirname, "conformance/worker.ts")

const outcomesOf = (name: Name): Promise<ReadonlyArray<ResilienceSuite.Outcome>> =>
  new Promise((resolve, reject) => {
    let outcomes: ReadonlyArray<ResilienceSuite.Outcome> | undefined
    const forked = ChildProcess.fork(worker, [name], { stdio: ["ignore", "inherit", "ignore", "ipc"] })
    forked.on("message", (message) => {
      outcomes = message as ReadonlyArray<ResilienceSuite.Outcome>
    })
    forked.on("error", reject)
    forked.on("exit", (code) => {
      if (outcomes === undefined) reject(new Error(`${name} ended with ${code} before its last case`))
      else resolve(outcomes)
    })
  })

const answer = (plain: ResilienceSuite.Outcome | undefined, tuned?: ResilienceSuite.Outcome): Answer =>
  plain === undefined || plain.outcome === "none"
    ? { verdict: "has none" }
    : plain.outcome === "passed"
      ? { verdict: "passes" }
      : tuned?.outcome === "passed"
        ? { verdict: "by setting", problem: plain.problem }
        : { verdict: "fails", problem: tuned?.problem ?? plain.problem }

const count = (answers: ReadonlyArray<Answer>): Record<Verdict, number> => {
  const of = (verdict: Verdict): number => answers.filter((each) => each.verdict === verdict).length
  return { passes: of("passes"), "by setting": of("by setting"), fails: of("fails"), "has none": of("has none") }
}

/** Prints the table and keeps it in `benchmarks/results/<date>-conformance.json`. */
export const run = async (): Promise<void> => {
  const found = new Map<Name, ReadonlyArray<ResilienceSuite.Outcome>>()
  for (const name of names) found.set(name, await outcomesOf(name))
  const of = (name: Name, id: string) => found.get(name)?.find((each) => each.id === id)
  const rows = ResilienceSuite.cases.map((one) => ({
    id: one.id,
    title: one.title,
    sources: one.sources,
    underlay: answer(of("underlay", one.id)),
    cockatiel: answer(of("cockatiel", one.id), of("cockatiel-tuned", one.id)),
    opossum: answer(of("opossum", one.id), of("opossum-tuned", one.id))
  }))
  const width = Math.max(...rows.map((row) => row.id.length))
  console.log("\nConformance: faults that users complained of or that were reproduced, and what is praised")
  console.log(
    `  ${"case".padEnd(width)}  ${"ours".padEnd(10)}  ${"cockatiel".padEnd(10)}  ${"opossum".padEnd(10)}  title`
  )
  for (const row of rows) {
    const cells = [row.underlay, row.cockatiel, row.opossum].map((each) => each.verdict.padEnd(10)).join("  ")
    console.log(`  ${row.id.padEnd(width)}  ${cells}  ${row.title}`)
  }
  const summary = {
    cases: rows.length,
    underlay: count(rows.map((row) => row.underlay)),
    cockatiel: count(rows.map((row) => row.cockatiel)),
    opossum: count(rows.map((row) => row.opossum))
  }
  console.log(`\n  ${rows.length} cases`)
  for (const name of ["underlay", "cockatiel", "opossum"] as const) {
    const words = Object.entries(summary[name]).map(([verdict, n]) => `${verdict} ${n}`)
    console.log(`  ${(name === "underlay" ? "ours" : name).padEnd(10)}  ${words.join(", ")}`)
  }
  for (const name of ["underlay", "cockatiel", "opossum"] as const) {
    for (const row of rows) {
      if (row[name].verdict !== "fails") continue
      console.log(
        `  ${name === "underlay" ? "ours" : name} fails ${row.id}: ${row[name].problem?.split("\n")[0] ?? ""}`
      )
    }
  }
  const folder = Path.resolve(import.meta.dirname, "../results")
  Fs.mkdirSync(folder, { recursive: true })
  const date = new Date().toISOString()
  const peers = { cockatiel: "3.2.1", opossum: "8.5.0" }
  Fs.writeFileSync(
    Path.join(folder, `${date.slice(0, 10)}-conformance.json`),
    `${JSON.stringify({ name: "conformance", date, machine: machine(), peers, summary, rows }, null, 1)}\n`
  )
}
