import { assert, describe, it, layer } from "@effect/vitest"
import { Counters, RateLimiter } from "@underlay/core"
import { RedisCircuitControl, RedisClient, RedisCounters, RedisRateLimiter } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Servers from "@underlay/servers/RedisCluster"
import { Context, Effect, Fiber, Layer } from "effect"
import * as Slots from "../src/internal/slots.ts"
import { pause } from "./support.ts"

class RedisCluster extends Context.Tag("test/RedisCluster")<RedisCluster, Servers.RedisCluster>() {}

const cluster = Layer.scoped(RedisCluster, Servers.make({ masters: 3, replicas: 0 }))

const client = Layer.unwrapEffect(
  Effect.map(RedisCluster, ({ nodes }) =>
    RedisClient.layer({ nodes: nodes.map(({ host, port }) => ({ host, port })), commandTimeout: "5 seconds" })
  )
)

const real = Layer.mergeAll(RedisRateLimiter.layer, RedisCounters.layer, RedisCircuitControl.layer()).pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(cluster)
)

describe("the keys of several limits", () => {
  it.effect("are in one slot, whatever is in the key", () =>
    Effect.gen(function* () {
      const texts = ["a", "{", "}", "{}", "}{", "a}b", "{a}b", "x{a}{b}", "a{}{b}", "\u{1F511}", "::1", "a{b}c}d"]
      for (const text of texts) {
        const asked: Array<ReadonlyArray<string>> = []
        const limiter = yield* RateLimiter.all({
          name: "several",
          limits: [
            { limit: 1, interval: "1 second" },
            { limit: 1, interval: "1 hour" },
            { algorithm: "gcra", limit: 1, interval: "1 hour" }
          ]
        }).pipe(
          Effect.provideService(RateLimiter.RateLimiter, {
            judge: ({ keys, meters }) => {
              asked.push(keys)
              const verdicts = meters.map(() => ({ remaining: 0, retryAfter: 0, resetAfter: 0 }))
              return Effect.succeed({ at: 0, verdicts })
            },
            reset: () => Effect.succeed(false)
          })
        )
        yield* limiter.consume(text)
        const [keys = []] = asked
        assert.strictEqual(new Set(keys).size, 3)
        assert.strictEqual(new Set(keys.map(Slots.ofKey)).size, 1, text)
      }
    })
  )
})

describe.skipIf(Need.missing("redis-server"))(Need.title("limits on a Cluster", "redis-server"), () => {
  layer(real, { timeout: "60 seconds" })("three masters", (it) => {
    it.effect("limits are kept while their slots move", () =>
      Effect.gen(function* () {
        const servers = yield* RedisCluster
        const several = yield* RateLimiter.all({
          name: "moving",
          limits: [
            { limit: 300, interval: "1 day" },
            { algorithm: "token-bucket", limit: 500, interval: "1 day" }
          ]
        })
        const counters = yield* Counters.Counters
        const slots = [Slots.ofKey("{ratelimit:moving:a}:"), Slots.ofKey("counter:moving")]
        let passed = 0
        let unknown = 0
        let added = 0
        let going = true
        const round = Effect.gen(function* () {
          const decision = yield* Effect.either(several.consume("a"))
          if (decision._tag === "Left") unknown += decision.left.outcome === "unknown" ? 1 : 0
          else if (decision.right.allowed) passed++
          const counted = yield* Effect.either(counters.add("moving", 1, { ttl: "1 day", limit: 300 }))
          if (counted._tag === "Left") unknown += counted.left.outcome === "unknown" ? 1 : 0
          else if (counted.right.allowed) added++
        })
        const using = yield* Effect.fork(
          Effect.gen(function* () {
            while (going)
              yield* Effect.all(
                Array.from({ length: 10 }, () => round),
                { concurrency: 10, discard: true }
              )
          })
        )
        // the nodes may not agree yet about the move before
        const migrate = (to: number, left = 5): Effect.Effect<void, unknown> =>
          Effect.catchAll(servers.migrate(slots, to), (error) =>
            left === 0 ? Effect.fail(error) : Effect.zipRight(pause(200), migrate(to, left - 1))
          )
        for (const to of [0, 1, 2, 0, 1, 2]) yield* migrate(to)
        going = false
        yield* Fiber.join(using)
        // the rest, when the nodes agree again
        for (let n = 0; n < 2_000 && (passed < 300 || added < 300); n++) yield* round
        assert.deepStrictEqual([passed, added, unknown], [300, 300, 0])
      })
    )
  })
})
