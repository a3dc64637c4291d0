/**
 * The port `VectorStore` on Qdrant, over its HTTP API.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import {
  type Connection,
  type ConnectionError,
  configOfSchema,
  Fields,
  type Kind,
  kindOf
} from "@underlay/core/connection/Connection"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Chunk from "effect/Chunk"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as HttpConnection from "../internal/http/httpConnection.ts"
import * as FloatText from "../internal/vector/floatText.ts"
import * as QdrantFilter from "../internal/vector/qdrantFilter.ts"
import * as RemoteConnection from "../internal/vector/remoteConnection.ts"
import * as Remote from "../internal/vector/remoteStore.ts"

/**
 * What Qdrant looks up by an index: texts as they are (`keyword`), numbers, booleans.
 *
 * @since 0.1.0
 * @category models
 */
export type PayloadIndex = "keyword" | "number" | "boolean"

/**
 * @since 0.1.0
 * @category models
 */
export interface QdrantSettings extends RemoteConnection.Settings {
  /** `http://localhost:6333` or `https://….cloud.qdrant.io:6333`. */
  readonly url: string | URL
  /** Sent as the header `api-key`. */
  readonly apiKey?: Redacted.Redacted | undefined
  /**
   * The ids of points. Qdrant knows whole numbers and UUIDs only. `hashed` makes a UUID (version 5) of every id and keeps
   * the id in the payload; `native` lets whole numbers up to 2^53 - 1 and lower-case UUIDs be the points' own ids, as
   * other programs see them, and hashes the others: hashed. A collection has to be used with one of the two.
   */
  readonly ids?: "hashed" | "native" | undefined
  /** Every search reads the whole collection and misses nothing: off. */
  readonly exact?: boolean | undefined
  /** Candidates while searching by an index: the server's choice, or what the collection was made with. */
  readonly efSearch?: number | undefined
  /** Metadata keys that get an index of their own in collections that are ensured: filters by them are fast. */
  readonly payloadIndexes?: Readonly<Record<string, PayloadIndex>> | undefined
  /** New collections keep their vectors on disk: off. */
  readonly onDisk?: boolean | undefined
  /** Shards of new collections: the server's choice. */
  readonly shardNumber?: number | undefined
  /** Copies of every shard of new collections: the server's choice. */
  readonly replicationFactor?: number | undefined
  /** How many records a request writes at the most: 1,000. */
  readonly batchSize?: number | undefined
  /** How large a request that writes is at the most, in bytes: 16 MB. The server takes 32 MB by default. */
  readonly batchBytes?: number | undefined
}

type Store = RemoteConnection.Store

/**
 * A connection with the store on it.
 *
 * @since 0.1.0
 * @category models
 */
export interface QdrantConnection extends Connection<Store> {
  readonly store: Store
}

/**
 * Qdrant as a connection: health, statistics, and the store.
 *
 * @since 0.1.0
 * @category tags
 */
export class Qdrant extends Context.Tag("@underlay/connections/Qdrant")<Qdrant, QdrantConnection>() {}

const kindName = "qdrant"

const distances = { cosine: "Cosine", l2: "Euclid", dot: "Dot" } as const

const metricOf = (distance: unknown): VectorStore.Metric | undefined => {
  switch (distance) {
    case "Cosine":
      return "cosine"
    case "Euclid":
      return "l2"
    case "Dot":
      return "dot"
    default:
      return undefined
  }
}

