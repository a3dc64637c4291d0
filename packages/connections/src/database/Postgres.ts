/**
 * PostgreSQL as the `SqlClient` of `@effect/sql`, on the driver `pg` and a pool of our own: an interruption cancels the
 * caller's own statement and nobody else's, everything that waits can be interrupted and ends in time, and nothing is
 * left on the server when the scope closes.
 *
 * @since 0.1.0
 */
import type { ConnectionOptions } from "node:tls"
import * as Reactivity from "@effect/experimental/Reactivity"
import * as Migrator from "@effect/sql/Migrator"
import { SqlClient } from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Health from "@underlay/core/operations/Health"
import type * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Pg from "pg"
import { load } from "../internal/driver.ts"
import * as Notifications from "../internal/postgres/notifications.ts"
import * as Prepared from "../internal/postgres/prepared.ts"
import * as Replicas from "../internal/postgres/replicas.ts"
import * as PostgresSession from "../internal/postgres/session.ts"
import * as Where from "../internal/postgres/settings.ts"
import * as Sql from "../internal/sql/client.ts"
import * as Pool from "../internal/sql/pool.ts"
import { run } from "../internal/sql/session.ts"
import * as Watch from "../internal/sql/watch.ts"
import { DatabaseError } from "./DatabaseError.ts"

/**
 * What is verified of a server with TLS: `require` encrypts and verifies nothing (with an authority, as `verify-ca`);
 * `verify-ca` that the authority signed its certificate; `verify-full` also that it is of this host; `no-verify` is
 * `require` whatever is given; `disable` is no TLS. There is no mode that may end without TLS by itself.
 *
 * @since 0.1.0
 * @category models
 */
export type PostgresTlsMode = "disable" | "require" | "no-verify" | "verify-ca" | "verify-full"

/**
 * TLS in detail: a mode (`verify-full`), the authority, a certificate of the client's own, as PEM texts or files; and
 * whatever else `node:tls` takes.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresTls extends Omit<ConnectionOptions, "key" | "passphrase"> {
  readonly mode?: PostgresTlsMode | undefined
  readonly caFile?: string | undefined
  readonly certFile?: string | undefined
  readonly key?: Redacted.Redacted | ConnectionOptions["key"]
  readonly keyFile?: string | undefined
  readonly passphrase?: Redacted.Redacted | string | undefined
}

/**
 * Where a server is. Give `url`, or the parts; a part beside a `url` wins over it. Without any, the driver's own rules
 * apply (`PGHOST` and the others, then localhost).
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresAddress {
  /** `postgres://user:password@host:5432/database?sslmode=verify-full`. */
  readonly url?: Redacted.Redacted | undefined
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly database?: string | undefined
  readonly username?: string | undefined
  /** The password, or an effect that is asked for it each time that a connection is made. */
  readonly password?: Redacted.Redacted | Effect.Effect<Redacted.Redacted, ConnectionError> | undefined
  /** TLS: `true` is `verify-full`, `false` is none; a mode; or details. What is asked for is never given up. */
  readonly ssl?: boolean | PostgresTlsMode | PostgresTls | undefined
}

/**
 * Where the server is and how to treat it.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresSettings extends PostgresAddress {
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
  /**
   * The server ends a statement after this, be it a stream or a COPY: no limit. A pooler in between has to let
   * `statement_timeout` pass. `withStatementTimeout` is for single ones.
   */
  readonly statementTimeout?: Duration.DurationInput | undefined
  /**
   * How long COMMIT and ROLLBACK, which cannot be interrupted, may take: 30 s. It is the only limit that they have, for
   * who gives up earlier does not know what became of them.
   */
  readonly endTimeout?: Duration.DurationInput | undefined
  /**
   * How long the request to cancel a statement may take, and then that statement to end, before its connection is cut:
   * 2 s.
   */
  readonly cancelTimeout?: Duration.DurationInput | undefined
  /** How long the release waits for what is in use: 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** How long a check of health may take: 1 s. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /**
   * Prepares statements with parameters that are met a second time, on each connection: on. Off for a pooler in between
   * that gives each transaction another session, unless it knows prepared statements and no table is changed meanwhile.
   */
  readonly prepare?: boolean | undefined
  /**
   * Servers that only read, for `reads`. What one does not say is as with the primary: user, password, database, TLS.
   */
  readonly replicas?: ReadonlyArray<PostgresAddress> | undefined
  /** Where `reads` goes when no replica can be reached: to the `primary`, or nowhere (`fail`). primary. */
  readonly replicaFallback?: "primary" | "fail" | undefined
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
  /**
   * `eager` proves that the server can be reached before anything starts; `lazy` waits for the first statement;
   * `background` connects without anybody waiting, again and again until it succeeds: eager.
   */
  readonly connect?: ConnectMode | undefined
}

