import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker } from "@underlay/core"
import { Cause, Chunk, Deferred, Duration, Effect, Exit, Fiber, Schema, Stream, TestClock } from "effect"

const down = Effect.fail({ isRetryable: true })
const once = { name: "x", window: { type: "consecutive", failures: 1 } } as const
const count = { type: "count", size: 4, failureRate: 0.75 } as const
const fail = (breaker: CircuitBreaker.CircuitBreaker, times = 1) =>
  Effect.repeatN(Effect.exit(breaker.run(down)), times - 1)
const asJson = (breaker: CircuitBreaker.CircuitBreaker) =>
  Effect.map(breaker.snapshot, (seen): unknown => JSON.parse(JSON.stringify(seen)))

/** Until what was forked waits. */
const settled = Effect.repeatN(Effect.yieldNow(), 20)

describe("snapshot", () => {
  it.effect("says what is in the window, and for how long it is open", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: count, slowCallDuration: "1 second" })
      assert.deepStrictEqual((yield* breaker.snapshot).failureRate, null)
      yield* TestClock.adjust("1 minute")
      yield* breaker.run(Effect.void)
      yield* fail(breaker)
      yield* breaker.run(TestClock.adjust("2 seconds"))
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual(
        [seen.calls, seen.failures, seen.slow, seen.failureRate, seen.slowRate, seen.openUntil, seen.at],
        [3, 1, 1, 1 / 3, 1 / 3, null, 62_000]
      )
      assert.deepStrictEqual(seen.window, { type: "count", results: "012" })
      yield* fail(breaker, 3)
      const open = yield* breaker.snapshot
      assert.deepStrictEqual([open.state, open.openedAt, open.openUntil], ["open", 62_000, 92_000])
    })
  )

  it.effect("is what its schema says, in every mode and state", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "time", over: "10 seconds", failureRate: 0.5, minimumCalls: 1 },
        rampUp: { over: "10 seconds", from: 0.1 }
      })
      const check = Effect.flatMap(asJson(breaker), Schema.decodeUnknown(CircuitBreaker.Snapshot))
      yield* check
      yield* fail(breaker)
      yield* check
      yield* TestClock.adjust("30 seconds")
      yield* check
      yield* breaker.run(Effect.void)
      yield* check
      for (const mode of ["forced-open", "disabled", "metrics-only"] as const) {
        yield* breaker.setMode(mode)
        yield* check
      }
    })
  )
})

