/**
 * Confirmation codes for e-mail addresses, phone numbers and anything else that a person can be reached by: made by a
 * secure source, kept hashed, good for one use, a few tries and a short time, and not sent too often.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Checked from "../internal/caches/checked.ts"
import * as Secrets from "../internal/caches/secrets.ts"
import * as OneTimeStore from "./OneTimeStore.ts"

/**
 * What a confirmation cache is made of, all with a default. The cache refuses codes that are guessed too easily: the tries
 * that one code allows must find it in less than one of a thousand cases.
 *
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  /** What the cache is for. Codes of one name are wrong under another. Default: `confirmation`. */
  readonly name?: string | undefined
  /** Before the name in the keys, to tell deployments apart that share a store. */
  readonly prefix?: string | undefined
  /** How long a code is good. Default: 10 minutes. */
  readonly ttl?: Duration.DurationInput | undefined
  /** How many characters a code has. Default: 6. */
  readonly length?: number | undefined
  /**
   * The characters of a code. Default: the ten digits. Where no letter stands for two cases, codes are compared without
   * regard to case.
   */
  readonly alphabet?: string | undefined
  /** How many wrong codes are allowed; after the last of them only a new code helps. Default: 5. */
  readonly attempts?: number | undefined
  /** How long after a code was issued no other is, unless that was confirmed. Default: 1 minute; zero for no pause. */
  readonly resendAfter?: Duration.DurationInput | undefined
  /** How many codes are issued for one subject within a time. Default: 5 within 1 hour. `false`: any number. */
  readonly quota?: { readonly codes: number; readonly within: Duration.DurationInput } | false | undefined
  /**
   * A secret of the application, the same in all its processes, of 16 characters or more: codes and subjects are then kept
   * as keyed hashes, which tell nobody anything who can read the store. Without it they are kept as plain hashes, which do
   * not show them but can be undone by trying all codes.
   */
  readonly secret?: Redacted.Redacted | undefined
}

/**
 * Options of a confirmation cache, with what is code and no setting.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Settings {
  /** When two subjects are the same. Default: case, outer space and the form of letters do not count. */
  readonly identity?: ((subject: string) => string) | undefined
}

/**
 * Options of a confirmation cache that keeps something with each code, and gives it out when that is confirmed.
 *
 * @since 0.1.0
 * @category models
 */
export interface ValueOptions<A, I> extends Options {
  readonly schema: Schema.Schema<A, I>
}

/**
 * What became of the wish for a code. The code is redacted, so that it gets into no log by accident.
 *
 * @since 0.1.0
 * @category models
 */
export type Issued =
  | { readonly _tag: "Issued"; readonly code: Redacted.Redacted; readonly expiresIn: Duration.Duration }
  | { readonly _tag: "Throttled"; readonly retryAfter: Duration.Duration }

/**
 * What a code turned out to be. `NotFound`: none was issued, or it is expired, used or revoked. `Exhausted`: the tries are
 * used up, and the code was not compared.
 *
 * @since 0.1.0
 * @category models
 */
export type Verified<A> =
  | { readonly _tag: "Confirmed"; readonly value: A }
  | { readonly _tag: "Wrong"; readonly attemptsLeft: number }
  | { readonly _tag: "Exhausted" }
  | { readonly _tag: "NotFound" }

/**
 * Codes of one name. Every operation is one atomic step of the store.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConfirmationHandle<A> {
  readonly name: string
  /**
   * Makes a code for a subject (an address, a number, an id), in place of one that it has. Whoever sends it should say the
   * same to the person whether it was issued or throttled, lest strangers learn who is registered.
   */
  readonly issue: (subject: string, value: A) => Effect.Effect<Issued, OneTimeStore.OneTimeStoreError>
  /**
   * Compares a code. Of any number of guesses at once no more than `attempts` are compared; of two right answers at once
   * exactly one is `Confirmed`. Spaces and hyphens in a code do not count unless they are in the alphabet. When the store
   * fails with an unknown outcome the code may be used up.
   */
  readonly verify: (
    subject: string,
    code: string | Redacted.Redacted
  ) => Effect.Effect<Verified<A>, OneTimeStore.OneTimeStoreError>
  /** Takes a code back, and says whether there was one. When another may be issued stays as it was. */
  readonly revoke: (subject: string) => Effect.Effect<boolean, OneTimeStore.OneTimeStoreError>
}

/**
 * The confirmation cache of an application: codes without values, under the name `confirmation`.
 *
 * ```ts
 * const confirmations = yield* ConfirmationCache.ConfirmationCache
 * const issued = yield* confirmations.issue("ada@example.org")
 * if (issued._tag === "Issued") yield* mail("ada@example.org", Redacted.value(issued.code))
 * // later
 * const verified = yield* confirmations.verify("ada@example.org", code)
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export class ConfirmationCache extends Context.Tag("@underlay/core/ConfirmationCache")<
  ConfirmationCache,
  ConfirmationHandle<void>
>() {}

/**
 * Makes a confirmation cache on the application's one-time store. Fails with `InvalidOptions` on options that cannot be.
 *
 * A code is kept at `confirmation:<name>:<hash of the subject>`: neither the subject nor the code is to be read in a key,
 * in an error or in the store. A value that is kept with it is there as JSON.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: {
  <A, I>(
    options: ValueOptions<A, I>
  ): Effect.Effect<ConfirmationHandle<A>, OneTimeStore.OneTimeStoreError, OneTimeStore.OneTimeStore>
  (
    options?: Options & { readonly schema?: undefined }
  ): Effect.Effect<ConfirmationHandle<void>, OneTimeStore.OneTimeStoreError, OneTimeStore.OneTimeStore>
} = <A = void, I = void>(options: Options & { readonly schema?: Schema.Schema<A, I> | undefined } = {}) =>
  Effect.flatMap(OneTimeStore.OneTimeStore, (store) => makeOn(store, { ...options, schema: schemaOf(options.schema) }))

/**
 * The schema of what is kept with a code; without one A is void.
 *
 * @internal
 */