/**
 * How a transaction is begun, and how often it may be run again.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactionOptions {
  /** As the server is set, which is `read committed` where nobody changed it. */
  readonly isolation?: "read committed" | "repeatable read" | "serializable" | undefined
  readonly readOnly?: boolean | undefined
  /** With `serializable` and `readOnly`: waits until it can run without conflicts. */
  readonly deferrable?: boolean | undefined
  /** How often it is run again, as a whole, after a serialization failure (40001) or a deadlock (40P01): 3. */
  readonly retries?: number | undefined
  /** When it is run again: after 5 ms, doubling up to a second, with jitter. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

/**
 * What `listen` gives: a notification; or that listening has begun, at first (`again` false) and after each loss of the
 * connection (`again` true), when notifications may have been missed.
 *
 * @since 0.1.0
 * @category models
 */
export type Notification =
  | {
      readonly _tag: "Notification"
      readonly channel: string
      readonly payload: string
      /** The server's process that sent it, where there are several. */
      readonly processId: number | undefined
    }
  | { readonly _tag: "Listening"; readonly again: boolean }

/**
 * What a database can do, for those who write for several.
 *
 * @since 0.1.0
 * @category models
 */
export interface Capabilities {
  /** Several transactions at once; else one has the database to itself and the others wait. */
  readonly concurrentTransactions: boolean
  /** A statement that runs is cancelled when it is interrupted or its time is over. */
  readonly cancellation: boolean
  /** COPY as streams. */
  readonly copy: boolean
  /** Streams outside transactions come row by row. */
  readonly streaming: boolean
}

/**
 * A connection with its client, which lives as long as the connection does.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresConnection extends Connection<SqlClient> {
  readonly sql: SqlClient
  /**
   * The same for what only reads, which the server makes sure of: each statement, or each transaction, goes to the least
   * busy replica that can be reached; without one to the primary. It may see data that is a little old.
   */
  readonly reads: SqlClient
  readonly capabilities: Capabilities
  /**
   * `COPY ... FROM STDIN`: sends the bytes as fast as the server takes them, and gives the number of rows. The bytes are
   * in the format that the statement names; `PostgresCopy` makes them of rows. In a transaction it takes part in it.
   */
  readonly copyIn: <E, R>(
    statement: string,
    bytes: Stream.Stream<Uint8Array, E, R>
  ) => Effect.Effect<number, E | SqlError, R>
  /** `COPY ... TO STDOUT`: the bytes as the server sends them, as fast as they are consumed. */
  readonly copyOut: (statement: string) => Stream.Stream<Uint8Array, SqlError>
  /**
   * LISTEN, on a connection of its own that is made again when it is lost, however long that takes: `health` is
   * `degraded` meanwhile, with why it was refused last. It fails if the first one cannot be had, and with `Closed` at the
   * release.
   */
  readonly listen: (...channels: ReadonlyArray<string>) => Stream.Stream<Notification, SqlError>
  /** NOTIFY, with at most 7,999 bytes. In a transaction it is sent when that commits. */
  readonly notify: (channel: string, payload?: string) => Effect.Effect<void, SqlError>
}

/**
 * PostgreSQL as a connection: statistics of its pool, health, and the `SqlClient`.
 *
 * @since 0.1.0
 * @category tags
 */
export class Postgres extends Context.Tag("@underlay/connections/Postgres")<Postgres, PostgresConnection>() {}

