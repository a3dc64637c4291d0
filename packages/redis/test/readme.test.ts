import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Underlay from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Readme from "@underlay/servers/Readme"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "..")
const blocks = Readme.blocks(root)

/** What the program below each heading gives. */
const results: Record<string, unknown> = {
  RedisClient: "hello",
  "RedisClient.track": "price:apple",
  RedisCommand: [1, true],
  RedisSessionStore: [false, true],
  "ResilientSessionStore and FallbackSessionStore": true,
  RedisConversationMemory: ["hello"],
  RedisCache: 42,
  RedisCaches: 3,
  RedisOneTimeStore: ["Confirmed", "NotFound"],
  RedisLock: true,
  "RedisRateLimiter and RedisCounters": [[true, true, false], 5],
  RedisEventBus: "a",
  RedisCircuitControl: [["payments", "forced-open"]],
  RedisHealth: "up",
  RedisConnection: "PONG"
}

describe("README", () => {
  it("has a heading for every module of the package that has a layer", () => {
    const headings = blocks.map(({ title }) => title).join(" ")
    for (const [name, module] of Object.entries(Underlay)) {
      if (Object.keys(module).some((key) => key.startsWith("layer"))) assert.include(headings, name)
    }
  })

  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title),
      Object.keys(results)
    )
  })

  it.scopedLive.skipIf(Need.missing("redis-server"))(
    Need.title("its examples run", "redis-server"),
    () =>
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        yield* Readme.environment({ REDIS_URL: server.url })
        const { files } = yield* Readme.write(root, blocks)
        for (const [index, { title }] of blocks.entries()) {
          assert.deepStrictEqual(yield* Readme.run(files[index] ?? ""), results[title], title)
        }
      }),
    60_000
  )
})
