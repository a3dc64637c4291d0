/**
 * The open registry of connections: each package adds its kinds, the application lists those it wants, and a
 * connection is made on demand from configuration, shared while in use and released when idle.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { withoutCallReferences } from "../internal/callReferences.ts"
import * as declarations from "../internal/connection/declarations.ts"
import * as poolMetrics from "../internal/connection/poolMetrics.ts"
import * as Timeout from "../resilience/Timeout.ts"
import {
  type AnyKind,
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectionStats,
  type DrainReport,
  type Kind,
  type Plane,
  type State
} from "./Connection.ts"

/**
 * One line of `list`. `users` is the number of scopes that hold the connection; `connection` is what it tells of itself.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionInfo {
  readonly name: string
  readonly kind: string
  readonly state: "building" | "in use" | "idle"
  readonly plane: Option.Option<Plane>
  readonly connection: Option.Option<State>
  readonly users: number
}

/**
 * How many clients one open connection has.
 *
 * @since 0.1.0
 * @category models
 */
export interface NamedStats extends ConnectionStats {
  readonly name: string
  readonly kind: string
}

/**
 * A connection that the configuration has settings for.
 *
 * @since 0.1.0
 * @category models
 */
export interface Declared {
  readonly kind: string
  readonly name: string
}

/**
 * The health of one open connection.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionHealth extends CheckResult {
  readonly name: string
  readonly kind: string
  /** How long the check took. */
  readonly latencyMs: number
  /** When it was made, in milliseconds since 1970. */
  readonly checkedAt: number
}

/**
 * How a registry treats what nobody uses and what does not answer.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionsOptions {
  /** How long an unused connection is kept: 60 s by default; zero releases at once. */
  readonly idleTimeToLive?: Duration.DurationInput | undefined
  /** How long one health check may take before it counts as down: 2 s by default. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** How long the result of a health check answers for: 1 s by default. */
  readonly healthCacheFor?: Duration.DurationInput | undefined
  /**
   * How long the release of the registry waits for a connection that is being made and cannot be stopped, and for one that
   * was being released before: 5 s by default.
   */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** Is told how each connection was released. */
  readonly onDrained?: ((report: DrainReport) => Effect.Effect<void>) | undefined
}

/**
 * Connections by kind and name.
 *
 * - `get` gives the connection of that kind and name (the kind's own name by default), made of the settings below
 *   `connections.<name>` or, where there are none or they are of another kind, `connections.<kind>.<name>`, if nobody
 *   holds it yet. Settings may say themselves what kind they are (`kind: postgres`). It is held until the scope closes. A build that fails is forgotten:
 *   its callers all get the error, and the next one builds again. A caller that is interrupted leaves the build to
 *   those who still wait for it. The connection is built with the registry's own references, never the caller's.
 * - `list`, `stats` and `health` tell of what is open. Health asks all of them at once, each within its timeout; a result
 *   answers for a while, and who asks while it is being found waits for that one. Whose counts are not there within the
 *   same timeout is not among the `stats`.
 * - `invalidate` takes a connection out of the registry: who holds it keeps it, the next caller gets a new one.
 * - `drain` releases everything at once, also what is held, and tells how that went; afterwards the registry is closed.
 *   What is being made is stopped; where that cannot be within the drain timeout, it is released once it is made. What is
 *   being released already, such as by its idle timer, is waited for within the drain timeout, and told of too.
 * - `reports` are how the last hundred connections were released.
 *
 * @since 0.1.0
 * @category tags
 */
export class Connections extends Context.Tag("@underlay/core/Connections")<
  Connections,
  {
    readonly get: <Client, Settings>(
      kind: Kind<Client, Settings>,
      name?: string
    ) => Effect.Effect<Connection<Client>, ConnectionError | ConfigError.ConfigError, Scope.Scope>
    /** The same by the names of kind and connection, for what goes through all that a configuration has. */
    readonly open: (
      kind: string,
      name?: string
    ) => Effect.Effect<Connection<unknown>, ConnectionError | ConfigError.ConfigError, Scope.Scope>
    readonly list: Effect.Effect<ReadonlyArray<ConnectionInfo>>
    readonly stats: Effect.Effect<ReadonlyArray<NamedStats>>
    readonly health: Effect.Effect<ReadonlyArray<ConnectionHealth>>
    readonly drain: Effect.Effect<ReadonlyArray<DrainReport>>
    readonly reports: Effect.Effect<ReadonlyArray<DrainReport>>
    readonly invalidate: (kind: { readonly kind: string }, name?: string) => Effect.Effect<void>
    readonly kinds: ReadonlyArray<string>
  }
