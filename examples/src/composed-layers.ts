/**
 * One program, two sets of layers: PostgreSQL in this process with real vector search and a model for production, memory
 * and a script for a test. The program asks for ports and does not know which it has.
 */
import { NodeRuntime } from "@effect/platform-node"
import { PGlite, PgVector } from "@underlay/connections"
import { ChatMessage, ConversationMemory, Embeddings, SessionStore, VectorStore } from "@underlay/core"
import { Llm, LlmTest } from "@underlay/llm"
import { Console, Effect, Layer } from "effect"

const notes = {
  redis: "Redis refuses connections: see whether it runs and which address it listens on.",
  disk: "The disk is full: find the largest files and rotate the logs."
}

/** Finds the note that fits, asks the model with it, and remembers what was said. */
const ask = (session: string, question: string) =>
  Effect.gen(function* () {
    const sessions = yield* SessionStore.SessionStore
    const memory = yield* ConversationMemory.ConversationMemory
    const embeddings = yield* Embeddings.Embeddings
    const vectors = yield* VectorStore.VectorStore
    const llm = yield* Llm.Llm

    yield* sessions.create(session, { user_id: "ada" })
    yield* vectors.ensureCollection("notes", { dimensions: embeddings.dimensions, metric: "cosine" })
    const [texts, ids] = [Object.values(notes), Object.keys(notes)]
    const embedded = yield* embeddings.embedMany(texts)
    yield* vectors.upsert(
      "notes",
      ids.map((id, i) => ({ id, vector: embedded[i] ?? [], document: texts[i] ?? "" }))
    )

    const vector = yield* embeddings.embed(question)
    const [best] = yield* vectors.query("notes", { vector, limit: 1 })
    const messages = [
      ChatMessage.system(`Answer from this note: ${best?.document ?? "none"}`),
      ChatMessage.user(question)
    ]
    const answer = yield* llm.generate({ messages })
    yield* memory.append(session, [ChatMessage.user(question), ChatMessage.assistant(answer.text)])
    return `${answer.text} [${best?.id ?? "none"}, ${(yield* memory.recent(session)).length} messages kept]`
  })

// In production `OpenAi.layerConfig()` stands where the scripted model stands here, and `RedisSessionStore.layer()` and
// `RedisConversationMemory.layer()` where the memory layers do.
const Model = LlmTest.layerScripted({ replies: ["See whether it runs."] })
const State = Layer.merge(SessionStore.layerMemory(), ConversationMemory.layerMemory())

const Production = Layer.mergeAll(
  State,
  Model,
  Embeddings.layerLocal(),
  PgVector.layerSql().pipe(Layer.provide(PGlite.layer()))
)

const Test = Layer.mergeAll(State, Model, Embeddings.layerLocal(), VectorStore.layerMemory)

const program = Effect.gen(function* () {
  const question = "why cant i conect to redis"
  const real = yield* ask("a", question).pipe(Effect.provide(Production))
  yield* Console.log(`with the production layers: ${real}`)
  const swapped = yield* ask("a", question).pipe(Effect.provide(Test))
  yield* Console.log(`with the test layers:       ${swapped}`)
  yield* Console.log(real === swapped ? "both gave the same answer" : "they gave different answers")
})

NodeRuntime.runMain(program)
