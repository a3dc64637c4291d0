/**
 * The behaviour of every `VectorStore`. The cases make and drop collections of their own, so they can run against a store
 * that is in use.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as Embeddings from "../storage/Embeddings.ts"
import * as TextSearch from "../storage/TextSearch.ts"
import * as VectorStore from "../storage/VectorStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What not every store can do: `exact` (a search never misses one of the nearest) and `atomicBatches` (a batch is written
 * whole or not at all).
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "exact" | "atomicBatches"

/**
 * How much the suite asks of a store. A slow one can be asked less at a time: what is said of all of them is said of the
 * numbers by default.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Random filters in all: 2,000. */
  readonly filters?: number | undefined
  /** How many of them are one case: 250. */
  readonly filtersPerCase?: number | undefined
  /** The vectors that every metric is tried with: 200. */
  readonly vectors?: number | undefined
  /** How often every metric is asked: 20. */
  readonly queries?: number | undefined
  /** Records of a large batch: 2,000. */
  readonly batch?: number | undefined
}

type Store = Context.Tag.Service<VectorStore.VectorStore>
type Metric = VectorStore.Metric

const { Filter } = VectorStore

const withCollection = <A, E>(
  shape: VectorStore.CollectionShape,
  use: (store: Store, name: string) => Effect.Effect<A, E>
): Effect.Effect<A, E | VectorStore.VectorStoreError, VectorStore.VectorStore> =>
  Effect.gen(function* () {
    const store = yield* VectorStore.VectorStore
    // The clock may stand still and the random numbers may be seeded, but hardly both in two runs at once.
    const name = `suite.${yield* Clock.currentTimeMillis}-${yield* Random.nextIntBetween(0, 2 ** 31)}_x`
    return yield* Effect.acquireUseRelease(
      store.ensureCollection(name, shape),
      () => use(store, name),
      () => Effect.ignore(store.dropCollection(name))
    )
  })

const cosine = (dimensions: number): VectorStore.CollectionShape => ({ dimensions, metric: "cosine" })

const seeded = <A, E, R>(seed: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withRandom(effect, Random.make(seed))

const randomVector = (dimensions: number): Effect.Effect<ReadonlyArray<number>> =>
  Effect.replicateEffect(
    Effect.map(Random.nextRange(-1, 1), (value) => Math.fround(value)),
    dimensions
  )

const randomRecords = (count: number, dimensions: number): Effect.Effect<ReadonlyArray<VectorStore.VectorRecord>> =>
  Effect.forEach(Array.from({ length: count }), (_, index) =>
    Effect.map(randomVector(dimensions), (vector) => ({ id: `r${String(index).padStart(4, "0")}`, vector }))
  )

const pick = <A>(values: ReadonlyArray<A>, instead: A): Effect.Effect<A> =>
  Effect.map(Random.nextIntBetween(0, values.length), (index) => values[index] ?? instead)

const keys = ["a", "b", "c", "ключ", "it's", 'quo"te', "a.b", "__proto__", "$1", "with space", "🚀"]
const values: ReadonlyArray<VectorStore.Filter.Value> = [
  ...["", "1", "2", "true", "x", "X", "it's", 'say "no"', "back\\slash", "%_", "naïve", "日本", "🚀", "line\nbreak"],
  ...[0, 1, 2, -1, 2.5, -2.5, 0.1, 0.30000000000000004, 1e-9, 4294967296, 9007199254740991, 9007199254740992],
  ...[1e21, 1.7976931348623157e308],
  ...[true, false]
]
const numbers = values.filter((value) => typeof value === "number")

const randomMetadata: Effect.Effect<VectorStore.Metadata> = Effect.map(
  Effect.forEach(keys, (key) => Effect.all([Effect.succeed(key), Random.next, pick(values, 0)])),
  (entries) => Object.fromEntries(entries.flatMap(([key, chance, value]) => (chance < 0.5 ? [[key, value]] : [])))
)

const randomFilter = (depth: number): Effect.Effect<VectorStore.Filter.Filter> =>
  Effect.gen(function* () {
    const key = yield* pick([...keys, "absent"], "a")
    const some = yield* Effect.flatMap(Random.nextIntBetween(0, 4), (n) => Effect.replicateEffect(pick(values, 0), n))
    const value = yield* pick(values, 0)
    const number = Number(yield* pick(numbers, 0))
    const nested = depth === 0 ? [] : ["and", "or", "not"]
    switch (yield* pick(["eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "exists", ...nested, ...nested], "eq")) {
      case "ne":
        return Filter.ne(key, value)
      case "in":
        return Filter.in(key, some)
      case "nin":
        return Filter.nin(key, some)
      case "gt":
        return Filter.gt(key, number)
      case "gte":
        return Filter.gte(key, number)
      case "lt":
        return Filter.lt(key, number)
      case "lte":
        return Filter.lte(key, number)
      case "exists":
        return Filter.exists(key)
      case "not":
        return Filter.not(yield* randomFilter(depth - 1))
      case "and":
      case "or": {
        const count = yield* Random.nextIntBetween(0, 4)
        const filters = yield* Effect.replicateEffect(randomFilter(depth - 1), count)
        return (yield* Random.nextBoolean) ? Filter.and(...filters) : Filter.or(...filters)
      }
      default:
        return Filter.eq(key, value)
    }
  })

/** Lets the event loop turn: what waits for a socket gets on, whatever the clock. */
const turn = Effect.async<void>((resume) => {
  const immediate = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(immediate))
})

const parted = (count: number, dimensions: number): Effect.Effect<ReadonlyArray<VectorStore.VectorRecord>> =>
  Effect.map(randomRecords(count, dimensions), (records) =>
    records.map((record, n) => ({ ...record, metadata: { part: n % 3 } }))
  )

const byBruteForce = (
  metric: Metric,
  records: ReadonlyArray<VectorStore.VectorRecord>,
  vector: ReadonlyArray<number>,
  filter: VectorStore.Filter.Filter | undefined
): ReadonlyArray<{ readonly id: string; readonly distance: number }> =>
  records
    .filter(({ metadata }) => filter === undefined || Filter.matches(filter, metadata ?? {}))
    .map(({ id, vector: own }) => ({ id, distance: VectorStore.distanceOf(metric, own, vector) }))
    .sort((a, b) => a.distance - b.distance || VectorStore.compareIds(a.id, b.id))

const near = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-4 * Math.max(1, Math.abs(a), Math.abs(b))

const ids = (matches: ReadonlyArray<{ readonly id: string }>): ReadonlyArray<string> => matches.map(({ id }) => id)

const failsWith = <A, R>(
  expectation: string,
  reason: VectorStore.VectorStoreErrorReason,
  effect: Effect.Effect<A, VectorStore.VectorStoreError, R>
) => Suite.fails(expectation, effect, (error) => error._tag === "VectorStoreError" && error.reason === reason)

/** What fails for want of an embedding is no failure of the store. */
const typedOnly = <A, R>(
  effect: Effect.Effect<A, VectorStore.VectorStoreError | Embeddings.EmbeddingsError, R>
): Effect.Effect<A, VectorStore.VectorStoreError, R> => Effect.catchTag(effect, "EmbeddingsError", Effect.die)

const collect = (
  store: Store,
  name: string,
  options?: Parameters<Store["scroll"]>[1]
): Effect.Effect<ReadonlyArray<VectorStore.StoredRecord>, VectorStore.VectorStoreError> =>
  Effect.map(Stream.runCollect(store.scroll(name, options)), Chunk.toReadonlyArray)

const upserts = (batch: number) => [
  Suite.test(
    "upsert writes what get gives back: vector, metadata of every type, document",
    withCollection(cosine(3), (store, name) =>
      Effect.gen(function* () {
        const metadata = { text: "ü", whole: 2, part: 2.5, large: 1e21, yes: true, no: false, empty: "" }
        yield* store.upsert(name, [{ id: "a", vector: [1, 0.5, -0.25], metadata, document: "A text.\nTwo lines." }])
        yield* Suite.equal("the record", yield* store.get(name, ["a"]), [
          { id: "a", vector: [1, 0.5, -0.25], metadata, document: "A text.\nTwo lines." }
        ])
      })
    )
  ),
  Suite.test(
    "upsert without metadata or document gives empty metadata and no document",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
        yield* Suite.equal("the record", yield* store.get(name, ["a"]), [{ id: "a", vector: [1, 0], metadata: {} }])
      })
    )
  ),
  Suite.test(
    "upsert is idempotent and replaces the whole record",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const first = { id: "a", vector: [1, 0], metadata: { old: 1 }, document: "old" }
        yield* store.upsert(name, [first])
        yield* store.upsert(name, [first])
        yield* Suite.equal("how many", yield* store.count(name), 1)
        yield* store.upsert(name, [{ id: "a", vector: [0, 1], metadata: { fresh: 2 } }])
        yield* Suite.equal("the record", yield* store.get(name, ["a"]), [
          { id: "a", vector: [0, 1], metadata: { fresh: 2 } }
        ])
      })
    )
  ),
  Suite.test(
    "of several records with one id in a batch the last wins",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [
          { id: "a", vector: [1, 0], metadata: { n: 1 } },
          { id: "b", vector: [1, 0], metadata: { n: 2 } },
          { id: "a", vector: [0, 1], metadata: { n: 3 } }
        ])
        yield* Suite.equal("how many", yield* store.count(name), 2)
        yield* Suite.equal(
          "what is kept",
          (yield* store.get(name, ["a", "b"])).map(({ metadata }) => metadata["n"]),
          [3, 2]
        )
      })
    )
  ),
  Suite.test(
    "an empty batch is no work",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [])
        yield* Suite.equal("how many", yield* store.count(name), 0)
      })
    )
  ),
  Suite.test(
    `a batch of ${batch} is written whole`,
    withCollection(cosine(8), (store, name) =>
      Effect.gen(function* () {
        const records = yield* seeded("large", randomRecords(batch, 8))
        yield* store.upsert(name, records)
        yield* Suite.equal("how many", yield* store.count(name), batch)
        const last = records.slice(-1).map(({ id }) => id)
        yield* Suite.equal("the last", ids(yield* store.get(name, last)), last)
      })
    )
  ),
  Suite.test(
    "a batch of many bytes is written whole",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const document = (n: number) => `${n} ${"a long document, ü ".repeat(5_000)}`
        yield* store.upsert(
          name,
          Array.from({ length: 100 }, (_, n) => ({ id: `d${n}`, vector: [1, n], document: document(n) }))
        )
        yield* Suite.equal("how many", yield* store.count(name), 100)
        const [record] = yield* store.get(name, ["d99"])
        yield* Suite.isTrue("the last", record?.document === document(99))
      })
    )
  ),
  Suite.test(
    "ids are any text: unicode, quotes, slashes, 512 bytes",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const odd = [
          "日本語",
          "🚀",
          "a/b c",
          "it's",
          'say "no"',
          "{1,2}",
          "\\",
          " ",
          "null",
          "NULL",
          "\u00e9",
          "e\u0301",
          "x".repeat(512)
        ]
        yield* store.upsert(
          name,
          odd.map((id) => ({ id, vector: [1, 0] }))
        )
        yield* Suite.equal("how many", yield* store.count(name), odd.length)
        yield* Suite.equal("in the order asked for", ids(yield* store.get(name, odd)), odd)
        yield* Suite.equal("deleted", yield* store.delete(name, odd), odd.length)
      })
    )
  ),
  Suite.test(
    "a record that cannot be kept fails the whole batch before anything is written",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const good = { id: "good", vector: [1, 0] }
        const bad: ReadonlyArray<unknown> = [
          null,
          "a",
          { vector: [1, 0] },
          { id: 1, vector: [1, 0] },
          { id: "a" },
          { id: "a", vector: "10" },
          { id: "a", vector: ["1", "0"] },
          { id: "a", vector: Float32Array.of(1, 0) },
          { id: "a", vector: [1, 0], metadata: null },
          { id: "a", vector: [1, 0], metadata: ["a"] },
          { id: "a", vector: [1, 0], metadata: { a: null } },
          { id: "a", vector: [1, 0], metadata: { a: { b: 1 } } },
          { id: "a", vector: [1, 0], metadata: { a: ["b"] } },
          { id: "a", vector: [1, 0], metadata: { a: 1n } },
          { id: "a", vector: [1, 0], document: 1 },
          { id: "a", vector: [1, 0], document: null },
          { id: "", vector: [1, 0] },
          { id: "x".repeat(513), vector: [1, 0] },
          { id: "é".repeat(257), vector: [1, 0] },
          { id: "nul\u0000", vector: [1, 0] },
          { id: "half\ud800", vector: [1, 0] },
          { id: "a", vector: [Number.NaN, 0] },
          { id: "a", vector: [1e39, 0] },
          { id: "a", vector: [0, 0] },
          { id: "a", vector: [1e-22, 2e-22] },
          { id: "a", vector: [1e20, 0] },
          { id: "a", vector: [1, 0], metadata: { a: Number.POSITIVE_INFINITY } },
          { id: "a", vector: [1, 0], metadata: { "": 1 } },
          { id: "a", vector: [1, 0], metadata: { a: "nul\u0000" } },
          { id: "a", vector: [1, 0], document: "nul\u0000" }
        ]
        for (const record of bad) {
          yield* failsWith(
            `a bad record, number ${bad.indexOf(record)}`,
            "InvalidRecord",
            store.upsert(name, [good, record as VectorStore.VectorRecord])
          )
        }
        for (const records of [undefined, null, "records", { id: "a", vector: [1, 0] }]) {
          yield* failsWith(
            "no array",
            "InvalidRequest",
            store.upsert(name, records as unknown as ReadonlyArray<VectorStore.VectorRecord>)
          )
        }
        yield* Suite.equal("how many", yield* store.count(name), 0)
      })
    )
  )
]

