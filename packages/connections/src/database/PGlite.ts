/**
 * PostgreSQL in this process, as the same `SqlClient`: PGlite without a socket. It has one backend, so a transaction has
 * the database to itself and everybody else waits, interruptibly.
 *
 * A statement runs on this thread: while it runs, nothing else does, and it cannot be cancelled. A folder belongs to one
 * process.
 *
 * @since 0.1.0
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import { SqlClient } from "@effect/sql/SqlClient"
import type * as Driver from "@electric-sql/pglite"
import type { CheckResult, Connection, ConnectionError, Kind, Plane } from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Health from "@underlay/core/operations/Health"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { load } from "../internal/driver.ts"
import * as Pool from "../internal/pool.ts"
import * as Sql from "../internal/sqlClient.ts"
import { toConnectionError } from "../internal/sqlState.ts"
import { watchOptions } from "../internal/watch.ts"

/**
 * Where the data is and what comes with it.
 *
 * @since 0.1.0
 * @category models
 */
export interface PGliteSettings {
  /** The folder of the data. Without one the data is in memory and gone with the scope. */
  readonly dataDir?: string | undefined
  /** Loads the extension pgvector (`@electric-sql/pglite-pgvector`): on. */
  readonly vector?: boolean | undefined
  /** How long a statement may wait for the one backend: 30 s. */
  readonly acquireTimeout?: Duration.DurationInput | undefined
  /** `internal` (shows nothing) or `external` (each statement is watched): internal, since it is in this process. */
  readonly plane?: Plane | undefined
  /** `eager` starts the engine at once, which takes seconds; `lazy` with the first statement: eager. */
  readonly connect?: "eager" | "lazy" | undefined
}

/**
 * A connection with its client, which lives as long as the connection does.
 *
 * @since 0.1.0
 * @category models
 */
export interface PGliteConnection extends Connection<SqlClient> {
  readonly sql: SqlClient
}

/**
 * PGlite as a connection.
 *
 * @since 0.1.0
 * @category tags
 */
export class PGlite extends Context.Tag("@underlay/connections/PGlite")<PGlite, PGliteConnection>() {}

const kindName = "pglite"
const version = "0.5.14"

interface Engine {
  readonly database: Driver.PGlite
  /** Marked by a COMMIT or ROLLBACK that failed: rolled back before it is lent again. */
  doubtful: boolean
}

const start = (name: string, settings: PGliteSettings): Effect.Effect<Engine, ConnectionError> =>
  Effect.gen(function* () {
    const at = { kind: kindName, name }
    const { PGlite } = yield* load(at, "@electric-sql/pglite", version, () => import("@electric-sql/pglite"))
    // The parsers of `pg`, so that a row has the same values whichever database it comes from.
    const { types } = yield* load(at, "pg", "8", () => import("pg").then((module) => module.default))
    const extensions =
      settings.vector === false
        ? {}
        : yield* Effect.map(
            load(at, "@electric-sql/pglite-pgvector", "0.0.15", () => import("@electric-sql/pglite-pgvector")),
            ({ vector }) => ({ vector })
          )
    const { dataDir } = settings
    const database = yield* Effect.tryPromise({
      try: () => PGlite.create({ ...(dataDir === undefined ? {} : { dataDir }), extensions }),
      catch: (cause) => toConnectionError({ ...at, method: "start" }, cause)
    })
    // Parameters come as PostgreSQL's text already.
    database.serializers = {}
    const parsers: Record<number, (value: string) => unknown> = {}
    for (const oid of [...Object.keys(database.parsers), ...Object.values(types.builtins)].map(Number)) {
      parsers[oid] = types.getTypeParser(oid, "text")
    }
    database.parsers = parsers
    return { database, doubtful: false }
  }).pipe(Effect.uninterruptible)

const sessionOf = (name: string, engine: Engine): Sql.Session => ({
  run: (sql, params, rows) =>
    Effect.tryPromise({
      try: () => {
        const options = { rowMode: rows }
        return params.length > 0
          ? engine.database.query<unknown>(sql, [...params], options)
          : engine.database.exec(sql, options).then((results) => results[results.length - 1])
      },
      catch: (thrown) => {
        // It puts the parameters on its errors, where a log would show them.
        if (typeof thrown === "object" && thrown !== null) Reflect.deleteProperty(thrown, "params")
        return toConnectionError({ kind: kindName, name, method: "execute" }, thrown)
      }
    }).pipe(
      // It has run by the time that anybody could interrupt it, and the backend is not free before it says so.
      Effect.uninterruptible,
      Effect.map((result): Sql.Result => ({ rows: result?.rows ?? [], command: result?.command, raw: result }))
    ),
  stream: undefined,
  isMarked: () => engine.doubtful,
  mark: () => {
    engine.doubtful = true
  }
})

