import { describe, it } from "@effect/vitest"
import { Lock } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { RedisLock } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer } from "effect"
import { client, pause, server } from "./support.ts"

describe.skipIf(Need.missing("redis-server"))(Need.title("locks are silent", "redis-server"), () => {
  it.scopedLive(
    "taking, waiting, renewing, failing, being interrupted and losing make no span, no line, no metric",
    () =>
      Recording.assertSilent(
        Effect.gen(function* () {
          const lock = yield* Lock.Lock
          const options = { ttl: "120 millis" } as const
          yield* Effect.forEach(
            Array.from({ length: 200 }, (_, index) => index),
            (index) =>
              Effect.ignore(
                lock.withLock(`${index % 20}`, options)(index % 3 === 0 ? Effect.fail("no") : Effect.yieldNow())
              ),
            { concurrency: 40, discard: true }
          )
          const held = yield* lock.acquire("held", options)
          const waiter = yield* Effect.fork(lock.withReadLock("held", { fair: true })(pause(150)))
          yield* Effect.ignore(lock.withPermit("few", { permits: 1 })(Effect.timeout(pause(1_000), "50 millis")))
          yield* pause(200)
          yield* held.release
          yield* waiter
          yield* Effect.ignore(
            lock
              .withLock("late", { wait: 0 })(Effect.die("bug"))
              .pipe(Effect.catchAllDefect(() => Effect.void))
          )
        }).pipe(Effect.provide(RedisLock.layer().pipe(Layer.provide(client()), Layer.provide(server()))))
      )
  )
})
