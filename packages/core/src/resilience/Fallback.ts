/**
 * What to answer when a call has failed for good: a value, another effect, the last good answer. Interruptions are never
 * recovered from, defects only where it is asked for, and the error that led to a fallback stays visible in the error of a
 * fallback that fails too.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as reasons from "../internal/resilience/fallbackReason.ts"
import * as StaleValues from "../internal/resilience/staleValues.ts"

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Fallback")

/**
 * Turns errors `E` into values `A`, or fails with `E2`; `V` is what it may keep of calls that succeed. For streams `A` is a
 * stream.
 *
 * @since 0.1.0
 * @category models
 */
export interface Fallback<in E, out A, out E2 = never, out R = never, in V = unknown> {
  readonly [TypeId]: typeof TypeId
  readonly recover: (error: E) => Effect.Effect<A, E2, R>
  /** Told of what calls answer; undefined where nothing is kept. */
  readonly onSuccess: ((value: V) => Effect.Effect<void>) | undefined
  /** Whether defects are recovered from, too. */
  readonly defects: boolean
  /** What it does, in words. */
  readonly description: string
}

/**
 * A fallback for streams: what it answers with is a stream.
 *
 * @since 0.1.0
 * @category models
 */
export type StreamFallback<E, A, E2 = never, R = never> = Fallback<E, Stream.Stream<A, E2, R>, E2, R, never>

const make = <E, A, E2, R, V>(
  recover: (error: E) => Effect.Effect<A, E2, R>,
  description: string,
  onSuccess?: ((value: V) => Effect.Effect<void>) | undefined,
  defects = false
): Fallback<E, A, E2, R, V> => ({ [TypeId]: TypeId, recover, onSuccess, defects, description })

/**
 * Answers with this value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const value = <A>(value: A): Fallback<unknown, A> => {
  const answer = Effect.succeed(value)
  return make(() => answer, "a value")
}

/**
 * Answers with what this effect gives, which is told the error.
 *
 * @since 0.1.0
 * @category constructors
 */
export const effect = <E, A, E2, R>(f: (error: E) => Effect.Effect<A, E2, R>): Fallback<E, A, E2, R> =>
  make(f, "an effect")

/**
 * The fallback for errors that the predicate holds for; all others pass.
 *
 * @since 0.1.0
 * @category constructors
 */
export const when: {
  <E, E1 extends E, A, E2, R, V>(
    refinement: (error: E) => error is E1,
    fallback: Fallback<E1, A, E2, R, V>
  ): Fallback<E, A, E2 | Exclude<E, E1>, R, V>
  <E, A, E2, R, V>(predicate: (error: E) => boolean, fallback: Fallback<E, A, E2, R, V>): Fallback<E, A, E2 | E, R, V>
} = <E, A, E2, R, V>(
  predicate: (error: E) => boolean,
  fallback: Fallback<E, A, E2, R, V>
): Fallback<E, A, E2 | E, R, V> =>
  make<E, A, E2 | E, R, V>(
    (error) => (predicate(error) ? fallback.recover(error) : pass(error)),
    `${fallback.description} for some errors`,
    fallback.onSuccess,
    fallback.defects
  )

/** Not `Effect.fail`, which would wrap it anew under a span. */
const pass = <E>(error: E): Effect.Effect<never, E> => Effect.failCause(Cause.fail(error))

/**
 * The second one where the first one fails: the last good answer, or else a value.
 *
 * @since 0.1.0
 * @category combinators
 */
export const orElse: {
  <E2, A2, E3, R2, V2>(
    second: Fallback<E2, A2, E3, R2, V2>
  ): <E, A, R, V>(first: Fallback<E, A, E2, R, V>) => Fallback<E, A | A2, E3, R | R2, V & V2>
  <E, A, E2, R, V, A2, E3, R2, V2>(
    first: Fallback<E, A, E2, R, V>,
    second: Fallback<E2, A2, E3, R2, V2>
  ): Fallback<E, A | A2, E3, R | R2, V & V2>
} = dual(
  2,
  <E, A, E2, R, V, A2, E3, R2, V2>(
    first: Fallback<E, A, E2, R, V>,
    second: Fallback<E2, A2, E3, R2, V2>
  ): Fallback<E, A | A2, E3, R | R2, V & V2> => {
    const { onSuccess: one } = first
    const { onSuccess: two } = second
    return make<E, A | A2, E3, R | R2, V & V2>(
      (error) => run(recoverError(first, error, Cause.fail(error)), { ...second, onSuccess: undefined }),
      `${first.description}, or else ${second.description}`,
      one === undefined ? two : two === undefined ? one : (value) => Effect.zipRight(one(value), two(value)),
      first.defects
    )
  }
)

