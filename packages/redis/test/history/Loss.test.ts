/**
 * How soon the work under a lock that is lost is interrupted, whatever takes the lock away: within 100 milliseconds of the
 * moment at which its holder can know. While it can reach the server that is when the lock is gone; while it cannot, when
 * the time to live is over by its own clock. What the machine itself was late is added.
 */
import { assert, describe, it } from "@effect/vitest"
import { RedisClient, RedisLock } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Context, Deferred, Effect, Either, Fiber, Layer } from "effect"
import { pause } from "../support.ts"
import { worker } from "./run.ts"
import { now, randomOf } from "./worker.ts"

const given = process.env["UNDERLAY_HISTORY_SEED"]
const seed = given === undefined ? Math.floor(Math.random() * 1_000_000) : Number(given)
const rounds = process.env["UNDERLAY_NIGHTLY"] === "1" ? 300 : 30
const ttl = 600

/** How late timers of this process were at most, in milliseconds, while an effect ran. */
const withLateness = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<readonly [A, number], E, R> =>
  Effect.suspend(() => {
    let [last, latest] = [performance.now(), 0]
    const look = () => {
      latest = Math.max(latest, performance.now() - last - 5)
      last = performance.now()
    }
    const timer = setInterval(look, 5)
    return Effect.map(
      Effect.ensuring(
        effect,
        Effect.sync(() => clearInterval(timer))
      ),
      (value) => {
        look()
        return [value, latest] as const
      }
    )
  })

interface World {
  readonly server: Server.RedisServer
  readonly proxy: FaultProxy.FaultProxy
}

/** What takes the lock away; whether its holder still reaches the server; and what sets everything right again. */
const losses: ReadonlyArray<{
  readonly name: string
  readonly isHeard: boolean
  readonly strike: (world: World) => Effect.Effect<unknown, unknown>
  readonly heal: (world: World) => Effect.Effect<unknown, unknown>
}> = [
  { name: "DEL", isHeard: true, strike: ({ server }) => server.call("DEL", "lock:a"), heal: () => Effect.void },
  { name: "FLUSHALL", isHeard: true, strike: ({ server }) => server.call("FLUSHALL"), heal: () => Effect.void },
  {
    name: "another takes it",
    isHeard: true,
    strike: ({ server }) => server.call("SET", "lock:a", "another", "PX", "60000"),
    heal: ({ server }) => server.call("DEL", "lock:a")
  },
  {
    name: "a blackhole",
    isHeard: false,
    strike: ({ proxy }) => proxy.blackhole(true),
    heal: ({ proxy }) => proxy.calm
  },
  {
    name: "no reply comes",
    isHeard: false,
    strike: ({ proxy }) => proxy.swallowReplies(true),
    heal: ({ proxy }) => Effect.zipRight(proxy.resetAll, proxy.calm)
  },
  {
    name: "the server cannot be reached",
    isHeard: false,
    strike: ({ proxy }) => Effect.zipRight(proxy.refuse(true), proxy.resetAll),
    heal: ({ proxy }) => proxy.calm
  },
  {
    name: "the server freezes",
    isHeard: false,
    strike: ({ server }) => server.freeze,
    heal: ({ server }) => server.thaw
  },
  { name: "kill -9", isHeard: false, strike: ({ server }) => server.kill, heal: ({ server }) => server.start },
  {
    name: "a reset, and the lock is gone",
    isHeard: false,
    strike: ({ proxy, server }) => Effect.zipRight(server.call("DEL", "lock:a"), proxy.resetAll),
    heal: () => Effect.void
  }
]

describe.skipIf(Need.missing("redis-server"))(Need.title("loss of a lock", "redis-server"), () => {
  it.scopedLive(
    `work is interrupted within 100 ms of its loss, ${rounds} times; seed ${seed}`,
    () =>
      Effect.gen(function* () {
        const random = randomOf(seed)
        const server = yield* Server.make()
        const proxy = yield* FaultProxy.make({ port: server.port })
        const context = yield* Layer.build(
          RedisClient.layer({ host: "127.0.0.1", port: proxy.port, commandTimeout: 500 })
        )
        const redis = Context.get(context, RedisClient.RedisClient)
        const lock = yield* RedisLock.make(redis)
        const isBack = Effect.isSuccess(redis.send("PING"))
        for (let round = 0; round < rounds; round++) {
          const loss = losses[(round + Math.floor(random() * 2)) % losses.length]
          if (loss === undefined) continue
          for (let look = 0; !(yield* isBack) && look < 500; look++) yield* pause(20)
          const begun = yield* Deferred.make<void>()
          let interrupted = 0
          const work = Effect.onInterrupt(Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never), () =>
            Effect.sync(() => {
              interrupted = now()
            })
          )
          const fiber = yield* Effect.fork(
            Effect.either(
              lock
                .withLock("a", { ttl, wait: "10 seconds" })(work)
                .pipe(Effect.retry({ times: 20, while: (error) => error.reason !== "Lost" }))
            )
          )
          yield* Deferred.await(begun)
          yield* pause(random() * ttl)
          const [struck, late] = yield* withLateness(
            Effect.gen(function* () {
              const at = now()
              yield* loss.strike({ proxy, server })
              const end = performance.now() + 10_000
              while (interrupted === 0 && performance.now() < end) yield* pause(5)
              return at
            })
          )
          const took = (interrupted - struck) / 1_000
          const bound = 100 + (loss.isHeard ? 0 : ttl) + late
          assert.isTrue(
            interrupted > 0 && took <= bound,
            `${loss.name}: interrupted after ${Math.round(took)} ms, at most ${Math.round(bound)}`
          )
          yield* loss.heal({ proxy, server })
          const result = yield* Fiber.join(fiber)
          assert.isTrue(Either.isLeft(result) && result.left.reason === "Lost", loss.name)
        }
      }),
    rounds * 15_000
  )

  it.scopedLive(
    "a process that was stopped beyond the time to live interrupts its work within 100 ms of going on",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        for (let round = 0; round < 3; round++) {
          const holder = yield* worker("holdWorker.ts", [server.port, ttl])
          yield* holder.awaits("holding")
          yield* holder.signal("SIGSTOP")
          yield* pause(ttl + 200)
          yield* holder.signal("SIGCONT")
          yield* holder.awaits("over")
          const [said] = yield* holder.take
          const { interrupted, wentOn } = said as { readonly interrupted: number; readonly wentOn: number }
          const took = (interrupted - wentOn) / 1_000
          assert.isTrue(took >= 0 && took <= 100, `interrupted after ${took} ms`)
        }
      }),
    120_000
  )
})
