/** The state ports with their suites, to be run on whatever Redis a test has: one server, Sentinel, a Cluster. */

import type { Cache, ConversationMemory, SessionStore } from "@underlay/core"
import { CacheSuite, ConversationMemorySuite, SessionStoreSuite, Suite } from "@underlay/core/testing"
import { RedisCache, RedisClient, RedisConversationMemory, RedisSessionStore } from "@underlay/redis"
import { Cause, Chunk, type Duration, Effect, type Exit, Layer, TestClock } from "effect"

/** What the suites need. */
export type Ports =
  | RedisClient.RedisClient
  | SessionStore.SessionStore
  | Cache.Cache
  | ConversationMemory.ConversationMemory

/** The ports over a client. */
export const layer = Layer.mergeAll(RedisSessionStore.layer(), RedisConversationMemory.layer(), RedisCache.layer)

export interface Port<R> {
  readonly name: string
  readonly cases: ReadonlyArray<{ readonly name: string; readonly run: Effect.Effect<void, unknown, Ports | R> }>
}

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

/** The server's time in milliseconds. */
const now = Effect.map(send("TIME"), (reply) =>
  Array.isArray(reply) ? Number(reply[0]) * 1_000 + Math.floor(Number(reply[1]) / 1_000) : Number.NaN
)

/** The suites. `age` lets time pass for the keys of the server. */
export const ports = <R = never>(
  age: (duration: Duration.Duration) => Effect.Effect<unknown, unknown, RedisClient.RedisClient | R>
): ReadonlyArray<Port<R>> => {
  const advance = (duration: Duration.Duration) => Effect.asVoid(age(duration))
  return [
    {
      name: "SessionStore",
      cases: Suite.applicable(
        SessionStoreSuite.make({
          advance,
          plant: (id, text) => send("SET", `session:${id}`, text),
          store: (options) =>
            Effect.flatMap(RedisClient.RedisClient, (redis) => RedisSessionStore.make(redis, options)),
          now
        }),
        ["plant", "options"]
      )
    },
    {
      name: "Cache",
      // the handles of a cache go by the clock of the test, the keys by the server's
      cases: Suite.applicable(
        CacheSuite.make({ advance: (duration) => Effect.zipRight(advance(duration), TestClock.adjust(duration)) }),
        ["leases", "stamps", "invalidations"]
      )
    },
    {
      name: "ConversationMemory",
      cases: Suite.applicable(
        ConversationMemorySuite.make({
          advance,
          plant: (id, text) => send("RPUSH", `conversation:${id}`, text)
        }),
        ["plant"]
      )
    }
  ]
}

/**
 * What a case came to that ran while its server died: it passed; or a call of it failed as the port says, and the case
 * failed with that or because it had expected something else. Anything more is a fault: a defect, or an error of a port
 * that does not speak of an outage.
 */
export const outcome = (
  exit: Exit.Exit<void, unknown>
): "passed" | "failed by the outage" | { readonly fault: string } => {
  if (exit._tag === "Success") return "passed"
  const failures = Chunk.toReadonlyArray(Cause.failures(exit.cause))
  return Chunk.isEmpty(Cause.defects(exit.cause)) && failures.length > 0 && !failures.some(isFault)
    ? "failed by the outage"
    : { fault: Cause.pretty(exit.cause) }
}

const isFault = (failure: unknown): boolean =>
  typeof failure === "object" &&
  failure !== null &&
  "reason" in failure &&
  !/^(?:Unavailable|Timeout|NotReady|Overloaded)$/.test(String(failure.reason))
