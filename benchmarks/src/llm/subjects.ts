/**
 * The clients that are compared. Each gives a whole answer (the number of its characters), or a streamed one (the same,
 * counted while it comes).
 */
import { createOpenAI } from "@ai-sdk/openai"
import { LanguageModel } from "@effect/ai"
import { OpenAiClient, OpenAiLanguageModel } from "@effect/ai-openai"
import { FetchHttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { ChatOpenAI } from "@langchain/openai"
import { ChatMessage, HttpTransport } from "@underlay/core"
import { Llm, OpenAi } from "@underlay/llm"
import { generateText, streamText } from "ai"
import { Effect, Layer, Logger, LogLevel, ManagedRuntime, Redacted, Stream } from "effect"
import OpenAI from "openai"

export type Api = "chat" | "responses"

export interface Subject {
  readonly name: string
  readonly api: Api
  /** Takes minutes for what the others do in seconds. */
  readonly slow?: boolean
  readonly generate: () => Promise<number>
  readonly stream: (model: string) => Promise<number>
  readonly close?: () => Promise<void>
}

const prompt = "Tell me about foxes."
const messages = [{ role: "user" as const, content: prompt }]

/** What nobody can be under: the request, the bytes, and JSON. */
export const floor = (baseUrl: string, api: Api): Subject => {
  const path = api === "chat" ? "/chat/completions" : "/responses"
  const send = (body: object) =>
    fetch(`${baseUrl}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer k" },
      body: JSON.stringify(body)
    })
  const input = api === "chat" ? { messages } : { input: messages }
  return {
    name: `fetch and JSON.parse (${api})`,
    api,
    generate: async () => {
      const body = JSON.parse(await (await send({ model: "bench", ...input })).text())
      return (api === "chat" ? body.choices[0].message.content : body.output[0].content[0].text).length
    },
    stream: async (model) => {
      const answer = await send({ model, ...input, stream: true, stream_options: { include_usage: true } })
      const decoder = new TextDecoder()
      let rest = ""
      let length = 0
      for await (const bytes of answer.body as unknown as AsyncIterable<Uint8Array>) {
        const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n")
        rest = lines.pop() ?? ""
        for (const line of lines) {
          if (!line.startsWith("data: ") || line === "data: [DONE]") continue
          const value = JSON.parse(line.slice(6))
          if (api === "chat") length += value.choices[0]?.delta.content?.length ?? 0
          else if (value.type === "response.output_text.delta") length += value.delta.length
        }
      }
      return length
    }
  }
}

const transports = {
  HttpTransport: HttpTransport.layerUndici(),
  layerUndici: NodeHttpClient.layerUndici,
  fetch: FetchHttpClient.layer
}

const ours = (baseUrl: string, api: Api, transport: keyof typeof transports): Subject => {
  const runtime = ManagedRuntime.make(
    OpenAi.layer({
      apiKey: Redacted.make("k"),
      model: "bench",
      baseUrl,
      api: api === "chat" ? "chat-completions" : "responses"
    }).pipe(Layer.provide(transports[transport]), Layer.provideMerge(Logger.minimumLogLevel(LogLevel.Info)))
  )
  return {
    name: `@underlay/llm over ${transport} (${api})`,
    api,
    generate: () =>
      runtime.runPromise(Effect.map(Llm.generate({ messages: [ChatMessage.user(prompt)] }), ({ text }) => text.length)),
    stream: (model) =>
      runtime.runPromise(
        Stream.runFold(Llm.stream({ model, messages: [ChatMessage.user(prompt)] }), 0, (length, part) =>
          part.type === "text-delta" ? length + part.text.length : length
        )
      ),
    close: () => runtime.dispose()
  }
}

const official = (baseUrl: string, api: Api): Subject => {
  const client = new OpenAI({ apiKey: "k", baseURL: baseUrl, maxRetries: 2 })
  return {
    name: `openai 6.49 (${api})`,
    api,
    generate: async () =>
      api === "chat"
        ? ((await client.chat.completions.create({ model: "bench", messages })).choices[0]?.message.content ?? "")
            .length
        : (await client.responses.create({ model: "bench", input: messages })).output_text.length,
    stream: async (model) => {
      let length = 0
      if (api === "chat") {
        const stream = await client.chat.completions.create({
          model,
          messages,
          stream: true,
          stream_options: { include_usage: true }
        })
        for await (const chunk of stream) length += chunk.choices[0]?.delta.content?.length ?? 0
      } else {
        for await (const one of await client.responses.create({ model, input: messages, stream: true })) {
          if (one.type === "response.output_text.delta") length += one.delta.length
        }
      }
      return length
    }
  }
}

const aiSdk = (baseUrl: string, api: Api): Subject => {
  const provider = createOpenAI({ apiKey: "k", baseURL: baseUrl })
  const model = (name: string) => (api === "chat" ? provider.chat(name) : provider.responses(name))
  return {
    name: `AI SDK 6 (${api})`,
    api,
    generate: async () => (await generateText({ model: model("bench"), prompt })).text.length,
    stream: async (name) => {
      let length = 0
      for await (const text of streamText({ model: model(name), prompt }).textStream) length += text.length
      return length
    }
  }
}

const langchain = (baseUrl: string, api: Api): Subject => {
  const made = (model: string) =>
    new ChatOpenAI({
      model,
      apiKey: "k",
      configuration: { baseURL: baseUrl },
      useResponsesApi: api === "responses",
      streamUsage: true
    })
  return {
    name: `LangChain.js 1.5 (${api})`,
    api,
    generate: async () => (await made("bench").invoke(prompt)).text.length,
    stream: async (model) => {
      let length = 0
      for await (const chunk of await made(model).stream(prompt)) length += chunk.text.length
      return length
    }
  }
}

const effectAi = (baseUrl: string): Subject => {
  const client = OpenAiClient.layer({ apiKey: Redacted.make("k"), apiUrl: baseUrl }).pipe(
    Layer.provide(FetchHttpClient.layer)
  )
  const runtime = ManagedRuntime.make(Layer.provideMerge(client, Logger.minimumLogLevel(LogLevel.Info)))
  return {
    name: "@effect/ai 0.37 (responses)",
    api: "responses",
    slow: true,
    generate: () =>
      runtime.runPromise(
        Effect.map(LanguageModel.generateText({ prompt }), ({ text }) => text.length).pipe(
          Effect.provide(OpenAiLanguageModel.model("bench"))
        )
      ),
    stream: (model) =>
      runtime.runPromise(
        Stream.runFold(LanguageModel.streamText({ prompt }), 0, (length, part) =>
          part.type === "text-delta" ? length + part.delta.length : length
        ).pipe(Effect.provide(OpenAiLanguageModel.model(model)))
      ),
    close: () => runtime.dispose()
  }
}

export const all = (baseUrl: string): ReadonlyArray<Subject> => [
  floor(baseUrl, "chat"),
  ours(baseUrl, "chat", "HttpTransport"),
  ours(baseUrl, "chat", "layerUndici"),
  ours(baseUrl, "chat", "fetch"),
  official(baseUrl, "chat"),
  aiSdk(baseUrl, "chat"),
  langchain(baseUrl, "chat"),
  floor(baseUrl, "responses"),
  ours(baseUrl, "responses", "HttpTransport"),
  ours(baseUrl, "responses", "layerUndici"),
  ours(baseUrl, "responses", "fetch"),
  official(baseUrl, "responses"),
  aiSdk(baseUrl, "responses"),
  langchain(baseUrl, "responses"),
  effectAi(baseUrl)
]
