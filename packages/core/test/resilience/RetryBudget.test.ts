import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Data, Duration, Effect, Exit, FastCheck, Fiber, Schedule, TestClock } from "effect"
import { RetryBudget as Machine, type Settings } from "../../src/internal/resilience/retryBudget.ts"
import type * as ErrorClass from "../../src/resilience/ErrorClass.ts"
import * as RetryBudget from "../../src/resilience/RetryBudget.ts"
import * as RetryPolicy from "../../src/resilience/RetryPolicy.ts"
import * as Timeout from "../../src/resilience/Timeout.ts"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}
const busy = Effect.suspend(() => Effect.fail(new Busy()))

const transient: ErrorClass.Classification = { class: "transient" }
const limited: ErrorClass.Classification = { class: "rate-limited" }
const permanent: ErrorClass.Classification = { class: "permanent" }
const own: ErrorClass.Classification = { class: "transient", rejection: true }

const machineOf = (settings: Settings): Machine => new Machine(settings, (error) => error === "timeout")
const times = (n: number, f: () => void): void => {
  for (let i = 0; i < n; i++) f()
}
/** How many retries it allows at this moment. */
const drain = (machine: Machine, now: number, found: ErrorClass.Classification | undefined = transient): number => {
  let allowed = 0
  while (allowed < 10_000 && machine.take(now, found) > 0) allowed++
  return allowed
}

describe("percentage (Finagle)", () => {
  const settings = { type: "percentage", ratio: 0.2, minPerSecond: 0, ttl: 10_000 } as const

  it("allows one retry for five calls, exactly, and not one more", () => {
    const machine = machineOf(settings)
    times(4, () => machine.called(0))
    assert.strictEqual(drain(machine, 0), 0)
    machine.called(0)
    assert.strictEqual(drain(machine, 0), 1)
    // A tenth, added ten times, is one: no sum of 0.1 in doubles is.
    const tenth = machineOf({ ...settings, ratio: 0.1 })
    times(1_000, () => tenth.called(0))
    assert.strictEqual(drain(tenth, 0), 100)
    const third = machineOf({ ...settings, ratio: 1 / 3 })
    times(3_000, () => third.called(0))
    assert.strictEqual(drain(third, 0), 1_000)
    const double = machineOf({ ...settings, ratio: 2 })
    double.called(0)
    assert.strictEqual(drain(double, 0), 2)
  })

  it("forgets what was paid in after its time to live, and what was taken as well", () => {
    const machine = machineOf(settings)
    times(50, () => machine.called(0))
    assert.strictEqual(machine.available(8_999), 10)
    assert.strictEqual(machine.available(10_000), 0)
    const reserve = machineOf({ ...settings, ratio: 0, minPerSecond: 2 })
    assert.strictEqual(drain(reserve, 0), 20)
    assert.strictEqual(drain(reserve, 9_999), 0)
    assert.strictEqual(drain(reserve, 10_000), 20)
  })

  it("never allows more in its time to live than the ratio of the calls and the minimum (property)", () => {
    const steps = FastCheck.array(
      FastCheck.record({ gap: FastCheck.nat(3_000), calls: FastCheck.nat(30), retries: FastCheck.nat(30) }),
      { minLength: 1, maxLength: 100 }
    )
    FastCheck.assert(
      FastCheck.property(
        steps,
        FastCheck.constantFrom(0, 0.1, 0.2, 1 / 3, 1.5),
        FastCheck.constantFrom(0, 0.5, 3),
        (list, ratio, minPerSecond) => {
          const machine = machineOf({ ...settings, ratio, minPerSecond })
          machine.available(0)
          const part = settings.ttl / 10
          let log: Array<{ readonly part: number; readonly calls: number; readonly retries: number }> = []
          let now = 0
          for (const { calls, gap, retries } of list) {
            now += gap
            const current = Math.floor(now / part)
            log = log.filter((each) => each.part > current - 10)
            times(calls, () => machine.called(now))
            const paid = log.reduce((total, each) => total + each.calls, calls)
            const taken = log.reduce((total, each) => total + each.retries, 0)
            const left = Math.floor(minPerSecond * 10 + paid * ratio - taken + 1e-9)
            assert.strictEqual(machine.available(now), Math.max(0, left))
            let allowed = 0
            times(retries, () => {
              if (machine.take(now, transient) > 0) allowed++
            })
            assert.strictEqual(allowed, Math.max(0, Math.min(retries, left)))
            log.push({ part: current, calls, retries: allowed })
          }
        }
      )
    )
  })

  it("a clock that is set back or forth does not make it stuck", () => {
    const machine = machineOf({ ...settings, minPerSecond: 1 })
    assert.strictEqual(drain(machine, 1e12), 10)
    assert.strictEqual(drain(machine, 0), 0)
    assert.strictEqual(drain(machine, 10_000), 10)
    assert.strictEqual(drain(machine, 1e13), 10)
  })
})

