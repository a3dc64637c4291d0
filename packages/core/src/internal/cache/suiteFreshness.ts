/**
 * The part of the cache's suite about entries and time: stale, grace, early refresh, absence, batches, trust.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Cache from "../../state/Cache.ts"
import * as Suite from "../../testing/Suite.ts"
import { type Capability, namespace, numbers, plant, seconds, until } from "./suiteSupport.ts"

export const cases = <R>(options: {
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
}): ReadonlyArray<Suite.Case<Capability, Cache.Cache | R>> => {
  const { advance } = options
  const scenario = (name: string, run: Effect.Effect<void, unknown, Cache.Cache | R>) => Suite.test(name, run)
  const stats = <A, E>(cache: Cache.CacheHandle<A, E>) => cache.stats

  return [
    scenario(
      "an entry is a small JSON object with the value in it",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* Cache.make({ namespace: name, schema: Schema.Struct({ a: Schema.String }), jitter: 0 })
        yield* cache.set("key", { a: "\u00e9" })
        const backend = yield* Cache.Cache
        const found = yield* backend.get(`cache:${name}:key`, true)
        yield* Suite.equal("the entry", found, {
          text: '{"value":{"a":"\u00e9"}}',
          left: found === "unreadable" ? 0 : (found?.left ?? 0)
        })
        yield* Suite.isTrue(
          "its time",
          typeof found === "object" && (found.left ?? 0) > 590_000 && (found.left ?? 0) <= 600_000
        )
        yield* plant(name, "other", '{"value":{"a":"b"}}')
        yield* Suite.equal("from another language", yield* cache.get("other"), Option.some({ a: "b" }))
      })
    ),
    scenario(
      "what is no entry is a miss, counted and removed",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* numbers({ namespace: name })
        const texts = [
          "",
          "{",
          "null",
          "7",
          "[]",
          "{}",
          '{"value":1',
          '{"value":"1"}',
          '{"value":null}',
          '{"none":"yes"}',
          '{"none":true,"value":1}',
          '{"value":1,"keep":-1}',
          '{"value":1,"keep":"long"}',
          '{"value":1,"tags":["a"]}',
          '{"value":1,"tags":{"a":1}}',
          '{"value":1,"generation":1}',
          '{"__proto__":{"value":1}}'
        ]
        for (const text of texts) {
          yield* plant(name, "key", text)
          yield* Suite.equal(text, yield* cache.get("key"), Option.none())
          const backend = yield* Cache.Cache
          yield* Suite.equal("removed", yield* backend.get(`cache:${name}:key`, false), undefined)
        }
        yield* Suite.equal("counted", (yield* stats(cache)).corrupt, texts.length)
      })
    ),
    scenario(
      "what a handle that keeps its entries longer has written is fresh for its time only",
      Effect.gen(function* () {
        const name = yield* namespace
        const keeping = yield* numbers({ namespace: name, ttl: "1 minute", graceFor: "1 hour" })
        const plain = yield* numbers({ namespace: name })
        yield* keeping.set("key", 1)
        yield* Suite.equal("fresh", yield* plain.get("key"), Option.some(1))
        yield* Suite.equal("fresh, of many", yield* plain.getMany(["key"]), [Option.some(1)])
        yield* advance(seconds(61))
        yield* Suite.equal("not fresh", yield* plain.get("key"), Option.none())
        yield* Suite.equal("not fresh, of many", yield* plain.getMany(["key"]), [Option.none()])
        yield* Suite.equal("computed", yield* plain.getOrElse("key", Effect.succeed(2)), 2)
      })
    ),
    scenario(
      "stale while revalidating: the old value at once, the new one behind it",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 minute" })
        let value = 0
        const compute = Effect.sync(() => ++value)
        yield* Suite.equal("first", yield* cache.getOrElse("key", compute), 1)
        yield* advance(seconds(61))
        yield* Suite.equal("get gives what is fresh only", yield* cache.get("key"), Option.none())
        yield* Suite.equal("stale", yield* cache.getOrElse("key", compute), 1)
        yield* Suite.isTrue(
          "refreshed",
          yield* until(Effect.map(cache.get("key"), (found) => Option.contains(found, 2)))
        )
        const { refreshes, stale } = yield* stats(cache)
        yield* Suite.equal("counted", { refreshes, stale }, { refreshes: 1, stale: 1 })
        yield* advance(seconds(121))
        yield* Suite.equal("too old to be served", yield* cache.getOrElse("key", compute), 3)
      })
    ),
    scenario(
      "a refresh that fails leaves the old value, and says so in the counts",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", staleFor: "10 minutes" })
        yield* cache.set("key", 1)
        yield* advance(seconds(61))
        yield* Suite.equal("stale", yield* cache.getOrElse("key", Effect.fail("no")), 1)
        yield* Suite.isTrue(
          "failed",
          yield* until(Effect.map(cache.stats, ({ refreshFailures }) => refreshFailures === 1))
        )
        const bug = cache.getOrElse("key", Effect.die("a bug behind the call"))
        // a value that is gone is computed for the caller, who has the bug then
        yield* Suite.equal("still", yield* Effect.catchAllDefect(bug, Effect.fail), 1)
        yield* Suite.isTrue(
          "failed again",
          yield* until(Effect.map(cache.stats, ({ refreshFailures }) => refreshFailures === 2))
        )
      })
    ),
    scenario(
      "grace: the old value when its computation fails, for its time",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", graceFor: "1 hour" })
        yield* cache.set("key", 1)
        yield* advance(seconds(61))
        yield* Suite.equal("the old one", yield* cache.getOrElse("key", Effect.fail("no")), 1)
        yield* Suite.equal("as an option", yield* cache.getOrElseOption("key", Effect.fail("no")), Option.some(1))
        yield* Suite.equal("in a batch", yield* cache.getOrElseMany(["key"], () => Effect.fail("no")), [Option.some(1)])
        yield* Suite.equal("counted", (yield* cache.stats).graced, 3)
        yield* Suite.equal(
          "a bug is not hidden",
          (yield* Effect.exit(cache.getOrElse("key", Effect.die("bug"))))._tag,
          "Failure"
        )
        yield* Suite.equal("computed when it can be", yield* cache.getOrElse("key", Effect.succeed(2)), 2)
        yield* advance(seconds(3_661))
        yield* Suite.equal("no longer", yield* Effect.flip(cache.getOrElse("key", Effect.fail("no"))), "no")
      })
    ),
    scenario(
      "grace never serves what was removed (FusionCache #648)",
      Effect.gen(function* () {
        const name = yield* namespace
        const [cache, other] = [
          yield* numbers({ namespace: name, ttl: "1 minute", graceFor: "1 hour" }),
          yield* numbers({ namespace: name })
        ]
        const removals: ReadonlyArray<Effect.Effect<unknown>> = [
          cache.delete("key"),
          other.delete("key"),
          cache.deleteMany(["key"]),
          cache.clear,
          other.clear
        ]
        for (const remove of removals) {
          yield* cache.set("key", 1)
          yield* advance(seconds(61))
          // removed before, and removed while it is computed
          yield* remove
          yield* Suite.equal("before", yield* Effect.flip(cache.getOrElse("key", Effect.fail("no"))), "no")
          yield* cache.set("key", 1)
          yield* advance(seconds(61))
          const failing = Effect.zipRight(remove, Effect.fail("no"))
          yield* Suite.equal("meanwhile", yield* Effect.flip(cache.getOrElse("key", failing)), "no")
        }
        yield* Suite.equal("never", (yield* cache.stats).graced, 0)
      })
    ),
    scenario(
      "grace with a backoff does not ask again for its time",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", graceFor: "1 hour", graceBackoff: "10 seconds" })
        let calls = 0
        const failing = Effect.suspend(() => {
          calls++
          return Effect.fail("no")
        })
        yield* cache.set("key", 1)
        yield* advance(seconds(61))
        for (let call = 0; call < 5; call++) {
          yield* Suite.equal("the old one", yield* cache.getOrElse("key", failing), 1)
        }
        yield* Suite.equal("asked once", calls, 1)
        yield* advance(seconds(11))
        yield* cache.getOrElse("key", failing)
        yield* Suite.equal("and again later", calls, 2)
        yield* cache.delete("key")
        yield* Suite.equal("what is removed is gone at once", yield* Effect.flip(cache.getOrElse("key", failing)), "no")
      })
    ),
    scenario(
      "early refresh: what took long is computed anew before it expires, behind the call",
      Effect.gen(function* () {
        // so eager that it is certain: what took a second is due at any time
        const cache = yield* numbers({ ttl: "1 minute", earlyRefresh: 1e9 })
        let value = 0
        const slow = Effect.zipRight(
          advance(seconds(1)),
          Effect.sync(() => ++value)
        )
        yield* Suite.equal("first", yield* cache.getOrElse("key", slow), 1)
        yield* Suite.equal(
          "second",
          yield* cache.getOrElse(
            "key",
            Effect.sync(() => ++value)
          ),
          1
        )
        yield* Suite.isTrue(
          "refreshed",
          yield* until(Effect.map(cache.get("key"), (found) => Option.contains(found, 2)))
        )
        const { misses, refreshes } = yield* stats(cache)
        yield* Suite.equal("counted", { misses, refreshes }, { misses: 1, refreshes: 1 })
        // what took no time is not worth it
        yield* cache.getOrElse("quick", Effect.succeed(1))
        yield* cache.getOrElse("quick", Effect.succeed(2))
        yield* Suite.equal("quick", yield* cache.get("quick"), Option.some(1))
      })
    ),
    scenario(
      "that there is nothing is kept, for a time of its own",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "10 minutes", negativeTtl: "20 seconds" })
        let calls = 0
        const find = Effect.sync(() => {
          calls++
          return Option.none<number>()
        })
        yield* Suite.equal("first", yield* cache.getOrElseOption("key", find), Option.none())
        yield* Suite.equal("second", yield* cache.getOrElseOption("key", find), Option.none())
        yield* Suite.equal("asked once", calls, 1)
        yield* Suite.equal("get", yield* cache.get("key"), Option.none())
        yield* Suite.equal("counted", (yield* cache.stats).negativeHits, 2)
        yield* Suite.equal("whoever can compute does", yield* cache.getOrElse("key", Effect.succeed(5)), 5)
        yield* Suite.equal("and that is there", yield* cache.getOrElseOption("key", find), Option.some(5))
        yield* cache.getOrElseOption("other", find)
        yield* advance(seconds(21))
        yield* cache.getOrElseOption("other", find)
        yield* Suite.equal("asked again after its time", calls, 3)
        yield* cache.getOrElseOption("third", find, { negativeTtl: "1 minute" })
        yield* advance(seconds(30))
        yield* cache.getOrElseOption("third", find)
        yield* Suite.equal("by the write's own time", calls, 4)
      })
    ),
    scenario(
      "many at once: one call of the loader for all that is missing, each once",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const calls: Array<ReadonlyArray<string>> = []
        const load = (missing: ReadonlyArray<string>) =>
          Effect.sync(() => {
            calls.push(missing)
            return missing.filter((key) => key !== "nobody").map((key) => [key, key.length] as const)
          })
        yield* cache.set("bb", 20)
        yield* Suite.equal("in order", yield* cache.getOrElseMany(["ccc", "bb", "nobody", "a", "ccc"], load), [
          Option.some(3),
          Option.some(20),
          Option.none(),
          Option.some(1),
          Option.some(3)
        ])
        yield* Suite.equal("asked", calls, [["ccc", "nobody", "a"]])
        yield* Suite.equal("kept, absence too", yield* cache.getOrElseMany(["a", "nobody", "ccc"], load), [
          Option.some(1),
          Option.none(),
          Option.some(3)
        ])
        yield* Suite.equal("not asked again", calls.length, 1)
        yield* Suite.equal("nothing", yield* cache.getOrElseMany([], load), [])
        yield* Suite.equal("fails", yield* Effect.flip(cache.getOrElseMany(["d", "a"], () => Effect.fail("no"))), "no")
        yield* Suite.equal("and does not keep that", yield* cache.getOrElse("d", Effect.succeed(9)), 9)
      })
    ),
    scenario(
      "many at once: what is stale is served, and computed anew behind the call",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 minute" })
        yield* cache.set("a", 1)
        yield* advance(seconds(61))
        yield* Suite.equal(
          "served",
          yield* cache.getOrElseMany(["a", "b"], (missing) => Effect.succeed(missing.map((key) => [key, 2] as const))),
          [Option.some(1), Option.some(2)]
        )
        yield* Suite.isTrue("refreshed", yield* until(Effect.map(cache.get("a"), Option.contains(2))))
      })
    ),
    scenario(
      "deleteMany says how many there were",
      Effect.gen(function* () {
        const cache = yield* numbers()
        const keys = Array.from({ length: 1_200 }, (_, index) => String(index))
        yield* cache.setMany(keys.map((key) => [key, 1] as const))
        yield* Suite.equal("some", yield* cache.deleteMany(["0", "1", "absent", "0"]), 2)
        yield* Suite.equal("the rest", yield* cache.deleteMany(keys), 1_198)
        yield* Suite.equal("none", yield* cache.deleteMany([]), 0)
        yield* Suite.equal("gone", yield* cache.get("7"), Option.none())
      })
    ),
    scenario(
      "a trusted handle does not check what its own version of the schema wrote, and checks everything else",
      Effect.gen(function* () {
        const name = yield* namespace
        let checks = 0
        const Counted = Schema.Struct({
          n: Schema.Number.pipe(
            Schema.filter((n) => {
              checks++
              return n > 0
            })
          )
        })
        const trusting = yield* Cache.make({ namespace: name, schema: Counted, trusted: true, version: "1" })
        yield* trusting.set("key", { n: 1 })
        const before = checks
        yield* Suite.equal("get", yield* trusting.get("key"), Option.some({ n: 1 }))
        yield* Suite.equal("unchecked", checks - before, 0)
        const next = yield* Cache.make({ namespace: name, schema: Counted, trusted: true, version: "2" })
        yield* Suite.equal("of another version", yield* next.get("key"), Option.some({ n: 1 }))
        yield* Suite.isTrue("checked", checks > before)
        yield* plant(name, "wrong", '{"schema":"1","value":{"n":-1}}')
        yield* Suite.equal("another version, and wrong", yield* next.get("wrong"), Option.none())
        const dates = yield* Cache.make({ namespace: yield* namespace, schema: Schema.Date, trusted: true })
        yield* dates.set("key", new Date(5))
        yield* Suite.equal(
          "what is transformed is decoded all the same",
          Option.map(yield* dates.get("key"), (date) => date.getTime()),
          Option.some(5)
        )
        const floats = yield* numbers({ trusted: true })
        yield* floats.set("key", Number.NaN)
        yield* Suite.equal("what would not read back is refused", (yield* floats.stats).refused, 1)
        yield* Suite.equal("and not kept", yield* floats.get("key"), Option.none())
      })
    ),
    scenario(
      "what is large may be kept compressed, and is read by any handle",
      Effect.gen(function* () {
        const name = yield* namespace
        const compressing = yield* Cache.make({ namespace: name, schema: Schema.String, compressAbove: 1_000 })
        const plain = yield* Cache.make({ namespace: name, schema: Schema.String })
        const [small, large, huge] = ["small", "\u00e9".repeat(10_000), "0123456789 \ufffd".repeat(20_000)]
        yield* compressing.setMany([
          ["small", small],
          ["large", large],
          ["huge", huge]
        ])
        yield* Suite.equal("small", yield* plain.get("small"), Option.some(small))
        yield* Suite.isTrue("all", Option.contains(yield* plain.get("large"), large))
        yield* Suite.isTrue("all of many", Option.contains((yield* plain.getMany(["huge"]))[0] ?? Option.none(), huge))
        const computed = yield* compressing.getOrElse("computed", Effect.succeed(large))
        yield* Suite.isTrue("computed", computed === large && Option.contains(yield* plain.get("computed"), large))
        yield* Suite.isTrue("found", (yield* compressing.getOrElse("large", Effect.succeed(""))) === large)
      })
    )
  ]
}
