import * as Net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Cache, ConversationMemory, type SessionStore } from "@underlay/core"
import { RedisCache, RedisClient, RedisConversationMemory, RedisHealth, RedisSessionStore } from "@underlay/redis"
import { RedisError } from "@underlay/redis/RedisError"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import {
  Context,
  Duration,
  Effect,
  Either,
  Exit,
  Fiber,
  Layer,
  Logger,
  LogLevel,
  Option,
  Schema,
  Scope,
  TestClock,
  TestContext
} from "effect"
import { failureOf, until } from "./RedisClientSupport.ts"
import { advance, pause, timed } from "./support.ts"

/** A client in a scope of its own, so that a test can release it when it likes. */
const open = (options: RedisClient.Options) =>
  Effect.gen(function* () {
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
    const context = yield* Scope.extend(Layer.build(RedisClient.layer(options)), scope)
    return { redis: Context.get(context, RedisClient.RedisClient), release: Scope.close(scope, Exit.void) }
  })

const at = (server: { readonly host: string; readonly port: number }) => ({ host: server.host, port: server.port })

/** Asks until the server answers. */
const untilReady = (redis: RedisClient.Service): Effect.Effect<void> =>
  Effect.flatMap(Effect.either(redis.send("PING")), (answer) =>
    Either.isRight(answer) ? Effect.void : Effect.zipRight(pause(5), untilReady(redis))
  )

/** A proxy before a server that a test can make swallow replies or reset connections. */
const proxy = (target: { readonly host: string; readonly port: number }) =>
  Effect.gen(function* () {
    const mode = { swallowReplies: false }
    const sockets = new Set<Net.Socket>()
    const server = Net.createServer((client) => {
      const upstream = Net.connect(target)
      for (const socket of [client, upstream]) {
        sockets.add(socket)
        socket.on("error", () => {})
        socket.on("close", () => {
          sockets.delete(socket)
          client.destroy()
          upstream.destroy()
        })
      }
      client.on("data", (data) => upstream.write(data))
      upstream.on("data", (data) => {
        if (!mode.swallowReplies) client.write(data)
      })
    })
    const port = yield* Effect.async<number>((resume) => {
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0))
      })
    })
    const reset = Effect.sync(() => {
      for (const socket of sockets) socket.resetAndDestroy()
    })
    yield* Effect.addFinalizer(() =>
      Effect.zipRight(
        reset,
        Effect.async<void>((resume) => {
          server.close(() => resume(Effect.void))
        })
      )
    )
    return { host: "127.0.0.1", port, mode, reset }
  })

