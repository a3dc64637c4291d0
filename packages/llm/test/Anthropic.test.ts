/** Anthropic's models over a loopback server, and our requests against recorded ones. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Anthropic, AnthropicMessages, Llm, type LlmRequest, LlmResponse } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { ConfigProvider, Effect, Either, Layer, Redacted, Schema, Stream } from "effect"
import { json, type Seen, type Server, serve, sse } from "./server.ts"

type Json = { readonly [key: string]: unknown }

const key = "sk-ant-test-0123456789"
const prompt = "the very private question"
const ask: Llm.LlmRequest = { messages: [ChatMessage.user(prompt)], maxTokens: 50 }

const anthropic = (server: Server, options: Partial<Anthropic.AnthropicOptions> = {}) =>
  Anthropic.layer({
    apiKey: Redacted.make(key),
    model: "claude-sonnet-4-5",
    baseUrl: `${server.url}/v1`,
    retry: { base: "10 millis", jitter: "none" },
    ...options
  }).pipe(Layer.provide(FetchHttpClient.layer))

const first = (server: Server): Seen => {
  const [request] = server.seen
  assert.isDefined(request)
  return request as Seen
}

const message = {
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude-sonnet-4-5-20250929",
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 4, cache_read_input_tokens: 8, output_tokens: 2 }
}

const events = (...list: ReadonlyArray<Json>): string =>
  list.map((event) => `event: ${String(event["type"])}\ndata: ${JSON.stringify(event)}\n\n`).join("")

const start = { type: "message_start", message: { ...message, content: [], stop_reason: null } }
const block = { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } }
const delta = (text: string) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } })
const end = [
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 9 } },
  { type: "message_stop" }
]
const overloaded = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }

describe("Anthropic", () => {
  it.scopedLive("asks with its key and version, in one span", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, message))
      const recording = yield* Recording.make
      const response = yield* Llm.generate(ask).pipe(
        Effect.provide(anthropic(server, { betas: ["files-api-2025-04-14", "mcp-client-2025-11-20"] })),
        recording.within
      )
      assert.deepInclude(response, { text: "Hello", finish: "stop" })
      const request = first(server)
      assert.strictEqual(request.path, "/v1/messages")
      assert.strictEqual(request.headers["x-api-key"], key)
      assert.strictEqual(request.headers["anthropic-version"], "2023-06-01")
      assert.strictEqual(request.headers["anthropic-beta"], "files-api-2025-04-14,mcp-client-2025-11-20")
      assert.notProperty(request.headers, "authorization")
      assert.deepStrictEqual(JSON.parse(request.body), {
        model: "claude-sonnet-4-5",
        max_tokens: 50,
        messages: [{ role: "user", content: [{ type: "text", text: prompt }] }],
        stream: false
      })
      const spans = yield* recording.spans
      const calls = spans.filter((span) => span.name === "chat claude-sonnet-4-5")
      assert.strictEqual(calls.length, 1)
      const attribute = (name: string) => calls[0]?.attributes.get(name)
      assert.strictEqual(attribute("gen_ai.provider.name"), "anthropic")
      assert.strictEqual(attribute("gen_ai.usage.input_tokens"), 12)
      const shown = JSON.stringify([...spans].map((span) => [...span.attributes]))
      assert.notInclude(shown, key)
      assert.notInclude(shown, prompt)
    })
  )

  it.scopedLive("streams, after another attempt where it was overloaded before it said anything", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) => {
        if (index === 0) json(response, 529, overloaded)
        else if (index === 1) sse(response, events(start, overloaded))
        else sse(response, events(start, { type: "ping" }, block, delta("Hel"), delta("lo"), ...end))
      })
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(anthropic(server)))
      const response = LlmResponse.fromParts(parts)
      assert.deepInclude(response, { text: "Hello", finish: "stop", id: "msg_1" })
      assert.deepInclude(response?.usage, { input: 12, output: 9, cachedInput: 8 })
      assert.strictEqual(server.seen.length, 3)
      assert.deepInclude(JSON.parse(server.seen[2]?.body ?? ""), { stream: true })
    })
  )

  it.scopedLive("does not ask again once it has said something (complaint 1)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => sse(response, events(start, block, delta("Hel"), overloaded)))
      const error = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(anthropic(server)))
      assert.deepInclude(error, { reason: "Overloaded", midStream: true, retryable: false })
      assert.strictEqual(error.partial?.text, "Hel")
      assert.strictEqual(server.seen.length, 1)
    })
  )

  it.scopedLive("never asks again where the spending limit is reached (complaint 4: quota is not a rate limit)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 429, {
          type: "error",
          error: {
            type: "rate_limit_error",
            message: "You have reached your limit",
            details: { error_code: "enforced_spend_limit_reached" }
          }
        })
      )
      const error = yield* Llm.generate(ask).pipe(Effect.flip, Effect.provide(anthropic(server)))
      assert.deepInclude(error, { reason: "QuotaExhausted", retryable: false })
      assert.strictEqual(server.seen.length, 1)
    })
  )

  it.scopedLive("takes no Retry-After of a good answer for an error", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, message, { "retry-after": "58" }))
      assert.strictEqual((yield* Llm.generate(ask).pipe(Effect.provide(anthropic(server)))).text, "Hello")
    })
  )

  it.scopedLive("counts the tokens of a request", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, { input_tokens: 14 }))
      const tokens = yield* Llm.countTokens({ ...ask, temperature: 0.3 }).pipe(Effect.provide(anthropic(server)))
      assert.strictEqual(tokens, 14)
      const request = first(server)
      assert.strictEqual(request.path, "/v1/messages/count_tokens")
      assert.deepStrictEqual(Object.keys(JSON.parse(request.body)).sort(), ["messages", "model"])
    })
  )

  it.scopedLive("is healthy if it lists the model, by its date or by a name that stands for it", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, {
          data: [
            { type: "model", id: "claude-sonnet-4-5-20250929" },
            { type: "model", id: "claude-sonnet-4-20250514" },
            { type: "model", id: "claude-opus-4-6" }
          ],
          has_more: false
        })
      )
      const status = (model: string) =>
        Effect.flatMap(Llm.Llm, (llm) => llm.health).pipe(
          Effect.map((result) => result.status),
          Effect.provide(anthropic(server, { model }))
        )
      for (const model of ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "claude-sonnet-4-0", "claude-opus-4-6"]) {
        assert.strictEqual(yield* status(model), "up", model)
      }
      assert.strictEqual(yield* status("claude-sonet-4-5"), "degraded")
      assert.strictEqual(server.seen[0]?.path, "/v1/models?limit=1000")
    })
  )

  it.scopedLive("gives values by schema: in its own format, and by a tool where that cannot hold the schema", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        const body = JSON.parse(request.body) as Json
        const [tool] = list(body["tools"])
        const content =
          tool === undefined
            ? [{ type: "text", text: '{"city":"Berlin"}' }]
            : [{ type: "tool_use", id: "t", name: tool["name"], input: { tags: { a: "x" } } }]
        json(response, 200, { ...message, content, stop_reason: tool === undefined ? "end_turn" : "tool_use" })
      })
      const layer = anthropic(server)
      const City = Schema.Struct({ city: Schema.String.pipe(Schema.minLength(1)) })
      const city = yield* Llm.generateObject(City, ask).pipe(Effect.provide(layer))
      assert.deepStrictEqual(city.value, { city: "Berlin" })
      const native = JSON.parse(first(server).body) as { output_config: { format: { schema: Json } } }
      assert.deepInclude(native.output_config.format.schema, { type: "object", additionalProperties: false })

      const Tags = Schema.Struct({ tags: Schema.Record({ key: Schema.String, value: Schema.String }) })
      const tags = yield* Llm.generateObject(Tags, ask).pipe(Effect.provide(layer))
      assert.deepStrictEqual(tags.value, { tags: { a: "x" } })
      assert.strictEqual(server.seen.length, 2)
      const byTool = JSON.parse(server.seen[1]?.body ?? "") as Json
      assert.notProperty(byTool, "output_config")
      assert.deepInclude(byTool["tool_choice"], { type: "tool" })
    })
  )

  it.scopedLive("goes on where it paused, with what it had found", () =>
    Effect.gen(function* () {
      const use = { type: "server_tool_use", id: "srv_1", name: "web_search", input: {} }
      const found = { type: "web_search_tool_result", tool_use_id: "srv_1", content: [{ encrypted_content: "e" }] }
      const server = yield* serve(({ index, response }) => {
        if (index > 0) return json(response, 200, message)
        return sse(
          response,
          events(
            start,
            { type: "content_block_start", index: 0, content_block: use },
            {
              type: "content_block_delta",
              index: 0,
              delta: { type: "input_json_delta", partial_json: '{"query":"q"}' }
            },
            { type: "content_block_stop", index: 0 },
            { type: "content_block_start", index: 1, content_block: found },
            { type: "content_block_stop", index: 1 },
            { type: "message_delta", delta: { stop_reason: "pause_turn" }, usage: { output_tokens: 9 } },
            { type: "message_stop" }
          )
        )
      })
      yield* Effect.gen(function* () {
        const paused = LlmResponse.fromParts(yield* Stream.runCollect(Llm.stream(ask)))
        assert.strictEqual(paused?.finish, "pause")
        if (paused === undefined) return
        const rest = yield* Llm.generate({ ...ask, messages: [...ask.messages, LlmResponse.toMessage(paused)] })
        assert.strictEqual(rest.text, "Hello")
      }).pipe(Effect.provide(anthropic(server)))
      const { messages } = JSON.parse(server.seen[1]?.body ?? "") as { messages: ReadonlyArray<Json> }
      assert.deepStrictEqual(messages[1], { role: "assistant", content: [{ ...use, input: { query: "q" } }, found] })
    })
  )

  it.scopedLive("is configured by settings, with headers of its own for gateways", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, message))
      const settings = new Map([
        ["anthropic.apiKey", key],
        ["anthropic.model", "claude-haiku-4-5"],
        ["anthropic.baseUrl", `${server.url}/proxy/v1`],
        ["anthropic.version", "2024-01-01"],
        ["anthropic.betas", "a,b"],
        ["anthropic.maxTokens", "777"]
      ])
      yield* Llm.generate({ messages: ask.messages }).pipe(
        Effect.provide(Anthropic.layerConfig().pipe(Layer.provide(FetchHttpClient.layer))),
        Effect.withConfigProvider(ConfigProvider.fromMap(settings))
      )
      const request = first(server)
      assert.strictEqual(request.path, "/proxy/v1/messages")
      assert.deepInclude(request.headers, { "anthropic-version": "2024-01-01", "anthropic-beta": "a,b" })
      assert.deepInclude(JSON.parse(request.body), { model: "claude-haiku-4-5", max_tokens: 777 })

      yield* Llm.generate(ask).pipe(
        Effect.provide(anthropic(server, { headers: { authorization: Redacted.make("Bearer gateway") } }))
      )
      assert.strictEqual(server.seen[1]?.headers["authorization"], "Bearer gateway")
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)
const list = (value: unknown): ReadonlyArray<Json> => (Array.isArray(value) ? value.filter(isRecord) : [])

/** Content in its long form: a text is a list of one block, and what is null is not there. */
const long = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(long)
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, each]) => each !== null)
      .map(([name, each]) => [
        name,
        (name === "content" || name === "system") && typeof each === "string"
          ? [{ type: "text", text: each }]
          : long(each)
      ])
  )
}

