/**
 * How long a session is to live, judged by its last activity: policies as plain functions, and the standard one.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Instant from "../internal/instant.ts"
import type { Service, Session, SessionStoreError } from "./SessionStore.ts"

/**
 * A policy: the time to live of a session now. `now` is in milliseconds since 1970.
 *
 * @since 0.1.0
 * @category models
 */
export type SessionTtl = (session: Session, now: number) => Duration.Duration

/**
 * Settings of the standard policy.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The usual time to live. Default: 30 minutes. */
  readonly defaultTtl?: Duration.DurationInput | undefined
  /** The time to live of a session in active use. Default: 1 hour. */
  readonly activeTtl?: Duration.DurationInput | undefined
  /** No session lives longer than this. Default: 2 hours. */
  readonly maximum?: Duration.DurationInput | undefined
  /** Activity younger than this makes a session active. Default: 5 minutes. */
  readonly activeWithin?: Duration.DurationInput | undefined
  /** Activity younger than this keeps the usual time. Default: 30 minutes. */
  readonly idleAfter?: Duration.DurationInput | undefined
  /** An idle session lives half the usual time, but at least this. Default: 15 minutes. */
  readonly idleMinimum?: Duration.DurationInput | undefined
}

/**
 * The standard policy: active sessions live an hour, others half an hour, idle ones half of that but at least a quarter
 * of an hour, none more than two hours. A session without a readable `last_activity` gets the usual time; activity in
 * the future (another machine's clock) counts as now.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options = {}): SessionTtl => {
  const defaultTtl = Duration.decode(options.defaultTtl ?? "30 minutes")
  const activeTtl = Duration.decode(options.activeTtl ?? "1 hour")
  const maximum = options.maximum ?? "2 hours"
  const activeWithin = Duration.toMillis(options.activeWithin ?? "5 minutes")
  const idleAfter = Duration.toMillis(options.idleAfter ?? "30 minutes")
  const idleTtl = Duration.max(Duration.times(defaultTtl, 0.5), Duration.decode(options.idleMinimum ?? "15 minutes"))
  return atMost(maximum, (session, now) => {
    const at = lastActivity(session)
    if (Option.isNone(at)) return defaultTtl
    const age = Math.max(0, now - at.value)
    if (age < activeWithin) return activeTtl
    return age < idleAfter ? defaultTtl : idleTtl
  })
}

/**
 * Caps a policy: no session lives longer than `maximum`, whatever the policy says.
 *
 * @since 0.1.0
 * @category combinators
 */
export const atMost = (maximum: Duration.DurationInput, policy: SessionTtl): SessionTtl => {
  const cap = Duration.decode(maximum)
  return (session, now) => Duration.min(cap, policy(session, now))
}

/**
 * When a session was last active, in milliseconds since 1970: its `last_activity`, if that is a readable instant. One
 * without a zone is in UTC, as Python's `utcnow().isoformat()` writes it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const lastActivity = (session: Session): Option.Option<number> => {
  const text = session["last_activity"]
  if (typeof text !== "string") return Option.none()
  return Option.fromNullable(Instant.parse(text))
}

/**
 * The standard policy with its standard times.
 *
 * @since 0.1.0
 * @category constructors
 */
export const standard: SessionTtl = make()

/**
 * Reads a session, judges it by the policy and gives it the time to live that the policy says (which can be shorter
 * than what remains). Says whether there is such a session. Two round trips: read, then touch.
 *
 * @since 0.1.0
 * @category combinators
 */
export const apply = (
  store: Service,
  id: string,
  policy: SessionTtl = standard
): Effect.Effect<boolean, SessionStoreError> =>
  Effect.flatMap(store.get(id), (session) => {
    if (Option.isNone(session)) return Effect.succeed(false)
    return Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.map(store.getAndTouch(id, policy(session.value, now)), Option.isSome)
    )
  })
