import { SqlClient } from "@effect/sql"
import { assert, describe, it, layer } from "@effect/vitest"
import { Connections, VectorStore } from "@underlay/core"
import { ConnectionSuite, Recording, Suite, VectorStoreSuite } from "@underlay/core/testing"
import * as Need from "@underlay/servers/Need"
import * as PgVectorServer from "@underlay/servers/PgVectorServer"
import type * as PostgresServer from "@underlay/servers/PostgresServer"
import {
  Clock,
  ConfigProvider,
  Context,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Layer,
  Redacted,
  Schedule,
  Stream
} from "effect"
import * as PGlite from "../../src/database/PGlite.ts"
import * as Postgres from "../../src/database/Postgres.ts"
import * as PgVector from "../../src/vector/PgVector.ts"

class Server extends Context.Tag("test/Server")<Server, PostgresServer.PostgresServer>() {}

const server = Layer.scoped(Server, PgVectorServer.make())

const settings = Effect.map(Server, ({ url }) => ({ url: Redacted.make(url), plane: "internal" as const }))

/** A store over a pool of its own. */
const another = (options: PgVector.PgVectorSettings = {}) =>
  Effect.flatMap(settings, (own) => PgVector.make({ ...own, ...options }))

const eventually = <E, R>(what: string, check: Effect.Effect<boolean, E, R>) =>
  Effect.flatMap(check, (done) => (done ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry({ schedule: Schedule.spaced("20 millis"), times: 500 })
  )

const plane = { dimensions: 2, metric: "cosine" } as const

describe.skipIf(Need.missing("pgvector"))(Need.title("PgVector on PostgreSQL", "pgvector"), () => {
  layer(server, { timeout: "120 seconds", excludeTestServices: true })("of this machine", (it) => {
    const store = Layer.unwrapScoped(Effect.map(settings, PgVector.layer))

    it.layer(store, { timeout: "60 seconds" })("exact", (it) => {
      for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])) {
        it.effect(one.name, () => one.run, 60_000)
      }

      it.effect("is persistent, exact, and searches for words and by both itself", () =>
        Effect.gen(function* () {
          const { capabilities } = yield* VectorStore.VectorStore
          assert.deepInclude(capabilities, { persistent: true, exact: true, textSearch: true, hybrid: true })
        })
      )

      it.effect("takes part in the caller's transaction, where a collection made anew is found too", () =>
        Effect.gen(function* () {
          const { sql, store } = yield* another({ prefix: "inside" })
          const other = yield* another({ prefix: "inside" })
          yield* store.ensureCollection("inside", plane)
          yield* store.upsert("inside", [{ id: "a", vector: [1, 0] }])
          const work = Effect.gen(function* () {
            yield* store.upsert("inside", [{ id: "b", vector: [1, 0] }])
            assert.strictEqual(yield* store.count("inside"), 2)
            assert.strictEqual(yield* other.store.count("inside"), 1)
            return yield* Effect.fail("undo")
          })
          assert.strictEqual(yield* Effect.flip(sql.withTransaction(work)), "undo")
          assert.strictEqual(yield* store.count("inside"), 1)
          yield* other.store.dropCollection("inside")
          yield* other.store.ensureCollection("inside", plane)
          assert.strictEqual(yield* sql.withTransaction(store.count("inside")), 0)
          assert.strictEqual(yield* store.count("inside"), 0)
        }).pipe(Effect.scoped)
      )

      it.effect("a large upsert that is interrupted is rolled back at once, and nothing of it runs on", () =>
        Effect.gen(function* () {
          const { sql, store } = yield* another({ prefix: "cut", applicationName: "cut" })
          yield* store.ensureCollection("cut", { dimensions: 64, metric: "cosine" })
          const records = Array.from({ length: 5_000 }, (_, n) => ({
            id: `r${n}`,
            vector: Array.from({ length: 64 }, (_, d) => Math.sin(n * 64 + d) + 2)
          }))
          const { sql: ask } = yield* Server
          const holder = yield* another({ prefix: "cut", applicationName: "holder" })
          const last = records.slice(-1)
          const active =
            "select count(*) from pg_stat_activity where application_name = 'cut' and state <> 'idle' and query like '%insert%'"
          for (let round = 0; round < 5; round++) {
            // somebody else has the last record, so that all others are written and not one is committed
            const held = yield* Deferred.make<void>()
            const holding = yield* Effect.fork(
              holder.sql.withTransaction(
                holder.store
                  .upsert("cut", last)
                  .pipe(Effect.zipRight(Deferred.succeed(held, undefined)), Effect.zipRight(Effect.never))
              )
            )
            yield* Deferred.await(held)
            const fiber = yield* Effect.fork(store.upsert("cut", records))
            yield* eventually(
              "it writes, and waits",
              Effect.map(ask(`${active} and wait_event_type = 'Lock'`), (count) => count !== "0")
            )
            const [took] = yield* Effect.timed(Fiber.interrupt(fiber))
            assert.isBelow(Duration.toMillis(took), 2_000)
            yield* eventually(
              "nothing runs",
              Effect.map(ask(active), (count) => count === "0")
            )
            yield* Fiber.interrupt(holding)
            assert.strictEqual(yield* store.count("cut"), 0)
          }
          yield* store.upsert("cut", records)
          assert.strictEqual(yield* store.count("cut"), 5_000)
          assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        }).pipe(Effect.scoped)
      )
    })

    it.effect(
      "what another process made of a collection is found out: its dimensions, its metric, all of the tables",
      () =>
        Effect.gen(function* () {
          const { sql, store } = yield* another({ prefix: "anew", textSearch: true })
          const other = yield* another({ prefix: "anew", textSearch: false })
          const ids = (matches: ReadonlyArray<VectorStore.Match>) => matches.map(({ id }) => id)
          yield* store.ensureCollection("anew", plane)
          yield* store.upsert("anew", [{ id: "a", vector: [1, 0] }])
          yield* other.store.dropCollection("anew")
          yield* other.store.ensureCollection("anew", { dimensions: 3, metric: "dot" })
          // the vector has the dimensions of now, and not those that are remembered
          yield* store.upsert("anew", [{ id: "b", vector: [1, 0, 0] }])
          yield* other.store.dropCollection("anew")
          yield* other.store.ensureCollection("anew", { dimensions: 4, metric: "l2" })
          assert.deepStrictEqual(yield* store.query("anew", { vector: [1, 0, 0, 0] }), [])
          const wrong = yield* Effect.flip(store.query("anew", { vector: [1, 0, 0] }))
          assert.strictEqual(wrong.reason, "DimensionMismatch")
          yield* other.store.dropCollection("anew")
          assert.strictEqual((yield* Effect.flip(store.count("anew"))).reason, "CollectionNotFound")

          // The numbers of tables begin anew where the list of collections does.
          yield* store.ensureCollection("first", plane)
          yield* store.upsert("first", [{ id: "a", vector: [1, 0], document: "words" }])
          const restore = (shape: VectorStore.CollectionShape) =>
            Effect.gen(function* () {
              for (const { table } of yield* sql<{
                readonly table: string
              }>`select tablename as table from pg_tables where tablename like 'anew\\_%'`) {
                yield* sql.unsafe(`drop table ${table}`)
              }
              const made = yield* another({ prefix: "anew", textSearch: false })
              for (let n = 0; n < 8; n++) {
                const name = n === number - 1 ? "first" : `other${n}`
                yield* made.store.ensureCollection(name, shape)
              }
            })
          const [{ number = 0 } = {}] = yield* sql<{
            readonly number: number
          }>`select id as number from anew_collections where name = 'first'`
          assert.isTrue(number >= 1 && number <= 8)
          yield* restore({ dimensions: 3, metric: "cosine" })
          yield* store.upsert("first", [{ id: "b", vector: [1, 0, 0], document: "words" }])
          assert.deepStrictEqual(ids(yield* store.query("first", { vector: [1, 0, 0] })), ["b"])
          yield* restore({ dimensions: 3, metric: "dot" })
          yield* store.upsert("first", [{ id: "c", vector: [2, 0, 0] }])
          const clock = yield* Effect.clock
          const later: Clock.Clock = {
            [Clock.ClockTypeId]: Clock.ClockTypeId,
            unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis() + 31_000,
            currentTimeMillis: Effect.map(clock.currentTimeMillis, (now) => now + 31_000),
            unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
            currentTimeNanos: clock.currentTimeNanos,
            sleep: (duration) => clock.sleep(duration)
          }
          const [match] = yield* Effect.withClock(store.query("first", { vector: [2, 0, 0] }), later)
          assert.deepStrictEqual([match?.metric, match?.score], ["dot", 4])
        }).pipe(Effect.scoped)
    )

    it.effect("ten stores that start at once on an empty database make one list of collections", () =>
      Effect.gen(function* () {
        for (let round = 0; round < 4; round++) {
          const own = { schema: `fresh${round}`, prefix: "at_once", maxConnections: 1 }
          const stores = yield* Effect.all(
            Array.from({ length: 10 }, () => another(own)),
            { concurrency: "unbounded" }
          )
          yield* Effect.all(
            stores.map(({ store }) => store.ensureCollection("shared", plane)),
            { concurrency: "unbounded" }
          )
          yield* Effect.all(
            stores.map(({ store }, n) => store.upsert("shared", [{ id: `${n}`, vector: [1, n] }])),
            { concurrency: "unbounded" }
          )
          const [first] = stores
          assert.strictEqual(yield* first?.store.count("shared") ?? Effect.succeed(-1), 10)
        }
      }).pipe(Effect.scoped)
    )

    it.effect("a thousand and one collections in turn are each looked up once", () =>
      Effect.gen(function* () {
        const { sql, store } = yield* another({ prefix: "many" })
        yield* sql`insert into many_collections (name, dimensions, metric, indexed)
          select 'name' || n, 2, 'l2', false from generate_series(0, 1000) n`
        const names = Array.from({ length: 1_001 }, (_, n) => `name${n}`)
        // it is refused when the collection is known, and before the server is asked for more
        const refusals = Effect.forEach(names, (name) =>
          Effect.map(Effect.flip(store.query(name, { vector: [1, 0], limit: 0 })), ({ reason }) => reason)
        )
        assert.deepStrictEqual([...new Set(yield* refusals)], ["InvalidRequest"])
        yield* sql`delete from many_collections`
        assert.deepStrictEqual([...new Set(yield* refusals)], ["InvalidRequest"])
      }).pipe(Effect.scoped)
    )

    it.effect("one statement a search and one a batch; on the external plane each is watched, once", () =>
      Effect.gen(function* () {
        const recording = yield* Recording.make
        const { store } = yield* another({ prefix: "watched", plane: "external" })
        for (const [name, index] of [
          ["flat", { kind: "exact" }],
          ["linked", { kind: "hnsw" }]
        ] as const) {
          yield* store.ensureCollection(name, plane, { index })
          yield* store.upsert(name, [{ id: "first", vector: [1, 0] }])
          const statements = <A, E>(work: Effect.Effect<A, E>) =>
            Effect.gen(function* () {
              yield* recording.clear
              yield* recording.within(work)
              const spans = yield* recording.spans
              assert.isTrue(spans.every(({ kind }) => kind === "client" || kind === "internal"))
              return spans.filter(({ kind }) => kind === "client").length
            })
          const records = (count: number) =>
            Array.from({ length: count }, (_, n) => ({ id: `${n}`, vector: [1, n], document: `number ${n}` }))
          const filter = VectorStore.Filter.ne("k", 1)
          assert.strictEqual(yield* statements(store.upsert(name, records(400))), 1)
          // BEGIN, three batches, COMMIT.
          assert.strictEqual(yield* statements(store.upsert(name, records(1_200))), 5)
          assert.strictEqual(yield* statements(store.query(name, { vector: [1, 0], filter })), 1)
          assert.strictEqual(yield* statements(VectorStore.searchText(store, { collection: name, text: "7" })), 1)
          const both = VectorStore.hybrid(store, { collection: name, vector: [1, 0], text: "number 7", filter })
          assert.strictEqual(yield* statements(both), 1)
          assert.strictEqual(yield* statements(store.get(name, ["1", "2"])), 1)
          assert.strictEqual(yield* statements(store.count(name, filter)), 1)
          assert.strictEqual(yield* statements(store.deleteWhere(name, filter)), 1)
        }
      }).pipe(Effect.scoped)
    )

    it.effect("no document, vector or value is in a span or a log line", () =>
      Effect.gen(function* () {
        const recording = yield* Recording.make
        const { store } = yield* another({ prefix: "quiet", plane: "external" })
        yield* store.ensureCollection("quiet", plane)
        yield* recording.within(
          Effect.gen(function* () {
            yield* store.upsert("quiet", [
              { id: "secret-id", vector: [0.123456, 1], metadata: { k: "secret-value" }, document: "secret-document" }
            ])
            const filter = VectorStore.Filter.eq("k", "secret-value")
            yield* store.query("quiet", { vector: [0.123456, 1], filter })
            yield* VectorStore.hybrid(store, { collection: "quiet", vector: [0.123456, 1], text: "secret", filter })
          })
        )
        const shown = JSON.stringify([
          (yield* recording.spans).map(({ attributes, name }) => [name, [...attributes]]),
          (yield* recording.lines).map((line) => [line.message, line.annotations])
        ])
        assert.isAbove(shown.length, 500)
        assert.notInclude(shown, "secret")
        assert.notInclude(shown, "0.123456")
      }).pipe(Effect.scoped)
    )

    it.effect("on the internal plane nothing is shown", () =>
      Effect.gen(function* () {
        const { store } = yield* another({ prefix: "silent" })
        yield* store.ensureCollection("silent", plane)
        const work = Effect.gen(function* () {
          yield* store.upsert("silent", [{ id: "a", vector: [1, 0], document: "a" }])
          yield* store.query("silent", { vector: [1, 0] })
          yield* VectorStore.hybrid(store, { collection: "silent", vector: [1, 0], text: "a" })
          yield* Stream.runDrain(store.scroll("silent"))
          yield* Effect.flip(store.count("silent-nowhere"))
        })
        yield* Recording.assertSilent(work)
      }).pipe(Effect.scoped)
    )

    it.effect("an account that may not make anything uses what is there, and is told what it may not make", () =>
      Effect.gen(function* () {
        const { host, port, sql } = yield* Server
        const admin = yield* another({ prefix: "given" })
        yield* admin.store.ensureCollection("given", plane)
        yield* sql(`
          create role reader login password 'reader';
          revoke create on schema public from public;
          grant select, insert, update, delete on all tables in schema public to reader;
        `)
        const as = { host, port, username: "reader", password: Redacted.make("reader"), database: "postgres" }
        const own = { ...as, plane: "internal" as const, prefix: "given" }
        const { store } = yield* PgVector.make(own)
        yield* store.upsert("given", [{ id: "a", vector: [1, 0] }])
        assert.strictEqual(yield* store.count("given"), 1)
        const refused = yield* Effect.flip(store.ensureCollection("more", plane))
        assert.strictEqual(refused.reason, "PermissionDenied")
        assert.isFalse(refused.isRetryable)
        const none = yield* Effect.flip(PgVector.make({ ...own, prefix: "other" }))
        assert.strictEqual(none.reason, "PermissionDenied")
        yield* sql("drop owned by reader; drop role reader")
      }).pipe(Effect.scoped)
    )

    it.effect("pgvector in a schema that is not in the search path is Unsupported, and says so", () =>
      Effect.gen(function* () {
        const { sql, url } = yield* Server
        yield* sql("create database elsewhere")
        const at = new URL(url)
        at.pathname = "/elsewhere"
        const own = { url: Redacted.make(at.href), plane: "internal" as const }
        const database = yield* Postgres.make(own)
        yield* database.sql`create schema hidden`
        yield* database.sql`create extension vector schema hidden`
        const error = yield* Effect.flip(PgVector.make(own))
        assert.strictEqual(error.reason, "Unsupported")
        assert.include(error.message, "hidden")
        assert.include(error.message, "search path")
      }).pipe(Effect.scoped)
    )

    it.effect("beyond 2,000 dimensions the index is of halves, and what it finds is compared in full", () =>
      Effect.gen(function* () {
        const { sql, store } = yield* another({ prefix: "half", hnsw: true })
        const dimensions = 2_500
        const vector = (n: number, size = 1) =>
          Array.from({ length: dimensions }, (_, d) => Math.fround(size * Math.sin(n * 12.9898 + d * (78.233 + n))))
        for (const metric of ["cosine", "l2", "dot"] as const) {
          const name = `half.${metric}`
          // Under cosine lengths that no half could hold are no matter.
          const size = metric === "cosine" ? 1e9 : 1
          const records = Array.from({ length: 120 }, (_, n) => ({
            id: `r${String(n).padStart(3, "0")}`,
            vector: vector(n, size),
            metadata: { even: n % 2 === 0 }
          }))
          yield* store.ensureCollection(name, { dimensions, metric })
          yield* store.upsert(name, records)
          const filter = VectorStore.Filter.eq("even", true)
          for (const asked of [vector(7.3, size), vector(55.5, size)]) {
            const expected = records
              .filter(({ metadata }) => metadata.even)
              .map((record) => ({ id: record.id, distance: VectorStore.distanceOf(metric, record.vector, asked) }))
              .sort((a, b) => a.distance - b.distance)
              .slice(0, 10)
            const found = yield* sql.withTransaction(
              Effect.zipRight(
                sql`select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`,
                store.query(name, { vector: asked, filter })
              )
            )
            assert.deepStrictEqual(
              found.map(({ id }) => id),
              expected.map(({ id }) => id)
            )
            found.forEach(({ distance }, index) => {
              const wanted = expected[index]?.distance ?? Number.NaN
              assert.isBelow(Math.abs(distance - wanted) / Math.max(1, Math.abs(wanted)), 1e-4)
            })
          }
          assert.deepStrictEqual((yield* store.get(name, ["r003"]))[0]?.vector, records[3]?.vector)
          const [plan] = yield* sql.unsafe<{ readonly indexdef: string }>(
            `select indexdef from pg_indexes where tablename like 'half_%' and indexdef like '%hnsw%' and indexdef like '%halfvec%'
             order by indexname desc`
          )
          assert.include(plan?.indexdef ?? "", "halfvec(2500)")
        }
        const large = [{ id: "large", vector: vector(1, 1e6) }]
        assert.strictEqual((yield* Effect.flip(store.upsert("half.l2", large))).reason, "InvalidRecord")
        const asked = store.query("half.dot", { vector: vector(1, 1e6) })
        assert.strictEqual((yield* Effect.flip(asked)).reason, "InvalidRequest")
        const more = store.ensureCollection("half.more", { dimensions: 4_001, metric: "l2" })
        assert.strictEqual((yield* Effect.flip(more)).reason, "InvalidRequest")
        yield* store.ensureCollection("half.flat", { dimensions: 16_000, metric: "l2" }, { index: { kind: "exact" } })
      }).pipe(Effect.scoped)
    )

    it.effect("without an index of words the documents are read, and the answer is the same", () =>
      Effect.gen(function* () {
        const { sql, store } = yield* another({ prefix: "plain", textSearch: false })
        yield* store.ensureCollection("plain", plane)
        yield* store.upsert("plain", [
          { id: "a", vector: [1, 0], document: "the disk is full" },
          { id: "b", vector: [0, 1], document: "out of memory" }
        ])
        const found = yield* VectorStore.searchText(store, { collection: "plain", text: "DISK" })
        assert.deepStrictEqual(
          found.map(({ id }) => id),
          ["a"]
        )
        const [both] = yield* VectorStore.hybrid(store, { collection: "plain", vector: [1, 0.1], text: "disk" })
        assert.deepInclude(both, { id: "a", vectorRank: 1, textRank: 1 })
        const columns = yield* sql`
          select 1 from information_schema.columns where table_name like 'plain_%' and column_name = 'words'`
        assert.strictEqual(columns.length, 0)
      }).pipe(Effect.scoped)
    )

    it.effect("numbers of an index out of range are refused, with the store or the collection", () =>
      Effect.gen(function* () {
        for (const hnsw of [{ m: 1 }, { efConstruction: 3 }, { efSearch: 2_000 }, { maxScanTuples: 0 }]) {
          const error = yield* Effect.flip(another({ prefix: "odd", hnsw }))
          assert.strictEqual(error.reason, "InvalidSettings")
        }
        const { store } = yield* another({ prefix: "odd", hnsw: { efConstruction: 10 } })
        yield* store.ensureCollection("odd", plane)
      }).pipe(Effect.scoped)
    )

    it.effect("in the registry by its settings; every wrong one is reported at once", () =>
      Effect.gen(function* () {
        const { url } = yield* Server
        const provider = (entries: ReadonlyArray<readonly [string, string]>) =>
          ConfigProvider.fromMap(new Map(entries.map(([key, value]) => [`connections.runbooks.${key}`, value])))
        const get = Effect.scoped(
          Effect.gen(function* () {
            const connections = yield* Connections.Connections
            const connection = yield* connections.get(PgVector.kind, "runbooks")
            assert.deepStrictEqual(
              [connection.kind, connection.name, connection.plane],
              ["pgvector", "runbooks", "internal"]
            )
            yield* connection.use((store) => store.ensureCollection("registry", plane))
            const [health] = yield* connections.health
            assert.deepInclude(health, { kind: "pgvector", name: "runbooks", status: "up" })
          })
        )
        const run = (entries: ReadonlyArray<readonly [string, string]>) =>
          get.pipe(Effect.provide(Connections.layer([PgVector.kind])), Effect.withConfigProvider(provider(entries)))
        yield* run([
          ["url", url],
          ["plane", "internal"],
          ["prefix", "registry"],
          ["hnsw.m", "8"],
          ["hnsw.efSearch", "50"]
        ])
        const error = yield* Effect.flip(
          run([
            ["url", url],
            ["maxConnections", "none"],
            ["plane", "sideways"],
            ["textSearch", "perhaps"]
          ])
        )
        const text = String(error)
        for (const name of ["maxConnections", "plane", "textSearch"]) assert.include(text, name)
        assert.notInclude(text, "s3cret")
      })
    )

    describe("suite of connections", () => {
      const suite = ConnectionSuite.suite({
        make: another({ prefix: "suite" }),
        ask: (store) => Effect.map(store.collections, (all) => all.length),
        expected: 0
      })
      for (const one of suite.cases) it.effect(one.name, () => one.run)
    })
  })

  it.live(
    "a server that is killed and comes back: retryable errors meanwhile, then it works again; lazy makes its tables then",
    () =>
      Effect.gen(function* () {
        const server = yield* PgVectorServer.make()
        const url = Redacted.make(server.url)
        const { health, store } = yield* PgVector.make({ url, plane: "internal" })
        yield* store.ensureCollection("killed", plane)
        yield* store.upsert("killed", [{ id: "a", vector: [1, 0] }])
        yield* server.kill
        const eager = yield* Effect.flip(PgVector.make({ url, plane: "internal" }))
        assert.strictEqual(eager.reason, "Unavailable")
        const lazy = yield* PgVector.make({ url, plane: "internal", connect: "lazy", prefix: "late" }, "late")
        const errors = [yield* Effect.flip(store.count("killed")), yield* Effect.flip(lazy.store.collections)]
        for (const error of errors) {
          assert.strictEqual(error.reason, "Unavailable")
          assert.isTrue(error.isRetryable)
        }
        assert.strictEqual((yield* health).status, "down")
        yield* server.start
        assert.strictEqual(yield* store.count("killed"), 1)
        assert.strictEqual((yield* health).status, "up")
        assert.deepStrictEqual(yield* lazy.store.collections, [])
        yield* lazy.store.ensureCollection("late", plane)
      }).pipe(Effect.scoped),
    60_000
  )
})

describe("PgVector without the extension", () => {
  it.live(
    "is Unsupported, and says what to install",
    () =>
      Effect.gen(function* () {
        const { sql } = yield* PGlite.make({ vector: false })
        const error = yield* Effect.flip(Effect.provideService(PgVector.makeSql(), SqlClient.SqlClient, sql))
        assert.strictEqual(error.reason, "Unsupported")
        assert.include(error.message, "install it")
      }).pipe(Effect.scoped),
    60_000
  )
})
