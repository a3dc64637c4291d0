import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Config, Deferred, Duration, Effect, Either, FastCheck, Fiber, Runtime, TestClock } from "effect"

/** A part as a fraction, so that the model never rounds. */
type Fraction = readonly [part: number, of: number]

type WindowModel =
  | { readonly type: "consecutive"; readonly failures: number }
  | { readonly type: "count"; readonly size: number; readonly rate: Fraction; readonly minimum: number }
  | {
      readonly type: "time"
      readonly width: number
      readonly buckets: number
      readonly rate: Fraction
      readonly minimum: number
    }

interface Settings {
  readonly window: WindowModel
  readonly slow: { readonly after: number; readonly rate: Fraction | undefined }
  readonly open:
    | { readonly fixed: number }
    | { readonly initial: number; readonly factor: number; readonly max: number }
    | { readonly steps: number }
  readonly jitter: number
  readonly retryAfterCap: number
  readonly permits: number
  readonly success: Fraction
  readonly lease: number
  readonly ramp: { readonly over: number; readonly from: number } | undefined
}

interface Result {
  readonly failed: boolean
  readonly slow: boolean
  /** The number of its stretch of time, where the window has such. */
  readonly bucket: number
}

type Phase =
  | {
      readonly is: "closed"
      readonly results: ReadonlyArray<Result>
      readonly ramp: { readonly until: number; readonly credit: number } | undefined
    }
  | { readonly is: "open"; readonly until: number; readonly length: number }
  | {
      readonly is: "half-open"
      readonly probes: ReadonlyArray<{ readonly call: number; readonly leaseUntil: number }>
      readonly results: ReadonlyArray<boolean>
    }

/** What the breaker should do, as a pure function over all that has happened in the present state. */
interface Model {
  readonly settings: Settings
  /** By the clock; and as the breaker has seen it pass, which never goes back. */
  readonly now: number
  readonly seen: number
  readonly time: number
  readonly epoch: number
  readonly mode: CircuitBreaker.Mode
  readonly override: { readonly mode: CircuitBreaker.Mode; readonly until: number } | undefined
  readonly phase: Phase
  readonly openings: number
  readonly inFlight: number
  readonly draws: number
  readonly counters: CircuitBreaker.Snapshot["counters"]
}

/** A snapshot of the model: itself, looked at. */
type Saved = Model

const draw = (n: number): number => ((n * 7919 + 104_729) % 1_000) / 1_000

const closed: Phase = { is: "closed", results: [], ramp: undefined }

const start = (settings: Settings): Model => ({
  settings,
  now: 0,
  seen: 0,
  time: 0,
  epoch: 0,
  mode: "automatic",
  override: undefined,
  phase: closed,
  openings: 0,
  inFlight: 0,
  draws: 0,
  counters: {
    successes: 0,
    failures: 0,
    neutral: 0,
    slow: 0,
    rejected: 0,
    wouldReject: 0,
    stale: 0,
    leasesLost: 0,
    opened: 0
  }
})

const counted = (model: Model, which: keyof Model["counters"], by = 1): Model => ({
  ...model,
  counters: { ...model.counters, [which]: model.counters[which] + by }
})

const enter = (model: Model, phase: Phase): Model => ({ ...model, epoch: model.epoch + 1, phase })

const effective = (model: Model): CircuitBreaker.Mode => model.override?.mode ?? model.mode

const rampOf = ({ settings: { ramp }, time }: Model) =>
  ramp === undefined ? undefined : { until: time + ramp.over, credit: 1_000_000 - Math.round(ramp.from * 1_000_000) }

/** From one mode to another all is forgotten. */
const renewed = (model: Model, was: CircuitBreaker.Mode): Model => {
  const is = effective(model)
  if (is === was) return model
  const ramp = was === "forced-open" && is !== "disabled" ? rampOf(model) : undefined
  return enter({ ...model, openings: 0 }, { ...closed, ramp })
}

