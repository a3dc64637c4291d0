/** The presets of servers that speak Chat Completions with differences, by what goes over the wire. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, type LlmError, LlmResponse, OpenAiCompatible } from "@underlay/llm"
import { ConfigProvider, Effect, Either, FastCheck, Layer, Redacted, Schema, Stream } from "effect"
import { answered, chunk, json, type Server, serve, sse, streamed } from "./server.ts"

const names = Object.keys(OpenAiCompatible.presets) as ReadonlyArray<OpenAiCompatible.PresetName>

const on = (name: OpenAiCompatible.PresetName, server: Server, options: { readonly apiKey?: Redacted.Redacted } = {}) =>
  OpenAiCompatible.layerPreset(name, { ...options, model: "m", baseUrl: `${server.url}/base`, retry: false })

const weather = { name: "weather", description: "The weather", parameters: { type: "object", properties: {} } }
const time = { name: "time", description: "The time", parameters: { type: "object", properties: {} } }

/** Everything that a request can ask for which these servers could differ in. */
const everything: Llm.LlmRequest = {
  messages: [ChatMessage.system("Be brief."), ChatMessage.user("hi")],
  temperature: 0.5,
  topP: 0.9,
  topK: 40,
  frequencyPenalty: 0.1,
  presencePenalty: 0.2,
  maxTokens: 100,
  stop: ["END"],
  seed: 7,
  reasoningEffort: "low",
  tools: [weather, time],
  toolChoice: "auto",
  parallelToolCalls: true
}

/** The body that a preset sends, or why it refuses to. */
const sent = (name: OpenAiCompatible.PresetName, request: Llm.LlmRequest, stream = false) =>
  Effect.gen(function* () {
    const server = yield* serve(({ response }) =>
      stream ? sse(response, streamed("ok")) : json(response, 200, answered("ok"))
    )
    const call: Effect.Effect<unknown, LlmError.LlmError, Llm.Llm> = stream
      ? Stream.runDrain(Llm.stream(request))
      : Llm.generate(request)
    const outcome = yield* Effect.either(call).pipe(Effect.provide(on(name, server)))
    if (Either.isLeft(outcome)) return Either.left(outcome.left)
    const [seen] = server.seen
    assert.strictEqual(seen?.path, "/base/chat/completions")
    return Either.right(JSON.parse(seen?.body ?? "") as Record<string, unknown>)
  }).pipe(Effect.provide(FetchHttpClient.layer))

const right = <A>(either: Either.Either<A, LlmError.LlmError>): A => {
  if (Either.isLeft(either)) throw either.left
  return either.right
}

const refusal = (either: Either.Either<unknown, LlmError.LlmError>): string => {
  assert.isTrue(Either.isLeft(either))
  if (Either.isRight(either)) return ""
  assert.strictEqual(either.left.reason, "InvalidRequest")
  assert.isFalse(either.left.isRetryable)
  return either.left.issue ?? ""
}

