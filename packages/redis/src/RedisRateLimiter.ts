/**
 * The backend of core's rate limiters on Redis: one key for each limit of a key, always with a time to live, judged in one
 * round trip by the server's clock. Plain effects.
 *
 * @since 0.1.0
 */
import * as RateLimiter from "@underlay/core/state/RateLimiter"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The backend of core's rate limiters on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<RateLimiter.RateLimiter, never, RedisClient.RedisClient> = Layer.effect(
  RateLimiter.RateLimiter,
  Effect.map(RedisClient.RedisClient, (client) => make(client))
)

/**
 * The backend as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): RateLimiter.Backend => ({
  judge: (request) => {
    const args: Array<RedisClient.RedisArgument> = [request.cost, request.take ? 1 : 0]
    for (const meter of request.meters) args.push(...argumentsOf(meter))
    return Effect.matchEffect(client.run(judgeScript, request.keys, args), {
      onFailure: (error) => Effect.fail(failure(request.take ? "consume" : "peek", error)),
      onSuccess: (reply) => Effect.succeed(judgement(reply))
    })
  },
  reset: (keys) =>
    Effect.mapBoth(client.send("DEL", ...keys), {
      onFailure: (error) => failure("reset", error),
      onSuccess: (reply) => typeof reply === "number" && reply > 0
    })
})

const failure = (method: string, error: RedisError): RateLimiter.RateLimiterError =>
  new RateLimiter.RateLimiterError({
    reason: StoreErrors.reasonOf(error),
    method,
    description: StoreErrors.descriptionOf(error),
    outcome: StoreErrors.outcomeOf(error),
    cause: error
  })

/** Five for each meter: its kind and its settings. */
const argumentsOf = (meter: RateLimiter.Meter): ReadonlyArray<RedisClient.RedisArgument> => {
  switch (meter.kind) {
    case "window":
      return ["window", meter.limit, meter.interval, 0, 0]
    case "log":
      return ["log", meter.limit, meter.interval, meter.grain, 0]
    case "bucket":
      return ["bucket", meter.perCost, meter.perTick, meter.capacity, meter.tick]
  }
}

const judgement = (reply: RedisClient.Reply): RateLimiter.Judgement => {
  const numbers = Array.isArray(reply) ? reply : []
  const number = (index: number): number => {
    const found = numbers[index]
    return typeof found === "number" ? found : 0
  }
  const verdicts: Array<RateLimiter.Verdict> = []
  for (let index = 1; index < numbers.length; index += 3) {
    verdicts.push({ remaining: number(index), retryAfter: number(index + 1), resetAfter: number(index + 2) })
  }
  return { at: number(0), verdicts }
}

/**
 * Judges every meter, then takes of all or of none. Numbers are written with all their digits: Lua alone would round what
 * is longer than 14. What a key holds that is of another kind, from a limiter that had another algorithm, is nothing used
 * up.
 *
 * - `window`: `<start> <used>`
 * - `bucket`: `<level> <at> <perTick> <tick>`
 * - `log`: a list of `<moment> <cost> <sum>`, the sum of the costs up to and with this one, so that what was used up is
 *   the difference of two entries.
 */
