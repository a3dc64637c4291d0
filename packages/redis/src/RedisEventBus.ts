/**
 * The event bus of core on Redis Streams: each partition of a topic is a stream at `events:<topic>:<partition>`, and what
 * goes with it is at `{events:<topic>:<partition>}:…`, which a cluster keeps in the same slot. Plain effects; Redis 6.2
 * or newer.
 *
 * **Who reads.** The consumers of a group share the partitions. A partition is read under a lease, a key with a time to
 * live that its reader prolongs; each read looks at the lease in the same step, so that two consumers never read the same
 * partition. When a consumer is gone, its lease runs out, and whoever takes it next claims (XAUTOCLAIM) what it had,
 * before anything else is read.
 *
 * **Who waits.** No connection is blocked, and so none is needed for each reader or partition: a reader that finds
 * nothing leaves a mark, and who publishes next takes the mark and rings, on the one subscriber connection of the client.
 * What is not rung for (a lost connection, a user that may not listen) is found at the next regular look.
 *
 * @since 0.1.0
 */
import * as EventBus from "@underlay/core/events/EventBus"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The event bus of core on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<EventBus.EventBus, never, RedisClient.RedisClient> = Layer.effect(
  EventBus.EventBus,
  Effect.map(RedisClient.RedisClient, (client) => make(client))
)

/**
 * The bus as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): EventBus.Service => EventBus.make(backend(client))

/**
 * The backend on which `make` builds the bus.
 *
 * @since 0.1.0
 * @category constructors
 */
