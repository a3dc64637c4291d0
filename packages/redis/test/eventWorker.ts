/**
 * A process of its own that handles the events of the topic `work` for the group `g`, and writes down in Redis what it
 * begins and what it has done: as `<key> <n> <name>` in the lists `begun` and `done`. At the event -1 it kills itself.
 */
import { EventBus } from "@underlay/core"
import { RedisClient, RedisEventBus } from "@underlay/redis"
import { Effect, Layer, Schema } from "effect"

const [port = "", name = "", pause = "0"] = process.argv.slice(2)

const topic = EventBus.topic({ name: "work", schema: Schema.Struct({ n: Schema.Number }), partitions: 4 })

const program = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const bus = yield* EventBus.EventBus
  yield* bus.subscribe(topic, {
    group: "g",
    consumer: name,
    claimAfter: "1500 millis",
    maxDeliveries: 3,
    retryDelay: "100 millis"
  })(({ event, key }) =>
    Effect.gen(function* () {
      const line = `${key} ${event.n} ${name}`
      yield* redis.send("RPUSH", "begun", line)
      if (event.n === -1) {
        // what stood before it is acknowledged by then
        yield* Effect.sleep("200 millis")
        process.kill(process.pid, "SIGKILL")
      }
      yield* Effect.sleep(Number(pause))
      yield* redis.send("RPUSH", "done", line)
    })
  )
  process.stdout.write("ready\n")
  return yield* Effect.never
})

const layers = RedisEventBus.layer.pipe(
  Layer.provideMerge(RedisClient.layer({ host: "127.0.0.1", port: Number(port), commandTimeout: "5 seconds" }))
)

Effect.runPromise(Effect.provide(Effect.scoped(program), layers)).catch((error: unknown) => {
  process.stderr.write(String(error))
  process.exit(1)
})
