import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { type Llm, LlmResponse, LlmTest, LlmTool, OllamaChat, Protocol } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either, FastCheck, Schema } from "effect"
import { casesOf } from "./corpus.ts"

const context = { provider: "ollama", model: "m", method: "stream" }
const utf8 = (text: string) => new TextEncoder().encode(text)

const said = (message: unknown, rest: Record<string, unknown> = {}) =>
  `${JSON.stringify({ model: "m", created_at: "2026-01-02T03:04:05.678901Z", message, done: false, ...rest })}\n`

const last = (rest: Record<string, unknown> = {}) =>
  said(
    { role: "assistant", content: "" },
    { done: true, done_reason: "stop", prompt_eval_count: 9, eval_count: 4, ...rest }
  )

const text = (content: string) => said({ role: "assistant", content })

const run = (chunks: ReadonlyArray<Uint8Array>): Either.Either<Llm.LlmResponse, Llm.LlmError> => {
  const decoder = OllamaChat.makeStreamDecoder(context)
  const parts: Array<Llm.LlmStreamPart> = []
  for (const chunk of chunks) parts.push(...decoder.push(chunk))
  parts.push(...decoder.end())
  const failure = decoder.failure()
  if (failure !== undefined) return Either.left(failure)
  const response = LlmResponse.fromParts(parts)
  if (response === undefined) throw new Error("a stream that neither failed nor finished")
  return Either.right(response)
}

const stream = (...lines: ReadonlyArray<string>) => run([utf8(lines.join(""))])
const right = <A>(result: Either.Either<A, Llm.LlmError>): A => Either.getOrThrow(result)
const left = (result: Either.Either<unknown, Llm.LlmError>): Llm.LlmError => Either.getOrThrow(Either.flip(result))

const split = (bytes: Uint8Array, sizes: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  let from = 0
  for (const size of sizes) {
    chunks.push(bytes.slice(from, from + size))
    from += size
  }
  chunks.push(bytes.slice(from))
  return chunks
}

const encoded = (
  request: Llm.LlmRequest,
  options: { readonly stream?: boolean; readonly dialect?: Partial<OllamaChat.Dialect> } = {}
) =>
  Either.map(
    OllamaChat.encode(request, {
      model: "m",
      method: "generate",
      stream: options.stream ?? false,
      dialect: { provider: "ollama", ...options.dialect }
    }),
    (body) => JSON.parse(body) as Record<string, unknown>
  )

const parametersOf = (parameters: Record<string, unknown>): unknown => {
  const { tools } = right(encoded({ ...ask, tools: [{ name: "f", parameters }] }))
  const [tool] = tools as ReadonlyArray<{ readonly function: { readonly parameters: unknown } }>
  return tool?.function.parameters
}

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

