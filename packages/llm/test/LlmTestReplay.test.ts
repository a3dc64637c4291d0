import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { ChatCompletions, Llm, type LlmError, LlmResponse, LlmTest, OpenAi, type Protocol } from "@underlay/llm"
import { Chunk, Effect, Either, FastCheck, Fiber, Layer, Redacted, Schema, Stream, TestClock } from "effect"
import { endMarkerOf, eventsOf, formatOf } from "../src/internal/recordings.ts"
import { fixtures } from "./judgesFixtures.ts"
import { chunk, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const fixture = (name: string): LlmTest.Recording => {
  const recording = fixtures[name]
  if (recording === undefined) throw new Error(`no fixture ${name}`)
  return recording
}

const chat = (body: string, headers: Record<string, string> = {}): LlmTest.Recording => ({
  provider: "openai",
  api: "chat/completions",
  stream: true,
  response: { status: 200, headers: { "content-type": "text/event-stream", ...headers }, body }
})

const canonical = (recording: LlmTest.Recording, options?: LlmTest.DecodeOptions) =>
  Either.getOrThrow(LlmTest.canonical(recording, options))

const piecesOf = (recording: LlmTest.Recording, options: LlmTest.ReplayOptions) =>
  Effect.map(
    Stream.runCollect(LlmTest.bodyOf(recording, { ...options, broken: () => "broken" as const })),
    Chunk.toReadonlyArray
  )

const textOf = (pieces: ReadonlyArray<Uint8Array>): string => Buffer.concat(pieces).toString("utf8")

const three = chat(`${chunk({ content: "é" })}: ping\n\n${chunk({ content: "b" })}${chunk({}, "stop")}`)
const ends = LlmTest.eventEnds(three)

describe("how a body is replayed", () => {
  it.effect("whole, in chunks of a size, and in random ones that are the same for the same seed", () =>
    Effect.gen(function* () {
      const { body } = three.response
      assert.lengthOf(yield* piecesOf(three, {}), 1)
      const sizes = (pieces: ReadonlyArray<Uint8Array>) => pieces.map((piece) => piece.length)
      const fixed = yield* piecesOf(three, { chunkSize: 7 })
      assert.isTrue(sizes(fixed).every((size, index) => (index < fixed.length - 1 ? size === 7 : size <= 7)))
      const random = yield* piecesOf(three, { chunkSize: "random", seed: 3 })
      assert.deepStrictEqual(sizes(yield* piecesOf(three, { chunkSize: "random", seed: 3 })), sizes(random))
      assert.notDeepEqual(sizes(yield* piecesOf(three, { chunkSize: "random", seed: 4 })), sizes(random))
      assert.isAbove(new Set(sizes(random)).size, 2)
      for (const pieces of [fixed, random]) assert.strictEqual(textOf(pieces), body)
    })
  )

  it.effect("ended or broken at a byte or after an event, which comments are not", () =>
    Effect.gen(function* () {
      const bytes = new TextEncoder().encode(three.response.body)
      assert.strictEqual(ends.length, 3)
      assert.strictEqual(ends.at(-1), bytes.length)
      for (const [index, end] of ends.entries()) {
        const pieces = yield* piecesOf(three, { cutAt: { events: index + 1 } })
        assert.deepStrictEqual(Buffer.concat(pieces), Buffer.from(bytes.slice(0, end)))
      }
      assert.strictEqual(textOf(yield* piecesOf(three, { cutAt: 5 })), three.response.body.slice(0, 5))
      assert.lengthOf(yield* piecesOf(three, { cutAt: { events: 0 } }), 0)
      assert.strictEqual(textOf(yield* piecesOf(three, { cutAt: { events: 9 } })), three.response.body)
      assert.strictEqual(yield* Effect.flip(piecesOf(three, { breakAt: { events: 1 } })), "broken")
      assert.strictEqual(yield* Effect.flip(piecesOf(three, { breakAt: 3 })), "broken")
      // What is not reached does not break.
      assert.strictEqual(textOf(yield* piecesOf(three, { cutAt: 3, breakAt: 4 })), "dat")
      assert.lengthOf(yield* piecesOf(three, { breakAt: bytes.length }), 1)
    })
  )

  it.effect("with the line ends that are asked for, in streams only", () =>
    Effect.gen(function* () {
      const crlf = textOf(yield* piecesOf(three, { lineEnd: "CRLF" }))
      assert.notMatch(crlf, /[^\r]\n/)
      assert.strictEqual(textOf(yield* piecesOf(chat(crlf), { lineEnd: "LF" })), three.response.body)
      assert.strictEqual(LlmTest.eventEnds(three, { lineEnd: "CRLF" }).at(-1), Buffer.byteLength(crlf))
      const document = { ...three, stream: false, response: { ...three.response, body: "one\ntwo" } }
      assert.strictEqual(textOf(yield* piecesOf(document, { lineEnd: "CRLF" })), "one\ntwo")
    })
  )

  it.effect("with a delay before it and pauses in it, by the clock", () =>
    Effect.gen(function* () {
      const seen: Array<number> = []
      const options = { chunkSize: 1, cutAt: 3, delay: "2 seconds", pause: "1 second", broken: () => "broken" } as const
      const fiber = yield* LlmTest.bodyOf(three, options).pipe(
        Stream.runForEach(() => Effect.sync(() => seen.push(1))),
        Effect.fork
      )
      yield* TestClock.adjust("2999 millis")
      assert.lengthOf(seen, 0)
      yield* TestClock.adjust("1 millis")
      assert.lengthOf(seen, 1)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      assert.lengthOf(seen, 3)
    })
  )

  it.effect("and says all of it to those who collect the stream, also beside rate limits", () =>
    Effect.gen(function* () {
      const words = Array.from({ length: 200 }, (_, index) => `${index} `)
      const headers = { "x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "9" }
      for (const chunkSize of [1499, 4000, 100_000]) {
        const layer = OpenAi.layer({ apiKey: Redacted.make("k"), model: "m", api: "chat-completions" }).pipe(
          Layer.provide(LlmTest.layerReplay([chat(streamed(...words), headers)], { chunkSize }))
        )
        const parts = yield* Effect.provide(Stream.runCollect(Llm.stream(ask)), layer)
        const response = LlmResponse.fromParts(parts)
        assert.strictEqual(response?.text, words.join(""))
        assert.strictEqual(response?.rateLimits?.requests?.remaining, 9)
      }
    })
  )
})

describe("the format of a recording", () => {
  const known: ReadonlyArray<readonly [string, string]> = [
    ["chat/completions", "chat-completions"],
    ["/v1/chat/completions", "chat-completions"],
    ["completions", "chat-completions"],
    ["responses", "responses"],
    ["responses/resp_1", "responses"],
    ["responses/input_tokens", "responses-count"],
    ["messages", "messages"],
    ["messages/count_tokens", "messages-count"],
    ["generateContent", "gemini"],
    ["streamGenerateContent", "gemini"],
    ["models/gemini-m:streamGenerateContent?alt=sse", "gemini"],
    ["countTokens", "gemini-count"],
    ["embedContent", "gemini-embeddings"],
    ["batchEmbedContents", "gemini-embeddings"],
    ["embeddings", "openai-embeddings"],
    ["api/chat", "ollama"],
    ["api/generate", "ollama"],
    ["api/embed", "ollama-embeddings"],
    ["api/embeddings", "ollama-embeddings"],
    ["feature-extraction", "feature-extraction"],
    ["models/o/n/pipeline/feature-extraction", "feature-extraction"],
    ["models/o/n/predictions", "replicate"]
  ]
  for (const [api, format] of known) {
    it(`${api} is ${format}, as the name or as the end of the address`, () => {
      assert.strictEqual(formatOf(api, undefined, ""), format)
      assert.strictEqual(formatOf("?", `https://host.example/v1/${api}?key=1#x`, ""), format)
    })
  }

  for (const [name, recording] of Object.entries(fixtures)) {
    it(`${name} is known by its body alone`, () => {
      const { body } = recording.response
      assert.strictEqual(formatOf("?", undefined, body), formatOf(recording.api, undefined, body))
    })
  }

  it("by the body: vectors in every shape, lists that grow, an event after a ping", () => {
    const shapes: ReadonlyArray<readonly [unknown, string]> = [
      [[0.5, 1], "feature-extraction"],
      [[[0.5, 1]], "feature-extraction"],
      [[[[0.5, 1]]], "feature-extraction"],
      [{ embedding: { values: [1] } }, "gemini-embeddings"],
      [{ embedding: [1, 2] }, "ollama-embeddings"],
      [[{ candidates: [] }], "gemini"],
      [{ id: "p", status: "succeeded", urls: {} }, "replicate"]
    ]
    for (const [body, format] of shapes) assert.strictEqual(formatOf("?", undefined, JSON.stringify(body)), format)
    assert.strictEqual(
      formatOf("?", undefined, `: hi\n\ndata: {"x":1}\n\n${chunk({ content: "a" })}`),
      "chat-completions"
    )
  })

  it("refuses what it does not know, naming it", () => {
    for (const body of ["", "<html>", "{}", "[]", '"text"', "data: x\n\n", '{"input_tokens":1,"other":2}']) {
      const refused = LlmTest.canonical({ ...chat(body), api: "audio/speech" })
      assert.isTrue(Either.isLeft(refused), body)
      if (Either.isLeft(refused)) assert.include(refused.left.message, '"audio/speech" of openai')
    }
  })

  it("does not matter for an error with a status", () => {
    const recording = { ...chat("busy"), api: "?", response: { status: 503, headers: {}, body: "busy" } }
    assert.strictEqual(canonical(recording).error?.reason, "Overloaded")
  })
})

describe("the canonical form", () => {
  const empty = { text: "", reasoning: "", thinkTags: false, refusal: null, toolCalls: [], finish: null, error: null }

  it("of counted tokens has the input only", () => {
    for (const [name, input] of [
      ["responses-count", 11],
      ["messages-count", 14],
      ["gemini-count", 5]
    ] as const) {
      const usage = { input, output: null, cachedInput: null, cacheWrite: null, reasoning: null }
      const expected = { kind: "count" as const, ...empty, usage, model: null, id: null, embeddings: null }
      assert.deepStrictEqual(canonical(fixture(name)), expected)
    }
  })

  it("of vectors has their number and their length", () => {
    for (const [name, model, input] of [
      ["embeddings", "e", 2],
      ["embeddings-base64", "e", 2],
      ["gemini-embeddings", null, null],
      ["ollama-embed", "e", 2]
    ] as const) {
      const usage = { input, output: null, cachedInput: null, cacheWrite: null, reasoning: null }
      const embeddings = { count: 1, dimensions: 3 }
      assert.deepStrictEqual(canonical(fixture(name)), { kind: "embed", ...empty, usage, model, id: null, embeddings })
    }
  })

  it("of an answer that is nothing but an error is an error, that of one that failed is an answer", () => {
    const error = { message: "broken", type: "server_error" }
    const bare = { ...chat(JSON.stringify({ error })), stream: false }
    assert.deepInclude(canonical(bare), { kind: "error" })
    const failed = { id: "r", object: "response", status: "failed", model: "m", output: [], error }
    const answer = { ...bare, api: "responses", response: { ...bare.response, body: JSON.stringify(failed) } }
    assert.deepInclude(canonical(answer), { kind: "generate", id: "r", model: "m", finish: null })
    assert.strictEqual(canonical(answer).error?.message, "broken")
  })

  it("of a whole answer that was cut short is malformed, and still of its kind", () => {
    for (const [name, kind] of [
      ["messages-whole", "generate"],
      ["messages-count", "count"],
      ["gemini-embeddings", "embed"]
    ] as const) {
      const { error, kind: found } = canonical(fixture(name), { cutAt: 10 })
      assert.deepStrictEqual([found, error?.reason], [kind, "MalformedResponse"])
    }
    assert.strictEqual(canonical(fixture("chat-text"), { cutAt: 10 }).error?.reason, "MalformedResponse")
  })

  it("reads recordings with fields that nobody knows, and without those that it can do without", () => {
    const read = Schema.decodeUnknownSync(LlmTest.Recording)
    const { response } = fixture("chat-text")
    const bare = { provider: "p", api: "chat/completions", stream: false, response }
    assert.strictEqual(canonical(read(bare)).text, "Hello")
    const more = { ...bare, tags: ["x"], recorded_at: null, request: null, response: { ...response, more: 1 } }
    assert.strictEqual(canonical(read(more)).text, "Hello")
    const elided = { ...bare, request: { method: "POST", url: null, body: { a: 1 }, body_elided: true } }
    assert.strictEqual(canonical(read(elided)).text, "Hello")
    for (const request of ["POST /v1/chat/completions", [1], { url: 1 }]) {
      assert.strictEqual(canonical(read({ ...bare, request })).text, "Hello")
    }
  })

  it("reads recordings that say neither what was asked nor of whom, nor whether it was streamed", () => {
    const read = Schema.decodeUnknownSync(LlmTest.Recording)
    for (const [name, recording] of Object.entries(fixtures)) {
      const { body } = recording.response
      const bare = read({ response: { status: 200, body } })
      assert.deepStrictEqual([name, bare.stream, bare.api], [name, recording.stream, ""])
      assert.deepStrictEqual(canonical(bare), canonical(recording), name)
    }
    const typed = (type: unknown) => read({ response: { status: 200, headers: { "Content-Type": type }, body: "" } })
    assert.deepStrictEqual(
      ["text/event-stream; charset=utf-8", ["application/x-ndjson"], "application/json", null].map(
        (type) => typed(type).stream
      ),
      [true, true, false, false]
    )
    const refused = LlmTest.canonical(read({ response: { status: 200, body: "{}" } }))
    assert.include(Either.isLeft(refused) ? refused.left.message : "", "an unnamed api of an unnamed provider")
  })

  it("reads headers in lists and numbers, and bodies that were kept as JSON", () => {
    const read = Schema.decodeUnknownSync(LlmTest.Recording)
    const headers = { "Retry-After": ["3"], age: 5, none: null, odd: {} }
    const found = read({ response: { status: 503, headers, body: { error: { message: "busy" } } } })
    assert.deepStrictEqual(found.response.headers, { "Retry-After": "3", age: "5" })
    assert.deepInclude(canonical(found).error, { message: "busy", retryAfterMs: 3000 })
  })
})

const streams = Object.entries(fixtures).filter(([, { stream }]) => stream)

describe("chunks and line ends", () => {
  for (const [name, recording] of streams) {
    it(`change nothing of ${name}`, () => {
      const expected = canonical(recording)
      FastCheck.assert(
        FastCheck.property(
          FastCheck.oneof(FastCheck.integer({ min: 1, max: 200 }), FastCheck.constant("random" as const)),
          FastCheck.nat(),
          FastCheck.constantFrom("LF" as const, "CRLF" as const, undefined),
          (chunkSize, seed, lineEnd) => {
            assert.deepStrictEqual(canonical(recording, { chunkSize, seed, lineEnd }), expected)
          }
        ),
        { numRuns: 30 }
      )
    })
  }
})

describe("cuts", () => {
  for (const [name, recording] of streams) {
    it(`of ${name} are told honestly (complaint 2: truncated streams reported as successes)`, () => {
      for (const lineEnd of ["LF", "CRLF"] as const) {
        assert.deepStrictEqual(LlmTest.cutFaults(recording, { lineEnd, chunkSize: "random" }), Either.right([]))
      }
    })
  }

  it("are made in streams only", () => {
    assert.deepStrictEqual(LlmTest.cutFaults(fixture("chat-text")), Either.right([]))
    const failed = { ...three, response: { ...three.response, status: 500 } }
    assert.deepStrictEqual(LlmTest.cutFaults(failed), Either.right([]))
    assert.isTrue(Either.isLeft(LlmTest.cutFaults({ ...chat("data: x\n\n"), api: "?" })))
  })

  /** A decoder that lies in one way. */
  const lying = (change: (decoder: Protocol.StreamDecoder) => Partial<Protocol.StreamDecoder>) => ({
    decode: ChatCompletions.decode,
    makeStreamDecoder: (context: Protocol.CallContext) => {
      const decoder = ChatCompletions.makeStreamDecoder(context)
      return { ...decoder, ...change(decoder) }
    }
  })

  const faultsOf = (
    change: (decoder: Protocol.StreamDecoder) => Partial<Protocol.StreamDecoder>,
    recording = fixture("chat-stream-text")
  ) => {
    const found = LlmTest.cutFaults(recording, { protocol: lying(change), random: 20 })
    return new Set(Either.getOrThrow(found).map(({ fault }) => fault))
  }

  const finish: LlmResponse.FinishPart = {
    type: "finish",
    finish: "stop",
    finishReason: "stop",
    usage: {},
    model: undefined,
    id: undefined,
    content: [],
    rateLimits: undefined
  }

  const changed = (
    error: LlmError.LlmError | undefined,
    fields: Parameters<LlmError.LlmError["with"]>[0]
  ): LlmError.LlmError | undefined => error?.with(fields)

  it("find a decoder that calls a cut stream whole", () => {
    const faults = faultsOf(() => ({ end: () => [finish], failure: () => undefined }))
    assert.isTrue(faults.has("a success although the end had not been seen"))
  })

  it("find a decoder that loses what had arrived, or makes something up", () => {
    const none = { text: "", reasoning: "", toolCalls: [] }
    const other = { ...none, text: "x", toolCalls: [{ type: "tool-call" as const, id: "1", name: "f", arguments: {} }] }
    const lost = faultsOf((decoder) => ({ failure: () => changed(decoder.failure(), { partial: none }) }))
    assert.deepStrictEqual([...lost], ["other text in the outcome than was handed on"])
    const invented = faultsOf((decoder) => ({ failure: () => changed(decoder.failure(), { partial: other }) }))
    assert.isTrue(invented.has("text that the whole answer does not have"))
    assert.isTrue(invented.has("tool calls that the whole answer does not have"))
  })

  it("find a decoder that would repeat what had arrived, or that names another reason", () => {
    const retried = faultsOf((decoder) => ({ failure: () => changed(decoder.failure(), { retryable: true }) }))
    assert.deepStrictEqual([...retried], ["retryable although content had arrived"])
    const renamed = faultsOf((decoder) => ({ failure: () => changed(decoder.failure(), { reason: "ServerError" }) }))
    assert.deepStrictEqual([...renamed], ["ServerError for a body that was cut"])
  })

  it("find a decoder that fails although the end had been seen", () => {
    const faults = faultsOf((decoder) => {
      let short = false
      return {
        end: () => {
          short = !decoder.done()
          return decoder.end()
        },
        failure: () => (short ? LlmTest.error("Overloaded") : decoder.failure())
      }
    })
    assert.isTrue(faults.has("Overloaded although the end had been seen"))
  })

  it("find a decoder that throws, or that never ends", () => {
    const silent = faultsOf(() => ({ end: () => [], failure: () => undefined }))
    assert.isTrue([...silent].some((fault) => fault.startsWith("a defect: a decoder ended without")))
    const throwing = faultsOf((decoder) => ({
      end: () => {
        if (!decoder.finished()) throw new Error("oops")
        return decoder.end()
      }
    }))
    assert.deepStrictEqual([...throwing], ["a defect: oops"])
  })
})

describe("events", () => {
  it("of a list that grows, of lines, and of a document over lines", () => {
    const list = '[{"a":"]}\\""}\n,{"b":[1,{}]}'
    assert.deepStrictEqual(
      eventsOf(list).map(({ data, end }) => [data, end]),
      [
        ['{"a":"]}\\""}', 13],
        ['{"b":[1,{}]}', list.length]
      ]
    )
    const lines = '{"a":1}\r\n\r\n{"b":2}'
    assert.deepStrictEqual(
      eventsOf(lines).map(({ data, end }) => [data, end]),
      [
        ['{"a":1}', 9],
        ['{"b":2}', lines.length]
      ]
    )
    assert.lengthOf(eventsOf('{\n"a": 1\n}\n'), 1)
    assert.lengthOf(eventsOf(" \n"), 0)
  })

  it("of a stream: several lines of data, names, comments, any line end, no end at all", () => {
    const text = "\uFEFF: hi\r\rdata: {\rdata: }\revent: e\r\rid: 1\n\ndata:x"
    assert.deepStrictEqual(
      eventsOf(text).map(({ data, name }) => [name, data]),
      [
        ["e", "{\n}"],
        ["", "x"]
      ]
    )
  })

  it("hold the end marker of their format", () => {
    const markers: ReadonlyArray<readonly [Parameters<typeof endMarkerOf>[0], string, boolean]> = [
      ["chat-completions", chunk({}, "stop"), true],
      ["chat-completions", `${chunk({ content: "a" })}data: [DONE]\n\n`, false],
      ["responses", 'event: response.incomplete\ndata: {"response":{}}\n\n', true],
      ["responses", 'data: {"type":"response.failed"}\n\n', false],
      ["messages", 'data: {"type":"message_stop"}\n\n', true],
      ["messages", 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n', false],
      ["gemini", 'data: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n', true],
      ["gemini", 'data: {"promptFeedback":{"blockReason":"SAFETY"}}\r\n\r\n', true],
      ["ollama", '{"done":true}\n', true],
      ["ollama", '{"done":false}\n', false],
      ["replicate", "event: done\ndata: {}\n\n", true]
    ]
    for (const [format, text, is] of markers) {
      assert.strictEqual(endMarkerOf(format, eventsOf(text)) !== undefined, is, text)
    }
  })
})

describe("differences", () => {
  it("are told down to the smallest piece, whatever the order of fields", () => {
    assert.deepStrictEqual(LlmTest.differences({ a: 1, b: [1, { c: null }] }, { b: [1, { c: null }], a: 1 }), [])
    assert.deepStrictEqual(LlmTest.differences({ a: 1, b: [1, { c: 2 }] }, { b: [1, { c: 3 }, 4] }), [
      { path: "b.1.c", expected: 3, actual: 2 },
      { path: "b.2", expected: 4, actual: undefined },
      { path: "a", expected: undefined, actual: 1 }
    ])
    assert.deepStrictEqual(LlmTest.differences([], {}), [{ path: "", expected: {}, actual: [] }])
    assert.deepStrictEqual(LlmTest.differences(null, { a: 1 }), [{ path: "", expected: { a: 1 }, actual: null }])
  })
})
