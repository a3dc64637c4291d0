import { assert, describe, it } from "@effect/vitest"
import { Cache } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  FastCheck,
  Fiber,
  FiberRef,
  Layer,
  Option,
  Random,
  Scheduler,
  Schema,
  type Scope,
  TestClock
} from "effect"
import * as Envelope from "../../src/internal/cache/envelope.ts"
import * as PlainSchema from "../../src/internal/cache/plainSchema.ts"

const numbers = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({ namespace: "numbers", schema: Schema.Number, jitter: 0, ...options, strict: false })

const memory = Effect.provide(Cache.layerMemory())

describe("Cache.make", () => {
  it.effect("refuses options that cannot be, and says which", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<readonly [Partial<Cache.Options<number, number>>, RegExp]> = [
        [{ staleFor: -1 }, /time to live/],
        [{ staleFor: Duration.infinity }, /infinite/],
        [{ graceFor: 0 }, /longer than zero/],
        [{ graceBackoff: Number.NaN }, /time to live/],
        [{ negativeTtl: 0 }, /longer than zero/],
        [{ earlyRefresh: -1 }, /early refresh/],
        [{ earlyRefresh: Number.POSITIVE_INFINITY }, /early refresh/],
        [{ earlyRefresh: Number.NaN }, /early refresh/],
        [{ compressAbove: -1 }, /compressed/],
        [{ compressAbove: Number.NaN }, /compressed/],
        [{ firstTier: { capacity: 0 } }, /capacity/],
        [{ firstTier: { capacity: 1.5 } }, /capacity/],
        [{ firstTier: { ttl: 0 } }, /longer than zero/],
        [{ lease: { ttl: 0 } }, /longer than zero/],
        [{ lease: { wait: Duration.infinity } }, /infinite/]
      ]
      for (const [options, description] of wrong) {
        const error = yield* Effect.flip(numbers(options))
        assert.strictEqual(error.reason, "InvalidOptions")
        assert.match(error.description, description)
      }
    }).pipe(Effect.scoped, memory)
  )

  const without = (...parts: ReadonlyArray<"leases" | "stamps" | "listen">) =>
    Layer.effect(
      Cache.Cache,
      Effect.map(Cache.Cache, (backend) => {
        const less: Record<string, unknown> = { ...backend }
        for (const part of parts) less[part] = undefined
        return less as unknown as Cache.Backend
      })
    ).pipe(Layer.provide(Cache.layerMemory()))

  it.effect("refuses what the backend cannot do; without leases computations are shared in this process", () =>
    Effect.gen(function* () {
      for (const options of [{ firstTier: {} }, { clearBy: "generation" as const }]) {
        assert.strictEqual((yield* Effect.flip(numbers(options))).reason, "InvalidOptions")
      }
      const cache = yield* numbers({ graceFor: "1 minute", staleFor: "1 second" })
      let calls = 0
      const compute = Effect.zipRight(
        Effect.yieldNow(),
        Effect.sync(() => ++calls)
      )
      const found = yield* Effect.all(
        Array.from({ length: 10 }, () => cache.getOrElse("key", compute)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(new Set(found), new Set([1]))
      yield* cache.set("tagged", 1, { tags: ["team"] })
      yield* cache.invalidateTags(["team"])
      assert.strictEqual((yield* cache.stats).refused, 2)
      assert.deepStrictEqual(yield* cache.get("tagged"), Option.none())
      const strict = yield* Cache.make({ namespace: "numbers", schema: Schema.Number, strict: true })
      assert.strictEqual((yield* Effect.flip(strict.set("a", 1, { tags: ["team"] }))).reason, "InvalidOptions")
    }).pipe(Effect.scoped, Effect.provide(without("leases", "stamps", "listen")))
  )

  it.effect("an entry with tags that its backend cannot know is no hit", () =>
    Effect.gen(function* () {
      const cache = yield* numbers()
      const backend = yield* Cache.Cache
      const by = { namespace: "numbers", prefix: "cache:numbers:", from: "test" }
      yield* backend.set({ key: "cache:numbers:key", text: '{"tags":{"a":"0"},"value":1}', ttl: 1_000 }, by)
      assert.deepStrictEqual(yield* cache.get("key"), Option.none())
    }).pipe(Effect.scoped, Effect.provide(without("stamps")))
  )
})

