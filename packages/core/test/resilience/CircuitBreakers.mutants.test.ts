/**
 * The registry of breakers to the last step: who may come back, what counts as let go of, and overrides of single keys.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, CircuitBreakers, CircuitControl } from "@underlay/core"
import { Chunk, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Queue, Schema, Stream, TestClock } from "effect"

const down = Effect.fail({ isRetryable: true })
const once = { window: { type: "consecutive", failures: 1 } } as const
const settled = Effect.repeatN(Effect.yieldNow(), 50)

const make = (capacity: number) => CircuitBreakers.make({ name: "hosts", capacity, breaker: once })

describe("what is let go of", () => {
  it.effect("is counted; what somebody removed is not", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2)
      for (const key of ["a", "b", "c"]) yield* breakers.get(key)
      assert.isTrue(yield* breakers.remove("c"))
      assert.isFalse(yield* breakers.remove("c"))
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 2, evicted: 1 })
    })
  )

  it.effect("a removed breaker that is still used neither comes back nor pushes out others", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2)
      const old = yield* breakers.get("a")
      yield* breakers.remove("a")
      yield* breakers.get("a")
      yield* old.run(Effect.void)
      for (const key of ["b", "c", "d"]) yield* breakers.get(key)
      assert.deepStrictEqual(yield* breakers.stats, { size: 2, capacity: 2, evicted: 2 })
    })
  )

  it.effect("what becomes of a removed breaker is not told of the key's new one", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2)
      const old = yield* breakers.get("a")
      yield* breakers.remove("a")
      yield* breakers.get("a")
      yield* Effect.exit(old.run(down))
      assert.deepStrictEqual(yield* breakers.states, { closed: 1, open: 0, halfOpen: 0 })
    })
  )

  it.effect("one that was let go of and is used comes back whole: its changes are told, and it may go again", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const first = yield* breakers.get("a")
      yield* breakers.get("b")
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 1 })
      yield* first.run(Effect.void)
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 2 })
      const changes = yield* Effect.fork(Stream.runCollect(Stream.take(breakers.changes, 1)))
      yield* settled
      yield* Effect.exit(first.run(down))
      const heard = Chunk.toReadonlyArray(yield* Fiber.join(changes))
      assert.deepStrictEqual(
        heard.map(({ key, to }) => [key, to]),
        [["a", "open"]]
      )
      yield* TestClock.adjust("2 hours")
      yield* breakers.get("b")
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 3 })
    })
  )

  it.effect("calls under way hold more than there is room for, which is made when they end", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const gate = yield* Deferred.make<void>()
      const calls = yield* Effect.fork(
        Effect.forEach(["a", "b", "c"], (key) => breakers.run(key, Deferred.await(gate)), { concurrency: "unbounded" })
      )
      yield* settled
      assert.deepStrictEqual(yield* breakers.stats, { size: 3, capacity: 1, evicted: 0 })
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(calls)
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 2 })
    })
  )

  it.effect("open ones are kept over the capacity until they may be forgotten", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      for (const key of ["a", "b", "c", "d"]) yield* Effect.exit(breakers.run(key, down))
      assert.deepStrictEqual(yield* breakers.stats, { size: 4, capacity: 1, evicted: 0 })
      yield* TestClock.adjust("3 hours")
      yield* breakers.get("e")
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 4 })
    })
  )

  it.effect("a few at a time: four for a new key, whether closed or forgotten", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      for (const key of ["a", "b", "c", "d", "e", "f"]) yield* Effect.exit(breakers.run(key, down))
      yield* TestClock.adjust("3 hours")
      yield* breakers.get("g")
      assert.deepStrictEqual(yield* breakers.stats, { size: 3, capacity: 1, evicted: 4 })
      yield* breakers.get("h")
      assert.deepStrictEqual(yield* breakers.stats, { size: 1, capacity: 1, evicted: 7 })
    })
  )

  it.effect("no more than four in trouble are looked at for a new key; the next one looks further", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      yield* Effect.exit(breakers.run("old", down))
      yield* TestClock.adjust("59 minutes")
      for (const key of ["a", "b", "c", "d"]) yield* Effect.exit(breakers.run(key, down))
      // Of all it was used last, though only by a look at it.
      yield* breakers.get("old")
      yield* TestClock.adjust("2 minutes")
      yield* breakers.get("new")
      assert.deepStrictEqual(yield* breakers.stats, { size: 6, capacity: 1, evicted: 0 })
      yield* breakers.remove("new")
      yield* breakers.get("newer")
      assert.deepStrictEqual(yield* breakers.stats, { size: 5, capacity: 1, evicted: 1 })
      assert.isTrue(Option.isNone(yield* breakers.peek("old")))
    })
  )

  it.effect("one that is kept refuses at a glance; one that was let go of is looked for first", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const breaker = (yield* breakers.get("a")) as CircuitBreaker.CircuitBreaker & {
        readonly machine: { readonly refuses: (now: number) => number | undefined }
      }
      yield* Effect.exit(breaker.run(down))
      assert.strictEqual(breaker.machine.refuses(0), 30_000)
      yield* breakers.remove("a")
      assert.isUndefined(breaker.machine.refuses(0))
    })
  )
})

describe("overrides", () => {
  const follow = Effect.gen(function* () {
    const control = yield* CircuitControl.CircuitControl
    const breakers = yield* make(10)
    for (const key of ["a", "b", "b/hosts/"]) yield* breakers.get(key)
    yield* CircuitControl.follow(breakers)
    yield* settled
    /** Which of the keys pass. */
    const passes = Effect.forEach(["a", "b", "b/hosts/"], (key) =>
      Effect.map(Effect.exit(breakers.run(key, Effect.void)), Exit.isSuccess)
    )
    /** The modes of the breakers as they stand, without a call that could have brought them up to date. */
    const modes = Effect.forEach(["a", "b", "b/hosts/"], (key) =>
      Effect.flatMap(Effect.flatten(breakers.peek(key)), (breaker) =>
        Effect.map(breaker.snapshot, (seen) => seen.override)
      )
    )
    return { control, passes, modes }
  })

  it.scoped("one of a single key is that key's alone, as soon as it is said and as soon as it is cleared", () =>
    Effect.gen(function* () {
      const { control, modes, passes } = yield* follow
      yield* control.set("hosts/a", "forced-open")
      yield* settled
      assert.deepStrictEqual(yield* modes, ["forced-open", null, null])
      assert.deepStrictEqual(yield* passes, [false, true, true])
      yield* control.set("hosts/a", "disabled")
      yield* settled
      assert.deepStrictEqual(yield* modes, ["disabled", null, null])
      yield* control.clear("hosts/a")
      yield* settled
      assert.deepStrictEqual(yield* modes, [null, null, null])
      assert.deepStrictEqual(yield* passes, [true, true, true])
    }).pipe(Effect.provide(CircuitControl.layerMemory))
  )

  it.scoped("one of the registry that changes its mode or its end changes for every key", () =>
    Effect.gen(function* () {
      const { control, modes, passes } = yield* follow
      yield* control.set("hosts", "forced-open")
      yield* settled
      assert.deepStrictEqual(yield* modes, ["forced-open", "forced-open", "forced-open"])
      yield* control.set("hosts", "disabled")
      yield* settled
      assert.deepStrictEqual(yield* modes, ["disabled", "disabled", "disabled"])
      yield* control.set("hosts", "forced-open", { for: "1 minute" })
      yield* settled
      yield* control.set("hosts", "forced-open", { for: "1 hour" })
      yield* settled
      yield* TestClock.adjust("10 minutes")
      yield* settled
      assert.deepStrictEqual(yield* passes, [false, false, false])
      yield* TestClock.adjust("1 hour")
      yield* settled
      assert.deepStrictEqual(yield* passes, [true, true, true])
      // At once, not only with the next regular reading.
      yield* control.set("hosts", "forced-open", { for: "1 hour" })
      yield* settled
      yield* control.set("hosts", "forced-open", { for: "1 second" })
      yield* settled
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* passes, [true, true, true])
    }).pipe(Effect.provide(CircuitControl.layerMemory))
  )
})

