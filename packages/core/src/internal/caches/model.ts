/**
 * The models and the error of the registry of caches, which the public module gives on.
 */
import type * as Config from "effect/Config"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Cache from "../../state/Cache.ts"
import type * as OneTimeStore from "../../state/OneTimeStore.ts"

/**
 * Why there is no cache, or why it could not do what it was asked.
 *
 * - `InvalidSettings`: configuration says what cannot be; `problems` has each with its place and what would be right.
 * - `UnknownKind`: configuration or the code names a kind that the registry does not have.
 * - `InvalidOptions`: the code's options cannot be, or the kind cannot do what they ask.
 * - `Unsupported`: the kind cannot keep what the definition is of.
 * - `Conflict`: another definition has the name.
 * - `NotFound`: no cache of the name has been asked for.
 * - `InvalidKey`: a key is not of the definition's schema (a defect, for it is a mistake in the program).
 * - `Unavailable`: what the kind needs cannot be reached.
 * - `Rejected`: what the kind needs answered with a refusal.
 * - `Closed`: the registry is released.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidSettings",
  "UnknownKind",
  "InvalidOptions",
  "Unsupported",
  "Conflict",
  "NotFound",
  "InvalidKey",
  "Unavailable",
  "Rejected",
  "Closed"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of the registry. `cache` is the name of the cache. The message never holds a key or a value of a cache, nor a
 * value of the configuration.
 *
 * @since 0.1.0
 * @category errors
 */
export class CachesError extends Schema.TaggedError<CachesError>("@underlay/core/state/CachesError")("CachesError", {
  reason: Reason,
  cache: Schema.String,
  description: Schema.String,
  problems: Schema.optionalWith(Schema.Array(Schema.String), { default: () => [] }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return [`cache "${this.cache}": ${this.description}`, ...this.problems.map((one) => `  - ${one}`)].join("\n")
  }

  /** Whether it may be otherwise later, though nobody changes anything. */
  get isRetryable(): boolean {
    return this.reason === "Unavailable"
  }
}

/**
 * What a kind keeps caches in: the backend of caches and, where the kind can, what codes and sign-ups are kept in.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stores {
  readonly cache: Cache.Backend
  readonly oneTime?: OneTimeStore.Service | undefined
}

/**
 * Settings of a kind's own, beside those of every cache: by name, each a `Config` that reads itself by that name.
 *
 * @since 0.1.0
 * @category models
 */
export type KindSettings = Readonly<Record<string, Config.Config<unknown>>>

/**
 * What the settings of a kind read as.
 *
 * @since 0.1.0
 * @category models
 */
export type KindValues<S extends KindSettings> = { readonly [K in keyof S]: Config.Config.Success<S[K]> }

/**
 * A kind of caches: its name in configuration, the settings of its own, and how stores are made for one cache. What is
 * acquired in the scope is released with the registry.
 *
 * @since 0.1.0
 * @category models
 */
export interface Kind<S extends KindSettings = Record<never, never>, R = never> {
  readonly kind: string
  readonly settings?: S | undefined
  readonly make: (name: string, settings: KindValues<S>) => Effect.Effect<Stores, CachesError, R | Scope.Scope>
}

/**
 * A kind with its types forgotten, save what it requires.
 *
 * @since 0.1.0
 * @category models
 */
export interface AnyKind<out R = unknown> {
  readonly kind: string
  readonly settings?: KindSettings | undefined
  readonly make: (name: string, settings: never) => Effect.Effect<Stores, CachesError, R>
}

/**
 * A cache whose keys are typed too. As core's `Cache` handle, with `K` where that has texts.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handle<K, A, E = never> {
  readonly namespace: string
  readonly get: (key: K) => Effect.Effect<Option.Option<A>, E>
  readonly set: (key: K, value: A, options?: Cache.WriteOptions) => Effect.Effect<void, E>
  readonly delete: (key: K) => Effect.Effect<boolean, E>
  readonly deleteMany: (keys: ReadonlyArray<K>) => Effect.Effect<number, E>
  readonly getOrElse: <E2, R>(
    key: K,
    compute: Effect.Effect<A, E2, R>,
    options?: Cache.WriteOptions
  ) => Effect.Effect<A, E | E2, R>
  readonly getOrElseOption: <E2, R>(
    key: K,
    compute: Effect.Effect<Option.Option<A>, E2, R>,
    options?: Cache.WriteOptions
  ) => Effect.Effect<Option.Option<A>, E | E2, R>
  readonly getOrElseMany: <E2, R>(
    keys: ReadonlyArray<K>,
    load: (missing: ReadonlyArray<K>) => Effect.Effect<Iterable<readonly [key: K, value: A]>, E2, R>,
    options?: Cache.WriteOptions
  ) => Effect.Effect<ReadonlyArray<Option.Option<A>>, E | E2, R>
  readonly getMany: (keys: ReadonlyArray<K>) => Effect.Effect<ReadonlyArray<Option.Option<A>>, E>
  readonly setMany: (
    entries: Iterable<readonly [key: K, value: A]>,
    options?: Cache.WriteOptions
  ) => Effect.Effect<void, E>
  readonly invalidateTags: (tags: ReadonlyArray<string>) => Effect.Effect<void, E>
  readonly clear: Effect.Effect<number, E>
  readonly stats: Effect.Effect<Cache.Stats>
}

/**
 * A line of `list`. `namespace` is what the keys are kept under.
 *
 * @since 0.1.0
 * @category models
 */
export interface CacheInfo {
  readonly name: string
  readonly kind: string
  readonly namespace: string
}

/**
 * The counters of a cache.
 *
 * @since 0.1.0
 * @category models
 */
export interface CacheStats extends CacheInfo {
  readonly stats: Cache.Stats
}
