/**
 * A rate limit inside this process: calls that come too fast wait their turn, for a bounded time and in a bounded queue,
 * or are refused at once with the exact time after which to come again.
 *
 * What has passed is counted in whole numbers, so that nothing drifts; there is no fiber, and one timer only while
 * somebody waits. All that is due when it fires passes at once, which is how a timer of one millisecond serves 50,000
 * calls a second.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as machine from "../internal/resilience/rateLimit.ts"
import { Rejection } from "../internal/resilience/rejection.ts"
import * as Deadline from "./Deadline.ts"
import type * as ErrorClass from "./ErrorClass.ts"

/**
 * How the rate is measured.
 *
 * - `gcra`: the generic cell rate algorithm, which spreads the calls evenly: 10 a second are one every 100 ms. In any time
 *   at most `burst` and what the rate comes to; with the default burst of 1 never more than `limit` in any `interval`. What
 *   a late timer holds back, up to 100 ms, is made up for, so that the rate holds on a busy event loop; a log of what
 *   passed keeps that within the limit. Of a limit above 1,024 in more than a second the log has 1,024 parts, and then it
 *   may be exceeded by one of them, a thousandth.
 *   See https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
 * - `sliding-window`: a log of what passed. Calls need not be spread: `limit` of them can pass at once, but never more in
 *   any `interval`, whenever it begins and however late a timer is. For quotas that are written like this ("100 a
 *   minute"). It needs up to 1,024 entries.
 *
 * @since 0.1.0
 * @category models
 */
export type Algorithm = "gcra" | "sliding-window"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What it guards; named in `RateLimitExceeded`. */
  readonly name: string
  /** How much may pass in an interval. With `gcra` it need not be whole: 0.5 a second is one every two. */
  readonly limit: number
  /** 1 second. */
  readonly interval?: Duration.DurationInput | undefined
  /** `gcra`. */
  readonly algorithm?: Algorithm | undefined
  /** With `gcra`: how much may pass at once after a quiet time, besides what the rate allows. 1. */
  readonly burst?: number | undefined
  /** The longest that a call may wait; false or 0 to refuse at once what cannot pass. 1 second. */
  readonly maxWait?: Duration.DurationInput | false | undefined
  /** How many calls may wait. 1,000. */
  readonly maxQueue?: number | undefined
}

/**
 * What a call may say of itself.
 *
 * @since 0.1.0
 * @category models
 */
export interface CallOptions {
  /** How much of the limit it uses, a whole number. 1. */
  readonly cost?: number | undefined
}

/**
 * The call was refused because it would have had to wait too long, or too many wait already. A plain object without a
 * stack: refusing must be cheap.
 *
 * @since 0.1.0
 * @category errors
 */
export class RateLimitExceeded extends Rejection {
  readonly _tag = "RateLimitExceeded"
  /**
   * When the call would have passed behind those that wait now: to the millisecond, or with a limit above 1,024 to a
   * thousandth of the interval.
   */
  readonly retryAfter: Duration.Duration

  constructor(options: { readonly service: string; readonly retryAfter: Duration.Duration }) {
    super(options.service)
    this.retryAfter = options.retryAfter
  }
  override get message(): string {
    return `${this.service}: the rate limit is reached, ask again in ${Duration.format(this.retryAfter)}`
  }
  override get errorClass(): ErrorClass.ErrorClass {
    return "rate-limited"
  }
}

/**
 * What can be seen of a rate limit.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  readonly limit: number
  readonly interval: Duration.Duration
  /** How much could pass at once now. */
  readonly available: number
  /** When a call of cost 1 could pass, behind those that wait. */
  readonly retryAfter: Duration.Duration
  /** Calls that wait. */
  readonly waiting: number
  /** Since it was made: how much passed, in units of cost. */
  readonly passed: number
  /** Since it was made: calls that were refused. */
  readonly rejected: number
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/RateLimit")

/**
 * @since 0.1.0
 * @category models
 */
export interface RateLimit {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** Runs the effect when its turn comes. */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: CallOptions
  ) => Effect.Effect<A, E | RateLimitExceeded, R>
  /** Passes if it can at once, and says whether it did. False where others wait. */
  readonly tryTake: (cost?: number) => Effect.Effect<boolean>
  /**
   * Waits for its turn, first come first served. Fails at once if that would be longer than `maxWait` or past the caller's
   * deadline, or if the queue is full. Whoever is interrupted uses up nothing.
   */
  readonly take: (cost?: number) => Effect.Effect<void, RateLimitExceeded>
  readonly snapshot: Effect.Effect<Snapshot>
  /**
   * Changes the settings in place. With `gcra` as much of the burst is used up as was before, in proportion; with a
   * sliding window what passed stays counted, also what passed by `gcra`. Those that wait go on waiting; who would now wait longer than allowed is
   * refused at once.
   */
  readonly reload: (options: Omit<Options, "name">) => Effect.Effect<void>
  /** @internal */
  readonly machine: machine.RateLimiter<RateLimitExceeded>
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Omit<Options, "name">): ReadonlyArray<string> => {
  const found: Array<string> = []
  const window = options.algorithm === "sliding-window"
  const interval = Duration.toMillis(options.interval ?? "1 second")
  if (!(options.limit > 0 && Number.isFinite(options.limit))) {
    found.push(`rateLimit.limit is ${options.limit}: give a number above 0`)
  } else if (window && !Number.isInteger(options.limit)) {
    found.push(
      `rateLimit.limit is ${options.limit}, and a sliding window counts whole calls: give a whole number and a longer interval`
    )
  }
  if (!(interval > 0 && Number.isFinite(interval))) {
    found.push(`rateLimit.interval is ${interval} ms: give a positive, finite duration`)
  }
  if (options.burst !== undefined) {
    if (window) {
      found.push(
        'rateLimit.burst has no meaning with a sliding window, which lets all of its limit pass at once: leave it out or set algorithm to "gcra"'
      )
    } else if (!(Number.isInteger(options.burst) && options.burst >= 1)) {
      found.push(`rateLimit.burst is ${options.burst}: give a whole number of 1 or more`)
    }
  }
  const maxQueue = options.maxQueue
  if (maxQueue !== undefined && !(maxQueue >= 0 && (Number.isInteger(maxQueue) || maxQueue === Infinity))) {
    found.push(`rateLimit.maxQueue is ${maxQueue}: give a whole number of 0 or more`)
  }
  if (found.length === 0 && !window && !new machine.Gcra(settings(options)).exact) {
    found.push(
      `rateLimit.limit (${options.limit}) in ${interval} ms with a burst of ${options.burst ?? 1} is too fine to be counted` +
        " exactly: give a rounder limit or interval, or a smaller burst"
    )
  }
  return found
}

