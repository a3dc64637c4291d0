/**
 * One pipeline made of the parts of this folder, for effects and streams: fallback, total deadline, retry with its budget,
 * hedge, throttle, rate limit, circuit breaker, bulkhead, attempt timeout, the call, outermost first. Combinations that
 * cannot work are refused when the policy is made.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import * as pipeline from "../internal/resilience/pipeline.ts"
import * as policyConfig from "../internal/resilience/policyConfig.ts"
import { PolicyMetrics } from "../internal/resilience/policyMetrics.ts"
import type * as policyOptions from "../internal/resilience/policyOptions.ts"
import { defaultTotal, describeStages, millis, problemsOf, shown } from "../internal/resilience/policyProblems.ts"
import * as stage_ from "../internal/resilience/stage.ts"
import * as streaming from "../internal/resilience/streaming.ts"
import type * as timed from "../internal/resilience/timed.ts"
import * as Bulkhead from "./Bulkhead.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as ErrorClass from "./ErrorClass.ts"
import * as Fallback from "./Fallback.ts"
import * as Hedge from "./Hedge.ts"
import * as RateLimit from "./RateLimit.ts"
import * as RetryBudget from "./RetryBudget.ts"
import * as RetryPolicy from "./RetryPolicy.ts"
import * as Throttle from "./Throttle.ts"
import type * as Timeout from "./Timeout.ts"

/**
 * The settings of a policy cannot work. Each problem says what to write instead.
 *
 * @since 0.1.0
 * @category errors
 */
export class PolicyInvalid extends Schema.TaggedError<PolicyInvalid>("@underlay/core/PolicyInvalid")("PolicyInvalid", {
  policy: Schema.String,
  problems: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `The policy "${this.policy}" cannot work: ${this.problems.join("; ")}`
  }
}

/**
 * What a policy itself fails with, besides the errors of what it runs. All but `CallTimeout` are refusals: the service was
 * not asked.
 *
 * @since 0.1.0
 * @category errors
 */
export type PolicyError =
  | CircuitBreaker.CircuitOpen
  | Timeout.CallTimeout
  | Bulkhead.BulkheadFull
  | RateLimit.RateLimitExceeded
  | Throttle.CallThrottled
  | StageRejected

/**
 * Refused by a stage of one's own.
 *
 * @since 0.1.0
 * @category errors
 */
export const StageRejected = stage_.StageRejected

/**
 * @since 0.1.0
 * @category errors
 */
export type StageRejected = stage_.StageRejected

/**
 * A stage of one's own: see `stage`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stage extends stage_.Stage {}

/**
 * What a stage is told of what it goes round.
 *
 * @since 0.1.0
 * @category models
 */
export interface StageInfo extends stage_.Info {}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends policyOptions.Options {}

/**
 * What a single call may change.
 *
 * @since 0.1.0
 * @category models
 */
export interface CallOptions {
  /** The limit of the whole call. For a stream: of the wait for its first element, over all attempts. */
  readonly timeout?: Duration.DurationInput | false | undefined
  readonly attemptTimeout?: Duration.DurationInput | false | undefined
  /** How often the call is made again at most. */
  readonly retries?: number | undefined
  /** The first wait. */
  readonly retryDelay?: Duration.DurationInput | undefined
  /** Whether the call may happen twice; if not, it is not hedged and only made again where nothing was sent. */
  readonly idempotent?: boolean | undefined
  /** Classifies errors for the retry of this call. */
  readonly classify?: ErrorClass.Classify | undefined
  readonly retryOn?: ((error: unknown) => boolean) | undefined
  readonly stopOn?: ((error: unknown) => boolean) | undefined
  /** False: no second attempt beside a slow one. */
  readonly hedge?: false | undefined
  /** Who goes first where calls wait for a place. Normal. */
  readonly priority?: Bulkhead.Priority | undefined
  /** How many places it takes in the bulkhead. 1. */
  readonly weight?: number | undefined
  /** What it costs of the rate limit. 1. */
  readonly cost?: number | undefined
}

/**
 * What a single stream may change.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamOptions extends Omit<CallOptions, "attemptTimeout"> {
  /** The limit of each attempt to get the first element; the policy's attempt timeout if not given. */
  readonly firstElementTimeout?: Duration.DurationInput | false | undefined
  /**
   * The limit of the wait for each further element; false for none, which is the default. A chunk without elements is a
   * sign of life: it begins anew.
   */
  readonly idleTimeout?: Duration.DurationInput | false | undefined
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Policy")

