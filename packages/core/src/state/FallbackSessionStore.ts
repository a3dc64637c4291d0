/**
 * A session store that goes on while its store is away: sessions that this process knows live in its memory then, within
 * bounds, and what was done to them is done to the store when it is back. Nothing that was acknowledged is lost without
 * being told.
 *
 * What holds, and for whom. This process reads what it wrote, before, during and after an outage. What the store has when
 * it is back wins over what was kept, unless nobody changed it meanwhile (compare-and-set), and what was deleted in either
 * place is dead: no session comes back. Deletions made meanwhile always win. Each process keeps its own: while the store
 * is away from several, none sees what the others do, a session that was deleted in one goes on in another that knows it
 * until the store is back, and of two that changed the same session the first to come back wins. What is kept dies with
 * the process.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Broadcast from "../internal/broadcast.ts"
import * as Keeping from "../internal/sessions/kept.ts"
import * as Replay from "../internal/sessions/replay.ts"
import * as Ttl from "../internal/ttl.ts"
import type { SessionEvent } from "./SessionEvents.ts"
import * as SessionStore from "./SessionStore.ts"

/**
 * Where sessions are: in the store (`store`); in memory, for the store is away (`fallback`); or in the store, with changes
 * in memory that are still to be made there (`replaying`).
 *
 * @since 0.1.0
 * @category models
 */
export type Mode = "store" | "fallback" | "replaying"

/**
 * Why a change that was acknowledged is not in the store.
 *
 * - `conflict`: the store has another version by now, or another session under that id.
 * - `deleted`: the session was deleted in the store meanwhile.
 * - `absent`: the session is in the store no more: it expired there, or was deleted longer ago than tombstones last.
 * - `uncertain`: a session that may have been written when the store went away is not there, and it went away too long
 *   ago to know that nobody deleted it.
 * - `limit`: its owner has as many sessions as are allowed.
 * - `refused`: the store would not take it.
 * - `closed`: the program ended before the store was back.
 *
 * @since 0.1.0
 * @category models
 */
export type Why = Replay.Why

/**
 * A change that is not in the store. `change` is what was to be done: a session was written (or moved to this id),
 * prolonged or deleted, or all sessions of an owner were (`signed-out`; `id` is the owner's then).
 *
 * @since 0.1.0
 * @category models
 */
export interface Loss {
  readonly id: string
  readonly owner?: string
  readonly change: "written" | "prolonged" | "deleted" | "signed-out"
  readonly why: Why
}

/**
 * What came of an outage: from when (`since`) to when (`until`, milliseconds since 1970), how many changes were kept, a
 * session counting once however often it was changed, and what became of them: made in the store (`replayed`), of
 * sessions whose time ran out meanwhile (`expired`), or given up (`dropped`). `losses` says which, the first 10,000 of
 * them. `closed`: the program ended before the store was back.
 *
 * @since 0.1.0
 * @category models
 */
export interface Report {
  readonly since: number
  readonly until: number
  readonly kept: number
  readonly replayed: number
  readonly expired: number
  readonly dropped: number
  readonly losses: ReadonlyArray<Loss>
  readonly closed: boolean
}

/**
 * How it stands: changes that are kept, sessions that are remembered without a change, the bytes of both, outages since
 * the store was made, and their changes that are in the store, expired or given up by now.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly mode: Mode
  readonly kept: number
  readonly remembered: number
  readonly bytes: number
  readonly outages: number
  readonly replayed: number
  readonly expired: number
  readonly dropped: number
}

/**
 * A session of which both this process and the store have a version of their own. `base` is what both began with, where
 * that is known.
 *
 * @since 0.1.0
 * @category models
 */
export type Conflict = Replay.Conflict

