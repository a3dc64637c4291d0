/**
 * Sign-ups that wait for their confirmation: one for each identity, for a time, seen and taken only by who began them, and
 * taken once.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Schema from "effect/Schema"
import * as Checked from "../internal/caches/checked.ts"
import * as Secrets from "../internal/caches/secrets.ts"
import type { ConfirmationHandle, Issued } from "./ConfirmationCache.ts"
import * as OneTimeStore from "./OneTimeStore.ts"

/**
 * What a sign-up cache is made of, beside its schema.
 *
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  /** What the cache is for. Default: `signup`. */
  readonly name?: string | undefined
  /** Before the name in the keys, to tell deployments apart that share a store. */
  readonly prefix?: string | undefined
  /** How long a sign-up waits. Default: 1 hour. */
  readonly ttl?: Duration.DurationInput | undefined
  /**
   * What happens when somebody begins a sign-up for an identity that has one. `keep` (default): the first stays, and the
   * second is told that there is one; so a stranger who begins one first keeps the owner of the address waiting. `replace`:
   * the second takes its place, and the first ticket is worth nothing.
   */
  readonly onPending?: "keep" | "replace" | undefined
  /**
   * A secret of the application, the same in all its processes, of 16 characters or more: identities are then kept as keyed
   * hashes. Without it as plain ones, which can be found by who guesses the identity.
   */
  readonly secret?: Redacted.Redacted | undefined
}

/**
 * Options of a sign-up cache.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A, I> extends Settings {
  /** What a sign-up is. It is kept as JSON: hash a password before. */
  readonly schema: Schema.Schema<A, I>
  /** When two identities are the same. Default: case, outer space and the form of letters do not count. */
  readonly identity?: ((identity: string) => string) | undefined
}

/**
 * What became of the wish to sign up. The ticket is for who began it, in a cookie, say: without it nobody can see, take or
 * confirm the sign-up, not even who owns the address; so nobody can have it confirm what a stranger filled in.
 *
 * `Pending`: another sign-up of the identity waits, for `expiresIn` at the most. Of two at once exactly one is begun.
 *
 * @since 0.1.0
 * @category models
 */
export type Begun =
  | { readonly _tag: "Begun"; readonly ticket: Redacted.Redacted; readonly expiresIn: Duration.Duration }
  | { readonly _tag: "Pending"; readonly expiresIn: Duration.Duration }

/**
 * Sign-ups of one name. A wrong ticket is as none.
 *
 * @since 0.1.0
 * @category models
 */
export interface SignupHandle<A> {
  readonly name: string
  readonly onPending: "keep" | "replace"
  /** Keeps a sign-up, if the identity (an address, a number) has none or `onPending` is `replace`. */
  readonly begin: (identity: string, signup: A) => Effect.Effect<Begun, OneTimeStore.OneTimeStoreError>
  /** The sign-up, without taking it. */
  readonly get: (
    identity: string,
    ticket: Redacted.Redacted | string
  ) => Effect.Effect<Option.Option<A>, OneTimeStore.OneTimeStoreError>
  /** Takes the sign-up: of any number of calls one gets it. */
  readonly take: (
    identity: string,
    ticket: Redacted.Redacted | string
  ) => Effect.Effect<Option.Option<A>, OneTimeStore.OneTimeStoreError>
  /** Gives it up, and says whether there was one. */
  readonly cancel: (
    identity: string,
    ticket: Redacted.Redacted | string
  ) => Effect.Effect<boolean, OneTimeStore.OneTimeStoreError>
}

