/**
 * A bulkhead: at most so many calls in flight at once, a bounded queue for those that come meanwhile, and a bounded time
 * to wait in it. First come, first served within each priority, and nobody overtakes one who needs more places than are
 * free. The number of places is fixed (`make`) or finds itself by how long the calls take (`adaptive`).
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Predicate from "effect/Predicate"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as adaptiveLimit from "../internal/resilience/adaptiveLimit.ts"
import * as machine from "../internal/resilience/bulkhead.ts"
import type * as gate from "../internal/resilience/gate.ts"
import { Rejection } from "../internal/resilience/rejection.ts"
import * as Deadline from "./Deadline.ts"
import * as ErrorClass from "./ErrorClass.ts"

/**
 * Who goes first where calls wait. A call for which there is no place in a full queue takes that of the youngest of the
 * lowest priority below its own. While calls of a higher priority keep coming and take all places, those of a lower one get
 * none; what bounds that is `maxWait`, after which they are refused.
 *
 * @since 0.1.0
 * @category models
 */
export type Priority = gate.Priority

/**
 * What is asked for one call.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunOptions {
  /** `normal` by default. */
  readonly priority?: Priority | undefined
  /** How many places it takes. 1. */
  readonly weight?: number | undefined
}

/**
 * What fixed and adaptive bulkheads have in common.
 *
 * @since 0.1.0
 * @category models
 */
export interface QueueOptions {
  /** What it guards; named in `BulkheadFull`. */
  readonly name: string
  /**
   * How many calls may wait. 0, as in Polly, and resilience4j's semaphore does not wait either: a queue hides an overload
   * until it has become latency, so whoever wants one says how long it may be.
   */
  readonly maxQueue?: number | undefined
  /** How long a call may wait. 1 second, as in Helidon. */
  readonly maxWait?: Duration.DurationInput | undefined
  /** Classifies errors, for what an adaptive limit takes as a drop. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
}

/**
 * A fixed number of places.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends QueueOptions {
  /** How many may be in flight at once. 25, as in resilience4j; Envoy's 1,024 and Polly's 1,000 protect a proxy, not a service. */
  readonly maxConcurrent?: number | undefined
}

/**
 * How an adaptive limit is found.
 *
 * - `gradient`: lowered in proportion as the latency grows over its baseline, with a headroom of the square root of the
 *   limit (Netflix `Gradient2Limit`, Envoy's adaptive concurrency). The one to begin with.
 * - `vegas`: keeps a few calls waiting within the service, 3 to 6 times the logarithm of the limit (TCP Vegas, Netflix
 *   `VegasLimit`). Nearer to the service's capacity, more easily misled by latencies that differ from call to call.
 * - `aimd`: one more for each window without drops, a part fewer after drops (TCP Reno, Netflix `AIMDLimit`). Minds
 *   timeouts and overload answers alone, so it is for latencies that say nothing.
 *
 * @since 0.1.0
 * @category models
 */
export type Algorithm = adaptiveLimit.Algorithm

/**
 * A number of places that finds itself. The defaults of `initial`, `min` and `max` are failsafe-go's.
 *
 * @since 0.1.0
 * @category models
 */
export interface AdaptiveOptions extends QueueOptions {
  readonly algorithm: Algorithm
  /** The limit to begin with. 20, within `min` and `max`. */
  readonly initial?: number | undefined
  /** Never fewer than this. 1. A call may weigh no more than this. */
  readonly min?: number | undefined
  /** Never more than this. 200. */
  readonly max?: number | undefined
  /** For how long calls are gathered before the limit is moved. 1 second, as at Netflix. */
  readonly window?: Duration.DurationInput | undefined
  /** With fewer calls than this the window goes on. 10, as at Netflix. */
  readonly minimumSamples?: number | undefined
  /** `gradient`: which part of the way to a new limit is gone at once, above 0 to 1. 0.3. */
  readonly smoothing?: number | undefined
  /** `gradient`: how many times its baseline the latency may be before the limit is lowered, from 1. 1.2. */
  readonly tolerance?: number | undefined
  /** What the limit is multiplied with after drops, above 0 and below 1. 0.9, as at Netflix. */
  readonly backoff?: number | undefined
  /**
   * How often the latency without load is measured, for which the limit is halved until `minimumSamples` calls have ended
   * (for a quarter of this at most). 60 seconds, as in Envoy.
   */
  readonly probeEvery?: Duration.DurationInput | undefined
}

