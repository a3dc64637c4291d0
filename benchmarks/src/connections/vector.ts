/**
 * Writing a hundred records and finding the ten nearest, beside pg, the official client of Chroma and that of Qdrant.
 * Qdrant itself runs nowhere here: both clients talk to a server in another process that gives the answers of one, so
 * what is measured there is the clients alone.
 */
import * as ChildProcess from "node:child_process"
import { QdrantClient } from "@qdrant/js-client-rest"
import * as Chroma from "@underlay/connections/vector/Chroma"
import * as PgVector from "@underlay/connections/vector/PgVector"
import * as Qdrant from "@underlay/connections/vector/Qdrant"
import type { VectorStore } from "@underlay/core"
import { ChromaClient } from "chromadb"
import { type Context, Effect, Redacted, type Scope } from "effect"
import Pg from "pg"
import * as ChromaServer from "../../../servers/src/ChromaServer.ts"
import * as PgVectorServer from "../../../servers/src/PgVectorServer.ts"
import type * as Load from "../redis/Load.ts"
import { type Comparing, checked, compared, peer } from "./place.ts"

type Store = Context.Tag.Service<VectorStore.VectorStore>

const dimensions = 384
const total = 2_000
const batch = 100

// The same numbers in every run.
let seed = 42
const random = (): number => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}
const vectorOf = (): Array<number> => Array.from({ length: dimensions }, () => Math.fround(random() - 0.5))
const records = Array.from({ length: total }, (_, index) => ({
  id: `record ${index}`,
  vector: vectorOf(),
  metadata: { kind: index % 2 === 0 ? "runbook" : "note", severity: index % 7 },
  document: `The text of record ${index}.`
}))
const wanted = Array.from({ length: 64 }, vectorOf)

const turning = <A>(values: ReadonlyArray<A>): (() => A) => {
  let at = 0
  return () => {
    const value = values[at++ % values.length]
    if (value === undefined) throw new Error("there is nothing to take")
    return value
  }
}
const batches = Array.from({ length: total / batch }, (_, index) => records.slice(index * batch, (index + 1) * batch))

interface Peer {
  readonly name: string
  readonly upsert: (part: typeof records) => Promise<unknown>
  readonly query: (vector: ReadonlyArray<number>) => Promise<unknown>
}

/** How many were found, in whatever form. */
const found = (answer: unknown): number => {
  if (Array.isArray(answer)) return answer.length
  if (typeof answer !== "object" || answer === null) return 0
  if ("rows" in answer && Array.isArray(answer.rows)) return answer.rows.length
  if ("points" in answer && Array.isArray(answer.points)) return answer.points.length
  if ("ids" in answer && Array.isArray(answer.ids)) return found(answer.ids[0])
  return 0
}

const both = (
  title: string,
  official: Peer,
  ours: ReadonlyArray<readonly [name: string, store: Store]>,
  collection: string,
  /** What makes all alike again after the writing, of which each did as much as it could. */
  settled: Effect.Effect<unknown> = Effect.void
): Effect.Effect<ReadonlyArray<Load.Result>, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const nextBatch = turning(batches)
    const nextVector = turning(wanted)
    for (const [, store] of ours) yield* store.ensureCollection(collection, { dimensions, metric: "cosine" })
    const writing: ReadonlyArray<Load.Subject> = [
      { name: official.name, promise: () => () => official.upsert(nextBatch()) },
      ...ours.map(
        ([name, store]): Load.Subject => ({
          name,
          effect: () => Effect.suspend(() => store.upsert(collection, nextBatch()))
        })
      )
    ]
    const limits: ReadonlyArray<Load.Limit> = [{ subject: "ours, internal", to: official.name, atMost: 1.1 }]
    const common = { base: official.name, limits, concurrency: [1], sliceMs: 250 }
    for (const part of batches) {
      yield* Effect.promise(() => official.upsert(part))
      for (const [, store] of ours) yield* store.upsert(collection, part)
    }
    const written = yield* compared({ title: `${title}: ${batch} records are written`, subjects: writing, ...common })
    yield* settled
    const asking = yield* checked(
      [
        { name: official.name, promise: () => () => official.query(nextVector()) },
        ...ours.map(
          ([name, store]): Load.Subject => ({
            name,
            effect: () => Effect.suspend(() => store.query(collection, { vector: nextVector(), limit: 10 }))
          })
        )
      ],
      (answer) => found(answer) === 10
    )
    return [written, yield* compared({ title: `${title}: the ten nearest`, subjects: asking, ...common })]
  })

