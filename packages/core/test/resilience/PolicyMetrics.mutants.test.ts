/**
 * What the metrics of a policy are to those who read them: names, kinds, labels, units.
 */
import { assert, describe, it } from "@effect/vitest"
import { Policy } from "@underlay/core"
import { Data, Deferred, Effect, Fiber, Metric, MetricState, Option, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy()))

/** Of this policy, by name and labels: each test has a policy of its own name. */
const metricsOf = (policy: string) =>
  Effect.map(Metric.snapshot, (all) =>
    all.flatMap(({ metricKey, metricState }) => {
      const labels = Object.fromEntries(metricKey.tags.map((tag) => [tag.key, tag.value]))
      if (labels["policy"] !== policy && labels["service"] !== policy) return []
      return [{ name: metricKey.name, labels, description: metricKey.description, state: metricState }]
    })
  )

const gauge = (policy: string, name: string) =>
  Effect.map(metricsOf(policy), (all) => {
    const found = all.find((each) => each.name === name)?.state
    return found !== undefined && MetricState.isGaugeState(found) ? Number(found.value) : undefined
  })

const histogram = (policy: string, name: string) =>
  Effect.map(metricsOf(policy), (all) => {
    const found = all.find((each) => each.name === name)?.state
    return found !== undefined && MetricState.isHistogramState(found) ? found : assert.fail(`no ${name}`)
  })

