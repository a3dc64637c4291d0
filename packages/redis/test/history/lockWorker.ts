/**
 * A process of its own with fibers that take a lock again and again and, under it, read a resource, ponder, and write to
 * it what they read and their mark. Now and then the whole process is stopped in between. It says what it did, a line a
 * hold. With `unfenced` the resource does not look at tokens: for the checker to find.
 */
import { Lock } from "@underlay/core"
import type { LockHistory } from "@underlay/core/testing"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Effect, Either, Layer } from "effect"
import { pause } from "../support.ts"
import { listen, main, makeClock, now, randomOf, say } from "./worker.ts"

/** What a worker is told when it starts. */
export interface LockPlan {
  readonly name: string
  /** Where the lock is: often behind a proxy. */
  readonly port: number
  readonly seed: number
  readonly fibers: number
  /** In milliseconds. */
  readonly ttl: number
  /** How probable it is that the process stops before it writes. */
  readonly stops: number
  readonly mode: "fenced" | "unfenced"
}

const plan: LockPlan = JSON.parse(process.argv[2] ?? "{}")

const read = "return redis.call('GET', KEYS[1]) or ''"
const write = `redis.call('SET', KEYS[1], ARGV[1], 'PX', 86400000)
redis.call('RPUSH', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[2], 86400000)
return 1`

const fenced = { read: RedisLock.fencedScript("test.read", read), write: RedisLock.fencedScript("test.write", write) }
const plain = { read: RedisClient.script("test.read", read), write: RedisClient.script("test.write", write) }

const { clock, jump } = makeClock()

const program = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const lock = yield* Lock.Lock
  let key = "0"
  let isOver = false
  let marks = 0
  listen((line) => {
    const [word, value = ""] = line.split(" ")
    if (word === "episode") key = value
    if (word === "jump") jump(Number(value))
    if (word === "stop") isOver = true
  })

  const run = (
    which: "read" | "write",
    keys: readonly [string, ...Array<string>],
    args: ReadonlyArray<string>
  ): Effect.Effect<RedisClient.Reply, { readonly outcome: string }, Lock.FencingToken> =>
    plan.mode === "fenced" ? RedisLock.fencedRun(redis, fenced[which], keys, args) : redis.run(plain[which], keys, args)

  const hold = (client: string, random: () => number) =>
    Effect.gen(function* () {
      const [name, asked] = [key, now()]
      const resource = `{lock:${name}}:resource`
      let began: number | undefined
      let ended = 0
      let token: string | undefined
      let written: LockHistory.HoldWrite | undefined
      const body = Effect.gen(function* () {
        began = now()
        token = String((yield* Lock.FencingToken).token)
        const seen = String(yield* run("read", [resource], []))
        yield* pause(random() * 15)
        if (random() < plan.stops) {
          // in one go: nothing runs between the wakening and the write
          say("stopped")
          process.kill(process.pid, "SIGSTOP")
          // the signal can take a moment to arrive
          const until = performance.now() + 5
          while (performance.now() < until);
        }
        const mark = `${plan.name}${(++marks).toString(36)}`
        written = { mark, seen, outcome: "Unknown" }
        const result = yield* Effect.either(run("write", [resource, `{lock:${name}}:log`], [mark, seen]))
        written = {
          mark,
          seen,
          outcome: Either.isRight(result) ? "Done" : result.left.outcome === "unknown" ? "Unknown" : "NotDone"
        }
      }).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            ended = now()
          })
        )
      )
      const options = { ttl: plan.ttl, wait: "2 seconds", fair: random() < 0.3 } as const
      const result = yield* Effect.either(lock.withLock(name, options)(body))
      if (began === undefined) return
      const outcome: LockHistory.Hold = {
        client,
        asked,
        began,
        ended,
        held: Either.isRight(result),
        token,
        write: written
      }
      say({ key: name, hold: outcome })
    })

  say("ready")
  yield* Effect.forEach(
    Array.from({ length: plan.fibers }, (_, index) => index),
    (index) =>
      Effect.gen(function* () {
        const random = randomOf(plan.seed * 31 + index)
        while (!isOver) {
          yield* hold(`${plan.name}${index}`, random)
          yield* pause(random() * 10)
        }
      }),
    { concurrency: "unbounded", discard: true }
  )
  say("over")
})

const client = RedisClient.layer({ host: "127.0.0.1", port: plan.port, commandTimeout: 500 })
const layers = RedisLock.layer().pipe(Layer.provideMerge(client))

main(Effect.provide(program, layers), clock)
