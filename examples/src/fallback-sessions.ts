/**
 * Sessions that go on while Redis is away: in this process, within bounds, and done to Redis when it is back. Without
 * `REDIS_URL` the address is one where nobody listens, so that it can be seen.
 */
import { NodeRuntime } from "@effect/platform-node"
import { FallbackSessionStore, ResilientSessionStore, SessionEvents, SessionStore } from "@underlay/core"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import { Config, Console, Effect, Layer, Logger, LogLevel, Option } from "effect"

const program = Effect.gen(function* () {
  const sessions = yield* SessionStore.SessionStore
  const fallback = yield* FallbackSessionStore.FallbackSessionStore

  const id = yield* SessionStore.makeId
  yield* sessions.create(id, { user_id: "ada", cart: [] })
  yield* sessions.update(id, (session) => ({ ...session, cart: ["apples"] }))
  const session = Option.getOrThrow(yield* sessions.getAndTouch(id))
  yield* Console.log(`cart: ${JSON.stringify(session["cart"])}`)

  const { kept, mode } = yield* fallback.stats
  yield* Console.log(mode === "store" ? "the sessions are in Redis" : `Redis is away: ${kept} session is kept here`)

  yield* sessions.delete(id)
  const late = yield* Effect.either(sessions.set(id, { user_id: "ada" }))
  yield* Console.log(`a write after the sign-out: ${late._tag === "Left" ? late.left.reason : "accepted"}`)
})

const Client = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    // lazy: the program starts whether or not Redis is there
    Option.isSome(url)
      ? RedisClient.layerConfig({ connect: "lazy" })
      : RedisClient.layer({ host: "127.0.0.1", port: 1, connect: "lazy" })
  )
)

// One more attempt after a lost connection, and memory when that is no help either.
const Sessions = FallbackSessionStore.layer().pipe(
  Layer.provide(ResilientSessionStore.layer({ maxWait: "100 millis" })),
  Layer.provide(RedisSessionStore.layer()),
  Layer.provide(Client)
)

// The events of sessions are log lines of Info and above; this program prints what it has to say itself.
const Logged = SessionEvents.layerLog.pipe(
  Layer.provideMerge(Sessions),
  Layer.provideMerge(Logger.minimumLogLevel(LogLevel.None))
)

program.pipe(Effect.provide(Logged), NodeRuntime.runMain)