describe("what it is known by", () => {
  it.effect("isCircuitBreakers: registries, and nothing else", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      assert.isTrue(CircuitBreakers.isCircuitBreakers(breakers))
      assert.strictEqual(breakers[CircuitBreakers.TypeId], CircuitBreakers.TypeId)
      for (const other of [undefined, null, "registry", 1, {}]) {
        assert.isFalse(CircuitBreakers.isCircuitBreakers(other))
      }
    })
  )

  it.effect("a tag of one's own brings its layer along", () => {
    class Hosts extends CircuitBreakers.tag("test/Hosts", { name: "hosts", breaker: once })<Hosts>() {}
    return Effect.gen(function* () {
      const hosts = yield* Hosts
      yield* Effect.exit(hosts.run("a", down))
      assert.deepStrictEqual(yield* hosts.states, { closed: 0, open: 1, halfOpen: 0 })
    }).pipe(Effect.provide(Hosts.layer))
  })
})

describe("the control", () => {
  const failure = (reason: CircuitControl.Reason) =>
    new CircuitControl.CircuitControlError({ reason, method: "overrides", description: "odd" })

  it("what can be done again says so: a control that is away or late, and no other", () => {
    const reasons = ["InvalidOverride", "Unavailable", "Timeout", "Rejected"] as const
    assert.deepStrictEqual(
      reasons.map((reason) => failure(reason).isRetryable),
      [false, true, true, false]
    )
    assert.strictEqual(failure("Rejected").reason, "Rejected")
    assert.strictEqual(failure("Rejected")._tag, "CircuitControlError")
  })

  it("an override that an adapter has kept is read as a whole, or not at all", () => {
    const read = Schema.is(CircuitControl.Override)
    const good = { name: "hosts", mode: "disabled", until: null, reason: null }
    assert.isTrue(read(good))
    assert.isTrue(read({ ...good, until: 5, reason: "maintenance" }))
    for (const bad of [{ name: "" }, { mode: "odd" }, { until: Number.NaN }, { until: "5" }, { reason: 5 }]) {
      assert.isFalse(read({ ...good, ...bad }), JSON.stringify(bad))
    }
    assert.isFalse(read({}))
  })

  it.effect("an override for ever has no end, and one that cannot be set names the method", () =>
    Effect.gen(function* () {
      const forever = yield* CircuitControl.makeOverride("hosts", "disabled", { for: Duration.infinity })
      assert.isNull(forever.until)
      const error = yield* Effect.flip(CircuitControl.makeOverride("", "disabled"))
      assert.include(error.message, "CircuitControl.set: the name is empty")
    })
  )

  it.scoped("many changes while it is read are one reading more, not one each", () =>
    Effect.gen(function* () {
      const memory = yield* CircuitControl.makeMemory
      const told = yield* Queue.unbounded<void>()
      let reads = 0
      const layer = Layer.succeed(CircuitControl.CircuitControl, {
        ...memory,
        overrides: Effect.suspend(() => {
          reads++
          return Effect.delay(memory.overrides, "1 second")
        }),
        changes: Stream.fromQueue(told)
      })
      const breaker = yield* CircuitBreaker.make({ name: "mail" })
      yield* Effect.fork(CircuitControl.follow(breaker, { refresh: "1 hour" }).pipe(Effect.provide(layer)))
      yield* TestClock.adjust("10 seconds")
      const before = reads
      for (let change = 0; change < 20; change++) {
        yield* Queue.offer(told, undefined)
        yield* settled
      }
      yield* memory.set("mail", "forced-open")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(reads - before, 2)
      // What was said last is what holds.
      assert.strictEqual(yield* breaker.state, "open")
    })
  )

  it.scoped("one that was well for long and goes away is asked again soon, however long it was away before", () =>
    Effect.gen(function* () {
      const memory = yield* CircuitControl.makeMemory
      const seen = { away: true, reads: 0 }
      const layer = Layer.succeed(CircuitControl.CircuitControl, {
        ...memory,
        overrides: Effect.suspend(() => {
          seen.reads++
          return seen.away ? Effect.fail(failure("Unavailable")) : memory.overrides
        }),
        changes: Stream.suspend(() => (seen.away ? Stream.fail(failure("Unavailable")) : memory.changes))
      })
      const breaker = yield* CircuitBreaker.make({ name: "mail" })
      yield* CircuitControl.follow(breaker).pipe(Effect.provide(layer))
      yield* TestClock.adjust("1 minute")
      seen.away = false
      yield* TestClock.adjust("5 minutes")
      seen.away = true
      // The regular reading finds out; from then on it is asked after 250 ms, 500 ms, 1 s, …
      let before = seen.reads
      for (let second = 0; second < 60 && seen.reads === before; second++) yield* TestClock.adjust("1 second")
      before = seen.reads
      yield* TestClock.adjust("2 seconds")
      assert.isAtLeast(seen.reads - before, 2)
    })
  )
})
