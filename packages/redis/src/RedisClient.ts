/**
 * The client of Redis: one server, Sentinel or Cluster. Every command settles within its timeout or fails typed, none is
 * sent twice behind the caller's back, and nothing is emitted per operation: no span, no log line, no metric.
 *
 * @since 0.1.0
 */
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { makeClient } from "./internal/client.ts"
import type { Behaviour, Options, Service } from "./internal/model.ts"
import type { RedisError } from "./RedisError.ts"
import * as RedisSettings from "./RedisSettings.ts"

export * from "./internal/model.ts"

/**
 * The Redis client of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class RedisClient extends Context.Tag("@underlay/redis/RedisClient")<RedisClient, Service>() {}

/**
 * Makes a client of resolved settings. It is released with the scope, at once, whether or not the server is there.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  settings: RedisSettings.RedisSettings,
  behaviour: Behaviour = {}
): Effect.Effect<Service, RedisError, Scope.Scope> => makeClient(settings, behaviour)

/**
 * The client as a layer, with what the program says and the defaults for the rest; no environment is read.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<RedisClient, RedisError | ConfigError.ConfigError> =>
  Layer.scoped(
    RedisClient,
    Effect.flatMap(RedisSettings.fromExplicit(options), (settings) => make(settings, options))
  )

/**
 * The client as a layer, with its settings found in the five places of `RedisSettings.load`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (options: Options = {}): Layer.Layer<RedisClient, RedisError | ConfigError.ConfigError> =>
  Layer.scoped(
    RedisClient,
    Effect.flatMap(RedisSettings.load(options), (settings) => make(settings, options))
  )
