/**
 * The port `VectorStore` on Chroma, over its HTTP API (version 2, servers from 1.0 on).
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import {
  type Connection,
  ConnectionError,
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
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import type * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as HttpConnection from "../internal/http/httpConnection.ts"
import * as ChromaFilter from "../internal/vector/chromaFilter.ts"
import * as ChromaRecord from "../internal/vector/chromaRecord.ts"
import * as FloatText from "../internal/vector/floatText.ts"
import * as RemoteConnection from "../internal/vector/remoteConnection.ts"
import * as Remote from "../internal/vector/remoteStore.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface ChromaSettings extends RemoteConnection.Settings {
  /** `http://localhost:8000` or `https://api.trychroma.com`. */
  readonly url: string | URL
  /** `default_tenant`. */
  readonly tenant?: string | undefined
  /** `default_database`. */
  readonly database?: string | undefined
  readonly token?: Redacted.Redacted | undefined
  /** The header of the token: `x-chroma-token` has it as it is, `authorization` after `Bearer`. `x-chroma-token`. */
  readonly tokenHeader?: "x-chroma-token" | "authorization" | undefined
  /** How many records a request writes at the most: what the server says, and no more than 1,000. */
  readonly batchSize?: number | undefined
  /** How large a request that writes is at the most, in bytes: 16 MB. The server takes 40 MB by default. */
  readonly batchBytes?: number | undefined
}

type Store = RemoteConnection.Store

/**
 * A connection with the store on it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ChromaConnection extends Connection<Store> {
  readonly store: Store
}

/**
 * Chroma as a connection: health, statistics, and the store.
 *
 * @since 0.1.0
 * @category tags
 */
export class Chroma extends Context.Tag("@underlay/connections/Chroma")<Chroma, ChromaConnection>() {}

const kindName = "chromadb"

/**
 * The server makes the length of vectors one under its own cosine and gives them back altered. Of vectors of this length
 * the inner product is the cosine, and they stay what they are.
 */
const spaces = { cosine: "ip", l2: "l2", dot: "ip" } as const

const metricOf = (space: unknown): VectorStore.Metric | undefined => {
  switch (space) {
    case "cosine":
      return "cosine"
    case "l2":
      return "l2"
    case "ip":
      return "dot"
    default:
      return undefined
  }
}

interface Collection extends VectorStore.CollectionInfo {
  readonly uuid: string
  /** Vectors there have the length one, by us. */
  readonly normalised: boolean
}

const dimensionsKey = "underlay_dimensions"
const metricKey = "underlay_metric"
const nameKey = "underlay_name"

/** The name on the server, which does not take all that the port promises. */
const nameThere = (name: string): string =>
  /^[a-zA-Z0-9](?:.*[a-zA-Z0-9])?$/.test(name) && !name.includes("..") && !/^[0-9.]+$/.test(name)
    ? name
    : `underlay.${createHash("sha256").update(name).digest("hex")}`

/** What an answer says, without what was sent: the server repeats parts of a request that it does not understand. */
const errorOf = (status: number, body: unknown): HttpConnection.ServiceError => {
  const message = Remote.at(body, "message")
  const text = typeof message === "string" ? message : ""
  const error = Remote.at(body, "error")
  const code = typeof error === "string" && /^[A-Za-z]{1,40}$/.test(error) ? { code: error } : {}
  if (status === 404 && /^Collection /.test(text)) {
    return { reason: "NotFound", code: Remote.collectionNotFound, description: "there is no such collection" }
  }
  if (status === 404 && /^(?:Tenant|Database) /i.test(text)) {
    return { reason: "NotFound", ...code, description: "there is no such tenant or database: see the settings" }
  }
  if (status === 409 && /^Collection /.test(text)) {
    return { reason: "Conflict", code: "AlreadyExists", description: "a collection of this name is there already" }
  }
  const dimensions = /expecting embedding with dimension of (\d+), got (\d+)/.exec(text)
  if (dimensions !== null) {
    return {
      reason: "InvalidRequest",
      code: Remote.dimensionMismatch,
      description: `the collection has ${dimensions[1]} dimensions, the vector ${dimensions[2]}`
    }
  }
  if (status === 413) {
    return { reason: "InvalidRequest", description: "the request is too large for the server: lower batchBytes" }
  }
  if (status === 500 && /quota/i.test(text)) {
    return { reason: "Throttled", ...code, description: "a quota is used up" }
  }
  return code
}

