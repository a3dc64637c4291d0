// The tests of one group, in one thread for all mutants.
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"
import { BaseSequencer } from "vitest/node"
import { groups } from "./groups.mjs"

/** Those with thousands of steps come last: most mutants are told before. */
const slow = ["AdaptiveLimit", "Conformance", "EveryStep", "Model.test", "ExternalHttp"]

const rank = (spec) => slow.findIndex((part) => spec.moduleId.includes(part))

class QuickFirst extends BaseSequencer {
  async sort(specs) {
    return [...specs].sort((a, b) => rank(a) - rank(b) || (a.moduleId < b.moduleId ? -1 : 1))
  }
}

/** Stryker knows tests only: a file that cannot even be loaded with a mutant would be none that failed. */
class Unloaded {
  onFinished(files) {
    for (const file of files) {
      if (file.result?.state !== "fail" || file.tasks.length > 0) continue
      file.tasks.push({ type: "test", name: "is loaded", mode: "run", file, result: file.result, meta: {} })
    }
  }
}

// Vitest ends its thread after each run, which is after each mutant: loading Effect would be most of what a mutant costs.
// Stryker starts a process anew after maxTestRunnerReuse of them, and after a mutant that hangs.
const vitest = createRequire(createRequire(import.meta.url).resolve("vitest/package.json"))
const { Tinypool } = await import(pathToFileURL(vitest.resolve("tinypool")).href)
Tinypool.prototype.recycleWorkers = () => Promise.resolve()

export default {
  test: {
    include: groups[process.env.UNDERLAY_MUTATION_GROUP ?? ""].tests,
    setupFiles: ["vitest.setup.ts", "scripts/mutation/setup.mjs"],
    pool: "threads",
    poolOptions: { threads: { isolate: false } },
    sequence: { sequencer: QuickFirst },
    // Enough commands to reach every state of a machine; their full number is for the tests themselves.
    env: { UNDERLAY_PROPERTY_COMMANDS: process.env.UNDERLAY_PROPERTY_COMMANDS ?? "500" },
    teardownTimeout: 2_000,
    silent: true,
    reporters: [new Unloaded()]
  }
}
