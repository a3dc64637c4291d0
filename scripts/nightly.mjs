// What takes too long for every change: the property tests with 100,000 commands each, ten minutes of sessions and of locks
// under faults with the races in their full size, and mutation testing.
// node scripts/nightly.mjs [properties|history|mutation]
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { root, run } from "./pnpm.mjs"

const require = createRequire(join(root, "package.json"))
const vitest = join(dirname(require.resolve("vitest/package.json")), "vitest.mjs")
const wanted = process.argv.slice(2)
const steps = {
  properties: () => {
    process.env.UNDERLAY_PROPERTY_COMMANDS ??= "100000"
    const tests = ["CircuitBreakerModel", "BulkheadModel", "RateLimitModel"]
    return run(process.execPath, [vitest, "run", "--project", "core", "--testTimeout", "1800000", ...tests])
  },
  history: () => {
    process.env.UNDERLAY_NIGHTLY = "1"
    process.env.UNDERLAY_HISTORY_SECONDS ??= "600"
    const tests = ["test/history", "RedisSessionStore.test", "RedisCache.test"]
    return run(process.execPath, [vitest, "run", "--silent=false", "--project", "redis", ...tests])
  },
  mutation: () => run(process.execPath, [join(root, "scripts/mutation.mjs")])
}
for (const [name, step] of Object.entries(steps)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const code = step()
  if (code !== 0) process.exit(code)
}
