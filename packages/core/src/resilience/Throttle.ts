/**
 * Client-side throttling: while a service refuses much of what it is asked, a part of the calls is refused before they are
 * made, by chance, so that it is not kept busy with refusing. "Adaptive throttling" in chapter 21 of Google's book on site
 * reliability engineering: https://sre.google/sre-book/handling-overload/
 *
 * With `requests` made and `accepts` of them accepted in the last two minutes, a call is refused with the probability
 * `max(0, (requests - ratio * accepts) / (requests + 1))`. What is refused here counts as a request, so that the
 * probability grows while the load does. Left to itself it comes so near to 1 that a thousand calls a second reach a
 * service that is back only after minutes; so at most nine of ten calls are refused, unless that is set otherwise.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Random from "effect/Random"
import { Rejection } from "../internal/resilience/rejection.ts"
import * as machine from "../internal/resilience/throttle.ts"
import * as ErrorClass from "./ErrorClass.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What it guards; named in `CallThrottled`. */
  readonly name: string
  /**
   * How many calls are made for each that is accepted before any is refused, the book's K. Smaller protects the service
   * more and finds out later that it is back. 2.
   */
  readonly ratio?: number | undefined
  /** For how long calls are remembered. 2 minutes. */
  readonly window?: Duration.DurationInput | undefined
  /** Nothing is refused before there are so many calls in the window. 10. */
  readonly minimumCalls?: number | undefined
  /**
   * No call is refused with a higher probability than this, up to 1: the rest shows when the service is back. The book has
   * no such bound, nor has 1; Envoy's admission control has one as well. 0.9.
   */
  readonly maxProbability?: number | undefined
  /** Classifies errors. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
  /**
   * Whether the service accepted a call that failed. By default it did if the error is permanent: it answered. It did not
   * if the error is transient or rate-limited. Refusals of our own and calls that were cancelled are not asked about:
   * they count for nothing.
   */
  readonly accepted?: ((found: ErrorClass.Classification, error: unknown) => boolean) | undefined
}

/**
 * The call was refused to spare the service. A plain object without a stack: refusing must be cheap.
 *
 * @since 0.1.0
 * @category errors
 */
export class CallThrottled extends Rejection {
  readonly _tag = "CallThrottled"
  /** The probability that it was refused with. */
  readonly probability: number

  constructor(options: { readonly service: string; readonly probability: number }) {
    super(options.service)
    this.probability = options.probability
  }
  override get message(): string {
    return `${this.service}: the service refuses much, so ${Math.round(this.probability * 100)} % of the calls are not made`
  }
}

/**
 * What can be seen of a throttle.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  /** The probability that a call is refused now. */
  readonly probability: number
  /** Calls in the window whose end is known, with those that were refused here. */
  readonly requests: number
  /** Those of them that the service accepted. */
  readonly accepts: number
  /** Since it was made: calls that were refused here. */
  readonly rejected: number
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Throttle")

/**
 * @since 0.1.0
 * @category models
 */
export interface Throttle {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** Runs the effect, unless it is refused, and counts whether the service accepted it. */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CallThrottled, R>
  readonly snapshot: Effect.Effect<Snapshot>
  /** Changes the settings in place; what was counted stays counted. */
  readonly reload: (options: Omit<Options, "name">) => Effect.Effect<void>
  /** Whether the service accepted a call that failed with this error. */
  readonly accepted: (found: ErrorClass.Classification, error: unknown) => boolean
  /** @internal Whether it accepted what ended so; undefined where that says nothing of the service. */
  readonly judge: (cause: Cause.Cause<unknown>) => boolean | undefined
  /** @internal */
  readonly machine: machine.Throttle
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Omit<Options, "name">): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (options.ratio !== undefined && !(options.ratio >= 1 && Number.isFinite(options.ratio))) {
    found.push(
      `throttle.ratio is ${options.ratio}: give 1 or more (below 1 it would refuse calls of a service that accepts all)`
    )
  }
  if (options.window !== undefined) {
    const millis = Duration.toMillis(options.window)
    if (!(millis >= machine.parts && Number.isFinite(millis))) {
      found.push(`throttle.window is ${millis} ms: give a finite duration of ${machine.parts} ms or more`)
    }
  }
  const minimum = options.minimumCalls
  if (minimum !== undefined && !(Number.isInteger(minimum) && minimum >= 1)) {
    found.push(`throttle.minimumCalls is ${minimum}: give a whole number of 1 or more`)
  }
  const most = options.maxProbability
  if (most !== undefined && !(most > 0 && most <= 1)) {
    found.push(`throttle.maxProbability is ${most}: give a number above 0 and up to 1`)
  }
  return found
}

