/** The statements of a vector store on pgvector: one a batch of records, one a search. */
import * as TextSearch from "@underlay/core/storage/TextSearch"
import type * as VectorStore from "@underlay/core/storage/VectorStore"
import * as FloatText from "./floatText.ts"
import { compile } from "./pgFilter.ts"

/** How the vectors of a collection are searched: all of them, by an index, or by one of half the precision. */
export type Access = "exact" | "hnsw" | "half"

/** A collection with what the statements need of it. */
export interface Collection extends VectorStore.CollectionInfo {
  readonly id: number
  readonly table: string
  readonly access: Access
  readonly efSearch: number | undefined
  readonly maxScanTuples: number | undefined
  /** Whether the words of the documents are kept. */
  readonly text: boolean
}

export interface Statement {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
}

/** What an index of vectors, and one of halves, can hold at most. */
export const maxIndexed = 2_000
export const maxHalf = 4_000
/** The largest number that half precision has. */
export const largestHalf = 65_504

const operators = { cosine: "<=>", l2: "<->", dot: "<#>" } as const
const classes = { cosine: "cosine_ops", l2: "l2_ops", dot: "ip_ops" } as const

/** What the index of halves is on. Under cosine the length does not matter, so it may as well be one, which fits. */
const half = ({ dimensions, metric }: Pick<Collection, "dimensions" | "metric">, vector: string): string =>
  metric === "cosine" ? `l2_normalize(${vector})::halfvec(${dimensions})` : `(${vector})::halfvec(${dimensions})`

export const index = (
  collection: Pick<Collection, "dimensions" | "metric" | "access">,
  m: number,
  efConstruction: number
): string => {
  const on =
    collection.access === "half"
      ? `((${half(collection, "embedding")}) halfvec_${classes[collection.metric]})`
      : `(embedding vector_${classes[collection.metric]})`
  return `using hnsw ${on} with (m = ${Math.trunc(m)}, ef_construction = ${Math.trunc(efConstruction)})`
}

/** The server prints as few digits as tell a 32-bit float from its neighbours. */
export const read = (vector: string): ReadonlyArray<number> =>
  vector
    .slice(1, -1)
    .split(",")
    .map((digits) => Math.fround(Number(digits)))

/** For each count the positions from 1 to it: as many as a word has, the sooner it is told how often it is there. */
const positions = Array.from({ length: TextSearch.maxCount + 1 }, (_, count) =>
  Array.from({ length: count }, (_, position) => position + 1).join(",")
)

/** The words of a document as a tsvector. Each has as many positions as it is there, but they tell of no place. */
const lexemes = (words: TextSearch.Words): string => {
  let text = ""
  for (const [word, count] of words) text += `'${word}':${positions[count]} `
  return text
}

const asQuery = (word: string): string => `'${word}'`

/**
 * How often a word is in a tsvector is told by `ts_rank` of that word alone, many times faster than by taking the vector
 * apart: with n positions it is the sum of 1/1, 1/4, … to 1/n², divided by what that comes to in the end. Between the sums
 * are the thresholds that tell them apart.
 */
const thresholds = ((): string => {
  const middles: Array<string> = []
  let sum = 0
  for (let n = 1; n <= TextSearch.maxCount; n++) {
    const step = 1 / (n * n)
    middles.push(((sum + step / 2) / 1.64493406685).toFixed(7))
    sum += step
  }
  return `'{${middles.join(",")}}'::float8[]`
})()

/** Writes a batch, each record in place of the one of its id. */
export const upsert = (
  { table, text }: Collection,
  rows: ReadonlyArray<readonly [id: string, vector: string, metadata: string, document: string | null]>
): Statement => {
  const column = (at: 0 | 1 | 2 | 3) => rows.map((row) => row[at])
  const params: Array<unknown> = [column(0), column(1), column(2), column(3)]
  if (!text) {
    return {
      sql: `insert into ${table} (id, embedding, metadata, document)
        select id, embedding::vector, metadata::jsonb, document
        from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as given (id, embedding, metadata, document)
        on conflict (id) do update
        set embedding = excluded.embedding, metadata = excluded.metadata, document = excluded.document`,
      params
    }
  }
  const words = rows.map(([, , , document]) => (document === null ? undefined : TextSearch.words(document)))
  params.push(
    words.map((each) => (each === undefined || each.size === 0 ? null : lexemes(each))),
    words.map((each) => (each === undefined ? 0 : TextSearch.length(each)))
  )
  return {
    sql: `insert into ${table} (id, embedding, metadata, document, words, word_count)
      select id, embedding::vector, metadata::jsonb, document, words::tsvector, word_count
      from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
        as given (id, embedding, metadata, document, words, word_count)
      on conflict (id) do update
      set embedding = excluded.embedding, metadata = excluded.metadata, document = excluded.document,
        words = excluded.words, word_count = excluded.word_count`,
    params
  }
}

