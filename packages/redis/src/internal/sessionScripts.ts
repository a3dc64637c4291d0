/**
 * The Lua scripts of the session store. Each is put together from what the options of a store ask for, so that the
 * usual one stays a few lines long.
 */
import * as RedisClient from "../RedisClient.ts"

/**
 * An owner's index is a sorted set: the ids, each with the server's time in seconds at which it was last indexed, and,
 * where sessions are limited, `mark` and the id with the time in microseconds at which it became the owner's.
 */
export const mark = "\u0001"

/** Of a large index some of the oldest entries are looked at with every write. */
const large = 64
const lookedAt = 8

/**
 * Instants in Lua. `created(text)` is the `created_at` of a session in milliseconds, nil where it says nothing readable;
 * a session that this store wrote begins with it. `capped(text, ttl)` is what of a time to live is left before the
 * absolute one is over. `stamp(text, at)` puts another creation into a text that begins with one.
 */
const absoluteFunctions = (absolute: number): string => `local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function instant(text)
  local y, mo, d, h, mi, s, rest = string.match(text, '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):?(%d*)(.*)$')
  if not y then return nil end
  local fraction, zone = string.match(rest, '^[.,](%d+)(.*)$')
  zone = zone or rest
  local sign, zh, zm = string.match(zone, '^([+-])(%d%d):?(%d*)$')
  if not sign and zone ~= '' and zone ~= 'Z' then return nil end
  y, mo = tonumber(y), tonumber(mo)
  if mo <= 2 then y, mo = y - 1, mo + 12 end
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
    + math.floor((153 * (mo - 3) + 2) / 5) + tonumber(d) - 719469
  local seconds = days * 86400 + tonumber(h) * 3600 + tonumber(mi) * 60 + (tonumber(s) or 0)
  if sign then
    local offset = tonumber(zh) * 3600 + (tonumber(zm) or 0) * 60
    seconds = sign == '+' and seconds - offset or seconds + offset
  end
  return seconds * 1000 + (fraction and math.floor(tonumber('0.' .. fraction) * 1000 + 0.0005) or 0)
end
local function created(text)
  local own = string.match(text, '^{"created_at":"([^"\\\\]*)"')
  if own then return instant(own) end
  local ok, session = pcall(cjson.decode, text)
  if ok and type(session) == 'table' and type(session.created_at) == 'string' then return instant(session.created_at) end
  return nil
end
local function capped(text, ttl)
  local at = created(text)
  if not at then return math.min(ttl, ${absolute}) end
  return math.min(ttl, at + ${absolute} - now)
end
local function stamp(text, at)
  local seconds = math.floor(at / 1000)
  local z = math.floor(seconds / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local rest = seconds % 86400
  return string.format('{"created_at":"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month,
    doy - math.floor((153 * mp + 2) / 5) + 1, math.floor(rest / 3600), math.floor(rest % 3600 / 60), rest % 60,
    at % 1000) .. string.sub(text, 40)
end
`

/** Adds an id to an index and lets the index live at least so long; drops dead entries of a large one. */
const ownFunction = (limited: boolean): string => `local function own(index, id, ttl)
  local time = redis.call('TIME')
  redis.call('ZADD', index, time[1], id)
${limited ? "  redis.call('ZADD', index, 'NX', time[1] .. string.format('%06d', time[2]), '\\1' .. id)\n" : ""}  if redis.call('PTTL', index) < tonumber(ttl) then redis.call('PEXPIRE', index, ttl) end
  if redis.call('ZCARD', index) <= ${large} then return end
  for _, other in ipairs(redis.call('ZRANGE', index, 0, ${lookedAt - 1})) do
    if string.byte(other) ~= 1 and other ~= id then
      if redis.call('EXISTS', 'session:' .. other) == 1 then redis.call('ZADD', index, 'XX', time[1], other)
      else redis.call('ZREM', index, other, '\\1' .. other) end
    end
  end
end
`

