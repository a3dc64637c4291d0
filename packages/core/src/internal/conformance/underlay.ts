/**
 * This library as the conformance cases see it.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import * as ErrorClass from "../../resilience/ErrorClass.ts"
import * as Fallback from "../../resilience/Fallback.ts"
import * as Policy from "../../resilience/Policy.ts"
import * as Cache from "../../state/Cache.ts"
import type { Call, CallOptions, Driver, Feature, Guard, Kind, Leaf, Result, Settings, State, Time } from "./driver.ts"
import { Bug, Down } from "./scenario.ts"

const features: ReadonlyArray<Feature> = [
  "abort-on-timeout",
  "bulkhead",
  "caller-signal",
  "changes",
  "coalescing",
  "count-window",
  "disabled",
  "fallback",
  "forced-open",
  "growing-open-time",
  "health-check",
  "jitter",
  "queue",
  "restore",
  "retry",
  "retry-of-answers",
  "time-window",
  "total-timeout",
  "underlay"
]

type Work = Effect.Effect<unknown, unknown>

type Calls = "effects" | "promises"

interface Own extends Guard {
  /** A call of this work alone. */
  readonly call: (leaf: Leaf, options: CallOptions | undefined) => Work
  /** This guard round other work. */
  readonly wrap: (work: Work) => Work
}

const isOwn = (guard: Guard): guard is Own => "wrap" in guard

const kinds: Readonly<Record<string, Kind>> = { CircuitOpen: "open", BulkheadFull: "full", CallTimeout: "timeout" }

const kindOf = (error: unknown): Kind =>
  (Predicate.hasProperty(error, "_tag") && typeof error._tag === "string" ? kinds[error._tag] : undefined) ?? "error"

const work = (leaf: Leaf, options: CallOptions | undefined): Work => {
  const made = Effect.catchAll(Effect.tryPromise({ try: leaf, catch: (error) => error }), (error) =>
    error instanceof Bug ? Effect.die(error) : Effect.fail(error)
  )
  return options?.deaf === true ? Effect.uninterruptible(made) : made
}

/** The work where it takes no notice of being stopped: a function of no signal. */
const deaf = (leaf: Leaf) => (): Promise<unknown> => leaf(new AbortController().signal)

const start = (time: Time, effect: Work): Effect.Effect<Call> =>
  Effect.map(Effect.forkDaemon(effect), (fiber) => {
    let result: Result | undefined
    fiber.addObserver((exit) => {
      result = resultOf(exit, time.now())
    })
    return { result: () => result, cancel: Effect.asVoid(Fiber.interruptFork(fiber)) }
  })

const resultOf = (exit: Exit.Exit<unknown, unknown>, at: number): Result => {
  if (Exit.isSuccess(exit)) return { ok: true, value: exit.value, at }
  const error = Cause.squash(exit.cause)
  return { ok: false, kind: Cause.isInterruptedOnly(exit.cause) ? "cancelled" : kindOf(error), error, at }
}

const breakerOptions = (settings: NonNullable<Settings["breaker"]>): Omit<CircuitBreaker.Options, "name"> => {
  const { factor, ignore, openFor, trip } = settings
  return {
    ...(ignore === undefined
      ? {}
      : { classify: (error) => (ignore(error) ? { class: "cancelled" } : ErrorClass.classify(error)) }),
    window:
      trip.type === "consecutive"
        ? trip
        : trip.type === "rate"
          ? { type: "count", size: trip.size, failureRate: trip.rate, minimumCalls: trip.minimumCalls }
          : { type: "time", over: trip.span, failureRate: trip.rate, minimumCalls: trip.minimumCalls },
    openFor: factor === undefined ? openFor : { initial: openFor, factor }
  }
}

