/** What the engine does with errors on their way, with requests that cannot be written, and with counts of tokens. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Anthropic, Llm, LlmError, LlmProvider, LlmTest } from "@underlay/llm"
import { type Duration, Effect, Fiber, Layer, Redacted, Stream, TestClock } from "effect"
import * as ChatCompletions from "../src/protocol/ChatCompletions.ts"
import { chunk } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const settle = Effect.forEach(
  Array.from({ length: 20 }),
  () => Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))),
  { discard: true }
)

const pass = (duration: Duration.DurationInput) =>
  Effect.zipRight(settle, Effect.zipRight(TestClock.adjust(duration), settle))

const recorded = (status: number, body: string, headers: Record<string, string> = {}): LlmTest.Recording => ({
  provider: "anthropic",
  api: "messages/count_tokens",
  stream: false,
  response: { status, headers, body }
})

const failed = (reason: LlmError.Reason, retryable: boolean): LlmError.LlmError =>
  new LlmError.LlmError({
    reason,
    method: "stream",
    provider: "own",
    status: 200,
    retryable,
    midStream: false,
    cause: new Error("below")
  })

/** A provider whose exchange gives these bytes, and then fails. */
const broken = (body: string, error: LlmError.LlmError, headers: Record<string, string> = {}) =>
  LlmProvider.make({
    provider: "own",
    model: "m",
    baseUrl: "http://127.0.0.1:1",
    retry: false,
    protocol: ChatCompletions.make({ provider: "own" }),
    endpoint: () => "/",
    health: { endpoint: "/" },
    exchange: {
      generate: () => Effect.fail(error),
      stream: () =>
        Effect.succeed({
          headers,
          body: Stream.concat(
            body === "" ? Stream.empty : Stream.make(new TextEncoder().encode(body)),
            Stream.fail(error)
          )
        })
    }
  }).pipe(Effect.provide(LlmTest.layerReplay([])))

describe("a body that fails", () => {
  it.scoped("because its connection broke is an answer that broke off, before the first byte too", () =>
    Effect.gen(function* () {
      for (const [body, retryable] of [
        ["", true],
        [chunk({ content: "a" }), false]
      ] as const) {
        const llm = yield* broken(body, failed("Network", true))
        const error = yield* Effect.flip(Stream.runDrain(llm.stream(ask)))
        assert.deepStrictEqual(
          [error.reason, error.retryable, error.midStream, error.partial?.text],
          ["StreamTruncated", retryable, true, retryable ? "" : "a"]
        )
        assert.deepStrictEqual(error.original, new Error("below"))
      }
    })
  )

  it.scoped("with an error of its own fails with that error, and what had come", () =>
    Effect.gen(function* () {
      for (const [body, retryable] of [
        ["", true],
        [chunk({ content: "a" }), false]
      ] as const) {
        const llm = yield* broken(body, failed("Overloaded", true))
        const error = yield* Effect.flip(Stream.runDrain(llm.stream(ask)))
        assert.deepStrictEqual(
          [error.reason, error.retryable, error.midStream, error.partial?.text],
          ["Overloaded", retryable, true, retryable ? "" : "a"]
        )
      }
      const wrong = yield* broken("", failed("Authentication", false))
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(wrong.stream(ask)))).reason, "Authentication")
    })
  )

  it.scoped("keeps its cause beside the limits in the headers", () =>
    Effect.gen(function* () {
      const llm = yield* broken("", failed("Network", true), { "x-ratelimit-remaining-requests": "3" })
      const error = yield* Effect.flip(Stream.runDrain(llm.stream(ask)))
      assert.deepStrictEqual(error.rateLimits, { requests: { remaining: 3 } })
      assert.deepStrictEqual(error.original, new Error("below"))
    })
  )
})

it("an error that is changed in some fields keeps the others, and whether we refused it ourselves", () => {
  const own = new LlmError.LlmError({ ...failed("RateLimited", true), cause: { rejection: true } })
  const changed = own.with({ usage: { input: 1 } })
  assert.isTrue(changed.rejection)
  assert.deepStrictEqual([changed.reason, changed.status, changed.usage], ["RateLimited", 200, { input: 1 }])
})

describe("a request that JSON has no words for", () => {
  const circle: Record<string, unknown> = {}
  circle["self"] = circle
  for (const [name, result] of [
    ["a big integer", 10n],
    ["a circle", circle]
  ] as const) {
    it.scoped(`is refused before anything is sent, and is no defect: ${name}`, () =>
      Effect.gen(function* () {
        const llm = yield* broken("", failed("Network", true))
        const request: Llm.LlmRequest = {
          messages: [
            ChatMessage.user("hi"),
            { role: "assistant", content: [{ type: "tool-call", id: "a", name: "f", arguments: {} }] },
            { role: "tool", content: [{ type: "tool-result", id: "a", name: "f", result }] }
          ]
        }
        const whole = yield* Effect.flip(llm.generate(request))
        const streamed = yield* Effect.flip(Stream.runDrain(llm.stream(request)))
        for (const error of [whole, streamed]) {
          assert.deepStrictEqual([error.reason, error.retryable], ["InvalidRequest", false])
          assert.include(error.message, "cannot be written as JSON")
        }
      })
    )
  }
})

describe("a count of tokens", () => {
  const counted = (recordings: ReadonlyArray<LlmTest.Recording>, replay: LlmTest.ReplayOptions = {}) => {
    const asked: Array<string> = []
    const layer = Anthropic.layer({ apiKey: Redacted.make("k"), model: "claude-opus-4-6" }).pipe(
      Layer.provide(LlmTest.layerReplay(recordings, { ...replay, onRequest: ({ url }) => void asked.push(url) }))
    )
    return { asked, count: Effect.provide(Llm.countTokens(ask), layer) }
  }

  it.effect("is asked for again as the provider says", () =>
    Effect.gen(function* () {
      const { asked, count } = counted([
        recorded(429, '{"type":"error","error":{"type":"rate_limit_error","message":"x"}}', { "retry-after": "7" }),
        recorded(200, '{"input_tokens":5}')
      ])
      const fiber = yield* Effect.fork(count)
      yield* pass(6999)
      assert.strictEqual(asked.length, 1)
      yield* pass(1)
      assert.strictEqual(yield* Fiber.join(fiber), 5)
    })
  )

  it.effect("may take as long as an answer: long requests take their time", () =>
    Effect.gen(function* () {
      const { count } = counted([recorded(200, '{"input_tokens":5}')], { delay: "20 seconds" })
      const fiber = yield* Effect.fork(count)
      yield* pass("20 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 5)
    })
  )
})
