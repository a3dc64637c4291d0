/** A server at `maxmemory` that evicts nothing: what frees memory works, so that it can get out of there. */
import { assert, describe, it } from "@effect/vitest"
import {
  Cache,
  ChatMessage,
  CircuitControl,
  ConversationMemory,
  Counters,
  EventBus,
  Lock,
  OneTimeStore,
  RateLimiter,
  SessionStore
} from "@underlay/core"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Fiber, Layer, Option, Schema, type Scope, Stream } from "effect"
import * as Stores from "./stores.ts"
import { client, pause, server } from "./support.ts"

/** Each test has a server of its own: what it refuses would fail the others. */
const connected = client().pipe(Layer.provideMerge(server()))

const stores = Stores.layer.pipe(Layer.provideMerge(connected))

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

/** From now on the server refuses whatever needs memory: a SET says so. */
const full = Effect.gen(function* () {
  yield* send("CONFIG", "SET", "maxmemory-policy", "noeviction")
  yield* send("CONFIG", "SET", "maxmemory", "1")
  assert.strictEqual((yield* Effect.flip(send("SET", "probe", "1", "PX", 1_000))).reason, "OutOfMemory")
})

const until = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>, looks = 1_500): Effect.Effect<void, E, R> =>
  Effect.flatMap(condition, (holds) => {
    if (holds) return Effect.void
    if (looks === 0) return Effect.dieMessage(`in vain: ${what}`)
    return Effect.zipRight(pause(10), until(what, condition, looks - 1))
  })

const Event = Schema.Struct({ n: Schema.Number })

