/**
 * The scripts of the cache. Each has one key, or an entry's key and that of its lease, which share a slot.
 */
import * as RedisClient from "../RedisClient.ts"

/** An entry with what is left of its time. */
export const timed = RedisClient.script(
  "cache.get",
  `local value = redis.pcall('GET', KEYS[1])
if not value or type(value) == 'table' then return value end
return {value, redis.call('PTTL', KEYS[1])}`
)

/** An entry with what is left of its time; or its lease, or what is left of another's. */
export const getOrTake = RedisClient.script(
  "cache.getOrTake",
  `local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then return value end
if value then return {value, redis.call('PTTL', KEYS[1])} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 'taken' end
return redis.call('PTTL', KEYS[2])`
)

export const take = RedisClient.script(
  "cache.take",
  `if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 'taken' end
return redis.call('PTTL', KEYS[1])`
)

export const set = RedisClient.script(
  "cache.set",
  `redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if redis.call('DEL', KEYS[2]) == 1 then redis.call('PUBLISH', ARGV[4], KEYS[1]) end
redis.call('PUBLISH', ARGV[3], ARGV[5])
return 1`
)

export const fill = RedisClient.script(
  "cache.fill",
  `if redis.call('GET', KEYS[2]) ~= ARGV[6] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[4], KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[5])
return 1`
)

export const remove = RedisClient.script(
  "cache.delete",
  `local count = redis.call('DEL', KEYS[1])
if redis.call('DEL', KEYS[2]) == 1 then redis.call('PUBLISH', ARGV[2], KEYS[1]) end
redis.call('PUBLISH', ARGV[1], ARGV[3])
return count`
)

/** The entry's key is its second argument: where the lease is told to have ended. */
export const release = RedisClient.script(
  "cache.release",
  `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1`
)

/** A stamp, made anew where there is none that can be read, that lives twice as long as it must. */
export const ensureStamp = RedisClient.script(
  "cache.ensureStamp",
  `local stamp = redis.pcall('GET', KEYS[1])
if not stamp or type(stamp) == 'table' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', 2 * ARGV[2])
  return ARGV[1]
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2]) end
return stamp`
)

export const dropStamp = RedisClient.script(
  "cache.dropStamp",
  `redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1`
)
