/**
 * Interruption at every step: a scheduler that interrupts the caller before its n-th operation, for each n until the call
 * takes fewer. Whatever n is, nothing of the call may be left. And delays at every step: one that holds up whichever fiber
 * is at the n-th operation of all, so that each race is run in each order.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ExternalClient, Fallback, Policy, Timeout } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import {
  Cause,
  Chunk,
  Data,
  Deferred,
  Effect,
  Exit,
  Fiber,
  FiberRef,
  Option,
  type Scope,
  Stream,
  Supervisor
} from "effect"
import { Manual } from "./manual.ts"
import { Interrupter, Pauser } from "./steps.ts"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

interface Subject {
  readonly run: Effect.Effect<unknown, unknown>
  /** What is left, as pairs of a name and a number that must be zero. */
  readonly left: Effect.Effect<Readonly<Record<string, number>>>
}

/**
 * Reads a stream in the fiber at hand: one that is run has a fiber of its own, whose steps the schedulers here would not
 * see.
 */
const pulled = <A, E, R>(stream: Stream.Stream<A, E, R>, count = Number.POSITIVE_INFINITY): Effect.Effect<void, E, R> =>
  Effect.scoped(
    Effect.flatMap(Stream.toPull(stream), (pull) =>
      Effect.iterate(0, {
        while: (taken) => taken < count,
        body: (taken) => Effect.map(pull, (chunk) => taken + chunk.length)
      })
    )
  ).pipe(
    Effect.catchAll((end) => (Option.isNone(end) ? Effect.void : Effect.fail(end.value))),
    Effect.asVoid
  )

const everyStep = <R>(make: (clock: Manual) => Effect.Effect<Subject, never, R>) =>
  Effect.gen(function* () {
    let interrupted = 0
    for (let step = 1; step < 2_000; step++) {
      const clock = new Manual()
      const subject = yield* Effect.withClock(make(clock), clock)
      const stepper = new Interrupter(step)
      const before = yield* Timeout.orphans
      const started = yield* Supervisor.track
      const fiber = yield* Effect.fork(
        Effect.withClock(
          Effect.locally(Effect.supervised(subject.run, started), FiberRef.currentScheduler, stepper),
          clock
        )
      )
      for (let turns = 0; turns < 100 && (fiber.unsafePoll() === null || turns < 3); turns++) {
        yield* turn
        clock.advance(500)
      }
      const exit = fiber.unsafePoll()
      if (exit === null) return assert.fail(`still running, step ${step}`)
      const left = {
        ...(yield* Effect.withClock(subject.left, clock)),
        sleepers: clock.sleepers.size,
        fibers: (yield* started.value).length,
        orphans: (yield* Timeout.orphans).current - before.current
      }
      for (const [name, count] of Object.entries(left)) assert.strictEqual(count, 0, `${name}, step ${step}`)
      if (Exit.isInterrupted(exit)) interrupted++
      if (!stepper.reached) {
        assert.isAbove(interrupted, 3)
        return step
      }
    }
    return assert.fail("the call never ended")
  })

/** Runs the program once for each step at which one of its fibers can be held up. */
const everyPause = (
  program: (clock: Manual, paused: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    for (let step = 1; step < 5_000; step++) {
      const clock = new Manual()
      const pauser = new Pauser(step)
      const started = yield* Supervisor.track
      const before = yield* Timeout.orphans
      const paused = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.locally(Effect.supervised(effect, started), FiberRef.currentScheduler, pauser)
      yield* Effect.withClock(program(clock, paused), clock).pipe(
        Effect.catchAllDefect((defect) => Effect.die(new Error(`step ${step}`, { cause: defect })))
      )
      assert.deepStrictEqual(
        {
          sleepers: clock.sleepers.size,
          fibers: (yield* started.value).length,
          orphans: (yield* Timeout.orphans).current - before.current
        },
        { sleepers: 0, fibers: 0, orphans: 0 },
        `step ${step}`
      )
      if (!pauser.reached) {
        assert.isAbove(step, 50)
        return
      }
    }
    return assert.fail("the call never ended")
  })

