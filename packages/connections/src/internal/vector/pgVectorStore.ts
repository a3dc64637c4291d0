/** The port `VectorStore` over an `SqlClient` for a PostgreSQL that has pgvector. */
import { type SqlClient, TransactionConnection } from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { isPersistent } from "../sql/client.ts"
import { toConnectionError } from "../sql/sqlState.ts"
import * as FloatText from "./floatText.ts"
import * as Statements from "./pgStatements.ts"
import type { PgVectorOptions } from "./pgVectorOptions.ts"
import * as Recent from "./recent.ts"

type Store = Context.Tag.Service<VectorStore.VectorStore>
type Fail = VectorStore.VectorStoreError | SqlError
type Collection = Statements.Collection

const failureOf = (error: SqlError): ConnectionError =>
  toConnectionError({ kind: "pgvector", name: "sql", method: "execute" }, error.cause)

const codeOf = (error: SqlError): string => failureOf(error).code ?? ""

const missing = "is the extension vector still there, in a schema of the search path?"

/** The error of a statement: by its SQLSTATE, and where pgvector has a meaning of its own for one, by that. */
const fromSql = (method: string, error: SqlError, collection?: string): VectorStore.VectorStoreError => {
  const failure = failureOf(error)
  const make = (reason: VectorStore.VectorStoreErrorReason, description: string) =>
    new VectorStore.VectorStoreError({
      reason,
      method,
      ...(collection === undefined ? {} : { collection }),
      description,
      cause: failure
    })
  switch (failure.code) {
    case "22000": // "expected 3 dimensions, not 2"
      return make("DimensionMismatch", "the vector has other dimensions than the table")
    case "22003":
      return make("InvalidRequest", "a number of the vector is out of the range of its type")
    case "54000": // more dimensions than an index can have, more levels of a filter than the server can bear
    case "54001":
      return make("InvalidRequest", "it is beyond a limit of the server: fewer dimensions, or a simpler filter")
    case "42704": // type "vector" does not exist
    case "42883": // operator does not exist: vector <=> vector
      return make("Unsupported", `the server does not know a type or an operator of pgvector: ${missing}`)
    default:
      return VectorStore.fromConnectionError(method, failure, collection)
  }
}

const noTable = "42P01"

/** Other dimensions than the table has (22000), or columns that it has not (42703). */
const otherShape = new Set([noTable, "22000", "42703"])

/** The collection is another than the one that was remembered. */
const isOutdated = (error: Fail): boolean =>
  error._tag === "SqlError" ? otherShape.has(codeOf(error)) : error.reason === "DimensionMismatch"

const maxAge = 30_000

const quote = (name: string): string => `"${name.replace(/"/g, '""')}"`

const batchRecords = 500
const batchBytes = 4_000_000

interface Row {
  readonly id: string
  readonly embedding: string
  readonly metadata: VectorStore.Metadata
  readonly document: string | null
}

const withoutVector = (row: Omit<Row, "embedding">) => ({
  id: row.id,
  metadata: row.metadata,
  ...(row.document === null ? {} : { document: row.document })
})

const recordOf = (row: Row): VectorStore.StoredRecord => ({
  ...withoutVector(row),
  vector: Statements.read(row.embedding)
})

// The server reckons in single precision, which can come out a little below nothing, and it knows a zero below zero.
const distanceOf = (metric: VectorStore.Metric, distance: number): number =>
  metric === "dot" ? (distance === 0 ? 0 : distance) : Math.max(0, distance)

const isMetric = Schema.is(VectorStore.Metric)

interface CollectionRow {
  readonly id: number
  readonly name: string
  readonly dimensions: number
  readonly metric: string
  readonly indexed: boolean
  readonly options: {
    readonly access?: Statements.Access
    readonly efSearch?: number
    readonly maxScanTuples?: number
    readonly text?: boolean
  }
}

/** The store and what has to be done once before it is used. */
export interface Made {
  readonly store: Store
  /** Makes the extension and the list of collections if they are not there. */
  readonly setUp: Effect.Effect<void, VectorStore.VectorStoreError>
}