describe("restore", () => {
  const restarted = (options: CircuitBreaker.Options, saved: unknown) =>
    Effect.tap(CircuitBreaker.make(options), (breaker) => breaker.restore(saved))

  it.effect("an open circuit stays open for what is left of its time (cockatiel #89)", () =>
    Effect.gen(function* () {
      const before = yield* CircuitBreaker.make(once)
      yield* fail(before)
      const saved = yield* asJson(before)
      yield* TestClock.adjust("12 seconds")
      const breaker = yield* restarted(once, saved)
      const error = yield* Effect.flip(breaker.run(Effect.void))
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(18))
      yield* TestClock.adjust("18 seconds")
      assert.strictEqual(yield* breaker.state, "half-open")
      assert.strictEqual((yield* breaker.snapshot).counters.opened, 1)
    })
  )

  it.effect("an open time that is over is over; a clock that was wrong cannot prolong it", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(7_200_000)
      const before = yield* CircuitBreaker.make(once)
      yield* fail(before)
      const saved = yield* asJson(before)
      yield* TestClock.setTime(3_600_000)
      const breaker = yield* restarted(once, saved)
      assert.deepStrictEqual((yield* Effect.flip(breaker.run(Effect.void))).retryAfter, Duration.seconds(30))
      yield* TestClock.setTime(9_000_000)
      assert.strictEqual(yield* (yield* restarted(once, saved)).state, "half-open")
    })
  )

  it.effect("one that says it is open for a year is open for as long as the settings say", () =>
    Effect.gen(function* () {
      const before = yield* CircuitBreaker.make({ ...once, openFor: "365 days" })
      yield* fail(before)
      const breaker = yield* restarted(once, yield* asJson(before))
      assert.deepStrictEqual((yield* Effect.flip(breaker.run(Effect.void))).retryAfter, Duration.seconds(30))
    })
  )

  it.effect("results of before count: a window does not start empty", () =>
    Effect.gen(function* () {
      for (const window of [
        count,
        { type: "time", over: "10 seconds", failureRate: 0.75, minimumCalls: 4 },
        { type: "consecutive", failures: 4 }
      ] as const) {
        const before = yield* CircuitBreaker.make({ name: "x", window })
        yield* fail(before, 3)
        const saved = yield* asJson(before)
        yield* TestClock.adjust("2 seconds")
        const breaker = yield* restarted({ name: "x", window }, saved)
        assert.strictEqual((yield* breaker.snapshot).failures, 3, window.type)
        yield* fail(breaker)
        assert.strictEqual(yield* breaker.state, "open", window.type)
      }
    })
  )

  it.effect("results of a time that is over do not, nor those of a window of another shape", () =>
    Effect.gen(function* () {
      const window = { type: "time", over: "10 seconds", failureRate: 0.75, minimumCalls: 4 } as const
      const before = yield* CircuitBreaker.make({ name: "x", window })
      yield* fail(before, 3)
      const saved = yield* asJson(before)
      const other = yield* restarted({ name: "x", window: { ...window, over: "20 seconds" } }, saved)
      assert.strictEqual((yield* other.snapshot).failures, 0)
      assert.strictEqual((yield* (yield* restarted({ name: "x", window: count }, saved)).snapshot).failures, 0)
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual((yield* (yield* restarted({ name: "x", window }, saved)).snapshot).failures, 0)
    })
  )

  it.effect("nor is their time prolonged by a clock that stepped back, before or after the snapshot", () =>
    Effect.gen(function* () {
      const window = { type: "time", over: "10 seconds", failureRate: 0.75, minimumCalls: 100 } as const
      yield* TestClock.setTime(7_200_000)
      const breaker = yield* CircuitBreaker.make({ name: "x", window })
      yield* fail(breaker)
      const early = yield* asJson(breaker)
      yield* TestClock.setTime(3_600_000)
      yield* fail(breaker)
      const late = yield* asJson(breaker)
      yield* TestClock.adjust("4 seconds")
      for (const [saved, failures, left] of [
        // As it was when it was taken, for it says that it is yet to come.
        [early, 1, [1, 1, 0]],
        // Four seconds old.
        [late, 2, [2, 0, 0]]
      ] as const) {
        const restored = yield* restarted({ name: "x", window }, saved)
        yield* breaker.restore(saved)
        assert.deepStrictEqual(
          [(yield* restored.snapshot).failures, (yield* breaker.snapshot).failures],
          [failures, failures]
        )
        const seen: Array<number> = []
        for (const millis of [5_000, 2_000, 4_000]) {
          yield* TestClock.adjust(millis)
          assert.strictEqual((yield* restored.snapshot).failures, (yield* breaker.snapshot).failures)
          seen.push((yield* breaker.snapshot).failures)
        }
        assert.deepStrictEqual(seen, [...left])
        yield* TestClock.setTime(3_604_000)
      }
    })
  )

  it.effect("a smaller window takes the newest results", () =>
    Effect.gen(function* () {
      const before = yield* CircuitBreaker.make({ name: "x", window: { ...count, size: 6, minimumCalls: 6 } })
      yield* fail(before, 3)
      yield* Effect.repeatN(before.run(Effect.void), 1)
      const breaker = yield* restarted({ name: "x", window: count }, yield* asJson(before))
      assert.deepStrictEqual((yield* breaker.snapshot).window, { type: "count", results: "1100" })
    })
  )

  it.effect("mode, ramp and half-open go on; its probes are made anew", () =>
    Effect.gen(function* () {
      const options = { ...once, rampUp: { over: "10 seconds", from: 0.5 } } as const
      const before = yield* CircuitBreaker.make(options)
      yield* fail(before)
      yield* TestClock.adjust("30 seconds")
      yield* Effect.fork(before.run(Effect.never))
      yield* Effect.yieldNow()
      const halfOpen = yield* restarted(options, yield* asJson(before))
      const seen = yield* halfOpen.snapshot
      assert.deepStrictEqual([seen.state, seen.probesInFlight, seen.inFlight], ["half-open", 0, 0])
      yield* halfOpen.run(Effect.void)
      yield* TestClock.adjust("5 seconds")
      const ramping = yield* restarted(options, yield* asJson(halfOpen))
      assert.strictEqual((yield* ramping.snapshot).rampShare, 0.75)
      yield* ramping.setMode("forced-open")
      assert.strictEqual(yield* (yield* restarted(options, yield* asJson(ramping))).state, "open")
    })
  )

  it.effect("calls that were under way change nothing any more", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      const saved = yield* asJson(breaker)
      const gate = yield* Deferred.make<void, object>()
      const fiber = yield* Effect.fork(Effect.exit(breaker.run(Deferred.await(gate))))
      yield* Effect.yieldNow()
      yield* breaker.restore(saved)
      yield* Deferred.fail(gate, { isRetryable: true })
      yield* Fiber.join(fiber)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.counters.stale, seen.inFlight], ["closed", 1, 0])
    })
  )

  it.effect("more calls in a bucket than it can count are refused: they would never be forgotten", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        name: "x",
        window: { type: "time", over: "10 seconds", failureRate: 0.5, minimumCalls: 2 }
      })
      const snapshot = yield* breaker.snapshot
      const full = (calls: number) => {
        const buckets = Array.from({ length: 10 }, (_, index) => (index === 9 ? [calls, 0, 0] : [0, 0, 0]))
        return { ...snapshot, calls, window: { type: "time", over: 10_000, buckets, since: 0 } }
      }
      assert.strictEqual((yield* Effect.flip(breaker.restore(full(2 ** 32)))).service, "x")
      yield* breaker.restore(full(2 ** 32 - 1))
      // A bucket at a time, so that the window is never forgotten as a whole.
      for (let second = 0; second < 10; second++) {
        yield* TestClock.adjust("1 second")
        yield* breaker.run(Effect.void)
      }
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.calls, seen.failures], [10, 0])
    })
  )

  it.effect("nonsense is a typed error that says what is wrong, and changes nothing", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      yield* fail(breaker)
      const good = yield* breaker.snapshot
      for (const [nonsense, problem] of [
        [undefined, "Expected"],
        ["open", "Expected"],
        [{}, "is missing"],
        [{ ...good, state: "ajar" }, "ajar"],
        [{ ...good, failures: -1 }, "failures"],
        [{ ...good, openUntil: "tomorrow" }, "openUntil"],
        [{ ...good, openUntil: null }, "since and until when"],
        [{ ...good, openUntil: 0, openedAt: 5 }, "openUntil is before openedAt"],
        [{ ...good, wouldBe: "closed" }, "state is open and wouldBe closed"],
        [{ ...good, calls: 0 }, "more failures or slow calls than calls"],
        [{ ...good, window: { type: "count", results: "01x" } }, "01x"],
        [{ ...good, window: { type: "time", over: 1, since: 0, buckets: [[1, 2, 0]] } }, "a bucket of its window"]
      ] as const) {
        const error = yield* Effect.flip(breaker.restore(nonsense))
        assert.strictEqual(error._tag, "SnapshotInvalid")
        assert.include(error.message, problem)
        assert.isFalse(error.isRetryable)
      }
      assert.deepStrictEqual(yield* breaker.snapshot, good)
    })
  )
})