/**
 * A call that answers to an abort signal, as drivers and `fetch` do: it is run without a fiber of its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface Attempt<A, E> {
  /** A function that does not take the signal is not given one, and goes on as an orphan when its time is over. */
  readonly try: (signal: AbortSignal) => PromiseLike<A>
  readonly catch: (error: unknown) => E
}

/**
 * Runs calls through stages: a policy, or several round each other.
 *
 * @since 0.1.0
 * @category models
 */
export interface Runner {
  readonly name: string
  /** Runs the effect through the policy. With a fallback, its errors are those of the fallback. */
  readonly run: {
    <A, E, R, A2, E2, R2>(
      effect: Effect.Effect<A, E, R>,
      options: CallOptions & { readonly fallback: Fallback.Fallback<E | PolicyError, A2, E2, R2, A> }
    ): Effect.Effect<A | A2, E2, R | R2>
    <A, E, R>(
      effect: Effect.Effect<A, E, R>,
      options?: (CallOptions & { readonly fallback?: undefined }) | undefined
    ): Effect.Effect<A, E | PolicyError, R>
  }
  /**
   * Runs a function that gives a promise: the cheapest way, since an attempt needs no fiber. What it rejects with is an
   * `UnknownException` if `catch` does not say otherwise.
   */
  readonly tryPromise: {
    <A, E>(attempt: Attempt<A, E>, options?: CallOptions | undefined): Effect.Effect<A, E | PolicyError>
    <A>(
      attempt: (signal: AbortSignal) => PromiseLike<A>,
      options?: CallOptions | undefined
    ): Effect.Effect<A, Cause.UnknownException | PolicyError>
  }
  /** Runs the stream through the policy: attempts are made, and a fallback is asked, only before the first element. */
  readonly stream: {
    <A, E, R, A2, E2, R2>(
      stream: Stream.Stream<A, E, R>,
      options: StreamOptions & { readonly fallback: Fallback.StreamFallback<E | PolicyError, A2, E2, R2> }
    ): Stream.Stream<A | A2, E | PolicyError | E2, R | R2>
    <A, E, R>(
      stream: Stream.Stream<A, E, R>,
      options?: (StreamOptions & { readonly fallback?: undefined }) | undefined
    ): Stream.Stream<A, E | PolicyError, R>
  }
  /** The pipeline in words, one stage a line, outermost first. */
  readonly description: string
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Policy extends Runner {
  readonly [TypeId]: typeof TypeId
  /** The parts in force. */
  readonly retry: RetryPolicy.RetryPolicy
  readonly budget: RetryBudget.RetryBudget | undefined
  readonly hedge: Hedge.Hedge | undefined
  readonly throttle: Throttle.Throttle | undefined
  readonly rateLimit: RateLimit.RateLimit | undefined
  readonly breaker: CircuitBreaker.CircuitBreaker | undefined
  readonly bulkhead: Bulkhead.Bulkhead | undefined
  /** Work that goes on though its attempt timed out. */
  readonly orphans: Effect.Effect<Timeout.Orphans>
  /**
   * Puts other settings in force for the calls that start from now on; those under way end as they began. Parts that were
   * made here keep their state: an open circuit stays open, a place that is taken stays taken. Fails, and changes
   * nothing, if the settings cannot work.
   */
  readonly reload: (options: Omit<Options, "name">) => Effect.Effect<void, PolicyInvalid>
  /** @internal */
  readonly stages: pipeline.Stages
  /** @internal Told of the state of the breaker in force, at once and whenever it changes. Gives what ends it. */
  readonly watchBreaker: (now: number, watcher: (state: CircuitBreaker.State) => void) => () => void
}

/**
 * Makes a policy. Fails with `PolicyInvalid` if its settings cannot work together: an attempt timeout longer than the
 * total, several attempts of a call that must not happen twice, a breaker that could never open, …
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Policy, PolicyInvalid> =>
  valid(options).pipe(
    Effect.zipRight(Effect.suspend(() => build(options, undefined))),
    Effect.zipWith(Clock.currentTimeMillis, (stages, now) => {
      const made = new Pipeline(stages, options)
      made.observe(now)
      return made
    })
  )

const valid = (options: Options): Effect.Effect<void, PolicyInvalid> =>
  Effect.suspend(() => {
    const problems = problemsOf(options)
    return problems.length > 0 ? Effect.fail(new PolicyInvalid({ policy: options.name, problems })) : Effect.void
  })

/** A part that was made elsewhere, made from settings here, or kept from before with other settings. */
const part = <Part, Settings extends object>(
  given: Part | Settings | false | undefined,
  is: (u: unknown) => u is Part,
  make: (settings: Settings) => Effect.Effect<Part>,
  kept: { readonly part: Part | undefined; readonly reload: (part: Part, settings: Settings) => Effect.Effect<void> }
): Effect.Effect<Part | undefined> => {
  if (given === undefined || given === false) return Effect.succeed(undefined)
  if (is(given)) return Effect.succeed(given)
  const settings = given as Settings
  return kept.part === undefined ? make(settings) : Effect.as(kept.reload(kept.part, settings), kept.part)
}

/** What was made here before, if it was. */
const own = <Part>(current: Part | undefined, given: unknown, is: (u: unknown) => boolean): Part | undefined =>
  is(given) ? undefined : current

/** How errors are classified where the settings of a part do not say otherwise. */
const classified = <Settings extends { readonly classify?: ErrorClass.Classify | undefined }>(
  settings: Settings,
  classify: ErrorClass.Classify | undefined
): Settings => (settings.classify === undefined && classify !== undefined ? { ...settings, classify } : settings)

type BulkheadSettings = Omit<Bulkhead.Options, "name"> | Omit<Bulkhead.AdaptiveOptions, "name">

const defaultBudget: RetryBudget.Options = { type: "percentage" }

const build = (
  options: Options,
  before: { readonly stages: pipeline.Stages; readonly options: Options } | undefined
): Effect.Effect<pipeline.Stages> =>
  Effect.gen(function* () {
    const { classify, name } = options
    const retry =
      options.retry === false
        ? RetryPolicy.none
        : RetryPolicy.isRetryPolicy(options.retry)
          ? options.retry
          : RetryPolicy.exponential(classified(options.retry ?? {}, classify))
    const was = before?.stages
    const given = before?.options
    const budget = yield* part(options.budget ?? defaultBudget, RetryBudget.isRetryBudget, RetryBudget.make, {
      part: own(was?.budget, given?.budget, RetryBudget.isRetryBudget),
      reload: (part, settings) => part.reload(settings)
    })
    const hedge = yield* part(options.hedge, Hedge.isHedge, Hedge.make, {
      part: own(was?.hedge, given?.hedge, Hedge.isHedge),
      reload: (part, settings) => part.reload(settings)
    })
    const throttle = yield* part(
      options.throttle,
      Throttle.isThrottle,
      (settings: Omit<Throttle.Options, "name">) => Throttle.make({ ...classified(settings, classify), name }),
      {
        part: own(was?.throttle, given?.throttle, Throttle.isThrottle),
        reload: (part, settings) => part.reload(classified(settings, classify))
      }
    )
    const rateLimit = yield* part(
      options.rateLimit,
      RateLimit.isRateLimit,
      (settings: Omit<RateLimit.Options, "name">) => RateLimit.make({ ...settings, name }),
      {
        part: own(was?.rateLimit, given?.rateLimit, RateLimit.isRateLimit),
        reload: (part, settings) => part.reload(settings)
      }
    )
    const breaker = yield* part(
      options.breaker ?? {},
      CircuitBreaker.isCircuitBreaker,
      (settings: Omit<CircuitBreaker.Options, "name">) =>
        CircuitBreaker.make({ ...classified(settings, classify), name }),
      {
        part: own(was?.breaker, given?.breaker, CircuitBreaker.isCircuitBreaker),
        reload: (part, settings) => part.reload(classified(settings, classify))
      }
    )
    const bulkhead = yield* part(
      options.bulkhead,
      Bulkhead.isBulkhead,
      (settings: BulkheadSettings) => Bulkhead.fromOptions({ ...classified(settings, classify), name }),
      {
        part: own(was?.bulkhead, given?.bulkhead, Bulkhead.isBulkhead),
        reload: (part, settings) => part.reload(classified(settings, classify))
      }
    )
    const metrics = options.metrics === true ? (was?.metrics ?? new PolicyMetrics(name)) : undefined
    const once = options.idempotent === false
    return {
      name,
      total: millis(options.timeout, defaultTotal),
      attempt: millis(options.attemptTimeout, Number.POSITIVE_INFINITY),
      attemptScope: "attempt",
      retry: once ? retry.override({ unsentOnly: true }) : retry,
      budget,
      hedge: once ? undefined : hedge,
      throttle,
      rateLimit,
      breaker,
      bulkhead,
      entry: ordinary,
      cost: 1,
      chaos: options.chaos,
      around: stage_.around(options.stages ?? []),
      metrics,
      orphans: was?.orphans ?? { current: 0, total: 0 }
    }
  })

const ordinary: pipeline.Stages["entry"] = { weight: 1, priority: "normal" }

class Pipeline implements Policy {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly name: string
  stages: pipeline.Stages
  private options: Options
  private readonly watchers = new Set<(state: CircuitBreaker.State) => void>()
  private observed: CircuitBreaker.CircuitBreaker | undefined

