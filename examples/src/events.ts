/**
 * Events: published once, handled by each group at least once and in order for each key; what cannot be handled becomes a
 * dead letter and is replayed when the handler is mended. With `REDIS_URL` set they are kept in Redis Streams.
 */
import { NodeRuntime } from "@effect/platform-node"
import { EventBus } from "@underlay/core"
import { RedisClient, RedisEventBus } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option, Ref, Schema } from "effect"

const orders = EventBus.topic({
  name: "examples-orders",
  schema: Schema.Struct({ order: Schema.String, step: Schema.String }),
  partitions: 2
})

const program = Effect.gen(function* () {
  const bus = yield* EventBus.EventBus

  // The same id twice is one event: a publication whose answer was lost can be repeated.
  yield* bus.publish(orders, { order: "a", step: "placed" }, { key: "a", id: "a-placed" })
  const again = yield* bus.publish(orders, { order: "a", step: "placed" }, { key: "a", id: "a-placed" })
  yield* bus.publishAll(
    orders,
    [
      { order: "b", step: "placed" },
      { order: "a", step: "paid" },
      { order: "a", step: "sent" }
    ].map((event) => ({ event, key: event.order }))
  )
  yield* Console.log(`published twice: ${again.duplicate ? "one event" : "two events"}`)

  const seen = yield* Ref.make<ReadonlyArray<string>>([])
  const broken = yield* Ref.make(true)
  yield* bus.subscribe(orders, { group: "mail", maxDeliveries: 2, retryDelay: "10 millis", pollInterval: "50 millis" })(
    ({ event }) =>
      Effect.gen(function* () {
        if (event.order === "b" && (yield* Ref.get(broken))) return yield* Effect.fail("no address")
        yield* Ref.update(seen, (all) => [...all, `${event.order} ${event.step}`])
      })
  )
  const settled = Effect.repeat(Effect.zipRight(Effect.sleep("10 millis"), bus.stats(orders, "mail")), {
    until: ({ lag, pending }) => lag + pending === 0
  })
  yield* settled
  const ofA = (yield* Ref.get(seen)).filter((line) => line.startsWith("a"))
  yield* Console.log(`in order: ${ofA.join(", ")}`)

  const letters = bus.deadLetters(orders, "mail")
  for (const { description, event } of yield* letters.read()) {
    yield* Console.log(`dead letter of order ${Option.getOrThrow(event).order}: ${description}`)
  }
  yield* Ref.set(broken, false)
  yield* letters.replay("all")
  yield* settled
  yield* Console.log(`after the replay: ${(yield* Ref.get(seen)).filter((line) => line.startsWith("b")).join(", ")}`)
})

const BusFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url) ? RedisEventBus.layer.pipe(Layer.provide(RedisClient.layerConfig())) : EventBus.layerMemory
  )
)

program.pipe(Effect.scoped, Effect.provide(BusFromEnvironment), NodeRuntime.runMain)
