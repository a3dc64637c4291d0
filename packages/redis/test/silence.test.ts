import { describe, it } from "@effect/vitest"
import { Cache, ChatMessage, ConversationMemory, SessionStore } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { RedisCache, RedisClient, RedisConversationMemory, RedisSessionStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer, Option, Schema } from "effect"
import { client, server } from "./support.ts"

describe.skipIf(Need.missing("redis-server"))(Need.title("the internal plane is silent", "redis-server"), () => {
  it.scoped("a thousand session operations on Redis make no span, no log line and no metric", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      yield* Recording.assertSilent(
        Effect.forEach(
          Array.from({ length: 100 }, (_, index) => `session-${index}`),
          (id) =>
            Effect.gen(function* () {
              // ten operations
              yield* store.set(id, { user_id: "one", n: 0 })
              yield* store.get(id)
              yield* store.getAndTouch(id)
              yield* store.exists(id)
              yield* store.extendTtl(id)
              yield* store.update(id, (session) => ({ ...session, n: 1 }))
              const rotated = yield* store.rotate(id)
              yield* store.create(id, { user_id: "two" })
              yield* store.delete(Option.getOrThrow(rotated))
              yield* store.sessionsOf("two")
            }),
          { concurrency: 20 }
        )
      )
    }).pipe(Effect.provide(RedisSessionStore.layer().pipe(Layer.provide(client()), Layer.provide(server()))))
  )

  it.scoped("nor do a thousand operations of conversation memory and cache", () =>
    Effect.gen(function* () {
      const memory = yield* ConversationMemory.ConversationMemory
      const cache = yield* Cache.make({
        namespace: "silent",
        schema: Schema.Number,
        staleFor: "1 minute",
        earlyRefresh: 1e9,
        firstTier: {}
      })
      const redis = yield* RedisClient.RedisClient
      yield* Recording.assertSilent(
        Effect.forEach(
          Array.from({ length: 100 }, (_, index) => `conversation-${index}`),
          (id) =>
            Effect.gen(function* () {
              yield* memory.append(id, [ChatMessage.user("hello"), ChatMessage.assistant("good day")])
              yield* memory.recent(id)
              yield* memory.setSummary(id, "greetings")
              yield* memory.summary(id)
              yield* memory.trim(id, { maxTokens: 5 })
              yield* cache.set(id, 1)
              yield* cache.get(id)
              yield* cache.getOrElse(`${id}-2`, Effect.succeed(2))
              yield* cache.getMany([id, `${id}-2`])
              yield* cache.getOrElseOption(`${id}-3`, Effect.succeedNone)
              yield* cache.getOrElseMany([id, `${id}-4`], () => Effect.succeed([]))
              yield* Effect.exit(cache.getOrElse(`${id}-5`, Effect.die("a bug")))
              // computed anew behind the call, in vain
              yield* redis.send("SET", `cache:silent:${id}-6`, '{"keep":60000,"value":1}', "PX", 60_000)
              yield* Effect.exit(cache.getOrElse(`${id}-6`, Effect.die("a bug")))
              // no entry at all
              yield* redis.send("SET", `cache:silent:${id}-7`, "{", "PX", 60_000)
              yield* cache.get(`${id}-7`)
              yield* cache.setMany([[`${id}-8`, 1]], { tags: [id] })
              yield* cache.invalidateTags([id])
              yield* cache.deleteMany([id, `${id}-2`])
              yield* cache.delete(id)
            }),
          { concurrency: 20 }
        )
      )
    }).pipe(
      Effect.provide(
        Layer.merge(RedisConversationMemory.layer(), RedisCache.layer).pipe(
          Layer.provideMerge(client()),
          Layer.provide(server())
        )
      )
    )
  )
})
