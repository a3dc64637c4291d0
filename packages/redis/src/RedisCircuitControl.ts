/**
 * The shared control of circuits on Redis: all overrides in one hash, `circuit-control`, and a message to everybody who
 * follows after each change. Plain effects.
 *
 * @since 0.1.0
 */
import * as CircuitControl from "@underlay/core/resilience/CircuitControl"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * Options of the control.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The key of the hash and the name of the channel: another one for each system that shares a server. */
  readonly key?: string | undefined
}

/**
 * The control of core on the Redis client. Overrides end by the server's clock, whatever those of the machines say. The
 * hash lives for 90 days after it was last read: as long as one process follows it.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<CircuitControl.CircuitControl, never, RedisClient.RedisClient> =>
  Layer.effect(
    CircuitControl.CircuitControl,
    Effect.map(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The control as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service, options: Options = {}): CircuitControl.Service => {
  const key = options.key ?? "circuit-control"
  let warned = false

  const fails = (method: string) => (error: RedisError) =>
    new CircuitControl.CircuitControlError({
      reason: StoreErrors.reasonOf(error),
      method,
      description: StoreErrors.descriptionOf(error),
      cause: error
    })

  return {
    set: (name, mode, options) =>
      Effect.flatMap(Clock.currentTimeMillis, (before) =>
        Effect.flatMap(CircuitControl.makeOverride(name, mode, options), (override) => {
          // the server says when it ends: it is told for how long
          const millis = override.until === null ? 0 : Math.max(1, Math.ceil(override.until - before))
          const { until, ...said } = override
          return Effect.mapBoth(client.run(setScript, [key], [name, JSON.stringify(said), millis]), {
            onFailure: fails("set"),
            onSuccess: () => undefined
          })
        })
      ),
    clear: (name) =>
      Effect.mapBoth(client.run(clearScript, [key], [name]), {
        onFailure: fails("clear"),
        onSuccess: (reply) => reply === 1
      }),
    overrides: Effect.matchEffect(client.run(readScript, [key], []), {
      onFailure: (error) => Effect.fail(fails("overrides")(error)),
      onSuccess: (reply) =>
        Effect.flatMap(Clock.currentTimeMillis, (mine) => {
          const [theirs, ...texts] = Array.isArray(reply) ? reply : []
          const skew = typeof theirs === "number" ? mine - theirs : 0
          const found: Array<CircuitControl.Override> = []
          for (const text of texts) {
            const override = decode(text)
            if (Either.isRight(override)) found.push(inTimeOf(override.right, skew))
          }
          if (found.length === texts.length || warned) return Effect.succeed(found)
          warned = true
          return Effect.as(Effect.logWarning("an override of a circuit is corrupt and left out"), found)
        })
    }),
    changes: Stream.asyncPush<void, CircuitControl.CircuitControlError>(
      (emit) =>
        Effect.mapError(
          client.listen([key], (event) => {
            // what was said while it was lost is found by reading once more when it is back
            if (event._tag !== "Lost") emit.single(undefined)
          }),
          fails("changes")
        ),
      { bufferSize: 1, strategy: "sliding" }
    )
  }
}

const decode = Schema.decodeUnknownEither(Schema.parseJson(CircuitControl.Override))

/** The end of an override by the clock of this machine. Clocks that differ by less than a second are one clock. */
const inTimeOf = (override: CircuitControl.Override, skew: number): CircuitControl.Override =>
  override.until === null || Math.abs(skew) < 1_000 ? override : { ...override, until: override.until + skew }

/** Values are JSON that ends in `"until":<milliseconds since 1970, or null>}`: whoever writes one by hand does so too. */
const common = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function over(value)
  local ends = string.match(value, '"until"%s*:%s*(%d+)')
  return ends ~= nil and tonumber(ends) <= now
end`

const setScript = RedisClient.script(
  "circuits.set",
  `${common}
local ends = ARGV[3] == '0' and 'null' or string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], string.sub(ARGV[2], 1, -2) .. ',"until":' .. ends .. '}')
redis.call('PEXPIRE', KEYS[1], 7776000000)
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1`
)

const clearScript = RedisClient.script(
  "circuits.clear",
  `${common}
local value = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1])
if value and not over(value) then return 1 end
return 0`
)

/** The server's time, then the overrides that hold. Those that are over go. */
const readScript = RedisClient.script(
  "circuits.read",
  `${common}
local reply = {now}
local stored = redis.call('HGETALL', KEYS[1])
for index = 1, #stored, 2 do
  if over(stored[index + 1]) then
    redis.call('HDEL', KEYS[1], stored[index])
  else
    reply[#reply + 1] = stored[index + 1]
  end
end
redis.call('PEXPIRE', KEYS[1], 7776000000)
return reply`
)
