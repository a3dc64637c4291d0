/**
 * The throttle to the last step: where chance decides, and what a reload keeps for how long.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Option, Random } from "effect"
import { Throttle as Machine } from "../../src/internal/resilience/throttle.ts"
import * as Throttle from "../../src/resilience/Throttle.ts"

const settings = { ratio: 2, window: 120_000, minimumCalls: 1, maxProbability: 1 }

describe("chance", () => {
  it("refuses half of the calls where the probability is a half: the upper half of the numbers passes", () => {
    const machine = new Machine(settings)
    machine.record(0, false)
    assert.strictEqual(machine.probability(0), 0.5)
    assert.strictEqual(
      machine.admit(0, () => 0.5),
      0
    )
    assert.strictEqual(
      machine.admit(0, () => 0.4999),
      0.5
    )
  })

  it.effect(
    "is not asked where nothing is to be refused: a seeded program sees the same numbers as without a throttle",
    () =>
      Effect.gen(function* () {
        const throttle = yield* Throttle.make({ name: "service" })
        const numbers = Effect.replicateEffect(Effect.andThen(throttle.run(Effect.void), Random.next), 20)
        const alone = Effect.replicateEffect(Random.next, 20)
        assert.deepStrictEqual(
          yield* Effect.withRandom(numbers, Random.make("seed")),
          yield* Effect.withRandom(alone, Random.make("seed"))
        )
      })
  )
})

describe("reload", () => {
  it("with the same window does not make what was counted younger", () => {
    const machine = new Machine(settings)
    for (let call = 0; call < 10; call++) machine.record(0, false)
    machine.reload({ ...settings, ratio: 3 }, 60_000)
    assert.strictEqual(machine.requests, 10)
    assert.isAbove(machine.probability(119_000), 0)
    assert.strictEqual(machine.probability(121_000), 0)
    assert.strictEqual(machine.requests, 0)
  })

  it("with another window keeps requests and accepts for its length, and then forgets both", () => {
    const machine = new Machine(settings)
    for (let call = 0; call < 10; call++) machine.record(90_000, call < 4)
    machine.reload({ ...settings, window: 30_000 }, 100_000)
    assert.deepStrictEqual([machine.requests, machine.accepts], [10, 4])
    machine.probability(125_000)
    assert.deepStrictEqual([machine.requests, machine.accepts], [10, 4])
    machine.probability(131_000)
    assert.deepStrictEqual([machine.requests, machine.accepts], [0, 0])
  })
})

describe("what it is known by", () => {
  it.effect("a refusal is caught by its tag", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "service", minimumCalls: 1 })
      yield* Effect.exit(throttle.run(Effect.die("away")))
      const exit = yield* Effect.exit(throttle.run(Effect.void)).pipe(Effect.withRandom(Random.fixed([0])))
      const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.failureOption(exit.cause)) : undefined
      assert.strictEqual(error?._tag, "CallThrottled")
    })
  )

  it.effect("isThrottle: throttles, and nothing else", () =>
    Effect.gen(function* () {
      assert.isTrue(Throttle.isThrottle(yield* Throttle.make({ name: "service" })))
      for (const other of [undefined, null, "throttle", 1, {}, () => 1]) assert.isFalse(Throttle.isThrottle(other))
    })
  )
})
