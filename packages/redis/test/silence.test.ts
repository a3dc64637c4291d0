import { assert, describe, it } from "@effect/vitest"
import {
  Cache,
  Caches,
  CircuitControl,
  ConversationMemory,
  Counters,
  EventBus,
  Lock,
  OneTimeStore,
  RateLimiter,
  SessionStore
} from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import * as Underlay from "@underlay/redis"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Cause, Effect, FiberRef, Layer, LogLevel } from "effect"
import * as Operations from "./operations.ts"
import * as Stores from "./stores.ts"

/** The modules whose operations are run below, and those that have none. A module that is in neither fails a test. */
const run = [
  "FallbackSessionStore",
  "RedisCache",
  "RedisCaches",
  "RedisCircuitControl",
  "RedisClient",
  "RedisCommand",
  "RedisConversationMemory",
  "RedisCounters",
  "RedisEventBus",
  "RedisHealth",
  "RedisLock",
  "RedisOneTimeStore",
  "RedisRateLimiter",
  "RedisSessionStore",
  "ResilientSessionStore"
]
const withoutOperations: Record<string, string> = {
  RedisConnection: "makes a client, whose operations are RedisClient's",
  RedisDriver: "what the client speaks through",
  RedisError: "an error",
  RedisSettings: "reads the configuration when a client is made"
}

const Memory = Layer.mergeAll(
  SessionStore.layerMemory(),
  ConversationMemory.layerMemory(),
  Cache.layerMemory(),
  Caches.layerMemory,
  Lock.layerMemory(),
  OneTimeStore.layerMemory(),
  RateLimiter.layerMemory(),
  Counters.layerMemory(),
  EventBus.layerMemory,
  CircuitControl.layerMemory
)

const onRedis = (options: RedisClient.Options) => Stores.layer.pipe(Layer.provideMerge(RedisClient.layer(options)))

/** What an effect emits in any way, in the order of its emission, when the lowest level to log is `level`. */
const emitted = <A, E, R>(level: LogLevel.LogLevel, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const recording = yield* Recording.make
    const printed: Array<string> = []
    const result = yield* Effect.acquireUseRelease(
      Effect.sync(() => listenTo(printed)),
      () => recording.within(Effect.locally(effect, FiberRef.currentMinimumLogLevel, level)),
      (restore) => Effect.sync(restore)
    )
    return {
      result,
      lines: (yield* recording.lines).map(
        ({ message, cause }) => `${message}${Cause.isEmpty(cause) ? "" : Cause.pretty(cause)}`
      ),
      rest: [
        ...(yield* recording.spans).map(({ name }) => `span ${name}`),
        ...(yield* recording.metrics).map(({ name }) => `metric ${name}`),
        ...printed
      ]
    }
  })

/** Hears what goes to the console, to the process's output and to its warnings, until it is told to stop. */
const listenTo = (printed: Array<string>): (() => void) => {
  const restores: Array<() => void> = []
  const hear = <T extends object, K extends keyof T & string>(target: T, name: K) => {
    const before = target[name]
    if (typeof before !== "function") return
    const heard: unknown = (...args: ReadonlyArray<unknown>) => {
      printed.push(`${name} ${args.map(String).join(" ")}`)
      return true
    }
    Reflect.set(target, name, heard)
    restores.push(() => Reflect.set(target, name, before))
  }
  for (const name of ["log", "info", "debug", "warn", "error", "trace"] as const) hear(globalThis.console, name)
  hear(process.stdout, "write")
  hear(process.stderr, "write")
  const warned = (warning: Error) => printed.push(`warning ${warning.message}`)
  process.on("warning", warned)
  return () => {
    for (const restore of restores) restore()
    process.off("warning", warned)
  }
}

/** Puts another type than is expected at every key. */
const spoilTypes = `for _, key in ipairs(redis.call('KEYS', '*')) do
  local type = redis.call('TYPE', key).ok
  redis.call('DEL', key)
  if type == 'set' then redis.call('SET', key, 'x') else redis.call('SADD', key, 'x') end
  redis.call('PEXPIRE', key, 60000)
end`

/** Keeps the type of every key, and makes what is in it unreadable. */
const spoilContents = `for _, key in ipairs(redis.call('KEYS', '*')) do
  local type = redis.call('TYPE', key).ok
  if type == 'string' then
    redis.call('SET', key, '{', 'KEEPTTL')
  elseif type == 'hash' then
    for _, field in ipairs(redis.call('HKEYS', key)) do redis.call('HSET', key, field, '{') end
  elseif type == 'list' then
    for index = 0, redis.call('LLEN', key) - 1 do redis.call('LSET', key, index, '{') end
  elseif type == 'stream' then
    redis.call('XADD', key, '*', '{', '{')
  elseif type == 'set' then
    redis.call('SADD', key, '{')
  elseif type == 'zset' then
    redis.call('ZADD', key, 1, '{')
  end
end`

/** The one warning that each of three stores has for a corrupt entry. */
const warnings = [
  "a stored session is corrupt and counts as absent",
  "an override of a circuit is corrupt and left out",
  "stored messages of a conversation are corrupt and left out"
]
const warningsIn = (lines: ReadonlyArray<string>) =>
  [...new Set(lines.map((line) => warnings.find((warning) => line.includes(warning)) ?? line))].sort()

