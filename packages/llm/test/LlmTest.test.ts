import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, LlmError, LlmResponse, LlmTest } from "@underlay/llm"
import { Cause, Chunk, Duration, Effect, Exit, Fiber, Schema, Stream, TestClock } from "effect"

const ask = (text: string): Llm.LlmRequest => ({ messages: [ChatMessage.user(text)] })

const last = (request: Llm.LlmRequest | undefined): string => {
  const message = request?.messages.at(-1)
  return message === undefined ? "" : ChatMessage.textOf(message)
}

describe("a scripted model", () => {
  it.effect("answers in order, whole or streamed, and records what it was asked", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      assert.strictEqual((yield* Llm.generate(ask("1"))).text, "one two")
      const parts = yield* Stream.runCollect(Llm.stream(ask("2")))
      assert.deepStrictEqual(
        Chunk.toReadonlyArray(parts).map((part) => (part.type === "text-delta" ? part.text : part.type)),
        ["one ", "two", "tool-call", "finish"]
      )
      assert.strictEqual(LlmResponse.fromParts(parts)?.finish, "tool-calls")
      assert.strictEqual((yield* Llm.generate(ask("3"))).text, "you said 3")
      assert.strictEqual(yield* script.remaining, 0)
      assert.strictEqual((yield* Llm.generate(ask("4"))).text, "no more")
      yield* script.push("more")
      assert.strictEqual((yield* Llm.generate(ask("5"))).text, "more")
      const requests = yield* script.requests
      assert.deepStrictEqual(
        requests.map(({ method, request }) => [method, last(request)]),
        [
          ["generate", "1"],
          ["stream", "2"],
          ["generate", "3"],
          ["generate", "4"],
          ["generate", "5"]
        ]
      )
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({
          replies: [
            "one two",
            { text: "one two", toolCalls: [{ name: "f", arguments: { a: 1 } }] },
            (request) => `you said ${last(request)}`
          ],
          otherwise: "no more"
        })
      )
    )
  )

  it.effect("streams in steps, with pauses by the clock, and breaks where it is told to", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const fiber = yield* Llm.stream(ask("x")).pipe(
        Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.text))),
        Effect.flip,
        Effect.fork
      )
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(seen, ["Hel"])
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, ["Hel", "lo"])
      assert.strictEqual(error.reason, "StreamTruncated")
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({
          replies: [
            { steps: ["Hel", { pause: "1 second" }, "lo", LlmTest.error("StreamTruncated", { midStream: true })] }
          ]
        })
      )
    )
  )

  it.effect("fails as told, in the name of the model that was asked", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Llm.generate({ ...ask("x"), model: "big" }))
      assert.strictEqual(error.reason, "RateLimited")
      assert.isTrue(error.isRetryable)
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(2))
      assert.strictEqual(error.model, "big")
    }).pipe(
      Effect.provide(LlmTest.layerScripted({ replies: [LlmTest.error("RateLimited", { retryAfter: "2 seconds" })] }))
    )
  )

  it.effect("dies when it is asked more often than the script says", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Llm.generate(ask("x")))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
    }).pipe(Effect.provide(LlmTest.layerScripted({ replies: [] })))
  )
})

