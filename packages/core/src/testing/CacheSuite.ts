/**
 * What every cache backend must do under a handle.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as CacheFreshness from "../internal/cache/suiteFreshness.ts"
import * as CacheSharing from "../internal/cache/suiteSharing.ts"
import type { Capability } from "../internal/cache/suiteSupport.ts"
import * as Cache from "../state/Cache.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

export type { Capability } from "../internal/cache/suiteSupport.ts"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /**
   * Lets time pass for the cache: by `TestClock`, by which every handle goes, and by ageing its keys for a backend that
   * has a clock of its own.
   */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
}

const User = Schema.Struct({ name: Schema.String, since: Schema.Date })

class Tagged extends Cache.tag("@underlay/core/testing/Tagged", {
  namespace: "tagged",
  schema: Schema.Number
})<Tagged>() {}

/** Lets what is under way outside get on, whatever clock the test has. */
const turn = Effect.async<void>((resume) => {
  setTimeout(() => resume(Effect.void), 1)
})

/**
 * The suite. Every case has a namespace of its own, so all of them can run on one cache.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, Cache.Cache | R> => {
  const { advance } = options
  const namespace = Effect.map(SessionStore.makeId, (id) => `suite-${id.slice(0, 12)}`)
  const numbers = (settings: { readonly ttl?: Duration.DurationInput } = {}) =>
    Effect.flatMap(namespace, (name) => Cache.make({ namespace: name, schema: Schema.Number, jitter: 0, ...settings }))
  const scenario = (name: string, run: Effect.Effect<void, unknown, Cache.Cache | R>) => Suite.test(name, run)

  return Suite.make<Capability, Cache.Cache | R>("Cache", [
    ...CacheFreshness.cases(options),
    ...CacheSharing.cases(options),
    scenario(
      "gives back what was kept, by its schema",
      Effect.gen(function* () {
        const users = yield* Cache.make({ namespace: yield* namespace, schema: User })
        const ada = { name: "Ada \u{1F30D}", since: new Date(86_400_000) }
        yield* Suite.equal("before", yield* users.get("ada"), Option.none())
        yield* users.set("ada", ada)
        const found = yield* users.get("ada")
        yield* Suite.equal("after", Option.getOrUndefined(found), ada)
        yield* Suite.equal("delete", yield* users.delete("ada"), true)
        yield* Suite.equal("delete again", yield* users.delete("ada"), false)
        yield* Suite.equal("gone", yield* users.get("ada"), Option.none())
      })
    ),
    scenario(
      "an entry lives as long as it is told, ten minutes by default",
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* cache.set("a", 1)
        yield* cache.set("b", 2, { ttl: "1 minute" })
        yield* advance(Duration.seconds(61))
        yield* Suite.equal("b", yield* cache.get("b"), Option.none())
        yield* Suite.equal("a", yield* cache.get("a"), Option.some(1))
        yield* advance(Duration.minutes(9))
        yield* Suite.equal("a, later", yield* cache.get("a"), Option.none())
      })
    ),
    scenario(
      "jitter shortens an entry's life by no more than its part, and never prolongs it",
      Effect.gen(function* () {
        const cache = yield* Cache.make({
          namespace: yield* namespace,
          schema: Schema.Number,
          ttl: "100 seconds",
          jitter: 0.2
        })
        yield* cache.setMany(Array.from({ length: 50 }, (_, index) => [String(index), index] as const))
        const keys = Array.from({ length: 50 }, (_, index) => String(index))
        const left = Effect.map(cache.getMany(keys), (found) => found.filter(Option.isSome).length)
        yield* advance(Duration.seconds(79))
        yield* Suite.equal("all before four fifths", yield* left, 50)
        yield* advance(Duration.seconds(11))
        const some = yield* left
        yield* Suite.isTrue("some between", some > 0 && some < 50)
        yield* advance(Duration.seconds(11))
        yield* Suite.equal("none after", yield* left, 0)
      })
    ),
    scenario(
      "namespaces do not see each other",
      Effect.gen(function* () {
        const [a, b] = [yield* numbers(), yield* numbers()]
        yield* a.set("key", 1)
        yield* Suite.equal("b", yield* b.get("key"), Option.none())
        yield* b.set("key", 2)
        yield* Suite.equal("a", yield* a.get("key"), Option.some(1))
      })
    ),
    scenario(
      "clear empties its namespace and no other, whatever the keys look like",
      Effect.gen(function* () {
        const name = yield* namespace
        const [cache, longer] = [
          yield* Cache.make({ namespace: name, schema: Schema.Number }),
          yield* Cache.make({ namespace: `${name}-longer`, schema: Schema.Number })
        ]
        yield* cache.clear
        const keys = ["*", "?", "[a-z]", "\\", "{x}", "a:b", "a b\n", "\u{1F511}", ""]
        yield* cache.setMany(keys.map((key, index) => [key, index] as const))
        yield* longer.set("*", 1)
        yield* cache.clear
        for (const key of keys) yield* Suite.equal("gone", yield* cache.get(key), Option.none())
        yield* Suite.equal("the other", yield* longer.get("*"), Option.some(1))
      })
    ),
    scenario(
      "clear empties thousands",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const keys = Array.from({ length: 2_500 }, (_, index) => `key ${index}`)
        yield* cache.setMany(keys.map((key, index) => [key, index] as const))
        yield* cache.clear
        yield* Suite.equal("none is left", (yield* cache.getMany(keys)).filter(Option.isSome).length, 0)
      })
    ),
    Suite.testWith(
      "clear says how many there were",
      ["counts"],
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* Suite.equal("empty", yield* cache.clear, 0)
        yield* cache.setMany(["*", "{x}", "a b\n", "\u{1F511}", ""].map((key, index) => [key, index] as const))
        yield* Suite.equal("a few", yield* cache.clear, 5)
        yield* cache.setMany(Array.from({ length: 2_500 }, (_, index) => [`key ${index}`, index] as const))
        yield* Suite.equal("all", yield* cache.clear, 2_500)
        yield* Suite.equal("none is left", yield* cache.clear, 0)
      })
    ),
    scenario(
      "getMany keeps the order of the keys",
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* cache.setMany([
          ["a", 1],
          ["b", 2]
        ])
        yield* Suite.equal("order", yield* cache.getMany(["b", "absent", "a", "b"]), [
          Option.some(2),
          Option.none(),
          Option.some(1),
          Option.some(2)
        ])
        yield* Suite.equal("nothing", yield* cache.getMany([]), [])
        yield* cache.setMany([])
      })
    ),
    scenario(
      "a value of another shape is a miss, counted, and is computed anew",
      Effect.gen(function* () {
        const name = yield* namespace
        const texts = yield* Cache.make({ namespace: name, schema: Schema.String })
        const cache = yield* Cache.make({ namespace: name, schema: Schema.Number })
        yield* texts.set("key", "not a number")
        yield* Suite.equal("get", yield* cache.get("key"), Option.none())
        yield* Suite.equal("removed", yield* texts.get("key"), Option.none())
        yield* texts.set("key", "not a number")
        yield* Suite.equal("getMany", yield* cache.getMany(["key", "key"]), [Option.none(), Option.none()])
        yield* Suite.equal("corrupt", (yield* cache.stats).corrupt, 2)
        yield* texts.set("key", "not a number")
        yield* Suite.equal("getOrElse", yield* cache.getOrElse("key", Effect.succeed(7)), 7)
        yield* Suite.equal("replaced", yield* cache.get("key"), Option.some(7))
      })
    ),
    scenario(
      "getOrElse computes once and keeps the value",
      Effect.gen(function* () {
        const cache = yield* numbers()
        let calls = 0
        const compute = Effect.sync(() => ++calls)
        yield* Suite.equal("first", yield* cache.getOrElse("key", compute), 1)
        yield* Suite.equal("second", yield* cache.getOrElse("key", compute), 1)
        yield* Suite.equal("kept", yield* cache.get("key"), Option.some(1))
        yield* cache.getOrElse("short", Effect.succeed(5), { ttl: "1 minute" })
        yield* advance(Duration.seconds(61))
        yield* Suite.equal("by its own time", yield* cache.get("short"), Option.none())
      })
    ),
    scenario(
      "a hundred concurrent misses of a key run one computation",
      Effect.gen(function* () {
        const cache = yield* numbers()
        let calls = 0
        const untilJoined = (count: number, turns = 5_000): Effect.Effect<void> =>
          Effect.flatMap(cache.stats, (stats) =>
            stats.joined >= count || turns === 0 ? Effect.void : Effect.zipRight(turn, untilJoined(count, turns - 1))
          )
        const compute = Effect.zipRight(
          Effect.sync(() => {
            calls++
          }),
          // until the others wait for it: one whose look at a slow backend takes longer than all of this would have a hit
          Effect.as(untilJoined(99), 42)
        )
        const found = yield* Effect.forEach(Chunk.range(1, 100), () => cache.getOrElse("key", compute), {
          concurrency: "unbounded"
        })
        yield* Suite.isTrue(
          "all have it",
          found.every((one) => one === 42)
        )
        yield* Suite.equal("computations", calls, 1)
        const { joined, loads } = yield* cache.stats
        yield* Suite.equal("counted", { joined, loads }, { joined: 99, loads: 1 })
      })
    ),
    scenario(
      "a failed computation fails its callers, typed, and is not kept",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const error = yield* Effect.flip(cache.getOrElse("key", Effect.fail("no" as const)))
        yield* Suite.equal("the error", error, "no")
        yield* Suite.equal("the next one computes", yield* cache.getOrElse("key", Effect.succeed(1)), 1)
      })
    ),
    scenario(
      "when the caller that computes is interrupted, a waiting one takes over",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const begun = yield* Deferred.make<void>()
        const first = yield* Effect.fork(
          cache.getOrElse("key", Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never))
        )
        yield* Deferred.await(begun)
        const second = yield* Effect.fork(cache.getOrElse("key", Effect.succeed(2)))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(first)
        yield* Suite.equal("the second", yield* Fiber.join(second), 2)
      })
    ),
    scenario(
      "a caller that waits can be interrupted without disturbing the others",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const [begun, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const compute = Effect.zipRight(Deferred.succeed(begun, undefined), Effect.as(Deferred.await(go), 1))
        const first = yield* Effect.fork(cache.getOrElse("key", compute))
        yield* Deferred.await(begun)
        const second = yield* Effect.fork(cache.getOrElse("key", compute))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(second)
        yield* Deferred.succeed(go, undefined)
        yield* Suite.equal("the first", yield* Fiber.join(first), 1)
      })
    ),
    scenario(
      "a value computed before a delete does not come back after it",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const [begun, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const compute = Effect.zipRight(Deferred.succeed(begun, undefined), Effect.as(Deferred.await(go), 1))
        const first = yield* Effect.fork(cache.getOrElse("key", compute))
        yield* Deferred.await(begun)
        yield* cache.delete("key")
        yield* Suite.equal("a later caller computes itself", yield* cache.getOrElse("key", Effect.succeed(2)), 2)
        yield* Deferred.succeed(go, undefined)
        yield* Suite.equal("the first has its value", yield* Fiber.join(first), 1)
        yield* Suite.equal("what is kept", yield* cache.get("key"), Option.some(2))
      })
    ),
    scenario(
      "nor by a delete that comes between the computation and its keeping",
      Effect.gen(function* () {
        const cache = yield* Cache.make({ namespace: yield* namespace, schema: Schema.Number, jitter: 0.5 })
        const random = Random.make("seed")
        // the last that is asked before an entry is written
        const deleting: typeof random = Object.create(random, {
          next: { value: Effect.as(cache.delete("key"), 0.5) }
        })
        const value = yield* Effect.withRandom(cache.getOrElse("key", Effect.succeed(1)), deleting)
        yield* Suite.equal("the caller has its value", value, 1)
        yield* Suite.equal("nothing is kept", yield* cache.get("key"), Option.none())
      })
    ),
    scenario(
      "options that cannot be are refused",
      Effect.gen(function* () {
        const refused = (error: Cache.CacheError) => error.reason === "InvalidOptions"
        for (const name of ["", "a:b", "a*", "a b", "a".repeat(129)]) {
          yield* Suite.fails(name, Cache.make({ namespace: name, schema: Schema.Number }), refused)
        }
        for (const ttl of [0, -1, Number.POSITIVE_INFINITY, Number.NaN]) {
          yield* Suite.fails("ttl", Cache.make({ namespace: "a", schema: Schema.Number, ttl }), refused)
        }
        for (const jitter of [-0.1, 1.1, Number.NaN]) {
          yield* Suite.fails("jitter", Cache.make({ namespace: "a", schema: Schema.Number, jitter }), refused)
        }
        const strict = yield* Cache.make({ namespace: yield* namespace, schema: Schema.Number, strict: true })
        yield* Suite.fails("a write's ttl", strict.set("a", 1, { ttl: 0 }), (error) => error.reason === "InvalidTtl")
      })
    ),
    scenario(
      "counts hits, misses and writes",
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* cache.get("a")
        yield* cache.set("a", 1)
        yield* cache.get("a")
        yield* cache.getMany(["a", "b"])
        const { hits, misses, writes } = yield* cache.stats
        yield* Suite.equal("counts", { hits, misses, writes }, { hits: 2, misses: 2, writes: 1 })
      })
    ),
    scenario(
      "a named cache is a tag with its layer",
      Effect.gen(function* () {
        const value = yield* Effect.provide(
          Effect.flatMap(Tagged, (cache) => Effect.zipRight(cache.set("key", 3), cache.get("key"))),
          Tagged.layer
        )
        yield* Suite.equal("the value", value, Option.some(3))
      })
    )
  ])
}