/** Somebody looks: time passes as far as the clock went forwards, and what is over is over. */
const look = (before: Model): Model => {
  let model = { ...before, seen: before.now, time: before.time + Math.max(0, before.now - before.seen) }
  if (model.override !== undefined && model.time >= model.override.until) {
    model = renewed({ ...model, override: undefined }, model.override.mode)
  }
  return effective(model) === "forced-open" ? model : due(model)
}

const due = (model: Model): Model => {
  const { phase, time } = model
  if (phase.is === "open" && time >= phase.until) return enter(model, { is: "half-open", probes: [], results: [] })
  if (phase.is === "closed" && phase.ramp !== undefined && time >= phase.ramp.until) {
    return { ...model, openings: 0, phase: { ...phase, ramp: undefined } }
  }
  return model
}

const stateOf = (model: Model): CircuitBreaker.State => {
  const mode = effective(model)
  return mode === "forced-open" ? "open" : mode === "automatic" ? model.phase.is : "closed"
}

const longest = ({ open }: Settings, openings: number): number =>
  "fixed" in open
    ? open.fixed
    : "steps" in open
      ? open.steps * openings
      : Math.min(open.max, open.initial * open.factor ** (openings - 1))

const opened = (model: Model, retryAfter: number): Model => {
  const { phase, settings } = model
  const inRow = phase.is === "half-open" || (phase.is === "closed" && phase.ramp !== undefined)
  const openings = inRow && !(phase.is === "closed" && (phase.ramp?.until ?? 0) <= model.time) ? model.openings + 1 : 1
  const planned = longest(settings, openings)
  const length = Math.max(
    settings.jitter === 0 ? planned : Math.round(planned * (1 - settings.jitter * draw(model.draws))),
    Math.min(retryAfter, settings.retryAfterCap)
  )
  const draws = settings.jitter === 0 ? model.draws : model.draws + 1
  return enter(counted({ ...model, openings, draws }, "opened"), { is: "open", until: model.time + length, length })
}

const share = (model: Model): number => {
  const { phase, settings, time } = model
  if (phase.is !== "closed" || phase.ramp === undefined || settings.ramp === undefined) return 1_000_000
  const left = Math.min(1, Math.max(0, phase.ramp.until - time) / settings.ramp.over)
  return Math.round((1 - (1 - settings.ramp.from) * left) * 1_000_000)
}

const withoutLost = (model: Model): Model => {
  if (model.phase.is !== "half-open") return model
  const probes = model.phase.probes.filter((probe) => probe.leaseUntil > model.time)
  const lost = model.phase.probes.length - probes.length
  return counted({ ...model, phase: { ...model.phase, probes } }, "leasesLost", lost)
}

interface Begun {
  readonly model: Model
  /** Undefined if the call may be made. */
  readonly refusedFor: number | undefined
  readonly epoch: number
}

const admit = (before: Model, call: number): Begun => {
  const model = due(before)
  const { phase, settings, time } = model
  if (phase.is === "open") return { model, refusedFor: phase.until - time, epoch: -1 }
  if (phase.is === "closed") {
    if (phase.ramp === undefined) return { model, refusedFor: undefined, epoch: model.epoch }
    const credit = phase.ramp.credit + share(model)
    const passes = credit >= 1_000_000
    const ramp = { ...phase.ramp, credit: passes ? credit - 1_000_000 : credit }
    return {
      model: { ...model, phase: { ...phase, ramp } },
      refusedFor: passes ? undefined : Math.max(1, Math.min(1_000, phase.ramp.until - time)),
      epoch: model.epoch
    }
  }
  const kept = withoutLost(model)
  if (kept.phase.is !== "half-open") throw new Error("unreachable")
  const { probes, results } = kept.phase
  if (probes.length + results.length >= settings.permits) {
    const refusedFor = Math.max(1, Math.min(1_000, ...probes.map((probe) => probe.leaseUntil - time)))
    return { model: kept, refusedFor, epoch: -1 }
  }
  const next = [...probes, { call, leaseUntil: time + settings.lease }]
  return { model: { ...kept, phase: { ...kept.phase, probes: next } }, refusedFor: undefined, epoch: kept.epoch }
}