const precision = [
  Suite.test(
    "numbers of a vector are kept as 32-bit floats, and come back as such",
    withCollection({ dimensions: 4, metric: "l2" }, (store, name) =>
      Effect.gen(function* () {
        const vector = [0.1, 1 / 3, -1e-30, 123456.789]
        yield* store.upsert(name, [{ id: "a", vector }])
        const kept = vector.map(Math.fround)
        yield* Suite.equal("by get", (yield* store.get(name, ["a"]))[0]?.vector, kept)
        yield* Suite.equal("by scroll", (yield* collect(store, name))[0]?.vector, kept)
        const [match] = yield* store.query(name, { vector, includeVector: true })
        yield* Suite.equal("by query", match?.vector, kept)
        yield* Suite.equal("it is nowhere else", match?.distance, 0)
      })
    )
  ),
  ...(["l2", "dot"] as const).map((metric) =>
    Suite.test(
      `${metric}: the longest vectors have finite scores, longer ones are refused`,
      withCollection({ dimensions: 2, metric }, (store, name) =>
        Effect.gen(function* () {
          const long = 9e18
          yield* store.upsert(name, [
            { id: "there", vector: [long, 0] },
            { id: "back", vector: [-long, 0] }
          ])
          const matches = yield* store.query(name, { vector: [long, 0] })
          yield* Suite.equal("the order", ids(matches), ["there", "back"])
          for (const match of matches) {
            const expected = VectorStore.distanceOf(metric, [long, 0], [match.id === "there" ? long : -long, 0])
            yield* Suite.isTrue(`the distance of ${match.id}`, near(match.distance, expected))
          }
          yield* failsWith("a longer one", "InvalidRecord", store.upsert(name, [{ id: "a", vector: [1e19, 1e19] }]))
          yield* failsWith("asking by it", "InvalidRequest", store.query(name, { vector: [1e19, 1e19] }))
        })
      )
    )
  )
]

const reads = [
  Suite.test(
    "get keeps the order asked for and leaves out what is missing",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [
          { id: "a", vector: [1, 0] },
          { id: "b", vector: [1, 0] },
          { id: "c", vector: [1, 0] }
        ])
        yield* Suite.equal("the order", ids(yield* store.get(name, ["c", "missing", "a", "b"])), ["c", "a", "b"])
        yield* Suite.equal("of nothing", yield* store.get(name, []), [])
        yield* Suite.equal("an impossible id", yield* store.get(name, ["nul\u0000", "half\ud800"]), [])
      })
    )
  ),
  Suite.test(
    "delete counts what was there and nothing else",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [
          { id: "a", vector: [1, 0] },
          { id: "b", vector: [1, 0] }
        ])
        yield* Suite.equal("with a missing and a doubled id", yield* store.delete(name, ["a", "missing", "a"]), 1)
        yield* Suite.equal("again", yield* store.delete(name, ["a"]), 0)
        yield* Suite.equal("of nothing", yield* store.delete(name, []), 0)
        yield* Suite.equal("what is left", yield* store.count(name), 1)
      })
    )
  ),
  Suite.test(
    "deleteWhere deletes by filter, deleteAll everything; the collection stays",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(
          name,
          [1, 2, 3, 4].map((n) => ({ id: `n${n}`, vector: [1, 0], metadata: { n } }))
        )
        yield* Suite.equal("by filter", yield* store.deleteWhere(name, Filter.gt("n", 2)), 2)
        yield* Suite.equal("by an empty or, which is nothing", yield* store.deleteWhere(name, Filter.or()), 0)
        yield* Suite.equal("what is left", yield* store.count(name), 2)
        yield* Suite.equal("everything", yield* store.deleteAll(name), 2)
        yield* Suite.equal("nothing more", yield* store.deleteAll(name), 0)
        yield* store.upsert(name, [{ id: "after", vector: [1, 0] }])
      })
    )
  ),
  Suite.test(
    "an empty collection answers everything with nothing",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* Suite.equal("query", yield* store.query(name, { vector: [1, 0] }), [])
        yield* Suite.equal("get", yield* store.get(name, ["a"]), [])
        yield* Suite.equal("count", yield* store.count(name), 0)
        yield* Suite.equal("scroll", yield* collect(store, name), [])
      })
    )
  ),
  Suite.test(
    "scroll gives every record once, in pages of any size, also by filter",
    withCollection(cosine(4), (store, name) =>
      Effect.gen(function* () {
        const records = (yield* seeded("scroll", randomRecords(57, 4))).map((record, n) => ({
          ...record,
          metadata: { even: n % 2 === 0 }
        }))
        yield* store.upsert(name, records)
        for (const pageSize of [1, 7, 57, 100]) {
          yield* Suite.equal(`pages of ${pageSize}`, [...ids(yield* collect(store, name, { pageSize }))].sort(), [
            ...ids(records)
          ])
        }
        const even = yield* collect(store, name, { pageSize: 5, filter: Filter.eq("even", true) })
        yield* Suite.equal("the even ones", even.length, 29)
        yield* Suite.equal("with their vectors", (yield* collect(store, name))[0]?.vector.length, 4)
      })
    )
  ),
  Suite.test(
    "scroll gives every record that is there throughout exactly once, though others come and go meanwhile",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const record = (id: string) => ({ id, vector: [1, 0] })
        const stay = Array.from({ length: 40 }, (_, n) => `k${String(n).padStart(2, "0")}`)
        yield* store.upsert(name, [...stay, "k05x", "k35x"].map(record))
        const seen: Array<string> = []
        yield* Stream.runForEach(store.scroll(name, { pageSize: 5 }), ({ id }) =>
          Effect.gen(function* () {
            seen.push(id)
            if (seen.length === 10) {
              yield* store.delete(name, ["k05x", "k35x"])
              yield* store.upsert(name, ["k00a", "k20a", ...stay].map(record))
            }
          })
        )
        yield* Suite.equal("those that stay", seen.filter((id) => stay.includes(id)).sort(), stay)
        yield* Suite.equal("none twice", new Set(seen).size, seen.length)
      })
    )
  )
]

