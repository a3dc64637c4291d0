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
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as PlainJson from "../internal/plainJson.ts"
import * as Ttl from "../internal/ttl.ts"

/**
 * A JSON value.
 *
 * @since 0.1.0
 * @category models
 */
export type Json = PlainJson.Json

/**
 * A session: a JSON object. Two fields have a meaning here: `last_activity`, an ISO 8601 instant that is added when a
 * session is written without it, and `user_id`, the owner (a string or a number) by which sessions can be listed.
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
 * - `SessionGone`: the id was deleted or rotated away less than a minute ago, and this write would bring it back.
 * - `SessionExists`: the id that a session was to be rotated to is taken.
 * - `InvalidId`, `InvalidTtl`, `InvalidSession`: the argument cannot be accepted; nothing was sent.
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
  "InvalidId",
  "InvalidTtl",
  "InvalidSession",
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
  "sessionsOf"
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
   * Reads a session and prolongs it in one round trip. With a `ttl` its time to live becomes exactly that; without,
   * at least the default one.
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
  /** How often `update` and `rotate` try when they meet other writers. Default: 256. */
  readonly updateAttempts?: number | undefined
}

/**
 * What an adapter stores: JSON texts by id, with an owner beside them. `make` builds the whole port on it, so that
 * every adapter has the same rules. Times are whole milliseconds; an owner is the decoded `user_id`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  readonly get: (id: string) => Effect.Effect<string | undefined, SessionStoreError>
  /** Reads and sets the time to live: exactly (`exact`), or never to less than what remains. */
  readonly getAndTouch: (
    id: string,
    ttl: number,
    exact: boolean
  ) => Effect.Effect<string | undefined, SessionStoreError>
  /** False when the id has a tombstone: nothing was written. */
  readonly set: (entry: Entry) => Effect.Effect<boolean, SessionStoreError>
  /** False when there is such a session. Removes the tombstone. */
  readonly create: (entry: Entry) => Effect.Effect<boolean, SessionStoreError>
  /**
   * Replaces exactly the text `expected`. `ttl` undefined keeps the remaining one. `current` is the text that was met
   * instead of the expected one.
   */
  readonly replace: (
    entry: Omit<Entry, "ttl"> & { readonly ttl: number | undefined; readonly expected: string }
  ) => Effect.Effect<Replaced, SessionStoreError>
  /** Whether the id has a tombstone. */
  readonly isGone: (id: string) => Effect.Effect<boolean, SessionStoreError>
  /** Deletes, leaves a tombstone of `tombstone` milliseconds on every id, and gives the number of deleted sessions. */
  readonly delete: (
    ids: ReadonlyArray<string>,
    tombstone: number,
    method: string
  ) => Effect.Effect<number, SessionStoreError>
  readonly exists: (id: string) => Effect.Effect<boolean, SessionStoreError>
  readonly extendTtl: (id: string, ttl: number) => Effect.Effect<boolean, SessionStoreError>
  readonly rotate: (rotation: Rotation) => Effect.Effect<Rotated, SessionStoreError>
  /** What the owner index holds: each id with its text, undefined when there is no such session any more. */
  readonly owned: (
    owner: string
  ) => Effect.Effect<ReadonlyArray<readonly [id: string, json: string | undefined]>, SessionStoreError>
  /** Drops ids from the index that turned out not to be the owner's. */
  readonly disown: (owner: string, ids: ReadonlyArray<string>) => Effect.Effect<void, SessionStoreError>
}

/**
 * A session on its way into a backend.
 *
 * @since 0.1.0
 * @category models
 */
export interface Entry {
  readonly id: string
  readonly json: string
  readonly ttl: number
  readonly owner: string | undefined
}

/**
 * What became of a compare-and-set.
 *
 * @since 0.1.0
 * @category models
 */
