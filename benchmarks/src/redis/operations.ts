/**
 * What operations on Redis cost beside the raw clients and the peers: sessions, the client's layer, writes, locks, caches,
 * rate limits, events. Entry `redis`; by itself, all comparisons or those named:
 *
 *     node --import ./src/published.mjs src/redis/operations.ts session write
 */
import { Cache, EventBus, RateLimiter } from "@underlay/core"
import { RedisCache, RedisClient, RedisEventBus, RedisLock, RedisRateLimiter, RedisSessionStore } from "@underlay/redis"
import { Context, Deferred, Effect, Layer, Option, Runtime, Schema, type Scope } from "effect"
import { RateLimiterRedis } from "rate-limiter-flexible"
import { Mutex } from "redis-semaphore"
import Redlock from "redlock"
import * as RedisServer from "../../../servers/src/RedisServer.ts"
import { machine } from "../Harness.ts"
import * as Load from "./Load.ts"
import * as peers from "./peers.ts"

const { session, ttlMillis } = peers

interface Place extends peers.Place {
  readonly client: RedisClient.Service
  readonly cpu: Load.ServerCpu
}

type Comparing = (place: Place) => Effect.Effect<ReadonlyArray<Load.Result>, unknown, Scope.Scope>

/** The workers that the comparisons run at most, each with keys of its own. */
const workers = Array.from({ length: 50 }, (_, worker) => worker)

const forAll = (f: (worker: number) => Promise<unknown>): Effect.Effect<unknown> =>
  Effect.promise(() => Promise.all(workers.map(f)))

/** Fails the run where an operation does not do what it is measured for. */
const mustBe = (what: string, holds: boolean): void => {
  if (!holds) throw new Error(`${what} does not do what it is measured for`)
}

/** Looks once whether a subject reads a session, then hands it on. */
const reads = (subject: Load.Subject): Effect.Effect<Load.Subject> =>
  Effect.promise(async () => {
    const value =
      subject.effect === undefined ? await subject.promise?.(0)() : await Effect.runPromise(subject.effect(0))
    const found = Option.isOption(value) ? Option.getOrUndefined(value) : value
    mustBe(subject.name, (found as { readonly visits?: unknown } | undefined)?.visits === 17)
    return subject
  })

const compared = (comparison: Load.Comparison, { cpu }: Place): Effect.Effect<Load.Result> =>
  Effect.promise(() => Load.compare(comparison, cpu))

const parse = (text: string | null): unknown => (text === null ? undefined : JSON.parse(text))

const key = (worker: number): string => `raw:${worker}`

