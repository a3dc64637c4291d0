import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Deferred, Duration, Effect, Exit, FastCheck, Fiber, Option, Random, TestClock } from "effect"
import { Throttle as Machine } from "../../src/internal/resilience/throttle.ts"
import * as ErrorClass from "../../src/resilience/ErrorClass.ts"
import * as Throttle from "../../src/resilience/Throttle.ts"
import { Manual } from "./manual.ts"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}
class Refused extends Data.TaggedError("Refused") {
  get isRetryable() {
    return false
  }
}
const busy = Effect.suspend(() => Effect.fail(new Busy()))

/** Random numbers that are all this one. */
const always =
  (value: number) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withRandom(effect, Random.fixed([value]))

const settings = { ratio: 2, window: 120_000, minimumCalls: 1, maxProbability: 1 }

describe("the probability", () => {
  it("is max(0, (requests - K * accepts) / (requests + 1)) of the last two minutes (property)", () => {
    const steps = FastCheck.array(
      FastCheck.record({
        gap: FastCheck.nat(30_000),
        accepted: FastCheck.boolean(),
        random: FastCheck.double({ min: 0, max: 0.999, noNaN: true })
      }),
      { minLength: 1, maxLength: 300 }
    )
    FastCheck.assert(
      FastCheck.property(steps, FastCheck.constantFrom(1, 1.5, 2, 3), (list, ratio) => {
        const machine = new Machine({ ...settings, ratio })
        machine.probability(0)
        // A part of the window is forgotten at once: what is remembered began at most a window ago, and ends now.
        const part = settings.window / 60
        let log: Array<{ readonly part: number; readonly accepted: boolean }> = []
        let now = 0
        for (const { accepted, gap, random } of list) {
          now += gap
          const current = Math.floor(now / part)
          log = log.filter((each) => each.part > current - 60)
          const accepts = log.filter((each) => each.accepted).length
          const expected = Math.max(0, (log.length - ratio * accepts) / (log.length + 1))
          assert.closeTo(machine.probability(now), log.length === 0 ? 0 : expected, 1e-12)
          const refused = machine.admit(now, () => random)
          assert.strictEqual(refused > 0, log.length > 0 && random < expected)
          if (refused === 0) machine.record(now, accepted)
          log.push({ part: current, accepted: refused === 0 && accepted })
        }
      })
    )
  })

  it.effect("is 0 while the service accepts half of what it is asked, and grows when it does not", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x" })
      yield* Effect.replicateEffect(throttle.run(Effect.void), 50)
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 50)
      assert.strictEqual((yield* throttle.snapshot).probability, 0)
      yield* Effect.exit(throttle.run(busy))
      assert.closeTo((yield* throttle.snapshot).probability, 1 / 102, 1e-12)
    })
  )

  it.effect("is 0 before there are enough calls", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x", minimumCalls: 5 })
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 4).pipe(always(0))
      assert.strictEqual((yield* throttle.snapshot).probability, 0)
      yield* Effect.exit(throttle.run(busy)).pipe(always(0))
      assert.closeTo((yield* throttle.snapshot).probability, 5 / 6, 1e-12)
    })
  )

  it.effect("has a limit, of 0.9 if none is given", () =>
    Effect.gen(function* () {
      const usual = yield* Throttle.make({ name: "x" })
      yield* Effect.replicateEffect(Effect.exit(usual.run(busy)), 100).pipe(always(0.95))
      assert.strictEqual((yield* usual.snapshot).probability, 0.9)
      const throttle = yield* Throttle.make({ name: "x", minimumCalls: 1, maxProbability: 0.5 })
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 100).pipe(always(0.9))
      assert.strictEqual((yield* throttle.snapshot).probability, 0.5)
    })
  )

  it.effect("forgets after the window, and recovers before it when the service accepts again", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x", maxProbability: 1 })
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 20).pipe(always(0.999))
      yield* TestClock.adjust("118 seconds")
      assert.closeTo((yield* throttle.snapshot).probability, 20 / 21, 1e-12)
      yield* Effect.replicateEffect(throttle.run(Effect.void), 20).pipe(always(0.999))
      assert.strictEqual((yield* throttle.snapshot).probability, 0)
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(yield* throttle.snapshot, { probability: 0, requests: 20, accepts: 20, rejected: 0 })
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* throttle.snapshot, { probability: 0, requests: 0, accepts: 0, rejected: 0 })
    })
  )

  it.effect(
    "keeps a service that accepts 100 a second at about twice that, however many are asked (the book's figure)",
    () =>
      Effect.gen(function* () {
        const throttle = yield* Throttle.make({ name: "x" })
        let reached = 0
        let second = 0
        const service = Effect.suspend(() => {
          reached++
          return second++ < 100 ? Effect.void : busy
        })
        for (let i = 0; i < 300; i++) {
          second = 0
          if (i === 200) reached = 0
          yield* Effect.replicateEffect(Effect.exit(throttle.run(service)), 1_000)
          yield* TestClock.adjust("1 second")
        }
        const rate = reached / 100
        assert.isAtLeast(rate, 170)
        assert.isAtMost(rate, 230)
      }).pipe(Effect.withRandom(Random.make("throttle")))
  )
})

