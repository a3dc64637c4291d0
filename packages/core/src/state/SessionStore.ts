/**
 * Sessions by id: JSON objects that live for a time, are changed without lost updates, and stay dead once they were
 * deleted. A port of the internal plane: no span, no log line and no metric per operation.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Broadcast from "../internal/broadcast.ts"
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as Instant from "../internal/instant.ts"
import * as PlainJson from "../internal/plainJson.ts"
import type { Hub, SessionEvent } from "../internal/sessions/events.ts"
import * as Ttl from "../internal/ttl.ts"

/**
 * A JSON value.
 *
 * @since 0.1.0
 * @category models
 */
export type Json = PlainJson.Json

/**
 * A session: a JSON object. Three fields have a meaning here: `last_activity`, an ISO 8601 instant that is added when a
 * session is written without it; `user_id`, the owner (a string or a number) by which sessions can be listed; and, in a
 * store with an absolute time to live, `created_at`, the ISO 8601 instant from which that counts.
 *
 * @since 0.1.0
 * @category models
 */
export type Session = { readonly [key: string]: Json }

/**
 * A session with its id, as `sessionsOf` lists them.
 *
 * @since 0.1.0
 * @category models
 */
export interface OwnedSession<A = Session> {
  readonly id: string
  readonly session: A
}

/**
 * Options of a write: the time to live, by default the store's own. Infinite, zero and negative times are refused.
 *
 * @since 0.1.0
 * @category models
 */
export interface WriteOptions {
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * Why a store could not do what it was asked.
 *
 * - `SessionGone`: the id was deleted or rotated away less than a minute ago, or the session's absolute time to live is
 *   over, and this write would bring it back.
 * - `SessionExists`: the id that a session was to be rotated to is taken.
 * - `LimitReached`: the owner has as many sessions as the store allows, and its rule is to refuse more.
 * - `InvalidId`, `InvalidTtl`, `InvalidSession`, `InvalidOptions`: the argument cannot be accepted; nothing was sent.
 * - `Corrupt`: what is stored is no session (only where corrupt entries are asked to fail).
 * - `Conflict`: an update or a rotation met another writer on every one of its attempts.
 * - `Unavailable`: the store cannot be reached, or takes no more work now.
 * - `Timeout`: the store did not answer in time.
 * - `Rejected`: the store answered with a refusal (authentication, memory, a read-only replica, …).
 *
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "SessionGone",
  "SessionExists",
  "LimitReached",
  "InvalidId",
  "InvalidTtl",
  "InvalidSession",
  "InvalidOptions",
  "Corrupt",
  "Conflict",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * A failure of a session store. `outcome` says whether the operation can have taken effect: it was `not-done`, or that
 * is `unknown` because the answer never came. The message never holds a session id or a session's content.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionStoreError extends Schema.TaggedError<SessionStoreError>("@underlay/core/state/SessionStoreError")(
  "SessionStoreError",
  {
    reason: Reason,
    method: Schema.String,
    description: Schema.String,
    outcome: Schema.Literal("not-done", "unknown"),
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `SessionStore.${this.method}: ${this.description}${unknown}`
  }

  /**
   * Whether the same call can be made again: the store was away, slow or contended, and doing it twice does no harm.
   */
  get isRetryable(): boolean {
    if (this.reason === "Conflict") return true
    if (this.reason !== "Unavailable" && this.reason !== "Timeout") return false
    return this.outcome === "not-done" || repeatable.has(this.method)
  }
}

/** The operations that may be done twice. The others (`create`, `update`, `rotate`) would do something else. */
const repeatable: ReadonlySet<string> = new Set([
  "get",
  "getAndTouch",
  "set",
  "delete",
  "deleteMany",
  "deleteAllOf",
  "exists",
  "extendTtl",
  "sessionsOf",
  "cleanUp"
])

/**
 * What a session store does. An id is one to 512 characters of well-formed Unicode without control characters and
 * without `{` and `}`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service<A = Session> {
  /** The session, or none when there is none, it has expired or it is corrupt. Does not prolong it. */
  readonly get: (id: string) => Effect.Effect<Option.Option<A>, SessionStoreError>
  /**
   * Writes a session, whatever was there, and starts its time to live anew. `SessionGone` when the id was deleted or
   * rotated away within the last minute: a slow request does not log a user in again.
   */
  readonly set: (id: string, session: A, options?: WriteOptions) => Effect.Effect<void, SessionStoreError>
  /** Writes a session only where there is none, and says whether it did. Allowed on an id that was deleted. */
  readonly create: (id: string, session: A, options?: WriteOptions) => Effect.Effect<boolean, SessionStoreError>
  /** Deletes a session and says whether there was one. For a minute the id cannot be written by `set` or `update`. */
  readonly delete: (id: string) => Effect.Effect<boolean, SessionStoreError>
  /** Whether the id is stored. */
  readonly exists: (id: string) => Effect.Effect<boolean, SessionStoreError>
  /**
   * Makes a session live at least `ttl` (the default time) from now, never shorter; says whether there is one.
   */
  readonly extendTtl: (id: string, ttl?: Duration.DurationInput) => Effect.Effect<boolean, SessionStoreError>
  /**
   * Reads a session and prolongs it. With a `ttl` its time to live becomes exactly that; without, at least the default
   * one, or what the store's `adaptiveTtl` says; a part of it that does not matter (`touchWhen`) may be missing then.
   */
  readonly getAndTouch: (id: string, ttl?: Duration.DurationInput) => Effect.Effect<Option.Option<A>, SessionStoreError>
  /**
   * Replaces a session by `f` of it, by compare-and-set: no update of another writer is lost, and `f` runs again when
   * there was one. Gives the new session; none when there is nothing to update. Keeps the remaining time to live
   * unless `ttl` is given. An `f` that returns its very argument writes nothing, a new time to live neither.
   */
  readonly update: (
    id: string,
    f: (session: A) => A,
    options?: WriteOptions
  ) => Effect.Effect<Option.Option<A>, SessionStoreError>
  /**
   * Moves a session to a new id (random unless given) with its remaining time to live, and kills the old id. Gives the
   * new id; none when there is no such session.
   */
  readonly rotate: (id: string, newId?: string) => Effect.Effect<Option.Option<string>, SessionStoreError>
  /** Deletes sessions and says how many there were. */
  readonly deleteMany: (ids: ReadonlyArray<string>) => Effect.Effect<number, SessionStoreError>
  /** The live sessions whose `user_id` is `owner`. */
  readonly sessionsOf: (owner: string) => Effect.Effect<ReadonlyArray<OwnedSession<A>>, SessionStoreError>
  /**
   * Deletes every session of an owner and says how many there were: sign out everywhere. A session that is rotated
   * meanwhile is found under its new id; one that is created meanwhile may stay or go.
   */
  readonly deleteAllOf: (owner: string) => Effect.Effect<number, SessionStoreError>
  /**
   * Tidies the store: drops corrupt entries and what expired sessions left behind, and gives the default time to live to
   * sessions that have none. It never touches a readable session that is to live. Without a `limit` it goes through the
   * whole store; with one it ends after about so many keys, and the report's `cursor` says where to go on.
   */
  readonly cleanUp: (options?: CleanUpOptions) => Effect.Effect<CleanUpReport, SessionStoreError>
  /**
   * What happens to the sessions in this process, from the moment on in which the stream runs. It does not end. While
   * nobody listens, no event is made.
   */
  readonly events: Stream.Stream<SessionEvent>
}

