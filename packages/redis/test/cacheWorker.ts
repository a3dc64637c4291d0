/**
 * A process of its own that asks a cache for one key, many times at once, and says what it found. It begins when it is
 * told to, so that several processes begin together.
 */
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient } from "@underlay/redis"
import { Effect, Layer, Schema } from "effect"

const [port = "", calls = "", mode = ""] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const cache = yield* Cache.make({
    namespace: "processes",
    schema: Schema.Number,
    lease: { ttl: mode === "dies" ? "1 second" : "10 seconds" }
  })
  yield* Effect.sync(() => process.stdout.write("ready\n"))
  yield* Effect.async<void>((resume) => {
    process.stdin.once("data", () => resume(Effect.void))
  })
  const compute = Effect.gen(function* () {
    const count = yield* redis.send("INCR", "computations")
    if (mode === "dies")
      return yield* Effect.sync(() => process.kill(process.pid, "SIGKILL")).pipe(Effect.zipRight(Effect.never))
    yield* Effect.sleep("300 millis")
    return Number(count)
  })
  const found = yield* Effect.forEach(
    Array.from({ length: Number(calls) }),
    () => cache.getOrElse("hot", Effect.orDie(compute)),
    { concurrency: "unbounded" }
  )
  yield* Effect.sync(() => process.stdout.write(`${JSON.stringify([...new Set(found)])}\n`))
})

const layers = RedisCache.layer.pipe(
  Layer.provideMerge(RedisClient.layer({ host: "127.0.0.1", port: Number(port), commandTimeout: "5 seconds" }))
)

Effect.runPromise(Effect.provide(program, layers)).then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(String(error))
    process.exit(1)
  }
)