describe("a service that is back after five minutes", () => {
  it.effect("gets all of a thousand calls a second within two windows", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x" })
      const clock = new Manual()
      const asked = (seconds: number, service: Effect.Effect<void, Busy>) =>
        Effect.repeatN(
          Effect.zipRight(
            Effect.replicateEffect(Effect.exit(throttle.run(service)), 100),
            Effect.sync(() => clock.advance(100))
          ),
          seconds * 10 - 1
        )
      yield* Effect.gen(function* () {
        yield* asked(300, busy)
        assert.strictEqual((yield* throttle.snapshot).probability, 0.9)
        yield* asked(240, Effect.void)
        assert.strictEqual((yield* throttle.snapshot).probability, 0)
      }).pipe(Effect.withClock(clock))
    }).pipe(Effect.withRandom(Random.make("back")))
  )
})

describe("a call that is refused", () => {
  it.effect("does not reach the service, counts as a request, and is a plain object", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "search", minimumCalls: 1 })
      yield* Effect.exit(throttle.run(busy))
      let reached = false
      const exit = yield* Effect.exit(
        Throttle.run(
          Effect.sync(() => (reached = true)),
          throttle
        ).pipe(Effect.withSpan("span"), always(0))
      )
      assert.isFalse(reached)
      const error = Exit.isFailure(exit) ? Option.getOrThrow(Cause.failureOption(exit.cause)) : undefined
      assert.instanceOf(error, Throttle.CallThrottled)
      assert.notInstanceOf(error, Error)
      assert.strictEqual(error.probability, 0.5)
      assert.strictEqual(error.message, "search: the service refuses much, so 50 % of the calls are not made")
      assert.strictEqual(String(error), `CallThrottled: ${error.message}`)
      assert.isTrue(error.isRetryable)
      assert.deepStrictEqual(ErrorClass.classify(error), { class: "transient", rejection: true, sent: false })
      assert.deepStrictEqual(yield* throttle.snapshot, { probability: 2 / 3, requests: 2, accepts: 0, rejected: 1 })
    })
  )
})

describe("what counts", () => {
  const counted = (effect: Effect.Effect<unknown, unknown>, options?: Partial<Throttle.Options>) =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x", ...options })
      yield* Effect.exit(throttle.run(effect))
      const { accepts, requests } = yield* throttle.snapshot
      return [requests, accepts]
    })

  it.effect("as accepted: a success, and an answer that the call was wrong", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* counted(Effect.void), [1, 1])
      assert.deepStrictEqual(yield* counted(Effect.fail(new Refused())), [1, 1])
    })
  )

  it.effect("as not accepted: what is transient or rate-limited, what nobody knows, and a defect", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* counted(busy), [1, 0])
      assert.deepStrictEqual(yield* counted(Effect.fail({ errorClass: "rate-limited" })), [1, 0])
      assert.deepStrictEqual(yield* counted(Effect.fail("what is this")), [1, 0])
      assert.deepStrictEqual(yield* counted(Effect.die("bug")), [1, 0])
    })
  )

  it.effect("as nothing: an interruption, a cancellation, and a refusal of our own inside of it", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* counted(Effect.interrupt), [0, 0])
      assert.deepStrictEqual(yield* counted(Effect.fail({ errorClass: "cancelled" })), [0, 0])
      assert.deepStrictEqual(yield* counted(Effect.fail({ errorClass: "transient", rejection: true })), [0, 0])
    })
  )

  it.effect("can be told", () =>
    Effect.gen(function* () {
      const options = { accepted: (_: unknown, error: unknown) => error instanceof Busy }
      assert.deepStrictEqual(yield* counted(busy, options), [1, 1])
      assert.deepStrictEqual(yield* counted(Effect.fail(new Refused()), options), [1, 0])
      const classify = () => ({ class: "transient" as const })
      assert.deepStrictEqual(yield* counted(Effect.fail(new Refused()), { classify }), [1, 0])
    })
  )

  it.effect("is not the start of a call: slow answers are no refusals", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x", minimumCalls: 1 })
      const gate = yield* Deferred.make<void>()
      const fibers = yield* Effect.forEach(Array.from({ length: 100 }), () =>
        Effect.fork(throttle.run(Deferred.await(gate)).pipe(always(0)))
      )
      yield* Effect.yieldNow()
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(yield* throttle.snapshot, { probability: 0, requests: 100, accepts: 100, rejected: 0 })
    })
  )
})

