import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { ChatCompletions, LlmError, type LlmRequest, LlmResponse, LlmTool, Protocol } from "@underlay/llm"
import { Effect, Either, Fiber, Option, Schema, Stream, TestClock } from "effect"

const context = { provider: "openai", model: "m", method: "stream" }

const utf8 = (text: string) => new TextEncoder().encode(text)

const chunk = (delta: unknown, rest: Record<string, unknown> = {}, finish: string | null = null): string =>
  `data: ${JSON.stringify({ id: "c", model: "m", choices: [{ index: 0, delta, finish_reason: finish }], ...rest })}\n\n`

const text = (content: string) => chunk({ content })
const end = (reason = "stop", rest: Record<string, unknown> = {}) => chunk({}, rest, reason)
const done = "data: [DONE]\n\n"

interface Outcome {
  readonly parts: ReadonlyArray<LlmResponse.LlmStreamPart>
  readonly error: LlmError.LlmError | undefined
  readonly response: LlmResponse.LlmResponse | undefined
}

const run = (...body: ReadonlyArray<string>): Outcome => {
  const decoder = ChatCompletions.makeStreamDecoder(context)
  const parts = [...decoder.push(utf8(body.join(""))), ...decoder.end()]
  return { parts, error: decoder.failure(), response: LlmResponse.fromParts(parts) }
}

const calls = (outcome: Outcome) => outcome.response?.toolCalls.map((call) => [call.id, call.name, call.arguments])

const call = (entry: unknown) => chunk({ tool_calls: [entry] })

