/**
 * The cache against a pure model, and handles over a backend whose answers and messages come late and in any order.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cache } from "@underlay/core"
import { Duration, Effect, Exit, FastCheck, Fiber, Layer, Option, Schema, TestClock } from "effect"

const minute = 60_000

type Step =
  | { readonly _tag: "Set"; readonly key: string; readonly ttl: number | undefined; readonly tag: string | undefined }
  | { readonly _tag: "Get" | "Delete"; readonly key: string }
  | {
      readonly _tag: "GetOrElse"
      readonly key: string
      readonly outcome: "value" | "none" | "fails"
      readonly tag: string | undefined
    }
  | {
      readonly _tag: "GetOrElseMany"
      readonly keys: ReadonlyArray<string>
      readonly outcome: "value" | "none" | "fails"
    }
  | { readonly _tag: "Invalidate"; readonly tag: string }
  | { readonly _tag: "Clear" }
  | { readonly _tag: "Pass"; readonly millis: number }

const keys = FastCheck.constantFrom("a", "b", "c")
const tags = FastCheck.constantFrom("red", "blue")
const maybe = <A>(arbitrary: FastCheck.Arbitrary<A>) => FastCheck.option(arbitrary, { nil: undefined })
const outcome = FastCheck.constantFrom("value" as const, "none" as const, "fails" as const)

const step: FastCheck.Arbitrary<Step> = FastCheck.oneof(
  {
    weight: 3,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("Set" as const),
      key: keys,
      ttl: maybe(FastCheck.constantFrom(1_000, 5 * minute)),
      tag: maybe(tags)
    })
  },
  { weight: 4, arbitrary: FastCheck.record({ _tag: FastCheck.constant("Get" as const), key: keys }) },
  { weight: 1, arbitrary: FastCheck.record({ _tag: FastCheck.constant("Delete" as const), key: keys }) },
  {
    weight: 6,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("GetOrElse" as const),
      key: keys,
      outcome,
      tag: maybe(tags)
    })
  },
  {
    weight: 2,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("GetOrElseMany" as const),
      keys: FastCheck.array(keys, { maxLength: 4 }),
      outcome
    })
  },
  { weight: 1, arbitrary: FastCheck.record({ _tag: FastCheck.constant("Invalidate" as const), tag: tags }) },
  { weight: 1, arbitrary: FastCheck.record({ _tag: FastCheck.constant("Clear" as const) }) },
  {
    weight: 5,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("Pass" as const),
      millis: FastCheck.constantFrom(1, 999, 1_000, 10_000, 29_000, minute)
    })
  }
)

interface Options {
  readonly staleFor: number
  readonly graceFor: number
  readonly tier: boolean
  readonly generations: boolean
}

interface Kept {
  readonly value: number | undefined
  readonly freshUntil: number
  readonly keptUntil: number
  readonly tag: string | undefined
}

/** What the cache is, said without a cache. */
class Model {
  now = 0
  private readonly kept = new Map<string, Kept>()
  private readonly options: Options
  constructor(options: Options) {
    this.options = options
  }
  private live(key: string): Kept | undefined {
    const one = this.kept.get(key)
    return one !== undefined && one.keptUntil > this.now ? one : undefined
  }
  private keep(key: string, value: number | undefined, ttl: number, tag: string | undefined): void {
    const freshUntil = this.now + (value === undefined ? Math.min(30_000, minute) : ttl)
    const { graceFor, staleFor } = this.options
    const keptUntil = value === undefined ? freshUntil : freshUntil + Math.max(staleFor, graceFor)
    this.kept.set(key, { value, freshUntil, keptUntil, tag })
  }
  set(key: string, value: number, ttl: number | undefined, tag: string | undefined): void {
    this.keep(key, value, ttl ?? minute, tag)
  }
  get(key: string): number | undefined {
    const one = this.live(key)
    return one !== undefined && one.freshUntil > this.now ? one.value : undefined
  }
  /** What a call gives; a failure as "fails". */
  getOrElse(
    key: string,
    outcome: "value" | "none" | "fails",
    value: number,
    tag: string | undefined
  ): number | undefined | "fails" {
    const one = this.live(key)
    const given = outcome === "value" ? value : undefined
    if (one !== undefined) {
      const past = this.now - one.freshUntil
      if (past < 0) return one.value
      if (one.value !== undefined && past < this.options.staleFor) {
        if (outcome !== "fails") this.keep(key, given, minute, tag)
        return one.value
      }
      if (outcome === "fails" && one.value !== undefined && past < this.options.graceFor) return one.value
    }
    if (outcome === "fails") return "fails"
    this.keep(key, given, minute, tag)
    return given
  }
  getOrElseMany(
    keys: ReadonlyArray<string>,
    outcome: "value" | "none" | "fails",
    value: number
  ): ReadonlyArray<number | undefined> | "fails" {
    const results = new Map<string, number | undefined>()
    const missing = new Set<string>()
    const behind = new Set<string>()
    for (const key of keys) {
      const one = this.live(key)
      const past = one === undefined ? 0 : this.now - one.freshUntil
      if (one === undefined || (past >= 0 && (one.value === undefined || past >= this.options.staleFor)))
        missing.add(key)
      else {
        results.set(key, one.value)
        if (past >= 0) behind.add(key)
      }
    }
    const given = outcome === "value" ? value : undefined
    if (outcome === "fails") {
      for (const key of missing) {
        const one = this.live(key)
        if (one?.value === undefined || this.now - one.freshUntil >= this.options.graceFor) return "fails"
        results.set(key, one.value)
      }
    } else {
      for (const key of missing) results.set(key, given)
      for (const key of [...missing, ...behind]) this.keep(key, given, minute, undefined)
    }
    return keys.map((key) => results.get(key))
  }
  delete(key: string): boolean {
    const was = this.live(key) !== undefined
    this.kept.delete(key)
    return was
  }
  invalidate(tag: string): void {
    for (const [key, one] of this.kept) if (one.tag === tag) this.kept.delete(key)
  }
  clear(): void {
    this.kept.clear()
  }
}

