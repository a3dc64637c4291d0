/**
 * The metrics of a policy, bound to their labels once: counting is a few assignments.
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricKey from "effect/MetricKey"
import type * as MetricKeyType from "effect/MetricKeyType"
import * as MetricLabel from "effect/MetricLabel"

/** How a call or an attempt ended; `rejected` is a refusal of our own. */
export type Outcome = "success" | "failure" | "timeout" | "rejected" | "cancelled"

/** Why a call was refused without asking the service. */
export type Refusal = "circuit-open" | "bulkhead-full" | "rate-limit" | "throttled" | "stage"

// The buckets that OpenTelemetry advises for the durations of requests, in seconds, and three more for slow services.
export const durationBoundaries = MetricBoundaries.fromIterable([
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120
])

const counter = (name: string, description: string) => MetricKey.counter(name, { description, incremental: true })

const calls = counter("resilience_calls_total", "Calls through a policy, by how they ended")
const durations = MetricKey.histogram(
  "resilience_call_duration_seconds",
  durationBoundaries,
  "How long calls through a policy took, with all their attempts; not those that were refused"
)
const attempts = counter("resilience_attempts_total", "Attempts of a policy, by how they ended")
const retries = counter("resilience_retries_total", "Attempts after the first")
const hedges = counter("resilience_hedges_total", "Attempts that were started beside a slow one")
const rejections = counter("resilience_rejections_total", "Attempts that the policy itself refused, by reason")
const budget = counter("resilience_retry_budget_refusals_total", "Retries and hedges that the budget refused")
const timeouts = counter("resilience_timeouts_total", "Limits of time that were passed, by scope")
const fallbacks = counter("resilience_fallbacks_total", "Calls that a fallback answered, by how it ended")
const inFlight = MetricKey.gauge("resilience_bulkhead_in_flight", {
  description: "Places of a bulkhead that are taken"
})
const queued = MetricKey.gauge("resilience_bulkhead_queued", { description: "Calls that wait for a place" })
const limits = MetricKey.gauge("resilience_bulkhead_limit", { description: "Places of a bulkhead" })
const orphans = MetricKey.gauge("resilience_orphans", { description: "Work that goes on though its attempt timed out" })
const states = MetricKey.gauge("circuit_breaker_state", { description: "0 closed, 1 half-open, 2 open" })
const stages = counter("resilience_stage_runs_total", "Runs of a stage of one's own, by how they ended")
const stageDurations = MetricKey.histogram(
  "resilience_stage_duration_seconds",
  durationBoundaries,
  "How long a stage of one's own took, with what is inside it"
)

const noTags: ReadonlyArray<MetricLabel.MetricLabel> = []

/** The metric with its labels as parts of its key: `Metric.tagged` would look them up again at every update. */
export const bind = <Type extends MetricKeyType.MetricKeyType<number, unknown>>(
  key: MetricKey.MetricKey<Type>,
  labels: Readonly<Record<string, string>>
) =>
  Metric.fromMetricKey(
    MetricKey.taggedWithLabels(
      key,
      Object.entries(labels).map(([name, value]) => MetricLabel.make(name, value))
    )
  )

interface Bound {
  readonly unsafeUpdate: (input: number, extraTags: ReadonlyArray<MetricLabel.MetricLabel>) => void
}

/** One metric for each value of a label, made when it is first needed: what never happened is not exported. */
class Labelled<Value extends string> {
  private readonly bound = new Map<Value, Bound>()
  private readonly make: (value: Value) => Bound

  constructor(make: (value: Value) => Bound) {
    this.make = make
  }

  update(value: Value, by: number): void {
    let metric = this.bound.get(value)
    if (metric === undefined) {
      metric = this.make(value)
      this.bound.set(value, metric)
    }
    metric.unsafeUpdate(by, noTags)
  }
}

/** What the pipeline tells. */
export class PolicyMetrics {
  private readonly calls: Labelled<Outcome>
  private readonly duration: Bound
  private readonly attempts: Labelled<Outcome>
  private readonly rejections: Labelled<Refusal>
  private readonly timeouts: Labelled<string>
  private readonly fallbacks: Labelled<"success" | "failure">
  private readonly counts: Labelled<"retries" | "hedges" | "budget">
  private readonly gauges: Labelled<"inFlight" | "queued" | "limits" | "orphans" | "states">
  private readonly stageRuns: Labelled<string>
  private readonly stageTimes: Labelled<string>

  constructor(policy: string) {
    this.calls = new Labelled((outcome) => bind(calls, { policy, outcome }))
    this.duration = bind(durations, { policy })
    this.attempts = new Labelled((outcome) => bind(attempts, { policy, outcome }))
    this.rejections = new Labelled((reason) => bind(rejections, { policy, reason }))
    this.timeouts = new Labelled((scope) => bind(timeouts, { policy, scope }))
    this.fallbacks = new Labelled((outcome) => bind(fallbacks, { policy, outcome }))
    const counters = { retries, hedges, budget }
    this.counts = new Labelled((name) => bind(counters[name], { policy }))
    const keys = { inFlight, queued, limits, orphans, states }
    this.gauges = new Labelled((name) => bind(keys[name], name === "states" ? { service: policy } : { policy }))
    this.stageRuns = new Labelled((key) => {
      const end = key.indexOf(" ")
      return bind(stages, { policy, stage: key.slice(end + 1), outcome: key.slice(0, end) })
    })
    this.stageTimes = new Labelled((stage) => bind(stageDurations, { policy, stage }))
  }

  call(outcome: Outcome, millis: number): void {
    this.calls.update(outcome, 1)
    // A refusal takes no time: counted as calls, refusals would show an outage as the fastest service of all.
    if (outcome !== "rejected") this.duration.unsafeUpdate(millis / 1000, noTags)
  }

  attempt(outcome: Outcome): void {
    this.attempts.update(outcome, 1)
  }

  rejected(reason: Refusal): void {
    this.rejections.update(reason, 1)
  }

  timedOut(scope: string): void {
    this.timeouts.update(scope, 1)
  }

  fellBack(outcome: "success" | "failure"): void {
    this.fallbacks.update(outcome, 1)
  }

  retried(): void {
    this.counts.update("retries", 1)
  }

  hedged(): void {
    this.counts.update("hedges", 1)
  }

  budgetRefused(): void {
    this.counts.update("budget", 1)
  }

  bulkhead(active: number, waiting: number, limit: number): void {
    this.gauges.update("inFlight", active)
    this.gauges.update("queued", waiting)
    this.gauges.update("limits", limit)
  }

  orphans(current: number): void {
    this.gauges.update("orphans", current)
  }

  circuit(state: "closed" | "half-open" | "open"): void {
    this.gauges.update("states", state === "closed" ? 0 : state === "half-open" ? 1 : 2)
  }

  stage(name: string, outcome: Outcome, millis: number): void {
    this.stageRuns.update(`${outcome} ${name}`, 1)
    this.stageTimes.update(name, millis / 1000)
  }
}
