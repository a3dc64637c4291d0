/** What locks and limits do when the clock of the server is set back or forth: their scripts, with a clock of our own. */
import { assert, describe, it } from "@effect/vitest"
import { type Lock, RateLimiter } from "@underlay/core"
import { RedisClient, RedisLock, RedisRateLimiter } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Either, FastCheck as fc, Layer, Option, Runtime, type Scope } from "effect"
import { client, server } from "./support.ts"

/** The same client, whose scripts are told by `micros` what time it is. */
const withClock = (redis: RedisClient.Service, micros: () => number): RedisClient.Service => {
  const told = ({ name, source }: RedisClient.Script): RedisClient.Script =>
    RedisClient.script(
      name,
      `local server = redis
local redis = setmetatable({}, {__index = server})
redis.call = function(command, ...)
  if command ~= 'TIME' then return server.call(command, ...) end
  return {'${Math.floor(micros() / 1_000_000)}', '${micros() % 1_000_000}'}
end
${source}`
    )
  return {
    ...redis,
    run: (script, keys, args) => redis.run(told(script), keys, args),
    sendMany: (steps) =>
      redis.sendMany(steps.map((step) => ("script" in step ? { ...step, script: told(step.script) } : step)))
  }
}

const start = Date.UTC(2030) * 1_000
const second = 1_000_000
const hour = 3_600 * second

/** A server, and a clock that is set by hand. */
const world = Effect.map(RedisClient.RedisClient, (redis) => {
  const clock = { micros: start }
  return { clock, redis, told: withClock(redis, () => clock.micros) }
})

