/**
 * Interruption at every step: a scheduler that interrupts the caller before its n-th operation, for each n until the call
 * takes fewer. Whatever n is, nothing of the call may be left.
 */
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ExternalClient, Policy, Timeout } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Clock, Data, Duration, Effect, Exit, Fiber, FiberRef, Scheduler, type Scope, Stream } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

/** Interrupts the first fiber that it sees once that has taken `step` steps. */
class Stepper implements Scheduler.Scheduler {
  taken = 0
  private readonly step: number
  private target: Fiber.RuntimeFiber<unknown, unknown> | undefined
  constructor(step: number) {
    this.step = step
  }
  get reached() {
    return this.taken >= this.step
  }
  shouldYield(fiber: Fiber.RuntimeFiber<unknown, unknown>): number | false {
    this.target ??= fiber
    if (fiber === this.target && ++this.taken === this.step) fiber.unsafeInterruptAsFork(fiber.id())
    return false
  }
  scheduleTask(task: Scheduler.Task, priority: number): void {
    Scheduler.defaultScheduler.scheduleTask(task, priority)
  }
}

/** A clock whose sleeps are plain callbacks: the steps of a sleep are those of the call, not of a test's bookkeeping. */
class Manual implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  readonly sleepers = new Set<{ readonly at: number; readonly wake: () => void }>()
  now = 0
  readonly currentTimeMillis = Effect.sync(() => this.now)
  readonly currentTimeNanos = Effect.sync(() => BigInt(this.now) * 1_000_000n)
  unsafeCurrentTimeMillis(): number {
    return this.now
  }
  unsafeCurrentTimeNanos(): bigint {
    return BigInt(this.now) * 1_000_000n
  }
  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        // Not by the canceller of `Effect.async`, which an interruption right after the registration does not call.
        let woken: ((effect: Effect.Effect<void>) => void) | undefined
        const sleeper = { at: this.now + Duration.toMillis(duration), wake: () => woken?.(Effect.void) }
        this.sleepers.add(sleeper)
        const wait = Effect.async<void>((resume) => {
          woken = resume
        })
        return Effect.ensuring(
          restore(wait),
          Effect.sync(() => this.sleepers.delete(sleeper))
        )
      })
    )
  }
  advance(millis: number): void {
    this.now += millis
    for (const sleeper of this.sleepers) {
      if (sleeper.at > this.now) continue
      this.sleepers.delete(sleeper)
      sleeper.wake()
    }
  }
}

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

interface Subject {
  readonly run: Effect.Effect<unknown, unknown>
  /** What is left, as pairs of a name and a number that must be zero. */
  readonly left: Effect.Effect<Readonly<Record<string, number>>>
}

const everyStep = <R>(make: (clock: Manual) => Effect.Effect<Subject, never, R>) =>
  Effect.gen(function* () {
    let interrupted = 0
    for (let step = 1; step < 2_000; step++) {
      const clock = new Manual()
      const subject = yield* Effect.withClock(make(clock), clock)
      const stepper = new Stepper(step)
      const before = yield* Timeout.orphans
      const fiber = yield* Effect.fork(
        Effect.withClock(Effect.locally(subject.run, FiberRef.currentScheduler, stepper), clock)
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
          run: Stream.runDrain(made.stream(source, timeouts.timeout === false ? {} : { idleTimeout: "3 seconds" })),
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
        return { run: recording.within(Stream.runDrain(made.stream("wait", source))), left }
      })
    )
  )
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
          Effect.fork(Effect.locally(client.call("wait", wait), FiberRef.currentScheduler, new Stepper(1 + (n % 90))))
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

describe("a stream that waits for its first element", () => {
  it.live("ends at once when its reader is interrupted", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "x" })
      const fiber = yield* Effect.fork(Stream.runDrain(policy.stream(Stream.never)))
      yield* turn
      const exit = yield* Effect.timeoutOption(Fiber.interrupt(fiber), "2 seconds")
      assert.isTrue(exit._tag === "Some" && Exit.isInterrupted(exit.value))
      assert.strictEqual((yield* policy.breaker?.snapshot ?? Effect.die("none")).counters.neutral, 1)
    })
  )
})