describe("RedisError", () => {
  const reply = (message: string) => Object.assign(new Error(message), { name: "ReplyError" })
  const rows: ReadonlyArray<readonly [message: string, reason: string, retryable: boolean]> = [
    ["NOAUTH Authentication required.", "Authentication", false],
    ["WRONGPASS invalid username-password pair or user is disabled.", "Authentication", false],
    ["NOPERM this user has no permissions", "Authentication", false],
    ["ERR invalid password", "Authentication", false],
    ["LOADING Redis is loading the dataset in memory", "NotReady", true],
    ["READONLY You can't write against a read only replica.", "NotReady", true],
    ["MASTERDOWN Link with MASTER is down", "NotReady", true],
    ["CLUSTERDOWN The cluster is down", "NotReady", true],
    ["ERR max number of clients reached", "NotReady", true],
    ["OOM command not allowed when used memory > 'maxmemory'.", "OutOfMemory", false],
    ["WRONGTYPE Operation against a key holding the wrong kind of value", "WrongType", false],
    ["ERR unknown command 'FOO', with args beginning with: 'secret'", "Rejected", false]
  ]
  for (const [message, reason, retryable] of rows) {
    it(`${message.split(" ").slice(0, 3).join(" ")} is ${reason}`, () => {
      const error = RedisError.fromUnknown("SET", reply(message), true)
      assert.strictEqual(error.reason, reason)
      assert.strictEqual(error.outcome, "rejected")
      assert.strictEqual(error.isRetryable, retryable)
      assert.notInclude(`${error.message} ${String(error.cause)}`, "secret")
    })
  }
  it("a lost command is not retryable, for it may have been done", () => {
    assert.isFalse(RedisError.fromUnknown("INCR", new Error("Command timed out"), true).isRetryable)
    assert.isTrue(RedisError.fromUnknown("INCR", new Error("Connection is closed."), false).isRetryable)
  })
})

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisClient", "redis-server"), () => {
  it.scopedLive("a refused port fails the layer typed and in time (complaint 1, 5)", () =>
    Effect.gen(function* () {
      const port = yield* Server.freePort
      const [error, took] = yield* timed(failureOf(open({ host: "127.0.0.1", port })))
      assert.strictEqual(error._tag, "RedisError")
      assert.include(error.message, "ECONNREFUSED")
      assert.isBelow(took, 2_000)
    })
  )

  it.scopedLive(
    "a server that accepts and never answers fails the layer within the connect timeout (complaint 1)",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        yield* server.freeze
        const [error, took] = yield* timed(
          failureOf(open({ ...at(server), connectTimeout: "1 second", commandTimeout: "400 millis" }))
        )
        assert.strictEqual(error._tag, "RedisError")
        assert.isBelow(took, 2_000)
      })
  )

  it.scopedLive("a lazy client is built without a server, and every call fails typed within its timeout", () =>
    Effect.gen(function* () {
      const port = yield* Server.freePort
      const { redis } = yield* open({ host: "127.0.0.1", port, connect: "lazy" })
      assert.strictEqual(yield* redis.state, "idle")
      const [errors, took] = yield* timed(
        Effect.forEach(Array.from({ length: 50 }), () => failureOf(redis.send("GET", "a")), {
          concurrency: "unbounded"
        })
      )
      assert.isBelow(took, 1_500)
      for (const error of errors) assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "not-sent"])
      assert.strictEqual(yield* redis.state, "away")
    })
  )

  it.scopedLive("a lazy client connects when it is first used, and the first calls succeed", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), connect: "lazy", commandTimeout: "5 seconds" })
      const answers = yield* Effect.forEach(["a", "b", "c"], (key) => redis.send("SET", key, "1"), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(answers, ["OK", "OK", "OK"])
      assert.strictEqual((yield* redis.stats).connects, 1)
    })
  )

  it.scopedLive(
    "kill -9 under load: every operation settles, typed; the first success is within 1 s of the return",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "1 second" })
        const store = yield* RedisSessionStore.make(redis)
        const failures: Array<SessionStore.SessionStoreError> = []
        let successes = 0
        let slowest = 0
        let stop = false
        const worker = (index: number) =>
          Effect.gen(function* () {
            for (let round = 0; !stop; round++) {
              const [result, took] = yield* timed(Effect.either(store.set(`s-${index}-${round}`, { n: round })))
              slowest = Math.max(slowest, took)
              if (Either.isLeft(result)) {
                failures.push(result.left)
                yield* pause(5)
              } else successes++
            }
          })
        const load = yield* Effect.fork(
          Effect.forEach(
            Array.from({ length: 200 }, (_, index) => index),
            worker,
            { concurrency: "unbounded", discard: true }
          )
        )
        yield* pause(200)
        yield* server.kill
        yield* pause(300)
        assert.isAbove(failures.length, 0)
        const before = successes
        yield* server.start
        const [, took] = yield* timed(untilReady(redis))
        assert.isBelow(took, 1_000, "first success after the return")
        yield* pause(100)
        stop = true
        yield* Fiber.join(load)
        assert.isAbove(successes, before, "the load goes on")
        assert.isBelow(slowest, 3_000, "the slowest operation")
        for (const failure of failures) {
          assert.strictEqual(failure._tag, "SessionStoreError")
          assert.include(["Unavailable", "Timeout"], failure.reason)
        }
        const { inFlight, waiting } = yield* redis.stats
        assert.deepStrictEqual({ inFlight, waiting }, { inFlight: 0, waiting: 0 })
      })
  )

  it.scopedLive(
    "a frozen server: calls fail typed within the command timeout, then at once; it recovers when thawed",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "400 millis" })
        yield* redis.send("SET", "counter", 0)
        yield* server.freeze
        const [first, took] = yield* timed(
          Effect.forEach(Array.from({ length: 100 }), () => failureOf(redis.send("INCR", "counter")), {
            concurrency: "unbounded"
          })
        )
        assert.isBelow(took, 1_500)
        for (const error of first) assert.strictEqual(error.outcome, "unknown")
        assert.strictEqual(first[0]?.reason, "Timeout")
        // the connection is given up: nothing piles up in it
        yield* until(Effect.map(redis.state, (state) => state === "away"))
        const [second, tookThen] = yield* timed(failureOf(redis.send("INCR", "counter")))
        assert.deepStrictEqual([second.reason, second.outcome], ["Unavailable", "not-sent"])
        assert.isBelow(tookThen, 100)
        assert.strictEqual((yield* redis.stats).inFlight, 0)
        yield* server.thaw
        const [, back] = yield* timed(untilReady(redis))
        assert.isBelow(back, 1_500)
        yield* redis.send("SET", "mine", "yes")
        assert.strictEqual(yield* redis.send("GET", "mine"), "yes")
      })
  )

  it.scopedLive("late answers never answer another command", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), commandTimeout: "300 millis" })
      for (let n = 0; n < 20; n++) yield* redis.send("SET", `k${n}`, `v${n}`)
      // the server sleeps for longer than the timeout and answers then
      const asleep = yield* Effect.fork(Effect.either(redis.send("DEBUG", "SLEEP", "0.6")))
      yield* pause(20)
      yield* Effect.forEach(Array.from({ length: 20 }), (_, n) => Effect.either(redis.send("GET", `k${n}`)), {
        concurrency: "unbounded"
      })
      yield* Fiber.join(asleep)
      yield* untilReady(redis)
      const values = yield* Effect.forEach(Array.from({ length: 20 }), (_, n) => redis.send("GET", `k${n}`), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        values,
        Array.from({ length: 20 }, (_, n) => `v${n}`)
      )
    })
  )

  it.scopedLive("a command whose reply was lost is not sent again: counters are exact (complaint 3)", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const between = yield* proxy(at(server))
      const { redis } = yield* open({ ...at(between), commandTimeout: "2 seconds" })
      yield* redis.send("SET", "counter", 0)
      between.mode.swallowReplies = true
      const calls = yield* Effect.fork(
        Effect.forEach(Array.from({ length: 10 }), () => failureOf(redis.send("INCR", "counter")), {
          concurrency: "unbounded"
        })
      )
      // applied on the server, seen by another connection
      const applied: Effect.Effect<void, Server.RedisServerError> = Effect.flatMap(
        server.command("GET", "counter"),
        (reply) => (reply.includes("10") ? Effect.void : Effect.zipRight(pause(5), applied))
      )
      yield* applied
      between.mode.swallowReplies = false
      const [errors, took] = yield* timed(Effect.zipRight(between.reset, Fiber.join(calls)))
      assert.isBelow(took, 1_000, "they settle with the connection, not with the timeout (complaint 2)")
      for (const error of errors) assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "unknown"])
      yield* untilReady(redis)
      assert.strictEqual(yield* redis.send("GET", "counter"), "10")
    })
  )

  it.scopedLive("a command that timed out is not sent again after a reconnect (complaint 3)", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const between = yield* proxy(at(server))
      const { redis } = yield* open({ ...at(between), commandTimeout: "300 millis" })
      between.mode.swallowReplies = true
      const error = yield* failureOf(redis.send("INCR", "once"))
      assert.deepStrictEqual([error.reason, error.outcome, error.isRetryable], ["Timeout", "unknown", false])
      between.mode.swallowReplies = false
      yield* between.reset
      yield* untilReady(redis)
      assert.strictEqual(yield* redis.send("GET", "once"), "1")
    })
  )

  it.scopedLive(
    "release takes less than 500 ms, whether the server is there, dead or frozen; what is under way settles",
    () =>
      Effect.gen(function* () {
        for (const state of ["there", "dead", "frozen"] as const) {
          const server = yield* Server.make()
          const { redis, release } = yield* open({ ...at(server), commandTimeout: "10 seconds" })
          if (state === "dead") yield* server.kill
          if (state === "frozen") yield* server.freeze
          const call = yield* Effect.fork(Effect.either(redis.send("DEBUG", "SLEEP", 1)))
          yield* pause(30)
          const [, took] = yield* timed(release)
          assert.isBelow(took, 500, state)
          const result = yield* Fiber.join(call)
          assert.isTrue(Either.isLeft(result), state)
          const after = yield* failureOf(redis.send("GET", "a"))
          assert.deepStrictEqual([after.reason, after.outcome], ["Closed", "not-sent"])
        }
      })
  )

  it.scopedLive("a hundred clients opened and released leave no connection behind (complaint 12)", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => Effect.scoped(Effect.flatMap(open(at(server)), ({ redis }) => redis.send("PING"))),
        { concurrency: 5, discard: true }
      )
      const { redis } = yield* open(at(server))
      const left: Effect.Effect<number, RedisError> = Effect.flatMap(redis.send("CLIENT", "LIST"), (list) =>
        Effect.succeed(String(list).trim().split("\n").length)
      )
      let count = yield* left
      for (let round = 0; round < 50 && count > 1; round++) {
        yield* pause(20)
        count = yield* left
      }
      assert.strictEqual(count, 1)
    })
  )

  it.scopedLive("no unhandled error, nothing on the console, while a server comes and goes (complaint 4)", () =>
    Effect.gen(function* () {
      const seen: Array<unknown> = []
      const note = (problem: unknown) => {
        seen.push(problem)
      }
      const write = process.stderr.write
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          process.on("unhandledRejection", note)
          process.on("uncaughtExceptionMonitor", note)
          process.stderr.write = (text: unknown) => {
            note(text)
            return true
          }
        }),
        () =>
          Effect.sync(() => {
            process.off("unhandledRejection", note)
            process.off("uncaughtExceptionMonitor", note)
            process.stderr.write = write
          })
      )
      const server = yield* Server.make()
      const { redis, release } = yield* open(at(server))
      for (let round = 0; round < 3; round++) {
        const calls = yield* Effect.fork(
          Effect.forEach(Array.from({ length: 50 }), () => Effect.either(redis.send("INCR", "n")), {
            concurrency: "unbounded"
          })
        )
        yield* server.kill
        yield* Fiber.join(calls)
        yield* pause(100)
        yield* server.start
        yield* untilReady(redis)
      }
      yield* server.kill
      yield* release
      yield* pause(600)
      assert.deepStrictEqual(seen, [])
    })
  )

  it.scopedLive("calls under way are bounded: more fail at once as Overloaded (complaint 13)", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), commandTimeout: "300 millis", maxInFlight: 100 })
      yield* server.freeze
      const errors = yield* Effect.forEach(Array.from({ length: 1_000 }), () => failureOf(redis.send("GET", "a")), {
        concurrency: "unbounded"
      })
      const overloaded = errors.filter((error) => error.reason === "Overloaded")
      assert.strictEqual(overloaded.length, 900)
      assert.strictEqual(overloaded[0]?.outcome, "not-sent")
    })
  )

  it.scopedLive("with answerAtOnce off, calls wait for the server within their timeout", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), answerAtOnce: false, commandTimeout: "3 seconds" })
      yield* server.kill
      yield* pause(100)
      const call = yield* Effect.fork(redis.send("SET", "a", "1"))
      yield* server.start
      assert.strictEqual(yield* Fiber.join(call), "OK")
    })
  )

  it.scopedLive("a wrong or missing password is a typed error that names no password", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ password: "correct horse" })
      for (const password of [undefined, "hunter2"]) {
        const [error, took] = yield* timed(failureOf(open({ ...at(server), password })))
        assert.strictEqual(error._tag, "RedisError")
        assert.strictEqual((error as RedisError).reason, "Authentication")
        assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "hunter2")
        assert.isBelow(took, 2_000)
      }
      const { redis } = yield* open({ url: server.url })
      assert.strictEqual(yield* redis.send("PING"), "PONG")
    })
  )

  it.scopedLive(
    "an unknown user is a typed error, also where the server lets everybody in: nobody else is served",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        for (let round = 0; round < 5; round++) {
          const error = yield* failureOf(open({ ...at(server), username: "nobody", password: "hunter2" }))
          assert.strictEqual(error._tag, "RedisError")
          assert.deepStrictEqual(
            [(error as RedisError).reason, (error as RedisError).code],
            ["Authentication", "WRONGPASS"]
          )
        }
      })
  )

  it.scopedLive("a password that the server does not want is no problem, and nothing is written to the console", () =>
    Effect.gen(function* () {
      const seen: Array<unknown> = []
      const { console } = globalThis
      const { warn } = console
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          Object.assign(console, { warn: (...all: ReadonlyArray<unknown>) => seen.push(...all) })
        }),
        () =>
          Effect.sync(() => {
            Object.assign(console, { warn })
          })
      )
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), password: "hunter2" })
      assert.strictEqual(yield* redis.send("PING"), "PONG")
      assert.deepStrictEqual(seen, [])
    })
  )

  it.scopedLive("a server that is out of memory refuses writes typed and still reads", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ arguments: ["--maxmemory", "1", "--maxmemory-policy", "noeviction"] })
      const { redis } = yield* open(at(server))
      const error = yield* failureOf(redis.send("SET", "a", "x".repeat(100)))
      assert.deepStrictEqual([error.reason, error.outcome, error.code], ["OutOfMemory", "rejected", "OOM"])
      assert.strictEqual(yield* redis.send("GET", "a"), null)
      const store = yield* RedisSessionStore.make(redis)
      assert.strictEqual((yield* failureOf(store.set("a", {}))).reason, "Rejected")
      const cache = yield* Effect.provideService(
        Cache.make({ namespace: "n", schema: Schema.Number }),
        Cache.Cache,
        yield* RedisCache.make(redis)
      )
      assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(1)), 1)
      assert.strictEqual((yield* cache.stats).unreachable, 1)
    })
  )

  it.scopedLive(
    "a replica refuses writes as NotReady, and the client serves again when it is a master (complaint 10)",
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "2 seconds" })
        const nobody = yield* Server.freePort
        yield* redis.send("CONFIG", "SET", "replica-serve-stale-data", "yes")
        yield* redis.send("REPLICAOF", "127.0.0.1", nobody)
        const error = yield* failureOf(redis.send("SET", "a", "1"))
        assert.deepStrictEqual([error.reason, error.code], ["NotReady", "READONLY"])
        yield* server.command("REPLICAOF", "NO", "ONE")
        yield* untilReady(redis)
        assert.strictEqual(yield* redis.send("SET", "a", "1"), "OK")
      })
  )

  it.scopedLive("scripts survive SCRIPT FLUSH, alone and among others in one go", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
      const store = yield* RedisSessionStore.make(redis)
      yield* store.set("a", { user_id: "u" })
      yield* redis.send("SCRIPT", "FLUSH")
      yield* store.set("a", { user_id: "u", n: 1 })
      yield* redis.send("SCRIPT", "FLUSH")
      yield* store.set("b", { user_id: "u" })
      yield* redis.send("SCRIPT", "FLUSH")
      const updated = yield* store.update("a", (session) => ({ ...session, n: 2 }))
      assert.strictEqual(Option.getOrThrow(updated)["n"], 2)
      yield* redis.send("SCRIPT", "FLUSH")
      assert.strictEqual(yield* store.deleteMany(["a", "b"]), 2)
    })
  )

  it.scopedLive("an interrupted call is left at once, and its answer disturbs nobody", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
      yield* server.freeze
      const call = yield* Effect.fork(redis.send("SET", "a", "interrupted"))
      yield* pause(20)
      const [, took] = yield* timed(Fiber.interrupt(call))
      assert.isBelow(took, 200)
      yield* server.thaw
      assert.strictEqual(yield* redis.send("GET", "a"), "interrupted")
    })
  )

  it.scopedLive("an interrupted call that waits for the connection is not sent when it comes", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), answerAtOnce: false, commandTimeout: "5 seconds" })
      yield* server.kill
      yield* until(Effect.map(redis.state, (state) => state !== "ready"))
      const calls = yield* Effect.fork(
        Effect.all([redis.send("SET", "ghost", "1"), redis.sendMany([["SET", "ghost", "2"]])], { concurrency: 2 })
      )
      yield* until(Effect.map(redis.stats, ({ waiting }) => waiting === 2))
      yield* Fiber.interrupt(calls)
      assert.strictEqual((yield* redis.stats).waiting, 0)
      yield* server.start
      assert.strictEqual(yield* redis.send("GET", "ghost"), null)
    })
  )

  it.scopedLive("a database that the server does not have is a typed error, and nothing goes to database 0", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const error = yield* failureOf(open({ ...at(server), db: 99 }))
      assert.strictEqual(error._tag, "RedisError")
      assert.deepStrictEqual([(error as RedisError).reason, (error as RedisError).outcome], ["Rejected", "not-sent"])
      assert.include(error.message, "database")
      const { redis } = yield* open({ ...at(server), db: 99, connect: "lazy", commandTimeout: "3 seconds" })
      assert.strictEqual((yield* failureOf(redis.send("SET", "lost", "1"))).reason, "Rejected")
      yield* pause(100)
      assert.strictEqual((yield* failureOf(redis.send("SET", "lost", "1"))).reason, "Rejected")
      assert.include(yield* server.command("DBSIZE"), ":0")
    })
  )

  it.scopedLive("health answers at once while the server is away, and says why", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      assert.strictEqual((yield* RedisHealth.check(redis)).status, "up")
      yield* server.kill
      yield* until(Effect.map(redis.state, (state) => state === "away"))
      const [down, took] = yield* timed(RedisHealth.check(redis))
      assert.strictEqual(down.status, "down")
      assert.strictEqual(down.details?.["state"], "away")
      assert.isBelow(took, 100)
    })
  )
})