/**
 * Makes a sign-up cache on the application's one-time store. Fails with `InvalidOptions` on options that cannot be.
 *
 * A sign-up is kept at `signup:<name>:<hash of the identity>`, under the hash of its ticket.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, I>(
  options: Options<A, I>
): Effect.Effect<SignupHandle<A>, OneTimeStore.OneTimeStoreError, OneTimeStore.OneTimeStore> =>
  Effect.flatMap(OneTimeStore.OneTimeStore, (store) => makeOn(store, options))

/** @internal */
export const makeOn = <A, I>(
  store: OneTimeStore.Service,
  options: Options<A, I>
): Effect.Effect<SignupHandle<A>, OneTimeStore.OneTimeStoreError> =>
  Effect.gen(function* () {
    const name = yield* Checked.names(`${module}.make`, options.name ?? "signup", options.prefix, options.secret)
    const ttl = yield* Checked.millis(`${module}.make`, "ttl", options.ttl ?? "1 hour")
    const present = options.onPending ?? "keep"
    if (present !== "keep" && present !== "replace") {
      return yield* Checked.failure("InvalidOptions", `${module}.make`, "onPending is keep or replace")
    }
    const hash = Secrets.hash(options.secret)
    const values = Checked.codec(options.schema)
    const identity = options.identity ?? Checked.usualIdentity
    const keyOf = (method: string, given: string) =>
      Effect.flatMap(Checked.identified(`${module}.${method}`, identity, given), (who) =>
        Effect.map(hash("signup", name, who), (hashed) => `signup:${name}:${hashed}`)
      )
    const tokenOf = (ticket: Redacted.Redacted | string) =>
      hash("signup-ticket", name, typeof ticket === "string" ? ticket : Redacted.value(ticket))

    return {
      name,
      onPending: present,
      begin: (given, signup) =>
        Effect.gen(function* () {
          const key = yield* keyOf("begin", given)
          const text = yield* values.encode(`${module}.begin`, signup)
          const ticket = Redacted.make(yield* Secrets.randomText(ticketLength, ticketAlphabet))
          const put = yield* store.put({ key, token: yield* tokenOf(ticket), text, ttl, present, pause: 0 })
          return put._tag === "Put"
            ? { _tag: "Begun", ticket, expiresIn: Duration.millis(ttl) }
            : { _tag: "Pending", expiresIn: Duration.millis(put.left) }
        }),
      get: (given, ticket) =>
        Effect.gen(function* () {
          const seen = yield* store.peek(yield* keyOf("get", given), yield* tokenOf(ticket))
          return seen === undefined ? Option.none() : Option.some(yield* values.decode(`${module}.get`, seen.text))
        }),
      take: (given, ticket) =>
        Effect.gen(function* () {
          const taken = yield* store.take(yield* keyOf("take", given), yield* tokenOf(ticket))
          return taken._tag === "Taken"
            ? Option.some(yield* values.decode(`${module}.take`, taken.text))
            : Option.none()
        }),
      cancel: (given, ticket) =>
        Effect.gen(function* () {
          return yield* store.drop(yield* keyOf("cancel", given), yield* tokenOf(ticket))
        })
    }
  })

const module = "SignupCache"

/** 43 of 64 characters: 258 random bits. */
const ticketLength = 43
const ticketAlphabet = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]

/**
 * What became of the wish to sign up with a code. `Throttled`: a code was sent to this identity a moment ago.
 *
 * @since 0.1.0
 * @category models
 */
export type BegunWithCode =
  | {
      readonly _tag: "Begun"
      readonly ticket: Redacted.Redacted
      readonly code: Redacted.Redacted
      readonly expiresIn: Duration.Duration
      readonly codeExpiresIn: Duration.Duration
    }
  | { readonly _tag: "Pending"; readonly expiresIn: Duration.Duration }
  | { readonly _tag: "Throttled"; readonly retryAfter: Duration.Duration }

/**
 * What became of the wish for another code. `NotFound`: there is no such sign-up (any more).
 *
 * @since 0.1.0
 * @category models
 */
export type Resent =
  | { readonly _tag: "Issued"; readonly code: Redacted.Redacted; readonly expiresIn: Duration.Duration }
  | { readonly _tag: "Throttled"; readonly retryAfter: Duration.Duration }
  | { readonly _tag: "NotFound" }

/**
 * What a code turned out to be. `CodeExpired`: there is a sign-up but no code for it (any more): send another. `NotFound`:
 * there is no sign-up of this ticket (any more), so the code was not compared.
 *
 * @since 0.1.0
 * @category models
 */
export type Confirmed<A> =
  | { readonly _tag: "Confirmed"; readonly signup: A }
  | { readonly _tag: "Wrong"; readonly attemptsLeft: number }
  | { readonly _tag: "Exhausted" }
  | { readonly _tag: "CodeExpired" }
  | { readonly _tag: "NotFound" }

/**
 * Sign-ups with confirmation codes.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConfirmedSignups<A> {
  readonly begin: (identity: string, signup: A) => Effect.Effect<BegunWithCode, OneTimeStore.OneTimeStoreError>
  /** Makes another code in place of the one that was sent. */
  readonly resend: (
    identity: string,
    ticket: Redacted.Redacted | string
  ) => Effect.Effect<Resent, OneTimeStore.OneTimeStoreError>
  /**
   * Compares the code, and takes the sign-up if it is right: of any number of calls one gets it. Who has no ticket uses up
   * no tries. Interruption waits for it. If the store fails after the code was right, the sign-up is still there and
   * `resend` helps.
   */
  readonly confirm: (
    identity: string,
    ticket: Redacted.Redacted | string,
    code: Redacted.Redacted | string
  ) => Effect.Effect<Confirmed<A>, OneTimeStore.OneTimeStoreError>
  readonly cancel: SignupHandle<A>["cancel"]
}