/** Reading a session that lives on: the text as an object, and the time to live begins anew. */
const sessions: Comparing = (place) =>
  Effect.gen(function* () {
    const runPromise = Runtime.runPromise(yield* Effect.runtime<never>())
    const store = yield* RedisSessionStore.make(place.client)
    const five = peers.ioredis5(place)
    const six = peers.ioredis6(place)
    const node = yield* Effect.promise(() => peers.nodeRedis(place))
    const connect = peers.connectRedis(node)
    const keyv = peers.keyv(place)
    const manager = peers.cacheManager(place)
    const cacheable = peers.cacheable(place)
    const bento = peers.bento(place)
    const persistence = yield* peers.persistence(place)
    yield* forAll(async (worker) => {
      const value = session(worker)
      await five.set(key(worker), JSON.stringify(value), "PX", ttlMillis)
      await connect.set(String(worker), value as never)
      await keyv.set(String(worker), value, ttlMillis)
      await manager.set(String(worker), value)
      await cacheable.set(String(worker), value)
      await bento.use("far").set({ key: String(worker), value })
      await runPromise(persistence.set(String(worker), value, Option.none()))
      await runPromise(store.set(`s${worker}`, value))
    })
    const base = "raw ioredis 5: GETEX + parse"
    const slides = "does not slide"
    const subjects: ReadonlyArray<Load.Subject> = [
      { name: base, promise: (w) => async () => parse(await five.getex(key(w), "PX", ttlMillis)) },
      {
        name: "raw ioredis 6: GETEX + parse",
        promise: (w) => async () => parse(await six.getex(key(w), "PX", ttlMillis))
      },
      {
        name: "raw node-redis 6: GETEX + parse",
        promise: (w) => async () => parse(await node.getEx(key(w), { type: "PX", value: ttlMillis }))
      },
      { name: "ours: SessionStore.getAndTouch", effect: (w) => store.getAndTouch(`s${w}`) },
      { name: "ours, a ttl of its own", effect: (w) => store.getAndTouch(`s${w}`, ttlMillis) },
      { name: "ours: SessionStore.get", effect: (w) => store.get(`s${w}`), lacks: slides },
      {
        name: "connect-redis 9: get + touch",
        promise: (w) => async () => {
          const found = await connect.get(String(w))
          await connect.touch(String(w), found)
          return found
        },
        lacks: "two round trips"
      },
      { name: "connect-redis 9: get", promise: (w) => () => connect.get(String(w)), lacks: slides },
      { name: "keyv 5: get", promise: (w) => () => keyv.get(String(w)), lacks: slides },
      {
        name: "keyv 5: get + set",
        promise: (w) => async () => {
          const found = await keyv.get(String(w))
          await keyv.set(String(w), found, ttlMillis)
          return found
        },
        lacks: "two round trips, undoes what others wrote meanwhile"
      },
      { name: "cache-manager 7: get", promise: (w) => () => manager.get(String(w)), lacks: slides },
      {
        name: "cacheable 2 (second tier alone): get",
        promise: (w) => () => cacheable.get(String(w), { nonBlocking: false }),
        lacks: slides
      },
      {
        name: "bentocache 1.6 (second tier alone): get",
        promise: (w) => () => bento.use("far").get({ key: String(w) }),
        lacks: slides
      },
      { name: "@effect/experimental: get", effect: (w) => persistence.get(String(w)), lacks: slides }
    ]
    // its first tier holds what was written: without it, it is asked as the others are
    cacheable.primary = cacheable.secondary ?? cacheable.primary
    for (const subject of subjects) yield* reads(subject)
    const ours = "ours: SessionStore.getAndTouch"
    return [
      yield* compared(
        {
          title: "A session of 1 kB is read and lives on",
          base,
          subjects,
          limits: [
            { subject: ours, to: base, atMost: 1.35 },
            ...subjects.slice(6).map((subject) => ({ subject: ours, to: subject.name, atMost: 1 }))
          ]
        },
        place
      )
    ]
  })

/** What the client adds to the driver under it. */
const layerOfClient: Comparing = (place) =>
  Effect.gen(function* () {
    const { client } = place
    const five = peers.ioredis5(place)
    yield* forAll((worker) => five.set(key(worker), JSON.stringify(session(worker))))
    const bare = "Effect.tryPromise(() => ioredis.get(key))"
    return [
      yield* compared(
        {
          title: "The client, GET of 1 kB",
          base: bare,
          subjects: [
            { name: "raw ioredis 5", promise: (w) => () => five.get(key(w)) },
            { name: bare, effect: (w) => Effect.tryPromise(() => five.get(key(w))) },
            { name: "RedisClient.send", effect: (w) => place.client.send("GET", key(w)) },
            { name: "RedisClient.sendBuffer", effect: (w) => client.sendBuffer("GET", key(w)) }
          ],
          limits: [{ subject: "RedisClient.send", to: bare, atMost: 5, as: "difference" }]
        },
        place
      )
    ]
  })

