/**
 * What happens to sessions, and how a store says it. Everything here is part of `SessionEvents`.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import * as Broadcast from "../broadcast.ts"

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
