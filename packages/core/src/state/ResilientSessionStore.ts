/**
 * A session store that tries once more after a lost connection: only what may be done twice, or what is known not to have
 * been done, after a short wait that is spread over its callers. For stores whose plain form never retries.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as SessionStore from "./SessionStore.ts"

/**
 * How long it waits before it tries again.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * About how long: each caller waits for a part of it of its own, between a half and the whole, so that those that failed
   * together do not come back together. Default: 50 milliseconds.
   */
  readonly pause?: Duration.DurationInput | undefined
  /**
   * Completes when the store can be reached again. With it a caller waits for that first, then a part of `pause`; without
   * it the store is asked again after the pause, whether or not it is back.
   */
  readonly ready?: Effect.Effect<void> | undefined
  /**
   * How long it waits in all; a store that is not back by then is not asked again, and the first failure is the answer.
   * Default: 500 milliseconds.
   */
  readonly maxWait?: Duration.DurationInput | undefined
}

/**
 * A layer over the application's session store.
 *
 * ```ts
 * const Sessions = ResilientSessionStore.layer().pipe(Layer.provide(RedisSessionStore.layer()))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<SessionStore.SessionStore, SessionStore.SessionStoreError, SessionStore.SessionStore> =>
  Layer.effect(
    SessionStore.SessionStore,
    Effect.flatMap(SessionStore.SessionStore, (store) => make(store, options))
  )

/**
 * The store round a store, as a value. An operation is tried once more when it failed as `Unavailable` and the error is
 * retryable: it was not done, or it is one that may be done twice (`create`, `update` and `rotate` are not, so where
 * their outcome is unknown that is the answer). What `delete`, `deleteMany` and `deleteAllOf` say after a second attempt
 * does not count what the first one did. Other failures, `Timeout` among them, pass as they are: the connection is not
 * lost, and waiting for the time once more helps nobody. Fails with `InvalidOptions` on times that cannot be.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  store: SessionStore.Service,
  options: Options = {}
): Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError> =>
  Effect.gen(function* () {
    const maxWait = yield* timeOf("maxWait", options.maxWait ?? "500 millis")
    const pause = Math.min(maxWait, yield* timeOf("pause", options.pause ?? "50 millis"))
    const { ready } = options

    const spread = Effect.flatMap(Random.next, (random) => Effect.sleep(Duration.millis((pause * (1 + random)) / 2)))

    /** Whether the store can be asked again. Never takes longer than `maxWait`. */
    const back: Effect.Effect<boolean> =
      ready === undefined
        ? Effect.as(spread, true)
        : Effect.raceFirst(
            Effect.as(Effect.zipRight(ready, spread), true),
            Effect.as(Effect.sleep(Duration.millis(maxWait)), false)
          )

    const once = <A>(
      operation: Effect.Effect<A, SessionStore.SessionStoreError>
    ): Effect.Effect<A, SessionStore.SessionStoreError> =>
      Effect.catchAll(operation, (error) =>
        error.reason === "Unavailable" && error.isRetryable
          ? Effect.flatMap(back, (isBack) =>
              isBack ? Effect.mapError(operation, (second) => afterThe(error, second)) : Effect.fail(error)
            )
          : Effect.fail(error)
      )

    return {
      get: (id) => once(store.get(id)),
      set: (id, session, write) => once(store.set(id, session, write)),
      create: (id, session, write) => once(store.create(id, session, write)),
      delete: (id) => once(store.delete(id)),
      exists: (id) => once(store.exists(id)),
      extendTtl: (id, ttl) => once(store.extendTtl(id, ttl)),
      getAndTouch: (id, ttl) => once(store.getAndTouch(id, ttl)),
      update: (id, f, write) => once(store.update(id, f, write)),
      rotate: (id, newId) => once(store.rotate(id, newId)),
      deleteMany: (ids) => once(store.deleteMany(ids)),
      sessionsOf: (owner) => once(store.sessionsOf(owner)),
      deleteAllOf: (owner) => once(store.deleteAllOf(owner)),
      cleanUp: (clean) => once(store.cleanUp(clean)),
      events: store.events
    }
  })

/** The failure of a second attempt: that it was not done says nothing of a first one that may have been. */
const afterThe = (
  first: SessionStore.SessionStoreError,
  second: SessionStore.SessionStoreError
): SessionStore.SessionStoreError =>
  first.outcome === second.outcome || second.outcome === "unknown"
    ? second
    : new SessionStore.SessionStoreError({
        reason: second.reason,
        method: second.method,
        description: second.description,
        outcome: first.outcome,
        ...(second.cause === undefined ? {} : { cause: second.cause })
      })

const timeOf = (name: string, input: Duration.DurationInput): Effect.Effect<number, SessionStore.SessionStoreError> => {
  const millis = Option.match(Duration.decodeUnknown(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })
  return millis >= 0 && Number.isFinite(millis)
    ? Effect.succeed(millis)
    : Effect.fail(
        new SessionStore.SessionStoreError({
          reason: "InvalidOptions",
          method: "make",
          description: `${name} must be a finite duration`,
          outcome: "not-done"
        })
      )
}