describe("Ollama's requests", () => {
  it("are a model, messages and no stream", () => {
    assert.deepStrictEqual(right(encoded({ messages: [ChatMessage.system("be kind"), ...ask.messages] })), {
      model: "m",
      messages: [
        { role: "system", content: "be kind" },
        { role: "user", content: "hi" }
      ],
      stream: false
    })
    assert.strictEqual(right(encoded({ ...ask, model: "other" }, { stream: true }))["stream"], true)
    assert.strictEqual(right(encoded({ ...ask, model: "other" }))["model"], "other")
  })

  it("have the settings of sampling among the options, where those of the provider win", () => {
    const body = right(
      encoded(
        {
          ...ask,
          temperature: 0,
          topP: 0.9,
          topK: 20,
          frequencyPenalty: 0.1,
          presencePenalty: 0.2,
          maxTokens: 50,
          seed: 7,
          stop: ["END"],
          promptCache: { key: "k" },
          parallelToolCalls: false,
          providerOptions: {
            ollama: { options: { num_ctx: 8192, min_p: 0.05, seed: 8 }, keep_alive: "10m", logprobs: true },
            openai: { service_tier: "flex" }
          }
        },
        { dialect: { options: { num_ctx: 4096, num_gpu: 1, min_p: undefined }, keepAlive: 60 } }
      )
    )
    assert.deepStrictEqual(body["options"], {
      num_ctx: 8192,
      num_gpu: 1,
      temperature: 0,
      top_p: 0.9,
      top_k: 20,
      frequency_penalty: 0.1,
      presence_penalty: 0.2,
      num_predict: 50,
      seed: 8,
      stop: ["END"],
      min_p: 0.05
    })
    assert.strictEqual(body["keep_alive"], "10m")
    assert.strictEqual(body["logprobs"], true)
    assert.deepStrictEqual(Object.keys(body).sort(), [
      "keep_alive",
      "logprobs",
      "messages",
      "model",
      "options",
      "stream"
    ])
  })

  it("have the layer's context window and keep_alive where the request says nothing, and how to decode is not the caller's", () => {
    const body = right(
      encoded(
        { ...ask, providerOptions: { ollama: { stream: true } } },
        { dialect: { options: { num_ctx: 4096 }, keepAlive: -1 } }
      )
    )
    assert.deepStrictEqual(body["options"], { num_ctx: 4096 })
    assert.strictEqual(body["keep_alive"], -1)
    assert.strictEqual(body["stream"], false)
  })

  it("say how long to think in the server's words", () => {
    const think = (reasoningEffort: string) => right(encoded({ ...ask, reasoningEffort }))["think"]
    assert.deepStrictEqual(["none", "minimal", "low", "medium", "high", "xhigh", "max"].map(think), [
      false,
      "low",
      "low",
      "medium",
      "high",
      "max",
      "max"
    ])
    assert.isUndefined(right(encoded(ask))["think"])
    const own = encoded({ ...ask, reasoningEffort: "low", providerOptions: { ollama: { think: true } } })
    assert.strictEqual(right(own)["think"], true)
  })

  it("ask for JSON by name or by its schema", () => {
    const schema = { type: "object", properties: { a: { $ref: "#/$defs/A" } }, $defs: { A: { type: "string" } } }
    const format = (responseFormat: NonNullable<Llm.LlmRequest["responseFormat"]>) =>
      right(encoded({ ...ask, responseFormat }))["format"]
    assert.isUndefined(format({ type: "text" }))
    assert.strictEqual(format({ type: "json" }), "json")
    assert.deepStrictEqual(format({ type: "json-schema", name: "a", schema, strict: true }), schema)
  })

  it("carry images and sound by their bytes, text files as text", () => {
    const bytes = Uint8Array.of(1, 2, 3)
    const body = right(
      encoded({
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "look" },
              { type: "file", mediaType: "image/png", source: { type: "bytes", bytes } },
              { type: "file", mediaType: "image/png", source: { type: "url", url: "data:image/png;base64,BAUG" } },
              { type: "file", mediaType: "audio/wav", source: { type: "bytes", bytes: Uint8Array.of(7) } },
              { type: "file", mediaType: "text/csv", name: "a.csv", source: { type: "bytes", bytes: utf8("x,y") } },
              { type: "text", text: "what is it?" }
            ]
          }
        ]
      })
    )
    assert.deepStrictEqual(body["messages"], [
      { role: "user", content: "look\n\na.csv:\nx,y\n\nwhat is it?", images: ["AQID", "BAUG", "Bw=="] }
    ])
  })

  it("refuse what the format cannot carry, and say what to do", () => {
    const file = (mediaType: string, source: ChatMessage.FilePart["source"]) =>
      left(encoded({ messages: [{ role: "user", content: [{ type: "file", mediaType, source }] }] }))
    const url = file("image/png", { type: "url", url: "https://example.com/secret.png" })
    assert.deepStrictEqual(
      [url.reason, url.retryable, url.method, url.model, url.issue],
      ["InvalidRequest", false, "generate", "m", "Ollama takes no image/png by URL: send its bytes"]
    )
    assert.include(file("application/pdf", { type: "bytes", bytes: utf8("%PDF") }).issue ?? "", "application/pdf")
    assert.include(file("text/plain", { type: "url", url: "https://example.com" }).issue ?? "", "send its text")
    const tools = [{ name: "f", parameters: {} }]
    for (const toolChoice of ["required", { name: "f" }] as const) {
      assert.include(left(encoded({ ...ask, tools, toolChoice })).issue ?? "", "toolChoice")
    }
    assert.include(left(encoded({ messages: [] })).issue ?? "", "message")
    const loop: Record<string, unknown> = {}
    loop["loop"] = loop
    const result = { type: "tool-result" as const, id: "1", name: "f", result: loop }
    assert.include(left(encoded({ messages: [{ role: "tool", content: [result] }] })).issue ?? "", "JSON")
  })

  it("describe tools, which a choice of none leaves out", () => {
    const weather = LlmTool.make("weather", {
      description: "The weather of a city",
      parameters: Schema.Struct({ city: Schema.String, unit: Schema.Literal("c", "f") })
    })
    const tools = right(encoded({ ...ask, tools: [weather], toolChoice: "auto" }))["tools"]
    assert.deepStrictEqual(tools, [
      {
        type: "function",
        function: {
          name: "weather",
          description: "The weather of a city",
          parameters: {
            type: "object",
            required: ["city", "unit"],
            properties: { city: { type: "string" }, unit: { type: "string", enum: ["c", "f"] } },
            additionalProperties: false
          }
        }
      }
    ])
    assert.isUndefined(right(encoded({ ...ask, tools: [weather], toolChoice: "none" }))["tools"])
    assert.isUndefined(right(encoded({ ...ask, tools: [] }))["tools"])
  })

  it("write the references of a tool's schema out, since the server knows none", () => {
    const parameters = {
      type: "object",
      properties: {
        home: { $ref: "#/$defs/Place", description: "where" },
        any: true,
        either: { oneOf: [{ const: 1 }, { $ref: "#/$defs/Place" }] },
        tree: { $ref: "#/$defs/Tree" },
        all: { allOf: [{ $ref: "#/$defs/Place" }] }
      },
      $defs: {
        Place: { type: "object", properties: { city: { type: "string" } } },
        Tree: { type: "object", properties: { children: { type: "array", items: { $ref: "#/$defs/Tree" } } } }
      }
    }
    const place = { type: "object", properties: { city: { type: "string" } } }
    assert.deepStrictEqual(parametersOf(parameters), {
      type: "object",
      properties: {
        home: { ...place, description: "where" },
        any: {},
        either: { anyOf: [{ enum: [1] }, place] },
        tree: { type: "object", properties: { children: { type: "array", items: { type: "object" } } } },
        all: place
      }
    })
    assert.deepStrictEqual(parametersOf({}), { type: "object", properties: {} })
  })

  it("write references out only so far that definitions which speak of each other do not grow beyond measure", () => {
    const kinds = Array.from({ length: 12 }, (_, index) => `Node${index}`)
    const $defs = Object.fromEntries(
      kinds.map((kind) => [
        kind,
        { type: "object", properties: Object.fromEntries(kinds.map((name) => [name, { $ref: `#/$defs/${name}` }])) }
      ])
    )
    const parameters = parametersOf({ type: "object", properties: { tree: { $ref: "#/$defs/Node0" } }, $defs })
    const text = JSON.stringify(parameters)
    assert.isBelow(text.length, 50_000)
    assert.notInclude(text, "$ref")
    const tree = (parameters as { readonly properties: { readonly tree: Record<string, unknown> } }).properties.tree
    assert.deepStrictEqual(Object.keys(tree["properties"] as object), kinds)
  })

  it("send back what was said: thinking, calls with objects for arguments, results by name and id", () => {
    const body = right(
      encoded({
        messages: [
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "let me see" },
              { type: "reasoning", text: "secret of another", signature: "s", provider: "anthropic" },
              { type: "provider", provider: "anthropic", data: { type: "redacted_thinking" } },
              { type: "text", text: "I ask." },
              { type: "tool-call", id: "c1", name: "weather", arguments: { city: "Rome" } },
              { type: "tool-call", id: "c2", name: "now", arguments: undefined },
              { type: "tool-call", id: "c3", name: "list", arguments: [1] }
            ]
          },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "c1", name: "weather", result: { celsius: 21 } },
              { type: "tool-result", id: "c2", name: "now", result: "no clock", isError: true }
            ]
          }
        ]
      })
    )
    assert.deepStrictEqual(body["messages"], [
      {
        role: "assistant",
        content: "I ask.",
        thinking: "let me see",
        tool_calls: [
          { id: "c1", function: { name: "weather", arguments: { city: "Rome" } } },
          { id: "c2", function: { name: "now", arguments: {} } },
          { id: "c3", function: { name: "list", arguments: { value: [1] } } }
        ]
      },
      { role: "tool", content: '{"celsius":21}', tool_name: "weather", tool_call_id: "c1" },
      { role: "tool", content: "Error: no clock", tool_name: "now", tool_call_id: "c2" }
    ])
  })
})

