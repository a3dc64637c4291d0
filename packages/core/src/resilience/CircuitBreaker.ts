/**
 * A circuit breaker: after too many failures (or too many slow calls) calls are refused at once, until probes show that the
 * service is back.
 *
 * Permits carry the generation of the state that gave them, so a late result of an earlier time changes counters and
 * nothing else. Interruption is neutral, a defect is a failure, refusals of our own never count. There is no timer and no
 * fiber: the state is computed when it is looked at. Of a call only how it went is kept: no error, no value, no request.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as machine from "../internal/resilience/breaker.ts"
import { currentRandom } from "../internal/resilience/currentRandom.ts"
import { Rejection } from "../internal/resilience/rejection.ts"
import * as ErrorClass from "./ErrorClass.ts"

/**
 * @since 0.1.0
 * @category schemas
 */
export const State = Schema.Literal("closed", "open", "half-open")

/**
 * @since 0.1.0
 * @category models
 */
export type State = machine.State

/**
 * A change of state and when it was seen (milliseconds since 1970). Time alone tells nobody: `open` becomes `half-open`
 * when somebody calls or looks.
 *
 * @since 0.1.0
 * @category models
 */
export type Change = machine.Change

/**
 * @since 0.1.0
 * @category schemas
 */
export const Mode = Schema.Literal("automatic", "forced-open", "disabled", "metrics-only")

/**
 * `forced-open` refuses every call; `disabled` lets every call pass and counts nothing for the state; `metrics-only` lets
 * every call pass too and keeps the books: `Snapshot.wouldBe` is the state that `automatic` would be in.
 *
 * @since 0.1.0
 * @category models
 */
export type Mode = machine.Mode

/**
 * How a call went, as far as the breaker minds.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome = machine.Outcome

/**
 * What counts for opening.
 *
 * - `consecutive`: that many failures in a row.
 * - `count`: a rate of failures (0 to 1) among the last `size` results, once there are `minimumCalls` of them (by default
 *   as many as the size).
 * - `time`: a rate of failures among the results of the last `over`, once there are `minimumCalls` of them (20). It is kept
 *   in `buckets` (10) of at least a millisecond each, so results are forgotten a bucket at a time.
 *
 * @since 0.1.0
 * @category models
 */
export type Window =
  | { readonly type: "consecutive"; readonly failures: number }
  | {
      readonly type: "count"
      readonly size: number
      readonly failureRate: number
      readonly minimumCalls?: number | undefined
    }
  | {
      readonly type: "time"
      readonly over: Duration.DurationInput
      readonly failureRate: number
      readonly minimumCalls?: number | undefined
      readonly buckets?: number | undefined
    }

/**
 * A time that grows with every opening in a row: `initial`, then times `factor` (2) each time, up to `max` (5 minutes).
 *
 * @since 0.1.0
 * @category models
 */
