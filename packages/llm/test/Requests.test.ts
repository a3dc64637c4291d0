/** Requests against OpenAI's own description of its API. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { ChatCompletions, type LlmRequest, LlmResponse, LlmTool } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either, Schema } from "effect"

type Json = { readonly [key: string]: unknown }

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

/** As much of JSON Schema as the description of chat completions needs; unknown properties are faults too. */
const makeCheck = (document: Json) => {
  const resolve = (schema: unknown): Json => {
    if (!isRecord(schema)) return {}
    const reference = schema["$ref"]
    if (typeof reference !== "string") return schema
    let found: unknown = document
    for (const name of reference.slice(2).split("/")) found = isRecord(found) ? found[name] : undefined
    assert.isTrue(isRecord(found), reference)
    return resolve(found)
  }
  const typeOf = (value: unknown): string =>
    value === null ? "null" : Array.isArray(value) ? "array" : Number.isInteger(value) ? "integer" : typeof value
  const known = (schema: Json): ReadonlyArray<string> | undefined => {
    if (schema["additionalProperties"] !== undefined && schema["additionalProperties"] !== false) return undefined
    const own = isRecord(schema["properties"]) ? Object.keys(schema["properties"]) : []
    const inherited = list(schema["allOf"]).map((each) => known(resolve(each)))
    return inherited.some((each) => each === undefined)
      ? undefined
      : [...own, ...inherited.flatMap((each) => each ?? [])]
  }
  const check = (raw: unknown, value: unknown, at: string, open = false): ReadonlyArray<string> => {
    const schema = resolve(raw)
    const type = schema["type"]
    const faults: Array<string> = []
    if (value === null && schema["nullable"] === true) return []
    if (typeof type === "string" && typeOf(value) !== type && !(type === "number" && typeOf(value) === "integer")) {
      return [`${at}: ${type} expected`]
    }
    if (Array.isArray(schema["enum"]) && !schema["enum"].includes(value)) faults.push(`${at}: not of the enum`)
    for (const each of list(schema["allOf"])) faults.push(...check(each, value, at, true))
    for (const key of ["oneOf", "anyOf"]) {
      const options = list(schema[key])
      if (options.length === 0) continue
      const results = options.map((each) => check(each, value, at))
      if (!results.some((result) => result.length === 0)) {
        faults.push(...(results.toSorted((a, b) => a.length - b.length)[0] ?? []))
      }
    }
    if (Array.isArray(value)) {
      if (value.length < Number(schema["minItems"] ?? 0)) faults.push(`${at}: too few items`)
      if (value.length > Number(schema["maxItems"] ?? Number.POSITIVE_INFINITY)) faults.push(`${at}: too many items`)
      if (schema["items"] !== undefined) {
        value.forEach((item, index) => {
          faults.push(...check(schema["items"], item, `${at}[${index}]`))
        })
      }
    }
    if (isRecord(value)) {
      for (const name of list(schema["required"])) {
        if (typeof name === "string" && !(name in value)) faults.push(`${at}.${name}: missing`)
      }
      const properties = isRecord(schema["properties"]) ? schema["properties"] : {}
      for (const [name, property] of Object.entries(properties)) {
        if (name in value) faults.push(...check(property, value[name], `${at}.${name}`))
      }
      const names = known(schema)
      if (!open && names !== undefined && names.length > 0) {
        for (const name of Object.keys(value)) if (!names.includes(name)) faults.push(`${at}.${name}: unknown`)
      }
    }
    return faults
  }
  return (value: unknown): ReadonlyArray<string> =>
    check({ $ref: "#/components/schemas/CreateChatCompletionRequest" }, value, "body")
}

const file = (mediaType: string, source?: ChatMessage.FilePart["source"], name?: string): ChatMessage.FilePart => ({
  type: "file",
  mediaType,
  source: source ?? { type: "bytes", bytes: new Uint8Array([1, 2, 3]) },
  ...(name === undefined ? {} : { name })
})

const tool = LlmTool.make("weather", {
  description: "The weather of a city",
  parameters: Schema.Struct({ city: Schema.String, days: Schema.optional(Schema.Number) })
})

const hi = ChatMessage.user("hi")