export const backend = (client: RedisClient.Service): EventBus.Backend => {
  type Topic = EventBus.TopicSettings

  const fails =
    (method: string) =>
    (error: RedisError): EventBus.EventBusError =>
      new EventBus.EventBusError({
        reason: StoreErrors.reasonOf(error),
        method,
        description: StoreErrors.descriptionOf(error),
        outcome: StoreErrors.outcomeOf(error),
        repeatable: true,
        cause: error
      })

  const run = <A>(
    method: string,
    step: RedisClient.ScriptStep,
    read: (reply: RedisClient.Reply) => A
  ): Effect.Effect<A, EventBus.EventBusError> =>
    Effect.mapBoth(client.run(step.script, step.keys, step.args), { onSuccess: read, onFailure: fails(method) })

  /** One script for every partition of a topic, to look at it. */
  const everywhere = (
    method: string,
    topic: Topic,
    step: (partition: number) => RedisClient.Step
  ): Effect.Effect<ReadonlyArray<RedisClient.Reply>, EventBus.EventBusError> =>
    Effect.mapError(
      Effect.flatMap(client.sendMany(partitionsOf(topic).map(step)), StoreErrors.allReplies),
      fails(method)
    )

  /** One script for several partitions, to change them. What was done in one partition was done, whatever became of others. */
  const change = (
    method: string,
    steps: ReadonlyArray<RedisClient.Step>
  ): Effect.Effect<void, EventBus.EventBusError> =>
    Effect.flatMap(Effect.mapError(client.sendMany(steps), fails(method)), (results) => {
      const failed = results.find(Either.isLeft)
      if (failed === undefined) return Effect.void
      return Effect.fail(results.some(isDone) ? begun(fails(method)(failed.left)) : fails(method)(failed.left))
    })

  const retentionOf = ({ maxAge, maxLength, unacknowledged }: EventBus.RetentionSettings) => [
    maxLength,
    maxAge ?? "",
    unacknowledged === "keep" ? 1 : 0
  ]

  /** Where the server does not know how much a group has not read yet, it is counted, a page at a time. */
  const counted = (topic: Topic, partition: number, after: string, sum: number): Effect.Effect<number, RedisError> =>
    Effect.flatMap(client.run(countScript, [streamKey(topic, partition)], [after]), (reply) => {
      const [count, last] = Array.isArray(reply) ? reply : []
      if (typeof count !== "number" || typeof last !== "string" || count === 0) return Effect.succeed(sum)
      return counted(topic, partition, last, sum + count)
    })

  return {
    declare: (topic) =>
      run(
        "declare",
        { script: declareScript, keys: [topicKey(topic)], args: [topic.partitions, topic.forgetAfter] },
        numberOf
      ),

    append: (topic, partition, entries) => {
      const keys = [streamKey(topic, partition), idleKey(topic, partition), trimmedKey(topic, partition)]
      const args: Array<RedisClient.RedisArgument> = [
        topic.forgetAfter,
        topic.deduplicateFor,
        channelOf(topic),
        partition,
        ...retentionOf(topic.retention),
        entries.length
      ]
      for (const { data, headers, id, key, unique } of entries) {
        args.push(id, unique ? keys.push(idKey(topic, partition, id)) : 0, maybe(key), maybe(headers), data)
      }
      return run("publish", { script: appendScript, keys, args }, (reply) => {
        const flat = Array.isArray(reply) ? reply : []
        return entries.map((_, index) => ({
          position: textOf(flat[2 * index]) ?? "0-0",
          duplicate: flat[2 * index + 1] === 1
        }))
      })
    },

    open: (topic, group, starts) =>
      change(
        "open",
        partitionsOf(topic).flatMap((partition) => {
          const start = starts[partition]
          return start === undefined
            ? []
            : [{ script: openScript, keys: [streamKey(topic, partition)], args: [group, start, topic.forgetAfter] }]
        })
      ),

    beat: (topic, { group, token }, ttl, held) => {
      const mine = new Set(held)
      const partitions = partitionsOf(topic)
      const steps = partitions.map(
        (partition): RedisClient.Step =>
          mine.has(partition)
            ? {
                script: renewScript,
                keys: [
                  leaseKey(topic, partition, group),
                  streamKey(topic, partition),
                  deadKey(topic, partition, group),
                  trimmedKey(topic, partition)
                ],
                args: [token, ttl, topic.forgetAfter, ...retentionOf(topic.retention)]
              }
            : ["GET", leaseKey(topic, partition, group)]
      )
      const live: RedisClient.Step = {
        script: liveScript,
        keys: [membersKey(topic, group), topicKey(topic)],
        args: [token, ttl, channelOf(topic), topic.forgetAfter]
      }
      return Effect.flatMap(client.sendMany([live, ...steps]), ([members, ...leases]) => {
        if (members === undefined) return Effect.die("sendMany answers every step")
        if (Either.isLeft(members)) return Effect.fail(fails("beat")(members.left))
        const beat = { kept: [] as Array<number>, lost: [] as Array<number>, free: [] as Array<number> }
        partitions.forEach((partition, index) => {
          const lease = leases[index]
          // nobody knows: neither kept nor lost
          if (lease === undefined || Either.isLeft(lease)) return
          if (mine.has(partition)) (lease.right === 1 ? beat.kept : beat.lost).push(partition)
          // one that was taken without our hearing of it is ours to take
          else if (lease.right === null || lease.right === token) beat.free.push(partition)
        })
        return Effect.succeed({ members: textsOf(members.right), ...beat })
      })
    },

    acquire: (topic, { group, token }, ttl, partition) =>
      run(
        "acquire",
        { script: acquireScript, keys: [leaseKey(topic, partition, group)], args: [token, ttl] },
        (reply) => reply === 1
      ),

    release: (topic, { consumer, group, token }, partition, done, returned, unseen) =>
      run(
        "release",
        {
          script: releaseScript,
          keys: [streamKey(topic, partition), leaseKey(topic, partition, group)],
          args: [
            group,
            consumer,
            token,
            channelOf(topic),
            unseen ?? "",
            done.length,
            ...done,
            ...returned.flatMap(({ deliveries, position }) => [position, deliveries])
          ]
        },
        () => undefined
      ),

    leave: (topic, { group, token }) =>
      run(
        "leave",
        { script: leaveScript, keys: [membersKey(topic, group)], args: [token, channelOf(topic)] },
        () => undefined
      ),

    adopt: (topic, { consumer, group, token }, partition, from, count) =>
      run(
        "adopt",
        {
          script: adoptScript,
          keys: [streamKey(topic, partition), leaseKey(topic, partition, group)],
          args: [group, consumer, token, from, count]
        },
        (reply): EventBus.Leased<EventBus.Adopted> => {
          if (reply === "lost" || reply === "no-group") return reply
          const [next, ...claimed] = Array.isArray(reply) ? reply : []
          return {
            value: {
              next: next === "0-0" ? undefined : textOf(next),
              entries: claimed.flatMap((one) => {
                const [deliveries, entry] = Array.isArray(one) ? one : []
                return entriesOf([entry ?? null]).map((stored) => ({ entry: stored, deliveries: Number(deliveries) }))
              })
            }
          }
        }
      ),

    read: (topic, { consumer, group, token }, partition, count) =>
      run(
        "read",
        {
          script: readScript,
          keys: [streamKey(topic, partition), leaseKey(topic, partition, group), idleKey(topic, partition)],
          args: [group, consumer, token, count, topic.forgetAfter]
        },
        (reply): EventBus.Leased<ReadonlyArray<EventBus.StoredEntry>> =>
          reply === "lost" || reply === "no-group" ? reply : { value: entriesOf(reply) }
      ),

    begin: (topic, { consumer, group, token }, partition, position, deliveries) =>
      run(
        "begin",
        {
          script: beginScript,
          keys: [streamKey(topic, partition), leaseKey(topic, partition, group)],
          args: [group, consumer, token, position, deliveries]
        },
        (reply): EventBus.Leased<void> => (reply === "lost" || reply === "no-group" ? reply : { value: undefined })
      ),

    acknowledge: (topic, group, partition, positions) =>
      positions.length === 0
        ? Effect.void
        : Effect.mapBoth(client.send("XACK", streamKey(topic, partition), group, ...positions), {
            onSuccess: () => undefined,
            onFailure: fails("acknowledge")
          }),

    bury: (topic, group, partition, { deliveries, description, entry, reason }) =>
      run(
        "bury",
        {
          script: buryScript,
          keys: [streamKey(topic, partition), deadKey(topic, partition, group)],
          args: [
            group,
            entry.position,
            topic.forgetAfter,
            topic.maxDeadLetters,
            ...["id", entry.id, "data", entry.data, "position", entry.position],
            ...["deliveries", deliveries, "reason", reason, "description", description],
            ...(entry.key === undefined ? [] : ["key", entry.key]),
            ...(entry.headers === undefined ? [] : ["headers", entry.headers]),
            ...(entry.publishedAt === undefined ? [] : ["at", entry.publishedAt])
          ]
        },
        () => undefined
      ),

    range: (topic, partition, after, count) =>
      run(
        "range",
        {
          script: rangeScript,
          keys: [streamKey(topic, partition), idleKey(topic, partition)],
          args: [after, count, topic.forgetAfter]
        },
        entriesOf
      ),

    ends: (topic) =>
      Effect.map(
        everywhere("ends", topic, (partition) => ({
          script: endScript,
          keys: [streamKey(topic, partition)],
          args: []
        })),
        textsOf
      ),

    letters: (topic, group, partition, after, count) =>
      Effect.mapBoth(client.send("XRANGE", deadKey(topic, partition, group), `(${after}`, "+", "COUNT", count), {
        onSuccess: lettersOf,
        onFailure: fails("letters")
      }),

    replay: (topic, group, partition, letters) =>
      run(
        "replay",
        {
          script: replayScript,
          keys: [streamKey(topic, partition), deadKey(topic, partition, group), idleKey(topic, partition)],
          args: [group, topic.forgetAfter, channelOf(topic), partition, ...letters]
        },
        numberOf
      ),

    drop: (topic, group, partition, letters) =>
      letters.length === 0
        ? Effect.succeed(0)
        : Effect.mapBoth(client.send("XDEL", deadKey(topic, partition, group), ...letters), {
            onSuccess: numberOf,
            onFailure: fails("drop")
          }),

    seek: (topic, group, starts) =>
      Effect.zipRight(
        change(
          "seek",
          partitionsOf(topic).map((partition) => ({
            script: seekScript,
            keys: [streamKey(topic, partition)],
            args: [group, starts[partition] ?? "0-0", topic.forgetAfter]
          }))
        ),
        // who does not hear it looks by itself
        Effect.ignore(client.send("PUBLISH", channelOf(topic), "all"))
      ),

    groups: (topic) =>
      Effect.map(
        everywhere("groups", topic, (partition) => ({
          script: groupsScript,
          keys: [streamKey(topic, partition)],
          args: []
        })),
        (replies) => [...new Set(replies.flatMap(textsOf))].sort()
      ),

    stats: (topic, group) =>
      Effect.flatMap(
        everywhere("stats", topic, (partition) => ({
          script: statsScript,
          keys: [streamKey(topic, partition), deadKey(topic, partition, group), leaseKey(topic, partition, group)],
          args: [group]
        })),
        (replies) =>
          Effect.mapError(
            Effect.forEach(
              replies,
              (reply, partition) => {
                const [length, lag, pending, deadLetters, lease, last] = Array.isArray(reply) ? reply : []
                const known =
                  typeof lag === "number" && lag >= 0
                    ? Effect.succeed(Math.min(lag, Number(length)))
                    : counted(topic, partition, textOf(last) ?? "0-0", 0)
                return Effect.map(known, (lag) => ({
                  partition,
                  length: Number(length ?? 0),
                  lag,
                  pending: Number(pending ?? 0),
                  deadLetters: Number(deadLetters ?? 0),
                  consumer: consumerOf(lease)
                }))
              },
              { concurrency: 8 }
            ),
            fails("stats")
          )
      ),

    removeGroup: (topic, group) =>
      Effect.zipRight(
        change(
          "removeGroup",
          partitionsOf(topic).map((partition) => ({
            script: removeGroupScript,
            keys: [streamKey(topic, partition), deadKey(topic, partition, group)],
            args: [group]
          }))
        ),
        Effect.mapBoth(client.send("DEL", membersKey(topic, group)), {
          onSuccess: () => undefined,
          onFailure: (error) => begun(fails("removeGroup")(error))
        })
      ),

    trim: (topic, partition, retention) =>
      run("trim", { script: trimScript, keys: [streamKey(topic, partition)], args: retentionOf(retention) }, numberOf),

    bell: (topic, ring) =>
      Effect.catchAll(
        client.listen([channelOf(topic)], (event) => {
          if (event._tag === "Ready") ring("all")
          else if (event._tag === "Message") {
            if (event.payload === "members" || event.payload === "all") ring(event.payload)
            else ring(Number(event.payload))
          }
        }),
        // a user that may not listen looks at regular times
        () => Effect.void
      )
  }
}

