import type { SqlClient } from "@effect/sql"
import { SqlClient as Sql } from "@effect/sql"
import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Deferred, Duration, Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { DatabaseError, Postgres } from "../../src/index.ts"
import { connect, connectionsNamed, errorOf, eventually, running, Server, soon, timed, turns } from "./postgresTools.ts"

const live = { timeout: "60 seconds", excludeTestServices: true } as const

const within =
  (sql: SqlClient.SqlClient) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, SqlClient.SqlClient>> =>
    Effect.provideService(effect, Sql.SqlClient, sql)

const asDatabaseError = (error: unknown): DatabaseError.DatabaseError => {
  if (error instanceof DatabaseError.DatabaseError) return error
  throw new Error(`not a DatabaseError: ${String(error)}`)
}

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres transactions", "postgres"), () => {
  layer(Server.layer, live)("against a real server", (it) => {
    it.scoped("a serialization failure runs the whole transaction again, until both have counted", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table counted (n int)`
        yield* sql`insert into counted values (0)`
        const bothRead = yield* Deferred.make<void>()
        let runs = 0
        const increment = Postgres.transaction(
          Effect.gen(function* () {
            const [row] = yield* sql<{ readonly n: number }>`select n from counted`
            // Neither writes before both have read, the first time.
            if (++runs === 2) yield* Deferred.succeed(bothRead, undefined)
            yield* Deferred.await(bothRead)
            yield* sql`update counted set n = ${(row?.n ?? 0) + 1}`
          }),
          { isolation: "serializable", retries: 10 }
        ).pipe(within(sql))
        yield* Effect.all([increment, increment], { concurrency: 2 })
        assert.deepStrictEqual(yield* sql`select n from counted`, [{ n: 2 }])
        assert.isAbove(runs, 2)
      })
    )

    it.scoped("a deadlock is run again too, also where the effect has made another error of it; others are not", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table locked (id int primary key, n int)`
        yield* sql`insert into locked values (1, 0), (2, 0)`
        const first = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
        const go = (mine: 0 | 1) =>
          Postgres.transaction(
            Effect.gen(function* () {
              yield* sql`update locked set n = n + 1 where id = ${mine + 1}`
              yield* Deferred.succeed(first[mine], undefined)
              yield* Deferred.await(first[mine === 0 ? 1 : 0])
              yield* sql`update locked set n = n + 1 where id = ${mine === 0 ? 2 : 1}`
            }).pipe(Effect.mapError(() => "an error of my own"))
          ).pipe(within(sql))
        yield* Effect.all([go(0), go(1)], { concurrency: 2 })
        assert.deepStrictEqual(yield* sql`select n from locked order by id`, [{ n: 2 }, { n: 2 }])
        let runs = 0
        const wrong = Postgres.transaction(
          Effect.suspend(() => {
            runs++
            return sql`select 1/0`
          })
        ).pipe(within(sql))
        assert.strictEqual(errorOf(yield* Effect.flip(wrong)).code, "22012")
        assert.strictEqual(runs, 1)
      })
    )

    it.scoped("retries end, by their number and by a schedule, with the last error", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        let runs = 0
        const conflict = Effect.suspend(() => {
          runs++
          return sql.unsafe("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$")
        })
        const limited = Postgres.transaction(conflict, { retries: 2 }).pipe(within(sql))
        assert.strictEqual(errorOf(yield* Effect.flip(limited)).reason, "Conflict")
        assert.strictEqual(runs, 3)
        runs = 0
        const once = Postgres.transaction(conflict, { retries: 5, schedule: Schedule.recurs(1) }).pipe(within(sql))
        yield* Effect.flip(once)
        assert.strictEqual(runs, 2)
        runs = 0
        // A savepoint cannot be run again by itself.
        yield* Effect.flip(sql.withTransaction(Postgres.transaction(conflict, { retries: 5 })).pipe(within(sql)))
        assert.strictEqual(runs, 1)
      })
    )

    it.scoped("isolation, read only and deferrable are what the server has; another kind inside is refused", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        const shown = Postgres.transaction(
          sql`select current_setting('transaction_isolation') as isolation,
            current_setting('transaction_read_only') as read_only,
            current_setting('transaction_deferrable') as deferrable`,
          { isolation: "serializable", readOnly: true, deferrable: true }
        ).pipe(within(sql))
        assert.deepStrictEqual(yield* shown, [{ isolation: "serializable", read_only: "on", deferrable: "on" }])
        yield* sql`create table only_read (n int)`
        const write = Postgres.transaction(sql`insert into only_read values (1)`, { readOnly: true }).pipe(within(sql))
        assert.strictEqual(errorOf(yield* Effect.flip(write)).code, "25006")
        const inner = Postgres.transaction(sql`select 1 as one`, { isolation: "serializable" })
        const refused = yield* Effect.flip(Postgres.transaction(inner).pipe(within(sql)))
        assert.strictEqual(errorOf(refused).reason, "InvalidRequest")
        assert.deepStrictEqual(yield* Postgres.transaction(inner, { isolation: "serializable" }).pipe(within(sql)), [
          { one: 1 }
        ])
      })
    )

    it.scoped("the connection that is lost while COMMIT runs: the outcome is unknown, and it is not run again", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { sql } = yield* connect({ applicationName: "lost-commit" })
        yield* sql.unsafe(`create table slowly (n int);
          create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(20); return null; end';
          create constraint trigger slow after insert on slowly deferrable initially deferred
          for each row execute function slow()`)
        let runs = 0
        const fiber = yield* Effect.fork(
          Effect.flip(
            Postgres.transaction(
              Effect.suspend(() => {
                runs++
                return sql`insert into slowly values (1)`
              })
            ).pipe(within(sql))
          )
        )
        yield* eventually(
          "it commits",
          Effect.map(
            server.sql(
              "select count(*) from pg_stat_activity where application_name = 'lost-commit' and query = 'COMMIT' and state = 'active'"
            ),
            (count) => count === "1"
          )
        )
        yield* server.sql(
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lost-commit'"
        )
        const error = asDatabaseError(yield* Fiber.join(fiber))
        assert.isTrue(error.outcomeUnknown)
        assert.isFalse(error.isRetryable)
        assert.strictEqual(error.errorClass, "permanent")
        assert.include(error.message, "outcome is not known")
        assert.strictEqual(runs, 1)
      })
    )

    it.scoped(
      "the connection that is lost before COMMIT is sent: rolled back for certain, which may be tried again",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const { sql, stats } = yield* connect({ applicationName: "lost-before" })
          yield* sql`create table lost_before (n int)`
          const work = sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into lost_before values (1)`
              const [row] = yield* sql<{ readonly pid: number }>`select pg_backend_pid() as pid`
              yield* server.sql(`select pg_terminate_backend(${row?.pid})`)
              yield* eventually(
                "it is gone",
                Effect.map(connectionsNamed("lost-before"), (count) => count === 0)
              )
              yield* turns(50)
            })
          )
          const error = asDatabaseError(yield* Effect.flip(work))
          assert.isFalse(error.outcomeUnknown)
          assert.isTrue(error.isRetryable)
          yield* soon(
            "nothing is in use",
            Effect.map(stats, ({ inUse }) => inUse === 0)
          )
          assert.deepStrictEqual(yield* sql`select * from lost_before`, [])
        })
    )

    it.scoped("a nested transaction that failed and cannot be undone takes the whole with it", () =>
      Effect.gen(function* () {
        const watch = (yield* connect()).sql
        const { sql, stats } = yield* connect({ maxConnections: 1, endTimeout: "200 millis" })
        yield* sql`create table not_undone (n int)`
        // It holds up the way back to the savepoint for longer than that may take.
        const inner = sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into not_undone values (2)`
            yield* Effect.forkDaemon(Effect.exit(sql`select pg_sleep(20), 'in the way'`))
            yield* eventually(
              "it runs",
              Effect.map(running(watch, "in the way"), (count) => count === 1)
            )
            return yield* Effect.fail("no")
          })
        )
        for (const after of [Effect.void, sql`insert into not_undone values (3)`, sql.withTransaction(Effect.void)]) {
          let failed: unknown
          const outer = sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into not_undone values (1)`
              failed = yield* Effect.flip(inner)
              yield* Effect.ignore(after)
            })
          )
          const error = asDatabaseError(yield* Effect.flip(outer))
          assert.strictEqual(failed, "no")
          assert.strictEqual(error.reason, "Unavailable")
          assert.isFalse(error.outcomeUnknown)
          assert.include(error.message, "all was rolled back")
          assert.deepStrictEqual(yield* watch`select n from not_undone`, [])
        }
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse }) => inUse === 0)
        )
      })
    )

    it.scoped("COPY of a fiber that nobody joined stores nothing once its transaction is over", () =>
      Effect.gen(function* () {
        const { copyIn, copyOut, sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table copied_late (n int)`
        for (const first of [Effect.void, sql`select 1`]) {
          for (let steps = 0; steps < 8; steps++) {
            const work = copyIn("copy copied_late from stdin", Stream.make(Buffer.from(`${steps}\n`)))
            let copy: Fiber.Fiber<Exit.Exit<unknown, unknown>> | undefined
            yield* Effect.exit(
              sql.withTransaction(
                Effect.gen(function* () {
                  yield* first
                  copy = yield* Effect.forkDaemon(Effect.exit(work))
                  for (let step = 0; step < steps; step++) yield* Effect.yieldNow()
                })
              )
            )
            if (copy !== undefined) yield* Fiber.join(copy)
            assert.deepStrictEqual(yield* sql`select n from copied_late`, [])
          }
        }
        let out: Fiber.Fiber<Exit.Exit<unknown, unknown>> | undefined
        yield* Effect.exit(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`select 1`
              out = yield* Effect.forkDaemon(Effect.exit(Stream.runDrain(copyOut("copy (select 1) to stdout"))))
              yield* Effect.yieldNow()
              yield* Effect.yieldNow()
            })
          )
        )
        const exit = out === undefined ? Exit.void : yield* Fiber.join(out)
        assert.isTrue(Exit.isFailure(exit))
      })
    )

    it.scoped("a serialization failure within COPY runs the whole transaction again", () =>
      Effect.gen(function* () {
        const { copyIn, copyOut, sql } = yield* connect()
        yield* sql.unsafe(`create table copied_twice (n int);
          create sequence conflicts;
          create function conflicting() returns int language plpgsql as $$ begin
            if nextval('conflicts') % 2 = 1 then raise exception 'conflict' using errcode = '40001'; end if;
            return 7;
          end $$;
          alter table copied_twice add column m int default conflicting()`)
        const rows = Stream.make(Buffer.from("1\n"))
        const copied = Postgres.transaction(copyIn("copy copied_twice (n) from stdin", rows)).pipe(within(sql))
        assert.strictEqual(yield* copied, 1)
        assert.deepStrictEqual(yield* sql`select n, m from copied_twice`, [{ n: 1, m: 7 }])
        const read = Stream.runCollect(copyOut("copy (select conflicting()) to stdout"))
        const out = yield* Postgres.transaction(read).pipe(within(sql))
        assert.strictEqual(Buffer.concat([...out]).toString(), "7\n")
      })
    )

    it.scoped("a COMMIT that the server refuses costs no connection", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql.unsafe(`create table deferred_one (n int unique deferrable initially deferred)`)
        const pid = Effect.map(sql`select pg_backend_pid() as pid`, ([row]) => row?.["pid"])
        const before = yield* pid
        const twice = sql.withTransaction(sql`insert into deferred_one values (1), (1)`)
        assert.strictEqual(errorOf(yield* Effect.flip(twice)).reason, "ConstraintViolation")
        assert.strictEqual(yield* pid, before)
        assert.deepStrictEqual(yield* sql`select * from deferred_one`, [])
      })
    )

    it.scoped("a nested transaction after a first statement that the server cannot read is refused as such", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        const nested = Effect.zipRight(Effect.ignore(sql.unsafe("selct 1")), sql.withTransaction(sql`select 1`))
        const error = errorOf(yield* Effect.flip(sql.withTransaction(nested)))
        assert.deepStrictEqual([error.reason, error.code], ["InvalidRequest", "25P02"])
      })
    )

    it.scoped("who joins a fiber that was forked inside a transaction is not in it for that", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table joined (n int)`
        const go = yield* Deferred.make<void>()
        const inside = yield* sql.withTransaction(
          Effect.zipRight(sql`select 1`, Effect.forkDaemon(Effect.as(Deferred.await(go), "mine")))
        )
        yield* Deferred.succeed(go, undefined)
        assert.strictEqual(yield* Fiber.join(inside), "mine")
        // With the fault it would be in a transaction that is over, and fail with Closed.
        yield* sql`insert into joined values (1)`
        assert.deepStrictEqual(yield* sql.withTransaction(sql`select n from joined`), [{ n: 1 }])
        // And one transaction does not take over another.
        const other = yield* Deferred.make<Fiber.RuntimeFiber<void>>()
        const seen = yield* Deferred.make<void>()
        const first = yield* Effect.fork(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into joined values (2)`
              yield* Deferred.succeed(other, yield* Effect.forkDaemon(Effect.void))
              yield* Deferred.await(seen)
              return yield* Effect.fail("undo")
            })
          )
        )
        yield* Effect.flatMap(Deferred.await(other), Fiber.join)
        yield* sql`insert into joined values (3)`
        yield* Deferred.succeed(seen, undefined)
        yield* Fiber.await(first)
        assert.deepStrictEqual(yield* sql`select n from joined order by n`, [{ n: 1 }, { n: 3 }])
      })
    )

    it.scoped("children of a transaction share it, one after another", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table shared (n int)`
        yield* sql.withTransaction(
          Effect.forEach(
            Array.from({ length: 50 }, (_, n) => n),
            (n) => sql`insert into shared values (${n})`,
            { concurrency: "unbounded" }
          )
        )
        assert.deepStrictEqual(yield* sql`select count(distinct n)::int as count from shared`, [{ count: 50 }])
      })
    )

    it.scoped("a transaction in which nothing is asked asks nothing of the server", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ applicationName: "nothing" })
        yield* sql`select 'marker'`
        assert.strictEqual(yield* sql.withTransaction(Effect.succeed(7)), 7)
        const server = yield* Server
        assert.include(
          yield* server.sql("select query from pg_stat_activity where application_name = 'nothing'"),
          "marker"
        )
      })
    )

    it.scoped(
      "what cannot take BEGIN along is in the transaction all the same: a stream, a savepoint, many at once",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ maxConnections: 1 })
          yield* sql`create table first_of (n int)`
          const undone = (work: Effect.Effect<unknown, unknown>) =>
            Effect.ignore(sql.withTransaction(Effect.zipRight(work, Effect.fail("undo"))))
          yield* undone(
            Stream.runDrain(sql`insert into first_of select n from generate_series(1, 3) as t (n) returning n`.stream)
          )
          yield* undone(sql.withTransaction(sql`insert into first_of values (${4})`))
          yield* undone(sql`insert into first_of values (5); insert into first_of values (6)`)
          yield* undone(sql`insert into first_of values (${7})`)
          assert.deepStrictEqual(yield* sql`select n from first_of`, [])
        })
    )

    it.scoped("interruption of a transaction takes less than 100 ms, and it is rolled back on the server", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ applicationName: "interrupted-transaction" })
        const watch = (yield* connect()).sql
        yield* sql`create table rolled_back (n int)`
        let quickest = Duration.infinity
        for (let attempt = 0; attempt < 10 && Duration.greaterThan(quickest, "100 millis"); attempt++) {
          const fiber = yield* Effect.fork(
            sql.withTransaction(
              Effect.zipRight(sql`insert into rolled_back values (1)`, sql`select pg_sleep(20), 'rolling'`)
            )
          )
          yield* eventually(
            "it runs",
            Effect.map(running(watch, "rolling"), (count) => count > 0)
          )
          const [took] = yield* timed(Fiber.interrupt(fiber))
          quickest = Duration.min(quickest, took)
          yield* eventually(
            "it is over on the server",
            Effect.map(running(watch, "rolling"), (count) => count === 0)
          )
        }
        assert.isTrue(Duration.lessThan(quickest, "100 millis"), Duration.format(quickest))
        assert.deepStrictEqual(yield* watch`select * from rolled_back`, [])
      })
    )
  })
})

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres interruption", "postgres"), () => {
  layer(Server.layer, live)("against a real server", (it) => {
    it.scoped(
      "800 queries of 2 victims beside 3 killers over a pool of 4: none is cancelled (effect#8068)",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ maxConnections: 4 })
          let kills = 0
          const killer = Effect.gen(function* () {
            const fiber = yield* Effect.fork(sql`select pg_sleep(1)`)
            yield* turns(1 + (kills % 12))
            yield* Fiber.interrupt(fiber)
            kills++
          }).pipe(Effect.forever)
          const killers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(killer))
          const victim = Effect.forEach(Array.from({ length: 400 }), () => Effect.exit(sql`select 1, pg_sleep(0.001)`))
          const results = (yield* Effect.all([victim, victim], { concurrency: 2 })).flat()
          yield* Fiber.interruptAll(killers)
          assert.strictEqual(results.length, 800)
          assert.isAbove(kills, 50)
          assert.deepStrictEqual(results.filter(Exit.isFailure), [])
        }),
      120_000
    )

    it.scoped(
      "a statement that only waits on a reserved connection is taken back without harm to the one that runs",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ maxConnections: 1 })
          const watch = (yield* connect()).sql
          yield* Effect.gen(function* () {
            const connection = yield* sql.reserve
            const ask = (text: string) => connection.executeUnprepared(text, [], undefined)
            const runs = yield* Effect.fork(ask("select 'the one that runs' as it, pg_sleep(0.5)"))
            yield* eventually(
              "it runs",
              Effect.map(running(watch, "the one that runs"), (count) => count === 1)
            )
            const waits = yield* Effect.fork(ask("select 'never sent'"))
            yield* turns(3)
            yield* Fiber.interrupt(waits)
            const [row] = yield* Fiber.join(runs)
            assert.strictEqual(row.it, "the one that runs")
            assert.deepStrictEqual(yield* ask("select 1 as one"), [{ one: 1 }])
          }).pipe(Effect.scoped)
        })
    )

    it.scoped("limits of statements and of waiting hold where the caller cannot be interrupted", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1, acquireTimeout: "200 millis" })
        const slow = Postgres.withStatementTimeout(sql`select pg_sleep(20)`, "100 millis")
        const [took, error] = yield* timed(Effect.uninterruptible(Effect.flip(slow)))
        assert.strictEqual(errorOf(error).reason, "Timeout")
        assert.isTrue(Duration.lessThan(took, "2 seconds"))
        const held = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const holder = yield* Effect.fork(
          Effect.scoped(
            Effect.zipRight(sql.reserve, Effect.zipRight(Deferred.succeed(held, undefined), Deferred.await(go)))
          )
        )
        yield* Deferred.await(held)
        for (const work of [sql`select 1`, sql.withTransaction(sql`select 1`), Stream.runDrain(sql`select 1`.stream)]) {
          const [waited, late] = yield* timed(Effect.uninterruptible(Effect.flip(work)))
          assert.strictEqual(errorOf(late).reason, "Timeout")
          assert.isTrue(Duration.lessThan(waited, "2 seconds"))
        }
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(holder)
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      })
    )

    it.scoped(
      "a timeout of one statement inside a transaction leaves its savepoint's outside usable, and holds for streams",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ maxConnections: 1 })
          yield* sql`create table timed_out (n int)`
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into timed_out values (1)`
              const slow = sql.withTransaction(
                Effect.zipRight(sql`insert into timed_out values (2)`, sql`select pg_sleep(20)`)
              )
              const error = yield* Effect.flip(Postgres.withStatementTimeout(slow, "150 millis"))
              assert.strictEqual(errorOf(error).reason, "Timeout")
              yield* sql`insert into timed_out values (3)`
            })
          )
          assert.deepStrictEqual(yield* sql`select n from timed_out order by n`, [{ n: 1 }, { n: 3 }])
          const endless = sql`select n, pg_sleep(0.01) from generate_series(1, 100000) as t (n)`.stream
          const cut = yield* Effect.flip(Postgres.withStatementTimeout(Stream.runDrain(endless), "200 millis"))
          assert.strictEqual(errorOf(cut).reason, "Timeout")
        })
    )

    it.scoped("statements that are met again are prepared, and survive changes of their tables and DISCARD ALL", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        const prepared = Effect.map(
          sql`select count(*)::int as count from pg_prepared_statements`,
          ([row]) => row?.["count"]
        )
        yield* sql`create table changing (a int)`
        yield* sql`insert into changing values (1)`
        const read = (a: number) => sql`select * from changing where a = ${a}`
        yield* read(1)
        assert.strictEqual(yield* prepared, 0)
        yield* read(1)
        yield* read(2)
        assert.strictEqual(yield* prepared, 1)
        yield* sql`alter table changing add column b text`
        assert.deepStrictEqual(yield* read(1), [{ a: 1, b: null }])
        assert.deepStrictEqual(yield* read(1), [{ a: 1, b: null }])
        yield* sql`discard all`
        assert.deepStrictEqual(yield* read(1), [{ a: 1, b: null }])
        // A failure after PARSE does not keep the next from running.
        const divide = (by: number) => sql`select 10 / ${by}::int as it`
        yield* divide(1)
        yield* Effect.flip(divide(0))
        assert.deepStrictEqual(yield* divide(5), [{ it: 2 }])
        const plain = (yield* connect({ maxConnections: 1, prepare: false })).sql
        for (const by of [1, 2, 5]) yield* plain`select 10 / ${by}::int as it`
        assert.deepStrictEqual(yield* plain`select count(*)::int as count from pg_prepared_statements`, [{ count: 0 }])
      })
    )

    it.scoped(
      "columns that are not told again are right: renamed, retyped, of no rows, in and after transactions",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ maxConnections: 1 })
          yield* sql`create table told (a int, b text)`
          const add = (a: number, b: string | null) => sql`insert into told values (${a}, ${b})`
          const read = (a: number) => sql`select * from told where a = ${a}`
          for (const [a, b] of [
            [1, "x"],
            [2, null],
            [3, ""]
          ] as const) {
            assert.deepStrictEqual(yield* add(a, b), [])
          }
          for (let round = 0; round < 3; round++) {
            assert.deepStrictEqual(yield* read(2), [{ a: 2, b: null }])
            assert.deepStrictEqual(yield* read(4), [])
            assert.deepStrictEqual(yield* sql`select a, b from told where a = ${3}`.values, [[3, ""]])
            const raw = yield* sql`select b, a from told where a = ${1}`.raw
            assert.deepInclude(raw, { command: "SELECT", rowCount: 1, rows: [{ b: "x", a: 1 }] })
            assert.deepStrictEqual(
              (raw as { readonly fields: ReadonlyArray<{ readonly name: string }> }).fields.map(({ name }) => name),
              ["b", "a"]
            )
            assert.deepStrictEqual(yield* sql.withTransaction(Effect.zip(read(1), read(2))), [
              [{ a: 1, b: "x" }],
              [{ a: 2, b: null }]
            ])
          }
          yield* sql`alter table told rename column b to c`
          assert.deepStrictEqual(yield* read(1), [{ a: 1, c: "x" }])
          assert.deepStrictEqual(yield* read(1), [{ a: 1, c: "x" }])
          yield* sql`alter table told alter column c type bytea using c::bytea`
          for (let round = 0; round < 3; round++) {
            assert.deepStrictEqual(yield* read(1), [{ a: 1, c: Buffer.from("x") }])
          }
          yield* sql`alter table told drop column a cascade, add column a int default 1`
          for (let round = 0; round < 3; round++) {
            assert.deepStrictEqual(Object.keys((yield* read(1))[0] ?? {}), ["c", "a"])
          }
        })
    )

    it.scoped("what a caller does to the columns of a result is seen by no other", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        for (let round = 0; round < 4; round++) {
          const statement = sql<{ readonly a: string; readonly b: number }>`select ${"x"}::text as a, 1 as b`
          assert.deepStrictEqual(yield* statement, [{ a: "x", b: 1 }])
          const { fields } = (yield* statement.raw) as { readonly fields: Array<{ name: string; dataTypeID: number }> }
          assert.deepStrictEqual(
            fields.map(({ dataTypeID, name }) => [name, dataTypeID]),
            [
              ["a", 25],
              ["b", 23]
            ]
          )
          for (const field of fields) field.name = "other"
          fields.reverse()
        }
      })
    )

    it.scoped("rows with other columns than were told when they were prepared, as behind a pooler, are an error", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        const read = sql<{ readonly a: string }>`select * from (select ${"1"}::text as a) as rows`
        yield* read
        yield* read
        yield* read
        const [row] = yield* sql<{
          readonly name: string
        }>`select name from pg_prepared_statements where statement like '%as rows%'`
        const name = row?.name ?? ""
        assert.match(name, /^underlay_\d+$/)
        // A pooler that knows prepared statements prepares it anew on another of the server's sessions.
        yield* sql.unsafe(`deallocate ${name}`)
        yield* sql.unsafe(`prepare ${name}(text) as select $1 as a, 'new' as b`)
        const error = asDatabaseError(yield* Effect.flip(read))
        assert.strictEqual(error.reason, "Unknown")
        assert.include(error.message, "prepare")
        assert.isFalse(error.isRetryable)
        assert.deepStrictEqual(yield* read, [{ a: "1" }])
      })
    )

    it.scoped("many statements at once, some interrupted at every step, lose no connection and mix no answers", () =>
      Effect.gen(function* () {
        const { sql, stats } = yield* connect({ maxConnections: 3, applicationName: "mixed" })
        yield* Effect.forEach(
          Array.from({ length: 300 }, (_, n) => n),
          (n) =>
            Effect.gen(function* () {
              const fiber = yield* Effect.fork(sql<{ readonly n: number }>`select ${n}::int as n, pg_sleep(0.001)`)
              for (let turn = 0; turn < n % 13; turn++) yield* Effect.yieldNow()
              if (n % 3 === 0) yield* turns(1 + (n % 7))
              if (n % 4 === 0) yield* Fiber.interrupt(fiber)
              else assert.strictEqual((yield* Fiber.join(fiber))[0]?.n, n)
            }),
          { concurrency: 20, discard: true }
        )
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse, waiting }) => inUse + waiting === 0)
        )
        yield* eventually(
          "the server has no more than the pool",
          Effect.zipWith(connectionsNamed("mixed"), stats, (server, { total }) => server === total && total <= 3)
        )
      })
    )
  })
})
