/**
 * What a lock says and is asked: its errors, leases, options, and what an adapter does. Everything here is part of
 * `Lock`.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/**
 * Why a lock could not be had or kept.
 *
 * - `NotAcquired`: somebody else had it for as long as the caller was willing to wait. Nothing was run.
 * - `Lost`: it was lost while it was held: the key is gone or another's, or no renewal came through in time. What it
 *   guarded was interrupted.
 * - `Stale`: a guarded resource has seen a later fencing token: this holder's time is over.
 * - `Unavailable`, `Timeout`: the store cannot be reached, or did not answer in time. Nothing was run.
 * - `Rejected`: the store answered with a refusal.
 * - `InvalidOptions`: the key or an option cannot be; nothing was sent.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "NotAcquired",
  "Lost",
  "Stale",
  "Unavailable",
  "Timeout",
  "Rejected",
  "InvalidOptions"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a lock. `outcome` says whether the operation can have taken effect: a lock whose answer never came
 * (`unknown`) may stay taken until its time to live is over. The message never holds a key.
 *
 * @since 0.1.0
 * @category errors
 */
export class LockError extends Schema.TaggedError<LockError>("@underlay/core/state/LockError")("LockError", {
  reason: Reason,
  method: Schema.String,
  description: Schema.String,
  outcome: Schema.Literal("not-done", "unknown"),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `Lock.${this.method}: ${this.description}${unknown}`
  }

  /**
   * Whether the same call can be made again: nothing was run under the lock yet. Not after `Lost`: what the lock guarded
   * was run in part, and only its author knows whether it may be run again.
   */
  get isRetryable(): boolean {
    return this.reason === "NotAcquired" || this.reason === "Unavailable" || this.reason === "Timeout"
  }
}

/**
 * A lock that is held: by whom, with which fencing token, and whether it still is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Lease {
  readonly key: string
  /**
   * Greater than the token of everyone who held this lock before. A resource that refuses smaller tokens than the
   * greatest it has seen is safe even from a holder who was frozen while the lock went to another.
   */
  readonly token: bigint
  /**
   * Whether the lock is held, by the monotonic clock of this process and without asking the store: true only while it
   * cannot have expired there.
   */
  readonly isHeld: Effect.Effect<boolean>
  /** Never succeeds; fails with `Lost` when the lock is lost. `Effect.raceFirst(work, lease.lost)` guards by hand. */
  readonly lost: Effect.Effect<never, LockError>
  /** Frees the lock before its scope closes. Says whether it was held until now; never fails, and may be repeated. */
  readonly release: Effect.Effect<boolean>
}

/**
 * The lock under which an effect runs, as `withLock` and its like provide it: an effect that needs this cannot be run
 * without a lock.
 *
 * The token has to be shown to the resource by whatever depends on the lock, reads too: who reads without it, computes and
 * writes with it can have read just before a late holder wrote, and then writes over that. A read that shows the token
 * first shuts out everyone who was before.
 *
 * ```ts
 * const load = Effect.flatMap(Lock.FencingToken, ({ token }) =>
 *   sql`update accounts set fence = ${token} where id = ${id} and fence <= ${token} returning balance`
 * )
 * const save = (balance: number) =>
 *   Effect.flatMap(Lock.FencingToken, ({ token }) =>
 *     sql`update accounts set balance = ${balance} where id = ${id} and fence <= ${token}`
 *   )
 * const program = lock.withLock(`account:${id}`)(Effect.flatMap(load, save))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export class FencingToken extends Context.Tag("@underlay/core/FencingToken")<FencingToken, Lease>() {}

/**
 * How a lock is asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface LockOptions {
  /**
   * How long the lock outlives a holder that is no more. A living holder renews it each third of this. Default: 10
   * seconds.
   */
  readonly ttl?: Duration.DurationInput | undefined
  /** How long to wait for it. 0: try once. Default: 5 seconds. */
  readonly wait?: Duration.DurationInput | "forever" | undefined
  /**
   * Whether it is had in the order of asking. Those who ask so go before those who do not; a waiter that is no more
   * holds up the others for some seconds. Without it whoever comes first when the lock is freed has it, which is faster.
   * Default: false.
   */
  readonly fair?: boolean | undefined
}

/**
 * How a permit is asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface PermitOptions extends LockOptions {
  /** How many can be held at once. All who use a key should say the same number; each is judged by its own. */
  readonly permits: number
}

/**
 * Runs an effect under a lock: once the lock is had, with the `FencingToken` provided, interrupted when it is lost.
 *
 * It succeeds only when the lock was held to the end. When the lock was lost it fails with `Lost`, also where the effect
 * came to its end before it could be interrupted; a failure of the effect itself goes first.
 *
 * Whether it was held to the end is what the store says when the lock is given back. Where that answer does not come, it
 * is what the holder's own clock says: the lock cannot have expired, so the effect succeeds. If somebody had taken the
 * lock away just before (a `DEL`, `FLUSHALL`, a fail-over), nobody told the holder. What must not happen then either has
 * to be kept out by the resource, with the token.
 *
 * @since 0.1.0
 * @category models
 */
