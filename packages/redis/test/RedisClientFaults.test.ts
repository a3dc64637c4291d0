import { assert, describe, it } from "@effect/vitest"
import { RedisClient, RedisError } from "@underlay/redis"
import * as Fake from "@underlay/servers/FakeRedis"
import * as Proxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either, Fiber } from "effect"
import { drivers, failureOf, heap, open as openClient, pause, timed, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

const many = (redis: RedisClient.Service, count: number, ...command: RedisClient.Command) =>
  Effect.forEach(Array.from({ length: count }), () => timed(Effect.either(redis.send(...command))), {
    concurrency: "unbounded"
  })

const answers = (redis: RedisClient.Service) => Effect.map(Effect.either(redis.send("PING")), Either.isRight)

const isAway = (redis: RedisClient.Service) => Effect.map(redis.state, (state) => state === "away")

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0

/** A server behind a proxy, and what makes it go away and come back. */
const ways = ["frozen", "killed", "a blackhole", "swallowing replies", "reset and refusing"] as const

const breakable = (way: (typeof ways)[number]) =>
  Effect.gen(function* () {
    const server = yield* Server.make()
    const proxy = yield* Proxy.make({ port: server.port })
    const direct = way === "frozen" || way === "killed"
    const goAway = {
      frozen: server.freeze,
      killed: server.kill,
      "a blackhole": proxy.blackhole(true),
      "swallowing replies": proxy.swallowReplies(true),
      "reset and refusing": Effect.zipRight(proxy.refuse(true), proxy.resetAll)
    }[way]
    const comeBack = {
      frozen: server.thaw,
      killed: server.start,
      "a blackhole": proxy.blackhole(false),
      "swallowing replies": proxy.swallowReplies(false),
      "reset and refusing": proxy.refuse(false)
    }[way]
    return { address: direct ? at(server) : at(proxy), goAway, comeBack }
  })

for (const [version, driver] of drivers) {
  const open = (options: RedisClient.Options) => openClient({ driver, ...options })

  describe.skipIf(Need.missing("redis-server"))(
    Need.title(`RedisClient and faults, on ${version}`, "redis-server"),
    () => {
      for (const way of ways) {
        it.scopedLive(
          `default settings, a server that is ${way}: every call settles in 550 ms, at once when it is known; it is back in 1 s`,
          () =>
            Effect.gen(function* () {
              const { address, comeBack, goAway } = yield* breakable(way)
              const { redis, release } = yield* open(address)
              yield* redis.send("SET", "key", "1")
              yield* goAway
              // How late this process is by itself: a timer of its own says it.
              const [first, [, half]] = yield* Effect.zip(many(redis, 200, "GET", "key"), timed(pause(500)), {
                concurrent: true
              })
              const late = Math.max(0, half - 500)
              for (const [result, took] of first) {
                assert.isTrue(Either.isLeft(result))
                assert.isBelow(took - late, 550)
              }
              yield* until(isAway(redis), 1_000)
              const then = yield* Effect.forEach(Array.from({ length: 100 }), () =>
                timed(Effect.either(redis.send("GET", "key")))
              )
              for (const [result] of then) {
                assert.isTrue(Either.isLeft(result) && result.left.outcome === "not-sent" && result.left.isRetryable)
              }
              assert.isBelow(median(then.map(([, took]) => took)), 1)
              const { inFlight, waiting } = yield* redis.stats
              assert.deepStrictEqual({ inFlight, waiting }, { inFlight: 0, waiting: 0 })
              // long enough for attempts to have given up and begun anew
              yield* pause(1_200)
              yield* comeBack
              const [, back] = yield* timed(until(answers(redis), 3_000))
              assert.isBelow(back, 1_000)
              yield* goAway
              yield* pause(20)
              const [, took] = yield* timed(release)
              assert.isBelow(took, 500)
              yield* comeBack
            }),
          30_000
        )
      }

      it.scopedLive(
        "100,000 calls at a frozen server are bounded in memory, and all settle",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const { redis } = yield* open(at(server))
            const value = "x".repeat(1_000)
            yield* server.freeze
            const before = heap()
            let unknown = 0
            const first = yield* Effect.fork(
              Effect.forEach(
                Array.from({ length: 10_000 }),
                () =>
                  Effect.map(failureOf(redis.send("SET", "key", value)), ({ outcome }) => {
                    if (outcome === "unknown") unknown++
                  }),
                { concurrency: "unbounded", discard: true }
              )
            )
            yield* until(Effect.map(redis.stats, ({ inFlight }) => inFlight === 10_000))
            let refused = 0
            for (let index = 0; index < 90_000; index++) {
              const error = yield* failureOf(redis.send("SET", `key-${index}`, value))
              if (error.outcome === "not-sent") refused++
            }
            yield* Fiber.join(first)
            assert.strictEqual(unknown, 10_000)
            assert.strictEqual(refused, 90_000)
            const { inFlight, sent, waiting } = yield* redis.stats
            assert.deepStrictEqual({ inFlight, sent, waiting }, { inFlight: 0, sent: 10_000, waiting: 0 })
            yield* until(Effect.sync(() => heap() - before < 16 * 1024 * 1024))
          }),
        60_000
      )

      it.scopedLive("what waits to go out is bounded in bytes too", () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const { redis } = yield* open({ ...at(server), maxBuffered: 1_000_000 })
          yield* server.freeze
          const value = "x".repeat(1_000_000)
          const results = yield* many(redis, 50, "SET", "key", value)
          const reasons = results.map(([result]) => (Either.isLeft(result) ? result.left.reason : "done"))
          assert.isAbove(reasons.filter((reason) => reason === "Overloaded").length, 30)
        })
      )

      it.scopedLive("a thousand calls under way have one timer together, and none is left when they are answered", () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const timers = () => process.getActiveResourcesInfo().filter((one) => one === "Timeout").length
          const { redis } = yield* open({ ...at(server), commandTimeout: "300 millis" })
          yield* redis.send("PING")
          yield* pause(400)
          const before = timers()
          yield* server.freeze
          const calls = yield* Effect.fork(many(redis, 1_000, "GET", "key"))
          yield* until(Effect.map(redis.stats, ({ inFlight }) => inFlight === 1_000))
          // the pause of the loop that waits here may be one of them
          assert.isAtMost(timers() - before, 2)
          yield* server.thaw
          yield* Fiber.join(calls)
        })
      )

      it.scopedLive("a process that was held up reads what has come before it gives anything up", () =>
        Effect.gen(function* () {
          // in this process, so that it has its turn as soon as the process goes on, however busy the machine is
          const server = yield* Fake.make((request) => (request.name === "SET" ? Fake.simple("OK") : undefined))
          const { redis } = yield* open({ ...at(server), commandTimeout: "200 millis" })
          const call = yield* Effect.fork(
            Effect.forEach([1, 2, 3], (n) => redis.send("SET", "key", n), { concurrency: 3 })
          )
          // the calls are sent, and nothing has been read yet
          for (let turn = 0; turn < 20 && (yield* redis.stats).inFlight < 3; turn++) yield* Effect.yieldNow()
          assert.strictEqual((yield* redis.stats).inFlight, 3)
          const end = performance.now() + 400
          while (performance.now() < end) {
            // nothing else runs
          }
          assert.deepStrictEqual(yield* Fiber.join(call), ["OK", "OK", "OK"])
          assert.strictEqual((yield* redis.stats).timedOut, 0)
        })
      )

      it.scopedLive(
        "a long reply that is still coming is no frozen connection; who waits behind it settles in time",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const proxy = yield* Proxy.make({ port: server.port })
            const { redis } = yield* open({ ...at(proxy), commandTimeout: "300 millis" })
            yield* server.command("SETRANGE", "large", "3000000", "x")
            yield* proxy.slice(4_096)
            const large = yield* Effect.fork(Effect.either(redis.send("GET", "large")))
            yield* pause(10)
            const small = yield* Effect.either(redis.send("GET", "small"))
            const first = yield* Fiber.join(large)
            for (const result of [first, small]) {
              if (Either.isLeft(result)) assert.strictEqual(result.left.reason, "Timeout")
            }
            yield* until(answers(redis))
            const { connects } = yield* redis.stats
            assert.strictEqual(connects, 1, "the connection was kept")
          })
      )

      it.scopedLive("answers in pieces of one byte, connections cut in the middle of a reply, or closed by half", () =>
        Effect.gen(function* () {
          const server = yield* Server.make()
          const proxy = yield* Proxy.make({ port: server.port })
          const { redis } = yield* open({ ...at(proxy), commandTimeout: "2 seconds" })
          const value = "äöü".repeat(100)
          yield* redis.send("SET", "key", value)
          yield* proxy.slice(1)
          assert.strictEqual(yield* redis.send("GET", "key"), value)
          yield* proxy.calm
          yield* proxy.resetAfter(100)
          const cut = yield* failureOf(redis.send("GET", "key"))
          assert.deepStrictEqual([cut.reason, cut.outcome], ["Unavailable", "unknown"])
          yield* until(answers(redis))
          yield* proxy.halfClose
          yield* until(Effect.map(redis.stats, ({ disconnects }) => disconnects === 2))
          yield* until(answers(redis))
          assert.strictEqual(yield* redis.send("GET", "key"), value)
        })
      )

      it.scopedLive(
        "a thousand scopes opened and closed leave no socket, timer or listener behind, whatever they did",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const port = yield* Server.freePort
            const once = (index: number) =>
              Effect.scoped(
                Effect.gen(function* () {
                  const { redis } = yield* open({
                    ...(index % 4 === 3 ? { host: "127.0.0.1", port } : at(server)),
                    connect: index % 2 === 0 ? "eager" : "lazy"
                  })
                  yield* Effect.either(redis.send("PING"))
                  if (index % 4 === 0) yield* redis.listen(["channel"], () => {})
                  if (index % 4 === 1) yield* Effect.flatMap(redis.isolated(), (one) => one.send("PING"))
                  // closed while a connection is being made
                  if (index % 4 === 2) yield* Effect.fork(redis.listen(["channel"], () => {}))
                })
              )
            yield* Effect.forEach(
              Array.from({ length: 20 }, (_, index) => index),
              once,
              { concurrency: 5 }
            )
            yield* pause(100)
            const resources = () => {
              const all = process.getActiveResourcesInfo()
              return {
                sockets: all.filter((one) => one.startsWith("TCP") || one.startsWith("TLS")).length,
                timers: all.filter((one) => one === "Timeout").length
              }
            }
            const before = resources()
            const listeners = process.eventNames().map((name) => process.listenerCount(name))
            yield* Effect.forEach(
              Array.from({ length: 1_000 }, (_, index) => index),
              once,
              { concurrency: 5 }
            )
            yield* until(Effect.sync(() => resources().sockets <= before.sockets))
            yield* until(Effect.sync(() => resources().timers <= before.timers + 1))
            assert.deepStrictEqual(
              process.eventNames().map((name) => process.listenerCount(name)),
              listeners
            )
            const left = Effect.map(server.command("CLIENT", "LIST"), (list) => list.trim().split("\n").length - 1)
            yield* until(Effect.map(left, (count) => count <= 1))
          }),
        120_000
      )

      it.scopedLive("an address whose master has moved: READONLY makes the client look again (complaint 10)", () =>
        Effect.gen(function* () {
          const first = yield* Server.make()
          const second = yield* Server.make()
          const proxy = yield* Proxy.make({ port: first.port })
          const { redis } = yield* open({ ...at(proxy), commandTimeout: "2 seconds" })
          const own = yield* redis.isolated()
          assert.strictEqual(yield* redis.send("SET", "key", "1"), "OK")
          yield* proxy.retarget(second)
          yield* first.command("REPLICAOF", second.host, String(second.port))
          const error = yield* failureOf(redis.send("SET", "key", "2"))
          assert.deepStrictEqual([error.reason, error.code, error.outcome], ["NotReady", "READONLY", "rejected"])
          const [, took] = yield* timed(
            until(Effect.map(Effect.either(redis.send("SET", "key", "3")), Either.isRight), 3_000)
          )
          assert.isBelow(took, 1_000)
          assert.include(yield* second.command("GET", "key"), "3")
          // an isolated connection stays where it is, and says so
          const stays = yield* failureOf(own.send("SET", "key", "4"))
          assert.strictEqual(stays.code, "READONLY")
        })
      )

      it.scopedLive("a script that is refused half way: what it did before is done, so the outcome is unknown", () =>
        Effect.gen(function* () {
          const server = yield* Server.make({ users: ["app on >secret ~* &* +@all -lpop"] })
          const { redis } = yield* open({ ...at(server), username: "app", password: "secret" })
          yield* redis.send("MSET", "text", "1", "one", "1", "two", "1")
          const script = (name: string) =>
            RedisClient.script(name, `redis.call('DEL', KEYS[1]) return redis.call('${name}', KEYS[2])`)
          const wrong = yield* failureOf(redis.run(script("RPOP"), ["one", "text"], []))
          assert.deepStrictEqual([wrong.reason, wrong.outcome], ["WrongType", "unknown"])
          const forbidden = yield* failureOf(redis.run(script("LPOP"), ["two", "text"], []))
          assert.strictEqual(forbidden.outcome, "unknown", String(forbidden.cause))
          assert.deepStrictEqual(yield* redis.send("MGET", "one", "two"), [null, null])
          // without memory a script is refused at its first write, or not at all
          yield* server.command("CONFIG", "SET", "maxmemory", "1")
          const first = RedisClient.script("first", "redis.call('SET', KEYS[1], '1') return redis.call('DEL', KEYS[2])")
          const full = yield* failureOf(redis.run(first, ["three", "text"], []))
          assert.deepStrictEqual([full.reason, full.outcome], ["OutOfMemory", "rejected"])
          assert.deepStrictEqual(yield* redis.send("MGET", "three", "text"), [null, "1"])
        })
      )

      it.scopedLive(
        "a lazy client at a server that hangs: whoever waited in vain once spares the others the wait",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const proxy = yield* Proxy.make({ port: server.port })
            yield* proxy.blackhole(true)
            const { redis } = yield* open({ ...at(proxy), connect: "lazy" })
            const first = yield* failureOf(redis.send("PING"))
            assert.deepStrictEqual([first.reason, first.outcome], ["Timeout", "not-sent"])
            const [then, took] = yield* timed(failureOf(redis.send("PING")))
            assert.deepStrictEqual([then.reason, then.outcome], ["Unavailable", "not-sent"])
            assert.isBelow(took, 50)
            yield* proxy.blackhole(false)
            const [, back] = yield* timed(until(answers(redis), 3_000))
            assert.isBelow(back, 1_000)
          })
      )

      it.scopedLive(
        "connections reset under load: what is not idempotent is done at most once, and what was told is true",
        () =>
          Effect.gen(function* () {
            const server = yield* Server.make()
            const proxy = yield* Proxy.make({ port: server.port })
            const { redis } = yield* open({ ...at(proxy), commandTimeout: "2 seconds" })
            let done = 0
            let unknown = 0
            let stop = false
            const worker = Effect.gen(function* () {
              while (!stop) {
                const result = yield* Effect.either(redis.send("INCR", "counter"))
                if (Either.isRight(result)) done++
                else if (result.left.outcome === "unknown") unknown++
                else yield* pause(1)
              }
            })
            const load = yield* Effect.fork(
              Effect.all(
                Array.from({ length: 20 }, () => worker),
                { concurrency: "unbounded" }
              )
            )
            for (let round = 0; round < 100; round++) {
              const { connects } = yield* redis.stats
              yield* round % 2 === 0 ? proxy.resetAll : proxy.resetAfter(40)
              yield* until(Effect.map(redis.stats, (stats) => stats.connects > connects))
            }
            stop = true
            yield* Fiber.join(load)
            const counter = Number((yield* server.command("GET", "counter")).match(/\d+\r\n$/)?.[0])
            assert.isAtLeast(counter, done, "what was told as done was done")
            assert.isAtMost(counter, done + unknown, "nothing was done twice")
            assert.isAbove(unknown, 0)
          }),
        60_000
      )
    }
  )

  describe(`RedisClient and what a server can say, on ${version}`, () => {
    const saying = (name: string, answer: string) =>
      Fake.make((request) => (request.name === name ? answer : undefined))

    const rows: ReadonlyArray<readonly [answer: string, reason: RedisError.Reason, code: string | undefined]> = [
      ["-LOADING Redis is loading the dataset in memory\r\n", "NotReady", "LOADING"],
      ["-READONLY You can't write against a read only replica.\r\n", "NotReady", "READONLY"],
      ["-MASTERDOWN Link with MASTER is down\r\n", "NotReady", "MASTERDOWN"],
      ["-CLUSTERDOWN The cluster is down\r\n", "NotReady", "CLUSTERDOWN"],
      ["-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "NotReady", "TRYAGAIN"],
      ["-BUSY Redis is busy running a script\r\n", "NotReady", "BUSY"],
      ["-NOREPLICAS Not enough good replicas to write.\r\n", "NotReady", "NOREPLICAS"],
      ["-MISCONF Redis is configured to save RDB snapshots\r\n", "NotReady", "MISCONF"],
      ["-MOVED 3999 127.0.0.1:6381\r\n", "NotReady", "MOVED"],
      ["-ASK 3999 127.0.0.1:6381\r\n", "NotReady", "ASK"],
      ["-OOM command not allowed when used memory > 'maxmemory'.\r\n", "OutOfMemory", "OOM"],
      ["-NOAUTH Authentication required.\r\n", "Authentication", "NOAUTH"],
      ["-NOPERM this user has no permissions to run the 'get' command\r\n", "Authentication", "NOPERM"],
      ["-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", "WrongType", "WRONGTYPE"],
      ["-CROSSSLOT Keys in request don't hash to the same slot\r\n", "CrossSlot", "CROSSSLOT"],
      ["-NOSCRIPT No matching script\r\n", "Rejected", "NOSCRIPT"],
      ["-EXECABORT Transaction discarded because of previous errors.\r\n", "Rejected", "EXECABORT"],
      ["-ERR anything else about 'secret'\r\n", "Rejected", "ERR"]
    ]
    for (const [answer, reason, code] of rows) {
      it.scopedLive(`${code} is ${reason}: alone, among others, in a script, in a transaction`, () =>
        Effect.gen(function* () {
          const transaction = /EXECABORT|MOVED|ASK|TRYAGAIN|CLUSTERDOWN/.test(answer)
          const server = yield* Fake.make((request) => {
            if (request.name === "GET" || request.name === "EVALSHA" || request.name === "EVAL") return answer
            if (request.name === "MULTI") return "+OK\r\n"
            if (request.name === "EXEC") return "-EXECABORT Transaction discarded because of previous errors.\r\n"
            return undefined
          })
          const { redis } = yield* open(at(server))
          const script = RedisClient.script("script", "return 1")
          const errors = [
            yield* failureOf(redis.send("GET", "secret")),
            yield* failureOf(redis.run(script, ["secret"], [])),
            ...(transaction ? [] : [yield* failureOf(redis.transaction([["GET", "secret"]]))])
          ]
          const [among] = yield* redis.sendMany([["GET", "secret"]])
          if (among !== undefined && Either.isLeft(among)) errors.push(among.left)
          assert.isAtLeast(errors.length, 3)
          for (const error of errors) {
            assert.deepStrictEqual([error.reason, error.code, error.outcome], [reason, code, "rejected"])
            assert.notInclude(`${error.message} ${String(error.cause)}`, "secret")
          }
        })
      )
    }

    it.scopedLive("a server that loads its data is waited for, and said to load", () =>
      Effect.gen(function* () {
        let loading = true
        const server = yield* Fake.make((request) =>
          loading && request.name === "PING" ? "-LOADING Redis is loading the dataset in memory\r\n" : undefined
        )
        const error = yield* failureOf(open(at(server)))
        assert.instanceOf(error, RedisError.RedisError)
        assert.deepStrictEqual([error.reason, error.code, error.isRetryable], ["NotReady", "LOADING", true])
        const { redis } = yield* open({
          ...at(server),
          connect: "lazy",
          answerAtOnce: false,
          commandTimeout: "5 seconds"
        })
        const call = yield* Effect.fork(redis.send("PING"))
        yield* pause(100)
        loading = false
        const [pong, took] = yield* timed(Fiber.join(call))
        assert.strictEqual(pong, "PONG")
        assert.isBelow(took, 1_000)
      })
    )

    describe.skipIf(Need.missing("redis-server"))(Need.title("said by a real one", "redis-server"), () => {
      it.scopedLive("too many clients, by a server that hangs up before it is asked anything", () =>
        Effect.gen(function* () {
          const server = yield* Server.make({ arguments: ["--maxclients", "2"] })
          const first = yield* open(at(server))
          const second = yield* open(at(server))
          const error = yield* failureOf(open(at(server)))
          assert.instanceOf(error, RedisError.RedisError)
          assert.deepStrictEqual([error.reason, error.isRetryable], ["NotReady", true], String(error))
          yield* second.release
          yield* until(Effect.map(Effect.either(Effect.scoped(open(at(server)))), Either.isRight))
          assert.strictEqual(yield* first.redis.send("PING"), "PONG")
        })
      )
    })

    it.scopedLive(
      "nonsense instead of an answer, and answers that nobody asked for, end the connection and not the client",
      () =>
        Effect.gen(function* () {
          const server = yield* saying("GET", "nonsense\r\n")
          const { redis } = yield* open(at(server))
          const error = yield* failureOf(redis.send("GET", "key"))
          assert.deepStrictEqual([error.reason, error.outcome], ["Unavailable", "unknown"])
          yield* until(answers(redis))
          yield* server.push("+OK\r\n")
          yield* until(Effect.map(redis.stats, ({ disconnects }) => disconnects === 2))
          yield* until(answers(redis))
        })
    )

    it.scopedLive("a map of a Cluster that lacks slots is asked for again until it is whole, though nobody sends", () =>
      Effect.gen(function* () {
        let last = 8_000
        let ports: ReadonlyArray<number> = []
        const server = yield* Fake.make((request) =>
          request.name === "CLUSTER"
            ? `*1\r\n*3\r\n:0\r\n:${last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:${ports[0]}\r\n`
            : undefined
        )
        ports = [server.port]
        const { redis } = yield* open({ nodes: [at(server)] })
        assert.strictEqual(yield* redis.state, "away")
        last = 16_383
        yield* until(Effect.map(redis.state, (state) => state === "ready"))
      })
    )

    it.scopedLive("MOVED in a circle ends, typed", () =>
      Effect.gen(function* () {
        const port = yield* Server.freePort
        const ports: Array<number> = [port]
        const slots = () => {
          const [one = 0] = ports
          return `*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:${one}\r\n`
        }
        const server = yield* Fake.make((request) => {
          if (request.name === "CLUSTER") return slots()
          if (request.name === "GET") return `-MOVED 12539 127.0.0.1:${ports[0]}\r\n`
          return undefined
        })
        ports[0] = server.port
        const { redis } = yield* open({ nodes: [at(server)] })
        const [error, took] = yield* timed(failureOf(redis.send("GET", "key")))
        assert.deepStrictEqual([error.reason, error.code, error.outcome], ["NotReady", "MOVED", "rejected"])
        assert.isBelow(took, 550)
        assert.isAtMost((yield* redis.stats).redirected, 16)
      })
    )
  })
}