const topicKey = ({ name }: EventBus.TopicSettings): string => `events-topic:${name}`
const membersKey = (topic: EventBus.TopicSettings, group: string): string => `{${topicKey(topic)}}:members:${group}`
const channelOf = (topic: EventBus.TopicSettings): string => topicKey(topic)
const streamKey = ({ name }: EventBus.TopicSettings, partition: number): string => `events:${name}:${partition}`
const companion = (topic: EventBus.TopicSettings, partition: number, what: string): string =>
  `{${streamKey(topic, partition)}}:${what}`
const leaseKey = (topic: EventBus.TopicSettings, partition: number, group: string): string =>
  companion(topic, partition, `lease:${group}`)
const deadKey = (topic: EventBus.TopicSettings, partition: number, group: string): string =>
  companion(topic, partition, `dead:${group}`)
const idKey = (topic: EventBus.TopicSettings, partition: number, id: string): string =>
  companion(topic, partition, `id:${id}`)
const idleKey = (topic: EventBus.TopicSettings, partition: number): string => companion(topic, partition, "idle")
const trimmedKey = (topic: EventBus.TopicSettings, partition: number): string => companion(topic, partition, "trimmed")

const partitionsOf = ({ partitions }: EventBus.TopicSettings): ReadonlyArray<number> =>
  Array.from({ length: partitions }, (_, partition) => partition)

