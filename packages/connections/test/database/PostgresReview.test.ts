import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Either, Stream } from "effect"
import { DatabaseError, Postgres } from "../../src/index.ts"
import { connect, errorOf, eventually, running, Server } from "./postgresTools.ts"

const live = { timeout: "60 seconds", excludeTestServices: true } as const

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres transactions that have no BEGIN", "postgres"), () => {
  layer(Server.layer, live)("against a real server", (it) => {
    for (const plane of ["internal", "external"] as const) {
      it.scoped(`${plane}: after a first statement that the server cannot read nothing is stored`, () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ plane })
          const table = sql(`unread_${plane}`)
          yield* sql`create table ${table} (n int)`
          let inside: string | undefined
          const failing = sql.withTransaction(
            Effect.gen(function* () {
              yield* Effect.either(sql.unsafe("selct 1"))
              const stored = yield* Effect.either(sql`insert into ${table} values (1)`)
              inside = Either.isLeft(stored) ? errorOf(stored.left).code : "stored"
              return yield* Effect.fail("no")
            })
          )
          assert.strictEqual(yield* Effect.flip(failing), "no")
          assert.deepStrictEqual(yield* sql`select * from ${table}`, [])
          assert.strictEqual(inside, "25P02")
          const swallowed = sql.withTransaction(
            Effect.zipRight(Effect.either(sql.unsafe("selct 1")), Effect.either(sql`insert into ${table} values (2)`))
          )
          assert.strictEqual(errorOf(yield* Effect.flip(swallowed)).reason, "InvalidRequest")
          assert.deepStrictEqual(yield* sql`select * from ${table}`, [])
        })
      )

      it.scoped(`${plane}: where the error is counts from the statement's own beginning`, () =>
        Effect.gen(function* () {
          const { sql } = yield* connect({ plane })
          const failed = yield* Effect.flip(sql.withTransaction(sql.unsafe("select 1 fom x y")))
          assert.instanceOf(failed, DatabaseError.DatabaseError)
          if (failed instanceof DatabaseError.DatabaseError) assert.strictEqual(failed.position, 14)
        })
      )
    }

    it.scoped("an open transaction that the program itself ends takes no statement more", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        yield* sql`create table ended_early (n int)`
        const body = Effect.gen(function* () {
          yield* sql`insert into ended_early values (1)`
          yield* sql.unsafe("rollback")
          yield* sql`insert into ended_early values (2)`
        })
        yield* Effect.flip(sql.withTransaction(body))
        assert.deepStrictEqual(yield* sql`select * from ended_early`, [])
      })
    )

    it.scoped("the same statement at once on a reserved connection, also in a transaction of its own", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        const reserved = yield* sql.reserve
        const ask = (n: number) => reserved.execute("select $1::int + 100 as n", [n], undefined)
        yield* ask(0)
        yield* reserved.execute("begin", [], undefined)
        const found = yield* Effect.all([ask(1), ask(2), ask(3)], { concurrency: "unbounded" })
        yield* reserved.execute("commit", [], undefined)
        assert.deepStrictEqual(found, [[{ n: 101 }], [{ n: 102 }], [{ n: 103 }]])
      })
    )

    it.scoped("text that the server quotes of a statement is not shown", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect()
        for (const text of [
          "select 'hunter2",
          "select 1 'hunter2'",
          "select $a$hunter2",
          'select "hunter2',
          "select 1 1hunter2"
        ]) {
          const failed = yield* Effect.flip(sql.unsafe(text))
          assert.notInclude(failed.message, "hunter2")
          assert.include(failed.message, "the statement is wrong")
        }
        assert.include((yield* Effect.flip(sql.unsafe("selct 1"))).message, 'at or near "selct"')
      })
    )

    it.scoped("the limit of a statement is one of COPY too, in both directions, and where nothing is sent", () =>
      Effect.gen(function* () {
        const { copyIn, copyOut, sql, stats } = yield* connect({ maxConnections: 1 })
        yield* sql`create table limited (n int)`
        const begun = Date.now()
        for (const copy of [
          copyIn("copy limited from stdin", Stream.concat(Stream.make(Buffer.from("1\n")), Stream.never)),
          Stream.runDrain(copyOut("copy (select pg_sleep(60)) to stdout")),
          Effect.uninterruptible(copyIn("copy limited from stdin", Stream.never))
        ]) {
          const failed = yield* Effect.flip(Postgres.withStatementTimeout(copy, "200 millis"))
          assert.strictEqual(errorOf(failed).reason, "Timeout")
        }
        assert.isBelow(Date.now() - begun, 3_000)
        assert.deepStrictEqual(yield* sql`select * from limited`, [])
        assert.strictEqual((yield* stats).inUse, 0)
      })
    )

    it.scoped("what is longer than the server reads is refused, and costs no connection", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ maxConnections: 1 })
        const pid = sql`select pg_backend_pid() as pid`
        const before = yield* pid
        const part = "ü".repeat(2 ** 25)
        const error = errorOf(
          yield* Effect.flip(sql`select ${sql.csv(Array.from({ length: 17 }, () => sql`length(${part})`))}`)
        )
        assert.deepInclude(error, { reason: "InvalidRequest", sent: false })
        assert.isFalse(error.isRetryable)
        assert.deepStrictEqual(yield* sql`select length(${part}) as it`, [{ it: 2 ** 25 }])
        assert.deepStrictEqual(yield* pid, before)
      })
    )

    it.scoped("an infinite limit of statements is none", () =>
      Effect.gen(function* () {
        const { sql } = yield* connect({ statementTimeout: Duration.infinity, cancelTimeout: Duration.infinity })
        assert.deepStrictEqual(yield* sql`show statement_timeout`, [{ statement_timeout: "0" }])
        // The request to cancel has the time that it takes.
        yield* sql`select pg_sleep(60)`.pipe(Effect.timeoutOption("100 millis"))
        yield* eventually(
          "cancelled",
          Effect.map(running(sql, "pg_sleep(60)"), (count) => count === 0)
        )
      })
    )
  })
})