>() {}

type BuildError = ConnectionError | ConfigError.ConfigError

interface Entry {
  readonly key: string
  readonly name: string
  readonly kind: string
  readonly idleTimeToLive: Duration.Duration
  readonly scope: Scope.CloseableScope
  readonly built: Deferred.Deferred<Connection<unknown>, BuildError>
  readonly closed: Deferred.Deferred<void>
  users: number
  settled: boolean
  connection: Connection<unknown> | undefined
  building: Fiber.RuntimeFiber<void> | undefined
  idling: Fiber.RuntimeFiber<void> | undefined
  report: DrainReport | undefined
  // Its health: the last result, who is asking, and a check that has not ended though its time was over.
  checked: ConnectionHealth | undefined
  asking: Deferred.Deferred<ConnectionHealth> | undefined
  orphaned: boolean
}

/**
 * Makes a registry of `kinds`. Of two kinds of one name the later wins, so a test replaces one by adding its own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (kinds: ReadonlyArray<AnyKind>, options?: ConnectionsOptions) {
  const healthTimeout = Duration.decode(options?.healthTimeout ?? "2 seconds")
  const drainTimeout = Duration.decode(options?.drainTimeout ?? "5 seconds")
  const healthCacheFor = Duration.toMillis(options?.healthCacheFor ?? "1 second")
  const registered = new Map(kinds.map((kind) => [kind.kind, kind]))
  const entries = new Map<string, Entry>()
  // All that is not closed yet: also entries that were invalidated while somebody held them.
  const open = new Set<Entry>()
  // A successor is not built before its predecessor is closed: two engines on one data folder would destroy it.
  const closing = new Map<string, Set<Entry>>()
  const reports: Array<DrainReport> = []
  let closed = false

  const leave = (entry: Entry): void => {
    if (entries.get(entry.key) === entry) entries.delete(entry.key)
    const leaving = closing.get(entry.key) ?? new Set()
    closing.set(entry.key, leaving.add(entry))
  }

  const gone = (entry: Entry): Effect.Effect<void> =>
    Effect.suspend(() => {
      const leaving = closing.get(entry.key)
      leaving?.delete(entry)
      if (leaving?.size === 0) closing.delete(entry.key)
      return Deferred.succeed(entry.closed, undefined)
    })

  const close = (entry: Entry): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (!open.delete(entry)) return Effect.void
      leave(entry)
      // One that is still being made, and could not be stopped, has who waits for it told; what it makes then is released.
      if (!entry.settled) Deferred.unsafeDone(entry.built, Exit.fail(tooLate(entry)))
      entry.idling?.unsafeInterruptAsFork(FiberId.none)
      entry.idling = undefined
      return Effect.ensuring(Effect.zipRight(Scope.close(entry.scope, Exit.void), told(entry)), gone(entry))
    }).pipe(Effect.uninterruptible)

  /** Keeps how it was released. One that does not tell is not waited for. */
  const told = (entry: Entry): Effect.Effect<void> =>
    Effect.gen(function* () {
      const { connection } = entry
      if (connection === undefined) return
      const fiber = yield* Effect.forkDaemon(Effect.interruptible(connection.drained))
      for (let turns = 0; turns < 10 && Option.isNone(yield* Fiber.poll(fiber)); turns++) yield* Effect.yieldNow()
      const exit = yield* Fiber.poll(fiber)
      if (Option.isNone(exit) || Exit.isFailure(exit.value)) return yield* Fiber.interruptFork(fiber)
      entry.report = exit.value.value
      reports.push(exit.value.value)
      if (reports.length > 100) reports.shift()
      if (options?.onDrained !== undefined) yield* Effect.exit(options.onDrained(exit.value.value))
    })

  /** What is open, and what somebody else is closing at this moment: an idle timer, a last user, another drain. */
  const notClosed = (): ReadonlyArray<Entry> => {
    const leaving = [...closing.values()].flatMap((entries) => [...entries])
    return [...new Set([...leaving, ...open])]
  }

  const closeAll = Effect.suspend(() => {
    const leaving = notClosed().filter((entry) => !open.has(entry))
    return Effect.all(
      [
        Effect.forEach([...open], close, { concurrency: "unbounded", discard: true }),
        within(
          drainTimeout,
          Effect.forEach(leaving, (entry) => Deferred.await(entry.closed), { discard: true })
        )
      ],
      { concurrency: "unbounded", discard: true }
    )
  })
  yield* Effect.addFinalizer(() => closeAll)
  // Builds and idle timers run with the references of the registry. This is released before the entries are.
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const building = yield* Scope.make()
  const runBuild = yield* Scope.extend(FiberSet.makeRuntime<never, void, never>(), building)
  yield* Effect.addFinalizer(() => within(drainTimeout, Scope.close(building, Exit.void)))
  // Released first: once builds are being stopped, none may be begun, for nobody would run it.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closed = true
    })
  )

  const failure = (reason: "Closed" | "Unsupported", kind: string, name: string, description: string) =>
    new ConnectionError({ reason, kind, connection: name, method: "get", description })

  const tooLate = ({ kind, name }: Entry) =>
    failure("Closed", kind, name, "the registry was released while it was made")

  const build = (entry: Entry, kind: AnyKind): Effect.Effect<void> =>
    Effect.suspend(() => {
      const predecessors = [...(closing.get(entry.key) ?? [])].filter((leaving) => leaving !== entry)
      return Effect.forEach(predecessors, (leaving) => Deferred.await(leaving.closed), { discard: true })
    }).pipe(
      Effect.zipRight(declarations.settingsOf(kind, entry.name)),
      Effect.flatMap((settings) => kind.make(entry.name, settings as never)),
      Scope.extend(entry.scope),
      Effect.mapInputContext(withoutCallReferences),
      Effect.onExit((exit) => {
        entry.settled = true
        entry.building = undefined
        if (Exit.isSuccess(exit) && open.has(entry)) {
          entry.connection = exit.value
          return Deferred.done(entry.built, exit)
        }
        // Only a release stops a build; who still waits for it was not interrupted himself.
        const told = Exit.isSuccess(exit) || Cause.isInterrupted(exit.cause) ? Exit.fail(tooLate(entry)) : exit
        // It leaves the registry before its callers hear of the failure: who comes after them builds anew.
        return Effect.ensuring(close(entry), Deferred.done(entry.built, told))
      }),
      Effect.exit,
      Effect.asVoid
    )

  const start = Effect.fnUntraced(function* (key: string, name: string, kind: AnyKind) {
    const entry: Entry = {
      key,
      name,
      kind: kind.kind,
      idleTimeToLive: Duration.decode(options?.idleTimeToLive ?? kind.idleTimeToLive ?? "60 seconds"),
      scope: yield* Scope.make(),
      built: yield* Deferred.make<Connection<unknown>, BuildError>(),
      closed: yield* Deferred.make<void>(),
      users: 0,
      settled: false,
      connection: undefined,
      building: undefined,
      idling: undefined,
      report: undefined,
      checked: undefined,
      asking: undefined,
      orphaned: false
    }
    entries.set(key, entry)
    open.add(entry)
    const fiber = runBuild(build(entry, kind))
    if (!entry.settled) entry.building = fiber
    return entry
  })

  // Who stops the timer does not wait for what it is releasing already.
  const whenIdle = (entry: Entry): Effect.Effect<void> =>
    Effect.sleep(entry.idleTimeToLive).pipe(
      Effect.zipRight(
        Effect.disconnect(
          Effect.suspend(() => {
            entry.idling = undefined
            return entry.users === 0 ? close(entry) : Effect.void
          })
        )
      ),
      Effect.interruptible
    )

  const release = (entry: Entry): Effect.Effect<void> =>
    Effect.suspend(() => {
      entry.users--
      if (entry.users > 0 || !open.has(entry) || closed) return Effect.void
      if (!entry.settled) {
        // Nobody waits for this build any more. It is told to stop, not waited for; its own exit closes it.
        leave(entry)
        entry.building?.unsafeInterruptAsFork(FiberId.none)
        return Effect.void
      }
      if (entries.get(entry.key) !== entry || Duration.isZero(entry.idleTimeToLive)) return close(entry)
      if (Duration.isFinite(entry.idleTimeToLive)) entry.idling = run(whenIdle(entry))
      return Effect.void
    })

  const obtain = (wanted: string, name: string = wanted) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        if (closed) return yield* failure("Closed", wanted, name, "the registry is released already")
        const kind = registered.get(wanted)
        if (kind === undefined) {
          const known = [...registered.keys()].join(", ")
          return yield* failure(
            "Unsupported",
            wanted,
            name,
            `this kind is not in the registry: add it to the list given to Connections.layer (it has: ${known || "none"})`
          )
        }
        const key = `${wanted}\u0000${name}`
        const entry = entries.get(key) ?? (yield* start(key, name, kind))
        entry.users++
        if (entry.idling !== undefined) {
          entry.idling.unsafeInterruptAsFork(FiberId.none)
          entry.idling = undefined
        }
        const scope = yield* Effect.scope
        return yield* Effect.onExit(restore(Deferred.await(entry.built)), (exit) =>
          Exit.isSuccess(exit) ? Scope.addFinalizer(scope, release(entry)) : release(entry)
        )
      })
    )

  // The kind registered under this name made it, and a kind's name stands for its client type.
  const get = <Client, Settings>(wanted: Kind<Client, Settings>, name?: string) =>
    Effect.map(obtain(wanted.kind, name), (connection) => connection as Connection<Client>)

  const list = Effect.suspend(() =>
    Effect.forEach([...open], (entry) =>
      Effect.map(
        Effect.transposeOption(Option.map(Option.fromNullable(entry.connection), ({ state }) => state)),
        (connection): ConnectionInfo => ({
          name: entry.name,
          kind: entry.kind,
          state: entry.connection === undefined ? "building" : entry.users > 0 ? "in use" : "idle",
          plane: Option.fromNullable(entry.connection?.plane),
          connection,
          users: entry.users
        })
      )
    )
  )

  const built = (): ReadonlyArray<readonly [Entry, Connection<unknown>]> =>
    [...open].flatMap((entry) => (entry.connection === undefined ? [] : [[entry, entry.connection] as const]))

  const stats = Effect.suspend(() =>
    Effect.map(
      Effect.forEach(
        built(),
        ([{ kind, name }, connection]) =>
          Effect.map(
            Effect.exit(Timeout.within(connection.stats, { duration: healthTimeout, service: name })),
            (exit): ReadonlyArray<NamedStats> => (Exit.isSuccess(exit) ? [{ name, kind, ...exit.value }] : [])
          ),
        { concurrency: "unbounded" }
      ),
      (all) => all.flat()
    )
  )

  const down = (error: string): CheckResult => ({ status: "down", details: { error } })

  // It runs on a fiber of its own, so that the answer is on time even over work that cannot be interrupted. As long as one
  // has not ended no further one is begun.
  const checked = (entry: Entry, connection: Connection<unknown>): Effect.Effect<CheckResult> =>
    Effect.suspend(() => {
      if (entry.orphaned) return Effect.succeed(down("the last check has still not ended"))
      entry.orphaned = true
      const work = Effect.ensuring(
        Effect.exit(connection.health),
        Effect.sync(() => {
          entry.orphaned = false
        })
      )
      return Effect.match(Timeout.within(work, { duration: healthTimeout, service: entry.name }), {
        onFailure: () => down(`no answer within ${Duration.format(healthTimeout)}`),
        onSuccess: (exit) => (Exit.isSuccess(exit) ? exit.value : down("the check died"))
      })
    })

  const look = (entry: Entry, connection: Connection<unknown>): Effect.Effect<ConnectionHealth> =>
    Effect.gen(function* () {
      const started = yield* Clock.currentTimeMillis
      const result = yield* checked(entry, connection)
      const ended = yield* Clock.currentTimeMillis
      return { ...result, name: entry.name, kind: entry.kind, latencyMs: ended - started, checkedAt: ended }
    })

  const ask = ([entry, connection]: readonly [Entry, Connection<unknown>]): Effect.Effect<ConnectionHealth> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (entry.checked !== undefined && now - entry.checked.checkedAt < healthCacheFor) {
        return Effect.succeed(entry.checked)
      }
      if (entry.asking !== undefined) return Deferred.await(entry.asking)
      const asking = Deferred.unsafeMake<ConnectionHealth>(FiberId.none)
      entry.asking = asking
      run(
        look(entry, connection).pipe(
          Effect.onExit((exit) =>
            Effect.suspend(() => {
              entry.asking = undefined
              if (Exit.isSuccess(exit)) entry.checked = exit.value
              const gone = { ...down("the registry is released"), name: entry.name, kind: entry.kind }
              return Deferred.succeed(
                asking,
                Exit.isSuccess(exit) ? exit.value : { ...gone, latencyMs: 0, checkedAt: now }
              )
            })
          ),
          Effect.exit,
          Effect.asVoid,
          Effect.mapInputContext(withoutCallReferences)
        )
      )
      return Deferred.await(asking)
    })

  const health = Effect.suspend(() =>
    closed ? Effect.succeed([]) : Effect.forEach(built(), ask, { concurrency: "unbounded" })
  )

  const drain = Effect.uninterruptible(
    Effect.suspend(() => {
      closed = true
      const all = notClosed()
      // Builds are stopped; their own exits close them.
      const builds = all.flatMap(({ building }) => (building === undefined ? [] : [building]))
      return Effect.map(Effect.zipRight(within(drainTimeout, Fiber.interruptAll(builds)), closeAll), () =>
        all.flatMap(({ report }) => (report === undefined ? [] : [report]))
      )
    })
  )

  const invalidate = (kind: { readonly kind: string }, name: string = kind.kind) =>
    Effect.uninterruptible(
      Effect.suspend(() => {
        const key = `${kind.kind}\u0000${name}`
        const entry = entries.get(key)
        if (entry === undefined) return Effect.void
        entries.delete(key)
        return entry.users === 0 ? close(entry) : Effect.void
      })
    )

  return Connections.of({
    get,
    open: obtain,
    list,
    stats,
    health,
    drain,
    reports: Effect.sync(() => reports.slice()),
    invalidate,
    kinds: [...registered.keys()]
  })
})

