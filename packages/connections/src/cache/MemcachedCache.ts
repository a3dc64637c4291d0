/**
 * The cache backend on memcached. An entry and the lease of its key are one item, changed by compare-and-set, so that what
 * is computed never overwrites what was written or deleted meanwhile. Plain effects.
 *
 * @since 0.1.0
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Connections from "@underlay/core/connection/Connections"
import * as Cache from "@underlay/core/state/Cache"
import * as Caches from "@underlay/core/state/Caches"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Backend from "../internal/memcached/cacheBackend.ts"
import * as Memcached from "./Memcached.ts"

/**
 * The backend on a client. It has leases and stamps (tags, `clearBy: "generation"`), and no messages, so no tier in the
 * process.
 *
 * - `clear` always works by a generation: memcached cannot list what it has. It makes everything of the namespace
 *   worthless with one command and says 0, for it does not know how many there were.
 * - The server counts in whole seconds; the exact end of an entry is written in it and checked by `Clock`, so times of
 *   less than a second hold, as exactly as the clocks of those who share the cache agree.
 * - Keys of any text: those that memcached does not take are kept under their digest.
 * - An entry of more than the client's `maxValueBytes` is refused (`InvalidValue`), and what was at its key is deleted.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (memcached: typeof Memcached.Memcached.Service): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
  Backend.make(Memcached.rawOf(memcached))

/**
 * The backend of core's caches on the client of the context.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Cache.Cache, never, Memcached.Memcached> = Layer.scoped(
  Cache.Cache,
  Effect.flatMap(Memcached.Memcached, make)
)

/**
 * The kind `memcached` of core's `Caches`, on the client of the context: every cache of it shares that.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Caches.Kind<Record<never, never>, Memcached.Memcached> = Caches.kind({
  kind: "memcached",
  make: () => Effect.map(Effect.flatMap(Memcached.Memcached, make), (cache) => ({ cache }))
})

/**
 * The kind `memcached` of core's `Caches`, on core's registry of connections, which must have `Memcached.kind`. The
 * setting `connection` names the connection (`memcached`).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindOfConnections: Caches.Kind<{ readonly connection: Config.Config<string> }, Connections.Connections> =
  Caches.kind({
    kind: "memcached",
    settings: {
      connection: Config.nonEmptyString("connection").pipe(Config.withDefault(Memcached.kind.kind))
    },
    make: (name, { connection }) =>
      Effect.flatMap(Connections.Connections, (connections) =>
        Effect.flatMap(connections.get(Memcached.kind, connection), (one) =>
          // lent for as long as the scope is open, which is that of the cache
          one.use((client) => Effect.map(Backend.make(Memcached.rawOfLent(client)), (cache) => ({ cache })))
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
