/** The ports with their suites: over this process, and over whatever Redis there is (one server, Sentinel, a Cluster). */
import {
  Cache,
  Caches,
  CircuitControl,
  ConversationMemory,
  Counters,
  EventBus,
  FallbackSessionStore,
  Lock,
  OneTimeStore,
  RateLimiter,
  ResilientSessionStore,
  SessionStore
} from "@underlay/core"
import {
  CacheSuite,
  CachesSuite,
  CircuitControlSuite,
  ConversationMemorySuite,
  CountersSuite,
  EventBusSuite,
  LockSuite,
  OneTimeStoreSuite,
  RateLimiterSuite,
  SessionStoreSuite,
  Suite
} from "@underlay/core/testing"
import {
  RedisCache,
  RedisCaches,
  RedisCircuitControl,
  RedisClient,
  RedisConversationMemory,
  RedisCounters,
  RedisEventBus,
  RedisLock,
  RedisOneTimeStore,
  RedisRateLimiter,
  RedisSessionStore,
  FallbackSessionStore as RedisWithFallback,
  ResilientSessionStore as RedisWithSecondAttempt
} from "@underlay/redis"
import { Clock, ConfigProvider, Context, Duration, Effect, Layer, type Scope, TestClock, TestContext } from "effect"
import { pause } from "../support.ts"

/** What keeps the data of a topology, for what a test does behind the backs of the adapters. */
export class Store extends Context.Tag("test/matrix/Store")<
  Store,
  {
    /** Runs a script on every node that has keys of its own, while no key is on its way. */
    readonly everywhere: (script: string, argument: number) => Effect.Effect<void, unknown>
  }
>() {}

/** The store that is one server, by a connection to it as its administrator. */
export const store = <E, R>(
  connect: Effect.Effect<
    { readonly call: (...parts: ReadonlyArray<string>) => Effect.Effect<unknown, unknown> },
    E,
    R | Scope.Scope
  >
): Layer.Layer<Store, E, Exclude<R, Scope.Scope>> =>
  Layer.scoped(
    Store,
    Effect.gen(function* () {
      const { call } = yield* connect
      const turn = yield* Effect.makeSemaphore(1)
      return {
        everywhere: (script, argument) =>
          Effect.asVoid(turn.withPermits(1)(call("EVAL", script, "0", String(argument))))
      }
    })
  )

/** The services of the ports. */
export type Ports =
  | Cache.Cache
  | CircuitControl.CircuitControl
  | ConversationMemory.ConversationMemory
  | Counters.Counters
  | EventBus.EventBus
  | Lock.Lock
  | OneTimeStore.OneTimeStore
  | RateLimiter.RateLimiter
  | SessionStore.SessionStore

/** A behaviour of a port, in time of its own: nothing is left to be given but the services. */
export interface Case<R> {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, R>
}

export interface Port {
  readonly name: string
  /** The suite of `@underlay/core/testing`. */
  readonly suite: string
  readonly memory: ReadonlyArray<Case<never>>
  readonly redis: ReadonlyArray<Case<Ports | RedisClient.RedisClient | Store>>
  /** It goes on while its server is away: its cases need not fail then. */
  readonly survives?: true
}

/** Runs all cases of a port on Redis, one by one. */
export const all = ({ redis }: Port): Effect.Effect<void, unknown, Ports | RedisClient.RedisClient | Store> =>
  Effect.forEach(redis, ({ run }) => run, { discard: true })

/** How long a case may take, in milliseconds. */
export const patience = 60_000

/** The ports over a client. */
export const redis = Layer.mergeAll(
  RedisCache.layer,
  RedisCircuitControl.layer(),
  RedisConversationMemory.layer(),
  RedisCounters.layer,
  RedisEventBus.layer,
  RedisLock.layer(),
  RedisOneTimeStore.layer,
  RedisRateLimiter.layer,
  RedisSessionStore.layer()
)