/**
 * Makes room for one more session of an owner, all on one node: gives the ids of those that gave way, nil where there is
 * no room. Entries without a session, or with one of another owner, do not count.
 */
const admitFunction = (
  limit: number,
  evicts: boolean,
  tombstone: number
): string => `local function admit(index, id, owner)
  local others, since = {}, {}
  local all = redis.call('ZRANGE', index, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local other = all[i]
    if string.byte(other) == 1 then since[string.sub(other, 2)] = tonumber(all[i + 1])
    elseif other ~= id then
      if redis.call('EXISTS', 'session:' .. other) == 1 then others[#others + 1] = other
      else redis.call('ZREM', index, other, '\\1' .. other) end
    end
  end
  if #others < ${limit} then return {} end
  local live = {}
  for _, other in ipairs(others) do
    local text = redis.pcall('GET', 'session:' .. other)
    local ok, session = pcall(cjson.decode, text)
    local is = ok and type(session) == 'table' and session.user_id
    if is == owner or (type(is) == 'number' and is == tonumber(owner)) then live[#live + 1] = other
    else redis.call('ZREM', index, other, '\\1' .. other) end
  end
  if #live < ${limit} then return {} end
${
  evicts
    ? `  table.sort(live, function(a, b) return (since[a] or 0) < (since[b] or 0) end)
  local evicted = {}
  for i = 1, #live - ${limit} + 1 do
    redis.call('DEL', 'session:' .. live[i])
    redis.call('SET', '{session:' .. live[i] .. '}:gone', '1', 'PX', ${tombstone})
    redis.call('ZREM', index, live[i], '\\1' .. live[i])
    evicted[i] = live[i]
  end
  return evicted`
    : "  return nil"
}
end
`

const indexCheck = `local kind = redis.call('TYPE', KEYS[3]).ok
if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('OWNERINDEX it holds another type of value') end
`

/** Reads a session into `current`: there is none (0), or it is dead (-1). KEYS: session, tombstone. */
const readCurrent = `local current = redis.call('GET', KEYS[1])
if not current then
  if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
  return 0
end
`

/** The same, and its text comes back where it is not that of the SHA-1 in this argument. */
const readExpected = (
  argument: number
): string => `${readCurrent}if redis.sha1hex(current) ~= ARGV[${argument}] then return current end
`

/** What the scripts of one store have in common. */
export interface Shape {
  /** The absolute time to live in milliseconds. */
  readonly absolute: number | undefined
  /** The greatest number of an owner's sessions, infinite without a limit. */
  readonly limit: number
  readonly evicts: boolean
  readonly tombstone: number
  /** Whether every key is on one node, so that one script can write a session and its owner's index. */
  readonly oneNode: boolean
}