/** Waits for it no longer than that; it goes on. On a fiber of its own, for this one may be one that was interrupted. */
const within = (limit: Duration.Duration, effect: Effect.Effect<unknown>): Effect.Effect<void> =>
  Effect.asVoid(
    Effect.flatMap(
      Effect.forkDaemon(Effect.interruptible(Effect.timeoutOption(Effect.disconnect(effect), limit))),
      Fiber.await
    )
  )

/**
 * The registry of `kinds` as a layer: `Connections.layer([Postgres.kind, PGlite.kind])`. What is open is released, all
 * at once, when the layer is.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (kinds: ReadonlyArray<AnyKind>, options?: ConnectionsOptions): Layer.Layer<Connections> =>
  Layer.scoped(Connections, make(kinds, options))

/**
 * The registry, made where everything that the configuration has settings for can be read: every missing and every wrong
 * field of every connection, and every name that is no setting, is reported at once, when the program starts.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  kinds: ReadonlyArray<AnyKind>,
  options?: ConnectionsOptions
): Layer.Layer<Connections, ConfigError.ConfigError> =>
  Layer.scoped(Connections, Effect.zipRight(validate(kinds), make(kinds, options)))

/**
 * What the configuration has settings for. An entry of `connections` is a connection of the kind that it says
 * (`orders: { kind: postgres, … }`) or, where it says none, that it has the name of; tables in one that has the name of a
 * kind, and that the kind knows no setting of, are further connections of this kind (`postgres: { orders: { … } }`).
 *
 * Fails with every entry whose kind is not among `kinds`.
 *
 * @since 0.1.0
 * @category accessors
 */