const settle = Effect.replicateEffect(Effect.yieldNow(), 60)

describe("Cache against its model", () => {
  it.effect.prop(
    "every sequence of calls, on several handles of a namespace, gives what the model gives",
    [
      FastCheck.record({
        staleFor: FastCheck.constantFrom(0, 20_000),
        graceFor: FastCheck.constantFrom(0, 2 * minute),
        tier: FastCheck.boolean(),
        generations: FastCheck.boolean()
      }),
      FastCheck.array(FastCheck.tuple(step, FastCheck.nat(1)), { minLength: 10, maxLength: 60 })
    ],
    ([options, steps]) =>
      Effect.scoped(
        Effect.gen(function* () {
          const model = new Model(options)
          const make = Cache.make({
            namespace: "model",
            schema: Schema.Number,
            ttl: "1 minute",
            jitter: 0,
            ...(options.staleFor > 0 ? { staleFor: options.staleFor } : {}),
            ...(options.graceFor > 0 ? { graceFor: options.graceFor } : {}),
            clearBy: options.generations ? "generation" : "scan",
            firstTier: options.tier ? { capacity: 2, ttl: "15 seconds" } : undefined,
            strict: false
          })
          const handles = [yield* make, yield* make] as const
          let next = 0
          for (const [one, which] of steps) {
            const cache = handles[which === 0 ? 0 : 1]
            const value = ++next
            const compute = (outcome: "value" | "none" | "fails") =>
              outcome === "fails"
                ? Effect.fail("fails" as const)
                : Effect.succeed(outcome === "value" ? Option.some(value) : Option.none<number>())
            const withTag = (tag: string | undefined) => (tag === undefined ? {} : { tags: [tag] })
            switch (one._tag) {
              case "Set":
                yield* cache.set(one.key, value, {
                  ...withTag(one.tag),
                  ...(one.ttl === undefined ? {} : { ttl: one.ttl })
                })
                model.set(one.key, value, one.ttl, one.tag)
                break
              case "Get":
                assert.strictEqual(Option.getOrUndefined(yield* cache.get(one.key)), model.get(one.key))
                break
              case "Delete": {
                const was = yield* cache.delete(one.key)
                const expected = model.delete(one.key)
                // what is worthless by its stamps is there still
                if (expected) assert.isTrue(was)
                break
              }
              case "GetOrElse": {
                const found = yield* Effect.exit(cache.getOrElseOption(one.key, compute(one.outcome), withTag(one.tag)))
                const expected = model.getOrElse(one.key, one.outcome, value, one.tag)
                assert.strictEqual(Exit.isSuccess(found) ? Option.getOrUndefined(found.value) : "fails", expected)
                yield* settle
                break
              }
              case "GetOrElseMany": {
                const load = (missing: ReadonlyArray<string>) =>
                  Effect.map(compute(one.outcome), (given) =>
                    Option.isSome(given) ? missing.map((key) => [key, given.value] as const) : []
                  )
                const found = yield* Effect.exit(cache.getOrElseMany(one.keys, load))
                const expected = model.getOrElseMany(one.keys, one.outcome, value)
                assert.deepStrictEqual<unknown>(
                  Exit.isSuccess(found) ? found.value.map(Option.getOrUndefined) : "fails",
                  expected
                )
                yield* settle
                break
              }
              case "Invalidate":
                yield* cache.invalidateTags([one.tag])
                model.invalidate(one.tag)
                break
              case "Clear":
                yield* cache.clear
                model.clear()
                break
              case "Pass":
                yield* TestClock.adjust(Duration.millis(one.millis))
                model.now += one.millis
            }
          }
          for (const cache of handles) {
            const { corrupt, outdated, refused, unreachable } = yield* cache.stats
            assert.deepStrictEqual(
              { corrupt, outdated, refused, unreachable },
              { corrupt: 0, outdated: 0, refused: 0, unreachable: 0 }
            )
          }
        })
      ).pipe(Effect.provide(Cache.layerMemory())),
    { fastCheck: { numRuns: 80 } }
  )
})