describe("a streamed answer", () => {
  it("gives text, reasoning and refusal as they come, and one finish", () => {
    const { parts, error } = run(
      chunk({ role: "assistant", content: "" }),
      chunk({ reasoning: "hm" }),
      chunk({ reasoning_content: "m" }),
      chunk({ thinking: "." }),
      text("Hel"),
      text("lo"),
      end("stop", { usage: { prompt_tokens: 1, completion_tokens: 2 } }),
      done
    )
    assert.isUndefined(error)
    assert.deepStrictEqual(parts, [
      { type: "reasoning-delta", text: "hm" },
      { type: "reasoning-delta", text: "m" },
      { type: "reasoning-delta", text: "." },
      { type: "text-delta", text: "Hel" },
      { type: "text-delta", text: "lo" },
      {
        type: "finish",
        finish: "stop",
        finishReason: "stop",
        usage: { input: 1, output: 2, cachedInput: undefined, cacheWrite: undefined, reasoning: undefined },
        model: "m",
        id: "c",
        content: [
          { type: "reasoning", text: "hmm." },
          { type: "text", text: "Hello" }
        ],
        rateLimits: undefined
      }
    ])
    assert.strictEqual(run(chunk({ refusal: "I " }), chunk({ refusal: "won't" }), end()).response?.refusal, "I won't")
  })

  it("counts reasoning once where a server sends it under two names", () => {
    assert.strictEqual(run(chunk({ reasoning: "a", reasoning_content: "a" }), end()).response?.reasoning, "a")
  })

  it("ignores unknown fields, events, enum values and parts (complaint 15: strict decoding fails on new fields)", () => {
    const { error, response } = run(
      'event: surprise\ndata: {"new":true}\n\n',
      'data: {"choices":[],"created":0,"id":"","model":"","prompt_filter_results":[{}]}\n\n',
      chunk(
        {
          content: [
            { type: "hologram", data: 1 },
            { type: "text", text: "a" }
          ],
          new_thing: {}
        },
        { service_tier: "x" }
      ),
      'data: {"choices":[{"index":1,"delta":{"content":"other"}}]}\n\n',
      "data: 7\n\ndata: null\n\n",
      end("some_new_reason", { usage: { prompt_tokens: 1, completion_tokens: 1, quantum_tokens: {} } })
    )
    assert.isUndefined(error)
    assert.strictEqual(response?.text, "a")
    assert.strictEqual(response?.id, "c")
    assert.strictEqual(response?.finish, "other")
    assert.strictEqual(response?.finishReason, "some_new_reason")
  })

  it("takes the usage from any chunk (complaint 5: usage in streams wrong)", () => {
    const usage = { prompt_tokens: 10, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } }
    const separate = `data: ${JSON.stringify({ choices: [], usage })}\n\n`
    assert.strictEqual(run(text("a"), end(), separate, done).response?.usage.cachedInput, 4)
    assert.strictEqual(run(text("a"), end("stop", { usage }), done).response?.usage.input, 10)
    assert.strictEqual(run(chunk({ content: "a" }, { usage }), end(), done).response?.usage.output, 3)
    assert.strictEqual(run(text("a"), end("stop", { x_groq: { usage } }), done).response?.usage.input, 10)
    const early = { prompt_tokens: 10, completion_tokens: 1, cached_tokens: 2 }
    const last = run(chunk({ content: "a" }, { usage: early }), end("stop", { usage: null }), separate).response?.usage
    assert.deepStrictEqual([last?.output, last?.cachedInput], [3, 4])
    // The figures are cumulative: they are never added up.
    assert.strictEqual(run(chunk({ content: "a" }, { usage }), end("stop", { usage })).response?.usage.output, 3)
  })

  it("passes on what has arrived and what it cost when it breaks (complaint 5: usage lost on errors)", () => {
    const usage = { prompt_tokens: 10, completion_tokens: 3 }
    const { error } = run(chunk({ content: "par" }, { usage }), text("tial"))
    assert.strictEqual(error?.reason, "StreamTruncated")
    assert.strictEqual(error?.partial?.text, "partial")
    assert.strictEqual(error?.usage?.output, 3)
  })

  it("that ends without its finish is truncated, [DONE] or not (complaint 2: truncation reported as success)", () => {
    for (const tail of ["", done, 'data: {"choi']) {
      const { error, response } = run(text("a"), tail)
      assert.isUndefined(response)
      assert.strictEqual(error?.reason, "StreamTruncated")
      assert.isFalse(error?.isRetryable)
      assert.isTrue(error?.midStream)
    }
    assert.isTrue(run("").error?.isRetryable)
    assert.isTrue(run(chunk({ role: "assistant", content: "" })).error?.isRetryable)
  })

  it("that is cut after its finish is whole", () => {
    const { error, response } = run(text("a"), end())
    assert.isUndefined(error)
    assert.deepStrictEqual(response?.usage, {})
  })

  it("fails with the provider's error in whichever form it comes (complaint 1: errors in mid-stream swallowed)", () => {
    const forms: ReadonlyArray<readonly [string, string, LlmError.Reason]> = [
      ["an event", 'event: error\ndata: {"error":{"message":"m","type":"server_error"}}\n\n', "ServerError"],
      ["data", 'data: {"error":{"message":"m","code":"rate_limit_exceeded"}}\n\n', "RateLimited"],
      ["a status in the envelope", 'data: {"error":{"message":"m","status_code":400}}\n\n', "InvalidRequest"],
      ["a code that is a status", 'data: {"error":{"message":"m","code":502}}\n\n', "ServerError"],
      [
        "beside choices",
        'data: {"error":{"message":"m","code":503},"choices":[{"index":0,"delta":{}}]}\n\n',
        "Overloaded"
      ],
      ["in the choice", 'data: {"choices":[{"index":0,"error":{"message":"m","code":429}}]}\n\n', "RateLimited"],
      ["a string", 'data: {"error":"m"}\n\n', "ServerError"],
      ["a flat object", 'data: {"object":"error","message":"m","code":400}\n\n', "InvalidRequest"],
      ["in Groq's field", 'data: {"choices":[],"x_groq":{"error":"m"}}\n\n', "ServerError"],
      ["a flat object of an error event", 'event: error\ndata: {"message":"m"}\n\n', "ServerError"],
      ["text of an error event", "event: error\ndata: m\n\n", "ServerError"],
      ["a bare line", '{"error":{"message":"m"}}\n', "ServerError"]
    ]
    for (const [name, body, reason] of forms) {
      const { error, parts } = run(text("a"), body, text("never"), end(), done)
      assert.strictEqual(error?.reason, reason, name)
      assert.strictEqual(error?.providerMessage, "m", name)
      assert.strictEqual(error?.status, 200, name)
      assert.isTrue(error?.midStream, name)
      assert.isFalse(error?.isRetryable, name)
      assert.strictEqual(error?.partial?.text, "a", name)
      assert.deepStrictEqual(parts, [{ type: "text-delta", text: "a" }], name)
    }
  })

  it("may be retried after an error that came before any content", () => {
    const { error } = run(
      chunk({ role: "assistant" }),
      'data: {"error":{"message":"Please try again in 2s","code":503}}\n\n'
    )
    assert.strictEqual(error?.reason, "Overloaded")
    assert.isTrue(error?.isRetryable)
    assert.isTrue(error?.midStream)
  })

  it("that is an error's JSON under a 200 is that error, not one of a stream", () => {
    for (const body of [
      '{"error":{"message":"m","code":"invalid_api_key"}}',
      '{\n "error": {"message":"m","code":"invalid_api_key"}\n}'
    ]) {
      const { error } = run(body)
      assert.strictEqual(error?.reason, "Authentication")
      assert.isFalse(error?.midStream)
    }
  })

  it("that is HTML or that has an event which is not JSON is malformed", () => {
    assert.strictEqual(run("<html>\n<p>Welcome</p>\n</html>\n").error?.reason, "MalformedResponse")
    assert.strictEqual(run(text("a"), "data: oops\n\n", end()).error?.reason, "MalformedResponse")
  })

  it("may be a whole answer of a server that does not stream", () => {
    const body =
      '{"id":"c","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
    for (const form of [body, JSON.stringify(JSON.parse(body), null, 2), `data: ${body}\n\n`]) {
      const { error, response } = run(form)
      assert.isUndefined(error)
      assert.strictEqual(response?.text, "hi")
      assert.strictEqual(response?.usage.input, 1)
    }
  })

  it("may leave out the blank lines between events", () => {
    assert.strictEqual(
      run(`${text("a").trim()}\n${text("b").trim()}\n${end().trim()}\ndata: [DONE]\n`).response?.text,
      "ab"
    )
  })
})

