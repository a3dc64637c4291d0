/**
 * The settings of a policy as `Config`: what is not set stays out, so that the defaults of the parts hold.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import type * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Bulkhead from "../resilience/Bulkhead.ts"
import type * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import type * as Hedge from "../resilience/Hedge.ts"
import type * as Policy from "../resilience/Policy.ts"
import type * as RateLimit from "../resilience/RateLimit.ts"
import type * as RetryBudget from "../resilience/RetryBudget.ts"
import type * as RetryPolicy from "../resilience/RetryPolicy.ts"
import type * as Throttle from "../resilience/Throttle.ts"

type Fields = Readonly<Record<string, Config.Config<unknown>>>
type Values<F extends Fields> = { readonly [K in keyof F]?: F[K] extends Config.Config<infer A> ? A : never }

/** A part of which every setting may be missing; undefined where all are, false where it is switched off. */
const part = <F extends Fields, A>(
  name: string,
  fields: F,
  make: (values: Values<F>) => Either.Either<A, ConfigError.ConfigError>
): Config.Config<A | false | undefined> =>
  Config.all([
    Config.withDefault(Config.boolean("enabled"), true),
    Config.all(Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, Config.option(field)])))
  ]).pipe(
    Config.mapOrFail(([enabled, found]): Either.Either<A | false | undefined, ConfigError.ConfigError> => {
      if (!enabled) return Either.right(false)
      const values = Object.fromEntries(
        Object.entries(found as Readonly<Record<string, Option.Option<unknown>>>).flatMap(([key, value]) =>
          Option.isSome(value) ? [[key, value.value]] : []
        )
      )
      return Object.keys(values).length === 0 ? Either.right(undefined) : make(values as Values<F>)
    }),
    Config.nested(name)
  )

const as = <A>(values: unknown): Either.Either<A, ConfigError.ConfigError> => Either.right(values as A)

const missing = (path: ReadonlyArray<string>, message: string) =>
  Either.left(ConfigError.MissingData([...path], message))

/** A duration, or `none` for no limit. */
const limit = (name: string): Config.Config<Duration.DurationInput | false> =>
  Config.orElse(
    Config.map(Config.literal("none", "false")(name), (): false => false),
    () => Config.duration(name)
  )

const jitter = Config.literal("none", "full", "equal", "decorrelated")("jitter")

const retry = part(
  "retry",
  {
    attempts: Config.integer("attempts"),
    base: Config.duration("base"),
    factor: Config.number("factor"),
    cap: Config.duration("cap"),
    retryAfterCap: Config.duration("retryAfterCap"),
    jitter,
    unsentOnly: Config.boolean("unsentOnly"),
    retryRejections: Config.boolean("retryRejections"),
    retryExhausted: Config.boolean("retryExhausted")
  },
  as<RetryPolicy.ExponentialOptions>
)

const budget = part(
  "budget",
  {
    type: Config.literal("percentage", "grpc", "aws")("type"),
    mode: Config.literal("classic", "2026")("mode"),
    ratio: Config.number("ratio"),
    minPerSecond: Config.number("minPerSecond"),
    ttl: Config.duration("ttl"),
    maxTokens: Config.number("maxTokens"),
    tokenRatio: Config.number("tokenRatio"),
    capacity: Config.integer("capacity")
  },
  (values) => as<RetryBudget.Options>({ type: "percentage", ...values })
)

const hedge = part(
  "hedge",
  {
    delay: Config.duration("delay"),
    percentile: Config.number("percentile"),
    initial: Config.duration("initial"),
    min: Config.duration("min"),
    max: Config.duration("max"),
    maxHedges: Config.integer("maxHedges")
  },
  ({ delay, initial, max, maxHedges, min, percentile }): Either.Either<Hedge.Options, ConfigError.ConfigError> => {
    if (percentile !== undefined) {
      return initial === undefined
        ? missing(["hedge", "initial"], "a percentile needs the delay until enough latencies are known")
        : Either.right({ delay: { percentile, initial, min, max }, maxHedges })
    }
    return delay === undefined
      ? missing(["hedge", "delay"], "give a delay, or a percentile with its initial delay")
      : Either.right({ delay, maxHedges })
  }
)