/** What safety costs when a session is written: the same client writes blindly beside it. */
const writes: Comparing = (place) =>
  Effect.gen(function* () {
    const runPromise = Runtime.runPromise(yield* Effect.runtime<never>())
    const { client } = place
    const store = yield* RedisSessionStore.make(client)
    const five = peers.ioredis5(place)
    const node = yield* Effect.promise(() => peers.nodeRedis(place))
    const connect = peers.connectRedis(node)
    const keyv = peers.keyv(place)
    const persistence = yield* peers.persistence(place)
    const values = workers.map(session)
    const unowned = workers.map(peers.strangers)
    const valueOf = (worker: number) => values[worker] ?? session(worker)
    const unownedOf = (worker: number) => unowned[worker] ?? peers.strangers(worker)
    yield* forAll(async (worker) => {
      await five.set(key(worker), JSON.stringify(valueOf(worker)))
      await runPromise(store.set(`o${worker}`, valueOf(worker)))
      await runPromise(store.set(`n${worker}`, unownedOf(worker)))
      await runPromise(store.set(`u${worker}`, valueOf(worker)))
      await runPromise(store.set(`v${worker}`, unownedOf(worker)))
    })
    // as a program writes that has only the driver, and as one that has our client and no care
    const rawWrite = "raw ioredis 5: SET PX + stringify"
    const blind = "blind: RedisClient.send SET + stringify"
    const write = yield* compared(
      {
        title: "A session of 1 kB is written",
        base: blind,
        subjects: [
          {
            name: rawWrite,
            promise: (w) => () => five.set(key(w), JSON.stringify(valueOf(w)), "PX", ttlMillis)
          },
          {
            name: blind,
            effect: (w) => Effect.suspend(() => client.send("SET", key(w), JSON.stringify(valueOf(w)), "PX", ttlMillis))
          },
          { name: "SessionStore.set", effect: (w) => store.set(`o${w}`, valueOf(w)) },
          { name: "SessionStore.set, no owner", effect: (w) => store.set(`n${w}`, unownedOf(w)) },
          {
            name: "connect-redis 9: set",
            promise: (w) => () => connect.set(String(w), valueOf(w) as never),
            lacks: "blind"
          },
          { name: "keyv 5: set", promise: (w) => () => keyv.set(String(w), valueOf(w), ttlMillis), lacks: "blind" },
          {
            name: "@effect/experimental: set",
            effect: (w) => persistence.set(String(w), valueOf(w), Option.none()),
            lacks: "blind, without a time to live here"
          }
        ],
        limits: [
          { subject: "SessionStore.set", to: rawWrite, atMost: 1.15 },
          { subject: "SessionStore.set, no owner", to: rawWrite, atMost: 1.15 },
          { subject: "SessionStore.set", to: blind, atMost: 1.15 },
          { subject: "SessionStore.set, no owner", to: blind, atMost: 1.15 },
          { subject: "SessionStore.set", to: blind, atMost: 1.15, of: "server" },
          { subject: "SessionStore.set, no owner", to: blind, atMost: 1.15, of: "server" }
        ]
      },
      place
    )
    const rawChange = "raw ioredis 5: GET + parse + change + stringify + SET"
    const readModifyWrite = "blind: GET + parse + change + stringify + SET"
    const visit = (found: Readonly<Record<string, unknown>>) => ({ ...found, visits: Number(found["visits"]) + 1 })
    const blindly = (w: number) =>
      Effect.flatMap(client.send("GET", key(w)), (text) =>
        client.send("SET", key(w), JSON.stringify(visit(JSON.parse(String(text)))), "KEEPTTL")
      )
    const update = yield* compared(
      {
        title: "A session of 1 kB is changed",
        base: readModifyWrite,
        subjects: [
          {
            name: rawChange,
            promise: (w) => async () => {
              const found = JSON.parse((await five.get(key(w))) ?? "{}")
              return five.set(key(w), JSON.stringify(visit(found)), "KEEPTTL")
            },
            lacks: "blind"
          },
          { name: readModifyWrite, effect: blindly, lacks: "blind" },
          { name: "SessionStore.update", effect: (w) => store.update(`u${w}`, visit as never) },
          { name: "SessionStore.update, no owner", effect: (w) => store.update(`v${w}`, visit as never) }
        ],
        limits: [
          { subject: "SessionStore.update", to: rawChange, atMost: 1.15 },
          { subject: "SessionStore.update", to: readModifyWrite, atMost: 1.15 },
          { subject: "SessionStore.update", to: readModifyWrite, atMost: 1.15, of: "server" }
        ]
      },
      place
    )
    return [write, update]
  })