describe("what the presets send", () => {
  const fields: { readonly [K in OpenAiCompatible.PresetName]: ReadonlyArray<string> } = {
    vllm: [
      "frequency_penalty",
      "max_tokens",
      "parallel_tool_calls",
      "presence_penalty",
      "reasoning_effort",
      "seed",
      "stream_options",
      "top_k"
    ],
    llamacpp: [
      "frequency_penalty",
      "max_tokens",
      "parallel_tool_calls",
      "presence_penalty",
      "reasoning_effort",
      "seed",
      "stream_options",
      "top_k"
    ],
    lmstudio: [
      "frequency_penalty",
      "max_tokens",
      "parallel_tool_calls",
      "presence_penalty",
      "reasoning_effort",
      "seed",
      "stream_options",
      "top_k"
    ],
    deepseek: ["frequency_penalty", "max_tokens", "presence_penalty", "reasoning_effort", "stream_options"],
    mistral: [
      "frequency_penalty",
      "max_tokens",
      "parallel_tool_calls",
      "presence_penalty",
      "random_seed",
      "reasoning_effort"
    ],
    together: ["frequency_penalty", "max_tokens", "presence_penalty", "reasoning_effort", "seed", "top_k"],
    cohere: ["frequency_penalty", "max_tokens", "presence_penalty", "reasoning_effort", "seed"],
    ai21: ["max_tokens"]
  }
  const common = ["messages", "model", "stop", "stream", "temperature", "tools", "top_p"]

  for (const name of names) {
    it.scopedLive(`${name}: no field that it does not know, every one that it does`, () =>
      Effect.gen(function* () {
        const { tool_choice: choice, ...body } = right(yield* sent(name, everything, true))
        assert.deepStrictEqual(Object.keys(body).sort(), [...common, ...fields[name]].sort())
        assert.strictEqual(choice, name === "ai21" ? undefined : "auto")
        assert.strictEqual(body["max_tokens"], 100)
        for (const field of ["seed", "random_seed"]) if (field in body) assert.strictEqual(body[field], 7)
        if ("top_k" in body) assert.strictEqual(body["top_k"], 40)
      })
    )
  }

  it.scopedLive("the cache of prompts: Mistral has a key for it, the others have nothing", () =>
    Effect.gen(function* () {
      for (const name of names) {
        const cached = { ...everything, promptCache: { key: "chat-7", ttl: "long" } } as const
        const body = right(yield* sent(name, cached))
        const fields = Object.entries(body).filter(([field]) => field.includes("cache"))
        assert.deepStrictEqual(fields, name === "mistral" ? [["prompt_cache_key", "chat-7"]] : [], name)
      }
    })
  )

  it.scopedLive("a field that the caller gives is sent whatever the preset says", () =>
    Effect.gen(function* () {
      const body = right(
        yield* sent("mistral", {
          messages: [ChatMessage.user("hi")],
          providerOptions: { mistral: { safe_prompt: true, stream_options: { include_usage: true } } }
        })
      )
      assert.strictEqual(body["safe_prompt"], true)
      assert.deepStrictEqual(body["stream_options"], { include_usage: true })
    })
  )

  for (const name of ["llamacpp", "lmstudio", "cohere"] as const) {
    it.scopedLive(`${name}: one tool by its name is that tool alone, which must be called`, () =>
      Effect.gen(function* () {
        const body = right(yield* sent(name, { ...everything, toolChoice: { name: "time" } }))
        assert.strictEqual(body["tool_choice"], "required")
        assert.deepStrictEqual(
          (body["tools"] as ReadonlyArray<{ readonly function: { readonly name: string } }>).map(
            (tool) => tool.function.name
          ),
          ["time"]
        )
        assert.include(
          refusal(yield* sent(name, { ...everything, toolChoice: { name: "nothing" } })),
          "not among the tools"
        )
      })
    )
  }

  it.scopedLive("AI21 has no choice of tools: `none` leaves them out, a forced one is refused", () =>
    Effect.gen(function* () {
      const none = right(yield* sent("ai21", { ...everything, toolChoice: "none" }))
      assert.notProperty(none, "tools")
      assert.include(refusal(yield* sent("ai21", { ...everything, toolChoice: "required" })), "toolChoice")
      assert.include(refusal(yield* sent("ai21", { ...everything, toolChoice: { name: "time" } })), "toolChoice")
    })
  )

  const schema = { type: "object", properties: { a: { type: "string" } } }
  for (const name of names) {
    it.scopedLive(`${name}: JSON by a schema, and any JSON`, () =>
      Effect.gen(function* () {
        const bySchema = yield* sent(name, {
          messages: [ChatMessage.user("hi")],
          responseFormat: { type: "json-schema", name: "thing", schema }
        })
        if (name === "deepseek" || name === "ai21") assert.include(refusal(bySchema), "schema")
        else {
          assert.deepStrictEqual(right(bySchema)["response_format"], {
            type: "json_schema",
            json_schema: { name: "thing", schema }
          })
        }
        const any = right(yield* sent(name, { messages: [ChatMessage.user("hi")], responseFormat: { type: "json" } }))
        assert.deepStrictEqual(
          any["response_format"],
          name === "lmstudio"
            ? { type: "json_schema", json_schema: { name: "object", schema: { type: "object" } } }
            : { type: "json_object" }
        )
      })
    )
  }
})