const requests: ReadonlyArray<readonly [string, LlmRequest.LlmRequest]> = [
  ["text", { messages: [ChatMessage.system("Be brief."), hi, ChatMessage.assistant("Hello"), hi] }],
  ["a user's message without parts", { messages: [{ role: "user", content: [] }] }],
  [
    "images, sounds and files",
    {
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            file("image/png"),
            file("image/jpeg", { type: "url", url: "https://example.com/a.jpg" }),
            file("audio/wav"),
            file("audio/mpeg"),
            file("application/pdf", undefined, "a.pdf"),
            file("text/markdown", undefined, "a.md"),
            file("application/pdf")
          ]
        }
      ]
    }
  ],
  [
    "calls and results of every kind",
    {
      messages: [
        hi,
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "hm", provider: "openai" },
            { type: "tool-call", id: "a", name: "weather", arguments: { city: "Berlin" } },
            { type: "tool-call", id: "b", name: "weather", arguments: undefined },
            { type: "tool-call", id: "c", name: "weather", arguments: null }
          ]
        },
        {
          role: "tool",
          content: [
            { type: "tool-result", id: "a", name: "weather", result: { degrees: 7 } },
            { type: "tool-result", id: "b", name: "weather", result: undefined },
            { type: "tool-result", id: "c", name: "weather", result: new Error("no"), isError: true }
          ]
        },
        { role: "assistant", content: [{ type: "reasoning", text: "hm" }] },
        { role: "assistant", content: [] },
        hi
      ],
      tools: [tool],
      parallelToolCalls: false
    }
  ],
  [
    "a call whose arguments were not JSON, sent back",
    {
      messages: [
        hi,
        LlmResponse.toMessage({
          text: "",
          reasoning: "",
          toolCalls: [{ type: "tool-call", id: "a", name: "f", arguments: { __invalid: "{x" }, invalid: "{x" }]
        })
      ]
    }
  ],
  ["each choice of tools: auto", { messages: [hi], tools: [tool], toolChoice: "auto" }],
  ["each choice of tools: none", { messages: [hi], tools: [tool], toolChoice: "none" }],
  ["each choice of tools: required", { messages: [hi], tools: [tool], toolChoice: "required" }],
  ["each choice of tools: one", { messages: [hi], tools: [tool], toolChoice: { name: "weather" } }],
  ["a choice without tools", { messages: [hi], tools: [], toolChoice: "auto", parallelToolCalls: true }],
  [
    "settings",
    {
      messages: [hi],
      temperature: 0.2,
      topP: 0.9,
      maxTokens: 10,
      stop: ["a", "b"],
      seed: 7,
      reasoningEffort: "low",
      providerOptions: { openai: { service_tier: "flex" } }
    }
  ],
  ["an empty list of stops", { messages: [hi], stop: [] }],
  ["text as the format", { messages: [hi], responseFormat: { type: "text" } }],
  ["JSON as the format", { messages: [hi], responseFormat: { type: "json" } }],
  ...[undefined, true, false].map(
    (strict) =>
      [
        `a schema as the format, strict: ${strict}`,
        {
          messages: [hi],
          responseFormat: {
            type: "json-schema",
            name: "answer",
            description: "An answer",
            schema: {
              type: "object",
              properties: { a: { type: "string" } },
              required: ["a"],
              additionalProperties: false
            },
            strict
          }
        } satisfies LlmRequest.LlmRequest
      ] as const
  )
]

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

describe.skipIf(Need.missing("openapi"))(Need.title("requests as OpenAI describes them", "openapi"), () => {
  const file = Path.join(Need.sharedData, "openapi", "openai.json")
  const check = Need.missing("openapi")
    ? () => ["there is no description"]
    : makeCheck(JSON.parse(Fs.readFileSync(file, "utf8")))

  it("the check finds faults", () => {
    const body = { model: "m", messages: [{ role: "user", content: "hi" }] }
    assert.deepStrictEqual(check(body), [])
    for (const wrong of [
      { messages: body.messages },
      { ...body, messages: [] },
      { ...body, messages: [{ role: "user", content: [] }] },
      { ...body, messages: [{ role: "oracle", content: "hi" }] },
      { ...body, messages: [{ role: "tool", content: "hi" }] },
      { ...body, messages: [{ role: "user", content: [{ type: "image_url", image_url: "https://x" }] }] },
      { ...body, temperature: "warm" },
      { ...body, max_tokenz: 7 },
      { ...body, tool_choice: "any" },
      { ...body, response_format: { type: "json_schema", json_schema: { schema: {} } } }
    ]) {
      assert.isAbove(check(wrong).length, 0, JSON.stringify(wrong))
    }
  })

  for (const [name, request] of requests) {
    it(name, () => {
      for (const stream of [true, false]) {
        const body = ChatCompletions.encode(request, {
          model: "gpt-5",
          stream,
          dialect: { provider: "openai" },
          method: "generate"
        })
        assert.deepStrictEqual(check(JSON.parse(Either.getOrThrow(body))), [])
      }
    })
  }
})
