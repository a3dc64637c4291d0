/**
 * The fused pipeline: total deadline, retry with its budget, hedge, throttle, rate limit, circuit breaker, bulkhead,
 * attempt timeout, the call. Plain mutable state and callbacks: a call that succeeds costs one fiber (for the timeout, and
 * none where the call takes an abort signal) and, while it waits, one timer; the schedule starts with the first failure.
 * `Policy` and `ExternalClient` are made of it.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Bulkhead from "../../resilience/Bulkhead.ts"
import type * as Chaos from "../../resilience/Chaos.ts"
import * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import * as Deadline from "../../resilience/Deadline.ts"
import type * as ErrorClass from "../../resilience/ErrorClass.ts"
import type * as Hedge from "../../resilience/Hedge.ts"
import type * as RateLimit from "../../resilience/RateLimit.ts"
import type * as RetryBudget from "../../resilience/RetryBudget.ts"
import type * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import * as Throttle from "../../resilience/Throttle.ts"
import * as Timeout from "../../resilience/Timeout.ts"
import type { Outcome, Permit } from "./breaker.ts"
import type { Sample } from "./bulkhead.ts"
import { currentRandom } from "./currentRandom.ts"
import type * as Gate from "./gate.ts"
import * as hedging from "./hedging.ts"
import * as Leaf from "./leaf.ts"
import * as marks from "./marks.ts"
import type * as PolicyMetrics from "./policyMetrics.ts"
import * as RetryFrame from "./retryFrame.ts"
import type * as stage from "./stage.ts"
import * as timed from "./timed.ts"

/** The stages; durations in milliseconds, infinite where there is no limit. */
export interface Stages {
  readonly name: string
  readonly total: number
  readonly attempt: number
  readonly attemptScope: Timeout.Scope
  readonly retry: RetryPolicy.RetryPolicy
  readonly budget: RetryBudget.RetryBudget | undefined
  /** Undefined also where the call must not happen twice. */
  readonly hedge: Hedge.Hedge | undefined
  readonly throttle: Throttle.Throttle | undefined
  readonly rateLimit: RateLimit.RateLimit | undefined
  readonly breaker: CircuitBreaker.CircuitBreaker | undefined
  readonly bulkhead: Bulkhead.Bulkhead | undefined
  /** How a place in the bulkhead is asked for, and what a call costs of the rate limit. */
  readonly entry: Gate.Entry
  readonly cost: number
  readonly chaos: Chaos.Chaos | undefined
  readonly around: stage.Around
  readonly metrics: PolicyMetrics.PolicyMetrics | undefined
  readonly orphans: timed.Orphans
}

/** What is told of a call while it is under way. */
export interface Observer<A = unknown> {
  /** An attempt failed and the next one comes after `delay` milliseconds. */
  readonly onRetry?: ((error: unknown, delay: number, attempt: number, now: number) => void) | undefined
  /** A hedge starts beside the attempts that run. */
  readonly onHedge?: ((now: number) => void) | undefined
  /** The budget refused another attempt. */
  readonly onBudgetRefused?: (() => void) | undefined
  /** Given what the attempt that succeeded holds, to be let go by who asked for it. */
  readonly onHeld?: ((held: Held, value: A) => void) | undefined
  /** The call is counted as a whole elsewhere. */
  readonly counted?: true | undefined
  /** Adds to the context that the attempts run in. */
  readonly services?: ((services: Map<string, unknown>) => void) | undefined
}

/** What an attempt holds of its policy: the breaker's permit and a place in the bulkhead. */
export interface Held {
  /** The service has shown that it answers, though the call goes on. */
  readonly progressed: (now: number) => void
  /** It is known how the call has gone. Only the first time counts. */
  readonly finish: (exit: Exit.Exit<unknown, unknown>, now: number) => void
  /** The call has really ended, and with it what it held a place for. Only the first time counts. */
  readonly leave: (now: number) => void
}

