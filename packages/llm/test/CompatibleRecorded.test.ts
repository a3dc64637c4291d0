/** What is sent, against what other clients were recorded to send to the same providers and were answered for. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import type { ChatMessage } from "@underlay/core"
import { AzureOpenAi, Groq, HuggingFace, Llm, LlmTest, Ollama, OpenAi } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Effect, Either, Layer, Redacted, Schema, Stream } from "effect"
import { casesOf } from "./corpus.ts"

type Json = Record<string, unknown>

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

const list = (value: unknown): ReadonlyArray<Json> => (Array.isArray(value) ? value.filter(isRecord) : [])

/** Leaves out what says nothing: nulls, empty lists of tools, a single choice, and the streaming that was not asked for. */
const said = (value: unknown, key = ""): unknown => {
  if (Array.isArray(value)) return value.map((each) => said(each))
  if (typeof value === "string" && key === "arguments") return JSON.parse(value)
  // Text alone may stand in a part.
  if (!isRecord(value)) return value
  const content = value["content"]
  const only = Array.isArray(content) && content.length === 1 && isRecord(content[0]) ? content[0] : undefined
  const plain = only?.["type"] === "text" ? { ...value, content: only["text"] } : value
  return Object.fromEntries(
    Object.entries(plain)
      .filter(([name, each]) => {
        if (each === null || each === undefined) return false
        if (name === "n" && each === 1) return false
        if (name === "stream" && each === false) return false
        // Beside calls there need be no text; reasoning is sent once, whatever its name.
        if (name === "content" && each === "" && value["tool_calls"] !== undefined) return false
        if (name === "reasoning_content" && each === value["reasoning"]) return false
        return !((name === "tools" || name === "tool_calls") && Array.isArray(each) && each.length === 0)
      })
      .map(([name, each]) => [name, said(each, name)])
  )
}

const partsOf = (content: unknown) =>
  typeof content === "string"
    ? [{ type: "text" as const, text: content }]
    : list(content).map((part) => {
        const image = part["image_url"]
        return isRecord(image)
          ? {
              type: "file" as const,
              mediaType: "image/png",
              source: { type: "url" as const, url: String(image["url"]) }
            }
          : { type: "text" as const, text: String(part["text"]) }
      })

const messageOf = (message: Json): ChatMessage.ChatMessage => {
  const { content, role } = message
  if (role === "system") return { role, content: String(content) }
  if (role === "tool") {
    return {
      role,
      content: [{ type: "tool-result", id: String(message["tool_call_id"]), name: "", result: String(content) }]
    }
  }
  if (role === "assistant") {
    const calls = list(message["tool_calls"]).map((call) => {
      const inner = isRecord(call["function"]) ? call["function"] : {}
      return {
        type: "tool-call" as const,
        id: String(call["id"]),
        name: String(inner["name"]),
        arguments: JSON.parse(String(inner["arguments"])) as unknown
      }
    })
    const text = typeof content === "string" && content !== "" ? [{ type: "text" as const, text: content }] : []
    const { reasoning } = message
    const thought = typeof reasoning === "string" ? [{ type: "reasoning" as const, text: reasoning }] : []
    return { role, content: [...thought, ...text, ...calls] }
  }
  return { role: "user", content: partsOf(content) }
}

const number = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined)

/** The same request as data of ours; what has no name of ours goes through the provider's options. */
const requestOf = (provider: string, body: Json): Llm.LlmRequest => {
  const format = body["response_format"]
  const schema = isRecord(format) && isRecord(format["json_schema"]) ? format["json_schema"] : undefined
  const choice = body["tool_choice"]
  const own = Object.fromEntries(
    Object.entries(body).filter(([name]) =>
      ["reasoning_format", "service_tier", "options", "return_full_text"].includes(name)
    )
  )
  return {
    model: String(body["model"]),
    messages: list(body["messages"]).map(messageOf),
    temperature: number(body["temperature"]),
    maxTokens: number(body["max_tokens"]) ?? number(body["max_completion_tokens"]),
    seed: number(body["seed"]),
    ...(typeof body["reasoning_effort"] === "string" ? { reasoningEffort: body["reasoning_effort"] } : {}),
    tools: list(body["tools"]).map((tool) => {
      const inner = isRecord(tool["function"]) ? tool["function"] : {}
      return {
        name: String(inner["name"]),
        ...(typeof inner["description"] === "string" ? { description: inner["description"] } : {}),
        parameters: isRecord(inner["parameters"]) ? inner["parameters"] : {},
        ...(typeof inner["strict"] === "boolean" ? { strict: inner["strict"] } : {})
      }
    }),
    ...(choice === "auto" || choice === "none" || choice === "required" ? { toolChoice: choice } : {}),
    ...(schema !== undefined
      ? {
          responseFormat: {
            type: "json-schema" as const,
            name: String(schema["name"]),
            schema: isRecord(schema["schema"]) ? schema["schema"] : {},
            ...(typeof schema["strict"] === "boolean" ? { strict: schema["strict"] } : {}),
            ...(typeof schema["description"] === "string" ? { description: schema["description"] } : {})
          }
        }
      : isRecord(format) && format["type"] === "json_object"
        ? { responseFormat: { type: "json" as const } }
        : {}),
    providerOptions: { [provider]: own }
  }
}

