/**
 * One pipeline made of the parts of this folder, for effects and streams: total deadline, retry, circuit breaker, attempt
 * timeout, the call, outermost first. Combinations that cannot work are refused when the policy is made.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import * as pipeline from "../internal/pipeline.ts"
import * as streaming from "../internal/streaming.ts"
import type * as timed from "../internal/timed.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as ErrorClass from "./ErrorClass.ts"
import * as RetryPolicy from "./RetryPolicy.ts"
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
 * What a policy itself fails with, besides the errors of what it runs.
 *
 * @since 0.1.0
 * @category errors
 */
export type PolicyError = CircuitBreaker.CircuitOpen | Timeout.CallTimeout

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What is called; named in errors. */
  readonly name: string
  /** The limit of the whole call with all its attempts and waits; false for none. 30 seconds. */
  readonly timeout?: Duration.DurationInput | false | undefined
  /** The limit of each attempt; false for none, which is the default. */
  readonly attemptTimeout?: Duration.DurationInput | false | undefined
  /** By default 3 attempts, 1 second x 2 up to 30 seconds, full jitter. False for a single attempt. */
  readonly retry?: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
  /** By default 5 failures in a row open it for 30 seconds. A breaker that is made elsewhere can be shared. False for none. */
  readonly breaker?: CircuitBreaker.CircuitBreaker | Omit<CircuitBreaker.Options, "name"> | false | undefined
  /**
   * Whether the calls may happen twice. If false, a call is made again only where it is certain that nothing was sent; a
   * policy that asks for several attempts must then say so (`retry: { unsentOnly: true }`). True.
   */
  readonly idempotent?: boolean | undefined
  /** Classifies errors, for the retry and the breaker that are made here. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
}

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
  /** Whether the call may happen twice. */
  readonly idempotent?: boolean | undefined
  /** Classifies errors for the retry of this call. */
  readonly classify?: ErrorClass.Classify | undefined
  readonly retryOn?: ((error: unknown) => boolean) | undefined
  readonly stopOn?: ((error: unknown) => boolean) | undefined
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
  /** The limit of the wait for each further element; false for none, which is the default. */
  readonly idleTimeout?: Duration.DurationInput | false | undefined
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Policy")

/**
 * @since 0.1.0
 * @category models
 */
export interface Policy {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** Runs the effect through the policy. */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: CallOptions | undefined
  ) => Effect.Effect<A, E | PolicyError, R>
  /** Runs the stream through the policy: attempts are made only before the first element. */
  readonly stream: <A, E, R>(
    stream: Stream.Stream<A, E, R>,
    options?: StreamOptions | undefined
  ) => Stream.Stream<A, E | PolicyError, R>
  readonly retry: RetryPolicy.RetryPolicy
  readonly breaker: CircuitBreaker.CircuitBreaker | undefined
  /** Work that goes on though its attempt timed out. */
  readonly orphans: Effect.Effect<Timeout.Orphans>
  /** The pipeline in words, one stage a line, outermost first. */
  readonly description: string
  /** @internal */
  readonly stages: pipeline.Stages
}

const millis = (input: Duration.DurationInput | false | undefined, otherwise: number): number =>
  input === undefined ? otherwise : input === false ? Number.POSITIVE_INFINITY : Duration.toMillis(input)

const shown = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? "none" : Duration.format(Duration.millis(value))

