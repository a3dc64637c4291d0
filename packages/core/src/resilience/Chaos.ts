/**
 * Faults on purpose: errors, delays, made-up answers, defects, interruptions and calls that never end, done to a part of
 * the calls to see what the rest of the program makes of it. Off unless it is switched on.
 *
 * After Simmy, the chaos strategies of Polly (https://www.pollydocs.org/chaos/).
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import * as machine from "../internal/resilience/chaos.ts"
import type * as ErrorClass from "./ErrorClass.ts"

/**
 * What can be done to a call.
 *
 * @since 0.1.0
 * @category models
 */
export type Kind = machine.Kind

/**
 * Which keys are meant: those named, or those that the predicate holds for. A call without a key is not among them.
 *
 * @since 0.1.0
 * @category models
 */
export type Keys = machine.Keys

/**
 * Something was done to a call.
 *
 * @since 0.1.0
 * @category models
 */
export type Injected = machine.Injected

/**
 * What a fault fails with, and a defect dies with, if nothing else is given.
 *
 * @since 0.1.0
 * @category errors
 */
export class InjectedFault extends Schema.TaggedError<InjectedFault>("@underlay/core/InjectedFault")("InjectedFault", {
  kind: Schema.Literal("fault", "defect")
}) {
  override get message(): string {
    return `injected on purpose: a ${this.kind}`
  }
  get isRetryable(): boolean {
    return true
  }
  get errorClass(): ErrorClass.ErrorClass {
    return "transient"
  }
}

/**
 * The key of the call that is under way, for chaos that is to befall only some: an operation, a caller, a tenant. Set it
 * with `withKey`, or give `apply` one.
 *
 * @since 0.1.0
 * @category references
 */
export class Key extends Context.Reference<Key>()("@underlay/core/Chaos/Key", {
  defaultValue: (): string | undefined => undefined
}) {}

/**
 * What all injections are given.
 *
 * @since 0.1.0
 * @category models
 */
export interface InjectionOptions {
  /** Which part of the calls that come to it, 0 to 1. */
  readonly rate: number
  /** Only calls with these keys. */
  readonly keys?: Keys | undefined
  /** For streams: after how many elements, 0 being before the first. Effects take no notice of it. 0. */
  readonly afterElements?: number | undefined
}

/**
 * One thing that is done to some calls; `A` and `E` are what it makes calls answer and fail with.
 *
 * @since 0.1.0
 * @category models
 */
export interface Injection<out A = unknown, out E = unknown> extends machine.Injection {
  readonly effect: (mark: machine.Mark) => Effect.Effect<A, E>
  /** @internal What is wrong with its settings. */
  readonly problems: ReadonlyArray<string>
}

const injection = <A, E>(
  kind: Kind,
  continues: boolean,
  options: InjectionOptions,
  effect: Injection<A, E>["effect"],
  wrong: ReadonlyArray<string> = []
): Injection<A, E> => {
  const { afterElements = 0, keys, rate } = options
  const found = [...wrong]
  if (!(rate >= 0 && rate <= 1))
    found.push(`chaos: the rate of a ${kind} is ${rate}: give a part from 0 to 1 (0.1 is a tenth)`)
  if (!(Number.isInteger(afterElements) && afterElements >= 0)) {
    found.push(`chaos: afterElements of a ${kind} is ${afterElements}: give a whole number of 0 or more`)
  }
  return { kind, rate, keys, afterElements, continues, effect, problems: found }
}

/**
 * The call fails with this error, or with the one that the function makes each time; by default with `InjectedFault`,
 * which is transient. The service is not asked.
 *
 * An error that is given is not failed with itself, but with a view of it that can be told from it: prefer the function
 * for errors whose methods read private fields.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fault: {
  (options: InjectionOptions & { readonly error?: undefined }): Injection<never, InjectedFault>
  <E extends object>(options: InjectionOptions & { readonly error: E | (() => E) }): Injection<never, E>
} = (
  options: InjectionOptions & { readonly error?: object | (() => object) | undefined }
  // The overloads say what the error is.
): Injection<never, never> => {
  const { error } = options
  const make =
    typeof error === "function"
      ? (error as () => object)
      : error === undefined
        ? () => new InjectedFault({ kind: "fault" })
        : undefined
  return injection("fault", false, options, (mark) =>
    Effect.suspend(() => Effect.fail((make === undefined ? mark(Object(error)) : mark(make(), true)) as never))
  )
}

/**
 * The call begins this much later. With `interruptible: false` the delay cannot be cut short, as with work that takes no
 * notice of being cancelled.
 *
 * @since 0.1.0
 * @category constructors
 */
