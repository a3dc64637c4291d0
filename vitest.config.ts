import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"

const project = (name: string, root: string) => ({
  extends: true as const,
  test: {
    name,
    root,
    setupFiles: [fileURLToPath(new URL("vitest.setup.ts", import.meta.url))],
    include: ["test/**/*.test.ts", "assistant/test/**/*.test.ts"]
  }
})

/**
 * The files that take longest, of half a minute and more: they begin first, or the last of them would run alone in the
 * end. The runner goes by the size of a file, which says nothing of these. Those that wait for servers and those that
 * compute take turns.
 */
const longest = [
  "redis/test/matrix/cluster",
  "core/test/resilience/EveryStep",
  "redis/test/matrix/sentinel",
  "llm/test/Cancellation",
  "redis/test/RedisClientProcess",
  "redis/test/RedisEventBus",
  "examples/test/programs",
  "redis/test/RedisLockFaults",
  "connections/test/object/S3",
  "connections/test/Health",
  "connections/test/vector/Chroma",
  "redis/test/matrix/tls",
  "llm/test/EveryStep",
  "core/test/external/HttpTransport",
  "connections/test/HalfOpen",
  "connections/test/vector/PgVectorPGlite",
  "redis/test/history/History",
  "core/test/resilience/AdaptiveLimit",
  "connections/test/database/MongoDbFaults",
  "connections/test/vector/PgVectorHnsw",
  "redis/test/history/Loss",
  "redis/test/matrix/single",
  "connections/test/database/Postgres",
  "core/test/conformance/Conformance",
  "redis/test/silence",
  "examples/test/documents",
  "connections/test/cache/DynamoDbCacheLocal",
  "redis/test/RedisCache",
  "llm/test/CorpusScript",
  "redis/test/RedisClientFaults",
  "redis/test/RedisClientCluster",
  "redis/test/history/Resets",
  "redis/test/history/Racing"
]

class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const place = ({ moduleId }: TestSpecification) => {
      const index = longest.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`))
      return index === -1 ? longest.length : index
    }
    return (await super.sort(files)).sort((a, b) => place(a) - place(b))
  }
}

export default defineConfig({
  test: {
    pool: "forks",
    // One more than the two cores there must be: much of the time a test waits, for a server or for a time to pass.
    maxWorkers: 3,
    minWorkers: 1,
    sequence: { sequencer: LongestFirst },
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
