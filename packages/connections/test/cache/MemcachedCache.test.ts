import { assert, describe, it, layer } from "@effect/vitest"
import { Cache, Caches, Connections } from "@underlay/core"
import { CacheSuite, CachesSuite, Recording, Suite } from "@underlay/core/testing"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as Need from "@underlay/servers/Need"
import * as Timed from "@underlay/servers/Timed"
import { ConfigProvider, Context, Effect, Layer, Option, Schedule, Schema, TestClock } from "effect"
import * as Memcached from "../../src/cache/Memcached.ts"
import * as MemcachedCache from "../../src/cache/MemcachedCache.ts"

class Server extends Context.Tag("test/Memcached")<Server, MemcachedServer.MemcachedServer>() {
  static readonly layer = Layer.scoped(Server, MemcachedServer.make({ megabytes: 128 }))
}

const client = (settings: Memcached.MemcachedSettings = {}) =>
  Layer.scoped(
    Memcached.Memcached,
    Effect.flatMap(Server, ({ address }) =>
      Memcached.make({ servers: [address], commandTimeout: "5 seconds", ...settings })
    )
  )

const own = (settings: Memcached.MemcachedSettings = {}) =>
  MemcachedCache.layer.pipe(Layer.provideMerge(client(settings)), Layer.provideMerge(Server.layer))

const numbers = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({
    namespace: "numbers",
    schema: Schema.Number,
    jitter: 0,
    ...options,
    firstTier: undefined,
    strict: false
  })

const eventually = <A, E, R>(what: string, condition: Effect.Effect<A, E, R>, is: (value: A) => boolean) =>
  Effect.flatMap(condition, (value) => (is(value) ? Effect.succeed(value) : Effect.fail(what))).pipe(
    Effect.retry(Schedule.intersect(Schedule.spaced("20 millis"), Schedule.recurs(500)))
  )

