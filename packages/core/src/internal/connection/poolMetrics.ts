/**
 * The pools of connections as metrics, looked at from time to time.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { ConnectionStats } from "../../connection/Connection.ts"

const count = Metric.gauge("db.client.connection.count", {
  description: "Connections of a pool that are in the state that is described by db.client.connection.state"
})
const pending = Metric.gauge("db.client.connection.pending_requests", {
  description: "Requests that wait for a connection"
})
const waits = Metric.histogram(
  "db.client.connection.wait_time",
  MetricBoundaries.fromIterable([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]),
  "The mean time that it took to get a connection, of each interval, in seconds"
)

const poolName = "db.client.connection.pool.name"
const kindName = "connection.kind"
const stateName = "db.client.connection.state"

interface Pool {
  readonly name: string
  readonly kind: string
}

const pooled = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>, of: Pool): Metric.Metric<Type, In, Out> =>
  Metric.tagged(Metric.tagged(metric, poolName, of.name), kindName, of.kind)

const keyOf = (pool: Pool): string => `${pool.kind}\u0000${pool.name}`

/** Of one name there may be two: one that was taken out of the registry while somebody held it, and its successor. */
const together = (all: ReadonlyArray<Pool & ConnectionStats>): ReadonlyArray<Pool & ConnectionStats> => {
  const pools = new Map<string, Pool & ConnectionStats>()
  for (const one of all) {
    const other = pools.get(keyOf(one))
    pools.set(keyOf(one), other === undefined ? one : sum(other, one))
  }
  return [...pools.values()]
}

const sum = (a: Pool & ConnectionStats, b: Pool & ConnectionStats): Pool & ConnectionStats => ({
  name: a.name,
  kind: a.kind,
  total: a.total + b.total,
  idle: a.idle + b.idle,
  inUse: a.inUse + b.inUse,
  waiting: a.waiting + b.waiting,
  acquire:
    a.acquire === undefined || b.acquire === undefined
      ? (a.acquire ?? b.acquire)
      : {
          count: a.acquire.count + b.acquire.count,
          totalMs: a.acquire.totalMs + b.acquire.totalMs,
          maxMs: Math.max(a.acquire.maxMs, b.acquire.maxMs)
        }
})

/** Keeps looking until the scope closes; what is gone by then is shown as nothing. */
export const observe = (
  stats: Effect.Effect<ReadonlyArray<Pool & ConnectionStats>>,
  interval: Duration.DurationInput
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const shown = new Map<string, { readonly of: Pool; count: number; totalMs: number }>()

    const show = (of: Pool, idle: number, used: number, waiting: number): Effect.Effect<void> =>
      Effect.all(
        [
          Metric.set(Metric.tagged(pooled(count, of), stateName, "idle"), idle),
          Metric.set(Metric.tagged(pooled(count, of), stateName, "used"), used),
          Metric.set(pooled(pending, of), waiting)
        ],
        { discard: true }
      )

    const sample = Effect.gen(function* () {
      const found = together(yield* stats)
      const open = new Set<string>()
      for (const one of found) {
        const key = keyOf(one)
        open.add(key)
        yield* show(one, one.idle, one.inUse, one.waiting)
        const before = shown.get(key)
        const { acquire } = one
        if (acquire !== undefined) {
          // A connection that was made anew counts from the beginning.
          const since = before === undefined || acquire.count < before.count ? { count: 0, totalMs: 0 } : before
          const taken = acquire.count - since.count
          if (taken > 0) {
            yield* Metric.update(pooled(waits, one), (acquire.totalMs - since.totalMs) / taken / 1_000)
          }
        }
        shown.set(key, { of: one, count: acquire?.count ?? 0, totalMs: acquire?.totalMs ?? 0 })
      }
      for (const [key, { of }] of shown) {
        if (open.has(key)) continue
        shown.delete(key)
        yield* show(of, 0, 0, 0)
      }
    })

    const nothing = Effect.suspend(() =>
      Effect.forEach([...shown.values()], ({ of }) => show(of, 0, 0, 0), { discard: true })
    )
    yield* Effect.addFinalizer(() => nothing)
    yield* Effect.forkScoped(Effect.repeat(Effect.exit(sample), Schedule.spaced(Duration.decode(interval))))
  })
