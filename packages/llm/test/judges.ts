/**
 * The providers' own packages as judges: what they make of the bytes that a loopback server answers with, in one shape for
 * all of them. Joins the pieces that a package hands out where it does not join them itself, and nothing more: what a
 * package reads wrong stays wrong here.
 */
import Anthropic from "@anthropic-ai/sdk"
import { type GenerateContentResponse, GoogleGenAI } from "@google/genai"
import type { LlmTest } from "@underlay/llm"
import Groq from "groq-sdk"
import { Ollama } from "ollama"
import OpenAI from "openai"

/** What a client made of an exchange; `null` for what was not said. */
export interface Verdict {
  /** The client raised an error. */
  readonly failed: boolean
  readonly text: string
  readonly reasoning: string
  readonly refusal: string | null
  readonly toolCalls: ReadonlyArray<{ readonly name: string; readonly arguments: unknown }>
  /** The provider's own word for why it stopped. */
  readonly finishReason: string | null
  readonly usage: LlmTest.Canonical["usage"]
  readonly model: string | null
  readonly id: string | null
  readonly embeddings: { readonly count: number; readonly dimensions: number } | null
}

/** A package, and how it is asked for what the server at `url` answers with. */
export interface Judge {
  readonly name: string
  readonly ask: (url: string, recording: LlmTest.Recording) => Promise<Verdict>
}

type Json = Readonly<Record<string, unknown>>

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

const record = (value: unknown): Json => (isRecord(value) ? value : {})
const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])
const words = (value: unknown): string => (typeof value === "string" ? value : "")
const word = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : null)
const number = (value: unknown): number | null => (typeof value === "number" ? value : null)

const sum = (...values: ReadonlyArray<unknown>): number | null => {
  const numbers = values.filter((value) => typeof value === "number")
  return numbers.length === 0 ? null : numbers.reduce((a, b) => a + b, 0)
}

const noUsage: Verdict["usage"] = { input: null, output: null, cachedInput: null, cacheWrite: null, reasoning: null }

const nothing: Verdict = {
  failed: false,
  text: "",
  reasoning: "",
  refusal: null,
  toolCalls: [],
  finishReason: null,
  usage: noUsage,
  model: null,
  id: null,
  embeddings: null
}

/** The arguments of a call, which a package may leave as text. */
const parsed = (args: unknown): unknown => {
  if (typeof args !== "string") return args ?? {}
  if (args.trim() === "") return {}
  try {
    return JSON.parse(args)
  } catch {
    return { __invalid: args }
  }
}

const key = "test-key"
const model = "model"
const ask = [{ role: "user" as const, content: "hello" }]
const patient = { maxRetries: 0, timeout: 15_000 }

// ---------------------------------------------------------------------------------------------------------------------
// openai, groq-sdk
// ---------------------------------------------------------------------------------------------------------------------

const chatUsage = (value: unknown): Verdict["usage"] => {
  const usage = record(value)
  const prompt = record(usage["prompt_tokens_details"])
  return {
    input: number(usage["prompt_tokens"]),
    output: number(usage["completion_tokens"]),
    cachedInput: number(prompt["cached_tokens"] ?? usage["cached_tokens"]),
    cacheWrite: number(prompt["cache_write_tokens"]),
    reasoning: number(record(usage["completion_tokens_details"])["reasoning_tokens"])
  }
}

const chatReasoning = (message: Json): string =>
  words(message["reasoning"]) || words(message["reasoning_content"]) || words(message["thinking"])

const chatCalls = (message: Json): Verdict["toolCalls"] =>
  list(message["tool_calls"]).map((entry) => {
    const call = record(record(entry)["function"])
    return { name: words(call["name"]), arguments: parsed(call["arguments"]) }
  })

const chatAnswer = (answer: unknown): Verdict => {
  const completion = record(answer)
  const choice = record(list(completion["choices"]).find((one) => (record(one)["index"] ?? 0) === 0))
  const message = record(choice["message"])
  return {
    ...nothing,
    text: words(message["content"]),
    reasoning: chatReasoning(message),
    refusal: word(message["refusal"]),
    toolCalls: chatCalls(message),
    finishReason: word(choice["finish_reason"]),
    usage: chatUsage(completion["usage"] ?? record(completion["x_groq"])["usage"]),
    model: word(completion["model"]),
    id: word(completion["id"])
  }
}

const openai = (url: string) => new OpenAI({ apiKey: key, baseURL: `${url}/v1`, ...patient })

const openaiChat: Judge = {
  name: "openai",
  ask: async (url) => chatAnswer(await openai(url).chat.completions.create({ model, messages: ask }))
}

