import { assert, describe, it } from "@effect/vitest"
import { Correlation, EventBus } from "@underlay/core"
import { EventBusSuite, Recording, Suite } from "@underlay/core/testing"
import {
  Chunk,
  Clock,
  Deferred,
  Effect,
  Exit,
  FastCheck,
  Fiber,
  Option,
  ParseResult,
  Schema,
  Scope,
  Stream,
  TestClock,
  TestContext
} from "effect"
import * as Memory from "../../src/internal/events/memory.ts"

const Event = Schema.Struct({ n: Schema.Number })
const topic = (options: Partial<EventBus.TopicOptions<{ n: number }, { n: number }>> = {}) =>
  EventBus.topic({ name: "numbers", schema: Event, partitions: 2, ...options })

/** Lets all fibers go as far as they can without time. */
const settle = Effect.repeatN(Effect.yieldNow(), 200)

const unavailable = (method: string, outcome: "not-done" | "unknown" = "unknown") =>
  new EventBus.EventBusError({ reason: "Unavailable", method, description: "away", outcome, repeatable: true })

/** A store that can be taken away from one of its users, and an observer of what is asked of it. */
const faulty = (backend: EventBus.Backend) => {
  const state = { away: false, asked: [] as Array<string> }
  const guard =
    <Args extends ReadonlyArray<unknown>, A, R>(
      method: string,
      f: (...args: Args) => Effect.Effect<A, EventBus.EventBusError, R>
    ) =>
    (...args: Args): Effect.Effect<A, EventBus.EventBusError, R> =>
      Effect.suspend(() => {
        state.asked.push(method)
        return state.away ? Effect.fail(unavailable(method)) : f(...args)
      })
  const wrapped: EventBus.Backend = {
    declare: guard("declare", backend.declare),
    append: guard("append", backend.append),
    open: guard("open", backend.open),
    beat: guard("beat", backend.beat),
    acquire: guard("acquire", backend.acquire),
    release: guard("release", backend.release),
    leave: guard("leave", backend.leave),
    adopt: guard("adopt", backend.adopt),
    read: guard("read", backend.read),
    begin: guard("begin", backend.begin),
    acknowledge: guard("acknowledge", backend.acknowledge),
    bury: guard("bury", backend.bury),
    range: guard("range", backend.range),
    ends: guard("ends", backend.ends),
    letters: guard("letters", backend.letters),
    replay: guard("replay", backend.replay),
    drop: guard("drop", backend.drop),
    seek: guard("seek", backend.seek),
    groups: guard("groups", backend.groups),
    stats: guard("stats", backend.stats),
    removeGroup: guard("removeGroup", backend.removeGroup),
    trim: guard("trim", backend.trim),
    bell: guard("bell", backend.bell)
  }
  return { backend: wrapped, state }
}

/** Two programs on one store: the first can lose it. */
const two = () => {
  const store = Memory.backend()
  const first = faulty(store)
  return { store, first: EventBus.make(first.backend), state: first.state, second: EventBus.make(store) }
}

const recorder = <A>() => {
  const seen: Array<EventBus.Message<A>> = []
  return { seen, handler: (message: EventBus.Message<A>) => Effect.sync(() => void seen.push(message)) }
}

describe("EventBus in memory", () => {
  const suite = EventBusSuite.make({ advance: TestClock.adjust, settle: Effect.yieldNow() })
  for (const one of Suite.applicable(suite, [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(EventBus.layerMemory)))
  }

  it.effect("the suite finds a bus that forgets its order, and one that hands out twice", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      // reads the newest first, and never says that anything was done
      const wrong: EventBus.Backend = {
        ...store,
        read: (...args) =>
          Effect.map(store.read(...args), (result) =>
            typeof result === "object" ? { value: [...result.value].reverse() } : result
          ),
        acknowledge: () => Effect.void
      }
      const names = [
        "an event is handed to every group once, with all that was published with it",
        "events of one key come in the order of their publication, whatever their handlers take",
        "an event is published once for each id"
      ]
      const some = { ...suite, cases: suite.cases.filter(({ name }) => names.includes(name)) }
      const results = yield* Suite.run(some, []).pipe(Effect.provideService(EventBus.EventBus, EventBus.make(wrong)))
      const failed = results.filter(({ outcome }) => outcome === "failed").map(({ name }) => name)
      assert.deepStrictEqual([...failed].sort(), names.slice(0, 2))
    })
  )
})

