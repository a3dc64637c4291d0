import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, CircuitBreakers } from "@underlay/core"
import {
  Chunk,
  Deferred,
  Duration,
  Effect,
  Exit,
  FastCheck,
  Fiber,
  Layer,
  Option,
  Runtime,
  Stream,
  TestClock
} from "effect"

const down = Effect.fail({ isRetryable: true })
const once = { window: { type: "consecutive", failures: 1 } } as const
const make = (capacity: number, options?: Partial<CircuitBreakers.Options>) =>
  CircuitBreakers.make({ name: "hosts", capacity, breaker: once, ...options })
const open = (breakers: CircuitBreakers.CircuitBreakers, key: string) => Effect.exit(breakers.run(key, down))
const kept = (breakers: CircuitBreakers.CircuitBreakers) =>
  Effect.map(Stream.runCollect(breakers.snapshots), (all) => Chunk.toReadonlyArray(all).map(([key]) => key))
const settled = Effect.repeatN(Effect.yieldNow(), 20)

describe("CircuitBreakers", () => {
  it.effect("one breaker a key: what opens one leaves the others alone", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10)
      yield* open(breakers, "a")
      const error = yield* Effect.flip(breakers.run("a", Effect.void))
      // Its key is not told, which may be somebody's name.
      assert.deepStrictEqual([error.service, Duration.toMillis(error.retryAfter)], ["hosts", 30_000])
      assert.strictEqual(yield* breakers.run("b", Effect.succeed(1)), 1)
      assert.strictEqual(yield* breakers.get("a"), yield* breakers.get("a"))
      assert.strictEqual(yield* breakers.size, 2)
    })
  )

  it.effect("beyond the capacity the least recently used closed one goes", () =>
    Effect.gen(function* () {
      const breakers = yield* make(3)
      for (const key of ["a", "b", "c"]) yield* breakers.run(key, Effect.void)
      yield* breakers.run("a", Effect.void)
      yield* breakers.get("b")
      yield* breakers.run("d", Effect.void)
      assert.sameMembers(yield* kept(breakers), ["a", "b", "d"])
      assert.deepStrictEqual(yield* breakers.stats, { size: 3, capacity: 3, evicted: 1 })
      assert.isTrue(Option.isNone(yield* breakers.peek("c")))
    })
  )

  it.effect("looking at it is no use of it", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2)
      yield* breakers.run("a", Effect.void)
      yield* breakers.run("b", Effect.void)
      yield* breakers.peek("a")
      yield* breakers.states
      yield* kept(breakers)
      yield* breakers.run("c", Effect.void)
      assert.sameMembers(yield* kept(breakers), ["b", "c"])
    })
  )

  it.effect("open, half-open, forced and busy ones stay; it grows while there are only such, and shrinks again", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2)
      yield* open(breakers, "half-open")
      yield* TestClock.adjust("30 seconds")
      yield* Effect.exit(breakers.run("half-open", Effect.interrupt))
      yield* open(breakers, "open")
      yield* Effect.flatMap(breakers.get("forced"), (breaker) => breaker.setMode("forced-open"))
      const gate = yield* Deferred.make<void>()
      const busy = yield* Effect.fork(breakers.run("busy", Deferred.await(gate)))
      yield* settled
      for (let key = 0; key < 50; key++) yield* breakers.run(`healthy ${key}`, Effect.void)
      assert.sameMembers(yield* kept(breakers), ["half-open", "open", "forced", "busy"])
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(busy)
      // It is needed no more, and there are too many.
      assert.sameMembers(yield* kept(breakers), ["half-open", "open", "forced"])
      yield* breakers.run("half-open", Effect.void)
      assert.sameMembers(yield* kept(breakers), ["open", "forced"])
      yield* Effect.flatMap(breakers.get("forced"), (breaker) => breaker.setMode("automatic"))
      yield* breakers.run("new", Effect.void)
      assert.sameMembers(yield* kept(breakers), ["open", "new"])
    })
  )

  it.effect("a key that failed and is never asked for again is forgotten after its time", () =>
    Effect.gen(function* () {
      const breakers = yield* make(2, { forgetAfter: "10 minutes" })
      yield* open(breakers, "a")
      yield* open(breakers, "b")
      yield* TestClock.adjust("10 minutes")
      yield* open(breakers, "c")
      assert.strictEqual(yield* breakers.size, 3)
      yield* TestClock.adjust("30 seconds")
      yield* open(breakers, "d")
      // Both were there for nothing; "c" is not yet.
      assert.sameMembers(yield* kept(breakers), ["c", "d"])
      const never = yield* make(1, { forgetAfter: false })
      yield* open(never, "a")
      yield* TestClock.adjust("1000 days")
      yield* open(never, "b")
      assert.strictEqual(yield* never.size, 2)
    })
  )

  it.effect("one that is ramping up stays until it has", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1, { breaker: { ...once, rampUp: { over: "10 seconds", from: 0.5 } } })
      yield* open(breakers, "a")
      yield* TestClock.adjust("30 seconds")
      yield* breakers.run("a", Effect.void)
      yield* breakers.run("b", Effect.void)
      assert.include(yield* kept(breakers), "a")
      yield* TestClock.adjust("10 seconds")
      yield* breakers.run("c", Effect.void)
      yield* breakers.run("d", Effect.void)
      assert.notInclude(yield* kept(breakers), "a")
    })
  )

  it.effect("a call in flight is counted by the breaker that it began with, though its key was removed", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10)
      const gate = yield* Deferred.make<void, object>()
      const fiber = yield* Effect.fork(Effect.exit(breakers.run("a", Deferred.await(gate))))
      yield* settled
      assert.isTrue(yield* breakers.remove("a"))
      assert.isFalse(yield* breakers.remove("a"))
      yield* breakers.run("a", Effect.void)
      yield* Deferred.fail(gate, { isRetryable: true })
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* breakers.states, { closed: 1, open: 0, halfOpen: 0 })
    })
  )

  it.effect("a breaker that somebody keeps comes back with its next call", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const breaker = yield* breakers.get("a")
      yield* breakers.run("b", Effect.void)
      assert.deepStrictEqual(yield* kept(breakers), ["b"])
      yield* Effect.exit(breaker.run(down))
      assert.deepStrictEqual(yield* kept(breakers), ["a"])
      assert.strictEqual(yield* breakers.get("a"), breaker)
      // Unless its key has another one, or it was removed.
      yield* breakers.remove("a")
      yield* breaker.reset
      yield* breaker.run(Effect.void)
      assert.deepStrictEqual(yield* kept(breakers), [])
    })
  )

  it.effect("and does what was said meanwhile: other settings, another mode", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const controlled = breakers as unknown as {
        readonly control: (
          said: ReadonlyMap<string, { readonly mode: "forced-open"; until: number }>,
          now: number
        ) => void
      }
      const said = new Map([["hosts", { mode: "forced-open", until: Number.POSITIVE_INFINITY }] as const])
      for (const remove of [false, true]) {
        const letGo = Effect.gen(function* () {
          if (remove) yield* breakers.remove("a")
          yield* breakers.get("b")
          assert.notInclude(yield* kept(breakers), "a")
        })
        const breaker = yield* breakers.get("a")
        yield* letGo
        controlled.control(said, 0)
        // Held open for all, also for whoever is not there.
        assert.strictEqual((yield* Effect.flip(breaker.run(Effect.void)))._tag, "CircuitOpen")
        assert.strictEqual((yield* breakers.stats).size, 1)
        yield* letGo
        controlled.control(new Map(), 0)
        yield* breaker.run(Effect.void)
        yield* letGo
        yield* breakers.reload({ window: { type: "consecutive", failures: 2 } })
        yield* Effect.exit(breaker.run(down))
        assert.strictEqual(yield* breaker.state, "closed")
        yield* breakers.reload(once)
      }
    })
  )

  it.effect("a mode or a snapshot that is given to one that was let go of brings it back", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1)
      const breaker = yield* breakers.get("a")
      yield* open(breakers, "a")
      const snapshot = yield* breaker.snapshot
      yield* breaker.reset
      yield* breakers.get("b")
      yield* breaker.restore(snapshot)
      assert.deepStrictEqual(yield* kept(breakers), ["a"])
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.run("a", Effect.void))))
      yield* breaker.reset
      yield* breakers.get("b")
      assert.deepStrictEqual(yield* kept(breakers), ["b"])
      yield* breaker.setMode("forced-open")
      assert.deepStrictEqual(yield* kept(breakers), ["a"])
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.run("a", Effect.void))))
    })
  )

  it.effect("of one that was removed nobody hears any more", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10)
      const changes = yield* Effect.fork(Stream.runCollect(Stream.take(breakers.changes, 1)))
      yield* settled
      const breaker = yield* breakers.get("a")
      yield* breakers.remove("a")
      yield* Effect.exit(breaker.run(down))
      yield* TestClock.adjust("1 second")
      yield* open(breakers, "a")
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(changes)), [
        { key: "a", from: "closed", to: "open", at: 1_000 }
      ])
    })
  )

  it.effect("shows the states of all, and their changes with the key (Polly #1828)", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10)
      const changes = yield* Effect.fork(Stream.runCollect(Stream.take(breakers.changes, 3)))
      yield* settled
      yield* breakers.run("a", Effect.void)
      yield* open(breakers, "b")
      yield* TestClock.adjust("20 seconds")
      yield* open(breakers, "c")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* breakers.states, { closed: 1, open: 1, halfOpen: 1 })
      const seen = Chunk.toReadonlyArray(yield* Stream.runCollect(breakers.snapshots))
      assert.deepStrictEqual(
        seen.map(([key, { state }]) => [key, state]),
        [
          ["a", "closed"],
          ["b", "half-open"],
          ["c", "open"]
        ]
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(changes)), [
        { key: "b", from: "closed", to: "open", at: 0 },
        { key: "c", from: "closed", to: "open", at: 20_000 },
        { key: "b", from: "open", to: "half-open", at: 30_000 }
      ])
    })
  )

  it.effect("snapshots of a registry start the next one warm", () =>
    Effect.gen(function* () {
      const before = yield* make(10)
      yield* open(before, "a")
      yield* before.run("b", Effect.void)
      const saved = JSON.stringify(Chunk.toReadonlyArray(yield* Stream.runCollect(before.snapshots)))
      yield* TestClock.adjust("10 seconds")
      const breakers = yield* make(10)
      for (const [key, snapshot] of JSON.parse(saved)) yield* breakers.restore(key, snapshot)
      const error = yield* Effect.flip(breakers.run("a", Effect.void))
      assert.strictEqual(Duration.toMillis(error.retryAfter), 20_000)
      assert.strictEqual((yield* Effect.flip(breakers.restore("c", {})))._tag, "SnapshotInvalid")
      assert.strictEqual(yield* breakers.size, 2)
    })
  )

  it.effect("other settings reach those that are there and those to come", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10)
      yield* breakers.run("a", Effect.void)
      yield* breakers.reload({ window: { type: "consecutive", failures: 2 } })
      for (const key of ["a", "b"]) {
        yield* open(breakers, key)
        assert.strictEqual(yield* (yield* breakers.get(key)).state, "closed")
        yield* open(breakers, key)
        assert.strictEqual(yield* (yield* breakers.get(key)).state, "open")
      }
      assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.reload({ openJitter: 3 }))))
    })
  )

  it.effect("settings that cannot work are defects that name the remedy", () =>
    Effect.gen(function* () {
      for (const [options, remedy] of [
        [{ capacity: 0 }, "breakers.capacity is 0"],
        [{ forgetAfter: 0 }, "or false for ever"],
        [{ breaker: { halfOpenPermits: 0 } }, "breaker.halfOpenPermits is 0"]
      ] as const) {
        assert.include(String(yield* Effect.exit(CircuitBreakers.make({ name: "x", ...options }))), remedy)
      }
    })
  )

  class Hosts extends CircuitBreakers.tag("test/Hosts", {
    name: "hosts",
    breaker: once,
    nameOf: (key) => key
  })<Hosts>() {}
  class One extends CircuitBreaker.tag("test/One", { ...once, name: "one" })<One>() {}

  it.effect("as a tag with its layer; named by key where keys are no secret", () =>
    Effect.gen(function* () {
      const breakers = yield* Hosts
      yield* open(breakers, "api.example.com")
      assert.strictEqual((yield* Effect.flip(breakers.run("api.example.com", Effect.void))).service, "api.example.com")
      assert.isTrue(CircuitBreakers.isCircuitBreakers(breakers))
      assert.isFalse(CircuitBreakers.isCircuitBreakers(yield* One))
      assert.isTrue(CircuitBreaker.isCircuitBreaker(yield* One))
    }).pipe(Effect.provide(Layer.merge(Hosts.layer, One.layer)))
  )
})

