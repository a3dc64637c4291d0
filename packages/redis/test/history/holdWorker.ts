/**
 * A process of its own that holds a lock and does nothing. It says when it was interrupted, and when it went on after it
 * had been stopped: when it ran again, not when it was told to, for in between the machine may have had other things to do.
 */
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Effect, Layer } from "effect"
import { main, makeClock, now, say } from "./worker.ts"

const [port = "", ttl = ""] = JSON.parse(process.argv[2] ?? "[]")

const program = Effect.gen(function* () {
  const lock = yield* Lock.Lock
  let [last, wentOn] = [now(), 0]
  const look = () => {
    const time = now()
    if (time - last > Number(ttl) * 1_000) wentOn = time
    last = time
  }
  const timer = setInterval(look, 5)
  const work = Effect.onInterrupt(
    Effect.zipRight(
      Effect.sync(() => say("holding")),
      Effect.never
    ),
    () =>
      Effect.sync(() => {
        // it may be the first thing that is done
        look()
        say({ interrupted: now(), wentOn })
      })
  )
  yield* Effect.ignore(lock.withLock("a", { ttl: Number(ttl) })(work))
  clearInterval(timer)
  say("over")
})

const client = RedisClient.layer({ host: "127.0.0.1", port: Number(port), commandTimeout: 500 })
main(Effect.provide(program, RedisLock.layer().pipe(Layer.provide(client))), makeClock().clock)