/**
 * How far `cleanUp` goes, and from where: `cursor` is that of the report before. One that the store does not know, or no
 * longer, begins anew.
 *
 * @since 0.1.0
 * @category models
 */
export interface CleanUpOptions {
  readonly cursor?: string | undefined
  readonly limit?: number | undefined
}

/**
 * What `cleanUp` did: keys that it looked at, corrupt entries that it removed, leftovers of sessions that are over
 * (expired ones in memory, entries of owner indexes), and sessions without a time to live that have one now. With a
 * `cursor` there is more to do.
 *
 * @since 0.1.0
 * @category models
 */
export interface CleanUpReport {
  readonly scanned: number
  readonly corrupt: number
  readonly orphaned: number
  readonly immortal: number
  readonly cursor?: string
}

/**
 * The session store of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class SessionStore extends Context.Tag("@underlay/core/SessionStore")<SessionStore, Service>() {}

/**
 * A store of sessions of one type.
 *
 * @since 0.1.0
 * @category models
 */
export interface Typed<A> extends Service<A> {}

/**
 * Options of every session store.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The time to live of a session that is written without one. Default: 30 minutes. */
  readonly defaultTtl?: Duration.DurationInput | undefined
  /** What a corrupt entry is: `none` (one warning, then absent; the default) or `fail` (a typed failure). */
  readonly onCorrupt?: "none" | "fail" | undefined
  /** How long a deleted id refuses `set` and `update`. Default: 60 seconds. */
  readonly tombstone?: Duration.DurationInput | undefined
  /** How often `update` and `rotate` try when they meet other writers. Default: 2,048. */
  readonly updateAttempts?: number | undefined
  /**
   * A session never lives longer than this after its creation, whatever touches or writes it. The creation is kept as
   * `created_at` in the session: set when it is written without one, never moved afterwards, carried along by `rotate`.
   * Default: none; then nothing is added to sessions.
   */
  readonly absoluteTtl?: Duration.DurationInput | undefined
  /**
   * The part of the time to live, from 0 to below 1, that must be over before a `getAndTouch` without a time prolongs a
   * session: what is read many times a minute is not written each time. Default: 0.05, which is the first minute and a
   * half of half an hour. 0 always prolongs.
   */
  readonly touchWhen?: number | undefined
  /**
   * How long a session lives after a `getAndTouch` without a time, judged by the session: see `SessionTtl`. Default: the
   * default time to live for all.
   */
  readonly adaptiveTtl?: ((session: Session, now: number) => Duration.Duration) | undefined
  /** How many sessions an owner can have at once. Default: any number. */
  readonly maxSessions?: MaxSessions | undefined
}

/**
 * A limit of sessions that one owner has at the same time. A session more is refused as `LimitReached` (`reject`), or
 * takes the place of the owner's oldest one (`evict-oldest`, the default): of the one that was the owner's for longest,
 * also under other ids. Never more than `limit` live at once, however many log in together. Only sessions count that were
 * written by a store with this option or that stand in the owner's index.
 *
 * @since 0.1.0
 * @category models
 */
export interface MaxSessions {
  readonly limit: number
  readonly onLimit?: "evict-oldest" | "reject" | undefined
}

/**
 * What an adapter stores: JSON texts by id, with an owner beside them. `make` builds the whole port on it, so that
 * every adapter has the same rules. Times are whole milliseconds; an owner is the decoded `user_id`. The adapter itself
 * heeds `absoluteTtl` and `maxSessions`, for only the store can do so atomically; `createdIn` and `withCreated` help.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  readonly get: (id: string) => Effect.Effect<string | undefined, SessionStoreError>
  /** Reads and prolongs. */
  readonly getAndTouch: (id: string, touch: Touch) => Effect.Effect<string | undefined, SessionStoreError>
  readonly set: (entry: Entry) => Effect.Effect<Written, SessionStoreError>
  /** `Exists` when there is such a session; otherwise removes the tombstone. */
  readonly create: (entry: Entry) => Effect.Effect<Written, SessionStoreError>
  /**
   * Replaces exactly the text `expected`. `ttl` undefined keeps the remaining one. `current` is the text that was met
   * instead of the expected one.
   */
  readonly replace: (replacement: Replacement) => Effect.Effect<Replaced, SessionStoreError>
  /** Whether the id has a tombstone. */
  readonly isGone: (id: string) => Effect.Effect<boolean, SessionStoreError>
  /** Deletes, leaves a tombstone of `tombstone` milliseconds on every id, and says of each whether it was there. */
  readonly delete: (
    ids: ReadonlyArray<string>,
    tombstone: number,
    method: string
  ) => Effect.Effect<ReadonlyArray<boolean>, SessionStoreError>
  readonly exists: (id: string) => Effect.Effect<boolean, SessionStoreError>
  /** Sets the time to live: exactly (`exact`), or never to less than what remains. */
  readonly extendTtl: (id: string, ttl: number, exact: boolean) => Effect.Effect<boolean, SessionStoreError>
  readonly rotate: (rotation: Rotation) => Effect.Effect<Rotated, SessionStoreError>
  /** What the owner index holds: each id with its text, undefined when there is no such session any more. */
  readonly owned: (
    owner: string
  ) => Effect.Effect<ReadonlyArray<readonly [id: string, json: string | undefined]>, SessionStoreError>
  /** Drops ids from the index that turned out not to be the owner's. */
  readonly disown: (owner: string, ids: ReadonlyArray<string>) => Effect.Effect<void, SessionStoreError>
  /** See `Service.cleanUp`. `limit` is a whole number or infinite, `ttl` what an entry without one is given. */
  readonly cleanUp: (options: {
    readonly cursor: string | undefined
    readonly limit: number
    readonly ttl: number
    readonly isSession: (json: string) => boolean
  }) => Effect.Effect<CleanUpReport, SessionStoreError>
  /** Ids of sessions whose time ran out, where the store can tell by itself. */
  readonly expired?: Stream.Stream<string> | undefined
}

/**
 * A session on its way into a backend. With an absolute time to live `json` begins with `created_at` (see `createdIn`),
 * and `stamped` says that nobody gave one: the backend puts in its own time. Of a session that is there already the
 * stored creation stays. With `watched` somebody wants to know whether the session is new.
 *
 * @since 0.1.0
 * @category models
 */
export interface Entry {
  readonly id: string
  readonly json: string
  readonly ttl: number
  readonly owner: string | undefined
  readonly stamped: boolean
  readonly watched: boolean
}

/**
 * How a read prolongs a session: to `ttl`, exactly or never to less than what remains. It is left alone when what remains
 * is at least `keep` (and, where it is to be exact, not more than `ttl`).
 *
 * @since 0.1.0
 * @category models
 */
export interface Touch {
  readonly ttl: number
  readonly exact: boolean
  readonly keep: number
}

/**
 * What became of a write. `isNew` is true only where the entry was watched and took nobody's place; `evicted` are the
 * owner's sessions that made room. `Limit`: the owner has too many. `Over`: the absolute time to live is over already.
 *
 * @since 0.1.0
 * @category models
 */
