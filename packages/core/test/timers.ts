import { Effect, type Scope } from "effect"

/** JavaScript's own timers that were set and have not been taken back, of those that one looks for. */
export interface Timers {
  made: number
  readonly open: Set<unknown>
}

/**
 * Watches the timers that are set in this scope for a time that is `ours`, and intervals alike. The test runner keeps the
 * functions of before, so its own are not among them.
 */
export const watch = (ours: (millis: number) => boolean): Effect.Effect<Timers, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { clearInterval, clearTimeout, setInterval, setTimeout } = globalThis
    const timers: Timers = { made: 0, open: new Set() }
    const seen = <Timer>(timer: Timer, millis: unknown): Timer => {
      if (ours(Number(millis))) {
        timers.made++
        timers.open.add(timer)
      }
      return timer
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        Object.assign(globalThis, {
          setTimeout: Object.assign(
            (...args: Parameters<typeof setTimeout>) => seen(setTimeout(...args), args[1]),
            setTimeout
          ),
          setInterval: (...args: Parameters<typeof setInterval>) => seen(setInterval(...args), args[1]),
          clearTimeout: (timer: Parameters<typeof clearTimeout>[0]) => {
            timers.open.delete(timer)
            clearTimeout(timer)
          },
          clearInterval: (timer: Parameters<typeof clearInterval>[0]) => {
            timers.open.delete(timer)
            clearInterval(timer)
          }
        })
      }),
      () =>
        Effect.sync(() => {
          Object.assign(globalThis, { clearInterval, clearTimeout, setInterval, setTimeout })
        })
    )
    return timers
  })
