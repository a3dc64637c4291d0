/**
 * A lock: one nightly report however many processes wake up for it, interrupted when the lock is lost, with a fencing token
 * that the resource checks. With `REDIS_URL` set the lock is one for all processes, else one for this process.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option, Ref } from "effect"

const program = Effect.gen(function* () {
  const lock = yield* Lock.Lock

  // Three processes wake up at midnight. Who does not get the lock at once has nothing to do.
  const report = (worker: string) =>
    lock
      .withLock("nightly-report", { wait: 0 })(
        Effect.gen(function* () {
          yield* Effect.sleep("50 millis")
          return `${worker} wrote the report`
        })
      )
      .pipe(
        Effect.catchTag("LockError", (error) =>
          error.reason === "NotAcquired" ? Effect.succeed(`${worker} had nothing to do`) : Effect.fail(error)
        )
      )
  const said = yield* Effect.all([report("one"), report("two"), report("three")], { concurrency: 3 })
  for (const line of said.sort()) yield* Console.log(line)

  // A counter that would lose updates without the lock, and the tokens of those who held it: they only grow.
  const balance = yield* Ref.make(0)
  const deposit = lock.withLock("account:42")(
    Effect.gen(function* () {
      const { token } = yield* Lock.FencingToken
      const before = yield* Ref.get(balance)
      yield* Effect.sleep("1 millis")
      yield* Ref.set(balance, before + 10)
      return token
    })
  )
  const tokens = yield* Effect.all(
    Array.from({ length: 10 }, () => deposit),
    { concurrency: 10 }
  )
  yield* Console.log(`balance: ${yield* Ref.get(balance)}, tokens: ${new Set(tokens).size}`)

  // Who comes late is refused by the resource, whatever he believes of the lock.
  const fence = yield* Lock.makeFence
  const stale = yield* lock.withLock("account:42")(Lock.FencingToken)
  yield* lock.withLock("account:42")(fence(Effect.void))
  const late = yield* Effect.either(fence(Effect.void).pipe(Effect.provideService(Lock.FencingToken, stale)))
  yield* Console.log(`a write with an old token: ${late._tag === "Left" ? late.left.reason : "accepted"}`)
})

const LockFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url) ? RedisLock.layer().pipe(Layer.provide(RedisClient.layerConfig())) : Lock.layerMemory()
  )
)

program.pipe(Effect.provide(LockFromEnvironment), NodeRuntime.runMain)
