/**
 * The known failures of lock libraries, and whatever else can befall a holder: nobody believes in a lock that may be
 * another's, nobody frees another's lock, nothing hangs and nothing stays behind.
 */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Lock } from "@underlay/core"
import { RedisClient, RedisLock } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Context, Deferred, Effect, Either, Exit, Fiber, Layer, Scope } from "effect"
import { pause, timed } from "./support.ts"

/** A server, a proxy in front of it, and locks that go through the proxy. */
const world = (options: RedisLock.Options & { readonly commandTimeout?: number } = {}) =>
  Effect.gen(function* () {
    const server = yield* Server.make()
    const proxy = yield* FaultProxy.make({ port: server.port })
    const locks = (port: number, lockOptions: RedisLock.Options = options) =>
      Effect.gen(function* () {
        const context = yield* Layer.build(
          RedisClient.layer({ host: "127.0.0.1", port, commandTimeout: options.commandTimeout ?? 500 })
        )
        const redis = Context.get(context, RedisClient.RedisClient)
        return { redis, lock: yield* RedisLock.make(redis, lockOptions) }
      })
    const { lock, redis } = yield* locks(proxy.port)
    const get = (key: string) => server.call("GET", key)
    return { server, proxy, lock, redis, locks, get }
  })

const until = (expectation: string, condition: Effect.Effect<boolean, unknown>, within = 5_000) =>
  Effect.gen(function* () {
    const started = performance.now()
    while (performance.now() - started < within) {
      if (yield* Effect.orElseSucceed(condition, () => false)) return performance.now() - started
      yield* pause(5)
    }
    return yield* Effect.dieMessage(`not within ${within} ms: ${expectation}`)
  })

/** Holds the event loop, as a long computation does. */
const block = (millis: number) =>
  Effect.sync(() => {
    const end = performance.now() + millis
    while (performance.now() < end);
  })

/** Work under a lock that never ends by itself, and what becomes of it. */
const working = (lock: Lock.Service, key: string, options?: Lock.LockOptions) =>
  Effect.gen(function* () {
    const started = yield* Deferred.make<Lock.Lease>()
    const state = { interruptedAt: 0 }
    const fiber = yield* Effect.fork(
      Effect.either(
        lock.withLock(
          key,
          options
        )(
          Effect.flatMap(Lock.FencingToken, (lease) =>
            Effect.onInterrupt(Effect.zipRight(Deferred.succeed(started, lease), Effect.never), () =>
              Effect.sync(() => {
                state.interruptedAt = performance.now()
              })
            )
          )
        )
      )
    )
    const lease = yield* Deferred.await(started)
    return { fiber, lease, state, startedAt: performance.now() }
  })

const isLost = (result: Either.Either<unknown, Lock.LockError>): boolean =>
  Either.isLeft(result) && result.left.reason === "Lost"

const reasonOf = <A>(effect: Effect.Effect<A, Lock.LockError>) =>
  Effect.map(Effect.either(effect), (result) => (Either.isLeft(result) ? result.left.reason : "none"))

const live = (name: string, run: () => Effect.Effect<void, unknown, Scope.Scope>) => it.scopedLive(name, run, 160_000)

interface Worker {
  readonly said: (word: string) => boolean
  readonly lines: () => ReadonlyArray<string>
  readonly signal: (signal: NodeJS.Signals) => void
  readonly code: () => number | null | undefined
  readonly problem: () => string
}