describe("Ollama's answers", () => {
  it("have text, thinking, calls, usage and the model", () => {
    const body = JSON.stringify({
      model: "m:8b",
      message: {
        role: "assistant",
        content: "Hello",
        thinking: "hm",
        tool_calls: [{ function: { name: "f", arguments: { a: 1 } } }]
      },
      done: true,
      done_reason: "stop",
      prompt_eval_count: 9,
      eval_count: 4,
      something_new: [{}]
    })
    const response = right(OllamaChat.decode(body, context))
    const [call] = response.toolCalls
    assert.deepStrictEqual(
      [response.text, response.reasoning, response.model, response.id, response.finish, response.finishReason],
      ["Hello", "hm", "m:8b", undefined, "tool-calls", "stop"]
    )
    assert.deepStrictEqual(response.usage, { input: 9, output: 4 })
    assert.deepStrictEqual([call?.name, call?.arguments], ["f", { a: 1 }])
    assert.deepStrictEqual(
      response.content.map((part) => part.type),
      ["reasoning", "text", "tool-call"]
    )
  })

  it("of /api/generate are read too, and leave unsaid what the server leaves out", () => {
    const body = JSON.stringify({ model: "m", response: "Hi", thinking: "hm", done: true, eval_count: 2 })
    const response = right(OllamaChat.decode(body, context))
    assert.deepStrictEqual([response.text, response.reasoning, response.finish], ["Hi", "hm", "stop"])
    assert.deepStrictEqual(response.usage, { input: undefined, output: 2 })
  })

  it("have the reasons mapped: a limit, a model that was only loaded", () => {
    const finish = (done_reason: string) =>
      right(OllamaChat.decode(JSON.stringify({ message: { content: "" }, done: true, done_reason }), context)).finish
    assert.deepStrictEqual(["stop", "length", "load", "unload", "new one"].map(finish), [
      "stop",
      "length",
      "other",
      "other",
      "other"
    ])
  })

  it("of a server that streams whatever it is asked are put together", () => {
    const response = right(OllamaChat.decode(text("Hel") + text("lo") + last(), context))
    assert.deepStrictEqual([response.text, response.finish, response.usage], ["Hello", "stop", { input: 9, output: 4 }])
    const cut = left(OllamaChat.decode(text("Hel") + text("lo"), context))
    assert.deepStrictEqual([cut.reason, cut.partial?.text], ["StreamTruncated", "Hello"])
  })

  it("that are an error in spite of their status fail with it", () => {
    const error = left(OllamaChat.decode('{"error":"model requires more system memory"}', context))
    assert.deepStrictEqual([error.providerMessage, error.midStream], ["model requires more system memory", false])
    const nested = left(OllamaChat.decode('{"error":{"message":"no","code":"model_not_found"}}', context))
    assert.strictEqual(nested.reason, "NotFound")
  })

  it("that are nothing the protocol allows are malformed, never a success", () => {
    for (const body of [
      "",
      " ",
      "<html>",
      "[]",
      "{}",
      "null",
      '"text"',
      '{"model":"m","done":true}',
      '{"message":"x"}'
    ]) {
      assert.strictEqual(left(OllamaChat.decode(body, context)).reason, "MalformedResponse", body)
    }
    // Cut short, it is no stream that had begun.
    const cut = left(OllamaChat.decode('{"message":{"content":"Hel', context))
    assert.deepStrictEqual([cut.reason, cut.midStream, cut.isRetryable], ["MalformedResponse", false, false])
    const open = left(OllamaChat.decode(JSON.stringify({ message: { content: "Hel" }, done: false }), context))
    assert.deepStrictEqual([open.reason, open.issue], ["MalformedResponse", "the answer is not done"])
  })
})

