import { NodeRuntime } from "@effect/platform-node"
import { ChatMessage, ConversationMemory, SessionStore } from "@underlay/core"
import { Llm, LlmTest } from "@underlay/llm"
import { Console, Effect, Layer } from "effect"

const reply = (session: string, text: string) =>
  Effect.gen(function* () {
    const sessions = yield* SessionStore.SessionStore
    const memory = yield* ConversationMemory.ConversationMemory
    const llm = yield* Llm.Llm

    yield* sessions.getAndTouch(session)
    yield* memory.append(session, [ChatMessage.user(text)])
    const { text: answer } = yield* llm.generate({ messages: yield* memory.recent(session, 20) })
    yield* memory.append(session, [ChatMessage.assistant(answer)])
    return answer
  })

// For a test. In production: RedisSessionStore.layer(), RedisConversationMemory.layer(), OpenAi.layerConfig().
const Test = Layer.mergeAll(
  SessionStore.layerMemory(),
  ConversationMemory.layerMemory(),
  LlmTest.layerScripted({ replies: ["Good morning, Ada."] })
)

reply("ada", "good morning").pipe(Effect.flatMap(Console.log), Effect.provide(Test), NodeRuntime.runMain)