/** The ports in this process. */
export const memory = Layer.mergeAll(
  Cache.layerMemory(),
  CircuitControl.layerMemory,
  ConversationMemory.layerMemory(),
  Counters.layerMemory(),
  EventBus.layerMemory,
  Lock.layerMemory(),
  OneTimeStore.layerMemory(),
  RateLimiter.layerMemory(),
  SessionStore.layerMemory()
)

/**
 * Time that passes for what one port keeps, in keys that are its own by an expression of Lua: lives are shortened, and
 * what has its times within is made older.
 */
const age = (own: string) => `local past = tonumber(ARGV[1])
local function older(value, index)
  local numbers = {}
  for digits in string.gmatch(value, '%d+') do numbers[#numbers + 1] = digits end
  index = index or (#numbers == 4 and 2 or 1)
  numbers[index] = string.format('%.0f', numbers[index] - past * 1000)
  return table.concat(numbers, ' ')
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = (${own}) and redis.call('PTTL', key) or -1
  if left >= 0 and key == 'circuit-control' then
    local stored = redis.call('HGETALL', key)
    for index = 1, #stored, 2 do
      redis.call('HSET', key, stored[index], (string.gsub(stored[index + 1], '"until":(%d+)', function(ends)
        return '"until":' .. string.format('%.0f', ends - past)
      end)))
    end
  elseif left >= 0 and left <= past then
    redis.call('DEL', key)
  elseif left >= 0 then
    if ${limits} then
      if redis.call('TYPE', key).ok == 'list' then
        for index, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
          redis.call('LSET', key, index - 1, older(value, 1))
        end
      else
        redis.call('SET', key, older(redis.call('GET', key)), 'KEEPTTL')
      end
    end
    redis.call('PEXPIRE', key, left - past)
  end
end
return 0`

type Real = RedisClient.RedisClient | Store

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (client) => client.send(...command))

const put = (...command: RedisClient.Command): Effect.Effect<void, unknown, Real> => Effect.asVoid(send(...command))

/** The server's time in milliseconds. */
const now: Effect.Effect<number, unknown, Real> = Effect.map(send("TIME"), (reply) =>
  Array.isArray(reply) ? Number(reply[0]) * 1_000 + Math.floor(Number(reply[1]) / 1_000) : Number.NaN
)

const has = (part: string): string => `string.find(key, '${part}', 1, true)`

/** Limiters, and meters that the suite makes itself. */
const limits = "string.find(key, '^{?ratelimit:') or string.find(key, '^{suite%-')"

/** Confirmations and sign-ups, and entries that the suite makes itself. */
const oneTime = "string.find(key, '^{?confirmation:') or string.find(key, '^{?signup:') or string.find(key, '^{?test:')"

/** A registry of caches with this configuration. */
const configured = <E, R>(
  caches: Effect.Effect<typeof Caches.Caches.Service, E, R>,
  configuration: ReadonlyMap<string, string>
) => Effect.withConfigProvider(caches, ConfigProvider.fromMap(new Map(configuration)))

/** For the keys of a port. */
const serverTime = (own: string) => {
  const script = age(own)
  return (duration: Duration.Duration): Effect.Effect<void, unknown, Real> =>
    Effect.flatMap(Store, ({ everywhere }) => everywhere(script, Duration.toMillis(duration)))
}

/** For the keys of a port, and for those who use it and go by the clock of the test. */
const bothTimes = (own: string) => {
  const pass = serverTime(own)
  return (duration: Duration.Duration): Effect.Effect<void, unknown, Real> =>
    Effect.zipRight(pass(duration), TestClock.adjust(duration))
}

const realTime = (duration: Duration.Duration): Effect.Effect<void, unknown, Real> => pause(Duration.toMillis(duration))

/** A clock of its own for every case. */
const inTestTime = <R>(cases: ReadonlyArray<Case<R>>): ReadonlyArray<Case<R>> =>
  cases.map(({ name, run }) => ({ name, run: Effect.provide(run, TestContext.TestContext) }))

/** Memory that has nothing in it, and a clock of its own, for every case. */
const inMemory = (cases: ReadonlyArray<Case<Ports>>): ReadonlyArray<Case<never>> =>
  cases.map(({ name, run }) => ({
    name,
    run: Effect.provide(run, Layer.provideMerge(memory, TestContext.TestContext))
  }))