/** A text that may be absent, as an argument: the empty text is not absent. */
const maybe = (text: string | undefined): string => (text === undefined ? "-" : `+${text}`)

const isDone = (result: Either.Either<RedisClient.Reply, RedisError>): boolean =>
  Either.isRight(result) || result.left.outcome === "unknown"

/** The failure of a part of what was to be done, of which another part was or may have been. */
const begun = ({ cause, description, method, reason, repeatable }: EventBus.EventBusError): EventBus.EventBusError =>
  new EventBus.EventBusError({
    reason,
    method,
    description,
    outcome: "unknown",
    repeatable,
    ...(cause === undefined ? {} : { cause })
  })

const numberOf = (reply: RedisClient.Reply): number => (typeof reply === "number" ? reply : 0)
const textOf = (reply: RedisClient.Reply | undefined): string | undefined =>
  typeof reply === "string" ? reply : undefined
const textsOf = (reply: RedisClient.Reply): ReadonlyArray<string> =>
  Array.isArray(reply) ? reply.filter((one) => typeof one === "string") : []

/** A lease is held under the name of the consumer, a space and 32 random characters. */
const consumerOf = (lease: RedisClient.Reply | undefined): string | undefined =>
  textOf(lease)?.slice(0, -33) || undefined

const fieldsOf = (reply: RedisClient.Reply | undefined): ReadonlyMap<string, string> => {
  const fields = new Map<string, string>()
  if (Array.isArray(reply)) {
    for (let index = 0; index + 1 < reply.length; index += 2) fields.set(String(reply[index]), String(reply[index + 1]))
  }
  return fields
}