describe("Cache, early refresh (XFetch)", () => {
  /** Reads a key ten times a second for so many seconds; the computation takes `took` milliseconds. No timers. */
  const reading = (beta: number, took: number, seconds: number) =>
    Effect.suspend(() => {
      let now = 0
      const clock = Object.assign(Clock.make(), { unsafeCurrentTimeMillis: () => now })
      const at: Array<number> = []
      const compute = Effect.sync(() => {
        at.push(now)
        now += took
        return at.length
      })
      return Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "60 seconds", earlyRefresh: beta })
        while (now < seconds * 1_000) {
          yield* cache.getOrElse("key", compute)
          yield* Effect.yieldNow()
          now += 100
        }
        const { loads, misses, refreshes } = yield* cache.stats
        const windows = at.slice(1).map((time, index) => time - (at[index] ?? 0) - took)
        const lead = windows.reduce((sum, length) => sum + 60_000 - length, 0) / windows.length
        return { loads, misses, refreshes, computed: at.length, lead }
      }).pipe(Effect.scoped, Effect.withClock(clock), Effect.withRandom(Random.make("windows")), memory)
    })

  it.effect("one computation a window, before its end, and nobody waits", () =>
    Effect.gen(function* () {
      const { computed, lead, loads, misses, refreshes } = yield* reading(1, 1_000, 1_800)
      assert.strictEqual(misses, 1, "only the first one waited")
      assert.deepStrictEqual([loads, refreshes], [computed, computed - 1])
      // by the law the mean lead at this rate is took * (ln(10) + 0.58), about three seconds: a window of 58
      assert.isTrue(lead > 2_000 && lead < 4_000, `a mean lead of ${lead} ms`)
      assert.isTrue(computed >= 29 && computed <= 34, `${computed} computations in 1,800 s`)
    })
  )

  it.effect("the greater beta, the earlier; what takes longer, earlier too; without it, at the end", () =>
    Effect.gen(function* () {
      const base = yield* reading(1, 500, 900)
      assert.isAbove((yield* reading(4, 500, 900)).lead, 2 * base.lead)
      assert.isAbove((yield* reading(1, 2_000, 900)).lead, 2 * base.lead)
      const without = yield* reading(0, 500, 900)
      assert.strictEqual(without.refreshes, 0)
      assert.strictEqual(without.misses, without.computed)
    })
  )
})

