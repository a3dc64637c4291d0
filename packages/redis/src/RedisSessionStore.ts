/**
 * Sessions in Redis: JSON at `session:<id>`, what goes with it at `{session:<id>}:…`, which a cluster keeps in the same
 * slot, and an index of each owner's sessions that heals itself. One round trip an operation (`update` two, `rotate`
 * three, more where several sessions of an owner are concerned); plain effects.
 *
 * @since 0.1.0
 */
import * as SessionStore from "@underlay/core/state/SessionStore"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * Options of the store.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends SessionStore.Options {
  /**
   * How long an owner's index outlives the sessions of that owner. A session that is kept alive by touches renews it each
   * time that half of this is over, with a second round trip then. Default: 30 days.
   */
  readonly indexTtl?: Duration.DurationInput | undefined
}

/**
 * The session store of core on the Redis client. Fails on options that cannot be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<SessionStore.SessionStore, SessionStore.SessionStoreError, RedisClient.RedisClient> =>
  Layer.effect(
    SessionStore.SessionStore,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The store as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: Options = {}
): Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError> =>
  Effect.flatMap(indexTtlOf(options), (indexTtl) => SessionStore.make(backend(client, indexTtl), options))

const indexTtlOf = (options: Options): Effect.Effect<number, SessionStore.SessionStoreError> => {
  const decoded = Duration.decodeUnknown(options.indexTtl ?? "30 days")
  const millis = Option.isNone(decoded) ? Number.NaN : Math.ceil(Duration.toMillis(decoded.value))
  return millis > 0 && millis <= longestIndexTtl
    ? Effect.succeed(millis)
    : Effect.fail(
        new SessionStore.SessionStoreError({
          reason: "InvalidTtl",
          method: "make",
          description: "the time to live of the owner index must be a duration longer than zero and at most a century",
          outcome: "not-done"
        })
      )
}

const longestIndexTtl = 100 * 366 * 24 * 60 * 60 * 1000

/** Sessions whose index entry this process knows to be fresh. More are forgotten, and then looked at once more. */
const knownSessions = 50_000

const key = (id: string): string => `session:${id}`
const tombstoneKey = (id: string): string => `{session:${id}}:gone`
const indexKey = (owner: string): string => `session-owner:${owner}`

