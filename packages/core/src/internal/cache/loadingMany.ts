/**
 * `getOrElseMany`: one computation for all that is missing.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Flights from "./flights.ts"
import type { Entry } from "./kernel.ts"
import type { Loader, Refresh } from "./loading.ts"
import type { CacheError, WriteOptions } from "./model.ts"

/** The computation of several keys: what it does not give does not exist. */
export type LoadMany<A, E, R> = (
  missing: ReadonlyArray<string>
) => Effect.Effect<Iterable<readonly [key: string, value: A]>, E, R>

type Seat<A> = Refresh<A>

export const make = <A>(
  loader: Loader<A>
): (<E, R>(
  keys: ReadonlyArray<string>,
  load: LoadMany<A, E, R>,
  write: WriteOptions | undefined
) => Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R>) => {
  const { flights, kernel, turns } = loader
  const { acceptMany, backend, counts, guard, settings, tier } = kernel

  /** Those of the keys whose turn it is. */
  const takeTurns = (seats: ReadonlyArray<Seat<A>>): Effect.Effect<ReadonlyArray<Seat<A>>, CacheError> =>
    Effect.map(turns.takeMany(seats), (taken) => seats.filter((_, index) => taken[index]?._tag === "Mine"))

  /** Computes all of them, and keeps those whose turn it is. */
  const compute = <E, R>(
    seats: ReadonlyArray<Seat<A>>,
    mine: ReadonlyArray<Seat<A>>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined
  ): Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R> =>
    Effect.gen(function* () {
      counts.loads++
      const stamped = mine.length > 0 ? yield* guard(kernel.stamp(write, "getOrElseMany"), undefined) : undefined
      const started = yield* Clock.currentTimeMillis
      const given = new Map(yield* load(seats.map(({ key }) => key)))
      const took = Math.max(0, (yield* Clock.currentTimeMillis) - started)
      const values = new Map<string, Option.Option<A>>()
      for (const { key } of seats) {
        const value = given.get(key)
        values.set(key, value === undefined && !given.has(key) ? Option.none() : Option.some(value as A))
      }
      if (stamped !== undefined) {
        const computed = mine.map((seat) => ({ ...seat, value: values.get(seat.key) ?? Option.none() }))
        yield* turns.keep(computed, { write, stamped, took, method: "getOrElseMany" })
      }
      return values
    })

  /** One computation behind the call for all that is due and not being computed. */
  const refresh = <E, R>(
    seen: ReadonlyMap<string, number>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined
  ): Effect.Effect<void, never, R> =>
    // nothing comes between what is begun here and the fiber that ends it, which begins uninterruptible too
    Effect.uninterruptible(
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const begun: Array<Seat<A>> = []
        for (const key of seen.keys()) {
          const one = loader.beginRefresh(key, now)
          if (one !== undefined) begun.push(one)
        }
        if (begun.length === 0) return Effect.void
        const work = Effect.gen(function* () {
          const mine = yield* takeTurns(begun)
          if (mine.length === 0) return
          const keys = mine.map(({ key }) => key)
          const found = yield* backend.getMany(
            keys.map((key) => settings.prefix + key),
            true
          )
          const entries = yield* acceptMany(keys, found)
          const due = mine.filter(({ key }, index) =>
            loader.isStillDue(entries[index], seen.get(key) ?? Number.NEGATIVE_INFINITY)
          )
          if (due.length === 0) return
          counts.refreshes++
          const exit = yield* Effect.exit(compute(due, due, load, write))
          if (Exit.isSuccess(exit)) return
          counts.refreshFailures++
          yield* loader.pause(due.map(({ key }) => key))
        })
        return loader.refreshing(begun, work)
      })
    )

  const run = <E, R>(
    seats: ReadonlyArray<Seat<A>>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined
  ): Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R> =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const keys = seats.map(({ key }) => key)
      const found = yield* guard(
        Effect.flatMap(
          backend.getMany(
            keys.map((key) => settings.prefix + key),
            settings.timed
          ),
          (all) => acceptMany(keys, all)
        ),
        undefined
      )
      const values = new Map<string, Option.Option<A>>()
      const missing: Array<Seat<A>> = []
      const behind = new Map<string, number>()
      const old: Array<Entry<A>> = []
      for (const [index, seat] of seats.entries()) {
        const { fill, key } = seat
        const entry = found?.[index]
        if (entry === undefined || (entry.left <= 0 && Option.isNone(entry.value))) {
          missing.push(seat)
          continue
        }
        const isBehind = entry.left <= 0 && -entry.left < settings.staleFor
        if (entry.left > 0) {
          tier?.put(key, fill, entry.value, entry.left, entry.took, entry.tags, now)
          if (Option.isNone(entry.value)) counts.negativeHits++
          if (yield* loader.isDue(entry.took, entry.left)) behind.set(key, entry.left)
        } else if (isBehind) {
          counts.stale++
          behind.set(key, entry.left)
        } else if (loader.isPaused(key, entry, now)) counts.graced++
        else {
          missing.push(seat)
          old.push(entry)
          continue
        }
        counts.hits++
        values.set(key, entry.value)
      }
      if (behind.size > 0) yield* refresh(behind, load, write)
      if (missing.length === 0) return values
      counts.misses += missing.length
      const mine = found === undefined ? [] : yield* guard(takeTurns(missing), [])
      const computed = yield* Effect.catchAllCause(
        compute(missing, mine, load, write),
        (cause): Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E> => {
          // old entries stand in for the failure only if there is one for each key
          if (old.length < missing.length) return Effect.failCause(cause)
          return Effect.flatMap(
            Effect.forEach(missing, ({ flight, key }) =>
              Effect.map(loader.grace(key, flight, cause), (value) => [key, value] as const)
            ),
            (graced) =>
              graced.every(([, value]) => Option.isSome(value))
                ? Effect.succeed(new Map(graced))
                : Effect.failCause(cause)
          )
        }
      )
      for (const [key, value] of computed) values.set(key, value)
      return values
    })

  const obtainMany = <E, R>(
    keys: ReadonlyArray<string>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined
  ): Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R> =>
    Effect.uninterruptibleMask((restore) => {
      const seats: Array<Seat<A>> = []
      const joined: Array<readonly [key: string, flight: Flights.Flight<A>]> = []
      for (const key of new Set(keys)) {
        const running = flights.get(key)
        if (running !== undefined) {
          counts.joined++
          joined.push([key, running])
          continue
        }
        const seat: Seat<A> = { key, flight: Flights.make(), fill: tier?.beginRead(key) }
        flights.set(key, seat.flight)
        seats.push(seat)
      }
      const own =
        seats.length === 0
          ? Effect.succeed<ReadonlyMap<string, Option.Option<A>>>(new Map())
          : Effect.onExit(restore(run(seats, load, write)), (exit) => {
              const abandoned = Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
              for (const { fill, flight, key } of seats) {
                tier?.end(key, fill)
                if (flights.get(key) === flight) flights.delete(key)
              }
              const settled = Effect.sync(() => {
                for (const { flight, key } of seats) {
                  const result = Exit.map(exit, (values) => values.get(key) ?? Option.none<A>())
                  Deferred.unsafeDone(flight.result, Effect.succeed(abandoned ? undefined : result))
                }
              })
              if (seats.every(({ flight }) => flight.token === undefined)) return settled
              if (abandoned) return loader.fork(Effect.ensuring(turns.release(seats), settled))
              return Effect.zipRight(
                settled,
                Exit.isSuccess(exit) ? loader.fork(turns.release(seats)) : turns.release(seats)
              )
            })
      if (joined.length === 0) return own
      return Effect.flatMap(own, (values) =>
        restore(
          Effect.gen(function* () {
            const all = new Map(values)
            const again: Array<string> = []
            for (const [key, flight] of joined) {
              const exit = yield* Deferred.await(flight.result)
              if (exit === undefined) again.push(key)
              else all.set(key, yield* exit as Exit.Exit<Option.Option<A>, E>)
            }
            // the calls that computed these were interrupted
            if (again.length > 0) for (const [key, value] of yield* obtainMany(again, load, write)) all.set(key, value)
            return all
          })
        )
      )
    })

  return obtainMany
}
