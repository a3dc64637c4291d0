/**
 * Runs an effect in a fiber of its own until a time is over. The fiber starts at once and inside the caller's step, so an
 * effect that needs no waiting costs neither a timer nor a turn of the scheduler (plain callbacks instead of fibers and
 * deferreds: `benchmarks/` has the figures).
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as owned from "./ownedDeadline.ts"
import { schedule } from "./timer.ts"

/** Counts of work that went on after its time. */
export interface Orphans {
  current: number
  total: number
  /** Told of each change. */
  changed?: ((current: number) => void) | undefined
}

/** The orphans of the whole process. */
export const everywhere: Orphans = { current: 0, total: 0 }

/** How to run an effect against the clock, and what becomes of it: an object, so that a call makes one and no closures. */
export interface Limit<A, E, E2, R, E3> {
  readonly millis: number
  readonly orphans: Orphans | undefined
  /** The context that the effect runs in; undefined for the caller's. */
  readonly context: Context.Context<R> | undefined
  /** What is failed with when the time is over. */
  timeout(): E2
  /** Told once, as soon as it is known how it went: the effect's own exit, or undefined when time was up. */
  settled(exit: Exit.Exit<A, E> | undefined): void
  /** Told once, when the work has really ended, which after a timeout may be later. */
  ended(): void
  /** What to do after a failure or a timeout; run where nothing can be interrupted. */
  failed(cause: Cause.Cause<E | E2>): Effect.Effect<A, E3, R>
}

const deadlineKey = "@underlay/core/Deadline/Current"

/** Gives back to an effect what the region of its caller allows. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Runs the effect; when the time is over its failure is `timeout()`, whether the effect can be interrupted or not. */
export const run = <A, E, R, E2, E3>(
  self: Effect.Effect<A, E, R>,
  limit: Limit<A, E, E2, R, E3>
): Effect.Effect<A, E | E3, R> => Effect.uninterruptibleMask((restore) => masked(restore, self, limit))

/**
 * The same, to be run where nothing can be interrupted: between the start of the effect's fiber and the wait for it there
 * is no step at which an interruption could come and leave the fiber to itself.
 */
export const masked = <A, E, R, E2, E3>(
  restore: Restore,
  self: Effect.Effect<A, E, R>,
  limit: Limit<A, E, E2, R, E3>
): Effect.Effect<A, E | E3, R> =>
  Effect.withFiberRuntime<A, E | E3, R>((parent, status) => {
    // Interruptible whatever the caller's region: otherwise a timeout in a finalizer could stop nothing.
    const runtime = Runtime.make({
      context: limit.context ?? (parent.currentContext as Context.Context<R>),
      runtimeFlags: RuntimeFlags.enable(status.runtimeFlags, RuntimeFlags.Interruption),
      fiberRefs:
        limit.context === undefined
          ? parent.getFiberRefs()
          : owned.give(parent, limit.context as Context.Context<never>, deadlineKey)
    })
    // As a value, so that the runtime does not report the failure of a fiber that has somebody to tell.
    const child = Runtime.runFork(runtime, Effect.exit(self))
    const polled = child.unsafePoll()
    if (polled !== null) {
      const exit = Exit.flatten(polled)
      limit.settled(exit)
      limit.ended()
      return finish(parent, child, limit, exit)
    }
    const waiting = new Waiting(parent, child, limit)
    return Effect.matchCauseEffect(restore(Effect.async<void>((resume) => waiting.listen(resume))), {
      onFailure: (interruption) => Effect.zipRight(waiting.cancel(), Effect.failCause(interruption)),
      onSuccess: () => waiting.result()
    })
  })

/** A run that did not end at once. */
class Waiting<A, E, E2, R, E3> {
  private done = false
  /** How it ended; undefined if its time was over first. */
  private exit: Exit.Exit<A, E> | undefined = undefined
  private resume: ((effect: Effect.Effect<void>) => void) | undefined = undefined
  private readonly parent: Fiber.RuntimeFiber<unknown, unknown>
  private readonly child: Fiber.RuntimeFiber<Exit.Exit<A, E>>
  private readonly limit: Limit<A, E, E2, R, E3>
  private readonly cancelTimer: () => void