describe("grpc (A6)", () => {
  const settings = { type: "grpc", maxTokens: 10, tokenRatio: 0.1 } as const

  it("allows retries while more than half of the tokens are left; failures take one, successes bring the ratio", () => {
    const machine = machineOf(settings)
    times(4, () => machine.failed(0, transient))
    assert.strictEqual(machine.available(0), 6)
    assert.isAbove(machine.take(0, transient), 0)
    machine.failed(0, limited)
    assert.strictEqual(machine.take(0, transient), 0)
    assert.strictEqual(machine.take(0, undefined), 0)
    machine.succeeded(0, 0)
    assert.strictEqual(machine.available(0), 5.1)
    assert.isAbove(machine.take(0, undefined), 0)
    times(20, () => machine.failed(0, transient))
    assert.strictEqual(machine.available(0), 0)
    // Ten tenths are one, and never more than there may be.
    times(10, () => machine.succeeded(0, 1))
    assert.strictEqual(machine.available(0), 1)
    times(1_000, () => machine.succeeded(0, 1))
    assert.strictEqual(machine.available(0), 10)
    assert.deepStrictEqual([machine.taken, machine.refused], [2, 2])
  })

  it("takes nothing for an answer that the call was wrong, nor for a refusal of our own", () => {
    const machine = machineOf(settings)
    times(9, () => {
      machine.failed(0, permanent)
      machine.failed(0, own)
      machine.failed(0, { class: "cancelled" })
    })
    assert.strictEqual(machine.available(0), 10)
  })

  it("keeps thousandths, as the proposal has it", () => {
    const machine = machineOf({ type: "grpc", maxTokens: 3, tokenRatio: 0.0016 })
    machine.failed(0, transient)
    machine.succeeded(0, 0)
    assert.strictEqual(machine.available(0), 2.002)
  })
})

