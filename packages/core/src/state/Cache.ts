/**
 * Caches: typed handles over one backend. An unreachable cache is a miss, counted; a value of another shape is a miss;
 * concurrent misses of a key run its computation once. A port of the internal plane: nothing is emitted per operation.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as Ttl from "../internal/ttl.ts"

/**
 * Why a cache could not do what it was asked.
 *
 * - `InvalidOptions`: a handle's namespace, time to live or jitter cannot be.
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
 * What keeps the entries: texts by full key, with a time to live in whole milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /** The texts in the order of the keys, undefined where there is none or none that can be read. */
  readonly getMany: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<string | undefined>, CacheError>
  readonly get: (key: string) => Effect.Effect<string | undefined, CacheError>
  readonly set: (key: string, value: string, ttl: number) => Effect.Effect<void, CacheError>
  readonly setMany: (entries: ReadonlyArray<BackendEntry>) => Effect.Effect<void, CacheError>
  readonly delete: (key: string) => Effect.Effect<boolean, CacheError>
  /** Deletes every key that begins with `prefix` and gives their number. Not atomic. */
  readonly clear: (prefix: string) => Effect.Effect<number, CacheError>
}

/**
 * One entry of `setMany`.
 *
 * @since 0.1.0
 * @category models
 */
export interface BackendEntry {
  readonly key: string
  readonly value: string
  readonly ttl: number
}

/**
 * The backend of an application's caches.
 *
 * @since 0.1.0
 * @category tags
 */
export class Cache extends Context.Tag("@underlay/core/Cache")<Cache, Backend>() {}

/**
 * Options of a handle.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A, I> {
  /** Entries are kept at `cache:<namespace>:<key>`. Letters, digits, `.`, `_` and `-`. */
  readonly namespace: string
  /** How long an entry lives. Default: 10 minutes. */
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
}

/**
 * Options of one write.
 *
 * @since 0.1.0
 * @category models
 */
export interface WriteOptions {
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * Plain counters of a handle since it was made.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly hits: number
  readonly misses: number
  /** Computations that `getOrElse` ran. */
  readonly loads: number
  /** Calls of `getOrElse` that waited for another call's computation. */
  readonly joined: number
  readonly writes: number
  /** Entries that did not decode and counted as misses. */
  readonly corrupt: number
  /** Calls that the backend failed. */
  readonly unreachable: number
  /** Values that were not kept: they did not encode, or their time to live cannot be. */
  readonly refused: number
}

/**
 * A cache of values of one type. `E` is `never` unless the handle is strict.
 *
 * @since 0.1.0
 * @category models
 */
export interface CacheHandle<A, E = never> {
  readonly namespace: string
  readonly get: (key: string) => Effect.Effect<Option.Option<A>, E>
  readonly set: (key: string, value: A, options?: WriteOptions) => Effect.Effect<void, E>
  /** Whether there was an entry. A computation of the key that this handle is running will not be kept. */
  readonly delete: (key: string) => Effect.Effect<boolean, E>
  /**
   * The entry, or what `compute` gives, which is then kept. Concurrent calls for one key share one computation in this
   * process; when the call that runs it is interrupted, a waiting one takes over. A failure is shared and not kept.
   * A computation that asks for its own key waits for itself.
   */
  readonly getOrElse: <E2, R>(
    key: string,
    compute: Effect.Effect<A, E2, R>,
    options?: WriteOptions
  ) => Effect.Effect<A, E | E2, R>
  /** The entries in the order of the keys. */
  readonly getMany: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Option.Option<A>>, E>
  readonly setMany: (
    entries: Iterable<readonly [key: string, value: A]>,
    options?: WriteOptions
  ) => Effect.Effect<void, E>
  /** Deletes every entry of the namespace and says how many. Entries written meanwhile may stay. */
  readonly clear: Effect.Effect<number, E>
  readonly stats: Effect.Effect<Stats>
}

