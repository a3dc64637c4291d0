/** Requests to OpenAI against OpenAI's own description of its API, by a JSON Schema validator. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { ChatCompletions, LlmRequest, LlmResponse, LlmTool, Responses } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Ajv2020 } from "ajv/dist/2020.js"
import formats from "ajv-formats"
import { Either, FastCheck, Schema } from "effect"
import { casesOf } from "./corpus.ts"

type Json = { readonly [key: string]: unknown }
type Check = (value: unknown) => ReadonlyArray<string>

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/**
 * The description as a validator takes it, and stricter: an object with properties that does not say what else it may have
 * may have nothing else, so that a misspelt field is a fault. Where parts are put together (`allOf`), that is for the whole.
 */
const strictly = (value: unknown, open: boolean): unknown => {
  if (Array.isArray(value)) return value.map((each) => strictly(each, false))
  if (!isRecord(value)) return value
  const out: Record<string, unknown> = {}
  for (const [key, each] of Object.entries(value)) {
    // `type` tells the alternatives apart already; defaults and examples are no schemas; we never send `null`.
    if (["discriminator", "default", "example", "examples", "nullable"].includes(key)) continue
    if (key === "properties" && isRecord(each)) {
      out[key] = Object.fromEntries(Object.entries(each).map(([name, schema]) => [name, strictly(schema, false)]))
    } else if (key === "allOf" && Array.isArray(each)) out[key] = each.map((part) => strictly(part, true))
    // The alternatives overlap: a user's message is two kinds of item.
    else if (key === "oneOf") out["anyOf"] = strictly(each, false)
    else if (key === "enum" || key === "const" || key === "required") out[key] = each
    else out[key] = strictly(each, false)
  }
  const combined = Array.isArray(value["allOf"])
  if (!open && (combined || isRecord(value["properties"])) && value["additionalProperties"] === undefined) {
    out["unevaluatedProperties"] = false
  }
  return out
}

const makeChecks = (document: Json): ((name: string) => Check) => {
  const schemas = isRecord(document["components"]) ? document["components"]["schemas"] : {}
  const all = isRecord(schemas) ? schemas : {}
  // Schemas that are put together with others elsewhere must stay open.
  const parts = new Set<string>()
  const collect = (value: unknown): void => {
    if (Array.isArray(value)) value.forEach(collect)
    else if (isRecord(value)) {
      const together = value["allOf"]
      for (const part of Array.isArray(together) ? together : []) {
        const reference = isRecord(part) ? part["$ref"] : undefined
        if (typeof reference === "string") parts.add(reference.split("/").at(-1) ?? "")
      }
      for (const each of Object.values(value)) collect(each)
    }
  }
  collect(all)
  const ajv = new Ajv2020({ strict: false, allErrors: false, validateFormats: true })
  formats.default(ajv)
  ajv.addFormat("unixtime", true)
  ajv.addSchema({
    $id: "https://openai.test/api",
    components: {
      schemas: Object.fromEntries(
        Object.entries(all).map(([name, schema]) => [name, strictly(schema, parts.has(name))])
      )
    }
  })
  return (name) => {
    const $ref = `https://openai.test/api#/components/schemas/${name}`
    const validate = ajv.compile({ $ref, unevaluatedProperties: false })
    return (value) =>
      validate(value) ? [] : (validate.errors ?? []).map((error) => `${error.instancePath} ${error.message}`)
  }
}

const file = (mediaType: string, source?: ChatMessage.FilePart["source"], name?: string): ChatMessage.FilePart => ({
  type: "file",
  mediaType,
  source: source ?? { type: "bytes", bytes: new Uint8Array([1, 2, 3]) },
  ...(name === undefined ? {} : { name })
})
const url = (address: string) => ({ type: "url" as const, url: address })

const tool = LlmTool.make("weather", {
  description: "The weather of a city",
  parameters: Schema.Struct({ city: Schema.String, days: Schema.optional(Schema.Number) })
})
const hi = ChatMessage.user("hi")
const object = { type: "object", properties: { a: { type: "string" } }, required: ["a"], additionalProperties: false }

