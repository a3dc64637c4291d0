/**
 * The models and the error of caches, which the public module gives on: what backends and handles are.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/**
 * Why a cache could not do what it was asked.
 *
 * - `InvalidOptions`: an option of a handle cannot be, or its backend cannot do it.
 * - `InvalidTtl`, `InvalidValue`: the argument of a call cannot be accepted.
 * - `Unavailable`, `Timeout`: the backend cannot be reached, or did not answer in time.
 * - `Rejected`: the backend answered with a refusal.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidOptions",
  "InvalidTtl",
  "InvalidValue",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a cache. Handles give it only where they are `strict` and from `make`; the others count it. The message
 * never holds a key or a value.
 *
 * @since 0.1.0
 * @category errors
 */
export class CacheError extends Schema.TaggedError<CacheError>("@underlay/core/state/CacheError")("CacheError", {
  reason: Reason,
  method: Schema.String,
  description: Schema.String,
  /** How many entries `deleteMany` or `clear` deleted all the same: those that could be reached. */
  deleted: Schema.optionalWith(Schema.Number, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return `Cache.${this.method}: ${this.description}`
  }

  /** Whether the same call can be made again: every operation of a cache may be done twice. */
  get isRetryable(): boolean {
    return this.reason === "Unavailable" || this.reason === "Timeout"
  }
}

/**
 * What a backend found at a key. `left` is what is left of its time to live in milliseconds, by the backend's clock, or
 * `undefined` where it was not asked for. A key that holds what is no text at all is `"unreadable"`.
 *
 * @since 0.1.0
 * @category models
 */
export type Found = { readonly text: string; readonly left: number | undefined } | "unreadable" | undefined

/**
 * One entry to write: a full key, its text, and its time to live in whole milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface BackendEntry {
  readonly key: string
  readonly text: string
  readonly ttl: number
  /** Texts of more bytes than this may be kept compressed. */
  readonly compressAbove?: number | undefined
}

/**
 * Who changes something: the handle, so that it is not told of its own changes, and its namespace.
 *
 * @since 0.1.0
 * @category models
 */
export interface Origin {
  readonly namespace: string
  /** What every full key of the namespace begins with. */
  readonly prefix: string
  readonly from: string
}

/**
 * What a backend tells of a namespace: that from now on all is heard, that something may have been missed, or what was
 * changed, with full keys. `from` is the handle that changed it, `undefined` where nobody knows.
 *
 * @since 0.1.0
 * @category models
 */
export type Heard =
  | { readonly _tag: "Ready" }
  | { readonly _tag: "Lost" }
  | {
      readonly _tag: "Changed"
      readonly from: string | undefined
      readonly keys: ReadonlyArray<string>
      readonly tags: ReadonlyArray<string>
      /** All of the namespace. */
      readonly cleared: boolean
    }

/**
 * Who may compute a key, across processes: a lease is taken by one, under a token, and ends by itself. A plain `set` or
 * `delete` of the key and a `clear` of its namespace end it too, so that what its holder computes is not kept.
 *
 * @since 0.1.0
 * @category models
 */
export interface Leases {
  /** The entry of the key; where there is none, its lease. */
  readonly getOrTake: (key: string, token: string, ttl: number) => Effect.Effect<Looked, CacheError>
  /** The leases of the keys, in their order, whether or not there are entries. */
  readonly take: (
    keys: ReadonlyArray<string>,
    token: string,
    ttl: number
  ) => Effect.Effect<ReadonlyArray<Looked>, CacheError>
  /** Writes each entry whose lease is still held under this token, and ends that; says which they were. */
  readonly fill: (
    entries: ReadonlyArray<BackendEntry>,
    token: string,
    by: Origin
  ) => Effect.Effect<ReadonlyArray<boolean>, CacheError>
  /** Ends the leases that are held under this token. */
  readonly release: (keys: ReadonlyArray<string>, token: string) => Effect.Effect<void, CacheError>
  /** Calls `wake` whenever the lease of the key ends before its time, until the scope closes. */
  readonly watch: (key: string, wake: () => void) => Effect.Effect<void, CacheError, Scope.Scope>
}

