import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import * as Zlib from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer, Option, Schema } from "effect"
import { client, pause, RedisServer, server, timed } from "./support.ts"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const sendBuffer = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.sendBuffer(...command))

const own = (behaviour: RedisClient.Options = {}) =>
  RedisCache.layer.pipe(Layer.provideMerge(client(behaviour)), Layer.provideMerge(server()))

const numbers = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({
    namespace: "numbers",
    schema: Schema.Number,
    jitter: 0,
    ...options,
    firstTier: undefined,
    strict: false
  })

const tiered = (options: Partial<Cache.Options<number, number>> = {}) =>
  Cache.make({ namespace: "numbers", schema: Schema.Number, jitter: 0, firstTier: {}, ...options, strict: false })

/** Waits for what a real server does in its own time. */
const until = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.gen(function* () {
    for (let round = 0; round < 1_000; round++) {
      if (yield* condition) return
      yield* pause(5)
    }
    assert.fail(`never: ${what}`)
  })

interface Worker {
  readonly ready: Promise<void>
  readonly begin: () => void
  readonly ended: Promise<{ readonly lines: ReadonlyArray<string>; readonly problem: string }>
}

const worker = (port: number, calls: number, mode: "computes" | "dies"): Worker => {
  const file = Path.join(import.meta.dirname, "cacheWorker.ts")
  const child = ChildProcess.spawn(process.execPath, ["--import", "tsx", file, String(port), String(calls), mode], {
    stdio: ["pipe", "pipe", "pipe"]
  })
  let output = ""
  let problem = ""
  child.stderr.on("data", (chunk) => {
    problem += String(chunk)
  })
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.on("data", (chunk) => {
      output += String(chunk)
      if (output.includes("ready\n")) resolve()
    })
    child.once("exit", () => reject(new Error(`the worker ended: ${problem}`)))
  })
  const ended = new Promise<{ lines: ReadonlyArray<string>; problem: string }>((resolve) => {
    child.once("exit", () => resolve({ lines: output.trim().split("\n").slice(1), problem }))
  })
  return { ready, begin: () => child.stdin.write("go\n"), ended }
}

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisCache", "redis-server"), () => {
  describe("entries", () => {
    it.scoped("a key of another type is a miss, removed and counted, however it is read", () =>
      Effect.gen(function* () {
        const cache = yield* numbers()
        const timedCache = yield* numbers({ graceFor: "1 minute" })
        const reads: ReadonlyArray<Effect.Effect<unknown>> = [
          cache.get("key"),
          timedCache.get("key"),
          cache.getMany(["key"]),
          timedCache.getMany(["key"])
        ]
        for (const read of reads) {
          yield* send("RPUSH", "cache:numbers:key", "1")
          const found = yield* read
          assert.deepStrictEqual(Array.isArray(found) ? found[0] : found, Option.none())
          assert.strictEqual(yield* send("EXISTS", "cache:numbers:key"), 0)
        }
        yield* send("RPUSH", "cache:numbers:key", "1")
        assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(7)), 7)
        assert.deepStrictEqual(yield* timedCache.get("key"), Option.some(7))
        assert.strictEqual((yield* cache.stats).corrupt + (yield* timedCache.stats).corrupt, 5)
        assert.strictEqual((yield* cache.stats).unreachable, 0)
        // a stamp of another type is made anew
        yield* send("RPUSH", "cache:~tag:numbers:team", "1")
        yield* cache.set("tagged", 1, { tags: ["team"] })
        assert.deepStrictEqual(yield* cache.get("tagged"), Option.some(1))
        yield* send("DEL", "cache:~tag:numbers:team")
        yield* send("RPUSH", "cache:~tag:numbers:team", "1")
        assert.deepStrictEqual(yield* cache.get("tagged"), Option.none())
      }).pipe(Effect.provide(own()))
    )

    it.scoped("broken bytes are a miss, removed and counted: nothing throws (bentocache, keyv, connect-redis)", () =>
      Effect.gen(function* () {
        const cache = yield* numbers()
        const whole = Zlib.gzipSync('{"value":1}')
        const broken = [
          new Uint8Array(0),
          Uint8Array.of(0),
          Uint8Array.of(0xff, 0xfe),
          Buffer.concat([Buffer.from('{"value":1,"x":"'), Uint8Array.of(0xc3, 0x28), Buffer.from('"}')]),
          whole.subarray(0, 10),
          Buffer.concat([whole.subarray(0, 12), Uint8Array.of(1, 2, 3)]),
          Zlib.gzipSync(Uint8Array.of(0xff)),
          Zlib.gzipSync("not JSON"),
          Buffer.from('{"value":1'),
          Buffer.from("Hello")
        ]
        for (const bytes of broken) {
          yield* send("SET", "cache:numbers:key", bytes)
          assert.deepStrictEqual(yield* cache.get("key"), Option.none())
          assert.strictEqual(yield* send("EXISTS", "cache:numbers:key"), 0)
          yield* send("SET", "cache:numbers:key", bytes)
          assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(2)), 2)
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(2))
        }
        assert.strictEqual((yield* cache.stats).corrupt, 2 * broken.length)
        yield* send("SET", "cache:numbers:key", whole)
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
      }).pipe(Effect.provide(own()))
    )

    it.scoped("what is large is gzip of its JSON, what is small or does not shrink is JSON", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make({ namespace: "texts", schema: Schema.String, compressAbove: 1_000, jitter: 0 })
        // larger than what is compressed in this thread, too
        for (const length of [2_000, 200_000]) {
          const large = "abcdefgh".repeat(length / 8)
          yield* cache.set("large", large)
          const bytes = yield* sendBuffer("GET", "cache:texts:large")
          assert.isTrue(bytes instanceof Uint8Array && bytes.length < length / 4)
          if (bytes instanceof Uint8Array) {
            assert.strictEqual(Zlib.gunzipSync(bytes).toString(), JSON.stringify({ value: large }))
          }
          assert.deepStrictEqual(yield* cache.get("large"), Option.some(large))
        }
        yield* cache.set("small", "small")
        assert.strictEqual(yield* send("GET", "cache:texts:small"), '{"value":"small"}')
        // random text of which nothing repeats
        const noise = Array.from(crypto.getRandomValues(new Uint8Array(1_100)), (byte) =>
          String.fromCodePoint(0x4e00 + byte * 64 + (byte % 61))
        ).join("")
        yield* cache.set("noise", noise)
        assert.deepStrictEqual(yield* cache.get("noise"), Option.some(noise))
      }).pipe(Effect.provide(own()))
    )

    it.scoped(
      "a value of 50 MB is kept and found, by a client that waits long enough",
      () =>
        Effect.gen(function* () {
          const cache = yield* Cache.make({ namespace: "texts", schema: Schema.String })
          const huge = "x".repeat(50 * 1024 * 1024)
          yield* cache.set("huge", huge)
          const found = yield* cache.get("huge")
          assert.isTrue(Option.isSome(found) && found.value === huge)
        }).pipe(Effect.provide(own({ commandTimeout: "60 seconds" }))),
      60_000
    )

    it.scoped("whatever the cache writes has an end", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ clearBy: "generation", staleFor: "1 minute" })
        yield* cache.set("a", 1, { tags: ["team"] })
        yield* cache.setMany([["b", 2]], { tags: ["other"] })
        yield* cache.getOrElse("c", Effect.succeed(3))
        yield* cache.getOrElseOption("d", Effect.succeed(Option.none()))
        yield* cache.getOrElse("{e}}f", send("KEYS", "*").pipe(Effect.orDie, Effect.as(1)))
        const stuck = yield* Effect.fork(cache.getOrElse("g", Effect.never))
        yield* until(
          "a lease",
          Effect.map(send("EXISTS", "cache:~lease:{cache:numbers:g}"), (there) => there === 1)
        )
        const keys = yield* send("KEYS", "*")
        assert.isArray(keys)
        assert.isAtLeast(Array.isArray(keys) ? keys.length : 0, 9)
        for (const key of Array.isArray(keys) ? keys : []) {
          const left = yield* send("PTTL", String(key))
          assert.isTrue(typeof left === "number" && left > 0, `${String(key)} never ends`)
        }
        yield* Effect.sync(() => stuck.unsafeInterruptAsFork(stuck.id()))
      }).pipe(Effect.provide(own()))
    )
  })

  describe("processes", () => {
    it.scopedLive(
      "four processes with fifty calls each on a cold key: one computation (bentocache, cacheable, cache-manager: 4)",
      () =>
        Effect.gen(function* () {
          const { port } = yield* RedisServer
          const workers = Array.from({ length: 4 }, () => worker(port, 50, "computes"))
          yield* Effect.promise(() => Promise.all(workers.map((one) => one.ready)))
          for (const one of workers) one.begin()
          const results = yield* Effect.promise(() => Promise.all(workers.map((one) => one.ended)))
          assert.deepStrictEqual(
            results,
            results.map(() => ({ lines: ["[1]"], problem: "" }))
          )
          assert.strictEqual(yield* send("GET", "computations"), "1")
        }).pipe(Effect.provide(own())),
      120_000
    )

    it.scopedLive(
      "a process that dies while it computes is taken over after its lease, by one of the others",
      () =>
        Effect.gen(function* () {
          const { port } = yield* RedisServer
          const dying = worker(port, 1, "dies")
          const others = Array.from({ length: 2 }, () => worker(port, 20, "computes"))
          yield* Effect.promise(() => Promise.all([dying, ...others].map((one) => one.ready)))
          dying.begin()
          yield* Effect.promise(() => dying.ended)
          assert.strictEqual(yield* send("GET", "computations"), "1")
          assert.strictEqual(yield* send("EXISTS", "cache:~lease:{cache:processes:hot}"), 1)
          for (const one of others) one.begin()
          const results = yield* Effect.promise(() => Promise.all(others.map((one) => one.ended)))
          assert.deepStrictEqual(
            results.map(({ lines }) => lines),
            [["[2]"], ["[2]"]]
          )
          assert.strictEqual(yield* send("GET", "computations"), "2")
        }).pipe(Effect.provide(own())),
      120_000
    )
  })

  describe("a server that is away", () => {
    it.scopedLive(
      "frozen: every call settles within the timeout, as a miss that is counted (keyv #1496, cache-manager #797, cacheable #1202)",
      () =>
        Effect.gen(function* () {
          const { freeze, thaw } = yield* RedisServer
          const cache = yield* numbers({ graceFor: "1 hour" })
          yield* cache.set("key", 1)
          yield* freeze
          const [found, first] = yield* timed(cache.get("key"))
          assert.deepStrictEqual(found, Option.none())
          assert.isBelow(first, 1_500)
          const calls: ReadonlyArray<Effect.Effect<unknown>> = [
            cache.getOrElse("key", Effect.succeed(2)),
            cache.getOrElseOption("key", Effect.succeed(Option.none())),
            cache.getOrElseMany(["key", "other"], () => Effect.succeed([["key", 3] as const])),
            cache.getMany(["key"]),
            cache.set("key", 1),
            cache.setMany([["key", 1]]),
            cache.delete("key"),
            cache.deleteMany(["key"]),
            cache.invalidateTags(["team"]),
            cache.clear
          ]
          for (const call of calls) {
            const [, took] = yield* timed(call)
            assert.isBelow(took, 1_500)
          }
          assert.isAtLeast((yield* cache.stats).unreachable, calls.length)
          assert.strictEqual((yield* cache.stats).graced, 0)
          yield* thaw
          yield* until("back", Effect.zipRight(cache.set("key", 4), Effect.map(cache.get("key"), Option.contains(4))))
        }).pipe(Effect.provide(own({ commandTimeout: "500 millis" })))
    )

    it.scopedLive("killed: a miss at once, and a value again when it is back (keyv #1679)", () =>
      Effect.gen(function* () {
        const { kill, start } = yield* RedisServer
        const cache = yield* numbers()
        yield* cache.set("key", 1)
        yield* kill
        yield* until(
          "noticed",
          Effect.map(timed(cache.get("key")), ([, took]) => took < 50)
        )
        const [value, took] = yield* timed(cache.getOrElse("key", Effect.succeed(2)))
        assert.strictEqual(value, 2)
        assert.isBelow(took, 100)
        yield* start
        yield* until(
          "kept again",
          Effect.zipRight(cache.getOrElse("key", Effect.succeed(3)), Effect.map(cache.get("key"), Option.contains(3)))
        )
      }).pipe(Effect.provide(own({ commandTimeout: "500 millis" })))
    )

    it.scopedLive("a strict handle says so, typed and retryable, and computes nothing", () =>
      Effect.gen(function* () {
        const { kill } = yield* RedisServer
        const cache = yield* Cache.make({ namespace: "numbers", schema: Schema.Number, strict: true })
        yield* kill
        const calls: ReadonlyArray<Effect.Effect<unknown, Cache.CacheError>> = [
          cache.get("key"),
          cache.getOrElse("key", Effect.dieMessage("computed")),
          cache.getOrElseMany(["key"], () => Effect.dieMessage("computed")),
          cache.getMany(["key"]),
          cache.set("key", 1),
          cache.delete("key"),
          cache.invalidateTags(["team"]),
          cache.clear
        ]
        for (const call of calls) {
          const error = yield* Effect.flip(call)
          assert.include(["Unavailable", "Timeout"], error.reason)
          assert.isTrue(error.isRetryable)
          assert.notInclude(error.message, "key")
        }
      }).pipe(Effect.provide(own({ commandTimeout: "500 millis" })))
    )

    it.scopedLive("without memory for writes: reads work, writes count as unreachable, nothing fails", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ firstTier: undefined })
        yield* cache.set("key", 1)
        yield* send("CONFIG", "SET", "maxmemory", "1")
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
        assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(2)), 1)
        assert.strictEqual(yield* cache.getOrElse("other", Effect.succeed(2)), 2)
        yield* cache.set("other", 1)
        assert.strictEqual(yield* cache.delete("key"), true)
        assert.isAtLeast((yield* cache.stats).unreachable, 2)
        const strict = yield* Cache.make({ namespace: "numbers", schema: Schema.Number, strict: true })
        const error = yield* Effect.flip(strict.set("key", 1))
        assert.deepStrictEqual([error.reason, error.isRetryable], ["Rejected", false])
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("a hit is one GET: no script, no lease; what is not there is computed once all the same", () =>
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* cache.set("key", 1)
        const wrong = Effect.dieMessage("it is there")
        const asked = Effect.map(send("INFO", "commandstats"), (used) =>
          [...String(used).matchAll(/cmdstat_(\S+):calls=(\d+)/g)].flatMap(([, name = "", calls = ""]) =>
            name === "info" || name === "config|resetstat" ? [] : [`${name} ${calls}`]
          )
        )
        yield* send("CONFIG", "RESETSTAT")
        for (let call = 0; call < 10; call++) yield* cache.getOrElse("key", wrong)
        assert.deepStrictEqual(yield* asked, ["get 10"])
        const redis = yield* RedisClient.RedisClient
        const others = yield* Effect.forEach(Array.from({ length: 10 }), () =>
          Effect.provideServiceEffect(numbers(), Cache.Cache, RedisCache.make(redis))
        )
        let computed = 0
        const compute = Effect.zipRight(
          Effect.sync(() => computed++),
          Effect.as(pause(20), 2)
        )
        const found = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, index) => others[index % 10] ?? cache),
          (handle) => handle.getOrElse("other", compute),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual([computed, new Set(found)], [1, new Set([2])])
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("scripts that the server has forgotten are no failure", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ staleFor: "1 minute" })
        yield* cache.set("key", 1)
        yield* send("SCRIPT", "FLUSH")
        assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(2)), 1)
        yield* send("SCRIPT", "FLUSH")
        assert.deepStrictEqual(yield* cache.getMany(["key", "key"]), [Option.some(1), Option.some(1)])
        yield* send("SCRIPT", "FLUSH")
        yield* cache.setMany([
          ["a", 1],
          ["b", 2]
        ])
        assert.strictEqual((yield* cache.stats).unreachable, 0)
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("all keys gone: misses, and tags go on to work", () =>
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* cache.set("key", 1, { tags: ["team"] })
        yield* send("FLUSHALL")
        assert.deepStrictEqual(yield* cache.get("key"), Option.none())
        yield* cache.set("key", 2, { tags: ["team"] })
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(2))
        // a stamp that is lost makes misses
        yield* send("DEL", "cache:~tag:numbers:team")
        assert.deepStrictEqual(yield* cache.get("key"), Option.none())
      }).pipe(Effect.provide(own()))
    )
  })

  describe("the tier in the process", () => {
    it.scopedLive("is emptied and not used while messages may be missed: never stale after that", () =>
      Effect.gen(function* () {
        const cache = yield* tiered()
        for (let round = 1; round <= 5; round++) {
          yield* until(
            "live",
            Effect.gen(function* () {
              yield* cache.set("key", round)
              const before = (yield* cache.stats).firstTierHits
              yield* cache.get("key")
              return (yield* cache.stats).firstTierHits > before
            })
          )
          // a change of which nobody is told, as one is that is made while the subscription is lost
          yield* send("SET", "cache:numbers:key", `{"value":${-round}}`, "PX", 60_000)
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(round))
          yield* send("CLIENT", "KILL", "TYPE", "pubsub")
          yield* until(
            "flushed",
            Effect.map(cache.stats, ({ flushes }) => flushes >= round)
          )
          assert.deepStrictEqual(yield* cache.get("key"), Option.some(-round))
        }
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("a server that hangs: the tier stops to answer once nothing is heard of it", () =>
      Effect.gen(function* () {
        const { freeze, thaw } = yield* RedisServer
        const cache = yield* tiered()
        yield* cache.set("key", 1)
        assert.deepStrictEqual(yield* cache.get("key"), Option.some(1))
        yield* freeze
        yield* until("bypassed", Effect.map(cache.get("key"), Option.isNone))
        assert.strictEqual((yield* cache.stats).flushes, 1)
        assert.strictEqual((yield* cache.stats).firstTierSize, 0)
        yield* thaw
        yield* until("back", Effect.map(cache.get("key"), Option.contains(1)))
      }).pipe(Effect.provide(own({ commandTimeout: "500 millis" })))
    )

    it.scopedLive(
      "a remote write is seen within 50 ms (p99)",
      () =>
        Effect.gen(function* () {
          const [reader, writer] = [yield* tiered(), yield* numbers()]
          let value = 0
          let p99 = Number.POSITIVE_INFINITY
          // what is slow by itself is slow each time; a machine that has other work is not
          for (let attempt = 0; attempt < 5 && p99 >= 50; attempt++) {
            const delays: Array<number> = []
            for (let round = 1; round <= 200; round++) {
              yield* reader.get("key")
              yield* writer.set("key", ++value)
              const written = performance.now()
              while (!Option.contains(yield* reader.get("key"), value)) yield* pause(0)
              delays.push(performance.now() - written)
            }
            delays.sort((a, b) => a - b)
            p99 = delays[Math.floor(delays.length * 0.99)] ?? Number.NaN
          }
          assert.isBelow(p99, 50)
        }).pipe(Effect.provide(own())),
      60_000
    )

    it.scopedLive("writers and readers of the same keys at once: when all is said, every tier has what is kept", () =>
      Effect.gen(function* () {
        const handles = yield* Effect.all([tiered(), tiered(), tiered()])
        const keys = ["a", "b", "c"]
        let value = 0
        for (let round = 0; round < 10; round++) {
          yield* Effect.forEach(
            Array.from({ length: 200 }, (_, index) => index),
            (index) => {
              const handle = handles[index % 3] ?? handles[0]
              const key = keys[(index * 7 + round) % 3] ?? "a"
              switch ((index * 11 + round) % 8) {
                case 0:
                  return handle.set(key, ++value)
                case 1:
                  return handle.delete(key)
                case 2:
                  return handle.getOrElse(key, Effect.as(Effect.yieldNow(), ++value), { tags: ["team"] })
                case 3:
                  return handle.invalidateTags(["team"])
                default:
                  return handle.get(key)
              }
            },
            { concurrency: 24, discard: true }
          )
          yield* pause(100)
          const plain = yield* numbers()
          for (const key of keys) {
            const kept = yield* plain.get(key)
            for (const handle of handles) assert.deepStrictEqual(yield* handle.get(key), kept)
          }
        }
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("a message that cannot be read may mean anything: the tier is emptied", () =>
      Effect.gen(function* () {
        const cache = yield* tiered()
        for (const payload of [
          "",
          "{",
          "null",
          '{"keys":["a"]}',
          '{"from":"x","keys":[1]}',
          '{"from":"x","cleared":1}'
        ]) {
          yield* cache.set("key", 1)
          assert.strictEqual((yield* cache.stats).firstTierSize, 1)
          yield* send("PUBLISH", "cache:~changes:numbers", payload)
          yield* until(
            `emptied by ${payload}`,
            Effect.map(cache.stats, ({ firstTierSize }) => firstTierSize === 0)
          )
        }
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive(
      "corrupt, of another type, of 50 MB, all keys gone, no memory left: with a tier as without",
      () =>
        Effect.gen(function* () {
          const cache = yield* Cache.make({
            namespace: "texts",
            schema: Schema.String,
            jitter: 0,
            staleFor: "1 minute",
            firstTier: { ttl: "1 second" }
          })
          for (const [what, plant] of [
            ["corrupt", send("SET", "cache:texts:key", '{"value":')],
            ["another type", send("RPUSH", "cache:texts:key", "1")]
          ] as const) {
            yield* plant
            assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed(what)), what)
            assert.deepStrictEqual(yield* cache.get("key"), Option.some(what))
            yield* cache.delete("key")
          }
          assert.strictEqual((yield* cache.stats).corrupt, 2)
          const huge = "x".repeat(50 * 1024 * 1024)
          assert.strictEqual((yield* cache.getOrElse("huge", Effect.succeed(huge))).length, huge.length)
          const other = yield* Cache.make({ namespace: "texts", schema: Schema.String, firstTier: {} })
          assert.isTrue(Option.exists(yield* other.get("huge"), (found) => found === huge))
          yield* cache.set("key", "before")
          yield* send("FLUSHALL")
          // nobody tells of it: the tier's own time is the bound
          const looked = Effect.map(cache.get("key"), Option.isNone)
          yield* until("gone from the tier", looked)
          yield* send("CONFIG", "SET", "maxmemory", "1")
          assert.strictEqual(yield* cache.getOrElse("key", Effect.succeed("computed")), "computed")
          yield* cache.set("key", "written")
          assert.deepStrictEqual(yield* cache.get("key"), Option.none())
          assert.isAtLeast((yield* cache.stats).unreachable, 2)
        }).pipe(Effect.provide(own({ commandTimeout: "60 seconds" }))),
      60_000
    )

    it.scopedLive("a handle that is done with hears nothing more, and leaves no subscription", () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        for (let round = 0; round < 20; round++) yield* Effect.scoped(tiered({ namespace: `n${round}` }))
        assert.strictEqual((yield* redis.stats).listeners, 0)
        yield* until(
          "unsubscribed",
          Effect.map(send("PUBSUB", "CHANNELS"), (reply) => Array.isArray(reply) && reply.length === 0)
        )
      }).pipe(Effect.provide(own()))
    )
  })

  describe("clear", () => {
    const fill = (count: number) =>
      Effect.flatMap(RedisClient.RedisClient, (redis) =>
        Effect.forEach(
          Array.from({ length: Math.ceil(count / 500) }, (_, index) => index),
          (piece) =>
            redis.sendMany(
              Array.from({ length: Math.min(500, count - piece * 500) }, (_, index) => [
                "SET",
                `cache:numbers:${piece * 500 + index}`,
                '{"value":1}',
                "PX",
                600_000
              ])
            ),
          { discard: true }
        )
      )

    const clearing = (count: number) =>
      Effect.gen(function* () {
        const cache = yield* numbers()
        yield* send("CONFIG", "SET", "slowlog-log-slower-than", 5_000)
        let slow: RedisClient.Reply = []
        // what is slow by itself is slow each time; a server that had to wait for its processor is not
        for (let round = 0; round < 3; round++) {
          yield* fill(count)
          yield* send("SET", "another", "1", "PX", 60_000)
          yield* send("SLOWLOG", "RESET")
          assert.strictEqual(yield* cache.clear, count)
          slow = yield* send("SLOWLOG", "GET", 10)
          if (Array.isArray(slow) && slow.length === 0) break
        }
        assert.deepStrictEqual(slow, [])
        assert.strictEqual(yield* send("DBSIZE"), 1)
        assert.strictEqual((yield* cache.stats).unreachable, 0)
        const used = String(yield* send("INFO", "commandstats"))
        for (const command of ["keys", "flushdb", "flushall"]) assert.notInclude(used, `cmdstat_${command}:`)
        assert.include(used, "cmdstat_unlink:")
      }).pipe(Effect.provide(own({ commandTimeout: "10 seconds" })))

    it.scopedLive(
      "without KEYS: no command holds the server up for 5 ms (Effect PR #6868)",
      () => clearing(30_000),
      60_000
    )

    // a minute of one core: at night
    if (process.env["UNDERLAY_NIGHTLY"] === "1") {
      it.scopedLive("of a million keys: no command holds the server up for 5 ms", () => clearing(1_000_000), 600_000)
    }

    it.scopedLive("of an empty namespace is 0 and no failure (Effect persistence: an empty DEL)", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make({ namespace: "numbers", schema: Schema.Number, strict: true })
        assert.strictEqual(yield* cache.clear, 0)
        assert.strictEqual(yield* cache.deleteMany([]), 0)
      }).pipe(Effect.provide(own()))
    )

    it.scopedLive("a generation: one command, whatever the number of keys", () =>
      Effect.gen(function* () {
        const cache = yield* numbers({ clearBy: "generation" })
        yield* cache.setMany(Array.from({ length: 1_000 }, (_, index) => [String(index), index] as const))
        yield* send("CONFIG", "RESETSTAT")
        yield* cache.clear
        const used = String(yield* send("INFO", "commandstats"))
        assert.notInclude(used, "cmdstat_scan:")
        assert.deepStrictEqual(yield* cache.getMany(["1", "999"]), [Option.none(), Option.none()])
      }).pipe(Effect.provide(own()))
    )
  })
})
