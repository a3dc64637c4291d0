import { assert, describe, it } from "@effect/vitest"
import { Cache, ChatMessage, ConversationMemory, SessionStore } from "@underlay/core"
import { RedisCache, RedisConversationMemory, RedisSessionStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer, Logger, Metric, Option, Schema, Tracer } from "effect"
import { client, server } from "./support.ts"

/** Counts whatever is emitted: spans, log lines of every level, metrics. */
const emitted = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const spans: Array<string> = []
    const lines: Array<unknown> = []
    const tracer = yield* Effect.tracer
    const recording = Tracer.make({
      context: tracer.context,
      span: (...args) => {
        spans.push(args[0])
        return tracer.span(...args)
      }
    })
    const logger = Logger.make(({ message }) => {
      lines.push(message)
    })
    // the counters of fibers are the runtime's own
    const metrics = Effect.map(Metric.snapshot, (all) =>
      all.filter((pair) => !pair.metricKey.name.startsWith("effect_fiber_")).map((pair) => JSON.stringify(pair))
    )
    const before = yield* metrics
    yield* effect.pipe(
      Effect.withTracer(recording),
      Effect.provide(
        Layer.merge(Logger.replace(Logger.defaultLogger, logger), Layer.succeedContext(yield* Effect.context<never>()))
      )
    )
    return { spans, lines, metrics: (yield* metrics).filter((metric) => !before.includes(metric)) }
  })

const nothing = { spans: [], lines: [], metrics: [] }

describe.skipIf(Need.missing("redis-server"))(Need.title("the internal plane is silent", "redis-server"), () => {
  it.scoped("a thousand session operations on Redis make no span, no log line and no metric", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      const emissions = yield* emitted(
        Effect.forEach(
          Array.from({ length: 100 }, (_, index) => `session-${index}`),
          (id) =>
            Effect.gen(function* () {
              // ten operations
              yield* store.set(id, { user_id: "one", n: 0 })
              yield* store.get(id)
              yield* store.getAndTouch(id)
              yield* store.exists(id)
              yield* store.extendTtl(id)
              yield* store.update(id, (session) => ({ ...session, n: 1 }))
              const rotated = yield* store.rotate(id)
              yield* store.create(id, { user_id: "two" })
              yield* store.delete(Option.getOrThrow(rotated))
              yield* store.sessionsOf("two")
            }),
          { concurrency: 20 }
        )
      )
      assert.deepStrictEqual(emissions, nothing)
    }).pipe(Effect.provide(RedisSessionStore.layer().pipe(Layer.provide(client()), Layer.provide(server()))))
  )

  it.scoped("nor do a thousand operations of conversation memory and cache", () =>
    Effect.gen(function* () {
      const memory = yield* ConversationMemory.ConversationMemory
      const cache = yield* Cache.make({ namespace: "silent", schema: Schema.Number })
      const emissions = yield* emitted(
        Effect.forEach(
          Array.from({ length: 100 }, (_, index) => `conversation-${index}`),
          (id) =>
            Effect.gen(function* () {
              yield* memory.append(id, [ChatMessage.user("hello"), ChatMessage.assistant("good day")])
              yield* memory.recent(id)
              yield* memory.setSummary(id, "greetings")
              yield* memory.summary(id)
              yield* memory.trim(id, { maxTokens: 5 })
              yield* cache.set(id, 1)
              yield* cache.get(id)
              yield* cache.getOrElse(`${id}-2`, Effect.succeed(2))
              yield* cache.getMany([id, `${id}-2`])
              yield* cache.delete(id)
            }),
          { concurrency: 20 }
        )
      )
      assert.deepStrictEqual(emissions, nothing)
    }).pipe(
      Effect.provide(
        Layer.merge(RedisConversationMemory.layer(), RedisCache.layer).pipe(
          Layer.provide(client()),
          Layer.provide(server())
        )
      )
    )
  )

  it.effect("the recorder sees what is emitted", () =>
    Effect.gen(function* () {
      const counter = Metric.counter("silence_test")
      const seen = yield* emitted(
        Effect.log("a line").pipe(Effect.zipRight(Metric.increment(counter)), Effect.withSpan("a span"))
      )
      assert.deepStrictEqual(seen.spans, ["a span"])
      assert.deepStrictEqual(seen.lines, [["a line"]])
      assert.lengthOf(seen.metrics, 1)
    })
  )
})
