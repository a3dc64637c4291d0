/** What a call leaves in spans and metrics: the names of the conventions, and content only where it is asked for. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmTest, LlmTool, OpenAiCompatible } from "@underlay/llm"
import { Effect, Fiber, Layer, Schema, Stream, TestClock } from "effect"
import { answered, chunk, streamed } from "./server.ts"

const recorded = (status: number, body: string, headers: Record<string, string> = {}): LlmTest.Recording => ({
  provider: "openai",
  api: "chat/completions",
  stream: false,
  response: { status, headers: { "content-type": "text/event-stream", ...headers }, body }
})

const over = (
  recordings: ReadonlyArray<LlmTest.Recording>,
  options: Partial<OpenAiCompatible.OpenAiCompatibleOptions> & LlmTest.ReplayOptions = {}
) => {
  const { chunkSize, pause, ...rest } = options
  return OpenAiCompatible.layer({
    provider: "openai",
    baseUrl: "https://models.example:8443/v1",
    model: "gpt-test",
    ...rest
  }).pipe(Layer.provide(LlmTest.layerReplay(recordings, { chunkSize, pause })))
}

const full: Llm.LlmRequest = {
  messages: [
    ChatMessage.system("be kind"),
    {
      role: "user",
      content: [
        { type: "text", text: "what is this?" },
        { type: "file", mediaType: "image/png", source: { type: "bytes", bytes: new Uint8Array([1, 2, 3]) } },
        { type: "file", mediaType: "image/png", source: { type: "url", url: "https://pictures.example/a.png" } }
      ]
    },
    { role: "assistant", content: [{ type: "tool-call", id: "a", name: "look", arguments: { at: "it" } }] },
    { role: "tool", content: [{ type: "tool-result", id: "a", name: "look", result: { seen: "a cat" } }] },
    ChatMessage.system("now answer"),
    ChatMessage.user("my api_key=abcdef0123456789 is secret")
  ],
  temperature: 0.5,
  topP: 0.9,
  topK: 40,
  frequencyPenalty: 0.1,
  presencePenalty: 0.2,
  seed: 7,
  stop: ["end"],
  reasoningEffort: "low",
  maxTokens: 50,
  tools: [LlmTool.make("look", { description: "Looks", parameters: Schema.Struct({ at: Schema.String }) })]
}

const callOf = (recording: typeof Recording.Recording.Service) =>
  Effect.map(recording.spans, (spans) => {
    const span = spans.find(({ name }) => name === "chat gpt-test")
    assert.isDefined(span)
    return { attributes: Object.fromEntries(span?.attributes ?? []), events: span?.events ?? [], kind: span?.kind }
  })

const parsed = (value: unknown): unknown => JSON.parse(String(value))

describe("spans", () => {
  it.live("hold what was set, by the names of the conventions (complaint 16: wrong names read as zeros)", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      yield* recording.within(Llm.generate(full)).pipe(Effect.provide(over([recorded(200, answered("a cat"))])))
      const { attributes, kind } = yield* callOf(recording)
      assert.strictEqual(kind, "client")
      assert.deepInclude(attributes, {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-test",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ["end"],
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.response.model": "m-2026",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "server.address": "models.example",
        "server.port": 8443
      })
      assert.isUndefined(attributes["gen_ai.system"])
      for (const name of ["input.messages", "output.messages", "system_instructions", "tool.definitions"]) {
        assert.notProperty(attributes, `gen_ai.${name}`)
      }
    })
  )

  for (const stream of [false, true]) {
    it.live(`hold what was asked and answered where that is wanted, ${stream ? "streamed" : "whole"}`, () =>
      Effect.gen(function* () {
        const recording = yield* Recording.make
        const ask = stream ? Stream.runDrain(Llm.stream(full)) : Llm.generate(full)
        const body = stream ? streamed("a ", "cat") : answered("a cat")
        yield* recording.within(ask).pipe(Effect.provide(over([recorded(200, body)], { captureContent: true })))
        const { attributes } = yield* callOf(recording)
        assert.deepStrictEqual(parsed(attributes["gen_ai.system_instructions"]), [{ type: "text", content: "be kind" }])
        const messages = parsed(attributes["gen_ai.input.messages"]) as ReadonlyArray<unknown>
        assert.deepStrictEqual(messages.slice(0, 4), [
          {
            role: "user",
            parts: [
              { type: "text", content: "what is this?" },
              { type: "blob", mime_type: "image/png", modality: "image", content: "AQID" },
              { type: "uri", mime_type: "image/png", modality: "image", uri: "https://pictures.example/a.png" }
            ]
          },
          { role: "assistant", parts: [{ type: "tool_call", id: "a", name: "look", arguments: { at: "it" } }] },
          { role: "tool", parts: [{ type: "tool_call_response", id: "a", response: { seen: "a cat" } }] },
          { role: "system", parts: [{ type: "text", content: "now answer" }] }
        ])
        assert.notInclude(String(attributes["gen_ai.input.messages"]), "abcdef0123456789")
        assert.deepStrictEqual(parsed(attributes["gen_ai.output.messages"]), [
          { role: "assistant", parts: [{ type: "text", content: "a cat" }], finish_reason: "stop" }
        ])
        assert.deepStrictEqual(parsed(attributes["gen_ai.tool.definitions"]), [
          {
            type: "function",
            name: "look",
            description: "Looks",
            parameters: {
              type: "object",
              properties: { at: { type: "string" } },
              required: ["at"],
              additionalProperties: false
            }
          }
        ])
      })
    )
  }

  it.live("tell of each attempt that failed, without the provider's words", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      const secret = "the private words"
      yield* recording
        .within(Llm.generate(full))
        .pipe(
          Effect.provide(
            over(
              [
                recorded(503, `{"error":{"message":"${secret}","code":"busy"}}`),
                recorded(200, '{"error":{"message":"no","code":500}}'),
                recorded(200, answered("a cat"))
              ],
              { retry: { base: "1 milli" } }
            )
          )
        )
      const { attributes, events } = yield* callOf(recording)
      const found = events.filter(({ name }) => name === "gen_ai.client.operation.exception")
      assert.deepStrictEqual(
        found.map(({ attributes }) => [attributes?.["error.type"], attributes?.["exception.type"]]),
        [
          ["Overloaded", "LlmError"],
          ["ServerError", "LlmError"]
        ]
      )
      assert.notInclude(JSON.stringify(found.map(({ attributes }) => attributes)), secret)
      assert.isUndefined(attributes["error.type"])
    })
  )

  it.live("of a stream that broke hold what had come, where that is wanted", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      const body = `${chunk({ content: "a half" })}data: {"error":{"message":"x","code":503}}\n\n`
      yield* recording
        .within(Effect.flip(Stream.runDrain(Llm.stream(full))))
        .pipe(Effect.provide(over([recorded(200, body)], { captureContent: true, retry: false })))
      const { attributes, events } = yield* callOf(recording)
      assert.strictEqual(attributes["error.type"], "Overloaded")
      assert.deepStrictEqual(parsed(attributes["gen_ai.output.messages"]), [
        { role: "assistant", parts: [{ type: "text", content: "a half" }], finish_reason: "error" }
      ])
      assert.strictEqual(events.filter(({ name }) => name === "gen_ai.client.operation.exception").length, 1)
    })
  )
})

/** Lets promises that the replayed bodies are made of settle; no time passes on the test's clock. */
const settle = Effect.forEach(
  Array.from({ length: 20 }),
  () => Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))),
  { discard: true }
)

