/**
 * Counters that processes share, for budgets and quotas: whole numbers from 0 up that are never above their limit,
 * however many add at once, and that are forgotten after a time or with a day, week, month or year of the calendar. A port
 * of the internal plane: nothing is emitted per operation.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Calendar from "../internal/calendar.ts"
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as Ttl from "../internal/ttl.ts"

/**
 * Why a counter could not do what it was asked.
 *
 * - `InvalidKey`, `InvalidAmount`, `InvalidOptions`: the argument cannot be accepted; nothing was sent.
 * - `Unavailable`, `Timeout`: the store cannot be reached, or did not answer in time.
 * - `Rejected`: the store answered with a refusal, or what it keeps there is no counter.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidKey",
  "InvalidAmount",
  "InvalidOptions",
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
 * A failure of the counters: not that something is above a limit, which is an answer. `outcome` says whether the operation
 * can have taken effect. The message never holds a key or a value.
 *
 * @since 0.1.0
 * @category errors
 */
export class CountersError extends Schema.TaggedError<CountersError>("@underlay/core/state/CountersError")(
  "CountersError",
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
    return `Counters.${this.method}: ${this.description}${unknown}`
  }

  /** Whether the same call can be made again. An `add` whose outcome is unknown cannot: it could add twice. */
  get isRetryable(): boolean {
    if (this.reason !== "Unavailable" && this.reason !== "Timeout") return false
    return this.outcome === "not-done" || this.method !== "add"
  }
}

/**
 * A window of the calendar. Weeks begin on Monday; an hour is one of UTC.
 *
 * @since 0.1.0
 * @category models
 */
export type Window = "hour" | "day" | "week" | "month" | "year"

/**
 * How long a counter lives that is made now: for a time, which begins when it is made and which no `add` prolongs, or to
 * the end of the window of the calendar, by the store's clock, in a time zone (default: UTC; an IANA name such as
 * `Europe/Berlin`, or an offset such as `+02:00`).
 *
 * @since 0.1.0
 * @category models
 */
export type Lifetime =
  | {
      readonly ttl: Duration.DurationInput
      readonly window?: undefined
      readonly timeZone?: undefined
    }
  | {
      readonly window: Window
      readonly timeZone?: string | undefined
      readonly ttl?: undefined
    }

/**
 * Options of `add`.
 *
 * @since 0.1.0
 * @category models
 */
export type AddOptions = Lifetime & {
  /** The counter never gets above it by this call. Default: `Number.MAX_SAFE_INTEGER`. */
  readonly limit?: number | undefined
}

/**
 * What an `add` did.
 *
 * @since 0.1.0
 * @category models
 */
export interface Added {
  /** Whether the amount was added. */
  readonly allowed: boolean
  /** The counter afterwards. */
  readonly value: number
  /** When the counter is forgotten; zero where there is none. */
  readonly resetAfter: Duration.Duration
}

/**
 * What counters do.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /**
   * Adds a whole number, if the counter is then not above the limit. Nothing is refused that gives back (a negative
   * amount); the counter does not go below 0, where what was counted has been forgotten meanwhile. An amount of 0 shows how
   * the counter stands. The lifetime holds for a counter that is not there yet.
   */
  readonly add: (key: string, amount: number, options: AddOptions) => Effect.Effect<Added, CountersError>
  /** The counter; 0 where there is none. */
  readonly get: (key: string) => Effect.Effect<number, CountersError>
  /** Sets the counter, with a lifetime that begins now. */
  readonly set: (key: string, value: number, options: Lifetime) => Effect.Effect<void, CountersError>
  /** Forgets the counter, and says whether there was one. */
  readonly reset: (key: string) => Effect.Effect<boolean, CountersError>
}

/**
 * The counters of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class Counters extends Context.Tag("@underlay/core/Counters")<Counters, Service>() {}

/**
 * A lifetime as adapters see it: a time in whole milliseconds, or a function from the store's clock (milliseconds since
 * 1970) to the window that it is in, from `start` until just before `end`.
 *
 * @since 0.1.0
 * @category models
 */
export type BackendLifetime =
  | { readonly _tag: "Ttl"; readonly millis: number }
  | { readonly _tag: "Window"; readonly at: (now: number) => { readonly start: number; readonly end: number } }

