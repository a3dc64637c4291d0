/**
 * The metrics of calls of outside services, bound to their labels once: counting a call is a few assignments.
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricKey from "effect/MetricKey"
import type * as MetricKeyType from "effect/MetricKeyType"
import * as MetricLabel from "effect/MetricLabel"

/** How a call ended. */
export type Outcome = "success" | "failure" | "rejected" | "cancelled"

// The buckets that OpenTelemetry advises for the durations of requests, in seconds, and three more for slow services.
const boundaries = MetricBoundaries.fromIterable([
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120
])

const calls = MetricKey.counter("external_calls_total", {
  description: "Calls of outside services, by how they ended",
  incremental: true
})
const durations = MetricKey.histogram(
  "external_call_duration_seconds",
  boundaries,
  "How long calls of outside services took, with all their attempts; not those that were refused"
)
const inFlight = MetricKey.gauge("external_calls_in_flight", { description: "Calls of outside services under way" })
const retries = MetricKey.counter("external_call_retries_total", {
  description: "Attempts after the first",
  incremental: true
})
const circuit = MetricKey.gauge("circuit_breaker_state", { description: "0 closed, 1 half-open, 2 open" })

const noTags: ReadonlyArray<MetricLabel.MetricLabel> = []

/**
 * The metric with its labels as parts of its key: `Metric.tagged` would look them up again at every update.
 */
const bind = <Type extends MetricKeyType.MetricKeyType<number, unknown>>(
  key: MetricKey.MetricKey<Type>,
  labels: Readonly<Record<string, string>>
) =>
  Metric.fromMetricKey(
    MetricKey.taggedWithLabels(
      key,
      Object.entries(labels).map(([name, value]) => MetricLabel.make(name, value))
    )
  )

/** The metrics of one operation. */
export interface OperationMetrics {
  readonly ended: (outcome: Outcome, millis: number) => void
  readonly retried: () => void
}

/** The metrics of one service. */
export interface ServiceMetrics {
  readonly operation: (name: string) => OperationMetrics
  /** By how many more or fewer: several clients may call the same service. */
  readonly inFlight: (change: 1 | -1) => void
  readonly circuit: (state: "closed" | "half-open" | "open") => void
}

/** More operations than this share the label `other`: labels must not grow with what callers make up. */
const maxOperations = 500

export const make = (service: string): ServiceMetrics => {
  const flying = bind(inFlight, { service })
  const state = bind(circuit, { service })
  const operations = new Map<string, OperationMetrics>()
  const make = (operation: string): OperationMetrics => {
    const outcomes = {
      success: bind(calls, { service, operation, outcome: "success" }),
      failure: bind(calls, { service, operation, outcome: "failure" }),
      rejected: bind(calls, { service, operation, outcome: "rejected" }),
      cancelled: bind(calls, { service, operation, outcome: "cancelled" })
    }
    const duration = bind(durations, { service, operation })
    const again = bind(retries, { service, operation })
    return {
      ended: (outcome, millis) => {
        outcomes[outcome].unsafeUpdate(1, noTags)
        // A refusal takes no time: counted as calls, refusals would show an outage as the fastest service of all.
        if (outcome !== "rejected") duration.unsafeUpdate(millis / 1000, noTags)
      },
      retried: () => again.unsafeUpdate(1, noTags)
    }
  }
  return {
    operation: (name) => {
      const known = operations.get(name)
      if (known !== undefined) return known
      const label = operations.size < maxOperations ? name : "other"
      const made = operations.get(label) ?? make(label)
      operations.set(label, made)
      return made
    },
    inFlight: (change) => flying.unsafeModify(change, noTags),
    circuit: (each) => state.unsafeUpdate(each === "closed" ? 0 : each === "half-open" ? 1 : 2, noTags)
  }
}
