/** What keeps the slots of a Cluster on the move: one after the other in which there are keys, one key at a time. */
import type * as RedisCluster from "@underlay/servers/RedisCluster"
import { Cause, Effect, type Scope } from "effect"
import { pause } from "../support.ts"

export interface Mover {
  /** How many slots have moved. */
  readonly moves: () => number
  /** What ended it before its time. */
  readonly fault: () => string | undefined
  /** Runs an effect while no key is on its way. */
  readonly betweenMoves: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly rest: (on: boolean) => Effect.Effect<void>
}

/** Moves slots for the life of the scope. */
export const make = (cluster: RedisCluster.RedisCluster): Effect.Effect<Mover, never, Scope.Scope> =>
  Effect.gen(function* () {
    const turn = yield* Effect.makeSemaphore(1)
    let moves = 0
    let turns = 0
    let resting = false
    let fault: string | undefined
    const betweenMoves = turn.withPermits(1)
    /** One slot of the next of the masters that has keys. */
    const step = Effect.gen(function* () {
      if (resting) return
      const masters = [...new Set(yield* cluster.owners)]
      let from = 0
      let key: unknown
      for (let looks = 0; typeof key !== "string" && looks < masters.length; looks++) {
        from = masters[turns++ % masters.length] ?? 0
        key = yield* cluster.command(from, "RANDOMKEY")
      }
      if (typeof key !== "string") return
      const to = masters[(masters.indexOf(from) + 1 + (moves % (masters.length - 1))) % masters.length] ?? from
      const move = yield* cluster.startMove(yield* cluster.slotOf(key), to)
      // half of it is there: some keys are asked for at one node, some at the other
      yield* pause(moves % 3)
      yield* move.migrateKeys(1)
      yield* pause(moves % 3)
      yield* move.finish
      moves++
    })
    yield* Effect.forkScoped(
      Effect.forever(Effect.zipRight(betweenMoves(step), pause(1))).pipe(
        Effect.tapErrorCause((cause) =>
          Effect.sync(() => {
            if (!Cause.isInterruptedOnly(cause)) fault = Cause.pretty(cause)
          })
        )
      )
    )
    return {
      moves: () => moves,
      fault: () => fault,
      betweenMoves,
      rest: (on) =>
        betweenMoves(
          Effect.sync(() => {
            resting = on
          })
        )
    }
  })
