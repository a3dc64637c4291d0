/**
 * The settings of a policy as `Config`: what is not set stays out, so that the defaults of the parts hold. Each list of
 * fields is checked against the options of its part, so that no setting of a part can be forgotten here.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Bulkhead from "../../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import * as Hedge from "../../resilience/Hedge.ts"
import * as RateLimit from "../../resilience/RateLimit.ts"
import * as RetryBudget from "../../resilience/RetryBudget.ts"
import * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import * as Throttle from "../../resilience/Throttle.ts"
import type { Options, Settings } from "./policyOptions.ts"

type Fields = Readonly<Record<string, Config.Config<unknown>>>
/** One field for each of these settings. */
type FieldsOf<Name extends PropertyKey> = Readonly<Record<Name & string, Config.Config<unknown>>>
type Values<F extends Fields> = {
  readonly [K in keyof F]?: F[K] extends Config.Config<infer A> ? Exclude<A, undefined> : never
}
type Found<A> = Either.Either<A, ConfigError.ConfigError>

/** What is code, or says which of several kinds it is. */
type NotData = "name" | "classify"

// -------------------------------------------------------------------------------------------------------------------
// values
// -------------------------------------------------------------------------------------------------------------------

/** Undefined where it is not set. */
const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const number = (name: string) => optional(Config.number(name))
const integer = (name: string) => optional(Config.integer(name))
const boolean = (name: string) => optional(Config.boolean(name))

const oneOf = <const Names extends readonly [string, ...ReadonlyArray<string>]>(name: string, ...names: Names) =>
  optional(Config.literal<Names>(...names)(name))

/** A text of which something is made; undefined where that cannot be. */
const parsed = <A>(name: string, expected: string, parse: (text: string) => A | undefined): Config.Config<A> =>
  Config.mapOrFail(Config.string(name), (text): Found<A> => {
    const value = parse(text.trim())
    return value === undefined ? Either.left(ConfigError.InvalidData([], `expected ${expected}`)) : Either.right(value)
  })

// No figures: messages are shown without the text that was found, wherever it occurs in them.
const durationWords = "a duration, which is a number and its unit (millis, seconds, minutes, hours or days)"

/** A negative one would be read as none at all. */
const durationOf = (text: string): Duration.Duration | undefined =>
  text.startsWith("-") ? undefined : Option.getOrUndefined(Duration.decodeUnknown(text))

const requiredDuration = (name: string): Config.Config<Duration.Duration> => parsed(name, durationWords, durationOf)

const duration = (name: string) => optional(requiredDuration(name))

/** A duration, or `none` for no limit. */
const limit = (name: string) =>
  optional(
    parsed(name, `${durationWords}, or none`, (text): Duration.Duration | false | undefined =>
      text === "none" || text === "false" ? false : durationOf(text)
    )
  )

/** A whole number, or `unlimited`. */
const amount = (name: string) =>
  optional(
    parsed(name, "a whole number, or unlimited", (text) =>
      text === "unlimited" ? Number.POSITIVE_INFINITY : /^[+-]?\d+$/.test(text) ? Number(text) : undefined
    )
  )

// -------------------------------------------------------------------------------------------------------------------
// tables
// -------------------------------------------------------------------------------------------------------------------

/** What is set of the fields. */
const values = <F extends Fields>(fields: F): Config.Config<Values<F>> =>
  Config.map(
    Config.all(fields),
    (found) => Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined)) as Values<F>
  )

const isEmpty = (found: object): boolean => Object.keys(found).length === 0

/** A table of settings; undefined where none of them is set. */
const table = <F extends Fields, A>(
  name: string,
  fields: F,
  make: (found: Values<F>) => Found<A>
): Config.Config<A | undefined> =>
  Config.nested(
    Config.mapOrFail(
      values(fields),
      (found): Found<A | undefined> => (isEmpty(found) ? Either.right(undefined) : make(found))
    ),
    name
  )

/** A part of the policy: undefined where nothing is set, false where it is switched off. */
const part = <F extends Fields, A>(
  name: string,
  fields: F,
  make: (found: Values<F>) => Found<A>
): Config.Config<A | false | undefined> =>
  Config.nested(
    Config.mapOrFail(
      Config.all({ enabled: boolean("enabled"), found: values(fields) }),
      ({ enabled, found }): Found<A | false | undefined> =>
        enabled === false
          ? Either.right(false)
          : enabled === undefined && isEmpty(found)
            ? Either.right(undefined)
            : make(found)
    ),
    name
  )

