/** What the tests of the client share: a client in a scope of its own, and waiting for what a server does in its time. */
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { RedisClient, RedisDriver } from "@underlay/redis"
import type { RedisError } from "@underlay/redis/RedisError"
import { type ConfigError, Context, Effect, Either, Exit, Fiber, Layer, Scope } from "effect"
import * as Ioredis5 from "ioredis"
import * as Ioredis6 from "ioredis6"

export { pause, timed } from "./support.ts"

import { pause, timed } from "./support.ts"

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

/** What is in use when all garbage is gone. */
export const heap = (): number => {
  V8.setFlagsFromString("--expose-gc")
  const collect: unknown = Vm.runInNewContext("gc")
  if (typeof collect === "function") collect()
  const { external, heapUsed } = process.memoryUsage()
  return external + heapUsed
}

/** What came of the calls of a load. */
export interface Report {
  readonly done: number
  /** How many failed without being sent, or were refused. */
  readonly failed: number
  readonly unknown: number
  /** How many took longer than 550 ms, beyond what a timer of the same machine was late meanwhile. */
  readonly late: number
  readonly worst: number
}

/**
 * Calls by some fibers at once, again and again until they are told to stop, each with its time. Two cores are shared with
 * much else: how late a timer is that runs beside them, these may be, too.
 */
export const watchdog = (
  redis: RedisClient.Service,
  command: (n: number) => RedisClient.Command
): Effect.Effect<{ readonly stop: Effect.Effect<void>; readonly report: Effect.Effect<Report> }, never, Scope.Scope> =>
  Effect.gen(function* () {
    const report = { done: 0, failed: 0, unknown: 0, late: 0, worst: 0 }
    let over = false
    let n = 0
    /** How late timers were, by when. */
    const lateness: Array<{ readonly at: number; readonly late: number }> = []
    const timer = Effect.gen(function* () {
      while (!over) {
        const [, , took] = yield* timed(pause(10))
        if (took > 20) lateness.push({ at: performance.now(), late: took - 10 })
      }
    })
    const caller = Effect.gen(function* () {
      while (!over) {
        const [result, , took] = yield* timed(Effect.either(redis.send(...command(n++))))
        const end = performance.now()
        const slack = lateness.filter(({ at }) => at > end - took - 50).reduce((all, { late }) => all + late, 0)
        report.worst = Math.max(report.worst, took - slack)
        if (took - slack > 550) report.late++
        if (Either.isRight(result)) report.done++
        else if (result.left.outcome === "unknown") report.unknown++
        else report.failed++
        yield* pause(Either.isRight(result) ? 1 : 10)
      }
    })
    const fiber = yield* Effect.forkScoped(
      Effect.all([timer, ...Array.from({ length: 20 }, () => caller)], { concurrency: "unbounded" })
    )
    const stop = Effect.suspend(() => {
      over = true
      return Effect.asVoid(Fiber.join(fiber))
    })
    return { stop, report: Effect.sync(() => report) }
  })

/** Waits until something is so, by asking again and again; dies where it does not become so. */
export const until = <E, R>(condition: Effect.Effect<boolean, E, R>, millis = 30_000): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    const end = performance.now() + millis
    const ask: Effect.Effect<void, E, R> = Effect.flatMap(condition, (is) => {
      if (is) return Effect.void
      if (performance.now() > end) return Effect.die(new Error(`it did not become so within ${millis} ms`))
      return Effect.zipRight(pause(5), ask)
    })
    return ask
  })
