/**
 * Cases of the fused pipeline that the peers have no part for: budgets, hedges, fallbacks, chaos, streams, reload.
 */
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as MetricState from "effect/MetricState"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Chaos from "../../resilience/Chaos.ts"
import * as Fallback from "../../resilience/Fallback.ts"
import * as Policy from "../../resilience/Policy.ts"
import * as RetryBudget from "../../resilience/RetryBudget.ts"
import * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import * as Suite from "../../testing/Suite.ts"
import type { Case } from "./driver.ts"
import { after, counted, down, name, once, own, settled, steady, tagOf } from "./own.ts"
import { Down, issue, openFor, reproduced, times } from "./scenario.ts"

/** A policy of nothing but what is named. */
const bare = { name, timeout: false, retry: false, breaker: false, budget: false } as const

const many = <A, E>(n: number, effect: Effect.Effect<A, E>) =>
  Effect.forEach(times(n), () => Effect.forkDaemon(Effect.exit(effect)))

/** What a policy counts, by metric and what it tells apart. */
const counts = (policy: string): Effect.Effect<ReadonlyMap<string, number>> =>
  Effect.map(Metric.snapshot, (pairs) => {
    const found = new Map<string, number>()
    for (const { metricKey, metricState } of pairs) {
      if (!MetricState.isCounterState(metricState)) continue
      const { name, tags } = metricKey
      if (!tags.some((tag) => tag.key === "policy" && tag.value === policy)) continue
      const others = tags.filter((tag) => tag.key !== "policy").map((tag) => tag.value)
      found.set([name, ...others].join(" "), Number(metricState.count))
    }
    return found
  })

const storms: ReadonlyArray<Case> = [
  own(
    "budget-by-default",
    "a policy with nothing set does not multiply the calls of a service that is down",
    [
      issue("apache/opendal#7376"),
      issue("joshrotenberg/tower-resilience#171"),
      issue("thomhurst/Kevlar#507"),
      issue("envoyproxy/envoy!9069"),
      "https://finagle.github.io/blog/2016/02/08/retry-budgets"
    ],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name, breaker: false })
        const { call, seen } = counted(driver, down)
        const fibers = yield* many(1_000, policy.run(call))
        yield* driver.time.advance(30_000)
        yield* Effect.forEach(fibers, Fiber.join, { discard: true })
        // A fifth of 1,000, and 10 a second of a budget of 10 seconds.
        yield* Suite.isTrue(`${seen.calls} calls of the service`, seen.calls > 1_000 && seen.calls <= 1_500)
      })
  ),
  own(
    "budget-is-shared",
    "policies of one service share one budget: what one uses up the other has not",
    ["https://failsafe-go.dev/budget/", issue("awslabs/aws-sdk-rust#1234")],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.grpc({ maxTokens: 10, tokenRatio: 0.1 })
        const settings = {
          ...bare,
          budget,
          retry: { ...steady, attempts: 100, base: "1 milli", cap: "1 milli" }
        } as const
        const [one, other] = [yield* Policy.make(settings), yield* Policy.make(settings)]
        const first = counted(driver, down)
        yield* after(driver, 10_000, one.run(first.call))
        const second = counted(driver, down)
        yield* after(driver, 10_000, other.run(second.call))
        yield* Suite.equal("attempts", [first.seen.calls, second.seen.calls], [5, 1])
      })
  ),
  own(
    "hedge",
    "a slow call is made a second time, the first answer counts, and the other call is stopped",
    ["https://research.google/pubs/the-tail-at-scale/", "https://www.pollydocs.org/strategies/hedging.html"],
    (driver) =>
      Effect.gen(function* () {
        const hedged = yield* Policy.make({ ...bare, hedge: { delay: "100 millis" } })
        let n = 0
        const { call, seen } = counted(
          driver,
          Effect.suspend(() => (++n === 1 ? Effect.never : Effect.succeed(`answer ${n}`)))
        )
        const exit = yield* after(driver, 100, hedged.run(call))
        yield* Suite.equal("answered", settled(exit), "answer 2")
        yield* Suite.equal("calls, and those that go on", [seen.calls, seen.inFlight], [2, 0])
        const fast = counted(driver, Effect.succeed("fast"))
        yield* after(driver, 1_000, hedged.run(fast.call))
        yield* Suite.equal("calls of a fast one", fast.seen.calls, 1)
      })
  ),
  own(
    "hedge-not-idempotent",
    "a call that must not happen twice is not hedged",
    ["https://github.com/grpc/proposal/blob/master/A6-client-retries.md"],
    (driver) =>
      Effect.gen(function* () {
        const hedged = yield* Policy.make({ ...bare, hedge: { delay: "100 millis" } })
        const { call, seen } = counted(driver, Effect.sleep("1 second"))
        yield* after(driver, 1_000, hedged.run(call, { idempotent: false }))
        yield* Suite.equal("calls", seen.calls, 1)
        const error = yield* Effect.flip(Policy.make({ ...bare, idempotent: false, hedge: { delay: "100 millis" } }))
        yield* Suite.equal("refused", tagOf(error), "PolicyInvalid")
      })
  ),
  own(
    "hedge-takes-from-the-budget",
    "hedges are taken from the budget of the retries: a service that is slow is not asked twice as often",
    [
      "https://github.com/grpc/proposal/blob/master/A6-client-retries.md",
      "https://failsafe-go.dev/budget/",
      "https://research.google/pubs/the-tail-at-scale/"
    ],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.percentage({ ratio: 0.1, minPerSecond: 0 })
        const hedged = yield* Policy.make({ ...bare, budget, hedge: { delay: "100 millis" } })
        const { call, seen } = counted(driver, Effect.sleep("1 second"))
        const fibers = yield* many(100, hedged.run(call))
        yield* driver.time.advance(2_000)
        yield* Effect.forEach(fibers, Fiber.join, { discard: true })
        yield* Suite.equal("calls", seen.calls, 110)
      })
  ),
  own(
    "hedge-not-past-the-deadline",
    "no hedge is started, nor paid for, once the call's time is over",
    ["https://github.com/grpc/proposal/blob/master/A6-client-retries.md", "https://grpc.io/docs/guides/deadlines/"],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.percentage({ ratio: 1, minPerSecond: 10 })
        const hedged = yield* Policy.make({ ...bare, timeout: "10 seconds", budget, hedge: { delay: "1 second" } })
        const { call, seen } = counted(driver, Effect.never)
        const fiber = yield* Effect.forkDaemon(Effect.exit(hedged.run(call)))
        yield* driver.time.advance(0)
        // The computer was asleep: its timers did not notice.
        yield* driver.time.step(60_000)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("calls, and those paid for", [seen.calls, (yield* budget.snapshot).taken], [1, 0])
        yield* Fiber.interrupt(fiber)
      })
  )
]

