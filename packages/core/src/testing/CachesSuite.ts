/**
 * What every kind of caches must do under the registry.
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
import type * as Scope from "effect/Scope"
import * as Caches from "../state/Caches.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What a kind may have beyond caches: `oneTime`, that it keeps confirmation codes and sign-ups; `counts`, that it says how
 * many entries were cleared.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "oneTime" | "counts"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  readonly kind: string
  /** A registry with the kind, and with this configuration: values by path (`caches.users.ttl`). */
  readonly caches: (
    configuration: ReadonlyMap<string, string>
  ) => Effect.Effect<typeof Caches.Caches.Service, unknown, Scope.Scope | R>
  /** Lets time pass for the kind and for `Clock`. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
}

const UserId = Schema.Number.pipe(Schema.int(), Schema.brand("UserId"))
const KeyOfUser = Schema.NumberFromString.pipe(Schema.compose(UserId))
const User = Schema.Struct({ id: UserId, name: Schema.String, since: Schema.Date })

/**
 * The suite. Every case has names of its own, so all of them can run on one store.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, R> => {
  const { advance, caches, kind } = options

  const body = (run: (name: string) => Effect.Effect<void, unknown, Scope.Scope | R>) =>
    Effect.scoped(Effect.flatMap(SessionStore.makeId, (id) => run(`suite-${id.slice(0, 12)}`)))
  const scenario = (name: string, run: (name: string) => Effect.Effect<void, unknown, Scope.Scope | R>) =>
    Suite.test(name, body(run))

  const of = (name: string, settings: Readonly<Record<string, string>> = {}) =>
    caches(
      new Map([
        [`caches.${name}.kind`, kind],
        ...Object.entries(settings).map(([path, value]): [string, string] => [`caches.${name}.${path}`, value])
      ])
    )

  const users = (name: string) => Caches.define({ name, key: KeyOfUser, schema: User, ttl: "10 minutes", jitter: 0 })
  const ada = { id: UserId.make(1), name: "Ada", since: new Date("2026-01-02T03:04:05.000Z") }
  const grace = { id: UserId.make(2), name: "Grace", since: new Date("2025-01-02T03:04:05.000Z") }

  return Suite.make<Capability, R>("Caches", [
    scenario("a cache by keys of a schema reads, writes, computes and deletes", (name) =>
      Effect.gen(function* () {
        const registry = yield* of(name)
        const cache = yield* registry.get(users(name))
        yield* Suite.equal("nothing", yield* cache.get(ada.id), Option.none())
        yield* cache.set(ada.id, ada)
        yield* Suite.equal("there", yield* cache.get(ada.id), Option.some(ada))
        yield* Suite.equal("computed", yield* cache.getOrElse(grace.id, Effect.succeed(grace)), grace)
        yield* Suite.equal("then found", yield* cache.getOrElse(grace.id, Effect.fail("computed again")), grace)
        const nobody = UserId.make(3)
        yield* Suite.equal("nobody", yield* cache.getOrElseOption(nobody, Effect.succeedNone), Option.none())
        yield* Suite.equal("several", yield* cache.getMany([grace.id, nobody, ada.id]), [
          Option.some(grace),
          Option.none(),
          Option.some(ada)
        ])
        yield* Suite.equal("deleted", yield* cache.delete(ada.id), true)
        yield* Suite.equal("several deleted", yield* cache.deleteMany([ada.id, grace.id]), 1)
        yield* cache.setMany([
          [ada.id, ada],
          [grace.id, grace]
        ])
        const asked: Array<ReadonlyArray<number>> = []
        const [first, second, third] = [ada.id, nobody, UserId.make(4)]
        const loaded = yield* cache.getOrElseMany([first, second, third], (missing) =>
          Effect.sync(() => {
            asked.push(missing)
            return [[third, { ...ada, id: third }] as const]
          })
        )
        yield* Suite.equal("what was missing was asked for", asked, [[4]])
        yield* Suite.equal("in order", loaded, [Option.some(ada), Option.none(), Option.some({ ...ada, id: third })])
      })
    ),
    scenario("a cache is made once, however many ask", (name) =>
      Effect.gen(function* () {
        const registry = yield* of(name)
        const definition = users(name)
        const all = yield* Effect.forEach(Chunk.range(1, 100), () => registry.get(definition), {
          concurrency: "unbounded"
        })
        yield* Suite.equal("one", new Set(all).size, 1)
        yield* Suite.equal("listed", yield* registry.list, [{ name, kind, namespace: name }])
      })
    ),
    scenario("configuration goes before the code, setting by setting", (name) =>
      Effect.gen(function* () {
        const registry = yield* of(name, { ttl: "1 minute", prefix: "test-" })
        const cache = yield* registry.get(users(name))
        yield* Suite.equal("the prefix", cache.namespace, `test-${name}`)
        yield* cache.set(ada.id, ada)
        yield* advance(Duration.seconds(50))
        yield* Suite.equal("fresh", yield* cache.get(ada.id), Option.some(ada))
        yield* advance(Duration.seconds(11))
        yield* Suite.equal("expired", yield* cache.get(ada.id), Option.none())
      })
    ),
    scenario("stale values are served where configuration says so", (name) =>
      Effect.gen(function* () {
        const registry = yield* of(name, { ttl: "1 minute", graceFor: "10 minutes", jitter: "0" })
        const cache = yield* registry.get(users(name))
        yield* cache.getOrElse(ada.id, Effect.succeed(ada))
        yield* advance(Duration.minutes(2))
        yield* Suite.equal("not fresh", yield* cache.get(ada.id), Option.none())
        yield* Suite.equal("but better than none", yield* cache.getOrElse(ada.id, Effect.fail("down")), ada)
      })
    ),
    scenario("stats and clear by name", (name) =>
      Effect.gen(function* () {
        const other = `${name}-other`
        const registry = yield* caches(
          new Map([
            [`caches.${name}.kind`, kind],
            [`caches.${other}.kind`, kind]
          ])
        )
        const [one, two] = [yield* registry.get(users(name)), yield* registry.get(users(other))]
        yield* one.set(ada.id, ada)
        yield* one.set(grace.id, grace)
        yield* two.set(ada.id, ada)
        yield* one.get(ada.id)
        const stats = yield* registry.stats
        yield* Suite.equal(
          "by name",
          stats.map(({ name, stats }) => [name, stats.writes, stats.hits]),
          [
            [name, 2, 1],
            [other, 1, 0]
          ]
        )
        yield* registry.clear(name)
        yield* Suite.equal("gone", yield* one.get(ada.id), Option.none())
        yield* Suite.equal("the other is not", yield* two.get(ada.id), Option.some(ada))
        yield* one.set(ada.id, ada)
        yield* registry.clearAll
        yield* Suite.equal(
          "nothing is left",
          [yield* one.get(ada.id), yield* two.get(ada.id)],
          [Option.none(), Option.none()]
        )
        const missing = yield* Effect.either(registry.clear("nobody"))
        yield* Suite.isTrue("not one that is not", Either.isLeft(missing) && missing.left.reason === "NotFound")
      })
    ),
    Suite.testWith(
      "clear by name says how many there were",
      ["counts"],
      body((name) =>
        Effect.gen(function* () {
          const other = `${name}-other`
          const registry = yield* caches(
            new Map([
              [`caches.${name}.kind`, kind],
              [`caches.${other}.kind`, kind]
            ])
          )
          const [one, two] = [yield* registry.get(users(name)), yield* registry.get(users(other))]
          yield* one.set(ada.id, ada)
          yield* one.set(grace.id, grace)
          yield* two.set(ada.id, ada)
          yield* Suite.equal("cleared", yield* registry.clear(name), 2)
          yield* one.set(ada.id, ada)
          yield* Suite.equal("all", yield* registry.clearAll, 2)
        })
      )
    ),
    scenario("two registries share what they keep, where the kind does", (name) =>
      Effect.gen(function* () {
        const [here, there] = [yield* of(name), yield* of(name)]
        const [one, two] = [yield* here.get(users(name)), yield* there.get(users(name))]
        yield* one.set(ada.id, ada)
        const found = yield* two.get(ada.id)
        yield* Suite.equal("found", found, kind === "memory" ? Option.none() : Option.some(ada))
      })
    ),
    Suite.testWith(
      "confirmation codes and sign-ups of the kind",
      ["oneTime"],
      body((name) =>
        Effect.gen(function* () {
          const codes = `${name}-codes`
          const signups = `${name}-signups`
          const registry = yield* caches(
            new Map([
              ["caches.defaults.kind", kind],
              [`caches.${codes}.length`, "9"],
              [`caches.${codes}.attempts`, "2"],
              [`caches.${codes}.resendAfter`, "none"],
              [`caches.${codes}.quota.codes`, "2"],
              [`caches.${signups}.onPending`, "replace"]
            ])
          )
          const confirmations = yield* registry.get(Caches.confirmation({ name: codes, length: 6 }))
          const issued = yield* confirmations.issue("ada@example.org")
          if (issued._tag !== "Issued") return yield* Suite.equal("issued", issued._tag, "Issued")
          yield* Suite.isTrue("nine digits", /^\d{9}$/.test(Redacted.value(issued.code)))
          yield* Suite.equal("two attempts", yield* confirmations.verify("ada@example.org", "0"), {
            _tag: "Wrong",
            attemptsLeft: 1
          })
          yield* Suite.equal(
            "confirmed",
            (yield* confirmations.verify("ada@example.org", issued.code))._tag,
            "Confirmed"
          )
          yield* Suite.equal("no pause", (yield* confirmations.issue("ada@example.org"))._tag, "Issued")
          yield* Suite.equal("a quota of two", (yield* confirmations.issue("ada@example.org"))._tag, "Throttled")
          const pending = yield* registry.get(Caches.signup({ name: signups, schema: User }))
          yield* Suite.equal("begun", (yield* pending.begin("ada@example.org", ada))._tag, "Begun")
          const second = yield* pending.begin("ada@example.org", grace)
          if (second._tag !== "Begun") return yield* Suite.equal("replaced", second._tag, "Begun")
          yield* Suite.equal("taken", yield* pending.take("ada@example.org", second.ticket), Option.some(grace))
          yield* Suite.equal(
            "of the kind",
            (yield* registry.list).map((one) => one.kind),
            [kind, kind]
          )
          yield* Suite.equal("without counters", yield* registry.stats, [])
        })
      )
    )
  ])
}