export type Written =
  | { readonly _tag: "Written"; readonly isNew: boolean; readonly evicted: ReadonlyArray<string> }
  | { readonly _tag: "Exists" }
  | { readonly _tag: "Gone" }
  | { readonly _tag: "Limit" }
  | { readonly _tag: "Over" }

/**
 * A compare-and-set: `json` in place of exactly `expected`. `previousOwner` is the owner in the expected text.
 *
 * @since 0.1.0
 * @category models
 */
export interface Replacement {
  readonly id: string
  readonly expected: string
  readonly json: string
  readonly ttl: number | undefined
  readonly owner: string | undefined
  readonly previousOwner: string | undefined
}

/**
 * What became of a compare-and-set.
 *
 * @since 0.1.0
 * @category models
 */
export type Replaced =
  | { readonly _tag: "Done"; readonly evicted?: ReadonlyArray<string> }
  | { readonly _tag: "Changed"; readonly current: string }
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Gone" }
  | { readonly _tag: "Limit" }

/**
 * A rotation: `expected` is the text that was read under the old id and `owner` its owner; `tombstone` is in
 * milliseconds. Nothing is moved unless that text is still there: its owner must be the one that is indexed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Rotation {
  readonly from: string
  readonly to: string
  readonly expected: string
  readonly owner: string | undefined
  readonly tombstone: number
}

/**
 * What became of a rotation.
 *
 * @since 0.1.0
 * @category models
 */
export type Rotated = Exclude<Replaced, { readonly _tag: "Limit" }> | { readonly _tag: "Taken" }

/**
 * `maxSessions` as a backend needs it: the limit (none is infinite) and whether the oldest gives way. Fails with
 * `InvalidOptions`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const limitOf = (
  options: Options
): Effect.Effect<{ readonly limit: number; readonly evicts: boolean }, SessionStoreError> => {
  const limit = options.maxSessions?.limit
  if (limit === undefined) return Effect.succeed({ limit: Number.POSITIVE_INFINITY, evicts: false })
  return Number.isInteger(limit) && limit >= 1
    ? Effect.succeed({ limit, evicts: options.maxSessions?.onLimit !== "reject" })
    : failure("InvalidOptions", "make", "the limit of an owner's sessions must be a whole number of at least one")
}

/**
 * `absoluteTtl` in milliseconds as a backend needs it, undefined where there is none. Fails with `InvalidTtl`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const absoluteTtlOf = (options: Options): Effect.Effect<number | undefined, SessionStoreError> =>
  options.absoluteTtl === undefined ? Effect.succeed(undefined) : ttlOf("make", options.absoluteTtl)

/**
 * When a stored session was created by its `created_at`, in milliseconds since 1970; undefined where it says nothing
 * readable. What a store with an absolute time to live writes begins with it, so that this does not read the whole.
 *
 * @since 0.1.0
 * @category combinators
 */
export const createdIn = (json: string): number | undefined => {
  if (json.startsWith(createdPrefix)) return Instant.parse(json.slice(createdPrefix.length, createdEnd))
  const session = PlainJson.parse(json)
  return PlainJson.isObject(session) ? createdOf(session) : undefined
}

/**
 * The text of a session that begins with its `created_at`, with another one.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withCreated = (json: string, at: number): string =>
  `${createdPrefix}${new Date(at).toISOString()}${json.slice(createdEnd)}`

const createdPrefix = '{"created_at":"'

/** An instant of `toISOString` has 24 letters. */
const createdEnd = createdPrefix.length + 24

/**
 * A new session id: 256 random bits of the platform's cryptographic generator, in 43 URL-safe characters.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeId: Effect.Effect<string> = Effect.sync(() => {
  const bytes = crypto.getRandomValues(new Uint8Array(32))
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "")
})

/**
 * The owner in a stored text, as adapters need it for their index; undefined where there is none, and in a text that is
 * no session.
 *
 * @since 0.1.0
 * @category combinators
 */
export const ownerIn = (json: string): string | undefined => {
  const session = PlainJson.parse(json)
  return PlainJson.isObject(session) ? ownerOf(session) : undefined
}