export const latency = (
  options: InjectionOptions & {
    readonly delay: Duration.DurationInput | Effect.Effect<Duration.DurationInput>
    readonly interruptible?: boolean | undefined
  }
): Injection<never, never> => {
  const { delay, interruptible = true } = options
  const fixed = Effect.isEffect(delay) ? undefined : Duration.decode(delay)
  const sleep = Effect.isEffect(delay) ? Effect.flatMap(delay, Effect.sleep) : Effect.sleep(delay)
  // It goes on to the call, so that its own value is nobody's.
  const effect = (interruptible ? sleep : Effect.uninterruptible(sleep)) as Effect.Effect<never>
  return injection(
    "latency",
    true,
    options,
    () => effect,
    fixed === undefined || Duration.isFinite(fixed)
      ? []
      : ["chaos: the delay of a latency is infinite: give a finite one, or use Chaos.hang"]
  )
}

/**
 * The call answers with this value, or with what the effect gives. The service is not asked.
 *
 * @since 0.1.0
 * @category constructors
 */
export const outcome = <A, E = never>(
  options: InjectionOptions & ({ readonly value: A } | { readonly effect: Effect.Effect<A, E> })
): Injection<A, E> => {
  const effect: Effect.Effect<A, E> = "effect" in options ? options.effect : Effect.succeed(options.value)
  return injection("outcome", false, options, (mark) => machine.marking(effect, mark))
}

/**
 * The call dies, as from a bug.
 *
 * @since 0.1.0
 * @category constructors
 */
export const defect = (
  options: InjectionOptions & { readonly defect?: (() => object) | undefined }
): Injection<never, never> => {
  const make = options.defect ?? (() => new InjectedFault({ kind: "defect" }))
  return injection("defect", false, options, (mark) => Effect.suspend(() => Effect.die(mark(make(), true))))
}

/**
 * The call ends as if somebody had interrupted it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const interrupt = (options: InjectionOptions): Injection<never, never> =>
  injection("interrupt", false, options, () => machine.interruption)

/**
 * The call never ends, until it is interrupted.
 *
 * @since 0.1.0
 * @category constructors
 */
export const hang = (options: InjectionOptions): Injection<never, never> =>
  injection("hang", false, options, () => Effect.never)

/**
 * Does this before the call, which is then made: restart a server, empty a cache, …
 *
 * @since 0.1.0
 * @category constructors
 */
export const behaviour = (
  options: InjectionOptions & { readonly effect: Effect.Effect<unknown> }
): Injection<never, never> =>
  // It goes on to the call, so that its own value is nobody's.
  injection("behaviour", true, options, () => options.effect as Effect.Effect<never>)

/**
 * @since 0.1.0
 * @category models
 */
export interface Options<out Injections extends ReadonlyArray<Injection> = ReadonlyArray<Injection>> {
  /** Named in what is told of it. "chaos". */
  readonly name?: string | undefined
  /** Whether it does anything; an effect is asked at each call. False. */
  readonly enabled?: boolean | Effect.Effect<boolean> | undefined
  /** Where the key of a call is read; by default the reference `Key`. */
  readonly key?: Effect.Effect<string | undefined> | undefined
  /** Only calls with these keys. */
  readonly keys?: Keys | undefined
  /** Lots are drawn from a generator of its own with this seed, so that the same calls come to the same. By default `Random`. */
  readonly seed?: number | string | undefined
  /**
   * Tried one after the other, each by its own rate of the calls that come to it: what only delays passes the call on to
   * the next, anything else ends it.
   */
  readonly injections: Injections
  /** Told of everything that is done, before it is. */
  readonly onInjected?: ((event: Injected) => Effect.Effect<void>) | undefined
}

/**
 * What can be seen of it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Snapshot {
  /** As it is set; `"asked"` if an effect is asked at each call. */
  readonly enabled: boolean | "asked"
  /** Calls that came by while it was on, since it was made. */
  readonly calls: number
  /** What was done to them. */
  readonly injected: Readonly<Record<Kind, number>>
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/Chaos")

