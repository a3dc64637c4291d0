/**
 * Redis as a kind of core's `Caches`: what `kind: redis` means in `application-cache.yaml`.
 *
 * @since 0.1.0
 */
import { type Connection, ConnectionError } from "@underlay/core/connection/Connection"
import * as Connections from "@underlay/core/connection/Connections"
import * as Caches from "@underlay/core/state/Caches"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as RedisCache from "./RedisCache.ts"
import * as RedisClient from "./RedisClient.ts"
import * as RedisConnection from "./RedisConnection.ts"
import * as RedisOneTimeStore from "./RedisOneTimeStore.ts"

const stores = (client: RedisClient.Service): Effect.Effect<Caches.Stores, never, Scope.Scope> =>
  Effect.map(RedisCache.make(client), (cache) => ({ cache, oneTime: RedisOneTimeStore.make(client) }))

/**
 * The kind `redis` on the Redis client: every cache of it shares that.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Caches.Kind<Record<never, never>, RedisClient.RedisClient> = Caches.kind({
  kind: "redis",
  make: () => Effect.flatMap(RedisClient.RedisClient, stores)
})

/**
 * The kind `redis` on core's registry of connections, which must have `RedisConnection.kind`: nothing is connected to until
 * a cache is asked for that is of this kind. The setting `connection` names the connection (`redis`).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindOfConnections: Caches.Kind<{ readonly connection: Config.Config<string> }, Connections.Connections> =
  Caches.kind({
    kind: "redis",
    settings: { connection: Config.nonEmptyString("connection").pipe(Config.withDefault(RedisConnection.kind.kind)) },
    make: (name, { connection }) =>
      Effect.flatMap(Connections.Connections, (connections) =>
        Effect.flatMap(connections.get(RedisConnection.kind, connection), (one: Connection<RedisClient.Service>) =>
          // lent for as long as the scope is open, which is that of the cache
          one.use(stores)
        )
      ).pipe(
        Effect.mapError(
          (error) =>
            new Caches.CachesError({
              reason: error instanceof ConnectionError && error.isRetryable ? "Unavailable" : "InvalidSettings",
              cache: name,
              description: `its connection "${connection}" cannot be made: ${error.message}`,
              cause: error
            })
        )
      )
  })

/**
 * The caches of an application, of the kinds `memory` and `redis`, on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Caches.Caches, never, RedisClient.RedisClient> = Caches.layer([kind])
