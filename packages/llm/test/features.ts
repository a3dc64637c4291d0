/** What becomes of each part of a request with each provider: sent, left out, or refused before anything is sent. */
import type { HttpClientRequest } from "@effect/platform"
import { ChatMessage } from "@underlay/core"
import {
  Anthropic,
  AzureOpenAi,
  Google,
  Groq,
  HuggingFace,
  Llm,
  LlmTest,
  LlmTool,
  Ollama,
  OpenAi,
  Replicate
} from "@underlay/llm"
import { Effect, Layer, Redacted, Schema, Stream } from "effect"

const key = Redacted.make("k")

/** The columns of the guide's table. */
export const providers = {
  OpenAi: OpenAi.layer({ apiKey: key, model: "gpt-5-mini", retry: false }),
  'OpenAi, `api: "chat-completions"`': OpenAi.layer({
    apiKey: key,
    model: "gpt-4o",
    retry: false,
    api: "chat-completions"
  }),
  AzureOpenAi: AzureOpenAi.layer({ endpoint: "https://a.openai.azure.com", apiKey: key, model: "d", retry: false }),
  Anthropic: Anthropic.layer({ apiKey: key, model: "claude-sonnet-4-5", retry: false }),
  Google: Google.layer({ apiKey: key, model: "gemini-3-flash", retry: false }),
  Groq: Groq.layer({ apiKey: key, model: "openai/gpt-oss-20b", retry: false }),
  HuggingFace: HuggingFace.layer({ apiKey: key, model: "openai/gpt-oss-20b", retry: false }),
  Ollama: Ollama.layer({ model: "qwen3", retry: false }),
  Replicate: Replicate.layer({ apiKey: key, model: "owner/name", retry: false })
}

const text: Llm.LlmRequest = { messages: [ChatMessage.user("Hello!")] }

const tool = LlmTool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })

const withFile = (mediaType: string, url?: string): Llm.LlmRequest => ({
  messages: [
    {
      role: "user",
      content: [
        { type: "text", text: "Hello!" },
        {
          type: "file",
          mediaType,
          source: url === undefined ? { type: "bytes", bytes: new Uint8Array([1, 2, 3]) } : { type: "url", url }
        }
      ]
    }
  ]
})

/** The rows of the guide's table: a request with a part, and the same without it. */
const features: Readonly<Record<string, readonly [request: Llm.LlmRequest, without: Llm.LlmRequest]>> = {
  tools: [{ ...text, tools: [tool] }, text],
  "`toolChoice: { name }`": [
    { ...text, tools: [tool], toolChoice: { name: "weather" } },
    { ...text, tools: [tool] }
  ],
  "`parallelToolCalls: false`": [
    { ...text, tools: [tool], parallelToolCalls: false },
    { ...text, tools: [tool] }
  ],
  "`responseFormat` of a JSON Schema": [
    { ...text, responseFormat: { type: "json-schema", name: "a", schema: { type: "object", properties: {} } } },
    text
  ],
  "an image as bytes": [withFile("image/png"), text],
  "an image as a URL": [withFile("image/png", "https://example.org/a.png"), text],
  "a PDF as bytes": [withFile("application/pdf"), text],
  "a sound as bytes": [withFile("audio/wav"), text],
  "`reasoningEffort`": [{ ...text, reasoningEffort: "low" }, text],
  "`temperature`": [{ ...text, temperature: 0.5 }, text],
  "`topK`": [{ ...text, topK: 40 }, text],
  "`seed`": [{ ...text, seed: 7 }, text],
  "`stop`": [{ ...text, stop: ["END"] }, text],
  "`frequencyPenalty`": [{ ...text, frequencyPenalty: 0.5 }, text],
  "`promptCache`": [{ ...text, promptCache: { key: "a", ttl: "long" } }, text]
}

type Became = "sent" | "left out" | "refused"

const nothing = (body: string): LlmTest.Recording => ({
  provider: "any",
  api: "any",
  stream: false,
  response: { status: 200, headers: {}, body }
})

const bodyOf = (request: HttpClientRequest.HttpClientRequest | undefined): string | undefined =>
  request?.body._tag === "Uint8Array" ? new TextDecoder().decode(request.body.body) : undefined

/** The body that a request of this kind is sent with, if it is sent. */
const sent = (name: keyof typeof providers, use: Effect.Effect<unknown, unknown, Llm.Llm>) =>
  Effect.gen(function* () {
    const seen: Array<HttpClientRequest.HttpClientRequest> = []
    const replay = LlmTest.layerReplay([nothing("{}")], { onRequest: (request) => seen.push(request) })
    yield* use.pipe(Effect.exit, Effect.provide(Layer.provide(providers[name], replay)))
    return bodyOf(seen[0])
  })

const becameOf = (name: keyof typeof providers, request: Llm.LlmRequest, without: Llm.LlmRequest) =>
  Effect.gen(function* () {
    const plain = yield* sent(name, Stream.runDrain(Llm.stream(without)))
    const body = yield* sent(name, Stream.runDrain(Llm.stream(request)))
    const became: Became = body === undefined ? "refused" : body === plain ? "left out" : "sent"
    return became
  })

/** The table of the guide: its first row are the names of the providers. */
export const table = Effect.gen(function* () {
  const names = Object.keys(providers) as Array<keyof typeof providers>
  const rows: Array<ReadonlyArray<string>> = [["", ...names.map((name) => (name.includes("`") ? name : `\`${name}\``))]]
  for (const [feature, [request, without]] of Object.entries(features)) {
    rows.push([feature, ...(yield* Effect.forEach(names, (name) => becameOf(name, request, without)))])
  }
  const counts = yield* Effect.forEach(names, (name) =>
    Effect.map(sent(name, Llm.countTokens(text)), (body) => (body === undefined ? "refused" : "sent"))
  )
  return [...rows, ["`countTokens`", ...counts]]
})
