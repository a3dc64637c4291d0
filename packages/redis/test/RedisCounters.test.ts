import { assert, describe, it, layer } from "@effect/vitest"
import { Counters } from "@underlay/core"
import { CountersSuite, Recording, Suite } from "@underlay/core/testing"
import { RedisClient, RedisCounters } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Clock, Duration, Effect, Layer, TestClock } from "effect"
import { advanceCounters, now, send } from "./limits.ts"
import { client, RedisServer, server } from "./support.ts"

const real = RedisCounters.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("Counters on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = CountersSuite.make({
      advance: advanceCounters,
      now,
      slack: "10 seconds",
      plant: (key, text) => send("SET", `counter:${key}`, text)
    })
    for (const one of Suite.applicable(suite, ["plant"])) it.effect(one.name, () => one.run)
  })

  it.scoped("every counter has a time to live from its first moment on (complaint 18)", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      yield* counters.add("a", 1, { ttl: "1 minute" })
      yield* counters.set("b", 1, { ttl: "1 minute" })
      yield* counters.add("c", 1, { window: "day" })
      yield* counters.set("d", 1, { window: "month", timeZone: "Asia/Tokyo" })
      yield* counters.add("a", 1, { ttl: "1 day" })
      yield* counters.add("a", -1, { ttl: "1 day" })
      for (const key of ["a", "b", "c", "d"]) {
        assert.isAbove(Number(yield* send("PTTL", `counter:${key}`)), 0, key)
      }
      assert.isAtMost(Number(yield* send("PTTL", "counter:a")), 60_000)
    }).pipe(Effect.provide(real))
  )

  it.scoped("the window is that of the server's clock; one whose clock is off asks twice once, and then once", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      const redis = yield* RedisClient.RedisClient
      const sentBy = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
        Effect.gen(function* () {
          const before = (yield* redis.stats).sent
          const result = yield* effect
          return [result, (yield* redis.stats).sent - before] as const
        })
      const add = counters.add("a", 1, { window: "day" })
      yield* redis.send("SCRIPT", "FLUSH")
      // the first is known after it was sent whole
      yield* add
      const tomorrow = Math.ceil(((yield* now) + 1) / 86_400_000) * 86_400_000
      const ends = (left: Duration.Duration) => now.pipe(Effect.map((at) => at + Duration.toMillis(left) - tomorrow))
      for (const jump of [1_000, -3_000, 2]) {
        yield* Effect.flatMap(Clock.currentTimeMillis, (at) => TestClock.setTime(at + jump * 86_400_000))
        const [first, twice] = yield* sentBy(add)
        const [, once] = yield* sentBy(add)
        assert.deepStrictEqual([twice, once], [2, 1], `${jump} days`)
        assert.isAtMost(Math.abs(yield* ends(first.resetAfter)), 10_000)
      }
      assert.strictEqual(yield* counters.get("a"), 7)
    }).pipe(Effect.provide(real))
  )

  it.scoped("four clients with 250 calls each at once spend the budget and no more", () =>
    Effect.gen(function* () {
      const allowed = yield* Effect.forEach(
        [1, 2, 3, 4],
        () =>
          Effect.gen(function* () {
            const counters = yield* Counters.Counters
            const added = yield* Effect.forEach(
              Array.from({ length: 250 }),
              () => counters.add("budget", 3, { window: "month", limit: 1_000 }),
              { concurrency: "unbounded" }
            )
            return added.filter((one) => one.allowed).length
          }).pipe(Effect.provide(RedisCounters.layer.pipe(Layer.provide(Layer.fresh(client()))))),
        { concurrency: 4 }
      )
      assert.strictEqual(
        allowed.reduce((sum, one) => sum + one, 0),
        333
      )
    }).pipe(Effect.provide(server()))
  )

  it.scoped("a key of another type, and a server that is away, are typed failures without the key", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      yield* send("RPUSH", "counter:a", "1")
      for (const effect of [counters.get("a"), Effect.asVoid(counters.add("a", 1, { ttl: "1 hour" }))]) {
        const error = yield* Effect.flip(Effect.asVoid(effect))
        assert.strictEqual(error.reason, "Rejected")
        assert.notInclude(error.message, "counter:a")
      }
      yield* counters.set("a", 1, { ttl: "1 hour" })
      const { freeze, thaw } = yield* RedisServer
      yield* freeze
      const error = yield* Effect.flip(counters.add("a", 1, { ttl: "1 hour" }))
      assert.include(["Timeout", "Unavailable"], error.reason)
      assert.isFalse(error.outcome === "unknown" && error.isRetryable, "it could add twice")
      yield* thaw
    }).pipe(
      Effect.provide(
        RedisCounters.layer.pipe(
          Layer.provideMerge(client({ commandTimeout: "500 millis" })),
          Layer.provideMerge(server())
        )
      )
    )
  )

  it.scoped("emits nothing: no span, no log line, no metric", () =>
    Effect.gen(function* () {
      const counters = yield* Counters.Counters
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          for (let n = 0; n < 20; n++) {
            yield* counters.add("a", 1, { window: "day", limit: 10 })
            yield* counters.get("a")
            yield* counters.set("b", n, { ttl: "1 hour" })
            yield* counters.reset("b")
          }
        })
      )
    }).pipe(Effect.provide(real))
  )
})
