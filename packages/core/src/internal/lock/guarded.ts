/**
 * Runs an effect under a lock and interrupts it when the lock is lost: in the caller's own fiber where that is safe, which
 * costs neither a fiber nor a turn of the scheduler; otherwise in one of its own.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import { inherit } from "../resilience/timed.ts"

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

type Parent = Fiber.RuntimeFiber<unknown, unknown>

/**
 * To be run where nothing can be interrupted: between having the lock and freeing it there is no such step. `callerFlags`
 * are those of the region around it.
 */
export const run = <A, E, R, R2, Lost>(
  callerFlags: RuntimeFlags.RuntimeFlags,
  body: Effect.Effect<A, E, R>,
  held: Held<R, Lost>
): Effect.Effect<A, E | Lost, R2> =>
  Effect.withFiberRuntime<A, E | Lost, R2>((parent, status) => {
    if (!RuntimeFlags.interruptible(callerFlags)) {
      // what comes from outside must not interrupt it, the loss of the lock must: that takes a fiber of its own
      return apart(Effect.uninterruptible, body, held, parent, status.runtimeFlags)
    }
    // interrupted while the lock was taken: the work does not begin
    if (isInterrupted(parent)) {
      return Effect.flatMap(held.end(), () => Effect.failCause(parent.getFiberRef(FiberRef.interruptedCause)))
    }
    // an interruption would reach the fibers that the caller has forked before, and they are none of the lock's
    if (childrenOf(parent) !== 0) return apart(Effect.interruptible, body, held, parent, status.runtimeFlags)
    return within(body, held, parent)
  })

const isInterrupted = (fiber: Parent): boolean => !Cause.isEmpty(fiber.getFiberRef(FiberRef.interruptedCause))

/**
 * How many fibers a fiber supervises; undefined where it does not say, which counts as some. To be asked by the fiber
 * itself, in a step of its own: it hears of every fork before its next step, and of an end at the latest then. A fiber
 * that has forked nothing, or has given its children away, answers with a set that is empty.
 */
const childrenOf = (fiber: object): number | undefined => {
  if (!("getChildren" in fiber && typeof fiber.getChildren === "function")) return undefined
  const children: unknown = fiber.getChildren()
  return children instanceof Set ? children.size : undefined
}

/**
 * In the caller's fiber, which is interrupted under a name of our own when the lock is lost. Afterwards that interruption
 * is taken back, so that the caller goes on; any other stays.
 */
const within = <A, E, R, R2, Lost>(
  body: Effect.Effect<A, E, R>,
  held: Held<R, Lost>,
  parent: Parent
): Effect.Effect<A, E | Lost, R2> => {
  let name: FiberId.Runtime | undefined
  let begun = false
  held.onLost(() => {
    name = FiberId.unsafeMake()
    if (begun) parent.unsafeInterruptAsFork(name)
  })
  if (name !== undefined) return Effect.zipRight(held.end(), Effect.fail(held.lost()))
  begun = true
  const context = parent.currentContext

  const finish = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | Lost> => {
    // what was forked in here ends before the lock does
    if (childrenOf(parent) !== 0) {
      const ended = Effect.flatMap(Fiber.children(parent), Fiber.interruptAll)
      return Effect.flatMap(ended, () => free(exit))
    }
    return free(exit)
  }
  const free = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | Lost> =>
    Effect.flatMap(held.end(), (wasHeld) => (wasHeld && name === undefined ? exit : lost(exit)))
  const lost = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | Lost> => {
    const ours = name
    const rest = Exit.isSuccess(exit) ? Cause.empty : without(exit.cause, ours)
    const result: Effect.Effect<never, E | Lost> =
      Cause.isInterruptedOnly(rest) && !isInterruptedBy(parent, ours)
        ? Effect.fail(held.lost())
        : Effect.failCause(Cause.isEmpty(rest) ? without(parent.getFiberRef(FiberRef.interruptedCause), ours) : rest)
    return ours === undefined
      ? result
      : Effect.zipRight(
          FiberRef.update(FiberRef.interruptedCause, (cause) => without(cause, ours)),
          result
        )
  }

  // by hand, since `Effect.provide` would have a region and a finalizer of its own
  return Effect.zipRight(
    FiberRef.set(FiberRef.currentContext, held.provide(context) as Context.Context<never>),
    Effect.matchCauseEffect(Effect.interruptible(body as Effect.Effect<A, E>), {
      onSuccess: (value) =>
        Effect.zipRight(FiberRef.set(FiberRef.currentContext, context), finish(Exit.succeed(value))),
      onFailure: (cause) =>
        Effect.zipRight(FiberRef.set(FiberRef.currentContext, context), finish(Exit.failCause(cause)))
    })
  )
}

/** Whether a fiber is interrupted by anybody but the one of this name. */
const isInterruptedBy = (fiber: Parent, name: FiberId.Runtime | undefined): boolean =>
  !Cause.isEmpty(without(fiber.getFiberRef(FiberRef.interruptedCause), name))

/** The cause without the interruptions of that name. */
const without = <E>(cause: Cause.Cause<E>, name: FiberId.Runtime | undefined): Cause.Cause<E> =>
  name === undefined
    ? cause
    : Cause.match(cause, {
        onEmpty: Cause.empty as Cause.Cause<E>,
        onFail: Cause.fail,
        onDie: Cause.die,
        onInterrupt: (by) => (Equal.equals(by, name) ? Cause.empty : Cause.interrupt(by)),
        onSequential: (left, right) => both(left, right, Cause.sequential),
        onParallel: (left, right) => both(left, right, Cause.parallel)
      })

const both = <E>(
  left: Cause.Cause<E>,
  right: Cause.Cause<E>,
  combine: (left: Cause.Cause<E>, right: Cause.Cause<E>) => Cause.Cause<E>
): Cause.Cause<E> => (Cause.isEmpty(left) ? right : Cause.isEmpty(right) ? left : combine(left, right))

/** Gives back to an effect what the region of its caller allows. */
type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** In a fiber of its own. It starts at once and inside the caller's step. */
const apart = <A, E, R, R2, Lost>(
  restore: Restore,
  body: Effect.Effect<A, E, R>,
  held: Held<R, Lost>,
  parent: Parent,
  runtimeFlags: RuntimeFlags.RuntimeFlags
): Effect.Effect<A, E | Lost, R2> => {
  const runtime = Runtime.make({
    context: held.provide(parent.currentContext),
    runtimeFlags: RuntimeFlags.disable(runtimeFlags, RuntimeFlags.Interruption),
    fiberRefs: parent.getFiberRefs()
  })
  // as a value, so that the runtime does not report the failure of a fiber that has somebody to tell
  // interruptible whatever the caller's region: otherwise the loss of the lock could stop nothing
  const child = Runtime.runFork(runtime, Effect.exit(Effect.interruptible(body)))
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