const kindName = "postgres"

// The server takes whole milliseconds, and 0 as no limit.
const limitOf = (timeout: Duration.DurationInput | undefined): Duration.Duration | undefined => {
  if (timeout === undefined) return undefined
  const millis = Duration.toMillis(timeout)
  return Number.isFinite(millis) ? Duration.millis(Math.max(1, Math.ceil(millis))) : undefined
}

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
  const at = { kind: kindName, name }
  const plane = settings.plane ?? "external"
  const invalid = (description: string, cause?: unknown) =>
    new ConnectionError({
      reason: "InvalidSettings",
      kind: kindName,
      connection: name,
      method: "make",
      description,
      sent: false,
      ...(cause === undefined ? {} : { cause })
    })
  const max = settings.maxConnections ?? 10
  if (!Number.isInteger(max) || max < 1) {
    return yield* invalid(`maxConnections has to be a whole number from 1 up, not ${max}`)
  }
  const primary = yield* Where.resolve(settings, undefined, invalid)
  const replicas = yield* Effect.forEach(settings.replicas ?? [], (replica) => Where.resolve(replica, primary, invalid))
  const durations = {
    connect: Duration.decode(settings.connectTimeout ?? primary.connectTimeoutMillis ?? "5 seconds"),
    cancel: Duration.decode(settings.cancelTimeout ?? "2 seconds"),
    acquire: Duration.decode(settings.acquireTimeout ?? "10 seconds"),
    idle: Duration.decode(settings.idleTimeout ?? "30 seconds"),
    lifetime: Duration.decode(settings.maxLifetime ?? "30 minutes"),
    drain: Duration.decode(settings.drainTimeout ?? "5 seconds"),
    end: Duration.decode(settings.endTimeout ?? "30 seconds"),
    health: Duration.decode(settings.healthTimeout ?? "1 second"),
    statement: limitOf(settings.statementTimeout)
  }
  const driver = yield* load(at, "pg", "8", () => import("pg").then((module) => module.default))
  const extra: Pg.ClientConfig = {
    ...(durations.statement === undefined ? {} : { statement_timeout: Duration.toMillis(durations.statement) }),
    application_name: settings.applicationName ?? primary.applicationName ?? "underlay",
    keepAlive: true
  }
  const statements = settings.prepare === false ? undefined : Prepared.make(256)
  const sessionOptions = (where: Where.Resolved, readOnly: boolean): PostgresSession.Options => ({
    ...at,
    driver,
    config: Where.configOf(where, extra, readOnly),
    statementTimeout: durations.statement,
    connectTimeout: durations.connect,
    cancelTimeout: durations.cancel,
    statements
  })
  const poolOf = (where: Where.Resolved, readOnly: boolean) => {
    const options = sessionOptions(where, readOnly)
    return Pool.make<PostgresSession.PostgresSession>({
      ...at,
      max,
      acquireTimeout: durations.acquire,
      idleTimeout: durations.idle,
      maxLifetime: durations.lifetime,
      drainTimeout: durations.drain,
      make: (made) => PostgresSession.connect(options, made),
      isUsable: (session) => session.isUsable(),
      onGone: (session, gone) => session.onGone(gone),
      destroy: (session) => session.end,
      // A look at the health that has given up does not hold up the next.
      makePatience: Duration.min(Duration.times(durations.connect, 0.1), Duration.times(durations.health, 0.5)),
      isSilent: (session) => session.isSilent(),
      check: (session) => look(session, Duration.toMillis(Duration.min(durations.health, durations.connect)))
    })
  }
  const listener = sessionOptions(primary, false)
  const notifications = yield* Notifications.make({
    ...at,
    connect: (made) => PostgresSession.connect(listener, made),
    checkEvery: Duration.seconds(30),
    checkTimeout: durations.connect
  })
  const pool = yield* poolOf(primary, false)
  const replicaPools = yield* Effect.forEach(replicas, (replica) => poolOf(replica, true))
  const last = settings.replicaFallback === "fail" && replicaPools.length > 0 ? [] : [yield* poolOf(primary, true)]
  // All at once, so that the release takes as long as the slowest.
  const pools = [pool, ...replicaPools, ...last]
  yield* Effect.addFinalizer(() =>
    Effect.forEach(pools, ({ close }) => close, { concurrency: "unbounded", discard: true })
  )
  const clock = yield* Effect.clock
  const reading = Replicas.request(
    [
      ...replicaPools.map((pool) => ({ pool, last: false })),
      ...last.map((pool) => ({ pool, last: replicaPools.length > 0 }))
    ],
    () => clock.unsafeCurrentTimeMillis()
  )
  const breaker =
    plane === "internal" || settings.breaker === false
      ? undefined
      : yield* Watch.makeBreaker(name, settings.breaker ?? {})
  const watch = plane === "internal" ? undefined : yield* ExternalClient.make(Watch.watchOptions(name, settings))
  const clientOf = (
    acquire: Pool.Pool<PostgresSession.PostgresSession>["acquire"],
    request: Pool.Pool<PostgresSession.PostgresSession>["request"],
    server: Where.Resolved | undefined
  ) =>
    Sql.make<PostgresSession.PostgresSession>({
      ...at,
      watch,
      acquire,
      pool: watch === undefined ? { request } : undefined,
      acquireTimeout: durations.acquire,
      persistent: true,
      endTimeout: durations.end,
      timeouts: true,
      readOnly: server === undefined,
      attributes: [
        ["db.system.name", "postgresql"],
        ...(primary.database === undefined ? [] : [["db.namespace", primary.database] as const]),
        ...(server?.host === undefined ? [] : [["server.address", server.host] as const]),
        ...(server === undefined ? [] : [["server.port", server.port ?? 5432] as const])
      ]
    }).pipe(Effect.provide(Reactivity.layer))
  const client = yield* clientOf(
    breaker === undefined ? pool.acquire : Watch.guarded(at, breaker, pool.acquire),
    pool.request,
    primary
  )
  const readClient = yield* clientOf(Pool.acquireBy(reading), reading, undefined)
  if (settings.connect === "background") yield* Effect.forkScoped(Effect.interruptible(Pool.untilReady(pool)))
  else if (settings.connect !== "lazy") yield* Effect.scoped(pool.acquire)

  const { sql } = client
  const connection: PostgresConnection = {
    sql,
    reads: readClient.sql,
    name,
    kind: kindName,
    plane,
    capabilities: { concurrentTransactions: true, cancellation: true, copy: true, streaming: true },
    use: (f) => f(sql),
    health: healthOf(
      pool,
      replicas.map(({ host, port }, index) => ({ host, port, pool: replicaPools[index] })),
      breaker,
      notifications.lost,
      durations.health
    ),
    stats: pool.stats,
    state: pool.state,
    drained: Effect.map(
      Effect.forEach(pools, ({ drained }) => drained),
      (reports) => ({
        ...at,
        inUse: sum(reports.map(({ inUse }) => inUse)),
        finished: sum(reports.map(({ finished }) => finished)),
        cut: sum(reports.map(({ cut }) => cut)),
        tookMs: Math.max(...reports.map(({ tookMs }) => tookMs))
      })
    ),
    copyIn: (statement, bytes) => copyIn(client, statement, bytes),
    copyOut: (statement) => copyOut(client, statement),
    listen: (...channels) => Stream.mapError(notifications.listen(channels), (error) => new DatabaseError(error)),
    notify: (channel, payload = "") => {
      if (Buffer.byteLength(payload) > 7_999) {
        return new DatabaseError(
          new ConnectionError({
            reason: "InvalidRequest",
            kind: kindName,
            connection: name,
            method: "notify",
            description: "the payload of a notification has at most 7,999 bytes: store it, and send its key",
            sent: false
          })
        )
      }
      return Effect.asVoid(sql`select pg_notify(${channel}, ${payload})`)
    }
  }
  yield* Health.register({ name, check: connection.health })
  return connection
})

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, each) => total + each, 0)