/** Taken and given back, nobody else wants it. */
const locks: Comparing = (place) =>
  Effect.gen(function* () {
    const { client } = place
    const lock = yield* RedisLock.make(client)
    const five = peers.ioredis5(place)
    const redlock = new Redlock([five], { retryCount: 0 })
    const base = "raw ioredis 5: SET PX"
    const ours = "ours: withLock"
    return [
      yield* compared(
        {
          title: "A lock is taken and given back",
          base,
          subjects: [
            { name: base, promise: (w) => () => five.set(key(w), "0123456789abcdef", "PX", 10_000) },
            {
              name: "RedisClient.send SET PX",
              effect: (w) => client.send("SET", key(w), "0123456789abcdef", "PX", 10_000)
            },
            { name: ours, effect: (w) => lock.withLock(`lock-${w}`)(Effect.void) },
            {
              name: "redlock 4: lock + unlock",
              promise: (w) => async () => (await redlock.lock(`redlock-${w}`, 10_000)).unlock(),
              lacks: "no token, no renewal"
            },
            {
              name: "redis-semaphore 5: Mutex",
              promise: (w) => async () => {
                const mutex = new Mutex(five, `mutex-${w}`)
                await mutex.acquire()
                await mutex.release()
              },
              lacks: "no token"
            }
          ],
          limits: [
            { subject: ours, to: base, atMost: 2 },
            { subject: ours, to: "RedisClient.send SET PX", atMost: 2 }
          ]
        },
        place
      )
    ]
  })

const Value = Schema.Struct({
  user_id: Schema.String,
  last_activity: Schema.String,
  name: Schema.String,
  roles: Schema.Array(Schema.String),
  visits: Schema.Number,
  preferences: Schema.Record({ key: Schema.String, value: Schema.Union(Schema.String, Schema.Number, Schema.Boolean) }),
  cart: Schema.Array(
    Schema.Struct({ sku: Schema.String, amount: Schema.Number, price: Schema.Number, note: Schema.String })
  )
})

const caches: Comparing = (place) =>
  Effect.gen(function* () {
    const runPromise = Runtime.runPromise(yield* Effect.runtime<never>())
    const backend = yield* RedisCache.make(place.client)
    const made = <E>(cache: Effect.Effect<Cache.CacheHandle<typeof Value.Type>, E, Cache.Cache | Scope.Scope>) =>
      Effect.provideService(cache, Cache.Cache, backend)
    const options = { schema: Value, ttl: "30 minutes" } as const
    const near = yield* made(
      Cache.make({ ...options, namespace: "near", firstTier: { capacity: 1_000, ttl: "10 minutes" } })
    )
    const far = yield* made(Cache.make({ ...options, namespace: "far" }))
    const trusted = yield* made(Cache.make({ ...options, namespace: "trusted", trusted: true }))
    const five = peers.ioredis5(place)
    const bento = peers.bento(place)
    const cacheable = peers.cacheable(place)
    const keyv = peers.keyv(place)
    const manager = peers.cacheManager(place)
    const persistence = yield* peers.persistence(place)
    yield* forAll(async (worker) => {
      const value = session(worker)
      await five.set(key(worker), JSON.stringify(value), "PX", ttlMillis)
      await bento.use("far").set({ key: String(worker), value })
      await bento.use("both").set({ key: String(worker), value })
      await cacheable.set(String(worker), value)
      await keyv.set(String(worker), value, ttlMillis)
      await manager.set(String(worker), value)
      await runPromise(persistence.set(String(worker), value, Option.none()))
      await runPromise(near.set(String(worker), value))
      await runPromise(far.set(String(worker), value))
      await runPromise(trusted.set(String(worker), value))
    })
    const loaded = Effect.die("it is there")
    const unchecked = "no schema"
    const firstTier: ReadonlyArray<Load.Subject> = [
      { name: "a Map", effect: (w) => Effect.sync(() => values.get(w)) },
      { name: "ours: get", effect: (w) => near.get(String(w)) },
      { name: "ours: getOrElse", effect: (w) => near.getOrElse(String(w), loaded) },
      { name: "bentocache 1.6: get", promise: (w) => () => bento.use("both").get({ key: String(w) }) },
      {
        name: "bentocache 1.6: getOrSet",
        promise: (w) => () => bento.use("both").getOrSet({ key: String(w), factory: () => session(w) })
      },
      { name: "cacheable 2: get", promise: (w) => () => cacheable.get(String(w)) }
    ]
    const values = new Map(workers.map((worker) => [worker, session(worker)]))
    for (const subject of firstTier) yield* reads(subject)
    const inProcess = yield* compared(
      {
        title: "A cached value of 1 kB, first tier",
        base: "bentocache 1.6: get",
        subjects: firstTier,
        limits: [{ subject: "ours: get", to: "a Map", atMost: 10, as: "difference" }]
      },
      place
    )
    const base = "raw ioredis 5: GET + parse"
    const secondTier: ReadonlyArray<Load.Subject> = [
      { name: base, promise: (w) => async () => parse(await five.get(key(w))) },
      { name: "ours, checked: get", effect: (w) => far.get(String(w)) },
      { name: "ours, trusted: get", effect: (w) => trusted.get(String(w)) },
      { name: "ours, trusted: getOrElse", effect: (w) => trusted.getOrElse(String(w), loaded) },
      { name: "keyv 5: get", promise: (w) => () => keyv.get(String(w)), lacks: unchecked },
      { name: "cache-manager 7: get", promise: (w) => () => manager.get(String(w)), lacks: unchecked },
      { name: "bentocache 1.6: get", promise: (w) => () => bento.use("far").get({ key: String(w) }), lacks: unchecked },
      {
        name: "bentocache 1.6: getOrSet",
        promise: (w) => () => bento.use("far").getOrSet({ key: String(w), factory: () => session(w) }),
        lacks: unchecked
      },
      { name: "@effect/experimental: get", effect: (w) => persistence.get(String(w)), lacks: unchecked }
    ]
    for (const subject of secondTier) yield* reads(subject)
    return [
      inProcess,
      yield* compared({ title: "A cached value of 1 kB, second tier", base, subjects: secondTier }, place)
    ]
  })

