import { describe, layer } from "@effect/vitest"
import { RateLimiterSuite, Suite } from "@underlay/core/testing"
import { RedisClient, RedisRateLimiter } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Layer } from "effect"
import { client, server } from "./support.ts"

const age = RedisClient.script(
  "test.ageLimits",
  `local past = tonumber(ARGV[1])
local function older(value, index)
  local numbers = {}
  for digits in string.gmatch(value, '%d+') do numbers[#numbers + 1] = digits end
  numbers[index or (#numbers == 4 and 2 or 1)] = string.format('%.0f', numbers[index or (#numbers == 4 and 2 or 1)] - past * 1000)
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
)

/** Makes what every limiter keeps older. */
const advance = (duration: Duration.Duration) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.run(age, [], [Duration.toMillis(duration)]))

const real = RedisRateLimiter.layer.pipe(Layer.provideMerge(client()), Layer.provideMerge(server()))

describe.skipIf(Need.missing("redis-server"))(Need.title("RateLimiter on Redis", "redis-server"), () => {
  layer(real)("the suite", (it) => {
    const suite = RateLimiterSuite.make({ advance, ages: true, slack: "10 seconds" })
    for (const one of Suite.applicable(suite, [])) it.effect(one.name, () => one.run)
  })
})
