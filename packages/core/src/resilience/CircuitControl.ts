/**
 * Circuits that are held open, or switched off, for a whole cluster: an operator says it once and every process that
 * follows does it. Nothing else is shared, so that one process with a bad network cannot open the circuits of the others.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as CircuitBreakers from "./CircuitBreakers.ts"

/**
 * @since 0.1.0
 * @category schemas
 */
export const Mode = Schema.Literal("forced-open", "disabled", "metrics-only")

/**
 * @since 0.1.0
 * @category models
 */
export type Mode = typeof Mode.Type

/**
 * What somebody has said of a circuit: of the breaker with that name, of a whole registry (`hosts`) or of one of its keys
 * (`hosts/api.example.com`, which goes before the registry's). `until` is in milliseconds since 1970, null for as long as
 * nobody says otherwise. As a schema, for adapters that keep it as JSON.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Override = Schema.Struct({
  name: Schema.NonEmptyString,
  mode: Mode,
  until: Schema.NullOr(Schema.Finite),
  reason: Schema.NullOr(Schema.String)
})

/**
 * @since 0.1.0
 * @category models
 */
export interface Override extends Schema.Schema.Type<typeof Override> {}

/**
 * - `InvalidOverride`: what was to be set cannot be.
 * - `Unavailable`, `Timeout`: the backend cannot be reached, or did not answer in time.
 * - `Rejected`: the backend answered with a refusal, or with what nobody can read.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal("InvalidOverride", "Unavailable", "Timeout", "Rejected")

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of the control. Breakers that follow do not notice: they go on by themselves.
 *
 * @since 0.1.0
 * @category errors
 */
export class CircuitControlError extends Schema.TaggedError<CircuitControlError>(
  "@underlay/core/resilience/CircuitControlError"
)("CircuitControlError", {
  reason: Reason,
  method: Schema.String,
  description: Schema.String,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return `CircuitControl.${this.method}: ${this.description}`
  }

  /** Whether the same call can be made again: every operation may be done twice. */
  get isRetryable(): boolean {
    return this.reason === "Unavailable" || this.reason === "Timeout"
  }
}

/**
 * Settings of an override.
 *
 * @since 0.1.0
 * @category models
 */
export interface SetOptions {
  /** For how long; by default until it is cleared. */
  readonly for?: Duration.DurationInput | undefined
  /** For those who look at it later. */
  readonly reason?: string | undefined
}

/**
 * Where overrides are kept. An adapter has few of them, reads them all at once, and tells at once that something changed;
 * what it does not tell is found at the next regular reading.
 *
 * @since 0.1.0
 * @category tags
 */
export class CircuitControl extends Context.Tag("@underlay/core/resilience/CircuitControl")<
  CircuitControl,
  {
    /** Sets the override of that name, in place of any before. */
    readonly set: (name: string, mode: Mode, options?: SetOptions) => Effect.Effect<void, CircuitControlError>
    /** Takes the override of that name away; whether there was one. */
    readonly clear: (name: string) => Effect.Effect<boolean, CircuitControlError>
    /** All that hold now, in no certain order. */
    readonly overrides: Effect.Effect<ReadonlyArray<Override>, CircuitControlError>
    /** An element as soon as changes are heard, and one after every change: the overrides are to be read again. */
    readonly changes: Stream.Stream<void, CircuitControlError>
  }
>() {}

/**
 * @since 0.1.0
 * @category models
 */
export type Service = Context.Tag.Service<typeof CircuitControl>

/**
 * The override that `set` is to keep, checked. For adapters.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeOverride = (
  name: string,
  mode: Mode,
  options?: SetOptions
): Effect.Effect<Override, CircuitControlError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const wrong = (description: string) =>
      Effect.fail(new CircuitControlError({ reason: "InvalidOverride", method: "set", description }))
    const millis = options?.for === undefined ? undefined : Duration.toMillis(options.for)
    if (name === "") return wrong("the name is empty: give that of a breaker or a registry")
    if (!Schema.is(Mode)(mode)) return wrong("the mode is none of forced-open, disabled and metrics-only")
    if (millis !== undefined && !(millis > 0)) return wrong("the time is not positive: give how long it is to hold")
    return Effect.succeed({
      name,
      mode,
      until: millis === undefined || millis === Number.POSITIVE_INFINITY ? null : now + millis,
      reason: options?.reason ?? null
    })
  })

/**
 * Within this process.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory: Effect.Effect<Service> = Effect.gen(function* () {
  const kept = new Map<string, Override>()
  const told = yield* PubSub.sliding<void>(1)
  const live = (now: number): ReadonlyArray<Override> => {
    for (const [name, each] of kept) if (each.until !== null && each.until <= now) kept.delete(name)
    return [...kept.values()]
  }
  return {
    set: (name, mode, options) =>
      Effect.flatMap(makeOverride(name, mode, options), (override) => {
        kept.set(name, override)
        return Effect.asVoid(PubSub.publish(told, undefined))
      }),
    clear: (name) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        live(now)
        return Effect.as(PubSub.publish(told, undefined), kept.delete(name))
      }),
    overrides: Effect.map(Clock.currentTimeMillis, live),
    changes: Stream.unwrapScoped(
      Effect.map(Stream.fromPubSub(told, { scoped: true }), (changes) => Stream.concat(Stream.make(undefined), changes))
    )
  }
})

/**
 * Within this process: for one process, and for tests.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<CircuitControl> = Layer.effect(CircuitControl, makeMemory)

/**
 * @since 0.1.0
 * @category models
 */
