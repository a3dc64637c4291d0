/**
 * Retry policies to the last step: overrides, caps, what is refused by default, and how they describe themselves.
 */
import { assert, describe, it } from "@effect/vitest"
import { type ErrorClass, RetryPolicy } from "@underlay/core"
import { Clock, Duration, Effect, Random, Schedule } from "effect"

const transient = { isRetryable: true }
const permanent = { isRetryable: false }
const refusal = { errorClass: "transient", rejection: true }

/** The waits that a policy gives where the service fails so often, in milliseconds. */
const waits = (policy: RetryPolicy.RetryPolicy, error: unknown = transient, times = 4) =>
  Effect.gen(function* () {
    const found: Array<number> = []
    let state: unknown = policy.schedule.initial
    for (let failed = 0; failed < times; failed++) {
      const now = yield* Clock.currentTimeMillis
      const [next, wait, decision] = yield* policy.schedule.step(now, error, state)
      if (decision._tag === "Done") break
      found.push(Duration.toMillis(wait))
      state = next
    }
    return found
  }).pipe(Effect.withRandom(Random.fixed([0.5])))

const description = (policy: RetryPolicy.RetryPolicy): unknown => Reflect.get(policy, "description")

describe("settings", () => {
  it.effect("waits and their caps are what is asked for, and the defaults where nothing is", () =>
    Effect.gen(function* () {
      const plain = { attempts: 5, jitter: "none" } as const
      assert.deepStrictEqual(yield* waits(RetryPolicy.exponential({ ...plain, base: 200 })), [200, 400, 800, 1600])
      assert.deepStrictEqual(yield* waits(RetryPolicy.exponential({ ...plain, factor: 3 })), [1000, 3000, 9000, 27_000])
      assert.deepStrictEqual(yield* waits(RetryPolicy.exponential({ ...plain, cap: 1500 })), [1000, 1500, 1500, 1500])
      assert.deepStrictEqual(
        yield* waits(RetryPolicy.exponential({ ...plain, base: 20_000 })),
        [20_000, 30_000, 30_000, 30_000]
      )
      const patient = { isRetryable: true, retryAfter: Duration.minutes(5) }
      assert.deepStrictEqual(yield* waits(RetryPolicy.exponential(plain), patient, 1), [60_000])
      assert.deepStrictEqual(
        yield* waits(RetryPolicy.exponential({ ...plain, retryAfterCap: "2 seconds" }), patient, 1),
        [2000]
      )
    })
  )

  it.effect("none makes a single attempt", () =>
    Effect.gen(function* () {
      assert.strictEqual(RetryPolicy.none.attempts, 1)
      assert.deepStrictEqual(yield* waits(RetryPolicy.none), [])
      assert.strictEqual(description(RetryPolicy.none), "a single attempt")
    })
  )

  it("what cannot work is refused, the bounds themselves are not", () => {
    const complaints = (options: RetryPolicy.ExponentialOptions): number =>
      (Reflect.get(RetryPolicy, "problems") as (options: unknown) => ReadonlyArray<string>)(options).length
    for (const attempts of [1, 2, Number.POSITIVE_INFINITY]) assert.strictEqual(complaints({ attempts }), 0)
    for (const attempts of [0, -1, 1.5, Number.NaN]) assert.strictEqual(complaints({ attempts }), 1)
    for (const factor of [1, 1.5, 10]) assert.strictEqual(complaints({ factor }), 0)
    for (const factor of [0.9, -2, Number.NaN, Number.POSITIVE_INFINITY]) assert.strictEqual(complaints({ factor }), 1)
    assert.strictEqual(complaints({ base: 100, cap: 100 }), 0)
    assert.strictEqual(complaints({ base: 101, cap: 100 }), 1)
    assert.strictEqual(complaints({ cap: 1 }), 0)
    assert.strictEqual(complaints({ base: 1 }), 0)
    assert.strictEqual(complaints({ base: undefined, delay: 200, cap: 100 } as never), 1)
  })
})

describe("what is tried again", () => {
  it("refusals of our own only if they are asked for", () => {
    assert.isFalse(RetryPolicy.exponential().shouldRetry(refusal))
    assert.isTrue(RetryPolicy.exponential({ retryRejections: true }).shouldRetry(refusal))
    assert.isFalse(RetryPolicy.exponential({ retryRejections: true }).shouldRetry(permanent))
  })

  it("says whether attempts that others spent count for it", () => {
    assert.isFalse(Reflect.get(RetryPolicy.exponential(), "retriesExhausted"))
    assert.isTrue(Reflect.get(RetryPolicy.exponential({ retryExhausted: true }), "retriesExhausted"))
  })
})

