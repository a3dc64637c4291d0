import { assert, describe, it } from "@effect/vitest"
import { FallbackSessionStore, type SessionStore } from "@underlay/core"
import { Effect, Exit, Fiber, FiberRef, Option, Schedule } from "effect"
import { Manual } from "../resilience/manual.ts"
import { Interrupter } from "../resilience/steps.ts"
import * as Unsteady from "./unsteady.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 60)

const n = (session: Option.Option<SessionStore.Session>) =>
  Option.getOrUndefined(Option.map(session, (one) => one["n"]))

const operations: Readonly<
  Record<string, (store: SessionStore.Service) => Effect.Effect<unknown, SessionStore.SessionStoreError>>
> = {
  get: (store) => store.get("a"),
  "get of an unknown one": (store) => store.get("unknown"),
  getAndTouch: (store) => store.getAndTouch("a", "2 hours"),
  set: (store) => store.set("a", { n: 2, user_id: "ada" }),
  create: (store) => store.create("c", { n: 2 }),
  update: (store) => store.update("a", (session) => ({ ...session, n: 2 })),
  rotate: (store) => store.rotate("a", "r"),
  delete: (store) => store.delete("a"),
  deleteMany: (store) => store.deleteMany(["a", "b"]),
  deleteAllOf: (store) => store.deleteAllOf("ada")
}

/** What there can be of "a" when all is over: as before, or as it was to be. */
const outcomes = [1, 2, undefined]

/**
 * Interrupts an operation before its n-th step for every n, in one state of the store; then the store is there. Nothing may
 * be left: no change that is not replayed, no id that nobody can use, no mode that does not end.
 */
const everyStep = (
  name: string,
  operation: (store: SessionStore.Service) => Effect.Effect<unknown, SessionStore.SessionStoreError>,
  how: Unsteady.Away,
  isKnown: boolean
) =>
  Effect.gen(function* () {
    let interrupted = 0
    for (let step = 1; step < 2_000; step++) {
      const where = `${name}, step ${step}`
      const clock = new Manual()
      const reached = yield* Effect.scoped(
        Effect.gen(function* () {
          const unsteady = yield* Unsteady.memory()
          const reports: Array<FallbackSessionStore.Report> = []
          const fallback = yield* FallbackSessionStore.make(unsteady.store, {
            probe: Schedule.spaced("1 seconds"),
            recentFor: "1 day",
            onReport: (report) => Effect.sync(() => void reports.push(report))
          })
          const { store } = fallback
          yield* store.set("a", { n: 1, user_id: "ada" })
          yield* store.set("b", { n: 1 })
          unsteady.away = how
          if (isKnown) {
            yield* Effect.ignore(store.exists("anything"))
            yield* settle
          }
          const stepper = new Interrupter(step)
          const fiber = yield* Effect.fork(Effect.locally(operation(store), FiberRef.currentScheduler, stepper))
          yield* settle
          unsteady.away = undefined
          for (let second = 0; second < 3; second++) {
            clock.advance(1_000)
            yield* settle
          }
          const exit = fiber.unsafePoll()
          if (exit === null) return assert.fail(`still running, ${where}`)
          if (Exit.isInterrupted(exit)) interrupted++
          assert.strictEqual(yield* fallback.mode, "store", where)
          const { kept } = yield* fallback.stats
          assert.strictEqual(kept, 0, where)
          for (const report of reports) {
            assert.strictEqual(report.kept, report.replayed + report.expired + report.dropped, where)
            assert.deepStrictEqual(report.losses, [], where)
          }
          // what it says, the store has; and the session can be used
          const there = n(yield* unsteady.real.get("a"))
          assert.include(outcomes, there, where)
          assert.strictEqual(n(yield* store.get("a")), there, where)
          if (Exit.isSuccess(exit) && name === "set") assert.strictEqual(there, 2, where)
          if (there !== undefined) {
            yield* store.update("a", (session) => ({ ...session, n: 3 }))
            assert.strictEqual(n(yield* unsteady.real.get("a")), 3, where)
          }
          yield* Fiber.interrupt(fiber)
          return stepper.reached
        })
      ).pipe(Effect.withClock(clock))
      if (!reached) {
        assert.isAbove(interrupted, 1, name)
        return
      }
    }
    assert.fail(`${name} never ended`)
  })

describe("FallbackSessionStore: interrupted at every step", () => {
  for (const [name, operation] of Object.entries(operations)) {
    for (const how of ["refuses", "hangs up before", "hangs up after"] as const) {
      it.effect(`${name}, as the store goes away (${how})`, () => everyStep(name, operation, how, false))
    }
    it.effect(`${name}, while the store is away`, () => everyStep(name, operation, "refuses", true))
  }
})