describe("clocks and settings", () => {
  it.effect("a clock that is set back or forth does not make it stuck", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_000_000_000)
      const throttle = yield* Throttle.make({ name: "x" })
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 20).pipe(always(0.999))
      yield* TestClock.setTime(0)
      assert.strictEqual((yield* throttle.snapshot).requests, 20)
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* throttle.snapshot).requests, 0)
      yield* Effect.exit(throttle.run(busy))
      yield* TestClock.setTime(1e13)
      assert.strictEqual((yield* throttle.snapshot).requests, 0)
    })
  )

  it.effect("reload keeps what was counted, also in a window of another length", () =>
    Effect.gen(function* () {
      const throttle = yield* Throttle.make({ name: "x" })
      yield* Effect.replicateEffect(Effect.exit(throttle.run(busy)), 20).pipe(always(0.999))
      yield* TestClock.adjust("1 minute")
      yield* throttle.reload({ ratio: 3, maxProbability: 1 })
      assert.closeTo((yield* throttle.snapshot).probability, 20 / 21, 1e-12)
      yield* throttle.reload({ window: "10 seconds", accepted: () => true })
      assert.strictEqual((yield* throttle.snapshot).requests, 20)
      yield* Effect.exit(throttle.run(busy)).pipe(always(0.999))
      assert.strictEqual((yield* throttle.snapshot).accepts, 1)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* throttle.snapshot).requests, 0)
      const exit = yield* Effect.exit(throttle.reload({ ratio: 0 }))
      assert.include(String(exit), "throttle.ratio is 0: give 1 or more")
    })
  )

  it.effect("settings that cannot work are defects that say what to write", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [Omit<Throttle.Options, "name">, string]> = [
        [{ ratio: 0.9 }, "throttle.ratio is 0.9: give 1 or more"],
        [{ ratio: Number.NaN }, "throttle.ratio is NaN"],
        [{ ratio: Number.POSITIVE_INFINITY }, "throttle.ratio is Infinity"],
        [{ window: 59 }, "throttle.window is 59 ms: give a finite duration of 60 ms or more"],
        [{ window: Duration.infinity }, "throttle.window is Infinity ms"],
        [{ minimumCalls: 0 }, "throttle.minimumCalls is 0: give a whole number of 1 or more"],
        [{ maxProbability: 0 }, "throttle.maxProbability is 0: give a number above 0 and up to 1"],
        [{ maxProbability: 1.1 }, "throttle.maxProbability is 1.1"]
      ]
      for (const [options, words] of cases) {
        const exit = yield* Effect.exit(Throttle.make({ name: "x", ...options }))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause), words)
        assert.include(String(exit), words)
      }
      const throttle = yield* Throttle.make({ name: "x", ratio: 1, window: 60, minimumCalls: 1, maxProbability: 1 })
      assert.isTrue(Throttle.isThrottle(throttle))
      assert.isFalse(Throttle.isThrottle(null))
      assert.strictEqual(
        Reflect.get(yield* Throttle.make({ name: "x" }), "description"),
        "refuses by chance what is more than 2 times what the service accepted in the last 2m (at least 10 calls)"
      )
    })
  )
})