/**
 * Ties sign-ups to confirmation codes: a sign-up is taken by who has both its ticket and the code that was sent to its
 * identity. Codes are of the identity, so that nobody gets more of them than the confirmation cache allows, however many
 * sign-ups are begun for it: give sign-ups a confirmation cache of their own name. With `onPending: "replace"` the code of
 * the first is gone with it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withConfirmation = <A>(
  signups: SignupHandle<A>,
  confirmations: ConfirmationHandle<void>
): ConfirmedSignups<A> => ({
  begin: (identity, signup) => {
    const withCode = (
      begun: Extract<Begun, { readonly _tag: "Begun" }>,
      issued: Extract<Issued, { readonly _tag: "Issued" }>
    ): BegunWithCode => ({ ...begun, code: issued.code, codeExpiresIn: issued.expiresIn })
    return Effect.uninterruptible(
      Effect.gen(function* () {
        if (signups.onPending === "replace") {
          // the code first: one who may have none must not replace another's sign-up
          const issued = yield* confirmations.issue(identity)
          if (issued._tag === "Throttled") return issued
          const begun = yield* signups.begin(identity, signup)
          return begun._tag === "Pending" ? begun : withCode(begun, issued)
        }
        // the sign-up first: one who may have none must not replace another's code
        const begun = yield* signups.begin(identity, signup)
        if (begun._tag === "Pending") return begun
        // without a code it could not be confirmed, and would stand in the way of the next
        const giveUp = Effect.ignore(signups.cancel(identity, begun.ticket))
        const issued = yield* Effect.tapErrorCause(confirmations.issue(identity), () => giveUp)
        if (issued._tag === "Issued") return withCode(begun, issued)
        yield* giveUp
        return issued
      })
    )
  },
  resend: (identity, ticket) =>
    Effect.flatMap(signups.get(identity, ticket), (found) =>
      Option.isNone(found) ? Effect.succeed<Resent>({ _tag: "NotFound" }) : confirmations.issue(identity)
    ),
  confirm: (identity, ticket, code) =>
    Effect.uninterruptible(
      Effect.gen(function* (): Effect.fn.Return<Confirmed<A>, OneTimeStore.OneTimeStoreError> {
        if (Option.isNone(yield* signups.get(identity, ticket))) return { _tag: "NotFound" }
        const verified = yield* confirmations.verify(identity, code)
        switch (verified._tag) {
          case "Wrong":
          case "Exhausted":
            return verified
          case "NotFound":
            return { _tag: "CodeExpired" }
          case "Confirmed": {
            const taken = yield* signups.take(identity, ticket)
            return Option.isNone(taken) ? { _tag: "NotFound" } : { _tag: "Confirmed", signup: taken.value }
          }
        }
      })
    ),
  cancel: signups.cancel
})

/**
 * A class that is at once the tag of a sign-up cache and has its layers.
 *
 * ```ts
 * class Signups extends SignupCache.tag("app/Signups", { schema: Signup })<Signups>() {}
 * const program = Effect.flatMap(Signups, (signups) => signups.begin(email, signup)).pipe(Effect.provide(Signups.layer))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string, A, I>(id: Id, options: Options<A, I>) =>
  <Self>(): SignupTag<Self, Id, A> => {
    const base = Context.Tag(id)<Self, SignupHandle<A>>()
    // getters, so that the layers are of the class that extends this one
    const layer: PropertyDescriptor & ThisType<Context.Tag<Self, SignupHandle<A>>> = {
      get() {
        return Layer.effect(this, make(options))
      }
    }
    const layerMemory: PropertyDescriptor & ThisType<Context.Tag<Self, SignupHandle<A>>> = {
      get() {
        return Layer.provide(Layer.effect(this, make(options)), OneTimeStore.layerMemory())
      }
    }
    Reflect.defineProperty(base, "layer", layer)
    Reflect.defineProperty(base, "layerMemory", layerMemory)
    return base as SignupTag<Self, Id, A>
  }

/**
 * The class that `tag` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface SignupTag<Self, Id extends string, A> extends Context.TagClass<Self, Id, SignupHandle<A>> {
  readonly layer: Layer.Layer<Self, OneTimeStore.OneTimeStoreError, OneTimeStore.OneTimeStore>
  readonly layerMemory: Layer.Layer<Self, OneTimeStore.OneTimeStoreError>
}
