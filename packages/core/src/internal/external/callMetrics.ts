/**
 * The metrics of calls of outside services, bound to their labels once: counting a call is a few assignments.
 */
import * as MetricKey from "effect/MetricKey"
import type * as MetricLabel from "effect/MetricLabel"
import { bind, durationBoundaries } from "../resilience/policyMetrics.ts"

/** How a call ended. */
export type Outcome = "success" | "failure" | "rejected" | "cancelled"

const calls = MetricKey.counter("external_calls_total", {
  description: "Calls of outside services, by how they ended",
  incremental: true
})
const durations = MetricKey.histogram(
  "external_call_duration_seconds",
  durationBoundaries,
  "How long calls of outside services took, with all their attempts; not those that were refused"
)
const inFlight = MetricKey.gauge("external_calls_in_flight", { description: "Calls of outside services under way" })
const retries = MetricKey.counter("external_call_retries_total", {
  description: "Attempts after the first",
  incremental: true
})
const circuit = MetricKey.gauge("circuit_breaker_state", { description: "0 closed, 1 half-open, 2 open" })

const noTags: ReadonlyArray<MetricLabel.MetricLabel> = []

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