const openaiChatStream: Judge = {
  name: "openai",
  ask: async (url) => {
    const stream = openai(url).chat.completions.stream({ model, messages: ask })
    // Reasoning has no place in the package's types: it is only in the chunks, as they came.
    let reasoning = ""
    let snapshot: unknown
    stream.on("chunk", (chunk, soFar) => {
      snapshot = soFar
      reasoning += chatReasoning(record(chunk.choices.find((choice) => choice.index === 0)?.delta))
    })
    try {
      return { ...chatAnswer(await stream.finalChatCompletion()), reasoning }
    } catch {
      return { ...chatAnswer(snapshot), reasoning, failed: true }
    }
  }
}

const responsesAnswer = (answer: unknown): Verdict => {
  const response = record(answer)
  const items = list(response["output"]).map(record)
  const usage = record(response["usage"])
  const input = record(usage["input_tokens_details"])
  const contents = items.filter((item) => item["type"] === "message").flatMap((item) => list(item["content"]))
  const thoughts = items.filter((item) => item["type"] === "reasoning")
  const texts = (values: unknown) => list(values).map((one) => words(record(one)["text"]))
  return {
    ...nothing,
    failed: response["status"] === "failed",
    text: words(response["output_text"]),
    reasoning: thoughts.flatMap((item) => [...texts(item["summary"]), ...texts(item["content"])]).join(""),
    refusal: word(contents.map((part) => words(record(part)["refusal"])).join("")),
    toolCalls: items
      .filter((item) => item["type"] === "function_call")
      .map((item) => ({ name: words(item["name"]), arguments: parsed(item["arguments"]) })),
    finishReason: word(record(response["incomplete_details"])["reason"]) ?? word(response["status"]),
    usage: {
      input: number(usage["input_tokens"]),
      output: number(usage["output_tokens"]),
      cachedInput: number(input["cached_tokens"]),
      cacheWrite: number(input["cache_write_tokens"]),
      reasoning: number(record(usage["output_tokens_details"])["reasoning_tokens"])
    },
    model: word(response["model"]),
    id: word(response["id"])
  }
}

const openaiResponses: Judge = {
  name: "openai",
  ask: async (url) => responsesAnswer(await openai(url).responses.create({ model, input: "hello" }))
}

const openaiResponsesStream: Judge = {
  name: "openai",
  ask: async (url) => {
    const stream = openai(url).responses.stream({ model, input: "hello" })
    let text = ""
    let first: unknown
    stream.on("response.created", (event) => {
      first = event.response
    })
    stream.on("response.output_text.delta", (event) => {
      text += event.delta
    })
    try {
      return responsesAnswer(await stream.finalResponse())
    } catch {
      const { id, model } = responsesAnswer(first)
      return { ...nothing, failed: true, text, id, model }
    }
  }
}

const openaiCount: Judge = {
  name: "openai",
  ask: async (url) => {
    const { input_tokens } = await openai(url).responses.inputTokens.count({ model, input: "hello" })
    return { ...nothing, usage: { ...noUsage, input: input_tokens } }
  }
}