/** A policy with every stage, half-open and with a probe for each attempt. */
const full = (clock: Manual, options: Partial<Policy.Options> = {}) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({
      name: "x",
      window: { type: "consecutive", failures: 1 },
      halfOpenPermits: 2_000
    })
    yield* Effect.exit(breaker.run(Effect.fail(new Busy())))
    clock.advance(30_000)
    const policy = yield* Effect.orDie(
      Policy.make({
        name: "x",
        timeout: "30 seconds",
        attemptTimeout: "5 seconds",
        retry: { attempts: 3, base: "1 second", jitter: "none" },
        budget: { type: "percentage", ratio: 1 },
        hedge: { delay: "1 second", maxHedges: 1 },
        throttle: {},
        rateLimit: { limit: 1_000, interval: "1 second", burst: 1, maxWait: "10 seconds", maxQueue: 2_000 },
        breaker,
        bulkhead: { maxConcurrent: 1_000, maxQueue: 1_000, maxWait: "10 seconds" },
        metrics: true,
        ...options
      })
    )
    const left = Effect.gen(function* () {
      const places = yield* policy.bulkhead?.snapshot ?? Effect.die("no bulkhead")
      const rate = yield* policy.rateLimit?.snapshot ?? Effect.die("no rate limit")
      const circuit = yield* breaker.snapshot
      return {
        probes: circuit.probesInFlight,
        permits: circuit.inFlight,
        places: places.active,
        queued: places.queued,
        waiting: rate.waiting
      }
    })
    return { policy, breaker, left }
  })

/** A promise that is settled by the clock, or by the abort. */
const promised = (clock: Manual, millis: number, seen: { running: number }) => (signal: AbortSignal) =>
  new Promise<string>((resolve, reject) => {
    seen.running++
    const sleeper = {
      left: millis,
      wake: () => {
        seen.running--
        resolve("done")
      }
    }
    clock.sleepers.add(sleeper)
    signal.addEventListener("abort", () => {
      clock.sleepers.delete(sleeper)
      seen.running--
      reject(signal.reason)
    })
  })

/** A call that waits in the middle and says whether it still runs. */
const work = () => {
  const seen = { running: 0 }
  return {
    seen,
    wait: Effect.acquireUseRelease(
      Effect.sync(() => seen.running++),
      () => Effect.sleep("1 second"),
      () => Effect.sync(() => seen.running--)
    )
  }
}

/** A breaker that lets one probe through and has not seen it yet. */
const halfOpen = (clock: Manual) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({ name: "x", window: { type: "consecutive", failures: 1 } })
    yield* Effect.exit(breaker.run(Effect.fail(new Busy())))
    clock.advance(30_000)
    return breaker
  })

const probes = (breaker: CircuitBreaker.CircuitBreaker) => Effect.map(breaker.snapshot, (seen) => seen.probesInFlight)

const limits = [
  ["with timeouts", { timeout: "10 seconds", attemptTimeout: "5 seconds" }],
  ["without timeouts", { timeout: false, attemptTimeout: false }]
] as const

