/**
 * What the peers are measured with, in the settings that come nearest to ours: the same stages, the same limits.
 */
import type { Policy } from "@underlay/core"
import * as Cockatiel from "cockatiel"
import { Effect, Ref, Schedule } from "effect"
import Opossum from "opossum"

/** The work: an async function that does nothing, and one that looks at its signal. */
export const noop = async (): Promise<number> => 1
export const withSignal = async (signal: AbortSignal): Promise<number> => (signal.aborted ? 0 : 1)
export const failing = async (): Promise<number> => {
  throw new Error("down")
}

/** cockatiel's pipeline. */
export const cockatiel = () =>
  Cockatiel.wrap(
    Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 2, backoff: new Cockatiel.ExponentialBackoff() }),
    Cockatiel.circuitBreaker(Cockatiel.handleAll, {
      halfOpenAfter: 30_000,
      breaker: new Cockatiel.CountBreaker({ size: 100, threshold: 0.5 })
    }),
    Cockatiel.timeout(10_000, Cockatiel.TimeoutStrategy.Aggressive),
    Cockatiel.bulkhead(1_000)
  )

/** opossum: no retry, and one abort signal for all calls. */
export const opossum = () => new Opossum(noop, { timeout: 10_000, capacity: 1_000 })

/** The usual recipes, put together: a breaker of a reference, a semaphore, two timeouts, a retry. */
export const naive = (work: Effect.Effect<unknown, unknown>): Effect.Effect<Effect.Effect<unknown, unknown>> =>
  Effect.zipWith(Ref.make(0), Effect.makeSemaphore(1_000), (failures, semaphore) => {
    const guarded = Effect.flatMap(
      Ref.get(failures),
      (n): Effect.Effect<unknown, unknown> =>
        n >= 50
          ? Effect.fail("open")
          : work.pipe(
              Effect.timeout("10 seconds"),
              semaphore.withPermits(1),
              Effect.tapBoth({
                onFailure: () => Ref.update(failures, (m) => m + 1),
                onSuccess: () => Ref.set(failures, 0)
              })
            )
    )
    return guarded.pipe(
      Effect.retry({ times: 2, schedule: Schedule.jittered(Schedule.exponential("1 second")) }),
      Effect.timeout("30 seconds")
    )
  })

/** Ours. */
export const full = {
  timeout: "30 seconds",
  attemptTimeout: "10 seconds",
  breaker: { window: { type: "count", size: 100, failureRate: 0.5 } },
  bulkhead: { maxConcurrent: 1_000 },
  metrics: true
} as const satisfies Omit<Policy.Options, "name">
