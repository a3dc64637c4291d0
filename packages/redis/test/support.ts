/** What the tests of this package share: a client of a server, and time that passes for the server's keys. */

import { RedisClient } from "@underlay/redis"
import * as Server from "@underlay/servers/RedisServer"
import { Context, Duration, Effect, Layer } from "effect"

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

/**
 * How long the machine keeps this process from running: a timer that is later than its time, less what the process itself
 * computed meanwhile, for a client that holds up its own process is slow and not held up. One timer for all who measure,
 * while somebody does.
 */
const machine = (() => {
  const every = 10
  let measuring = 0
  let timer: ReturnType<typeof setInterval> | undefined
  let seen = 0
  let computed = 0
  let stalled = 0
  const look = (): void => {
    const [now, cpu] = [performance.now(), process.cpuUsage()]
    const computedNow = (cpu.user + cpu.system) / 1_000
    stalled += Math.max(0, now - seen - every - (computedNow - computed))
    seen = now
    computed = computedNow
  }
  return {
    begin: (): number => {
      if (measuring++ === 0) {
        const cpu = process.cpuUsage()
        seen = performance.now()
        computed = (cpu.user + cpu.system) / 1_000
        timer = setInterval(look, every).unref()
      } else look()
      return stalled
    },
    /** The milliseconds since `begin`. */
    since: (stalledThen: number): number => {
      look()
      return stalled - stalledThen
    },
    end: (): void => {
      if (--measuring === 0) clearInterval(timer)
    }
  }
})()

/**
 * How long an effect takes by the machine's own clock, in milliseconds: less what the machine kept this process from
 * running meanwhile, for two cores are shared with much else; and in all.
 */
export const timed = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<readonly [value: A, took: number, inAll: number], E, R> =>
  Effect.suspend(() => {
    const stalled = machine.begin()
    const started = performance.now()
    return Effect.ensuring(
      Effect.map(effect, (value) => {
        const inAll = performance.now() - started
        return [value, Math.max(0, inAll - machine.since(stalled)), inAll] as const
      }),
      Effect.sync(machine.end)
    )
  })
