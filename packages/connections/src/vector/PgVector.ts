/**
 * The port `VectorStore` on PostgreSQL with the extension pgvector, over any `SqlClient` for it: `Postgres` or `PGlite`.
 * A collection is a table of its own; within the caller's transaction everything here takes part in it.
 *
 * @since 0.1.0
 */
import { SqlClient, TransactionConnection } from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Chunk from "effect/Chunk"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { isPersistent } from "../internal/sqlClient.ts"
import { toConnectionError } from "../internal/sqlState.ts"

/**
 * An approximate index (HNSW). It makes searches in large collections fast and may miss some of the nearest. Filters are
 * kept whole: the index is scanned on until enough records pass (`hnsw.iterative_scan`, pgvector 0.8).
 *
 * @since 0.1.0
 * @category models
 */
export interface HnswOptions {
  /** Links of a point: 16. */
  readonly m?: number | undefined
  /** Candidates while building: 64. */
  readonly efConstruction?: number | undefined
  /** Candidates while searching, 1 to 1000: 100, and never fewer than the limit of the query. */
  readonly efSearch?: number | undefined
  /** How many points a filtered search may look at before it gives up: 1,000,000. */
  readonly maxScanTuples?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PgVectorOptions {
  /** The schema of the tables; made if absent. Without one, the first of the search path. */
  readonly schema?: string | undefined
  /** What the tables' names begin with: `underlay_vectors`. */
  readonly prefix?: string | undefined
  /** Collections made from now on get this index. Without one, searches are exact and read the whole collection. */
  readonly hnsw?: HnswOptions | true | undefined
}

type Reason = VectorStore.VectorStoreErrorReason

const reasonOf = (error: ConnectionError): Reason => {
  switch (error.reason) {
    case "Unavailable":
    case "Closed":
      return "Unavailable"
    case "Timeout":
    case "Throttled":
    case "Conflict":
    case "Unsupported":
    case "Authentication":
      return error.reason
    case "PermissionDenied":
      return "Authentication"
    default:
      return "Unknown"
  }
}

const failureOf = (error: SqlError): ConnectionError =>
  toConnectionError({ kind: "pgvector", name: "sql", method: "execute" }, error.cause)

const fromSql = (method: string, error: SqlError, collection?: string): VectorStore.VectorStoreError => {
  const failure = failureOf(error)
  return new VectorStore.VectorStoreError({
    reason: reasonOf(failure),
    method,
    ...(collection === undefined ? {} : { collection }),
    description: failure.description,
    cause: error
  })
}

const operators = { cosine: "<=>", l2: "<->", dot: "<#>" } as const
const operatorClasses = { cosine: "vector_cosine_ops", l2: "vector_l2_ops", dot: "vector_ip_ops" } as const

const batchRecords = 500
const batchBytes = 4_000_000

/**
 * A filter as a condition on the column `metadata`, never NULL, with its parameters added to `params`.
 *
 * @internal
 */
export const compile = (filter: VectorStore.Filter.Filter, params: Array<unknown>): string => {
  const param = (value: unknown, type: string): string => `$${params.push(value)}::${type}`
  const equals = (key: string, value: VectorStore.Filter.Value): string =>
    // Containment uses the index, and is false, not NULL, where the key is absent.
    `metadata @> ${param(JSON.stringify({ [key]: value }), "jsonb")}`
  const among = (key: string, values: ReadonlyArray<VectorStore.Filter.Value>): string =>
    `coalesce(metadata -> ${param(key, "text")} = any(${param(
      values.map((value) => JSON.stringify(value)),
      "jsonb[]"
    )}), false)`
  const range = (key: string, operator: string, value: number): string => {
    const at = param(key, "text")
    return (
      `case when jsonb_typeof(metadata -> ${at}) = 'number' ` +
      `then (metadata ->> ${at})::float8 ${operator} ${param(value, "float8")} else false end`
    )
  }
  const all = (filters: ReadonlyArray<VectorStore.Filter.Filter>, word: string, none: string): string =>
    filters.length === 0 ? none : `(${filters.map((each) => compile(each, params)).join(` ${word} `)})`
  switch (filter.op) {
    case "and":
      return all(filter.filters, "and", "true")
    case "or":
      return all(filter.filters, "or", "false")
    case "not":
      return `not (${compile(filter.filter, params)})`
    case "eq":
      return equals(filter.key, filter.value)
    case "ne":
      return `not (${equals(filter.key, filter.value)})`
    case "in":
      return among(filter.key, filter.values)
    case "nin":
      return `not ${among(filter.key, filter.values)}`
    case "gt":
      return range(filter.key, ">", filter.value)
    case "gte":
      return range(filter.key, ">=", filter.value)
    case "lt":
      return range(filter.key, "<", filter.value)
    case "lte":
      return range(filter.key, "<=", filter.value)
    case "exists":
      return `metadata ? ${param(filter.key, "text")}`
  }
}

const written = (vector: ReadonlyArray<number>): string => `[${vector.map((value) => Math.fround(value)).join(",")}]`

// The server prints as few digits as tell a 32-bit float from its neighbours.
const read = (vector: string): ReadonlyArray<number> =>
  vector
    .slice(1, -1)
    .split(",")
    .map((digits) => Math.fround(Number(digits)))

interface Collection extends VectorStore.CollectionInfo {
  readonly id: number
  readonly table: string
  readonly indexed: boolean
}

interface Row {
  readonly id: string
  readonly embedding: string
  readonly metadata: VectorStore.Metadata
  readonly document: string | null
}

const recordOf = (row: Row): VectorStore.StoredRecord => ({
  id: row.id,
  vector: read(row.embedding),
  metadata: row.metadata,
  ...(row.document === null ? {} : { document: row.document })
})

const isMetric = Schema.is(VectorStore.Metric)

/**
 * Makes the extension and the list of collections if they are not there.
 *
 * Fails with `Unsupported` when the server has no pgvector, or too old a one, and says what to install; with
 * `Authentication` when the user may not make what is missing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  options: PgVectorOptions = {}
): Effect.fn.Return<Context.Tag.Service<VectorStore.VectorStore>, VectorStore.VectorStoreError, SqlClient> {
  const sql = yield* SqlClient
  const quote = (name: string): string => `"${name.replace(/"/g, '""')}"`
  const prefix = options.prefix ?? "underlay_vectors"
  const hnsw = options.hnsw === true ? {} : options.hnsw
  const inSchema = (name: string): string =>
    options.schema === undefined ? quote(name) : `${quote(options.schema)}.${quote(name)}`
  const registry = inSchema(`${prefix}_collections`)
  const known = new Map<string, Collection>()

  const unsupported = (description: string) =>
    new VectorStore.VectorStoreError({ reason: "Unsupported", method: "make", description })

  for (const name of [prefix, options.schema ?? "public"]) {
    // 63 bytes is the most that PostgreSQL keeps of a name, and the prefix is only its beginning.
    if (!/^[a-zA-Z_][a-zA-Z0-9_]{0,39}$/.test(name)) {
      return yield* new VectorStore.VectorStoreError({
        reason: "InvalidRequest",
        method: "make",
        description: `${JSON.stringify(name)}: schema and prefix are up to 40 letters, digits and _, no digit first`
      })
    }
  }

  // One key for all changes of shape: two processes that start at once must not trip over each other.
  const changing = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E | SqlError> =>
    sql.withTransaction(
      Effect.zipRight(sql`select pg_advisory_xact_lock(hashtextextended(${`underlay ${registry}`}, 0))`, effect)
    )

  const setUp = Effect.gen(function* () {
    const [available] = yield* sql<{ readonly installed: string | null; readonly newest: string | null }>`
      select installed_version as installed, default_version as newest
      from pg_available_extensions where name = 'vector'`
    if (available === undefined) {
      return yield* unsupported(
        "this server has no pgvector: install it beside the server (Debian: postgresql-<version>-pgvector; " +
          "container image: pgvector/pgvector), or give PGlite the package @electric-sql/pglite-pgvector"
      )
    }
    if (available.installed === null) yield* sql`create extension if not exists vector`
    const version = available.installed ?? available.newest ?? "0"
    const [major = 0, minor = 0] = version.split(".").map(Number)
    if (hnsw !== undefined && major === 0 && minor < 8) {
      return yield* unsupported(
        `filtered searches with an HNSW index need pgvector 0.8, this is ${version}: update it, or leave out hnsw`
      )
    }
    if (options.schema !== undefined) yield* sql.unsafe(`create schema if not exists ${quote(options.schema)}`)
    yield* sql.unsafe(`create table if not exists ${registry} (
      id integer generated always as identity primary key,
      name text collate "C" not null unique,
      dimensions integer not null,
      metric text not null,
      indexed boolean not null
    )`)
  })
  yield* Effect.catchTag(changing(setUp), "SqlError", (error) => fromSql("make", error))

  const capabilities: VectorStore.Capabilities = {
    persistent: isPersistent(sql),
    exact: hnsw === undefined,
    atomicBatches: true,
    metrics: ["cosine", "l2", "dot"],
    maxDimensions: hnsw === undefined ? 16_000 : 2_000,
    indexes: [],
    textSearch: false,
    hybrid: false
  }

  interface CollectionRow {
    readonly id: number
    readonly name: string
    readonly dimensions: number
    readonly metric: string
    readonly indexed: boolean
  }

  const collectionOf = ({ metric, ...row }: CollectionRow): Collection => ({
    ...row,
    metric: isMetric(metric) ? metric : "cosine",
    table: inSchema(`${prefix}_${row.id}`)
  })

  const lookUp = (name: string): Effect.Effect<Collection | undefined, SqlError> =>
    Effect.map(sql.unsafe<CollectionRow>(`select * from ${registry} where name = $1`, [name]), ([row]) => {
      if (row === undefined) {
        known.delete(name)
        return undefined
      }
      const collection = collectionOf(row)
      known.set(name, collection)
      return collection
    })

  type Fail = VectorStore.VectorStoreError | SqlError

  /**
   * Runs `f` with the collection. What is known of it may be out of date, when another process dropped it and perhaps
   * made it again: then its table is not there, and it is looked up once more. In the caller's transaction, which that
   * would break, it is looked up every time.
   */
  const withCollection = <A>(
    method: string,
    name: string,
    f: (collection: Collection) => Effect.Effect<A, Fail>
  ): Effect.Effect<A, VectorStore.VectorStoreError> => {
    const found = (collection: Collection | undefined): Effect.Effect<A, Fail> =>
      collection === undefined ? VectorStore.notFound(method, name) : f(collection)
    const fresh = Effect.flatMap(lookUp(name), found)
    return Effect.flatMap(Effect.serviceOption(TransactionConnection), (transaction): Effect.Effect<A, Fail> => {
      if (!VectorStore.isStorableText(name)) return VectorStore.notFound(method, name)
      const remembered = Option.isSome(transaction) ? undefined : known.get(name)
      return remembered === undefined
        ? fresh
        : Effect.catchIf(
            f(remembered),
            (error): error is SqlError => error._tag === "SqlError" && failureOf(error).code === "42P01",
            () => fresh
          )
    }).pipe(
      Effect.catchTag("SqlError", (error) =>
        failureOf(error).code === "42P01" ? VectorStore.notFound(method, name) : fromSql(method, error, name)
      )
    )
  }

