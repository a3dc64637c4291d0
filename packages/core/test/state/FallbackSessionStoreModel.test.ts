import { assert, describe, it } from "@effect/vitest"
import { FallbackSessionStore, type SessionStore } from "@underlay/core"
import { Effect, Either, FastCheck, Option, Schedule, TestClock } from "effect"
import * as Unsteady from "./unsteady.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 300)

type Ours = "set" | "create" | "update" | "delete" | "rotate" | "touch"

type Theirs = "set" | "update" | "delete"

type Step =
  | { readonly who: "we"; readonly what: Ours; readonly id: number }
  | { readonly who: "others"; readonly what: Theirs; readonly id: number }
  | { readonly who: "time"; readonly what: "passes"; readonly seconds: number }

const step: FastCheck.Arbitrary<Step> = FastCheck.oneof(
  {
    weight: 6,
    arbitrary: FastCheck.record({
      who: FastCheck.constant("we" as const),
      what: FastCheck.constantFrom<Ours>("set", "create", "update", "update", "delete", "rotate", "touch"),
      id: FastCheck.nat(4)
    })
  },
  {
    weight: 3,
    arbitrary: FastCheck.record({
      who: FastCheck.constant("others" as const),
      what: FastCheck.constantFrom<Theirs>("set", "update", "delete"),
      id: FastCheck.nat(4)
    })
  },
  {
    weight: 1,
    arbitrary: FastCheck.record({
      who: FastCheck.constant("time" as const),
      what: FastCheck.constant("passes" as const),
      seconds: FastCheck.constantFrom(10, 50, 70)
    })
  }
)

const ways = FastCheck.constantFrom<Unsteady.Away>("refuses", "hangs up before", "hangs up after")

const ttl = { ttl: "10 hours" } as const

/**
 * One outage of a store that others go on using. The model: what we have of each session, what the others have, and who
 * touched what. Every write has a number of its own, so that nothing is right by chance.
 */