/** What both APIs can carry. */
const common: ReadonlyArray<readonly [string, LlmRequest.LlmRequest]> = [
  ["text", { messages: [ChatMessage.system("Be brief."), hi, ChatMessage.assistant("Hello"), hi] }],
  ["a later system message", { messages: [hi, ChatMessage.system("Now rhyme."), hi] }],
  ["a system message alone", { messages: [ChatMessage.system("Say hello.")] }],
  ["a user's message without parts", { messages: [{ role: "user", content: [] }] }],
  [
    "images and files",
    {
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            file("image/png"),
            file("image/jpeg", url("https://example.com/a.jpg")),
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
            { type: "reasoning", text: "hm", id: "rs_1", signature: "enc", provider: "openai" },
            { type: "reasoning", text: "foreign", signature: "x", provider: "anthropic" },
            { type: "provider", provider: "google", data: { executableCode: {} } },
            { type: "text", text: "I look.", signature: "commentary", provider: "openai" },
            { type: "tool-call", id: "a", name: "weather", arguments: { city: "Berlin" } },
            { type: "tool-call", id: "b", name: "weather", arguments: undefined },
            { type: "tool-call", id: "c".repeat(80), name: "weather", arguments: null }
          ]
        },
        {
          role: "tool",
          content: [
            { type: "tool-result", id: "a", name: "weather", result: { degrees: 7 } },
            { type: "tool-result", id: "b", name: "weather", result: undefined },
            { type: "tool-result", id: "c".repeat(80), name: "weather", result: new Error("no"), isError: true }
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
  ...(["auto", "none", "required", { name: "weather" }] as const).map(
    (toolChoice) =>
      [
        `the choice of tools ${JSON.stringify(toolChoice)}`,
        { messages: [hi], tools: [tool], toolChoice } satisfies LlmRequest.LlmRequest
      ] as const
  ),
  ["a choice without tools", { messages: [hi], tools: [], toolChoice: "auto", parallelToolCalls: true }],
  [
    "settings",
    {
      messages: [hi],
      temperature: 0.2,
      topP: 0.9,
      topK: 40,
      frequencyPenalty: 0.5,
      presencePenalty: -0.5,
      maxTokens: 100,
      seed: 7,
      reasoningEffort: "low",
      promptCache: { key: "tenant", ttl: "long", breakpoints: [0] },
      providerOptions: {
        openai: { service_tier: "flex", verbosity: "low", metadata: { a: "b" }, safety_identifier: "u", store: true }
      }
    }
  ],
  ["an empty list of stops", { messages: [hi], stop: [] }],
  [
    "files that are there already",
    { messages: [{ role: "user", content: [file("application/pdf", url("file-abc"))] }] }
  ],
  [
    "marks of what is worth caching",
    {
      model: "gpt-5.6",
      messages: [
        ChatMessage.system("long"),
        { role: "user", content: [file("image/png"), file("application/pdf")] },
        hi,
        { role: "user", content: [] }
      ],
      promptCache: { breakpoints: [0, 1, 2, 3] }
    }
  ],
  ["text as the format", { messages: [hi], responseFormat: { type: "text" } }],
  ["JSON as the format", { messages: [hi], responseFormat: { type: "json" } }],
  ...[undefined, true, false].map(
    (strict) =>
      [
        `a schema as the format, strict: ${strict}`,
        {
          messages: [hi],
          responseFormat: { type: "json-schema", name: "answer", description: "An answer", schema: object, strict }
        } satisfies LlmRequest.LlmRequest
      ] as const
  )
]

const ofChat: ReadonlyArray<readonly [string, LlmRequest.LlmRequest]> = [
  ["stops", { messages: [hi], stop: ["a", "b"] }],
  [
    "marks on every kind of part",
    {
      model: "gpt-5.6",
      messages: [
        { role: "user", content: [file("audio/wav")] },
        { role: "user", content: [file("image/png", url("https://example.com/a.png"))] }
      ],
      promptCache: { breakpoints: [0, 1] }
    }
  ],
  ["sounds", { messages: [{ role: "user", content: [file("audio/wav"), file("audio/mpeg")] }] }]
]

const ofResponses: ReadonlyArray<readonly [string, LlmRequest.LlmRequest]> = [
  [
    "files that are there already, and a document by URL",
    {
      messages: [
        {
          role: "user",
          content: [
            file("image/png", url("file-abc")),
            file("application/pdf", url("file-abc")),
            file("application/pdf", url("https://example.com/a.pdf"))
          ]
        }
      ]
    }
  ],
  [
    "items of OpenAI's own tools, and options of the API",
    {
      messages: [
        hi,
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "one", id: "rs_1", provider: "openai" },
            { type: "reasoning", text: "two", id: "rs_1", signature: "enc", provider: "openai" },
            {
              type: "provider",
              provider: "openai",
              data: {
                id: "ws_1",
                type: "web_search_call",
                status: "completed",
                action: { type: "search", query: "weather", queries: ["weather"] }
              }
            },
            {
              type: "tool-call",
              id: "a",
              name: "weather",
              arguments: {},
              signature: '{"namespace":"crm"}',
              provider: "openai"
            }
          ]
        }
      ],
      tools: [tool],
      providerOptions: {
        openai: {
          tools: [{ type: "web_search" }],
          reasoning: { summary: "auto" },
          include: ["web_search_call.action.sources"],
          max_tool_calls: 3,
          previous_response_id: "resp_1",
          truncation: "auto"
        }
      }
    }
  ]
]

