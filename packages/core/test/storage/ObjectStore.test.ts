import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { ObjectStore } from "../../src/index.ts"
import { ObjectStoreSuite, Suite } from "../../src/testing/index.ts"

const everything = ["conditionalPut", "checksums", "anyKey", "conditionalGet", "ordered"] as const

describe("ObjectStore in memory", () => {
  for (const one of Suite.applicable(ObjectStoreSuite.suite, everything)) {
    it.effect(one.name, () => Effect.provide(one.run, ObjectStore.layerMemory))
  }

  it.effect("the bytes of a caller stay the caller's", () =>
    Effect.gen(function* () {
      const store = yield* ObjectStore.makeMemory
      const mine = new Uint8Array([1, 2, 3])
      yield* store.put("a", mine)
      mine[0] = 9
      const got = yield* store.get("a")
      assert.deepStrictEqual([...got.bytes], [1, 2, 3])
      got.bytes[0] = 9
      assert.deepStrictEqual([...(yield* store.get("a")).bytes], [1, 2, 3])
      const streamed = yield* ObjectStore.collect(store.stream("a"))
      streamed[0] = 9
      assert.deepStrictEqual([...(yield* ObjectStore.collect(store.stream("a")))], [1, 2, 3])
    })
  )

  it.effect("has no URLs, and says so", () =>
    Effect.gen(function* () {
      const store = yield* ObjectStore.makeMemory
      assert.strictEqual((yield* Effect.flip(store.presignGet("a"))).reason, "Unsupported")
      assert.strictEqual((yield* Effect.flip(store.presignPut("a"))).reason, "Unsupported")
    })
  )

  it("errors say whether the same again may succeed", () => {
    const of = (reason: ObjectStore.ObjectStoreErrorReason) =>
      new ObjectStore.ObjectStoreError({ reason, method: "put", description: "x" })
    assert.isTrue(of("Throttled").isRetryable)
    assert.isTrue(of("Unavailable").isRetryable)
    assert.isFalse(of("Conflict").isRetryable)
    assert.isFalse(of("NotModified").isRetryable)
    assert.strictEqual(of("Throttled").errorClass, "rate-limited")
  })

  it("CRC-32C of its catalogue, in pieces of any size", () => {
    for (const size of [1, 2, 3, 4, 5, 9]) {
      const follower = ObjectStore.checksum("crc32c")
      const bytes = new TextEncoder().encode("123456789")
      for (let at = 0; at < bytes.length; at += size) follower.update(bytes.subarray(at, at + size))
      assert.strictEqual(follower.digest(), "4waSgw==")
    }
  })

  // The suite is worth what it sees: a store with one fault fails it.
  const faults: ReadonlyArray<readonly [string, (store: Store) => Partial<Store>]> = [
    [
      "forgets conditions of a put",
      (store) => ({
        put: (key, body, options) => store.put(key, body, { ...options, ifNoneMatch: undefined, ifMatch: undefined })
      })
    ],
    [
      "forgets ranges of streams",
      (store) => ({ stream: (key, options) => store.stream(key, { ...options, range: undefined }) })
    ],
    ["forgets conditions of a read", (store) => ({ get: (key, options) => store.get(key, { range: options?.range }) })],
    [
      "lists the first page only",
      (store) => ({ list: (options) => Stream.take(store.list(options), options?.pageSize ?? 1_000) })
    ],
    [
      "puts keys of two cases together",
      (store) => ({ put: (key, body, options) => store.put(key.toLowerCase(), body, options) })
    ],
    ["loses metadata in a copy", (store) => ({ copy: (from, to) => store.copy(from, to, { replace: {} }) })],
    [
      "keeps half of a stream that fails",
      (store) => ({
        put: (key, body, options) => Effect.zipRight(store.put(key, "half"), store.put(key, body, options))
      })
    ]
  ]
  for (const [name, fault] of faults) {
    it.effect(`the suite sees a store that ${name}`, () =>
      Effect.gen(function* () {
        const store = yield* ObjectStore.makeMemory
        const broken = { ...store, ...fault(store) }
        const results = yield* Effect.provideService(
          Suite.run(ObjectStoreSuite.suite, everything),
          ObjectStore.ObjectStore,
          broken
        )
        assert.isTrue(results.some(({ outcome }) => outcome === "failed"))
      })
    )
  }
})

type Store = typeof ObjectStore.ObjectStore.Service
