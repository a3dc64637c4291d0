/**
 * `getOrElse`: looks, and computes what is not there or no longer fresh, in the call or behind it.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import { ExpiringMap } from "../expiringMap.ts"
import type { Fill } from "./firstTier.ts"
import * as Flights from "./flights.ts"
import type { Entry, Kernel } from "./kernel.ts"
import type { CacheError, WriteOptions } from "./model.ts"

/** A computation of a key, as what may be absent. */
export type Compute<A, E, R> = Effect.Effect<Option.Option<A>, E, R>

/** What was begun to compute a key in the background. */
export interface Refresh<A> extends Flights.Seat<A> {
  readonly fill: Fill | undefined
}

export interface Loader<A> {
  readonly kernel: Kernel<A>
  readonly turns: Flights.Turns<A>
  readonly flights: Map<string, Flights.Flight<A>>
  /** The key was written or deleted: what is being computed for it is not kept. */
  readonly outdate: (key: string) => void
  readonly outdateAll: () => void
  /** The entry or what is computed, looked for behind the tier in this process. `absence`: that there is nothing counts. */
  readonly obtain: <E, R>(
    key: string,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    absence: boolean
  ) => Effect.Effect<Option.Option<A>, E, R>
  /** Whether it is time to compute an entry anew that is still fresh. */
  readonly isDue: (took: number, left: number) => Effect.Effect<boolean>
  /** Computes in the background, unless that is going on. `seen` is how fresh the entry was that gave the reason. */
  readonly refresh: <E, R>(
    key: string,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    seen: number
  ) => Effect.Effect<void, never, R>
  /** Begins the computation of a key in the background, unless one is going on or one failed a moment ago. */
  readonly beginRefresh: (key: string, now: number) => Refresh<A> | undefined
  /** Runs the work for these and ends them, in the background; a failure of the backend in it is counted. */
  readonly refreshing: <R>(
    begun: ReadonlyArray<Refresh<A>>,
    work: Effect.Effect<void, CacheError, R>
  ) => Effect.Effect<void, never, R>
  /** Whether what was found of a key is no fresher than it was when it gave the reason to compute it anew. */
  readonly isStillDue: (entry: Entry<A> | undefined, seen: number) => boolean
  /** Says of keys that their computation failed now. */
  readonly pause: (keys: ReadonlyArray<string>) => Effect.Effect<void>
  /** The old entry that may be served when a computation failed with this cause, looked for once more. */
  readonly grace: <E>(key: string, flight: Flights.Flight<A>, cause: Cause.Cause<E>) => Effect.Effect<Option.Option<A>>
  /** Whether an entry may be served although it is not fresh, without computing it now. */
  readonly isPaused: (key: string, entry: Entry<A>, now: number) => boolean
  /** In the background, until the backend ends. What may be interrupted there says so. */
  readonly fork: <B, E, R>(effect: Effect.Effect<B, E, R>) => Effect.Effect<void, never, R>
}

/** Keys whose computation failed a moment ago, at the most. */
const pausedKeys = 1_000

const notReached = Symbol("not reached")

/** Whether the key was looked for before its flight, and how that went. */
type Glanced = "not yet" | "missed" | "not reached"

const isWanted = <A>(entry: Entry<A>, absence: boolean): boolean =>
  entry.left > 0 && (absence || Option.isSome(entry.value))

