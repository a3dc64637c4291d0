// A program as a user of the published packages would write it: every package is imported by its root and by a
// subpath, type-checked with skipLibCheck off, and run.
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
import { Console, Effect, Layer, Schema } from "effect"

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
  const right = match?.id === "redis" && row?.answer === 42 && reply.text === "hi" && usable
  if (!right) return yield* Effect.dieMessage("a package does not do what its source does")
  yield* Console.log(`The packed packages work: sessions, cache, vectors, SQL, a model; Redis: ${refused._tag}`)
})

const Database = PGlite.layer()

program.pipe(
  Effect.provide(
    Layer.mergeAll(
      SessionStore.layerMemory(),
      Cache.layerMemory(),
      Embeddings.layerLocal(),
      PgVector.layer.pipe(Layer.provideMerge(Database)),
      LlmTest.layerScripted({ replies: ["hi"] })
    )
  ),
  NodeRuntime.runMain
)
