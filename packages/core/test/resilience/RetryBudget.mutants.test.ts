/**
 * Retry budgets to the last step: bounds of settings, what each kind of retry costs, and how long a reload keeps things.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Schedule, TestClock } from "effect"
import { RetryBudget as Machine } from "../../src/internal/resilience/retryBudget.ts"
import type * as ErrorClass from "../../src/resilience/ErrorClass.ts"
import * as RetryBudget from "../../src/resilience/RetryBudget.ts"

/** What is said against the settings. */
const complaints = (options: RetryBudget.Options): ReadonlyArray<string> => {
  const exit = Effect.runSyncExit(RetryBudget.make(options))
  return Exit.isSuccess(exit) ? [] : Cause.pretty(exit.cause).split("; ")
}

describe("settings", () => {
  it("within their bounds, the bounds included, are accepted", () => {
    const good: ReadonlyArray<RetryBudget.Options> = [
      { type: "percentage", ratio: 0 },
      { type: "percentage", ratio: 1000 },
      { type: "percentage", minPerSecond: 0 },
      { type: "percentage", minPerSecond: 1e6 },
      { type: "percentage", ttl: "1 second" },
      { type: "percentage", ttl: "1 hour" },
      { type: "grpc", maxTokens: 0.001 },
      { type: "grpc", maxTokens: 1000 },
      { type: "grpc", tokenRatio: 0.001 },
      { type: "grpc", tokenRatio: 1000 },
      { type: "aws", successIncrement: 0 },
      { type: "aws", successIncrement: 3 },
      { type: "aws", capacity: 14 },
      { type: "aws", capacity: 1, retryCost: 1, timeoutCost: 1, throttlingCost: 1 }
    ]
    for (const options of good) assert.deepStrictEqual(complaints(options), [], JSON.stringify(options))
  })

  it("beyond them are refused, each with one complaint", () => {
    const bad: ReadonlyArray<RetryBudget.Options> = [
      { type: "percentage", ratio: 1000.1 },
      { type: "percentage", minPerSecond: 1e6 + 1 },
      { type: "percentage", ttl: 3_600_001 },
      // Where something is wrong already, that nothing could be tried again is not said as well.
      { type: "percentage", ratio: 0, minPerSecond: 0, ttl: 1 },
      { type: "grpc", maxTokens: 1000.5 },
      { type: "grpc", tokenRatio: 1000.5 },
      { type: "aws", successIncrement: 0.5 }
    ]
    for (const options of bad) assert.strictEqual(complaints(options).length, 1, JSON.stringify(options))
  })
})

describe("what a retry costs", () => {
  it("the answer of a service that asks for patience has a cost of its own", () => {
    const machine = new Machine(
      { type: "aws", capacity: 500, retryCost: 14, timeoutCost: 20, throttlingCost: 5, successIncrement: 1 },
      (error) => error === "timeout"
    )
    assert.strictEqual(machine.take(0, { class: "rate-limited" }, "timeout"), 5)
    assert.strictEqual(machine.take(0, { class: "transient" }, "timeout"), 20)
    assert.strictEqual(machine.take(0, { class: "transient" }), 14)
    assert.strictEqual(machine.take(0, undefined), 14)
  })

  it.effect("timeouts are known by what Node, undici and the SDKs call them", () =>
    Effect.gen(function* () {
      const timeouts = [
        ...["TimeoutError", "RequestTimeout", "RequestTimeoutException"].map((name) => ({ name, isRetryable: true })),
        ...[
          "ETIMEDOUT",
          "ESOCKETTIMEDOUT",
          "UND_ERR_CONNECT_TIMEOUT",
          "UND_ERR_HEADERS_TIMEOUT",
          "UND_ERR_BODY_TIMEOUT",
          "UND_ERR_RESPONSE_TIMEOUT"
        ].map((code) => ({ code, isRetryable: true }))
      ]
      for (const timeout of timeouts) {
        const budget = yield* RetryBudget.aws({ mode: "classic" })
        yield* Effect.exit(RetryBudget.retry(Effect.fail(timeout), { budget, schedule: Schedule.recurs(1) }))
        assert.strictEqual((yield* budget.snapshot).available, 490, JSON.stringify(timeout))
      }
    })
  )

  it.effect("an error that is its own cause is an end as well", () =>
    Effect.gen(function* () {
      const circle: { isRetryable: boolean; cause?: unknown } = { isRetryable: true }
      circle.cause = circle
      const budget = yield* RetryBudget.aws({ mode: "classic" })
      yield* Effect.exit(RetryBudget.retry(Effect.fail(circle), { budget, schedule: Schedule.recurs(1) }))
      assert.strictEqual((yield* budget.snapshot).available, 495)
    })
  )

  it.effect("a classification of one's own decides what is tried again by default", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.aws()
      const classify = (): ErrorClass.Classification => ({ class: "transient" })
      const fiber = yield* Effect.fork(Effect.exit(RetryBudget.retry(Effect.fail("odd"), { budget, classify })))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual((yield* budget.snapshot).taken, 2)
    })
  )
})

describe("reload", () => {
  it("what was paid in is kept for the time to live from the reload on, and no longer", () => {
    const settings = { type: "percentage", ratio: 0.2, minPerSecond: 0, ttl: 10_000 } as const
    const machine = new Machine(settings, () => false)
    for (let call = 0; call < 50; call++) machine.called(0)
    machine.reload({ ...settings, ratio: 0.5 }, 3_000)
    assert.strictEqual(machine.available(3_000), 10)
    assert.strictEqual(machine.available(12_900), 10)
    assert.strictEqual(machine.available(13_000), 0)
  })

  it.effect("isRetryBudget: budgets, and nothing else", () =>
    Effect.gen(function* () {
      assert.isTrue(RetryBudget.isRetryBudget(yield* RetryBudget.grpc()))
      for (const other of [undefined, null, "budget", 1, {}]) assert.isFalse(RetryBudget.isRetryBudget(other))
    })
  )
})