const rateLimits: Comparing = (place) =>
  Effect.gen(function* () {
    const { client } = place
    const backend = RedisRateLimiter.make(client)
    const made = (algorithm: "fixed-window" | "sliding-window" | "token-bucket" | "gcra") =>
      Effect.provideService(
        RateLimiter.make({ name: `bench-${algorithm}`, limit: 1_000_000_000, interval: "1 hour", algorithm }),
        RateLimiter.RateLimiter,
        backend
      )
    const fixed = yield* made("fixed-window")
    const sliding = yield* made("sliding-window")
    const bucket = yield* made("token-bucket")
    const gcra = yield* made("gcra")
    const five = peers.ioredis5(place)
    const flexible = new RateLimiterRedis({ storeClient: five, points: 1_000_000_000, duration: 3_600 })
    const base = "rate-limiter-flexible 11 (fixed window)"
    return [
      yield* compared(
        {
          title: "A rate limit is asked",
          base,
          subjects: [
            { name: "raw ioredis 5: INCR", promise: (w) => () => five.incr(`incr-${w}`) },
            { name: base, promise: (w) => () => flexible.consume(String(w)) },
            { name: "ours: fixed window", effect: (w) => fixed.consume(String(w)) },
            { name: "ours: sliding window", effect: (w) => sliding.consume(String(w)) },
            { name: "ours: token bucket", effect: (w) => bucket.consume(String(w)) },
            { name: "ours: GCRA", effect: (w) => gcra.consume(String(w)) }
          ]
        },
        place
      )
    ]
  })

