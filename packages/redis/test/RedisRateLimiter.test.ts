import { assert, describe, it, layer } from "@effect/vitest"
import { RateLimiter } from "@underlay/core"
import { RateLimiterSuite, Recording, Suite } from "@underlay/core/testing"
import { RedisClient, RedisRateLimiter } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Layer, TestClock } from "effect"
import { advance, send, setBack } from "./limits.ts"
import { client, RedisServer, server, timed } from "./support.ts"

const algorithms: ReadonlyArray<RateLimiter.Algorithm> = ["sliding-window", "fixed-window", "token-bucket", "gcra"]

const burstOf = (algorithm: RateLimiter.Algorithm, burst: number): number | undefined =>
  algorithm === "gcra" ? burst : undefined

const real = RedisRateLimiter.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("RateLimiter on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = RateLimiterSuite.make({ advance, ages: true, slack: "10 seconds" })
    for (const one of Suite.applicable(suite, [])) it.effect(one.name, () => one.run)
  })

  it.scoped("every key has a time to live, no longer than until it is as if it were not there (complaint 18)", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const limiter = yield* RateLimiter.make({ name: algorithm, algorithm, limit: 5, interval: "1 minute" })
        const key = `ratelimit:${algorithm}:a`
        yield* limiter.peek("a")
        yield* limiter.consume("a", 0)
        assert.strictEqual(yield* send("PTTL", key), -2, "looking makes none")
        for (let n = 0; n < 7; n++) {
          const { resetAfter } = yield* limiter.consume("a")
          const left = Number(yield* send("PTTL", key))
          assert.isTrue(left > 0 && left <= Duration.toMillis(resetAfter) + 2, `${algorithm}: ${left}`)
        }
      }
      const both = yield* RateLimiter.all({
        name: "both",
        limits: algorithms.map((algorithm) => ({
          algorithm,
          limit: 2,
          interval: "1 minute" as const,
          burst: burstOf(algorithm, 2)
        }))
      })
      yield* both.consume("a", 2)
      yield* both.consume("a")
      const keys = yield* send("KEYS", "*")
      for (const key of Array.isArray(keys) ? keys : []) {
        assert.isAbove(Number(yield* send("PTTL", String(key))), 0, String(key))
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped(
    "Effect's RateLimiter on a Cluster: one limit is one key, those of several have one hash tag, whatever is in the key",
    () =>
      Effect.gen(function* () {
        const one = yield* RateLimiter.make({ name: "one", limit: 5, interval: "1 minute" })
        yield* one.consume("user:1")
        const several = yield* RateLimiter.all({
          name: "several",
          limits: [
            { limit: 10, interval: "1 second" },
            { algorithm: "fixed-window", limit: 1_000, interval: "1 hour" }
          ]
        })
        yield* several.consume("user:1")
        yield* several.consume("a}b{c")
        const keys = yield* send("KEYS", "*")
        assert.sameMembers(Array.isArray(keys) ? keys.slice() : [], [
          "ratelimit:one:user:1",
          "{ratelimit:several:user:1}:sliding-window:1000",
          "{ratelimit:several:user:1}:fixed-window:3600000",
          "{ratelimit:several:a}b{c}:sliding-window:1000",
          "{ratelimit:several:a}b{c}:fixed-window:3600000"
        ])
      }).pipe(Effect.provide(real))
  )

  it.scoped("four clients with 250 calls each at once take the limit and no more", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const allowed = yield* Effect.forEach(
          [1, 2, 3, 4],
          () =>
            Effect.gen(function* () {
              const limiter = yield* RateLimiter.make({
                name: algorithm,
                algorithm,
                limit: 300,
                interval: "1 day",
                burst: burstOf(algorithm, 300)
              })
              const decisions = yield* Effect.forEach(Array.from({ length: 250 }), () => limiter.consume("a"), {
                concurrency: "unbounded"
              })
              return decisions.filter((one) => one.allowed).length
            }).pipe(Effect.provide(RedisRateLimiter.layer.pipe(Layer.provide(Layer.fresh(client()))))),
          { concurrency: 4 }
        )
        assert.strictEqual(
          allowed.reduce((sum, one) => sum + one, 0),
          300,
          algorithm
        )
      }
    }).pipe(Effect.provide(server()))
  )

  it.scoped("under load no interval has more than is documented, and nothing is refused without a reason", () =>
    Effect.gen(function* () {
      const backend = yield* RateLimiter.RateLimiter
      const interval = 20_000
      // the most in any interval; and what has passed at least, in which time, where something is refused
      const meters: ReadonlyArray<
        readonly [RateLimiter.Meter, most: number, reason: readonly [passed: number, micros: number]]
      > = [
        [{ kind: "log", limit: 10, interval, grain: 1 }, 10, [10, interval]],
        [{ kind: "log", limit: 10, interval, grain: 500 }, 10, [10, interval + 500]],
        [{ kind: "bucket", perCost: 2_000, perTick: 1, capacity: 2_000, tick: 1 }, 10, [1, 2_000]],
        [{ kind: "bucket", perCost: 2_000, perTick: 1, capacity: 10_000, tick: 1 }, 14, [5, 10_000]],
        [{ kind: "window", limit: 10, interval }, 20, [10, interval]]
      ]
      for (const [index, [meter, most, [least, micros]]] of meters.entries()) {
        const request = { keys: [`load:${index}`], meters: [meter], cost: 1, take: true }
        const asked = yield* Effect.forEach(Array.from({ length: 3_000 }), () => backend.judge(request), {
          concurrency: 50
        })
        const passed = asked.filter(({ verdicts }) => verdicts[0]?.retryAfter === 0).map(({ at }) => at)
        const refused = asked.filter(({ verdicts }) => verdicts[0]?.retryAfter !== 0).map(({ at }) => at)
        const within = (from: number, until: number) => passed.filter((at) => at > from && at <= until).length
        const fullest = Math.max(...passed.map((last) => within(last - interval, last)))
        assert.isAtMost(fullest, most, JSON.stringify(meter))
        const emptiest = Math.min(...refused.map((at) => within(at - micros, at)))
        assert.isAtLeast(emptiest, least, JSON.stringify(meter))
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped("Effect's RateLimiter: the server's clock decides, that of a client may be years off", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const limiter = yield* RateLimiter.make({
          name: algorithm,
          algorithm,
          limit: 2,
          interval: "1 minute",
          burst: burstOf(algorithm, 2)
        })
        yield* limiter.consume("a", 2)
        yield* TestClock.setTime(Date.UTC(2100))
        assert.isFalse((yield* limiter.consume("a")).allowed, algorithm)
        yield* TestClock.setTime(0)
        assert.isFalse((yield* limiter.consume("a")).allowed, algorithm)
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped("a server whose clock was set back refuses nothing for longer", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        for (const limit of [4, 4_000]) {
          const limiter = yield* RateLimiter.make({
            name: `${algorithm}-${limit}`,
            algorithm,
            limit,
            interval: "1 minute",
            burst: burstOf(algorithm, limit)
          })
          yield* limiter.consume("a", limit / 2)
          yield* advance(Duration.seconds(5))
          yield* limiter.consume("a", limit / 2)
          yield* setBack(Duration.hours(5))
          const { allowed, retryAfter } = yield* limiter.consume("a", limit)
          assert.isFalse(allowed, algorithm)
          const millis = Duration.toMillis(retryAfter)
          assert.isTrue(millis > 50_000 && millis <= 60_100, `${algorithm} of ${limit}: ${millis}`)
          yield* advance(retryAfter)
          assert.isTrue((yield* limiter.consume("a", limit)).allowed, algorithm)
        }
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped("what another program left at the key is nothing used up, and does no harm", () =>
    Effect.gen(function* () {
      for (const algorithm of algorithms) {
        const limiter = yield* RateLimiter.make({
          name: "odd",
          algorithm,
          limit: 3,
          interval: "1 minute",
          burst: burstOf(algorithm, 3)
        })
        const key = "ratelimit:odd:a"
        const plants: ReadonlyArray<RedisClient.Command> = [
          ["SET", key, ""],
          ["SET", key, "text"],
          ["SET", key, "-1 -1"],
          ["SET", key, "1e9 nan"],
          ["SET", key, "9"],
          ["RPUSH", key, "text", "more"],
          ["RPUSH", key, "1 2"],
          ["HSET", key, "a", "b"],
          ["ZADD", key, 1, "a"]
        ]
        for (const plant of plants) {
          yield* send("DEL", key)
          yield* send(...plant)
          assert.strictEqual((yield* limiter.peek("a")).remaining, 3, `${algorithm} ${plant.join(" ")}`)
          const left = yield* Effect.forEach([1, 2, 3, 4], () => limiter.consume("a"))
          assert.deepStrictEqual(
            left.map((one) => one.allowed),
            [true, true, true, false],
            `${algorithm} ${plant.join(" ")}`
          )
        }
      }
    }).pipe(Effect.provide(real))
  )

  it.scoped("a decision is one command", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const limiter = yield* RateLimiter.make({ name: "one", limit: 5, interval: "1 minute" })
      yield* limiter.consume("a")
      const before = yield* redis.stats
      for (let n = 0; n < 10; n++) yield* limiter.consume("a")
      yield* limiter.peek("a")
      assert.strictEqual((yield* redis.stats).sent - before.sent, 11)
      // and scripts that the server forgot are sent whole
      yield* send("SCRIPT", "FLUSH")
      assert.isFalse((yield* limiter.consume("a")).allowed)
    }).pipe(Effect.provide(real))
  )

  it.scoped(
    "rate-limiter-flexible: on a frozen server limits go on in the process, within the timeout and then at once",
    () =>
      Effect.gen(function* () {
        const { freeze, thaw } = yield* RedisServer
        const settings = { name: "frozen", limit: 3, interval: "1 day" } as const
        const local = yield* RateLimiter.make({ ...settings, onUnavailable: "local" })
        const fail = yield* RateLimiter.make(settings)
        yield* local.consume("a")
        yield* freeze
        const [decision, millis] = yield* timed(local.consume("a"))
        assert.deepInclude(decision, { allowed: true, source: "local", remaining: 2 })
        assert.isBelow(millis, 2_000)
        const [error, again] = yield* timed(Effect.flip(fail.consume("a")))
        assert.include(["Timeout", "Unavailable"], error.reason)
        assert.isBelow(again, 2_000)
        assert.notInclude(error.message, "ratelimit:")
        const rest = yield* Effect.forEach([1, 2, 3], () => local.consume("a"))
        assert.deepStrictEqual(
          rest.map((one) => one.allowed),
          [true, true, false]
        )
        yield* thaw
      }).pipe(
        Effect.provide(
          RedisRateLimiter.layer.pipe(
            Layer.provideMerge(client({ commandTimeout: "500 millis" })),
            Layer.provideMerge(server())
          )
        )
      )
  )

  it.scoped("a server without memory still shows how a key stands, and fails typed where it would have to write", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({ name: "full", limit: 3, interval: "1 day" })
      const open = yield* RateLimiter.make({ name: "full", limit: 3, interval: "1 day", onUnavailable: "allow" })
      yield* limiter.consume("a")
      yield* send("CONFIG", "SET", "maxmemory", "1")
      const error = yield* Effect.flip(limiter.consume("a"))
      assert.strictEqual(error.reason, "Rejected")
      assert.strictEqual(error.outcome, "not-done")
      assert.strictEqual((yield* limiter.peek("a")).remaining, 2)
      assert.deepInclude(yield* open.consume("a"), { allowed: true, source: "assumed" })
      yield* send("CONFIG", "SET", "maxmemory", "0")
      assert.strictEqual((yield* limiter.consume("a")).remaining, 1)
    }).pipe(Effect.provide(real))
  )

  it.scoped("emits nothing: no span, no log line, no metric", () =>
    Effect.gen(function* () {
      const limiters = yield* Effect.forEach(algorithms, (algorithm) =>
        RateLimiter.make({ name: algorithm, algorithm, limit: 3, interval: "1 minute" })
      )
      yield* Recording.assertSilent(
        Effect.forEach(
          limiters,
          (limiter) =>
            Effect.gen(function* () {
              for (let n = 0; n < 20; n++) yield* limiter.consume("a")
              yield* limiter.peek("a")
              yield* limiter.reset("a")
            }),
          { concurrency: "unbounded" }
        )
      )
    }).pipe(Effect.provide(real))
  )
})
