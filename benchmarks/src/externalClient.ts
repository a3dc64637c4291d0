/**
 * A watched call against cockatiel's pipeline and against the composition that one would write with Effect alone. The
 * work is the same in all of them: an async function that does nothing.
 *
 * The first group is what the policy alone costs: total deadline, retry, breaker, attempt timeout, no span. The second
 * adds what `ExternalClient` is for, a span and metrics, to both Effect variants (cockatiel has neither). The third is a
 * rejection by an open circuit.
 */
import { CircuitBreaker, ExternalClient, Policy } from "@underlay/core"
import * as Cockatiel from "cockatiel"
import { Duration, Effect, Logger, LogLevel, Metric, MetricBoundaries, Ref, Schedule } from "effect"
import Opossum from "opossum"
import { type Case, compare } from "./Harness.ts"

const noop = async (): Promise<number> => 1
const failing = async (): Promise<number> => {
  throw new Error("down")
}

/** `n` times one after the other, as one fiber does it. */
const inFiber = (name: string, effect: Effect.Effect<unknown, unknown>): Case => ({
  name,
  run: (n) =>
    Effect.runPromise(
      Effect.gen(function* () {
        for (let i = 0; i < n; i++) yield* effect
      }).pipe(Effect.ignore, Logger.withMinimumLogLevel(LogLevel.Info))
    )
})

const promised = (name: string, f: () => Promise<unknown>): Case => ({
  name,
  run: async (n) => {
    for (let i = 0; i < n; i++) await f()
  }
})

const cockatiel = () => {
  const retry = Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 2, backoff: new Cockatiel.ExponentialBackoff() })
  const breaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 30_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const timeout = Cockatiel.timeout(30_000, Cockatiel.TimeoutStrategy.Aggressive)
  return Cockatiel.wrap(retry, breaker, timeout)
}

/** A breaker of a reference, as the usual recipe has it. It is not safe under interruption; ours is measured against it. */
const naiveBreaker =
  (failures: Ref.Ref<number>) =>
  <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E | "open"> =>
    Effect.flatMap(
      Ref.get(failures),
      (n): Effect.Effect<A, E | "open"> =>
        n >= 5
          ? Effect.fail("open" as const)
          : Effect.tapBoth(effect, {
              onFailure: () => Ref.update(failures, (m) => m + 1),
              onSuccess: () => Ref.set(failures, 0)
            })
    )

const naive = (failures: Ref.Ref<number>, work: Effect.Effect<unknown, unknown>) =>
  work.pipe(
    Effect.timeout("10 seconds"),
    naiveBreaker(failures),
    Effect.retry({ times: 2, schedule: Schedule.jittered(Schedule.exponential("1 second")) }),
    Effect.timeout("30 seconds")
  )

const work = Effect.tryPromise(noop)
const workWithSignal = Effect.tryPromise((signal) => (signal.aborted ? Promise.reject(signal.reason) : noop()))

export const run = async () => {
  const failures = await Effect.runPromise(Ref.make(0))
  const full = await Effect.runPromise(
    Policy.make({ name: "bench", timeout: "30 seconds", attemptTimeout: "10 seconds" })
  )
  const plain = await Effect.runPromise(Policy.make({ name: "bench", timeout: false }))
  const wrapped = cockatiel()
  await compare({
    name: "policy",
    title: "A policy round a call that succeeds",
    base: "cockatiel wrap(retry, breaker, timeout)",
    cases: [
      promised("cockatiel wrap(retry, breaker, timeout)", () => wrapped.execute(noop)),
      promised(
        "opossum (timeout)",
        (() => {
          const breaker = new Opossum(noop, { timeout: 30_000 })
          return () => breaker.fire()
        })()
      ),
      inFiber("naive Effect: timeout(retry(breaker(timeout)))", naive(failures, work)),
      inFiber("Policy.run: total, retry, breaker, attempt timeout", full.run(work)),
      inFiber("Policy.run, the leaf takes a signal", full.run(workWithSignal)),
      inFiber("Policy.run: retry and breaker, no timeouts", plain.run(work)),
      inFiber("the effect alone", work)
    ]
  })

  const duration = Metric.timerWithBoundaries(
    "naive_duration",
    MetricBoundaries.exponential({ start: 1, factor: 2, count: 12 }).values
  )
  const count = Metric.counter("naive_count")
  await Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const client = yield* ExternalClient.make({
          service: "bench",
          policy: { timeout: "30 seconds", attemptTimeout: "10 seconds" }
        })
        const watched = naive(failures, work).pipe(
          Metric.trackDuration(duration),
          Effect.tap(() => Metric.increment(count)),
          Effect.withSpan("bench.call", { kind: "client" })
        )
        yield* Effect.promise(() =>
          compare({
            name: "external-client",
            title: "A watched call that succeeds",
            base: "cockatiel wrap(retry, breaker, timeout)",
            cases: [
              promised("cockatiel wrap(retry, breaker, timeout)", () => wrapped.execute(noop)),
              inFiber("naive Effect with span and metrics", watched),
              inFiber("ExternalClient.call", client.call("call", work))
            ]
          })
        )
      })
    )
  )

  const openBreaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 3_600_000,
    breaker: new Cockatiel.ConsecutiveBreaker(1)
  })
  await openBreaker.execute(failing).catch(() => undefined)
  const openOpossum = new Opossum(noop, { timeout: 30_000 })
  openOpossum.open()
  const ours = await Effect.runPromise(
    CircuitBreaker.make({ name: "bench", window: { type: "consecutive", failures: 1 }, openFor: Duration.hours(1) })
  )
  await Effect.runPromise(Effect.ignore(ours.run(Effect.fail("down"))))
  await compare({
    name: "open-circuit",
    title: "A rejection by an open circuit",
    base: "cockatiel breaker",
    cases: [
      promised("cockatiel breaker", () => openBreaker.execute(noop).catch(() => undefined)),
      promised("opossum", () => openOpossum.fire().catch(() => undefined)),
      inFiber("CircuitBreaker.run", Effect.ignore(ours.run(work)))
    ]
  })
}