const real = client().pipe(Layer.provideMerge(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("clocks that jump", "redis-server"), () => {
  it.scopedLive("whatever the server's clock does: tokens grow, writers are alone, permits are not too many", () =>
    Effect.gen(function* () {
      const { clock, redis, told } = yield* world
      const runtime = yield* Effect.runtime<Scope.Scope>()
      const step = fc.record({
        // up to an hour forth or back, and often not at all
        jump: fc.oneof(fc.constant(0), fc.integer({ min: -hour, max: hour }), fc.constant(1)),
        what: fc.constantFrom("write", "read", "permit", "fair", "release", "release")
      })
      let round = 0
      const run = (steps: ReadonlyArray<{ readonly jump: number; readonly what: string }>) =>
        Effect.gen(function* () {
          // nothing is looked after here: what is believed is what was answered
          const lock = yield* RedisLock.make(told, { ttl: "1 day", watch: "1 day" })
          const key = `jumps ${round++}`
          clock.micros = start
          const held: Array<{ readonly what: string; readonly lease: Lock.Lease }> = []
          let last = 0n
          let lastPermit = 0n
          for (const { jump, what } of steps) {
            // entries that expire by a jump ahead are another matter: they are lost then
            clock.micros += jump
            if (what === "release") {
              yield* held.shift()?.lease.release ?? Effect.void
              continue
            }
            const options = { wait: 0, fair: what === "fair" } as const
            const asked =
              what === "permit"
                ? lock.acquirePermit(key, { ...options, permits: 2 })
                : what === "read"
                  ? lock.acquireRead(key, options)
                  : lock.acquire(key, options)
            const result = yield* Effect.either(asked)
            if (Either.isLeft(result)) {
              assert.strictEqual(result.left.reason, "NotAcquired")
              continue
            }
            const { token } = result.right
            assert.isTrue(token > (what === "permit" ? lastPermit : last), `${what}: ${token}`)
            if (what === "permit") lastPermit = token
            else last = token
            held.push({ what, lease: result.right })
            const kinds = held.map((one) => one.what)
            assert.isAtMost(kinds.filter((kind) => kind === "permit").length, 2)
            const writers = kinds.filter((kind) => kind === "write" || kind === "fair").length
            if (writers > 0) assert.strictEqual(writers + kinds.filter((kind) => kind === "read").length, 1)
          }
        }).pipe(Effect.scoped)
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(step, { maxLength: 15 }), (steps) => Runtime.runPromise(runtime)(run(steps))),
          { numRuns: 60 }
        )
      )
      assert.isAbove(Number(yield* redis.send("DBSIZE")), 0)
    }).pipe(Effect.provide(real))
  )

  it.scopedLive(
    "a waiter that died before the clock was set back holds up the others for some seconds, not for hours",
    () =>
      Effect.gen(function* () {
        const { clock, redis, told } = yield* world
        const lock = yield* RedisLock.make(told)
        // as one leaves it that asked fairly, and is no more
        for (const name of ["lock:a", "semaphore:a"]) {
          yield* redis.send("ZADD", `{${name}}:waiting`, start / 1_000 + 3_000, "the dead")
          yield* redis.send("ZADD", `{${name}}:queue`, start, "the dead")
          yield* redis.send("PEXPIRE", `{${name}}:waiting`, 60_000)
          yield* redis.send("PEXPIRE", `{${name}}:queue`, 60_000)
        }
        clock.micros = start - hour
        const asks = [
          Effect.scoped(lock.acquire("a", { wait: 0 })),
          Effect.scoped(lock.acquireRead("a", { wait: 0 })),
          Effect.scoped(lock.acquirePermit("a", { wait: 0, permits: 1 }))
        ]
        for (const ask of asks) assert.isTrue(Option.isNone(yield* Effect.option(ask)))
        clock.micros += 5 * second
        for (const ask of asks) assert.isTrue(Option.isSome(yield* Effect.option(ask)))
      }).pipe(Effect.provide(real))
  )

  it.scopedLive("set back again and again, a limit is never exceeded in any interval of true time", () =>
    Effect.gen(function* () {
      const { clock, told } = yield* world
      const backend = RedisRateLimiter.make(told)
      const runtime = yield* Effect.runtime<never>()
      const interval = 60 * second
      const limits: ReadonlyArray<readonly [RateLimiter.Limit, most: number]> = [
        [{ algorithm: "sliding-window", limit: 5, interval: "1 minute" }, 5],
        [{ algorithm: "sliding-window", limit: 3_000, interval: "1 minute" }, 3_000],
        [{ algorithm: "fixed-window", limit: 5, interval: "1 minute" }, 10],
        [{ algorithm: "token-bucket", limit: 5, interval: "1 minute" }, 9],
        [{ algorithm: "gcra", limit: 5, interval: "1 minute", burst: 2 }, 6]
      ]
      const step = fc.record({
        passes: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 30 * second })),
        back: fc.oneof(fc.constant(0), fc.constant(0), fc.integer({ min: 0, max: hour }), fc.constant(1)),
        part: fc.integer({ min: 1, max: 5 })
      })
      let round = 0
      const run = (steps: ReadonlyArray<{ readonly passes: number; readonly back: number; readonly part: number }>) =>
        Effect.gen(function* () {
          for (const [options, most] of limits) {
            clock.micros = start
            const limiter = yield* RateLimiter.make({ ...options, name: `jumps-${round++}` })
            const passed: Array<{ readonly at: number; readonly cost: number }> = []
            let now = 0
            for (const { back, part, passes } of steps) {
              now += passes
              clock.micros += passes - back
              const cost = options.limit === 3_000 ? part * 600 : options.algorithm === "gcra" ? 1 : part
              const { allowed, retryAfter } = yield* limiter.consume("a", cost)
              if (allowed) passed.push({ at: now, cost })
              else assert.isAtMost(Duration.toMillis(retryAfter), 60_100)
            }
            for (const { at } of passed) {
              const sum = passed.reduce((all, one) => all + (one.at > at - interval && one.at <= at ? one.cost : 0), 0)
              assert.isAtMost(sum, most, options.algorithm)
            }
          }
        }).pipe(Effect.provideService(RateLimiter.RateLimiter, backend))
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(step, { maxLength: 20 }), (steps) => Runtime.runPromise(runtime)(run(steps))),
          { numRuns: 40 }
        )
      )
    }).pipe(Effect.provide(real))
  )
})