describe("aws (standard mode)", () => {
  it.effect("classic: what the service throttles costs what any retry does, whatever that is", () =>
    Effect.gen(function* () {
      const cheap = yield* RetryBudget.aws({ mode: "classic", retryCost: 20 })
      assert.include(
        String(Reflect.get(cheap, "description")),
        "a retry takes 20, after a timeout 10, after a rate limit 20"
      )
    })
  )

  it.effect("classic: 500 tokens, 5 a retry, 10 after a timeout; a success gives back or brings 1", () =>
    Effect.gen(function* () {
      const machine = new Machine(
        { type: "aws", capacity: 500, retryCost: 5, timeoutCost: 10, throttlingCost: 5, successIncrement: 1 },
        (error) => error === "timeout"
      )
      assert.strictEqual(machine.take(0, transient), 5)
      assert.strictEqual(machine.take(0, transient, "timeout"), 10)
      assert.strictEqual(machine.take(0, limited), 5)
      assert.strictEqual(machine.take(0, undefined), 5)
      assert.strictEqual(machine.available(0), 475)
      machine.succeeded(0, 10)
      assert.strictEqual(machine.available(0), 485)
      machine.succeeded(0, 0)
      assert.strictEqual(machine.available(0), 486)
      times(100, () => machine.succeeded(0, 5))
      assert.strictEqual(machine.available(0), 500)
      assert.strictEqual(drain(machine, 0), 100)
      machine.succeeded(0, 0)
      assert.strictEqual(drain(machine, 0), 0)
      const budget = yield* RetryBudget.aws({ mode: "classic" })
      assert.strictEqual(
        Reflect.get(budget, "description"),
        "500 tokens (a retry takes 5, after a timeout 10, after a rate limit 5)"
      )
    })
  )

  it.effect("2026: 14 a retry and after a timeout, 5 where the service asks for patience", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.aws()
      assert.strictEqual(
        Reflect.get(budget, "description"),
        "500 tokens (a retry takes 14, after a timeout 14, after a rate limit 5)"
      )
      yield* RetryBudget.retry(busy, { budget, schedule: Schedule.recurs(100) }).pipe(Effect.exit)
      assert.deepStrictEqual(yield* budget.snapshot, { available: 500 - 35 * 14, taken: 35, refused: 1 })
    })
  )

  it.effect("knows timeouts by their names, wherever they stand in the causes", () =>
    Effect.gen(function* () {
      const timeouts: ReadonlyArray<unknown> = [
        new Timeout.CallTimeout({ service: "x", scope: "attempt", limitMillis: 1 }),
        new Cause.TimeoutException(),
        { name: "TimeoutError", isRetryable: true },
        { isRetryable: true, cause: { code: "ETIMEDOUT" } }
      ]
      for (const timeout of timeouts) {
        const budget = yield* RetryBudget.aws({ mode: "classic" })
        yield* Effect.exit(RetryBudget.retry(Effect.fail(timeout), { budget, schedule: Schedule.recurs(1) }))
        assert.strictEqual((yield* budget.snapshot).available, 490)
      }
      const budget = yield* RetryBudget.aws({ mode: "classic" })
      yield* Effect.exit(RetryBudget.retry(busy, { budget, schedule: Schedule.recurs(1) }))
      assert.strictEqual((yield* budget.snapshot).available, 495)
    })
  )
})

/** What a service that is down, or up, is asked by so many clients, each of which calls once every 100 ms. */
const storm = (options: {
  readonly clients: number
  readonly seconds: number
  readonly budgetOf: (client: number) => RetryBudget.RetryBudget | undefined
  readonly down?: (second: number) => boolean
}) =>
  Effect.gen(function* () {
    const started = yield* Clock.currentTimeMillis
    const policy = RetryPolicy.exponential({ base: "50 millis" })
    let attempts = 0
    let calls = 0
    const service = Effect.flatMap(Clock.currentTimeMillis, (now) => {
      attempts++
      return (options.down ?? (() => true))((now - started) / 1_000) ? busy : Effect.void
    })
    const fibers: Array<Fiber.RuntimeFiber<unknown, unknown>> = []
    for (let tick = 0; tick < options.seconds * 10; tick++) {
      for (let client = 0; client < options.clients; client++) {
        calls++
        const budget = options.budgetOf(client)
        fibers.push(
          yield* Effect.fork(
            Effect.exit(
              budget === undefined
                ? Effect.retry(service, policy.schedule)
                : RetryBudget.retry(service, { budget, schedule: policy.schedule })
            )
          )
        )
      }
      yield* TestClock.adjust("100 millis")
    }
    yield* TestClock.adjust("5 seconds")
    yield* Effect.forEach(fibers, Fiber.join)
    return { attempts, calls }
  })

