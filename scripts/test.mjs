// npm test: installs the workspace, if need be, and runs every test. What was skipped for want of a server or of the
// shared data is counted and named on the last lines; where everything is required (CI) nothing is skipped.
import { readFileSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { checkNode, install, root, run } from "./pnpm.mjs"

checkNode()
const installCode = install("all")
if (installCode !== 0) process.exit(installCode)

const require = createRequire(join(root, "package.json"))
const vitest = join(dirname(require.resolve("vitest/package.json")), "vitest.mjs")
const report = join(root, "node_modules", ".underlay", `tests-${process.pid}.json`)
console.log(`Running the tests (Node ${process.versions.node}) …`)
const code = run(process.execPath, [
  vitest,
  "run",
  "--reporter=default",
  "--reporter=json",
  `--reporter=${join(root, "scripts/stuck.mjs")}`,
  `--outputFile.json=${report}`,
  ...process.argv.slice(2)
])

let results
try {
  results = JSON.parse(readFileSync(report, "utf8"))
  rmSync(report, { force: true })
} catch {
  console.error("The test runner left no report.")
  process.exit(code === 0 ? 1 : code)
}
const required = process.env.UNDERLAY_REQUIRE_ALL === "1" || process.env.CI === "true"
const skipped = new Map()
let others = 0
for (const file of results.testResults) {
  for (const test of file.assertionResults) {
    if (test.status !== "skipped" && test.status !== "pending" && test.status !== "todo") continue
    const need = /\[needs ([^\]]+)\]/.exec(test.fullName)?.[1]
    if (need === undefined) others++
    else skipped.set(need, (skipped.get(need) ?? 0) + 1)
  }
}
const hints = {
  "redis-server": "apt-get install redis-server",
  postgres: "apt-get install postgresql",
  documentdb: "pnpm servers install documentdb",
  memcached: "apt-get install memcached",
  radosgw: "apt-get install radosgw ceph-mon ceph-osd ceph-mgr ceph-common",
  chroma: "pnpm servers install chroma",
  "dynamodb-local": "apt-get install default-jre-headless, pnpm servers install dynamodb-local",
  pgvector: "apt-get install postgresql-server-dev-all dpkg-dev, pnpm servers install pgvector",
  chromium: "apt-get install chromium",
  "llm-corpus": "set UNDERLAY_SHARED to the folder of the shared data",
  "token-truth": "set UNDERLAY_SHARED to the folder of the shared data",
  openapi: "set UNDERLAY_SHARED to the folder of the shared data"
}
// as Need.optional has it: these may be missing where everything else is required
const optional = new Set(["documentdb"])
let total = others
let forbidden = others
for (const [need, count] of skipped) {
  total += count
  if (!optional.has(need)) forbidden += count
  console.log(`Skipped ${count} tests: they need ${need} (${hints[need] ?? "not found on this machine"}).`)
}
if (others > 0) console.log(`Skipped ${others} tests that name no need.`)
if (required && forbidden > 0) console.error(`Everything is required here, but ${forbidden} tests were skipped.`)
if (!process.env.MONGODB_TEST_URL) {
  console.log("MongoDB itself was not tested: change streams stay unverified unless MONGODB_TEST_URL is set.")
}
console.log(`${results.numPassedTests} passed, ${results.numFailedTests} failed, ${total} skipped`)
process.exit(code !== 0 ? code : required && forbidden > 0 ? 1 : 0)
