/**
 * Every operation of every service of the internal plane, by name: what the tests run that must hold for all of them. The
 * types ask for each operation of a service, and `all` fails where a service has one at run time that is not here.
 */
import {
  Cache,
  Caches,
  ChatMessage,
  CircuitControl,
  ConfirmationCache,
  ConversationMemory,
  Counters,
  EventBus,
  FallbackSessionStore,
  Lock,
  OneTimeStore,
  RateLimiter,
  ResilientSessionStore,
  SessionStore,
  SignupCache
} from "@underlay/core"
import {
  RedisClient,
  RedisCommand,
  FallbackSessionStore as RedisFallback,
  RedisHealth,
  RedisLock,
  ResilientSessionStore as RedisResilient
} from "@underlay/redis"
import { Array, Effect, Option, Schema, type Scope, Stream } from "effect"
import { pause } from "./support.ts"

/** One operation: how it is called, and what should be there before. What it fails with is part of what is looked at. */
export interface Operation {
  readonly name: string
  readonly seed: Effect.Effect<unknown, unknown, Scope.Scope>
  readonly run: Effect.Effect<unknown, unknown, Scope.Scope>
}

type Run = Effect.Effect<unknown, unknown, Scope.Scope>
type Runs<S> = { readonly [K in keyof S]-?: Run }

/** Several calls of one operation, some of which are made to fail. */
const each = (calls: ReadonlyArray<Run>, concurrency = 1): Run => Effect.forEach(calls, Effect.exit, { concurrency })

/**
 * Runs a stream. The runner of Effect's streams says at the level Debug that one failed, in a fiber of its own: that line
 * is the caller's, who runs it, and can be switched off like this.
 */
const drain = <A, E>(stream: Stream.Stream<A, E>): Effect.Effect<void, E> =>
  Effect.withUnhandledErrorLogLevel(Stream.runDrain(stream), Option.none())

const operationsOf = <S extends object>(
  module: string,
  service: S,
  seed: Run,
  runs: Runs<S>
): ReadonlyArray<Operation> => {
  const has = Object.keys(service).sort().join(", ")
  const tested = Object.keys(runs).sort().join(", ")
  if (has !== tested) throw new Error(`${module} has the operations ${has}; tested are ${tested}`)
  return Object.entries<Run>(runs).map(([name, run]) => ({ name: `${module}.${name}`, seed, run }))
}

