// What core keeps state with, once in memory and, where `REDIS_URL` names a server, once on Redis: the same program, with
// every port of the packages in it.
import {
  Cache,
  Caches,
  ChatMessage,
  CircuitControl,
  ConfirmationCache,
  ConversationMemory,
  Counters,
  EventBus,
  FallbackSessionStore,
  Lock,
  OneTimeStore,
  RateLimiter,
  ResilientSessionStore,
  SessionEvents,
  SessionStore,
  SignupCache
} from "@underlay/core"
import * as OneTimeStoreByPath from "@underlay/core/state/OneTimeStore"
import { History, LockHistory, LockSuite, SessionHistory } from "@underlay/core/testing"
import {
  RedisCache,
  RedisCaches,
  RedisCircuitControl,
  RedisClient,
  RedisCommand,
  RedisConversationMemory,
  RedisCounters,
  RedisDriver,
  type RedisError,
  RedisEventBus,
  FallbackSessionStore as RedisFallbackSessionStore,
  RedisHealth,
  RedisLock,
  RedisOneTimeStore,
  RedisRateLimiter,
  ResilientSessionStore as RedisResilientSessionStore,
  RedisSessionStore,
  RedisSettings
} from "@underlay/redis"
import * as RedisLockByPath from "@underlay/redis/RedisLock"
import { Deferred, Effect, Layer, Option, Schema, Stream } from "effect"

const orders = EventBus.topic({ name: "orders", schema: Schema.Struct({ id: Schema.String }), partitions: 1 })
class Logins extends RateLimiter.tag("app/Logins", { name: "logins", limit: 1, interval: "1 minute" })<Logins>() {}
class Users extends Cache.tag("app/Users", { namespace: "users", schema: Schema.String, firstTier: {} })<Users>() {}
const Prices = Caches.define({ name: "prices", schema: Schema.Number })
const Codes = Caches.confirmation()
const Signups = Caches.signup({ schema: Schema.Struct({ name: Schema.String }) })

/** One use of each port. */
export const program = Effect.gen(function* () {
  const lock = yield* Lock.Lock
  const fence = yield* Lock.makeFence
  const token = yield* lock.withLock("report", { ttl: "10 seconds" })(
    fence(Effect.map(Lock.FencingToken, (lease: Lock.Lease) => lease.token))
  )
  const reads = yield* lock.withReadLock("report")(lock.withPermit("seats", { permits: 2 })(Effect.succeed(1)))

  const logins = yield* Logins
  const decision: RateLimiter.Decision = yield* logins.consume("ada")
  const refused = yield* Effect.flip(RateLimiter.run(Effect.void, logins, { key: "ada" }))

  const counters = yield* Counters.Counters
  const { value } = yield* counters.add("spend", 5, { window: "day", timeZone: "UTC", limit: 10 })

  const bus = yield* EventBus.EventBus
  const heard = yield* Deferred.make<string>()
  yield* bus.subscribe(orders, { group: "mail" })(({ event }) => Deferred.succeed(heard, event.id))
  yield* bus.publish(orders, { id: "a" }, { key: "a", id: "a" })
  const event = yield* Deferred.await(heard)
  const kept = yield* Stream.runCount(bus.stream(orders, { follow: false }))

  const users = yield* Users
  const user = yield* users.getOrElse("1", Effect.succeed("Ada"))
  const price = yield* Effect.flatMap(Caches.get(Prices), (prices) => prices.getOrElse("apple", Effect.succeed(3)))

  const signups = SignupCache.withConfirmation(yield* Caches.get(Signups), yield* Caches.get(Codes))
  const begun = yield* signups.begin("ada@example.org", { name: "Ada" })
  const confirmed =
    begun._tag === "Begun" ? (yield* signups.confirm("ada@example.org", begun.ticket, begun.code))._tag : begun._tag
  const codes = yield* ConfirmationCache.make({ name: "other" })
  const issued = (yield* codes.issue("bob@example.org"))._tag
  const oneTime = yield* OneTimeStoreByPath.OneTimeStore
  const dropped = yield* oneTime.drop("none", undefined)

  const memory = yield* ConversationMemory.ConversationMemory
  yield* memory.append("a", [ChatMessage.user("hello")])
  const said = (yield* memory.recent("a")).map(ChatMessage.textOf).join()

  const circuits = yield* CircuitControl.CircuitControl
  yield* circuits.set("payments", "forced-open", { for: "1 minute" })
  const overrides = (yield* circuits.overrides).length

  const sessions = yield* SessionStore.SessionStore
  const fallback = yield* FallbackSessionStore.FallbackSessionStore
  yield* sessions.create("a", { user_id: "ada" })
  const recorder = yield* History.makeRecorder<SessionHistory.Input, SessionHistory.Output>()
  for (const input of [{ _tag: "Create", id: "h", mark: "1" } as const, { _tag: "Get", id: "h" } as const]) {
    yield* recorder.record("one", input, SessionHistory.perform(sessions, input))
  }
  const verdict = SessionHistory.check(yield* recorder.history)._tag
  yield* sessions.deleteMany(["a", "h"])

  return {
    token: token > 0n,
    reads,
    limits: [decision.allowed, refused._tag],
    value,
    events: [event, kept],
    cached: [user, price],
    codes: [confirmed, issued, dropped],
    said,
    overrides,
    sessions: [yield* fallback.mode, yield* sessions.exists("a"), verdict, LockHistory.check([], []).length],
    suite: LockSuite !== undefined
  }
})

