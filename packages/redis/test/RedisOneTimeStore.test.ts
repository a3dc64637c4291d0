import { assert, describe, it, layer } from "@effect/vitest"
import { ConfirmationCache, OneTimeStore, SignupCache } from "@underlay/core"
import { OneTimeStoreSuite, Recording, Suite } from "@underlay/core/testing"
import { RedisClient, RedisOneTimeStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer, Redacted, Schema } from "effect"
import { advance, client, RedisServer, server } from "./support.ts"

const real = RedisOneTimeStore.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const suite = OneTimeStoreSuite.make({
  advance,
  slack: "10 seconds",
  plant: (key) => send("SET", key, "no entry")
})

/** Everything that a server holds, as one text. */
const everything = Effect.gen(function* () {
  const keys = yield* send("KEYS", "*")
  let text = ""
  for (const key of Array.isArray(keys) ? keys : []) {
    const name = String(key)
    const type = yield* send("TYPE", name)
    const value = type === "hash" ? yield* send("HGETALL", name) : yield* send("GET", name)
    assert.isAbove(Number(yield* send("PTTL", name)), 0, `a time to live at ${name}`)
    text += `${name} ${JSON.stringify(value)}\n`
  }
  return text
})

describe.skipIf(Need.missing("redis-server"))(Need.title("OneTimeStore on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    for (const one of Suite.applicable(suite, ["plant"])) it.effect(one.name, () => one.run)
  })

  it.scoped(
    "neither who, nor the code, nor the ticket is to be read in the store, and every key has a time to live",
    () =>
      Effect.gen(function* () {
        const confirmations = yield* ConfirmationCache.make({ secret: Redacted.make("a secret of sixteen and more") })
        const signups = yield* SignupCache.make({ schema: Schema.Struct({ plan: Schema.String }) })
        const both = SignupCache.withConfirmation(signups, confirmations)
        const begun = yield* both.begin("ada@example.org", { plan: "free" })
        if (begun._tag !== "Begun") return assert.fail(begun._tag)
        yield* confirmations.verify("ada@example.org", "0000000")
        const text = yield* everything
        assert.match(text, /^confirmation:confirmation:[\w-]{43} /m)
        assert.match(text, /^signup:signup:[\w-]{43} /m)
        assert.include(text, "}:pause")
        assert.include(text, "}:count")
        for (const secret of ["example", Redacted.value(begun.code), Redacted.value(begun.ticket)]) {
          assert.notInclude(text, secret)
        }
      }).pipe(Effect.provide(real))
  )

  it.scoped("every operation is one round trip, over SCRIPT FLUSH too", () =>
    Effect.gen(function* () {
      const store = yield* OneTimeStore.OneTimeStore
      const redis = yield* RedisClient.RedisClient
      const put = store.put({
        key: "k",
        token: "t",
        text: "x",
        ttl: 60_000,
        tries: 5,
        present: "replace",
        pause: 0,
        quota: { limit: 100, within: 60_000 }
      })
      const operations = [put, store.take("k", "no"), store.peek("k", "t"), store.take("k", "t"), store.drop("k", "t")]
      yield* Effect.all(operations)
      const before = (yield* redis.stats).sent
      yield* Effect.all(operations)
      assert.strictEqual((yield* redis.stats).sent - before, operations.length)
      yield* redis.send("SCRIPT", "FLUSH")
      yield* put
      assert.deepStrictEqual(yield* store.take("k", "t"), { _tag: "Taken", text: "x" })
    }).pipe(Effect.provide(real))
  )

  it.scoped("two processes share codes: what one issues the other confirms, once between them", () =>
    Effect.gen(function* () {
      const here = yield* ConfirmationCache.make()
      const context = yield* Layer.build(RedisOneTimeStore.layer.pipe(Layer.provide(Layer.fresh(client()))))
      const there = yield* Effect.provide(ConfirmationCache.make(), context)
      const issued = yield* here.issue("ada@example.org")
      if (issued._tag !== "Issued") return assert.fail(issued._tag)
      assert.strictEqual((yield* there.issue("ada@example.org"))._tag, "Throttled")
      const both = yield* Effect.all(
        Array.from({ length: 50 }, (_, index) =>
          (index % 2 === 0 ? here : there).verify("ada@example.org", issued.code)
        ),
        { concurrency: "unbounded" }
      )
      assert.lengthOf(
        both.filter((one) => one._tag === "Confirmed"),
        1
      )
    }).pipe(Effect.provide(real))
  )

  it.scoped("a store that is away is a typed failure that says neither who nor which code", () =>
    Effect.gen(function* () {
      const { stop } = yield* RedisServer
      const cache = yield* ConfirmationCache.make()
      yield* cache.issue("ada@example.org")
      yield* stop
      const error = yield* Effect.flip(cache.verify("ada@example.org", "123456"))
      assert.include(["Unavailable", "Timeout"], error.reason)
      assert.notMatch(`${error.message} ${String(error.cause)}`, /ada|123456|confirmation:/)
    }).pipe(Effect.provide(real))
  )

  it.scoped("nothing is emitted", () =>
    Recording.assertSilent(Effect.forEach(Suite.applicable(suite, []), (one) => one.run, { discard: true })).pipe(
      Effect.provide(real)
    )
  )
})