const untyped = Suite.test(
  "what untyped callers give fails with a typed error, and nothing is deleted",
  withCollection(cosine(2), (store, name) =>
    Effect.gen(function* () {
      yield* store.upsert(name, [
        { id: "a", vector: [1, 0], metadata: { k: 1 } },
        { id: "undefined", vector: [1, 0] }
      ])
      for (const filter of [undefined, null, "", "all", 0, false, true, [], [Filter.exists("k")], () => true]) {
        const what = `deleteWhere(${typeof filter})`
        yield* failsWith(what, "InvalidFilter", store.deleteWhere(name, filter as unknown as VectorStore.Filter.Filter))
      }
      for (const given of [undefined, null, "a", [undefined], [1], { length: 1, 0: "a" }]) {
        const wrong = given as unknown as ReadonlyArray<string>
        yield* failsWith("delete", "InvalidRequest", store.delete(name, wrong))
        yield* failsWith("get", "InvalidRequest", store.get(name, wrong))
      }
      for (const given of [null, "", false, 0]) {
        const filter = given as unknown as VectorStore.Filter.Filter
        yield* failsWith("count", "InvalidFilter", store.count(name, filter))
        yield* failsWith("query", "InvalidFilter", store.query(name, { vector: [1, 0], filter }))
        yield* failsWith("scroll", "InvalidFilter", collect(store, name, { filter }))
      }
      for (const given of [undefined, null, {}, { vector: "10" }, { vector: Float32Array.of(1, 0) }]) {
        yield* failsWith("query", "InvalidRequest", store.query(name, given as unknown as VectorStore.Query))
      }
      for (const given of [{ limit: "10" }, { minScore: "0.5" }, { limit: Number.POSITIVE_INFINITY }]) {
        const query = { vector: [1, 0], ...given } as unknown as VectorStore.Query
        yield* failsWith("query", "InvalidRequest", store.query(name, query))
      }
      yield* failsWith(
        "no numbers",
        "InvalidRequest",
        store.query(name, { vector: ["1", "0"] as unknown as ReadonlyArray<number> })
      )
      for (const given of [undefined, null, 1, {}, "../x", "a/../../b", "", "x y"]) {
        const nowhere = given as string
        yield* failsWith("count", "CollectionNotFound", store.count(nowhere))
        yield* failsWith("deleteAll", "CollectionNotFound", store.deleteAll(nowhere))
        yield* Suite.equal("dropCollection", yield* store.dropCollection(nowhere), false)
        yield* failsWith("ensureCollection", "InvalidName", store.ensureCollection(nowhere, cosine(2)))
      }
      for (const given of [undefined, null, {}, { dimensions: "2", metric: "cosine" }]) {
        const shape = given as unknown as VectorStore.CollectionShape
        yield* failsWith("ensureCollection", "InvalidRequest", store.ensureCollection("suite-impossible", shape))
      }
      yield* failsWith(
        "ensureCollection",
        "Unsupported",
        store.ensureCollection("suite-impossible", { dimensions: 2, metric: "hamming" as Metric })
      )
      yield* Suite.equal("what is left", yield* store.count(name), 2)
    })
  )
)

const indexes = [
  Suite.test(
    "an index that the store has is made, another is Unsupported, and numbers out of range are InvalidRequest",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const all: ReadonlyArray<VectorStore.CollectionIndex> = [
          { kind: "exact" },
          { kind: "hnsw" },
          { kind: "hnsw", m: 8, efConstruction: 32, efSearch: 50 }
        ]
        for (const [number, index] of all.entries()) {
          const other = `${name}.${number}`
          const made = store.ensureCollection(other, cosine(2), { index })
          if (!store.capabilities.indexes.includes(index.kind)) {
            yield* failsWith(index.kind, "Unsupported", made)
            continue
          }
          yield* Effect.acquireUseRelease(
            made,
            () =>
              Effect.gen(function* () {
                yield* store.upsert(other, [
                  { id: "a", vector: [1, 0] },
                  { id: "b", vector: [0, 1] }
                ])
                yield* Suite.equal("found", ids(yield* store.query(other, { vector: [1, 0.1] })), ["a", "b"])
                // Whoever asks for the same shape gets it, however it is searched.
                yield* store.ensureCollection(other, cosine(2))
              }),
            () => Effect.ignore(store.dropCollection(other))
          )
        }
        if (!store.capabilities.indexes.includes("hnsw")) return
        for (const numbers of [
          { m: 1 },
          { m: 101 },
          { m: 2.5 },
          { efConstruction: 3 },
          { efSearch: 0 },
          { efSearch: 1e4 }
        ]) {
          const index = { kind: "hnsw", ...numbers } as const
          yield* failsWith(
            JSON.stringify(index),
            "InvalidRequest",
            store.ensureCollection(`${name}.no`, cosine(2), { index })
          )
        }
        const unknown = { kind: "ivf" } as unknown as VectorStore.CollectionIndex
        yield* failsWith(
          "of another kind",
          "InvalidRequest",
          store.ensureCollection(`${name}.no`, cosine(2), { index: unknown })
        )
        yield* failsWith("none was made", "CollectionNotFound", store.count(`${name}.no`))
      })
    )
  )
]