  constructor(stages: pipeline.Stages, options: Options) {
    this.name = stages.name
    this.stages = stages
    this.options = options
    stages.orphans.changed = (current) => this.stages.metrics?.orphans(current)
  }

  // Fields, so that they can be taken out of the policy and passed on.
  readonly run = <A, E, R, A2 = never, E2 = never, R2 = never>(
    effect: Effect.Effect<A, E, R>,
    call?: CallOptions & { readonly fallback?: Fallback.Fallback<E | PolicyError, A2, E2, R2, A> | undefined }
  ): Effect.Effect<A | A2, E | PolicyError | E2, R | R2> => {
    const ran = pipeline.run(this.current(call), effect)
    return call?.fallback === undefined ? ran : Fallback.run(ran, this.counted(call.fallback))
  }

  readonly tryPromise = <A, E>(
    attempt: Attempt<A, E> | ((signal: AbortSignal) => PromiseLike<A>),
    call?: CallOptions
  ): Effect.Effect<A, E | Cause.UnknownException | PolicyError> =>
    pipeline.run<A, E | Cause.UnknownException, never>(
      this.current(call),
      typeof attempt === "function" ? { try: attempt, catch: unknownException } : attempt
    )

  readonly stream = <A, E, R, A2 = never, E2 = never, R2 = never>(
    stream: Stream.Stream<A, E, R>,
    call?: StreamOptions & { readonly fallback?: Fallback.StreamFallback<E | PolicyError, A2, E2, R2> | undefined }
  ): Stream.Stream<A | A2, E | PolicyError | E2, R | R2> => {
    const ran = streaming.run(() => streamStages(this.stages, call), stream)
    return call?.fallback === undefined ? ran : Fallback.runStream(ran, this.counted(call.fallback))
  }