/** The scripts of a store. */
export const make = (shape: Shape) => {
  const { absolute, evicts, limit, oneNode, tombstone } = shape
  const limited = limit !== Number.POSITIVE_INFINITY
  const clock = absolute === undefined ? "" : absoluteFunctions(absolute)
  const index = oneNode
    ? ownFunction(limited) + (limited ? admitFunction(limit, evicts, tombstone) : "") + indexCheck
    : ""
  const admission = (stays: string): string =>
    limited
      ? `local evicted = {}
if not (${stays} and redis.call('ZSCORE', KEYS[3], ARGV[4])) then
  evicted = admit(KEYS[3], ARGV[4], ARGV[6])
  if not evicted then return -2 end
end
`
      : ""

  /**
   * KEYS: session, tombstone[, index]. ARGV: text, time to live, watched (1) and stamped (2) as a sum[, id, time to live
   * of the index beyond the session's, owner]. Replies: 1 written, 2 written and new, 0 refused (dead, or there
   * already), -2 too many, -3 its time is over; a list is 1 or 2 and the ids that gave way.
   */
  const write = (kind: "set" | "create", owned: boolean): RedisClient.Script =>
    RedisClient.script(
      `session.${kind}`,
      `${clock}${owned ? index : ""}${
        kind === "set"
          ? "if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end\n"
          : absolute === undefined && !owned
            ? "" // the write itself finds out
            : "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end\n"
      }${
        absolute === undefined
          ? "local text, ttl = ARGV[1], ARGV[2]\n"
          : `local text = ARGV[1]
${
  kind === "set"
    ? `local old = redis.pcall('GETRANGE', KEYS[1], 0, 79)
if type(old) == 'string' and old ~= '' and not string.match(old, '^{"created_at":"[^"\\\\]*"') then
  old = redis.call('GET', KEYS[1])
end
local since = type(old) == 'string' and old ~= '' and created(old)
`
    : "local since = nil\n"
}if since then text = stamp(text, since)
elseif tonumber(ARGV[3]) >= 2 then text = stamp(text, now)
else text = stamp(text, math.min(now, created(text) or now)) end
local ttl = capped(text, tonumber(ARGV[2]))
if ttl <= 0 then return -3 end
`
      }${kind === "set" ? "local there = (ARGV[3] == '1' or ARGV[3] == '3') and redis.call('EXISTS', KEYS[1]) or 1\n" : ""}${
        owned ? admission(kind === "set" ? "redis.call('EXISTS', KEYS[1]) == 1" : "false") : ""
      }${owned ? "own(KEYS[3], ARGV[4], ttl + ARGV[5])\n" : ""}${
        kind === "set"
          ? "redis.call('SET', KEYS[1], text, 'PX', ttl)\n"
          : `if not redis.call('SET', KEYS[1], text, 'PX', ttl, 'NX') then return 0 end
redis.call('DEL', KEYS[2])
`
      }local done = ${kind === "set" ? "2 - there" : "2"}
${
  owned && limited
    ? `if #evicted > 0 then
  table.insert(evicted, 1, done)
  return evicted
end
`
    : ""
}return done`
    )

  /**
   * The compare-and-set of every day: the time to live stays, the index as well. KEYS: session. ARGV: expected, text. The
   * text that is there instead comes back; 0 where there is none, for whatever reason.
   */
  const keep = RedisClient.script(
    "session.update",
    `local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then return current or 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1`
  )

  /**
   * Compare-and-set by the stored text or by its SHA-1. KEYS: session, tombstone[, index, index of the owner before].
   * ARGV: expected, text, time to live or 0 for the remaining one[, id, time to live of the index beyond the session's,
   * owner]. The text that is there instead comes back, so that a retry need not read; after a write the remaining time
   * to live, or a list of that and the ids that gave way. From the index of the owner before no entry goes that is younger
   * than a minute: for so long a process that made it counts on it.
   */
  const replace = (hashed: boolean, owned: boolean): RedisClient.Script =>
    RedisClient.script(
      "session.update",
      `${clock}${owned ? index : ""}${readCurrent}if ${hashed ? "redis.sha1hex(current)" : "current"} ~= ARGV[1] then return current end
${
  absolute === undefined
    ? ""
    : `local ttl = tonumber(ARGV[3])
if ttl == 0 then ttl = redis.call('PTTL', KEYS[1]) end
if ttl < 0 then ttl = ${absolute} end
ttl = capped(ARGV[2], ttl)
if ttl <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
`
}${
  owned
    ? `${admission("true")}own(KEYS[3], ARGV[4], ARGV[5] + math.max(0, ${
        absolute === undefined ? "ARGV[3] == '0' and redis.call('PTTL', KEYS[1]) or tonumber(ARGV[3])" : "ttl"
      }))
${
  limited
    ? "if KEYS[4] then redis.pcall('ZREM', KEYS[4], ARGV[4], '\\1' .. ARGV[4]) end\n"
    : `if KEYS[4] then
  local at = redis.pcall('ZSCORE', KEYS[4], ARGV[4])
  if type(at) == 'string' and redis.call('TIME')[1] - tonumber(at) > 60 then redis.call('ZREM', KEYS[4], ARGV[4]) end
end
`
}`
    : ""
}${
  absolute === undefined
    ? `if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
`
    : "redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)\n"
}local left = math.max(1, redis.call('PTTL', KEYS[1]))
${
  owned && limited
    ? `if #evicted > 0 then
  table.insert(evicted, 1, left)
  return evicted
end
`
    : ""
}return left`
    )

  /**
   * Prolongs a session. ARGV: time to live, what remains at least of one that is left alone, and whether it is to be
   * exact; nothing where these are `usual` and written in. With `reads` the text comes back, nil without a session; else
   * 1 or 0.
   */
  const prolong = (
    name: string,
    reads: boolean,
    usual?: { readonly ttl: number; readonly keep: number }
  ): RedisClient.Script => {
    const [ttl, keep, exact] =
      usual === undefined ? ["ARGV[1]", "ARGV[2]", "ARGV[3]"] : [`'${usual.ttl}'`, `'${usual.keep}'`, "'0'"]
    return RedisClient.script(
      name,
      `${clock}${
        absolute === undefined && !reads
          ? ""
          : `local current = redis.${reads ? "call" : "pcall"}('GET', KEYS[1])
if not current then return ${reads ? "false" : "0"} end
`
      }local left = redis.call('PTTL', KEYS[1])
${reads ? "" : "if left == -2 then return 0 end\n"}local ttl = tonumber(${ttl})
${
  absolute === undefined
    ? `if left < tonumber(${keep}) or (${exact} == '1' and left > ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end\n`
    : `if ${exact} == '0' then ttl = math.max(ttl, left) end
if type(current) == 'string' then ttl = capped(current, ttl) end
if ttl <= 0 then
  redis.call('DEL', KEYS[1])
  return ${reads ? "false" : "0"}
end
if left < tonumber(${keep}) or left > ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
`
}${
  reads
    ? "return current"
    : `if ARGV[4] == '0' then return 1 end
local text = redis.pcall('GET', KEYS[1])
if type(text) == 'string' then return text end
return 1`
}`
    )
  }

  const create = write("create", false)
  return {
    set: write("set", false),
    setOwned: write("set", true),
    create,
    /** The same, but -1 where it was deleted or evicted since its way was cleared. */
    createUnlessBuried: RedisClient.script(
      create.name,
      `if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end\n${create.source}`
    ),
    createOwned: write("create", true),
    replaceKeeping: keep,
    replace: replace(false, false),
    replaceHashed: replace(true, false),
    replaceOwned: replace(false, true),
    replaceOwnedHashed: replace(true, true),
    getAndTouch: prolong("session.getAndTouch", true),
    /** The touch that a store makes again and again: never to less than what remains, with times that do not change. */
    usualTouch: (usual: { readonly ttl: number; readonly keep: number }) => prolong("session.getAndTouch", true, usual),
    extendTtl: prolong("session.extendTtl", false)
  }
}

/**
 * Deletes and leaves a tombstone, whether or not there was something. The deletion comes first: a server without memory
 * refuses a script's first write if it needs some, and no later one, so that signing out always works.
 */
export const remove = RedisClient.script(
  "session.delete",
  `local were = redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return were`
)

/** The same; gives the text of what was deleted, 1 where that was none. */
export const removeAndRead = RedisClient.script(
  "session.delete",
  `local text = redis.pcall('GET', KEYS[1])
local were = redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
if were == 0 then return 0 end
if type(text) == 'string' then return text end
return 1`
)

/**
 * Moves a session to a free id and kills the old one, in one step on one node, if it is still the one that was read.
 * KEYS: session, its tombstone, the same of the new id[, index]. ARGV: tombstone, SHA-1 of the text[, ids, time to live
 * of the index beyond the session's].
 */
export const rotate = RedisClient.script(
  "session.rotate",
  `${readExpected(2)}if redis.call('EXISTS', KEYS[3]) == 1 then return 2 end
if KEYS[5] then
  local kind = redis.call('TYPE', KEYS[5]).ok
  if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('OWNERINDEX it holds another type of value') end
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[5], time[1], ARGV[4])
  local since = redis.call('ZSCORE', KEYS[5], '\\1' .. ARGV[3])
  if since then redis.call('ZADD', KEYS[5], since, '\\1' .. ARGV[4]) end
  redis.call('ZREM', KEYS[5], ARGV[3], '\\1' .. ARGV[3])
  local ttl = math.max(0, redis.call('PTTL', KEYS[1])) + ARGV[5]
  if redis.call('PTTL', KEYS[5]) < ttl then redis.call('PEXPIRE', KEYS[5], ttl) end
end
redis.call('RENAME', KEYS[1], KEYS[3])
redis.call('DEL', KEYS[4])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return 1`
)

/** What a rotation over two nodes has to know: the remaining time, -3 for none, if the text is that of this SHA-1. */
export const beginMove = RedisClient.script(
  "session.rotate",
  `${readExpected(1)}local left = redis.call('PTTL', KEYS[1])
if left < 0 then return -3 end
return math.max(1, left)`
)

/** Puts a session at a free id. */
export const place = RedisClient.script(
  "session.rotate",
  `if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then return 0 end
redis.call('DEL', KEYS[2])
return 1`
)

/** The same where the id may have given way to a limit before it was there: then it is taken. */
export const placeUnlessBuried = RedisClient.script(
  place.name,
  `if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end\n${place.source}`
)

/** The retirement of the old id, if its text is still the one that was moved. */
export const retire = RedisClient.script(
  "session.rotate",
  `${readExpected(2)}redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return 1`
)

/** Deletes a session whose text has this SHA-1, without a tombstone. */
export const dropText = RedisClient.script(
  "session.drop",
  `local current = redis.pcall('GET', KEYS[1])
if type(current) ~= 'string' or redis.sha1hex(current) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`
)

/** A text with its SHA-1, which the client could not compute of what is no UTF-8. */
export const readText = RedisClient.script(
  "session.read",
  `local current = redis.pcall('GET', KEYS[1])
if type(current) ~= 'string' then return false end
return {current, redis.sha1hex(current)}`
)

/** Deletes what is there if it is no text. */
export const dropOtherType = RedisClient.script(
  "session.drop",
  `local type = redis.call('TYPE', KEYS[1]).ok
if type == 'string' or type == 'none' then return 0 end
return redis.call('UNLINK', KEYS[1])`
)

/** Gives a session without a time to live one. */
export const mortal = RedisClient.script(
  "session.mortal",
  `if redis.call('PTTL', KEYS[1]) ~= -1 then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])`
)

/** Adds a session to its owner's index, scored by the server's time. Of a large index the oldest entries come back. */
export const own = RedisClient.script(
  "session.own",
  `local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('ZCARD', KEYS[1]) > ${large} then return redis.call('ZRANGE', KEYS[1], 0, ${lookedAt - 1}) end
return 0`
)

/**
 * Lets a new id follow an old one in the index: before it is there, so that a sign-out finds it. The old one's score is
 * that of this move then (ARGV[4], from 2 to below 3), until `moved` takes it out or somebody writes it.
 */
export const follow = RedisClient.script(
  "session.own",
  `local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1], ARGV[2])
redis.call('ZADD', KEYS[1], 'XX', ARGV[4], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 0`
)

/**
 * The old one is dead: the new one has its place in the row, also where another move took its entry out. An old id that was
 * made anew meanwhile stays. ARGV: ids, score of this move.
 */
export const moved = RedisClient.script(
  "session.own",
  `redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[2])
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) ~= tonumber(ARGV[3]) then return 0 end
local since = redis.call('ZSCORE', KEYS[1], '\\1' .. ARGV[1])
if since then redis.call('ZADD', KEYS[1], since, '\\1' .. ARGV[2]) end
return redis.call('ZREM', KEYS[1], ARGV[1], '\\1' .. ARGV[1])`
)

/** Drops entries and says how many, but none of the last minute: their session may be on its way. */
export const disown = RedisClient.script(
  "session.disown",
  `local now = tonumber(redis.call('TIME')[1])
local count = 0
for _, id in ipairs(ARGV) do
  local at = redis.call('ZSCORE', KEYS[1], id)
  if at and now - tonumber(at) > 60 then
    redis.call('ZREM', KEYS[1], id, '\\1' .. id)
    count = count + 1
  end
end
return count`
)

/** Says of an entry that its session was deleted: it is not on its way, however young it is. */
export const leave = RedisClient.script("session.leave", "return redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])")

/**
 * Admission where sessions are on other nodes than the index. ARGV: id, time to live of the index, limit, whether the
 * oldest gives way, whether to decide now, whether the session is to be a new one, whatever the index says of its id, the
 * score of who gives way here (from 1 to below 2), ids that have no session of this owner. Where there are too many and
 * it is not to decide yet, it gives the others, for the client to look which of them live. Then: 1 admitted, 0 refused, or a
 * list of those that give way. These stay in the index with that score until they are dead and `evicted` takes them out:
 * should nobody kill them, whoever is written next does.
 */
export const admit = RedisClient.script(
  "session.admit",
  `local now = redis.call('TIME')
local index, id, limit = KEYS[1], ARGV[1], tonumber(ARGV[3])
if ARGV[6] == '1' then redis.call('ZREM', index, '\\1' .. id) end
for i = 8, #ARGV do
  local at = redis.call('ZSCORE', index, ARGV[i])
  if at and now[1] - tonumber(at) > 60 then redis.call('ZREM', index, ARGV[i], '\\1' .. ARGV[i]) end
end
local evicted = {}
if redis.call('ZSCORE', index, '\\1' .. id) then
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', index, 1, '(2')) do
    if other ~= id then
      redis.call('ZADD', index, ARGV[7], other)
      evicted[#evicted + 1] = other
    end
  end
else
  local others, since = {}, {}
  local all = redis.call('ZRANGE', index, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if string.byte(all[i]) == 1 then since[string.sub(all[i], 2)] = tonumber(all[i + 1])
    elseif all[i] ~= id then others[#others + 1] = all[i] end
  end
  if #others >= limit then
    if ARGV[5] == '0' then
      table.insert(others, 1, 'full')
      return others
    end
    if ARGV[4] == '0' then return 0 end
    table.sort(others, function(a, b) return (since[a] or 0) < (since[b] or 0) end)
    for i = 1, #others - limit + 1 do
      redis.call('ZADD', index, ARGV[7], others[i])
      redis.call('ZREM', index, '\\1' .. others[i])
      evicted[i] = others[i]
    end
  end
end
redis.call('ZADD', index, now[1], id)
redis.call('ZADD', index, 'NX', now[1] .. string.format('%06d', now[2]), '\\1' .. id)
if redis.call('PTTL', index) < tonumber(ARGV[2]) then redis.call('PEXPIRE', index, ARGV[2]) end
if #evicted == 0 then return 1 end
return evicted`
)

/** Takes those out of the index that gave way and are dead, unless they were made anew meanwhile. */
export const evicted = RedisClient.script(
  "session.evicted",
  `for i = 2, #ARGV do
  local at = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or 0)
  if at == tonumber(ARGV[1]) then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return 0`
)

/** Clears the way for an explicit create: false when there is a session. */
export const clear = RedisClient.script(
  "session.create",
  `if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2])
return 1`
)

/** The key of a session, and those that go with it. */
export const key = (id: string): string => `session:${id}`
export const tombstoneKey = (id: string): string => `{session:${id}}:gone`
export const indexKey = (owner: string): string => `session-owner:${owner}`
