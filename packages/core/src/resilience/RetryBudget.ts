/**
 * A budget for retries and hedges: however many calls fail, only so much is asked of a service on top of the calls
 * themselves. One budget can be shared by several policies, and is best shared by all that call the same service.
 *
 * Without one, three attempts a call make three times the load of a service at the very moment when it can bear least.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as machine from "../internal/resilience/retryBudget.ts"
import * as ErrorClass from "./ErrorClass.ts"
import * as RetryPolicy from "./RetryPolicy.ts"

/**
 * Retries are a part of the calls, and always some a second: Finagle's `RetryBudget`, with its defaults.
 * See https://finagle.github.io/blog/2016/02/08/retry-budgets
 *
 * @since 0.1.0
 * @category models
 */
export interface PercentageOptions {
  /** How many retries a call pays for: 0.2 is one for five calls. 0.2. */
  readonly ratio?: number | undefined
  /** Retries that are allowed in any case, for clients that call seldom or have just begun. 10. */
  readonly minPerSecond?: number | undefined
  /** For how long a call pays for retries, and how far ahead the minimum can be used up. 10 seconds. */
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * The retry throttling of gRPC: a failure takes a token, a success brings `tokenRatio` of one, and retries are allowed
 * while there are more than half of `maxTokens`. Fractions are kept to three digits.
 * See https://github.com/grpc/proposal/blob/master/A6-client-retries.md (its example has 10 and 0.1)
 *
 * @since 0.1.0
 * @category models
 */
export interface GrpcOptions {
  /** Above 0, up to 1,000. 10. */
  readonly maxTokens?: number | undefined
  /** 0.1. */
  readonly tokenRatio?: number | undefined
}

/**
 * The retry quota of the AWS SDKs' standard mode. A retry takes its cost; if it succeeds the cost comes back, and a first
 * attempt that succeeds brings `successIncrement`.
 *
 * - `classic`: 5 a retry, also where the service asked for patience, and 10 after a timeout, as in the SDKs' `RETRY_COST` and `TIMEOUT_RETRY_COST`, e.g.
 *   https://github.com/aws/aws-sdk-ruby/pull/2236
 * - `2026`: 14 a retry, a timeout being like other failures, and 5 where the service asked for patience. Announced at
 *   https://aws.amazon.com/blogs/developer/announcing-updated-retry-behavior-for-aws-sdks-and-tools/ ; figures at
 *   https://github.com/aws/aws-sdk-go-v2/pull/3400
 *
 * @since 0.1.0
 * @category models
 */
export interface AwsOptions {
  /** `2026`. */
  readonly mode?: "classic" | "2026" | undefined
  /** 500. */
  readonly capacity?: number | undefined
  /** 5 or 14. */
  readonly retryCost?: number | undefined
  /** 10 or 14. */
  readonly timeoutCost?: number | undefined
  /** 5; in `classic` what a retry costs. */
  readonly throttlingCost?: number | undefined
  /** 1. */
  readonly successIncrement?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export type Options =
  | ({ readonly type: "percentage" } & PercentageOptions)
  | ({ readonly type: "grpc" } & GrpcOptions)
  | ({ readonly type: "aws" } & AwsOptions)

/**
 * What can be seen of a budget.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  /** What is left: retries of a `percentage`, tokens of the others. */
  readonly available: number
  /** Since it was made: retries and hedges that were allowed. */
  readonly taken: number
  /** Since it was made: retries and hedges that were refused. */
  readonly refused: number
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/RetryBudget")

/**
 * @since 0.1.0
 * @category models
 */
export interface RetryBudget {
  readonly [TypeId]: typeof TypeId
  readonly snapshot: Effect.Effect<Snapshot>
  /** Changes the settings in place and keeps what is left; a budget of another kind starts full. */
  readonly reload: (options: Options) => Effect.Effect<void>
  /** @internal */
  readonly machine: machine.RetryBudget
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

const number = (
  name: string,
  value: number | undefined,
  ok: (value: number) => boolean,
  give: string
): Array<string> => (value === undefined || ok(value) ? [] : [`budget.${name} is ${value}: give ${give}`])

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Options): ReadonlyArray<string> => {
  const whole = (value: number): boolean => Number.isInteger(value) && value >= 1
  switch (options.type) {
    case "percentage": {
      const { minPerSecond = 10, ratio = 0.2 } = options
      const ttl = Duration.toMillis(options.ttl ?? "10 seconds")
      const found = [
        ...number(
          "ratio",
          ratio,
          (value) => value >= 0 && value <= 1000,
          "a number of 0 or more (0.2 is one for five)"
        ),
        ...number("minPerSecond", minPerSecond, (value) => value >= 0 && value <= 1e6, "a number of 0 or more")
      ]
      if (!(ttl >= 1000 && ttl <= 3_600_000)) found.push(`budget.ttl is ${ttl} ms: give 1 second to 1 hour`)
      if (found.length === 0 && ratio === 0 && minPerSecond === 0) {
        found.push(
          "budget.ratio and budget.minPerSecond are both 0, so nothing is ever tried again: set retry.attempts to 1"
        )
      }
      return found
    }
    case "grpc":
      return [
        ...number(
          "maxTokens",
          options.maxTokens,
          (value) => value >= 0.001 && value <= 1000,
          "a number above 0, up to 1000"
        ),
        ...number(
          "tokenRatio",
          options.tokenRatio,
          (value) => value >= 0.001 && value <= 1000,
          "a number of 0.001 or more"
        )
      ]
    case "aws": {
      const { capacity, retryCost, throttlingCost, timeoutCost } = settings(options) as Extract<
        machine.Settings,
        { readonly type: "aws" }
      >
      const costs = { retryCost, timeoutCost, throttlingCost }
      const found = [
        ...number("capacity", capacity, whole, "a whole number of 1 or more"),
        ...Object.entries(costs).flatMap(([name, cost]) => number(name, cost, whole, "a whole number of 1 or more")),
        ...number(
          "successIncrement",
          options.successIncrement,
          (value) => Number.isInteger(value) && value >= 0,
          "a whole number of 0 or more"
        )
      ]
      if (found.length > 0) return found
      return Object.entries(costs).flatMap(([name, cost]) =>
        cost > capacity
          ? [
              `budget.${name} (${cost}) is more than budget.capacity (${capacity}), so it could never be paid: raise capacity`
            ]
          : []
      )
    }
  }
}

const settings = (options: Options): machine.Settings => {
  switch (options.type) {
    case "percentage":
      return {
        type: "percentage",
        ratio: options.ratio ?? 0.2,
        minPerSecond: options.minPerSecond ?? 10,
        ttl: Duration.toMillis(options.ttl ?? "10 seconds")
      }
    case "grpc":
      return { type: "grpc", maxTokens: options.maxTokens ?? 10, tokenRatio: options.tokenRatio ?? 0.1 }
    case "aws": {
      const classic = options.mode === "classic"
      return {
        type: "aws",
        capacity: options.capacity ?? 500,
        retryCost: options.retryCost ?? (classic ? 5 : 14),
        timeoutCost: options.timeoutCost ?? (classic ? 10 : (options.retryCost ?? 14)),
        throttlingCost: options.throttlingCost ?? (classic ? (options.retryCost ?? 5) : 5),
        successIncrement: options.successIncrement ?? 1
      }
    }
  }
}

/** Names and codes that timeouts are known by. */
const timeoutTags: ReadonlySet<unknown> = new Set(["CallTimeout", "TimeoutException"])
const timeoutNames: ReadonlySet<unknown> = new Set(["TimeoutError", "RequestTimeout", "RequestTimeoutException"])
const timeoutCodes: ReadonlySet<unknown> = new Set([
  "ETIMEDOUT",
  "ESOCKETTIMEDOUT",
  "UND_ERR_CONNECT_TIMEOUT",
  "UND_ERR_HEADERS_TIMEOUT",
  "UND_ERR_BODY_TIMEOUT",
  "UND_ERR_RESPONSE_TIMEOUT"
])

const isTimeout = (error: unknown): boolean => {
  let each = error
  for (let depth = 0; depth < 8 && Predicate.isObject(each); depth++) {
    const { _tag, cause, code, name } = each as Readonly<Record<string, unknown>>
    if (timeoutTags.has(_tag) || timeoutNames.has(name) || timeoutCodes.has(code)) return true
    each = cause
  }
  return false
}

/**
 * Makes a budget of any kind, full. Settings that cannot work are defects that say what to write instead; `Policy.make`
 * reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<RetryBudget> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.succeed(unsafeMake(options))
      : Effect.dieMessage(`RetryBudget: ${wrong.join("; ")}`)
  })

/** @internal */
export const unsafeMake = (options: Options): RetryBudget => new Live(options)

/**
 * A part of the calls and some a second: by default one retry for five calls, and 10 a second.
 *
 * @since 0.1.0
 * @category constructors
 */
export const percentage = (options?: PercentageOptions): Effect.Effect<RetryBudget> =>
  make({ ...options, type: "percentage" })

/**
 * gRPC's retry throttling: by default 10 tokens, a tenth of one for each success.
 *
 * @since 0.1.0
 * @category constructors
 */
export const grpc = (options?: GrpcOptions): Effect.Effect<RetryBudget> => make({ ...options, type: "grpc" })

/**
 * The AWS SDKs' retry quota: by default 500 tokens and the costs of 2026.
 *
 * @since 0.1.0
 * @category constructors
 */
export const aws = (options?: AwsOptions): Effect.Effect<RetryBudget> => make({ ...options, type: "aws" })

class Live implements RetryBudget {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly machine: machine.RetryBudget

