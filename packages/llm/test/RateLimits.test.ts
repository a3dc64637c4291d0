/** What providers say of their limits in headers: read right, and handed on with answers, finishes and errors. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, LlmResponse, LlmTest, OpenAiCompatible, Protocol } from "@underlay/llm"
import { Effect, FastCheck, Layer, Stream } from "effect"
import { rateLimitsOf } from "../src/internal/rateLimits.ts"
import { answered, chunk, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

describe("headers", () => {
  const cases: ReadonlyArray<readonly [string, Record<string, string>, LlmResponse.RateLimits | undefined]> = [
    [
      "of OpenAI, with the durations of Go",
      {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-tokens": "159976",
        "x-ratelimit-reset-tokens": "1m26.4s"
      },
      {
        requests: { limit: 5000, remaining: 4999, resetAfter: 12 },
        tokens: { limit: 160_000, remaining: 159_976, resetAfter: 86_400 }
      }
    ],
    [
      "of Groq, whose durations have more digits than a double",
      { "x-ratelimit-remaining-tokens": "11982", "x-ratelimit-reset-tokens": "17.399999999s" },
      { tokens: { remaining: 11_982, resetAfter: 17_400 } }
    ],
    [
      "of Azure, in plain seconds",
      { "x-ratelimit-reset-requests": "10", "x-ratelimit-remaining-requests": "0", "x-ratelimit-renewalperiod": "60" },
      { requests: { remaining: 0, resetAfter: 10_000 } }
    ],
    [
      "of Anthropic, as points in time, counted from the response's own date",
      {
        date: "Fri, 01 Aug 2025 12:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "3999",
        "anthropic-ratelimit-requests-reset": "2025-08-01T12:00:15Z",
        "anthropic-ratelimit-input-tokens-limit": "2000000",
        "anthropic-ratelimit-output-tokens-remaining": "400000",
        "anthropic-ratelimit-tokens-reset": "2025-08-01T13:00:01+01:00",
        "anthropic-ratelimit-unified-status": "allowed"
      },
      {
        requests: { limit: 4000, remaining: 3999, resetAfter: 15_000 },
        inputTokens: { limit: 2_000_000 },
        outputTokens: { remaining: 400_000 },
        tokens: { resetAfter: 1000 }
      }
    ],
    [
      "of Hugging Face, in the form of the draft",
      { ratelimit: '"api";r=489;t=87', "ratelimit-policy": '"fixed window";"api";q=500;w=300' },
      { requests: { remaining: 489, resetAfter: 87_000, limit: 500 } }
    ],
    [
      "of an earlier draft",
      { ratelimit: "limit=100, remaining=50, reset=5" },
      { requests: { remaining: 50, resetAfter: 5000, limit: 100 } }
    ],
    [
      "without a word of what they limit, as a point in time",
      { "x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060000" },
      { requests: { limit: 20, remaining: 0, resetAfter: 60_000 } }
    ],
    [
      "that are not what they should be",
      { "x-ratelimit-limit-requests": "many", "x-ratelimit-reset-tokens": "soon", "x-ratelimit-limit-images": "5" },
      undefined
    ],
    ["that say nothing", { "content-type": "application/json" }, undefined]
  ]
  for (const [name, headers, expected] of cases) {
    it(name, () => assert.deepStrictEqual(rateLimitsOf(headers, 1_700_000_000_000), expected))
  }

  it("never make anything but counts, whatever they hold", () => {
    const names = [
      "x-ratelimit-limit-requests",
      "x-ratelimit-reset-tokens",
      "anthropic-ratelimit-tokens-reset",
      "ratelimit",
      "ratelimit-policy",
      "x-ratelimit-reset",
      "date"
    ]
    FastCheck.assert(
      FastCheck.property(FastCheck.dictionary(FastCheck.constantFrom(...names), FastCheck.string()), (headers) => {
        const found = rateLimitsOf(headers, 0)
        for (const limit of Object.values(found ?? {})) {
          for (const value of Object.values(limit ?? {})) assert.isTrue(Number.isFinite(value) && value >= 0)
        }
      })
    )
  })
})

const limited = { "x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7" }
const expected: LlmResponse.RateLimits = { requests: { limit: 100, remaining: 7 } }

const over = (status: number, body: string, stream: boolean) =>
  OpenAiCompatible.layer({ provider: "openai", baseUrl: "http://127.0.0.1:1", model: "m", retry: false }).pipe(
    Layer.provide(
      LlmTest.layerReplay([
        {
          provider: "openai",
          api: "chat/completions",
          stream,
          response: {
            status,
            headers: { "content-type": stream ? "text/event-stream" : "application/json", ...limited },
            body
          }
        }
      ])
    )
  )

describe("limits are handed on", () => {
  it.live("with a whole answer", () =>
    Effect.gen(function* () {
      const response = yield* Llm.generate(ask).pipe(Effect.provide(over(200, answered("hi"), false)))
      assert.deepStrictEqual(response.rateLimits, expected)
    })
  )

  it.live("with the finish of a streamed one, which is otherwise as it was", () =>
    Effect.gen(function* () {
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(over(200, streamed("a", "b"), true)))
      const response = LlmResponse.fromParts(parts)
      assert.deepStrictEqual(response?.rateLimits, expected)
      assert.deepStrictEqual([response?.text, response?.usage.input], ["ab", 12])
      assert.strictEqual([...parts].filter((part) => part.type === "finish").length, 1)
    })
  )

  it.live("with an error, and with one inside a stream", () =>
    Effect.gen(function* () {
      const refused = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(over(429, "{}", false)))
      assert.deepStrictEqual([refused.reason, refused.rateLimits], ["RateLimited", expected])
      const body = `${chunk({ content: "a" })}data: {"error":{"message":"no","code":503}}\n\n`
      const broken = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(over(200, body, true)))
      assert.deepStrictEqual([broken.reason, broken.partial?.text, broken.rateLimits], ["Overloaded", "a", expected])
      const malformed = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(over(200, "<html>", false)))
      assert.deepStrictEqual([malformed.reason, malformed.rateLimits], ["MalformedResponse", expected])
    })
  )

  it("with the error of a provider of one's own", () => {
    const error = Protocol.decodeError(
      { status: 429, headers: limited, body: "", now: 0 },
      { provider: "mine", model: undefined, method: "generate" }
    )
    assert.deepStrictEqual(error.rateLimits, expected)
    assert.deepStrictEqual((error.toJSON() as { rateLimits?: unknown }).rateLimits, expected)
  })
})
