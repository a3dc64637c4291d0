import { describe, layer } from "@effect/vitest"
import { CountersSuite, Suite } from "@underlay/core/testing"
import { RedisClient, RedisCounters } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer } from "effect"
import { advance, client, server } from "./support.ts"

const real = RedisCounters.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

/** The clock of the server, in milliseconds. */
const now = Effect.flatMap(RedisClient.RedisClient, (redis) =>
  Effect.map(redis.send("TIME"), (reply) => {
    const [seconds, micros] = Array.isArray(reply) ? reply.map(Number) : []
    return (seconds ?? 0) * 1_000 + Math.floor((micros ?? 0) / 1_000)
  })
)

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

describe.skipIf(Need.missing("redis-server"))(Need.title("Counters on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = CountersSuite.make({
      advance,
      now,
      slack: "10 seconds",
      plant: (key, text) => send("SET", `counter:${key}`, text)
    })
    for (const one of Suite.applicable(suite, ["plant"])) it.effect(one.name, () => one.run)
  })
})
