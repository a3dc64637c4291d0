/**
 * The port of vector stores: collections of records with a vector, flat metadata and a text, searched by nearness and
 * by a portable filter. Scores mean the same in every store: higher is nearer.
 *
 * Vectors are kept as 32-bit floats. Metadata is flat; a record is replaced whole.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Filter from "./VectorFilter.ts"

/**
 * Filters, their constructors and their meaning: `Filter.and(Filter.eq("kind", "runbook"), Filter.gte("severity", 2))`.
 *
 * @since 0.1.0
 */
export { Filter }

/**
 * How nearness is measured. With `score` higher is nearer, always:
 *
 * | metric | distance | score |
 * |---|---|---|
 * | `cosine` | 1 - cos, 0 to 2 | 1 - distance |
 * | `l2` | Euclidean distance | 1 / (1 + distance) |
 * | `dot` | minus the inner product | the inner product |
 *
 * @since 0.1.0
 * @category models
 */
export const Metric = Schema.Literal("cosine", "l2", "dot")
/**
 * @since 0.1.0
 * @category models
 */
export type Metric = typeof Metric.Type

/**
 * @since 0.1.0
 * @category models
 */
export type Metadata = Filter.Metadata

/**
 * A record. The id is any non-empty text of at most 512 bytes. Neither ids nor texts may hold the character NUL or half
 * a surrogate pair, which stores cannot keep. A vector's length is below 9e18, so that distances can be measured in 32-bit
 * floats; under the cosine metric it is also above 3e-18.
 *
 * @since 0.1.0
 * @category models
 */
export const VectorRecord = Schema.Struct({
  id: Schema.String,
  vector: Schema.Array(Schema.Number),
  metadata: Schema.optional(Filter.Metadata),
  document: Schema.optional(Schema.String)
})
/**
 * @since 0.1.0
 * @category models
 */
export type VectorRecord = typeof VectorRecord.Type

/**
 * A record as a store gives it back: metadata is there, though it may be empty.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoredRecord {
  readonly id: string
  readonly vector: ReadonlyArray<number>
  readonly metadata: Metadata
  readonly document?: string
}

/**
 * The shape of a collection.
 *
 * @since 0.1.0
 * @category models
 */
export interface CollectionShape {
  readonly dimensions: number
  readonly metric: Metric
}

/**
 * @since 0.1.0
 * @category models
 */
export interface CollectionInfo extends CollectionShape {
  readonly name: string
}

/**
 * What to search for: the `limit` (10) nearest records that pass `filter` and score at least `minScore`. The vectors
 * themselves come along only with `includeVector`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Query {
  readonly vector: ReadonlyArray<number>
  readonly limit?: number | undefined
  readonly filter?: Filter.Filter | undefined
  readonly minScore?: number | undefined
  readonly includeVector?: boolean | undefined
}

/**
 * A record that was found. `distance` is in the units of `metric`; compare and threshold by `score`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Match {
  readonly id: string
  readonly score: number
  readonly distance: number
  readonly metric: Metric
  readonly metadata: Metadata
  readonly document?: string
  readonly vector?: ReadonlyArray<number>
}

/**
 * What a store can promise.
 *
 * @since 0.1.0
 * @category models
 */
export interface Capabilities {
  /** Records outlive the process. */
  readonly persistent: boolean
  /** Every query is exact; if not, an index may miss some of the nearest. */
  readonly exact: boolean
  /** A batch is written whole or not at all. */
  readonly atomicBatches: boolean
  readonly metrics: ReadonlyArray<Metric>
  readonly maxDimensions: number
}

/**
 * Why a vector store failed.
 *
 * @since 0.1.0
 * @category errors
 */
export const VectorStoreErrorReason = Schema.Literal(
  "CollectionNotFound",
  "CollectionMismatch",
  "DimensionMismatch",
  "InvalidName",
  "InvalidRecord",
  "InvalidFilter",
  "InvalidRequest",
  "Unsupported",
  "Authentication",
  "Unavailable",
  "Timeout",
  "Throttled",
  "Conflict",
  "Unknown"
)
/**
 * @since 0.1.0
 * @category errors
 */
