/**
 * The fused pipeline: total deadline, retry, circuit breaker, attempt timeout, the call. Plain mutable state and callbacks:
 * a call that succeeds costs one fiber (for the timeout) and, while it waits, one timer; the schedule starts with the
 * first failure. `Policy` and `ExternalClient` are made of it.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import * as Deadline from "../resilience/Deadline.ts"
import type * as RetryPolicy from "../resilience/RetryPolicy.ts"
import * as Timeout from "../resilience/Timeout.ts"
import type { Permit } from "./breaker.ts"
import * as marks from "./marks.ts"
import * as RetryFrame from "./retryFrame.ts"
import * as timed from "./timed.ts"

/** The stages; durations in milliseconds, infinite where there is no limit. */
export interface Stages {
  readonly name: string
  readonly total: number
  readonly attempt: number
  readonly attemptScope: Timeout.Scope
  readonly retry: RetryPolicy.RetryPolicy
  readonly breaker: CircuitBreaker.CircuitBreaker | undefined
  readonly orphans: timed.Orphans
}

/** What is told of a call while it is under way. */
export interface Observer {
  /** An attempt failed and the next one comes after `delay` milliseconds. */
  readonly onRetry?: ((error: unknown, delay: number, attempt: number, now: number) => void) | undefined
  /** Given the permit of the attempt that succeeded, unsettled: to be settled by who asked for it. */
  readonly onPermit?: ((permit: Permit) => void) | undefined
  /** Adds to the context that the attempts run in. */
  readonly services?: ((services: Map<string, unknown>) => void) | undefined
}

/** What the stages themselves fail with. */
export type Failure = CircuitBreaker.CircuitOpen | Timeout.CallTimeout

/** A call that is made again for ever must not keep all that it has met. */
const maxFailures = 1_000

const frameKey = RetryFrame.Current.key
const deadlineKey = Deadline.Current.key

interface Call<A, E, R> {
  readonly stages: Stages
  readonly restore: timed.Restore
  readonly effect: Effect.Effect<A, E, R>
  readonly observer: Observer | undefined
  readonly clock: Clock.Clock
  /** The context of the caller with this call's deadline and frame. */
  readonly context: Context.Context<R>
  readonly started: number
  readonly deadline: number
  readonly frame: RetryFrame.Frame
  readonly outer: RetryFrame.Frame | undefined
  readonly outerAttempt: number
  /** The attempts that failed. */
  readonly failures: Array<RetryPolicy.Attempt>
}

/** Runs the effect through the stages. */
export const run = <A, E, R>(
  stages: Stages,
  effect: Effect.Effect<A, E, R>,
  observer?: Observer
): Effect.Effect<A, E | Failure, R> =>
  Effect.uninterruptibleMask((restore) => masked(restore, stages, effect, observer))

/**
 * The same, to be run where nothing can be interrupted: only the effect and the waits are, so that no interruption comes
 * between a permit and the one who gives it back.
 */
export const masked = <A, E, R>(
  restore: timed.Restore,
  stages: Stages,
  effect: Effect.Effect<A, E, R>,
  observer?: Observer
): Effect.Effect<A, E | Failure, R> =>
  Effect.withFiberRuntime<A, E | Failure, R>((fiber) => {
    const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
    const current = fiber.currentContext as Context.Context<R>
    const outer = Context.get(current, RetryFrame.Current)
    const started = clock.unsafeCurrentTimeMillis()
    const deadline = Math.min(Context.get(current, Deadline.Current), started + stages.total)
    const frame: RetryFrame.Frame = { attempt: 1, exhausted: false }
    const services = new Map(current.unsafeMap)
    services.set(frameKey, frame)
    services.set(deadlineKey, deadline)
    observer?.services?.(services)
    const call: Call<A, E, R> = {
      stages,
      restore,
      effect,
      observer,
      clock,
      context: Context.unsafeMake<R>(services),
      started,
      deadline,
      frame,
      outer,
      outerAttempt: outer === undefined ? 0 : outer.attempt,
      failures: []
    }
    return attempt(call, started, true)
  })

/** One attempt. The first one's failure starts the retries; a later one's goes to the schedule that made it. */
const attempt = <A, E, R>(call: Call<A, E, R>, now: number, first: boolean): Effect.Effect<A, E | Failure, R> => {
  const { breaker } = call.stages
  const run = new Attempt(call, now, first)
  if (run.remaining <= 0) return run.failed(Cause.fail(outOfTime(call)))
  if (breaker !== undefined) {
    const given = breaker.machine.acquire(now)
    if (typeof given === "number") return run.failed(Cause.fail(CircuitBreaker.rejection(call.stages.name, given)))
    run.permit = given
  }
  if (run.millis !== Number.POSITIVE_INFINITY) {
    return timed.masked<A, E, R, Timeout.CallTimeout, E | Failure>(call.restore, call.effect, run)
  }
  return Effect.matchCauseEffect(call.restore(Effect.mapInputContext(call.effect, () => call.context)), {
    onFailure: (cause) => {
      run.settled(Exit.failCause(cause))
      return run.failed(cause)
    },
    onSuccess: (value) => {
      const exit = Exit.succeed(value)
      run.settled(exit)
      return exit
    }
  })
}

