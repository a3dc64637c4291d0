import { assert, describe, it } from "@effect/vitest"
import { ResilientSessionStore, SessionStore } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Context, Effect, Fiber, Layer, Option, TestClock } from "effect"
import * as Unsteady from "./unsteady.ts"

/** A store that fails so often, in this way, and then does as it is told. */
const failing = (how: Unsteady.Away, times: number, options: ResilientSessionStore.Options = {}) =>
  Effect.gen(function* () {
    const unsteady = yield* Unsteady.memory()
    const store = yield* ResilientSessionStore.make(unsteady.store, options)
    yield* unsteady.real.set("a", { n: 1, user_id: "ada" })
    unsteady.away = how
    unsteady.healsAfter = times
    return { unsteady, store }
  })

const run = <A, E>(effect: Effect.Effect<A, E>, millis = 60) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.fork(Effect.either(effect))
    yield* TestClock.adjust(millis)
    return yield* Fiber.join(fiber)
  })

const operations: ReadonlyArray<
  readonly [
    name: string,
    run: (store: SessionStore.Service) => Effect.Effect<unknown, SessionStore.SessionStoreError>,
    repeatable: boolean
  ]
> = [
  ["get", (store) => store.get("a"), true],
  ["getAndTouch", (store) => store.getAndTouch("a"), true],
  ["set", (store) => store.set("a", { n: 2 }), true],
  ["exists", (store) => store.exists("a"), true],
  ["extendTtl", (store) => store.extendTtl("a"), true],
  ["delete", (store) => store.delete("a"), true],
  ["deleteMany", (store) => store.deleteMany(["a"]), true],
  ["deleteAllOf", (store) => store.deleteAllOf("ada"), true],
  ["sessionsOf", (store) => store.sessionsOf("ada"), true],
  ["cleanUp", (store) => store.cleanUp(), true],
  ["create", (store) => store.create("b", {}), false],
  ["update", (store) => store.update("a", (session) => ({ ...session, n: 2 })), false],
  ["rotate", (store) => store.rotate("a", "c"), false]
]

describe("ResilientSessionStore", () => {
  for (const [name, operation, repeatable] of operations) {
    it.scoped(`${name} is done once more where it is known not to have been done`, () =>
      Effect.gen(function* () {
        const { store, unsteady } = yield* failing("refuses", 1)
        assert.strictEqual((yield* run(operation(store)))._tag, "Right")
        assert.strictEqual(unsteady.calls, 2)
      })
    )

    it.scoped(`${name} ${repeatable ? "is done once more" : "is not done again"} where its outcome is unknown`, () =>
      Effect.gen(function* () {
        const { store, unsteady } = yield* failing("hangs up before", 1)
        const result = yield* run(operation(store))
        assert.strictEqual(result._tag, repeatable ? "Right" : "Left")
        assert.strictEqual(unsteady.calls, repeatable ? 2 : 1)
        if (result._tag === "Left") assert.strictEqual(result.left.outcome, "unknown")
      })
    )

    it.scoped(`${name} is not tried a third time`, () =>
      Effect.gen(function* () {
        const { store, unsteady } = yield* failing("refuses", 2)
        assert.strictEqual((yield* run(operation(store)))._tag, "Left")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(unsteady.calls, 2)
      })
    )
  }

  it.scoped("a time-out is no lost connection, and refusals are answers: neither is tried again", () =>
    Effect.gen(function* () {
      const { store, unsteady } = yield* failing("hangs up after", 1)
      assert.strictEqual((yield* Effect.flip(store.get("a"))).reason, "Timeout")
      assert.strictEqual(unsteady.calls, 1)
      yield* store.delete("a")
      unsteady.calls = 0
      assert.strictEqual((yield* Effect.flip(store.set("a", {}))).reason, "SessionGone")
      assert.strictEqual(unsteady.calls, 1)
    })
  )

  it.scoped(
    "an operation that may have been done the first time may have been done, though the second was refused",
    () =>
      Effect.gen(function* () {
        const { store, unsteady } = yield* failing("hangs up before", 2)
        const fiber = yield* Effect.fork(Effect.flip(store.set("a", { n: 2 })))
        yield* TestClock.adjust("1 millis")
        unsteady.away = "refuses"
        yield* TestClock.adjust("60 millis")
        const error = yield* Fiber.join(fiber)
        assert.deepStrictEqual([error.reason, error.outcome, unsteady.calls], ["Unavailable", "unknown", 2])
        assert.isTrue(error.isRetryable)
      })
  )

  it.scoped("callers that failed together do not come back together", () =>
    Effect.gen(function* () {
      const { store, unsteady } = yield* failing("refuses", 200, { pause: "100 millis" })
      const all = yield* Effect.fork(
        Effect.all(Effect.replicate(Effect.either(store.get("a")), 200), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("49 millis")
      assert.strictEqual(unsteady.calls, 200)
      const tenths: Array<number> = []
      for (let at = 0; at < 6; at++) {
        const before = unsteady.calls
        yield* TestClock.adjust(at === 0 ? "11 millis" : "8 millis")
        tenths.push(unsteady.calls - before)
      }
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(unsteady.calls, 400)
      assert.isTrue(
        tenths.every((count) => count > 0 && count < 120),
        tenths.join(" ")
      )
      assert.isTrue((yield* Fiber.join(all)).every((one) => one._tag === "Right"))
    })
  )

  it.scoped("waits until the store is back, and no longer than it may", () =>
    Effect.gen(function* () {
      const latch = yield* Effect.makeLatch(false)
      const { store, unsteady } = yield* failing("refuses", 1, { ready: latch.await, maxWait: "300 millis" })
      const first = yield* Effect.fork(store.get("a"))
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(unsteady.calls, 1)
      yield* latch.open
      yield* TestClock.adjust("50 millis")
      assert.isTrue(Option.isSome(yield* Fiber.join(first)))
      yield* latch.close
      unsteady.away = "refuses"
      unsteady.healsAfter = 1
      unsteady.calls = 0
      const second = yield* Effect.fork(Effect.flip(store.get("a")))
      yield* TestClock.adjust("299 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(second)))
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(second)).reason, "Unavailable")
      assert.strictEqual(unsteady.calls, 1)
    })
  )

  it.scoped("options that cannot be are refused", () =>
    Effect.gen(function* () {
      const { store } = yield* Unsteady.memory()
      for (const options of [{ pause: "no time" as never }, { maxWait: Number.POSITIVE_INFINITY }]) {
        assert.strictEqual((yield* Effect.flip(ResilientSessionStore.make(store, options))).reason, "InvalidOptions")
      }
    })
  )

  it.scoped("is silent, the second attempt included", () =>
    Effect.gen(function* () {
      const { store } = yield* failing("refuses", 1)
      yield* Recording.assertSilent(run(store.get("a")))
    })
  )

  it.scoped("is a layer over the application's session store", () =>
    Effect.gen(function* () {
      const context = yield* Layer.build(ResilientSessionStore.layer().pipe(Layer.provide(SessionStore.layerMemory())))
      const store = Context.get(context, SessionStore.SessionStore)
      yield* store.set("a", {})
      assert.isTrue(yield* store.exists("a"))
    })
  )
})
