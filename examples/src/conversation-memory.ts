/**
 * The memory of a conversation: what was said last, trimmed by tokens without tearing a tool's result from its call, and a
 * summary of what was trimmed. With `REDIS_URL` set it lives in Redis, else in this process.
 */
import { NodeRuntime } from "@effect/platform-node"
import { ChatMessage, ConversationMemory } from "@underlay/core"
import { RedisClient, RedisConversationMemory } from "@underlay/redis"
import { Config, Console, Effect, Layer, Option } from "effect"

const program = Effect.gen(function* () {
  const memory = yield* ConversationMemory.ConversationMemory
  const conversation = "examples-ada"
  yield* memory.clear(conversation)

  yield* memory.append(conversation, [
    ChatMessage.system("You help with Redis."),
    ChatMessage.user("Redis refuses connections. What do I look at first?"),
    ChatMessage.assistant("Whether it runs, and which address it listens on."),
    ChatMessage.user("It listens on 127.0.0.1 only.")
  ])
  const recent = yield* memory.recent(conversation, 2)
  yield* Console.log(`the last two: ${recent.map(ChatMessage.textOf).join(" | ")}`)

  // What does not fit is dropped from the front, system messages never; the summary stands for it.
  const { dropped, kept } = yield* memory.trim(conversation, { maxTokens: 30 })
  yield* memory.setSummary(conversation, "Ada's Redis refuses connections.")
  yield* Console.log(`kept ${kept.length}, dropped ${dropped.length}; the first is still from: ${kept[0]?.role}`)
  yield* Console.log(`summary: ${Option.getOrElse(yield* memory.summary(conversation), () => "none")}`)
  yield* Console.log(`forgotten: ${yield* memory.clear(conversation)}`)
})

const MemoryFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url)
      ? RedisConversationMemory.layer().pipe(Layer.provide(RedisClient.layerConfig()))
      : ConversationMemory.layerMemory()
  )
)

program.pipe(Effect.provide(MemoryFromEnvironment), NodeRuntime.runMain)