/** Cases of sessions, on a store that each of them has for itself. */
const onStoreOfItsOwn = <R>(
  suite: Suite.Suite<SessionStoreSuite.Capability, SessionStore.SessionStore | R>,
  make: Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError, R | Scope.Scope>,
  capabilities: ReadonlyArray<SessionStoreSuite.Capability>
): ReadonlyArray<Case<R>> =>
  Suite.applicable(suite, capabilities).map(({ name, run }) => ({
    name,
    run: Effect.scoped(Effect.provideServiceEffect(run, SessionStore.SessionStore, make)) as Effect.Effect<
      void,
      unknown,
      R
    >
  }))

type MakeSessions<R> = (
  options?: SessionStore.Options
) => Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError, R | Scope.Scope>

/** Sessions in memory, with something round them. */
const sessionsInMemory = (make: MakeSessions<never>): ReadonlyArray<Case<never>> =>
  inMemory(onStoreOfItsOwn(SessionStoreSuite.make({ advance: TestClock.adjust, store: make }), make(), ["options"]))

/** Sessions on Redis, with something round them that goes by the machine's clock: it waits for what really happens. */
const sessionsOnRedis = (
  make: (
    client: RedisClient.Service,
    options?: SessionStore.Options
  ) => Effect.Effect<SessionStore.Service, SessionStore.SessionStoreError, Scope.Scope>
): ReadonlyArray<Case<Real>> => {
  const store: MakeSessions<RedisClient.RedisClient> = (options) =>
    Effect.flatMap(RedisClient.RedisClient, (client) => make(client, options))
  const suite = SessionStoreSuite.make<Real>({
    advance: serverTime(has("session")),
    plant: (id, text) => put("SET", `session:${id}`, text),
    store,
    now
  })
  return onStoreOfItsOwn(suite, store(), ["plant", "options"])
}

const memoryStore = (options: SessionStore.Options = {}) =>
  Effect.map(Layer.build(SessionStore.layerMemory(options)), Context.get(SessionStore.SessionStore))

/** How much a server's clock may go on by itself while a case runs. */
const slack = "10 seconds"

