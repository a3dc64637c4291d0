/**
 * Rate limits that processes share: typed limiters over one backend, judged by the backend's clock in whole numbers, so
 * that nothing drifts and no limit is exceeded however many processes ask. A port of the internal plane: nothing is
 * emitted per operation. For a limit of one process, with waiting in turn, there is `RateLimit`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as machine from "../internal/rateLimiter.ts"
import * as Ttl from "../internal/ttl.ts"
import * as Deadline from "../resilience/Deadline.ts"
import * as RateLimit from "../resilience/RateLimit.ts"

/**
 * Why a limiter could not do what it was asked.
 *
 * - `InvalidOptions`: a limiter's name or limits cannot be.
 * - `InvalidKey`, `InvalidCost`: the argument of a call cannot be accepted; nothing was sent.
 * - `CostExceedsLimit`: the cost is more than could ever pass at once; nothing was sent.
 * - `Unavailable`, `Timeout`: the backend cannot be reached, or did not answer in time.
 * - `Rejected`: the backend answered with a refusal.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidOptions",
  "InvalidKey",
  "InvalidCost",
  "CostExceedsLimit",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a limiter: not that something is refused, which is an answer. `outcome` says whether the cost can have been
 * taken. The message never holds a key.
 *
 * @since 0.1.0
 * @category errors
 */
export class RateLimiterError extends Schema.TaggedError<RateLimiterError>("@underlay/core/state/RateLimiterError")(
  "RateLimiterError",
  {
    reason: Reason,
    method: Schema.String,
    description: Schema.String,
    outcome: Schema.Literal("not-done", "unknown"),
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `RateLimiter.${this.method}: ${this.description}${unknown}`
  }

  /** Whether the same call can be made again. A `consume` whose outcome is unknown cannot: it could take twice. */
  get isRetryable(): boolean {
    if (this.reason !== "Unavailable" && this.reason !== "Timeout") return false
    return this.outcome === "not-done" || this.method !== "consume"
  }
}

/**
 * How a limit is measured.
 *
 * - `sliding-window` (default): a log of what passed. Never more than `limit` in any `interval`, whenever it begins; up to
 *   all of it at once. A limit of up to 1,024 is kept to the microsecond, with one entry for each call; of a larger one
 *   the log has 1,024 parts, each of which counts until its end is over, so that what is used up comes back by up to a
 *   thousandth of the interval later.
 * - `fixed-window`: a count that begins with a key's first call and begins anew after `interval`. The cheapest. Up to twice
 *   `limit` can pass in one `interval` that lies over the border of two windows.
 * - `token-bucket`: a bucket of `burst` tokens (default: `limit`), refilled evenly with `limit` in each `interval`. At most
 *   `limit + burst - 1` in any `interval`.
 * - `gcra`: the generic cell rate algorithm, which spreads calls evenly: 10 a second are one every 100 ms. The arithmetic
 *   is that of the token bucket, but `burst` is 1 unless given, and then it is never more than `limit` in any `interval`.
 *   So strict, it gives nobody back the time by which he comes late: the full rate needs a burst of 2 or more.
 *   See https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
 *
 * @since 0.1.0
 * @category models
 */
export type Algorithm = "sliding-window" | "fixed-window" | "token-bucket" | "gcra"

/**
 * One limit.
 *
 * @since 0.1.0
 * @category models
 */
export interface Limit {
  /** How much may pass in an interval, a whole number. */
  readonly limit: number
  /** At least a millisecond, at most ten years. */
  readonly interval: Duration.DurationInput
  /** `sliding-window`. */
  readonly algorithm?: Algorithm | undefined
  /** With `token-bucket` and `gcra`: how much may pass at once after a quiet time. */
  readonly burst?: number | undefined
}

/**
 * What a limiter answers while its backend is away.
 *
 * - `fail` (default): the typed error.
 * - `allow`: all passes, for limits that are there for fairness.
 * - `deny`: nothing passes, for limits that guard something: come again in a second.
 * - `local`: what a limiter inside this process says, with the same limits times `localShare`.
 *
 * @since 0.1.0
 * @category models
 */
