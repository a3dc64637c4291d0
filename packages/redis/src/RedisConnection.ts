/**
 * Redis as a kind of core's `Connections`: a client by name, made on demand from configuration, on the internal plane.
 *
 * @since 0.1.0
 */
import * as Connection from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as ConfigError from "effect/ConfigError"
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type * as Redacted from "effect/Redacted"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"
import * as RedisHealth from "./RedisHealth.ts"
import * as RedisSettings from "./RedisSettings.ts"

/**
 * The kind `redis`. The connection of the kind's own name finds its settings in the five places of
 * `RedisSettings.config`, with `connections.redis` as its settings; a connection of another name is another server, so
 * it has the settings at `connections.<name>` alone.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Connection.Kind<RedisClient.Service, Redacted.Redacted<RedisSettings.Fields>> = Connection.kind({
  kind: "redis",
  settings: RedisSettings.place,
  make: (name, place) => make(name, place)
})

/**
 * The kind with clients that behave otherwise: connected lazily, say.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindWith = (
  behaviour: RedisClient.Behaviour
): Connection.Kind<RedisClient.Service, Redacted.Redacted<RedisSettings.Fields>> =>
  Connection.kind({ ...kind, make: (name, place) => make(name, place, behaviour) })

const make = (name: string, place: Redacted.Redacted<RedisSettings.Fields>, behaviour: RedisClient.Behaviour = {}) =>
  Effect.gen(function* () {
    const path = `connections.${name}`
    const found: Effect.Effect<RedisSettings.RedisSettings, ConfigError.ConfigError> =
      name === kind.kind ? RedisSettings.loadAt(place, path) : eitherToEffect(RedisSettings.fromPlace(place, path))
    const settings = yield* Effect.mapError(
      found,
      (error) =>
        new Connection.ConnectionError({
          reason: "InvalidSettings",
          kind: kind.kind,
          connection: name,
          method: "make",
          description: problemsOf(error).join("; ")
        })
    )
    const release = yield* ConnectionLifecycle.track({ kind: kind.kind, name })
    const client = yield* Effect.mapError(RedisClient.make(settings, behaviour), (error) => fromRedis(name, error))
    const connection: Connection.Connection<RedisClient.Service> = {
      name,
      kind: kind.kind,
      plane: "internal",
      use: (f) => f(client),
      health: RedisHealth.check(client),
      // one socket carries every command: it is in use while commands are under way. Isolated ones come to it
      stats: Effect.map(client.stats, ({ inFlight, isolated, isolatedIdle, state, waiting }) => {
        const shared = state === "ready" ? 1 : 0
        const inUse = (shared === 1 && inFlight > 0 ? 1 : 0) + isolated - isolatedIdle
        const total = shared + isolated
        return { total, idle: total - inUse, inUse, waiting }
      }),
      state: release.state(Effect.map(client.state, (state) => (state === "away" ? "down" : state))),
      drained: release.drained
    }
    // The client is released at once: what is under way then is cut, and says so.
    yield* release.begin(Effect.tap(connection.stats, ({ inUse }) => Effect.sync(() => release.cut(inUse))))
    return connection
  })

const eitherToEffect = <A, E>(either: Either.Either<A, E>): Effect.Effect<A, E> => either

/** Every problem of a configuration, each with its path and without its value. */
const problemsOf = (error: ConfigError.ConfigError): ReadonlyArray<string> =>
  ConfigError.reduceWithContext(error, undefined, {
    andCase: (_, left: ReadonlyArray<string>, right) => [...left, ...right],
    orCase: (_, left, right) => [...left, ...right],
    invalidDataCase: (_, path, message) => [`${path.join(".")}: ${message}`],
    missingDataCase: (_, path, message) => [`${path.join(".")}: ${message}`],
    sourceUnavailableCase: (_, path, message) => [`${path.join(".")}: ${message}`],
    unsupportedCase: (_, path, message) => [`${path.join(".")}: ${message}`]
  })

const fromRedis = (name: string, error: RedisError): Connection.ConnectionError =>
  new Connection.ConnectionError({
    reason: reasonOf(error),
    kind: kind.kind,
    connection: name,
    method: error.method,
    description: error.description,
    ...(error.code === undefined ? {} : { code: error.code }),
    cause: error
  })

const reasonOf = (error: RedisError): Connection.ConnectionErrorReason => {
  switch (error.reason) {
    case "Unavailable":
    case "NotReady":
    case "OutOfMemory":
      return "Unavailable"
    case "Timeout":
      return "Timeout"
    case "Overloaded":
      return "Throttled"
    case "Closed":
      return "Closed"
    case "Authentication":
      return error.code === "NOPERM" ? "PermissionDenied" : "Authentication"
    case "WrongType":
    case "CrossSlot":
    case "Conflict":
    case "Unexpected":
    case "Rejected":
      return "InvalidRequest"
  }
}