export type VectorStoreErrorReason = typeof VectorStoreErrorReason.Type

/**
 * The one error of vector stores. `description` says what to do and holds no document.
 *
 * @since 0.1.0
 * @category errors
 */
export class VectorStoreError extends Schema.TaggedError<VectorStoreError>()("VectorStoreError", {
  reason: VectorStoreErrorReason,
  method: Schema.String,
  collection: Schema.optionalWith(Schema.String, { exact: true }),
  description: Schema.String,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    switch (this.reason) {
      case "Unavailable":
      case "Timeout":
      case "Throttled":
      case "Conflict":
        return true
      default:
        return false
    }
  }

  override get message(): string {
    const where = this.collection === undefined ? "" : ` on "${this.collection}"`
    return `VectorStore.${this.method}${where}: ${this.reason}: ${this.description}`
  }
}

/**
 * A vector store.
 *
 * - `ensureCollection` makes a collection, or does nothing when it is there with the same shape; with another shape it
 *   fails with `CollectionMismatch`. Names are 3 to 512 of `a-z A-Z 0-9 . _ -`.
 * - `upsert` writes records, each replacing the one of its id; of several with one id in a batch the last wins. One bad
 *   record fails the batch before anything is written.
 * - `get` gives the records that exist, in the order of `ids`.
 * - `query` gives matches by descending score, and by id where scores are equal.
 * - `delete`, `deleteWhere` and `deleteAll` give how many records went.
 * - `scroll` gives every record that is there throughout exactly once, whatever is written meanwhile.
 *
 * All but the first three fail with `CollectionNotFound` for a collection that is not there.
 *
 * @since 0.1.0
 * @category tags
 */
export class VectorStore extends Context.Tag("@underlay/core/VectorStore")<
  VectorStore,
  {
    readonly capabilities: Capabilities
    readonly ensureCollection: (name: string, shape: CollectionShape) => Effect.Effect<void, VectorStoreError>
    readonly dropCollection: (name: string) => Effect.Effect<boolean, VectorStoreError>
    readonly collections: Effect.Effect<ReadonlyArray<CollectionInfo>, VectorStoreError>
    readonly upsert: (collection: string, records: ReadonlyArray<VectorRecord>) => Effect.Effect<void, VectorStoreError>
    readonly get: (
      collection: string,
      ids: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<StoredRecord>, VectorStoreError>
    readonly query: (collection: string, query: Query) => Effect.Effect<ReadonlyArray<Match>, VectorStoreError>
    readonly delete: (collection: string, ids: ReadonlyArray<string>) => Effect.Effect<number, VectorStoreError>
    readonly deleteWhere: (collection: string, filter: Filter.Filter) => Effect.Effect<number, VectorStoreError>
    readonly deleteAll: (collection: string) => Effect.Effect<number, VectorStoreError>
    readonly count: (collection: string, filter?: Filter.Filter) => Effect.Effect<number, VectorStoreError>
    readonly scroll: (
      collection: string,
      options?: { readonly filter?: Filter.Filter | undefined; readonly pageSize?: number | undefined }
    ) => Stream.Stream<StoredRecord, VectorStoreError>
  }
>() {}

// ---------------------------------------------------------------------------------------------------------------------
// What adapters share
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The largest `limit` of a query and the largest page of a scroll.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxLimit = 10_000

/**
 * The greatest depth of nesting in a filter.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxFilterDepth = 64

/**
 * The most comparisons and operators in a filter.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxFilterSize = 10_000

/**
 * The score of a distance under a metric.
 *
 * @since 0.1.0
 * @category combinators
 */
export const scoreOf = (metric: Metric, distance: number): number =>
  metric === "cosine" ? 1 - distance : metric === "l2" ? 1 / (1 + distance) : distance === 0 ? 0 : -distance

/**
 * The distance of two vectors under a metric, by brute force.
 *
 * @since 0.1.0
 * @category combinators
 */
export const distanceOf = (metric: Metric, a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let dot = 0
  let left = 0
  let right = 0
  let squares = 0
  for (let i = 0; i < a.length; i++) {
    const x = a[i] ?? 0
    const y = b[i] ?? 0
    dot += x * y
    left += x * x
    right += y * y
    squares += (x - y) * (x - y)
  }
  if (metric === "l2") return Math.sqrt(squares)
  if (metric === "dot") return dot === 0 ? 0 : -dot
  return 1 - Math.max(-1, Math.min(1, dot / Math.sqrt(left * right)))
}

/**
 * The order of ids in `scroll` and among equal scores: by Unicode code point.
 *
 * @since 0.1.0
 * @category combinators
 */
export const compareIds = (a: string, b: string): number => {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x === y) continue
    // A surrogate stands for a code point above all that one unit can hold.
    const high = x >= 0xd800 && x <= 0xdfff
    return high === (y >= 0xd800 && y <= 0xdfff) ? x - y : high ? 1 : -1
  }
  return a.length - b.length
}