const clientOf = (redis: RedisClient.Service): ReadonlyArray<Operation> => {
  const script = RedisClient.script("silence.get", "return redis.call('GET', KEYS[1])")
  const seed = Effect.zipRight(
    redis.send("SET", "silent", "1", "PX", 60_000),
    redis.send("XADD", "silent:stream", "*", "field", "1")
  )
  const commands = [RedisCommand.get("silent"), RedisCommand.incrBy("silent")] as const
  return [
    ...operationsOf("RedisClient", redis, seed, {
      send: redis.send("GET", "silent"),
      sendBuffer: redis.sendBuffer("GET", "silent"),
      sendMany: redis.sendMany([["INCR", "silent"], { script, keys: ["silent"], args: [] }]),
      sendManyBuffer: redis.sendManyBuffer([["GET", "silent"], ["NO-SUCH-COMMAND"]]),
      run: redis.run(script, ["silent"], []),
      runBuffer: redis.runBuffer(script, ["silent"], []),
      transaction: redis.transaction([
        ["INCR", "silent"],
        ["LPUSH", "silent", "x"]
      ]),
      isolated: redis.isolated(),
      listen: Effect.gen(function* () {
        let heard = 0
        yield* redis.listen(["silent"], () => {
          heard++
        })
        yield* redis.listen({ pattern: "silent*" }, () => {
          heard++
        })
        yield* redis.send("PUBLISH", "silent", "hello")
        return heard
      }),
      track: Effect.zipRight(
        redis.track(["silent"], () => {}),
        redis.send("INCR", "silent")
      ),
      nodes: Effect.gen(function* () {
        for (const { send, sendMany } of yield* redis.nodes) {
          yield* send("GET", "silent")
          yield* sendMany([["GET", "silent"]])
        }
      }),
      topology: Effect.sync(() => redis.topology),
      state: redis.state,
      changes: drain(Stream.take(redis.changes, 1)),
      stats: redis.stats
    }),
    // an isolated connection is a service of its own
    ...(["send", "sendMany", "run", "block", "transaction"] as const).map(
      (name): Operation => ({
        name: `RedisClient.isolated.${name}`,
        seed,
        run: Effect.flatMap(redis.isolated({ key: "silent" }), (own) => {
          const runs: Runs<RedisClient.Isolated> = {
            send: own.send("GET", "silent"),
            sendMany: own.sendMany([["GET", "silent"]]),
            run: own.run(script, ["silent"], []),
            block: own.block("20 millis", "XREAD", "BLOCK", 20, "STREAMS", "silent:stream", "$"),
            transaction: Effect.zipRight(own.send("WATCH", "silent"), own.transaction([["INCR", "silent"]]))
          }
          const has = Object.keys(own).sort().join(", ")
          if (has !== Object.keys(runs).sort().join(", ")) return Effect.dieMessage(`an isolated connection has ${has}`)
          return runs[name]
        })
      })
    ),
    { name: "RedisCommand.execute", seed, run: RedisCommand.execute(redis, commands[0]) },
    { name: "RedisCommand.pipeline", seed, run: RedisCommand.pipeline(redis, commands) },
    { name: "RedisCommand.transaction", seed, run: RedisCommand.transaction(redis, commands) },
    // another shape than it can have: a typed failure
    {
      name: "RedisCommand.make",
      seed,
      run: RedisCommand.execute(
        redis,
        RedisCommand.make("GET", ["silent"], () => Option.none())
      )
    },
    { name: "RedisHealth.check", seed, run: RedisHealth.check(redis, { timeout: "100 millis" }) }
  ]
}

/** Of a session store under this name: there are several kinds. */
export const sessionsOf = (module: string, sessions: SessionStore.Service): ReadonlyArray<Operation> => {
  // ids of its own: those of another are gone for a minute
  const id = (letter: string) => `${module}-${letter}`
  const owner = `ada of ${module}`
  return operationsOf(
    module,
    sessions,
    Effect.zipRight(sessions.create(id("a"), { user_id: owner }), sessions.create(id("b"), { user_id: owner })),
    {
      get: sessions.get(id("a")),
      set: sessions.set(id("c"), { user_id: owner }),
      create: sessions.create(id("d"), { user_id: owner }),
      delete: sessions.delete(id("b")),
      exists: sessions.exists(id("a")),
      extendTtl: sessions.extendTtl(id("a"), "1 hour"),
      getAndTouch: sessions.getAndTouch(id("a"), "2 hours"),
      update: sessions.update(id("a"), (session) => ({ ...session, n: 1 })),
      rotate: sessions.rotate(id("b")),
      deleteMany: sessions.deleteMany([id("b"), id("c")]),
      sessionsOf: sessions.sessionsOf(owner),
      deleteAllOf: sessions.deleteAllOf(owner),
      cleanUp: sessions.cleanUp(),
      // what happens while somebody listens
      events: Effect.scoped(
        Effect.gen(function* () {
          yield* Effect.forkScoped(drain(sessions.events))
          yield* pause(10)
          yield* each(
            [
              sessions.create(id("e"), { user_id: owner }),
              sessions.get(id("a")),
              sessions.rotate(id("e")),
              sessions.delete(id("a"))
            ],
            2
          )
        })
      )
    }
  )
}

const memoryOf = (memory: ConversationMemory.Service): ReadonlyArray<Operation> =>
  operationsOf("ConversationMemory", memory, memory.append("a", [ChatMessage.user("good day, what is new?")]), {
    append: memory.append("a", [ChatMessage.assistant("nothing")]),
    recent: memory.recent("a"),
    trim: memory.trim("a", { maxTokens: 3 }),
    summary: memory.summary("a"),
    setSummary: memory.setSummary("a", "greetings"),
    clear: memory.clear("a")
  })