/**
 * A backend that takes its time: before a call has its effect, after it, and before what it changed is told, in the
 * order of the changes.
 */
const late = (steps: () => number): Layer.Layer<Cache.Cache> =>
  Layer.scoped(
    Cache.Cache,
    Effect.gen(function* () {
      const backend = yield* Effect.map(
        Layer.build(Cache.layerMemory()),
        (context) => context.unsafeMap.get(Cache.Cache.key) as Cache.Backend
      )
      const wait: Effect.Effect<void> = Effect.suspend(() =>
        Effect.replicateEffect(Effect.yieldNow(), steps(), { discard: true })
      )
      const slow = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipRight(wait, Effect.zipLeft(effect, wait))
      const { leases, listen, stamps } = backend
      if (leases === undefined || listen === undefined || stamps === undefined) return assert.fail("it has all of them")
      return {
        ...backend,
        get: (key, timed) => slow(backend.get(key, timed)),
        getMany: (keys, timed) => slow(backend.getMany(keys, timed)),
        set: (entry, by) => slow(backend.set(entry, by)),
        setMany: (entries, by) => slow(backend.setMany(entries, by)),
        delete: (keys, by) => slow(backend.delete(keys, by)),
        clear: (by) => slow(backend.clear(by)),
        leases: {
          ...leases,
          getOrTake: (key, token, ttl) => slow(leases.getOrTake(key, token, ttl)),
          take: (keys, token, ttl) => slow(leases.take(keys, token, ttl)),
          fill: (entries, token, by) => slow(leases.fill(entries, token, by)),
          release: (keys, token) => slow(leases.release(keys, token))
        },
        stamps: {
          get: (keys) => slow(stamps.get(keys)),
          ensure: (keys, ttl) => slow(stamps.ensure(keys, ttl)),
          drop: (keys, tags, by) => slow(stamps.drop(keys, tags, by))
        },
        listen: (by, handler) =>
          Effect.gen(function* () {
            const told: Array<Cache.Heard> = []
            yield* listen(by, (heard) => told.push(heard))
            const telling = Effect.forever(
              Effect.zipRight(
                wait,
                Effect.zipRight(
                  Effect.yieldNow(),
                  Effect.sync(() => {
                    const next = told.shift()
                    if (next !== undefined) handler(next)
                  })
                )
              )
            )
            yield* Effect.forkScoped(telling)
          })
      }
    })
  )

