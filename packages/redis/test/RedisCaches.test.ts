import { assert, describe, it, layer } from "@effect/vitest"
import { Caches, Connections } from "@underlay/core"
import { CachesSuite, Suite } from "@underlay/core/testing"
import { RedisCaches, RedisClient, RedisConnection } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { ConfigProvider, type Duration, Effect, Layer, Option, Schema, TestClock } from "effect"
import { advance as age, client, RedisServer, server } from "./support.ts"

const real = client().pipe(Layer.provideMerge(server()))

/** Time passes for the server's keys, and for the handles, which go by the clock of the test. */
const advance = (duration: Duration.Duration) => Effect.zipRight(age(duration), TestClock.adjust(duration))

const configured = (configuration: ReadonlyMap<string, string>) =>
  Effect.withConfigProvider(ConfigProvider.fromMap(new Map(configuration)))

const Numbers = Caches.define({ name: "numbers", schema: Schema.Number })

describe.skipIf(Need.missing("redis-server"))(Need.title("Caches on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = CachesSuite.make({
      kind: "redis",
      advance,
      caches: (configuration) => configured(configuration)(Caches.make([RedisCaches.kind]))
    })
    for (const one of Suite.applicable(suite, ["oneTime", "counts"])) it.effect(one.name, () => one.run)
  })

  it.scoped("entries are kept under the prefix and the name", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const caches = yield* configured(new Map([["caches.defaults.prefix", "staging-"]]))(
        Caches.make([RedisCaches.kind])
      )
      const numbers = yield* caches.get(Caches.define({ name: "numbers", kind: "redis", schema: Schema.Number }))
      yield* numbers.set("one", 1)
      assert.deepStrictEqual(yield* redis.send("KEYS", "*"), ["cache:staging-numbers:one"])
    }).pipe(Effect.provide(real))
  )

  it.scoped("a clear that the store could not do fails, though the cache itself never does", () =>
    Effect.gen(function* () {
      const { stop } = yield* RedisServer
      const caches = yield* configured(new Map([["caches.numbers.kind", "redis"]]))(Caches.make([RedisCaches.kind]))
      const numbers = yield* caches.get(Numbers)
      yield* numbers.set("one", 1)
      yield* stop
      assert.deepStrictEqual(yield* numbers.get("one"), Option.none())
      const error = yield* Effect.flip(caches.clear("numbers"))
      assert.strictEqual(error.reason, "Unavailable")
      assert.isTrue(error.isRetryable)
    }).pipe(Effect.provide(real))
  )

  it.scoped("over the registry of connections nothing is connected to before a cache of the kind is asked for", () =>
    Effect.gen(function* () {
      const { host, port } = yield* RedisServer
      const configuration = new Map([
        ["connections.sessions.host", host],
        ["connections.sessions.port", String(port)],
        ["connections.nowhere.host", "127.0.0.1"],
        ["connections.nowhere.port", "1"],
        ["connections.nowhere.connectTimeout", "200 millis"],
        ["caches.numbers.kind", "redis"],
        ["caches.numbers.connection", "sessions"],
        ["caches.lost.kind", "redis"],
        ["caches.lost.connection", "nowhere"]
      ])
      yield* Effect.gen(function* () {
        const connections = yield* Connections.Connections
        const caches = yield* Caches.make([RedisCaches.kindOfConnections])
        const local = yield* caches.get(Caches.define({ name: "local", schema: Schema.Number }))
        yield* local.set("one", 1)
        assert.deepStrictEqual(yield* connections.list, [])
        const numbers = yield* caches.get(Numbers)
        yield* numbers.set("one", 1)
        assert.deepStrictEqual(yield* numbers.get("one"), Option.some(1))
        assert.deepStrictEqual(
          (yield* connections.list).map(({ kind, name, state }) => [kind, name, state]),
          [["redis", "sessions", "in use"]]
        )
        const lost = yield* Effect.flip(caches.get(Caches.define({ name: "lost", schema: Schema.Number })))
        assert.strictEqual(lost.reason, "Unavailable")
        assert.include(lost.message, 'cache "lost": its connection "nowhere" cannot be made')
      }).pipe(Effect.provide(Connections.layer([RedisConnection.kind])), configured(configuration))
    }).pipe(Effect.provide(server()))
  )
})
