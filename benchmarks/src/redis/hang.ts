/**
 * What callers see when the server stops answering: every store with its default settings, warmed up, in front of a server
 * that is frozen (SIGSTOP), killed (SIGKILL) or behind a cable that was cut. How long a call takes until it settles, how
 * long the next one takes, how long it takes to be rid of the store; all of it is given up after 15 seconds.
 */
import { Cache } from "@underlay/core"
import { RedisCache, RedisClient, RedisSessionStore } from "@underlay/redis"
import { Context, Effect, Exit, Layer, Option, Schema, Scope } from "effect"
import * as FaultProxy from "../../../servers/src/FaultProxy.ts"
import * as RedisServer from "../../../servers/src/RedisServer.ts"
import { keep, machine } from "../Harness.ts"
import { median } from "./Load.ts"
import * as peers from "./peers.ts"

const limit = 15_000

interface Store {
  readonly call: () => Promise<unknown>
  readonly close: () => Promise<unknown>
}

interface Subject {
  readonly name: string
  readonly open: (place: peers.Place) => Promise<Store>
}

interface Settled {
  /** Undefined: it had not settled when it was given up. */
  readonly millis: number | undefined
  readonly result: "value" | "nothing" | "failure" | "pending"
}

const settled = async (run: () => Promise<unknown>): Promise<Settled> => {
  const started = performance.now()
  const since = () => performance.now() - started
  let timer: ReturnType<typeof setTimeout> | undefined
  const givenUp = new Promise<Settled>((resolve) => {
    timer = setTimeout(() => resolve({ millis: undefined, result: "pending" }), limit)
  })
  const outcome = run().then(
    (value): Settled => ({
      millis: since(),
      result:
        value === undefined || value === null || (Option.isOption(value) && Option.isNone(value)) ? "nothing" : "value"
    }),
    (): Settled => ({ millis: since(), result: "failure" })
  )
  const first = await Promise.race([outcome, givenUp])
  clearTimeout(timer)
  return first
}

