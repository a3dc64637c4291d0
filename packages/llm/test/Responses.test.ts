/** The Responses format: what requests become, what answers and streams are read as. Fixtures by hand from wire facts. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { LlmError, type LlmRequest, LlmResponse, LlmTool, Responses } from "@underlay/llm"
import { Either, FastCheck, Schema } from "effect"

type Json = { readonly [key: string]: unknown }

const context = { provider: "openai", model: "gpt-5", method: "stream" }
const dialect: Responses.Dialect = { provider: "openai" }
const hi = ChatMessage.user("hi")

const encoded = (
  request: LlmRequest.LlmRequest,
  options: { readonly model?: string; readonly stream?: boolean; readonly dialect?: Responses.Dialect } = {}
) =>
  Responses.encode(request, {
    model: options.model ?? "gpt-5",
    stream: options.stream ?? false,
    method: "generate",
    dialect: options.dialect ?? dialect
  })

const body = (...args: Parameters<typeof encoded>): Json => JSON.parse(Either.getOrThrow(encoded(...args))) as Json

const refusal = (...args: Parameters<typeof encoded>): LlmError.LlmError =>
  Either.getOrThrow(Either.flip(encoded(...args)))

const event = (type: string, fields: Json = {}): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`

const bytes = (text: string) => new TextEncoder().encode(text)

interface Played {
  readonly response: LlmResponse.LlmResponse | undefined
  readonly failure: LlmError.LlmError | undefined
  readonly types: ReadonlyArray<string>
  readonly parts: ReadonlyArray<LlmResponse.LlmStreamPart>
}

const play = (text: string, chunkSize = Number.POSITIVE_INFINITY): Played => {
  const decoder = Responses.makeStreamDecoder(context)
  const parts: Array<LlmResponse.LlmStreamPart> = []
  const all = bytes(text)
  for (let from = 0; from < all.length; from += chunkSize) {
    parts.push(...decoder.push(all.slice(from, Math.min(all.length, from + chunkSize))))
  }
  parts.push(...decoder.end())
  return {
    response: LlmResponse.fromParts(parts),
    failure: decoder.failure(),
    types: parts.map((part) => part.type),
    parts
  }
}

const usage = {
  input_tokens: 20,
  input_tokens_details: { cached_tokens: 8, cache_write_tokens: 3 },
  output_tokens: 9,
  output_tokens_details: { reasoning_tokens: 4 },
  total_tokens: 29
}
const state = (fields: Json = {}): Json => ({
  id: "resp_1",
  object: "response",
  model: "gpt-5-2025-08-07",
  status: "in_progress",
  error: null,
  incomplete_details: null,
  output: [],
  usage: null,
  ...fields
})
const created = event("response.created", { response: state(), sequence_number: 0 })
const completed = (fields: Json = {}) =>
  event("response.completed", { response: state({ status: "completed", usage, ...fields }) })

const text = (index: number, words: ReadonlyArray<string>, item: Json = {}) => {
  const place = { item_id: `msg_${index}`, output_index: index, content_index: 0 }
  const whole = words.join("")
  const message = { id: `msg_${index}`, type: "message", role: "assistant", ...item }
  return [
    event("response.output_item.added", {
      output_index: index,
      item: { ...message, status: "in_progress", content: [] }
    }),
    event("response.content_part.added", { ...place, part: { type: "output_text", text: "", annotations: [] } }),
    ...words.map((delta) => event("response.output_text.delta", { ...place, delta, obfuscation: "xy", logprobs: [] })),
    event("response.output_text.done", { ...place, text: whole }),
    event("response.content_part.done", { ...place, part: { type: "output_text", text: whole, annotations: [] } }),
    event("response.output_item.done", {
      output_index: index,
      item: { ...message, status: "completed", content: [{ type: "output_text", text: whole, annotations: [] }] }
    })
  ].join("")
}

const call = (index: number, name: string, pieces: ReadonlyArray<string>, item: Json = {}) => {
  const place = { item_id: `fc_${index}`, output_index: index }
  const base = { id: `fc_${index}`, type: "function_call", call_id: `call_${index}x`, name, ...item }
  return [
    event("response.output_item.added", {
      output_index: index,
      item: { ...base, arguments: "", status: "in_progress" }
    }),
    ...pieces.map((delta) => event("response.function_call_arguments.delta", { ...place, delta })),
    event("response.function_call_arguments.done", { ...place, arguments: pieces.join("") }),
    event("response.output_item.done", {
      output_index: index,
      item: { ...base, arguments: pieces.join(""), status: "completed" }
    })
  ].join("")
}

const thought = (index: number, summaries: ReadonlyArray<ReadonlyArray<string>>) => {
  const id = `rs_${index}`
  return [
    event("response.output_item.added", {
      output_index: index,
      item: { id, type: "reasoning", summary: [], encrypted_content: "part" }
    }),
    ...summaries.flatMap((words, summary_index) => {
      const place = { item_id: id, output_index: index, summary_index }
      return [
        event("response.reasoning_summary_part.added", { ...place, part: { type: "summary_text", text: "" } }),
        ...words.map((delta) => event("response.reasoning_summary_text.delta", { ...place, delta })),
        event("response.reasoning_summary_text.done", { ...place, text: words.join("") }),
        event("response.reasoning_summary_part.done", {
          ...place,
          part: { type: "summary_text", text: words.join("") }
        })
      ]
    }),
    event("response.output_item.done", {
      output_index: index,
      item: {
        id,
        type: "reasoning",
        summary: summaries.map((words) => ({ type: "summary_text", text: words.join("") })),
        encrypted_content: `whole${index}`
      }
    })
  ].join("")
}

describe("requests", () => {
  it("keep nothing at the server, and ask for what stateless replay needs", () => {
    const plain = body({ messages: [hi] })
    assert.deepStrictEqual(plain, {
      model: "gpt-5",
      input: [{ role: "user", content: "hi" }],
      store: false,
      include: ["reasoning.encrypted_content"],
      stream: false
    })
    assert.strictEqual(body({ messages: [hi] }, { stream: true })["stream"], true)
    const stored = body({ messages: [hi], providerOptions: { openai: { store: true } } })
    assert.deepStrictEqual([stored["store"], stored["include"]], [true, undefined])
    assert.isFalse(body({ messages: [hi], providerOptions: { openai: { store: undefined } } })["store"])
    assert.strictEqual(body({ messages: [hi] }, { dialect: { provider: "openai", store: true } })["store"], true)
  })

  it("ask models that do not reason for no encrypted reasoning, which they refuse", () => {
    for (const model of [
      "gpt-4o",
      "gpt-4.1-mini",
      "gpt-4-turbo",
      "gpt-35-turbo",
      "gpt-5-chat-latest",
      "ft:gpt-4o:me::1"
    ]) {
      assert.isUndefined(body({ messages: [hi] }, { model })["include"], model)
    }
    for (const model of [
      "o3",
      "o4-mini",
      "gpt-5",
      "gpt-5.6-pro",
      "codex-mini-latest",
      "our-deployment",
      "gpt-oss-20b"
    ]) {
      assert.deepStrictEqual(body({ messages: [hi] }, { model })["include"], ["reasoning.encrypted_content"], model)
    }
    const own = { openai: { include: ["code_interpreter_call.outputs"] } }
    assert.deepStrictEqual(body({ messages: [hi], providerOptions: own })["include"], ["code_interpreter_call.outputs"])
  })

  it("have what the system says first as instructions, and later where it was said", () => {
    const request = body({
      messages: [ChatMessage.system("Be brief."), ChatMessage.system("Be kind."), hi, ChatMessage.system("Now rhyme.")]
    })
    assert.strictEqual(request["instructions"], "Be brief.\n\nBe kind.")
    assert.deepStrictEqual(request["input"], [
      { role: "user", content: "hi" },
      { role: "developer", content: "Now rhyme." }
    ])
    const alone = body({ messages: [ChatMessage.system("Be brief.")] })
    assert.isUndefined(alone["instructions"])
    assert.deepStrictEqual(alone["input"], [{ role: "developer", content: "Be brief." }])
    const other = body({ messages: [ChatMessage.system("a")] }, { dialect: { provider: "x", systemRole: "system" } })
    assert.deepStrictEqual(other["input"], [{ role: "system", content: "a" }])
    const own = body({ messages: [ChatMessage.system("a"), hi], providerOptions: { openai: { instructions: "b" } } })
    assert.strictEqual(own["instructions"], "b")
    assert.deepStrictEqual((own["input"] as ReadonlyArray<Json>)[0], { role: "developer", content: "a" })
  })

  it("speak of JSON in the input where JSON of any shape is asked for, since instructions do not count", () => {
    const request = body({ messages: [ChatMessage.system("Answer in JSON."), hi], responseFormat: { type: "json" } })
    assert.isUndefined(request["instructions"])
    assert.deepStrictEqual(request["input"], [
      { role: "developer", content: "Answer in JSON." },
      { role: "user", content: "hi" }
    ])
  })

  it("carry images and files as bytes, by URL and by id", () => {
    const file = (mediaType: string, source: ChatMessage.FilePart["source"], name?: string): ChatMessage.FilePart => ({
      type: "file",
      mediaType,
      source,
      ...(name === undefined ? {} : { name })
    })
    const data = { type: "bytes" as const, bytes: new Uint8Array([1, 2, 3]) }
    const url = (url: string) => ({ type: "url" as const, url })
    const request = body({
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            file("image/png", data),
            file("image/jpeg", url("https://example.com/a.jpg")),
            file("image/jpeg", url("file-abc123")),
            file("application/pdf", data),
            file("application/pdf", data, "report.pdf"),
            file("application/pdf", url("https://example.com/a.pdf")),
            file("application/pdf", url("file-abc123")),
            file("text/markdown", { type: "bytes", bytes: bytes("# Hä") }, "a.md"),
            file("text/plain", { type: "bytes", bytes: bytes("plain") })
          ]
        },
        { role: "user", content: [] }
      ]
    })
    assert.deepStrictEqual(request["input"], [
      {
        role: "user",
        content: [
          { type: "input_text", text: "look" },
          { type: "input_image", detail: "auto", image_url: "data:image/png;base64,AQID" },
          { type: "input_image", detail: "auto", image_url: "https://example.com/a.jpg" },
          { type: "input_image", detail: "auto", file_id: "file-abc123" },
          { type: "input_file", filename: "file.pdf", file_data: "data:application/pdf;base64,AQID" },
          { type: "input_file", filename: "report.pdf", file_data: "data:application/pdf;base64,AQID" },
          { type: "input_file", file_url: "https://example.com/a.pdf" },
          { type: "input_file", file_id: "file-abc123" },
          { type: "input_text", text: "a.md:\n# Hä" },
          { type: "input_text", text: "plain" }
        ]
      },
      { role: "user", content: "" }
    ])
    for (const mediaType of ["audio/wav", "video/mp4"]) {
      const error = refusal({ messages: [{ role: "user", content: [file(mediaType, data)] }] })
      assert.strictEqual(error.reason, "InvalidRequest")
      assert.include(error.issue, "Chat Completions")
    }
  })

  it("have tools, which are strict only if they say so (unsaid, the API may enforce the schema)", () => {
    const strict = LlmTool.make("f", { parameters: Schema.Struct({ a: Schema.String }) })
    const lax = LlmTool.make("g", {
      description: "G",
      parameters: Schema.Struct({ a: Schema.optional(Schema.String) })
    })
    const request = body({ messages: [hi], tools: [strict, lax], toolChoice: { name: "f" }, parallelToolCalls: false })
    const tools = request["tools"] as ReadonlyArray<Json>
    assert.deepStrictEqual(
      tools.map(({ description, name, strict, type }) => [type, name, description, strict]),
      [
        ["function", "f", undefined, true],
        ["function", "g", "G", false]
      ]
    )
    assert.deepStrictEqual(request["tool_choice"], { type: "function", name: "f" })
    assert.strictEqual(request["parallel_tool_calls"], false)
    for (const choice of ["auto", "none", "required"] as const) {
      assert.strictEqual(body({ messages: [hi], tools: [lax], toolChoice: choice })["tool_choice"], choice)
    }
    assert.isUndefined(body({ messages: [hi], tools: [], toolChoice: "auto" })["tool_choice"])
    const own = { openai: { tools: [{ type: "web_search" }] } }
    const both = body({ messages: [hi], tools: [lax], providerOptions: own })["tools"] as ReadonlyArray<Json>
    assert.deepStrictEqual(
      both.map(({ type }) => type),
      ["function", "web_search"]
    )
  })

  it("merge the provider's own options with what the request says", () => {
    const request = body(
      {
        messages: [hi],
        maxTokens: 99,
        temperature: 0.2,
        topP: 0.9,
        seed: 7,
        topK: 3,
        frequencyPenalty: 1,
        presencePenalty: 1,
        reasoningEffort: "low",
        responseFormat: { type: "json-schema", name: "n", description: "d", schema: { type: "object" }, strict: true },
        promptCache: { key: "tenant-7", ttl: "long" },
        providerOptions: {
          openai: {
            verbosity: "low",
            reasoning: { summary: "auto" },
            service_tier: "flex",
            stream: false,
            metadata: { a: "b" }
          },
          azure: { nothing: "of this" }
        }
      },
      { stream: true }
    )
    assert.deepStrictEqual(request, {
      model: "gpt-5",
      input: [{ role: "user", content: "hi" }],
      store: false,
      include: ["reasoning.encrypted_content"],
      temperature: 0.2,
      top_p: 0.9,
      max_output_tokens: 99,
      reasoning: { effort: "low", summary: "auto" },
      text: {
        format: { type: "json_schema", name: "n", description: "d", schema: { type: "object" }, strict: true },
        verbosity: "low"
      },
      prompt_cache_key: "tenant-7",
      prompt_cache_retention: "24h",
      service_tier: "flex",
      metadata: { a: "b" },
      stream: true
    })
    assert.deepStrictEqual(body({ messages: [hi], responseFormat: { type: "json" } })["text"], {
      format: { type: "json_object" }
    })
    assert.isUndefined(body({ messages: [hi], responseFormat: { type: "text" } })["text"])
  })

  it("with stop sequences are refused, since the API has none, and say what to do", () => {
    const error = refusal({ messages: [hi], stop: ["END"] })
    assert.strictEqual(error.reason, "InvalidRequest")
    assert.include(error.issue, "Chat Completions")
    assert.isFalse(error.isRetryable)
    assert.isUndefined(body({ messages: [hi], stop: [] })["stop"])
  })

  it("mark the ends of what is worth caching where the model knows such marks", () => {
    const request: LlmRequest.LlmRequest = {
      messages: [ChatMessage.system("long"), hi, ChatMessage.assistant("yes"), hi],
      promptCache: { breakpoints: [0, 1] }
    }
    const mark = { prompt_cache_breakpoint: { mode: "explicit" } }
    const marked = [
      { role: "developer", content: [{ type: "input_text", text: "long", ...mark }] },
      { role: "user", content: [{ type: "input_text", text: "hi", ...mark }] },
      { role: "assistant", content: "yes" },
      { role: "user", content: "hi" }
    ]
    for (const model of ["gpt-5.6", "gpt-5.10-mini", "gpt-6"]) {
      assert.deepStrictEqual(body(request, { model })["input"], marked, model)
    }
    for (const model of [
      "gpt-5",
      "gpt-5.5-pro",
      "gpt-5-2025-08-07",
      "gpt-4.1",
      "o3",
      "our-deployment",
      "gpt-35-turbo"
    ]) {
      assert.notInclude(JSON.stringify(body(request, { model })), "breakpoint", model)
    }
  })

  it("whose tool results are not JSON are refused without a word of them", () => {
    const circular: { self?: unknown } = {}
    circular.self = circular
    const error = refusal({
      messages: [hi, { role: "tool", content: [{ type: "tool-result", id: "a", name: "f", result: circular }] }]
    })
    assert.strictEqual(error.reason, "InvalidRequest")
    assert.include(error.issue, "JSON")
  })

  it("to count tokens have what counts, and nothing else", () => {
    const count = JSON.parse(
      Either.getOrThrow(
        Responses.encodeCount(
          {
            messages: [ChatMessage.system("a"), hi],
            temperature: 1,
            maxTokens: 5,
            reasoningEffort: "low",
            tools: [LlmTool.make("f", { parameters: Schema.Struct({}) })],
            providerOptions: { openai: { metadata: { a: "b" }, truncation: "auto" } }
          },
          { model: "gpt-5", dialect }
        )
      )
    ) as Json
    assert.deepStrictEqual(Object.keys(count).toSorted(), [
      "input",
      "instructions",
      "model",
      "reasoning",
      "tools",
      "truncation"
    ])
    const counted = (text: string) => Responses.decodeCount(text, context)
    assert.deepStrictEqual(counted('{"object":"response.input_tokens","input_tokens":11}'), Either.right(11))
    for (const wrong of ["", "{}", "[]", "<html>"]) {
      const result = counted(wrong)
      assert.strictEqual(Either.isLeft(result) ? result.left.reason : "", "MalformedResponse", wrong)
    }
    const failed = counted('{"error":{"code":"invalid_api_key","message":"no"}}')
    assert.strictEqual(Either.isLeft(failed) ? failed.left.reason : "", "Authentication")
  })
})

describe("conversations that go on", () => {
  const replay = (message: ChatMessage.ChatMessage, options: Parameters<typeof encoded>[1] = {}, own: Json = {}) =>
    body({ messages: [hi, message], providerOptions: { openai: own } }, options)["input"] as ReadonlyArray<Json>

  const streamed = play(
    created +
      thought(0, [["First ", "I think."], ["Then I look."]]) +
      event("response.output_item.done", {
        output_index: 1,
        item: { id: "ws_1", type: "web_search_call", status: "completed", action: { type: "search", query: "q" } }
      }) +
      text(2, ["I ", "see."], { phase: "commentary" }) +
      call(3, "f", ['{"a":', "1}"]) +
      call(4, "g", []) +
      completed()
  )

  it("send back what was said, in its order, with encrypted reasoning and the provider's own items (complaint 13)", () => {
    assert.isUndefined(streamed.failure)
    const { response } = streamed
    assert.isDefined(response)
    if (response === undefined) return
    assert.strictEqual(response.reasoning, "First I think.Then I look.")
    assert.strictEqual(response.finish, "tool-calls")
    const input = replay(LlmResponse.toMessage(response))
    assert.deepStrictEqual(input.slice(1), [
      {
        type: "reasoning",
        id: "rs_0",
        summary: [
          { type: "summary_text", text: "First I think." },
          { type: "summary_text", text: "Then I look." }
        ],
        encrypted_content: "whole0"
      },
      { id: "ws_1", type: "web_search_call", status: "completed", action: { type: "search", query: "q" } },
      { role: "assistant", content: "I see.", phase: "commentary" },
      { type: "function_call", call_id: "call_3x", name: "f", arguments: '{"a":1}' },
      { type: "function_call", call_id: "call_4x", name: "g", arguments: "{}" }
    ])
  })

  it("survive being stored as JSON", () => {
    if (streamed.response === undefined) return assert.fail("no response")
    const message = LlmResponse.toMessage(streamed.response)
    const stored = Schema.encodeSync(Schema.parseJson(ChatMessage.ChatMessage))(message)
    const back = Schema.decodeUnknownSync(Schema.parseJson(ChatMessage.ChatMessage))(stored)
    assert.deepStrictEqual(replay(back), replay(message))
  })

  it("show another provider's signatures and parts to nobody (complaint 13: signatures are provider-bound)", () => {
    const input = replay({
      role: "assistant",
      content: [
        { type: "reasoning", text: "hm", id: "rs_9", signature: "enc", provider: "azure" },
        { type: "reasoning", text: "hm" },
        { type: "provider", provider: "anthropic", data: { type: "redacted_thinking", data: "x" } },
        { type: "text", text: "Hello ", signature: "sig", provider: "google" },
        { type: "text", text: "you" },
        { type: "tool-call", id: "a", name: "f", arguments: {}, signature: '{"namespace":"n"}', provider: "google" }
      ]
    })
    assert.deepStrictEqual(input.slice(1), [
      { role: "assistant", content: "Hello you" },
      { type: "function_call", call_id: "a", name: "f", arguments: "{}" }
    ])
  })

  it("send no reasoning that the server can neither find nor read", () => {
    const message: ChatMessage.ChatMessage = {
      role: "assistant",
      content: [
        { type: "reasoning", text: "hm", id: "rs_1", provider: "openai" },
        { type: "text", text: "yes" }
      ]
    }
    const said = { role: "assistant", content: "yes" }
    assert.deepStrictEqual(replay(message).slice(1), [said])
    assert.deepStrictEqual(replay(message, {}, { store: true }).slice(1), [
      { type: "reasoning", id: "rs_1", summary: [{ type: "summary_text", text: "hm" }] },
      said
    ])
    assert.deepStrictEqual(replay(message, { dialect: { provider: "openai", rawReasoning: true } }).slice(1), [
      { type: "reasoning", id: "rs_1", summary: [], content: [{ type: "reasoning_text", text: "hm" }] },
      said
    ])
  })

  it("send no reasoning to a model that does not reason, which refuses it (a smaller model goes on)", () => {
    const message: ChatMessage.ChatMessage = {
      role: "assistant",
      content: [
        { type: "reasoning", text: "hm", id: "rs_1", signature: "enc", provider: "openai" },
        { type: "text", text: "yes" }
      ]
    }
    assert.deepStrictEqual(replay(message, { model: "gpt-4.1-mini" }).slice(1), [{ role: "assistant", content: "yes" }])
    assert.strictEqual(replay(message, { model: "gpt-5-mini" }).length, 3)
  })

  it("keep a call's namespace, and shorten ids that are too long the same way on both sides", () => {
    const { response } = play(created + call(0, "f", ["{}"], { namespace: "crm", caller: null }) + completed())
    if (response === undefined) return assert.fail("no response")
    const [, item] = replay(LlmResponse.toMessage(response))
    assert.deepStrictEqual(item, {
      namespace: "crm",
      type: "function_call",
      call_id: "call_0x",
      name: "f",
      arguments: "{}"
    })
    FastCheck.assert(
      FastCheck.property(
        FastCheck.string({ minLength: 1, maxLength: 200 }),
        FastCheck.string({ minLength: 1, maxLength: 200 }),
        (one, other) => {
          const idsOf = (id: string) => {
            const input = body({
              messages: [
                { role: "assistant", content: [{ type: "tool-call", id, name: "f", arguments: {} }] },
                { role: "tool", content: [{ type: "tool-result", id, name: "f", result: 1 }] }
              ]
            })["input"] as ReadonlyArray<Json>
            assert.strictEqual(input[0]?.["call_id"], input[1]?.["call_id"])
            return String(input[0]?.["call_id"])
          }
          const [a, b] = [idsOf(one), idsOf(other)]
          assert.isAtMost(a.length, 64)
          assert.strictEqual(a === b, one === other)
          if (one.length <= 64) assert.strictEqual(a, one)
        }
      )
    )
  })

  it("answer calls with text, failures among them", () => {
    const input = body({
      messages: [
        {
          role: "tool",
          content: [
            { type: "tool-result", id: "a", name: "f", result: { degrees: 7 } },
            { type: "tool-result", id: "b", name: "f", result: "seven" },
            { type: "tool-result", id: "c", name: "f", result: new Error("no city"), isError: true },
            { type: "tool-result", id: "d", name: "f", result: undefined }
          ]
        }
      ]
    })["input"] as ReadonlyArray<Json>
    assert.deepStrictEqual(
      input.map(({ call_id, output, type }) => [type, call_id, output]),
      [
        ["function_call_output", "a", '{"degrees":7}'],
        ["function_call_output", "b", "seven"],
        ["function_call_output", "c", "Error: no city"],
        ["function_call_output", "d", ""]
      ]
    )
  })
})

describe("whole answers", () => {
  const decode = (fields: Json) => Responses.decode(JSON.stringify(state({ status: "completed", ...fields })), context)
  const right = (fields: Json) => Either.getOrThrow(decode(fields))
  const left = (fields: Json) => Either.getOrThrow(Either.flip(decode(fields)))
  const said = { type: "message", id: "m", role: "assistant", content: [{ type: "output_text", text: "hi" }] }

  it("have their text, reasoning, refusal, calls and usage", () => {
    const response = right({
      usage,
      output: [
        {
          type: "reasoning",
          id: "r",
          summary: [
            { type: "summary_text", text: "s1" },
            { type: "summary_text", text: "s2" }
          ],
          content: [{ type: "reasoning_text", text: "raw" }]
        },
        {
          ...said,
          phase: "commentary",
          content: [
            { type: "output_text", text: "a" },
            { type: "output_text", text: "b" },
            { type: "new_kind", text: "no" }
          ]
        },
        said,
        { type: "function_call", id: "fc", call_id: "c1", name: "f", arguments: '{"x":[1]}', status: "completed" },
        { type: "function_call", id: "fc2", call_id: "c2", name: "f", arguments: "" },
        { type: "function_call", id: "fc3", call_id: "c3", name: "f", arguments: '{"x":' },
        { type: "something_new", id: "n", of: { any: "shape" } }
      ]
    })
    assert.strictEqual(response.text, "abhi")
    assert.strictEqual(response.reasoning, "s1s2raw")
    assert.isUndefined(response.refusal)
    assert.deepStrictEqual(
      response.toolCalls.map(({ arguments: args, id, invalid }) => [id, args, invalid]),
      [
        ["c1", { x: [1] }, undefined],
        ["c2", {}, undefined],
        ["c3", { __invalid: '{"x":' }, '{"x":']
      ]
    )
    assert.deepStrictEqual(
      [response.finish, response.finishReason, response.id, response.model],
      ["tool-calls", "completed", "resp_1", "gpt-5-2025-08-07"]
    )
    assert.deepStrictEqual(response.usage, { input: 20, output: 9, cachedInput: 8, cacheWrite: 3, reasoning: 4 })
    assert.deepStrictEqual(
      response.content.map((part) => part.type),
      ["reasoning", "reasoning", "reasoning", "text", "text", "tool-call", "tool-call", "tool-call", "provider"]
    )
  })

  it("that were refused have the model's words, and can be sent back", () => {
    const response = right({
      output: [{ ...said, phase: "final_answer", content: [{ type: "refusal", refusal: "I won't" }] }]
    })
    assert.deepStrictEqual([response.text, response.refusal, response.finish], ["", "I won't", "stop"])
    assert.deepStrictEqual(response.content, [{ type: "text", text: "I won't" }])
  })

  it("that are incomplete say why", () => {
    for (const [reason, finish] of [
      ["max_output_tokens", "length"],
      ["content_filter", "content-filter"],
      ["a_new_reason", "other"],
      [undefined, "other"]
    ] as const) {
      const response = right({
        status: "incomplete",
        incomplete_details: reason === undefined ? null : { reason },
        output: [said]
      })
      assert.deepStrictEqual(
        [response.finish, response.finishReason, response.text],
        [finish, reason ?? "incomplete", "hi"]
      )
    }
    for (const status of ["queued", "in_progress", "cancelled"]) {
      assert.deepStrictEqual([right({ status }).finish, right({ status }).finishReason], ["other", status])
    }
  })

  it("that failed are errors, with what they had said", () => {
    const failed = (error: unknown) => left({ status: "failed", error, usage, output: [said] })
    const limited = failed({ code: "rate_limit_exceeded", message: "Please try again in 2s." })
    assert.deepStrictEqual(
      [limited.reason, limited.isRetryable, limited.midStream, limited.status],
      ["RateLimited", true, false, 200]
    )
    assert.deepStrictEqual([limited.partial?.text, limited.partial?.id, limited.usage?.output], ["hi", "resp_1", 9])
    assert.strictEqual(failed({ code: "server_error", message: "oops" }).reason, "ServerError")
    assert.strictEqual(failed({ code: "insufficient_quota", message: "no" }).reason, "QuotaExhausted")
    assert.strictEqual(failed({ code: "image_content_policy_violation", message: "no" }).reason, "ContentFiltered")
    assert.strictEqual(failed({ code: "bio_policy", message: "no" }).reason, "ContentFiltered")
    assert.strictEqual(failed(null).reason, "Unknown")
    const slow = failed({ code: "vector_store_timeout", message: "no" })
    assert.deepStrictEqual([slow.reason, slow.code, slow.isRetryable], ["ServerError", "vector_store_timeout", true])
    for (const code of [
      "invalid_prompt",
      "invalid_image_url",
      "image_too_large",
      "empty_image_file",
      "failed_to_download_image"
    ]) {
      const error = failed({ code, message: "no" })
      assert.deepStrictEqual([error.reason, error.code, error.isRetryable], ["InvalidRequest", code, false])
    }
  })

  it("that are no answers are typed", () => {
    const reason = (text: string) => {
      const result = Responses.decode(text, context)
      return Either.isLeft(result) ? result.left.reason : "an answer"
    }
    for (const text of ["", "null", "{}", "[]", "<html></html>", '{"output":7}', '{"choices":[]}']) {
      assert.strictEqual(reason(text), "MalformedResponse", text)
    }
    assert.strictEqual(reason('{"error":{"message":"no","code":"invalid_api_key"}}'), "Authentication")
    const bare = Responses.decode('{"error":{"message":"no","code":"server_error"}}', context)
    assert.deepStrictEqual(Either.isLeft(bare) ? [bare.left.midStream, bare.left.isRetryable] : [], [false, true])
    assert.strictEqual(reason('{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}'), "RateLimited")
    assert.strictEqual(reason('{"output":[]}'), "an answer")
    assert.strictEqual(
      reason('{"output":[7,null,"x",{},{"type":7},{"type":"message"},{"type":"reasoning"}]}'),
      "an answer"
    )
  })
})

describe("streams", () => {
  const whole =
    created +
    thought(0, [["a"], ["b"]]) +
    text(1, ["Hel", "lo ", "wörld 🌍"]) +
    call(2, "f", ['{"x"', ":1}"]) +
    completed()

  it("say everything once and end with the finish", () => {
    const { parts, response, types } = play(whole)
    assert.deepStrictEqual(types, [
      "reasoning-delta",
      "reasoning-delta",
      "text-delta",
      "text-delta",
      "text-delta",
      "tool-call-delta",
      "tool-call-delta",
      "tool-call-delta",
      "tool-call",
      "finish"
    ])
    assert.deepStrictEqual(
      parts.flatMap((part) => (part.type === "tool-call-delta" ? [[part.index, part.id, part.name, part.text]] : [])),
      [
        [0, "call_2x", "f", ""],
        [0, "call_2x", "f", '{"x"'],
        [0, "call_2x", "f", ":1}"]
      ]
    )
    assert.deepStrictEqual(
      [response?.text, response?.reasoning, response?.finish, response?.finishReason],
      ["Hello wörld 🌍", "ab", "tool-calls", "completed"]
    )
    assert.deepStrictEqual(response?.usage, { input: 20, output: 9, cachedInput: 8, cacheWrite: 3, reasoning: 4 })
  })

  it("are the same in any chunks, with LF, CRLF and CR", () => {
    const expected = play(whole).response
    FastCheck.assert(
      FastCheck.property(
        FastCheck.integer({ min: 1, max: 400 }),
        FastCheck.constantFrom("\n", "\r\n", "\r"),
        (size, end) => {
          assert.deepStrictEqual(play(whole.replace(/\n/g, end), size).response, expected)
        }
      ),
      { numRuns: 60 }
    )
  })

  it("without the end are never a success, wherever they are cut (complaint 2: fabricated finish)", () => {
    const all = bytes(whole)
    const marker = bytes(whole.slice(0, whole.indexOf("event: response.completed"))).length
    const expected = play(whole).response
    FastCheck.assert(
      FastCheck.property(FastCheck.integer({ min: 0, max: all.length - 4 }), (at) => {
        const decoder = Responses.makeStreamDecoder(context)
        const parts = [...decoder.push(all.slice(0, at)), ...decoder.end()]
        const failure = decoder.failure()
        assert.isFalse(parts.some((part) => part.type === "finish"))
        assert.strictEqual(failure?.reason, "StreamTruncated")
        const partial = failure?.partial
        assert.isTrue(expected?.text.startsWith(partial?.text ?? "no"))
        assert.isTrue(expected?.reasoning.startsWith(partial?.reasoning ?? "no"))
        // Only calls that the server said are whole.
        const done = new TextDecoder()
          .decode(all.slice(0, at))
          .includes('"call_id":"call_2x","name":"f","arguments":"{\\"x\\":1}","status":"completed"}}')
        assert.strictEqual(partial?.toolCalls.length, done ? 1 : 0)
        const arrived = parts.length > 0
        assert.strictEqual(failure?.isRetryable, !arrived)
        if (at > marker) assert.strictEqual(partial?.text, expected?.text)
      }),
      { numRuns: 300 }
    )
    assert.strictEqual(
      play(`${whole.slice(0, whole.indexOf("event: response.completed"))}data: [DONE]\n\n`).failure?.reason,
      "StreamTruncated"
    )
  })

  it("end with incomplete as well", () => {
    const end = (reason: string) =>
      play(
        created +
          text(0, ["Hel"]) +
          event("response.incomplete", {
            response: state({ status: "incomplete", incomplete_details: { reason }, usage })
          })
      )
    assert.deepStrictEqual(
      [end("max_output_tokens").response?.finish, end("max_output_tokens").response?.text],
      ["length", "Hel"]
    )
    assert.strictEqual(end("content_filter").response?.finish, "content-filter")
    assert.strictEqual(end("content_filter").response?.usage.output, 9)
  })

  it("that fail are typed, with the partial answer (complaint 1: mid-stream errors are swallowed)", () => {
    const failed = (error: unknown) => event("response.failed", { response: state({ status: "failed", error, usage }) })
    const early = play(created + failed({ code: "rate_limit_exceeded", message: "Please try again in 634ms." })).failure
    assert.deepStrictEqual(
      [early?.reason, early?.isRetryable, early?.midStream, early?.status],
      ["RateLimited", true, true, 200]
    )
    const late = play(created + text(0, ["Hel"]) + failed({ code: "server_error", message: "oops" })).failure
    assert.deepStrictEqual(
      [late?.reason, late?.isRetryable, late?.partial?.text, late?.usage?.input],
      ["ServerError", false, "Hel", 20]
    )
    assert.strictEqual(play(created + failed(null)).failure?.reason, "ServerError")
    const after = play(created + failed({ code: "server_error", message: "oops" }) + text(0, ["no"]) + completed())
    assert.deepStrictEqual([after.failure?.reason, after.parts], ["ServerError", []])
    // What the failed answer has of calls is not whole.
    const half = play(
      created +
        event("response.failed", {
          response: state({
            status: "failed",
            error: { code: "server_error", message: "x" },
            output: [{ type: "function_call", call_id: "c", name: "f", arguments: "{" }]
          })
        })
    )
    assert.deepStrictEqual(half.failure?.partial?.toolCalls, [])
  })

  it("take every form of an error event (complaint 1)", () => {
    const forms: ReadonlyArray<readonly [string, string, string | undefined]> = [
      [
        event("error", { code: "rate_limit_exceeded", message: "slow", param: null, sequence_number: 2 }),
        "RateLimited",
        "rate_limit_exceeded"
      ],
      [
        event("error", { error: { type: "insufficient_quota", code: "insufficient_quota", message: "none" } }),
        "QuotaExhausted",
        "insufficient_quota"
      ],
      [event("error", { code: null, message: "oops", param: null }), "ServerError", undefined],
      [
        'event: error\ndata: {"error":{"code":"context_length_exceeded","message":"too long"}}\n\n',
        "ContextLengthExceeded",
        "context_length_exceeded"
      ],
      ['event: error\ndata: {"code":"server_error","message":"oops"}\n\n', "ServerError", "server_error"],
      ['data: {"error":{"code":"content_filter","message":"no"}}\n\n', "ContentFiltered", "content_filter"],
      ["event: error\ndata: the words of a gateway\n\n", "ServerError", undefined]
    ]
    for (const [form, reason, code] of forms) {
      const { failure } = play(created + form + completed())
      assert.deepStrictEqual([failure?.reason, failure?.code, failure?.midStream], [reason, code, true], form)
      const late = play(created + text(0, ["Hel"]) + form).failure
      assert.deepStrictEqual([late?.reason, late?.isRetryable, late?.partial?.text], [reason, false, "Hel"], form)
    }
    const bare = play('{"error":{"code":"invalid_api_key","message":"no"}}').failure
    assert.deepStrictEqual([bare?.reason, bare?.midStream], ["Authentication", false])
    assert.strictEqual(play("<html><body>Bad gateway</body></html>").failure?.reason, "MalformedResponse")
    assert.strictEqual(play("data: {not json}\n\n").failure?.reason, "MalformedResponse")
  })

  it("may have events, items and parts that nobody knows (complaint 15: strict decoding fails on new fields)", () => {
    const odd = [
      event("keepalive", { sequence_number: 3 }),
      event("response.audio.delta", { delta: "UklGRg==" }),
      event("response.new.thing", { error: null, delta: { a: 1 } }),
      event("response.mcp_call.failed", { output_index: 0, item_id: "mcp_1" }),
      event("response.output_text.annotation.added", { output_index: 0, annotation: { type: "url_citation" } }),
      event("response.output_text.delta", { delta: 7 }),
      event("response.output_text.delta", {}),
      event("response.output_item.added", { item: null }),
      event("response.output_item.added", { output_index: 9, item: { type: "hologram", id: "h" } }),
      event("response.output_item.done", { output_index: 9, item: { type: "hologram", id: "h", depth: 3 } }),
      event("response.output_item.done", {}),
      event("response.function_call_arguments.delta", {}),
      event("response.content_part.done", { part: 7 }),
      "data: null\n\n",
      "data: [1,2]\n\n",
      ": comment\n\n"
    ].join("")
    const plain = play(created + text(0, ["Hello"]) + completed()).response
    const { failure, response } = play(created + odd + text(0, ["Hello"]) + completed())
    assert.isUndefined(failure)
    assert.strictEqual(response?.text, plain?.text)
    assert.deepStrictEqual(
      response?.content
        .filter((part) => part.type === "provider")
        .map((part) => (part.type === "provider" ? part.data : undefined)),
      [{ type: "hologram", id: "h", depth: 3 }]
    )
  })

  it("interleave calls, which are told apart by item and not by position (complaint 9)", () => {
    const added = (index: number, name: string) =>
      event("response.output_item.added", {
        output_index: index,
        item: { type: "function_call", id: `fc_${index}`, call_id: `c${index}`, name, arguments: "" }
      })
    const delta = (index: number, text: string, id = `fc_${index}`) =>
      event("response.function_call_arguments.delta", { output_index: index, item_id: id, delta: text })
    const done = (index: number, name: string, args: string, id = `fc_${index}`) =>
      event("response.output_item.done", {
        output_index: index,
        item: { type: "function_call", id, call_id: `c${index}`, name, arguments: args }
      })
    const interleaved =
      created +
      added(0, "f") +
      added(1, "g") +
      delta(0, '{"a"') +
      delta(1, '{"b"') +
      delta(0, ":1}") +
      delta(1, ":2}") +
      done(1, "g", '{"b":2}') +
      done(0, "f", '{"a":1}') +
      completed()
    const { parts, response } = play(interleaved)
    assert.deepStrictEqual(
      response?.toolCalls.map((each) => [each.id, each.arguments]),
      [
        ["c1", { b: 2 }],
        ["c0", { a: 1 }]
      ]
    )
    assert.deepStrictEqual(
      parts.flatMap((part) => (part.type === "tool-call-delta" && part.text !== "" ? [[part.index, part.text]] : [])),
      [
        [0, '{"a"'],
        [1, '{"b"'],
        [0, ":1}"],
        [1, ":2}"]
      ]
    )
    // A server that names the same item anew in every event: its position tells.
    const renamed = play(
      created +
        added(0, "f") +
        added(1, "g") +
        delta(1, '{"b":2}', "other") +
        delta(0, '{"a":1}', "yet another") +
        done(0, "f", "", "third") +
        done(1, "g", "", "fourth") +
        completed()
    )
    assert.deepStrictEqual(
      renamed.response?.toolCalls.map((each) => [each.id, each.arguments]),
      [
        ["c0", { a: 1 }],
        ["c1", { b: 2 }]
      ]
    )
    // One whose positions are all the same: the name tells.
    const flat = (item: string) => item.replaceAll('"output_index":1', '"output_index":0')
    assert.deepStrictEqual(
      play(flat(interleaved)).response?.toolCalls.map((each) => each.id),
      ["c1", "c0"]
    )
  })

  it("count what only their end says, and nothing twice", () => {
    const message = { type: "message", id: "m1", role: "assistant", content: [{ type: "output_text", text: "Hello" }] }
    const fc = { type: "function_call", id: "fc_7", call_id: "c7", name: "f", arguments: '{"a":1}' }
    const rs = {
      type: "reasoning",
      id: "rs_7",
      summary: [{ type: "summary_text", text: "hm" }],
      encrypted_content: "e"
    }
    const onlyEnd = play(created + completed({ output: [rs, message, fc] })).response
    assert.deepStrictEqual(
      [onlyEnd?.text, onlyEnd?.reasoning, onlyEnd?.toolCalls.map((each) => each.id)],
      ["Hello", "hm", ["c7"]]
    )
    const again = play(
      created +
        thought(0, [["a"]]) +
        text(1, ["Hello"]) +
        call(2, "f", ["{}"]) +
        completed({
          output: [
            { ...rs, id: "rs_0" },
            { ...message, id: "msg_1" },
            { ...fc, id: "fc_2", call_id: "call_2x" }
          ]
        })
    ).response
    assert.deepStrictEqual(
      [again?.text, again?.reasoning, again?.toolCalls.map((each) => each.id)],
      ["Hello", "a", ["call_2x"]]
    )
    // Without deltas: what the done events say.
    const place = { item_id: "m", output_index: 0, content_index: 0 }
    const quiet =
      created +
      event("response.output_text.done", { ...place, text: "Hello" }) +
      event("response.content_part.done", { ...place, part: { type: "output_text", text: "Hello" } }) +
      event("response.output_item.done", { output_index: 0, item: { ...message, id: "m" } })
    assert.strictEqual(play(quiet + completed({ output: [message] })).response?.text, "Hello")
    assert.strictEqual(play(quiet + quiet.slice(created.length) + completed()).response?.text, "Hello")
    // A call whose end is not told, and a server that does not stream at all.
    const open = call(0, "f", ['{"a":', "1}"]).split("event: response.function_call_arguments.done")[0] ?? ""
    assert.deepStrictEqual(
      play(created + open + completed()).response?.toolCalls.map((each) => each.arguments),
      [{ a: 1 }]
    )
    assert.strictEqual(play(JSON.stringify(state({ status: "completed", output: [message] }))).response?.text, "Hello")
  })

  it("have raw reasoning of open models, and refusals", () => {
    const place = { item_id: "rs_0", output_index: 0, content_index: 0 }
    const raw = play(
      created +
        event("response.output_item.added", { output_index: 0, item: { id: "rs_0", type: "reasoning", summary: [] } }) +
        event("response.reasoning_text.delta", { ...place, delta: "I " }) +
        event("response.reasoning_text.delta", { ...place, delta: "think" }) +
        event("response.reasoning_text.done", { ...place, text: "I think" }) +
        event("response.output_item.done", {
          output_index: 0,
          item: { id: "rs_0", type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: "I think" }] }
        }) +
        event("response.refusal.delta", { item_id: "m", output_index: 1, content_index: 0, delta: "I " }) +
        event("response.refusal.delta", { item_id: "m", output_index: 1, content_index: 0, delta: "won't" }) +
        event("response.refusal.done", { item_id: "m", output_index: 1, content_index: 0, refusal: "I won't" }) +
        completed()
    ).response
    assert.deepStrictEqual([raw?.reasoning, raw?.refusal, raw?.text, raw?.finish], ["I think", "I won't", "", "stop"])
    assert.deepStrictEqual(raw?.content, [
      { type: "reasoning", text: "I think", id: "rs_0", provider: "openai" },
      { type: "text", text: "I won't" }
    ])
  })

  it("of servers that take liberties are read all the same", () => {
    const expected = play(whole).response
    // No names of events, no blank lines between them.
    const dense = whole.replace(/^event: .*\n/gm, "").replace(/\n\n/g, "\n")
    assert.deepStrictEqual(play(`${dense}data: [DONE]\n\n`).response, expected)
    // Only parts and items that are done; a message that is a text.
    const place = { item_id: "m", output_index: 0, content_index: 0 }
    const part = event("response.content_part.done", { ...place, part: { type: "output_text", text: "Hello" } })
    assert.strictEqual(play(created + part + completed()).response?.text, "Hello")
    const plain = { type: "message", id: "m", role: "assistant", content: "Hello" }
    const done = event("response.output_item.done", { output_index: 0, item: plain })
    assert.strictEqual(play(created + done + completed()).response?.text, "Hello")
    // The name of the event tells how it ended, unless the state says worse.
    assert.strictEqual(play(created + done + completed({ status: "in_progress" })).response?.finishReason, "completed")
    const worse = completed({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } })
    assert.strictEqual(play(created + done + worse).response?.finish, "length")
    const failed = event("response.failed", { response: state({ status: "completed" }) })
    assert.strictEqual(play(created + failed).failure?.reason, "ServerError")
    assert.strictEqual(play(created + done + event("response.completed")).response?.text, "Hello")
    // The same item under another name at the end.
    const search = (id: string) => ({ type: "web_search_call", id, status: "completed" })
    const twice = play(
      created +
        event("response.output_item.done", { output_index: 0, item: search("ws_1") }) +
        completed({ output: [search("ws_other"), search("ws_2")] })
    ).response
    assert.deepStrictEqual(
      twice?.content.map((each) => (each.type === "provider" ? each.data : undefined)),
      [search("ws_1"), search("ws_2")]
    )
    // Refusals come as they are said.
    const word = (delta: string) => event("response.refusal.delta", { ...place, delta })
    assert.deepStrictEqual(play(created + word("I ") + word("won't") + completed()).types, [
      "refusal-delta",
      "refusal-delta",
      "finish"
    ])
  })

  it("have the words that only their end says, though others came before", () => {
    const told = event("response.output_text.delta", { item_id: "m", output_index: 0, content_index: 0, delta: "Hel" })
    const message = (id: string, ...texts: ReadonlyArray<string>) => ({
      type: "message",
      id,
      role: "assistant",
      content: texts.map((words) => ({ type: "output_text", text: words, annotations: [] }))
    })
    for (const [output, expected] of [
      [[message("m", "Hel"), message("n", "lo")], "Hello"],
      [[message("other", "Hello")], "Hello"],
      [[message("other", "Hel")], "Hel"],
      // Another text altogether: what was shown stays.
      [[message("m", "Good day")], "Hel"],
      [[], "Hel"]
    ] as const) {
      const { parts, response } = play(created + told + completed({ output }))
      assert.strictEqual(response?.text, expected)
      assert.strictEqual(
        response?.content.map((part) => (part.type === "text" ? part.text : "")).join(""),
        expected,
        JSON.stringify(parts)
      )
    }
  })

  it("of very many items take time in proportion", () => {
    const many = 20_000
    const whole = (index: number) => ({
      type: "function_call",
      id: `fc_${index}`,
      call_id: `call_${index}`,
      name: "f",
      arguments: "{}"
    })
    const pieces = Array.from({ length: many }, (_, index) =>
      event("response.function_call_arguments.delta", { output_index: index, item_id: `fc_${index}`, delta: "{}" })
    )
    const texts = Array.from({ length: many }, (_, index) =>
      event("response.output_text.delta", { output_index: many + index, item_id: `m_${index}`, delta: "a" })
    )
    const before = process.cpuUsage()
    const { response } = play(
      created + pieces.join("") + texts.join("") + completed({ output: pieces.map((_, index) => whole(index)) })
    )
    const { user } = process.cpuUsage(before)
    assert.deepStrictEqual([response?.toolCalls.length, response?.text.length], [many, many])
    assert.isBelow(user / 1000, 4000)
  })

  it("that break on the way are truncated, and whole once their end was seen", () => {
    const lost = new LlmError.LlmError({ ...context, reason: "Network", retryable: true, midStream: false })
    const decoder = Responses.makeStreamDecoder(context)
    decoder.push(bytes(created + text(0, ["Hel"])))
    assert.isFalse(decoder.finished())
    const failure = decoder.broken(lost)
    assert.deepStrictEqual(
      [failure?.reason, failure?.partial?.text, failure?.isRetryable],
      ["StreamTruncated", "Hel", false]
    )
    const ended = Responses.makeStreamDecoder(context)
    ended.push(bytes(created + completed()))
    assert.isTrue(ended.finished())
    assert.isUndefined(ended.broken(lost))
  })
})
