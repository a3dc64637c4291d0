/**
 * What every one-time store must do, and confirmation codes and sign-ups on it.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as ConfirmationCache from "../state/ConfirmationCache.ts"
import * as OneTimeStore from "../state/OneTimeStore.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as SignupCache from "../state/SignupCache.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put what is no entry where one is kept.
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
  /** Lets time pass for the store: by `TestClock` for one that goes by `Clock`, by ageing what others keep. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** How much the store's clock may go on by itself while one case runs. Default: none. */
  readonly slack?: Duration.DurationInput | undefined
  /** Puts something at a key that no entry is, as another program could: the capability `plant`. */
  readonly plant?: ((key: string) => Effect.Effect<void, unknown, R>) | undefined
}

const Signup = Schema.Struct({ name: Schema.String, since: Schema.Date })

/**
 * The suite. Every case has keys of its own, so all of them can run on one store.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, OneTimeStore.OneTimeStore | R> => {
  const { advance } = options
  const slack = Duration.toMillis(options.slack ?? 0)
  const plant = options.plant ?? (() => Effect.dieMessage("the capability `plant` needs the option `plant`"))
  const fresh = Effect.map(SessionStore.makeId, (id) => `suite-${id.slice(0, 12)}`)

  /** Equal, or sooner by what the clock may have gone on by itself. */
  const near = (what: string, found: number, wanted: number) =>
    found <= wanted && found >= wanted - slack ? Effect.void : Suite.equal(what, found, wanted)

  const on = (
    run: (store: OneTimeStore.Service, key: string) => Effect.Effect<void, unknown, OneTimeStore.OneTimeStore | R>
  ) => Effect.flatMap(OneTimeStore.OneTimeStore, (store) => Effect.flatMap(fresh, (name) => run(store, `test:${name}`)))

  const scenario = (
    name: string,
    run: (store: OneTimeStore.Service, key: string) => Effect.Effect<void, unknown, OneTimeStore.OneTimeStore | R>
  ) => Suite.test(name, on(run))

  const entry = (key: string, more: Partial<OneTimeStore.Entry> = {}): OneTimeStore.Entry => ({
    key,
    token: "right",
    text: "text",
    ttl: 60_000,
    present: "replace",
    pause: 0,
    ...more
  })

  const codes = (settings: ConfirmationCache.Options = {}) =>
    Effect.flatMap(fresh, (name) => ConfirmationCache.make({ name, resendAfter: 0, quota: false, ...settings }))

  const issue = <A>(cache: ConfirmationCache.ConfirmationHandle<A>, subject: string, value: A) =>
    Effect.flatMap(cache.issue(subject, value), (issued) =>
      issued._tag === "Issued" ? Effect.succeed(Redacted.value(issued.code)) : Effect.fail("throttled" as const)
    )

  /** A code of digits that is another one. */
  const wrong = (code: string): string => code.replace(/^\d/, (digit) => String((Number(digit) + 1) % 10))

  const signups = (settings: Partial<SignupCache.Settings> = {}) =>
    Effect.flatMap(fresh, (name) => SignupCache.make({ name, schema: Signup, ...settings }))

  const ada = { name: "Ada", since: new Date("2026-01-02T03:04:05.000Z") }
  const grace = { name: "Grace", since: new Date("2025-01-02T03:04:05.000Z") }

  const begin = (cache: SignupCache.SignupHandle<typeof Signup.Type>, identity: string, signup: typeof Signup.Type) =>
    Effect.flatMap(cache.begin(identity, signup), (begun) =>
      begun._tag === "Begun" ? Effect.succeed(begun.ticket) : Effect.fail("pending" as const)
    )

  const hundred = <A, E, R1>(each: (index: number) => Effect.Effect<A, E, R1>) =>
    Effect.map(Effect.forEach(Chunk.range(0, 99), each, { concurrency: "unbounded" }), (all) => [...all])

  const counted = (all: ReadonlyArray<{ readonly _tag: string }>) => {
    const counts: Record<string, number> = {}
    for (const { _tag } of all) counts[_tag] = (counts[_tag] ?? 0) + 1
    return counts
  }

  return Suite.make<Capability, OneTimeStore.OneTimeStore | R>("OneTimeStore", [
    // -----------------------------------------------------------------------------------------------------------------
    // the store
    // -----------------------------------------------------------------------------------------------------------------
    scenario("an entry is taken once, by its token", (store, key) =>
      Effect.gen(function* () {
        yield* Suite.equal("nothing there", yield* store.take(key, "right"), { _tag: "Absent" })
        const text = JSON.stringify({ text: 'a "text" with\u0000 all, ünïcödé and 😀', empty: "" })
        yield* Suite.equal("put", yield* store.put(entry(key, { text })), { _tag: "Put" })
        yield* Suite.equal("taken", yield* store.take(key, "right"), { _tag: "Taken", text })
        yield* Suite.equal("taken again", yield* store.take(key, "right"), { _tag: "Absent" })
      })
    ),
    scenario("wrong tokens are counted, and after the last the right one is not looked at", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key, { tries: 2 }))
        yield* Suite.equal("first", yield* store.take(key, "wrong"), { _tag: "Wrong", triesLeft: 1 })
        yield* Suite.equal("second", yield* store.take(key, "wrong"), { _tag: "Wrong", triesLeft: 0 })
        yield* Suite.equal("the right one", yield* store.take(key, "right"), { _tag: "Exhausted" })
        yield* Suite.equal("a new entry", yield* store.put(entry(key, { tries: 1, token: "new" })), { _tag: "Put" })
        yield* Suite.equal("has tries of its own", yield* store.take(key, "new"), { _tag: "Taken", text: "text" })
      })
    ),
    scenario("without a number of tries any number is allowed", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key))
        for (let i = 0; i < 20; i++) {
          yield* Suite.equal("wrong", yield* store.take(key, "wrong"), {
            _tag: "Wrong",
            triesLeft: Number.POSITIVE_INFINITY
          })
        }
        yield* Suite.equal("right", yield* store.take(key, "right"), { _tag: "Taken", text: "text" })
      })
    ),
    scenario("an entry expires, and tries do not prolong it", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key, { ttl: 60_000, tries: 5 }))
        yield* advance(Duration.seconds(40))
        yield* Suite.equal("still there", (yield* store.take(key, "wrong"))._tag, "Wrong")
        yield* advance(Duration.seconds(21))
        yield* Suite.equal("gone", yield* store.take(key, "right"), { _tag: "Absent" })
      })
    ),
    scenario("one that is there stays or gives way, as it is asked", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key, { text: "first", token: "a" }))
        const kept = yield* store.put(entry(key, { text: "second", token: "b", present: "keep" }))
        yield* Suite.equal("kept", kept._tag, "Present")
        yield* near("for how long", kept._tag === "Present" ? kept.left : 0, 60_000)
        yield* Suite.equal("the second is not", yield* store.peek(key, "b"), undefined)
        yield* Suite.equal("replaced", yield* store.put(entry(key, { text: "third", token: "c" })), { _tag: "Put" })
        yield* Suite.equal("the first is not", (yield* store.take(key, "a"))._tag, "Wrong")
        yield* Suite.equal("the third is", yield* store.take(key, "c"), { _tag: "Taken", text: "third" })
      })
    ),
    scenario("a pause keeps others away until it is over or the entry is taken", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key, { pause: 30_000, token: "a" }))
        const refused = yield* store.put(entry(key, { pause: 30_000, token: "b" }))
        yield* Suite.equal("refused", refused._tag, "Throttled")
        yield* near("for how long", refused._tag === "Throttled" ? refused.left : 0, 30_000)
        yield* Suite.equal("dropping does not end it", yield* store.drop(key, undefined), true)
        yield* Suite.equal("still", (yield* store.put(entry(key, { token: "b" })))._tag, "Throttled")
        yield* advance(Duration.seconds(31))
        yield* Suite.equal("over", (yield* store.put(entry(key, { pause: 30_000, token: "c" })))._tag, "Put")
        yield* Suite.equal("taken", (yield* store.take(key, "c"))._tag, "Taken")
        yield* Suite.equal("at once", (yield* store.put(entry(key, { pause: 30_000 })))._tag, "Put")
      })
    ),
    scenario("a quota holds for its time, and what is refused does not count", (store, key) =>
      Effect.gen(function* () {
        const put = store.put(entry(key, { quota: { limit: 3, within: 60_000 }, ttl: 1_000 }))
        for (let i = 0; i < 3; i++) yield* Suite.equal("within", (yield* put)._tag, "Put")
        yield* advance(Duration.seconds(20))
        const refused = yield* put
        yield* Suite.equal("refused", refused._tag, "Throttled")
        yield* near("for how long", refused._tag === "Throttled" ? refused.left : 0, 40_000)
        yield* advance(Duration.seconds(41))
        for (let i = 0; i < 3; i++) yield* Suite.equal("again", (yield* put)._tag, "Put")
        yield* Suite.equal("no more", (yield* put)._tag, "Throttled")
      })
    ),
    scenario("an entry is seen by who has its token, without being taken", (store, key) =>
      Effect.gen(function* () {
        yield* Suite.equal("nothing", yield* store.peek(key, "right"), undefined)
        yield* store.put(entry(key))
        yield* Suite.equal("wrong", yield* store.peek(key, "wrong"), undefined)
        const seen = yield* store.peek(key, "right")
        yield* Suite.equal("seen", seen?.text, "text")
        yield* near("for how long", seen?.left ?? 0, 60_000)
        yield* Suite.equal("still there", (yield* store.take(key, "right"))._tag, "Taken")
      })
    ),
    scenario("one whose tries are counted is not seen, for that would be a try that is not counted", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key, { tries: 3 }))
        yield* Suite.equal("not seen", yield* store.peek(key, "right"), undefined)
      })
    ),
    scenario("an entry is dropped, by its token or whatever its token", (store, key) =>
      Effect.gen(function* () {
        yield* Suite.equal("nothing", yield* store.drop(key, undefined), false)
        yield* store.put(entry(key))
        yield* Suite.equal("wrong", yield* store.drop(key, "wrong"), false)
        yield* Suite.equal("right", yield* store.drop(key, "right"), true)
        yield* store.put(entry(key))
        yield* Suite.equal("any", yield* store.drop(key, undefined), true)
        yield* Suite.equal("gone", yield* store.take(key, "right"), { _tag: "Absent" })
      })
    ),
    scenario("of a hundred who put at once one does, where the first stays", (store, key) =>
      Effect.gen(function* () {
        const all = yield* hundred((index) => store.put(entry(key, { token: `token ${index}`, present: "keep" })))
        yield* Suite.equal("one", counted(all), { Put: 1, Present: 99 })
        const winner = all.findIndex(({ _tag }) => _tag === "Put")
        yield* Suite.equal("its entry", (yield* store.take(key, `token ${winner}`))._tag, "Taken")
      })
    ),
    scenario("of a hundred who take at once one does", (store, key) =>
      Effect.gen(function* () {
        yield* store.put(entry(key))
        yield* Suite.equal("one", counted(yield* hundred(() => store.take(key, "right"))), { Taken: 1, Absent: 99 })
      })
    ),
    Suite.testWith(
      "what is no entry is a typed failure, or makes way, never a right token",
      ["plant"],
      on((store, key) =>
        Effect.gen(function* () {
          yield* plant(key)
          const taken = yield* Effect.either(store.take(key, "right"))
          yield* Suite.isTrue(
            "not taken",
            Either.isLeft(taken) ? taken.left.reason === "Corrupt" : taken.right._tag !== "Taken"
          )
          yield* Suite.isTrue(
            "says no key",
            Either.isRight(taken) || (!taken.left.message.includes(key) && !taken.left.isRetryable)
          )
          yield* store.put(entry(key))
          yield* Suite.equal("replaced", (yield* store.take(key, "right"))._tag, "Taken")
        })
      )
    ),

    // -----------------------------------------------------------------------------------------------------------------
    // confirmation codes
    // -----------------------------------------------------------------------------------------------------------------
    Suite.test(
      "a code is confirmed once",
      Effect.gen(function* () {
        const cache = yield* codes()
        yield* Suite.equal("none yet", yield* cache.verify("ada@example.org", "123456"), { _tag: "NotFound" })
        const code = yield* issue(cache, "ada@example.org", undefined)
        yield* Suite.isTrue("six digits", /^\d{6}$/.test(code))
        yield* Suite.equal("confirmed", yield* cache.verify("ada@example.org", code), {
          _tag: "Confirmed",
          value: undefined
        })
        yield* Suite.equal("used", yield* cache.verify("ada@example.org", code), { _tag: "NotFound" })
      })
    ),
    Suite.test(
      "a code is of its subject and of its cache",
      Effect.gen(function* () {
        const [one, other] = [yield* codes(), yield* codes()]
        const code = yield* issue(one, "ada@example.org", undefined)
        yield* Suite.equal("another subject", (yield* one.verify("grace@example.org", code))._tag, "NotFound")
        yield* Suite.equal("another cache", (yield* other.verify("ada@example.org", code))._tag, "NotFound")
        const second = yield* issue(other, "ada@example.org", undefined)
        if (second !== code)
          yield* Suite.equal("not swapped", (yield* one.verify("ada@example.org", second))._tag, "Wrong")
        yield* Suite.equal("its own", (yield* one.verify(" ADA@Example.org ", code))._tag, "Confirmed")
      })
    ),
    Suite.test(
      "of a hundred wrong guesses at once no more than the limit are compared",
      Effect.gen(function* () {
        const cache = yield* codes({ attempts: 5 })
        const code = yield* issue(cache, "+49 30 1234", undefined)
        const all = yield* hundred(() => cache.verify("+49 30 1234", wrong(code)))
        yield* Suite.equal("five", counted(all), { Wrong: 5, Exhausted: 95 })
        const left = all.flatMap((one) => (one._tag === "Wrong" ? [one.attemptsLeft] : []))
        yield* Suite.equal("each told another number", left.sort(), [0, 1, 2, 3, 4])
        yield* Suite.equal("the right one is not compared", yield* cache.verify("+49 30 1234", code), {
          _tag: "Exhausted"
        })
      })
    ),
    Suite.test(
      "of a hundred right answers at once exactly one is confirmed",
      Effect.gen(function* () {
        const cache = yield* codes()
        const code = yield* issue(cache, "ada@example.org", undefined)
        const all = yield* hundred(() => cache.verify("ada@example.org", code))
        yield* Suite.equal("one", counted(all), { Confirmed: 1, NotFound: 99 })
      })
    ),
    Suite.test(
      "among a hundred different guesses at once the right one wins once or not at all",
      Effect.gen(function* () {
        const cache = yield* codes({ attempts: 10 })
        const code = yield* issue(cache, "ada@example.org", undefined)
        const all = counted(
          yield* hundred((index) => cache.verify("ada@example.org", index === 50 ? code : wrong(code)))
        )
        yield* Suite.isTrue("at most ten wrong", (all.Wrong ?? 0) <= 10)
        yield* Suite.isTrue("at most one right", (all.Confirmed ?? 0) <= 1)
        yield* Suite.isTrue("it won, or the tries were used up before it", all.Confirmed === 1 || all.Wrong === 10)
      })
    ),
    Suite.test(
      "a code expires",
      Effect.gen(function* () {
        const cache = yield* codes({ ttl: "5 minutes" })
        const code = yield* issue(cache, "ada@example.org", undefined)
        yield* advance(Duration.seconds(301))
        yield* Suite.equal("gone", (yield* cache.verify("ada@example.org", code))._tag, "NotFound")
      })
    ),
    Suite.test(
      "another code waits for the pause, takes the place of the first and has tries of its own",
      Effect.gen(function* () {
        const cache = yield* codes({ resendAfter: "1 minute", attempts: 2 })
        const first = yield* issue(cache, "ada@example.org", undefined)
        const refused = yield* cache.issue("Ada@example.org")
        yield* Suite.equal("too soon", refused._tag, "Throttled")
        yield* near("when", refused._tag === "Throttled" ? Duration.toMillis(refused.retryAfter) : 0, 60_000)
        yield* cache.verify("ada@example.org", wrong(first))
        yield* cache.verify("ada@example.org", wrong(first))
        yield* Suite.equal("exhausted", (yield* cache.verify("ada@example.org", first))._tag, "Exhausted")
        yield* advance(Duration.seconds(61))
        const second = yield* issue(cache, "ada@example.org", undefined)
        if (second !== first) {
          yield* Suite.equal("the first is wrong", yield* cache.verify("ada@example.org", first), {
            _tag: "Wrong",
            attemptsLeft: 1
          })
        }
        yield* Suite.equal("confirmed", (yield* cache.verify("ada@example.org", second))._tag, "Confirmed")
        yield* Suite.equal("then at once", (yield* cache.issue("ada@example.org"))._tag, "Issued")
      })
    ),
    Suite.test(
      "of a hundred wishes for a code at once one is granted, and no more than the quota in its time",
      Effect.gen(function* () {
        const cache = yield* codes({ resendAfter: "1 minute", quota: { codes: 2, within: "1 hour" } })
        yield* Suite.equal("one", counted(yield* hundred(() => cache.issue("ada@example.org"))), {
          Issued: 1,
          Throttled: 99
        })
        yield* advance(Duration.minutes(2))
        yield* Suite.equal("two", (yield* cache.issue("ada@example.org"))._tag, "Issued")
        yield* advance(Duration.minutes(2))
        const third = yield* cache.issue("ada@example.org")
        yield* Suite.equal("not three", third._tag, "Throttled")
        yield* Suite.isTrue(
          "for most of the hour",
          third._tag === "Throttled" && Duration.toMinutes(third.retryAfter) > 50
        )
        yield* Suite.equal("others have theirs", (yield* cache.issue("grace@example.org"))._tag, "Issued")
        yield* advance(Duration.hours(1))
        yield* Suite.equal("after an hour", (yield* cache.issue("ada@example.org"))._tag, "Issued")
      })
    ),
    Suite.test(
      "a code is taken back",
      Effect.gen(function* () {
        const cache = yield* codes()
        const code = yield* issue(cache, "ada@example.org", undefined)
        yield* Suite.equal("there was one", yield* cache.revoke("ADA@example.org"), true)
        yield* Suite.equal("no more", yield* cache.revoke("ada@example.org"), false)
        yield* Suite.equal("worthless", (yield* cache.verify("ada@example.org", code))._tag, "NotFound")
      })
    ),
    Suite.test(
      "what is kept with a code comes out with it",
      Effect.gen(function* () {
        const name = yield* fresh
        const cache = yield* ConfirmationCache.make({ name, schema: Signup })
        const code = yield* issue(cache, "action_123", ada)
        yield* Suite.equal("not with a wrong one", (yield* cache.verify("action_123", wrong(code)))._tag, "Wrong")
        yield* Suite.equal("with the right one", yield* cache.verify("action_123", code), {
          _tag: "Confirmed",
          value: ada
        })
      })
    ),
    Suite.test(
      "with a secret codes are confirmed by who has the same secret only",
      Effect.gen(function* () {
        const name = yield* fresh
        const one = yield* ConfirmationCache.make({ name, secret: Redacted.make("the secret of one application") })
        const same = yield* ConfirmationCache.make({ name, secret: Redacted.make("the secret of one application") })
        const other = yield* ConfirmationCache.make({
          name,
          secret: Redacted.make("the secret of another application")
        })
        const code = yield* issue(one, "ada@example.org", undefined)
        yield* Suite.equal("another", (yield* other.verify("ada@example.org", code))._tag, "NotFound")
        yield* Suite.equal("the same", (yield* same.verify("ada@example.org", code))._tag, "Confirmed")
      })
    ),

    // -----------------------------------------------------------------------------------------------------------------
    // sign-ups
    // -----------------------------------------------------------------------------------------------------------------
    Suite.test(
      "a sign-up is seen and taken by its ticket, and taken once",
      Effect.gen(function* () {
        const cache = yield* signups()
        const ticket = yield* begin(cache, "ada@example.org", ada)
        yield* Suite.equal("seen", yield* cache.get(" Ada@Example.org", ticket), Option.some(ada))
        yield* Suite.equal("no other ticket", yield* cache.get("ada@example.org", "no ticket"), Option.none())
        yield* Suite.equal("not taken by it", yield* cache.take("ada@example.org", "no ticket"), Option.none())
        const all = yield* hundred(() => cache.take("ada@example.org", ticket))
        yield* Suite.equal("once", all.filter(Option.isSome), [Option.some(ada)])
      })
    ),
    Suite.test(
      "of two sign-ups of one identity at once exactly one is begun, and the other is told nothing of it",
      Effect.gen(function* () {
        const cache = yield* signups({ ttl: "1 hour" })
        const all = yield* hundred((index) =>
          cache.begin(index % 2 === 0 ? "Ada@example.org" : "ada@example.org ", ada)
        )
        yield* Suite.equal("one", counted(all), { Begun: 1, Pending: 99 })
        const pending = all.find((one) => one._tag === "Pending")
        yield* Suite.equal("what the others know", Object.keys(pending ?? {}).sort(), ["_tag", "expiresIn"])
        yield* Suite.equal("another identity", (yield* cache.begin("grace@example.org", grace))._tag, "Begun")
        yield* advance(Duration.minutes(61))
        yield* Suite.equal("once it is expired", (yield* cache.begin("ada@example.org", grace))._tag, "Begun")
      })
    ),
    Suite.test(
      "where the second takes the place of the first, the first ticket is worth nothing",
      Effect.gen(function* () {
        const cache = yield* signups({ onPending: "replace" })
        const first = yield* begin(cache, "ada@example.org", grace)
        const second = yield* begin(cache, "ada@example.org", ada)
        yield* Suite.equal("the first", yield* cache.take("ada@example.org", first), Option.none())
        yield* Suite.equal("nor does it cancel", yield* cache.cancel("ada@example.org", first), false)
        yield* Suite.equal("the second", yield* cache.take("ada@example.org", second), Option.some(ada))
      })
    ),
    Suite.test(
      "a sign-up is given up",
      Effect.gen(function* () {
        const cache = yield* signups()
        const ticket = yield* begin(cache, "ada@example.org", ada)
        yield* Suite.equal("there was one", yield* cache.cancel("ada@example.org", ticket), true)
        yield* Suite.equal("no more", yield* cache.cancel("ada@example.org", ticket), false)
        yield* Suite.equal("room for another", (yield* cache.begin("ada@example.org", ada))._tag, "Begun")
      })
    ),
    Suite.test(
      "a sign-up is confirmed by its ticket and its code, once",
      Effect.gen(function* () {
        const both = SignupCache.withConfirmation(yield* signups(), yield* codes({ attempts: 3 }))
        const begun = yield* both.begin("ada@example.org", ada)
        if (begun._tag !== "Begun") return yield* Suite.equal("begun", begun._tag, "Begun")
        const code = Redacted.value(begun.code)
        yield* Suite.equal("another", (yield* both.begin("ada@example.org", grace))._tag, "Pending")
        yield* Suite.equal("no ticket", yield* both.confirm("ada@example.org", "none", code), { _tag: "NotFound" })
        for (let i = 0; i < 10; i++) yield* both.confirm("ada@example.org", "none", wrong(code))
        yield* Suite.equal(
          "who has none uses up no tries",
          yield* both.confirm("ada@example.org", begun.ticket, wrong(code)),
          { _tag: "Wrong", attemptsLeft: 2 }
        )
        const all = yield* hundred(() => both.confirm("ada@example.org", begun.ticket, code))
        const confirmed = all.filter((one) => one._tag === "Confirmed")
        yield* Suite.equal("once", confirmed, [{ _tag: "Confirmed", signup: ada }])
      })
    ),
    Suite.test(
      "another code is sent for a sign-up, by its ticket, when that may be",
      Effect.gen(function* () {
        const both = SignupCache.withConfirmation(
          yield* signups(),
          yield* codes({ resendAfter: "1 minute", attempts: 1, ttl: "5 minutes" })
        )
        const begun = yield* both.begin("ada@example.org", ada)
        if (begun._tag !== "Begun") return yield* Suite.equal("begun", begun._tag, "Begun")
        yield* both.confirm("ada@example.org", begun.ticket, wrong(Redacted.value(begun.code)))
        yield* Suite.equal("exhausted", yield* both.confirm("ada@example.org", begun.ticket, begun.code), {
          _tag: "Exhausted"
        })
        yield* Suite.equal("too soon", (yield* both.resend("ada@example.org", begun.ticket))._tag, "Throttled")
        yield* advance(Duration.minutes(6))
        yield* Suite.equal("expired", yield* both.confirm("ada@example.org", begun.ticket, begun.code), {
          _tag: "CodeExpired"
        })
        yield* Suite.equal("no ticket", (yield* both.resend("ada@example.org", "none"))._tag, "NotFound")
        const again = yield* both.resend("ada@example.org", begun.ticket)
        if (again._tag !== "Issued") return yield* Suite.equal("issued", again._tag, "Issued")
        yield* Suite.equal("confirmed", yield* both.confirm("ada@example.org", begun.ticket, again.code), {
          _tag: "Confirmed",
          signup: ada
        })
      })
    ),
    Suite.test(
      "who may have no code begins no sign-up, and takes nobody's place",
      Effect.gen(function* () {
        const confirmations = yield* codes({ resendAfter: "1 minute" })
        const keeping = SignupCache.withConfirmation(yield* signups(), confirmations)
        yield* confirmations.issue("ada@example.org")
        yield* Suite.equal("throttled", (yield* keeping.begin("ada@example.org", ada))._tag, "Throttled")
        yield* advance(Duration.minutes(2))
        yield* Suite.equal("nothing is in the way", (yield* keeping.begin("ada@example.org", ada))._tag, "Begun")
        const replacing = SignupCache.withConfirmation(
          yield* signups({ onPending: "replace" }),
          yield* codes({ resendAfter: "1 minute" })
        )
        const first = yield* replacing.begin("ada@example.org", ada)
        if (first._tag !== "Begun") return yield* Suite.equal("begun", first._tag, "Begun")
        yield* Suite.equal("too soon", (yield* replacing.begin("ada@example.org", grace))._tag, "Throttled")
        yield* Suite.equal("the first stands", yield* replacing.confirm("ada@example.org", first.ticket, first.code), {
          _tag: "Confirmed",
          signup: ada
        })
      })
    )
  ])
}