/**
 * What `Leases` answer: the entry, the lease, or that another holds it, for at most so many milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export type Looked =
  | { readonly _tag: "Found"; readonly found: Exclude<Found, undefined> }
  | { readonly _tag: "Taken" }
  | { readonly _tag: "Held"; readonly left: number }

/**
 * Version stamps: an entry keeps the stamps of its tags as they were before it was computed, and is worth nothing once
 * one of them is another. Stamps live longer than any entry that has them; one that is lost makes misses, never a stale
 * hit.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stamps {
  /** The stamps in the order of the keys, `undefined` where there is none. */
  readonly get: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<string | undefined>, CacheError>
  /** The stamps in the order of the keys; one that is not there is made. Each lives `ttl` milliseconds at the least. */
  readonly ensure: (keys: ReadonlyArray<string>, ttl: number) => Effect.Effect<ReadonlyArray<string>, CacheError>
  /** Drops the stamps of tags, or the one of the whole namespace (`tags` absent). */
  readonly drop: (
    keys: ReadonlyArray<string>,
    tags: ReadonlyArray<string> | undefined,
    by: Origin
  ) => Effect.Effect<void, CacheError>
}

/**
 * What keeps the entries: texts by full key, with a time to live in whole milliseconds. The optional parts are what a
 * backend may not be able to do; handles that need them are refused there, save that without `leases` computations are
 * shared in this process only.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /** `timed` asks for what is left of the time to live too. */
  readonly get: (key: string, timed: boolean) => Effect.Effect<Found, CacheError>
  /** In the order of the keys. */
  readonly getMany: (keys: ReadonlyArray<string>, timed: boolean) => Effect.Effect<ReadonlyArray<Found>, CacheError>
  readonly set: (entry: BackendEntry, by: Origin) => Effect.Effect<void, CacheError>
  readonly setMany: (entries: ReadonlyArray<BackendEntry>, by: Origin) => Effect.Effect<void, CacheError>
  /** How many there were. Where some cannot be reached the others are deleted, and the failure has their number. */
  readonly delete: (keys: ReadonlyArray<string>, by: Origin) => Effect.Effect<number, CacheError>
  /** Removes what cannot be read. Nobody is told, and leases stay. */
  readonly discard: (keys: ReadonlyArray<string>) => Effect.Effect<void, CacheError>
  /**
   * Deletes every key of the namespace and gives their number. Not atomic: where some cannot be reached the others are
   * deleted, and the failure has their number.
   */
  readonly clear: (by: Origin) => Effect.Effect<number, CacheError>
  readonly leases?: Leases | undefined
  readonly stamps?: Stamps | undefined
  /** Tells of changes in a namespace until the scope closes. `handler` is called synchronously, in order. */
  readonly listen?:
    | ((by: Origin, handler: (heard: Heard) => void) => Effect.Effect<void, CacheError, Scope.Scope>)
    | undefined
  /** Refreshes that nobody waits for run in it and end with it. Without one they run until they are done. */
  readonly scope?: Scope.Scope | undefined
}