  /** The stages in force when a call starts, with what the call changes of them. */
  private current(call: CallOptions | undefined): () => pipeline.Stages {
    return call === undefined ? () => this.stages : () => override(this.stages, call)
  }

  private counted<E, A, E2, R, V>(fallback: Fallback.Fallback<E, A, E2, R, V>): Fallback.Fallback<E, A, E2, R, V> {
    return watchedFallback(fallback, (outcome) => this.stages.metrics?.fellBack(outcome))
  }

  readonly watchBreaker = (now: number, watcher: (state: CircuitBreaker.State) => void): (() => void) => {
    this.watchers.add(watcher)
    this.observe(now)
    if (this.breaker !== undefined) watcher(this.breaker.machine.state(now))
    return () => {
      this.watchers.delete(watcher)
      this.observe(now)
    }
  }

  /** Listens to the breaker in force, if anybody minds: a breaker that others share is theirs to show as a metric. */
  observe(now: number): void {
    const { breaker, metrics } = this.stages
    const shown = metrics !== undefined && breaker !== this.options.breaker
    const wanted = shown || this.watchers.size > 0 ? breaker : undefined
    if (wanted === this.observed) return
    this.observed?.machine.listeners.delete(this.onChange)
    this.observed = wanted
    wanted?.machine.listeners.add(this.onChange)
    // Without a breaker every call passes: what the last one was like is not so any more.
    this.tell(breaker === undefined ? "closed" : breaker.machine.state(now))
  }

  private readonly onChange = (change: CircuitBreaker.Change): void => this.tell(change.to)

  private tell(state: CircuitBreaker.State): void {
    const { breaker, metrics } = this.stages
    if (breaker !== this.options.breaker) metrics?.circuit(state)
    for (const watcher of this.watchers) watcher(state)
  }

