import * as Net from "node:net"
import type { SqlClient } from "@effect/sql"
import { assert, describe, it, layer } from "@effect/vitest"
import { Connection, Connections, Deadline, Health } from "@underlay/core"
import { ConnectionSuite, Recording } from "@underlay/core/testing"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Timed from "@underlay/servers/Timed"
import {
  Clock,
  ConfigProvider,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Option,
  Redacted,
  Scope,
  Stream
} from "effect"
import { DatabaseError, PGlite, Postgres } from "../../src/index.ts"

class Server extends Context.Tag("test/Server")<Server, PostgresServer.PostgresServer>() {
  static readonly layer = Layer.scoped(Server, PostgresServer.make({ settings: { max_connections: "30" } }))
}

const connect = (settings: Postgres.PostgresSettings = {}, name?: string) =>
  Effect.flatMap(Server, ({ url }) => Postgres.make({ url: Redacted.make(url), ...settings }, name))

const errorOf = (error: unknown): Connection.ConnectionError => {
  if (error instanceof DatabaseError.DatabaseError) return error.cause
  if (error instanceof Connection.ConnectionError) return error
  throw new Error(`not a typed error: ${String(error)}`)
}

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Timed.timed(effect), ([value, took]) => [Duration.millis(took), value] as const)

/** Turns of the event loop, in each of which sockets are read and written. */
const turns = (count: number) =>
  Effect.repeatN(
    Effect.async<void>((resume) => {
      setImmediate(() => resume(Effect.void))
    }),
    count - 1
  )

/** Until it is so in this process, looked at after each turn of the event loop. */
const soon = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.zipRight(turns(1), condition).pipe(
    Effect.flatMap((is) => (is ? Effect.void : Effect.fail(what))),
    Effect.retry({ times: 500_000 })
  )

/** Until the server says so, which is asked again and again. */
const eventually = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.flatMap(condition, (is) => (is ? Effect.void : Effect.fail(what))).pipe(Effect.retry({ times: 300 }))

const connectionsNamed = (name: string) =>
  Effect.flatMap(Server, ({ sql }) =>
    Effect.map(sql(`select count(*) from pg_stat_activity where application_name = '${name}'`), Number)
  )

const running = (text: string) =>
  Effect.flatMap(Server, ({ sql }) =>
    Effect.map(
      sql(
        `select count(*) from pg_stat_activity where state = 'active' and query like '%${text}%' and pid <> pg_backend_pid()`
      ),
      Number
    )
  )

/** A server that accepts connections, which it counts, and never answers. */
const blackhole = Effect.acquireRelease(
  Effect.async<{ readonly server: Net.Server; accepted: number }>((resume) => {
    const hole = {
      accepted: 0,
      server: Net.createServer((socket) => {
        hole.accepted++
        socket.on("error", () => {})
      })
    }
    hole.server.listen(0, "127.0.0.1", () => resume(Effect.succeed(hole)))
  }),
  ({ server }) =>
    Effect.sync(() => {
      server.close()
    })
).pipe(Effect.map((hole) => ({ port: (hole.server.address() as Net.AddressInfo).port, accepted: () => hole.accepted })))

describe("Postgres settings", () => {
  it.live("a URL that is none is InvalidSettings, and its text is not shown", () =>
    Effect.gen(function* () {
      for (const url of [
        "",
        "localhost/hidden",
        "mysql://u:hidden@h/d",
        "postgres://u:hid#den@h:x/d",
        "postgres://u:hidden@[::1]:1/%zz",
        "postgres://u:hidden@localhost/d?sslrootcert=/nowhere/at/all.crt"
      ]) {
        const error = yield* Effect.flip(Effect.scoped(Postgres.make({ url: Redacted.make(url) })))
        assert.strictEqual(error.reason, "InvalidSettings")
        assert.notInclude(error.message, "hid")
      }
      const error = yield* Effect.flip(Effect.scoped(Postgres.make({ maxConnections: 0 })))
      assert.strictEqual(error.reason, "InvalidSettings")
    })
  )

  it.live("DATABASE_URL that is not set is a ConfigError", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Postgres.layerConfig())))
      assert.include(String(error), "DATABASE_URL")
    }).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(new Map())))
  )

  it.live("nobody listens: Unavailable within a second", () =>
    Effect.gen(function* () {
      const [took, error] = yield* timed(Effect.flip(Effect.scoped(Postgres.make({ host: "127.0.0.1", port: 1 }))))
      assert.strictEqual(error.reason, "Unavailable")
      assert.strictEqual(error.code, "ECONNREFUSED")
      assert.isTrue(error.isRetryable)
      assert.isTrue(Duration.lessThan(took, "1 second"))
    })
  )

  it.live("a server that accepts and never answers: Timeout within the connect timeout", () =>
    Effect.gen(function* () {
      const { accepted, port } = yield* blackhole
      const settings = { host: "127.0.0.1", port, connectTimeout: "200 millis" } as const
      const [took, error] = yield* timed(Effect.flip(Effect.scoped(Postgres.make(settings))))
      assert.strictEqual(error.reason, "Timeout")
      assert.isTrue(Duration.lessThan(took, "1 second"))
      const scope = yield* Scope.make()
      const lazy = yield* Scope.extend(
        Postgres.make({ ...settings, connect: "lazy", connectTimeout: "1 minute" }),
        scope
      )
      const before = accepted()
      const fiber = yield* Effect.fork(lazy.sql`select 1`)
      yield* soon(
        "it connects",
        Effect.sync(() => accepted() > before)
      )
      const [interrupted] = yield* timed(Fiber.interrupt(fiber))
      assert.isTrue(Duration.lessThan(interrupted, "500 millis"), "connecting can be interrupted")
      const [checked, health] = yield* timed(lazy.health)
      assert.strictEqual(health.status, "down")
      assert.isTrue(Duration.lessThan(checked, "2 seconds"), "health does not hang")
      yield* Scope.close(scope, Exit.void)
      assert.deepInclude(yield* lazy.stats, { total: 0, idle: 0, inUse: 0, waiting: 0 })
    }).pipe(Effect.scoped)
  )
})

