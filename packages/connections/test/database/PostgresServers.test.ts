import { SqlClient } from "@effect/sql"
import * as Migrator from "@effect/sql/Migrator"
import { assert, describe, it } from "@effect/vitest"
import { Connection, Connections } from "@underlay/core"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import {
  ConfigProvider,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  LogLevel,
  Redacted,
  Scope,
  Stream
} from "effect"
import { Postgres } from "../../src/index.ts"
import { errorOf, eventually, soon, timed } from "./postgresTools.ts"

const settingsOf = (server: PostgresServer.PostgresServer, more: Postgres.PostgresSettings = {}) =>
  ({ url: Redacted.make(server.url), plane: "internal", ...more }) as const

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres and its servers", "postgres"), () => {
  it.live(
    "reads go to replicas that can be reached, writes there are refused, and without replicas to the primary or nowhere",
    () =>
      Effect.gen(function* () {
        const [primary, one, two] = yield* Effect.all(
          [PostgresServer.make(), PostgresServer.make(), PostgresServer.make()],
          { concurrency: 3 }
        )
        for (const [server, name] of [
          [primary, "primary"],
          [one, "one"],
          [two, "two"]
        ] as const) {
          yield* server.sql(`create table whoami (name text); insert into whoami values ('${name}')`)
        }
        const replicas = [
          { host: one.host, port: one.port },
          { host: two.host, port: two.port }
        ]
        const { health, reads, sql } = yield* Postgres.make(
          settingsOf(primary, { replicas, connectTimeout: "1 second" })
        )
        const who = Effect.map(
          reads<{ readonly name: string }>`select name, pg_sleep(0.02) from whoami`,
          ([row]) => row?.name
        )
        const asked = yield* Effect.all(
          Array.from({ length: 8 }, () => who),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(new Set(asked), new Set(["one", "two"]))
        assert.deepStrictEqual(yield* sql`select name from whoami`, [{ name: "primary" }])
        assert.strictEqual(errorOf(yield* Effect.flip(reads`insert into whoami values ('x')`)).code, "25006")
        assert.strictEqual((yield* health).status, "up")
        yield* one.kill
        assert.deepStrictEqual(
          new Set(yield* Effect.all(Array.from({ length: 6 }, () => Effect.retry(who, { times: 3 })))),
          new Set(["two"])
        )
        assert.strictEqual((yield* health).status, "degraded")
        yield* two.kill
        assert.strictEqual(yield* Effect.retry(who, { times: 3 }), "primary")
        // Also on the primary it only reads.
        assert.strictEqual(errorOf(yield* Effect.flip(reads`insert into whoami values ('x')`)).code, "25006")
        const strict = yield* Postgres.make(settingsOf(primary, { replicas, replicaFallback: "fail" }))
        assert.strictEqual(errorOf(yield* Effect.flip(strict.reads`select 1`)).reason, "Unavailable")
        yield* one.start
        yield* eventually(
          "it is asked again",
          Effect.map(Effect.zipRight(one.sql("select 1"), who), (name) => name === "one")
        )
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "two that start at once migrate once; a migration that fails is typed and leaves nothing",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        let runs = 0
        const loader = Migrator.fromRecord({
          "0001_notes": Effect.flatMap(SqlClient.SqlClient, (sql) => {
            runs++
            return Effect.zipRight(sql`select pg_sleep(0.2)`, sql`create table notes (id int)`)
          }),
          "0002_more": Effect.flatMap(SqlClient.SqlClient, (sql) => sql`alter table notes add column text text`)
        })
        const program = Layer.provide(
          Postgres.layerMigrator({ loader }),
          Layer.fresh(Postgres.layer(settingsOf(server, { maxConnections: 1 })))
        )
        yield* Effect.all([Layer.build(program), Layer.build(Layer.fresh(program))], { concurrency: 2 })
        assert.strictEqual(runs, 1)
        assert.strictEqual(yield* server.sql("select count(*) from effect_sql_migrations"), "2")
        const { sql } = yield* Postgres.make(settingsOf(server))
        const failing = Postgres.migrate({
          loader: Migrator.fromRecord({
            "0003_half": Effect.flatMap(SqlClient.SqlClient, (sql) =>
              Effect.zipRight(sql`create table half (id int)`, sql`selec 1`)
            )
          })
        }).pipe(Effect.provideService(SqlClient.SqlClient, sql))
        const error = yield* Effect.flip(failing)
        assert.strictEqual(error._tag, "MigrationError")
        assert.strictEqual(yield* server.sql("select to_regclass('half') is null"), "t")
      }).pipe(Effect.scoped, Logger.withMinimumLogLevel(LogLevel.None)),
    60_000
  )

  it.live(
    "background: it is there at once, connecting or down until the server is, and then ready; lazy is idle before",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        yield* server.kill
        const background = yield* Postgres.make(settingsOf(server, { connect: "background" }))
        const lazy = yield* Postgres.make(settingsOf(server, { connect: "lazy" }))
        assert.strictEqual(yield* lazy.state, "idle")
        yield* soon(
          "it has failed once",
          Effect.map(background.state, (state) => state === "down")
        )
        assert.strictEqual(errorOf(yield* Effect.flip(background.sql`select 1`)).reason, "Unavailable")
        assert.strictEqual(errorOf(yield* Effect.flip(lazy.sql`select 1`)).reason, "Unavailable")
        assert.strictEqual(yield* lazy.state, "down")
        yield* server.start
        yield* soon(
          "it connects by itself",
          Effect.map(background.state, (state) => state === "ready")
        )
        assert.deepStrictEqual(yield* lazy.sql`select 1 as one`, [{ one: 1 }])
        assert.strictEqual(yield* lazy.state, "ready")
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "the release reports what ended by itself and what was cut; the pool says how long callers waited",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(
          Postgres.make(settingsOf(server, { maxConnections: 3, drainTimeout: "500 millis" }), "orders"),
          scope
        )
        yield* Effect.all(
          Array.from({ length: 6 }, () => connection.sql`select pg_sleep(0.05)`),
          { concurrency: "unbounded" }
        )
        const { acquire } = yield* connection.stats
        assert.strictEqual(acquire?.count, 7)
        assert.isAbove(acquire?.maxMs ?? 0, 10)
        assert.isAtLeast(acquire?.totalMs ?? 0, acquire?.maxMs ?? 0)
        const running = yield* Effect.fork(Effect.exit(connection.sql`select pg_sleep(30)`))
        const finishing = yield* Effect.fork(Effect.exit(connection.sql`select pg_sleep(0.2)`))
        yield* soon(
          "both run",
          Effect.map(connection.stats, ({ inUse }) => inUse === 2)
        )
        const drained = yield* Effect.fork(connection.drained)
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* soon(
          "it drains",
          Effect.map(connection.state, (state) => state === "draining")
        )
        yield* Fiber.join(closing)
        assert.deepInclude(yield* Fiber.join(drained), {
          kind: "postgres",
          name: "orders",
          inUse: 2,
          finished: 1,
          cut: 1
        })
        assert.strictEqual(yield* connection.state, "closed")
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(finishing)))
        assert.isTrue(Exit.isFailure(yield* Fiber.join(running)))
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "frozen (SIGSTOP): checks, statements with a timeout and transactions end in time, and it works after the thaw",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { health, sql, stats } = yield* Postgres.make(
          settingsOf(server, {
            applicationName: "frozen",
            cancelTimeout: "200 millis",
            endTimeout: "400 millis",
            healthTimeout: "500 millis"
          })
        )
        yield* sql`select 1`
        yield* server.freeze
        const [checked, report] = yield* timed(health)
        assert.strictEqual(report.status, "down")
        assert.isTrue(Duration.lessThan(checked, "550 millis"), Duration.format(checked))
        const cut = Postgres.withStatementTimeout(sql`select 1`, "200 millis")
        const [late, error] = yield* timed(Effect.uninterruptible(Effect.flip(cut)))
        assert.include(["Timeout", "Unavailable"], errorOf(error).reason)
        assert.isTrue(Duration.lessThan(late, "8 seconds"), Duration.format(late))
        yield* server.thaw
        yield* Effect.retry(sql`select 1`, { times: 20 })
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse }) => inUse === 0)
        )
        yield* eventually(
          "the server counts what the pool counts",
          Effect.zipWith(
            server.sql("select count(*) from pg_stat_activity where application_name = 'frozen'"),
            stats,
            (count, { total }) => Number(count) === total
          )
        )
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "stopped, killed and started again under load: only typed errors, and no connection is lost or left",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { sql, stats } = yield* Postgres.make(
          settingsOf(server, { applicationName: "restarted", maxConnections: 4 })
        )
        const stop = yield* Deferred.make<void>()
        const reasons = new Set<string>()
        const work = Effect.all(
          [
            sql`select ${1}::int`,
            sql.withTransaction(Effect.zipRight(sql`select 1`, sql`select 2`)),
            Stream.runDrain(sql`select n from generate_series(1, 300) as t (n)`.stream)
          ],
          { discard: true }
        ).pipe(
          Effect.catchAll((error) =>
            Effect.sync(() => {
              reasons.add(errorOf(error).reason)
            })
          ),
          Effect.zipRight(Effect.yieldNow()),
          Effect.repeat({ until: () => Deferred.isDone(stop) })
        )
        const workers = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () => Effect.fork(work))
        yield* server.kill
        yield* server.start
        yield* server.sql("select 1")
        yield* server.stop
        yield* server.start
        yield* server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'restarted'")
        yield* Deferred.succeed(stop, undefined)
        yield* Effect.forEach(workers, (fiber) => Fiber.join(fiber))
        assert.isTrue(reasons.has("Unavailable"))
        for (const reason of reasons) assert.include(["Unavailable", "Timeout", "Throttled"], reason)
        yield* Effect.retry(sql`select 1`, { times: 20 })
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse, waiting }) => inUse + waiting === 0)
        )
        yield* eventually(
          "the server counts what the pool counts",
          Effect.zipWith(
            server.sql("select count(*) from pg_stat_activity where application_name = 'restarted'"),
            stats,
            (count, { total }) => Number(count) === total && total <= 4
          )
        )
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "settings from a configuration: TLS, replicas, durations; all that is wrong at once, and nothing secret",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const given = new Map([
          ["connections.orders.url", server.url],
          ["connections.orders.plane", "internal"],
          ["connections.orders.ssl", "disable"],
          ["connections.orders.prepare", "false"],
          ["connections.orders.statementTimeout", "5 seconds"],
          ["connections.orders.replicas[0].host", server.host],
          ["connections.orders.replicas[0].port", String(server.port)]
        ])
        yield* Effect.gen(function* () {
          const connections = yield* Connections.make([Postgres.kind])
          const orders = yield* connections.get(Postgres.kind, "orders")
          assert.deepStrictEqual(yield* orders.use((sql) => sql`show statement_timeout`), [{ statement_timeout: "5s" }])
        }).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(given)))
        const wrong = new Map([
          ["connections.orders.password", "hidden"],
          ["connections.orders.port", "many"],
          ["connections.orders.connectTimeout", "soon"],
          ["connections.orders.ssl", "maybe"]
        ])
        const error = yield* Effect.gen(function* () {
          const connections = yield* Connections.make([Postgres.kind])
          return yield* Effect.flip(connections.get(Postgres.kind, "orders"))
        }).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(wrong)))
        const shown = String(error)
        for (const field of ["port", "connectTimeout", "ssl"]) assert.include(shown, field)
        assert.notInclude(shown, "hidden")
        assert.isFalse(error instanceof Connection.ConnectionError && error.isRetryable)
      }).pipe(Effect.scoped),
    60_000
  )
})
