import { FileSystem } from "@effect/platform"
import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cache, Caches, ConfirmationCache, Correlation, Deadline, Settings } from "@underlay/core"
import { CachesSuite, Recording, Suite } from "@underlay/core/testing"
import {
  Config,
  ConfigProvider,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Ref,
  Schema,
  Scope,
  TestClock
} from "effect"

describe("Caches in memory", () => {
  const suite = CachesSuite.make({
    kind: "memory",
    advance: TestClock.adjust,
    caches: (configuration) => Effect.withConfigProvider(Caches.make(), ConfigProvider.fromMap(new Map(configuration)))
  })
  for (const one of Suite.applicable(suite, ["oneTime", "counts"])) it.effect(one.name, () => one.run)
})

const nothing = ConfigProvider.fromMap(new Map())

const test = (name: string, effect: () => Effect.Effect<void, unknown, FileSystem.FileSystem | Scope.Scope>) =>
  it.scoped(name, () => Effect.provide(effect(), NodeFileSystem.layer))

/** A registry over YAML files and these variables, cut off from the environment of the process. */
const over = (
  files: Readonly<Record<string, string>>,
  options: Pick<Settings.Options, "env" | "profile" | "overrides"> & {
    readonly kinds?: ReadonlyArray<Caches.AnyKind<Scope.Scope>>
  } = {}
) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped()
    for (const [name, text] of Object.entries(files)) yield* fs.writeFileString(`${directory}/${name}`, text)
    const settings = yield* Settings.make({
      directory,
      env: options.env ?? {},
      dotenv: false,
      profile: options.profile ?? [],
      overrides: options.overrides
    })
    return yield* Effect.withConfigProvider(Caches.make(options.kinds ?? []), settings.provider)
  })

const memoryBackend = Effect.flatMap(Layer.build(Cache.layerMemory()), (context) =>
  Effect.provide(Cache.Cache, context)
)

const yaml = (text: string) => ({ "application-cache.yaml": text })

const Numbers = Caches.define({ name: "numbers", schema: Schema.Number, ttl: "5 minutes", jitter: 0 })

const problemsOf = (error: Caches.CachesError) =>
  error.problems.map((problem) => problem.replace(/\S*\/application-/, "application-"))

/** How long an entry lives: the longest of these after which it is there still. */
const livesFor = (cache: Caches.Handle<string, number>, ...minutes: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    yield* cache.set("age", 1)
    let last = 0
    let passed = 0
    for (const minute of minutes) {
      yield* TestClock.adjust(`${(minute - passed) * 60_000 - 1} millis`)
      passed = minute
      if (Option.isNone(yield* cache.get("age"))) return last
      yield* TestClock.adjust("1 millis")
      last = minute
    }
    return last
  })