// ---------------------------------------------------------------------------------------------------------------------
// The store
// ---------------------------------------------------------------------------------------------------------------------

/** How many ids one request names: each is a variable of SQL there, of which there are 32,766. */
const idsAtOnce = 10_000

/** How many records that the index has lost are read, where it gave as many as were wanted all the same. */
const mostMissing = 20_000

/** How many records a query reads to measure them here. */
const mostMeasured = 100_000

/** How many are in memory at once: a thousand, fewer of long vectors. */
const measuredAtOnce = (dimensions: number): number => Math.max(1, Math.min(1_000, Math.trunc(1_000_000 / dimensions)))

interface Rows {
  readonly ids: ReadonlyArray<string>
  readonly metadatas: ReadonlyArray<unknown>
  readonly documents: ReadonlyArray<unknown>
  readonly embeddings: ReadonlyArray<unknown>
  readonly distances: ReadonlyArray<unknown>
}

const listOf = (value: unknown): ReadonlyArray<unknown> => (Remote.isArray(value) ? value : [])

const objectOf = (value: unknown): { readonly [name: string]: unknown } | undefined =>
  Remote.isObject(value) ? value : undefined

const isTexts = (value: unknown): value is ReadonlyArray<string> =>
  Remote.isArray(value) && value.every((each) => typeof each === "string")

const noVector: ReadonlyArray<number> = []

const databaseOf = ({ database = "default_database", tenant = "default_tenant" }: ChromaSettings): string =>
  `/api/v2/tenants/${encodeURIComponent(tenant)}/databases/${encodeURIComponent(database)}`