const fileOf = (part: Json): ReadonlyArray<ChatMessage.FilePart> => {
  const source = isRecord(part["source"]) ? part["source"] : {}
  if (source["type"] === "url") {
    const mediaType = part["type"] === "image" ? "image/jpeg" : "application/pdf"
    return [{ type: "file", mediaType, source: { type: "url", url: String(source["url"]) } }]
  }
  const bytes = new Uint8Array(Buffer.from(String(source["data"]), source["type"] === "base64" ? "base64" : "utf8"))
  return [{ type: "file", mediaType: String(source["media_type"]), source: { type: "bytes", bytes } }]
}

/** Consecutive turns of one role are one to the API. */
const merged = (value: Json): Json => {
  const turns: Array<{ readonly role: unknown; readonly content: Array<Json> }> = []
  for (const { content, role } of list(value["messages"])) {
    const last = turns.at(-1)
    if (last !== undefined && last.role === role) last.content.push(...list(content))
    else turns.push({ role, content: [...list(content)] })
  }
  return { ...value, messages: turns }
}

/** A recorded request as one of ours; what has no name there goes through the options of the provider. */
const requestOf = (body: Json): LlmRequest.LlmRequest => {
  const messages: Array<ChatMessage.ChatMessage> = []
  const breakpoints: Array<number> = []
  const provider = "anthropic"
  for (const block of list((long(body) as Json)["system"])) {
    messages.push(ChatMessage.system(String(block["text"])))
    if (block["cache_control"] !== undefined) breakpoints.push(messages.length - 1)
  }
  for (const turn of list((long(body) as Json)["messages"])) {
    const blocks = list(turn["content"])
    if (turn["role"] === "assistant") {
      messages.push({
        role: "assistant",
        content: blocks.map((block): ChatMessage.AssistantPart => {
          if (block["type"] === "text") return { type: "text", text: String(block["text"]) }
          if (block["type"] === "thinking") {
            const { signature, thinking } = block
            return { type: "reasoning", text: String(thinking), signature: String(signature), provider }
          }
          if (block["type"] !== "tool_use") return { type: "provider", provider, data: block }
          return { type: "tool-call", id: String(block["id"]), name: String(block["name"]), arguments: block["input"] }
        })
      })
      continue
    }
    for (const block of blocks) {
      if (block["type"] === "tool_result") {
        const result = list(block["content"])
          .map(({ text }) => String(text))
          .join("")
        const isError = block["is_error"] === true
        const id = String(block["tool_use_id"])
        messages.push({ role: "tool", content: [{ type: "tool-result", id, name: "", result, isError }] })
      } else {
        messages.push({
          role: "user",
          content: block["type"] === "text" ? [{ type: "text", text: String(block["text"]) }] : fileOf(block)
        })
      }
      if (block["cache_control"] !== undefined) breakpoints.push(messages.length - 1)
    }
  }
  const { max_tokens, model, stream, tools, ...rest } = body
  const own = list(tools).filter((tool) => typeof tool["type"] === "string" && tool["type"] !== "custom")
  const functions = list(tools).filter((tool) => !own.includes(tool))
  const { messages: _messages, system: _system, ...options } = rest
  return {
    messages,
    model: String(model),
    maxTokens: Number(max_tokens),
    ...(breakpoints.length === 0 ? {} : { promptCache: { breakpoints } }),
    tools: functions.map((tool) => ({
      name: String(tool["name"]),
      description: String(tool["description"]),
      parameters: isRecord(tool["input_schema"]) ? tool["input_schema"] : {}
    })),
    providerOptions: { anthropic: { ...options, ...(own.length === 0 ? {} : { tools: own }) } }
  }
}

const folder = Path.join(Need.sharedData, "llm-corpus", "anthropic")
const recorded = Need.missing("llm-corpus")
  ? []
  : Fs.readdirSync(folder).flatMap((name) => {
      const { api, request } = JSON.parse(Fs.readFileSync(Path.join(folder, name), "utf8")) as Json
      const body = isRecord(request) ? request["body"] : undefined
      return isRecord(body) ? [{ name, api, body }] : []
    })

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recorded requests to Anthropic", "llm-corpus"), () => {
  it("are there", () => assert.isAbove(recorded.length, 5))

  for (const { api, body, name } of recorded) {
    it(`${name}: ours is the same`, () => {
      const request = requestOf(body)
      const dialect = { provider: "anthropic" }
      const model = "another"
      const ours =
        api === "messages/count_tokens"
          ? AnthropicMessages.encodeCount(request, { model, dialect })
          : AnthropicMessages.encode(request, { model, stream: body["stream"] === true, method: "generate", dialect })
      const written = long(JSON.parse(Either.getOrThrow(ours))) as Json
      const said = api === "messages/count_tokens" ? body : { stream: false, ...body }
      assert.deepStrictEqual(merged(written), merged(long(said) as Json))
    })
  }
})