describe("Caches by application-cache.yaml", () => {
  test("without a file a cache is in memory, as its code says", () =>
    Effect.gen(function* () {
      const caches = yield* over({})
      const numbers = yield* caches.get(Numbers)
      assert.strictEqual(yield* livesFor(numbers, 1, 5, 6), 5)
      assert.deepStrictEqual(yield* caches.list, [{ name: "numbers", kind: "memory", namespace: "numbers" }])
    }))

  test("what the file says of the name goes before the code, and what it says of all caches goes after it", () =>
    Effect.gen(function* () {
      const caches = yield* over(
        yaml(`
caches:
  defaults: { ttl: 2 minutes, jitter: 0, prefix: "app-" }
  numbers: { ttl: 3 minutes }
  other: { jitter: 0 }
`)
      )
      assert.strictEqual(yield* livesFor(yield* caches.get(Numbers), 2, 3, 4, 5, 6), 3)
      const coded = Caches.define({ name: "coded", schema: Schema.Number, ttl: "4 minutes" })
      assert.strictEqual(yield* livesFor(yield* caches.get(coded), 2, 3, 4, 5, 6), 4)
      const other = yield* caches.get(Caches.define({ name: "other", schema: Schema.Number }))
      assert.strictEqual(yield* livesFor(other, 1, 2, 3, 10, 11), 2)
      assert.strictEqual(other.namespace, "app-other")
    }))

  test("a table is set setting by setting too, and switched off", () =>
    Effect.gen(function* () {
      const code = {
        schema: Schema.Number,
        firstTier: { capacity: 1, ttl: "1 hour" },
        lease: { ttl: "1 second" }
      } as const
      const caches = yield* over(
        yaml(`
caches:
  small: { firstTier: { ttl: 1 minute }, lease: { wait: none } }
  large: { firstTier: { capacity: 5 } }
  off: { firstTier: { enabled: false }, lease: { enabled: false } }
  on: { first-tier: { enabled: true } }
`)
      )
      const size = (definition: Caches.Definition<Caches.Handle<string, number>>) =>
        Effect.gen(function* () {
          const cache = yield* caches.get(definition)
          for (const key of ["a", "b", "c"]) yield* cache.set(key, 1)
          return (yield* cache.stats).firstTierSize
        })
      assert.strictEqual(yield* size(Caches.define({ ...code, name: "small" })), 1)
      assert.strictEqual(yield* size(Caches.define({ ...code, name: "large" })), 3)
      assert.strictEqual(yield* size(Caches.define({ ...code, name: "off" })), 0)
      assert.strictEqual(yield* size(Caches.define({ name: "on", schema: Schema.Number })), 3)
    }))

  test("every setting that is data is read", () =>
    Effect.gen(function* () {
      const caches = yield* over(
        yaml(`
caches:
  numbers:
    kind: memory
    capacity: 7
    prefix: p-
    ttl: 1 minute
    jitter: 0.5
    staleFor: 1 minute
    graceFor: 2 minutes
    graceBackoff: 1 second
    earlyRefresh: 1.5
    negativeTtl: 10 seconds
    firstTier: { enabled: true, capacity: 5, ttl: 1 second }
    compressAbove: 1000
    trusted: true
    version: v1
    lease: { enabled: true, ttl: 1 second, wait: 1 second }
    clearBy: generation
`)
      )
      assert.strictEqual((yield* caches.get(Numbers)).namespace, "p-numbers")
    }))

  test("what the code switches on, and what is for all, is switched off by name: compressAbove too", () =>
    Effect.gen(function* () {
      const limits = yield* Ref.make<ReadonlyArray<number | undefined>>([])
      const noting = Caches.kind({
        kind: "noting",
        make: () =>
          Effect.map(memoryBackend, (cache) => ({
            cache: {
              ...cache,
              set: (entry, by) =>
                Effect.zipRight(
                  Ref.update(limits, (all) => [...all, entry.compressAbove]),
                  cache.set(entry, by)
                )
            }
          }))
      })
      const limit = (settings: string) =>
        Effect.gen(function* () {
          const caches = yield* over(yaml(settings), { kinds: [noting] })
          const compressed = Caches.define({
            name: "numbers",
            kind: "noting",
            schema: Schema.Number,
            compressAbove: 500
          })
          yield* (yield* caches.get(compressed)).set("key", 1)
          const plain = Caches.define({ name: "plain", kind: "noting", schema: Schema.Number })
          yield* (yield* caches.get(plain)).set("key", 1)
          return yield* Ref.getAndSet(limits, [])
        })
      assert.deepStrictEqual(yield* limit("caches: {}"), [500, undefined])
      const defaults = "caches:\n  defaults: { compressAbove: 100 }\n"
      assert.deepStrictEqual(yield* limit(defaults), [500, 100])
      const off = "  numbers: { compressAbove: none }\n  plain: { compressAbove: false }\n"
      assert.deepStrictEqual(yield* limit(defaults + off), [undefined, undefined])
      assert.deepStrictEqual(yield* limit(`${defaults}  numbers: { compressAbove: 0 }\n`), [0, 100])
      for (const wrong of ["-1", "some", "''", "1e"]) {
        const error = yield* Effect.flip(limit(`caches:\n  numbers: { compressAbove: ${wrong} }\n`))
        assert.include(error.message, "expected a number of bytes, zero or more; or none")
      }
    }))

  test("variables go before files, profiles before what is for all, overrides before everything", () =>
    Effect.gen(function* () {
      const files = {
        ...yaml("caches:\n  numbers: { ttl: 1 minute, prefix: file- }\n"),
        "application-cache-production.yaml": `caches:\n  numbers: { ttl: "\${NUMBERS_TTL:2 minutes}" }\n`
      }
      const ttl = (options: Parameters<typeof over>[1]) =>
        Effect.flatMap(over(files, options), (caches) =>
          Effect.flatMap(caches.get(Numbers), (numbers) => {
            assert.strictEqual(numbers.namespace, "file-numbers")
            return livesFor(numbers, 1, 2, 3, 4, 5, 6)
          })
        )
      assert.strictEqual(yield* ttl({}), 1)
      assert.strictEqual(yield* ttl({ profile: "production" }), 2)
      assert.strictEqual(yield* ttl({ profile: "production", env: { NUMBERS_TTL: "3 minutes" } }), 3)
      assert.strictEqual(yield* ttl({ env: { CACHES_NUMBERS_TTL: "4 minutes" } }), 4)
      assert.strictEqual(
        yield* ttl({
          env: { CACHES_NUMBERS_TTL: "4 minutes" },
          overrides: { "caches.numbers.ttl": "5 minutes" }
        }),
        5
      )
    }))

  test("a variable of more words sets a setting of more words, and is no unknown one", () =>
    Effect.gen(function* () {
      const caches = yield* over(yaml("caches:\n  numbers: { ttl: 1 minute }\n"), {
        env: { CACHES_NUMBERS_GRACE_FOR: "10 minutes", CACHES_NUMBERS_FIRST_TIER_CAPACITY: "2" }
      })
      const numbers = yield* caches.get(Numbers)
      yield* numbers.getOrElse("a", Effect.succeed(1))
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* numbers.getOrElse("a", Effect.fail("down")), 1)
      for (const key of ["a", "b", "c"]) yield* numbers.set(key, 1)
      assert.strictEqual((yield* numbers.stats).firstTierSize, 2)
    }))

  test("unknown settings, wrong values and wrong tables are all said at once, with their places and what would be right", () =>
    Effect.gen(function* () {
      const caches = yield* over(
        yaml(`caches:
  defaults:
    tll: 5 minutes
  numbers:
    kind: memory
    stale: 1 minute
    ttl: soon
    jitter: 7
    clearBy: magic
    strict: true
    firstTier:
      size: 5
      capacity: 0
    extra: { a: 1 }
`)
      )
      const error = yield* Effect.flip(caches.get(Numbers))
      assert.strictEqual(error.reason, "InvalidSettings")
      const problems = problemsOf(error)
      const at = (place: string, ...words: ReadonlyArray<string>) => {
        const found = problems.find((problem) => problem.startsWith(`application-cache.yaml:${place}`))
        for (const word of words) assert.include(found ?? "nothing", word, place)
      }
      at("3:10: caches.defaults.tll", "there is no such setting (did you mean ttl?)", "those of all caches are kind,")
      at(
        "6:12: caches.numbers.stale",
        "did you mean staleFor?",
        "those of a cache of kind memory are kind, prefix,",
        "capacity"
      )
      at("7:10: caches.numbers.ttl", "expected a duration, which is a number and its unit", "longer than zero")
      at("8:13: caches.numbers.jitter", "expected a part, from none of it (0) to all of it (1)")
      at("9:14: caches.numbers.clearBy", "scan")
      at("10:13: caches.numbers.strict", "there is no such setting")
      at(
        "12:13: caches.numbers.firstTier.size",
        "those of firstTier of a cache of kind memory are enabled, capacity, ttl"
      )
      at("13:17: caches.numbers.firstTier.capacity", "expected a whole number, one or more")
      at("14:12: caches.numbers.extra", "there is no such setting")
      assert.lengthOf(problems, 9)
      assert.notInclude(error.message, "soon")
      assert.include(error.message, 'cache "numbers": settings of it cannot be')
    }))

  test("settings that are no table are said", () =>
    Effect.gen(function* () {
      for (const [text, words] of [
        ["caches:\n  numbers: 5 minutes\n", "application-cache.yaml:2:12: caches.numbers: expected a table"],
        ["caches:\n  numbers: [a, b]\n", "application-cache.yaml:2:12: caches.numbers: expected a table"]
      ] as const) {
        const error = yield* Effect.flip(Effect.flatMap(over(yaml(text)), (caches) => caches.get(Numbers)))
        assert.strictEqual(error._tag, "CachesError")
        if (error._tag === "CachesError") assert.include(problemsOf(error).join("\n"), words)
      }
      const empty = yield* over(yaml("caches:\n  numbers:\n"))
      yield* empty.get(Numbers)
    }))

  test("a kind that there is not is said with its place, and which there are", () =>
    Effect.gen(function* () {
      const flip = (text: string, definition: Caches.Definition<unknown>) =>
        Effect.flatMap(over(yaml(text)), (caches) => Effect.flip(caches.get(definition)))
      const named = yield* flip("caches:\n  numbers: { kind: re }\n", Numbers)
      assert.strictEqual(named.reason, "UnknownKind")
      assert.deepStrictEqual(problemsOf(named), [
        "application-cache.yaml:2:20: caches.numbers.kind: there is no such kind: there are memory; another is added to the list given to Caches.layer"
      ])
      const all = yield* flip("caches:\n  defaults: { kind: redis }\n", Numbers)
      assert.match(problemsOf(all).join(), /^application-cache.yaml:2:21: caches.defaults.kind: there is no such kind/)
      const code = yield* flip("", Caches.define({ name: "numbers", kind: "redis", schema: Schema.Number }))
      assert.include(code.message, 'the code says kind "redis": there is no such kind')
    }))

  test("a misspelt kind beside other problems does not hide them", () =>
    Effect.gen(function* () {
      const caches = yield* over(yaml("caches:\n  numbers: { kind: rediss, ttl: soon }\n"))
      const problems = problemsOf(yield* Effect.flip(caches.get(Numbers)))
      assert.lengthOf(problems, 2)
    }))

  test("what is right by itself but cannot work with the code or the kind is said too", () =>
    Effect.gen(function* () {
      const kind = Caches.kind({
        kind: "plain",
        make: () =>
          Effect.map(Cache.Cache, ({ listen: _, stamps: __, ...backend }) => ({ cache: backend })).pipe(
            Effect.provide(Cache.layerMemory())
          )
      })
      const caches = yield* over(
        yaml("caches:\n  defaults: { kind: plain }\n  numbers: { firstTier: { capacity: 5 } }\n"),
        {
          kinds: [kind]
        }
      )
      const error = yield* Effect.flip(caches.get(Numbers))
      assert.strictEqual(error.reason, "InvalidOptions")
      assert.include(error.message, "a first tier needs a backend that tells of changes")
      const codes = yield* Effect.flip(caches.get(Caches.confirmation()))
      assert.strictEqual(codes.reason, "Unsupported")
      assert.include(codes.message, "the kind plain keeps no confirmation codes")
    }))

  test("codes and sign-ups have settings of their own, and a secret is not shown", () =>
    Effect.gen(function* () {
      const caches = yield* over(
        yaml(`caches:
  defaults: { ttl: 1 second, prefix: app- }
  confirmation: { length: 8, alphabet: ABCDEFGHJKMNPQRSTUVWXYZ23456789, secret: "\${CODE_SECRET}", quota: { enabled: false } }
  short: { length: 3 }
  wrong: { lenght: 3, secret: [a], resendAfter: later }
  signup: { onPending: maybe }
`),
        { env: { CODE_SECRET: "a secret of the application" } }
      )
      const codes = yield* caches.get(Caches.confirmation({ resendAfter: 0, ttl: "1 hour" }))
      assert.strictEqual(codes.name, "app-confirmation")
      for (let i = 0; i < 20; i++) {
        const issued = yield* codes.issue("ada@example.org")
        if (issued._tag !== "Issued") return assert.fail(issued._tag)
        assert.match(Redacted.value(issued.code), /^[A-HJKMNP-Z2-9]{8}$/)
        yield* TestClock.adjust("1 minute")
        const typed = Redacted.value(issued.code).toLowerCase().replace(/^..../, "$& - ")
        assert.strictEqual((yield* codes.verify("ada@example.org", typed))._tag, "Confirmed")
      }
      const short = yield* Effect.flip(caches.get(Caches.confirmation({ name: "short" })))
      assert.strictEqual(short.reason, "InvalidOptions")
      assert.include(short.message, "so many attempts would find so short a code too often")
      const wrong = problemsOf(yield* Effect.flip(caches.get(Caches.confirmation({ name: "wrong" }))))
      assert.include(wrong.join("\n"), "did you mean length?")
      assert.lengthOf(wrong, 3)
      const signup = yield* Effect.flip(caches.get(Caches.signup({ schema: Schema.Number })))
      assert.include(problemsOf(signup).join(), "caches.signup.onPending")
    }))

  test("which names of the configuration nobody has asked for", () =>
    Effect.gen(function* () {
      const caches = yield* over(yaml("caches:\n  defaults: {}\n  numbers: {}\n  nmubers: {}\n"))
      yield* caches.get(Numbers)
      assert.deepStrictEqual(yield* caches.unused, ["nmubers"])
      assert.deepStrictEqual(yield* (yield* over({})).unused, [])
    }))
})

