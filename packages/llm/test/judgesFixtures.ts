/** Small answers in every format, written by hand from what the providers document, for the judges and for replays. */
import type { LlmTest } from "@underlay/llm"
import { answered, usage } from "./server.ts"

const exchange = (provider: string, api: string, body: unknown): LlmTest.Recording => ({
  provider,
  api,
  stream: false,
  response: {
    status: 200,
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body)
  }
})

const streaming = (provider: string, api: string, body: string, type = "text/event-stream"): LlmTest.Recording => ({
  provider,
  api,
  stream: true,
  response: { status: 200, headers: { "content-type": type }, body }
})

const data = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const named = (value: { readonly type: string }): string => `event: ${value.type}\n${data(value)}`
const crlf = (value: unknown): string => `data: ${JSON.stringify(value)}\r\n\r\n`
const line = (value: unknown): string => `${JSON.stringify(value)}\n`

const chatChunk = (delta: unknown, finish: string | null = null) =>
  data({ id: "c2", object: "chat.completion.chunk", model: "m", choices: [{ index: 0, delta, finish_reason: finish }] })

const chatCalls = [
  chatChunk({ role: "assistant", content: null }),
  chatChunk({
    tool_calls: [{ index: 0, id: "a", type: "function", function: { name: "weather", arguments: "" } }]
  }),
  chatChunk({ tool_calls: [{ index: 0, function: { arguments: '{"city":' } }] }),
  chatChunk({
    tool_calls: [{ index: 1, id: "b", type: "function", function: { name: "now", arguments: "" } }]
  }),
  chatChunk({ tool_calls: [{ index: 0, function: { arguments: '"Zürich"}' } }] }),
  chatChunk({ tool_calls: [{ index: 1, function: { arguments: "{}" } }] }),
  chatChunk({}, "tool_calls"),
  "data: [DONE]\n\n"
].join("")

const chatText = [
  chatChunk({ role: "assistant", content: "" }),
  chatChunk({ content: "Hel" }),
  chatChunk({ content: "lo 🌍" }),
  chatChunk({}, "stop"),
  data({ id: "c2", object: "chat.completion.chunk", model: "m", choices: [], usage }),
  "data: [DONE]\n\n"
].join("")

const response = (rest: Record<string, unknown>) => ({
  id: "resp_1",
  object: "response",
  created_at: 1,
  model: "m-2026",
  parallel_tool_calls: true,
  tools: [],
  error: null,
  incomplete_details: null,
  ...rest
})

const responseUsage = {
  input_tokens: 9,
  input_tokens_details: { cached_tokens: 4 },
  output_tokens: 5,
  output_tokens_details: { reasoning_tokens: 2 },
  total_tokens: 14
}

const outputText = (text: string) => ({ type: "output_text", text, annotations: [], logprobs: [] })
const messageItem = (content: ReadonlyArray<unknown>, status: string) => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  status,
  content
})
const callItem = (args: string, status: string) => ({
  id: "fc_1",
  type: "function_call",
  call_id: "call_1",
  name: "weather",
  arguments: args,
  status
})

const wholeOutput = [messageItem([outputText("Grüße 🌍")], "completed"), callItem('{"city":"Bern"}', "completed")]

const responsesEvents = [
  { type: "response.created", response: response({ status: "in_progress", output: [] }) },
  { type: "response.output_item.added", output_index: 0, item: messageItem([], "in_progress") },
  {
    type: "response.content_part.added",
    item_id: "msg_1",
    output_index: 0,
    content_index: 0,
    part: outputText("")
  },
  { type: "response.output_text.delta", item_id: "msg_1", output_index: 0, content_index: 0, delta: "Grüße" },
  { type: "response.output_text.delta", item_id: "msg_1", output_index: 0, content_index: 0, delta: " 🌍" },
  { type: "response.output_text.done", item_id: "msg_1", output_index: 0, content_index: 0, text: "Grüße 🌍" },
  {
    type: "response.content_part.done",
    item_id: "msg_1",
    output_index: 0,
    content_index: 0,
    part: outputText("Grüße 🌍")
  },
  { type: "response.output_item.done", output_index: 0, item: wholeOutput[0] },
  { type: "response.output_item.added", output_index: 1, item: callItem("", "in_progress") },
  { type: "response.function_call_arguments.delta", item_id: "fc_1", output_index: 1, delta: '{"city":' },
  { type: "response.function_call_arguments.delta", item_id: "fc_1", output_index: 1, delta: '"Bern"}' },
  {
    type: "response.function_call_arguments.done",
    item_id: "fc_1",
    output_index: 1,
    name: "weather",
    arguments: '{"city":"Bern"}'
  },
  { type: "response.output_item.done", output_index: 1, item: wholeOutput[1] }
].map((event, index) => ({ ...event, sequence_number: index }))