  get retry(): RetryPolicy.RetryPolicy {
    return this.stages.retry
  }
  get budget(): RetryBudget.RetryBudget | undefined {
    return this.stages.budget
  }
  get hedge(): Hedge.Hedge | undefined {
    return this.stages.hedge
  }
  get throttle(): Throttle.Throttle | undefined {
    return this.stages.throttle
  }
  get rateLimit(): RateLimit.RateLimit | undefined {
    return this.stages.rateLimit
  }
  get breaker(): CircuitBreaker.CircuitBreaker | undefined {
    return this.stages.breaker
  }
  get bulkhead(): Bulkhead.Bulkhead | undefined {
    return this.stages.bulkhead
  }
  get description(): string {
    return describeStages(this.stages)
  }
  get orphans(): Effect.Effect<Timeout.Orphans> {
    return Effect.sync(() => {
      const orphans: timed.Orphans = this.stages.orphans
      return { current: orphans.current, total: orphans.total }
    })
  }

  readonly reload = (changed: Omit<Options, "name">): Effect.Effect<void, PolicyInvalid> => {
    const options: Options = { ...changed, name: this.name }
    // Uninterruptible, or some parts could have the new settings and others the old ones.
    return valid(options).pipe(
      Effect.zipRight(Effect.suspend(() => build(options, { stages: this.stages, options: this.options }))),
      Effect.zipWith(Clock.currentTimeMillis, (stages, now) => {
        this.stages = stages
        this.options = options
        this.observe(now)
      }),
      Effect.uninterruptible
    )
  }
}

/** @internal The fallback, its answers told of: not where the error is none of its business and passes. */
export const watchedFallback = <E, A, E2, R, V>(
  fallback: Fallback.Fallback<E, A, E2, R, V>,
  onAnswer: (outcome: "success" | "failure") => void
): Fallback.Fallback<E, A, E2, R, V> => ({
  ...fallback,
  recover: (error) =>
    Effect.onExit(
      Effect.suspend(() => fallback.recover(error)),
      (exit) =>
        Effect.sync(() => {
          if (Exit.isSuccess(exit)) return onAnswer("success")
          const failure = Cause.failureOption(exit.cause)
          const passed = failure._tag === "Some" && Object.is(failure.value, error)
          if (!passed && !Cause.isInterruptedOnly(exit.cause)) onAnswer("failure")
        })
    )
})

const unknownException = (error: unknown): Cause.UnknownException =>
  new Cause.UnknownException(error, "the promise was rejected")

/** @internal The stages of one call. */
export const override = (stages: pipeline.Stages, call: CallOptions): pipeline.Stages => {
  const total = millis(call.timeout, stages.total)
  const attempt = millis(call.attemptTimeout, stages.attempt)
  const changesRetry =
    call.retries !== undefined ||
    call.retryDelay !== undefined ||
    call.idempotent !== undefined ||
    call.classify !== undefined ||
    call.retryOn !== undefined ||
    call.stopOn !== undefined
  const retry = changesRetry
    ? stages.retry.override({
        attempts: call.retries === undefined ? undefined : call.retries >= 1 ? Math.floor(call.retries) + 1 : 1,
        delay: call.retryDelay,
        unsentOnly: call.idempotent === undefined ? undefined : !call.idempotent,
        classify: call.classify,
        retryOn: call.retryOn,
        stopOn: call.stopOn
      })
    : stages.retry
  return {
    ...stages,
    total,
    attempt,
    retry,
    hedge: call.hedge === false || call.idempotent === false ? undefined : stages.hedge,
    entry:
      call.priority === undefined && call.weight === undefined
        ? stages.entry
        : { weight: call.weight ?? 1, priority: call.priority ?? "normal" },
    cost: call.cost ?? stages.cost
  }
}

/** @internal The stages of one stream. */
export const streamStages = (stages: pipeline.Stages, call: StreamOptions | undefined): streaming.Stages => {
  const own = call === undefined ? stages : override(stages, { ...call, attemptTimeout: call.firstElementTimeout })
  return {
    ...own,
    attemptScope: "first-element",
    idle: millis(call?.idleTimeout, Number.POSITIVE_INFINITY)
  }
}

/**
 * The pipeline in words, one stage a line, outermost first.
 *
 * @since 0.1.0
 * @category accessors
 */
export const describe = (policy: Runner): string => policy.description

/**
 * Whether it is a policy.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isPolicy = (u: unknown): u is Policy => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect through the policy: `policy.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  <E, A2, E2, R2, V>(
    policy: Runner,
    options: CallOptions & { readonly fallback: Fallback.Fallback<E | PolicyError, A2, E2, R2, V> }
  ): <A extends V, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A | A2, E2, R | R2>
  (
    policy: Runner,
    options?: (CallOptions & { readonly fallback?: undefined }) | undefined
  ): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | PolicyError, R>
  <A, E, R, A2, E2, R2>(
    effect: Effect.Effect<A, E, R>,
    policy: Runner,
    options: CallOptions & { readonly fallback: Fallback.Fallback<E | PolicyError, A2, E2, R2, A> }
  ): Effect.Effect<A | A2, E2, R | R2>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    policy: Runner,
    options?: (CallOptions & { readonly fallback?: undefined }) | undefined
  ): Effect.Effect<A, E | PolicyError, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R, A2, E2, R2>(
    effect: Effect.Effect<A, E, R>,
    policy: Runner,
    options?: CallOptions & { readonly fallback?: Fallback.Fallback<E | PolicyError, A2, E2, R2, A> | undefined }
  ): Effect.Effect<A | A2, E | PolicyError | E2, R | R2> =>
    options?.fallback === undefined
      ? policy.run(effect, withoutFallback(options))
      : policy.run(effect, { ...options, fallback: options.fallback })
)

/**
 * A stage of one's own, which goes round what is inside it: the whole call with its retries (`call`), each attempt with its
 * gates (`attempt`), or the call itself, inside the attempt timeout (`inner`). Where the policy has metrics, its runs are
 * counted and timed by its name. What it needs it has taken when it was made; it refuses with `StageRejected`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const stage = (options: {
  readonly name: string
  /** `attempt`. */
  readonly at?: stage_.Position | undefined
  readonly wrap: <A, E, R>(effect: Effect.Effect<A, E, R>, info: StageInfo) => Effect.Effect<A, E | StageRejected, R>
}): Stage => ({
  name: options.name,
  at: options.at ?? "attempt",
  apply: (effect, info, metrics) => {
    // What it throws is a defect of the call, wherever in the pipeline it is asked.
    const inside = Effect.suspend(() => options.wrap(effect, info))
    return metrics === undefined ? inside : stage_.measured(options, inside, metrics)
  }
})

