/**
 * The state ports under Sentinel: the master dies in the middle of every suite, and under the cases of every suite. What
 * a call was under way with fails typed; what comes after is served by the promoted replica.
 */
import { assert, describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisSentinel from "@underlay/servers/RedisSentinel"
import { Context, Effect, Exit, Fiber, Layer } from "effect"
import * as Ports from "../ports.ts"
import { advance, pause, timed } from "../support.ts"

class Sentinels extends Context.Tag("test/Sentinels")<Sentinels, RedisSentinel.RedisSentinel>() {}

const client = Layer.unwrapEffect(
  Effect.map(Sentinels, ({ master, password, sentinelPassword, sentinels }) =>
    RedisClient.layer({
      sentinels: sentinels.map(({ host, port }) => ({ host, port })),
      master,
      password,
      sentinelPassword,
      commandTimeout: "2 seconds"
    })
  )
)

const real = Ports.layer.pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(Layer.scoped(Sentinels, RedisSentinel.make({ password: "data", sentinelPassword: "watch" })))
)

const seconds = 120_000

/** Waits until the client serves writes again. Gives the milliseconds that it took. */
const served = Effect.flatMap(RedisClient.RedisClient, (redis) =>
  Effect.map(
    timed(
      Effect.retry(redis.send("SET", "served", "1", "PX", "1000"), {
        times: 1_000,
        while: () => Effect.as(pause(10), true)
      })
    ),
    ([, took]) => took
  )
)

describe.skipIf(Need.missing("redis-server"))(Need.title("the state ports under Sentinel", "redis-server"), () => {
  for (const port of Ports.ports(advance)) {
    layer(real, { timeout: seconds })(port.name, (it) => {
      const middle = Math.floor(port.cases.length / 2)
      for (const one of port.cases.slice(0, middle)) it.effect(one.name, () => one.run)

      it.effect(
        "the master is killed: the client is with the new one within a second of its promotion",
        () =>
          Effect.gen(function* () {
            const system = yield* Sentinels
            const redis = yield* RedisClient.RedisClient
            yield* system.failover
            assert.isBelow(yield* served, 1_000)
            assert.isAtLeast((yield* redis.stats).reconnects, 1)
            yield* system.restore
          }),
        seconds
      )

      for (const one of port.cases.slice(middle)) it.effect(one.name, () => one.run)

      it.effect(
        "cases under which the master dies pass or fail typed, and none hangs; then all pass",
        () =>
          Effect.gen(function* () {
            const system = yield* Sentinels
            const failover = yield* Effect.fork(Effect.zipRight(pause(50), system.failover))
            const failed = new Set<string>()
            const longest = { name: "", took: 0 }
            let runs = 0
            while ((yield* Fiber.poll(failover))._tag === "None") {
              const one = port.cases[runs++ % port.cases.length]
              if (one === undefined) break
              const [exit, took] = yield* timed(Effect.exit(one.run))
              if (took > longest.took) Object.assign(longest, { name: one.name, took })
              const outcome = Ports.outcome(exit)
              if (typeof outcome === "object") assert.fail(`${one.name}: ${outcome.fault}`)
              if (outcome === "failed by the outage") failed.add(one.name)
              // the promotion needs the machine too
              if (Exit.isFailure(exit)) yield* pause(5)
            }
            yield* Fiber.join(failover)
            assert.isAbove(failed.size, 0)
            assert.isBelow(longest.took, 15_000, longest.name)
            yield* served
            for (const one of port.cases) yield* one.run
            yield* system.restore
            for (const one of port.cases.slice(0, 3)) yield* one.run
          }),
        seconds
      )
    })
  }
})