describe("generateObject", () => {
  class Joke extends Schema.Class<Joke>("Joke")({ text: Schema.String, rating: Schema.NumberFromString }) {}

  const joke = '{"text":"ha","rating":"7"}'

  it.effect("asks with the schema and validates the answer", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      const { repaired, response, usage, value } = yield* Llm.generateObject(Joke, ask("joke"))
      assert.deepStrictEqual(value, new Joke({ text: "ha", rating: 7 }))
      assert.isFalse(repaired)
      assert.strictEqual(response.text, joke)
      assert.strictEqual(usage.input, 5)
      const [asked] = yield* script.requests
      assert.deepStrictEqual(asked?.request.responseFormat, {
        type: "json-schema",
        name: "Joke",
        schema: {
          type: "object",
          required: ["text", "rating"],
          properties: {
            text: { type: "string" },
            rating: { type: "string", description: "a string to be decoded into a number" }
          },
          additionalProperties: false
        },
        strict: true
      })
    }).pipe(Effect.provide(LlmTest.layerScripted({ replies: [{ text: joke, usage: { input: 5, output: 2 } }] })))
  )

  it.effect("repairs once, telling the model what did not fit, and adds up the usage", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      const { repaired, usage, value } = yield* Llm.generateObject(Joke, ask("joke"))
      assert.strictEqual(value.rating, 7)
      assert.isTrue(repaired)
      assert.deepStrictEqual([usage.input, usage.output], [15, 4])
      const [, second] = yield* script.requests
      assert.strictEqual(second?.request.messages.length, 3)
      assert.include(last(second?.request), '["rating"]')
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({
          replies: [
            { text: '{"text":"ha"}', usage: { input: 5, output: 2 } },
            { text: `\`\`\`json\n${joke}\n\`\`\``, usage: { input: 10, output: 2 } }
          ]
        })
      )
    )
  )

  it.effect("gives up after one repair, with the paths but not the words", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      const error = yield* Effect.flip(Llm.generateObject(Joke, ask("joke")))
      assert.strictEqual(error.reason, "MalformedResponse")
      assert.strictEqual(error.method, "generateObject")
      assert.include(error.message, "rating")
      assert.notInclude(error.message, "confidential")
      assert.notInclude(JSON.stringify(error), "confidential")
      assert.include(error.partial?.text, "confidential")
      assert.strictEqual((yield* script.requests).length, 2)
    }).pipe(Effect.provide(LlmTest.layerScripted({ replies: [], otherwise: '{"text":"ha","rating":"confidential"}' })))
  )

  it.effect("does not repair when it is told not to, nor an answer cut off by the limit, nor a refusal", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      const plain = yield* Effect.flip(Llm.generateObject(Joke, ask("joke"), { repair: false }))
      assert.strictEqual(plain.reason, "MalformedResponse")
      const cut = yield* Effect.flip(Llm.generateObject(Joke, ask("joke")))
      assert.include(cut.message, "cut off")
      const refused = yield* Effect.flip(Llm.generateObject(Joke, ask("joke")))
      assert.strictEqual(refused.reason, "ContentFiltered")
      assert.strictEqual(refused.partial?.refusal, "I won't")
      assert.strictEqual((yield* script.requests).length, 3)
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({ replies: ["not json", { text: '{"te', finish: "length" }, { refusal: "I won't" }] })
      )
    )
  )

  it.effect("wraps what is not an object, since providers take nothing else", () =>
    Effect.gen(function* () {
      const script = yield* LlmTest.Script
      const List = Schema.Array(Schema.Struct({ name: Schema.String, age: Schema.optional(Schema.Number) }))
      const { value } = yield* Llm.generateObject(List, ask("people"))
      assert.deepStrictEqual(value, [{ name: "Ada" }])
      const [asked] = yield* script.requests
      const format = asked?.request.responseFormat
      assert.strictEqual(format?.type, "json-schema")
      assert.deepStrictEqual(
        format?.type === "json-schema" ? [format.name, format.strict, format.schema["type"]] : [],
        ["answer", undefined, "object"]
      )
    }).pipe(Effect.provide(LlmTest.layerScripted({ replies: ['{"value":[{"name":"Ada"}]}'] })))
  )
})

describe("LlmError", () => {
  it("survives being written and read", () => {
    const error = new LlmError.LlmError({
      reason: "StreamTruncated",
      method: "stream",
      provider: "openai",
      model: "m",
      retryable: false,
      midStream: true,
      retryAfter: Duration.seconds(1),
      partial: { text: "a", reasoning: "", toolCalls: [] },
      usage: { input: 1 }
    })
    const copy = Schema.decodeSync(LlmError.LlmError)(Schema.encodeSync(LlmError.LlmError)(error))
    assert.strictEqual(copy.message, error.message)
    assert.strictEqual(copy.partial?.text, "a")
    assert.deepStrictEqual(copy.retryAfter, error.retryAfter)
  })
})
