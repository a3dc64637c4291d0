/** What the tests of this package share: a client of a server, and time that passes for the server's keys. */

import { RedisClient } from "@underlay/redis"
import * as Server from "@underlay/servers/RedisServer"
import { Context, Duration, Effect, Layer } from "effect"

export { timed } from "@underlay/servers/Timed"

export class RedisServer extends Context.Tag("test/RedisServer")<RedisServer, Server.RedisServer>() {}

export const server = (options?: Server.RedisServerOptions) => Layer.scoped(RedisServer, Server.make(options))

/** A client of the server in the context. Generous in time: two cores are shared with much else. */
export const client = (options: RedisClient.Options = {}) =>
  Layer.unwrapEffect(
    Effect.map(RedisServer, ({ host, port }) =>
      RedisClient.layer({ host, port, commandTimeout: "5 seconds", ...options })
    )
  )

const age = RedisClient.script(
  "test.age",
  `for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then
    if left <= tonumber(ARGV[1]) then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - ARGV[1]) end
  end
end
return 0`
)

/** Ages every key of the server by taking from its time to live: no waiting. */
export const advance = (duration: Duration.Duration) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.run(age, [], [Duration.toMillis(duration)]))

/** A pause of the machine's own clock, for what a real server does in its own time. */
export const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })
