/** Time that passes for what limiters, counters and circuits keep, on every node that has keys. */

import { RedisClient } from "@underlay/redis"
import { Duration, Effect } from "effect"

const meters = `local past = tonumber(ARGV[1])
local function older(value, index)
  local numbers = {}
  for digits in string.gmatch(value, '%d+') do numbers[#numbers + 1] = digits end
  index = index or (#numbers == 4 and 2 or 1)
  numbers[index] = string.format('%.0f', numbers[index] - past * 1000)
  return table.concat(numbers, ' ')
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left < 0 then return redis.error_reply('ERR a key without a time to live') end
  if left <= past then redis.call('DEL', key)
  elseif redis.call('TYPE', key).ok == 'list' then
    for index, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
      redis.call('LSET', key, index - 1, older(value, 1))
    end
    redis.call('PEXPIRE', key, left - past)
  else
    redis.call('SET', key, older(redis.call('GET', key)), 'PX', left - past)
  end
end
return 0`

const counters = `for _, key in ipairs(redis.call('KEYS', 'counter:*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then
    if left <= tonumber(ARGV[1]) then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - ARGV[1]) end
  end
end
return 0`

const circuits = RedisClient.script(
  "test.ageOverrides",
  `local stored = redis.call('HGETALL', KEYS[1])
for index = 1, #stored, 2 do
  local older = string.gsub(stored[index + 1], '"until":(%d+)', function(ends)
    return '"until":' .. string.format('%.0f', ends - ARGV[1])
  end)
  redis.call('HSET', KEYS[1], stored[index], older)
end
return 0`
)

const onEveryNode = (source: string, millis: number) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) =>
    Effect.flatMap(redis.nodes, (nodes) =>
      Effect.forEach(nodes, (node) => node.send("EVAL", source, 0, millis), { discard: true })
    )
  )

/** Makes what limiters keep older. */
export const advance = (duration: Duration.Duration) => onEveryNode(meters, Duration.toMillis(duration))

/** What limiters keep is then of the future: as if the server's clock had been set back. */
export const setBack = (duration: Duration.Duration) => onEveryNode(meters, -Duration.toMillis(duration))

export const advanceCounters = (duration: Duration.Duration) => onEveryNode(counters, Duration.toMillis(duration))

export const advanceCircuits = (duration: Duration.Duration) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) =>
    redis.run(circuits, ["circuit-control"], [Duration.toMillis(duration)])
  )

/** The clock of a server, in milliseconds. */
export const now = Effect.flatMap(RedisClient.RedisClient, (redis) =>
  Effect.map(redis.send("TIME"), (reply) => {
    const [seconds, micros] = Array.isArray(reply) ? reply.map(Number) : []
    return (seconds ?? 0) * 1_000 + Math.floor((micros ?? 0) / 1_000)
  })
)

export const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))