const nearness = (metric: Metric, vectors: number, rounds: number) => [
  Suite.testWith(
    `${metric}: the ids, their order, scores and distances are those of brute force, with a filter and without`,
    ["exact"] as const,
    withCollection({ dimensions: 16, metric }, (store, name) =>
      seeded(
        `nearest ${metric}`,
        Effect.gen(function* () {
          const records = yield* parted(vectors, 16)
          yield* store.upsert(name, records)
          for (let round = 0; round < rounds; round++) {
            const vector = yield* randomVector(16)
            const limit = [1, 10, 50][round % 3] ?? 10
            const filter = round % 2 === 0 ? undefined : Filter.eq("part", round % 3)
            const expected = byBruteForce(metric, records, vector, filter).slice(0, limit)
            const actual = yield* store.query(name, { vector, limit, filter })
            yield* Suite.equal("how many", actual.length, expected.length)
            for (const [index, match] of actual.entries()) {
              const wanted = expected[index]
              const itself = records.find(({ id }) => id === match.id)
              if (wanted === undefined || itself === undefined) return yield* Suite.isTrue("known", false)
              const own = VectorStore.distanceOf(metric, itself.vector, vector)
              // Only two that are as near as 32-bit floats can tell may change places.
              if (match.id !== wanted.id) {
                yield* Suite.isTrue(`${match.id} stands for ${wanted.id}`, Math.abs(own - wanted.distance) < 1e-6)
              }
              yield* Suite.isTrue(`distance at ${index}`, near(match.distance, own))
              yield* Suite.isTrue("score", near(match.score, VectorStore.scoreOf(metric, own)))
              yield* Suite.equal("metric", match.metric, metric)
            }
          }
        })
      )
    )
  ),
  Suite.test(
    `${metric}: what is found has the distance and score of brute force, and next to nothing is missed`,
    withCollection({ dimensions: 16, metric }, (store, name) =>
      seeded(
        `recall ${metric}`,
        Effect.gen(function* () {
          const records = yield* parted(vectors, 16)
          const byId = new Map(records.map((record) => [record.id, record.vector]))
          yield* store.upsert(name, records)
          let found = 0
          let wanted = 0
          for (let round = 0; round < rounds; round++) {
            const vector = yield* randomVector(16)
            const filter = round % 2 === 0 ? undefined : Filter.eq("part", round % 3)
            const expected = new Set(ids(byBruteForce(metric, records, vector, filter).slice(0, 10)))
            const actual = yield* store.query(name, { vector, filter })
            wanted += expected.size
            found += actual.filter(({ id }) => expected.has(id)).length
            for (const match of actual) {
              const own = VectorStore.distanceOf(metric, byId.get(match.id) ?? [], vector)
              yield* Suite.isTrue(`distance ${match.distance}, not ${own}`, near(match.distance, own))
              yield* Suite.isTrue("score", near(match.score, VectorStore.scoreOf(metric, own)))
            }
            const distances = actual.map(({ distance }) => distance)
            yield* Suite.equal(
              "in order",
              [...distances].sort((a, b) => a - b),
              distances
            )
          }
          yield* Suite.isTrue(`${found} of ${wanted}`, found >= 0.95 * wanted)
        })
      )
    )
  ),
  Suite.test(
    `${metric}: a higher score is nearer, and minScore keeps those at or above it`,
    withCollection({ dimensions: 2, metric }, (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [
          { id: "far", vector: [-1, 0] },
          { id: "near", vector: [1, 0.1] },
          { id: "side", vector: [0.1, 1] }
        ])
        const all = yield* store.query(name, { vector: [1, 0] })
        yield* Suite.equal("by nearness", ids(all), ["near", "side", "far"])
        const scores = all.map(({ score }) => score)
        yield* Suite.equal(
          "scores fall",
          [...scores].sort((a, b) => b - a),
          scores
        )
        const [first = 0, second = 0, third = 0] = scores
        const above = (minScore: number) => store.query(name, { vector: [1, 0], minScore })
        yield* Suite.equal("above the second", ids(yield* above((first + second) / 2)), ["near"])
        yield* Suite.equal("above the third", ids(yield* above((second + third) / 2)), ["near", "side"])
        yield* Suite.equal("above nothing", (yield* above(third - 0.1)).length, 3)
        yield* Suite.equal("above all", yield* above(first + 0.1), [])
        yield* Suite.equal("at the first", ids(yield* above(first)), ["near"])
        yield* Suite.equal("at the last", (yield* above(third)).length, 3)
      })
    )
  )
]

const scores = Suite.test(
  "scores have one meaning: cosine in [-1, 1], l2 in (0, 1], dot the product",
  Effect.gen(function* () {
    const one = (metric: Metric) =>
      withCollection({ dimensions: 2, metric }, (store, name) =>
        Effect.gen(function* () {
          yield* store.upsert(name, [
            { id: "same", vector: [2, 0] },
            { id: "side", vector: [0, 1] },
            { id: "back", vector: [-1, 0] }
          ])
          const matches = yield* store.query(name, { vector: [2, 0] })
          const of = (id: string) => matches.find((match) => match.id === id)
          return { same: of("same"), side: of("side"), back: of("back") }
        })
      )
    const expectNear = (what: string, actual: number | undefined, expected: number) =>
      Suite.isTrue(`${what} is ${expected}, not ${actual}`, actual !== undefined && near(actual, expected))
    const byCosine = yield* one("cosine")
    yield* expectNear("cosine of the same", byCosine.same?.score, 1)
    yield* expectNear("cosine of a right angle", byCosine.side?.score, 0)
    yield* expectNear("cosine of the opposite", byCosine.back?.score, -1)
    yield* expectNear("cosine distance of the opposite", byCosine.back?.distance, 2)
    const byL2 = yield* one("l2")
    yield* expectNear("l2 of the same", byL2.same?.score, 1)
    yield* expectNear("l2 distance", byL2.back?.distance, 3)
    yield* expectNear("l2 of three away", byL2.back?.score, 0.25)
    const byDot = yield* one("dot")
    yield* expectNear("dot of the same", byDot.same?.score, 4)
    yield* expectNear("dot distance of the same", byDot.same?.distance, -4)
    yield* expectNear("dot of the opposite", byDot.back?.score, -2)
  })
)

const edges = [
  Suite.test(
    "cosine has no length: vectors of any are compared by direction, and scores stay in [-1, 1]",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const directions = { same: [3, 4], side: [-4, 3], back: [-3, -4] } as const
        const sizes = [1e-18, 1e-9, 0.1, 1, 1e9, 1e18]
        for (const size of sizes) {
          yield* store.upsert(
            name,
            Object.entries(directions).map(([id, [x, y]]) => ({ id, vector: [x * size, y * size] }))
          )
          for (const asked of sizes) {
            const matches = yield* store.query(name, { vector: [3 * asked, 4 * asked] })
            yield* Suite.equal("the order", ids(matches), ["same", "side", "back"])
            for (const [index, score] of [1, 0, -1].entries()) {
              const match = matches[index]
              yield* Suite.isTrue(
                `the score ${match?.score} of size ${size} for ${asked}`,
                match !== undefined && near(match.score, score)
              )
            }
            yield* Suite.isTrue(
              "no score beyond 1, no distance below 0",
              matches.every(({ distance, score }) => Math.abs(score) <= 1 && distance >= 0 && distance <= 2)
            )
          }
        }
      })
    )
  ),
  Suite.test(
    "cosine of vectors that are nearly one never leaves [-1, 1]",
    withCollection(cosine(64), (store, name) =>
      seeded(
        "nearly",
        Effect.gen(function* () {
          const records = yield* randomRecords(50, 64)
          yield* store.upsert(name, records)
          for (const { id, vector } of records.slice(0, 20)) {
            for (const asked of [vector, vector.map((value) => value * 3.7), vector.map((value) => -value / 9)]) {
              const matches = yield* store.query(name, { vector: asked, limit: 50 })
              yield* Suite.isTrue(
                "in range",
                matches.every(({ distance, score }) => Math.abs(score) <= 1 && distance >= 0 && distance <= 2)
              )
            }
            yield* Suite.equal("itself first", ids(yield* store.query(name, { vector, limit: 1 })), [id])
          }
        })
      )
    )
  ),
  Suite.test(
    "l2 and dot: zero vectors are vectors, and zero has no sign",
    Effect.gen(function* () {
      yield* withCollection({ dimensions: 2, metric: "l2" }, (store, name) =>
        Effect.gen(function* () {
          yield* store.upsert(name, [{ id: "zero", vector: [0, 0] }])
          const [itself] = yield* store.query(name, { vector: [0, 0] })
          yield* Suite.equal("distance", itself?.distance, 0)
          yield* Suite.equal("score", itself?.score, 1)
          yield* Suite.equal("kept", (yield* store.get(name, ["zero"]))[0]?.vector, [0, 0])
        })
      )
      yield* withCollection({ dimensions: 2, metric: "dot" }, (store, name) =>
        Effect.gen(function* () {
          yield* store.upsert(name, [
            { id: "zero", vector: [0, 0] },
            { id: "side", vector: [0, 1] }
          ])
          for (const match of yield* store.query(name, { vector: [1, 0] })) {
            yield* Suite.isTrue("distance", Object.is(match.distance, 0))
            yield* Suite.isTrue("score", Object.is(match.score, 0))
          }
        })
      )
    })
  )
]

