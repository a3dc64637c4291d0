import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Deferred, Effect, FastCheck, Fiber, Runtime, TestClock } from "effect"

/** What the breaker should do, as a pure function over all that has happened in the present state. */
interface Model {
  readonly now: number
  readonly epoch: number
  readonly mode: CircuitBreaker.Mode
  readonly phase:
    | { readonly is: "closed"; readonly results: ReadonlyArray<boolean> }
    | { readonly is: "open"; readonly until: number }
    | {
        readonly is: "half-open"
        readonly probes: ReadonlyArray<{ readonly call: number; readonly leaseUntil: number }>
        readonly results: ReadonlyArray<boolean>
      }
  readonly openings: number
}

interface Settings {
  readonly window: CircuitBreaker.Window
  readonly openFor: (openings: number) => number
  readonly permits: number
  readonly rate: number
  readonly lease: number
}

const closed = { is: "closed", results: [] } as const
const initial: Model = { now: 0, epoch: 0, mode: "automatic", phase: closed, openings: 0 }

const enter = (model: Model, phase: Model["phase"]): Model => ({ ...model, epoch: model.epoch + 1, phase })

const opened = (settings: Settings, model: Model): Model => {
  const openings = model.openings + 1
  return enter({ ...model, openings }, { is: "open", until: model.now + settings.openFor(openings) })
}

/** Time alone opens the door for a probe. */
const look = (model: Model): Model =>
  model.mode === "automatic" && model.phase.is === "open" && model.now >= model.phase.until
    ? enter(model, { is: "half-open", probes: [], results: [] })
    : model

const stateOf = (model: Model): CircuitBreaker.State =>
  model.mode === "forced-open" ? "open" : model.mode === "disabled" ? "closed" : model.phase.is

const begin = (settings: Settings, before: Model, call: number): readonly [Model, boolean] => {
  const model = look(before)
  if (model.mode !== "automatic") return [model, model.mode === "disabled"]
  if (model.phase.is === "closed") return [model, true]
  if (model.phase.is === "open") return [model, false]
  const probes = model.phase.probes.filter((probe) => probe.leaseUntil > model.now)
  if (probes.length + model.phase.results.length >= settings.permits) {
    return [{ ...model, phase: { ...model.phase, probes } }, false]
  }
  const next = [...probes, { call, leaseUntil: model.now + settings.lease }]
  return [{ ...model, phase: { ...model.phase, probes: next } }, true]
}

const mustOpen = (window: CircuitBreaker.Window, results: ReadonlyArray<boolean>): boolean => {
  if (window.type === "consecutive") {
    return results.length >= window.failures && results.slice(-window.failures).every((ok) => !ok)
  }
  const last = results.slice(-window.size)
  return (
    results.at(-1) === false &&
    last.length >= (window.minimumCalls ?? window.size) &&
    last.filter((ok) => !ok).length / last.length >= window.failureRate
  )
}

const end = (
  settings: Settings,
  model: Model,
  call: { readonly id: number; readonly epoch: number },
  outcome: CircuitBreaker.Outcome
): Model => {
  if (model.mode !== "automatic" || call.epoch !== model.epoch || model.phase.is === "open") return model
  if (model.phase.is === "closed") {
    if (outcome === "neutral") return model
    const results = [...model.phase.results, outcome === "success"]
    return mustOpen(settings.window, results) ? opened(settings, model) : { ...model, phase: { is: "closed", results } }
  }
  const probes = model.phase.probes.filter((probe) => probe.call !== call.id)
  if (probes.length === model.phase.probes.length) return model
  const results = outcome === "neutral" ? model.phase.results : [...model.phase.results, outcome === "success"]
  const good = results.filter((ok) => ok).length
  const needed = Math.max(1, Math.ceil(settings.permits * settings.rate))
  if (good >= needed) return enter({ ...model, openings: 0 }, closed)
  if (settings.permits - (results.length - good) < needed) return opened(settings, model)
  return { ...model, phase: { is: "half-open", probes, results } }
}

const setMode = (before: Model, mode: CircuitBreaker.Mode): Model => {
  if (mode === before.mode) return before
  const model = look(before)
  return mode === "automatic"
    ? enter({ ...model, mode, openings: 0 }, closed)
    : { ...model, mode, epoch: model.epoch + 1 }
}

const exits = {
  ok: Effect.void,
  fail: Effect.fail({ isRetryable: true }),
  refused: Effect.fail({ isRetryable: false }),
  limited: Effect.fail({ errorClass: "rate-limited" }),
  die: Effect.die("bug"),
  interrupt: Effect.interrupt
} as const

type Command =
  | { readonly do: "begin" }
  | { readonly do: "end"; readonly which: number; readonly how: keyof typeof exits }
  | { readonly do: "wait"; readonly millis: number }
  | { readonly do: "look" }
  | { readonly do: "mode"; readonly mode: CircuitBreaker.Mode }
  | { readonly do: "reset" }