  constructor(options: Options) {
    this.machine = new machine.RetryBudget(settings(options), isTimeout)
  }

  get description(): string {
    const found = this.machine.settings
    if (found.type === "percentage") {
      return `${Math.round(found.ratio * 1000) / 10} % of the calls and ${found.minPerSecond} a second`
    }
    if (found.type === "grpc") {
      return (
        `while more than half of ${found.maxTokens} tokens are left ` +
        `(a failure takes 1, a success brings ${found.tokenRatio})`
      )
    }
    return (
      `${found.capacity} tokens (a retry takes ${found.retryCost}, after a timeout ${found.timeoutCost}, ` +
      `after a rate limit ${found.throttlingCost})`
    )
  }

  get snapshot(): Effect.Effect<Snapshot> {
    return Effect.map(Clock.currentTimeMillis, (now) => ({
      available: this.machine.available(now),
      taken: this.machine.taken,
      refused: this.machine.refused
    }))
  }

  reload(options: Options): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const wrong = problems(options)
      return wrong.length === 0
        ? Effect.sync(() => this.machine.reload(settings(options), now))
        : Effect.dieMessage(`RetryBudget: ${wrong.join("; ")}`)
    })
  }
}

/**
 * Whether it is a budget.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRetryBudget = (u: unknown): u is RetryBudget => typeof u === "object" && u !== null && TypeId in u

/**
 * @since 0.1.0
 * @category models
 */