/** Publishing by operation; then so many events are handled, once by a loop of raw commands, once by a subscription. */
const events: Comparing = (place) =>
  Effect.gen(function* () {
    const runPromise = Runtime.runPromise(yield* Effect.runtime<never>())
    const { client, cpu } = place
    const bus = RedisEventBus.make(client)
    const five = peers.ioredis5(place)
    const topic = EventBus.topic({ name: "bench", schema: Schema.Struct({ id: Schema.String, amount: Schema.Number }) })
    const event = { id: "0123456789", amount: 12.5 }
    const base = "raw ioredis 5: XADD MAXLEN ~"
    const publishing = yield* compared(
      {
        title: "An event is published",
        base,
        subjects: [
          {
            name: base,
            promise: () => () => five.xadd("raw:events", "MAXLEN", "~", 10_000, "*", "event", JSON.stringify(event)),
            lacks: "no schema, no ordering key, no id of its own"
          },
          { name: "ours: publish", effect: () => bus.publish(topic, event) },
          { name: "ours: publish, ordering key", effect: (w) => bus.publish(topic, event, { key: String(w) }) }
        ]
      },
      place
    )
    const count = 20_000
    const many = Array.from({ length: 500 }, (_, index) => ({ event, key: String(index % 50) }))
    const rounds: Array<Readonly<Record<"raw" | "ours", Load.Sample>>> = []
    for (let round = 0; round < 5; round++) {
      const stream = `raw:consumed:${round}`
      yield* Effect.promise(async () => {
        await five.xgroup("CREATE", stream, "group", "0", "MKSTREAM")
        for (let sent = 0; sent < count; sent += 500) {
          const pipeline = five.pipeline()
          for (const one of many) pipeline.xadd(stream, "*", "key", one.key, "event", JSON.stringify(one.event))
          await pipeline.exec()
        }
      })
      const own = EventBus.topic({
        name: `consumed-${round}`,
        schema: topic.schema,
        retention: { maxLength: count }
      })
      for (let sent = 0; sent < count; sent += 500) yield* bus.publishAll(own, many)
      const raw = Load.once(count, cpu, async () => {
        for (let handled = 0; handled < count; ) {
          const reply = await five.xreadgroup("GROUP", "group", "one", "COUNT", 100, "STREAMS", stream, ">")
          const [[, entries]] = reply as [[string, Array<[string, Array<string>]>]]
          for (const [, fields] of entries) mustBe("XREADGROUP", JSON.parse(fields[3] ?? "").amount === 12.5)
          await five.xack(stream, "group", ...entries.map(([id]) => id))
          handled += entries.length
        }
      })
      const ours = Load.once(count, cpu, () =>
        runPromise(
          Effect.scoped(
            Effect.gen(function* () {
              const done = yield* Deferred.make<void>()
              let handled = 0
              const handle = Effect.suspend(() =>
                ++handled === count ? Deferred.succeed(done, undefined) : Effect.void
              )
              yield* bus.subscribe(own, { group: "group" })(() => handle)
              yield* Deferred.await(done)
            })
          )
        )
      )
      // in turns, so that a drift falls on both
      const [one, other] = round % 2 === 0 ? [raw, ours] : [ours, raw]
      const first = yield* Effect.promise(one)
      const second = yield* Effect.promise(other)
      rounds.push(round % 2 === 0 ? { raw: first, ours: second } : { raw: second, ours: first })
    }
    return [
      publishing,
      Load.fromSamples(`${count} events are handled`, "raw ioredis 5: XREADGROUP + XACK, 100 at once", {
        "raw ioredis 5: XREADGROUP + XACK, 100 at once": rounds.map((one) => one.raw),
        "ours: subscribe": rounds.map((one) => one.ours)
      })
    ]
  })

const comparisons: Readonly<Record<string, Comparing>> = {
  session: sessions,
  client: layerOfClient,
  write: writes,
  lock: locks,
  cache: caches,
  limit: rateLimits,
  events
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !(name in comparisons))
if (unknown.length > 0) {
  console.error(`No such comparison: ${unknown.join(", ")}. There are: ${Object.keys(comparisons).join(", ")}.`)
  process.exit(1)
}

await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      const host = machine()
      const server = yield* RedisServer.make()
      const cpu = yield* Load.serverCpu(server)
      // a shared machine can be slow for a while: that is no failure here
      const layer = RedisClient.layer({ host: server.host, port: server.port, commandTimeout: "10 seconds" })
      const client = Context.get(yield* Layer.build(layer), RedisClient.RedisClient)
      const place: Place = { host: server.host, port: server.port, client, cpu }
      const results: Array<Load.Result> = []
      for (const [name, comparing] of Object.entries(comparisons)) {
        if (wanted.length === 0 || wanted.includes(name)) results.push(...(yield* comparing(place)))
      }
      Load.keepAll(wanted.length === 0 ? "redis" : `redis-${wanted.join("-")}`, results, {}, host)
    })
  )
)
process.exit(0)