/**
 * The settings of either kind, for where there is a name already.
 *
 * @since 0.1.0
 * @category models
 */
export type Settings = Partial<Pick<QueueOptions, "name">> & (Omit<Options, "name"> | Omit<AdaptiveOptions, "name">)

/**
 * Why there was no place: the queue is full (or somebody of a higher priority took the place in it), none came free in
 * the time that there was, or the call weighs more than there are places at all.
 *
 * @since 0.1.0
 * @category models
 */
export type Reason = machine.Reason

/**
 * There was no place for the call, so the service was not asked. A plain object without a stack: refusing must be cheap.
 *
 * @since 0.1.0
 * @category errors
 */
export class BulkheadFull extends Rejection {
  readonly _tag = "BulkheadFull"
  readonly reason: Reason
  /** How many places the call wanted. */
  readonly weight: number
  /** How many places a call could want. */
  readonly limit: number | undefined

  constructor(options: {
    readonly service: string
    readonly reason: Reason
    readonly weight?: number | undefined
    readonly limit?: number | undefined
  }) {
    super(options.service)
    this.reason = options.reason
    this.weight = options.weight ?? 1
    this.limit = options.limit
  }
  override get message(): string {
    if (this.reason === "weight-above-limit") {
      const limit = this.limit === undefined ? "the limit" : `the limit of ${this.limit}`
      return `${this.service}: the call weighs ${this.weight}, more than ${limit}: lower its weight or raise the limit`
    }
    return this.reason === "queue-full"
      ? `${this.service}: too many calls are in flight, and no more may wait`
      : `${this.service}: too many calls are in flight, and no place came free in time`
  }
  override get isRetryable(): boolean {
    return this.reason !== "weight-above-limit"
  }
  override get errorClass(): ErrorClass.ErrorClass {
    return this.reason === "weight-above-limit" ? "permanent" : "transient"
  }
}

/**
 * What can be seen of a bulkhead.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  /** Places that are held now, the weights of the calls in flight. */
  readonly active: number
  /** Calls that wait now. */
  readonly queued: number
  /** Places that there are now. */
  readonly limit: number
  /** Calls that got in since it was made, */
  readonly entered: number
  /** that had to wait, whatever became of them, */
  readonly waited: number
  /** that were refused, at once or after a wait, */
  readonly rejected: number
  /** that were refused because one of a higher priority took their place in the queue (counted in `rejected` too), */
  readonly displaced: number
  /** and that were interrupted while they waited. */
  readonly interrupted: number
  /** What an adaptive limit goes by; undefined where the limit is fixed. */
  readonly adaptive:
    | {
        readonly algorithm: Algorithm
        /** The latency without load, and the mean of the last window; zero until they are known. */
        readonly baseline: Duration.Duration
        readonly latency: Duration.Duration
        /** Whether the limit is halved at the moment, to measure the baseline. */
        readonly probing: boolean
      }
    | undefined
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Bulkhead")

/**
 * @since 0.1.0
 * @category models
 */
export interface Bulkhead {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /**
   * Runs the effect once there is a place for it, and gives the place back when it has really ended. The caller's deadline
   * (`Deadline.Current`) is not waited past.
   */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: RunOptions | undefined
  ) => Effect.Effect<A, E | BulkheadFull, R>
  /** The same for a stream, which keeps its place until it and its finalizers have ended. */
  readonly runStream: <A, E, R>(
    stream: Stream.Stream<A, E, R>,
    options?: RunOptions | undefined
  ) => Stream.Stream<A, E | BulkheadFull, R>
  readonly snapshot: Effect.Effect<Snapshot>
  /**
   * Changes the settings: more places let in those who wait at once, fewer let those in flight end; who waits keeps their
   * place and time. Settings that cannot work are defects, as for `make`. The name stays.
   */
  readonly reload: (options: Settings) => Effect.Effect<void>
  /** @internal What the end of a call says of the service; undefined for nothing. */
  readonly outcome: (cause: Cause.Cause<unknown>) => adaptiveLimit.Outcome | undefined
  /** @internal */
  readonly machine: machine.Bulkhead<BulkheadFull>
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

type AdaptiveSettings = Omit<AdaptiveOptions, "name">