/**
 * Options: those of the store that it stands before, which the fallback heeds as well, and its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Omit<SessionStore.Options, "onCorrupt"> {
  /**
   * How many changes are kept at most. One more is refused as `Unavailable`: nothing that was acknowledged gives way.
   * Default: 10,000.
   */
  readonly capacity?: number | undefined
  /** How many bytes ids and texts take at most, of what is kept and of what is remembered. Default: 64 MiB. */
  readonly maxBytes?: number | undefined
  /**
   * How many sessions that this process read or wrote are remembered while the store is there, to be served when it is
   * away. 0 remembers none. Default: 10,000.
   */
  readonly recent?: number | undefined
  /**
   * How long what was read or written counts: a session that another process deleted can go on here for so long after it
   * was seen last, and, once it is changed here, until the store is back. Default: 5 minutes.
   */
  readonly recentFor?: Duration.DurationInput | undefined
  /**
   * What a session is that this process does not know while the store is away: a failure (`Unavailable`, the default), or
   * `none`, as if there were no such session. `sessionsOf` fails, or lists those that are known. Sessions can be created
   * and deleted either way; a deletion counts what is known.
   */
  readonly unknown?: "fail" | "none" | undefined
  /**
   * What is written where the store has another version of a session than the one that this process changed: the session
   * that it gives, or for undefined what the store has (the default). It must not have effects, for it may run more than
   * once.
   */
  readonly onConflict?: ((conflict: Conflict) => SessionStore.Session | undefined) | undefined
  /**
   * The pauses between attempts to reach the store again. Default: 50 milliseconds, twice as long each time up to half a
   * second, with jitter.
   */
  readonly probe?: Schedule.Schedule<unknown> | undefined
  /**
   * How long closing takes at most while changes are kept: once more the store is tried. What is not in it then is
   * reported as dropped; `onReport` has as long again. Default: 300 milliseconds.
   */
  readonly closeWithin?: Duration.DurationInput | undefined
  /**
   * Is given every report, that of closing too, where nobody listens to `reports` any more. Nothing waits for it but
   * closing, for as long as `closeWithin`; then it is interrupted.
   */
  readonly onReport?: ((report: Report) => Effect.Effect<void>) | undefined
}

/**
 * The store, and how it stands.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  readonly store: SessionStore.Service
  readonly mode: Effect.Effect<Mode>
  readonly stats: Effect.Effect<Stats>
  readonly lastReport: Effect.Effect<Option.Option<Report>>
  /** The report of every outage that ends from now on. Does not end. */
  readonly reports: Stream.Stream<Report>
}

/**
 * The fallback of an application's session store.
 *
 * @since 0.1.0
 * @category tags
 */
export class FallbackSessionStore extends Context.Tag("@underlay/core/FallbackSessionStore")<
  FallbackSessionStore,
  Service
>() {}

/**
 * A layer over the application's session store.
 *
 * ```ts
 * const Sessions = FallbackSessionStore.layer().pipe(Layer.provide(RedisSessionStore.layer()))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<
  SessionStore.SessionStore | FallbackSessionStore,
  SessionStore.SessionStoreError,
  SessionStore.SessionStore
> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(SessionStore.SessionStore, (store) => make(store, options)),
      (fallback) =>
        Context.make(FallbackSessionStore, fallback).pipe(Context.add(SessionStore.SessionStore, fallback.store))
    )
  )

/** A failure of the store that says that it is away. */
const isAway = (error: SessionStore.SessionStoreError): boolean =>
  error.reason === "Unavailable" || error.reason === "Timeout"

/** An operation in its two places. */
interface Operation<A> {
  /** The sessions that it is about; none where it is about those of an owner. */
  readonly ids: ReadonlyArray<string>
  /** Whether what is known of its sessions counts no more once it is sent. */
  readonly writes: boolean
  readonly inStore: Effect.Effect<A, SessionStore.SessionStoreError>
  readonly inMemory: Effect.Effect<A, SessionStore.SessionStoreError>
  /**
   * What is known now that the store did it. `began` is the place of its beginning among all writes, `seen` what was known
   * of the sessions that it wrote.
   */
  readonly done: (result: A, now: number, began: number, seen: ReadonlyArray<Keeping.Seen | undefined>) => void
  /** What it is where the store failed; by default what it is in memory. */
  readonly failed?:
    | ((
        error: SessionStore.SessionStoreError,
        now: number,
        seen: ReadonlyArray<Keeping.Seen | undefined>
      ) => Effect.Effect<A, SessionStore.SessionStoreError>)
    | undefined
}

/** Changes that are replayed at the same time. */
const concurrency = 16

/** How often a store that is there may refuse a change before it is given up. */
const patience = 5

/** How often a sign-out looks for sessions that were rotated while it was under way. */
const signOutRounds = 8

/** What a report names. */
const reportedLosses = 10_000

/** An id that a session store may be asked for without meaning anything. */
const probed = "fallback-probe"

const defaultProbe = Schedule.exponential("50 millis").pipe(
  Schedule.modifyDelay((_, delay) => Duration.min(delay, Duration.millis(500))),
  Schedule.jittered
)

