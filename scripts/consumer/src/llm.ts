// Language models as a user of the published package has them: every provider's layer, streams, tools, values by schema,
// embeddings, the registry, recorded traffic, and the bridge to `@effect/ai`, which is imported by its path.
import { LanguageModel } from "@effect/ai"
import type { HttpClient } from "@effect/platform"
import { ChatMessage, Embeddings } from "@underlay/core"
import {
  Anthropic,
  AzureOpenAi,
  AzureOpenAiEmbeddings,
  Google,
  GoogleEmbeddings,
  Groq,
  HuggingFace,
  HuggingFaceEmbeddings,
  Llm,
  type LlmError,
  LlmProviders,
  LlmResponse,
  LlmTest,
  LlmTool,
  LlmToolLoop,
  Ollama,
  OllamaEmbeddings,
  OllamaServer,
  OpenAi,
  OpenAiCompatible,
  OpenAiEmbeddings,
  Replicate
} from "@underlay/llm"
import * as LlmLanguageModel from "@underlay/llm/LlmLanguageModel"
import * as ChatCompletions from "@underlay/llm/protocol/ChatCompletions"
import { Config, ConfigProvider, Context, Effect, Either, Layer, Redacted, Schema, Stream } from "effect"

const apiKey = Redacted.make("k")
const model = "m"

/** Every provider, by its layer. */
const models: Readonly<Record<string, Layer.Layer<Llm.Llm, LlmError.LlmError, HttpClient.HttpClient>>> = {
  openai: OpenAi.layer({ apiKey, model }),
  azure: AzureOpenAi.layer({ endpoint: "https://a.openai.azure.com", apiKey, model }),
  anthropic: Anthropic.layer({ apiKey, model }),
  google: Google.layer({ apiKey, model }),
  groq: Groq.layer({ apiKey, model }),
  huggingface: HuggingFace.layer({ apiKey, model }),
  ollama: Ollama.layer({ model }),
  replicate: Replicate.layer({ apiKey, model: "owner/name" }),
  compatible: OpenAiCompatible.layer({ provider: "house", baseUrl: "http://127.0.0.1:1/v1", model }),
  mistral: OpenAiCompatible.layerPreset("mistral", { apiKey, model })
}

const vectors = [
  OpenAiEmbeddings.layerEmbeddings({ apiKey, model: "text-embedding-3-small" }),
  AzureOpenAiEmbeddings.layerEmbeddings({ endpoint: "https://a.openai.azure.com", apiKey, model, dimensions: 3 }),
  GoogleEmbeddings.layerEmbeddings({ apiKey, model: "gemini-embedding-001" }),
  HuggingFaceEmbeddings.layerEmbeddings({ apiKey, model: "BAAI/bge-m3" }),
  OllamaEmbeddings.layerEmbeddings({ model: "nomic-embed-text" })
]

const event = (delta: object, finish_reason: string | null = null) =>
  `data: ${JSON.stringify({ id: "c1", model, choices: [{ index: 0, delta, finish_reason }] })}\n\n`

const recording: LlmTest.Recording = {
  provider: "groq",
  api: "chat/completions",
  stream: true,
  response: {
    status: 200,
    headers: { "content-type": "text/event-stream" },
    body: `${event({ content: "Hel" })}${event({ content: "lo" })}${event({}, "stop")}data: [DONE]\n\n`
  }
}

const replayed = LlmTest.layerReplay([recording], { chunkSize: "random" })

const weather = LlmToolLoop.handler(
  LlmTool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) }),
  ({ city }) => Effect.succeed({ city, celsius: 21 })
)

const Ticket = Schema.Struct({ title: Schema.String })

const scripted = LlmProviders.kind({
  kind: "scripted",
  settings: Config.all({ reply: Config.string("reply") }),
  make: ({ reply }) =>
    Effect.map(Layer.build(LlmTest.layerScripted({ replies: [], otherwise: reply })), (context) =>
      Context.get(context, Llm.Llm)
    )
})

const configuration = ConfigProvider.fromJson({ llm: { providers: { main: { kind: "scripted", reply: "by name" } } } })

const messages = [ChatMessage.user("hello")]

const house = ChatCompletions.make({ provider: "house" })

export const program = Effect.gen(function* () {
  const names = yield* Effect.forEach(Object.entries(models), ([name, layer]) =>
    Effect.map(Effect.provide(Llm.Llm, layer), (llm) => llm.provider === name || name === "compatible")
  )
  const dimensions = yield* Effect.forEach(vectors, (layer) =>
    Effect.map(Effect.provide(Embeddings.Embeddings, layer), (embeddings) => embeddings.dimensions)
  )
  const hasServer = (yield* Effect.provide(OllamaServer.OllamaServer, OllamaServer.layer())).list !== undefined
  const parts = yield* Stream.runCollect(Llm.stream({ messages })).pipe(
    Effect.provide(models["groq"] ?? OpenAi.layer({ apiKey, model }))
  )

  const looped = yield* LlmToolLoop.run({ messages }, [weather]).pipe(
    Effect.provide(
      LlmTest.layerScripted({ replies: [{ toolCalls: [{ name: "weather", arguments: { city: "Lima" } }] }, "21"] })
    )
  )
  const { value } = yield* Llm.generateObject(Ticket, { messages }).pipe(
    Effect.provide(LlmTest.layerScripted({ replies: ['{"title":"down"}'] }))
  )
  const named = yield* Llm.generate({ messages }).pipe(
    Effect.provide(LlmProviders.layerDefault),
    Effect.provide(
      LlmProviders.layer({ kinds: [scripted] }).pipe(Layer.provide(Layer.setConfigProvider(configuration)))
    )
  )
  const asked = yield* LanguageModel.generateText({ prompt: "hello" }).pipe(
    Effect.provide(LlmLanguageModel.layer.pipe(Layer.provide(LlmTest.layerScripted({ replies: ["as theirs"] }))))
  )
  return {
    names: names.every((same) => same),
    dimensions,
    hasServer,
    streamed: LlmResponse.fromParts(parts)?.text,
    looped: [looped.response.text, looped.steps.length],
    value: value.title,
    named: named.text,
    asked: asked.text,
    canonical: (yield* LlmTest.canonical(recording)).text,
    faults: Either.getOrThrow(LlmTest.cutFaults(recording)).length,
    protocol: Either.isRight(house.encode({ messages }, { model, stream: false, method: "generate" }))
  }
}).pipe(Effect.provide(replayed))

/** What every run of it must give. */
export const expected: Effect.Effect.Success<typeof program> = {
  names: true,
  dimensions: [1536, 3, 3072, 1024, 768],
  hasServer: true,
  streamed: "Hello",
  looped: ["21", 2],
  value: "down",
  named: "by name",
  asked: "as theirs",
  canonical: "Hello",
  faults: 0,
  protocol: true
}
