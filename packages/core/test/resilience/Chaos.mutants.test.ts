/**
 * Chaos to the last step: what injected failures are, seeds over reloads, and the order of what happens.
 */
import { inspect, types } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Chaos, ErrorClass } from "@underlay/core"
import {
  Cause,
  Chunk,
  Data,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberId,
  Option,
  Random,
  Ref,
  Schema,
  Stream,
  TestClock
} from "effect"

class Down extends Data.TaggedError("Down") {}
class Coded extends Schema.TaggedError<Coded>()("Coded", { code: Schema.Number }) {}

const call = Effect.succeed("fresh")
const always = { rate: 1 }

const failures = (chaos: Chaos.Chaos, times: number) =>
  Effect.map(Effect.replicateEffect(Effect.exit(chaos.apply(call)), times), (exits) => exits.map(Exit.isFailure))

describe("what is injected", () => {
  it("an injected fault says itself that it is transient", () => {
    const fault = new Chaos.InjectedFault({ kind: "fault" })
    assert.isTrue(fault.isRetryable)
    assert.strictEqual(fault.errorClass, "transient")
    assert.strictEqual(ErrorClass.classify(fault).class, "transient")
  })

  it.effect("made-up answers that fail with no object fail with just that", () =>
    Effect.gen(function* () {
      for (const error of ["text", null, undefined, 0]) {
        const chaos = yield* Chaos.make({
          enabled: true,
          injections: [Chaos.outcome({ ...always, effect: Effect.fail(error) })]
        })
        assert.strictEqual(yield* Effect.flip(chaos.apply(call)), error)
      }
    })
  )

  it.effect("a made-up answer that is interrupted, or fails again on its way out, keeps its whole cause", () =>
    Effect.gen(function* () {
      const cause = Cause.sequential(Cause.fail(new Down()), Cause.interrupt(FiberId.runtime(7, 0)))
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.outcome({ ...always, effect: Effect.failCause(cause) })]
      })
      const found = yield* Effect.flip(Effect.sandbox(chaos.apply(call)))
      assert.strictEqual(found._tag, "Sequential")
      assert.strictEqual(Chunk.size(Cause.failures(found)), 1)
      assert.deepStrictEqual([...Cause.interruptors(found)], [FiberId.runtime(7, 0)])
    })
  )

  it.effect("a defect that was made is a true error, for those who look at what it is", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.defect({ ...always, defect: () => new TypeError("bug") })]
      })
      const cause = yield* Effect.flip(Effect.sandbox(chaos.apply(call)))
      assert.isTrue([...Cause.defects(cause)].every((defect) => types.isNativeError(defect)))
    })
  )

  it.effect("an error that is given is printed as itself, however it is looked at", () =>
    Effect.gen(function* () {
      for (const error of [new Down(), new Coded({ code: 7 }), new TypeError("seven"), { n: 7 }]) {
        const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ ...always, error })] })
        const injected = yield* Effect.flip(chaos.apply(call))
        assert.strictEqual(inspect(injected), inspect(error))
        assert.strictEqual(inspect({ deep: [injected] }), inspect({ deep: [error] }))
        // Node looks through to the error. Who cannot is handed it, and does not ask the same again for ever.
        const asked: unknown = Reflect.get(injected, inspect.custom)
        assert.strictEqual(typeof asked === "function" ? asked.call(injected) : undefined, error)
      }
    })
  )

  it("a circle of causes is no injection, nor is an interruption by any fiber", () => {
    const circle: { cause?: unknown } = {}
    circle.cause = circle
    assert.isFalse(Chaos.isInjected(circle))
    for (const id of [0, 1, 2]) assert.isFalse(Chaos.isInjected(Cause.interrupt(FiberId.runtime(id, 0))))
  })

  it.effect("interruptions are counted as such, and whoever gave no name to the chaos hears of it as chaos", () =>
    Effect.gen(function* () {
      const events: Array<unknown> = []
      const chaos = yield* Chaos.make({
        enabled: true,
        onInjected: (event) => Effect.sync(() => events.push(event)),
        injections: [Chaos.interrupt(always)]
      })
      yield* Effect.exit(chaos.apply(call))
      assert.strictEqual((yield* chaos.snapshot).injected.interrupt, 1)
      assert.deepStrictEqual(events, [{ chaos: "chaos", kind: "interrupt", key: undefined }])
    })
  )
})

