import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, CircuitBreakers, CircuitControl } from "@underlay/core"
import { CircuitControlSuite, Suite } from "@underlay/core/testing"
import { Deferred, Duration, Effect, Exit, Layer, Scope, Stream, TestClock } from "effect"

const down = Effect.fail({ isRetryable: true })
const once = { window: { type: "consecutive", failures: 1 } } as const
const settled = Effect.repeatN(Effect.yieldNow(), 50)
const memory = Effect.provide(CircuitControl.layerMemory)
const away = (method: string) =>
  new CircuitControl.CircuitControlError({ reason: "Unavailable", method, description: "it is away" })

/** The control in memory, which can go away. */
const flaky = Effect.gen(function* () {
  const control = yield* CircuitControl.makeMemory
  const seen = { away: false, hangs: false, reads: 0 }
  const layer = Layer.succeed(CircuitControl.CircuitControl, {
    ...control,
    overrides: Effect.suspend(() => {
      seen.reads++
      return seen.hangs ? Effect.never : seen.away ? Effect.fail(away("overrides")) : control.overrides
    }),
    changes: Stream.suspend(() => (seen.away ? Stream.fail(away("changes")) : control.changes))
  })
  return { control, seen, layer }
})

describe("CircuitControl in memory", () => {
  for (const one of Suite.applicable(CircuitControlSuite.make({ advance: TestClock.adjust }), ["tells"])) {
    it.effect(one.name, () => memory(one.run))
  }
})

