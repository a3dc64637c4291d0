/** The provider: which API is spoken where, what is sent, and the Responses API through the whole client. */
import { FetchHttpClient, type HttpClient, type HttpClientRequest } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmResponse, LlmTest, LlmTool, OpenAi } from "@underlay/llm"
import { ConfigProvider, Effect, Exit, Fiber, Layer, Redacted, Schedule, Schema, Stream } from "effect"
import { answered, json, serve, sse } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("the very private question")] }
const key = "sk-test-0123456789abcdef"

const event = (type: string, fields: Record<string, unknown> = {}): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`

const usage = { input_tokens: 12, input_tokens_details: { cached_tokens: 5 }, output_tokens: 3 }
const answer = (text: string, fields: Record<string, unknown> = {}) => ({
  id: "resp_1",
  object: "response",
  model: "gpt-2026",
  status: "completed",
  output: [{ type: "message", id: "m", role: "assistant", content: [{ type: "output_text", text }] }],
  usage,
  ...fields
})
const delta = (text: string) =>
  event("response.output_text.delta", { item_id: "m", output_index: 0, content_index: 0, delta: text })
const streamed = (...texts: ReadonlyArray<string>) =>
  [
    event("response.created", { response: { id: "resp_1", model: "gpt-2026", status: "in_progress" } }),
    ...texts.map(delta),
    event("response.completed", { response: { ...answer(""), output: [] } })
  ].join("")

/** The requests that a layer sends; every one is answered with nothing. */
const asked = (options: Partial<OpenAi.OpenAiOptions>, use: Effect.Effect<unknown, unknown, Llm.Llm>) =>
  Effect.gen(function* () {
    const seen: Array<HttpClientRequest.HttpClientRequest> = []
    const replay = LlmTest.layerReplay(
      [{ provider: "openai", api: "responses", stream: false, response: { status: 200, headers: {}, body: "{}" } }],
      { onRequest: (request) => seen.push(request) }
    )
    const layer = OpenAi.layer({ apiKey: Redacted.make(key), model: "gpt-5", retry: false, ...options })
    yield* use.pipe(Effect.exit, Effect.provide(Layer.provide(layer, replay)))
    return seen
  })

const pathsOf = (options: Partial<OpenAi.OpenAiOptions>) =>
  Effect.map(
    asked(options, Effect.zipRight(Effect.exit(Llm.generate(ask)), Stream.runDrain(Llm.stream(ask)))),
    (seen) => seen.map(({ url }) => url)
  )

describe("what is spoken", () => {
  it.effect("is the Responses API at OpenAI's own addresses, Chat Completions at any other, unless it is said", () =>
    Effect.gen(function* () {
      for (const [options, url] of [
        [{}, "https://api.openai.com/v1/responses"],
        [{ baseUrl: "https://eu.api.openai.com/v1/" }, "https://eu.api.openai.com/v1/responses"],
        [{ api: "chat-completions" }, "https://api.openai.com/v1/chat/completions"],
        [{ baseUrl: "http://localhost:8000/v1" }, "http://localhost:8000/v1/chat/completions"],
        [
          { baseUrl: "https://api.openai.com.evil.example/v1" },
          "https://api.openai.com.evil.example/v1/chat/completions"
        ],
        [{ baseUrl: "https://notapi.openai.com/v1" }, "https://notapi.openai.com/v1/chat/completions"],
        [{ baseUrl: "http://localhost:8000/v1", api: "responses" }, "http://localhost:8000/v1/responses"]
      ] as const) {
        assert.deepStrictEqual(yield* pathsOf(options), [url, url])
      }
    })
  )

  it.effect("can be configured, with the organization and the project", () =>
    Effect.gen(function* () {
      const seen: Array<HttpClientRequest.HttpClientRequest> = []
      const replay = LlmTest.layerReplay(
        [{ provider: "openai", api: "responses", stream: false, response: { status: 200, headers: {}, body: "{}" } }],
        { onRequest: (request) => seen.push(request) }
      )
      const read = (entries: Record<string, string>) =>
        Llm.generate(ask).pipe(
          Effect.exit,
          Effect.provide(Layer.provide(OpenAi.layerConfig(), replay)),
          Effect.withConfigProvider(
            ConfigProvider.fromMap(
              new Map(Object.entries({ "openai.apiKey": key, "openai.model": "gpt-5", ...entries }))
            )
          )
        )
      yield* read({ "openai.api": "chat-completions", "openai.organization": "org-1", "openai.project": "proj-1" })
      yield* read({})
      assert.deepStrictEqual(
        seen.map(({ headers, url }) => [url, headers["openai-organization"], headers["openai-project"]]),
        [
          ["https://api.openai.com/v1/chat/completions", "org-1", "proj-1"],
          ["https://api.openai.com/v1/responses", undefined, undefined]
        ]
      )
      assert.strictEqual(seen[0]?.headers["authorization"], `Bearer ${key}`)
      const wrong = yield* Effect.exit(read({ "openai.api": "telepathy" }))
      assert.isTrue(Exit.isFailure(wrong))
      assert.match(String(wrong), /"openai",\s*"api"/)
    })
  )
})

describe("tokens", () => {
  it.scopedLive("are counted by OpenAI, without the fields that it does not take there", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, { object: "response.input_tokens", input_tokens: 57 })
      )
      const tool = LlmTool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })
      const count = Llm.countTokens({ ...ask, tools: [tool], temperature: 1, maxTokens: 50 }).pipe(
        Effect.provide(
          OpenAi.layer({ apiKey: Redacted.make(key), model: "gpt-5", baseUrl: `${server.url}/v1`, api: "responses" })
        )
      )
      assert.strictEqual(yield* count, 57)
      const [request] = server.seen
      assert.deepStrictEqual([request?.method, request?.path], ["POST", "/v1/responses/input_tokens"])
      assert.strictEqual(request?.headers["authorization"], `Bearer ${key}`)
      assert.deepStrictEqual(Object.keys(JSON.parse(request?.body ?? "{}")), ["model", "input", "tools"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("are counted at OpenAI whatever is spoken, and not where nobody counts them", () =>
    Effect.gen(function* () {
      const count = Llm.countTokens(ask)
      // The words at which an answer is to stop are no part of what is counted.
      const own = yield* asked({ api: "chat-completions" }, Llm.countTokens({ ...ask, stop: ["END"] }))
      assert.deepStrictEqual(
        own.map(({ url }) => url),
        ["https://api.openai.com/v1/responses/input_tokens"]
      )
      assert.deepStrictEqual(yield* asked({ baseUrl: "http://localhost:8000/v1" }, count), [])
    })
  )
})

const over =
  (url: string, options: Partial<OpenAi.OpenAiOptions> = {}) =>
  <A, E>(use: Effect.Effect<A, E, Llm.Llm | HttpClient.HttpClient>) =>
    use.pipe(
      Effect.provide(
        OpenAi.layer({
          apiKey: Redacted.make(key),
          model: "gpt-5",
          baseUrl: `${url}/v1`,
          api: "responses",
          retry: { base: "5 millis", jitter: "none" },
          ...options
        })
      )
    )

const eventually = (test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail("not yet"))).pipe(
    Effect.retry(Schedule.spaced("2 millis").pipe(Schedule.upTo("5 seconds")))
  )

describe("the Responses API through the whole client", () => {
  it.scopedLive("whole answers and streams, one span each, with the usage and the names of the conventions", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.body.includes('"stream":true')) sse(response, streamed("Hel", "lo"))
        else json(response, 200, answer("Hello"))
      })
      const recording = yield* Recording.make
      const [whole, parts] = yield* Effect.all([Llm.generate(ask), Stream.runCollect(Llm.stream(ask))]).pipe(
        over(server.url),
        recording.within
      )
      assert.strictEqual(whole.text, "Hello")
      assert.deepStrictEqual(LlmResponse.fromParts(parts)?.usage, whole.usage)
      assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
      for (const { body, path } of server.seen) {
        assert.strictEqual(path, "/v1/responses")
        assert.strictEqual(JSON.parse(body).store, false)
      }
      const spans = (yield* recording.spans).filter(({ name }) => name === "chat gpt-5")
      assert.strictEqual(spans.length, 2)
      for (const span of spans) {
        assert.strictEqual(span.attributes.get("gen_ai.provider.name"), "openai")
        assert.strictEqual(span.attributes.get("gen_ai.response.id"), "resp_1")
        assert.strictEqual(span.attributes.get("gen_ai.usage.cache_read.input_tokens"), 5)
      }
      const shown = JSON.stringify(
        spans.map(({ attributes, events }) => [[...attributes], events]),
        (_, value) => (typeof value === "bigint" ? String(value) : value)
      )
      for (const secret of ["very private", key, "Hel"]) assert.notInclude(shown, secret)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a stream that fails before the first content is asked again, after it is not (complaint 1)", () =>
    Effect.gen(function* () {
      const failed = event("response.failed", {
        response: { id: "resp_1", status: "failed", error: { code: "server_error", message: "oops" } }
      })
      const early = yield* serve(({ index, response }) => sse(response, index < 2 ? failed : streamed("Hello")))
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(over(early.url))
      assert.deepStrictEqual([LlmResponse.fromParts(parts)?.text, early.seen.length], ["Hello", 3])

      const late = yield* serve(({ response }) => sse(response, delta("Hel") + failed))
      let text = ""
      const error = yield* Stream.runForEach(Llm.stream(ask), (part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") text += part.text
        })
      ).pipe(over(late.url), Effect.flip)
      assert.deepStrictEqual([error.reason, error.isRetryable, error.partial?.text], ["ServerError", false, "Hel"])
      assert.deepStrictEqual([text, late.seen.length], ["Hel", 1])

      const quota = yield* serve(({ response }) =>
        sse(response, event("error", { code: "insufficient_quota", message: "You exceeded your current quota" }))
      )
      const none = yield* Stream.runDrain(Llm.stream(ask)).pipe(over(quota.url), Effect.flip)
      assert.deepStrictEqual([none.reason, quota.seen.length], ["QuotaExhausted", 1])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("an answer that failed under status 200 is an error, and asked for again where that may help", () =>
    Effect.gen(function* () {
      const failed = (code: string) => answer("", { status: "failed", output: [], error: { code, message: "no" } })
      const server = yield* serve(({ index, response }) =>
        json(response, 200, index === 0 ? failed("server_error") : answer("Hello"))
      )
      assert.strictEqual((yield* Llm.generate(ask).pipe(over(server.url))).text, "Hello")
      const wrong = yield* serve(({ response }) => json(response, 200, failed("invalid_prompt")))
      const error = yield* Llm.generate(ask).pipe(over(wrong.url), Effect.flip)
      assert.deepStrictEqual([error.reason, error.code, wrong.seen.length], ["InvalidRequest", "invalid_prompt", 1])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a server that is silent after the last event does not hold the answer", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(streamed("Hello"))
      })
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(over(server.url, { idleTimeout: "100 millis" }))
      assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("interruption closes the connection (complaint 8: aborts leak)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(delta("Hel"))
      })
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(over(server.url), Effect.fork)
      yield* eventually(() => server.seen.length === 1)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      yield* eventually(() => server.aborted() === 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a conversation goes on with what the model must see again (complaint 13)", () =>
    Effect.gen(function* () {
      const reasoning = { type: "reasoning", id: "rs_1", summary: [], encrypted_content: "opaque" }
      const called = {
        type: "function_call",
        id: "fc_1",
        call_id: "call_1",
        name: "weather",
        arguments: '{"city":"Berlin"}'
      }
      const server = yield* serve(({ index, response }) =>
        json(response, 200, index === 0 ? answer("", { output: [reasoning, called] }) : answer("7 degrees"))
      )
      const tool = LlmTool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })
      const text = yield* Effect.gen(function* () {
        const first = yield* Llm.generate({ ...ask, tools: [tool] })
        assert.strictEqual(first.finish, "tool-calls")
        const second = yield* Llm.generate({
          messages: [
            ...ask.messages,
            LlmResponse.toMessage(first),
            {
              role: "tool",
              content: first.toolCalls.map(({ id, name }) => ({
                type: "tool-result",
                id,
                name,
                result: { degrees: 7 }
              }))
            }
          ],
          tools: [tool]
        })
        return second.text
      }).pipe(over(server.url))
      assert.strictEqual(text, "7 degrees")
      assert.deepStrictEqual(JSON.parse(server.seen[1]?.body ?? "{}").input, [
        { role: "user", content: "the very private question" },
        reasoning,
        { type: "function_call", call_id: "call_1", name: "weather", arguments: '{"city":"Berlin"}' },
        { type: "function_call_output", call_id: "call_1", output: '{"degrees":7}' }
      ])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("what a server refuses and can be done without", () => {
  type Body = { readonly [field: string]: unknown; readonly input: ReadonlyArray<Record<string, unknown>> }
  const refused = (message: string, code: string | null = null) => ({
    error: { message, type: "invalid_request_error", param: null, code }
  })
  const reasoned: Llm.LlmRequest = {
    messages: [
      ...ask.messages,
      {
        role: "assistant",
        content: [
          { type: "reasoning", text: "hm", id: "rs_1", signature: "of another key", provider: "openai" },
          { type: "text", text: "Hello" }
        ]
      },
      ...ask.messages
    ]
  }

  it.scopedLive("reasoning that cannot be decrypted is left out, so that the conversation goes on", () =>
    Effect.gen(function* () {
      for (const [message, code] of [
        ["The encrypted content gAAA...DQ== could not be verified.", "invalid_encrypted_content"],
        ["The encrypted content for item rs_1 could not be verified.", null]
      ] as const) {
        const server = yield* serve(({ request, response }) => {
          if (request.body.includes("of another key")) json(response, 400, refused(message, code))
          else if (request.body.includes('"stream":true')) sse(response, streamed("Hello"))
          else json(response, 200, answer("Hello"))
        })
        yield* Effect.gen(function* () {
          assert.strictEqual((yield* Llm.generate(reasoned)).text, "Hello")
          const parts = yield* Stream.runCollect(Llm.stream(reasoned))
          assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
          // What the model reasons from now on is still asked for, and sent back.
          yield* Llm.generate({ messages: JSON.parse(JSON.stringify(reasoned.messages).replace("another", "this")) })
        }).pipe(over(server.url))
        const bodies = server.seen.map(({ body }) => JSON.parse(body) as Body)
        assert.deepStrictEqual(
          bodies.map(({ input }) => input.filter(({ type }) => type === "reasoning").length),
          [1, 0, 1, 0, 1]
        )
        for (const { include } of bodies) assert.deepStrictEqual(include, ["reasoning.encrypted_content"])
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("what is refused again without it is refused, and every other error is left alone", () =>
    Effect.gen(function* () {
      for (const [status, message, code, requests, reason] of [
        [400, "The encrypted content of a compaction could not be verified.", "invalid_encrypted_content", 2],
        [400, "Encrypted content is not supported with this model.", null, 2],
        [400, "Invalid value: 'tool'.", "invalid_value", 1],
        [403, "Encrypted content is not supported with this model.", null, 1, "PermissionDenied"]
      ] as const) {
        const server = yield* serve(({ response }) => json(response, status, refused(message, code)))
        const error = yield* Llm.generate(reasoned).pipe(over(server.url), Effect.flip)
        assert.deepStrictEqual([error.reason, server.seen.length], [reason ?? "InvalidRequest", requests], message)
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a long life in the cache is a hint: a model that has none is asked without, and remembered", () =>
    Effect.gen(function* () {
      const hinted = { ...ask, promptCache: { key: "tenant-7", ttl: "long" as const } }
      const message = "prompt_cache_retention is not supported on this model"
      for (const api of ["responses", "chat-completions"] as const) {
        const server = yield* serve(({ request, response }) => {
          if (request.body.includes("prompt_cache_retention")) {
            json(response, 400, refused(message, "invalid_parameter"))
          } else json(response, 200, api === "responses" ? answer("Hello") : answered("Hello"))
        })
        yield* Effect.gen(function* () {
          for (let turn = 0; turn < 2; turn++) assert.strictEqual((yield* Llm.generate(hinted)).text, "Hello")
        }).pipe(over(server.url, { api }))
        assert.deepStrictEqual(
          server.seen
            .map(({ body }) => JSON.parse(body) as Body)
            .map((body) => [body["prompt_cache_key"], body["prompt_cache_retention"]]),
          [
            ["tenant-7", "24h"],
            ["tenant-7", undefined],
            ["tenant-7", undefined]
          ]
        )
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("several of them at once are found one after another, within one attempt", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.body.includes("prompt_cache_retention")) {
          return json(response, 400, refused("Unknown parameter: 'prompt_cache_retention'.", "unknown_parameter"))
        }
        if (request.body.includes("of another key")) {
          return json(response, 400, refused("could not be verified", "invalid_encrypted_content"))
        }
        if (request.body.includes('"include"')) {
          return json(response, 400, refused("Encrypted content is not supported with this model."))
        }
        json(response, 200, answer("Hello"))
      })
      const response = yield* Llm.generate({ ...reasoned, promptCache: { ttl: "long" } }).pipe(
        over(server.url, { retry: false })
      )
      assert.deepStrictEqual([response.text, server.seen.length], ["Hello", 4])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("Chat Completions at OpenAI", () => {
  it.effect("has the fields of the cache of prompts and the penalties; what others said is left out", () =>
    Effect.gen(function* () {
      const bodies: Array<unknown> = []
      const [request] = yield* asked(
        { api: "chat-completions" },
        Llm.generate({
          messages: [
            ...ask.messages,
            {
              role: "assistant",
              content: [
                { type: "provider", provider: "openai", data: { type: "web_search_call", id: "ws_1" } },
                { type: "reasoning", text: "hm", id: "rs_1", signature: "opaque", provider: "openai" },
                { type: "text", text: "Hello", signature: "final_answer", provider: "openai" }
              ]
            },
            ChatMessage.user("go on")
          ],
          topK: 40,
          frequencyPenalty: 0.5,
          presencePenalty: -0.5,
          promptCache: { key: "tenant-7", ttl: "long", breakpoints: [0] }
        })
      )
      if (request?.body._tag === "Uint8Array") bodies.push(JSON.parse(new TextDecoder().decode(request.body.body)))
      assert.deepStrictEqual(bodies, [
        {
          model: "gpt-5",
          messages: [
            { role: "user", content: "the very private question" },
            { role: "assistant", content: "Hello" },
            { role: "user", content: "go on" }
          ],
          frequency_penalty: 0.5,
          presence_penalty: -0.5,
          prompt_cache_key: "tenant-7",
          prompt_cache_retention: "24h",
          stream: false
        }
      ])
    })
  )
})