describe.skipIf(Need.missing("openapi"))(Need.title("requests as OpenAI's description has them", "openapi"), () => {
  const checks = Need.missing("openapi")
    ? () => () => ["there is no description"]
    : makeChecks(JSON.parse(Fs.readFileSync(Path.join(Need.sharedData, "openapi", "openai.json"), "utf8")) as Json)
  const chat = checks("CreateChatCompletionRequest")
  const responses = checks("CreateResponse")
  const count = checks("TokenCountsBody")

  it("the description finds faults in chat completions", () => {
    const right = { model: "m", messages: [{ role: "user", content: "hi" }] }
    assert.deepStrictEqual(chat(right), [])
    for (const wrong of [
      { messages: right.messages },
      { ...right, messages: [] },
      { ...right, messages: [{ role: "user", content: [] }] },
      { ...right, messages: [{ role: "oracle", content: "hi" }] },
      { ...right, messages: [{ role: "tool", content: "hi" }] },
      { ...right, messages: [{ role: "user", content: [{ type: "image_url", image_url: "https://x" }] }] },
      { ...right, temperature: "warm" },
      { ...right, max_tokenz: 7 },
      { ...right, tool_choice: "any" },
      { ...right, response_format: { type: "json_schema", json_schema: { schema: {} } } }
    ]) {
      assert.isAbove(chat(wrong).length, 0, JSON.stringify(wrong))
    }
  })

  it("the description finds faults in responses", () => {
    const right = { model: "m", input: [{ role: "user", content: "hi" }] }
    assert.deepStrictEqual(responses(right), [])
    for (const wrong of [
      { ...right, input: 7 },
      { ...right, input: [{ role: "oracle", content: "hi" }] },
      { ...right, input: [{ role: "user", content: [{ type: "text", text: "hi" }] }] },
      { ...right, input: [{ role: "user", content: [{ type: "input_image", image_url: 7 }] }] },
      { ...right, input: [{ type: "function_call", name: "f", arguments: {}, call_id: "a" }] },
      { ...right, input: [{ type: "function_call_output", call_id: "a" }] },
      { ...right, input: [{ type: "reasoning", id: "r" }] },
      { ...right, max_tokens: 7 },
      { ...right, max_output_tokens: 1 },
      { ...right, stop: ["a"] },
      { ...right, temperature: "warm" },
      { ...right, tools: [{ type: "function", function: { name: "f" } }] },
      { ...right, tool_choice: { type: "function", function: { name: "f" } } },
      { ...right, text: { format: { type: "json_schema", json_schema: {} } } },
      { ...right, include: ["everything"] }
    ]) {
      assert.isAbove(responses(wrong).length, 0, JSON.stringify(wrong))
    }
    assert.isAbove(count({ ...right, temperature: 1 }).length, 0)
  })

  for (const [name, request] of [...common, ...ofChat]) {
    it(`chat completions: ${name}`, () => {
      for (const stream of [true, false]) {
        for (const promptCache of [true, false]) {
          const dialect = { provider: "openai", promptCache }
          const body = ChatCompletions.encode(request, { model: "gpt-5", stream, dialect, method: "generate" })
          assert.deepStrictEqual(chat(JSON.parse(Either.getOrThrow(body))), [])
        }
      }
    })
  }

  for (const [name, request] of [...common, ...ofResponses]) {
    it(`responses: ${name}`, () => {
      const dialect = { provider: "openai" }
      for (const stream of [true, false]) {
        const body = Responses.encode(request, { model: "gpt-5", stream, dialect, method: "generate" })
        assert.deepStrictEqual(responses(JSON.parse(Either.getOrThrow(body))), [])
      }
      const counted = Responses.encodeCount(request, { model: "gpt-5", dialect })
      assert.deepStrictEqual(count(JSON.parse(Either.getOrThrow(counted))), [])
    })
  }
})

describe.skipIf(Need.missing("openapi") || Need.missing("llm-corpus"))(
  Need.title("answers of the Responses API, sent back", "llm-corpus"),
  () => {
    const checks = Need.missing("openapi")
      ? () => () => ["there is no description"]
      : makeChecks(JSON.parse(Fs.readFileSync(Path.join(Need.sharedData, "openapi", "openai.json"), "utf8")) as Json)
    const responses = checks("CreateResponse")

    for (const { name, recording } of casesOf("responses").filter((each) => each.recording.response.status < 400)) {
      it(`${name} is a request that fits`, () => {
        const { provider } = recording
        const context = { provider, model: undefined, method: "generate" }
        const { body } = recording.response
        const decoder = Responses.makeStreamDecoder(context)
        const response = recording.stream
          ? LlmResponse.fromParts([...decoder.push(new TextEncoder().encode(body)), ...decoder.end()])
          : Either.getOrThrow(Responses.decode(body, context))
        if (response === undefined) return assert.fail("no answer")
        const calls = response.toolCalls
        const request: LlmRequest.LlmRequest = Schema.decodeUnknownSync(Schema.typeSchema(LlmRequest.LlmRequest))({
          messages: [
            hi,
            LlmResponse.toMessage(response),
            {
              role: "tool",
              content: calls.map(({ id, name }) => ({ type: "tool-result", id, name, result: "done" }))
            },
            hi
          ]
        })
        const again = Responses.encode(request, {
          model: "gpt-5",
          stream: false,
          dialect: { provider },
          method: "generate"
        })
        const sent = JSON.parse(Either.getOrThrow(again)) as { readonly input: ReadonlyArray<Json> }
        assert.deepStrictEqual(responses(sent), [])
        assert.deepStrictEqual(
          sent.input.flatMap((item) => (item["type"] === "function_call_output" ? [item["call_id"]] : [])),
          calls.map(({ id }) => id)
        )
      })
    }
  }
)