const cacheOf = <E>(module: string, cache: Cache.CacheHandle<string, E>): ReadonlyArray<Operation> => {
  const seed = Effect.zipRight(cache.set("a", "x".repeat(2_000), { tags: ["t"] }), cache.set("b", "b"))
  const load = Effect.succeed("computed")
  return operationsOf(module, cache, seed, {
    namespace: Effect.sync(() => cache.namespace),
    get: cache.get("a"),
    set: cache.set("c", "c", { tags: ["t"] }),
    delete: cache.delete("a"),
    deleteMany: cache.deleteMany(["a", "b"]),
    getOrElse: each(
      [
        cache.getOrElse("a", load),
        cache.getOrElse("n", load, { tags: ["t"] }),
        cache.getOrElse("f", Effect.fail("no")),
        cache.getOrElse("g", Effect.die("a bug")),
        Effect.timeoutOption(cache.getOrElse("h", Effect.never), "10 millis")
      ],
      2
    ),
    getOrElseOption: each([
      cache.getOrElseOption("o", Effect.succeedNone),
      cache.getOrElseOption("p", Effect.fail("no"))
    ]),
    getOrElseMany: each([
      cache.getOrElseMany(["a", "q"], () => Effect.succeed([["q", "q"]])),
      cache.getOrElseMany(["r"], () => Effect.fail("no"))
    ]),
    getMany: cache.getMany(["a", "b"]),
    setMany: cache.setMany([["s", "s"]], { tags: ["t"] }),
    invalidateTags: cache.invalidateTags(["t"]),
    clear: cache.clear,
    stats: cache.stats
  })
}

const cacheBackendOf = (backend: typeof Cache.Cache.Service): ReadonlyArray<Operation> => {
  const by: Cache.Origin = { namespace: "raw", prefix: "cache:raw:", from: "a test" }
  const key = "cache:raw:a"
  const entry: Cache.BackendEntry = { key, text: '{"value":1}', ttl: 60_000 }
  const { leases, stamps, scope, ...plain } = backend
  if (leases === undefined || stamps === undefined || plain.listen === undefined) throw new Error("a part is missing")
  const { listen, ...rest } = plain
  const seed = backend.set(entry, by)
  return [
    ...operationsOf("Cache", rest, seed, {
      get: backend.get(key, true),
      getMany: backend.getMany([key], false),
      set: backend.set(entry, by),
      setMany: backend.setMany([entry], by),
      delete: backend.delete([key], by),
      discard: backend.discard([key]),
      clear: backend.clear(by)
    }),
    {
      name: "Cache.listen",
      seed,
      run: Effect.zipRight(
        listen(by, () => {}),
        backend.set(entry, by)
      )
    },
    ...operationsOf("Cache.leases", leases, leases.getOrTake("cache:raw:l", "one", 1_000), {
      getOrTake: leases.getOrTake("cache:raw:l", "other", 1_000),
      take: leases.take(["cache:raw:l"], "other", 1_000),
      fill: leases.fill([{ ...entry, key: "cache:raw:l" }], "one", by),
      release: leases.release(["cache:raw:l"], "one"),
      watch: leases.watch("cache:raw:l", () => {})
    }),
    ...operationsOf("Cache.stamps", stamps, stamps.ensure(["cache:~tag:raw:t"], 60_000), {
      get: stamps.get(["cache:~tag:raw:t"]),
      ensure: stamps.ensure(["cache:~tag:raw:u"], 60_000),
      drop: stamps.drop(["cache:~tag:raw:t"], ["t"], by)
    })
  ]
}

