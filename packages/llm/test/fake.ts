/** A loopback server that speaks the formats of all providers, as far as programs in the documentation need it. */
import { Effect, type Scope } from "effect"
import { type Exchange, json, type Seen, type Server, serve, sse } from "./server.ts"

/**
 * What a model says: text, with reasoning before it, or calls. `cut`: a stream ends after so many events. `annotations`
 * are those of the text where the format is that of Responses.
 */
export interface Said {
  readonly text?: string
  readonly annotations?: ReadonlyArray<unknown>
  readonly cut?: number
  readonly reasoning?: string
  readonly calls?: ReadonlyArray<{ readonly name: string; readonly arguments: unknown }>
}

/** An answer of the server: what the model says, in whatever format is asked for, an error, or nothing for ever. */
export type Answer = string | Said | { readonly status: number; readonly body: unknown } | typeof silence

/** No answer at all. */
export const silence = Symbol("silence")

export interface Fake extends Server {
  /** The bodies of the requests to models, in their order. */
  readonly asked: () => ReadonlyArray<Readonly<Record<string, unknown>>>
}

type Format = (said: Said, stream: boolean) => { readonly body: unknown } | { readonly events: string }

const event = (data: unknown, type?: string): string =>
  `${type === undefined ? "" : `event: ${type}\n`}data: ${JSON.stringify(data)}\n\n`

const words = (text: string): ReadonlyArray<string> => text.match(/\s*\S+/g) ?? []

const chatUsage = { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 }

const chatCompletions: Format = ({ calls, reasoning, text }, stream) => {
  const tool_calls = calls?.map((call, index) => ({
    index,
    id: `call_${index}`,
    type: "function",
    function: { name: call.name, arguments: JSON.stringify(call.arguments) }
  }))
  const rest = {
    ...(reasoning === undefined ? {} : { reasoning }),
    ...(tool_calls === undefined ? {} : { tool_calls })
  }
  const finish = calls === undefined ? "stop" : "tool_calls"
  const chunk = (delta: unknown, finish_reason: string | null = null) =>
    event({ id: "c1", object: "chat.completion.chunk", model: "m-1", choices: [{ index: 0, delta, finish_reason }] })
  return stream
    ? {
        events: [
          chunk({ role: "assistant", content: "", ...rest }),
          ...words(text ?? "").map((content) => chunk({ content })),
          chunk({}, finish),
          event({ id: "c1", object: "chat.completion.chunk", model: "m-1", choices: [], usage: chatUsage }),
          "data: [DONE]\n\n"
        ].join("")
      }
    : {
        body: {
          id: "c1",
          object: "chat.completion",
          created: 1,
          model: "m-1",
          choices: [
            { index: 0, message: { role: "assistant", content: text ?? null, ...rest }, finish_reason: finish }
          ],
          usage: chatUsage
        }
      }
}

const responses: Format = ({ annotations = [], calls, reasoning, text }, stream) => {
  const output = [
    ...(reasoning === undefined
      ? []
      : [{ type: "reasoning", id: "rs_1", summary: [{ type: "summary_text", text: reasoning }] }]),
    ...(text === undefined
      ? []
      : [
          {
            type: "message",
            id: "msg_1",
            role: "assistant",
            status: "completed",
            content: [{ type: "output_text", text, annotations }]
          }
        ]),
    ...(calls ?? []).map((call, index) => ({
      type: "function_call",
      id: `fc_${index}`,
      call_id: `call_${index}`,
      name: call.name,
      arguments: JSON.stringify(call.arguments)
    }))
  ]
  const usage = {
    input_tokens: 12,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: 3,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: 15
  }
  const body = { id: "resp_1", object: "response", model: "m-1", status: "completed", error: null, output, usage }
  if (!stream) return { body }
  const at = { item_id: "msg_1", output_index: 0, content_index: 0 }
  const item = { type: "message", id: "msg_1", role: "assistant", status: "in_progress", content: [] }
  const part = { type: "output_text", text: "", annotations: [] }
  const all: ReadonlyArray<{ readonly type: string } & Record<string, unknown>> = [
    { type: "response.created", response: { ...body, status: "in_progress", output: [], usage: null } },
    { type: "response.output_item.added", output_index: 0, item },
    { type: "response.content_part.added", ...at, part },
    ...words(text ?? "").map((delta) => ({ type: "response.output_text.delta", ...at, delta })),
    { type: "response.output_text.done", ...at, text },
    { type: "response.content_part.done", ...at, part: { ...part, text } },
    { type: "response.output_item.done", output_index: 0, item: output[0] },
    { type: "response.completed", response: body }
  ]
  return { events: all.map((one, sequence_number) => event({ ...one, sequence_number }, one.type)).join("") }
}

