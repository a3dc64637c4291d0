// Every entry, or those named: pnpm bench external-client
import { spawnSync } from "node:child_process"
import * as Path from "node:path"
import * as AllocationBench from "./allocation.ts"
import * as Conformance from "./conformance.ts"
import * as ExternalClientBench from "./externalClient.ts"
import * as HistoryBench from "./history.ts"
import * as RateLimitBench from "./rateLimit.ts"
import * as ResilienceBench from "./resilience.ts"

/** Weighing needs the garbage collector at hand, so it has a process of its own. */
const breakerMemory = async (): Promise<void> => {
  const script = Path.join(import.meta.dirname, "breakerMemory.ts")
  const { status } = spawnSync(process.execPath, ["--expose-gc", "--import", "tsx", script], { stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
}

/**
 * The benchmarks of Redis, of language models and of connections run as a user would run the packages, so they are built first. What does
 * not type-check is said and measured all the same.
 */
const published = (name: string, script: string) => async (): Promise<void> => {
  const root = Path.resolve(import.meta.dirname, "../..")
  const compiler = Path.join(root, "node_modules/typescript/bin/tsc")
  spawnSync(process.execPath, [compiler, "-b", Path.join(root, `packages/${name}/tsconfig.src.json`)], {
    stdio: "inherit"
  })
  const { status } = spawnSync(
    process.execPath,
    ["--import", Path.join(import.meta.dirname, "published.mjs"), Path.join(import.meta.dirname, name, script)],
    { stdio: "inherit" }
  )
  if (status !== 0) process.exit(status ?? 1)
}

const entries: Record<string, () => Promise<void>> = {
  resilience: ResilienceBench.run,
  allocation: AllocationBench.run,
  "external-client": ExternalClientBench.run,
  "rate-limit": RateLimitBench.run,
  "breaker-memory": breakerMemory,
  redis: published("redis", "operations.ts"),
  "redis-external": published("redis", "external.ts"),
  "redis-hang": published("redis", "hang.ts"),
  "redis-clear": published("redis", "clear.ts"),
  llm: published("llm", "clients.ts"),
  connections: published("connections", "main.ts"),
  history: HistoryBench.run,
  conformance: Conformance.run
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !(name in entries))
if (unknown.length > 0) {
  console.error(`No such entry: ${unknown.join(", ")}. There are: ${Object.keys(entries).join(", ")}.`)
  process.exit(1)
}
for (const [name, run] of Object.entries(entries)) if (wanted.length === 0 || wanted.includes(name)) await run()
process.exit(0)