describe("Cache, the tier in the process", () => {
  it.live("answers within 10 microseconds", () =>
    Effect.gen(function* () {
      const cache = yield* Cache.make({
        namespace: "users",
        schema: Schema.Struct({ name: Schema.String }),
        firstTier: {},
        earlyRefresh: 1
      })
      yield* cache.set("key", { name: "Ada" })
      const wrong = Effect.dieMessage("it is there")
      const perHit = (hit: Effect.Effect<unknown>) =>
        Effect.gen(function* () {
          let best = Number.POSITIVE_INFINITY
          // the best of many: the machine has other work
          for (let batch = 0; batch < 20; batch++) {
            const started = performance.now()
            for (let call = 0; call < 2_000; call++) yield* hit
            best = Math.min(best, (performance.now() - started) / 2)
          }
          return best
        })
      assert.isBelow(yield* perHit(cache.get("key")), 10)
      assert.isBelow(yield* perHit(cache.getOrElse("key", wrong)), 10)
      assert.strictEqual((yield* cache.stats).firstTierHits, 80_000)
    }).pipe(Effect.scoped, memory)
  )

  it.effect("forgets its cells rather than to remember every tag that was ever invalidated", () =>
    Effect.gen(function* () {
      const cache = yield* numbers({ firstTier: { capacity: 10 } })
      for (let tag = 0; tag < 5_000; tag++) {
        yield* cache.set("key", tag, { tags: [`tag ${tag}`] })
        yield* cache.invalidateTags([`tag ${tag}`])
        assert.deepStrictEqual(yield* cache.get("key"), Option.none())
      }
    }).pipe(Effect.scoped, memory)
  )

  it.effect("what was begun while the key was written, and its tag invalidated meanwhile, does not stay", () =>
    Effect.gen(function* () {
      const backend = yield* Cache.Cache
      const go = yield* Deferred.make<void>()
      const slow: Cache.Backend = {
        ...backend,
        set: (entry, by) => Effect.zipRight(Deferred.await(go), backend.set(entry, by))
      }
      const cache = yield* Effect.provideService(numbers({ firstTier: {} }), Cache.Cache, slow)
      const other = yield* numbers()
      const writing = yield* Effect.fork(cache.set("key", 1))
      yield* Effect.yieldNow()
      const compute = Effect.gen(function* () {
        // the write ends, the key goes, and the tag with it: all of it after the stamp was read
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(writing)
        yield* other.invalidateTags(["team"])
        return 2
      })
      yield* cache.getOrElse("key", compute, { tags: ["team"] })
      assert.deepStrictEqual(yield* cache.get("key"), yield* other.get("key"))
      yield* other.delete("key")
      // the same with a lease that holds to the end: the write was of another key's time
      const second = yield* Deferred.make<void>()
      const slower: Cache.Backend = {
        ...backend,
        set: () =>
          Effect.zipRight(
            Deferred.await(second),
            new Cache.CacheError({ reason: "Rejected", method: "set", description: "no" })
          )
      }
      const failing = yield* Effect.provideService(numbers({ firstTier: {} }), Cache.Cache, slower)
      const failed = yield* Effect.fork(failing.set("key", 1))
      yield* Effect.yieldNow()
      const late = Effect.gen(function* () {
        yield* Deferred.succeed(second, undefined)
        yield* Fiber.join(failed)
        yield* other.invalidateTags(["team"])
        return 3
      })
      yield* failing.getOrElse("key", late, { tags: ["team"] })
      assert.deepStrictEqual(yield* other.get("key"), Option.none())
      assert.deepStrictEqual(yield* failing.get("key"), Option.none())
    }).pipe(Effect.scoped, memory)
  )

  it.effect("a write that may or may not have been done: its late message is heard", () =>
    Effect.gen(function* () {
      const backend = yield* Cache.Cache
      const late: Array<Effect.Effect<void, Cache.CacheError>> = []
      const handlers: Array<(heard: Cache.Heard) => void> = []
      const unsure: Cache.Backend = {
        ...backend,
        listen: (_by, handler) =>
          Effect.sync(() => {
            handlers.push(handler)
            handler({ _tag: "Ready" })
          }),
        set: ({ key, text, ttl }, by) =>
          Effect.zipRight(
            Effect.sync(() =>
              late.push(
                Effect.map(backend.set({ key, text, ttl }, by), () => {
                  for (const handler of handlers) {
                    handler({ _tag: "Changed", from: by.from, keys: [key], tags: [], cleared: false })
                  }
                })
              )
            ),
            new Cache.CacheError({ reason: "Timeout", method: "set", description: "no answer" })
          )
      }
      const cache = yield* Effect.provideService(numbers({ firstTier: {} }), Cache.Cache, unsure)
      const by = { namespace: "numbers", prefix: "cache:numbers:", from: "another" }
      yield* backend.set({ key: "cache:numbers:key", text: '{"value":1}', ttl: 600_000 }, by)
      yield* cache.set("key", 2)
      assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
      // now it is done after all
      yield* Effect.all(late, { discard: true })
      assert.strictEqual((yield* cache.stats).messages, 1)
      assert.strictEqual((yield* cache.stats).firstTierSize, 0)
    }).pipe(Effect.scoped, memory)
  )
})