const storedAs = (position: string, fields: ReadonlyMap<string, string>): EventBus.StoredEntry => {
  const at = Number(fields.get("at"))
  return {
    position,
    id: fields.get("id") ?? "",
    key: fields.get("key"),
    headers: fields.get("headers"),
    data: fields.get("data") ?? "",
    publishedAt: fields.has("at") && Number.isFinite(at) ? at : undefined,
    only: fields.get("only")
  }
}

const entriesOf = (reply: RedisClient.Reply): ReadonlyArray<EventBus.StoredEntry> =>
  (Array.isArray(reply) ? reply : []).flatMap((one) => {
    if (!Array.isArray(one) || typeof one[0] !== "string") return []
    return [storedAs(one[0], fieldsOf(one[1]))]
  })

const lettersOf = (reply: RedisClient.Reply): ReadonlyArray<EventBus.StoredLetter> =>
  (Array.isArray(reply) ? reply : []).flatMap((one) => {
    if (!Array.isArray(one) || typeof one[0] !== "string") return []
    const fields = fieldsOf(one[1])
    const reason = fields.get("reason")
    return [
      {
        letter: one[0],
        entry: storedAs(fields.get("position") ?? "0-0", fields),
        deadAt: Number(one[0].split("-")[0]),
        deliveries: Number(fields.get("deliveries") ?? 0),
        reason: reason === "Undecodable" || reason === "Abandoned" ? reason : "Failed",
        description: fields.get("description") ?? ""
      }
    ]
  })

/** Positions: which comes first, and the next one. Their numbers do not fit into Lua's. */
const positions = `local function before(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  if am ~= bm then
    if #am ~= #bm then return #am < #bm end
    return am < bm
  end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
local function field(list, name)
  for index = 1, #list, 2 do
    if list[index] == name then return list[index + 1] end
  end
end
local function isGroupMissing(reply)
  return type(reply) == 'table' and reply.err and string.find(reply.err, 'NOGROUP') ~= nil
end
local function millis()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
`

/**
 * Removes the oldest entries, up to 100 of them: those that are too many or too old, and none that a group has not
 * acknowledged if that is to be kept.
 */
const trimming = `${positions}
local function needed(key)
  local lowest
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local name = field(group, 'name')
    local time, number = string.match(field(group, 'last-delivered-id'), '^(%d+)-(%d+)$')
    local first
    if #number > 15 then
      first = string.format('%.0f-0', tonumber(time) + 1)
    else
      first = string.format('%s-%.0f', time, tonumber(number) + 1)
    end
    if field(group, 'pending') > 0 then
      local oldest = redis.call('XPENDING', key, name)[2]
      if before(oldest, first) then first = oldest end
    end
    if not lowest or before(first, lowest) then lowest = first end
  end
  return lowest
end
local function trim(key, maxLength, maxAge, keep)
  local length = redis.call('XLEN', key)
  local excess = length - tonumber(maxLength)
  local oldest
  if maxAge ~= '' then oldest = string.format('%.0f-0', math.max(0, millis() - tonumber(maxAge))) end
  if excess <= 0 and not oldest or length == 0 then return 0 end
  if excess <= 0 and not before(redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1][1], oldest) then return 0 end
  local floor
  if keep == '1' then floor = needed(key) end
  local page = redis.call('XRANGE', key, '-', '+', 'COUNT', 101)
  local count = 0
  while count < #page and count < 100 do
    local id = page[count + 1][1]
    if floor and not before(id, floor) then break end
    if count >= excess and not (oldest and before(id, oldest)) then break end
    count = count + 1
  end
  if count == 0 then return 0 end
  if count < #page then return redis.call('XTRIM', key, 'MINID', page[count + 1][1]) end
  return redis.call('XTRIM', key, 'MAXLEN', length - count)
end
local function trimNow(key, mark, maxLength, maxAge, keep, most)
  if maxAge == '' and redis.call('XLEN', key) <= tonumber(maxLength) + 100 then return end
  -- what could not be trimmed a moment ago is not looked at each time
  if redis.call('EXISTS', mark) == 1 then return end
  local total = 0
  for _ = 1, most do
    local count = trim(key, maxLength, maxAge, keep)
    total = total + count
    if count < 100 then break end
  end
  if total == 0 then redis.call('SET', mark, '1', 'PX', 1000) end
end
`

