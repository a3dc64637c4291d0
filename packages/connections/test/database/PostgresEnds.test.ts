/**
 * How transactions end where the network or the release is in the way, and what is known of them then.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, layer } from "@effect/vitest"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import { Deferred, Duration, Effect, Exit, Fiber, Redacted, Scope } from "effect"
import { DatabaseError, Postgres } from "../../src/index.ts"
import { eventually, Server, soon, timed } from "./postgresTools.ts"

const asDatabaseError = (error: unknown): DatabaseError.DatabaseError => {
  if (error instanceof DatabaseError.DatabaseError) return error
  throw new Error(`not a typed error: ${String(error)}`)
}

/** A connection through a proxy that can take the network away. */
const through = (settings: Postgres.PostgresSettings) =>
  Effect.gen(function* () {
    const { port, url } = yield* Server
    const proxy = yield* FaultProxy.make({ port })
    const address = new URL(url)
    address.port = String(proxy.port)
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer(() => Effect.zipRight(Effect.orDie(proxy.calm), Scope.close(scope, Exit.void)))
    const connection = yield* Scope.extend(
      Postgres.make({ url: Redacted.make(address.href), plane: "internal", cancelTimeout: "1 second", ...settings }),
      scope
    )
    return { ...connection, proxy, close: Scope.close(scope, Exit.void) }
  })

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres: how transactions end", "postgres"), () => {
  layer(Server.layer, { excludeTestServices: true })("against a real server", (it) => {
    it.scoped(
      "a COMMIT that is asked for after the release has cut its session was never sent, and that is known",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          yield* server.sql("create table cut_before (n int)")
          const inside = yield* Deferred.make<void>()
          const { close, drained, proxy, sql, stats } = yield* through({ drainTimeout: "100 millis" })
          const fiber = yield* Effect.fork(
            Effect.flip(
              sql.withTransaction(
                Effect.gen(function* () {
                  yield* sql`insert into cut_before values (1)`
                  // The server does not hear of the end of the session, so that the session stands a little longer.
                  yield* proxy.blackhole(true)
                  yield* Deferred.succeed(inside, undefined)
                  yield* soon(
                    "it is cut",
                    Effect.map(stats, ({ inUse }) => inUse === 0)
                  )
                })
              )
            )
          )
          yield* Deferred.await(inside)
          const closing = yield* Effect.fork(close)
          const error = asDatabaseError(yield* Fiber.join(fiber))
          assert.deepInclude(error, { outcomeUnknown: false, reason: "Closed" })
          assert.deepInclude(error.cause, { sent: false, method: "COMMIT" })
          assert.include(error.message, "rolled back")
          yield* proxy.calm
          yield* Fiber.join(closing)
          assert.strictEqual((yield* drained).cut, 1)
          assert.strictEqual(yield* server.sql("select count(*) from cut_before"), "0")
        })
    )

    it.scoped("COMMIT has one limit of the client's, endTimeout, whatever that of statements is", () =>
      Effect.gen(function* () {
        const server = yield* Server
        yield* server.sql("create table limits (n int)")
        const late = (settings: Postgres.PostgresSettings) =>
          Effect.gen(function* () {
            const { proxy, sql } = yield* through(settings)
            const work = sql.withTransaction(
              Effect.zipRight(
                sql`insert into limits values (1)`,
                Effect.suspend(() => proxy.blackhole(true))
              )
            )
            const [took, error] = yield* Effect.timed(Effect.flip(work))
            assert.deepInclude(asDatabaseError(error), { outcomeUnknown: true, reason: "Timeout" })
            return Duration.toMillis(took)
          }).pipe(Effect.scoped)
        const longer = yield* late({ statementTimeout: "100 millis", endTimeout: "2 seconds" })
        assert.isTrue(longer >= 1_900, `${longer} ms`)
        const shorter = yield* late({ statementTimeout: "20 seconds", endTimeout: "200 millis" })
        assert.isTrue(shorter >= 150 && shorter < 10_000, `${shorter} ms`)
      })
    )

    it.scoped("a COMMIT that waits too long for a statement of its transaction was never sent, and that is known", () =>
      Effect.gen(function* () {
        const server = yield* Server
        yield* server.sql("create table waited (n int)")
        const { sql, stats } = yield* through({ endTimeout: "300 millis" })
        const work = sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into waited values (1)`
            yield* Effect.forkDaemon(Effect.ignore(sql`select pg_sleep(20), 'waited'`))
            yield* eventually(
              "it runs",
              Effect.map(
                server.sql(
                  "select count(*) from pg_stat_activity where state = 'active' and query like '%''waited''%' and pid <> pg_backend_pid()"
                ),
                (count) => count === "1"
              )
            )
          })
        )
        const error = asDatabaseError(yield* Effect.flip(work))
        assert.deepInclude(error, { outcomeUnknown: false, reason: "Timeout" })
        assert.deepInclude(error.cause, { sent: false, method: "COMMIT" })
        yield* soon(
          "the session is gone",
          Effect.map(stats, ({ total }) => total === 0)
        )
        assert.strictEqual(yield* server.sql("select count(*) from waited"), "0")
      })
    )

    it.scoped("a COMMIT of unknown outcome is the end, also after a conflict that was undone by hand", () =>
      Effect.gen(function* () {
        const server = yield* Server
        yield* server.sql("create table undone_by_hand (n int)")
        const { proxy, sql } = yield* through({ endTimeout: "200 millis" })
        let runs = 0
        const work = Effect.gen(function* () {
          runs++
          yield* sql`savepoint mine`
          const conflict = sql`do $$ begin raise exception using errcode = '40001'; end $$`
          assert.deepInclude(asDatabaseError(yield* Effect.flip(conflict)), { reason: "Conflict" })
          yield* sql`rollback to savepoint mine`
          yield* sql`insert into undone_by_hand values (1)`
          yield* proxy.blackhole(true)
        })
        const retried = Effect.provideService(Postgres.transaction(work, { retries: 3 }), SqlClient.SqlClient, sql)
        const error = asDatabaseError(yield* Effect.flip(retried))
        assert.deepInclude(error, { outcomeUnknown: true, isRetryable: false })
        assert.strictEqual(runs, 1)
      })
    )

    it.scoped("a connection that comes when a look is nearly over is not cut for it", () =>
      Effect.gen(function* () {
        const { health, proxy, sql } = yield* through({ maxConnections: 1, healthTimeout: "2 seconds" })
        const pid = sql<{ readonly pid: number }>`select pg_backend_pid() as pid`
        const before = yield* pid
        const held = yield* Scope.make()
        yield* Scope.extend(sql.reserve, held)
        // longer than what is left for the look when the connection comes back
        yield* proxy.latency(300)
        const [result] = yield* Effect.zip(health, Effect.delay(Scope.close(held, Exit.void), "1900 millis"), {
          concurrent: true
        })
        assert.strictEqual(result.status, "degraded", JSON.stringify(result.details))
        assert.deepStrictEqual(yield* pid, before)
      })
    )

    it.scoped("a COMMIT whose deferred work takes longer than a statement may is stored", () =>
      Effect.gen(function* () {
        const server = yield* Server
        yield* server.sql(`create table deferred (n int);
          create function linger() returns trigger language plpgsql as 'begin perform pg_sleep(1.5); return null; end';
          create constraint trigger slow after insert on deferred deferrable initially deferred
          for each row execute function linger()`)
        const { sql } = yield* through({ statementTimeout: "100 millis" })
        yield* sql.withTransaction(sql`insert into deferred values (1)`)
        assert.strictEqual(yield* server.sql("select count(*) from deferred"), "1")
      })
    )

    it.scoped("the interruption of a nested transaction does not wait for a network that is gone", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { proxy, sql, stats } = yield* through({ cancelTimeout: "2 seconds" })
        yield* server.sql("create table nested (n int)")
        const deep = sql.withTransaction(sql`select pg_sleep(20), 'deep'`)
        const fiber = yield* Effect.fork(
          sql.withTransaction(
            Effect.zipRight(
              sql`insert into nested values (1)`,
              // In a fiber of its own, too.
              Effect.all([Effect.void, sql.withTransaction(deep)], { concurrency: "unbounded" })
            )
          )
        )
        yield* eventually(
          "it runs",
          Effect.map(
            server.sql(
              "select count(*) from pg_stat_activity where state = 'active' and query like '%''deep''%' and pid <> pg_backend_pid()"
            ),
            (count) => count === "1"
          )
        )
        yield* proxy.blackhole(true)
        const [took, exit] = yield* timed(Fiber.interrupt(fiber))
        assert.isTrue(Exit.isInterrupted(exit))
        assert.isBelow(Duration.toMillis(took), 300)
        yield* soon(
          "nothing is in use",
          Effect.map(stats, ({ inUse }) => inUse === 0)
        )
        yield* proxy.calm
        yield* proxy.resetAll
        yield* eventually(
          "the server has ended it",
          Effect.map(
            server.sql(
              "select count(*) from pg_stat_activity where query like '%''deep''%' and pid <> pg_backend_pid()"
            ),
            (count) => count === "0"
          )
        )
        assert.strictEqual(yield* server.sql("select count(*) from nested"), "0")
      })
    )

    it.scoped("what cleans up round a nested transaction that was interrupted sees nothing of it", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { sql } = yield* through({})
        yield* server.sql("create table undone (n int)")
        for (const uninterruptible of [false, true]) {
          let seen: unknown
          const deep = sql.withTransaction(
            Effect.zipRight(sql`insert into undone values (2)`, sql`select pg_sleep(20), 'undone'`)
          )
          const whole = sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into undone values (1)`
              yield* Effect.ensuring(
                uninterruptible ? Effect.asVoid(Effect.exit(Effect.interruptible(deep))) : Effect.asVoid(deep),
                Effect.map(Effect.orDie(sql`select n from undone`), (rows) => {
                  seen = rows
                })
              )
            })
          )
          const fiber = yield* Effect.fork(uninterruptible ? Effect.uninterruptible(whole) : whole)
          yield* eventually(
            "it runs",
            Effect.map(
              server.sql(
                "select count(*) from pg_stat_activity where state = 'active' and query like '%''undone''%' and pid <> pg_backend_pid()"
              ),
              (count) => count === "1"
            )
          )
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(seen, [{ n: 1 }])
          // One that nothing interrupts goes on, and is stored.
          assert.strictEqual(yield* server.sql("select count(*) from undone"), uninterruptible ? "1" : "0")
        }
      })
    )
  })
})