describe("Ollama's errors", () => {
  it("are told apart by status and wording (complaint 10: error mapping)", () => {
    const reason = (status: number, error: string) => {
      const body = JSON.stringify({ error })
      const failure = Protocol.decodeError({ status, headers: {}, body, now: 0 }, context)
      assert.strictEqual(failure.providerMessage, error)
      return [failure.reason, failure.retryable]
    }
    const tooLong = "the prompt is longer than the context length currently available to the model; shorten the prompt"
    assert.deepStrictEqual(
      [
        reason(404, 'model "m" not found, try pulling it first'),
        reason(400, '"m" does not support thinking'),
        reason(400, '"m" does not support tools'),
        reason(400, tooLong),
        reason(400, "the input length exceeds the context length"),
        reason(400, "prompt too long; exceeded max context length by 12 tokens"),
        reason(401, "unauthorized"),
        reason(403, "remote inference is unavailable"),
        reason(429, "too many requests"),
        reason(503, "server busy, please try again.  maximum pending requests exceeded"),
        reason(500, "llama runner process has terminated")
      ],
      [
        ["NotFound", false],
        ["InvalidRequest", false],
        ["InvalidRequest", false],
        ["ContextLengthExceeded", false],
        ["ContextLengthExceeded", false],
        ["ContextLengthExceeded", false],
        ["Authentication", false],
        ["PermissionDenied", false],
        ["RateLimited", true],
        ["Overloaded", true],
        ["ServerError", true]
      ]
    )
  })
})