/**
 * What `standard` leaves open.
 *
 * @since 0.1.0
 * @category models
 */
export type StandardOptions = Pick<Options, "name"> & Partial<Options>

const standardOptions: Omit<Options, "name"> = {
  timeout: "30 seconds",
  attemptTimeout: "10 seconds",
  retry: { attempts: 3, base: "1 second", cap: "30 seconds", jitter: "full" },
  breaker: {
    window: { type: "time", over: "30 seconds", failureRate: 0.5, minimumCalls: 20 },
    openFor: { initial: "5 seconds", factor: 2, max: "1 minute" },
    halfOpenPermits: 3,
    halfOpenSuccessRate: 0.6,
    rampUp: { over: "10 seconds", from: 0.2 }
  },
  bulkhead: { maxConcurrent: 100, maxQueue: 100, maxWait: "2 seconds" },
  metrics: true
}

const standardHedge: Hedge.Options = {
  delay: { percentile: 0.95, initial: "2 seconds", min: "5 millis", max: "5 seconds" },
  maxHedges: 1
}

/** The options, and the others where they say nothing. */
const orElse = (options: StandardOptions, others: Omit<Options, "name">): Options => ({
  ...others,
  ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)),
  name: options.name
})

/**
 * Good settings for an HTTP service, any of which can be given otherwise (a part as a whole): 30 seconds for the call, 10
 * for an attempt, 3 attempts within a retry budget, a circuit breaker over the last 30 seconds that opens at half failures
 * for 5 seconds and longer each time, 100 attempts at once, metrics. The shape is that of the standard pipeline of
 * https://learn.microsoft.com/dotnet/core/resilience/http-resilience ; `docs/resilience.md` says where each figure is from.
 *
 * @since 0.1.0
 * @category constructors
 */
export const standard = (options: StandardOptions): Effect.Effect<Policy, PolicyInvalid> =>
  make(orElse(options, standardOptions))