export const declared: (
  kinds: ReadonlyArray<AnyKind>
) => Effect.Effect<ReadonlyArray<Declared>, ConfigError.ConfigError> = declarations.declared

/**
 * Reads all settings that the configuration has, or those of the connections that are wanted, and makes nothing of them.
 * Fails with every missing and every wrong field of all of them, and with every name that is no setting of its kind (where
 * the kind has a schema); `problems` lists these.
 *
 * @since 0.1.0
 * @category accessors
 */
export const validate = (
  kinds: ReadonlyArray<AnyKind>,
  wanted?: ReadonlyArray<Declared>
): Effect.Effect<void, ConfigError.ConfigError> => declarations.validate(kinds, wanted)

/**
 * Every problem in an error of a configuration: its path and what is wrong there, without the value.
 *
 * @since 0.1.0
 * @category accessors
 */
export const problems: (
  error: ConfigError.ConfigError
) => ReadonlyArray<{ readonly path: string; readonly message: string }> = declarations.problems

/**
 * The JSON Schema (draft 7) of a configuration with these kinds, for editors and for checks before a program is started:
 * `{ "connections": { "orders": { "kind": "postgres", … } } }`. Kinds without a schema are there with their name alone.
 *
 * @since 0.1.0
 * @category schemas
 */
export const jsonSchema: (kinds: ReadonlyArray<AnyKind>) => Readonly<Record<string, unknown>> = declarations.jsonSchema

/**
 * Shows the pools of all open connections as metrics, by OpenTelemetry's names: `db.client.connection.count` (by
 * `db.client.connection.state`: idle, used), `db.client.connection.pending_requests`, and `db.client.connection.wait_time`
 * (the mean wait of each interval, in seconds), each with `db.client.connection.pool.name` and
 * `connection.kind`. They are looked at every 10 s by
 * default; without this layer nobody looks, on neither plane.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMetrics = (options?: {
  readonly interval?: Duration.DurationInput | undefined
}): Layer.Layer<never, never, Connections> =>
  Layer.scopedDiscard(
    Effect.flatMap(Connections, ({ stats }) => poolMetrics.observe(stats, options?.interval ?? "10 seconds"))
  )