/** A kind that counts how often it was built and released, and builds as `build` says. */
const counting = Effect.gen(function* () {
  const built = yield* Ref.make(0)
  const released = yield* Ref.make(0)
  const build = yield* Ref.make<Effect.Effect<void, Caches.CachesError>>(Effect.void)
  const seen = yield* Ref.make<ReadonlyArray<unknown>>([])
  const kind = Caches.kind({
    kind: "counting",
    settings: { size: Config.integer("size").pipe(Config.withDefault(1)) },
    make: (name, settings) =>
      Effect.gen(function* () {
        yield* Ref.update(built, (n) => n + 1)
        yield* Effect.addFinalizer(() => Ref.update(released, (n) => n + 1))
        yield* Ref.update(seen, (all) => [...all, { name, ...settings }])
        yield* Ref.update(seen, (all) => all)
        yield* Effect.flatten(Ref.get(build))
        const correlation = yield* Correlation.Current
        const deadline = yield* Deadline.remaining
        assert.isTrue(Option.isNone(correlation) && Option.isNone(deadline), "the caller's references")
        const cache = yield* memoryBackend
        return { cache }
      })
  })
  return { build, built, kind, released, seen }
})

const down = new Caches.CachesError({ reason: "Unavailable", cache: "numbers", description: "it is down" })