const fail = (
  reason: VectorStoreErrorReason,
  method: string,
  collection: string,
  description: string
): Effect.Effect<never, VectorStoreError> =>
  Effect.fail(new VectorStoreError({ reason, method, collection, description }))

const loneSurrogate = /[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/

/**
 * Whether stores can keep this text: it has neither NUL nor half a surrogate pair. An id that cannot be kept is the id of
 * no record.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isStorableText = (text: string): boolean => !text.includes("\u0000") && !loneSurrogate.test(text)

const bytes = new TextEncoder()

const problemOfId = (id: string): string | undefined => {
  if (id === "") return "an id must not be empty"
  if (bytes.encode(id).length > 512) return "an id must not be longer than 512 bytes"
  return isStorableText(id) ? undefined : "an id must not hold NUL or half a surrogate pair"
}

const problemOfVector = (vector: ReadonlyArray<number>, metric: Metric): string | undefined => {
  let squares = 0
  for (const value of vector) {
    if (!Number.isFinite(Math.fround(value))) return "a vector must hold finite 32-bit numbers"
    squares += value * value
  }
  // Stores measure in 32-bit floats: the distance of two opposite vectors of this length still fits, squared.
  if (squares > 8.5e37) return "a vector must not be longer than 9e18: distances could not be measured"
  // Below this the squares lose their digits.
  if (metric === "cosine" && squares < 1e-35) {
    return "under the cosine metric a vector must have a direction: its length is zero, or too small to measure"
  }
  return undefined
}

/**
 * Fails with `InvalidName` unless `name` is 3 to 512 of `a-z A-Z 0-9 . _ -`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkName = (method: string, name: string): Effect.Effect<void, VectorStoreError> =>
  /^[a-zA-Z0-9._-]{3,512}$/.test(name)
    ? Effect.void
    : fail("InvalidName", method, name, "a collection's name is 3 to 512 of the characters a-z A-Z 0-9 . _ -")

/**
 * Fails with `InvalidRequest` unless the dimensions are a whole number from 1 to `maxDimensions`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkShape = (
  method: string,
  name: string,
  shape: CollectionShape,
  capabilities: Capabilities
): Effect.Effect<void, VectorStoreError> => {
  if (!Number.isInteger(shape.dimensions) || shape.dimensions < 1 || shape.dimensions > capabilities.maxDimensions) {
    return fail("InvalidRequest", method, name, `dimensions must be a whole number, 1 to ${capabilities.maxDimensions}`)
  }
  return capabilities.metrics.includes(shape.metric)
    ? Effect.void
    : fail("Unsupported", method, name, `the metric ${String(shape.metric)} is not supported here`)
}

/**
 * The error of a collection that is there with another shape than asked for.
 *
 * @since 0.1.0
 * @category combinators
 */
export const mismatch = (method: string, found: CollectionInfo, wanted: CollectionShape): VectorStoreError =>
  new VectorStoreError({
    reason: "CollectionMismatch",
    method,
    collection: found.name,
    description:
      `it exists with ${found.dimensions} dimensions and metric ${found.metric}, ` +
      `asked for were ${wanted.dimensions} and ${wanted.metric}: drop it or choose another name`
  })

/**
 * The error of a collection that is not there.
 *
 * @since 0.1.0
 * @category combinators
 */
export const notFound = (method: string, collection: string): VectorStoreError =>
  new VectorStoreError({
    reason: "CollectionNotFound",
    method,
    collection,
    description: "there is no such collection: make it with ensureCollection"
  })

/**
 * Checks a batch against the shape of its collection and gives it with defaults filled in and one record an id, the
 * last one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkRecords = (
  method: string,
  collection: CollectionInfo,
  records: ReadonlyArray<VectorRecord>
): Effect.Effect<ReadonlyArray<StoredRecord>, VectorStoreError> =>
  Effect.suspend(() => {
    const byId = new Map<string, StoredRecord>()
    for (const record of records) {
      const where = `record ${JSON.stringify(record.id.slice(0, 64))}`
      const invalid = (problem: string) => fail("InvalidRecord", method, collection.name, `${where}: ${problem}`)
      const idProblem = problemOfId(record.id)
      if (idProblem !== undefined) return invalid(idProblem)
      if (record.vector.length !== collection.dimensions) {
        return fail(
          "DimensionMismatch",
          method,
          collection.name,
          `${where} has ${record.vector.length} dimensions, the collection ${collection.dimensions}`
        )
      }
      const vectorProblem = problemOfVector(record.vector, collection.metric)
      if (vectorProblem !== undefined) return invalid(vectorProblem)
      const metadata: Array<readonly [string, Filter.Value]> = []
      for (const [key, value] of Object.entries(record.metadata ?? {})) {
        if (key === "" || !isStorableText(key)) return invalid("a metadata key is empty or cannot be stored")
        if (typeof value === "string" ? !isStorableText(value) : typeof value === "number" && !Number.isFinite(value)) {
          return invalid(`the metadata value of ${JSON.stringify(key)} cannot be stored`)
        }
        if (typeof value === "object" || typeof value === "undefined") {
          return invalid(`the metadata value of ${JSON.stringify(key)} is not a string, number or boolean`)
        }
        metadata.push([key, value === 0 ? 0 : value])
      }
      if (record.document !== undefined && !isStorableText(record.document)) {
        return invalid("the document holds NUL or half a surrogate pair")
      }
      // The last one of an id wins, and takes the last one's place.
      byId.delete(record.id)
      byId.set(record.id, {
        id: record.id,
        vector: record.vector,
        metadata: Object.fromEntries(metadata),
        ...(record.document === undefined ? {} : { document: record.document })
      })
    }
    return Effect.succeed([...byId.values()])
  })

const isFilter = Schema.is(Filter.Filter)

const problemOfFilter = (filter: Filter.Filter, depth: number): string | undefined => {
  if (depth > maxFilterDepth) return `a filter must not be nested deeper than ${maxFilterDepth}`
  switch (filter.op) {
    case "and":
    case "or":
      for (const each of filter.filters) {
        const problem = problemOfFilter(each, depth + 1)
        if (problem !== undefined) return problem
      }
      return undefined
    case "not":
      return problemOfFilter(filter.filter, depth + 1)
    case "in":
    case "nin":
      return [filter.key, ...filter.values].every((text) => typeof text !== "string" || isStorableText(text))
        ? undefined
        : "a filter's text must not hold NUL or half a surrogate pair"
    default: {
      const value = filter.op === "exists" ? "" : filter.value
      return isStorableText(filter.key) && (typeof value !== "string" || isStorableText(value))
        ? undefined
        : "a filter's text must not hold NUL or half a surrogate pair"
    }
  }
}

/**
 * Fails with `InvalidFilter` for a filter that the schema refuses, or that is too deep or large: never a silently ignored
 * one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkFilter = (
  method: string,
  collection: string,
  filter: Filter.Filter | undefined
): Effect.Effect<void, VectorStoreError> =>
  Effect.suspend(() => {
    if (filter === undefined) return Effect.void
    // The size comes first: the schema's own recursion has no limit but the stack.
    const problem = problemOfSize(filter) ?? (isFilter(filter) ? problemOfFilter(filter, 0) : "it is not a filter")
    return problem === undefined ? Effect.void : fail("InvalidFilter", method, collection, problem)
  })

const problemOfSize = (filter: unknown): string | undefined => {
  const stack: Array<readonly [unknown, number]> = [[filter, 0]]
  let size = 0
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const [node, depth] = next
    if (++size > maxFilterSize) return `a filter must not have more than ${maxFilterSize} parts: use in for many values`
    if (depth > maxFilterDepth) return `a filter must not be nested deeper than ${maxFilterDepth}`
    if (typeof node !== "object" || node === null) continue
    if ("filter" in node) stack.push([node.filter, depth + 1])
    if ("filters" in node && Array.isArray(node.filters)) {
      for (const each of node.filters) stack.push([each, depth + 1])
    }
  }
  return undefined
}

/**
 * Checks a query against the shape of its collection and gives its limit.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkQuery = (
  collection: CollectionInfo,
  query: Query
): Effect.Effect<{ readonly limit: number; readonly minScore: number }, VectorStoreError> =>
  Effect.suspend(() => {
    const limit = query.limit ?? 10
    const minScore = query.minScore ?? Number.NEGATIVE_INFINITY
    if (query.vector.length !== collection.dimensions) {
      return fail(
        "DimensionMismatch",
        "query",
        collection.name,
        `the vector asked for has ${query.vector.length} dimensions, the collection ${collection.dimensions}`
      )
    }
    const problem =
      problemOfVector(query.vector, collection.metric) ??
      (Number.isInteger(limit) && limit >= 1 && limit <= maxLimit
        ? Number.isNaN(minScore)
          ? "minScore must be a number"
          : undefined
        : `limit must be a whole number, 1 to ${maxLimit}`)
    return problem === undefined
      ? Effect.as(checkFilter("query", collection.name, query.filter), { limit, minScore })
      : fail("InvalidRequest", "query", collection.name, problem)
  })

/**
 * Checks the size of a page and gives it: 500 by default.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkPageSize = (
  collection: string,
  pageSize: number | undefined
): Effect.Effect<number, VectorStoreError> => {
  const size = pageSize ?? 500
  return Number.isInteger(size) && size >= 1 && size <= maxLimit
    ? Effect.succeed(size)
    : fail("InvalidRequest", "scroll", collection, `pageSize must be a whole number, 1 to ${maxLimit}`)
}

// ---------------------------------------------------------------------------------------------------------------------
// In memory
// ---------------------------------------------------------------------------------------------------------------------

interface Kept {
  readonly id: string
  readonly vector: Float32Array
  readonly metadata: Metadata
  readonly document: string | undefined
}

interface MemoryCollection {
  readonly info: CollectionInfo
  readonly records: Map<string, Kept>
}

const stored = (kept: Kept): StoredRecord => ({
  id: kept.id,
  vector: Array.from(kept.vector),
  metadata: { ...kept.metadata },
  ...(kept.document === undefined ? {} : { document: kept.document })
})

/**
 * A store in this process: exact, by brute force, gone with the process.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory: Effect.Effect<Context.Tag.Service<VectorStore>> = Effect.sync(() => {
  const collections = new Map<string, MemoryCollection>()
  const capabilities: Capabilities = {
    persistent: false,
    exact: true,
    atomicBatches: true,
    metrics: ["cosine", "l2", "dot"],
    maxDimensions: 65_536
  }

  const collectionOf = (method: string, name: string): Effect.Effect<MemoryCollection, VectorStoreError> =>
    Effect.suspend(() => {
      const collection = collections.get(name)
      return collection === undefined ? Effect.fail(notFound(method, name)) : Effect.succeed(collection)
    })

  const filtered = (method: string, name: string, filter: Filter.Filter | undefined) =>
    Effect.flatMap(checkFilter(method, name, filter), () =>
      Effect.map(collectionOf(method, name), (collection) => ({
        collection,
        kept: [...collection.records.values()].filter(
          (record) => filter === undefined || Filter.matches(filter, record.metadata)
        )
      }))
    )

  return VectorStore.of({
    capabilities,
    ensureCollection: (name, shape) =>
      Effect.gen(function* () {
        yield* checkName("ensureCollection", name)
        yield* checkShape("ensureCollection", name, shape, capabilities)
        const found = collections.get(name)
        if (found === undefined) {
          const info = { name, dimensions: shape.dimensions, metric: shape.metric }
          collections.set(name, { info, records: new Map() })
        } else if (found.info.dimensions !== shape.dimensions || found.info.metric !== shape.metric) {
          return yield* mismatch("ensureCollection", found.info, shape)
        }
      }),
    dropCollection: (name) => Effect.sync(() => collections.delete(name)),
    collections: Effect.sync(() =>
      [...collections.values()].map(({ info }) => ({ ...info })).sort((a, b) => compareIds(a.name, b.name))
    ),
    upsert: (name, records) =>
      Effect.gen(function* () {
        const collection = yield* collectionOf("upsert", name)
        for (const record of yield* checkRecords("upsert", collection.info, records)) {
          collection.records.set(record.id, {
            id: record.id,
            vector: Float32Array.from(record.vector),
            metadata: record.metadata,
            document: record.document
          })
        }
      }),
    get: (name, ids) =>
      Effect.map(collectionOf("get", name), ({ records }) =>
        ids.flatMap((id) => {
          const record = records.get(id)
          return record === undefined ? [] : [stored(record)]
        })
      ),
    query: (name, query) =>
      Effect.gen(function* () {
        const { info } = yield* collectionOf("query", name)
        const { limit, minScore } = yield* checkQuery(info, query)
        const { kept } = yield* filtered("query", name, query.filter)
        const vector = Float32Array.from(query.vector)
        return kept
          .map((record) => {
            const distance = distanceOf(info.metric, record.vector, vector)
            return { record, distance, score: scoreOf(info.metric, distance) }
          })
          .filter(({ score }) => score >= minScore)
          .sort((a, b) => a.distance - b.distance || compareIds(a.record.id, b.record.id))
          .slice(0, limit)
          .map(({ distance, record, score }): Match => {
            const { vector, ...rest } = stored(record)
            return { ...rest, score, distance, metric: info.metric, ...(query.includeVector ? { vector } : {}) }
          })
      }),
    delete: (name, ids) =>
      Effect.map(
        collectionOf("delete", name),
        ({ records }) => [...new Set(ids)].filter((id) => records.delete(id)).length
      ),
    deleteWhere: (name, filter) =>
      Effect.map(filtered("deleteWhere", name, filter), ({ collection, kept }) => {
        for (const record of kept) collection.records.delete(record.id)
        return kept.length
      }),
    deleteAll: (name) =>
      Effect.map(collectionOf("deleteAll", name), ({ records }) => {
        const count = records.size
        records.clear()
        return count
      }),
    count: (name, filter) => Effect.map(filtered("count", name, filter), ({ kept }) => kept.length),
    scroll: (name, options) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const size = yield* checkPageSize(name, options?.pageSize)
          const { kept } = yield* filtered("scroll", name, options?.filter)
          const ids = kept.map((record) => record.id).sort(compareIds)
          // What is deleted meanwhile is left out, what is replaced comes as it is then.
          return Stream.paginateChunkEffect(0, (from) =>
            Effect.map(filtered("scroll", name, options?.filter), ({ kept }) => {
              const now = new Map(kept.map((record) => [record.id, record]))
              const page = ids.slice(from, from + size).flatMap((id) => {
                const record = now.get(id)
                return record === undefined ? [] : [stored(record)]
              })
              const next = from + size
              return [Chunk.unsafeFromArray(page), next < ids.length ? Option.some(next) : Option.none()] as const
            })
          )
        })
      )
  })
})

/**
 * A store in this process as a layer.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<VectorStore> = Layer.effect(VectorStore, makeMemory)
