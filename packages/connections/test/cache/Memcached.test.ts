import * as Net from "node:net"
import { assert, describe, it, layer } from "@effect/vitest"
import { type Connection, Connections } from "@underlay/core"
import { ConnectionSuite, Recording } from "@underlay/core/testing"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as Need from "@underlay/servers/Need"
import * as Timed from "@underlay/servers/Timed"
import {
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Schedule,
  Scope
} from "effect"
import * as FastCheck from "effect/FastCheck"
import * as Memcached from "../../src/cache/Memcached.ts"

class Server extends Context.Tag("test/Memcached")<Server, MemcachedServer.MemcachedServer>() {
  static readonly layer = Layer.scoped(Server, MemcachedServer.make())
}

const connect = (settings: Memcached.MemcachedSettings = {}, name?: string) =>
  Effect.flatMap(Server, ({ address }) => Memcached.make({ servers: [address], ...settings }, name))

const text = (item: Option.Option<Memcached.Item>) => Option.map(item, ({ value }) => value.toString("utf8"))

const failing = <A, R>(effect: Effect.Effect<A, Connection.ConnectionError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason, sent }) => [reason, sent])

/** Asked again and again until it is so. */
const eventually = <A, E, R>(what: string, condition: Effect.Effect<A, E, R>, is: (value: A) => boolean) =>
  Effect.flatMap(condition, (value) => (is(value) ? Effect.succeed(value) : Effect.fail(what))).pipe(
    Effect.retry(Schedule.intersect(Schedule.spaced("20 millis"), Schedule.recurs(500)))
  )

/** Accepts connections and does with them as it is told. */
const listening = (onSocket: (socket: Net.Socket) => void) =>
  Effect.acquireRelease(
    Effect.async<{ readonly address: string; readonly sockets: Set<Net.Socket>; readonly server: Net.Server }>(
      (resume) => {
        const sockets = new Set<Net.Socket>()
        const server = Net.createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          socket.on("close", () => sockets.delete(socket))
          socket.resume()
          onSocket(socket)
        })
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = typeof address === "object" && address !== null ? address.port : 0
          resume(Effect.succeed({ address: `127.0.0.1:${port}`, sockets, server }))
        })
      }
    ),
    ({ server, sockets }) =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
        server.close()
      })
  )