const isAdaptive = (options: Settings): options is Settings & AdaptiveSettings => "algorithm" in options

const initialOf = (options: AdaptiveSettings): number =>
  options.initial ?? Math.max(options.min ?? 1, Math.min(options.max ?? 200, 20))

const adaptiveProblems = (options: AdaptiveSettings): ReadonlyArray<string> => {
  const found: Array<string> = []
  const positiveInteger = (name: string, value: number): void => {
    if (!(Number.isInteger(value) && value >= 1)) {
      found.push(`bulkhead.${name} is ${value}: give a whole number of 1 or more`)
    }
  }
  const min = options.min ?? 1
  const max = options.max ?? 200
  const initial = initialOf(options)
  if (!["gradient", "vegas", "aimd"].includes(options.algorithm)) {
    found.push(`bulkhead.algorithm is ${options.algorithm}: give "gradient", "vegas" or "aimd"`)
  }
  positiveInteger("min", min)
  positiveInteger("max", max)
  if (min > max) found.push(`bulkhead.min (${min}) is more than bulkhead.max (${max}): lower min or raise max`)
  else if (options.initial !== undefined) {
    positiveInteger("initial", initial)
    if (initial < min || initial > max) {
      found.push(
        `bulkhead.initial (${initial}) is not within min (${min}) and max (${max}): give a number between them`
      )
    }
  }
  positiveInteger("minimumSamples", options.minimumSamples ?? 10)
  const positive = (name: string, duration: Duration.DurationInput | undefined): void => {
    if (duration === undefined) return
    const millis = Duration.toMillis(duration)
    if (!(millis > 0 && Number.isFinite(millis))) {
      found.push(`bulkhead.${name} is ${millis} ms: give a positive, finite duration`)
    }
  }
  positive("window", options.window)
  positive("probeEvery", options.probeEvery)
  const { backoff = 0.9, smoothing = 0.3, tolerance = 1.2 } = options
  if (!(smoothing > 0 && smoothing <= 1)) {
    found.push(`bulkhead.smoothing is ${smoothing}: give a part above 0 and up to 1`)
  }
  if (!(tolerance >= 1 && Number.isFinite(tolerance))) {
    found.push(`bulkhead.tolerance is ${tolerance}: give a factor of 1 or more (1.2 lets latency grow by a fifth)`)
  }
  if (!(backoff > 0 && backoff < 1)) {
    found.push(`bulkhead.backoff is ${backoff}: give a factor above 0 and below 1 (0.9 lowers the limit by a tenth)`)
  }
  return found
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Settings): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (isAdaptive(options)) found.push(...adaptiveProblems(options))
  else {
    const { maxConcurrent = 25 } = options
    if (!(Number.isInteger(maxConcurrent) && maxConcurrent >= 1)) {
      found.push(`bulkhead.maxConcurrent is ${maxConcurrent}: give a whole number of 1 or more`)
    }
  }
  const { maxQueue = 0, maxWait } = options
  if (!(Number.isInteger(maxQueue) && maxQueue >= 0)) {
    found.push(`bulkhead.maxQueue is ${maxQueue}: give a whole number, 0 if no call may wait`)
  }
  if (maxWait !== undefined) {
    const millis = Duration.toMillis(maxWait)
    if (!Number.isFinite(millis)) {
      found.push("bulkhead.maxWait is infinite: give the longest time that a call may wait")
    } else if (millis === 0 && maxQueue > 0) {
      found.push(
        `bulkhead.maxWait is 0, so none of the ${maxQueue} of bulkhead.maxQueue could wait: raise it or give no maxQueue`
      )
    }
  }
  return found
}

const settingsOf = (options: Settings): machine.Settings => ({
  limit: isAdaptive(options)
    ? {
        algorithm: options.algorithm,
        initial: initialOf(options),
        min: options.min ?? 1,
        max: options.max ?? 200,
        window: Duration.toMillis(options.window ?? "1 second"),
        minimumSamples: options.minimumSamples ?? 10,
        smoothing: options.smoothing ?? 0.3,
        tolerance: options.tolerance ?? 1.2,
        backoff: options.backoff ?? 0.9,
        probeEvery: Duration.toMillis(options.probeEvery ?? "60 seconds")
      }
    : (options.maxConcurrent ?? 25),
  maxQueue: options.maxQueue ?? 0,
  maxWait: Duration.toMillis(options.maxWait ?? "1 second")
})

