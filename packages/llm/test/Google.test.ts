/** Google's models over a loopback server: addresses, keys, spans, retries, streams, counts and health. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { FunctionCallingConfigMode, GoogleGenAI, ThinkingLevel } from "@google/genai"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Google, Llm, LlmResponse, LlmTool } from "@underlay/llm"
import { Chunk, ConfigProvider, Effect, Either, Fiber, Redacted, Schedule, Schema, Stream } from "effect"
import { json, type Server, serve, sse } from "./server.ts"

type Json = { readonly [key: string]: unknown }

const key = "AIzaTest0123456789abcdef"
const prompt = "the very private question"
const ask: Llm.LlmRequest = { messages: [ChatMessage.user(prompt)], maxTokens: 50 }

const google = (server: Server, options: Partial<Google.GoogleOptions> = {}) =>
  Google.layer({
    apiKey: Redacted.make(key),
    model: "gemini-3-flash",
    baseUrl: `${server.url}/v1beta/`,
    retry: { base: "10 millis", jitter: "none" },
    ...options
  })

const chunk = (parts: ReadonlyArray<unknown>, finishReason?: string) => ({
  candidates: [
    { content: { role: "model", parts }, index: 0, ...(finishReason === undefined ? {} : { finishReason }) }
  ],
  usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 2, thoughtsTokenCount: 3, totalTokenCount: 10 },
  modelVersion: "gemini-3-flash-001",
  responseId: "r1"
})

const events = (...chunks: ReadonlyArray<unknown>): string =>
  chunks.map((each) => `data: ${JSON.stringify(each)}\r\n\r\n`).join("")

const limited = {
  error: {
    code: 429,
    message: "Resource has been exhausted",
    status: "RESOURCE_EXHAUSTED",
    details: [
      {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        violations: [{ quotaId: "GenerateRequestsPerMinutePerProjectPerModel" }]
      },
      { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "0.3s" }
    ]
  }
}

const bodyOf = (server: Server, index: number): Json => JSON.parse(server.seen[index]?.body ?? "null") as Json

describe("Google", () => {
  it.scopedLive("waits as the body of a 429 says, then streams: one span, the key in a header (complaint 4)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) => {
        if (index === 0) json(response, 429, limited)
        else sse(response, events(chunk([{ text: "Hel" }]), chunk([{ text: "lo" }], "STOP")))
      })
      const recording = yield* Recording.make
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(google(server)), recording.within)
      const response = LlmResponse.fromParts(parts)
      assert.strictEqual(response?.text, "Hello")
      assert.deepStrictEqual(response?.usage, { input: 5, output: 5, cachedInput: undefined, reasoning: 3 })
      assert.strictEqual(server.seen.length, 2)
      assert.isAtLeast((server.seen[1]?.at ?? 0) - (server.seen[0]?.at ?? 0), 295)
      for (const { headers, method, path } of server.seen) {
        assert.strictEqual(method, "POST")
        assert.strictEqual(path, "/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse")
        assert.strictEqual(headers["x-goog-api-key"], key)
        assert.strictEqual(headers["content-type"], "application/json")
        assert.isUndefined(headers["authorization"])
      }
      const spans = yield* recording.spans
      const [call, ...others] = spans.filter(
        (span) => span.kind === "client" && span.name.startsWith("generate_content")
      )
      assert.lengthOf(others, 0)
      assert.strictEqual(call?.name, "generate_content gemini-3-flash")
      assert.strictEqual(call?.attributes.get("gen_ai.operation.name"), "generate_content")
      assert.strictEqual(call?.attributes.get("gen_ai.provider.name"), "gcp.gemini")
      assert.strictEqual(call?.attributes.get("gen_ai.response.model"), "gemini-3-flash-001")
      assert.strictEqual(call?.attributes.get("gen_ai.usage.output_tokens"), 5)
      assert.strictEqual(call?.attributes.get("gen_ai.usage.reasoning.output_tokens"), 3)
      for (const { attributes } of spans) {
        const said = JSON.stringify([...attributes].map(([name, value]) => [name, String(value)]))
        assert.notInclude(said, key)
        assert.notInclude(said, prompt)
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("never tries again when the day's quota is used up (complaint 4)", () =>
    Effect.gen(function* () {
      const daily = {
        error: {
          ...limited.error,
          details: [{ violations: [{ quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier" }] }]
        }
      }
      const server = yield* serve(({ response }) => json(response, 429, daily))
      const error = yield* Llm.generate(ask).pipe(Effect.provide(google(server)), Effect.flip)
      assert.strictEqual(error.reason, "QuotaExhausted")
      assert.strictEqual(server.seen.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a wrong key is one, though its status is 400", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 400, {
          error: {
            code: 400,
            message: `API key not valid: ${key}`,
            status: "INVALID_ARGUMENT",
            details: [{ reason: "API_KEY_INVALID" }]
          }
        })
      )
      const error = yield* Llm.generate(ask).pipe(Effect.provide(google(server)), Effect.flip)
      assert.strictEqual(error.reason, "Authentication")
      assert.notInclude(String(error), key)
      assert.strictEqual(server.seen.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("an error after content ends the stream typed and is not tried again (complaint 1)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        sse(response, events(chunk([{ text: "Hel" }]), { error: { code: 503, message: "no", status: "UNAVAILABLE" } }))
      )
      const texts: Array<string> = []
      const error = yield* Llm.stream(ask).pipe(
        Stream.runForEach((part) =>
          Effect.sync(() => {
            if (part.type === "text-delta") texts.push(part.text)
          })
        ),
        Effect.provide(google(server)),
        Effect.flip
      )
      assert.deepStrictEqual(texts, ["Hel"])
      assert.strictEqual(error.reason, "Overloaded")
      assert.isTrue(error.midStream)
      assert.strictEqual(error.partial?.text, "Hel")
      assert.strictEqual(error.usage?.input, 5)
      assert.strictEqual(server.seen.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a conversation with tools goes on with signatures and ids as they came (complaint 13)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) =>
        json(
          response,
          200,
          index === 0
            ? chunk(
                [
                  { text: "thinking", thought: true },
                  { functionCall: { name: "weather", args: { city: "Rome" } }, thoughtSignature: "sig" },
                  { functionCall: { id: "own", name: "weather", args: { city: "Oslo" } } }
                ],
                "STOP"
              )
            : chunk([{ text: "warm" }], "STOP")
        )
      )
      const weather = LlmTool.make("weather", { parameters: Schema.Struct({ city: Schema.String }) })
      const tools = { tools: [weather] }
      yield* Effect.gen(function* () {
        const first = yield* Llm.generate({ ...ask, ...tools })
        assert.strictEqual(first.finish, "tool-calls")
        assert.strictEqual(first.reasoning, "thinking")
        const second = yield* Llm.generate({
          ...tools,
          messages: [
            ...ask.messages,
            LlmResponse.toMessage(first),
            {
              role: "tool",
              content: first.toolCalls.map((call) => ({
                type: "tool-result" as const,
                id: call.id,
                name: call.name,
                result: 20
              }))
            }
          ]
        })
        assert.strictEqual(second.text, "warm")
        const made = first.toolCalls[0]?.id
        assert.deepStrictEqual((bodyOf(server, 1)["contents"] as ReadonlyArray<unknown>).slice(1), [
          {
            role: "model",
            parts: [
              { functionCall: { id: made, name: "weather", args: { city: "Rome" } }, thoughtSignature: "sig" },
              { functionCall: { id: "own", name: "weather", args: { city: "Oslo" } } }
            ]
          },
          {
            role: "user",
            parts: [
              { functionResponse: { id: made, name: "weather", response: { output: 20 } } },
              { functionResponse: { id: "own", name: "weather", response: { output: 20 } } }
            ]
          }
        ])
      }).pipe(Effect.provide(google(server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("answers a value by schema with Gemini's own format", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, chunk([{ text: `{"degrees":20}` }], "STOP")))
      const { value } = yield* Llm.generateObject(Schema.Struct({ degrees: Schema.Int }), ask).pipe(
        Effect.provide(google(server))
      )
      assert.deepStrictEqual(value, { degrees: 20 })
      assert.deepInclude(bodyOf(server, 0)["generationConfig"], {
        maxOutputTokens: 50,
        responseMimeType: "application/json"
      })
      assert.deepInclude((bodyOf(server, 0)["generationConfig"] as Json)["responseJsonSchema"], {
        type: "object",
        required: ["degrees"]
      })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("counts tokens where Google does, and knows its health by the list of models", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.path.endsWith(":countTokens")) json(response, 200, { totalTokens: 31 })
        else if (request.path === "/v1beta/models?pageSize=1000") {
          json(response, 200, { models: [{ name: "models/gemini-3-flash", displayName: "Gemini" }] })
        } else json(response, 404, { error: { code: 404, status: "NOT_FOUND", message: "no" } })
      })
      yield* Effect.gen(function* () {
        const llm = yield* Llm.Llm
        assert.strictEqual(yield* Llm.countTokens({ ...ask, model: "tunedModels/mine" }), 31)
        assert.strictEqual(server.seen[0]?.path, "/v1beta/tunedModels/mine:countTokens")
        assert.strictEqual((yield* llm.health).status, "up")
      }).pipe(Effect.provide(google(server)))
      const health = Effect.flatMap(Llm.Llm, (llm) => llm.health)
      assert.strictEqual(
        (yield* Effect.provide(health, google(server, { model: "models/gemini-3-flash" }))).status,
        "up"
      )
      assert.strictEqual((yield* Effect.provide(health, google(server, { model: "gemini-0" }))).status, "degraded")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("is made of its settings", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, chunk([{ text: "hi" }], "STOP")))
      const settings = new Map([
        ["google.apiKey", key],
        ["google.model", "gemini-2.5-flash"],
        ["google.baseUrl", server.url],
        ["google.timeout", "5 seconds"]
      ])
      const response = yield* Llm.generate(ask).pipe(
        Effect.provide(Google.layerConfig()),
        Effect.withConfigProvider(ConfigProvider.fromMap(settings))
      )
      yield* Llm.generate(ask).pipe(
        Effect.provide(google(server, { headers: { "x-gateway": Redacted.make("secret") } }))
      )
      assert.deepInclude(server.seen[1]?.headers, { "x-gateway": "secret", "x-goog-api-key": key })
      assert.strictEqual(response.text, "hi")
      assert.strictEqual(server.seen[0]?.path, "/models/gemini-2.5-flash:generateContent")
      const missing = yield* Llm.generate(ask).pipe(
        Effect.provide(Google.layerConfig()),
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["google.model", "m"]]))),
        Effect.either
      )
      assert.include(Either.isLeft(missing) ? String(missing.left) : "", "apiKey")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a caller that gives up closes the connection (complaint 8)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(events(chunk([{ text: "Hel" }])))
      })
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.provide(google(server)), Effect.fork)
      const eventually = (test: () => boolean) =>
        Effect.suspend(() => (test() ? Effect.void : Effect.fail("not yet"))).pipe(
          Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("5 seconds")))
        )
      yield* eventually(() => server.seen.length === 1)
      yield* Fiber.interrupt(fiber)
      yield* eventually(() => server.aborted() === 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("sends what Google's own package sends", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, chunk([{ text: "hi" }], "STOP")))
      const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
      const schema = { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] }
      yield* Llm.generate({
        messages: [
          ChatMessage.system("be brief"),
          {
            role: "user",
            content: [
              { type: "text", text: "hi" },
              {
                type: "file",
                mediaType: "image/png",
                source: { type: "bytes", bytes: new Uint8Array([1, 2, 3]) }
              }
            ]
          },
          {
            role: "assistant",
            content: [
              {
                type: "tool-call",
                id: "c1",
                name: "weather",
                arguments: { city: "Rome" },
                signature: "c2ln",
                provider: "google"
              }
            ]
          },
          { role: "tool", content: [{ type: "tool-result", id: "c1", name: "weather", result: { degrees: 20 } }] }
        ],
        temperature: 0.5,
        topP: 0.9,
        topK: 40,
        maxTokens: 100,
        stop: ["END"],
        seed: 7,
        frequencyPenalty: 0.1,
        presencePenalty: 0.2,
        reasoningEffort: "low",
        tools: [{ name: "weather", description: "The weather", parameters }],
        toolChoice: { name: "weather" },
        responseFormat: { type: "json-schema", name: "answer", schema },
        providerOptions: {
          google: { cachedContent: "cachedContents/1", tools: [{ googleSearch: {} }] }
        }
      }).pipe(Effect.provide(google(server)))
      const official = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: server.url } })
      yield* Effect.promise(() =>
        official.models.generateContent({
          model: "gemini-3-flash",
          contents: [
            { role: "user", parts: [{ text: "hi" }, { inlineData: { mimeType: "image/png", data: "AQID" } }] },
            {
              role: "model",
              parts: [{ functionCall: { id: "c1", name: "weather", args: { city: "Rome" } }, thoughtSignature: "c2ln" }]
            },
            {
              role: "user",
              parts: [{ functionResponse: { id: "c1", name: "weather", response: { degrees: 20 } } }]
            }
          ],
          config: {
            systemInstruction: { parts: [{ text: "be brief" }] },
            temperature: 0.5,
            topP: 0.9,
            topK: 40,
            maxOutputTokens: 100,
            stopSequences: ["END"],
            seed: 7,
            frequencyPenalty: 0.1,
            presencePenalty: 0.2,
            thinkingConfig: { includeThoughts: true, thinkingLevel: ThinkingLevel.LOW },
            tools: [
              {
                functionDeclarations: [
                  { name: "weather", description: "The weather", parametersJsonSchema: parameters }
                ]
              },
              { googleSearch: {} }
            ],
            toolConfig: {
              functionCallingConfig: { mode: FunctionCallingConfigMode.ANY, allowedFunctionNames: ["weather"] }
            },
            responseMimeType: "application/json",
            responseJsonSchema: schema,
            cachedContent: "cachedContents/1"
          }
        })
      )
      const [ours, theirs] = server.seen
      assert.strictEqual(ours?.path, theirs?.path)
      assert.strictEqual(ours?.headers["x-goog-api-key"], theirs?.headers["x-goog-api-key"])
      // The levels are the same in either case.
      const theirBody = (theirs?.body ?? "").replace(`"thinkingLevel":"LOW"`, `"thinkingLevel":"low"`)
      assert.deepStrictEqual(JSON.parse(ours?.body ?? ""), JSON.parse(theirBody))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("streams in arrays are read while they come", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "application/json" })
        response.write(`[${JSON.stringify(chunk([{ text: "Hel" }]))}\n`)
      })
      const parts = yield* Llm.stream(ask).pipe(Stream.take(1), Stream.runCollect, Effect.provide(google(server)))
      assert.deepStrictEqual(Chunk.toReadonlyArray(parts), [{ type: "text-delta", text: "Hel" }])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