describe("a retry storm (opendal #7376, tower-resilience #171, aws-sdk-rust #1234)", () => {
  it.effect("makes 3 times the load of a service that is down without a budget", () =>
    Effect.gen(function* () {
      const { attempts, calls } = yield* storm({ clients: 10, seconds: 2, budgetOf: () => undefined })
      assert.strictEqual(attempts, 3 * calls)
    })
  )

  it.effect("makes at most 1 + ratio of it with one, and what is allowed at least", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.percentage({ ratio: 0.2, minPerSecond: 0 })
      const shared = yield* storm({ clients: 10, seconds: 5, budgetOf: () => budget })
      assert.isAtMost(shared.attempts, 1.2 * shared.calls)
      assert.isAbove(shared.attempts, 1.15 * shared.calls)
      const budgets = yield* Effect.replicateEffect(RetryBudget.percentage({ ratio: 0.2, minPerSecond: 1 }), 10)
      const own = yield* storm({ clients: 10, seconds: 5, budgetOf: (client) => budgets[client] })
      // Each of the ten clients: 1 a second, of which ten seconds' worth are there from the start.
      assert.isAtMost(own.attempts, 1.2 * own.calls + 10 * 10)
    })
  )

  it.effect("ends soon with gRPC's tokens and with those of AWS", () =>
    Effect.gen(function* () {
      const grpc = yield* RetryBudget.grpc()
      const first = yield* storm({ clients: 10, seconds: 5, budgetOf: () => grpc })
      assert.isAtMost(first.attempts, first.calls + 5)
      const aws = yield* RetryBudget.aws()
      const second = yield* storm({ clients: 10, seconds: 5, budgetOf: () => aws })
      assert.strictEqual(second.attempts, second.calls + Math.floor(500 / 14))
    })
  )

  it.effect("does not stop retries of a service that fails now and then", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.percentage()
      const { attempts, calls } = yield* storm({
        clients: 10,
        seconds: 5,
        budgetOf: () => budget,
        down: (second) => Math.round(second * 10) % 20 === 0
      })
      assert.isAbove(attempts, calls)
      assert.strictEqual((yield* budget.snapshot).refused, 0)
    })
  )
})

describe("retry", () => {
  it.effect("ends when the schedule does, when the budget is empty, and with success", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.aws({ capacity: 42 })
      let attempts = 0
      const failing = Effect.suspend(() =>
        Effect.zipRight(
          Effect.sync(() => attempts++),
          busy
        )
      )
      yield* Effect.exit(failing.pipe(RetryBudget.retry({ budget, schedule: Schedule.recurs(1) })))
      assert.strictEqual(attempts, 2)
      yield* Effect.exit(failing.pipe(RetryBudget.retry({ budget, schedule: Schedule.forever })))
      assert.strictEqual(attempts, 5)
      const exit = yield* Effect.exit(failing.pipe(RetryBudget.retry({ budget, schedule: Schedule.forever })))
      assert.isTrue(Exit.isFailure(exit) && Cause.isFailType(exit.cause) && exit.cause.error instanceof Busy)
      assert.strictEqual(attempts, 6)
      yield* Effect.replicateEffect(RetryBudget.retry(Effect.void, { budget }), 14)
      assert.strictEqual((yield* budget.snapshot).available, 14)
      // Fails once: what the retry took comes back with its success.
      let tries = 0
      const second = Effect.suspend(() => (tries++ === 0 ? busy : Effect.succeed("ok")))
      assert.strictEqual(yield* RetryBudget.retry(second, { budget, schedule: Schedule.recurs(3) }), "ok")
      assert.deepStrictEqual(yield* budget.snapshot, { available: 14, taken: 4, refused: 2 })
    })
  )

  it.effect("by default goes by RetryPolicy, which asks the budget only where it would try again", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.grpc()
      const fiber = yield* Effect.fork(Effect.exit(RetryBudget.retry(busy, { budget })))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* budget.snapshot, { available: 7, taken: 2, refused: 0 })
      yield* Effect.exit(RetryBudget.retry(Effect.fail("permanent"), { budget }))
      assert.deepStrictEqual(yield* budget.snapshot, { available: 7, taken: 2, refused: 0 })
    })
  )
})

