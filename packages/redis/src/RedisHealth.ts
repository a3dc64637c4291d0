/**
 * The health of a Redis client: a ping, answered at once while the server is known to be away.
 *
 * @since 0.1.0
 */
import * as Health from "@underlay/core/operations/Health"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RedisClient from "./RedisClient.ts"

/**
 * Asks the server. Never fails: what went wrong is in the result. While the server is away the answer comes without
 * asking; otherwise within the command timeout.
 *
 * @since 0.1.0
 * @category combinators
 */
export const check = (client: RedisClient.Service): Effect.Effect<Health.CheckResult> =>
  Effect.gen(function* () {
    const started = yield* Clock.currentTimeMillis
    const answer = yield* Effect.either(client.send("PING"))
    const { inFlight, state } = yield* client.stats
    if (answer._tag === "Left") {
      return Health.down({ state, reason: answer.left.reason, error: answer.left.message })
    }
    return Health.up({ state, inFlight, latencyMs: (yield* Clock.currentTimeMillis) - started })
  })

/**
 * Registers the check as `redis` with the application's `Health`, if there is one.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<never, never, RedisClient.RedisClient> = Layer.scopedDiscard(
  Effect.flatMap(RedisClient.RedisClient, (client) => Health.register({ name: "redis", check: check(client) }))
)