const throttle = part(
  "throttle",
  {
    ratio: Config.number("ratio"),
    window: Config.duration("window"),
    minimumCalls: Config.integer("minimumCalls")
  },
  as<Omit<Throttle.Options, "name">>
)

const rateLimit = part(
  "rateLimit",
  {
    limit: Config.number("limit"),
    interval: Config.duration("interval"),
    algorithm: Config.literal("gcra", "sliding-window")("algorithm"),
    burst: Config.number("burst"),
    maxWait: limit("maxWait"),
    maxQueue: Config.integer("maxQueue")
  },
  (values): Either.Either<Omit<RateLimit.Options, "name">, ConfigError.ConfigError> => {
    const { limit } = values
    return limit === undefined
      ? missing(["rateLimit", "limit"], "give how many calls there may be in an interval")
      : Either.right({ ...values, limit })
  }
)

const window = part(
  "window",
  {
    type: Config.literal("consecutive", "count", "time")("type"),
    failures: Config.integer("failures"),
    size: Config.integer("size"),
    over: Config.duration("over"),
    failureRate: Config.number("failureRate"),
    minimumCalls: Config.integer("minimumCalls")
  },
  (values): Either.Either<CircuitBreaker.Window, ConfigError.ConfigError> => {
    const { failureRate, failures, minimumCalls, over, size, type } = values
    const at = (name: string, why: string) => missing(["breaker", "window", name], why)
    if (type === undefined) return at("type", "give consecutive, count or time")
    switch (type) {
      case "consecutive":
        return failures === undefined
          ? at("failures", "give how many failures in a row open the circuit")
          : Either.right({ type, failures })
      case "count":
        return size === undefined
          ? at("size", "give how many results the window has")
          : failureRate === undefined
            ? at("failureRate", "give the part of failures that opens the circuit")
            : Either.right({ type, size, failureRate, minimumCalls })
      case "time":
        return over === undefined
          ? at("over", "give how long the window is")
          : failureRate === undefined
            ? at("failureRate", "give the part of failures that opens the circuit")
            : Either.right({ type, over, failureRate, minimumCalls })
    }
  }
)

const breaker = part(
  "breaker",
  {
    window,
    openFor: Config.duration("openFor"),
    halfOpenPermits: Config.integer("halfOpenPermits"),
    halfOpenSuccessRate: Config.number("halfOpenSuccessRate"),
    probeLease: Config.duration("probeLease"),
    slowCallDuration: Config.duration("slowCallDuration"),
    slowCallRate: Config.number("slowCallRate")
  },
  ({ window, ...rest }) =>
    as<Omit<CircuitBreaker.Options, "name">>(window === undefined || window === false ? rest : { ...rest, window })
)

const bulkhead = part(
  "bulkhead",
  {
    maxConcurrent: Config.integer("maxConcurrent"),
    algorithm: Config.literal("gradient", "vegas", "aimd")("algorithm"),
    initial: Config.integer("initial"),
    min: Config.integer("min"),
    max: Config.integer("max"),
    maxQueue: Config.integer("maxQueue"),
    maxWait: Config.duration("maxWait")
  },
  as<Omit<Bulkhead.Options, "name"> | Omit<Bulkhead.AdaptiveOptions, "name">>
)

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

export const settings: Config.Config<Policy.Settings> = Config.map(
  Config.all({
    timeout: optional(limit("timeout")),
    attemptTimeout: optional(limit("attemptTimeout")),
    retry,
    budget,
    hedge,
    throttle,
    rateLimit,
    breaker,
    bulkhead,
    metrics: optional(Config.boolean("metrics")),
    idempotent: optional(Config.boolean("idempotent"))
  }),
  (found): Policy.Settings =>
    // What is not set must not stand above what is given besides.
    Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined))
)
