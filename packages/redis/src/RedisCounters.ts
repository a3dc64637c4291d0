/**
 * The counters of core on Redis: a number at `counter:<key>`, always with a time to live, added to in one round trip by
 * the server's clock. Plain effects.
 *
 * @since 0.1.0
 */
import * as Counters from "@underlay/core/state/Counters"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The counters of core on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Counters.Counters, never, RedisClient.RedisClient> = Layer.effect(
  Counters.Counters,
  Effect.map(RedisClient.RedisClient, (client) => make(client))
)

/**
 * The counters as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): Counters.Service => Counters.make(backend(client))

const backend = (client: RedisClient.Service): Counters.Backend => {
  /** By how much the server's clock was ahead when it was in another window than this machine. */
  let ahead = 0

  const fails = (method: string) => (error: RedisError) =>
    new Counters.CountersError({
      reason: StoreErrors.reasonOf(error),
      method,
      description: StoreErrors.descriptionOf(error),
      outcome: StoreErrors.outcomeOf(error),
      cause: error
    })

  /** What is no answer of our script has not come about: an old server, or one that is none. */
  const unexpected = (method: string) =>
    Effect.fail(
      new Counters.CountersError({
        reason: "Rejected",
        method,
        description: "the server answered what cannot be",
        outcome: "unknown"
      })
    )

  /**
   * Runs a script that is told the window in which this machine is, as of `now`. A server whose clock is in another one
   * answers with its time, and is asked again with the window of that.
   */
  const within = (
    method: string,
    script: RedisClient.Script,
    key: string,
    args: ReadonlyArray<number>,
    lifetime: Counters.BackendLifetime
  ): Effect.Effect<ReadonlyArray<number>, Counters.CountersError> => {
    const run = (...life: ReadonlyArray<number>) =>
      Effect.mapBoth(client.run(script, [`counter:${key}`], [...args, ...life]), {
        onFailure: fails(method),
        onSuccess: numbers
      })
    if (lifetime._tag === "Ttl") return run(lifetime.millis, 0, 0)
    const attempt = (now: number, left: number): Effect.Effect<ReadonlyArray<number>, Counters.CountersError> => {
      const { end, start } = lifetime.at(now)
      return Effect.flatMap(run(0, start, end), (reply) => {
        const [theirs] = reply
        if (reply.length !== 1 || theirs === undefined) return Effect.succeed(reply)
        return left === 0
          ? unexpected(method)
          : Effect.flatMap(Clock.currentTimeMillis, (mine) => {
              ahead = theirs - mine
              return attempt(theirs, left - 1)
            })
      })
    }
    // twice: a window can end between two answers
    return Effect.flatMap(Clock.currentTimeMillis, (mine) => attempt(mine + ahead, 2))
  }

  return {
    add: (key, amount, limit, lifetime) =>
      Effect.flatMap(within("add", addScript, key, [amount, limit], lifetime), ([allowed, value, left]) =>
        value === undefined || left === undefined
          ? unexpected("add")
          : Effect.succeed({ allowed: allowed === 1, value, left })
      ),
    get: (key) =>
      Effect.matchEffect(client.send("GET", `counter:${key}`), {
        onFailure: (error) => Effect.fail(fails("get")(error)),
        onSuccess: (reply) => {
          if (reply === null) return Effect.succeed(0)
          return typeof reply === "string" && /^\d{1,16}$/.test(reply)
            ? Effect.succeed(Number(reply))
            : Effect.fail(
                new Counters.CountersError({
                  reason: "Rejected",
                  method: "get",
                  description: "the key holds no counter",
                  outcome: "not-done"
                })
              )
        }
      }),
    set: (key, value, lifetime) => Effect.asVoid(within("set", setScript, key, [value], lifetime)),
    reset: (key) =>
      Effect.mapBoth(client.send("DEL", `counter:${key}`), {
        onFailure: fails("reset"),
        onSuccess: (reply) => reply === 1
      })
  }
}

const numbers = (reply: RedisClient.Reply): ReadonlyArray<number> =>
  Array.isArray(reply)
    ? reply.flatMap((one) =>
        typeof one === "number" || (typeof one === "string" && /^\d+$/.test(one)) ? [Number(one)] : []
      )
    : []

/**
 * The last three arguments: the time to live, or 0 and the window. A key is gone when its last millisecond is over: one
 * that is to end with a window ends a millisecond before the next one begins.
 */
const lifetime = `local life = #ARGV - 2
local ttl, start, finish = tonumber(ARGV[life]), tonumber(ARGV[life + 1]), tonumber(ARGV[life + 2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ttl == 0 and (now < start or now >= finish) then return {now} end
local function put(value)
  if ttl == 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', value), 'PXAT', string.format('%.0f', finish - 1))
    return finish - now
  end
  redis.call('SET', KEYS[1], string.format('%.0f', value), 'PX', ARGV[life])
  return ttl
end`

/** Its value is answered as a text: ioredis 6 reads whole numbers near the greatest one off by one. */
const addScript = RedisClient.script(
  "counters.add",
  `${lifetime}
local function text(value) return string.format('%.0f', value) end
local stored = redis.call('GET', KEYS[1])
if stored and not string.match(stored, '^%d+$') then return redis.error_reply('WRONGTYPE the key holds no counter') end
local before, amount = tonumber(stored or 0), tonumber(ARGV[1])
local rest = redis.call('PTTL', KEYS[1])
local left = math.max(0, rest)
if amount > 0 and before + amount > tonumber(ARGV[2]) then return {0, text(before), left} end
local value = math.max(0, before + amount)
if amount == 0 or (not stored and value == 0) then return {1, text(value), left} end
if rest < 0 then return {1, text(value), put(value)} end
redis.call('INCRBY', KEYS[1], text(value - before))
return {1, text(value), left}`
)

const setScript = RedisClient.script(
  "counters.set",
  `${lifetime}
return {1, put(tonumber(ARGV[1]))}`
)