describe("CircuitControl", () => {
  it.scoped("holds a circuit open for all who follow, by its name, until it is cleared (resilience4j #1756)", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      // Two processes, and another service.
      const one = yield* CircuitBreaker.make({ ...once, name: "payments" })
      const two = yield* CircuitBreaker.make({ ...once, name: "payments" })
      const other = yield* CircuitBreaker.make({ ...once, name: "mail" })
      yield* CircuitControl.follow([one, other])
      yield* CircuitControl.follow(two)
      yield* settled
      yield* control.set("payments", "forced-open", { reason: "maintenance" })
      yield* settled
      for (const breaker of [one, two]) {
        const error = yield* Effect.flip(breaker.run(Effect.void))
        assert.isFalse(Duration.isFinite(error.retryAfter))
        const seen = yield* breaker.snapshot
        assert.deepStrictEqual([seen.state, seen.mode, seen.override], ["open", "automatic", "forced-open"])
      }
      yield* other.run(Effect.void)
      assert.isTrue(yield* control.clear("payments"))
      assert.isFalse(yield* control.clear("payments"))
      yield* settled
      for (const breaker of [one, two]) yield* breaker.run(Effect.void)
    }).pipe(memory)
  )

  it.scoped("what was said before somebody follows holds from the first call on", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("payments", "forced-open")
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* CircuitControl.follow(breaker)
      assert.strictEqual(yield* breaker.state, "open")
    }).pipe(memory)
  )

  it.scoped("goes before the mode that was set at the breaker, which comes back after it", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* breaker.setMode("forced-open")
      yield* CircuitControl.follow(breaker)
      yield* control.set("payments", "disabled")
      yield* settled
      yield* breaker.run(Effect.void)
      yield* control.clear("payments")
      yield* settled
      assert.strictEqual(yield* breaker.state, "open")
    }).pipe(memory)
  )

  it.scoped("for a time: it ends by the clock, and callers are told when", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* CircuitControl.follow(breaker)
      yield* settled
      yield* control.set("payments", "forced-open", { for: "10 minutes" })
      yield* settled
      yield* TestClock.adjust("4 minutes")
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.deepStrictEqual(error.retryAfter, Duration.minutes(6))
      yield* TestClock.adjust("6 minutes")
      yield* breaker.run(Effect.void)
      assert.deepStrictEqual(yield* control.overrides, [])
      assert.isNull((yield* breaker.snapshot).override)
    }).pipe(memory)
  )

  it.scoped("reading again what holds already forgets no results", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* CircuitControl.follow(breaker)
      yield* control.set("payments", "metrics-only", { for: "1 hour" })
      yield* settled
      yield* Effect.exit(breaker.run(down))
      yield* control.set("mail", "disabled")
      yield* settled
      assert.strictEqual((yield* breaker.snapshot).wouldBe, "open")
    }).pipe(memory)
  )

  it.scoped("only while the scope lives", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      yield* control.set("payments", "forced-open")
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      const scope = yield* Scope.make()
      yield* Scope.extend(CircuitControl.follow(breaker), scope)
      yield* Scope.close(scope, Exit.void)
      yield* breaker.run(Effect.void)
      yield* control.set("payments", "disabled")
      yield* settled
      assert.isNull((yield* breaker.snapshot).override)
    }).pipe(memory)
  )

  it.scoped("a registry: all of its keys, or one, also those that are made later; and it stays bounded", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      const breakers = yield* CircuitBreakers.make({ name: "hosts", capacity: 10, breaker: once })
      yield* breakers.run("a", Effect.void)
      yield* CircuitControl.follow(breakers)
      yield* control.set("hosts/b", "forced-open")
      yield* settled
      yield* breakers.run("a", Effect.void)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.run("b", Effect.void))))
      yield* control.set("hosts", "forced-open")
      yield* control.set("hosts/b", "disabled")
      yield* settled
      yield* breakers.run("b", Effect.void)
      for (const key of ["a", "c"]) assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.run(key, Effect.void))))
      for (let key = 0; key < 50; key++) yield* breakers.get(`key ${key}`)
      assert.isAtMost(yield* breakers.size, 10)
      // What was said of one key keeps it.
      assert.strictEqual((yield* breakers.peek("b"))._tag, "Some")
      yield* control.clear("hosts")
      yield* control.clear("hosts/b")
      yield* settled
      for (const key of ["a", "key 49"]) yield* breakers.run(key, Effect.void)
    }).pipe(memory)
  )

  it.scoped("a control that is away is none: breakers go on by themselves, and follow when it is back", () =>
    Effect.gen(function* () {
      const { control, layer, seen } = yield* flaky
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      seen.away = true
      yield* Effect.provide(CircuitControl.follow(breaker), layer)
      yield* Effect.exit(breaker.run(down))
      assert.strictEqual(yield* breaker.state, "open")
      yield* control.set("payments", "disabled")
      yield* TestClock.adjust("1 minute")
      assert.isNull((yield* breaker.snapshot).override)
      // It is asked again, but not all the time.
      assert.isAbove(seen.reads, 5)
      assert.isBelow(seen.reads, 30)
      seen.away = false
      yield* TestClock.adjust("10 seconds")
      yield* breaker.run(Effect.void)
      assert.strictEqual((yield* breaker.snapshot).override, "disabled")
    })
  )

  it.scoped("what was said last holds for a while after it went away, and then no more", () =>
    Effect.gen(function* () {
      const { control, layer, seen } = yield* flaky
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* control.set("payments", "forced-open")
      yield* Effect.provide(CircuitControl.follow(breaker, { refresh: "10 seconds", staleAfter: "1 minute" }), layer)
      yield* settled
      seen.away = true
      yield* TestClock.adjust("50 seconds")
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* breaker.state, "closed")
      yield* breaker.run(Effect.void)
    })
  )

  it.scoped("one that hangs or dies is as good as away", () =>
    Effect.gen(function* () {
      const { control, layer, seen } = yield* flaky
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* control.set("payments", "forced-open")
      seen.hangs = true
      const following = yield* Effect.fork(Effect.provide(CircuitControl.follow(breaker), layer))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(following.unsafePoll()?._tag, "Success")
      yield* breaker.run(Effect.void)
      seen.hangs = false
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* breaker.state, "open")
      const dying = Layer.succeed(CircuitControl.CircuitControl, {
        ...control,
        overrides: Effect.die("a bug"),
        changes: Stream.die("a bug")
      })
      const other = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* Effect.provide(CircuitControl.follow(other), dying)
      yield* TestClock.adjust("1 minute")
      yield* other.run(Effect.void)
    })
  )

  it.scoped("also one that hangs and cannot be interrupted", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.makeMemory
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      yield* control.set("payments", "forced-open")
      let hangs = false
      const gate = yield* Deferred.make<void>()
      const layer = Layer.succeed(CircuitControl.CircuitControl, {
        ...control,
        overrides: Effect.suspend(() =>
          hangs ? Effect.andThen(Effect.uninterruptible(Deferred.await(gate)), control.overrides) : control.overrides
        )
      })
      yield* Effect.provide(CircuitControl.follow(breaker), layer)
      assert.strictEqual(yield* breaker.state, "open")
      hangs = true
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(yield* breaker.state, "closed")
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.scoped("one that tells of no changes is read regularly", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.makeMemory
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      const mute = Layer.succeed(CircuitControl.CircuitControl, { ...control, changes: Stream.empty })
      yield* Effect.provide(CircuitControl.follow(breaker, { refresh: "20 seconds" }), mute)
      yield* settled
      yield* control.set("payments", "forced-open")
      yield* TestClock.adjust("19 seconds")
      assert.strictEqual(yield* breaker.state, "closed")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.scoped("one whose changes cannot be heard is read all the same", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.makeMemory
      const breaker = yield* CircuitBreaker.make({ ...once, name: "payments" })
      let reads = 0
      const deaf = Layer.succeed(CircuitControl.CircuitControl, {
        ...control,
        overrides: Effect.suspend(() => {
          reads++
          return control.overrides
        }),
        changes: Stream.fail(away("changes"))
      })
      yield* Effect.provide(CircuitControl.follow(breaker), deaf)
      yield* TestClock.adjust("1 minute")
      yield* control.set("payments", "forced-open")
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* breaker.state, "open")
      assert.isBelow(reads, 40)
    })
  )

  it.effect("what cannot be set is refused, and says why", () =>
    Effect.gen(function* () {
      const control = yield* CircuitControl.CircuitControl
      for (const [set, why] of [
        [control.set("", "disabled"), "the name is empty"],
        [control.set("x", "disabled", { for: 0 }), "not positive"],
        [control.set("x", "automatic" as CircuitControl.Mode), "the mode is none of"]
      ] as const) {
        const error = yield* Effect.flip(set)
        assert.deepStrictEqual([error.reason, error.isRetryable], ["InvalidOverride", false])
        assert.include(error.message, why)
      }
      assert.isTrue(away("set").isRetryable)
    }).pipe(memory)
  )
})
