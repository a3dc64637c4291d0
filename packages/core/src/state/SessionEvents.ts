/**
 * What happens to sessions, as a stream: for an audit log, for metrics, for whoever wants to know. A store says nothing
 * and builds nothing while nobody listens.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Broadcast from "../internal/broadcast.ts"
import { SessionStore } from "./SessionStore.ts"

/**
 * A session was written where there was none. `owner` is its `user_id`; `at`, here and in every event, is in
 * milliseconds since 1970 by the clock of this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface Created {
  readonly _tag: "Created"
  readonly id: string
  readonly owner?: string
  readonly at: number
}

/**
 * A session is over because its time ran out. Said by the process that looks for a session which it knew and does not
 * find it, unless it was deleted within the last minute; stores that hear of it by themselves say it when it happens.
 * `ttl` is the time to live that this process gave it last, in milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Expired {
  readonly _tag: "Expired"
  readonly id: string
  readonly owner?: string
  readonly ttl?: number
  readonly at: number
}

/**
 * A session was moved to a new id.
 *
 * @since 0.1.0
 * @category models
 */
export interface Rotated {
  readonly _tag: "Rotated"
  readonly id: string
  readonly newId: string
  readonly owner?: string
  readonly at: number
}

/**
 * A session was deleted: because somebody asked for it, or (`limit`) because its owner has more than the allowed number
 * and it was the oldest.
 *
 * @since 0.1.0
 * @category models
 */
export interface Deleted {
  readonly _tag: "Deleted"
  readonly id: string
  readonly owner?: string
  readonly reason: "request" | "limit"
  readonly at: number
}

/**
 * An entry is no session. `content`: it cannot be read at all (no JSON, another type of value). `format`: it is JSON of
 * another shape. `what` says more, without the entry's content. Said once an entry.
 *
 * @since 0.1.0
 * @category models
 */
export interface Corrupt {
  readonly _tag: "Corrupt"
  readonly id: string
  readonly problem: "content" | "format"
  readonly what: string
  readonly at: number
}

/**
 * A run of `cleanUp` ended: what it looked at, and what it did.
 *
 * @since 0.1.0
 * @category models
 */
export interface CleanedUp {
  readonly _tag: "CleanedUp"
  readonly scanned: number
  readonly corrupt: number
  readonly orphaned: number
  readonly immortal: number
  readonly at: number
}

/**
 * A store with a fallback changed over: `fallback` when the store went away, `store` when it is back. Then `replayed` and
 * `dropped` count what was done meanwhile and is, or is not, in the store now.
 *
 * @since 0.1.0
 * @category models
 */
export interface FallbackSwitched {
  readonly _tag: "FallbackSwitched"
  readonly to: "fallback" | "store"
  readonly replayed?: number
  readonly dropped?: number
  readonly at: number
}

/**
 * Something that happened to sessions.
 *
 * @since 0.1.0
 * @category models
 */
export type SessionEvent = Created | Expired | Rotated | Deleted | Corrupt | CleanedUp | FallbackSwitched

/**
 * Where a store puts its events: `emit` gives one to all who listen to `stream`. A store asks `isActive` before it makes
 * one. A listener that is more than 4,096 events behind misses the oldest.
 *
 * @since 0.1.0
 * @category models
 */
export interface Hub {
  readonly isActive: () => boolean
  readonly emit: (event: SessionEvent) => void
  readonly stream: Stream.Stream<SessionEvent>
}

/**
 * Makes a hub, as a store or a store round a store needs one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeHub: Effect.Effect<Hub> = Effect.sync(() => Broadcast.make<SessionEvent>())

/**
 * Writes one event as a log line: created, expired and cleaned-up sessions as information, unreadable content as an
 * error, another format and a change-over to the fallback as a warning, rotated and deleted sessions for debugging. A
 * line holds the first four characters of an id: a whole one opens the session.
 *
 * @since 0.1.0
 * @category combinators
 */
export const log = (event: SessionEvent): Effect.Effect<void> => {
  switch (event._tag) {
    case "Created":
      return Effect.logInfo("session created", of(event))
    case "Expired":
      return Effect.logInfo("session expired", {
        ...of(event),
        ...(event.ttl === undefined ? {} : { ttl_seconds: event.ttl / 1_000 })
      })
    case "Rotated":
      return Effect.logDebug("session rotated", { ...of(event), to: short(event.newId) })
    case "Deleted":
      return Effect.logDebug("session deleted", { ...of(event), reason: event.reason })
    case "Corrupt":
      return event.problem === "content"
        ? Effect.logError("session data corruption", { session: short(event.id), what: event.what })
        : Effect.logWarning("invalid session format", { session: short(event.id), what: event.what })
    case "CleanedUp": {
      const { corrupt, immortal, orphaned, scanned } = event
      return Effect.logInfo("sessions cleaned up", { scanned, corrupt, orphaned, immortal })
    }
    case "FallbackSwitched": {
      const { at: _, _tag, to, ...counts } = event
      return to === "fallback"
        ? Effect.logWarning("the session store is away: sessions are kept in memory", counts)
        : Effect.logWarning("the session store is back: sessions are kept there again", counts)
    }
  }
}

/**
 * Writes the events of the application's session store as log lines (see `log`) as long as the layer lives.
 *
 * ```ts
 * const Sessions = SessionEvents.layerLog.pipe(Layer.provideMerge(RedisSessionStore.layer()))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerLog: Layer.Layer<never, never, SessionStore> = Layer.scopedDiscard(
  Effect.flatMap(
    Effect.suspend(() => SessionStore),
    (store) =>
      Effect.zipRight(
        Effect.forkScoped(Stream.runForEach(store.events, log)),
        // it listens before anyone who needs this layer does something; merged streams take a few turns to begin
        Effect.repeatN(Effect.yieldNow(), 9)
      )
  )
)

const short = (id: string): string => `${id.slice(0, 4)}…`

const of = (event: { readonly id: string; readonly owner?: string }) => ({
  session: short(event.id),
  ...(event.owner === undefined ? {} : { user_id: event.owner })
})
