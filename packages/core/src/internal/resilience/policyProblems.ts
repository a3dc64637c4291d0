/**
 * Settings of a policy that cannot work together, each with what to write instead, and the policy in words.
 */
import * as Duration from "effect/Duration"
import * as Bulkhead from "../../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import * as Hedge from "../../resilience/Hedge.ts"
import * as RateLimit from "../../resilience/RateLimit.ts"
import * as RetryBudget from "../../resilience/RetryBudget.ts"
import * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import * as Throttle from "../../resilience/Throttle.ts"
import type * as pipeline from "./pipeline.ts"
import type { Options } from "./policyOptions.ts"

export const defaultTotal = 30_000

export const millis = (input: Duration.DurationInput | false | undefined, otherwise: number): number =>
  input === undefined ? otherwise : input === false ? Number.POSITIVE_INFINITY : Duration.toMillis(input)

export const shown = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? "none" : Duration.format(Duration.millis(value))

/** The settings of a part that is to be made of settings. */
const settingsOf = <Given, Part>(given: Given, is: (u: unknown) => u is Part) =>
  given === undefined || given === false || is(given) ? undefined : (given as Exclude<Given, Part | false | undefined>)

/** What is wrong with the settings. */
export const problemsOf = (options: Options): ReadonlyArray<string> => {
  const total = millis(options.timeout, defaultTotal)
  const attempt = millis(options.attemptTimeout, Number.POSITIVE_INFINITY)
  return [
    ...ofTimeouts(total, attempt),
    ...ofRetry(options, total),
    ...ofHedge(options, total, attempt),
    ...ofBreaker(options, attempt),
    ...ofWaits(options, total),
    ...ofStages(options)
  ]
}

const ofTimeouts = (total: number, attempt: number): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (!(total > 0)) found.push("timeout is not positive: give a longer one, or false for no limit")
  if (!(attempt > 0)) found.push("attemptTimeout is not positive: give a longer one, or false for no limit")
  if (attempt !== Number.POSITIVE_INFINITY && attempt > total) {
    found.push(
      `attemptTimeout (${shown(attempt)}) is longer than timeout (${shown(total)}), so it could never end an attempt: ` +
        "lower attemptTimeout or raise timeout"
    )
  }
  return found
}

const ofRetry = (options: Options, total: number): ReadonlyArray<string> => {
  const budget = settingsOf(options.budget, RetryBudget.isRetryBudget)
  const retry = settingsOf(options.retry, RetryPolicy.isRetryPolicy)
  const found: Array<string> = budget === undefined ? [] : [...RetryBudget.problems(budget)]
  if (retry === undefined) return found
  found.push(...RetryPolicy.problems(retry))
  const attempts = retry.attempts ?? 3
  if (options.idempotent === false && attempts > 1 && retry.unsentOnly !== true) {
    found.push(
      `idempotent is false but retry allows ${attempts} attempts, so an effect could happen twice: set ` +
        "retry.unsentOnly to true (again only where nothing was sent), retry to false, or idempotent to true if the " +
        "service recognises repeated calls"
    )
  }
  const base = Duration.toMillis(retry.base ?? "1 second")
  if (attempts > 1 && retry.jitter === "none" && base >= total) {
    found.push(
      `the first wait of retry (${shown(base)}) is not shorter than timeout (${shown(total)}), so there would never be a ` +
        "second attempt: lower retry.base or raise timeout"
    )
  }
  return found
}

const ofHedge = (options: Options, total: number, attempt: number): ReadonlyArray<string> => {
  const { hedge } = options
  if (hedge === undefined || hedge === false) return []
  const found: Array<string> = []
  if (!Hedge.isHedge(hedge)) {
    found.push(...Hedge.problems(hedge))
    const [setting, shortest] = isPercentile(hedge.delay)
      ? ["hedge.delay.min", hedge.delay.min ?? 0]
      : ["hedge.delay", hedge.delay]
    const delay = Duration.toMillis(shortest)
    const limit = Math.min(total, attempt)
    if (delay >= limit && limit > 0) {
      found.push(
        `${setting} (${shown(delay)}) is not shorter than ${attempt <= total ? "attemptTimeout" : "timeout"} ` +
          `(${shown(limit)}), so there would never be a hedge: lower ${setting}`
      )
    }
  }
  if (options.idempotent === false) {
    found.push(
      "hedge is set but idempotent is false, so an effect could happen twice: remove hedge, or set idempotent to true if " +
        "the service recognises repeated calls"
    )
  }
  const bulkhead = settingsOf(options.bulkhead, Bulkhead.isBulkhead)
  if (bulkhead !== undefined && "maxConcurrent" in bulkhead && bulkhead.maxConcurrent === 1) {
    found.push(
      "bulkhead.maxConcurrent is 1, so a hedge would wait for the place that the first attempt holds: raise it or remove " +
        "hedge"
    )
  }
  return found
}

