import { assert, describe, it } from "@effect/vitest"
import { RedisCommand as C, RedisClient, RedisError } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Duration, Effect, Either, FastCheck, Layer, Option } from "effect"
import { failureOf } from "./RedisClientSupport.ts"
import { client, server } from "./support.ts"

const redis = client().pipe(Layer.provide(server()))

const run = <A>(command: C.RedisCommand<A>) =>
  Effect.flatMap(RedisClient.RedisClient, (client) => C.execute(client, command))

const is = <A>(command: C.RedisCommand<A>, expected: A) =>
  Effect.map(run(command), (actual) => assert.deepStrictEqual(actual, expected))

const some = Option.some
const none = Option.none()

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisCommand", "redis-server"), () => {
  it.effect("strings", () =>
    Effect.gen(function* () {
      yield* is(C.get("a"), none)
      yield* is(C.set("a", "1", { ttl: "1 hour" }), true)
      yield* is(C.set("a", "2", { onlyIf: "absent" }), false)
      yield* is(C.set("b", "2", { onlyIf: "present" }), false)
      yield* is(C.set("a", "3", { onlyIf: "present", ttl: "keep" }), true)
      assert.isAbove(Duration.toMillis(Option.getOrThrow(yield* run(C.ttl("a")))), 3_000_000)
      yield* is(C.setGet("a", "4"), some("3"))
      yield* is(C.setGet("new", "4"), none)
      yield* is(C.ttl("a"), some(Duration.infinity))
      yield* is(C.ttl("nothing"), none)
      yield* is(C.getEx("a", 0.4), some("4"))
      yield* is(C.set("a", "5", { ttl: "1 minute" }), true)
      yield* is(C.persist("a"), true)
      yield* is(C.expire("a", "1 minute"), true)
      yield* is(C.expire("nothing", "1 minute"), false)
      yield* is(
        C.mSet([
          ["x", "1"],
          ["y", "2"]
        ]),
        undefined
      )
      yield* is(C.mGet(["x", "nothing", "y"]), [some("1"), none, some("2")])
      yield* is(C.incrBy("x"), 2)
      yield* is(C.incrBy("x", -5), -3)
      yield* is(C.incrByFloat("x", 0.5), -2.5)
      yield* is(C.append("y", "ü"), 3)
      yield* is(C.strLen("y"), 3)
      yield* is(C.getDel("y"), some("2ü"))
      yield* is(C.exists("x", "y"), 1)
      yield* is(C.type("x"), some("string"))
      yield* is(C.type("y"), none)
      yield* is(C.del("x", "y"), 1)
      yield* is(C.unlink("new"), 1)
      yield* is(C.set("bytes", Uint8Array.from([0, 255])), true)
      const bytes = yield* Effect.flatMap(RedisClient.RedisClient, (client) => client.sendBuffer("GET", "bytes"))
      assert.deepStrictEqual([...(bytes as Uint8Array)], [0, 255])
    }).pipe(Effect.provide(redis))
  )

  it.effect("hashes, with names that JavaScript has its own ideas of", () =>
    Effect.gen(function* () {
      yield* is(
        C.hSet("h", [
          ["__proto__", "1"],
          ["constructor", "2"],
          ["", "3"]
        ]),
        3
      )
      yield* is(
        C.hGetAll("h"),
        new Map([
          ["__proto__", "1"],
          ["constructor", "2"],
          ["", "3"]
        ])
      )
      yield* is(C.hGetAll("nothing"), new Map())
      yield* is(C.hGet("h", "__proto__"), some("1"))
      yield* is(C.hMGet("h", ["constructor", "toString"]), [some("2"), none])
      yield* is(C.hSetNx("h", "constructor", "x"), false)
      yield* is(C.hExists("h", "toString"), false)
      yield* is(C.hIncrBy("h", "constructor"), 3)
      yield* is(C.hDel("h", "", "nothing"), 1)
      yield* is(C.hLen("h"), 2)
      yield* is(C.hKeys("h"), ["__proto__", "constructor"])
      const { cursor, found } = yield* run(C.hScan("h", "0", { match: "con*" }))
      assert.deepStrictEqual([cursor, [...found]], ["0", [["constructor", "3"]]])
    }).pipe(Effect.provide(redis))
  )

  it.effect("lists, sets and sorted sets", () =>
    Effect.gen(function* () {
      yield* is(C.rPush("l", "a", "b", "c"), 3)
      yield* is(C.lPush("l", "z"), 4)
      yield* is(C.lRange("l"), ["z", "a", "b", "c"])
      yield* is(C.lMove("l", "m", { take: "right", put: "left" }), some("c"))
      yield* is(C.lRem("l", 0, "a"), 1)
      yield* is(C.lTrim("l", 0, 0), undefined)
      yield* is(C.lLen("l"), 1)
      yield* is(C.lPop("l"), some("z"))
      yield* is(C.rPop("l"), none)

      yield* is(C.sAdd("s", "a", "b", "a"), 2)
      yield* is(C.sMembers("s"), new Set(["a", "b"]))
      yield* is(C.sIsMember("s", "c"), false)
      yield* is(C.sRem("s", "a", "c"), 1)
      yield* is(C.sCard("s"), 1)
      yield* is(C.sScan("s", "0"), { cursor: "0", found: ["b"] })
      yield* is(C.sPop("s"), some("b"))
      yield* is(C.sPop("s"), none)

      const members = [
        { member: "low", score: Number.NEGATIVE_INFINITY },
        { member: "one", score: 1.5 },
        { member: "high", score: Number.POSITIVE_INFINITY }
      ]
      yield* is(C.zAdd("z", members), 3)
      yield* is(C.zRangeWithScores("z"), members)
      yield* is(C.zRange("z", { by: "score", start: 0, stop: Number.POSITIVE_INFINITY }), ["one", "high"])
      yield* is(C.zRange("z", { start: 0, stop: 0, reverse: true }), ["high"])
      yield* is(C.zAdd("z", [{ member: "one", score: 1 }], { onlyIf: "greater", changed: true }), 0)
      yield* is(C.zAdd("z", [{ member: "one", score: 2 }], { onlyIf: "greater", changed: true }), 1)
      yield* is(C.zScore("z", "one"), some(2))
      yield* is(C.zScore("z", "nothing"), none)
      yield* is(C.zScore("z", "low"), some(Number.NEGATIVE_INFINITY))
      yield* is(C.zIncrBy("z", 0.25, "one"), 2.25)
      yield* is(C.zRank("z", "one"), some(1))
      yield* is(C.zRank("z", "nothing"), none)
      yield* is(C.zCount("z", 0, 10), 1)
      yield* is(C.zPopMax("z"), [{ member: "high", score: Number.POSITIVE_INFINITY }])
      yield* is(C.zPopMin("z", 1), [{ member: "low", score: Number.NEGATIVE_INFINITY }])
      yield* is(C.zRemRangeByScore("z", 0, 10), 1)
      yield* is(C.zCard("z"), 0)
      yield* is(C.zRem("z", "one"), 0)
    }).pipe(Effect.provide(redis))
  )

  it.effect("streams", () =>
    Effect.gen(function* () {
      const key = "stream"
      yield* is(C.xGroupCreate(key, "group", "0"), undefined)
      const again = yield* failureOf(run(C.xGroupCreate(key, "group", "0")))
      assert.deepStrictEqual([again.reason, again.code], ["Rejected", "BUSYGROUP"])
      yield* is(C.xAdd(key, [["n", 1]], { id: "1-0" }), "1-0")
      yield* is(
        C.xAdd(
          key,
          [
            ["n", 2],
            ["m", "x"]
          ],
          { id: "2-0" }
        ),
        "2-0"
      )
      assert.match(yield* run(C.xAdd(key, [["n", 3]])), /^\d+-\d+$/)
      yield* is(C.xLen(key), 3)
      const first = { id: "1-0", fields: new Map([["n", "1"]]) }
      const second = {
        id: "2-0",
        fields: new Map([
          ["n", "2"],
          ["m", "x"]
        ])
      }
      yield* is(C.xRange(key, { count: 2 }), [first, second])
      yield* is(C.xRevRange(key, { end: "2-0", count: 1 }), [second])
      yield* is(C.xRead([[key, "1-0"]], { count: 1 }), new Map([[key, [second]]]))
      yield* is(C.xRead([[key, "$"]]), new Map())
      yield* is(C.xReadGroup("group", "a", [[key, ">"]], { count: 2 }), new Map([[key, [first, second]]]))
      yield* is(C.xDel(key, "1-0"), 1)
      yield* is(
        C.xReadGroup("group", "a", [[key, "0"]]),
        new Map([[key, [{ id: "1-0", fields: new Map<string, string>() }, second]]])
      )
      yield* is(C.xAutoClaim(key, "group", "b", 0), { next: "0-0", entries: [second] })
      yield* is(C.xAck(key, "group", "2-0"), 1)
      yield* is(C.xTrim(key, { keep: { maxLength: 0 }, exact: true }), 2)
    }).pipe(Effect.provide(redis))
  )

  it.effect("others: the server's clock, scans of all keys, publishing", () =>
    Effect.gen(function* () {
      yield* is(C.ping, undefined)
      assert.isAbove(yield* run(C.time), 1_700_000_000_000)
      yield* is(C.dbSize, 0)
      yield* run(C.mSet(Array.from({ length: 50 }, (_, index) => [`k${index}`, index] as const)))
      const found = new Set<string>()
      let cursor = "0"
      do {
        const piece = yield* run(C.scan(cursor, { match: "k*", count: 10, type: "string" }))
        for (const key of piece.found) found.add(key)
        cursor = piece.cursor
      } while (cursor !== "0")
      assert.strictEqual(found.size, 50)
      yield* is(C.publish("nobody", "hello"), 0)
    }).pipe(Effect.provide(redis))
  )

  it.effect("pipelines and transactions have the type of each of their commands", () =>
    Effect.gen(function* () {
      const client = yield* RedisClient.RedisClient
      const sum = C.script(RedisClient.script("sum", "return redis.call('INCRBY', KEYS[1], ARGV[1])"), C.Reply.integer)
      const [set, got, wrong, summed] = yield* C.pipeline(client, [
        C.set("a", 1),
        C.get("a"),
        C.lRange("a"),
        sum(["a"], [4])
      ])
      const typed: readonly [
        Either.Either<boolean, RedisError.RedisError>,
        Either.Either<Option.Option<string>, unknown>
      ] = [set, got]
      assert.deepStrictEqual(typed, [Either.right(true), Either.right(some("1"))])
      assert.strictEqual(Either.isLeft(wrong) && wrong.left.reason, "WrongType")
      assert.deepStrictEqual(summed, Either.right(5))
      const [doubled, length] = yield* C.transaction(client, [
        C.map(C.incrBy("a", 5), (value) => value * 2),
        C.lLen("a")
      ])
      assert.deepStrictEqual(doubled, Either.right(20))
      assert.strictEqual(Either.isLeft(length) && length.left.reason, "WrongType")
      yield* is(sum(["a"], [1]), 11)
    }).pipe(Effect.provide(redis))
  )

  it.effect("a reply of another shape is a typed error", () =>
    Effect.gen(function* () {
      yield* run(C.set("a", "text"))
      const error = yield* failureOf(run(C.make("GET", ["a"], C.Reply.integer)))
      assert.instanceOf(error, RedisError.RedisError)
      assert.deepStrictEqual([error.reason, error.method, error.isRetryable], ["Unexpected", "GET", false])
      assert.notInclude(error.message, "text")
    }).pipe(Effect.provide(redis))
  )
})

