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
import type { Fill } from "./firstTier.ts"
import type { Entry, Kernel, Prepared, Stamped } from "./kernel.ts"
import type { CacheError, Found, Looked, WriteOptions } from "./model.ts"

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
  /** The entry, or else a turn: for who has not looked yet, and asks for no turn unless there is nothing. */
  readonly look: (key: string, flight: Flight<A>) => Effect.Effect<View<A>, CacheError>
  /** The same in one step: for who has reason to think that there is nothing. */
  readonly lookOrTake: (key: string, flight: Flight<A>) => Effect.Effect<View<A>, CacheError>
  /** A turn, whether or not there is an entry. */
  readonly take: (key: string, flight: Flight<A>) => Effect.Effect<Turn, CacheError>
  /** Looks again whenever the other's lease ends, until there is an entry that is `wanted` or a turn. */
  readonly wait: (
    key: string,
    flight: Flight<A>,
    wanted: (entry: Entry<A>) => boolean
  ) => Effect.Effect<View<A>, CacheError>
  /** Turns of several keys at once; all of them are asked for under one token. */
  readonly takeMany: (seats: ReadonlyArray<Seat<A>>) => Effect.Effect<ReadonlyArray<Turn>, CacheError>
  /** Gives back the turns that are had or may be. Never fails. */
  readonly release: (seats: ReadonlyArray<Seat<A>>) => Effect.Effect<void>
  /** Keeps what was computed, where the turn is still the flight's and nothing came between. */
  readonly keep: (
    computed: ReadonlyArray<Computed<A>>,
    how: {
      readonly write: WriteOptions | undefined
      readonly stamped: Stamped
      readonly took: number
      readonly method: string
    }
  ) => Effect.Effect<void>
}

/** A flight and its key. */
export interface Seat<A> {
  readonly key: string
  readonly flight: Flight<A>
}

/** What a flight computed, and what it began in the tier in this process before it did. */
export interface Computed<A> extends Seat<A> {
  readonly value: Option.Option<A>
  readonly fill: Fill | undefined
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

  const takeMany: Turns<A>["takeMany"] = (seats) => {
    if (leases === undefined || lease === undefined) return Effect.succeed(seats.map(() => mine))
    const token = kernel.newToken()
    for (const { flight } of seats) flight.token = token
    const keys = seats.map(({ key }) => prefix + key)
    return Effect.map(leases.take(keys, token, lease.ttl), (looked) =>
      seats.map(({ flight }, index) => turnOf(looked[index] ?? { _tag: "Held", left: 0 }, flight))
    )
  }

  const take: Turns<A>["take"] = (key, flight) => Effect.map(takeMany([{ key, flight }]), ([turn]) => turn ?? unkept)

  const viewOf = (
    key: string,
    flight: Flight<A>,
    found: Exclude<Found, undefined>
  ): Effect.Effect<View<A>, CacheError> =>
    Effect.flatMap(
      accept(key, found),
      (entry): Effect.Effect<View<A>, CacheError> =>
        entry === undefined
          ? Effect.map(take(key, flight), (turn) => ({ entry, turn }))
          : Effect.succeed({ entry, turn: undefined })
    )

  const look: Turns<A>["look"] = (key, flight) =>
    Effect.flatMap(backend.get(prefix + key, timed), (found) =>
      found !== undefined
        ? viewOf(key, flight, found)
        : leases === undefined
          ? Effect.succeed({ entry: undefined, turn: mine })
          : lookOrTake(key, flight)
    )

  const lookOrTake: Turns<A>["lookOrTake"] = (key, flight) => {
    if (leases === undefined || lease === undefined) return look(key, flight)
    const token = kernel.newToken()
    flight.token = token
    return Effect.flatMap(leases.getOrTake(prefix + key, token, lease.ttl), (looked) => {
      const turn = turnOf(looked, flight)
      return looked._tag === "Found" ? viewOf(key, flight, looked.found) : Effect.succeed({ entry: undefined, turn })
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
          const view = yield* lookOrTake(key, flight)
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

  const release: Turns<A>["release"] = (seats) =>
    Effect.suspend(() => {
      // flights that were asked for together have one token
      const byToken = new Map<string, Array<string>>()
      for (const { flight, key } of seats) {
        const { token } = flight
        flight.token = undefined
        if (token !== undefined) byToken.set(token, [...(byToken.get(token) ?? []), prefix + key])
      }
      if (leases === undefined || byToken.size === 0) return Effect.void
      return Effect.forEach(
        byToken,
        ([token, keys]) =>
          Effect.catchAll(leases.release(keys, token), () =>
            Effect.sync(() => {
              counts.unreachable++
            })
          ),
        { discard: true }
      )
    })

  const write = (
    ready: ReadonlyArray<Computed<A> & { readonly prepared: Prepared }>,
    token: string | undefined,
    took: number,
    tags: ReadonlyArray<string>
  ): Effect.Effect<void, CacheError> =>
    // begun and ended in one step: an interruption between them would strand what was begun
    Effect.uninterruptibleMask((restore) => {
      const entries = ready.map(({ prepared }) => prepared.entry)
      const own = ready.map(({ fill, key }) => tier?.beginWrite(key, fill ?? null))
      const written: Effect.Effect<ReadonlyArray<boolean>, CacheError> = leases === undefined || token === undefined
        ? Effect.as(
            backend.setMany(entries, kernel.by()),
            entries.map(() => true)
          )
        : leases.fill(entries, token, kernel.by())
      return Effect.onExit(
        restore(
          Effect.flatMap(written, (held) =>
            Effect.map(Clock.currentTimeMillis, (now) => {
              for (const [index, { flight, key, prepared, value }] of ready.entries()) {
                flight.token = undefined
                if (held[index] === true) {
                  counts.writes++
                  tier?.put(key, own[index], value, prepared.fresh, took, tags, now)
                } else counts.outdated++
              }
            })
          )
        ),
        (exit) =>
          Effect.sync(() => {
            if (exit._tag === "Failure") kernel.doubt()
            for (const [index, { key }] of ready.entries()) tier?.end(key, own[index])
          })
      )
    })

  const keep: Turns<A>["keep"] = (computed, { method, stamped, took, write: how }) =>
    guard(
      Effect.flatMap(
        Effect.forEach(computed, (one) =>
          Effect.map(prepare(one.key, one.value, how, stamped, took, method), (prepared) => ({ ...one, prepared }))
        ),
        (all) => {
          const token = all[0]?.flight.token
          // asked last of all, so that nothing comes between this and the write
          const ready = all.filter(
            ({ flight }) => !flight.outdated && flight.token === token && (leases === undefined || token !== undefined)
          )
          counts.outdated += all.length - ready.length
          return ready.length === 0 ? Effect.void : write(ready, token, took, how?.tags ?? [])
        }
      ),
      undefined
    )

  return { look, lookOrTake, take, takeMany, wait, release, keep }
}