const answers: ReadonlyArray<Case> = [
  own(
    "fallback-last-answer",
    "the last good answer is served while the service is away, as long as it is of use",
    ["https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker", issue("thomhurst/Kevlar#227")],
    (driver) =>
      Effect.gen(function* () {
        const served = yield* Policy.make({ ...bare, breaker: once })
        const stale = yield* Fallback.stale<string>({ capacity: 10, maxAge: "1 minute" })
        const ask = <E>(effect: Effect.Effect<string, E>) => served.run(effect, { fallback: stale.for("key") })
        yield* ask(Effect.succeed("fresh"))
        yield* Suite.equal("it fails", yield* ask(down), "fresh")
        yield* Suite.equal("it is open", yield* ask(Effect.succeed("not asked")), "fresh")
        yield* driver.time.advance(61_000)
        yield* Suite.equal("too old", settled(yield* Effect.exit(ask(down))) instanceof Down, true)
      })
  ),
  own(
    "fallback-keeps-the-error",
    "a fallback that fails too does not hide why it was asked, and nobody who gave up is answered by one",
    [issue("elennick/retry4j#41"), issue("comet-ml/opik!1334")],
    (driver) =>
      Effect.gen(function* () {
        const falling = yield* Policy.make(bare)
        const second = new Down({ status: 500 })
        const error = yield* Effect.flip(
          falling.run(Effect.fail(new Down({ status: 503 })), { fallback: Fallback.effect(() => Effect.fail(second)) })
        )
        const reason = Fallback.reason(error)
        yield* Suite.equal("the first", reason instanceof Down && reason.status, 503)
        let asked = 0
        const fallback = Fallback.effect(() => Effect.sync(() => ++asked))
        const fiber = yield* Effect.forkDaemon(falling.run(Effect.never, { fallback }))
        yield* driver.time.advance(0)
        yield* Fiber.interrupt(fiber)
        yield* Suite.equal("asked for who gave up", asked, 0)
      })
  ),
  own(
    "chaos-is-off",
    "faults on purpose are off until they are switched on, come at their rate, and to their keys alone",
    ["https://www.pollydocs.org/chaos/"],
    () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ seed: 1, injections: [Chaos.fault({ rate: 0.3, keys: ["a"] })] })
        const shaken = yield* Policy.make({ ...bare, chaos })
        const failures = (key: string) =>
          Effect.map(
            Effect.forEach(times(1_000), () => Effect.exit(Chaos.withKey(shaken.run(Effect.void), key))),
            (exits) => exits.filter(Exit.isFailure).length
          )
        yield* Suite.equal("off", yield* failures("a"), 0)
        yield* chaos.setEnabled(true)
        const found = yield* failures("a")
        yield* Suite.isTrue(`${found} of 1,000`, found > 230 && found < 370)
        yield* Suite.equal("another key", yield* failures("b"), 0)
      })
  ),
  own(
    "chaos-kinds",
    "delays, made-up answers and deeds on purpose, not only faults",
    ["https://www.pollydocs.org/chaos/"],
    (driver) =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const call = Effect.sync(() => {
          log.push("call")
          return "real"
        })
        const chaos = yield* Chaos.make({
          enabled: true,
          injections: [
            Chaos.behaviour({ rate: 1, effect: Effect.sync(() => log.push("deed")) }),
            Chaos.latency({ rate: 1, delay: "1 second" }),
            Chaos.outcome({ rate: 1, keys: ["a"], value: "made up" })
          ]
        })
        const shaken = yield* Policy.make({ ...bare, chaos })
        const fiber = yield* Effect.forkDaemon(shaken.run(call))
        yield* driver.time.advance(999)
        yield* Suite.equal("before", log, ["deed"])
        yield* driver.time.advance(1)
        yield* Suite.equal("after", [yield* Fiber.join(fiber), ...log], ["real", "deed", "call"])
        const made = yield* after(driver, 1_000, Chaos.withKey(shaken.run(call), "a"))
        yield* Suite.equal("in its place", [settled(made), ...log], ["made up", "deed", "call", "deed"])
      })
  ),
  own(
    "reload-keeps-state",
    "other settings of a policy come into force while it works: what is open stays open, what is taken stays taken",
    ["https://www.pollydocs.org/advanced/dependency-injection.html (dynamic reloads)"],
    (driver) =>
      Effect.gen(function* () {
        const settings = { ...bare, breaker: once, bulkhead: { maxConcurrent: 1 } } as const
        const running = yield* Policy.make(settings)
        const gate = yield* Deferred.make<void>()
        const held = yield* Effect.forkDaemon(running.run(Deferred.await(gate)))
        yield* driver.time.advance(0)
        yield* Suite.equal("full", tagOf(yield* Effect.flip(running.run(Effect.void))), "BulkheadFull")
        yield* running.reload({ ...settings, bulkhead: { maxConcurrent: 2 } })
        yield* Effect.exit(running.run(down))
        yield* running.reload({ ...settings, bulkhead: { maxConcurrent: 3 } })
        yield* Suite.equal("open", tagOf(yield* Effect.flip(running.run(Effect.void))), "CircuitOpen")
        yield* Suite.equal("taken", (yield* running.bulkhead?.snapshot ?? Effect.succeed({ active: -1 })).active, 1)
        const refused = yield* Effect.flip(running.reload({ ...settings, bulkhead: { maxConcurrent: 0 } }))
        yield* Suite.equal("what cannot work", tagOf(refused), "PolicyInvalid")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(held)
        yield* driver.time.advance(openFor)
        yield* running.run(Effect.void)
      })
  ),
  own(
    "order-of-policies-refused",
    "policies round each other in an order that cannot work are refused with the remedy",
    [
      issue("resilience4j/resilience4j#515"),
      issue("resilience4j/resilience4j#1657"),
      issue("resilience4j/resilience4j#1653"),
      "https://thomhurst.github.io/Kevlar/docs/intro"
    ],
    () =>
      Effect.gen(function* () {
        const one = yield* Policy.make({ name: "one", timeout: "1 second", retry: { base: "10 millis" } })
        const other = yield* Policy.make({ name: "other", timeout: "5 seconds" })
        const error = yield* Effect.flip(Policy.compose(name, [one, other]))
        yield* Suite.equal("problems", error.problems.length, 2)
        yield* Suite.isTrue("attempts would multiply", error.message.includes('set retry to false in "one"'))
        yield* Suite.isTrue("a limit that is never reached", error.message.includes('lower timeout of "other"'))
      })
  ),
  own(
    "order-is-fixed",
    "the stages of a policy stand in one order, whatever the order of its settings, and can be read",
    [
      issue("resilience4j/resilience4j#515"),
      issue("resilience4j/resilience4j#614"),
      issue("resilience4j/resilience4j!839"),
      "https://learn.microsoft.com/dotnet/core/resilience/http-resilience"
    ],
    () =>
      Effect.gen(function* () {
        const all = yield* Policy.make({
          name,
          bulkhead: { maxConcurrent: 10 },
          attemptTimeout: "1 second",
          rateLimit: { limit: 10 },
          hedge: { delay: "100 millis" }
        })
        const lines = Policy.describe(all)
          .split("\n")
          .map((line) => line.trim())
        const stages = [
          "total timeout",
          "retry ",
          "hedge",
          "rate limit",
          "circuit breaker",
          "bulkhead",
          "attempt timeout"
        ]
        const at = stages.map((stage) => lines.findIndex((line) => line.startsWith(stage)))
        yield* Suite.isTrue(
          `${lines.join(" | ")}`,
          at.every((each, index) => each > (at[index - 1] ?? 0))
        )
      })
  ),
  own(
    "stream-before-its-first-element",
    "a stream is tried again before its first element only: nobody gets an element twice",
    [issue("vercel/ai#7656"), issue("openai/openai-node#2580")],
    (driver) =>
      Effect.gen(function* () {
        const streaming = yield* Policy.make({ ...bare, retry: steady, breaker: once })
        let n = 0
        const early = Stream.suspend(() => (++n < 2 ? Stream.fail(new Down()) : Stream.make(1, 2)))
        const lenient = yield* Policy.make({ ...bare, retry: steady })
        const found = yield* after(driver, 60_000, Stream.runCollect(lenient.stream(early)))
        yield* Suite.equal("early", Exit.isSuccess(found) ? Chunk.toReadonlyArray(found.value) : [], [1, 2])
        const seen: Array<number> = []
        const late = Stream.concat(Stream.make(1, 2), Stream.fail(new Down()))
        const error = yield* after(
          driver,
          0,
          Stream.runForEach(streaming.stream(late), (element) => Effect.sync(() => seen.push(element)))
        )
        yield* Suite.equal("late", [seen, tagOf(settled(error))], [[1, 2], "Down"])
        yield* Suite.equal("and it counts", yield* streaming.breaker?.state ?? Effect.succeed("none"), "open")
      })
  ),
  own(
    "stream-keeps-its-place",
    "a stream keeps its place until it ends, not only until its first element",
    [reproduced("opossum 8.5.0: 10 in flight at capacity 2")],
    (driver) =>
      Effect.gen(function* () {
        const streaming = yield* Policy.make({ ...bare, bulkhead: { maxConcurrent: 1 } })
        const gate = yield* Deferred.make<void>()
        let elements = 0
        const stream = streaming.stream(Stream.concat(Stream.make(undefined), Stream.fromEffect(Deferred.await(gate))))
        const reader = yield* Effect.forkDaemon(Stream.runForEach(stream, () => Effect.sync(() => elements++)))
        yield* driver.time.advance(0)
        yield* Suite.equal("elements", elements, 1)
        yield* Suite.equal("another call", tagOf(yield* Effect.flip(streaming.run(Effect.void))), "BulkheadFull")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(reader)
        yield* streaming.run(Effect.void)
      })
  ),
  own(
    "what-happened-is-counted",
    "calls, attempts, retries and refusals are counted as metrics, each once",
    ["https://www.pollydocs.org/advanced/telemetry.html", "https://resilience4j.readme.io/docs/micrometer"],
    (driver) =>
      Effect.gen(function* () {
        const policy = "conformance-metrics"
        const watched = yield* Policy.make({ name: policy, metrics: true, breaker: once, retry: steady })
        const before = yield* counts(policy)
        // One attempt, whose failure opens the circuit, and one that is refused.
        yield* after(driver, 1_000, watched.run(down))
        yield* Effect.exit(watched.run(Effect.void))
        yield* driver.time.advance(openFor)
        yield* watched.run(Effect.void)
        const since = yield* counts(policy)
        const found = [...since].map(([key, count]) => `${key} ${count - (before.get(key) ?? 0)}`).sort()
        yield* Suite.equal("counted", found, [
          "resilience_attempts_total failure 1",
          "resilience_attempts_total rejected 2",
          "resilience_attempts_total success 1",
          "resilience_calls_total rejected 2",
          "resilience_calls_total success 1",
          "resilience_rejections_total circuit-open 2",
          "resilience_retries_total 1"
        ])
      })
  ),
  own(
    "nested-spent",
    "an outer policy does not repeat what an inner one has given up on, whatever became of its error on the way",
    [issue("apache/opendal#7376"), issue("elennick/retry4j#41")],
    (driver) =>
      Effect.gen(function* () {
        const outer = yield* Policy.make({ ...bare, retry: steady })
        const inner = yield* Policy.make({ ...bare, retry: steady })
        const { call, seen } = counted(driver, down)
        // An error that knows nothing of the one before it.
        const wrapped = Effect.mapError(inner.run(call), () => new Down())
        yield* after(driver, 60_000, outer.run(wrapped))
        yield* Suite.equal("attempts", seen.calls, 3)
        const willing = yield* Policy.make({
          ...bare,
          retry: RetryPolicy.exponential({ ...steady, attempts: 2, retryExhausted: true })
        })
        yield* after(driver, 60_000, willing.run(wrapped))
        yield* Suite.equal("attempts of one that says so", seen.calls, 9)
      })
  ),
  own(
    "nested-spent-later",
    "an outer policy stops as well where an inner one gives up during a later attempt",
    [issue("apache/opendal#7376"), issue("awslabs/aws-sdk-rust#1234")],
    (driver) =>
      Effect.gen(function* () {
        const outer = yield* Policy.make({ ...bare, retry: steady })
        const inner = yield* Policy.make({ ...bare, retry: steady })
        const { call, seen } = counted(driver, down)
        let n = 0
        // An error that knows nothing of the one before it.
        const wrapped = Effect.mapError(inner.run(call), () => new Down())
        yield* after(driver, 60_000, outer.run(Effect.suspend(() => (++n === 1 ? call : wrapped))))
        yield* Suite.equal("attempts", [n, seen.calls], [2, 4])
      })
  ),
  own(
    "500-given-up",
    "500 calls in all stages of a policy are given up: no place, no probe, no work and no timer is left",
    [
      issue("connor4312/cockatiel#112"),
      issue("connor4312/cockatiel#69"),
      reproduced("opossum 8.5.0: places are freed while the work goes on")
    ],
    (driver) =>
      Effect.gen(function* () {
        const before = driver.time.timers().holding
        const full = yield* Policy.make({
          name,
          timeout: "1 hour",
          attemptTimeout: "30 minutes",
          budget: false,
          breaker: { window: { type: "consecutive", failures: 10_000 } },
          bulkhead: { maxConcurrent: 100, maxQueue: 300, maxWait: "10 minutes" },
          retry: { ...steady, base: "1 minute", retryRejections: true }
        })
        const { call, seen } = counted(driver, Effect.never)
        const calls = yield* many(500, full.run(call))
        yield* driver.time.advance(0)
        yield* Suite.equal("at work", seen.inFlight, 100)
        yield* Effect.forEach(calls, Fiber.interruptFork, { discard: true })
        yield* driver.time.advance(0)
        const ended = yield* Effect.forEach(calls, Fiber.poll)
        yield* Suite.equal("ended", ended.filter(Option.isSome).length, 500)
        const bulkhead = full.bulkhead === undefined ? undefined : yield* full.bulkhead.snapshot
        const breaker = full.breaker === undefined ? undefined : yield* full.breaker.snapshot
        yield* Suite.equal(
          "work, places, waiting, permits",
          [seen.inFlight, bulkhead?.active, bulkhead?.queued, breaker?.inFlight],
          [0, 0, 0, 0]
        )
        yield* Suite.equal("timers", driver.time.timers().holding, before)
      })
  )
]

export const cases: ReadonlyArray<Case> = [...storms, ...answers]