const outage = (how: Unsteady.Away, steps: ReadonlyArray<Step>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const unsteady = yield* Unsteady.memory()
      const { real } = unsteady
      const fallback = yield* FallbackSessionStore.make(unsteady.store, {
        recentFor: "365 days",
        unknown: "none",
        probe: Schedule.spaced("1 hour")
      })
      const { store } = fallback
      let number = 0
      const ours = new Map<string, number | undefined>()
      const theirs = new Map<string, number | undefined>()
      /** Sessions whose text or existence we changed, that we made anew after deleting them, that the others touched. */
      const changed = new Set<string>()
      const anew = new Set<string>()
      const touched = new Set<string>()
      const origin = new Map<string, string>()
      /** What the others wrote after all that we may have sent. */
      const newer = new Set<string>()
      /** What was said to be unknown. */
      const murky = new Set<string>()
      const isOthers = (id: string): boolean => {
        const from = origin.get(id)
        return touched.has(id) || (from !== undefined && isOthers(from))
      }
      for (let id = 0; id < 5; id++) {
        yield* store.set(`s${id}`, { n: ++number }, ttl)
        ours.set(`s${id}`, number)
        theirs.set(`s${id}`, number)
      }
      unsteady.away = how
      let first = true
      for (const { what, who, ...rest } of steps) {
        if (who === "time") {
          yield* TestClock.adjust(`${"seconds" in rest ? rest.seconds : 0} seconds`)
          continue
        }
        const id = `s${"id" in rest ? rest.id : 0}`
        const n = ++number
        if (who === "others") {
          const done = yield* Effect.either<boolean, SessionStore.SessionStoreError, never>(
            what === "set"
              ? Effect.as(real.set(id, { n }, ttl), true)
              : what === "delete"
                ? real.delete(id)
                : Effect.map(
                    real.update(id, () => ({ n })),
                    Option.isSome
                  )
          )
          if (what === "delete") {
            theirs.set(id, undefined)
            touched.add(id)
          } else if (Either.isRight(done) && done.right) {
            theirs.set(id, n)
            touched.add(id)
            if (!first) newer.add(id)
          }
          continue
        }
        const before = ours.get(id)
        switch (what) {
          case "set": {
            const done = yield* Effect.either(store.set(id, { n }, ttl))
            if (Either.isLeft(done)) {
              assert.deepStrictEqual([done.left.reason, before], ["SessionGone", undefined])
              break
            }
            if (before === undefined) anew.add(id)
            ours.set(id, n)
            changed.add(id)
            break
          }
          case "create": {
            const created = yield* Effect.either(store.create(id, { n }, ttl))
            if (Either.isLeft(created)) {
              // it was done or not where we have a session by that id and the others have none
              assert.isTrue(first && created.left.outcome === "unknown" && before !== undefined)
              murky.add(id)
              break
            }
            assert.strictEqual(created.right, before === undefined)
            if (!created.right) break
            anew.add(id)
            ours.set(id, n)
            changed.add(id)
            break
          }
          case "update": {
            const updated = yield* Effect.either(store.update(id, () => ({ n })))
            if (Either.isRight(updated)) assert.strictEqual(Option.isSome(updated.right), before !== undefined)
            else assert.deepStrictEqual([updated.left.reason, before], ["SessionGone", undefined])
            if (before === undefined) break
            ours.set(id, n)
            changed.add(id)
            break
          }
          case "delete": {
            assert.strictEqual(yield* store.delete(id), before !== undefined)
            ours.set(id, undefined)
            changed.add(id)
            anew.delete(id)
            break
          }
          case "rotate": {
            const to = `r${n}`
            const moved = yield* Effect.either(store.rotate(id, to))
            if (before === undefined) break
            assert.deepStrictEqual(moved, Either.right(Option.some(to)))
            ours.set(to, before)
            ours.set(id, undefined)
            theirs.set(to, undefined)
            // a session that was made anew here has no other past
            if (!anew.has(id)) origin.set(to, id)
            changed.add(id).add(to)
            anew.delete(id)
            break
          }
          case "touch":
            assert.strictEqual(Option.isSome(yield* store.getAndTouch(id, "10 hours")), before !== undefined)
        }
        // it reads what it wrote
        assert.deepStrictEqual(
          Option.map(yield* store.get(id), (session) => session["n"]),
          Option.fromNullable(ours.get(id)),
          `${what} ${id}`
        )
        if (first) unsteady.away = "refuses"
        first = false
      }
      unsteady.away = undefined
      yield* TestClock.adjust("1 hour")
      yield* settle
      assert.strictEqual(yield* fallback.mode, "store")
      const report = Option.getOrUndefined(yield* fallback.lastReport)
      if (report === undefined) return
      assert.strictEqual(report.kept, report.replayed + report.expired + report.dropped)
      for (const id of ours.keys()) {
        if (murky.has(id)) continue
        const there = Option.getOrUndefined(Option.map(yield* real.get(id), (session) => session["n"]))
        const loss = report.losses.find((one) => one.id === id)
        const where = `${id}: ${JSON.stringify(loss)}`
        // nothing comes back that died on either side
        if (changed.has(id) && ours.get(id) === undefined) assert.strictEqual(there, undefined, where)
        if (theirs.get(id) === undefined && touched.has(id) && !anew.has(id))
          assert.strictEqual(there, undefined, where)
        // nor is anything newer written over, but by a deletion
        if (newer.has(id) && theirs.get(id) !== undefined && ours.get(id) !== undefined && !anew.has(id)) {
          assert.strictEqual(there, theirs.get(id), where)
        }
        if (loss !== undefined) assert.isTrue(isOthers(id) || loss.why === "uncertain", where)
        else if (!changed.has(id)) assert.strictEqual(there, theirs.get(id), where)
        // what others made of a session that we moved goes along
        else if (!(origin.has(id) && isOthers(id))) assert.strictEqual(there, ours.get(id), where)
        assert.strictEqual(Option.getOrUndefined(Option.map(yield* store.get(id), (one) => one["n"])), there, where)
      }
    })
  )

describe("FallbackSessionStore and others at the same store", () => {
  it.effect.prop(
    "nothing acknowledged is lost without being told, and nothing comes back",
    { how: ways, steps: FastCheck.array(step, { maxLength: 25, size: "max" }) },
    ({ how, steps }) => outage(how, steps),
    { fastCheck: { numRuns: 60 } }
  )
})