describe("objects by a schema, where the server has no such format", () => {
  class City extends Schema.Class<City>("City")({ name: Schema.String }) {}

  for (const name of ["deepseek", "ai21"] as const) {
    it.scopedLive(`${name}: by the next best way, without a request that would be refused`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ request, response }) => {
          const tools = (JSON.parse(request.body) as { readonly tools?: ReadonlyArray<unknown> }).tools
          if (tools === undefined) return json(response, 200, answered('{"name":"Berlin"}'))
          const [tool] = tools as ReadonlyArray<{ readonly function: { readonly name: string } }>
          const call = {
            id: "c",
            type: "function",
            function: { name: tool?.function.name, arguments: '{"name":"Berlin"}' }
          }
          json(response, 200, {
            id: "c1",
            model: "m",
            choices: [{ index: 0, message: { role: "assistant", tool_calls: [call] }, finish_reason: "tool_calls" }]
          })
        })
        const { value } = yield* Llm.generateObject(City, { messages: [ChatMessage.user("Which city?")] }).pipe(
          Effect.provide(on(name, server))
        )
        assert.strictEqual(value.name, "Berlin")
        assert.strictEqual(server.seen.length, 1)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})

const calls = (...ids: ReadonlyArray<string>): Llm.LlmRequest => ({
  messages: [
    ChatMessage.user("hi"),
    {
      role: "assistant",
      content: ids.map((id) => ({ type: "tool-call" as const, id, name: "weather", arguments: {} }))
    },
    {
      role: "tool",
      content: ids.map((id) => ({ type: "tool-result" as const, id, name: "weather", result: "sunny" }))
    }
  ]
})

const idsIn = (body: Record<string, unknown>) => {
  const messages = body["messages"] as ReadonlyArray<{
    readonly tool_calls?: ReadonlyArray<{ readonly id: string }>
    readonly tool_call_id?: string
  }>
  return {
    asked: messages.flatMap((message) => message.tool_calls ?? []).map(({ id }) => id),
    answered: messages.flatMap((message) => message.tool_call_id ?? [])
  }
}

