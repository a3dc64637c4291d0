/**
 * The words that the conformance cases are written in: work that answers, fails or hangs, and calls that are waited for.
 */
import * as Effect from "effect/Effect"
import * as Suite from "../../testing/Suite.ts"
import type { Call, Case, Driver, Feature, Guard, Leaf, Result, Settings } from "./driver.ts"

/** The service is not well: another time it may be. */
export class Down extends Error {
  override readonly name: string = "Down"
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  constructor(options: { readonly status?: number; readonly headers?: Readonly<Record<string, string>> } = {}) {
    super("down")
    this.status = options.status ?? 503
    this.headers = options.headers ?? {}
  }
}

/** A bug of the work itself, thrown before it returns a promise. */
export class Bug extends Error {
  override readonly name: string = "Bug"
}

/** A link to an issue or pull request of GitHub. */
export const issue = (reference: string): string =>
  `https://github.com/${reference.replace("#", "/issues/").replace("!", "/pull/")}`

export const reproduced = (what: string): string => `reproduced: ${what}`

export const make = (
  id: string,
  title: string,
  sources: ReadonlyArray<string>,
  needs: ReadonlyArray<Feature>,
  run: Case["run"]
): Case => ({ id, title, sources, needs, run })

export const answer: Leaf = () => Promise.resolve("fine")

export const fail: Leaf = () => Promise.reject(new Down())

export const throwBug: Leaf = () => {
  throw new Bug("bug")
}

const aborted = (signal: AbortSignal, reject: (error: unknown) => void): void => {
  const stop = (): void => reject(new DOMException("The work was aborted", "AbortError"))
  if (signal.aborted) stop()
  else signal.addEventListener("abort", stop, { once: true })
}

/** Work that goes on until it is told to end or its signal is aborted. */
export const hang: Leaf = (signal) => new Promise((_, reject) => aborted(signal, reject))

/** Work that goes on until it is told how it ends, which stops at its signal unless it is deaf. */
export class Pending {
  readonly signals: Array<AbortSignal> = []
  private readonly ends: Array<{ resolve: (value: unknown) => void; reject: (error: unknown) => void }> = []
  private readonly deaf: boolean
  constructor(options: { readonly deaf?: boolean } = {}) {
    this.deaf = options.deaf === true
  }
  readonly leaf: Leaf = (signal) =>
    new Promise((resolve, reject) => {
      this.signals.push(signal)
      this.ends.push({ resolve, reject })
      if (!this.deaf) aborted(signal, reject)
    })
  succeed(value: unknown = "fine"): void {
    for (const each of this.ends.splice(0)) each.resolve(value)
  }
  fail(error: unknown = new Down()): void {
    for (const each of this.ends.splice(0)) each.reject(error)
  }
}

/** Work that is counted: how often it was called, how much of it runs, and how much ran at once. */
export class Counted {
  calls = 0
  inFlight = 0
  most = 0
  readonly at: Array<number> = []
  private readonly work: Leaf
  private readonly now: () => number
  constructor(driver: Driver, work: Leaf) {
    this.work = work
    this.now = driver.time.now
  }
  readonly leaf: Leaf = (signal) => {
    this.calls++
    this.inFlight++
    this.most = Math.max(this.most, this.inFlight)
    this.at.push(this.now())
    const end = (): void => {
      this.inFlight--
    }
    const result = this.work(signal)
    result.then(end, end)
    return result
  }
}

/** Begins a call and lets happen what needs no time. */
export const begin = (
  driver: Driver,
  guard: Guard,
  leaf: Leaf,
  options?: { readonly deaf?: boolean }
): Effect.Effect<Call> => Effect.zipLeft(guard.start(leaf, options), driver.time.advance(0))

/** How a call that needs no time goes; a word where it has not ended. */
export const call = (driver: Driver, guard: Guard, leaf: Leaf): Effect.Effect<string> =>
  Effect.map(begin(driver, guard, leaf), outcome)

/** `ok`, the kind of its failure, or `pending`. */
export const outcome = (each: Call): string => {
  const result = each.result()
  return result === undefined ? "pending" : result.ok ? "ok" : result.kind
}

/** How a call ended, which it must have. */
export const ended = (each: Call): Effect.Effect<Result, Suite.SuiteFailure> => {
  const result = each.result()
  return result === undefined
    ? Effect.fail(new Suite.SuiteFailure({ expectation: "the call", expected: "its end", actual: "it goes on" }))
    : Effect.succeed(result)
}

/** A driver that says of itself that it has a part, and has not. */
export const missing = (part: string): Effect.Effect<never, Suite.SuiteFailure> =>
  Effect.fail(new Suite.SuiteFailure({ expectation: "the driver", expected: part, actual: "none" }))

export const times = (n: number): ReadonlyArray<number> => Array.from({ length: n }, (_, index) => index)

/** `n` calls at once. */
export const many = (driver: Driver, guard: Guard, n: number, leaf: Leaf): Effect.Effect<ReadonlyArray<Call>> =>
  Effect.zipLeft(
    Effect.forEach(times(n), () => guard.start(leaf)),
    driver.time.advance(0)
  )

export const openFor = 30_000

/** A breaker that the first failure opens, for 30 seconds. */
export const first: NonNullable<Settings["breaker"]> = { trip: { type: "consecutive", failures: 1 }, openFor }

/** A guard whose circuit a failure has opened, at the moment when it may be probed. */
export const opened = (driver: Driver, settings: Settings = {}): Effect.Effect<Guard, unknown> =>
  Effect.gen(function* () {
    const guard = yield* driver.make({ breaker: first, ...settings })
    yield* Suite.equal("a failure", yield* call(driver, guard, fail), "error")
    yield* Suite.equal("the circuit after it", yield* call(driver, guard, answer), "open")
    yield* driver.time.advance(openFor + 1)
    return guard
  })
