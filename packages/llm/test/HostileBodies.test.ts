import { assert, describe, it } from "@effect/vitest"
import {
  AnthropicMessages,
  ChatCompletions,
  EmbeddingFormats,
  GenerateContent,
  LlmError,
  OllamaChat,
  Protocol,
  ReplicatePredictions,
  Responses
} from "@underlay/llm"
import { Either } from "effect"
import * as Ndjson from "../src/internal/ndjson.ts"
import * as Sse from "../src/internal/sse.ts"

const context = { provider: "p", model: "m", method: "stream" }
const utf8 = (text: string) => new TextEncoder().encode(text)

const levels = 50_000
const lists = "[".repeat(levels) + "]".repeat(levels)
const records = (name: string) => [`{"${name}":`.repeat(levels), "null", "}".repeat(levels)].join("")

const formats: Readonly<Record<string, Pick<Protocol.Protocol, "decode" | "makeStreamDecoder">>> = {
  AnthropicMessages,
  ChatCompletions,
  GenerateContent,
  OllamaChat,
  ReplicatePredictions,
  Responses
}

describe("JSON nested 50,000 deep is an error, never a defect", () => {
  const bodies = [
    lists,
    `{"error":${records("a")}}`,
    `{"error":${lists}}`,
    `{"detail":${lists}}`,
    `{"error":${records("innererror")}}`,
    `{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":${records("a")}}}]},"done":true}`,
    `{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":${records("a")}}}]}}]}`,
    `{"choices":[{"message":{"content":[${'{"type":"thinking","thinking":['.repeat(levels)}${"]}".repeat(levels)}]}}]}`,
    `{"type":"message","content":[{"type":"tool_use","id":"a","name":"f","input":${records("a")}}]}`,
    `{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":${records("a")}}}]}}]}`,
    `{"id":"p","status":"succeeded","output":${lists}}`,
    `{"id":"p","status":"failed","error":${records("a")}}`
  ]

  it.each(Object.entries(formats))("%s", (_, format) => {
    for (const body of bodies) {
      const whole = format.decode(body, context)
      assert.strictEqual(Either.isLeft(whole) ? whole.left.reason : "a success", "MalformedResponse")
      for (const stream of [`${body}\n`, `data: ${body}\n\n`, `event: error\ndata: ${body}\n\n`]) {
        const decoder = format.makeStreamDecoder(context)
        decoder.push(utf8(stream))
        decoder.end()
        assert.instanceOf(decoder.failure(), LlmError.LlmError)
      }
    }
  })

  it("EmbeddingFormats", () => {
    for (const body of [lists, `{"data":${lists}}`, `{"embeddings":${lists}}`, `{"data":[{"embedding":${lists}}]}`]) {
      const answer = EmbeddingFormats.decode(body, context)
      assert.strictEqual(Either.isLeft(answer) ? answer.left.reason : "a success", "MalformedResponse")
    }
  })

  it("the bodies of errors", () => {
    for (const body of bodies) {
      const error = Protocol.decodeError({ status: 400, headers: {}, body, now: 0 }, context)
      assert.strictEqual(error.reason, "InvalidRequest")
    }
  })

  it("what is nested less, or has its brackets in a text, is read", () => {
    const parsed = (depth: number) => Sse.parse("[".repeat(depth) + "]".repeat(depth))
    assert.isDefined(parsed(512))
    assert.isUndefined(parsed(513))
    const text = `${"[{".repeat(2000)}\\"`
    assert.deepStrictEqual(Sse.parse(`{"a":"${text}"}`), { a: text.replace("\\", "") })
    assert.deepStrictEqual(Sse.parse(JSON.stringify(new Array(5000).fill([{}]))), new Array(5000).fill([{}]))
  })
})

describe("a document over many lines, each of which may be its last, takes linear time", () => {
  const lines = `[\n${'{\n"a":1\n},\n'.repeat(60_000)}`

  // Tried at every line these took minutes.
  it("among server-sent events", { timeout: 5000 }, () => {
    const seen: Array<string> = []
    const reader = Sse.make({ onEvent: (_, data) => seen.push(data) })
    reader.push(utf8(lines.replaceAll("},", "}")))
    reader.end()
    assert.strictEqual(seen.length, 1)
  })

  it("among lines of JSON", { timeout: 5000 }, () => {
    const seen: Array<unknown> = []
    const reader = Ndjson.make({ onValue: (value) => seen.push(value), onJunk: () => seen.push("junk") })
    reader.push(utf8(`${lines}{}`))
    reader.push(utf8("\n]"))
    reader.end()
    assert.strictEqual(seen.length, 1)
    assert.lengthOf(seen[0] as ReadonlyArray<unknown>, 60_001)
  })
})
