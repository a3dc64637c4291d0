/**
 * The open registry of connections: each package adds its kinds, the application lists those it wants, and a
 * connection is made on demand from configuration, shared while in use and released when idle.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { withoutCallReferences } from "../internal/callReferences.ts"
import {
  type AnyKind,
  type CheckResult,
  type Connection,
  ConnectionError,
  type Kind,
  type Plane
} from "./Connection.ts"

/**
 * One line of `list`. `users` is the number of scopes that hold the connection.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionInfo {
  readonly name: string
  readonly kind: string
  readonly state: "building" | "in use" | "idle"
  readonly plane: Option.Option<Plane>
  readonly users: number
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
  readonly latencyMs: number
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
}

/**
 * Connections by kind and name.
 *
 * - `get` gives the connection of that kind and name (the kind's own name by default), made of the settings below
 *   `connections.<name>` if nobody holds it yet. It is held until the scope closes. A build that fails is forgotten:
 *   its callers all get the error, and the next one builds again. A caller that is interrupted leaves the build to
 *   those who still wait for it. The connection is built with the registry's own references, never the caller's.
 * - `list` and `health` tell of what is open; health asks all of them at once, each within its timeout.
 * - `invalidate` takes a connection out of the registry: who holds it keeps it, the next caller gets a new one.
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
    readonly list: Effect.Effect<ReadonlyArray<ConnectionInfo>>
    readonly health: Effect.Effect<ReadonlyArray<ConnectionHealth>>
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
}

/**
 * Makes a registry of `kinds`. Of two kinds of one name the later wins, so a test replaces one by adding its own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (kinds: ReadonlyArray<AnyKind>, options?: ConnectionsOptions) {
  const healthTimeout = Duration.decode(options?.healthTimeout ?? "2 seconds")
  const registered = new Map(kinds.map((kind) => [kind.kind, kind]))
  const entries = new Map<string, Entry>()
  // All that is not closed yet: also entries that were invalidated while somebody held them.
  const open = new Set<Entry>()
  // A successor is not built before its predecessor is closed: two engines on one data folder would destroy it.
  const closing = new Map<string, Set<Entry>>()
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
      return Effect.ensuring(Scope.close(entry.scope, Exit.void), gone(entry))
    }).pipe(Effect.uninterruptible)

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => Effect.forEach([...open], close, { concurrency: "unbounded", discard: true }))
  )
  // Builds and idle timers run with the references of the registry. This is released before the entries are.
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  // Released first: once builds are being stopped, none may be begun, for nobody would run it.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closed = true
    })
  )

  const build = (entry: Entry, kind: AnyKind): Effect.Effect<void> =>
    Effect.suspend(() => {
      const predecessors = [...(closing.get(entry.key) ?? [])].filter((leaving) => leaving !== entry)
      return Effect.forEach(predecessors, (leaving) => Deferred.await(leaving.closed), { discard: true })
    }).pipe(
      Effect.zipRight(kind.settings.pipe(Config.nested(entry.name), Config.nested("connections"))),
      Effect.flatMap((settings) => kind.make(entry.name, settings as never)),
      Scope.extend(entry.scope),
      Effect.mapInputContext(withoutCallReferences),
      Effect.onExit((exit) => {
        entry.settled = true
        entry.building = undefined
        if (Exit.isSuccess(exit)) {
          entry.connection = exit.value
          return Deferred.done(entry.built, exit)
        }
        // It leaves the registry before its callers hear of the failure: who comes after them builds anew.
        return Effect.ensuring(close(entry), Deferred.done(entry.built, exit))
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
      idling: undefined
    }
    entries.set(key, entry)
    open.add(entry)
    const fiber = run(build(entry, kind))
    if (!entry.settled) entry.building = fiber
    return entry
  })

  const whenIdle = (entry: Entry): Effect.Effect<void> =>
    Effect.sleep(entry.idleTimeToLive).pipe(
      Effect.zipRight(
        Effect.suspend(() => {
          entry.idling = undefined
          return entry.users === 0 ? close(entry) : Effect.void
        })
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

  const failure = (reason: "Closed" | "Unsupported", kind: string, name: string, description: string) =>
    new ConnectionError({ reason, kind, connection: name, method: "get", description })

  const get = <Client, Settings>(wanted: Kind<Client, Settings>, name: string = wanted.kind) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        if (closed) return yield* failure("Closed", wanted.kind, name, "the registry is released already")
        const kind = registered.get(wanted.kind)
        if (kind === undefined) {
          const known = [...registered.keys()].join(", ")
          return yield* failure(
            "Unsupported",
            wanted.kind,
            name,
            `this kind is not in the registry: add it to the list given to Connections.layer (it has: ${known || "none"})`
          )
        }
        const key = `${wanted.kind}\u0000${name}`
        const entry = entries.get(key) ?? (yield* start(key, name, kind))
        entry.users++
        if (entry.idling !== undefined) {
          entry.idling.unsafeInterruptAsFork(FiberId.none)
          entry.idling = undefined
        }
        const scope = yield* Effect.scope
        const connection = yield* Effect.onExit(restore(Deferred.await(entry.built)), (exit) =>
          Exit.isSuccess(exit) ? Scope.addFinalizer(scope, release(entry)) : release(entry)
        )
        // The kind registered under this name made it, and a kind's name stands for its client type.
        return connection as Connection<Client>
      })
    )

  const list = Effect.sync(() =>
    [...open].map(
      (entry): ConnectionInfo => ({
        name: entry.name,
        kind: entry.kind,
        state: entry.connection === undefined ? "building" : entry.users > 0 ? "in use" : "idle",
        plane: Option.fromNullable(entry.connection?.plane),
        users: entry.users
      })
    )
  )

  const checked = (connection: Connection<unknown>): Effect.Effect<ConnectionHealth> =>
    Effect.gen(function* () {
      const started = yield* Clock.currentTimeMillis
      const result = yield* connection.health.pipe(
        Effect.disconnect,
        Effect.timeoutTo({
          duration: healthTimeout,
          onSuccess: (result): CheckResult => result,
          onTimeout: (): CheckResult => ({
            status: "down",
            details: { error: `no answer within ${Duration.format(healthTimeout)}` }
          })
        }),
        Effect.catchAllDefect(() =>
          Effect.succeed<CheckResult>({ status: "down", details: { error: "the check died" } })
        )
      )
      const ended = yield* Clock.currentTimeMillis
      return { ...result, name: connection.name, kind: connection.kind, latencyMs: ended - started }
    })

  const health = Effect.suspend(() =>
    Effect.forEach(
      [...open].flatMap((entry) => (entry.connection === undefined ? [] : [entry.connection])),
      checked,
      { concurrency: "unbounded" }
    )
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

  return Connections.of({ get, list, health, invalidate, kinds: [...registered.keys()] })
})

/**
 * The registry of `kinds` as a layer: `Connections.layer([Postgres.kind, PGlite.kind])`. What is open is released, all
 * at once, when the layer is.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (kinds: ReadonlyArray<AnyKind>, options?: ConnectionsOptions): Layer.Layer<Connections> =>
  Layer.scoped(Connections, make(kinds, options))