const makeStore = (http: HttpConnection.HttpConnection, settings: ChromaSettings): Store => {
  const send = Remote.sender(http)
  const twice = { idempotent: true }
  const root = `${databaseOf(settings)}/collections`
  const capabilities: VectorStore.Capabilities = {
    persistent: true,
    exact: false,
    atomicBatches: false,
    metrics: ["cosine", "l2", "dot"],
    maxDimensions: 65_536,
    indexes: ["hnsw"],
    textSearch: false,
    hybrid: false
  }

  // ---- what the server takes -----------------------------------------------------------------------------------------

  let limits: { readonly batch: number; readonly base64: boolean } | undefined
  const limitsOf = Effect.suspend(() =>
    limits !== undefined
      ? Effect.succeed(limits)
      : Effect.map(send("Chroma.preFlightChecks", "GET", "/api/v2/pre-flight-checks"), (answer) => {
          const batch = Remote.at(answer, "max_batch_size")
          limits = {
            batch: typeof batch === "number" && batch >= 1 ? Math.trunc(batch) : 1_000,
            base64: Remote.at(answer, "supports_base64_encoding") === true
          }
          return limits
        })
  )

  // ---- collections ---------------------------------------------------------------------------------------------------

  const infoOf = (answer: unknown): (Omit<Collection, "dimensions"> & { readonly dimensions?: number }) | undefined => {
    const uuid = Remote.at(answer, "id")
    const there = Remote.at(answer, "name")
    const metadata = Remote.at(answer, "metadata")
    const configuration = Remote.at(answer, "configuration_json")
    const space = metricOf(
      Remote.at(Remote.at(configuration, "hnsw"), "space") ?? Remote.at(Remote.at(configuration, "spann"), "space")
    )
    const normalised = space === "dot" && Remote.at(metadata, metricKey) === "cosine"
    const metric = normalised ? "cosine" : space
    const dimensions = Remote.at(metadata, dimensionsKey) ?? Remote.at(answer, "dimension")
    const called = Remote.at(metadata, nameKey)
    return typeof uuid !== "string" || typeof there !== "string" || metric === undefined
      ? undefined
      : {
          uuid,
          metric,
          normalised,
          name: typeof called === "string" ? called : there,
          ...(typeof dimensions === "number" ? { dimensions } : {})
        }
  }

  const describe = (method: string, name: string): Effect.Effect<unknown, Remote.Fail> =>
    Effect.flatMap(
      send("Chroma.getCollection", "GET", `${root}/${nameThere(name)}`, undefined, Remote.orMissing),
      (answer) => Remote.present(method, name, answer, infoOf(answer) !== undefined, errorOf)
    )

  const { forget, withCollection } = Remote.knowledge<Collection>((method, name) =>
    Effect.flatMap(describe(method, name), (answer): Effect.Effect<Collection | undefined, Remote.Fail> => {
      if (answer === undefined) return Effect.succeed(undefined)
      const info = infoOf(answer)
      if (info === undefined) return Remote.unexpected(method, name, "there is no collection in it")
      return info.dimensions === undefined
        ? new VectorStore.VectorStoreError({
            reason: "Unsupported",
            method,
            collection: name,
            description:
              "another program made this collection and it is empty, so its dimensions are not known: ensure it"
          })
        : Effect.succeed({ ...info, name, dimensions: info.dimensions })
    })
  )

  const ask = (
    operation: string,
    { uuid }: Collection,
    path: string,
    body: string,
    options: { readonly idempotent: boolean } = twice
  ) => send(`Chroma.${operation}`, "POST", `${root}/${uuid}/${path}`, body, options)

  // ---- records -------------------------------------------------------------------------------------------------------

  const rowsOf = (method: string, collection: Collection, answer: unknown, nested: boolean) => {
    const part = (name: string): unknown => {
      const found = Remote.at(answer, name)
      return nested ? listOf(found)[0] : found
    }
    const ids = part("ids")
    return isTexts(ids)
      ? Effect.succeed<Rows>({
          ids,
          metadatas: listOf(part("metadatas")),
          documents: listOf(part("documents")),
          embeddings: listOf(part("embeddings")),
          distances: listOf(part("distances"))
        })
      : Effect.fail(Remote.unexpected(method, collection.name, "there are no ids"))
  }

  const get = (
    method: string,
    collection: Collection,
    request: {
      readonly ids?: ReadonlyArray<string>
      readonly where?: string | undefined
      readonly limit?: number
    },
    include: ReadonlyArray<"metadatas" | "documents" | "embeddings">
  ) => {
    const { ids, limit, where } = request
    const body =
      `{"include":${JSON.stringify(include)}` +
      `${ids === undefined ? "" : `,"ids":${JSON.stringify(ids)}`}${where === undefined ? "" : `,"where":${where}`}` +
      `${limit === undefined ? "" : `,"limit":${limit}`}}`
    return Effect.flatMap(ask("get", collection, "get", body), (answer) => rowsOf(method, collection, answer, false))
  }

  const whole = ["metadatas", "documents", "embeddings"] as const

  const contentOf = (rows: Rows, index: number, includeVector: boolean) => {
    const { hasDocument, metadata, vector } = ChromaRecord.read(objectOf(rows.metadatas[index]))
    const document = rows.documents[index]
    return {
      content: { metadata, ...(hasDocument && typeof document === "string" ? { document } : {}) },
      vector: !includeVector
        ? noVector
        : vector === undefined
          ? Remote.floatsOf(rows.embeddings[index])
          : Remote.decodeFloats(vector)
    }
  }

  const recordsOf = (
    method: string,
    collection: Collection,
    rows: Rows
  ): Effect.Effect<ReadonlyArray<VectorStore.StoredRecord>, VectorStore.VectorStoreError> => {
    const records: Array<VectorStore.StoredRecord> = []
    for (const [index, id] of rows.ids.entries()) {
      const { content, vector } = contentOf(rows, index, true)
      if (vector === undefined) return Effect.fail(Remote.unexpected(method, collection.name, "a record has no vector"))
      records.push({ id, vector, ...content })
    }
    return Effect.succeed(records)
  }

  /** The ids of what passes, by one request, and all at once: what comes and goes meanwhile is not in two pages or none. */
  const idsOf = (
    method: string,
    collection: Collection,
    filter: VectorStore.Filter.Filter | undefined
  ): Effect.Effect<ReadonlyArray<string>, Remote.Fail> => {
    const compiled = filter === undefined ? { where: undefined } : ChromaFilter.compile(filter)
    if (compiled !== undefined) return Effect.map(get(method, collection, compiled, []), ({ ids }) => ids)
    return Effect.flatMap(get(method, collection, {}, []), ({ ids }) =>
      Effect.map(
        Effect.forEach(Remote.pagesOf(ids, 2_000), (page) =>
          Effect.map(get(method, collection, { ids: page }, ["metadatas"]), (rows) =>
            rows.ids.filter((_, index) => passes(filter, rows, index))
          )
        ),
        (found) => found.flat()
      )
    )
  }

  const passes = (filter: VectorStore.Filter.Filter | undefined, rows: Rows, index: number): boolean =>
    filter === undefined ||
    VectorStore.Filter.matches(filter, ChromaRecord.read(objectOf(rows.metadatas[index])).metadata)

  const deleted = (collection: Collection, ids: ReadonlyArray<string>): Effect.Effect<number, Remote.Fail> =>
    Effect.as(
      Effect.forEach(
        Remote.pagesOf(ids, idsAtOnce / 2),
        (page) => ask("delete", collection, "delete", `{"ids":${JSON.stringify(page)}}`),
        { discard: true }
      ),
      ids.length
    )

  /** Deletes what passes; everything, if there is no filter. */
  const emptied = (collection: Collection, where: string | undefined) =>
    ask("delete", collection, "delete", `{"where":${where ?? ChromaFilter.everything}}`, { idempotent: false })

  // ---- writing -------------------------------------------------------------------------------------------------------

  // The server adds what it is given to what it has. To replace it, what is there has to be seen before, and nobody else
  // may write the same record between the two: who comes later waits for who came earlier.
  const writing = new Map<string, Deferred.Deferred<void>>()

  const alone = <A, E>(
    collection: Collection,
    ids: ReadonlyArray<string>,
    effect: Effect.Effect<A, E>
  ): Effect.Effect<A, E> =>
    // whoever has taken a place lets go of it, at whatever step it is interrupted
    Effect.uninterruptibleMask((restore) => {
      const done = Deferred.unsafeMake<void>(FiberId.none)
      const before = new Set<Deferred.Deferred<void>>()
      const keys = ids.map((id) => `${collection.uuid} ${id}`)
      for (const key of keys) {
        const earlier = writing.get(key)
        if (earlier !== undefined) before.add(earlier)
        writing.set(key, done)
      }
      const release = Effect.suspend(() => {
        for (const key of keys) if (writing.get(key) === done) writing.delete(key)
        return Effect.asVoid(Deferred.succeed(done, undefined))
      })
      let turn = before.size === 0
      const waited = Effect.zipRight(
        Effect.forEach(before, Deferred.await, { discard: true }),
        Effect.sync(() => {
          turn = true
        })
      )
      return Effect.onExit(restore(Effect.zipRight(waited, effect)), () =>
        // who gives up waiting still stands between those before it and those after it
        Effect.suspend(() => (turn ? release : Effect.asVoid(Effect.forkDaemon(Effect.zipRight(waited, release)))))
      )
    })

  interface Prepared {
    readonly record: VectorStore.StoredRecord
    readonly vector: ReadonlyArray<number>
    readonly written: ChromaRecord.Written
  }

  const prepared = ({ normalised }: Collection, record: VectorStore.StoredRecord): Prepared => {
    const unit = normalised ? Remote.unit(record.vector) : record.vector
    const original = unit === record.vector ? undefined : Remote.encodeFloats(record.vector)
    return {
      record,
      vector: unit,
      written: ChromaRecord.write(record.metadata, record.document !== undefined, original)
    }
  }

  const sizeOf = ({ record, written }: Prepared, base64: boolean): number =>
    record.vector.length * (base64 ? 6 : 28) +
    Remote.sizeOfText(written.properties) +
    Remote.sizeOfText(record.document ?? "") +
    Remote.sizeOfText(record.id)

  const write = (collection: Collection, batch: ReadonlyArray<Prepared>, base64: boolean) => {
    const ids = batch.map(({ record }) => record.id)
    const byShape = new Set(batch.map(({ written }) => written.shape))
    const [shape = ""] = byShape
    // Mostly all records have the same keys, and those that are there have them, too: then nothing comes back.
    const where =
      byShape.size === 1 ? `{${JSON.stringify(ChromaRecord.shapeKey)}:{"$ne":${JSON.stringify(shape)}}}` : undefined
    return Effect.flatMap(get("upsert", collection, { ids, where }, ["metadatas"]), (rows) => {
      const there = new Map(rows.ids.map((id, index) => [id, objectOf(rows.metadatas[index])]))
      const metadatas = batch.map(({ record, written }) => {
        const gone = ChromaRecord.stale(there.get(record.id), written.names)
        return `{${written.properties}${gone.map((name) => `,${JSON.stringify(name)}:null`).join("")}}`
      })
      const embeddings = base64
        ? JSON.stringify(batch.map(({ vector }) => Remote.encodeFloats(vector)))
        : `[${batch.map(({ vector }) => FloatText.write(vector)).join(",")}]`
      // a document cannot be taken away: it is made empty, and the shape says that there is none
      const documents = JSON.stringify(batch.map(({ record }) => record.document ?? ""))
      return ask(
        "upsert",
        collection,
        "upsert",
        `{"ids":${JSON.stringify(ids)},"embeddings":${embeddings},` +
          `"metadatas":[${metadatas.join(",")}],"documents":${documents}}`
      )
    })
  }

  // ---- searching -----------------------------------------------------------------------------------------------------

  const search = (collection: Collection, query: VectorStore.Query, where: string | undefined) => {
    const { metric, name, normalised } = collection
    const include = JSON.stringify([
      "metadatas",
      "documents",
      "distances",
      ...(query.includeVector === true ? ["embeddings"] : [])
    ])
    const head =
      `{"query_embeddings":[${FloatText.write(normalised ? Remote.unit(query.vector) : query.vector)}],"include":${include}` +
      `${where === undefined ? "" : `,"where":${where}`}`
    return (limit: number) =>
      ask("query", collection, "query", `${head},"n_results":${limit}}`).pipe(
        Effect.flatMap((answer) => rowsOf("query", collection, answer, true)),
        Effect.flatMap((rows): Effect.Effect<ReadonlyArray<VectorStore.Match>, VectorStore.VectorStoreError> => {
          const matches: Array<VectorStore.Match> = []
          for (const [index, id] of rows.ids.entries()) {
            const reported = rows.distances[index]
            const { content, vector } = contentOf(rows, index, query.includeVector === true)
            if (typeof reported !== "number" || vector === undefined) {
              return Effect.fail(Remote.unexpected("query", name, "a record has no distance or no vector"))
            }
            const distance = distanceOf(collection, reported)
            matches.push({
              id,
              score: VectorStore.scoreOf(metric, distance),
              distance,
              metric,
              ...content,
              ...(query.includeVector === true ? { vector } : {})
            })
          }
          return Effect.succeed(matches)
        })
      )
  }

  const tooMany = (collection: Collection, why: string): VectorStore.VectorStoreError =>
    new VectorStore.VectorStoreError({
      reason: "Unsupported",
      method: "query",
      collection: collection.name,
      description:
        `${why}, and more than ${mostMeasured} records come into question, too many to be read and measured here: ` +
        "give a simpler or narrower filter, or have fewer records that are nearly equal in one collection"
    })

  /**
   * What has these ids is read and measured here, page by page: of what is read no more than the nearest is kept. What does
   * not pass when it is read is left out: it may have changed since its id was given. That is seen here, too, for ids and a
   * filter together take the server seconds for a page.
   */
  const searchHere = (
    collection: Collection,
    query: VectorStore.Query,
    limit: number,
    ids: ReadonlyArray<string>
  ): Effect.Effect<ReadonlyArray<VectorStore.Match>, Remote.Fail> => {
    const { dimensions, metric } = collection
    const vector = query.vector.map(Math.fround)
    const none: ReadonlyArray<VectorStore.Match> = []
    return Effect.reduce(Remote.pagesOf(ids, measuredAtOnce(dimensions)), none, (best, page) =>
      Effect.flatMap(get("query", collection, { ids: page }, whole), (rows) =>
        Effect.map(recordsOf("query", collection, rows), (records) => {
          const matches: Array<VectorStore.Match> = [...best]
          for (const [index, { vector: own, ...record }] of records.entries()) {
            if (!passes(query.filter, rows, index)) continue
            const distance = VectorStore.distanceOf(metric, own, vector)
            const score = VectorStore.scoreOf(metric, distance)
            matches.push({
              ...record,
              score,
              distance,
              metric,
              ...(query.includeVector === true ? { vector: own } : {})
            })
          }
          return matches.sort(Remote.nearestFirst).slice(0, limit)
        })
      )
    )
  }

  /**
   * The index has given fewer than it was asked for, as if there were no more. Of vectors that are equal, or nearly so, it
   * loses some: no link leads to them. So the ids of what passes are asked for, no more of them than matter, and where one
   * is missing, all of it is measured here: what the index gave, too, for the server reckons in 32 bits, and what is equal
   * has to be equally near. What has gone since the index was asked is left out.
   */
  const completed = (
    collection: Collection,
    query: VectorStore.Query,
    limit: number,
    where: string | undefined,
    given: ReadonlyArray<VectorStore.Match>
  ): Effect.Effect<ReadonlyArray<VectorStore.Match>, Remote.Fail> => {
    // one less near than the nearest is what an index may give, and cheaper than to read that many
    const isEnough = given.length >= limit
    const most = isEnough ? given.length + mostMissing : mostMeasured
    const beyond = isEnough
      ? Effect.succeed(given)
      : tooMany(collection, `the index gives ${given.length} records where ${limit} are wanted`)
    const byIds = Effect.flatMap(
      get("query", collection, { where, limit: most + 1 }, []),
      ({ ids }): Effect.Effect<ReadonlyArray<VectorStore.Match>, Remote.Fail> => {
        if (ids.length > most) return beyond
        const found = new Set(given.map(({ id }) => id))
        if (ids.some((id) => !found.has(id))) return searchHere(collection, query, limit, ids)
        const there = new Set(ids)
        return Effect.succeed(given.filter(({ id }) => there.has(id)))
      }
    )
    return where === undefined
      ? Effect.flatMap(counted("query", collection), (count) =>
          count === given.length ? Effect.succeed(given) : count > most ? beyond : byIds
        )
      : byIds
  }

  return VectorStore.VectorStore.of({
    capabilities,
    ensureCollection: (name, shape, options) =>
      Effect.gen(function* () {
        yield* VectorStore.checkName("ensureCollection", name)
        yield* VectorStore.checkShape("ensureCollection", name, shape, capabilities)
        yield* VectorStore.checkIndex("ensureCollection", name, options, capabilities)
        forget(name)
        const there = nameThere(name)
        const named = there === name ? {} : { [nameKey]: name }
        const own = { [dimensionsKey]: shape.dimensions, [metricKey]: shape.metric, ...named }
        const index = options?.index?.kind === "hnsw" ? options.index : undefined
        const hnsw = {
          space: spaces[shape.metric],
          ...(index?.m === undefined ? {} : { max_neighbors: index.m }),
          ...(index?.efConstruction === undefined ? {} : { ef_construction: index.efConstruction }),
          ...(index?.efSearch === undefined ? {} : { ef_search: index.efSearch })
        }
        // The server gives one that is there as it is, whatever else was asked for: what it gives is looked at.
        const answer =
          (yield* describe("ensureCollection", name)) ??
          (yield* send(
            "Chroma.createCollection",
            "POST",
            root,
            JSON.stringify({ name: there, configuration: { hnsw }, metadata: own, get_or_create: true }),
            twice
          ))
        const found = infoOf(answer)
        if (found === undefined)
          return yield* Remote.unexpected("ensureCollection", name, "there is no collection in it")
        const dimensions = found.dimensions ?? shape.dimensions
        if (dimensions !== shape.dimensions || found.metric !== shape.metric) {
          return yield* VectorStore.mismatch("ensureCollection", { name, dimensions, metric: found.metric }, shape)
        }
        if (found.dimensions === undefined) {
          // another program made it, and it is empty
          const metadata = Remote.at(answer, "metadata")
          yield* send(
            "Chroma.updateCollection",
            "PUT",
            `${root}/${found.uuid}`,
            JSON.stringify({ new_metadata: { ...(Remote.isObject(metadata) ? metadata : {}), ...own } }),
            twice
          )
        }
      }).pipe(Remote.typed("ensureCollection", name)),
    dropCollection: (name) =>
      Effect.matchEffect(VectorStore.checkKnownName("dropCollection", name), {
        onFailure: () => Effect.succeed(false),
        onSuccess: () => {
          forget(name)
          return send("Chroma.deleteCollection", "DELETE", `${root}/${nameThere(name)}`, undefined, {
            ...Remote.orMissing,
            idempotent: false
          }).pipe(
            Effect.flatMap((answer) =>
              Remote.present("dropCollection", name, answer, Remote.at(answer, "error") === undefined, errorOf)
            ),
            Effect.map((answer) => answer !== undefined),
            Remote.typed("dropCollection", name)
          )
        }
      }),
    collections: send("Chroma.listCollections", "GET", root).pipe(
      Effect.map((answer) =>
        listOf(answer)
          .flatMap((each): ReadonlyArray<VectorStore.CollectionInfo> => {
            const info = infoOf(each)
            return info?.dimensions === undefined
              ? []
              : [{ name: info.name, dimensions: info.dimensions, metric: info.metric }]
          })
          .sort((a, b) => VectorStore.compareIds(a.name, b.name))
      ),
      Remote.typed("collections")
    ),
    upsert: (name, records) =>
      withCollection("upsert", name, (collection) =>
        Effect.flatMap(VectorStore.checkRecords("upsert", collection, records), (checked) =>
          Effect.flatMap(limitsOf, ({ base64, batch }) => {
            const batches = VectorStore.batches(
              checked.map((record) => prepared(collection, record)),
              {
                maxCount: Math.min(batch, settings.batchSize ?? 1_000),
                maxBytes: settings.batchBytes ?? 16_000_000,
                sizeOf: (one) => sizeOf(one, base64)
              }
            )
            return Remote.writeInBatches(name, batches, (batch) =>
              alone(
                collection,
                batch.map(({ record }) => record.id),
                write(collection, batch, base64)
              )
            )
          })
        )
      ),
    get: (name, ids) =>
      withCollection("get", name, (collection) =>
        Effect.flatMap(VectorStore.checkIds("get", name, ids), (ids) =>
          Remote.getInPages(ids, idsAtOnce, (page) =>
            Effect.flatMap(get("get", collection, { ids: page }, whole), (rows) => recordsOf("get", collection, rows))
          )
        )
      ),
    query: (name, query) =>
      withCollection("query", name, (collection) =>
        Effect.flatMap(VectorStore.checkQuery(collection, query), ({ limit, minScore }) => {
          const compiled = query.filter === undefined ? { where: undefined } : ChromaFilter.compile(query.filter)
          return Effect.map(
            compiled === undefined
              ? Effect.flatMap(idsOf("query", collection, query.filter), (ids) =>
                  ids.length > mostMeasured
                    ? tooMany(collection, "this filter has to be applied here")
                    : searchHere(collection, query, limit, ids)
                )
              : Remote.nearest<Remote.Fail, never>(limit, search(collection, query, compiled.where), (given) =>
                  completed(collection, query, limit, compiled.where, given)
                ),
            (matches) =>
              minScore === Number.NEGATIVE_INFINITY ? matches : matches.filter(({ score }) => score >= minScore)
          )
        })
      ),
    delete: (name, ids) =>
      withCollection("delete", name, (collection) =>
        Effect.flatMap(VectorStore.checkIds("delete", name, ids), (ids) => {
          const pages = Remote.pagesOf([...new Set(ids)], idsAtOnce)
          // No ids must never be taken for all of them; that the collection is there has to be seen all the same.
          if (pages.length === 0) return Effect.as(counted("delete", collection), 0)
          return Effect.map(
            Effect.forEach(pages, (page) =>
              Effect.flatMap(get("delete", collection, { ids: page }, []), (rows) => {
                const asked = new Set(page)
                return deleted(
                  collection,
                  rows.ids.filter((id) => asked.has(id))
                )
              })
            ),
            (counts) => counts.reduce((sum, count) => sum + count, 0)
          )
        })
      ),
    deleteWhere: (name, filter) =>
      withCollection("deleteWhere", name, (collection) =>
        Effect.flatMap(VectorStore.checkDeleteFilter("deleteWhere", name, filter), () =>
          Effect.flatMap(idsOf("deleteWhere", collection, filter), (ids) => {
            const compiled = ChromaFilter.compile(filter)
            // by the filter alone, so that what has changed meanwhile and does not pass any more stays
            return ids.length === 0 || compiled === undefined
              ? deleted(collection, ids)
              : Effect.as(emptied(collection, compiled.where), ids.length)
          })
        )
      ),
    deleteAll: (name) =>
      withCollection("deleteAll", name, (collection) =>
        Effect.flatMap(counted("deleteAll", collection), (count) =>
          count === 0 ? Effect.succeed(0) : Effect.as(emptied(collection, undefined), count)
        )
      ),
    count: (name, filter) =>
      withCollection("count", name, (collection) =>
        Effect.flatMap(
          VectorStore.checkFilter("count", name, filter),
          (): Effect.Effect<number, Remote.Fail> =>
            filter === undefined
              ? counted("count", collection)
              : Effect.map(idsOf("count", collection, filter), (ids) => ids.length)
        )
      ),
    scroll: (name, options) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const size = yield* VectorStore.checkPageSize(name, options?.pageSize)
          yield* VectorStore.checkFilter("scroll", name, options?.filter)
          const filter = options?.filter
          // The collection as it was then: one that is made anew under the name has other records.
          return yield* withCollection("scroll", name, (collection) =>
            Effect.map(idsOf("scroll", collection, filter), (ids) =>
              Stream.mapConcatChunkEffect(
                Stream.fromIterable(Remote.pagesOf([...ids].sort(VectorStore.compareIds), size)),
                (page) =>
                  get("scroll", collection, { ids: page }, whole).pipe(
                    Effect.flatMap((rows) =>
                      Effect.map(recordsOf("scroll", collection, rows), (records) =>
                        records.filter((_, index) => passes(filter, rows, index))
                      )
                    ),
                    Effect.map((records) =>
                      Chunk.unsafeFromArray([...records].sort((a, b) => VectorStore.compareIds(a.id, b.id)))
                    ),
                    Remote.typed("scroll", name)
                  )
              )
            )
          )
        })
      )
  })

  function counted(method: string, { name, uuid }: Collection): Effect.Effect<number, Remote.Fail> {
    return Effect.flatMap(send("Chroma.count", "GET", `${root}/${uuid}/count`), (count) =>
      typeof count === "number"
        ? Effect.succeed(count)
        : Effect.fail(Remote.unexpected(method, name, "there is no count"))
    )
  }
}

