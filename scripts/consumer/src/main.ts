// A program as a user of the published packages would write it: every package is imported by its root and by a
// subpath, type-checked with skipLibCheck off, and run.
import { inspect, isDeepStrictEqual } from "node:util"
import { NodeRuntime } from "@effect/platform-node"
import { SqlClient } from "@effect/sql"
import { PGlite, PgVector } from "@underlay/connections"
import { Cache, ChatMessage, Embeddings, SessionStore, VectorStore } from "@underlay/core"
import * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import * as SessionTtl from "@underlay/core/state/SessionTtl"
import { Suite } from "@underlay/core/testing"
import { Llm, LlmTest } from "@underlay/llm"
import * as OpenAi from "@underlay/llm/OpenAi"
import { RedisClient } from "@underlay/redis"
import * as RedisSessionStore from "@underlay/redis/RedisSessionStore"
import { Config, Console, Effect, Layer, Logger, LogLevel, Option, Schema } from "effect"
import * as Connected from "./connections.js"
import * as Exports from "./exports.js"
import * as Models from "./llm.js"
import * as State from "./state.js"

/** The effect gives this, or it is a defect that says what it gave. */
const same = <A, E, R>(effect: Effect.Effect<A, E, R>, expected: A) =>
  Effect.flatMap(effect, (given) =>
    isDeepStrictEqual(given, expected)
      ? Effect.void
      : Effect.dieMessage(`${inspect(given)} where ${inspect(expected)} is right`)
  )

const program = Effect.gen(function* () {
  const sessions = yield* SessionStore.SessionStore
  yield* sessions.create("a", { user_id: "ada" })
  const numbers = yield* Cache.make({ namespace: "numbers", schema: Schema.Number })
  const one = yield* numbers.getOrElse("one", Effect.succeed(1))

  const embeddings = yield* Embeddings.Embeddings
  const vectors = yield* VectorStore.VectorStore
  yield* vectors.ensureCollection("notes", { dimensions: embeddings.dimensions, metric: "cosine" })
  const vector = yield* embeddings.embed("redis refuses connections")
  yield* vectors.upsert("notes", [{ id: "redis", vector, metadata: { team: "platform" } }])
  const [match] = yield* vectors.query("notes", { vector, limit: 1 })

  const sql = yield* SqlClient.SqlClient
  const [row] = yield* sql<{ readonly answer: number }>`select 41 + ${one}::int as answer`
  const reply = yield* Llm.generate({ messages: [ChatMessage.user("hello")] })

  // A server that is not there is a typed failure of the layer, in time.
  const refused = yield* Layer.build(
    RedisSessionStore.layer().pipe(Layer.provide(RedisClient.layer({ host: "127.0.0.1", port: 1 })))
  ).pipe(Effect.scoped, Effect.flip)

  const usable = [CircuitBreaker.make, SessionTtl.make, OpenAi.layer, Suite].every((value) => value !== undefined)
  const missing = yield* Exports.problems
  if (missing.length > 0) return yield* Effect.dieMessage(missing.join("; "))

  yield* same(Models.program, Models.expected)
  yield* same(Connected.program, Connected.expected)

  // The same program in memory and, if there is one, on a server.
  yield* same(State.program.pipe(Effect.scoped, Effect.provide(State.inMemory)), State.expected)
  const hasServer = Option.isSome(yield* Config.option(Config.string("REDIS_URL")))
  if (hasServer) {
    yield* same(State.program.pipe(Effect.scoped, Effect.provide(State.onRedis)), State.expected)
    yield* same(State.redisProgram.pipe(Effect.provide(State.onRedis)), State.redisExpected)
  }
  const { sentinels } = yield* State.settings

  const right = match?.id === "redis" && row?.answer === 42 && reply.text === "hi" && usable && sentinels !== undefined
  if (!right) return yield* Effect.dieMessage("a package does not do what its source does")
  yield* Console.log(
    `The packed packages work: sessions, cache, vectors, SQL, models; locks, limits, events and caches ${
      hasServer ? "in memory and on Redis" : "in memory"
    }; without a server: ${refused._tag}`
  )
})

const Database = PGlite.layer()

program.pipe(
  Effect.provide(
    Layer.mergeAll(
      SessionStore.layerMemory(),
      Cache.layerMemory(),
      Embeddings.layerLocal(),
      PgVector.layerSql().pipe(Layer.provideMerge(Database)),
      LlmTest.layerScripted({ replies: ["hi"] })
    )
  ),
  // session events are log lines of Info
  Logger.withMinimumLogLevel(LogLevel.Warning),
  NodeRuntime.runMain
)
