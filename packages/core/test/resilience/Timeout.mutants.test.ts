/**
 * What a timeout says of itself, and work whose end, time and interruption come in the same moment.
 */
import { assert, describe, it } from "@effect/vitest"
import { ErrorClass, Policy, Timeout } from "@underlay/core"
import { Cause, Clock, Effect, Exit, Fiber, FiberRef, TestClock } from "effect"
import { Manual } from "./manual.ts"
import { Pauser } from "./steps.ts"

const of = (scope: Timeout.Scope, limitMillis = 250) =>
  new Timeout.CallTimeout({ service: "payments", scope, limitMillis })

describe("CallTimeout", () => {
  it("says what took too long, and how long that is", () => {
    assert.deepStrictEqual(
      (["attempt", "total", "first-element", "idle"] as const).map((scope) => of(scope).message),
      [
        "payments: an attempt took longer than 250 ms",
        "payments: the call took longer than 250 ms",
        "payments: the first element took longer than 250 ms",
        "payments: the next element took longer than 250 ms"
      ]
    )
    assert.strictEqual(of("total", 0).message, "payments: the deadline had passed before the call")
  })

  it("is transient, by whatever it is read", () => {
    for (const scope of ["attempt", "total", "first-element", "idle"] as const) {
      const error = of(scope)
      assert.isTrue(error.isRetryable)
      assert.strictEqual(error.errorClass, "transient")
      assert.deepStrictEqual(ErrorClass.classify(error), { class: "transient" })
    }
  })
})

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const limited = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Timeout.within(effect, { duration: "50 millis", service: "weather" })

/** By how much the orphans of the process have changed. */
const orphansOf = Effect.map(Timeout.orphans, (before) =>
  Effect.map(Timeout.orphans, ({ current, total }) => [current - before.current, total - before.total])
)

describe("work and its time", () => {
  it.effect("no time at all is over at once", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(Effect.flip(Timeout.within(Effect.never, { duration: 0, service: "weather" })))
      yield* turn
      const error = fiber.unsafePoll()
      assert.isTrue(error !== null && Exit.isSuccess(error) && error.value.limitMillis === 0)
    })
  )

  it.effect("work that needs no waiting asks for no timer", () =>
    Effect.gen(function* () {
      const clock = new Manual()
      let asked = 0
      const sleep = clock.sleep.bind(clock)
      const counting = Object.assign(clock, {
        sleep: (duration: Parameters<typeof sleep>[0]) => {
          asked++
          return sleep(duration)
        }
      })
      assert.strictEqual(yield* Effect.withClock(limited(Effect.succeed(1)), counting), 1)
      assert.strictEqual(asked, 0)
      yield* Effect.withClock(limited(turn), counting)
      assert.deepStrictEqual([asked, clock.sleepers.size], [1, 0])
    })
  )

  it.effect("work that ends by the interruption is no orphan, and never was one", () =>
    Effect.gen(function* () {
      const change = yield* orphansOf
      const fiber = yield* Effect.fork(Effect.exit(limited(Effect.never)))
      yield* TestClock.adjust("50 millis")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* change, [0, 0])
    })
  )

  it.effect("a caller that is interrupted just as time is up leaves at once, and the work is an orphan", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "weather", retry: false, attemptTimeout: "50 millis" })
      for (const own of [false, true]) {
        const change = yield* orphansOf
        const caller: { fiber?: Fiber.RuntimeFiber<unknown, unknown> } = {}
        // The work hears that its time is over before its caller does.
        const work = Effect.onInterrupt(Effect.never, () =>
          Effect.zipRight(
            Effect.sync(() => caller.fiber?.unsafeInterruptAsFork(caller.fiber.id())),
            Effect.sleep("5 seconds")
          )
        )
        const started = yield* Clock.currentTimeMillis
        caller.fiber = yield* Effect.fork(own ? policy.run(work) : limited(work))
        yield* TestClock.adjust("50 millis")
        const exit = caller.fiber.unsafePoll()
        assert.isTrue(exit !== null && Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
        assert.strictEqual((yield* Clock.currentTimeMillis) - started, 50)
        assert.deepStrictEqual(yield* change, [1, 1])
        if (own) assert.deepStrictEqual(yield* policy.orphans, { current: 1, total: 1 })
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* change, [0, 1])
        if (own) assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 1 })
      }
    })
  )

  it.effect("work that ends while its caller is held up, at whatever step, is not waited for in vain", () =>
    Effect.gen(function* () {
      const calls = [limited(Effect.as(turn, "done")), limited(Effect.zipRight(turn, Effect.fail("done")))]
      for (const call of calls) {
        for (let step = 1; ; step++) {
          const pauser = new Pauser(step)
          const fiber = yield* Effect.fork(
            Effect.locally(Effect.merge(call), FiberRef.currentScheduler, pauser).pipe(Effect.withClock(new Manual()))
          )
          for (let turns = 0; turns < 20 && fiber.unsafePoll() === null; turns++) yield* turn
          assert.deepStrictEqual(fiber.unsafePoll(), Exit.succeed("done"), `step ${step}`)
          if (!pauser.reached) {
            assert.isAbove(step, 10)
            break
          }
        }
      }
    })
  )
})
