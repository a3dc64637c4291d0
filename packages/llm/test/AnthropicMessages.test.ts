/** The Messages format: requests, answers and streams, from facts of the wire. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { AnthropicMessages, type Llm, LlmError, type LlmRequest, LlmResponse, LlmTool } from "@underlay/llm"
import { Either, FastCheck, Schema } from "effect"
import { fromSchema } from "../src/internal/jsonSchema.ts"

type Json = { readonly [key: string]: unknown }

interface Tree {
  readonly kids: ReadonlyArray<Tree>
}
const Tree: Schema.Schema<Tree> = Schema.Struct({
  kids: Schema.Array(Schema.suspend((): Schema.Schema<Tree> => Tree))
}).annotations({ identifier: "a/Tree~x" })

const dialect = { provider: "anthropic" }
const context = { provider: "anthropic", model: undefined, method: "stream" }

const encode = (
  request: Partial<LlmRequest.LlmRequest>,
  options: { readonly model?: string; readonly maxTokens?: number; readonly stream?: boolean } = {}
): Either.Either<Json, LlmError.LlmError> =>
  Either.map(
    AnthropicMessages.encode(
      { messages: [ChatMessage.user("hi")], ...request },
      {
        model: options.model ?? "claude-sonnet-4-5",
        stream: options.stream ?? false,
        method: "generate",
        dialect: { ...dialect, maxTokens: options.maxTokens }
      }
    ),
    (text) => JSON.parse(text) as Json
  )

const sent = (...args: Parameters<typeof encode>): Json => Either.getOrThrow(encode(...args))

const refused = (...args: Parameters<typeof encode>): LlmError.LlmError =>
  Either.getOrThrow(Either.flip(encode(...args)))

const messagesOf = (messages: ReadonlyArray<ChatMessage.ChatMessage>): ReadonlyArray<Json> =>
  sent({ messages })["messages"] as ReadonlyArray<Json>

const bytes = (text: string) => new TextEncoder().encode(text)

const file = (mediaType: string, source: ChatMessage.FilePart["source"] | string, name?: string) => ({
  type: "file" as const,
  mediaType,
  source: typeof source === "string" ? { type: "bytes" as const, bytes: bytes(source) } : source,
  ...(name === undefined ? {} : { name })
})

const call = (id: string, name = "look", args: unknown = {}): ChatMessage.ToolCallPart => ({
  type: "tool-call",
  id,
  name,
  arguments: args
})

const answer = (...content: ReadonlyArray<ChatMessage.AssistantPart>): ChatMessage.ChatMessage => ({
  role: "assistant",
  content
})

const result = (id: string, value: unknown, isError?: boolean): ChatMessage.ChatMessage => ({
  role: "tool",
  content: [{ type: "tool-result", id, name: "look", result: value, ...(isError === undefined ? {} : { isError }) }]
})

const weather = LlmTool.make("weather", {
  description: "The weather of a city",
  parameters: Schema.Struct({ city: Schema.String })
})

describe("a request", () => {
  it("of text", () => {
    assert.deepStrictEqual(
      sent({
        messages: [
          ChatMessage.system("Be brief."),
          ChatMessage.user("hi"),
          ChatMessage.assistant("Hello"),
          ChatMessage.user("?")
        ],
        temperature: 0.5,
        topK: 40,
        maxTokens: 100,
        stop: ["END"],
        seed: 7,
        frequencyPenalty: 1,
        presencePenalty: 1
      }),
      {
        model: "claude-sonnet-4-5",
        max_tokens: 100,
        system: [{ type: "text", text: "Be brief." }],
        messages: [
          { role: "user", content: [{ type: "text", text: "hi" }] },
          { role: "assistant", content: [{ type: "text", text: "Hello" }] },
          { role: "user", content: [{ type: "text", text: "?" }] }
        ],
        temperature: 0.5,
        top_k: 40,
        stop_sequences: ["END"],
        stream: false
      }
    )
  })

  it("names its model and whether it is streamed, whatever the options of the provider say", () => {
    const body = sent(
      {
        model: "claude-opus-4-6",
        providerOptions: { anthropic: { stream: false, service_tier: "auto" }, openai: { a: 1 } }
      },
      { stream: true }
    )
    assert.deepInclude(body, { model: "claude-opus-4-6", stream: true, service_tier: "auto" })
    assert.notProperty(body, "a")
  })

  it("always says how long the answer may be, as the API demands, by what the model can write", () => {
    const limits: ReadonlyArray<readonly [string, number]> = [
      ["claude-3-haiku-20240307", 4096],
      ["claude-3-opus-latest", 4096],
      ["claude-3-5-sonnet-20241022", 8192],
      ["claude-3-7-sonnet-20250219", 32_000],
      ["claude-opus-4-20250514", 32_000],
      ["claude-opus-4-1", 32_000],
      ["claude-sonnet-4-5-20250929", 64_000],
      ["anthropic/claude-haiku-4.5", 64_000],
      ["claude-opus-5-5", 64_000],
      ["claude-fable-5", 64_000],
      ["claude-something-new", 64_000],
      ["glm-5", 8192]
    ]
    for (const [model, limit] of limits) assert.strictEqual(sent({}, { model })["max_tokens"], limit, model)
    assert.strictEqual(sent({}, { maxTokens: 500 })["max_tokens"], 500)
    assert.strictEqual(sent({ maxTokens: 7 }, { maxTokens: 500 })["max_tokens"], 7)
  })

  it("leaves out what the model refuses of the settings of sampling", () => {
    const sampling = { temperature: 1.5, topP: 0.5, topK: 3 }
    const of = (model: string, more: Partial<LlmRequest.LlmRequest> = {}) => {
      const { temperature, top_k, top_p } = sent({ ...sampling, ...more }, { model })
      return [temperature, top_p, top_k]
    }
    assert.deepStrictEqual(of("claude-3-5-haiku-20241022"), [1, 0.5, 3])
    assert.deepStrictEqual(of("claude-haiku-4-5"), [1, undefined, 3])
    assert.deepStrictEqual(of("claude-opus-4-1", { temperature: undefined }), [undefined, 0.5, 3])
    for (const model of [
      "claude-opus-4-7",
      "claude-sonnet-5",
      "claude-fable-5-1",
      "claude-haiku-5-5",
      "claude-opus-6"
    ]) {
      assert.deepStrictEqual(of(model), [undefined, undefined, undefined], model)
    }
    assert.deepStrictEqual(of("claude-sonnet-4-5", { reasoningEffort: "low" }), [undefined, undefined, undefined])
  })

  it("asks for reasoning as the model's generation does", () => {
    const of = (model: string, reasoningEffort: string, more: Partial<LlmRequest.LlmRequest> = {}) => {
      const { output_config, thinking } = sent({ reasoningEffort, ...more }, { model })
      return [thinking, output_config]
    }
    const adaptive = { type: "adaptive" }
    assert.deepStrictEqual(of("claude-opus-4-6", "max"), [adaptive, { effort: "max" }])
    // Each model has some efforts only, and refuses a request that names another.
    for (const [model, efforts] of [
      ["claude-opus-4-5-20251101", ["low", "low", "high", "high", "high"]],
      ["claude-opus-4-6", ["low", "low", "high", "high", "max"]],
      ["claude-sonnet-4-6", ["low", "low", "high", "high", "max"]],
      ["claude-opus-4-7", ["low", "low", "high", "xhigh", "max"]],
      ["claude-haiku-4-5", [undefined, undefined, undefined, undefined, undefined]]
    ] as const) {
      const said = ["minimal", "low", "HIGH", "xhigh", "max"].map((effort) => of(model, effort)[1])
      assert.deepStrictEqual(
        said,
        efforts.map((effort) => (effort === undefined ? undefined : { effort })),
        model
      )
    }
    assert.deepStrictEqual(of("claude-opus-4-6", "of tomorrow")[1], { effort: "of tomorrow" })
    // The newest show nothing of their thinking unless they are asked to.
    const shown = { type: "adaptive", display: "summarized" }
    assert.deepStrictEqual(of("claude-sonnet-5", "xhigh"), [shown, { effort: "xhigh" }])
    assert.deepStrictEqual(of("claude-opus-4-7", "minimal"), [shown, { effort: "low" }])
    assert.deepStrictEqual(of("claude-sonnet-4-5", "low"), [{ type: "enabled", budget_tokens: 2048 }, undefined])
    assert.deepStrictEqual(of("claude-opus-4-5", "high"), [
      { type: "enabled", budget_tokens: 16_384 },
      { effort: "high" }
    ])
    assert.deepStrictEqual(of("claude-3-5-sonnet-latest", "high"), [undefined, undefined])
    // The budget is a part of the limit, and at least 1,024.
    assert.deepStrictEqual(of("claude-3-7-sonnet-latest", "high", { maxTokens: 4000 })[0], {
      type: "enabled",
      budget_tokens: 2000
    })
    assert.deepStrictEqual(of("claude-3-7-sonnet-latest", "high", { maxTokens: 2000 })[0], undefined)
    // A demanded call and thought of its own accord exclude each other.
    const forced = { tools: [weather], toolChoice: "required" as const }
    assert.deepStrictEqual(of("claude-sonnet-4-5", "high", forced), [undefined, undefined])
    assert.deepStrictEqual(of("claude-opus-4-6", "high", forced), [undefined, { effort: "high" }])
    assert.deepStrictEqual(of("claude-sonnet-4-5", "none"), [undefined, undefined])
    assert.deepStrictEqual(of("claude-sonnet-5", "none"), [{ type: "disabled" }, undefined])
    assert.deepStrictEqual(of("claude-sonnet-5-5", "none"), [{ type: "between_tools" }, undefined])
    assert.deepStrictEqual(of("claude-fable-5", "none"), [undefined, { effort: "low" }])
    const own = { anthropic: { thinking: { type: "enabled" as const, budget_tokens: 5000 } } }
    assert.deepStrictEqual(of("claude-sonnet-4-5", "low", { providerOptions: own })[0], {
      type: "enabled",
      budget_tokens: 5000
    })
  })

  it("adds the provider's own tools and output settings to those of the request", () => {
    const search = { type: "web_search_20250305", name: "web_search" }
    const body = sent(
      {
        tools: [weather],
        reasoningEffort: "low",
        responseFormat: { type: "json-schema", name: "a", schema: { type: "object", properties: {} } },
        providerOptions: { anthropic: { tools: [search], output_config: { effort: "high" } } }
      },
      { model: "claude-opus-4-6" }
    )
    assert.deepStrictEqual(
      (body["tools"] as ReadonlyArray<Json>).map(({ name }) => name),
      ["weather", "web_search"]
    )
    assert.deepStrictEqual(body["output_config"], {
      effort: "high",
      format: { type: "json_schema", schema: { type: "object", properties: {}, additionalProperties: false } }
    })
  })

  it("of tools, held to their schemas where the model can be", () => {
    const loose: LlmTool.LlmTool = { name: "any", parameters: {} }
    const tools = (model: string) => sent({ tools: [weather, loose] }, { model })["tools"]
    const schema = weather.parameters
    const described = { name: "weather", description: "The weather of a city" }
    const any = { name: "any", input_schema: { type: "object" } }
    assert.deepStrictEqual(tools("claude-3-5-haiku-latest"), [{ ...described, input_schema: schema }, any])
    const [first, second] = tools("claude-haiku-4-5") as ReadonlyArray<Json>
    assert.deepInclude(first, { ...described, strict: true })
    assert.deepInclude(first?.["input_schema"] as Json, { type: "object", additionalProperties: false })
    assert.deepStrictEqual(second, any)
    const many = Array.from({ length: 21 }, (_, index) => ({ ...weather, name: `w${index}` }))
    for (const tool of sent({ tools: many })["tools"] as ReadonlyArray<Json>) assert.notProperty(tool, "strict")
  })

  it("of a choice of tools", () => {
    const choice = (toolChoice: LlmRequest.ToolChoice | undefined, parallelToolCalls?: boolean) =>
      sent({ tools: [weather], toolChoice, parallelToolCalls })["tool_choice"]
    assert.isUndefined(choice(undefined))
    assert.isUndefined(choice(undefined, true))
    assert.deepStrictEqual(choice("auto"), { type: "auto" })
    assert.deepStrictEqual(choice("none", false), { type: "none" })
    assert.deepStrictEqual(choice("required"), { type: "any" })
    assert.deepStrictEqual(choice({ name: "weather" }, false), {
      type: "tool",
      name: "weather",
      disable_parallel_tool_use: true
    })
    assert.deepStrictEqual(choice(undefined, false), { type: "auto", disable_parallel_tool_use: true })
    assert.notProperty(sent({ toolChoice: "required" }), "tool_choice")
  })

  it("of images, documents and texts", () => {
    const url = (text: string) => ({ type: "url" as const, url: text })
    const [message] = messagesOf([
      {
        role: "user",
        content: [
          file("image/png", "png"),
          file("image/jpeg", url("https://example.com/a.jpg")),
          file("application/pdf", "pdf", "a.pdf"),
          file("application/pdf", url("https://example.com/b.pdf")),
          file("text/csv", "a,b", "a.csv"),
          file("Application/JSON; charset=utf-8", "{}"),
          file("image/jpg", "jpg"),
          file("image/webp", url("data:image/webp;base64,AQID")),
          file("application/pdf", url("file_011CNha8iCJcU1wXNR6q4V8w"))
        ]
      }
    ])
    assert.deepStrictEqual(message?.["content"], [
      { type: "image", source: { type: "base64", media_type: "image/png", data: "cG5n" } },
      { type: "image", source: { type: "url", url: "https://example.com/a.jpg" } },
      { type: "document", source: { type: "base64", media_type: "application/pdf", data: "cGRm" }, title: "a.pdf" },
      { type: "document", source: { type: "url", url: "https://example.com/b.pdf" } },
      { type: "document", source: { type: "text", media_type: "text/plain", data: "a,b" }, title: "a.csv" },
      { type: "document", source: { type: "text", media_type: "text/plain", data: "{}" } },
      { type: "image", source: { type: "base64", media_type: "image/jpeg", data: "anBn" } },
      { type: "image", source: { type: "base64", media_type: "image/webp", data: "AQID" } },
      { type: "document", source: { type: "file", file_id: "file_011CNha8iCJcU1wXNR6q4V8w" } }
    ])
  })

  it("has titles of documents as long as the API takes them", () => {
    const files = ["x".repeat(600), " ", "a"].map((name) => file("application/pdf", "pdf", name))
    const [turn] = messagesOf([{ role: "user", content: files }])
    const documents = turn?.["content"] as ReadonlyArray<Json>
    assert.deepStrictEqual(
      documents.map((each) => each["title"]),
      ["x".repeat(500), undefined, "a"]
    )
  })

  it("refuses what cannot be carried, saying what to do", () => {
    const of = (...content: ReadonlyArray<ChatMessage.FilePart>) => refused({ messages: [{ role: "user", content }] })
    assert.include(of(file("image/tiff", "x")).issue, "image/tiff")
    assert.include(of(file("audio/wav", "x")).issue, "audio/wav")
    assert.include(of(file("text/plain", { type: "url", url: "https://example.com/a" })).issue, "send its bytes")
    assert.include(of(file("image/png", { type: "url", url: "gs://bucket/a" })).issue, "send the bytes")
    assert.include(refused({ stop: ["\n"] }).issue, "stop")
    assert.include(refused({ messages: [ChatMessage.system("x")] }).issue, "at least one")
    const nothing = refused({ messages: [ChatMessage.user(" ")] })
    assert.deepInclude(nothing, { reason: "InvalidRequest", provider: "anthropic", model: "claude-sonnet-4-5" })
    assert.isFalse(nothing.isRetryable)
    assert.strictEqual(refused({ messages: [answer(call("1", "f", { n: 1n }))] }).reason, "InvalidRequest")
  })

  it("of free JSON is asked for in words, since the format has no such mode", () => {
    const body = sent({ messages: [ChatMessage.system("s"), ChatMessage.user("u")], responseFormat: { type: "json" } })
    const system = body["system"] as ReadonlyArray<Json>
    assert.strictEqual(system.length, 2)
    assert.include(system[1]?.["text"], "JSON")
    assert.notProperty(body, "output_config")
    assert.notProperty(sent({ responseFormat: { type: "text" } }), "output_config")
  })
})

describe("an answer's schema", () => {
  const schemaOf = (schema: Json) =>
    encode({ responseFormat: { type: "json-schema", name: "a", schema } }).pipe(
      Either.map((body) => (body["output_config"] as { format: { type: string; schema: Json } }).format)
    )
  const object = (properties: Json, more: Json = {}) => ({ type: "object", properties, ...more })

  it("is closed, and what only narrows values is told in words", () => {
    assert.deepStrictEqual(
      Either.getOrThrow(
        schemaOf(
          object(
            {
              age: { type: "integer", minimum: 0, description: "in years" },
              tags: { type: "array", items: { type: "string", maxLength: 5 }, minItems: 1, maxItems: 3 },
              mail: { type: ["string", "null"], format: "email" },
              kind: { type: "string", enum: ["a", "b"] },
              other: { oneOf: [{ $ref: "#/$defs/o" }, { type: "null" }] }
            },
            { $schema: "x", required: ["age"], $defs: { o: object({}, { additionalProperties: false }) } }
          )
        )
      ),
      {
        type: "json_schema",
        schema: {
          type: "object",
          properties: {
            age: { type: "integer", description: "in years (minimum: 0)" },
            tags: {
              type: "array",
              items: { type: "string", description: "(maxLength: 5)" },
              minItems: 1,
              description: "(maxItems: 3)"
            },
            mail: { type: ["string", "null"], format: "email" },
            kind: { type: "string", enum: ["a", "b"] },
            other: { anyOf: [{ $ref: "#/$defs/o" }, { type: "null" }] }
          },
          required: ["age"],
          $defs: { o: { type: "object", additionalProperties: false, properties: {} } },
          additionalProperties: false
        }
      }
    )
  })

  it("is refused where more would fit than it allows: open objects, tuples, recursion", () => {
    const recursive = object({ next: { $ref: "#/$defs/n" } }, { $defs: { n: object({ n: { $ref: "#/$defs/n" } }) } })
    const cases: ReadonlyArray<readonly [Json, string]> = [
      [object({ a: {} }), "the root.a: a schema that allows anything"],
      [object({ a: { type: "object" } }), "an object of any kind"],
      [object({ a: { type: "object", additionalProperties: { type: "string" } } }), "properties of any name"],
      [object({ a: { type: "array", items: [{ type: "string" }] } }), "fixed length"],
      [object({ a: { type: "string", not: { const: "x" } } }), "not"],
      [object({ a: { enum: ["x", { y: 1 }] } }), "values that are lists or objects"],
      [object({ a: { const: ["x"] } }), "values that are lists or objects"],
      [object({ a: { type: "array", items: { $ref: "#/properties/b" } }, b: { type: "string" } }), "not a definition"],
      [object({ a: { $ref: "https://example.com/a.json" } }), "not a definition"],
      [
        object({ a: { allOf: [{ $ref: "#/$defs/x" }, { type: "string" }] } }, { $defs: { x: { type: "string" } } }),
        "allOf with a reference"
      ],
      [object({ a: { anyOf: [{ type: "string" }], oneOf: [{ type: "string" }] } }), "anyOf beside oneOf"],
      [recursive, "refers to itself"],
      [object({ next: { $ref: "#" } }), "refers to itself"],
      // Names that are escaped in references, and properties that are called like keywords.
      [fromSchema(Tree), "refers to itself"],
      [
        object({ a: { $ref: "#/$defs/n" } }, { $defs: { n: object({ enum: { $ref: "#/$defs/n" } }) } }),
        "refers to itself"
      ]
    ]
    for (const [schema, issue] of cases) {
      const error = Either.getOrThrow(Either.flip(schemaOf(schema)))
      assert.strictEqual(error.reason, "InvalidRequest")
      assert.include(error.issue, issue)
    }
    // Such a tool is given without being held to its schema.
    const tool = { name: "t", parameters: recursive, strict: true }
    assert.deepStrictEqual(sent({ tools: [tool] })["tools"], [{ name: "t", input_schema: recursive }])
  })

  it("may name a definition twice without being recursive", () => {
    const twice = object({ a: { $ref: "#/$defs/x" }, b: { $ref: "#/$defs/x" } }, { $defs: { x: { type: "string" } } })
    assert.isTrue(Either.isRight(schemaOf(twice)))
  })

  it("has references that stand alone, as Anthropic wants them, with what is said of them round them", () => {
    const x = object({}, { additionalProperties: false })
    const properties = {
      plain: { $ref: "#/$defs/x" },
      told: { $ref: "#/$defs/x", description: "where", deprecated: true },
      // How a described reference is written where nothing may stand beside one.
      described: { allOf: [{ $ref: "#/$defs/x" }], description: "whence" },
      one: { allOf: [{ $ref: "#/$defs/x" }] }
    }
    const format = Either.getOrThrow(schemaOf(object(properties, { $defs: { x } })))
    assert.deepStrictEqual(format.schema["properties"], {
      plain: { $ref: "#/$defs/x" },
      told: { anyOf: [{ $ref: "#/$defs/x" }], description: "where (deprecated: true)" },
      described: { anyOf: [{ $ref: "#/$defs/x" }], description: "whence" },
      one: { $ref: "#/$defs/x" }
    })
    const whole = Either.getOrThrow(schemaOf({ $ref: "#/$defs/x", $defs: { x } }))
    assert.deepStrictEqual(whole.schema, { $ref: "#/$defs/x", $defs: { x: { ...x, type: "object" } } })
  })
})

describe("a conversation", () => {
  it("has the results of all calls in the turn after them, before anything else (complaint 7: broken tool pairs)", () => {
    assert.deepStrictEqual(
      messagesOf([
        ChatMessage.user("a"),
        answer({ type: "text", text: "let me see" }, call("t1", "look", { x: 1 }), call("t2")),
        result("t2", { n: 1 }),
        ChatMessage.user("hurry"),
        result("t1", "one", false)
      ]),
      [
        { role: "user", content: [{ type: "text", text: "a" }] },
        {
          role: "assistant",
          content: [
            { type: "text", text: "let me see" },
            { type: "tool_use", id: "t1", name: "look", input: { x: 1 } },
            { type: "tool_use", id: "t2", name: "look", input: {} }
          ]
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "t2", content: '{"n":1}' },
            { type: "tool_result", tool_use_id: "t1", content: "one" },
            { type: "text", text: "hurry" }
          ]
        }
      ]
    )
  })

  it("marks failed calls, their words as they are", () => {
    const results = messagesOf([
      answer(call("1"), call("2"), call("3"), call("4"), call("5")),
      result("1", new Error("no such city"), true),
      result("2", "late", true),
      result("3", undefined),
      result("4", "", true),
      result("5", " \n")
    ])
    assert.deepStrictEqual(results[1]?.["content"], [
      { type: "tool_result", tool_use_id: "1", content: "no such city", is_error: true },
      { type: "tool_result", tool_use_id: "2", content: "late", is_error: true },
      { type: "tool_result", tool_use_id: "3" },
      { type: "tool_result", tool_use_id: "4", content: "the tool failed", is_error: true },
      { type: "tool_result", tool_use_id: "5" }
    ])
  })

  it("has ids that the API takes, each of one call only, results with their calls", () => {
    const turns = messagesOf([
      ChatMessage.user("a"),
      answer(call("functions.look:0"), call("functions_look_0")),
      result("functions_look_0", "second"),
      result("functions.look:0", "first"),
      answer(call("functions.look:0")),
      result("functions.look:0", "third")
    ])
    const ids = turns.map(({ content }) =>
      (content as ReadonlyArray<Json>).map((block) => [block["id"] ?? block["tool_use_id"], block["content"]])
    )
    assert.deepStrictEqual(ids.slice(1), [
      [
        ["functions_look_0", undefined],
        ["functions_look_0_2", undefined]
      ],
      [
        ["functions_look_0_2", "second"],
        ["functions_look_0", "first"]
      ],
      [["functions_look_0_3", undefined]],
      [["functions_look_0_3", "third"]]
    ])
  })

  it("takes a result for one of the last calls, not for an older one that was never answered", () => {
    const turns = messagesOf([answer(call("c")), ChatMessage.user("never mind"), answer(call("c")), result("c", "x")])
    assert.deepStrictEqual(turns[3]?.["content"], [{ type: "tool_result", tool_use_id: "c_2", content: "x" }])
  })

  it("has objects for arguments, whatever the model wrote", () => {
    const turns = messagesOf([
      answer(call("1", "f", undefined), call("2", "f", null), call("3", "f", [1]), call("4", "f", { __invalid: "{" }))
    ])
    const inputs = turns.flatMap(({ content }) => (content as ReadonlyArray<Json>).map(({ input }) => input))
    assert.deepStrictEqual(inputs, [{}, {}, { value: [1] }, { __invalid: "{" }])
  })

  it("leaves out blank texts, which the API refuses, and blanks at the very end", () => {
    assert.deepStrictEqual(
      messagesOf([
        ChatMessage.system("  "),
        ChatMessage.user("a"),
        answer({ type: "text", text: "\n\n" }),
        ChatMessage.user(""),
        ChatMessage.user("b"),
        answer({ type: "text", text: "so far \n" })
      ]),
      [
        {
          role: "user",
          content: [
            { type: "text", text: "a" },
            { type: "text", text: "b" }
          ]
        },
        { role: "assistant", content: [{ type: "text", text: "so far" }] }
      ]
    )
  })

  it("has Anthropic's signatures and parts in their order, those of others never (complaint 13: signatures lost on replay)", () => {
    const own = { provider: "anthropic" }
    const searched = { type: "web_search_tool_result", tool_use_id: "s1", content: [{ encrypted_content: "e" }] }
    const turns = messagesOf([
      ChatMessage.user("a"),
      answer(
        { type: "reasoning", text: "hm", signature: "sig", ...own },
        { type: "provider", data: { type: "redacted_thinking", data: "xx" }, ...own },
        { type: "reasoning", text: "", signature: "sig2", ...own },
        { type: "reasoning", text: "not signed" },
        { type: "reasoning", text: "of another", signature: "s", provider: "google" },
        { type: "provider", provider: "openai", data: { type: "web_search_call" } },
        { type: "provider", data: searched, ...own },
        { type: "text", text: "found", signature: "of another", provider: "google" },
        { ...call("c1"), signature: "of another", provider: "google" }
      )
    ])
    assert.deepStrictEqual(turns[1]?.["content"], [
      { type: "thinking", thinking: "hm", signature: "sig" },
      { type: "redacted_thinking", data: "xx" },
      { type: "thinking", thinking: "", signature: "sig2" },
      searched,
      { type: "text", text: "found" },
      { type: "tool_use", id: "c1", name: "look", input: {} }
    ])
  })

  it("has no turn of the model that ends in thinking, as one does that was cut off there, since that is refused", () => {
    const thought = { type: "reasoning", text: "hm", signature: "s", provider: "anthropic" } as const
    const redacted = {
      type: "provider",
      provider: "anthropic",
      data: { type: "redacted_thinking", data: "x" }
    } as const
    const said = { type: "text", text: "so" } as const
    const rolesOf = (...messages: ReadonlyArray<ChatMessage.ChatMessage>) =>
      messagesOf([ChatMessage.user("a"), ...messages, ChatMessage.user("b")]).map(({ content, role }) => [
        role,
        ...(content as ReadonlyArray<Json>).map((block) => block["type"])
      ])
    assert.deepStrictEqual(rolesOf(answer(thought, redacted)), [["user", "text", "text"]])
    assert.deepStrictEqual(rolesOf(answer(thought, said, thought, redacted)), [
      ["user", "text"],
      ["assistant", "thinking", "text"],
      ["user", "text"]
    ])
    assert.deepStrictEqual(rolesOf(answer(thought), answer(thought, said)), [
      ["user", "text"],
      ["assistant", "thinking", "thinking", "text"],
      ["user", "text"]
    ])
    assert.deepStrictEqual(rolesOf(answer(call("c")), result("c", "r"), answer(thought)), [
      ["user", "text"],
      ["assistant", "tool_use"],
      ["user", "tool_result", "text"]
    ])
  })

  it("that another model began with calls goes on without a budget of thought, which the API would refuse", () => {
    const begun = [ChatMessage.user("a"), answer(call("1")), result("1", "x")]
    assert.notProperty(sent({ messages: begun, reasoningEffort: "high" }), "thinking")
    const thought = answer({ type: "reasoning", text: "", signature: "s", provider: "anthropic" }, call("1"))
    const [first, , last] = begun
    const own = [first, thought, last].filter((each) => each !== undefined)
    assert.property(sent({ messages: own, reasoningEffort: "high" }), "thinking")
    // Where the model thinks as it sees fit there is no such rule.
    assert.property(sent({ messages: begun, reasoningEffort: "high" }, { model: "claude-opus-4-6" }), "thinking")
  })

  it("keeps its beginning where the request says so", () => {
    const messages = [
      ChatMessage.system("one"),
      ChatMessage.system("two"),
      ChatMessage.user("a"),
      answer({ type: "text", text: "b" }, { type: "reasoning", text: "", signature: "s", provider: "anthropic" }),
      ChatMessage.user("c")
    ]
    const marks = (promptCache: LlmRequest.PromptCache | undefined) => {
      const { messages: turns, system } = sent({ messages, promptCache })
      const blocks = [
        ...(system as ReadonlyArray<Json>),
        ...(turns as ReadonlyArray<{ content: ReadonlyArray<Json> }>).flatMap(({ content }) => content)
      ]
      return blocks.flatMap((block) =>
        block["cache_control"] === undefined ? [] : [[block["text"], block["cache_control"]]]
      )
    }
    const short = { type: "ephemeral" }
    assert.deepStrictEqual(marks(undefined), [])
    assert.deepStrictEqual(marks({}), [
      ["two", short],
      ["c", short]
    ])
    assert.deepStrictEqual(marks({ ttl: "long", breakpoints: [0, 3, 99] }), [
      ["one", { type: "ephemeral", ttl: "1h" }],
      ["b", { type: "ephemeral", ttl: "1h" }]
    ])
    assert.include(refused({ messages, promptCache: { breakpoints: [0, 1, 2, 3, 4] } }).issue, "at most")
  })
})

describe("a count of tokens", () => {
  const request: LlmRequest.LlmRequest = {
    messages: [ChatMessage.system("s"), ChatMessage.user("hi")],
    temperature: 1,
    stop: ["x"],
    tools: [weather],
    toolChoice: "required",
    maxTokens: 5,
    providerOptions: { anthropic: { metadata: { user_id: "u" } } }
  }
  it("asks with what counts, and nothing else", () => {
    const body = Either.getOrThrow(AnthropicMessages.encodeCount(request, { model: "claude-haiku-4-5", dialect }))
    assert.deepStrictEqual(Object.keys(JSON.parse(body) as Json).sort(), [
      "messages",
      "model",
      "system",
      "tool_choice",
      "tools"
    ])
  })
  it("is a number, an error, or no answer", () => {
    const of = (body: string) => AnthropicMessages.decodeCount(body, context)
    assert.deepStrictEqual(of('{"input_tokens":14,"more":1}'), Either.right(14))
    const reason = (body: string) => Either.getOrThrow(Either.flip(of(body))).reason
    assert.strictEqual(
      reason('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'),
      "Overloaded"
    )
    for (const body of ["", "{}", "[]", "<html>"]) assert.strictEqual(reason(body), "MalformedResponse")
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const message = (content: ReadonlyArray<unknown>, more: Json = {}) =>
  JSON.stringify({
    id: "msg_1",
    type: "message",
    role: "assistant",
    model: "claude-x",
    content,
    stop_reason: "end_turn",
    usage: { input_tokens: 3, output_tokens: 5 },
    ...more
  })

const decode = (body: string) => AnthropicMessages.decode(body, context)
const decoded = (body: string) => Either.getOrThrow(decode(body))

const serverUse = { type: "server_tool_use", id: "srv_1", name: "web_search", input: { query: "q" } }
const serverResult = { type: "web_search_tool_result", tool_use_id: "srv_1", content: [] }

describe("a whole answer", () => {
  it("has its parts in their order, and what is not for the caller only there", () => {
    const response = decoded(
      message(
        [
          { type: "thinking", thinking: "hm", signature: "sig" },
          { type: "redacted_thinking", data: "xx" },
          { type: "text", text: "a", citations: [{ type: "char_location", cited_text: "c" }] },
          serverUse,
          serverResult,
          { type: "text", text: "b", citations: null },
          { type: "tool_use", id: "t1", name: "look", input: { x: 1 }, caller: { type: "direct" } },
          { type: "a_block_of_tomorrow", more: true },
          "not a block"
        ],
        { stop_reason: "tool_use" }
      )
    )
    assert.deepInclude(response, { id: "msg_1", model: "claude-x", text: "ab", reasoning: "hm", finish: "tool-calls" })
    assert.deepStrictEqual(response.toolCalls, [{ type: "tool-call", id: "t1", name: "look", arguments: { x: 1 } }])
    const provider = "anthropic"
    assert.deepStrictEqual(response.content, [
      { type: "reasoning", text: "hm", signature: "sig", provider },
      { type: "provider", provider, data: { type: "redacted_thinking", data: "xx" } },
      { type: "text", text: "a" },
      { type: "provider", provider, data: serverUse },
      { type: "provider", provider, data: serverResult },
      { type: "text", text: "b" },
      { type: "tool-call", id: "t1", name: "look", arguments: { x: 1 } },
      { type: "provider", provider, data: { type: "a_block_of_tomorrow", more: true } }
    ])
  })

  it("goes back as it came (complaint 13)", () => {
    const content = [
      { type: "thinking", thinking: "", signature: "sig" },
      serverUse,
      serverResult,
      {
        type: "tool_use",
        id: "t1",
        name: "look",
        input: {},
        caller: { type: "code_execution_20250825", tool_id: "srv_1" },
        toolset_name: "browser"
      }
    ]
    const response = decoded(message(content, { stop_reason: "tool_use" }))
    const turns = messagesOf([ChatMessage.user("a"), LlmResponse.toMessage(response), result("t1", "ok")])
    assert.deepStrictEqual(turns[1]?.["content"], content)
    assert.deepStrictEqual(turns[2]?.["content"], [
      { type: "tool_result", tool_use_id: "t1", content: "ok", toolset_name: "browser" }
    ])
  })

  it("counts what came from and went to the cache as input (complaint 5: usage)", () => {
    const usage = {
      input_tokens: 4,
      cache_read_input_tokens: 1000,
      cache_creation_input_tokens: 20,
      output_tokens: 9,
      output_tokens_details: { thinking_tokens: 6 }
    }
    assert.deepStrictEqual(decoded(message([], { usage })).usage, {
      input: 1024,
      output: 9,
      cachedInput: 1000,
      cacheWrite: 20,
      reasoning: 6
    })
  })

  it("stops for the provider's reason", () => {
    const finishes: ReadonlyArray<readonly [string | null, LlmResponse.Finish]> = [
      ["end_turn", "stop"],
      ["stop_sequence", "stop"],
      ["max_tokens", "length"],
      ["model_context_window_exceeded", "length"],
      ["pause_turn", "pause"],
      ["refusal", "content-filter"],
      ["compaction", "other"],
      ["a_reason_of_tomorrow", "other"],
      [null, "other"]
    ]
    for (const [reason, finish] of finishes) {
      assert.strictEqual(decoded(message([{ type: "text", text: "x" }], { stop_reason: reason })).finish, finish)
    }
    const calls = [{ type: "tool_use", id: "1", name: "f", input: {} }]
    assert.strictEqual(decoded(message(calls)).finish, "tool-calls")
    assert.strictEqual(decoded(message(calls, { stop_reason: "max_tokens" })).finish, "length")
  })

  it("has the words of a refusal", () => {
    const details = { stop_reason: "refusal", stop_details: { type: "refusal", category: "bio", explanation: "no" } }
    assert.strictEqual(decoded(message([], details)).refusal, "no")
    const wordless = { stop_reason: "refusal", stop_details: { type: "refusal", explanation: null } }
    assert.deepInclude(decoded(message([], wordless)), { refusal: undefined, finish: "content-filter" })
  })

  it("is an error in spite of its status, or nothing that the format allows", () => {
    const left = (body: string) => Either.getOrThrow(Either.flip(decode(body)))
    const overloaded = left('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert.deepInclude(overloaded, { reason: "Overloaded", providerMessage: "Overloaded", midStream: false })
    assert.isTrue(overloaded.isRetryable)
    for (const body of ["", "null", "[]", "{}", '{"content":5}', "<html></html>", '"hi"']) {
      assert.strictEqual(left(body).reason, "MalformedResponse", body)
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const event = (value: Json): string => `event: ${String(value["type"])}\ndata: ${JSON.stringify(value)}  \n\n`
const start = (more: Json = {}) =>
  event({
    type: "message_start",
    message: {
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "claude-x",
      content: [],
      stop_reason: null,
      usage: { input_tokens: 10, cache_read_input_tokens: 2, output_tokens: 1 },
      ...more
    }
  })
const block = (index: number, content_block: Json) => event({ type: "content_block_start", index, content_block })
const delta = (index: number, type: string, more: Json) =>
  event({ type: "content_block_delta", index, delta: { type, ...more } })
const stop = (index: number) => event({ type: "content_block_stop", index })
const end = (reason: string, usage: Json = { output_tokens: 7 }, more: Json = {}) =>
  event({ type: "message_delta", delta: { stop_reason: reason, ...more }, usage })
const over = event({ type: "message_stop" })
const ping = event({ type: "ping" })

const text = (index: number, ...texts: ReadonlyArray<string>) =>
  block(index, { type: "text", text: "" }) +
  texts.map((each) => delta(index, "text_delta", { text: each })).join("") +
  stop(index)

const toolUse = (index: number, id: string, ...pieces: ReadonlyArray<string>) =>
  block(index, { type: "tool_use", id, name: "look", input: {} }) +
  pieces.map((partial_json) => delta(index, "input_json_delta", { partial_json })).join("") +
  stop(index)

const rich = [
  start(),
  ping,
  block(0, { type: "thinking", thinking: "", signature: "" }),
  delta(0, "thinking_delta", { thinking: "let me – " }),
  delta(0, "thinking_delta", { thinking: "see 🤔" }),
  delta(0, "signature_delta", { signature: "sig" }),
  stop(0),
  block(1, { type: "redacted_thinking", data: "xx" }),
  stop(1),
  text(2, "Größe: ", "「三」"),
  block(3, { type: "server_tool_use", id: "srv_1", name: "web_search", input: {} }),
  delta(3, "input_json_delta", { partial_json: '{"query"' }),
  delta(3, "input_json_delta", { partial_json: ':"q"}' }),
  stop(3),
  ping,
  block(4, serverResult),
  stop(4),
  block(5, { type: "text", text: "", citations: [] }),
  delta(5, "citations_delta", { citation: { type: "web_search_result_location", cited_text: "c" } }),
  delta(5, "text_delta", { text: "." }),
  delta(5, "a_delta_of_tomorrow", { text: "not this" }),
  stop(5),
  toolUse(6, "t1", "", '{"x', '":1', "}"),
  toolUse(7, "t2", ""),
  event({ type: "an_event_of_tomorrow", text: "nor this" }),
  end("tool_use", { input_tokens: 20, cache_read_input_tokens: null, output_tokens: 40 }),
  over
].join("")

interface Outcome {
  readonly parts: ReadonlyArray<Llm.LlmStreamPart>
  readonly response: LlmResponse.LlmResponse | undefined
  readonly failure: LlmError.LlmError | undefined
}

const play = (body: string | ReadonlyArray<Uint8Array>): Outcome => {
  const decoder = AnthropicMessages.makeStreamDecoder(context)
  const parts: Array<Llm.LlmStreamPart> = []
  for (const piece of typeof body === "string" ? [bytes(body)] : body) parts.push(...decoder.push(piece))
  parts.push(...decoder.end())
  return { parts, response: LlmResponse.fromParts(parts), failure: decoder.failure() }
}

const failed = (body: string): LlmError.LlmError => {
  const { failure, response } = play(body)
  if (failure === undefined) throw new Error("no failure")
  assert.isUndefined(response)
  return failure
}

const whole = (body: string): LlmResponse.LlmResponse => {
  const { failure, response } = play(body)
  if (response === undefined) throw new Error("no answer", { cause: failure })
  assert.isUndefined(failure)
  return response
}

describe("a streamed answer", () => {
  it("is put together from its blocks", () => {
    const response = whole(rich)
    assert.deepInclude(response, {
      id: "msg_1",
      model: "claude-x",
      text: "Größe: 「三」.",
      reasoning: "let me – see 🤔",
      finish: "tool-calls",
      finishReason: "tool_use"
    })
    const calls = [
      { type: "tool-call", id: "t1", name: "look", arguments: { x: 1 } },
      { type: "tool-call", id: "t2", name: "look", arguments: {} }
    ]
    assert.deepStrictEqual<unknown>(response.toolCalls, calls)
    const provider = "anthropic"
    assert.deepStrictEqual<unknown>(response.content, [
      { type: "reasoning", text: "let me – see 🤔", signature: "sig", provider },
      { type: "provider", provider, data: { type: "redacted_thinking", data: "xx" } },
      { type: "text", text: "Größe: 「三」" },
      { type: "provider", provider, data: serverUse },
      { type: "provider", provider, data: serverResult },
      { type: "text", text: "." },
      ...calls
    ])
  })

  it("has the last figures of each kind (complaint 5: usage wrong in streams)", () => {
    assert.deepStrictEqual(whole(rich).usage, {
      input: 22,
      output: 40,
      cachedInput: 2,
      cacheWrite: undefined,
      reasoning: undefined
    })
    const twice = start() + end("end_turn", { output_tokens: 3 }) + end("end_turn", { output_tokens: 9 }) + over
    assert.deepInclude(whole(twice).usage, { input: 12, output: 9 })
  })

  it("shows its calls while they come", () => {
    const deltas = play(start() + toolUse(0, "t1", '{"x":', "1}") + end("tool_use") + over).parts
    assert.deepStrictEqual(
      deltas.slice(0, 4).map((part) => (part.type === "tool-call-delta" ? part.text : part.type)),
      ["", '{"x":', "1}", "tool-call"]
    )
    for (const part of deltas.slice(0, 3)) assert.deepInclude(part, { index: 0, id: "t1", name: "look" })
  })

  it("is the same in any chunks, with LF, CRLF and CR, and with comments between", () => {
    const expected = whole(rich)
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(FastCheck.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 40 }),
        FastCheck.constantFrom("\n", "\r\n", "\r"),
        FastCheck.boolean(),
        (sizes, line, noisy) => {
          const body = noisy ? rich.replaceAll("\n\n", "\n\n: ping\n\nid: 1\n") : rich
          const data = bytes(body.replaceAll("\n", line))
          const chunks: Array<Uint8Array> = []
          for (let from = 0, turn = 0; from < data.length; turn++) {
            const size = sizes[turn % sizes.length] ?? 1
            chunks.push(data.slice(from, from + size))
            from += size
          }
          assert.deepStrictEqual(play(chunks).response, expected)
        }
      ),
      { numRuns: 100 }
    )
  })

  it("cut anywhere before its end is truncated, its parts a beginning (complaint 2: truncated stream reported as success)", () => {
    const expected = whole(rich)
    const data = bytes(rich)
    const last = bytes(rich.slice(0, rich.lastIndexOf("event: message_stop"))).length
    FastCheck.assert(
      FastCheck.property(FastCheck.integer({ min: 0, max: last }), (cut) => {
        const { failure, parts, response } = play([data.slice(0, cut)])
        assert.isUndefined(response)
        assert.strictEqual(failure?.reason, "StreamTruncated")
        assert.isTrue(expected.text.startsWith(failure?.partial?.text ?? "?"))
        assert.isTrue(expected.reasoning.startsWith(failure?.partial?.reasoning ?? "?"))
        const calls = failure?.partial?.toolCalls ?? []
        assert.deepStrictEqual(calls, expected.toolCalls.slice(0, calls.length))
        const content = parts.some((part) => part.type !== "finish")
        assert.strictEqual(failure?.isRetryable, !content)
      }),
      { numRuns: 300 }
    )
    const nearly = failed(rich.slice(0, rich.lastIndexOf("event: message_stop")))
    assert.deepStrictEqual(nearly.usage?.output, 40)
    assert.strictEqual(nearly.partial?.toolCalls.length, 2)
  })

  it("that breaks off is truncated too, unless it had ended", () => {
    const decoder = AnthropicMessages.makeStreamDecoder(context)
    decoder.push(bytes(start() + text(0, "a")))
    assert.isFalse(decoder.finished())
    const cause = new LlmError.LlmError({ ...context, reason: "Network", retryable: true, midStream: false })
    const broken = decoder.broken(cause)
    assert.deepInclude(broken, { reason: "StreamTruncated", retryable: false, midStream: true })
    assert.strictEqual(broken?.partial?.text, "a")
    assert.strictEqual(decoder.broken(cause), broken)
    const done = AnthropicMessages.makeStreamDecoder(context)
    done.push(bytes(rich))
    assert.isTrue(done.finished() && done.done())
    assert.isUndefined(done.broken(cause))
    assert.deepStrictEqual(done.push(bytes(rich)), [])
  })

  it("is not over when its reason to stop is told", () => {
    const decoder = AnthropicMessages.makeStreamDecoder(context)
    decoder.push(bytes(start() + end("end_turn")))
    assert.isFalse(decoder.finished())
    decoder.push(bytes(over))
    assert.isTrue(decoder.finished())
  })

  it("keeps only calls that are whole when it breaks", () => {
    const error = failed(
      start() + toolUse(0, "t1", "{}") + block(1, { type: "tool_use", id: "t2", name: "f", input: {} })
    )
    assert.deepStrictEqual(
      error.partial?.toolCalls.map(({ id }) => id),
      ["t1"]
    )
    assert.isFalse(error.isRetryable)
  })

  it("fails with the error inside it (complaint 1: mid-stream errors swallowed)", () => {
    const overloaded = event({ type: "error", error: { type: "overloaded_error", message: "Overloaded" } })
    const early = failed(start() + overloaded)
    assert.deepInclude(early, { reason: "Overloaded", status: 200, midStream: true, providerMessage: "Overloaded" })
    assert.isTrue(early.isRetryable)
    const late = failed(start() + text(0, "half ") + overloaded + text(1, "more") + over)
    assert.deepInclude(late, { reason: "Overloaded", midStream: true })
    assert.isFalse(late.isRetryable)
    assert.strictEqual(late.partial?.text, "half ")
    assert.strictEqual(late.usage?.input, 12)
    const reasons: ReadonlyArray<readonly [string, LlmError.Reason]> = [
      ["rate_limit_error", "RateLimited"],
      ["api_error", "ServerError"],
      ["an_error_of_tomorrow", "ServerError"],
      ["invalid_request_error", "InvalidRequest"],
      ["authentication_error", "Authentication"]
    ]
    for (const [type, reason] of reasons) {
      assert.strictEqual(failed(start() + event({ type: "error", error: { type, message: "m" } })).reason, reason)
    }
    // Of a gateway, without a name; and in plain words.
    assert.strictEqual(failed(`${start()}data: {"error":{"message":"upstream","code":503}}\n\n`).reason, "Overloaded")
    assert.strictEqual(failed(`${start()}event: error\ndata: out of luck\n\n`).providerMessage, "out of luck")
  })

  it("that is an error and nothing else is not one in mid-stream", () => {
    const error = failed('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert.deepInclude(error, { reason: "Overloaded", midStream: false })
  })

  it("into which another was spliced is refused; one that begins twice is not", () => {
    const half = start() + text(0, "one") + block(1, { type: "tool_use", id: "t", name: "f", input: {} })
    const spliced = failed(half + start({ id: "msg_2", usage: { input_tokens: 99 } }) + text(0, "two") + over)
    assert.strictEqual(spliced.reason, "MalformedResponse")
    assert.strictEqual(spliced.partial?.text, "one")
    assert.strictEqual(spliced.partial?.id, "msg_1")
    assert.strictEqual(spliced.usage?.input, 12)
    assert.deepStrictEqual(spliced.partial?.toolCalls, [])
    const begun = start({ content: [{ type: "text", text: "on" }] })
    assert.strictEqual(whole(begun + begun + text(0, "e") + end("end_turn") + over).text, "one")
  })

  it("has one part for each block of text or reasoning", () => {
    const think = (index: number, thinking: string, signature: string) =>
      block(index, { type: "thinking", thinking }) + delta(index, "signature_delta", { signature }) + stop(index)
    const body = start() + text(0, "a") + text(1, "b") + think(2, "c", "s1") + think(3, "", "s2") + think(4, "d", "s3")
    const provider = "anthropic"
    assert.deepStrictEqual(whole(body + end("end_turn") + over).content, [
      { type: "text", text: "a" },
      { type: "text", text: "b" },
      { type: "reasoning", text: "c", signature: "s1", provider },
      { type: "reasoning", text: "", signature: "s2", provider },
      { type: "reasoning", text: "d", signature: "s3", provider }
    ])
  })

  it("has the words of a refusal once, after what had been said", () => {
    const refusal = { stop_details: { type: "refusal", explanation: "no" } }
    const response = whole(start() + text(0, "Sure") + end("refusal", {}, refusal) + end("refusal", {}, refusal) + over)
    assert.deepInclude(response, { text: "Sure", refusal: "no", finish: "content-filter" })
  })

  it("has calls whose arguments are not JSON, or were given at once", () => {
    const cut = whole(start() + toolUse(0, "t", '{"x": "a') + end("max_tokens") + over)
    assert.deepInclude(cut.toolCalls[0], { arguments: { __invalid: '{"x": "a' }, invalid: '{"x": "a' })
    assert.strictEqual(cut.finish, "length")
    const atOnce = block(0, { type: "tool_use", id: "t", name: "f", input: { x: 1 } }) + stop(0)
    assert.deepStrictEqual(whole(start() + atOnce + end("tool_use") + over).toolCalls[0]?.arguments, { x: 1 })
    const asText = block(0, { type: "tool_use", id: "t", name: "f", input: '{"x":2}' }) + stop(0)
    assert.deepStrictEqual(whole(start() + asText + end("tool_use") + over).toolCalls[0]?.arguments, { x: 2 })
  })

  it("has its calls in the order in which they began, also where they are written side by side", () => {
    const open = (index: number, id: string) => block(index, { type: "tool_use", id, name: "look", input: {} })
    const args = (index: number) => delta(index, "input_json_delta", { partial_json: `{"x":${index}}` })
    const begun = start() + open(0, "a") + open(1, "b") + open(2, "c") + args(1) + stop(1) + args(0) + args(2)
    const ids = (calls: ReadonlyArray<LlmResponse.LlmToolCall> | undefined) => calls?.map(({ id }) => id)
    const made = whole(begun + stop(2) + stop(0) + end("tool_use") + over)
    assert.deepStrictEqual(ids(made.toolCalls), ["a", "b", "c"])
    assert.deepStrictEqual(
      made.toolCalls.map((each) => each.arguments),
      [{ x: 0 }, { x: 1 }, { x: 2 }]
    )
    // A call that is whole is kept when the stream breaks before one that began earlier is.
    const overloaded = event({ type: "error", error: { type: "overloaded_error", message: "m" } })
    for (const rest of ["", overloaded, start({ id: "msg_2" }), "data: {\n\n"]) {
      assert.deepStrictEqual(ids(failed(begun + rest).partial?.toolCalls), ["b"], rest)
    }
    // An index that is used again is another block.
    const again = begun + open(1, "d") + args(1) + stop(1) + stop(0) + stop(2) + end("tool_use") + over
    assert.deepStrictEqual(ids(whole(again).toolCalls), ["a", "b", "c", "d"])
  })

  it("says nothing after its end or its error, whatever else comes with them", () => {
    const types = (body: string) => play(body).parts.map(({ type }) => type)
    const once = start() + text(0, "a") + end("end_turn") + over
    assert.deepStrictEqual(types(once + text(0, "b") + once), ["text-delta", "finish"])
    const error = event({ type: "error", error: { type: "api_error", message: "m" } })
    assert.deepStrictEqual(types(start() + text(0, "a") + error + text(1, "b") + over), ["text-delta"])
  })

  it("keeps blocks that are not known as they grew", () => {
    const compaction =
      block(0, { type: "compaction", content: null, encrypted_content: null }) +
      delta(0, "compaction_delta", { content: "so far", encrypted_content: "ee" }) +
      stop(0)
    assert.deepStrictEqual(whole(start() + compaction + text(1, "a") + end("end_turn") + over).content, [
      {
        type: "provider",
        provider: "anthropic",
        data: { type: "compaction", content: "so far", encrypted_content: "ee" }
      },
      { type: "text", text: "a" }
    ])
  })

  it("takes a signature and a compaction as the whole of what they are, should they come twice", () => {
    const thought =
      block(0, { type: "thinking", thinking: "", signature: "sig" }) +
      delta(0, "thinking_delta", { thinking: "hm" }) +
      delta(0, "signature_delta", { signature: "sig" }) +
      stop(0)
    const compaction =
      block(1, { type: "compaction", content: "so", encrypted_content: "e" }) +
      delta(1, "compaction_delta", { content: "so far", encrypted_content: null }) +
      stop(1)
    assert.deepStrictEqual(whole(start() + thought + compaction + end("compaction") + over).content, [
      { type: "reasoning", text: "hm", signature: "sig", provider: "anthropic" },
      {
        type: "provider",
        provider: "anthropic",
        data: { type: "compaction", content: "so far", encrypted_content: null }
      }
    ])
  })

  it("may begin with blocks in its first event", () => {
    const content = [{ type: "tool_use", id: "t0", name: "f", input: { a: 1 } }]
    const body = start({ content }) + toolUse(1, "t1", "{}") + end("tool_use") + over
    for (const part of play(body).parts) if (part.type === "tool-call-delta") assert.strictEqual(part.index, 1)
    const response = whole(body)
    assert.deepStrictEqual(
      response.toolCalls.map(({ id }) => id),
      ["t0", "t1"]
    )
  })

  it("of a server that imitates the format carelessly is still read", () => {
    const careless = [
      'data: {"type":"message_start","message":{"id":"m","content":[]}}',
      'event: content_block_start\ndata: {"content_block":{"type":"text"}}',
      'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}',
      'data: {"type":"content_block_delta","index":null,"delta":{"type":"text_delta","text":null}}',
      'data: {"type":"content_block_start","index":5,"content_block":{"type":"tool_use","name":"f"}}',
      'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\\"y\\":2}"}}',
      'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}',
      "data: [DONE]",
      'data: {"type":"message_stop"}',
      "data: [DONE]"
    ].join("\n\n")
    const response = whole(`${careless}\n\n`)
    assert.deepInclude(response, { text: "a", finish: "tool-calls", usage: {} })
    assert.deepStrictEqual(response.toolCalls, [{ type: "tool-call", id: "call_0", name: "f", arguments: { y: 2 } }])
    assert.strictEqual(failed(`${start()}data: [DONE]\n\n`).reason, "StreamTruncated")
  })

  it("that came whole is read as it is, and one that is none is refused", () => {
    assert.deepInclude(whole(message([{ type: "text", text: "all" }])), { text: "all", finish: "stop" })
    assert.deepInclude(failed("<html><body>Bad gateway</body></html>"), {
      reason: "MalformedResponse",
      midStream: false
    })
    assert.strictEqual(failed(`${start()}data: {"type":\n\n`).reason, "MalformedResponse")
    assert.deepInclude(failed(""), { reason: "StreamTruncated", retryable: true })
    assert.deepInclude(failed(ping), { reason: "StreamTruncated", retryable: true })
  })
})