const settings = (options: Omit<Options, "name">): machine.Settings => ({
  algorithm: options.algorithm ?? "gcra",
  limit: options.limit,
  interval: Duration.toMillis(options.interval ?? "1 second"),
  burst: options.burst ?? 1,
  maxWait: options.maxWait === false ? 0 : Duration.toMillis(options.maxWait ?? "1 second"),
  maxQueue: options.maxQueue ?? 1_000
})

/**
 * Makes a rate limit with nothing used up. Settings that cannot work are defects that say what to write instead;
 * `Policy.make` reports them as typed errors. A call that costs more than can ever pass at once is a defect as well.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<RateLimit> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.succeed(unsafeMake(options))
      : Effect.dieMessage(`RateLimit "${options.name}": ${wrong.join("; ")}`)
  })

/** @internal */
export const unsafeMake = (options: Options): RateLimit => new Live(options)

class Live implements RateLimit {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly name: string
  readonly machine: machine.RateLimiter<RateLimitExceeded>

  constructor(options: Options) {
    this.name = options.name
    this.machine = new machine.RateLimiter(options.name, settings(options), (retryAfter) =>
      rejection(options.name, retryAfter)
    )
  }

  get description(): string {
    const { algorithm, burst, interval, limit, maxQueue, maxWait } = this.machine.settings
    return (
      `${limit} in any ${Duration.format(Duration.millis(interval))}, ` +
      (algorithm === "gcra" ? `spread evenly, ${burst} at once` : "a sliding window") +
      (maxWait === 0 || maxQueue === 0
        ? ", refused at once beyond"
        : `, up to ${maxQueue} wait for ${maxWait === Infinity ? "any time" : `at most ${Duration.format(Duration.millis(maxWait))}`}`)
    )
  }

  run<A, E, R>(effect: Effect.Effect<A, E, R>, options?: CallOptions): Effect.Effect<A, E | RateLimitExceeded, R> {
    const cost = options?.cost ?? 1
    return Effect.withFiberRuntime<A, E | RateLimitExceeded, R>((fiber) => {
      const now = Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()
      return this.machine.tryEnter(now, cost) ? effect : Effect.zipRight(this.wait(cost), effect)
    })
  }

  tryTake(cost = 1): Effect.Effect<boolean> {
    return Effect.suspend(() => {
      const wrong = this.machine.problem(cost)
      return wrong === undefined
        ? Effect.map(Clock.currentTimeMillis, (now) => this.machine.tryEnter(now, cost))
        : Effect.dieMessage(wrong)
    })
  }

  take(cost = 1): Effect.Effect<void, RateLimitExceeded> {
    return this.run(Effect.void, { cost })
  }

  get snapshot(): Effect.Effect<Snapshot> {
    return Effect.map(Clock.currentTimeMillis, (now) => ({
      limit: this.machine.settings.limit,
      interval: Duration.millis(this.machine.settings.interval),
      available: this.machine.available(now),
      retryAfter: Duration.millis(this.machine.wait(now, 1)),
      waiting: this.machine.waiting,
      passed: this.machine.passed,
      rejected: this.machine.rejected
    }))
  }

  reload(options: Omit<Options, "name">): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const wrong = problems(options)
      return wrong.length === 0
        ? Effect.sync(() => this.machine.reload(settings(options), now))
        : Effect.dieMessage(`RateLimit "${this.name}": ${wrong.join("; ")}`)
    })
  }

  private wait(cost: number): Effect.Effect<void, RateLimitExceeded> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Deadline.current, (deadline) =>
        this.machine.enter(restore, deadline, { weight: cost, priority: "normal" })
      )
    )
  }
}

/** @internal */
export const rejection = (service: string, millis: number): RateLimitExceeded =>
  new RateLimitExceeded({ service, retryAfter: Duration.millis(millis) })

/**
 * Whether it is a rate limit.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRateLimit = (u: unknown): u is RateLimit => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect when its turn comes: `rateLimit.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (
    rateLimit: RateLimit,
    options?: CallOptions
  ): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimitExceeded, R>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    rateLimit: RateLimit,
    options?: CallOptions
  ): Effect.Effect<A, E | RateLimitExceeded, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    rateLimit: RateLimit,
    options?: CallOptions
  ): Effect.Effect<A, E | RateLimitExceeded, R> => rateLimit.run(effect, options)
)
