/**
 * cockatiel as the conformance cases see it: as its README has it, and with everything set that its README knows.
 */
import type { ResilienceSuite } from "@underlay/core/testing"
import * as Cockatiel from "cockatiel"
import { Effect } from "effect"
import { GivenUp, nest, type Run, type Runs, start } from "./promised.ts"

const features: ReadonlyArray<ResilienceSuite.Feature> = [
  "abort-on-timeout",
  "bulkhead",
  "caller-signal",
  "changes",
  "count-window",
  "fallback",
  "forced-open",
  "growing-open-time",
  "jitter",
  "queue",
  "restore",
  "retry",
  "retry-of-answers",
  "time-window",
  "total-timeout"
]

const states: Readonly<Record<Cockatiel.CircuitState, ResilienceSuite.State>> = {
  [Cockatiel.CircuitState.Closed]: "closed",
  [Cockatiel.CircuitState.Open]: "open",
  [Cockatiel.CircuitState.HalfOpen]: "half-open",
  [Cockatiel.CircuitState.Isolated]: "open"
}

// By class: `isTaskCancelledError` and `isIsolatedCircuitError` of 3.2.1 look for the property of another error.
const kindOf = (error: unknown): ResilienceSuite.Kind =>
  error instanceof Cockatiel.BrokenCircuitError || error instanceof Cockatiel.IsolatedCircuitError
    ? "open"
    : error instanceof Cockatiel.BulkheadRejectedError
      ? "full"
      : error instanceof Cockatiel.TaskCancelledError || (error instanceof Error && error.name === "AbortError")
        ? "timeout"
        : "error"

/** What a careful user leaves out: refusals of the pipeline itself, and callers that gave up. */
const careful = Cockatiel.handleWhen(
  (error) =>
    !(
      error instanceof Cockatiel.BrokenCircuitError ||
      error instanceof Cockatiel.IsolatedCircuitError ||
      error instanceof Cockatiel.BulkheadRejectedError ||
      error instanceof GivenUp
    )
)

const counting = (trip: NonNullable<ResilienceSuite.Settings["breaker"]>["trip"]): Cockatiel.IBreaker => {
  switch (trip.type) {
    case "consecutive":
      return new Cockatiel.ConsecutiveBreaker(trip.failures)
    case "rate":
      return new Cockatiel.CountBreaker({
        threshold: trip.rate,
        size: trip.size,
        ...(trip.minimumCalls === undefined ? {} : { minimumNumberOfCalls: trip.minimumCalls })
      })
    case "time":
      return new Cockatiel.SamplingBreaker({
        threshold: trip.rate,
        duration: trip.span,
        minimumRps: trip.minimumCalls / (trip.span / 1_000)
      })
  }
}

const waits = (retry: NonNullable<ResilienceSuite.Settings["retry"]>) => {
  if (retry.jitter !== true && retry.factor === undefined) return new Cockatiel.ConstantBackoff(retry.delay)
  return new Cockatiel.ExponentialBackoff({
    initialDelay: retry.delay,
    maxDelay: retry.maxDelay ?? 600_000,
    exponent: retry.factor ?? 2,
    ...(retry.jitter === true ? {} : { generator: Cockatiel.noJitterGenerator })
  })
}

/** `tuned`: refusals and callers that gave up are left out, and places stand innermost, where timed-out work keeps its own. */
export const driver = (time: ResilienceSuite.Time, tuned: boolean): ResilienceSuite.Driver => {
  const handled = tuned ? careful : Cockatiel.handleAll
  const make = (settings: ResilienceSuite.Settings): Runs => {
    const ignore = settings.breaker?.ignore
    const unwanted = settings.retry?.unwanted
    const breaker =
      settings.breaker === undefined
        ? undefined
        : Cockatiel.circuitBreaker(ignore === undefined ? handled : Cockatiel.handleWhen((error) => !ignore(error)), {
            halfOpenAfter:
              settings.breaker.factor === undefined
                ? settings.breaker.openFor
                : new Cockatiel.ExponentialBackoff({
                    initialDelay: settings.breaker.openFor,
                    exponent: settings.breaker.factor,
                    maxDelay: 3_600_000,
                    generator: Cockatiel.noJitterGenerator
                  }),
            breaker: counting(settings.breaker.trip),
            ...(settings.breaker.restore === undefined ? {} : { initialState: settings.breaker.restore })
          })
    const { fallback } = settings
    const bulkhead =
      settings.bulkhead === undefined
        ? undefined
        : Cockatiel.bulkhead(settings.bulkhead.maxConcurrent, settings.bulkhead.maxQueue ?? 0)
    const parts: ReadonlyArray<Cockatiel.IPolicy<Cockatiel.IDefaultPolicyContext, unknown> | undefined> = [
      fallback === undefined ? undefined : Cockatiel.fallback(Cockatiel.handleAll, () => fallback(undefined)),
      settings.total === undefined
        ? undefined
        : Cockatiel.timeout(settings.total, Cockatiel.TimeoutStrategy.Aggressive),
      settings.retry === undefined
        ? undefined
        : Cockatiel.retry(unwanted === undefined ? handled : handled.orWhenResult(unwanted), {
            maxAttempts: settings.retry.attempts - 1,
            backoff: waits(settings.retry)
          }),
      tuned ? undefined : bulkhead,
      breaker,
      settings.timeout === undefined
        ? undefined
        : Cockatiel.timeout(settings.timeout, Cockatiel.TimeoutStrategy.Aggressive),
      tuned ? bulkhead : undefined
    ]
    const policy = Cockatiel.wrap(...parts.filter((part) => part !== undefined))
    const execute: Run = (leaf, caller) =>
      policy.execute(
        ({ signal }) =>
          tuned
            ? leaf(signal).catch((error: unknown) => Promise.reject(caller?.aborted === true ? new GivenUp() : error))
            : leaf(signal),
        caller
      )
    const guard: Runs = {
      execute,
      start: start(time, execute, kindOf),
      state: Effect.sync(() => (breaker === undefined ? "closed" : states[breaker.state])),
      shown: Effect.sync(() => ({
        state: breaker?.state,
        lastFailure: breaker?.lastFailure,
        json: breaker?.toJSON()
      })),
      shutdown: Effect.void
    }
    if (breaker === undefined) return guard
    let held: { readonly dispose: () => void } | undefined
    return {
      ...guard,
      setMode: (mode) =>
        Effect.sync(() => {
          if (mode === "forced-open") held = breaker.isolate()
          else held?.dispose()
        }),
      saved: Effect.sync(() => breaker.toJSON()),
      changes: Effect.sync(() => {
        const seen: Array<ResilienceSuite.State> = []
        breaker.onStateChange((state) => seen.push(states[state]))
        return () => seen
      })
    }
  }
  return {
    name: "cockatiel",
    features: new Set(features),
    time,
    make: (settings) => Effect.try(() => make(settings)),
    nest: nest(time, kindOf)
  }
}
