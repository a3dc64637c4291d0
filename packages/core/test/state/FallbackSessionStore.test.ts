import { assert, describe, it } from "@effect/vitest"
import { FallbackSessionStore, type SessionEvents, SessionStore, SessionTtl } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Context, Effect, Exit, Fiber, Layer, Option, Schedule, Scope, Stream, TestClock } from "effect"
import * as Unsteady from "./unsteady.ts"

const settle = Effect.repeatN(Effect.yieldNow(), 300)

const probe = Schedule.spaced("10 seconds")

const make = (options: FallbackSessionStore.Options = {}) =>
  Effect.gen(function* () {
    // the bounds are the fallback's
    const unsteady = yield* Unsteady.memory({ ...options, capacity: undefined })
    const fallback = yield* FallbackSessionStore.make(unsteady.store, { probe, ...options })
    const back = Effect.gen(function* () {
      unsteady.away = undefined
      yield* TestClock.adjust("10 seconds")
      yield* settle
      assert.strictEqual(yield* fallback.mode, "store")
      return Option.getOrThrow(yield* fallback.lastReport)
    })
    const away = (how: Unsteady.Away = "refuses") =>
      Effect.gen(function* () {
        unsteady.away = how
        yield* Effect.ignore(fallback.store.exists("anything"))
        yield* settle
        assert.strictEqual(yield* fallback.mode, "fallback")
      })
    return { unsteady, real: unsteady.real, fallback, store: fallback.store, away, back }
  })

const n = (session: Option.Option<SessionStore.Session>) => Option.map(session, (one) => one["n"])

const plus = (session: SessionStore.Session) => ({ ...session, n: Number(session["n"]) + 1 })

const whys = (report: FallbackSessionStore.Report) => report.losses.map(({ change, id, why }) => [id, change, why])

