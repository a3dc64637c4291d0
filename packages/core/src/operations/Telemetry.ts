/**
 * Effect's metrics in the text format of Prometheus (exposition format 0.0.4), also over HTTP at `/metrics`.
 *
 * @since 0.1.0
 */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as MetricPair from "effect/MetricPair"
import * as MetricState from "effect/MetricState"
import * as Option from "effect/Option"

/**
 * The media type of what `prometheus` gives.
 *
 * @since 0.1.0
 * @category constants
 */
export const contentType = "text/plain; version=0.0.4; charset=utf-8"

type Labels = ReadonlyArray<readonly [name: string, value: string]>

interface Sample {
  readonly suffix: string
  readonly labels: Labels
  readonly value: string
}

interface Family {
  readonly name: string
  readonly type: "counter" | "gauge" | "histogram" | "summary"
  help: string | undefined
  readonly series: Map<string, ReadonlyArray<Sample>>
}

const metricName = (name: string): string => {
  const safe = name.replace(/[^a-zA-Z0-9_:]/g, "_")
  return /^[a-zA-Z_:]/.test(safe) ? safe : `_${safe}`
}

// Names that begin with two underscores are Prometheus's own.
const labelName = (name: string): string => {
  const safe = name.replace(/[^a-zA-Z0-9_]/g, "_").replace(/^__+/, "_")
  return /^[a-zA-Z_]/.test(safe) ? safe : `_${safe}`
}

const escapeHelp = (text: string): string => text.replace(/\\/g, "\\\\").replace(/\r\n|\n|\r/g, "\\n")

const escapeValue = (text: string): string =>
  text
    .replace(/\\/g, "\\\\")
    .replace(/"/g, '\\"')
    .replace(/\r\n|\n|\r/g, "\\n")

const numberText = (value: number | bigint): string =>
  value === Number.POSITIVE_INFINITY ? "+Inf" : value === Number.NEGATIVE_INFINITY ? "-Inf" : String(value)

// A name may occur once in a series: the last value wins. `own` are the names that the format uses itself.
const labelsOf = (pair: MetricPair.MetricPair.Untyped, own: string | undefined): Labels => {
  const labels = new Map<string, string>()
  for (const { key, value } of pair.metricKey.tags) {
    const name = labelName(key)
    labels.set(name === own ? `exported_${name}` : name, value)
  }
  return Array.from(labels).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
}

const labelsText = (labels: Labels): string =>
  labels.length === 0 ? "" : `{${labels.map(([name, value]) => `${name}="${escapeValue(value)}"`).join(",")}}`

interface Rendered {
  readonly type: Family["type"]
  readonly name: string
  readonly labels: Labels
  readonly samples: ReadonlyArray<Sample>
}

const counterName = (name: string): string => (name.endsWith("_total") ? name : `${name}_total`)

const render = (pair: MetricPair.MetricPair.Untyped): Option.Option<Rendered> => {
  const state: unknown = pair.metricState
  const name = metricName(pair.metricKey.name)
  if (MetricState.isCounterState(state)) {
    const labels = labelsOf(pair, undefined)
    return Option.some({
      type: "counter",
      name: counterName(name),
      labels,
      samples: [{ suffix: "", labels, value: numberText(state.count) }]
    })
  }
  if (MetricState.isGaugeState(state)) {
    const labels = labelsOf(pair, undefined)
    return Option.some({
      type: "gauge",
      name,
      labels,
      samples: [{ suffix: "", labels, value: numberText(state.value) }]
    })
  }
  if (MetricState.isFrequencyState(state)) {
    const labels = labelsOf(pair, "key")
    return Option.some({
      type: "counter",
      name: counterName(name),
      labels,
      samples: Array.from(state.occurrences, ([key, count]) => ({
        suffix: "",
        labels: [...labels, ["key", key] as const],
        value: numberText(count)
      }))
    })
  }
  if (MetricState.isHistogramState(state)) {
    const labels = labelsOf(pair, "le")
    const bucket = (le: string, count: number): Sample => ({
      suffix: "_bucket",
      labels: [...labels, ["le", le]],
      value: numberText(count)
    })
    return Option.some({
      type: "histogram",
      name,
      labels,
      samples: [
        ...state.buckets
          .filter(([boundary]) => Number.isFinite(boundary))
          .map(([boundary, count]) => bucket(numberText(boundary), count)),
        bucket("+Inf", state.count),
        { suffix: "_sum", labels, value: numberText(state.sum) },
        { suffix: "_count", labels, value: numberText(state.count) }
      ]
    })
  }
  if (MetricState.isSummaryState(state)) {
    const labels = labelsOf(pair, "quantile")
    return Option.some({
      type: "summary",
      name,
      labels,
      samples: [
        ...state.quantiles.map(
          ([quantile, value]): Sample => ({
            suffix: "",
            labels: [...labels, ["quantile", numberText(quantile)]],
            value: numberText(Option.getOrElse(value, () => Number.NaN))
          })
        ),
        { suffix: "_sum", labels, value: numberText(state.sum) },
        { suffix: "_count", labels, value: numberText(state.count) }
      ]
    })
  }
  return Option.none()
}

/**
 * Writes metrics in the text format of Prometheus, families by name and series by labels. Counters end in `_total`; a
 * frequency is a counter with the label `key`; names and labels are made legal; a name that is used by metrics of several
 * types goes to the first of them, and the others get their type as a suffix.
 *
 * @since 0.1.0
 * @category rendering
 */
export const format = (pairs: ReadonlyArray<MetricPair.MetricPair.Untyped>): string => {
  const families = new Map<string, Family>()
  for (const pair of pairs) {
    const rendered = render(pair)
    if (Option.isNone(rendered)) {
      continue
    }
    const { labels, samples, type } = rendered.value
    let name = rendered.value.name
    if (families.get(name)?.type !== undefined && families.get(name)?.type !== type) {
      name = `${name}_${type}`
    }
    const family: Family = families.get(name) ?? { name, type, help: undefined, series: new Map() }
    families.set(name, family)
    family.help ??= Option.getOrUndefined(pair.metricKey.description)
    const key = labelsText(labels)
    if (!family.series.has(key)) {
      family.series.set(key, samples)
    }
  }
  const lines: Array<string> = []
  for (const family of Array.from(families.values()).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (family.help !== undefined && family.help !== "") {
      lines.push(`# HELP ${family.name} ${escapeHelp(family.help)}`)
    }
    lines.push(`# TYPE ${family.name} ${family.type}`)
    for (const [, samples] of Array.from(family.series).sort(([a], [b]) => (a < b ? -1 : 1))) {
      for (const sample of samples) {
        lines.push(`${family.name}${sample.suffix}${labelsText(sample.labels)} ${sample.value}`)
      }
    }
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`
}

/**
 * All metrics of the program at this moment, in the text format of Prometheus.
 *
 * @since 0.1.0
 * @category rendering
 */
export const prometheus: Effect.Effect<string> = Effect.map(Metric.snapshot, format)

/**
 * The route `/metrics`.
 *
 * @since 0.1.0
 * @category http
 */
export const routes: HttpRouter.HttpRouter = HttpRouter.empty.pipe(
  HttpRouter.get(
    "/metrics",
    Effect.map(prometheus, (text) =>
      HttpServerResponse.text(text, { contentType, headers: { "cache-control": "no-store" } })
    )
  )
)

/**
 * The route as an application of its own; everything else is 404.
 *
 * @since 0.1.0
 * @category http
 */
export const httpApp: HttpApp.Default = Effect.catchTag(routes, "RouteNotFound", () =>
  HttpServerResponse.empty({ status: 404 })
)