interface Collection extends VectorStore.CollectionInfo {
  readonly efSearch: number | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Names, ids, points
// ---------------------------------------------------------------------------------------------------------------------

const maxNameLength = 255
const ownMetadata = "underlay"

/** The name on the server, which takes 255 characters of the 512 that the port promises. */
const nameThere = (name: string): string =>
  name.length <= maxNameLength ? name : `${name.slice(0, 160)}.${createHash("sha256").update(name).digest("hex")}`

const pathOf = (name: string, rest = ""): string => `/collections/${nameThere(name)}${rest}`

const idKey = "_id"
const documentKey = "document"
const vectorKey = "_vector"
const scaleKey = "_scale"

// The namespace of our ids, as RFC 4122 wants one for names.
const namespace = Buffer.from("6f0c2fc14d5b4d0e9c2a7b1d3e5f8a90", "hex")

const uuidOf = (id: string): string => {
  const hash = createHash("sha1").update(namespace).update(id, "utf8").digest()
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x50
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80
  const hex = hash.toString("hex", 0, 16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

const isUuid = (id: string): boolean => /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(id)

const hashedId = (id: string): string | number => uuidOf(id)

const nativeId = (id: string): string | number => {
  if (isUuid(id)) return id
  const number = /^(0|[1-9][0-9]{0,15})$/.test(id) ? Number(id) : Number.NaN
  return Number.isSafeInteger(number) ? number : uuidOf(id)
}

/**
 * A vector's length is one, so exactly that the server leaves it as it is: within 1e-6, as it adds up in 32 bits. In which
 * order it adds is the machine's; one after the other is the least exact.
 */
const isUnit = (vector: ReadonlyArray<number>, squares: number): boolean => {
  if (!(Math.abs(squares - 1) <= 3e-7)) return false
  let rounded = 0
  for (const value of vector) rounded = Math.fround(rounded + Math.fround(Math.fround(value) * Math.fround(value)))
  return Math.abs(rounded - 1) <= 9e-7
}

/** The server takes a short vector for none, and does not make its length one. */
const isMeasurable = (squares: number): boolean => squares > 1e-4 && squares < 1e34

const squaresOf = (vector: ReadonlyArray<number>): number => {
  let squares = 0
  for (const value of vector) squares += value * value
  return squares
}

const shortened = (vector: ReadonlyArray<number>, squares: number): ReadonlyArray<number> => {
  const length = Math.sqrt(squares)
  return vector.map((value) => value / length)
}

const payloadMetadata = (metadata: VectorStore.Metadata): VectorStore.Metadata => {
  for (const key of Object.keys(metadata)) {
    if (QdrantFilter.keyOf(key) !== key) {
      return Object.fromEntries(Object.entries(metadata).map(([key, value]) => [QdrantFilter.keyOf(key), value]))
    }
  }
  return metadata
}

interface Sent {
  readonly vector: ReadonlyArray<number>
  /** What gives the vector back as it was. */
  readonly kept?: Readonly<Record<string, string>>
}

/**
 * A vector as the server is to have it. Under the cosine metric it keeps vectors with the length one only, so others are
 * sent with that, and what they were is kept beside them: by their length, or whole where that does not give them back.
 */
const sent = (vector: ReadonlyArray<number>, metric: VectorStore.Metric): Sent => {
  if (metric !== "cosine") return { vector }
  const squares = squaresOf(vector)
  if (isUnit(vector, squares)) return { vector }
  const scaled = Remote.scaled(vector)
  if (scaled !== undefined && isUnit(scaled.unit, squaresOf(scaled.unit))) {
    return { vector: scaled.unit, kept: { [scaleKey]: scaled.scale } }
  }
  return {
    vector: isMeasurable(squares) ? vector : shortened(vector, squares),
    kept: { [vectorKey]: Remote.encodeFloats(vector) }
  }
}

/** A record as a point, in JSON. */
const pointOf = (
  record: VectorStore.StoredRecord,
  metric: VectorStore.Metric,
  idOf: (id: string) => string | number
): string => {
  const { kept, vector } = sent(record.vector, metric)
  const payload = {
    [idKey]: record.id,
    [QdrantFilter.metadataKey]: payloadMetadata(record.metadata),
    ...(record.document === undefined ? {} : { [documentKey]: record.document }),
    ...kept
  }
  return (
    `{"id":${JSON.stringify(idOf(record.id))},"vector":${FloatText.write(vector)},` +
    `"payload":${JSON.stringify(payload)}}`
  )
}

/** What a record takes in JSON, rather too much than too little. */
const sizeOf = (record: VectorStore.StoredRecord): number => {
  let size = record.vector.length * 28 + Remote.sizeOfText(record.id) + Remote.sizeOfText(record.document ?? "") + 150
  for (const key of Object.keys(record.metadata)) {
    const value = record.metadata[key]
    size += Remote.sizeOfText(key) + (typeof value === "string" ? Remote.sizeOfText(value) : 25)
  }
  return size
}

const metadataOf = (payload: unknown): VectorStore.Metadata => {
  const found = Remote.at(payload, QdrantFilter.metadataKey)
  if (!Remote.isObject(found)) return {}
  const metadata: Array<readonly [string, VectorStore.Filter.Value]> = []
  for (const [key, value] of Object.entries(found)) {
    if (Remote.isValue(value)) metadata.push([QdrantFilter.keyFrom(key), value])
  }
  return Object.fromEntries(metadata)
}

interface Point {
  readonly id: string
  readonly point: string | number
  readonly payload: unknown
  readonly given: unknown
}

const pointFrom = (given: unknown): Point | undefined => {
  const point = Remote.at(given, "id")
  if (typeof point !== "string" && typeof point !== "number") return undefined
  const payload = Remote.at(given, "payload")
  const id = Remote.at(payload, idKey)
  // one that another program wrote
  return { id: typeof id === "string" ? id : String(point), point, payload, given }
}

const vectorOf = ({ given, payload }: Point): ReadonlyArray<number> | undefined => {
  const original = Remote.at(payload, vectorKey)
  if (typeof original === "string") return Remote.decodeFloats(original)
  const vector = Remote.floatsOf(Remote.at(given, "vector"))
  const scale = Remote.at(payload, scaleKey)
  return vector === undefined || typeof scale !== "string" ? vector : Remote.unscaled(vector, scale)
}

const documentOf = (payload: unknown): { readonly document?: string } => {
  const document = Remote.at(payload, documentKey)
  return typeof document === "string" ? { document } : {}
}

const resultOf = (answer: unknown): unknown => Remote.at(answer, "result")

/** What an answer says, without what was sent: the server repeats parts of a request that it does not understand. */
const errorOf = (status: number, body: unknown): HttpConnection.ServiceError => {
  const said = Remote.at(Remote.at(body, "status"), "error")
  const text = typeof said === "string" ? said : ""
  if (status === 404 && /^Not found: Collection .* doesn't exist/.test(text)) {
    return { reason: "NotFound", code: Remote.collectionNotFound, description: "there is no such collection" }
  }
  if (/Collection .* already exists/.test(text)) {
    return { reason: "Conflict", code: "AlreadyExists", description: "a collection of this name is there already" }
  }
  const dimensions = /Vector dimension error: expected dim: (\d+), got (\d+)/.exec(text)
  if (dimensions !== null) {
    return {
      reason: "InvalidRequest",
      code: Remote.dimensionMismatch,
      description: `the collection has ${dimensions[1]} dimensions, the vector ${dimensions[2]}`
    }
  }
  if (/Index required but not found/.test(text)) {
    return {
      reason: "InvalidRequest",
      description: "the server is strict and filters by indexed keys only: name the keys in payloadIndexes"
    }
  }
  if (status === 413 || /larger than allowed/.test(text)) {
    return { reason: "InvalidRequest", description: "the request is too large for the server: lower batchBytes" }
  }
  if (status === 507) {
    return { reason: "Unavailable", description: "the server has no room left" }
  }
  return {}
}

// ---------------------------------------------------------------------------------------------------------------------
// The store
// ---------------------------------------------------------------------------------------------------------------------

const idsAtOnce = 5_000

const makeStore = (http: HttpConnection.HttpConnection, settings: QdrantSettings): Store => {
  const send = Remote.sender(http)
  const idOf = settings.ids === "native" ? nativeId : hashedId
  const twice = { idempotent: true }
  const capabilities: VectorStore.Capabilities = {
    persistent: true,
    exact: settings.exact === true,
    atomicBatches: false,
    metrics: ["cosine", "l2", "dot"],
    maxDimensions: 65_536,
    indexes: ["exact", "hnsw"],
    textSearch: false,
    hybrid: false
  }

  const infoOf = (name: string, answer: unknown): Collection | undefined => {
    const config = Remote.at(resultOf(answer), "config")
    const vectors = Remote.at(Remote.at(config, "params"), "vectors")
    const dimensions = Remote.at(vectors, "size")
    const metric = metricOf(Remote.at(vectors, "distance"))
    const own = Remote.at(Remote.at(config, "metadata"), ownMetadata)
    const efSearch = Remote.at(own, "efSearch")
    const called = Remote.at(own, "name")
    return typeof dimensions !== "number" || metric === undefined
      ? undefined
      : {
          name: typeof called === "string" ? called : name,
          dimensions,
          metric,
          efSearch: typeof efSearch === "number" ? efSearch : undefined
        }
  }

  const describe = (method: string, path: string, name?: string): Effect.Effect<unknown, Remote.Fail> =>
    Effect.flatMap(send("Qdrant.getCollection", "GET", path, undefined, Remote.orMissing), (answer) =>
      Remote.present(method, name, answer, Remote.isObject(resultOf(answer)), errorOf)
    )

  const { forget, withCollection } = Remote.knowledge<Collection>((method, name) =>
    Effect.flatMap(
      describe(method, pathOf(name), name),
      (answer): Effect.Effect<Collection | undefined, Remote.Fail> => {
        if (answer === undefined) return Effect.succeed(undefined)
        const info = infoOf(name, answer)
        return info === undefined ? foreign(method, name) : Effect.succeed({ ...info, name })
      }
    )
  )

  const foreign = (method: string, name: string) =>
    new VectorStore.VectorStoreError({
      reason: "Unsupported",
      method,
      collection: name,
      description: "this collection has named vectors, or a distance of another kind: it was made by another program"
    })

  /** For what needs no shape: the name goes to the server, which says whether it is there. */
  const onCollection = <A>(
    method: string,
    name: string,
    run: () => Effect.Effect<A, Remote.Fail>
  ): Effect.Effect<A, VectorStore.VectorStoreError> =>
    Effect.flatMap(VectorStore.checkKnownName(method, name), run).pipe(Remote.typed(method, name))

  const completed = (
    method: string,
    name: string,
    answer: unknown
  ): Effect.Effect<void, VectorStore.VectorStoreError> =>
    Remote.at(resultOf(answer), "status") === "completed"
      ? Effect.void
      : new VectorStore.VectorStoreError({
          reason: "Timeout",
          method,
          collection: name,
          description: "the server has accepted the write and not yet done it: it will be seen later"
        })

  const counted = (method: string, name: string, filter: QdrantFilter.QdrantFilter | undefined) =>
    Effect.flatMap(
      send("Qdrant.count", "POST", pathOf(name, "/points/count"), JSON.stringify({ filter, exact: true }), twice),
      (answer) => {
        const count = Remote.at(resultOf(answer), "count")
        return typeof count === "number"
          ? Effect.succeed(count)
          : Effect.fail(Remote.unexpected(method, name, "there is no count"))
      }
    )

  const removed = (
    method: string,
    name: string,
    filter: QdrantFilter.QdrantFilter,
    selector: unknown,
    idempotent: boolean
  ): Effect.Effect<number, Remote.Fail> =>
    Effect.flatMap(counted(method, name, filter), (count) =>
      count === 0
        ? Effect.succeed(0)
        : Effect.flatMap(
            send("Qdrant.delete", "POST", pathOf(name, "/points/delete?wait=true"), JSON.stringify(selector), {
              idempotent
            }),
            (answer) => Effect.as(completed(method, name, answer), count)
          )
    )

  const pointsOf = (
    method: string,
    name: string,
    given: unknown
  ): Effect.Effect<ReadonlyArray<Point>, VectorStore.VectorStoreError> => {
    if (!Remote.isArray(given)) return Effect.fail(Remote.unexpected(method, name, "there are no points"))
    const points: Array<Point> = []
    for (const each of given) {
      const point = pointFrom(each)
      if (point === undefined) return Effect.fail(Remote.unexpected(method, name, "a point has no id"))
      points.push(point)
    }
    return Effect.succeed(points)
  }

  const recordOf = (
    method: string,
    name: string,
    point: Point
  ): Effect.Effect<VectorStore.StoredRecord, VectorStore.VectorStoreError> => {
    const vector = vectorOf(point)
    return vector === undefined
      ? Effect.fail(Remote.unexpected(method, name, "a point has no vector"))
      : Effect.succeed({ id: point.id, vector, metadata: metadataOf(point.payload), ...documentOf(point.payload) })
  }

  const read = (method: string, name: string, ids: ReadonlyArray<string>) => {
    // an id twice is asked for once
    const wanted = new Map(ids.map((id) => [idOf(id), id]))
    const body = { ids: [...wanted.keys()], with_payload: true, with_vector: true }
    return send("Qdrant.retrieve", "POST", pathOf(name, "/points"), JSON.stringify(body), twice).pipe(
      Effect.flatMap((answer) => pointsOf(method, name, resultOf(answer))),
      Effect.flatMap((points) =>
        Effect.forEach(points, (point) => {
          const id = wanted.get(point.point)
          return id === undefined || id === point.id
            ? recordOf(method, name, point)
            : Effect.fail(
                new VectorStore.VectorStoreError({
                  reason: "Unknown",
                  method,
                  collection: name,
                  description: "two ids have the same hash, or the point was written with another setting of ids"
                })
              )
        })
      )
    )
  }

  const search = (collection: Collection, query: VectorStore.Query, minScore: number) => {
    const { metric, name } = collection
    const squares = metric === "cosine" ? squaresOf(query.vector) : 1
    const efSearch = settings.efSearch ?? collection.efSearch
    const threshold = thresholdOf(metric, minScore)
    const vector = isMeasurable(squares) ? query.vector : shortened(query.vector, squares)
    const rest = JSON.stringify({
      with_payload: metric === "cosine" && query.includeVector !== true ? { exclude: [vectorKey, scaleKey] } : true,
      with_vector: query.includeVector === true,
      ...(query.filter === undefined ? {} : { filter: QdrantFilter.compile(query.filter) }),
      ...(threshold === undefined ? {} : { score_threshold: threshold }),
      ...(settings.exact === true
        ? { params: { exact: true } }
        : efSearch === undefined
          ? {}
          : { params: { hnsw_ef: efSearch } })
    }).slice(1, -1)
    const head = `{"query":${FloatText.write(vector)},${rest}`
    return (limit: number) =>
      send("Qdrant.query", "POST", pathOf(name, "/points/query"), `${head},"limit":${limit}}`, twice).pipe(
        Effect.flatMap((answer) => pointsOf("query", name, Remote.at(resultOf(answer), "points"))),
        Effect.flatMap((points): Effect.Effect<ReadonlyArray<VectorStore.Match>, VectorStore.VectorStoreError> => {
          const matches: Array<VectorStore.Match> = []
          for (const point of points) {
            const reported = Remote.at(point.given, "score")
            const vector = query.includeVector === true ? vectorOf(point) : []
            if (typeof reported !== "number" || vector === undefined) {
              return Effect.fail(Remote.unexpected("query", name, "a point has no score or no vector"))
            }
            const distance = distanceOf(metric, reported)
            matches.push({
              id: point.id,
              score: VectorStore.scoreOf(metric, distance),
              distance,
              metric,
              metadata: metadataOf(point.payload),
              ...documentOf(point.payload),
              ...(query.includeVector === true ? { vector } : {})
            })
          }
          return Effect.succeed(matches)
        })
      )
  }

  const same = (found: Collection, shape: VectorStore.CollectionShape) =>
    found.dimensions === shape.dimensions && found.metric === shape.metric
      ? Effect.void
      : VectorStore.mismatch("ensureCollection", found, shape)

  const indexed = (name: string, answer: unknown): Effect.Effect<void, ConnectionError> => {
    const there = Remote.at(resultOf(answer), "payload_schema")
    const wanted = Object.entries(settings.payloadIndexes ?? {}).filter(
      ([key]) => Remote.at(there, QdrantFilter.pathOf(key)) === undefined
    )
    return Effect.forEach(
      wanted,
      ([key, type]) =>
        send(
          "Qdrant.createIndex",
          "PUT",
          pathOf(name, "/index?wait=true"),
          JSON.stringify({ field_name: QdrantFilter.pathOf(key), field_schema: schemaOf[type] }),
          twice
        ),
      { discard: true }
    )
  }

  const create = (name: string, shape: VectorStore.CollectionShape, index: VectorStore.CollectionIndex | undefined) => {
    const efSearch = index?.kind === "hnsw" ? index.efSearch : undefined
    const own = {
      ...(nameThere(name) === name ? {} : { name }),
      ...(efSearch === undefined ? {} : { efSearch })
    }
    const body = {
      vectors: {
        size: shape.dimensions,
        distance: distances[shape.metric],
        ...(settings.onDisk === undefined ? {} : { on_disk: settings.onDisk })
      },
      // without links there is no index, and every search reads all
      ...(index?.kind === "exact" ? { hnsw_config: { m: 0 } } : {}),
      ...(index?.kind === "hnsw" && (index.m !== undefined || index.efConstruction !== undefined)
        ? {
            hnsw_config: {
              ...(index.m === undefined ? {} : { m: index.m }),
              ...(index.efConstruction === undefined ? {} : { ef_construct: index.efConstruction })
            }
          }
        : {}),
      ...(settings.shardNumber === undefined ? {} : { shard_number: settings.shardNumber }),
      ...(settings.replicationFactor === undefined ? {} : { replication_factor: settings.replicationFactor }),
      ...(Object.keys(own).length === 0 ? {} : { metadata: { [ownMetadata]: own } })
    }
    return send("Qdrant.createCollection", "PUT", pathOf(name), JSON.stringify(body), twice)
  }

  return VectorStore.VectorStore.of({
    capabilities,
    ensureCollection: (name, shape, options) =>
      Effect.gen(function* () {
        yield* VectorStore.checkName("ensureCollection", name)
        yield* VectorStore.checkShape("ensureCollection", name, shape, capabilities)
        yield* VectorStore.checkIndex("ensureCollection", name, options, capabilities)
        forget(name)
        let answer = yield* describe("ensureCollection", pathOf(name), name)
        if (answer === undefined) {
          yield* Effect.catchIf(
            create(name, shape, options?.index),
            (error) => error.code === "AlreadyExists",
            () => Effect.void
          )
          // it may be another's, who was quicker
          answer = yield* describe("ensureCollection", pathOf(name), name)
        }
        const found = infoOf(name, answer)
        if (found === undefined) return yield* foreign("ensureCollection", name)
        yield* same({ ...found, name }, shape)
        yield* indexed(name, answer)
      }).pipe(Remote.typed("ensureCollection", name)),
    dropCollection: (name) =>
      Effect.matchEffect(VectorStore.checkKnownName("dropCollection", name), {
        onFailure: () => Effect.succeed(false),
        onSuccess: () => {
          forget(name)
          // sent again, it would find that there is none
          return send("Qdrant.deleteCollection", "DELETE", pathOf(name), undefined, { idempotent: false }).pipe(
            Effect.map((answer) => resultOf(answer) === true),
            Remote.typed("dropCollection", name)
          )
        }
      }),
    collections: send("Qdrant.listCollections", "GET", "/collections").pipe(
      Effect.flatMap((answer) => {
        const listed = Remote.at(resultOf(answer), "collections")
        const names = (Remote.isArray(listed) ? listed : []).flatMap((each) => {
          const name = Remote.at(each, "name")
          return typeof name === "string" ? [name] : []
        })
        return Effect.forEach(
          names,
          (name) =>
            Effect.map(
              // one that is gone meanwhile is left out
              describe("collections", `/collections/${encodeURIComponent(name)}`),
              (answer) => infoOf(name, answer)
            ),
          { concurrency: 8 }
        )
      }),
      Effect.map((found) =>
        found
          .flatMap((each) =>
            each === undefined ? [] : [{ name: each.name, dimensions: each.dimensions, metric: each.metric }]
          )
          .sort((a, b) => VectorStore.compareIds(a.name, b.name))
      ),
      Remote.typed("collections")
    ),
    upsert: (name, records) =>
      withCollection("upsert", name, (collection) =>
        Effect.flatMap(VectorStore.checkRecords("upsert", collection, records), (checked) => {
          const batches = VectorStore.batches(checked, {
            maxCount: settings.batchSize ?? 1_000,
            maxBytes: settings.batchBytes ?? 16_000_000,
            sizeOf
          })
          return Remote.writeInBatches(name, batches, (batch) =>
            Effect.flatMap(
              send(
                "Qdrant.upsert",
                "PUT",
                pathOf(name, "/points?wait=true"),
                `{"points":[${batch.map((record) => pointOf(record, collection.metric, idOf)).join(",")}]}`,
                twice
              ),
              (answer) => completed("upsert", name, answer)
            )
          )
        })
      ),
    get: (name, ids) =>
      onCollection("get", name, () =>
        Effect.flatMap(VectorStore.checkIds("get", name, ids), (ids) =>
          Remote.getInPages(ids, idsAtOnce, (page) => read("get", name, page))
        )
      ),
    query: (name, query) =>
      withCollection("query", name, (collection) =>
        Effect.flatMap(VectorStore.checkQuery(collection, query), ({ limit, minScore }) =>
          Effect.map(Remote.nearest(limit, search(collection, query, minScore)), (matches) =>
            minScore === Number.NEGATIVE_INFINITY ? matches : matches.filter(({ score }) => score >= minScore)
          )
        )
      ),
    delete: (name, ids) =>
      onCollection("delete", name, () =>
        Effect.flatMap(VectorStore.checkIds("delete", name, ids), (ids) =>
          Effect.map(
            Remote.inPages([...new Set(ids.map(idOf))], idsAtOnce, (page) =>
              removed("delete", name, { must: { has_id: page } }, { points: page }, true)
            ),
            (counts) => counts.reduce((sum, count) => sum + count, 0)
          )
        )
      ),
    deleteWhere: (name, filter) =>
      onCollection("deleteWhere", name, () =>
        Effect.flatMap(VectorStore.checkDeleteFilter("deleteWhere", name, filter), () => {
          const compiled = QdrantFilter.compile(filter)
          return removed("deleteWhere", name, compiled, { filter: compiled }, false)
        })
      ),
    deleteAll: (name) => onCollection("deleteAll", name, () => removed("deleteAll", name, {}, { filter: {} }, false)),
    count: (name, filter) =>
      onCollection("count", name, () =>
        Effect.flatMap(VectorStore.checkFilter("count", name, filter), () =>
          counted("count", name, filter === undefined ? undefined : QdrantFilter.compile(filter))
        )
      ),
    scroll: (name, options) =>
      Stream.unwrap(
        Effect.gen(function* () {
          yield* VectorStore.checkKnownName("scroll", name)
          const limit = yield* VectorStore.checkPageSize(name, options?.pageSize)
          yield* VectorStore.checkFilter("scroll", name, options?.filter)
          const filter = options?.filter === undefined ? undefined : QdrantFilter.compile(options.filter)
          return Stream.paginateChunkEffect(undefined as string | number | undefined, (offset) =>
            send(
              "Qdrant.scroll",
              "POST",
              pathOf(name, "/points/scroll"),
              JSON.stringify({ limit, offset, filter, with_payload: true, with_vector: true }),
              twice
            ).pipe(
              Effect.flatMap((answer) => {
                const result = resultOf(answer)
                const next = Remote.at(result, "next_page_offset")
                return Effect.map(
                  Effect.flatMap(pointsOf("scroll", name, Remote.at(result, "points")), (points) =>
                    Effect.forEach(points, (point) => recordOf("scroll", name, point))
                  ),
                  (records) =>
                    [
                      Chunk.unsafeFromArray(records),
                      typeof next === "string" || typeof next === "number"
                        ? Option.some<string | number | undefined>(next)
                        : Option.none<string | number | undefined>()
                    ] as const
                )
              }),
              Remote.typed("scroll", name)
            )
          )
        })
      )
  })
}

const schemaOf = { keyword: "keyword", number: "float", boolean: "bool" } as const

const distanceOf = (metric: VectorStore.Metric, reported: number): number => {
  switch (metric) {
    case "cosine":
      return 1 - Math.max(-1, Math.min(1, reported))
    case "l2":
      return Math.max(0, reported)
    case "dot":
      return reported === 0 ? 0 : -reported
  }
}

/** The bound that the server can apply: for the Euclidean metric a distance, below which it has to be. */
const thresholdOf = (metric: VectorStore.Metric, minScore: number): number | undefined => {
  const bound =
    metric !== "l2"
      ? Remote.loosened(minScore)
      : minScore <= 0
        ? Infinity
        : -Remote.loosened(1 - 1 / Math.min(1, minScore))
  return Number.isFinite(bound) && Math.abs(bound) < 3e38 ? bound : undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// The connection
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Connects. Fails with `InvalidSettings` for settings that cannot work and, if `connect` is `eager`, with what hinders the
 * first request: `Unavailable`, `Timeout`, `Authentication`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: QdrantSettings,
  name = kindName
): Effect.fn.Return<QdrantConnection, ConnectionError, Scope.Scope> {
  const { apiKey, batchBytes, batchSize, efSearch, replicationFactor, shardNumber } = settings
  const http = yield* RemoteConnection.make(settings, {
    kind: kindName,
    name,
    product: "Qdrant",
    counts: { batchSize, batchBytes, efSearch, shardNumber, replicationFactor },
    headers: apiKey === undefined ? undefined : { "api-key": apiKey },
    errorOf,
    // The list needs the key, which the server's own health checks do not.
    asked: "/collections",
    isAnswer: (answer) => Remote.isArray(Remote.at(resultOf(answer), "collections"))
  })
  const store = makeStore(http, settings)
  return { ...http.connectionOf(store), store }
})

const layerOf = RemoteConnection.layerOf(Qdrant)

/**
 * The store and the connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: QdrantSettings): Layer.Layer<VectorStore.VectorStore | Qdrant, ConnectionError> =>
  layerOf(make(settings))

/**
 * The settings as they are read from a configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  ...RemoteConnection.fields,
  apiKey: Schema.optional(Fields.Secret),
  ids: Schema.optional(Schema.Literal("hashed", "native")),
  exact: Schema.optional(Fields.Flag),
  efSearch: Schema.optional(Fields.Count),
  payloadIndexes: Schema.optional(
    Schema.Record({ key: Schema.String, value: Schema.Literal("keyword", "number", "boolean") })
  ),
  onDisk: Schema.optional(Fields.Flag),
  shardNumber: Schema.optional(Fields.Count),
  replicationFactor: Schema.optional(Fields.Count),
  batchSize: Schema.optional(Fields.Count),
  batchBytes: Schema.optional(Fields.Count)
})

/**
 * The store and the connection, from the configuration below `path`: `qdrant`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  path = kindName
): Layer.Layer<VectorStore.VectorStore | Qdrant, ConnectionError | ConfigError.ConfigError> =>
  layerOf(Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings)))

/**
 * Qdrant for the registry of connections: `Connections.layer([Qdrant.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Store, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
