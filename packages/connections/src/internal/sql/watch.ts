/**
 * How a database on the external plane is watched: its statements by a client without retries and limits of its own
 * (sending a statement twice is for the caller to decide, and in a transaction it would be wrong), the way to its server
 * by a circuit breaker.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

export interface WatchSettings {
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

/** The settings of the client that watches the statements. */
export const watchOptions = (name: string, settings: WatchSettings): ExternalClient.Options => ({
  service: name,
  policy: { timeout: false, retry: false, breaker: false },
  // The connection has a check of its own.
  health: false,
  slowAfter: settings.slowAfter,
  logLevels: settings.logLevels
})

/** Settings of the breaker that connections may change. */
export type BreakerSettings = Pick<CircuitBreaker.Options, "window" | "openFor" | "halfOpenPermits">

/**
 * A breaker on the way to a server: only what cannot be reached counts as a failure. That all connections are in use, or
 * that the server has none left, is a load and counts as nothing. It opens for a second at first, for thirty at most.
 */
export const makeBreaker = (
  name: string,
  settings: BreakerSettings
): Effect.Effect<CircuitBreaker.CircuitBreaker, ConnectionError> =>
  CircuitBreaker.make({
    openFor: (openings) => Math.min(30_000, 1_000 * 2 ** (openings - 1)),
    ...settings,
    name,
    counts: (_, error) => {
      if (!(error instanceof ConnectionError)) return "neutral"
      switch (error.reason) {
        case "Unavailable":
          return "failure"
        case "Timeout":
          return error.method === "connect" ? "failure" : "neutral"
        case "Throttled":
        case "Closed":
        case "Cancelled":
          return "neutral"
        default:
          return "success"
      }
    }
  })

/** Acquires through the breaker. */
export const guarded = <A, R>(
  at: { readonly kind: string; readonly name: string },
  breaker: CircuitBreaker.CircuitBreaker,
  acquire: Effect.Effect<A, ConnectionError, R>
): Effect.Effect<A, ConnectionError, R> =>
  Effect.mapError(breaker.run(acquire), (error) =>
    error._tag === "ConnectionError"
      ? error
      : new ConnectionError({
          reason: "Unavailable",
          kind: at.kind,
          connection: at.name,
          method: "acquire",
          description: "the server could not be reached several times in a row, so it is not asked for a while",
          retryAfter: error.retryAfter,
          cause: error
        })
  )