const queries = [
  Suite.testWith(
    "equal scores come in the order of ids, and limit cuts there",
    ["exact"] as const,
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(
          name,
          ["c", "é", "a", "🚀", "B", "b", "\uffee"].map((id) => ({ id, vector: [1, 0] }))
        )
        const order = ["B", "a", "b", "c", "é", "\uffee", "🚀"]
        yield* Suite.equal("all", ids(yield* store.query(name, { vector: [1, 0] })), order)
        yield* Suite.equal("three", ids(yield* store.query(name, { vector: [1, 0], limit: 3 })), order.slice(0, 3))
      })
    )
  ),
  Suite.test(
    "a query gives metadata and document, and vectors only when asked",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0], metadata: { k: "v" }, document: "text" }])
        const [plain] = yield* store.query(name, { vector: [1, 0] })
        yield* Suite.equal("metadata", plain?.metadata, { k: "v" })
        yield* Suite.equal("document", plain?.document, "text")
        yield* Suite.isTrue("no vector", plain !== undefined && !("vector" in plain))
        const [whole] = yield* store.query(name, { vector: [1, 0], includeVector: true })
        yield* Suite.equal("vector", whole?.vector, [1, 0])
      })
    )
  ),
  Suite.test(
    "a query with a selective filter still finds its limit, wherever the records are",
    withCollection(cosine(8), (store, name) =>
      Effect.gen(function* () {
        const records = (yield* seeded("selective", randomRecords(1_500, 8))).map((record, n) => ({
          ...record,
          metadata: { rare: n % 150 === 0 }
        }))
        yield* store.upsert(name, records)
        const found = yield* store.query(name, {
          vector: yield* seeded("ask", randomVector(8)),
          filter: Filter.eq("rare", true),
          limit: 10
        })
        yield* Suite.equal("how many", found.length, 10)
        yield* Suite.isTrue(
          "all pass",
          found.every(({ metadata }) => metadata["rare"] === true)
        )
      })
    )
  ),
  Suite.test(
    "of many vectors that are equal none is missing, though an index may not lead to it",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const all = Array.from({ length: 400 }, (_, n) => `r${String(n).padStart(3, "0")}`)
        yield* store.upsert(
          name,
          all.map((id, n) => ({ id, vector: [3, 4], metadata: { n } }))
        )
        const found = (query: Partial<VectorStore.Query>) =>
          Effect.map(store.query(name, { vector: [3, 4], ...query }), ids)
        yield* Suite.equal("all", yield* found({ limit: 1_000 }), all)
        yield* Suite.equal("as many as there are", yield* found({ limit: 400 }), all)
        const filter = Filter.gte("n", 200)
        yield* Suite.equal("those that pass", yield* found({ limit: 1_000, filter }), all.slice(200))
      })
    )
  ),
  Suite.test(
    "impossible requests fail with InvalidRequest",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        for (const limit of [0, -1, 1.5, Number.NaN, VectorStore.maxLimit + 1]) {
          yield* failsWith(`a limit of ${limit}`, "InvalidRequest", store.query(name, { vector: [1, 0], limit }))
        }
        yield* failsWith("no number", "InvalidRequest", store.query(name, { vector: [1, 0], minScore: Number.NaN }))
        yield* failsWith("no direction", "InvalidRequest", store.query(name, { vector: [0, 0] }))
        yield* failsWith("no page", "InvalidRequest", collect(store, name, { pageSize: 0 }))
      })
    )
  )
]

const randomFilters = (count: number, perCase: number) =>
  Array.from({ length: Math.ceil(count / perCase) }, (_, piece) => {
    const from = piece * perCase
    const to = Math.min(count, from + perCase)
    return Suite.test(
      `random filters ${from + 1} to ${to} agree with the reference evaluator, in query, count and scroll`,
      withCollection(cosine(2), (store, name) =>
        seeded(
          `filters ${piece}`,
          Effect.gen(function* () {
            const records = yield* Effect.forEach(Array.from({ length: 80 }), (_, index) =>
              Effect.map(randomMetadata, (metadata) => ({ id: `r${index}`, vector: [1, 0], metadata }))
            )
            yield* store.upsert(name, records)
            const given = yield* Effect.forEach(Array.from({ length: to - from }), (_, index) =>
              Effect.map(randomFilter(3), (filter) => ({ filter, round: from + index }))
            )
            yield* Effect.forEach(
              given,
              ({ filter, round }) =>
                Effect.gen(function* () {
                  // A store in this process may never let go of it by itself.
                  if (round % 20 === 0) yield* turn
                  const expected = [...ids(records.filter(({ metadata }) => Filter.matches(filter, metadata)))].sort()
                  const what = JSON.stringify(filter)
                  const found = yield* store.query(name, { vector: [1, 0], filter, limit: 100 })
                  yield* Suite.equal(what, [...ids(found)].sort(), expected)
                  if (round % 4 === 0) yield* Suite.equal(what, yield* store.count(name, filter), expected.length)
                  if (round % 10 === 0) {
                    yield* Suite.equal(what, [...ids(yield* collect(store, name, { filter }))].sort(), expected)
                  }
                }),
              { concurrency: 4, discard: true }
            )
          })
        )
      )
    )
  })

const filters = [
  Suite.test(
    "filters: ne, nin and not match records without the key; types are not mixed; ranges are for numbers",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(
          name,
          [
            ["none", {}],
            ["one", { k: 1 }],
            ["text", { k: "1" }],
            ["yes", { k: true }],
            ["half", { k: 2.5 }],
            ["two", { k: 2 }]
          ].map(([id, metadata]) => ({ id, metadata, vector: [1, 0] }) as VectorStore.VectorRecord)
        )
        const expectations: ReadonlyArray<readonly [VectorStore.Filter.Filter, ReadonlyArray<string>]> = [
          [Filter.eq("k", 1), ["one"]],
          [Filter.eq("k", "1"), ["text"]],
          [Filter.eq("k", true), ["yes"]],
          [Filter.eq("k", 2.5), ["half"]],
          [Filter.ne("k", 1), ["half", "none", "text", "two", "yes"]],
          [Filter.in("k", [1, 2.5, "1"]), ["half", "one", "text"]],
          [Filter.in("k", []), []],
          [Filter.nin("k", [1, 2.5, "1"]), ["none", "two", "yes"]],
          [Filter.nin("k", []), ["half", "none", "one", "text", "two", "yes"]],
          [Filter.gt("k", 1), ["half", "two"]],
          [Filter.gte("k", 1), ["half", "one", "two"]],
          [Filter.lt("k", 2.5), ["one", "two"]],
          [Filter.lte("k", 2.5), ["half", "one", "two"]],
          [Filter.not(Filter.lt("k", 2.5)), ["half", "none", "text", "yes"]],
          [Filter.exists("k"), ["half", "one", "text", "two", "yes"]],
          [Filter.not(Filter.exists("k")), ["none"]],
          [Filter.and(), ["half", "none", "one", "text", "two", "yes"]],
          [Filter.or(), []],
          [Filter.or(Filter.eq("k", 1), Filter.and(Filter.exists("k"), Filter.gt("k", 2))), ["half", "one"]]
        ]
        for (const [filter, expected] of expectations) {
          const found = yield* store.query(name, { vector: [1, 0], filter })
          yield* Suite.equal(JSON.stringify(filter), [...ids(found)].sort(), [...expected])
        }
      })
    )
  ),
  Suite.test(
    "deleteWhere deletes what the filter matches and nothing else, whatever the filter",
    withCollection(cosine(2), (store, name) =>
      seeded(
        "deleting",
        Effect.gen(function* () {
          for (let round = 0; round < 20; round++) {
            const filter = yield* randomFilter(2)
            const records = yield* Effect.forEach(Array.from({ length: 20 }), (_, index) =>
              Effect.map(randomMetadata, (metadata) => ({ id: `r${index}`, vector: [1, 0], metadata }))
            )
            yield* store.upsert(name, records)
            const gone = records.filter(({ metadata }) => Filter.matches(filter, metadata))
            yield* Suite.equal(JSON.stringify(filter), yield* store.deleteWhere(name, filter), gone.length)
            const left = ids(records.filter((record) => !gone.includes(record)))
            yield* Suite.equal("what is left", [...ids(yield* collect(store, name))].sort(), [...left].sort())
            yield* store.deleteAll(name)
          }
        })
      )
    )
  ),
  Suite.test(
    "a filter may have ten thousand parts and not more",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0], metadata: { n: 9_000.5 } }])
        const parts = (count: number) => Array.from({ length: count }, (_, n) => Filter.gt("n", n))
        const most = Filter.or(...parts(VectorStore.maxFilterSize - 1))
        yield* Suite.equal("with the most", yield* store.count(name, most), 1)
        yield* Suite.equal(
          "without any that holds",
          yield* store.count(name, Filter.not(Filter.or(...parts(9_000)))),
          0
        )
        const tooMany = Filter.or(...parts(VectorStore.maxFilterSize))
        yield* failsWith("with one more", "InvalidFilter", store.count(name, tooMany))
        const values = Array.from({ length: 50_000 }, (_, n) => n + 0.5)
        yield* Suite.equal("values of in are not parts", yield* store.count(name, Filter.in("n", values)), 1)
      })
    )
  ),
  Suite.test(
    "what is no filter fails with InvalidFilter and is never ignored",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
        let deep: VectorStore.Filter.Filter = Filter.exists("k")
        for (let depth = 0; depth < 10_000; depth++) deep = Filter.not(deep)
        const invalid: ReadonlyArray<unknown> = [
          {},
          { op: "like", key: "k", value: "x" },
          { op: "eq", key: "k" },
          { op: "eq", key: "", value: 1 },
          { op: "eq", key: "k", value: null },
          { op: "eq", key: "k", value: Number.NaN },
          { op: "eq", key: "k", value: "nul\u0000" },
          { op: "gt", key: "k", value: "x" },
          { op: "and", filters: [{ op: "or" }] },
          deep
        ]
        for (const each of invalid) {
          const filter = each as VectorStore.Filter.Filter
          yield* failsWith("query", "InvalidFilter", store.query(name, { vector: [1, 0], filter }))
          yield* failsWith("count", "InvalidFilter", store.count(name, filter))
          yield* failsWith("deleteWhere", "InvalidFilter", store.deleteWhere(name, filter))
          yield* failsWith("scroll", "InvalidFilter", collect(store, name, { filter }))
        }
        yield* Suite.equal("nothing was deleted", yield* store.count(name), 1)
      })
    )
  )
]