const live = { timeout: "60 seconds", excludeTestServices: true } as const

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres", "postgres"), () => {
  // The external plane logs what fails, and here much is made to.
  layer(Layer.merge(Server.layer, Logger.remove(Logger.defaultLogger)), live)("against a real server", (it) => {
    it.scoped("answers, with the same values as PGlite", () =>
      Effect.gen(function* () {
        const postgres = yield* connect()
        const pglite = yield* PGlite.make({ vector: false })
        const at = new Date(1_700_000_000_123)
        const ask = (sql: SqlClient.SqlClient) => sql`select ${1}::int4 as small, ${10n}::int8 as large,
          ${"1.50"}::numeric as number, ${true}::bool as yes, ${at}::timestamptz as at, ${at}::timestamp as local,
          ${"2024-02-29"}::date as day, ${new Uint8Array([0, 255])}::bytea as bytes, ${[1, 2]}::int4[] as list,
          ${["a,b", 'c"d', "e\\f", null]}::text[] as texts, ${[[1], [2]]}::int8[] as nested, ${{ a: [1] }}::jsonb as json,
          ${null}::text as nothing, ${"1 day 2 hours"}::interval as span, 'NaN'::float8 as nan, '1.5'::float4 as four`
        const [row] = yield* ask(postgres.sql)
        assert.deepStrictEqual(row?.["at"], at)
        assert.deepStrictEqual(row?.["local"], at)
        assert.deepStrictEqual(row?.["texts"], ["a,b", 'c"d', "e\\f", null])
        assert.deepStrictEqual(yield* ask(pglite.sql), [row ?? {}])
        assert.deepStrictEqual(yield* postgres.sql`select 1 as a, 2 as b`.values, [[1, 2]])
        assert.deepStrictEqual(yield* postgres.sql`select 1 as a; select 2 as a`, [{ a: 2 }])
      })
    )

    it.scoped(
      "interrupting one fiber never cancels another's query: 2 victims, 3 killers, a pool of 4 (effect#8068)",
      () =>
        Effect.gen(function* () {
          const { sql, stats } = yield* connect({ maxConnections: 4 })
          const watch = yield* connect({ maxConnections: 3 })
          let kills = 0
          const killer = (name: string) =>
            Effect.gen(function* () {
              const fiber = yield* Effect.fork(sql.unsafe(`select pg_sleep(1), '${name}'`))
              yield* eventually(
                "it runs",
                Effect.map(
                  watch.sql.unsafe(
                    `select from pg_stat_activity where state = 'active' and query like '%${name}%' and pid <> pg_backend_pid()`
                  ),
                  (found) => found.length > 0
                )
              )
              yield* Fiber.interrupt(fiber)
              // and one that is on its way
              const early = yield* Effect.fork(sql`select pg_sleep(1)`)
              yield* turns(3)
              yield* Fiber.interrupt(early)
              kills += 2
            }).pipe(Effect.forever)
          const killers = yield* Effect.forEach(["killer 1", "killer 2", "killer 3"], (name) =>
            Effect.fork(killer(name))
          )
          const victim = Effect.forEach(
            // Enough by far: with the fault one in eleven failed.
            Array.from({ length: 100 }),
            () => Effect.exit(sql<{ readonly one: number }>`select 1 as one, pg_sleep(0.002)`),
            { concurrency: 1 }
          )
          const results = (yield* Effect.all([victim, victim], { concurrency: 2 })).flat()
          yield* Fiber.interruptAll(killers)
          assert.isAbove(kills, 20)
          assert.strictEqual(results.length, 200)
          assert.strictEqual(results.filter(Exit.isFailure).length, 0)
          assert.isAtMost((yield* stats).total, 4)
        }),
      120_000
    )

    it.scoped("an interrupted statement is cancelled on the server, and its connection is not lent again", () =>
      Effect.gen(function* () {
        const { sql, stats } = yield* connect({ maxConnections: 1 })
        const [before] = yield* sql`select pg_backend_pid() as pid`
        const fiber = yield* Effect.fork(sql`select pg_sleep(5), 'interrupted'`)
        yield* eventually(
          "it runs",
          Effect.map(running("interrupted"), (count) => count === 1)
        )
        const [took] = yield* timed(Fiber.interrupt(fiber))
        assert.isTrue(Duration.lessThan(took, "500 millis"))
        yield* eventually(
          "it is cancelled",
          Effect.map(running("interrupted"), (count) => count === 0)
        )
        const [after] = yield* sql`select pg_backend_pid() as pid`
        assert.notStrictEqual(after?.["pid"], before?.["pid"])
        assert.strictEqual((yield* stats).total, 1)
      })
    )

    it.scoped("interruption inside a transaction does not wait for the running statement; all is rolled back", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 2 })
        yield* sql`create table if not exists interrupted (n int)`
        const fiber = yield* Effect.fork(
          sql.withTransaction(
            Effect.zipRight(sql`insert into interrupted values (1)`, sql`select pg_sleep(5), 'in transaction'`)
          )
        )
        yield* eventually(
          "it runs",
          Effect.map(running("in transaction"), (count) => count === 1)
        )
        const [took] = yield* timed(Fiber.interrupt(fiber))
        assert.isTrue(Duration.lessThan(took, "500 millis"))
        yield* eventually(
          "it is cancelled",
          Effect.map(running("in transaction"), (count) => count === 0)
        )
        assert.deepStrictEqual(yield* sql`select * from interrupted`, [])
      })
    )

    it.scoped("a timeout round one statement of a nested transaction leaves the outer one usable", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table if not exists outer_one (n int)`
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into outer_one values (1)`
            const slow = sql.withTransaction(
              Effect.zipRight(sql`insert into outer_one values (2)`, sql`select pg_sleep(5)`)
            )
            const [took, result] = yield* timed(Effect.timeoutOption(slow, "100 millis"))
            assert.isTrue(Option.isNone(result))
            assert.isTrue(Duration.lessThan(took, "2 seconds"))
            yield* sql`insert into outer_one values (3)`
          })
        )
        assert.deepStrictEqual(yield* sql`select n from outer_one order by n`, [{ n: 1 }, { n: 3 }])
      })
    )

    it.scoped("a failing COMMIT is a typed error, and the connection is fit for the next", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table if not exists late (n int, constraint late_once unique (n) deferrable initially deferred)`
        const error = errorOf(yield* Effect.flip(sql.withTransaction(sql`insert into late values (1), (1)`)))
        assert.strictEqual(error.reason, "ConstraintViolation")
        assert.strictEqual(error.code, "23505")
        assert.deepStrictEqual(yield* sql`select * from late`, [])
      })
    )

    it.scoped("a transaction whose failed statement was swallowed is not reported as committed", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table if not exists swallowed (n int)`
        const body = Effect.zipRight(sql`insert into swallowed values (1)`, Effect.ignore(sql`select 1/0`))
        const error = errorOf(yield* Effect.flip(sql.withTransaction(body)))
        assert.strictEqual(error.reason, "InvalidRequest")
        assert.include(error.message, "rolled back")
        assert.deepStrictEqual(yield* sql`select * from swallowed`, [])
        // The same in a nested one is undone there and does not harm the outer.
        yield* sql.withTransaction(
          Effect.gen(function* () {
            assert.isTrue(Exit.isFailure(yield* Effect.exit(sql.withTransaction(body))))
            yield* sql`insert into swallowed values (2)`
          })
        )
        assert.deepStrictEqual(yield* sql`select n from swallowed`, [{ n: 2 }])
      })
    )

    it.scoped("two nested transactions at once do not roll back each other's work", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table if not exists siblings (n int)`
        const inserted = yield* Deferred.make<void>()
        yield* sql.withTransaction(
          Effect.all(
            [
              Effect.ignore(
                sql.withTransaction(
                  Effect.gen(function* () {
                    yield* sql`insert into siblings values (1)`
                    yield* Deferred.succeed(inserted, undefined)
                    // Time enough for the others to come in between, if they could.
                    yield* Effect.repeatN(sql`select 1`, 20)
                    return yield* Effect.fail("undo")
                  })
                )
              ),
              Effect.zipRight(Deferred.await(inserted), sql.withTransaction(sql`insert into siblings values (2)`)),
              Effect.zipRight(Deferred.await(inserted), sql`insert into siblings values (3)`)
            ],
            { concurrency: "unbounded" }
          )
        )
        assert.deepStrictEqual(yield* sql`select n from siblings order by n`, [{ n: 2 }, { n: 3 }])
      })
    )

    it.scoped("a transaction on one database does not catch the statements meant for another", () =>
      Effect.gen(function* () {
        const one = yield* connect({}, "one")
        const two = yield* connect({}, "two")
        yield* one.sql`create table if not exists whose (n int)`
        yield* Effect.ignore(
          one.sql.withTransaction(
            two.sql
              .withTransaction(
                Effect.gen(function* () {
                  yield* one.sql`insert into whose values (1)`
                  yield* two.sql`insert into whose values (2)`
                })
              )
              .pipe(Effect.zipRight(Effect.fail("undo the outer")))
          )
        )
        assert.deepStrictEqual(yield* one.sql`select n from whose`, [{ n: 2 }])
      })
    )

    it.scoped(
      "waiting for a connection is bounded, interruptible, first come first served, also for transactions",
      () =>
        Effect.gen(function* () {
          const { sql, stats } = yield* connect({ maxConnections: 1, acquireTimeout: "300 millis" })
          const holding = yield* Deferred.make<void>()
          const go = yield* Deferred.make<void>()
          const holder = yield* Effect.fork(
            Effect.scoped(
              Effect.zipRight(sql.reserve, Effect.zipRight(Deferred.succeed(holding, undefined), Deferred.await(go)))
            )
          )
          yield* Deferred.await(holding)
          const thatWait = (count: number) =>
            soon(
              `${count} wait`,
              Effect.map(stats, ({ waiting }) => waiting === count)
            )
          const waiting = yield* Effect.fork(sql.withTransaction(sql`select 1`))
          yield* thatWait(1)
          const [took] = yield* timed(Fiber.interrupt(waiting))
          assert.isTrue(Duration.lessThan(took, "200 millis"))
          assert.strictEqual((yield* stats).waiting, 0)
          const [late, error] = yield* timed(Effect.flip(sql`select 1`))
          assert.strictEqual(errorOf(error).reason, "Timeout")
          assert.isTrue(Duration.lessThan(late, "1 second"))
          const order: Array<number> = []
          const next = yield* Effect.forEach([1, 2, 3], (n) =>
            Effect.zipLeft(Effect.fork(Effect.tap(sql`select 1`, () => Effect.sync(() => order.push(n)))), thatWait(n))
          )
          yield* Deferred.succeed(go, undefined)
          yield* Effect.forEach(next, Fiber.join)
          yield* Fiber.join(holder)
          assert.deepStrictEqual(order, [1, 2, 3])
        })
    )

    it.scoped(
      "interrupted waiters and holders never lose a connection of the pool",
      () =>
        Effect.gen(function* () {
          const { sql, stats } = yield* connect({ maxConnections: 3 })
          yield* Effect.forEach(
            Array.from({ length: 300 }, (_, n) => n),
            (n) =>
              Effect.gen(function* () {
                const work =
                  n % 3 === 0 ? sql.withTransaction(sql`select pg_sleep(0.002)`) : sql`select pg_sleep(0.002)`
                const fiber = yield* Effect.fork(work)
                for (let turn = 0; turn < n % 17; turn++) yield* Effect.yieldNow()
                if (n % 5 === 0) yield* turns(1 + (n % 40))
                yield* n % 2 === 0 ? Fiber.interrupt(fiber) : Fiber.join(fiber)
              }),
            { concurrency: 30, discard: true }
          )
          yield* soon(
            "nothing is in use",
            Effect.map(stats, ({ inUse, waiting }) => inUse + waiting === 0)
          )
          const all = yield* Effect.all(
            Array.from({ length: 3 }, () => sql`select pg_sleep(0.05)`),
            { concurrency: "unbounded" }
          ).pipe(Effect.timeout("30 seconds"))
          assert.strictEqual(all.length, 3)
          assert.isAtMost((yield* stats).total, 3)
        }),
      60_000
    )

    it.scoped("a statement timeout is typed, and the connection stays fit", () =>
      Effect.gen(function* () {
        const { sql, stats } = yield* connect({ maxConnections: 1, statementTimeout: "150 millis" })
        const [took, error] = yield* timed(Effect.flip(sql`select pg_sleep(5)`))
        assert.strictEqual(errorOf(error).reason, "Timeout")
        assert.strictEqual(errorOf(error).code, "57014")
        assert.isTrue(Duration.lessThan(took, "2 seconds"))
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        assert.strictEqual((yield* stats).total, 1)
      })
    )

    it.scoped("a broken constraint names itself and shows no value", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table if not exists named (secret text constraint only_once unique)`
        yield* sql`insert into named values (${"hidden-value"})`
        const error = yield* Effect.flip(sql`insert into named values (${"hidden-value"})`)
        assert.strictEqual(error._tag, "SqlError")
        assert.strictEqual(errorOf(error).reason, "ConstraintViolation")
        assert.isFalse(errorOf(error).isRetryable)
        assert.include(error.message, "only_once")
        assert.notInclude(error.message, "hidden-value")
      })
    )

    it.scoped("two transactions that conflict: one gets Conflict, which may be retried", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table if not exists counter (n int)`
        yield* sql`insert into counter values (0)`
        const bothRead = yield* Deferred.make<void>()
        let readers = 0
        const increment = sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`set transaction isolation level serializable`
            const [row] = yield* sql<{ readonly n: number }>`select n from counter`
            // Neither writes before both have read.
            if (++readers === 2) yield* Deferred.succeed(bothRead, undefined)
            yield* Deferred.await(bothRead)
            yield* sql`update counter set n = ${(row?.n ?? 0) + 1}`
          })
        )
        const results = yield* Effect.all([Effect.either(increment), Effect.either(increment)], { concurrency: 2 })
        const failed = results.flatMap((each) => (each._tag === "Left" ? [errorOf(each.left)] : []))
        assert.deepStrictEqual(
          failed.map(({ code, isRetryable, reason }) => [reason, code, isRetryable]),
          [["Conflict", "40001", true]]
        )
      })
    )

    it.scoped("a wrong password is Authentication, a wrong database NotFound, and neither shows the password", () =>
      Effect.gen(function* () {
        const { host, password, port, username } = yield* Server
        const at = { host, port, username, database: "postgres" }
        const wrong = yield* Effect.flip(Postgres.make({ ...at, password: Redacted.make("not-this-one") }))
        assert.strictEqual(wrong.reason, "Authentication")
        assert.strictEqual(wrong.code, "28P01")
        assert.notInclude(JSON.stringify(wrong) + wrong.message, "not-this-one")
        const nowhere = yield* Effect.flip(
          Postgres.make({ ...at, password: Redacted.make(password), database: "nowhere" })
        )
        assert.strictEqual(nowhere.reason, "NotFound")
        const right = yield* Postgres.make({ ...at, password: Redacted.make(password) })
        assert.deepStrictEqual(yield* right.sql`select 1 as one`, [{ one: 1 }])
      })
    )

    it.scoped("too many connections on the server are Throttled", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 40, acquireTimeout: "5 seconds" })
        const results = yield* Effect.all(
          Array.from({ length: 40 }, () => Effect.either(sql`select pg_sleep(0.5)`)),
          { concurrency: "unbounded" }
        )
        const reasons = results.flatMap((each) => (each._tag === "Left" ? [errorOf(each.left).reason] : []))
        assert.isAbove(reasons.length, 0)
        assert.deepStrictEqual(new Set(reasons), new Set(["Throttled"]))
      })
    )

    it.scoped(
      "an idle connection that the server ends is dropped without an unhandled error (node-postgres#2439)",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const { sql, stats } = yield* connect({ applicationName: "idle-drop" })
          yield* sql`select 1`
          assert.strictEqual((yield* stats).idle, 1)
          yield* server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'idle-drop'"
          )
          yield* soon(
            "it is forgotten",
            Effect.map(stats, ({ total }) => total === 0)
          )
          assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        })
    )

    it.scoped("a connection that the server ends in mid-statement, or in a transaction, is Unavailable", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { sql, stats } = yield* connect({ applicationName: "cut" })
        const cut = server.sql(
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cut' and state <> 'idle'"
        )
        for (const work of [
          sql`select pg_sleep(5), 'cut me'`,
          sql.withTransaction(sql`select pg_sleep(5), 'cut me'`),
          Stream.runDrain(sql`select pg_sleep(5), 'cut me'`.stream)
        ]) {
          const fiber = yield* Effect.fork(Effect.flip(work))
          yield* eventually(
            "it runs",
            Effect.map(running("cut me"), (count) => count === 1)
          )
          yield* cut
          assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Unavailable")
        }
        const idleInTransaction = Effect.gen(function* () {
          yield* sql`select 1`
          yield* cut
          yield* eventually(
            "it is cut",
            Effect.map(connectionsNamed("cut"), (count) => count === 0)
          )
          yield* sql`select 2`
        })
        assert.strictEqual(errorOf(yield* Effect.flip(sql.withTransaction(idleInTransaction))).reason, "Unavailable")
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse }) => inUse === 0)
        )
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      })
    )

    it.scoped("a transaction left open by hand does not reach the next user", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table if not exists forgotten (n int)`
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* sql.reserve
            yield* connection.executeUnprepared("BEGIN; insert into forgotten values (1)", [], undefined)
          })
        )
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* sql.reserve
            yield* Effect.exit(connection.executeUnprepared("BEGIN; select 1/0", [], undefined))
          })
        )
        assert.deepStrictEqual(yield* sql`select * from forgotten`, [])
      })
    )

    it.scoped(
      "streams with back-pressure: a slow reader of a million rows holds few, and may leave early",
      () =>
        Effect.gen(function* () {
          const { sql, stats } = yield* connect({ maxConnections: 1, applicationName: "streaming" })
          const rows = sql<{
            readonly n: number
          }>`select n, repeat('x', 500) as text from generate_series(1, 1000000) as t (n)`.stream
          const before = process.memoryUsage().heapUsed + process.memoryUsage().external
          const some = yield* rows.pipe(
            Stream.rechunk(1000),
            // Meanwhile the server could send much more.
            Stream.mapChunksEffect((chunk) => Effect.as(connectionsNamed("streaming"), chunk)),
            Stream.take(20_000),
            Stream.runCount
          )
          const after = process.memoryUsage().heapUsed + process.memoryUsage().external
          assert.strictEqual(some, 20_000)
          assert.isBelow(after - before, 200_000_000)
          yield* soon(
            "the rest is not sent",
            Effect.map(stats, ({ total }) => total === 0)
          )
          assert.strictEqual(yield* Stream.runCount(sql`select n from generate_series(1, 5000) as t (n)`.stream), 5000)
          assert.strictEqual((yield* stats).total, 1, "a stream that was read to its end leaves its connection fit")
          const error = yield* Effect.flip(
            Stream.runDrain(sql`select 1 / (n - 3000) from generate_series(1, 5000) as t (n)`.stream)
          )
          assert.strictEqual(errorOf(error).code, "22012")
          assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        }),
      60_000
    )

    it.scoped("a stream inside a transaction can be worked on in the same transaction", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        yield* sql`create table if not exists doubled (n int)`
        const rows = sql<{ readonly n: number }>`select n from generate_series(1, 500) as t (n)`.stream
        yield* sql.withTransaction(Stream.runForEach(rows, ({ n }) => sql`insert into doubled values (${n * 2})`))
        assert.deepStrictEqual(yield* sql`select sum(n)::int as sum from doubled`, [{ sum: 250_500 }])
        const returned = sql.withTransaction(
          Stream.runCount(sql`insert into doubled select n from generate_series(1, 300) as t (n) returning n`.stream)
        )
        assert.strictEqual(yield* returned, 300)
      }).pipe(Effect.timeout("30 seconds"))
    )

    const statements = (sql: SqlClient.SqlClient) =>
      Effect.gen(function* () {
        yield* sql`select ${"hidden-value"}::text as a`
        yield* sql`select 'hidden-value', 2`.values
        yield* Stream.runDrain(sql`select 3`.stream)
        yield* sql.withTransaction(Effect.zipRight(sql`select 4`, Stream.runDrain(sql`select 5`.stream)))
        yield* Effect.ignore(sql`select ${"hidden-value"}::int4`)
      })

    const failingCommit = (sql: SqlClient.SqlClient) =>
      Effect.zipRight(
        sql`create table if not exists late_too (n int unique deferrable initially deferred)`,
        Effect.flip(sql.withTransaction(sql`insert into late_too values (1), (1)`))
      )

    it.scoped("internal: no span, no log line, no metric", () =>
      Effect.gen(function* () {
        const { health, sql } = yield* connect({ plane: "internal" })
        yield* Recording.assertSilent(Effect.all([statements(sql), failingCommit(sql), health]))
      })
    )

    it.scoped("external: one client span a statement, one log line, metrics; values are shown nowhere", () =>
      Effect.gen(function* () {
        const { health, sql } = yield* connect({}, "watched")
        const recording = yield* Recording.make
        yield* recording.within(Effect.zipRight(statements(sql), health))
        const spans = yield* recording.spans
        assert.deepStrictEqual(
          spans.map(({ kind, name }) => [name, kind]),
          [
            ...Array.from({ length: 3 }, () => ["SELECT postgres", "client"]),
            ["sql.transaction", "internal"],
            ["BEGIN postgres", "client"],
            ["SELECT postgres", "client"],
            ["SELECT postgres", "client"],
            ["COMMIT postgres", "client"],
            ["SELECT postgres", "client"]
          ]
        )
        const [parameter, literal] = spans
        assert.strictEqual(parameter?.attributes.get("db.system.name"), "postgresql")
        assert.strictEqual(parameter?.attributes.get("db.namespace"), "postgres")
        assert.strictEqual(parameter?.attributes.get("server.address"), "127.0.0.1")
        assert.strictEqual(parameter?.attributes.get("db.operation.name"), "SELECT")
        assert.strictEqual(parameter?.attributes.get("db.query.text"), "select $1::text as a")
        assert.strictEqual(literal?.attributes.get("db.query.text"), "select ?, ?")
        const failed = spans.at(-1)
        assert.strictEqual(failed?.attributes.get("db.response.status_code"), "22P02")
        assert.strictEqual(failed?.attributes.get("call.outcome"), "failure")
        assert.isTrue(spans.every(({ ends, events }) => ends === 1 && events.length === 0))
        const transaction = spans.find(({ name }) => name === "sql.transaction")
        assert.strictEqual(transaction === undefined ? 0 : (yield* recording.childrenOf(transaction)).length, 4)
        const lines = yield* recording.lines
        assert.deepStrictEqual(
          lines.map(({ level }) => level._tag),
          [...Array<string>(7).fill("Debug"), "Error"]
        )
        const shown = [
          ...lines.flatMap(({ annotations, message }) => [message, ...Object.values(annotations)]),
          ...spans.flatMap(({ attributes }) => [...attributes.values()])
        ]
        assert.notInclude(shown.map(String).join("\n"), "hidden-value")
        const counted = (yield* recording.metrics).filter(({ name }) => name === "external_calls_total")
        assert.deepStrictEqual(
          counted
            .map(({ after, labels }) => [labels["service"], labels["operation"], labels["outcome"], after])
            .sort((a, b) => (String(a) < String(b) ? -1 : 1)),
          [
            ["watched", "BEGIN", "success", 1],
            ["watched", "COMMIT", "success", 1],
            ["watched", "SELECT", "failure", 1],
            ["watched", "SELECT", "success", 5]
          ]
        )
      })
    )

    it.scoped(
      "external: what is slow is a warning, a failed COMMIT is a failure, an interrupted statement is neither",
      () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ slowAfter: "2 seconds" }, "slow")
          yield* sql`create table if not exists late_too (n int unique deferrable initially deferred)`
          const recording = yield* Recording.make
          yield* recording.within(
            Effect.gen(function* () {
              yield* sql`select pg_sleep(2.1)`
              yield* failingCommit(sql)
              yield* Effect.timeoutOption(sql`select pg_sleep(5)`, "20 millis")
            })
          )
          assert.deepStrictEqual(
            (yield* recording.lines).map(({ annotations, level }) => [annotations["operation"], level._tag]),
            [
              ["SELECT", "Warning"],
              ["CREATE", "Debug"],
              ["BEGIN", "Debug"],
              ["INSERT", "Debug"],
              ["COMMIT", "Error"],
              ["SELECT", "Debug"]
            ]
          )
        })
    )

    it.scoped(
      "external: a caller's deadline ends its statement, in a transaction too, and never comes between COMMIT",
      () =>
        Effect.gen(function* () {
          const { sql, stats } = yield* connect({ maxConnections: 2 })
          yield* sql`create table if not exists in_time (n int)`
          const slow = sql`select pg_sleep(5)`
          for (const work of [slow, sql.withTransaction(slow), Stream.runDrain(slow.stream)]) {
            const [took, error] = yield* timed(Effect.flip(Deadline.within(work, "100 millis")))
            assert.strictEqual(errorOf(error).reason, "Timeout")
            assert.isTrue(Duration.lessThan(took, "2 seconds"))
          }
          const late = sql.withTransaction(
            Effect.zipRight(
              sql`insert into in_time values (1)`,
              soon(
                "the deadline has passed",
                Effect.zipWith(Clock.currentTimeMillis, Deadline.Current, (now, deadline) => now > deadline)
              )
            )
          )
          yield* Deadline.within(late, "2 seconds")
          assert.deepStrictEqual(yield* sql`select n from in_time`, [{ n: 1 }])
          yield* soon(
            "nothing is in use",
            Effect.map(stats, ({ inUse }) => inUse === 0)
          )
        })
    )

    it.scoped("nothing is left on the server when the scope closes, whatever was going on", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(
          connect({ applicationName: "leaving", maxConnections: 4, drainTimeout: "200 millis" }),
          scope
        )
        const { sql } = connection
        yield* Effect.all([sql`select pg_sleep(0.05)`, sql`select pg_sleep(0.05)`], { concurrency: 2 })
        const busy = yield* Effect.fork(Effect.exit(sql`select pg_sleep(5), 'leaving soon'`))
        const inTransaction = yield* Effect.fork(
          Effect.exit(sql.withTransaction(sql`select pg_sleep(5), 'leaving soon'`))
        )
        const flows = yield* Deferred.make<void>()
        const streaming = yield* Effect.fork(
          Effect.exit(
            Stream.runForEach(sql`select n from generate_series(1, 1000000) as t (n)`.stream, () =>
              Effect.zipRight(Deferred.succeed(flows, undefined), Effect.never)
            )
          )
        )
        yield* Deferred.await(flows)
        yield* eventually(
          "both run",
          Effect.map(running("leaving soon"), (count) => count === 2)
        )
        assert.isAbove(yield* connectionsNamed("leaving"), 2)
        const [took] = yield* timed(Scope.close(scope, Exit.void))
        assert.isTrue(Duration.lessThan(took, "4 seconds"))
        yield* eventually(
          "nothing is left",
          Effect.map(connectionsNamed("leaving"), (count) => count === 0)
        )
        assert.isTrue(Exit.isFailure(yield* Fiber.join(busy)))
        assert.isTrue(Exit.isFailure(yield* Fiber.join(inTransaction)))
        yield* Fiber.interrupt(streaming)
        assert.deepInclude(yield* connection.stats, { total: 0, idle: 0, inUse: 0, waiting: 0 })
        assert.strictEqual(errorOf(yield* Effect.flip(sql`select 1`)).reason, "Closed")
      })
    )

    it.scoped("idle connections are closed after the idle time", () =>
      Effect.gen(function* () {
        const { sql, stats } = yield* connect({ idleTimeout: "600 millis", applicationName: "idling" })
        yield* Effect.all(
          Array.from({ length: 3 }, () => sql`select pg_sleep(0.02)`),
          { concurrency: 3 }
        )
        assert.strictEqual((yield* stats).idle, 3)
        yield* soon(
          "all are closed",
          Effect.map(stats, ({ total }) => total === 0)
        )
        yield* eventually(
          "on the server too",
          Effect.map(connectionsNamed("idling"), (count) => count === 0)
        )
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      })
    )

    it.scoped("an exhausted pool is degraded, not down", () =>
      Effect.gen(function* () {
        const { health, sql } = yield* connect({ maxConnections: 1 })
        const fiber = yield* Effect.fork(sql`select pg_sleep(3), 'all there is'`)
        yield* eventually(
          "it runs",
          Effect.map(running("all there is"), (count) => count === 1)
        )
        assert.strictEqual((yield* health).status, "degraded")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* health).status, "up")
      })
    )

    it.scoped("registers its health where there is a registry of checks", () =>
      Effect.gen(function* () {
        const health = yield* Health.make
        yield* connect({}, "main").pipe(Effect.provideService(Health.Health, health))
        assert.strictEqual((yield* health.report("ready")).checks["main"]?.status, "up")
      })
    )

    it.scoped(
      "joins the registry as a kind, with settings below connections.<name>; a first build that fails is forgotten",
      () =>
        Effect.gen(function* () {
          const { url } = yield* Server
          const settings = new Map([
            ["connections.main.url", "postgres://nobody:wrong@127.0.0.1:1/none"],
            ["connections.main.maxConnections", "2"],
            ["connections.main.plane", "internal"]
          ])
          const provider = ConfigProvider.make({
            load: (config) => Effect.suspend(() => ConfigProvider.fromMap(settings).load(config)),
            flattened: ConfigProvider.fromMap(settings).flattened
          })
          yield* Effect.gen(function* () {
            const connections = yield* Connections.make([Postgres.kind])
            const error = yield* Effect.flip(connections.get(Postgres.kind, "main"))
            assert.strictEqual(errorOf(error).reason, "Unavailable")
            settings.set("connections.main.url", url)
            const main = yield* connections.get(Postgres.kind, "main")
            assert.strictEqual(main.plane, "internal")
            assert.deepStrictEqual(yield* main.use((sql) => sql`select 1 as one`), [{ one: 1 }])
            assert.deepStrictEqual(
              (yield* connections.health).map(({ kind, name, status }) => [kind, name, status]),
              [["postgres", "main", "up"]]
            )
          }).pipe(Effect.withConfigProvider(provider))
        })
    )

    describe("suite of connections", () => {
      const suite = ConnectionSuite.suite({
        make: connect(),
        ask: (sql) => sql`select 41 + 1 as answer`.values,
        expected: [[42]]
      })
      for (const one of suite.cases) it.effect(one.name, () => one.run)
    })
  })

  it.live(
    "a server that is killed and comes back: typed errors meanwhile, then it works again by itself",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { health, sql } = yield* Postgres.make({ url: Redacted.make(server.url) })
        const waiting = yield* Effect.fork(Effect.flip(sql`select pg_sleep(30), 'to be killed'`))
        yield* eventually(
          "it runs",
          Effect.map(running("to be killed").pipe(Effect.provideService(Server, server)), (count) => count === 1)
        )
        yield* server.kill
        assert.strictEqual(errorOf(yield* Fiber.join(waiting)).reason, "Unavailable")
        assert.strictEqual(errorOf(yield* Effect.flip(sql`select 1`)).reason, "Unavailable")
        assert.strictEqual((yield* health).status, "down")
        yield* server.start
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        assert.strictEqual((yield* health).status, "up")
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a server that is away: after five refusals it is not asked, and found again by itself; a busy pool is no refusal",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { health, sql, stats } = yield* Postgres.make({
          url: Redacted.make(server.url),
          maxConnections: 1,
          acquireTimeout: "20 millis"
        })
        const held = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          Effect.scoped(
            Effect.zipRight(sql.reserve, Effect.zipRight(Deferred.succeed(held, undefined), Deferred.await(go)))
          )
        )
        yield* Deferred.await(held)
        for (let n = 0; n < 7; n++) assert.strictEqual(errorOf(yield* Effect.flip(sql`select 1`)).reason, "Timeout")
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        yield* server.kill
        yield* soon(
          "the lost connection is noticed",
          Effect.map(stats, ({ total }) => total === 0)
        )
        const recording = yield* Recording.make
        const errors = yield* recording.within(
          Effect.forEach(Array.from({ length: 8 }), () => Effect.flip(sql.withTransaction(sql`select 1`)))
        )
        assert.deepStrictEqual(
          errors.map((error) => [
            errorOf(error).reason,
            error instanceof DatabaseError.DatabaseError && error.rejection
          ]),
          [
            ...Array.from({ length: 5 }, () => ["Unavailable", false]),
            ...Array.from({ length: 3 }, () => ["Unavailable", true])
          ]
        )
        assert.deepStrictEqual(
          (yield* recording.lines).map(({ level }) => level._tag),
          [...Array<string>(5).fill("Error"), ...Array<string>(3).fill("Warning")]
        )
        assert.isDefined(errorOf(errors[7]).retryAfter)
        assert.strictEqual((yield* health).details?.["circuit"], "open")
        yield* server.start
        yield* eventually(
          "it is found again",
          Effect.map(Effect.zipRight(server.sql("select 1"), Effect.option(sql`select 1`)), Option.isSome)
        )
        assert.strictEqual((yield* health).details?.["circuit"], "closed")
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a server that freezes: statements can be interrupted, COMMIT and the release end in time",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const scope = yield* Scope.make()
        const { health, sql } = yield* Scope.extend(
          Postgres.make({
            url: Redacted.make(server.url),
            endTimeout: "300 millis",
            cancelTimeout: "200 millis",
            drainTimeout: "200 millis"
          }),
          scope
        )
        yield* sql`select 1`
        const committing = yield* Effect.fork(
          Effect.flip(sql.withTransaction(Effect.zipRight(sql`select 1`, server.freeze)))
        )
        const [late, error] = yield* timed(Fiber.join(committing))
        assert.strictEqual(errorOf(error).reason, "Timeout")
        assert.include(errorOf(error).message, "outcome is not known")
        assert.isTrue(Duration.lessThan(late, "3 seconds"))
        const [gaveUp, answer] = yield* timed(Effect.timeoutOption(sql`select 1`, "200 millis"))
        assert.isTrue(Option.isNone(answer))
        assert.isTrue(Duration.lessThan(gaveUp, "1 second"))
        const [checked, report] = yield* timed(health)
        assert.strictEqual(report.status, "down")
        assert.isTrue(Duration.lessThan(checked, "2 seconds"))
        const [closed] = yield* timed(Scope.close(scope, Exit.void))
        assert.isTrue(Duration.lessThan(closed, "3 seconds"))
        yield* server.thaw
      }).pipe(Effect.scoped),
    60_000
  )
})
