// Every entry, or those named: pnpm bench external-client
import * as AllocationBench from "./allocation.ts"
import * as Conformance from "./conformance.ts"
import * as ExternalClientBench from "./externalClient.ts"
import * as ResilienceBench from "./resilience.ts"

const entries: Record<string, () => Promise<void>> = {
  resilience: ResilienceBench.run,
  allocation: AllocationBench.run,
  "external-client": ExternalClientBench.run,
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