const Recorded = Schema.Struct({
  request: Schema.Struct({
    url: Schema.NullOr(Schema.String),
    body: Schema.NullOr(Schema.Record({ key: Schema.String, value: Schema.Unknown })),
    body_elided: Schema.Boolean
  })
})

const azureStyle = (url: URL): AzureOpenAi.AzureOpenAiOptions["style"] =>
  url.pathname.startsWith("/models") ? "models" : url.pathname.includes("/deployments/") ? "deployments" : "v1"

const layerOf = (provider: string, url: URL, model: string): Layer.Layer<Llm.Llm, unknown, never> | undefined => {
  const apiKey = Redacted.make("k")
  const upTo = (path: string) => `${url.origin}${url.pathname.slice(0, url.pathname.length - path.length)}`
  const layers = {
    openai: () => OpenAi.layer({ apiKey, model, api: "chat-completions", retry: false }),
    groq: () => Groq.layer({ apiKey, model, retry: false }),
    huggingface: () => HuggingFace.layer({ apiKey, model, baseUrl: upTo("/chat/completions"), retry: false }),
    ollama: () => Ollama.layer({ apiKey, model, host: url.origin, api: "v1", retry: false }),
    azure: () =>
      AzureOpenAi.layer({
        endpoint: url.origin,
        apiKey,
        model,
        style: azureStyle(url),
        api: "chat-completions",
        apiVersion: url.searchParams.get("api-version") ?? undefined,
        retry: false
      })
  }
  const make = layers[provider as keyof typeof layers]
  return make === undefined ? undefined : (make() as Layer.Layer<Llm.Llm, unknown, never>)
}

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recorded requests to Chat Completions", "llm-corpus"), () => {
  let compared = 0
  for (const { name, recording } of casesOf("chat/completions")) {
    const raw: unknown = JSON.parse(Fs.readFileSync(Path.join(Need.sharedData, "llm-corpus", `${name}.json`), "utf8"))
    const known = Schema.decodeUnknownEither(Recorded)(raw)
    if (Either.isLeft(known)) continue
    const { body, body_elided: elided, url } = known.right.request
    if (body === null || url === null || elided || !Array.isArray(body["messages"])) continue
    compared += 1
    it.live(name, () =>
      Effect.gen(function* () {
        const sent: Array<{ readonly url: string; readonly body: Json }> = []
        const replay = LlmTest.layerReplay([recording], {
          onRequest: (request) => {
            const content = request.body
            const text = content._tag === "Uint8Array" ? new TextDecoder().decode(content.body) : ""
            const query = [...request.urlParams].map(([key, value]) => `${key}=${value}`).join("&")
            sent.push({ url: query === "" ? request.url : `${request.url}?${query}`, body: JSON.parse(text) as Json })
          }
        })
        const layer = layerOf(recording.provider, new URL(url), String(body["model"]))
        assert.isDefined(layer)
        if (layer === undefined) return
        const request = requestOf(recording.provider, body)
        const call: Effect.Effect<unknown, unknown, Llm.Llm> =
          body["stream"] === true ? Stream.runDrain(Llm.stream(request)) : Llm.generate(request)
        yield* Effect.provide(Effect.ignore(call), Layer.provide(layer, replay))
        const [first] = sent
        assert.strictEqual(first?.url, url)
        const { stream_options: asked, ...ours } = said(first?.body) as Json
        const { stream_options: theirs, ...expected } = said(body) as Json
        // Not every client asks for the usage of its streams.
        if (theirs !== undefined) assert.deepStrictEqual(asked, theirs)
        // OpenAI's newer name for the limit, where the recording has the older one.
        const limit = ours["max_completion_tokens"]
        const named =
          limit !== undefined && "max_tokens" in expected
            ? Object.fromEntries(
                Object.entries(ours).map(([key, value]) => [
                  key === "max_completion_tokens" ? "max_tokens" : key,
                  value
                ])
              )
            : ours
        assert.deepStrictEqual(named, expected)
      })
    )
  }

  it("are compared at all", () => assert.isAbove(compared, 20))
})
