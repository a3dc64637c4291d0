/**
 * Sessions: create, read and touch in one step, update without losing anybody's change, rotate at login, sign out
 * everywhere. With `REDIS_URL` set they live in Redis, else in this process: the program does not know which.
 */
import { NodeRuntime } from "@effect/platform-node"
import { SessionStore } from "@underlay/core"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option } from "effect"

const program = Effect.gen(function* () {
  const sessions = yield* SessionStore.SessionStore

  const anonymous = yield* SessionStore.makeId
  yield* sessions.create(anonymous, { cart: [] }, { ttl: "30 minutes" })

  // Two requests at once: neither loses the other's item.
  const add = (item: string) =>
    sessions.update(anonymous, (session) => ({
      ...session,
      cart: [...(Array.isArray(session["cart"]) ? session["cart"] : []), item]
    }))
  yield* Effect.all([add("apples"), add("pears")], { concurrency: 2 })

  // At login the id changes; the old one is dead, also for a slow request that still holds it.
  const signedIn = Option.getOrThrow(yield* sessions.rotate(anonymous))
  yield* sessions.update(signedIn, (session) => ({ ...session, user_id: "ada" }))
  const late = yield* Effect.either(sessions.set(anonymous, { cart: ["stolen"] }))
  yield* Console.log(`a write to the old id: ${late._tag === "Left" ? late.left.reason : "accepted"}`)

  const session = Option.getOrThrow(yield* sessions.getAndTouch(signedIn))
  yield* Console.log(`cart: ${JSON.stringify(session["cart"])}, user: ${String(session["user_id"])}`)

  yield* Console.log(`signed out of ${yield* sessions.deleteAllOf("ada")} session(s)`)
})

const RedisLive = RedisSessionStore.layer().pipe(Layer.provide(RedisClient.layerConfig()))

const StoreFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url) ? RedisLive : SessionStore.layerMemory()
  )
)

program.pipe(Effect.provide(StoreFromEnvironment), NodeRuntime.runMain)