export type OnUnavailable = "fail" | "allow" | "deny" | "local"

/**
 * What all limiters can be told.
 *
 * @since 0.1.0
 * @category models
 */
export interface CommonOptions {
  /** What was used up of a key is kept at `ratelimit:<name>:<key>`. Letters, digits, `.`, `_` and `-`. */
  readonly name: string
  /** `fail`. */
  readonly onUnavailable?: OnUnavailable | undefined
  /**
   * With `local`: which part of the limits one process may use while the backend is away, above 0 and at most 1. With
   * four processes 0.25 keeps them together within the limit. The result is rounded down, to 1 at the least. Default: 1.
   */
  readonly localShare?: number | undefined
  /**
   * How many refused keys this process remembers: until the time of their `retryAfter` they are refused without asking the
   * backend, which then costs a flood nothing. A `reset` by another process is not seen so long. Default: 0, none.
   */
  readonly rememberRefused?: number | undefined
}

/**
 * Options of a limiter with one limit.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends CommonOptions, Limit {}

/**
 * Options of a limiter with several limits.
 *
 * @since 0.1.0
 * @category models
 */
export interface AllOptions extends CommonOptions {
  readonly limits: ReadonlyArray<Limit>
}

/**
 * How one limit stands. Durations are whole milliseconds, rounded up: what is done after them is not too early.
 *
 * @since 0.1.0
 * @category models
 */
export interface LimitState {
  /** How much can pass at once after a quiet time: the limit, or the burst. */
  readonly limit: number
  readonly interval: Duration.Duration
  /** How much could pass at once now; of a `consume` that was allowed, afterwards. */
  readonly remaining: number
  /** When the same cost could pass, if nothing else does. Zero where it could now. */
  readonly retryAfter: Duration.Duration
  /** When nothing is used up any more, if nothing else passes. */
  readonly resetAfter: Duration.Duration
}

/**
 * What a limiter answers. `limit`, `interval`, `remaining` and `resetAfter` are those of the limit that binds: of several
 * the one that refuses for the longest time, or else the one with the least left. `retryAfter` is that of all of them.
 *
 * @since 0.1.0
 * @category models
 */
export interface Decision extends LimitState {
  /** Whether it may pass. Of a `consume`: whether the cost was taken, of every limit; otherwise none was. */
  readonly allowed: boolean
  /** Every limit, in the order of the options. */
  readonly limits: ReadonlyArray<LimitState>
  /**
   * Who said so: the backend; this process, because it remembers the backend's refusal (`memory`) or because the backend
   * is away (`local`); nobody, because the backend is away (`assumed`).
   */
  readonly source: "backend" | "memory" | "local" | "assumed"
}

/**
 * Plain counters of a limiter since it was made, read on demand.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly allowed: number
  readonly refused: number
  /** Of those refused: without asking the backend, because the refusal was remembered. */
  readonly remembered: number
  /** Calls that the backend failed. */
  readonly unavailable: number
}

/**
 * A limiter: its limits, for any number of keys.
 *
 * @since 0.1.0
 * @category models
 */
export interface Limiter {
  readonly name: string
  /**
   * Takes the cost (default: 1) of every limit of the key if all of them let it pass, or of none. A cost of 0 takes
   * nothing and is always allowed: it shows how the key stands.
   */
  readonly consume: (key: string, cost?: number) => Effect.Effect<Decision, RateLimiterError>
  /** What `consume` would answer now, without taking anything. */
  readonly peek: (key: string, cost?: number) => Effect.Effect<Decision, RateLimiterError>
  /** Forgets what was used up of a key, and says whether there was something. Fails while the backend is away. */
  readonly reset: (key: string) => Effect.Effect<boolean, RateLimiterError>
  readonly stats: Effect.Effect<Stats>
}

/**
 * A limit as adapters see it. All durations are in microseconds, all numbers are whole.
 *
 * - `window`: counts from the first cost on for `interval`, then anew.
 * - `log`: keeps what passed for `interval`. What passes within one `grain` is one entry, as of the end of the grain.
 * - `bucket`: one of cost fills in `perCost`, and each `tick` microseconds drain `perTick`; it holds `capacity`.
 *
 * @since 0.1.0
 * @category models
 */