export type Replaced =
  | { readonly _tag: "Done" }
  | { readonly _tag: "Changed"; readonly current: string }
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Gone" }

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
export type Rotated = Replaced | { readonly _tag: "Taken" }

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
 * the compare-and-set of `update`, and applies the rule for corrupt entries. Fails with `InvalidTtl` on options that
 * cannot be.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend, options: Options = {}): Effect.Effect<Service, SessionStoreError> =>
  Effect.gen(function* () {
    const defaultTtl = yield* ttlOf("make", options.defaultTtl ?? "30 minutes")
    const tombstone = yield* ttlOf("make", options.tombstone ?? "60 seconds")
    const attempts = Math.max(1, Math.floor(options.updateAttempts ?? 256) || 1)
    const corrupt = corruptRule(options.onCorrupt ?? "none")

    const decode = (
      method: string,
      id: string,
      json: string
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> => {
      const value = PlainJson.parse(json)
      return PlainJson.isObject(value) ? Effect.succeed(Option.some(value)) : corrupt(method, id, "no JSON object")
    }

    const read = (
      method: string,
      id: string,
      text: Effect.Effect<string | undefined, SessionStoreError>
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
      Effect.matchEffect(text, {
        onFailure: (error) =>
          error.reason === "Corrupt" ? corrupt(method, id, error.description, error) : Effect.fail(error),
        onSuccess: (json) => (json === undefined ? Effect.succeedNone : decode(method, id, json))
      })

    const write = (
      method: string,
      id: string,
      session: Session,
      ttl: Duration.DurationInput | undefined,
      run: (entry: Entry) => Effect.Effect<boolean, SessionStoreError>
    ): Effect.Effect<boolean, SessionStoreError> => {
      const problem = idProblem(id)
      if (problem !== undefined) return invalidId(method, problem)
      return Effect.flatMap(ttl === undefined ? Effect.succeed(defaultTtl) : ttlOf(method, ttl), (millis) =>
        Effect.flatMap(encode(method, session), ({ json, owner }) => run({ id, json, ttl: millis, owner }))
      )
    }

    const withId = <A>(
      method: string,
      id: string,
      f: () => Effect.Effect<A, SessionStoreError>
    ): Effect.Effect<A, SessionStoreError> => {
      const problem = idProblem(id)
      return problem === undefined ? f() : invalidId(method, problem)
    }

    const attempt = (
      id: string,
      f: (session: Session) => Session,
      ttl: number | undefined,
      current: string,
      left: number
    ): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
      Effect.flatMap(decode("update", id, current), (decoded) => {
        if (Option.isNone(decoded)) return Effect.succeedNone
        const next = f(decoded.value)
        // nothing changes: there is nothing to write
        if (next === decoded.value) return Effect.succeed(decoded)
        return Effect.flatMap(encode("update", next), ({ json, owner, session }) =>
          Effect.flatMap(backend.replace({ id, json, ttl, owner, expected: current }), (result) => {
            switch (result._tag) {
              case "Done":
                return Effect.succeedSome(session)
              case "Absent":
                return Effect.succeedNone
              case "Gone":
                return gone("update")
              case "Changed":
                if (result.current === current) return corrupt("update", id, incomparable)
                return left > 1
                  ? attempt(id, f, ttl, result.current, left - 1)
                  : failure("Conflict", "update", `other writers won all ${attempts} attempts`)
            }
          })
        )
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
            ? corrupt(method, id, error.description, error)
            : Effect.fail(renamed(error, method, "not-done")),
        onSuccess: (current) => {
          if (current !== undefined) return f(current)
          return Effect.matchEffect(backend.isGone(id), {
            onFailure: (error) => Effect.fail(renamed(error, method, "not-done")),
            onSuccess: (isGone) => (isGone ? gone(method) : Effect.succeedNone)
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
        const rotation: Rotation = { from, to, expected: current, owner: ownerOf(session.value), tombstone }
        return Effect.flatMap(backend.rotate(rotation), (result) => {
          switch (result._tag) {
            case "Done":
              return Effect.succeedSome(to)
            case "Absent":
              return Effect.succeedNone
            case "Gone":
              return gone("rotate")
            case "Taken":
              return failure("SessionExists", "rotate", "the new id is taken")
            case "Changed":
              if (result.current === current) return corrupt("rotate", from, incomparable)
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
      return ids.length === 0 ? Effect.succeed(0) : backend.delete([...new Set(ids)], tombstone, method)
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

    return {
      get: (id) => withId("get", id, () => read("get", id, backend.get(id))),
      set: (id, session, options) =>
        Effect.flatMap(write("set", id, session, options?.ttl, backend.set), (written) =>
          written ? Effect.void : gone("set")
        ),
      create: (id, session, options) => write("create", id, session, options?.ttl, backend.create),
      delete: (id) => Effect.map(deleteMany([id], "delete"), (count) => count > 0),
      exists: (id) => withId("exists", id, () => backend.exists(id)),
      extendTtl: (id, ttl) =>
        withId("extendTtl", id, () =>
          ttl === undefined
            ? backend.extendTtl(id, defaultTtl)
            : Effect.flatMap(ttlOf("extendTtl", ttl), (millis) => backend.extendTtl(id, millis))
        ),
      getAndTouch: (id, ttl) =>
        withId("getAndTouch", id, () =>
          ttl === undefined
            ? read("getAndTouch", id, backend.getAndTouch(id, defaultTtl, false))
            : Effect.flatMap(ttlOf("getAndTouch", ttl), (millis) =>
                read("getAndTouch", id, backend.getAndTouch(id, millis, true))
              )
        ),
      update: (id, f, options) =>
        withId("update", id, () =>
          Effect.flatMap(
            options?.ttl === undefined ? Effect.succeed(undefined) : ttlOf("update", options.ttl),
            (ttl): Effect.Effect<Option.Option<Session>, SessionStoreError> =>
              toChange("update", id, (current) => attempt(id, f, ttl, current, attempts))
          )
        ),
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
      deleteAllOf: (owner) => deleteAllOf(owner, new Set(), 0, signOutRounds)
    }
  })

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
  const corrupt = corruptRule(options.onCorrupt ?? "none")
  const decodeEither = Schema.decodeUnknownEither(schema)
  const encodeEither = Schema.encodeEither(schema)

  const decode = (method: string, id: string, session: Session): Effect.Effect<Option.Option<A>, SessionStoreError> => {
    const decoded = decodeEither(session)
    return Either.isRight(decoded)
      ? Effect.succeedSome(decoded.right)
      : corrupt(method, id, `another shape than the schema's (${where(decoded.left)})`)
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
    deleteAllOf: store.deleteAllOf
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
    Effect.flatMap(memoryBackend(options.capacity ?? 100_000), (backend) => make(backend, options))
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

const memoryBackend = (capacity: number): Effect.Effect<Backend> =>
  Effect.sync(() => {
    interface Stored {
      json: string
      owner: string | undefined
    }
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
    const extend = (id: string, ttl: number, now: number): boolean => {
      const expiry = sessions.expiryOf(id, now)
      return expiry !== undefined && sessions.expireAt(id, Math.max(expiry, now + ttl), now)
    }

    return {
      get: (id) => atNow((now) => sessions.get(id, now)?.json),
      getAndTouch: (id, ttl, exact) =>
        atNow((now) => {
          if (exact) sessions.expireAt(id, now + ttl, now)
          else extend(id, ttl, now)
          return sessions.get(id, now)?.json
        }),
      set: ({ id, json, owner, ttl }) =>
        atNow((now) => {
          if (tombstones.has(id, now)) return false
          put(id, { json, owner }, now + ttl, now)
          return true
        }),
      create: ({ id, json, owner, ttl }) =>
        atNow((now) => {
          if (sessions.has(id, now)) return false
          tombstones.delete(id, now)
          put(id, { json, owner }, now + ttl, now)
          return true
        }),
      replace: ({ expected, id, json, owner, ttl }) =>
        atNow((now): Replaced => {
          const expiry = sessions.expiryOf(id, now)
          const stored = sessions.get(id, now)
          if (stored === undefined || expiry === undefined) {
            return { _tag: tombstones.has(id, now) ? "Gone" : "Absent" }
          }
          if (stored.json !== expected) return { _tag: "Changed", current: stored.json }
          put(id, { json, owner }, ttl === undefined ? expiry : now + ttl, now)
          return { _tag: "Done" }
        }),
      isGone: (id) => atNow((now) => tombstones.has(id, now)),
      delete: (ids, tombstone) =>
        atNow((now) => {
          let count = 0
          for (const id of ids) {
            if (sessions.delete(id, now)) count++
            tombstones.set(id, true, now + tombstone, now)
          }
          return count
        }),
      exists: (id) => atNow((now) => sessions.has(id, now)),
      extendTtl: (id, ttl) => atNow((now) => extend(id, ttl, now)),
      rotate: ({ expected, from, to, tombstone }) =>
        atNow((now): Rotated => {
          const expiry = sessions.expiryOf(from, now)
          const stored = sessions.get(from, now)
          if (stored === undefined || expiry === undefined) {
            return { _tag: tombstones.has(from, now) ? "Gone" : "Absent" }
          }
          if (stored.json !== expected) return { _tag: "Changed", current: stored.json }
          if (sessions.has(to, now)) return { _tag: "Taken" }
          sessions.delete(from, now)
          tombstones.set(from, true, now + tombstone, now)
          tombstones.delete(to, now)
          put(to, stored, expiry, now)
          return { _tag: "Done" }
        }),
      owned: (owner) =>
        atNow((now) => [...(owners.get(owner) ?? [])].map((id) => [id, sessions.get(id, now)?.json] as const)),
      // the index here is exact
      disown: () => Effect.void
    }
  })

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

const gone = (method: string) =>
  failure("SessionGone", method, "the session was deleted or rotated away a moment ago and stays so")

const ttlOf = (method: string, ttl: Duration.DurationInput): Effect.Effect<number, SessionStoreError> =>
  Either.match(Ttl.millis(ttl), {
    onLeft: (problem) => failure("InvalidTtl", method, problem),
    onRight: (millis) => Effect.succeed(millis)
  })

const ownerOf = (session: Session): string | undefined => {
  const owner = session["user_id"]
  if (typeof owner === "number") return String(owner)
  return typeof owner === "string" && owner !== "" ? owner : undefined
}

const encode = (
  method: string,
  session: Session
): Effect.Effect<
  { readonly json: string; readonly owner: string | undefined; readonly session: Session },
  SessionStoreError
> => {
  const problem = PlainJson.isObject(session) ? PlainJson.problemOf(session) : "it is not an object"
  if (problem !== undefined) return failure("InvalidSession", method, `a session must be a JSON object: ${problem}`)
  if (session["last_activity"] !== undefined) {
    return Effect.succeed({ json: JSON.stringify(session), owner: ownerOf(session), session })
  }
  return Effect.map(Clock.currentTimeMillis, (now) => {
    const stamped: Session = { ...session, last_activity: new Date(now).toISOString() }
    return { json: JSON.stringify(stamped), owner: ownerOf(stamped), session: stamped }
  })
}

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

/** One warning an entry, however often it is read. */
const corruptRule = (rule: "none" | "fail") => {
  const warned = new Set<string>()
  return (
    method: string,
    id: string,
    what: string,
    cause?: SessionStoreError
  ): Effect.Effect<Option.Option<never>, SessionStoreError> => {
    if (rule === "fail") return Effect.fail(error("Corrupt", method, `the stored entry is corrupt: ${what}`, cause))
    if (warned.has(id)) return Effect.succeedNone
    if (warned.size >= 1_000) warned.clear()
    warned.add(id)
    return Effect.as(
      Effect.logWarning("a stored session is corrupt and counts as absent", { session: `${id.slice(0, 4)}…`, what }),
      Option.none()
    )
  }
}