describe.each(limits)("interrupted at every step, %s", (_, timeouts) => {
  const policy = (clock: Manual) =>
    Effect.gen(function* () {
      const breaker = yield* halfOpen(clock)
      return { breaker, policy: yield* Effect.orDie(Policy.make({ name: "x", breaker, retry: steady, ...timeouts })) }
    })

  it.effect("a call that waits", () =>
    everyStep((clock) =>
      Effect.gen(function* () {
        const { breaker, policy: made } = yield* policy(clock)
        const { seen, wait } = work()
        return {
          run: made.run(wait),
          left: Effect.map(probes(breaker), (probes) => ({ probes, running: seen.running }))
        }
      })
    )
  )

  it.effect("a call that ends at once", () =>
    everyStep((clock) =>
      Effect.gen(function* () {
        const { breaker, policy: made } = yield* policy(clock)
        return { run: made.run(Effect.void), left: Effect.map(probes(breaker), (probes) => ({ probes })) }
      })
    )
  )

  it.effect("a call that is made three times", () =>
    everyStep((clock) =>
      Effect.gen(function* () {
        const { breaker, policy: made } = yield* policy(clock)
        const { seen, wait } = work()
        let calls = 0
        return {
          // The errors are neutral for the breaker, so that every attempt is a probe.
          run: made.run(Effect.suspend(() => (++calls < 3 ? Effect.fail({ status: 429 }) : wait))),
          left: Effect.map(probes(breaker), (probes) => ({ probes, running: seen.running }))
        }
      })
    )
  )

  it.effect("a stream", () =>
    everyStep((clock) =>
      Effect.gen(function* () {
        const { breaker, policy: made } = yield* policy(clock)
        let open = 0
        let calls = 0
        const source = Stream.acquireRelease(
          Effect.sync(() => open++),
          () => Effect.sync(() => open--)
        ).pipe(
          Stream.flatMap(() =>
            ++calls < 2 ? Stream.fail({ status: 429 }) : Stream.concat(Stream.make(1), Stream.fromEffect(work().wait))
          )
        )
        return {
          run: pulled(made.stream(source, timeouts.timeout === false ? {} : { idleTimeout: "3 seconds" })),
          left: Effect.map(probes(breaker), (probes) => ({ probes, open }))
        }
      })
    )
  )

  const client = (clock: Manual) =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      const breaker = yield* halfOpen(clock)
      const made = yield* ExternalClient.make({ service: "x", policy: { breaker, retry: steady, ...timeouts } })
      const left = Effect.gen(function* () {
        const spans = yield* recording.spans
        const lines = yield* recording.lines
        const flying = (yield* recording.metrics).find((each) => each.name === "external_calls_in_flight")
        return {
          probes: yield* probes(breaker),
          inFlight: yield* made.inFlight,
          gauge: flying?.after ?? 0,
          spansNotEndedOnce: spans.filter((span) => span.ends !== 1).length,
          linesTooMany: spans.length - lines.filter((line) => line.annotations["service"] === "x").length
        }
      })
      return { recording, made, left }
    })

  it.scoped("a client's call", () =>
    everyStep((clock) =>
      Effect.gen(function* () {
        const { left, made, recording } = yield* client(clock)
        return { run: recording.within(made.call("wait", work().wait)), left }
      })
    )
  )

  it.scoped("a client's stream", () =>
    everyStep<Scope.Scope>((clock) =>
      Effect.gen(function* () {
        const { left, made, recording } = yield* client(clock)
        const source = Stream.concat(Stream.make(1), Stream.fromEffect(work().wait))
        return { run: recording.within(pulled(made.stream("wait", source))), left }
      })
    )
  )
})