export type Meter = machine.Meter

/**
 * How a meter stands, in microseconds: `remaining` after the cost was taken, or as it is; `retryAfter`, 0 where the cost
 * could pass; `resetAfter`, 0 where nothing is used up.
 *
 * @since 0.1.0
 * @category models
 */
export type Verdict = machine.Verdict

/**
 * What a backend is asked: `meters[n]` is kept at `keys[n]`, and all of them are judged in one moment. `take`: the cost is
 * taken of all if each lets it pass. A cost of 0 always passes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Request {
  readonly keys: ReadonlyArray<string>
  readonly meters: ReadonlyArray<Meter>
  readonly cost: number
  readonly take: boolean
}

/**
 * What a backend answers: its clock in microseconds, and each meter's verdict.
 *
 * @since 0.1.0
 * @category models
 */
export interface Judgement {
  readonly at: number
  readonly verdicts: ReadonlyArray<Verdict>
}

/**
 * What keeps the meters. Several keys of one request differ only in what follows a common part in braces, which puts them
 * on one node of a cluster.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /** The method in its errors is `consume`, or `peek` where nothing is to be taken. */
  readonly judge: (request: Request) => Effect.Effect<Judgement, RateLimiterError>
  /** Forgets these keys; whether there was any. */
  readonly reset: (keys: ReadonlyArray<string>) => Effect.Effect<boolean, RateLimiterError>
}

/**
 * The backend of an application's limiters.
 *
 * @since 0.1.0
 * @category tags
 */
export class RateLimiter extends Context.Tag("@underlay/core/RateLimiter")<RateLimiter, Backend>() {}

/**
 * Makes a limiter with one limit. Fails with `InvalidOptions` on options that cannot be.
 *
 * ```ts
 * const logins = yield* RateLimiter.make({ name: "logins", limit: 5, interval: "1 minute" })
 * const { allowed, retryAfter } = yield* logins.consume(address)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Limiter, RateLimiterError, RateLimiter> =>
  Effect.flatMap(RateLimiter, (backend) => makeLimiter(backend, options, [options]))

/**
 * Makes a limiter with several limits, which takes of all of them or of none: 10 a second and 1,000 an hour. No two can
 * have both algorithm and interval in common.
 *
 * @since 0.1.0
 * @category constructors
 */
export const all = (options: AllOptions): Effect.Effect<Limiter, RateLimiterError, RateLimiter> =>
  Effect.flatMap(RateLimiter, (backend) => makeLimiter(backend, options, options.limits))

/**
 * A class that is at once the tag of a limiter and has its layer.
 *
 * ```ts
 * class Logins extends RateLimiter.tag("app/Logins", { name: "logins", limit: 5, interval: "1 minute" })<Logins>() {}
 * const program = Effect.flatMap(Logins, (logins) => logins.consume(address)).pipe(Effect.provide(Logins.layer))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string>(id: Id, options: Options | AllOptions) =>
  <Self>(): LimiterTag<Self, Id> => {
    const base = Context.Tag(id)<Self, Limiter>()
    // a getter, so that the layer is of the class that extends this one
    const descriptor: PropertyDescriptor & ThisType<Context.Tag<Self, Limiter>> = {
      get() {
        return Layer.effect(this, "limits" in options ? all(options) : make(options))
      }
    }
    Reflect.defineProperty(base, "layer", descriptor)
    return base as LimiterTag<Self, Id>
  }

/**
 * The class that `tag` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface LimiterTag<Self, Id extends string> extends Context.TagClass<Self, Id, Limiter> {
  readonly layer: Layer.Layer<Self, RateLimiterError, RateLimiter>
}

/**
 * Settings of `run`.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunOptions {
  readonly key: string
  /** 1. */
  readonly cost?: number | undefined
  /**
   * How long to wait for the limit, asking again whenever something could pass; who asks first then gets it. Never past
   * the deadline of the caller. Default: not at all.
   */
  readonly maxWait?: Duration.DurationInput | undefined
}