const describe = (settings: machine.Settings): string => {
  const { limit, maxQueue, maxWait } = settings
  const places =
    typeof limit === "number"
      ? `at most ${limit} at once`
      : `${limit.min} to ${limit.max} at once, found by ${limit.algorithm} from ${limit.initial}`
  return maxQueue === 0 ? places : `${places}, ${maxQueue} wait up to ${Duration.format(Duration.millis(maxWait))}`
}

const dieOf = (name: string, wrong: ReadonlyArray<string>): Effect.Effect<never> =>
  Effect.dieMessage(`Bulkhead "${name}": ${wrong.join("; ")}`)

/**
 * `make` or `adaptive`, whichever the settings are for: those with an `algorithm` are adaptive.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromOptions = (options: Options | AdaptiveOptions): Effect.Effect<Bulkhead> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0 ? Effect.succeed(unsafeMake(options)) : dieOf(options.name, wrong)
  })

/**
 * Makes a bulkhead with a fixed number of places. Settings that cannot work are defects that say what to write instead;
 * `Policy.make` reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: (options: Options) => Effect.Effect<Bulkhead> = fromOptions

/**
 * Makes a bulkhead whose number of places finds itself: from the latency of the calls that succeed, and from the calls
 * that are dropped, which are timeouts and answers that say overload (429, 503). Calls that fail otherwise, or are
 * cancelled, say nothing, and neither does any call while half of the places or more stay free.
 *
 * @since 0.1.0
 * @category constructors
 */
export const adaptive: (options: AdaptiveOptions) => Effect.Effect<Bulkhead> = fromOptions

const reject: machine.Reject<BulkheadFull> = (service, reason, weight, limit) =>
  new BulkheadFull({ service, reason, weight, limit })

/** The status of the error itself, or of the response that it holds. */
const statusOf = (error: unknown): unknown => ownStatus(error) ?? ownStatus(Reflect.get(Object(error), "response"))

const ownStatus = (u: unknown): unknown => {
  const { status, statusCode } = Object(u) as { readonly status?: unknown; readonly statusCode?: unknown }
  return status ?? statusCode
}

const isTimeout = (error: unknown): boolean =>
  Predicate.isTagged(error, "CallTimeout") ||
  Predicate.isTagged(error, "TimeoutException") ||
  (Predicate.hasProperty(error, "name") && error.name === "TimeoutError")

/** @internal What the end of a call says of the service's load; undefined for nothing. */
export const outcomeOf = (
  cause: Cause.Cause<unknown>,
  classify: ErrorClass.Classify
): adaptiveLimit.Outcome | undefined => {
  const failure = Cause.failureOption(cause)
  if (failure._tag === "None") return Cause.isDie(cause) ? "failure" : undefined
  const found = classify(failure.value)
  if (found.rejection === true || found.class === "cancelled") return undefined
  if (found.class === "rate-limited" || isTimeout(failure.value) || statusOf(failure.value) === 503) return "dropped"
  return "failure"
}

/** @internal */
export const unsafeMake = (options: Options | AdaptiveOptions): Bulkhead => new BulkheadImpl(options)

class BulkheadImpl implements Bulkhead {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly name: string
  readonly machine: machine.Bulkhead<BulkheadFull>
  private settings: machine.Settings
  private classify: ErrorClass.Classify

  constructor(options: Options | AdaptiveOptions) {
    this.name = options.name
    this.settings = settingsOf(options)
    this.classify = options.classify ?? ErrorClass.classify
    this.machine = new machine.Bulkhead(options.name, this.settings, reject)
  }

  get description(): string {
    return describe(this.settings)
  }

  get snapshot(): Effect.Effect<Snapshot> {
    return Effect.sync(() => {
      const { active, counters, limit, limiter, queued } = this.machine
      return {
        active,
        queued,
        limit,
        ...counters,
        adaptive:
          limiter === undefined
            ? undefined
            : {
                algorithm: limiter.settings.algorithm,
                baseline: Duration.millis(limiter.baseline),
                latency: Duration.millis(limiter.latency),
                probing: limiter.probing
              }
      }
    })
  }

  outcome(cause: Cause.Cause<unknown>): adaptiveLimit.Outcome | undefined {
    return outcomeOf(cause, this.classify)
  }

