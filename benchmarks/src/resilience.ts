/**
 * The full pipeline against cockatiel's and against the composition that one would write with Effect alone: total
 * deadline, retry (ours with its budget), count-window breaker, bulkhead, attempt timeout, and in ours metrics. No span.
 * The work is the same in all: an async function that does nothing, once taking an abort signal, once not.
 *
 * The first group is one call after the other, the second 100 at once, the third a refusal by an open circuit, the fourth
 * what each part costs by itself.
 */
import { Bulkhead, CircuitBreaker, Policy, RateLimit } from "@underlay/core"
import * as Cockatiel from "cockatiel"
import { Duration, Effect } from "effect"
import Opossum from "opossum"
import { type Case, compare, inFiber, promised } from "./Harness.ts"
import * as peers from "./peers.ts"
import { failing, full, noop, withSignal } from "./peers.ts"

const atOnce = 100

const concurrently = (name: string, effect: Effect.Effect<unknown, unknown>): Case => ({
  name,
  run: (n) => {
    const all = Array.from({ length: atOnce }, () => effect)
    return Effect.runPromise(
      Effect.ignore(
        Effect.gen(function* () {
          for (let i = 0; i < n; i += atOnce) yield* Effect.all(all, { concurrency: "unbounded", discard: true })
        })
      )
    )
  }
})

const promisedConcurrently = (name: string, f: () => Promise<unknown>): Case => ({
  name,
  run: async (n) => {
    for (let i = 0; i < n; i += atOnce) await Promise.all(Array.from({ length: atOnce }, f))
  }
})

const anyEffect = Effect.tryPromise(noop)
const base = "cockatiel wrap(retry, breaker, timeout, bulkhead)"

export const run = async () => {
  const policy = await Effect.runPromise(Policy.make({ name: "bench", ...full }))
  const unmeasured = await Effect.runPromise(Policy.make({ name: "bench", ...full, metrics: false }))
  const byHand = await Effect.runPromise(peers.naive(anyEffect))
  const byHandWithSignal = await Effect.runPromise(peers.naive(Effect.tryPromise(withSignal)))
  const cockatiel = peers.cockatiel()
  const breaker = peers.opossum()
  await compare({
    name: "resilience",
    title: "The full pipeline round a call that succeeds, one after the other",
    base,
    cases: [
      promised(base, () => cockatiel.execute(noop)),
      promised("cockatiel, the call takes the signal", () => cockatiel.execute(({ signal }) => withSignal(signal))),
      promised("opossum (timeout, capacity; no retry)", () => breaker.fire()),
      inFiber("naive Effect", byHand),
      inFiber("naive Effect, the call takes a signal", byHandWithSignal),
      inFiber("Policy.tryPromise, the call takes a signal", policy.tryPromise(withSignal)),
      inFiber("Policy.tryPromise, no signal", policy.tryPromise(noop)),
      inFiber("Policy.run, any effect", policy.run(anyEffect)),
      inFiber("Policy.run, any effect, no metrics", unmeasured.run(anyEffect)),
      inFiber("the effect alone", anyEffect)
    ]
  })
  await compare({
    name: "resilience-concurrent",
    title: "The full pipeline, 100 calls at once (time for each)",
    base,
    cases: [
      promisedConcurrently(base, () => cockatiel.execute(noop)),
      promisedConcurrently("opossum (timeout, capacity; no retry)", () => breaker.fire()),
      concurrently("naive Effect", byHand),
      concurrently("Policy.tryPromise, the call takes a signal", policy.tryPromise(withSignal)),
      concurrently("Policy.tryPromise, no signal", policy.tryPromise(noop)),
      concurrently("Policy.run, any effect", policy.run(anyEffect)),
      concurrently("the effect alone", anyEffect)
    ]
  })

  const open = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 3_600_000,
    breaker: new Cockatiel.ConsecutiveBreaker(1)
  })
  await open.execute(failing).catch(() => undefined)
  const openOpossum = new Opossum(noop, { timeout: 30_000 })
  openOpossum.open()
  const options = { window: { type: "consecutive", failures: 1 }, openFor: Duration.hours(1) } as const
  const ours = await Effect.runPromise(CircuitBreaker.make({ name: "bench", ...options }))
  await Effect.runPromise(Effect.ignore(ours.run(Effect.fail("down"))))
  const inPolicy = await Effect.runPromise(Policy.make({ name: "bench", ...full, breaker: ours, retry: false }))
  await compare({
    name: "open-circuit",
    title: "A refusal by an open circuit",
    base: "cockatiel breaker",
    cases: [
      promised("cockatiel breaker", () => open.execute(noop).catch(() => undefined)),
      promised("opossum", () => openOpossum.fire().catch(() => undefined)),
      inFiber("CircuitBreaker.run", Effect.ignore(ours.run(anyEffect))),
      inFiber("Policy.run", Effect.ignore(inPolicy.run(anyEffect)))
    ]
  })

  const alone = Effect.void
  const closed = await Effect.runPromise(CircuitBreaker.make({ name: "bench" }))
  const bulkhead = await Effect.runPromise(Bulkhead.make({ name: "bench", maxConcurrent: 10 }))
  const rateLimit = await Effect.runPromise(
    RateLimit.make({ name: "bench", limit: 1e9, interval: "1 second", burst: 1e6 })
  )
  const semaphore = await Effect.runPromise(Effect.makeSemaphore(10))
  const cockatielBreaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 30_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const cockatielBulkhead = Cockatiel.bulkhead(10)
  await compare({
    name: "resilience-parts",
    title: "Each part by itself, round nothing",
    base: "CircuitBreaker.run",
    cases: [
      inFiber("CircuitBreaker.run", closed.run(alone)),
      promised("cockatiel breaker", () => cockatielBreaker.execute(noop)),
      inFiber("Bulkhead.run", bulkhead.run(alone)),
      inFiber("Effect semaphore", semaphore.withPermits(1)(alone)),
      promised("cockatiel bulkhead", () => cockatielBulkhead.execute(noop)),
      inFiber("RateLimit.run", rateLimit.run(alone)),
      inFiber("nothing", alone)
    ]
  })
}
