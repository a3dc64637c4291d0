/**
 * A circuit breaker: after too many failures calls are refused at once, until a probe shows that the service is back.
 *
 * Permits carry the generation of the state that gave them, so a late result of an earlier time changes counters and
 * nothing else. Interruption is neutral, a defect is a failure, refusals of our own never count. There is no timer and no
 * fiber: the state is computed when it is looked at.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Stream from "effect/Stream"
import * as machine from "../internal/breaker.ts"
import * as ErrorClass from "./ErrorClass.ts"

/**
 * @since 0.1.0
 * @category models
 */
export type State = machine.State

/**
 * A change of state and when it was seen (milliseconds since 1970). Time alone tells nobody: `open` becomes `half-open`
 * when somebody calls or looks.
 *
 * @since 0.1.0
 * @category models
 */
export type Change = machine.Change

/**
 * `forced-open` refuses every call; `disabled` lets every call pass and counts nothing for the state.
 *
 * @since 0.1.0
 * @category models
 */
export type Mode = machine.Mode

/**
 * How a call went, as far as the breaker minds.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome = machine.Outcome

/**
 * What counts for opening. `consecutive`: that many failures in a row. `count`: a rate of failures (0 to 1) among the last
 * `size` results, once there are `minimumCalls` of them.
 *
 * @since 0.1.0
 * @category models
 */
export type Window =
  | { readonly type: "consecutive"; readonly failures: number }
  | {
      readonly type: "count"
      readonly size: number
      readonly failureRate: number
      readonly minimumCalls?: number | undefined
    }

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What it guards; named in `CircuitOpen`. */
  readonly name: string
  /** By default 5 failures in a row. */
  readonly window?: Window | undefined
  /** For how long it stays open; a function is given how often it has opened since it was last closed (from 1). 30 seconds. */
  readonly openFor?: Duration.DurationInput | ((openings: number) => Duration.DurationInput) | undefined
  /** How many calls may probe in half-open; all others are refused. 1. */
  readonly halfOpenPermits?: number | undefined
  /** Which part of the probes must succeed to close, above 0 to 1. 1. */
  readonly halfOpenSuccessRate?: number | undefined
  /** How long a probe may take before its place is given to another. 60 seconds. */
  readonly probeLease?: Duration.DurationInput | undefined
  /** Classifies errors. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
  /**
   * What an error counts as. By default: transient and unknown errors are failures, permanent ones successes (the service
   * answered), rate limits and cancellations neutral.
   */
  readonly counts?: ((found: ErrorClass.Classification, error: unknown) => Outcome) | undefined
}

/**
 * The call was refused because the circuit is open. A plain object without a stack: refusing must be cheap.
 *
 * @since 0.1.0
 * @category errors
 */
export class CircuitOpen {
  readonly _tag = "CircuitOpen"
  /** The name of the breaker, which is that of the service. */
  readonly service: string
  /** When to ask again; infinite if the breaker is forced open. */
  readonly retryAfter: Duration.Duration

  constructor(options: { readonly service: string; readonly retryAfter: Duration.Duration }) {
    this.service = options.service
    this.retryAfter = options.retryAfter
  }
  get message(): string {
    return Duration.isFinite(this.retryAfter)
      ? `${this.service}: the circuit is open, ask again in ${Duration.format(this.retryAfter)}`
      : `${this.service}: the circuit is held open`
  }
  get isRetryable(): boolean {
    return true
  }
  get errorClass(): ErrorClass.ErrorClass {
    return "transient"
  }
  /** The service was not asked. */
  get rejection(): true {
    return true
  }
  toString(): string {
    return `CircuitOpen: ${this.message}`
  }
}

/**
 * What can be seen of a breaker.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  readonly state: State
  readonly mode: Mode
  readonly generation: number
  /** Failures in a row, or within the window. */
  readonly failures: number
  readonly probesInFlight: number
  /** Since it was made; `stale` are results that came after the state had changed, `leasesLost` probes that never settled. */
  readonly counters: {
    readonly successes: number
    readonly failures: number
    readonly neutral: number
    readonly rejected: number
    readonly stale: number
    readonly leasesLost: number
    readonly opened: number
  }
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/CircuitBreaker")