const messages: Format = ({ calls, reasoning, text }, stream) => {
  const content = [
    ...(reasoning === undefined ? [] : [{ type: "thinking", thinking: reasoning, signature: "c2lnbmVk" }]),
    ...(text === undefined ? [] : [{ type: "text", text }]),
    ...(calls ?? []).map((call, index) => ({
      type: "tool_use",
      id: `toolu_${index}`,
      name: call.name,
      input: call.arguments
    }))
  ]
  const stop_reason = calls === undefined ? "end_turn" : "tool_use"
  const usage = { input_tokens: 4, cache_read_input_tokens: 0, cache_creation_input_tokens: 2000, output_tokens: 3 }
  const message = {
    id: "msg_1",
    type: "message",
    role: "assistant",
    model: "claude-1",
    content,
    stop_reason,
    stop_sequence: null,
    usage
  }
  if (!stream) return { body: message }
  const all: ReadonlyArray<{ readonly type: string } & Record<string, unknown>> = [
    { type: "message_start", message: { ...message, content: [], stop_reason: null } },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    ...words(text ?? "").map((one) => ({
      type: "content_block_delta",
      index: 0,
      delta: { type: "text_delta", text: one }
    })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason, stop_sequence: null }, usage: { output_tokens: 3 } },
    { type: "message_stop" }
  ]
  return { events: all.map((one) => event(one, one.type)).join("") }
}

const gemini: Format = ({ calls, reasoning, text }, stream) => {
  const body = (parts: ReadonlyArray<unknown>, end: boolean) => ({
    candidates: [{ content: { role: "model", parts }, index: 0, ...(end ? { finishReason: "STOP" } : {}) }],
    usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 2, thoughtsTokenCount: 7, totalTokenCount: 14 },
    modelVersion: "gemini-1",
    responseId: "r1"
  })
  const parts = [
    ...(reasoning === undefined ? [] : [{ text: reasoning, thought: true }]),
    ...(text === undefined ? [] : [{ text }]),
    ...(calls ?? []).map((call) => ({ functionCall: { name: call.name, args: call.arguments } }))
  ]
  if (!stream) return { body: body(parts, true) }
  const pieces = words(text ?? "")
  const all = pieces.map((one, index) => body([{ text: one }], index === pieces.length - 1))
  return { events: all.map((one) => `data: ${JSON.stringify(one)}\r\n\r\n`).join("") }
}

const ollama: Format = ({ calls, reasoning, text }, stream) => {
  const line = (message: object, done: boolean) => ({
    model: "qwen3",
    created_at: "2026-01-01T00:00:00Z",
    message: { role: "assistant", content: "", ...message },
    done,
    ...(done ? { done_reason: "stop", prompt_eval_count: 12, eval_count: 3 } : {})
  })
  const tool_calls = calls?.map((call) => ({ function: { name: call.name, arguments: call.arguments } }))
  const rest = {
    ...(reasoning === undefined ? {} : { thinking: reasoning }),
    ...(tool_calls === undefined ? {} : { tool_calls })
  }
  if (!stream) return { body: line({ content: text ?? "", ...rest }, true) }
  const all = [...words(text ?? "").map((content) => line({ content }, false)), line(rest, true)]
  return { events: all.map((one) => `${JSON.stringify(one)}\n`).join("") }
}

const replicate: Format = ({ text }) => ({
  body: {
    id: "p1",
    model: "owner/name",
    version: "hidden",
    input: {},
    output: words(text ?? ""),
    error: null,
    status: "succeeded",
    metrics: { input_token_count: 7, output_token_count: 3 },
    urls: {}
  }
})

const formats: ReadonlyArray<readonly [path: RegExp, format: Format]> = [
  [/\/responses$/, responses],
  [/\/chat\/completions$/, chatCompletions],
  [/\/messages$/, messages],
  [/:(?:streamG|g)enerateContent$/, gemini],
  [/\/api\/chat$/, ollama],
  [/\/predictions$/, replicate]
]

const vector = (length: number) => Array.from({ length }, (_, index) => (index === 0 ? 1 : 0))

const ollamaModel = (name: string) => ({ name, model: name, details: { family: "qwen3" } })