const collections = [
  Suite.test(
    "ensureCollection is idempotent; another shape is CollectionMismatch and changes nothing",
    withCollection(cosine(3), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0, 0] }])
        yield* store.ensureCollection(name, cosine(3))
        yield* failsWith("other dimensions", "CollectionMismatch", store.ensureCollection(name, cosine(4)))
        yield* failsWith(
          "another metric",
          "CollectionMismatch",
          store.ensureCollection(name, { dimensions: 3, metric: "l2" })
        )
        yield* Suite.equal("what is in it", yield* store.count(name), 1)
        const info = (yield* store.collections).find((each) => each.name === name)
        yield* Suite.equal("how it is listed", info, { name, dimensions: 3, metric: "cosine" })
      })
    )
  ),
  Suite.test(
    "ensureCollection at once from many is one collection",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const other = `${name}.many`
        yield* Effect.all(
          Array.from({ length: 8 }, () => store.ensureCollection(other, cosine(2))),
          { concurrency: "unbounded" }
        )
        yield* Suite.equal("listed", (yield* store.collections).filter((each) => each.name === other).length, 1)
        yield* Suite.equal("dropped", yield* store.dropCollection(other), true)
        yield* Suite.equal("dropped again", yield* store.dropCollection(other), false)
      })
    )
  ),
  Suite.test(
    "collections do not see each other's records",
    withCollection(cosine(2), (store, name) =>
      withCollection(cosine(2), (_, other) =>
        Effect.gen(function* () {
          yield* store.upsert(name, [{ id: "a", vector: [1, 0], metadata: { of: 1 } }])
          yield* store.upsert(other, [{ id: "a", vector: [0, 1], metadata: { of: 2 } }])
          yield* Suite.equal("one", (yield* store.get(name, ["a"]))[0]?.metadata, { of: 1 })
          yield* store.deleteAll(other)
          yield* Suite.equal("still there", yield* store.count(name), 1)
        })
      ).pipe(Effect.provideService(VectorStore.VectorStore, store))
    )
  ),
  Suite.test(
    "a dropped collection that is made again is empty and may have another shape",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0] }])
        yield* store.dropCollection(name)
        yield* failsWith("while it is gone", "CollectionNotFound", store.count(name))
        yield* store.ensureCollection(name, { dimensions: 3, metric: "dot" })
        yield* Suite.equal("how many", yield* store.count(name), 0)
        yield* store.upsert(name, [{ id: "a", vector: [1, 0, 0] }])
      })
    )
  ),
  Suite.test(
    "names are 3 to 512 of letters, digits, dot, underscore and dash",
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      for (const name of ["", "ab", "x".repeat(513), "with space", "semi;colon", 'quo"te', "über", "a/b"]) {
        yield* failsWith(JSON.stringify(name.slice(0, 20)), "InvalidName", store.ensureCollection(name, cosine(2)))
      }
      const long = `suite-${"x".repeat(506)}`
      yield* store.ensureCollection(long, cosine(2))
      yield* store.upsert(long, [{ id: "a", vector: [1, 0] }])
      yield* Suite.equal("dropped", yield* store.dropCollection(long), true)
    })
  ),
  Suite.test(
    "impossible dimensions fail with InvalidRequest",
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      for (const dimensions of [0, -1, 1.5, Number.NaN, store.capabilities.maxDimensions + 1]) {
        yield* failsWith(
          `${dimensions}`,
          "InvalidRequest",
          store.ensureCollection("suite-impossible", cosine(dimensions))
        )
      }
    })
  ),
  Suite.test(
    "vectors of other dimensions fail with DimensionMismatch",
    withCollection(cosine(3), (store, name) =>
      Effect.gen(function* () {
        for (const vector of [[], [1, 0], [1, 0, 0, 0]]) {
          yield* failsWith("upsert", "DimensionMismatch", store.upsert(name, [{ id: "a", vector }]))
          yield* failsWith("query", "DimensionMismatch", store.query(name, { vector }))
        }
        yield* Suite.equal("nothing was written", yield* store.count(name), 0)
      })
    )
  ),
  Suite.test(
    "a collection that is not there is CollectionNotFound, whatever is asked of it",
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      const name = "suite-nowhere"
      yield* failsWith("upsert", "CollectionNotFound", store.upsert(name, [{ id: "a", vector: [1] }]))
      yield* failsWith("get", "CollectionNotFound", store.get(name, ["a"]))
      yield* failsWith("query", "CollectionNotFound", store.query(name, { vector: [1] }))
      yield* failsWith("delete", "CollectionNotFound", store.delete(name, ["a"]))
      yield* failsWith("deleteWhere", "CollectionNotFound", store.deleteWhere(name, Filter.exists("a")))
      yield* failsWith("deleteAll", "CollectionNotFound", store.deleteAll(name))
      yield* failsWith("count", "CollectionNotFound", store.count(name))
      yield* failsWith("scroll", "CollectionNotFound", collect(store, name))
      yield* Suite.equal("drop", yield* store.dropCollection(name), false)
      yield* failsWith("an impossible name", "CollectionNotFound", store.count("nul\u0000"))
    })
  )
]

const concurrency = [
  Suite.test(
    "writers of one record at once leave the record of one of them, whole",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const one = (writer: number) => ({
          id: "one",
          vector: [1, writer],
          metadata: { [`of${writer}`]: true, writer },
          document: `by ${writer}`
        })
        yield* Effect.forEach(
          Array.from({ length: 20 }, (_, writer) => writer),
          (writer) => store.upsert(name, [one(writer)]),
          { concurrency: "unbounded", discard: true }
        )
        yield* Suite.equal("how many", yield* store.count(name), 1)
        const [record] = yield* store.get(name, ["one"])
        yield* Suite.equal("the record", record, one(Number(record?.metadata["writer"])))
      })
    )
  ),
  Suite.test(
    "scroll is complete while others write and delete at the same time",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const record = (id: string) => ({ id, vector: [1, 0] })
        const stay = Array.from({ length: 120 }, (_, n) => `k${String(n).padStart(3, "0")}`)
        const come = stay.map((id) => `${id}+`)
        yield* store.upsert(name, stay.map(record))
        const writing = Effect.forever(
          Effect.forEach(come, (id, n) =>
            Effect.zipRight(store.upsert(name, [record(id), record(stay[n] ?? id)]), store.delete(name, [id]))
          )
        )
        const seen = yield* Effect.map(
          Effect.raceFirst(
            Effect.all([collect(store, name, { pageSize: 7 }), collect(store, name, { pageSize: 50 })]),
            writing
          ),
          (scrolls) => scrolls.map(ids)
        )
        for (const each of seen) {
          yield* Suite.equal("those that stay", [...each.filter((id) => stay.includes(id))].sort(), stay)
          yield* Suite.equal("none twice", new Set(each).size, each.length)
        }
      })
    )
  ),
  Suite.test(
    "a scroll may be left in the middle",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const records = Array.from({ length: 30 }, (_, n) => ({ id: `k${n}`, vector: [1, n] }))
        yield* store.upsert(name, records)
        for (let round = 0; round < 15; round++) {
          const some = yield* Stream.runCollect(Stream.take(store.scroll(name, { pageSize: 4 }), 6))
          yield* Suite.equal("six", Chunk.size(some), 6)
        }
        yield* Suite.equal("all", (yield* collect(store, name)).length, 30)
      })
    )
  ),
  Suite.test(
    "an upsert that is interrupted leaves whole records, and can be done again",
    withCollection(cosine(8), (store, name) =>
      Effect.gen(function* () {
        const old = (yield* seeded("before", randomRecords(600, 8))).map((each) => ({
          ...each,
          metadata: { v: "old" }
        }))
        const fresh = (yield* seeded("after", randomRecords(600, 8))).map((each) => ({
          ...each,
          metadata: { v: "new" }
        }))
        const oldById = new Map(old.map((record) => [record.id, record]))
        const freshById = new Map(fresh.map((record) => [record.id, record]))
        for (const turns of [0, 1, 3, 10, 30, 100]) {
          yield* store.upsert(name, old)
          const fiber = yield* Effect.fork(store.upsert(name, fresh))
          for (let n = 0; n < turns; n++) yield* turn
          yield* Fiber.interrupt(fiber)
          const kept = yield* collect(store, name)
          yield* Suite.equal("how many", kept.length, 600)
          for (const { id, metadata, vector } of kept) {
            const from = metadata["v"] === "old" ? oldById : freshById
            yield* Suite.equal(`the vector of ${id}`, vector, from.get(id)?.vector)
          }
        }
        yield* store.upsert(name, fresh)
        const kept = yield* collect(store, name, { filter: Filter.eq("v", "new") })
        yield* Suite.equal("done again", kept.length, 600)
      })
    )
  ),
  Suite.test(
    "writers of the same records at once neither fail nor mix records",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const shared = Array.from({ length: 50 }, (_, n) => `k${n}`)
        yield* Effect.forEach(
          Array.from({ length: 8 }, (_, writer) => writer),
          (writer) =>
            store.upsert(
              name,
              (writer % 2 === 0 ? shared : [...shared].reverse()).map((id) => ({
                id,
                vector: [1, writer],
                metadata: { writer }
              }))
            ),
          { concurrency: "unbounded", discard: true }
        )
        yield* Suite.equal("how many", yield* store.count(name), 50)
        for (const { metadata, vector } of yield* store.get(name, shared)) {
          yield* Suite.equal("the vector is of the writer of the metadata", vector[1], Number(metadata["writer"]))
        }
      })
    )
  ),
  Suite.testWith(
    "an upsert that is interrupted leaves all or nothing, and the store works on",
    ["atomicBatches"] as const,
    withCollection(cosine(8), (store, name) =>
      Effect.gen(function* () {
        const records = yield* seeded("interrupted", randomRecords(1_200, 8))
        for (const turns of [0, 1, 5, 50]) {
          const fiber = yield* Effect.fork(store.upsert(name, records))
          for (let n = 0; n < turns; n++) yield* n % 2 === 0 ? Effect.yieldNow() : turn
          yield* Fiber.interrupt(fiber)
          const count = yield* store.count(name)
          yield* Suite.isTrue(`all or nothing, not ${count}`, count === 0 || count === records.length)
          yield* store.deleteAll(name)
        }
        yield* store.upsert(name, [{ id: "after", vector: [1, 0, 0, 0, 0, 0, 0, 0] }])
        yield* Suite.equal("afterwards", ids(yield* store.get(name, ["after"])), ["after"])
      })
    )
  )
]