describe("a consumer", () => {
  it.scoped("whose program has crashed: what it had is claimed after a while, and nothing is lost", () =>
    Effect.gen(function* () {
      const { first, second, state } = two()
      const begun: Array<number> = []
      yield* first.subscribe(topic(), { group: "g", consumer: "first", concurrency: 1 })(({ event }) =>
        Effect.zipRight(
          Effect.sync(() => begun.push(event.n)),
          Effect.never
        )
      )
      for (let n = 1; n <= 5; n++) yield* second.publish(topic(), { n }, { key: "k" })
      yield* settle
      assert.deepStrictEqual(begun, [1])
      state.away = true

      const { handler, seen } = recorder<{ n: number }>()
      const taker = yield* second.subscribe(topic(), { group: "g", consumer: "second" })(handler)
      yield* TestClock.adjust("29 seconds")
      yield* settle
      assert.deepStrictEqual((yield* taker.stats).partitions, [])
      assert.deepStrictEqual(seen, [])
      yield* TestClock.adjust("5 seconds")
      yield* settle
      assert.deepStrictEqual(
        seen.map(({ event }) => event.n),
        [1, 2, 3, 4, 5]
      )
      // each was in the hands of the first, begun or not: that counts once
      assert.deepStrictEqual([...new Set(seen.map(({ deliveries }) => deliveries))], [2])
      assert.strictEqual((yield* taker.stats).claimed, 5)
      assert.strictEqual((yield* second.stats(topic(), "g")).pending, 0)
    })
  )

  it.scoped("that cannot say that it lives begins nothing more, and its handlers are interrupted in time", () =>
    Effect.gen(function* () {
      const { first, second, state } = two()
      const interruptedAt = yield* Deferred.make<number>()
      const begun: Array<number> = []
      const consumer = yield* first.subscribe(topic(), { group: "g", concurrency: 1, claimAfter: "10 seconds" })(
        ({ event }) =>
          Effect.zipRight(
            Effect.sync(() => begun.push(event.n)),
            Effect.onInterrupt(Effect.never, () =>
              Effect.flatMap(
                Effect.clockWith(({ currentTimeMillis }) => currentTimeMillis),
                (now) => Deferred.succeed(interruptedAt, now)
              )
            )
          )
      )
      yield* second.publish(topic(), { n: 1 }, { key: "k" })
      yield* second.publish(topic(), { n: 2 }, { key: "k" })
      yield* settle
      state.away = true
      yield* TestClock.adjust("9 seconds")
      assert.isFalse(yield* Deferred.isDone(interruptedAt))
      assert.strictEqual((yield* consumer.stats).running, 1)
      yield* TestClock.adjust("1 seconds")
      yield* settle
      // the lease was prolonged last at 0 seconds
      assert.strictEqual(yield* Deferred.await(interruptedAt), 10_000)
      assert.deepStrictEqual(begun, [1])
      const stats = yield* consumer.stats
      assert.deepStrictEqual([stats.lost, stats.running, stats.partitions], [2, 0, []])
      assert.isTrue(Option.isSome(stats.lastStoreError))
      // it is there again when the store is
      state.away = false
      yield* TestClock.adjust("2 seconds")
      yield* settle
      assert.deepStrictEqual(begun, [1, 1])
    })
  )

  it.scoped("that was stopped for longer than its lease begins nothing, though no timer has told it yet", () =>
    Effect.gen(function* () {
      const { first, second } = two()
      const begun: Array<number> = []
      const gate = yield* Deferred.make<void>()
      // the monotonic clock of a process that was stopped: it has gone on, and the timers have not fired
      const clock = yield* Effect.clock
      let stopped = 0n
      const late: Clock.Clock = {
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        currentTimeMillis: clock.currentTimeMillis,
        unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
        currentTimeNanos: Effect.map(clock.currentTimeNanos, (nanos) => nanos + stopped),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos() + stopped,
        sleep: (duration) => clock.sleep(duration)
      }
      const consumer = yield* first
        .subscribe(topic(), { group: "g", concurrency: 1, claimAfter: "5 seconds" })(({ event }) =>
          Effect.zipRight(
            Effect.sync(() => begun.push(event.n)),
            Deferred.await(gate)
          )
        )
        .pipe(Effect.withClock(late))
      for (let n = 1; n <= 3; n++) yield* second.publish(topic(), { n }, { key: "k" })
      yield* settle
      assert.deepStrictEqual(begun, [1])
      stopped = 5_000_000_000n
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(begun, [1])
      // the first timer finds that the lease is over, and it is taken anew
      yield* TestClock.adjust("6 seconds")
      yield* settle
      assert.deepStrictEqual(begun, [1, 2, 3])
      assert.isAtLeast((yield* consumer.stats).lost, 1)
    })
  )

  it.scoped("an event that kills whoever handles it becomes a dead letter, and those behind it are handled", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const bus = EventBus.make(store)
      const begun: Array<string> = []
      for (let n = 1; n <= 3; n++) yield* bus.publish(topic(), { n }, { key: n === 2 ? "poison" : "k" })
      // three programs one after another, each of which goes down with the event
      for (const name of ["one", "two", "three"]) {
        const crashing = faulty(store)
        const scope = yield* Scope.make()
        yield* Scope.extend(
          EventBus.make(crashing.backend).subscribe(topic(), { group: "g", consumer: name, maxDeliveries: 3 })(
            ({ deliveries, event }) =>
              Effect.suspend(() => {
                begun.push(`${name} ${event.n} ${deliveries}`)
                if (event.n !== 2) return Effect.void
                return Effect.flatMap(settle, () => {
                  crashing.state.away = true
                  return Effect.never
                })
              })
          ),
          scope
        )
        yield* settle
        yield* TestClock.adjust("31 seconds")
        yield* Scope.close(scope, Exit.void)
      }
      const { handler, seen } = recorder()
      yield* bus.subscribe(topic(), { group: "g", consumer: "last", maxDeliveries: 3 })(handler)
      yield* TestClock.adjust("40 seconds")
      yield* settle
      assert.deepStrictEqual(
        begun.filter((one) => one.includes(" 2 ")),
        ["one 2 1", "two 2 2", "three 2 3"]
      )
      const letters = yield* bus.deadLetters(topic(), "g").read()
      assert.deepStrictEqual(
        letters.map(({ deliveries, event, reason }) => [Option.getOrThrow(event).n, reason, deliveries]),
        [[2, "Abandoned", 3]]
      )
      const handled = new Set(
        [...begun, ...seen.map(({ event }) => `x ${(event as { n: number }).n} y`)].map((one) => one.split(" ")[1])
      )
      assert.isTrue(handled.has("1") && handled.has("3"))
      assert.strictEqual((yield* bus.stats(topic(), "g")).pending, 0)
    })
  )

  it.scoped("a read whose answer was lost: what it took is found again, in order", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      let lose = 0
      const bus = EventBus.make({
        ...store,
        read: (...args) =>
          Effect.flatMap(store.read(...args), (result) =>
            lose-- > 0 ? Effect.fail(unavailable("read")) : Effect.succeed(result)
          )
      })
      const { handler, seen } = recorder<{ n: number }>()
      const consumer = yield* bus.subscribe(topic({ partitions: 1 }), { group: "g", prefetch: 3 })(handler)
      yield* settle
      lose = 3
      for (let n = 1; n <= 20; n++) yield* bus.publish(topic({ partitions: 1 }), { n }, { key: "k" })
      for (let round = 0; round < 10; round++) yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      assert.deepStrictEqual(
        seen.map(({ event }) => event.n),
        Array.from({ length: 20 }, (_, index) => index + 1)
      )
      assert.strictEqual((yield* consumer.stats).storeErrors, 3)
      assert.strictEqual((yield* bus.stats(topic({ partitions: 1 }), "g")).pending, 0)
    })
  )

  it.scoped("what a read has taken whose answer never came was not handed out: no delivery is counted", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const one = topic({ partitions: 1 })
      const second = EventBus.make(store)
      let lost: Effect.Effect<never, EventBus.EventBusError> | undefined
      const first = EventBus.make({
        ...store,
        read: (...args) =>
          Effect.flatMap(store.read(...args), (result) => {
            const answer = lost
            lost = undefined
            return answer === undefined ? Effect.succeed(result) : answer
          })
      })
      const { handler, seen } = recorder<{ n: number }>()
      const subscribe = (bus: EventBus.Service, scope: Scope.Scope) =>
        Scope.extend(
          bus.subscribe(one, { group: "g", maxDeliveries: 2, retryDelay: "1 minute" })((message) =>
            Effect.zipRight(
              handler(message),
              message.event.n === 1 && message.deliveries === 1 ? Effect.fail("no") : Effect.void
            )
          ),
          scope
        )
      const scope = yield* Scope.make()
      yield* subscribe(first, scope)
      yield* second.publish(one, { n: 1 }, { key: "k" })
      yield* settle
      // by the same consumer, when it looks again
      lost = Effect.fail(unavailable("read"))
      yield* second.publish(one, { n: 2 }, { key: "l" })
      yield* settle
      assert.isUndefined(lost)
      yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      // by the next one, when this one ends meanwhile
      lost = Effect.never
      yield* second.publish(one, { n: 3 }, { key: "m" })
      yield* second.publish(one, { n: 4 }, { key: "m" })
      yield* settle
      assert.isUndefined(lost)
      yield* Scope.close(scope, Exit.void)
      yield* subscribe(second, yield* Effect.scope)
      yield* settle
      assert.deepStrictEqual(
        seen.map(({ deliveries, event }) => [event.n, deliveries]),
        [
          [1, 1],
          [2, 1],
          [1, 2],
          [3, 1],
          [4, 1]
        ]
      )
    })
  )

  it.scoped("acknowledgements that fail are made again; nothing is handled twice meanwhile", () =>
    Effect.gen(function* () {
      const { first, second, state } = two()
      const { handler, seen } = recorder()
      yield* first.subscribe(topic(), { group: "g", maxUnsettled: 4 })((message) =>
        Effect.zipRight(
          Effect.sync(() => {
            state.away = true
          }),
          handler(message)
        )
      )
      for (let n = 1; n <= 10; n++) yield* second.publish(topic(), { n }, { key: "k" })
      yield* settle
      // no more than may be unsettled is taken while nothing can be acknowledged
      assert.strictEqual(seen.length, 4)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* second.stats(topic(), "g")).pending, 4)
      for (let round = 0; round < 40; round++) {
        state.away = false
        yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      }
      assert.strictEqual(seen.length, 10)
      assert.strictEqual((yield* second.stats(topic(), "g")).pending, 0)
    })
  )

  it.scoped("a group that is removed under its consumers is made again", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const bus = EventBus.make(store)
      const { handler, seen } = recorder<{ n: number }>()
      yield* bus.subscribe(topic({ partitions: 1 }), { group: "g" })(handler)
      yield* bus.publish(topic({ partitions: 1 }), { n: 1 })
      yield* settle
      yield* bus.removeGroup(topic({ partitions: 1 }), "g")
      yield* bus.publish(topic({ partitions: 1 }), { n: 2 })
      yield* Effect.zipRight(TestClock.adjust("2 seconds"), settle)
      assert.deepStrictEqual(
        seen.map(({ event }) => event.n),
        [1, 2]
      )
    })
  )

  it.scoped("a subscription that fails half way leaves nothing behind", () =>
    Effect.gen(function* () {
      const { backend, state } = faulty(Memory.backend())
      const bus = EventBus.make({ ...backend, beat: () => Effect.fail(unavailable("beat")) })
      const error = yield* Effect.flip(bus.subscribe(topic(), { group: "g" })(() => Effect.void))
      assert.strictEqual(error.reason, "Unavailable")
      assert.deepStrictEqual(state.asked.slice(-2), ["bell", "leave"])
    })
  )

  it.scoped("a schema or a delay that throws stops nothing", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const throwing = EventBus.topic({
        name: "throwing",
        partitions: 1,
        schema: Schema.transformOrFail(Schema.Number, Schema.Number, {
          decode: (n) => {
            if (n === 13) throw new Error("a bug")
            return ParseResult.succeed(n)
          },
          encode: ParseResult.succeed
        })
      })
      const seen: Array<string> = []
      yield* bus.subscribe(throwing, {
        group: "g",
        maxDeliveries: 2,
        retryDelay: () => {
          throw new Error("a bug")
        }
      })(({ deliveries, event }) => {
        seen.push(`${event} ${deliveries}`)
        return event === 1 ? Effect.fail("no") : Effect.void
      })
      for (const n of [13, 1, 2]) yield* bus.publish(throwing, n, { key: "k" })
      yield* settle
      yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      assert.deepStrictEqual(seen, ["1 1", "1 2", "2 1"])
      const letters = yield* bus.deadLetters(throwing, "g").read()
      assert.deepStrictEqual(
        letters.map(({ data, reason }) => [data, reason]),
        [
          ["13", "Undecodable"],
          ["1", "Failed"]
        ]
      )
    })
  )

  it.scoped("handlers have nothing of the call in which they were subscribed", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const seen: Array<unknown> = []
      yield* bus
        .subscribe(topic(), { group: "g" })(() =>
          Effect.flatMap(Correlation.Current, (current) => Effect.sync(() => seen.push(current)))
        )
        .pipe(Correlation.within("the-call-of-the-subscriber"))
      yield* bus.publish(topic(), { n: 1 })
      yield* settle
      assert.strictEqual(seen.length, 1)
      assert.notInclude(JSON.stringify(seen), "the-call-of-the-subscriber")
    })
  )

  it.scoped("a handler that outlives its interruption keeps others from the same key, here too", () =>
    Effect.gen(function* () {
      const { first, second, state } = two()
      const gate = yield* Deferred.make<void>()
      const log: Array<string> = []
      yield* first.subscribe(topic({ partitions: 1 }), { group: "g", claimAfter: "10 seconds" })(({ event }) =>
        Effect.gen(function* () {
          log.push(`begin ${event.n}`)
          yield* Effect.uninterruptible(Effect.map(Deferred.await(gate), () => log.push(`end ${event.n}`)))
        })
      )
      yield* second.publish(topic({ partitions: 1 }), { n: 1 }, { key: "k" })
      yield* settle
      state.away = true
      yield* Effect.zipRight(TestClock.adjust("15 seconds"), settle)
      state.away = false
      yield* Effect.zipRight(TestClock.adjust("15 seconds"), settle)
      // the lease is free again, but the handler still runs
      assert.deepStrictEqual(log, ["begin 1"])
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.zipRight(TestClock.adjust("15 seconds"), settle)
      assert.strictEqual((yield* second.stats(topic({ partitions: 1 }), "g")).pending, 0)
      for (let index = 0; index + 1 < log.length; index += 2) {
        assert.deepStrictEqual([log[index]?.slice(0, 5), log[index + 1]?.slice(0, 3)], ["begin", "end"])
      }
    })
  )

  it.scoped("whose lease ran out before it heard that it was prolonged: nothing of a key is left behind", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const begun: Array<number> = []
      const gate = yield* Deferred.make<void>()
      const answer = yield* Deferred.make<void>()
      let isSlow = false
      // a process that was stopped with the answer already under way: clock and answer are there before any timer
      const clock = yield* Effect.clock
      let stopped = 0n
      const late: Clock.Clock = {
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        currentTimeMillis: clock.currentTimeMillis,
        unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
        currentTimeNanos: Effect.map(clock.currentTimeNanos, (nanos) => nanos + stopped),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos() + stopped,
        sleep: (duration) => clock.sleep(duration)
      }
      const consumer = yield* EventBus.make({
        ...store,
        beat: (...args) =>
          Effect.flatMap(store.beat(...args), (beat) =>
            isSlow ? Effect.as(Deferred.await(answer), beat) : Effect.succeed(beat)
          )
      })
        .subscribe(topic({ partitions: 1 }), { group: "g", claimAfter: "5 seconds" })(({ event }) =>
          Effect.zipRight(
            Effect.sync(() => begun.push(event.n)),
            Deferred.await(gate)
          )
        )
        .pipe(Effect.withClock(late))
      const second = EventBus.make(store)
      for (let n = 1; n <= 3; n++) yield* second.publish(topic({ partitions: 1 }), { n }, { key: "k" })
      yield* settle
      isSlow = true
      yield* TestClock.adjust("500 millis")
      stopped = 4_700_000_000n
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(begun, [1])
      isSlow = false
      yield* Deferred.succeed(answer, undefined)
      yield* settle
      // another one comes, so that the first looks around at once
      const { handler, seen } = recorder<{ n: number }>()
      yield* second.subscribe(topic({ partitions: 1 }), { group: "g" })(handler)
      for (let round = 0; round < 20; round++) yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      assert.deepStrictEqual([...begun, ...seen.map(({ event }) => event.n)], [1, 2, 3])
      assert.isAtLeast((yield* consumer.stats).lost, 1)
    })
  )

  it.scoped("that ends before it was told that a delivery is counted: what was not begun does not count", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const asked = yield* Deferred.make<void>()
      const first = EventBus.make({
        ...store,
        begin: (...args) =>
          Effect.zipRight(store.begin(...args), Effect.zipRight(Deferred.succeed(asked, undefined), Effect.never))
      })
      const one = topic({ partitions: 1 })
      const scope = yield* Scope.make()
      yield* Scope.extend(
        first.subscribe(one, { group: "g", retryDelay: "1 second" })(() => Effect.fail("no")),
        scope
      )
      yield* first.publish(one, { n: 1 })
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* Deferred.await(asked)
      yield* Scope.close(scope, Exit.void)
      const { handler, seen } = recorder()
      yield* EventBus.make(store).subscribe(one, { group: "g" })(handler)
      yield* settle
      assert.deepStrictEqual(
        seen.map(({ deliveries }) => deliveries),
        [2]
      )
    })
  )

  it.scoped("a group that is removed under several consumers: none of them gets again what it has done", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const seen: Array<number> = []
      const handler = ({ event }: EventBus.Message<{ n: number }>) => Effect.sync(() => void seen.push(event.n))
      for (const consumer of ["one", "two"]) yield* bus.subscribe(topic(), { group: "g", consumer })(handler)
      yield* Effect.zipRight(TestClock.adjust("5 seconds"), settle)
      for (let n = 1; n <= 6; n++) yield* bus.publish(topic(), { n }, { key: `${n}` })
      yield* settle
      assert.strictEqual(seen.length, 6)
      yield* bus.removeGroup(topic(), "g")
      for (let n = 7; n <= 12; n++) yield* bus.publish(topic(), { n }, { key: `${n}` })
      for (let round = 0; round < 8; round++) yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      assert.deepStrictEqual(
        [...seen].sort((one, other) => one - other),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
      )
    })
  )

  it.scoped("a group that began at the end and is removed under its consumer: what came before stays before", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      for (let n = 1; n <= 6; n++) yield* bus.publish(topic(), { n })
      const { handler, seen } = recorder<{ n: number }>()
      yield* bus.subscribe(topic(), { group: "g", from: "end" })(handler)
      yield* settle
      yield* bus.removeGroup(topic(), "g")
      for (let n = 7; n <= 12; n++) yield* bus.publish(topic(), { n })
      for (let round = 0; round < 8; round++) yield* Effect.zipRight(TestClock.adjust("1 second"), settle)
      assert.deepStrictEqual(
        seen.map(({ event }) => event.n).sort((one, other) => one - other),
        [7, 8, 9, 10, 11, 12]
      )
    })
  )

  it.scoped("an error that cannot be shown is a failure like any other", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const one = topic({ partitions: 1 })
      const error = new Error("never shown")
      Object.defineProperty(error, "message", {
        get: () => {
          throw new Error("a bug")
        }
      })
      const seen: Array<number> = []
      yield* bus.subscribe(one, { group: "g", maxDeliveries: 1 })(({ event }) => {
        seen.push(event.n)
        return event.n === 1 ? Effect.fail(error) : Effect.void
      })
      yield* bus.publish(one, { n: 1 }, { key: "k" })
      yield* bus.publish(one, { n: 2 }, { key: "k" })
      yield* settle
      assert.deepStrictEqual(seen, [1, 2])
      const letters = yield* bus.deadLetters(one, "g").read()
      assert.deepStrictEqual(
        letters.map(({ description, reason }) => [description, reason]),
        [["the handler failed", "Failed"]]
      )
    })
  )

  it.effect(
    "law: whatever fails, every event is handled or dead, and no key is out of order",
    () =>
      Effect.promise(() =>
        FastCheck.assert(
          FastCheck.asyncProperty(
            FastCheck.array(
              FastCheck.record({
                key: FastCheck.constantFrom("a", "b", "c", undefined),
                failures: FastCheck.constantFrom(0, 0, 0, 1, 2, 5)
              }),
              { maxLength: 40 }
            ),
            FastCheck.record({
              partitions: FastCheck.integer({ min: 1, max: 4 }),
              concurrency: FastCheck.integer({ min: 1, max: 5 }),
              prefetch: FastCheck.integer({ min: 1, max: 7 }),
              maxUnsettled: FastCheck.integer({ min: 1, max: 20 }),
              maxDeliveries: FastCheck.integer({ min: 1, max: 4 }),
              consumers: FastCheck.integer({ min: 1, max: 2 }),
              away: FastCheck.array(FastCheck.boolean(), { maxLength: 4 })
            }),
            (events, options) =>
              Effect.runPromise(
                Effect.gen(function* () {
                  const { first, second, state } = two()
                  const named = topic({ partitions: options.partitions })
                  const first_: Array<string> = []
                  const handled = new Map<number, number>()
                  for (const bus of [first, second].slice(0, options.consumers)) {
                    yield* bus.subscribe(named, {
                      group: "g",
                      retryDelay: "1 second",
                      pollInterval: "20 seconds",
                      ...options
                    })((message) =>
                      Effect.gen(function* () {
                        yield* Effect.yieldNow()
                        const { n } = message.event
                        const failures = events[n]?.failures ?? 0
                        if (message.deliveries <= failures) return yield* Effect.fail("no")
                        if (!handled.has(n)) first_.push(`${message.key} ${n}`)
                        handled.set(n, (handled.get(n) ?? 0) + 1)
                      })
                    )
                  }
                  for (const [n, { key }] of events.entries()) yield* second.publish(named, { n }, { key })
                  for (const away of options.away) {
                    state.away = away
                    yield* Effect.zipRight(TestClock.adjust("16 seconds"), settle)
                  }
                  state.away = false
                  const standing = Effect.map(second.stats(named, "g"), ({ lag, pending }) => lag + pending)
                  for (let round = 0; round < 8 && (yield* standing) > 0; round++) {
                    yield* Effect.zipRight(TestClock.adjust("10 seconds"), settle)
                  }
                  const dead = new Set(
                    (yield* second.deadLetters(named, "g").read()).map(({ event }) => Option.getOrThrow(event).n)
                  )
                  const { lag, pending } = yield* second.stats(named, "g")
                  assert.deepStrictEqual([lag, pending], [0, 0])
                  for (const n of events.keys()) assert.isTrue(handled.has(n) || dead.has(n), `event ${n}`)
                  for (const key of ["a", "b", "c"]) {
                    const numbers = first_
                      .filter((one) => one.startsWith(`${key} `))
                      .map((one) => Number(one.split(" ")[1]))
                    assert.deepStrictEqual(
                      numbers,
                      [...numbers].sort((one, other) => one - other)
                    )
                  }
                }).pipe(Effect.scoped, Effect.provide(TestContext.TestContext))
              )
          ),
          { numRuns: process.env["UNDERLAY_NIGHTLY"] === "1" ? 200 : 6 }
        )
      ),
    process.env["UNDERLAY_NIGHTLY"] === "1" ? 600_000 : 60_000
  )
})