const lockOf = (lock: Lock.Service): ReadonlyArray<Operation> => {
  const options = { ttl: "1 second", wait: "3 seconds" } as const
  const body = Effect.yieldNow()
  return operationsOf("Lock", lock, Effect.void, {
    withLock: each(
      [
        lock.withLock("a", options)(pause(10)),
        lock.withLock("a", { ...options, fair: true })(Effect.fail("no")),
        lock.withLock("a", options)(Effect.die("a bug")),
        lock.withLock("b", options)(Effect.timeout(pause(1_000), "20 millis"))
      ],
      4
    ),
    withReadLock: Effect.all([lock.withReadLock("a", options)(body), lock.withReadLock("a", options)(body)], {
      concurrency: 2
    }),
    withWriteLock: lock.withWriteLock("a", options)(body),
    withPermit: lock.withPermit("few", { ...options, permits: 2 })(body),
    // held for more than a third of its time, so it is renewed; and asked for in vain by another
    acquire: Effect.gen(function* () {
      const { isHeld, lost, release } = yield* lock.acquire("c", options)
      yield* Effect.either(lock.acquire("c", { ...options, wait: 0 }))
      yield* Effect.raceFirst(pause(400), lost)
      yield* isHeld
      return yield* release
    }),
    acquireRead: lock.acquireRead("d", options),
    acquirePermit: lock.acquirePermit("few", { ...options, permits: 2 })
  })
}

const limiterOf = (module: string, limiter: RateLimiter.Limiter): ReadonlyArray<Operation> =>
  operationsOf(module, limiter, limiter.consume("a"), {
    name: Effect.sync(() => limiter.name),
    consume: each([
      limiter.consume("a", 2),
      limiter.consume("a", 9),
      RateLimiter.run(Effect.void, limiter, { key: "a" })
    ]),
    peek: limiter.peek("a"),
    reset: limiter.reset("a"),
    stats: limiter.stats
  })

const countersOf = (counters: Counters.Service): ReadonlyArray<Operation> =>
  operationsOf("Counters", counters, counters.add("a", 1, { ttl: "1 minute" }), {
    add: each([
      counters.add("a", 5, { ttl: "1 minute", limit: 3 }),
      counters.add("day", 1, { window: "day", timeZone: "UTC" })
    ]),
    get: counters.get("a"),
    set: counters.set("a", 2, { ttl: "1 minute" }),
    reset: counters.reset("a")
  })

const busOf = (bus: EventBus.Service): ReadonlyArray<Operation> => {
  const topic = EventBus.topic({ name: "silence", schema: Schema.Struct({ n: Schema.Number }), partitions: 1 })
  const letters = bus.deadLetters(topic, "g")
  const settings = { group: "g", maxDeliveries: 1, retryDelay: "5 millis", pollInterval: "20 millis" } as const
  /** A group that handles what is there: one event well, one not. */
  const handled = Effect.scoped(
    Effect.gen(function* () {
      const { stats } = yield* bus.subscribe(
        topic,
        settings
      )(({ event }) => (event.n % 2 === 0 ? Effect.fail("no") : Effect.void))
      for (let turn = 0; turn < 100; turn++) {
        const { deadLettered, handled, storeErrors } = yield* stats
        if (handled + deadLettered >= 2 || storeErrors > 0) break
        yield* pause(5)
      }
    })
  )
  const publish = (n: number) => bus.publish(topic, { n }, { key: "k" })
  const seed = Effect.all([publish(1), publish(2), Effect.ignore(handled), publish(3)])
  return [
    ...operationsOf("EventBus", bus, seed, {
      publish: bus.publish(topic, { n: 1 }, { key: "k", id: "own", headers: { a: "b" } }),
      publishAll: bus.publishAll(topic, [
        { event: { n: 1 }, key: "k" },
        { event: { n: 2 }, id: "own" }
      ]),
      subscribe: handled,
      stream: drain(bus.stream(topic, { follow: false })),
      deadLetters: Effect.sync(() => bus.deadLetters(topic, "g")),
      seek: bus.seek(topic, "g", "beginning"),
      groups: bus.groups(topic),
      stats: bus.stats(topic, "g"),
      removeGroup: bus.removeGroup(topic, "g"),
      trim: bus.trim(topic, { maxLength: 1 })
    }),
    ...operationsOf("EventBus.deadLetters", letters, seed, {
      count: letters.count,
      read: letters.read(),
      replay: letters.replay("all"),
      drop: letters.drop("all")
    })
  ]
}

const circuitsOf = (control: CircuitControl.Service): ReadonlyArray<Operation> =>
  operationsOf("CircuitControl", control, control.set("b", "forced-open", { for: "1 minute" }), {
    set: control.set("a", "disabled", { reason: "a test" }),
    clear: control.clear("b"),
    overrides: control.overrides,
    changes: Effect.timeoutOption(drain(Stream.take(control.changes, 1)), "30 millis")
  })