describe("reload", () => {
  it.effect("keeps what the window holds where its shape is the same", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: count })
      yield* fail(breaker, 2)
      yield* breaker.reload({ window: { ...count, failureRate: 0.5 }, openFor: "5 seconds" })
      yield* breaker.run(Effect.void)
      yield* fail(breaker)
      assert.deepStrictEqual((yield* Effect.flip(breaker.run(Effect.void))).retryAfter, Duration.seconds(5))
    })
  )

  it.effect("keeps an open circuit open and a probe in its place", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      yield* fail(breaker)
      yield* breaker.reload({ window: count })
      assert.strictEqual(yield* breaker.state, "open")
      yield* TestClock.adjust("30 seconds")
      const gate = yield* Deferred.make<void>()
      const probe = yield* Effect.fork(breaker.run(Deferred.await(gate)))
      yield* Effect.yieldNow()
      yield* breaker.reload({ window: count, halfOpenPermits: 1 })
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breaker.run(Effect.void))))
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(probe)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("a smaller or larger count window takes the newest results", () =>
    Effect.gen(function* () {
      const results = (breaker: CircuitBreaker.CircuitBreaker) =>
        Effect.map(breaker.snapshot, ({ window }) => (window.type === "count" ? window.results : ""))
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { ...count, size: 6 } })
      yield* fail(breaker, 2)
      yield* Effect.repeatN(breaker.run(Effect.void), 1)
      yield* fail(breaker)
      yield* breaker.reload({ window: { ...count, size: 3, failureRate: 1 } })
      assert.strictEqual(yield* results(breaker), "001")
      yield* breaker.reload({ window: { ...count, size: 5, failureRate: 1 } })
      yield* fail(breaker)
      assert.strictEqual(yield* results(breaker), "0011")
    })
  )

  it.effect("a time window of another length or with other buckets starts empty", () =>
    Effect.gen(function* () {
      const window = { type: "time", over: "10 seconds", failureRate: 1, buckets: 5 } as const
      for (const other of [
        { ...window, over: "20 seconds" },
        { ...window, buckets: 10 }
      ] as const) {
        const breaker = yield* CircuitBreaker.make({ name: "x", window })
        yield* fail(breaker, 3)
        const saved = yield* asJson(breaker)
        yield* breaker.reload({ window, openFor: "1 second" })
        assert.strictEqual((yield* breaker.snapshot).failures, 3)
        yield* breaker.reload({ window: other })
        assert.strictEqual((yield* breaker.snapshot).failures, 0)
        yield* breaker.restore(saved)
        assert.strictEqual((yield* breaker.snapshot).failures, 0)
      }
    })
  )

  it.effect("a window of another type starts empty", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 3 } })
      yield* fail(breaker, 2)
      yield* breaker.reload({ window: count })
      assert.strictEqual((yield* breaker.snapshot).calls, 0)
      yield* breaker.reload({ window: { type: "consecutive", failures: 3 } })
      yield* fail(breaker, 2)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )

  it.effect("what is under way lasts no longer from now on than the new settings say", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, openFor: "1 hour" })
      yield* fail(breaker)
      yield* TestClock.adjust("1 minute")
      yield* breaker.reload({ ...once, openFor: "30 seconds", probeLease: "1 hour" })
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.openedAt, seen.openUntil], [0, 90_000])
      // A longer time is for the next opening.
      yield* breaker.reload({ ...once, openFor: "1 hour", probeLease: "1 hour" })
      yield* TestClock.adjust("30 seconds")
      // A probe that hangs in a lease of an hour.
      const hanging = yield* Effect.fork(breaker.run(Effect.never))
      yield* settled
      const ramp = { ...once, rampUp: { over: "1 hour", from: 0.5 } } as const
      yield* breaker.reload({ ...ramp, probeLease: "10 seconds" })
      yield* TestClock.adjust("9 seconds")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breaker.run(Effect.void))))
      yield* TestClock.adjust("1 second")
      yield* breaker.run(Effect.void)
      assert.strictEqual((yield* breaker.snapshot).rampUntil, 3_700_000)
      yield* breaker.reload({ ...once, rampUp: { over: "1 minute", from: 0.5 } })
      assert.strictEqual((yield* breaker.snapshot).rampUntil, 160_000)
      yield* breaker.reload(once)
      const after = yield* breaker.snapshot
      assert.deepStrictEqual([after.state, after.rampUntil, after.openings], ["closed", null, 0])
      yield* Fiber.interrupt(hanging)
      assert.strictEqual((yield* breaker.snapshot).inFlight, 0)
    })
  )

  it.effect("settings that cannot work are a defect, and nothing changes", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      const exit = yield* Effect.exit(breaker.reload({ halfOpenPermits: 0 }))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "open")
    })
  )
})