export interface FollowOptions {
  /** How often the overrides are read though nothing was told. 30 seconds. */
  readonly refresh?: Duration.DurationInput | undefined
  /** How long one reading may take. 5 seconds. */
  readonly timeout?: Duration.DurationInput | undefined
  /** How long what was read last holds while the control is away. Afterwards the breakers go on by themselves. 1 minute. */
  readonly staleAfter?: Duration.DurationInput | undefined
}

/** The longest wait before a control that is away is asked again. */
const longestWait = 5_000

/**
 * Lets breakers and registries do what the control says, until the scope closes. An override goes before the mode that was
 * set at the breaker. It returns when the overrides were read once, or could not be: a control that is away is asked
 * again and again meanwhile, and the breakers go on by themselves. It costs one fiber however many breakers there are.
 *
 * @since 0.1.0
 * @category combinators
 */
export const follow = (
  targets:
    | CircuitBreaker.CircuitBreaker
    | CircuitBreakers.CircuitBreakers
    | ReadonlyArray<CircuitBreaker.CircuitBreaker | CircuitBreakers.CircuitBreakers>,
  options?: FollowOptions
): Effect.Effect<void, never, CircuitControl | Scope.Scope> =>
  Effect.gen(function* () {
    const control = yield* CircuitControl
    const clock = yield* Effect.clock
    const refresh = options?.refresh ?? "30 seconds"
    const staleAfter = Duration.toMillis(options?.staleAfter ?? "1 minute")
    const all = "name" in targets ? [targets] : targets
    let heardAt: number | undefined
    let failures = 0
    const apply = (overrides: ReadonlyArray<Override>): void => {
      const now = clock.unsafeCurrentTimeMillis()
      const byName = new Map<string, CircuitBreaker.Override>()
      for (const { mode, name, until } of overrides) {
        byName.set(name, { mode, until: until ?? Number.POSITIVE_INFINITY })
      }
      for (const target of all) target.control(byName, now)
    }
    const read = control.overrides.pipe(
      // Nor may one that cannot be interrupted hold it up.
      Effect.disconnect,
      Effect.timeout(options?.timeout ?? "5 seconds"),
      Effect.flatMap((overrides) =>
        Effect.sync(() => {
          heardAt = clock.unsafeCurrentTimeMillis()
          apply(overrides)
        })
      )
    )
    /** Ends with the first failure; one that was well for a while makes those before forgotten. */
    const session = Effect.suspend(() => {
      const since = clock.unsafeCurrentTimeMillis()
      return control.changes.pipe(
        Stream.merge(Stream.tick(refresh)),
        Stream.buffer({ capacity: 1, strategy: "sliding" }),
        Stream.runForEach(() => read),
        Effect.exit,
        Effect.andThen(
          Effect.sync(() => {
            if (clock.unsafeCurrentTimeMillis() - since > longestWait) failures = 0
          })
        )
      )
    })
    /** For how long what was read last still holds; infinite if nothing does. */
    const left = (): number => {
      if (heardAt === undefined) return Number.POSITIVE_INFINITY
      const now = clock.unsafeCurrentTimeMillis()
      // After a step back of the clock it is as if it had been read now.
      heardAt = Math.min(heardAt, now)
      return Math.max(0, heardAt + staleAfter - now)
    }
    const away = Effect.gen(function* () {
      yield* Effect.sleep(Math.min(left(), longestWait, 250 * 2 ** failures++))
      if (left() === 0) {
        heardAt = undefined
        apply([])
      }
    })
    yield* Effect.addFinalizer(() => Effect.sync(() => apply([])))
    yield* Effect.exit(read)
    yield* Effect.forkScoped(
      // Read also where nothing tells of changes: hearing of them may be all that fails.
      Effect.forever(Effect.andThen(Effect.andThen(session, away), Effect.exit(read)))
    )
  })
