/**
 * The settings of a policy, for all that makes, checks or reads them.
 */
import type * as Duration from "effect/Duration"
import type * as Bulkhead from "../../resilience/Bulkhead.ts"
import type * as Chaos from "../../resilience/Chaos.ts"
import type * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import type * as ErrorClass from "../../resilience/ErrorClass.ts"
import type * as Hedge from "../../resilience/Hedge.ts"
import type * as RateLimit from "../../resilience/RateLimit.ts"
import type * as RetryBudget from "../../resilience/RetryBudget.ts"
import type * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import type * as Throttle from "../../resilience/Throttle.ts"
import type * as stage from "./stage.ts"

/** All settings. */
export interface Options {
  /** What is called; named in errors and metrics. */
  readonly name: string
  /** The limit of the whole call with all its attempts and waits; false for none. 30 seconds. */
  readonly timeout?: Duration.DurationInput | false | undefined
  /** The limit of each attempt; false for none, which is the default. */
  readonly attemptTimeout?: Duration.DurationInput | false | undefined
  /** By default 3 attempts, 1 second x 2 up to 30 seconds, full jitter. False for a single attempt. */
  readonly retry?: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
  /**
   * What retries and hedges are taken from, so that they do not make an outage worse. By default a fifth of the calls and
   * 10 a second. One budget can be shared by several policies. False for none.
   */
  readonly budget?: RetryBudget.RetryBudget | RetryBudget.Options | false | undefined
  /** Starts another attempt beside one that is slow; only for calls that may happen twice. None. */
  readonly hedge?: Hedge.Hedge | Hedge.Options | false | undefined
  /** Refuses a growing part of the calls while the service refuses them. None. */
  readonly throttle?: Throttle.Throttle | Omit<Throttle.Options, "name"> | false | undefined
  /** How many attempts are made in a time at most. None. */
  readonly rateLimit?: RateLimit.RateLimit | Omit<RateLimit.Options, "name"> | false | undefined
  /** By default 5 failures in a row open it for 30 seconds. A breaker that is made elsewhere can be shared. False for none. */
  readonly breaker?: CircuitBreaker.CircuitBreaker | Omit<CircuitBreaker.Options, "name"> | false | undefined
  /** How many attempts are under way at most. None. */
  readonly bulkhead?:
    | Bulkhead.Bulkhead
    | Omit<Bulkhead.Options, "name">
    | Omit<Bulkhead.AdaptiveOptions, "name">
    | false
    | undefined
  /** Faults on purpose, next to the call. None. */
  readonly chaos?: Chaos.Chaos | undefined
  /** Stages of one's own, outermost first in each place. */
  readonly stages?: ReadonlyArray<stage.Stage> | undefined
  /** Whether calls, attempts, retries, refusals and the like are counted as metrics, `resilience_*`. False. */
  readonly metrics?: boolean | undefined
  /**
   * Whether the calls may happen twice. If false, a call is made again only where it is certain that nothing was sent; a
   * policy that asks for several attempts must then say so (`retry: { unsentOnly: true }`). True.
   */
  readonly idempotent?: boolean | undefined
  /** Classifies errors, for the parts that are made here. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
}

/** Those that are data, as configuration has them. */
export type Settings = Omit<Options, "name" | "chaos" | "stages" | "classify">
