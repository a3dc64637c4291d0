/**
 * Runs a function that gives a promise and takes an abort signal, until a time is over: no fiber of its own, the signal
 * made only where the function asks for it, and aborted only on a timeout or an interruption.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as timed from "./timed.ts"
import { schedule } from "./timer.ts"

/** The call itself, as drivers and `fetch` have it. */
export interface Leaf<A, E> {
  readonly try: (signal: AbortSignal) => PromiseLike<A>
  readonly catch: (error: unknown) => E
}

/** To be run where nothing can be interrupted: only the wait for the promise is. */
export const masked = <A, E, R, E2, E3>(
  restore: timed.Restore,
  leaf: Leaf<A, E>,
  limit: timed.Limit<A, E, E2, R, E3>
): Effect.Effect<A, E | E3, R> =>
  Effect.withFiberRuntime<A, E | E3, R>((parent) => {
    const waiting = new Waiting(parent, leaf, limit)
    return Effect.matchCauseEffect(restore(Effect.async<void>((resume) => waiting.listen(resume))), {
      onFailure: (interruption) => Effect.zipRight(waiting.cancel(interruption), Effect.failCause(interruption)),
      onSuccess: () => waiting.result()
    })
  })

/** What a promise belongs to that an effect waits for, and that may outlast the effect. */
export interface Host {
  readonly orphans: timed.Orphans
  promised(): void
  promiseEnded(): void
}

/** The same as an effect among others, whose end the promise may outlast. */
export const within = <A, E>(leaf: Leaf<A, E>, host: Host): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) => {
    host.promised()
    return masked<A, E, never, never, E>(restore, leaf, new Guest(host))
  })

/** Has no time of its own and leaves the result to the effect. */
class Guest<A, E> implements timed.Limit<A, E, never, never, E> {
  readonly millis = Number.POSITIVE_INFINITY
  readonly context = undefined
  readonly orphans: timed.Orphans
  private readonly host: Host

  constructor(host: Host) {
    this.host = host
    this.orphans = host.orphans
  }

  timeout(): never {
    throw new Error("it has no time that could be over")
  }
  settled(): void {}
  ended(): void {
    this.host.promiseEnded()
  }
  failed(cause: Cause.Cause<E>): Effect.Effect<A, E> {
    return Effect.failCause(cause)
  }
}

class Waiting<A, E, E2, R, E3> {
  /** It is known how the call goes on: the promise has settled, time is over, or the caller has left. */
  private done = false
  private pending = true
  private orphaned = false
  private exit: Exit.Exit<A, E> | undefined = undefined
  private timeout: E2 | undefined = undefined
  private resume: ((effect: Effect.Effect<void>) => void) | undefined = undefined
  private cancelTimer: (() => void) | undefined = undefined
  private readonly controller: AbortController | undefined
  private readonly limit: timed.Limit<A, E, E2, R, E3>

  constructor(parent: Fiber.RuntimeFiber<unknown, unknown>, leaf: Leaf<A, E>, limit: timed.Limit<A, E, E2, R, E3>) {
    this.limit = limit
    // A function that does not name the parameter cannot use it.
    this.controller = leaf.try.length > 0 ? new AbortController() : undefined
    const fail = (error: unknown): void => this.end(failure(leaf, error))
    try {
      const promise = (leaf.try as (signal: AbortSignal | undefined) => PromiseLike<A>)(this.controller?.signal)
      // In here as well: it may be no promise at all, or one of somebody's own making.
      promise.then((value) => this.end(Exit.succeed(value)), fail)
    } catch (error) {
      fail(error)
    }
    if (!this.done && limit.millis !== Number.POSITIVE_INFINITY) {
      this.cancelTimer = schedule(parent, limit.millis, () => this.expire())
    }
  }

  listen(resume: (effect: Effect.Effect<void>) => void): void {
    if (this.done) resume(Effect.void)
    else this.resume = resume
  }

  result(): Effect.Effect<A, E | E3, R> {
    const { exit, limit, timeout } = this
    if (exit === undefined) {
      return Effect.zipRight(
        this.leave(),
        Effect.suspend(() => limit.failed(Cause.fail(timeout as E2)))
      )
    }
    return exit._tag === "Failure" ? limit.failed(exit.cause) : exit
  }

  /** The caller is interrupted: the call is told so and, like any promise, not waited for. */
  cancel(interruption: Cause.Cause<never>): Effect.Effect<void> {
    if (!this.done) {
      this.done = true
      this.cancelTimer?.()
      this.limit.settled(Exit.failCause(interruption))
      this.controller?.abort()
    }
    return this.pending ? this.leave() : Effect.void
  }

  /** One turn for the promise to settle in; one that has not by then is an orphan. */
  private leave(): Effect.Effect<void> {
    return Effect.map(Effect.yieldNow(), () => {
      if (!this.pending) return
      this.orphaned = true
      timed.orphaned(this.limit.orphans, 1)
    })
  }

  private end(exit: Exit.Exit<A, E>): void {
    // What is no real promise may settle twice.
    if (!this.pending) return
    this.pending = false
    if (!this.done) {
      this.done = true
      this.exit = exit
      this.cancelTimer?.()
      this.limit.settled(exit)
      this.resume?.(Effect.void)
    }
    if (this.orphaned) timed.orphaned(this.limit.orphans, -1)
    this.limit.ended()
  }

  private expire(): void {
    if (this.done) return
    this.done = true
    this.limit.settled(undefined)
    this.timeout = this.limit.timeout()
    this.controller?.abort(this.timeout)
    this.resume?.(Effect.void)
  }
}

/** What `catch` throws is a defect, as in `Effect.tryPromise`. */
const failure = <A, E>(leaf: Leaf<A, E>, error: unknown): Exit.Exit<A, E> => {
  try {
    return Exit.fail(leaf.catch(error))
  } catch (defect) {
    return Exit.die(defect)
  }
}
