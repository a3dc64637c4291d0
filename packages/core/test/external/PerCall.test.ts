import { HttpClientRequest } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Correlation, Deadline, ExternalHttp } from "@underlay/core"
import { Context, Deferred, Effect, FiberSet, Layer, Option, Queue, Stream } from "effect"
import * as Server from "./LoopbackServer.ts"

/** What a call sees of itself: its id, and the deadline that it was given (the smaller of that and the policy's own). */
interface Seen {
  readonly id: string | undefined
  readonly deadline: number
}

const look: Effect.Effect<Seen> = Effect.gen(function* () {
  return { id: Option.getOrUndefined(yield* Correlation.Current), deadline: yield* Deadline.Current }
})

/** A layer that many calls share, with a worker of its own and a driver that answers in callbacks. */
class Shared extends Context.Tag("test/Shared")<
  Shared,
  {
    readonly http: ExternalHttp.ExternalHttp
    /** Seen by the layer's own worker, which no call owns. */
    readonly worker: Effect.Effect<Seen>
    /** Seen in a callback of the driver, run in what the caller had at entry. */
    readonly callback: Effect.Effect<Seen>
  }
>() {}

const layer = (url: string) =>
  Layer.scoped(
    Shared,
    Effect.gen(function* () {
      const http = yield* ExternalHttp.make({ service: "shared", baseUrl: url, policy: { timeout: false } })
      const jobs = yield* Queue.unbounded<Deferred.Deferred<Seen>>()
      yield* Effect.forkScoped(
        Effect.forever(
          Effect.flatMap(Queue.take(jobs), (done) => Effect.flatMap(look, (seen) => Deferred.succeed(done, seen)))
        )
      )
      return {
        http,
        worker: Effect.gen(function* () {
          const done = yield* Deferred.make<Seen>()
          yield* Queue.offer(jobs, done)
          return yield* Deferred.await(done)
        }),
        callback: Effect.scoped(
          Effect.gen(function* () {
            const run = yield* FiberSet.makeRuntime<never>()
            const done = yield* Deferred.make<Seen>()
            yield* Effect.async<void>((resume) => {
              setImmediate(() => {
                run(Effect.flatMap(look, (seen) => Deferred.succeed(done, seen)))
                resume(Effect.void)
              })
            })
            return yield* Deferred.await(done)
          })
        )
      }
    })
  )

describe("per-call references through one shared layer", () => {
  it.scopedLive("each of 60 concurrent calls sees its own id and deadline, wherever its work runs", () =>
    Effect.gen(function* () {
      const server = yield* Server.make([Server.status(200, {}, "ok")])
      const program = Effect.gen(function* () {
        const shared = yield* Shared
        const now = Date.UTC(2100, 0, 1)
        const calls = Array.from({ length: 60 }, (_, n) => ({ id: `call-${n}`, deadline: now + n }))
        const results = yield* Effect.forEach(
          calls,
          (own) =>
            shared.http
              .call(
                "look",
                Effect.gen(function* () {
                  yield* Effect.yieldNow()
                  const direct = yield* look
                  const forked = yield* Effect.flatMap(Effect.forkDaemon(Effect.delay(look, "2 millis")), (fiber) =>
                    Effect.fromFiber(fiber)
                  )
                  const callback = yield* shared.callback
                  const worker = yield* shared.worker
                  const streamed = yield* Stream.runCollect(
                    shared.http.stream(
                      "inner",
                      Stream.flatMap(Stream.make(1), () => Stream.fromEffect(look), { concurrency: 2 })
                    )
                  )
                  yield* shared.http.client.execute(HttpClientRequest.get(`/${own.id}`))
                  return { direct, forked, callback, worker, streamed: Array.from(streamed) }
                })
              )
              .pipe(Deadline.at(own.deadline), Correlation.within(own.id)),
          { concurrency: "unbounded" }
        )
        results.forEach((result, n) => {
          const own: Seen = calls[n] ?? { id: "none", deadline: 0 }
          assert.deepStrictEqual(result.direct, own)
          assert.deepStrictEqual(result.forked, own)
          assert.deepStrictEqual(result.callback, own)
          assert.deepStrictEqual(result.streamed, [own])
        })
        return results.map((result) => result.worker)
      })
      // The layer is built under an id and a deadline of its own, as the first caller of a lazy layer would.
      const workers = yield* program.pipe(
        Effect.provide(layer(server.url)),
        Correlation.within("builder"),
        Deadline.at(Date.UTC(2101, 0, 1)),
        Effect.provide(NodeHttpClient.layerUndici)
      )
      // The worker belongs to the layer: it never sees what a call carries.
      assert.isTrue(workers.every((seen) => seen.id === "builder"))
      assert.strictEqual(server.asked.length, 60)
      for (const { headers, url } of server.asked) assert.strictEqual(`/${headers["x-correlation-id"]}`, url)
    })
  )

  it.effect("nothing is captured when the client is made", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const http = yield* ExternalHttp.make({ service: "shared" }).pipe(
          Correlation.within("builder"),
          Deadline.at(1),
          Effect.provide(NodeHttpClient.layerUndici)
        )
        assert.deepStrictEqual(yield* http.call("look", look), { id: undefined, deadline: 30_000 })
      })
    )
  )
})