const begin = (before: Model, call: number): Begun => {
  const model = look(before)
  const passed = (model: Model, epoch: number): Begun => ({
    model: { ...model, inFlight: model.inFlight + 1 },
    refusedFor: undefined,
    epoch
  })
  switch (effective(model)) {
    case "disabled":
      return passed(model, -1)
    case "forced-open": {
      const until = model.override === undefined ? Number.POSITIVE_INFINITY : model.override.until
      return { model: counted(model, "rejected"), refusedFor: until - model.time, epoch: -1 }
    }
    case "metrics-only": {
      const found = admit(model, call)
      return found.refusedFor === undefined
        ? passed(found.model, found.epoch)
        : passed(counted(found.model, "wouldReject"), -1)
    }
    case "automatic": {
      const found = admit(model, call)
      return found.refusedFor === undefined
        ? passed(found.model, found.epoch)
        : { ...found, model: counted(found.model, "rejected") }
    }
  }
}

const bucketAt = (window: WindowModel, time: number): number =>
  window.type === "time" ? Math.floor(time / window.width) : 0

/** The results that the window still holds. */
const within = (model: Model): ReadonlyArray<Result> => {
  const { window } = model.settings
  if (model.phase.is !== "closed") return []
  const { results } = model.phase
  switch (window.type) {
    case "consecutive":
      return results.slice(results.findLastIndex((each) => !each.failed) + 1)
    case "count":
      return results.slice(-window.size)
    case "time":
      return results.filter((each) => each.bucket > bucketAt(window, model.time) - window.buckets)
  }
}

const atLeast = (part: number, all: number, [p, q]: Fraction): boolean => part * q >= all * p

const mustOpen = (model: Model, last: Result): boolean => {
  const { slow, window } = model.settings
  const held = within(model)
  const failures = held.filter((each) => each.failed).length
  if (window.type === "consecutive") return last.failed && failures >= window.failures
  if (held.length < window.minimum) return false
  const slows = held.filter((each) => each.slow).length
  return (
    (last.failed && atLeast(failures, held.length, window.rate)) ||
    (last.slow && slow.rate !== undefined && atLeast(slows, held.length, slow.rate))
  )
}

const decided = (model: Model, retryAfter: number): Model => {
  const { phase, settings } = model
  if (phase.is !== "half-open") return model
  const good = phase.results.filter((ok) => ok).length
  const bad = phase.results.length - good
  const [p, q] = settings.success
  const needed = Math.max(1, Math.floor((settings.permits * p + q - 1) / q))
  if (good >= needed) {
    const ramp = rampOf(model)
    return enter({ ...model, openings: ramp === undefined ? 0 : model.openings }, { ...closed, ramp })
  }
  return settings.permits - bad < needed ? opened(model, retryAfter) : model
}

interface Call {
  readonly id: number
  readonly epoch: number
  readonly startedAt: number
}