/**
 * Chaos that may make calls answer `A` and fail with `E`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Chaos<out A = unknown, out E = unknown> {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** The effect, with chaos before it or in its place. Whether it is on is asked each time that the effect is run. */
  readonly apply: <A1, E1, R>(
    effect: Effect.Effect<A1, E1, R>,
    key?: string | undefined
  ) => Effect.Effect<A1 | A, E1 | E, R>
  /** The stream, with chaos before its first element or after some. */
  readonly applyStream: <A1, E1, R>(
    stream: Stream.Stream<A1, E1, R>,
    key?: string | undefined
  ) => Stream.Stream<A1 | A, E1 | E, R>
  /** Switches it on or off, whatever `enabled` said. */
  readonly setEnabled: (enabled: boolean) => Effect.Effect<void>
  /** Other settings from now on, `enabled` included; what was counted is kept. It can add nothing to the types. */
  reload(options: Options<ReadonlyArray<Injection<A, E>>>): Effect.Effect<void>
  readonly snapshot: Effect.Effect<Snapshot>
  /** @internal For policies, whose types do not say what chaos adds. */
  readonly machine: machine.ChaosMachine
  /** @internal How it is set, for descriptions. */
  readonly description: string
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Options): ReadonlyArray<string> => options.injections.flatMap((each) => each.problems)

const settingsOf = (options: Options): machine.Settings => ({
  name: options.name ?? "chaos",
  enabled: options.enabled ?? false,
  key: options.key ?? Key,
  keys: options.keys,
  seed: options.seed,
  injections: options.injections,
  onInjected: options.onInjected
})

const describe = (options: Options, enabled: boolean | Effect.Effect<boolean>): string => {
  const each = options.injections.map((one) => `${one.kind} ${Number((one.rate * 100).toFixed(4))} %`).join(", ")
  return `${each === "" ? "nothing" : each} (${enabled === true ? "on" : enabled === false ? "off" : "on when asked"})`
}

const checked = <A>(options: Options, then: () => A): Effect.Effect<A> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.sync(then)
      : Effect.dieMessage(`Chaos "${options.name ?? "chaos"}": ${wrong.join("; ")}`)
  })

type ValueOf<I> = I extends Injection<infer A, infer _E> ? A : never
type ErrorOf<I> = I extends Injection<infer _A, infer E> ? E : never

/**
 * Makes chaos, off unless `enabled` says otherwise. Settings that cannot work (a rate above 1, …) are defects that say what
 * to write instead.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <const Injections extends ReadonlyArray<Injection>>(
  options: Options<Injections>
): Effect.Effect<Chaos<ValueOf<Injections[number]>, ErrorOf<Injections[number]>>> =>
  checked(options, () => new ChaosImpl<ValueOf<Injections[number]>, ErrorOf<Injections[number]>>(options))

class ChaosImpl<A, E> implements Chaos<A, E> {
  readonly [TypeId]: typeof TypeId = TypeId
  readonly machine: machine.ChaosMachine
  readonly snapshot: Effect.Effect<Snapshot>
  private options: Options

  constructor(options: Options) {
    this.options = options
    this.machine = new machine.ChaosMachine(settingsOf(options))
    this.snapshot = Effect.sync(() => ({
      enabled: typeof this.machine.enabled === "boolean" ? this.machine.enabled : "asked",
      calls: this.machine.calls,
      injected: { ...this.machine.injected }
    }))
  }

  get name(): string {
    return this.options.name ?? "chaos"
  }

  get description(): string {
    return describe(this.options, this.machine.enabled)
  }

  // Fields, so that they can be taken out and passed on.
  readonly apply = <A1, E1, R>(effect: Effect.Effect<A1, E1, R>, key?: string): Effect.Effect<A1 | A, E1 | E, R> =>
    this.machine.apply<A1 | A, E1 | E, R>(effect, key)

  readonly applyStream = <A1, E1, R>(
    stream: Stream.Stream<A1, E1, R>,
    key?: string
  ): Stream.Stream<A1 | A, E1 | E, R> => this.machine.applyStream<A1 | A, E1 | E, R>(stream, key)

  readonly setEnabled = (enabled: boolean): Effect.Effect<void> =>
    Effect.sync(() => {
      this.machine.enabled = enabled
    })

  readonly reload = (options: Options): Effect.Effect<void> =>
    checked(options, () => {
      this.options = options
      this.machine.reload(settingsOf(options))
    })
}

/**
 * Whether it is chaos.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isChaos = (u: unknown): u is Chaos => typeof u === "object" && u !== null && TypeId in u

/**
 * Whether an error, a defect, or anything in a cause was injected, or was caused by what was.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isInjected = (u: unknown): boolean => machine.isInjected(u)

/**
 * The name of the chaos that an error comes from; undefined if it is a real one.
 *
 * @since 0.1.0
 * @category accessors
 */
export const injectedBy = (error: unknown): string | undefined => machine.injectedBy(error)

/**
 * Runs the effect under this key: chaos for certain keys befalls it, or does not.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withKey: {
  (key: string): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E, R> =>
    Effect.mapInputContext(effect, (context: Context.Context<R>) => Context.add(context, Key, key))
)