describe("Cache, in the background", () => {
  it.effect("a refresh ends with the layer", () =>
    Effect.gen(function* () {
      const interrupted = yield* Deferred.make<void>()
      yield* Effect.gen(function* () {
        const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 hour" })
        yield* cache.set("key", 1)
        yield* TestClock.adjust("61 seconds")
        const slow = Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
        assert.strictEqual(yield* cache.getOrElse("key", slow), 1)
        yield* Effect.yieldNow()
        yield* Effect.yieldNow()
        assert.strictEqual((yield* cache.stats).refreshes, 1)
      }).pipe(Effect.scoped, memory)
      yield* Deferred.await(interrupted)
    })
  )

  it.effect("a thousand stale reads at once: one computation", () =>
    Effect.gen(function* () {
      const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 hour" })
      yield* cache.set("key", 1)
      yield* TestClock.adjust("61 seconds")
      let calls = 0
      const compute = Effect.zipRight(
        Effect.sync(() => calls++),
        Effect.as(Effect.sleep("1 second"), 2)
      )
      const found = yield* Effect.all(
        Array.from({ length: 1_000 }, () => cache.getOrElse("key", compute)),
        {
          concurrency: "unbounded"
        }
      )
      assert.deepStrictEqual(new Set(found), new Set([1]))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* cache.getOrElse("key", compute), 2)
      assert.strictEqual(calls, 1)
    }).pipe(Effect.scoped, memory)
  )

  it.effect("who is interrupted does not wait for a backend that hangs, and another takes over when it answers", () =>
    Effect.gen(function* () {
      const backend = yield* Cache.Cache
      const answer = yield* Deferred.make<void>()
      const { leases } = backend
      if (leases === undefined) return assert.fail("it has leases")
      const hanging: Cache.Backend = {
        ...backend,
        leases: { ...leases, release: (...args) => Effect.zipRight(Deferred.await(answer), leases.release(...args)) }
      }
      const cache = yield* Effect.provideService(numbers(), Cache.Cache, hanging)
      const begun = yield* Deferred.make<void>()
      const late = <A>(computed: A) =>
        Effect.zipRight(Deferred.succeed(begun, undefined), Effect.as(Effect.never, computed))
      const calls: ReadonlyArray<Effect.Effect<unknown>> = [
        cache.getOrElse("one", late(1)),
        cache.getOrElseMany(["many"], () => late([["many", 1] as const]))
      ]
      for (const call of calls) {
        const fiber = yield* Effect.fork(call)
        yield* Deferred.await(begun)
        for (let turn = 0; turn < 10; turn++) yield* Effect.yieldNow()
        // this is over at once, or never
        yield* Fiber.interrupt(fiber)
      }
      const next = yield* Effect.fork(cache.getOrElse("one", Effect.succeed(2)))
      const nextMany = yield* Effect.fork(cache.getOrElseMany(["many"], () => Effect.succeed([["many", 2] as const])))
      yield* Deferred.succeed(answer, undefined)
      assert.strictEqual(yield* Fiber.join(next), 2)
      assert.deepStrictEqual(yield* Fiber.join(nextMany), [Option.some(2)])
      assert.deepStrictEqual(yield* cache.get("one"), Option.some(2))
    }).pipe(Effect.scoped, memory)
  )

  it.effect("a thousand stale reads of many at once: one computation", () =>
    Effect.gen(function* () {
      for (const lease of [{}, false] as const) {
        const cache = yield* numbers({
          namespace: `lease-${lease !== false}`,
          ttl: "1 minute",
          staleFor: "1 hour",
          lease
        })
        yield* cache.setMany([
          ["a", 1],
          ["b", 1]
        ])
        yield* TestClock.adjust("61 seconds")
        const asked: Array<ReadonlyArray<string>> = []
        const load = (missing: ReadonlyArray<string>) =>
          Effect.zipRight(
            Effect.sync(() => asked.push(missing)),
            Effect.as(
              Effect.sleep("1 second"),
              missing.map((key) => [key, 2] as const)
            )
          )
        const one = cache.getOrElseMany(["a", "b"], load)
        const found = yield* Effect.all(
          Array.from({ length: 1_000 }, () => one),
          { concurrency: 100 }
        )
        assert.deepStrictEqual(found.flat().filter(Option.contains(1)).length, 2_000)
        yield* cache.getOrElse("a", Effect.dieMessage("it is being computed"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* one, [Option.some(2), Option.some(2)])
        assert.deepStrictEqual(asked, [["a", "b"]])
        assert.strictEqual((yield* cache.stats).refreshes, 1)
      }
    }).pipe(Effect.scoped, memory)
  )

  it.effect("what is deleted or written while many are computed in the background is not overwritten", () =>
    Effect.gen(function* () {
      for (const lease of [{}, false] as const) {
        const cache = yield* numbers({
          namespace: `lease-${lease !== false}`,
          ttl: "1 minute",
          staleFor: "1 hour",
          lease
        })
        const changes: ReadonlyArray<readonly [Effect.Effect<unknown>, Option.Option<number>]> = [
          [cache.delete("key"), Option.none()],
          [cache.clear, Option.none()],
          [cache.set("key", 3), Option.some(3)]
        ]
        for (const [change, expected] of changes) {
          yield* cache.set("key", 1)
          yield* TestClock.adjust("61 seconds")
          const slow = Effect.as(Effect.sleep("1 second"), [["key", 2] as const])
          assert.deepStrictEqual(yield* cache.getOrElseMany(["key"], () => slow), [Option.some(1)])
          yield* TestClock.adjust("500 millis")
          yield* change
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(yield* cache.get("key"), expected)
          yield* cache.delete("key")
        }
        assert.strictEqual((yield* cache.stats).outdated, 3)
      }
    }).pipe(Effect.scoped, memory)
  )

  it.effect("a background computation of many that fails is not tried again at once", () =>
    Effect.gen(function* () {
      const cache = yield* numbers({
        ttl: "1 minute",
        staleFor: "1 hour",
        graceFor: "1 hour",
        graceBackoff: "10 seconds"
      })
      yield* cache.set("key", 1)
      yield* TestClock.adjust("61 seconds")
      let calls = 0
      const failing = Effect.zipRight(
        Effect.sync(() => calls++),
        Effect.fail("no")
      )
      for (let second = 0; second < 25; second++) {
        assert.deepStrictEqual(yield* cache.getOrElseMany(["key"], () => failing), [Option.some(1)])
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(calls, 3)
      const { refreshFailures, refreshes } = yield* cache.stats
      assert.deepStrictEqual({ refreshFailures, refreshes }, { refreshFailures: 3, refreshes: 3 })
    }).pipe(Effect.scoped, memory)
  )

  it.effect("is silent: no span, no log line, no metric, whatever fails behind a call", () =>
    Effect.gen(function* () {
      const cache = yield* numbers({ ttl: "1 minute", staleFor: "1 hour", earlyRefresh: 1e9, firstTier: {} })
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          yield* cache.set("key", 1, { tags: ["team"] })
          yield* TestClock.adjust("61 seconds")
          yield* cache.getOrElse("key", Effect.fail("no"))
          yield* cache.getOrElse("key", Effect.die("a bug"))
          yield* cache.getOrElseMany(["key", "other"], () => Effect.succeed([]))
          yield* Effect.exit(cache.getOrElse("absent", Effect.die("a bug")))
          yield* cache.invalidateTags(["team"])
          yield* cache.clear
          yield* Effect.replicateEffect(Effect.yieldNow(), 100)
        })
      )
    }).pipe(Effect.scoped, memory)
  )
})

