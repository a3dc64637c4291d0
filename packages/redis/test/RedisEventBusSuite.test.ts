import { describe, layer } from "@effect/vitest"
import { EventBusSuite, Suite } from "@underlay/core/testing"
import { RedisClient, RedisEventBus } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { type Duration, Effect, Layer, TestClock } from "effect"
import { advance, client, pause, server } from "./support.ts"

const real = RedisEventBus.layer.pipe(Layer.provideMerge(client()), Layer.provide(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("EventBus on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = EventBusSuite.make({
      // consumers go by the clock of the test, keys by the server's
      advance: (duration: Duration.Duration) => Effect.zipRight(advance(duration), TestClock.adjust(duration)),
      settle: pause(5),
      plant: (topic, text) =>
        Effect.flatMap(RedisClient.RedisClient, (redis) =>
          redis.send("XADD", `events:${topic.name}:0`, "*", "data", text)
        )
    })
    for (const one of Suite.applicable(suite, ["plant"])) it.effect(one.name, () => one.run)
  })
})