const responsesEnd = {
  type: "response.completed",
  sequence_number: 99,
  response: response({ status: "completed", output: wholeOutput, usage: responseUsage })
}

const claude = (rest: Record<string, unknown>) => ({
  id: "msg_a",
  type: "message",
  role: "assistant",
  model: "claude-m",
  stop_sequence: null,
  ...rest
})

const claudeStart = {
  type: "message_start",
  message: claude({
    content: [],
    stop_reason: null,
    usage: { input_tokens: 7, cache_read_input_tokens: 20, cache_creation_input_tokens: 3, output_tokens: 1 }
  })
}

const claudeEvents = [
  claudeStart,
  { type: "ping" },
  { type: "content_block_start", index: 0, content_block: { type: "thinking", thinking: "", signature: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: "Hm" } },
  { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: "m." } },
  { type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "c2ln" } },
  { type: "content_block_stop", index: 0 },
  { type: "content_block_start", index: 1, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: "Let me " } },
  { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: "look." } },
  { type: "content_block_stop", index: 1 },
  { type: "content_block_start", index: 2, content_block: { type: "tool_use", id: "t1", name: "now", input: {} } },
  { type: "content_block_delta", index: 2, delta: { type: "input_json_delta", partial_json: "" } },
  { type: "content_block_stop", index: 2 },
  { type: "content_block_start", index: 3, content_block: { type: "tool_use", id: "t2", name: "weather", input: {} } },
  { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: '{"city"' } },
  { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: ': "Bern"}' } },
  { type: "content_block_stop", index: 3 },
  {
    type: "message_delta",
    delta: { stop_reason: "tool_use", stop_sequence: null },
    usage: { output_tokens: 33, output_tokens_details: { thinking_tokens: 12 } }
  },
  { type: "message_stop" }
]

const overloaded = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } }

const gemini = (parts: ReadonlyArray<unknown>, rest: Record<string, unknown> = {}, candidate = {}) => ({
  candidates: [{ content: { role: "model", parts }, index: 0, ...candidate }],
  modelVersion: "gemini-m",
  responseId: "r1",
  ...rest
})

const geminiUsage = { promptTokenCount: 8, candidatesTokenCount: 6, thoughtsTokenCount: 10, totalTokenCount: 24 }

const ollamaLine = (message: unknown, rest: Record<string, unknown> = {}) =>
  line({ model: "llama", created_at: "2026-01-01T00:00:00Z", message, done: false, ...rest })

const ollamaEnd = { done: true, done_reason: "stop", prompt_eval_count: 11, eval_count: 4, total_duration: 5 }

