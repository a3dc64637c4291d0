/**
 * A watched call, with the span and the metrics that `ExternalClient` is for, against the composition that one would write
 * with Effect alone. cockatiel has neither span nor metrics: it is what the ratios are taken to.
 */
import { ExternalClient } from "@underlay/core"
import { Effect, Metric, MetricBoundaries } from "effect"
import { compare, inFiber, promised } from "./Harness.ts"
import { cockatiel, full, naive, noop } from "./peers.ts"

const work = Effect.tryPromise(noop)
const base = "cockatiel wrap(retry, breaker, timeout, bulkhead)"

export const run = async () => {
  const duration = Metric.timerWithBoundaries(
    "naive_duration",
    MetricBoundaries.exponential({ start: 1, factor: 2, count: 12 }).values
  )
  const count = Metric.counter("naive_count")
  const wrapped = cockatiel()
  await Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const client = yield* ExternalClient.make({ service: "bench", policy: full })
        const watched = (yield* naive(work)).pipe(
          Metric.trackDuration(duration),
          Effect.tap(() => Metric.increment(count)),
          Effect.withSpan("bench.call", { kind: "client" })
        )
        yield* Effect.promise(() =>
          compare({
            name: "external-client",
            title: "A watched call that succeeds",
            base,
            cases: [
              promised(base, () => wrapped.execute(noop)),
              inFiber("naive Effect with span and metrics", watched),
              inFiber("ExternalClient.call", client.call("call", work))
            ]
          })
        )
      })
    )
  )
}
