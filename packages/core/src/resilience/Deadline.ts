/**
 * The moment until which an answer is of use to the caller. It is inherited by everything that is done for the call:
 * policies check it before every attempt, never wait past it, and cut their timeouts to it.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as owned from "../internal/resilience/ownedDeadline.ts"

/**
 * The current deadline in milliseconds since 1970 by `Clock`; infinite if there is none.
 *
 * @since 0.1.0
 * @category references
 */
export class Current extends Context.Reference<Current>()("@underlay/core/Deadline/Current", {
  defaultValue: (): number => Number.POSITIVE_INFINITY
}) {}

/**
 * The deadline of a fiber, in milliseconds since 1970; infinite if there is none. One that only came to it by joining a
 * fiber that it did not fork is not its own: the work that it was set for is over.
 *
 * @since 0.1.0
 * @category accessors
 */
export const of = (fiber: Fiber.RuntimeFiber<unknown, unknown>): number =>
  owned.of(fiber, Context.get(fiber.currentContext, Current))

/**
 * The deadline of this fiber, as `of` tells it.
 *
 * @since 0.1.0
 * @category accessors
 */
export const current: Effect.Effect<number> = Effect.withFiberRuntime((fiber) => Effect.succeed(of(fiber)))

/**
 * Runs the effect with a deadline this far from now, or the inherited one if that is sooner. The effect itself is not cut:
 * whatever reads the deadline in it (policies, clients of outside services) is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const within: {
  (duration: Duration.DurationInput): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, duration: Duration.DurationInput): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, duration: Duration.DurationInput): Effect.Effect<A, E, R> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => at(effect, now + Duration.toMillis(duration)))
)

/**
 * Runs the effect with a deadline at this moment (milliseconds since 1970), or the inherited one if that is sooner.
 *
 * @since 0.1.0
 * @category combinators
 */
export const at: {
  (millis: number): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, millis: number): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, millis: number): Effect.Effect<A, E, R> =>
    Effect.flatMap(current, (inherited) => set(effect, Math.min(millis, inherited)))
)

const set = <A, E, R>(effect: Effect.Effect<A, E, R>, deadline: number): Effect.Effect<A, E, R> =>
  owned.within(
    Effect.mapInputContext(effect, (context: Context.Context<R>) => Context.add(context, Current, deadline)),
    deadline
  )

/**
 * `within` for a stream: the deadline is set when the stream starts.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withinStream: {
  (duration: Duration.DurationInput): <A, E, R>(stream: Stream.Stream<A, E, R>) => Stream.Stream<A, E, R>
  <A, E, R>(stream: Stream.Stream<A, E, R>, duration: Duration.DurationInput): Stream.Stream<A, E, R>
} = dual(
  2,
  <A, E, R>(stream: Stream.Stream<A, E, R>, duration: Duration.DurationInput): Stream.Stream<A, E, R> =>
    Stream.unwrap(
      Effect.zipWith(Clock.currentTimeMillis, current, (now, inherited) =>
        Stream.mapInputContext(stream, (context: Context.Context<R>) =>
          Context.add(context, Current, Math.min(now + Duration.toMillis(duration), inherited))
        )
      )
    )
)

/**
 * Runs the effect without a deadline: for work that outlives the call that started it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const without = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  set(effect, Number.POSITIVE_INFINITY)

/**
 * How long there is left; zero if the deadline has passed, none if there is none.
 *
 * @since 0.1.0
 * @category accessors
 */
export const remaining: Effect.Effect<Option.Option<Duration.Duration>> = Effect.flatMap(current, (deadline) =>
  deadline === Number.POSITIVE_INFINITY
    ? Effect.succeed(Option.none())
    : Effect.map(Clock.currentTimeMillis, (now) => Option.some(Duration.millis(Math.max(0, deadline - now))))
)