/**
 * Builds the port on a backend: checks arguments, writes and reads JSON, adds `last_activity`, finds the owner, runs
 * the compare-and-set of `update`, applies the rule for corrupt entries and tells what happens to whoever listens. Fails
 * with `InvalidTtl` or `InvalidOptions` on options that cannot be.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend, options: Options = {}): Effect.Effect<Service, SessionStoreError> =>
  Effect.gen(function* () {
    const defaultTtl = yield* ttlOf("make", options.defaultTtl ?? "30 minutes")
    const tombstone = yield* ttlOf("make", options.tombstone ?? "60 seconds")
    const attempts = Math.max(1, Math.floor(options.updateAttempts ?? 2_048) || 1)
    const touchWhen = options.touchWhen ?? 0.05
    if (!(touchWhen >= 0 && touchWhen < 1)) {
      return yield* failure("InvalidOptions", "make", "touchWhen must be a number from 0 to below 1")
    }
    yield* limitOf(options)
    const created = (yield* absoluteTtlOf(options)) === undefined ? undefined : "own"
    const policy = options.adaptiveTtl
    const hub: Hub = Broadcast.make<SessionEvent>()
    const corrupt = corruptRule(options.onCorrupt ?? "none", hub)

    // what this process knows of sessions, only while somebody listens
    const watch = watcher(hub, backend)

    /** The session in a text; undefined where it is none. */
    const sessionIn = (id: string, value: PlainJson.Json | undefined): Session | undefined => {
      if (!PlainJson.isObject(value)) return undefined
      if (hub.isActive()) watch.saw(id, ownerOf(value))
      return value
    }

    const unreadable = (method: string, id: string, value: PlainJson.Json | undefined) =>
      corrupt(method, id, value === undefined ? "content" : "format", "no JSON object")

    const decode = (
      method: string,
      id: string,
      json: string
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> => {
      const value = PlainJson.parse(json)
      const session = sessionIn(id, value)
      return session === undefined ? unreadable(method, id, value) : Effect.succeed(Option.some(session))
    }

    const read = (
      method: string,
      id: string,
      text: Effect.Effect<string | undefined, SessionStoreError>
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
      Effect.matchEffect(text, {
        onFailure: (error) =>
          error.reason === "Corrupt" ? corrupt(method, id, "content", error.description, error) : Effect.fail(error),
        onSuccess: (json) => (json === undefined ? absent(id) : decode(method, id, json))
      })

    const absent = (id: string): Effect.Effect<Option.Option<never>> =>
      hub.isActive() ? Effect.as(watch.missed(id), Option.none()) : Effect.succeedNone

    // one suspension and one step after the answer: this is the hot path
    const write = <A>(
      method: string,
      id: string,
      session: Session,
      ttl: Duration.DurationInput | undefined,
      run: (entry: Entry) => Effect.Effect<Written, SessionStoreError>,
      done: Effect.Effect<A>,
      exists: Effect.Effect<A>
    ): Effect.Effect<A, SessionStoreError> => {
      const problem = idProblem(id)
      if (problem !== undefined) return invalidId(method, problem)
      const millis = ttl === undefined ? defaultTtl : ttlIn(method, ttl)
      if (typeof millis !== "number") return Effect.fail(millis)
      const at = (now: number): Effect.Effect<A, SessionStoreError> => {
        const encoded = encode(method, session, created, now)
        if ("reason" in encoded) return Effect.fail(encoded)
        const { json, owner, stamped } = encoded
        const watched = hub.isActive()
        return Effect.flatMap(run({ id, json, ttl: millis, owner, stamped, watched }), (written) => {
          switch (written._tag) {
            case "Written":
              return watched
                ? Effect.zipRight(watch.wrote(id, owner, millis, written.isNew, written.evicted), done)
                : done
            case "Exists":
              return exists
            case "Gone":
              return gone(method)
            case "Limit":
              return limitReached(method)
            case "Over":
              return over(method)
          }
        })
      }
      return created === undefined && hasActivity(session)
        ? Effect.suspend(() => at(0))
        : Effect.flatMap(Clock.currentTimeMillis, at)
    }

    const withId = <A>(
      method: string,
      id: string,
      f: () => Effect.Effect<A, SessionStoreError>
    ): Effect.Effect<A, SessionStoreError> => {
      const problem = idProblem(id)
      return problem === undefined ? f() : invalidId(method, problem)
    }

    /**
     * Updates of a session of which one met another writer go one by one in this process: else each of many would write
     * only after all the others had failed. Empty while nobody meets anybody.
     */
    const lines = new Map<string, { readonly turn: Effect.Semaphore; length: number }>()

    const inLine = <A>(id: string, effect: Effect.Effect<A, SessionStoreError>): Effect.Effect<A, SessionStoreError> =>
      Effect.uninterruptibleMask((restore) => {
        const line = lines.get(id) ?? { turn: Effect.unsafeMakeSemaphore(1), length: 0 }
        lines.set(id, line)
        line.length++
        return Effect.ensuring(
          restore(line.turn.withPermits(1)(effect)),
          Effect.sync(() => {
            if (--line.length === 0) lines.delete(id)
          })
        )
      })

    const attempt = (
      id: string,
      f: (session: Session) => Session,
      ttl: number | undefined,
      current: string,
      left: number,
      isInLine: boolean
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
      // a defect of `f` is this effect's
      Effect.suspend(() => {
        const value = PlainJson.parse(current)
        const before = sessionIn(id, value)
        if (before === undefined) return unreadable("update", id, value)
        const next = f(before)
        // nothing changes: there is nothing to write
        if (next === before) return Effect.succeedSome(before)
        const previousOwner = ownerOf(before)
        const createdThen = created === undefined ? undefined : (createdOf(before) ?? "own")
        const at = (now: number): Effect.Effect<Option.Option<Session>, SessionStoreError> => {
          const encoded = encode("update", next, createdThen, now)
          if ("reason" in encoded) return Effect.fail(encoded)
          const { json, owner, session } = encoded
          return Effect.flatMap(
            backend.replace({ id, json, ttl, owner, previousOwner, expected: current }),
            (result) => {
              switch (result._tag) {
                case "Done":
                  return hub.isActive()
                    ? Effect.as(watch.wrote(id, owner, ttl, false, result.evicted ?? []), Option.some(session))
                    : Effect.succeedSome(session)
                case "Absent":
                  return absent(id)
                case "Gone":
                  return gone("update")
                case "Limit":
                  return limitReached("update")
                case "Changed":
                  if (result.current === current) return corrupt("update", id, "content", incomparable)
                  if (left <= 1) return failure("Conflict", "update", `other writers won all ${attempts} attempts`)
                  if (isInLine) return attempt(id, f, ttl, result.current, left - 1, true)
                  return inLine(
                    id,
                    lines.has(id)
                      ? toChange("update", id, (then) => attempt(id, f, ttl, then, left - 1, true))
                      : attempt(id, f, ttl, result.current, left - 1, true)
                  )
              }
            }
          )
        }
        return createdThen === undefined && hasActivity(next) ? at(0) : Effect.flatMap(Clock.currentTimeMillis, at)
      })

    /** The text of a session that is to be changed; a failure by the rule of corrupt entries, or `SessionGone`. */
    const toChange = <A>(
      method: string,
      id: string,
      f: (current: string) => Effect.Effect<Option.Option<A>, SessionStoreError>
    ): Effect.Effect<Option.Option<A>, SessionStoreError> =>
      Effect.matchEffect(backend.get(id), {
        onFailure: (error) =>
          error.reason === "Corrupt"
            ? corrupt(method, id, "content", error.description, error)
            : Effect.fail(renamed(error, method, "not-done")),
        onSuccess: (current) => {
          if (current !== undefined) return f(current)
          return Effect.matchEffect(backend.isGone(id), {
            onFailure: (error) => Effect.fail(renamed(error, method, "not-done")),
            onSuccess: (isGone) => (isGone ? gone(method) : absent(id))
          })
        }
      })

    const move = (
      from: string,
      to: string,
      current: string,
      left: number
    ): Effect.Effect<Option.Option<string>, SessionStoreError> =>
      Effect.flatMap(decode("rotate", from, current), (session) => {
        if (Option.isNone(session)) return Effect.succeedNone
        const owner = ownerOf(session.value)
        return Effect.flatMap(backend.rotate({ from, to, expected: current, owner, tombstone }), (result) => {
          switch (result._tag) {
            case "Done":
              return hub.isActive() ? Effect.as(watch.moved(from, to, owner), Option.some(to)) : Effect.succeedSome(to)
            case "Absent":
              return absent(from)
            case "Gone":
              return gone("rotate")
            case "Taken":
              return failure("SessionExists", "rotate", "the new id is taken")
            case "Changed":
              if (result.current === current) return corrupt("rotate", from, "content", incomparable)
              return left > 1
                ? move(from, to, result.current, left - 1)
                : failure("Conflict", "rotate", `other writers won all ${attempts} attempts`)
          }
        })
      })

    const deleteMany = (ids: ReadonlyArray<string>, method: string): Effect.Effect<number, SessionStoreError> => {
      for (const id of ids) {
        const problem = idProblem(id)
        if (problem !== undefined) return invalidId(method, problem)
      }
      if (ids.length === 0) return Effect.succeed(0)
      const all = ids.length === 1 ? ids : [...new Set(ids)]
      return Effect.flatMap(backend.delete(all, tombstone, method), (were) => {
        let count = 0
        for (const was of were) if (was) count++
        return hub.isActive() ? Effect.as(watch.deleted(all, were), count) : Effect.succeed(count)
      })
    }

    /** What the index of an owner holds: the owner's live sessions, and ids that are not or no longer the owner's. */
    const owned = (owner: string, method: string) =>
      Effect.mapBoth(backend.owned(owner), {
        onFailure: (error) => renamed(error, method),
        onSuccess: (entries) => {
          const sessions: Array<OwnedSession> = []
          const strangers: Array<string> = []
          for (const [id, json] of entries) {
            const session = json === undefined ? undefined : PlainJson.parse(json)
            if (PlainJson.isObject(session) && ownerOf(session) === owner) sessions.push({ id, session })
            else strangers.push(id)
          }
          return { sessions, strangers }
        }
      })

    /** The index heals here, or later: that it cannot now is no failure of what was asked. */
    const disown = (owner: string, ids: ReadonlyArray<string>): Effect.Effect<void> =>
      ids.length === 0 ? Effect.void : Effect.ignore(backend.disown(owner, ids))

    const deleteAllOf = (
      owner: string,
      seen: ReadonlySet<string>,
      count: number,
      rounds: number
    ): Effect.Effect<number, SessionStoreError> =>
      Effect.flatMap(owned(owner, "deleteAllOf"), ({ sessions, strangers }) => {
        const ids = sessions.map((one) => one.id)
        const all = [...ids, ...strangers]
        return Effect.flatMap(deleteMany(ids, "deleteAllOf"), (deleted) => {
          const total = count + deleted
          // whatever was not there any more may have been rotated: then its new id is in the index by now
          const vanished = deleted < ids.length || strangers.some((id) => !seen.has(id))
          return vanished && rounds > 1
            ? deleteAllOf(owner, new Set([...seen, ...all]), total, rounds - 1)
            : Effect.as(disown(owner, [...new Set([...seen, ...all])]), total)
        })
      })

    const plainTouch: Touch = { ttl: defaultTtl, exact: false, keep: Math.ceil(defaultTtl * (1 - touchWhen)) }

    /**
     * What the policy said last of sessions for which it did not say what it says of active ones. A touch guesses by it,
     * so that it takes a second round trip only where the policy changes its mind.
     */
    const guesses = new Map<string, number>()

    /** A touch by the policy: with a guess, and once more where the session that comes back shows it to be wrong. */
    const adaptiveTouch = (
      id: string,
      policy: (session: Session, now: number) => Duration.Duration
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.flatMap(ttlOf("getAndTouch", policy({ last_activity: new Date(now).toISOString() }, now)), (active) => {
          const guess = guesses.get(id) ?? active
          const touch: Touch = { ttl: guess, exact: true, keep: Math.ceil(guess * (1 - touchWhen)) }
          const touched = read("getAndTouch", id, backend.getAndTouch(id, touch))
          return Effect.flatMap(touched, (session): Effect.Effect<Option.Option<Session>, SessionStoreError> => {
            if (Option.isNone(session)) return Effect.succeed(session)
            return Effect.flatMap(ttlOf("getAndTouch", policy(session.value, now)), (wanted) => {
              if (wanted === guess) return Effect.succeed(session)
              guesses.delete(id)
              if (wanted !== active) remember(guesses, id, wanted)
              return Effect.mapBoth(backend.extendTtl(id, wanted, true), {
                onSuccess: () => session,
                onFailure: (error) => renamed(error, "getAndTouch")
              })
            })
          })
        })
      )

    const getAndTouch = (
      id: string,
      ttl: Duration.DurationInput | undefined
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> => {
      if (ttl !== undefined) {
        return Effect.flatMap(ttlOf("getAndTouch", ttl), (millis) =>
          read("getAndTouch", id, backend.getAndTouch(id, { ttl: millis, exact: true, keep: millis }))
        )
      }
      return policy === undefined
        ? read("getAndTouch", id, backend.getAndTouch(id, plainTouch))
        : adaptiveTouch(id, policy)
    }

    const known = (id: string, there: Effect.Effect<boolean, SessionStoreError>) =>
      hub.isActive() ? Effect.tap(there, (is) => (is ? Effect.void : watch.missed(id))) : there

    return {
      get: (id) => withId("get", id, () => read("get", id, backend.get(id))),
      set: (id, session, options) => write("set", id, session, options?.ttl, backend.set, Effect.void, Effect.void),
      create: (id, session, options) =>
        write("create", id, session, options?.ttl, backend.create, succeedTrue, succeedFalse),
      delete: (id) => Effect.map(deleteMany([id], "delete"), (count) => count > 0),
      exists: (id) => withId("exists", id, () => known(id, backend.exists(id))),
      extendTtl: (id, ttl) =>
        withId("extendTtl", id, () =>
          known(
            id,
            ttl === undefined
              ? backend.extendTtl(id, defaultTtl, false)
              : Effect.flatMap(ttlOf("extendTtl", ttl), (millis) => backend.extendTtl(id, millis, false))
          )
        ),
      getAndTouch: (id, ttl) => withId("getAndTouch", id, () => getAndTouch(id, ttl)),
      update: (id, f, options) =>
        withId("update", id, () => {
          const ttl = options?.ttl === undefined ? undefined : ttlIn("update", options.ttl)
          if (typeof ttl === "object") return Effect.fail(ttl)
          return Effect.suspend(() => {
            const isInLine = lines.has(id)
            const change = toChange("update", id, (current) => attempt(id, f, ttl, current, attempts, isInLine))
            return isInLine ? inLine(id, change) : change
          })
        }),
      rotate: (id, newId) =>
        withId("rotate", id, () =>
          Effect.flatMap(newId === undefined ? makeId : Effect.succeed(newId), (to) => {
            const problem = idProblem(to)
            if (problem !== undefined) return invalidId("rotate", problem)
            if (to === id) return failure("SessionExists", "rotate", "the new id is the old one")
            return toChange("rotate", id, (current) => move(id, to, current, attempts))
          })
        ),
      deleteMany: (ids) => deleteMany(ids, "deleteMany"),
      sessionsOf: (owner) =>
        Effect.flatMap(owned(owner, "sessionsOf"), ({ sessions, strangers }) =>
          Effect.as(disown(owner, strangers), sessions)
        ),
      deleteAllOf: (owner) => deleteAllOf(owner, new Set(), 0, signOutRounds),
      cleanUp: (options) => {
        const limit = options?.limit ?? Number.POSITIVE_INFINITY
        if (!(limit >= 1)) return failure("InvalidOptions", "cleanUp", "the limit must be a number of at least one")
        return Effect.tap(
          backend.cleanUp({ cursor: options?.cursor, limit: Math.floor(limit), ttl: defaultTtl, isSession }),
          ({ cursor: _, ...counts }) =>
            hub.isActive()
              ? Effect.map(Clock.currentTimeMillis, (at) => hub.emit({ _tag: "CleanedUp", ...counts, at }))
              : Effect.void
        )
      },
      events: watch.events
    }
  })

const succeedTrue: Effect.Effect<boolean> = Effect.succeed(true)
const succeedFalse: Effect.Effect<boolean> = Effect.succeed(false)

const isSession = (json: string): boolean => PlainJson.isObject(PlainJson.parse(json))

/** What a process remembers of sessions at most. */
const rememberedSessions = 50_000

const remember = <A>(all: Map<string, A>, id: string, value: A): void => {
  all.delete(id)
  if (all.size >= rememberedSessions) {
    for (const oldest of all.keys()) {
      all.delete(oldest)
      break
    }
  }
  all.set(id, value)
}

/** What a listener wants to know, and what must be known for it. Everything here is called only while somebody listens. */
const watcher = (hub: Hub, backend: Backend) => {
  interface Known {
    readonly owner: string | undefined
    readonly ttl: number | undefined
  }
  const sessions = new Map<string, Known>()
  /** Expired sessions of which it was said: the store and a reader may both find out. */
  const said = new Map<string, true>()

  const emit = (event: (at: number) => SessionEvent): Effect.Effect<void> =>
    Effect.map(Clock.currentTimeMillis, (at) => hub.emit(event(at)))

  const ownerField = (owner: string | undefined) => (owner === undefined ? {} : { owner })

  const expired = (id: string, at: number): SessionEvent => {
    const known = sessions.get(id)
    sessions.delete(id)
    remember(said, id, true)
    return {
      _tag: "Expired",
      id,
      ...ownerField(known?.owner),
      ...(known?.ttl === undefined ? {} : { ttl: known.ttl }),
      at
    }
  }

  const deleted = (id: string, owner: string | undefined, reason: "request" | "limit", at: number): void => {
    const known = sessions.get(id)
    sessions.delete(id)
    hub.emit({ _tag: "Deleted", id, ...ownerField(owner ?? known?.owner), reason, at })
  }

  const saw = (id: string, owner: string | undefined): void =>
    remember(sessions, id, { owner, ttl: sessions.get(id)?.ttl })

  return {
    /** A session was read. */
    saw,
    /** A session was written. */
    wrote: (
      id: string,
      owner: string | undefined,
      ttl: number | undefined,
      isNew: boolean,
      evicted: ReadonlyArray<string>
    ): Effect.Effect<void> =>
      Effect.map(Clock.currentTimeMillis, (at) => {
        for (const one of evicted) deleted(one, owner, "limit", at)
        said.delete(id)
        remember(sessions, id, { owner, ttl: ttl ?? sessions.get(id)?.ttl })
        if (isNew) hub.emit({ _tag: "Created", id, ...ownerField(owner), at })
      }),
    /** A session was looked for and is not there. */
    missed: (id: string): Effect.Effect<void> => {
      if (!sessions.has(id)) return Effect.void
      return Effect.matchEffect(backend.isGone(id), {
        // not known now: whoever looks next may know
        onFailure: () => Effect.void,
        onSuccess: (isGone) => {
          // another fiber may have said it meanwhile, or have written a new one
          if (!isGone && sessions.has(id)) return emit((at) => expired(id, at))
          sessions.delete(id)
          return Effect.void
        }
      })
    },
    moved: (from: string, to: string, owner: string | undefined): Effect.Effect<void> =>
      emit((at) => {
        const ttl = sessions.get(from)?.ttl
        sessions.delete(from)
        said.delete(to)
        remember(sessions, to, { owner, ttl })
        return { _tag: "Rotated", id: from, newId: to, ...ownerField(owner), at }
      }),
    deleted: (ids: ReadonlyArray<string>, were: ReadonlyArray<boolean>): Effect.Effect<void> =>
      Effect.map(Clock.currentTimeMillis, (at) => {
        ids.forEach((id, index) => {
          if (were[index] === true) deleted(id, undefined, "request", at)
          else sessions.delete(id)
        })
      }),
    events:
      backend.expired === undefined
        ? hub.stream
        : Stream.merge(
            hub.stream,
            Stream.filterMapEffect(backend.expired, (id) =>
              said.has(id) ? Option.none() : Option.some(Effect.map(Clock.currentTimeMillis, (at) => expired(id, at)))
            )
          )
  }
}

/**
 * A store whose sessions are of one type, as a layer of its own tag over the application's session store. The schema
 * encodes to a JSON object; the owner is the encoded `user_id`. An entry that does not decode is a corrupt one: to a
 * reader one warning and none, or with `onCorrupt: "fail"` a typed failure. An `update` of it fails with `Corrupt` and
 * writes nothing; `set` writes over it.
 *
 * ```ts
 * class Visits extends Context.Tag("app/Visits")<Visits, SessionStore.Typed<Visit>>() {}
 * const VisitsLive = SessionStore.typed(Visits, Visit)   // Layer<Visits, never, SessionStore>
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const typed = <Self, A, I extends object>(
  tag: Context.Tag<Self, Typed<A>>,
  schema: Schema.Schema<A, I>,
  options: Pick<Options, "onCorrupt"> = {}
): Layer.Layer<Self, never, SessionStore> =>
  Layer.effect(
    tag,
    Effect.map(SessionStore, (store) => makeTyped(store, schema, options))
  )

/**
 * The typed view of a store, as a value. See `typed`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeTyped = <A, I extends object>(
  store: Service,
  schema: Schema.Schema<A, I>,
  options: Pick<Options, "onCorrupt"> = {}
): Typed<A> => {
  const hub: Hub = Broadcast.make<SessionEvent>()
  const corrupt = corruptRule(options.onCorrupt ?? "none", hub)
  const decodeEither = Schema.decodeUnknownEither(schema)
  const encodeEither = Schema.encodeEither(schema)

  const decode = (method: string, id: string, session: Session): Effect.Effect<Option.Option<A>, SessionStoreError> => {
    const decoded = decodeEither(session)
    return Either.isRight(decoded)
      ? Effect.succeedSome(decoded.right)
      : corrupt(method, id, "format", `another shape than the schema's (${where(decoded.left)})`)
  }

  const encode = (method: string, session: A): Either.Either<Session, SessionStoreError> => {
    const encoded = encodeEither(session)
    return Either.isRight(encoded)
      ? // the schema encodes to an object; whether it is plain JSON is checked where it is written
        Either.right(encoded.right as unknown as Session)
      : Either.left(
          error("InvalidSession", method, `the session does not encode by its schema (${where(encoded.left)})`)
        )
  }

  const decodeOption = (method: string, id: string) => (session: Option.Option<Session>) =>
    Option.isNone(session) ? Effect.succeedNone : decode(method, id, session.value)

  return {
    get: (id) => Effect.flatMap(store.get(id), decodeOption("get", id)),
    set: (id, session, write) => Effect.flatMap(encode("set", session), (value) => store.set(id, value, write)),
    create: (id, session, write) =>
      Effect.flatMap(encode("create", session), (value) => store.create(id, value, write)),
    delete: store.delete,
    exists: store.exists,
    extendTtl: store.extendTtl,
    getAndTouch: (id, ttl) => Effect.flatMap(store.getAndTouch(id, ttl), decodeOption("getAndTouch", id)),
    update: (id, f, write) =>
      // what the schema does not know (last_activity, fields of another program) stays as it is
      Effect.flatMap(
        Effect.suspend(() => {
          let problem: SessionStoreError | undefined
          return Effect.flatMap(
            store.update(
              id,
              (session) => {
                problem = undefined
                const decoded = decodeEither(session)
                if (Either.isLeft(decoded)) {
                  problem = error("Corrupt", "update", `another shape than the schema's (${where(decoded.left)})`)
                  return session
                }
                const next = f(decoded.right)
                if (next === decoded.right) return session
                const encoded = encode("update", next)
                if (Either.isLeft(encoded)) {
                  problem = encoded.left
                  return session
                }
                return { ...unknownTo(session, encode("update", decoded.right)), ...encoded.right }
              },
              write
            ),
            (session) => (problem === undefined ? Effect.succeed(session) : Effect.fail(problem))
          )
        }),
        decodeOption("update", id)
      ),
    rotate: store.rotate,
    deleteMany: store.deleteMany,
    sessionsOf: (owner) =>
      Effect.flatMap(store.sessionsOf(owner), (sessions) =>
        Effect.map(
          Effect.forEach(sessions, ({ id, session }) =>
            Effect.map(decode("sessionsOf", id, session), (decoded) =>
              Option.map(decoded, (value): OwnedSession<A> => ({ id, session: value }))
            )
          ),
          (decoded) => decoded.filter(Option.isSome).map((one) => one.value)
        )
      ),
    deleteAllOf: store.deleteAllOf,
    cleanUp: store.cleanUp,
    events: Stream.merge(store.events, hub.stream)
  }
}

/**
 * A session store inside this process, by `Clock`: the same rules as every other, gone with the process. It holds at
 * most `capacity` sessions (default 100,000) and then gives up the one that was used least recently.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: {
  (): Layer.Layer<SessionStore>
  (options: MemoryOptions): Layer.Layer<SessionStore, SessionStoreError>
} = (options: MemoryOptions = {}): Layer.Layer<SessionStore> =>
  // options that are absent cannot be wrong: the first signature has no error for that reason
  Layer.effect(
    SessionStore,
    Effect.flatMap(memoryBackend(options), (backend) => make(backend, options))
  ) as Layer.Layer<SessionStore>

/**
 * Options of the store inside this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemoryOptions extends Options {
  readonly capacity?: number | undefined
}

const memoryBackend = (options: MemoryOptions): Effect.Effect<Backend, SessionStoreError> =>
  Effect.gen(function* () {
    const { evicts, limit } = yield* limitOf(options)
    const absolute = yield* absoluteTtlOf(options)
    const tombstoneTtl = yield* ttlOf("make", options.tombstone ?? "60 seconds")
    const capacity = options.capacity ?? 100_000

    interface Stored {
      json: string
      owner: string | undefined
      /** When it became its owner's, as a place in a row. */
      since: number
    }
    let turn = 0
    const owners = new Map<string, Set<string>>()
    const forget = (id: string, stored: Stored): void => {
      if (stored.owner === undefined) return
      const ids = owners.get(stored.owner)
      ids?.delete(id)
      if (ids?.size === 0) owners.delete(stored.owner)
    }
    const sessions = new ExpiringMap<Stored>(capacity, forget)
    const tombstones = new ExpiringMap<true>(capacity)
    const put = (id: string, stored: Stored, expiresAt: number, now: number): void => {
      sessions.set(id, stored, expiresAt, now)
      if (stored.owner === undefined) return
      const ids = owners.get(stored.owner)
      if (ids === undefined) owners.set(stored.owner, new Set([id]))
      else ids.add(id)
    }
    const atNow = <A>(f: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, f)

    /** What of a time to live is left before the absolute one is over: not more than nothing when it is. */
    const capped = (json: string, ttl: number, now: number): number => {
      if (absolute === undefined) return ttl
      const created = createdIn(json)
      return created === undefined ? Math.min(ttl, absolute) : Math.min(ttl, created + absolute - now)
    }

    const prolong = (id: string, { exact, keep, ttl }: Touch, now: number): boolean => {
      const expiry = sessions.expiryOf(id, now)
      const stored = sessions.get(id, now)
      if (expiry === undefined || stored === undefined) return false
      const cap = capped(stored.json, ttl, now)
      if (cap <= 0) {
        sessions.delete(id, now)
        return false
      }
      const left = expiry - now
      const wanted = exact ? cap : Math.max(left, cap)
      if (left >= keep && left <= wanted) return true
      return sessions.expireAt(id, now + wanted, now)
    }

    /** Makes room for one more session of an owner; undefined where there is none to be had. */
    const admit = (id: string, owner: string | undefined, now: number): ReadonlyArray<string> | undefined => {
      if (owner === undefined || limit === Number.POSITIVE_INFINITY) return noIds
      const others = [...(owners.get(owner) ?? [])].flatMap((other) => {
        const stored = other === id ? undefined : sessions.peek(other, now)
        return stored === undefined ? [] : [{ id: other, since: stored.since }]
      })
      if (others.length < limit) return noIds
      if (!evicts) return undefined
      others.sort((a, b) => a.since - b.since)
      const evicted = others.slice(0, others.length - limit + 1).map((other) => other.id)
      for (const other of evicted) bury(other, tombstoneTtl, now)
      return evicted
    }

    const bury = (id: string, tombstone: number, now: number): boolean => {
      const was = sessions.delete(id, now)
      tombstones.set(id, true, now + tombstone, now)
      return was
    }

    const write = ({ id, json, owner, stamped, ttl }: Entry, old: Stored | undefined, now: number): Written => {
      const created = absolute === undefined ? undefined : old === undefined ? undefined : createdIn(old.json)
      const text =
        absolute === undefined
          ? json
          : withCreated(json, created ?? (stamped ? now : Math.min(now, createdIn(json) ?? now)))
      const cap = capped(text, ttl, now)
      if (cap <= 0) return { _tag: "Over" }
      const stays = old !== undefined && old.owner === owner
      const evicted = stays ? noIds : admit(id, owner, now)
      if (evicted === undefined) return { _tag: "Limit" }
      put(id, { json: text, owner, since: stays ? old.since : turn++ }, now + cap, now)
      return { _tag: "Written", isNew: old === undefined, evicted }
    }

    return {
      get: (id) => atNow((now) => sessions.get(id, now)?.json),
      getAndTouch: (id, touch) => atNow((now) => (prolong(id, touch, now) ? sessions.get(id, now)?.json : undefined)),
      set: (entry) =>
        atNow(
          (now): Written =>
            tombstones.has(entry.id, now) ? { _tag: "Gone" } : write(entry, sessions.get(entry.id, now), now)
        ),
      create: (entry) =>
        atNow((now): Written => {
          if (sessions.has(entry.id, now)) return { _tag: "Exists" }
          const written = write(entry, undefined, now)
          if (written._tag === "Written") tombstones.delete(entry.id, now)
          return written
        }),
      replace: ({ expected, id, json, owner, ttl }) =>
        atNow((now): Replaced => {
          const expiry = sessions.expiryOf(id, now)
          const stored = sessions.get(id, now)
          if (stored === undefined || expiry === undefined) {
            return { _tag: tombstones.has(id, now) ? "Gone" : "Absent" }
          }
          if (stored.json !== expected) return { _tag: "Changed", current: stored.json }
          const cap = capped(json, ttl ?? expiry - now, now)
          if (cap <= 0) {
            sessions.delete(id, now)
            return { _tag: "Absent" }
          }
          const stays = stored.owner === owner
          const evicted = stays ? noIds : admit(id, owner, now)
          if (evicted === undefined) return { _tag: "Limit" }
          put(id, { json, owner, since: stays ? stored.since : turn++ }, now + cap, now)
          return { _tag: "Done", evicted }
        }),
      isGone: (id) => atNow((now) => tombstones.has(id, now)),
      delete: (ids, tombstone) => atNow((now) => ids.map((id) => bury(id, tombstone, now))),
      exists: (id) => atNow((now) => sessions.has(id, now)),
      extendTtl: (id, ttl, exact) => atNow((now) => prolong(id, { ttl, exact, keep: ttl }, now)),
      rotate: ({ expected, from, to, tombstone }) =>
        atNow((now): Rotated => {
          const expiry = sessions.expiryOf(from, now)
          const stored = sessions.get(from, now)
          if (stored === undefined || expiry === undefined) {
            return { _tag: tombstones.has(from, now) ? "Gone" : "Absent" }
          }
          if (stored.json !== expected) return { _tag: "Changed", current: stored.json }
          if (sessions.has(to, now)) return { _tag: "Taken" }
          bury(from, tombstone, now)
          tombstones.delete(to, now)
          put(to, stored, expiry, now)
          return { _tag: "Done" }
        }),
      owned: (owner) =>
        atNow((now) => [...(owners.get(owner) ?? [])].map((id) => [id, sessions.get(id, now)?.json] as const)),
      // the index here is exact
      disown: () => Effect.void,
      cleanUp: ({ cursor, limit }) =>
        atNow((now) => {
          // in the order of ids, so that a cursor means something in a store that goes on changing
          const ids = [...sessions.keys()].filter((id) => cursor === undefined || id > cursor).sort()
          const page = ids.slice(0, limit)
          const orphaned = page.filter((id) => !sessions.has(id, now)).length
          const last = page[page.length - 1]
          return {
            scanned: page.length,
            corrupt: 0,
            orphaned,
            immortal: 0,
            ...(page.length < ids.length && last !== undefined ? { cursor: last } : {})
          }
        })
    }
  })