describe("modes", () => {
  it.effect("metrics-only lets everything pass, keeps the books and says what the state would be", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      const changes = yield* Effect.fork(Stream.runCollect(Stream.interruptAfter(breaker.changes, "1 hour")))
      yield* settled
      yield* breaker.setMode("metrics-only")
      yield* fail(breaker)
      for (let call = 0; call < 3; call++) yield* breaker.run(Effect.void)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual(
        [seen.state, seen.wouldBe, seen.counters.wouldReject, seen.counters.rejected, seen.counters.opened],
        ["closed", "open", 3, 0, 1]
      )
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* breaker.snapshot).wouldBe, "half-open")
      yield* breaker.run(Effect.void)
      assert.strictEqual((yield* breaker.snapshot).wouldBe, "closed")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(changes)), [])
    })
  )

  it.effect("calls that would have been refused have no part in the state", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      yield* breaker.setMode("metrics-only")
      yield* fail(breaker)
      yield* fail(breaker, 5)
      yield* TestClock.adjust("30 seconds")
      // The first is the probe; the second would have been refused.
      const gate = yield* Deferred.make<void>()
      const probe = yield* Effect.fork(breaker.run(Deferred.await(gate)))
      yield* Effect.yieldNow()
      yield* fail(breaker)
      assert.strictEqual((yield* breaker.snapshot).wouldBe, "half-open")
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(probe)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.wouldBe, seen.counters.opened, seen.counters.failures], ["closed", 1, 7])
    })
  )

  it.effect("a change of mode drops what was measured under the one before", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 2 } })
      yield* breaker.setMode("metrics-only")
      yield* fail(breaker)
      yield* breaker.setMode("automatic")
      yield* fail(breaker)
      assert.strictEqual(yield* breaker.state, "closed")
    })
  )
})

