/** What tools and their results become in requests. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { ChatCompletions, LlmTool } from "@underlay/llm"
import { Either, Schema } from "effect"

const hi = ChatMessage.user("hi")

describe("a tool's schema", () => {
  const strict = (fields: Schema.Struct.Fields) =>
    LlmTool.make("f", { parameters: Schema.Struct(fields) }).strict === true

  it("is to be enforced where providers can, and only there", () => {
    assert.isTrue(strict({ a: Schema.String, b: Schema.NullOr(Schema.Array(Schema.Struct({ c: Schema.Int }))) }))
    assert.isTrue(strict({ a: Schema.Literal("x", "y"), b: Schema.Union(Schema.String, Schema.Number) }))
    assert.isFalse(strict({ a: Schema.optional(Schema.String) }))
    assert.isFalse(strict({ a: Schema.Tuple(Schema.String, Schema.Number) }))
    assert.isFalse(strict({ a: Schema.Record({ key: Schema.String, value: Schema.Number }) }))
    assert.isFalse(strict({ a: Schema.Unknown }))
    assert.isFalse(strict({ a: Schema.String.pipe(Schema.pattern(/^a/), Schema.pattern(/z$/)) }))
  })
})

it("a tool that failed with an Error tells the model its message", () => {
  const results = [new Error("no such city"), "no such city", { code: 7 }, undefined].map((result) => {
    const part = { type: "tool-result" as const, id: "a", name: "f", result, isError: true }
    const body = ChatCompletions.encode(
      { messages: [hi, { role: "tool", content: [part] }] },
      { model: "m", stream: false, dialect: { provider: "openai" }, method: "generate" }
    )
    return JSON.parse(Either.getOrThrow(body)).messages[1].content
  })
  assert.deepStrictEqual(results, [
    "Error: no such city",
    "Error: no such city",
    '{"error":{"code":7}}',
    '{"error":null}'
  ])
})