const end = (before: Model, call: Call, outcome: CircuitBreaker.Outcome, retryAfter: number): Model => {
  // The end of a call lets time pass, but changes nothing by that alone.
  let model: Model = {
    ...before,
    seen: before.now,
    time: before.time + Math.max(0, before.now - before.seen),
    inFlight: before.inFlight - 1
  }
  const slow = outcome !== "neutral" && model.now - call.startedAt > model.settings.slow.after
  model = counted(model, outcome === "success" ? "successes" : outcome === "failure" ? "failures" : "neutral")
  if (slow) model = counted(model, "slow")
  if (call.epoch === -1) return model
  const { phase } = model
  if (call.epoch !== model.epoch || phase.is === "open") return counted(model, "stale")
  if (phase.is === "closed") {
    if (outcome === "neutral") return model
    const bucket = bucketAt(model.settings.window, model.time)
    const result: Result = { failed: outcome === "failure", slow, bucket }
    const next: Model = { ...model, phase: { ...phase, results: [...phase.results, result].slice(-500) } }
    return mustOpen(next, result) ? opened(next, retryAfter) : next
  }
  const probes = phase.probes.filter((probe) => probe.call !== call.id)
  if (probes.length === phase.probes.length) return counted(model, "stale")
  if (outcome === "neutral") return { ...model, phase: { ...phase, probes } }
  const good = outcome === "success" && !(slow && model.settings.slow.rate !== undefined)
  return decided({ ...model, phase: { ...phase, probes, results: [...phase.results, good] } }, retryAfter)
}

const setMode = (before: Model, mode: CircuitBreaker.Mode): Model => {
  if (mode === before.mode) return before
  const model = look(before)
  return renewed({ ...model, mode }, effective(model))
}

const setOverride = (before: Model, mode: CircuitBreaker.Mode | undefined, millis: number): Model => {
  if (mode === undefined && before.override === undefined) return before
  const model = look(before)
  const override = mode === undefined ? undefined : { mode, until: model.time + millis }
  return renewed({ ...model, override }, effective(model))
}

const reset = (before: Model): Model => enter({ ...look(before), mode: "automatic", openings: 0 }, closed)

/** The results as far as another window can hold them. */
const carried = (results: ReadonlyArray<Result>, from: WindowModel, to: WindowModel): ReadonlyArray<Result> => {
  if (from.type === "count" && to.type === "count") return results.slice(-from.size).slice(-to.size)
  if (from.type === "time" && to.type === "time") {
    return from.width === to.width && from.buckets === to.buckets ? results : []
  }
  return from.type === to.type ? results : []
}

/** How long it is open at most. */
const most = (settings: Settings, openings: number): number =>
  Math.max(longest(settings, openings), settings.retryAfterCap)

const reload = (before: Model, settings: Settings): Model => {
  const model = look(before)
  const { openings, phase, time } = model
  if (phase.is === "open") {
    const less = Math.max(0, phase.until - time - most(settings, openings))
    return { ...model, settings, phase: { ...phase, until: phase.until - less, length: phase.length - less } }
  }
  if (phase.is === "half-open") {
    const probes = phase.probes.map((each) => ({
      ...each,
      leaseUntil: Math.min(each.leaseUntil, time + settings.lease)
    }))
    return decided({ ...model, settings, phase: { ...phase, probes } }, 0)
  }
  const results = carried(phase.results, model.settings.window, settings.window)
  const until = Math.min(phase.ramp?.until ?? 0, time + (settings.ramp?.over ?? 0))
  const ramp = phase.ramp === undefined ? undefined : { ...phase.ramp, until }
  return { ...model, settings, phase: { ...phase, results, ramp } }
}

const save = (before: Model): Saved => withoutLost(due(look(before)))

