import { assert, describe, it, layer } from "@effect/vitest"
import type { SessionStore } from "@underlay/core"
import { SessionStoreSuite, Suite } from "@underlay/core/testing"
import { FallbackSessionStore, RedisClient, ResilientSessionStore } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import { Context, Effect, Either, Exit, Layer, Option, Scope } from "effect"
import { until } from "./RedisClientSupport.ts"
import { advance, client, pause, RedisServer, server, timed } from "./support.ts"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

/** The server's time in milliseconds. */
const now = Effect.map(send("TIME"), (reply) =>
  Array.isArray(reply) ? Number(reply[0]) * 1_000 + Math.floor(Number(reply[1]) / 1_000) : Number.NaN
)

const connected = client().pipe(Layer.provideMerge(server()))

const n = (session: Option.Option<SessionStore.Session>) => Option.map(session, (one) => one["n"])

const plus = (session: SessionStore.Session) => ({ ...session, n: Number(session["n"]) + 1 })

/** A client with default times through a proxy, and its stores. */
const through = (options: FallbackSessionStore.Options = {}) =>
  Effect.gen(function* () {
    const proxy = yield* FaultProxy.make(yield* RedisServer)
    const redis = Context.get(
      yield* Layer.build(
        RedisClient.layer({ host: proxy.host, port: proxy.port, connect: "lazy", commandTimeout: "500 millis" })
      ),
      RedisClient.RedisClient
    )
    const fallback = yield* FallbackSessionStore.make(redis, options)
    const back = until(Effect.map(fallback.mode, (mode) => mode === "store"))
    return { proxy, redis, fallback, store: fallback.store, back }
  })

const test = (name: string, run: () => Effect.Effect<void, unknown, RedisServer | Scope.Scope>) =>
  it.scopedLive(name, () => Effect.provide(run(), server()), 60_000)

