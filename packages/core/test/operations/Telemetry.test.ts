import { createServer } from "node:http"
import { FetchHttpClient, HttpClient, HttpServer } from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck, Layer, Metric, MetricBoundaries } from "effect"
import * as Telemetry from "../../src/operations/Telemetry.ts"

const linesOf = (prefix: string) =>
  Effect.map(Telemetry.prometheus, (text) =>
    text
      .split("\n")
      .filter(
        (line) => line.startsWith(prefix) || line.startsWith(`# TYPE ${prefix}`) || line.startsWith(`# HELP ${prefix}`)
      )
  )

// A reader of the format, written from its description, to hold the writer against.
const sampleLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (NaN|[+-]Inf|[-+]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/

const labelsOf = (text: string): ReadonlyArray<readonly [string, string]> => {
  const labels: Array<readonly [string, string]> = []
  let at = 1
  while (text[at] !== "}") {
    const equals = text.indexOf('="', at)
    const name = text.slice(at, equals)
    at = equals + 2
    let value = ""
    while (text[at] !== '"') {
      if (text[at] === "\\") {
        at++
        value += text[at] === "n" ? "\n" : text[at]
      } else {
        value += text[at]
      }
      at++
    }
    labels.push([name, value])
    at += text[at + 1] === "," ? 2 : 1
  }
  return labels
}

describe("Telemetry.prometheus", () => {
  it.effect("counters end in _total, once, with help, type and sorted labels", () =>
    Effect.gen(function* () {
      const counter = Metric.counter("t1.requests", { description: "All requests\nby path \\ kind", incremental: true })
      yield* Metric.update(Metric.tagged(Metric.tagged(counter, "path", '/a"b\\c\nd'), "kind", "x"), 3)
      yield* Metric.update(Metric.counter("t1_other_total"), 2)
      yield* Metric.update(Metric.counter("t1_big", { bigint: true }), 12345678901234567890n)
      assert.deepStrictEqual(yield* linesOf("t1"), [
        "# TYPE t1_big_total counter",
        "t1_big_total 12345678901234567890",
        "# TYPE t1_other_total counter",
        "t1_other_total 2",
        "# HELP t1_requests_total All requests\\nby path \\\\ kind",
        "# TYPE t1_requests_total counter",
        't1_requests_total{kind="x",path="/a\\"b\\\\c\\nd"} 3'
      ])
    })
  )

  it.effect("gauges", () =>
    Effect.gen(function* () {
      const gauge = Metric.gauge("t2_depth")
      yield* Metric.set(Metric.tagged(gauge, "queue", "a"), -1.5)
      yield* Metric.set(Metric.tagged(gauge, "queue", "b"), Number.POSITIVE_INFINITY)
      assert.deepStrictEqual(yield* linesOf("t2"), [
        "# TYPE t2_depth gauge",
        't2_depth{queue="a"} -1.5',
        't2_depth{queue="b"} +Inf'
      ])
    })
  )

  it.effect("histograms have cumulative buckets, +Inf, sum and count", () =>
    Effect.gen(function* () {
      const histogram = Metric.histogram("t3_seconds", MetricBoundaries.fromIterable([0.1, 0.5, 1]), "How long")
      const labelled = Metric.tagged(histogram, "le", "mine")
      for (const value of [0.05, 0.1, 0.3, 0.7, 5]) {
        yield* Metric.update(labelled, value)
      }
      const lines = yield* linesOf("t3")
      assert.deepStrictEqual(lines.slice(0, 6), [
        "# HELP t3_seconds How long",
        "# TYPE t3_seconds histogram",
        't3_seconds_bucket{exported_le="mine",le="0.1"} 2',
        't3_seconds_bucket{exported_le="mine",le="0.5"} 3',
        't3_seconds_bucket{exported_le="mine",le="1"} 4',
        't3_seconds_bucket{exported_le="mine",le="+Inf"} 5'
      ])
      assert.match(lines[6] ?? "", /^t3_seconds_sum\{exported_le="mine"\} 6\.1/)
      assert.strictEqual(lines[7], 't3_seconds_count{exported_le="mine"} 5')
    })
  )

  it.effect("summaries and frequencies", () =>
    Effect.gen(function* () {
      const summary = Metric.summary({
        name: "t4_latency",
        maxAge: "1 day",
        maxSize: 100,
        error: 0.01,
        quantiles: [0.5]
      })
      yield* Metric.update(summary, 10)
      yield* Metric.update(summary, 20)
      const frequency = Metric.frequency("t4_outcome")
      yield* Metric.update(frequency, "ok")
      yield* Metric.update(frequency, "ok")
      yield* Metric.update(frequency, 'a"b')
      assert.deepStrictEqual(yield* linesOf("t4"), [
        "# TYPE t4_latency summary",
        't4_latency{quantile="0.5"} 10',
        "t4_latency_sum 30",
        "t4_latency_count 2",
        "# TYPE t4_outcome_total counter",
        't4_outcome_total{key="ok"} 2',
        't4_outcome_total{key="a\\"b"} 1'
      ])
    })
  )

  it.effect("names and labels are made legal, a label occurs once, and a name has one type", () =>
    Effect.gen(function* () {
      yield* Metric.set(Metric.tagged(Metric.gauge("5t.a-b é"), "1-x", "v"), 1)
      yield* Metric.set(Metric.tagged(Metric.tagged(Metric.gauge("t5_twice"), "a.b", "1"), "a_b", "2"), 1)
      yield* Metric.set(Metric.tagged(Metric.gauge("t5_reserved"), "__name__", "v"), 1)
      yield* Metric.set(Metric.gauge("t5_same"), 1)
      yield* Metric.update(Metric.histogram("t5_same", MetricBoundaries.fromIterable([1])), 1)
      const text = yield* Telemetry.prometheus
      assert.include(text, '_5t_a_b__{_1_x="v"} 1\n')
      assert.include(text, 't5_twice{a_b="2"} 1\n')
      assert.include(text, 't5_reserved{_name__="v"} 1\n')
      const types = text.split("\n").filter((line) => line.startsWith("# TYPE t5_same"))
      assert.strictEqual(types.length, 2)
      assert.strictEqual(new Set(types.map((line) => line.split(" ")[2])).size, 2)
    })
  )

  it.effect("whatever the names and values are, the text can be read back", () =>
    Effect.gen(function* () {
      const cases = FastCheck.sample(
        FastCheck.record({
          name: FastCheck.fullUnicodeString({ minLength: 1, maxLength: 12 }),
          label: FastCheck.fullUnicodeString({ minLength: 1, maxLength: 8 }),
          value: FastCheck.oneof(
            FastCheck.fullUnicodeString({ maxLength: 12 }),
            FastCheck.constantFrom('"', "\\", "\n", '\\"')
          ),
          amount: FastCheck.double()
        }),
        100
      )
      for (const { amount, label, name, value } of cases) {
        yield* Metric.set(Metric.tagged(Metric.gauge(`t6 ${name}`), label, value), amount)
      }
      const text = yield* Telemetry.prometheus
      assert.isTrue(text.endsWith("\n"))
      const seen = new Set<string>()
      const values = new Set<string>()
      for (const line of text.slice(0, -1).split("\n")) {
        if (line.startsWith("# ")) {
          assert.match(line, /^# (?:HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* /)
          continue
        }
        const match = sampleLine.exec(line)
        assert.isNotNull(match, line)
        const series = `${match?.[1]}${match?.[2] ?? ""}`
        assert.isFalse(seen.has(series), `twice: ${series}`)
        seen.add(series)
        for (const [label, value] of match?.[2] === undefined ? [] : labelsOf(match[2])) {
          assert.match(label, /^[a-zA-Z_][a-zA-Z0-9_]*$/)
          values.add(value)
        }
      }
      for (const { value } of cases) {
        assert.isTrue(values.has(value.replace(/\r\n|\r/g, "\n")), JSON.stringify(value))
      }
    })
  )

  it.scopedLive("is served at /metrics", () =>
    Effect.gen(function* () {
      yield* Metric.update(Metric.counter("t7_served"), 1)
      const server = yield* HttpServer.HttpServer
      const port = server.address._tag === "TcpAddress" ? server.address.port : 0
      const response = yield* HttpClient.get(`http://127.0.0.1:${port}/metrics`)
      assert.strictEqual(response.status, 200)
      assert.strictEqual(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
      assert.include(yield* response.text, "\nt7_served_total 1\n")
      assert.strictEqual((yield* HttpClient.get(`http://127.0.0.1:${port}/other`)).status, 404)
    }).pipe(
      Effect.provide(
        HttpServer.serve(Telemetry.httpApp).pipe(
          Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })),
          Layer.provideMerge(FetchHttpClient.layer)
        )
      )
    )
  )
})