describe("Cache without leases", () => {
  it.effect("what is deleted, cleared or written here while it is computed is not kept", () =>
    Effect.gen(function* () {
      const cache = yield* numbers({ lease: false })
      const changes: ReadonlyArray<readonly [Effect.Effect<unknown>, Option.Option<number>]> = [
        [cache.delete("key"), Option.none()],
        [cache.clear, Option.none()],
        [cache.set("key", 2), Option.some(2)]
      ]
      for (const [change, expected] of changes) {
        yield* cache.delete("key")
        assert.strictEqual(yield* cache.getOrElse("key", Effect.as(change, 1)), 1)
        assert.deepStrictEqual(yield* cache.get("key"), expected)
      }
      assert.strictEqual((yield* cache.stats).outdated, 3)
    }).pipe(Effect.scoped, memory)
  )

  it.effect("nor what is changed elsewhere, where there is a tier that hears of it", () =>
    Effect.gen(function* () {
      const [cache, other] = [yield* numbers({ lease: false, firstTier: {} }), yield* numbers()]
      const changes: ReadonlyArray<readonly [Effect.Effect<unknown>, Option.Option<number>]> = [
        [other.delete("key"), Option.none()],
        [other.clear, Option.none()],
        [other.set("key", 2), Option.some(2)]
      ]
      for (const [change, expected] of changes) {
        yield* cache.delete("key")
        assert.strictEqual(yield* cache.getOrElse("key", Effect.as(change, 1)), 1)
        assert.deepStrictEqual(yield* cache.get("key"), expected)
      }
    }).pipe(Effect.scoped, memory)
  )
})

