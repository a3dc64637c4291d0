/**
 * The clients and stores that ours is measured beside, each as its documentation has it, on one server.
 */
import * as Persistence from "@effect/experimental/Persistence"
import * as RedisPersistence from "@effect/experimental/Persistence/Redis"
import { createKeyv } from "@keyv/redis"
import { BentoCache, bentostore } from "bentocache"
import { memoryDriver } from "bentocache/drivers/memory"
import { redisDriver } from "bentocache/drivers/redis"
import { createCache } from "cache-manager"
import { Cacheable } from "cacheable"
import { RedisStore } from "connect-redis"
import { Effect } from "effect"
import { Redis } from "ioredis"
import { Redis as Redis6 } from "ioredis6"
import { createClient } from "redis"

/** Where the server is. */
export interface Place {
  readonly host: string
  readonly port: number
}

/** A session of about 1 kB of JSON, with its owner, as it is after the first write. */
export const session = (worker: number) => ({
  user_id: `user-${worker}`,
  last_activity: "2026-01-01T10:00:00.000Z",
  name: "Ada Lovelace",
  roles: ["reader", "writer"],
  visits: 17,
  preferences: { language: "en", theme: "dark", pageSize: 50, sidebar: true },
  cart: Array.from({ length: 8 }, (_, index) => ({
    sku: `sku-${index}-${"0123456789".repeat(3)}`,
    amount: index + 1,
    price: 12.5 * (index + 1),
    note: "as it was agreed by telephone"
  }))
})

/** A session that belongs to nobody. */
export const strangers = (worker: number) => {
  const { user_id: _, ...rest } = session(worker)
  return rest
}

export const ttlMillis = 1_800_000

/** Nothing that happens to a connection is of interest here; without a listener it would end the process. */
const quiet = <A extends { on(event: "error", listener: (error: unknown) => void): unknown }>(emitter: A): A => {
  emitter.on("error", () => undefined)
  return emitter
}

export const ioredis5 = ({ host, port }: Place) => quiet(new Redis({ host, port }))
export const ioredis6 = ({ host, port }: Place) => quiet(new Redis6({ host, port }))

export const nodeRedis = async ({ host, port }: Place) => {
  const client = createClient({ socket: { host, port } })
  client.on("error", () => undefined)
  await client.connect()
  return client
}

export const connectRedis = (client: Awaited<ReturnType<typeof nodeRedis>>) =>
  new RedisStore({ client, prefix: "connect-redis:", ttl: ttlMillis / 1_000 })

const url = ({ host, port }: Place): string => `redis://${host}:${port}`

export const keyv = (place: Place) => quiet(createKeyv(url(place), { namespace: "keyv" }))

export const cacheManager = (place: Place) => createCache({ stores: [quiet(createKeyv(url(place)))], ttl: ttlMillis })

export const cacheable = (place: Place) =>
  quiet(new Cacheable({ secondary: quiet(createKeyv(url(place))), ttl: ttlMillis }))

/** Both tiers, as its documentation recommends; `far` has the second only. */
export const bento = ({ host, port }: Place) => {
  const redis = () => redisDriver({ connection: { host, port } })
  return new BentoCache({
    default: "both",
    ttl: ttlMillis,
    stores: {
      far: bentostore().useL2Layer(redis()),
      both: bentostore()
        .useL1Layer(memoryDriver({ maxItems: 10_000 }))
        .useL2Layer(redis())
    }
  })
}

/** The store below `Persistence`: texts by key, as JSON, without a schema. */
export const persistence = ({ host, port }: Place) =>
  Effect.flatMap(RedisPersistence.make({ host, port }), (backing) => backing.make("persistence"))

export { Persistence }