/**
 * Options of a handle.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A, I> {
  /** Entries are kept at `cache:<namespace>:<key>`. Letters, digits, `.`, `_` and `-`. */
  readonly namespace: string
  /** How long an entry is fresh. Default: 10 minutes. */
  readonly ttl?: Duration.DurationInput | undefined
  /** The values: written encoded as JSON, checked when read. */
  readonly schema: Schema.Schema<A, I>
  /**
   * Each entry's time to live is shortened at random by up to this part of it, so that entries written together do not
   * expire together. 0 to 1; default 0.05.
   */
  readonly jitter?: number | undefined
  /** Whether a failing backend fails the call instead of counting as a miss. Default: false. */
  readonly strict?: boolean | undefined
  /**
   * How long after its freshness an entry is still served by `getOrElse` while it is computed anew in the background.
   * Default: not at all.
   */
  readonly staleFor?: Duration.DurationInput | undefined
  /**
   * How long after its freshness an entry is served by `getOrElse` when its computation fails. What was deleted,
   * cleared or invalidated is never served. Default: not at all.
   */
  readonly graceFor?: Duration.DurationInput | undefined
  /** How long after such a failure the old entry is served without trying again. Default: every call tries. */
  readonly graceBackoff?: Duration.DurationInput | undefined
  /**
   * Computes an entry anew in the background before it expires, the likelier the closer that is and the longer the
   * computation takes, so that few do and nobody waits (XFetch, by Vattani, Chierichetti and Lowenstein). The factor
   * `beta`: 1 is usual, more is earlier. Default: not at all.
   */
  readonly earlyRefresh?: number | undefined
  /** How long `getOrElseOption` and `getOrElseMany` keep that there is nothing. Default: 30 seconds, or `ttl` if shorter. */
  readonly negativeTtl?: Duration.DurationInput | undefined
  /**
   * Keeps decoded values in this process as well, coherent with the backend by its messages: emptied and not used while
   * these may be missed. The values are shared, so they must not be changed. Default: off.
   */
  readonly firstTier?: FirstTier | undefined
  /** Larger entries are kept compressed where the backend can. In bytes. Default: never. */
  readonly compressAbove?: number | undefined
  /**
   * Does not check what a handle with the same `version` of the schema wrote, where the schema changes nothing (no
   * transformations and no classes); whatever else is read is checked as ever. A value that would not read back is
   * refused when it is written. Default: false.
   */
  readonly trusted?: boolean | undefined
  /**
   * The version of the schema for `trusted`. Default: a fingerprint of its structure. A schema with filters of one's own
   * has none, for they cannot be told apart: without a version nothing of it is trusted.
   */
  readonly version?: string | undefined
  /**
   * One computation of a key across processes: how long its lease lasts, after which another takes over (10 seconds),
   * and how long others wait for its result before they compute for themselves, without keeping it (as long as the
   * lease). `false`: computations are shared in this process only, and a computation may overwrite what another process
   * wrote or deleted meanwhile.
   */
  readonly lease?:
    | false
    | {
        readonly ttl?: Duration.DurationInput | undefined
        readonly wait?: Duration.DurationInput | undefined
      }
    | undefined
  /**
   * How `clear` works. `scan` (default) deletes the keys; `generation` makes all that was kept before worthless with one
   * command, whatever their number, at the price of one more command for each read from the backend. All handles of a
   * namespace must agree.
   */
  readonly clearBy?: "scan" | "generation" | undefined
}

/**
 * The tier in this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface FirstTier {
  /** The greatest number of entries; the one used least recently goes first. Default: 1,000. */
  readonly capacity?: number | undefined
  /** How long an entry stays at the most. Default: 1 minute. */
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * Options of one write.
 *
 * @since 0.1.0
 * @category models
 */
export interface WriteOptions {
  readonly ttl?: Duration.DurationInput | undefined
  /** `invalidateTags` of any of these makes the entry worthless. */
  readonly tags?: ReadonlyArray<string> | undefined
  /** How long it is kept that there is nothing. */
  readonly negativeTtl?: Duration.DurationInput | undefined
}

/**
 * Plain counters of a handle since it was made.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly hits: number
  /** Those of `hits` that the tier in this process answered. */
  readonly firstTierHits: number
  readonly misses: number
  /** Hits that said that there is nothing. */
  readonly negativeHits: number
  /** Values served after their freshness while they were computed anew. */
  readonly stale: number
  /** Values served after their freshness because their computation failed. */
  readonly graced: number
  /** Computations that `getOrElse` ran, background ones included. */
  readonly loads: number
  /** Those of `loads` that ran in the background, and how many of these failed. */
  readonly refreshes: number
  readonly refreshFailures: number
  /** Calls of `getOrElse` that waited for another call's computation. */
  readonly joined: number
  /** Calls that waited for the computation of another process. */
  readonly awaited: number
  readonly writes: number
  /** Computed values that were not kept, because their key was written or deleted meanwhile or their lease had ended. */
  readonly outdated: number
  /** Entries that did not decode and counted as misses. They are removed. */
  readonly corrupt: number
  /** Entries that counted as misses because one of their tags, or the namespace, was invalidated. */
  readonly invalidated: number
  /** Calls that the backend failed. */
  readonly unreachable: number
  /** Values that were not kept: they did not encode, or their time to live cannot be. */
  readonly refused: number
  /** Messages of changes made elsewhere. */
  readonly messages: number
  /** How often the tier in this process was emptied because messages may have been missed. */
  readonly flushes: number
  /** Entries in the tier in this process now. */
  readonly firstTierSize: number
}

