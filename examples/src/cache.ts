/**
 * A cache in front of something slow: one load however many ask at once, what does not exist kept too, and a count of what
 * happened. With `REDIS_URL` set the entries are in Redis and every process has them, else in this process.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option, Schema } from "effect"

const User = Schema.Struct({ id: Schema.String, name: Schema.String })

class Users extends Cache.tag("examples/Users", { namespace: "users", ttl: "5 minutes", schema: User })<Users>() {}

const loadUser = (id: string) =>
  Console.log(`loading user ${id}`).pipe(Effect.zipRight(Effect.sleep("20 millis")), Effect.as({ id, name: "Ada" }))

const program = Effect.gen(function* () {
  const users = yield* Users
  yield* users.clear
  // A hundred requests for one user: one load.
  const found = yield* Effect.all(
    Array.from({ length: 100 }, () => users.getOrElse("42", loadUser("42"))),
    { concurrency: "unbounded" }
  )
  yield* Console.log(`${found.length} answers, all ${found[0]?.name}`)
  yield* users.delete("42")
  yield* users.getOrElse("42", loadUser("42"))
  // Nobody has this id, and that is kept as well: it is looked for once.
  const find = Console.log("looking for user 7").pipe(Effect.as(Option.none<typeof User.Type>()))
  yield* users.getOrElseOption("7", find)
  yield* users.getOrElseOption("7", find)
  const { joined, loads } = yield* users.stats
  yield* Console.log(`loads: ${loads}, joined a load that ran: ${joined}`)
})

const CacheFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url) ? RedisCache.layer.pipe(Layer.provide(RedisClient.layerConfig())) : Cache.layerMemory()
  )
)

program.pipe(Effect.provide(Users.layer.pipe(Layer.provide(CacheFromEnvironment))), NodeRuntime.runMain)