/** What the stages themselves fail with. */
export type Failure =
  | CircuitBreaker.CircuitOpen
  | Timeout.CallTimeout
  | Bulkhead.BulkheadFull
  | RateLimit.RateLimitExceeded
  | Throttle.CallThrottled
  | stage.StageRejected

/** The call itself: an effect, or a function that takes an abort signal. */
export type Work<A, E, R> = Effect.Effect<A, E, R> | Leaf.Leaf<A, E>

const isEffect = <A, E, R>(work: Work<A, E, R>): work is Effect.Effect<A, E, R> => Effect.isEffect(work)

/** A call that is made again for ever must not keep all that it has met. */
const maxFailures = 1_000

const frameKey = RetryFrame.Current.key
const deadlineKey = Deadline.Current.key

/** Runs the work through the stages that are in force when it starts. */
export const run = <A, E, R>(
  stages: () => Stages,
  work: Work<A, E, R>,
  observer?: Observer<A>
): Effect.Effect<A, E | Failure, R> =>
  Effect.uninterruptibleMask((restore) => masked(restore, stages(), work, observer))

/**
 * The same, to be run where nothing can be interrupted: only the work and the waits are, so that no interruption comes
 * between a permit and the one who gives it back.
 */
export const masked = <A, E, R>(
  restore: timed.Restore,
  stages: Stages,
  work: Work<A, E, R>,
  observer?: Observer<A>
): Effect.Effect<A, E | Failure, R> =>
  stages.around.call.length === 0
    ? calling(restore, stages, work, observer)
    : restore(
        wrapped(
          stages,
          stages.around.call,
          Effect.uninterruptibleMask((inner) => calling(inner, stages, work, observer)),
          1
        )
      )

const calling = <A, E, R>(
  restore: timed.Restore,
  stages: Stages,
  work: Work<A, E, R>,
  observer: Observer<A> | undefined
): Effect.Effect<A, E | Failure, R> =>
  Effect.withFiberRuntime<A, E | Failure, R>((fiber) => {
    const clock = Context.get(fiber.currentDefaultServices as Context.Context<Clock.Clock>, Clock.Clock)
    const now = clock.unsafeCurrentTimeMillis()
    const { around, breaker, budget, hedge, metrics, name, retry } = stages
    const context = fiber.currentContext as Context.Context<R>
    const inherited = Deadline.of(fiber)
    let permit: Permit | undefined
    if (breaker !== undefined && hedge === undefined && around.attempt.length === 0) {
      // Before anything is made for the call: refusing must be cheap.
      const given = breaker.machine.acquire(now)
      if (typeof given !== "number") {
        permit = given
      } else {
        const rejection = CircuitBreaker.rejection(name, given)
        if (metrics !== undefined) {
          metrics.rejected("circuit-open")
          metrics.attempt("rejected")
        }
        if (retry.attempts === 1 || !retry.shouldRetry(rejection)) {
          if (observer?.counted !== true) metrics?.call("rejected", 0)
          return Effect.failCause(Cause.fail(rejection))
        }
        const call = new Call(restore, stages, work, observer, clock, now, context, inherited)
        budget?.machine.called(now)
        return new Attempt(call, restore, call.frame, call.context, now, 0, true).failed(Cause.fail(rejection))
      }
    }
    const call = new Call(restore, stages, work, observer, clock, now, context, inherited)
    budget?.machine.called(now)
    return attempt(call, now, true, 0, permit)
  })

class Call<A, E, R> {
  readonly restore: timed.Restore
  readonly stages: Stages
  readonly work: Work<A, E, R>
  /** Whether something stands between the attempt timeout and the work. */
  readonly disturbed: boolean
  readonly observer: Observer<A> | undefined
  readonly clock: Clock.Clock
  /** The context of the caller with this call's deadline and frame; the caller's where nobody reads them. */
  readonly context: Context.Context<R>
  readonly started: number
  /** Moved back with the clock, so that no wait becomes longer than the settings say. */
  deadline: number
  readonly frame: RetryFrame.Frame = { attempt: 1, exhausted: false }
  readonly outer: RetryFrame.Frame | undefined
  readonly outerAttempt: number
  /** The attempts that failed, and how many have been made. */
  readonly failures: Array<RetryPolicy.Attempt> = []
  attempts = 0
  /** What the retry that comes next took from the budget. */
  taken = 0
  private seen: number
  private counted = false