describe.skipIf(Need.missing("memcached"))(Need.title("Memcached", "memcached"), () => {
  layer(Server.layer, { excludeTestServices: true })((it) => {
    it.scoped("get, set, add, replace, cas, delete, touch", () =>
      Effect.gen(function* () {
        const cache = yield* connect({ keyPrefix: "ops:" })
        assert.deepStrictEqual(yield* cache.get("a"), Option.none())
        assert.isFalse(yield* cache.replace("a", "0"))
        assert.isTrue(yield* cache.add("a", "1", { flags: 7 }))
        assert.isFalse(yield* cache.add("a", "2"))
        const first = Option.getOrThrow(yield* cache.get("a"))
        assert.deepStrictEqual([first.value.toString(), first.flags], ["1", 7])
        assert.isTrue(yield* cache.replace("a", "3"))
        assert.strictEqual(yield* cache.cas("a", "4", first.cas), "changed")
        const second = Option.getOrThrow(yield* cache.get("a"))
        assert.strictEqual(yield* cache.cas("a", "5", second.cas), "stored")
        assert.deepStrictEqual(text(yield* cache.get("a")), Option.some("5"))
        assert.isFalse(yield* cache.delete("a", second.cas))
        assert.isTrue(yield* cache.delete("a"))
        assert.isFalse(yield* cache.delete("a"))
        assert.strictEqual(yield* cache.cas("a", "6", second.cas), "missing")
        yield* cache.set("b", new Uint8Array([0, 255, 13, 10, 0]))
        assert.deepStrictEqual([...Option.getOrThrow(yield* cache.get("b")).value], [0, 255, 13, 10, 0])
        yield* cache.set("c", "")
        assert.deepStrictEqual(text(yield* cache.get("c")), Option.some(""))
        assert.isTrue(yield* cache.touch("b", "1 hour"))
        assert.isFalse(yield* cache.touch("nothing", "1 hour"))
        assert.deepStrictEqual((yield* cache.getMany(["c", "no", "b", "c"])).map(Option.isSome), [
          true,
          false,
          true,
          true
        ])
        assert.deepStrictEqual(yield* cache.getMany([]), [])
      })
    )

    it.scoped("increment: up, down to 0 and no further, 64 bits, with a first number; of what is no number typed", () =>
      Effect.gen(function* () {
        const cache = yield* connect({ keyPrefix: "count:" })
        assert.deepStrictEqual(yield* cache.increment("n"), Option.none())
        assert.deepStrictEqual(yield* cache.increment("n", { initial: 10, ttl: "1 hour" }), Option.some(10n))
        assert.deepStrictEqual(yield* cache.increment("n", { by: 5 }), Option.some(15n))
        assert.deepStrictEqual(yield* cache.increment("n", { by: -6n }), Option.some(9n))
        assert.deepStrictEqual(yield* cache.increment("n", { by: -100 }), Option.some(0n))
        assert.deepStrictEqual(yield* cache.increment("n", { by: 2n ** 63n }), Option.some(2n ** 63n))
        assert.deepStrictEqual(yield* cache.increment("n", { by: 2n ** 63n }), Option.some(0n))
        yield* cache.set("text", "no number")
        assert.deepStrictEqual(yield* failing(cache.increment("text")), ["InvalidRequest", true])
        for (const by of [0.5, Number.NaN, 2 ** 60, 2n ** 64n]) {
          assert.deepStrictEqual(yield* failing(cache.increment("n", { by })), ["InvalidRequest", false])
        }
        assert.deepStrictEqual(yield* failing(cache.increment("m", { initial: -1 })), ["InvalidRequest", false])
        const all = yield* Effect.all(
          Array.from({ length: 200 }, () => cache.increment("race", { initial: 1 })),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(new Set(all.map((one) => String(Option.getOrThrow(one)))).size, 200)
      })
    )

    it.scoped(
      "a time to live of more than 30 days is not taken as a date in 1970, one of less than a second is one",
      () =>
        Effect.gen(function* () {
          const cache = yield* connect({ keyPrefix: "ttl:" })
          const server = yield* Server
          const left = (key: string) =>
            Effect.map(server.command(`mg ttl:${key} t\r\nmn\r\n`, "MN"), (answer) =>
              Number(/^HD t(-?\d+)/.exec(answer)?.[1])
            )
          yield* cache.set("short", "1", { ttl: "30 millis" })
          assert.isAtMost(yield* left("short"), 1)
          yield* cache.set("month", "1", { ttl: "30 days" })
          assert.approximately(yield* left("month"), 30 * 86_400, 2)
          yield* cache.set("long", "1", { ttl: "31 days" })
          assert.approximately(yield* left("long"), 31 * 86_400, 3)
          yield* cache.touch("month", "365 days")
          assert.approximately(yield* left("month"), 365 * 86_400, 3)
          yield* cache.set("ever", "1")
          assert.strictEqual(yield* left("ever"), -1)
          for (const ttl of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, "100000 days" as const]) {
            assert.deepStrictEqual(yield* failing(cache.set("a", "1", { ttl })), ["InvalidRequest", false])
          }
          // the server's dates end in January 2038: it says yes to later ones and keeps nothing
          const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
          const last = Date.UTC(2038, 0, 19) - now
          yield* cache.set("last", "1", { ttl: last - 86_400_000 })
          assert.isTrue(Option.isSome(yield* cache.get("last")))
          for (const ttl of [last + 86_400_000, Date.UTC(2050, 0, 1) - now]) {
            assert.deepStrictEqual(yield* failing(cache.set("a", "1", { ttl })), ["InvalidRequest", false])
          }
        })
    )

    it.scoped("keys that are half a character are not taken for each other", () =>
      Effect.gen(function* () {
        const cache = yield* connect()
        assert.deepStrictEqual(yield* failing(cache.set("half-\ud800", "1")), ["InvalidRequest", false])
        const hashing = yield* connect({ keys: "hash" }, "halves")
        for (const key of ["half-\ud800", "half-\ud801", "half-\ufffd"]) yield* hashing.set(key, "1")
        yield* hashing.delete("half-\ud800")
        const found = yield* hashing.getMany(["half-\ud800", "half-\ud801", "half-\ufffd", "half-\u{1F30D}"])
        assert.deepStrictEqual(found.map(Option.isSome), [false, true, true, false])
      })
    )

    it.scoped("keys that cannot be are refused, typed and without the key, or kept under their digest", () =>
      Effect.gen(function* () {
        const cache = yield* connect()
        const hashing = yield* connect({ keys: "hash" }, "hashing")
        const odd = [
          "",
          "a b",
          "a\r\nflush_all\r\n",
          "\u0000",
          "tab\t",
          "k".repeat(251),
          "\u00e9".repeat(126),
          "\u007f"
        ]
        for (const key of odd) {
          const error = yield* Effect.flip(cache.set(key, "1"))
          assert.deepStrictEqual([error.reason, error.sent], ["InvalidRequest", false])
          if (key.length > 3) assert.notInclude(error.message, key)
          assert.deepStrictEqual(yield* failing(cache.getMany(["fine", key])), ["InvalidRequest", false])
        }
        yield* cache.set("k".repeat(250), "1")
        yield* cache.set("\u00e9\u{1F511}", "2")
        assert.deepStrictEqual(text(yield* cache.get("\u00e9\u{1F511}")), Option.some("2"))
        for (const [index, key] of odd.entries()) yield* hashing.set(key, String(index))
        assert.deepStrictEqual(
          (yield* hashing.getMany(odd)).map(text),
          odd.map((_, index) => Option.some(String(index)))
        )
        // a key that looks like a digest is another
        assert.deepStrictEqual(yield* hashing.get("sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"), Option.none())
        for (const key of odd) assert.isTrue(yield* hashing.delete(key))
      })
    )

    it.scoped(
      "values of more than 1 MB are refused before they are sent, and by the server; the stream stays in step",
      () =>
        Effect.gen(function* () {
          const cache = yield* connect()
          const trusting = yield* connect({ maxValueBytes: 10_000_000 }, "trusting")
          const huge = "x".repeat(1_100_000)
          assert.deepStrictEqual(yield* failing(cache.set("huge", huge)), ["InvalidRequest", false])
          const results = yield* Effect.all(
            [
              trusting.set("before", "1"),
              Effect.flip(trusting.set("huge", huge)),
              trusting.get("before"),
              trusting.set("large", "\u00e9".repeat(400_000)),
              trusting.get("large")
            ],
            { concurrency: "unbounded" }
          )
          assert.strictEqual(results[1].reason, "InvalidRequest")
          assert.deepStrictEqual(text(results[2]), Option.some("1"))
          assert.isTrue(Option.getOrThrow(text(results[4])) === "\u00e9".repeat(400_000))
        })
    )

    it.scoped("a thousand interrupted calls leave the stream in step, nothing waiting and one socket", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const cache = yield* connect({ keyPrefix: "cut:" })
        yield* cache.set("key", "x".repeat(1_000))
        for (let round = 0; round < 10; round++) {
          const fibers = yield* Effect.all(
            Array.from({ length: 100 }, (_, index) =>
              Effect.fork(index % 2 === 0 ? cache.get("key") : cache.set(`other-${index}`, String(index)))
            )
          )
          if (round % 2 === 0) yield* Effect.yieldNow()
          yield* Fiber.interruptAll(fibers)
          assert.isTrue(Option.isSome(yield* cache.get("key")))
        }
        yield* eventually("quiet", cache.connection.stats, ({ inUse, waiting }) => inUse === 0 && waiting === 0)
        assert.strictEqual((yield* cache.connection.stats).total, 1)
        const [, took] = yield* Timed.timed(
          Effect.scoped(
            Effect.flatMap(connect({}, "gone"), (one) =>
              Effect.all(
                Array.from({ length: 50 }, () => one.get("key")),
                { concurrency: "unbounded" }
              )
            )
          )
        )
        assert.isBelow(took, 3_000)
        yield* eventually("no socket is left", server.connections, (count) => count <= 2)
      })
    )

    it.scoped("pieces of any size: a proxy that hands on single bytes changes nothing", () =>
      Effect.gen(function* () {
        const { port } = yield* Server
        const proxy = yield* FaultProxy.make({ port })
        const cache = yield* Memcached.make({ servers: [`127.0.0.1:${proxy.port}`], commandTimeout: "20 seconds" })
        yield* proxy.slice(1)
        yield* cache.set("sliced", "\r\nHD\r\nVA 3\r\n\u00e9")
        const found = yield* Effect.all(
          [cache.get("sliced"), cache.get("none"), cache.increment("sliced-n", { initial: 3 })],
          {
            concurrency: "unbounded"
          }
        )
        assert.deepStrictEqual(text(found[0]), Option.some("\r\nHD\r\nVA 3\r\n\u00e9"))
        assert.deepStrictEqual([found[1], found[2]], [Option.none(), Option.some(3n)])
      })
    )

    it.scoped(
      "an increment whose reply is lost is not repeated: it fails, says that it may have counted, and counted once",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const proxy = yield* FaultProxy.make({ port: server.port })
          for (const plane of ["internal", "external"] as const) {
            const cache = yield* Memcached.make({ servers: [`127.0.0.1:${proxy.port}`], plane }, `lost-${plane}`)
            yield* cache.increment(plane, { initial: 0 })
            yield* proxy.resetAfter(0)
            const error = yield* Effect.flip(cache.increment(plane))
            assert.deepStrictEqual([error.reason, error.sent], ["Unavailable", true])
            assert.include(error.description, "may have been done")
            assert.deepStrictEqual(text(yield* cache.get(plane)), Option.some("1"))
          }
        })
    )

    it.scoped("external: one span a call, its reads tried again, a write of doubt not; internal: nothing", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const silent = yield* connect({}, "silent")
        yield* Recording.assertSilent(
          Effect.all([
            silent.set("a", "1"),
            silent.get("a"),
            silent.increment("c", { initial: 1 }),
            silent.connection.health
          ])
        )
        const proxy = yield* FaultProxy.make({ port: server.port })
        const cache = yield* Memcached.make({ servers: [`127.0.0.1:${proxy.port}`], plane: "external" }, "watched")
        const recording = yield* Recording.make
        yield* recording.within(Effect.zipRight(cache.set("secret-key", "secret-value"), cache.get("secret-key")))
        const spans = yield* recording.spans
        assert.deepStrictEqual(
          spans.map(({ kind, name }) => [name, kind]),
          [
            ["watched.set", "client"],
            ["watched.get", "client"]
          ]
        )
        assert.strictEqual((yield* recording.lines).length, 2)
        const shown = JSON.stringify(
          [spans.map(({ attributes }) => [...attributes]), yield* recording.lines],
          (_, value) => (typeof value === "bigint" ? String(value) : value)
        )
        assert.notInclude(shown, "secret-")
        yield* proxy.resetAfter(0)
        assert.deepStrictEqual(text(yield* cache.get("secret-key")), Option.some("secret-value"))
      })
    )

    describe("suite of connections", () => {
      const suite = ConnectionSuite.suite({
        make: Effect.map(connect(), ({ connection }) => connection),
        ask: (client: Memcached.Service) =>
          Effect.zipRight(client.set("suite", "42"), Effect.map(client.get("suite"), text)),
        expected: Option.some("42")
      })
      for (const one of suite.cases) it.effect(one.name, () => one.run)
    })

    it.scoped("a kind of the registry, from configuration; every wrong field at once", () =>
      Effect.gen(function* () {
        const { address } = yield* Server
        const provider = (entries: ReadonlyArray<readonly [string, string]>) =>
          Effect.withConfigProvider(ConfigProvider.fromMap(new Map(entries)))
        yield* Effect.gen(function* () {
          const connections = yield* Connections.make([Memcached.kind])
          const connection = yield* connections.get(Memcached.kind, "sessions")
          yield* connection.use((client) => client.set("registry", "1", { ttl: "1 minute" }))
          assert.deepStrictEqual(
            (yield* connections.health).map(({ kind, name, status }) => [kind, name, status]),
            [["memcached", "sessions", "up"]]
          )
        }).pipe(
          provider([
            ["connections.sessions.servers", address],
            ["connections.sessions.commandTimeout", "2 seconds"]
          ])
        )
        const error = yield* Effect.flip(
          Effect.scoped(Layer.build(Memcached.layerConfig())).pipe(
            provider([
              ["memcached.servers", address],
              ["memcached.commandTimeout", "soon"],
              ["memcached.plane", "astral"],
              ["memcached.maxPending", "0"]
            ])
          )
        )
        for (const field of ["commandTimeout", "plane", "maxPending"]) assert.include(String(error), field)
      })
    )

    it.scoped("settings that cannot be are refused at once", () =>
      Effect.gen(function* () {
        for (const servers of [
          [],
          ["a:b"],
          ["a:0"],
          ["a:70000"],
          [""],
          ["one", "one:11211"],
          ["[::1"],
          ["host name"]
        ]) {
          const error = yield* Effect.flip(Memcached.make({ servers }))
          assert.strictEqual(error.reason, "InvalidSettings", String(servers))
        }
        assert.strictEqual((yield* Effect.flip(Memcached.make({ username: "a" }))).reason, "InvalidSettings")
      })
    )
  })

  it.scopedLive(
    "several servers: each key has its place, one that dies takes its share alone and has it again when back",
    () =>
      Effect.gen(function* () {
        const servers = yield* Effect.replicateEffect(MemcachedServer.make(), 3)
        const addresses = servers.map((one) => one.address)
        const [cache, turned] = [
          yield* Memcached.make({ servers: addresses }),
          yield* Memcached.make({ servers: [...addresses].reverse() }, "turned")
        ]
        const keys = Array.from({ length: 300 }, (_, index) => `key-${index}`)
        yield* Effect.forEach(keys, (key) => cache.set(key, key), { concurrency: "unbounded" })
        assert.deepStrictEqual(
          (yield* turned.getMany(keys)).map(text),
          keys.map((key) => Option.some(key))
        )
        const stats = yield* cache.serverStats
        const counts = stats.map((one) => Number(one.stats["curr_items"]))
        assert.strictEqual(
          counts.reduce((a, b) => a + b, 0),
          300
        )
        assert.isAbove(Math.min(...counts), 40)
        const [victim] = servers
        if (victim === undefined) return
        yield* victim.kill
        const exits = yield* Effect.forEach(keys, (key) => Effect.exit(cache.get(key)), { concurrency: "unbounded" })
        assert.strictEqual(exits.filter(Exit.isFailure).length, counts[0])
        const health = yield* cache.connection.health
        assert.deepStrictEqual([health.status, health.details?.["away"]], ["degraded", 1])
        assert.strictEqual((yield* Effect.flip(cache.getMany(keys))).reason, "Unavailable")
        yield* victim.start
        yield* eventually(
          "all are there again",
          Effect.either(cache.getMany(keys)),
          (found) => found._tag === "Right" && found.right.filter(Option.isSome).length === 300 - (counts[0] ?? 0)
        )
      })
  )

  it.scopedLive("killed: typed at once, nothing hangs, and it works again by itself when the server is back", () =>
    Effect.gen(function* () {
      const server = yield* MemcachedServer.make()
      const cache = yield* Memcached.make({ servers: [server.address] })
      yield* cache.set("a", "1")
      yield* server.kill
      const [error, took] = yield* Timed.timed(Effect.flip(cache.get("a")))
      assert.strictEqual(error.reason, "Unavailable")
      assert.isBelow(took, 500)
      assert.strictEqual((yield* cache.connection.health).status, "down")
      const refused = yield* eventually(
        "it is left alone for a while",
        Effect.flip(cache.set("a", "2")),
        (error) => error.retryAfter !== undefined
      )
      assert.deepStrictEqual([refused.reason, refused.sent], ["Unavailable", false])
      yield* server.start
      yield* eventually("back", Effect.either(cache.set("a", "3")), (result) => result._tag === "Right")
      assert.deepStrictEqual(text(yield* cache.get("a")), Option.some("3"))
    })
  )

  it.scopedLive("frozen: every call ends within its time, and no late reply is taken for another's", () =>
    Effect.gen(function* () {
      const server = yield* MemcachedServer.make()
      const cache = yield* Memcached.make({ servers: [server.address], commandTimeout: "300 millis" })
      for (let index = 0; index < 20; index++) yield* cache.set(`key-${index}`, `value-${index}`)
      yield* server.freeze
      const [exits, took] = yield* Timed.timed(
        Effect.forEach(
          Array.from({ length: 20 }, (_, index) => `key-${index}`),
          (key) => Effect.flip(cache.get(key)),
          {
            concurrency: "unbounded"
          }
        )
      )
      assert.isTrue(exits.every((error) => error.reason === "Timeout" && error.sent === true))
      assert.isBelow(took, 800)
      const [health, healthTook] = yield* Timed.timed(cache.connection.health)
      assert.strictEqual(health.status, "down")
      assert.isBelow(healthTook, 1_050)
      yield* server.thaw
      yield* eventually("back", Effect.either(cache.get("key-0")), (result) => result._tag === "Right")
      const found = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, index) => `key-${index}`),
        cache.get
      )
      assert.deepStrictEqual(
        found.map(text),
        found.map((_, index) => Option.some(`value-${index}`))
      )
    })
  )

  it.scopedLive("the release does not wait for a frozen server longer than it may: what is under way is told", () =>
    Effect.gen(function* () {
      const server = yield* MemcachedServer.make()
      const scope = yield* Scope.make()
      const cache = yield* Scope.extend(
        Memcached.make({ servers: [server.address], commandTimeout: "1 minute", drainTimeout: "200 millis" }),
        scope
      )
      yield* cache.set("key", "value")
      yield* server.freeze
      const calls = [cache.get("key"), Effect.uninterruptible(cache.set("key", "other")), cache.getMany(["key"])]
      const fibers = yield* Effect.forEach(calls, (call) => Effect.fork(Effect.flip(call)))
      yield* eventually("under way", cache.connection.stats, ({ inUse }) => inUse === 1)
      yield* Effect.repeatN(Effect.yieldNow(), 20)
      const [, took] = yield* Timed.timed(Scope.close(scope, Exit.void))
      assert.isBelow(took, 1_000)
      for (const fiber of fibers) {
        assert.strictEqual((yield* Fiber.join(fiber)).reason, "Closed")
      }
      const { cut, inUse } = yield* cache.connection.drained
      assert.deepStrictEqual({ cut, inUse }, { cut: 3, inUse: 3 })
    })
  )

  it.scopedLive("late replies while others come: each is thrown away in its turn", () =>
    Effect.gen(function* () {
      const server = yield* MemcachedServer.make()
      const proxy = yield* FaultProxy.make({ port: server.port })
      const cache = yield* Memcached.make({ servers: [`127.0.0.1:${proxy.port}`], commandTimeout: "250 millis" })
      for (let index = 0; index < 50; index++) yield* cache.set(`key-${index}`, `value-${index}`)
      yield* proxy.latency(140)
      const results: Array<readonly [number, Option.Option<string> | undefined]> = []
      yield* Effect.forEach(
        Array.from({ length: 50 }, (_, index) => index),
        (index) =>
          Effect.sleep(Duration.millis(index * 20)).pipe(
            Effect.zipRight(Effect.either(cache.get(`key-${index}`))),
            Effect.map((found) => results.push([index, found._tag === "Right" ? text(found.right) : undefined]))
          ),
        { concurrency: "unbounded", discard: true }
      )
      yield* proxy.latency(0)
      for (const [index, found] of results)
        if (found !== undefined) assert.deepStrictEqual(found, Option.some(`value-${index}`))
      assert.isTrue(results.some(([, found]) => found === undefined))
      yield* eventually(
        "and then all is as ever",
        Effect.either(
          Effect.forEach(
            Array.from({ length: 50 }, (_, index) => `key-${index}`),
            cache.get
          )
        ),
        (found) =>
          found._tag === "Right" && found.right.every((one, index) => Option.contains(text(one), `value-${index}`))
      )
    })
  )

  it.scopedLive("health answers in its time: blackhole, half-open, slow drip, reset, TLS that stalls", () =>
    Effect.gen(function* () {
      const others: ReadonlyArray<readonly [string, (socket: Net.Socket) => void, boolean]> = [
        ["blackhole", () => {}, false],
        ["half-open", (socket) => socket.on("data", () => socket.end()), false],
        [
          "slow drip",
          (socket) => {
            const timer = setInterval(() => socket.write("M"), 200)
            socket.on("close", () => clearInterval(timer))
          },
          false
        ],
        ["reset", (socket) => socket.resetAndDestroy(), false],
        ["a TLS that stalls", () => {}, true]
      ]
      for (const [what, behaviour, tls] of others) {
        const { address, sockets } = yield* listening(behaviour)
        const scope = yield* Scope.make()
        const cache = yield* Scope.extend(
          Memcached.make({ servers: [address], tls, connect: "lazy", healthTimeout: "400 millis" }, what),
          scope
        )
        const [health, took] = yield* Timed.timed(cache.connection.health)
        assert.strictEqual(health.status, "down", what)
        assert.isBelow(took, 450, what)
        yield* Scope.close(scope, Exit.void)
        yield* eventually(
          `${what}: no socket is left`,
          Effect.sync(() => sockets.size),
          (size) => size === 0
        )
      }
    })
  )

  it.scopedLive("what is no reply of the protocol ends the socket, typed", () =>
    Effect.gen(function* () {
      const answers = [
        "VA x\r\n",
        "HELLO\r\n",
        "HD\n",
        `${"x".repeat(9_000)}`,
        "VA 1\r\nabc\r\n",
        "HTTP/1.1 400 Bad Request\r\n"
      ]
      for (const answer of answers) {
        const { address, sockets } = yield* listening((socket) => socket.on("data", () => socket.write(answer)))
        const cache = yield* Memcached.make({ servers: [address], connect: "lazy" }, "odd")
        assert.strictEqual((yield* Effect.flip(cache.get("a"))).reason, "Unknown", answer)
        yield* eventually(
          "no socket is left",
          Effect.sync(() => sockets.size),
          (size) => size === 0
        )
      }
      const old = yield* listening((socket) => socket.on("data", () => socket.write("ERROR\r\n")))
      const cache = yield* Memcached.make({ servers: [old.address], connect: "lazy" }, "old")
      assert.strictEqual((yield* Effect.flip(cache.get("a"))).reason, "Unsupported")
    })
  )

  it.scopedLive("more than it may have under way is refused at once, typed, without being sent", () =>
    Effect.gen(function* () {
      const { address } = yield* listening(() => {})
      const cache = yield* Memcached.make({
        servers: [address],
        connect: "lazy",
        maxPending: 10,
        commandTimeout: "300 millis"
      })
      const errors = yield* Effect.forEach(
        Array.from({ length: 30 }, () => "a"),
        (key) => Effect.flip(cache.get(key)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        [
          errors.filter((error) => error.reason === "Throttled" && error.sent === false).length,
          errors.filter((error) => error.reason === "Timeout").length
        ],
        [20, 10]
      )
    })
  )

  it.scopedLive("eager: no server is a typed error of the layer, at once", () =>
    Effect.gen(function* () {
      const [error, took] = yield* Timed.timed(Effect.flip(Memcached.make({ servers: ["127.0.0.1:1"] })))
      assert.deepStrictEqual([error.reason, error.code], ["Unavailable", "ECONNREFUSED"])
      assert.isBelow(took, 1_000)
    })
  )

  it.scopedLive.skipIf(Need.missing("openssl"))(
    Need.title("TLS: spoken, and refused to a server that nobody vouches for", "openssl"),
    () =>
      Effect.gen(function* () {
        const server = yield* MemcachedServer.make({ tls: true })
        const ca = server.certificates?.ca ?? ""
        const cache = yield* Memcached.make({ servers: [server.address], tls: true, ca })
        yield* cache.set("a", "x".repeat(500_000))
        assert.strictEqual(Option.getOrThrow(text(yield* cache.get("a"))).length, 500_000)
        const error = yield* Effect.flip(Memcached.make({ servers: [server.address], tls: true }, "distrusting"))
        assert.strictEqual(error.reason, "Unavailable")
      })
  )

  it.scopedLive("a login: done, refused typed, and its password is shown nowhere", () =>
    Effect.gen(function* () {
      const logins: Array<string> = []
      const { address } = yield* listening((socket) =>
        socket.on("data", (chunk) => {
          const said = chunk.toString()
          if (said.startsWith("set auth")) {
            logins.push(said)
            socket.write(said.includes("ada s3cret") ? "STORED\r\n" : "CLIENT_ERROR authentication failure\r\n")
          } else if (said.startsWith("mn")) socket.write("MN\r\n")
          else socket.write("EN\r\n")
        })
      )
      const cache = yield* Memcached.make({ servers: [address], username: "ada", password: Redacted.make("s3cret") })
      assert.deepStrictEqual(yield* cache.get("a"), Option.none())
      assert.deepStrictEqual(logins, ["set auth 0 0 10\r\nada s3cret\r\n"])
      const error = yield* Effect.flip(
        Memcached.make({ servers: [address], username: "eve", password: Redacted.make("gue55") }, "eve")
      )
      assert.strictEqual(error.reason, "Authentication")
      assert.notInclude(String(error.message) + JSON.stringify(error), "gue55")
    })
  )
})

