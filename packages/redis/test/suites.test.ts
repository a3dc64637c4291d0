import { describe, layer } from "@effect/vitest"
import { ConversationMemorySuite, SessionStoreSuite, Suite } from "@underlay/core/testing"
import { RedisClient, RedisConversationMemory, RedisSessionStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer } from "effect"
import { advance, client, server } from "./support.ts"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

/** The server's time in milliseconds. */
const now = Effect.map(send("TIME"), (reply) =>
  Array.isArray(reply) ? Number(reply[0]) * 1_000 + Math.floor(Number(reply[1]) / 1_000) : Number.NaN
)

const real = Layer.mergeAll(RedisSessionStore.layer(), RedisConversationMemory.layer()).pipe(
  Layer.provideMerge(client()),
  Layer.provide(server())
)

describe.skipIf(Need.missing("redis-server"))(Need.title("the state ports on Redis", "redis-server"), () => {
  layer(real)("SessionStore", (it) => {
    const suite = SessionStoreSuite.make({
      advance,
      plant: (id, text) => send("SET", `session:${id}`, text),
      store: (options) => Effect.flatMap(RedisClient.RedisClient, (redis) => RedisSessionStore.make(redis, options)),
      now
    })
    for (const one of Suite.applicable(suite, ["plant", "options"])) it.effect(one.name, () => one.run)
  })
  layer(real)("ConversationMemory", (it) => {
    const suite = ConversationMemorySuite.make({
      advance,
      plant: (id, text) => send("RPUSH", `conversation:${id}`, text)
    })
    for (const one of Suite.applicable(suite, ["plant"])) it.effect(one.name, () => one.run)
  })
})
