/**
 * What it does to others when a namespace of a million keys is cleared: the longest command that the server met, and what
 * a client in another process waits for its PING meanwhile. Then how long the first tier of one process is stale after
 * another process wrote.
 */
import { type ChildProcess, fork } from "node:child_process"
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient } from "@underlay/redis"
import { Context, Effect, Layer, Option, Runtime, Schema } from "effect"
import * as RedisServer from "../../../servers/src/RedisServer.ts"
import { keep, machine } from "../Harness.ts"
import { percentile } from "./Load.ts"
import * as peers from "./peers.ts"

const keys = 1_000_000
const writes = 1_000
const rounds = 3

const [role, port = ""] = process.argv.slice(2)
const place = { host: "127.0.0.1", port: Number(port) }

const cacheAt = ({ host, port: at }: peers.Place, namespace: string, firstTier: boolean) =>
  Effect.gen(function* () {
    const client = Context.get(
      yield* Layer.build(RedisClient.layer({ host, port: at, commandTimeout: "10 seconds" })),
      RedisClient.RedisClient
    )
    const backend = yield* RedisCache.make(client)
    const made = Cache.make({
      namespace,
      schema: Schema.Number,
      ttl: "1 hour",
      ...(firstTier ? { firstTier: { capacity: 100, ttl: "10 minutes" } } : {})
    })
    return yield* Effect.provideService(made, Cache.Cache, backend)
  })

/** By the machine's clock, which is the same in all processes. */
const now = (): number => Number(process.hrtime.bigint()) / 1e6

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** What a child is asked and answers. */
const tell = (child: ChildProcess, message: object): Promise<Readonly<Record<string, unknown>>> =>
  new Promise((resolve) => {
    child.once("message", (answer) => resolve(answer as Readonly<Record<string, unknown>>))
    child.send(message)
  })

const child = (as: string, at: number): ChildProcess => fork(import.meta.filename, [as, String(at)])

/** A client that asks again and again, and says what the longest waits were. */
const pinger = async (): Promise<void> => {
  const redis = peers.ioredis5(place)
  let waits: Array<number> = []
  process.on("message", () => {
    process.send?.({ count: waits.length, p99: percentile(waits, 0.99), longest: Math.max(0, ...waits) })
    waits = []
  })
  for (;;) {
    const started = performance.now()
    await redis.ping()
    waits.push(performance.now() - started)
    await pause()
  }
}

/** Writes what it is told to and says when that was done. */
const writer = async (): Promise<void> => {
  await Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const cache = yield* cacheAt(place, "stale", true)
        const runPromise = Runtime.runPromise(yield* Effect.runtime<never>())
        process.on("message", ({ value }: { readonly value: number }) => {
          runPromise(cache.set("key", value)).then(
            () => process.send?.({ at: now() }),
            () => process.exit(1)
          )
        })
        process.send?.({ ready: true })
        return yield* Effect.never
      })
    )
  )
}

