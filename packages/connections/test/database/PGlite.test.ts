import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { SqlClient } from "@effect/sql"
import { afterAll, assert, describe, it, layer } from "@effect/vitest"
import { Connections } from "@underlay/core"
import { ConnectionSuite, Recording } from "@underlay/core/testing"
import { ConfigProvider, Deferred, Effect, Exit, Fiber, Option, Stream } from "effect"
import { DatabaseError, PGlite } from "../../src/index.ts"
import { load } from "../../src/internal/driver.ts"

const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-pglite-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** One engine is started for all that need one of their own; the others open its folder, which is much faster. */
const shared = Path.join(Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-pglite-")), "data")
afterAll(() => Fs.rmSync(Path.dirname(shared), { recursive: true, force: true }))

/** Every way to run a statement, one that fails included. */
const statements = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    yield* sql`select 1`
    yield* sql`select 1`.values
    yield* sql`select 1`.raw
    yield* sql`select 1`.unprepared
    yield* sql`select 1`.withoutTransform
    yield* Stream.runDrain(sql`select 1`.stream)
    yield* sql.unsafe("select 1")
    yield* sql.withTransaction(sql.withTransaction(sql`select 1`))
    yield* Effect.ignore(sql`selec 1`)
    yield* Effect.ignore(sql.withTransaction(sql`select 1/0`))
  })

/** Turns of the event loop, which the engine needs to get on. */
const turns = (count: number) =>
  Effect.repeatN(
    Effect.async<void>((resume) => {
      setImmediate(() => resume(Effect.void))
    }),
    count - 1
  )

/** Until that many wait for the engine, looked at after each turn of the event loop. */
const thatWait = (count: number) =>
  Effect.flatMap(PGlite.PGlite, ({ stats }) =>
    Effect.zipRight(turns(1), stats).pipe(
      Effect.filterOrFail(
        ({ waiting }) => waiting === count,
        () => `${count} wait`
      ),
      Effect.retry({ times: 100_000 })
    )
  )

const reasonOf = (error: unknown) => (error instanceof DatabaseError.DatabaseError ? error.reason : undefined)