  constructor(
    restore: timed.Restore,
    stages: Stages,
    work: Work<A, E, R>,
    observer: Observer<A> | undefined,
    clock: Clock.Clock,
    started: number,
    current: Context.Context<R>,
    inherited: number
  ) {
    this.restore = restore
    this.stages = stages
    this.observer = observer
    this.clock = clock
    this.started = started
    this.seen = started
    this.outer = Context.get(current, RetryFrame.Current)
    this.outerAttempt = this.outer === undefined ? 0 : this.outer.attempt
    this.deadline = Math.min(inherited, this.started + stages.total)
    // Chaos that is off must cost nothing.
    this.disturbed = (stages.chaos !== undefined && !stages.chaos.machine.off) || stages.around.inner.length > 0
    this.work = this.disturbed && isEffect(work) ? disturbed(this, work) : work
    this.context = this.disturbed || isEffect(work) ? this.contextWith(current, this.frame) : current
  }

  /** A context in which nested policies tell this call of their attempts. */
  contextWith(current: Context.Context<R>, frame: RetryFrame.Frame): Context.Context<R> {
    const services = new Map(current.unsafeMap)
    services.set(frameKey, frame)
    services.set(deadlineKey, this.deadline)
    this.observer?.services?.(services)
    return Context.unsafeMake<R>(services)
  }

  /** How much time is left; none or less if it is over. */
  remaining(now: number): number {
    if (now < this.seen) this.deadline -= this.seen - now
    this.seen = now
    return this.deadline - now
  }

  /** How it ended, counted once. */
  ended(outcome: PolicyMetrics.Outcome, now: number): void {
    if (this.counted || this.observer?.counted === true) return
    this.counted = true
    this.stages.metrics?.call(outcome, Math.max(0, now - this.started))
  }
}

/** The work with what stands between it and the attempt timeout. */
const disturbed = <A, E, R>(call: Call<A, E, R>, work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  const { around, chaos } = call.stages
  // What it injects imitates what calls give and fail with: it is not in the types.
  const inside = chaos === undefined ? work : (chaos.apply(work) as Effect.Effect<A, E, R>)
  return Effect.suspend(() => wrapped(call.stages, around.inner, inside, call.attempts)) as Effect.Effect<A, E, R>
}

/** The effect inside stages of one's own, the first one outermost. */
const wrapped = <A, E, R>(
  stages: Stages,
  around: ReadonlyArray<stage.Stage>,
  effect: Effect.Effect<A, E, R>,
  attempt: number
): Effect.Effect<A, E | stage.StageRejected, R> =>
  around.reduceRight<Effect.Effect<A, E | stage.StageRejected, R>>(
    (inside, each) => each.apply(inside, { policy: stages.name, attempt }, stages.metrics),
    effect
  )

/** One attempt, with its hedges. The first one's failure starts the retries; a later one's goes to the schedule that made it. */
const attempt = <A, E, R>(
  call: Call<A, E, R>,
  now: number,
  first: boolean,
  taken: number,
  permit?: Permit
): Effect.Effect<A, E | Failure, R> => {
  const { around, hedge } = call.stages
  if (hedge !== undefined) return hedged(call, hedge, first, taken)
  if (around.attempt.length === 0) {
    const run = new Attempt(call, call.restore, call.frame, call.context, now, taken, first)
    run.permit = permit
    return enter(run)
  }
  return Effect.matchCauseEffect(
    call.restore(staged(call, (restore) => new Attempt(call, restore, call.frame, call.context, now, taken, false))),
    {
      onFailure: (cause) => (first ? recover(call, cause) : Effect.failCause(cause)),
      onSuccess: Effect.succeed
    }
  )
}