describe("publishing", () => {
  it.effect("an error says whether publishing again can double the event", () =>
    Effect.gen(function* () {
      const { first, state } = two()
      yield* first.publish(topic(), { n: 1 })
      state.away = true
      const once = yield* Effect.flip(first.publish(topic(), { n: 2 }))
      const named = yield* Effect.flip(first.publish(topic(), { n: 2 }, { id: "two" }))
      const several = yield* Effect.flip(
        first.publishAll(topic(), [{ event: { n: 2 }, id: "two" }, { event: { n: 3 } }])
      )
      assert.deepStrictEqual(
        [once, named, several].map(({ isRetryable, method, outcome }) => [method, outcome, isRetryable]),
        [
          ["publish", "unknown", false],
          ["publish", "unknown", true],
          ["publishAll", "unknown", false]
        ]
      )
      // a topic that was not asked for yet: nothing has been published for certain
      const fresh = yield* Effect.flip(first.publish(topic({ name: "fresh" }), { n: 1 }))
      assert.deepStrictEqual([fresh.outcome, fresh.isRetryable], ["not-done", true])
    })
  )

  it.effect("what was done of several steps makes the outcome of the others unknown", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      let left = Number.POSITIVE_INFINITY
      const limited = <A>(effect: Effect.Effect<A, EventBus.EventBusError>) =>
        Effect.suspend(() => (left-- > 0 ? effect : Effect.fail(unavailable("drop", "not-done"))))
      const bus = EventBus.make({
        ...store,
        drop: (...args) => limited(store.drop(...args)),
        replay: (...args) => limited(store.replay(...args)),
        trim: (...args) => limited(store.trim(...args))
      })
      const dead = bus.deadLetters(topic(), "g")
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* bus.subscribe(topic(), { group: "g", maxDeliveries: 1 })(() => Effect.fail("no"))
          for (let n = 1; n <= 8; n++) yield* bus.publish(topic(), { n }, { key: `${n}` })
          yield* settle
        })
      )
      const letters = (yield* dead.read()).map(({ letter }) => letter)
      assert.strictEqual(new Set(letters.map((letter) => letter.split("@")[1])).size, 2)
      const operations = {
        dropSome: dead.drop(letters),
        dropAll: dead.drop("all"),
        replayAll: dead.replay("all"),
        trim: bus.trim(topic({ partitions: 1, name: "one" }), { maxLength: 0 })
      }
      for (const [name, operation] of Object.entries(operations)) {
        left = 0
        assert.strictEqual((yield* Effect.flip(operation)).outcome, "not-done", `${name}: nothing was done`)
      }
      left = 1
      assert.strictEqual((yield* Effect.flip(dead.drop(letters))).outcome, "unknown")
      left = 1
      assert.strictEqual((yield* Effect.flip(bus.trim(topic(), { maxLength: 0 }))).outcome, "unknown")
    })
  )

  it.scoped("a stream hands out what stands before an event that it cannot decode", () =>
    Effect.gen(function* () {
      const store = Memory.backend()
      const bus = EventBus.make(store)
      const one = topic({ partitions: 1 })
      yield* bus.publish(one, { n: 1 })
      yield* bus.publish(one, { n: 2 })
      const entry = { id: "x", unique: false, key: undefined, headers: undefined, data: "{" }
      yield* store.append(one.settings, 0, [entry])
      yield* bus.publish(one, { n: 3 })
      const seen: Array<number> = []
      const error = yield* Effect.flip(
        Stream.runForEach(bus.stream(one, { follow: false }), ({ event }) => Effect.sync(() => void seen.push(event.n)))
      )
      assert.deepStrictEqual([error.reason, seen], ["Undecodable", [1, 2]])
    })
  )

  it.effect("a number that is too great for a position is none, wherever one is asked for", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const beyond = `1-${2n ** 64n}@0`
      const errors = yield* Effect.forEach(
        [
          bus.seek(topic(), "g", { position: beyond }),
          bus.deadLetters(topic(), "g").drop([beyond]),
          bus.deadLetters(topic(), "g").read({ after: beyond }),
          Stream.runDrain(bus.stream(topic(), { from: { position: beyond }, follow: false }))
        ],
        (effect) => Effect.flip(Effect.asVoid(effect))
      )
      assert.deepStrictEqual([...new Set(errors.map(({ reason }) => reason))], ["InvalidOptions"])
    })
  )

  it("the partition of a key is that of FNV-1a, for programs in other languages", () => {
    // the published test vectors of FNV-1a with 32 bits
    const vectors: ReadonlyArray<readonly [string, number]> = [
      ["", 0x811c9dc5],
      ["a", 0xe40c292c],
      ["foobar", 0xbf9cf968]
    ]
    for (const [text, hash] of vectors) {
      for (const partitions of [1, 2, 8, 251]) {
        assert.strictEqual(EventBus.partitionOf(text, partitions), hash % partitions)
      }
    }
  })

  it("positions are ordered as numbers, not as text", () => {
    const inOrder = ["0-0", "0-1", "9-18446744073709551615", "10-0", "10-2", "10-10", "1732190000000-0"]
    for (let one = 0; one < inOrder.length; one++) {
      for (let other = 0; other < inOrder.length; other++) {
        assert.strictEqual(
          Math.sign(EventBus.comparePositions(inOrder[one] ?? "", inOrder[other] ?? "")),
          Math.sign(one - other)
        )
      }
    }
  })

  it.effect("a partition that nobody touches for long is forgotten, and one that is read is not", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const short = topic({ forgetAfter: "1 hour" })
      yield* bus.publish(short, { n: 1 })
      yield* TestClock.adjust("59 minutes")
      assert.strictEqual(Chunk.size(yield* Stream.runCollect(bus.stream(short, { follow: false }))), 1)
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(Chunk.size(yield* Stream.runCollect(bus.stream(short, { follow: false }))), 0)
      yield* bus.publish(short, { n: 2 })
      const fiber = yield* Effect.fork(
        Effect.scoped(
          Effect.zipRight(
            bus.subscribe(short, { group: "g", claimAfter: "2 hours", pollInterval: "10 minutes" })(() => Effect.never),
            Effect.never
          )
        )
      )
      yield* TestClock.adjust("3 hours")
      assert.strictEqual((yield* bus.stats(short, "g")).pending, 1)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("old events go by their age", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      const aged = topic({ partitions: 1, retention: { maxAge: "1 minute" } })
      yield* bus.publish(aged, { n: 1 })
      yield* TestClock.adjust("40 seconds")
      yield* bus.publish(aged, { n: 2 })
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* bus.trim(aged), 1)
      const left = yield* Stream.runCollect(bus.stream(aged, { follow: false }))
      assert.deepStrictEqual(
        Chunk.toReadonlyArray(left).map(({ event }) => event.n),
        [2]
      )
    })
  )

  it.scoped("nothing of it makes a span, a log line or a metric", () =>
    Effect.gen(function* () {
      const bus = EventBus.make(Memory.backend())
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          const { handler, seen } = recorder<{ n: number }>()
          yield* bus.subscribe(topic(), { group: "g", maxDeliveries: 1 })((message) =>
            message.event.n % 10 === 0 ? Effect.fail("no") : handler(message)
          )
          for (let n = 1; n <= 100; n++) yield* bus.publish(topic(), { n })
          yield* settle
          assert.strictEqual(seen.length, 90)
          yield* bus.deadLetters(topic(), "g").replay("all")
          yield* bus.stats(topic(), "g")
          yield* bus.trim(topic(), { maxLength: 1 })
          yield* Stream.runDrain(bus.stream(topic(), { follow: false }))
        })
      )
    })
  )
})
