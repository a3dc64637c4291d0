/**
 * Hedging: when an attempt is slow, another is started beside it and the first success wins. A policy runs the race; this
 * says when a hedge starts and how many there may be. Only calls that may happen twice can be hedged.
 *
 * After "The Tail at Scale" (Dean and Barroso, https://research.google/pubs/the-tail-at-scale/): hedging at the 95th
 * percentile of the latency makes some 5 % more requests and cuts the slowest.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as machine from "../internal/resilience/hedgeDelay.ts"

/**
 * A delay that follows the service: a percentile of its recent latencies, estimated within 2 %.
 *
 * @since 0.1.0
 * @category models
 */
export interface PercentileDelay {
  /** Which part of the calls is faster, above 0 and below 1: with 0.95 about one call in twenty is hedged. */
  readonly percentile: number
  /** The delay until enough latencies are known, at first and after a long rest. */
  readonly initial: Duration.DurationInput
  /** Never sooner. 1 millisecond. */
  readonly min?: Duration.DurationInput | undefined
  /** Never later. By default there is no such limit. */
  readonly max?: Duration.DurationInput | undefined
  /** From how many recent latencies on the percentile is used. By default `1 / (1 - percentile)`, at least 10. */
  readonly minimumSamples?: number | undefined
  /** The time after which a latency counts half. 1 minute. */
  readonly halfLife?: Duration.DurationInput | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** For how long the attempts that run are given before another is started; 0 starts all at once. */
  readonly delay: Duration.DurationInput | PercentileDelay
  /** How many attempts there may be beside the first, 1 to 10. 1. */
  readonly maxHedges?: number | undefined
}

/**
 * What can be seen of it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  readonly maxHedges: number
  /** After which time a call that began now would be hedged. */
  readonly delay: Duration.Duration
  /** How many latencies a percentile is taken from, older ones counting less than one; 0 for a fixed delay. */
  readonly samples: number
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Hedge")

/**
 * @since 0.1.0
 * @category models
 */
export interface Hedge {
  readonly [TypeId]: typeof TypeId
  /** How many attempts there may be beside the first. */
  readonly maxHedges: number
  readonly snapshot: Effect.Effect<Snapshot>
  /** Other settings from now on; known latencies are kept where a percentile is still asked for. */
  readonly reload: (options: Options) => Effect.Effect<void>
  /** @internal */
  readonly machine: machine.HedgeDelay
  /** @internal How it is set, for descriptions. */
  readonly description: string
}

const isPercentile = (delay: Options["delay"]): delay is PercentileDelay =>
  typeof delay === "object" && "percentile" in delay

const millisOf = (input: Duration.DurationInput | undefined, otherwise: number): number =>
  input === undefined ? otherwise : Duration.toMillis(input)

const defaultSamples = (percentile: number): number => Math.max(10, Math.ceil(1 / (1 - percentile) - 1e-9))

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Options): ReadonlyArray<string> => {
  const found: Array<string> = []
  const { delay, maxHedges } = options
  if (maxHedges !== undefined && !(Number.isInteger(maxHedges) && maxHedges >= 1 && maxHedges <= 10)) {
    found.push(`hedge.maxHedges is ${maxHedges}: give a whole number from 1 to 10, or leave hedging out`)
  }
  if (!isPercentile(delay)) {
    if (typeof delay === "number" && !(delay >= 0)) {
      found.push(`hedge.delay is ${delay} ms: give a duration of 0 or more`)
    } else if (!Number.isFinite(Duration.toMillis(delay))) {
      found.push("hedge.delay is infinite, so no hedge would ever start: give a finite duration, or leave hedging out")
    }
    return found
  }
  const { minimumSamples, percentile } = delay
  if (!(percentile > 0 && percentile < 1)) {
    found.push(`hedge.delay.percentile is ${percentile}: give a part above 0 and below 1 (0.95 is the 95th percentile)`)
  }
  const initial = Duration.toMillis(delay.initial)
  const min = millisOf(delay.min, 1)
  const max = millisOf(delay.max, Number.POSITIVE_INFINITY)
  if (!(initial > 0 && Number.isFinite(initial))) {
    found.push(`hedge.delay.initial is ${initial} ms: give a positive, finite duration`)
  }
  if (!(min > 0)) {
    found.push(
      "hedge.delay.min is not positive, so a fast service would be asked twice each time: give 1 millisecond or more"
    )
  }
  if (min > max) found.push(`hedge.delay.min (${min} ms) is more than its max (${max} ms): lower min or raise max`)
  else if (initial < min || initial > max) {
    found.push(`hedge.delay.initial (${initial} ms) is not between its min and max: give one from ${min} to ${max} ms`)
  }
  if (minimumSamples !== undefined && !(Number.isFinite(minimumSamples) && minimumSamples >= 1)) {
    found.push(`hedge.delay.minimumSamples is ${minimumSamples}: give a number of 1 or more`)
  }
  const halfLife = millisOf(delay.halfLife, 60_000)
  if (!(halfLife > 0 && Number.isFinite(halfLife))) {
    found.push(`hedge.delay.halfLife is ${halfLife} ms: give a positive, finite duration`)
  }
  return found
}