/** Chroma gives the square of the Euclidean distance, and one minus the inner product. */
const distanceOf = ({ metric }: Collection, reported: number): number => {
  switch (metric) {
    case "cosine":
      return Math.max(0, Math.min(2, reported))
    case "l2":
      return Math.sqrt(Math.max(0, reported))
    case "dot":
      return reported - 1
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The connection
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Connects. Fails with `InvalidSettings` for settings that cannot work and, if `connect` is `eager`, with what hinders the
 * first request: `Unavailable`, `Timeout`, `Authentication`, and `NotFound` for a tenant or database that is not there.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: ChromaSettings,
  name = kindName
): Effect.fn.Return<ChromaConnection, ConnectionError, Scope.Scope> {
  for (const option of ["tenant", "database"] as const) {
    if (settings[option] === "") {
      return yield* new ConnectionError({
        reason: "InvalidSettings",
        kind: kindName,
        connection: name,
        method: "make",
        description: `${option} must not be empty`
      })
    }
  }
  const { batchBytes, batchSize, token } = settings
  const header = settings.tokenHeader ?? "x-chroma-token"
  const http = yield* RemoteConnection.make(settings, {
    kind: kindName,
    name,
    product: "Chroma",
    counts: { batchSize, batchBytes },
    headers:
      token === undefined
        ? undefined
        : { [header]: header === "authorization" ? Redacted.make(`Bearer ${Redacted.value(token)}`) : token },
    errorOf,
    // It needs the token, the tenant and the database, which the heartbeat does not.
    asked: databaseOf(settings),
    isAnswer: (answer) => typeof Remote.at(answer, "name") === "string"
  })
  const store = makeStore(http, settings)
  return { ...http.connectionOf(store), store }
})

const layerOf = RemoteConnection.layerOf(Chroma)

/**
 * The store and the connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: ChromaSettings): Layer.Layer<VectorStore.VectorStore | Chroma, ConnectionError> =>
  layerOf(make(settings))

/**
 * The settings as they are read from a configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  ...RemoteConnection.fields,
  tenant: Schema.optional(Fields.Text),
  database: Schema.optional(Fields.Text),
  token: Schema.optional(Fields.Secret),
  tokenHeader: Schema.optional(Schema.Literal("x-chroma-token", "authorization")),
  batchSize: Schema.optional(Fields.Count),
  batchBytes: Schema.optional(Fields.Count)
})

/**
 * The store and the connection, from the configuration below `path`: `chromadb`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  path = kindName
): Layer.Layer<VectorStore.VectorStore | Chroma, ConnectionError | ConfigError.ConfigError> =>
  layerOf(Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings)))

/**
 * Chroma for the registry of connections: `Connections.layer([Chroma.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Store, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