const declareScript = RedisClient.script(
  "events.declare",
  `local partitions = redis.call('GET', KEYS[1])
if not partitions then
  partitions = ARGV[1]
  redis.call('SET', KEYS[1], partitions)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(partitions)`
)

/** Writes what is not there by its id, rings if somebody waits, and trims. */
const appendScript = RedisClient.script(
  "events.append",
  `${trimming}
local results = {}
local added = false
for index = 9, #ARGV, 5 do
  local mark = tonumber(ARGV[index + 1])
  local position = mark > 0 and redis.call('GET', KEYS[mark])
  if position then
    results[#results + 1] = position
    results[#results + 1] = 1
  else
    local fields = {'id', ARGV[index], 'data', ARGV[index + 4]}
    for offset, name in pairs({[2] = 'key', [3] = 'headers'}) do
      local value = ARGV[index + offset]
      if string.sub(value, 1, 1) == '+' then
        fields[#fields + 1] = name
        fields[#fields + 1] = string.sub(value, 2)
      end
    end
    position = redis.call('XADD', KEYS[1], '*', unpack(fields))
    if mark > 0 then redis.call('SET', KEYS[mark], position, 'PX', ARGV[2]) end
    added = true
    results[#results + 1] = position
    results[#results + 1] = 0
  end
end
if added then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  if redis.call('DEL', KEYS[2]) == 1 then redis.pcall('PUBLISH', ARGV[3], ARGV[4]) end
  trimNow(KEYS[1], KEYS[3], ARGV[5], ARGV[6], ARGV[7], 1 + math.ceil(tonumber(ARGV[8]) / 100))
end
return results`
)

/** Where a group is to begin: not beyond the end of the stream, or what comes next would be passed over. */
const starting = `${positions}
local function startOf(key, start)
  local last = '0-0'
  if redis.call('EXISTS', key) == 1 then last = field(redis.call('XINFO', 'STREAM', key), 'last-generated-id') end
  if start == '$' or before(last, start) then return last end
  return start
end
`

/**
 * A server without memory refuses a script's first write if it may need some, and no later one. What handles events, and
 * so lets them be trimmed, begins with a write that needs none, and works there.
 */
const openScript = RedisClient.script(
  "events.open",
  `${starting}
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], startOf(KEYS[1], ARGV[2]), 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`
)

const seekScript = RedisClient.script(
  "events.seek",
  `${starting}
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local start = startOf(KEYS[1], ARGV[2])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP') then return made end
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], start)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`
)

const liveScript = RedisClient.script(
  "events.live",
  `${positions}
local now = millis()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local added = redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if added == 1 then redis.pcall('PUBLISH', ARGV[3], 'members') end
return redis.call('ZRANGE', KEYS[1], 0, -1)`
)

const leaveScript = RedisClient.script(
  "events.leave",
  `redis.call('ZREM', KEYS[1], ARGV[1])
redis.pcall('PUBLISH', ARGV[2], 'members')
return 1`
)

const acquireScript = RedisClient.script(
  "events.acquire",
  `local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`
)

const renewScript = RedisClient.script(
  "events.renew",
  `${trimming}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
trimNow(KEYS[2], KEYS[4], ARGV[4], ARGV[5], ARGV[6], 10)
return 1`
)

const releaseScript = RedisClient.script(
  "events.release",
  `local done = tonumber(ARGV[6])
for index = 7, 6 + done do redis.call('XACK', KEYS[1], ARGV[1], ARGV[index]) end
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
local function count(id, deliveries)
  redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
end
for index = 7 + done, #ARGV, 2 do count(ARGV[index], ARGV[index + 1]) end
if ARGV[5] ~= '' then
  -- the group may be gone
  local unseen = redis.pcall('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[5], '+', 1000)
  if not unseen.err then
    for _, pending in ipairs(unseen) do count(pending[1], 0) end
  end
end
redis.call('DEL', KEYS[2])
redis.pcall('PUBLISH', ARGV[4], 'members')
return 1`
)

