/**
 * Runs an effect under a lock, in a fiber of its own that is interrupted when the lock is lost. The fiber starts at once
 * and inside the caller's step: work that needs no waiting costs no turn of the scheduler.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import { inherit } from "../resilience/timed.ts"

/** Gives back to an effect what the region of its caller allows. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** The lock that is held. */
export interface Held<R, Lost> {
  /** Adds the token to the context. */
  readonly provide: (context: Context.Context<never>) => Context.Context<R>
  /** Calls back when the lock is lost, at once if it is. */
  readonly onLost: (interrupt: () => void) => void
  /** Frees the lock and says whether it was held to the end. */
  readonly end: () => Effect.Effect<boolean>
  readonly lost: () => Lost
}

/** To be run where nothing can be interrupted: between having the lock and freeing it there is no such step. */
export const run = <A, E, R, R2, Lost>(
  restore: Restore,
  body: Effect.Effect<A, E, R>,
  held: Held<R, Lost>
): Effect.Effect<A, E | Lost, R2> =>
  Effect.withFiberRuntime<A, E | Lost, R2>((parent, status) => {
    // interrupted while the lock was taken: the work does not begin
    if (!Cause.isEmpty(parent.getFiberRef(FiberRef.interruptedCause))) {
      const begin = Effect.suspend(() => start<A, E, R, R2, Lost>(restore, body, held, parent, status.runtimeFlags))
      return Effect.matchCauseEffect(restore(Effect.yieldNow()), {
        onSuccess: () => begin,
        onFailure: (interruption) => Effect.zipRight(held.end(), Effect.failCause(interruption))
      })
    }
    return start<A, E, R, R2, Lost>(restore, body, held, parent, status.runtimeFlags)
  })

const start = <A, E, R, R2, Lost>(
  restore: Restore,
  body: Effect.Effect<A, E, R>,
  held: Held<R, Lost>,
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  runtimeFlags: RuntimeFlags.RuntimeFlags
): Effect.Effect<A, E | Lost, R2> => {
  const runtime = Runtime.make({
    context: held.provide(parent.currentContext),
    // interruptible whatever the caller's region: otherwise the loss of the lock could stop nothing
    runtimeFlags: RuntimeFlags.enable(runtimeFlags, RuntimeFlags.Interruption),
    fiberRefs: parent.getFiberRefs()
  })
  // as a value, so that the runtime does not report the failure of a fiber that has somebody to tell
  const child = Runtime.runFork(runtime, Effect.exit(body))
  const finish = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | Lost> =>
    Effect.flatMap(held.end(), (wasHeld) =>
      wasHeld || (Exit.isFailure(exit) && !Cause.isInterruptedOnly(exit.cause))
        ? inherit<A, E | Lost, never>(parent, child, exit)
        : Effect.fail(held.lost())
    )
  const polled = child.unsafePoll()
  if (polled !== null) return finish(Exit.flatten(polled))
  held.onLost(() => child.unsafeInterruptAsFork(parent.id()))
  return Effect.matchCauseEffect(
    restore(
      Effect.async<Exit.Exit<A, E>>((resume) => {
        const observer = (outcome: Exit.Exit<Exit.Exit<A, E>>): void => resume(Effect.succeed(Exit.flatten(outcome)))
        child.addObserver(observer)
        return Effect.sync(() => child.removeObserver(observer))
      })
    ),
    {
      onSuccess: finish,
      // the caller is interrupted: so is the work, and it is waited for
      onFailure: (interruption) =>
        Effect.flatMap(Fiber.interrupt(child), (outcome) => {
          const exit = Exit.flatten(outcome)
          return Effect.zipRight(held.end(), Exit.isFailure(exit) ? exit : Effect.failCause(interruption))
        })
    }
  )
}
