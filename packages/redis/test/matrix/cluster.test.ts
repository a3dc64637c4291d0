/**
 * The ports on a Cluster of six nodes whose slots are on the move: while the cases run, slot after slot in which they
 * have keys goes to another master. No case may notice. Then a master dies while all suites run at once.
 */
import { assert, describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisCluster from "@underlay/servers/RedisCluster"
import { Context, Effect, Layer } from "effect"
import * as Matrix from "./matrix.ts"
import * as Mover from "./mover.ts"
import * as Outage from "./outage.ts"
import * as Ports from "./ports.ts"

class Cluster extends Context.Tag("test/matrix/Cluster")<
  Cluster,
  RedisCluster.RedisCluster & { readonly mover: Mover.Mover }
>() {}

const cluster = Layer.scoped(
  Cluster,
  Effect.gen(function* () {
    // five seconds of silence: two busy cores are no failure of a node
    const running = yield* RedisCluster.make({ nodeTimeout: 5_000 })
    return { ...running, mover: yield* Mover.make(running) }
  })
)

const onMasters = (...command: ReadonlyArray<string>) =>
  Effect.flatMap(Cluster, (running) =>
    running.mover.betweenMoves(
      Effect.flatMap(running.owners, (owners) =>
        Effect.forEach(
          new Set(owners),
          // a master that is dead does nothing: the case will tell
          (master) => Effect.either(running.command(master, ...command)),
          { concurrency: "unbounded", discard: true }
        )
      )
    )
  )

const store = Layer.effect(
  Ports.Store,
  Effect.map(Effect.context<Cluster>(), (context) => ({
    everywhere: (script, argument) => Effect.provide(onMasters("EVAL", script, "0", String(argument)), context)
  }))
)

const limit = 240_000

/** So many slots move under the cases of every port. */
const enough = 20

describe.skipIf(Need.missing("redis-server"))(Need.title("the ports on a Cluster", "redis-server"), () => {
  for (const cell of Matrix.cells("cluster")) {
    const client = Layer.unwrapEffect(
      Effect.map(Cluster, ({ nodes }) =>
        RedisClient.layer({
          nodes: nodes.slice(0, 2).map(({ announced, host }) => ({ host, port: announced })),
          commandTimeout: "5 seconds",
          driver: Matrix.driverOf(cell)
        })
      )
    )
    const real = Ports.redis.pipe(Layer.provideMerge(client), Layer.provideMerge(store), Layer.provideMerge(cluster))
    const ports = Matrix.portsOf(cell, Ports.ports)

    layer(real, { excludeTestServices: true, timeout: limit })(cell.driver, (it) => {
      for (const port of ports) {
        const { name, redis } = port
        describe(name, () => {
          const before = { moves: 0, redirected: 0 }
          const counts = Effect.gen(function* () {
            const { mover } = yield* Cluster
            const { redirected } = yield* (yield* RedisClient.RedisClient).stats
            return { moves: mover.moves(), redirected }
          })

          it.effect("begins on empty masters", () =>
            Effect.gen(function* () {
              yield* onMasters("FLUSHALL")
              Object.assign(before, yield* counts)
            })
          )

          for (const one of redis) it.effect(one.name, () => one.run, Ports.patience)

          it.effect(
            `${enough} slots and more of its keys were moved all the while, and the client was sent on`,
            () =>
              Effect.gen(function* () {
                const { mover } = yield* Cluster
                const first = yield* counts
                assert.isAbove(first.moves, before.moves)
                // which keys are asked for, and when the client reads the map anew, is chance: a run may meet none on the move
                let now = first
                while (
                  (now.moves - before.moves < enough || now.redirected === before.redirected) &&
                  mover.fault() === undefined
                ) {
                  yield* Ports.all(port)
                  now = yield* counts
                }
                assert.isUndefined(mover.fault())
                assert.isAbove(now.redirected, before.redirected)
              }),
            limit
          )
        })
      }

      if (cell.outage) {
        it.effect(
          "all suites run at once, and a master dies under them: cases pass or fail typed, none hangs; then all pass",
          () =>
            Effect.gen(function* () {
              const { heal, killMaster, mover } = yield* Cluster
              yield* mover.rest(true)
              const reports = yield* Outage.during(
                killMaster(0),
                ports.map(({ name, redis }) => ({ name, cases: redis }))
              )
              // a third of the keys is away: a port can be lucky, all of them cannot
              assert.isAbove(
                reports.reduce((sum, { failed }) => sum + failed, 0),
                ports.length
              )
              for (const { longest, port, ran } of reports) {
                assert.isAbove(ran, 0, port)
                assert.isBelow(longest.took, 40_000, `${port}: ${longest.name}`)
              }
              assert.isBelow(yield* Outage.served, 1_000)
              for (const port of ports) yield* Ports.all(port)
              yield* heal
              yield* mover.rest(false)
              const moved = mover.moves()
              for (let turn = 0; mover.moves() < moved + enough && mover.fault() === undefined; turn++) {
                const port = ports[turn % ports.length]
                if (port !== undefined) yield* Ports.all(port)
              }
              assert.isUndefined(mover.fault())
            }),
          limit
        )
      }
    })
  }
})