/**
 * A cache of values of one type. `E` is `never` unless the handle is strict.
 *
 * @since 0.1.0
 * @category models
 */
export interface CacheHandle<A, E = never> {
  readonly namespace: string
  /** The value, if it is there and fresh. */
  readonly get: (key: string) => Effect.Effect<Option.Option<A>, E>
  readonly set: (key: string, value: A, options?: WriteOptions) => Effect.Effect<void, E>
  /** Whether there was an entry. A computation of the key that is running, in any process, will not be kept. */
  readonly delete: (key: string) => Effect.Effect<boolean, E>
  /** How many there were, of those that could be reached: the others are still there, and `unreachable` counts it. */
  readonly deleteMany: (keys: ReadonlyArray<string>) => Effect.Effect<number, E>
  /**
   * The entry, or what `compute` gives, which is then kept. Concurrent calls for one key share one computation, in this
   * process and across processes; when the call that runs it is interrupted, a waiting one takes over. A failure is
   * shared in this process and not kept. A computation that asks for its own key waits for itself.
   *
   * With `staleFor` or `earlyRefresh` the computation may run in the background after the call, with the call's context:
   * it must not need what ends with the call.
   */
  readonly getOrElse: <E2, R>(
    key: string,
    compute: Effect.Effect<A, E2, R>,
    options?: WriteOptions
  ) => Effect.Effect<A, E | E2, R>
  /** As `getOrElse`, for what may not exist: that there is nothing is kept too, for `negativeTtl`. */
  readonly getOrElseOption: <E2, R>(
    key: string,
    compute: Effect.Effect<Option.Option<A>, E2, R>,
    options?: WriteOptions
  ) => Effect.Effect<Option.Option<A>, E | E2, R>
  /**
   * The entries in the order of the keys. What is missing is computed by one call of `load` with the missing keys, each
   * once; what that does not give does not exist, which is kept for `negativeTtl`. Keys that another call in this
   * process is computing are waited for. Those that another process is computing are not: they are computed here too, by
   * the same call of `load`, and not kept. A few keys more in one question to a database cost less than to wait for
   * somebody else and then, for those that never came, to ask once more. Where one computation everywhere matters, ask
   * key by key with `getOrElse`.
   */
  readonly getOrElseMany: <E2, R>(
    keys: ReadonlyArray<string>,
    load: (missing: ReadonlyArray<string>) => Effect.Effect<Iterable<readonly [key: string, value: A]>, E2, R>,
    options?: WriteOptions
  ) => Effect.Effect<ReadonlyArray<Option.Option<A>>, E | E2, R>
  /** The entries in the order of the keys. */
  readonly getMany: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Option.Option<A>>, E>
  readonly setMany: (
    entries: Iterable<readonly [key: string, value: A]>,
    options?: WriteOptions
  ) => Effect.Effect<void, E>
  /** Makes every entry of the namespace that was written with one of these tags worthless, at once and everywhere. */
  readonly invalidateTags: (tags: ReadonlyArray<string>) => Effect.Effect<void, E>
  /**
   * Deletes every entry of the namespace and says how many (0 with `clearBy: "generation"`, which deletes none but makes
   * all of them worthless). Entries written meanwhile may stay, and those that cannot be reached do.
   */
  readonly clear: Effect.Effect<number, E>
  readonly stats: Effect.Effect<Stats>
}