const restore = (before: Model, saved: Saved): Model => {
  const model = look(before)
  const shift = model.time - model.now - (saved.time - saved.now)
  const phase = (): Phase => {
    if (saved.phase.is === "half-open") return { is: "half-open", probes: [], results: [] }
    if (saved.phase.is === "open") {
      const length = Math.min(saved.phase.length, most(model.settings, saved.openings))
      const left = Math.max(0, Math.min(saved.phase.until + shift - model.time, length))
      return { is: "open", until: model.time + left, length }
    }
    const from = saved.settings.window
    const to = model.settings.window
    const results = carried(within(saved), from, to)
    const ramp = saved.phase.ramp
    const left = ramp === undefined ? 0 : ramp.until + shift - model.time
    const over = model.settings.ramp?.over
    return {
      is: "closed",
      // The newest stretch of time is where it was by the clock, or now if that is yet to come.
      results:
        from.type === "time"
          ? results.map((each) => {
              const newest = bucketAt(from, saved.time)
              const moved = Math.floor((newest * from.width + shift + from.width / 2) / from.width)
              return { ...each, bucket: each.bucket - newest + Math.min(moved, bucketAt(to, model.time)) }
            })
          : results,
      ramp:
        ramp === undefined || over === undefined || left <= 0
          ? undefined
          : { ...rampStart(model.settings), until: model.time + Math.min(over, left) }
    }
  }
  const restored = phase()
  const openings = restored.is === "closed" && restored.ramp === undefined ? 0 : saved.openings
  return enter({ ...model, mode: saved.mode, openings, counters: saved.counters }, restored)
}

const rampStart = ({ ramp }: Settings) => ({ credit: 1_000_000 - Math.round((ramp?.from ?? 1) * 1_000_000) })

/** What a snapshot should say. What the window holds of a time before the last opening is nobody's business. */
const shown = (model: Model) => {
  const { phase, settings } = model
  const held = within(model)
  const failures = held.filter((each) => each.failed).length
  const rated = settings.window.type !== "consecutive" && held.length > 0
  const slow = settings.window.type === "consecutive" ? 0 : held.filter((each) => each.slow).length
  return {
    state: stateOf(model),
    wouldBe: phase.is,
    mode: model.mode,
    override: model.override?.mode ?? null,
    inFlight: model.inFlight,
    probesInFlight: phase.is === "half-open" ? phase.probes.length : 0,
    openedIn: phase.is === "open" ? phase.length : null,
    openFor: phase.is === "open" ? phase.until - model.time : null,
    openings: model.openings,
    rampShare: share(model) / 1_000_000,
    held:
      phase.is === "closed"
        ? {
            calls: held.length,
            failures,
            slow,
            failureRate: rated ? failures / held.length : null,
            slowRate: rated ? slow / held.length : null
          }
        : undefined,
    counters: model.counters
  }
}

const shownBy = (seen: CircuitBreaker.Snapshot): ReturnType<typeof shown> => ({
  state: seen.state,
  wouldBe: seen.wouldBe,
  mode: seen.mode,
  override: seen.override,
  inFlight: seen.inFlight,
  probesInFlight: seen.probesInFlight,
  openedIn: seen.openUntil === null || seen.openedAt === null ? null : seen.openUntil - seen.openedAt,
  openFor: seen.openUntil === null ? null : seen.openUntil - seen.at,
  openings: seen.openings,
  rampShare: seen.rampShare,
  held:
    seen.wouldBe === "closed"
      ? {
          calls: seen.calls,
          failures: seen.failures,
          slow: seen.slow,
          failureRate: seen.failureRate,
          slowRate: seen.slowRate
        }
      : undefined,
  counters: seen.counters
})

/** What `CircuitControl.follow` calls: not for users, so it is in no type. Directly, because the follower would look too. */
const controlled = (breaker: CircuitBreaker.CircuitBreaker) =>
  breaker as unknown as {
    readonly control: (
      overrides: ReadonlyMap<string, { readonly mode: CircuitBreaker.Mode; readonly until: number }>,
      now: number
    ) => void
  }

const part = ([p, q]: Fraction): number => p / q