describe("FallbackSessionStore", () => {
  it.scoped("what is written while the store is away is read here, and is in the store when it is back", () =>
    Effect.gen(function* () {
      const { away, back, fallback, real, store } = yield* make()
      yield* store.set("known", { n: 1, user_id: "ada" })
      yield* away()
      yield* store.update("known", plus)
      yield* store.set("new", { n: 10 }, { ttl: "10 minutes" })
      assert.isTrue(yield* store.create("created", { n: 20 }))
      assert.deepStrictEqual(n(yield* store.get("known")), Option.some(2))
      assert.deepStrictEqual(n(yield* store.get("new")), Option.some(10))
      assert.deepStrictEqual(n(yield* real.get("known")), Option.some(1))
      yield* TestClock.adjust("5 minutes")
      const report = yield* back
      assert.deepStrictEqual([report.kept, report.replayed, report.dropped, report.expired], [3, 3, 0, 0])
      assert.deepStrictEqual(n(yield* real.get("known")), Option.some(2))
      assert.deepStrictEqual(n(yield* real.get("created")), Option.some(20))
      assert.deepStrictEqual(
        (yield* real.sessionsOf("ada")).map((one) => one.id),
        ["known"]
      )
      // its time went on while the store was away
      yield* TestClock.adjust("4 minutes")
      assert.isTrue(yield* real.exists("new"))
      yield* TestClock.adjust("1 minutes")
      assert.isFalse(yield* real.exists("new"))
      assert.deepStrictEqual((yield* fallback.stats).kept, 0)
    })
  )

  it.scoped("deletions made meanwhile are replayed, whatever became of the session in the store (complaint 16)", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      for (const id of ["a", "b", "c"]) yield* store.set(id, { n: 1, user_id: "ada" })
      yield* away()
      assert.isTrue(yield* store.delete("a"))
      assert.strictEqual(yield* store.deleteMany(["b", "unknown"]), 1)
      assert.strictEqual((yield* Effect.flip(store.set("a", { n: 2 }))).reason, "SessionGone")
      // another process goes on with it
      yield* real.update("a", plus)
      const report = yield* back
      assert.deepStrictEqual([report.kept, report.replayed, report.dropped], [3, 3, 0])
      for (const id of ["a", "b"]) {
        assert.isFalse(yield* real.exists(id))
        assert.strictEqual((yield* Effect.flip(real.set(id, {}))).reason, "SessionGone")
      }
      assert.isTrue(yield* real.exists("c"))
    })
  )

  it.scoped("what the store has by now wins over what was kept (complaint 16)", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* store.set("a", { n: 1 })
      yield* away()
      yield* store.update("a", plus)
      yield* store.set("b", { n: 1 })
      yield* real.set("a", { n: 100 })
      yield* real.set("b", { n: 200 })
      const report = yield* back
      assert.deepStrictEqual(whys(report).sort(), [
        ["a", "written", "conflict"],
        ["b", "written", "conflict"]
      ])
      assert.deepStrictEqual(n(yield* real.get("a")), Option.some(100))
      assert.deepStrictEqual(n(yield* store.get("a")), Option.some(100))
      assert.deepStrictEqual(n(yield* real.get("b")), Option.some(200))
    })
  )

  it.scoped("an application can say what becomes of two versions", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({
        onConflict: ({ base, kept, stored }) => ({
          ...stored,
          n: Number(stored["n"]) + Number(kept["n"]) - Number(Option.getOrThrow(base)["n"])
        })
      })
      yield* store.set("a", { n: 1 })
      yield* away()
      yield* store.update("a", plus)
      yield* real.update("a", plus)
      const report = yield* back
      assert.deepStrictEqual([report.replayed, report.dropped], [1, 0])
      assert.deepStrictEqual(n(yield* store.get("a")), Option.some(3))
    })
  )

  it.scoped("a rule for conflicts that throws loses that one, and nothing else", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({
        onConflict: () => {
          throw new Error("no")
        }
      })
      yield* store.set("a", { n: 1 })
      yield* away()
      yield* store.update("a", plus)
      yield* store.set("b", { n: 1 })
      yield* real.update("a", plus)
      yield* real.update("a", plus)
      const report = yield* back
      assert.deepStrictEqual(whys(report), [["a", "written", "refused"]])
      assert.deepStrictEqual(n(yield* real.get("b")), Option.some(1))
    })
  )

  it.scoped("a session that another process deleted meanwhile does not come back", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      for (const id of ["changed", "touched", "rotated", "long ago"]) {
        yield* store.set(id, { n: 1 }, { ttl: "5 hours" })
      }
      yield* away()
      yield* store.update("changed", plus)
      yield* store.update("long ago", plus)
      yield* store.getAndTouch("touched", "1 hour")
      assert.deepStrictEqual(yield* store.rotate("rotated", "new id"), Option.some("new id"))
      yield* real.delete("long ago")
      yield* TestClock.adjust("2 minutes")
      for (const id of ["changed", "touched", "rotated"]) yield* real.delete(id)
      const report = yield* back
      assert.deepStrictEqual(whys(report).sort(), [
        ["changed", "written", "deleted"],
        ["long ago", "written", "absent"],
        ["new id", "written", "deleted"],
        ["touched", "prolonged", "absent"]
      ])
      for (const id of ["changed", "long ago", "touched", "rotated", "new id"]) {
        assert.isFalse(yield* real.exists(id), id)
        assert.deepStrictEqual(yield* store.get(id), Option.none(), id)
      }
    })
  )

  for (const how of ["hangs up before", "hangs up after"] as const) {
    it.scoped(`a write whose outcome is unknown is done once: the store ${how} it`, () =>
      Effect.gen(function* () {
        const { back, fallback, real, store, unsteady } = yield* make()
        for (const id of ["updated", "set", "rotated", "deleted"]) yield* store.set(id, { n: 1, user_id: "ada" })
        const during = <A>(effect: Effect.Effect<A, SessionStore.SessionStoreError>) =>
          Effect.gen(function* () {
            unsteady.away = how
            const result = yield* effect
            unsteady.away = "refuses"
            yield* settle
            return result
          })
        assert.deepStrictEqual(n(yield* during(store.update("updated", plus))), Option.some(2))
        assert.deepStrictEqual((yield* back).losses, [])
        assert.deepStrictEqual(n(yield* real.get("updated")), Option.some(2))
        yield* during(store.set("set", { n: 5 }))
        yield* store.update("set", plus)
        assert.deepStrictEqual((yield* back).losses, [])
        assert.deepStrictEqual(n(yield* real.get("set")), Option.some(6))
        assert.isTrue(yield* during(store.create("created", { n: 7 })))
        assert.deepStrictEqual((yield* back).losses, [])
        assert.deepStrictEqual(n(yield* real.get("created")), Option.some(7))
        assert.deepStrictEqual(yield* during(store.rotate("rotated", "to")), Option.some("to"))
        yield* store.update("to", plus)
        assert.deepStrictEqual((yield* back).losses, [])
        assert.deepStrictEqual(n(yield* real.get("to")), Option.some(2))
        assert.isFalse(yield* real.exists("rotated"))
        assert.isTrue(yield* during(store.delete("deleted")))
        yield* back
        assert.isFalse(yield* real.exists("deleted"))
        assert.strictEqual(yield* during(store.deleteAllOf("ada")), 2)
        yield* back
        assert.deepStrictEqual(yield* real.sessionsOf("ada"), [])
        assert.strictEqual((yield* fallback.stats).dropped, 0)
      })
    )
  }

  it.scoped(
    "a write that may have been done, and is not there after longer than a tombstone lasts, is not made again",
    () =>
      Effect.gen(function* () {
        const { back, real, store, unsteady } = yield* make()
        unsteady.away = "hangs up after"
        assert.isTrue(yield* store.create("a", { n: 1 }))
        unsteady.away = "refuses"
        yield* settle
        yield* real.delete("a")
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(whys(yield* back), [["a", "written", "uncertain"]])
        assert.isFalse(yield* real.exists("a"))
      })
  )

  it.scoped("an answer of the store is no outage", () =>
    Effect.gen(function* () {
      const { fallback, store } = yield* make()
      yield* store.set("a", {})
      yield* store.delete("a")
      const errors = [
        yield* Effect.flip(store.set("a", {})),
        yield* Effect.flip(store.get("")),
        yield* Effect.flip(store.set("b", {}, { ttl: 0 })),
        yield* Effect.flip(store.set("b", { d: new Date(0) } as never))
      ]
      assert.deepStrictEqual(
        errors.map((error) => error.reason),
        ["SessionGone", "InvalidId", "InvalidTtl", "InvalidSession"]
      )
      assert.strictEqual(yield* fallback.mode, "store")
    })
  )

  it.scoped("of what this process does not know it says so, or none where that is wanted", () =>
    Effect.gen(function* () {
      const { away, real, store } = yield* make()
      yield* real.set("theirs", { n: 1, user_id: "ada" })
      yield* away()
      for (const operation of [
        store.get("theirs"),
        store.getAndTouch("theirs"),
        store.exists("theirs"),
        store.extendTtl("theirs"),
        store.update("theirs", plus),
        store.rotate("theirs"),
        store.sessionsOf("ada"),
        store.cleanUp()
      ]) {
        const error = yield* Effect.flip<unknown, SessionStore.SessionStoreError, never>(operation)
        assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "not-done"])
      }
      const other = yield* make({ unknown: "none" })
      yield* other.real.set("theirs", { n: 1, user_id: "ada" })
      yield* other.away()
      assert.deepStrictEqual(yield* other.store.get("theirs"), Option.none())
      assert.deepStrictEqual(yield* other.store.update("theirs", plus), Option.none())
      assert.isFalse(yield* other.store.exists("theirs"))
      assert.deepStrictEqual(yield* other.store.sessionsOf("ada"), [])
    })
  )

  it.scoped("what was seen counts for a time", () =>
    Effect.gen(function* () {
      const { away, real, store } = yield* make({ recentFor: "1 minute" })
      yield* real.set("read", { n: 1 })
      yield* store.get("read")
      yield* away()
      assert.deepStrictEqual(n(yield* store.get("read")), Option.some(1))
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(n(yield* store.get("read")), Option.some(1))
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual((yield* Effect.flip(store.get("read"))).reason, "Unavailable")
    })
  )

  it.scoped("a short failure is noticed by nobody who asks for another session", () =>
    Effect.gen(function* () {
      const { fallback, real, store, unsteady } = yield* make()
      yield* real.set("theirs", { n: 1 })
      unsteady.away = "refuses"
      assert.isTrue(yield* store.create("mine", { n: 2 }))
      unsteady.away = undefined
      assert.deepStrictEqual(n(yield* store.get("theirs")), Option.some(1))
      yield* settle
      assert.strictEqual(yield* fallback.mode, "store")
      assert.deepStrictEqual(n(yield* real.get("mine")), Option.some(2))
    })
  )

  it.scoped("one change too many is refused, and none that was acknowledged gives way", () =>
    Effect.gen(function* () {
      const { away, back, fallback, real, store } = yield* make({ capacity: 3 })
      yield* store.set("seen", { n: 1 })
      yield* away()
      for (const id of ["a", "b", "c"]) yield* store.set(id, { n: 1 })
      for (const operation of [
        store.set("d", {}),
        store.delete("d"),
        store.deleteAllOf("ada"),
        store.extendTtl("seen", "2 hours")
      ]) {
        const error = yield* Effect.flip<unknown, SessionStore.SessionStoreError, never>(operation)
        assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "not-done"])
      }
      // what is kept can be changed, and what was seen be read
      yield* store.update("a", plus)
      yield* store.delete("b")
      assert.deepStrictEqual(n(yield* store.get("seen")), Option.some(1))
      assert.strictEqual((yield* fallback.stats).kept, 3)
      assert.deepStrictEqual([(yield* back).kept, (yield* fallback.stats).replayed], [3, 3])
      assert.deepStrictEqual(n(yield* real.get("a")), Option.some(2))
      assert.isTrue(yield* real.exists("c"))
    })
  )

  it.scoped("its memory is bounded in bytes, and what was only seen gives way first", () =>
    Effect.gen(function* () {
      const { away, fallback, store } = yield* make({ maxBytes: 100_000 })
      const pad = "x".repeat(5_000)
      for (let i = 0; i < 50; i++) yield* store.set(`seen-${i}`, { pad })
      assert.isAtMost((yield* fallback.stats).bytes, 100_000)
      assert.isAbove((yield* fallback.stats).remembered, 5)
      yield* away()
      let kept = 0
      for (let i = 0; i < 50; i++) {
        if (Exit.isSuccess(yield* Effect.exit(store.set(`kept-${i}`, { pad })))) kept++
      }
      const stats = yield* fallback.stats
      assert.isAtMost(stats.bytes, 100_000)
      assert.strictEqual(stats.kept, kept)
      assert.isAbove(kept, 3)
      assert.isBelow(kept, 20)
      for (let i = 0; i < kept; i++) assert.isTrue(yield* store.exists(`kept-${i}`))
    })
  )

  it.scoped("what ran out while the store was away makes room, and is told", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({ capacity: 2 })
      yield* away()
      yield* store.set("a", {}, { ttl: "1 minute" })
      yield* store.set("b", {}, { ttl: "1 minute" })
      yield* TestClock.adjust("2 minutes")
      yield* store.set("c", {})
      const report = yield* back
      assert.deepStrictEqual([report.kept, report.replayed, report.expired, report.dropped], [3, 1, 2, 0])
      assert.isFalse(yield* real.exists("a"))
      assert.isTrue(yield* real.exists("c"))
    })
  )

  it.scoped("a session that was given a short life does not live on in the store by its old one", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* store.set("a", { n: 1 }, { ttl: "5 hours" })
      yield* away()
      yield* store.set("a", { n: 2 }, { ttl: "1 minute" })
      yield* TestClock.adjust("2 minutes")
      const report = yield* back
      assert.deepStrictEqual([report.expired, report.dropped], [1, 0])
      yield* TestClock.adjust("1 millis")
      assert.isFalse(yield* real.exists("a"))
    })
  )

  it.scoped("the absolute time to live goes on while the store is away", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({ absoluteTtl: "1 hour", defaultTtl: "50 minutes" })
      yield* store.set("a", { n: 1 })
      yield* away()
      yield* TestClock.adjust("4 minutes")
      yield* store.update("a", plus, { ttl: "50 minutes" })
      yield* TestClock.adjust("26 minutes")
      yield* store.getAndTouch("a", "50 minutes")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual((yield* back).losses, [])
      assert.deepStrictEqual(n(yield* real.get("a")), Option.some(2))
      yield* TestClock.adjust("19 minutes")
      assert.isTrue(yield* real.exists("a"))
      yield* TestClock.adjust("1 minutes")
      assert.isFalse(yield* real.exists("a"))
    })
  )

  it.scoped("touches by a policy are kept as any other", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({ adaptiveTtl: SessionTtl.standard })
      yield* store.set("a", { n: 1 })
      yield* away()
      yield* store.getAndTouch("a")
      assert.deepStrictEqual((yield* back).losses, [])
      yield* TestClock.adjust("55 minutes")
      assert.isTrue(yield* real.exists("a"))
    })
  )

  it.scoped("signing out everywhere reaches sessions that only the store knows, and none that began later", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* store.set("mine", { user_id: "ada" })
      yield* real.set("theirs", { user_id: "ada" })
      yield* store.set("moved", { user_id: "ada" })
      yield* away()
      yield* store.update("moved", () => ({ user_id: "bob" }))
      assert.strictEqual(yield* store.deleteAllOf("ada"), 1)
      yield* store.create("later", { user_id: "ada" })
      assert.deepStrictEqual((yield* back).losses, [])
      assert.deepStrictEqual(
        (yield* real.sessionsOf("ada")).map((one) => one.id),
        ["later"]
      )
      assert.deepStrictEqual(
        (yield* real.sessionsOf("bob")).map((one) => one.id),
        ["moved"]
      )
    })
  )

  it.scoped("an owner's limit holds here as it does there", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make({ maxSessions: { limit: 2, onLimit: "reject" } })
      yield* store.set("one", { user_id: "ada" })
      yield* real.set("two", { user_id: "ada" })
      yield* away()
      yield* store.set("three", { user_id: "ada" })
      assert.strictEqual((yield* Effect.flip(store.set("four", { user_id: "ada" }))).reason, "LimitReached")
      assert.deepStrictEqual(whys(yield* back), [["three", "written", "limit"]])
    })
  )

  it.scoped("an id that was deleted and taken anew is the new session", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* store.set("a", { n: 1 })
      yield* store.set("b", { n: 1 })
      yield* store.delete("b")
      yield* away()
      yield* store.delete("a")
      assert.isTrue(yield* store.create("a", { n: 2 }))
      assert.isTrue(yield* store.create("b", { n: 2 }))
      yield* real.update("a", plus)
      assert.deepStrictEqual((yield* back).losses, [])
      assert.deepStrictEqual(n(yield* real.get("a")), Option.some(2))
      assert.deepStrictEqual(n(yield* real.get("b")), Option.some(2))
    })
  )

  it.scoped("rotations are replayed as such: what others changed meanwhile goes along", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* store.set("a", { n: 1 }, { ttl: "2 hours" })
      yield* away()
      yield* store.rotate("a", "b")
      yield* store.rotate("b", "c")
      yield* real.update("a", plus)
      assert.deepStrictEqual((yield* back).losses, [])
      assert.deepStrictEqual(n(yield* real.get("c")), Option.some(2))
      assert.isFalse(yield* real.exists("a"))
      assert.isFalse(yield* real.exists("b"))
      yield* TestClock.adjust("110 minutes")
      assert.isTrue(yield* real.exists("c"))
    })
  )

  it.scoped("goes away again while it replays: nothing is lost and nothing done twice", () =>
    Effect.gen(function* () {
      const { away, back, fallback, real, store, unsteady } = yield* make()
      for (let i = 0; i < 100; i++) yield* store.set(`s-${i}`, { n: 0 })
      for (const how of ["refuses", "hangs up before", "hangs up after"] as const) {
        yield* away()
        for (let i = 0; i < 100; i++) yield* store.update(`s-${i}`, plus)
        unsteady.away = undefined
        unsteady.until = { calls: 30, away: how }
        yield* TestClock.adjust("10 seconds")
        yield* settle
        assert.strictEqual(yield* fallback.mode, "fallback")
        assert.isBelow((yield* fallback.stats).kept, 100)
        assert.deepStrictEqual((yield* back).losses, [])
      }
      for (let i = 0; i < 100; i++) assert.deepStrictEqual(n(yield* real.get(`s-${i}`)), Option.some(3))
    })
  )

  it.scoped("tells when it changes over, and what came of it", () =>
    Effect.gen(function* () {
      const { away, back, fallback, real, store } = yield* make()
      const events: Array<SessionEvents.SessionEvent> = []
      const reports: Array<FallbackSessionStore.Report> = []
      yield* Effect.forkScoped(Stream.runForEach(store.events, (event) => Effect.sync(() => void events.push(event))))
      yield* Effect.forkScoped(Stream.runForEach(fallback.reports, (one) => Effect.sync(() => void reports.push(one))))
      yield* settle
      yield* store.set("a", { n: 1, user_id: "ada" })
      yield* away()
      yield* store.create("b", { n: 1, user_id: "ada" })
      yield* store.delete("a")
      yield* store.set("c", { n: 1 })
      yield* real.set("c", { n: 2 })
      const report = yield* back
      yield* settle
      assert.deepStrictEqual(
        events.map(({ at: _, ...event }) => event),
        [
          { _tag: "Created", id: "a", owner: "ada" },
          { _tag: "FallbackSwitched", to: "fallback" },
          { _tag: "Created", id: "b", owner: "ada" },
          { _tag: "Deleted", id: "a", reason: "request" },
          { _tag: "Created", id: "c" },
          { _tag: "Created", id: "c" },
          { _tag: "FallbackSwitched", to: "store", replayed: 2, dropped: 1 }
        ] as Array<unknown>
      )
      assert.deepStrictEqual(reports, [report])
      assert.deepStrictEqual(report.losses, [{ id: "c", change: "written", why: "conflict" }])
      assert.strictEqual(report.until - report.since, 10_000)
    })
  )

  it.effect("closing while the store is away reports what is kept, and asks the store once more", () =>
    Effect.gen(function* () {
      const reports: Array<FallbackSessionStore.Report> = []
      const onReport = (report: FallbackSessionStore.Report) => Effect.sync(() => void reports.push(report))
      const scope = yield* Scope.make()
      const first = yield* Scope.extend(make({ onReport }), scope)
      yield* first.store.set("a", { n: 1, user_id: "ada" })
      yield* first.away()
      yield* first.store.update("a", plus)
      yield* first.store.deleteAllOf("bob")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(
        reports.map(({ closed, dropped, kept, losses }) => ({ closed, dropped, kept, losses })),
        [
          {
            closed: true,
            dropped: 2,
            kept: 2,
            losses: [
              { id: "a", owner: "ada", change: "written", why: "closed" },
              { id: "bob", owner: "bob", change: "signed-out", why: "closed" }
            ]
          }
        ]
      )
      assert.deepStrictEqual(yield* first.fallback.lastReport, Option.fromNullable(reports[0]))
      // nothing runs any more, and what is asked now is asked of the store
      const calls = first.unsteady.calls
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(first.unsteady.calls, calls)
      assert.strictEqual((yield* Effect.flip(first.store.get("a"))).reason, "Unavailable")

      const later = yield* Scope.make()
      const second = yield* Scope.extend(make({ onReport }), later)
      yield* second.away()
      yield* second.store.set("a", { n: 1 })
      second.unsteady.away = undefined
      yield* Scope.close(later, Exit.void)
      assert.deepStrictEqual([reports[1]?.replayed, reports[1]?.dropped, reports[1]?.closed], [1, 0, false])
    })
  )

  it.effect("closing takes no longer than it may, though the store never answers", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { away, fallback, store, unsteady } = yield* Scope.extend(make({ closeWithin: "300 millis" }), scope)
      yield* away()
      yield* store.set("a", {})
      unsteady.hangs = true
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("299 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(closing)))
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(whys(Option.getOrThrow(yield* fallback.lastReport)), [["a", "written", "closed"]])
    })
  )

  it.scoped("asks for its store again with pauses that grow to half a second, however long it is away", () =>
    Effect.gen(function* () {
      const unsteady = yield* Unsteady.memory()
      const fallback = yield* FallbackSessionStore.make(unsteady.store)
      unsteady.away = "refuses"
      yield* Effect.ignore(fallback.store.exists("a"))
      yield* settle
      unsteady.calls = 0
      yield* TestClock.adjust("1 seconds")
      assert.isAtLeast(unsteady.calls, 3)
      assert.isAtMost(unsteady.calls, 6)
      unsteady.calls = 0
      yield* TestClock.adjust("60 seconds")
      assert.isAtLeast(unsteady.calls, 90)
      assert.isAtMost(unsteady.calls, 160)
      unsteady.away = undefined
      yield* TestClock.adjust("600 millis")
      yield* settle
      assert.strictEqual(yield* fallback.mode, "store")
    })
  )

  it.scoped("options that cannot be are refused", () =>
    Effect.gen(function* () {
      const { store } = yield* Unsteady.memory()
      for (const options of [
        { capacity: 0 },
        { maxBytes: Number.NaN },
        { recent: -1 },
        { recentFor: 0 },
        { touchWhen: 1 }
      ]) {
        const error = yield* Effect.flip(FallbackSessionStore.make(store, options))
        assert.match(error.reason, /^Invalid(?:Options|Ttl)$/)
      }
    })
  )

  it.scoped("is silent over an outage with all that comes of it", () =>
    Recording.assertSilent(
      Effect.scoped(
        Effect.gen(function* () {
          const { away, back, real, store } = yield* make()
          yield* store.set("a", { n: 1 })
          yield* away()
          yield* store.update("a", plus)
          yield* real.update("a", plus)
          yield* store.delete("b")
          yield* back
        })
      )
    )
  )

  it.scoped("who was signed out everywhere stays so, though the session was written over here without knowing it", () =>
    Effect.gen(function* () {
      const { away, back, real, store } = yield* make()
      yield* real.set("a", { n: 1, user_id: "ada" })
      yield* away()
      yield* store.deleteAllOf("ada")
      yield* store.set("a", { n: 2, user_id: "ada" })
      yield* store.create("b", { n: 3, user_id: "ada" })
      const report = yield* back
      assert.deepStrictEqual(whys(report), [["a", "written", "deleted"]])
      assert.isFalse(yield* real.exists("a"))
      assert.deepStrictEqual(n(yield* real.get("b")), Option.some(3))
    })
  )

  it.scoped("nobody gives way to a session that is refused for want of room", () =>
    Effect.gen(function* () {
      for (const bound of [{ capacity: 2 }, { maxBytes: 3_000 }]) {
        const { away, back, store } = yield* make({ ...bound, maxSessions: { limit: 2 } })
        yield* store.set("a", { n: 1, user_id: "ada" })
        yield* store.set("b", { n: 2, user_id: "ada" })
        yield* away()
        yield* store.set("other", { n: 0, pad: "x".repeat(800) })
        const pad = "x".repeat("maxBytes" in bound ? 200 : 0)
        assert.strictEqual((yield* Effect.flip(store.create("c", { n: 3, user_id: "ada", pad }))).reason, "Unavailable")
        assert.strictEqual((yield* Effect.flip(store.deleteMany(["b", "c", "d", "e", "f", "g"]))).reason, "Unavailable")
        const report = yield* back
        assert.deepStrictEqual([report.kept, report.replayed], [1, 1])
        for (const id of ["a", "b"]) assert.isTrue(yield* store.exists(id), id)
      }
    })
  )

  it.effect(
    "who is told of a report may take any time: the next outage ends as the first, and closing does not wait",
    () =>
      Effect.gen(function* () {
        const reports: Array<FallbackSessionStore.Report> = []
        const scope = yield* Scope.make()
        const { away, back, store } = yield* Scope.extend(
          make({
            onReport: (report) => {
              reports.push(report)
              if (reports.length === 2) throw new Error("no")
              return Effect.never
            }
          }),
          scope
        )
        for (let round = 1; round < 4; round++) {
          yield* away()
          yield* store.set("a", { n: round })
          const report = yield* back
          assert.strictEqual(report.replayed, 1)
          assert.deepStrictEqual(reports[round - 1], report)
        }
        yield* away()
        yield* store.set("a", { n: 5 })
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* settle
        yield* TestClock.adjust("300 millis")
        yield* settle
        yield* TestClock.adjust("300 millis")
        yield* Fiber.join(closing)
        assert.strictEqual(reports[3]?.closed, true)
      })
  )

  it.scoped("a store with a defect loses what it was asked for, and recovery goes on", () =>
    Effect.gen(function* () {
      const unsteady = yield* Unsteady.memory()
      let isBroken = true
      const fallback = yield* FallbackSessionStore.make(
        {
          ...unsteady.store,
          sessionsOf: (owner) => (isBroken ? Effect.die(new Error("no")) : unsteady.store.sessionsOf(owner)),
          update: (id, f, options) => (isBroken ? Effect.die(new Error("no")) : unsteady.store.update(id, f, options))
        },
        { probe: Schedule.spaced("1 seconds") }
      )
      unsteady.away = "refuses"
      yield* Effect.ignore(fallback.store.exists("anything"))
      yield* fallback.store.deleteAllOf("ada")
      yield* fallback.store.set("a", { n: 1 })
      unsteady.away = undefined
      yield* TestClock.adjust("1 minutes")
      yield* settle
      assert.strictEqual(yield* fallback.mode, "store")
      const report = Option.getOrThrow(yield* fallback.lastReport)
      assert.deepStrictEqual(whys(report), [
        ["ada", "signed-out", "refused"],
        ["a", "written", "refused"]
      ])
      isBroken = false
      yield* fallback.store.set("a", { n: 2 })
      assert.deepStrictEqual(n(yield* unsteady.real.get("a")), Option.some(2))
    })
  )

  it.scoped("a store that goes away between two attempts to replay keeps nobody waiting for the next", () =>
    Effect.gen(function* () {
      const unsteady = yield* Unsteady.memory()
      const rejected = new SessionStore.SessionStoreError({
        reason: "Rejected",
        method: "update",
        description: "the test wants it so",
        outcome: "not-done"
      })
      const fallback = yield* FallbackSessionStore.make(
        { ...unsteady.store, update: () => Effect.fail(rejected) },
        { probe: Schedule.spaced("10 minutes") }
      )
      unsteady.away = "refuses"
      yield* Effect.ignore(fallback.store.exists("anything"))
      yield* settle
      yield* fallback.store.set("a", { n: 1 })
      unsteady.away = undefined
      yield* TestClock.adjust("10 minutes")
      yield* settle
      assert.strictEqual(yield* fallback.mode, "replaying")
      unsteady.away = "refuses"
      yield* Effect.ignore(fallback.store.get("b"))
      const unknown = yield* Effect.fork(Effect.flip(fallback.store.get("c")))
      yield* settle
      const exit = unknown.unsafePoll()
      assert.isNotNull(exit)
      assert.strictEqual((yield* Fiber.join(unknown)).reason, "Unavailable")
      assert.strictEqual(yield* fallback.mode, "fallback")
    })
  )

  it.scoped("is a layer over the application's session store", () =>
    Effect.gen(function* () {
      const context = yield* Layer.build(FallbackSessionStore.layer().pipe(Layer.provide(SessionStore.layerMemory())))
      const store = Context.get(context, SessionStore.SessionStore)
      yield* store.set("a", { n: 1 })
      assert.deepStrictEqual(n(yield* store.get("a")), Option.some(1))
      const fallback = Context.get(context, FallbackSessionStore.FallbackSessionStore)
      assert.deepStrictEqual((yield* fallback.stats).remembered, 1)
    })
  )
})