describe("tool calls of a stream (complaint 9: assembly of tool calls)", () => {
  it("are put together by id, by index, or by order", () => {
    const outcome = run(
      call({ index: 0, id: "a", function: { name: "f", arguments: "" } }),
      call({ index: 0, function: { arguments: '{"x":' } }),
      call({ index: 1, id: "b", function: { name: "g", arguments: "{}" } }),
      call({ index: 0, function: { arguments: "1}" } }),
      end("tool_calls")
    )
    assert.deepStrictEqual(calls(outcome), [
      ["a", "f", { x: 1 }],
      ["b", "g", {}]
    ])
    assert.strictEqual(outcome.response?.finish, "tool-calls")
    const bare = run(
      call({ function: { name: "f", arguments: '{"x"' } }),
      call({ function: { arguments: ":2}" } }),
      end("tool_calls")
    )
    assert.deepStrictEqual(calls(bare), [["call_0", "f", { x: 2 }]])
  })

  it("keep apart when a server reuses an index", () => {
    const outcome = run(
      call({ index: 0, id: "a", function: { name: "f", arguments: '{"p":1}' } }),
      call({ index: 0, id: "b", function: { name: "f", arguments: '{"p"' } }),
      call({ index: 0, function: { arguments: ":2}" } }),
      end("tool_calls")
    )
    assert.deepStrictEqual(calls(outcome), [
      ["a", "f", { p: 1 }],
      ["b", "f", { p: 2 }]
    ])
    const anonymous = run(
      call({ index: 0, function: { name: "f", arguments: "{}" } }),
      call({ index: 0, function: { name: "g", arguments: "{}" } }),
      end("stop")
    )
    assert.deepStrictEqual(calls(anonymous), [
      ["call_0", "f", {}],
      ["call_1", "g", {}]
    ])
  })

  it("bear ids and names that come late or again and again", () => {
    const late = run(
      call({ index: 0, function: { arguments: "{" } }),
      call({ index: 0, function: { name: "f" } }),
      call({ index: 0, id: "a", function: { arguments: "}" } }),
      end("tool_calls")
    )
    assert.deepStrictEqual(calls(late), [["a", "f", {}]])
    const again = run(
      call({ index: 0, id: "a", function: { name: "f", arguments: "{" } }),
      call({ index: 0, id: "a", function: { name: "f", arguments: "}" } }),
      end("tool_calls")
    )
    assert.deepStrictEqual(calls(again), [["a", "f", {}]])
  })

  it("may have arguments that are an object, nothing, or not JSON", () => {
    const outcome = run(
      call({ id: "a", function: { name: "f", arguments: { x: [1] } } }),
      call({ id: "b", function: { name: "g" } }),
      call({ id: "c", function: { name: "h", arguments: "{x:" } }),
      end("stop")
    )
    assert.deepStrictEqual(calls(outcome), [
      ["a", "f", { x: [1] }],
      ["b", "g", {}],
      ["c", "h", { __invalid: "{x:" }]
    ])
    assert.strictEqual(outcome.response?.toolCalls[2]?.invalid, "{x:")
    assert.strictEqual(outcome.response?.finish, "tool-calls")
  })

  it("of very many pieces, each of which names them again or looks like their end, take time in proportion", () => {
    const many = 10_000
    const named = (args: string) => call({ index: 0, function: { name: "f", arguments: args } })
    const pieces = Array.from({ length: many }, (_, index) => named(`${index === 0 ? "{" : ","}"k${index}":{"b":{}}`))
    const others = Array.from({ length: many }, (_, index) => call({ index: index + 1, id: `id${index}` }))
    const before = process.cpuUsage()
    const outcome = run(...pieces, named("}"), ...others, end("tool_calls"))
    const broken = run(...Array.from({ length: many }, () => named("{x}")), end("tool_calls"))
    const { user } = process.cpuUsage(before)
    const [first] = outcome.response?.toolCalls ?? []
    assert.strictEqual(Object.keys(first?.arguments as object).length, many)
    assert.strictEqual(outcome.response?.toolCalls.length, many + 1)
    assert.isString(broken.response?.toolCalls[0]?.invalid)
    assert.isBelow(user / 1000, 4000)
  })

  it("of a tool that takes free text have its name and the text", () => {
    const entry = { index: 0, id: "a", type: "custom", custom: { name: "shell", input: "ls -l" } }
    const body = JSON.stringify({ choices: [{ message: { tool_calls: [entry] }, finish_reason: "tool_calls" }] })
    for (const found of [
      run(call(entry), end("tool_calls")).response,
      Either.getOrThrow(ChatCompletions.decode(body, context))
    ]) {
      const [first] = found?.toolCalls ?? []
      assert.deepStrictEqual([first?.id, first?.name, first?.invalid], ["a", "shell", "ls -l"])
    }
  })

  it("may come in the old form", () => {
    const outcome = run(
      chunk({ function_call: { name: "f", arguments: '{"a"' } }),
      chunk({ function_call: { arguments: ":1}" } }),
      end("function_call")
    )
    assert.deepStrictEqual(calls(outcome), [["call_0", "f", { a: 1 }]])
  })

  it("are kept from a broken stream if they are whole (complaint 1: finished calls thrown away)", () => {
    const { error } = run(
      call({ index: 0, id: "a", function: { name: "f", arguments: '{"x":1}' } }),
      call({ index: 1, id: "b", function: { name: "g", arguments: '{"x":' } })
    )
    assert.deepStrictEqual(
      error?.partial?.toolCalls.map(({ name }) => name),
      ["f"]
    )
    assert.isFalse(error?.isRetryable)
  })
})