/** Every port. */
export const ports: ReadonlyArray<Port> = [
  {
    name: "SessionStore",
    suite: "SessionStoreSuite",
    memory: inMemory(
      Suite.applicable(
        SessionStoreSuite.make({
          advance: TestClock.adjust,
          store: (options) =>
            Effect.map(Layer.build(SessionStore.layerMemory(options)), Context.get(SessionStore.SessionStore))
        }),
        ["options"]
      )
    ),
    redis: inTestTime(
      Suite.applicable(
        SessionStoreSuite.make({
          advance: serverTime(has("session")),
          plant: (id, text) => put("SET", `session:${id}`, text),
          store: (options) =>
            Effect.flatMap(RedisClient.RedisClient, (client) => RedisSessionStore.make(client, options)),
          now
        }),
        ["plant", "options"]
      )
    )
  },
  {
    name: "ResilientSessionStore",
    suite: "SessionStoreSuite",
    memory: sessionsInMemory((options) =>
      Effect.flatMap(memoryStore(options), (store) => ResilientSessionStore.make(store))
    ),
    redis: sessionsOnRedis((client, options) => RedisWithSecondAttempt.make(client, options))
  },
  {
    name: "FallbackSessionStore",
    suite: "SessionStoreSuite",
    survives: true,
    memory: sessionsInMemory((options) =>
      Effect.flatMap(memoryStore(options), (store) =>
        Effect.map(FallbackSessionStore.make(store, options), (fallback) => fallback.store)
      )
    ),
    redis: sessionsOnRedis((client, options) =>
      Effect.map(RedisWithFallback.make(client, options), (fallback) => fallback.store)
    )
  },
  {
    name: "Cache",
    suite: "CacheSuite",
    memory: inMemory(
      Suite.applicable(CacheSuite.make({ advance: TestClock.adjust }), ["leases", "stamps", "invalidations", "counts"])
    ),
    redis: inTestTime(
      Suite.applicable(CacheSuite.make({ advance: bothTimes(has("cache:")) }), [
        "leases",
        "stamps",
        "invalidations",
        "counts"
      ])
    )
  },
  {
    name: "ConversationMemory",
    suite: "ConversationMemorySuite",
    memory: inMemory(Suite.applicable(ConversationMemorySuite.make({ advance: TestClock.adjust }), [])),
    redis: inTestTime(
      Suite.applicable(
        ConversationMemorySuite.make({
          advance: serverTime(has("conversation:")),
          plant: (id, text) => put("RPUSH", `conversation:${id}`, text)
        }),
        ["plant"]
      )
    )
  },
  {
    name: "Lock",
    suite: "LockSuite",
    memory: inMemory(Suite.applicable(LockSuite.make({ advance: TestClock.adjust }), [])),
    // holders and server go by clocks of their own: time is let pass
    redis: Suite.applicable(LockSuite.make({ advance: realTime, pace: 5, steal: (key) => put("DEL", `lock:${key}`) }), [
      "steal"
    ])
  },
  {
    name: "RateLimiter",
    suite: "RateLimiterSuite",
    memory: inMemory(Suite.applicable(RateLimiterSuite.make({ advance: TestClock.adjust }), [])),
    redis: inTestTime(Suite.applicable(RateLimiterSuite.make({ advance: serverTime(limits), ages: true, slack }), []))
  },
  {
    name: "Counters",
    suite: "CountersSuite",
    memory: inMemory(
      Suite.applicable(CountersSuite.make({ advance: TestClock.adjust, now: Clock.currentTimeMillis }), [])
    ),
    redis: inTestTime(
      Suite.applicable(
        CountersSuite.make({
          advance: serverTime(has("counter:")),
          now,
          slack,
          plant: (key, text) => put("SET", `counter:${key}`, text)
        }),
        ["plant"]
      )
    )
  },
  {
    name: "EventBus",
    suite: "EventBusSuite",
    memory: inMemory(
      Suite.applicable(EventBusSuite.make({ advance: TestClock.adjust, settle: Effect.yieldNow() }), [])
    ),
    redis: inTestTime(
      Suite.applicable(
        EventBusSuite.make({
          advance: bothTimes(has("events")),
          settle: pause(5),
          plant: (topic, text) => put("XADD", `events:${topic.name}:0`, "*", "data", text)
        }),
        ["plant"]
      )
    )
  },
  {
    name: "CircuitControl",
    suite: "CircuitControlSuite",
    memory: inMemory(Suite.applicable(CircuitControlSuite.make({ advance: TestClock.adjust }), ["tells"])),
    redis: inTestTime(
      Suite.applicable(CircuitControlSuite.make({ advance: serverTime(has("circuit-control")) }), ["tells"])
    )
  },
  {
    name: "OneTimeStore",
    suite: "OneTimeStoreSuite",
    memory: inMemory(Suite.applicable(OneTimeStoreSuite.make({ advance: TestClock.adjust }), [])),
    redis: inTestTime(
      Suite.applicable(
        OneTimeStoreSuite.make({
          advance: serverTime(oneTime),
          slack,
          plant: (key) => put("SET", key, "no entry")
        }),
        ["plant"]
      )
    )
  },
  {
    name: "Caches",
    suite: "CachesSuite",
    memory: inMemory(
      Suite.applicable(
        CachesSuite.make({
          kind: "memory",
          advance: TestClock.adjust,
          caches: (configuration) => configured(Caches.make(), configuration)
        }),
        ["oneTime", "counts"]
      )
    ),
    redis: inTestTime(
      Suite.applicable(
        CachesSuite.make({
          kind: "redis",
          advance: bothTimes(`${has("cache:")} or ${oneTime}`),
          caches: (configuration) => configured(Caches.make([RedisCaches.kind]), configuration)
        }),
        ["oneTime", "counts"]
      )
    )
  }
]
