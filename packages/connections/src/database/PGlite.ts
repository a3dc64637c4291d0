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
import * as Chunk from "effect/Chunk"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Engine from "../internal/pglite/engine.ts"
import * as Folder from "../internal/pglite/folder.ts"
import * as Sql from "../internal/sql/client.ts"
import * as Pool from "../internal/sql/pool.ts"
import { run } from "../internal/sql/session.ts"
import { watchOptions } from "../internal/sql/watch.ts"
import { DatabaseError } from "./DatabaseError.ts"
import type { Capabilities, Notification } from "./Postgres.ts"

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
  /** How long a statement may wait for the one backend: 30 s. It cannot be limited how long one runs. */
  readonly acquireTimeout?: Duration.DurationInput | undefined
  /** `internal` (shows nothing) or `external` (each statement is watched): internal, since it is in this process. */
  readonly plane?: Plane | undefined
  /** How long the release waits for what is in use: 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** How long a check of health may take: 1 s. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /**
   * `eager` starts the engine at once, which takes seconds; `lazy` with the first statement; `background` at once, but
   * nobody waits for it: eager.
   */
  readonly connect?: ConnectMode | undefined
}

/**
 * A connection with its client, which lives as long as the connection does.
 *
 * @since 0.1.0
 * @category models
 */
export interface PGliteConnection extends Connection<SqlClient> {
  readonly sql: SqlClient
  readonly capabilities: Capabilities
  /** LISTEN: what is notified by this connection, since there is no other. It fails with `Closed` at the release. */
  readonly listen: (channel: string) => Stream.Stream<Notification, SqlError>
  /** NOTIFY, with at most 7,999 bytes. In a transaction it is sent when that commits. */
  readonly notify: (channel: string, payload?: string) => Effect.Effect<void, SqlError>
}

/**
 * PGlite as a connection.
 *
 * @since 0.1.0
 * @category tags
 */
export class PGlite extends Context.Tag("@underlay/connections/PGlite")<PGlite, PGliteConnection>() {}