/** A setting that is one duration or a table. */
const durationOr = <A>(name: string, other: Config.Config<A | undefined>) =>
  Config.all({
    single: optional(
      // That it is a table is no mistake; what else is wrong with it is.
      Config.orElseIf(requiredDuration(name), {
        if: (error) => error._op === "InvalidData" && /\ba table\b/.test(error.message),
        orElse: () => Config.succeed(undefined)
      })
    ),
    table: other
  })

const missing = (name: string, message: string) => Either.left(ConfigError.MissingData([name], message))

/** Settings that mean nothing beside the others would be passed over in silence. */
const meaningless = (
  found: object,
  names: ReadonlyArray<string>,
  why: string
): Either.Either<void, ConfigError.ConfigError> => {
  const errors = names
    .filter((name) => name in found)
    .map((name) => ConfigError.InvalidData([name], `it has no meaning ${why}: leave it out`))
  const [first, ...rest] = errors
  return first === undefined
    ? Either.void
    : Either.left(rest.reduce<ConfigError.ConfigError>((left, right) => ConfigError.And(left, right), first))
}

// -------------------------------------------------------------------------------------------------------------------
// parts
// -------------------------------------------------------------------------------------------------------------------

const retry = part(
  "retry",
  {
    attempts: amount("attempts"),
    base: duration("base"),
    factor: number("factor"),
    cap: duration("cap"),
    retryAfterCap: duration("retryAfterCap"),
    jitter: oneOf("jitter", "none", "full", "equal", "decorrelated"),
    unsentOnly: boolean("unsentOnly"),
    retryRejections: boolean("retryRejections"),
    retryExhausted: boolean("retryExhausted")
  } satisfies FieldsOf<Exclude<keyof RetryPolicy.ExponentialOptions, NotData | "retryOn" | "stopOn" | "budget">>,
  (found): Found<RetryPolicy.ExponentialOptions> => Either.right(found)
)

const percentage = {
  ratio: number("ratio"),
  minPerSecond: number("minPerSecond"),
  ttl: duration("ttl")
} satisfies FieldsOf<keyof RetryBudget.PercentageOptions>

const grpc = {
  maxTokens: number("maxTokens"),
  tokenRatio: number("tokenRatio")
} satisfies FieldsOf<keyof RetryBudget.GrpcOptions>

const aws = {
  mode: oneOf("mode", "classic", "2026"),
  capacity: integer("capacity"),
  retryCost: integer("retryCost"),
  timeoutCost: integer("timeoutCost"),
  throttlingCost: integer("throttlingCost"),
  successIncrement: integer("successIncrement")
} satisfies FieldsOf<keyof RetryBudget.AwsOptions>

const budgetFields = { percentage, grpc, aws }

const budget = part(
  "budget",
  { type: oneOf("type", "percentage", "grpc", "aws"), ...percentage, ...grpc, ...aws },
  (found): Found<RetryBudget.Options> => {
    const { type = "percentage", ...rest } = found
    const others = Object.values(budgetFields)
      .flatMap((fields) => Object.keys(fields))
      .filter((name) => !(name in budgetFields[type]))
    return Either.map(meaningless(found, others, `in a budget of type ${type}`), () => ({ ...rest, type }))
  }
)

const percentile = table(
  "delay",
  {
    percentile: number("percentile"),
    initial: duration("initial"),
    min: duration("min"),
    max: duration("max"),
    minimumSamples: integer("minimumSamples"),
    halfLife: duration("halfLife")
  } satisfies FieldsOf<keyof Hedge.PercentileDelay>,
  (found): Found<Hedge.PercentileDelay> =>
    found.percentile === undefined
      ? missing("percentile", "give which part of the calls is faster, or a duration in place of the table")
      : found.initial === undefined
        ? missing("initial", "give the delay until enough latencies are known")
        : Either.right({ ...found, percentile: found.percentile, initial: found.initial })
)

const hedge = part(
  "hedge",
  {
    delay: Config.map(durationOr("delay", percentile), ({ single, table }) => table ?? single),
    maxHedges: integer("maxHedges")
  } satisfies FieldsOf<keyof Hedge.Options>,
  (found): Found<Hedge.Options> =>
    found.delay === undefined
      ? missing("delay", "give a duration, or a percentile with its initial delay")
      : Either.right({ ...found, delay: found.delay })
)

const throttle = part(
  "throttle",
  {
    ratio: number("ratio"),
    window: duration("window"),
    minimumCalls: integer("minimumCalls"),
    maxProbability: number("maxProbability")
  } satisfies FieldsOf<Exclude<keyof Throttle.Options, NotData | "accepted">>,
  (found): Found<Omit<Throttle.Options, "name">> => Either.right(found)
)

