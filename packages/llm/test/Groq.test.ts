/** Groq: what it is asked, and what it says that others do not. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Groq, Llm, type LlmError, LlmResponse, LlmTest } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { ConfigProvider, Duration, Effect, Layer, Redacted, Stream } from "effect"
import { casesOf } from "./corpus.ts"
import { answered, chunk, json, type Server, serve, sse } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")], maxTokens: 50, seed: 3 }

const on = (server: Server, options: Partial<Groq.GroqOptions> = {}) =>
  Groq.layer({
    apiKey: Redacted.make("gsk"),
    model: "openai/gpt-oss-20b",
    baseUrl: `${server.url}/openai/v1`,
    retry: false,
    ...options
  })

const bodies = (options: Partial<Groq.GroqOptions>, ...requests: ReadonlyArray<Llm.LlmRequest>) =>
  Effect.gen(function* () {
    const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
    yield* Effect.forEach(requests, Llm.generate).pipe(Effect.provide(on(server, options)))
    return server.seen.map(({ body }) => JSON.parse(body) as Record<string, unknown>)
  }).pipe(Effect.provide(FetchHttpClient.layer))

describe("requests", () => {
  it.scopedLive("are Chat Completions; the usage of streams comes unasked", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        sse(response, `${chunk({ content: "a" })}${chunk({}, "stop")}data: [DONE]\n\n`)
      )
      yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.provide(on(server)))
      assert.strictEqual(server.seen[0]?.path, "/openai/v1/chat/completions")
      assert.strictEqual(server.seen[0]?.headers["authorization"], "Bearer gsk")
      assert.deepStrictEqual(JSON.parse(server.seen[0]?.body ?? ""), {
        model: "openai/gpt-oss-20b",
        messages: [{ role: "user", content: "hi" }],
        max_completion_tokens: 50,
        seed: 3,
        stream: true
      })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("have the layer's options, unless the request has its own", () =>
    Effect.gen(function* () {
      const [plain, own] = yield* bodies({ reasoningFormat: "parsed", serviceTier: "flex" }, ask, {
        ...ask,
        providerOptions: { groq: { reasoning_format: "hidden" }, openai: { service_tier: "priority" } }
      })
      assert.deepStrictEqual([plain?.["reasoning_format"], plain?.["service_tier"]], ["parsed", "flex"])
      assert.deepStrictEqual([own?.["reasoning_format"], own?.["service_tier"]], ["hidden", "flex"])
    })
  )

  it.scopedLive("never have both fields of reasoning, which exclude each other", () =>
    Effect.gen(function* () {
      const [first] = yield* bodies(
        { reasoningFormat: "parsed" },
        { ...ask, providerOptions: { groq: { include_reasoning: false } } }
      )
      assert.notProperty(first, "reasoning_format")
      assert.strictEqual(first?.["include_reasoning"], false)
      const [second] = yield* bodies(
        { includeReasoning: true },
        { ...ask, providerOptions: { groq: { reasoning_format: "raw" } } }
      )
      assert.notProperty(second, "include_reasoning")
      assert.strictEqual(second?.["reasoning_format"], "raw")
      const both = yield* Effect.flip(
        Effect.scoped(
          Groq.make({ apiKey: Redacted.make("k"), model: "m", includeReasoning: true, reasoningFormat: "raw" })
        )
      ).pipe(Effect.provide(FetchHttpClient.layer))
      assert.deepStrictEqual([both.reason, both.provider], ["InvalidRequest", "groq"])
      assert.include(both.issue, "not both")
    })
  )

  it.scopedLive("can be set from the configuration", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      const entries = {
        "groq.apiKey": "k",
        "groq.model": "m",
        "groq.baseUrl": server.url,
        "groq.reasoningFormat": "hidden",
        "groq.serviceTier": "auto"
      }
      yield* Llm.generate(ask).pipe(
        Effect.provide(Groq.layerConfig()),
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
      )
      const body = JSON.parse(server.seen[0]?.body ?? "") as Record<string, unknown>
      assert.deepStrictEqual([body["reasoning_format"], body["service_tier"]], ["hidden", "auto"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("answers", () => {
  const streamOf = (body: string) =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => sse(response, body))
      return yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.either, Effect.provide(on(server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))

  it.scopedLive("have their usage in the chunk of the finish, under x_groq (complaint 5)", () =>
    Effect.gen(function* () {
      const parts = yield* streamOf(
        [
          chunk({ role: "assistant", content: null }, null, { x_groq: { id: "req_1", seed: 5 } }),
          chunk({ reasoning: "hm", channel: "analysis" }),
          chunk({ content: "Hello" }),
          chunk({}, "stop", {
            x_groq: { id: "req_1", usage: { prompt_tokens: 9, completion_tokens: 4, queue_time: 0.1 } }
          }),
          "data: [DONE]\n\n"
        ].join("")
      )
      const response = parts._tag === "Right" ? LlmResponse.fromParts(parts.right) : undefined
      assert.deepStrictEqual(
        [response?.text, response?.reasoning, response?.usage.input, response?.usage.output],
        ["Hello", "hm", 9, 4]
      )
    })
  )

  it.scopedLive("that fail in the middle fail with the event's own status (complaint 1)", () =>
    Effect.gen(function* () {
      const event = (error: unknown) => `event: error\ndata: ${JSON.stringify({ error })}\n\n`
      const cases: ReadonlyArray<readonly [unknown, LlmError.Reason]> = [
        [{ message: "over capacity", type: "internal_server_error", status_code: 503 }, "Overloaded"],
        [{ message: "Failed to call a function", code: "tool_use_failed", status_code: 400 }, "InvalidRequest"],
        [{ message: "something" }, "ServerError"]
      ]
      for (const [error, reason] of cases) {
        const outcome = yield* streamOf(chunk({ content: "par" }) + event(error) + chunk({ content: "tial" }))
        assert.strictEqual(outcome._tag, "Left")
        if (outcome._tag === "Right") continue
        assert.deepStrictEqual(
          [outcome.left.reason, outcome.left.isRetryable, outcome.left.partial?.text],
          [reason, false, "par"]
        )
      }
    })
  )

  it.scopedLive("a request above the tokens of a minute is a rate limit that no retry gets over (complaint 4)", () =>
    Effect.gen(function* () {
      const error = {
        message: "Request too large on tokens per minute (TPM): Limit 12000, Requested 14137",
        type: "tokens",
        code: "rate_limit_exceeded"
      }
      const server = yield* serve(({ response }) => json(response, 413, { error }))
      const failed = yield* Effect.flip(Llm.generate(ask)).pipe(
        Effect.provide(on(server, { retry: { attempts: 3, base: "1 millis" } }))
      )
      assert.deepStrictEqual([failed.reason, failed.isRetryable, server.seen.length], ["RateLimited", false, 1])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("the flex tier's 498 is worth a second attempt", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) =>
        index === 0
          ? json(response, 498, { error: { message: "capacity exceeded", type: "capacity_exceeded" } })
          : json(response, 200, answered("ok"))
      )
      const { text } = yield* Llm.generate(ask).pipe(
        Effect.provide(on(server, { retry: { attempts: 2, base: "1 millis", jitter: "none" } }))
      )
      assert.deepStrictEqual([text, server.seen.length], ["ok", 2])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("says its limits, those of requests by the day", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, answered("ok"), {
          "x-ratelimit-limit-requests": "14400",
          "x-ratelimit-remaining-requests": "14370",
          "x-ratelimit-reset-requests": "2m59.56s",
          "x-ratelimit-limit-tokens": "18000",
          "x-ratelimit-remaining-tokens": "17997",
          "x-ratelimit-reset-tokens": "7.66s"
        })
      )
      const { rateLimits } = yield* Llm.generate(ask).pipe(Effect.provide(on(server)))
      assert.deepStrictEqual(rateLimits?.requests, {
        limit: 14_400,
        remaining: 14_370,
        resetAfter: Duration.toMillis("179560 millis")
      })
      assert.deepStrictEqual(rateLimits?.tokens, { limit: 18_000, remaining: 17_997, resetAfter: 7660 })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings through Groq", "llm-corpus"), () => {
  for (const { expected, name, recording } of casesOf().filter((each) => each.recording.provider === "groq")) {
    it.live(name, () =>
      Effect.gen(function* () {
        const layer = Groq.layer({ apiKey: Redacted.make("k"), model: "m", retry: false }).pipe(
          Layer.provide(LlmTest.layerReplay([recording], { chunkSize: 61 }))
        )
        const result = recording.stream
          ? Effect.flatMap(Stream.runCollect(Llm.stream(ask)), (parts) =>
              Effect.orDie(Effect.fromNullable(LlmResponse.fromParts(parts)))
            )
          : Llm.generate(ask)
        const outcome = yield* result.pipe(Effect.either, Effect.provide(layer))
        assert.deepStrictEqual(LlmTest.canonicalOf(outcome, recording.stream ? "stream" : "generate"), expected)
      })
    )
  }
})
