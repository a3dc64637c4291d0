import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect, Exit, Fiber, Redacted, Scope } from "effect"
import { Postgres } from "../../src/index.ts"
import { errorOf, soon } from "./postgresTools.ts"

const settingsOf = (server: PostgresServer.PostgresServer, more: Postgres.PostgresSettings = {}) =>
  ({ url: Redacted.make(server.url), plane: "internal", ...more }) as const

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres: release and limits", "postgres"), () => {
  it.live(
    "the release waits for all its servers at once, and its report has what was cut of each",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(
          Postgres.make(settingsOf(server, { drainTimeout: "1 second", replicas: [{}, {}] })),
          scope
        )
        const busy = yield* Effect.forEach([connection.sql, connection.reads, connection.reads], (sql) =>
          Effect.fork(Effect.exit(sql`select pg_sleep(30)`))
        )
        yield* soon(
          "all run",
          Effect.map(
            server.sql(
              "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(30)%' and pid <> pg_backend_pid()"
            ),
            (count) => Number(count) === 3
          )
        )
        yield* Scope.close(scope, Exit.void)
        const report = yield* connection.drained
        assert.deepInclude(report, { inUse: 3, finished: 0, cut: 3 })
        assert.isBelow(report.tookMs, 1_900)
        for (const fiber of busy) assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "a password that never comes, and cannot be interrupted, ends with the time to connect",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        const made = Postgres.make(
          settingsOf(server, { connectTimeout: "200 millis", password: Effect.uninterruptible(Effect.never) })
        )
        const error = yield* Effect.flip(Effect.scoped(made)).pipe(Effect.disconnect, Effect.timeout("5 seconds"))
        assert.strictEqual(errorOf(error).reason, "Timeout")
      }).pipe(Effect.scoped),
    20_000
  )
})
