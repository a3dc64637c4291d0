import { assert, describe, layer } from "@effect/vitest"
import { SessionStore } from "@underlay/core"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import { RedisError } from "@underlay/redis/RedisError"
import * as Need from "@underlay/servers/Need"
import * as RedisCluster from "@underlay/servers/RedisCluster"
import { Context, Duration, Effect, Layer, Option } from "effect"

class Cluster extends Context.Tag("test/Cluster")<Cluster, RedisCluster.RedisCluster>() {}

const cluster = Layer.scoped(Cluster, RedisCluster.make({ masters: 3, replicas: 0 }))

const client = Layer.unwrapEffect(
  Effect.map(Cluster, ({ nodes }) =>
    RedisClient.layer({
      nodes: nodes.map(({ host, port }) => ({ host, port })),
      commandTimeout: "5 seconds"
    })
  )
)

const real = RedisSessionStore.layer().pipe(Layer.provideMerge(client), Layer.provideMerge(cluster))

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

/** Ids whose sessions are on different nodes. */
const apart = Effect.gen(function* () {
  const cluster = yield* Cluster
  const node = (id: string) =>
    Effect.flatMap(cluster.slotOf(`session:${id}`), (slot) => Effect.map(cluster.ownerOf(slot), (one) => one.index))
  const from = yield* SessionStore.makeId
  const at = yield* node(from)
  for (;;) {
    const to = yield* SessionStore.makeId
    if ((yield* node(to)) !== at) return [from, to] as const
  }
})

/** A client whose scripts of one kind fail, before or after they were done. */
const failing = (
  redis: RedisClient.Service,
  method: string,
  source: string,
  outcome: "not-sent" | "unknown"
): RedisClient.Service => ({
  ...redis,
  run: (script, keys, args) => {
    if (!script.source.includes(source)) return redis.run(script, keys, args)
    const error = new RedisError({ reason: "Unavailable", outcome, method, description: "the connection was lost" })
    return outcome === "not-sent"
      ? Effect.fail(error)
      : Effect.zipRight(Effect.ignore(redis.run(script, keys, args)), Effect.fail(error))
  }
})

/** Something that is in the script that retires an old id, and in no other. */
const retiring = "~= ARGV[2] then return current end\nredis.call('DEL', KEYS[1])"

