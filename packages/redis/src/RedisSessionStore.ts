/**
 * Sessions in Redis: JSON at `session:<id>`, what goes with it at `{session:<id>}:…`, which a cluster keeps in the same
 * slot, and an index of each owner's sessions that heals itself. One round trip an operation; plain effects.
 *
 * @since 0.1.0
 */
import * as SessionStore from "@underlay/core/state/SessionStore"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
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
   * How long an owner's index outlives the last write of a session of that owner. A session that is kept alive longer
   * than this by touches alone is no longer listed. Default: 30 days; never less than the session's own time to live.
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
  SessionStore.make(backend(client, options), options)

const key = (id: string): string => `session:${id}`
const tombstoneKey = (id: string): string => `{session:${id}}:gone`
const indexKey = (owner: string): string => `session-owner:${owner}`

const backend = (client: RedisClient.Service, options: Options): SessionStore.Backend => {
  const indexTtl = Math.ceil(Duration.toMillis(options.indexTtl ?? "30 days"))

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
    args: [id, Math.max(indexTtl, ttl)]
  })

  /** A write of a session and of its index entry, in one go. The index must be written too: sign-out relies on it. */
  const write = (
    method: string,
    { id, owner, ttl }: Pick<SessionStore.Entry, "id" | "owner"> & { readonly ttl: number | undefined },
    step: RedisClient.ScriptStep
  ): Effect.Effect<RedisClient.Reply, SessionStore.SessionStoreError> => {
    if (owner === undefined) {
      return Effect.mapError(client.run(step.script, step.keys, step.args), fails(method))
    }
    return Effect.flatMap(client.sendMany([own(owner, id, ttl ?? 0), step]), ([indexed, written]) => {
      if (written === undefined || indexed === undefined) return Effect.die("sendMany answers every step")
      if (Either.isLeft(written)) return Effect.fail(fails(method)(written.left))
      if (Either.isLeft(indexed)) {
        // the session is written and its index entry is not: say so, and that writing again is the cure
        const error = fails(method)(indexed.left)
        return Effect.fail(
          new SessionStore.SessionStoreError({
            reason: error.reason === "Corrupt" ? "Rejected" : error.reason,
            method,
            description: `the owner index was not written: ${error.description}`,
            outcome: "unknown",
            cause: indexed.left
          })
        )
      }
      const old = Array.isArray(indexed.right) ? indexed.right.filter((one) => typeof one === "string") : []
      return old.length === 0 ? Effect.succeed(written.right) : Effect.as(heal(owner, old), written.right)
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
      Effect.mapBoth(exact ? client.send("GETEX", key(id), "PX", ttl) : client.run(touchScript, [key(id)], [ttl]), {
        onSuccess: text,
        onFailure: fails("getAndTouch")
      }),
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
      Effect.map(
        write("update", entry, {
          script: replaceScript,
          keys: [key(entry.id), tombstoneKey(entry.id)],
          args: [entry.expected, entry.json, entry.ttl ?? 0]
        }),
        (reply): SessionStore.Replaced => {
          if (typeof reply === "string") return { _tag: "Changed", current: reply }
          if (reply === 1) return { _tag: "Done" }
          return { _tag: reply === -1 ? "Gone" : "Absent" }
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
          onSuccess: (replies) => replies.flat().filter((reply) => reply === 1).length,
          onFailure: fails(method)
        }
      ),
    exists: (id) =>
      Effect.mapBoth(client.send("EXISTS", key(id)), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("exists")
      }),
    extendTtl: (id, ttl) =>
      Effect.mapBoth(client.run(extendScript, [key(id)], [ttl]), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("extendTtl")
      }),
    rotate: ({ from, owner, to, tombstone }) => {
      const rotation = Effect.mapBoth(
        client.run(rotateScript, [key(from), tombstoneKey(from), key(to), tombstoneKey(to)], [tombstone]),
        {
          onSuccess: (reply): SessionStore.Rotated => {
            switch (reply) {
              case 1:
                return "done"
              case -1:
                return "gone"
              case 2:
                return "taken"
              default:
                return "absent"
            }
          },
          onFailure: fails("rotate")
        }
      )
      if (owner === undefined) return rotation
      // first the index, awaited: a session that is moved and not indexed could not be signed out
      return Effect.zipRight(
        Effect.mapError(Effect.flatMap(client.sendMany([own(owner, to, 0)]), StoreErrors.allReplies), (error) =>
          fails("rotate")(error)
        ),
        rotation
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

/** Compare-and-set by the stored text. The text that is there instead comes back, so that a retry need not read. */
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
return 1`
)

/** Deletes and leaves a tombstone, whether or not there was something. */
const deleteScript = RedisClient.script(
  "session.delete",
  `redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return redis.call('DEL', KEYS[1])`
)

/** Prolongs, never shortens; a key without a time to live gets one. */
const extendScript = RedisClient.script(
  "session.extendTtl",
  `local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end
if left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
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

/** Moves a session to a free id and kills the old one, in one step. */
const rotateScript = RedisClient.script(
  "session.rotate",
  `if redis.call('EXISTS', KEYS[1]) == 0 then
  if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
  return 0
end
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
