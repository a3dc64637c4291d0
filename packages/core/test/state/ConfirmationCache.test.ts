import { assert, describe, it } from "@effect/vitest"
import { ConfirmationCache, OneTimeStore, SignupCache } from "@underlay/core"
import { OneTimeStoreSuite, Recording, Suite } from "@underlay/core/testing"
import { Deferred, Effect, Exit, FastCheck, Fiber, Inspectable, Option, Redacted, Schema, TestClock } from "effect"

const inMemory = Effect.provide(OneTimeStore.layerMemory())

const codeOf = <A>(issued: Effect.Effect<ConfirmationCache.Issued, A>) =>
  Effect.flatMap(issued, (one) =>
    one._tag === "Issued" ? Effect.succeed(Redacted.value(one.code)) : Effect.dieMessage(one._tag)
  )

/** A store whose every operation fails. */
const broken = (outcome: "not-done" | "unknown") => {
  const fails = () =>
    Effect.fail(
      new OneTimeStore.OneTimeStoreError({
        reason: "Unavailable",
        method: "OneTimeStore.test",
        description: "it is away",
        outcome
      })
    )
  return OneTimeStore.OneTimeStore.of({ put: fails, take: fails, peek: fails, drop: fails })
}

describe("ConfirmationCache", () => {
  it.effect("options that cannot be are refused, and why", () =>
    Effect.gen(function* () {
      const refused: ReadonlyArray<readonly [ConfirmationCache.Options, string]> = [
        [{ name: "a b" }, "a name is one to 128 letters"],
        [{ name: "x".repeat(100), prefix: "y".repeat(29) }, "a name is one to 128 letters"],
        [{ alphabet: "0" }, "two characters at the least"],
        [{ alphabet: "00112233445566778899" }, "none of them twice"],
        [{ length: 0 }, "the length of a code"],
        [{ length: 6.5 }, "the length of a code"],
        [{ length: 129 }, "the length of a code"],
        [{ attempts: 0 }, "the attempts are a whole number"],
        [{ attempts: 1.5 }, "the attempts are a whole number"],
        [{ length: 3 }, "so many attempts would find so short a code too often"],
        [{ length: 4, attempts: 11 }, "so many attempts would find so short a code too often"],
        [{ ttl: 0 }, "ttl: a time to live must be longer than zero"],
        [{ ttl: "Infinity" as never }, "ttl: "],
        [{ resendAfter: -1 }, "resendAfter: "],
        [{ quota: { codes: 0, within: "1 hour" } }, "quota.codes"],
        [{ quota: { codes: 1, within: 0 } }, "quota.within: "],
        [{ secret: Redacted.make("short") }, "a secret has 16 characters at the least"]
      ]
      for (const [options, words] of refused) {
        const error = yield* Effect.flip(ConfirmationCache.make(options))
        assert.strictEqual(error.reason, "InvalidOptions")
        assert.include(error.message, words)
        assert.isFalse(error.isRetryable)
        assert.notInclude(error.message, "short code too oftenshort")
      }
      yield* ConfirmationCache.make({ length: 4, attempts: 10 })
      yield* ConfirmationCache.make({ resendAfter: 0, quota: false, secret: Redacted.make("sixteen letters!") })
    }).pipe(inMemory)
  )

  it.effect("codes are of their length and alphabet, and every character is about as likely in every place", () =>
    Effect.gen(function* () {
      const alphabet = "ABC"
      const cache = yield* ConfirmationCache.make({ alphabet, length: 9, attempts: 1, resendAfter: 0, quota: false })
      const counts = Array.from({ length: 9 }, () => new Map<string, number>())
      const runs = 900
      for (let i = 0; i < runs; i++) {
        const code = yield* codeOf(cache.issue(`subject ${i % 7}`))
        assert.match(code, /^[ABC]{9}$/)
        for (const [place, character] of [...code].entries()) {
          const here = counts[place] ?? new Map<string, number>()
          here.set(character, (here.get(character) ?? 0) + 1)
        }
      }
      // six standard deviations: once in a billion
      const most = 6 * Math.sqrt(runs * (1 / 3) * (2 / 3))
      for (const here of counts) {
        for (const character of alphabet) {
          assert.isBelow(Math.abs((here.get(character) ?? 0) - runs / 3), most)
        }
      }
    }).pipe(inMemory)
  )

  it.effect("a code is read as people type it", () =>
    Effect.gen(function* () {
      const make = (alphabet: string) =>
        ConfirmationCache.make({ alphabet, length: 12, resendAfter: 0, quota: false, name: `n${alphabet.length}` })
      const confirmed = (cache: ConfirmationCache.ConfirmationHandle<void>, typed: (code: string) => string) =>
        Effect.flatMap(codeOf(cache.issue("ada")), (code) =>
          Effect.map(cache.verify("ada", typed(code)), ({ _tag }) => _tag)
        )
      const spaced = (code: string) => ` ${code.slice(0, 4)}-${code.slice(4, 8)} ${code.slice(8)}\n`
      const digits = yield* make("0123456789")
      assert.strictEqual(yield* confirmed(digits, spaced), "Confirmed")
      assert.strictEqual(yield* confirmed(digits, (code) => Redacted.value(Redacted.make(code))), "Confirmed")
      assert.strictEqual(yield* confirmed(digits, (code) => `${code}0`), "Wrong")
      assert.strictEqual(yield* confirmed(digits, (code) => code.slice(1)), "Wrong")
      assert.strictEqual(yield* confirmed(digits, () => ""), "Wrong")
      const letters = yield* make("ABCDEFGHJKMNPQRSTUVWXYZ")
      assert.strictEqual(yield* confirmed(letters, (code) => spaced(code.toLowerCase())), "Confirmed")
      const cased = yield* make("abcdefghABCDEFGHij")
      assert.strictEqual(yield* confirmed(cased, (code) => code), "Confirmed")
      const swap = (code: string) =>
        code.replace(/[a-hA-H]/, (one) => (/[a-h]/.test(one) ? one.toUpperCase() : one.toLowerCase()))
      assert.strictEqual(yield* confirmed(cased, (code) => `${swap(code)}`), "Wrong")
      const hyphens = yield* make("-0123456789x")
      assert.strictEqual(yield* confirmed(hyphens, (code) => code), "Confirmed")
      assert.strictEqual(yield* confirmed(hyphens, (code) => `-${code}`), "Wrong")
    }).pipe(inMemory)
  )

  it.effect("a subject that cannot be is refused, one is the same however it is written, and that can be changed", () =>
    Effect.gen(function* () {
      const cache = yield* ConfirmationCache.make({ resendAfter: 0, quota: false })
      for (const subject of ["", "   ", "x".repeat(1_025)]) {
        for (const call of [cache.issue(subject), cache.verify(subject, "1"), cache.revoke(subject)]) {
          const error = yield* Effect.flip(call as Effect.Effect<unknown, OneTimeStore.OneTimeStoreError>)
          assert.strictEqual(error.reason, "InvalidKey")
        }
      }
      const code = yield* codeOf(cache.issue("Zoë@Example.org"))
      assert.strictEqual((yield* cache.verify(" zoe\u0308@example.ORG", code))._tag, "Confirmed")
      const exact = yield* ConfirmationCache.make({ name: "exact", identity: (subject) => subject })
      const other = yield* codeOf(exact.issue("Ada"))
      assert.strictEqual((yield* exact.verify("ada", other))._tag, "NotFound")
      assert.strictEqual((yield* exact.verify("Ada", other))._tag, "Confirmed")
    }).pipe(inMemory)
  )

  it.effect(
    "a value that does not encode is refused before a code is made, and one of another shape is a typed failure",
    () =>
      Effect.gen(function* () {
        const make = <A, I>(schema: Schema.Schema<A, I>) => ConfirmationCache.make({ schema, name: "shared" })
        const texts = yield* make(Schema.NonEmptyString)
        const error = yield* Effect.flip(texts.issue("ada", ""))
        assert.strictEqual(error.reason, "InvalidValue")
        const code = yield* codeOf(texts.issue("ada", "a private matter"))
        const numbers = yield* make(Schema.Number)
        const corrupt = yield* Effect.flip(numbers.verify("ada", code))
        assert.strictEqual(corrupt.reason, "Corrupt")
        assert.notInclude(Inspectable.toStringUnknown(corrupt) + String(corrupt.cause), "private matter")
      }).pipe(inMemory)
  )

  it.effect("neither the code nor the subject gets into a text by accident", () =>
    Effect.gen(function* () {
      const cache = yield* ConfirmationCache.make()
      const issued = yield* cache.issue("ada@example.org")
      const code = issued._tag === "Issued" ? Redacted.value(issued.code) : assert.fail(issued._tag)
      assert.notInclude(`${JSON.stringify(issued)} ${Inspectable.toStringUnknown(issued)}`, code)
      const away = yield* Effect.provideService(ConfirmationCache.make(), OneTimeStore.OneTimeStore, broken("unknown"))
      const error = yield* Effect.flip(away.verify("ada@example.org", code))
      assert.strictEqual(error.message, "OneTimeStore.test: it is away (it may have been done)")
      assert.isFalse(error.isRetryable)
      const sure = yield* Effect.provideService(ConfirmationCache.make(), OneTimeStore.OneTimeStore, broken("not-done"))
      assert.isTrue((yield* Effect.flip(sure.issue("ada@example.org"))).isRetryable)
    }).pipe(inMemory)
  )

  it.effect("the store in memory forgets what is used least before it grows above its capacity", () =>
    Effect.gen(function* () {
      const cache = yield* ConfirmationCache.make({ resendAfter: 0, quota: false })
      const first = yield* codeOf(cache.issue("first"))
      const second = yield* codeOf(cache.issue("second"))
      yield* cache.verify("first", "no")
      yield* cache.issue("third")
      assert.strictEqual((yield* cache.verify("second", second))._tag, "NotFound")
      assert.strictEqual((yield* cache.verify("first", first))._tag, "Confirmed")
    }).pipe(Effect.provide(OneTimeStore.layerMemory({ capacity: 2 })))
  )

  it.effect.prop(
    "however guesses, codes, withdrawals and time follow each other, no code allows more than its tries, and none two uses",
    [
      FastCheck.array(
        FastCheck.oneof(
          { weight: 5, arbitrary: FastCheck.constant("wrong" as const) },
          { weight: 2, arbitrary: FastCheck.constantFrom("right" as const, "old" as const) },
          { weight: 2, arbitrary: FastCheck.constantFrom("issue" as const, "wait" as const) },
          { weight: 1, arbitrary: FastCheck.constant("revoke" as const) }
        ),
        { maxLength: 40 }
      )
    ],
    ([steps]) =>
      Effect.gen(function* () {
        const cache = yield* ConfirmationCache.make({
          ttl: "3 minutes",
          resendAfter: "1 minute",
          attempts: 3,
          length: 12,
          quota: { codes: 4, within: "10 minutes" }
        })
        let now = 0
        let current: { code: string; until: number; left: number } | undefined
        let old = "000000000000"
        let pausedUntil = 0
        let quota = { count: 0, until: 0 }
        for (const step of steps) {
          if (current !== undefined && current.until <= now) {
            old = current.code
            current = undefined
          }
          switch (step) {
            case "wait":
              yield* TestClock.adjust("50 seconds")
              now += 50_000
              break
            case "revoke":
              assert.strictEqual(yield* cache.revoke("ada"), current !== undefined)
              old = current?.code ?? old
              current = undefined
              break
            case "issue": {
              if (quota.until <= now) quota = { count: 0, until: now + 600_000 }
              const allowed = pausedUntil <= now && quota.count < 4
              const issued = yield* cache.issue("ada")
              assert.strictEqual(issued._tag, allowed ? "Issued" : "Throttled", `at ${now}`)
              if (issued._tag !== "Issued") {
                // a quota begins with a code, not with a wish
                if (quota.count === 0) quota = { count: 0, until: 0 }
                break
              }
              quota.count++
              pausedUntil = now + 60_000
              old = current?.code ?? old
              current = { code: Redacted.value(issued.code), until: now + 180_000, left: 3 }
              break
            }
            default: {
              const given = step === "right" ? (current?.code ?? old) : step === "old" ? old : "111111111111"
              const expected =
                current === undefined
                  ? { _tag: "NotFound" as const }
                  : current.left === 0
                    ? { _tag: "Exhausted" as const }
                    : given === current.code
                      ? { _tag: "Confirmed" as const, value: undefined }
                      : { _tag: "Wrong" as const, attemptsLeft: current.left - 1 }
              assert.deepStrictEqual(yield* cache.verify("ada", given), expected)
              if (expected._tag === "Wrong" && current !== undefined) current.left--
              if (expected._tag === "Confirmed") {
                old = current?.code ?? old
                current = undefined
                pausedUntil = 0
              }
            }
          }
        }
      }).pipe(inMemory),
    { fastCheck: { numRuns: 60 } }
  )

  it.effect("has layers", () =>
    Effect.gen(function* () {
      const cache = yield* ConfirmationCache.ConfirmationCache
      const code = yield* codeOf(cache.issue("ada"))
      assert.lengthOf(code, 8)
      assert.strictEqual((yield* cache.verify("ada", code))._tag, "Confirmed")
    }).pipe(Effect.provide(ConfirmationCache.layerMemory({ length: 8 })))
  )
})