const noIds: ReadonlyArray<string> = []

/** A session can be rotated while its owner is signed out, but hardly this often in a row. */
const signOutRounds = 8

const incomparable = "its text cannot be compared with itself, for it is not valid UTF-8"

const idProblem = (id: string): string | undefined => {
  if (id.length === 0) return "a session id cannot be empty"
  if (id.length > 512) return "a session id cannot be longer than 512 characters"
  // two of these would be one key where ids are kept as UTF-8
  if (loneSurrogate.test(id)) return "a session id must be well-formed Unicode"
  // braces would move a session's companions to another slot of a cluster
  return forbiddenInId.test(id) ? "a session id cannot hold control characters, { or }" : undefined
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const forbiddenInId = /[\u0000-\u001f\u007f{}]/

const loneSurrogate = /\p{Surrogate}/u

const error = (reason: Reason, method: string, description: string, cause?: unknown): SessionStoreError =>
  new SessionStoreError({
    reason,
    method,
    description,
    outcome: "not-done",
    ...(cause === undefined ? {} : { cause })
  })

const renamed = (
  original: SessionStoreError,
  method: string,
  outcome: SessionStoreError["outcome"] = original.outcome
): SessionStoreError =>
  new SessionStoreError({
    reason: original.reason,
    method,
    description: original.description,
    outcome,
    ...(original.cause === undefined ? {} : { cause: original.cause })
  })

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, SessionStoreError> =>
  Effect.fail(error(reason, method, description))

const invalidId = (method: string, problem: string) => failure("InvalidId", method, problem)

const over = (method: string) => failure("SessionGone", method, "the session's absolute time to live is over")

const limitReached = (method: string) =>
  failure("LimitReached", method, "the owner has as many sessions as are allowed")

const gone = (method: string) =>
  failure("SessionGone", method, "the session was deleted or rotated away a moment ago and stays so")

const ttlIn = (method: string, ttl: Duration.DurationInput): number | SessionStoreError => {
  const millis = Ttl.millis(ttl)
  return Either.isRight(millis) ? millis.right : error("InvalidTtl", method, millis.left)
}

const ttlOf = (method: string, ttl: Duration.DurationInput): Effect.Effect<number, SessionStoreError> => {
  const millis = ttlIn(method, ttl)
  return typeof millis === "number" ? Effect.succeed(millis) : Effect.fail(millis)
}

const ownerOf = (session: Session): string | undefined => {
  const owner = session["user_id"]
  if (typeof owner === "number") return String(owner)
  return typeof owner === "string" && owner !== "" ? owner : undefined
}

/** What is written of a session, and what that is as a session again. */
interface Encoded {
  readonly json: string
  readonly owner: string | undefined
  readonly session: Session
  /** Nobody gave a `created_at`: the store's own time is to take its place. */
  readonly stamped: boolean
}

/** Whether a session can be written without knowing the time. What is no object is refused without it, too. */
const hasActivity = (session: Session): boolean =>
  typeof session !== "object" || session === null || session["last_activity"] !== undefined

/**
 * Checks and writes a session. With an absolute time to live (`created` is not undefined) the text begins with
 * `created_at`: the one that is given here, else the session's own, else a place for the store's time.
 */
const encode = (
  method: string,
  session: Session,
  created: number | "own" | undefined,
  now: number
): Encoded | SessionStoreError => {
  const problem = PlainJson.isObject(session) ? PlainJson.problemOf(session) : "it is not an object"
  if (problem !== undefined) return error("InvalidSession", method, `a session must be a JSON object: ${problem}`)
  const stamped: Session =
    session["last_activity"] === undefined ? { ...session, last_activity: new Date(now).toISOString() } : session
  if (created === undefined) {
    const owner = ownerOf(stamped)
    // whose it is stands first, so that a store can tell by the beginning of the text
    const ordered = owner === undefined || firstOf(stamped) === "user_id" ? stamped : ownerFirst(stamped)
    return { json: JSON.stringify(ordered), owner, session: stamped, stamped: false }
  }
  const own = created === "own" ? createdOf(session) : created
  const { created_at: _, ...rest } = stamped
  const text = JSON.stringify(rest)
  const at = new Date(own ?? now).toISOString()
  return {
    // by hand: a field whose name is a number would stand before it
    json: `${createdPrefix}${at}"${text === "{}" ? "}" : `,${text.slice(1)}`}`,
    owner: ownerOf(stamped),
    session: { created_at: at, ...rest },
    stamped: own === undefined
  }
}

const firstOf = (session: Session): string | undefined => {
  for (const key in session) return key
  return undefined
}

const ownerFirst = ({ user_id = null, ...rest }: Session): Session => ({ user_id, ...rest })

/** The creation in a session, if it can be written in four digits of years. */
const createdOf = (session: Session): number | undefined => {
  const text = session["created_at"]
  const at = typeof text === "string" ? Instant.parse(text) : undefined
  return at !== undefined && at >= firstYear && at < yearTenThousand ? at : undefined
}

const firstYear = Date.parse("0001-01-01T00:00:00.000Z")

const yearTenThousand = Date.UTC(10_000, 0)

/** Fields of a stored session that its schema does not know. */
const unknownTo = (session: Session, known: Either.Either<Session, SessionStoreError>): Session =>
  Either.isLeft(known)
    ? {}
    : Object.fromEntries(Object.entries(session).filter(([key]) => !Object.hasOwn(known.right, key)))

/** Where a schema refused a value. The value itself stays out: it is a session's content. */
const where = (problem: ParseResult.ParseError): string => {
  const paths = ParseResult.ArrayFormatter.formatErrorSync(problem).map((issue) => issue.path.map(String).join("."))
  return `at ${[...new Set(paths.map((path) => (path === "" ? "the root" : path)))].join(", ")}`
}

/** One warning an entry, however often it is read; one event in its place where somebody listens. */
const corruptRule = (rule: "none" | "fail", hub: Hub) => {
  const warned = new Set<string>()
  return (
    method: string,
    id: string,
    problem: "content" | "format",
    what: string,
    cause?: SessionStoreError
  ): Effect.Effect<Option.Option<never>, SessionStoreError> => {
    const result =
      rule === "fail"
        ? Effect.fail(error("Corrupt", method, `the stored entry is corrupt: ${what}`, cause))
        : Effect.succeedNone
    const isActive = hub.isActive()
    if ((rule === "fail" && !isActive) || warned.has(id)) return result
    if (warned.size >= 1_000) warned.clear()
    warned.add(id)
    return Effect.zipRight(
      isActive
        ? Effect.map(Clock.currentTimeMillis, (at) => hub.emit({ _tag: "Corrupt", id, problem, what, at }))
        : Effect.logWarning("a stored session is corrupt and counts as absent", {
            session: `${id.slice(0, 4)}…`,
            what
          }),
      result
    )
  }
}