describe("a registry of 100,000 keys", () => {
  it.live(
    "is bounded, and keeps every open one",
    () =>
      Effect.gen(function* () {
        const breakers = yield* CircuitBreakers.make({ name: "hosts", breaker: { ...once, openFor: "1 hour" } })
        for (let key = 0; key < 1_000; key++) yield* open(breakers, `open ${key}`)
        for (let key = 0; key < 150_000; key++) yield* breakers.run(`key ${key}`, Effect.void)
        assert.deepStrictEqual(yield* breakers.stats, { size: 100_000, capacity: 100_000, evicted: 51_000 })
        assert.deepStrictEqual(yield* breakers.states, { closed: 99_000, open: 1_000, halfOpen: 0 })
        for (let key = 0; key < 1_000; key++) {
          assert.isTrue(Exit.isFailure(yield* Effect.exit(breakers.run(`open ${key}`, Effect.void))))
        }
        // The newest of the closed ones are there.
        assert.isTrue(Option.isSome(yield* breakers.peek("key 149999")))
        assert.isTrue(Option.isSome(yield* breakers.peek("key 51000")))
        assert.isTrue(Option.isNone(yield* breakers.peek("key 50999")))
      }),
    60_000
  )

  it.effect("far more than its capacity were open: a new key lets go of a few of them, not of all at once", () =>
    Effect.gen(function* () {
      const breakers = yield* make(10, { forgetAfter: "10 minutes" })
      for (let key = 0; key < 1_000; key++) yield* open(breakers, `open ${key}`)
      yield* TestClock.adjust("1 hour")
      let before = yield* breakers.size
      assert.strictEqual(before, 1_000)
      for (let key = 0; key < 500; key++) {
        yield* breakers.run(`new ${key}`, Effect.void)
        const size = yield* breakers.size
        assert.isAtLeast(size, before - 4)
        before = size
      }
      assert.strictEqual(before, 10)
    })
  )

  it.effect("full of open ones, new keys are served and let go of again", () =>
    Effect.gen(function* () {
      const breakers = yield* make(1_000)
      for (let key = 0; key < 1_000; key++) yield* open(breakers, `open ${key}`)
      for (let key = 0; key < 5_000; key++) {
        yield* breakers.run(`healthy ${key}`, Effect.void)
        assert.isAtMost(yield* breakers.size, 1_001)
      }
      assert.deepStrictEqual(yield* breakers.states, { closed: 0, open: 1_000, halfOpen: 0 })
    })
  )
})