export interface Growing {
  readonly initial: Duration.DurationInput
  readonly factor?: number | undefined
  readonly max?: Duration.DurationInput | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What it guards; named in `CircuitOpen`. */
  readonly name: string
  /** By default 5 failures in a row. */
  readonly window?: Window | undefined
  /** A call that takes longer is slow (a stream: that waits longer for its first element). By default none is. */
  readonly slowCallDuration?: Duration.DurationInput | undefined
  /**
   * The part of slow calls in a `count` or `time` window that opens it, whether they succeed or not; a slow probe counts as
   * one that failed. By default slow calls are only counted.
   */
  readonly slowCallRate?: number | undefined
  /**
   * For how long it stays open: fixed, growing, or a function that is given how often it has opened since it was last
   * closed (from 1). 30 seconds, which is also what is taken for a function that throws, or gives a time that is negative
   * or not finite.
   */
  readonly openFor?: Duration.DurationInput | Growing | ((openings: number) => Duration.DurationInput) | undefined
  /** By up to this part (below 1) the open time is shortened at random, so that many do not probe at once. 0. */
  readonly openJitter?: number | undefined
  /** Gives numbers from 0 to 1 for the jitter. By default the `Random` of the fiber whose call opens it. */
  readonly random?: (() => number) | undefined
  /**
   * Where the failure that opens it says when to ask again (`ErrorClass.Classification`), it stays open at least for that
   * long, but because of it never longer than this. By default what the service asks for is not minded here.
   */
  readonly retryAfterCap?: Duration.DurationInput | undefined
  /** How many calls may probe in half-open; all others are refused. 1. */
  readonly halfOpenPermits?: number | undefined
  /** Which part of the probes must succeed to close, above 0 to 1. 1. */
  readonly halfOpenSuccessRate?: number | undefined
  /** How long a probe may take before its place is given to another. 60 seconds. */
  readonly probeLease?: Duration.DurationInput | undefined
  /**
   * After closing (and after being forced open) only a part of the calls passes, growing evenly from `from` (above 0) to all
   * over that time; the others are refused with a short `retryAfter`. The state is `closed`; an opening meanwhile is one
   * more in a row. By default all calls pass at once.
   */
  readonly rampUp?: { readonly over: Duration.DurationInput; readonly from: number } | undefined
  /** Classifies errors. By default `ErrorClass.classify`. */
  readonly classify?: ErrorClass.Classify | undefined
  /**
   * What an error counts as. By default: transient and unknown errors are failures, permanent ones successes (the service
   * answered), rate limits and cancellations neutral. An error that this or `classify` throws upon is a failure.
   */
  readonly counts?: ((found: ErrorClass.Classification, error: unknown) => Outcome) | undefined
}

/**
 * The call was refused because the circuit is open. A plain object without a stack: refusing must be cheap.
 *
 * @since 0.1.0
 * @category errors
 */
export class CircuitOpen extends Rejection {
  readonly _tag = "CircuitOpen"
  /** When to ask again; infinite if the breaker is forced open. */
  readonly retryAfter: Duration.Duration

  constructor(options: { readonly service: string; readonly retryAfter: Duration.Duration }) {
    super(options.service)
    this.retryAfter = options.retryAfter
  }
  override get message(): string {
    return Duration.isFinite(this.retryAfter)
      ? `${this.service}: the circuit is open, ask again in ${Duration.format(this.retryAfter)}`
      : `${this.service}: the circuit is held open`
  }
}

const count = Schema.NonNegativeInt
/** As many as a bucket can count: more would never be forgotten. */
const inBucket = Schema.Int.pipe(Schema.between(0, 2 ** 32 - 1))
const moment = Schema.Finite
const share = Schema.Finite.pipe(Schema.between(0, 1))

/**
 * What can be seen of a breaker, as data: it goes through JSON, and `restore` takes it back. Moments are milliseconds since
 * 1970.
 *
 * - `wouldBe`: the state by the results alone, which differs from `state` in `metrics-only`.
 * - `override`: what shared control says, which goes before `mode`; null for nothing.
 * - `calls`, `failures`, `slow`: in the window (or failures in a row), with their rates; null where there are no calls or no
 *   window.
 * - `openings`: in a row. `rampShare`: the part of calls that pass while it is closed.
 * - `counters`: since it was made; `wouldReject` are calls that `metrics-only` let pass though they would have been refused,
 *   `stale` results that came after the state had changed, `leasesLost` probes that never settled.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Snapshot = Schema.Struct({
  at: moment,
  state: State,
  wouldBe: State,
  mode: Mode,
  override: Schema.NullOr(Mode),
  generation: count,
  calls: count,
  failures: count,
  failureRate: Schema.NullOr(share),
  slow: count,
  slowRate: Schema.NullOr(share),
  inFlight: count,
  probesInFlight: count,
  openings: count,
  openedAt: Schema.NullOr(moment),
  openUntil: Schema.NullOr(moment),
  rampShare: share,
  rampUntil: Schema.NullOr(moment),
  window: Schema.Union(
    Schema.Struct({ type: Schema.Literal("consecutive"), failures: count }),
    Schema.Struct({ type: Schema.Literal("count"), results: Schema.String.pipe(Schema.pattern(/^[0-3]{0,1000000}$/)) }),
    Schema.Struct({
      type: Schema.Literal("time"),
      over: Schema.Finite.pipe(Schema.positive()),
      buckets: Schema.Array(Schema.Tuple(inBucket, inBucket, inBucket)).pipe(Schema.maxItems(10_000)),
      since: moment
    })
  ),
  counters: Schema.Struct({
    successes: count,
    failures: count,
    neutral: count,
    slow: count,
    rejected: count,
    wouldReject: count,
    stale: count,
    leasesLost: count,
    opened: count
  })
})

/**
 * @since 0.1.0
 * @category models
 */