const policyOptions = (settings: Settings): Policy.Options => {
  const { breaker, bulkhead, retry, timeout, total } = settings
  return {
    name: "conformance",
    timeout: total ?? false,
    attemptTimeout: timeout ?? false,
    retry:
      retry === undefined
        ? false
        : {
            attempts: retry.attempts,
            base: retry.delay,
            factor: retry.factor ?? 1,
            cap: retry.maxDelay ?? 600_000,
            jitter: retry.jitter === true ? "full" : "none"
          },
    budget: false,
    breaker: breaker === undefined ? false : breakerOptions(breaker),
    bulkhead: bulkhead === undefined ? false : { ...bulkhead, maxWait: "1 hour" }
  }
}

const refusing = (leaf: Leaf, unwanted: ((answer: unknown) => boolean) | undefined): Leaf =>
  unwanted === undefined
    ? leaf
    : (signal) => leaf(signal).then((answer) => (unwanted(answer) ? Promise.reject(new Down()) : answer))

const make = (time: Time, calls: Calls, settings: Settings): Effect.Effect<Own, unknown> =>
  Effect.gen(function* () {
    const policy = yield* Policy.make(policyOptions(settings))
    const fallback =
      settings.fallback === undefined
        ? undefined
        : Fallback.effect((error: unknown) => Effect.sync(() => settings.fallback?.(error)))
    if (settings.breaker?.restore !== undefined) yield* policy.breaker?.restore(settings.breaker.restore) ?? Effect.void
    const { breaker } = policy
    const readers: Array<Fiber.RuntimeFiber<void>> = []
    const wrap = (inner: Work): Work => (fallback === undefined ? policy.run(inner) : policy.run(inner, { fallback }))
    const call = (given: Leaf, options: CallOptions | undefined): Work => {
      const leaf = refusing(given, settings.retry?.unwanted)
      if (calls === "effects") return wrap(work(leaf, options))
      const attempt = { try: options?.deaf === true ? deaf(leaf) : leaf, catch: (error: unknown) => error }
      const guarded = policy.tryPromise(attempt)
      return fallback === undefined ? guarded : Fallback.run(guarded, fallback)
    }
    const guard: Own = {
      call,
      wrap,
      start: (leaf, options) => start(time, call(leaf, options)),
      state: breaker === undefined ? Effect.succeed<State>("closed") : breaker.state,
      shown: Effect.map(breaker?.snapshot ?? Effect.void, (snapshot) => ({ snapshot, breaker, policy })),
      shutdown: Effect.suspend(() => Fiber.interruptAll(readers.splice(0)))
    }
    if (breaker === undefined) return guard
    const read = (told: (change: CircuitBreaker.Change) => void) =>
      Effect.map(
        Effect.forkDaemon(Stream.runForEach(breaker.changes, (change) => Effect.sync(() => told(change)))),
        (fiber) => {
          readers.push(fiber)
        }
      )
    return {
      ...guard,
      setMode: (mode) => breaker.setMode(mode),
      saved: breaker.snapshot,
      changes: Effect.suspend(() => {
        const seen: Array<State> = []
        return Effect.as(
          read((change) => seen.push(change.to)),
          () => seen
        )
      }),
      watchHealth: Effect.zipRight(
        read(() => {}),
        breaker.snapshot
      )
    }
  })

/** The library by this time; `promises`: calls are functions of a signal, not effects. */
export const driver = (time: Time, calls: Calls): Driver => ({
  name: "underlay",
  features: new Set(features),
  time,
  make: (settings) => make(time, calls, settings),
  nest: (guards) => {
    const [outer] = guards
    const own = guards.filter(isOwn)
    const innermost = own.at(-1)
    const call = (leaf: Leaf, options: CallOptions | undefined): Work =>
      own
        .slice(0, -1)
        .reduceRight((effect, guard) => guard.wrap(effect), innermost?.call(leaf, options) ?? work(leaf, options))
    return { ...outer, start: (leaf, options) => start(time, call(leaf, options)) }
  },
  coalesce: (load) =>
    Effect.map(
      Effect.provide(Cache.make({ namespace: "conformance", schema: Schema.Unknown }), Cache.layerMemory()),
      (cache) => ({ get: start(time, cache.getOrElse("key", work(load, undefined))) })
    )
})