/** A recording of each kind, by name. */
export const fixtures: Readonly<Record<string, LlmTest.Recording>> = {
  "chat-text": exchange("openai", "chat/completions", answered("Hello")),
  "chat-stream-text": streaming("openai", "chat/completions", chatText),
  "chat-stream-calls": streaming("openai", "chat/completions", chatCalls),
  "chat-stream-cut": streaming("openai", "chat/completions", chatChunk({ role: "assistant", content: "Hel" })),
  "chat-stream-error": streaming(
    "openai",
    "chat/completions",
    `${chatChunk({ role: "assistant", content: "Hel" })}${data({ error: { message: "broken", type: "server_error" } })}`
  ),
  "groq-text": exchange("groq", "chat/completions", answered("Hello")),
  "groq-stream-text": streaming("groq", "chat/completions", chatText),
  "responses-whole": exchange(
    "openai",
    "responses",
    response({ status: "completed", output: wholeOutput, usage: responseUsage })
  ),
  "responses-stream": streaming("openai", "responses", [...responsesEvents, responsesEnd].map(named).join("")),
  "responses-stream-incomplete": streaming(
    "openai",
    "responses",
    [
      ...responsesEvents.slice(0, 5),
      {
        type: "response.incomplete",
        response: response({
          status: "incomplete",
          incomplete_details: { reason: "max_output_tokens" },
          output: [messageItem([outputText("Grüße 🌍")], "incomplete")],
          usage: responseUsage
        })
      }
    ]
      .map(named)
      .join("")
  ),
  "responses-stream-error": streaming(
    "openai",
    "responses",
    [...responsesEvents.slice(0, 5), { type: "error", code: "server_error", message: "broken", param: null }]
      .map(named)
      .join("")
  ),
  "responses-count": exchange("openai", "responses/input_tokens", {
    object: "response.input_tokens",
    input_tokens: 11
  }),
  embeddings: exchange("openai", "embeddings", {
    object: "list",
    data: [{ object: "embedding", index: 0, embedding: [0.5, -0.25, 1] }],
    model: "e",
    usage: { prompt_tokens: 2, total_tokens: 2 }
  }),
  "embeddings-base64": exchange("openai", "embeddings", {
    object: "list",
    // 0.5, -0.25 and 1 as little-endian 32-bit floats.
    data: [{ object: "embedding", index: 0, embedding: "AAAAPwAAgL4AAIA/" }],
    model: "e",
    usage: { prompt_tokens: 2, total_tokens: 2 }
  }),
  "messages-whole": exchange(
    "anthropic",
    "messages",
    claude({
      content: [
        { type: "thinking", thinking: "Hmm.", signature: "c2ln" },
        { type: "text", text: "Hello" },
        { type: "tool_use", id: "t1", name: "weather", input: { city: "Bern" } }
      ],
      stop_reason: "tool_use",
      usage: { input_tokens: 7, cache_read_input_tokens: 0, cache_creation_input_tokens: 0, output_tokens: 9 }
    })
  ),
  "messages-stream": streaming("anthropic", "messages", claudeEvents.map(named).join("")),
  "messages-stream-cut": streaming("anthropic", "messages", claudeEvents.slice(0, 10).map(named).join("")),
  "messages-stream-overloaded": streaming(
    "anthropic",
    "messages",
    [...claudeEvents.slice(0, 10), overloaded].map(named).join("")
  ),
  "messages-count": exchange("anthropic", "messages/count_tokens", { input_tokens: 14 }),
  "gemini-whole": exchange(
    "google",
    "generateContent",
    gemini(
      [
        { text: "Hm", thought: true },
        { text: "Hello" },
        { functionCall: { name: "weather", args: { city: "Bern" } }, thoughtSignature: "c2ln" }
      ],
      { usageMetadata: geminiUsage },
      { finishReason: "STOP" }
    )
  ),
  "gemini-stream": streaming(
    "google",
    "streamGenerateContent",
    [
      gemini([{ text: "Hm", thought: true }], { usageMetadata: { promptTokenCount: 8, thoughtsTokenCount: 4 } }),
      gemini([{ text: "Grüße" }], { usageMetadata: { ...geminiUsage, candidatesTokenCount: 3 } }),
      gemini([{ text: " 🌍" }, { functionCall: { name: "now", args: {} } }], { usageMetadata: geminiUsage }),
      gemini([{ text: "" }], { usageMetadata: geminiUsage }, { finishReason: "STOP" })
    ]
      .map(crlf)
      .join("")
  ),
  "gemini-blocked": exchange("google", "generateContent", {
    promptFeedback: { blockReason: "SAFETY" },
    usageMetadata: { promptTokenCount: 8, totalTokenCount: 8 },
    modelVersion: "gemini-m",
    responseId: "r2"
  }),
  "gemini-count": exchange("google", "countTokens", { totalTokens: 5 }),
  "gemini-embeddings": exchange("google", "batchEmbedContents", { embeddings: [{ values: [0.5, -0.25, 1] }] }),
  "ollama-chat": exchange("ollama", "api/chat", {
    model: "llama",
    created_at: "2026-01-01T00:00:00Z",
    message: {
      role: "assistant",
      content: "Hello",
      thinking: "Hm",
      tool_calls: [{ function: { name: "weather", arguments: { city: "Bern" } } }]
    },
    ...ollamaEnd
  }),
  "ollama-chat-stream": streaming(
    "ollama",
    "api/chat",
    [
      ollamaLine({ role: "assistant", content: "", thinking: "Hm" }),
      ollamaLine({ role: "assistant", content: "Grüße" }),
      ollamaLine({ role: "assistant", content: " 🌍" }),
      ollamaLine({ role: "assistant", content: "", tool_calls: [{ function: { name: "now", arguments: {} } }] }),
      ollamaLine({ role: "assistant", content: "" }, ollamaEnd)
    ].join(""),
    "application/x-ndjson"
  ),
  "ollama-chat-stream-cut": streaming(
    "ollama",
    "api/chat",
    ollamaLine({ role: "assistant", content: "Grüße" }),
    "application/x-ndjson"
  ),
  "ollama-chat-stream-error": streaming(
    "ollama",
    "api/chat",
    `${ollamaLine({ role: "assistant", content: "Grüße" })}${line({ error: "the runner has stopped" })}`,
    "application/x-ndjson"
  ),
  "ollama-generate": exchange("ollama", "api/generate", {
    model: "llama",
    created_at: "2026-01-01T00:00:00Z",
    response: "Hello",
    context: [1, 2],
    ...ollamaEnd
  }),
  "ollama-generate-stream": streaming(
    "ollama",
    "api/generate",
    [
      line({ model: "llama", response: "Hel", done: false }),
      line({ model: "llama", response: "lo", done: false }),
      line({ model: "llama", response: "", ...ollamaEnd })
    ].join(""),
    "application/x-ndjson"
  ),
  "ollama-embed": exchange("ollama", "api/embed", {
    model: "e",
    embeddings: [[0.5, -0.25, 1]],
    prompt_eval_count: 2
  })
}
