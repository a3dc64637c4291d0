/** Rows of the table of guarantees in the Redis guide that no other test shows for every store. */
import { assert, describe, it } from "@effect/vitest"
import { Cache, ChatMessage, ConversationMemory, Counters, Lock, SessionStore } from "@underlay/core"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Effect, Layer, Option, Schema } from "effect"
import * as Stores from "./stores.ts"
import { pause } from "./support.ts"

const onServer = (server: RedisServer.RedisServer) =>
  Stores.layer.pipe(
    Layer.provideMerge(RedisClient.layer({ host: server.host, port: server.port, commandTimeout: "5 seconds" }))
  )

const reasonOf = <A, E extends { readonly reason: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.match(effect, { onFailure: ({ reason }) => reason, onSuccess: () => "done" })

describe.skipIf(Need.missing("redis-server"))(Need.title("what stores guarantee", "redis-server"), () => {
  it.scopedLive("a server without memory: reads work, writes fail as Rejected, a cache only counts", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      yield* Effect.gen(function* () {
        const sessions = yield* SessionStore.SessionStore
        const memory = yield* ConversationMemory.ConversationMemory
        const counters = yield* Counters.Counters
        const lock = yield* Lock.Lock
        const cache = yield* Cache.make({ namespace: "n", schema: Schema.Number })
        yield* sessions.create("a", { user_id: "ada" })
        yield* memory.append("a", [ChatMessage.user("hello")])
        yield* counters.add("a", 1, { ttl: "1 minute" })
        yield* cache.set("a", 1)
        const held = yield* lock.acquire("held", { ttl: "1 minute" })
        yield* server.call("CONFIG", "SET", "maxmemory", "1")

        assert.isTrue(Option.isSome(yield* sessions.get("a")))
        assert.strictEqual((yield* memory.recent("a")).length, 1)
        assert.strictEqual(yield* counters.get("a"), 1)
        assert.deepStrictEqual(yield* cache.get("a"), Option.some(1))
        assert.isTrue(yield* held.release)

        assert.deepStrictEqual(
          yield* Effect.all({
            set: reasonOf(sessions.set("a", { user_id: "ada" })),
            create: reasonOf(sessions.create("b", { user_id: "ada" })),
            update: reasonOf(sessions.update("a", (session) => ({ ...session, n: 1 }))),
            append: reasonOf(memory.append("a", [ChatMessage.user("again")])),
            add: reasonOf(counters.add("a", 1, { ttl: "1 minute" })),
            lock: reasonOf(lock.withLock("b", { wait: 0 })(Effect.void))
          }),
          {
            set: "Rejected",
            create: "Rejected",
            update: "Rejected",
            append: "Rejected",
            add: "Rejected",
            lock: "Rejected"
          }
        )
        yield* cache.set("b", 2)
        assert.strictEqual((yield* cache.stats).unreachable, 1)
      }).pipe(Effect.provide(onServer(server)))
    })
  )

  it.scopedLive("all keys gone: sessions and counters begin anew, a lock is lost and its body interrupted", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make()
      yield* Effect.gen(function* () {
        const sessions = yield* SessionStore.SessionStore
        const counters = yield* Counters.Counters
        const lock = yield* Lock.Lock
        yield* sessions.create("a", { user_id: "ada" })
        yield* sessions.create("b", { user_id: "ada" })
        yield* sessions.delete("b")
        yield* counters.add("a", 7, { ttl: "1 minute" })
        const before = yield* lock.withLock("a")(Lock.FencingToken)
        const guarded = yield* Effect.fork(
          reasonOf(lock.withLock("a", { ttl: "1 minute" })(Effect.zipRight(pause(20), Effect.never)))
        )
        yield* pause(100)
        yield* server.call("FLUSHALL")
        assert.strictEqual(yield* Effect.flatten(guarded.await), "Lost")
        assert.isTrue(Option.isNone(yield* sessions.get("a")))
        assert.deepStrictEqual(yield* sessions.sessionsOf("ada"), [])
        // its tombstone is gone too
        assert.strictEqual(yield* reasonOf(sessions.set("b", { user_id: "ada" })), "done")
        assert.strictEqual(yield* counters.get("a"), 0)
        const after = yield* lock.withLock("a")(Lock.FencingToken)
        assert.isTrue(after.token > before.token, "tokens go on growing")
      }).pipe(Effect.provide(onServer(server)))
    })
  )
})