const openaiEmbeddings: Judge = {
  name: "openai",
  ask: async (url, { response: { body } }) => {
    // The package takes what it has not asked for as numbers for base64, whatever it is.
    const floats = /"embedding"\s*:\s*\[/.test(body)
    const response = await openai(url).embeddings.create({
      model,
      input: ["hello"],
      ...(floats ? { encoding_format: "float" as const } : {})
    })
    const dimensions = response.data[0]?.embedding.length ?? 0
    return {
      ...nothing,
      model: word(response.model),
      id: word(record(response)["id"]),
      usage: { ...noUsage, input: number(record(response.usage)["prompt_tokens"]) },
      embeddings: { count: response.data.length, dimensions }
    }
  }
}

const groq = (url: string) => new Groq({ apiKey: key, baseURL: url, ...patient })

const groqChat: Judge = {
  name: "groq-sdk",
  ask: async (url) => chatAnswer(await groq(url).chat.completions.create({ model, messages: ask }))
}

const groqChatStream: Judge = {
  name: "groq-sdk",
  ask: async (url) => {
    let [text, reasoning, refusal] = ["", "", ""]
    let seen = nothing
    const calls: Array<{ name: string; text: string }> = []
    const verdict = (failed: boolean): Verdict => ({
      ...seen,
      failed,
      text,
      reasoning,
      refusal: word(refusal),
      toolCalls: calls.map((call) => ({ name: call.name, arguments: parsed(call.text) }))
    })
    try {
      for await (const chunk of await groq(url).chat.completions.create({ model, messages: ask, stream: true })) {
        const part: unknown = chunk
        const usage = record(part)["usage"] ?? record(record(part)["x_groq"])["usage"]
        const choice = chunk.choices.find((one) => one.index === 0)
        const delta = record(choice?.delta)
        text += words(delta["content"])
        reasoning += chatReasoning(delta)
        refusal += words(delta["refusal"])
        for (const entry of choice?.delta.tool_calls ?? []) {
          const call = calls[entry.index] ?? { name: "", text: "" }
          calls[entry.index] = call
          call.name += entry.function?.name ?? ""
          call.text += entry.function?.arguments ?? ""
        }
        seen = {
          ...seen,
          id: seen.id ?? word(chunk.id),
          model: seen.model ?? word(chunk.model),
          finishReason: word(choice?.finish_reason) ?? seen.finishReason,
          usage: usage === undefined || usage === null ? seen.usage : chatUsage(usage)
        }
      }
      return verdict(false)
    } catch {
      return verdict(true)
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// @anthropic-ai/sdk
// ---------------------------------------------------------------------------------------------------------------------

const anthropic = (url: string) => new Anthropic({ apiKey: key, baseURL: url, ...patient })

const anthropicAnswer = (answer: unknown): Verdict => {
  const message = record(answer)
  const blocks = list(message["content"]).map(record)
  const usage = record(message["usage"])
  const of = (type: string) => blocks.filter((block) => block["type"] === type)
  return {
    ...nothing,
    text: of("text")
      .map((block) => words(block["text"]))
      .join(""),
    reasoning: of("thinking")
      .map((block) => words(block["thinking"]))
      .join(""),
    refusal: message["stop_reason"] === "refusal" ? word(record(message["stop_details"])["explanation"]) : null,
    toolCalls: of("tool_use").map((block) => ({ name: words(block["name"]), arguments: parsed(block["input"]) })),
    finishReason: word(message["stop_reason"]),
    usage: {
      input: sum(usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]),
      output: number(usage["output_tokens"]),
      cachedInput: number(usage["cache_read_input_tokens"]),
      cacheWrite: number(usage["cache_creation_input_tokens"]),
      reasoning: number(record(usage["output_tokens_details"])["thinking_tokens"])
    },
    model: word(message["model"]),
    id: word(message["id"])
  }
}

const anthropicMessages: Judge = {
  name: "@anthropic-ai/sdk",
  ask: async (url) =>
    anthropicAnswer(await anthropic(url).beta.messages.create({ model, messages: ask, max_tokens: 1000 }))
}

const anthropicStream: Judge = {
  name: "@anthropic-ai/sdk",
  ask: async (url) => {
    const stream = anthropic(url).beta.messages.stream({ model, messages: ask, max_tokens: 1000 })
    let snapshot: unknown
    stream.on("streamEvent", (_event, soFar) => {
      snapshot = soFar
    })
    try {
      return anthropicAnswer(await stream.finalMessage())
    } catch {
      return { ...anthropicAnswer(snapshot), failed: true }
    }
  }
}

const anthropicCount: Judge = {
  name: "@anthropic-ai/sdk",
  ask: async (url) => {
    const { input_tokens } = await anthropic(url).messages.countTokens({ model, messages: ask })
    return { ...nothing, usage: { ...noUsage, input: input_tokens } }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// @google/genai
// ---------------------------------------------------------------------------------------------------------------------

const google = (url: string) =>
  new GoogleGenAI({ apiKey: key, vertexai: false, httpOptions: { baseUrl: url, timeout: 15_000 } })

const googleAnswer = (responses: ReadonlyArray<GenerateContentResponse>): Verdict => {
  let verdict = nothing
  const texts: Array<string> = []
  const thoughts: Array<string> = []
  const toolCalls: Array<Verdict["toolCalls"][number]> = []
  for (const response of responses) {
    const candidate = response.candidates?.[0]
    for (const part of candidate?.content?.parts ?? []) {
      if (part.thought === true) thoughts.push(part.text ?? "")
    }
    texts.push(response.text ?? "")
    for (const call of response.functionCalls ?? []) {
      toolCalls.push({ name: call.name ?? "", arguments: parsed(call.args) })
    }
    const usage = response.usageMetadata
    verdict = {
      ...verdict,
      id: verdict.id ?? word(response.responseId),
      model: verdict.model ?? word(response.modelVersion),
      finishReason: word(candidate?.finishReason) ?? word(response.promptFeedback?.blockReason) ?? verdict.finishReason,
      usage:
        usage === undefined
          ? verdict.usage
          : {
              input: number(usage.promptTokenCount),
              output: sum(usage.candidatesTokenCount, usage.thoughtsTokenCount),
              cachedInput: number(usage.cachedContentTokenCount),
              cacheWrite: null,
              reasoning: number(usage.thoughtsTokenCount)
            }
    }
  }
  return { ...verdict, text: texts.join(""), reasoning: thoughts.join(""), toolCalls }
}

const googleGenerate: Judge = {
  name: "@google/genai",
  ask: async (url) => googleAnswer([await google(url).models.generateContent({ model, contents: "hello" })])
}

const googleStream: Judge = {
  name: "@google/genai",
  ask: async (url) => {
    const responses: Array<GenerateContentResponse> = []
    try {
      for await (const response of await google(url).models.generateContentStream({ model, contents: "hello" })) {
        responses.push(response)
      }
      return googleAnswer(responses)
    } catch {
      return { ...googleAnswer(responses), failed: true }
    }
  }
}

const googleCount: Judge = {
  name: "@google/genai",
  ask: async (url) => {
    const { totalTokens } = await google(url).models.countTokens({ model, contents: "hello" })
    return { ...nothing, usage: { ...noUsage, input: number(totalTokens) } }
  }
}

const googleEmbeddings: Judge = {
  name: "@google/genai",
  ask: async (url) => {
    const { embeddings } = await google(url).models.embedContent({ model, contents: ["hello"] })
    return {
      ...nothing,
      embeddings: { count: embeddings?.length ?? 0, dimensions: embeddings?.[0]?.values?.length ?? 0 }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// ollama
// ---------------------------------------------------------------------------------------------------------------------

const ollama = (url: string) => new Ollama({ host: url })

const ollamaAnswer = (pieces: ReadonlyArray<unknown>): Verdict => {
  let verdict = nothing
  for (const piece of pieces.map(record)) {
    const message = isRecord(piece["message"])
      ? piece["message"]
      : { content: piece["response"], thinking: piece["thinking"] }
    verdict = {
      ...verdict,
      text: verdict.text + words(message["content"]),
      reasoning: verdict.reasoning + words(message["thinking"]),
      toolCalls: [...verdict.toolCalls, ...chatCalls(message)],
      model: verdict.model ?? word(piece["model"]),
      finishReason: word(piece["done_reason"]) ?? verdict.finishReason,
      usage: {
        ...noUsage,
        input: number(piece["prompt_eval_count"]) ?? verdict.usage.input,
        output: number(piece["eval_count"]) ?? verdict.usage.output
      }
    }
  }
  return verdict
}

const ollamaStreamed = async (open: Promise<AsyncIterable<unknown>>): Promise<Verdict> => {
  const pieces: Array<unknown> = []
  try {
    for await (const piece of await open) pieces.push(piece)
    return ollamaAnswer(pieces)
  } catch {
    return { ...ollamaAnswer(pieces), failed: true }
  }
}

const ollamaChat: Judge = {
  name: "ollama",
  ask: async (url) => ollamaAnswer([await ollama(url).chat({ model, messages: ask })])
}

const ollamaChatStream: Judge = {
  name: "ollama",
  ask: (url) => ollamaStreamed(ollama(url).chat({ model, messages: ask, stream: true }))
}

const ollamaGenerate: Judge = {
  name: "ollama",
  ask: async (url) => ollamaAnswer([await ollama(url).generate({ model, prompt: "hello" })])
}

const ollamaGenerateStream: Judge = {
  name: "ollama",
  ask: (url) => ollamaStreamed(ollama(url).generate({ model, prompt: "hello", stream: true }))
}

const ollamaEmbed: Judge = {
  name: "ollama",
  ask: async (url) => {
    const response = await ollama(url).embed({ model, input: ["hello"] })
    return {
      ...nothing,
      model: word(response.model),
      usage: { ...noUsage, input: number(response.prompt_eval_count) },
      embeddings: { count: response.embeddings.length, dimensions: response.embeddings[0]?.length ?? 0 }
    }
  }
}

/** Who judges a recording, by what was asked; nobody where its provider has no package with such an API. */
export const judgeOf = (recording: LlmTest.Recording): Judge | undefined => {
  const { api, provider, stream } = recording
  switch (api) {
    case "chat/completions":
      if (provider === "groq") return stream ? groqChatStream : groqChat
      return stream ? openaiChatStream : openaiChat
    case "responses":
      return stream ? openaiResponsesStream : openaiResponses
    case "responses/input_tokens":
      return openaiCount
    case "embeddings":
      return openaiEmbeddings
    case "messages":
      return stream ? anthropicStream : anthropicMessages
    case "messages/count_tokens":
      return anthropicCount
    case "generateContent":
      return googleGenerate
    case "streamGenerateContent":
      return googleStream
    case "countTokens":
      return googleCount
    case "batchEmbedContents":
      return googleEmbeddings
    case "api/chat":
      return stream ? ollamaChatStream : ollamaChat
    case "api/generate":
      return stream ? ollamaGenerateStream : ollamaGenerate
    case "api/embed":
      return ollamaEmbed
    default:
      return undefined
  }
}
