import { describe, layer } from "@effect/vitest"
import { CacheSuite, Suite } from "@underlay/core/testing"
import { RedisCache } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { type Duration, Effect, Layer, TestClock } from "effect"
import { advance as age, client, server } from "./support.ts"

const real = RedisCache.layer.pipe(Layer.provideMerge(client()), Layer.provide(server()))

/** Time passes for the server's keys, and for the handles, which go by the clock of the test. */
const advance = (duration: Duration.Duration) => Effect.zipRight(age(duration), TestClock.adjust(duration))

describe.skipIf(Need.missing("redis-server"))(Need.title("Cache on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = CacheSuite.make({ advance })
    for (const one of Suite.applicable(suite, ["leases", "stamps", "invalidations"])) {
      it.effect(one.name, () => one.run)
    }
  })
})
