/**
 * A process of its own that uses every part of a client (commands, scripts, transactions, isolated connections, listeners)
 * until it is told to stop, whatever happens to the server. It ends by itself when nothing keeps it alive any more, and
 * says what did after the client was released: timers and sockets that were there or were made.
 */
import * as AsyncHooks from "node:async_hooks"
import * as DiagnosticsChannel from "node:diagnostics_channel"
import * as Fs from "node:fs"
import { RedisClient, RedisDriver } from "@underlay/redis"
import { Effect, Either } from "effect"
import * as Ioredis5 from "ioredis"
import * as Ioredis6 from "ioredis6"

const [version = "", given = ""] = process.argv.slice(2)
const options: RedisClient.Options = JSON.parse(given)

// whoever watches the driver must not make a failed command an unhandled one
DiagnosticsChannel.tracingChannel("ioredis:command").subscribe({
  start: () => {},
  end: () => {},
  asyncStart: () => {},
  asyncEnd: () => {},
  error: () => {}
})

const say = (word: string) => Effect.sync(() => void process.stdout.write(`${word}\n`))

const stopped = Effect.async<void>((resume) => {
  process.stdin.once("data", () => {
    process.stdin.destroy()
    resume(Effect.void)
  })
})

const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

const script = RedisClient.script("test.add", "return redis.call('INCR', KEYS[1])")

const use = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const counts = { done: 0, failed: 0 }
  const count = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.map(Effect.either(effect), (result) => {
      if (Either.isRight(result)) counts.done++
      else counts.failed++
    })
  const round = Effect.all(
    [
      count(redis.send("SET", "key", "value")),
      count(redis.send("INCR", "key")),
      count(redis.run(script, ["counter"], [])),
      count(redis.transaction([["INCR", "{a}:1"], { script, keys: ["{a}:2"], args: [] }])),
      count(Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.block("100 millis", "BLPOP", "list", 0.05)))),
      count(Effect.scoped(redis.listen(["channel"], () => {}))),
      count(redis.nodes)
    ],
    { concurrency: "unbounded" }
  )
  const forever = Effect.forever(Effect.zipRight(round, pause(5)))
  // more listeners than an EventEmitter takes for a leak
  yield* Effect.forEach(
    Array.from({ length: 20 }, (_, index) => index),
    (index) => Effect.either(redis.listen(index % 2 === 0 ? [`channel-${index}`] : { pattern: `*${index}` }, () => {})),
    { concurrency: "unbounded" }
  )
  yield* say("ready")
  yield* Effect.raceFirst(stopped, Effect.all([forever, forever, forever], { concurrency: "unbounded" }))
  // what is under way now is there when the client is released
  yield* Effect.forkDaemon(Effect.all([round, round], { concurrency: "unbounded" }))
  yield* Effect.yieldNow()
  yield* say(JSON.stringify(counts))
})

const driver = RedisDriver.fromIoredis(version === "6" ? Ioredis6 : Ioredis5)

const program = Effect.gen(function* () {
  const result = yield* Effect.either(Effect.scoped(Effect.provide(use, RedisClient.layer({ ...options, driver }))))
  if (Either.isLeft(result)) {
    process.stdin.destroy()
    yield* say(`failed ${result.left._tag === "RedisError" ? result.left.reason : result.left._op}`)
  }
  yield* say("released")
  // the driver gives its sockets 100 ms to end; what a command or an attempt to connect waits for takes longer than this
  for (let turn = 0; turn < 15; turn++) yield* pause(10)
  const kept = process.getActiveResourcesInfo().filter((one) => /^(?:Timeout|TCP|GetAddrInfo)/.test(one))
  AsyncHooks.createHook({
    init: (_id, type) => {
      if (/^(?:Timeout|TCP|GETADDRINFO)/.test(type)) kept.push(`later ${type}`)
    }
  }).enable()
  process.once("exit", () => Fs.writeSync(1, `kept ${JSON.stringify(kept)}\n`))
})

void Effect.runPromise(program)
