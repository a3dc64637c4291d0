/** When a call is made again, how long it waits, and what its limits of time look at. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, type LlmError, LlmResponse, LlmTest, OpenAiCompatible } from "@underlay/llm"
import { type Duration, Effect, Either, Fiber, Layer, Stream, TestClock } from "effect"
import { answered, chunk, json, serve, sse, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const recorded = (status: number, body: string, headers: Record<string, string> = {}): LlmTest.Recording => ({
  provider: "openai",
  api: "chat/completions",
  stream: true,
  response: {
    status,
    headers: { "content-type": status === 200 ? "text/event-stream" : "application/json", ...headers },
    body
  }
})

const over = (
  recordings: ReadonlyArray<LlmTest.Recording>,
  options: Partial<OpenAiCompatible.OpenAiCompatibleOptions> & LlmTest.ReplayOptions = {}
) => {
  const asked: Array<string> = []
  const { chunkSize, pause, ...rest } = options
  const layer = OpenAiCompatible.layer({ provider: "openai", baseUrl: "http://127.0.0.1:1", model: "m", ...rest }).pipe(
    Layer.provide(LlmTest.layerReplay(recordings, { chunkSize, pause, onRequest: ({ url }) => void asked.push(url) }))
  )
  return { asked, layer }
}

const settle = Effect.forEach(
  Array.from({ length: 20 }),
  () => Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))),
  { discard: true }
)

const pass = (duration: Duration.DurationInput) =>
  Effect.zipRight(settle, Effect.zipRight(TestClock.adjust(duration), settle))

describe("the wait before the next attempt", () => {
  const now = Date.parse("2026-01-01T00:00:00Z")
  const waits: ReadonlyArray<readonly [string, LlmTest.Recording, number]> = [
    ["retry-after in seconds", recorded(429, "", { "retry-after": "7" }), 7000],
    ["retry-after in fractions of a second", recorded(429, "", { "retry-after": "0.5" }), 500],
    ["retry-after as a date", recorded(503, "", { "retry-after": "Thu, 01 Jan 2026 00:00:12 GMT" }), 12_000],
    ["retry-after-ms, before retry-after", recorded(429, "", { "retry-after-ms": "1500", "retry-after": "9" }), 1500],
    [
      "RetryInfo of the body",
      recorded(
        429,
        '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"slow down","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3.5s"}]}}'
      ),
      3500
    ],
    [
      "the words of the body",
      recorded(429, '{"error":{"message":"Please try again in 4.77s.","code":"rate_limit_exceeded"}}'),
      4770
    ],
    ["the words of the body, in milliseconds", recorded(429, '{"error":{"message":"try again in 634ms"}}'), 634]
  ]
  for (const [name, first, millis] of waits) {
    it.effect(`is what is said by ${name} (complaint 4: Retry-After ignored)`, () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(now)
        const { asked, layer } = over([first, recorded(200, streamed("once"))])
        const fiber = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(layer), Effect.fork)
        yield* pass(millis - 1)
        assert.strictEqual(asked.length, 1)
        yield* pass(1)
        assert.strictEqual(asked.length, 2)
        assert.strictEqual(LlmResponse.fromParts(yield* Fiber.join(fiber))?.text, "once")
      })
    )
  }

  it.effect("is never read from the headers of a 200", () =>
    Effect.gen(function* () {
      const { layer } = over(
        [recorded(200, 'data: {"error":{"message":"x","code":503}}\n\n', { "retry-after": "9" })],
        {
          retry: false
        }
      )
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      yield* pass(0)
      assert.isUndefined((yield* Fiber.join(fiber)).retryAfter)
    })
  )
})

describe("a call is made once only", () => {
  const once: ReadonlyArray<readonly [string, LlmTest.Recording, LlmError.Reason]> = [
    [
      "for OpenAI's insufficient_quota (complaint 4: quota treated as a rate limit)",
      recorded(429, '{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}', {
        "retry-after": "1"
      }),
      "QuotaExhausted"
    ],
    [
      "for Anthropic's spend limit",
      recorded(
        429,
        '{"type":"error","error":{"type":"rate_limit_error","message":"limit","details":{"error_code":"enforced_spend_limit_reached"}}}'
      ),
      "QuotaExhausted"
    ],
    [
      "for Gemini's limit of a day",
      recorded(
        429,
        '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"quota","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},{"retryDelay":"2s"}]}}'
      ),
      "QuotaExhausted"
    ],
    ["for 402", recorded(402, "{}"), "QuotaExhausted"],
    [
      "for a request above the tokens of a minute",
      recorded(413, '{"error":{"message":"too large","type":"tokens","code":"rate_limit_exceeded"}}'),
      "RateLimited"
    ],
    ["where x-should-retry says so", recorded(500, "{}", { "x-should-retry": "false" }), "ServerError"],
    ["for a wrong key", recorded(401, "{}"), "Authentication"],
    [
      "for an error after the first content (complaint 1)",
      recorded(200, `${chunk({ content: "a" })}data: {"error":{"message":"x","code":503}}\n\n`),
      "Overloaded"
    ],
    [
      "for a stream that breaks off after the first content (complaint 2)",
      recorded(200, chunk({ content: "a" })),
      "StreamTruncated"
    ]
  ]
  for (const [name, first, reason] of once) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const { asked, layer } = over([first, recorded(200, streamed("twice"))])
        const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
        yield* pass("5 minutes")
        const error = yield* Fiber.join(fiber)
        assert.deepStrictEqual([error.reason, error.isRetryable, asked.length], [reason, false, 1])
      })
    )
  }
})

describe("a call is made again", () => {
  const again: ReadonlyArray<readonly [string, LlmTest.Recording]> = [
    ["for 500", recorded(500, "")],
    ["for 529, overloaded", recorded(529, '{"type":"error","error":{"type":"overloaded_error","message":"x"}}')],
    ["for 408 and 409", recorded(409, "{}")],
    ["where x-should-retry says so", recorded(400, "{}", { "x-should-retry": "true" })],
    [
      "for an error inside a stream before any content",
      recorded(200, 'data: {"error":{"message":"x","code":503}}\n\n')
    ],
    ["for a stream that breaks off before any content", recorded(200, ": ping\n\n")]
  ]
  for (const [name, first] of again) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const { asked, layer } = over([first, recorded(200, streamed("twice"))])
        const fiber = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(layer), Effect.fork)
        yield* pass("30 seconds")
        assert.strictEqual(LlmResponse.fromParts(yield* Fiber.join(fiber))?.text, "twice")
        assert.strictEqual(asked.length, 2)
      })
    )
  }

  it.effect("three times at most, and the last error is the one that is told", () =>
    Effect.gen(function* () {
      const { asked, layer } = over([recorded(500, ""), recorded(503, ""), recorded(529, "")])
      const fiber = yield* Llm.generate(ask).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      yield* pass("90 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.status, asked.length], [529, 3])
    })
  )
})

describe("the circuit breaker", () => {
  it.scopedLive("is that of one model: another model of the same provider goes on", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) =>
        request.body.includes('"broken"') ? json(response, 500, {}) : json(response, 200, answered("fine"))
      )
      yield* Effect.gen(function* () {
        const broken = { ...ask, model: "broken" }
        for (let time = 0; time < 3; time++) assert.strictEqual((yield* Effect.flip(Llm.generate(broken))).status, 500)
        const refused = yield* Effect.flip(Llm.generate(broken))
        assert.deepStrictEqual([refused.reason, refused.rejection], ["CircuitOpen", true])
        assert.strictEqual((yield* Llm.generate(ask)).text, "fine")
        assert.strictEqual(server.seen.length, 4)
      }).pipe(
        Effect.provide(
          OpenAiCompatible.layer({
            provider: "openai",
            baseUrl: server.url,
            model: "fine",
            retry: false,
            breaker: { window: { type: "consecutive", failures: 3 } }
          }).pipe(Layer.provide(FetchHttpClient.layer))
        )
      )
    })
  )
})

describe("limits of time", () => {
  const pings = (count: number) => ": ping\n\n".repeat(count)
  const size = ": ping\n\n".length

  it.effect("are not put off by pings before the first content (complaint 11: stalled streams)", () =>
    Effect.gen(function* () {
      const { asked, layer } = over([recorded(200, pings(100) + streamed("late"))], {
        chunkSize: size,
        pause: "1 second",
        firstContentTimeout: "10 seconds",
        retry: false
      })
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      for (let second = 0; second < 12; second++) yield* pass("1 second")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.reason, error.issue, asked.length], ["Timeout", "no content within 10000 ms", 1])
    })
  )

  it.effect("are not put off by pings between contents either", () =>
    Effect.gen(function* () {
      const first = chunk({ content: "a" })
      // Padded, so that every chunk that is read holds whole pings.
      const padded = `: ${"x".repeat(size * Math.ceil((first.length + 3) / size) - first.length - 3)}\n${first}`
      const { layer } = over([recorded(200, padded + pings(100))], {
        chunkSize: size,
        pause: "100 millis",
        idleTimeout: "3 seconds",
        retry: false
      })
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      for (let step = 0; step < 100; step++) yield* pass("100 millis")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.reason, error.issue], ["Timeout", "no further content within 3000 ms"])
      assert.deepStrictEqual([error.partial?.text, error.isRetryable], ["a", false])
    })
  )

  it.effect("of a call end it however often it is tried again", () =>
    Effect.gen(function* () {
      const { asked, layer } = over([recorded(503, "", { "retry-after": "8" })], { timeout: "20 seconds" })
      const fiber = yield* Llm.generate(ask).pipe(Effect.either, Effect.provide(layer), Effect.fork)
      for (let second = 0; second < 30; second++) yield* pass("1 second")
      const outcome = yield* Fiber.join(fiber)
      assert.isTrue(Either.isLeft(outcome))
      assert.strictEqual(asked.length, 3)
    })
  )
})

it.scopedLive("what had come of a stream is never said twice, over a real connection", () =>
  Effect.gen(function* () {
    const server = yield* serve(({ index, response }) => {
      if (index === 0) return json(response, 503, {})
      if (index === 1) {
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(": ping\n\n")
        return void setTimeout(() => response.destroy(), 5)
      }
      sse(response, streamed("only ", "once"))
    })
    const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(
      Effect.provide(
        OpenAiCompatible.layer({
          provider: "openai",
          baseUrl: server.url,
          model: "m",
          retry: { base: "1 milli", attempts: 4 }
        }).pipe(Layer.provide(FetchHttpClient.layer))
      )
    )
    assert.strictEqual(LlmResponse.fromParts(parts)?.text, "only once")
    assert.strictEqual(server.seen.length, 3)
  })
)