const copyIn = <E, R>(
  client: Sql.Extras<PostgresSession.PostgresSession>,
  statement: string,
  bytes: Stream.Stream<Uint8Array, E, R>
): Effect.Effect<number, E | SqlError, R> =>
  Effect.flatMap(Effect.context<R>(), (context) => {
    // A source that fails is no failure of the database.
    const copied = Effect.scoped(
      Effect.gen(function* () {
        const { failed, session, within } = yield* client.borrow
        const typed = <A, R>(effect: Effect.Effect<A, ConnectionError, R>) => Effect.mapError(effect, failed)
        const copy = yield* typed(session.copyIn(statement, { timeout: yield* Sql.StatementTimeout, within }))
        // By hand, since what runs a stream that fails has a fiber of its own that fails, and the runtime logs that.
        type Failure = SqlError | { readonly _tag: "Source"; readonly error: E }
        const sent = Effect.scoped(
          Effect.flatMap(Stream.toPull(Stream.provideContext(bytes, context)), (pull) => {
            const some = Effect.matchEffect(pull, {
              onFailure: Option.match({
                onNone: (): Effect.Effect<boolean, Failure> => Effect.succeed(false),
                onSome: (error) => Effect.fail({ _tag: "Source" as const, error })
              }),
              onSuccess: (pieces): Effect.Effect<boolean, Failure> =>
                Effect.as(
                  Effect.forEach(pieces, (piece) => typed(copy.send(piece)), { discard: true }),
                  true
                )
            })
            const all: Effect.Effect<void, Failure> = Effect.flatMap(some, (more) => (more ? all : Effect.void))
            return all
          })
        )
        const outcome = yield* Effect.raceFirst(
          // The loser ends where the caller cannot be interrupted too. A fiber that fails would be logged by the runtime.
          Effect.interruptible(Effect.either(sent)),
          Effect.interruptible(Effect.either(typed(copy.failed)))
        ).pipe(
          Effect.flatten,
          Effect.as(undefined),
          Effect.catchAll((failure) => (failure._tag === "Source" ? Effect.succeed(failure) : Effect.fail(failure)))
        )
        return outcome === undefined ? Either.right(yield* typed(copy.end)) : Either.left(outcome.error)
      })
    )
    return Effect.flatMap(client.runner.effect(statement, copied), (outcome): Effect.Effect<number, E> => outcome)
  })

