import { describe, layer } from "@effect/vitest"
import { LockSuite, Suite } from "@underlay/core/testing"
import { RedisClient, RedisLock } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Layer } from "effect"
import { client, pause, server } from "./support.ts"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const real = RedisLock.layer().pipe(Layer.provideMerge(client()), Layer.provide(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisLock", "redis-server"), () => {
  layer(real, { excludeTestServices: true })("the suite of locks", (it) => {
    const suite = LockSuite.make({
      advance: (duration) => pause(Duration.toMillis(duration)),
      pace: 5,
      steal: (key) => send("DEL", `lock:${key}`)
    })
    for (const one of Suite.applicable(suite, ["steal"])) it.effect(one.name, () => one.run)
  })
})
