/**
 * Whatever step of a load its caller is interrupted at, the next caller of that key is answered.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cache } from "@underlay/core"
import { Effect, type Fiber, FiberRef, Option, Scheduler, Schema } from "effect"

/** Interrupts the first fiber that it sees, before that takes its `step`th step. */
const interrupting = (step: number) => {
  let target: Fiber.RuntimeFiber<unknown, unknown> | undefined
  let taken = 0
  const scheduler: Scheduler.Scheduler = {
    shouldYield: (fiber) => {
      target ??= fiber
      if (fiber !== target || ++taken !== step) return false
      fiber.unsafeInterruptAsFork(fiber.id())
      // it yields here, and finds the interruption when it goes on
      return 0
    },
    scheduleTask: (task, priority) => Scheduler.defaultScheduler.scheduleTask(task, priority)
  }
  return { scheduler, reached: () => taken >= step }
}

describe("Cache.getOrElse", () => {
  it.live("an interruption at any step leaves no flight that never lands", () =>
    Effect.gen(function* () {
      let interrupted = 0
      for (let step = 1; step < 500; step++) {
        const { reached, scheduler } = interrupting(step)
        const numbers = yield* Cache.make({ namespace: "numbers", schema: Schema.Number })
        const one = numbers.getOrElse("one", Effect.as(Effect.yieldNow(), 1))
        const fiber = yield* Effect.fork(Effect.locally(Effect.exit(one), FiberRef.currentScheduler, scheduler))
        yield* fiber.await
        const answer = yield* Effect.timeoutOption(one, "20 seconds")
        assert.deepStrictEqual(answer, Option.some(1), `interrupted at step ${step}`)
        yield* numbers.clear
        if (!reached()) break
        interrupted++
      }
      assert.isAbove(interrupted, 10)
    }).pipe(Effect.provide(Cache.layerMemory()))
  )
})