  const condition = (filter: VectorStore.Filter.Filter | undefined, params: Array<unknown>): string =>
    filter === undefined ? "true" : compile(filter, params)

  const count = (rows: ReadonlyArray<{ readonly count: number }>): number => rows[0]?.count ?? 0

  const removed = (table: string, where: string, params: ReadonlyArray<unknown>) =>
    Effect.map(
      sql.unsafe<{ readonly count: number }>(
        `with gone as (delete from ${table} where ${where} returning 1) select count(*)::int as count from gone`,
        params
      ),
      count
    )

  const batches = (records: ReadonlyArray<VectorStore.StoredRecord>): ReadonlyArray<ReadonlyArray<unknown>> => {
    const result: Array<Array<Array<string | null>>> = []
    let bytes = Number.POSITIVE_INFINITY
    let batch: Array<Array<string | null>> = []
    // In the order of ids, so that two writers of the same records wait for each other instead of in a circle.
    for (const record of [...records].sort((a, b) => VectorStore.compareIds(a.id, b.id))) {
      const row = [record.id, written(record.vector), JSON.stringify(record.metadata), record.document ?? null]
      const size = row.reduce((sum, text) => sum + (text?.length ?? 0), 0)
      if (bytes + size > batchBytes || (batch[0]?.length ?? 0) >= batchRecords) {
        batch = [[], [], [], []]
        bytes = 0
        result.push(batch)
      }
      bytes += size
      row.forEach((text, column) => {
        batch[column]?.push(text)
      })
    }
    return result
  }

