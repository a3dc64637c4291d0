import { assert, describe, it } from "@effect/vitest"
import { RedisClient, RedisDriver, RedisError } from "@underlay/redis"
import * as Fake from "@underlay/servers/FakeRedis"
import * as Proxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Chunk, Effect, Either, Exit, FastCheck, Fiber, Scope, Stream } from "effect"
import * as Ioredis5 from "ioredis"
import * as Ioredis6 from "ioredis6"
import * as Commands from "../src/internal/commands.ts"
import * as Slots from "../src/internal/slots.ts"
import { failureOf, open, pause, timed, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({
  host,
  port,
  commandTimeout: "5 seconds" as const
})

const isClosed = (error: RedisError.RedisError) => [error.reason, error.outcome].join(" ")

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisClient, part by part", "redis-server"), () => {
  describe("transaction", () => {
    it.scopedLive("nobody comes between its steps, and a step that fails when it runs is its own", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        yield* redis.send("SET", "text", "x")
        const others = yield* Effect.fork(Effect.forever(redis.send("INCR", "n")))
        for (let round = 0; round < 50; round++) {
          const [before, failed, after] = yield* redis.transaction([
            ["GET", "n"],
            ["INCR", "text"],
            ["GET", "n"]
          ])
          assert.deepStrictEqual(before, after)
          assert.isTrue(failed !== undefined && Either.isLeft(failed) && failed.left.method === "INCR")
        }
        yield* Fiber.interrupt(others)
        assert.deepStrictEqual(yield* redis.transaction([]), [])
      })
    )

    it.scopedLive("a step that is refused when it is queued: none is run, and the refusal is the failure", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const error = yield* failureOf(redis.transaction([["SET", "a", 1], ["NO-SUCH-COMMAND"], ["SET", "b", 1]]))
        assert.deepStrictEqual([error.method, error.reason, error.outcome], ["NO-SUCH-COMMAND", "Rejected", "rejected"])
        assert.strictEqual(yield* redis.send("EXISTS", "a", "b"), 0)
      })
    )

    it.scopedLive("scripts in it run though the server has forgotten them (NOSCRIPT inside MULTI)", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const script = RedisClient.script("set", "return redis.call('SET', KEYS[1], ARGV[1])")
        yield* redis.run(script, ["a"], [1])
        yield* redis.send("SCRIPT", "FLUSH")
        const done = yield* redis.transaction([{ script, keys: ["a"], args: [2] }, ["GET", "a"]])
        assert.deepStrictEqual(done, [Either.right("OK"), Either.right("2")])
      })
    )

    it.scopedLive("a step that cannot be written takes the others with it: none is done", () =>
      Effect.gen(function* () {
        class Command extends Ioredis5.Command {
          override toWritable(socket: object): string | Buffer {
            if (this.args.includes("too long")) throw new RangeError("Invalid string length")
            return super.toWritable(socket)
          }
        }
        class Redis extends Ioredis5.Redis {
          static override readonly Command = Command
        }
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), driver: RedisDriver.fromIoredis({ Redis }) })
        const error = yield* failureOf(
          redis.transaction([
            ["SET", "a", 1],
            ["SET", "b", "too long"],
            ["SET", "c", 3]
          ])
        )
        assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-sent"])
        assert.deepStrictEqual(yield* redis.send("MGET", "a", "b", "c"), [null, null, null])
        assert.deepStrictEqual(yield* redis.transaction([["SET", "a", 1]]), [Either.right("OK")])
        const alone = yield* failureOf(redis.send("SET", "b", "too long"))
        assert.deepStrictEqual([alone.reason, alone.outcome], ["Rejected", "not-sent"])
        const { inFlight, waiting } = yield* redis.stats
        assert.deepStrictEqual({ inFlight, waiting }, { inFlight: 0, waiting: 0 })
      })
    )

    it.scopedLive("a connection that is lost under it has an unknown outcome, and leaves nothing half begun", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const proxy = yield* Proxy.make({ port: server.port })
        const { redis } = yield* open(at(proxy))
        yield* proxy.resetAfter(0)
        const error = yield* failureOf(
          redis.transaction([
            ["INCR", "n"],
            ["INCR", "n"]
          ])
        )
        assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "unknown"])
        yield* until(Effect.map(Effect.either(redis.send("SET", "other", 1)), Either.isRight))
        assert.include([null, "2"], yield* redis.send("GET", "n"))
      })
    )

    it.scopedLive("a server that will not begin one is a typed error of unknown outcome", () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ users: ["default on nopass ~* &* +@all -multi"] })
        const { redis } = yield* open(at(server))
        const error = yield* failureOf(redis.transaction([["SET", "a", 1]]))
        assert.deepStrictEqual([error.reason, error.code, error.outcome], ["Authentication", "NOPERM", "unknown"])
      })
    )
  })

  describe("isolated", () => {
    it.scopedLive("a blocking command holds nobody else up (BLPOP before GET)", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), commandTimeout: "500 millis" })
        const one = yield* redis.isolated()
        // longer than a command may take
        const waiting = yield* Effect.fork(one.block("2 seconds", "BLPOP", "list", 2))
        yield* pause(700)
        const [, took] = yield* timed(redis.send("GET", "key"))
        assert.isBelow(took, 500)
        yield* redis.send("RPUSH", "list", "value")
        assert.deepStrictEqual(yield* Fiber.join(waiting), ["list", "value"])
        assert.strictEqual(yield* one.block("100 millis", "BLPOP", "list", 0.1), null)
        const refused = yield* failureOf(redis.send("BLPOP", "list", 1))
        assert.deepStrictEqual([refused.reason, refused.outcome], ["Rejected", "not-sent"])
      })
    )

    it.scopedLive("a blocking command at a frozen server settles a second after its own time", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        const one = yield* redis.isolated()
        yield* server.freeze
        const [error, took] = yield* timed(failureOf(one.block("100 millis", "BLPOP", "list", 0.1)))
        assert.deepStrictEqual([error.reason, error.outcome], ["Timeout", "unknown"])
        assert.isBelow(took, 1_500)
        const [after] = yield* timed(failureOf(one.send("PING")))
        assert.deepStrictEqual([after.reason, after.outcome], ["Unavailable", "not-sent"])
      })
    )

    it.scopedLive("WATCH: a transaction on a key that was changed by another is a Conflict, and nothing is done", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        yield* redis.send("SET", "n", 0)
        const increment = Effect.scoped(
          Effect.gen(function* () {
            const one = yield* redis.isolated()
            for (;;) {
              yield* one.send("WATCH", "n")
              const value = Number(yield* one.send("GET", "n"))
              const result = yield* Effect.either(one.transaction([["SET", "n", value + 1]]))
              if (Either.isRight(result)) return
              assert.deepStrictEqual([result.left.reason, result.left.outcome], ["Conflict", "rejected"])
              assert.isFalse(result.left.isRetryable)
            }
          })
        )
        yield* Effect.forEach(Array.from({ length: 40 }), () => increment, { concurrency: 10, discard: true })
        assert.strictEqual(yield* redis.send("GET", "n"), "40")
        const refused = yield* failureOf(redis.send("WATCH", "n"))
        assert.include(refused.message, "isolated")
      })
    )

    it.scopedLive("at most so many; who waits in vain is Overloaded, who waits gets the next one", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open({ ...at(server), maxConnections: 2, connectTimeout: "300 millis" })
        const first = yield* Scope.make()
        yield* Scope.extend(redis.isolated(), first)
        yield* redis.isolated()
        const [error, took, inAll] = yield* timed(failureOf(Effect.scoped(redis.isolated())))
        assert.deepStrictEqual([error.reason, error.outcome, error.isRetryable], ["Overloaded", "not-sent", true])
        assert.isAbove(inAll, 150)
        assert.isBelow(took, 450)
        const next = yield* Effect.fork(Effect.flatMap(redis.isolated(), (one) => one.send("PING")))
        yield* pause(20)
        yield* Scope.close(first, Exit.void)
        assert.strictEqual(yield* Fiber.join(next), "PONG")
        assert.strictEqual((yield* redis.stats).isolated, 2)
      })
    )

    it.scopedLive(
      "one that is given back is lent again, unless something of its user is left on it; idle ones go",
      () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const { redis } = yield* open({ ...at(server), idle: "200 millis" })
          const id = (leave?: RedisClient.Command) =>
            Effect.scoped(
              Effect.gen(function* () {
                const one = yield* redis.isolated()
                if (leave !== undefined) yield* one.send(...leave)
                return yield* one.send("CLIENT", "ID")
              })
            )
          const plain = Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.send("PING")))
          yield* plain
          yield* plain
          assert.deepStrictEqual([(yield* redis.stats).isolated, (yield* redis.stats).isolatedIdle], [1, 1])
          assert.notStrictEqual(yield* id(), yield* id(["WATCH", "key"]))
          assert.strictEqual((yield* redis.stats).isolated, 0, "CLIENT and WATCH leave traces")
          yield* plain
          yield* until(Effect.map(redis.stats, ({ isolated }) => isolated === 0))
          const interrupted = yield* Effect.fork(
            Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.block("10 seconds", "BLPOP", "list", 10)))
          )
          yield* until(Effect.map(redis.stats, ({ isolated }) => isolated === 1))
          yield* Fiber.interrupt(interrupted)
          assert.strictEqual((yield* redis.stats).isolated, 0, "a command is still under way on it")
        })
    )

    it.scopedLive("away: at once; interrupted while it is made: nothing is left; released: closed", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis, release } = yield* open(at(server))
        const one = yield* redis.isolated()
        yield* server.freeze
        const made = yield* Effect.fork(Effect.scoped(redis.isolated()))
        yield* pause(20)
        yield* Fiber.interrupt(made)
        yield* server.thaw
        yield* server.kill
        yield* until(Effect.map(redis.state, (state) => state === "away"))
        const [error, took] = yield* timed(failureOf(Effect.scoped(redis.isolated())))
        assert.strictEqual(isClosed(error), "Unavailable not-sent")
        assert.isBelow(took, 50)
        yield* release
        assert.strictEqual(isClosed(yield* failureOf(one.send("PING"))), "Closed not-sent")
        assert.strictEqual(isClosed(yield* failureOf(Effect.scoped(redis.isolated()))), "Closed not-sent")
      })
    )
  })

  describe("listen", () => {
    it.scopedLive(
      "hears everything in order, by channel and by pattern, and Lost when it may have missed something",
      () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const proxy = yield* Proxy.make({ port: server.port })
          const { redis } = yield* open(at(proxy))
          const direct = yield* open(at(server))
          const heard: Array<string> = []
          const note = (who: string) => (event: RedisClient.Heard) => {
            heard.push(event._tag === "Message" ? `${who} ${event.channel} ${event.payload}` : `${who} ${event._tag}`)
          }
          yield* redis.listen(["a", "b"], note("1"))
          const second = yield* Scope.make()
          yield* Scope.extend(redis.listen({ pattern: "a*" }, note("2")), second)
          for (const payload of ["x", "y", ""]) yield* direct.redis.send("PUBLISH", "a", payload)
          yield* until(Effect.sync(() => heard.length === 8))
          assert.deepStrictEqual(heard.splice(0), [
            "1 Ready",
            "2 Ready",
            "1 a x",
            "2 a x",
            "1 a y",
            "2 a y",
            "1 a ",
            "2 a "
          ])
          yield* Scope.close(second, Exit.void)
          yield* proxy.resetAll
          yield* until(Effect.sync(() => heard.length === 2))
          yield* direct.redis.send("PUBLISH", "ab", "z")
          yield* direct.redis.send("PUBLISH", "b", "z")
          yield* until(Effect.sync(() => heard.length === 3))
          assert.deepStrictEqual(heard, ["1 Lost", "1 Ready", "1 b z"])
          const list = String(yield* direct.redis.send("CLIENT", "LIST"))
          assert.strictEqual(
            list.split("\n").filter((line) => / sub=[1-9]/.test(line)).length,
            1,
            "one connection for all"
          )
          assert.strictEqual((yield* redis.stats).listeners, 1)
        })
    )

    it.scopedLive("a server that falls silent while nothing is said is found out", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const proxy = yield* Proxy.make({ port: server.port })
        const { redis } = yield* open({ ...at(proxy), commandTimeout: "300 millis" })
        const heard: Array<string> = []
        yield* redis.listen(["a"], ({ _tag }) => {
          heard.push(_tag)
        })
        yield* proxy.blackhole(true)
        const [, took] = yield* timed(
          until(
            Effect.sync(() => heard.includes("Lost")),
            5_000
          )
        )
        assert.isBelow(took, 2_000)
        yield* proxy.blackhole(false)
        yield* until(Effect.sync(() => heard.at(-1) === "Ready"))
        assert.deepStrictEqual(heard, ["Ready", "Lost", "Ready"])
      })
    )

    it.scopedLive("while the server is away it is begun all the same, and ready when the server is", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis } = yield* open(at(server))
        yield* server.kill
        const heard: Array<string> = []
        const [, took] = yield* timed(
          redis.listen(["a"], ({ _tag }) => {
            heard.push(_tag)
          })
        )
        assert.isBelow(took, 500)
        yield* server.start
        yield* until(Effect.sync(() => heard.at(-1) === "Ready"))
        assert.deepStrictEqual(heard, ["Ready"])
      })
    )

    it.scopedLive("channels that the user may not hear are a typed error; the others go on", () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ users: ["default on nopass ~* resetchannels &open* +@all"] })
        const { redis } = yield* open(at(server))
        const heard: Array<string> = []
        yield* redis.listen(["open"], (event) => {
          heard.push(event._tag === "Message" ? event.payload : event._tag)
        })
        const error = yield* failureOf(redis.listen(["secret"], () => {}))
        assert.deepStrictEqual([error.reason, error.code], ["Authentication", "NOPERM"])
        yield* redis.send("PUBLISH", "open", "hello")
        yield* until(Effect.sync(() => heard.includes("hello")))
        assert.strictEqual((yield* redis.stats).listeners, 1)
      })
    )

    it.scopedLive("released: no more is heard, and no connection is left", () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const { redis, release } = yield* open(at(server))
        const heard: Array<string> = []
        yield* redis.listen(["a"], ({ _tag }) => {
          heard.push(_tag)
        })
        yield* release
        const error = yield* failureOf(redis.listen(["a"], () => {}))
        assert.strictEqual(isClosed(error), "Closed not-sent")
        yield* until(Effect.map(server.command("CLIENT", "LIST"), (list) => !/ sub=[1-9]/.test(list)))
        assert.deepStrictEqual(heard, ["Ready"])
      })
    )
  })

  it.scopedLive("the state and its changes, as a stream that ends with the client", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis, release } = yield* open(at(server))
      const changes = yield* Effect.fork(Stream.runCollect(redis.changes))
      yield* Effect.yieldNow()
      yield* server.kill
      yield* until(Effect.map(redis.state, (state) => state === "away"))
      yield* server.start
      yield* until(Effect.map(redis.state, (state) => state === "ready"))
      yield* release
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(changes)), ["ready", "away", "ready", "closed"])
      const { disconnects, reconnects } = yield* redis.stats
      assert.deepStrictEqual({ disconnects, reconnects }, { disconnects: 1, reconnects: 1 })
    })
  )

  it.scopedLive("what would change a shared connection is refused before it is sent", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      const { sent } = yield* redis.stats
      const commands: ReadonlyArray<RedisClient.Command> = [
        ["select", 3],
        ["MULTI"],
        ["EXEC"],
        ["WATCH", "a"],
        ["SUBSCRIBE", "a"],
        ["MONITOR"],
        ["QUIT"],
        ["HELLO", 3],
        ["AUTH", "hunter2"],
        ["CLIENT", "reply", "OFF"],
        ["BLPOP", "a", 0],
        ["XREAD", "block", 0, "STREAMS", "a", "$"],
        ["XREADGROUP", "GROUP", "block", "block", "BLOCK", 0, "STREAMS", "a", ">"],
        ["WAIT", 1, 0]
      ]
      for (const command of commands) {
        const error = yield* failureOf(redis.send(...command))
        assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-sent"], command.join(" "))
      }
      const error = yield* failureOf(redis.transaction([["MULTI"]]))
      assert.strictEqual(error.outcome, "not-sent")
      assert.strictEqual((yield* redis.stats).sent, sent)
      // words that only look like it
      assert.strictEqual(yield* redis.send("XREAD", "STREAMS", "BLOCK", "0"), null)
      assert.match(String(yield* redis.send("CLIENT", "ID")), /^\d+$/)
    })
  )

  it.scopedLive("pipelining by itself: the same answers, in fewer pieces", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      for (const autoPipelining of [false, true]) {
        const { redis } = yield* open({ ...at(server), autoPipelining })
        const values = yield* Effect.forEach(
          Array.from({ length: 500 }, (_, index) => index),
          (index) => Effect.zipRight(redis.send("SET", `k${index}`, index), redis.send("GET", `k${index}`)),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          values,
          values.map((_, index) => String(index))
        )
        yield* server.freeze
        const errors = yield* Effect.fork(
          Effect.forEach([1, 2, 3], () => failureOf(redis.send("INCR", "n")), { concurrency: 3 })
        )
        yield* pause(20)
        yield* server.kill
        for (const error of yield* Fiber.join(errors)) assert.strictEqual(isClosed(error), "Unavailable unknown")
        yield* server.start
      }
    })
  )

  it.scopedLive("TLS: with its authority, with a certificate of its own; and typed errors without", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ tls: "mutual" })
      const { certificates } = server
      assert.isDefined(certificates)
      if (certificates === undefined) return
      const { ca, cert, key } = certificates
      const right = { ...at(server), tls: true, ca, cert, key }
      const { redis } = yield* open(right)
      assert.strictEqual(yield* redis.send("PING"), "PONG")
      yield* redis.listen(["a"], () => {})
      yield* server.kill
      yield* server.start
      yield* until(Effect.map(Effect.either(redis.send("PING")), Either.isRight))
      const lenient = yield* open({ ...right, ca: undefined, rejectUnauthorized: false })
      assert.strictEqual(yield* lenient.redis.send("PING"), "PONG")

      const untrusted = yield* failureOf(open({ ...right, ca: undefined }))
      assert.instanceOf(untrusted, RedisError.RedisError)
      assert.include(untrusted.description, "TLS")
      const otherName = yield* failureOf(open({ ...right, serverName: "elsewhere.example" }))
      assert.include(String(otherName), "TLS")
      const absent = yield* failureOf(open({ ...right, ca: "/no/such/file" }))
      assert.include(String(absent), "the file of the TLS authority cannot be read [ENOENT]")
      const plain = yield* failureOf(open({ ...at(server), connectTimeout: "1 second" }))
      assert.instanceOf(plain, RedisError.RedisError)
    })
  )

  it.scopedLive("a user of its own: what it may not do is refused, and it is still a connection that is ready", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({
        users: ["app on >hunter2 ~app:* +get +set", "silent on >hunter2 ~* -@all +get"]
      })
      const { redis } = yield* open({ ...at(server), username: "app", password: "hunter2" })
      assert.strictEqual(yield* redis.send("SET", "app:key", "1"), "OK")
      for (const [name, key] of [
        ["GET", "other"],
        ["DEL", "app:key"]
      ] as const) {
        const error = yield* failureOf(redis.send(name, key))
        assert.deepStrictEqual([error.reason, error.code, error.outcome], ["Authentication", "NOPERM", "rejected"])
      }
      const silent = yield* open({ ...at(server), username: "silent", password: "hunter2", name: "nameless" })
      assert.strictEqual(yield* silent.redis.send("GET", "app:key"), "1")
    })
  )

  for (const [version, ioredis] of [
    ["5.11", Ioredis5],
    ["6", Ioredis6]
  ] as const) {
    it.scopedLive(`an ioredis ${version} of the program's own does the same`, () =>
      Effect.gen(function* () {
        const server = yield* Server.make({ password: "hunter2" })
        const driver = RedisDriver.fromIoredis(ioredis)
        const { redis, release } = yield* open({ ...at(server), password: "hunter2", db: 2, name: "own", driver })
        assert.strictEqual(yield* redis.send("SET", "key", "väl"), "OK")
        assert.deepStrictEqual(yield* redis.sendBuffer("GET", "key"), Buffer.from("väl"))
        assert.include(String(yield* redis.send("CLIENT", "LIST")), "name=own")
        yield* redis.send("HSET", "hash", "field", "1")
        assert.deepStrictEqual(yield* redis.send("hgetall", "hash"), ["field", "1"])
        yield* redis.send("ZADD", "sorted", 1.5, "member")
        assert.deepStrictEqual(yield* redis.send("zrange", "sorted", 0, -1, "WITHSCORES"), ["member", "1.5"])
        const error = yield* failureOf(redis.send("INCR", "key"))
        assert.deepStrictEqual([error.reason, error.code], ["Rejected", "ERR"])
        const done = yield* redis.transaction([
          ["SET", "n", 1],
          ["INCR", "n"]
        ])
        assert.deepStrictEqual(done, [Either.right("OK"), Either.right(2)])
        const heard: Array<string> = []
        yield* redis.listen(["a"], (event) => {
          heard.push(event._tag === "Message" ? event.payload : event._tag)
        })
        yield* redis.send("PUBLISH", "a", "hello")
        yield* until(Effect.sync(() => heard.length === 2))
        yield* server.kill
        yield* until(Effect.map(redis.state, (state) => state === "away"))
        yield* server.start
        yield* until(Effect.map(Effect.either(redis.send("PING")), Either.isRight))
        yield* until(Effect.sync(() => heard.at(-1) === "Ready"))
        assert.deepStrictEqual(heard, ["Ready", "hello", "Lost", "Ready"])
        const own = yield* Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.send("CONFIG", "GET", "port")))
        assert.deepStrictEqual(own, ["port", String(server.port)])
        yield* release
        assert.strictEqual(isClosed(yield* failureOf(redis.send("PING"))), "Closed not-sent")
      })
    )
  }

  it.scopedLive("a server that knows no HELLO is served (ioredis 6 speaks the older protocol too)", () =>
    Effect.gen(function* () {
      const server = yield* Fake.make((request) =>
        request.name === "HELLO" ? "-ERR unknown command 'HELLO'\r\n" : undefined
      )
      for (const ioredis of [Ioredis5, Ioredis6]) {
        const { redis } = yield* open({ ...at(server), driver: RedisDriver.fromIoredis(ioredis) })
        assert.strictEqual(yield* redis.send("PING"), "PONG")
      }
    })
  )

  it.scopedLive("where keys stand in commands: as the server itself says", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      const commands: ReadonlyArray<readonly [string, ...ReadonlyArray<string>]> = [
        ["GET", "a"],
        ["SET", "a", "b", "EX", "1"],
        ["MGET", "a", "b"],
        ["MSET", "a", "1", "b", "2"],
        ["DEL", "a", "b"],
        ["RENAME", "a", "b"],
        ["COPY", "a", "b", "REPLACE"],
        ["BITOP", "AND", "a", "b", "c"],
        ["EVAL", "return 1", "2", "a", "b", "c"],
        ["EVALSHA", "0", "1", "a", "b"],
        ["FCALL", "f", "1", "a", "b"],
        ["ZADD", "a", "1", "b"],
        ["ZUNIONSTORE", "a", "2", "b", "c", "WEIGHTS", "1", "2"],
        ["ZUNION", "2", "a", "b"],
        ["SINTERCARD", "2", "a", "b", "LIMIT", "1"],
        ["LMPOP", "2", "a", "b", "LEFT"],
        ["BLMPOP", "0", "2", "a", "b", "LEFT"],
        ["BLPOP", "a", "b", "0"],
        ["BLMOVE", "a", "b", "LEFT", "RIGHT", "0"],
        ["LMOVE", "a", "b", "LEFT", "RIGHT"],
        ["SMOVE", "a", "b", "c"],
        ["SINTERSTORE", "a", "b", "c"],
        ["PFMERGE", "a", "b", "c"],
        ["XREAD", "COUNT", "1", "STREAMS", "a", "b", "0", "0"],
        ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "a", ">"],
        ["XGROUP", "CREATE", "a", "g", "$"],
        ["XINFO", "STREAM", "a"],
        ["XADD", "a", "*", "f", "v"],
        ["XAUTOCLAIM", "a", "g", "c", "0", "0"],
        ["OBJECT", "ENCODING", "a"],
        ["MEMORY", "USAGE", "a"],
        ["GEOSEARCHSTORE", "a", "b", "FROMLONLAT", "0", "0", "BYRADIUS", "1", "km"],
        ["ZRANGESTORE", "a", "b", "0", "-1"],
        ["LCS", "a", "b"],
        ["SORT", "a", "LIMIT", "0", "1"],
        ["GETEX", "a", "PX", "1"],
        ["EXISTS", "a", "b"]
      ]
      for (const [name, ...args] of commands) {
        const keys = yield* redis.send("COMMAND", "GETKEYS", name, ...args)
        assert.deepStrictEqual(Commands.keysOf(name, args), keys as ReadonlyArray<string>, name)
      }
    })
  )

  it.scopedLive("the slot of any key is the server's", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ arguments: ["--cluster-enabled", "yes"] })
      const connection = yield* server.connect
      const keys = FastCheck.sample(
        FastCheck.oneof(
          FastCheck.string({ unit: "binary" }),
          FastCheck.array(FastCheck.constantFrom("{", "}", "a", "ü", "", "{}"), { maxLength: 8 }).map((all) =>
            all.join("")
          )
        ),
        60
      )
      for (const key of [...keys, "", "{}a", "{a}b", "a{b}{c}", "{{a}}", "}{a}", "a{"]) {
        const slot = yield* connection.call("CLUSTER", "KEYSLOT", key)
        assert.strictEqual(Slots.ofKey(key), slot as number, JSON.stringify(key))
        assert.strictEqual(Slots.ofKey(Buffer.from(key)), slot as number)
      }
    })
  )
})