export type Guard = <A, E, R>(
  effect: Effect.Effect<A, E, R>
) => Effect.Effect<A, E | LockError, Exclude<R, FencingToken>>

/**
 * What a lock service does. A key is one to 512 characters of well-formed Unicode without control characters and without
 * `{` and `}`. A lock is not reentrant: who asks for a lock that it holds waits for itself.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Runs an effect while nobody else has the lock of this key, neither to write nor to read. */
  readonly withLock: (key: string, options?: LockOptions) => Guard
  /**
   * Runs an effect while nobody writes: many readers may hold the lock at once. While a writer waits, no new reader gets
   * in before it.
   */
  readonly withReadLock: (key: string, options?: LockOptions) => Guard
  /** `withLock` by its other name: the one to pair with `withReadLock`. */
  readonly withWriteLock: (key: string, options?: LockOptions) => Guard
  /** Runs an effect with one of so many permits. Permits and locks of one key have nothing to do with one another. */
  readonly withPermit: (key: string, options: PermitOptions) => Guard
  /** Takes the lock for the life of the scope. */
  readonly acquire: (key: string, options?: LockOptions) => Effect.Effect<Lease, LockError, Scope.Scope>
  /** Takes a reader's lock for the life of the scope. */
  readonly acquireRead: (key: string, options?: LockOptions) => Effect.Effect<Lease, LockError, Scope.Scope>
  /** Takes a permit for the life of the scope. */
  readonly acquirePermit: (key: string, options: PermitOptions) => Effect.Effect<Lease, LockError, Scope.Scope>
}

/**
 * Options of every lock service.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The time to live of a lock that is asked for without one. Default: 10 seconds. */
  readonly ttl?: Duration.DurationInput | undefined
  /** How long to wait for a lock where nothing is said. Default: 5 seconds. */
  readonly wait?: Duration.DurationInput | "forever" | undefined
  /**
   * How often the store is asked whether locks that are held are still there, so that one that was taken away (`FLUSHALL`,
   * a fail-over, somebody's `DEL`) is known long before its next renewal. All locks of this service are asked for in one
   * go, and those that are held for a shorter time never are. Default: 50 milliseconds.
   */
  readonly watch?: Duration.DurationInput | undefined
}

/**
 * What is asked of a backend. `owner` is unique to one asking; times are in milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Request {
  readonly kind: "exclusive" | "shared" | "permit"
  readonly key: string
  readonly owner: string
  readonly ttl: number
  readonly fair: boolean
  /** How many permits there are; 1 for the other kinds. */
  readonly permits: number
}

/**
 * What became of one attempt. `retryAfter`: in how many milliseconds the lock is free at the latest if nobody renews it.
 *
 * @since 0.1.0
 * @category models
 */
export type Attempt =
  | { readonly _tag: "Granted"; readonly token: bigint }
  | { readonly _tag: "Refused"; readonly retryAfter: number }

/**
 * What hears that a lock may be free. `wake`: with the owner whose turn it is, or without where anybody may try.
 *
 * @since 0.1.0
 * @category models
 */
export interface Listener {
  readonly wake: (owner?: string) => void
  /** From now on everything is heard. */
  readonly ready: () => void
  /** What is said from now on is not heard, until the next `ready`. */
  readonly lost: () => void
}

/**
 * What an adapter does. `make` builds the whole port on it, so that every adapter has the same rules.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /**
   * Tries once. With a `patience` above 0 whoever is refused is remembered as waiting for so many milliseconds: others
   * wake it, a writer keeps new readers out, and one who asks fairly keeps its place.
   */
  readonly acquire: (request: Request, patience: number) => Effect.Effect<Attempt, LockError>
  /** Starts the times to live anew, of locks that are still their owners' only, and says of each whether it was. */
  readonly renew: (requests: ReadonlyArray<Request>) => Effect.Effect<ReadonlyArray<Either.Either<boolean, LockError>>>
  /** Says of each lock whether it is still its owner's, and changes nothing. */
  readonly check: (requests: ReadonlyArray<Request>) => Effect.Effect<ReadonlyArray<Either.Either<boolean, LockError>>>
  /** Frees what was granted, if it is still the owner's, and says whether it was. */
  readonly release: (request: Request) => Effect.Effect<boolean, LockError>
  /** Takes the request back, whatever became of it: frees what it may have got, and forgets that it waits. */
  readonly abandon: (request: Request) => Effect.Effect<void, LockError>
  /** Tells of locks that are freed, for the life of the scope. Without it, waiters look again from time to time. */
  readonly listen?: (
    request: Pick<Request, "kind" | "key">,
    listener: Listener
  ) => Effect.Effect<void, LockError, Scope.Scope>
}
