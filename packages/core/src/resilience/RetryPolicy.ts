/**
 * When to try again and after how long: exponential waits with jitter and a cap, the service's own `Retry-After` before
 * them, never past the caller's deadline. A policy's `schedule` is an ordinary `Schedule`, for `Effect.retry` anywhere;
 * `Policy` uses the same one.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleInterval from "effect/ScheduleInterval"
import * as ScheduleIntervals from "effect/ScheduleIntervals"
import * as marks from "../internal/resilience/marks.ts"
import * as Deadline from "./Deadline.ts"
import * as ErrorClass from "./ErrorClass.ts"

/**
 * How the waits are spread, so that callers that failed together do not come back together: not at all; anywhere between
 * nothing and the wait (`full`); in its upper half (`equal`); or between the base and three times the wait before
 * (`decorrelated`).
 * See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 *
 * @since 0.1.0
 * @category models
 */
export type Jitter = "none" | "full" | "equal" | "decorrelated"

/**
 * What all kinds of policies share.
 *
 * @since 0.1.0
 * @category models
 */
export interface CommonOptions {
  /** How often the call is made at most, the first time included. 3. */
  readonly attempts?: number | undefined
  /** The longest wait. 30 seconds. */
  readonly cap?: Duration.DurationInput | undefined
  /** The longest wait that a `Retry-After` can ask for; a longer one is cut to it. 60 seconds. */
  readonly retryAfterCap?: Duration.DurationInput | undefined
  /** Classifies errors. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
  /** Errors to try again after, besides those that are transient or rate-limited. */
  readonly retryOn?: ((error: unknown) => boolean) | undefined
  /** Errors to give up on, whatever they are classified as. */
  readonly stopOn?: ((error: unknown) => boolean) | undefined
  /** Try again only where it is certain that nothing was sent: for calls that must not happen twice. False. */
  readonly unsentOnly?: boolean | undefined
  /** Try again after refusals of our own, such as `CircuitOpen`, too. False: they exist to fail fast. */
  readonly retryRejections?: boolean | undefined
  /** Try again also when an inner policy has spent its attempts already. False: attempts would multiply. */
  readonly retryExhausted?: boolean | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ExponentialOptions extends CommonOptions {
  /** The first wait. 1 second. */
  readonly base?: Duration.DurationInput | undefined
  /** How much longer each wait is than the one before. 2. */
  readonly factor?: number | undefined
  /** `full`. */
  readonly jitter?: Jitter | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface FixedOptions extends CommonOptions {
  readonly delay: Duration.DurationInput
  /** `none`. */
  readonly jitter?: Exclude<Jitter, "decorrelated"> | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface CustomOptions extends CommonOptions {
  /** Gives the waits, and ends the attempts where it ends (`attempts` counts as well; by default there is no such limit). */
  readonly schedule: Schedule.Schedule<unknown, unknown>
  /** `none`. */
  readonly jitter?: Exclude<Jitter, "decorrelated"> | undefined
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/RetryPolicy")

/**
 * @since 0.1.0
 * @category models
 */
export interface RetryPolicy {
  readonly [TypeId]: typeof TypeId
  /** How often the call is made at most, the first time included. */
  readonly attempts: number
  /**
   * The policy as a schedule: its input is the error, its output the wait before the next attempt. It ends when the
   * attempts are used up, when the error is not one to try again after, or when the wait would pass the deadline.
   */
  readonly schedule: Schedule.Schedule<Duration.Duration, unknown>
  /** Whether the error is one to try again after, attempts and time permitting. */
  readonly shouldRetry: (error: unknown) => boolean
  readonly classify: ErrorClass.Classify
  /** The policy in words. */
  readonly description: string
  /** The same policy with other limits, as single calls ask for. */
  readonly override: (options: Overrides) => RetryPolicy
  /** @internal */
  readonly retriesExhausted: boolean
  /** @internal */
  readonly unsafeSchedule: (hooks: Hooks) => Schedule.Schedule<Duration.Duration, unknown>
}

/**
 * What a single call may change of its policy.
 *
 * @since 0.1.0
 * @category models
 */
export interface Overrides extends Pick<CommonOptions, "attempts" | "unsentOnly" | "classify" | "retryOn" | "stopOn"> {
  /** The first wait of an exponential policy, each wait of a fixed one; a custom schedule is replaced by it. */
  readonly delay?: Duration.DurationInput | undefined
}

/**
 * One attempt that failed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Attempt {
  /** From 1. */
  readonly number: number
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly endedAt: number
  readonly cause: Cause.Cause<unknown>
}

/** @internal What a policy asks of its own run of the schedule. */
export interface Hooks {
  /** Gives up on errors that would be tried again. */
  readonly stop: (error: unknown) => boolean
  /** The last question before another attempt: whether there is a budget for it. */
  readonly allow: (found: ErrorClass.Classification, now: number, error: unknown) => boolean
  /** Told of each wait before it begins. */
  readonly onDelay: (error: unknown, delayMillis: number, attempt: number, now: number) => void
  /** When there is no use in waiting any more. */
  readonly deadline: number | undefined
}

interface Shape {
  readonly base: Schedule.Schedule<unknown, unknown>
  readonly firstDelay: number
  readonly jitter: Jitter
  readonly words: string
  readonly withDelay: (delay: Duration.DurationInput) => Shape
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: ExponentialOptions & { readonly delay?: Duration.DurationInput | undefined }) => {
  const found: Array<string> = []
  const attempts = options.attempts
  if (attempts !== undefined && !(attempts >= 1 && (Number.isInteger(attempts) || attempts === Infinity))) {
    found.push(`retry.attempts is ${attempts}: give a whole number of 1 or more (1 is a single attempt)`)
  }
  if (options.factor !== undefined && !(options.factor >= 1 && Number.isFinite(options.factor))) {
    found.push(`retry.factor is ${options.factor}: give 1 or more (1 keeps the wait the same)`)
  }
  const base = options.base ?? options.delay
  if (base !== undefined && options.cap !== undefined && Duration.toMillis(base) > Duration.toMillis(options.cap)) {
    found.push(
      `retry.base (${Duration.format(base)}) is longer than retry.cap (${Duration.format(options.cap)}): lower base or raise cap`
    )
  }
  return found
}

/**
 * Exponential waits: by default 3 attempts, 1 second, doubled, at most 30 seconds, full jitter.
 *
 * @since 0.1.0
 * @category constructors
 */
export const exponential = (options: ExponentialOptions = {}): RetryPolicy =>
  build(exponentialShape(options.base ?? "1 second", options.factor ?? 2, options.jitter ?? "full"), options)

const exponentialShape = (base: Duration.DurationInput, factor: number, jitter: Jitter): Shape => ({
  base: Schedule.exponential(base, factor),
  firstDelay: Duration.toMillis(base),
  jitter,
  words: `waits of ${Duration.format(base)} x ${factor}`,
  withDelay: (delay) => exponentialShape(delay, factor, jitter)
})

/**
 * The default: `exponential`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: (options?: ExponentialOptions) => RetryPolicy = exponential

/**
 * The same wait every time.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fixed = (options: FixedOptions): RetryPolicy =>
  build(fixedShape(options.delay, options.jitter ?? "none"), options)

const fixedShape = (delay: Duration.DurationInput, jitter: Jitter): Shape => ({
  base: Schedule.exponential(delay, 1),
  firstDelay: Duration.toMillis(delay),
  jitter,
  words: `waits of ${Duration.format(delay)}`,
  withDelay: (other) => fixedShape(other, jitter)
})

/**
 * The waits of any schedule; classification, `Retry-After`, cap and deadline apply to it as to the others.
 *
 * @since 0.1.0
 * @category constructors
 */
export const custom = (options: CustomOptions): RetryPolicy =>
  build(
    {
      base: options.schedule,
      firstDelay: 0,
      jitter: options.jitter ?? "none",
      words: "waits of a schedule of its own",
      withDelay: (delay) => fixedShape(delay, options.jitter ?? "none")
    },
    { ...options, attempts: options.attempts ?? Number.POSITIVE_INFINITY }
  )

/**
 * Whether it is a policy.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRetryPolicy = (u: unknown): u is RetryPolicy => typeof u === "object" && u !== null && TypeId in u

/**
 * The attempts that a policy made before it gave up with this error, the last included; empty if there was no second one.
 * Of more than 1,000 the last 1,000.
 *
 * @since 0.1.0
 * @category accessors
 */
export const attemptsOf = (error: unknown): ReadonlyArray<Attempt> => marks.attemptsOf(error) as ReadonlyArray<Attempt>

const build = (shape: Shape, options: CommonOptions): RetryPolicy => {
  const attempts = options.attempts ?? 3
  const cap = Duration.toMillis(options.cap ?? "30 seconds")
  const retryAfterCap = Duration.toMillis(options.retryAfterCap ?? "60 seconds")
  const classify = options.classify ?? ErrorClass.classify
  const retryable = (found: ErrorClass.Classification, error: unknown): boolean => {
    if (options.stopOn?.(error) === true) return false
    if (options.unsentOnly === true && found.sent !== false) return false
    if (options.retryExhausted !== true && ErrorClass.isExhausted(error)) return false
    if (options.retryOn?.(error) === true) return true
    if (found.rejection === true && options.retryRejections !== true) return false
    return found.class === "transient" || found.class === "rate-limited"
  }
  const unsafeSchedule = (hooks: Hooks | undefined): Schedule.Schedule<Duration.Duration, unknown> =>
    makeSchedule(shape, { attempts, cap, retryAfterCap, classify, retryable, hooks })
  return {
    [TypeId]: TypeId,
    attempts,
    classify,
    shouldRetry: (error) => retryable(classify(error), error),
    schedule: unsafeSchedule(undefined),
    unsafeSchedule,
    retriesExhausted: options.retryExhausted === true,
    description:
      attempts === 1
        ? "a single attempt"
        : `${attempts === Number.POSITIVE_INFINITY ? "any number of" : attempts} attempts, ${shape.words} up to ` +
          `${Duration.format(Duration.millis(cap))}, ${shape.jitter === "none" ? "no" : shape.jitter} jitter` +
          (options.unsentOnly === true ? ", only where nothing was sent" : ""),
    override: (overrides) =>
      build(overrides.delay === undefined ? shape : shape.withDelay(overrides.delay), {
        ...options,
        // A schedule that ends the attempts itself is gone once its waits are replaced.
        attempts:
          overrides.attempts ?? (overrides.delay !== undefined && attempts === Number.POSITIVE_INFINITY ? 3 : attempts),
        unsentOnly: overrides.unsentOnly ?? options.unsentOnly,
        classify: overrides.classify ?? options.classify,
        retryOn: overrides.retryOn ?? options.retryOn,
        stopOn: overrides.stopOn ?? options.stopOn
      })
  }
}

interface Run {
  readonly attempts: number
  readonly cap: number
  readonly retryAfterCap: number
  readonly classify: ErrorClass.Classify
  readonly retryable: (found: ErrorClass.Classification, error: unknown) => boolean
  readonly hooks: Hooks | undefined
}

interface State {
  readonly base: unknown
  readonly failed: number
  readonly previous: number
}

type Step = readonly [State, Duration.Duration, ScheduleDecision.ScheduleDecision]

const makeSchedule = (shape: Shape, run: Run): Schedule.Schedule<Duration.Duration, unknown> =>
  Schedule.makeWithState<State, unknown, Duration.Duration>(
    { base: shape.base.initial, failed: 0, previous: shape.firstDelay },
    (now, error, state) => {
      const failed = state.failed + 1
      const end: Step = [state, Duration.zero, ScheduleDecision.done]
      const found = run.classify(error)
      if (failed >= run.attempts || run.hooks?.stop(error) === true || !run.retryable(found, error)) {
        return Effect.succeed(end)
      }
      return Effect.flatMap(shape.base.step(now, error, state.base), ([base, , decision]) => {
        if (ScheduleDecision.isDone(decision)) return Effect.succeed(end)
        const planned = Math.min(run.cap, Math.max(0, ScheduleIntervals.start(decision.intervals) - now))
        const asked = askedFor(found, now)
        const wait =
          asked === undefined
            ? spread(shape, planned, state.previous, run.cap)
            : Effect.succeed(Math.min(asked, run.retryAfterCap))
        return Effect.zipWith(wait, Deadline.current, (delay, inherited): Step => {
          const deadline = Math.min(inherited, run.hooks?.deadline ?? Number.POSITIVE_INFINITY)
          if (now + delay >= deadline || run.hooks?.allow(found, now, error) === false) return end
          run.hooks?.onDelay(error, delay, failed, now)
          return [
            { base, failed, previous: delay },
            Duration.millis(delay),
            ScheduleDecision.continueWith(ScheduleInterval.after(now + delay))
          ]
        })
      })
    }
  )

/** How long the service asked us to wait, in milliseconds. */
const askedFor = (found: ErrorClass.Classification, now: number): number | undefined =>
  found.retryAfter !== undefined
    ? Duration.toMillis(found.retryAfter)
    : found.retryAt !== undefined
      ? Math.max(0, found.retryAt - now)
      : undefined

const spread = (shape: Shape, planned: number, previous: number, cap: number): Effect.Effect<number> => {
  switch (shape.jitter) {
    case "none":
      return Effect.succeed(planned)
    case "full":
      return Effect.map(Random.next, (random) => Math.round(random * planned))
    case "equal":
      return Effect.map(Random.next, (random) => Math.round(planned / 2 + (random * planned) / 2))
    case "decorrelated":
      return Effect.map(Random.next, (random) =>
        Math.min(cap, Math.round(shape.firstDelay + random * Math.max(0, previous * 3 - shape.firstDelay)))
      )
  }
}

/**
 * No second attempt.
 *
 * @since 0.1.0
 * @category constructors
 */
export const none: RetryPolicy = exponential({ attempts: 1 })