const optionsOf = (settings: Settings, random: () => number): Omit<CircuitBreaker.Options, "name"> => {
  const { open, window } = settings
  return {
    window:
      window.type === "consecutive"
        ? window
        : window.type === "count"
          ? { type: "count", size: window.size, failureRate: part(window.rate), minimumCalls: window.minimum }
          : {
              type: "time",
              over: window.width * window.buckets,
              buckets: window.buckets,
              failureRate: part(window.rate),
              minimumCalls: window.minimum
            },
    slowCallDuration: settings.slow.after,
    slowCallRate:
      window.type === "consecutive" || settings.slow.rate === undefined ? undefined : part(settings.slow.rate),
    openFor: "fixed" in open ? open.fixed : "steps" in open ? (openings) => open.steps * openings : open,
    openJitter: settings.jitter,
    random,
    retryAfterCap: settings.retryAfterCap === 0 ? undefined : settings.retryAfterCap,
    halfOpenPermits: settings.permits,
    halfOpenSuccessRate: part(settings.success),
    probeLease: settings.lease,
    rampUp: settings.ramp
  }
}

const exits = {
  ok: Effect.void,
  slow: Effect.void,
  fail: Effect.fail({ isRetryable: true }),
  busy: Effect.fail({ errorClass: "transient", retryAfter: Duration.millis(2_500) }),
  refused: Effect.fail({ isRetryable: false }),
  limited: Effect.fail({ errorClass: "rate-limited" }),
  die: Effect.die("bug"),
  interrupt: Effect.interrupt
} as const

const outcomes = {
  ok: "success",
  slow: "success",
  fail: "failure",
  busy: "failure",
  refused: "success",
  limited: "neutral",
  die: "failure",
  interrupt: "neutral"
} as const

type How = keyof typeof exits

type Command =
  | { readonly do: "begin" | "look" | "reset" | "save" | "restore" }
  | { readonly do: "end"; readonly which: number; readonly how: How }
  | { readonly do: "clock"; readonly millis: number }
  | { readonly do: "mode"; readonly mode: CircuitBreaker.Mode }
  | { readonly do: "override"; readonly mode: CircuitBreaker.Mode | undefined; readonly millis: number }
  | { readonly do: "reload"; readonly which: number }

const only = (name: "begin" | "look" | "reset" | "save" | "restore") => FastCheck.constant<Command>({ do: name })

const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
  { weight: 60, arbitrary: only("begin") },
  {
    weight: 60,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("end" as const),
      which: FastCheck.nat(1_000),
      how: FastCheck.oneof(
        { weight: 8, arbitrary: FastCheck.constantFrom<Array<How>>("fail", "fail", "fail", "ok") },
        {
          weight: 5,
          arbitrary: FastCheck.constantFrom<Array<How>>("busy", "slow", "refused", "limited", "die", "interrupt")
        }
      )
    })
  },
  {
    weight: 16,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("clock" as const),
      millis: FastCheck.constantFrom(1, 37, 100, 400, 999, 1_000, 2_500, 5_000, 3_600_000, -1, -250, -3_000, -3_600_000)
    })
  },
  { weight: 14, arbitrary: only("look") },
  {
    weight: 3,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("mode" as const),
      mode: FastCheck.constantFrom<CircuitBreaker.Mode>(
        "automatic",
        "automatic",
        "automatic",
        "forced-open",
        "disabled",
        "metrics-only"
      )
    })
  },
  {
    weight: 2,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("override" as const),
      mode: FastCheck.constantFrom<CircuitBreaker.Mode | undefined>(
        undefined,
        undefined,
        "forced-open",
        "disabled",
        "metrics-only"
      ),
      millis: FastCheck.constantFrom(500, 4_000)
    })
  },
  {
    weight: 3,
    arbitrary: FastCheck.record({ do: FastCheck.constant("reload" as const), which: FastCheck.nat(2) })
  },
  { weight: 2, arbitrary: only("reset") },
  { weight: 3, arbitrary: only("save") },
  { weight: 3, arbitrary: only("restore") }
)

const fraction = FastCheck.constantFrom<Array<Fraction>>([1, 4], [1, 3], [1, 2], [3, 10], [2, 3], [7, 10], [1, 1])

