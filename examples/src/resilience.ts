/**
 * The whole resilience pipeline round one service: hedges, retries within a budget, a rate limit, a circuit breaker, a
 * bulkhead, timeouts, a fallback and a stage of one's own. The service stands in for a backend that is slow at times, fails
 * at times, and at last is down.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Fallback, Policy } from "@underlay/core"
import { Console, Data, Effect, Ref } from "effect"

class Down extends Data.TaggedError("Down") {
  // What a policy asks of an error: whether another attempt may help.
  get isRetryable() {
    return true
  }
}

const program = Effect.gen(function* () {
  const audited = yield* Ref.make(0)
  const policy = yield* Policy.make({
    name: "prices",
    timeout: "5 seconds",
    attemptTimeout: "1 second",
    retry: { attempts: 3, base: "10 millis" },
    budget: { type: "percentage", ratio: 0.2, minPerSecond: 10 },
    hedge: { delay: "50 millis" },
    rateLimit: { limit: 1000, burst: 100 },
    breaker: {
      window: { type: "consecutive", failures: 3 },
      openFor: { initial: "1 second", factor: 2, max: "1 minute" }
    },
    bulkhead: { maxConcurrent: 2, maxQueue: 2, maxWait: "200 millis" },
    stages: [
      Policy.stage({
        name: "audit",
        at: "call",
        wrap: (call) =>
          Effect.zipRight(
            Ref.update(audited, (n) => n + 1),
            call
          )
      })
    ],
    metrics: true
  })
  yield* Console.log(Policy.describe(policy))

  // The first attempt hangs: after 50 milliseconds another one starts beside it, and answers.
  const asked = yield* Ref.make(0)
  const slow = Effect.flatMap(
    Ref.updateAndGet(asked, (n) => n + 1),
    (n) => (n === 1 ? Effect.never : Effect.succeed(n))
  )
  yield* Console.log(`answered by attempt ${yield* policy.run(slow)}, which was started beside a slow one`)

  // Two places and two that wait: of six at once two are refused, and say so at once.
  const busy = Effect.delay(Effect.succeed("served"), "30 millis")
  const answers = yield* Effect.forEach(
    Array.from({ length: 6 }),
    () => Effect.merge(Effect.mapError(policy.run(busy, { hedge: false }), (error) => error._tag)),
    { concurrency: "unbounded" }
  )
  const count = (what: string) => answers.filter((answer) => answer === what).length
  yield* Console.log(`of 6 at once ${count("served")} were served, ${count("BulkheadFull")} refused by the bulkhead`)

  // The service goes down: its last good answer takes the place of fresh ones, and the circuit opens.
  const last = yield* Fallback.stale<number>({ capacity: 100, maxAge: "1 hour" })
  const price = (call: Effect.Effect<number, Down>) => policy.run(call, { fallback: last.for("book") })
  yield* price(Effect.succeed(12))
  const down = Effect.suspend(() => Effect.fail(new Down()))
  yield* Console.log(`the service is down, the last good price was ${yield* price(down)}`)
  yield* Console.log(`the circuit is ${yield* policy.breaker?.state ?? Effect.succeed("none")}`)

  // Other settings for calls from now on; an open circuit stays open, places that are taken stay taken.
  const error = yield* Effect.flip(policy.reload({ timeout: "1 second", attemptTimeout: "2 seconds" }))
  yield* Console.log(error.message)
  yield* Console.log(`calls that were audited: ${yield* Ref.get(audited)}`)
})

NodeRuntime.runMain(program)