describe("reload and settings", () => {
  it.effect("keeps what is left of a budget of the same kind; another kind starts full", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.aws({ capacity: 100, retryCost: 10 })
      yield* Effect.exit(RetryBudget.retry(busy, { budget, schedule: Schedule.recurs(4) }))
      assert.strictEqual((yield* budget.snapshot).available, 60)
      yield* budget.reload({ type: "aws", capacity: 50, retryCost: 10 })
      assert.strictEqual((yield* budget.snapshot).available, 50)
      yield* budget.reload({ type: "aws", capacity: 500, retryCost: 10 })
      assert.strictEqual((yield* budget.snapshot).available, 50)
      yield* budget.reload({ type: "grpc" })
      assert.strictEqual((yield* budget.snapshot).available, 10)
      yield* Effect.exit(RetryBudget.retry(busy, { budget, schedule: Schedule.recurs(4) }))
      assert.strictEqual((yield* budget.snapshot).available, 5)
      yield* budget.reload({ type: "grpc", maxTokens: 100 })
      assert.strictEqual((yield* budget.snapshot).available, 50)
      yield* budget.reload({ type: "percentage", minPerSecond: 1 })
      yield* Effect.exit(RetryBudget.retry(busy, { budget, schedule: Schedule.recurs(4) }))
      assert.strictEqual((yield* budget.snapshot).available, 6)
      yield* budget.reload({ type: "percentage", minPerSecond: 2, ratio: 0.5, ttl: "20 seconds" })
      assert.strictEqual((yield* budget.snapshot).available, 36)
      const { taken } = yield* budget.snapshot
      assert.strictEqual(taken, 12)
      assert.include(
        String(yield* Effect.exit(budget.reload({ type: "grpc", maxTokens: 0 }))),
        "RetryBudget: budget.maxTokens is 0: give a number above 0, up to 1000"
      )
    })
  )

  it.effect("settings that cannot work are defects that say what to write", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [RetryBudget.Options, string]> = [
        [{ type: "percentage", ratio: -0.1 }, "budget.ratio is -0.1: give a number of 0 or more"],
        [{ type: "percentage", ratio: Number.NaN }, "budget.ratio is NaN"],
        [{ type: "percentage", minPerSecond: -1 }, "budget.minPerSecond is -1: give a number of 0 or more"],
        [{ type: "percentage", ttl: "999 millis" }, "budget.ttl is 999 ms: give 1 second to 1 hour"],
        [{ type: "percentage", ttl: Duration.infinity }, "budget.ttl is Infinity ms"],
        [{ type: "percentage", ratio: 0, minPerSecond: 0 }, "are both 0, so nothing is ever tried again"],
        [{ type: "grpc", maxTokens: 1_001 }, "budget.maxTokens is 1001: give a number above 0, up to 1000"],
        [{ type: "grpc", tokenRatio: 0 }, "budget.tokenRatio is 0: give a number of 0.001 or more"],
        [{ type: "aws", capacity: 0 }, "budget.capacity is 0: give a whole number of 1 or more"],
        [{ type: "aws", retryCost: 1.5 }, "budget.retryCost is 1.5: give a whole number of 1 or more"],
        [{ type: "aws", successIncrement: -1 }, "budget.successIncrement is -1: give a whole number of 0 or more"],
        [{ type: "aws", capacity: 13 }, "budget.retryCost (14) is more than budget.capacity (13)"]
      ]
      for (const [options, words] of cases) {
        const exit = yield* Effect.exit(RetryBudget.make(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause), words)
        assert.include(String(exit), words)
      }
      const budget = yield* RetryBudget.percentage()
      assert.strictEqual(Reflect.get(budget, "description"), "20 % of the calls and 10 a second")
      assert.strictEqual((yield* budget.snapshot).available, 100)
      assert.strictEqual(
        Reflect.get(yield* RetryBudget.grpc(), "description"),
        "while more than half of 10 tokens are left (a failure takes 1, a success brings 0.1)"
      )
      assert.isTrue(RetryBudget.isRetryBudget(budget))
      assert.isFalse(RetryBudget.isRetryBudget("budget"))
    })
  )
})