const copyOut = (
  client: Sql.Extras<PostgresSession.PostgresSession>,
  statement: string
): Stream.Stream<Uint8Array, SqlError> =>
  client.runner.stream(
    statement,
    Stream.unwrapScoped(
      Effect.map(
        Effect.flatMap(Effect.zip(client.borrow, Sql.StatementTimeout), ([{ failed, session, within }, timeout]) =>
          Effect.map(Effect.mapError(session.copyOut(statement, { timeout, within }), failed), (pull) =>
            Effect.mapError(pull, Option.map(failed))
          )
        ),
        Stream.repeatEffectChunkOption
      )
    )
  )

/** Whether the server answers. There is nothing to be cancelled: a connection without an answer is cut. */
const look = (session: PostgresSession.PostgresSession, millis: number) =>
  run(session, { sql: "select 1", params: [], rows: "array", timeout: Math.max(1, millis), final: true })

/** What a server says within the time: nothing if all connections are busy, as that is a load and no outage. */
const ask = (
  pool: Pool.Pool<PostgresSession.PostgresSession>,
  timeout: Duration.Duration
): Effect.Effect<CheckResult> =>
  Effect.gen(function* () {
    const millis = Duration.toMillis(timeout)
    const clock = yield* Effect.clock
    const began = clock.unsafeCurrentTimeMillis()
    let connected = false
    let late = false
    const asked = yield* Effect.scoped(
      Effect.flatMap(pool.acquire, (session) => {
        const left = began + millis - clock.unsafeCurrentTimeMillis()
        // Too little for an answer: a connection that is sound would be cut for it.
        late = left < millis / 10
        if (late) return Effect.void
        connected = true
        // A little before the time is over, so that it is this that ends it.
        return look(session, left - Math.min(10, left / 10))
      })
    ).pipe(Effect.either, Effect.interruptible, Effect.disconnect, Effect.timeoutOption(timeout))
    const stats = yield* pool.stats
    const details = { ...stats }
    const silent =
      connected &&
      (Option.isNone(asked) ||
        // As opposed to a limit of the server's own, which is an answer.
        (Either.isLeft(asked.value) && asked.value.left.reason === "Timeout" && asked.value.left.code === undefined))
    if (silent) {
      // Most likely it is the same with the others.
      pool.suspect()
      return { status: "down" as const, details: { ...details, reason: "no answer in time" } }
    }
    if (late) return { status: "degraded" as const, details: { ...details, reason: "a connection came too late" } }
    if (Option.isSome(asked)) {
      if (Either.isRight(asked.value)) return { status: "up" as const, details }
      const { code, reason } = asked.value.left
      return { status: "down" as const, details: { ...details, reason, ...(code === undefined ? {} : { code }) } }
    }
    return stats.inUse > 0
      ? { status: "degraded" as const, details: { ...details, reason: "all connections are in use" } }
      : { status: "down" as const, details: { ...details, reason: "no connection in time" } }
  })