const condition = (filter: VectorStore.Filter.Filter | undefined, params: Array<unknown>): string =>
  filter === undefined ? "true" : compile(filter, params)

/**
 * The nearest, in a select that has `columns` and `distance`: the first parameter is the vector.
 *
 * An index gives the order by distance alone, so equal ones are put in order outside of it. Its settings hold for this
 * statement (or the transaction that it is in) and are made before the index is looked into, since what is read of the
 * table hangs on what sets them: by itself a scan ends long before the points that it may look at.
 */
const nearest = (collection: Collection, columns: string, where: string, limit: string, candidates: number): string => {
  const { access, efSearch = 100, maxScanTuples = 1_000_000, metric, table } = collection
  const distance = `embedding ${operators[metric]} $1::vector`
  if (access === "exact") {
    return `select ${columns}, ${distance} as distance from ${table} where ${where} order by ${distance}, id limit ${limit}`
  }
  const order =
    access === "hnsw"
      ? distance
      : `${half(collection, "embedding")} ${operators[metric]} ${half(collection, "$1::vector")}`
  // A scan that goes on comes upon points that are nearer than some it gave already. In strict order these would be left
  // out (measured: recall 0.96 where this has 0.998); so the order is a loose one, and a few more are put in order here.
  // Halves tell less, so more of them are compared in full.
  const inner = candidates + Math.min(candidates, access === "hnsw" ? 50 : 200)
  const ef = Math.min(1_000, Math.max(efSearch, inner))
  return `select ${columns}, distance from (
      select concat(
        set_config('hnsw.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.scan_mem_multiplier', '1000', true),
        set_config('hnsw.ef_search', '${ef}', true),
        set_config('hnsw.max_scan_tuples', '${Math.trunc(maxScanTuples)}', true)
      ) as done
    ) as settings cross join lateral (
      select *, ${distance} as distance from ${table}
      where settings.done is not null and ${where} order by ${order} limit ${inner}
    ) as near order by distance, id limit ${limit}`
}

/** The records nearest to a vector: id, metadata, document, distance and, if asked for, embedding. */
export const query = (collection: Collection, query: VectorStore.Query, limit: number): Statement => {
  const params: Array<unknown> = [FloatText.write(query.vector)]
  const columns = `id, metadata, document${query.includeVector === true ? ", embedding::text as embedding" : ""}`
  return {
    sql: nearest(collection, columns, condition(query.filter, params), String(Math.trunc(limit)), limit),
    params
  }
}

/**
 * The common table expressions that rank documents by BM25, the same that `TextSearch` reckons: `worded` has the ids and
 * scores of the best. What is rare is judged among the records that pass the filter.
 */
const worded = (
  { table }: Collection,
  words: ReadonlyArray<string>,
  where: string,
  limit: number,
  params: Array<unknown>
): string => {
  const asked = `$${params.push(words.map(asQuery))}::tsquery[]`
  const matching = `$${params.push(words.map(asQuery).join(" | "))}::tsquery`
  const { b, k1 } = TextSearch
  return `passing as (
      select count(*)::float8 as documents, sum(word_count)::float8 / count(*)::float8 as average
      from ${table} where word_count > 0 and ${where}
    ),
    hits as materialized (
      select * from (
        select id, word_count::float8 as length, nth,
          width_bucket(ts_rank('{1,1,1,1}', words, word)::float8, ${thresholds})::float8 as count
        from ${table} cross join unnest(${asked}) with ordinality as asked (word, nth)
        where words @@ ${matching} and ${where}
      ) as counted where count > 0
    ),
    worth as (
      select nth, ln(1 + (documents - matching + 0.5) / (matching + 0.5)) as worth
      from (select nth, count(*)::float8 as matching from hits group by nth) as counted cross join passing
    ),
    worded as (
      select id, sum(worth * count * (${k1}::float8 + 1) /
        (count + ${k1}::float8 * (1 - ${b}::float8 + ${b}::float8 * length / average)) order by nth) as score
      from hits join worth using (nth) cross join passing
      group by id order by score desc, id limit ${Math.trunc(limit)}
    )`
}

