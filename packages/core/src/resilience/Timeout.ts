/**
 * Timeouts that return on time, also over work that cannot be interrupted: such work goes on as an orphan, which is
 * counted until it ends.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Schema from "effect/Schema"
import * as timed from "../internal/resilience/timed.ts"
import type * as ErrorClass from "./ErrorClass.ts"

/**
 * What ran out: one attempt, the whole call, the wait for a stream's first element, or the wait for its next one.
 *
 * @since 0.1.0
 * @category models
 */
export type Scope = "attempt" | "total" | "first-element" | "idle"

/**
 * The call took too long. It is transient: a later call may be faster.
 *
 * @since 0.1.0
 * @category errors
 */
export class CallTimeout extends Schema.TaggedError<CallTimeout>("@underlay/core/CallTimeout")("CallTimeout", {
  /** What was called, as its policy or client is named. */
  service: Schema.String,
  scope: Schema.Literal("attempt", "total", "first-element", "idle"),
  /** What the limit was, in milliseconds. Zero if the deadline had passed before the call began. */
  limitMillis: Schema.Number
}) {
  override get message(): string {
    const what =
      this.scope === "attempt"
        ? "an attempt took"
        : this.scope === "total"
          ? "the call took"
          : this.scope === "first-element"
            ? "the first element took"
            : "the next element took"
    return this.limitMillis === 0
      ? `${this.service}: the deadline had passed before the call`
      : `${this.service}: ${what} longer than ${this.limitMillis} ms`
  }
  get isRetryable(): boolean {
    return true
  }
  get errorClass(): ErrorClass.ErrorClass {
    return "transient"
  }
}

/**
 * Work that did not end when its time was over: how much still runs, and how much there ever was.
 *
 * @since 0.1.0
 * @category models
 */
export interface Orphans {
  readonly current: number
  readonly total: number
}

/**
 * The orphans of all timeouts in this process.
 *
 * @since 0.1.0
 * @category accessors
 */
export const orphans: Effect.Effect<Orphans> = Effect.sync(() => ({
  current: timed.everywhere.current,
  total: timed.everywhere.total
}))

/**
 * Fails with `CallTimeout` once the duration is over, and at that time: the effect is interrupted, but not waited for.
 * An interruption from outside is passed on and waited for as usual.
 *
 * @since 0.1.0
 * @category combinators
 */
export const within: {
  (options: {
    readonly duration: Duration.DurationInput
    readonly service: string
    readonly scope?: Scope | undefined
  }): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CallTimeout, R>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options: {
      readonly duration: Duration.DurationInput
      readonly service: string
      readonly scope?: Scope | undefined
    }
  ): Effect.Effect<A, E | CallTimeout, R>
} = dual(
  2,
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options: {
      readonly duration: Duration.DurationInput
      readonly service: string
      readonly scope?: Scope | undefined
    }
  ): Effect.Effect<A, E | CallTimeout, R> => {
    const limit = Duration.toMillis(options.duration)
    return timed.run<A, E, R, CallTimeout, E | CallTimeout>(effect, {
      millis: limit,
      orphans: undefined,
      context: undefined,
      timeout: () => new CallTimeout({ service: options.service, scope: options.scope ?? "total", limitMillis: limit }),
      settled: () => {},
      ended: () => {},
      failed: Effect.failCause
    })
  }
)