const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
  { weight: 30, arbitrary: FastCheck.constant<Command>({ do: "begin" }) },
  {
    weight: 30,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("end" as const),
      which: FastCheck.nat(1_000),
      how: FastCheck.constantFrom<Array<keyof typeof exits>>(
        "ok",
        "fail",
        "fail",
        "fail",
        "refused",
        "limited",
        "die",
        "interrupt"
      )
    })
  },
  {
    weight: 8,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("wait" as const),
      millis: FastCheck.constantFrom(1, 400, 999, 1_000, 2_500, 5_000)
    })
  },
  { weight: 6, arbitrary: FastCheck.constant<Command>({ do: "look" }) },
  {
    weight: 1,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("mode" as const),
      mode: FastCheck.constantFrom<CircuitBreaker.Mode>("automatic", "automatic", "forced-open", "disabled")
    })
  },
  { weight: 1, arbitrary: FastCheck.constant<Command>({ do: "reset" }) }
)

const settingsArbitrary: FastCheck.Arbitrary<Settings> = FastCheck.record({
  window: FastCheck.oneof<Array<FastCheck.Arbitrary<CircuitBreaker.Window>>>(
    FastCheck.record({
      type: FastCheck.constant("consecutive" as const),
      failures: FastCheck.integer({ min: 1, max: 4 })
    }),
    FastCheck.record({
      type: FastCheck.constant("count" as const),
      size: FastCheck.integer({ min: 4, max: 12 }),
      failureRate: FastCheck.constantFrom(0.25, 0.5, 1),
      minimumCalls: FastCheck.integer({ min: 1, max: 4 })
    })
  ),
  openFor: FastCheck.constantFrom<Array<Settings["openFor"]>>(
    () => 1_000,
    (openings) => 500 * openings
  ),
  permits: FastCheck.integer({ min: 1, max: 4 }),
  rate: FastCheck.constantFrom(0.5, 0.75, 1),
  lease: FastCheck.constantFrom(800, 3_000)
})

const outcomes = {
  ok: "success",
  fail: "failure",
  refused: "success",
  limited: "neutral",
  die: "failure",
  interrupt: "neutral"
} as const

const check = (settings: Settings, commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({
      name: "model",
      window: settings.window,
      openFor: settings.openFor,
      halfOpenPermits: settings.permits,
      halfOpenSuccessRate: settings.rate,
      probeLease: settings.lease
    })
    let model = initial
    let calls = 0
    const running: Array<{
      readonly id: number
      readonly epoch: number
      readonly gate: Deferred.Deferred<void, unknown>
      readonly fiber: Fiber.RuntimeFiber<unknown, unknown>
    }> = []
    for (const [index, each] of commands.entries()) {
      const at = `command ${index}: ${JSON.stringify(each)}`
      switch (each.do) {
        case "begin": {
          const id = ++calls
          const [next, permitted] = begin(settings, model, id)
          model = next
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
          assert.strictEqual(entered, permitted, at)
          if (permitted) running.push({ id, epoch: model.mode === "disabled" ? -1 : model.epoch, gate, fiber })
          else yield* Fiber.await(fiber)
          break
        }
        case "end": {
          const [call] = running.splice(each.which % Math.max(1, running.length), 1)
          if (call === undefined) break
          if (each.how === "interrupt") yield* Fiber.interrupt(call.fiber)
          else yield* Deferred.complete(call.gate, exits[each.how])
          yield* Fiber.await(call.fiber)
          model = end(settings, model, call, outcomes[each.how])
          break
        }
        case "wait":
          model = { ...model, now: model.now + each.millis }
          yield* TestClock.setTime(model.now)
          break
        case "look":
          model = look(model)
          break
        case "mode":
          yield* breaker.setMode(each.mode)
          model = setMode(model, each.mode)
          break
        case "reset":
          yield* breaker.reset
          model = enter({ ...model, mode: "automatic", openings: 0 }, closed)
          break
      }
      // Looking is itself a command: only then may time alone change the state.
      if (each.do === "look") assert.strictEqual(yield* breaker.state, stateOf(model), at)
    }
    yield* Fiber.interruptAll(running.map((call) => call.fiber))
    const seen = yield* breaker.snapshot
    assert.strictEqual(seen.state, stateOf(look(model)))
    assert.strictEqual(seen.probesInFlight, 0)
    return seen.counters
  })

describe("CircuitBreaker against a pure model", () => {
  it.effect(
    "does what the model does over 2,000 commands",
    () =>
      Effect.gen(function* () {
        const runtime = yield* Effect.runtime<never>()
        let commands = 0
        yield* Effect.promise(() =>
          FastCheck.assert(
            FastCheck.asyncProperty(
              settingsArbitrary,
              FastCheck.array(command, { minLength: 1, maxLength: 250, size: "max" }),
              (settings, list) => {
                commands += list.length
                return Runtime.runPromise(runtime)(
                  TestClock.setTime(0).pipe(Effect.andThen(check(settings, list)), Effect.asVoid)
                )
              }
            ),
            { numRuns: 40 }
          )
        )
        assert.isAtLeast(commands, 2_000)
      }),
    60_000
  )

  it("the model itself can tell: it refuses a breaker that never opens", () => {
    const settings: Settings = {
      window: { type: "consecutive", failures: 2 },
      openFor: () => 1_000,
      permits: 1,
      rate: 1,
      lease: 1_000
    }
    const after = [1, 2].reduce((model, id) => end(settings, model, { id, epoch: 0 }, "failure"), initial)
    assert.strictEqual(stateOf(after), "open")
  })
})