describe("the metrics of a policy", () => {
  it.effect("are counters that only grow, gauges and histograms, each described and with the labels of its kind", () =>
    Effect.gen(function* () {
      const name = "metrics-kinds"
      const policy = yield* Policy.make({
        name,
        metrics: true,
        breaker: { window: { type: "consecutive", failures: 1 } },
        retry: { attempts: 2, base: "1 second", jitter: "none" },
        bulkhead: { maxConcurrent: 1 },
        stages: [Policy.stage({ name: "own", at: "inner", wrap: (effect) => effect })]
      })
      yield* policy.run(Effect.void)
      const hold = yield* Deferred.make<void>()
      const late = yield* Effect.fork(
        Effect.exit(policy.run(Effect.uninterruptible(Deferred.await(hold)), { timeout: "1 second" }))
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(late)
      yield* Effect.exit(policy.run(busy))
      yield* Deferred.succeed(hold, undefined)
      const found = yield* metricsOf(name)
      const shapes = found.map(({ labels, name, state }) => {
        const kind = MetricState.isCounterState(state) ? "counter" : MetricState.isGaugeState(state) ? "gauge" : "other"
        return `${name} ${MetricState.isHistogramState(state) ? "histogram" : kind} ${Object.keys(labels).sort().join(",")}`
      })
      assert.deepStrictEqual([...new Set(shapes)].sort(), [
        "circuit_breaker_state gauge service",
        "resilience_attempts_total counter outcome,policy",
        "resilience_bulkhead_in_flight gauge policy",
        "resilience_bulkhead_limit gauge policy",
        "resilience_bulkhead_queued gauge policy",
        "resilience_call_duration_seconds histogram policy",
        "resilience_calls_total counter outcome,policy",
        "resilience_orphans gauge policy",
        "resilience_rejections_total counter policy,reason",
        "resilience_stage_duration_seconds histogram policy,stage",
        "resilience_stage_runs_total counter outcome,policy,stage",
        "resilience_timeouts_total counter policy,scope"
      ])
      for (const { description, name, state } of found) {
        assert.isTrue(Option.isSome(description) && description.value.length > 10, name)
        if (MetricState.isCounterState(state)) {
          const { incremental } = yield* Effect.map(Metric.snapshot, (all) => {
            const key = all.find(({ metricKey }) => metricKey.name === name)?.metricKey.keyType
            return key as unknown as { readonly incremental: boolean }
          })
          assert.isTrue(incremental, name)
        }
      }
    })
  )

  it.effect("measure times in seconds, from 5 milliseconds to 2 minutes", () =>
    Effect.gen(function* () {
      const name = "metrics-seconds"
      yield* TestClock.adjust("1 hour")
      const policy = yield* Policy.make({
        name,
        metrics: true,
        stages: [Policy.stage({ name: "own", wrap: (effect) => Effect.delay(effect, "500 millis") })]
      })
      const fiber = yield* Effect.fork(policy.run(Effect.sleep("2 seconds")))
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(fiber)
      for (const each of ["resilience_call_duration_seconds", "resilience_stage_duration_seconds"]) {
        const { buckets, count, sum } = yield* histogram(name, each)
        assert.deepStrictEqual([count, sum], [1, 2.5])
        const bounds = buckets.map(([bound]) => bound).filter(Number.isFinite)
        assert.deepStrictEqual(
          bounds.filter((bound) => bound < 1e6),
          [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120]
        )
      }
    })
  )

  it.effect("show whether the circuit is closed, half-open or open", () =>
    Effect.gen(function* () {
      const name = "metrics-circuit"
      const policy = yield* Policy.make({
        name,
        metrics: true,
        retry: false,
        breaker: { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" }
      })
      const state = gauge(name, "circuit_breaker_state")
      assert.strictEqual(yield* state, 0)
      yield* Effect.exit(policy.run(busy))
      assert.strictEqual(yield* state, 2)
      yield* TestClock.adjust("10 seconds")
      const probe = yield* Effect.fork(policy.run(Effect.sleep("1 second")))
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* state, 1)
      yield* TestClock.adjust("500 millis")
      yield* Fiber.join(probe)
      assert.strictEqual(yield* state, 0)
    })
  )

  it.effect("name a stage as it is named, whatever is in its name", () =>
    Effect.gen(function* () {
      const name = "metrics-stage"
      const stages = ["sign", "sign twice", "sign\nsuccess"].map((each) =>
        Policy.stage({ name: each, wrap: (effect) => effect })
      )
      const policy = yield* Policy.make({ name, metrics: true, retry: false, stages })
      yield* policy.run(Effect.void)
      yield* Effect.exit(policy.run(busy))
      const found = (yield* metricsOf(name)).filter((each) => each.name === "resilience_stage_runs_total")
      assert.deepStrictEqual(
        found.map(({ labels }) => [labels["stage"], labels["outcome"]]).sort(),
        [
          ["sign", "failure"],
          ["sign", "success"],
          ["sign\nsuccess", "failure"],
          ["sign\nsuccess", "success"],
          ["sign twice", "failure"],
          ["sign twice", "success"]
        ].sort()
      )
    })
  )
})

describe("the metrics of a stage", () => {
  it.effect("count an error as a refusal only where it says so of itself", () =>
    Effect.gen(function* () {
      const name = "metrics-refusals"
      const stages = [Policy.stage({ name: "own", wrap: (effect) => effect })]
      const policy = yield* Policy.make({ name, metrics: true, retry: false, breaker: false, stages })
      for (const error of [{ rejection: false }, { rejection: "soon" }, "no", null, undefined]) {
        yield* Effect.exit(policy.run(Effect.fail(error)))
      }
      const outcomes = (metric: string) =>
        Effect.map(metricsOf(name), (all) =>
          all
            .filter((each) => each.name === metric)
            .map(({ labels, state }) => [labels["outcome"], MetricState.isCounterState(state) ? state.count : 0])
        )
      assert.deepStrictEqual(yield* outcomes("resilience_stage_runs_total"), [["failure", 5]])
      assert.deepStrictEqual(yield* outcomes("resilience_attempts_total"), [["failure", 5]])
    })
  )

  it.effect("count its own refusal as that of an attempt, where nothing is said of where it stands", () =>
    Effect.gen(function* () {
      const name = "metrics-own"
      const policy = yield* Policy.make({
        name,
        metrics: true,
        retry: false,
        stages: [
          Policy.stage({
            name: "quota",
            wrap: (_, { policy: service }) =>
              Effect.fail(new Policy.StageRejected({ service, stage: "quota", reason: "used up" }))
          })
        ]
      })
      const error = yield* Effect.flip(policy.run(Effect.void))
      assert.strictEqual(error.message, "metrics-own: refused by quota: used up")
      const counted = (yield* metricsOf(name)).flatMap(({ labels, name, state }) =>
        MetricState.isCounterState(state) ? [[name, labels["outcome"] ?? labels["reason"], state.count]] : []
      )
      assert.deepStrictEqual(counted.sort(), [
        ["resilience_attempts_total", "rejected", 1],
        ["resilience_calls_total", "rejected", 1],
        ["resilience_rejections_total", "stage", 1],
        ["resilience_stage_runs_total", "rejected", 1]
      ])
    })
  )
})