export interface Snapshot extends Schema.Schema.Type<typeof Snapshot> {}

/**
 * What was to be restored is no snapshot, or contradicts itself. The breaker is as it was.
 *
 * @since 0.1.0
 * @category errors
 */
export class SnapshotInvalid extends Schema.TaggedError<SnapshotInvalid>(
  "@underlay/core/resilience/CircuitBreaker/SnapshotInvalid"
)("SnapshotInvalid", { service: Schema.String, problem: Schema.String }) {
  override get message(): string {
    return `${this.service}: the snapshot cannot be restored: ${this.problem}`
  }
  get isRetryable(): boolean {
    return false
  }
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/CircuitBreaker")

/**
 * @since 0.1.0
 * @category models
 */
export interface CircuitBreaker {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /** Runs the effect if the circuit lets it, and counts how it went. */
  run<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R>
  readonly state: Effect.Effect<State>
  readonly snapshot: Effect.Effect<Snapshot>
  /** Changes of state from now on. Slow readers lose the oldest beyond 64. */
  readonly changes: Stream.Stream<Change>
  /** Overrides the state machine. Another mode than before starts from closed and without results. */
  setMode(mode: Mode): Effect.Effect<void>
  /** Closes it and forgets its results (not its counters); its mode is `automatic` then. Shared control still goes before. */
  readonly reset: Effect.Effect<void>
  /**
   * Goes on where a snapshot was taken, such as before a restart: mode, state, results and counters. What was open stays so
   * for what is left of its time, and never longer than the settings say; probes that were under way are made anew.
   */
  restore(snapshot: unknown): Effect.Effect<void, SnapshotInvalid>
  /**
   * Other settings from now on; what is left out is the default. The state and the calls under way stay, but an open time,
   * a probe's lease and a ramp last no longer from now on than the new settings say. Results stay if the window is of the
   * same type (and, for `time`, of the same length and buckets). Settings that cannot work are a defect, as in `make`, and
   * change nothing.
   */
  reload(options: Omit<Options, "name">): Effect.Effect<void>
  /** What this cause counts as. */
  outcome(cause: Cause.Cause<unknown>): Outcome
  /** @internal Gives a permit back with the exit of its call; undefined where the call was given up as too slow. */
  settle(permit: machine.Permit, exit: Exit.Exit<unknown, unknown> | undefined, now: number): void
  /** @internal */
  readonly machine: machine.Breaker
  /** @internal What shared control says, by name. */
  control(overrides: ReadonlyMap<string, Override>, now: number): void
  /** @internal How it was made, for descriptions. */
  readonly description: string
}

/** @internal A mode that is set from elsewhere, until a moment in milliseconds since 1970. */
export interface Override {
  readonly mode: Mode
  readonly until: number
}

const defaultCounts = (found: ErrorClass.Classification): Outcome => {
  if (found.rejection === true) return "neutral"
  switch (found.class) {
    case "transient":
      return "failure"
    case "permanent":
      return found.assumed === true ? "failure" : "success"
    default:
      return "neutral"
  }
}

const isGrowing = (openFor: NonNullable<Options["openFor"]>): openFor is Growing =>
  typeof openFor === "object" && "initial" in openFor

const positiveInteger = (value: number): boolean => Number.isInteger(value) && value >= 1

/** Finite, so that it can be waited for. */
const positiveTime = (value: Duration.DurationInput): boolean => {
  const millis = Duration.toMillis(value)
  return millis > 0 && Number.isFinite(millis)
}

const isRate = (value: number): boolean => value > 0 && value <= 1

/** Shorter than a millisecond they would tell nothing apart. */
const mostBuckets = (over: Duration.DurationInput): number => Math.max(1, Math.floor(Duration.toMillis(over)))

const windowProblems = (window: Window): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (window.type === "consecutive") {
    if (!positiveInteger(window.failures)) {
      found.push(`breaker.window.failures is ${window.failures}: give a whole number of 1 or more`)
    }
    return found
  }
  if (window.type === "count" && !(positiveInteger(window.size) && window.size <= 1_000_000)) {
    found.push(`breaker.window.size is ${window.size}: give a whole number from 1 to 1,000,000`)
  }
  if (window.type === "time" && !positiveTime(window.over)) {
    found.push(`breaker.window.over is ${Duration.toMillis(window.over)} ms: give a positive, finite duration`)
  }
  if (window.type === "time" && window.buckets !== undefined) {
    if (!(positiveInteger(window.buckets) && window.buckets <= 10_000)) {
      found.push(`breaker.window.buckets is ${window.buckets}: give a whole number from 1 to 10,000`)
    } else if (window.buckets > mostBuckets(window.over)) {
      found.push(
        `breaker.window.buckets (${window.buckets}) are shorter than the clock's millisecond: lower buckets to ` +
          `${mostBuckets(window.over)} or less, or raise over`
      )
    }
  }
  if (!isRate(window.failureRate)) {
    found.push(`breaker.window.failureRate is ${window.failureRate}: give a part above 0 and up to 1 (0.5 is half)`)
  }
  if (window.minimumCalls !== undefined && !positiveInteger(window.minimumCalls)) {
    found.push(`breaker.window.minimumCalls is ${window.minimumCalls}: give a whole number of 1 or more`)
  } else if (window.type === "count" && (window.minimumCalls ?? 0) > window.size) {
    found.push(
      `breaker.window.minimumCalls (${window.minimumCalls}) is more than its size (${window.size}), so the circuit could` +
        " never open: lower minimumCalls or raise size"
    )
  }
  return found
}

