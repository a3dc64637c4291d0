/**
 * The scripts of the locks. All keys of a lock share one slot. Time is the server's.
 *
 * Of a lock (`K` is `lock:<key>`, or `semaphore:<key>` for permits):
 *
 * - `K`: a lock's writer, with its time to live as the key's own; of a semaphore a sorted set of holders by expiry.
 * - `{K}:fence`: the last fencing token.
 * - `{K}:readers`: a lock's readers by expiry.
 * - `{K}:waiting`: everyone who waits, by the time at which it is given up for dead.
 * - `{K}:writer`: there while a writer waits that does not queue: no new reader gets in.
 * - `{K}:queue`: those who wait for their turn, in the order of asking.
 *
 * An attempt answers with the token; or, negative, in how many milliseconds to look again at the latest; or 0, which asks
 * for the other script.
 */
import * as RedisClient from "../RedisClient.ts"

/**
 * The next token: the server's microseconds, or one more than the last where its clock has not gone on. So it goes on
 * over an expired fence and over `FLUSHALL`.
 */
const fence = `local function fence(key, micros, ttl)
  local last = tonumber(redis.call('GET', key) or '0') or 0
  if micros <= last then micros = last + 1 end
  redis.call('SET', key, string.format('%.0f', micros), 'PX', ttl)
  return micros
end
`

/** A key lives at least so long from now. */
const keep = `local function keep(key, millis)
  if redis.call('PTTL', key) < millis then redis.call('PEXPIRE', key, math.ceil(millis)) end
end
`

/**
 * Those who have not been heard of do not wait any more. Where the clock was set back, who waits has some seconds from now
 * to be heard of again: he who is dead would hold up the others until the clock is where it was.
 */
const bury = `local function bury(waiting, queue, now)
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', waiting, now + 60000, '+inf')) do
    redis.call('ZADD', waiting, now + 3000, one)
  end
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now)) do
    redis.call('ZREM', waiting, dead)
    redis.call('ZREM', queue, dead)
  end
  if redis.call('ZCARD', queue) > redis.call('ZCARD', waiting) then
    for _, one in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
      if not redis.call('ZSCORE', waiting, one) then redis.call('ZREM', queue, one) end
    end
  end
end
`

/** Says to those who wait that they may try: to the first of the queue by its name, else to all. */
const wake = `local function wake(lock, waiting, queue)
  if redis.call('EXISTS', waiting) == 0 then return end
  local now = redis.call('TIME')
  bury(waiting, queue, now[1] * 1000 + now[2] / 1000)
  redis.call('PUBLISH', '{' .. lock .. '}:wake', redis.call('ZRANGE', queue, 0, 0)[1] or '')
end
`

/** Remembers one who was refused. */
const remember = `local function remember(waiting, queue, owner, fair, now, micros, patience)
  redis.call('ZADD', waiting, now + patience, owner)
  keep(waiting, patience)
  if not fair then return end
  if not redis.call('ZSCORE', queue, owner) then
    local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
    if last and tonumber(last) >= micros then micros = tonumber(last) + 1 end
    redis.call('ZADD', queue, string.format('%.0f', micros), owner)
  end
  keep(queue, redis.call('PTTL', waiting))
end
`

/** How many go first: of the queue those before this one, or all where it does not queue. */
const ahead = `local function ahead(queue, owner, fair)
  return fair and redis.call('ZRANK', queue, owner) or redis.call('ZCARD', queue)
end
`

/** Takes a lock to write that nobody reads and nobody queues for. KEYS: lock, fence, readers, queue. */
export const take = RedisClient.script(
  "lock.acquire",
  `if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then return 0 end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local left = redis.call('PTTL', KEYS[1])
  return left > 0 and -left or -1000
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if token <= last then token = last + 1 end
redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[3])
return token`
)

/**
 * Takes a lock to read or to write, in the order of the queue. KEYS: lock, fence, readers, waiting, writer, queue. ARGV:
 * owner, ttl, ttl of the fence, patience (0: is not remembered), `x` or `s`, whether it queues.
 */
