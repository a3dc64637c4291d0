/**
 * PostgreSQL as the `SqlClient` of `@effect/sql`, on the driver `pg` and a pool of our own: an interruption cancels the
 * caller's own statement and nobody else's, everything that waits can be interrupted and ends in time, and nothing is
 * left on the server when the scope closes.
 *
 * @since 0.1.0
 */
import type { ConnectionOptions } from "node:tls"
import * as Reactivity from "@effect/experimental/Reactivity"
import { SqlClient } from "@effect/sql/SqlClient"
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectionStats,
  type Kind,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Health from "@underlay/core/operations/Health"
import type * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Pg from "pg"
import { load } from "../internal/driver.ts"
import * as Pool from "../internal/pool.ts"
import * as PostgresSession from "../internal/postgresSession.ts"
import * as Sql from "../internal/sqlClient.ts"
import * as Watch from "../internal/watch.ts"

/**
 * Where the server is and how to treat it. Give `url`, or the parts; a part beside a `url` wins over it. Without any,
 * the driver's own rules apply (`PGHOST` and the others, then localhost).
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresSettings {
  /** `postgres://user:password@host:5432/database?sslmode=require`. */
  readonly url?: Redacted.Redacted | undefined
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly database?: string | undefined
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted | undefined
  /** TLS: on, off, or the options of `node:tls`. */
  readonly ssl?: boolean | ConnectionOptions | undefined
  /** How the connections are named in `pg_stat_activity`: `underlay`. */
  readonly applicationName?: string | undefined
  /** The most connections at once: 10. */
  readonly maxConnections?: number | undefined
  /** How long one may take to be made: 5 s. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long a statement may wait for a free one: 10 s. */
  readonly acquireTimeout?: Duration.DurationInput | undefined
  /** When one that nobody uses is closed: 30 s. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** When one is replaced though it works: 30 minutes. */
  readonly maxLifetime?: Duration.DurationInput | undefined
  /** The server ends a statement after this: no limit. A pooler in between has to let `statement_timeout` pass. */
  readonly statementTimeout?: Duration.DurationInput | undefined
  /** How long COMMIT and ROLLBACK, which cannot be interrupted, may take: 30 s. */
  readonly endTimeout?: Duration.DurationInput | undefined
  /** How long a cancelled statement may take to end before its connection is cut: 2 s. */
  readonly cancelTimeout?: Duration.DurationInput | undefined
  /** How long the release waits for what is in use: 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** `external` (each statement is watched) or `internal` (nothing is shown): external. */
  readonly plane?: Plane | undefined
  /** On the external plane: from when a statement is logged as slow. 5 s. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** On the external plane: the levels of the one log line of a statement. */
  readonly logLevels?: ExternalClient.LogLevels | undefined
  /**
   * On the external plane: the circuit breaker on the way to the server; false for none. By default five connections in a
   * row that cannot be made open it, for a second at first and thirty at most.
   */
  readonly breaker?: Pick<CircuitBreaker.Options, "window" | "openFor" | "halfOpenPermits"> | false | undefined
  /** `eager` proves that the server can be reached before anything starts; `lazy` waits for the first statement: eager. */
  readonly connect?: "eager" | "lazy" | undefined
}

/**
 * A connection with its client, which lives as long as the connection does.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresConnection extends Connection<SqlClient> {
  readonly sql: SqlClient
}

/**
 * PostgreSQL as a connection: statistics of its pool, health, and the `SqlClient`.
 *
 * @since 0.1.0
 * @category tags
 */
export class Postgres extends Context.Tag("@underlay/connections/Postgres")<Postgres, PostgresConnection>() {}

const kindName = "postgres"

const checkUrl = (name: string, url: Redacted.Redacted | undefined): Effect.Effect<URL | undefined, ConnectionError> =>
  Effect.suspend(() => {
    if (url === undefined) return Effect.succeed(undefined)
    const parsed = URL.canParse(Redacted.value(url)) ? new URL(Redacted.value(url)) : undefined
    return parsed?.protocol === "postgres:" || parsed?.protocol === "postgresql:"
      ? Effect.succeed(parsed)
      : new ConnectionError({
          reason: "InvalidSettings",
          kind: kindName,
          connection: name,
          method: "make",
          description: "the URL has to be like postgres://user:password@host:5432/database, special characters escaped"
        })
  })