  reload(options: Settings): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const wrong = problems(options)
      if (wrong.length > 0) return dieOf(this.name, wrong)
      this.settings = settingsOf(options)
      this.classify = options.classify ?? ErrorClass.classify
      this.machine.reload(this.settings, now)
      return Effect.void
    })
  }

  run<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: RunOptions | undefined
  ): Effect.Effect<A, E | BulkheadFull, R> {
    const weight = options?.weight ?? 1
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiberRuntime<A, E | BulkheadFull, R>((fiber) => {
        const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
        const deadline = Deadline.of(fiber)
        const now = clock.unsafeCurrentTimeMillis()
        const held = (): Effect.Effect<A, E, R> => {
          const startedAt = clock.unsafeCurrentTimeMillis()
          return Effect.matchCauseEffect(restore(effect), {
            onFailure: (cause) => {
              this.leave(clock, startedAt, this.adaptiveOutcome(cause), weight)
              return Effect.failCause(cause)
            },
            onSuccess: (value) => {
              this.leave(clock, startedAt, "success", weight)
              return Effect.succeed(value)
            }
          })
        }
        return deadline > now && this.machine.tryEnter(now, weight)
          ? held()
          : Effect.flatMap(
              this.machine.enter(restore, deadline, { weight, priority: options?.priority ?? "normal" }),
              held
            )
      })
    )
  }

  runStream<A, E, R>(
    stream: Stream.Stream<A, E, R>,
    options?: RunOptions | undefined
  ): Stream.Stream<A, E | BulkheadFull, R> {
    const weight = options?.weight ?? 1
    return Stream.unwrapScoped(
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(this, function* () {
          const scope = yield* Effect.scope
          const clock = yield* Effect.clock
          const deadline = yield* Deadline.current
          yield* this.machine.enter(restore, deadline, { weight, priority: options?.priority ?? "normal" })
          const startedAt = clock.unsafeCurrentTimeMillis()
          yield* Scope.addFinalizerExit(scope, (exit) =>
            Effect.sync(() => {
              const outcome = Exit.isFailure(exit) ? this.adaptiveOutcome(exit.cause) : undefined
              // How long a stream flows says nothing of the load, how long its first element took does.
              this.leave(clock, startedAt, outcome === "dropped" ? outcome : undefined, weight)
            })
          )
          if (!this.machine.adaptive) return stream
          let answered = false
          return Stream.mapChunks(stream, (chunk) => {
            if (!answered && Chunk.isNonEmpty(chunk)) {
              answered = true
              this.machine.learn(clock.unsafeCurrentTimeMillis(), { startedAt, outcome: "success" })
            }
            return chunk
          })
        })
      )
    )
  }

  private adaptiveOutcome(cause: Cause.Cause<unknown>): adaptiveLimit.Outcome | undefined {
    return this.machine.adaptive ? this.outcome(cause) : undefined
  }

  private leave(
    clock: Clock.Clock,
    startedAt: number,
    outcome: adaptiveLimit.Outcome | undefined,
    weight: number
  ): void {
    const learns = this.machine.adaptive && outcome !== undefined
    this.machine.leave(clock.unsafeCurrentTimeMillis(), learns ? { startedAt, outcome } : undefined, weight)
  }
}

/**
 * Whether it is a bulkhead.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isBulkhead = (u: unknown): u is Bulkhead => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect through the bulkhead: `bulkhead.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): Effect.Effect<A, E | BulkheadFull, R>
} = dual(
  (args) => isBulkhead(args[1]),
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): Effect.Effect<A, E | BulkheadFull, R> => bulkhead.run(effect, options)
)

/**
 * Runs the stream through the bulkhead: `bulkhead.runStream` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const runStream: {
  (
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): <A, E, R>(stream: Stream.Stream<A, E, R>) => Stream.Stream<A, E | BulkheadFull, R>
  <A, E, R>(
    stream: Stream.Stream<A, E, R>,
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): Stream.Stream<A, E | BulkheadFull, R>
} = dual(
  (args) => isBulkhead(args[1]),
  <A, E, R>(
    stream: Stream.Stream<A, E, R>,
    bulkhead: Bulkhead,
    options?: RunOptions | undefined
  ): Stream.Stream<A, E | BulkheadFull, R> => bulkhead.runStream(stream, options)
)