  constructor(
    parent: Fiber.RuntimeFiber<unknown, unknown>,
    child: Fiber.RuntimeFiber<Exit.Exit<A, E>>,
    limit: Limit<A, E, E2, R, E3>
  ) {
    this.parent = parent
    this.child = child
    this.limit = limit
    this.cancelTimer = schedule(parent, limit.millis, () => this.expire())
    child.addObserver((outcome) => this.end(Exit.flatten(outcome)))
  }

  listen(resume: (effect: Effect.Effect<void>) => void): void {
    if (this.done) resume(Effect.void)
    else this.resume = resume
  }

  /** What the caller gets once it is known. */
  result(): Effect.Effect<A, E | E3, R> {
    return this.exit === undefined
      ? Effect.zipRight(
          this.leave(),
          Effect.suspend(() => this.limit.failed(Cause.fail(this.limit.timeout())))
        )
      : finish(this.parent, this.child, this.limit, this.exit)
  }

  /** The caller is interrupted: so is the work, and it is waited for, unless its time is over. */
  cancel(): Effect.Effect<void> {
    if (this.done) return this.exit === undefined ? this.leave() : Effect.void
    this.cancelTimer()
    return Effect.asVoid(Fiber.interrupt(this.child))
  }

  /** One turn for the work to end in; what has not ended then is an orphan. */
  private leave(): Effect.Effect<void> {
    return Effect.map(Effect.yieldNow(), () => {
      if (this.child.unsafePoll() === null) adopt(this.child, this.limit.orphans)
    })
  }

  private end(exit: Exit.Exit<A, E>): void {
    if (!this.done) {
      this.done = true
      this.exit = exit
      this.cancelTimer()
      this.limit.settled(exit)
      this.resume?.(Effect.void)
    }
    this.limit.ended()
  }

  private expire(): void {
    if (this.done) return
    this.done = true
    this.limit.settled(undefined)
    this.child.unsafeInterruptAsFork(this.parent.id())
    this.resume?.(Effect.void)
  }
}

const finish = <A, E, E2, R, E3>(
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  child: Fiber.RuntimeFiber<unknown, unknown>,
  limit: Limit<A, E, E2, R, E3>,
  exit: Exit.Exit<A, E>
): Effect.Effect<A, E | E3, R> => {
  const result: Effect.Effect<A, E | E3, R> = exit._tag === "Failure" ? limit.failed(exit.cause) : exit
  return inherit(parent, child, result)
}

/** Counts orphans, here and in the whole process. */
export const orphaned = (orphans: Orphans | undefined, change: 1 | -1): void => {
  everywhere.current += change
  if (change === 1) everywhere.total++
  if (orphans === undefined) return
  orphans.current += change
  if (change === 1) orphans.total++
  orphans.changed?.(orphans.current)
}

const adopt = (child: Fiber.RuntimeFiber<unknown, unknown>, orphans: Orphans | undefined): void => {
  orphaned(orphans, 1)
  child.addObserver(() => orphaned(orphans, -1))
}

/** What the effect set in its fiber references becomes the caller's, as it would without a fiber of its own. */
export const inherit = <A, E, R>(
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  child: Fiber.RuntimeFiber<unknown, unknown>,
  result: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  if (!changed(parent, child)) return result
  const context = parent.currentContext
  return Effect.zipRight(Effect.zipRight(child.inheritAll, FiberRef.set(FiberRef.currentContext, context)), result)
}

/** Joining references costs as much as the rest of a call, and nearly no call sets any. */
const changed = (
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  child: Fiber.RuntimeFiber<unknown, unknown>
): boolean => {
  for (const [ref, stack] of child.getFiberRefs().locals) {
    if (ref === FiberRef.currentContext || ref === FiberRef.currentRuntimeFlags || ref === owned.ref) continue
    if (stack[0][1] !== parent.getFiberRef(ref)) return true
  }
  return false
}