/**
 * `standard` with a hedge: where an attempt is slower than 95 of 100, another is started beside it. For calls that may
 * happen twice, such as reads.
 *
 * @since 0.1.0
 * @category constructors
 */
export const standardHedged = (options: StandardOptions): Effect.Effect<Policy, PolicyInvalid> =>
  make(orElse(options, { ...standardOptions, hedge: standardHedge }))

/**
 * The settings of a policy as configuration has them: those of `Options` that are data, under the same names. A part is
 * switched off by `enabled: false` (`breaker.enabled`, `retry.enabled`, ...); a timeout by `none`.
 *
 * @since 0.1.0
 * @category models
 */
export type Settings = policyOptions.Settings

/**
 * Reads the settings of a policy: `Config.nested(Policy.config, "weather")` reads `weather.timeout`,
 * `weather.retry.attempts`, `weather.breaker.window.type` and so on. What is not set is left to `make`.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<Settings> = policyConfig.settings

/**
 * Makes a policy of configuration over the options of the code: what configuration says goes before them, setting by
 * setting. Functions stay, and so does a part that was made elsewhere, which configuration can only switch off. A window,
 * a budget or a bulkhead of another kind replaces that of the code whole.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromConfig = (
  options: Pick<Options, "name"> & Partial<Options>,
  settings: Config.Config<Settings> = config
): Effect.Effect<Policy, PolicyInvalid | ConfigError.ConfigError> =>
  Effect.flatMap(settings, (found) => make(policyConfig.over(options, found)))

/**
 * Puts configuration in force anew, over the options of the code as in `fromConfig`: for a file that has changed. If it
 * cannot be read, or its settings cannot work, nothing changes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const reloadConfig = (
  policy: Policy,
  options: Partial<Omit<Options, "name">> = {},
  settings: Config.Config<Settings> = config
): Effect.Effect<void, PolicyInvalid | ConfigError.ConfigError> =>
  Effect.flatMap(settings, (found) => policy.reload(policyConfig.over({ ...options, name: policy.name }, found)))

/**
 * The class of a tag for one policy, with layers that make it:
 * `class Weather extends Policy.tag("app/WeatherPolicy", { name: "weather" })<Weather>() {}`.
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string>(id: Id, options: Options) =>
  <Self>() => {
    const Base = Context.Tag(id)<Self, Policy>()
    return Object.assign(Base, {
      layer: Layer.effect(Base, make(options)),
      layerConfig: (settings: Config.Config<Settings>) => Layer.effect(Base, fromConfig(options, settings))
    })
  }

/**
 * Puts policies round each other, outermost first: for orders that one policy does not have, such as a bulkhead round whole
 * calls. Orders that cannot work are refused with what to do instead: retries in two of them, a limit of time outside that
 * is shorter than one inside, one bulkhead, rate limit or breaker in two places.
 *
 * @since 0.1.0
 * @category constructors
 */
export const compose = (
  name: string,
  policies: readonly [outer: Policy, ...inner: ReadonlyArray<Policy>]
): Effect.Effect<Runner, PolicyInvalid> =>
  Effect.suspend(() => {
    const problems = compositionProblems(policies)
    return problems.length > 0
      ? Effect.fail(new PolicyInvalid({ policy: name, problems }))
      : Effect.succeed(new Composition(name, policies))
  })

/** @internal */
export const compositionProblems = (policies: ReadonlyArray<Policy>): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (let i = 0; i < policies.length; i++) {
    for (let j = i + 1; j < policies.length; j++) {
      const outer = policies[i]
      const inner = policies[j]
      if (outer === undefined || inner === undefined) continue
      const between = `"${outer.name}" round "${inner.name}"`
      const a = outer.stages
      const b = inner.stages
      if (a.retry.attempts > 1 && b.retry.attempts > 1) {
        found.push(
          `${between}: both retry, so the outer one would only repeat what the inner one has given up on: set retry to ` +
            `false in "${outer.name}"`
        )
      }
      if (a.hedge !== undefined && (b.retry.attempts > 1 || b.hedge !== undefined)) {
        found.push(
          `${between}: the outer one hedges what the inner one ${b.hedge === undefined ? "retries" : "hedges"} already, so ` +
            `attempts would multiply: move hedge into "${inner.name}"`
        )
      }
      const limit = Math.min(a.attempt, a.total)
      for (const [setting, value] of [
        ["timeout", b.total],
        ["attemptTimeout", b.attempt]
      ] as const) {
        if (value === Number.POSITIVE_INFINITY || value < limit) continue
        found.push(
          `${between}: the inner ${setting} (${shown(value)}) is not shorter than the outer ` +
            `${a.attempt < a.total ? "attemptTimeout" : "timeout"} (${shown(limit)}), so it would never be reached: lower ` +
            `${setting} of "${inner.name}" or set it to false`
        )
      }
      const same = (what: string, x: unknown, y: unknown, why: string): void => {
        if (x !== undefined && x === y)
          found.push(`${between}: both have the same ${what}, so ${why}: leave it to one of them`)
      }
      same("bulkhead", a.bulkhead, b.bulkhead, "a call would wait for a place while it holds one")
      same("rate limit", a.rateLimit, b.rateLimit, "a call would be paid for twice")
      same("breaker", a.breaker, b.breaker, "a failure would count twice")
      same("throttle", a.throttle, b.throttle, "a call would count twice")
    }
  }
  return found
}