describe("a JSON answer", () => {
  const decode = (body: unknown) =>
    ChatCompletions.decode(typeof body === "string" ? body : JSON.stringify(body), context)
  const answer = (message: unknown, finish_reason: string | null = "stop", rest = {}) => ({
    id: "c",
    model: "m",
    choices: [{ index: 0, message, finish_reason }],
    ...rest
  })

  it("has text, reasoning, refusal, calls, finish and usage", () => {
    const response = Either.getOrThrow(
      decode(
        answer(
          {
            content: [
              { type: "thinking", thinking: [{ type: "text", text: "hm" }] },
              { type: "text", text: "hi" }
            ],
            refusal: "no",
            tool_calls: [
              { id: "a", function: { name: "f", arguments: '{"x":1}' } },
              { function: { name: "g", arguments: {} } }
            ]
          },
          "stop",
          { usage: { prompt_tokens: 1, completion_tokens: 2, completion_tokens_details: { reasoning_tokens: 1 } } }
        )
      )
    )
    assert.strictEqual(response.text, "hi")
    assert.strictEqual(response.reasoning, "hm")
    assert.strictEqual(response.refusal, "no")
    assert.deepStrictEqual(
      response.toolCalls.map((call) => [call.id, call.name]),
      [
        ["a", "f"],
        ["call_1", "g"]
      ]
    )
    assert.strictEqual(response.finish, "tool-calls")
    assert.strictEqual(response.usage.reasoning, 1)
  })

  it("that is an error in spite of its status fails with that error", () => {
    const error = Either.getOrThrow(Either.flip(decode({ error: { message: "m", code: 429 } })))
    assert.strictEqual(error.reason, "RateLimited")
    assert.isTrue(error.isRetryable)
    assert.isFalse(error.midStream)
  })

  it("that is nothing of the protocol is malformed, with what is wrong", () => {
    for (const body of [
      "",
      "<html></html>",
      "[]",
      "{}",
      { choices: [] },
      { choices: [{ index: 0 }] },
      '{"choices":[{"mess'
    ]) {
      const error = Either.getOrThrow(Either.flip(decode(body)))
      assert.strictEqual(error.reason, "MalformedResponse")
      assert.isDefined(error.issue)
    }
  })

  it("withheld by a filter is a finish, with or without a message", () => {
    assert.strictEqual(
      Either.getOrThrow(decode({ choices: [{ index: 0, finish_reason: "content_filter" }] })).finish,
      "content-filter"
    )
  })
})

