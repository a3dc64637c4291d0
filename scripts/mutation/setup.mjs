// One process runs all test files of all mutants: loading Effect anew for each would take most of the time. Our own
// modules are loaded anew for each file, so that a mutant of what runs at import is seen, and none of it stays.
import { beforeEach, inject } from "vitest"
import { groups } from "./groups.mjs"

const mutants = globalThis[inject("globalNamespace")]
// Stryker sets the mutant before the first test, and at once only if it is one of the code that runs at import.
if (inject("mode") === "mutant") {
  if (inject("mutantActivation") !== "static") mutants.activeMutant = undefined
} else {
  mutants.mutantCoverage = undefined
}

const modules = globalThis.__vitest_worker__.moduleCache
for (const id of [...modules.keys()]) {
  if (id.includes("/packages/core/src/")) modules.delete(id)
}

const { without } = groups[process.env.UNDERLAY_MUTATION_GROUP]
const nameOf = (task) =>
  task.suite === undefined || task.suite.name === "" ? task.name : `${nameOf(task.suite)} ${task.name}`
if (without !== undefined) {
  beforeEach((context) => {
    if (without.test(nameOf(context.task))) context.skip()
  })
}
