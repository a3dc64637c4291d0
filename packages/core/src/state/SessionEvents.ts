/**
 * What happens to sessions, as a stream: for an audit log, for metrics, for whoever wants to know. A store says nothing
 * and builds nothing while nobody listens.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import type { SessionEvent } from "../internal/sessions/events.ts"
import { SessionStore } from "./SessionStore.ts"

export * from "../internal/sessions/events.ts"

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