class Composition implements Runner {
  readonly name: string
  private readonly policies: ReadonlyArray<Policy>

  constructor(name: string, policies: ReadonlyArray<Policy>) {
    this.name = name
    this.policies = policies
  }

  get description(): string {
    const parts = this.policies.map((policy) => policy.description.replace(/\n {2}the call$/, ""))
    return [`"${this.name}", outermost first`, ...parts, "  the call"].join("\n")
  }

  /** What a single call changes is the business of the innermost policy, its fallback that of all. */
  readonly run = <A, E, R, A2 = never, E2 = never, R2 = never>(
    effect: Effect.Effect<A, E, R>,
    call?: CallOptions & { readonly fallback?: Fallback.Fallback<E | PolicyError, A2, E2, R2, A> | undefined }
  ): Effect.Effect<A | A2, E | PolicyError | E2, R | R2> => {
    const ran = this.policies.reduceRight<Effect.Effect<A, E | PolicyError, R>>(
      (inside, policy, index) =>
        policy.run(inside, index === this.policies.length - 1 ? withoutFallback(call) : undefined),
      effect
    )
    return call?.fallback === undefined ? ran : Fallback.run(ran, this.counted(call.fallback))
  }

  readonly tryPromise = <A, E>(
    attempt: Attempt<A, E> | ((signal: AbortSignal) => PromiseLike<A>),
    call?: CallOptions
  ): Effect.Effect<A, E | Cause.UnknownException | PolicyError> => {
    const last = this.policies.length - 1
    return this.policies.reduceRight<Effect.Effect<A, E | Cause.UnknownException | PolicyError>>(
      (inside, policy, index) => (index === last ? inside : policy.run(inside)),
      Effect.suspend(() => {
        const innermost = this.policies[last]
        const made: Attempt<A, E | Cause.UnknownException> =
          typeof attempt === "function" ? { try: attempt, catch: unknownException } : attempt
        return innermost === undefined ? Effect.tryPromise(made) : innermost.tryPromise(made, call)
      })
    )
  }

  readonly stream = <A, E, R, A2 = never, E2 = never, R2 = never>(
    stream: Stream.Stream<A, E, R>,
    call?: StreamOptions & { readonly fallback?: Fallback.StreamFallback<E | PolicyError, A2, E2, R2> | undefined }
  ): Stream.Stream<A | A2, E | PolicyError | E2, R | R2> => {
    const ran = this.policies.reduceRight<Stream.Stream<A, E | PolicyError, R>>(
      (inside, policy, index) =>
        policy.stream(inside, index === this.policies.length - 1 ? withoutFallback(call) : undefined),
      stream
    )
    return call?.fallback === undefined ? ran : Fallback.runStream(ran, this.counted(call.fallback))
  }

  /** What falls back is the whole, which the outermost policy counts. */
  private counted<E, A, E2, R, V>(fallback: Fallback.Fallback<E, A, E2, R, V>): Fallback.Fallback<E, A, E2, R, V> {
    return watchedFallback(fallback, (outcome) => this.policies[0]?.stages.metrics?.fellBack(outcome))
  }
}

const withoutFallback = <Options extends CallOptions>(
  call: (Options & { readonly fallback?: unknown }) | undefined
): (Options & { readonly fallback: undefined }) | undefined =>
  call === undefined ? undefined : { ...call, fallback: undefined }