const openForProblems = (openFor: NonNullable<Options["openFor"]>): ReadonlyArray<string> => {
  if (typeof openFor === "function") return []
  const found: Array<string> = []
  const check = (name: string, value: Duration.DurationInput): void => {
    if (!positiveTime(value)) {
      found.push(`breaker.${name} is ${Duration.toMillis(value)} ms: give a positive, finite duration`)
    }
  }
  if (!isGrowing(openFor)) {
    check("openFor", openFor)
    return found
  }
  check("openFor.initial", openFor.initial)
  if (openFor.max !== undefined) check("openFor.max", openFor.max)
  if (openFor.factor !== undefined && !(openFor.factor >= 1 && Number.isFinite(openFor.factor))) {
    found.push(`breaker.openFor.factor is ${openFor.factor}: give 1 or more (2 doubles the time)`)
  }
  if (Duration.greaterThan(openFor.initial, openFor.max ?? defaultMax)) {
    found.push(
      `breaker.openFor.initial (${Duration.format(openFor.initial)}) is longer than its max ` +
        `(${Duration.format(openFor.max ?? defaultMax)}): lower initial or raise max`
    )
  }
  return found
}

const defaultMax = Duration.minutes(5)

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Omit<Options, "name"> & { readonly name?: string }): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (options.window !== undefined) found.push(...windowProblems(options.window))
  if (options.openFor !== undefined) found.push(...openForProblems(options.openFor))
  const { openJitter: jitter, slowCallDuration: slowAfter, slowCallRate: slowRate, rampUp } = options
  if (slowAfter !== undefined && !positiveTime(slowAfter)) {
    found.push(`breaker.slowCallDuration is ${Duration.toMillis(slowAfter)} ms: give a positive, finite duration`)
  }
  if (slowRate !== undefined) {
    if (!isRate(slowRate)) found.push(`breaker.slowCallRate is ${slowRate}: give a part above 0 and up to 1`)
    if (slowAfter === undefined) {
      found.push("breaker.slowCallRate is set but no call is ever slow: set slowCallDuration too")
    }
    if (options.window === undefined || options.window.type === "consecutive") {
      found.push(
        'breaker.slowCallRate is not minded in a window of type "consecutive": give one of type "count" or "time"'
      )
    }
  }
  if (jitter !== undefined && !(jitter >= 0 && jitter < 1)) {
    found.push(`breaker.openJitter is ${jitter}: give a part from 0 and below 1`)
  }
  if (options.retryAfterCap !== undefined && !positiveTime(options.retryAfterCap)) {
    found.push("breaker.retryAfterCap is not positive and finite: give the longest time that the service may ask for")
  }
  if (options.halfOpenPermits !== undefined && !positiveInteger(options.halfOpenPermits)) {
    found.push(`breaker.halfOpenPermits is ${options.halfOpenPermits}: give a whole number of 1 or more`)
  }
  const rate = options.halfOpenSuccessRate
  if (rate !== undefined && !isRate(rate)) {
    found.push(`breaker.halfOpenSuccessRate is ${rate}: give a part above 0 and up to 1`)
  }
  if (options.probeLease !== undefined && !positiveTime(options.probeLease)) {
    found.push("breaker.probeLease is not positive and finite: give the longest time that a probe may take")
  }
  if (rampUp !== undefined) {
    if (!positiveTime(rampUp.over)) {
      found.push(`breaker.rampUp.over is ${Duration.toMillis(rampUp.over)} ms: give a positive, finite duration`)
    }
    if (!isRate(rampUp.from)) {
      found.push(`breaker.rampUp.from is ${rampUp.from}: give a part above 0 and up to 1 (0.1 is every tenth call)`)
    }
  }
  return found
}