// Without the services of the layer above, which the shared `it.effect` has in this file: they need a server.
describe("the ring", () => {
  it("servers of any order are the same ring, and one more takes its share alone", () =>
    Effect.gen(function* () {
      const { make, parse } = yield* Effect.promise(() => import("../../src/internal/memcached/ring.ts"))
      const servers = Array.from({ length: 5 }, (_, index) => ({ host: `10.0.0.${index}`, port: 11_211 }))
      const more = [...servers, { host: "10.0.0.9", port: 11_212 }]
      const [five, six] = [make(servers), make(more)]
      const turned = make([...servers].reverse())
      const keys = Array.from({ length: 5_000 }, (_, index) => `key:${index}`)
      const counts = [0, 0, 0, 0, 0]
      let moved = 0
      for (const key of keys) {
        const place = five(key)
        counts[place] = (counts[place] ?? 0) + 1
        assert.strictEqual(4 - turned(key), place)
        if (six(key) !== place) {
          assert.strictEqual(six(key), 5)
          moved++
        }
      }
      assert.isAbove(Math.min(...counts), 600)
      assert.isTrue(moved > 400 && moved < 1_300, String(moved))
      assert.deepStrictEqual(parse("[::1]:11"), { host: "::1", port: 11 })
      assert.deepStrictEqual(parse("::1"), { host: "::1", port: 11_211 })
      assert.deepStrictEqual(parse("[fe80::1]"), { host: "fe80::1", port: 11_211 })
      assert.deepStrictEqual(parse(" cache.example:12 "), { host: "cache.example", port: 12 })
    }).pipe(Effect.runPromise))

  it("any replies, cut anywhere, are read as they were", () =>
    Effect.gen(function* () {
      const { Reader } = yield* Effect.promise(() => import("../../src/internal/memcached/protocol.ts"))
      FastCheck.assert(
        FastCheck.property(
          FastCheck.array(
            FastCheck.oneof(FastCheck.uint8Array({ maxLength: 60 }), FastCheck.constantFrom("HD", "EN", "NF"))
          ),
          FastCheck.array(FastCheck.integer({ min: 1, max: 20 }), { minLength: 1 }),
          (replies, cuts) => {
            const bytes = Buffer.concat(
              replies.map((one) =>
                typeof one === "string"
                  ? Buffer.from(`${one}\r\n`)
                  : Buffer.concat([Buffer.from(`VA ${one.length} c1 f2\r\n`), one, Buffer.from("\r\n")])
              )
            )
            const reader = new Reader()
            const read: Array<string> = []
            for (let at = 0, turn = 0; at < bytes.length; turn++) {
              const size = cuts[turn % cuts.length] ?? 1
              reader.take(bytes.subarray(at, at + size), (reply) =>
                read.push(
                  reply.code === "VA" ? `VA ${reply.value.toString("hex")} ${reply.flags.join(" ")}` : reply.code
                )
              )
              at += size
            }
            assert.deepStrictEqual(
              read,
              replies.map((one) => (typeof one === "string" ? one : `VA ${Buffer.from(one).toString("hex")} c1 f2`))
            )
          }
        )
      )
    }).pipe(Effect.runPromise))
})
