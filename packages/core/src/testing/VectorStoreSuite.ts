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

const keys = ["a", "b", "c", "ключ", "it's", 'quo"te', "a.b", "__proto__", "$1"]
const values: ReadonlyArray<VectorStore.Filter.Value> = [
  ...["", "1", "2", "true", "x", "X", "it's", 'say "no"', "back\\slash", "%_", "naïve", "日本", "🚀", "line\nbreak"],
  ...[0, 1, 2, -1, 2.5, 0.1, 1e-9, 1e21, 1.7976931348623157e308, 9007199254740992],
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

const near = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-4 * Math.max(1, Math.abs(a), Math.abs(b))

const ids = (matches: ReadonlyArray<{ readonly id: string }>): ReadonlyArray<string> => matches.map(({ id }) => id)

const failsWith = <A, R>(
  expectation: string,
  reason: VectorStore.VectorStoreErrorReason,
  effect: Effect.Effect<A, VectorStore.VectorStoreError, R>
) => Suite.fails(expectation, effect, (error) => error._tag === "VectorStoreError" && error.reason === reason)

const collect = (
  store: Store,
  name: string,
  options?: Parameters<Store["scroll"]>[1]
): Effect.Effect<ReadonlyArray<VectorStore.StoredRecord>, VectorStore.VectorStoreError> =>
  Effect.map(Stream.runCollect(store.scroll(name, options)), Chunk.toReadonlyArray)

const upserts = [
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
    "a batch of two thousand is written whole",
    withCollection(cosine(8), (store, name) =>
      Effect.gen(function* () {
        const records = yield* seeded("large", randomRecords(2_000, 8))
        yield* store.upsert(name, records)
        yield* Suite.equal("how many", yield* store.count(name), 2_000)
        yield* Suite.equal("the last", ids(yield* store.get(name, ["r1999"])), ["r1999"])
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
        const bad: ReadonlyArray<VectorStore.VectorRecord> = [
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
            `a bad record ${JSON.stringify(record).slice(0, 60)}`,
            "InvalidRecord",
            store.upsert(name, [good, record])
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

const nearness = (metric: Metric) => [
  Suite.testWith(
    `${metric}: the order, scores and distances are those of brute force`,
    ["exact"] as const,
    withCollection({ dimensions: 16, metric }, (store, name) =>
      seeded(
        `nearest ${metric}`,
        Effect.gen(function* () {
          const records = yield* randomRecords(200, 16)
          yield* store.upsert(name, records)
          for (let round = 0; round < 20; round++) {
            const vector = yield* randomVector(16)
            const expected = records
              .map((record) => ({ id: record.id, distance: VectorStore.distanceOf(metric, record.vector, vector) }))
              .sort((a, b) => a.distance - b.distance)
              .slice(0, 10)
            const actual = yield* store.query(name, { vector })
            yield* Suite.equal("how many", actual.length, 10)
            for (const [index, match] of actual.entries()) {
              const wanted = expected[index]
              const itself = records.find(({ id }) => id === match.id)
              // Two that are as near as makes no difference may change places.
              yield* Suite.isTrue(
                `distance at ${index}`,
                wanted !== undefined &&
                  itself !== undefined &&
                  near(match.distance, wanted.distance) &&
                  near(match.distance, VectorStore.distanceOf(metric, itself.vector, vector))
              )
              yield* Suite.isTrue("score", near(match.score, VectorStore.scoreOf(metric, match.distance)))
              yield* Suite.equal("metric", match.metric, metric)
            }
          }
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
    "300 random filters agree with the reference evaluator, in count, query and scroll",
    withCollection(cosine(2), (store, name) =>
      seeded(
        "filters",
        Effect.gen(function* () {
          const records = yield* Effect.forEach(Array.from({ length: 80 }), (_, index) =>
            Effect.map(randomMetadata, (metadata) => ({ id: `r${index}`, vector: [1, 0], metadata }))
          )
          yield* store.upsert(name, records)
          for (let round = 0; round < 300; round++) {
            const filter = yield* randomFilter(2)
            const expected = ids(records.filter(({ metadata }) => Filter.matches(filter, metadata)))
            const what = JSON.stringify(filter)
            yield* Suite.equal(what, yield* store.count(name, filter), expected.length)
            if (round % 5 === 0) {
              const found = yield* store.query(name, { vector: [1, 0], filter, limit: 100 })
              yield* Suite.equal(what, [...ids(found)].sort(), [...expected].sort())
              yield* Suite.equal(what, [...ids(yield* collect(store, name, { filter }))].sort(), [...expected].sort())
            }
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
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow()
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

/**
 * The behaviours. Run them over your adapter: `Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])`.
 *
 * @since 0.1.0
 * @category testing
 */
export const suite: Suite.Suite<Capability, VectorStore.VectorStore> = Suite.make<Capability, VectorStore.VectorStore>(
  "VectorStore",
  [
    ...upserts,
    ...precision,
    ...reads,
    ...nearness("cosine"),
    ...nearness("l2"),
    ...nearness("dot"),
    scores,
    ...queries,
    ...filters,
    ...collections,
    ...concurrency
  ]
)