const problemsOf = (options: Options): ReadonlyArray<string> => {
  const found: Array<string> = []
  const total = millis(options.timeout, 30_000)
  const attempt = millis(options.attemptTimeout, Number.POSITIVE_INFINITY)
  if (!(total > 0)) found.push("timeout is not positive: give a longer one, or false for no limit")
  if (!(attempt > 0)) found.push("attemptTimeout is not positive: give a longer one, or false for no limit")
  if (attempt !== Number.POSITIVE_INFINITY && attempt > total) {
    found.push(
      `attemptTimeout (${shown(attempt)}) is longer than timeout (${shown(total)}), so it could never end an attempt: ` +
        "lower attemptTimeout or raise timeout"
    )
  }
  const retry = options.retry
  if (retry !== undefined && retry !== false && !RetryPolicy.isRetryPolicy(retry)) {
    found.push(...RetryPolicy.problems(retry))
    if (options.idempotent === false && (retry.attempts ?? 3) > 1 && retry.unsentOnly !== true) {
      found.push(
        `idempotent is false but retry allows ${retry.attempts ?? 3} attempts, so an effect could happen twice: set ` +
          "retry.unsentOnly to true (again only where nothing was sent), retry to false, or idempotent to true if the " +
          "service recognises repeated calls"
      )
    }
    const base = Duration.toMillis(retry.base ?? "1 second")
    if ((retry.attempts ?? 3) > 1 && (retry.jitter ?? "full") === "none" && base >= total) {
      found.push(
        `the first wait of retry (${shown(base)}) is not shorter than timeout (${shown(total)}), so there would never be a ` +
          "second attempt: lower retry.base or raise timeout"
      )
    }
  }
  const breaker = options.breaker
  if (breaker !== undefined && breaker !== false && !CircuitBreaker.isCircuitBreaker(breaker)) {
    found.push(...CircuitBreaker.problems({ ...breaker, name: options.name }))
    const lease = breaker.probeLease
    if (lease !== undefined && attempt !== Number.POSITIVE_INFINITY && Duration.toMillis(lease) < attempt) {
      found.push(
        `breaker.probeLease (${Duration.format(lease)}) is shorter than attemptTimeout (${shown(attempt)}), so a probe could ` +
          "lose its place while it may still run: raise probeLease or lower attemptTimeout"
      )
    }
  }
  return found
}

/**
 * Makes a policy. Fails with `PolicyInvalid` if its settings cannot work together: an attempt timeout longer than the
 * total, several attempts of a call that must not happen twice, a breaker that could never open, …
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Policy, PolicyInvalid> =>
  Effect.suspend(() => {
    const problems = problemsOf(options)
    return problems.length > 0
      ? Effect.fail(new PolicyInvalid({ policy: options.name, problems }))
      : Effect.succeed(build(options))
  })

const build = (options: Options): Policy => {
  const classify = options.classify
  const retry =
    options.retry === false
      ? RetryPolicy.none
      : RetryPolicy.isRetryPolicy(options.retry)
        ? options.retry
        : RetryPolicy.exponential({ classify, ...options.retry })
  const breaker =
    options.breaker === false
      ? undefined
      : CircuitBreaker.isCircuitBreaker(options.breaker)
        ? options.breaker
        : CircuitBreaker.unsafeMake({ classify, ...options.breaker, name: options.name })
  const orphans: timed.Orphans = { current: 0, total: 0 }
  const stages: pipeline.Stages = {
    name: options.name,
    total: millis(options.timeout, 30_000),
    attempt: millis(options.attemptTimeout, Number.POSITIVE_INFINITY),
    attemptScope: "attempt",
    retry: options.idempotent === false ? retry.override({ unsentOnly: true }) : retry,
    breaker,
    orphans
  }
  return {
    [TypeId]: TypeId,
    name: options.name,
    run: (effect, call) => pipeline.run(call === undefined ? stages : override(stages, call), effect),
    stream: (stream, call) => streaming.run(streamStages(stages, call), stream),
    retry: stages.retry,
    breaker,
    orphans: Effect.sync(() => ({ current: orphans.current, total: orphans.total })),
    description: describeStages(stages),
    stages
  }
}

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
  return { ...stages, total, attempt, retry }
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

const describeStages = (stages: pipeline.Stages): string =>
  [
    `policy "${stages.name}"`,
    `  total timeout    ${shown(stages.total)}`,
    `  retry            ${stages.retry.description}`,
    `  circuit breaker  ${stages.breaker === undefined ? "none" : stages.breaker.description}`,
    `  attempt timeout  ${shown(stages.attempt)}`,
    "  the call"
  ].join("\n")

/**
 * The pipeline in words, one stage a line, outermost first.
 *
 * @since 0.1.0
 * @category accessors
 */
export const describe = (policy: Policy): string => policy.description

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
  (
    policy: Policy,
    options?: CallOptions | undefined
  ): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | PolicyError, R>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    policy: Policy,
    options?: CallOptions | undefined
  ): Effect.Effect<A, E | PolicyError, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    policy: Policy,
    options?: CallOptions | undefined
  ): Effect.Effect<A, E | PolicyError, R> => policy.run(effect, options)
)