const counted = Caches.define({ name: "numbers", kind: "counting", schema: Schema.Number })

describe("Caches", () => {
  const registry = <K extends Caches.AnyKind>(kinds: ReadonlyArray<K>, configuration: Record<string, string> = {}) =>
    Effect.withConfigProvider(Caches.make(kinds), ConfigProvider.fromMap(new Map(Object.entries(configuration))))

  it.scoped("a kind of one's own has settings of its own, is built once and released with the registry", () =>
    Effect.gen(function* () {
      const { built, kind, released, seen } = yield* counting
      const scope = yield* Scope.make()
      const caches = yield* Scope.extend(registry([kind], { "caches.numbers.size": "7" }), scope)
      assert.deepStrictEqual(caches.kinds, ["memory", "counting"])
      assert.strictEqual(yield* Ref.get(built), 0)
      const all = yield* Effect.all(
        Array.from({ length: 50 }, () => caches.get(counted)),
        { concurrency: "unbounded" }
      ).pipe(Correlation.within("caller"), Deadline.within("1 second"))
      assert.strictEqual(new Set(all).size, 1)
      assert.deepStrictEqual([yield* Ref.get(built), yield* Ref.get(released)], [1, 0])
      assert.deepStrictEqual(yield* Ref.get(seen), [{ name: "numbers", size: 7 }])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([yield* Ref.get(built), yield* Ref.get(released)], [1, 1])
      assert.strictEqual((yield* Effect.flip(caches.get(counted))).reason, "Closed")
    })
  )

  it.scoped("clear says what became of that very call, strict or not, whatever other calls of the cache meet", () =>
    Effect.gen(function* () {
      const refusal = (reason: "Unavailable" | "Timeout" | "Rejected") =>
        new Cache.CacheError({ reason, method: "clear", description: "no" })
      const outcome = yield* Ref.make<Effect.Effect<number, Cache.CacheError>>(Effect.succeed(0))
      const clearing = yield* Ref.make<Effect.Effect<unknown>>(Effect.void)
      const kind = Caches.kind({
        kind: "failing",
        make: () =>
          Effect.map(memoryBackend, (cache) => ({
            cache: {
              ...cache,
              get: () => refusal("Unavailable"),
              clear: () => Effect.zipRight(Effect.flatten(Ref.get(clearing)), Effect.flatten(Ref.get(outcome)))
            }
          }))
      })
      const caches = yield* registry([kind], { "caches.defaults.kind": "failing" })
      const numbers = yield* caches.get(Numbers)
      const strict = Caches.define({ name: "strict", schema: Schema.Number, strict: true })
      yield* caches.get(strict)
      // another call fails while this one does what it is asked
      yield* Ref.set(clearing, numbers.get("key"))
      yield* Ref.set(outcome, Effect.succeed(3))
      assert.deepStrictEqual([yield* caches.clear("numbers"), yield* caches.clearAll], [3, 6])
      yield* Ref.set(clearing, Effect.void)
      for (const [reason, expected] of [
        ["Unavailable", "Unavailable"],
        ["Timeout", "Unavailable"],
        ["Rejected", "Rejected"]
      ] as const) {
        yield* Ref.set(outcome, refusal(reason))
        for (const clear of [caches.clear("numbers"), caches.clear("strict"), caches.clearAll]) {
          const error = yield* Effect.flip(clear)
          assert.deepStrictEqual([error.reason, error.isRetryable], [expected, expected === "Unavailable"])
          assert.instanceOf(error.cause, Cache.CacheError)
        }
      }
      // counted as every call is that its backend failed: three reads of the other, and six of these
      assert.strictEqual((yield* numbers.stats).unreachable, 9)
      assert.strictEqual(yield* numbers.clear, 0)
    })
  )

  it.scoped("a setting of a kind is unknown to the others", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const caches = yield* registry([kind], { "caches.numbers.capacity": "7" })
      const error = yield* Effect.flip(caches.get(counted))
      assert.match(error.problems.join(), /^caches\.numbers\.capacity: there is no such setting/)
      const memory = yield* registry([kind], { "caches.numbers.size": "7", "caches.numbers.kind": "memory" })
      assert.match(
        (yield* Effect.flip(memory.get(counted))).problems.join(),
        /^caches\.numbers\.size: there is no such/
      )
    })
  )

  it.scoped("a build that fails is shared by those who wait, released and forgotten", () =>
    Effect.gen(function* () {
      const { build, built, kind, released } = yield* counting
      const caches = yield* registry([kind])
      yield* Ref.set(build, Effect.zipRight(Effect.yieldNow(), down))
      const errors = yield* Effect.all(
        Array.from({ length: 10 }, () => Effect.flip(caches.get(counted))),
        { concurrency: "unbounded" }
      )
      assert.isTrue(errors.every((error) => error.description === "it is down"))
      assert.deepStrictEqual([yield* Ref.get(built), yield* Ref.get(released)], [1, 1])
      assert.deepStrictEqual(yield* caches.list, [])
      yield* Ref.set(build, Effect.void)
      yield* caches.get(counted)
      assert.deepStrictEqual([yield* Ref.get(built), yield* Ref.get(released)], [2, 1])
    })
  )

  it.scoped("a build that dies is no hanging one", () =>
    Effect.gen(function* () {
      const { build, kind } = yield* counting
      const caches = yield* registry([kind])
      yield* Ref.set(build, Effect.dieMessage("a bug"))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(caches.get(counted))))
      yield* Ref.set(build, Effect.void)
      yield* caches.get(counted)
    })
  )

  it.scoped("who is interrupted leaves the build to the others", () =>
    Effect.gen(function* () {
      const { build, built, kind } = yield* counting
      const caches = yield* registry([kind])
      const gate = yield* Deferred.make<void>()
      yield* Ref.set(build, Deferred.await(gate))
      const first = yield* Effect.fork(caches.get(counted))
      yield* Effect.yieldNow()
      const second = yield* Effect.fork(caches.get(counted))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(second)
      assert.strictEqual(yield* Ref.get(built), 1)
    })
  )

  it.scoped("who waits for a build when the registry is released is told so", () =>
    Effect.gen(function* () {
      const { build, kind, released } = yield* counting
      const scope = yield* Scope.make()
      const caches = yield* Scope.extend(registry([kind]), scope)
      const begun = yield* Deferred.make<void>()
      yield* Ref.set(build, Effect.zipRight(Deferred.succeed(begun, undefined), Effect.never))
      const waiting = yield* Effect.fork(Effect.flip(caches.get(counted)))
      yield* Deferred.await(begun)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(waiting)).reason, "Closed")
      assert.strictEqual(yield* Ref.get(released), 1)
    })
  )

  it.scoped("two definitions of one name are refused, and so is a name that cannot be", () =>
    Effect.gen(function* () {
      const caches = yield* registry([])
      yield* caches.get(Numbers)
      const twin = Caches.define({ name: "numbers", schema: Schema.String })
      assert.strictEqual((yield* Effect.flip(caches.get(twin))).reason, "Conflict")
      for (const name of ["", "a b", "defaults", "a:b", "x".repeat(129)]) {
        const error = yield* Effect.flip(caches.get(Caches.define({ name, schema: Schema.String })))
        assert.strictEqual(error.reason, "InvalidOptions", name)
      }
      const namespace = Caches.define({ name: "spaced", namespace: "a b", schema: Schema.String })
      assert.strictEqual((yield* Effect.flip(caches.get(namespace))).reason, "InvalidOptions")
    })
  )

  it.scoped("of two kinds of one name the later wins", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* counting, yield* counting]
      const caches = yield* registry([one.kind, two.kind])
      yield* caches.get(counted)
      assert.deepStrictEqual([yield* Ref.get(one.built), yield* Ref.get(two.built)], [0, 1])
    })
  )

  it.scoped("a key that is not of its schema is a defect that says nothing of it", () =>
    Effect.gen(function* () {
      const caches = yield* registry([])
      const Key = Schema.NonEmptyString
      const cache = yield* caches.get(Caches.define({ name: "keyed", key: Key, schema: Schema.Number }))
      yield* cache.set("a secret", 1)
      for (const call of [cache.get(""), cache.deleteMany(["a secret", ""]), cache.setMany([["", 1]])]) {
        const exit = yield* Effect.exit(call as Effect.Effect<unknown>)
        assert.include(String(exit), "a key is not of the schema that the cache is defined with")
        assert.notInclude(String(exit), "a secret")
      }
    })
  )

  it.effect("a strict cache fails, and a cache has a tag and a layer; tests swap them all by one layer", () => {
    class Users extends Caches.tag(
      "test/Users",
      Caches.define({ name: "users", kind: "redis", schema: Schema.String })
    )<Users>() {}
    const program = Effect.gen(function* () {
      const users = yield* Users
      yield* users.set("1", "Ada")
      return yield* users.get("1")
    })
    return Effect.gen(function* () {
      const withRegistry = Effect.provide(program, Users.layer)
      const kept = yield* Effect.provide(withRegistry, Caches.layerMemory)
      assert.deepStrictEqual(kept, Option.some("Ada"))
      const error = yield* Effect.flip(Effect.provide(withRegistry, Caches.layer()))
      assert.strictEqual(error.reason, "UnknownKind")
      const swapped = Layer.succeed(Users, {
        ...({} as Caches.Handle<string, string>),
        set: () => Effect.void,
        get: () => Effect.succeed(Option.some("of a test"))
      })
      assert.deepStrictEqual(yield* Effect.provide(program, swapped), Option.some("of a test"))
    }).pipe(Effect.withConfigProvider(nothing))
  })

  it.effect("the registry for tests takes no notice of configuration", () =>
    Effect.gen(function* () {
      const caches = yield* Caches.Caches
      yield* caches.get(Numbers)
      assert.deepStrictEqual(yield* caches.unused, [])
      yield* caches.get(Caches.signup({ schema: Schema.Number, kind: "redis" }))
    }).pipe(
      Effect.provide(Caches.layerMemory),
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["caches.numbers.ttl", "soon"]])))
    )
  )

  it.effect("the confirmation cache of the application comes from the registry", () =>
    Effect.gen(function* () {
      const confirmations = yield* ConfirmationCache.ConfirmationCache
      const issued = yield* confirmations.issue("ada@example.org")
      assert.strictEqual(issued._tag, "Issued")
      assert.strictEqual(confirmations.name, "confirmation")
    }).pipe(
      Effect.provide(Caches.layerConfirmation().pipe(Layer.provide(Caches.layer()))),
      Effect.withConfigProvider(nothing)
    )
  )

  it.scoped("nothing is emitted", () =>
    Recording.assertSilent(
      Effect.gen(function* () {
        const caches = yield* registry([])
        const numbers = yield* caches.get(Numbers)
        yield* numbers.getOrElse("a", Effect.succeed(1))
        yield* caches.stats
        yield* caches.list
        yield* caches.unused
        yield* caches.clear("numbers")
        yield* Effect.flip(caches.clear("nobody"))
      })
    )
  )
})