/**
 * The store with its fallback, as a value. It is away when it fails as `Unavailable` or `Timeout`; all other failures are
 * answers. An operation that fails so is done in memory at once; of a write whose outcome is unknown both cases are
 * provided for. `cleanUp` is done in the store alone. Fails with `InvalidOptions` or `InvalidTtl` on options that cannot
 * be. Closing the scope ends its one fiber and tries, within `closeWithin`, to bring what is kept into the store.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  primary: SessionStore.Service,
  options: Options = {}
): Effect.Effect<Service, SessionStore.SessionStoreError, Scope.Scope> =>
  Effect.gen(function* () {
    const absolute = yield* SessionStore.absoluteTtlOf(options)
    const { evicts, limit } = yield* SessionStore.limitOf(options)
    const defaultTtl = yield* timeOf("defaultTtl", options.defaultTtl ?? "30 minutes")
    const tombstone = yield* timeOf("tombstone", options.tombstone ?? "60 seconds")
    const recentFor = yield* timeOf("recentFor", options.recentFor ?? "5 minutes")
    const closeWithin = yield* timeOf("closeWithin", options.closeWithin ?? "300 millis")
    const kept = Keeping.make({
      absolute,
      evicts,
      limit,
      defaultTtl,
      tombstone,
      recentFor,
      capacity: yield* countOf("capacity", options.capacity ?? 10_000, 1),
      maxBytes: yield* countOf("maxBytes", options.maxBytes ?? 64 * 1_024 * 1_024, 1),
      recent: yield* countOf("recent", options.recent ?? 10_000, 0),
      unknown: options.unknown ?? "fail"
    })
    const memory = yield* SessionStore.make(kept.backend, { ...options, onCorrupt: "none" })
    const touchWhen = options.touchWhen ?? 0.05
    const policy = options.adaptiveTtl
    const hub = Broadcast.make<SessionEvent>()
    const reports = Broadcast.make<Report>()
    const { changes, revoked } = kept

    // plain mutable state: every operation looks at it
    let mode: Mode = "store"
    let isClosed = false
    let since = 0
    let outages = 0
    let outage = noCounts
    let losses: Array<Loss> = []
    let total = noCounts
    let lastReport: Option.Option<Report> = Option.none()
    /** Of an outage that has just begun: whether the store is away at all is not known before the first probe. */
    let verdict: Gate | undefined
    /** While changes are replayed: the end of that. */
    let settled: Gate | undefined
    /** Open while there is something to do for the one fiber. */
    const work = yield* Effect.makeLatch(false)

    const down = (now: number): void => {
      if (isClosed || mode === "fallback") return
      if (mode === "store") {
        since = now
        outages++
        quietly.clear()
        if (hub.isActive()) hub.emit({ _tag: "FallbackSwitched", to: "fallback", at: now })
        // while changes are replayed the next probe may be a pause away
        verdict = makeGate()
      }
      mode = "fallback"
      work.unsafeOpen()
    }

    /** Something was kept after the store was back: it is to be replayed, too. */
    const straggler = (now: number): void => {
      if (isClosed || mode !== "store" || kept.pending() === 0) return
      mode = "replaying"
      since = now
      settled = makeGate()
      work.unsafeOpen()
    }

    // ---- operations ----

    const run = <A>(operation: Operation<A>): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.suspend(() => (mode === "store" || isClosed ? inStore(operation) : routed(operation)))

    const routed = <A>(operation: Operation<A>): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        if (mode === "store" || isClosed) return inStore(operation)
        const { ids } = operation
        for (const id of ids) {
          const gate = changes.get(id)?.gate
          if (gate !== undefined) return after(gate, operation)
        }
        if (mode === "fallback") {
          return verdict !== undefined && (ids.length === 0 || !ids.every((id) => kept.isKnown(id, now)))
            ? after(verdict, operation)
            : inMemory(operation.inMemory)
        }
        const changed = ids.filter((id) => changes.has(id)).length
        if (ids.length > 0 && changed === 0) return inStore(operation)
        if (ids.length === 1) return inMemory(operation.inMemory)
        // it is about sessions in both places, or about nobody knows which
        return settled === undefined ? inStore(operation) : after(settled, operation)
      })

    const after = <A>(gate: Gate, operation: Operation<A>): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.zipRight(Deferred.await(gate), run(operation))

    // nobody leaves between what is kept and the note that there is something to replay; nothing in it waits for long
    const inMemory = <A>(
      effect: Effect.Effect<A, SessionStore.SessionStoreError>
    ): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.uninterruptible(Effect.ensuring(effect, Effect.map(Clock.currentTimeMillis, straggler)))

    const inStore = <A>(operation: Operation<A>): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.suspend(() => {
        const began = kept.place()
        const seen = operation.writes ? operation.ids.map((id) => kept.take(id)) : []
        return Effect.matchEffect(operation.inStore, {
          onSuccess: (result) =>
            Effect.map(Clock.currentTimeMillis, (now) => {
              operation.done(result, now, began, seen)
              return result
            }),
          onFailure: (error) => {
            // it was not done: what was known is so still, but for what the store knows better
            const wrong = error.reason === "SessionGone" || error.reason === "Conflict" || error.reason === "Corrupt"
            seen.forEach((one, index) => {
              if (!wrong || index > 0 || one?.json === undefined) kept.putBack(one)
            })
            return isAway(error) && !isClosed
              ? Effect.flatMap(Clock.currentTimeMillis, (now) => {
                  down(now)
                  const fallback = operation.failed?.(error, now, seen) ?? operation.inMemory
                  // what memory cannot do either has failed for the store's reason
                  return Effect.mapError(inMemory(fallback), (other) =>
                    other.reason === "Unavailable" ? error : other
                  )
                })
              : Effect.fail(error)
          }
        })
      })

    const ttlOf = (ttl: Duration.DurationInput | undefined, otherwise: number): number =>
      ttl === undefined ? otherwise : Either.getOrElse(Ttl.millis(ttl), () => otherwise)

    const plainTouch: SessionStore.Touch = {
      ttl: defaultTtl,
      exact: false,
      keep: Math.ceil(defaultTtl * (1 - touchWhen))
    }

    const touchOf = (
      session: SessionStore.Session,
      ttl: Duration.DurationInput | undefined,
      now: number
    ): SessionStore.Touch => {
      if (ttl === undefined && policy === undefined) return plainTouch
      const millis = ttlOf(ttl ?? policy?.(session, now), defaultTtl)
      return { ttl: millis, exact: true, keep: ttl === undefined ? Math.ceil(millis * (1 - touchWhen)) : millis }
    }

    const reading = (
      id: string,
      inStore: Effect.Effect<Option.Option<SessionStore.Session>, SessionStore.SessionStoreError>,
      inMemory: Effect.Effect<Option.Option<SessionStore.Session>, SessionStore.SessionStoreError>,
      expiry: (session: SessionStore.Session, now: number) => number | undefined
    ): Effect.Effect<Option.Option<SessionStore.Session>, SessionStore.SessionStoreError> =>
      run({
        ids: [id],
        writes: false,
        inStore,
        inMemory,
        done: (session, now, began) => {
          // it was written while it was read
          if (kept.wroteSince(id, began)) return
          if (Option.isSome(session)) kept.saw(id, session.value, expiry(session.value, now), now)
          else kept.missed(id, now)
        }
      })

    const writing = <A>(
      id: string,
      session: SessionStore.Session,
      write: SessionStore.WriteOptions | undefined,
      wrote: (result: A) => boolean,
      operation: (
        store: SessionStore.Service,
        session: SessionStore.Session
      ) => Effect.Effect<A, SessionStore.SessionStoreError>
    ): Effect.Effect<A, SessionStore.SessionStoreError> => {
      const stamped = (own: SessionStore.Session): Effect.Effect<A, SessionStore.SessionStoreError> => {
        const inMemory = operation(memory, own)
        return run({
          ids: [id],
          writes: true,
          inStore: operation(primary, own),
          inMemory,
          done: (result, now, _, [before]) => {
            if (wrote(result)) kept.wrote(id, own, before, ttlOf(write?.ttl, defaultTtl), now)
            else kept.putBack(before)
          },
          failed: (error, now) =>
            error.outcome === "unknown"
              ? Effect.flatMap(inMemory, (result) => {
                  // the store may have written it though this process would not have: nobody knows
                  if (!wrote(result)) return Effect.fail(error)
                  // the store may have it as it was sent
                  kept.sent(id, JSON.stringify(own), now)
                  return Effect.succeed(result)
                })
              : inMemory
        })
      }
      // as it will be stored, so that it can be recognised there
      return needsStamp(session)
        ? Effect.flatMap(Clock.currentTimeMillis, (now) => stamped(stamp(session, now)))
        : stamped(session)
    }

    const update = (
      id: string,
      f: (session: SessionStore.Session) => SessionStore.Session,
      write: SessionStore.WriteOptions | undefined
    ): Effect.Effect<Option.Option<SessionStore.Session>, SessionStore.SessionStoreError> =>
      Effect.flatMap(Clock.currentTimeMillis, (started) => {
        let last: { readonly current: SessionStore.Session; readonly next: SessionStore.Session } | undefined
        const watched = (current: SessionStore.Session): SessionStore.Session => {
          last = undefined
          const next = f(current)
          if (next === current) return current
          const own = needsStamp(next) ? stamp(next, started) : next
          last = { current, next: own }
          return own
        }
        const ttl = write?.ttl === undefined ? undefined : ttlOf(write.ttl, defaultTtl)
        const inMemory = memory.update(id, f, write)
        return run({
          ids: [id],
          writes: true,
          inStore: primary.update(id, watched, write),
          inMemory,
          done: (updated, now, _, [before]) => {
            if (Option.isNone(updated)) return
            if (last === undefined) kept.saw(id, updated.value, before?.expiresAt, now)
            else kept.wrote(id, updated.value, before, ttl, now)
          },
          failed: (error, now, [before]) => {
            if (last === undefined) return inMemory
            const { current, next } = last
            if (error.outcome !== "unknown") {
              kept.saw(id, current, before?.expiresAt, now)
              return inMemory
            }
            if (changes.has(id)) {
              return Effect.map(inMemory, (updated) => {
                kept.sent(id, JSON.stringify(next), now)
                return updated
              })
            }
            // it was applied or not: once, either way
            return kept.adopt(id, current, next, ttl, before?.expiresAt, now)
              ? Effect.succeedSome(next)
              : Effect.fail(error)
          }
        })
      })

    const rotate = (id: string, to: string): Effect.Effect<Option.Option<string>, SessionStore.SessionStoreError> => {
      const inMemory = memory.rotate(id, to)
      return run({
        ids: [id, to],
        writes: true,
        inStore: primary.rotate(id, to),
        inMemory,
        done: (rotated, now, _, [from, target]) => {
          if (Option.isNone(rotated)) return kept.putBack(target)
          kept.moved(from, to, now)
          kept.deleted(id, now)
        },
        failed: (error, now) => (error.outcome === "unknown" && !kept.isKnown(id, now) ? Effect.fail(error) : inMemory)
      })
    }

    const deleting = <A>(
      ids: ReadonlyArray<string>,
      operation: (store: SessionStore.Service) => Effect.Effect<A, SessionStore.SessionStoreError>
    ): Effect.Effect<A, SessionStore.SessionStoreError> =>
      run({
        ids,
        writes: true,
        inStore: operation(primary),
        inMemory: operation(memory),
        done: (_, now) => {
          for (const id of ids) kept.deleted(id, now)
        }
      })

    const store: SessionStore.Service = {
      get: (id) => reading(id, primary.get(id), memory.get(id), () => undefined),
      getAndTouch: (id, ttl) =>
        reading(id, primary.getAndTouch(id, ttl), memory.getAndTouch(id, ttl), (session, now) =>
          kept.expiryAfter(id, session, touchOf(session, ttl, now), now)
        ),
      set: (id, session, write) =>
        writing(
          id,
          session,
          write,
          () => true,
          (where, own) => where.set(id, own, write)
        ),
      create: (id, session, write) =>
        writing(
          id,
          session,
          write,
          (created) => created,
          (where, own) => where.create(id, own, write)
        ),
      delete: (id) => deleting([id], (where) => where.delete(id)),
      exists: (id) =>
        run({
          ids: [id],
          writes: false,
          inStore: primary.exists(id),
          inMemory: memory.exists(id),
          done: (there, now, began) => {
            if (!there && !kept.wroteSince(id, began)) kept.missed(id, now)
          }
        }),
      extendTtl: (id, ttl) =>
        run({
          ids: [id],
          writes: false,
          inStore: primary.extendTtl(id, ttl),
          inMemory: memory.extendTtl(id, ttl),
          done: (there, now, began) => {
            if (kept.wroteSince(id, began)) return
            if (there) kept.prolonged(id, ttlOf(ttl, defaultTtl), now)
            else kept.missed(id, now)
          }
        }),
      update,
      rotate: (id, newId) =>
        newId === undefined ? Effect.flatMap(SessionStore.makeId, (to) => rotate(id, to)) : rotate(id, newId),
      deleteMany: (ids) =>
        ids.length === 0 ? Effect.succeed(0) : deleting([...new Set(ids)], (where) => where.deleteMany(ids)),
      sessionsOf: (owner) =>
        run({
          ids: [],
          writes: false,
          inStore: primary.sessionsOf(owner),
          inMemory: memory.sessionsOf(owner),
          done: () => {}
        }),
      deleteAllOf: (owner) =>
        run({
          ids: [],
          writes: false,
          inStore: primary.deleteAllOf(owner),
          inMemory: Effect.flatMap(Clock.currentTimeMillis, (now) =>
            kept.revoke(owner, now)
              ? memory.deleteMany(kept.ownedBy(owner, now))
              : Effect.fail(problem("Unavailable", "deleteAllOf", Keeping.full))
          ),
          done: (_, now) => {
            for (const id of kept.ownedBy(owner, now)) kept.deleted(id, now)
          }
        }),
      cleanUp: primary.cleanUp,
      events: Stream.mergeAll([hub.stream, memory.events, Stream.filter(primary.events, (event) => !isQuiet(event))], {
        concurrency: "unbounded"
      })
    }

    // ---- the way back ----

    /** When the store was asked to do what was said already, by kind of event and id. */
    const quietly = new Map<string, { readonly from: number; to: number }>()

    const isQuiet = (event: SessionEvent): boolean => {
      if (quietly.size === 0 || !("id" in event)) return false
      const window = quietly.get(`${event._tag} ${event.id}`)
      return window !== undefined && event.at >= window.from && event.at <= window.to
    }

    const target: Replay.Target = {
      store: primary,
      isAbsolute: absolute !== undefined,
      tombstone,
      resolve: options.onConflict,
      quiet: (event, id, effect) =>
        hub.isActive()
          ? Effect.flatMap(Clock.currentTimeMillis, (from) => {
              const window = { from, to: Number.POSITIVE_INFINITY }
              quietly.set(`${event} ${id}`, window)
              return Effect.ensuring(
                effect,
                Effect.map(Clock.currentTimeMillis, (to) => {
                  window.to = to
                })
              )
            })
          : effect
    }

    const lose = (loss: Loss): void => {
      outage = { ...outage, dropped: outage.dropped + 1 }
      if (losses.length < reportedLosses) losses.push(loss)
    }

    const dropped = (change: Keeping.Change, why: Why): Loss => ({
      id: change.id,
      ...(change.owner === undefined ? {} : { owner: change.owner }),
      change:
        change.json === undefined ? "deleted" : change.wrote || change.origins.length > 0 ? "written" : "prolonged",
      why
    })

    const giveUp = (change: Keeping.Change, why: Why, now: number): void => {
      lose(dropped(change, why))
      kept.settle(change, "nothing", now)
    }

    /** Takes note of what the store made of a change. */
    const note = (
      change: Keeping.Change,
      sent: { readonly json: string | undefined; readonly revision: number },
      result: Replay.Result,
      now: number
    ): void => {
      if (result._tag === "Dropped") giveUp(change, result.why, now)
      else if (result._tag === "Expired") {
        outage = { ...outage, expired: outage.expired + 1 }
        kept.settle(change, "nothing", now)
      } else if (change.revision === sent.revision) {
        outage = { ...outage, replayed: outage.replayed + 1 }
        kept.settle(change, result.known, now)
      } else {
        // it was changed once more meanwhile: from what is in the store now
        kept.alter(change, { base: sent.json, maybe: [], origins: [] })
      }
    }

    /** Takes note of a failure: the store is away again, or it would not take the change. */
    const noteFailure = (
      change: Keeping.Change,
      json: string | undefined,
      error: SessionStore.SessionStoreError | undefined,
      now: number
    ): void => {
      if (error !== undefined && isAway(error)) {
        if (error.outcome === "unknown" && json !== undefined) kept.sent(change.id, json, now)
        down(now)
        return
      }
      const mayPass = error?.reason === "Rejected" || error?.reason === "Conflict"
      if (mayPass && ++change.attempts < patience) return
      giveUp(change, error?.reason === "LimitReached" ? "limit" : "refused", now)
    }

    const replay = (change: Keeping.Change): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (mode === "fallback" || changes.get(change.id) !== change) return Effect.void
        const gate = makeGate()
        change.gate = gate
        const { json, revision } = change
        return Replay.replay(change, target).pipe(
          attempted,
          Effect.zipWith(Clock.currentTimeMillis, (result, now) => {
            if (Either.isRight(result)) note(change, { json, revision }, result.right, now)
            else noteFailure(change, json, result.left, now)
          }),
          // closing: it may have been done
          Effect.onInterrupt(() =>
            Effect.map(Clock.currentTimeMillis, (now) => {
              if (json !== undefined) kept.sent(change.id, json, now)
            })
          ),
          Effect.ensuring(
            Effect.sync(() => {
              change.gate = undefined
              open(gate)
            })
          )
        )
      })

    /**
     * Deletes all sessions that an owner has in the store, but for those that live on here: they became the owner's after
     * the sign-out, or were not the owner's any more. What was only written over here without knowing it does not live on.
     * One that is rotated meanwhile is found under its new id.
     */
    const deleteAllOf = (owner: string, rounds: number): Effect.Effect<void, SessionStore.SessionStoreError> =>
      Effect.flatMap(primary.sessionsOf(owner), (sessions) => {
        const ids = sessions.map(({ id }) => id).filter((id) => !kept.livesOn(id))
        if (ids.length === 0) return Effect.void
        return Effect.flatMap(primary.deleteMany(ids), (count) =>
          count < ids.length && rounds > 1 ? deleteAllOf(owner, rounds - 1) : Effect.void
        )
      })

    /** Signs owners out in the store; says whether all that was to be is done. */
    const signOut = (owner: string): Effect.Effect<void, "away"> =>
      Effect.flatMap(attempted(deleteAllOf(owner, signOutRounds)), (result) => {
        if (Either.isLeft(result)) {
          if (result.left !== undefined && isAway(result.left)) return Effect.fail("away" as const)
          const refusals = (revoked.get(owner) ?? 0) + 1
          revoked.set(owner, refusals)
          if (refusals < patience) return Effect.void
          lose({ id: owner, owner, change: "signed-out", why: "refused" })
        } else outage = { ...outage, replayed: outage.replayed + 1 }
        revoked.delete(owner)
        return Effect.void
      })

    /** Replays what is kept; says whether all of it is done. */
    const drain: Effect.Effect<boolean> = Effect.gen(function* () {
      // before anyone is let through to the store
      const signedOut = yield* Effect.either(Effect.forEach([...revoked.keys()], signOut, { discard: true }))
      if (Either.isLeft(signedOut) || revoked.size > 0) return false
      mode = "replaying"
      settled ??= makeGate()
      open(verdict)
      verdict = undefined
      // sessions are moved before their old ids die
      const moved = [...changes.values()].filter((change) => change.origins.length > 0)
      yield* Effect.forEach(moved, replay, { concurrency, discard: true })
      yield* Effect.forEach(
        [...changes.values()].filter((change) => change.origins.length === 0),
        replay,
        { concurrency, discard: true }
      )
      return kept.pending() === 0
    })

    const isBack: Effect.Effect<boolean> = primary.exists(probed).pipe(
      Effect.matchCause({
        onFailure: (cause) => {
          const failure = Cause.failureOption(cause)
          return Option.isSome(failure) && !isAway(failure.value)
        },
        onSuccess: () => true
      })
    )

    /** One attempt to come back; says whether that is done. */
    const comeBack: Effect.Effect<boolean> = Effect.gen(function* () {
      const back = mode !== "fallback" || (yield* isBack)
      const done = back && (yield* drain)
      if (!done || mode === "fallback") {
        open(verdict)
        verdict = undefined
        if (mode === "fallback") {
          open(settled)
          settled = undefined
        }
        return false
      }
      return yield* Effect.flatMap(Clock.currentTimeMillis, (until) => {
        if (kept.pending() > 0) return Effect.succeed(false)
        mode = "store"
        work.unsafeClose()
        open(settled)
        settled = undefined
        return Effect.as(conclude(until, false), true)
      })
    })

    const conclude = (until: number, closed: boolean): Effect.Effect<void> => {
      const { begun, expired } = kept.tally()
      outage = { ...outage, kept: outage.kept + begun, expired: outage.expired + expired }
      const report: Report = { since, until, ...outage, losses, closed }
      total = {
        kept: total.kept + outage.kept,
        replayed: total.replayed + outage.replayed,
        expired: total.expired + outage.expired,
        dropped: total.dropped + outage.dropped
      }
      outage = noCounts
      losses = []
      lastReport = Option.some(report)
      if (!closed && hub.isActive()) {
        const { dropped, replayed } = report
        hub.emit({ _tag: "FallbackSwitched", to: "store", replayed, dropped, at: until })
      }
      if (reports.isActive()) reports.emit(report)
      return options.onReport === undefined ? Effect.void : tell(options.onReport, report)
    }

    /** Reports that are being told: by fibers of their own, for who is told may take any time. */
    const telling = new Set<Fiber.Fiber<unknown>>()
    const tell = (onReport: (report: Report) => Effect.Effect<void>, report: Report): Effect.Effect<void> =>
      Effect.map(Effect.forkDaemon(Effect.interruptible(Effect.suspend(() => onReport(report)))), (fiber) => {
        telling.add(fiber)
        fiber.addObserver(() => telling.delete(fiber))
      })

    const pauses = options.probe ?? defaultProbe

    const watch: Effect.Effect<never> = Effect.forever(
      Effect.zipRight(
        work.await,
        Effect.flatMap(Schedule.driver(pauses), (driver) => {
          const pause = Effect.catchAll(driver.next(undefined), () =>
            Effect.zipRight(driver.reset, Effect.sleep("1 second"))
          )
          const attempt: Effect.Effect<void> = Effect.flatMap(comeBack, (done) =>
            done ? Effect.void : Effect.zipRight(pause, attempt)
          )
          return attempt
        })
      )
    )

    const bounded = <A>(effect: Effect.Effect<A>): Effect.Effect<void> =>
      Effect.raceFirst(
        Effect.asVoid(Effect.interruptible(Effect.disconnect(effect))),
        Effect.interruptible(Effect.sleep(Duration.millis(closeWithin)))
      )

    const close = (fiber: Fiber.Fiber<never>): Effect.Effect<void> =>
      Effect.gen(function* () {
        yield* bounded(Effect.zipRight(Fiber.interrupt(fiber), kept.pending() > 0 ? comeBack : Effect.void))
        const now = yield* Clock.currentTimeMillis
        const wasAway = mode !== "store"
        isClosed = true
        mode = "store"
        open(verdict)
        open(settled)
        if (wasAway) {
          for (const change of [...changes.values()]) {
            open(change.gate)
            giveUp(change, "closed", now)
          }
          for (const owner of revoked.keys()) lose({ id: owner, owner, change: "signed-out", why: "closed" })
          revoked.clear()
          yield* conclude(now, true)
        }
        if (telling.size === 0) return
        yield* bounded(Fiber.awaitAll(telling))
        for (const fiber of telling) yield* Fiber.interruptFork(fiber)
      })

    yield* Effect.acquireRelease(Effect.forkDaemon(Effect.interruptible(watch)), close)

    return {
      store,
      mode: Effect.sync(() => mode),
      stats: Effect.sync(() => {
        const { bytes, kept: changes, remembered } = kept.size()
        return {
          mode,
          kept: changes,
          remembered,
          bytes,
          outages,
          replayed: total.replayed + outage.replayed,
          expired: total.expired + outage.expired,
          dropped: total.dropped + outage.dropped
        }
      }),
      lastReport: Effect.sync(() => lastReport),
      reports: reports.stream
    }
  })

