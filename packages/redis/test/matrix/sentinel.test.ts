/**
 * The ports under Sentinel. In the middle of every suite the master is killed: what comes after is served by the promoted
 * replica, to the same services. Then one dies while all suites run at once: what a call was under way with fails typed.
 */
import { assert, describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisSentinel from "@underlay/servers/RedisSentinel"
import { Context, Effect, Layer } from "effect"
import * as Matrix from "./matrix.ts"
import * as Outage from "./outage.ts"
import * as Ports from "./ports.ts"

class Sentinels extends Context.Tag("test/matrix/Sentinels")<Sentinels, RedisSentinel.RedisSentinel>() {}

const store = Layer.effect(
  Ports.Store,
  Effect.map(Sentinels, ({ masterServer }) => ({
    everywhere: (script, argument) =>
      Effect.asVoid(Effect.flatMap(masterServer, ({ call }) => call("EVAL", script, "0", String(argument))))
  }))
)

const limit = 120_000

/** The port of the server that commands go to. */
const servedBy = Effect.flatMap(RedisClient.RedisClient, (client) =>
  Effect.map(client.send("INFO", "server"), (info) => Number(/tcp_port:(\d+)/.exec(String(info))?.[1]))
)

describe.skipIf(Need.missing("redis-server"))(Need.title("the ports under Sentinel", "redis-server"), () => {
  for (const cell of Matrix.cells("sentinel")) {
    const client = Layer.unwrapEffect(
      Effect.map(Sentinels, ({ master, password, sentinelPassword, sentinels }) =>
        RedisClient.layer({
          sentinels: sentinels.map(({ host, port }) => ({ host, port })),
          master,
          password,
          sentinelPassword,
          commandTimeout: "2 seconds",
          driver: Matrix.driverOf(cell)
        })
      )
    )
    const real = Ports.redis.pipe(
      Layer.provideMerge(client),
      Layer.provideMerge(store),
      Layer.provideMerge(Layer.scoped(Sentinels, RedisSentinel.make({ password: "data", sentinelPassword: "watch" })))
    )
    const ports = Matrix.portsOf(cell, Ports.ports)

    layer(real, { excludeTestServices: true, timeout: limit })(cell.driver, (it) => {
      /** By which servers the cases of a port were served. */
      const servers = new Map<string, Map<number, number>>()
      const half = (when: string, part: (count: number) => readonly [number, number]) => {
        for (const port of ports) {
          const { name, redis } = port
          describe(`${name}, ${when}`, () => {
            for (const one of redis.slice(...part(redis.length))) {
              it.effect(
                one.name,
                () =>
                  Effect.gen(function* () {
                    yield* one.run
                    const by = yield* servedBy
                    const seen = servers.get(name) ?? new Map<number, number>()
                    servers.set(name, seen.set(by, (seen.get(by) ?? 0) + 1))
                  }),
                Ports.patience
              )
            }
          })
        }
      }
      const middle = (count: number) => Math.floor(count / 2)
      const killed: { port?: number } = {}

      half("with the first master", (count) => [0, middle(count)])

      it.effect(
        "the master is killed: the client is with the new one within a second of its promotion",
        () =>
          Effect.gen(function* () {
            const system = yield* Sentinels
            const redis = yield* RedisClient.RedisClient
            killed.port = (yield* system.masterServer).port
            const promoted = yield* system.failover
            assert.notStrictEqual(promoted.port, killed.port)
            assert.isBelow(yield* Outage.served, 1_000)
            assert.strictEqual(yield* servedBy, promoted.port)
            assert.isAtLeast((yield* redis.stats).reconnects, 1)
          }),
        limit
      )

      half("with the promoted one", (count) => [middle(count), count])

      it.effect("half of the cases of every port were served by the one, half by the other", () =>
        Effect.gen(function* () {
          const promoted = (yield* (yield* Sentinels).masterServer).port
          for (const { name, redis } of ports) {
            const count = redis.length
            assert.deepStrictEqual(
              servers.get(name),
              new Map([
                [killed.port ?? 0, middle(count)],
                [promoted, count - middle(count)]
              ]),
              name
            )
          }
        })
      )

      if (cell.outage) {
        it.effect(
          "all suites run at once, and the master dies under them: cases pass or fail typed, none hangs; then all pass",
          () =>
            Effect.gen(function* () {
              const system = yield* Sentinels
              yield* system.restore
              const reports = yield* Outage.during(
                system.failover,
                ports.map(({ name, redis }) => ({ name, cases: redis }))
              )
              const survivors = ports.filter(({ survives }) => survives === true).map(({ name }) => name)
              for (const { failed, longest, port, ran } of reports) {
                assert.isAbove(survivors.includes(port) ? ran : failed, 0, port)
                assert.isBelow(longest.took, 40_000, `${port}: ${longest.name}`)
              }
              assert.isBelow(yield* Outage.served, 1_000)
              for (const port of ports) yield* Ports.all(port)
              yield* system.restore
            }),
          limit
        )
      }
    })
  }
})
