/**
 * The state ports on a Cluster of six nodes whose slots are on the move: while the cases run, slot after slot in which
 * they have keys goes to another master, one key at a time. No case may notice. Then masters die under them.
 */
import { assert, describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as RedisCluster from "@underlay/servers/RedisCluster"
import { Cause, Context, Duration, Effect, Fiber, Layer } from "effect"
import * as Ports from "../ports.ts"
import { pause, timed } from "../support.ts"

class Cluster extends Context.Tag("test/Cluster")<Cluster, RedisCluster.RedisCluster>() {}

/** What moves the slots: all the time, but while a step must have no key on its way, and while it rests. */
class Mover extends Context.Tag("test/Mover")<
  Mover,
  {
    readonly moves: () => number
    readonly fault: () => string | undefined
    readonly betweenMoves: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
    readonly rest: (on: boolean) => Effect.Effect<void>
  }
>() {}

const mover = Layer.scoped(
  Mover,
  Effect.gen(function* () {
    const cluster = yield* Cluster
    const turn = yield* Effect.makeSemaphore(1)
    let moves = 0
    let resting = false
    let fault: string | undefined
    const step = Effect.gen(function* () {
      if (resting) return
      const masters = [...new Set(yield* cluster.owners)]
      for (const master of masters) {
        const key = yield* cluster.command(master, "RANDOMKEY")
        if (typeof key !== "string") continue
        const slot = yield* cluster.slotOf(key)
        const to = masters[(masters.indexOf(master) + 1 + (moves % (masters.length - 1))) % masters.length] ?? master
        const move = yield* cluster.startMove(slot, to)
        // half of it is there: some keys are asked for at one node, some at the other
        yield* pause(moves % 3)
        yield* move.migrateKeys(1)
        yield* pause(moves % 3)
        yield* move.finish
        moves++
      }
    })
    yield* Effect.forkScoped(
      Effect.forever(Effect.zipRight(turn.withPermits(1)(step), pause(1))).pipe(
        Effect.tapErrorCause((cause) =>
          Effect.sync(() => {
            if (!Cause.isInterruptedOnly(cause)) fault = Cause.pretty(cause)
          })
        )
      )
    )
    const betweenMoves = turn.withPermits(1)
    const rest = (on: boolean) =>
      betweenMoves(
        Effect.sync(() => {
          resting = on
        })
      )
    return { moves: () => moves, fault: () => fault, betweenMoves, rest }
  })
)

const client = Layer.unwrapEffect(
  Effect.map(Cluster, ({ nodes }) =>
    RedisClient.layer({
      nodes: nodes.slice(0, 2).map(({ announced, host }) => ({ host, port: announced })),
      commandTimeout: "5 seconds"
    })
  )
)

const real = Ports.layer.pipe(
  Layer.provideMerge(client),
  Layer.provideMerge(mover),
  Layer.provideMerge(Layer.scoped(Cluster, RedisCluster.make({ nodeTimeout: 5_000 })))
)

const age = `for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then
    if left <= tonumber(ARGV[1]) then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - ARGV[1]) end
  end
end
return 0`

/** Ages every key of the Cluster, at each master, while no key is on its way. */
const advance = (duration: Duration.Duration) =>
  Effect.gen(function* () {
    const cluster = yield* Cluster
    const { betweenMoves } = yield* Mover
    yield* betweenMoves(
      Effect.flatMap(cluster.owners, (owners) =>
        Effect.forEach(new Set(owners), (master) =>
          // a master that is dead ages nothing: the case will tell
          Effect.ignore(cluster.command(master, "EVAL", age, "0", String(Duration.toMillis(duration))))
        )
      )
    )
  })

const seconds = 180_000

/** Waits until the client serves writes to every shard again. Gives the milliseconds that it took. */
const served = Effect.flatMap(RedisClient.RedisClient, (redis) =>
  Effect.map(
    timed(
      Effect.retry(
        Effect.forEach(["a", "b", "c", "d", "e", "f"], (key) => redis.send("SET", `served:${key}`, "1", "PX", "1000")),
        { times: 1_000, while: () => Effect.as(pause(10), true) }
      )
    ),
    ([, took]) => took
  )
)

describe.skipIf(Need.missing("redis-server"))(Need.title("the state ports on a Cluster", "redis-server"), () => {
  for (const port of Ports.ports<Cluster | Mover>(advance)) {
    layer(real, { timeout: seconds })(port.name, (it) => {
      for (const one of port.cases) it.effect(one.name, () => one.run)

      it.effect(
        "slots were moved all the while, a hundred and more, and the client was sent on",
        () =>
          Effect.gen(function* () {
            const { fault, moves } = yield* Mover
            const redis = yield* RedisClient.RedisClient
            assert.isAbove(moves(), 0)
            assert.isAbove((yield* redis.stats).redirected, 0)
            while (moves() < 100 && fault() === undefined) for (const one of port.cases) yield* one.run
            assert.isUndefined(fault())
          }),
        seconds
      )

      it.effect(
        "cases under which a master dies pass or fail typed, and none hangs; then all pass",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster
            const { fault, rest } = yield* Mover
            const failed = new Set<string>()
            const longest = { name: "", took: 0 }
            yield* rest(true)
            const failover = yield* Effect.fork(Effect.zipRight(pause(50), cluster.killMaster(0)))
            let runs = 0
            while ((yield* Fiber.poll(failover))._tag === "None") {
              const one = port.cases[runs++ % port.cases.length]
              if (one === undefined) break
              const [exit, took] = yield* timed(Effect.exit(one.run))
              if (took > longest.took) Object.assign(longest, { name: one.name, took })
              const outcome = Ports.outcome(exit)
              if (typeof outcome === "object") assert.fail(`${one.name}: ${outcome.fault}`)
              if (outcome === "failed by the outage") failed.add(one.name)
              yield* pause(5)
            }
            yield* Fiber.join(failover)
            assert.isAbove(failed.size, 0)
            assert.isBelow(longest.took, 30_000, longest.name)
            assert.isBelow(yield* served, 1_000)
            for (const one of port.cases) yield* one.run
            yield* cluster.heal
            yield* rest(false)
            for (const one of port.cases) yield* one.run
            assert.isUndefined(fault())
          }),
        seconds
      )
    })
  }
})
