/**
 * What every session store must do.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put any text where a session is kept.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "plant"

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