const settingsArbitrary: FastCheck.Arbitrary<Settings> = FastCheck.record({
  window: FastCheck.oneof<Array<FastCheck.Arbitrary<WindowModel>>>(
    FastCheck.record({
      type: FastCheck.constant("consecutive" as const),
      failures: FastCheck.integer({ min: 1, max: 4 })
    }),
    FastCheck.record({
      type: FastCheck.constant("count" as const),
      size: FastCheck.integer({ min: 4, max: 12 }),
      rate: fraction,
      minimum: FastCheck.integer({ min: 1, max: 4 })
    }),
    FastCheck.record({
      type: FastCheck.constant("time" as const),
      width: FastCheck.constantFrom(100, 500),
      buckets: FastCheck.integer({ min: 1, max: 5 }),
      rate: fraction,
      minimum: FastCheck.integer({ min: 1, max: 4 })
    })
  ),
  slow: FastCheck.record({
    after: FastCheck.constantFrom(300, 5_000),
    rate: FastCheck.option(fraction, { nil: undefined })
  }),
  open: FastCheck.oneof<Array<FastCheck.Arbitrary<Settings["open"]>>>(
    FastCheck.constant({ fixed: 1_000 }),
    FastCheck.constant({ steps: 500 }),
    FastCheck.constant({ initial: 400, factor: 3, max: 3_000 })
  ),
  jitter: FastCheck.constantFrom(0, 0, 0.5),
  retryAfterCap: FastCheck.constantFrom(0, 2_000, 10_000),
  permits: FastCheck.integer({ min: 1, max: 4 }),
  success: FastCheck.constantFrom<Array<Fraction>>([1, 2], [3, 4], [1, 3], [1, 1]),
  lease: FastCheck.constantFrom(800, 3_000),
  ramp: FastCheck.option(
    FastCheck.record({ over: FastCheck.constantFrom(1_000, 5_000), from: FastCheck.constantFrom(0.1, 0.3, 0.5, 1) }),
    { nil: undefined }
  )
}).map((settings) =>
  // A slow rate is refused for a window that has none.
  settings.window.type === "consecutive" ? { ...settings, slow: { ...settings.slow, rate: undefined } } : settings
)

const threeSettings = FastCheck.tuple(settingsArbitrary, settingsArbitrary, settingsArbitrary)

