import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect, Fiber, Redacted, Ref } from "effect"
import { Postgres } from "../../src/index.ts"
import { errorOf, eventually } from "./postgresTools.ts"

const encrypted = (settings: Postgres.PostgresSettings) =>
  Effect.scoped(
    Effect.flatMap(Postgres.make({ plane: "internal", ...settings }), ({ sql }) =>
      Effect.map(sql`select ssl from pg_stat_ssl where pid = pg_backend_pid()`, ([row]) => row?.["ssl"])
    )
  )

const reasonOf = (settings: Postgres.PostgresSettings) =>
  Effect.map(Effect.flip(encrypted(settings)), (error) => errorOf(error).reason)

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres TLS", "postgres"), () => {
  it.live(
    "sslmode and what is said beside the URL; never without TLS where it is asked",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make({ tls: {} })
        const { certificates, host, password, port, url: text } = server
        if (certificates === undefined) return assert.fail("no certificates")
        const { ca, caFile } = certificates
        const url = (query: string) => Redacted.make(`${text}${query}`)
        // By the URL.
        assert.strictEqual(yield* encrypted({ url: url("?sslmode=disable") }), false)
        assert.strictEqual(yield* encrypted({ url: url("?sslmode=require") }), true)
        assert.strictEqual(yield* encrypted({ url: url(`?sslmode=verify-ca&sslrootcert=${caFile}`) }), true)
        assert.strictEqual(yield* encrypted({ url: url(`?sslmode=verify-full&sslrootcert=${caFile}`) }), true)
        assert.strictEqual(yield* encrypted({ url: url(`?sslrootcert=${caFile}`) }), true)
        // An authority that did not sign it, and one that is not named.
        assert.strictEqual(yield* reasonOf({ url: url("?sslmode=verify-full") }), "InvalidSettings")
        assert.strictEqual(yield* reasonOf({ url: url("?sslmode=verify-ca") }), "InvalidSettings")
        assert.strictEqual(yield* reasonOf({ url: url("?ssl=true") }), "InvalidSettings")
        for (const query of ["?sslmode=prefer", "?sslmode=allow", "?sslmod=require", "?sslmode=verify_full"]) {
          assert.strictEqual(yield* reasonOf({ url: url(query) }), "InvalidSettings", query)
        }
        // Beside the URL, which loses.
        assert.strictEqual(yield* encrypted({ url: url("?sslmode=disable"), ssl: "require" }), true)
        assert.strictEqual(yield* encrypted({ url: url("?sslmode=disable"), ssl: { ca } }), true)
        assert.strictEqual(yield* encrypted({ url: url("?sslmode=require"), ssl: false }), false)
        assert.strictEqual(yield* reasonOf({ url: url("?sslmode=disable"), ssl: true }), "InvalidSettings")
        assert.strictEqual(yield* encrypted({ url: url(`?sslmode=disable&sslrootcert=${caFile}`), ssl: true }), true)
        assert.strictEqual(
          yield* encrypted({
            url: Redacted.make(`postgres://nobody:wrong@127.0.0.1:1/nowhere?sslmode=disable`),
            host,
            port,
            database: "postgres",
            username: server.username,
            password: Redacted.make(password),
            ssl: { mode: "verify-full", caFile }
          }),
          true
        )
        // The name on the certificate is of 127.0.0.1 and localhost.
        const elsewhere = { url: url(""), host: "127.0.0.2" }
        assert.strictEqual(
          yield* reasonOf({ ...elsewhere, ssl: { mode: "verify-full", ca } }).pipe(
            Effect.map((reason) => reason === "InvalidSettings" || reason === "Unavailable")
          ),
          true
        )
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a server without TLS is not talked to where TLS is asked",
    () =>
      Effect.gen(function* () {
        const { url } = yield* PostgresServer.make()
        for (const ssl of ["require", "no-verify", true, {}] as const) {
          assert.strictEqual(yield* reasonOf({ url: Redacted.make(url), ssl }), "InvalidSettings")
        }
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a server that wants TLS and a client's certificate: with one, by texts and by files; cancellation works over TLS",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make({ tls: { clientCertificate: true } })
        const { certificates } = server
        if (certificates === undefined) return assert.fail("no certificates")
        const { ca, caFile, cert, certFile, key, keyFile } = certificates
        const url = Redacted.make(server.url)
        assert.isTrue(["Authentication", "Unavailable"].includes(yield* reasonOf({ url, ssl: { ca } })))
        assert.isTrue(["Authentication", "Unavailable"].includes(yield* reasonOf({ url })))
        assert.strictEqual(yield* encrypted({ url, ssl: { ca, cert, key: Redacted.make(key) } }), true)
        assert.strictEqual(yield* encrypted({ url, ssl: { caFile, certFile, keyFile } }), true)
        const byUrl = `${server.url}?sslmode=verify-full&sslrootcert=${caFile}&sslcert=${certFile}&sslkey=${keyFile}`
        assert.strictEqual(yield* encrypted({ url: Redacted.make(byUrl) }), true)
        const { sql } = yield* Postgres.make({
          url: Redacted.make(byUrl),
          plane: "internal",
          cancelTimeout: "20 seconds"
        })
        const running = Effect.map(
          server.sql("select count(*) from pg_stat_activity where query like '%over TLS%' and pid <> pg_backend_pid()"),
          Number
        )
        const fiber = yield* Effect.fork(sql`select pg_sleep(30), 'over TLS'`)
        yield* eventually(
          "it runs",
          Effect.map(running, (count) => count === 1)
        )
        yield* Fiber.interrupt(fiber)
        // Cut without a request to cancel, it would sleep on.
        yield* eventually(
          "it is cancelled",
          Effect.map(running, (count) => count === 0)
        )
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a password that changes is asked for with each connection; one that cannot be had is the error",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const { database, host, port, username } = server
        const current = yield* Ref.make(server.password)
        const { sql } = yield* Postgres.make({
          host,
          port,
          database,
          username,
          password: Effect.map(Ref.get(current), Redacted.make),
          plane: "internal",
          maxConnections: 1
        })
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
        yield* server
          .sql(`alter role ${username} password 'another'; select pg_terminate_backend(pid)
          from pg_stat_activity where application_name = 'underlay'`)
          .pipe(Effect.ignore)
        yield* Ref.set(current, "another")
        yield* Effect.retry(sql`select 1 as one`, {
          times: 20,
          while: (error) => errorOf(error).reason === "Unavailable"
        })
        yield* Ref.set(current, "a wrong one")
        const other = yield* Effect.flip(
          Effect.scoped(
            Postgres.make({
              host,
              port,
              database,
              username,
              password: Effect.map(Ref.get(current), Redacted.make),
              plane: "internal"
            })
          )
        )
        assert.strictEqual(other.reason, "Authentication")
        assert.notInclude(JSON.stringify(other) + other.message, "a wrong one")
      }).pipe(Effect.scoped),
    60_000
  )
})