/** @internal What the machine minds, and what of it the errors are judged by. */
export interface Settings extends machine.Settings {
  readonly classify: ErrorClass.Classify
  readonly counts: (found: ErrorClass.Classification, error: unknown) => Outcome
}

const compileWindow = (window: Window | undefined): machine.WindowSettings => {
  if (window === undefined) return defaultWindow
  switch (window.type) {
    case "consecutive":
      return { type: "consecutive", failures: window.failures }
    case "count":
      return {
        type: "count",
        size: window.size,
        failureRate: window.failureRate,
        minimumCalls: window.minimumCalls ?? window.size
      }
    case "time":
      return {
        type: "time",
        over: Duration.toMillis(window.over),
        buckets: window.buckets ?? Math.min(10, mostBuckets(window.over)),
        failureRate: window.failureRate,
        minimumCalls: window.minimumCalls ?? 20
      }
  }
}

const compileOpenFor = (openFor: NonNullable<Options["openFor"]>): machine.Settings["openFor"] => {
  if (typeof openFor === "function") return openFor
  if (!isGrowing(openFor)) return Duration.toMillis(openFor)
  return sharedGrowing({
    initial: Duration.toMillis(openFor.initial),
    factor: openFor.factor ?? 2,
    max: Duration.toMillis(openFor.max ?? defaultMax)
  })
}

const defaultWindow: machine.WindowSettings = { type: "consecutive", failures: 5 }

/** Data that is made again and again, such as the settings of a breaker for each host: the last few that are in use. */
const makeShared = <A extends object>(): ((made: A) => A) => {
  const recent: Array<WeakRef<A>> = []
  return (made) => {
    for (const each of recent) {
      const known = each.deref()
      if (known !== undefined && alike(known, made)) return known
    }
    if (recent.length === 8) recent.shift()
    recent.push(new WeakRef(made))
    return made
  }
}

