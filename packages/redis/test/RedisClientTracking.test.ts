import { assert, describe, it } from "@effect/vitest"
import type { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Cluster from "@underlay/servers/RedisCluster"
import * as Sentinel from "@underlay/servers/RedisSentinel"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either } from "effect"
import { drivers, failureOf, open as openClient, pause, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

/** What a listener heard, in words; keys that are no text in base 64. */
const listener = () => {
  const heard: Array<string> = []
  const inWords = (key: Uint8Array): string => {
    const text = Buffer.from(key).toString()
    return Buffer.from(text).equals(key) ? text : Buffer.from(key).toString("base64")
  }
  return {
    heard,
    handler: (event: RedisClient.Tracked): void => {
      if (event._tag !== "Invalidated") heard.push(event._tag)
      else if (event.keys === null) heard.push("all")
      else for (const key of event.keys) heard.push(inWords(key))
    }
  }
}

for (const [version, driver] of drivers) {
  describe.skipIf(Need.missing("redis-server"))(Need.title(`RedisClient.track, on ${version}`, "redis-server"), () => {
    const open = (options: RedisClient.Options) => openClient({ driver, ...options })

    it.scopedLive("tells of every change of the keys with a prefix, whoever makes it, and of no other", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
        const { handler, heard } = listener()
        yield* redis.track(["a:", "b:"], handler)
        assert.deepStrictEqual(heard, ["Ready"])
        assert.strictEqual((yield* redis.stats).listeners, 1)
        yield* redis.send("SET", "c:1", "x")
        yield* redis.send("SET", "a:1", "x")
        yield* server.command("SET", "b:1", "x")
        const bytes = Uint8Array.from([0x61, 0x3a, 0xff, 0x2c, 0x00])
        yield* redis.send("SET", bytes, "x")
        yield* redis.send("SET", "a:with,commas", "x")
        yield* redis.send("DEL", "a:1")
        yield* redis.send("SET", "b:2", "x", "PX", 20)
        yield* until(Effect.sync(() => heard.filter((one) => one === "b:2").length === 2))
        yield* redis.send("FLUSHALL")
        yield* until(Effect.sync(() => heard.includes("all")))
        assert.deepStrictEqual(heard, [
          "Ready",
          "a:1",
          "b:1",
          Buffer.from(bytes).toString("base64"),
          "a:with,commas",
          "a:1",
          "b:2",
          "b:2",
          "all"
        ])
      })
    )

    it.scopedLive("a connection that is lost: Lost, then Ready, and the server tracks anew", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
        const { handler, heard } = listener()
        yield* redis.track(["a:"], handler)
        yield* server.command("CLIENT", "KILL", "TYPE", "pubsub")
        yield* until(Effect.sync(() => heard.length === 3))
        yield* redis.send("SET", "a:1", "x")
        yield* until(Effect.sync(() => heard.length === 4))
        assert.deepStrictEqual(heard, ["Ready", "Lost", "Ready", "a:1"])
        yield* server.kill
        yield* until(Effect.sync(() => heard.length === 5))
        yield* server.start
        yield* until(Effect.sync(() => heard.length === 6))
        yield* until(Effect.map(Effect.either(redis.send("SET", "a:2", "x")), Either.isRight))
        yield* until(Effect.sync(() => heard.at(-1) === "a:2"))
        assert.deepStrictEqual(heard.slice(4), ["Lost", "Ready", "a:2"])
      })
    )

    it.scopedLive("a server that falls silent is found out, so that nothing old is kept for long", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const { handler, heard } = listener()
        yield* redis.track([""], handler)
        yield* server.freeze
        yield* until(
          Effect.sync(() => heard.at(-1) === "Lost"),
          2_500
        )
        yield* server.thaw
        yield* until(
          Effect.sync(() => heard.at(-1) === "Ready"),
          2_500
        )
      })
    )

    it.scopedLive("what cannot be is a typed error: no prefix, prefixes that overlap, a user that may not", () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ users: ["app on >secret ~* &* +@all -client"] })
        const { redis, release } = yield* open(at(server))
        const { handler } = listener()
        const none = yield* failureOf(Effect.scoped(redis.track([], handler)))
        assert.deepStrictEqual([none.reason, none.outcome], ["Rejected", "not-sent"])
        const overlap = yield* failureOf(Effect.scoped(redis.track(["a", "ab"], handler)))
        assert.deepStrictEqual([overlap.reason, overlap.outcome], ["Rejected", "rejected"])
        assert.notInclude(String(overlap.cause), "'ab'")
        const other = yield* open({ ...at(server), username: "app", password: "secret" })
        const refused = yield* failureOf(Effect.scoped(other.redis.track(["a"], handler)))
        assert.deepStrictEqual([refused.reason, refused.code], ["Authentication", "NOPERM"])
        assert.strictEqual((yield* redis.stats).listeners, 0)
        yield* release
        const closed = yield* failureOf(Effect.scoped(redis.track(["a"], handler)))
        assert.deepStrictEqual([closed.reason, closed.outcome], ["Closed", "not-sent"])
      })
    )

    it.scopedLive("while the server is away it is begun all the same; released: no connection is left", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        yield* server.kill
        const { redis, release } = yield* open({ ...at(server), connect: "lazy" })
        const { handler, heard } = listener()
        yield* Effect.scoped(redis.track(["x:"], handler))
        yield* redis.track(["a:"], handler)
        assert.deepStrictEqual(heard, [])
        yield* server.start
        yield* until(Effect.sync(() => heard.length === 1))
        yield* until(Effect.map(Effect.either(redis.send("SET", "a:1", "x")), Either.isRight))
        yield* until(Effect.sync(() => heard.length === 2))
        assert.deepStrictEqual(heard, ["Ready", "a:1"])
        yield* release
        const left = Effect.map(server.command("CLIENT", "LIST"), (list) => list.trim().split("\n").length - 1)
        yield* until(Effect.map(left, (count) => count <= 1))
        assert.deepStrictEqual(heard, ["Ready", "a:1"])
      })
    )

    it.scopedLive(
      "through a failover the new master tells; on a Cluster it is refused",
      () =>
        Effect.gen(function* () {
          const watched = yield* Sentinel.make({ replicas: 1 })
          const { redis } = yield* open({ sentinels: watched.sentinels.map(at), master: watched.master })
          const { handler, heard } = listener()
          yield* redis.track(["a:"], handler)
          yield* watched.failover
          yield* until(Effect.sync(() => heard.length === 3))
          yield* until(Effect.map(Effect.either(redis.send("SET", "a:1", "x")), Either.isRight))
          yield* until(Effect.sync(() => heard.at(-1) === "a:1"))
          yield* pause(50)
          assert.deepStrictEqual(heard, ["Ready", "Lost", "Ready", "a:1"])
          const cluster = yield* Cluster.make({ replicas: 0 })
          const other = yield* open({ nodes: cluster.nodes.map(at) })
          const error = yield* failureOf(Effect.scoped(other.redis.track(["a:"], handler)))
          assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-sent"])
        }),
      60_000
    )
  })
}