export const make = <A>(kernel: Kernel<A>): Loader<A> => {
  const { accept, backend, counts, guard, settings, tier } = kernel
  const turns = Flights.turns(kernel)
  const flights = new Map<string, Flights.Flight<A>>()
  const inBackground = new Map<string, Flights.Flight<A>>()
  const paused = new ExpiringMap<true>(pausedKeys)

  const outdate = (key: string): void => {
    for (const running of [flights, inBackground]) {
      const flight = running.get(key)
      if (flight === undefined) continue
      flight.outdated = true
      running.delete(key)
    }
  }

  const outdateAll = (): void => {
    for (const key of [...flights.keys(), ...inBackground.keys()]) outdate(key)
  }

  const fork: Loader<A>["fork"] = (effect) => {
    // nobody waits for it, so nobody is told how it ended
    const quiet = Effect.exit(effect)
    return Effect.asVoid(backend.scope === undefined ? Effect.forkDaemon(quiet) : Effect.forkIn(quiet, backend.scope))
  }

  const isDue: Loader<A>["isDue"] = (took, left) =>
    settings.earlyRefresh === 0 || took === 0 || left === Number.POSITIVE_INFINITY
      ? Effect.succeed(false)
      : Effect.map(Random.next, (part) => took * settings.earlyRefresh * -Math.log(1 - part) >= left)

  const isInGrace = (entry: Entry<A>): boolean => Option.isSome(entry.value) && -entry.left < settings.graceFor

  const isPaused: Loader<A>["isPaused"] = (key, entry, now) => isInGrace(entry) && paused.get(key, now) === true

  const pause: Loader<A>["pause"] = (keys) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      if (settings.graceBackoff === 0) return
      for (const key of keys) paused.set(key, true, now + settings.graceBackoff, now)
    })

  const grace: Loader<A>["grace"] = (key, flight, cause) => {
    if (settings.graceFor === 0 || flight.outdated || Option.isNone(Cause.failureOption(cause))) {
      return Effect.succeed(Option.none())
    }
    return Effect.gen(function* () {
      // it may have been removed meanwhile, here or elsewhere: what was read before is not served
      const entry = yield* Effect.catchAll(
        Effect.flatMap(backend.get(settings.prefix + key, true), (found) => accept(key, found)),
        () =>
          Effect.sync(() => {
            counts.unreachable++
            return undefined
          })
      )
      if (entry === undefined || flight.outdated || !isInGrace(entry)) return Option.none()
      counts.graced++
      yield* pause([key])
      return entry.value
    })
  }

  const run = <E, R>(
    key: string,
    flight: Flights.Flight<A>,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    fill: Fill | undefined,
    kept: boolean
  ): Effect.Effect<Option.Option<A>, E, R> =>
    Effect.gen(function* () {
      counts.loads++
      // as they are before anything is read: a tag that is invalidated from now on makes this worthless
      const stamped = kept ? yield* guard(kernel.stamp(write, "getOrElse"), undefined) : undefined
      const started = yield* Clock.currentTimeMillis
      const value = yield* compute
      if (stamped === undefined) return value
      const took = Math.max(0, (yield* Clock.currentTimeMillis) - started)
      yield* turns.keep([{ key, flight, value, fill }], { write, stamped, took, method: "getOrElse" })
      return value
    })

  const beginRefresh: Loader<A>["beginRefresh"] = (key, now) => {
    if (inBackground.has(key) || paused.get(key, now) === true) return undefined
    const flight = Flights.make<A>()
    inBackground.set(key, flight)
    return { key, flight, fill: tier?.beginRead(key) }
  }

  const refreshing: Loader<A>["refreshing"] = (begun, work) =>
    fork(
      Effect.ensuring(
        Effect.interruptible(
          Effect.catchAll(work, () =>
            Effect.sync(() => {
              counts.unreachable++
            })
          )
        ),
        Effect.suspend(() => {
          for (const { fill, flight, key } of begun) {
            tier?.end(key, fill)
            if (inBackground.get(key) === flight) inBackground.delete(key)
          }
          return turns.release(begun)
        })
      )
    )

  const isStillDue: Loader<A>["isStillDue"] = (entry, seen) =>
    // removed meanwhile, or computed anew by another: what is the same has not much more time left than it had
    entry !== undefined && entry.left <= seen + Math.min(1_000, settings.ttl / 10)

  const refresh: Loader<A>["refresh"] = (key, compute, write, seen) =>
    // nothing comes between what is begun here and the fiber that ends it, which begins uninterruptible too
    Effect.uninterruptible(
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const begun = beginRefresh(key, now)
        if (begun === undefined) return Effect.void
        const work = Effect.gen(function* () {
          const turn = yield* turns.take(key, begun.flight)
          if (turn._tag !== "Mine") return
          const found = yield* backend.get(settings.prefix + key, true)
          if (!isStillDue(yield* accept(key, found), seen)) return
          counts.refreshes++
          const exit = yield* Effect.exit(run(key, begun.flight, compute, write, begun.fill, true))
          if (Exit.isSuccess(exit)) return
          counts.refreshFailures++
          yield* pause([key])
        })
        return refreshing([begun], work)
      })
    )

  /** A fresh entry: counted, kept in this process, and computed anew behind the call if it is time. */
  const serve = <E, R>(
    key: string,
    entry: Entry<A>,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    fill: Fill | undefined,
    now: number
  ): Effect.Effect<Option.Option<A>, never, R> => {
    counts.hits++
    if (Option.isNone(entry.value)) counts.negativeHits++
    tier?.put(key, fill, entry.value, entry.left, entry.took, entry.tags, now)
    if (settings.earlyRefresh === 0) return Effect.succeed(entry.value)
    return Effect.flatMap(isDue(entry.took, entry.left), (due) =>
      due ? Effect.as(refresh(key, compute, write, entry.left), entry.value) : Effect.succeed(entry.value)
    )
  }

  const load = <E, R>(
    key: string,
    flight: Flights.Flight<A>,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    absence: boolean,
    fill: Fill | undefined,
    glanced: Glanced
  ): Effect.Effect<Option.Option<A>, E, R> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const wanted = (entry: Entry<A>): boolean => isWanted(entry, absence)
      const looked: Effect.Effect<Flights.View<A> | typeof notReached> =
        glanced === "not reached"
          ? Effect.succeed(notReached)
          : guard(glanced === "missed" ? turns.lookOrTake(key, flight) : turns.look(key, flight), notReached)
      return Effect.flatMap(looked, (view) => {
        if (view === notReached) {
          counts.misses++
          return run(key, flight, compute, write, fill, false)
        }
        const { entry } = view
        if (entry !== undefined && wanted(entry)) return serve(key, entry, compute, write, fill, now)
        if (entry !== undefined && Option.isSome(entry.value)) {
          const behind = -entry.left < settings.staleFor
          if (behind || isPaused(key, entry, now)) {
            counts.hits++
            if (behind) counts.stale++
            else counts.graced++
            return Effect.as(behind ? refresh(key, compute, write, entry.left) : Effect.void, entry.value)
          }
        }
        counts.misses++
        return Effect.gen(function* () {
          let turn = view.turn ?? (yield* guard(turns.take(key, flight), Flights.unkept))
          if (turn._tag === "Held") {
            const later = yield* guard(turns.wait(key, flight, wanted), { entry: undefined, turn: Flights.unkept })
            if (later.entry !== undefined && wanted(later.entry)) {
              tier?.put(key, fill, later.entry.value, later.entry.left, later.entry.took, later.entry.tags, now)
              return later.entry.value
            }
            turn = later.turn ?? Flights.unkept
          }
          return yield* Effect.catchAllCause(
            run(key, flight, compute, write, fill, turn._tag === "Mine"),
            (cause): Effect.Effect<Option.Option<A>, E> =>
              entry === undefined || !isInGrace(entry)
                ? Effect.failCause(cause)
                : Effect.flatMap(grace(key, flight, cause), (old) =>
                    Option.isSome(old) ? Effect.succeed(old) : Effect.failCause(cause)
                  )
          )
        })
      })
    })

  /**
   * A hit needs no flight, no turn and no tier: it is looked for first. What is not there, or not as it is wanted, is
   * looked for once more by the one flight of the key.
   */
  const obtain: Loader<A>["obtain"] = <E, R>(
    key: string,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    absence: boolean
  ): Effect.Effect<Option.Option<A>, E, R> => {
    if (tier !== undefined) return fly(key, compute, write, absence, "not yet")
    return Effect.suspend(() => {
      if (flights.has(key)) return fly(key, compute, write, absence, "not yet")
      const after = (entry: Entry<A> | undefined | typeof notReached): Effect.Effect<Option.Option<A>, E, R> => {
        if (entry === notReached) return fly(key, compute, write, absence, "not reached")
        return entry !== undefined && isWanted(entry, absence)
          ? serve(key, entry, compute, write, undefined, 0)
          : fly(key, compute, write, absence, entry === undefined ? "missed" : "not yet")
      }
      // nothing but what is needed stands between a hit and its caller: this is what most calls are
      return Effect.matchEffect(backend.get(settings.prefix + key, settings.timed), {
        onFailure: (error) => Effect.flatMap(guard(Effect.fail(error), notReached), after),
        onSuccess: (found) => {
          if (found === undefined) return after(undefined)
          const parsed = kernel.parse(found)
          return typeof parsed === "object" && parsed.stamps === undefined
            ? after(parsed.entry)
            : Effect.flatMap(guard(kernel.settle(key, parsed), notReached), after)
        }
      })
    })
  }

  const fly = <E, R>(
    key: string,
    compute: Compute<A, E, R>,
    write: WriteOptions | undefined,
    absence: boolean,
    glanced: Glanced
  ): Effect.Effect<Option.Option<A>, E, R> =>
    // Looking, setting and seeing to the end are one step: an interruption between them would strand a flight for ever.
    Effect.uninterruptibleMask((restore) => {
      const running = flights.get(key)
      if (running !== undefined) {
        counts.joined++
        return Effect.flatMap(restore(Deferred.await(running.result)), (exit) =>
          // the call that ran it was interrupted, or found nothing where this one can compute: it is this one's turn, or
          // another waiting one's
          exit === undefined || (!absence && Exit.isSuccess(exit) && Option.isNone(exit.value))
            ? restore(obtain(key, compute, write, absence))
            : (exit as Exit.Exit<Option.Option<A>, E>)
        )
      }
      const flight = Flights.make<A>()
      const fill = tier?.beginRead(key)
      flights.set(key, flight)
      return Effect.onExit(restore(load(key, flight, compute, write, absence, fill, glanced)), (exit) => {
        tier?.end(key, fill)
        if (flights.get(key) === flight) flights.delete(key)
        const abandoned = Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
        const settled = Deferred.succeed(flight.result, abandoned ? undefined : exit)
        if (flight.token === undefined) return settled
        const release = turns.release([{ key, flight }])
        // whoever waits in this process would only meet the lease; who was interrupted, and a caller with a result, do not
        // wait for it to end: that can take as long as the backend may
        if (abandoned) return fork(Effect.ensuring(release, settled))
        return Effect.zipRight(settled, Exit.isSuccess(exit) ? fork(release) : release)
      })
    })

  return {
    kernel,
    turns,
    flights,
    outdate,
    outdateAll,
    obtain,
    isDue,
    refresh,
    beginRefresh,
    refreshing,
    isStillDue,
    pause,
    grace,
    isPaused,
    fork
  }
}