const healthOf = (
  pool: Pool.Pool<PostgresSession.PostgresSession>,
  replicas: ReadonlyArray<{
    readonly host: string | undefined
    readonly port: number | undefined
    readonly pool: Pool.Pool<PostgresSession.PostgresSession> | undefined
  }>,
  breaker: CircuitBreaker.CircuitBreaker | undefined,
  lost: () => Notifications.Lost | undefined,
  timeout: Duration.Duration
): Effect.Effect<CheckResult> =>
  Effect.gen(function* () {
    const [own, others] = yield* Effect.all(
      [
        ask(pool, timeout),
        Effect.forEach(
          replicas,
          ({ host, pool, port }) =>
            pool === undefined
              ? Effect.succeed({ host, port, status: "down" as const })
              : Effect.map(ask(pool, timeout), ({ status }) => ({ host, port, status })),
          { concurrency: "unbounded" }
        )
      ],
      { concurrency: "unbounded" }
    )
    const listening = lost()
    const details = {
      ...own.details,
      ...(listening === undefined ? {} : { listen: listening }),
      ...(breaker === undefined ? {} : { circuit: yield* breaker.state }),
      ...(others.length === 0 ? {} : { replicas: others })
    }
    if (own.status !== "up") return { status: own.status, details }
    if (others.some(({ status }) => status === "down")) {
      return { status: "degraded", details: { ...details, reason: "a replica is out of reach" } }
    }
    return listening === undefined
      ? { status: "up", details }
      : { status: "degraded", details: { ...details, reason: "a LISTEN has lost its connection" } }
  })

/**
 * Runs an effect as one transaction of the `SqlClient`, which has to be one of this package's: all its statements are
 * committed if it succeeds, and none if not. A transaction that PostgreSQL gave up for the sake of others (a serialization
 * failure, a deadlock) is run again as a whole, three times unless told otherwise, so the effect must bear that; never
 * after a COMMIT whose outcome is not known. Inside another transaction it is a savepoint and is not run again by itself.
 *
 * @since 0.1.0
 * @category combinators
 */
export const transaction = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  options: TransactionOptions = {}
): Effect.Effect<A, E | SqlError, R | SqlClient> =>
  Effect.flatMap(SqlClient, (sql): Effect.Effect<A, E | SqlError, R> => {
    const extras = Sql.extrasOf(sql)
    return extras === undefined
      ? new DatabaseError(
          new ConnectionError({
            reason: "Unsupported",
            kind: kindName,
            connection: "SqlClient",
            method: "transaction",
            description: "the SqlClient is not one of @underlay/connections: use its own withTransaction",
            sent: false
          })
        )
      : extras.transaction(effect, { retries: 3, ...options })
  })