describe("CircuitBreakers, whatever is done to it", () => {
  type Step = {
    readonly do: "run" | "fail" | "hang" | "end" | "get" | "remove" | "force" | "free" | "wait"
    readonly key: number
  }

  it.effect(
    "never evicts what it must not, and is never larger than it must be",
    () =>
      Effect.flatMap(Effect.runtime<never>(), (runtime) =>
        Effect.promise(() =>
          FastCheck.assert(
            FastCheck.asyncProperty(
              FastCheck.array(
                FastCheck.record({
                  do: FastCheck.constantFrom<Array<Step["do"]>>(
                    "run",
                    "run",
                    "get",
                    "fail",
                    "hang",
                    "end",
                    "remove",
                    "force",
                    "free",
                    "wait"
                  ),
                  key: FastCheck.nat(9)
                }),
                { minLength: 20, maxLength: 80, size: "max" }
              ),
              (steps: ReadonlyArray<Step>) => Runtime.runPromise(runtime)(play(steps))
            ),
            { numRuns: 20 }
          )
        )
      ),
    60_000
  )

  const play = (steps: ReadonlyArray<Step>) =>
    Effect.gen(function* () {
      const capacity = 4
      let troubled: ReadonlySet<string> = new Set()
      const breakers = yield* make(capacity, { breaker: { ...once, openFor: 100 }, forgetAfter: false })
      const hanging: Array<readonly [string, Deferred.Deferred<void>, Fiber.RuntimeFiber<unknown, unknown>]> = []
      for (const { do: what, key: number } of steps) {
        const key = `key ${number}`
        let touched = key
        switch (what) {
          case "run":
            yield* Effect.exit(breakers.run(key, Effect.void))
            break
          case "fail":
            yield* open(breakers, key)
            break
          case "get":
            yield* breakers.get(key)
            break
          case "hang": {
            const gate = yield* Deferred.make<void>()
            const fiber = yield* Effect.fork(Effect.exit(breakers.run(key, Deferred.await(gate))))
            yield* Effect.yieldNow()
            if (fiber.unsafePoll() === null) hanging.push([key, gate, fiber])
            break
          }
          case "end": {
            const call = hanging.shift()
            if (call === undefined) break
            touched = call[0]
            yield* Deferred.succeed(call[1], undefined)
            yield* Fiber.await(call[2])
            break
          }
          case "remove":
            // Only what nobody calls, so that what is checked below stays simple.
            if (!hanging.some(([busy]) => busy === key)) yield* breakers.remove(key)
            break
          case "force":
          case "free": {
            const breaker = yield* breakers.get(key)
            yield* breaker.setMode(what === "force" ? "forced-open" : "automatic")
            break
          }
          case "wait":
            yield* TestClock.adjust(60)
            break
        }
        const seen = new Map(yield* Stream.runCollect(breakers.snapshots))
        for (const [busy] of hanging) assert.isTrue(seen.has(busy), `${busy} has a call under way`)
        const needed = [...seen.values()].filter(
          (each) => each.inFlight > 0 || each.mode !== "automatic" || each.wouldBe !== "closed"
        ).length
        assert.isAtMost(seen.size, Math.max(capacity, needed + 1))
        for (const each of troubled) if (each !== touched) assert.isTrue(seen.has(each), `${each} was open or forced`)
        troubled = new Set(
          [...seen].filter(([, each]) => each.mode !== "automatic" || each.wouldBe !== "closed").map(([each]) => each)
        )
      }
      yield* Fiber.interruptAll(hanging.map(([, , fiber]) => fiber))
    })
})
