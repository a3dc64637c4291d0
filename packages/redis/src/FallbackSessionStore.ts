/**
 * The session store on Redis that goes on in memory while Redis is away, and brings what was done meanwhile there when it
 * is back. See core's `FallbackSessionStore` for what holds then.
 *
 * @since 0.1.0
 */
import * as Fallback from "@underlay/core/state/FallbackSessionStore"
import * as SessionStore from "@underlay/core/state/SessionStore"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as RedisClient from "./RedisClient.ts"
import * as RedisSessionStore from "./RedisSessionStore.ts"

/**
 * Options of the store and of its fallback.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RedisSessionStore.Options, Omit<Fallback.Options, keyof SessionStore.Options> {}

/**
 * The session store on the Redis client, with its fallback. Make the client with `connect: "lazy"`, so that a program can
 * start while Redis is away.
 *
 * ```ts
 * const Sessions = FallbackSessionStore.layer().pipe(Layer.provide(RedisClient.layer({ connect: "lazy" })))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<
  SessionStore.SessionStore | Fallback.FallbackSessionStore,
  SessionStore.SessionStoreError,
  RedisClient.RedisClient
> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options)),
      (fallback) =>
        Context.make(Fallback.FallbackSessionStore, fallback).pipe(
          Context.add(SessionStore.SessionStore, fallback.store)
        )
    )
  )

/**
 * The store with its fallback, as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<Fallback.Service, SessionStore.SessionStoreError, Scope.Scope> =>
  Effect.flatMap(RedisSessionStore.make(client, options), (store) => Fallback.make(store, options))
