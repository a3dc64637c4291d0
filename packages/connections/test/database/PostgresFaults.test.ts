import Dns from "node:dns"
import { SqlClient } from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import type * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect, Fiber, Queue, Redacted, Stream } from "effect"
import { Postgres, PostgresCopy } from "../../src/index.ts"
import { errorOf, eventually, running, Server, soon } from "./postgresTools.ts"

const settingsOf = (server: PostgresServer.PostgresServer, more: Postgres.PostgresSettings = {}) =>
  ({ url: Redacted.make(server.url), plane: "internal", ...more }) as const

/** What its `toJSON` throws holds the value itself. */
const telling = {
  toJSON: () => {
    throw new Error("the card 4111111111111111 is not valid")
  }
}

/** The names that are resolved while an effect runs: to the loopback once each, and to nowhere after. */
const resolvedOnce = (name: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const { lookup } = Dns
      const asked: Array<string> = []
      type Address = string | ReadonlyArray<{ readonly address: string; readonly family: number }>
      type Callback = (error: Error | null, address: Address, family: number) => void
      const once = (host: string, options: object, callback: Callback) => {
        if (host !== name) return void Reflect.apply(lookup, Dns, [host, options, callback])
        asked.push(host)
        // Nothing listens there: 203.0.113.0/24 is for documentation.
        const address = asked.length === 1 ? "127.0.0.1" : "203.0.113.1"
        const all = "all" in options && options.all === true
        process.nextTick(() => callback(null, all ? [{ address, family: 4 }] : address, 4))
      }
      Object.assign(Dns, { lookup: once })
      return { asked, restore: () => Object.assign(Dns, { lookup }) }
    }),
    ({ restore }) => Effect.sync(restore)
  )

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres: faults of earlier versions", "postgres"), () => {
  layer(Server.layer, { excludeTestServices: true })("against a real server", (it) => {
    it.scoped(
      "reads refuses a transaction that would write, also where they go to the primary",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          yield* server.sql("create table kept (n int)")
          for (const plane of ["internal", "external"] as const) {
            const { reads, sql } = yield* Postgres.make(settingsOf(server, { plane, connect: "lazy" }))
            const write = (client: typeof sql, options: Postgres.TransactionOptions) =>
              Effect.provideService(
                Postgres.transaction(client`insert into kept values (1)`, options),
                SqlClient,
                client
              )
            const error = errorOf(yield* Effect.flip(write(reads, { readOnly: false })))
            assert.strictEqual(error.reason, "InvalidRequest")
            assert.include(error.message, "only reads")
            assert.strictEqual(yield* server.sql("select count(*) from kept"), "0")
            // The server sees to the others.
            yield* Effect.flip(write(reads, {}))
            assert.strictEqual(yield* server.sql("select count(*) from kept"), "0")
            yield* write(sql, { readOnly: false })
            yield* server.sql("truncate kept")
          }
        }),
      60_000
    )

    it.scoped(
      "a statement is cancelled where its connection goes, whatever the name of the host says by then",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const { asked } = yield* resolvedOnce("database.test")
          const url = new URL(server.url)
          url.hostname = "database.test"
          const watch = yield* Postgres.make(settingsOf(server))
          const { sql } = yield* Postgres.make({
            url: Redacted.make(url.href),
            plane: "internal",
            // So that the statement ends by the request, and not because its connection is cut.
            cancelTimeout: "20 seconds"
          })
          const fiber = yield* Effect.fork(sql`select pg_sleep(60)`)
          yield* eventually(
            "it runs",
            Effect.map(running(watch.sql, "pg_sleep(60)"), (count) => count === 1)
          )
          yield* Fiber.interrupt(fiber)
          yield* eventually(
            "it is cancelled",
            Effect.map(running(watch.sql, "pg_sleep(60)"), (count) => count === 0)
          ).pipe(Effect.timeout("10 seconds"))
          assert.deepStrictEqual(asked, ["database.test"])
        }),
      60_000
    )

    it.scoped(
      "a LISTEN whose connection is lost and refused shows in health, and goes on by itself",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          yield* server.sql("create role hearer login superuser password 'heard'")
          const { health, listen, sql } = yield* Postgres.make(
            settingsOf(server, { username: "hearer", password: Redacted.make("heard"), healthTimeout: "10 seconds" })
          )
          const heard = yield* Queue.unbounded<Postgres.Notification>()
          const listening = yield* Effect.fork(
            Stream.runForEach(listen("news"), (message) => Queue.offer(heard, message))
          )
          assert.deepStrictEqual(yield* Queue.take(heard), { _tag: "Listening", again: false })
          assert.strictEqual((yield* health).status, "up")
          const cut = Effect.zipRight(
            sql`alter role hearer nologin`,
            sql`select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'`
          )
          yield* cut
          yield* soon(
            "its health says so",
            Effect.map(health, ({ details, status }) => {
              const { listen, reason } = (details ?? {}) as { readonly listen?: object; readonly reason?: string }
              return (
                status === "degraded" &&
                reason === "a LISTEN has lost its connection" &&
                JSON.stringify(listen) === JSON.stringify({ lost: 1, reason: "Authentication" })
              )
            })
          )
          yield* sql`alter role hearer login`
          assert.deepStrictEqual(yield* Queue.take(heard), { _tag: "Listening", again: true })
          assert.strictEqual((yield* health).status, "up")
          yield* cut
          yield* soon(
            "it is lost again",
            Effect.map(health, ({ status }) => status === "degraded")
          )
          // What nobody hears any more is not missed either.
          yield* Fiber.interrupt(listening)
          assert.strictEqual((yield* health).status, "up")
        }),
      60_000
    )

    it.scoped("what the toJSON of a parameter or of a row throws is not shown", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { sql } = yield* Postgres.make(settingsOf(server))
        const circular: Record<string, unknown> = {}
        circular["4111111111111111"] = circular
        const row = PostgresCopy.toText(Stream.make([telling]))
        const all: ReadonlyArray<Effect.Effect<unknown, SqlError>> = [
          sql.unsafe("select $1::jsonb", [telling]),
          sql.unsafe("select $1::jsonb", [circular]),
          sql.unsafe("select $1::jsonb[]", [[telling]]),
          Stream.runDrain(row),
          Stream.runDrain(PostgresCopy.toCsv(Stream.make([circular])))
        ]
        for (const asked of all) {
          const error = yield* Effect.flip(asked)
          assert.strictEqual(errorOf(error).reason, "InvalidRequest")
          assert.include(errorOf(error).message, "JSON")
          assert.notInclude(`${error.message} ${JSON.stringify(error)} ${String(errorOf(error).cause)}`, "4111")
        }
      })
    )
  })
})