describe("a request", () => {
  const openai: ChatCompletions.Dialect = { provider: "openai" }
  const encode = (request: LlmRequest.LlmRequest, dialect = openai, stream = false) =>
    Either.map(
      ChatCompletions.encode(request, { model: "gpt", stream, dialect, method: "generate" }),
      (body): Record<string, unknown> => JSON.parse(body)
    )

  it("carries messages with text, images, files, calls and results", () => {
    const body = Either.getOrThrow(
      encode({
        messages: [
          ChatMessage.system("Be brief."),
          {
            role: "user",
            content: [
              { type: "text", text: "What is it?" },
              { type: "file", mediaType: "image/png", source: { type: "bytes", bytes: utf8("png") } },
              { type: "file", mediaType: "image/jpeg", source: { type: "url", url: "https://x.test/a.jpg" } },
              {
                type: "file",
                mediaType: "application/pdf",
                name: "a.pdf",
                source: { type: "bytes", bytes: utf8("pdf") }
              },
              { type: "file", mediaType: "audio/wav", source: { type: "bytes", bytes: utf8("wav") } },
              { type: "file", mediaType: "text/csv", name: "a.csv", source: { type: "bytes", bytes: utf8("a,b") } }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "secret" },
              { type: "tool-call", id: "1", name: "f", arguments: { a: 1 } },
              { type: "tool-call", id: "2", name: "g", arguments: undefined }
            ]
          },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "1", name: "f", result: { b: 2 } },
              { type: "tool-result", id: "2", name: "g", result: "boom", isError: true }
            ]
          },
          ChatMessage.user("And now?")
        ]
      })
    )
    assert.deepStrictEqual(body, {
      model: "gpt",
      messages: [
        { role: "system", content: "Be brief." },
        {
          role: "user",
          content: [
            { type: "text", text: "What is it?" },
            { type: "image_url", image_url: { url: "data:image/png;base64,cG5n" } },
            { type: "image_url", image_url: { url: "https://x.test/a.jpg" } },
            { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,cGRm" } },
            { type: "input_audio", input_audio: { data: "d2F2", format: "wav" } },
            { type: "text", text: "a.csv:\na,b" }
          ]
        },
        {
          role: "assistant",
          tool_calls: [
            { id: "1", type: "function", function: { name: "f", arguments: '{"a":1}' } },
            { id: "2", type: "function", function: { name: "g", arguments: "{}" } }
          ]
        },
        { role: "tool", tool_call_id: "1", content: '{"b":2}' },
        { role: "tool", tool_call_id: "2", content: "Error: boom" },
        { role: "user", content: "And now?" }
      ],
      stream: false
    })
  })

  it("carries settings, tools, the format and the provider's own options", () => {
    const request: LlmRequest.LlmRequest = {
      messages: [ChatMessage.user("hi")],
      model: "other",
      temperature: 0,
      topP: 0.5,
      maxTokens: 10,
      stop: ["END"],
      seed: 1,
      reasoningEffort: "low",
      tools: [LlmTool.make("f", { description: "does f", parameters: Schema.Struct({ a: Schema.Number }) })],
      toolChoice: { name: "f" },
      parallelToolCalls: false,
      responseFormat: { type: "json-schema", name: "x", schema: { type: "object" }, strict: true },
      providerOptions: { openai: { service_tier: "flex", stream: true }, groq: { never: true } }
    }
    const { messages: _, ...body } = Either.getOrThrow(encode(request))
    assert.deepStrictEqual(body, {
      model: "other",
      temperature: 0,
      top_p: 0.5,
      max_completion_tokens: 10,
      stop: ["END"],
      seed: 1,
      reasoning_effort: "low",
      tools: [
        {
          type: "function",
          function: {
            name: "f",
            description: "does f",
            parameters: {
              type: "object",
              required: ["a"],
              properties: { a: { type: "number" } },
              additionalProperties: false
            },
            strict: true
          }
        }
      ],
      tool_choice: { type: "function", function: { name: "f" } },
      parallel_tool_calls: false,
      response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "object" }, strict: true } },
      service_tier: "flex",
      stream: false
    })
    const streamed = Either.getOrThrow(
      encode({ messages: [], maxTokens: 5 }, { provider: "x", maxTokensField: "max_tokens" }, true)
    )
    assert.deepStrictEqual(streamed["stream_options"], { include_usage: true })
    assert.strictEqual(streamed["max_tokens"], 5)
    const groq = Either.getOrThrow(encode({ messages: [] }, { provider: "groq", includeUsage: false }, true))
    assert.isUndefined(groq["stream_options"])
  })

  it("adds the tools that the provider runs to those of the request, and takes no notice of options without a value", () => {
    const tools = [LlmTool.make("f", { parameters: Schema.Struct({ a: Schema.Number }) })]
    const options = { x: { tools: [{ type: "browser_search" }], temperature: undefined } }
    const both = Either.getOrThrow(
      encode({ messages: [], tools, temperature: 1, providerOptions: options }, { provider: "x" })
    )
    const types = (body: { readonly [field: string]: unknown }) =>
      (body["tools"] as ReadonlyArray<{ readonly type: string }>).map(({ type }) => type)
    assert.deepStrictEqual(types(both), ["function", "browser_search"])
    assert.strictEqual(both["temperature"], 1)
    const own = Either.getOrThrow(encode({ messages: [], providerOptions: options }, { provider: "x" }))
    assert.deepStrictEqual(types(own), ["browser_search"])
  })

  it("marks the ends of what is worth caching where server and model know such marks", () => {
    const request = {
      model: "gpt-5.6",
      messages: [ChatMessage.system("long"), ChatMessage.user("a"), ChatMessage.user("b")],
      promptCache: { breakpoints: [0, 1] }
    }
    const mark = { prompt_cache_breakpoint: { mode: "explicit" } }
    const plain = [
      { role: "system", content: "long" },
      { role: "user", content: "a" },
      { role: "user", content: "b" }
    ]
    const messagesOf = (of: LlmRequest.LlmRequest, dialect: ChatCompletions.Dialect) =>
      Either.getOrThrow(encode(of, dialect))["messages"]
    assert.deepStrictEqual(messagesOf(request, { provider: "x", promptCache: true }), [
      { role: "system", content: [{ type: "text", text: "long", ...mark }] },
      { role: "user", content: [{ type: "text", text: "a", ...mark }] },
      { role: "user", content: "b" }
    ])
    assert.deepStrictEqual(messagesOf({ ...request, model: "gpt-5.5" }, { provider: "x", promptCache: true }), plain)
    assert.deepStrictEqual(messagesOf(request, { provider: "x" }), plain)
  })

  it("knows media types however they are written, names documents, and finds files that are there already", () => {
    const bytes = { type: "bytes" as const, bytes: utf8("x") }
    const file = (mediaType: string, source: ChatMessage.FilePart["source"] = bytes) =>
      ({ type: "file", mediaType, source }) as const
    const body = Either.getOrThrow(
      encode({
        messages: [
          {
            role: "user",
            content: [
              file("Audio/WAV; codecs=1"),
              file("application/pdf"),
              file("constructor"),
              file("application/pdf", { type: "url", url: "file-abc" })
            ]
          }
        ]
      })
    )
    assert.deepStrictEqual(body["messages"], [
      {
        role: "user",
        content: [
          { type: "input_audio", input_audio: { data: "eA==", format: "wav" } },
          { type: "file", file: { filename: "file.pdf", file_data: "data:application/pdf;base64,eA==" } },
          { type: "file", file: { filename: "file", file_data: "data:constructor;base64,eA==" } },
          { type: "file", file: { file_id: "file-abc" } }
        ]
      }
    ])
  })

  it("gives reasoning back only to servers that take it", () => {
    const messages = [
      {
        role: "assistant" as const,
        content: [
          { type: "reasoning" as const, text: "r" },
          { type: "text" as const, text: "t" }
        ]
      }
    ]
    assert.deepStrictEqual(Either.getOrThrow(encode({ messages }))["messages"], [{ role: "assistant", content: "t" }])
    assert.deepStrictEqual(
      Either.getOrThrow(encode({ messages }, { provider: "ollama", reasoningField: "reasoning" }))["messages"],
      [{ role: "assistant", content: "t", reasoning: "r" }]
    )
  })

  it("gives back no reasoning that another provider signed (complaint 13)", () => {
    const reasoning = (provider: string) => ({ type: "reasoning" as const, text: provider, signature: "s", provider })
    const messages = [
      { role: "assistant" as const, content: [reasoning("anthropic"), reasoning("vllm"), { type: "text", text: "t" }] }
    ] as const
    assert.deepStrictEqual(
      Either.getOrThrow(encode({ messages }, { provider: "vllm", reasoningField: "reasoning" }))["messages"],
      [{ role: "assistant", content: "t", reasoning: "vllm" }]
    )
  })

  it("that the protocol cannot carry is refused with what to do", () => {
    const document = encode({
      messages: [
        {
          role: "user",
          content: [{ type: "file", mediaType: "application/pdf", source: { type: "url", url: "https://x.test" } }]
        }
      ]
    })
    const error = Either.getOrThrow(Either.flip(document))
    assert.strictEqual(error.reason, "InvalidRequest")
    assert.include(error.message, "send its bytes")
    const circular: Record<string, unknown> = {}
    circular["self"] = circular
    const result = encode({
      messages: [{ role: "tool", content: [{ type: "tool-result", id: "1", name: "f", result: circular }] }]
    })
    assert.strictEqual(Either.getOrThrow(Either.flip(result)).reason, "InvalidRequest")
  })
})