const settings = (options: Omit<Options, "name">): machine.Settings => ({
  ratio: options.ratio ?? 2,
  window: Duration.toMillis(options.window ?? "2 minutes"),
  minimumCalls: options.minimumCalls ?? 10,
  maxProbability: options.maxProbability ?? 0.9
})

const defaultAccepted = (found: ErrorClass.Classification): boolean =>
  found.class === "permanent" && found.assumed !== true

/**
 * Makes a throttle that has seen no calls. Settings that cannot work are defects that say what to write instead;
 * `Policy.make` reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<Throttle> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.succeed(unsafeMake(options))
      : Effect.dieMessage(`Throttle "${options.name}": ${wrong.join("; ")}`)
  })

/** @internal */
export const unsafeMake = (options: Options): Throttle => new Live(options)

class Live implements Throttle {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly name: string
  readonly machine: machine.Throttle
  private options: Omit<Options, "name">

  constructor(options: Options) {
    this.name = options.name
    this.options = options
    this.machine = new machine.Throttle(settings(options))
  }

  get description(): string {
    const { minimumCalls, ratio, window } = this.machine.settings
    return (
      `refuses by chance what is more than ${ratio} times what the service accepted in the last ` +
      `${Duration.format(Duration.millis(window))} (at least ${minimumCalls} calls)`
    )
  }

  accepted(found: ErrorClass.Classification, error: unknown): boolean {
    return (this.options.accepted ?? defaultAccepted)(found, error)
  }

  run<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CallThrottled, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiberRuntime<A, E | CallThrottled, R>((fiber) => {
        const services = fiber.currentDefaultServices
        const clock = Context.get(services, Clock.Clock)
        const probability = this.machine.admit(clock.unsafeCurrentTimeMillis(), () =>
          Effect.runSync(Context.get(services, Random.Random).next)
        )
        // Not `Effect.fail`, which would wrap the object under a span.
        if (probability > 0) return Effect.failCause(Cause.fail(rejection(this.name, probability)))
        return Effect.matchCauseEffect(restore(effect), {
          onFailure: (cause) => {
            const accepted = this.judge(cause)
            if (accepted !== undefined) this.machine.record(clock.unsafeCurrentTimeMillis(), accepted)
            return Effect.failCause(cause)
          },
          onSuccess: (value) => {
            this.machine.record(clock.unsafeCurrentTimeMillis(), true)
            return Effect.succeed(value)
          }
        })
      })
    )
  }

  get snapshot(): Effect.Effect<Snapshot> {
    return Effect.map(Clock.currentTimeMillis, (now) => ({
      probability: this.machine.probability(now),
      requests: this.machine.requests,
      accepts: this.machine.accepts,
      rejected: this.machine.rejected
    }))
  }

  reload(options: Omit<Options, "name">): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const wrong = problems(options)
      if (wrong.length > 0) return Effect.dieMessage(`Throttle "${this.name}": ${wrong.join("; ")}`)
      return Effect.sync(() => {
        this.options = options
        this.machine.reload(settings(options), now)
      })
    })
  }

  judge(cause: Cause.Cause<unknown>): boolean | undefined {
    const failure = Cause.failureOption(cause)
    if (failure._tag === "None") return Cause.isDie(cause) ? false : undefined
    const found = (this.options.classify ?? ErrorClass.classify)(failure.value)
    return found.rejection === true || found.class === "cancelled" ? undefined : this.accepted(found, failure.value)
  }
}

/** @internal */
export const rejection = (service: string, probability: number): CallThrottled =>
  new CallThrottled({ service, probability })

/**
 * Whether it is a throttle.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isThrottle = (u: unknown): u is Throttle => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect through the throttle: `throttle.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (throttle: Throttle): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CallThrottled, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, throttle: Throttle): Effect.Effect<A, E | CallThrottled, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, throttle: Throttle): Effect.Effect<A, E | CallThrottled, R> =>
    throttle.run(effect)
)