const clearing = (server: RedisServer.RedisServer) =>
  Effect.gen(function* () {
    const { call } = yield* server.connect
    const fill = (prefix: string, value: string) =>
      Effect.gen(function* () {
        const script =
          "for i = ARGV[1], ARGV[2] do redis.call('SET', ARGV[3] .. i, ARGV[4], 'PX', 3600000) end return 0"
        for (let from = 0; from < keys; from += 10_000) {
          yield* call("EVAL", script, "0", String(from), String(from + 9_999), prefix, value)
        }
      })
    const watch = child("pinger", server.port)
    yield* Effect.promise(() => new Promise((resolve) => watch.once("spawn", resolve)))
    const measured = (name: string, clear: Effect.Effect<unknown, unknown>) =>
      Effect.gen(function* () {
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 500)))
        yield* call("SLOWLOG", "RESET")
        yield* Effect.promise(() => tell(watch, {}))
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1_000)))
        const idle = yield* Effect.promise(() => tell(watch, {}))
        const started = performance.now()
        const result = yield* Effect.either(clear)
        const seconds = (performance.now() - started) / 1_000
        const during = yield* Effect.promise(() => tell(watch, {}))
        const slow = (yield* call("SLOWLOG", "GET", "-1")) as ReadonlyArray<
          readonly [id: number, at: number, micros: number, parts: ReadonlyArray<string>]
        >
        const longest = [...slow].sort((a, b) => b[2] - a[2]).slice(0, 5)
        const longestMs = Math.max(0, ...slow.map(([, , micros]) => micros)) / 1_000
        const left = yield* call("DBSIZE")
        const row = {
          name,
          seconds,
          longestMs,
          slowCommands: slow.length,
          longest: longest.map(([, , micros, parts]) => ({ command: parts[0] ?? "", arguments: parts.length, micros })),
          left,
          failed: result._tag === "Left",
          idle,
          during
        }
        const wait = (of: Readonly<Record<string, unknown>>, what: string) => Number(of[what]).toFixed(1)
        console.log(
          `  ${name.padEnd(36)} ${seconds.toFixed(1).padStart(6)} s   longest command ${longestMs.toFixed(2).padStart(8)} ms   ` +
            `PING of another: p99 ${wait(during, "p99")} ms, longest ${wait(during, "longest")} ms ` +
            `(before: ${wait(idle, "p99")}, ${wait(idle, "longest")})   ${String(left)} keys left${row.failed ? ", failed" : ""}`
        )
        return row
      })
    yield* call("CONFIG", "SET", "slowlog-log-slower-than", "500")
    yield* call("CONFIG", "SET", "slowlog-max-len", "100000")
    console.log(`\n${keys} keys are cleared`)
    const rows = []
    const cache = yield* cacheAt(server, "bench", false)
    // more than once: what else the machine does can only make it longer
    for (let round = 1; round <= rounds; round++) {
      yield* fill("cache:bench:", '{"value":1}')
      rows.push(yield* measured(`ours: Cache.clear, round ${round}`, cache.clear))
    }
    const keyv = peers.keyv(server)
    yield* fill("keyv::keyv:", '{"value":1}')
    rows.push(
      yield* measured(
        "keyv 5: clear",
        Effect.tryPromise(() => keyv.clear())
      )
    )
    yield* call("FLUSHALL")
    const persistence = yield* peers.persistence(server)
    yield* fill("persistence:", "1")
    rows.push(yield* measured("@effect/experimental persistence: clear", persistence.clear))
    yield* call("FLUSHALL")
    watch.kill()
    return rows
  })

const staleness = (server: RedisServer.RedisServer) =>
  Effect.gen(function* () {
    const cache = yield* cacheAt(server, "stale", true)
    const other = child("writer", server.port)
    yield* Effect.promise(() => new Promise((resolve) => other.once("message", resolve)))
    const times: Array<number> = []
    for (let value = 1; value <= writes; value++) {
      // it is in the first tier here
      yield* cache.get("key")
      const written = Effect.promise(() => tell(other, { value }))
      const seen = Effect.gen(function* () {
        for (;;) {
          const found = yield* cache.get("key")
          if (Option.isSome(found) && found.value === value) return now()
          yield* Effect.promise(pause)
        }
      })
      const [{ at }, seenAt] = yield* Effect.all([written, seen], { concurrency: 2 })
      times.push(Math.max(0, seenAt - Number(at)))
    }
    other.kill()
    const stats = yield* cache.stats
    const found = {
      writes,
      p50: percentile(times, 0.5),
      p99: percentile(times, 0.99),
      longest: Math.max(...times),
      firstTierHits: stats.firstTierHits
    }
    console.log(
      `\nA value in the first tier, after another process has written it (${writes} writes, ${found.firstTierHits} reads from the tier)\n` +
        `  stale for: p50 ${found.p50.toFixed(2)} ms, p99 ${found.p99.toFixed(2)} ms, longest ${found.longest.toFixed(2)} ms`
    )
    return found
  })

// who asked is gone
process.once("disconnect", () => process.exit(0))
if (role === "pinger") await pinger()
else if (role === "writer") await writer()
else {
  const host = machine()
  await Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        const cleared = yield* clearing(server)
        const stale = yield* staleness(server)
        const verdicts = [
          {
            what: "longest command while ours clears, in the calmest round",
            millis: Math.min(...cleared.slice(0, rounds).map((row) => row.longestMs)),
            atMost: 5
          },
          { what: "first tier stale after a remote write, p99", millis: stale.p99, atMost: 50 }
        ]
        for (const { atMost, millis, what } of verdicts) {
          console.log(`  ${millis <= atMost ? "within" : "ABOVE "} ${atMost} ms: ${millis.toFixed(2)} ms ${what}`)
        }
        keep("redis-clear", { name: "redis-clear", keys, cleared, stale, verdicts }, host)
      })
    )
  )
  process.exit(0)
}