const vocabulary = [
  ...["disk", "full", "error", "memory", "restart", "the", "a", "of", "node", "cluster", "backup", "lag", "queue"],
  ...[
    "it's",
    "naïve",
    "ÜBER",
    "Straße",
    "données",
    "ошибка",
    "диск",
    "磁盘已满",
    "エラー",
    "ดิสก์",
    "x1",
    "2.5",
    "🚀",
    "e\u0301"
  ]
]

const randomDocument = Effect.flatMap(Random.nextIntBetween(0, 30), (length) =>
  Effect.map(Effect.replicateEffect(pick(vocabulary, "the"), length), (words) =>
    words.map((word, n) => (n % 7 === 6 ? `${word}. ` : n % 5 === 4 ? `${word}-` : `${word} `)).join("")
  )
)

const ranked = (
  records: ReadonlyArray<{ readonly id: string; readonly document: string }>,
  text: string
): ReadonlyArray<{ readonly id: string; readonly score: number }> => {
  const ranking = TextSearch.ranking(TextSearch.queryWords(text))
  for (const { document, id } of records) ranking.add(id, document)
  return [...ranking.scores()].sort((a, b) => b.score - a.score || VectorStore.compareIds(a.id, b.id))
}

const documented = (count: number) =>
  Effect.map(parted(count, 4), (records) => records).pipe(
    Effect.flatMap((records) =>
      Effect.forEach(records, (record) => Effect.map(randomDocument, (document) => ({ ...record, document })))
    )
  )