describe("Ollama's streams", () => {
  it("hand on thinking, text and calls in their order, and finish with the usage", () => {
    const decoder = OllamaChat.makeStreamDecoder(context)
    const parts = [
      ...decoder.push(utf8(said({ content: "", thinking: "hm" }) + text("Hel") + text("lo"))),
      ...decoder.push(utf8(said({ content: "", tool_calls: [{ function: { name: "f", arguments: {} } }] }) + last())),
      ...decoder.end()
    ]
    assert.deepStrictEqual(
      parts.map((part) => part.type),
      ["reasoning-delta", "text-delta", "text-delta", "tool-call", "finish"]
    )
    const response = LlmResponse.fromParts(parts)
    assert.deepStrictEqual(
      [response?.text, response?.reasoning, response?.finish, response?.model, response?.usage],
      ["Hello", "hm", "tool-calls", "m", { input: 9, output: 4 }]
    )
    assert.deepStrictEqual(
      response?.content.map((part) => part.type),
      ["reasoning", "text", "tool-call"]
    )
    assert.isTrue(decoder.done())
  })

  it("of /api/generate are read too", () => {
    const line = (rest: unknown) => `${JSON.stringify({ model: "m", done: false, ...(rest as object) })}\n`
    const response = right(
      stream(line({ response: "", thinking: "hm" }), line({ response: "Hi" }), line({ response: "", done: true }))
    )
    assert.deepStrictEqual([response.text, response.reasoning, response.finish], ["Hi", "hm", "stop"])
  })

  it("say tool-calls although the server says stop (complaint 9: Ollama's finish)", () => {
    const call = said({ content: "", tool_calls: [{ function: { name: "f", arguments: { a: 1 } } }] })
    const response = right(stream(call, last({ done_reason: "stop" })))
    assert.deepStrictEqual([response.finish, response.finishReason], ["tool-calls", "stop"])
    assert.strictEqual(right(stream(call, last({ done_reason: "length" }))).finish, "length")
  })

  it("keep calls apart that all have index 0 and no id, with ids of their own (complaint 9)", () => {
    const entry = (a: number) => ({ function: { index: 0, name: "f", arguments: { a } } })
    const response = right(
      stream(
        said({ content: "", tool_calls: [entry(1), entry(2)] }),
        said({ content: "", tool_calls: [entry(1)] }),
        last()
      )
    )
    assert.deepStrictEqual(
      response.toolCalls.map((call) => call.arguments),
      [{ a: 1 }, { a: 2 }, { a: 1 }]
    )
    const ids = response.toolCalls.map((call) => call.id)
    assert.strictEqual(new Set(ids).size, 3)
    for (const id of ids) assert.match(id, /^call_[a-z0-9]{10,30}$/)
    assert.isTrue(response.toolCalls.every((call) => call.invalid === undefined))
  })

  it("make ids that no other answer of the conversation has, and the same for the same bytes", () => {
    const at = (created_at: string) =>
      right(
        stream(said({ content: "", tool_calls: [{ function: { name: "f", arguments: {} } }] }, { created_at }), last())
      ).toolCalls[0]?.id
    assert.strictEqual(at("2026-01-02T03:04:05.1Z"), at("2026-01-02T03:04:05.1Z"))
    assert.notStrictEqual(at("2026-01-02T03:04:05.1Z"), at("2026-01-02T03:04:09.1Z"))
  })

  it("keep the ids that newer servers give, and take a call that is repeated once", () => {
    const call = { id: "call_x7", function: { index: 0, name: "f", arguments: { a: 1 } } }
    const response = right(
      stream(said({ content: "", tool_calls: [call] }), said({ content: "", tool_calls: [call] }), last())
    )
    assert.deepStrictEqual(
      response.toolCalls.map(({ id, name }) => [id, name]),
      [["call_x7", "f"]]
    )
  })

  it("keep two calls to which a server gives the same id apart, each with an id of its own", () => {
    const call = (name: string) => ({ id: "call_1", function: { name, arguments: { a: 1 } } })
    const { toolCalls } = right(stream(said({ content: "", tool_calls: [call("f"), call("g"), call("f")] }), last()))
    assert.deepStrictEqual(
      toolCalls.map(({ name }) => name),
      ["f", "g"]
    )
    assert.strictEqual(toolCalls[0]?.id, "call_1")
    assert.notStrictEqual(toolCalls[1]?.id, "call_1")
  })

  it("take arguments that a server writes as text, and keep what is not JSON as invalid", () => {
    const args = (value: unknown) =>
      right(stream(said({ content: "", tool_calls: [{ function: { name: "f", arguments: value } }] }), last()))
        .toolCalls[0]
    assert.deepStrictEqual(args('{"a":1}')?.arguments, { a: 1 })
    assert.deepStrictEqual(args("")?.arguments, {})
    assert.deepStrictEqual(args(null)?.arguments, {})
    assert.deepStrictEqual([args('{"a"')?.arguments, args('{"a"')?.invalid], [{ __invalid: '{"a"' }, '{"a"'])
  })

  it("never fail for fields, lines and parts that are not known", () => {
    const response = right(
      stream(
        '{"status":"loading"}\n\n[]\n"x"\n',
        said({ role: "assistant", content: "Hi", annotations: [{}], tool_calls: [null, 7, {}, { function: {} }] }),
        said({ role: "assistant", content: null, thinking: null, tool_calls: null }, { error: null }),
        last({ logprobs: [{ token: "x" }], remote_model: "y" })
      )
    )
    assert.deepStrictEqual([response.text, response.toolCalls, response.finish], ["Hi", [], "stop"])
  })

  it("end typed where the server says an error in mid-stream (complaint 1)", () => {
    const error = left(stream(text("Hel"), text("lo"), '{"error":"an error was encountered"}\n', last()))
    assert.deepStrictEqual(
      [error.reason, error.retryable, error.midStream, error.status, error.providerMessage, error.partial?.text],
      ["ServerError", false, true, 200, "an error was encountered", "Hello"]
    )
    const early = left(stream(said({ role: "assistant", content: "" }), '{"error":"an error was encountered"}\n'))
    assert.deepStrictEqual([early.reason, early.retryable], ["ServerError", true])
    const limited = left(stream(text("Hel"), '{"error":"too many requests","status_code":429}'))
    assert.strictEqual(limited.reason, "RateLimited")
    const cloud = left(stream(text("Hel"), '{"StatusCode":429,"Status":"429 Too Many Requests","error":"slow down"}\n'))
    assert.deepStrictEqual([cloud.reason, cloud.retryable], ["RateLimited", false])
  })

  it("that are nothing but an error are no stream that had begun", () => {
    for (const body of ['{"error":"unauthorized"}', '{"error":{"message":"no","code":401}}\n']) {
      const error = left(stream(body))
      assert.isFalse(error.midStream)
    }
    const indented = left(stream(JSON.stringify({ error: { message: "gone", code: 503 } }, null, 2)))
    assert.deepStrictEqual([indented.reason, indented.retryable, indented.midStream], ["Overloaded", true, false])
  })

  it("that end without done are truncated, also after a whole call (complaint 2)", () => {
    const call = said({ content: "", tool_calls: [{ function: { name: "f", arguments: {} } }] })
    const error = left(stream(text("Hel"), call))
    assert.deepStrictEqual(
      [error.reason, error.retryable, error.partial?.text, error.partial?.toolCalls.length],
      ["StreamTruncated", false, "Hel", 1]
    )
    const nothing = left(stream(""))
    assert.deepStrictEqual([nothing.reason, nothing.retryable], ["StreamTruncated", true])
    assert.strictEqual(left(stream(text("Hel"), last().slice(0, -20))).reason, "StreamTruncated")
    // The last line need not end.
    assert.strictEqual(right(stream(text("Hel"), last().trimEnd())).text, "Hel")
  })

  it("that are HTML or words are malformed", () => {
    const html = left(stream("<html><body>Bad gateway</body></html>\n"))
    assert.deepStrictEqual([html.reason, html.midStream], ["MalformedResponse", false])
    assert.strictEqual(left(stream("upstream connect error")).reason, "MalformedResponse")
    const late = left(stream(text("Hel"), "upstream connect error\n", last()))
    assert.deepStrictEqual([late.reason, late.midStream, late.partial?.text], ["MalformedResponse", true, "Hel"])
  })

  it("that break fail with what had arrived, but not after done", () => {
    const cause = LlmTest.error("Network")
    const decoder = OllamaChat.makeStreamDecoder(context)
    decoder.push(utf8(text("Hel")))
    const error = decoder.broken(cause)
    assert.deepStrictEqual(
      [error?.reason, error?.retryable, error?.partial?.text, error?.midStream],
      ["StreamTruncated", false, "Hel", true]
    )
    const whole = OllamaChat.makeStreamDecoder(context)
    whole.push(utf8(text("Hel") + last()))
    assert.isUndefined(whole.broken(cause))
  })

  it("are over at done: what comes after counts no more", () => {
    const response = right(stream(text("Hi"), last(), text("!"), '{"error":"late"}\n', "junk\n"))
    assert.deepStrictEqual([response.text, response.finish], ["Hi", "stop"])
  })

  const answer = FastCheck.record({
    texts: FastCheck.array(FastCheck.string({ unit: "grapheme" }), { maxLength: 6 }),
    thinking: FastCheck.array(FastCheck.string({ unit: "grapheme" }), { maxLength: 4 }),
    calls: FastCheck.array(FastCheck.dictionary(FastCheck.string(), FastCheck.string()), { maxLength: 3 })
  })

  const written = (value: { texts: Array<string>; thinking: Array<string>; calls: Array<Record<string, string>> }) => [
    ...value.thinking.map((thinking) => said({ content: "", thinking })),
    ...value.texts.map(text),
    ...value.calls.map((args) => said({ content: "", tool_calls: [{ function: { name: "f", arguments: args } }] })),
    last()
  ]

  it("are the same in any chunks and with any line ends (law)", () => {
    FastCheck.assert(
      FastCheck.property(
        answer,
        FastCheck.array(FastCheck.nat(40), { maxLength: 80 }),
        FastCheck.constantFrom("\n", "\r\n", "\r", "\n\n"),
        (value, sizes, end) => {
          const lines = written(value)
          const response = right(run(split(utf8(lines.join("").replaceAll("\n", end)), sizes)))
          assert.deepStrictEqual(response, right(run([utf8(lines.join(""))])))
          assert.strictEqual(response.text, value.texts.join(""))
          assert.strictEqual(response.reasoning, value.thinking.join(""))
          assert.strictEqual(response.toolCalls.length, value.calls.length)
        }
      )
    )
  })

  it("cut at any byte before done are truncated, what had arrived a prefix (law)", () => {
    FastCheck.assert(
      FastCheck.property(answer, FastCheck.nat(), (value, at) => {
        const bytes = utf8(written(value).join(""))
        // The last line is whole without its line end.
        const error = left(run([bytes.slice(0, at % (bytes.length - 1))]))
        assert.strictEqual(error.reason, "StreamTruncated")
        assert.isTrue(value.texts.join("").startsWith(error.partial?.text ?? ""))
        assert.isTrue(value.thinking.join("").startsWith(error.partial?.reasoning ?? ""))
        const hadContent =
          error.partial?.text !== "" || error.partial.reasoning !== "" || error.partial.toolCalls.length > 0
        assert.strictEqual(error.retryable, !hadContent)
      })
    )
  })
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("Ollama's recordings", "llm-corpus"), () => {
  const cases = [...casesOf("api/chat"), ...casesOf("api/generate")].filter(
    ({ recording }) => recording.response.status < 400
  )

  it("are there, streamed and not", () => {
    assert.isTrue(cases.some(({ recording }) => recording.stream))
    assert.isTrue(cases.some(({ recording }) => !recording.stream))
  })

  for (const { name, recording, expected } of cases) {
    const { body } = recording.response
    const own = { provider: recording.provider, model: undefined, method: "stream" }
    const decoded = (bytes: Uint8Array, sizes: ReadonlyArray<number>) => {
      if (!recording.stream) return LlmTest.canonicalOf(OllamaChat.decode(body, own), "generate")
      return LlmTest.canonicalOf(run(split(bytes, sizes)), "stream")
    }

    it(`${name} decodes as expected, in any chunks and with any line ends`, () => {
      for (const end of ["\n", "\r\n", "\r"]) {
        const bytes = utf8(body.replaceAll("\n", end))
        for (const size of [bytes.length, 1, 3, 64, 1000]) {
          const sizes = Array.from({ length: Math.ceil(bytes.length / size) }, () => size)
          assert.deepStrictEqual(decoded(bytes, sizes), expected)
        }
      }
    })
  }
})