const backend = (client: RedisClient.Service, indexTtl: number): SessionStore.Backend => {
  /**
   * Until when an index is known to hold a session's entry. A touch learns the owner from its answer; so that it does not
   * take two round trips each time, the index is renewed once half of its extra time is over.
   */
  const indexedUntil = new Map<string, number>()
  const indexed = (id: string, ttl: number): Effect.Effect<void> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      indexedUntil.delete(id)
      indexedUntil.set(id, now + ttl + indexTtl)
      if (indexedUntil.size <= knownSessions) return
      for (const oldest of indexedUntil.keys()) {
        indexedUntil.delete(oldest)
        return
      }
    })
  const isFresh = (id: string, ttl: number): Effect.Effect<boolean> =>
    Effect.map(Clock.currentTimeMillis, (now) => now + ttl + indexTtl / 2 <= (indexedUntil.get(id) ?? 0))

  const fails =
    (method: string) =>
    (error: RedisError): SessionStore.SessionStoreError =>
      new SessionStore.SessionStoreError({
        reason: error.reason === "WrongType" ? "Corrupt" : StoreErrors.reasonOf(error),
        method,
        description: StoreErrors.descriptionOf(error),
        outcome: StoreErrors.outcomeOf(error),
        cause: error
      })

  const text = (reply: RedisClient.Reply): string | undefined => (typeof reply === "string" ? reply : undefined)

  /** The index entry of a session. It is written before the session: an entry too many is harmless, one less is not. */
  const own = (owner: string, id: string, ttl: number): RedisClient.Step => ({
    script: ownScript,
    keys: [indexKey(owner)],
    args: [id, ttl + indexTtl]
  })

  /** A session was touched and this process does not know its index entry to be fresh. What fails here heals later. */
  const renew = (id: string, ttl: number, json: string | undefined): Effect.Effect<void> => {
    if (json === undefined) return Effect.void
    const owner = SessionStore.ownerIn(json)
    // who gives it an owner indexes it
    if (owner === undefined) return indexed(id, ttl)
    return Effect.flatMap(client.sendMany([own(owner, id, ttl)]), ([result]) =>
      result !== undefined && Either.isRight(result) ? indexed(id, ttl) : Effect.void
    )
  }

  /** A touch: two round trips only where this process has not seen the session yet, and every half of `indexTtl`. */
  const touching = <A>(
    id: string,
    ttl: number,
    method: string,
    touch: (fresh: boolean) => Effect.Effect<RedisClient.Reply, RedisError>,
    read: (reply: RedisClient.Reply) => A
  ): Effect.Effect<A, SessionStore.SessionStoreError> =>
    Effect.flatMap(isFresh(id, ttl), (fresh) =>
      Effect.flatMap(Effect.mapError(touch(fresh), fails(method)), (reply) =>
        fresh ? Effect.succeed(read(reply)) : Effect.as(renew(id, ttl, text(reply)), read(reply))
      )
    )

  /** The session is written and its index entry is not: says so, and that writing again is the cure. */
  const unindexed = (method: string, cause: RedisError): SessionStore.SessionStoreError => {
    const error = fails(method)(cause)
    return new SessionStore.SessionStoreError({
      reason: error.reason === "Corrupt" ? "Rejected" : error.reason,
      method,
      description: `the owner index was not written: ${error.description}`,
      outcome: "unknown",
      cause
    })
  }

  /** A write of a session and of its index entry, in one go. The index must be written too: sign-out relies on it. */
  const write = (
    method: string,
    { id, owner, ttl }: Pick<SessionStore.Entry, "id" | "owner"> & { readonly ttl: number | undefined },
    step: RedisClient.ScriptStep
  ): Effect.Effect<RedisClient.Reply, SessionStore.SessionStoreError> => {
    if (owner === undefined) {
      return Effect.mapError(client.run(step.script, step.keys, step.args), fails(method))
    }
    return Effect.flatMap(client.sendMany([own(owner, id, ttl ?? 0), step]), ([entry, written]) => {
      if (written === undefined || entry === undefined) return Effect.die("sendMany answers every step")
      if (Either.isLeft(written)) return Effect.fail(fails(method)(written.left))
      if (Either.isLeft(entry)) {
        return Effect.fail(unindexed(method, entry.left))
      }
      const old = Array.isArray(entry.right) ? entry.right.filter((one) => typeof one === "string") : []
      const done = Effect.as(indexed(id, ttl ?? 0), written.right)
      return old.length === 0 ? done : Effect.zipRight(heal(owner, old), done)
    })
  }

  /** A large index: looks at its oldest entries and drops those without a session. What fails here heals later. */
  const heal = (owner: string, ids: ReadonlyArray<string>): Effect.Effect<void> =>
    Effect.flatMap(client.sendMany(ids.map((id) => ["EXISTS", key(id)] as const)), (results) => {
      const steps: Array<RedisClient.Step> = []
      const dead: Array<string> = []
      ids.forEach((id, index) => {
        const result = results[index]
        if (result === undefined || Either.isLeft(result)) return
        if (result.right === 0) dead.push(id)
        else steps.push(own(owner, id, 0))
      })
      if (dead.length > 0) steps.push(disown(owner, dead))
      return Effect.asVoid(client.sendMany(steps))
    })

  const disown = (owner: string, ids: ReadonlyArray<string>): RedisClient.Step => ({
    script: disownScript,
    keys: [indexKey(owner)],
    args: [...ids]
  })

  return {
    get: (id) => Effect.mapBoth(client.send("GET", key(id)), { onSuccess: text, onFailure: fails("get") }),
    getAndTouch: (id, ttl, exact) =>
      touching(
        id,
        ttl,
        "getAndTouch",
        () => (exact ? client.send("GETEX", key(id), "PX", ttl) : client.run(touchScript, [key(id)], [ttl])),
        text
      ),
    set: (entry) =>
      Effect.map(
        write("set", entry, {
          script: setScript,
          keys: [key(entry.id), tombstoneKey(entry.id)],
          args: [entry.json, entry.ttl]
        }),
        (reply) => reply === 1
      ),
    create: (entry) =>
      Effect.map(
        write("create", entry, {
          script: createScript,
          keys: [key(entry.id), tombstoneKey(entry.id)],
          args: [entry.json, entry.ttl]
        }),
        (reply) => reply === 1
      ),
    replace: (entry) =>
      Effect.flatMap(
        write("update", entry, {
          script: replaceScript,
          keys: [key(entry.id), tombstoneKey(entry.id)],
          args: [entry.expected, entry.json, entry.ttl ?? 0]
        }),
        (reply): Effect.Effect<SessionStore.Replaced, SessionStore.SessionStoreError> => {
          if (typeof reply === "string") return Effect.succeed({ _tag: "Changed", current: reply })
          if (typeof reply !== "number" || reply <= 0) {
            return Effect.succeed({ _tag: reply === -1 ? "Gone" : "Absent" })
          }
          const done: SessionStore.Replaced = { _tag: "Done" }
          // the session lives on for so many milliseconds: longer than the index, if it has a new owner
          if (entry.owner === undefined || reply <= indexTtl / 2) return Effect.succeed(done)
          return Effect.mapBoth(
            Effect.flatMap(client.sendMany([own(entry.owner, entry.id, reply)]), StoreErrors.allReplies),
            { onSuccess: () => done, onFailure: (error) => unindexed("update", error) }
          )
        }
      ),
    isGone: (id) =>
      Effect.mapBoth(client.send("EXISTS", tombstoneKey(id)), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("update")
      }),
    delete: (ids, tombstone, method) =>
      Effect.mapBoth(
        Effect.forEach(StoreErrors.pieces(ids, 500), (piece) =>
          Effect.flatMap(
            client.sendMany(
              piece.map((id) => ({ script: deleteScript, keys: [key(id), tombstoneKey(id)], args: [tombstone] }))
            ),
            StoreErrors.allReplies
          )
        ),
        {
          onSuccess: (replies) => {
            for (const id of ids) indexedUntil.delete(id)
            return replies.flat().filter((reply) => reply === 1).length
          },
          onFailure: (error) => {
            const failed = fails(method)(error)
            // some of several can be deleted, though this one is known not to be
            return ids.length === 1 ? failed : withOutcome(failed, "unknown")
          }
        }
      ),
    exists: (id) =>
      Effect.mapBoth(client.send("EXISTS", key(id)), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("exists")
      }),
    extendTtl: (id, ttl) =>
      touching(
        id,
        ttl,
        "extendTtl",
        (fresh) => client.run(extendScript, [key(id)], [ttl, fresh ? 0 : 1]),
        (reply) => reply === 1 || typeof reply === "string"
      ),
    rotate: ({ expected, from, owner, to, tombstone }) => {
      const rotation = Effect.mapBoth(
        client.run(rotateScript, [key(from), tombstoneKey(from), key(to), tombstoneKey(to)], [tombstone, expected]),
        {
          onSuccess: (reply): SessionStore.Rotated => {
            if (typeof reply === "string") return { _tag: "Changed", current: reply }
            switch (reply) {
              case 1:
                return { _tag: "Done" }
              case -1:
                return { _tag: "Gone" }
              case 2:
                return { _tag: "Taken" }
              default:
                return { _tag: "Absent" }
            }
          },
          onFailure: fails("rotate")
        }
      )
      if (owner === undefined) return rotation
      // first the index, awaited: a session that is moved and not indexed could not be signed out
      return Effect.zipRight(
        Effect.mapError(Effect.flatMap(client.sendMany([own(owner, to, 0)]), StoreErrors.allReplies), (error) =>
          // whatever became of the index entry: the session was not moved
          notDone(fails("rotate")(error))
        ),
        Effect.tap(rotation, (result) => (result._tag === "Done" ? indexed(to, 0) : Effect.void))
      )
    },
    owned: (owner) =>
      Effect.mapError(
        Effect.flatMap(client.send("ZRANGE", indexKey(owner), 0, -1), (reply) => {
          const ids = Array.isArray(reply) ? reply.filter((one) => typeof one === "string") : []
          return Effect.map(
            Effect.forEach(StoreErrors.pieces(ids, 500), (piece) =>
              Effect.flatMap(client.sendMany(piece.map((id) => ["GET", key(id)] as const)), (results) =>
                Effect.forEach(piece, (id, index) => {
                  const result = results[index]
                  if (result === undefined) return Effect.die("sendMany answers every step")
                  if (Either.isRight(result)) return Effect.succeed([id, text(result.right)] as const)
                  // no session is kept in another type: to the index it is none
                  return result.left.reason === "WrongType"
                    ? Effect.succeed([id, undefined] as const)
                    : Effect.fail(result.left)
                })
              )
            ),
            (found) => found.flat()
          )
        }),
        fails("sessionsOf")
      ),
    disown: (owner, ids) =>
      ids.length === 0
        ? Effect.void
        : Effect.mapError(
            Effect.asVoid(Effect.flatMap(client.sendMany([disown(owner, ids)]), StoreErrors.allReplies)),
            fails("sessionsOf")
          )
  }
}