/** What every run of it must give. */
export const expected: Effect.Effect.Success<typeof program> = {
  token: true,
  reads: 1,
  limits: [true, "RateLimitExceeded"],
  value: 5,
  events: ["a", 1],
  cached: ["Ada", 3],
  codes: ["Confirmed", "Issued", false],
  said: "hello",
  overrides: 1,
  sessions: ["store", false, "Linearizable", 0],
  suite: true
}

const handles = Layer.merge(Logins.layer, Users.layer)

export const inMemory = handles.pipe(
  Layer.provideMerge(
    Layer.mergeAll(
      Lock.layerMemory(),
      RateLimiter.layerMemory(),
      Counters.layerMemory(),
      EventBus.layerMemory,
      Cache.layerMemory(),
      Caches.layerMemory,
      OneTimeStore.layerMemory(),
      ConversationMemory.layerMemory(),
      CircuitControl.layerMemory,
      SessionEvents.layerLog.pipe(
        Layer.provideMerge(
          FallbackSessionStore.layer().pipe(
            Layer.provide(ResilientSessionStore.layer()),
            Layer.provide(SessionStore.layerMemory())
          )
        )
      )
    )
  )
)

export const onRedis = handles.pipe(
  Layer.provideMerge(
    Layer.mergeAll(
      RedisLock.layer(),
      RedisRateLimiter.layer,
      RedisCounters.layer,
      RedisEventBus.layer,
      RedisCache.layer,
      RedisCaches.layer,
      RedisOneTimeStore.layer,
      RedisConversationMemory.layer(),
      RedisCircuitControl.layer(),
      RedisFallbackSessionStore.layer()
    )
  ),
  Layer.provideMerge(RedisClient.layerConfig({ driver: RedisDriver.ioredis }))
)

/** What is of Redis alone: typed commands, a fenced write, health, and the other session stores. */
export const redisProgram = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const [set, got] = yield* RedisCommand.pipeline(redis, [
    RedisCommand.set("typed", "value", { ttl: "1 minute" }),
    RedisCommand.get("typed")
  ])
  yield* set
  const typed: Option.Option<string> = yield* got
  const lock = yield* Lock.Lock
  yield* lock.withLock("fenced")(RedisLockByPath.fencedSet(redis, "fenced", "written", "1 minute"))
  const { status } = yield* RedisHealth.check(redis)
  const exists = yield* Effect.flatMap(SessionStore.SessionStore, (sessions) => sessions.exists("none")).pipe(
    Effect.provide([RedisSessionStore.layer(), RedisResilientSessionStore.layer()])
  )
  return [Option.getOrNull(typed), yield* redis.send("GET", "fenced"), status, exists]
})

export const redisExpected = ["value", "written", "up", false]

/** Settings are values too, and errors of a type that can be named. */
export const settings: Effect.Effect<RedisSettings.RedisSettings, unknown> = RedisSettings.load({
  sentinels: ["a:26379", "b:26379"],
  master: "main"
})
export const reasons = (error: RedisError.RedisError): RedisError.Reason => error.reason