describe("Cache over a backend that takes its time", () => {
  /** A few calls at once for one key: each run ends in a race. */
  const concurrent = (lease: boolean) =>
    it.effect.prop(
      `when all is said, every tier has what is kept: ${lease ? "with" : "without"} leases`,
      [
        FastCheck.array(FastCheck.tuple(FastCheck.nat(1), FastCheck.nat(9), FastCheck.nat(12)), {
          minLength: 2,
          maxLength: 9
        }),
        FastCheck.array(FastCheck.nat(6), { minLength: 20, maxLength: 60 })
      ],
      ([calls, pauses]) =>
        Effect.gen(function* () {
          let at = 0
          const draw = () => pauses[at++ % pauses.length] ?? 0
          yield* Effect.scoped(
            Effect.gen(function* () {
              const make = Cache.make({
                namespace: "late",
                schema: Schema.Number,
                jitter: 0,
                ...(lease ? {} : { lease: false as const }),
                firstTier: {},
                strict: false
              })
              const handles = [yield* make, yield* make] as const
              yield* handles[0].set("key", 0, { tags: ["tag"] })
              let value = 0
              yield* Effect.forEach(
                calls,
                ([which, what, before]) => {
                  const cache = handles[which === 0 ? 0 : 1]
                  const tags = { tags: ["tag"] }
                  const call: Effect.Effect<unknown> =
                    what === 0
                      ? cache.set("key", ++value, tags)
                      : what === 1
                        ? cache.delete("key")
                        : what === 2
                          ? cache.invalidateTags(["tag"])
                          : what === 3
                            ? cache.clear
                            : what === 4
                              ? cache.getOrElse("key", Effect.as(Effect.yieldNow(), ++value), tags)
                              : what === 5
                                ? cache.getOrElseMany(["key"], () => Effect.succeed([["key", ++value] as const]), tags)
                                : what === 6
                                  ? cache.setMany([["key", ++value]])
                                  : what === 7
                                    ? cache.getMany(["key"])
                                    : cache.get("key")
                  return Effect.zipRight(Effect.replicateEffect(Effect.yieldNow(), before, { discard: true }), call)
                },
                { concurrency: "unbounded", discard: true }
              )
              // every message has come
              yield* Effect.replicateEffect(Effect.yieldNow(), 20 * (calls.length + 2), { discard: true })
              const plain = yield* Cache.make({ namespace: "late", schema: Schema.Number })
              const kept = yield* plain.get("key")
              for (const cache of handles) assert.deepStrictEqual(yield* cache.get("key"), kept)
            })
          ).pipe(Effect.provide(late(draw)))
        }),
      { fastCheck: { numRuns: 200 } }
    )
  concurrent(true)
  concurrent(false)

  it.effect("a value computed before a remote change was told is in no tier after it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const [a, b] = [
          yield* Cache.make({ namespace: "late", schema: Schema.Number, firstTier: {} }),
          yield* Cache.make({ namespace: "late", schema: Schema.Number })
        ]
        yield* settle
        yield* b.set("key", 1)
        const reading = yield* Effect.fork(a.get("key"))
        yield* b.set("key", 2)
        yield* Fiber.join(reading)
        yield* settle
        assert.deepStrictEqual(yield* a.get("key"), Option.some(2))
      })
    ).pipe(Effect.provide(late(() => 3)))
  )
})
