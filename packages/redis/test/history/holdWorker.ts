/** A process of its own that holds a lock and does nothing, and says when it was interrupted. */
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Effect, Layer } from "effect"
import { main, makeClock, now, say } from "./worker.ts"

const [port = "", ttl = ""] = JSON.parse(process.argv[2] ?? "[]")

const program = Effect.gen(function* () {
  const lock = yield* Lock.Lock
  const work = Effect.onInterrupt(
    Effect.zipRight(
      Effect.sync(() => say("holding")),
      Effect.never
    ),
    () => Effect.sync(() => say({ interrupted: now() }))
  )
  yield* Effect.ignore(lock.withLock("a", { ttl: Number(ttl) })(work))
  say("over")
})

const client = RedisClient.layer({ host: "127.0.0.1", port: Number(port), commandTimeout: 500 })
main(Effect.provide(program, RedisLock.layer().pipe(Layer.provide(client))), makeClock().clock)