const oneTimeOf = (store: OneTimeStore.Service): ReadonlyArray<Operation> => {
  const entry = {
    key: "confirmation:raw:a",
    token: "right",
    text: "{}",
    ttl: 60_000,
    tries: 2,
    present: "replace",
    pause: 0
  } as const
  return operationsOf("OneTimeStore", store, store.put(entry), {
    put: each([
      store.put(entry),
      store.put({ ...entry, present: "keep", pause: 1_000, quota: { limit: 1, within: 1_000 } })
    ]),
    take: each([store.take("confirmation:raw:a", "wrong"), store.take("confirmation:raw:a", "right")]),
    peek: store.peek("confirmation:raw:a", "right"),
    drop: store.drop("confirmation:raw:a", undefined)
  })
}

const confirmationsOf = (confirmations: ConfirmationCache.ConfirmationHandle<void>): ReadonlyArray<Operation> =>
  operationsOf("ConfirmationCache", confirmations, confirmations.issue("ada"), {
    name: Effect.sync(() => confirmations.name),
    issue: confirmations.issue("bob"),
    verify: confirmations.verify("ada", "000000"),
    revoke: confirmations.revoke("ada")
  })

const signupsOf = (signups: SignupCache.SignupHandle<string>): ReadonlyArray<Operation> =>
  operationsOf("SignupCache", signups, signups.begin("ada", "x"), {
    name: Effect.sync(() => signups.name),
    onPending: Effect.sync(() => signups.onPending),
    begin: signups.begin("bob", "x"),
    get: signups.get("ada", "no-such-ticket"),
    take: signups.take("ada", "no-such-ticket"),
    cancel: signups.cancel("ada", "no-such-ticket")
  })

const fallbackOf = (fallback: FallbackSessionStore.Service): ReadonlyArray<Operation> => [
  ...operationsOf("FallbackSessionStore", fallback, fallback.store.create("known", { user_id: "ada" }), {
    store: Effect.sync(() => fallback.store),
    mode: fallback.mode,
    stats: fallback.stats,
    lastReport: fallback.lastReport,
    reports: Effect.timeoutOption(drain(fallback.reports), "10 millis")
  }),
  ...sessionsOf("FallbackSessionStore.store", fallback.store)
]

const cachesOf = (caches: typeof Caches.Caches.Service, kind: string): ReadonlyArray<Operation> => {
  const definition = Caches.define({ name: "silent", kind, schema: Schema.String, firstTier: {} })
  return operationsOf(
    "Caches",
    caches,
    Effect.flatMap(caches.get(definition), (cache) => cache.set("a", "a")),
    {
      get: Effect.flatMap(caches.get(definition), (cache) => cache.getOrElse("b", Effect.succeed("b"))),
      list: caches.list,
      stats: caches.stats,
      clear: caches.clear("silent"),
      clearAll: caches.clearAll,
      unused: caches.unused,
      kinds: Effect.sync(() => caches.kinds)
    }
  )
}

/** The ports whose layers the operations are run over; with a client of Redis, its own operations too. */
export type Ports =
  | Cache.Cache
  | Caches.Caches
  | CircuitControl.CircuitControl
  | ConversationMemory.ConversationMemory
  | Counters.Counters
  | EventBus.EventBus
  | Lock.Lock
  | OneTimeStore.OneTimeStore
  | RateLimiter.RateLimiter
  | SessionStore.SessionStore

/** Every operation over the layers of the context. */
export const ports: Effect.Effect<
  ReadonlyArray<Operation>,
  Cache.CacheError | OneTimeStore.OneTimeStoreError | RateLimiter.RateLimiterError | SessionStore.SessionStoreError,
  Ports | Scope.Scope
