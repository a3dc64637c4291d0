/** What the cache on DynamoDB does on any server that speaks its protocol. */
import { assert, layer } from "@effect/vitest"
import { Cache, Caches } from "@underlay/core"
import { CacheSuite, CachesSuite, Recording, Suite } from "@underlay/core/testing"
import type * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as Timed from "@underlay/servers/Timed"
import {
  ConfigProvider,
  Context,
  Effect,
  Layer,
  Option,
  Redacted,
  Schedule,
  Schema,
  TestClock,
  TestServices
} from "effect"
import * as DynamoDbCache from "../../src/cache/DynamoDbCache.ts"
import * as DynamoDb from "../../src/database/DynamoDb.ts"

export class Server extends Context.Tag("test/DynamoServer")<Server, DynaliteServer.DynaliteServer>() {}

export const settings = {
  region: "eu-central-1",
  accessKeyId: "test",
  secretAccessKey: Redacted.make("test"),
  timeout: "20 seconds"
} as const

export const table = "caches"

const client = (more: DynamoDb.DynamoDbSettings = {}) =>
  Layer.scoped(
    DynamoDb.DynamoDb,
    Effect.gen(function* () {
      const { endpoint } = yield* Server
      const dynamo = yield* DynamoDb.make({ ...settings, endpoint, ...more })
      yield* DynamoDbCache.createTable(dynamo, { table })
      return dynamo
      // waiting for a table takes real time
    }).pipe(TestServices.provideLive)
  )

export const numbers = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({
    namespace: "numbers",
    schema: Schema.Number,
    jitter: 0,
    ...options,
    firstTier: undefined,
    strict: false
  })

export const eventually = <A, E, R>(what: string, condition: Effect.Effect<A, E, R>, is: (value: A) => boolean) =>
  Effect.flatMap(condition, (value) => (is(value) ? Effect.succeed(value) : Effect.fail(what))).pipe(
    Effect.retry(Schedule.intersect(Schedule.spaced("20 millis"), Schedule.recurs(500)))
  )

/** The server deletes what ended years ago, by the machine's own clock. */
const today = Effect.suspend(() => TestClock.setTime(Date.now()))

