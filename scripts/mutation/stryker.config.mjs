// How Stryker mutates one group of the resilience code (see groups.mjs), as scripts/mutation.mjs runs it.
import { availableParallelism } from "node:os"
import { groups } from "./groups.mjs"

const name = process.env.UNDERLAY_MUTATION_GROUP ?? ""
const group = groups[name]
if (group === undefined) throw new Error("To be run by scripts/mutation.mjs, which names a group")

const folder = ".cache/mutation"

export default {
  testRunner: "vitest",
  plugins: ["@stryker-mutator/vitest-runner", "./scripts/mutation/ignorers.mjs"],
  vitest: { configFile: "scripts/mutation/vitest.config.mjs", related: false },
  mutate: group.mutate,
  // Only the sources of core, its tests and what runs them is copied.
  ignorePatterns: [
    "**",
    "!vitest.setup.ts",
    "!tsconfig.base.json",
    "!scripts/mutation/*",
    "!packages/core/*.json",
    "!packages/core/src/**",
    "!packages/core/test/**"
  ],
  // Words for people are no behaviour, and the key of a tag or symbol only has to be one of its own. All other strings
  // (tags, reasons, states, names of headers and metrics) are mutated like any code; so is everything else, without
  // exception: no mutator is switched off.
  ignorers: ["words", "identity"],
  disableTypeChecks: false,
  coverageAnalysis: "perTest",
  incremental: true,
  incrementalFile: `${folder}/incremental/${name}.json`,
  tempDirName: `${folder}/sandbox-${name}`,
  // More than there are processors: mutants that hang only wait.
  concurrency: Number(process.env.UNDERLAY_MUTATION_CONCURRENCY ?? availableParallelism() + 1),
  // Test files share one process (see setup.mjs): a new one now and then, so that what mutants left behind does not pile up.
  maxTestRunnerReuse: 150,
  timeoutMS: 10_000,
  timeoutFactor: 2,
  reporters: ["progress-append-only", "json", "html"],
  jsonReporter: { fileName: `${folder}/reports/${name}.json` },
  htmlReporter: { fileName: `${folder}/html/${name}.html` },
  // The score is for all groups together: the script looks after it.
  thresholds: { high: 95, low: 85, break: null }
}
