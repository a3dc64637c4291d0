import { assert, describe, it } from "@effect/vitest"
import { Connection, Connections } from "@underlay/core"
import { ConnectionSuite } from "@underlay/core/testing"
import { type RedisClient, RedisConnection } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { ConfigProvider, Effect } from "effect"
import { failureOf } from "./RedisClientSupport.ts"

const provider = (texts: Readonly<Record<string, string>>) =>
  ConfigProvider.fromMap(new Map(Object.entries(texts)), { pathDelim: "." })

const withRegistry = <A, E, R>(texts: Readonly<Record<string, string>>, effect: Effect.Effect<A, E, R>) =>
  effect.pipe(
    Effect.provide(Connections.layer([RedisConnection.kind])),
    Effect.withConfigProvider(provider({ "connections.redis.commandTimeout": "5 seconds", ...texts }))
  )

const ping = (name?: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connections = yield* Connections.Connections
      const connection = yield* connections.get(RedisConnection.kind, name)
      assert.strictEqual(connection.plane, "internal")
      assert.strictEqual((yield* connection.health).status, "up")
      assert.deepStrictEqual(yield* connection.stats, { total: 1, idle: 1, inUse: 0, waiting: 0 })
      return yield* connection.use((redis) => redis.send("PING"))
    })
  )

describe.skipIf(Need.missing("redis-server"))(
  Need.title("Redis in the registry of connections", "redis-server"),
  () => {
    it.scopedLive("is made on demand from REDIS_URL, from its settings, or from settings of another name", () =>
      Effect.gen(function* () {
        const { port, url } = yield* Server.make()
        assert.strictEqual(yield* withRegistry({ REDIS_URL: url }, ping()), "PONG")
        assert.strictEqual(yield* withRegistry({ "connections.redis.port": String(port) }, ping()), "PONG")
        const other = { REDIS_URL: "redis://127.0.0.1:1", "connections.sessions.url": url }
        assert.strictEqual(yield* withRegistry(other, ping("sessions")), "PONG")
      })
    )

    it.scopedLive("isolated connections are counted with it", () =>
      Effect.gen(function* () {
        const { url } = yield* Server.make()
        yield* withRegistry(
          { REDIS_URL: url },
          Effect.gen(function* () {
            const connections = yield* Connections.Connections
            const connection = yield* connections.get(RedisConnection.kind)
            yield* Effect.scoped(
              Effect.gen(function* () {
                yield* connection.use((redis) => redis.isolated())
                assert.deepStrictEqual(yield* connection.stats, { total: 2, idle: 1, inUse: 1, waiting: 0 })
              })
            )
            assert.deepStrictEqual(yield* connection.stats, { total: 2, idle: 2, inUse: 0, waiting: 0 })
          })
        )
      })
    )

    it.scopedLive("a first build that fails does not poison the registry", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        yield* server.kill
        yield* withRegistry(
          { REDIS_URL: server.url },
          Effect.gen(function* () {
            const error = yield* failureOf(ping())
            assert.instanceOf(error, Connection.ConnectionError)
            assert.deepStrictEqual([error.reason, error.code, error.isRetryable], ["Unavailable", "ECONNREFUSED", true])
            yield* server.start
            assert.strictEqual(yield* ping(), "PONG")
          })
        )
      })
    )

    it.scopedLive("wrong settings are one typed error that lists every problem and no value", () =>
      Effect.gen(function* () {
        const error = yield* failureOf(
          withRegistry(
            { "connections.redis.port": "hunter2", "connections.redis.db": "-1", REDIS_TLS: "hunter2" },
            ping()
          )
        )
        assert.instanceOf(error, Connection.ConnectionError)
        assert.strictEqual(error.reason, "InvalidSettings")
        for (const where of ["connections.redis.port", "connections.redis.db", "REDIS_TLS"]) {
          assert.include(error.message, where)
        }
        assert.notInclude(error.message, "hunter2")
      })
    )
    describe("passes the suite of connections", () => {
      const url = Effect.map(Server.make(), ({ url }) => url)
      const direct = (url: string, behaviour: RedisClient.Behaviour = {}) =>
        Effect.flatMap(RedisConnection.kind.settings, (settings) =>
          RedisConnection.kindWith(behaviour).make("redis", settings)
        ).pipe(Effect.withConfigProvider(provider({ REDIS_URL: url })))
      const suite = ConnectionSuite.suite({
        make: Effect.flatMap(url, (url) => direct(url)),
        ask: (client: RedisClient.Service) => client.send("PING"),
        expected: "PONG",
        connecting: (mode) =>
          Effect.flatMap(url, (url) => direct(url, { connect: mode === "eager" ? "eager" : "lazy" })),
        modes: ["eager", "lazy"],
        scopes: 10
      })
      for (const one of suite.cases) it.live(one.name, () => one.run)
    })
  }
)