/**
 * Runs the effect if the limiter lets it pass; otherwise fails with the `RateLimitExceeded` of `RateLimit`, which is
 * classified `rate-limited` and says when to come again.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (
    limiter: Limiter,
    options: RunOptions
  ): <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | RateLimiterError | RateLimit.RateLimitExceeded, R>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    limiter: Limiter,
    options: RunOptions
  ): Effect.Effect<A, E | RateLimiterError | RateLimit.RateLimitExceeded, R>
} = dual(
  3,
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    limiter: Limiter,
    options: RunOptions
  ): Effect.Effect<A, E | RateLimiterError | RateLimit.RateLimitExceeded, R> =>
    Effect.zipRight(pass(limiter, options), effect)
)

/**
 * What to tell a client of HTTP, with names in lower case: `retry-after` where it was refused, and how the limit stands:
 *
 * - draft 6 (default): `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`, as most clients read them
 * - draft 8: `ratelimit` and `ratelimit-policy`, with every limit, as structured fields
 *
 * Seconds are whole, rounded up. See https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
 *
 * @since 0.1.0
 * @category combinators
 */
export const headers = (
  decision: Decision,
  options?: { readonly draft?: 6 | 8 | undefined }
): Readonly<Record<string, string>> => {
  const refused: Record<string, string> = decision.allowed ? {} : { "retry-after": `${seconds(decision.retryAfter)}` }
  if (options?.draft !== 8) {
    return {
      ...refused,
      "ratelimit-limit": `${decision.limit}`,
      "ratelimit-remaining": `${decision.remaining}`,
      "ratelimit-reset": `${seconds(decision.resetAfter)}`
    }
  }
  const names = decision.limits.map((_, index) => (decision.limits.length === 1 ? '"default"' : `"${index + 1}"`))
  return {
    ...refused,
    ratelimit: decision.limits
      .map(({ remaining, resetAfter }, index) => `${names[index]};r=${remaining};t=${seconds(resetAfter)}`)
      .join(", "),
    "ratelimit-policy": decision.limits
      .map(({ interval, limit }, index) => `${names[index]};q=${limit};w=${seconds(interval)}`)
      .join(", ")
  }
}

/**
 * Options of the backend inside this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemoryOptions {
  /** Keys that are kept; what was used up of the one asked for least recently is forgotten first. Default: 100,000. */
  readonly capacity?: number | undefined
}

/**
 * A backend inside this process, by the monotonic part of `Clock`. As a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory = (options: MemoryOptions = {}): Effect.Effect<Backend> =>
  Effect.sync(() => unsafeMakeMemory(options.capacity ?? 100_000))

/**
 * A backend inside this process, by the monotonic part of `Clock`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<RateLimiter> =>
  Layer.effect(RateLimiter, makeMemory(options))

const unsafeMakeMemory = (capacity: number): Backend => {
  const kept = new ExpiringMap<machine.Usage>(capacity)
  return {
    judge: ({ cost, keys, meters, take }) =>
      Effect.map(currentMicros, (at) => {
        const usages = meters.map((meter, index) => {
          const found = kept.get(keys[index] ?? "", at)
          return found?.kind === meter.kind ? found : machine.usageOf(meter)
        })
        const verdicts = meters.map((meter, index) => (usages[index] ?? unused).judge(meter, at, cost))
        if (!take || cost === 0 || verdicts.some((verdict) => verdict.retryAfter > 0)) return { at, verdicts }
        return {
          at,
          verdicts: meters.map((meter, index) => {
            const usage = usages[index] ?? unused
            const verdict = usage.take(meter, at, cost)
            kept.set(keys[index] ?? "", usage, at + verdict.resetAfter, at)
            return verdict
          })
        }
      }),
    reset: (keys) =>
      Effect.map(currentMicros, (at) => keys.reduce((found, key) => kept.delete(key, at) || found, false))
  }
}

const currentMicros = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos / 1_000n))

const unused = machine.usageOf(machine.window(1, 1))

/** A limit, checked, with its meter. */
interface Made {
  readonly meter: Meter
  /** The largest cost that can ever pass. */
  readonly largest: number
  readonly interval: Duration.Duration
  /** What its key ends in where there are several. */
  readonly suffix: string
}