/**
 * @since 0.1.0
 * @category models
 */
export interface CircuitBreaker {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** Runs the effect if the circuit lets it, and counts how it went. */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  readonly state: Effect.Effect<State>
  readonly snapshot: Effect.Effect<Snapshot>
  /** Changes of state from now on. Slow readers lose the oldest beyond 64. */
  readonly changes: Stream.Stream<Change>
  /** Overrides the state machine; `automatic` starts anew from closed. */
  readonly setMode: (mode: Mode) => Effect.Effect<void>
  /** Closes it and forgets its results (not its counters). */
  readonly reset: Effect.Effect<void>
  /** What this cause counts as. */
  readonly outcome: (cause: Cause.Cause<unknown>) => Outcome
  /** @internal */
  readonly machine: machine.Breaker
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

const defaultCounts = (found: ErrorClass.Classification): Outcome => {
  if (found.rejection === true) return "neutral"
  switch (found.class) {
    case "transient":
      return "failure"
    case "permanent":
      return found.assumed === true ? "failure" : "success"
    default:
      return "neutral"
  }
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Options): ReadonlyArray<string> => {
  const found: Array<string> = []
  const positiveInteger = (value: number): boolean => Number.isInteger(value) && value >= 1
  const window = options.window
  if (window?.type === "consecutive" && !positiveInteger(window.failures)) {
    found.push(`breaker.window.failures is ${window.failures}: give a whole number of 1 or more`)
  }
  if (window?.type === "count") {
    if (!positiveInteger(window.size)) {
      found.push(`breaker.window.size is ${window.size}: give a whole number of 1 or more`)
    }
    if (!(window.failureRate > 0 && window.failureRate <= 1)) {
      found.push(`breaker.window.failureRate is ${window.failureRate}: give a part above 0 and up to 1 (0.5 is half)`)
    }
    if (window.minimumCalls !== undefined && !positiveInteger(window.minimumCalls)) {
      found.push(`breaker.window.minimumCalls is ${window.minimumCalls}: give a whole number of 1 or more`)
    } else if (window.minimumCalls !== undefined && window.minimumCalls > window.size) {
      found.push(
        `breaker.window.minimumCalls (${window.minimumCalls}) is more than its size (${window.size}), so the circuit could` +
          " never open: lower minimumCalls or raise size"
      )
    }
  }
  if (options.halfOpenPermits !== undefined && !positiveInteger(options.halfOpenPermits)) {
    found.push(`breaker.halfOpenPermits is ${options.halfOpenPermits}: give a whole number of 1 or more`)
  }
  const rate = options.halfOpenSuccessRate
  if (rate !== undefined && !(rate > 0 && rate <= 1)) {
    found.push(`breaker.halfOpenSuccessRate is ${rate}: give a part above 0 and up to 1`)
  }
  if (options.openFor !== undefined && typeof options.openFor !== "function") {
    const millis = Duration.toMillis(options.openFor)
    if (!(millis > 0 && Number.isFinite(millis))) {
      found.push(`breaker.openFor is ${millis} ms: give a positive, finite duration`)
    }
  }
  if (options.probeLease !== undefined && !(Duration.toMillis(options.probeLease) > 0)) {
    found.push("breaker.probeLease is not positive: give the longest time that a probe may take")
  }
  return found
}

/**
 * Makes a breaker, closed. Settings that cannot work (a minimum of calls larger than the window, …) are defects that say
 * what to write instead; `Policy.make` reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<CircuitBreaker> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.succeed(unsafeMake(options))
      : Effect.dieMessage(`CircuitBreaker "${options.name}": ${wrong.join("; ")}`)
  })

/** @internal */
export const unsafeMake = (options: Options): CircuitBreaker => {
  const window: machine.WindowSettings =
    options.window === undefined
      ? { type: "consecutive", failures: 5 }
      : options.window.type === "consecutive"
        ? options.window
        : { ...options.window, minimumCalls: options.window.minimumCalls ?? options.window.size }
  const openFor = options.openFor ?? "30 seconds"
  const fixed = typeof openFor === "function" ? 0 : Duration.toMillis(openFor)
  const lease = Duration.toMillis(options.probeLease ?? "60 seconds")
  const breaker = new machine.Breaker({
    window,
    openFor:
      typeof openFor === "function" ? (openings) => Math.max(0, Duration.toMillis(openFor(openings))) : () => fixed,
    halfOpenPermits: options.halfOpenPermits ?? 1,
    halfOpenSuccessRate: options.halfOpenSuccessRate ?? 1,
    lease
  })
  const classify = options.classify ?? ErrorClass.classify
  const counts = options.counts ?? defaultCounts
  const outcome = (cause: Cause.Cause<unknown>): Outcome => {
    const failure = Cause.failureOption(cause)
    if (failure._tag === "Some") return counts(classify(failure.value), failure.value)
    return Cause.isDie(cause) ? "failure" : "neutral"
  }
  const run = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.withFiberRuntime<A, E | CircuitOpen, R>((fiber) => {
        const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
        const permit = breaker.acquire(clock.unsafeCurrentTimeMillis())
        // Not `Effect.fail`, which would wrap the object under a span.
        if (typeof permit === "number") return Effect.failCause(Cause.fail(rejection(options.name, permit)))
        return Effect.matchCauseEffect(restore(effect), {
          onFailure: (cause) => {
            breaker.settle(permit, outcome(cause), clock.unsafeCurrentTimeMillis())
            return Effect.failCause(cause)
          },
          onSuccess: (value) => {
            breaker.settle(permit, "success", clock.unsafeCurrentTimeMillis())
            return Effect.succeed(value)
          }
        })
      })
    )
  const change = (f: (now: number) => void): Effect.Effect<void> => Effect.map(Clock.currentTimeMillis, f)
  return {
    [TypeId]: TypeId,
    name: options.name,
    run,
    state: Effect.map(Clock.currentTimeMillis, (now) => breaker.state(now)),
    snapshot: Effect.map(Clock.currentTimeMillis, (now) => ({
      state: breaker.state(now),
      mode: breaker.mode,
      generation: breaker.generation,
      failures: breaker.failures,
      probesInFlight: breaker.probesInFlight(now),
      counters: { ...breaker.counters }
    })),
    changes: Stream.asyncPush<Change>(
      (emit) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            const listener = (each: Change): void => {
              emit.single(each)
            }
            breaker.listeners.add(listener)
            return listener
          }),
          (listener) => Effect.sync(() => breaker.listeners.delete(listener))
        ),
      { bufferSize: 64, strategy: "sliding" }
    ),
    setMode: (mode) => change((now) => breaker.setMode(mode, now)),
    reset: change((now) => breaker.reset(now)),
    outcome,
    machine: breaker,
    description:
      (window.type === "consecutive"
        ? `${window.failures} failures in a row`
        : `${Math.round(window.failureRate * 100)} % of the last ${window.size} (at least ${window.minimumCalls})`) +
      ` open it for ${typeof openFor === "function" ? "a growing time" : Duration.format(openFor)}, ` +
      `${options.halfOpenPermits ?? 1} probe${(options.halfOpenPermits ?? 1) === 1 ? "" : "s"}`
  }
}

/** @internal */
export const rejection = (service: string, millis: number): CircuitOpen =>
  new CircuitOpen({ service, retryAfter: Duration.millis(millis) })

/**
 * Whether it is a breaker.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isCircuitBreaker = (u: unknown): u is CircuitBreaker => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect through the breaker: `breaker.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (breaker: CircuitBreaker): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, breaker: CircuitBreaker): Effect.Effect<A, E | CircuitOpen, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, breaker: CircuitBreaker): Effect.Effect<A, E | CircuitOpen, R> =>
    breaker.run(effect)
)