const Signup = Schema.Struct({ plan: Schema.String })

describe("SignupCache", () => {
  it.effect("options, identities and sign-ups that cannot be are refused", () =>
    Effect.gen(function* () {
      const make = (options: Partial<SignupCache.Options<typeof Signup.Type, typeof Signup.Type>>) =>
        SignupCache.make({ schema: Signup, ...options })
      for (const options of [
        { name: "" },
        { ttl: 0 },
        { onPending: "merge" as never },
        { secret: Redacted.make("short") }
      ]) {
        assert.strictEqual((yield* Effect.flip(make(options))).reason, "InvalidOptions")
      }
      const cache = yield* make({})
      assert.strictEqual((yield* Effect.flip(cache.begin(" ", { plan: "free" }))).reason, "InvalidKey")
      const strict = yield* SignupCache.make({ schema: Schema.NonEmptyString })
      assert.strictEqual((yield* Effect.flip(strict.begin("ada", ""))).reason, "InvalidValue")
    }).pipe(inMemory)
  )

  it.effect("an interruption waits until a confirmation has taken its sign-up", () =>
    Effect.gen(function* () {
      const store = yield* OneTimeStore.OneTimeStore
      const gate = yield* Deferred.make<void>()
      const reached = yield* Deferred.make<void>()
      const slow = OneTimeStore.OneTimeStore.of({
        ...store,
        take: (key, token) =>
          key.startsWith("signup:")
            ? Effect.zipRight(
                Deferred.succeed(reached, undefined),
                Effect.zipRight(Deferred.await(gate), store.take(key, token))
              )
            : store.take(key, token)
      })
      const both = yield* Effect.map(
        Effect.all([SignupCache.make({ schema: Signup }), ConfirmationCache.make()]),
        ([signups, confirmations]) => SignupCache.withConfirmation(signups, confirmations)
      ).pipe(Effect.provideService(OneTimeStore.OneTimeStore, slow))
      const begun = yield* both.begin("ada", { plan: "free" })
      if (begun._tag !== "Begun") return assert.fail(begun._tag)
      const confirming = yield* Effect.fork(both.confirm("ada", begun.ticket, begun.code))
      yield* Deferred.await(reached)
      const interrupting = yield* Effect.fork(Fiber.interrupt(confirming))
      yield* Effect.yieldNow()
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(interrupting)
      const signups = yield* SignupCache.make({ schema: Signup })
      assert.deepStrictEqual(yield* signups.get("ada", begun.ticket), Option.none())
    }).pipe(inMemory)
  )

  it.effect("a sign-up for which no code could be made does not stand in the way", () =>
    Effect.gen(function* () {
      const signups = yield* SignupCache.make({ schema: Signup })
      const away = yield* Effect.provideService(ConfirmationCache.make(), OneTimeStore.OneTimeStore, broken("not-done"))
      const exit = yield* Effect.exit(SignupCache.withConfirmation(signups, away).begin("ada", { plan: "free" }))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual((yield* signups.begin("ada", { plan: "free" }))._tag, "Begun")
    }).pipe(inMemory)
  )

  it.effect("has a tag with layers", () => {
    class Signups extends SignupCache.tag("test/Signups", { schema: Signup })<Signups>() {}
    const program = Effect.flatMap(Signups, (signups) => signups.begin("ada", { plan: "free" }))
    return Effect.gen(function* () {
      assert.strictEqual((yield* Effect.provide(program, Signups.layerMemory))._tag, "Begun")
      assert.strictEqual((yield* inMemory(Effect.provide(program, Signups.layer)))._tag, "Begun")
    })
  })

  it.effect("nothing is emitted by codes and sign-ups", () =>
    Recording.assertSilent(
      Effect.forEach(Suite.applicable(OneTimeStoreSuite.make({ advance: TestClock.adjust }), []), (one) => one.run, {
        discard: true
      }).pipe(inMemory)
    )
  )
})
