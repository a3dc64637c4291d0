/**
 * A language model behind the `Llm` tag: whole answers, streams and values by schema. `LLM_PROVIDER` (`openai`, `azure`,
 * `anthropic`, `google`, `groq`, `huggingface`, `ollama`, `replicate`) with its key and its model (`ANTHROPIC_API_KEY`,
 * `ANTHROPIC_MODEL`, …) chooses a real one; without it a scripted model answers, so that the program runs anywhere.
 */
import { NodeRuntime } from "@effect/platform-node"
import { ChatMessage, HttpTransport } from "@underlay/core"
import {
  Anthropic,
  AzureOpenAi,
  Google,
  Groq,
  HuggingFace,
  Llm,
  LlmTest,
  Ollama,
  OpenAi,
  Replicate
} from "@underlay/llm"
import { Config, ConfigProvider, Console, Effect, Layer, Option, Schema, Stream } from "effect"

const Verdict = Schema.Struct({ severity: Schema.Literal("low", "high"), reason: Schema.String })

const program = Effect.gen(function* () {
  const llm = yield* Llm.Llm
  yield* Console.log(`${llm.provider} ${llm.model}`)

  const question = ChatMessage.user("In one sentence: why does Redis refuse connections?")
  const answer = yield* llm.generate({ messages: [question] })
  yield* Console.log(`${answer.text} (${answer.finish})`)

  // The parts come as the model writes them; the last one tells how it ended and what it cost.
  yield* llm
    .stream({ messages: [question] })
    .pipe(
      Stream.runForEach((part) =>
        part.type === "text-delta"
          ? Effect.sync(() => process.stdout.write(part.text))
          : part.type === "finish"
            ? Console.log(` (${part.finish})`)
            : Effect.void
      )
    )

  const verdict = yield* llm.generateObject(Verdict, {
    messages: [ChatMessage.user("Every login fails since the password was rotated. How severe is it?")]
  })
  yield* Console.log(`${verdict.value.severity}: ${verdict.value.reason}`)
})

const Scripted = LlmTest.layerScripted({
  replies: [
    "Because nothing listens on that address and port.",
    "Because nothing listens there.",
    '{"severity":"high","reason":"nobody can log in"}'
  ]
})

const providers = {
  openai: OpenAi.layerConfig(),
  azure: AzureOpenAi.layerConfig(),
  anthropic: Anthropic.layerConfig(),
  google: Google.layerConfig(),
  groq: Groq.layerConfig(),
  huggingface: HuggingFace.layerConfig(),
  ollama: Ollama.layerConfig(),
  replicate: Replicate.layerConfig()
}

// A setting `openai.apiKey` is OPENAI_API_KEY in the environment.
const Environment = Layer.setConfigProvider(ConfigProvider.constantCase(ConfigProvider.fromEnv()))

const names = ["openai", "azure", "anthropic", "google", "groq", "huggingface", "ollama", "replicate"] as const

const ModelFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.literal(...names)("LLM_PROVIDER")), (name) =>
    Option.isNone(name)
      ? Scripted
      : providers[name.value].pipe(Layer.provide([HttpTransport.layerUndici(), Environment]))
  )
)

program.pipe(Effect.provide(ModelFromEnvironment), NodeRuntime.runMain)