export const takeInOrder = RedisClient.script(
  "lock.acquire",
  `${fence}${keep}${bury}${remember}${ahead}${wake}local lock, readers, waiting, writer, queue = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local owner, ttl, patience, exclusive, fair = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5] == 'x', ARGV[6] == '1'
local time = redis.call('TIME')
local now, micros = time[1] * 1000 + time[2] / 1000, time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', readers, '-inf', now)
bury(waiting, queue, now)
local isHeld = redis.call('EXISTS', lock) == 1
local isRead = exclusive and redis.call('ZCARD', readers) > 0
local isKept = not exclusive and not fair and redis.call('EXISTS', writer) == 1
if not isHeld and not isRead and not isKept and ahead(queue, owner, fair) == 0 then
  redis.call('ZREM', waiting, owner)
  redis.call('ZREM', queue, owner)
  if exclusive then
    redis.call('SET', lock, owner, 'PX', ttl)
    redis.call('DEL', writer)
  else
    redis.call('ZADD', readers, now + ttl, owner)
    keep(readers, ttl)
    if redis.call('EXISTS', queue) == 1 then wake(lock, waiting, queue) end
  end
  return fence(KEYS[2], micros, ARGV[3])
end
if patience > 0 then
  remember(waiting, queue, owner, fair, now, micros, patience)
  if exclusive and not fair then redis.call('SET', writer, '1', 'PX', patience) end
end
local left = 1000
if isHeld then
  left = redis.call('PTTL', lock)
elseif isRead then
  left = redis.call('ZRANGE', readers, -1, -1, 'WITHSCORES')[2] - now
end
return left > 0 and -math.ceil(left) or -1000`
)

/**
 * Takes a permit. KEYS: holders, fence, waiting, queue. ARGV: owner, ttl, ttl of the fence, patience, the number of
 * permits, whether it queues.
 */
export const takePermit = RedisClient.script(
  "lock.acquirePermit",
  `${fence}${keep}${bury}${remember}${ahead}${wake}local holders, waiting, queue = KEYS[1], KEYS[3], KEYS[4]
local owner, ttl, patience, fair = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[6] == '1'
local time = redis.call('TIME')
local now, micros = time[1] * 1000 + time[2] / 1000, time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', holders, '-inf', now)
bury(waiting, queue, now)
local free = tonumber(ARGV[5]) - redis.call('ZCARD', holders)
if free > ahead(queue, owner, fair) then
  redis.call('ZADD', holders, now + ttl, owner)
  keep(holders, ttl)
  redis.call('ZREM', waiting, owner)
  redis.call('ZREM', queue, owner)
  if free > 1 and redis.call('EXISTS', queue) == 1 then wake(holders, waiting, queue) end
  return fence(KEYS[2], micros, ARGV[3])
end
if patience > 0 then remember(waiting, queue, owner, fair, now, micros, patience) end
local first = redis.call('ZRANGE', holders, 0, 0, 'WITHSCORES')[2]
local left = first and first - now or 1000
return left > 0 and -math.ceil(left) or -1000`
)

/** Frees a lock that is still the owner's. KEYS: lock, waiting, queue. */
export const release = RedisClient.script(
  "lock.release",
  `${bury}${wake}if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
wake(KEYS[1], KEYS[2], KEYS[3])
return 1`
)

/** Frees what is held in a sorted set. KEYS: the set, waiting, queue, lock. */
export const releaseShare = RedisClient.script(
  "lock.release",
  `${bury}${wake}if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
wake(KEYS[4], KEYS[2], KEYS[3])
return 1`
)

/** Takes an asking back, whatever became of it. KEYS: lock, readers, waiting, queue, writer. */
export const abandon = RedisClient.script(
  "lock.abandon",
  `${bury}${wake}if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('ZREM', KEYS[3], ARGV[1]) == 1 and ARGV[2] == 'x' then redis.call('DEL', KEYS[5]) end
wake(KEYS[1], KEYS[3], KEYS[4])
return 1`
)

/** The same for a permit. KEYS: holders, waiting, queue. */
export const abandonPermit = RedisClient.script(
  "lock.abandon",
  `${bury}${wake}redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
wake(KEYS[1], KEYS[2], KEYS[3])
return 1`
)

/** Starts a lock's time anew if it is still the owner's. */
export const renew = RedisClient.script(
  "lock.renew",
  `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`
)

/**
 * The same for what is held in a sorted set. What has expired stays expired, though nobody has removed it yet. It begins
 * with a removal of nothing: a server without memory refuses a script's first write if it may need some, and no later one.
 */
export const renewShare = RedisClient.script(
  "lock.renew",
  `${keep}local expiry = redis.call('ZSCORE', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if not expiry or tonumber(expiry) <= now then return 0 end
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
keep(KEYS[1], tonumber(ARGV[2]))
return 1`
)

/** What stands before a script of a guarded resource: the last key is the mark, the last arguments its ttl and the token. */
export const guard = `local function isStale()
  local mark, ttl, token = KEYS[#KEYS], ARGV[#ARGV - 1], ARGV[#ARGV]
  local seen = redis.call('GET', mark)
  if seen and tonumber(seen) > tonumber(token) then return true end
  redis.call('SET', mark, token, 'PX', ttl)
  return false
end
if isStale() then return redis.error_reply('STALE a later holder of the lock was here') end
`
