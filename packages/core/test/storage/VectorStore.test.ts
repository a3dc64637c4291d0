import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as VectorStore from "../../src/storage/VectorStore.ts"
import * as Suite from "../../src/testing/Suite.ts"
import * as VectorStoreSuite from "../../src/testing/VectorStoreSuite.ts"

describe("VectorStore.layerMemory", () => {
  for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(VectorStore.layerMemory)))
  }
})

// What the portable forms do for a store that has neither a search by words nor a hybrid one.
const withoutText = Layer.effect(
  VectorStore.VectorStore,
  Effect.map(VectorStore.makeMemory, ({ searchText: _, ...store }) =>
    VectorStore.VectorStore.of({ ...store, capabilities: { ...store.capabilities, textSearch: false } })
  )
)

describe("a store without a search by words", () => {
  const cases = Suite.applicable(VectorStoreSuite.make({ filters: 0 }), ["exact", "atomicBatches"])
  for (const one of cases.filter(({ name }) => /words|hybrid|text/.test(name))) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(withoutText)))
  }

  it.effect("is not read without end: more than maxScan records are Unsupported", () =>
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      yield* store.ensureCollection("many", { dimensions: 1, metric: "l2" })
      yield* store.upsert(
        "many",
        Array.from({ length: 30 }, (_, n) => ({ id: `${n}`, vector: [n], document: "word", metadata: { n } }))
      )
      const search = { collection: "many", text: "word", maxScan: 20 }
      assert.strictEqual((yield* Effect.flip(VectorStore.searchText(store, search))).reason, "Unsupported")
      const narrowed = { ...search, filter: VectorStore.Filter.lt("n", 20), limit: 50 }
      assert.strictEqual((yield* VectorStore.searchText(store, narrowed)).length, 20)
    }).pipe(Effect.provide(withoutText))
  )
})

type Store = typeof VectorStore.VectorStore.Service

// Each is a fault that an adapter could have; a case of the suite has to see it.
const faults: ReadonlyArray<readonly [what: string, seenBy: RegExp, fault: (store: Store) => Partial<Store>]> = [
  [
    "deleteWhere without a filter empties the collection",
    /untyped callers/,
    (store) => ({
      deleteWhere: (name, filter) => (filter ? store.deleteWhere(name, filter) : store.deleteAll(name))
    })
  ],
  [
    "scores are distances",
    /l2: what is found has the distance/,
    (store) => ({
      query: (name, query) =>
        Effect.map(store.query(name, query), (all) => all.map((match) => ({ ...match, score: match.distance })))
    })
  ],
  [
    "ne leaves out what lacks the key",
    /random filters 1 to/,
    (store) => ({
      query: (name, query) =>
        query.filter?.op === "ne"
          ? store.query(name, {
              ...query,
              filter: VectorStore.Filter.and(query.filter, VectorStore.Filter.exists(query.filter.key))
            })
          : store.query(name, query)
    })
  ],
  [
    "the filter is applied after the limit",
    /selective filter/,
    (store) => ({
      query: (name, { filter, ...query }) =>
        Effect.map(store.query(name, query), (all) =>
          all.filter(({ metadata }) => filter === undefined || VectorStore.Filter.matches(filter, metadata))
        )
    })
  ],
  [
    "an upsert merges",
    /replaces the whole record/,
    (store) => ({
      upsert: (name, records) =>
        Effect.gen(function* () {
          const old = yield* store.get(
            name,
            records.map(({ id }) => id)
          )
          const metadata = new Map(old.map((record) => [record.id, record.metadata]))
          yield* store.upsert(
            name,
            records.map((record) => ({ ...record, metadata: { ...metadata.get(record.id), ...record.metadata } }))
          )
        })
    })
  ],
  [
    "an interrupted upsert tears records",
    /interrupted leaves whole records/,
    (store) => ({
      upsert: (name, records) =>
        Effect.gen(function* () {
          const kept = yield* store.get(
            name,
            records.map(({ id }) => id)
          )
          const byId = new Map(kept.map((record) => [record.id, record.vector]))
          for (const record of records) {
            yield* store.upsert(name, [{ ...record, vector: byId.get(record.id) ?? record.vector }])
          }
          yield* Effect.sleep(0)
          yield* store.upsert(name, records)
        })
    })
  ],
  [
    "a search by words finds parts of words",
    /finds documents that have one of them/,
    (store) => ({
      searchText: (name, { limit, text }) =>
        Effect.map(store.query(name, { vector: [1, 0], limit: limit ?? 10 }), (all) =>
          all.filter(({ document }) => document?.toLowerCase().includes(text.toLowerCase()))
        )
    })
  ]
]

describe("the suite sees", () => {
  for (const [what, seenBy, fault] of faults) {
    it.live(what, () =>
      Effect.gen(function* () {
        const store = yield* VectorStore.makeMemory
        const faulty = { ...store, ...fault(store) }
        const suite = VectorStoreSuite.make({ filters: 250 })
        const cases = Suite.applicable(suite, ["exact", "atomicBatches"]).filter(({ name }) => seenBy.test(name))
        assert.isAbove(cases.length, 0)
        const [result] = yield* Suite.run(Suite.make("one", cases.slice(0, 1)), ["exact", "atomicBatches"]).pipe(
          Effect.provideService(VectorStore.VectorStore, faulty)
        )
        assert.strictEqual(result?.outcome, "failed")
      })
    )
  }
})