class Attempt<A, E, R> implements timed.Limit<A, E, Timeout.CallTimeout, R, E | Failure> {
  readonly remaining: number
  readonly millis: number
  readonly orphans: timed.Orphans
  readonly context: Context.Context<R>
  permit: Permit | undefined = undefined
  private readonly call: Call<A, E, R>
  private readonly startedAt: number
  private readonly first: boolean

  constructor(call: Call<A, E, R>, startedAt: number, first: boolean) {
    this.call = call
    this.startedAt = startedAt
    this.first = first
    this.remaining = call.deadline - startedAt
    this.millis = Math.min(call.stages.attempt, this.remaining)
    this.orphans = call.stages.orphans
    this.context = call.context
  }

  timeout(): Timeout.CallTimeout {
    const { attempt: limitMillis, attemptScope: scope, name: service } = this.call.stages
    return limitMillis <= this.remaining
      ? new Timeout.CallTimeout({ service, scope, limitMillis })
      : outOfTime(this.call)
  }

  settled(exit: Exit.Exit<A, E> | undefined): void {
    const { call, permit } = this
    const success = exit !== undefined && Exit.isSuccess(exit)
    if (success && call.outer !== undefined && call.outer.attempt === call.outerAttempt) call.outer.exhausted = false
    const breaker = call.stages.breaker
    if (breaker === undefined || permit === undefined) return
    if (success && call.observer?.onPermit !== undefined) {
      call.observer.onPermit(permit)
      return
    }
    const outcome = exit === undefined ? "failure" : Exit.isSuccess(exit) ? "success" : breaker.outcome(exit.cause)
    breaker.machine.settle(permit, outcome, call.clock.unsafeCurrentTimeMillis())
  }

  failed(cause: Cause.Cause<E | Failure>): Effect.Effect<A, E | Failure, R> {
    const { call } = this
    if (call.failures.length === maxFailures) call.failures.shift()
    call.failures.push({
      number: call.frame.attempt,
      startedAt: this.startedAt,
      endedAt: call.clock.unsafeCurrentTimeMillis(),
      cause
    })
    return this.first ? recover(call, cause) : Effect.failCause(cause)
  }
}

const outOfTime = <A, E, R>(call: Call<A, E, R>): Timeout.CallTimeout =>
  new Timeout.CallTimeout({
    service: call.stages.name,
    scope: "total",
    limitMillis: Math.max(0, call.deadline - call.started)
  })

/** After the first failure: the retry schedule, if the error is one to try again after. */
const recover = <A, E, R>(call: Call<A, E, R>, cause: Cause.Cause<E | Failure>): Effect.Effect<A, E | Failure, R> => {
  const { retry } = call.stages
  const error = Cause.failureOption(cause)
  if (error._tag === "None") return Effect.failCause(cause)
  const innerSpent = call.frame.exhausted && !retry.retriesExhausted
  if (retry.attempts === 1 || innerSpent || !retry.shouldRetry(error.value)) return conclude(call, cause)
  let replayed = false
  // Uninterruptible from before its permit is taken; what may be interrupted in it restores that itself.
  const next = Effect.uninterruptible(
    Effect.suspend(() => {
      if (!replayed) {
        // The first attempt has been made: its failure is what the schedule starts with.
        replayed = true
        return Effect.failCause(cause)
      }
      call.frame.attempt++
      call.frame.exhausted = false
      return attempt(call, call.clock.unsafeCurrentTimeMillis(), false)
    })
  )
  const schedule = retry.unsafeSchedule({
    stop: () => call.frame.exhausted && !retry.retriesExhausted,
    onDelay: call.observer?.onRetry,
    deadline: call.deadline
  })
  return Effect.catchAllCause(call.restore(Effect.retry(next, schedule)), (last) => conclude(call, last))
}

/** What leaves the call: the last error, with what is known of the attempts before it. */
const conclude = <A, E, R>(call: Call<A, E, R>, cause: Cause.Cause<E | Failure>): Effect.Effect<A, E | Failure, R> => {
  const { retry } = call.stages
  const found = Cause.failureOption(cause)
  if (found._tag === "None") return Effect.failCause(cause)
  const error = found.value
  const spent = retry.attempts > 1 && retry.shouldRetry(error)
  if ((spent || call.frame.exhausted) && call.outer !== undefined && call.outer.attempt === call.outerAttempt) {
    call.outer.exhausted = true
  }
  if (call.failures.length < 2) return Effect.failCause(cause)
  const shared =
    marks.isMarked(error) ||
    call.failures.slice(0, -1).some((each) => Option.getOrUndefined(Cause.failureOption(each.cause)) === error)
  const own = shared ? marks.individual(error) : error
  if (spent) marks.exhaust(own)
  marks.setAttempts(own, call.failures)
  return Effect.failCause(own === error ? cause : Cause.map(cause, (each) => (each === error ? own : each)))
}