describe("Cache, interrupted at any step", () => {
  /** Interrupts the first fiber that it sees, before that takes its `step`th step. */
  const interrupting = (step: number) => {
    let target: Fiber.RuntimeFiber<unknown, unknown> | undefined
    let taken = 0
    const scheduler: Scheduler.Scheduler = {
      shouldYield: (fiber) => {
        target ??= fiber
        if (fiber !== target || ++taken !== step) return false
        fiber.unsafeInterruptAsFork(fiber.id())
        return 0
      },
      scheduleTask: (task, priority) => Scheduler.defaultScheduler.scheduleTask(task, priority)
    }
    return { scheduler, reached: () => taken >= step }
  }

  type Call = (cache: Cache.CacheHandle<number>) => Effect.Effect<unknown>
  const compute = Effect.as(Effect.yieldNow(), 1)
  const calls: ReadonlyArray<readonly [string, Call]> = [
    ["getOrElse", (cache) => cache.getOrElse("key", compute, { tags: ["team"] })],
    ["getOrElseMany", (cache) => cache.getOrElseMany(["key"], () => Effect.as(compute, [["key", 1] as const]))],
    ["set", (cache) => cache.set("key", 1, { tags: ["team"] })]
  ]
  const tiers = [false, true]
  for (const tier of tiers) {
    for (const [name, call] of calls) {
      it.live(
        `${name}${tier ? ", with a tier in the process" : ""}: no lease and no flight is left, and the key can be kept`,
        () =>
          Effect.gen(function* () {
            let interrupted = 0
            for (let step = 1; step < 1_500; step++) {
              const { reached, scheduler } = interrupting(step)
              const namespace = `n${step}`
              const cache: Cache.CacheHandle<number> = yield* numbers({ namespace, ...(tier ? { firstTier: {} } : {}) })
              const fiber = yield* Effect.fork(
                Effect.locally(Effect.exit(call(cache)), FiberRef.currentScheduler, scheduler)
              )
              yield* fiber.await
              // who is interrupted does not wait for its lease to end: that goes on behind it
              for (let turn = 0; turn < 10; turn++) yield* Effect.yieldNow()
              // another handle finds no lease in its way: it would wait for ten seconds
              const other = yield* numbers({ namespace })
              assert.strictEqual(yield* other.getOrElse("key", compute), 1, `interrupted at step ${step}`)
              assert.strictEqual((yield* other.stats).awaited, 0, `interrupted at step ${step}`)
              // nor this one a flight that never lands
              assert.strictEqual(yield* cache.getOrElse("key", compute), 1, `interrupted at step ${step}`)
              yield* cache.set("key", 2)
              if (tier) assert.strictEqual((yield* cache.stats).firstTierSize, 1, `interrupted at step ${step}`)
              if (!reached()) break
              interrupted++
            }
            assert.isAbove(interrupted, 5)
          }).pipe(Effect.scoped, memory),
        60_000
      )
    }
  }
})

describe("the envelope", () => {
  it("says back what was said", () => {
    const text = FastCheck.string()
    const maybe = <A>(arbitrary: FastCheck.Arbitrary<A>) => FastCheck.option(arbitrary, { nil: undefined })
    FastCheck.assert(
      FastCheck.property(
        FastCheck.record({
          keep: maybe(FastCheck.nat()),
          took: maybe(FastCheck.nat()),
          tags: maybe(FastCheck.dictionary(text, text)),
          generation: maybe(text),
          schema: maybe(text)
        }),
        FastCheck.option(FastCheck.jsonValue(), { nil: undefined }),
        (head, value) => {
          const json = value === undefined ? undefined : JSON.stringify(value)
          const decoded = Envelope.decode(Envelope.encode(head, json))
          const expected =
            json === undefined ? { none: true, value: undefined } : { none: false, value: JSON.parse(json) }
          assert.deepStrictEqual<unknown>(
            { ...decoded, tags: decoded?.tags && Object.entries(decoded.tags) },
            {
              keep: head.keep ?? 0,
              took: head.took ?? 0,
              tags: head.tags && Object.entries(head.tags),
              generation: head.generation,
              schema: head.schema,
              ...expected
            }
          )
        }
      )
    )
  })

  it("no text makes it throw", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.oneof(FastCheck.string(), FastCheck.json()), (text) => {
        Envelope.decode(text)
      })
    )
  })
})