const rateLimit = part(
  "rateLimit",
  {
    limit: number("limit"),
    interval: duration("interval"),
    algorithm: oneOf("algorithm", "gcra", "sliding-window"),
    burst: integer("burst"),
    maxWait: limit("maxWait"),
    maxQueue: amount("maxQueue")
  } satisfies FieldsOf<Exclude<keyof RateLimit.Options, NotData>>,
  (found): Found<Omit<RateLimit.Options, "name">> =>
    found.limit === undefined
      ? missing("limit", "give how many calls there may be in an interval")
      : Either.right({ ...found, limit: found.limit })
)

type WindowOf<Type> = Extract<CircuitBreaker.Window, { readonly type: Type }>

const rate = { failureRate: number("failureRate"), minimumCalls: integer("minimumCalls") }

const windowFields = {
  consecutive: { failures: integer("failures") } satisfies FieldsOf<Exclude<keyof WindowOf<"consecutive">, "type">>,
  count: {
    size: integer("size"),
    ...rate
  } satisfies FieldsOf<Exclude<keyof WindowOf<"count">, "type">>,
  time: {
    over: duration("over"),
    ...rate,
    buckets: integer("buckets")
  } satisfies FieldsOf<Exclude<keyof WindowOf<"time">, "type">>
}

const window = table(
  "window",
  {
    type: oneOf("type", "consecutive", "count", "time"),
    ...windowFields.consecutive,
    ...windowFields.count,
    ...windowFields.time
  },
  (found): Found<CircuitBreaker.Window> => {
    const { buckets, failureRate, failures, minimumCalls, over, size, type } = found
    if (type === undefined) return missing("type", "give consecutive, count or time")
    const own: ReadonlyArray<string> = ["type", ...Object.keys(windowFields[type])]
    const checked = meaningless(
      found,
      Object.keys(found).filter((name) => !own.includes(name)),
      `in a window of type ${type}`
    )
    return Either.flatMap(checked, (): Found<CircuitBreaker.Window> => {
      if (type === "consecutive") {
        return failures === undefined
          ? missing("failures", "give how many failures in a row open the circuit")
          : Either.right({ type, failures })
      }
      if (failureRate === undefined) return missing("failureRate", "give the part of failures that opens the circuit")
      if (type === "count") {
        return size === undefined
          ? missing("size", "give how many results the window has")
          : Either.right({ type, size, failureRate, minimumCalls })
      }
      return over === undefined
        ? missing("over", "give how long the window is")
        : Either.right({ type, over, failureRate, minimumCalls, buckets })
    })
  }
)

const growing = table(
  "openFor",
  {
    initial: duration("initial"),
    factor: number("factor"),
    max: duration("max")
  } satisfies FieldsOf<keyof CircuitBreaker.Growing>,
  Either.right
)

const openFor = Config.mapOrFail(
  durationOr("openFor", growing),
  ({ single, table }): Found<Duration.Duration | CircuitBreaker.Growing | undefined> => {
    if (table === undefined) return Either.right(single)
    // A higher source may give the one, a lower one the other.
    const initial = table.initial ?? single
    return initial === undefined
      ? Either.left(ConfigError.MissingData(["openFor", "initial"], "give how long it is open the first time"))
      : Either.right({ ...table, initial })
  }
)

const rampUp = table(
  "rampUp",
  {
    over: duration("over"),
    from: number("from")
  } satisfies FieldsOf<keyof NonNullable<CircuitBreaker.Options["rampUp"]>>,
  ({ from, over }): Found<NonNullable<CircuitBreaker.Options["rampUp"]>> =>
    over === undefined
      ? missing("over", "give how long it takes until all calls pass")
      : from === undefined
        ? missing("from", "give the part of calls that passes at first")
        : Either.right({ over, from })
)

const breaker = part(
  "breaker",
  {
    window,
    openFor,
    openJitter: number("openJitter"),
    retryAfterCap: duration("retryAfterCap"),
    halfOpenPermits: integer("halfOpenPermits"),
    halfOpenSuccessRate: number("halfOpenSuccessRate"),
    probeLease: duration("probeLease"),
    rampUp,
    slowCallDuration: duration("slowCallDuration"),
    slowCallRate: number("slowCallRate")
  } satisfies FieldsOf<Exclude<keyof CircuitBreaker.Options, NotData | "counts" | "random">>,
  (found): Found<Omit<CircuitBreaker.Options, "name">> => Either.right(found)
)

