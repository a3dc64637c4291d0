/** When a call is made again, how long it waits, and what its limits of time look at. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import {
  Anthropic,
  Google,
  Llm,
  type LlmError,
  LlmResponse,
  LlmTest,
  Ollama,
  OpenAi,
  OpenAiCompatible
} from "@underlay/llm"
import { type Duration, Effect, Either, Fiber, Layer, Redacted, Stream, TestClock } from "effect"
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

/** Events of which one comes every two seconds, where the idle timeout is three. */
const paced = (events: ReadonlyArray<string>) => {
  const lines = events[0]?.startsWith("{") === true
  const size = Math.max(...events.map((event) => event.length)) + 4
  const body = events
    .map((event) =>
      // Blanks and comments do not count.
      lines ? `${" ".repeat(size - event.length)}${event}` : `: ${"x".repeat(size - event.length - 3)}\n${event}`
    )
    .join("")
  return LlmTest.layerReplay([recorded(200, body)], { chunkSize: size, pause: "2 seconds" })
}

type Paced = readonly [
  name: string,
  layer: (client: ReturnType<typeof paced>) => Layer.Layer<Llm.Llm, LlmError.LlmError>,
  first: string,
  event: (index: number) => string
]

const settings = { apiKey: Redacted.make("k"), model: "m", idleTimeout: "3 seconds", retry: false } as const
const sent = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const compatible: Paced[1] = (client) =>
  Layer.provide(OpenAiCompatible.layer({ provider: "openai", baseUrl: "http://127.0.0.1:1", ...settings }), client)
const anthropic: Paced[1] = (client) => Layer.provide(Anthropic.layer(settings), client)
const openAi: Paced[1] = (client) => Layer.provide(OpenAi.layer(settings), client)
const google: Paced[1] = (client) => Layer.provide(Google.layer(settings), client)
const ollama: Paced[1] = (client) =>
  Layer.provide(Ollama.layer({ model: "m", idleTimeout: "3 seconds", retry: false }), client)

const blockOf = (index: number, block: unknown) => sent({ type: "content_block_start", index, content_block: block })
const anthropicText = blockOf(0, { type: "text", text: "a" })
const responsesText = sent({ type: "response.output_text.delta", item_id: "i", output_index: 0, delta: "a" })
const geminiChunk = (parts: ReadonlyArray<unknown>, thoughts: number) =>
  sent({ candidates: [{ content: { parts } }], usageMetadata: { promptTokenCount: 1, thoughtsTokenCount: thoughts } })

const working: ReadonlyArray<Paced> = [
  [
    "Anthropic's server tools",
    anthropic,
    anthropicText,
    (index) =>
      index === 0
        ? blockOf(1, { type: "server_tool_use", id: "s", name: "web_search", input: {} })
        : index < 9
          ? sent({ type: "content_block_delta", index: 1, delta: { type: "input_json_delta", partial_json: "1" } })
          : blockOf(2, { type: "web_search_tool_result", tool_use_id: "s", content: [] })
  ],
  [
    "Anthropic's thoughts that are only counted",
    anthropic,
    anthropicText,
    () =>
      sent({
        type: "content_block_delta",
        index: 1,
        delta: { type: "thinking_delta", thinking: "", estimated_tokens: 50 }
      })
  ],
  [
    "a search of OpenAI",
    openAi,
    responsesText,
    (index) =>
      index === 0
        ? sent({ type: "response.output_item.added", output_index: 1, item: { type: "web_search_call", id: "w" } })
        : sent({
            type: `response.web_search_call.${index % 2 === 0 ? "searching" : "in_progress"}`,
            item_id: "w",
            output_index: 1
          })
  ],
  [
    "code that OpenAI runs",
    openAi,
    responsesText,
    () => sent({ type: "response.code_interpreter_call_code.delta", item_id: "c", output_index: 1, delta: "1" })
  ],
  [
    "Gemini's hidden thoughts, whose tokens grow",
    google,
    geminiChunk([{ text: "a" }], 1),
    (index) => geminiChunk([{ text: "", thought: true }], 10 + index)
  ],
  [
    "usage that grows",
    compatible,
    chunk({ content: "a" }),
    (index) => chunk({}, null, { usage: { prompt_tokens: 1, completion_tokens: 2 + index } })
  ],
  [
    "encrypted reasoning of a compatible server",
    compatible,
    chunk({ content: "a" }),
    () => chunk({ content: "", reasoning: null, reasoning_details: [{ type: "reasoning.encrypted", data: "x" }] })
  ],
  [
    "tokens that Ollama holds back",
    ollama,
    `${JSON.stringify({ message: { role: "assistant", content: "a" }, done: false })}\n`,
    () => `${JSON.stringify({ message: { role: "assistant", content: "" }, done: false })}\n`
  ]
]

const idling: ReadonlyArray<Paced> = [
  ["Anthropic's ping", anthropic, anthropicText, () => sent({ type: "ping" })],
  [
    "Anthropic's empty text",
    anthropic,
    anthropicText,
    () => sent({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "" } })
  ],
  ["OpenAI's keepalive", openAi, responsesText, (index) => sent({ type: "keepalive", sequence_number: index })],
  ["a keepalive of another name", openAi, responsesText, () => sent({ type: "response.keep_alive" })],
  [
    "a state that is said again",
    openAi,
    responsesText,
    () => sent({ type: "response.in_progress", response: { id: "r", status: "in_progress", usage: null } })
  ],
  ["Gemini's usage that stands still", google, geminiChunk([{ text: "a" }], 1), () => geminiChunk([], 1)],
  [
    "an empty delta",
    compatible,
    chunk({ content: "a" }),
    () => chunk({ role: "assistant", content: "", tool_calls: null, annotations: [] })
  ]
]

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

  for (const [name, layer, first, event] of working) {
    it.effect(`are put off between contents by work that is not shown: ${name}`, () =>
      Effect.gen(function* () {
        const replayed = (again: (index: number) => string) =>
          layer(paced([first, ...Array.from({ length: 10 }, (_, index) => again(index))]))
        const read = (again: (index: number) => string) =>
          Effect.gen(function* () {
            const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(
              Effect.flip,
              Effect.provide(replayed(again)),
              Effect.fork
            )
            for (let second = 0; second < 30; second++) yield* pass("1 second")
            return yield* Fiber.join(fiber)
          })
        // It goes on to the end of the recording, which has no end marker.
        const worked = yield* read(event)
        assert.deepStrictEqual([worked.reason, worked.partial?.text], ["StreamTruncated", "a"])
        const stalled = yield* read(() => (first.startsWith("{") ? "\n" : ": ping\n\n"))
        assert.deepStrictEqual([stalled.reason, stalled.issue], ["Timeout", "no further content within 3000 ms"])
      })
    )
  }

  for (const [name, layer, first, event] of idling) {
    it.effect(`are not put off by events that say nothing: ${name}`, () =>
      Effect.gen(function* () {
        const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(
          Effect.flip,
          Effect.provide(layer(paced([first, ...Array.from({ length: 10 }, (_, index) => event(index))]))),
          Effect.fork
        )
        for (let second = 0; second < 30; second++) yield* pass("1 second")
        const error = yield* Fiber.join(fiber)
        assert.deepStrictEqual([error.reason, error.partial?.text], ["Timeout", "a"])
      })
    )
  }

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