export const behaviour = (server: Layer.Layer<Server, DynaliteServer.DynaliteServerError>) => {
  const real = client().pipe(Layer.provideMerge(server))
  const caches = DynamoDbCache.layer({ table })

  layer(caches.pipe(Layer.provideMerge(real)), { timeout: "90 seconds" })("the suite of caches", (it) => {
    for (const one of Suite.applicable(CacheSuite.make({ advance: TestClock.adjust }), [
      "leases",
      "stamps",
      "counts"
    ])) {
      it.effect(one.name, () => Effect.zipRight(today, one.run))
    }
  })

  layer(real, { timeout: "90 seconds" })("the suite of the registry of caches", (it) => {
    const suite = CachesSuite.make({
      kind: "dynamodb",
      caches: (configuration) =>
        Effect.withConfigProvider(Caches.make([DynamoDbCache.kind]), ConfigProvider.fromMap(new Map(configuration))),
      advance: TestClock.adjust
    })
    for (const one of Suite.applicable(suite, ["counts"])) it.effect(one.name, () => Effect.zipRight(today, one.run))
  })

  layer(caches.pipe(Layer.provideMerge(real)), { excludeTestServices: true, timeout: "90 seconds" })(
    "on a server",
    (it) => {
      it.effect("nothing is emitted, though the connection is on the external plane", () =>
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

      it.effect("what has ended is a miss before the service deletes it, and says when it may be deleted", () =>
        Effect.gen(function* () {
          const dynamo = yield* DynamoDb.DynamoDb
          const cache = yield* numbers({ namespace: "quick" })
          yield* cache.set("a", 1, { ttl: "150 millis" })
          const stored = dynamo.request("GetItem", { TableName: table, Key: { pk: { S: "cache:quick:a" } } })
          const item = (yield* stored)["Item"] as Record<string, { readonly N: string }>
          assert.strictEqual(item["expires"]?.N, String(Math.ceil(Number(item["ends"]?.N) / 1_000)))
          const [, took] = yield* Timed.timed(eventually("it is gone", cache.get("a"), Option.isNone))
          assert.isBelow(took, 900)
          assert.isDefined((yield* stored)["Item"])
        })
      )

      it.effect("what others wrote at its keys is a miss, removed and counted: nothing throws", () =>
        Effect.gen(function* () {
          const dynamo = yield* DynamoDb.DynamoDb
          const cache = yield* numbers({ namespace: "foreign" })
          const soon = { N: String(Date.now() + 600_000) }
          const broken: ReadonlyArray<Record<string, unknown>> = [
            { entry: { S: "text" }, ends: soon },
            { entry: { B: "AAAA" } },
            { entry: { B: Buffer.from([0xff, 0xfe]).toString("base64") }, ends: soon },
            { entry: { B: Buffer.from([0x1f, 0x8b, 1]).toString("base64") }, ends: soon },
            { entry: { B: Buffer.from("no JSON").toString("base64") }, ends: soon }
          ]
          for (const item of broken) {
            const plant = dynamo.request("PutItem", {
              TableName: table,
              Item: { pk: { S: "cache:foreign:key" }, ...item }
            })
            yield* plant
            assert.deepStrictEqual(yield* cache.get("key"), Option.none())
            yield* plant
            assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(2)), 2)
            assert.deepStrictEqual(yield* cache.get("key"), Option.some(2))
          }
          assert.strictEqual((yield* cache.stats).corrupt, 2 * broken.length)
          assert.strictEqual((yield* cache.stats).unreachable, 0)
        })
      )

      it.effect(
        "keys of any length are kept and cleared; an entry of more than 400 KB is refused and leaves nothing",
        () =>
          Effect.gen(function* () {
            const cache = yield* Cache.make({ namespace: "large", schema: Schema.String, jitter: 0 })
            const keys = ["k".repeat(10_000), `${"k".repeat(9_999)}l`, "\u{1F511}".repeat(600), "sha256:a"]
            yield* cache.setMany(keys.map((key, index) => [key, String(index)] as const))
            assert.deepStrictEqual(
              yield* cache.getMany(keys),
              keys.map((_, index) => Option.some(String(index)))
            )
            assert.strictEqual(yield* cache.clear, keys.length)
            yield* cache.set("a", "old")
            yield* cache.set("a", "x".repeat(420_000))
            assert.deepStrictEqual(yield* cache.get("a"), Option.none())
            assert.strictEqual((yield* cache.stats).refused, 1)
            const compressing = yield* Cache.make({ namespace: "large", schema: Schema.String, compressAbove: 1_000 })
            yield* compressing.set("a", "x".repeat(420_000))
            assert.strictEqual(Option.getOrThrow(yield* cache.get("a")).length, 420_000)
          })
      )

      it.scoped("sixty calls of six handles on a cold key: one computation", () =>
        Effect.gen(function* () {
          const dynamo = yield* DynamoDb.DynamoDb
          const handles = yield* Effect.replicateEffect(
            Effect.provideServiceEffect(
              numbers({ namespace: "hot" }),
              Cache.Cache,
              DynamoDbCache.make(dynamo, { table })
            ),
            6
          )
          let computed = 0
          const compute = Effect.zipRight(
            Effect.sync(() => computed++),
            Effect.as(Effect.sleep("60 millis"), 7)
          )
          const found = yield* Effect.forEach(
            Array.from({ length: 10 }, () => handles).flat(),
            (handle) => handle.getOrElse("key", compute),
            { concurrency: "unbounded" }
          )
          assert.isTrue(found.every((one) => one === 7))
          assert.strictEqual(computed, 1)
        })
      )
    }
  )
}