describe.skipIf(Need.missing("openapi"))(Need.title("every event that OpenAI describes", "openapi"), () => {
  const document = Need.missing("openapi")
    ? {}
    : (JSON.parse(Fs.readFileSync(Path.join(Need.sharedData, "openapi", "openai.json"), "utf8")) as Json)
  const at = (...path: ReadonlyArray<string>): unknown => {
    let found: unknown = document
    for (const name of path) found = isRecord(found) ? found[name] : undefined
    return found
  }
  const resolve = (schema: unknown): Json => {
    const reference = isRecord(schema) ? schema["$ref"] : undefined
    if (typeof reference === "string") return resolve(at(...reference.slice(2).split("/")))
    return isRecord(schema) ? schema : {}
  }
  /** Some value of a schema, its optional properties too. */
  const sample = (raw: unknown, depth = 0): unknown => {
    const schema = resolve(raw)
    if (Array.isArray(schema["enum"])) return schema["enum"][0]
    for (const key of ["oneOf", "anyOf"]) if (Array.isArray(schema[key])) return sample(schema[key][0], depth)
    if (Array.isArray(schema["allOf"])) {
      return Object.assign({}, ...schema["allOf"].map((each: unknown) => sample(each, depth)))
    }
    switch (schema["type"]) {
      case "string":
        return "x"
      case "integer":
      case "number":
        return 0
      case "boolean":
        return false
      case "array":
        return depth > 4 ? [] : [sample(schema["items"], depth + 1)]
      default: {
        const properties = isRecord(schema["properties"]) && depth < 6 ? schema["properties"] : {}
        return Object.fromEntries(
          Object.entries(properties).map(([name, property]) => [name, sample(property, depth + 1)])
        )
      }
    }
  }
  const list = at("components", "schemas", "ResponseStreamEvent")
  const schemas = isRecord(list) ? (list["anyOf"] ?? list["oneOf"]) : []
  // An answer that did not fail has no error.
  const mended = (event: Json): Json =>
    event["type"] !== "response.failed" && isRecord(event["response"])
      ? { ...event, response: { ...event["response"], error: null } }
      : event
  const events = Array.isArray(schemas)
    ? schemas
        .map((schema) => sample(schema))
        .filter(isRecord)
        .map(mended)
    : []
  const ends = ["response.completed", "response.incomplete", "response.failed", "error"]
  const written = (event: Json) => `event: ${event["type"]}\ndata: ${JSON.stringify(event)}\n\n`
  const completed = written({ type: "response.completed", response: { id: "r", status: "completed", output: [] } })

  const play = (text: string) => {
    const decoder = Responses.makeStreamDecoder({ provider: "openai", model: undefined, method: "stream" })
    const parts = [...decoder.push(new TextEncoder().encode(text)), ...decoder.end()]
    return { response: LlmResponse.fromParts(parts), failure: decoder.failure() }
  }

  it("is there", () => {
    assert.isAbove(events.length, 40)
    for (const type of ends) assert.isTrue(events.some((event) => event["type"] === type))
  })

  for (const event of events) {
    const type = String(event["type"])
    it(type, () => {
      const { failure, response } = play(written(event) + completed)
      if (type === "error" || type === "response.failed") return assert.isDefined(failure)
      assert.isUndefined(failure)
      assert.isDefined(response)
      // What is no end is none by itself.
      if (!ends.includes(type)) assert.strictEqual(play(written(event)).failure?.reason, "StreamTruncated")
    })
  }

  it("all of them in one stream, in whatever order, do not fail", () => {
    const rest = events.filter((event) => !ends.includes(String(event["type"])))
    FastCheck.assert(
      FastCheck.property(FastCheck.shuffledSubarray(rest), (some) => {
        const { failure, response } = play(some.map(written).join("") + completed)
        assert.isUndefined(failure)
        assert.strictEqual(response?.finishReason, "completed")
      }),
      { numRuns: 50 }
    )
  })
})
