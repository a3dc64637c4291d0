/**
 * Caches by name: the code says what is in them, `resources/application-cache.yaml` how long, in which tiers and what they
 * are kept in. `CACHE_KIND=redis` with `REDIS_URL` keeps them in Redis; the code is the same.
 */
import * as Path from "node:path"
import { NodeFileSystem, NodeRuntime } from "@effect/platform-node"
import { Caches, Settings } from "@underlay/core"
import { RedisCaches, RedisClient } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option, Schema } from "effect"

const Users = Caches.define({ name: "users", schema: Schema.Struct({ id: Schema.String, name: Schema.String }) })
const Prices = Caches.define({ name: "prices", schema: Schema.Number, ttl: "1 minute" })

const program = Effect.gen(function* () {
  const caches = yield* Caches.Caches
  const users = yield* caches.get(Users)
  const prices = yield* caches.get(Prices)
  yield* caches.clearAll

  const load = Effect.succeed({ id: "42", name: "Ada" })
  yield* Effect.all([users.getOrElse("42", load), users.getOrElse("42", load)])
  yield* prices.set("apple", 3)

  for (const { name, stats } of yield* caches.stats) {
    yield* Console.log(`${name}: ${stats.loads} loaded, ${stats.writes} written, ${stats.hits} found`)
  }
  yield* Console.log(`cleared: ${yield* caches.clear("users")}`)
  yield* Console.log(`named in the file and not used: ${(yield* caches.unused).join(", ") || "none"}`)
})

const CachesFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url) ? RedisCaches.layer.pipe(Layer.provide(RedisClient.layerConfig())) : Caches.layer()
  )
)

const SettingsFromFiles = Settings.layer({ directory: Path.join(import.meta.dirname, "../resources") }).pipe(
  Layer.provide(NodeFileSystem.layer)
)

program.pipe(Effect.provide(CachesFromEnvironment.pipe(Layer.provideMerge(SettingsFromFiles))), NodeRuntime.runMain)
