// One process runs all test files of all mutants: loading Effect, and us, anew for each would take most of the time. Only
// mutants of what runs at import need our modules anew, before them and after.
import { beforeEach, inject } from "vitest"
import { groups } from "./groups.mjs"

const mutants = globalThis[inject("globalNamespace")]
const dry = inject("mode") !== "mutant"
const atImport = !dry && inject("mutantActivation") === "static"
// The mutant before this one: Stryker sets the new one before the first test, and at once only where it runs at import.
if (!dry && !atImport) mutants.activeMutant = undefined
if (dry) mutants.mutantCoverage = undefined
if (dry || atImport || globalThis.__mutantsAtImport === true) {
  const modules = globalThis.__vitest_worker__.moduleCache
  for (const id of [...modules.keys()]) {
    if (id.includes("/packages/core/src/")) modules.delete(id)
  }
  // Effect remembers the default of a reference by its key.
  globalThis["effect/GlobalValue"]?.get("effect/Context/defaultValueCache")?.clear()
}
globalThis.__mutantsAtImport = dry || atImport

const { without } = groups[process.env.UNDERLAY_MUTATION_GROUP]
const nameOf = (task) =>
  task.suite === undefined || task.suite.name === "" ? task.name : `${nameOf(task.suite)} ${task.name}`
if (without !== undefined) {
  beforeEach((context) => {
    if (without.test(nameOf(context.task))) context.skip()
  })
}
