/**
 * The tier in the process, kept coherent by what the server itself tells of changes (client tracking).
 */
import { assert, describe, it } from "@effect/vitest"
import { Cache, Caches } from "@underlay/core"
import { RedisCache, RedisCaches, RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Cluster from "@underlay/servers/RedisCluster"
import * as Sentinel from "@underlay/servers/RedisSentinel"
import { ConfigProvider, Effect, Either, Layer, Option, Schema } from "effect"
import { client, pause, RedisServer, server } from "./support.ts"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const tracking = RedisCache.layerWith({ tracking: true })

const own = (behaviour: RedisClient.Options = {}) =>
  tracking.pipe(Layer.provideMerge(client({ commandTimeout: "5 seconds", ...behaviour })), Layer.provideMerge(server()))

const tiered = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({ namespace: "numbers", schema: Schema.Number, jitter: 0, firstTier: {}, ...options, strict: false })

/** Waits for what a real server does in its own time. */
const until = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.gen(function* () {
    for (let round = 0; round < 2_000; round++) {
      if (yield* condition) return
      yield* pause(5)
    }
    assert.fail(`never: ${what}`)
  })

/** Reads until the tier answers. */
const near = (cache: Cache.CacheHandle<number>, key: string) =>
  until(
    "near",
    Effect.gen(function* () {
      const before = (yield* cache.stats).firstTierHits
      yield* cache.get(key)
      return (yield* cache.stats).firstTierHits > before
    })
  )

/** The connections that listen, as the server says of them. */
const subscribers = Effect.map(
  Effect.flatMap(RedisServer, ({ call }) => call("CLIENT", "LIST", "TYPE", "pubsub")),
  (list) =>
    String(list)
      .split("\n")
      .filter((line) => line !== "")
)

const size = (cache: Cache.CacheHandle<number>) => Effect.map(cache.stats, ({ firstTierSize }) => firstTierSize)

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisCache by tracking", "redis-server"), () => {
  it.scopedLive("what programs do that tell nobody is seen: writes, deletions, the end of a key, FLUSHALL", () =>
    Effect.gen(function* () {
      const { command } = yield* RedisServer
      const cache = yield* tiered()
      const foreign: ReadonlyArray<readonly [string, ReadonlyArray<string>, Option.Option<number>]> = [
        ["SET", ["SET", "cache:numbers:key", '{"value":2}', "PX", "60000"], Option.some(2)],
        ["DEL", ["DEL", "cache:numbers:key"], Option.none()],
        ["RENAME", ["RENAME", "elsewhere", "cache:numbers:key"], Option.some(7)],
        ["PEXPIRE", ["PEXPIRE", "cache:numbers:key", "1"], Option.none()],
        ["FLUSHALL", ["FLUSHALL"], Option.none()]
      ]
      for (const [what, change, expected] of foreign) {
        yield* cache.set("key", 1)
        yield* near(cache, "key")
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
        if (what === "RENAME") yield* command("SET", "elsewhere", '{"value":7}', "PX", "60000")
        yield* command(...change)
        yield* until(
          what,
          Effect.map(cache.get("key"), (found) => Option.getOrNull(found) === Option.getOrNull(expected))
        )
      }
      assert.strictEqual((yield* cache.stats).flushes, 0)
    }).pipe(Effect.provide(own()))
  )

  it.scopedLive("without it they are not: the tier goes by what handles tell", () =>
    Effect.gen(function* () {
      const cache = yield* tiered()
      yield* cache.set("key", 1)
      yield* near(cache, "key")
      yield* send("SET", "cache:numbers:key", '{"value":2}', "PX", 60_000)
      assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
    }).pipe(Effect.provide(RedisCache.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))))
  )

  it.scopedLive("handles hear of each other as ever: writes, deletions, tags, a clear of each kind", () =>
    Effect.gen(function* () {
      for (const clearBy of ["scan", "generation"] as const) {
        const settings = { namespace: `by-${clearBy}`, clearBy }
        const [a, b] = [yield* tiered(settings), yield* tiered(settings)]
        const changes: ReadonlyArray<readonly [string, Effect.Effect<unknown>, Option.Option<number>]> = [
          ["set", b.set("key", 2), Option.some(2)],
          ["delete", b.delete("key"), Option.none()],
          ["invalidateTags", b.invalidateTags(["team"]), Option.none()],
          ["clear", b.clear, Option.none()]
        ]
        for (const [what, change, expected] of changes) {
          yield* a.set("key", 1, { tags: ["team"] })
          yield* near(a, "key")
          yield* change
          yield* until(
            what,
            Effect.map(a.get("key"), (found) => Option.getOrNull(found) === Option.getOrNull(expected))
          )
        }
      }
    }).pipe(Effect.provide(own()))
  )

  it.scopedLive(
    "what it computes is kept, with leases or without, though an entry's end is told while it computes",
    () =>
      Effect.gen(function* () {
        for (const lease of [{}, false] as const) {
          const cache = yield* tiered({ namespace: `lease-${lease !== false}`, lease })
          yield* cache.set("key", 1, { ttl: "20 millis" })
          yield* pause(30)
          // asking for a key that is over removes it, and the server tells of that
          const told = until(
            "told",
            Effect.map(cache.stats, ({ messages }) => messages >= 2)
          )
          assert.strictEqual(yield* cache.getOrElse("key", Effect.as(told, 2)), 2)
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(2))
          yield* near(cache, "key")
          assert.strictEqual((yield* cache.stats).outdated, 0)
        }
      }).pipe(Effect.provide(own()))
  )

  it.scopedLive("either connection lost: emptied, not used, and never stale after that", () =>
    Effect.gen(function* () {
      const { command } = yield* RedisServer
      const cache = yield* tiered()
      const idOf = (line: string | undefined) => /\bid=(\d+)/.exec(line ?? "")?.[1] ?? ""
      const tracks = (line: string) => /\bflags=\w*[tB]/.test(line)
      for (const [round, wanted] of [true, false, true, false].entries()) {
        yield* cache.set("key", round)
        yield* near(cache, "key")
        const lines = yield* subscribers
        assert.strictEqual(lines.length, 2)
        const id = idOf(lines.find((line) => tracks(line) === wanted))
        assert.notStrictEqual(id, "", wanted ? "the connection that tracks" : "the one of messages")
        yield* command("CLIENT", "KILL", "ID", id)
        yield* until(
          "flushed",
          Effect.map(cache.stats, ({ flushes }) => flushes > round)
        )
        assert.strictEqual(yield* size(cache), 0)
        yield* command("SET", "cache:numbers:key", `{"value":${-round - 1}}`, "PX", "60000")
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(-round - 1))
        yield* until(
          "both are back",
          Effect.map(subscribers, (all) => all.length === 2)
        )
      }
    }).pipe(Effect.provide(own()))
  )

  it.scopedLive("a server that hangs or dies: the tier stops to answer, and is used again when it is back", () =>
    Effect.gen(function* () {
      const { freeze, kill, start, thaw } = yield* RedisServer
      const cache = yield* tiered()
      yield* cache.set("key", 1)
      yield* near(cache, "key")
      yield* freeze
      yield* until(
        "bypassed",
        Effect.map(size(cache), (cells) => cells === 0)
      )
      assert.deepStrictEqual(yield* cache.get("key"), Option.none())
      yield* thaw
      yield* until("back", Effect.map(cache.get("key"), Option.contains(1)))
      yield* near(cache, "key")
      yield* kill
      yield* until("gone", Effect.map(cache.get("key"), Option.isNone))
      yield* start
      yield* until("kept", Effect.zipRight(cache.set("key", 2), Effect.map(cache.get("key"), Option.contains(2))))
      yield* near(cache, "key")
    }).pipe(Effect.provide(own({ commandTimeout: "500 millis" })))
  )

  it.scopedLive(
    "writers that tell and writers that do not, at once: when all is said, every tier has what is kept",
    () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const handles = yield* Effect.all([tiered(), tiered()])
        const keys = ["a", "b", "c"]
        let value = 0
        for (let round = 0; round < 10; round++) {
          yield* Effect.forEach(
            Array.from({ length: 200 }, (_, index) => index),
            (index): Effect.Effect<unknown, unknown> => {
              const handle = handles[index % 2] ?? handles[0]
              const key = keys[(index * 7 + round) % 3] ?? "a"
              switch ((index * 11 + round) % 8) {
                case 0:
                  return handle.set(key, ++value)
                case 1:
                  return redis.send("DEL", `cache:numbers:${key}`)
                case 2:
                  return handle.getOrElse(key, Effect.as(Effect.yieldNow(), ++value))
                case 3:
                  return redis.send("SET", `cache:numbers:${key}`, `{"value":${++value}}`, "PX", 60_000)
                default:
                  return handle.get(key)
              }
            },
            { concurrency: 24, discard: true }
          )
          // what the server tells comes in its order: once the last is heard, all is
          const last = ++value
          yield* redis.send("SET", "cache:numbers:last", `{"value":${last}}`, "PX", 60_000)
          for (const handle of handles) {
            yield* until("said", Effect.map(handle.get("last"), Option.contains(last)))
            for (const key of keys) {
              const kept = yield* redis.send("GET", `cache:numbers:${key}`)
              const found = yield* handle.get(key)
              assert.strictEqual(Option.getOrNull(found), typeof kept === "string" ? JSON.parse(kept).value : null)
            }
          }
        }
      }).pipe(Effect.provide(own()))
  )

  it.scopedLive("a handle that is done with leaves no connection", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      for (let round = 0; round < 10; round++) yield* Effect.scoped(tiered({ namespace: `n${round}` }))
      assert.strictEqual((yield* redis.stats).listeners, 0)
      yield* until(
        "closed",
        Effect.map(subscribers, (all) => all.length === 0)
      )
    }).pipe(Effect.provide(own()))
  )

  it.scopedLive("a setting of the kind redis", () =>
    Effect.gen(function* () {
      const caches = yield* Caches.make([RedisCaches.kind])
      const numbers = yield* caches.get(
        Caches.define({ name: "numbers", kind: "redis", schema: Schema.Number, firstTier: {} })
      )
      yield* numbers.set("key", 1)
      yield* near(numbers, "key")
      yield* send("SET", "cache:numbers:key", '{"value":2}', "PX", 60_000)
      yield* until("seen", Effect.map(numbers.get("key"), Option.contains(2)))
    }).pipe(
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["caches.numbers.tracking", "true"]]))),
      Effect.provide(client().pipe(Layer.provideMerge(server())))
    )
  )

  it.scopedLive(
    "through a failover of Sentinel the new master tells",
    () =>
      Effect.gen(function* () {
        const watched = yield* Sentinel.make({ replicas: 1 })
        const sentinels = watched.sentinels.map(({ host, port }) => ({ host, port }))
        yield* Effect.gen(function* () {
          const redis = yield* RedisClient.RedisClient
          const cache = yield* tiered()
          yield* cache.set("key", 1)
          yield* near(cache, "key")
          yield* watched.failover
          yield* until(
            "written",
            Effect.map(Effect.either(redis.send("SET", "other", "1", "PX", 1_000)), Either.isRight)
          )
          yield* cache.set("key", 2)
          yield* near(cache, "key")
          assert.isAtLeast((yield* cache.stats).flushes, 1)
          yield* redis.send("SET", "cache:numbers:key", '{"value":3}', "PX", 60_000)
          yield* until("seen", Effect.map(cache.get("key"), Option.contains(3)))
        }).pipe(
          Effect.provide(tracking.pipe(Layer.provideMerge(RedisClient.layer({ sentinels, master: watched.master }))))
        )
      }),
    60_000
  )

  it.scopedLive(
    "on a Cluster a tier by tracking is refused, typed, strict or not; without a tier the backend is as ever",
    () =>
      Effect.gen(function* () {
        const cluster = yield* Cluster.make({ replicas: 0 })
        const nodes = cluster.nodes.map(({ host, port }) => ({ host, port }))
        yield* Effect.gen(function* () {
          const error = yield* Effect.flip(tiered())
          assert.instanceOf(error, Cache.CacheError)
          assert.deepStrictEqual([error.reason, error.isRetryable], ["InvalidOptions", false])
          assert.include(error.message, "on a Cluster")
          const cache = yield* Cache.make({ namespace: "numbers", schema: Schema.Number })
          yield* cache.set("key", 1)
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
        }).pipe(Effect.provide(tracking.pipe(Layer.provideMerge(RedisClient.layer({ nodes })))))
      }),
    60_000
  )
})