const longest = 10 * 366 * 24 * 60 * 60 * 1_000

const madeOf = (options: Limit, share = 1): Either.Either<Made, string> => {
  const { algorithm = "sliding-window", burst, limit } = options
  const millis = Ttl.millis(options.interval)
  if (Either.isLeft(millis)) return Either.left(`the interval cannot be: ${millis.left}`)
  const exact = Duration.toMillis(options.interval)
  if (exact !== millis.right || exact > longest) {
    return Either.left("the interval must be whole milliseconds and at most ten years")
  }
  if (!(Number.isInteger(limit) && limit > 0 && limit <= 2 ** 40)) {
    return Either.left("the limit must be a whole number above 0: for less than one in an interval give a longer one")
  }
  if (!algorithms.includes(algorithm)) return Either.left(`the algorithm must be one of ${algorithms.join(", ")}`)
  const bucket = algorithm === "token-bucket" || algorithm === "gcra"
  if (burst !== undefined) {
    if (!bucket)
      return Either.left(`a burst has no meaning with ${algorithm}, which lets all of its limit pass at once`)
    if (!(Number.isInteger(burst) && burst > 0 && burst <= 2 ** 40)) {
      return Either.left("the burst must be a whole number above 0")
    }
  }
  const part = (whole: number): number => Math.max(1, Math.floor(whole * share))
  const shared = part(limit)
  const micros = exact * 1_000
  const meter = bucket
    ? machine.bucket(shared, micros, part(burst ?? (algorithm === "gcra" ? 1 : limit)))
    : algorithm === "fixed-window"
      ? machine.window(shared, micros)
      : machine.log(shared, micros)
  if (meter === undefined) {
    return Either.left("limit, interval and burst are too fine to be counted exactly: give rounder or smaller ones")
  }
  return Either.right({
    meter,
    largest: machine.largestOf(meter),
    interval: Duration.millis(exact),
    suffix: `${algorithm}:${exact}`
  })
}

const algorithms: ReadonlyArray<Algorithm> = ["sliding-window", "fixed-window", "token-bucket", "gcra"]