/**
 * The fallback for defects as well: they come to it as errors.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withDefects = <A, E2, R, V>(fallback: Fallback<unknown, A, E2, R, V>): Fallback<unknown, A, E2, R, V> =>
  make(fallback.recover, `${fallback.description}, for defects too`, fallback.onSuccess, true)

/**
 * An old answer that was given in place of a fresh one.
 *
 * @since 0.1.0
 * @category models
 */
export interface Served<out A> {
  readonly key: string
  readonly value: A
  /** Since it was fresh. */
  readonly age: Duration.Duration
  /** Why there was no fresh one. */
  readonly error: unknown
}

/**
 * @since 0.1.0
 * @category models
 */
export interface StaleOptions<in A = never> {
  /** How many keys are kept; the one that was used least recently goes first. */
  readonly capacity: number
  /** A value older than this is not served. */
  readonly maxAge: Duration.DurationInput
  /** Told of each old answer that is served. */
  readonly onServed?: ((served: Served<A>) => Effect.Effect<void>) | undefined
}

/**
 * The last good answers by key.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stale<A> {
  /**
   * The fallback for calls with this key: it keeps what they answer, and serves the last answer when they fail. Without one
   * that is young enough the error passes. `as` makes what is served tell that it is old. It keeps nothing of streams.
   */
  readonly for: {
    <E>(key: string): Fallback<E, A, E, never, A>
    <E, B>(key: string, as: (served: Served<A>) => B): Fallback<E, B, E, never, A>
  }
  /** The value kept for the key and its age, if it may still be served. */
  readonly get: (key: string) => Effect.Effect<Option.Option<{ readonly value: A; readonly age: Duration.Duration }>>
  /** Forgets what is kept for the key. */
  readonly forget: (key: string) => Effect.Effect<void>
  /** How many keys there are values for, those included that have become too old but were not met since. */
  readonly size: Effect.Effect<number>
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Pick<StaleOptions, "capacity" | "maxAge">): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (!(Number.isInteger(options.capacity) && options.capacity >= 1)) {
    found.push(`capacity is ${options.capacity}: give a whole number of 1 or more`)
  }
  if (!(Duration.toMillis(options.maxAge) > 0)) {
    found.push(
      "maxAge is not positive, so nothing could ever be served: give the longest time that an answer is of use"
    )
  }
  return found
}

/**
 * Makes a bounded store of the last good answers. Settings that cannot work are defects that say what to write instead.
 *
 * @since 0.1.0
 * @category constructors
 */
export const stale = <A>(options: StaleOptions<A>): Effect.Effect<Stale<A>> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.sync(() => makeStale(options))
      : Effect.dieMessage(`Fallback: ${wrong.join("; ")}`)
  })

const makeStale = <A>(options: StaleOptions<A>): Stale<A> => {
  const { capacity, onServed } = options
  const maxAge = Duration.toMillis(options.maxAge)
  const values = new StaleValues.StaleValues<A>(capacity, maxAge)
  const description = `the last good answer, at most ${Number.isFinite(maxAge) ? Duration.format(maxAge) : "any time"} old`
  const forKey = <E, B>(key: string, as: (served: Served<A>) => B): Fallback<E, B, E, never, A> =>
    make<E, B, E, never, A>(
      (error) =>
        withNow((now): Effect.Effect<B, E> => {
          const found = values.get(key, now)
          if (found === undefined) return pass(error)
          const served: Served<A> = { key, value: found.value, age: Duration.millis(found.age), error }
          return onServed === undefined ? Effect.sync(() => as(served)) : Effect.map(onServed(served), () => as(served))
        }),
      description,
      (value) =>
        withNow((now) => {
          values.set(key, value, now)
          return Effect.void
        })
    )
  const valueOf = (served: Served<A>): A => served.value
  return {
    for: <E, B>(key: string, as?: (served: Served<A>) => A | B): Fallback<E, A | B, E, never, A> =>
      forKey<E, A | B>(key, as ?? valueOf),
    get: (key) =>
      withNow((now) => {
        const found = values.get(key, now)
        return Effect.succeed(
          found === undefined ? Option.none() : Option.some({ value: found.value, age: Duration.millis(found.age) })
        )
      }),
    forget: (key) => withNow((now) => Effect.sync(() => values.delete(key, now))),
    size: Effect.sync(() => values.size)
  }
}