/** What is answered to everything that is no question to a model, by the path. */
const others: ReadonlyArray<readonly [path: RegExp, answer: (body: Readonly<Record<string, unknown>>) => unknown]> = [
  [/\/responses\/input_tokens$/, () => ({ object: "response.input_tokens", input_tokens: 21 })],
  [/\/messages\/count_tokens$/, () => ({ input_tokens: 21 })],
  [/:countTokens$/, () => ({ totalTokens: 21 })],
  [/\/models$/, () => ({ data: [{ id: "claude-sonnet-4-5" }, { id: "mistral-small-latest" }] })],
  [/\/api\/tags$/, () => ({ models: [ollamaModel("llama3.2:latest")] })],
  [
    /\/api\/show$/,
    () => ({
      capabilities: ["completion", "tools", "thinking"],
      details: { family: "qwen3" },
      model_info: { "general.architecture": "qwen3", "qwen3.context_length": 40_960 }
    })
  ],
  [
    /\/api\/embed$/,
    (body) => ({ model: "nomic-embed-text", embeddings: listOf(body["input"]).map(() => vector(768)) })
  ],
  [
    /\/embeddings$/,
    (body) => ({
      object: "list",
      model: "e-1",
      data: listOf(body["input"]).map((_, index) => ({ object: "embedding", index, embedding: vector(1536) })),
      usage: { prompt_tokens: 9, total_tokens: 9 }
    })
  ],
  [/:batchEmbedContents$/, (body) => ({ embeddings: listOf(body["requests"]).map(() => ({ values: vector(3072) })) })],
  [/\/feature-extraction$/, (body) => listOf(body["inputs"]).map(() => vector(384))]
]

const listOf = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [value])

const pulled = [
  { status: "pulling manifest" },
  { status: "pulling aa", digest: "sha256:aa", total: 100, completed: 40 },
  { status: "pulling aa", digest: "sha256:aa", total: 100, completed: 100 },
  { status: "success" }
]

const pathOf = ({ path }: Seen): string => path.replace(/\?.*$/, "")

const bodyOf = ({ body }: Seen): Readonly<Record<string, unknown>> => (body === "" ? {} : JSON.parse(body))

const formatOf = (request: Seen): Format | undefined => {
  const path = pathOf(request)
  return request.method === "POST" ? formats.find(([pattern]) => pattern.test(path))?.[1] : undefined
}

const isStreamed = (request: Seen): boolean => {
  const { stream } = bodyOf(request)
  // Ollama streams unless it is told not to.
  return (
    stream === true || /:streamGenerateContent/.test(request.path) || (/chat$/.test(request.path) && stream !== false)
  )
}

const cut = (events: string, count: number | undefined): string =>
  count === undefined
    ? events
    : events
        .split(/(?<=\n\n)/)
        .slice(0, count)
        .join("")

const rateLimits = {
  "x-ratelimit-limit-tokens": "6000",
  "x-ratelimit-remaining-tokens": "5988",
  "x-ratelimit-reset-tokens": "120ms"
}

/** Starts it. Questions to models get the answers in their order, the last one again and again. */
export const make = (answers: ReadonlyArray<Answer>): Effect.Effect<Fake, never, Scope.Scope> =>
  Effect.suspend(() => {
    let index = 0
    const handle = ({ request, response }: Exchange): void => {
      const format = formatOf(request)
      const path = pathOf(request)
      if (/\/api\/pull$/.test(path)) {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.end(pulled.map((one) => `${JSON.stringify(one)}\n`).join(""))
        return
      }
      if (format === undefined) {
        const answer = others.find(([pattern]) => pattern.test(path))?.[1]
        if (answer === undefined) json(response, 404, { error: { message: `nothing is at ${path}` } })
        else json(response, 200, answer(bodyOf(request)))
        return
      }
      const answer = answers[Math.min(index++, answers.length - 1)] ?? ""
      if (answer === silence) return
      if (typeof answer === "object" && "status" in answer) {
        json(response, answer.status, answer.body)
        return
      }
      const words: Said = typeof answer === "string" ? { text: answer } : answer
      const said = format(words, isStreamed(request))
      if ("events" in said) sse(response, cut(said.events, words.cut))
      else json(response, 200, said.body, rateLimits)
    }
    return Effect.map(serve(handle), (server) => ({
      ...server,
      asked: () => server.seen.filter((request) => formatOf(request) !== undefined).map(bodyOf)
    }))
  })
