/**
 * Runs an effect in a fiber of its own until a time is over. The fiber starts at once and inside the caller's step, so an
 * effect that needs no waiting costs neither a timer nor a turn of the scheduler (plain callbacks instead of fibers and
 * deferreds: `benchmarks/` has the figures).
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"

/** Counts of work that went on after its time. */
export interface Orphans {
  current: number
  total: number
}

/** The orphans of the whole process. */
export const everywhere: Orphans = { current: 0, total: 0 }

/** The longest wait of a timer of JavaScript; a longer timeout never ends. */
const maxTimer = 2 ** 31 - 1

const liveClock = Context.get(DefaultServices.liveServices, Clock.Clock)

const noop = (): void => {}

/** Calls `task` after the time and returns what takes it back. */
const schedule = (parent: Fiber.RuntimeFiber<unknown, unknown>, millis: number, task: () => void): (() => void) => {
  if (millis > maxTimer) return noop
  const clock = Context.get(parent.currentDefaultServices, Clock.Clock)
  if (clock === liveClock) {
    const handle = setTimeout(task, millis)
    return () => clearTimeout(handle)
  }
  // Any other clock (a test's) is asked to sleep, in a fiber that hears of the test.
  const runtime = Runtime.make({
    context: parent.currentContext,
    runtimeFlags: Runtime.defaultRuntimeFlags,
    fiberRefs: parent.getFiberRefs()
  })
  const sleeper = Runtime.runFork(runtime, Effect.map(clock.sleep(Duration.millis(millis)), task))
  return () => sleeper.unsafeInterruptAsFork(sleeper.id())
}

/** How to run an effect against the clock. */
export interface Options<A, E, E2, R, E3 = never> {
  readonly millis: number
  readonly onTimeout: () => E2
  readonly orphans: Orphans | undefined
  /** The context that the effect runs in; by default the caller's. */
  readonly context?: Context.Context<R> | undefined
  /** Called once, as soon as it is known how it went: with the effect's own exit, or with undefined when time was up. */
  readonly onSettled?: ((exit: Exit.Exit<A, E> | undefined) => void) | undefined
  /** What to do after a failure or a timeout instead of failing. */
  readonly onFailure?: ((cause: Cause.Cause<E | E2>) => Effect.Effect<A, E3, R>) | undefined
}

/** Runs the effect; fails with what `onTimeout` makes when the time is over, whether the effect can be interrupted or not. */
export const run = <A, E, R, E2, E3 = never>(
  self: Effect.Effect<A, E, R>,
  options: Options<A, E, E2, R, E3>
): Effect.Effect<A, E | E2 | E3, R> =>
  Effect.withFiberRuntime<A, E | E2 | E3, R>((parent, status) => {
    const context = options.context ?? (parent.currentContext as Context.Context<R>)
    // Interruptible whatever the caller's region: otherwise a timeout in a finalizer could stop nothing.
    const runtime = Runtime.make({
      context,
      runtimeFlags: RuntimeFlags.enable(status.runtimeFlags, RuntimeFlags.Interruption),
      fiberRefs: parent.getFiberRefs()
    })
    const onSettled = options.onSettled
    // As a value, so that the runtime does not report the failure of a fiber that has somebody to tell.
    const child = Runtime.runFork(runtime, Effect.exit(self))
    const started = child.getFiberRefs()

    const finish = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | E2 | E3, R> => {
      const result: Effect.Effect<A, E | E2 | E3, R> =
        exit._tag === "Failure" && options.onFailure !== undefined ? options.onFailure(exit.cause) : exit
      return inherit(parent, child, started, result)
    }

    const polled = child.unsafePoll()
    if (polled !== null) {
      const done = Exit.flatten(polled)
      onSettled?.(done)
      return finish(done)
    }

    return Effect.async<A, E | E2 | E3, R>((resume) => {
      let settled = false
      const cancelTimer = schedule(parent, options.millis, () => {
        if (settled) return
        settled = true
        onSettled?.(undefined)
        child.unsafeInterruptAsFork(parent.id())
        const cause = Cause.fail(options.onTimeout())
        resume(
          // One turn for the work to end in; what has not ended then is an orphan.
          Effect.flatMap(Effect.yieldNow(), (): Effect.Effect<A, E | E2 | E3, R> => {
            if (child.unsafePoll() === null) adopt(child, options.orphans)
            return options.onFailure === undefined ? Effect.failCause(cause) : options.onFailure(cause)
          })
        )
      })
      child.addObserver((outcome) => {
        if (settled) return
        settled = true
        cancelTimer()
        const exit = Exit.flatten(outcome)
        onSettled?.(exit)
        resume(finish(exit))
      })
      return Effect.suspend(() => {
        if (!settled) cancelTimer()
        return Fiber.interrupt(child)
      })
    })
  })

const adopt = (child: Fiber.RuntimeFiber<unknown, unknown>, orphans: Orphans | undefined): void => {
  everywhere.current++
  everywhere.total++
  if (orphans !== undefined) {
    orphans.current++
    orphans.total++
  }
  child.addObserver(() => {
    everywhere.current--
    if (orphans !== undefined) orphans.current--
  })
}

/** What the effect set in its fiber references becomes the caller's, as it would without a fiber of its own. */
const inherit = <A, E, R>(
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  child: Fiber.RuntimeFiber<unknown, unknown>,
  started: unknown,
  result: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  if (child.getFiberRefs() === started) return result
  const context = parent.currentContext
  return Effect.zipRight(Effect.zipRight(child.inheritAll, FiberRef.set(FiberRef.currentContext, context)), result)
}
