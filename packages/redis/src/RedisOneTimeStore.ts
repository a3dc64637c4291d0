/**
 * The one-time store of core on Redis: what confirmation codes and sign-ups are kept in. Every operation is one script on
 * keys of one slot, every key has a time to live, and all times are the server's. Plain effects.
 *
 * @since 0.1.0
 */
import * as OneTimeStore from "@underlay/core/state/OneTimeStore"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"

/**
 * The one-time store of core on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<OneTimeStore.OneTimeStore, never, RedisClient.RedisClient> = Layer.effect(
  OneTimeStore.OneTimeStore,
  Effect.map(RedisClient.RedisClient, (client) => make(client))
)

/**
 * The store as a value. An entry is a hash at its key, with the fields `token`, `text` and, where tries are counted,
 * `tries` (those that are left); beside it are `{<key>}:pause` and `{<key>}:count` while they matter.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): OneTimeStore.Service => {
  const run = <A>(
    method: string,
    script: RedisClient.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<string | number>,
    read: (reply: ReadonlyArray<RedisClient.Reply>) => A | undefined
  ): Effect.Effect<A, OneTimeStore.OneTimeStoreError> =>
    Effect.matchEffect(client.run(script, keys, args), {
      onSuccess: (reply) => {
        const found = Array.isArray(reply) ? read(reply) : undefined
        return found === undefined
          ? failure(method, "Rejected", "the server answered what cannot be", "unknown")
          : Effect.succeed(found)
      },
      onFailure: (error) =>
        error.reason === "WrongType"
          ? failure(method, "Corrupt", "the key holds something else", "not-done", error)
          : Effect.fail(
              new OneTimeStore.OneTimeStoreError({
                reason: StoreErrors.reasonOf(error),
                method: `OneTimeStore.${method}`,
                description: StoreErrors.descriptionOf(error),
                outcome: StoreErrors.outcomeOf(error),
                cause: error
              })
            )
    })

  return {
    put: ({ key, pause, present, quota, text, token, tries, ttl }) =>
      run<OneTimeStore.Put>(
        "put",
        putScript,
        [key, `{${key}}:pause`, `{${key}}:count`],
        [token, text, ttl, tries ?? -1, present, pause, quota?.limit ?? 0, quota?.within ?? 0],
        ([tag, left]) => {
          if (tag === "put") return { _tag: "Put" }
          if (typeof left !== "number") return undefined
          // a key in its last millisecond says 0, and what is over is no hindrance
          return { _tag: tag === "present" ? "Present" : "Throttled", left: Math.max(1, left) }
        }
      ),
    take: (key, token) =>
      run<OneTimeStore.Taken>("take", takeScript, [key, `{${key}}:pause`], [token], ([tag, value]) => {
        switch (tag) {
          case "taken":
            return typeof value === "string" ? { _tag: "Taken", text: value } : undefined
          case "wrong":
            return typeof value === "number"
              ? { _tag: "Wrong", triesLeft: value < 0 ? Number.POSITIVE_INFINITY : value }
              : undefined
          case "exhausted":
            return { _tag: "Exhausted" }
          case "absent":
            return { _tag: "Absent" }
          default:
            return undefined
        }
      }),
    peek: (key, token) =>
      Effect.map(
        run<readonly [OneTimeStore.Seen]>("peek", peekScript, [key], [token], ([text, left]) => [
          typeof text === "string" && typeof left === "number" ? { text, left: Math.max(1, left) } : undefined
        ]),
        ([seen]) => seen
      ),
    drop: (key, token) =>
      run("drop", dropScript, [key], [token ?? "", token === undefined ? 0 : 1], ([dropped]) =>
        typeof dropped === "number" ? dropped === 1 : undefined
      )
  }
}

const failure = (
  method: string,
  reason: OneTimeStore.Reason,
  description: string,
  outcome: "not-done" | "unknown",
  cause?: unknown
): Effect.Effect<never, OneTimeStore.OneTimeStoreError> =>
  Effect.fail(
    new OneTimeStore.OneTimeStoreError({
      reason,
      method: `OneTimeStore.${method}`,
      description,
      outcome,
      ...(cause === undefined ? {} : { cause })
    })
  )

/** Redis' Lua holds each text once and compares references, so that comparing tokens takes as long whatever they are. */
const putScript = RedisClient.script(
  "oneTime.put",
  `local token, text, ttl, tries, present, pause, limit, within = unpack(ARGV)
if present == 'keep' and redis.call('EXISTS', KEYS[1]) == 1 then return {'present', redis.call('PTTL', KEYS[1])} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'throttled', redis.call('PTTL', KEYS[2])} end
if tonumber(limit) > 0 then
  if tonumber(redis.call('GET', KEYS[3]) or '0') >= tonumber(limit) then return {'throttled', redis.call('PTTL', KEYS[3])} end
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('INCR', KEYS[3]) else redis.call('SET', KEYS[3], 1, 'PX', within) end
end
if tonumber(pause) > 0 then redis.call('SET', KEYS[2], 1, 'PX', pause) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'token', token, 'text', text)
if tonumber(tries) >= 0 then redis.call('HSET', KEYS[1], 'tries', tries) end
redis.call('PEXPIRE', KEYS[1], ttl)
return {'put'}`
)

/**
 * A wrong token is counted on a server without memory too: such a one refuses a script's first write if it may need some,
 * and no later one, so the first removes what is not there.
 */
const takeScript = RedisClient.script(
  "oneTime.take",
  `local kept = redis.call('HMGET', KEYS[1], 'token', 'text', 'tries')
if not kept[1] then return {'absent'} end
if kept[3] and tonumber(kept[3]) <= 0 then return {'exhausted'} end
if kept[1] ~= ARGV[1] then
  if not kept[3] then return {'wrong', -1} end
  redis.call('HDEL', KEYS[1], '')
  return {'wrong', redis.call('HINCRBY', KEYS[1], 'tries', -1)}
end
redis.call('DEL', KEYS[1], KEYS[2])
return {'taken', kept[2]}`
)

const peekScript = RedisClient.script(
  "oneTime.peek",
  `local kept = redis.call('HMGET', KEYS[1], 'token', 'text', 'tries')
if kept[3] or kept[1] ~= ARGV[1] then return {} end
return {kept[2], redis.call('PTTL', KEYS[1])}`
)

const dropScript = RedisClient.script(
  "oneTime.drop",
  `if ARGV[2] == '1' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return {0} end
return {redis.call('DEL', KEYS[1])}`
)