/** What is made in a scope of its own, and is rid of when that closes. */
const scoped = async (
  make: Effect.Effect<{ readonly call: Effect.Effect<unknown, unknown> }, unknown, Scope.Scope>
): Promise<Store> => {
  const scope = Effect.runSync(Scope.make())
  const { call } = await Effect.runPromise(Scope.extend(make, scope))
  return {
    call: () => Effect.runPromise(call),
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

const ourClient = ({ host, port }: peers.Place) =>
  Effect.map(Layer.build(RedisClient.layer({ host, port })), Context.get(RedisClient.RedisClient))

const key = "key"
const value = { visits: 17 }

const subjects: ReadonlyArray<Subject> = [
  {
    name: "ours: RedisClient",
    open: (place) =>
      scoped(
        Effect.flatMap(ourClient(place), (client) =>
          Effect.as(client.send("SET", key, "value"), { call: client.send("GET", key) })
        )
      )
  },
  {
    name: "ours: RedisSessionStore",
    open: (place) =>
      scoped(
        Effect.gen(function* () {
          const store = yield* RedisSessionStore.make(yield* ourClient(place))
          yield* store.set(key, value)
          return { call: store.getAndTouch(key) }
        })
      )
  },
  {
    name: "ours: RedisCache",
    open: (place) =>
      scoped(
        Effect.gen(function* () {
          const backend = yield* RedisCache.make(yield* ourClient(place))
          const options = { namespace: "hang", schema: Schema.Struct({ visits: Schema.Number }) }
          const cache = yield* Effect.provideService(Cache.make(options), Cache.Cache, backend)
          yield* cache.set(key, value)
          return { call: cache.get(key) }
        })
      )
  },
  {
    name: "raw ioredis 5",
    open: async (place) => {
      const redis = peers.ioredis5(place)
      await redis.set("raw", "value")
      return { call: () => redis.get("raw"), close: () => redis.quit() }
    }
  },
  {
    name: "raw node-redis 6",
    open: async (place) => {
      const redis = await peers.nodeRedis(place)
      await redis.set("node", "value")
      return { call: () => redis.get("node"), close: () => redis.close() }
    }
  },
  {
    name: "connect-redis 9",
    open: async (place) => {
      const redis = await peers.nodeRedis(place)
      const store = peers.connectRedis(redis)
      await store.set(key, value as never)
      return { call: () => store.get(key), close: () => redis.close() }
    }
  },
  {
    name: "keyv 5",
    open: async (place) => {
      const store = peers.keyv(place)
      await store.set(key, value)
      return { call: () => store.get(key), close: () => store.disconnect() }
    }
  },
  {
    name: "cache-manager 7",
    open: async (place) => {
      const store = peers.cacheManager(place)
      await store.set(key, value)
      return { call: () => store.get(key), close: () => store.disconnect() }
    }
  },
  {
    name: "cacheable 2 (a key that is not in its first tier)",
    open: async (place) => {
      const store = peers.cacheable(place)
      await store.set(key, value)
      return { call: () => store.get("another"), close: () => store.disconnect() }
    }
  },
  {
    name: "bentocache 1.6 (second tier)",
    open: async (place) => {
      const store = peers.bento(place)
      await store.use("far").set({ key, value })
      return { call: () => store.use("far").get({ key }), close: () => store.disconnectAll() }
    }
  },
  {
    name: "@effect/experimental persistence",
    open: (place) =>
      scoped(
        Effect.gen(function* () {
          const store = yield* peers.persistence(place)
          yield* store.set(key, value, Option.none())
          return { call: store.get(key) }
        })
      )
  }
]

interface Row {
  readonly fault: string
  readonly name: string
  readonly first: Settled
  readonly next: Settled | undefined
  readonly close: Settled
}

const measure = (fault: string, { name }: Subject, { call, close }: Store): Promise<Row> =>
  settled(call).then(async (first) => {
    const next = first.result === "pending" ? undefined : await again(call)
    return { fault, name, first, next, close: await settled(close) }
  })

/** What a call takes now; where that is little, what it usually takes: the first one may meet code that never ran. */
const again = async (call: () => Promise<unknown>): Promise<Settled> => {
  const first = await settled(call)
  if (first.millis === undefined || first.millis > 100) return first
  const others: Array<number> = []
  for (let index = 0; index < 21; index++) others.push((await settled(call)).millis ?? limit)
  return { ...first, millis: median(others) }
}

interface Scenario {
  readonly fault: string
  readonly begin: (
    server: RedisServer.RedisServer,
    proxy: FaultProxy.FaultProxy
  ) => Effect.Effect<unknown, FaultProxy.FaultProxyError>
}

/** Everything is there and has worked before the fault begins; what it gives begins the fault and measures. */
const prepared = ({ begin, fault }: Scenario) =>
  Effect.gen(function* () {
    const server = yield* RedisServer.make()
    const proxy = yield* FaultProxy.make({ port: server.port })
    const stores: Array<readonly [Subject, Store]> = []
    for (const subject of subjects) {
      // a machine that is busy elsewhere can be late here
      const store = yield* Effect.retry(
        Effect.tryPromise(() => subject.open(proxy)),
        { times: 5 }
      )
      for (let index = 0; index < 20; index++) yield* Effect.promise(() => settled(store.call))
      stores.push([subject, store])
    }
    const all = Effect.promise(() => Promise.all(stores.map(([subject, store]) => measure(fault, subject, store))))
    return { measured: Effect.zipRight(begin(server, proxy), all) }
  })

const format = (one: Settled | undefined): string => {
  if (one === undefined) return "-"
  if (one.millis === undefined) return `> ${limit / 1_000} s`
  const time =
    one.millis >= 1_000 ? `${(one.millis / 1_000).toFixed(1)} s` : `${one.millis.toFixed(one.millis < 10 ? 1 : 0)} ms`
  return `${time} ${one.result}`
}

let unhandled = 0
process.on("unhandledRejection", () => {
  unhandled++
})

// what a peer writes to the console when its server goes away is counted, not shown
let lines = 0
for (const method of ["error", "warn"] as const) {
  console[method] = () => {
    lines++
  }
}

const host = machine()
const scenarios: ReadonlyArray<Scenario> = [
  // a frozen server behind a proxy: the connections stay open, nothing answers
  { fault: "frozen (SIGSTOP)", begin: (server) => server.freeze },
  { fault: "killed (SIGKILL)", begin: (server, proxy) => Effect.zipRight(server.kill, proxy.refuse(true)) },
  { fault: "blackhole", begin: (_, proxy) => proxy.blackhole(true) }
]
const rows: Array<Row> = []
console.log(`\nA server that stops answering, default settings: until a call settles, the next one, until it is closed`)
const found = await Effect.runPromise(
  Effect.scoped(
    Effect.flatMap(Effect.forEach(scenarios, prepared), (all) =>
      Effect.forEach(all, ({ measured }) => measured, { concurrency: "unbounded" })
    )
  )
)
for (const table of found) {
  rows.push(...table)
  const width = Math.max(...subjects.map((subject) => subject.name.length))
  console.log(
    `  ${(table[0]?.fault ?? "").padEnd(width)}  ${"first call".padStart(18)}${"next call".padStart(18)}${"close".padStart(18)}`
  )
  for (const row of table) {
    console.log(
      `  ${row.name.padEnd(width)}  ${format(row.first).padStart(18)}${format(row.next).padStart(18)}${format(row.close).padStart(18)}`
    )
  }
}
const ours = rows.filter((row) => row.name.startsWith("ours"))
const most = (of: (row: Row) => Settled | undefined) =>
  Math.max(...ours.map((row) => of(row)?.millis ?? Number.POSITIVE_INFINITY))
const verdicts = [
  { what: "ours: a call settles", millis: most((row) => row.first), atMost: 550 },
  { what: "ours: once the server is known to be away", millis: most((row) => row.next), atMost: 1 },
  { what: "ours: scope close", millis: most((row) => row.close), atMost: 500 }
]
for (const { atMost, millis, what } of verdicts) {
  console.log(`  ${millis <= atMost ? "within" : "ABOVE "} ${atMost} ms: ${millis.toFixed(2)} ms ${what}`)
}
console.log(`  ${unhandled} unhandled rejections, ${lines} lines that somebody wrote to the console`)
keep(
  "redis-hang",
  { name: "redis-hang", limitMillis: limit, rows, verdicts, unhandledRejections: unhandled, consoleLines: lines },
  host
)
process.exit(0)
