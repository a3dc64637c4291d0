import { types } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Chaos, ErrorClass, Policy, Timeout } from "@underlay/core"
import {
  Cause,
  Chunk,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Either,
  Exit,
  FastCheck,
  Fiber,
  FiberId,
  Random,
  Ref,
  Stream,
  Supervisor,
  TestClock
} from "effect"

class Down extends Data.TaggedError("Down")<{ readonly code: number }> {
  get isRetryable() {
    return true
  }
}

const call = Effect.succeed("fresh")
const always = { rate: 1 }

/** Which of that many calls fail. */
const failures = (chaos: Chaos.Chaos, times: number) =>
  Effect.map(Effect.replicateEffect(Effect.exit(chaos.apply(call)), times), (exits) => exits.map(Exit.isFailure))

/** As a policy describes it. */
const described = (chaos: Chaos.Chaos) => (chaos as Chaos.Chaos & { readonly description: string }).description

describe("Chaos", () => {
  it.effect("is off by default: nothing is drawn, counted or done", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ injections: [Chaos.fault(always), Chaos.hang(always)] })
      assert.strictEqual(yield* chaos.apply(call), "fresh")
      assert.deepStrictEqual(yield* Stream.runCollect(chaos.applyStream(Stream.make(1, 2))), Chunk.make(1, 2))
      const seen = yield* chaos.snapshot
      assert.deepStrictEqual([seen.enabled, seen.calls, seen.injected.fault], [false, 0, 0])
      const drawn = yield* Effect.zip(chaos.apply(Random.next), Random.next).pipe(
        Effect.withRandom(Random.make("seed"))
      )
      const alone = yield* Effect.zip(Random.next, Random.next).pipe(Effect.withRandom(Random.make("seed")))
      assert.deepStrictEqual(drawn, alone)
    })
  )

  it.effect(
    "an effect that was made while it was off is befallen once it is on, and no more once it is off again",
    () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ injections: [Chaos.fault(always)] })
        const disturbed = chaos.apply(call)
        assert.strictEqual(yield* disturbed, "fresh")
        yield* chaos.setEnabled(true)
        assert.strictEqual((yield* Effect.flip(disturbed))._tag, "InjectedFault")
        yield* chaos.setEnabled(false)
        assert.strictEqual(yield* disturbed, "fresh")
      })
  )

  it.effect(
    "enabled may be an effect, which is asked at each call; setEnabled overrules it and reload gives it back",
    () =>
      Effect.gen(function* () {
        const on = yield* Ref.make(false)
        const options = { enabled: Ref.get(on), injections: [Chaos.fault(always)] } as const
        const chaos = yield* Chaos.make(options)
        assert.strictEqual((yield* chaos.snapshot).enabled, "asked")
        assert.isTrue(Exit.isSuccess(yield* Effect.exit(chaos.apply(call))))
        yield* Ref.set(on, true)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(chaos.apply(call))))
        yield* chaos.setEnabled(false)
        assert.isTrue(Exit.isSuccess(yield* Effect.exit(chaos.apply(call))))
        yield* chaos.reload(options)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(chaos.apply(call))))
        assert.strictEqual((yield* chaos.snapshot).injected.fault, 2)
      })
  )

  it.effect("the rate is met, and the same Random or seed gives the same calls again", () =>
    Effect.gen(function* () {
      const options = { enabled: true, injections: [Chaos.fault({ rate: 0.2 })] } as const
      const one = yield* Effect.withRandom(failures(yield* Chaos.make(options), 5_000), Random.make("a"))
      const two = yield* Effect.withRandom(failures(yield* Chaos.make(options), 5_000), Random.make("a"))
      const other = yield* Effect.withRandom(failures(yield* Chaos.make(options), 5_000), Random.make("b"))
      assert.deepStrictEqual(one, two)
      assert.notDeepEqual(one, other)
      // five standard deviations
      assert.isAtMost(Math.abs(one.filter((failed) => failed).length - 1_000), 5 * Math.sqrt(5_000 * 0.2 * 0.8))
      const seeded = Effect.flatMap(Chaos.make({ ...options, seed: 7 }), (chaos) => failures(chaos, 500))
      assert.deepStrictEqual(yield* seeded, yield* seeded)
    })
  )

  it.effect("a reload keeps the place in the lots of a seed, and what was counted", () =>
    Effect.gen(function* () {
      const options = { enabled: true, seed: 7, injections: [Chaos.fault({ rate: 0.5 })] } as const
      const whole = yield* failures(yield* Chaos.make(options), 100)
      const chaos = yield* Chaos.make(options)
      const first = yield* failures(chaos, 50)
      yield* chaos.reload(options)
      assert.deepStrictEqual([...first, ...(yield* failures(chaos, 50))], whole)
      assert.strictEqual((yield* chaos.snapshot).injected.fault, whole.filter((failed) => failed).length)
      yield* chaos.reload({ enabled: true, injections: [] })
      assert.notInclude(yield* failures(chaos, 100), true)
    })
  )

  it.effect("each injection has its own rate of the calls that come to it: rates 0 and 1 are never and always", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [
          Chaos.interrupt({ rate: 0 }),
          Chaos.latency({ rate: 0.5, delay: 0 }),
          Chaos.fault({ rate: 0.5 }),
          Chaos.outcome({ rate: 1, value: "made up" }),
          Chaos.defect(always)
        ]
      })
      const exits = yield* Effect.replicateEffect(Effect.either(chaos.apply(call)), 2_000).pipe(
        Effect.withRandom(Random.make(1))
      )
      const { calls, injected } = yield* chaos.snapshot
      assert.strictEqual(calls, 2_000)
      assert.strictEqual(injected.interrupt + injected.defect + injected.hang + injected.behaviour, 0)
      assert.strictEqual(injected.fault + injected.outcome, 2_000)
      for (const count of [injected.latency, injected.fault]) assert.isAtMost(Math.abs(count - 1_000), 112)
      assert.strictEqual(exits.filter(Either.isLeft).length, injected.fault)
      assert.isTrue(exits.filter(Either.isRight).every((each) => each.right === "made up"))
    })
  )

  it.effect("by key: only the keys that are meant, by the reference, by the call, or by an effect of one's own", () =>
    Effect.gen(function* () {
      const fails = (effect: Effect.Effect<unknown, unknown>) => Effect.map(Effect.exit(effect), Exit.isFailure)
      const chaos = yield* Chaos.make({ enabled: true, keys: ["checkout"], injections: [Chaos.fault(always)] })
      assert.isFalse(yield* fails(chaos.apply(call)))
      assert.isFalse(yield* fails(chaos.apply(call, "search")))
      assert.isTrue(yield* fails(chaos.apply(call, "checkout")))
      assert.isTrue(yield* fails(chaos.apply(call).pipe(Chaos.withKey("checkout"))))
      assert.isFalse(yield* fails(Chaos.withKey(chaos.apply(call), "search")))
      // what the call itself says comes first
      assert.isFalse(yield* fails(chaos.apply(call, "search").pipe(Chaos.withKey("checkout"))))

      class Tenant extends Context.Reference<Tenant>()("test/Tenant", { defaultValue: () => "none" }) {}
      const tenants = yield* Chaos.make({
        enabled: true,
        key: Tenant,
        injections: [
          Chaos.fault({ ...always, keys: (key) => key.startsWith("trial-") }),
          Chaos.outcome({ ...always, keys: ["acme"], value: "made up" })
        ]
      })
      const of = (tenant: string) => Effect.either(tenants.apply(call)).pipe(Effect.provideService(Tenant, tenant))
      assert.isTrue(Either.isLeft(yield* of("trial-1")))
      assert.deepStrictEqual(yield* of("acme"), Either.right("made up"))
      assert.deepStrictEqual(yield* of("other"), Either.right("fresh"))
    })
  )

  it.effect("fault: the error reads as the one given and is recognised as injected, the constant itself is not", () =>
    Effect.gen(function* () {
      const constant = new Down({ code: 503 })
      const chaos = yield* Chaos.make({
        name: "monkey",
        enabled: true,
        injections: [Chaos.fault({ ...always, error: constant })]
      })
      const error = yield* Effect.flip(chaos.apply(Effect.fail(constant)))
      assert.instanceOf(error, Down)
      assert.deepStrictEqual([error._tag, error.code, ErrorClass.isRetryable(error)], ["Down", 503, true])
      assert.isTrue(Chaos.isInjected(error))
      assert.strictEqual(Chaos.injectedBy(error), "monkey")
      assert.isFalse(Chaos.isInjected(constant))
      assert.isUndefined(Chaos.injectedBy(constant))
      for (const each of [undefined, null, "text", 7, Cause.empty, Cause.fail(constant)]) {
        assert.isFalse(Chaos.isInjected(each))
      }
      assert.isTrue(Chaos.isInjected(new Error("wrapped", { cause: new Error("twice", { cause: error }) })))
      assert.isTrue(Chaos.isInjected(Cause.sequential(Cause.die("other"), Cause.fail(error))))
      const spanned = yield* Effect.flip(chaos.apply(call).pipe(Effect.withSpan("call")))
      assert.isTrue(Chaos.isInjected(spanned))
    })
  )

  it.effect("fault: a function makes an error each time; without one it is a transient InjectedFault", () =>
    Effect.gen(function* () {
      let code = 0
      const counted = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.fault({ ...always, error: () => new Down({ code: ++code }) })]
      })
      const codes = yield* Effect.replicateEffect(Effect.flip(counted.apply(call)), 3)
      assert.deepStrictEqual(
        codes.map((error) => error.code),
        [1, 2, 3]
      )
      const plain = yield* Chaos.make({ enabled: true, injections: [Chaos.fault(always)] })
      const error: Chaos.InjectedFault = yield* Effect.flip(plain.apply(call))
      assert.strictEqual(error.message, "injected on purpose: a fault")
      assert.strictEqual(ErrorClass.classify(error).class, "transient")
    })
  )

  it.effect("fault: an error that is made is in every way what it would be; a constant is not taken for injected", () =>
    Effect.gen(function* () {
      class Guarded extends Error {
        readonly #code = 503
        get isRetryable() {
          return true
        }
        code(): number {
          return this.#code
        }
      }
      const made = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.fault({ ...always, error: () => new Guarded("down") })]
      })
      const error: Guarded = yield* Effect.flip(made.apply(Effect.void))
      assert.strictEqual(error.code(), 503)
      assert.isTrue(types.isNativeError(error))
      assert.strictEqual(structuredClone(error).message, "down")
      assert.deepStrictEqual(Object.keys(error), [])
      assert.isTrue(Chaos.isInjected(error))
      const constant = Object.freeze(new Down({ code: 1 }))
      const shared = new Down({ code: 2 })
      for (const each of [constant, shared]) {
        const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ ...always, error: () => each })] })
        for (const again of [1, 2, 3]) {
          const injected = yield* Effect.flip(chaos.apply(call))
          assert.isTrue(Chaos.isInjected(injected), `${again}`)
        }
        assert.isFalse(Chaos.isInjected(each))
      }
    })
  )

  it.effect("it stays recognisable when a policy has retried it and kept its attempts", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault(always)] })
      const policy = yield* Policy.make({
        name: "x",
        breaker: false,
        retry: { attempts: 2, base: 1, jitter: "none" }
      })
      const fiber = yield* Effect.fork(Effect.flip(policy.run(chaos.apply(call))))
      yield* TestClock.adjust("1 second")
      assert.isTrue(Chaos.isInjected(yield* Fiber.join(fiber)))
      assert.strictEqual((yield* chaos.snapshot).injected.fault, 2)
    })
  )

  it.effect("latency: the call begins later; an effect may say by how much; what is interrupted begins never", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [
          Chaos.latency({ ...always, delay: "2 seconds" }),
          Chaos.latency({ ...always, delay: Effect.succeed("1 second") })
        ]
      })
      const began = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(chaos.apply(Deferred.succeed(began, undefined)))
      yield* TestClock.adjust("2999 millis")
      assert.isFalse(yield* Deferred.isDone(began))
      yield* TestClock.adjust("1 millis")
      assert.isTrue(yield* Fiber.join(fiber))
      const cut = yield* Effect.fork(chaos.apply(Effect.die("must not begin")))
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(cut)))
    })
  )

  it.effect("latency that cannot be cut short: a timeout returns on time and counts an orphan", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.latency({ ...always, delay: "10 seconds", interruptible: false })]
      })
      const before = yield* Timeout.orphans
      const fiber = yield* Effect.fork(
        Effect.flip(chaos.apply(call).pipe(Timeout.within({ duration: "1 second", service: "x" })))
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "CallTimeout")
      assert.strictEqual((yield* Timeout.orphans).current, before.current + 1)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* Timeout.orphans).current, before.current)
    })
  )

  it.effect("outcome: a made-up answer, or what an effect gives, whose errors are recognised", () =>
    Effect.gen(function* () {
      const value = yield* Chaos.make({ enabled: true, injections: [Chaos.outcome({ ...always, value: 0 })] })
      const answer: string | number = yield* value.apply(call)
      assert.strictEqual(answer, 0)
      const effect = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.outcome({ ...always, effect: Effect.fail(new Down({ code: 500 })) })]
      })
      const error: Down = yield* Effect.flip(effect.apply(call))
      assert.isTrue(Chaos.isInjected(error))
      // all that goes with it is kept, and recognised too
      const cause = Cause.parallel(Cause.fail(new Down({ code: 500 })), Cause.die(new Error("bug")))
      const both = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.outcome({ ...always, effect: Effect.failCause(cause) })]
      })
      const exit = yield* Effect.exit(both.apply(call))
      const found = Exit.isFailure(exit) ? exit.cause : Cause.empty
      assert.strictEqual(Chunk.size(Cause.failures(found)), 1)
      assert.isTrue(Chunk.every(Cause.failures(found), Chaos.isInjected))
      assert.isTrue(Chunk.every(Cause.defects(found), Chaos.isInjected) && Chunk.size(Cause.defects(found)) === 1)
    })
  )

  it.effect("defect and interrupt: the service is not asked, and the cause tells where they come from", () =>
    Effect.gen(function* () {
      const bug = yield* Chaos.make({ enabled: true, injections: [Chaos.defect(always)] })
      const own = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.defect({ ...always, defect: () => new TypeError("x is not a function") })]
      })
      const gone = yield* Chaos.make({ enabled: true, injections: [Chaos.interrupt(always)] })
      const causes = yield* Effect.forEach([bug, own, gone], (chaos) =>
        Effect.flip(Effect.sandbox(chaos.apply(Effect.dieMessage("asked"))))
      )
      assert.deepStrictEqual(causes.map(Cause.isDie), [true, true, false])
      assert.deepStrictEqual(causes.map(Cause.isInterruptedOnly), [false, false, true])
      assert.isTrue(causes.every(Chaos.isInjected))
      assert.include(Cause.pretty(causes[1] ?? Cause.empty), "x is not a function")
      assert.isFalse(Chaos.isInjected(Cause.interrupt(FiberId.none)))
    })
  )

  it.effect("hang: until it is interrupted, which leaves nothing behind", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.hang(always)] })
      const fiber = yield* Effect.fork(chaos.apply(call))
      yield* TestClock.adjust("1 day")
      assert.isNull(fiber.unsafePoll())
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
    })
  )

  it.effect("behaviour: done before the call, which is then made; onInjected is told of all in order", () =>
    Effect.gen(function* () {
      const log = yield* Ref.make<ReadonlyArray<string>>([])
      const write = (line: string) => Ref.update(log, (lines) => [...lines, line])
      const chaos = yield* Chaos.make({
        name: "monkey",
        enabled: true,
        onInjected: (event) => write(`${event.chaos}: ${event.kind} ${event.key}`),
        injections: [
          Chaos.behaviour({ ...always, effect: write("restarted") }),
          Chaos.latency({ ...always, delay: 0 }),
          Chaos.fault(always)
        ]
      })
      yield* Effect.exit(chaos.apply(write("asked"), "search"))
      assert.deepStrictEqual(yield* Ref.get(log), [
        "monkey: behaviour search",
        "restarted",
        "monkey: latency search",
        "monkey: fault search"
      ])
    })
  )

  it.effect("streams: a fault before the first element, and the stream is not opened", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault(always)] })
      const opened = Stream.fromEffect(Effect.dieMessage("opened"))
      const error: Chaos.InjectedFault = yield* Effect.flip(Stream.runDrain(chaos.applyStream(opened)))
      assert.isTrue(Chaos.isInjected(error))
    })
  )

  it.effect("streams: after n elements, however they are cut into chunks, and not where there are fewer", () =>
    Effect.promise(() =>
      FastCheck.assert(
        FastCheck.asyncProperty(
          FastCheck.array(FastCheck.array(FastCheck.integer(), { maxLength: 4 }), { maxLength: 6 }),
          FastCheck.integer({ min: 0, max: 12 }),
          FastCheck.integer({ min: 0, max: 12 }),
          (chunks, afterElements, pause) =>
            Effect.runPromise(
              Effect.gen(function* () {
                const paused: Array<number> = []
                const seen: Array<number> = []
                const chaos = yield* Chaos.make({
                  enabled: true,
                  injections: [
                    Chaos.fault({ rate: 1, afterElements }),
                    Chaos.behaviour({
                      rate: 1,
                      afterElements: pause,
                      effect: Effect.sync(() => paused.push(seen.length))
                    })
                  ]
                })
                const whole = Stream.fromChunks(...chunks.map((each) => Chunk.fromIterable(each)))
                const exit = yield* chaos.applyStream(whole).pipe(
                  Stream.runForEach((each) => Effect.sync(() => seen.push(each))),
                  Effect.exit
                )
                const all = chunks.flat()
                const falls = afterElements <= all.length
                assert.strictEqual(Exit.isFailure(exit), falls)
                assert.deepStrictEqual(seen, falls ? all.slice(0, afterElements) : all)
                // the fault comes first where both are due
                assert.deepStrictEqual(paused, pause < afterElements && pause <= all.length ? [pause] : [])
                const { injected } = yield* chaos.snapshot
                assert.deepStrictEqual([injected.fault, injected.behaviour], [falls ? 1 : 0, paused.length])
              })
            )
        )
      )
    )
  )

  it.effect("streams: a delay in the middle, a hang after some, and an end in place of the rest", () =>
    Effect.gen(function* () {
      const late = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.latency({ ...always, delay: "5 seconds", afterElements: 2 })]
      })
      const seen: Array<number> = []
      const read = <E>(stream: Stream.Stream<number, E>) =>
        Effect.fork(Stream.runForEach(stream, (each) => Effect.sync(() => seen.push(each))))
      const fiber = yield* read(late.applyStream(Stream.make(1, 2, 3, 4)))
      yield* TestClock.adjust("4999 millis")
      assert.deepStrictEqual(seen, [1, 2])
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, [1, 2, 3, 4])

      const made = yield* Chaos.make({
        enabled: true,
        injections: [Chaos.outcome({ ...always, value: 9, afterElements: 1 })]
      })
      assert.deepStrictEqual(Chunk.toArray(yield* Stream.runCollect(made.applyStream(Stream.make(1, 2, 3)))), [1, 9])

      const closed = yield* Deferred.make<void>()
      const hung = yield* Chaos.make({ enabled: true, injections: [Chaos.hang({ ...always, afterElements: 1 })] })
      const stuck = yield* read(
        hung.applyStream(Stream.make(7, 8).pipe(Stream.ensuring(Deferred.succeed(closed, undefined))))
      )
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(seen, [1, 2, 3, 4, 7])
      yield* Fiber.interrupt(stuck)
      assert.isTrue(yield* Deferred.isDone(closed))
    })
  )

  it.effect("streams: the stream's own failure and its end are its own", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ enabled: true, injections: [Chaos.fault({ ...always, afterElements: 5 })] })
      const failing = Stream.concat(Stream.make(1), Stream.fail("own"))
      assert.strictEqual(yield* Effect.flip(Stream.runDrain(chaos.applyStream(failing))), "own")
      assert.strictEqual((yield* chaos.snapshot).injected.fault, 0)
    })
  )

  it.effect(
    "streams of a policy: at its place, a made-up answer as an element, and the policy's places are given back",
    () =>
      Effect.gen(function* () {
        const through = (injection: Chaos.Injection) =>
          Effect.gen(function* () {
            const chaos = yield* Chaos.make({ enabled: true, injections: [injection] })
            const policy = yield* Policy.make({ name: "x", chaos, retry: false, bulkhead: { maxConcurrent: 1 } })
            const seen: Array<unknown> = []
            const exit = yield* Effect.exit(
              Stream.runForEach(policy.stream(Stream.make(1, 2, 3)), (each) => Effect.sync(() => seen.push(each)))
            )
            const failed = Exit.isFailure(exit) && Chaos.isInjected(exit.cause)
            const active = policy.bulkhead === undefined ? -1 : (yield* policy.bulkhead.snapshot).active
            return [seen, failed, active]
          })
        assert.deepStrictEqual(yield* through(Chaos.fault({ ...always, afterElements: 2 })), [[1, 2], true, 0])
        assert.deepStrictEqual(yield* through(Chaos.outcome({ ...always, value: "made up" })), [["made up"], false, 0])
        assert.deepStrictEqual(yield* through(Chaos.fault(always)), [[], true, 0])
      })
  )

  it.live("in a policy, while it is off, a call needs no more fibers than without it", () =>
    Effect.gen(function* () {
      class Counting extends Supervisor.AbstractSupervisor<void> {
        override readonly value = Effect.void
        started = 0
        override onStart(): void {
          this.started++
        }
      }
      const fibersOf = (policy: Policy.Policy) => {
        const fibers = new Counting()
        const call = policy.tryPromise({ try: () => Promise.resolve("fine"), catch: (error) => error })
        return Effect.map(Effect.exit(Effect.supervised(call, fibers)), (exit) => [
          Exit.isSuccess(exit),
          fibers.started
        ])
      }
      const chaos = yield* Chaos.make({ injections: [Chaos.fault(always)] })
      const settings = { name: "x", attemptTimeout: "1 second", retry: false } as const
      const plain = yield* fibersOf(yield* Policy.make(settings))
      const policy = yield* Policy.make({ ...settings, chaos })
      assert.deepStrictEqual(yield* fibersOf(policy), plain)
      yield* chaos.setEnabled(true)
      const [succeeds, started] = yield* fibersOf(policy)
      assert.isFalse(succeeds)
      assert.isAbove(Number(started), Number(plain[1]))
    })
  )

  it.effect("settings that cannot work are named with the fix", () =>
    Effect.gen(function* () {
      const wrong = (injection: Chaos.Injection) =>
        Effect.map(Effect.exit(Chaos.make({ name: "monkey", injections: [injection] })), (exit) =>
          Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "fine"
        )
      for (const rate of [-0.1, 1.1, 50, Number.NaN]) {
        assert.include(
          yield* wrong(Chaos.fault({ rate })),
          `Chaos "monkey": chaos: the rate of a fault is ${rate}: give a part from 0 to 1 (0.1 is a tenth)`
        )
      }
      assert.include(yield* wrong(Chaos.hang({ rate: 1, afterElements: -1 })), "afterElements of a hang is -1")
      assert.include(yield* wrong(Chaos.defect({ rate: 1, afterElements: 1.5 })), "afterElements of a defect is 1.5")
      assert.include(yield* wrong(Chaos.latency({ rate: 1, delay: Duration.infinity })), "use Chaos.hang")
      assert.strictEqual(yield* wrong(Chaos.latency({ rate: 1, delay: 5 })), "fine")
      const chaos = yield* Chaos.make({ injections: [] })
      assert.isTrue(
        Exit.isFailure(yield* Effect.exit(chaos.reload({ injections: [Chaos.fault({ rate: 2 }) as never] })))
      )
    })
  )

  it.effect("describes itself and is recognised; its functions can be taken out", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({
        injections: [Chaos.fault({ rate: 0.1 }), Chaos.latency({ rate: 0.005, delay: "1 second" })]
      })
      assert.strictEqual(described(chaos), "fault 10 %, latency 0.5 % (off)")
      yield* chaos.setEnabled(true)
      assert.strictEqual(described(chaos), "fault 10 %, latency 0.5 % (on)")
      assert.strictEqual(
        described(yield* Chaos.make({ enabled: call.pipe(Effect.as(true)), injections: [] })),
        "nothing (on when asked)"
      )
      assert.strictEqual(chaos.name, "chaos")
      assert.isTrue(Chaos.isChaos(chaos))
      assert.isFalse(Chaos.isChaos({ name: "chaos" }))
      const { apply, reload, setEnabled } = chaos
      yield* setEnabled(false)
      yield* reload({ injections: [] })
      assert.strictEqual(yield* call.pipe(apply), "fresh")
    })
  )
})
