import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import { Chunk, Deferred, Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import type { Postgres } from "../../src/index.ts"
import { connect, connectionsNamed, errorOf, eventually, Server } from "./postgresTools.ts"

const live = { timeout: "60 seconds", excludeTestServices: true } as const

/** Listens in a fiber of the scope; what comes is in a queue. */
const listening = (connection: Postgres.PostgresConnection, ...channels: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const queue = yield* Queue.unbounded<Postgres.Notification>()
    const fiber = yield* Effect.forkScoped(
      Stream.runForEach(connection.listen(...channels), (message) => Queue.offer(queue, message))
    )
    return { fiber, next: Effect.timeout(Queue.take(queue), "20 seconds") }
  })

const payloadOf = (message: Postgres.Notification) => (message._tag === "Notification" ? message.payload : message._tag)

describe.skipIf(Need.missing("postgres"))(Need.title("LISTEN and NOTIFY", "postgres"), () => {
  layer(Server.layer, live)("against a real server", (it) => {
    it.scoped(
      "what is notified arrives in order, on several channels with any name; of a transaction when it commits",
      () =>
        Effect.gen(function* () {
          const connection = yield* connect()
          const { next } = yield* listening(connection, "orders", 'Odd "name" é')
          assert.deepStrictEqual(yield* next, { _tag: "Listening", again: false })
          yield* connection.notify("orders", "1")
          yield* connection.notify('Odd "name" é', "2")
          yield* Effect.ignore(
            connection.sql.withTransaction(Effect.zipRight(connection.notify("orders", "never"), Effect.fail("undo")))
          )
          yield* connection.sql.withTransaction(connection.notify("orders", "3"))
          yield* connection.notify("others", "not heard")
          yield* connection.notify("orders")
          const heard = [yield* next, yield* next, yield* next, yield* next]
          assert.deepStrictEqual(heard.map(payloadOf), ["1", "2", "3", ""])
        })
    )

    it.scoped(
      "a payload of 8,000 bytes is refused before it is sent, one of 7,999 arrives; names of channels are checked",
      () =>
        Effect.gen(function* () {
          const connection = yield* connect()
          const { next } = yield* listening(connection, "large")
          yield* next
          const error = yield* Effect.flip(connection.notify("large", "é".repeat(4_000)))
          assert.strictEqual(errorOf(error).reason, "InvalidRequest")
          yield* connection.notify("large", "x".repeat(7_999))
          assert.strictEqual(payloadOf(yield* next).length, 7_999)
          for (const channels of [[], [""], ["x".repeat(64)]]) {
            const wrong = yield* Effect.flip(Stream.runDrain(connection.listen(...channels)))
            assert.strictEqual(errorOf(wrong).reason, "InvalidRequest")
          }
        })
    )

    it.scoped("a connection that is lost is made again, and that is told, since something may have been missed", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const connection = yield* connect({ applicationName: "listening-again" })
        const { next } = yield* listening(connection, "lossy")
        yield* next
        yield* connection.notify("lossy", "before")
        assert.strictEqual(payloadOf(yield* next), "before")
        yield* server.sql(
          "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'listening-again'"
        )
        assert.deepStrictEqual(yield* next, { _tag: "Listening", again: true })
        yield* Effect.retry(connection.notify("lossy", "after"), { times: 5 })
        assert.strictEqual(payloadOf(yield* next), "after")
      })
    )

    it.scoped("a consumer that is behind holds few and misses nothing", () =>
      Effect.gen(function* () {
        const connection = yield* connect()
        const begun = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          connection.listen("flood").pipe(
            Stream.tap((message) =>
              message._tag === "Listening"
                ? Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(go))
                : Effect.void
            ),
            Stream.take(20_001),
            Stream.runCollect
          )
        )
        yield* Deferred.await(begun)
        yield* connection.sql`select pg_notify('flood', n::text) from generate_series(1, 20000) as t (n)`
        yield* Deferred.succeed(go, undefined)
        const heard = Chunk.toArray(yield* Fiber.join(fiber))
          .slice(1)
          .map(payloadOf)
        assert.deepStrictEqual(
          heard,
          Array.from({ length: 20_000 }, (_, n) => String(n + 1))
        )
      })
    )

    it.scoped("the stream's end and the connection's release leave nothing on the server", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(connect({ applicationName: "listening", maxConnections: 1 }), scope)
        yield* Stream.runDrain(Stream.take(connection.listen("gone"), 1))
        yield* eventually(
          "only the pool's is left",
          Effect.map(connectionsNamed("listening"), (count) => count === 1)
        )
        const { fiber, next } = yield* listening(connection, "gone")
        yield* next
        yield* Scope.close(scope, Exit.void)
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(errorOf(error).reason, "Closed")
        yield* eventually(
          "nothing is left",
          Effect.map(connectionsNamed("listening"), (count) => count === 0)
        )
      })
    )

    it.scoped("a first connection that cannot be had fails the stream", () =>
      Effect.gen(function* () {
        const connection = yield* connect({ url: undefined, host: "127.0.0.1", port: 1, connect: "lazy" })
        assert.strictEqual(errorOf(yield* Effect.flip(Stream.runDrain(connection.listen("any")))).reason, "Unavailable")
      })
    )
  })
})