  const write = (table: string, columns: ReadonlyArray<unknown>) =>
    sql.unsafe(
      `insert into ${table} (id, embedding, metadata, document)
       select id, embedding::vector, metadata::jsonb, document
       from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as given (id, embedding, metadata, document)
       on conflict (id) do update
       set embedding = excluded.embedding, metadata = excluded.metadata, document = excluded.document`,
      columns
    )

  const search = (collection: Collection, query: VectorStore.Query, limit: number) => {
    const params: Array<unknown> = [written(query.vector), limit]
    const distance = `embedding ${operators[collection.metric]} $1::vector`
    const where = condition(query.filter, params)
    // An index can give the order by distance only, so equal ones are put in order outside of it.
    const order = collection.indexed ? distance : `${distance}, id`
    const statement = sql.unsafe<Row & { readonly distance: number }>(
      `select id, metadata, document, distance, embedding from (
         select id, metadata, document, ${query.includeVector ? "embedding::text" : "''"} as embedding,
           ${distance} as distance
         from ${collection.table} where ${where} order by ${order} limit $2::int
       ) as nearest order by distance, id`,
      params
    )
    if (!collection.indexed) return statement
    const efSearch = Math.min(1_000, Math.max(hnsw?.efSearch ?? 100, limit))
    return sql.withTransaction(
      Effect.zipRight(
        // The memory of a scan is bounded by the points that it may look at; by itself it would end long before them.
        sql`select set_config('hnsw.iterative_scan', 'strict_order', true),
              set_config('hnsw.scan_mem_multiplier', '1000', true),
              set_config('hnsw.ef_search', ${String(efSearch)}, true),
              set_config('hnsw.max_scan_tuples', ${String(hnsw?.maxScanTuples ?? 1_000_000)}, true)`,
        statement
      )
    )
  }

