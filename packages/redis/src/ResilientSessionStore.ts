/**
 * The session store on Redis that tries once more after a lost connection, once the client has it back. See core's
 * `ResilientSessionStore` for what may be tried again.
 *
 * @since 0.1.0
 */
import * as Resilient from "@underlay/core/state/ResilientSessionStore"
import * as SessionStore from "@underlay/core/state/SessionStore"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as RedisClient from "./RedisClient.ts"
import * as RedisSessionStore from "./RedisSessionStore.ts"

/**
 * Options of the store, and how long it waits for the connection.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RedisSessionStore.Options, Omit<Resilient.Options, "ready"> {}

/**
 * The session store on the Redis client, with its second attempt.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<SessionStore.SessionStore, SessionStore.SessionStoreError, RedisClient.RedisClient> =>
  Layer.effect(
    SessionStore.SessionStore,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The store as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError> =>
  Effect.flatMap(RedisSessionStore.make(client, options), (store) =>
    Resilient.make(store, { pause: options.pause, maxWait: options.maxWait, ready: ready(client) })
  )

/** Completes when the client has its connection, or was not known to have lost it. */
const ready = (client: RedisClient.Service): Effect.Effect<void> =>
  Effect.flatMap(client.state, (state) =>
    state === "away"
      ? Stream.runDrain(
          Stream.take(
            Stream.filter(client.changes, (now) => now !== "away"),
            1
          )
        )
      : Effect.void
  )