describe.skipIf(Need.missing("redis-server"))(Need.title("sessions on a Cluster", "redis-server"), () => {
  layer(real, { timeout: Duration.minutes(1) })("rotation", (it) => {
    it.effect("moves a session to another node, with its place among its owner's sessions", () =>
      Effect.gen(function* () {
        const store = yield* SessionStore.SessionStore
        for (let round = 0; round < 10; round++) {
          const [from, to] = yield* apart
          yield* store.create(from, { user_id: from, n: round })
          assert.deepStrictEqual(yield* store.rotate(from, to), Option.some(to))
          assert.isFalse(yield* store.exists(from))
          assert.strictEqual(yield* send("EXISTS", `{session:${from}}:gone`), 1)
          assert.deepStrictEqual(
            (yield* store.sessionsOf(from)).map((one) => one.id),
            [to]
          )
          assert.strictEqual(yield* send("ZCARD", `session-owner:${from}`), 1, "the old id is out of the index")
        }
      })
    )

    it.effect("a retirement that was not done is undone and said so: the old session lives, the new one does not", () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const [from, to] = yield* apart
        const store = yield* RedisSessionStore.make(failing(redis, "session.rotate", retiring, "not-sent"))
        yield* store.create(from, { user_id: from })
        const error = yield* Effect.flip(store.rotate(from, to))
        assert.deepStrictEqual([error.reason, error.outcome, error.isRetryable], ["Unavailable", "not-done", true])
        assert.isTrue(yield* store.exists(from))
        assert.isFalse(yield* store.exists(to))
        assert.deepStrictEqual(
          (yield* store.sessionsOf(from)).map((one) => one.id),
          [from]
        )
      })
    )

    it.effect("a retirement whose answer was lost is reported: the new session lives, sign-out finds both", () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const [from, to] = yield* apart
        const store = yield* RedisSessionStore.make(failing(redis, "session.rotate", retiring, "unknown"))
        yield* store.create(from, { user_id: from })
        const error = yield* Effect.flip(store.rotate(from, to))
        assert.deepStrictEqual([error.reason, error.outcome, error.isRetryable], ["Unavailable", "unknown", false])
        assert.include(error.message, "old one may be alive")
        assert.isFalse(yield* store.exists(from), "here it was done")
        assert.isTrue(yield* store.exists(to))
        assert.strictEqual((yield* Effect.flip(store.set(from, {}))).reason, "SessionGone")
        assert.strictEqual(yield* store.deleteAllOf(from), 1)
        assert.isFalse(yield* store.exists(to))
      })
    )

    it.effect("a session that is deleted while it is moved leaves no copy behind", () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const plain = yield* SessionStore.SessionStore
        const [from, to] = yield* apart
        const store = yield* RedisSessionStore.make({
          ...redis,
          run: (script, keys, args) =>
            script.source.includes(retiring)
              ? Effect.zipRight(Effect.orDie(plain.delete(from)), redis.run(script, keys, args))
              : redis.run(script, keys, args)
        })
        yield* store.create(from, { user_id: from })
        assert.strictEqual((yield* Effect.flip(store.rotate(from, to))).reason, "SessionGone")
        assert.isFalse(yield* store.exists(to))
        assert.deepStrictEqual(yield* store.sessionsOf(from), [])
      })
    )

    it.effect("a change that is made while a session is moved is not lost", () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const plain = yield* SessionStore.SessionStore
        const [from, to] = yield* apart
        let times = 0
        const store = yield* RedisSessionStore.make({
          ...redis,
          run: (script, keys, args) =>
            script.source.includes(retiring) && times++ < 3
              ? Effect.zipRight(
                  Effect.orDie(plain.update(from, (session) => ({ ...session, n: Number(session["n"]) + 1 }))),
                  redis.run(script, keys, args)
                )
              : redis.run(script, keys, args)
        })
        yield* store.create(from, { n: 0 })
        yield* store.rotate(from, to)
        assert.strictEqual(Option.getOrThrow(yield* store.get(to))["n"], 3)
        assert.isFalse(yield* store.exists(from))
      })
    )
  })

  layer(real, { timeout: Duration.minutes(1), excludeTestServices: true })("slots that move", (it) => {
    it.effect(
      "sessions are used while their slots move: nothing is lost, nothing comes back",
      () =>
        Effect.gen(function* () {
          const store = yield* SessionStore.SessionStore
          const cluster = yield* Cluster
          const ids = yield* Effect.replicateEffect(SessionStore.makeId, 40)
          yield* Effect.forEach(ids, (id) => store.create(id, { user_id: "mover", n: 0 }), { discard: true })
          const slots = yield* Effect.forEach(ids, (id) => cluster.slotOf(`session:${id}`))
          const increment = (id: string) => store.update(id, (session) => ({ ...session, n: Number(session["n"]) + 1 }))
          yield* Effect.all(
            [
              Effect.forEach([1, 2, 0], (to) => cluster.migrate(slots, to), { discard: true }),
              Effect.forEach(ids, (id) => Effect.repeatN(increment(id), 49), { concurrency: 10, discard: true })
            ],
            { concurrency: 2 }
          )
          const counts = yield* Effect.forEach(ids, (id) =>
            Effect.map(
              store.get(id),
              Option.map((one) => one["n"])
            )
          )
          assert.deepStrictEqual(
            counts,
            ids.map(() => Option.some(50))
          )
          assert.strictEqual(yield* store.deleteAllOf("mover"), 40)
        }),
      60_000
    )
  })
})
