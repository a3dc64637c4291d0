/**
 * A process of its own that takes a lock many times and works on a shared counter under it: reads it, and writes what it
 * read and one more. Each read and each write shows its fencing token to the resource, which refuses those that come late.
 */
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Effect, Either, Layer } from "effect"

const [port = "", rounds = "", ttl = "", mode = ""] = process.argv.slice(2)

const read = RedisLock.fencedScript("test.read", "return redis.call('GET', KEYS[1])")
const write = RedisLock.fencedScript("test.write", "return redis.call('SET', KEYS[1], ARGV[1], 'PX', 600000)")

const say = (word: string) => Effect.sync(() => process.stdout.write(`${word}\n`))

const program = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const lock = yield* Lock.Lock
  yield* say("ready")
  const options = { ttl: Number(ttl), wait: "forever", fair: mode === "fair" } as const
  const round = lock.withLock(
    "counter",
    options
  )(
    Effect.gen(function* () {
      if (mode === "holds") return yield* Effect.zipRight(say("holding"), Effect.never)
      const seen = Number((yield* RedisLock.fencedRun(redis, read, ["counter"], [])) ?? 0)
      yield* Effect.yieldNow()
      yield* RedisLock.fencedRun(redis, write, ["counter"], [seen + 1])
    })
  )
  let done = 0
  let stale = 0
  let lost = 0
  while (done < Number(rounds)) {
    const result = yield* Effect.either(round)
    if (Either.isRight(result)) done++
    else if (result.left._tag === "LockError" && result.left.reason === "Stale") stale++
    else if (result.left._tag === "LockError" && result.left.reason === "Lost") {
      lost++
      if (mode === "holds") break
    } else return yield* result.left
  }
  yield* say(JSON.stringify({ done, stale, lost }))
})

const layers = RedisLock.layer().pipe(
  Layer.provideMerge(RedisClient.layer({ host: "127.0.0.1", port: Number(port), commandTimeout: "5 seconds" }))
)

Effect.runPromise(Effect.provide(program, layers)).then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(String(error))
    process.exit(1)
  }
)