const makeLimiter = (
  backend: Backend,
  options: CommonOptions,
  limits: ReadonlyArray<Limit>
): Effect.Effect<Limiter, RateLimiterError> =>
  Effect.gen(function* () {
    const { localShare = 1, name, onUnavailable = "fail", rememberRefused = 0 } = options
    const invalid = (description: string) => failure("InvalidOptions", "make", description)
    if (!namePattern.test(name)) {
      return yield* invalid("a name is one to 128 letters, digits, dots, underscores and hyphens")
    }
    if (!["fail", "allow", "deny", "local"].includes(onUnavailable)) {
      return yield* invalid("onUnavailable must be one of fail, allow, deny and local")
    }
    if (!(localShare > 0 && localShare <= 1)) return yield* invalid("localShare must be above 0 and at most 1")
    if (!(Number.isInteger(rememberRefused) && rememberRefused >= 0)) {
      return yield* invalid("rememberRefused must be a whole number")
    }
    if (limits.length === 0 || limits.length > 16) return yield* invalid("give one to 16 limits")
    const made = Either.all(limits.map((limit) => madeOf(limit)))
    if (Either.isLeft(made)) return yield* invalid(made.left)
    const locals = Either.all(limits.map((limit) => madeOf(limit, localShare)))
    if (Either.isLeft(locals)) return yield* invalid(locals.left)
    const suffixes = made.right.map((one) => one.suffix)
    if (new Set(suffixes).size < suffixes.length) {
      return yield* invalid("two limits have both algorithm and interval in common: the lower one alone would count")
    }

    const largest = Math.min(...made.right.map((one) => one.largest))
    const localLargest = Math.min(...locals.right.map((one) => one.largest))
    const meters = made.right.map((one) => one.meter)
    const localMeters = locals.right.map((one) => one.meter)
    const local = unsafeMakeMemory(10_000)
    const refused = rememberRefused === 0 ? undefined : new ExpiringMap<Refusal>(rememberRefused)
    const stats = { allowed: 0, refused: 0, remembered: 0, unavailable: 0 }

    const keysOf = (key: string): ReadonlyArray<string> =>
      suffixes.length === 1
        ? [`ratelimit:${name}:${key}`]
        : suffixes.map((suffix) => `{ratelimit:${name}:${key}}:${suffix}`)

    const problem = (method: string, key: string, cost: number): Effect.Effect<never, RateLimiterError> | undefined => {
      const wrong = keyProblem(key)
      if (wrong !== undefined) return failure("InvalidKey", method, wrong)
      if (!(Number.isInteger(cost) && cost >= 0)) {
        return failure("InvalidCost", method, "a cost is a whole number and not negative")
      }
      if (cost <= largest) return undefined
      return failure("CostExceedsLimit", method, `a cost of ${cost} can never pass: at most ${largest} can at once`)
    }

    const counted = (decision: Decision): Decision => {
      if (decision.allowed) stats.allowed++
      else stats.refused++
      return decision
    }

    /** What is said instead while the backend is away. */
    const instead = (error: RateLimiterError, request: Request): Effect.Effect<Decision, RateLimiterError> => {
      stats.unavailable++
      switch (onUnavailable) {
        case "fail":
          return Effect.fail(error)
        case "allow":
          return Effect.succeed(assumed(made.right, request.cost, true))
        case "deny":
          return Effect.succeed(assumed(made.right, request.cost, false))
        case "local":
          return Effect.map(
            local.judge({ ...request, meters: localMeters, cost: Math.min(request.cost, localLargest) }),
            ({ verdicts }) => decide(locals.right, verdicts, "local")
          )
      }
    }

    const ask = (key: string, cost: number, take: boolean): Effect.Effect<Decision, RateLimiterError> => {
      const request: Request = { keys: keysOf(key), meters, cost, take }
      const note = take ? counted : uncounted
      return Effect.matchEffect(backend.judge(request), {
        onFailure: (error) => Effect.map(instead(error, request), note),
        onSuccess: ({ verdicts }) => Effect.succeed(note(decide(made.right, verdicts, "backend")))
      })
    }

    const remembering = (key: string, cost: number, refusals: ExpiringMap<Refusal>) =>
      Effect.flatMap(currentMicros, (now) => {
        const known = refusals.get(key, now)
        // who asks for more is refused, too
        if (known !== undefined && cost >= known.cost) {
          stats.remembered++
          return Effect.succeed(counted(later(known.decision, now - known.at)))
        }
        return Effect.map(ask(key, cost, true), (decision) => {
          if (!decision.allowed && decision.source === "backend") {
            const until = now + Duration.toMillis(decision.retryAfter) * 1_000
            // as of before it was asked: never for longer than the backend would
            refusals.set(key, { cost, at: now, decision }, until, now)
          }
          return decision
        })
      })

    return {
      name,
      consume: (key, cost = 1) => {
        const wrong = problem("consume", key, cost)
        if (wrong !== undefined) return wrong
        return refused === undefined || cost === 0 ? ask(key, cost, true) : remembering(key, cost, refused)
      },
      peek: (key, cost = 1) => problem("peek", key, cost) ?? ask(key, cost, false),
      reset: (key) =>
        problem("reset", key, 0) ??
        Effect.suspend(() => {
          const keys = keysOf(key)
          const forgotten = Effect.map(currentMicros, (now) => {
            refused?.delete(key, now)
          })
          const both = Effect.zipRight(local.reset(keys), backend.reset(keys))
          return Effect.zipRight(
            forgotten,
            // what was judged meanwhile may be remembered by now
            Effect.tap(both, () => forgotten)
          )
        }),
      stats: Effect.sync(() => ({ ...stats }))
    }
  })

const uncounted = (decision: Decision): Decision => decision

interface Refusal {
  readonly cost: number
  readonly at: number
  readonly decision: Decision
}

