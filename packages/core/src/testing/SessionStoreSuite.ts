/**
 * What every session store must do.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SessionEvent } from "../state/SessionEvents.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as SessionTtl from "../state/SessionTtl.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put any text where a session is kept; `options`,
 * that the suite can make stores with options of its own.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "plant" | "options"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass for the store: by `TestClock` for one that goes by `Clock`, by ageing its keys for another. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** Stores a text as it is, as another program could: the capability `plant`. */
  readonly plant?: ((id: string, text: string) => Effect.Effect<void, unknown, R>) | undefined
  /** Makes a store with these options, over the same data or other: the capability `options`. */
  readonly store?:
    | ((
        options: SessionStore.Options
      ) => Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError, R | Scope.Scope>)
    | undefined
  /** The time of the store in milliseconds since 1970. Default: that of `Clock`. */
  readonly now?: Effect.Effect<number, unknown, R> | undefined
}

class Visit extends Schema.Class<Visit>("Visit")({ user_id: Schema.String, count: Schema.Number }) {}

class Visits extends Context.Tag("@underlay/core/testing/Visits")<Visits, SessionStore.Typed<Visit>>() {}

/**
 * The suite. Every case takes ids of its own, so all of them can run on one store.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, SessionStore.SessionStore | R> => {
  const { advance } = options
  const plant = options.plant ?? (() => Effect.dieMessage("the capability `plant` needs the option `plant`"))
  const reason =
    (...reasons: ReadonlyArray<SessionStore.Reason>) =>
    (error: SessionStore.SessionStoreError) =>
      error._tag === "SessionStoreError" && reasons.includes(error.reason)

  const scenario = (
    name: string,
    run: (store: SessionStore.Service, id: () => Effect.Effect<string>) => Effect.Effect<void, unknown, R>
  ) =>
    Suite.test(
      name,
      Effect.flatMap(SessionStore.SessionStore, (store) => run(store, () => SessionStore.makeId))
    )

  const makeStore = (
    wanted: SessionStore.Options
  ): Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError, R | Scope.Scope> =>
    options.store === undefined
      ? Effect.dieMessage("the capability `options` needs the option `store`")
      : options.store(wanted)

  const now = options.now ?? Clock.currentTimeMillis

  const withOptions = (
    name: string,
    wanted: SessionStore.Options,
    run: (store: SessionStore.Service, id: () => Effect.Effect<string>) => Effect.Effect<void, unknown, R>,
    also: ReadonlyArray<Capability> = []
  ) =>
    Suite.testWith<Capability, unknown, R>(
      name,
      ["options", ...also],
      Effect.scoped(Effect.flatMap(makeStore(wanted), (store) => run(store, () => SessionStore.makeId)))
    )

  /** Listens from now on. The events come without their times. */
  const listen = (store: SessionStore.Service) =>
    Effect.gen(function* () {
      const events: Array<SessionEvent> = []
      const fiber = yield* Effect.fork(
        Stream.runForEach(store.events, (event) => Effect.sync(() => void events.push(event)))
      )
      const settle = Effect.repeatN(Effect.yieldNow(), 50)
      yield* settle
      return {
        events: Effect.map(settle, () => events.map(({ at: _, ...event }): Readonly<Record<string, unknown>> => event)),
        stop: Fiber.interrupt(fiber)
      }
    })

  const absolute: SessionStore.Options = { absoluteTtl: "1 hour" }

  const without = (session: Option.Option<SessionStore.Session>) =>
    Option.map(session, ({ last_activity: _, ...rest }) => rest)

  return Suite.make<Capability, SessionStore.SessionStore | R>("SessionStore", [
    scenario("a session that was never written is none", (store, id) =>
      Effect.gen(function* () {
        const absent = yield* id()
        yield* Suite.equal("get", yield* store.get(absent), Option.none())
        yield* Suite.equal("exists", yield* store.exists(absent), false)
        yield* Suite.equal("delete", yield* store.delete(absent), false)
        yield* Suite.equal("getAndTouch", yield* store.getAndTouch(absent), Option.none())
        yield* Suite.equal("exists after a touch", yield* store.exists(absent), false)
      })
    ),
    scenario("gives back what was written, JSON of every kind", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const session: SessionStore.Session = {
          text: 'grüße \u{1F30D} \u0000 "quoted" \n',
          number: -1.5e300,
          integer: Number.MAX_SAFE_INTEGER,
          yes: true,
          nothing: null,
          empty: {},
          none: [],
          list: [1, "two", { three: [null] }],
          nested: { a: { b: { c: {} } } },
          last_activity: "2025-01-15T10:35:22.456Z"
        }
        yield* store.set(one, session)
        yield* Suite.equal("the session", yield* store.get(one), Option.some(session))
        yield* Suite.equal("exists", yield* store.exists(one), true)
      })
    ),
    scenario("a later change of the written object changes nothing stored", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const list: Array<SessionStore.Json> = [1]
        yield* store.set(one, { list })
        list.push(2)
        yield* Suite.equal("the session", without(yield* store.get(one)), Option.some({ list: [1] }))
      })
    ),
    scenario("adds last_activity in ISO 8601 when it is absent, and leaves it when it is not", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { a: 1 })
        const added = Option.map(yield* store.get(one), (session) => session["last_activity"]).pipe(
          Option.getOrUndefined
        )
        yield* Suite.isTrue(
          "an instant is added",
          typeof added === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(added)
        )
        yield* store.set(one, { a: 1, last_activity: "2020-01-01T00:00:00.000Z" })
        yield* Suite.equal(
          "the given one stays",
          yield* store.get(one),
          Option.some({ a: 1, last_activity: "2020-01-01T00:00:00.000Z" })
        )
      })
    ),
    scenario("delete says whether there was a session", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, {})
        yield* Suite.equal("the first", yield* store.delete(one), true)
        yield* Suite.equal("the second", yield* store.delete(one), false)
        yield* Suite.equal("get", yield* store.get(one), Option.none())
      })
    ),
    scenario("lives half an hour by default", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, {})
        yield* advance(Duration.seconds(1_790))
        yield* Suite.equal("before", yield* store.exists(one), true)
        yield* advance(Duration.seconds(11))
        yield* Suite.equal("after", yield* store.exists(one), false)
        yield* Suite.equal("get", yield* store.get(one), Option.none())
      })
    ),
    scenario("lives as long as it is told", (store, id) =>
      Effect.gen(function* () {
        const [short, long] = [yield* id(), yield* id()]
        yield* store.set(short, {}, { ttl: "90 seconds" })
        yield* store.create(long, {}, { ttl: "2 hours" })
        yield* advance(Duration.seconds(91))
        yield* Suite.equal("short", yield* store.exists(short), false)
        yield* advance(Duration.minutes(110))
        yield* Suite.equal("long", yield* store.exists(long), true)
        yield* advance(Duration.minutes(10))
        yield* Suite.equal("long, later", yield* store.exists(long), false)
      })
    ),
    scenario("get does not prolong a session", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, {}, { ttl: "1 minute" })
        yield* advance(Duration.seconds(50))
        yield* store.get(one)
        yield* store.exists(one)
        yield* advance(Duration.seconds(11))
        yield* Suite.equal("expired", yield* store.exists(one), false)
      })
    ),
    scenario("getAndTouch reads and prolongs", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { a: 1 })
        yield* advance(Duration.minutes(25))
        yield* Suite.equal("the session", without(yield* store.getAndTouch(one)), Option.some({ a: 1 }))
        yield* advance(Duration.minutes(25))
        yield* Suite.equal("still there", yield* store.exists(one), true)
        yield* store.getAndTouch(one, "1 minute")
        yield* advance(Duration.seconds(61))
        yield* Suite.equal("a given time is taken exactly", yield* store.exists(one), false)
      })
    ),
    scenario("a touch without a time never shortens a session's life", (store, id) =>
      Effect.gen(function* () {
        const [a, b] = [yield* id(), yield* id()]
        yield* store.set(a, {}, { ttl: "5 hours" })
        yield* store.set(b, {}, { ttl: "5 hours" })
        yield* store.getAndTouch(a)
        yield* store.extendTtl(b)
        yield* store.extendTtl(b, "1 minute")
        yield* advance(Duration.hours(4))
        yield* Suite.equal("getAndTouch", yield* store.exists(a), true)
        yield* Suite.equal("extendTtl", yield* store.exists(b), true)
      })
    ),
    scenario("extendTtl prolongs and says whether there is a session", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* Suite.equal("absent", yield* store.extendTtl(one), false)
        yield* store.set(one, {}, { ttl: "1 minute" })
        yield* Suite.equal("present", yield* store.extendTtl(one, "10 minutes"), true)
        yield* advance(Duration.minutes(9))
        yield* Suite.equal("prolonged", yield* store.exists(one), true)
      })
    ),
    scenario("a touch or an extension after delete makes no session", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, {})
        yield* store.delete(one)
        yield* Suite.equal("extendTtl", yield* store.extendTtl(one), false)
        yield* Suite.equal("getAndTouch", yield* store.getAndTouch(one), Option.none())
        yield* Suite.equal("exists", yield* store.exists(one), false)
      })
    ),
    scenario("infinite, zero and negative times to live are refused", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const wrong: ReadonlyArray<Duration.DurationInput> = [
          Duration.infinity,
          Number.POSITIVE_INFINITY,
          0,
          -1,
          Number.NaN,
          "0 seconds",
          Duration.days(100_000)
        ]
        for (const ttl of wrong) {
          const invalid = reason("InvalidTtl")
          yield* Suite.fails("set", store.set(one, {}, { ttl }), invalid)
          yield* Suite.fails("create", store.create(one, {}, { ttl }), invalid)
          yield* Suite.fails("extendTtl", store.extendTtl(one, ttl), invalid)
          yield* Suite.fails("getAndTouch", store.getAndTouch(one, ttl), invalid)
          yield* Suite.fails(
            "update",
            store.update(one, (session) => session, { ttl }),
            invalid
          )
        }
        yield* Suite.equal("nothing was written", yield* store.exists(one), false)
      })
    ),
    scenario("a time to live of a part of a millisecond is one millisecond, a long one is kept", (store, id) =>
      Effect.gen(function* () {
        const [short, long] = [yield* id(), yield* id()]
        yield* store.set(long, {}, { ttl: Duration.seconds(2 ** 31 + 1) })
        yield* Suite.equal("70 years", yield* store.exists(long), true)
        yield* store.set(short, {}, { ttl: Duration.micros(10n) })
        yield* advance(Duration.millis(50))
        yield* Suite.equal("10 microseconds", yield* store.exists(short), false)
      })
    ),
    scenario("ids that cannot be are refused", (store) =>
      Effect.gen(function* () {
        for (const id of ["", "a".repeat(513), "a{b", "a}b", "a\nb", "a\u0000b", "a\ud800"]) {
          const invalid = reason("InvalidId")
          yield* Suite.fails("get", store.get(id), invalid)
          yield* Suite.fails("set", store.set(id, {}), invalid)
          yield* Suite.fails("delete", store.delete(id), invalid)
          yield* Suite.fails("rotate", store.rotate("fine", id), invalid)
          yield* Suite.fails("deleteMany", store.deleteMany(["fine", id]), invalid)
        }
      })
    ),
    scenario("ids with the letters of patterns are ids like any other", (store) =>
      Effect.gen(function* () {
        for (const id of ["*", "?a[b]\\", "a:b c", "süß/\u{1F511}", "__proto__", "constructor"]) {
          yield* store.create(id, { id })
          yield* Suite.equal(id, without(yield* store.get(id)), Option.some({ id }))
          yield* store.delete(id)
        }
      })
    ),
    scenario("what JSON would change is refused, not changed", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const cyclic: Record<string, unknown> = {}
        cyclic["self"] = cyclic
        const wrong: ReadonlyArray<unknown> = [
          null,
          [],
          "text",
          { n: Number.NaN },
          { n: Number.POSITIVE_INFINITY },
          { d: new Date(0) },
          { b: 1n },
          { f: () => 1 },
          { m: new Map() },
          { deep: [{ u: [undefined] }] },
          cyclic
        ]
        for (const session of wrong) {
          yield* Suite.fails("set", store.set(one, session as SessionStore.Session), reason("InvalidSession"))
        }
        yield* Suite.equal("nothing was written", yield* store.exists(one), false)
      })
    ),
    scenario("a field named __proto__ is a field", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const session = JSON.parse('{"__proto__":{"admin":true}}') as SessionStore.Session
        yield* store.set(one, session)
        const read = Option.getOrElse(yield* store.get(one), () => ({}))
        yield* Suite.isTrue("own", Object.hasOwn(read, "__proto__"))
        yield* Suite.isTrue("not inherited", Object.getPrototypeOf(read) === Object.prototype)
      })
    ),
    scenario("create writes only where there is nothing", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* Suite.equal("first", yield* store.create(one, { n: 1 }), true)
        yield* Suite.equal("second", yield* store.create(one, { n: 2 }), false)
        yield* Suite.equal("the first stays", without(yield* store.get(one)), Option.some({ n: 1 }))
      })
    ),
    scenario("of concurrent creates exactly one succeeds", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const won = yield* Effect.forEach(Chunk.range(1, 50), (n) => store.create(one, { n }), {
          concurrency: "unbounded"
        })
        yield* Suite.equal("winners", won.filter(Boolean).length, 1)
      })
    ),
    scenario("a logged-out session does not come back by a slow set or update", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { cart: 1 })
        yield* store.delete(one)
        const gone = reason("SessionGone")
        yield* Suite.fails("set", store.set(one, { cart: 2 }), gone)
        yield* Suite.fails(
          "update",
          store.update(one, (session) => session),
          gone
        )
        yield* Suite.fails("rotate", store.rotate(one), gone)
        yield* Suite.equal("exists", yield* store.exists(one), false)
        yield* advance(Duration.seconds(55))
        yield* Suite.fails("set within the minute", store.set(one, {}), gone)
        yield* advance(Duration.seconds(6))
        yield* store.set(one, { cart: 3 })
        yield* Suite.equal("after the minute", without(yield* store.get(one)), Option.some({ cart: 3 }))
      })
    ),
    scenario("an update that began before the delete does not win over it", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 0 })
        const results = yield* Effect.forEach(
          Chunk.range(1, 40),
          (n) =>
            n === 20
              ? Effect.as(store.delete(one), "deleted" as const)
              : Effect.match(
                  store.update(one, (session) => ({ ...session, n: Number(session["n"]) + 1 })),
                  { onFailure: (error) => error.reason, onSuccess: () => "updated" as const }
                ),
          { concurrency: "unbounded" }
        )
        yield* Suite.isTrue(
          "every update was done or found the session gone",
          results.every((result) => ["updated", "deleted", "SessionGone"].includes(result))
        )
        yield* Suite.equal("exists", yield* store.exists(one), false)
      })
    ),
    scenario("an id that was never there has no tombstone until it is deleted", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* Suite.equal("delete", yield* store.delete(one), false)
        yield* Suite.fails("set", store.set(one, {}), reason("SessionGone"))
      })
    ),
    scenario("create is allowed on a deleted id, and writing works again", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 1 })
        yield* store.delete(one)
        yield* Suite.equal("create", yield* store.create(one, { n: 2 }), true)
        yield* store.set(one, { n: 3 })
        yield* Suite.equal("set", without(yield* store.get(one)), Option.some({ n: 3 }))
      })
    ),
    scenario("update gives the new session, and none where there is none", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* Suite.equal("absent", yield* store.update(one, (session) => session), Option.none())
        yield* Suite.equal("nothing was written", yield* store.exists(one), false)
        yield* store.set(one, { n: 1 })
        const updated = yield* store.update(one, (session) => ({ ...session, n: 2 }))
        yield* Suite.equal("the new one", without(updated), Option.some({ n: 2 }))
        yield* Suite.equal("is stored", yield* store.get(one), updated)
      })
    ),
    scenario("update keeps the remaining time to live unless it is given one", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 1 }, { ttl: "2 minutes" })
        yield* advance(Duration.minutes(1))
        yield* store.update(one, (session) => ({ ...session, n: 2 }))
        yield* advance(Duration.seconds(50))
        yield* Suite.equal("still there", yield* store.exists(one), true)
        yield* store.update(one, (session) => ({ ...session, n: 3 }), { ttl: "1 minute" })
        yield* advance(Duration.seconds(50))
        yield* Suite.equal("prolonged", yield* store.exists(one), true)
        yield* advance(Duration.seconds(11))
        yield* Suite.equal("expired", yield* store.exists(one), false)
      })
    ),
    scenario("an update that returns its very argument writes nothing, a new time to live neither", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 1 }, { ttl: "1 minute" })
        const same = yield* store.update(one, (session) => session, { ttl: "1 hour" })
        yield* Suite.equal("the session", without(same), Option.some({ n: 1 }))
        yield* advance(Duration.seconds(61))
        yield* Suite.equal("expired", yield* store.exists(one), false)
      })
    ),
    scenario("no update is lost: two writers, a thousand increments each", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 0 })
        const increment = store.update(one, (session) => ({ ...session, n: Number(session["n"]) + 1 }))
        yield* Effect.all([Effect.repeatN(increment, 999), Effect.repeatN(increment, 999)], { concurrency: 2 })
        yield* Suite.equal("the sum", without(yield* store.get(one)), Option.some({ n: 2_000 }))
      })
    ),
    scenario("no update is lost: a hundred writers at once", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { n: 0 })
        yield* Effect.forEach(
          Chunk.range(1, 100),
          () => store.update(one, (session) => ({ ...session, n: Number(session["n"]) + 1 })),
          { concurrency: "unbounded" }
        )
        yield* Suite.equal("the sum", without(yield* store.get(one)), Option.some({ n: 100 }))
      })
    ),
    scenario("rotate moves a session and kills the old id", (store, id) =>
      Effect.gen(function* () {
        const old = yield* id()
        yield* store.set(old, { user_id: old, n: 1 }, { ttl: "10 minutes" })
        const rotated = yield* store.rotate(old)
        yield* Suite.isTrue("a new id", Option.isSome(rotated) && rotated.value !== old)
        const fresh = Option.getOrElse(rotated, () => "")
        yield* Suite.equal("moved", without(yield* store.get(fresh)), Option.some({ user_id: old, n: 1 }))
        yield* Suite.equal("the old one", yield* store.get(old), Option.none())
        yield* Suite.fails("a slow set on the old id", store.set(old, {}), reason("SessionGone"))
        const listed = yield* store.sessionsOf(old)
        yield* Suite.equal(
          "the owner's sessions",
          listed.map((one) => one.id),
          [fresh]
        )
        yield* advance(Duration.minutes(9))
        yield* Suite.equal("keeps its time", yield* store.exists(fresh), true)
        yield* advance(Duration.minutes(1))
        yield* Suite.equal("and no more", yield* store.exists(fresh), false)
      })
    ),
    scenario("rotate of nothing is none, and to a taken id is refused", (store, id) =>
      Effect.gen(function* () {
        const [a, b] = [yield* id(), yield* id()]
        yield* Suite.equal("nothing", yield* store.rotate(a), Option.none())
        yield* store.set(a, { n: 1 })
        yield* store.set(b, { n: 2 })
        yield* Suite.fails("taken", store.rotate(a, b), reason("SessionExists"))
        yield* Suite.fails("itself", store.rotate(a, a), reason("SessionExists"))
        yield* Suite.equal("a stays", without(yield* store.get(a)), Option.some({ n: 1 }))
        yield* Suite.equal("b stays", without(yield* store.get(b)), Option.some({ n: 2 }))
      })
    ),
    scenario("of concurrent rotations of one session exactly one succeeds", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        yield* store.set(one, { user_id: one })
        const results = yield* Effect.forEach(
          Chunk.range(1, 20),
          () =>
            Effect.match(store.rotate(one), {
              onFailure: (error) => error.reason,
              onSuccess: (rotated) => (Option.isSome(rotated) ? "rotated" : "none")
            }),
          { concurrency: "unbounded" }
        )
        yield* Suite.equal("rotated", results.filter((result) => result === "rotated").length, 1)
        yield* Suite.equal("found it gone", results.filter((result) => result === "SessionGone").length, 19)
        yield* Suite.equal("sessions of the owner", (yield* store.sessionsOf(one)).length, 1)
      })
    ),
    scenario("a session that is given an owner while it is rotated is found by that owner", (store, id) =>
      Effect.gen(function* () {
        for (let round = 0; round < 20; round++) {
          const [one, owner] = [yield* id(), yield* id()]
          yield* store.set(one, { n: 1 })
          const [rotated, updated] = yield* Effect.all(
            [
              store.rotate(one),
              Effect.match(
                store.update(one, (session) => ({ ...session, user_id: owner })),
                { onFailure: (error) => error.reason, onSuccess: Option.isSome }
              )
            ],
            { concurrency: 2 }
          )
          yield* Suite.isTrue("done, or the session was gone", updated === true || updated === "SessionGone")
          yield* Suite.equal(
            "the owner's sessions",
            (yield* store.sessionsOf(owner)).map((session) => session.id),
            updated === true ? Option.toArray(rotated) : []
          )
        }
      })
    ),
    scenario("deleteMany deletes those that are there and counts them", (store, id) =>
      Effect.gen(function* () {
        const [a, b, absent] = [yield* id(), yield* id(), yield* id()]
        yield* store.set(a, {})
        yield* store.set(b, {})
        yield* Suite.equal("none", yield* store.deleteMany([]), 0)
        yield* Suite.equal("two", yield* store.deleteMany([a, b, absent, a]), 2)
        yield* Suite.equal("a", yield* store.exists(a), false)
        yield* Suite.fails("no way back", store.set(b, {}), reason("SessionGone"))
      })
    ),
    scenario("deleteMany takes thousands", (store, id) =>
      Effect.gen(function* () {
        const ids = yield* Effect.replicateEffect(id(), 1_200)
        yield* Effect.forEach(ids, (one) => store.set(one, {}), { concurrency: 50, discard: true })
        yield* Suite.equal("all", yield* store.deleteMany(ids), 1_200)
      })
    ),
    scenario("sessionsOf lists an owner's live sessions and nobody else's", (store, id) =>
      Effect.gen(function* () {
        const [owner, other, a, b, c, d] = [
          yield* id(),
          yield* id(),
          yield* id(),
          yield* id(),
          yield* id(),
          yield* id()
        ]
        yield* store.set(a, { user_id: owner, n: 1 })
        yield* store.create(b, { user_id: owner, n: 2 })
        yield* store.set(c, { user_id: owner }, { ttl: "1 minute" })
        yield* store.set(d, { user_id: other })
        const ids = Effect.map(store.sessionsOf(owner), (all) => all.map((one) => one.id).sort())
        yield* Suite.equal("three", yield* ids, [a, b, c].sort())
        yield* advance(Duration.seconds(61))
        yield* Suite.equal("without the expired", yield* ids, [a, b].sort())
        yield* store.delete(a)
        yield* Suite.equal("without the deleted", yield* ids, [b])
        yield* store.update(b, (session) => ({ ...session, user_id: other }))
        yield* Suite.equal("without what another owns now", yield* ids, [])
        const others = yield* store.sessionsOf(other)
        yield* Suite.equal("which the other has", others.map((one) => one.id).sort(), [b, d].sort())
        yield* Suite.equal("nobody", yield* store.sessionsOf(yield* id()), [])
      })
    ),
    scenario("the owner may be a number", (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const owner = Math.abs([...one].reduce((hash, letter) => (hash * 31 + letter.charCodeAt(0)) | 0, 7))
        yield* store.set(one, { user_id: owner })
        yield* Suite.equal(
          "listed",
          (yield* store.sessionsOf(String(owner))).map((all) => all.id),
          [one]
        )
      })
    ),
    scenario("deleteAllOf signs an owner out everywhere and nobody else", (store, id) =>
      Effect.gen(function* () {
        const [owner, other] = [yield* id(), yield* id()]
        const mine = yield* Effect.replicateEffect(id(), 100)
        const theirs = yield* id()
        yield* Effect.forEach(mine, (one) => store.set(one, { user_id: owner }), { concurrency: 20, discard: true })
        yield* store.set(theirs, { user_id: other })
        yield* Suite.equal("all", yield* store.deleteAllOf(owner), 100)
        yield* Suite.equal("none is left", yield* store.sessionsOf(owner), [])
        for (const one of mine.slice(0, 5)) yield* Suite.equal("gone", yield* store.get(one), Option.none())
        yield* Suite.fails("no way back", store.set(mine[0] ?? "", { user_id: owner }), reason("SessionGone"))
        yield* Suite.equal("the other stays", yield* store.exists(theirs), true)
        yield* Suite.equal("again", yield* store.deleteAllOf(owner), 0)
      })
    ),
    scenario("a session that is rotated while its owner is signed out does not survive", (store, id) =>
      Effect.gen(function* () {
        for (let round = 0; round < 10; round++) {
          const owner = yield* id()
          const ids = yield* Effect.replicateEffect(id(), 10)
          yield* Effect.forEach(ids, (one) => store.set(one, { user_id: owner }), { discard: true })
          yield* Effect.all(
            [
              Effect.forEach(
                ids,
                (one) => Effect.catchIf(store.rotate(one), reason("SessionGone"), () => Effect.succeedNone),
                { concurrency: 3 }
              ),
              store.deleteAllOf(owner)
            ],
            { concurrency: 2 }
          )
          yield* Suite.equal("sessions that are left", yield* store.sessionsOf(owner), [])
        }
      })
    ),
    scenario("tells who listens what happens, and nobody else", (store, id) =>
      Effect.gen(function* () {
        const [a, b, owner] = [yield* id(), yield* id(), yield* id()]
        yield* store.set(yield* id(), { user_id: owner })
        const heard = yield* listen(store)
        yield* store.create(a, { user_id: owner })
        yield* store.create(a, { user_id: owner })
        yield* store.set(a, { user_id: owner, n: 1 })
        yield* store.set(b, {})
        yield* store.get(b)
        const fresh = Option.getOrElse(yield* store.rotate(a), () => "")
        yield* store.delete(fresh)
        yield* store.delete(fresh)
        yield* store.deleteMany([b, a])
        yield* Suite.equal("the events", yield* heard.events, [
          { _tag: "Created", id: a, owner },
          { _tag: "Created", id: b },
          { _tag: "Rotated", id: a, newId: fresh, owner },
          { _tag: "Deleted", id: fresh, owner, reason: "request" },
          { _tag: "Deleted", id: b, reason: "request" }
        ])
        yield* heard.stop
      })
    ),
    scenario("says once of a session that it knew that it has expired, and not of one that was deleted", (store, id) =>
      Effect.gen(function* () {
        const [a, b, c] = [yield* id(), yield* id(), yield* id()]
        const heard = yield* listen(store)
        yield* store.set(a, { user_id: a }, { ttl: "1 minute" })
        yield* store.set(b, {}, { ttl: "1 minute" })
        yield* store.delete(b)
        yield* advance(Duration.seconds(61))
        yield* store.get(a)
        yield* store.getAndTouch(a)
        yield* store.exists(a)
        yield* store.get(b)
        yield* store.get(c)
        const [, , , ...last] = yield* heard.events
        yield* Suite.equal("the events", last, [{ _tag: "Expired", id: a, owner: a, ttl: 60_000 }])
        yield* heard.stop
      })
    ),
    scenario("cleanUp removes no session that lives, and goes on where it stopped", (store, id) =>
      Effect.gen(function* () {
        const owner = yield* id()
        const ids = yield* Effect.replicateEffect(id(), 30)
        yield* Effect.forEach(ids, (one) => store.set(one, { user_id: owner }), { discard: true })
        yield* store.set(yield* id(), {}, { ttl: "1 second" })
        yield* advance(Duration.seconds(2))
        const heard = yield* listen(store)
        let cursor: string | undefined
        let rounds = 0
        let scanned = 0
        do {
          const report = yield* store.cleanUp({ cursor, limit: 10 })
          scanned += report.scanned
          cursor = report.cursor
          rounds++
        } while (cursor !== undefined && rounds < 10_000)
        yield* Suite.equal("the end", cursor, undefined)
        yield* Suite.isTrue("looked at all of them", scanned >= 30)
        yield* Suite.isTrue("in several rounds", rounds > 1)
        yield* Suite.equal("an event a round", (yield* heard.events).length, rounds)
        yield* heard.stop
        yield* Suite.equal("the sessions", (yield* store.sessionsOf(owner)).length, 30)
        const whole = yield* store.cleanUp()
        yield* Suite.isTrue("all in one", whole.cursor === undefined && whole.scanned >= 30)
        yield* store.cleanUp({ cursor: "of another store" })
        yield* Suite.fails("no limit", store.cleanUp({ limit: 0 }), reason("InvalidOptions"))
      })
    ),
    Suite.testWith(
      "cleanUp removes corrupt entries, and what is read as a session stays",
      ["plant"],
      Effect.flatMap(SessionStore.SessionStore, (store) =>
        Effect.gen(function* () {
          const [bad, good] = [yield* SessionStore.makeId, yield* SessionStore.makeId]
          yield* plant(bad, "{")
          yield* plant(good, '{"mine": true}')
          const report = yield* store.cleanUp()
          yield* Suite.isTrue("counted", report.corrupt >= 1)
          yield* Suite.equal("corrupt", yield* store.exists(bad), false)
          yield* Suite.equal("a session", without(yield* store.get(good)), Option.some({ mine: true }))
          yield* Suite.equal("nothing is left to do", (yield* store.cleanUp()).corrupt, 0)
        })
      )
    ),
    Suite.testWith(
      "says of a corrupt entry what is wrong with it, once",
      ["plant"],
      Effect.flatMap(SessionStore.SessionStore, (store) =>
        Effect.gen(function* () {
          const [text, list] = [yield* SessionStore.makeId, yield* SessionStore.makeId]
          const heard = yield* listen(store)
          yield* plant(text, "{secret")
          yield* plant(list, "[1]")
          yield* store.get(text)
          yield* store.getAndTouch(text)
          yield* store.get(list)
          yield* Suite.equal(
            "the events",
            (yield* heard.events).map((event) => [event["id"], event["problem"]]),
            [
              [text, "content"],
              [list, "format"]
            ]
          )
          yield* heard.stop
        })
      )
    ),
    withOptions("a touch prolongs only when it matters", { defaultTtl: "10 minutes", touchWhen: 0.5 }, (store, id) =>
      Effect.gen(function* () {
        const [early, late, exact] = [yield* id(), yield* id(), yield* id()]
        for (const one of [early, exact]) yield* store.set(one, {})
        yield* advance(Duration.minutes(2))
        yield* store.set(late, {})
        yield* advance(Duration.minutes(2))
        yield* store.getAndTouch(early)
        yield* store.getAndTouch(exact, "10 minutes")
        yield* advance(Duration.minutes(4))
        yield* store.getAndTouch(late)
        yield* advance(Duration.seconds(121))
        yield* Suite.equal("in its first half", yield* store.exists(early), false)
        yield* Suite.equal("with a time of its own", yield* store.exists(exact), true)
        yield* advance(Duration.seconds(400))
        yield* Suite.equal("in its second half", yield* store.exists(late), true)
        yield* advance(Duration.seconds(80))
        yield* Suite.equal("and no longer", yield* store.exists(late), false)
      })
    ),
    withOptions("a session does not outlive its absolute time, whatever touches it", absolute, (store, id) =>
      Effect.gen(function* () {
        const born = (yield* now) - 50 * 60_000
        const touches: Readonly<
          Record<string, (one: string) => Effect.Effect<unknown, SessionStore.SessionStoreError>>
        > = {
          nothing: () => Effect.void,
          getAndTouch: (one) => store.getAndTouch(one),
          "getAndTouch with a time": (one) => store.getAndTouch(one, "5 hours"),
          extendTtl: (one) => store.extendTtl(one, "5 hours"),
          set: (one) => store.set(one, { n: 2 }, { ttl: "5 hours" }),
          "set with another creation": (one) => store.set(one, { created_at: "2999-01-01T00:00:00.000Z" }),
          update: (one) => store.update(one, () => ({ n: 2 }), { ttl: "5 hours" }),
          "update with another creation": (one) =>
            store.update(one, () => ({ created_at: "2999-01-01T00:00:00.000Z" }), { ttl: "5 hours" })
        }
        const ids = yield* Effect.forEach(Object.entries(touches), ([name, touch]) =>
          Effect.gen(function* () {
            const one = yield* id()
            yield* store.create(one, { created_at: new Date(born).toISOString() }, { ttl: "5 hours" })
            yield* touch(one)
            yield* Suite.equal(
              `${name}: the creation`,
              Option.map(yield* store.get(one), (session) => session["created_at"]),
              Option.some(new Date(born).toISOString())
            )
            return [name, one] as const
          })
        )
        const moved = yield* id()
        yield* store.create(moved, { created_at: new Date(born).toISOString() })
        const fresh = Option.getOrElse(yield* store.rotate(moved), () => "")
        yield* store.getAndTouch(fresh, "5 hours")
        yield* advance(Duration.minutes(9))
        for (const [name, one] of [...ids, ["rotate", fresh] as const]) {
          yield* Suite.equal(`${name}: before`, yield* store.exists(one), true)
        }
        yield* advance(Duration.seconds(61))
        for (const [name, one] of [...ids, ["rotate", fresh] as const]) {
          yield* Suite.equal(`${name}: after`, yield* store.exists(one), false)
        }
      })
    ),
    withOptions(
      "the creation is the store's time, kept as created_at, and never in the future",
      absolute,
      (store, id) =>
        Effect.gen(function* () {
          const [a, b, c] = [yield* id(), yield* id(), yield* id()]
          const before = yield* now
          yield* store.set(a, { "0": "first", n: 1 })
          yield* store.create(b, { created_at: "2999-12-31T23:59:59.999Z" })
          yield* store.create(c, { created_at: "yesterday" })
          const after = yield* now
          for (const one of [a, b, c]) {
            const created = Option.getOrUndefined(yield* store.get(one))?.["created_at"]
            yield* Suite.isTrue(
              "an instant of now",
              typeof created === "string" &&
                /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(created) &&
                Date.parse(created) >= before - 1_000 &&
                Date.parse(created) <= after + 1_000
            )
          }
          const first = yield* store.get(a)
          yield* store.set(a, { n: 2 })
          yield* Suite.equal(
            "stays",
            Option.map(yield* store.get(a), (session) => session["created_at"]),
            Option.map(first, (session) => session["created_at"])
          )
          const updated = yield* store.update(a, (session) => ({ ...session, n: 3 }))
          yield* Suite.equal("update gives what is stored", yield* store.get(a), updated)
        })
    ),
    withOptions("a session whose absolute time is over is not written", absolute, (store, id) =>
      Effect.gen(function* () {
        const one = yield* id()
        const created_at = new Date((yield* now) - 61 * 60_000).toISOString()
        yield* Suite.fails("create", store.create(one, { created_at }), reason("SessionGone"))
        yield* Suite.fails("set", store.set(one, { created_at }), reason("SessionGone"))
        yield* Suite.equal("exists", yield* store.exists(one), false)
      })
    ),
    withOptions(
      "an absolute time also holds for what other programs wrote",
      absolute,
      (store, id) =>
        Effect.gen(function* () {
          const born = new Date((yield* now) - 50 * 60_000).toISOString()
          const local = new Date(Date.parse(born) + 90 * 60_000).toISOString().slice(0, -1)
          const texts = [
            `{"user_id": "u", "created_at": "${born}"}`,
            `{"created_at": "${born.slice(0, -1)}456", "user_id": "u"}`,
            `{"user_id": "u", "created_at": "${born.slice(0, -1).replace("T", " ")}"}`,
            `{"user_id": "u", "created_at": "${local}+01:30"}`,
            `{"created_at":"${born.slice(0, 19)}Z"}`
          ]
          const ids = yield* Effect.forEach(texts, (text) => Effect.tap(id(), (one) => plant(one, text)))
          for (const one of ids) yield* store.getAndTouch(one, "5 hours")
          yield* advance(Duration.minutes(9))
          for (const one of ids) yield* Suite.equal("before", yield* store.exists(one), true)
          yield* advance(Duration.seconds(62))
          for (const [index, one] of ids.entries()) {
            yield* Suite.equal(texts[index] ?? "", yield* store.exists(one), false)
          }
        }),
      ["plant"]
    ),
    withOptions("sessions live by their activity", { adaptiveTtl: SessionTtl.standard }, (store, id) =>
      Effect.gen(function* () {
        const clock = yield* Clock.currentTimeMillis
        const since = (seconds: number) => ({ last_activity: new Date(clock - seconds * 1_000).toISOString() })
        const [active, usual, idle] = [yield* id(), yield* id(), yield* id()]
        yield* store.set(active, since(0))
        yield* store.set(usual, since(600))
        yield* store.set(idle, since(86_400), { ttl: "3 hours" })
        // twice: the second time by what it learnt from the first
        for (const one of [active, usual, idle, active, usual, idle]) yield* store.getAndTouch(one)
        const there = () => Effect.forEach([active, usual, idle], store.exists)
        yield* advance(Duration.seconds(850))
        yield* Suite.equal("after 14 minutes", yield* there(), [true, true, true])
        yield* advance(Duration.seconds(100))
        yield* Suite.equal("after 16 minutes", yield* there(), [true, true, false])
        yield* advance(Duration.seconds(900))
        yield* Suite.equal("after 31 minutes", yield* there(), [true, false, false])
        yield* advance(Duration.seconds(1_800))
        yield* Suite.equal("after an hour", yield* there(), [false, false, false])
      })
    ),
    withOptions(
      "a policy that asks for an impossible time fails its touch, typed",
      { adaptiveTtl: () => Duration.infinity },
      (store, id) =>
        Effect.gen(function* () {
          const one = yield* id()
          yield* store.set(one, {})
          yield* Suite.fails("getAndTouch", store.getAndTouch(one), reason("InvalidTtl"))
        })
    ),
    withOptions("an owner's oldest session gives way to a new one", { maxSessions: { limit: 3 } }, (store, id) =>
      Effect.gen(function* () {
        const owner = yield* id()
        const login = Effect.tap(id(), (one) => store.create(one, { user_id: owner }))
        const ids = Effect.map(store.sessionsOf(owner), (all) => all.map((one) => one.id).sort())
        const stranger = yield* id()
        yield* store.create(stranger, { user_id: yield* id() })
        const heard = yield* listen(store)
        const [a, b, c, d] = [yield* login, yield* login, yield* login, yield* login]
        yield* Suite.equal("three", yield* ids, [b, c, d].sort())
        yield* Suite.fails("a slow write of the first", store.set(a, { user_id: owner }), reason("SessionGone"))
        yield* Suite.isTrue(
          "is said",
          (yield* heard.events).some(
            (event) => event["_tag"] === "Deleted" && event["id"] === a && event["reason"] === "limit"
          )
        )
        yield* heard.stop
        // writing is not logging in, and a session that is moved keeps its place
        yield* store.set(b, { user_id: owner, n: 1 })
        const moved = Option.getOrElse(yield* store.rotate(c), () => "")
        const e = yield* login
        yield* Suite.equal("without the second", yield* ids, [moved, d, e].sort())
        // a session that becomes the owner's is one more
        const anonymous = yield* id()
        yield* store.set(anonymous, {})
        yield* store.update(anonymous, (session) => ({ ...session, user_id: owner }))
        yield* Suite.equal("without the third", yield* ids, [d, e, anonymous].sort())
        yield* store.update(d, (session) => ({ ...session, n: 1 }))
        yield* Suite.equal("the same three", yield* ids, [d, e, anonymous].sort())
        // sets log in too, and what is gone makes room
        yield* store.delete(e)
        const f = yield* id()
        yield* store.set(f, { user_id: owner })
        yield* Suite.equal("one in the place of the deleted", yield* ids, [d, f, anonymous].sort())
        yield* Suite.equal("others do not count", yield* store.exists(stranger), true)
      })
    ),
    withOptions(
      "a session too many is refused where that is the rule",
      { maxSessions: { limit: 2, onLimit: "reject" } },
      (store, id) =>
        Effect.gen(function* () {
          const [owner, a, b, c, d] = [yield* id(), yield* id(), yield* id(), yield* id(), yield* id()]
          yield* store.create(a, { user_id: owner })
          yield* store.create(b, { user_id: owner }, { ttl: "10 minutes" })
          const refused = reason("LimitReached")
          const error = yield* Suite.fails("create", store.create(c, { user_id: owner }), refused)
          yield* Suite.equal("not retryable", error.isRetryable, false)
          yield* Suite.fails("set", store.set(c, { user_id: owner }), refused)
          yield* Suite.equal("nothing was written", yield* store.exists(c), false)
          yield* store.set(c, {})
          yield* Suite.fails(
            "update",
            store.update(c, (session) => ({ ...session, user_id: owner })),
            refused
          )
          yield* store.set(a, { user_id: owner, n: 1 })
          yield* store.update(a, (session) => ({ ...session, n: 2 }))
          yield* Suite.equal("rotate", Option.isSome(yield* store.rotate(a, d)), true)
          yield* store.delete(d)
          yield* store.update(c, (session) => ({ ...session, user_id: owner }))
          yield* Suite.fails("full again", store.create(a, { user_id: owner }), refused)
          yield* advance(Duration.minutes(11))
          yield* Suite.equal("b expired", yield* store.exists(b), false)
        })
    ),
    withOptions(
      "a hundred logins at once leave as many sessions as allowed",
      { maxSessions: { limit: 5 } },
      (store, id) =>
        Effect.gen(function* () {
          const owner = yield* id()
          const ids = yield* Effect.replicateEffect(id(), 100)
          let most = 0
          const count = Effect.map(store.sessionsOf(owner), (all) => {
            most = Math.max(most, all.length)
          })
          const [created] = yield* Effect.all(
            [
              Effect.forEach(
                ids,
                (one, index) =>
                  index % 2 === 0
                    ? store.create(one, { user_id: owner })
                    : Effect.as(store.set(one, { user_id: owner }), true),
                { concurrency: "unbounded" }
              ),
              Effect.repeatN(count, 50)
            ],
            { concurrency: 2 }
          )
          yield* Suite.equal("every login succeeds", created.every(Boolean), true)
          yield* Suite.isTrue("never more", most <= 5)
          yield* Suite.equal("in the index", (yield* store.sessionsOf(owner)).length, 5)
          yield* Suite.equal("in all", (yield* Effect.filter(ids, store.exists)).length, 5)
        })
    ),
    withOptions(
      "of a hundred logins at once as many succeed as are allowed",
      { maxSessions: { limit: 5, onLimit: "reject" } },
      (store, id) =>
        Effect.gen(function* () {
          const owner = yield* id()
          const results = yield* Effect.forEach(
            yield* Effect.replicateEffect(id(), 100),
            (one) =>
              Effect.match(store.create(one, { user_id: owner }), {
                onFailure: (error) => error.reason,
                onSuccess: () => "created"
              }),
            { concurrency: "unbounded" }
          )
          yield* Suite.equal("created", results.filter((result) => result === "created").length, 5)
          yield* Suite.equal("refused", results.filter((result) => result === "LimitReached").length, 95)
          yield* Suite.equal("live", (yield* store.sessionsOf(owner)).length, 5)
        })
    ),
    Suite.testWith(
      "options that cannot be are refused",
      ["options"],
      Effect.gen(function* () {
        const wrong: ReadonlyArray<SessionStore.Options> = [
          { defaultTtl: 0 },
          { tombstone: Duration.infinity },
          { absoluteTtl: -1 },
          { touchWhen: 1 },
          { touchWhen: -0.1 },
          { touchWhen: Number.NaN },
          { maxSessions: { limit: 0 } },
          { maxSessions: { limit: 1.5 } }
        ]
        for (const each of wrong) {
          yield* Suite.fails("a store", Effect.scoped(makeStore(each)), reason("InvalidTtl", "InvalidOptions"))
        }
      })
    ),
    Suite.test(
      "a typed store reads and writes by its schema, and keeps the fields that the schema does not know",
      Effect.flatMap(SessionStore.SessionStore, (store) =>
        Effect.gen(function* () {
          const visits = yield* Visits
          const one = yield* SessionStore.makeId
          yield* visits.set(one, new Visit({ user_id: one, count: 1 }))
          yield* Suite.equal("get", yield* visits.get(one), Option.some(new Visit({ user_id: one, count: 1 })))
          yield* store.update(one, (session) => ({ ...session, theme: "dark" }))
          const updated = yield* visits.update(one, (visit) => new Visit({ ...visit, count: visit.count + 1 }))
          yield* Suite.equal("update", updated, Option.some(new Visit({ user_id: one, count: 2 })))
          yield* Suite.equal(
            "the unknown field",
            without(yield* store.get(one)),
            Option.some({ user_id: one, count: 2, theme: "dark" })
          )
          const listed = yield* visits.sessionsOf(one)
          yield* Suite.equal("sessionsOf", listed, [{ id: one, session: new Visit({ user_id: one, count: 2 }) }])
        }).pipe(
          Effect.provide(SessionStore.typed(Visits, Visit)),
          Effect.provideService(SessionStore.SessionStore, store)
        )
      )
    ),
    Suite.test(
      "a session of another shape is none to a typed store",
      Effect.flatMap(SessionStore.SessionStore, (store) =>
        Effect.gen(function* () {
          const one = yield* SessionStore.makeId
          yield* store.set(one, { user_id: one, count: "many" }, { ttl: "1 minute" })
          const lenient = SessionStore.makeTyped(store, Visit)
          yield* Suite.equal("get", yield* lenient.get(one), Option.none())
          const strict = SessionStore.makeTyped(store, Visit, { onCorrupt: "fail" })
          yield* Suite.fails("get", strict.get(one), reason("Corrupt"))
          yield* Suite.fails(
            "update",
            lenient.update(one, (visit) => new Visit({ ...visit }), { ttl: "1 hour" }),
            reason("Corrupt")
          )
          yield* Suite.equal(
            "it stays as it is",
            without(yield* store.get(one)),
            Option.some({ user_id: one, count: "many" })
          )
          yield* advance(Duration.seconds(61))
          yield* Suite.equal("and lives no longer", yield* store.exists(one), false)
        })
      )
    ),
    Suite.testWith(
      "a corrupt entry is none and can be written over",
      ["plant"],
      Effect.flatMap(SessionStore.SessionStore, (store) =>
        Effect.gen(function* () {
          for (const text of ["", "{", "null", "[1]", '"text"', "12", '{"a":', "\u0000\u0001"]) {
            const one = yield* SessionStore.makeId
            yield* plant(one, text)
            yield* Suite.equal(`get of ${text}`, yield* store.get(one), Option.none())
            yield* Suite.equal("getAndTouch", yield* store.getAndTouch(one), Option.none())
            yield* Suite.equal("update", yield* store.update(one, (session) => session), Option.none())
            yield* Suite.equal("rotate", yield* store.rotate(one), Option.none())
            yield* store.set(one, { fine: true })
            yield* Suite.equal("written over", without(yield* store.get(one)), Option.some({ fine: true }))
          }
        })
      )
    )
  ])
}