describe.skipIf(Need.missing("memcached"))(Need.title("MemcachedCache", "memcached"), () => {
  const real = client().pipe(Layer.provideMerge(Server.layer))

  layer(MemcachedCache.layer.pipe(Layer.provideMerge(real)))("the suite of caches", (it) => {
    for (const one of Suite.applicable(CacheSuite.make({ advance: TestClock.adjust }), ["leases", "stamps"])) {
      it.effect(one.name, () => one.run)
    }
  })

  layer(
    Layer.mergeAll(
      Layer.scoped(
        Memcached.Memcached,
        Effect.gen(function* () {
          const servers = yield* Effect.replicateEffect(MemcachedServer.make(), 3)
          return yield* Memcached.make({ servers: servers.map(({ address }) => address), commandTimeout: "5 seconds" })
        })
      )
    ).pipe((clients) => MemcachedCache.layer.pipe(Layer.provideMerge(clients)))
  )("the suite of caches, on three servers", (it) => {
    for (const one of Suite.applicable(CacheSuite.make({ advance: TestClock.adjust }), ["leases", "stamps"])) {
      it.effect(one.name, () => one.run)
    }
  })

  layer(real)("the suite of the registry of caches", (it) => {
    const suite = CachesSuite.make({
      kind: "memcached",
      caches: (configuration) =>
        Effect.withConfigProvider(Caches.make([MemcachedCache.kind]), ConfigProvider.fromMap(new Map(configuration))),
      advance: TestClock.adjust
    })
    for (const one of Suite.applicable(suite, [])) it.effect(one.name, () => one.run)
  })

  layer(own(), { excludeTestServices: true })("on a server", (it) => {
    it.effect("nothing is emitted, whatever is done", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ namespace: "silent", staleFor: "1 minute" })
        yield* Recording.assertSilent(
          Effect.all([
            cache.set("a", 1, { tags: ["t"] }),
            cache.get("a"),
            cache.getOrElse("b", Effect.succeed(2)),
            cache.getMany(["a", "b"]),
            cache.invalidateTags(["t"]),
            cache.delete("a"),
            cache.clear
          ])
        )
      })
    )

    it.effect("times to live of less than a second are kept, though the server counts in seconds", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ namespace: "quick" })
        yield* cache.set("a", 1, { ttl: "150 millis" })
        const [, took] = yield* Timed.timed(eventually("it is gone", cache.get("a"), Option.isNone))
        assert.isBelow(took, 900)
        // and those that are a little more than a second are not cut to it
        yield* cache.set("b", 2, { ttl: "1300 millis" })
        yield* Effect.sleep("1050 millis")
        assert.deepStrictEqual(yield* cache.get("b"), Option.some(2))
      })
    )

    it.effect("an entry and a lease are not cut short by the second in which they are written", () =>
      Effect.gen(function* () {
        const backend = yield* Cache.Cache
        const by = { namespace: "whole", prefix: "cache:whole:", from: "test" }
        const key = (index: number) => `${by.prefix}${index}`
        // at different parts of the server's seconds
        yield* Effect.forEach(
          Array.from({ length: 10 }, (_, index) => index),
          (index) =>
            Effect.gen(function* () {
              yield* Effect.sleep(`${index * 100} millis`)
              yield* backend.set({ key: key(index), text: "1", ttl: 1_000, compressAbove: undefined }, by)
              yield* backend.leases?.take([`${key(index)}-lease`], "first", 1_000) ?? Effect.void
              yield* Effect.sleep("700 millis")
              assert.notStrictEqual(yield* backend.get(key(index), false), undefined)
              const [looked] = yield* backend.leases?.take([`${key(index)}-lease`], "second", 1_000) ??
                Effect.succeed([])
              assert.strictEqual(looked?._tag, "Held")
            }),
          { concurrency: "unbounded" }
        )
      })
    )

    it.effect("an entry whose end the server cannot write is kept as long as it can be", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ namespace: "century" })
        yield* cache.set("a", 1, { ttl: "36500 days" })
        assert.deepStrictEqual(yield* cache.get("a"), Option.some(1))
      })
    )

    it.effect("a time to live of more than 30 days is no date in 1970", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const cache = yield* numbers({ namespace: "long" })
        yield* cache.set("a", 1, { ttl: "40 days" })
        assert.deepStrictEqual(yield* cache.get("a"), Option.some(1))
        const answer = yield* server.command("mg cache:long:a t\r\nmn\r\n", "MN")
        assert.approximately(Number(/^HD t(-?\d+)/.exec(answer)?.[1]), 40 * 86_400, 3)
      })
    )

    it.effect("what others wrote at its keys is a miss, removed and counted: nothing throws", () =>
      Effect.gen(function* () {
        const memcached = yield* Memcached.Memcached
        const cache = yield* numbers({ namespace: "foreign" })
        yield* cache.set("sound", 1)
        const sound = Option.getOrThrow(yield* memcached.get("cache:foreign:sound")).value
        const header = sound.subarray(0, sound.indexOf(10) + 1)
        const broken: ReadonlyArray<string | Uint8Array> = [
          "",
          "x",
          "1|2|3",
          "\n",
          "1|x|y|z|0\n{}",
          '{"value":1}',
          Buffer.concat([header, Uint8Array.of(0xff, 0xfe)]),
          Buffer.concat([header, Uint8Array.of(0x1f, 0x8b, 1, 2)]),
          Buffer.concat([header, Buffer.from("not JSON")])
        ]
        for (const bytes of broken) {
          yield* memcached.set("cache:foreign:key", bytes)
          assert.deepStrictEqual(yield* cache.get("key"), Option.none())
          assert.deepStrictEqual(yield* memcached.get("cache:foreign:key"), Option.none())
          yield* memcached.set("cache:foreign:key", bytes)
          assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(2)), 2)
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(2))
        }
        assert.strictEqual((yield* cache.stats).corrupt, 2 * broken.length)
        assert.strictEqual((yield* cache.stats).unreachable, 0)
      })
    )

    it.effect("an entry of more than 1 MB is refused, counted, and leaves nothing old behind", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make({ namespace: "large", schema: Schema.String })
        yield* cache.set("a", "old")
        yield* cache.set("a", "x".repeat(1_100_000))
        assert.deepStrictEqual(yield* cache.get("a"), Option.none())
        assert.strictEqual((yield* cache.stats).refused, 1)
        const computed = yield* cache.getOrElse("b", Effect.succeed("x".repeat(1_100_000)))
        assert.strictEqual(computed.length, 1_100_000)
        assert.deepStrictEqual(yield* cache.get("b"), Option.none())
        const compressing = yield* Cache.make({ namespace: "large", schema: Schema.String, compressAbove: 1_000 })
        yield* compressing.set("c", "x".repeat(1_100_000))
        assert.strictEqual(Option.getOrThrow(yield* cache.get("c")).length, 1_100_000)
      })
    )

    it.scoped("one that is cleared while others write has nothing of before, and everything of after", () =>
      Effect.gen(function* () {
        const handles = yield* Effect.replicateEffect(
          Effect.flatMap(Memcached.Memcached, (memcached) =>
            Effect.provideServiceEffect(numbers({ namespace: "swept" }), Cache.Cache, MemcachedCache.make(memcached))
          ),
          4
        )
        const keys = Array.from({ length: 50 }, (_, index) => String(index))
        for (let round = 0; round < 10; round++) {
          yield* Effect.forEach(handles, (handle) => handle.setMany(keys.map((key) => [key, round] as const)), {
            concurrency: "unbounded"
          })
          yield* handles[round % 4]?.clear ?? Effect.void
          for (const handle of handles) assert.isTrue((yield* handle.getMany(keys)).every(Option.isNone))
          yield* handles[(round + 1) % 4]?.set("after", round) ?? Effect.void
          for (const handle of handles) assert.deepStrictEqual(yield* handle.get("after"), Option.some(round))
        }
      })
    )

    it.scoped("two hundred calls of ten handles on a cold key: one computation", () =>
      Effect.gen(function* () {
        const handles = yield* Effect.replicateEffect(
          Effect.flatMap(Memcached.Memcached, (memcached) =>
            Effect.provideServiceEffect(numbers({ namespace: "hot" }), Cache.Cache, MemcachedCache.make(memcached))
          ),
          10
        )
        let computed = 0
        const compute = Effect.zipRight(
          Effect.sync(() => computed++),
          Effect.as(Effect.sleep("60 millis"), 7)
        )
        const found = yield* Effect.forEach(
          Array.from({ length: 20 }, () => handles).flat(),
          (handle) => handle.getOrElse("key", compute),
          { concurrency: "unbounded" }
        )
        assert.isTrue(found.every((one) => one === 7))
        assert.strictEqual(computed, 1)
      })
    )
  })

  it.scopedLive("a server that is frozen or killed is a miss in time, counted; a value again when it is back", () =>
    Effect.gen(function* () {
      const server = yield* Server
      const cache = yield* numbers()
      yield* cache.set("a", 1)
      yield* server.freeze
      const calls: ReadonlyArray<Effect.Effect<unknown>> = [
        cache.get("a"),
        cache.getOrElse("a", Effect.succeed(2)),
        cache.getMany(["a"]),
        cache.set("a", 3),
        cache.delete("a"),
        cache.clear
      ]
      for (const call of calls) {
        const [, took] = yield* Timed.timed(call)
        assert.isBelow(took, 1_500)
      }
      assert.isAtLeast((yield* cache.stats).unreachable, calls.length)
      yield* server.thaw
      yield* server.kill
      assert.strictEqual(yield* cache.getOrElse("a", Effect.succeed(4)), 4)
      yield* server.start
      yield* eventually("back", Effect.zipRight(cache.set("a", 5), cache.get("a")), Option.contains(5))
      // all that it held is lost, and with it what was known of generations
      yield* server.kill
      yield* server.start
      yield* eventually("and again", Effect.zipRight(cache.set("b", 6), cache.get("b")), Option.contains(6))
      assert.deepStrictEqual(yield* cache.get("a"), Option.none())
    }).pipe(Effect.provide(own({ commandTimeout: "300 millis" })))
  )

  it.scopedLive("what the client's keys begin with, the cache's begin with too", () =>
    Effect.gen(function* () {
      const server = yield* Server
      const cache = yield* numbers({ namespace: "prefixed" })
      yield* cache.set("a", 1)
      assert.include(yield* server.command("mg app:cache:prefixed:a v\r\nmn\r\n", "MN"), '{"value":1}')
      yield* cache.clear
      assert.deepStrictEqual(yield* cache.get("a"), Option.none())
    }).pipe(Effect.provide(own({ keyPrefix: "app:" })))
  )

  it.scopedLive("a cache of the registry whose connection is one of the registry's", () =>
    Effect.gen(function* () {
      const { address } = yield* Server
      const configuration = new Map([
        ["connections.shared.servers", address],
        ["caches.users.kind", "memcached"],
        ["caches.users.connection", "shared"]
      ])
      yield* Effect.gen(function* () {
        const connections = yield* Connections.make([Memcached.kind])
        const caches = yield* Effect.provideService(
          Caches.make([MemcachedCache.kindOfConnections]),
          Connections.Connections,
          connections
        )
        const users = yield* caches.get(Caches.define({ name: "users", schema: Schema.Number }))
        yield* users.set("a", 1)
        assert.deepStrictEqual(yield* users.get("a"), Option.some(1))
        assert.deepStrictEqual(
          (yield* connections.list).map(({ name, users }) => [name, users]),
          [["shared", 1]]
        )
      }).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(configuration)))
    }).pipe(Effect.provide(Server.layer))
  )
})
