import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { SqlClient } from "@effect/sql"
import { assert, describe, layer } from "@effect/vitest"
import { VectorStore } from "@underlay/core"
import { Suite, VectorStoreSuite } from "@underlay/core/testing"
import { Effect } from "effect"
import * as PGlite from "../../src/database/PGlite.ts"
import * as PgVector from "../../src/vector/PgVector.ts"

const indexed = PgVector.layerSql({ hnsw: true, schema: "search", prefix: "hnsw" })

const options = { timeout: "60 seconds", excludeTestServices: true } as const

describe("PgVector", () => {
  layer(PGlite.layer(), options)("on PGlite", (it) => {
    it.layer(PgVector.layerSql(), { timeout: "60 seconds" })("exact", (it) => {
      for (const one of Suite.applicable(VectorStoreSuite.make({ filters: 500, filtersPerCase: 100 }), [
        "exact",
        "atomicBatches"
      ])) {
        it.effect(one.name, () => one.run, 60_000)
      }

      it.effect("takes part in the caller's transaction", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const store = yield* VectorStore.VectorStore
          yield* store.ensureCollection("inside", { dimensions: 2, metric: "cosine" })
          const inside = Effect.gen(function* () {
            yield* store.upsert("inside", [{ id: "a", vector: [1, 0] }])
            assert.strictEqual(yield* store.count("inside"), 1)
            return yield* Effect.fail("undo")
          })
          assert.strictEqual(yield* Effect.flip(sql.withTransaction(inside)), "undo")
          assert.strictEqual(yield* store.count("inside"), 0)
        })
      )

      it.effect("a collection that was rolled back is not remembered", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const store = yield* VectorStore.VectorStore
          const inside = Effect.gen(function* () {
            yield* store.ensureCollection("undone", { dimensions: 2, metric: "cosine" })
            yield* store.upsert("undone", [{ id: "a", vector: [1, 0] }])
            return yield* Effect.fail("undo")
          })
          yield* Effect.flip(sql.withTransaction(inside))
          const error = yield* Effect.flip(store.count("undone"))
          assert.strictEqual(error.reason, "CollectionNotFound")
        })
      )

      it.effect("what a store made in a transaction that was rolled back is made again", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const undone = Effect.flatMap(PgVector.makeSql({ prefix: "undone_store" }), (store) =>
            Effect.zipRight(
              store.ensureCollection("undone", { dimensions: 2, metric: "cosine" }),
              Effect.fail({ undone: store })
            )
          )
          const failed = yield* Effect.flip(sql.withTransaction(undone))
          if (!("undone" in failed)) return assert.fail("it failed otherwise")
          const store = failed.undone
          assert.deepStrictEqual(yield* store.collections, [])
          yield* store.ensureCollection("undone", { dimensions: 2, metric: "cosine" })
          assert.strictEqual(yield* store.count("undone"), 0)
        })
      )

      it.effect("names of tables are its own, whatever the collection is called", () =>
        Effect.gen(function* () {
          const store = yield* VectorStore.VectorStore
          const sql = yield* SqlClient.SqlClient
          for (const name of ["Robert.--drop", "robert.--drop", "pg_class", "select"]) {
            yield* store.ensureCollection(name, { dimensions: 2, metric: "cosine" })
            yield* store.upsert(name, [{ id: name, vector: [1, 0] }])
          }
          assert.deepStrictEqual(
            (yield* store.get("Robert.--drop", ["Robert.--drop"])).map(({ id }) => id),
            ["Robert.--drop"]
          )
          const tables = yield* sql<{
            readonly name: string
          }>`select tablename as name from pg_tables where tablename like 'underlay_vectors%'`
          for (const { name } of tables) assert.match(name, /^underlay_vectors_(\d+|collections)$/)
        })
      )

      it.effect("a second store on the same database finds what is there, and both see what the other drops", () =>
        Effect.gen(function* () {
          const store = yield* VectorStore.VectorStore
          const other = yield* PgVector.makeSql()
          yield* store.ensureCollection("shared", { dimensions: 2, metric: "cosine" })
          yield* store.upsert("shared", [{ id: "a", vector: [1, 0] }])
          assert.strictEqual(yield* other.count("shared"), 1)
          yield* other.dropCollection("shared")
          assert.strictEqual((yield* Effect.flip(store.count("shared"))).reason, "CollectionNotFound")
          yield* other.ensureCollection("shared", { dimensions: 3, metric: "dot" })
          yield* store.upsert("shared", [{ id: "b", vector: [1, 0, 0] }])
          assert.strictEqual(yield* other.count("shared"), 1)
        })
      )

      it.effect("in the caller's transaction a collection that another made anew is found all the same", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const store = yield* VectorStore.VectorStore
          const other = yield* PgVector.makeSql()
          yield* store.ensureCollection("renewed", { dimensions: 2, metric: "cosine" })
          yield* store.upsert("renewed", [{ id: "a", vector: [1, 0] }])
          yield* other.dropCollection("renewed")
          yield* other.ensureCollection("renewed", { dimensions: 2, metric: "cosine" })
          assert.strictEqual(yield* sql.withTransaction(store.count("renewed")), 0)
        })
      )

      it.effect("says that it is gone with the process where it is", () =>
        Effect.gen(function* () {
          const store = yield* VectorStore.VectorStore
          assert.isFalse(store.capabilities.persistent)
          const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-pgvector-"))
          yield* Effect.addFinalizer(() => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true })))
          const { sql } = yield* PGlite.make({ dataDir: Path.join(folder, "data") })
          const kept = yield* Effect.provideService(PgVector.makeSql(), SqlClient.SqlClient, sql)
          assert.isTrue(kept.capabilities.persistent)
        }).pipe(Effect.scoped)
      )

      it.effect("odd names for schema and prefix are refused", () =>
        Effect.gen(function* () {
          for (const bad of [{ prefix: 'x"; drop' }, { schema: "a b" }, { prefix: "" }, { prefix: "x".repeat(41) }]) {
            assert.strictEqual((yield* Effect.flip(PgVector.makeSql(bad))).reason, "InvalidRequest")
          }
        })
      )
    })

    it.layer(indexed, { timeout: "60 seconds" })("with an HNSW index, in a schema of its own", (it) => {
      for (const one of Suite.applicable(VectorStoreSuite.make({ filters: 100 }), ["atomicBatches"])) {
        it.effect(one.name, () => one.run, 60_000)
      }

      it.effect(
        "a selective filter gets its ten of eight thousand through the index (pgvector#259)",
        () =>
          Effect.gen(function* () {
            const store = yield* VectorStore.VectorStore
            const sql = yield* SqlClient.SqlClient
            yield* store.ensureCollection("selective", { dimensions: 16, metric: "cosine" })
            const [{ table } = { table: "" }] = yield* sql<{ readonly table: string }>`
          select 'search.hnsw_' || id as table from search.hnsw_collections where name = 'selective'`
            yield* sql.unsafe(`insert into ${table} (id, embedding, metadata)
          select 'r' || n, (select array_agg(sin(n * 12.9898 + d * 78.233))::vector(16) from generate_series(1, 16) as x (d)),
            jsonb_build_object('rare', n % 400 = 0) from generate_series(1, 8000) as y (n)`)
            yield* sql.unsafe(`analyze ${table}`)
            const query = {
              vector: Array.from({ length: 16 }, (_, n) => Math.cos(n)),
              filter: VectorStore.Filter.eq("rare", true),
              limit: 10
            }
            const found = yield* sql.withTransaction(
              Effect.gen(function* () {
                // The planner would rather filter first; the fault shows when it does not, and earlier with less memory.
                yield* sql`select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
              set_config('enable_sort', 'off', true), set_config('work_mem', '64kB', true)`
                return yield* store.query("selective", query)
              })
            )
            assert.strictEqual(found.length, 10)
            assert.isTrue(found.every(({ metadata }) => metadata["rare"] === true))
            const all = yield* store.query("selective", query)
            assert.deepStrictEqual(
              found.map(({ id }) => id),
              all.map(({ id }) => id)
            )
          }),
        60_000
      )

      it.effect("more dimensions than an index can hold are refused", () =>
        Effect.gen(function* () {
          const store = yield* VectorStore.VectorStore
          assert.strictEqual(
            (yield* Effect.flip(store.ensureCollection("large", { dimensions: 4001, metric: "l2" }))).reason,
            "InvalidRequest"
          )
        })
      )
    })
  })
})