> = Effect.gen(function* () {
  const common = {
    schema: Schema.String,
    staleFor: "1 minute",
    graceFor: "1 minute",
    earlyRefresh: 1e6,
    negativeTtl: "1 minute",
    compressAbove: 100
  } as const
  const limiters: globalThis.Array<Operation> = []
  for (const algorithm of ["fixed-window", "sliding-window", "token-bucket", "gcra"] as const) {
    const limiter = yield* RateLimiter.make({ name: algorithm, algorithm, limit: 3, interval: "1 minute" })
    limiters.push(...limiterOf(`RateLimiter of ${algorithm}`, limiter))
  }
  const local = yield* RateLimiter.all({
    name: "several",
    limits: [
      { limit: 3, interval: "1 second" },
      { limit: 9, interval: "1 minute" }
    ],
    onUnavailable: "local",
    rememberRefused: 10
  })
  const sessions = yield* SessionStore.SessionStore
  const caches = yield* Caches.Caches
  return [
    ...sessionsOf("SessionStore", sessions),
    ...sessionsOf("ResilientSessionStore", yield* ResilientSessionStore.make(sessions, { maxWait: "20 millis" })),
    ...fallbackOf(yield* FallbackSessionStore.make(sessions)),
    ...memoryOf(yield* ConversationMemory.ConversationMemory),
    ...cacheBackendOf(yield* Cache.Cache),
    ...cacheOf("a cache", yield* Cache.make({ ...common, namespace: "plain" })),
    ...cacheOf("a strict cache", yield* Cache.make({ ...common, namespace: "strict", strict: true })),
    ...cacheOf("a cache with a first tier", yield* Cache.make({ ...common, namespace: "tiered", firstTier: {} })),
    ...cachesOf(caches, caches.kinds.includes("redis") ? "redis" : "memory"),
    ...lockOf(yield* Lock.Lock),
    ...limiters,
    ...limiterOf("RateLimiter of several limits", local),
    ...oneTimeOf(yield* OneTimeStore.OneTimeStore),
    ...confirmationsOf(yield* ConfirmationCache.make()),
    ...signupsOf(yield* SignupCache.make({ schema: Schema.String })),
    ...countersOf(yield* Counters.Counters),
    ...busOf(yield* EventBus.EventBus),
    ...circuitsOf(yield* CircuitControl.CircuitControl)
  ]
})

/** The operations of the client of Redis, and of what is made of it alone. */
export const redis: Effect.Effect<
  ReadonlyArray<Operation>,
  SessionStore.SessionStoreError,
  RedisClient.RedisClient | Lock.Lock | Scope.Scope
> = Effect.gen(function* () {
  const client = yield* RedisClient.RedisClient
  const lock = yield* Lock.Lock
  const guarded = (name: string, effect: Effect.Effect<unknown, unknown, Lock.FencingToken>): Operation => ({
    name: `RedisLock.${name}`,
    seed: Effect.void,
    run: lock.withLock("fenced", { ttl: "5 seconds", wait: "3 seconds" })(effect)
  })
  const script = RedisLock.fencedScript("silence.fenced", "return 1")
  return [
    ...clientOf(client),
    ...sessionsOf("ResilientSessionStore of Redis", yield* RedisResilient.make(client, { maxWait: "20 millis" })),
    ...sessionsOf("FallbackSessionStore of Redis", (yield* RedisFallback.make(client)).store),
    guarded("fencedSet", RedisLock.fencedSet(client, "fenced:set", "x", "1 minute")),
    guarded("fencedRun", RedisLock.fencedRun(client, script, ["fenced:run"], []))
  ]
})

/** All of them, on Redis. */
export const everything = Effect.zipWith(redis, ports, (client, others) => [...client, ...others])

/** Runs one after another, each within a time, and gives the names of those that failed. One that hangs is a defect. */
export const runAll = (
  operations: ReadonlyArray<Operation>,
  before: Effect.Effect<unknown> = Effect.void
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(
    Effect.forEach(operations, ({ name, run, seed }) =>
      Effect.gen(function* () {
        yield* Effect.exit(Effect.scoped(seed))
        yield* before
        const exit = yield* Effect.exit(Effect.timeoutOption(Effect.scoped(run), "20 seconds"))
        if (exit._tag === "Success" && Option.isNone(exit.value)) return yield* Effect.dieMessage(`${name} hangs`)
        return exit._tag === "Failure" ? Option.some(name) : Option.none()
      })
    ),
    Array.getSomes
  )
