/**
 * `getOrElseMany`: one computation for all that is missing.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { Fill } from "./firstTier.ts"
import * as Flights from "./flights.ts"
import type { Entry } from "./kernel.ts"
import type { Loader } from "./loading.ts"
import type { WriteOptions } from "./model.ts"

/** The computation of several keys: what it does not give does not exist. */
export type LoadMany<A, E, R> = (
  missing: ReadonlyArray<string>
) => Effect.Effect<Iterable<readonly [key: string, value: A]>, E, R>

interface Seat<A> extends Flights.Seat<A> {
  readonly fill: Fill | undefined
}

export const make = <A>(
  loader: Loader<A>
): (<E, R>(
  keys: ReadonlyArray<string>,
  load: LoadMany<A, E, R>,
  write: WriteOptions | undefined
) => Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R>) => {
  const { flights, kernel, turns } = loader
  const { acceptMany, backend, counts, guard, settings, tier } = kernel

  const compute = <E, R>(
    seats: ReadonlyArray<Seat<A>>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined,
    turnsAsked: boolean
  ): Effect.Effect<ReadonlyMap<string, Option.Option<A>>, E, R> =>
    Effect.gen(function* () {
      counts.loads++
      const mine = new Set<Seat<A>>()
      if (turnsAsked) {
        const taken = yield* guard(turns.takeMany(seats), [])
        for (const [index, seat] of seats.entries()) if (taken[index]?._tag === "Mine") mine.add(seat)
      }
      const stamped = mine.size > 0 ? yield* guard(kernel.stamp(write, "getOrElseMany"), undefined) : undefined
      const started = yield* Clock.currentTimeMillis
      const given = new Map(yield* load(seats.map(({ key }) => key)))
      const took = Math.max(0, (yield* Clock.currentTimeMillis) - started)
      const values = new Map<string, Option.Option<A>>()
      for (const { key } of seats) {
        const value = given.get(key)
        values.set(key, value === undefined && !given.has(key) ? Option.none() : Option.some(value as A))
      }
      if (stamped !== undefined) {
        const computed = [...mine].map((seat) => ({ ...seat, value: values.get(seat.key) ?? Option.none() }))
        yield* turns.keep(computed, { write, stamped, took, method: "getOrElseMany" })
      }
      return values
    })

  /** One computation behind the call for all that is served although it is not fresh. */
  const refresh = <E, R>(
    keys: ReadonlyArray<string>,
    load: LoadMany<A, E, R>,
    write: WriteOptions | undefined
  ): Effect.Effect<void, never, R> => {
    const work = Effect.suspend(() => {
      const seats = keys.map((key): Seat<A> => ({ key, flight: Flights.make(), fill: tier?.beginRead(key) }))
      counts.refreshes++
      return Effect.ensuring(
        Effect.interruptible(
          Effect.tapErrorCause(compute(seats, load, write, true), () =>
            Effect.sync(() => {
              counts.refreshFailures++
            })
          )
        ),
        Effect.suspend(() => {
          for (const { fill, key } of seats) tier?.end(key, fill)
          return turns.release(seats)
        })
      )
    })
    return Effect.uninterruptible(loader.fork(work))
  }

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
      const behind: Array<string> = []
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
          if (yield* loader.isDue(entry.took, entry.left)) behind.push(key)
        } else if (isBehind) {
          counts.stale++
          behind.push(key)
        } else if (loader.isPaused(key, entry, now)) counts.graced++
        else {
          missing.push(seat)
          old.push(entry)
          continue
        }
        counts.hits++
        values.set(key, entry.value)
      }
      if (behind.length > 0) yield* refresh(behind, load, write)
      if (missing.length === 0) return values
      counts.misses += missing.length
      const computed = yield* Effect.catchAllCause(
        compute(missing, load, write, found !== undefined),
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
              if (abandoned) return Effect.zipRight(turns.release(seats), settled)
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
