import { assert, describe, it } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Fake from "@underlay/servers/FakeRedis"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either, Fiber, Scope } from "effect"
import { failureOf, open, pause, timed, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

const script = RedisClient.script("test.add", "return redis.call('INCR', KEYS[1])")

/** The names of the commands that a server got, without what every connection begins with. */
const names = (server: Fake.FakeRedis) =>
  Effect.map(server.received, (all) => all.map(([name]) => name).filter((name) => name !== "PING"))

const got = (server: Fake.FakeRedis, name: string) =>
  until(Effect.map(server.received, (all) => all.some(([one]) => one === name)))

/** A node of a Cluster that has all slots, and says what it is told to say to GET. */
const node = (answer: (port: number) => string | undefined) =>
  Effect.gen(function* () {
    const place = { port: 0 }
    const server = yield* Fake.make((request) => {
      if (request.name === "CLUSTER") {
        return Fake.clusterSlots([{ from: 0, to: 16_383, nodes: [{ host: "127.0.0.1", port: place.port }] }])
      }
      return request.name === "GET" ? answer(place.port) : undefined
    })
    place.port = server.port
    return server
  })

describe("RedisClient: what was interrupted is never sent later", () => {
  for (const [what, call] of [
    ["a script", (redis: RedisClient.Service) => Effect.asVoid(redis.run(script, ["key"], []))],
    [
      "a script among others",
      (redis: RedisClient.Service) =>
        Effect.asVoid(redis.sendMany(["a", "b"].map((key) => ({ script, keys: [key], args: [] }))))
    ]
  ] as const) {
    it.scopedLive(`${what} that the server does not know (NOSCRIPT)`, () =>
      Effect.gen(function* () {
        const server = yield* Fake.make((request) => (request.name === "EVALSHA" ? "" : undefined))
        const { redis } = yield* open(at(server))
        const running = yield* Effect.fork(call(redis))
        yield* got(server, "EVALSHA")
        yield* Fiber.interrupt(running)
        const sent = (yield* names(server)).length
        yield* server.push("-NOSCRIPT No matching script. Please use EVAL.\r\n".repeat(sent))
        yield* pause(50)
        assert.notInclude(yield* names(server), "EVAL")
      })
    )
  }

  for (const [what, answer] of [
    ["sent on by MOVED", (port: number) => `-MOVED 12539 127.0.0.1:${port}\r\n`],
    ["sent on by ASK", (port: number) => `-ASK 12539 127.0.0.1:${port}\r\n`],
    ["asked to come again by TRYAGAIN", () => "-TRYAGAIN Multiple keys request during rehashing of slot\r\n"]
  ] as const) {
    it.scopedLive(`a command that would be ${what}`, () =>
      Effect.gen(function* () {
        const server = yield* node(() => "")
        const { redis } = yield* open({ nodes: [at(server)], commandTimeout: "5 seconds" })
        const running = yield* Effect.fork(redis.send("GET", "key"))
        yield* got(server, "GET")
        yield* Fiber.interrupt(running)
        yield* server.push(answer(server.port))
        yield* pause(50)
        assert.deepStrictEqual(
          (yield* names(server)).filter((name) => name === "GET" || name === "ASKING"),
          ["GET"]
        )
        const { inFlight, redirected, waiting } = yield* redis.stats
        assert.deepStrictEqual({ inFlight, redirected, waiting }, { inFlight: 0, redirected: 0, waiting: 0 })
      })
    )
  }

  it.scopedLive("a command that is to come again in a moment (TRYAGAIN) when the client is released is told so", () =>
    Effect.gen(function* () {
      const server = yield* node(() => "")
      const { redis, release } = yield* open({ nodes: [at(server)], commandTimeout: "5 seconds" })
      const running = yield* Effect.fork(failureOf(redis.send("GET", "key")))
      yield* got(server, "GET")
      yield* server.push("-TRYAGAIN Multiple keys request during rehashing of slot\r\n")
      yield* until(Effect.map(redis.stats, ({ redirected }) => redirected === 1))
      yield* release
      const [error, took] = yield* timed(Fiber.join(running))
      assert.deepStrictEqual([error.reason, error.outcome], ["Closed", "not-sent"])
      assert.isBelow(took, 500)
    })
  )

  it.scopedLive("a command that waited for the map of a Cluster, and waits for its node now", () =>
    Effect.gen(function* () {
      const held = yield* Fake.make((request) => (request.name === "PING" ? "" : undefined))
      const seed = yield* Fake.make((request) =>
        request.name === "CLUSTER"
          ? Fake.clusterSlots([{ from: 0, to: 16_383, nodes: [{ host: "127.0.0.1", port: held.port }] }])
          : undefined
      )
      const { redis } = yield* open({ nodes: [at(seed)], connect: "lazy", commandTimeout: "5 seconds" })
      const running = yield* Effect.fork(redis.send("GET", "key"))
      yield* got(held, "PING")
      assert.strictEqual((yield* redis.stats).waiting, 1)
      yield* Fiber.interrupt(running)
      assert.strictEqual((yield* redis.stats).waiting, 0)
      yield* held.push("+PONG\r\n")
      yield* until(Effect.map(redis.state, (state) => state === "ready"))
      assert.notInclude(yield* names(held), "GET")
    })
  )
})

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisClient: isolated connections", "redis-server"), () => {
  it.scopedLive("one that was given back is not used on: somebody else may have it", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      const kept = yield* Effect.scoped(redis.isolated())
      const { isolatedIdle } = yield* redis.stats
      assert.strictEqual(isolatedIdle, 1)
      const other = yield* redis.isolated()
      for (const call of [
        Effect.asVoid(kept.send("WATCH", "key")),
        Effect.asVoid(kept.block("1 second", "BLPOP", "list", 1)),
        Effect.asVoid(kept.run(script, ["key"], [])),
        Effect.asVoid(kept.transaction([["SET", "key", 1]]))
      ]) {
        const error = yield* failureOf(call)
        assert.deepStrictEqual([error.reason, error.outcome], ["Closed", "not-sent"])
      }
      assert.isTrue((yield* kept.sendMany([["PING"]])).every(Either.isLeft))
      assert.strictEqual(yield* other.send("PING"), "PONG")
      assert.strictEqual((yield* redis.stats).isolated, 1)
    })
  )

  it.scopedLive("one on which an answer is still to come is not given to another", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      const error = yield* Effect.scoped(
        Effect.gen(function* () {
          const one = yield* redis.isolated()
          // the answer to the first comes after the second was sent, so the connection is not taken for frozen
          const [, blocked] = yield* Effect.all([one.send("PING"), failureOf(one.block(1, "BLPOP", "list", 0))], {
            concurrency: 2
          })
          return blocked
        })
      )
      assert.deepStrictEqual([error.reason, error.outcome], ["Timeout", "unknown"])
      assert.strictEqual((yield* redis.stats).isolated, 0)
      const [pong, took] = yield* timed(Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.send("PING"))))
      assert.strictEqual(pong, "PONG")
      assert.isBelow(took, 400)
      yield* until(Effect.map(server.command("CLIENT", "LIST"), (list) => !String(list).includes("cmd=blpop")))
      yield* redis.send("RPUSH", "list", "element")
      assert.strictEqual(yield* redis.send("LLEN", "list"), 1)
    })
  )

  it.scopedLive("calls on it are bounded as those on the shared one: in number and in bytes", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open({ ...at(server), maxInFlight: 10, maxBuffered: 1_000_000 })
      const one = yield* redis.isolated()
      const other = yield* redis.isolated()
      yield* server.freeze
      const many = (by: RedisClient.Isolated, count: number, value: string) =>
        Effect.map(
          Effect.forEach(Array.from({ length: count }), () => Effect.either(by.send("SET", "key", value)), {
            concurrency: "unbounded"
          }),
          (results) => results.filter((result) => Either.isLeft(result) && result.left.reason === "Overloaded").length
        )
      const [number, bytes] = yield* Effect.all([many(one, 50, "x"), many(other, 9, "x".repeat(2_000_000))], {
        concurrency: 2
      })
      assert.strictEqual(number, 40)
      assert.isAbove(bytes, 4)
      assert.strictEqual((yield* redis.stats).inFlight, 0, "they do not take the place of the others")
    })
  )

  it.scopedLive("whoever waits for one when the client is released is told at once, and no timer is left", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis, release } = yield* open({ ...at(server), maxConnections: 1 })
      const scope = yield* Scope.make()
      yield* server.freeze
      const before = process.getActiveResourcesInfo().filter((one) => one === "Timeout").length
      const waits = yield* Effect.forEach([1, 2], () =>
        Effect.fork(Effect.either(Scope.extend(redis.isolated(), scope)))
      )
      yield* pause(20)
      const [results, took] = yield* timed(Effect.zipRight(release, Effect.forEach(waits, Fiber.join)))
      assert.deepStrictEqual(
        results.map((result) => (Either.isLeft(result) ? `${result.left.reason} ${result.left.outcome}` : "one")),
        ["Closed not-sent", "Closed not-sent"]
      )
      assert.isBelow(took, 500)
      yield* until(
        Effect.sync(() => process.getActiveResourcesInfo().filter((one) => one === "Timeout").length <= before)
      )
    })
  )
})
