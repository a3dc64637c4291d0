import { assert, describe, it } from "@effect/vitest"
import * as Proxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either } from "effect"
import { drivers, heap, open as openClient, pause, timed, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

const resources = () => {
  const all = process.getActiveResourcesInfo()
  return {
    sockets: all.filter((one) => one.startsWith("TCP") || one.startsWith("TLS")).length,
    timers: all.filter((one) => one === "Timeout").length
  }
}

const times = <A, E, R>(count: number, effect: (index: number) => Effect.Effect<A, E, R>) =>
  Effect.forEach(
    Array.from({ length: count }, (_, index) => index),
    effect,
    { concurrency: 10, discard: true }
  )

for (const [version, driver] of drivers) {
  describe.skipIf(Need.missing("redis-server"))(
    Need.title(`RedisClient over a long time, on ${version}`, "redis-server"),
    () => {
      const open = (options: Parameters<typeof openClient>[0]) => openClient({ driver, ...options })

      it.scopedLive(
        "ten thousand layers, isolated connections, listeners and trackers leave nothing behind",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const { redis } = yield* open({
              ...at(server),
              commandTimeout: "5 seconds",
              connectTimeout: "20 seconds",
              idle: "200 millis"
            })
            // how many connections the pool keeps for the next caller depends on how many were in use at once: none is
            // left when resources are counted
            const settled = until(Effect.map(redis.stats, ({ isolated }) => isolated === 0))
            const rounds: ReadonlyArray<(index: number) => Effect.Effect<unknown, unknown>> = [
              (index) =>
                Effect.scoped(
                  Effect.flatMap(
                    open({ ...at(server), connect: index % 2 === 0 ? "eager" : "lazy", connectTimeout: "20 seconds" }),
                    (one) => Effect.when(one.redis.send("PING"), () => index % 4 < 2)
                  )
                ),
              (index) =>
                Effect.scoped(
                  Effect.flatMap(redis.isolated(), (one) =>
                    // some are left with traces, and are not given to another
                    index % 10 === 0 ? one.send("WATCH", "key") : one.send("PING")
                  )
                ),
              (index) =>
                Effect.scoped(
                  index % 2 === 0
                    ? redis.listen([`channel-${index}`], () => {})
                    : redis.listen({ pattern: `${index}*` }, () => {})
                ),
              (index) => (index % 10 === 0 ? Effect.scoped(redis.track([`${index}:`], () => {})) : Effect.void)
            ]
            const all = (count: number) =>
              times(count, (index) => rounds[index % rounds.length]?.(index >> 2) ?? Effect.void)
            // what is made once and kept is made now
            yield* all(1_000)
            yield* settled
            yield* pause(100)
            const before = { ...resources(), heap: heap() }
            const listeners = process.eventNames().map((name) => process.listenerCount(name))
            yield* all(10_000)
            yield* settled
            yield* until(Effect.sync(() => resources().sockets <= before.sockets))
            yield* until(Effect.sync(() => resources().timers <= before.timers + 1))
            yield* until(Effect.sync(() => heap() - before.heap < 4 * 1024 * 1024))
            assert.deepStrictEqual(
              process.eventNames().map((name) => process.listenerCount(name)),
              listeners
            )
            const stats = yield* redis.stats
            assert.strictEqual(stats.listeners, 0)
          }),
        120_000
      )

      it.scopedLive(
        "a server that goes away two hundred times leaves nothing behind",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const proxy = yield* Proxy.make({ port: server.port })
            const { redis } = yield* open({ ...at(proxy), commandTimeout: "2 seconds" })
            yield* redis.listen(["channel"], () => {})
            const round = Effect.gen(function* () {
              const { connects } = yield* redis.stats
              const calls = yield* Effect.fork(
                Effect.all(
                  Array.from({ length: 20 }, () => Effect.either(redis.send("INCR", "n"))),
                  { concurrency: "unbounded" }
                )
              )
              yield* proxy.resetAll
              yield* until(Effect.map(redis.stats, (stats) => stats.connects > connects))
              yield* calls
            })
            for (let index = 0; index < 20; index++) yield* round
            yield* pause(200)
            const before = { ...resources(), heap: heap() }
            for (let index = 0; index < 200; index++) yield* round
            yield* until(Effect.sync(() => resources().sockets <= before.sockets))
            yield* until(Effect.sync(() => resources().timers <= before.timers + 2))
            yield* until(Effect.sync(() => heap() - before.heap < 4 * 1024 * 1024))
            const { inFlight, waiting } = yield* redis.stats
            assert.deepStrictEqual({ inFlight, waiting }, { inFlight: 0, waiting: 0 })
          }),
        60_000
      )

      it.scopedLive(
        "a value of 50 MB and keys of 64 kB, of any bytes, go and come as they are; a small command behind them waits",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const { redis } = yield* open({
              ...at(server),
              commandTimeout: "10 seconds",
              maxBuffered: 128 * 1024 * 1024
            })
            const value = Buffer.alloc(50 * 1024 * 1024, 0x61)
            value.set(Buffer.from([0x00, 0xff, 0x0d, 0x0a]), 1_000)
            const key = Buffer.alloc(64 * 1024, 0xff)
            key.set(Buffer.from("\r\n{}*?[]\0"), 100)
            const [set, small] = yield* Effect.all([redis.send("SET", key, value), timed(redis.send("GET", "small"))], {
              concurrency: 2
            })
            assert.deepStrictEqual([set, small[0]], ["OK", null])
            const got = yield* redis.sendBuffer("GET", key)
            assert.isTrue(got instanceof Uint8Array && value.equals(got))
            const others = yield* redis.sendManyBuffer([
              ["EXISTS", key],
              ["STRLEN", key],
              ["UNLINK", key]
            ])
            assert.deepStrictEqual(others, [Either.right(1), Either.right(value.length), Either.right(1)])
          }),
        60_000
      )
    }
  )
}
