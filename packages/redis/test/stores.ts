/** The ports of core on a client of Redis, all of them. */
import {
  RedisCache,
  RedisCaches,
  RedisCircuitControl,
  RedisConversationMemory,
  RedisCounters,
  RedisEventBus,
  RedisLock,
  RedisOneTimeStore,
  RedisRateLimiter,
  RedisSessionStore
} from "@underlay/redis"
import { Layer } from "effect"

export const layer = Layer.mergeAll(
  RedisSessionStore.layer(),
  RedisConversationMemory.layer(),
  RedisCache.layer,
  RedisCaches.layer,
  RedisLock.layer(),
  RedisRateLimiter.layer,
  RedisCounters.layer,
  RedisEventBus.layer,
  RedisOneTimeStore.layer,
  RedisCircuitControl.layer()
)