const decide = (made: ReadonlyArray<Made>, verdicts: ReadonlyArray<Verdict>, source: Decision["source"]): Decision => {
  const limits = made.map(
    ({ interval, largest }, index): LimitState => ({
      limit: largest,
      interval,
      remaining: verdicts[index]?.remaining ?? 0,
      retryAfter: upward(verdicts[index]?.retryAfter ?? 0),
      resetAfter: upward(verdicts[index]?.resetAfter ?? 0)
    })
  )
  return ofLimits(limits, source)
}

const ofLimits = (limits: ReadonlyArray<LimitState>, source: Decision["source"]): Decision => {
  const binding = limits.reduce((one, other) => {
    if (Duration.greaterThan(other.retryAfter, one.retryAfter)) return other
    if (Duration.lessThan(other.retryAfter, one.retryAfter)) return one
    return other.remaining < one.remaining ? other : one
  })
  return { ...binding, allowed: Duration.equals(binding.retryAfter, Duration.zero), limits, source }
}

/** The decision some microseconds later. */
const later = (decision: Decision, passed: number): Decision => {
  const less = (duration: Duration.Duration) => upward(Math.max(0, Duration.toMillis(duration) * 1_000 - passed))
  return ofLimits(
    decision.limits.map((one) => ({
      ...one,
      retryAfter: less(one.retryAfter),
      resetAfter: less(one.resetAfter)
    })),
    "memory"
  )
}

const assumed = (made: ReadonlyArray<Made>, cost: number, allowed: boolean): Decision =>
  ofLimits(
    made.map(({ interval, largest }) => ({
      limit: largest,
      interval,
      remaining: allowed ? largest - cost : 0,
      retryAfter: allowed ? Duration.zero : oneSecond,
      resetAfter: allowed ? Duration.zero : oneSecond
    })),
    "assumed"
  )

const oneSecond = Duration.seconds(1)

const upward = (micros: number): Duration.Duration =>
  micros === 0 ? Duration.zero : Duration.millis(Math.ceil(micros / 1_000))

const seconds = (duration: Duration.Duration): number => Math.ceil(Duration.toSeconds(duration))

const pass = (
  limiter: Limiter,
  options: RunOptions
): Effect.Effect<void, RateLimiterError | RateLimit.RateLimitExceeded> => {
  const { cost, key } = options
  const maxWait = options.maxWait === undefined ? 0 : Duration.toMillis(options.maxWait)
  const exceeded = (retryAfter: Duration.Duration) =>
    Effect.fail(new RateLimit.RateLimitExceeded({ service: limiter.name, retryAfter }))
  /** `until` by the monotonic clock, in microseconds: the other may be set back or forth while it is waited for. */
  const attempt = (
    until: number,
    deadline: number
  ): Effect.Effect<void, RateLimiterError | RateLimit.RateLimitExceeded> =>
    Effect.flatMap(limiter.consume(key, cost), ({ allowed, retryAfter }) => {
      if (allowed) return Effect.void
      if (until === 0) return exceeded(retryAfter)
      const millis = Duration.toMillis(retryAfter)
      return Effect.flatMap(Effect.zip(currentMicros, Clock.currentTimeMillis), ([micros, now]) =>
        micros + millis * 1_000 > until || now + millis > deadline
          ? exceeded(retryAfter)
          : Effect.zipRight(Effect.sleep(retryAfter), attempt(until, deadline))
      )
    })
  if (!(maxWait > 0)) return attempt(0, 0)
  return Effect.flatMap(Effect.zip(Deadline.current, currentMicros), ([deadline, start]) =>
    attempt(start + maxWait * 1_000, deadline)
  )
}

const namePattern = /^[A-Za-z0-9._-]{1,128}$/

const keyProblem = (key: string): string | undefined => {
  if (key.length === 0) return "a key cannot be empty"
  if (key.length > 1_024) return "a key cannot be longer than 1,024 characters"
  // two of these would be one key where keys are kept as UTF-8
  return loneSurrogate.test(key) ? "a key must be well-formed Unicode" : undefined
}

const loneSurrogate = /\p{Surrogate}/u

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, RateLimiterError> =>
  Effect.fail(new RateLimiterError({ reason, method, description, outcome: "not-done" }))