describe("changes", () => {
  it.effect("a slow reader loses the oldest and holds nothing up", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, openFor: "1 second" })
      const gate = yield* Deferred.make<void>()
      const reader = yield* breaker.changes.pipe(
        Stream.tap(() => Deferred.await(gate)),
        Stream.take(65),
        Stream.runCollect,
        Effect.fork
      )
      yield* settled
      for (let round = 0; round < 200; round++) {
        yield* fail(breaker)
        yield* TestClock.adjust("1 second")
      }
      yield* Deferred.succeed(gate, undefined)
      const seen = Chunk.toReadonlyArray(yield* Fiber.join(reader))
      assert.strictEqual(seen.at(-1)?.at, 199_000)
      // No gaps among the last ones.
      assert.isTrue(seen.slice(-60).every((each, index, all) => index === 0 || each.from === all[index - 1]?.to))
    })
  )

  it.effect("a reader that goes away is forgotten, and one that fails harms no call", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(once)
      const { listeners } = (breaker as unknown as { readonly machine: { readonly listeners: Set<() => void> } })
        .machine
      const reader = yield* Effect.fork(Stream.runDrain(breaker.changes))
      yield* settled
      assert.strictEqual(listeners.size, 1)
      yield* Fiber.interrupt(reader)
      assert.strictEqual(listeners.size, 0)
      listeners.add(() => {
        throw new Error("a bug")
      })
      let heard = 0
      listeners.add(() => heard++)
      yield* fail(breaker)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.inFlight, heard], ["open", 0, 1])
    })
  )
})

/** Everything that can be reached from a value. */
const reachable = (root: unknown): Set<unknown> => {
  const seen = new Set<unknown>()
  const open: Array<unknown> = [root]
  while (open.length > 0) {
    const next = open.pop()
    if ((typeof next !== "object" && typeof next !== "function") || next === null || seen.has(next)) continue
    seen.add(next)
    if (next instanceof Map) open.push(...next.keys(), ...next.values())
    if (next instanceof Set) open.push(...next)
    for (const key of Reflect.ownKeys(next)) {
      const property = Object.getOwnPropertyDescriptor(next, key)
      if (property !== undefined && "value" in property) open.push(property.value)
    }
  }
  return seen
}

describe("what is kept of a call", () => {
  it.effect(
    "no error, no defect, no value: the breaker cannot leak one caller's request to another (Kevlar #227)",
    () =>
      Effect.gen(function* () {
        for (const window of [
          once.window,
          { type: "count", size: 4, failureRate: 1 },
          { type: "time", over: "1 minute", failureRate: 1, minimumCalls: 1 }
        ] as const) {
          const breaker = yield* CircuitBreaker.make({
            name: "x",
            window,
            retryAfterCap: "1 minute",
            halfOpenPermits: 3
          })
          const secrets = [
            { secret: 1, isRetryable: true, retryAfter: Duration.seconds(50) },
            { secret: 2, isRetryable: true },
            new Error("secret")
          ]
          const calls = [Effect.succeed(secrets[0]), ...secrets.map(Effect.fail), Effect.die(secrets[2])]
          for (let round = 0; round < 3; round++) {
            for (const call of calls) yield* Effect.exit(breaker.run(call))
            yield* TestClock.adjust("1 minute")
          }
          const kept = reachable(breaker)
          assert.isAbove(kept.size, 3)
          for (const secret of secrets) assert.isFalse(kept.has(secret))
        }
      })
  )
})

