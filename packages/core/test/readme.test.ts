import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"
import * as Server from "./external/LoopbackServer.ts"

const root = Path.join(import.meta.dirname, "..")
const blocks = Readme.blocks(root)

/** What the program below each heading gives. */
const results: Record<string, unknown> = {
  SessionStore: { visits: 2 },
  Cache: ["Ada", "Ada"],
  Caches: [{ name: "users", kind: "memory", namespace: "app-users", loads: 1 }],
  "ConfirmationCache and SignupCache": { wrong: "Wrong", right: "Confirmed" },
  "ResilientSessionStore and FallbackSessionStore": [true, "fallback", 1],
  Lock: ["first", "second", "Stale", "NotAcquired"],
  RateLimiter: [[true, true, false], "RateLimitExceeded"],
  Counters: [true, false, 60],
  EventBus: [true, "a placed", "a paid"],
  ConversationMemory: ["hello", "good morning"],
  "VectorStore and Embeddings": "redis",
  Settings: { host: "cache.example", port: 6380 },
  Health: "up",
  Policy: { found: 42, attempts: 3, spent: true },
  "Policy in full": { found: 42, instead: 7 },
  Bulkhead: { answers: ["done", "done", "done", "queue-full"], left: 0 },
  RateLimit: { passed: [true, true, false], refused: "RateLimitExceeded" },
  Throttle: { found: 42, probability: 0 },
  RetryBudget: { attempts: 1, refused: 1 },
  Hedge: "second",
  Fallback: [21, 21, 0],
  Chaos: ["ok", "InjectedFault", "ok"],
  CircuitBreakers: { a: "CircuitOpen", b: "ok", states: { closed: 1, open: 1, halfOpen: 0 } },
  ExternalClient: 21,
  Operations: ["cold", "unknown", "calm"],
  ExternalHttp: { degrees: 21 },
  HttpTransport: { degrees: 21 },
  Testing: ["weather.today"],
  Histories: ["Linearizable", "Anomaly", []]
}

describe("README", () => {
  it("has an example for each layer", () => {
    const titles = new Set(blocks.map(({ title }) => title))
    for (const title of Object.keys(results)) assert.isTrue(titles.has(title), title)
  })

  it.scopedLive(
    "its examples run",
    () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, blocks)
        const server = yield* Server.make([
          Server.status(200, { "content-type": "application/json" }, '{"degrees":21}')
        ])
        yield* Readme.environment({ WEATHER_URL: server.url, REDIS_HOST: "cache.example" })
        for (const [index, { title }] of blocks.entries()) {
          const result = yield* Readme.run(files[index] ?? "")
          const expected = results[title]
          if (expected !== undefined) assert.deepStrictEqual(result, expected, title)
        }
        assert.strictEqual(server.asked.length, 2)
      }),
    60_000
  )
})