const notDone = (error: SessionStore.SessionStoreError): SessionStore.SessionStoreError =>
  withOutcome(error, "not-done")

const withOutcome = (
  { cause, description, method, reason }: SessionStore.SessionStoreError,
  outcome: "not-done" | "unknown"
): SessionStore.SessionStoreError =>
  new SessionStore.SessionStoreError({
    reason,
    method,
    description,
    outcome,
    ...(cause === undefined ? {} : { cause })
  })

/** Writes, unless the id is dead. */
const setScript = RedisClient.script(
  "session.set",
  `if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`
)

/** Writes where nothing is, dead or not. */
const createScript = RedisClient.script(
  "session.create",
  `if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then return 0 end
redis.call('DEL', KEYS[2])
return 1`
)

/**
 * Compare-and-set by the stored text. The text that is there instead comes back, so that a retry need not read; after a
 * write the remaining time to live.
 */
const replaceScript = RedisClient.script(
  "session.update",
  `local current = redis.call('GET', KEYS[1])
if not current then
  if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
  return 0
end
if current ~= ARGV[1] then return current end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return math.max(1, redis.call('PTTL', KEYS[1]))`
)

/** Deletes and leaves a tombstone, whether or not there was something. */
const deleteScript = RedisClient.script(
  "session.delete",
  `redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return redis.call('DEL', KEYS[1])`
)