/** The records whose documents have one of the words: id, metadata, document and score. */
export const searchText = (
  collection: Collection,
  words: ReadonlyArray<string>,
  filter: VectorStore.Filter.Filter | undefined,
  limit: number
): Statement => {
  const params: Array<unknown> = []
  const ranked = worded(collection, words, condition(filter, params), limit, params)
  return {
    sql: `with ${ranked}
      select id, metadata, document, score from worded join ${collection.table} using (id) order by score desc, id`,
    params
  }
}

/** The score of a distance, as `VectorStore.scoreOf` reckons it. */
const scoreOf = (metric: VectorStore.Metric): string =>
  metric === "cosine"
    ? "1 - greatest(distance, 0)"
    : metric === "l2"
      ? "1 / (1 + greatest(distance, 0))"
      : "case when distance = 0 then 0 else -distance end"

export interface HybridStatement {
  readonly vector: ReadonlyArray<number>
  readonly words: ReadonlyArray<string>
  readonly filter: VectorStore.Filter.Filter | undefined
  readonly minScore: number
  readonly limit: number
  readonly candidates: number
  readonly k: number
  readonly vectorWeight: number
  readonly textWeight: number
  readonly includeVector: boolean
}

/**
 * Both lists and their fusion: id, metadata, document, score, vector_rank, text_rank, distance and, if asked for,
 * embedding.
 */
export const hybrid = (collection: Collection, query: HybridStatement): Statement => {
  const { candidates, includeVector, k, limit, minScore, textWeight, vectorWeight, words } = query
  const params: Array<unknown> = [FloatText.write(query.vector)]
  const where = condition(query.filter, params)
  const float = (value: number) => `$${params.push(value)}::float8`
  const threshold =
    minScore === Number.NEGATIVE_INFINITY ? "true" : `${scoreOf(collection.metric)} >= ${float(minScore)}`
  const near =
    vectorWeight === 0
      ? // The parameter needs its type all the same.
        `select null::text as id, null::float8 as distance, null::bigint as rank from (select $1::text) as unused where false`
      : `select id, distance, row_number() over (order by distance, id) as rank
         from (${nearest(collection, "id", where, String(candidates), candidates)}) as found where ${threshold}`
  const ranked = textWeight > 0 && words.length > 0
  const both = ranked ? `${worded(collection, words, where, candidates, params)},` : ""
  const text = ranked
    ? "select id, row_number() over (order by score desc, id) as rank from worded"
    : "select null::text as id, null::bigint as rank where false"
  return {
    sql: `with ${both}
      near as (${near}),
      ranked as (${text}),
      fused as (
        select coalesce(near.id, ranked.id) collate "C" as id, near.rank as vector_rank, ranked.rank as text_rank, distance,
          coalesce(${float(vectorWeight)} / (${float(k)} + near.rank), 0) +
          coalesce(${float(textWeight)} / (${float(k)} + ranked.rank), 0) as score
        from near full join ranked on near.id = ranked.id
        order by score desc, id limit ${Math.trunc(limit)}
      )
      select fused.id, metadata, document, score, vector_rank::int, text_rank::int, distance${
        includeVector ? ", embedding::text as embedding" : ""
      }
      from fused join ${collection.table} as record on record.id = fused.id
      order by score desc, id`,
    params
  }
}

/** How many records a condition takes away. */
export const remove = (table: string, where: string, params: ReadonlyArray<unknown>): Statement => ({
  sql: `with gone as (delete from ${table} where ${where} returning 1) select count(*)::int as count from gone`,
  params
})

export const removeWhere = ({ table }: Collection, filter: VectorStore.Filter.Filter): Statement => {
  const params: Array<unknown> = []
  return remove(table, compile(filter, params), params)
}

export const count = ({ table }: Collection, filter: VectorStore.Filter.Filter | undefined): Statement => {
  const params: Array<unknown> = []
  return { sql: `select count(*)::int as count from ${table} where ${condition(filter, params)}`, params }
}

export const get = ({ table }: Collection, ids: ReadonlyArray<string>): Statement => ({
  sql: `select id, embedding::text as embedding, metadata, document from ${table} where id = any($1::text[])`,
  params: [ids]
})

/** The page after an id, in the order of ids. */
export const page = (
  { table }: Collection,
  after: string,
  size: number,
  filter: VectorStore.Filter.Filter | undefined
): Statement => {
  const params: Array<unknown> = [after]
  return {
    sql: `select id, embedding::text as embedding, metadata, document from ${table}
      where id > $1::text and ${condition(filter, params)} order by id limit ${Math.trunc(size)}`,
    params
  }
}