/** What came of an attempt; undefined stands for a defect of the store, or of `onConflict`. */
const attempted = <A>(
  effect: Effect.Effect<A, SessionStore.SessionStoreError>
): Effect.Effect<Either.Either<A, SessionStore.SessionStoreError | undefined>> =>
  Effect.catchAllDefect(Effect.either<A, SessionStore.SessionStoreError | undefined, never>(effect), () =>
    Effect.succeed(Either.left(undefined))
  )

type Gate = Deferred.Deferred<void>

const makeGate = (): Gate => Deferred.unsafeMake<void>(FiberId.none)

const open = (gate: Gate | undefined): void => {
  if (gate !== undefined) Deferred.unsafeDone(gate, Exit.void)
}

const noCounts = { kept: 0, replayed: 0, expired: 0, dropped: 0 }

/** Whether a session will get a `last_activity`. What is no plain object is refused as it is. */
const needsStamp = (session: SessionStore.Session): boolean => {
  if (typeof session !== "object" || session === null || session["last_activity"] !== undefined) return false
  const prototype = Object.getPrototypeOf(session)
  return prototype === Object.prototype || prototype === null
}

const stamp = (session: SessionStore.Session, now: number): SessionStore.Session => ({
  ...session,
  last_activity: new Date(now).toISOString()
})

const problem = (reason: SessionStore.Reason, method: string, description: string) =>
  new SessionStore.SessionStoreError({ reason, method, description, outcome: "not-done" })

const timeOf = (name: string, input: Duration.DurationInput): Effect.Effect<number, SessionStore.SessionStoreError> => {
  const millis = Ttl.millis(input)
  return Either.isRight(millis)
    ? Effect.succeed(millis.right)
    : Effect.fail(problem("InvalidTtl", "make", `${name}: ${millis.left}`))
}

const countOf = (name: string, count: number, least: number): Effect.Effect<number, SessionStore.SessionStoreError> =>
  Number.isInteger(count) && count >= least
    ? Effect.succeed(count)
    : Effect.fail(problem("InvalidOptions", "make", `${name} must be a whole number of at least ${least}`))