describe("PGlite", () => {
  layer(PGlite.layer(), { timeout: "60 seconds", excludeTestServices: true })("in memory", (it) => {
    it.effect("answers, with the values that pg gives", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const at = new Date(1_700_000_000_123)
        const [row] = yield* sql`select ${1}::int4 as small, ${10n}::int8 as large, ${"1.50"}::numeric as number,
          ${true}::bool as yes, ${at}::timestamptz as at, ${new Uint8Array([0, 255])}::bytea as bytes,
          ${[1, 2]}::int4[] as list, ${["a,b", 'c"d', "e\\f", null]}::text[] as texts, ${{ a: [1] }}::jsonb as json,
          ${null}::text as nothing`
        assert.deepStrictEqual(row, {
          small: 1,
          large: "10",
          number: "1.50",
          yes: true,
          at,
          bytes: Buffer.from([0, 255]),
          list: [1, 2],
          texts: ["a,b", 'c"d', "e\\f", null],
          json: { a: [1] },
          nothing: null
        })
      })
    )

    it.effect("parameters that cannot be sent are a typed error: too many of them, a function, an invalid date", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const all = Array.from({ length: 65_536 }, (_, n) => `$${n + 1}::int4`).join(", ")
        const many = sql.unsafe(
          `select 1 where 1 in (${all})`,
          Array.from({ length: 65_536 }, (_, n) => n)
        )
        for (const statement of [
          many,
          sql.unsafe("select $1::text", [() => 1]),
          sql.unsafe("select $1::timestamptz", [new Date(Number.NaN)])
        ]) {
          assert.strictEqual(reasonOf(yield* Effect.flip(statement)), "InvalidRequest")
        }
        assert.include((yield* Effect.flip(many)).message, "65,535")
        const [row] = yield* sql.unsafe("select $1::jsonb as it", [{ toJSON: () => undefined }])
        assert.deepStrictEqual(row, { it: null })
      })
    )

    it.effect("dates keep their instant in every zone, also where one had seconds, and in every year; so does -0", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const dates = [-3e12, -67_135_596_800_000, -62_000_000_000_000, 253_402_300_800_000, 0, -1, 1_700_000_000_123]
        const zone = process.env["TZ"]
        yield* Effect.addFinalizer(() =>
          Effect.sync(() => {
            if (zone === undefined) delete process.env["TZ"]
            else process.env["TZ"] = zone
          })
        )
        for (const [name, offset] of [
          ["Europe/Amsterdam", -17],
          ["America/St_Johns", 210],
          ["UTC", 0]
        ] as const) {
          process.env["TZ"] = name
          assert.strictEqual(Math.trunc(new Date(-3e12).getTimezoneOffset()), offset)
          for (const millis of dates) {
            const [row] = yield* sql`select extract(epoch from ${new Date(millis)}::timestamptz)::numeric * 1000 as at`
            assert.strictEqual(Number(row?.["at"]), millis, name)
          }
        }
        const [zero] = yield* sql`select ${-0}::float8 as zero`
        assert.isTrue(Object.is(zero?.["zero"], -0))
      }).pipe(Effect.scoped)
    )

    it.effect("statements of a transaction that are interrupted while they wait never keep the others from it", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* Effect.forEach(
              Array.from({ length: 200 }, (_, n) => n),
              (n) =>
                Effect.gen(function* () {
                  const fiber = yield* Effect.fork(n % 3 === 0 ? sql.withTransaction(sql`select 1`) : sql`select 1`)
                  for (let turn = 0; turn < n % 19; turn++) yield* Effect.yieldNow()
                  if (n % 5 === 0) yield* turns(1 + (n % 4))
                  yield* n % 2 === 0 ? Fiber.interrupt(fiber) : Fiber.join(fiber)
                }),
              { concurrency: 20, discard: true }
            )
            assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
          })
        )
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("values, raw and several statements at once", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        assert.deepStrictEqual(yield* sql`select 1 as a, 2 as b`.values, [[1, 2]])
        assert.deepStrictEqual(yield* sql`select 1 as a; select 2 as a`, [{ a: 2 }])
        assert.deepStrictEqual(yield* sql`create table if not exists nothing (a int)`, [])
      })
    )

    it.effect("a wrong statement and a broken constraint are typed, with PostgreSQL's code and without values", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const wrong = yield* Effect.flip(sql`selec 1`)
        assert.strictEqual(reasonOf(wrong), "InvalidRequest")
        yield* sql`create temporary table once (secret text primary key)`
        yield* sql`insert into once values (${"hidden-value"})`
        const twice = yield* Effect.flip(sql`insert into once values (${"hidden-value"})`)
        assert.strictEqual(reasonOf(twice), "ConstraintViolation")
        assert.strictEqual(twice instanceof DatabaseError.DatabaseError ? twice.code : "", "23505")
        assert.notInclude(twice.message, "hidden-value")
        const value = yield* Effect.flip(sql`select ${"hidden-value"}::int4`)
        assert.strictEqual(reasonOf(value), "InvalidRequest")
        assert.notInclude(value.message, "hidden-value")
      })
    )

    it.effect("a transaction that fails is rolled back, one that succeeds stays", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create temporary table kept (n int)`
        yield* Effect.exit(sql.withTransaction(Effect.zipRight(sql`insert into kept values (1)`, Effect.fail("no"))))
        yield* sql.withTransaction(sql`insert into kept values (2)`)
        assert.deepStrictEqual(yield* sql`select n from kept`, [{ n: 2 }])
      })
    )

    it.effect("statements inside a transaction do not deadlock, other fibers wait until it is over", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const order: Array<string> = []
        const inside = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const transaction = yield* Effect.fork(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`select 1`
              yield* Deferred.succeed(inside, undefined)
              yield* Deferred.await(go)
              yield* Effect.all([sql`select 2`, sql`select 3`], { concurrency: "unbounded" })
              order.push("inside")
            })
          )
        )
        yield* Deferred.await(inside)
        const outside = yield* Effect.fork(Effect.tap(sql`select 4`, () => Effect.sync(() => order.push("outside"))))
        yield* thatWait(1)
        assert.deepStrictEqual(order, [])
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(transaction)
        yield* Fiber.join(outside)
        assert.deepStrictEqual(order, ["inside", "outside"])
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("waiting for the backend can be interrupted, and whoever is next in the queue gets it", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const connection = yield* PGlite.PGlite
        const inside = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const transaction = yield* Effect.fork(
          sql.withTransaction(Effect.zipRight(Deferred.succeed(inside, undefined), Deferred.await(go)))
        )
        yield* Deferred.await(inside)
        const first = yield* Effect.fork(sql`select 1`)
        const inTransaction = yield* Effect.fork(sql.withTransaction(sql`select 1`))
        const last = yield* Effect.fork(sql`select 1 as one`)
        yield* thatWait(3)
        assert.isTrue(Option.isSome(yield* Effect.timeoutOption(Fiber.interrupt(first), "10 seconds")))
        assert.isTrue(Option.isSome(yield* Effect.timeoutOption(Fiber.interrupt(inTransaction), "10 seconds")))
        assert.strictEqual((yield* connection.stats).waiting, 1)
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(transaction)
        assert.deepStrictEqual(yield* Fiber.join(last), [{ one: 1 }])
      })
    )

    it.effect("an interrupted transaction is rolled back before anybody else gets the backend", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create temporary table half (n int)`
        const begun = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into half values (1)`
              yield* Deferred.succeed(begun, undefined)
              return yield* Effect.never
            })
          )
        )
        yield* Deferred.await(begun)
        const next = yield* Effect.fork(sql`select * from half`)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* Fiber.join(next), [])
      })
    )

    it.effect("a failing COMMIT is a typed error", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table late (n int, constraint late_once unique (n) deferrable initially deferred)`
        const error = yield* Effect.flip(sql.withTransaction(sql`insert into late values (1), (1)`))
        assert.strictEqual(reasonOf(error), "ConstraintViolation")
        assert.include(error.message, "late_once")
        assert.deepStrictEqual(yield* sql`select * from late`, [])
      })
    )

    it.effect("a transaction left open by hand does not reach the next user", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table forgotten (n int)`
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* sql.reserve
            yield* connection.executeUnprepared("BEGIN", [], undefined)
            yield* connection.executeUnprepared("insert into forgotten values (1)", [], undefined)
          })
        )
        assert.deepStrictEqual(yield* sql`select * from forgotten`, [])
      })
    )

    it.effect("a fiber that outlives its transaction gets a typed error and does not reach the next one", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create temporary table strays (n int)`
        const go = yield* Deferred.make<void>()
        const stray = yield* sql.withTransaction(
          Effect.forkDaemon(
            Effect.zipRight(Deferred.await(go), Effect.all([sql`insert into strays values (1)`], { mode: "either" }))
          )
        )
        const strayTransaction = yield* sql.withTransaction(
          Effect.forkDaemon(
            Effect.zipRight(Deferred.await(go), Effect.either(sql.withTransaction(sql`insert into strays values (2)`)))
          )
        )
        const next = sql.withTransaction(
          Effect.gen(function* () {
            yield* Deferred.succeed(go, undefined)
            const [one] = yield* Fiber.join(stray)
            const two = yield* Fiber.join(strayTransaction)
            return [one, two].map((each) => (each._tag === "Left" ? reasonOf(each.left) : "ran"))
          })
        )
        assert.deepStrictEqual(yield* next, ["Closed", "Closed"])
        assert.deepStrictEqual(yield* sql`select * from strays`, [])
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect(
      "a nested transaction that is still open at the end of the one round it fails both, and nobody else",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          yield* sql`create temporary table halves (n int)`
          const open = yield* Deferred.make<void>()
          const go = yield* Deferred.make<void>()
          let nested: Fiber.Fiber<unknown, unknown> | undefined
          const outer = sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into halves values (1)`
              nested = yield* Effect.forkDaemon(
                sql.withTransaction(
                  Effect.gen(function* () {
                    yield* sql`insert into halves values (2)`
                    yield* Deferred.succeed(open, undefined)
                    yield* Deferred.await(go)
                    return yield* Effect.fail("undo")
                  })
                )
              )
              yield* Deferred.await(open)
            })
          )
          const error = yield* Effect.flip(outer)
          assert.strictEqual(reasonOf(error), "InvalidRequest")
          assert.include(error.message, "join its fiber")
          // A stranger with a savepoint of the same name: what the late one undoes must not be theirs.
          yield* sql.withTransaction(
            sql.withTransaction(
              Effect.gen(function* () {
                yield* sql`insert into halves values (3)`
                yield* Deferred.succeed(go, undefined)
                if (nested !== undefined) assert.strictEqual(yield* Effect.flip(Fiber.join(nested)), "undo")
              })
            )
          )
          assert.deepStrictEqual(yield* sql`select n from halves`, [{ n: 3 }])
        }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("the statements of a fiber that nobody joined are over before the transaction is", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create temporary table under_way (n int)`
        const late = yield* sql.withTransaction(
          Effect.gen(function* () {
            const one = yield* Effect.forkDaemon(sql`insert into under_way select 1 from pg_sleep(0.05)`)
            const two = yield* Effect.forkDaemon(Effect.either(sql`insert into under_way values (2)`))
            yield* Effect.yieldNow()
            return [one, two] as const
          })
        )
        assert.deepStrictEqual(yield* sql`select n from under_way`, [{ n: 1 }])
        yield* Fiber.join(late[0])
        const second = yield* Fiber.join(late[1])
        assert.strictEqual(second._tag === "Left" ? reasonOf(second.left) : "ran", "Closed")
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("waiting for a nested transaction beside it can be interrupted, also as a stream", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const inside = yield* Deferred.make<void>()
        yield* sql.withTransaction(
          Effect.gen(function* () {
            const nested = yield* Effect.fork(
              sql.withTransaction(Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never))
            )
            yield* Deferred.await(inside)
            for (const work of [
              sql`select 1`,
              sql.withTransaction(sql`select 1`),
              Stream.runDrain(sql`select 1`.stream)
            ]) {
              const fiber = yield* Effect.fork(work)
              yield* turns(20)
              const ended = yield* Effect.timeoutOption(Effect.disconnect(Fiber.interrupt(fiber)), "10 seconds")
              assert.isTrue(Option.isSome(ended))
            }
            yield* Fiber.interrupt(nested)
            assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
          })
        )
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("streams, inside a transaction by cursor", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const numbers = sql<{ readonly n: number }>`select n from generate_series(1, 1000) as t (n)`.stream
        assert.strictEqual(yield* Stream.runCount(numbers), 1000)
        const some = sql`select n from generate_series(1, 1000) as t (n) where n > ${990}::int4`.stream
        assert.strictEqual(yield* sql.withTransaction(Stream.runCount(some)), 10)
        yield* sql`create temporary table copied (n int)`
        yield* sql.withTransaction(
          Stream.runForEach(Stream.take(numbers, 300), ({ n }) => sql`insert into copied values (${n})`)
        )
        assert.deepStrictEqual(yield* sql`select count(*)::int as count from copied`, [{ count: 300 }])
      }).pipe(Effect.timeout("30 seconds"))
    )

    it.effect("emits nothing, as all that is internal: no span, no log line, no metric", () =>
      Effect.gen(function* () {
        const connection = yield* PGlite.PGlite
        yield* Recording.assertSilent(Effect.zipRight(statements(connection.sql), connection.health))
        const recording = yield* Recording.make
        yield* recording.within(
          Effect.zipRight(
            Stream.runForEach(connection.sql`select 1`.stream, () => Effect.withSpan(Effect.void, "of the caller")),
            connection.sql.withTransaction(Effect.withSpan(Effect.void, "in a transaction"))
          )
        )
        assert.deepStrictEqual(
          (yield* recording.spans).map(({ name }) => name),
          ["of the caller", "in a transaction"]
        )
      })
    )

    it.effect("pgvector is there", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create extension if not exists vector`
        assert.deepStrictEqual(yield* sql`select '[1,2]'::vector <-> '[1,4]'::vector as distance`, [{ distance: 2 }])
      })
    )
  })

  it.live(
    "data on disk outlives the connection",
    () =>
      Effect.gen(function* () {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { sql } = yield* PGlite.make({ dataDir: shared, vector: false })
            yield* sql`create table kept (n int)`
            yield* sql`insert into kept values (7)`
          })
        )
        const rows = yield* Effect.scoped(
          Effect.flatMap(PGlite.make({ dataDir: shared, vector: false }), ({ sql }) => sql`select n from kept`)
        )
        assert.deepStrictEqual(rows, [{ n: 7 }])
      }),
    60_000
  )

  it.live("waiting is bounded, with a typed error: for the backend, and for a nested transaction beside it", () =>
    Effect.gen(function* () {
      const { sql } = yield* PGlite.make({ acquireTimeout: "50 millis", vector: false, dataDir: shared })
      // `reserve` asks for a backend of its own, which there is not while a transaction has the only one.
      const error = yield* sql.withTransaction(Effect.flip(Effect.scoped(sql.reserve)))
      assert.strictEqual(reasonOf(error), "Timeout")
      // What is inside the nested one waits for a statement that waits for the nested one to end.
      const late = yield* Effect.flip(
        sql.withTransaction(
          Effect.gen(function* () {
            const open = yield* Deferred.make<void>()
            const outside = yield* Effect.fork(Effect.zipRight(Deferred.await(open), sql`select 1`))
            yield* sql.withTransaction(Effect.zipRight(Deferred.succeed(open, undefined), Fiber.join(outside)))
          })
        )
      ).pipe(Effect.timeout("30 seconds"))
      assert.strictEqual(reasonOf(late), "Timeout")
      assert.include(late.message, "nested transaction")
      assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
    }).pipe(Effect.scoped)
  )

  it.live("external: each statement is one client span, one log line and a count", () =>
    Effect.gen(function* () {
      const { plane, sql } = yield* PGlite.make({ plane: "external", vector: false, dataDir: shared })
      assert.strictEqual(plane, "external")
      const recording = yield* Recording.make
      yield* recording.within(statements(sql))
      const spans = yield* recording.spans
      const calls = spans.filter(({ kind }) => kind === "client")
      assert.deepStrictEqual(
        calls.map(({ name }) => name),
        [...Array<string>(7).fill("SELECT"), "BEGIN", "SELECT", "COMMIT", "OTHER", "BEGIN", "SELECT"]
      )
      assert.isTrue(spans.every(({ ends }) => ends === 1))
      assert.strictEqual((yield* recording.lines).length, calls.length)
      assert.deepStrictEqual(
        (yield* recording.lines)
          .filter(({ level }) => level._tag === "Error")
          .map(({ message }) => message.slice(0, 20)),
        ["pglite.OTHER failed ", "pglite.SELECT failed"]
      )
    }).pipe(Effect.scoped)
  )

  it.live("a folder that cannot be made is a typed error", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const file = Path.join(folder, "file")
      Fs.writeFileSync(file, "not a folder")
      const error = yield* Effect.flip(Effect.scoped(PGlite.make({ dataDir: Path.join(file, "data"), vector: false })))
      assert.strictEqual(error._tag, "ConnectionError")
      assert.strictEqual(error.method, "start")
    }).pipe(Effect.scoped)
  )

  it.effect("an absent driver is a typed error that names the package", () =>
    Effect.gen(function* () {
      const missing = "@underlay/no-such-driver"
      const error = yield* Effect.flip(load({ kind: "pglite", name: "x" }, missing, "1.2.3", () => import(missing)))
      assert.strictEqual(error.reason, "MissingDriver")
      assert.include(error.message, "npm install @underlay/no-such-driver@1.2.3")
    })
  )

  it.live("joins the registry as a kind, and passes the suite of connections", () =>
    Effect.gen(function* () {
      const connections = yield* Connections.Connections
      const connection = yield* connections.get(PGlite.kind)
      assert.deepStrictEqual(yield* connection.use((sql) => sql`select 1 as one`), [{ one: 1 }])
      assert.deepStrictEqual(
        (yield* connections.health).map(({ name, status }) => [name, status]),
        [["pglite", "up"]]
      )
      const exit = yield* Effect.exit(connections.get(PGlite.kind, "broken"))
      assert.isTrue(Exit.isFailure(exit))
    }).pipe(
      Effect.scoped,
      Effect.provide(Connections.layer([PGlite.kind])),
      Effect.withConfigProvider(
        ConfigProvider.fromMap(
          new Map([
            ["connections.pglite.vector", "false"],
            ["connections.pglite.dataDir", shared],
            ["connections.broken.acquireTimeout", "soon"]
          ])
        )
      )
    )
  )

  describe("suite of connections", () => {
    const suite = ConnectionSuite.suite({
      make: PGlite.make({ vector: false, dataDir: shared }),
      ask: (sql) => sql`select 41 + 1 as answer`.values,
      expected: [[42]]
    })
    for (const one of suite.cases) it.live(one.name, () => one.run, 60_000)
  })
})