/** The time in milliseconds by the clock that does not step, where there is one. */
const withNow = <A, E, R>(f: (now: number) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) =>
    f(Number(Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeNanos()) / 1_000_000)
  )

/**
 * Whether it is a fallback.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isFallback = (u: unknown): u is Fallback<never, unknown, unknown, unknown, never> =>
  typeof u === "object" && u !== null && TypeId in u

/**
 * The error that led to a fallback which failed with the given error; undefined if none did.
 *
 * @since 0.1.0
 * @category accessors
 */
export const reason = (error: unknown): unknown => reasons.reasonOf(error)

/** @internal What becomes of a failed call: its errors are the fallback's, everything else stays what it is. */
export const recoverCause = <E, A, E2, R, V>(
  fallback: Fallback<E, A, E2, R, V>,
  cause: Cause.Cause<E>
): Effect.Effect<A, E2, R> => {
  const defect = Cause.dieOption(cause)
  // A bug beside an error is no less a bug.
  if (Option.isSome(defect) && !fallback.defects) return Effect.failCause(Cause.flatMap(cause, Cause.die))
  const failure = Cause.failureOption(cause)
  // With `defects` set, `E` is unknown.
  if (Option.isSome(failure)) return recoverError(fallback, failure.value, cause)
  if (Option.isSome(defect)) return recoverError(fallback, defect.value as E, cause)
  return Effect.failCause(cause as Cause.Cause<never>)
}

const recoverError = <E, A, E2, R, V>(
  fallback: Fallback<E, A, E2, R, V>,
  error: E,
  original: Cause.Cause<E>
): Effect.Effect<A, E2, R> =>
  Effect.catchAllCause(
    Effect.suspend(() => fallback.recover(error)),
    (cause) => Effect.failCause(reasons.withReason(cause, error, original))
  )

/**
 * Runs the effect; if it fails, the fallback answers. What is left as an error is the fallback's.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  <E, A2, E2, R2, V>(
    fallback: Fallback<E, A2, E2, R2, V>
  ): <A extends V, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A | A2, E2, R | R2>
  <A, E, R, A2, E2, R2>(
    effect: Effect.Effect<A, E, R>,
    fallback: Fallback<E, A2, E2, R2, A>
  ): Effect.Effect<A | A2, E2, R | R2>
} = dual(
  2,
  <A, E, R, A2, E2, R2>(
    effect: Effect.Effect<A, E, R>,
    fallback: Fallback<E, A2, E2, R2, A>
  ): Effect.Effect<A | A2, E2, R | R2> => {
    const { onSuccess } = fallback
    if (onSuccess === undefined) return Effect.catchAllCause(effect, (cause) => recoverCause(fallback, cause))
    return Effect.matchCauseEffect(effect, {
      onFailure: (cause): Effect.Effect<A | A2, E2, R2> => recoverCause(fallback, cause),
      onSuccess: (value) => Effect.as(onSuccess(value), value)
    })
  }
)

/**
 * Runs the stream; if it fails before its first element, the stream that the fallback gives takes its place. What fails
 * later is the reader's to see, who has had a part of it already.
 *
 * @since 0.1.0
 * @category combinators
 */
export const runStream: {
  <E, A2, E3, R3, E2, R2>(
    fallback: Fallback<E, Stream.Stream<A2, E3, R3>, E2, R2, never>
  ): <A, R>(stream: Stream.Stream<A, E, R>) => Stream.Stream<A | A2, E | E2 | E3, R | R2 | R3>
  <A, E, R, A2, E3, R3, E2, R2>(
    stream: Stream.Stream<A, E, R>,
    fallback: Fallback<E, Stream.Stream<A2, E3, R3>, E2, R2, never>
  ): Stream.Stream<A | A2, E | E2 | E3, R | R2 | R3>
} = dual(
  2,
  <A, E, R, A2, E3, R3, E2, R2>(
    stream: Stream.Stream<A, E, R>,
    fallback: Fallback<E, Stream.Stream<A2, E3, R3>, E2, R2, never>
  ): Stream.Stream<A | A2, E | E2 | E3, R | R2 | R3> =>
    Stream.suspend(() => {
      let begun = false
      return Stream.mapChunks(stream, (chunk) => {
        if (Chunk.isNonEmpty(chunk)) begun = true
        return chunk
      }).pipe(
        Stream.catchAllCause(
          (cause): Stream.Stream<A2, E | E2 | E3, R2 | R3> =>
            begun ? Stream.failCause(cause) : Stream.unwrap(recoverCause(fallback, cause))
        )
      )
    })
)
