/**
 * Cases of the circuit breaker: half-open, results of an earlier time, and what counts.
 */
import * as Effect from "effect/Effect"
import * as Suite from "../../testing/Suite.ts"
import type { Case } from "./driver.ts"
import {
  answer,
  begin,
  Counted,
  call,
  Down,
  ended,
  fail,
  first,
  hang,
  issue,
  make,
  many,
  missing,
  opened,
  openFor,
  outcome,
  Pending,
  reproduced,
  throwBug,
  times
} from "./scenario.ts"

const halfOpen: ReadonlyArray<Case> = [
  make(
    "half-open-one-probe",
    "500 callers at a half-open circuit: one probe reaches the service",
    [issue("nodeshift/opossum#819"), issue("smallrye/smallrye-fault-tolerance#319"), issue("antflydb/termite!27")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        const service = new Counted(driver, new Pending().leaf)
        yield* many(driver, guard, 500, service.leaf)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("calls", service.calls, 1)
      })
  ),
  make(
    "half-open-no-herd",
    "those who came while the probe ran do not fall on the service all at once when it succeeds",
    [
      reproduced("cockatiel 3.2.1: 499 at once after the probe"),
      issue("resilience4j/resilience4j#1432"),
      issue("future-agi/future-agi#2693")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        const work = new Pending()
        const service = new Counted(driver, work.leaf)
        const calls = yield* many(driver, guard, 500, service.leaf)
        yield* driver.time.advance(1_000)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("at once", service.most, 1)
        yield* Suite.equal("refused", calls.filter((each) => outcome(each) === "open").length, 499)
      })
  ),
  make(
    "half-open-hanging-probe",
    "a probe that never ends, where there is no timeout, does not hold the circuit for ever",
    [
      issue("resilience4j/resilience4j#903"),
      issue("resilience4j/resilience4j#935"),
      issue("diegosouzapw/OmniRoute#13836")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        yield* begin(driver, guard, hang)
        yield* driver.time.advance(3_600_000)
        yield* Suite.equal("an hour later", yield* call(driver, guard, answer), "ok")
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "half-open-timed-out-probe",
    "a probe that times out opens the circuit again, and the next one can close it",
    [issue("resilience4j/resilience4j#1123"), issue("App-vNext/Polly!3094")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver, { timeout: 1_000 })
        const probe = yield* begin(driver, guard, hang)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("the probe", outcome(probe), "timeout")
        yield* Suite.equal("right after", yield* call(driver, guard, answer), "open")
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "half-open-interrupted-probe",
    "an interrupted probe does not wedge the breaker",
    [
      reproduced("a breaker of Effect.tapBoth: half-open for ever"),
      issue("svroonland/rezilience!521"),
      issue("monix/monix#1080")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        const probe = yield* begin(driver, guard, hang)
        yield* probe.cancel
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "half-open-interrupted-proves-nothing",
    "an interrupted probe neither opens nor closes the circuit: the next call is the probe",
    [issue("resilience4j/resilience4j#682"), issue("microsoft/agent-governance-toolkit!2202")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        const probe = yield* begin(driver, guard, hang)
        yield* probe.cancel
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* guard.state, "half-open")
        const service = new Counted(driver, new Pending().leaf)
        yield* many(driver, guard, 10, service.leaf)
        yield* Suite.equal("probes", service.calls, 1)
      })
  ),
  make(
    "half-open-dying-probe",
    "a probe that dies of a bug does not wedge the breaker",
    [reproduced("a breaker of Effect.tapBoth: half-open for ever"), issue("resilience4j/resilience4j#544")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        yield* Suite.equal("the probe", yield* call(driver, guard, throwBug), "error")
        yield* Suite.equal("right after", yield* call(driver, guard, answer), "open")
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "half-open-ignored-error",
    "a probe that ends with an error that is to be ignored does not wedge the breaker",
    [issue("resilience4j/resilience4j#544"), issue("resilience4j/resilience4j#2028")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const ignore = (error: unknown): boolean => error instanceof Down && error.status === 404
        const guard = yield* opened(driver, { breaker: { ...first, ignore } })
        const notFound = () => Promise.reject(new Down({ status: 404 }))
        yield* Suite.equal("the probe", yield* call(driver, guard, notFound), "error")
        yield* Suite.equal("right after", yield* call(driver, guard, answer), "ok")
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "half-open-failed-probe",
    "a probe that fails opens the circuit for its whole time again",
    [issue("resilience4j/resilience4j#2028")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        yield* Suite.equal("the probe", yield* call(driver, guard, fail), "error")
        yield* driver.time.advance(openFor - 1)
        yield* Suite.equal("just before", yield* call(driver, guard, answer), "open")
        yield* driver.time.advance(2)
        yield* Suite.equal("after", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "half-open-500-given-up",
    "500 callers at a half-open circuit give up: no probe, no timer and no work is left of them",
    [issue("future-agi/future-agi#2693"), issue("connor4312/cockatiel#112")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver, { timeout: 600_000 })
        const service = new Counted(driver, new Pending().leaf)
        const before = driver.time.timers().holding
        const calls = yield* many(driver, guard, 500, service.leaf)
        yield* Effect.forEach(calls, (each) => each.cancel, { discard: true })
        yield* driver.time.advance(0)
        yield* Suite.equal("settled", calls.filter((each) => each.result() !== undefined).length, 500)
        yield* Suite.equal("work", service.inFlight, 0)
        yield* Suite.equal("timers", driver.time.timers().holding, before)
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
      })
  )
]

const stale: ReadonlyArray<Case> = [
  make(
    "stale-failure-in-half-open",
    "a failure of before the circuit opened does not open it again, nor drop the good probe",
    [reproduced("cockatiel 3.2.1: opened again, the probe's result dropped"), issue("denoland/std!7306")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const late = new Pending()
        const old = yield* begin(driver, guard, late.leaf)
        yield* call(driver, guard, fail)
        yield* driver.time.advance(openFor + 1)
        const work = new Pending()
        const probe = yield* begin(driver, guard, work.leaf)
        late.fail()
        yield* driver.time.advance(0)
        yield* Suite.equal("the old call", outcome(old), "error")
        yield* Suite.equal("the circuit, with its probe under way", yield* guard.state, "half-open")
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the probe", outcome(probe), "ok")
        yield* Suite.equal("the circuit, after its probe", yield* guard.state, "closed")
      })
  ),
  make(
    "stale-success-in-half-open",
    "a success of before the circuit opened does not close it without a probe",
    [reproduced("opossum 8.5.0: closed without a probe"), issue("thomhurst/Kevlar#227")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const late = new Pending()
        yield* begin(driver, guard, late.leaf)
        yield* call(driver, guard, fail)
        yield* driver.time.advance(openFor + 1)
        // The probe is under way: that the circuit may be probed is known to every library by now.
        const probe = yield* begin(driver, guard, new Pending().leaf)
        late.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the probe", outcome(probe), "pending")
        yield* Suite.equal("the circuit", yield* guard.state, "half-open")
      })
  ),
  make(
    "stale-success-while-open",
    "a success of before the circuit opened does not close it while it is open",
    [issue("App-vNext/Polly#217"), issue("thomhurst/Kevlar#227")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const late = new Pending()
        yield* begin(driver, guard, late.leaf)
        yield* call(driver, guard, fail)
        late.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("a call", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "stale-failure-after-closing",
    "a failure of before the circuit opened does not open it once a probe has closed it",
    [issue("App-vNext/Polly#217"), issue("denoland/std!7306")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const late = new Pending()
        yield* begin(driver, guard, late.leaf)
        yield* call(driver, guard, fail)
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("the probe", yield* call(driver, guard, answer), "ok")
        late.fail()
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  )
]

const counting: ReadonlyArray<Case> = [
  make(
    "own-refusals-full",
    "calls refused because all places are taken do not open the circuit: the service is well",
    [
      reproduced("opossum 8.5.0: 20 calls at capacity 1 open it"),
      issue("resilience4j/resilience4j#1657"),
      issue("resilience4j/resilience4j#515")
    ],
    ["bulkhead"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "consecutive", failures: 5 }, openFor },
          bulkhead: { maxConcurrent: 1 }
        })
        const work = new Pending()
        const calls = yield* many(driver, guard, 20, work.leaf)
        yield* Suite.equal("refused as full", calls.filter((each) => outcome(each) === "full").length, 19)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "own-refusals-full-inside",
    "nor where the breaker is round the bulkhead",
    [issue("resilience4j/resilience4j#1657"), issue("resilience4j/resilience4j#614")],
    ["bulkhead"],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* driver.make({ breaker: { trip: { type: "consecutive", failures: 5 }, openFor } })
        const guard = driver.nest([breaker, yield* driver.make({ bulkhead: { maxConcurrent: 1 } })])
        const work = new Pending()
        const calls = yield* many(driver, guard, 20, work.leaf)
        yield* Suite.equal("let in", calls.filter((each) => outcome(each) === "pending").length, 1)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* breaker.state, "closed")
      })
  ),
  make(
    "own-refusals-open",
    "refusals of an open circuit within do not open the one round it",
    [issue("resilience4j/resilience4j#920"), issue("resilience4j/resilience4j#1653")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const outer = yield* driver.make({ breaker: { trip: { type: "consecutive", failures: 5 }, openFor: 1_000 } })
        const inner = yield* driver.make({ breaker: first })
        yield* call(driver, inner, fail)
        const refused = yield* Effect.forEach(times(20), () => call(driver, driver.nest([outer, inner]), answer))
        yield* Suite.equal("refused", refused.filter((each) => each === "open").length, 20)
        yield* Suite.equal("the outer circuit", yield* outer.state, "closed")
      })
  ),
  make(
    "refused-calls-do-not-dilute",
    "refused calls do not count as calls: a service that fails always opens the circuit, however many were refused before",
    [reproduced("opossum 8.5.0: `fires` includes what was refused")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "time", rate: 0.5, span: 10_000, minimumCalls: 5 }, openFor: 1_000 }
        })
        yield* Effect.forEach(times(6), () => call(driver, guard, fail))
        yield* Suite.equal("at first", yield* call(driver, guard, answer), "open")
        yield* Effect.forEach(times(100), () => guard.start(answer))
        yield* driver.time.advance(1_001)
        yield* Suite.equal("the probe", yield* call(driver, guard, answer), "ok")
        yield* Effect.forEach(times(20), () => call(driver, guard, fail))
        yield* Suite.equal("after it", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "minimum-calls",
    "a single failed call is no failure rate: by default a few calls must have been made",
    ["https://github.com/nodeshift/opossum/blob/main/README.md (volumeThreshold: 0)"],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: { trip: { type: "rate", rate: 0.5, size: 10 }, openFor } })
        yield* call(driver, guard, fail)
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
      })
  ),
  make(
    "count-window",
    "a failure rate among the last calls opens the circuit, and failures before those are forgotten",
    ["https://resilience4j.readme.io/docs/circuitbreaker"],
    ["count-window"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "rate", rate: 0.5, size: 4, minimumCalls: 4 }, openFor }
        })
        for (const leaf of [fail, answer, answer, answer, fail, answer]) yield* call(driver, guard, leaf)
        yield* Suite.equal("one of the last four", yield* guard.state, "closed")
        for (const leaf of [fail, fail]) yield* call(driver, guard, leaf)
        yield* Suite.equal("three of the last four", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "time-window",
    "a failure rate within a span of time opens the circuit, and failures before it are forgotten",
    [
      reproduced("cockatiel 3.2.1: after a pause, failures of before the span still count"),
      "https://www.pollydocs.org/strategies/circuit-breaker.html",
      "https://resilience4j.readme.io/docs/circuitbreaker"
    ],
    ["time-window"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "time", rate: 0.5, span: 10_000, minimumCalls: 4 }, openFor }
        })
        for (const leaf of [fail, fail, fail]) yield* call(driver, guard, leaf)
        yield* driver.time.advance(12_000)
        for (const leaf of [fail, answer, answer, answer, answer]) yield* call(driver, guard, leaf)
        yield* Suite.equal("one of the last five", yield* guard.state, "closed")
        for (const leaf of [fail, fail, fail, fail, fail]) yield* call(driver, guard, leaf)
        yield* Suite.equal("six of the last ten", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "growing-open-time",
    "each time in a row the circuit stays open for longer",
    [
      "https://github.com/connor4312/cockatiel#circuitbreakerpolicy",
      "https://www.pollydocs.org/strategies/circuit-breaker.html"
    ],
    ["growing-open-time"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: { ...first, openFor: 1_000, factor: 2 } })
        yield* call(driver, guard, fail)
        yield* driver.time.advance(1_001)
        yield* Suite.equal("the first probe", yield* call(driver, guard, fail), "error")
        yield* driver.time.advance(1_001)
        yield* Suite.equal("as late again", yield* call(driver, guard, answer), "open")
        yield* driver.time.advance(1_000)
        yield* Suite.equal("twice as late", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "state-as-it-is",
    "the state that is shown is that of this moment, not of the last call",
    [issue("thomhurst/Kevlar#227"), issue("App-vNext/Polly#1828")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* opened(driver)
        yield* Suite.equal("the circuit, with nobody calling", yield* guard.state, "half-open")
      })
  ),
  make(
    "no-error-kept",
    "a breaker keeps no error of one caller that another could see",
    [issue("thomhurst/Kevlar#227")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const secret = "the first caller's request"
        yield* begin(driver, guard, () => Promise.reject(Object.assign(new Error(secret), { status: 503 })))
        const refused = yield* ended(yield* begin(driver, guard, answer))
        yield* Suite.equal("the second call", refused.ok ? "ok" : refused.kind, "open")
        yield* Suite.isTrue("the refusal says nothing of it", !mentions(refused, secret))
        yield* Suite.isTrue("nor does the breaker", !mentions(yield* guard.shown, secret))
      })
  ),
  make(
    "clock-set-back",
    "a clock that is set back does not keep the circuit open for longer",
    [reproduced("cockatiel 3.2.1: open for as long as the clock was set back")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        yield* call(driver, guard, fail)
        yield* driver.time.step(-3_600_000)
        yield* call(driver, guard, answer)
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("a call", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "forced-open",
    "a circuit can be held open until it is told otherwise",
    [issue("resilience4j/resilience4j#1756")],
    ["forced-open"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        yield* guard.setMode?.("forced-open") ?? Effect.void
        yield* driver.time.advance(86_400_000)
        yield* Suite.equal("a day later", yield* call(driver, guard, answer), "open")
        yield* guard.setMode?.("automatic") ?? Effect.void
        yield* Suite.equal("released", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "disabled",
    "a breaker can be switched off: every call passes, whatever becomes of it",
    [issue("resilience4j/resilience4j#1756")],
    ["disabled"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        yield* guard.setMode?.("disabled") ?? Effect.void
        yield* Effect.forEach(times(10), () => call(driver, guard, fail))
        yield* Suite.equal("a call", yield* call(driver, guard, answer), "ok")
        yield* guard.setMode?.("automatic") ?? Effect.void
        yield* call(driver, guard, fail)
        yield* Suite.equal("switched on", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "restore",
    "an open circuit can be taken over into another process",
    [issue("connor4312/cockatiel#89"), issue("nodeshift/opossum#675")],
    ["restore"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        yield* call(driver, guard, fail)
        const saved: unknown = JSON.parse(JSON.stringify(yield* guard.saved ?? Effect.void))
        const next = yield* driver.make({ breaker: { ...first, restore: saved } })
        yield* Suite.equal("in the other", yield* call(driver, next, answer), "open")
        yield* driver.time.advance(openFor + 1)
        yield* Suite.equal("in its time", yield* call(driver, next, answer), "ok")
      })
  ),
  make(
    "changes",
    "listeners are told of every change of state",
    ["https://github.com/connor4312/cockatiel#circuitbreakeronstatechangecallback"],
    ["changes"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first })
        const seen = yield* guard.changes ?? Effect.succeed(() => [])
        yield* driver.time.advance(0)
        yield* call(driver, guard, fail)
        yield* driver.time.advance(openFor + 1)
        yield* call(driver, guard, answer)
        yield* driver.time.advance(0)
        yield* Suite.equal("told", seen(), ["open", "half-open", "closed"])
      })
  ),
  make(
    "many-breakers",
    "2,000 breakers, all open, hold no timer",
    [
      reproduced("opossum 8.5.0: an interval each"),
      issue("resilience4j/resilience4j#650"),
      issue("nodeshift/opossum#248"),
      issue("nodeshift/opossum#648"),
      issue("nodeshift/opossum!809"),
      issue("diegosouzapw/OmniRoute!4114")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const before = driver.time.timers().pending
        const guards = yield* Effect.forEach(times(2_000), () => driver.make({ breaker: first }))
        yield* Effect.forEach(guards, (guard) => guard.start(fail), { discard: true })
        yield* driver.time.advance(0)
        const states = yield* Effect.forEach(guards, (guard) => guard.state)
        yield* Suite.equal("open", states.filter((state) => state === "open").length, 2_000)
        const pending = driver.time.timers().pending - before
        yield* Effect.forEach(guards, (guard) => guard.shutdown, { discard: true })
        yield* Suite.isTrue(`timers: ${pending}`, pending <= 1)
      })
  ),
  make(
    "health-watch-ends",
    "watching a breaker's health leaves no timer once it is shut down",
    [reproduced("opossum 8.5.0: the interval of healthCheck is never cleared")],
    ["health-check"],
    (driver) =>
      Effect.gen(function* () {
        const before = driver.time.timers().pending
        const guard = yield* driver.make({ breaker: first })
        yield* guard.watchHealth ?? missing("watchHealth")
        yield* driver.time.advance(0)
        yield* guard.shutdown
        yield* driver.time.advance(0)
        yield* Suite.equal("timers", driver.time.timers().pending - before, 0)
      })
  )
]

/** Whether the text is anywhere in what the value shows or keeps, be it in an error's message or a map. */
const mentions = (value: unknown, text: string, seen: Set<unknown> = new Set()): boolean => {
  if (typeof value === "string") return value.includes(text)
  if (typeof value !== "object" || value === null || seen.has(value)) return false
  seen.add(value)
  if (value instanceof Map || value instanceof Set) {
    for (const each of value instanceof Map ? [...value.keys(), ...value.values()] : value) {
      if (mentions(each, text, seen)) return true
    }
  }
  // What errors say of themselves is often not a property of their own.
  const keys = [...Reflect.ownKeys(value), "message", "stack", "cause"]
  return keys.some((key) => mentions(Reflect.get(value, key), text, seen))
}

export const cases: ReadonlyArray<Case> = [...halfOpen, ...stale, ...counting]