/** Both are of the same kind, with the same keys where what tells the kinds apart is the same. */
const alike = <A extends object>(a: A, b: A): boolean =>
  Object.entries(a).every(([key, value]) => Object.is(value, Reflect.get(b, key)))

// Also the parts, for breakers of which each has a little of its own.
const sharedWindow = makeShared<machine.WindowSettings>()
const sharedGrowing = makeShared<machine.Growing>()
const sharedRamp = makeShared<NonNullable<machine.Settings["ramp"]>>()
const sharedSettings = makeShared<Settings>()

/** @internal The settings as the machine takes them. */
export const compile = (options: Omit<Options, "name">): Settings =>
  sharedSettings({
    window: sharedWindow(compileWindow(options.window)),
    slowAfter:
      options.slowCallDuration === undefined ? Number.POSITIVE_INFINITY : Duration.toMillis(options.slowCallDuration),
    slowRate: options.slowCallRate,
    openFor: compileOpenFor(options.openFor ?? "30 seconds"),
    jitter: options.openJitter ?? 0,
    random: options.random ?? currentRandom,
    retryAfterCap: options.retryAfterCap === undefined ? 0 : Duration.toMillis(options.retryAfterCap),
    halfOpenPermits: options.halfOpenPermits ?? 1,
    halfOpenSuccessRate: options.halfOpenSuccessRate ?? 1,
    lease: Duration.toMillis(options.probeLease ?? "60 seconds"),
    ramp:
      options.rampUp === undefined
        ? undefined
        : sharedRamp({ over: Duration.toMillis(options.rampUp.over), from: options.rampUp.from }),
    classify: options.classify ?? ErrorClass.classify,
    counts: options.counts ?? defaultCounts
  })

/** @internal */
export const checked = <A>(name: string, options: Omit<Options, "name">, f: () => A): Effect.Effect<A> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0 ? Effect.sync(f) : Effect.dieMessage(`CircuitBreaker "${name}": ${wrong.join("; ")}`)
  })

/**
 * Makes a breaker, closed. Settings that cannot work (a minimum of calls larger than the window, …) are defects that say
 * what to write instead; `Policy.make` reports them as typed errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<CircuitBreaker> =>
  checked(options.name, options, () => unsafeMake(options))

/**
 * The class of a tag for one breaker, with a layer that makes it:
 * `class WeatherCircuit extends CircuitBreaker.tag("app/WeatherCircuit", { name: "weather" })<WeatherCircuit>() {}`.
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string>(id: Id, options: Options) =>
  <Self>() => {
    const Base = Context.Tag(id)<Self, CircuitBreaker>()
    return Object.assign(Base, { layer: Layer.effect(Base, make(options)) })
  }

/** @internal */
export const unsafeMake = (options: Options): CircuitBreaker => new Handle(options.name, compile(options))

/** @internal Methods are the class's and effects made when asked for, so that a breaker is little but its state. */
export class Handle implements CircuitBreaker {
  readonly name: string
  readonly machine: machine.Breaker<Settings>

  constructor(name: string, settings: Settings) {
    this.name = name
    this.machine = new machine.Breaker(settings)
  }

  get [TypeId](): typeof TypeId {
    return TypeId
  }

  run<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> {
    return Effect.withFiberRuntime<A, E | CircuitOpen, R>((fiber) => {
      const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
      // What holds nothing needs no protection from interruption.
      const refused = this.machine.refuses(clock.unsafeCurrentTimeMillis())
      if (refused !== undefined) return refuse(this.name, refused)
      return Effect.uninterruptibleMask<A, E | CircuitOpen, R>((restore) => {
        const permit = this.machine.acquire(clock.unsafeCurrentTimeMillis())
        if (typeof permit === "number") return refuse(this.name, permit)
        return Effect.matchCauseEffect(restore(effect), {
          onFailure: (cause) => {
            this.settleCause(permit, cause, clock.unsafeCurrentTimeMillis())
            return Effect.failCause(cause)
          },
          onSuccess: (value) => {
            this.machine.settle(permit, "success", clock.unsafeCurrentTimeMillis())
            return Effect.succeed(value)
          }
        })
      })
    })
  }

