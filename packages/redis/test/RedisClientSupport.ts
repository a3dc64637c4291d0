/** What the tests of the client share: a client in a scope of its own, and waiting for what a server does in its time. */
import { RedisClient, RedisDriver } from "@underlay/redis"
import type { RedisError } from "@underlay/redis/RedisError"
import { type ConfigError, Context, Effect, Exit, Layer, Scope } from "effect"
import * as Ioredis5 from "ioredis"
import * as Ioredis6 from "ioredis6"

export { pause, timed } from "./support.ts"

import { pause } from "./support.ts"

/** Every driver that the client is to work with. */
export const drivers: ReadonlyArray<readonly [name: string, driver: RedisDriver.RedisDriver]> = [
  ["ioredis 5.11", RedisDriver.fromIoredis(Ioredis5)],
  ["ioredis 6", RedisDriver.fromIoredis(Ioredis6)]
]

/** A client in a scope of its own, so that a test can release it when it likes. */
export const open = (
  options: RedisClient.Options
): Effect.Effect<
  { readonly redis: RedisClient.Service; readonly release: Effect.Effect<void> },
  RedisError | ConfigError.ConfigError,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
    const context = yield* Scope.extend(Layer.build(RedisClient.layer(options)), scope)
    return { redis: Context.get(context, RedisClient.RedisClient), release: Scope.close(scope, Exit.void) }
  })

/**
 * What an effect fails with. Where it does not fail the test does, without what it gave: a client or settings in place of
 * an error keep a test runner busy for minutes, which prints whatever hangs on them.
 */
export const failureOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, never, R> =>
  Effect.matchEffect(effect, {
    onFailure: Effect.succeed,
    onSuccess: () => Effect.die(new Error("it did not fail"))
  })

/** Waits until something is so, by asking again and again; dies where it does not become so. */
export const until = <E, R>(condition: Effect.Effect<boolean, E, R>, millis = 10_000): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    const end = performance.now() + millis
    const ask: Effect.Effect<void, E, R> = Effect.flatMap(condition, (is) => {
      if (is) return Effect.void
      if (performance.now() > end) return Effect.die(new Error(`it did not become so within ${millis} ms`))
      return Effect.zipRight(pause(5), ask)
    })
    return ask
  })
