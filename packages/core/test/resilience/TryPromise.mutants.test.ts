/**
 * Calls that take an abort signal: what is counted where a promise settles, time is over and the caller leaves in the same
 * moment, and promises inside stages of one's own.
 */
import { assert, describe, it } from "@effect/vitest"
import { Policy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Cause, Data, Effect, Exit, Fiber, TestClock } from "effect"
import { Manual } from "./manual.ts"

class Busy extends Data.TaggedError("Busy")<{ readonly reason?: unknown }> {
  get isRetryable() {
    return true
  }
}

const busy = (reason: unknown) => new Busy({ reason })

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const make = (options: Omit<Policy.Options, "name"> = {}) =>
  Effect.zipLeft(
    Policy.make({
      name: "weather",
      retry: false,
      breaker: false,
      attemptTimeout: "1 second",
      metrics: true,
      ...options
    }),
    Effect.flatMap(Recording.Recording, (recording) => recording.clear)
  )

/** How the attempts have ended. */
const attempts = Effect.gen(function* () {
  const { metrics } = yield* Recording.Recording
  const found: Record<string, number> = {}
  for (const { after, before, labels, name } of yield* metrics) {
    if (name !== "resilience_attempts_total" || labels["policy"] !== "weather" || after === before) continue
    found[labels["outcome"] ?? ""] = after - before
  }
  return found
})

const test = (name: string, effect: Effect.Effect<void, unknown, Recording.Recording>) =>
  it.effect(name, () => Effect.provide(effect, Recording.layer))

const thenable = (then: (resolve: (value: number) => void) => void) => ({ then }) as unknown as PromiseLike<number>

const isInterrupted = (exit: Exit.Exit<unknown, unknown> | null) =>
  exit !== null && Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)

describe("a call that takes an abort signal is counted once", () => {
  test(
    "where its caller is interrupted just as its time is over: as a timeout",
    Effect.gen(function* () {
      const policy = yield* make()
      const caller: { fiber?: Fiber.RuntimeFiber<unknown, unknown> } = {}
      caller.fiber = yield* Effect.fork(
        policy.tryPromise((signal) => {
          signal.addEventListener("abort", () => caller.fiber?.unsafeInterruptAsFork(caller.fiber.id()))
          return new Promise(() => {})
        })
      )
      yield* TestClock.adjust("1 second")
      assert.isTrue(isInterrupted(caller.fiber.unsafePoll()))
      assert.deepStrictEqual(yield* attempts, { timeout: 1 })
      assert.deepStrictEqual(yield* policy.orphans, { current: 1, total: 1 })
    })
  )

  test(
    "where its caller is interrupted just as it succeeds: as a success",
    Effect.gen(function* () {
      const policy = yield* make()
      const caller: { fiber?: Fiber.RuntimeFiber<unknown, unknown>; resolve?: (value: number) => void } = {}
      const pending = thenable((resolve) => {
        caller.resolve = resolve
      })
      caller.fiber = yield* Effect.fork(policy.tryPromise(() => pending))
      yield* turn
      caller.resolve?.(1)
      caller.fiber.unsafeInterruptAsFork(caller.fiber.id())
      const exit = yield* Fiber.await(caller.fiber)
      assert.isTrue(isInterrupted(exit))
      assert.deepStrictEqual(yield* attempts, { success: 1 })
      assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 0 })
    })
  )

  test(
    "where its promise settles after an interruption: as cancelled",
    Effect.gen(function* () {
      const policy = yield* make()
      const settle: Array<(value: number) => void> = []
      const fiber = yield* Effect.fork(policy.tryPromise(() => new Promise<number>((resolve) => settle.push(resolve))))
      yield* turn
      // Also where there is no signal that could be aborted.
      assert.isTrue(isInterrupted(yield* Fiber.interrupt(fiber)))
      assert.deepStrictEqual(yield* attempts, { cancelled: 1 })
      settle[0]?.(1)
      yield* turn
      assert.deepStrictEqual(yield* attempts, { cancelled: 1 })
      assert.deepStrictEqual(yield* policy.orphans, { current: 0, total: 1 })
    })
  )
})

describe("a call that takes an abort signal", () => {
  test(
    "asks for no timer where it has settled at once, and for none where it has no limit of time",
    Effect.gen(function* () {
      const clock = new Manual()
      const limited = yield* make()
      const atOnce = thenable((resolve) => resolve(1))
      assert.strictEqual(yield* Effect.withClock(Effect.orDie(limited.tryPromise(() => atOnce)), clock), 1)
      assert.strictEqual(clock.sleepers.size, 0)
      const free = yield* make({ attemptTimeout: false, timeout: false })
      const fiber = yield* Effect.fork(
        Effect.withClock(
          free.tryPromise(() => new Promise(() => {})),
          clock
        )
      )
      yield* turn
      assert.strictEqual(clock.sleepers.size, 0)
      yield* Fiber.interrupt(fiber)
    })
  )

  test(
    "inside a stage of one's own fails with what `catch` makes of its rejection, and is interrupted with its stage",
    Effect.gen(function* () {
      const policy = yield* make({ stages: [Policy.stage({ name: "own", at: "inner", wrap: (effect) => effect })] })
      const error = yield* Effect.flip(policy.tryPromise({ try: () => Promise.reject("no"), catch: busy }))
      assert.isTrue(error._tag === "Busy" && error.reason === "no")
      assert.deepStrictEqual(yield* attempts, { failure: 1 })
      const fiber = yield* Effect.fork(policy.tryPromise(() => new Promise(() => {})))
      yield* turn
      assert.isTrue(isInterrupted(yield* Fiber.interrupt(fiber)))
      assert.deepStrictEqual(yield* attempts, { failure: 1, cancelled: 1 })
    })
  )
})
