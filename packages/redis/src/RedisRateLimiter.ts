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
    return Effect.matchEffect(client.run(scriptFor(request.meters), request.keys, args), {
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

/** What the parts of the script share. A key that holds something of another kind holds nothing that was used up. */
const prelude = `local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost = tonumber(ARGV[1])
local function read(key, pattern)
  local value = redis.pcall('GET', key)
  if type(value) == 'string' then return string.match(value, pattern) end
end
local function put(key, value, micros)
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.ceil(micros / 1000) + 1))
end`

/** `<start> <used>` */
const window = `local function window(key, limit, interval, _, _, take)
  local start, used = read(key, '^(%d+) (%d+)$')
  start, used = tonumber(start or now), tonumber(used or 0)
  if now < start then
    start = now
    put(key, string.format('%.0f %.0f', start, used), interval)
  end
  if now - start >= interval then used = 0 end
  local left = used == 0 and 0 or start + interval - now
  if cost > 0 and used + cost > limit then return limit - used, left, left end
  if take and cost > 0 then
    if used == 0 then start = now end
    used = used + cost
    left = start + interval - now
    put(key, string.format('%.0f %.0f', start, used), left)
  end
  return limit - used, 0, left
end`

/** `<level> <at> <perTick> <tick>` */
const bucket = `local function bucket(key, perCost, perTick, capacity, tick, take)
  local begin = math.floor(now / tick) * tick
  local level, at, itsPerTick, itsTick = read(key, '^(%d+) (%d+) (%d+) (%d+)$')
  if level then
    level, at = tonumber(level), tonumber(at)
    itsPerTick, itsTick = tonumber(itsPerTick), tonumber(itsTick)
    if itsPerTick ~= perTick or itsTick ~= tick then
      level = math.ceil(level * (perTick / itsPerTick) * (itsTick / tick))
      at = math.floor(at / tick) * tick
    end
    if begin < at then
      at = begin
      put(key, string.format('%.0f %.0f %.0f %.0f', level, at, perTick, tick), level / perTick * tick)
    end
    level = math.max(0, level - (begin - at) / tick * perTick)
  else
    level = 0
  end
  local retry = 0
  if cost > 0 then
    local filled = level + cost * perCost
    if filled > capacity then
      retry = begin + math.ceil((filled - capacity) / perTick) * tick - now
    elseif take then
      level = filled
    end
  end
  local reset = level == 0 and 0 or begin + math.ceil(level / perTick) * tick - now
  if take and cost > 0 and retry == 0 then
    put(key, string.format('%.0f %.0f %.0f %.0f', level, begin, perTick, tick), reset)
  end
  return math.floor((capacity - level) / perCost), retry, reset
end`

/**
 * A list of `<moment> <cost> <sum>`: the sum of the costs up to and with this one, so that what was used up is the
 * difference of two entries. Sums begin anew at 2^52; a limit is far less.
 */
const log = `local function log(key, limit, interval, grain, _, take)
  local slot = math.ceil(now / grain) * grain
  local function entry(index)
    local value = redis.pcall('LINDEX', key, index)
    if type(value) ~= 'string' then return end
    local at, its, sum = string.match(value, '^(%d+) (%d+) (%d+)$')
    return tonumber(at), tonumber(its), tonumber(sum)
  end
  local function expire(left)
    redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(left / 1000) + 1))
  end
  local function search(low, high, fits)
    while low < high do
      local middle = math.floor((low + high) / 2)
      if fits(entry(middle)) then high = middle else low = middle + 1 end
    end
    return low
  end
  local last, lastCost, lastSum = entry(-1)
  if last and last - now >= grain then
    local back = last - slot
    for index = 0, redis.call('LLEN', key) - 1 do
      local at, its, sum = entry(index)
      redis.call('LSET', key, index, string.format('%.0f %.0f %.0f', math.max(0, at - back), its, sum))
    end
    last = slot
    expire(slot + interval - now)
  end
  local used, firstCost, firstSum = 0
  if last and last > now - interval then
    local first
    first, firstCost, firstSum = entry(0)
    if first and first <= now - interval then
      local function lives(at) return at > now - interval end
      redis.call('LTRIM', key, search(1, redis.call('LLEN', key) - 1, lives), -1)
      first, firstCost, firstSum = entry(0)
    end
    if first then used = (lastSum - firstSum) % 4503599627370496 + firstCost else last = nil end
  else
    last = nil
  end
  if cost > 0 and used + cost > limit then
    local function frees(_, _, sum)
      return (sum - firstSum) % 4503599627370496 + firstCost >= used + cost - limit
    end
    local at = entry(search(0, redis.call('LLEN', key) - 1, frees))
    return limit - used, at + interval - now, last + interval - now
  end
  if take and cost > 0 then
    used = used + cost
    if last == slot then
      local sum = (lastSum + cost) % 4503599627370496
      redis.call('LSET', key, -1, string.format('%.0f %.0f %.0f', slot, lastCost + cost, sum))
    else
      if not last then redis.call('DEL', key) end
      local sum = ((last and lastSum or 0) + cost) % 4503599627370496
      redis.call('RPUSH', key, string.format('%.0f %.0f %.0f', slot, cost, sum))
    end
    last = slot
    expire(slot + interval - now)
  end
  return limit - used, 0, last and last + interval - now or 0
end`

const sources = { bucket, log, window }

/** Judges one and takes of it at once where it can. */
const single = (kind: RateLimiter.Meter["kind"]): RedisClient.Script =>
  RedisClient.script(
    `ratelimit.${kind}`,
    `${prelude}
${sources[kind]}
local remaining, retry, reset = ${kind}(
  KEYS[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[2] == '1'
)
return {now, math.max(0, remaining), retry, reset}`
  )

const singles = { bucket: single("bucket"), log: single("log"), window: single("window") }

/** Judges all, and takes of all in a second pass if every one lets the cost pass. */
const several = RedisClient.script(
  "ratelimit.all",
  `${prelude}
${bucket}
${log}
${window}
local kinds = {bucket = bucket, log = log, window = window}
local reply, passes = {now}, true
local function each(take)
  for index, key in ipairs(KEYS) do
    local at = index * 5 - 2
    local remaining, retry, reset = kinds[ARGV[at]](
      key, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), take
    )
    if retry > 0 then passes = false end
    reply[index * 3 - 1], reply[index * 3], reply[index * 3 + 1] = math.max(0, remaining), retry, reset
  end
end
each(false)
if passes and cost > 0 and ARGV[2] == '1' then each(true) end
return reply`
)

/** A script holds no more than it needs: Lua makes anew, each time, what a script defines. */
const scriptFor = (meters: ReadonlyArray<RateLimiter.Meter>): RedisClient.Script => {
  const [first, second] = meters
  return first === undefined || second !== undefined ? several : singles[first.kind]
}