describe("override", () => {
  it.effect("of the wait keeps the shape: exponential and fixed with their jitter, a schedule becomes fixed", () =>
    Effect.gen(function* () {
      const delay = 400
      const exponential = RetryPolicy.exponential({ attempts: 4, jitter: "none", factor: 3 })
      assert.deepStrictEqual(yield* waits(exponential.override({ delay })), [400, 1200, 3600])
      const equal = RetryPolicy.exponential({ attempts: 3, jitter: "equal" })
      assert.deepStrictEqual(yield* waits(equal.override({ delay })), [300, 600])
      const fixed = RetryPolicy.fixed({ attempts: 3, delay: 50 })
      assert.deepStrictEqual(yield* waits(fixed.override({ delay })), [400, 400])
      const spread = RetryPolicy.fixed({ attempts: 3, delay: 50, jitter: "full" })
      assert.deepStrictEqual(yield* waits(spread.override({ delay })), [200, 200])
      const custom = RetryPolicy.custom({ schedule: Schedule.recurs(1) })
      assert.deepStrictEqual(yield* waits(custom), [0])
      assert.deepStrictEqual(yield* waits(custom.override({ delay })), [400, 400])
      const jittered = RetryPolicy.custom({ schedule: Schedule.recurs(1), jitter: "full" })
      assert.deepStrictEqual(yield* waits(jittered.override({ delay })), [200, 200])
    })
  )

  it("of the attempts: those asked for; a schedule that had none of its own has three once its waits are replaced", () => {
    const custom = RetryPolicy.custom({ schedule: Schedule.forever })
    assert.strictEqual(custom.attempts, Number.POSITIVE_INFINITY)
    assert.strictEqual(custom.override({}).attempts, Number.POSITIVE_INFINITY)
    assert.strictEqual(custom.override({ delay: 1 }).attempts, 3)
    assert.strictEqual(custom.override({ delay: 1, attempts: 7 }).attempts, 7)
    const five = RetryPolicy.exponential({ attempts: 5 })
    assert.strictEqual(five.override({ delay: 1 }).attempts, 5)
    assert.strictEqual(five.override({ attempts: 2 }).attempts, 2)
    assert.strictEqual(five.override({}).attempts, 5)
  })

  it.effect("without a wait leaves the waits as they are", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.exponential({ attempts: 3, base: 70, jitter: "none" })
      assert.deepStrictEqual(yield* waits(policy.override({})), [70, 140])
    })
  )

  it("of who is tried again: the new word holds, and the old one where there is none", () => {
    const never = (): ErrorClass.Classification => ({ class: "permanent" })
    const always = (): ErrorClass.Classification => ({ class: "transient" })
    const one = RetryPolicy.exponential({ classify: never })
    assert.isFalse(one.override({}).shouldRetry(transient))
    assert.isTrue(one.override({ classify: always }).shouldRetry(permanent))
    const two = RetryPolicy.exponential({ retryOn: (error) => error === permanent })
    assert.isTrue(two.override({}).shouldRetry(permanent))
    assert.isFalse(two.override({ retryOn: () => false }).shouldRetry(permanent))
    const three = RetryPolicy.exponential({ stopOn: (error) => error === transient })
    assert.isFalse(three.override({}).shouldRetry(transient))
    assert.isTrue(three.override({ stopOn: () => false }).shouldRetry(transient))
    const four = RetryPolicy.exponential({ unsentOnly: true })
    assert.isFalse(four.override({}).shouldRetry(transient))
    assert.isTrue(four.override({ unsentOnly: false }).shouldRetry(transient))
  })
})

describe("what it is known by", () => {
  it("describes itself in words", () => {
    assert.strictEqual(description(RetryPolicy.exponential()), "3 attempts, waits of 1s x 2 up to 30s, full jitter")
    assert.strictEqual(
      description(RetryPolicy.fixed({ delay: 50, unsentOnly: true })),
      "3 attempts, waits of 50ms up to 30s, no jitter, only where nothing was sent"
    )
    assert.include(String(description(RetryPolicy.custom({ schedule: Schedule.forever }))), "any number of attempts")
  })

  it("isRetryPolicy: policies, and nothing else", () => {
    assert.isTrue(RetryPolicy.isRetryPolicy(RetryPolicy.none))
    for (const other of [undefined, null, "policy", 1, {}]) assert.isFalse(RetryPolicy.isRetryPolicy(other))
  })
})