export const schemaOf = <A, I>(schema: Schema.Schema<A, I> | undefined): Schema.Schema<A, I> =>
  schema ?? (Schema.Void as unknown as Schema.Schema<A, I>)

/** @internal */
export const makeOn = <A, I>(
  store: OneTimeStore.Service,
  options: ValueOptions<A, I>
): Effect.Effect<ConfirmationHandle<A>, OneTimeStore.OneTimeStoreError> =>
  Effect.gen(function* () {
    const name = yield* Checked.names(`${module}.make`, options.name ?? "confirmation", options.prefix, options.secret)
    const alphabet = [...new Set(options.alphabet ?? "0123456789")]
    const length = options.length ?? 6
    const attempts = options.attempts ?? 5
    const invalid = (why: string) => Checked.failure("InvalidOptions", `${module}.make`, why)
    if (alphabet.length < 2 || alphabet.length !== (options.alphabet ?? "0123456789").length) {
      return yield* invalid("an alphabet has two characters at the least, none of them twice")
    }
    if (!(Number.isInteger(length) && length >= 1 && length <= 128)) {
      return yield* invalid("the length of a code is a whole number from 1 to 128")
    }
    if (!(Number.isSafeInteger(attempts) && attempts >= 1)) {
      return yield* invalid("the attempts are a whole number from 1")
    }
    if (alphabet.length ** length < attempts * 1_000) {
      return yield* invalid(
        "so many attempts would find so short a code too often: make it longer, allow fewer attempts or more characters"
      )
    }
    const ttl = yield* Checked.millis(`${module}.make`, "ttl", options.ttl ?? "10 minutes")
    const pause = yield* Checked.millis(`${module}.make`, "resendAfter", options.resendAfter ?? "1 minute", true)
    const quota = options.quota === false ? undefined : (options.quota ?? { codes: 5, within: "1 hour" })
    const within = yield* Checked.millis(`${module}.make`, "quota.within", quota?.within ?? "1 hour")
    if (quota !== undefined && !(Number.isSafeInteger(quota.codes) && quota.codes >= 1)) {
      return yield* invalid("quota.codes is a whole number from 1")
    }
    const limit = quota === undefined ? undefined : { limit: quota.codes, within }

    const hash = Secrets.hash(options.secret)
    const values = Checked.codec(options.schema)
    const readable = reader(alphabet)
    const identity = options.identity ?? Checked.usualIdentity
    const subjectOf = (method: string, subject: string) => Checked.identified(`${module}.${method}`, identity, subject)
    const keyOf = (subject: string) =>
      Effect.map(hash("confirmation", name, subject), (hashed) => `confirmation:${name}:${hashed}`)
    const tokenOf = (subject: string, code: string) => hash("confirmation-code", name, subject, code)

    return {
      name,
      issue: (subject, value) =>
        Effect.gen(function* () {
          const who = yield* subjectOf("issue", subject)
          const text = yield* values.encode(`${module}.issue`, value)
          const code = yield* Secrets.randomText(length, alphabet)
          const put = yield* store.put({
            key: yield* keyOf(who),
            token: yield* tokenOf(who, readable(code)),
            text,
            ttl,
            tries: attempts,
            present: "replace",
            pause,
            quota: limit
          })
          return put._tag === "Put"
            ? { _tag: "Issued", code: Redacted.make(code), expiresIn: Duration.millis(ttl) }
            : { _tag: "Throttled", retryAfter: Duration.millis(put.left) }
        }),
      verify: (subject, code) =>
        Effect.gen(function* () {
          const who = yield* subjectOf("verify", subject)
          const given = readable(typeof code === "string" ? code : Redacted.value(code))
          const taken = yield* store.take(yield* keyOf(who), yield* tokenOf(who, given))
          switch (taken._tag) {
            case "Taken":
              return { _tag: "Confirmed", value: yield* values.decode(`${module}.verify`, taken.text) }
            case "Wrong":
              return { _tag: "Wrong", attemptsLeft: taken.triesLeft }
            case "Exhausted":
              return { _tag: "Exhausted" }
            case "Absent":
              return { _tag: "NotFound" }
          }
        }),
      revoke: (subject) =>
        Effect.gen(function* () {
          const who = yield* subjectOf("revoke", subject)
          return yield* store.drop(yield* keyOf(who), undefined)
        })
    }
  })

const module = "ConfirmationCache"

/** A code as it is compared, of what a person typed. */
const reader = (alphabet: ReadonlyArray<string>): ((code: string) => string) => {
  const characters = new Set(alphabet)
  const folded = new Set(alphabet.map((one) => one.toLowerCase()))
  const folds = folded.size === alphabet.length
  const skipped = new Set([" ", "\t", "\n", "\r", "-", "\u00A0"].filter((one) => !characters.has(one)))
  return (code) => {
    let text = ""
    for (const one of code) if (!skipped.has(one)) text += one
    return folds ? text.toLowerCase() : text
  }
}

/**
 * The confirmation cache as a layer on the one-time store.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<ConfirmationCache, OneTimeStore.OneTimeStoreError, OneTimeStore.OneTimeStore> =>
  Layer.effect(ConfirmationCache, make(options))

/**
 * The confirmation cache in the memory of this process, for programs of one process and for tests.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: Options = {}): Layer.Layer<ConfirmationCache, OneTimeStore.OneTimeStoreError> =>
  Layer.provide(layer(options), OneTimeStore.layerMemory())