const texts = [
  Suite.test(
    "a search by words finds documents that have one of them, in any case and any script, and no others",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const documents = {
          plain: "The disk is full.",
          upper: "DISK: replace it",
          inside: "diskette",
          umlaut: "Über die Straße",
          cyrillic: "ошибка диска",
          chinese: "服务器磁盘已满,请清理",
          quoted: "it's 'quoted' \\ & | ! ( ) : * <-> \"text\"",
          empty: "",
          marks: "... !!! ???"
        }
        yield* store.upsert(name, [
          ...Object.entries(documents).map(([id, document]) => ({ id, vector: [1, 0], document })),
          { id: "none", vector: [1, 0] }
        ])
        const found = (text: string) =>
          Effect.map(VectorStore.searchText(store, { collection: name, text }), (matches) => [...ids(matches)].sort())
        yield* Suite.equal("disk", yield* found("disk"), ["plain", "upper"])
        yield* Suite.equal("Disk?", yield* found("Disk?"), ["plain", "upper"])
        yield* Suite.equal("two words", yield* found("full straße"), ["plain", "umlaut"])
        yield* Suite.equal("über", yield* found("ÜBER"), ["umlaut"])
        yield* Suite.equal("ошибка", yield* found("ОШИБКА"), ["cyrillic"])
        yield* Suite.equal("磁盘", yield* found("磁盘"), ["chinese"])
        yield* Suite.equal("quoted", yield* found("'quoted' & (x | !y):*"), ["quoted"])
        yield* Suite.equal("no such word", yield* found("nowhere"), [])
        yield* Suite.equal("no word at all", yield* found(" ... '\\ & | !"), [])
        const [first] = yield* VectorStore.searchText(store, { collection: name, text: "full disk", limit: 1 })
        yield* Suite.equal("the best", first?.id, "plain")
        yield* Suite.equal("its document", first?.document, documents.plain)
        yield* Suite.equal("its metadata", first?.metadata, {})
        yield* store.upsert(name, [{ id: "plain", vector: [1, 0], document: "replaced" }])
        yield* Suite.equal("after it was replaced", yield* found("full"), [])
        yield* Suite.equal("by what replaced it", yield* found("replaced"), ["plain"])
      })
    )
  ),
  Suite.test(
    "words are ranked by BM25, with a filter among what passes it",
    withCollection(cosine(4), (store, name) =>
      seeded(
        "documents",
        Effect.gen(function* () {
          const records = yield* documented(150)
          yield* store.upsert(name, records)
          for (let round = 0; round < 30; round++) {
            const text = (yield* Effect.replicateEffect(pick(vocabulary, "disk"), 1 + (round % 4))).join(" ")
            const filter = round % 3 === 0 ? Filter.ne("part", 1) : undefined
            const limit = [10, 3, 200][round % 3] ?? 10
            const passing = records.filter(
              ({ metadata }) => filter === undefined || Filter.matches(filter, metadata ?? {})
            )
            const expected = ranked(passing, text).slice(0, limit)
            const actual = yield* VectorStore.searchText(store, { collection: name, text, filter, limit })
            yield* Suite.equal(`the ids for ${text}`, ids(actual), ids(expected))
            for (const [index, { score }] of actual.entries()) {
              yield* Suite.isTrue("the score", Math.abs(score - (expected[index]?.score ?? -1)) < 1e-6)
            }
          }
        })
      )
    )
  ),
  Suite.test(
    "how often a word is there counts, up to its limit",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        const counts = [
          1,
          2,
          3,
          5,
          10,
          40,
          100,
          TextSearch.maxCount - 1,
          TextSearch.maxCount,
          TextSearch.maxCount + 1,
          999
        ]
        const records = counts.map((count) => ({
          id: `n${count}`,
          vector: [1, 0],
          document: `${"disk ".repeat(count)}${"other ".repeat(3)}`
        }))
        yield* store.upsert(name, records)
        const expected = ranked(records, "disk")
        const actual = yield* VectorStore.searchText(store, { collection: name, text: "disk", limit: 20 })
        yield* Suite.equal("the ids", ids(actual), ids(expected))
        for (const [index, { score }] of actual.entries()) {
          yield* Suite.isTrue("the score", Math.abs(score - (expected[index]?.score ?? -1)) < 1e-6)
        }
      })
    )
  ),
  Suite.test(
    "a hybrid search is the fusion of the search by nearness and the one by words",
    withCollection(cosine(4), (store, name) =>
      seeded(
        "hybrid",
        Effect.gen(function* () {
          const records = yield* documented(80)
          const byId = new Map(records.map((record) => [record.id, record]))
          yield* store.upsert(name, records)
          const variants: ReadonlyArray<Partial<VectorStore.HybridQuery>> = [
            {},
            { filter: Filter.ne("part", 2), limit: 5 },
            { candidates: 7, k: 10 },
            { weights: { vector: 2, text: 0.5 }, includeVector: true },
            { minScore: 0.2, includeVector: true, candidates: 20, limit: 40 },
            { weights: { text: 0 } },
            { weights: { vector: 0 } }
          ]
          for (const variant of variants) {
            for (let round = 0; round < 4; round++) {
              const vector = yield* randomVector(4)
              const text = (yield* Effect.replicateEffect(pick(vocabulary, "disk"), 2)).join(" ")
              const { filter, minScore } = variant
              const limit = variant.candidates ?? Math.max(100, variant.limit ?? 10)
              const byVector = yield* store.query(name, { vector, filter, minScore, limit })
              const byText = yield* VectorStore.searchText(store, { collection: name, text, filter, limit })
              const vectorWeight = variant.weights?.vector ?? 1
              const textWeight = variant.weights?.text ?? 1
              const expected = VectorStore.reciprocalRankFusion(
                [
                  { ids: vectorWeight === 0 ? [] : ids(byVector), weight: vectorWeight },
                  { ids: textWeight === 0 ? [] : ids(byText), weight: textWeight }
                ],
                variant.k
              ).slice(0, variant.limit ?? 10)
              const actual = yield* VectorStore.hybrid(store, { ...variant, collection: name, vector, text })
              yield* Suite.equal("the ids", ids(actual), ids(expected))
              for (const [index, match] of actual.entries()) {
                const wanted = expected[index]
                const similarity = byVector.find(({ id }) => id === match.id)?.score
                yield* Suite.isTrue("the score", Math.abs(match.score - (wanted?.score ?? -1)) < 1e-9)
                yield* Suite.equal("the ranks", [match.vectorRank, match.textRank], [...(wanted?.ranks ?? [])])
                yield* Suite.isTrue(
                  "the similarity",
                  match.similarity === undefined
                    ? match.vectorRank === undefined
                    : similarity !== undefined && near(match.similarity, similarity)
                )
                yield* Suite.equal("the document", match.document, byId.get(match.id)?.document)
                yield* Suite.equal(
                  "the vector",
                  match.vector,
                  variant.includeVector === true ? byId.get(match.id)?.vector : undefined
                )
              }
            }
          }
          const wordless = yield* VectorStore.hybrid(store, { collection: name, vector: [1, 0, 0, 0], text: " ?! " })
          const nearest = yield* store.query(name, { vector: [1, 0, 0, 0] })
          yield* Suite.equal("without words", ids(wordless), ids(nearest))
        })
      )
    )
  ),
  Suite.test(
    "impossible searches by words and by both fail typed",
    withCollection(cosine(2), (store, name) =>
      Effect.gen(function* () {
        yield* store.upsert(name, [{ id: "a", vector: [1, 0], document: "disk" }])
        const text = "disk"
        for (const limit of [0, -1, 1.5, Number.NaN, VectorStore.maxLimit + 1]) {
          yield* failsWith(
            `a limit of ${limit}`,
            "InvalidRequest",
            VectorStore.searchText(store, { collection: name, text, limit })
          )
        }
        for (const given of [undefined, null, 1, {}]) {
          const wrong = given as unknown as string
          const words = VectorStore.searchText(store, { collection: name, text: wrong })
          yield* failsWith("no text", "InvalidRequest", words)
          const both = VectorStore.hybrid(store, { collection: name, vector: [1, 0], text: wrong })
          yield* failsWith("no text", "InvalidRequest", both)
        }
        const wrong: ReadonlyArray<Partial<VectorStore.HybridQuery>> = [
          { limit: 0 },
          { candidates: 0 },
          { candidates: Number.NaN },
          { k: -1 },
          { k: Number.NaN },
          { weights: { vector: -1 } },
          { weights: { vector: 0, text: 0 } },
          { weights: { text: Number.NaN } },
          { minScore: Number.NaN },
          { vector: [0, 0] }
        ]
        for (const each of wrong) {
          const asked = VectorStore.hybrid(store, { vector: [1, 0], text, ...each, collection: name })
          yield* failsWith(JSON.stringify(each), "InvalidRequest", asked)
        }
        yield* failsWith(
          "other dimensions",
          "DimensionMismatch",
          VectorStore.hybrid(store, { collection: name, vector: [1, 0, 0], text })
        )
        const filter = { op: "like" } as unknown as VectorStore.Filter.Filter
        yield* failsWith(
          "no filter",
          "InvalidFilter",
          VectorStore.searchText(store, { collection: name, text, filter })
        )
        yield* failsWith(
          "no filter",
          "InvalidFilter",
          VectorStore.hybrid(store, { collection: name, vector: [1, 0], text, filter })
        )
        for (const nowhere of ["suite-nowhere", "nul\u0000", "../x"]) {
          for (const words of [text, "?"]) {
            yield* failsWith(
              "nowhere",
              "CollectionNotFound",
              VectorStore.searchText(store, { collection: nowhere, text: words })
            )
            yield* failsWith(
              "nowhere",
              "CollectionNotFound",
              VectorStore.hybrid(store, { collection: nowhere, vector: [1, 0], text: words })
            )
          }
        }
      })
    )
  ),
  Suite.test(
    "texts are embedded, written and found by text",
    withCollection({ dimensions: 64, metric: "cosine" }, (store, name) =>
      Effect.gen(function* () {
        const records = [
          { id: "disk", text: "The disk is full: delete old logs", metadata: { kind: "storage" } },
          { id: "memory", text: "The process ran out of memory and was killed", metadata: { kind: "compute" } },
          { id: "login", text: "replaced by the last of its id" },
          { id: "login", text: "Users cannot log in: the certificate has expired" }
        ]
        yield* VectorStore.upsertTexts({ collection: name, records, batchSize: 2 })
        yield* Suite.equal("how many", yield* store.count(name), 3)
        const [login] = yield* store.get(name, ["login"])
        yield* Suite.equal("the document", login?.document, records[3]?.text)
        const text = "disk full of logs"
        const [first] = yield* VectorStore.queryText({ collection: name, text, limit: 1 })
        yield* Suite.equal("by text", [first?.id, first?.metadata], ["disk", { kind: "storage" }])
        const filter = Filter.eq("kind", "compute")
        const filtered = yield* VectorStore.queryText({ collection: name, text, filter })
        yield* Suite.equal("by text and filter", ids(filtered), ["memory"])
        const [both] = yield* VectorStore.hybridText({ collection: name, text })
        yield* Suite.equal("by both", [both?.id, both?.vectorRank, both?.textRank], ["disk", 1, 1])
        for (const blank of ["", "  ", undefined]) {
          const wrong = blank as string
          yield* failsWith("ask", "InvalidRequest", typedOnly(VectorStore.queryText({ collection: name, text: wrong })))
          const written = VectorStore.upsertTexts({ collection: name, records: [{ id: "blank", text: wrong }] })
          yield* failsWith("write", "InvalidRecord", typedOnly(written))
        }
        yield* failsWith(
          "nowhere",
          "CollectionNotFound",
          typedOnly(VectorStore.upsertTexts({ collection: "suite-nowhere", records }))
        )
      }).pipe(
        Effect.provideService(VectorStore.VectorStore, store),
        Effect.provide(Embeddings.layerLocal({ dimensions: 64 }))
      )
    )
  ),
  Suite.test(
    "embeddings of other dimensions than the collection's are DimensionMismatch before a text is embedded",
    withCollection(cosine(3), (store, name) =>
      Effect.gen(function* () {
        let embedded = 0
        const embeddings = Embeddings.Embeddings.of({
          model: "suite",
          dimensions: 64,
          embed: () => Effect.succeed(Array.from({ length: 64 }, () => 1)),
          embedMany: (texts) =>
            Effect.sync(() => {
              embedded += texts.length
              return texts.map(() => Array.from({ length: 64 }, () => 1))
            })
        })
        const run = <A, E>(effect: Effect.Effect<A, E, VectorStore.VectorStore | Embeddings.Embeddings>) =>
          effect.pipe(
            Effect.provideService(VectorStore.VectorStore, store),
            Effect.provideService(Embeddings.Embeddings, embeddings)
          )
        const written = VectorStore.upsertTexts({ collection: name, records: [{ id: "a", text: "text" }] })
        const error = yield* failsWith("write", "DimensionMismatch", typedOnly(run(written)))
        yield* Suite.isTrue("it names the model", error.message.includes("suite"))
        yield* Suite.equal("embedded", embedded, 0)
        const asked = VectorStore.queryText({ collection: name, text: "text" })
        yield* failsWith("ask", "DimensionMismatch", typedOnly(run(asked)))
        const both = VectorStore.hybridText({ collection: name, text: "text" })
        yield* failsWith("ask both", "DimensionMismatch", typedOnly(run(both)))
        yield* Suite.equal("written", yield* store.count(name), 0)
      })
    )
  )
]

/**
 * The behaviours, as much of them as the options say: `Suite.applicable(VectorStoreSuite.make({ filters: 200 }), ["exact"])`.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = (options: Options = {}): Suite.Suite<Capability, VectorStore.VectorStore> => {
  const vectors = options.vectors ?? 200
  const rounds = options.queries ?? 20
  return Suite.make<Capability, VectorStore.VectorStore>("VectorStore", [
    ...upserts(options.batch ?? 2_000),
    ...precision,
    ...reads,
    untyped,
    ...indexes,
    ...nearness("cosine", vectors, rounds),
    ...nearness("l2", vectors, rounds),
    ...nearness("dot", vectors, rounds),
    scores,
    ...edges,
    ...queries,
    ...filters,
    ...randomFilters(options.filters ?? 2_000, options.filtersPerCase ?? 250),
    ...collections,
    ...concurrency,
    ...texts
  ])
}

/**
 * The behaviours. Run them over your adapter: `Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])`.
 *
 * @since 0.1.0
 * @category testing
 */
export const suite: Suite.Suite<Capability, VectorStore.VectorStore> = make()