describe.skipIf(Need.missing("redis-server"))(
  Need.title("session stores round the one on Redis", "redis-server"),
  () => {
    layer(ResilientSessionStore.layer().pipe(Layer.provideMerge(connected)))("ResilientSessionStore", (it) => {
      const suite = SessionStoreSuite.make({
        advance,
        plant: (id, text) => send("SET", `session:${id}`, text),
        store: (options) =>
          Effect.flatMap(RedisClient.RedisClient, (redis) => ResilientSessionStore.make(redis, options)),
        now
      })
      for (const one of Suite.applicable(suite, ["plant", "options"])) it.effect(one.name, () => one.run)
    })

    layer(FallbackSessionStore.layer().pipe(Layer.provideMerge(connected)))("FallbackSessionStore", (it) => {
      const suite = SessionStoreSuite.make({
        advance,
        plant: (id, text) => send("SET", `session:${id}`, text),
        store: (options) =>
          Effect.flatMap(RedisClient.RedisClient, (redis) =>
            Effect.map(FallbackSessionStore.make(redis, options), (fallback) => fallback.store)
          ),
        now
      })
      for (const one of Suite.applicable(suite, ["plant", "options"])) it.effect(one.name, () => one.run)
    })

    test("a program starts while Redis is away, and its sessions are there when it comes", () =>
      Effect.gen(function* () {
        const redis = yield* RedisServer
        yield* redis.kill
        const { back, fallback, store } = yield* through()
        assert.isTrue(yield* store.create("a", { n: 1 }))
        assert.deepStrictEqual(n(yield* store.get("a")), Option.some(1))
        assert.strictEqual(yield* fallback.mode, "fallback")
        yield* redis.start
        yield* back
        assert.include(yield* redis.command("GET", "session:a"), '"n":1')
        const [report] = Option.toArray(yield* fallback.lastReport)
        assert.deepStrictEqual([report?.kept, report?.replayed, report?.dropped], [1, 1, 0])
      }))

    test("killed -9 under load and started anew: nothing acknowledged is lost without being told, all within a second", () =>
      Effect.gen(function* () {
        const redis = yield* RedisServer
        const { back, fallback, store } = yield* through({ capacity: 1_000 })
        const ids = Array.from({ length: 100 }, (_, index) => `s-${index}`)
        yield* Effect.forEach(ids, (id) => store.set(id, { n: 0 }, { ttl: "1 hour" }), { concurrency: 20 })
        const counts = new Map(ids.map((id) => [id, 0]))
        let slowest = 0
        const load = Effect.forEach(
          ids,
          (id) =>
            Effect.repeatN(
              Effect.gen(function* () {
                const [result, millis] = yield* timed(Effect.either(store.update(id, plus)))
                slowest = Math.max(slowest, millis)
                if (Either.isRight(result)) counts.set(id, (counts.get(id) ?? 0) + 1)
                yield* pause(5)
              }),
              60
            ),
          { concurrency: "unbounded", discard: true }
        )
        yield* Effect.all(
          [
            load,
            Effect.gen(function* () {
              yield* pause(50)
              yield* redis.kill
              yield* pause(300)
              yield* redis.start
            })
          ],
          { concurrency: 2, discard: true }
        )
        const [, recovery] = yield* timed(back)
        assert.isBelow(recovery, 3_000)
        assert.isBelow(slowest, 3_000)
        const report = Option.getOrThrow(yield* fallback.lastReport)
        // the server kept nothing: what was there is known to have been there, and does not come back by itself
        const lost = new Set(report.losses.map((loss) => loss.id))
        for (const id of ids) {
          const there = n(yield* store.get(id))
          if (lost.has(id)) continue
          assert.deepStrictEqual(there, Option.some(counts.get(id)), id)
        }
        assert.strictEqual(report.kept, report.replayed + report.expired + report.dropped)
      }))

    test("frozen and thawed: every write was done once, though its time ran out and it was done", () =>
      Effect.gen(function* () {
        const redis = yield* RedisServer
        const { back, fallback, store } = yield* through()
        const ids = Array.from({ length: 50 }, (_, index) => `s-${index}`)
        yield* Effect.forEach(ids, (id) => store.set(id, { n: 0 }), { concurrency: 20 })
        yield* redis.freeze
        const [results, millis] = yield* timed(
          Effect.forEach(ids, (id) => store.update(id, plus), { concurrency: "unbounded" })
        )
        assert.isTrue(results.every(Option.isSome))
        assert.isBelow(millis, 1_500)
        yield* Effect.forEach(ids, (id) => store.update(id, plus), { concurrency: "unbounded" })
        yield* redis.thaw
        yield* back
        assert.deepStrictEqual(Option.getOrThrow(yield* fallback.lastReport).losses, [])
        for (const id of ids) assert.deepStrictEqual(n(yield* store.get(id)), Option.some(2))
      }))

    test("replies lost and connections reset: updates are done once, sessions that were deleted are dead", () =>
      Effect.gen(function* () {
        const { back, fallback, proxy, store } = yield* through()
        const ids = Array.from({ length: 20 }, (_, index) => `s-${index}`)
        for (const id of ids) yield* store.set(id, { n: 0 })
        for (let round = 1; round <= 10; round++) {
          yield* proxy.resetAfter(round * 37)
          yield* Effect.forEach(ids, (id) => store.update(id, plus), { concurrency: "unbounded" })
          yield* proxy.resetAll
          yield* store.create(`dead-${round}`, {})
          yield* store.delete(`dead-${round}`)
          yield* back
          for (const id of ids) assert.deepStrictEqual(n(yield* store.get(id)), Option.some(round), `${id}, ${round}`)
          assert.isFalse(yield* store.exists(`dead-${round}`))
        }
        assert.strictEqual((yield* fallback.stats).dropped, 0)
      }))

    test("two processes: what one did in the store while the other was cut off from it is not undone", () =>
      Effect.gen(function* () {
        const [one, two] = [yield* through(), yield* through()]
        for (const id of ["a", "b", "c"]) yield* one.store.set(id, { n: 0 })
        for (const id of ["a", "b", "c"]) yield* two.store.get(id)
        yield* one.proxy.refuse(true)
        yield* one.proxy.resetAll
        for (const id of ["a", "b", "c"]) yield* one.store.update(id, plus)
        assert.isTrue(yield* two.store.delete("a"))
        yield* two.store.update("b", (session) => ({ ...session, n: 100 }))
        yield* one.proxy.refuse(false)
        yield* one.back
        const report = Option.getOrThrow(yield* one.fallback.lastReport)
        assert.deepStrictEqual(report.losses.map(({ id, why }) => `${id} ${why}`).sort(), ["a deleted", "b conflict"])
        for (const { store } of [one, two]) {
          assert.deepStrictEqual(yield* store.get("a"), Option.none())
          assert.deepStrictEqual(n(yield* store.get("b")), Option.some(100))
          assert.deepStrictEqual(n(yield* store.get("c")), Option.some(1))
        }
      }))

    test("closing with Redis away takes less than half a second", () =>
      Effect.gen(function* () {
        const redis = yield* RedisServer
        const scope = yield* Scope.make()
        const { fallback, store } = yield* Scope.extend(through(), scope)
        yield* store.set("a", { n: 1 })
        yield* redis.freeze
        yield* store.update("a", plus)
        const [, millis] = yield* timed(Scope.close(scope, Exit.void))
        yield* redis.thaw
        assert.isBelow(millis, 500)
        const { closed, losses } = Option.getOrThrow(yield* fallback.lastReport)
        assert.deepStrictEqual([closed, losses], [true, [{ id: "a", change: "written", why: "closed" }]])
      }))

    test("a retry after a lost connection: idempotent ones are done, the others say that nobody knows", () =>
      Effect.gen(function* () {
        const proxy = yield* FaultProxy.make(yield* RedisServer)
        const redis = Context.get(
          yield* Layer.build(RedisClient.layer({ host: proxy.host, port: proxy.port, commandTimeout: "5 seconds" })),
          RedisClient.RedisClient
        )
        const store = yield* ResilientSessionStore.make(redis, { maxWait: "5 seconds" })
        yield* store.set("a", { n: 0 })
        let unknown = 0
        for (let round = 0; round < 30; round++) {
          yield* proxy.resetAfter(0)
          assert.isTrue(Option.isSome(yield* store.get("a")))
          yield* store.set("b", { n: round })
          yield* until(Effect.map(redis.state, (state) => state === "ready"))
          yield* proxy.resetAfter(0)
          const result = yield* Effect.either(store.create(`c-${round}`, {}))
          if (Either.isRight(result)) assert.isTrue(result.right)
          else {
            unknown++
            assert.strictEqual(result.left.outcome, "unknown")
          }
          yield* until(Effect.map(redis.state, (state) => state === "ready"))
        }
        assert.isAbove(unknown, 0)
      }))
  }
)
