import { assert, describe, it, layer } from "@effect/vitest"
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Servers from "@underlay/servers/RedisCluster"
import { Context, Effect, Fiber, Layer, Option, Schema } from "effect"
import * as Keys from "../src/internal/cacheKeys.ts"
import * as Slots from "../src/internal/slots.ts"
import { pause } from "./support.ts"

class RedisCluster extends Context.Tag("test/RedisCluster")<RedisCluster, Servers.RedisCluster>() {}

const cluster = Layer.scoped(RedisCluster, Servers.make({ masters: 3, replicas: 0 }))

const client = Layer.unwrapEffect(
  Effect.map(RedisCluster, ({ nodes }) =>
    RedisClient.layer({
      nodes: nodes.map(({ host, port }) => ({ host, port })),
      commandTimeout: "5 seconds"
    })
  )
)

const real = RedisCache.layer.pipe(Layer.provideMerge(client), Layer.provideMerge(cluster))

describe("the keys of the cache", () => {
  it("a lease is in the slot of its entry, and in no other entry's place", () => {
    const texts = [
      "",
      "a",
      "{",
      "}",
      "{}",
      "a}b",
      "a{}b",
      "}a{b",
      "{a}b",
      "x{a}{b}",
      "{a",
      "a{}{b}",
      "\u{1F511}",
      "a{b}c}d"
    ]
    const keys = texts.map((text) => `cache:numbers:${text}`)
    for (const key of keys) assert.strictEqual(Slots.ofKey(Keys.lease(key)), Slots.ofKey(key), key)
    assert.strictEqual(new Set(keys.map(Keys.lease)).size, keys.length)
  })
})

describe.skipIf(Need.missing("redis-server"))(Need.title("Cache on a Cluster", "redis-server"), () => {
  layer(real, { timeout: "60 seconds" })("three masters", (it) => {
    it.effect(
      "a key whose slot moves does not slip past a clear",
      () =>
        Effect.gen(function* () {
          const servers = yield* RedisCluster
          const cache = yield* Cache.make({ namespace: "slipping", schema: Schema.Number, jitter: 0, strict: true })
          const slot = Slots.ofKey("cache:slipping:key")
          const moving = yield* Effect.fork(
            Effect.forever(Effect.flatMap(servers.ownerOf(slot), ({ index }) => servers.move(slot, (index + 1) % 3)))
          )
          for (let round = 0; round < 300; round++) {
            yield* cache.set("key", round)
            yield* cache.clear
            assert.deepStrictEqual(yield* cache.get("key"), Option.none(), `round ${round}`)
          }
          assert.isNull(moving.unsafePoll())
          yield* Fiber.interrupt(moving)
        }),
      120_000
    )

    it.effect(
      "slots that move while it is used: nothing stale, nothing computed twice at once",
      () =>
        Effect.gen(function* () {
          const servers = yield* RedisCluster
          // strict: what was not done is told, and is tried again with the next value
          const cache = yield* Cache.make({ namespace: "moving", schema: Schema.Number, jitter: 0, strict: true })
          const keys = Array.from({ length: 100 }, (_, index) => `key ${index}`)
          const slots = [...new Set(keys.map((key) => Slots.ofKey(`cache:moving:${key}`)))]
          let going = true
          let done = 0
          let refused = 0
          const round = (number: number) =>
            Effect.gen(function* () {
              const key = keys[number % keys.length] ?? ""
              yield* cache.set(key, number)
              assert.deepStrictEqual(yield* cache.get(key), Option.some(number))
              yield* cache.delete(key)
              let computing = 0
              const compute = Effect.gen(function* () {
                assert.strictEqual(++computing, 1)
                yield* Effect.yieldNow()
                computing--
                return -number
              })
              const both = yield* Effect.all([cache.getOrElse(key, compute), cache.getOrElse(key, compute)], {
                concurrency: 2
              })
              assert.deepStrictEqual(both, [-number, -number])
              done++
            })
          const using = yield* Effect.fork(
            Effect.gen(function* () {
              for (let number = 1; going; number++) {
                yield* Effect.catchAll(round(number), () =>
                  Effect.sync(() => {
                    refused++
                  })
                )
              }
            })
          )
          for (let to = 0; to < 3; to++) yield* servers.migrate(slots, to)
          going = false
          yield* Fiber.join(using)
          assert.isAbove(done, refused)
          // the nodes may not agree yet about who has what
          const all = Effect.zipRight(
            cache.setMany(keys.map((key, index) => [key, index] as const)),
            cache.getMany(keys)
          )
          let found = yield* Effect.either(all)
          for (let attempt = 0; attempt < 100 && found._tag === "Left"; attempt++) {
            yield* pause(50)
            found = yield* Effect.either(all)
          }
          assert.deepStrictEqual(
            yield* found,
            keys.map((_, index) => Option.some(index))
          )
          assert.strictEqual(yield* cache.clear, keys.length)
        }),
      120_000
    )
  })

  it.scopedLive(
    "one master is away: of many keys those of the others are deleted, written and cleared, and counted",
    () =>
      Effect.gen(function* () {
        // nobody declares it dead, so the others go on
        const servers = yield* Servers.make({ masters: 3, replicas: 0, nodeTimeout: 120_000 })
        const nodes = servers.nodes.map(({ host, port }) => ({ host, port }))
        const context = yield* Layer.build(
          Layer.provideMerge(RedisCache.layer, RedisClient.layer({ nodes, commandTimeout: "1 second" }))
        )
        const options = { schema: Schema.Number, jitter: 0 }
        const make = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, context)
        const cache = yield* make(Cache.make({ ...options, namespace: "parts" }))
        const strict = yield* make(Cache.make({ ...options, namespace: "parts", strict: true }))
        const keys = Array.from({ length: 1_200 }, (_, index) => String(index))
        const entries = (value: number) => keys.map((key) => [key, value] as const)
        yield* strict.setMany(entries(1))

        const dead = yield* servers.ownerOf(Slots.ofKey("cache:parts:0"))
        const owners = yield* servers.owners
        const away = keys.filter((key) => owners[Slots.ofKey(`cache:parts:${key}`)] === dead.index)
        const there = keys.filter((key) => !away.includes(key))
        assert.isAbove(away.length, 100)
        assert.isAbove(there.length, 500)
        yield* dead.kill

        yield* cache.setMany(entries(2))
        assert.strictEqual((yield* cache.stats).unreachable, 1)
        const values = yield* Effect.forEach(there, (key) => strict.get(key))
        assert.isTrue(values.every((value) => Option.contains(value, 2)))

        assert.strictEqual(yield* cache.deleteMany(keys), there.length)
        assert.strictEqual((yield* cache.stats).unreachable, 2)
        for (const key of there) assert.deepStrictEqual(yield* strict.get(key), Option.none())

        yield* cache.setMany(entries(3))
        const refused = yield* Effect.flip(strict.deleteMany(keys))
        assert.strictEqual(refused.deleted, there.length)
        assert.include(["Unavailable", "Timeout"], refused.reason)

        yield* cache.setMany(entries(4))
        assert.strictEqual(yield* cache.clear, there.length)
        yield* cache.setMany(entries(5))
        assert.strictEqual((yield* Effect.flip(strict.clear)).deleted, there.length)
        for (const key of there) assert.deepStrictEqual(yield* strict.get(key), Option.none())
      }),
    60_000
  )
})
