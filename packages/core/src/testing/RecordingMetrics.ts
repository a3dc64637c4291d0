/**
 * What changed in the registry of metrics between two looks.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"
import * as MetricState from "effect/MetricState"

/**
 * One metric with its labels, and what it shows: the count of a counter or of the observations, the value of a gauge, …
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordedMetric {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/**
 * A metric that is not what it was; `before` is zero if it was not there.
 *
 * @since 0.1.0
 * @category models
 */
export interface MetricChange {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly before: number
  readonly after: number
}

// Effect's own runtime counts fibers; that is nobody's emission.
const ownToRuntime = /^effect_fiber_/

const valueOf = (state: unknown): number => {
  if (MetricState.isCounterState(state as MetricState.MetricState.Untyped)) {
    return Number((state as MetricState.MetricState.Counter<number | bigint>).count)
  }
  if (MetricState.isGaugeState(state as MetricState.MetricState.Untyped)) {
    return Number((state as MetricState.MetricState.Gauge<number | bigint>).value)
  }
  if (MetricState.isFrequencyState(state as MetricState.MetricState.Untyped)) {
    let total = 0
    for (const count of (state as MetricState.MetricState.Frequency).occurrences.values()) total += count
    return total
  }
  return (state as { readonly count: number }).count
}

/**
 * All metrics as they are now.
 *
 * @since 0.1.0
 * @category accessors
 */
export const snapshot = (): ReadonlyArray<RecordedMetric> =>
  Metric.unsafeSnapshot()
    .filter((pair) => !ownToRuntime.test(pair.metricKey.name))
    .map((pair) => ({
      name: pair.metricKey.name,
      labels: Object.fromEntries(pair.metricKey.tags.map((tag) => [tag.key, tag.value])),
      value: valueOf(pair.metricState)
    }))

const keyOf = (metric: RecordedMetric): string =>
  JSON.stringify([metric.name, Object.entries(metric.labels).sort(([a], [b]) => (a < b ? -1 : 1))])

/**
 * What is new or has another value.
 *
 * @since 0.1.0
 * @category combinators
 */
export const difference = (
  before: ReadonlyArray<RecordedMetric>,
  after: ReadonlyArray<RecordedMetric>
): ReadonlyArray<MetricChange> => {
  const known = new Map(before.map((metric) => [keyOf(metric), metric.value]))
  return after
    .map((metric) => ({
      name: metric.name,
      labels: metric.labels,
      before: known.get(keyOf(metric)) ?? 0,
      after: metric.value,
      isNew: !known.has(keyOf(metric))
    }))
    .filter((change) => change.isNew || change.before !== change.after)
    .map(({ name, labels, before: was, after: is }) => ({ name, labels, before: was, after: is }))
}