describe("conversations that began elsewhere", () => {
  it.scopedLive(
    "Mistral wants ids of nine letters and digits: those of other providers are replaced, both ends alike",
    () =>
      Effect.gen(function* () {
        const own = "a1B2c3D4e"
        const body = right(yield* sent("mistral", calls("call_PTLP8xhu3uwZk4l3nlnrrJha", own, "toolu_01A", "")))
        const { answered: back, asked } = idsIn(body)
        assert.deepStrictEqual(back, asked)
        for (const id of asked) assert.match(id, /^[A-Za-z0-9]{9}$/)
        assert.strictEqual(new Set(asked).size, 4)
        assert.strictEqual(asked[1], own)
        // The same from one request to the next, so that prompts that are kept stay the same.
        assert.deepStrictEqual(
          idsIn(right(yield* sent("mistral", calls("call_PTLP8xhu3uwZk4l3nlnrrJha", own, "toolu_01A", "")))).asked,
          asked
        )
      })
  )

  it("whatever the ids are, they stay apart and pair up", () => {
    const { adapt } = OpenAiCompatible.presets.mistral
    FastCheck.assert(
      FastCheck.property(FastCheck.uniqueArray(FastCheck.string(), { maxLength: 12 }), (ids) => {
        const body = {
          messages: [
            { role: "assistant", tool_calls: ids.map((id) => ({ id, type: "function" })) },
            ...ids.map((id) => ({ role: "tool", tool_call_id: id }))
          ]
        }
        const adapted = Either.getOrThrow(adapt(body, { messages: [] })) as Record<string, unknown>
        const { answered: back, asked } = idsIn(adapted)
        assert.deepStrictEqual(back, asked)
        assert.strictEqual(new Set(asked).size, ids.length)
        for (const id of asked) assert.match(id, /^[A-Za-z0-9]{9}$/)
      })
    )
  })

  it.scopedLive("DeepSeek gets the reasoning beside every call, empty where another model made it (complaint 13)", () =>
    Effect.gen(function* () {
      const request: Llm.LlmRequest = {
        messages: [
          ...calls("a").messages,
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "hm" },
              { type: "tool-call", id: "b", name: "weather", arguments: {} }
            ]
          },
          { role: "tool", content: [{ type: "tool-result", id: "b", name: "weather", result: "rain" }] },
          ChatMessage.assistant("It rains.")
        ]
      }
      const messages = right(yield* sent("deepseek", request))["messages"] as ReadonlyArray<Record<string, unknown>>
      assert.deepStrictEqual(
        messages.filter(({ role }) => role === "assistant").map((message) => message["reasoning_content"]),
        ["", "hm", undefined]
      )
      const off = right(yield* sent("deepseek", { messages: [ChatMessage.user("hi")], reasoningEffort: "none" }))
      assert.deepStrictEqual(off["thinking"], { type: "disabled" })
      assert.notProperty(off, "reasoning_effort")
    })
  )

  for (const [name, field] of [
    ["vllm", "reasoning"],
    ["llamacpp", "reasoning_content"]
  ] as const) {
    it.scopedLive(`${name} gets reasoning back as ${field}`, () =>
      Effect.gen(function* () {
        const body = right(
          yield* sent(name, {
            messages: [
              {
                role: "assistant",
                content: [
                  { type: "reasoning", text: "hm" },
                  { type: "text", text: "ah" }
                ]
              },
              ChatMessage.user("go on")
            ]
          })
        )
        assert.deepStrictEqual((body["messages"] as ReadonlyArray<unknown>)[0], {
          role: "assistant",
          content: "ah",
          [field]: "hm"
        })
      })
    )
  }
})

