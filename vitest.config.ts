import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const project = (name: string, root: string) => ({
  extends: true as const,
  test: {
    name,
    root,
    setupFiles: [fileURLToPath(new URL("vitest.setup.ts", import.meta.url))],
    include: ["test/**/*.test.ts", "assistant/test/**/*.test.ts"]
  }
})

export default defineConfig({
  test: {
    pool: "forks",
    poolOptions: { forks: { maxForks: 2, minForks: 1 } },
    // What a passing test prints is noise; what a failing one prints is shown.
    silent: "passed-only",
    // No test measures by it: it ends what hangs, also where two cores have much else to do.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
    dangerouslyIgnoreUnhandledErrors: false,
    projects: [
      project("core", "packages/core"),
      project("redis", "packages/redis"),
      project("llm", "packages/llm"),
      project("connections", "packages/connections"),
      project("examples", "examples")
    ]
  }
})