const isPercentile = (delay: Hedge.Options["delay"]): delay is Hedge.PercentileDelay =>
  typeof delay === "object" && "percentile" in delay

const ofBreaker = (options: Options, attempt: number): ReadonlyArray<string> => {
  const breaker = settingsOf(options.breaker, CircuitBreaker.isCircuitBreaker)
  if (breaker === undefined) return []
  const found: Array<string> = [...CircuitBreaker.problems({ ...breaker, name: options.name })]
  const lease = breaker.probeLease
  if (lease !== undefined && attempt !== Number.POSITIVE_INFINITY && Duration.toMillis(lease) < attempt) {
    found.push(
      `breaker.probeLease (${Duration.format(lease)}) is shorter than attemptTimeout (${shown(attempt)}), so a probe could ` +
        "lose its place while it may still run: raise probeLease or lower attemptTimeout"
    )
  }
  const slow = breaker.slowCallDuration
  if (slow !== undefined && attempt !== Number.POSITIVE_INFINITY && Duration.toMillis(slow) >= attempt) {
    found.push(
      `breaker.slowCallDuration (${Duration.format(slow)}) is not shorter than attemptTimeout (${shown(attempt)}), so no ` +
        "call could be slow without having failed: lower slowCallDuration"
    )
  }
  return found
}

const ofWaits = (options: Options, total: number): ReadonlyArray<string> => {
  const found: Array<string> = []
  const wait = (name: string, input: Duration.DurationInput | false | undefined): void => {
    const longest = input === undefined || input === false ? 0 : Duration.toMillis(input)
    if (longest >= total && total > 0) {
      found.push(
        `${name} (${shown(longest)}) is not shorter than timeout (${shown(total)}), so a call could spend all its time ` +
          `waiting for its turn: lower ${name} or raise timeout`
      )
    }
  }
  const bulkhead = settingsOf(options.bulkhead, Bulkhead.isBulkhead)
  if (bulkhead !== undefined) {
    found.push(...Bulkhead.problems(bulkhead))
    wait("bulkhead.maxWait", bulkhead.maxWait)
  }
  const rateLimit = settingsOf(options.rateLimit, RateLimit.isRateLimit)
  if (rateLimit !== undefined) {
    found.push(...RateLimit.problems(rateLimit))
    wait("rateLimit.maxWait", rateLimit.maxWait)
  }
  const throttle = settingsOf(options.throttle, Throttle.isThrottle)
  if (throttle !== undefined) found.push(...Throttle.problems(throttle))
  return found
}

const ofStages = ({ stages }: Options): ReadonlyArray<string> =>
  stages
    ?.filter(({ name }, index) => stages.findIndex((each) => each.name === name) < index)
    .map(({ name }) => `two stages are named "${name}": give each a name of its own, its metrics bear it`) ?? []

/** The policy in words, one stage a line, outermost first. */
export const describeStages = (stages: pipeline.Stages): string => {
  const own = (at: ReadonlyArray<{ readonly name: string }>): ReadonlyArray<readonly [string, string]> =>
    at.map((each) => ["stage", each.name])
  const part = (name: string, described: { readonly description: string } | undefined) =>
    described === undefined ? [] : [[name, described.description] as const]
  const lines: ReadonlyArray<readonly [string, string]> = [
    ...own(stages.around.call),
    ["total timeout", shown(stages.total)],
    ["retry", stages.retry.description],
    ...(stages.retry.attempts > 1 || stages.hedge !== undefined ? part("retry budget", stages.budget) : []),
    ...part("hedge", stages.hedge),
    ...own(stages.around.attempt),
    ...part("throttle", stages.throttle),
    ...part("rate limit", stages.rateLimit),
    ["circuit breaker", stages.breaker === undefined ? "none" : stages.breaker.description],
    ...part("bulkhead", stages.bulkhead),
    ["attempt timeout", shown(stages.attempt)],
    ...own(stages.around.inner),
    ...part("chaos", stages.chaos)
  ]
  const width = Math.max(...lines.map(([name]) => name.length))
  return [
    `policy "${stages.name}"`,
    ...lines.map(([name, words]) => `  ${name.padEnd(width)}  ${words}`),
    "  the call"
  ].join("\n")
}
