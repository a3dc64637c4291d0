/**
 * The check of a connection to Redis against servers that are there and do not answer, and against a peer that vanishes
 * while it is in use: it answers within its budget and 50 ms. The other kinds are in `packages/connections`.
 */
import { assert, describe, it } from "@effect/vitest"
import { RedisConnection } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as FaultServers from "@underlay/servers/FaultServers"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import * as Sockets from "@underlay/servers/Sockets"
import * as Timed from "@underlay/servers/Timed"
import { ConfigProvider, Effect, Exit, Scope } from "effect"

const budget = 500
const over = 50
const callers = 4

const connect = (port: number, tls: boolean) =>
  Effect.gen(function* () {
    const kind = RedisConnection.kindWith({ connect: "lazy" })
    const settings = {
      url: `redis${tls ? "s" : ""}://127.0.0.1:${port}`,
      commandTimeout: `${budget} millis`,
      connectTimeout: `${budget} millis`
    }
    const read = yield* Effect.withConfigProvider(kind.settings, ConfigProvider.fromJson(settings))
    return yield* kind.make("sessions", read)
  })

const until = <A, E, R>(effect: Effect.Effect<A, E, R>, wanted: (value: A) => boolean): Effect.Effect<A, E, R> =>
  Effect.flatMap(effect, (value) =>
    wanted(value) ? Effect.succeed(value) : Effect.delay(until(effect, wanted), "20 millis")
  )

describe("health", () => {
  for (const [fault, start] of Object.entries(FaultServers.all)) {
    for (const tls of [false, true]) {
      it.scopedLive(`${fault}${tls ? " over TLS" : ""}: answers within its budget`, () =>
        Effect.gen(function* () {
          const server = yield* start
          const scope = yield* Scope.make()
          const connection = yield* Scope.extend(connect(server.port, tls), scope)
          for (let look = 0; look < 2; look++) {
            const [health, took] = yield* Timed.timed(connection.health)
            assert.strictEqual(health.status, "down", JSON.stringify(health))
            assert.isTrue(took <= budget + over, `${took} ms`)
          }
          const [, released] = yield* Timed.timed(Scope.close(scope, Exit.void))
          assert.isTrue(released <= 1_000, `${released} ms`)
          yield* until(Sockets.heldTo(server.port), (left) => left === 0).pipe(Effect.timeout("1 second"))
        })
      )
    }
  }
})

describe.skipIf(Need.missing("redis-server"))(
  Need.title("a peer that vanishes from under a connection", "redis-server"),
  () => {
    it.scopedLive("is found within the budget, and is up again on a new socket when there is a way again", () =>
      Effect.gen(function* () {
        const { port } = yield* Server.make()
        const proxy = yield* FaultProxy.make({ port })
        const scope = yield* Scope.make()
        const connection = yield* Scope.extend(connect(proxy.port, false), scope)
        const asked = Effect.all(
          Array.from({ length: callers }, () => connection.use((redis) => redis.send("PING"))),
          { concurrency: "unbounded" }
        )
        const looked = Effect.map(
          Effect.tap(Timed.timed(connection.health), ([, took]) => assert.isTrue(took <= budget + over, `${took} ms`)),
          ([health]) => health
        )
        yield* asked
        // An isolated one is kept for the next who wants one.
        const isolated = Effect.scoped(
          connection.use((redis) => Effect.flatMap(redis.isolated(), (one) => one.send("PING")))
        )
        yield* isolated
        assert.strictEqual((yield* looked).status, "up")
        assert.strictEqual(yield* proxy.halfOpen(true), 2)
        for (let look = 0; look < 2; look++) {
          const health = yield* looked
          assert.strictEqual(health.status, "down", JSON.stringify(health))
        }
        yield* proxy.halfOpen(false)
        yield* until(looked, ({ status }) => status === "up").pipe(Effect.timeout("15 seconds"))
        yield* asked.pipe(Effect.timeout("1 second"))
        // The one that was kept is found dead by who gets it, and is not kept again.
        yield* isolated.pipe(Effect.retry({ times: 1 }), Effect.timeout("5 seconds"))
        yield* until(Effect.zip(Sockets.heldTo(proxy.port), proxy.counts), ([held, { open }]) => held === open).pipe(
          Effect.timeout("5 seconds")
        )
        const [, released] = yield* Timed.timed(Scope.close(scope, Exit.void))
        assert.isTrue(released <= 1_000, `${released} ms`)
        yield* until(Sockets.heldTo(proxy.port), (left) => left === 0).pipe(Effect.timeout("1 second"))
      })
    )
  }
)