export const make = (sql: SqlClient, options: PgVectorOptions): Effect.Effect<Made, VectorStore.VectorStoreError> =>
  Effect.gen(function* () {
    const prefix = options.prefix ?? "underlay_vectors"
    const hnsw = options.hnsw === true ? {} : options.hnsw === false ? undefined : options.hnsw
    const byDefault: VectorStore.CollectionIndex = hnsw === undefined ? { kind: "exact" } : { kind: "hnsw", ...hnsw }
    const maxScanTuples = hnsw?.maxScanTuples
    const text = options.textSearch ?? true
    const inSchema = (name: string): string =>
      options.schema === undefined ? quote(name) : `${quote(options.schema)}.${quote(name)}`
    const registry = inSchema(`${prefix}_collections`)
    const known = Recent.make<{ readonly collection: Collection; readonly at: number }>(Recent.mostCollections)
    let hasHnsw = false
    let isSetUp = false

    const failure = (reason: VectorStore.VectorStoreErrorReason, description: string) =>
      new VectorStore.VectorStoreError({ reason, method: "make", description })

    for (const name of [prefix, options.schema ?? "public"]) {
      // 63 bytes is the most that PostgreSQL keeps of a name, and the prefix is only its beginning.
      if (typeof name !== "string" || !/^[a-zA-Z_][a-zA-Z0-9_]{0,39}$/.test(name)) {
        return yield* failure(
          "InvalidRequest",
          `${JSON.stringify(name)}: schema and prefix are up to 40 letters, digits and _, no digit first`
        )
      }
    }
    if (
      maxScanTuples !== undefined &&
      !(Number.isInteger(maxScanTuples) && maxScanTuples >= 1 && maxScanTuples < 2 ** 31)
    ) {
      return yield* failure("InvalidRequest", "maxScanTuples must be a whole number from 1 up")
    }

    const capabilities: VectorStore.Capabilities = {
      persistent: isPersistent(sql),
      exact: byDefault.kind === "exact",
      atomicBatches: true,
      metrics: ["cosine", "l2", "dot"],
      maxDimensions: byDefault.kind === "exact" ? 16_000 : Statements.maxHalf,
      indexes: ["exact", "hnsw"],
      textSearch: true,
      hybrid: true
    }
    yield* VectorStore.checkIndex("make", "*", { index: byDefault }, capabilities)

    const run = <A extends object>({ params, sql: text }: Statements.Statement) => sql.unsafe<A>(text, params)

    // One key for all changes of shape: two processes that start at once must not trip over each other.
    const changing = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E | SqlError> =>
      sql.withTransaction(
        Effect.zipRight(sql`select pg_advisory_xact_lock(hashtextextended(${`underlay ${registry}`}, 0))`, effect)
      )

    interface Found {
      readonly installed: string | null
      readonly newest: string | null
      readonly visible: boolean
      readonly schema: string | null
      readonly columns: number
    }

    const look = Effect.map(
      sql.unsafe<Found>(
        `select installed_version as installed, default_version as newest, to_regtype('vector') is not null as visible,
           (select extnamespace::regnamespace::text from pg_extension where extname = 'vector') as schema,
           (select count(*)::int from pg_attribute
            where attrelid = to_regclass($1) and attname in ('options', 'indexed') and not attisdropped) as columns
         from pg_available_extensions where name = 'vector'`,
        [registry]
      ),
      ([found]) => found
    )

    // Where all is there, nothing is made: an account that may not make anything will do.
    const isComplete = (found: Found): boolean => found.installed !== null && found.visible && found.columns === 2

    const notThere = failure(
      "Unsupported",
      "this server has no pgvector: install it beside the server (Debian: postgresql-<version>-pgvector; " +
        "container image: pgvector/pgvector), or give PGlite the package @electric-sql/pglite-pgvector"
    )

    const makeMissing = (found: Found) =>
      Effect.gen(function* () {
        if (found.installed === null) yield* sql`create extension if not exists vector`
        if (options.schema !== undefined) yield* sql.unsafe(`create schema if not exists ${quote(options.schema)}`)
        yield* sql.unsafe(`create table if not exists ${registry} (
          id integer generated always as identity primary key,
          name text collate "C" not null unique,
          dimensions integer not null,
          metric text not null,
          indexed boolean not null,
          options jsonb not null default '{}'
        )`)
        if (found.columns === 1) {
          yield* sql.unsafe(`alter table ${registry} add column if not exists options jsonb not null default '{}'`)
        }
      })

    const setUp: Effect.Effect<void, VectorStore.VectorStoreError> = Effect.gen(function* () {
      let found = yield* look
      if (found === undefined) return yield* notThere
      if (!isComplete(found)) {
        // Another process may have made some of it while this one waited for its turn.
        found = yield* changing(
          Effect.flatMap(
            look,
            (now): Effect.Effect<Found | undefined, Fail> =>
              now === undefined ? notThere : Effect.zipRight(isComplete(now) ? Effect.void : makeMissing(now), look)
          )
        )
        if (found === undefined) return yield* notThere
        if (!found.visible) {
          return yield* failure(
            "Unsupported",
            `pgvector is in the schema ${found.schema ?? "?"}, which is not in the search path of this user: add it there`
          )
        }
      }
      const version = found.installed ?? found.newest ?? "0"
      const [major = 0, minor = 0] = version.split(".").map(Number)
      hasHnsw = major > 0 || minor >= 8
      if (byDefault.kind === "hnsw" && !hasHnsw) return yield* tooOld(version)
      // What was made in the caller's transaction may yet be rolled back.
      isSetUp = Option.isNone(yield* Effect.serviceOption(TransactionConnection))
    }).pipe(Effect.catchTag("SqlError", (error) => fromSql("make", error)))

    const tooOld = (version: string) =>
      failure(
        "Unsupported",
        `filtered searches with an HNSW index need pgvector 0.8, this is ${version}: update it, or search exactly`
      )

    const ready = Effect.suspend(() => (isSetUp ? Effect.void : setUp))

    const collectionOf = (row: CollectionRow): Collection => ({
      id: row.id,
      name: row.name,
      dimensions: row.dimensions,
      metric: isMetric(row.metric) ? row.metric : "cosine",
      table: inSchema(`${prefix}_${row.id}`),
      access: row.options.access ?? (row.indexed ? "hnsw" : "exact"),
      efSearch: row.options.efSearch,
      maxScanTuples: maxScanTuples ?? row.options.maxScanTuples,
      text: row.options.text ?? false
    })

    const lookUp = (name: string): Effect.Effect<Collection | undefined, SqlError> =>
      Effect.flatMap(Clock.currentTimeMillis, (at) =>
        Effect.map(sql.unsafe<CollectionRow>(`select * from ${registry} where name = $1`, [name]), ([row]) => {
          if (row === undefined) {
            known.delete(name)
            return undefined
          }
          const collection = collectionOf(row)
          known.set(name, { collection, at })
          return collection
        })
      )

    const typed =
      (method: string, name?: string) =>
      <A>(effect: Effect.Effect<A, Fail>): Effect.Effect<A, VectorStore.VectorStoreError> =>
        Effect.catchTag(effect, "SqlError", (error) => fromSql(method, error, name))

    /**
     * Runs `f` with the collection. What is known of it may be out of date, when another process dropped it and perhaps
     * made it again: it is looked up once more when it is older than half a minute, and when its table is not there, or a
     * vector has other dimensions. In the caller's transaction, which a failed statement would break, it is looked up
     * every time.
     */
    const withCollection = <A>(
      method: string,
      name: string,
      f: (collection: Collection) => Effect.Effect<A, Fail>
    ): Effect.Effect<A, VectorStore.VectorStoreError> => {
      if (!VectorStore.isName(name))
        return VectorStore.notFound(method, typeof name === "string" ? name : `(${typeof name})`)
      const found = (collection: Collection | undefined): Effect.Effect<A, Fail> =>
        collection === undefined ? VectorStore.notFound(method, name) : f(collection)
      const fresh = Effect.suspend(() => Effect.zipRight(ready, Effect.flatMap(lookUp(name), found)))
      const typed = (error: Fail): VectorStore.VectorStoreError =>
        error._tag !== "SqlError"
          ? error
          : codeOf(error) === noTable
            ? VectorStore.notFound(method, name)
            : fromSql(method, error, name)
      return Effect.flatMap(Effect.context<never>(), (context): Effect.Effect<A, VectorStore.VectorStoreError> => {
        const inside = Option.isSome(Context.getOption(context, TransactionConnection))
        const remembered = inside ? undefined : known.get(name)
        if (remembered === undefined) return Effect.mapError(fresh, typed)
        return Effect.flatMap(Clock.currentTimeMillis, (now) =>
          now - remembered.at > maxAge || now < remembered.at
            ? Effect.mapError(fresh, typed)
            : Effect.catchAll(f(remembered.collection), (error) =>
                isOutdated(error) ? Effect.mapError(fresh, typed) : Effect.fail(typed(error))
              )
        )
      })
    }

    const counted = (statement: Statements.Statement): Effect.Effect<number, SqlError> =>
      Effect.map(run<{ readonly count: number }>(statement), ([row]) => row?.count ?? 0)

    const outOfRange = (method: string, collection: Collection, vector: ReadonlyArray<number>) =>
      collection.access === "half" && collection.metric !== "cosine" && vector.some(isTooLarge)
        ? new VectorStore.VectorStoreError({
            reason: method === "upsert" ? "InvalidRecord" : "InvalidRequest",
            method,
            collection: collection.name,
            description: `the index of this collection holds numbers up to ${Statements.largestHalf}, the vector has larger ones`
          })
        : Effect.void

    const write = (collection: Collection, checked: ReadonlyArray<VectorStore.StoredRecord>) => {
      // In the order of ids, so that two writers of the same records wait for each other instead of in a circle.
      const sorted = [...checked].sort((a, b) => VectorStore.compareIds(a.id, b.id))
      const rows = sorted.map(
        ({ document, id, metadata, vector }) =>
          [id, FloatText.write(vector), JSON.stringify(metadata), document ?? null] as const
      )
      const all = VectorStore.batches(rows, {
        maxCount: batchRecords,
        maxBytes: batchBytes,
        // The words of a document go along with it, and to find them must not hold up the process for long.
        sizeOf: ([id, vector, metadata, document]) =>
          id.length + vector.length + metadata.length + (document?.length ?? 0) * (collection.text ? 4 : 1)
      })
      const one = (batch: (typeof all)[number]) => Effect.suspend(() => run(Statements.upsert(collection, batch)))
      const [only] = all
      if (only === undefined) return Effect.void
      return all.length === 1
        ? Effect.asVoid(one(only))
        : sql.withTransaction(Effect.forEach(all, one, { discard: true }))
    }

    const accessOf = (index: VectorStore.CollectionIndex, shape: VectorStore.CollectionShape): Statements.Access =>
      index.kind === "exact" ? "exact" : shape.dimensions <= Statements.maxIndexed ? "hnsw" : "half"

    const create = (
      name: string,
      shape: VectorStore.CollectionShape,
      index: VectorStore.CollectionIndex
    ): Effect.Effect<void, Fail> =>
      Effect.gen(function* () {
        const existing = yield* lookUp(name)
        if (existing !== undefined) return yield* sameShape(existing, shape)
        const access = accessOf(index, shape)
        const efSearch = index.kind === "hnsw" ? index.efSearch : undefined
        const [row] = yield* sql.unsafe<CollectionRow>(
          `insert into ${registry} (name, dimensions, metric, indexed, options)
           values ($1, $2, $3, $4, $5::jsonb) returning *`,
          [
            name,
            shape.dimensions,
            shape.metric,
            access !== "exact",
            JSON.stringify({ access, efSearch, maxScanTuples, text })
          ]
        )
        if (row === undefined) return yield* Effect.dieMessage("an insert returned nothing")
        const collection = collectionOf(row)
        const { id, table } = collection
        yield* sql.unsafe(`create table ${table} (
          id text collate "C" primary key,
          embedding vector(${shape.dimensions}) not null,
          metadata jsonb not null,
          document text${text ? ", words tsvector, word_count integer not null default 0" : ""}
        )`)
        yield* sql.unsafe(
          `create index ${quote(`${prefix}_${id}_metadata`)} on ${table} using gin (metadata jsonb_path_ops)`
        )
        if (text) yield* sql.unsafe(`create index ${quote(`${prefix}_${id}_words`)} on ${table} using gin (words)`)
        if (index.kind === "hnsw") {
          const m = index.m ?? Math.min(16, Math.floor((index.efConstruction ?? 64) / 2))
          yield* sql.unsafe(
            `create index ${quote(`${prefix}_${id}_hnsw`)} on ${table} ${Statements.index(
              collection,
              m,
              index.efConstruction ?? Math.max(64, 2 * m)
            )}`
          )
        }
      })

    const sameShape = (existing: Collection, shape: VectorStore.CollectionShape) =>
      existing.dimensions === shape.dimensions && existing.metric === shape.metric
        ? Effect.void
        : VectorStore.mismatch("ensureCollection", existing, shape)

    const matchOf = (
      { metric }: Collection,
      row: Omit<Row, "embedding"> & { readonly distance: number; readonly embedding?: string }
    ): VectorStore.Match => {
      const distance = distanceOf(metric, row.distance)
      return {
        ...withoutVector(row),
        distance,
        score: VectorStore.scoreOf(metric, distance),
        metric,
        ...(row.embedding === undefined ? {} : { vector: Statements.read(row.embedding) })
      }
    }

    // For collections that were made without an index of words: what the port does for any store.
    const plain = (): Store => ({ ...store, searchText: undefined, searchHybrid: undefined })

    interface HybridRow extends Omit<Row, "embedding"> {
      readonly score: number
      readonly vector_rank: number | null
      readonly text_rank: number | null
      readonly distance: number | null
      readonly embedding?: string
    }

    const store: Store = VectorStore.VectorStore.of({
      capabilities,
      ensureCollection: (name, shape, given) =>
        Effect.gen(function* () {
          yield* VectorStore.checkName("ensureCollection", name)
          const index = given?.index ?? byDefault
          const most = index.kind === "hnsw" ? Statements.maxHalf : 16_000
          yield* VectorStore.checkShape("ensureCollection", name, shape, { ...capabilities, maxDimensions: most })
          yield* VectorStore.checkIndex("ensureCollection", name, given, capabilities)
          yield* ready
          if (index.kind === "hnsw" && !hasHnsw) return yield* tooOld("older")
          // Mostly it is there, and then nobody has to wait for anybody.
          const existing = yield* lookUp(name)
          yield* existing === undefined ? changing(create(name, shape, index)) : sameShape(existing, shape)
        }).pipe(typed("ensureCollection", typeof name === "string" ? name : undefined)),
      dropCollection: (name) =>
        VectorStore.checkKnownName("dropCollection", name).pipe(
          Effect.zipRight(ready),
          Effect.zipRight(
            changing(
              Effect.gen(function* () {
                known.delete(name)
                const [row] = yield* sql.unsafe<CollectionRow>(`delete from ${registry} where name = $1 returning *`, [
                  name
                ])
                if (row === undefined) return false
                yield* sql.unsafe(`drop table if exists ${collectionOf(row).table}`)
                return true
              })
            )
          ),
          typed("dropCollection", typeof name === "string" ? name : undefined),
          Effect.catchIf(
            (error) => error.reason === "CollectionNotFound",
            () => Effect.succeed(false)
          )
        ),
      collections: Effect.zipRight(
        ready,
        Effect.map(sql.unsafe<CollectionRow>(`select * from ${registry} order by name`), (rows) =>
          rows.map((row) => {
            const { dimensions, metric, name } = collectionOf(row)
            return { name, dimensions, metric }
          })
        )
      ).pipe(typed("collections")),
      upsert: (name, records) =>
        withCollection("upsert", name, (collection) =>
          Effect.gen(function* () {
            const checked = yield* VectorStore.checkRecords("upsert", collection, records)
            for (const { vector } of collection.access === "half" ? checked : []) {
              yield* outOfRange("upsert", collection, vector)
            }
            return yield* write(collection, checked)
          })
        ),
      get: (name, ids) =>
        withCollection("get", name, (collection) =>
          Effect.gen(function* () {
            const wanted = yield* VectorStore.checkIds("get", name, ids)
            const rows = yield* run<Row>(Statements.get(collection, wanted))
            const byId = new Map(rows.map((row) => [row.id, row]))
            return wanted.flatMap((id) => {
              const row = byId.get(id)
              return row === undefined ? [] : [recordOf(row)]
            })
          })
        ),
      query: (name, query) =>
        withCollection("query", name, (collection) =>
          Effect.flatMap(VectorStore.checkQuery(collection, query), ({ limit, minScore }) => {
            const asked = Effect.map(
              run<Row & { readonly distance: number }>(Statements.query(collection, query, limit)),
              (rows) => {
                const matches = rows.map((row) => matchOf(collection, row))
                return minScore === Number.NEGATIVE_INFINITY
                  ? matches
                  : matches.filter(({ score }) => score >= minScore)
              }
            )
            return collection.access === "half"
              ? Effect.zipRight(outOfRange("query", collection, query.vector), asked)
              : asked
          })
        ),
      delete: (name, ids) =>
        withCollection("delete", name, ({ table }) =>
          Effect.flatMap(VectorStore.checkIds("delete", name, ids), (wanted) =>
            counted(Statements.remove(table, "id = any($1::text[])", [wanted]))
          )
        ),
      deleteWhere: (name, filter) =>
        withCollection("deleteWhere", name, (collection) =>
          Effect.zipRight(
            VectorStore.checkDeleteFilter("deleteWhere", name, filter),
            Effect.suspend(() => counted(Statements.removeWhere(collection, filter)))
          )
        ),
      deleteAll: (name) =>
        withCollection("deleteAll", name, ({ table }) => counted(Statements.remove(table, "true", []))),
      count: (name, filter) =>
        withCollection("count", name, (collection) =>
          Effect.zipRight(
            VectorStore.checkFilter("count", name, filter),
            Effect.suspend(() => counted(Statements.count(collection, filter)))
          )
        ),
      scroll: (name, scroll) =>
        Stream.unwrap(
          Effect.gen(function* () {
            const size = yield* VectorStore.checkPageSize(name, scroll?.pageSize)
            yield* VectorStore.checkFilter("scroll", name, scroll?.filter)
            return Stream.paginateChunkEffect("", (after) =>
              withCollection("scroll", name, (collection) =>
                run<Row>(Statements.page(collection, after, size, scroll?.filter))
              ).pipe(
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
        ),
      searchText: (name, query) =>
        withCollection("searchText", name, (collection) =>
          Effect.gen(function* () {
            if (!collection.text) return yield* VectorStore.searchText(plain(), { ...query, collection: name })
            const { limit, words } = yield* VectorStore.checkTextQuery(name, query)
            if (words.length === 0) return []
            const rows = yield* run<Row & { readonly score: number }>(
              Statements.searchText(collection, words, query.filter, limit)
            )
            return rows.map((row) => ({ ...withoutVector(row), score: row.score }))
          })
        ),
      searchHybrid: (name, query) =>
        withCollection("hybrid", name, (collection) =>
          Effect.gen(function* () {
            if (!collection.text) return yield* VectorStore.hybrid(plain(), { ...query, collection: name })
            const checked = yield* VectorStore.checkHybrid(name, query)
            const { minScore } = yield* VectorStore.checkQuery(collection, query)
            yield* outOfRange("hybrid", collection, query.vector)
            const statement = Statements.hybrid(collection, {
              ...checked,
              vector: query.vector,
              filter: query.filter,
              minScore,
              includeVector: query.includeVector === true
            })
            const rows = yield* run<HybridRow>(statement)
            return rows.map(
              (row): VectorStore.HybridMatch => ({
                ...withoutVector(row),
                score: row.score,
                ...(row.vector_rank === null ? {} : { vectorRank: row.vector_rank }),
                ...(row.text_rank === null ? {} : { textRank: row.text_rank }),
                ...(row.distance === null
                  ? {}
                  : {
                      similarity: VectorStore.scoreOf(collection.metric, distanceOf(collection.metric, row.distance))
                    }),
                ...(row.embedding === undefined ? {} : { vector: Statements.read(row.embedding) })
              })
            )
          })
        )
    })
    return { store, setUp: ready }
  })

const isTooLarge = (value: number): boolean => Math.abs(value) > Statements.largestHalf
