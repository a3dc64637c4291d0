import { assert, describe, it } from "@effect/vitest"
import { Cache, Caches, Connections } from "@underlay/core"
import * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as Timed from "@underlay/servers/Timed"
import { ConfigProvider, Effect, Layer, Option, Schema } from "effect"
import * as DynamoDbCache from "../../src/cache/DynamoDbCache.ts"
import * as DynamoDb from "../../src/database/DynamoDb.ts"
import { behaviour, eventually, numbers, Server, settings, table } from "./dynamoDbCacheBehaviour.ts"

describe("DynamoDbCache on dynalite", () => {
  behaviour(Layer.scoped(Server, DynaliteServer.make()))
})

it.scopedLive("a table that is frozen or not there is a miss in time, counted; a value again when it is back", () =>
  Effect.gen(function* () {
    const server = yield* DynaliteServer.make()
    const dynamo = yield* DynamoDb.make({ ...settings, endpoint: server.endpoint, timeout: "300 millis" })
    const cache = yield* Effect.provideServiceEffect(numbers(), Cache.Cache, DynamoDbCache.make(dynamo, { table }))
    assert.strictEqual(yield* cache.getOrElse("a", Effect.succeed(1)), 1)
    assert.isAtLeast((yield* cache.stats).unreachable, 1)
    yield* DynamoDbCache.createTable(dynamo, { table })
    yield* cache.set("a", 2)
    yield* server.freeze
    const calls: ReadonlyArray<Effect.Effect<unknown>> = [
      cache.get("a"),
      cache.getOrElse("a", Effect.succeed(2)),
      cache.getMany(["a", "b"]),
      cache.set("a", 3),
      cache.delete("a"),
      cache.clear
    ]
    for (const call of calls) {
      const [, took] = yield* Timed.timed(call)
      assert.isBelow(took, 2_000)
    }
    yield* server.thaw
    yield* eventually("back", Effect.zipRight(cache.set("a", 5), cache.get("a")), Option.contains(5))
  })
)

it.scopedLive("a cache of the registry whose connection is one of the registry's", () =>
  Effect.gen(function* () {
    const { endpoint } = yield* DynaliteServer.make()
    yield* Effect.flatMap(DynamoDb.make({ ...settings, endpoint }), (dynamo) =>
      DynamoDbCache.createTable(dynamo, { table })
    )
    const configuration = new Map([
      ["connections.shared.endpoint", endpoint],
      ["connections.shared.region", "eu-central-1"],
      ["connections.shared.accessKeyId", "test"],
      ["connections.shared.secretAccessKey", "test"],
      ["caches.users.kind", "dynamodb"],
      ["caches.users.table", table],
      ["caches.users.connection", "shared"]
    ])
    yield* Effect.gen(function* () {
      const connections = yield* Connections.make([DynamoDb.kind])
      const caches = yield* Effect.provideService(
        Caches.make([DynamoDbCache.kindOfConnections]),
        Connections.Connections,
        connections
      )
      const users = yield* caches.get(Caches.define({ name: "users", schema: Schema.Number }))
      yield* users.set("a", 1)
      assert.deepStrictEqual(yield* users.get("a"), Option.some(1))
    }).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(configuration)))
  })
)
