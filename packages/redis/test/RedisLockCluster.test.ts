import { assert, describe, layer } from "@effect/vitest"
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisCluster from "@underlay/servers/RedisCluster"
import { Context, Effect, Either, Layer } from "effect"
import { pause } from "./support.ts"

class Cluster extends Context.Tag("test/Cluster")<Cluster, RedisCluster.RedisCluster>() {}

const cluster = Layer.scoped(Cluster, RedisCluster.make({ masters: 3, replicas: 0 }))

const client = Layer.unwrapEffect(
  Effect.map(Cluster, ({ nodes }) =>
    RedisClient.layer({ nodes: nodes.map(({ host, port }) => ({ host, port })), commandTimeout: "5 seconds" })
  )
)

const real = RedisLock.layer().pipe(Layer.provideMerge(client), Layer.provideMerge(cluster))

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisLock on a Cluster", "redis-server"), () => {
  layer(real, { excludeTestServices: true, timeout: "120 seconds" })("three masters", (it) => {
    it.effect(
      "the slot of a lock moves from node to node while many count under it: none is lost, every token is greater",
      () =>
        Effect.gen(function* () {
          const { move, ownerOf, slotOf } = yield* Cluster
          const lock = yield* Lock.Lock
          const slot = yield* slotOf("lock:moving")
          const home = (yield* ownerOf(slot)).index
          let count = 0
          let last = 0n
          let isMoving = true
          const increment = Effect.gen(function* () {
            const { token } = yield* Lock.FencingToken
            assert.isTrue(token > last)
            last = token
            const seen = count
            yield* pause(1)
            count = seen + 1
          })
          const guard = (fair: boolean) => lock.withLock("moving", { wait: "forever", fair })
          const counting = (fair: boolean): Effect.Effect<number, Lock.LockError> =>
            Effect.gen(function* () {
              let done = 0
              while (isMoving || done < 20) {
                // where a slot is on its way, a script with several keys is refused for a moment
                const result = yield* Effect.either(guard(fair)(increment))
                if (Either.isRight(result)) done++
                else if (result.left.reason !== "Unavailable") return yield* result.left
              }
              return done
            })
          const moving = Effect.gen(function* () {
            for (const to of [1, 2, 0, 1]) {
              yield* move(slot, (home + to) % 3)
              yield* pause(100)
            }
            isMoving = false
          })
          const [done] = yield* Effect.all(
            [Effect.forEach([true, false, true, false], counting, { concurrency: "unbounded" }), moving],
            { concurrency: "unbounded" }
          )
          assert.strictEqual(
            count,
            done.reduce((sum, one) => sum + one, 0)
          )
          assert.isAtLeast(count, 80)
        }),
      60_000
    )
  })
})