export interface RetryOptions<E, R> {
  readonly budget: RetryBudget
  /** When to try again, and until when. By default that of `RetryPolicy.exponential()`. */
  readonly schedule?: Schedule.Schedule<unknown, E, R> | undefined
  /** Classifies errors. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
}

/**
 * `Effect.retry` that ends when the budget is empty as well as when the schedule does, and pays into the budget what the
 * effect earns. For use without a `Policy`, which has a budget among its settings.
 *
 * @since 0.1.0
 * @category combinators
 */
export const retry: {
  <E, R2 = never>(
    options: RetryOptions<NoInfer<E>, R2>
  ): <A, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <A, E, R, R2 = never>(
    effect: Effect.Effect<A, E, R>,
    options: RetryOptions<NoInfer<E>, R2>
  ): Effect.Effect<A, E, R | R2>
} = dual(
  2,
  <A, E, R, R2 = never>(effect: Effect.Effect<A, E, R>, options: RetryOptions<E, R2>): Effect.Effect<A, E, R | R2> =>
    Effect.flatMap(Clock.currentTimeMillis, (started) => {
      const budget = options.budget.machine
      const classify = options.classify ?? ErrorClass.classify
      const schedule: Schedule.Schedule<unknown, E, R2> =
        options.schedule ?? RetryPolicy.exponential({ classify }).schedule
      let taken = 0
      budget.called(started)
      const counted = Effect.tapBoth(effect, {
        onFailure: (error) => Effect.map(Clock.currentTimeMillis, (now) => budget.failed(now, classify(error))),
        onSuccess: () => Effect.map(Clock.currentTimeMillis, (now) => budget.succeeded(now, taken))
      })
      return Effect.retry(
        counted,
        Schedule.checkEffect(schedule, (error) =>
          Effect.map(Clock.currentTimeMillis, (now) => {
            taken = budget.take(now, classify(error), error)
            return taken > 0
          })
        )
      )
    })
)