describe.skipIf(Need.missing("redis-server"))(Need.title("a server without memory", "redis-server"), () => {
  const test = <E>(name: string, run: Effect.Effect<void, E, Layer.Layer.Success<typeof stores> | Scope.Scope>) =>
    it.scopedLive(name, () => run.pipe(Effect.provide(stores)))

  test(
    "signing out works, of what is there and of what is not, and the id stays dead",
    Effect.gen(function* () {
      const sessions = yield* SessionStore.SessionStore
      for (const id of ["a", "b", "c", "d"]) yield* sessions.create(id, { user_id: id < "c" ? "ada" : "bob" })
      yield* full
      assert.isTrue(Option.isSome(yield* sessions.getAndTouch("a")))
      assert.isTrue(yield* sessions.extendTtl("a", "1 hour"))
      assert.isTrue(yield* sessions.delete("a"))
      assert.isFalse(yield* sessions.delete("a"))
      assert.isFalse(yield* sessions.delete("none"))
      yield* sessions.deleteMany(["b", "none"])
      assert.strictEqual(yield* sessions.deleteAllOf("bob"), 2)
      yield* send("CONFIG", "SET", "maxmemory", "0")
      for (const id of ["a", "b", "c", "none"]) {
        assert.strictEqual((yield* Effect.flip(sessions.set(id, { user_id: "ada" }))).reason, "SessionGone", id)
      }
      assert.deepStrictEqual(yield* sessions.sessionsOf("bob"), [])
    })
  )

  it.scopedLive("signing out works where sessions are limited, and a clean-up", () =>
    Effect.gen(function* () {
      const sessions = yield* SessionStore.SessionStore
      for (const id of ["a", "b", "c"]) yield* sessions.create(id, { user_id: "ada" })
      yield* send("SET", "session:x", "not a session", "PX", 60_000)
      yield* full
      assert.isTrue(yield* sessions.delete("a"))
      assert.strictEqual(yield* sessions.deleteAllOf("ada"), 2)
      assert.strictEqual((yield* sessions.cleanUp()).corrupt, 1)
      assert.strictEqual(yield* send("EXISTS", "session:x"), 0)
    }).pipe(
      Effect.provide(
        RedisSessionStore.layer({ maxSessions: { limit: 3, onLimit: "reject" } }).pipe(Layer.provideMerge(connected))
      )
    )
  )

  test(
    "locks of every kind are renewed and released",
    Effect.gen(function* () {
      const lock = yield* Lock.Lock
      const held = [
        yield* lock.acquire("w", { ttl: "6 seconds" }),
        yield* lock.acquireRead("r", { ttl: "6 seconds" }),
        yield* lock.acquirePermit("p", { permits: 2, ttl: "6 seconds" })
      ]
      const ends = Effect.all([
        Effect.zipWith(send("TIME"), send("PTTL", "lock:w"), (time, left) =>
          Array.isArray(time) ? Number(time[0]) * 1_000 + Number(left) : 0
        ),
        ...["{lock:r}:readers", "semaphore:p"].map((key) =>
          Effect.map(send("ZRANGE", key, 0, 0, "WITHSCORES"), (reply) => (Array.isArray(reply) ? Number(reply[1]) : 0))
        )
      ])
      yield* full
      const before = yield* ends
      // each is renewed after a third of its time
      yield* until(
        "all are renewed",
        Effect.map(ends, (now) => now.every((end, index) => end > (before[index] ?? end) + 1_000))
      )
      for (const lease of held) assert.isTrue(yield* lease.isHeld)
      for (const lease of held) assert.isTrue(yield* lease.release)
      assert.deepStrictEqual(yield* send("EXISTS", "lock:w", "{lock:r}:readers", "semaphore:p"), 0)
    })
  )

  test(
    "a cache deletes, forgets a tag and is cleared",
    Effect.gen(function* () {
      const cache = yield* Cache.make({ namespace: "n", schema: Schema.Number })
      for (const key of ["a", "b", "c", "d"]) yield* cache.set(key, 1)
      yield* cache.set("t", 1, { tags: ["tag"] })
      yield* full
      yield* cache.delete("a")
      yield* cache.deleteMany(["b", "c"])
      yield* cache.invalidateTags(["tag"])
      assert.isTrue(Option.isNone(yield* cache.get("t")))
      yield* cache.clear
      assert.isTrue(Option.isNone(yield* cache.get("d")))
      assert.strictEqual((yield* cache.stats).unreachable, 0)
    })
  )

  test(
    "what is good once is taken and dropped, and wrong guesses are counted",
    Effect.gen(function* () {
      const store = yield* OneTimeStore.OneTimeStore
      const entry = { text: "text", ttl: 60_000, tries: 3, present: "keep", pause: 0 } as const
      for (const key of ["a", "b", "c"]) yield* store.put({ ...entry, key, token: `token-${key}` })
      yield* full
      assert.deepStrictEqual(yield* store.take("a", "token-a"), { _tag: "Taken", text: "text" })
      assert.isTrue(yield* store.drop("b", undefined))
      for (const triesLeft of [2, 1, 0]) {
        assert.deepStrictEqual(yield* store.take("c", "wrong"), { _tag: "Wrong", triesLeft })
      }
      assert.deepStrictEqual(yield* store.take("c", "token-c"), { _tag: "Exhausted" })
    })
  )

  test(
    "conversations are trimmed and cleared; counters and limits are reset; an override of a circuit is taken back",
    Effect.gen(function* () {
      const memory = yield* ConversationMemory.ConversationMemory
      const counters = yield* Counters.Counters
      const limiter = yield* RateLimiter.make({ name: "l", limit: 1, interval: "1 hour" })
      const circuits = yield* CircuitControl.CircuitControl
      yield* memory.append("a", [ChatMessage.user("x".repeat(100)), ChatMessage.user("y")])
      yield* counters.add("a", 1, { ttl: "1 hour" })
      yield* limiter.consume("a")
      yield* circuits.set("a", "forced-open")
      yield* full
      yield* memory.trim("a", { maxTokens: 10 })
      assert.strictEqual((yield* memory.recent("a")).length, 1)
      assert.isTrue(yield* memory.clear("a"))
      assert.isTrue(yield* counters.reset("a"))
      assert.isTrue(yield* limiter.reset("a"))
      assert.isTrue(yield* circuits.clear("a"))
    })
  )

  test(
    "a consumer that begins anew handles what is there; what cannot be handled becomes a dead letter; all of it can go",
    Effect.gen(function* () {
      const bus = yield* EventBus.EventBus
      const topic = EventBus.topic({ name: "t", schema: Event, partitions: 1 })
      const options = { group: "g", retryDelay: "10 millis", pollInterval: "50 millis", maxDeliveries: 2 } as const
      // the group is there, and nobody works for it
      yield* Effect.scoped(bus.subscribe(topic, options)(() => Effect.void))
      for (let n = 1; n <= 4; n++) yield* bus.publish(topic, { n })
      yield* full
      const seen: Array<number> = []
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* bus.subscribe(
            topic,
            options
          )(({ event }) => (event.n === 2 ? Effect.fail("no") : Effect.sync(() => void seen.push(event.n))))
          yield* until(
            "all is handled or dead",
            Effect.map(
              bus.stats(topic, "g"),
              ({ deadLetters, lag, pending }) => lag + pending === 0 && deadLetters === 1
            )
          )
          assert.deepStrictEqual(seen.toSorted(), [1, 3, 4])
          assert.strictEqual((yield* subscription.stats).storeErrors, 0)
        })
      )
      const read: Array<number> = []
      const reader = yield* Effect.forkScoped(
        Stream.runForEach(bus.stream(topic, { pollInterval: "20 millis" }), ({ event }) =>
          Effect.sync(() => void read.push(event.n))
        )
      )
      yield* until(
        "all is read",
        Effect.sync(() => read.length === 4)
      )
      yield* pause(100)
      assert.isTrue(Option.isNone(yield* Fiber.poll(reader)), "it waits for more")
      yield* Fiber.interrupt(reader)
      assert.isAbove(yield* bus.trim(topic, { maxLength: 1 }), 0)
      const letters = yield* bus.deadLetters(topic, "g").read()
      assert.strictEqual(letters.length, 1)
      yield* bus.deadLetters(topic, "g").drop(letters.map(({ letter }) => letter))
      yield* bus.removeGroup(topic, "g")
      assert.deepStrictEqual(yield* bus.groups(topic), [])
    })
  )
})