describe("RedisCommand", () => {
  const { reply } = FastCheck.letrec<{ reply: RedisClient.Reply }>((tie) => ({
    reply: FastCheck.oneof(
      { depthSize: "small", withCrossShrink: true },
      FastCheck.constantFrom("OK", "PONG", "", "0", "inf", "-inf", "nan"),
      FastCheck.string(),
      FastCheck.integer({ min: -2, max: 3 }),
      FastCheck.constant(null),
      FastCheck.array(tie("reply"), { maxLength: 4 })
    )
  }))

  const commands: ReadonlyArray<C.RedisCommand<unknown>> = [
    C.get("k"),
    C.set("k", "v"),
    C.mGet(["k"]),
    C.mSet([]),
    C.incrBy("k"),
    C.incrByFloat("k", 1),
    C.expire("k", 1),
    C.ttl("k"),
    C.type("k"),
    C.scan("0"),
    C.hGetAll("k"),
    C.hMGet("k", []),
    C.hScan("k", "0"),
    C.lRange("k"),
    C.sMembers("k"),
    C.zScore("k", "m"),
    C.zRank("k", "m"),
    C.zRangeWithScores("k"),
    C.xRange("k"),
    C.xRead([]),
    C.xAutoClaim("k", "g", "c", 1),
    C.ping,
    C.time,
    C.map(C.zPopMin("k"), (all) => all.map(({ score }) => score.toFixed(1)))
  ]

  it("no reply at all makes a reading throw", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.constantFrom(...commands), reply, (command, reply) => {
        const value = command.decode(reply)
        // NaN is no number that a server says
        return !(typeof value === "number" && Number.isNaN(value))
      }),
      { numRuns: 2_000 }
    )
  })

  it("what a reading makes of a list is what it makes of its elements", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.array(reply), (replies) => {
        const parts = replies.map(C.Reply.optionalText)
        const whole = C.Reply.list(C.Reply.optionalText)(replies)
        if (parts.includes(C.unexpected)) assert.strictEqual(whole, C.unexpected)
        else assert.deepStrictEqual(whole, parts as ReadonlyArray<Option.Option<string>>)
      })
    )
  })
})