/**
 * Starts the engine.
 *
 * Fails with `MissingDriver`, which names the package to install, and with what hinders the start, such as a folder that
 * cannot be written.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: PGliteSettings = {},
  name: string = kindName
): Effect.fn.Return<PGliteConnection, ConnectionError, Scope.Scope> {
  const plane = settings.plane ?? "internal"
  let engine: Engine | undefined
  yield* Effect.addFinalizer(() =>
    engine === undefined || engine.database.closed
      ? Effect.void
      : Effect.ignore(Effect.tryPromise(() => (engine === undefined ? Promise.resolve() : engine.database.close())))
  )
  const started = Effect.suspend(() =>
    engine === undefined
      ? Effect.tap(start(name, settings), (it) =>
          Effect.sync(() => {
            engine = it
          })
        ).pipe(Effect.uninterruptible)
      : Effect.succeed(engine)
  )
  const acquireTimeout = Duration.decode(settings.acquireTimeout ?? "30 seconds")
  const release = yield* ConnectionLifecycle.track({ kind: kindName, name })
  const pool = yield* Pool.make<Engine>({
    kind: kindName,
    name,
    max: 1,
    acquireTimeout,
    idleTimeout: Duration.infinity,
    maxLifetime: Duration.infinity,
    drainTimeout: Duration.seconds(5),
    make: (made) => Effect.map(started, made),
    isUsable: (it) => !it.doubtful && !it.database.isInTransaction(),
    onGone: () => {},
    // The one backend is not thrown away: what was left open in it is.
    destroy: (it) =>
      Effect.suspend(() =>
        it.database.closed || !it.database.isInTransaction()
          ? Effect.void
          : Effect.ignore(Effect.tryPromise(() => it.database.exec("ROLLBACK")))
      ).pipe(
        Effect.zipRight(
          Effect.sync(() => {
            it.doubtful = false
          })
        )
      )
  })
  const sql = yield* Sql.make({
    kind: kindName,
    name,
    watch: plane === "internal" ? undefined : yield* ExternalClient.make(watchOptions(name, {})),
    acquire: Effect.map(pool.acquire, (it) => sessionOf(name, it)),
    acquireTimeout,
    persistent: settings.dataDir !== undefined && !settings.dataDir.startsWith("memory:"),
    endTimeout: Duration.seconds(30),
    attributes: [["db.system.name", "postgresql"]]
  }).pipe(Effect.provide(Reactivity.layer))
  if (settings.connect !== "lazy") yield* Effect.scoped(pool.acquire)

  const health: Effect.Effect<CheckResult> = Effect.gen(function* () {
    const stats = yield* pool.stats
    // Who holds it shows that it works.
    if (stats.inUse > 0) return { status: "up" as const, details: { ...stats } }
    const answer = yield* Effect.scoped(
      Effect.flatMap(pool.acquire, (it) => sessionOf(name, it).run("select 1", [], "array"))
    ).pipe(Effect.timeoutOption("1500 millis"), Effect.either)
    if (answer._tag === "Left") return { status: "down" as const, details: { ...stats, reason: answer.left.reason } }
    return Option.isSome(answer.right)
      ? { status: "up" as const, details: { ...stats } }
      : { status: "down" as const, details: { ...stats, reason: "no answer in time" } }
  })
  yield* Health.register({ name, check: health })
  yield* release.begin(pool.stats)
  return {
    sql,
    name,
    kind: kindName,
    plane,
    use: (f) => f(sql),
    health,
    stats: pool.stats,
    state: release.state(Effect.sync(() => (engine === undefined ? "idle" : "ready"))),
    drained: release.drained
  }
})

const contextOf = (connection: PGliteConnection): Context.Context<SqlClient | PGlite> =>
  Context.add(Context.make(SqlClient, connection.sql), PGlite, connection)

/**
 * The `SqlClient` and the connection, from settings: `PGlite.layer()` is in memory, with pgvector.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: PGliteSettings = {}): Layer.Layer<SqlClient | PGlite, ConnectionError> =>
  Layer.scopedContext(Effect.map(make(settings), contextOf))

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

/**
 * The settings as configuration: `dataDir`, `vector`, `acquireTimeout`, `plane` and `connect`, all optional.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<PGliteSettings> = Config.all({
  dataDir: optional(Config.nonEmptyString("dataDir")),
  vector: optional(Config.boolean("vector")),
  acquireTimeout: optional(Config.duration("acquireTimeout")),
  plane: optional(Config.literal("internal", "external")("plane")),
  connect: optional(Config.literal("eager", "lazy")("connect"))
})

/**
 * The `SqlClient` and the connection, from configuration.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  settings: Config.Config.Wrap<PGliteSettings>
): Layer.Layer<SqlClient | PGlite, ConnectionError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(Config.unwrap(settings), (settings) => make(settings)),
      contextOf
    )
  )

/**
 * PGlite for the registry of connections: `Connections.layer([PGlite.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<SqlClient, PGliteSettings> = {
  kind: kindName,
  settings: config,
  make: (name, settings) => make(settings, name)
}
