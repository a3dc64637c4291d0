/**
 * Waiting on stores that tell nobody of changes: whoever waits is woken from time to time to look for himself, by the
 * machine's own clock, at first soon and then less often.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Calls `wake` again and again until the scope closes. In milliseconds. */
export const every = (
  wake: () => void,
  pauses: { readonly first: number; readonly longest: number }
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.sync(() => {
        const timer: { current?: NodeJS.Timeout } = {}
        const next = (pause: number): void => {
          timer.current = setTimeout(() => {
            wake()
            next(Math.min(pauses.longest, pause * 1.5))
          }, pause)
        }
        next(pauses.first)
        return timer
      }),
      (timer) => Effect.sync(() => clearTimeout(timer.current))
    )
  )