describe("a client's stream with every limit, interrupted at every step", () => {
  const source = () => Stream.concat(Stream.make(1, 2), Stream.fromEffect(work().wait))
  type Source = Stream.Stream<unknown, Busy>
  const sources: ReadonlyArray<readonly [string, () => Source]> = [
    ["flows to its end", source],
    ["has a finalizer that takes time", () => Stream.ensuring(source(), Effect.sleep("300 millis"))],
    [
      "opens slowly",
      () =>
        Stream.unwrapScoped(
          Effect.as(
            Effect.acquireRelease(Effect.sleep("1 second"), () => Effect.sleep("100 millis")),
            source()
          )
        )
    ],
    [
      "says that it lives, before and after its first element",
      () =>
        Stream.concat(
          Stream.fromChunk(Chunk.empty<number>()),
          Stream.concat(source(), Stream.fromChunk(Chunk.empty<number>()))
        )
    ],
    ["breaks in the middle", () => Stream.concat(source(), Stream.fail(new Busy()))],
    ["stalls in the middle", () => Stream.concat(source(), Stream.never)],
    ["never has a first element", () => Stream.never],
    ["fails before its first element", () => Stream.drain(source()).pipe(Stream.concat(Stream.fail(new Busy())))],
    ["has a defect in the middle", () => Stream.concat(source(), Stream.die("oh"))]
  ]
  const readers: ReadonlyArray<
    readonly [string, (stream: Stream.Stream<unknown, unknown>) => Effect.Effect<unknown, unknown>]
  > = [
    ["read to its end", (stream) => pulled(stream)],
    ["left early", (stream) => pulled(stream, 1)],
    ["run", Stream.runDrain]
  ]
  for (const [name, source] of sources) {
    for (const [how, read] of readers) {
      it.scoped(`${name}, ${how}`, () =>
        everyStep<Scope.Scope>((clock) =>
          Effect.gen(function* () {
            const recording = yield* Recording.make
            const breaker = yield* halfOpen(clock)
            const policy = yield* Effect.orDie(
              Policy.make({
                name: "limited",
                breaker,
                timeout: "20 seconds",
                retry: { attempts: 2, base: "1 second", jitter: "none" },
                bulkhead: { maxConcurrent: 1, maxQueue: 2, maxWait: "10 seconds" }
              })
            )
            const made = yield* ExternalClient.make({ service: "limited", policy })
            const bulkhead = yield* Effect.orDie(Effect.fromNullable(policy.bulkhead))
            const limits = { firstElementTimeout: "4 seconds", idleTimeout: "3 seconds" } as const
            const stream =
              how === "left early"
                ? made.stream("read", source(), { ...limits, fallback: Fallback.value(Stream.make(7)) })
                : made.stream("read", source(), limits)
            const left = Effect.gen(function* () {
              const spans = (yield* recording.spans).filter(({ name }) => name === "limited.read")
              const lines = (yield* recording.lines).filter(({ annotations }) => annotations["service"] === "limited")
              const metrics = yield* recording.metrics
              const sum = (name: string) =>
                metrics
                  .filter((each) => each.name === name && each.labels["service"] === "limited")
                  .reduce((all, each) => all + each.after - each.before, 0)
              return {
                probes: yield* probes(breaker),
                inFlight: yield* made.inFlight,
                places: (yield* bulkhead.snapshot).active,
                queued: (yield* bulkhead.snapshot).queued,
                spansNotEndedOnce: spans.filter((span) => span.ends !== 1).length,
                linesTooMany: lines.length - spans.length,
                callsNotCountedOnce: sum("external_calls_total") - spans.length
              }
            })
            return { run: recording.within(read(stream)), left }
          })
        )
      )
    }
  }
})

describe("500 callers, each interrupted at a step of its own", () => {
  it.effect.each(limits)("%s", ([, timeouts]) =>
    Effect.gen(function* () {
      const clock = new Manual()
      const program = Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({
          name: "x",
          window: { type: "consecutive", failures: 1 },
          halfOpenPermits: 1_000
        })
        yield* Effect.exit(breaker.run(Effect.fail(new Busy())))
        clock.advance(30_000)
        const client = yield* ExternalClient.make({ service: "many", policy: { breaker, retry: false, ...timeouts } })
        const { seen, wait } = work()
        const before = yield* Timeout.orphans
        const fibers = yield* Effect.forEach(Array.from({ length: 500 }), (_, n) =>
          Effect.fork(
            Effect.locally(client.call("wait", wait), FiberRef.currentScheduler, new Interrupter(1 + (n % 90)))
          )
        )
        for (let turns = 0; turns < 10; turns++) {
          yield* turn
          clock.advance(500)
        }
        const ended = fibers.filter((fiber) => fiber.unsafePoll() !== null).length
        const { counters, probesInFlight } = yield* breaker.snapshot
        assert.deepStrictEqual(
          {
            ended,
            running: seen.running,
            probesInFlight,
            inFlight: yield* client.inFlight,
            sleepers: clock.sleepers.size,
            orphans: (yield* Timeout.orphans).current - before.current,
            failures: counters.failures
          },
          { ended: 500, running: 0, probesInFlight: 0, inFlight: 0, sleepers: 0, orphans: 0, failures: 1 }
        )
        assert.isAbove(counters.neutral, 50)
        assert.isAbove(counters.successes, 50)
      })
      yield* Effect.scoped(Effect.withClock(program, clock))
    })
  )
})