const levels = [...LogLevel.allLevels]

describe("the internal plane is silent", () => {
  it("every module of the package is run here, or named with its reason", () => {
    assert.deepStrictEqual(Object.keys(Underlay).sort(), [...run, ...Object.keys(withoutOperations)].sort())
  })

  it.scopedLive("a recording sees what is emitted in each way", () =>
    Effect.gen(function* () {
      const { lines, rest } = yield* emitted(
        LogLevel.Info,
        Effect.gen(function* () {
          yield* Effect.logDebug("too low")
          yield* Effect.withSpan(Effect.logInfo("a line"), "a span")
          yield* Effect.sync(() => {
            // biome-ignore lint/suspicious/noConsole: what is looked for
            globalThis.console.error("printed")
            process.stderr.write("written")
          })
        })
      )
      assert.deepStrictEqual(lines, ["a line"])
      assert.deepStrictEqual(rest, ["span a span", "error printed", "write written"])
    })
  )

  it.scopedLive(
    "every operation in this process, at every level",
    () =>
      Effect.forEach(levels, (level) =>
        Effect.gen(function* () {
          const { lines, rest } = yield* emitted(
            level,
            Effect.scoped(Effect.flatMap(Operations.ports, Operations.runAll).pipe(Effect.provide(Memory)))
          )
          assert.deepStrictEqual([...lines, ...rest], [], level.label)
        })
      ),
    60_000
  )
})

describe.skipIf(Need.missing("redis-server"))(
  Need.title("the internal plane is silent on Redis", "redis-server"),
  () => {
    /** Every operation over a server of its own, with what is done to the server before each. */
    const over = (
      level: LogLevel.LogLevel,
      options: RedisClient.Options,
      world: {
        readonly begin?: (server: Server.RedisServer) => Effect.Effect<unknown, unknown>
        readonly before?: (server: Server.RedisServer) => Effect.Effect<unknown, unknown>
      }
    ) =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const operations = Effect.gen(function* () {
          const all = yield* Operations.everything
          yield* Effect.orDie(world.begin?.(server) ?? Effect.void)
          return yield* Operations.runAll(all, Effect.orDie(world.before?.(server) ?? Effect.void))
        }).pipe(Effect.scoped, Effect.provide(onRedis({ host: server.host, port: server.port, ...options })))
        return yield* emitted(level, operations)
      })

    for (const level of levels) {
      it.scopedLive(
        `every operation, at the level ${level.label}`,
        () =>
          Effect.gen(function* () {
            const { lines, rest, result } = yield* over(level, { commandTimeout: "5 seconds" }, {})
            assert.deepStrictEqual([...lines, ...rest], [])
            // they did what they were to do: those that fail are made to
            assert.deepStrictEqual(result, [])
          }),
        60_000
      )

      it.scopedLive(
        `every operation on corrupt contents, at the level ${level.label}: the one warning of each store`,
        () =>
          Effect.gen(function* () {
            const { lines, rest } = yield* over(
              level,
              { commandTimeout: "5 seconds" },
              { before: (server) => server.call("EVAL", spoilContents, "0") }
            )
            assert.deepStrictEqual(rest, [])
            assert.deepStrictEqual(warningsIn(lines), LogLevel.lessThanEqual(level, LogLevel.Warning) ? warnings : [])
          }),
        60_000
      )
    }

    it.scopedLive(
      "every operation on keys of another type",
      () =>
        Effect.gen(function* () {
          const { lines, rest, result } = yield* over(
            LogLevel.All,
            { commandTimeout: "5 seconds" },
            { before: (server) => server.call("EVAL", spoilTypes, "0") }
          )
          assert.deepStrictEqual(rest, [])
          // what holds another type is corrupt too
          assert.deepStrictEqual(
            warningsIn(lines).filter((line) => !warnings.includes(line)),
            []
          )
          assert.isAbove(result.length, 20)
        }),
      60_000
    )

    it.scopedLive(
      "every operation while the server is away",
      () =>
        Effect.gen(function* () {
          const { lines, rest, result } = yield* over(LogLevel.All, {}, { begin: (server) => server.kill })
          assert.deepStrictEqual([...lines, ...rest], [])
          assert.isAbove(result.length, 50)
        }),
      60_000
    )

    it.scopedLive(
      "every operation on a server that never was there",
      () =>
        Effect.gen(function* () {
          const { lines, rest, result } = yield* emitted(
            LogLevel.All,
            Effect.flatMap(Operations.everything, Operations.runAll).pipe(
              Effect.scoped,
              Effect.provide(onRedis({ host: "127.0.0.1", port: 1, connect: "lazy" }))
            )
          )
          assert.deepStrictEqual([...lines, ...rest], [])
          assert.isAbove(result.length, 50)
        }),
      60_000
    )

    it.scopedLive(
      "every operation while the server is frozen",
      () =>
        Effect.gen(function* () {
          const { lines, rest, result } = yield* over(
            LogLevel.All,
            { commandTimeout: "30 millis", connectTimeout: "100 millis" },
            { begin: (server) => server.freeze }
          )
          assert.deepStrictEqual([...lines, ...rest], [])
          assert.isAbove(result.length, 50)
        }),
      60_000
    )
  }
)