/**
 * What an adapter keeps: numbers by key, each with a lifetime. Arguments are checked; `left` is the rest of the lifetime in
 * milliseconds, 0 where there is no counter.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  readonly add: (
    key: string,
    amount: number,
    limit: number,
    lifetime: BackendLifetime
  ) => Effect.Effect<{ readonly allowed: boolean; readonly value: number; readonly left: number }, CountersError>
  readonly get: (key: string) => Effect.Effect<number, CountersError>
  readonly set: (key: string, value: number, lifetime: BackendLifetime) => Effect.Effect<void, CountersError>
  readonly reset: (key: string) => Effect.Effect<boolean, CountersError>
}

/**
 * Builds the port on a backend: checks arguments and knows the calendar.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend): Service => {
  const windows = new Map<string, BackendLifetime>()

  const windowOf = (unit: Window, timeZone: string): Either.Either<BackendLifetime, string> => {
    const name = `${unit} ${timeZone}`
    const known = windows.get(name)
    if (known !== undefined) return Either.right(known)
    if (!Calendar.units.includes(unit)) return Either.left(`a window is one of ${Calendar.units.join(", ")}`)
    const zone = Calendar.zone(timeZone)
    if (zone === undefined) return Either.left("there is no such time zone")
    const made = windowIn(unit, zone)
    // offsets can be written in many ways
    if (windows.size >= 1_000) windows.clear()
    windows.set(name, made)
    return Either.right(made)
  }

  const lifetimeOf = (options: Lifetime): Either.Either<BackendLifetime, string> => {
    if (options.window !== undefined) {
      if (options.ttl !== undefined) return Either.left("give either a time to live or a window, not both")
      return windowOf(options.window, options.timeZone ?? "UTC")
    }
    if (options.ttl === undefined) return Either.left("give a time to live or a window")
    return Either.map(Ttl.millis(options.ttl), (millis) => ({ _tag: "Ttl", millis }))
  }

  return {
    add: (key, amount, options) => {
      const wrong = keyProblem(key)
      if (wrong !== undefined) return failure("InvalidKey", "add", wrong)
      if (!Number.isSafeInteger(amount)) return failure("InvalidAmount", "add", "an amount is a whole number")
      const { limit = Number.MAX_SAFE_INTEGER } = options
      if (!(Number.isSafeInteger(limit) && limit >= 0)) {
        return failure("InvalidOptions", "add", "a limit is a whole number and not negative")
      }
      const lifetime = lifetimeOf(options)
      if (Either.isLeft(lifetime)) return failure("InvalidOptions", "add", lifetime.left)
      return Effect.map(
        backend.add(key, amount, limit, lifetime.right),
        ({ allowed, left, value }): Added => ({ allowed, value, resetAfter: Duration.millis(left) })
      )
    },
    get: (key) => {
      const wrong = keyProblem(key)
      return wrong === undefined ? backend.get(key) : failure("InvalidKey", "get", wrong)
    },
    set: (key, value, options) => {
      const wrong = keyProblem(key)
      if (wrong !== undefined) return failure("InvalidKey", "set", wrong)
      if (!(Number.isSafeInteger(value) && value >= 0)) {
        return failure("InvalidAmount", "set", "a counter is a whole number and not negative")
      }
      const lifetime = lifetimeOf(options)
      if (Either.isLeft(lifetime)) return failure("InvalidOptions", "set", lifetime.left)
      return backend.set(key, value, lifetime.right)
    },
    reset: (key) => {
      const wrong = keyProblem(key)
      return wrong === undefined ? backend.reset(key) : failure("InvalidKey", "reset", wrong)
    }
  }
}

/**
 * Options of the counters inside this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemoryOptions {
  /** Counters that are kept; the one used least recently is forgotten first. Default: 100,000. */
  readonly capacity?: number | undefined
}

/**
 * Counters inside this process, by `Clock`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<Counters> =>
  Layer.sync(Counters, () => make(memoryBackend(options.capacity ?? 100_000)))

const memoryBackend = (capacity: number): Backend => {
  const counters = new ExpiringMap<number>(capacity)
  const endOf = (lifetime: BackendLifetime, now: number): number =>
    lifetime._tag === "Ttl" ? now + lifetime.millis : lifetime.at(now).end
  return {
    add: (key, amount, limit, lifetime) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const end = counters.expiryOf(key, now)
        const before = counters.get(key, now) ?? 0
        const left = end === undefined ? 0 : end - now
        if (amount > 0 && before + amount > limit) return { allowed: false, value: before, left }
        const value = Math.max(0, before + amount)
        if (amount === 0 || (end === undefined && value === 0)) return { allowed: true, value, left }
        const until = end ?? endOf(lifetime, now)
        counters.set(key, value, until, now)
        return { allowed: true, value, left: until - now }
      }),
    get: (key) => Effect.map(Clock.currentTimeMillis, (now) => counters.get(key, now) ?? 0),
    set: (key, value, lifetime) =>
      Effect.map(Clock.currentTimeMillis, (now) => counters.set(key, value, endOf(lifetime, now), now)),
    reset: (key) => Effect.map(Clock.currentTimeMillis, (now) => counters.delete(key, now))
  }
}

/** A window, which is computed anew only when it is over. */
const windowIn = (unit: Window, zone: DateTime.TimeZone): BackendLifetime => {
  let last: Calendar.Window | undefined
  return {
    _tag: "Window",
    at: (now) => {
      if (last === undefined || now < last.start || now >= last.end) last = Calendar.windowOf(unit, zone, now)
      return last
    }
  }
}

const keyProblem = (key: string): string | undefined => {
  if (key.length === 0) return "a key cannot be empty"
  if (key.length > 1_024) return "a key cannot be longer than 1,024 characters"
  // two of these would be one key where keys are kept as UTF-8
  return loneSurrogate.test(key) ? "a key must be well-formed Unicode" : undefined
}

const loneSurrogate = /\p{Surrogate}/u

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, CountersError> =>
  Effect.fail(new CountersError({ reason, method, description, outcome: "not-done" }))