/** Claims what the group was handed and has not acknowledged, and forgets the consumers that have nothing any more. */
const adoptScript = RedisClient.script(
  "events.adopt",
  `${positions}
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 'lost' end
local page = redis.pcall('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
if isGroupMissing(page) then return 'no-group' end
if page.err then return page end
local result = {page[1]}
for _, id in ipairs(page[2]) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    result[#result + 1] = {pending and pending[4] or 1, entry}
  else
    redis.call('XACK', KEYS[1], ARGV[1], id)
  end
end
if page[1] == '0-0' then
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local name = field(consumer, 'name')
    if name ~= ARGV[2] and field(consumer, 'pending') == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
    end
  end
end
return result`
)

/** Who finds nothing says that somebody waits. */
const readScript = RedisClient.script(
  "events.read",
  `${positions}
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 'lost' end
local reply = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')
if isGroupMissing(reply) then return 'no-group' end
if reply and reply.err then return reply end
if not reply then
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[5])
  return {}
end
return reply[1][2]`
)

const beginScript = RedisClient.script(
  "events.begin",
  `${positions}
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 'lost' end
local reply = redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
if isGroupMissing(reply) then return 'no-group' end
if reply.err then return reply end
return 1`
)

const buryScript = RedisClient.script(
  "events.bury",
  `${positions}
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if isGroupMissing(pending) then return 0 end
if pending.err then return pending end
if #pending == 0 then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return 1`
)

const rangeScript = RedisClient.script(
  "events.range",
  `local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
if #entries == 0 then redis.pcall('SET', KEYS[2], '1', 'PX', ARGV[3]) end
return entries`
)

const endScript = RedisClient.script(
  "events.end",
  `${positions}
if redis.call('EXISTS', KEYS[1]) == 0 then return '0-0' end
return field(redis.call('XINFO', 'STREAM', KEYS[1]), 'last-generated-id')`
)

const replayScript = RedisClient.script(
  "events.replay",
  `${positions}
local count = 0
for index = 5, #ARGV do
  local letter = redis.call('XRANGE', KEYS[2], ARGV[index], ARGV[index])[1]
  if letter then
    local at = field(letter[2], 'at') or string.match(field(letter[2], 'position'), '^%d+')
    local fields = {'id', field(letter[2], 'id'), 'data', field(letter[2], 'data'), 'only', ARGV[1], 'at', at}
    for _, name in ipairs({'key', 'headers'}) do
      local value = field(letter[2], name)
      if value then
        fields[#fields + 1] = name
        fields[#fields + 1] = value
      end
    end
    redis.call('XADD', KEYS[1], '*', unpack(fields))
    redis.call('XDEL', KEYS[2], ARGV[index])
    count = count + 1
  end
end
if count > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  if redis.call('DEL', KEYS[3]) == 1 then redis.pcall('PUBLISH', ARGV[3], ARGV[4]) end
end
return count`
)

const groupsScript = RedisClient.script(
  "events.groups",
  `${positions}
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local names = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do names[#names + 1] = field(group, 'name') end
return names`
)

/** Length, lag (-1 where the server does not know it), pending, dead letters, lease and last position of a group. */
const statsScript = RedisClient.script(
  "events.stats",
  `${positions}
local length = redis.call('XLEN', KEYS[1])
local lease = redis.call('GET', KEYS[3]) or ''
local stats = {length, length, 0, redis.call('XLEN', KEYS[2]), lease, '0-0'}
if redis.call('EXISTS', KEYS[1]) == 0 then return stats end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  if field(group, 'name') == ARGV[1] then
    stats[2] = field(group, 'lag') or -1
    stats[3] = field(group, 'pending')
    stats[6] = field(group, 'last-delivered-id')
  end
end
return stats`
)

const countScript = RedisClient.script(
  "events.count",
  `local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 200)
if #page == 0 then return {0, ARGV[1]} end
return {#page, page[#page][1]}`
)

const removeGroupScript = RedisClient.script(
  "events.removeGroup",
  `redis.call('DEL', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])`
)

const trimScript = RedisClient.script(
  "events.trim",
  `${trimming}
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return trim(KEYS[1], ARGV[1], ARGV[2], ARGV[3])`
)
