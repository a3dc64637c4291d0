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
import type { ConnectionError } from "../connection/Connection.ts"
import * as Embeddings from "./Embeddings.ts"
import * as TextSearch from "./TextSearch.ts"
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
 * How a collection is searched, chosen when it is made. `exact` reads all of it and never misses; `hnsw` is an approximate
 * index, which may miss some of the nearest: `m` links of a point (2 to 100), `efConstruction` candidates while building
 * (4 to 1000, at least twice `m`), `efSearch` candidates while searching (1 to 1000). What is left out is the store's own
 * choice. A store that is always exact takes `hnsw` too and stays exact.
 *
 * @since 0.1.0
 * @category models
 */
export type CollectionIndex =
  | { readonly kind: "exact" }
  | {
      readonly kind: "hnsw"
      readonly m?: number | undefined
      readonly efConstruction?: number | undefined
      readonly efSearch?: number | undefined
    }

/**
 * How a collection is made, if it has to be: nothing changes for one that is there.
 *
 * @since 0.1.0
 * @category models
 */
export interface CollectionOptions {
  readonly index?: CollectionIndex | undefined
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
 * Words to search documents for: the `limit` (10) best that pass `filter` and have at least one of the words of `text`.
 *
 * @since 0.1.0
 * @category models
 */
export interface TextQuery {
  readonly text: string
  readonly limit?: number | undefined
  readonly filter?: Filter.Filter | undefined
}

/**
 * A record found by its words. `score` is above zero, higher is better; it says nothing beside the scores of another
 * search.
 *
 * @since 0.1.0
 * @category models
 */
export interface TextMatch {
  readonly id: string
  readonly score: number
  readonly metadata: Metadata
  readonly document?: string
}

/**
 * A search by nearness and by words at once. Both give up to `candidates` (100, or `limit` if that is more) records, and
 * reciprocal rank fusion makes one list of the two: a record's score is the sum of `weight / (k + rank)` over the lists it
 * is in, ranks from 1, `k` 60, weights 1. `minScore` holds for the list by nearness. A list of weight 0 is not asked for.
 *
 * After Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods"
 * (2009).
 *
 * @since 0.1.0
 * @category models
 */
export interface HybridQuery extends Query {
  readonly text: string
  readonly candidates?: number | undefined
  readonly k?: number | undefined
  readonly weights?: { readonly vector?: number | undefined; readonly text?: number | undefined } | undefined
}

/**
 * A record found by a hybrid search: `score` is the fused one, at most `(weights.vector + weights.text) / (k + 1)`; the
 * ranks, from 1, say where it stood in the lists that it was in, and `similarity` is its score by nearness.
 *
 * @since 0.1.0
 * @category models
 */
export interface HybridMatch {
  readonly id: string
  readonly score: number
  readonly vectorRank?: number
  readonly textRank?: number
  readonly similarity?: number
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
  /** What `index` of `ensureCollection` may ask for. */
  readonly indexes: ReadonlyArray<CollectionIndex["kind"]>
  /** It searches documents for words itself (`searchText`); if not, `VectorStore.searchText` reads them. */
  readonly textSearch: boolean
  /** It fuses the two lists itself (`searchHybrid`); if not, `VectorStore.hybrid` does. */
  readonly hybrid: boolean
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
  "PermissionDenied",
  "Unavailable",
  "Timeout",
  "Throttled",
  "Conflict",
  "Closed",
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
  retryAfter: Schema.optionalWith(Schema.DurationFromSelf, { exact: true }),
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