  const matchOf = (collection: Collection, row: Row & { readonly distance: number }, query: VectorStore.Query) => {
    // The server reckons in single precision, which can come out a little below nothing.
    const distance = collection.metric === "dot" ? row.distance : Math.max(0, row.distance)
    const { vector, ...record } = recordOf(row)
    return {
      ...record,
      distance,
      score: VectorStore.scoreOf(collection.metric, distance),
      metric: collection.metric,
      ...(query.includeVector ? { vector } : {})
    }
  }

  const make = (name: string, shape: VectorStore.CollectionShape): Effect.Effect<void, Fail> =>
    Effect.gen(function* () {
      const existing = yield* lookUp(name)
      if (existing !== undefined) return yield* sameShape(existing, shape)
      const [row] = yield* sql.unsafe<CollectionRow>(
        `insert into ${registry} (name, dimensions, metric, indexed) values ($1, $2, $3, $4) returning *`,
        [name, shape.dimensions, shape.metric, hnsw !== undefined]
      )
      if (row === undefined) return yield* Effect.dieMessage("an insert returned nothing")
      const { id, table } = collectionOf(row)
      yield* sql.unsafe(`create table ${table} (
        id text collate "C" primary key,
        embedding vector(${shape.dimensions}) not null,
        metadata jsonb not null,
        document text
      )`)
      yield* sql.unsafe(
        `create index ${quote(`${prefix}_${id}_metadata`)} on ${table} using gin (metadata jsonb_path_ops)`
      )
      if (hnsw !== undefined) {
        const number = (value: number) => Math.trunc(value)
        yield* sql.unsafe(
          `create index ${quote(`${prefix}_${id}_hnsw`)} on ${table}
           using hnsw (embedding ${operatorClasses[shape.metric]})
           with (m = ${number(hnsw.m ?? 16)}, ef_construction = ${number(hnsw.efConstruction ?? 64)})`
        )
      }
    })

  const sameShape = (existing: Collection, shape: VectorStore.CollectionShape) =>
    existing.dimensions === shape.dimensions && existing.metric === shape.metric
      ? Effect.void
      : VectorStore.mismatch("ensureCollection", existing, shape)

  const typed =
    (method: string, name?: string) =>
    <A>(effect: Effect.Effect<A, Fail>): Effect.Effect<A, VectorStore.VectorStoreError> =>
      Effect.catchTag(effect, "SqlError", (error) => fromSql(method, error, name))

