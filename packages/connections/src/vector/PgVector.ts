/**
 * The port `VectorStore` on PostgreSQL with the extension pgvector: a connection of its own, or over any `SqlClient` for
 * such a server, as `Postgres` and `PGlite` give it. A collection is a table of its own; within the caller's transaction
 * everything here takes part in it.
 *
 * @since 0.1.0
 */
import { SqlClient } from "@effect/sql/SqlClient"
import {
  type Connection,
  ConnectionError,
  configOfSchema,
  Fields,
  type Kind,
  kindOf
} from "@underlay/core/connection/Connection"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Postgres from "../database/Postgres.ts"
import type { PgVectorOptions } from "../internal/vector/pgVectorOptions.ts"
import * as Store from "../internal/vector/pgVectorStore.ts"

export * from "../internal/vector/pgVectorOptions.ts"

/**
 * Where the server is, as for `Postgres`, and how the tables are.
 *
 * @since 0.1.0
 * @category models
 */
export interface PgVectorSettings extends Postgres.PostgresSettings, PgVectorOptions {}

/**
 * A connection whose client is the store. `sql` is the client of the database itself.
 *
 * @since 0.1.0
 * @category models
 */
export interface PgVectorConnection extends Connection<Context.Tag.Service<VectorStore.VectorStore>> {
  readonly store: Context.Tag.Service<VectorStore.VectorStore>
  readonly sql: SqlClient
}

/**
 * A store on PostgreSQL as a connection: statistics of its pool, health, the store.
 *
 * @since 0.1.0
 * @category tags
 */
export class PgVector extends Context.Tag("@underlay/connections/PgVector")<PgVector, PgVectorConnection>() {}

const kindName = "pgvector"

/**
 * The store over the `SqlClient` that is there. It makes the extension and the list of collections if they are not there.
 *
 * Fails with `Unsupported` when the server has no pgvector, or too old a one, and says what to install; with
 * `PermissionDenied` when the user may not make what is missing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeSql = Effect.fnUntraced(function* (
  options: PgVectorOptions = {}
): Effect.fn.Return<Context.Tag.Service<VectorStore.VectorStore>, VectorStore.VectorStoreError, SqlClient> {
  const { setUp, store } = yield* Store.make(yield* SqlClient, options)
  yield* setUp
  return store
})

const toConnectionError =
  (name: string) =>
  (error: VectorStore.VectorStoreError): ConnectionError => {
    const reason = (): ConnectionError["reason"] => {
      switch (error.reason) {
        case "Unavailable":
        case "Timeout":
        case "Throttled":
        case "Conflict":
        case "Unsupported":
        case "Authentication":
        case "PermissionDenied":
        case "Closed":
          return error.reason
        case "InvalidRequest":
          return "InvalidSettings"
        default:
          return "Unknown"
      }
    }
    return new ConnectionError({
      reason: reason(),
      kind: kindName,
      connection: name,
      method: "make",
      description: error.description,
      ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
      cause: error
    })
  }

/**
 * Connects, and makes the extension and the list of collections if they are not there: at once if `connect` is `eager`,
 * otherwise before the first use.
 *
 * Fails as `Postgres.make` does, with `Unsupported` when the server has no pgvector, or too old a one, and with
 * `PermissionDenied` when the user may not make what is missing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: PgVectorSettings,
  name: string = kindName
): Effect.fn.Return<PgVectorConnection, ConnectionError, Scope.Scope> {
  const connection = yield* Effect.mapError(Postgres.make(settings, name), (error) => error.with({ kind: kindName }))
  const { setUp, store } = yield* Effect.mapError(Store.make(connection.sql, settings), toConnectionError(name))
  if (settings.connect === undefined || settings.connect === "eager") {
    yield* Effect.mapError(setUp, toConnectionError(name))
  }
  return {
    ...connection,
    kind: kindName,
    use: (f) => connection.use(() => f(store)),
    drained: Effect.map(connection.drained, (report) => ({ ...report, kind: kindName })),
    store,
    sql: connection.sql
  }
})

const contextOf = (connection: PgVectorConnection): Context.Context<VectorStore.VectorStore | PgVector> =>
  Context.add(Context.make(VectorStore.VectorStore, connection.store), PgVector, connection)

/**
 * The store and its connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: PgVectorSettings): Layer.Layer<VectorStore.VectorStore | PgVector, ConnectionError> =>
  Layer.scopedContext(Effect.map(make(settings), contextOf))

/**
 * The store over the `SqlClient` that is there: `Layer.provide(PgVector.layerSql(), PGlite.layer())`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerSql = (
  options?: PgVectorOptions
): Layer.Layer<VectorStore.VectorStore, VectorStore.VectorStoreError, SqlClient> =>
  Layer.effect(VectorStore.VectorStore, makeSql(options))

/**
 * The settings as they are written in a configuration: those of `Postgres`, and how the tables are; all optional.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  ...Postgres.Settings.fields,
  schema: Schema.optional(Fields.Text),
  prefix: Schema.optional(Fields.Text),
  textSearch: Schema.optional(Fields.Flag),
  hnsw: Schema.optional(
    Schema.Union(
      Fields.Flag,
      Schema.Struct({
        m: Schema.optional(Fields.Count),
        efConstruction: Schema.optional(Fields.Count),
        efSearch: Schema.optional(Fields.Count),
        maxScanTuples: Schema.optional(Fields.Count)
      })
    )
  )
})

/**
 * The settings as configuration. The registry reads it below `connections.<name>`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<PgVectorSettings> = configOfSchema(Settings)

/**
 * The settings in `DATABASE_URL`, which has to be set.
 *
 * @since 0.1.0
 * @category schemas
 */
export const databaseUrl: Config.Config<PgVectorSettings> = Postgres.databaseUrl

/**
 * The store and its connection, from configuration: `DATABASE_URL` if nothing else is given.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  settings: Config.Config.Wrap<PgVectorSettings> = databaseUrl
): Layer.Layer<VectorStore.VectorStore | PgVector, ConnectionError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(Config.unwrap(settings), (settings) => make(settings)),
      contextOf
    )
  )

/**
 * pgvector for the registry of connections: `Connections.layer([PgVector.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Context.Tag.Service<VectorStore.VectorStore>, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