/** An attempt inside the stages of one's own that go round attempts. */
const staged = <A, E, R>(
  call: Call<A, E, R>,
  make: (restore: timed.Restore) => Attempt<A, E, R>
): Effect.Effect<A, E | Failure, R> => {
  const effect = Effect.uninterruptibleMask((restore) => enter(make(restore)))
  return wrapped(call.stages, call.stages.around.attempt, effect, call.attempts + 1)
}

/** Attempts that race. Each has a frame of its own: what a nested policy says of one is not true of the others. */
const hedged = <A, E, R>(
  call: Call<A, E, R>,
  hedge: Hedge.Hedge,
  first: boolean,
  taken: number
): Effect.Effect<A, E | Failure, R> => {
  const { budget, metrics } = call.stages
  let cost = taken
  const raced = hedging.masked<A, E | Failure, R, E | Failure, R>(
    call.restore,
    {
      max: hedge.maxHedges + 1,
      delay: () => hedge.machine.delay(call.clock.unsafeCurrentTimeMillis()),
      allowed: () => {
        const now = call.clock.unsafeCurrentTimeMillis()
        if (call.remaining(now) <= 0) return false
        if (budget !== undefined) {
          cost = budget.machine.take(now, undefined)
          if (cost === 0) {
            metrics?.budgetRefused()
            return false
          }
        }
        metrics?.hedged()
        call.observer?.onHedge?.(now)
        return true
      },
      launch: (index, race) => {
        // A stage may hold the attempt back until others have been launched.
        const paid = cost
        return staged(call, (restore) => {
          const frame: RetryFrame.Frame = { attempt: 1, exhausted: false }
          const context = call.contextWith(call.context, frame)
          const made = new Attempt(call, restore, frame, context, call.clock.unsafeCurrentTimeMillis(), paid, false)
          made.hedge = index === 0 ? hedge : undefined
          made.race = race
          made.index = index
          return made
        })
      },
      isMinor: (cause) => weightOf(call, cause) === "minor",
      isFinal: (cause) => weightOf(call, cause) === "final"
    },
    (cause) => (first ? recover(call, cause) : Effect.failCause(cause))
  )
  return metrics === undefined
    ? raced
    : Effect.onInterrupt(raced, () => Effect.sync(() => call.ended("cancelled", call.clock.unsafeCurrentTimeMillis())))
}

/** What a failure means for the attempts that race with it. */
const weightOf = <A, E, R>(call: Call<A, E, R>, cause: Cause.Cause<E | Failure>): "minor" | "some" | "final" => {
  const error = Cause.failureOption(cause)
  if (Option.isNone(error)) return Cause.isDie(cause) ? "final" : "minor"
  const { retry } = call.stages
  try {
    const found = retry.classify(error.value)
    if (found.rejection === true) return "minor"
    return found.class === "permanent" && !retry.shouldRetry(error.value) ? "final" : "some"
  } catch {
    // Functions of the user's. What they throw comes to light where the call asks them again.
    return "final"
  }
}

/** Through the gates. */
const enter = <A, E, R>(run: Attempt<A, E, R>): Effect.Effect<A, E | Failure, R> => {
  const { call } = run
  const { breaker, name, rateLimit, throttle } = call.stages
  const now = run.startedAt
  if (run.remaining <= 0) {
    run.letGo(now)
    call.stages.metrics?.timedOut("total")
    return run.failed(Cause.fail(outOfTime(call)))
  }
  if (breaker !== undefined && run.permit === undefined) {
    // Before the rate limit: what an open circuit refuses anyway takes no token and waits for none.
    const given = breaker.machine.acquire(now)
    if (typeof given === "number") return run.refused(CircuitBreaker.rejection(name, given), "circuit-open")
    run.permit = given
  }
  if (throttle !== undefined) {
    const probability = throttle.machine.admit(now, currentRandom)
    if (probability > 0) return run.refused(Throttle.rejection(name, probability), "throttled")
  }
  if (rateLimit !== undefined && !rateLimit.machine.tryEnter(now, call.stages.cost)) {
    return Effect.matchCauseEffect(
      rateLimit.machine.enter(run.restore, call.deadline, {
        weight: call.stages.cost,
        priority: call.stages.entry.priority
      }),
      {
        onFailure: (cause) => run.refusedBy(cause, "rate-limit"),
        onSuccess: () => afterRateLimit(run, call.clock.unsafeCurrentTimeMillis(), true)
      }
    )
  }
  return afterRateLimit(run, now, false)
}