  return VectorStore.VectorStore.of({
    capabilities,
    ensureCollection: (name, shape) =>
      Effect.gen(function* () {
        yield* VectorStore.checkName("ensureCollection", name)
        yield* VectorStore.checkShape("ensureCollection", name, shape, capabilities)
        // Mostly it is there, and then nobody has to wait for anybody.
        const existing = yield* lookUp(name)
        yield* existing === undefined ? changing(make(name, shape)) : sameShape(existing, shape)
      }).pipe(typed("ensureCollection", name)),
    dropCollection: (name) =>
      Effect.gen(function* () {
        if (!VectorStore.isStorableText(name)) return false
        known.delete(name)
        const [row] = yield* sql.unsafe<CollectionRow>(`delete from ${registry} where name = $1 returning *`, [name])
        if (row === undefined) return false
        yield* sql.unsafe(`drop table if exists ${collectionOf(row).table}`)
        return true
      }).pipe(changing, typed("dropCollection", name)),
    collections: Effect.map(sql.unsafe<CollectionRow>(`select * from ${registry} order by name`), (rows) =>
      rows.map((row) => {
        const { dimensions, metric, name } = collectionOf(row)
        return { name, dimensions, metric }
      })
    ).pipe(typed("collections")),
    upsert: (name, records) =>
      withCollection("upsert", name, (collection) =>
        Effect.flatMap(VectorStore.checkRecords("upsert", collection, records), (checked) => {
          const all = batches(checked)
          const [only] = all
          if (only === undefined) return Effect.void
          return all.length === 1
            ? Effect.asVoid(write(collection.table, only))
            : sql.withTransaction(Effect.forEach(all, (batch) => write(collection.table, batch), { discard: true }))
        })
      ),
    get: (name, ids) =>
      withCollection("get", name, ({ table }) =>
        Effect.map(
          sql.unsafe<Row>(
            `select id, embedding::text as embedding, metadata, document from ${table} where id = any($1::text[])`,
            [ids.filter(VectorStore.isStorableText)]
          ),
          (rows) => {
            const byId = new Map(rows.map((row) => [row.id, row]))
            return ids.flatMap((id) => {
              const row = byId.get(id)
              return row === undefined ? [] : [recordOf(row)]
            })
          }
        )
      ),
    query: (name, query) =>
      withCollection("query", name, (collection) =>
        Effect.flatMap(VectorStore.checkQuery(collection, query), ({ limit, minScore }) =>
          Effect.map(search(collection, query, limit), (rows) =>
            rows.map((row) => matchOf(collection, row, query)).filter(({ score }) => score >= minScore)
          )
        )
      ),
    delete: (name, ids) =>
      withCollection("delete", name, ({ table }) =>
        removed(table, "id = any($1::text[])", [ids.filter(VectorStore.isStorableText)])
      ),
    deleteWhere: (name, filter) =>
      withCollection("deleteWhere", name, ({ table }) =>
        Effect.zipRight(
          VectorStore.checkFilter("deleteWhere", name, filter),
          Effect.suspend(() => {
            const params: Array<unknown> = []
            return removed(table, condition(filter, params), params)
          })
        )
      ),
    deleteAll: (name) => withCollection("deleteAll", name, ({ table }) => removed(table, "true", [])),
    count: (name, filter) =>
      withCollection("count", name, ({ table }) =>
        Effect.zipRight(
          VectorStore.checkFilter("count", name, filter),
          Effect.suspend(() => {
            const params: Array<unknown> = []
            const where = condition(filter, params)
            return Effect.map(
              sql.unsafe<{ readonly count: number }>(
                `select count(*)::int as count from ${table} where ${where}`,
                params
              ),
              count
            )
          })
        )
      ),
    scroll: (name, scroll) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const size = yield* VectorStore.checkPageSize(name, scroll?.pageSize)
          yield* VectorStore.checkFilter("scroll", name, scroll?.filter)
          return Stream.paginateChunkEffect("", (after) =>
            withCollection("scroll", name, ({ table }) => {
              const params: Array<unknown> = [after, size]
              return sql.unsafe<Row>(
                `select id, embedding::text as embedding, metadata, document from ${table}
                 where id > $1 and ${condition(scroll?.filter, params)} order by id limit $2::int`,
                params
              )
            }).pipe(
              Effect.map((rows) => {
                const last = rows[rows.length - 1]
                return [
                  Chunk.unsafeFromArray(rows.map(recordOf)),
                  last === undefined || rows.length < size ? Option.none() : Option.some(last.id)
                ] as const
              })
            )
          )
        })
      )
  })
})

/**
 * The store as a layer, exact, with the usual names.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<VectorStore.VectorStore, VectorStore.VectorStoreError, SqlClient> = Layer.effect(
  VectorStore.VectorStore,
  make()
)

/**
 * The store as a layer with a schema, names or an index of your own.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  options: PgVectorOptions
): Layer.Layer<VectorStore.VectorStore, VectorStore.VectorStoreError, SqlClient> =>
  Layer.effect(VectorStore.VectorStore, make(options))