describe("a stream as a probe", () => {
  // What the pipeline does with a stream, step by step.
  interface Machine {
    readonly acquire: (now: number) => object | number
    readonly progressed: (permit: object, now: number) => object
    readonly settle: (permit: object, outcome: CircuitBreaker.Outcome, now: number) => void
    readonly isCurrent: (permit: object) => boolean
  }
  const machineOf = (breaker: CircuitBreaker.CircuitBreaker) =>
    (breaker as unknown as { readonly machine: Machine }).machine
  const options = {
    name: "x",
    window: { type: "count", size: 1, failureRate: 1 },
    slowCallDuration: "1 second",
    slowCallRate: 1
  } as const

  it.effect("is judged by its first element: a late one opens it again, and the rest changes nothing", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(options)
      yield* fail(breaker)
      yield* TestClock.adjust("30 seconds")
      const machine = machineOf(breaker)
      const permit = machine.acquire(30_000)
      if (typeof permit === "number") return assert.fail("no permit")
      assert.isTrue(machine.isCurrent(permit))
      const rest = machine.progressed(permit, 31_001)
      assert.isFalse(machine.isCurrent(permit))
      yield* TestClock.adjust("2 seconds")
      const open = yield* breaker.snapshot
      assert.deepStrictEqual([open.state, open.inFlight, open.openUntil], ["open", 1, 61_001])
      machine.settle(rest, "failure", 32_000)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.inFlight, seen.counters.stale, seen.openUntil], [0, 1, 61_001])
    })
  )

  it.effect("is one call in the counters, though it is judged before it ends", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...options, slowCallRate: undefined })
      yield* fail(breaker)
      const machine = machineOf(breaker)
      const permit = machine.acquire(30_000)
      if (typeof permit === "number") return assert.fail("no permit")
      const rest = machine.progressed(permit, 31_001)
      machine.settle(permit, "failure", 31_001)
      yield* TestClock.adjust("31001 millis")
      const closed = yield* breaker.snapshot
      assert.deepStrictEqual([closed.state, closed.inFlight, closed.counters.successes], ["closed", 1, 0])
      machine.settle(machine.progressed(rest, 32_000), "success", 40_000)
      const { calls, counters, inFlight } = yield* breaker.snapshot
      assert.deepStrictEqual([counters.successes, counters.failures, counters.slow], [1, 1, 1])
      assert.deepStrictEqual([inFlight, calls], [0, 1])
    })
  )

  it.effect("whose first element comes after another probe has decided has no part in what comes", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ ...once, openFor: "10 seconds", probeLease: "5 seconds" })
      yield* fail(breaker)
      const machine = machineOf(breaker)
      const late = machine.acquire(10_000)
      const other = machine.acquire(15_000)
      if (typeof late === "number" || typeof other === "number") return assert.fail("no permit")
      machine.settle(other, "success", 16_000)
      yield* TestClock.adjust("17 seconds")
      machine.settle(machine.progressed(late, 17_000), "failure", 18_000)
      const seen = yield* breaker.snapshot
      assert.deepStrictEqual([seen.state, seen.inFlight, seen.counters.stale], ["closed", 0, 1])
      assert.deepStrictEqual([seen.counters.failures, seen.counters.leasesLost], [2, 1])
    })
  )

  it.effect("a call that waited since it was let pass asks again only where that has changed", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(options)
      const machine = machineOf(breaker)
      for (const mode of ["automatic", "disabled", "metrics-only"] as const) {
        yield* breaker.setMode(mode)
        const permit = machine.acquire(0)
        if (typeof permit === "number") return assert.fail("no permit")
        assert.isTrue(machine.isCurrent(permit), mode)
        yield* breaker.setMode("forced-open")
        assert.isFalse(machine.isCurrent(permit), mode)
        machine.settle(permit, "neutral", 0)
      }
      yield* breaker.setMode("metrics-only")
      yield* fail(breaker)
      // It would have been refused, and passes.
      const permit = machine.acquire(0)
      if (typeof permit === "number") return assert.fail("no permit")
      assert.isTrue(machine.isCurrent(permit))
    })
  )

  it.effect("nor is a long stream through a closed circuit a slow call, if its first element came in time", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make(options)
      const machine = machineOf(breaker)
      for (const [first, state] of [
        [1_000, "closed"],
        [1_001, "open"]
      ] as const) {
        const permit = machine.acquire(0)
        if (typeof permit === "number") return assert.fail("no permit")
        machine.settle(machine.progressed(permit, first), "success", 3_600_000)
        assert.strictEqual(yield* breaker.state, state)
      }
    })
  )
})