const checkMax = (name: string, max: number): Effect.Effect<void, ConnectionError> =>
  Number.isInteger(max) && max >= 1
    ? Effect.void
    : new ConnectionError({
        reason: "InvalidSettings",
        kind: kindName,
        connection: name,
        method: "make",
        description: `maxConnections has to be a whole number from 1 up, not ${max}`
      })

/**
 * Connects. The pool is drained when the scope closes: at once where nothing runs.
 *
 * Fails with `InvalidSettings` for settings that cannot work and, if `connect` is `eager`, with what hinders the first
 * connection: `Unavailable`, `Timeout`, `Authentication`, `NotFound` (no such database), `Throttled` (too many).
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: PostgresSettings,
  name: string = kindName
): Effect.fn.Return<PostgresConnection, ConnectionError, Scope.Scope> {
  const plane = settings.plane ?? "external"
  const duration = (input: Duration.DurationInput | undefined, instead: Duration.DurationInput) =>
    Duration.decode(input ?? instead)
  const statementTimeout =
    settings.statementTimeout === undefined ? undefined : Duration.decode(settings.statementTimeout)
  const max = settings.maxConnections ?? 10
  const url = yield* checkUrl(name, settings.url)
  yield* checkMax(name, max)
  const driver = yield* load({ kind: kindName, name }, "pg", "8", () => import("pg").then((module) => module.default))
  const { password } = settings
  const config: Pg.ClientConfig = {
    ...(settings.url === undefined ? {} : { connectionString: Redacted.value(settings.url) }),
    ...(settings.host === undefined ? {} : { host: settings.host }),
    ...(settings.port === undefined ? {} : { port: settings.port }),
    ...(settings.database === undefined ? {} : { database: settings.database }),
    ...(settings.username === undefined ? {} : { user: settings.username }),
    ...(password === undefined ? {} : { password: () => Redacted.value(password) }),
    ...(settings.ssl === undefined ? {} : { ssl: settings.ssl }),
    ...(statementTimeout === undefined ? {} : { statement_timeout: Duration.toMillis(statementTimeout) }),
    application_name: settings.applicationName ?? "underlay",
    keepAlive: true
  }
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const session: PostgresSession.Options = {
    kind: kindName,
    name,
    driver,
    config,
    statementTimeout,
    connectTimeout: duration(settings.connectTimeout, "5 seconds"),
    cancelTimeout: duration(settings.cancelTimeout, "2 seconds"),
    background: run
  }
  const acquireTimeout = duration(settings.acquireTimeout, "10 seconds")
  const release = yield* ConnectionLifecycle.track({ kind: kindName, name })
  const pool = yield* Pool.make<PostgresSession.PostgresSession>({
    kind: kindName,
    name,
    max,
    acquireTimeout,
    idleTimeout: duration(settings.idleTimeout, "30 seconds"),
    maxLifetime: duration(settings.maxLifetime, "30 minutes"),
    drainTimeout: duration(settings.drainTimeout, "5 seconds"),
    make: (made) => PostgresSession.connect(session, made),
    isUsable: (session) => session.isUsable(),
    onGone: (session, gone) => session.onGone(gone),
    destroy: (session) => session.end
  })
  const database = settings.database ?? url?.pathname.slice(1)
  const host = settings.host ?? url?.hostname
  const breaker =
    plane === "internal" || settings.breaker === false
      ? undefined
      : yield* Watch.makeBreaker(name, settings.breaker ?? {})
  const sql = yield* Sql.make({
    kind: kindName,
    name,
    watch: plane === "internal" ? undefined : yield* ExternalClient.make(Watch.watchOptions(name, settings)),
    acquire: breaker === undefined ? pool.acquire : Watch.guarded({ kind: kindName, name }, breaker, pool.acquire),
    acquireTimeout,
    persistent: true,
    endTimeout: duration(settings.endTimeout, "30 seconds"),
    attributes: [
      ["db.system.name", "postgresql"],
      ...(database === undefined || database === "" ? [] : [["db.namespace", database] as const]),
      ...(host === undefined || host === "" ? [] : [["server.address", host] as const]),
      ["server.port", settings.port ?? (url === undefined || url.port === "" ? 5432 : Number(url.port))]
    ]
  }).pipe(Effect.provide(Reactivity.layer))
  if (settings.connect !== "lazy") yield* Effect.scoped(pool.acquire)

  const connection: PostgresConnection = {
    sql,
    name,
    kind: kindName,
    plane,
    use: (f) => f(sql),
    health: healthOf(pool, breaker, "750 millis"),
    stats: pool.stats,
    state: release.state(Effect.map(pool.stats, ({ total }) => (total > 0 ? "ready" : "idle"))),
    drained: release.drained
  }
  yield* release.begin(pool.stats)
  yield* Health.register({ name, check: connection.health })
  return connection
})

const healthOf = (
  pool: Pool.Pool<PostgresSession.PostgresSession>,
  breaker: CircuitBreaker.CircuitBreaker | undefined,
  timeout: Duration.DurationInput
): Effect.Effect<CheckResult> =>
  Effect.gen(function* () {
    const asked = yield* Effect.scoped(
      Effect.gen(function* () {
        const session = yield* Effect.timeoutOption(pool.acquire, timeout)
        if (Option.isNone(session)) return "no connection" as const
        const answer = yield* Effect.timeoutOption(session.value.run("select 1", [], "array"), timeout)
        return Option.isNone(answer) ? ("no answer" as const) : ("answer" as const)
      })
    ).pipe(Effect.either)
    const stats: ConnectionStats = yield* pool.stats
    const details = { ...stats, ...(breaker === undefined ? {} : { circuit: yield* breaker.state }) }
    if (asked._tag === "Left") {
      const { code, reason } = asked.left
      return { status: "down", details: { ...details, reason, ...(code === undefined ? {} : { code }) } }
    }
    if (asked.right === "answer") return { status: "up", details }
    // Nobody could be asked, because all are busy: that is a load, not an outage.
    return asked.right === "no connection" && stats.inUse > 0
      ? { status: "degraded", details: { ...details, reason: "all connections are in use" } }
      : { status: "down", details: { ...details, reason: `${asked.right} in time` } }
  })

const contextOf = (connection: PostgresConnection): Context.Context<SqlClient | Postgres> =>
  Context.add(Context.make(SqlClient, connection.sql), Postgres, connection)

/**
 * The `SqlClient` and the connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: PostgresSettings): Layer.Layer<SqlClient | Postgres, ConnectionError> =>
  Layer.scopedContext(Effect.map(make(settings), contextOf))

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

/**
 * The settings as configuration: `url`, `host`, `port`, `database`, `username`, `password`, `ssl`, `applicationName`,
 * `maxConnections`, the timeouts, `plane` and `connect`, all optional. The registry reads it below
 * `connections.<name>`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<PostgresSettings> = Config.all({
  url: optional(Config.redacted("url")),
  host: optional(Config.nonEmptyString("host")),
  port: optional(Config.port("port")),
  database: optional(Config.nonEmptyString("database")),
  username: optional(Config.nonEmptyString("username")),
  password: optional(Config.redacted("password")),
  ssl: optional(Config.boolean("ssl")),
  applicationName: optional(Config.nonEmptyString("applicationName")),
  maxConnections: optional(Config.integer("maxConnections")),
  connectTimeout: optional(Config.duration("connectTimeout")),
  acquireTimeout: optional(Config.duration("acquireTimeout")),
  idleTimeout: optional(Config.duration("idleTimeout")),
  maxLifetime: optional(Config.duration("maxLifetime")),
  statementTimeout: optional(Config.duration("statementTimeout")),
  endTimeout: optional(Config.duration("endTimeout")),
  cancelTimeout: optional(Config.duration("cancelTimeout")),
  drainTimeout: optional(Config.duration("drainTimeout")),
  plane: optional(Config.literal("internal", "external")("plane")),
  slowAfter: optional(Config.duration("slowAfter")),
  connect: optional(Config.literal("eager", "lazy")("connect"))
})

/**
 * The settings in `DATABASE_URL`, which has to be set.
 *
 * @since 0.1.0
 * @category schemas
 */
export const databaseUrl: Config.Config<PostgresSettings> = Config.map(Config.redacted("DATABASE_URL"), (url) => ({
  url
}))

/**
 * The `SqlClient` and the connection, from configuration: `DATABASE_URL` if nothing else is given.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  settings: Config.Config.Wrap<PostgresSettings> = databaseUrl
): Layer.Layer<SqlClient | Postgres, ConnectionError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(Config.unwrap(settings), (settings) => make(settings)),
      contextOf
    )
  )

/**
 * PostgreSQL for the registry of connections: `Connections.layer([Postgres.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<SqlClient, PostgresSettings> = {
  kind: kindName,
  settings: config,
  make: (name, settings) => make(settings, name)
}
