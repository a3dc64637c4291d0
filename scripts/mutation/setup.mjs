// One thread runs all test files of all mutants: loading Effect anew for each would take most of the time. Our own modules
// are loaded anew for each file, and what Effect remembers for the whole process is forgotten: so a mutant of what runs at
// import is seen, and nothing that a file or a mutant left behind decides about the next.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { MutableHashMap } from "effect"
import { afterAll, afterEach, beforeEach, inject, vi } from "vitest"
import { groups } from "./groups.mjs"

const mutants = globalThis[inject("globalNamespace")]
const dry = inject("mode") !== "mutant"
const atImport = !dry && inject("mutantActivation") === "static"
// The mutant before this one. Stryker sets the new one before the first test, and at once only where it runs at import.
if (!dry && !atImport) mutants.activeMutant = undefined
if (dry) mutants.mutantCoverage = undefined
const modules = globalThis.__vitest_worker__.moduleCache
for (const id of [...modules.keys()]) {
  if (id.includes("/packages/core/")) modules.delete(id)
}
const global = globalThis["effect/GlobalValue"]
global?.get("effect/Context/defaultValueCache")?.clear()
const metrics = global?.get(Symbol.for("effect/Metric/globalMetricRegistry"))
if (metrics !== undefined) MutableHashMap.clear(metrics.map)

// Many mutants wait for ever, by a clock that nobody moves on: what a test takes at most is what they cost. Tests that
// take a good part of it without any mutant, as the first run tells, have no say then.
const limit = 2_500
vi.setConfig({ testTimeout: dry ? 60_000 : limit })

const group = process.env.UNDERLAY_MUTATION_GROUP
const { without } = groups[group]
const file = join("durations", `${globalThis.__vitest_worker__.filepath.split("/").at(-1)}.json`)
const durations = dry || !existsSync(file) ? {} : JSON.parse(readFileSync(file, "utf8"))
const nameOf = (task) =>
  task.suite === undefined || task.suite.name === "" ? task.name : `${nameOf(task.suite)} ${task.name}`

let startedAt = 0
beforeEach((context) => {
  const name = nameOf(context.task)
  const { timeout } = context.task
  if (without?.test(name) === true || (!dry && durations[name] > Math.min(timeout, 4 * limit) / 2)) context.skip()
  startedAt = performance.now()
})
if (dry) {
  afterEach((context) => {
    durations[nameOf(context.task)] = Math.round(performance.now() - startedAt)
  })
  afterAll(() => {
    mkdirSync("durations", { recursive: true })
    writeFileSync(file, JSON.stringify(durations))
  })
}
