import { assert, describe, layer } from "@effect/vitest"
import { ChatMessage, ConversationMemory, EventBus } from "@underlay/core"
import { RedisClient, RedisConversationMemory, RedisEventBus } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Servers from "@underlay/servers/RedisCluster"
import { Chunk, Context, Effect, Fiber, Layer, Schema, Stream, TestServices } from "effect"
import * as Slots from "../src/internal/slots.ts"
import { pause } from "./support.ts"

class RedisCluster extends Context.Tag("test/RedisCluster")<RedisCluster, Servers.RedisCluster>() {}

const cluster = Layer.scoped(RedisCluster, Servers.make({ masters: 3, replicas: 0 }))

const client = Layer.unwrapEffect(
  Effect.map(RedisCluster, ({ nodes }) =>
    RedisClient.layer({
      nodes: nodes.map(({ host, port }) => ({ host, port })),
      commandTimeout: "5 seconds"
    })
  )
)

const real = Layer.merge(RedisEventBus.layer, RedisConversationMemory.layer()).pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(cluster)
)

describe.skipIf(Need.missing("redis-server"))(
  Need.title("EventBus and ConversationMemory on a Cluster", "redis-server"),
  () => {
    layer(real, { timeout: "60 seconds" })("three masters", (it) => {
      it.effect(
        "slots that move while it is used: nothing is lost, no key is out of order, and nothing said is forgotten",
        () =>
          TestServices.provideLive(
            Effect.scoped(
              Effect.gen(function* () {
                const servers = yield* RedisCluster
                const bus = yield* EventBus.EventBus
                const conversations = yield* ConversationMemory.ConversationMemory
                const topic = EventBus.topic({
                  name: "moving",
                  schema: Schema.Struct({ n: Schema.Number }),
                  partitions: 6
                })
                const keys = Array.from({ length: 12 }, (_, index) => `key ${index}`)
                const seen: Array<readonly [string, number]> = []
                for (const consumer of ["one", "two"]) {
                  yield* bus.subscribe(topic, {
                    group: "g",
                    consumer,
                    claimAfter: "2 seconds",
                    pollInterval: "50 millis"
                  })(({ event, key }) => Effect.sync(() => void seen.push([key ?? "", event.n])))
                }
                const publish = (key: string, n: number): Effect.Effect<unknown> =>
                  Effect.catchAll(bus.publish(topic, { n }, { key, id: `${key} ${n}` }), (error) => {
                    assert.isTrue(error.isRetryable, error.message)
                    return Effect.zipRight(pause(10), publish(key, n))
                  })
                const say = (n: number): Effect.Effect<unknown> =>
                  Effect.catchAll(conversations.append("moving", [ChatMessage.user(`${n}`)]), (error) => {
                    // an append whose outcome is unknown must not be made again
                    assert.strictEqual(error.outcome, "not-done", error.message)
                    return Effect.zipRight(pause(10), say(n))
                  })
                const moving = yield* Effect.fork(
                  Effect.forEach([1, 2, 0], (to) =>
                    Effect.forEach(
                      [
                        ...Array.from({ length: 6 }, (_, partition) => Slots.ofKey(`events:moving:${partition}`)),
                        Slots.ofKey("events-topic:moving"),
                        Slots.ofKey("conversation:moving")
                      ],
                      (slot) => Effect.zipRight(servers.move(slot, to), pause(20))
                    )
                  )
                )
                let n = 0
                while (true) {
                  n++
                  yield* Effect.forEach(keys, (key) => publish(key, n), { concurrency: "unbounded" })
                  yield* say(n)
                  if (n >= 40 && (yield* Fiber.poll(moving))._tag === "Some") break
                }
                yield* Fiber.join(moving)
                const started = performance.now()
                while (new Set(seen.map(String)).size < keys.length * n) {
                  if (performance.now() - started > 20_000)
                    assert.fail(`handled: ${new Set(seen.map(String)).size} of ${keys.length * n}`)
                  yield* pause(20)
                }
                for (const key of keys) {
                  let next = 1
                  for (const [of, number] of seen) {
                    if (of !== key) continue
                    assert.isAtMost(number, next)
                    if (number === next) next++
                  }
                }
                const there = yield* Stream.runCollect(bus.stream(topic, { follow: false }))
                assert.strictEqual(Chunk.size(there), keys.length * n)
                assert.deepStrictEqual(
                  (yield* conversations.recent("moving")).map(ChatMessage.textOf),
                  Array.from({ length: n }, (_, index) => `${index + 1}`)
                )
              })
            )
          ),
        60_000
      )
    })
  }
)