const afterRateLimit = <A, E, R>(
  run: Attempt<A, E, R>,
  now: number,
  waited: boolean
): Effect.Effect<A, E | Failure, R> => {
  const { call } = run
  const { bulkhead, entry } = call.stages
  if (bulkhead === undefined) return waited ? afterWait(run, now) : begin(run)
  if (bulkhead.machine.tryEnter(now, entry.weight)) {
    run.placed(bulkhead)
    return waited ? afterWait(run, now) : begin(run)
  }
  return Effect.matchCauseEffect(bulkhead.machine.enter(run.queueing(bulkhead), call.deadline, entry), {
    onFailure: (cause) => {
      run.gauge(bulkhead)
      return run.refusedBy(cause, "bulkhead-full")
    },
    onSuccess: () => {
      run.placed(bulkhead)
      return afterWait(run, call.clock.unsafeCurrentTimeMillis())
    }
  })
}

/** While the attempt waited for its turn, time went by and the circuit may have opened. */
const afterWait = <A, E, R>(run: Attempt<A, E, R>, now: number): Effect.Effect<A, E | Failure, R> => {
  const { call } = run
  const { breaker, name } = call.stages
  run.starts(now)
  if (run.remaining <= 0) {
    run.letGo(now)
    call.stages.metrics?.timedOut("total")
    return run.failed(Cause.fail(outOfTime(call)))
  }
  if (breaker !== undefined && run.permit !== undefined) {
    if (run.permit.leaseUntil !== undefined || !breaker.machine.isCurrent(run.permit)) {
      // A probe's lease is for the call: what it has waited is given back to it.
      breaker.machine.settle(run.permit, "neutral", now)
      run.permit = undefined
      const given = breaker.machine.acquire(now)
      if (typeof given === "number") return run.refused(CircuitBreaker.rejection(name, given), "circuit-open")
      run.permit = given
    } else {
      run.permit.startedAt = now
    }
  }
  return begin(run)
}

const begin = <A, E, R>(run: Attempt<A, E, R>): Effect.Effect<A, E | Failure, R> => {
  const { call } = run
  call.attempts++
  run.race?.begun(run.index)
  let { work } = call
  if (!isEffect(work)) {
    if (!call.disturbed) return Leaf.masked<A, E, R, Timeout.CallTimeout, E | Failure>(run.restore, work, run)
    work = disturbed<A, E, R>(call, Leaf.within(work, run))
  }
  if (run.millis !== Number.POSITIVE_INFINITY) {
    return timed.masked<A, E, R, Timeout.CallTimeout, E | Failure>(run.restore, work, run)
  }
  const { context } = run
  return Effect.matchCauseEffect(run.restore(Effect.mapInputContext(work, () => context)), {
    onFailure: (cause) => {
      run.settled(Exit.failCause(cause))
      run.ended()
      return run.failed(cause)
    },
    onSuccess: (value) => {
      const exit = Exit.succeed(value)
      run.settled(exit)
      run.ended()
      return exit
    }
  })
}