const judgeScript = RedisClient.script(
  "ratelimit.judge",
  `local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost = tonumber(ARGV[1])
local modulus = 4503599627370496

local function text(...)
  local parts = {}
  for index, number in ipairs({...}) do parts[index] = string.format('%.0f', number) end
  return table.concat(parts, ' ')
end

local function numbers(value)
  local found = {}
  if type(value) == 'string' then
    for digits in string.gmatch(value, '%d+') do found[#found + 1] = tonumber(digits) end
  end
  return found
end

local function put(key, value, micros)
  redis.call('SET', key, value, 'PX', text(math.ceil(micros / 1000) + 1))
end

local function window(key, limit, interval)
  local state = numbers(redis.pcall('GET', key))
  local start, used = now, 0
  if #state == 2 then start, used = state[1], state[2] end
  if now < start then
    start = now
    put(key, text(start, used), interval)
  end
  if now - start >= interval then start, used = now, 0 end
  local left = used == 0 and 0 or start + interval - now
  local retry = (cost == 0 or used + cost <= limit) and 0 or left
  return math.max(0, limit - used), retry, left, function()
    if used == 0 then start = now end
    left = start + interval - now
    put(key, text(start, used + cost), left)
    return limit - used - cost, left
  end
end

local function bucket(key, perCost, perTick, capacity, tick)
  local begin = math.floor(now / tick) * tick
  local function rest(amount)
    return amount <= 0 and 0 or begin + math.ceil(amount / perTick) * tick - now
  end
  local state = numbers(redis.pcall('GET', key))
  local level, at = 0, begin
  if #state == 4 then
    level, at = state[1], state[2]
    if state[3] ~= perTick or state[4] ~= tick then
      level = math.ceil(level * (perTick / state[3]) * (state[4] / tick))
      at = math.floor(at / tick) * tick
    end
    if begin < at then
      at = begin
      put(key, text(level, at, perTick, tick), rest(level))
    end
    level = math.max(0, level - (begin - at) / tick * perTick)
  end
  local over = level + cost * perCost - capacity
  local retry = cost == 0 and 0 or rest(over)
  return math.max(0, math.floor((capacity - level) / perCost)), retry, rest(level), function()
    level = level + cost * perCost
    put(key, text(level, begin, perTick, tick), rest(level))
    return math.floor((capacity - level) / perCost), rest(level)
  end
end

local function log(key, limit, interval, grain)
  local slot = math.ceil(now / grain) * grain
  local function entry(index) return numbers(redis.pcall('LINDEX', key, index)) end
  local last = entry(-1)
  if #last == 3 and last[1] - now >= grain then
    local back = last[1] - slot
    for index, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
      local one = numbers(value)
      redis.call('LSET', key, index - 1, text(math.max(0, one[1] - back), one[2], one[3]))
    end
    redis.call('PEXPIRE', key, text(math.ceil((slot + interval - now) / 1000) + 1))
    last[1] = slot
  end
  local function search(low, high, fits)
    while low < high do
      local middle = math.floor((low + high) / 2)
      if fits(entry(middle)) then high = middle else low = middle + 1 end
    end
    return low
  end
  local used, first = 0, nil
  if #last == 3 and last[1] > now - interval then
    first = entry(0)
    if (first[1] or 0) <= now - interval then
      local function lives(one) return one[1] > now - interval end
      redis.call('LTRIM', key, search(1, redis.call('LLEN', key) - 1, lives), -1)
      first = entry(0)
    end
    if #first == 3 then used = (last[3] - first[3]) % modulus + first[2] else first = nil end
  end
  local retry = 0
  if cost > 0 and used + cost > limit then
    local function frees(one)
      return (one[3] - first[3]) % modulus + first[2] >= used + cost - limit
    end
    retry = entry(search(0, redis.call('LLEN', key) - 1, frees))[1] + interval - now
  end
  return math.max(0, limit - used), retry, first and last[1] + interval - now or 0, function()
    if first == nil then
      redis.call('DEL', key)
      last = {0, 0, 0}
    end
    local sum = (last[3] + cost) % modulus
    if last[1] == slot then
      redis.call('LSET', key, -1, text(slot, last[2] + cost, sum))
    else
      redis.call('RPUSH', key, text(slot, cost, sum))
    end
    local left = slot + interval - now
    redis.call('PEXPIRE', key, text(math.ceil(left / 1000) + 1))
    return limit - used - cost, left
  end
end

local kinds = {window = window, bucket = bucket, log = log}
local reply, takes, passes = {now}, {}, true
for index, key in ipairs(KEYS) do
  local at = index * 5 - 2
  local remaining, retry, reset, take = kinds[ARGV[at]](
    key, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  )
  if retry > 0 then passes = false end
  takes[index] = take
  reply[index * 3 - 1], reply[index * 3], reply[index * 3 + 1] = remaining, retry, reset
end
if passes and cost > 0 and ARGV[2] == '1' then
  for index, take in ipairs(takes) do
    reply[index * 3 - 1], reply[index * 3 + 1] = take()
  end
end
return reply`
)