/**
 * Makes a handle on the application's cache. Fails with `InvalidOptions` on options that cannot be.
 *
 * ```ts
 * const users = yield* Cache.make({ namespace: "users", ttl: "5 minutes", schema: User })
 * const user = yield* users.getOrElse(id, loadUser(id))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: {
  <A, I>(
    options: Options<A, I> & { readonly strict: true }
  ): Effect.Effect<CacheHandle<A, CacheError>, CacheError, Cache>
  <A, I>(
    options: Options<A, I> & { readonly strict?: false | undefined }
  ): Effect.Effect<CacheHandle<A>, CacheError, Cache>
} = <A, I>(options: Options<A, I>): Effect.Effect<CacheHandle<A, never>, CacheError, Cache> =>
  Effect.flatMap(Cache, (backend) => makeHandle(backend, options))

/**
 * A class that is at once the tag of a named cache and has its layer.
 *
 * ```ts
 * class Users extends Cache.tag("app/Users", { namespace: "users", schema: User })<Users>() {}
 * const program = Effect.flatMap(Users, (users) => users.get("42")).pipe(Effect.provide(Users.layer))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string, A, I>(id: Id, options: Options<A, I> & { readonly strict?: false | undefined }) =>
  <Self>(): HandleTag<Self, Id, A> => {
    const base = Context.Tag(id)<Self, CacheHandle<A>>()
    // a getter, so that the layer is of the class that extends this one
    const descriptor: PropertyDescriptor & ThisType<Context.Tag<Self, CacheHandle<A>>> = {
      get() {
        return Layer.effect(this, make(options))
      }
    }
    Reflect.defineProperty(base, "layer", descriptor)
    return base as HandleTag<Self, Id, A>
  }

/**
 * The class that `tag` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface HandleTag<Self, Id extends string, A> extends Context.TagClass<Self, Id, CacheHandle<A>> {
  readonly layer: Layer.Layer<Self, CacheError, Cache>
}

interface Flight {
  readonly result: Deferred.Deferred<Exit.Exit<unknown, unknown> | undefined>
  /** The key was deleted or written meanwhile: what is computed may be stale, so it is not kept. */
  outdated: boolean
}