class Attempt<A, E, R> implements timed.Limit<A, E, Timeout.CallTimeout, R, E | Failure>, Held, Leaf.Host {
  startedAt: number
  remaining: number
  millis: number
  permit: Permit | undefined = undefined
  /** Whose delay learns from this attempt. */
  hedge: Hedge.Hedge | undefined = undefined
  /** The race that it is in, and its number there. */
  race: hedging.Starts | undefined = undefined
  index = 0
  readonly orphans: timed.Orphans
  readonly context: Context.Context<R>
  readonly call: Call<A, E, R>
  readonly restore: timed.Restore
  private readonly frame: RetryFrame.Frame
  private readonly taken: number
  private readonly first: boolean
  private place: Bulkhead.Bulkhead | undefined = undefined
  private sample: Sample | undefined = undefined
  /** Somebody else lets go what it holds. */
  private kept = false
  /** Promises that are not settled, which its effect did not wait for if it has ended. */
  private promises = 0
  private over = false
  /** What a function of the user's threw about its failure. */
  private bug: { readonly defect: unknown } | undefined = undefined

  constructor(
    call: Call<A, E, R>,
    restore: timed.Restore,
    frame: RetryFrame.Frame,
    context: Context.Context<R>,
    startedAt: number,
    taken: number,
    first: boolean
  ) {
    this.call = call
    this.restore = restore
    this.frame = frame
    this.context = context
    this.startedAt = startedAt
    this.taken = taken
    this.first = first
    this.remaining = call.remaining(startedAt)
    this.millis = Math.min(call.stages.attempt, this.remaining)
    this.orphans = call.stages.orphans
  }

  /** It has waited for its turn: its own time begins now. */
  starts(now: number): void {
    this.startedAt = now
    this.remaining = this.call.remaining(now)
    this.millis = Math.min(this.call.stages.attempt, this.remaining)
  }

  placed(bulkhead: Bulkhead.Bulkhead): void {
    this.place = bulkhead
    this.gauge(bulkhead)
  }

  timeout(): Timeout.CallTimeout {
    const { attempt: limitMillis, attemptScope: scope, name: service } = this.call.stages
    return limitMillis <= this.remaining
      ? new Timeout.CallTimeout({ service, scope, limitMillis })
      : outOfTime(this.call)
  }

  settled(exit: Exit.Exit<A, E> | undefined): void {
    const { call } = this
    const { budget, bulkhead, metrics, throttle } = call.stages
    const now = call.clock.unsafeCurrentTimeMillis()
    // A clock may have been set back.
    const took = Math.max(0, now - this.startedAt)
    if (exit !== undefined && Exit.isSuccess(exit)) {
      if (call.outer !== undefined && call.outer.attempt === call.outerAttempt) call.outer.exhausted = false
      throttle?.machine.record(now, true)
      budget?.machine.succeeded(now, this.taken)
      this.hedge?.machine.record(now, took)
      metrics?.attempt("success")
      const sample: Sample | undefined =
        bulkhead?.machine.adaptive === true ? { startedAt: this.startedAt, outcome: "success" } : undefined
      call.ended("success", now)
      if (call.observer?.onHeld !== undefined) {
        this.kept = true
        // How long the service took to answer, not how long the answer is.
        if (sample !== undefined) bulkhead?.machine.learn(now, sample)
        call.observer.onHeld(this, exit.value)
      } else {
        this.sample = sample
        this.settle("success", now)
      }
      return
    }
    try {
      this.unsuccessful(exit, now, took)
    } catch (defect) {
      // A function of the user's, which must neither keep what is held nor leave the caller waiting for ever.
      this.bug = { defect }
      this.settle("failure", now)
    }
  }