describe("what comes back", () => {
  const asked: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

  it.scopedLive("Mistral's thinking in parts, usage in the chunk of the finish, arguments as they are", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        sse(
          response,
          [
            chunk({ role: "assistant", content: [{ type: "thinking", thinking: [{ type: "text", text: "hm" }] }] }),
            chunk({ content: "Hello" }),
            chunk({ content: "" }, "stop", { usage: { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 } }),
            "data: [DONE]\n\n"
          ].join("")
        )
      )
      const parts = yield* Stream.runCollect(Llm.stream(asked)).pipe(Effect.provide(on("mistral", server)))
      const response = LlmResponse.fromParts(parts)
      assert.deepStrictEqual(
        [response?.reasoning, response?.text, response?.usage.input, response?.usage.output],
        ["hm", "Hello", 5, 2]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("Mistral's errors: its own envelope, and the lists of its validation", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) =>
        index === 0
          ? json(response, 400, {
              object: "error",
              message: "Tool call id was abc but must be a-z, A-Z, 0-9, with a length of 9.",
              type: "invalid_function_call",
              param: null,
              code: "3280"
            })
          : json(response, 422, { detail: [{ type: "extra_forbidden", loc: ["body", "x"], msg: "Extra inputs" }] })
      )
      const failed = Llm.generate(asked).pipe(Effect.flip)
      yield* Effect.gen(function* () {
        const first = yield* failed
        assert.deepStrictEqual([first.reason, first.isRetryable], ["InvalidRequest", false])
        assert.include(first.providerMessage, "length of 9")
        const second = yield* failed
        assert.deepStrictEqual([second.reason, second.providerMessage], ["InvalidRequest", "Extra inputs"])
      }).pipe(Effect.provide(on("mistral", server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("DeepSeek's signs of life before an answer: blank lines, and comments in streams (complaint 11)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) =>
        request.body.includes('"stream":true')
          ? sse(
              response,
              `: keep-alive\n\n: keep-alive\n\n${chunk({ reasoning_content: "hm" })}${chunk({ content: "ok" })}${chunk({}, "insufficient_system_resource")}data: [DONE]\n\n`
            )
          : json(response, 200, `\n\n\n${answered("ok")}`)
      )
      yield* Effect.gen(function* () {
        assert.strictEqual((yield* Llm.generate(asked)).text, "ok")
        const response = LlmResponse.fromParts(yield* Stream.runCollect(Llm.stream(asked)))
        assert.deepStrictEqual(
          [response?.reasoning, response?.text, response?.finish, response?.finishReason],
          ["hm", "ok", "other", "insufficient_system_resource"]
        )
      }).pipe(Effect.provide(on("deepseek", server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const failures: ReadonlyArray<
    readonly [OpenAiCompatible.PresetName, number, unknown, LlmError.Reason, { readonly limit?: number }]
  > = [
    [
      "vllm",
      400,
      {
        object: "error",
        message: "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        type: "BadRequestError",
        param: null,
        code: 400
      },
      "ContextLengthExceeded",
      { limit: 4096 }
    ],
    [
      "llamacpp",
      400,
      {
        error: {
          code: 400,
          message: "the request exceeds the available context size, try increasing it",
          type: "exceed_context_size_error",
          n_prompt_tokens: 9000,
          n_ctx: 4096
        }
      },
      "ContextLengthExceeded",
      {}
    ],
    ["llamacpp", 503, { error: { code: 503, message: "Loading model", type: "unavailable_error" } }, "Overloaded", {}],
    ["lmstudio", 400, { error: "Invalid tool_choice type: 'object'." }, "InvalidRequest", {}],
    [
      "deepseek",
      402,
      { error: { message: "Insufficient Balance", type: "unknown_error", param: null, code: "invalid_request_error" } },
      "QuotaExhausted",
      {}
    ],
    ["cohere", 429, { message: "You are using a Trial key, which is limited" }, "RateLimited", {}],
    ["ai21", 422, { detail: "temperature must be at most 2" }, "InvalidRequest", {}],
    ["together", 401, { error: { message: "Invalid API key provided", code: "invalid_api_key" } }, "Authentication", {}]
  ]
  for (const [name, status, body, reason, { limit }] of failures) {
    it.scopedLive(`${name}: ${status} ${JSON.stringify(body).slice(0, 60)}… is ${reason} (complaint 10)`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, status, body))
        const error = yield* Effect.flip(Llm.generate(asked)).pipe(Effect.provide(on(name, server)))
        assert.deepStrictEqual([error.reason, error.status, error.provider], [reason, status, name])
        assert.isNotEmpty(error.providerMessage)
        if (limit !== undefined) assert.strictEqual(error.limit, limit)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive(
    "llamacpp: an error in the field `error`, of servers of 2025, is that error (complaints 1 and 10)",
    () =>
      Effect.gen(function* () {
        const error = {
          code: 400,
          message: "the request exceeds the available context size. try increasing the context size",
          type: "invalid_request_error"
        }
        const line = `error: ${JSON.stringify(error)}\n\ndata: [DONE]\n\n`
        const server = yield* serve(({ index, response }) => {
          if (index === 0) sse(response, line)
          else if (index === 1) sse(response, `${chunk({ content: "Hel" })}${line}`)
          else sse(response, `${chunk({ content: "Hel" })}error: {"code":400,"mess`)
        })
        const streamed = Effect.flip(Stream.runDrain(Llm.stream(asked)))
        const seen = yield* Effect.all([streamed, streamed, streamed]).pipe(Effect.provide(on("llamacpp", server)))
        assert.deepStrictEqual(
          seen.map(({ isRetryable, partial, reason }) => [reason, isRetryable, partial?.text]),
          [
            ["ContextLengthExceeded", false, ""],
            ["ContextLengthExceeded", false, "Hel"],
            ["StreamTruncated", false, "Hel"]
          ]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a preset can be spread, and anything of it changed", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      yield* Llm.generate({ ...asked, maxTokens: 5, seed: 1 }).pipe(
        Effect.provide(
          OpenAiCompatible.layer({
            ...OpenAiCompatible.presets.mistral,
            provider: "my-gateway",
            baseUrl: server.url,
            apiKey: Redacted.make("k"),
            headers: { "x-team": "blue" },
            model: "mistral-small",
            maxTokensField: "max_completion_tokens",
            fields: { safe_prompt: true },
            retry: false
          })
        )
      )
      assert.strictEqual(server.seen[0]?.headers["x-team"], "blue")
      const body = JSON.parse(server.seen[0]?.body ?? "") as Record<string, unknown>
      assert.deepStrictEqual([body["max_completion_tokens"], body["random_seed"], body["safe_prompt"]], [5, 1, true])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a key is sent as a bearer token, and none where there is none", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      yield* Llm.generate(asked).pipe(Effect.provide(on("together", server, { apiKey: Redacted.make("k-1") })))
      yield* Llm.generate(asked).pipe(Effect.provide(on("llamacpp", server)))
      assert.deepStrictEqual(
        server.seen.map(({ headers }) => headers["authorization"]),
        ["Bearer k-1", undefined]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const lists: ReadonlyArray<readonly [OpenAiCompatible.PresetName, string, unknown, "up" | "degraded"]> = [
    ["vllm", "/base/models", { object: "list", data: [{ id: "m" }] }, "up"],
    ["vllm", "/base/models", { object: "list", data: [{ id: "other" }] }, "degraded"],
    // It answers with what it has loaded, whatever it is asked for.
    ["llamacpp", "/base/models", { object: "list", data: [{ id: "/models/other.gguf" }] }, "up"],
    ["together", "/base/models", [{ id: "m" }], "up"],
    ["together", "/base/models", [{ id: "other" }], "degraded"],
    ["cohere", "/v1/models", { models: [{ name: "command-a" }] }, "up"]
  ]
  for (const [name, path, list, status] of lists) {
    it.scopedLive(`${name} is ${status} by ${JSON.stringify(list)}`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 200, list))
        const baseUrl = name === "cohere" ? `${server.url}/compatibility/v1` : `${server.url}/base`
        const found = yield* Effect.flatMap(Llm.Llm, ({ health }) => health).pipe(
          Effect.provide(OpenAiCompatible.layerPreset(name, { model: "m", baseUrl }))
        )
        assert.strictEqual(found.status, status)
        assert.deepStrictEqual(
          server.seen.map((request) => request.path),
          [path]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})

describe("settings of presets", () => {
  const from = (name: OpenAiCompatible.PresetName, entries: Record<string, string>) =>
    Effect.map(Llm.Llm, ({ model, provider }) => [provider, model]).pipe(
      Effect.provide(OpenAiCompatible.layerPresetConfig(name).pipe(Layer.provide(FetchHttpClient.layer))),
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries)))),
      Effect.either
    )

  for (const name of names) {
    it.effect(
      `${name} is made by its name; its key is ${OpenAiCompatible.localPresets.includes(name) ? "optional" : "needed"}`,
      () =>
        Effect.gen(function* () {
          assert.deepStrictEqual(
            yield* from(name, { [`${name}.model`]: "m", [`${name}.apiKey`]: "k" }),
            Either.right([name, "m"])
          )
          const keyless = yield* from(name, { [`${name}.model`]: "m" })
          if (OpenAiCompatible.localPresets.includes(name)) assert.deepStrictEqual(keyless, Either.right([name, "m"]))
          else assert.include(String(Either.isLeft(keyless) ? keyless.left : ""), "apiKey")
        })
    )
  }

  it("every address is one of its own, and no preset's name is another's", () => {
    const all = names.map((name): OpenAiCompatible.Preset => OpenAiCompatible.presets[name])
    assert.strictEqual(new Set(all.map(({ baseUrl }) => new URL(baseUrl).host)).size, names.length)
    assert.deepStrictEqual(
      all.map(({ provider }) => provider),
      names.map(String)
    )
    for (const { baseUrl } of all) assert.notMatch(baseUrl, /\/$/)
  })
})