const worker = (port: number, ...args: ReadonlyArray<string | number>) =>
  Effect.acquireRelease(
    Effect.sync((): Worker => {
      const file = Path.join(import.meta.dirname, "lockWorker.ts")
      const child = ChildProcess.spawn(process.execPath, ["--import", "tsx", file, String(port), ...args.map(String)], {
        stdio: ["ignore", "pipe", "pipe"]
      })
      let output = ""
      let problem = ""
      let code: number | null | undefined
      child.stdout.on("data", (chunk) => {
        output += String(chunk)
      })
      child.stderr.on("data", (chunk) => {
        problem += String(chunk)
      })
      child.once("exit", (status) => {
        code = status
      })
      return {
        said: (word) => output.includes(`${word}\n`),
        lines: () => output.trim().split("\n"),
        signal: (signal) => void child.kill(signal),
        code: () => code,
        problem: () => problem
      }
    }),
    (one) => Effect.sync(() => one.signal("SIGKILL"))
  )

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisLock under faults", "redis-server"), () => {
  describe("a holder that lost its lock", () => {
    live(
      "redis-semaphore #205: the loop is blocked beyond the TTL, and the holder does not believe that it holds",
      () =>
        Effect.gen(function* () {
          const { lock } = yield* world()
          const { fiber, lease } = yield* working(lock, "a", { ttl: 300 })
          assert.isTrue(yield* lease.isHeld)
          yield* block(900)
          // at once, before any timer of this process had a chance
          assert.isFalse(yield* lease.isHeld)
          assert.isTrue(isLost(yield* Fiber.join(fiber)))
        })
    )

    live("the loop is blocked beyond the TTL: its release does not free the lock of the next", () =>
      Effect.gen(function* () {
        const { get, lock, server } = yield* world()
        const lease = yield* lock.acquire("a", { ttl: 150 })
        yield* block(400)
        // the server has let it go, and another process takes it
        assert.strictEqual(yield* server.call("SET", "lock:a", "another", "NX", "PX", "60000"), "OK")
        assert.isFalse(yield* lease.release)
        assert.strictEqual(yield* get("lock:a"), "another")
      })
    )

    live("redisson #5698: work is interrupted within 100 ms of FLUSHALL, and tokens go on where they were", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const times: Array<number> = []
        for (let round = 0; round < 5; round++) {
          const { fiber, lease, state } = yield* working(lock, "a")
          const at = performance.now()
          yield* server.call("FLUSHALL")
          assert.isTrue(isLost(yield* Fiber.join(fiber)))
          times.push(state.interruptedAt - at)
          const next = yield* lock.acquire("a", { wait: 0 })
          assert.isTrue(next.token > lease.token)
          yield* next.release
        }
        // `Loss` has the bound of every one, and what the machine itself was late
        assert.isBelow(Math.min(...times), 100)
      })
    )

    live("redis-semaphore #24, #175, redisson #4698: a lost lock is told within 100 ms, reader and permit alike", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const times: Array<number> = []
        for (let round = 0; round < 5; round++) {
          const exclusive = yield* working(lock, "a")
          const reader = yield* Effect.flatMap(lock.acquireRead("b"), (lease) => Effect.fork(Effect.flip(lease.lost)))
          const permit = yield* Effect.flatMap(lock.acquirePermit("c", { permits: 1 }), (lease) =>
            Effect.fork(Effect.flip(lease.lost))
          )
          const at = performance.now()
          yield* server.call("SET", "lock:a", "another", "PX", "60000")
          yield* server.call("DEL", "{lock:b}:readers", "semaphore:c")
          assert.isTrue(isLost(yield* Fiber.join(exclusive.fiber)))
          assert.strictEqual((yield* Fiber.join(reader)).reason, "Lost")
          assert.strictEqual((yield* Fiber.join(permit)).reason, "Lost")
          times.push(performance.now() - at)
          assert.strictEqual(yield* server.call("GETDEL", "lock:a"), "another")
        }
        assert.isBelow(Math.min(...times), 150)
      })
    )

    live("the server freezes: work is interrupted before the lock can be another's, and release returns", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const { fiber, lease, startedAt, state } = yield* working(lock, "a", { ttl: 800 })
        yield* server.freeze
        let believedAt = 0
        const disbelieved = Effect.flatMap(
          Effect.sync(() => performance.now()),
          (at) =>
            Effect.map(lease.isHeld, (held) => {
              if (held) believedAt = at
              return !held
            })
        )
        yield* until("nobody believes in it", disbelieved)
        assert.isBelow(believedAt - startedAt, 800)
        const [result, took] = yield* timed(Fiber.join(fiber))
        assert.isTrue(isLost(result))
        assert.isBelow(state.interruptedAt - startedAt, 2_000)
        // the release after it has waited for the command timeout at most
        assert.isBelow(took, 2_000)
        yield* server.thaw
      })
    )

    live("the server is away: renewals are tried again, and a short absence loses nothing", () =>
      Effect.gen(function* () {
        const { lock, proxy } = yield* world()
        const { fiber, lease } = yield* working(lock, "a", { ttl: 1_500 })
        for (let round = 0; round < 4; round++) {
          yield* proxy.refuse(true)
          yield* proxy.resetAll
          yield* pause(600)
          yield* proxy.calm
          yield* pause(500)
          assert.isTrue(yield* lease.isHeld)
          assert.isNull(fiber.unsafePoll())
        }
        yield* Fiber.interrupt(fiber)
      })
    )

    live("a server that comes back without the lock, as after a fail-over: the holder learns it at once", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const { fiber, lease, state } = yield* working(lock, "a", { ttl: 30_000 })
        yield* server.kill
        yield* server.start
        const at = performance.now()
        assert.isTrue(isLost(yield* Fiber.join(fiber)))
        // until it is reached again, and 50 ms
        assert.isBelow(state.interruptedAt - at, 2_000)
        const next = yield* lock.acquire("a", { wait: 0 })
        assert.isTrue(next.token > lease.token)
      })
    )

    live("renewals that come too late do not bring a lock back", () =>
      Effect.gen(function* () {
        const { lock, proxy } = yield* world({ commandTimeout: 5_000 })
        const { fiber, lease } = yield* working(lock, "a", { ttl: 600 })
        yield* proxy.blackhole(true, "replies")
        yield* until(
          "it is lost",
          Effect.map(lease.isHeld, (held) => !held)
        )
        yield* proxy.blackhole(false)
        assert.isTrue(isLost(yield* Fiber.join(fiber)))
        assert.isFalse(yield* lease.isHeld)
      })
    )

    live("the service is released: what is held counts as lost, since nobody renews it any more", () =>
      Effect.gen(function* () {
        const { redis } = yield* world()
        const scope = yield* Scope.make()
        const lock = yield* Scope.extend(RedisLock.make(redis), scope)
        const { fiber, lease } = yield* working(lock, "a")
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(isLost(yield* Fiber.join(fiber)))
        assert.isFalse(yield* lease.isHeld)
      })
    )
  })

  describe("taking", () => {
    live("redlock #369: a lock whose grant took as long as the lock lives is not had, and not left", () =>
      Effect.gen(function* () {
        const { get, lock, proxy } = yield* world({ commandTimeout: 5_000 })
        yield* proxy.latency(120)
        let ran = false
        const run = lock.withLock("a", { ttl: 200, wait: 0 })(
          Effect.sync(() => {
            ran = true
          })
        )
        assert.strictEqual(yield* reasonOf(run), "NotAcquired")
        assert.isFalse(ran)
        assert.isNull(yield* get("lock:a"))
      })
    )

    live("an interruption while the grant is on its way leaves no key", () =>
      Effect.gen(function* () {
        const { get, lock, proxy } = yield* world()
        yield* proxy.latency(50)
        for (const guard of [
          lock.withLock("a", { ttl: 60_000 }),
          lock.withLock("a", { ttl: 60_000, fair: true }),
          lock.withReadLock("a", { ttl: 60_000 }),
          lock.withPermit("a", { ttl: 60_000, permits: 1 })
        ]) {
          for (const after of [0, 20, 70, 95, 105]) {
            const fiber = yield* Effect.fork(guard(Effect.never))
            yield* pause(after)
            yield* Fiber.interrupt(fiber)
            assert.isNull(yield* get("lock:a"))
          }
        }
        const keys = yield* lock.acquire("a", { wait: 0 })
        yield* keys.release
        yield* Effect.scoped(lock.acquirePermit("a", { wait: 0, permits: 1 }))
      })
    )

    live("a grant whose answer is lost fails as unknown, and the lock is given back before its time", () =>
      Effect.gen(function* () {
        const { get, lock, proxy } = yield* world()
        yield* proxy.resetAfter(0)
        const result = yield* Effect.either(lock.withLock("a", { ttl: 60_000 })(Effect.void))
        assert.isTrue(
          Either.isLeft(result) && result.left.reason === "Unavailable" && result.left.outcome === "unknown"
        )
        yield* until(
          "it is free",
          Effect.map(get("lock:a"), (value) => value === null)
        )
      })
    )

    live("redlock #283: a server that is away is a typed failure at once, frozen within the command timeout", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        yield* server.freeze
        const [frozen, first] = yield* timed(reasonOf(lock.withLock("a")(Effect.void)))
        assert.strictEqual(frozen, "Timeout")
        assert.isBelow(first, 2_000)
        yield* server.thaw
        yield* server.kill
        yield* until(
          "it is known to be away",
          Effect.map(reasonOf(lock.withLock("a")(Effect.void)), (reason) => reason === "Unavailable")
        )
        const [away, second] = yield* timed(reasonOf(lock.withLock("a", { wait: "forever" })(Effect.void)))
        assert.strictEqual(away, "Unavailable")
        // no waiting for it, nor for the command timeout
        assert.isBelow(second, 400)
      })
    )

    live("the connection is lost while somebody waits: a typed failure, and the place in the queue is given up", () =>
      Effect.gen(function* () {
        const { lock, locks, proxy, server } = yield* world()
        const other = yield* locks(server.port)
        const held = yield* other.lock.acquire("a")
        const waiter = yield* Effect.fork(reasonOf(lock.withLock("a", { wait: "forever", fair: true })(Effect.void)))
        yield* until(
          "it waits",
          Effect.map(server.call("ZCARD", "{lock:a}:queue"), (count) => count === 1)
        )
        yield* proxy.refuse(true)
        yield* proxy.resetAll
        assert.strictEqual(yield* Fiber.join(waiter), "Unavailable")
        yield* proxy.calm
        yield* until(
          "it does not wait any more",
          Effect.map(server.call("EXISTS", "{lock:a}:queue"), (count) => count === 0)
        )
        yield* held.release
      })
    )
  })

  describe("release", () => {
    live("redlock #313: returns while the server is frozen, and while it is away", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const one = yield* lock.acquire("a", { ttl: 60_000 })
        const two = yield* lock.acquire("b", { ttl: 60_000 })
        yield* server.freeze
        const [, frozen] = yield* timed(one.release)
        assert.isBelow(frozen, 2_000)
        const [, away] = yield* timed(two.release)
        assert.isBelow(away, 2_000)
        yield* server.thaw
      })
    )

    live("a release that did not get through is made up for when the server is back", () =>
      Effect.gen(function* () {
        const { get, lock, proxy } = yield* world()
        const lease = yield* lock.acquire("a", { ttl: 60_000 })
        yield* proxy.refuse(true)
        yield* proxy.resetAll
        yield* lease.release
        assert.isNotNull(yield* get("lock:a"))
        yield* proxy.calm
        yield* until(
          "it is free",
          Effect.map(get("lock:a"), (value) => value === null)
        )
      })
    )

    live(
      "the lock was taken away just before, and the answer to the release is lost too: the holder's clock decides",
      () =>
        Effect.gen(function* () {
          const { lock, proxy, server } = yield* world({ watch: "1 minute" })
          const cut = Effect.zipRight(proxy.refuse(true), proxy.resetAll)
          const work = Effect.zipRight(server.call("DEL", "lock:a"), cut)
          // it cannot have expired, and nobody said that it was taken away
          assert.strictEqual(yield* lock.withLock("a", { ttl: "1 minute" })(Effect.as(work, 1)), 1)
          yield* proxy.calm
          yield* until(
            "it is reached again",
            Effect.map(reasonOf(lock.withLock("b")(Effect.void)), (reason) => reason === "none")
          )
          // the server does say it, where its answer comes
          const told = lock.withLock("a", { ttl: "1 minute" })(server.call("DEL", "lock:a"))
          const result = yield* Effect.either(told)
          assert.isTrue(Either.isLeft(result) && result.left._tag === "LockError" && result.left.reason === "Lost")
        })
    )

    live("redisson #7272: the watchdog does not outlive the unlock", () =>
      Effect.gen(function* () {
        const { get, lock, proxy, redis, server } = yield* world()
        yield* proxy.latency(20)
        // released while renewals and checks of it are on their way
        for (const after of [490, 500, 505, 510, 520, 540]) {
          const lease = yield* lock.acquire("a", { ttl: 1_500 })
          yield* pause(after)
          assert.isTrue(yield* lease.release)
          assert.isNull(yield* get("lock:a"))
        }
        yield* pause(100)
        const { sent } = yield* redis.stats
        yield* server.call("SET", "lock:a", "another", "PX", "200")
        yield* until(
          "another's expires",
          Effect.map(get("lock:a"), (value) => value === null)
        )
        assert.strictEqual((yield* redis.stats).sent, sent)
      })
    )
  })

  describe("waiting", () => {
    live("is woken by a message: long before anybody would look again", () =>
      Effect.gen(function* () {
        const { lock, locks, server } = yield* world()
        const other = yield* locks(server.port)
        const times: Array<number> = []
        for (let round = 0; round < 5; round++) {
          const held = yield* other.lock.acquire("a", { wait: 0 })
          const waiter = yield* Effect.fork(lock.withLock("a")(Effect.sync(() => performance.now())))
          yield* until(
            "it listens",
            Effect.map(server.call("PUBSUB", "NUMSUB", "{lock:a}:wake"), (reply) => String(reply).endsWith("1"))
          )
          // long enough that it would look again only after hundreds of milliseconds
          yield* pause(400)
          const at = performance.now()
          yield* held.release
          times.push((yield* Fiber.join(waiter)) - at)
        }
        assert.isBelow(Math.min(...times), 50)
        yield* until(
          "nobody listens any more",
          Effect.map(server.call("PUBSUB", "NUMSUB", "{lock:a}:wake"), (reply) => String(reply).endsWith("0"))
        )
      })
    )

    live("a lock whose holder is dead is had when its time is over, without a message", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        yield* server.call("SET", "lock:a", "the dead", "PX", "300")
        const [, took] = yield* timed(lock.withLock("a")(Effect.void))
        assert.isBelow(took, 2_000)
      })
    )

    live("without messages: the channels are not allowed, and locks are had all the same", () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ users: ["app on >secret ~* +@all resetchannels"] })
        const context = yield* Layer.build(
          RedisClient.layer({ host: server.host, port: server.port, username: "app", password: "secret" })
        )
        const lock = yield* RedisLock.make(Context.get(context, RedisClient.RedisClient))
        yield* server.call("SET", "lock:a", "another", "PX", "200")
        const [, took] = yield* timed(lock.withLock("a")(Effect.void))
        assert.isBelow(took, 2_000)
      })
    )

    live("a waiter that died in the queue holds up the others for some seconds only", () =>
      Effect.gen(function* () {
        const { lock, locks, proxy, server } = yield* world()
        const other = yield* locks(server.port)
        const held = yield* other.lock.acquire("a")
        const dead = yield* Effect.fork(
          Effect.ignore(lock.withLock("a", { fair: true, wait: "forever" })(Effect.never))
        )
        yield* until(
          "it waits",
          Effect.map(server.call("ZCARD", "{lock:a}:queue"), (count) => count === 1)
        )
        yield* proxy.blackhole(true)
        const next = yield* Effect.fork(other.lock.withLock("a", { fair: true, wait: 20_000 })(Effect.succeed("in")))
        yield* held.release
        const [result, took] = yield* timed(Fiber.join(next))
        assert.strictEqual(result, "in")
        assert.isBelow(took, 6_000)
        yield* Fiber.interrupt(dead)
      })
    )
  })

  describe("keys", () => {
    live("every key has a time to live, and nothing but the fences stays", () =>
      Effect.gen(function* () {
        const { lock, redis, server } = yield* world()
        const seen = new Set<string>()
        const look = Effect.gen(function* () {
          for (const key of (yield* redis.send("KEYS", "*")) as ReadonlyArray<string>) {
            const left = yield* redis.send("PTTL", key)
            // it may have gone in between
            assert.isTrue(typeof left === "number" && (left > 0 || left === -2), key)
            seen.add(key)
          }
        })
        const held = yield* lock.acquire("a")
        const reader = yield* lock.acquireRead("b")
        const permit = yield* lock.acquirePermit("c", { permits: 1 })
        const waiters = yield* Effect.forEach(
          [
            lock.withLock("a", { fair: true }),
            lock.withReadLock("a", { fair: true }),
            lock.withLock("b"),
            lock.withLock("b", { fair: true }),
            lock.withPermit("c", { permits: 1, fair: true }),
            lock.withPermit("c", { permits: 1 })
          ],
          (guard) => Effect.fork(guard(Effect.void))
        )
        for (const key of ["lock:a", "lock:b", "semaphore:c"]) {
          const waiting = server.call("ZCARD", `{${key}}:waiting`)
          yield* until(
            "all wait",
            Effect.map(waiting, (count) => count === 2)
          )
        }
        yield* look
        for (const lease of [held, reader, permit]) yield* lease.release
        for (const waiter of waiters) yield* Fiber.join(waiter)
        yield* look
        assert.includeMembers(
          [...seen],
          ["lock:a", "{lock:a}:fence", "{lock:a}:queue", "{lock:a}:waiting", "{lock:b}:readers", "{lock:b}:writer"]
        )
        assert.includeMembers([...seen], ["semaphore:c", "{semaphore:c}:fence", "{semaphore:c}:queue"])
        const left = (yield* redis.send("KEYS", "*")) as ReadonlyArray<string>
        assert.sameMembers([...left], ["{lock:a}:fence", "{lock:b}:fence", "{semaphore:c}:fence"])
      })
    )

    live("a key of another type is a typed failure, and stays", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        yield* server.call("RPUSH", "lock:a", "x")
        yield* server.call("SET", "semaphore:a", "x")
        assert.strictEqual(yield* reasonOf(lock.withLock("a", { wait: 0 })(Effect.void)), "NotAcquired")
        assert.strictEqual(yield* reasonOf(lock.withPermit("a", { permits: 1 })(Effect.void)), "Rejected")
        assert.strictEqual(yield* server.call("LLEN", "lock:a"), 1)
      })
    )

    live("tokens go on over the expiry of the lock and of the fence, and when the server's clock is set back", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world({ fenceTtl: 50 })
        const token = Effect.scoped(Effect.map(lock.acquire("a", { wait: 0 }), (lease) => lease.token))
        const first = yield* token
        yield* until(
          "the fence is gone",
          Effect.map(server.call("EXISTS", "{lock:a}:fence"), (count) => count === 0)
        )
        const second = yield* token
        assert.isTrue(second > first)
        // as if the last one had been granted by a clock that was an hour ahead
        const ahead = second + 3_600_000_000n
        yield* server.call("SET", "{lock:a}:fence", String(ahead), "PX", "60000")
        assert.strictEqual(yield* token, ahead + 1n)
      })
    )
  })

  describe("guarded resources", () => {
    live("redis-semaphore #127: a holder that is late cannot overwrite what a later one wrote", () =>
      Effect.gen(function* () {
        const { get, lock, redis, server } = yield* world()
        const late = yield* lock.acquire("a")
        yield* server.call("DEL", "lock:a")
        const next = yield* lock.acquire("a", { wait: 0 })
        const put = (lease: Lock.Lease, value: string) =>
          Effect.provideService(RedisLock.fencedSet(redis, "report", value, "1 minute"), Lock.FencingToken, lease)
        yield* put(late, "early enough")
        yield* put(next, "new")
        yield* put(next, "newer")
        assert.strictEqual(yield* reasonOf(put(late, "stale")), "Stale")
        assert.strictEqual(yield* get("report"), "newer")
        assert.isAbove(Number(yield* server.call("PTTL", "{report}:fenced")), 60_000)
      })
    )
  })

  describe("what is read to be changed", () => {
    live("is read with the token: a late holder cannot write between the read and the write of a later one", () =>
      Effect.gen(function* () {
        const { get, lock, redis, server } = yield* world({ watch: "1 minute" })
        const read = RedisLock.fencedScript("test.read", "return redis.call('GET', KEYS[1])")
        const as =
          (lease: Lock.Lease) =>
          <A>(effect: Effect.Effect<A, Lock.LockError, Lock.FencingToken>) =>
            Effect.provideService(effect, Lock.FencingToken, lease)
        const value = RedisLock.fencedRun(redis, read, ["counter"], [])
        const put = (text: string) => RedisLock.fencedSet(redis, "counter", text, "1 minute")
        yield* server.call("SET", "counter", "1", "PX", "60000")
        const late = yield* lock.acquire("a")
        assert.strictEqual(yield* as(late)(value), "1")
        yield* server.call("DEL", "lock:a")
        const next = yield* lock.acquire("a", { wait: 0 })
        assert.strictEqual(yield* as(next)(value), "1")
        assert.strictEqual(yield* reasonOf(as(late)(put("late"))), "Stale")
        assert.strictEqual(yield* reasonOf(as(late)(value)), "Stale")
        yield* as(next)(put("2"))
        assert.strictEqual(yield* get("counter"), "2")
      })
    )
  })

  describe("replicas", () => {
    live("waitReplicas: a lock counts when a replica has it, and is given back when none confirms", () =>
      Effect.gen(function* () {
        const master = yield* Server.make()
        const replica = yield* Server.make({ replicaOf: master })
        const context = yield* Layer.build(RedisClient.layer({ host: master.host, port: master.port }))
        const redis = Context.get(context, RedisClient.RedisClient)
        const lock = yield* RedisLock.make(redis, { waitReplicas: 1, waitReplicasTimeout: 300 })
        yield* until(
          "it follows",
          Effect.map(reasonOf(lock.withLock("a")(Effect.void)), (reason) => reason === "none")
        )
        const lease = yield* lock.acquire("a")
        assert.strictEqual(yield* replica.call("GET", "lock:a"), yield* master.call("GET", "lock:a"))
        yield* lease.release
        yield* replica.freeze
        assert.strictEqual(yield* reasonOf(lock.withLock("a")(Effect.void)), "Unavailable")
        yield* until(
          "it is free",
          Effect.map(master.call("GET", "lock:a"), (value) => value === null)
        )
        yield* replica.thaw
      })
    )
  })

  describe("processes", () => {
    live("eight processes count to 200 together, fairly and not, and no write is late", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const workers = yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7, 8], (one) =>
          worker(server.port, 25, 10_000, one % 2 === 0 ? "fair" : "counts")
        )
        yield* until(
          "all are done",
          Effect.sync(() => workers.every((one) => one.code() !== undefined)),
          110_000
        )
        for (const one of workers) {
          assert.strictEqual(one.code(), 0, one.problem())
          assert.deepStrictEqual(JSON.parse(one.lines().at(-1) ?? ""), { done: 25, stale: 0, lost: 0 })
        }
        assert.strictEqual(yield* server.call("GET", "counter"), "200")
      })
    )

    live("a holder that is stopped (SIGSTOP) loses its lock, and learns it when it goes on", () =>
      Effect.gen(function* () {
        const { lock, server } = yield* world()
        const one = yield* worker(server.port, 1, 500, "holds")
        yield* until(
          "it holds",
          Effect.sync(() => one.said("holding")),
          60_000
        )
        one.signal("SIGSTOP")
        const lease = yield* lock.acquire("counter", { wait: 5_000 })
        one.signal("SIGCONT")
        yield* until(
          "it is told",
          Effect.sync(() => one.code() === 0),
          5_000
        )
        assert.deepStrictEqual(JSON.parse(one.lines().at(-1) ?? ""), { done: 0, stale: 0, lost: 1 })
        // it did not free what is another's now
        assert.isTrue(yield* lease.release)
      })
    )

    live("holders that are stopped again and again: whoever is late is refused by the resource, no count is lost", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const workers = yield* Effect.forEach([1, 2, 3], () => worker(server.port, 40, 150, "counts"))
        yield* until(
          "they are ready",
          Effect.sync(() => workers.every((one) => one.said("ready"))),
          60_000
        )
        let turn = 0
        yield* until(
          "all are done",
          Effect.gen(function* () {
            const one = workers[turn++ % workers.length]
            if (one !== undefined && one.code() === undefined) {
              one.signal("SIGSTOP")
              yield* pause(200)
              one.signal("SIGCONT")
            }
            return workers.every(({ code }) => code() !== undefined)
          }),
          110_000
        )
        const totals = workers.map((one) => {
          assert.strictEqual(one.code(), 0, one.problem())
          return JSON.parse(one.lines().at(-1) ?? "") as { done: number; stale: number; lost: number }
        })
        const done = totals.reduce((sum, one) => sum + one.done, 0)
        const lost = totals.reduce((sum, one) => sum + one.lost, 0)
        assert.strictEqual(done, 120)
        // what was written just before a loss counts in the resource and not among the successes
        const counter = Number(yield* server.call("GET", "counter"))
        assert.isAtLeast(counter, done)
        assert.isAtMost(counter, done + lost)
      })
    )
  })
})