const pgvector = Effect.gen(function* () {
  const server = yield* PgVectorServer.make()
  const url = Redacted.make(server.url)
  // The bare table keeps no words of its documents: beside it stand stores that do not either, and one that does.
  const internal = yield* PgVector.make({ url, plane: "internal", textSearch: false })
  const external = yield* PgVector.make({ url, plane: "external", textSearch: false })
  const worded = yield* PgVector.make({ url, plane: "internal", prefix: "worded" })
  const pool = yield* peer(
    () => new Pg.Pool({ connectionString: server.url, max: 10 }),
    (pool) => pool.end()
  )
  yield* Effect.promise(() =>
    pool.query(
      `create table bare (id text collate "C" primary key, vector vector(${dimensions}) not null, metadata jsonb not null, document text)`
    )
  )
  // ours has it for its filters
  yield* Effect.promise(() => pool.query("create index bare_metadata on bare using gin (metadata jsonb_path_ops)"))
  // as the package pgvector writes them, and faster than `join`
  const text = (vector: ReadonlyArray<number>): string => JSON.stringify(vector)
  return yield* both(
    "pgvector",
    {
      name: "pg 8",
      upsert: (part) =>
        pool.query({
          name: "write",
          text:
            "insert into bare select * from unnest($1::text[], $2::vector[], $3::jsonb[], $4::text[]) on conflict (id) " +
            "do update set vector = excluded.vector, metadata = excluded.metadata, document = excluded.document",
          values: [
            part.map(({ id }) => id),
            part.map(({ vector }) => text(vector)),
            part.map(({ metadata }) => JSON.stringify(metadata)),
            part.map(({ document }) => document)
          ]
        }),
      query: (vector) =>
        pool.query({
          name: "ask",
          text: "select id, metadata, document, vector <=> $1::vector as distance from bare order by vector <=> $1::vector, id limit 10",
          values: [text(vector)]
        })
    },
    [
      ["ours, internal", internal.store],
      ["ours, external", external.store],
      ["ours, internal, with an index of words", worded.store]
    ],
    "ours",
    Effect.promise(() => pool.query("vacuum (full, analyze)"))
  )
})

const chroma = Effect.gen(function* () {
  const server = yield* ChromaServer.make
  const internal = yield* Chroma.make({ url: server.url, plane: "internal" })
  const external = yield* Chroma.make({ url: server.url, plane: "external" })
  const client = new ChromaClient({ host: server.host, port: server.port, ssl: false })
  const collection = yield* Effect.promise(() =>
    client.createCollection({
      name: "bare",
      embeddingFunction: null,
      configuration: { hnsw: { space: "cosine" } }
    })
  )
  return yield* both(
    "Chroma",
    {
      name: "chromadb 3",
      upsert: (part) =>
        collection.upsert({
          ids: part.map(({ id }) => id),
          embeddings: part.map(({ vector }) => vector),
          metadatas: part.map(({ metadata }) => metadata),
          documents: part.map(({ document }) => document)
        }),
      query: (vector) =>
        collection.query({
          queryEmbeddings: [[...vector]],
          nResults: 10,
          include: ["distances", "metadatas", "documents"]
        })
    },
    [
      ["ours, internal", internal.store],
      ["ours, external", external.store]
    ],
    "ours"
  )
})

/** Answers as a Qdrant would: collections are there, writes are acknowledged, searches find the same ten. */
const answering = `
const point = (n) => ({ id: "00000000-0000-5000-8000-" + String(n).padStart(12, "0"), version: 1, score: 1 - n / 100,
  payload: { _id: "record " + n, kind: "runbook", severity: n % 7, _document: "The text of record " + n + ".",
    metadata: { kind: "runbook", severity: n % 7 }, document: "The text of record " + n + "." } })
const points = Array.from({ length: 10 }, (_, n) => point(n))
const shape = { status: "green", optimizer_status: "ok", points_count: 2000, segments_count: 1, payload_schema: {},
  config: { params: { vectors: { size: ${dimensions}, distance: "Cosine" } }, hnsw_config: { m: 16, ef_construct: 100,
    full_scan_threshold: 10000 }, optimizer_config: { deleted_threshold: 0.2, vacuum_min_vector_number: 1000,
    default_segment_number: 0, flush_interval_sec: 5 } } }
const resultOf = (method, url) => url.includes("/points/query") ? { points }
  : url.includes("/points") ? { operation_id: 1, status: "completed" }
  : method === "GET" && url.startsWith("/collections/") ? shape
  : method === "GET" && url === "/collections" ? { collections: [{ name: "ours" }] } : true
require("node:http").createServer((request, response) => {
  request.resume()
  request.on("end", () => {
    if (request.url === "/") { response.setHeader("content-type", "application/json"); response.end(JSON.stringify({ title: "qdrant", version: "1.18.0" })); return }
    const text = JSON.stringify({ result: resultOf(request.method, request.url), status: "ok", time: 0.001 })
    response.setHeader("content-type", "application/json")
    response.end(text)
  })
}).listen(0, "127.0.0.1", function () { process.send(this.address().port) })`

const qdrant = Effect.gen(function* () {
  const port = yield* Effect.acquireRelease(
    Effect.async<{ readonly child: ChildProcess.ChildProcess; readonly port: number }>((resume) => {
      const child = ChildProcess.spawn(process.execPath, ["-e", answering], {
        stdio: ["ignore", "inherit", "inherit", "ipc"]
      })
      child.once("message", (port) => resume(Effect.succeed({ child, port: Number(port) })))
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const url = `http://127.0.0.1:${port.port}`
  const internal = yield* Qdrant.make({ url, plane: "internal" })
  const external = yield* Qdrant.make({ url, plane: "external" })
  const client = new QdrantClient({ url, checkCompatibility: false })
  const idOf = (id: string): string => `00000000-0000-5000-8000-${id.slice(7).padStart(12, "0")}`
  return yield* both(
    "Qdrant (clients alone)",
    {
      name: "@qdrant/js-client-rest 1.18",
      upsert: (part) =>
        client.upsert("ours", {
          wait: true,
          points: part.map(({ document, id, metadata, vector }) => ({
            id: idOf(id),
            vector,
            payload: { _id: id, metadata, document }
          }))
        }),
      query: (vector) => client.query("ours", { query: [...vector], limit: 10, with_payload: true })
    },
    [
      ["ours, internal", internal.store],
      ["ours, external", external.store]
    ],
    "ours"
  )
})

export const comparing: Comparing = Effect.map(
  Effect.forEach([pgvector, chroma, qdrant], (area) => Effect.scoped(area)),
  (results) => results.flat()
)
