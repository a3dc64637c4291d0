/**
 * A race of attempts: the next one starts when the ones before it are slow, the first success wins, the others are
 * interrupted and not waited for. A failure ends the race once no attempt is left in it, or at once where another attempt
 * would make no difference. A value that comes when another has won is dropped: what must be closed is known to its maker.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as timed from "./timed.ts"
import { schedule } from "./timer.ts"

/** What an attempt tells its race. */
export interface Starts {
  /** The attempt with this number has got its turn: whatever it waited for, it is slow from now on. */
  begun(index: number): void
}

/** What races. */
export interface Racers<A, E, R> {
  /** How many attempts there are at most, the first included. */
  readonly max: number
  /** The attempt with this number, from 0. It is run in a fiber of its own, interruptible from its start. */
  readonly launch: (index: number, race: Starts) => Effect.Effect<A, E, R>
  /** For how many milliseconds an attempt that has begun is given before the next. */
  readonly delay: () => number
  /** Whether the attempt with this number may start at all. */
  readonly allowed: (index: number) => boolean
  /** Whether this failure says less than that of another attempt (a refusal of our own). */
  readonly isMinor: (cause: Cause.Cause<E>) => boolean
  /** Whether this failure is the answer, whatever becomes of the other attempts. */
  readonly isFinal: (cause: Cause.Cause<E>) => boolean
}

/** To be run where nothing can be interrupted: only the wait for the winner is. */
export const masked = <A, E, R, E2, R2>(
  restore: timed.Restore,
  racers: Racers<A, E, R>,
  failed: (cause: Cause.Cause<E>) => Effect.Effect<A, E2, R2>
): Effect.Effect<A, E2, R | R2> =>
  Effect.withFiberRuntime<A, E2, R | R2>((parent, status) => {
    const race = new Race<A, E, R>(
      parent,
      Runtime.make({
        context: parent.currentContext as Context.Context<R>,
        runtimeFlags: RuntimeFlags.enable(status.runtimeFlags, RuntimeFlags.Interruption),
        fiberRefs: parent.getFiberRefs()
      }),
      racers
    )
    race.next()
    return Effect.matchCauseEffect(restore(Effect.async<void>((resume) => race.listen(resume))), {
      onFailure: (interruption) => Effect.zipRight(race.cancel(), Effect.failCause(interruption)),
      onSuccess: () => race.result(failed)
    })
  })

class Race<A, E, R> implements Starts {
  private readonly running = new Set<Fiber.RuntimeFiber<Exit.Exit<A, E>>>()
  private launched = 0
  private launching = false
  /** Whether the youngest attempt has got its turn. */
  private hasBegun = false
  private winner: { readonly fiber: Fiber.RuntimeFiber<Exit.Exit<A, E>>; readonly value: A } | undefined
  private failure: Cause.Cause<E> | undefined
  private done = false
  private cancelTimer: (() => void) | undefined
  private resume: ((effect: Effect.Effect<void>) => void) | undefined
  private readonly parent: Fiber.RuntimeFiber<unknown, unknown>
  private readonly runtime: Runtime.Runtime<R>
  private readonly racers: Racers<A, E, R>

  constructor(parent: Fiber.RuntimeFiber<unknown, unknown>, runtime: Runtime.Runtime<R>, racers: Racers<A, E, R>) {
    this.parent = parent
    this.runtime = runtime
    this.racers = racers
  }

  /** Starts the next attempt, and as many as there is no delay between. */
  next(): void {
    this.cancelTimer = undefined
    do {
      const index = this.launched
      if (this.done || (index > 0 && !this.racers.allowed(index))) return
      this.launched++
      this.hasBegun = false
      this.launching = true
      const fiber = Runtime.runFork(this.runtime, Effect.exit(this.racers.launch(index, this)))
      this.launching = false
      const polled = fiber.unsafePoll()
      if (polled !== null) {
        this.ended(fiber, Exit.flatten(polled))
      } else {
        this.running.add(fiber)
        fiber.addObserver((outcome) => {
          this.running.delete(fiber)
          this.ended(fiber, Exit.flatten(outcome))
        })
      }
    } while (this.hasBegun && this.isDue())
  }

  begun(index: number): void {
    // A stage of one's own may make an attempt again: its delay has begun with the first time.
    if (this.hasBegun || index !== this.launched - 1) return
    this.hasBegun = true
    // While it is launched the attempt is not yet among those that run.
    if (!this.launching && this.isDue()) this.next()
  }

  listen(resume: (effect: Effect.Effect<void>) => void): void {
    if (this.done) resume(Effect.void)
    else this.resume = resume
  }

  result<E2, R2>(failed: (cause: Cause.Cause<E>) => Effect.Effect<A, E2, R2>): Effect.Effect<A, E2, R2> {
    const { failure, parent, winner } = this
    if (winner !== undefined) return timed.inherit(parent, winner.fiber, Effect.succeed(winner.value))
    return failed(failure ?? Cause.empty)
  }

  /** The caller is interrupted: so are all attempts, and they are waited for. */
  cancel(): Effect.Effect<void> {
    this.stop()
    return Fiber.interruptAll(this.running)
  }

  private ended(fiber: Fiber.RuntimeFiber<Exit.Exit<A, E>>, exit: Exit.Exit<A, E>): void {
    if (this.done) return
    if (Exit.isSuccess(exit)) {
      this.winner = { fiber, value: exit.value }
      this.end()
      return
    }
    const isFinal = this.racers.isFinal(exit.cause)
    if (isFinal || this.failure === undefined || this.racers.isMinor(this.failure)) this.failure = exit.cause
    // With nobody left to wait for, whether there is another attempt is for the retry to say.
    if (isFinal || this.running.size === 0) this.end()
  }

  /** Whether the next attempt is to start now; if it is later, it will. */
  private isDue(): boolean {
    if (this.done || this.launched >= this.racers.max) return false
    const delay = this.racers.delay()
    if (delay <= 0) return true
    this.cancelTimer = schedule(this.parent, delay, () => this.next())
    return false
  }

  private end(): void {
    this.stop()
    for (const other of this.running) other.unsafeInterruptAsFork(this.parent.id())
    this.resume?.(Effect.void)
  }

  private stop(): void {
    this.done = true
    this.cancelTimer?.()
    this.cancelTimer = undefined
  }
}
