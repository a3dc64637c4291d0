import { assert, describe, it } from "@effect/vitest"
import { Recording } from "@underlay/core/testing"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect, Fiber, Logger, LogLevel, Queue, Redacted, Stream } from "effect"
import { Postgres } from "../../src/index.ts"
import { errorOf } from "./postgresTools.ts"

const settingsOf = (server: PostgresServer.PostgresServer, more: Postgres.PostgresSettings = {}) =>
  ({ url: Redacted.make(server.url), plane: "internal", ...more }) as const

/** What the test's own server logs is not meant. */
const aside = Logger.withMinimumLogLevel(LogLevel.None)

describe.skipIf(Need.missing("postgres"))(Need.title("Postgres on the internal plane", "postgres"), () => {
  it.live(
    "shows nothing of what fails either: COPY, LISTEN, time that is over, a server that is gone",
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        yield* Recording.assertSilent(
          Effect.gen(function* () {
            const connection = yield* Postgres.make(settingsOf(server, { maxConnections: 2 }))
            const { copyIn, health, listen, sql } = connection
            yield* sql`create table quiet (n int)`
            yield* Effect.flip(copyIn("copy quiet from stdin", Stream.fail("mine")))
            yield* Effect.flip(copyIn("copy quiet from stdin", Stream.make(Buffer.from("x\n"))))
            yield* Effect.flip(copyIn("copy nowhere from stdin", Stream.make(Buffer.from("1\n"))))
            yield* Effect.flip(Postgres.withStatementTimeout(sql`select pg_sleep(10)`, "50 millis"))
            yield* Effect.timeoutOption(sql`select pg_sleep(10)`, "50 millis")
            const late = sql.withTransaction(
              Effect.zipRight(sql`select 1`, Effect.timeoutOption(sql`select pg_sleep(10)`, "50 millis"))
            )
            yield* Effect.flip(late)
            const heard = yield* Queue.unbounded<Postgres.Notification>()
            const fiber = yield* Effect.fork(
              Effect.exit(Stream.runForEach(listen("quiet"), (message) => Queue.offer(heard, message)))
            )
            yield* Queue.take(heard)
            yield* aside(server.kill)
            assert.strictEqual((yield* health).status, "down")
            assert.strictEqual(errorOf(yield* Effect.flip(sql`select 1`)).reason, "Unavailable")
            // Whoever runs a stream that fails by `Stream.run…` gets a line of Effect's own for it.
            yield* Effect.flip(Effect.scoped(Effect.flatten(Stream.toPull(listen("other")))))
            yield* aside(server.start)
            yield* Queue.take(heard)
            yield* Fiber.interrupt(fiber)
          }).pipe(Effect.scoped)
        )
      }).pipe(Effect.scoped),
    60_000
  )
})