describe("the full pipeline, interrupted at every step", () => {
  const waits = { "there is room": false, "it waits for its turn": true } as const

  for (const [name, isBusy] of Object.entries(waits)) {
    /** Somebody else has all places for a while, and the tokens of the rate limit come one by one. */
    const crowded = (clock: Manual, options: Partial<Policy.Options> = {}) =>
      Effect.gen(function* () {
        if (!isBusy) return yield* full(clock, options)
        const made = yield* full(clock, {
          bulkhead: { maxConcurrent: 2, maxQueue: 10, maxWait: "20 seconds" },
          rateLimit: { limit: 2, interval: "1 second", burst: 1, maxWait: "10 seconds", maxQueue: 10 },
          ...options
        })
        yield* Effect.forkDaemon(made.policy.bulkhead?.run(Effect.sleep("1 second"), { weight: 2 }) ?? Effect.void)
        yield* made.policy.rateLimit?.tryTake() ?? Effect.void
        return made
      })

    it.effect(`a call that is hedged and made again, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock)
          const { seen, wait } = work()
          let calls = 0
          const call = Effect.suspend(() => (++calls < 3 ? Effect.fail({ status: 429 }) : Effect.zipRight(wait, wait)))
          return { run: policy.run(call), left: Effect.map(left, (left) => ({ ...left, running: seen.running })) }
        })
      )
    )

    it.effect(`the same without a hedge, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock, { hedge: false })
          const { seen, wait } = work()
          let calls = 0
          const call = Effect.suspend(() => (++calls < 3 ? Effect.fail({ status: 429 }) : wait))
          return { run: policy.run(call), left: Effect.map(left, (left) => ({ ...left, running: seen.running })) }
        })
      )
    )

    it.effect(`a call that takes an abort signal, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock)
          const seen = { running: 0 }
          let calls = 0
          const ask = promised(clock, 2_000, seen)
          return {
            run: policy.tryPromise({
              try: (signal) => (++calls < 2 ? Promise.reject({ status: 429 }) : ask(signal)),
              catch: (error) => error
            }),
            left: Effect.map(left, (left) => ({ ...left, running: seen.running }))
          }
        })
      )
    )

    it.effect(`a call that takes an abort signal, without a hedge, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock, { hedge: false })
          const seen = { running: 0 }
          return {
            run: policy.tryPromise(promised(clock, 2_000, seen)),
            left: Effect.map(left, (left) => ({ ...left, running: seen.running }))
          }
        })
      )
    )

    it.effect(`a call that takes an abort signal, inside a stage, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock, {
            hedge: false,
            stages: [
              Policy.stage({ name: "inner", at: "inner", wrap: (effect) => effect }),
              Policy.stage({ name: "attempt", at: "attempt", wrap: (effect) => effect }),
              Policy.stage({ name: "call", at: "call", wrap: (effect) => effect })
            ]
          })
          const seen = { running: 0 }
          return {
            run: policy.tryPromise(promised(clock, 2_000, seen)),
            left: Effect.map(left, (left) => ({ ...left, running: seen.running }))
          }
        })
      )
    )

    it.effect(`a stream, ${name}`, () =>
      everyStep((clock) =>
        Effect.gen(function* () {
          const { left, policy } = yield* crowded(clock)
          let open = 0
          let calls = 0
          const source = Stream.acquireRelease(
            Effect.sync(() => open++),
            () => Effect.sync(() => open--)
          ).pipe(
            Stream.flatMap(() =>
              ++calls < 2
                ? Stream.fail({ status: 429 })
                : Stream.concat(Stream.fromEffect(Effect.sleep("1500 millis")), Stream.fromEffect(work().wait))
            )
          )
          return {
            run: pulled(policy.stream(source, { idleTimeout: "3 seconds" })),
            left: Effect.map(left, (left) => ({ ...left, open }))
          }
        })
      )
    )
  }
})

describe("500 callers through the full pipeline, each interrupted at a step of its own", () => {
  const kinds = {
    "an effect": (policy: Policy.Policy, _clock: Manual, seen: { running: number }) =>
      policy.run(
        Effect.acquireUseRelease(
          Effect.sync(() => seen.running++),
          () => Effect.sleep("1500 millis"),
          () => Effect.sync(() => seen.running--)
        )
      ),
    "a promise": (policy: Policy.Policy, clock: Manual, seen: { running: number }) =>
      policy.tryPromise(promised(clock, 1_500, seen)),
    "a stream": (policy: Policy.Policy, _clock: Manual, seen: { running: number }) =>
      pulled(
        policy.stream(
          Stream.acquireRelease(
            Effect.sync(() => seen.running++),
            () => Effect.sync(() => seen.running--)
          ).pipe(
            Stream.flatMap(() =>
              Stream.concat(
                Stream.fromEffect(Effect.sleep("1200 millis")),
                Stream.fromEffect(Effect.sleep("300 millis"))
              )
            )
          )
        )
      )
  }

  for (const [name, call] of Object.entries(kinds)) {
    it.effect(`leave nothing: ${name}`, () =>
      Effect.gen(function* () {
        const clock = new Manual()
        const program = Effect.gen(function* () {
          const { breaker, left, policy } = yield* full(clock, {
            timeout: "2 minutes",
            rateLimit: { limit: 500, interval: "1 second", burst: 200, maxWait: "30 seconds", maxQueue: 2_000 },
            bulkhead: { maxConcurrent: 100, maxQueue: 2_000, maxWait: "1 minute" }
          })
          const before = yield* Timeout.orphans
          const started = yield* Supervisor.track
          const seen = { running: 0 }
          const fibers = yield* Effect.forEach(Array.from({ length: 500 }), (_, n) =>
            Effect.fork(
              Effect.locally(
                Effect.supervised(call(policy, clock, seen), started),
                FiberRef.currentScheduler,
                new Interrupter(1 + (name === "a stream" ? 2 * n : n % 100))
              )
            )
          )
          for (let turns = 0; turns < 150; turns++) {
            yield* turn
            clock.advance(500)
          }
          const ended = fibers.filter((fiber) => fiber.unsafePoll() !== null)
          const succeeded = ended.filter((fiber) => Exit.isSuccess(fiber.unsafePoll() ?? Exit.void)).length
          assert.deepStrictEqual(
            {
              ended: ended.length,
              running: seen.running,
              sleepers: clock.sleepers.size,
              fibers: (yield* started.value).length,
              orphans: (yield* Timeout.orphans).current - before.current,
              failures: (yield* breaker.snapshot).counters.failures,
              ...(yield* left)
            },
            {
              ended: 500,
              running: 0,
              sleepers: 0,
              fibers: 0,
              orphans: 0,
              failures: 1,
              probes: 0,
              permits: 0,
              places: 0,
              queued: 0,
              waiting: 0
            }
          )
          assert.isAbove(succeeded, 50)
          assert.isAbove(500 - succeeded, 50)
        })
        yield* Effect.withClock(program, clock)
      })
    )
  }
})

describe("a race, with each fiber held up at every step", () => {
  const turns = (clock: Manual, millis: number) =>
    Effect.gen(function* () {
      for (let i = 0; i < 4; i++) yield* turn
      clock.advance(millis)
      for (let i = 0; i < 6; i++) yield* turn
    })

  const none = { probes: 0, permits: 0, places: 0, queued: 0, waiting: 0 }

  it.effect("of calls that end in the same moment: one result, and nothing left", () =>
    everyPause((clock, paused) =>
      Effect.gen(function* () {
        const { breaker, left, policy } = yield* full(clock)
        const gate = yield* Deferred.make<void>()
        let calls = 0
        const call = Effect.suspend(() => Effect.as(Deferred.await(gate), ++calls))
        const fiber = yield* Effect.fork(paused(policy.run(call)))
        yield* turns(clock, 1_000)
        yield* turns(clock, 1)
        assert.strictEqual(calls, 2)
        yield* Deferred.succeed(gate, undefined)
        yield* turns(clock, 0)
        const exit = fiber.unsafePoll()
        assert.isTrue(exit !== null && Exit.isSuccess(exit))
        assert.deepStrictEqual(yield* left, none)
        const { neutral, successes } = (yield* breaker.snapshot).counters
        assert.isAtLeast(successes, 1)
        assert.strictEqual(successes + neutral, 2)
      })
    )
  )

  for (const attemptTimeout of ["5 seconds", false] as const) {
    it.effect(`of streams that open in the same moment: one flows, the other is closed, ${attemptTimeout}`, () =>
      everyPause((clock, paused) =>
        Effect.gen(function* () {
          const { left, policy } = yield* full(clock, {
            attemptTimeout,
            timeout: attemptTimeout === false ? false : "30 seconds"
          })
          const gate = yield* Deferred.make<void>()
          const open: Array<number> = []
          const read: Array<number> = []
          let opened = 0
          const source = Stream.unwrapScoped(
            Effect.acquireRelease(
              Effect.sync(() => {
                open.push(++opened)
                return opened
              }),
              (n) => Effect.sync(() => open.splice(open.indexOf(n), 1))
            ).pipe(
              Effect.map((n) => Stream.concat(Stream.fromEffect(Effect.as(Deferred.await(gate), n)), Stream.never))
            )
          )
          const fiber = yield* Effect.fork(
            paused(Stream.runForEach(policy.stream(source), (n) => Effect.sync(() => read.push(n))))
          )
          yield* turns(clock, 1_000)
          yield* turns(clock, 1)
          assert.deepStrictEqual(open, [1, 2])
          yield* Deferred.succeed(gate, undefined)
          yield* turns(clock, 0)
          assert.strictEqual(read.length, 1)
          assert.deepStrictEqual(open, read)
          assert.deepInclude(yield* left, { places: 1, permits: 1, queued: 0, waiting: 0 })
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(open, [])
          assert.deepStrictEqual(yield* left, none)
        })
      )
    )
  }

  it.effect("of a timeout and the end of the work: one or the other, and nothing left", () =>
    everyPause((clock, paused) =>
      Effect.gen(function* () {
        const { breaker, left, policy } = yield* full(clock, { hedge: false, retry: false })
        const fiber = yield* Effect.fork(paused(policy.run(Effect.sleep("5 seconds"))))
        yield* turns(clock, 1)
        yield* turns(clock, 5_000)
        yield* turns(clock, 1)
        assert.isNotNull(fiber.unsafePoll())
        assert.deepStrictEqual(yield* left, none)
        const { failures, successes } = (yield* breaker.snapshot).counters
        assert.strictEqual(failures + successes, 2)
      })
    )
  )

  it.effect("of an interruption and the end of the wait for a place: the place is somebody's or free", () =>
    everyPause((clock, paused) =>
      Effect.gen(function* () {
        const { left, policy } = yield* full(clock, {
          hedge: false,
          bulkhead: { maxConcurrent: 1, maxQueue: 10, maxWait: "20 seconds" }
        })
        const gate = yield* Deferred.make<void>()
        const first = yield* Effect.fork(paused(policy.run(Deferred.await(gate))))
        yield* turns(clock, 1)
        const second = yield* Effect.fork(paused(policy.run(Effect.void)))
        const third = yield* Effect.fork(paused(policy.run(Effect.void)))
        yield* turns(clock, 1)
        yield* Deferred.succeed(gate, undefined)
        second.unsafeInterruptAsFork(second.id())
        for (let i = 0; i < 3; i++) yield* turns(clock, 1)
        for (const fiber of [first, third]) assert.isTrue(Exit.isSuccess(fiber.unsafePoll() ?? Exit.die("running")))
        const exit = second.unsafePoll()
        assert.isTrue(exit !== null && (Exit.isSuccess(exit) || Cause.isInterruptedOnly(exit.cause)))
        assert.deepStrictEqual(yield* left, none)
      })
    )
  )
})

describe("a stream that waits for its first element", () => {
  it.live("ends at once when its reader is interrupted", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      const fiber = yield* Effect.fork(Stream.runDrain(policy.stream(Stream.never)))
      yield* turn
      const exit = yield* Effect.timeoutOption(Fiber.interrupt(fiber), "20 seconds")
      assert.isTrue(exit._tag === "Some" && Exit.isInterrupted(exit.value))
      assert.strictEqual((yield* policy.breaker?.snapshot ?? Effect.die("none")).counters.neutral, 1)
    })
  )
})