  get state(): Effect.Effect<State> {
    return Effect.map(Clock.currentTimeMillis, (now) => this.machine.state(now))
  }

  get snapshot(): Effect.Effect<Snapshot> {
    return Effect.map(Clock.currentTimeMillis, (now) => this.machine.snapshot(now))
  }

  get changes(): Stream.Stream<Change> {
    return changesOf(() => this.machine.listeners)
  }

  setMode(mode: Mode): Effect.Effect<void> {
    return Effect.map(Clock.currentTimeMillis, (now) => this.machine.setMode(mode, now))
  }

  get reset(): Effect.Effect<void> {
    return Effect.map(Clock.currentTimeMillis, (now) => this.machine.reset(now))
  }

  restore(snapshot: unknown): Effect.Effect<void, SnapshotInvalid> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.map(decodeSnapshot(this.name, snapshot), (found) => this.machine.restore(found, now))
    )
  }

  reload(options: Omit<Options, "name">): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) =>
      checked(this.name, options, () => this.machine.reload(compile(options), now))
    )
  }

  control(overrides: ReadonlyMap<string, Override>, now: number): void {
    this.override(overrides.get(this.name), now, true)
  }

  /** Holds: it is about this breaker, which must therefore be kept. */
  override(found: Override | undefined, now: number, holds: boolean): void {
    const is = found !== undefined && found.until > now
    this.machine.setOverride(is ? { mode: found.mode, millis: found.until - now, holds } : undefined, now)
  }

  outcome(cause: Cause.Cause<unknown>): Outcome {
    return this.judge(cause, 0).outcome
  }

  settle(permit: machine.Permit, exit: Exit.Exit<unknown, unknown> | undefined, now: number): void {
    if (exit === undefined) this.machine.settle(permit, "failure", now)
    else if (Exit.isSuccess(exit)) this.machine.settle(permit, "success", now)
    else this.settleCause(permit, exit.cause, now)
  }

  get description(): string {
    return describe(this.machine.settings)
  }

  private settleCause(permit: machine.Permit, cause: Cause.Cause<unknown>, now: number): void {
    const { outcome, wish } = this.judge(cause, now)
    this.machine.settle(permit, outcome, now, wish)
  }

  /** What it counts as, and for how many milliseconds the service asks not to be called. */
  private judge(cause: Cause.Cause<unknown>, now: number): { readonly outcome: Outcome; readonly wish: number } {
    const failure = Cause.failureOption(cause)
    if (failure._tag === "None") return { outcome: Cause.isDie(cause) ? "failure" : "neutral", wish: 0 }
    // Functions of the user's: neither what they throw nor what they give may keep the permit from being given back.
    try {
      const { classify, counts } = this.machine.settings
      const found = classify(failure.value)
      const outcome = counts(found, failure.value)
      const { retryAfter, retryAt } = found
      return { outcome, wish: retryAfter === undefined ? (retryAt ?? now) - now : Duration.toMillis(retryAfter) }
    } catch {
      return { outcome: "failure", wish: 0 }
    }
  }
}

/** @internal Changes from the moment that the stream is run on; the set is asked for only then. */
export const changesOf = <A>(listeners: () => Set<(change: A) => void>): Stream.Stream<A> =>
  Stream.asyncPush<A>(
    (emit) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const listener = (each: A): void => {
            emit.single(each)
          }
          listeners().add(listener)
          return listener
        }),
        (listener) => Effect.sync(() => listeners().delete(listener))
      ),
    { bufferSize: 64, strategy: "sliding" }
  )

