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

const stores = (
  client: RedisClient.Service,
  options: RedisCache.Options
): Effect.Effect<Caches.Stores, never, Scope.Scope> =>
  Effect.map(RedisCache.make(client, options), (cache) => ({ cache, oneTime: RedisOneTimeStore.make(client) }))

const tracking = Config.boolean("tracking").pipe(Config.withDefault(false))

/**
 * The kind `redis` on the Redis client: every cache of it shares that. The setting `tracking` is that of `RedisCache`
 * (false).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Caches.Kind<{ readonly tracking: Config.Config<boolean> }, RedisClient.RedisClient> = Caches.kind({
  kind: "redis",
  settings: { tracking },
  make: (_, settings) => Effect.flatMap(RedisClient.RedisClient, (client) => stores(client, settings))
})

/**
 * The kind `redis` on core's registry of connections, which must have `RedisConnection.kind`: nothing is connected to until
 * a cache is asked for that is of this kind. The setting `connection` names the connection (`redis`), and
 * `tracking` is that of `RedisCache` (false).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindOfConnections: Caches.Kind<
  { readonly connection: Config.Config<string>; readonly tracking: Config.Config<boolean> },
  Connections.Connections
> = Caches.kind({
  kind: "redis",
  settings: {
    connection: Config.nonEmptyString("connection").pipe(Config.withDefault(RedisConnection.kind.kind)),
    tracking
  },
  make: (name, { connection, tracking }) =>
    Effect.flatMap(Connections.Connections, (connections) =>
      Effect.flatMap(connections.get(RedisConnection.kind, connection), (one: Connection<RedisClient.Service>) =>
        // lent for as long as the scope is open, which is that of the cache
        one.use((client) => stores(client, { tracking }))
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
