/**
 * The part of the cache's suite about several handles, which may be in several processes: leases, tags, generations, and
 * the tier in the process.
 */
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Cache from "../../state/Cache.ts"
import * as Suite from "../../testing/Suite.ts"
import { type Capability, namespace, numbers, plant, seconds, tiered, until } from "./suiteSupport.ts"

export const cases = <R>(options: {
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
}): ReadonlyArray<Suite.Case<Capability, Cache.Cache | R>> => {
  const { advance } = options
  const leases = (name: string, run: Effect.Effect<void, unknown, Cache.Cache | R>) =>
    Suite.testWith(name, ["leases"], run)
  const stamps = (name: string, run: Effect.Effect<void, unknown, Cache.Cache | R>) =>
    Suite.testWith(name, ["stamps"], run)
  const tier = <E>(name: string, run: Effect.Effect<void, E, Cache.Cache | R | Scope.Scope>) =>
    Suite.testWith(name, ["invalidations"], Effect.scoped(run))

  /** A computation that says when it begins, and ends when it is told to. */
  const held = <A>(value: A) =>
    Effect.gen(function* () {
      const [begun, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      return {
        compute: Effect.zipRight(Deferred.succeed(begun, undefined), Effect.as(Deferred.await(go), value)),
        begun: Deferred.await(begun),
        go: Deferred.succeed(go, undefined)
      }
    })

  const awaiting = <A>(cache: Cache.CacheHandle<A>, count = 1) =>
    until(Effect.map(cache.stats, ({ awaited }) => awaited >= count))

  return [
    leases(
      "handles that know nothing of each other compute a key once, and the others wait for it",
      Effect.gen(function* () {
        const name = yield* namespace
        const handles = yield* Effect.replicateEffect(numbers({ namespace: name }), 4)
        let calls = 0
        const compute = Effect.gen(function* () {
          calls++
          for (let turn = 0; turn < 50; turn++) yield* Effect.yieldNow()
          return calls
        })
        const found = yield* Effect.forEach(
          handles.flatMap((handle) => [handle, handle, handle]),
          (handle) => handle.getOrElse("hot", compute),
          { concurrency: "unbounded" }
        )
        yield* Suite.equal("all have it", new Set(found), new Set([1]))
        yield* Suite.equal("computed once", calls, 1)
      })
    ),
    leases(
      "when the one that computes fails, the next one computes for itself",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const slow = yield* held(0)
        const first = yield* Effect.fork(
          Effect.flip(a.getOrElse("key", Effect.zipRight(slow.compute, Effect.fail("no"))))
        )
        yield* slow.begun
        const second = yield* Effect.fork(b.getOrElse("key", Effect.succeed(2)))
        yield* Suite.isTrue("waits", yield* awaiting(b))
        yield* slow.go
        yield* Suite.equal("the first", yield* Fiber.join(first), "no")
        yield* Suite.equal("the second", yield* Fiber.join(second), 2)
        yield* Suite.equal("kept", yield* a.get("key"), Option.some(2))
      })
    ),
    leases(
      "when the one that computes is interrupted, the next one takes over",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const slow = yield* held(1)
        const first = yield* Effect.fork(a.getOrElse("key", slow.compute))
        yield* slow.begun
        const second = yield* Effect.fork(b.getOrElse("key", Effect.succeed(2)))
        yield* Suite.isTrue("waits", yield* awaiting(b))
        yield* Fiber.interrupt(first)
        yield* Suite.equal("the second", yield* Fiber.join(second), 2)
      })
    ),
    leases(
      "one that hangs is taken over after its lease, and what it computes late is not kept",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const slow = yield* held(1)
        const first = yield* Effect.fork(a.getOrElse("key", slow.compute))
        yield* slow.begun
        const second = yield* Effect.fork(b.getOrElse("key", Effect.succeed(2)))
        yield* Suite.isTrue("waits", yield* awaiting(b))
        yield* advance(seconds(9))
        yield* Suite.equal("not before", yield* b.get("key"), Option.none())
        yield* advance(seconds(1))
        yield* Suite.equal("the second", yield* Fiber.join(second), 2)
        yield* slow.go
        yield* Suite.equal("the first has its value", yield* Fiber.join(first), 1)
        yield* Suite.equal("what is kept", yield* a.get("key"), Option.some(2))
        yield* Suite.equal("counted", (yield* a.stats).outdated, 1)
      })
    ),
    leases(
      "one that died is taken over after its lease",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* numbers({ namespace: name, lease: { ttl: "3 seconds" } })
        const backend = yield* Cache.Cache
        yield* backend.leases?.take([`cache:${name}:key`], "dead", 3_000) ?? Effect.void
        const fiber = yield* Effect.fork(cache.getOrElse("key", Effect.succeed(1)))
        yield* Suite.isTrue("waits", yield* awaiting(cache))
        yield* advance(seconds(4))
        yield* Suite.equal("computed", yield* Fiber.join(fiber), 1)
      })
    ),
    leases(
      "waiting is bounded: after its time a call computes for itself and does not keep that",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* numbers({ namespace: name, lease: { ttl: "1 minute", wait: "5 seconds" } })
        const impatient = yield* numbers({ namespace: name, lease: { wait: 0 } })
        const backend = yield* Cache.Cache
        yield* backend.leases?.take([`cache:${name}:key`], "another", 60_000) ?? Effect.void
        yield* Suite.equal("without waiting", yield* impatient.getOrElse("key", Effect.succeed(2)), 2)
        const fiber = yield* Effect.fork(cache.getOrElse("key", Effect.succeed(1)))
        yield* Suite.isTrue("waits", yield* awaiting(cache))
        // in steps, as it looks again from time to time
        for (let second = 0; second < 6; second++) {
          yield* advance(seconds(1))
        }
        yield* Suite.equal("computed", yield* Fiber.join(fiber), 1)
        yield* Suite.equal("not kept", yield* cache.get("key"), Option.none())
      })
    ),
    leases(
      "what another handle deletes, writes or clears is not overwritten by what was being computed",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const changes: ReadonlyArray<readonly [string, Effect.Effect<unknown>, Option.Option<number>]> = [
          ["delete", b.delete("key"), Option.none()],
          ["deleteMany", b.deleteMany(["key"]), Option.none()],
          ["set", b.set("key", 2), Option.some(2)],
          ["setMany", b.setMany([["key", 2]]), Option.some(2)],
          ["clear", b.clear, Option.none()]
        ]
        for (const [what, change, expected] of changes) {
          yield* a.delete("key")
          yield* Suite.equal(what, yield* a.getOrElse("key", Effect.as(change, 1)), 1)
          yield* Suite.equal(`after ${what}`, yield* a.get("key"), expected)
          yield* a.delete("key")
          yield* Suite.equal(
            `${what}, many`,
            yield* a.getOrElseMany(["key"], () => Effect.as(change, [["key", 1] as const])),
            [Option.some(1)]
          )
          yield* Suite.equal(`after ${what}, many`, yield* a.get("key"), expected)
        }
        yield* Suite.equal("counted", (yield* a.stats).outdated, 10)
      })
    ),
    leases(
      "keys of every look have their lease",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const keys = ["", "{", "}", "{}", "a}b", "a{}b", "}a{b", "{a}b", "x{a}{b}", "{a", "a b", "\u{1F511}", "a:b"]
        for (const [index, key] of keys.entries()) {
          yield* Suite.equal(key, yield* a.getOrElse(key, Effect.succeed(index)), index)
          yield* Suite.equal(`${key} is kept`, yield* b.getOrElse(key, Effect.succeed(-1)), index)
          yield* b.set(key, index + 1)
          yield* Suite.equal(`${key} is written`, yield* a.get(key), Option.some(index + 1))
        }
        yield* a.clear
        for (const key of keys) yield* Suite.equal(`${key} is cleared`, yield* b.get(key), Option.none())
      })
    ),
    stamps(
      "a tag makes worthless what was written with it, and nothing else",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const other = yield* numbers()
        yield* a.set("1", 1, { tags: ["team", "all"] })
        yield* a.setMany([["2", 2]], { tags: ["all"] })
        yield* a.getOrElse("3", Effect.succeed(3), { tags: ["team"] })
        yield* a.getOrElseMany(["4"], () => Effect.succeed([["4", 4] as const]), { tags: ["team"] })
        yield* a.set("5", 5)
        yield* other.set("1", 1, { tags: ["team"] })
        const keys = ["1", "2", "3", "4", "5"]
        const there = (cache: Cache.CacheHandle<number>) =>
          Effect.map(cache.getMany(keys), (found) => found.map(Option.getOrElse(() => 0)))
        yield* Suite.equal("before", yield* there(b), [1, 2, 3, 4, 5])
        yield* b.invalidateTags(["team"])
        yield* Suite.equal("after", yield* there(a), [0, 2, 0, 0, 5])
        yield* Suite.equal("one by one", yield* a.get("1"), Option.none())
        yield* Suite.equal("another namespace", yield* other.get("1"), Option.some(1))
        yield* Suite.equal("computed anew", yield* a.getOrElse("1", Effect.succeed(10), { tags: ["team"] }), 10)
        yield* Suite.equal("and there", yield* b.get("1"), Option.some(10))
        yield* b.invalidateTags(["all", "nobody has this"])
        yield* Suite.equal("by another", yield* there(a), [10, 0, 0, 0, 5])
        yield* a.invalidateTags([])
      })
    ),
    stamps(
      "a tag that is invalidated while a value is computed makes that worthless",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* numbers({ namespace: name }), yield* numbers({ namespace: name })]
        const compute = Effect.as(b.invalidateTags(["team"]), 1)
        yield* Suite.equal("its caller has it", yield* a.getOrElse("key", compute, { tags: ["team"] }), 1)
        yield* Suite.equal("nobody else", yield* a.get("key"), Option.none())
      })
    ),
    stamps(
      "grace and staleness end with the tag",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 hour", graceFor: "1 hour" })
        yield* cache.set("key", 1, { tags: ["team"] })
        yield* advance(seconds(61))
        yield* cache.invalidateTags(["team"])
        yield* Suite.equal("fails", yield* Effect.flip(cache.getOrElse("key", Effect.fail("no"))), "no")
      })
    ),
    stamps(
      "stamps live longer than their entries",
      Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 hour", graceFor: "1 hour" })
        yield* cache.set("short", 1, { ttl: "1 minute", tags: ["team"] })
        yield* cache.set("long", 1, { ttl: "10 hours", tags: ["team"] })
        yield* cache.set("short again", 1, { ttl: "1 minute", tags: ["team"] })
        yield* advance(seconds(10 * 3_600 - 60))
        yield* Suite.equal("still", yield* cache.get("long"), Option.some(1))
      })
    ),
    stamps(
      "a new generation makes everything before it worthless, and nothing after",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [
          yield* numbers({ namespace: name, clearBy: "generation" }),
          yield* numbers({ namespace: name, clearBy: "generation" })
        ]
        yield* a.set("key", 1)
        yield* a.getOrElse("other", Effect.succeed(2))
        yield* Suite.equal("there", yield* b.getMany(["key", "other"]), [Option.some(1), Option.some(2)])
        yield* b.clear
        yield* Suite.equal("worthless", yield* a.getMany(["key", "other"]), [Option.none(), Option.none()])
        yield* a.set("key", 3)
        yield* Suite.equal("after", yield* b.get("key"), Option.some(3))
        const compute = Effect.as(b.clear, 4)
        yield* Suite.equal("while computed", yield* a.getOrElse("slow", compute), 4)
        yield* Suite.equal("is not there", yield* a.get("slow"), Option.none())
        yield* plant(name, "key", '{"value":5}')
        yield* Suite.equal("what has no generation counts for nothing", yield* a.get("key"), Option.none())
      })
    ),
    tier(
      "the tier in the process answers without the backend",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* tiered({ namespace: name })
        yield* cache.set("written", 1)
        yield* cache.getOrElse("computed", Effect.succeed(2))
        yield* plant(name, "read", '{"value":3}')
        yield* plant(name, "read of many", '{"value":4}')
        // what is read before the message of its change has come does not stay
        yield* Suite.isTrue("told", yield* until(Effect.map(cache.stats, ({ messages }) => messages === 2)))
        yield* cache.get("read")
        yield* cache.getMany(["read of many"])
        yield* cache.getOrElseOption("nothing", Effect.succeed(Option.none()))
        yield* cache.getOrElseMany(["loaded"], () => Effect.succeed([["loaded", 5] as const]))
        const before = (yield* cache.stats).firstTierHits
        const wrong = Effect.fail("it is there")
        for (const [key, value] of [
          ["written", 1],
          ["computed", 2],
          ["read", 3],
          ["read of many", 4],
          ["loaded", 5]
        ] as const) {
          yield* Suite.equal(key, yield* cache.get(key), Option.some(value))
          yield* Suite.equal(key, yield* cache.getOrElse(key, wrong), value)
        }
        yield* Suite.equal("nothing", yield* cache.getOrElseOption("nothing", wrong), Option.none())
        yield* cache.getOrElseMany(["written", "read"], () => wrong)
        yield* Suite.equal("all of them near", (yield* cache.stats).firstTierHits - before, 13)
      })
    ),
    tier(
      "a change made elsewhere reaches the tier in the process",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* tiered({ namespace: name }), yield* numbers({ namespace: name })]
        const changes: ReadonlyArray<readonly [string, Effect.Effect<unknown>, Option.Option<number>]> = [
          ["set", b.set("key", 2), Option.some(2)],
          ["setMany", b.setMany([["key", 3]]), Option.some(3)],
          ["delete", b.delete("key"), Option.none()],
          ["deleteMany", b.deleteMany(["key"]), Option.none()],
          ["invalidateTags", b.invalidateTags(["team"]), Option.none()],
          ["clear", b.clear, Option.none()]
        ]
        for (const [what, change, expected] of changes) {
          yield* a.set("key", 1, { tags: ["team"] })
          yield* Suite.equal(`before ${what}`, yield* a.get("key"), Option.some(1))
          yield* change
          const seen = until(
            Effect.map(
              a.get("key"),
              (found) =>
                found._tag === expected._tag && Option.getOrElse(found, () => 0) === Option.getOrElse(expected, () => 0)
            )
          )
          yield* Suite.isTrue(`after ${what}`, yield* seen)
        }
      })
    ),
    tier(
      "its own changes are seen at once",
      Effect.gen(function* () {
        const cache = yield* tiered()
        yield* cache.set("key", 1, { tags: ["team"] })
        yield* cache.set("key", 2, { tags: ["team"] })
        yield* Suite.equal("set", yield* cache.get("key"), Option.some(2))
        yield* cache.invalidateTags(["team"])
        yield* Suite.equal("invalidateTags", yield* cache.get("key"), Option.none())
        yield* cache.set("key", 3)
        yield* cache.delete("key")
        yield* Suite.equal("delete", yield* cache.get("key"), Option.none())
        yield* cache.set("key", 4)
        yield* cache.clear
        yield* Suite.equal("clear", yield* cache.get("key"), Option.none())
      })
    ),
    tier(
      "what is computed while a change arrives does not win in the tier either",
      Effect.gen(function* () {
        const name = yield* namespace
        const [a, b] = [yield* tiered({ namespace: name }), yield* numbers({ namespace: name })]
        const slow = yield* held(1)
        const fiber = yield* Effect.fork(a.getOrElse("key", slow.compute, { tags: ["team"] }))
        yield* slow.begun
        yield* b.set("key", 2)
        yield* slow.go
        yield* Suite.equal("its caller has it", yield* Fiber.join(fiber), 1)
        yield* Suite.equal("what is there", yield* a.get("key"), Option.some(2))
        const again = yield* held(3)
        const second = yield* Effect.fork(a.getOrElse("other", again.compute, { tags: ["team"] }))
        yield* again.begun
        yield* b.invalidateTags(["team"])
        yield* Suite.isTrue("told", yield* until(Effect.map(a.stats, ({ messages }) => messages >= 2)))
        yield* again.go
        yield* Fiber.join(second)
        yield* Suite.equal("by its tag", yield* a.get("other"), Option.none())
      })
    ),
    tier(
      "the tier is bounded, and keeps nothing longer than it may",
      Effect.gen(function* () {
        const name = yield* namespace
        const cache = yield* tiered({ namespace: name, ttl: "1 hour", firstTier: { capacity: 10, ttl: "30 seconds" } })
        yield* cache.setMany(Array.from({ length: 100 }, (_, index) => [String(index), index] as const))
        yield* Suite.equal("size", (yield* cache.stats).firstTierSize, 10)
        yield* Suite.equal("the last", yield* cache.get("99"), Option.some(99))
        yield* Suite.equal("near", (yield* cache.stats).firstTierHits, 1)
        yield* advance(seconds(31))
        yield* Suite.equal("still there", yield* cache.get("99"), Option.some(99))
        yield* Suite.equal("but read anew", (yield* cache.stats).firstTierHits, 1)
        yield* cache.set("short", 1, { ttl: "1 second" })
        yield* advance(seconds(2))
        yield* Suite.equal("no longer than the entry", yield* cache.get("short"), Option.none())
      })
    )
  ]
}