/**
 * Ends each statement of an effect that takes longer: it is cancelled on the server and fails with `Timeout`, also where
 * the effect cannot be interrupted. Streams and COPY are limited as a whole.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withStatementTimeout = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  duration: Duration.DurationInput
): Effect.Effect<A, E, R> => Effect.provideService(effect, Sql.StatementTimeout, Duration.toMillis(duration))

/**
 * Brings the schema up to date when the layer is built: the migrations that `loader` finds (of `Migrator` of
 * `@effect/sql`) and that are not in `table` yet are run in one transaction, with a lock, so that several processes that
 * start at once run each of them once. A migration that fails is a typed error, and nothing of the run stays.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMigrator = <R = never>(options: {
  readonly loader: Migrator.Loader<R>
  /** Where is kept what was run: `effect_sql_migrations`. */
  readonly table?: string | undefined
}): Layer.Layer<never, Migrator.MigrationError | SqlError, SqlClient | R> => Layer.effectDiscard(migrate(options))

/**
 * The same as an effect: it gives the migrations that were run.
 *
 * @since 0.1.0
 * @category combinators
 */
export const migrate = <R = never>(options: {
  readonly loader: Migrator.Loader<R>
  readonly table?: string | undefined
}): Effect.Effect<
  ReadonlyArray<readonly [id: number, name: string]>,
  Migrator.MigrationError | SqlError,
  SqlClient | R
> =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const table = options.table ?? "effect_sql_migrations"
    return yield* sql.withTransaction(
      Effect.gen(function* () {
        yield* sql`select pg_advisory_xact_lock(hashtextextended(${`@underlay/migrations/${table}`}::text, 0))`
        // The migrator asks whether it is there by a statement that fails, which no transaction survives.
        yield* sql`create table if not exists ${sql(table)} (
          migration_id integer primary key,
          created_at timestamp with time zone not null default now(),
          name text not null
        )`
        return yield* Migrator.make({})({ loader: options.loader, table })
      })
    )
  }).pipe(
    Effect.catchAllCause((cause) => {
      // A migration that fails is a defect of the migrator's.
      const failed = Option.filter(Cause.dieOption(cause), (defect) => defect instanceof Migrator.MigrationError)
      return Option.isSome(failed) && failed.value instanceof Migrator.MigrationError
        ? Effect.fail(failed.value)
        : Effect.failCause(cause)
    })
  )

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

const tlsMode = Schema.Literal("disable", "require", "no-verify", "verify-ca", "verify-full")

const address = {
  url: Schema.optional(Fields.Secret),
  host: Schema.optional(Fields.Text),
  port: Schema.optional(Fields.Port),
  database: Schema.optional(Fields.Text),
  username: Schema.optional(Fields.Text),
  password: Schema.optional(Fields.Secret),
  ssl: Schema.optional(
    Schema.Union(
      Schema.Boolean,
      tlsMode,
      Schema.Struct({
        mode: Schema.optional(tlsMode),
        ca: Schema.optional(Fields.Text),
        caFile: Schema.optional(Fields.Text),
        cert: Schema.optional(Fields.Text),
        certFile: Schema.optional(Fields.Text),
        key: Schema.optional(Fields.Secret),
        keyFile: Schema.optional(Fields.Text),
        passphrase: Schema.optional(Fields.Secret),
        servername: Schema.optional(Fields.Text)
      })
    )
  )
}

/**
 * The settings as they are written in a configuration, all optional.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  ...address,
  applicationName: Schema.optional(Fields.Text),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  acquireTimeout: Schema.optional(Fields.Duration),
  idleTimeout: Schema.optional(Fields.Duration),
  maxLifetime: Schema.optional(Fields.Duration),
  statementTimeout: Schema.optional(Fields.Duration),
  endTimeout: Schema.optional(Fields.Duration),
  cancelTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  prepare: Schema.optional(Fields.Flag),
  replicas: Schema.optional(Schema.Array(Schema.Struct(address))),
  replicaFallback: Schema.optional(Schema.Literal("primary", "fail")),
  plane: Schema.optional(Fields.Plane),
  slowAfter: Schema.optional(Fields.Duration),
  connect: Schema.optional(Fields.ConnectMode)
})

/**
 * The settings as configuration. The registry reads it below `connections.<name>`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<PostgresSettings> = configOfSchema(Settings)

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
export const kind: Kind<SqlClient, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