describe("metrics", () => {
  it.effect("are four for a streamed answer, with the time of each chunk after the first", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      const body = streamed("one", "two", "tri")
      const first = chunk({ content: "one" }).length
      const fiber = yield* recording
        .within(Stream.runDrain(Llm.stream({ ...full, model: "timed" })))
        .pipe(Effect.provide(over([recorded(200, body)], { chunkSize: first, pause: "100 millis" })), Effect.fork)
      for (let step = 0; step < 20; step++) {
        yield* settle
        yield* TestClock.adjust("100 millis")
      }
      yield* Fiber.join(fiber)
      const changed = (yield* recording.metrics).filter(({ labels }) => labels["gen_ai.request.model"] === "timed")
      const counts = Object.fromEntries(
        changed.map(({ after, before, labels, name }) => [
          `${name} ${labels["gen_ai.token.type"] ?? ""}`.trim(),
          after - before
        ])
      )
      assert.deepStrictEqual(counts, {
        "gen_ai.client.operation.duration": 1,
        "gen_ai.client.operation.time_to_first_chunk": 1,
        // Two more texts, and the finish.
        "gen_ai.client.operation.time_per_output_chunk": 3,
        "gen_ai.client.token.usage input": 1,
        "gen_ai.client.token.usage output": 1
      })
      for (const { labels } of changed) {
        assert.deepInclude(labels, {
          "gen_ai.operation.name": "chat",
          "gen_ai.provider.name": "openai",
          "server.address": "models.example",
          "server.port": "8443"
        })
      }
    })
  )

  it.live("of a whole answer have no chunks", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      yield* recording
        .within(Llm.generate({ ...full, model: "whole" }))
        .pipe(Effect.provide(over([recorded(200, answered("a"))])))
      const names = (yield* recording.metrics)
        .filter(({ labels }) => labels["gen_ai.request.model"] === "whole")
        .map(({ name }) => name)
      assert.deepStrictEqual([...new Set(names)].sort(), [
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage"
      ])
    })
  )
})