const decode = Schema.decodeUnknown(Snapshot, { errors: "all" })

/** @internal */
export const decodeSnapshot = (service: string, snapshot: unknown): Effect.Effect<Snapshot, SnapshotInvalid> =>
  decode(snapshot).pipe(
    Effect.mapError((error) => new SnapshotInvalid({ service, problem: error.message })),
    Effect.flatMap((found) => {
      const problem = contradiction(found)
      return problem === undefined ? Effect.succeed(found) : Effect.fail(new SnapshotInvalid({ service, problem }))
    })
  )

const contradiction = (found: Snapshot): string | undefined => {
  if (found.wouldBe === "open") {
    if (found.openUntil === null || found.openedAt === null) return "it is open but does not say since and until when"
    if (found.openUntil < found.openedAt) return "openUntil is before openedAt"
  }
  if (found.mode === "automatic" && found.override === null && found.state !== found.wouldBe) {
    return `it is automatic, but state is ${found.state} and wouldBe ${found.wouldBe}`
  }
  if (found.failures > found.calls || found.slow > found.calls) return "it has more failures or slow calls than calls"
  if (found.window.type === "time") {
    if (found.window.buckets.some(([calls, failures, slow]) => failures > calls || slow > calls)) {
      return "a bucket of its window has more failures or slow calls than calls"
    }
  }
  return undefined
}

const percent = (rate: number): string => `${Math.round(rate * 1_000) / 10} %`
const shown = (millis: number): string => Duration.format(Duration.millis(millis))

const describeWindow = ({ window, slowAfter, slowRate }: Settings): string => {
  if (window.type === "consecutive") return `${window.failures} failures in a row`
  const slow = slowRate === undefined ? "" : ` failed or ${percent(slowRate)} slower than ${shown(slowAfter)}`
  const of = window.type === "count" ? `the last ${window.size}` : `those of the last ${shown(window.over)}`
  return `${percent(window.failureRate)}${slow} of ${of} (at least ${window.minimumCalls})`
}

const describe = (settings: Settings): string => {
  const { openFor, jitter, halfOpenPermits: permits, halfOpenSuccessRate: rate, ramp } = settings
  const time =
    typeof openFor === "number"
      ? shown(openFor)
      : typeof openFor === "function"
        ? "a growing time"
        : `${shown(openFor.initial)}, growing by ${openFor.factor} up to ${shown(openFor.max)}`
  return [
    `${describeWindow(settings)} open it for ${time}${jitter === 0 ? "" : ` less up to ${percent(jitter)}`}`,
    `${permits} probe${permits === 1 ? "" : "s"}${rate === 1 ? "" : ` of which ${percent(rate)} must succeed`}`,
    ...(ramp === undefined ? [] : [`then from ${percent(ramp.from)} to all calls over ${shown(ramp.over)}`])
  ].join(", ")
}

/** Not `Effect.fail`, which would wrap the object under a span. */
const refuse = (service: string, millis: number): Effect.Effect<never, CircuitOpen> =>
  Effect.failCause(Cause.fail(rejection(service, millis)))

/** @internal */
export const rejection = (service: string, millis: number): CircuitOpen =>
  new CircuitOpen({ service, retryAfter: Duration.millis(millis) })

/**
 * Whether it is a breaker.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isCircuitBreaker = (u: unknown): u is CircuitBreaker => typeof u === "object" && u !== null && TypeId in u

/**
 * Runs the effect through the breaker: `breaker.run` for pipes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run: {
  (breaker: CircuitBreaker): <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  <A, E, R>(effect: Effect.Effect<A, E, R>, breaker: CircuitBreaker): Effect.Effect<A, E | CircuitOpen, R>
} = dual(
  2,
  <A, E, R>(effect: Effect.Effect<A, E, R>, breaker: CircuitBreaker): Effect.Effect<A, E | CircuitOpen, R> =>
    breaker.run(effect)
)