const settingsOf = (options: Options): machine.Settings => {
  const { delay, maxHedges = 1 } = options
  return isPercentile(delay)
    ? {
        maxHedges,
        delay: {
          type: "percentile",
          percentile: delay.percentile,
          initial: Duration.toMillis(delay.initial),
          min: millisOf(delay.min, 1),
          max: millisOf(delay.max, Number.POSITIVE_INFINITY),
          minimumSamples: delay.minimumSamples ?? defaultSamples(delay.percentile),
          halfLife: millisOf(delay.halfLife, 60_000)
        }
      }
    : { maxHedges, delay: { type: "fixed", millis: Duration.toMillis(delay) } }
}

const describe = (options: Options): string => {
  const { delay, maxHedges = 1 } = options
  const upTo = `up to ${maxHedges} more attempt${maxHedges === 1 ? "" : "s"}, `
  if (!isPercentile(delay)) {
    const millis = Duration.toMillis(delay)
    return upTo + (millis === 0 ? "all at once" : `each after ${Duration.format(Duration.millis(millis))}`)
  }
  const max = millisOf(delay.max, Number.POSITIVE_INFINITY)
  return (
    `${upTo}each after the ${Number((delay.percentile * 100).toFixed(4))}th percentile of recent latencies (at first ` +
    `${Duration.format(delay.initial)}, at least ${Duration.format(Duration.millis(millisOf(delay.min, 1)))}` +
    `${max === Number.POSITIVE_INFINITY ? "" : `, at most ${Duration.format(Duration.millis(max))}`})`
  )
}

/**
 * Makes the hedging of one service; policies that call the same service may share it, and with it its latencies. Settings
 * that cannot work are defects that say what to write instead; `Policy.make` reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Hedge> => checked(options, () => unsafeMake(options))

const checked = <A>(options: Options, then: () => A): Effect.Effect<A> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0 ? Effect.sync(then) : Effect.dieMessage(`Hedge: ${wrong.join("; ")}`)
  })

class HedgeImpl implements Hedge {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly machine: machine.HedgeDelay
  readonly snapshot: Effect.Effect<Snapshot>
  private options: Options

  constructor(options: Options) {
    this.options = options
    this.machine = new machine.HedgeDelay(settingsOf(options))
    this.snapshot = Effect.map(Clock.currentTimeMillis, (now) => ({
      maxHedges: this.machine.maxHedges,
      delay: Duration.millis(this.machine.delay(now)),
      samples: this.machine.samples(now)
    }))
  }

  get maxHedges(): number {
    return this.machine.maxHedges
  }

  get description(): string {
    return describe(this.options)
  }

  // A field, so that it can be taken out and passed on.
  readonly reload = (options: Options): Effect.Effect<void> =>
    checked(options, () => {
      this.options = options
      this.machine.reload(settingsOf(options))
    })
}

/** @internal */
export const unsafeMake = (options: Options): Hedge => new HedgeImpl(options)

/**
 * Whether it is a hedging.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isHedge = (u: unknown): u is Hedge => typeof u === "object" && u !== null && TypeId in u