const check = (choices: readonly [Settings, Settings, Settings], commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    let draws = 0
    const random = () => draw(draws++)
    const breaker = yield* CircuitBreaker.make({ ...optionsOf(choices[0], random), name: "model" })
    let model = start(choices[0])
    let calls = 0
    let saved: readonly [Saved, string] | undefined
    const running: Array<
      Call & {
        readonly gate: Deferred.Deferred<void, unknown>
        readonly fiber: Fiber.RuntimeFiber<void, unknown>
      }
    > = []
    const pass = (millis: number) => {
      // No clock shows a time before 1970.
      model = { ...model, now: Math.max(0, model.now + millis) }
      return TestClock.setTime(model.now)
    }
    for (const [index, each] of commands.entries()) {
      const at = `command ${index}: ${JSON.stringify(each)}`
      switch (each.do) {
        case "begin": {
          const id = ++calls
          const begun = begin(model, id)
          model = begun.model
          const gate = yield* Deferred.make<void, unknown>()
          let entered = false
          const fiber = yield* Effect.fork(
            breaker.run(
              Effect.suspend(() => {
                entered = true
                return Deferred.await(gate)
              })
            )
          )
          yield* Effect.yieldNow()
          assert.strictEqual(entered, begun.refusedFor === undefined, at)
          if (entered) {
            running.push({ id, epoch: begun.epoch, startedAt: model.now, gate, fiber })
          } else {
            const error = Either.flip(yield* Effect.either(Fiber.join(fiber)))
            assert.isTrue(Either.isRight(error) && error.right instanceof CircuitBreaker.CircuitOpen, at)
            if (Either.isRight(error) && error.right instanceof CircuitBreaker.CircuitOpen) {
              assert.strictEqual(Duration.toMillis(error.right.retryAfter), begun.refusedFor, at)
            }
          }
          break
        }
        case "end": {
          const [call] = running.splice(each.which % Math.max(1, running.length), 1)
          if (call === undefined) break
          if (each.how === "slow") yield* pass(model.settings.slow.after + 1)
          if (each.how === "interrupt") yield* Fiber.interrupt(call.fiber)
          else yield* Deferred.complete(call.gate, exits[each.how])
          yield* Fiber.await(call.fiber)
          model = end(model, call, outcomes[each.how], each.how === "busy" ? 2_500 : 0)
          break
        }
        case "clock":
          yield* pass(each.millis)
          break
        case "look":
          model = save(model)
          assert.deepStrictEqual(shownBy(yield* breaker.snapshot), shown(model), at)
          break
        case "mode":
          yield* breaker.setMode(each.mode)
          model = setMode(model, each.mode)
          break
        case "override": {
          const said =
            each.mode === undefined ? [] : [["model", { mode: each.mode, until: model.now + each.millis }] as const]
          controlled(breaker).control(new Map(said), model.now)
          model = setOverride(model, each.mode, each.millis)
          break
        }
        case "reload": {
          const settings = choices[each.which] ?? choices[0]
          yield* breaker.reload(optionsOf(settings, random))
          model = reload(model, settings)
          break
        }
        case "reset":
          yield* breaker.reset
          model = reset(model)
          break
        case "save":
          model = save(model)
          saved = [model, JSON.stringify(yield* breaker.snapshot)]
          break
        case "restore":
          if (saved === undefined) break
          yield* breaker.restore(JSON.parse(saved[1]))
          model = restore(model, saved[0])
          break
      }
    }
    for (const call of running) {
      yield* Fiber.interrupt(call.fiber)
      model = end(model, call, "neutral", 0)
    }
    const seen = yield* breaker.snapshot
    model = save(model)
    assert.deepStrictEqual(shownBy(seen), shown(model))
    assert.deepStrictEqual([seen.inFlight, seen.probesInFlight], [0, 0])
  })

describe("CircuitBreaker against a pure model", () => {
  it.effect(
    "does what the model does over 2,000 commands (or UNDERLAY_PROPERTY_COMMANDS)",
    () =>
      Effect.gen(function* () {
        const wanted = yield* Config.integer("UNDERLAY_PROPERTY_COMMANDS").pipe(Config.withDefault(2_000))
        const runtime = yield* Effect.runtime<never>()
        let commands = 0
        const property = FastCheck.asyncProperty(
          threeSettings,
          FastCheck.array(command, { minLength: 1, maxLength: 250, size: "max" }),
          (settings, list) => {
            commands += list.length
            return Runtime.runPromise(runtime)(TestClock.setTime(0).pipe(Effect.andThen(check(settings, list))))
          }
        )
        while (commands < wanted) yield* Effect.promise(() => FastCheck.assert(property, { numRuns: 10 }))
        assert.isAtLeast(commands, wanted)
      }),
    600_000
  )

  it("the model itself can tell: it refuses a breaker that never opens", () => {
    const settings: Settings = {
      window: { type: "consecutive", failures: 2 },
      slow: { after: 1_000, rate: undefined },
      open: { fixed: 1_000 },
      jitter: 0,
      retryAfterCap: 0,
      permits: 1,
      success: [1, 1],
      lease: 1_000,
      ramp: undefined
    }
    const after = [1, 2].reduce(
      (model, id) => end(begin(model, id).model, { id, epoch: 0, startedAt: 0 }, "failure", 0),
      start(settings)
    )
    assert.strictEqual(stateOf(after), "open")
    assert.strictEqual(begin({ ...after, now: 999 }, 3).refusedFor, 1)
    assert.strictEqual(begin({ ...after, now: 1_000 }, 3).refusedFor, undefined)
  })
})
