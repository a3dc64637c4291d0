/**
 * Conversation memory in Redis: a list of JSON messages at `conversation:<id>` and the summary beside it, at
 * `{conversation:<id>}:summary`. One round trip an operation; plain effects.
 *
 * @since 0.1.0
 */
import * as ConversationMemory from "@underlay/core/state/ConversationMemory"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The conversation memory of core on the Redis client. Fails on options that cannot be.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: ConversationMemory.Options = {}
): Layer.Layer<
  ConversationMemory.ConversationMemory,
  ConversationMemory.ConversationMemoryError,
  RedisClient.RedisClient
> =>
  Layer.effect(
    ConversationMemory.ConversationMemory,
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  )

/**
 * The memory as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  client: RedisClient.Service,
  options: ConversationMemory.Options = {}
): Effect.Effect<ConversationMemory.Service, ConversationMemory.ConversationMemoryError> =>
  ConversationMemory.make(backend(client), options)

const backend = (client: RedisClient.Service): ConversationMemory.Backend => {
  const keys = (id: string): ReadonlyArray<string> => [`conversation:${id}`, `{conversation:${id}}:summary`]

  const run = <A>(
    method: string,
    script: RedisClient.Script,
    id: string,
    args: ReadonlyArray<RedisClient.RedisArgument>,
    read: (reply: RedisClient.Reply) => A
  ): Effect.Effect<A, ConversationMemory.ConversationMemoryError> =>
    Effect.mapBoth(client.run(script, keys(id), args), {
      onSuccess: read,
      onFailure: (error: RedisError) =>
        new ConversationMemory.ConversationMemoryError({
          reason: StoreErrors.reasonOf(error),
          method,
          description: StoreErrors.descriptionOf(error),
          outcome: StoreErrors.outcomeOf(error),
          cause: error
        })
    })

  return {
    append: (id, texts, maximum, ttl) =>
      run("append", appendScript, id, [ttl, maximum, ...texts], (reply) => (typeof reply === "number" ? reply : 0)),
    recent: (id, limit, ttl) =>
      run("recent", recentScript, id, [ttl, limit === undefined ? 0 : -limit], (reply) =>
        Array.isArray(reply) ? reply.filter((one) => typeof one === "string") : []
      ),
    replaceHead: (id, from, to, ttl) =>
      run("trim", replaceHeadScript, id, [ttl, from.length, ...from, ...to], (reply) => reply === 1),
    summary: (id, ttl) =>
      run("summary", summaryScript, id, [ttl], (reply) => (typeof reply === "string" ? reply : undefined)),
    setSummary: (id, summary, ttl) => run("setSummary", setSummaryScript, id, [ttl, summary], () => undefined),
    clear: (id) => run("clear", clearScript, id, [], (reply) => reply === 1)
  }
}

const touch = `redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])`

/** One RPUSH a message: a list of arguments has a limit in Lua. */
const appendScript = RedisClient.script(
  "conversation.append",
  `for index = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[index]) end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
${touch}
return redis.call('LLEN', KEYS[1])`
)

const recentScript = RedisClient.script(
  "conversation.recent",
  `${touch}
return redis.call('LRANGE', KEYS[1], ARGV[2], -1)`
)

/** The first messages are replaced only while they are still those that the caller read. */
const replaceHeadScript = RedisClient.script(
  "conversation.trim",
  `local count = tonumber(ARGV[2])
local head = redis.call('LRANGE', KEYS[1], 0, count - 1)
if #head ~= count then return 0 end
for index = 1, count do
  if head[index] ~= ARGV[index + 2] then return 0 end
end
redis.call('LTRIM', KEYS[1], count, -1)
for index = #ARGV, count + 3, -1 do redis.call('LPUSH', KEYS[1], ARGV[index]) end
${touch}
return 1`
)

const summaryScript = RedisClient.script(
  "conversation.summary",
  `${touch}
return redis.call('GET', KEYS[2])`
)

const setSummaryScript = RedisClient.script(
  "conversation.setSummary",
  `redis.call('SET', KEYS[2], ARGV[2])
${touch}
return 1`
)

const clearScript = RedisClient.script(
  "conversation.clear",
  `if redis.call('DEL', KEYS[1], KEYS[2]) > 0 then return 1 end
return 0`
)