describe.skipIf(Need.missing("redis-server"))(
  Need.title("stores and what others leave in Redis", "redis-server"),
  () => {
    it.scopedLive("sessions are JSON at session:<id>, with a time to live", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("abc", { user_id: "u", last_activity: "2025-01-15T10:35:22.456Z" })
        assert.deepStrictEqual(JSON.parse(String(yield* redis.send("GET", "session:abc"))), {
          user_id: "u",
          last_activity: "2025-01-15T10:35:22.456Z"
        })
        const left = Number(yield* redis.send("PTTL", "session:abc"))
        assert.isTrue(left > 1_790_000 && left <= 1_800_000)
        yield* store.delete("abc")
        assert.isAbove(Number(yield* redis.send("PTTL", "{session:abc}:gone")), 55_000)
        assert.isAbove(Number(yield* redis.send("PTTL", "session-owner:u")), 0)
      })
    )

    it.scopedLive("a key of another type is a corrupt session: none, or typed by option, and can be written over", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        const strict = yield* RedisSessionStore.make(redis, { onCorrupt: "fail" })
        yield* redis.send("RPUSH", "session:list", "1")
        assert.strictEqual((yield* failureOf(strict.get("list"))).reason, "Corrupt")
        assert.strictEqual((yield* failureOf(strict.update("list", (session) => session))).reason, "Corrupt")
        assert.isTrue(Option.isNone(yield* store.get("list")))
        assert.isTrue(Option.isNone(yield* store.getAndTouch("list")))
        yield* store.set("list", { fine: true })
        assert.isTrue(Option.isSome(yield* store.get("list")))
        yield* redis.send("SET", "session:text", "{")
        assert.strictEqual((yield* failureOf(strict.get("text"))).reason, "Corrupt")
      }).pipe(Logger.withMinimumLogLevel(LogLevel.None))
    )

    it.scopedLive("the owner index heals: entries of expired sessions go, also without anybody listing them", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
        const store = yield* RedisSessionStore.make(redis)
        // entries of sessions that are long gone, as an hour of logins leaves them
        for (let n = 0; n < 200; n++) yield* redis.send("ZADD", "session-owner:u", 1_000 + n, `old-${n}`)
        yield* store.set("oldest-alive", { user_id: "u" })
        yield* redis.send("ZADD", "session-owner:u", 1, "oldest-alive")
        for (let n = 0; n < 20; n++) yield* store.set(`new-${n}`, { user_id: "u" })
        assert.isBelow(Number(yield* redis.send("ZCARD", "session-owner:u")), 100)
        const listed = (yield* store.sessionsOf("u")).map((one) => one.id)
        assert.strictEqual(listed.length, 21)
        assert.include(listed, "oldest-alive")
        assert.strictEqual(yield* redis.send("ZCARD", "session-owner:u"), 21)
      })
    )

    it.scopedLive("an entry that was just written is not healed away under its session", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", { user_id: "u" })
        // as a reader sees it that comes between the write of the index and the write of the session
        const session = String(yield* redis.send("GETDEL", "session:a"))
        assert.deepStrictEqual(yield* store.sessionsOf("u"), [])
        yield* redis.send("SET", "session:a", session, "PX", 10_000)
        assert.strictEqual((yield* store.sessionsOf("u")).length, 1)
      })
    )

    it.scopedLive("an owner index that cannot be written fails the write, typed: sign-out relies on it", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        yield* redis.send("SET", "session-owner:u", "text")
        const error = yield* failureOf(store.set("a", { user_id: "u" }))
        assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-done"])
        assert.include(error.message, "owner index")
        assert.isFalse(yield* store.exists("a"))
      })
    )

    it.scopedLive(
      "a session that only touches keep alive stays in its owner's index, for any process that touches it",
      () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
          const options: RedisSessionStore.Options = { defaultTtl: "1 minute", indexTtl: "10 minutes" }
          for (const touch of ["extendTtl", "getAndTouch", "exactly"] as const) {
            const writer = yield* RedisSessionStore.make(redis, options)
            const other = yield* RedisSessionStore.make(redis, options)
            yield* writer.set(touch, { user_id: touch })
            for (const store of [writer, other]) {
              // an hour, forty seconds at a time
              for (let round = 0; round < 90; round++) {
                if (touch === "extendTtl") assert.isTrue(yield* store.extendTtl(touch))
                else yield* store.getAndTouch(touch, touch === "exactly" ? "1 minute" : undefined)
                yield* TestClock.adjust("40 seconds")
                yield* Effect.provideService(advance(Duration.seconds(40)), RedisClient.RedisClient, redis)
              }
            }
            assert.isTrue(yield* writer.exists(touch))
            assert.strictEqual(yield* writer.deleteAllOf(touch), 1, touch)
            assert.isFalse(yield* writer.exists(touch))
          }
        }).pipe(Effect.provide(TestContext.TestContext))
    )

    it.scopedLive("touching takes one round trip while the index entry is fresh", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "5 seconds" })
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", { user_id: "u" })
        yield* store.getAndTouch("a")
        yield* store.extendTtl("a")
        const { sent } = yield* redis.stats
        for (let round = 0; round < 10; round++) {
          yield* store.getAndTouch("a")
          yield* store.extendTtl("a")
        }
        assert.strictEqual((yield* redis.stats).sent - sent, 20)
      })
    )

    it.scopedLive("the index of a new owner outlives a session that was to live long already", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis, { indexTtl: "1 hour" })
        yield* store.set("a", { user_id: "u" }, { ttl: "10 hours" })
        yield* store.update("a", (session) => ({ ...session, user_id: "v" }))
        assert.isAbove(Number(yield* redis.send("PTTL", "session-owner:v")), 10 * 3_600_000)
        // an entry of the last minute may be somebody's who is on the way there: it stays, and counts for nothing
        assert.deepStrictEqual(yield* store.sessionsOf("u"), [], "the old owner has none left")
      })
    )

    it.scopedLive("an index time that cannot be is refused", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        for (const indexTtl of [0, -1, Number.NaN, Duration.infinity, "100000 days"] as const) {
          const error = yield* failureOf(RedisSessionStore.make(redis, { indexTtl }))
          assert.strictEqual(error.reason, "InvalidTtl")
        }
      })
    )

    it.scopedLive("a session that is rotated just before its deletion is signed out all the same", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", { user_id: "u" })
        let rotated = false
        const late = yield* RedisSessionStore.make({
          ...redis,
          sendMany: (steps) => {
            const [step] = steps
            const isDelete = step !== undefined && "script" in step && step.script.name === "session.delete"
            if (!isDelete || rotated) return redis.sendMany(steps)
            rotated = true
            return Effect.zipRight(Effect.orDie(store.rotate("a", "b")), redis.sendMany(steps))
          }
        })
        assert.strictEqual(yield* late.deleteAllOf("u"), 1)
        assert.isFalse(yield* store.exists("b"))
      })
    )

    it.scopedLive("a session that is given an owner just before it is moved is indexed for that owner", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", {})
        let updated = false
        const late = yield* RedisSessionStore.make({
          ...redis,
          run: (script, keys, args) => {
            if (script.name !== "session.rotate" || updated) return redis.run(script, keys, args)
            updated = true
            const update = store.update("a", (session) => ({ ...session, user_id: "u" }))
            return Effect.zipRight(Effect.orDie(update), redis.run(script, keys, args))
          }
        })
        assert.strictEqual(Option.getOrNull(yield* late.rotate("a", "b")), "b")
        assert.strictEqual(yield* store.deleteAllOf("u"), 1)
      })
    )

    it.scopedLive("a deletion of several of which one failed has an unknown outcome", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), maxInFlight: 1 })
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", {})
        const error = yield* failureOf(store.deleteMany(["a", "b"]))
        assert.deepStrictEqual([error.reason, error.outcome, error.isRetryable], ["Unavailable", "unknown", true])
        assert.isFalse(yield* store.exists("a"))
      })
    )

    it.scopedLive("texts that are not UTF-8 are corrupt: an update does not try for ever", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis, { onCorrupt: "fail" })
        const plant = RedisClient.script("test.plant", `return redis.call('SET', KEYS[1], '{"a":"\\255"}')`)
        yield* redis.run(plant, ["session:a"], [])
        const error = yield* failureOf(store.update("a", (session) => ({ ...session, n: 1 })))
        assert.strictEqual(error.reason, "Corrupt")
      })
    )

    it.scopedLive("a session of 20 MB is kept and changed like any other", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "10 seconds" })
        const store = yield* RedisSessionStore.make(redis)
        yield* store.set("a", { text: "x".repeat(20_000_000) })
        yield* store.update("a", (session) => ({ ...session, n: 1 }))
        const session = Option.getOrThrow(yield* store.get("a"))
        assert.deepStrictEqual([String(session["text"]).length, session["n"]], [20_000_000, 1])
      })
    )

    it.scopedLive("while the server is away: sessions and conversations fail typed, a cache misses and computes", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        const memory = yield* RedisConversationMemory.make(redis)
        const backend = yield* RedisCache.make(redis)
        const lenient = yield* Effect.provideService(
          Cache.make({ namespace: "n", schema: Schema.Number }),
          Cache.Cache,
          backend
        )
        const strict = yield* Effect.provideService(
          Cache.make({ namespace: "n", schema: Schema.Number, strict: true }),
          Cache.Cache,
          backend
        )
        yield* lenient.set("key", 1)
        yield* server.kill
        yield* until(Effect.map(redis.state, (state) => state === "away"))
        const session = yield* failureOf(store.get("a"))
        assert.deepStrictEqual(
          [session.reason, session.outcome, session.isRetryable],
          ["Unavailable", "not-done", true]
        )
        const conversation = yield* failureOf(memory.append("a", []))
        assert.instanceOf(conversation, ConversationMemory.ConversationMemoryError)
        assert.strictEqual(conversation.reason, "Unavailable")
        assert.isTrue(Option.isNone(yield* lenient.get("key")))
        yield* lenient.set("key", 2)
        assert.isFalse(yield* lenient.delete("key"))
        assert.strictEqual(yield* lenient.getOrElse("key", Effect.succeed(3)), 3)
        assert.strictEqual(yield* lenient.clear, 0)
        assert.isAtLeast((yield* lenient.stats).unreachable, 5)
        assert.strictEqual((yield* failureOf(strict.get("key"))).reason, "Unavailable")
      })
    )

    it.scopedLive("messages and sessions are not in errors, their causes or their JSON", () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ arguments: ["--maxmemory", "1", "--maxmemory-policy", "noeviction"] })
        const { redis } = yield* open(at(server))
        const store = yield* RedisSessionStore.make(redis)
        const memory = yield* RedisConversationMemory.make(redis)
        const errors = [
          yield* failureOf(store.set("id-hunter2", { text: "hunter2" })),
          yield* failureOf(memory.setSummary("id-hunter2", "hunter2")),
          yield* failureOf(redis.send("hunter2-is-no-command", "hunter2"))
        ]
        for (const error of errors.slice(0, 2)) {
          const cause = error.cause as { readonly cause?: unknown }
          assert.notInclude(
            `${error.message} ${JSON.stringify(error)} ${String(cause)} ${String(cause.cause)}`,
            "hunter2"
          )
        }
        assert.notInclude(String(errors[2]?.cause), "hunter2")
      })
    )
  }
)