const makeHandle = <A, I>(backend: Backend, options: Options<A, I>): Effect.Effect<CacheHandle<A, never>, CacheError> =>
  Effect.gen(function* () {
    const invalid = (description: string) => failure("InvalidOptions", "make", description)
    if (!namespacePattern.test(options.namespace)) {
      return yield* invalid("a namespace is one to 128 letters, digits, dots, underscores and hyphens")
    }
    const jitter = options.jitter ?? 0.05
    if (!(jitter >= 0 && jitter <= 1)) return yield* invalid("the jitter must be between 0 and 1")
    const defaultTtl = Ttl.millis(options.ttl ?? "10 minutes")
    if (Either.isLeft(defaultTtl)) return yield* invalid(defaultTtl.left)

    const strict = options.strict === true
    const prefix = `cache:${options.namespace}:`
    const decodeEither = Schema.decodeUnknownEither(Schema.parseJson(options.schema))
    const encodeEither = Schema.encodeEither(Schema.parseJson(options.schema))
    const flights = new Map<string, Flight>()
    const stats = { hits: 0, misses: 0, loads: 0, joined: 0, writes: 0, corrupt: 0, unreachable: 0, refused: 0 }

    /** A failing backend: counted, and a failure only where the handle is strict. */
    const orElse = <B>(effect: Effect.Effect<B, CacheError>, otherwise: B): Effect.Effect<B> =>
      Effect.catchAll(effect, (error) => {
        if (error.reason === "InvalidValue" || error.reason === "InvalidTtl") stats.refused++
        else stats.unreachable++
        // the type of a strict handle has this error: see the signatures of make
        return strict ? (Effect.fail(error) as unknown as Effect.Effect<B>) : Effect.succeed(otherwise)
      })

    const decode = (text: string | undefined): Option.Option<A> => {
      if (text === undefined) {
        stats.misses++
        return Option.none()
      }
      const decoded = decodeEither(text)
      if (Either.isRight(decoded)) {
        stats.hits++
        return Option.some(decoded.right)
      }
      stats.misses++
      stats.corrupt++
      return Option.none()
    }

    const encode = (value: A, method: string): Effect.Effect<string, CacheError> => {
      const encoded = encodeEither(value)
      return Either.isRight(encoded)
        ? Effect.succeed(encoded.right)
        : failure("InvalidValue", method, "the value does not encode by the cache's schema")
    }

    const ttlOf = (ttl: Duration.DurationInput | undefined, method: string): Effect.Effect<number, CacheError> => {
      const millis = ttl === undefined ? defaultTtl : Ttl.millis(ttl)
      if (Either.isLeft(millis)) return failure("InvalidTtl", method, millis.left)
      if (jitter === 0) return Effect.succeed(millis.right)
      return Effect.map(Random.next, (part) => Math.max(1, Math.ceil(millis.right * (1 - jitter * part))))
    }

    const outdate = (key: string): void => {
      const flight = flights.get(key)
      if (flight === undefined) return
      flight.outdated = true
      flights.delete(key)
    }

    const put = (
      key: string,
      value: A,
      method: string,
      ttl: Duration.DurationInput | undefined,
      flight?: Flight
    ): Effect.Effect<void, CacheError> =>
      Effect.flatMap(encode(value, method), (text) =>
        Effect.flatMap(ttlOf(ttl, method), (millis) => {
          // asked last of all, so that nothing comes between this and the write
          if (flight?.outdated === true) return Effect.void
          stats.writes++
          return backend.set(prefix + key, text, millis)
        })
      )

    const get = (key: string): Effect.Effect<Option.Option<A>> =>
      Effect.map(orElse(backend.get(prefix + key), undefined), decode)

    const load = <E2, R>(
      key: string,
      flight: Flight,
      compute: Effect.Effect<A, E2, R>,
      write: WriteOptions | undefined
    ): Effect.Effect<A, E2, R> =>
      Effect.flatMap(get(key), (found) => {
        if (Option.isSome(found)) return Effect.succeed(found.value)
        stats.loads++
        return Effect.tap(compute, (value) => orElse(put(key, value, "getOrElse", write?.ttl, flight), undefined))
      })

    const getOrElse = <E2, R>(
      key: string,
      compute: Effect.Effect<A, E2, R>,
      write?: WriteOptions
    ): Effect.Effect<A, E2, R> =>
      // Looking, setting and seeing to the end are one step: an interruption between them would strand a flight for ever.
      Effect.uninterruptibleMask((restore) => {
        const running = flights.get(key)
        if (running !== undefined) {
          stats.joined++
          return Effect.flatMap(restore(Deferred.await(running.result)), (exit) =>
            // the call that ran it was interrupted: it is this one's turn, or another waiting one's
            exit === undefined ? restore(getOrElse(key, compute, write)) : (exit as Exit.Exit<A, E2>)
          )
        }
        const flight: Flight = { result: Deferred.unsafeMake(FiberId.none), outdated: false }
        flights.set(key, flight)
        return Effect.onExit(restore(load(key, flight, compute, write)), (exit) => {
          if (flights.get(key) === flight) flights.delete(key)
          const abandoned = Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
          return Deferred.succeed(flight.result, abandoned ? undefined : exit)
        })
      })

    return {
      namespace: options.namespace,
      get,
      set: (key, value, write) =>
        Effect.suspend(() => {
          outdate(key)
          return orElse(put(key, value, "set", write?.ttl), undefined)
        }),
      delete: (key) =>
        Effect.suspend(() => {
          outdate(key)
          return orElse(backend.delete(prefix + key), false)
        }),
      getOrElse,
      getMany: (keys) => {
        if (keys.length === 0) return Effect.succeed([])
        return Effect.map(
          orElse(
            backend.getMany(keys.map((key) => prefix + key)),
            keys.map(() => undefined)
          ),
          (texts) => texts.map(decode)
        )
      },
      setMany: (entries, write) =>
        Effect.suspend(() => {
          const all = [...entries]
          if (all.length === 0) return Effect.void
          for (const [key] of all) outdate(key)
          return orElse(
            Effect.flatMap(
              Effect.forEach(all, ([key, value]) =>
                Effect.zipWith(encode(value, "setMany"), ttlOf(write?.ttl, "setMany"), (text, ttl) => ({
                  key: prefix + key,
                  value: text,
                  ttl
                }))
              ),
              (encoded) => {
                stats.writes += encoded.length
                return backend.setMany(encoded)
              }
            ),
            undefined
          )
        }),
      clear: Effect.suspend(() => {
        for (const key of [...flights.keys()]) outdate(key)
        return orElse(backend.clear(prefix), 0)
      }),
      stats: Effect.sync(() => ({ ...stats }))
    }
  })

/**
 * A cache backend inside this process, by `Clock`. It holds at most `capacity` entries (default 10,000) over all
 * namespaces and then gives up the one that was used least recently.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: { readonly capacity?: number | undefined } = {}): Layer.Layer<Cache> =>
  Layer.sync(Cache, () => {
    const entries = new ExpiringMap<string>(options.capacity ?? 10_000)
    const atNow = <A>(f: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, f)
    return {
      get: (key) => atNow((now) => entries.get(key, now)),
      getMany: (keys) => atNow((now) => keys.map((key) => entries.get(key, now))),
      set: (key, value, ttl) => atNow((now) => entries.set(key, value, now + ttl, now)),
      setMany: (many) =>
        atNow((now) => {
          for (const { key, ttl, value } of many) entries.set(key, value, now + ttl, now)
        }),
      delete: (key) => atNow((now) => entries.delete(key, now)),
      clear: (prefix) =>
        atNow((now) => {
          let count = 0
          for (const key of [...entries.keys()]) if (key.startsWith(prefix) && entries.delete(key, now)) count++
          return count
        })
    }
  })

const namespacePattern = /^[A-Za-z0-9._-]{1,128}$/

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, CacheError> =>
  Effect.fail(new CacheError({ reason, method, description }))