describe("which schemas are trusted", () => {
  interface Tree {
    readonly name: string
    readonly children: ReadonlyArray<Tree>
  }
  const Tree: Schema.Schema<Tree> = Schema.Struct({
    name: Schema.String,
    children: Schema.Array(Schema.suspend((): Schema.Schema<Tree> => Tree))
  })
  const plain: ReadonlyArray<Schema.Schema.Any> = [
    Schema.String,
    Schema.Number,
    Schema.Boolean,
    Schema.Null,
    Schema.Unknown,
    Schema.Literal("a", 1, null),
    Schema.Struct({ a: Schema.String }),
    Schema.Struct({ a: Schema.optional(Schema.String) }),
    Schema.Struct({ b: Schema.String }),
    Schema.Struct({ a: Schema.Number }),
    Schema.Array(Schema.String),
    Schema.Tuple(Schema.String, Schema.Number),
    Schema.Record({ key: Schema.String, value: Schema.Number }),
    Schema.Union(Schema.String, Schema.Number),
    Schema.NonEmptyString,
    Schema.String.pipe(Schema.minLength(2)),
    Schema.String.pipe(Schema.minLength(3)),
    Schema.Number.pipe(Schema.between(1, 2)),
    Schema.Number.pipe(Schema.between(1, 3)),
    Schema.String.pipe(Schema.pattern(/a/)),
    Schema.Int,
    Schema.TemplateLiteral("a", Schema.Number),
    Schema.Struct({ a: Schema.String }).annotations({ identifier: "Same" }),
    Tree
  ]

  const print = (schema: Schema.Schema.Any) => {
    const inspected = PlainSchema.inspect(schema.ast)
    return inspected.plain ? inspected.fingerprint : undefined
  }

  it("filters of one's own cannot be told apart: they have no fingerprint, and need a version", () => {
    const own = Schema.Struct({ a: Schema.String.pipe(Schema.filter((text) => text.startsWith("a"))) })
    assert.deepStrictEqual(PlainSchema.inspect(own.ast), { plain: true, fingerprint: undefined })
  })

  it("those that change nothing, told apart by their structure and not by their names", () => {
    const prints = plain.map((schema) => print(schema))
    for (const [index, print] of prints.entries()) assert.isString(print, String(plain[index]))
    // the annotated one is the same structure as the one without
    assert.strictEqual(new Set(prints).size, plain.length - 1)
    const [a, b] = [Schema.Struct({ a: Schema.String }), Schema.Struct({ b: Schema.String })]
    assert.notStrictEqual(print(a.annotations({ identifier: "Same" })), print(b.annotations({ identifier: "Same" })))
  })

  it("none that transforms, is a class or has no JSON", () => {
    class User extends Schema.Class<User>("User")({ name: Schema.String }) {}
    const others: ReadonlyArray<Schema.Schema.Any> = [
      Schema.Date,
      Schema.DateFromSelf,
      Schema.NumberFromString,
      Schema.Struct({ at: Schema.Date }),
      Schema.Struct({ a: Schema.optionalWith(Schema.String, { default: () => "" }) }),
      Schema.Array(Schema.Option(Schema.String)),
      Schema.Union(Schema.String, Schema.BigInt),
      Schema.BigIntFromSelf,
      Schema.Undefined,
      Schema.Uint8ArrayFromSelf,
      Schema.parseJson(Schema.String),
      User
    ]
    for (const schema of others) assert.isFalse(PlainSchema.inspect(schema.ast).plain, String(schema))
  })
})

it("what the handles need, said in types: a scope where there is a tier, failures where they are strict", () => {
  const plain: Effect.Effect<Cache.CacheHandle<number>, Cache.CacheError, Cache.Cache> = Cache.make({
    namespace: "a",
    schema: Schema.Number
  })
  const strict: Effect.Effect<Cache.CacheHandle<number, Cache.CacheError>, Cache.CacheError, Cache.Cache> = Cache.make({
    namespace: "a",
    schema: Schema.Number,
    strict: true
  })
  const tiered: Effect.Effect<Cache.CacheHandle<number>, Cache.CacheError, Cache.Cache | Scope.Scope> = Cache.make({
    namespace: "a",
    schema: Schema.Number,
    firstTier: {}
  })
  assert.lengthOf([plain, strict, tiered], 3)
})