  private unsuccessful(exit: Exit.Failure<A, E> | undefined, now: number, took: number): void {
    const { call } = this
    const { breaker, budget, bulkhead, metrics, retry, throttle } = call.stages
    const error = exit === undefined ? Option.none() : Cause.failureOption(exit.cause)
    const found: ErrorClass.Classification | undefined =
      exit === undefined ? late : Option.isSome(error) ? retry.classify(error.value) : undefined
    const cancelled = exit !== undefined && found === undefined && !Cause.isDie(exit.cause)
    if (breaker !== undefined && this.permit !== undefined) breaker.settle(this.permit, exit, now)
    if (cancelled) {
      // A slow attempt that lost to its hedge took longer than this: to forget it would make the delay ever shorter.
      if (this.hedge !== undefined && took >= this.hedge.machine.delay(now)) this.hedge.machine.record(now, took)
      metrics?.attempt("cancelled")
      // One that leaves a race is not the end of the call.
      if (this.race === undefined) call.ended("cancelled", now)
      return
    }
    // It took at least this long: what the percentile leaves out would make the delay ever shorter.
    if (exit === undefined) this.hedge?.machine.record(now, took)
    if (throttle !== undefined) {
      const accepted = exit === undefined ? throttle.accepted(late, undefined) : throttle.judge(exit.cause)
      if (accepted !== undefined) throttle.machine.record(now, accepted)
    }
    if (found !== undefined && found.rejection !== true) budget?.machine.failed(now, found)
    if (bulkhead?.machine.adaptive === true) {
      const outcome = exit === undefined ? "dropped" : bulkhead.outcome(exit.cause)
      if (outcome !== undefined) this.sample = { startedAt: this.startedAt, outcome }
    }
    if (metrics !== undefined) {
      metrics.attempt(exit === undefined ? "timeout" : found?.rejection === true ? "rejected" : "failure")
      if (exit === undefined) {
        metrics.timedOut(call.stages.attempt <= this.remaining ? call.stages.attemptScope : "total")
      }
    }
  }

  ended(): void {
    this.over = true
    if (!this.kept && this.promises === 0) this.leave(this.call.clock.unsafeCurrentTimeMillis())
  }

  promised(): void {
    this.promises++
  }

  promiseEnded(): void {
    this.promises--
    if (this.over) this.ended()
  }

  progressed(now: number): void {
    const breaker = this.call.stages.breaker
    if (breaker !== undefined && this.permit !== undefined) {
      this.permit = breaker.machine.progressed(this.permit, now)
    }
  }

  finish(exit: Exit.Exit<unknown, unknown>, now: number): void {
    const breaker = this.call.stages.breaker
    if (breaker !== undefined && this.permit !== undefined) breaker.settle(this.permit, exit, now)
  }

  /** Gives everything back: the service was not asked. */
  letGo(now: number): void {
    this.settle("neutral", now)
    this.leave(now)
  }

  refused(rejection: Failure, reason: PolicyMetrics.Refusal): Effect.Effect<A, E | Failure, R> {
    return this.refusedBy(Cause.fail(rejection), reason)
  }

  refusedBy(cause: Cause.Cause<Failure>, reason: PolicyMetrics.Refusal): Effect.Effect<A, E | Failure, R> {
    const { metrics } = this.call.stages
    this.letGo(this.call.clock.unsafeCurrentTimeMillis())
    if (metrics !== undefined && !Cause.isInterruptedOnly(cause)) {
      metrics.rejected(reason)
      metrics.attempt("rejected")
    }
    return this.failed(cause)
  }

  failed(cause: Cause.Cause<E | Failure>): Effect.Effect<A, E | Failure, R> {
    const { call } = this
    const now = call.clock.unsafeCurrentTimeMillis()
    call.remaining(now)
    if (call.failures.length === maxFailures) call.failures.shift()
    call.failures.push({
      number: (call.failures.at(-1)?.number ?? 0) + 1,
      startedAt: this.startedAt,
      endedAt: now,
      cause
    })
    if (this.frame.exhausted) call.frame.exhausted = true
    if (this.bug !== undefined) return buggy(call, this.bug.defect, this.first)
    return this.first ? recover(call, cause) : Effect.failCause(cause)
  }

  private settle(outcome: Outcome, now: number): void {
    const breaker = this.call.stages.breaker
    if (breaker === undefined || this.permit === undefined) return
    breaker.machine.settle(this.permit, outcome, now)
  }

  leave(now: number): void {
    const place = this.place
    if (place === undefined) return
    this.place = undefined
    place.machine.leave(now, this.sample, this.call.stages.entry.weight)
    this.gauge(place)
  }