describe("the body of a stream", () => {
  const bytes = (...pieces: ReadonlyArray<string>) => Stream.fromIterable(pieces.map(utf8)).pipe(Stream.rechunk(1))
  const lost = () =>
    Stream.fail(new LlmError.LlmError({ ...context, reason: "Network", retryable: true, midStream: false }))

  it.effect("hands on what arrived before it fails", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const error = yield* Protocol.decodeStream(
        bytes(`${text("a") + text("b")}data: {"error":"m"}\n\n`),
        ChatCompletions.makeStreamDecoder(context)
      ).pipe(
        Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.text))),
        Effect.flip
      )
      assert.deepStrictEqual(seen, ["a", "b"])
      assert.strictEqual(error.reason, "ServerError")
    })
  )

  it.effect("that breaks before the finish is truncated, after it whole", () =>
    Effect.gen(function* () {
      const before = yield* Protocol.decodeStream(
        Stream.concat(bytes(text("a")), lost()),
        ChatCompletions.makeStreamDecoder(context)
      ).pipe(Stream.runCollect, Effect.flip)
      assert.strictEqual(before.reason, "StreamTruncated")
      assert.strictEqual(before.partial?.text, "a")
      const after = yield* Stream.runCollect(
        Protocol.decodeStream(
          Stream.concat(bytes(text("a"), end()), lost()),
          ChatCompletions.makeStreamDecoder(context)
        )
      )
      assert.strictEqual(LlmResponse.fromParts(after)?.finish, "stop")
    })
  )

  for (const [name, tail] of [
    ["after the finish", [text("a"), end()]],
    ["after [DONE]", [text("a"), end(), done]]
  ] as const) {
    it.effect(`that is never closed ${name} does not hold the answer (pings or not)`, () =>
      Effect.gen(function* () {
        const pings = Stream.tap(Stream.repeatValue(utf8(": ping\n\n")), () => Effect.sleep("500 millis"))
        for (const rest of [Stream.never, pings]) {
          const fiber = yield* Protocol.decodeStream(
            Stream.concat(bytes(...tail), rest),
            ChatCompletions.makeStreamDecoder(context)
          ).pipe(Stream.runCollect, Effect.fork)
          yield* TestClock.adjust("1 second")
          assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
          yield* TestClock.adjust("2 seconds")
          const parts = yield* Fiber.join(fiber)
          assert.strictEqual(LlmResponse.fromParts(parts)?.text, "a")
        }
      })
    )
  }
})