describe("lots", () => {
  it.effect("a rate of 0 is never, also for the smallest number that chance knows", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ rate: 0 })] })
      assert.strictEqual(yield* chaos.apply(call).pipe(Effect.withRandom(Random.fixed([0]))), "fresh")
    })
  )

  it.effect("calls without a key are not befallen where keys are asked for, whatever the predicate says", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, keys: () => true, injections: [Chaos.fault(always)] })
      assert.strictEqual(yield* chaos.apply(call), "fresh")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(chaos.apply(call, "search"))))
    })
  )

  it.effect("another seed by a reload begins its own lots; none leaves them to the program's chance again", () =>
    Effect.gen(function* () {
      const options = { enabled: true, injections: [Chaos.fault({ rate: 0.5 })] } as const
      const eight = yield* failures(yield* Chaos.make({ ...options, seed: 8 }), 60)
      const chaos = yield* Chaos.make({ ...options, seed: 7 })
      assert.notDeepEqual(yield* failures(chaos, 60), eight)
      yield* chaos.reload({ ...options, seed: 8 })
      assert.deepStrictEqual(yield* failures(chaos, 60), eight)
      yield* chaos.reload(options)
      const unseeded = yield* Effect.withRandom(failures(yield* Chaos.make(options), 60), Random.make("a"))
      assert.deepStrictEqual(yield* Effect.withRandom(failures(chaos, 60), Random.make("a")), unseeded)
      yield* chaos.reload({ ...options, seed: 8 })
      assert.deepStrictEqual(yield* failures(chaos, 60), eight)
    })
  )

  it.effect("what stands behind the end of a call draws no lots, so that it changes nothing for other calls", () =>
    Effect.gen(function* () {
      const kinds = [
        Chaos.fault(always),
        Chaos.defect(always),
        Chaos.interrupt(always),
        Chaos.hang(always),
        Chaos.outcome({ ...always, value: "made up" })
      ]
      for (const end of kinds) {
        /** Which calls something was done to before they ended. */
        const befallen = (behind: ReadonlyArray<Chaos.Injection<never, never>>) =>
          Effect.gen(function* () {
            const found: Array<number> = []
            let number = 0
            const before = Chaos.behaviour({ rate: 0.5, effect: Effect.sync(() => found.push(number)) })
            const chaos = yield* Chaos.make({ enabled: true, seed: 7, injections: [before, end, ...behind] })
            for (; number < 20; number++) {
              const fiber = yield* Effect.fork(chaos.apply(call))
              yield* Effect.repeatN(Effect.yieldNow(), 5)
              yield* Fiber.interrupt(fiber)
            }
            return found
          })
        const alone = yield* befallen([])
        assert.isTrue(alone.length > 0 && alone.length < 20)
        assert.deepStrictEqual(yield* befallen([Chaos.fault({ rate: 0.5 }) as never]), alone, end.kind)
      }
    })
  )

  it.effect("with nothing to inject it is as if it were off: neither is it asked nor are the calls counted", () =>
    Effect.gen(function* () {
      const asked: Array<string> = []
      const chaos = yield* Chaos.make({
        enabled: Effect.sync(() => asked.push("enabled") > 0),
        key: Effect.sync(() => String(asked.push("key"))),
        injections: []
      })
      assert.strictEqual(yield* chaos.apply(call), "fresh")
      assert.deepStrictEqual(yield* Stream.runCollect(chaos.applyStream(Stream.make(1))), Chunk.make(1))
      assert.deepStrictEqual(asked, [])
      assert.strictEqual((yield* chaos.snapshot).calls, 0)
    })
  )

  it.effect("what an injection itself draws is of the seed as well, and of the program's chance without one", () =>
    Effect.gen(function* () {
      const drawn = (seed: number | undefined, ambient: string) =>
        Effect.gen(function* () {
          const numbers: Array<number> = []
          const effect = Effect.map(Random.next, (number) => numbers.push(number))
          const chaos = yield* Chaos.make({
            enabled: true,
            seed,
            injections: [Chaos.behaviour({ ...always, effect })]
          })
          yield* Effect.replicateEffect(chaos.apply(call), 5).pipe(Effect.withRandom(Random.make(ambient)))
          return numbers
        })
      assert.deepStrictEqual(yield* drawn(7, "a"), yield* drawn(7, "b"))
      assert.deepStrictEqual(yield* drawn(undefined, "a"), yield* drawn(undefined, "a"))
      assert.notDeepEqual(yield* drawn(undefined, "a"), yield* drawn(undefined, "b"))
    })
  )
})

describe("streams", () => {
  it.effect("what happens before the first element happens in the order in which it was given", () =>
    Effect.gen(function* () {
      const log = yield* Ref.make<ReadonlyArray<string>>([])
      const write = (line: string) => Ref.update(log, (lines) => [...lines, line])
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [
          Chaos.behaviour({ ...always, effect: write("first") }),
          Chaos.behaviour({ ...always, effect: write("second") })
        ]
      })
      const all = yield* Stream.runCollect(chaos.applyStream(Stream.fromEffect(Effect.as(write("asked"), 1))))
      assert.deepStrictEqual(yield* Ref.get(log), ["first", "second", "asked"])
      assert.deepStrictEqual(all, Chunk.make(1))
    })
  )
})

describe("what it is known by", () => {
  it.effect("isChaos: chaos, and nothing else", () =>
    Effect.gen(function* () {
      assert.isTrue(Chaos.isChaos(yield* Chaos.make({ injections: [] })))
      for (const other of [undefined, null, "chaos", 1, {}]) assert.isFalse(Chaos.isChaos(other))
    })
  )

  it.effect("a latency that may be cut short is, where nothing else is said", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.latency({ ...always, delay: Duration.hours(1) })]
      })
      const fiber = yield* Effect.timeoutOption(chaos.apply(call), "1 second").pipe(Effect.fork)
      yield* TestClock.adjust("1 second")
      assert.isTrue(Option.isNone(yield* Fiber.join(fiber)))
    })
  )
})