  /** What restores the interruption of a wait for a place, which is then one more that waits. */
  queueing(bulkhead: Bulkhead.Bulkhead): timed.Restore {
    if (this.call.stages.metrics === undefined) return this.restore
    return (effect) => {
      this.gauge(bulkhead)
      return this.restore(effect)
    }
  }

  gauge({ machine }: Bulkhead.Bulkhead): void {
    this.call.stages.metrics?.bulkhead(machine.active, machine.queued, machine.limit)
  }
}

const buggy = <A, E, R>(call: Call<A, E, R>, defect: unknown, first: boolean): Effect.Effect<A, E | Failure, R> => {
  const cause = Cause.die(defect)
  return first ? recover(call, cause) : Effect.failCause(cause)
}

/** What a timeout of ours is classified as. */
const late: ErrorClass.Classification = { class: "transient" }

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
  if (error._tag === "None") return conclude(call, cause)
  if (retry.attempts === 1 || !retry.shouldRetry(error.value)) return conclude(call, cause)
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
      return attempt(call, call.clock.unsafeCurrentTimeMillis(), false, call.taken)
    })
  )
  const schedule = retry.unsafeSchedule({
    stop: () => call.frame.exhausted && !retry.retriesExhausted,
    allow: (found, now, error) => allowed(call, found, now, error),
    onDelay: (error, delay, number, now) => {
      call.stages.metrics?.retried()
      call.observer?.onRetry?.(error, delay, number, now)
    },
    get deadline() {
      return call.deadline
    }
  })
  return Effect.catchAllCause(call.restore(Effect.retry(next, schedule)), (last) => conclude(call, last))
}

/** Whether the budget has something left for another attempt; the last question that is asked before one. */
const allowed = <A, E, R>(
  call: Call<A, E, R>,
  found: ErrorClass.Classification,
  now: number,
  error: unknown
): boolean => {
  const { budget, metrics } = call.stages
  if (budget === undefined) return true
  call.taken = budget.machine.take(now, found, error)
  if (call.taken > 0) return true
  metrics?.budgetRefused()
  call.observer?.onBudgetRefused?.()
  return false
}

/** What leaves the call: the last error, with what is known of the attempts before it. */
const conclude = <A, E, R>(call: Call<A, E, R>, cause: Cause.Cause<E | Failure>): Effect.Effect<A, E | Failure, R> => {
  const { retry } = call.stages
  const found = Cause.failureOption(cause)
  count(call, cause, found)
  if (found._tag === "None") return Effect.failCause(cause)
  const error = found.value
  const spent = retry.attempts > 1 && retry.shouldRetry(error)
  if ((spent || call.frame.exhausted) && call.outer !== undefined && call.outer.attempt === call.outerAttempt) {
    call.outer.exhausted = true
  }
  if (call.failures.length < 2) return Effect.failCause(cause)
  const shared =
    marks.isMarked(error) ||
    call.failures.filter((each) => Option.getOrUndefined(Cause.failureOption(each.cause)) === error).length > 1
  const own = shared ? marks.individual(error) : error
  if (spent) marks.exhaust(own)
  marks.setAttempts(own, call.failures)
  return Effect.failCause(own === error ? cause : Cause.map(cause, (each) => (each === error ? own : each)))
}

const count = <A, E, R>(
  call: Call<A, E, R>,
  cause: Cause.Cause<E | Failure>,
  found: Option.Option<E | Failure>
): void => {
  if (call.stages.metrics === undefined) return
  call.ended(outcomeOf(cause, found, call.stages), call.clock.unsafeCurrentTimeMillis())
}

/** What a failure is counted as. */
export const outcomeOf = (
  cause: Cause.Cause<unknown>,
  found: Option.Option<unknown>,
  stages: Stages
): PolicyMetrics.Outcome =>
  Option.isNone(found)
    ? Cause.isInterrupted(cause) && !Cause.isDie(cause)
      ? "cancelled"
      : "failure"
    : stages.retry.classify(found.value).rejection === true
      ? "rejected"
      : found.value instanceof Timeout.CallTimeout
        ? "timeout"
        : "failure"
