/**
 * The cache backend on a table of DynamoDB. An entry and the lease of its key are one item, changed by conditional writes.
 * Plain effects: nothing is emitted and nothing sent again, whatever the plane of the connection is.
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
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as DynamoDb from "../database/DynamoDb.ts"
import * as Backend from "../internal/dynamo/cacheBackend.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The table, which `createTable` makes: its partition key is the text `pk`, its time to live is by `expires`. */
  readonly table: string
}

/**
 * The backend on a client. It has leases and stamps (tags, `clearBy: "generation"`), and no messages, so no tier in the
 * process.
 *
 * - An entry ends when it should by `Clock`, also before the service deletes it, which takes it up to some days.
 * - `clear` walks the whole table, whatever else is in it, and pays for that: where there is much, `clearBy: "generation"`
 *   costs one write.
 * - An entry of more than 399 KB is refused (`InvalidValue`), and what was at its key is deleted.
 * - Reads are consistent ones.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dynamo: DynamoDb.Service, options: Options): Effect.Effect<Cache.Backend, never, Scope.Scope> =>
  Effect.flatMap(DynamoDb.silentOf(dynamo), (send) => Backend.make(send, options.table))

/**
 * The backend of core's caches on the client of the context.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Cache.Cache, never, DynamoDb.DynamoDb> =>
  Layer.scoped(
    Cache.Cache,
    Effect.flatMap(DynamoDb.DynamoDb, (dynamo) => make(dynamo, options))
  )

/**
 * Creates the table and waits until it is active. One that is there already is a `Conflict`. A server without times to
 * live (dynalite) does without.
 *
 * @since 0.1.0
 * @category constructors
 */
export const createTable = (dynamo: DynamoDb.Service, options: Options): Effect.Effect<void, ConnectionError> =>
  Effect.catchIf(
    dynamo
      .table({
        name: options.table,
        schema: Schema.Struct({ [Backend.attributes.key]: Schema.String, expires: Schema.Number }),
        partitionKey: Backend.attributes.key,
        timeToLive: Backend.attributes.expires
      })
      .createTable(),
    (error) => error.reason === "Unsupported",
    () => Effect.void
  )

const table = Config.nonEmptyString("table").pipe(Config.withDefault("caches"))

/**
 * The kind `dynamodb` of core's `Caches`, on the client of the context. The setting `table` names its table (`caches`).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Caches.Kind<{ readonly table: Config.Config<string> }, DynamoDb.DynamoDb> = Caches.kind({
  kind: "dynamodb",
  settings: { table },
  make: (_, { table }) =>
    Effect.map(
      Effect.flatMap(DynamoDb.DynamoDb, (dynamo) => make(dynamo, { table })),
      (cache) => ({ cache })
    )
})

/**
 * The kind `dynamodb` of core's `Caches`, on core's registry of connections, which must have `DynamoDb.kind`. The setting
 * `table` names its table (`caches`), `connection` the connection (`dynamodb`).
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindOfConnections: Caches.Kind<
  { readonly connection: Config.Config<string>; readonly table: Config.Config<string> },
  Connections.Connections
> = Caches.kind({
  kind: "dynamodb",
  settings: {
    connection: Config.nonEmptyString("connection").pipe(Config.withDefault(DynamoDb.kind.kind)),
    table
  },
  make: (name, { connection, table }) =>
    Effect.flatMap(Connections.Connections, (connections) =>
      Effect.flatMap(connections.get(DynamoDb.kind, connection), (one) =>
        // lent for as long as the scope is open, which is that of the cache
        one.use((client) => Effect.map(make(client, { table }), (cache) => ({ cache })))
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