const queue = { maxQueue: integer("maxQueue"), maxWait: duration("maxWait") } satisfies FieldsOf<
  Exclude<keyof Bulkhead.QueueOptions, NotData>
>

const adaptive = {
  algorithm: oneOf("algorithm", "gradient", "vegas", "aimd"),
  initial: integer("initial"),
  min: integer("min"),
  max: integer("max"),
  window: duration("window"),
  minimumSamples: integer("minimumSamples"),
  smoothing: number("smoothing"),
  tolerance: number("tolerance"),
  backoff: number("backoff"),
  probeEvery: duration("probeEvery")
} satisfies FieldsOf<Exclude<keyof Bulkhead.AdaptiveOptions, keyof Bulkhead.QueueOptions>>

const bulkhead = part(
  "bulkhead",
  {
    maxConcurrent: integer("maxConcurrent"),
    ...queue,
    ...adaptive
  } satisfies FieldsOf<Exclude<keyof Bulkhead.Options, NotData>>,
  (found): Found<Omit<Bulkhead.Options, "name"> | Omit<Bulkhead.AdaptiveOptions, "name">> => {
    const { algorithm } = found
    return algorithm === undefined
      ? Either.map(meaningless(found, Object.keys(adaptive), "without an algorithm"), () => found)
      : Either.map(meaningless(found, ["maxConcurrent"], "beside an algorithm, which has min and max"), () => ({
          ...found,
          algorithm
        }))
  }
)

const settingsFields = {
  timeout: limit("timeout"),
  attemptTimeout: limit("attemptTimeout"),
  retry,
  budget,
  hedge,
  throttle,
  rateLimit,
  breaker,
  bulkhead,
  metrics: boolean("metrics"),
  idempotent: boolean("idempotent")
} satisfies FieldsOf<keyof Settings>

// What is not set must not stand above what is given besides.
export const settings: Config.Config<Settings> = values(settingsFields)

// -------------------------------------------------------------------------------------------------------------------
// over the code
// -------------------------------------------------------------------------------------------------------------------

/** One part, as configuration has it over the code. */
const partOver = <Part extends object, Settings extends object>(
  code: Part | Settings | false | undefined,
  found: Part | Settings | false | undefined,
  is: (u: unknown) => u is Part,
  kept: (code: Settings, found: Settings) => Partial<Settings> = (code) => code
): Part | Settings | false | undefined => {
  if (found === false) return false
  if (found === undefined || is(code)) return code
  if (is(found) || code === undefined || code === false) return found
  return { ...kept(code, found), ...found }
}

type BulkheadSettings = Omit<Bulkhead.Options, "name"> | Omit<Bulkhead.AdaptiveOptions, "name">

/** What both kinds of bulkheads have, where the kind changes. */
const bulkheadKept = (code: BulkheadSettings, found: BulkheadSettings): Partial<BulkheadSettings> => {
  const changes = "algorithm" in code ? "maxConcurrent" in found : "algorithm" in found
  if (!changes) return code
  const { classify, maxQueue, maxWait } = code
  return { classify, maxQueue, maxWait }
}

/** The options of the code with what configuration says in place of theirs. */
export const over = (code: Options, found: Settings): Options => ({
  ...code,
  ...found,
  retry: partOver<RetryPolicy.RetryPolicy, RetryPolicy.ExponentialOptions>(
    code.retry,
    found.retry,
    RetryPolicy.isRetryPolicy
  ),
  budget: partOver<RetryBudget.RetryBudget, RetryBudget.Options>(
    code.budget,
    found.budget,
    RetryBudget.isRetryBudget,
    (code, found) => (code.type === found.type ? code : {})
  ),
  hedge: partOver<Hedge.Hedge, Hedge.Options>(code.hedge, found.hedge, Hedge.isHedge),
  throttle: partOver<Throttle.Throttle, Omit<Throttle.Options, "name">>(
    code.throttle,
    found.throttle,
    Throttle.isThrottle
  ),
  rateLimit: partOver<RateLimit.RateLimit, Omit<RateLimit.Options, "name">>(
    code.rateLimit,
    found.rateLimit,
    RateLimit.isRateLimit
  ),
  breaker: partOver<CircuitBreaker.CircuitBreaker, Omit<CircuitBreaker.Options, "name">>(
    code.breaker,
    found.breaker,
    CircuitBreaker.isCircuitBreaker
  ),
  bulkhead: partOver<Bulkhead.Bulkhead, BulkheadSettings>(
    code.bulkhead,
    found.bulkhead,
    Bulkhead.isBulkhead,
    bulkheadKept
  )
})