const kindName = "pglite"
/**
 * Starts the engine.
 *
 * Fails with `MissingDriver`, which names the package to install, and with what hinders the start, such as a folder that
 * cannot be written, or that another process has (`Conflict`). When the engine crashes, every later statement fails with
 * `Closed`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: PGliteSettings = {},
  name: string = kindName
): Effect.fn.Return<PGliteConnection, ConnectionError, Scope.Scope> {
  const at = { kind: kindName, name }
  const plane = settings.plane ?? "internal"
  const failure = (reason: "Closed" | "InvalidRequest", method: string, description: string) =>
    new DatabaseError(
      new ConnectionError({ reason, kind: kindName, connection: name, method, description, sent: false })
    )
  yield* Folder.hold(at, settings.dataDir)
  let engine: Engine.Engine | undefined
  // What crashed must not write its memory to the folder.
  yield* Effect.addFinalizer(() =>
    engine === undefined || engine.database.closed || engine.crash !== undefined
      ? Effect.void
      : Effect.ignore(Effect.tryPromise(() => (engine === undefined ? Promise.resolve() : engine.database.close())))
  )
  const started = Effect.suspend(() =>
    engine === undefined
      ? Effect.tap(Engine.start(at, settings), (it) =>
          Effect.sync(() => {
            engine = it
          })
        ).pipe(Effect.uninterruptible)
      : engine.crash === undefined
        ? Effect.succeed(engine)
        : Effect.fail(Engine.crashed(at, engine.crash.cause, false))
  )
  const listeners = new Set<() => void>()
  const endListening = (): void => {
    for (const close of listeners) close()
  }
  const acquireTimeout = Duration.decode(settings.acquireTimeout ?? "30 seconds")
  const pool = yield* Pool.make<Engine.Engine>({
    ...at,
    max: 1,
    acquireTimeout,
    idleTimeout: Duration.infinity,
    maxLifetime: Duration.infinity,
    makePatience: Duration.infinity,
    drainTimeout: Duration.decode(settings.drainTimeout ?? "5 seconds"),
    make: (made) =>
      Effect.map(started, (it) => {
        // Nobody notifies any more.
        it.onCrash.add(endListening)
        made(it)
      }),
    isUsable: (it) => it.crash === undefined && !it.doubtful && !it.database.isInTransaction(),
    onGone: () => {},
    // The one backend is not thrown away: what was left open in it is.
    destroy: (it) =>
      Effect.suspend(() =>
        it.crash !== undefined || it.database.closed || !it.database.isInTransaction()
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
  const { sql } = yield* Sql.make({
    ...at,
    watch: plane === "internal" ? undefined : yield* ExternalClient.make(watchOptions(name, {})),
    acquire: Effect.map(pool.acquire, (it) => Engine.sessionOf(at, it)),
    pool: undefined,
    acquireTimeout,
    persistent: settings.dataDir !== undefined && !settings.dataDir.startsWith("memory:"),
    endTimeout: Duration.seconds(30),
    timeouts: false,
    readOnly: false,
    attributes: [["db.system.name", "postgresql"]]
  }).pipe(Effect.provide(Reactivity.layer))
  if (settings.connect === "background") yield* Effect.forkScoped(Effect.interruptible(Pool.untilReady(pool)))
  else if (settings.connect !== "lazy") yield* Effect.scoped(pool.acquire)

  const healthTimeout = Duration.decode(settings.healthTimeout ?? "1 second")
  const health: Effect.Effect<CheckResult> = Effect.gen(function* () {
    const stats = yield* pool.stats
    if (engine?.crash !== undefined) {
      return { status: "down" as const, details: { ...stats, reason: "the engine crashed" } }
    }
    // Who holds it shows that it works.
    if (stats.inUse > 0) return { status: "up" as const, details: { ...stats } }
    const answer = yield* Effect.scoped(
      Effect.flatMap(pool.acquire, (it) =>
        run(Engine.sessionOf(at, it), { sql: "select 1", params: [], rows: "array" })
      )
    ).pipe(Effect.either, Effect.interruptible, Effect.disconnect, Effect.timeoutOption(healthTimeout))
    if (Option.isNone(answer)) return { status: "down" as const, details: { ...stats, reason: "no answer in time" } }
    return Either.isRight(answer.value)
      ? { status: "up" as const, details: { ...stats } }
      : { status: "down" as const, details: { ...stats, reason: answer.value.left.reason } }
  })

  yield* Effect.addFinalizer(() => Effect.sync(endListening))
  const listen = (channel: string): Stream.Stream<Notification, SqlError> =>
    Stream.unwrapScoped(
      Effect.gen(function* () {
        if (channel === "" || Buffer.byteLength(channel) > 63 || /["\0]/.test(channel)) {
          return yield* failure("InvalidRequest", "listen", "the name of a channel has 1 to 63 bytes and no quotes")
        }
        let buffer: Array<Notification> = []
        let wake: (() => void) | undefined
        let closed = false
        const push = (notification: Notification): void => {
          buffer.push(notification)
          wake?.()
        }
        const close = (): void => {
          closed = true
          wake?.()
        }
        yield* Effect.acquireRelease(
          Effect.sync(() => listeners.add(close)),
          () => Effect.sync(() => listeners.delete(close))
        )
        const over = Effect.suspend(() =>
          engine?.crash === undefined
            ? failure("Closed", "listen", "the connection was released")
            : new DatabaseError(Engine.crashed(at, engine.crash.cause))
        )
        // Not in somebody's transaction, which would take it back with the rest.
        const alone = <A>(use: (engine: Engine.Engine) => Promise<A>) =>
          Effect.scoped(
            Effect.flatMap(pool.acquire, (it) =>
              Effect.uninterruptible(
                Effect.tryPromise({
                  try: () => use(it),
                  catch: (cause) =>
                    new ConnectionError({
                      reason: "Unknown",
                      kind: kindName,
                      connection: name,
                      method: "listen",
                      description: "the engine refused to listen: check the name of the channel, `original` says why",
                      cause
                    })
                })
              )
            )
          )
        yield* Effect.acquireRelease(
          Effect.mapError(
            alone((it) =>
              it.database.listen(`"${channel}"`, (payload) =>
                push({ _tag: "Notification", channel, payload, processId: undefined })
              )
            ),
            (error) => new DatabaseError(error)
          ),
          (unlisten) =>
            Effect.ignore(
              Effect.suspend(() => (closed || engine?.crash !== undefined ? Effect.void : alone(() => unlisten())))
            )
        )
        push({ _tag: "Listening", again: false })
        const pull: Effect.Effect<Chunk.Chunk<Notification>, SqlError> = Effect.suspend(() => {
          if (buffer.length > 0) {
            const notifications = Chunk.unsafeFromArray(buffer)
            buffer = []
            return Effect.succeed(notifications)
          }
          if (closed) return over
          return Effect.zipRight(
            Effect.async<void>((resume) => {
              if (buffer.length > 0 || closed) return resume(Effect.void)
              wake = () => {
                wake = undefined
                resume(Effect.void)
              }
              return undefined
            }),
            pull
          )
        })
        return Stream.repeatEffectChunk(pull)
      })
    )

  yield* Health.register({ name, check: health })
  return {
    sql,
    name,
    kind: kindName,
    plane,
    capabilities: { concurrentTransactions: false, cancellation: false, copy: false, streaming: false },
    use: (f) => f(sql),
    health,
    stats: pool.stats,
    state: Effect.flatMap(pool.state, (state) =>
      Effect.sync(() => (engine?.crash !== undefined && state !== "closed" && state !== "draining" ? "down" : state))
    ),
    drained: pool.drained,
    listen,
    notify: (channel, payload = "") =>
      Buffer.byteLength(payload) > 7_999
        ? failure(
            "InvalidRequest",
            "notify",
            "the payload of a notification has at most 7,999 bytes: store it, and send its key"
          )
        : Effect.asVoid(sql`select pg_notify(${channel}, ${payload})`)
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

/**
 * The settings as they are written in a configuration, all optional.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  dataDir: Schema.optional(Fields.Text),
  vector: Schema.optional(Fields.Flag),
  acquireTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode)
})

/**
 * The settings as configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<PGliteSettings> = configOfSchema(Settings)

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
export const kind: Kind<SqlClient, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