  /** How policies treat it: they wait for rate limits, retry what is transient, and give up at once otherwise. */
  get errorClass(): "transient" | "rate-limited" | "permanent" {
    if (this.reason === "Throttled") return "rate-limited"
    return this.isRetryable ? "transient" : "permanent"
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
 *   fails with `CollectionMismatch`. Names are 3 to 512 of `a-z A-Z 0-9 . _ -`. An index that the store does not have
 *   is `Unsupported`.
 * - `upsert` writes records, each replacing the one of its id; of several with one id in a batch the last wins. One bad
 *   record fails the batch before anything is written.
 * - `get` gives the records that exist, in the order of `ids`.
 * - `query` gives matches by descending score, and by id where scores are equal.
 * - `delete`, `deleteWhere` and `deleteAll` give how many records went. Without a filter `deleteWhere` is `InvalidFilter`.
 * - `scroll` gives every record that is there throughout exactly once, whatever is written meanwhile.
 *
 * - `searchText` and `searchHybrid` are there where the store can do these itself. Call `VectorStore.searchText` and
 *   `VectorStore.hybrid`, which do without.
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
    readonly ensureCollection: (
      name: string,
      shape: CollectionShape,
      options?: CollectionOptions
    ) => Effect.Effect<void, VectorStoreError>
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
    readonly searchText?:
      | ((collection: string, query: TextQuery) => Effect.Effect<ReadonlyArray<TextMatch>, VectorStoreError>)
      | undefined
    readonly searchHybrid?:
      | ((collection: string, query: HybridQuery) => Effect.Effect<ReadonlyArray<HybridMatch>, VectorStoreError>)
      | undefined
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

const problemOfId = (id: unknown): string | undefined => {
  if (typeof id !== "string") return "an id must be a string"
  if (id === "") return "an id must not be empty"
  if (bytes.encode(id).length > 512) return "an id must not be longer than 512 bytes"
  return isStorableText(id) ? undefined : "an id must not hold NUL or half a surrogate pair"
}

const problemOfVector = (vector: ReadonlyArray<number>, metric: Metric): string | undefined => {
  let squares = 0
  for (const value of vector) {
    if (typeof value !== "number" || !Number.isFinite(Math.fround(value))) {
      return "a vector must hold finite 32-bit numbers"
    }
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
  isName(name)
    ? Effect.void
    : fail(
        "InvalidName",
        method,
        shownName(name),
        "a collection's name is 3 to 512 of the characters a-z A-Z 0-9 . _ -"
      )

/**
 * Whether a collection can have this name: 3 to 512 of `a-z A-Z 0-9 . _ -`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isName = (name: unknown): name is string =>
  typeof name === "string" && /^[a-zA-Z0-9._-]{3,512}$/.test(name)

// What untyped callers give as a name must not become an error about the error.
const shownName = (name: unknown): string => (typeof name === "string" ? name.slice(0, 512) : `(${typeof name})`)

/**
 * Fails with `CollectionNotFound` for a name that no collection can have, so that it gets into no statement and no path.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkKnownName = (method: string, name: string): Effect.Effect<void, VectorStoreError> =>
  isName(name) ? Effect.void : Effect.fail(notFound(method, shownName(name)))

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
  if (!isObject(shape)) return fail("InvalidRequest", method, name, "a shape has dimensions and a metric")
  if (!Number.isInteger(shape.dimensions) || shape.dimensions < 1 || shape.dimensions > capabilities.maxDimensions) {
    return fail("InvalidRequest", method, name, `dimensions must be a whole number, 1 to ${capabilities.maxDimensions}`)
  }
  return capabilities.metrics.includes(shape.metric)
    ? Effect.void
    : fail("Unsupported", method, name, `the metric ${String(shape.metric)} is not supported here`)
}

// Without narrowing: what is no array is refused, and what is one keeps its type.
const isArray = (value: unknown): boolean => Array.isArray(value)

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null

/**
 * Fails with `Unsupported` for an index that the store does not have, and with `InvalidRequest` for one whose numbers
 * are out of range.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkIndex = (
  method: string,
  name: string,
  options: CollectionOptions | undefined,
  capabilities: Capabilities
): Effect.Effect<void, VectorStoreError> => {
  const index = options?.index
  if (index === undefined) return Effect.void
  if (!isObject(index) || (index.kind !== "exact" && index.kind !== "hnsw")) {
    return fail("InvalidRequest", method, name, "an index is of kind exact or hnsw")
  }
  if (!capabilities.indexes.includes(index.kind)) {
    return fail("Unsupported", method, name, `an index of kind ${index.kind} is not supported here`)
  }
  if (index.kind === "exact") return Effect.void
  const within = (value: number | undefined, least: number, most: number) =>
    value === undefined || (Number.isInteger(value) && value >= least && value <= most)
  const problem = !within(index.m, 2, 100)
    ? "m must be a whole number, 2 to 100"
    : !within(index.efConstruction, 4, 1_000) || (index.efConstruction ?? 1_000) < 2 * (index.m ?? 2)
      ? "efConstruction must be a whole number, 4 to 1000, and at least twice m"
      : within(index.efSearch, 1, 1_000)
        ? undefined
        : "efSearch must be a whole number, 1 to 1000"
  return problem === undefined ? Effect.void : fail("InvalidRequest", method, name, problem)
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
    if (!isArray(records)) return fail("InvalidRequest", method, collection.name, "records must be an array")
    for (const [index, record] of records.entries()) {
      if (!isObject(record)) return fail("InvalidRecord", method, collection.name, `number ${index} is not a record`)
      const where =
        typeof record.id === "string" ? `record ${JSON.stringify(record.id.slice(0, 64))}` : `number ${index}`
      const invalid = (problem: string) => fail("InvalidRecord", method, collection.name, `${where}: ${problem}`)
      const idProblem = problemOfId(record.id)
      if (idProblem !== undefined) return invalid(idProblem)
      if (!isArray(record.vector)) return invalid("a vector must be an array of numbers: of others use Array.from")
      if (record.metadata !== undefined && (!isObject(record.metadata) || isArray(record.metadata))) {
        return invalid("metadata must be a record of strings, numbers and booleans")
      }
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
        if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") {
          return invalid(`the metadata value of ${JSON.stringify(key)} is not a string, number or boolean`)
        }
        metadata.push([key, value === 0 ? 0 : value])
      }
      if (record.document !== undefined && (typeof record.document !== "string" || !isStorableText(record.document))) {
        return invalid("the document is not a text, or holds NUL or half a surrogate pair")
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

/**
 * The same for `deleteWhere`, which must have a filter: without one, nothing may be deleted.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkDeleteFilter = (
  method: string,
  collection: string,
  filter: Filter.Filter
): Effect.Effect<void, VectorStoreError> =>
  isObject(filter)
    ? checkFilter(method, collection, filter)
    : fail("InvalidFilter", method, collection, "there is no filter: to delete everything use deleteAll")

/**
 * Checks the ids of `get` and `delete` and gives those that a record can have, in their order. Fails with
 * `InvalidRequest` unless they are an array of strings.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkIds = (
  method: string,
  collection: string,
  ids: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<string>, VectorStoreError> =>
  Effect.suspend(() =>
    isArray(ids) && ids.every((id) => typeof id === "string")
      ? Effect.succeed(ids.filter((id) => problemOfId(id) === undefined))
      : fail("InvalidRequest", method, collection, "ids must be an array of strings")
  )

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
    if (!isObject(query) || !isArray(query.vector)) {
      return fail("InvalidRequest", "query", collection.name, "a query has a vector, an array of numbers")
    }
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
        ? typeof minScore !== "number" || Number.isNaN(minScore)
          ? "minScore must be a number"
          : undefined
        : `limit must be a whole number, 1 to ${maxLimit}`)
    return problem === undefined
      ? Effect.as(checkFilter("query", collection.name, query.filter), { limit, minScore })
      : fail("InvalidRequest", "query", collection.name, problem)
  })

/**
 * Checks a search by words and gives its limit and the words to look for, each once; there may be none, and then
 * nothing is found.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkTextQuery = (
  collection: string,
  query: TextQuery
): Effect.Effect<{ readonly limit: number; readonly words: ReadonlyArray<string> }, VectorStoreError> =>
  Effect.suspend(() => {
    if (!isObject(query) || typeof query.text !== "string") {
      return fail("InvalidRequest", "searchText", collection, "a search by words has a text")
    }
    const limit = query.limit ?? 10
    return Number.isInteger(limit) && limit >= 1 && limit <= maxLimit
      ? Effect.map(checkFilter("searchText", collection, query.filter), () => ({
          limit,
          words: TextSearch.queryWords(query.text)
        }))
      : fail("InvalidRequest", "searchText", collection, `limit must be a whole number, 1 to ${maxLimit}`)
  })

/**
 * Checks what a hybrid search has beside its vector, filter and limits, and gives it with defaults filled in.
 *
 * @since 0.1.0
 * @category combinators
 */
export const checkHybrid = (
  collection: string,
  query: HybridQuery
): Effect.Effect<
  {
    readonly limit: number
    readonly candidates: number
    readonly k: number
    readonly vectorWeight: number
    readonly textWeight: number
    readonly words: ReadonlyArray<string>
  },
  VectorStoreError
> =>
  Effect.flatMap(checkTextQuery(collection, query), ({ limit, words }) => {
    const candidates = query.candidates ?? Math.max(100, limit)
    const k = query.k ?? 60
    const vectorWeight = query.weights?.vector ?? 1
    const textWeight = query.weights?.text ?? 1
    const isWeight = (weight: number) => Number.isFinite(weight) && weight >= 0
    const problem =
      Number.isInteger(candidates) && candidates >= 1 && candidates <= maxLimit
        ? Number.isFinite(k) && k >= 0
          ? isWeight(vectorWeight) && isWeight(textWeight) && vectorWeight + textWeight > 0
            ? undefined
            : "weights must be numbers from 0 up, and not both 0"
          : "k must be a number from 0 up"
        : `candidates must be a whole number, 1 to ${maxLimit}`
    return problem === undefined
      ? Effect.succeed({ limit, candidates, k, vectorWeight, textWeight, words })
      : fail("InvalidRequest", "hybrid", collection, problem)
  })

/**
 * The error of a connection as one of the store on it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fromConnectionError = (method: string, error: ConnectionError, collection?: string): VectorStoreError => {
  const reasonOf = (): VectorStoreErrorReason => {
    switch (error.reason) {
      case "Unavailable":
      case "Timeout":
      case "Throttled":
      case "Conflict":
      case "Unsupported":
      case "Authentication":
      case "PermissionDenied":
      case "Closed":
        return error.reason
      case "InvalidRequest":
      case "InvalidSettings":
      case "NotFound":
        return "InvalidRequest"
      case "MissingDriver":
        return "Unsupported"
      default:
        return "Unknown"
    }
  }
  return new VectorStoreError({
    reason: reasonOf(),
    method,
    ...(collection === undefined ? {} : { collection }),
    description: error.description,
    ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
    cause: error
  })
}

/**
 * Cuts items into batches of at most `maxCount` items and `maxBytes` bytes, in their order. An item that is larger by
 * itself is a batch of its own.
 *
 * @since 0.1.0
 * @category combinators
 */
export const batches = <A>(
  items: ReadonlyArray<A>,
  limits: { readonly maxCount: number; readonly maxBytes: number; readonly sizeOf: (item: A) => number }
): ReadonlyArray<ReadonlyArray<A>> => {
  const result: Array<Array<A>> = []
  let batch: Array<A> = []
  let bytes = 0
  for (const item of items) {
    const size = limits.sizeOf(item)
    if (batch.length > 0 && (batch.length >= limits.maxCount || bytes + size > limits.maxBytes)) {
      result.push(batch)
      batch = []
      bytes = 0
    }
    batch.push(item)
    bytes += size
  }
  if (batch.length > 0) result.push(batch)
  return result
}

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
    maxDimensions: 65_536,
    indexes: ["exact", "hnsw"],
    textSearch: true,
    hybrid: false
  }

  const collectionOf = (method: string, name: string): Effect.Effect<MemoryCollection, VectorStoreError> =>
    Effect.suspend(() => {
      const collection = collections.get(name)
      return collection === undefined ? Effect.fail(notFound(method, shownName(name))) : Effect.succeed(collection)
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
    ensureCollection: (name, shape, options) =>
      Effect.gen(function* () {
        yield* checkName("ensureCollection", name)
        yield* checkShape("ensureCollection", name, shape, capabilities)
        yield* checkIndex("ensureCollection", name, options, capabilities)
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
      Effect.flatMap(collectionOf("get", name), ({ records }) =>
        Effect.map(checkIds("get", name, ids), (ids) =>
          ids.flatMap((id) => {
            const record = records.get(id)
            return record === undefined ? [] : [stored(record)]
          })
        )
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
      Effect.flatMap(collectionOf("delete", name), ({ records }) =>
        Effect.map(checkIds("delete", name, ids), (ids) => [...new Set(ids)].filter((id) => records.delete(id)).length)
      ),
    deleteWhere: (name, filter) =>
      Effect.zipRight(
        checkDeleteFilter("deleteWhere", name, filter),
        Effect.map(filtered("deleteWhere", name, filter), ({ collection, kept }) => {
          for (const record of kept) collection.records.delete(record.id)
          return kept.length
        })
      ),
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
      ),
    searchText: (name, query) =>
      Effect.gen(function* () {
        yield* collectionOf("searchText", name)
        const { limit, words } = yield* checkTextQuery(name, query)
        if (words.length === 0) return []
        const { collection, kept } = yield* filtered("searchText", name, query.filter)
        const ranking = TextSearch.ranking(words)
        for (const record of kept) if (record.document !== undefined) ranking.add(record.id, record.document)
        return best(ranking.scores(), limit).flatMap(({ id, score }): ReadonlyArray<TextMatch> => {
          const record = collection.records.get(id)
          if (record === undefined) return []
          const { vector: _, ...rest } = stored(record)
          return [{ ...rest, score }]
        })
      })
  })
})

/**
 * A store in this process as a layer.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<VectorStore> = Layer.effect(VectorStore, makeMemory)

// ---------------------------------------------------------------------------------------------------------------------
// By words, by both, by text
// ---------------------------------------------------------------------------------------------------------------------

type Store = Context.Tag.Service<VectorStore>

interface Scored {
  readonly id: string
  readonly score: number
}

const best = <A extends Scored>(scored: ReadonlyArray<A>, limit: number): ReadonlyArray<A> =>
  [...scored].sort((a, b) => b.score - a.score || compareIds(a.id, b.id)).slice(0, limit)

const most = 100_000

/**
 * The records whose documents have a word of `text`, the best first, by BM25 over the words that `TextSearch` describes.
 *
 * A store that can, does it (`capabilities.textSearch`). From others the documents that pass the filter are read, all of
 * them, and ranked here: for small collections. Of more than `maxScan` records (100,000) it fails with `Unsupported`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const searchText = (
  store: Store,
  options: TextQuery & { readonly collection: string; readonly maxScan?: number | undefined }
): Effect.Effect<ReadonlyArray<TextMatch>, VectorStoreError> => {
  const { collection, maxScan = most, ...query } = options
  if (store.searchText !== undefined) return store.searchText(collection, query)
  return Effect.gen(function* () {
    const { limit, words } = yield* checkTextQuery(collection, query)
    if (words.length === 0) {
      // That the collection is there has to be seen all the same.
      yield* store.get(collection, [])
      return []
    }
    const ranking = TextSearch.ranking(words)
    let scanned = 0
    yield* Stream.runForEach(store.scroll(collection, { filter: query.filter }), (record) => {
      if (++scanned > maxScan) {
        return fail(
          "Unsupported",
          "searchText",
          collection,
          `this store does not search for words itself, and there are more than ${maxScan} records to read: ` +
            "narrow the search by a filter, raise maxScan, or use a store that has capabilities.textSearch"
        )
      }
      if (record.document !== undefined) ranking.add(record.id, record.document)
      return Effect.void
    })
    const scored = best(ranking.scores(), limit)
    const records = yield* store.get(
      collection,
      scored.map(({ id }) => id)
    )
    const byId = new Map(records.map((record) => [record.id, record]))
    return scored.flatMap(({ id, score }): ReadonlyArray<TextMatch> => {
      const record = byId.get(id)
      // Deleted meanwhile.
      if (record === undefined) return []
      const { vector: _, ...rest } = record
      return [{ ...rest, score }]
    })
  })
}

/**
 * Makes one ranking of several by reciprocal rank fusion: the sum of `weight / (k + rank)` over the lists that an id is
 * in, ranks from 1. Gives the ids by descending score, and by id where scores are equal, each with its rank in every
 * list. An id that a list has twice counts where it comes first.
 *
 * @since 0.1.0
 * @category combinators
 */
export const reciprocalRankFusion = (
  lists: ReadonlyArray<{ readonly ids: ReadonlyArray<string>; readonly weight?: number | undefined }>,
  k = 60
): ReadonlyArray<{
  readonly id: string
  readonly score: number
  readonly ranks: ReadonlyArray<number | undefined>
}> => {
  const ranks = new Map<string, Array<number | undefined>>()
  lists.forEach(({ ids }, list) => {
    ids.forEach((id, index) => {
      const of = ranks.get(id) ?? lists.map(() => undefined)
      of[list] ??= index + 1
      ranks.set(id, of)
    })
  })
  const fused = [...ranks].map(([id, ranks]) => ({
    id,
    ranks,
    score: ranks.reduce<number>(
      (sum, rank, list) => (rank === undefined ? sum : sum + (lists[list]?.weight ?? 1) / (k + rank)),
      0
    )
  }))
  return best(fused, fused.length)
}

/**
 * A search by nearness and by words at once, as `HybridQuery` describes it.
 *
 * A store that can, does it in one step (`capabilities.hybrid`). For others a vector query and `searchText` are asked at
 * once and fused here; the answer is the same.
 *
 * @since 0.1.0
 * @category combinators
 */
export const hybrid = (
  store: Store,
  options: HybridQuery & { readonly collection: string; readonly maxScan?: number | undefined }
): Effect.Effect<ReadonlyArray<HybridMatch>, VectorStoreError> => {
  const { collection, maxScan, ...query } = options
  return store.searchHybrid === undefined
    ? fusedHere(store, collection, query, maxScan)
    : store.searchHybrid(collection, query)
}

const fusedHere = Effect.fnUntraced(function* (
  store: Store,
  collection: string,
  query: HybridQuery,
  maxScan: number | undefined
): Effect.fn.Return<ReadonlyArray<HybridMatch>, VectorStoreError> {
  const { candidates, k, limit, textWeight, vectorWeight } = yield* checkHybrid(collection, query)
  const { filter, includeVector, minScore, text, vector } = query
  const [near, worded] = yield* Effect.all(
    [
      vectorWeight === 0
        ? Effect.succeed([])
        : store.query(collection, { vector, filter, minScore, includeVector, limit: candidates }),
      textWeight === 0
        ? Effect.succeed([])
        : searchText(store, { collection, text, filter, maxScan, limit: candidates })
    ],
    { concurrency: "unbounded" }
  )
  const nearById = new Map(near.map((match) => [match.id, match]))
  const wordedById = new Map(worded.map((match) => [match.id, match]))
  const fused = reciprocalRankFusion(
    [
      { ids: near.map(({ id }) => id), weight: vectorWeight },
      { ids: worded.map(({ id }) => id), weight: textWeight }
    ],
    k
  ).slice(0, limit)
  const without = includeVector === true ? fused.filter(({ id }) => !nearById.has(id)).map(({ id }) => id) : []
  const vectors = new Map(
    (without.length === 0 ? [] : yield* store.get(collection, without)).map((record) => [record.id, record.vector])
  )
  return fused.flatMap(({ id, ranks: [vectorRank, textRank], score }): ReadonlyArray<HybridMatch> => {
    const match = nearById.get(id)
    const record = match ?? wordedById.get(id)
    if (record === undefined) return []
    const own = match?.vector ?? vectors.get(id)
    return [
      {
        id,
        score,
        ...(vectorRank === undefined ? {} : { vectorRank }),
        ...(textRank === undefined ? {} : { textRank }),
        ...(match === undefined ? {} : { similarity: match.score }),
        metadata: record.metadata,
        ...(record.document === undefined ? {} : { document: record.document }),
        ...(includeVector === true && own !== undefined ? { vector: own } : {})
      }
    ]
  })
})

/**
 * A record whose vector is yet to be made of its text, which becomes its document.
 *
 * @since 0.1.0
 * @category models
 */
export interface TextRecord {
  readonly id: string
  readonly text: string
  readonly metadata?: Metadata | undefined
}

const infoOf = (
  store: Store,
  method: string,
  collection: string,
  embeddings: Context.Tag.Service<Embeddings.Embeddings>
): Effect.Effect<CollectionInfo, VectorStoreError> =>
  Effect.flatMap(store.collections, (all) => {
    const info = all.find(({ name }) => name === collection)
    if (info === undefined) return Effect.fail(notFound(method, shownName(collection)))
    return info.dimensions === embeddings.dimensions
      ? Effect.succeed(info)
      : fail("DimensionMismatch", method, collection, differ(embeddings, info.dimensions))
  })

const differ = (embeddings: Context.Tag.Service<Embeddings.Embeddings>, dimensions: number | undefined): string =>
  `the embeddings of ${embeddings.model} have ${embeddings.dimensions} dimensions, the collection ` +
  `${dimensions ?? "others"}: make the collection for this model, or use the model that it was made for`

/**
 * Embeds texts and writes them: `batchSize` (128) texts are embedded and written at a time, in order. Ids, metadata, texts
 * and dimensions are checked before any is embedded; of several texts with one id the last wins. When it fails or is
 * interrupted in the middle, the batches before are written.
 *
 * A text without anything but spaces is `InvalidRecord`. Vectors of two models cannot be compared, though their dimensions
 * be equal: keep to one model for a collection.
 *
 * @since 0.1.0
 * @category combinators
 */
export const upsertTexts = Effect.fnUntraced(function* (options: {
  readonly collection: string
  readonly records: ReadonlyArray<TextRecord>
  readonly batchSize?: number | undefined
}): Effect.fn.Return<void, VectorStoreError | Embeddings.EmbeddingsError, VectorStore | Embeddings.Embeddings> {
  const store = yield* VectorStore
  const embeddings = yield* Embeddings.Embeddings
  const { batchSize = 128, collection, records } = options
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    return yield* fail("InvalidRequest", "upsertTexts", collection, "batchSize must be a whole number from 1 up")
  }
  if (!isArray(records)) {
    return yield* fail("InvalidRequest", "upsertTexts", collection, "records must be an array")
  }
  const info = yield* infoOf(store, "upsertTexts", collection, embeddings)
  // Whatever the text, the vector will have as many numbers: the rest can be checked before it is paid for.
  const instead = Array.from({ length: info.dimensions }, () => 1)
  const checked = yield* checkRecords(
    "upsertTexts",
    info,
    records.map((record: TextRecord) => {
      if (!isObject(record)) return record
      const { id, metadata, text } = record
      return { id, vector: instead, document: text, ...(metadata === undefined ? {} : { metadata }) }
    })
  )
  const blank = checked.find(({ document }) => document === undefined || document.trim() === "")
  if (blank !== undefined) {
    const where = `record ${JSON.stringify(blank.id.slice(0, 64))}`
    return yield* fail("InvalidRecord", "upsertTexts", collection, `${where}: there is no text to embed`)
  }
  for (let from = 0; from < checked.length; from += batchSize) {
    const batch = checked.slice(from, from + batchSize)
    const vectors = yield* embeddings.embedMany(batch.map(({ document }) => document ?? ""))
    yield* store.upsert(
      collection,
      batch.map((record, index) => ({ ...record, vector: vectors[index] ?? [] }))
    )
  }
})

const embedded = <A>(
  method: string,
  collection: string,
  text: string,
  use: (store: Store, vector: ReadonlyArray<number>) => Effect.Effect<A, VectorStoreError>
): Effect.Effect<A, VectorStoreError | Embeddings.EmbeddingsError, VectorStore | Embeddings.Embeddings> =>
  Effect.gen(function* () {
    const store = yield* VectorStore
    const embeddings = yield* Embeddings.Embeddings
    if (typeof text !== "string" || text.trim() === "") {
      return yield* fail("InvalidRequest", method, collection, "there is no text to embed")
    }
    const vector = yield* embeddings.embed(text)
    return yield* Effect.mapError(use(store, vector), (error) =>
      error.reason === "DimensionMismatch"
        ? new VectorStoreError({
            ...error,
            ...(error.cause === undefined ? {} : { cause: error.cause }),
            method,
            description: `${error.description}; ${differ(embeddings, undefined)}`
          })
        : error
    )
  })

/**
 * Embeds a text and gives the records nearest to it: `query` by what a text means.
 *
 * @since 0.1.0
 * @category combinators
 */
export const queryText = (
  options: Omit<Query, "vector"> & { readonly collection: string; readonly text: string }
): Effect.Effect<
  ReadonlyArray<Match>,
  VectorStoreError | Embeddings.EmbeddingsError,
  VectorStore | Embeddings.Embeddings
> => {
  const { collection, text, ...query } = options
  return embedded("queryText", collection, text, (store, vector) => store.query(collection, { ...query, vector }))
}

/**
 * Embeds a text and searches by it in both ways at once: `hybrid` by a text alone.
 *
 * @since 0.1.0
 * @category combinators
 */
export const hybridText = (
  options: Omit<HybridQuery, "vector"> & { readonly collection: string; readonly maxScan?: number | undefined }
): Effect.Effect<
  ReadonlyArray<HybridMatch>,
  VectorStoreError | Embeddings.EmbeddingsError,
  VectorStore | Embeddings.Embeddings
> => embedded("hybridText", options.collection, options.text, (store, vector) => hybrid(store, { ...options, vector }))
