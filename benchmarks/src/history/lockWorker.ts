/**
 * A process that takes a lock of one library again and again and, under it, reads a resource, ponders, and writes to it
 * what it read and its mark. Now and then the whole process is stopped in between. It says what it did, a line a hold.
 */
import * as Fs from "node:fs"
import { setTimeout as rest } from "node:timers/promises"
import { Lock } from "@underlay/core"
import type { LockHistory } from "@underlay/core/testing"
import { RedisClient, RedisLock } from "@underlay/redis"
import { Context, Effect, Layer, Scope } from "effect"
import { Redis } from "ioredis"
import { Mutex } from "redis-semaphore"
import Redlock from "redlock"

const [library = "", port = "", name = "", seconds = ""] = process.argv.slice(2)
const ttl = 300
const place = { host: "127.0.0.1", port: Number(port) }

const now = (): number => Number(process.hrtime.bigint()) / 1_000
const say = (line: string): void => void Fs.writeSync(1, `${line}\n`)

const read = "return redis.call('GET', KEYS[1]) or ''"
const write = `redis.call('SET', KEYS[1], ARGV[1], 'PX', 600000)
redis.call('RPUSH', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
return redis.call('PEXPIRE', KEYS[2], 600000)`
const [resource, log] = ["{lock:a}:resource", "{lock:a}:log"]

interface Resource {
  readonly read: () => Promise<string>
  readonly write: (mark: string, seen: string) => Promise<unknown>
}

/** Runs work under the lock; says whether the library says that it was held to the end, and the token if there is one. */
type Locked = (
  work: (resource: Resource) => Promise<void>
) => Promise<{ readonly held: boolean; readonly token?: string }>

let marks = 0
const hold = async (locked: Locked): Promise<void> => {
  const asked = now()
  let began: number | undefined
  let ended = 0
  let written: LockHistory.HoldWrite | undefined
  const result = await locked(async (guarded) => {
    began = now()
    const seen = await guarded.read()
    await rest(Math.random() * 15)
    if (Math.random() < 0.1) {
      say("stopped")
      process.kill(process.pid, "SIGSTOP")
      const until = performance.now() + 5
      while (performance.now() < until);
    }
    const mark = `${name}${++marks}`
    written = { mark, seen, outcome: "Unknown" }
    try {
      await guarded.write(mark, seen)
      written = { mark, seen, outcome: "Done" }
    } catch {
      written = { mark, seen, outcome: "NotDone" }
    }
    ended = now()
  }).catch(() => ({ held: false, token: undefined }))
  if (began === undefined) return
  const one: LockHistory.Hold = { client: name, asked, began, ended: ended || now(), ...result, write: written }
  say(JSON.stringify(one))
}

/** A resource that anybody may write. */
const openTo = (redis: Redis): Resource => ({
  read: async () => String(await redis.eval(read, 1, resource)),
  write: (mark, seen) => redis.eval(write, 2, resource, log, mark, seen)
})

const makers: Record<string, () => Promise<Locked>> = {
  "redlock 4": async () => {
    const redis = new Redis(place)
    const redlock = new Redlock([redis], { retryCount: 100 })
    return async (work) => {
      const lock = await redlock.lock("lock:a", ttl)
      await work(openTo(redis))
      return lock.unlock().then(
        () => ({ held: true }),
        () => ({ held: false })
      )
    }
  },
  "redis-semaphore 5": async () => {
    const redis = new Redis(place)
    return async (work) => {
      const mutex = new Mutex(redis, "a", { lockTimeout: ttl, acquireTimeout: 10_000, onLockLost: () => undefined })
      await mutex.acquire()
      await work(openTo(redis))
      const held = mutex.isAcquired
      await mutex.release()
      return { held }
    }
  },
  underlay: async () => {
    const layers = RedisLock.layer({ ttl }).pipe(Layer.provideMerge(RedisClient.layer(place)))
    const context = await Effect.runPromise(Layer.buildWithScope(layers, Effect.runSync(Scope.make())))
    const [redis, lock] = [Context.get(context, RedisClient.RedisClient), Context.get(context, Lock.Lock)]
    const [reads, writes] = [RedisLock.fencedScript("read", read), RedisLock.fencedScript("write", write)]
    return async (work) => {
      let token: string | undefined
      const body = Effect.flatMap(Lock.FencingToken, (lease) => {
        token = String(lease.token)
        const run = (
          script: RedisClient.Script,
          keys: readonly [string, ...Array<string>],
          args: ReadonlyArray<string>
        ) =>
          Effect.runPromise(
            Effect.provideService(RedisLock.fencedRun(redis, script, keys, args), Lock.FencingToken, lease)
          )
        return Effect.promise(() =>
          work({
            read: async () => String(await run(reads, [resource], [])),
            write: (mark, seen) => run(writes, [resource, log], [mark, seen])
          })
        )
      })
      const result = await Effect.runPromise(Effect.either(lock.withLock("a", { wait: "10 seconds" })(body)))
      return { held: result._tag === "Right", ...(token === undefined ? {} : { token }) }
    }
  }
}

const locked = await makers[library]?.()
if (locked === undefined) throw new Error(`no such library: ${library}`)
const end = performance.now() + Number(seconds) * 1_000
while (performance.now() < end) {
  await hold(locked)
  await rest(Math.random() * 10)
}
process.exit(0)