/** Prolongs, never shortens; a key without a time to live gets one. Gives the text of the session if it is asked to. */
const extendScript = RedisClient.script(
  "session.extendTtl",
  `local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end
if left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
if ARGV[2] == '0' then return 1 end
local current = redis.pcall('GET', KEYS[1])
if type(current) == 'string' then return current end
return 1`
)

/** Reads and prolongs, never shortens. */
const touchScript = RedisClient.script(
  "session.getAndTouch",
  `local current = redis.call('GET', KEYS[1])
if not current then return false end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return current`
)

/** Moves a session to a free id and kills the old one, in one step, if it is still the one that was read. */
const rotateScript = RedisClient.script(
  "session.rotate",
  `local current = redis.call('GET', KEYS[1])
if not current then
  if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
  return 0
end
if current ~= ARGV[2] then return current end
if redis.call('EXISTS', KEYS[3]) == 1 then return 2 end
redis.call('RENAME', KEYS[1], KEYS[3])
redis.call('DEL', KEYS[4])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return 1`
)

/** Adds a session to its owner's index, scored by the server's time. Of a large index the oldest entries come back. */
const ownScript = RedisClient.script(
  "session.own",
  `local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('ZCARD', KEYS[1]) > 64 then return redis.call('ZRANGE', KEYS[1], 0, 15) end
return 0`
)

/** Drops entries, but none of the last minute: their session may be on its way. */
const disownScript = RedisClient.script(
  "session.disown",
  `local now = tonumber(redis.call('TIME')[1])
for _, id in ipairs(ARGV) do
  local at = redis.call('ZSCORE', KEYS[1], id)
  if at and now - tonumber(at) > 60 then redis.call('ZREM', KEYS[1], id) end
end
return 0`
)
