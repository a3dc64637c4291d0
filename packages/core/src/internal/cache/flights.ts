/**
 * Computations under way: one per key in this process, and by leases one per key everywhere. What was computed is kept
 * only while nobody has written or deleted its key meanwhile.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import type * as Option from "effect/Option"
import type { CacheError, Looked, WriteOptions } from "../../state/Cache.ts"
import type { Fill } from "./firstTier.ts"
import type { Entry, Kernel, Stamped } from "./kernel.ts"

export interface Flight<A> {
  readonly result: Deferred.Deferred<Exit.Exit<Option.Option<A>, unknown> | undefined>
  /** The key was deleted or written meanwhile: what is computed may be stale, so it is not kept. */
  outdated: boolean
  /** The lease that it has, or may have: asked for, and not known to have ended. */
  token: string | undefined
}

export const make = <A>(): Flight<A> => ({
  result: Deferred.unsafeMake(FiberId.none),
  outdated: false,
  token: undefined
})

/** Whose turn it is to compute: this flight's, nobody's in particular, or another's for some milliseconds. */
export type Turn =
  | { readonly _tag: "Mine" }
  | { readonly _tag: "Held"; readonly left: number }
  /** Waited in vain, or the backend cannot be reached: computed, and not kept. */
  | { readonly _tag: "Unkept" }

export interface View<A> {
  readonly entry: Entry<A> | undefined
  /** Undefined where there is an entry: nobody has asked for a turn. */
  readonly turn: Turn | undefined
}

export const mine: Turn = { _tag: "Mine" }
export const unkept: Turn = { _tag: "Unkept" }

/** How often a flight that waits for another looks again: where it is told, and where it cannot be. In milliseconds. */
const lookAgain = { told: 1_000, untold: 50 }

export interface Turns<A> {
  /** The entry, or else a turn. */
  readonly look: (key: string, flight: Flight<A>) => Effect.Effect<View<A>, CacheError>
  /** A turn, whether or not there is an entry. */
  readonly take: (key: string, flight: Flight<A>) => Effect.Effect<Turn, CacheError>
  /** Looks again whenever the other's lease ends, until there is an entry that is `wanted` or a turn. */
  readonly wait: (
    key: string,
    flight: Flight<A>,
    wanted: (entry: Entry<A>) => boolean
  ) => Effect.Effect<View<A>, CacheError>
  /** Gives the turn back. Never fails. */
  readonly release: (key: string, flight: Flight<A>) => Effect.Effect<void>
  /** Keeps what was computed, if the turn is still this flight's and nothing came between. */
  readonly keep: (
    key: string,
    flight: Flight<A>,
    value: Option.Option<A>,
    computed: {
      readonly write: WriteOptions | undefined
      readonly stamped: Stamped
      readonly took: number
      readonly fill: Fill | undefined
    }
  ) => Effect.Effect<void>
}

export const turns = <A>(kernel: Kernel<A>): Turns<A> => {
  const { accept, backend, counts, guard, prepare, settings, tier } = kernel
  const { lease, prefix, timed } = settings
  const leases = lease === undefined ? undefined : backend.leases

  const turnOf = (looked: Looked, flight: Flight<A>): Turn => {
    if (looked._tag === "Taken") return mine
    flight.token = undefined
    return looked._tag === "Held" ? { _tag: "Held", left: looked.left } : unkept
  }

  const take: Turns<A>["take"] = (key, flight) => {
    if (leases === undefined || lease === undefined) return Effect.succeed(mine)
    flight.token = kernel.newToken()
    return Effect.map(leases.take(prefix + key, flight.token, lease.ttl), (looked) => turnOf(looked, flight))
  }

  const look: Turns<A>["look"] = (key, flight) => {
    const orTake = (entry: Entry<A> | undefined): Effect.Effect<View<A>, CacheError> =>
      entry === undefined
        ? Effect.map(take(key, flight), (turn) => ({ entry, turn }))
        : Effect.succeed({ entry, turn: undefined })
    if (leases === undefined || lease === undefined) {
      return Effect.flatMap(
        Effect.flatMap(backend.get(prefix + key, timed), (found) => accept(key, found)),
        orTake
      )
    }
    const token = kernel.newToken()
    flight.token = token
    return Effect.flatMap(leases.getOrTake(prefix + key, token, lease.ttl), (looked) => {
      const turn = turnOf(looked, flight)
      return looked._tag === "Found"
        ? Effect.flatMap(accept(key, looked.found), orTake)
        : Effect.succeed({ entry: undefined, turn })
    })
  }

  const wait: Turns<A>["wait"] = (key, flight, wanted) => {
    if (leases === undefined || lease === undefined || lease.wait === 0) {
      return Effect.succeed({ entry: undefined, turn: unkept })
    }
    return Effect.scoped(
      Effect.gen(function* () {
        counts.awaited++
        const end = (yield* Clock.currentTimeMillis) + lease.wait
        let ended = Deferred.unsafeMake<void>(FiberId.none)
        const wake = (): void => Deferred.unsafeDone(ended, Effect.void)
        // where nobody can tell, it looks more often
        const told = yield* Effect.match(leases.watch(prefix + key, wake), {
          onFailure: () => false,
          onSuccess: () => true
        })
        while (true) {
          ended = Deferred.unsafeMake<void>(FiberId.none)
          const view = yield* look(key, flight)
          if (view.entry !== undefined && wanted(view.entry)) return view
          const turn = view.turn ?? (yield* take(key, flight))
          if (turn._tag !== "Held") return { entry: view.entry, turn }
          const left = end - (yield* Clock.currentTimeMillis)
          if (left <= 0) return { entry: view.entry, turn: unkept }
          const pause = Math.min(left, Math.max(1, turn.left), told ? lookAgain.told : lookAgain.untold)
          yield* Effect.raceFirst(Deferred.await(ended), Effect.sleep(pause))
        }
      })
    )
  }

  const release: Turns<A>["release"] = (key, flight) =>
    Effect.suspend(() => {
      const { token } = flight
      flight.token = undefined
      if (token === undefined || leases === undefined) return Effect.void
      return Effect.catchAll(leases.release(prefix + key, token), () =>
        Effect.sync(() => {
          counts.unreachable++
        })
      )
    })

  const keep: Turns<A>["keep"] = (key, flight, value, { fill, stamped, took, write }) =>
    guard(
      Effect.flatMap(prepare(key, value, write, stamped, took, "getOrElse"), ({ entry, fresh }) => {
        const { token } = flight
        // asked last of all, so that nothing comes between this and the write
        if (flight.outdated || (leases !== undefined && token === undefined)) {
          counts.outdated++
          return Effect.void
        }
        const written =
          leases === undefined || token === undefined
            ? Effect.as(backend.set(entry, kernel.by()), true)
            : leases.fill(entry, token, kernel.by())
        const own = tier?.beginWrite(key, fill)
        return Effect.onExit(
          Effect.flatMap(written, (held) => {
            flight.token = undefined
            if (!held) {
              counts.outdated++
              return Effect.void
            }
            counts.writes++
            if (tier === undefined) return Effect.void
            return Effect.map(Clock.currentTimeMillis, (now) =>
              tier.put(key, own, value, fresh, took, write?.tags ?? [], now)
            )
          }),
          (exit) =>
            Effect.sync(() => {
              if (exit._tag === "Failure") kernel.doubt()
              tier?.end(key, own)
            })
        )
      }),
      undefined
    )

  return { look, take, wait, release, keep }
}
