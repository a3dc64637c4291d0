/** Gemini's wire format: what is sent, and what is made of answers and streams. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { GenerateContent, LlmError, type LlmRequest, LlmResponse, LlmTool, Protocol } from "@underlay/llm"
import { Duration, Either, FastCheck, Schema } from "effect"
import { fromSchema } from "../src/internal/jsonSchema.ts"

type Json = { readonly [key: string]: unknown }

const dialect = { provider: "google" }
const context = { provider: "google", model: "gemini-test", method: "stream" }

const encode = (request: LlmRequest.LlmRequest, model = "gemini-3-flash") =>
  Either.map(
    GenerateContent.encode(request, { model, stream: false, method: "generate", dialect }),
    (body) => JSON.parse(body) as Json
  )
const sent = (request: LlmRequest.LlmRequest, model?: string): Json => Either.getOrThrow(encode(request, model))
const refused = (request: LlmRequest.LlmRequest, model?: string) =>
  Either.match(encode(request, model), { onLeft: (error) => error, onRight: () => assert.fail("not refused") })
const asked = (request: Partial<LlmRequest.LlmRequest>): LlmRequest.LlmRequest => ({
  messages: [ChatMessage.user("hi")],
  ...request
})

const weather: LlmTool.LlmTool = {
  name: "weather",
  description: "The weather",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
}

const candidate = (parts: ReadonlyArray<unknown>, finishReason?: string) => ({
  candidates: [{ content: { role: "model", parts }, index: 0, ...(finishReason === undefined ? {} : { finishReason }) }]
})

const sse = (...chunks: ReadonlyArray<unknown>): string =>
  chunks.map((chunk) => `data: ${typeof chunk === "string" ? chunk : JSON.stringify(chunk)}\r\n\r\n`).join("")

const play = (body: string) => {
  const decoder = GenerateContent.makeStreamDecoder(context)
  const parts = [...decoder.push(new TextEncoder().encode(body))]
  const whole = decoder.done()
  parts.push(...decoder.end())
  return { parts, failure: decoder.failure(), response: LlmResponse.fromParts(parts), whole, decoder }
}
const answer = (...chunks: ReadonlyArray<unknown>): LlmResponse.LlmResponse => {
  const { failure, response } = play(sse(...chunks))
  assert.isUndefined(failure)
  return response ?? assert.fail("no finish")
}
const failed = (body: string) => play(body).failure ?? assert.fail("no failure")

const whole = (body: unknown) => GenerateContent.decode(typeof body === "string" ? body : JSON.stringify(body), context)

describe("a request to Gemini", () => {
  it("has its settings under the names of the API", () => {
    const body = sent({
      messages: [ChatMessage.system("be brief"), ChatMessage.user("hi"), ChatMessage.system("be kind")],
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      frequencyPenalty: 0.1,
      presencePenalty: 0.2,
      maxTokens: 100,
      stop: ["END"],
      seed: 7
    })
    assert.deepStrictEqual(body, {
      contents: [{ role: "user", parts: [{ text: "hi" }] }],
      systemInstruction: { parts: [{ text: "be brief" }, { text: "be kind" }] },
      generationConfig: {
        temperature: 0.5,
        topP: 0.9,
        topK: 40,
        frequencyPenalty: 0.1,
        presencePenalty: 0.2,
        maxOutputTokens: 100,
        stopSequences: ["END"],
        seed: 7
      }
    })
    assert.deepStrictEqual(sent(asked({ stop: [], tools: [] })), {
      contents: [{ role: "user", parts: [{ text: "hi" }] }]
    })
  })

  it("has user and model take turns", () => {
    const body = sent({
      messages: [
        ChatMessage.user("one"),
        ChatMessage.user("two"),
        ChatMessage.assistant("three"),
        ChatMessage.assistant(""),
        ChatMessage.user("four"),
        { role: "assistant", content: [] },
        ChatMessage.user("five")
      ]
    })
    assert.deepStrictEqual(body["contents"], [
      { role: "user", parts: [{ text: "one" }, { text: "two" }] },
      { role: "model", parts: [{ text: "three" }] },
      { role: "user", parts: [{ text: "four" }, { text: "five" }] }
    ])
  })

  it("is refused when nobody says anything in it, with words on what to change", () => {
    const error = refused({ messages: [ChatMessage.system("the private instruction")] })
    assert.strictEqual(error.reason, "InvalidRequest")
    assert.isFalse(error.isRetryable)
    assert.include(error.message, "add a message")
    assert.notInclude(error.message, "private")
  })

  it("puts instructions into the user's turn for Gemma up to 3, which has no place for them", () => {
    const request = { messages: [ChatMessage.system("be brief"), ChatMessage.user("hi")] }
    assert.deepStrictEqual(sent(request, "gemma-3-27b-it"), {
      contents: [{ role: "user", parts: [{ text: "be brief" }, { text: "hi" }] }]
    })
    assert.property(sent(request, "gemma-4-26b-a4b-it"), "systemInstruction")
  })

  it("carries files by their bytes, as data URLs and by URL", () => {
    const file = (mediaType: string, source: ChatMessage.FilePart["source"]): ChatMessage.FilePart => ({
      type: "file",
      mediaType,
      source
    })
    const bytes = { type: "bytes", bytes: new Uint8Array([1, 2, 3]) } as const
    const body = sent({
      messages: [
        {
          role: "user",
          content: [
            file("image/png", bytes),
            file("text/csv; charset=utf-8", bytes),
            file("application/json", bytes),
            file("image/*", { type: "url", url: "data:image/webp;base64,AQID" }),
            file("application/pdf", { type: "url", url: "https://example.com/a.pdf" })
          ]
        }
      ]
    })
    assert.deepStrictEqual(body["contents"], [
      {
        role: "user",
        parts: [
          { inlineData: { mimeType: "image/png", data: "AQID" } },
          { inlineData: { mimeType: "text/csv", data: "AQID" } },
          { inlineData: { mimeType: "text/plain", data: "AQID" } },
          { inlineData: { mimeType: "image/webp", data: "AQID" } },
          { fileData: { mimeType: "application/pdf", fileUri: "https://example.com/a.pdf" } }
        ]
      }
    ])
  })

  it("says which tools may and must be called", () => {
    const tools = [weather]
    const config = (request: Partial<LlmRequest.LlmRequest>, model?: string) =>
      sent(asked({ tools, ...request }), model)["toolConfig"]
    assert.deepStrictEqual(sent(asked({ tools }))["tools"], [
      {
        functionDeclarations: [
          {
            name: "weather",
            description: "The weather",
            parametersJsonSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
          }
        ]
      }
    ])
    assert.isUndefined(config({}))
    assert.deepStrictEqual(config({ toolChoice: "auto" }), { functionCallingConfig: { mode: "AUTO" } })
    assert.deepStrictEqual(config({ toolChoice: "none" }), { functionCallingConfig: { mode: "NONE" } })
    assert.deepStrictEqual(config({ toolChoice: "required" }), { functionCallingConfig: { mode: "ANY" } })
    assert.deepStrictEqual(config({ toolChoice: { name: "weather" } }), {
      functionCallingConfig: { mode: "ANY", allowedFunctionNames: ["weather"] }
    })
    const strict = [{ ...weather, strict: true }]
    assert.deepStrictEqual(config({ tools: strict }), { functionCallingConfig: { mode: "VALIDATED" } })
    assert.isUndefined(config({ tools: [...strict, weather] }))
    assert.isUndefined(config({ tools: strict }, "gemini-2.0-flash"))
  })

  it("has results of tools as objects, whatever they are (complaint 15: primitive tool results rejected)", () => {
    const response = (result: unknown, isError?: boolean) => {
      const body = sent({
        messages: [
          ChatMessage.user("hi"),
          { role: "assistant", content: [{ type: "tool-call", id: "c1", name: "weather", arguments: {} }] },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "c1", name: "weather", result, ...(isError === undefined ? {} : { isError }) }
            ]
          }
        ]
      })
      const contents = body["contents"] as ReadonlyArray<{ readonly role: string; readonly parts: ReadonlyArray<Json> }>
      const [part] = contents[2]?.parts ?? []
      assert.strictEqual(contents[2]?.role, "user")
      const sentBack = part?.["functionResponse"] as Json
      assert.strictEqual(sentBack["id"], "c1")
      assert.strictEqual(sentBack["name"], "weather")
      return sentBack["response"]
    }
    assert.deepStrictEqual(response({ degrees: 20 }), { degrees: 20 })
    assert.deepStrictEqual(response("sunny"), { output: "sunny" })
    assert.deepStrictEqual(response(20), { output: 20 })
    assert.deepStrictEqual(response([1, 2]), { output: [1, 2] })
    assert.deepStrictEqual(response(null), { output: null })
    assert.deepStrictEqual(response(undefined), { output: null })
    assert.deepStrictEqual(response(new Date(0)), { output: "1970-01-01T00:00:00.000Z" })
    assert.deepStrictEqual(response({ error: "is a field here" }), { output: { error: "is a field here" } })
    assert.deepStrictEqual(response("no such city", true), { error: "no such city" })
    assert.deepStrictEqual(response(new Error("no such city"), true), { error: "no such city" })
    assert.deepStrictEqual(response({ code: 5 }, true), { error: { code: 5 } })
  })

  it("keeps the results of parallel calls in one turn, directly after the calls", () => {
    const call = (id: string) => ({ type: "tool-call", id, name: "weather", arguments: { city: id } }) as const
    const result = (id: string) => ({ type: "tool-result", id, name: "weather", result: id }) as const
    const body = sent(
      {
        messages: [
          ChatMessage.user("hi"),
          { role: "assistant", content: [call("a"), call("b")] },
          { role: "tool", content: [result("a")] },
          { role: "tool", content: [result("b")] }
        ]
      },
      "gemini-2.5-flash"
    )
    assert.deepStrictEqual(body["contents"], [
      { role: "user", parts: [{ text: "hi" }] },
      {
        role: "model",
        parts: [
          { functionCall: { id: "a", name: "weather", args: { city: "a" } } },
          { functionCall: { id: "b", name: "weather", args: { city: "b" } } }
        ]
      },
      {
        role: "user",
        parts: [
          { functionResponse: { id: "a", name: "weather", response: { output: "a" } } },
          { functionResponse: { id: "b", name: "weather", response: { output: "b" } } }
        ]
      }
    ])
  })

  it("has the results before what the user says with them, which must not come between calls and results", () => {
    const call = { type: "tool-call", id: "a", name: "weather", arguments: {} } as const
    const body = sent(
      {
        messages: [
          { role: "assistant", content: [call] },
          ChatMessage.user("and hurry"),
          { role: "tool", content: [{ type: "tool-result", id: "a", name: "weather", result: "dry" }] }
        ]
      },
      "gemini-2.5-flash"
    )
    const [, turn] = body["contents"] as ReadonlyArray<Json>
    assert.deepStrictEqual(turn, {
      role: "user",
      parts: [{ functionResponse: { id: "a", name: "weather", response: { output: "dry" } } }, { text: "and hurry" }]
    })
  })

  it("says that a tool's arguments are an object, also where its schema does not", () => {
    const body = sent(asked({ tools: [{ name: "f", parameters: {} }] }))
    assert.deepStrictEqual(body["tools"], [
      { functionDeclarations: [{ name: "f", parametersJsonSchema: { type: "object" } }] }
    ])
  })

  it("refuses a result that is not JSON without quoting it", () => {
    const error = refused({
      messages: [
        ChatMessage.user("hi"),
        { role: "tool", content: [{ type: "tool-result", id: "a", name: "weather", result: { private: 1n } }] }
      ]
    })
    assert.strictEqual(error.reason, "InvalidRequest")
    assert.notInclude(error.message, "private")
  })

  it("sends signatures back to Google only, on the part they came with (complaint 13)", () => {
    const message = (provider: string): ChatMessage.ChatMessage => ({
      role: "assistant",
      content: [
        { type: "reasoning", text: "thinking", signature: "s0", provider },
        { type: "text", text: "one" },
        { type: "text", text: "", signature: "s1", provider },
        { type: "tool-call", id: "c1", name: "weather", arguments: {}, signature: "s2", provider },
        { type: "tool-call", id: "c2", name: "weather", arguments: [1] },
        { type: "provider", provider, data: { executableCode: { code: "1" }, thoughtSignature: "s3" } }
      ]
    })
    const parts = (provider: string, model?: string) => {
      const body = sent({ messages: [ChatMessage.user("hi"), message(provider)] }, model)
      return (body["contents"] as ReadonlyArray<{ readonly parts: unknown }>)[1]?.parts
    }
    const calls = [
      { functionCall: { id: "c1", name: "weather", args: {} }, thoughtSignature: "s2" },
      { functionCall: { id: "c2", name: "weather", args: { value: [1] } } }
    ]
    assert.deepStrictEqual(parts("google"), [
      { text: "thinking", thought: true, thoughtSignature: "s0" },
      { text: "one" },
      { text: "", thoughtSignature: "s1" },
      ...calls,
      { executableCode: { code: "1" }, thoughtSignature: "s3" }
    ])
    // Gemini 3 wants one on the first call of a step, be it only the word for "there is none".
    const others = [{ ...calls[0], thoughtSignature: "skip_thought_signature_validator" }, calls[1]]
    assert.deepStrictEqual(parts("anthropic"), [{ text: "one" }, ...others])
    assert.deepStrictEqual(parts("anthropic", "gemini-flash-latest"), [{ text: "one" }, ...others])
    for (const model of ["gemini-2.5-pro", "models/gemini-2.0-flash", "gemma-4-26b"]) {
      assert.notInclude(JSON.stringify(parts("anthropic", model)), "thoughtSignature", model)
    }
  })

  it("says how long to think as a level from Gemini 3 on and as a budget before, never both", () => {
    const thinking = (reasoningEffort: string, model: string) =>
      (sent(asked({ reasoningEffort }), model)["generationConfig"] as Json)["thinkingConfig"]
    const level = (thinkingLevel: string, includeThoughts = true) => ({ includeThoughts, thinkingLevel })
    const budget = (thinkingBudget: number, includeThoughts = true) => ({ includeThoughts, thinkingBudget })
    // Each model takes some of the levels only, and refuses a request that names another.
    const levels: ReadonlyArray<readonly [string, readonly [string, string, string, string]]> = [
      ["gemini-3-flash-preview", ["minimal", "minimal", "low", "medium"]],
      ["gemini-3.6-flash", ["minimal", "minimal", "low", "medium"]],
      ["gemini-3.7-flash", ["low", "low", "low", "medium"]],
      ["gemini-3.1-flash-lite", ["minimal", "minimal", "low", "medium"]],
      ["models/gemini-3-pro-preview", ["low", "low", "low", "high"]],
      ["gemini-3.1-pro-preview", ["low", "low", "low", "medium"]],
      ["gemini-3.1-flash-image-preview", ["minimal", "minimal", "high", "high"]],
      ["gemini-3-pro-image-preview", ["low", "low", "low", "high"]],
      ["gemini-flash-latest", ["low", "low", "low", "medium"]],
      ["gemini-25-pro", ["low", "low", "low", "medium"]],
      ["gemma-4-31b-it", ["minimal", "minimal", "low", "medium"]]
    ]
    for (const [model, [none, minimal, low, medium]] of levels) {
      assert.deepStrictEqual(thinking("none", model), level(none, false), model)
      assert.deepStrictEqual(thinking("minimal", model), level(minimal), model)
      assert.deepStrictEqual(thinking("low", model), level(low), model)
      assert.deepStrictEqual(thinking("medium", model), level(medium), model)
      assert.deepStrictEqual(thinking("HIGH", model), level("high"), model)
      assert.deepStrictEqual(thinking("xhigh", model), level("high"), model)
      assert.deepStrictEqual(thinking("a level of tomorrow", model), level("a level of tomorrow"), model)
    }
    // These do not think, and refuse to be asked.
    for (const model of ["gemini-2.0-flash", "gemini-1.5-pro-002"]) {
      for (const effort of ["none", "high"]) {
        assert.notProperty(sent(asked({ reasoningEffort: effort }), model), "generationConfig", model)
      }
    }
    for (const model of ["gemini-2.5-flash", "models/gemini-2.5-flash-lite"]) {
      assert.deepStrictEqual(thinking("none", model), budget(0, false), model)
      assert.deepStrictEqual(thinking("minimal", model), budget(1024), model)
      assert.deepStrictEqual(thinking("low", model), budget(1024), model)
      assert.deepStrictEqual(thinking("medium", model), budget(8192), model)
      assert.deepStrictEqual(thinking("high", model), budget(24_576), model)
      assert.deepStrictEqual(thinking("max", model), budget(24_576), model)
    }
    assert.deepStrictEqual(thinking("none", "gemini-2.5-pro"), budget(128, false))
    assert.deepStrictEqual(thinking("max", "gemini-2.5-pro"), budget(32_768))
    assert.include(refused(asked({ reasoningEffort: "somewhat" }), "gemini-2.5-pro").message, "use none, minimal")
    const own = sent(
      asked({
        reasoningEffort: "low",
        providerOptions: { google: { generationConfig: { thinkingConfig: { thinkingBudget: 5 } } } }
      })
    )
    assert.deepStrictEqual(own["generationConfig"], { thinkingConfig: { thinkingBudget: 5 } })
  })

  it("asks for JSON, with a schema if there is one", () => {
    const schema = { type: "object", properties: { a: { const: "x" } }, $schema: "http://json-schema.org/draft-07" }
    const config = (responseFormat: NonNullable<LlmRequest.LlmRequest["responseFormat"]>) =>
      sent(asked({ responseFormat }))["generationConfig"]
    assert.isUndefined(config({ type: "text" }))
    assert.deepStrictEqual(config({ type: "json" }), { responseMimeType: "application/json" })
    assert.deepStrictEqual(config({ type: "json-schema", name: "a", description: "an a", schema }), {
      responseMimeType: "application/json",
      responseJsonSchema: {
        type: "object",
        description: "an a",
        properties: { a: { type: "string", enum: ["x"] } }
      }
    })
  })

  it("takes fields of Google's own into itself, and leaves out those of others", () => {
    const body = sent(
      asked({
        temperature: 1,
        tools: [weather],
        toolChoice: "auto",
        providerOptions: {
          google: {
            cachedContent: "cachedContents/1",
            safetySettings: [{ category: "HARM_CATEGORY_HARASSMENT", threshold: "BLOCK_NONE" }],
            generationConfig: { temperature: 2, mediaResolution: "MEDIA_RESOLUTION_LOW" },
            tools: [{ googleSearch: {} }],
            toolConfig: { functionCallingConfig: { streamFunctionCallArguments: true } },
            labels: undefined
          },
          openai: { store: true }
        }
      })
    )
    assert.strictEqual(body["cachedContent"], "cachedContents/1")
    assert.deepStrictEqual(body["generationConfig"], { temperature: 2, mediaResolution: "MEDIA_RESOLUTION_LOW" })
    assert.lengthOf(body["tools"] as ReadonlyArray<unknown>, 2)
    assert.deepStrictEqual(body["toolConfig"], {
      functionCallingConfig: { mode: "AUTO", streamFunctionCallArguments: true }
    })
    assert.notProperty(body, "labels")
    assert.notProperty(body, "store")
  })

  it("asks for a count of everything that costs tokens", () => {
    const body = GenerateContent.encodeCountTokens(
      asked({ messages: [ChatMessage.system("s"), ChatMessage.user("hi")], tools: [weather] }),
      { model: "gemini-3-flash", dialect }
    )
    const counted = JSON.parse(Either.getOrThrow(body)) as { readonly generateContentRequest: Json }
    assert.strictEqual(counted.generateContentRequest["model"], "models/gemini-3-flash")
    assert.sameMembers(Object.keys(counted.generateContentRequest), ["model", "contents", "systemInstruction", "tools"])
    const place = { ...context, method: "countTokens" }
    assert.deepStrictEqual(GenerateContent.decodeCountTokens(`{"totalTokens": 31}`, place), Either.right(31))
    const reason = (text: string) =>
      Either.match(GenerateContent.decodeCountTokens(text, place), { onLeft: (e) => e.reason, onRight: () => "none" })
    assert.strictEqual(reason("{}"), "MalformedResponse")
    assert.strictEqual(reason("<html>"), "MalformedResponse")
    assert.strictEqual(reason(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"no"}}`), "PermissionDenied")
  })

  it("asks Agent Platform for a count in the form that it takes", () => {
    const body = GenerateContent.encodeCountTokens(
      asked({ tools: [weather], toolChoice: "required", messages: [ChatMessage.system("s"), ChatMessage.user("hi")] }),
      { model: "gemini-3-flash", dialect: { ...dialect, agentPlatform: true } }
    )
    const fields = Object.keys(JSON.parse(Either.getOrThrow(body)) as Json)
    assert.deepStrictEqual(fields.sort(), ["contents", "systemInstruction", "tools"])
  })

  it("names models by their collection", () => {
    assert.strictEqual(GenerateContent.modelPath("gemini-3-flash"), "models/gemini-3-flash")
    assert.strictEqual(GenerateContent.modelPath("models/gemini-3-flash"), "models/gemini-3-flash")
    assert.strictEqual(GenerateContent.modelPath("tunedModels/mine"), "tunedModels/mine")
    assert.strictEqual(GenerateContent.modelPath("a?key=b#c"), "models/a%3Fkey%3Db%23c")
  })
})

/** The keywords that the reference names for JSON Schemas, and the one that is Gemini's own. */
const keywords = new Set([
  ..."$id $defs $ref $anchor type format title description enum items prefixItems minItems maxItems minimum".split(" "),
  ..."maximum anyOf oneOf properties additionalProperties required propertyOrdering".split(" ")
])

describe("a schema for Gemini", () => {
  const parametersOf = (parameters: Json): Json => {
    const body = sent(asked({ tools: [{ name: "f", parameters }] }))
    const [tool] = body["tools"] as ReadonlyArray<{ readonly functionDeclarations: ReadonlyArray<Json> }>
    return tool?.functionDeclarations[0]?.["parametersJsonSchema"] as Json
  }
  const property = (schema: Json): unknown =>
    (parametersOf({ type: "object", properties: { title: schema } })["properties"] as Json)["title"]

  const unknownKeywords = (schema: unknown): ReadonlyArray<string> => {
    if (Array.isArray(schema)) return schema.flatMap(unknownKeywords)
    if (typeof schema !== "object" || schema === null) return []
    return Object.entries(schema).flatMap(([key, value]) => {
      if (!keywords.has(key)) return [key]
      if (key === "properties" || key === "$defs") return Object.values(value as Json).flatMap(unknownKeywords)
      return ["items", "prefixItems", "anyOf", "additionalProperties"].includes(key) ? unknownKeywords(value) : []
    })
  }

  it("says in Gemini's keywords what can be said in them", () => {
    assert.deepStrictEqual(property({ const: 1 }), { type: "integer", enum: [1] })
    assert.deepStrictEqual(property({ type: "number", enum: [1, 2] }), { type: "number", enum: [1, 2] })
    assert.deepStrictEqual(property({ enum: ["a", null, true] }), {
      anyOf: [{ type: "string", enum: ["a"] }, { type: "boolean" }, { type: "null" }]
    })
    assert.deepStrictEqual(property({ type: "integer", exclusiveMinimum: 0, exclusiveMaximum: 10 }), {
      type: "integer",
      minimum: 1,
      maximum: 9
    })
    assert.deepStrictEqual(property({ type: "number", exclusiveMinimum: 0.5 }), { type: "number", minimum: 0.5 })
    assert.deepStrictEqual(property({ type: "string", nullable: true }), { type: ["string", "null"] })
    assert.deepStrictEqual(property({ anyOf: [{ type: "string" }], nullable: true }), {
      anyOf: [{ type: "string" }, { type: "null" }]
    })
    assert.deepStrictEqual(property({ type: "string", enum: ["a"], nullable: true }), {
      type: ["string", "null"],
      enum: ["a"]
    })
    assert.deepStrictEqual(property({ type: "string", format: "uuid", description: "an id" }), {
      type: "string",
      description: "an id (format: uuid)"
    })
    assert.deepStrictEqual(property({ type: "string", format: "date-time" }), { type: "string", format: "date-time" })
    assert.deepStrictEqual(property({ oneOf: [{ type: "string" }, { type: "number" }] }), {
      anyOf: [{ type: "string" }, { type: "number" }]
    })
    assert.deepStrictEqual(
      property({ type: "array", items: [{ type: "string" }, { type: "number" }], additionalItems: false, minItems: 2 }),
      { type: "array", prefixItems: [{ type: "string" }, { type: "number" }], minItems: 2, maxItems: 2 }
    )
    assert.deepStrictEqual(
      property({
        allOf: [
          { type: "number", minimum: 1 },
          { maximum: 3, minimum: 2 }
        ]
      }),
      {
        type: "number",
        minimum: 2,
        maximum: 3
      }
    )
    assert.deepStrictEqual(property({ not: { type: "string" }, pattern: "a", "x-mine": 1 }), {})
  })

  it("has references by `$defs` with nothing beside them, and its root written out", () => {
    assert.deepStrictEqual(
      parametersOf({ $ref: "#/definitions/A", definitions: { A: { type: "object", properties: {}, examples: [1] } } }),
      { type: "object", properties: {}, $defs: { A: { type: "object", properties: {} } } }
    )
    assert.deepStrictEqual(property({ $ref: "#/definitions/A", description: "an A", default: 1 }), {
      $ref: "#/$defs/A"
    })
    assert.deepStrictEqual(property({ allOf: [{ $ref: "#/$defs/A" }], description: "an A" }), { $ref: "#/$defs/A" })
  })

  it("does not require what refers to itself, which Gemini would refuse, but says that it must be there", () => {
    interface Category {
      readonly name: string
      readonly parts: ReadonlyArray<Category>
    }
    const Category: Schema.Schema<Category> = Schema.Struct({
      name: Schema.String,
      parts: Schema.Array(Schema.suspend(() => Category))
    }).annotations({ identifier: "Category" })
    const schema = parametersOf(fromSchema(Schema.Struct({ root: Category, other: Schema.String })))
    const { Category: definition } = schema["$defs"] as { readonly Category: Json }
    assert.deepStrictEqual(definition["required"], ["name"])
    assert.strictEqual(definition["description"], "Always give `parts`.")
    assert.deepStrictEqual(schema["required"], ["root", "other"])
    const root = parametersOf({
      type: "object",
      properties: { next: { $ref: "#" }, name: { type: "string" } },
      required: ["next", "name"]
    })
    assert.deepStrictEqual(root["required"], ["name"])
  })

  it("knows that a name which is escaped in a reference is the name of a definition", () => {
    interface Tree {
      readonly kids: ReadonlyArray<Tree>
    }
    const Tree: Schema.Schema<Tree> = Schema.Struct({
      kids: Schema.Array(Schema.suspend((): Schema.Schema<Tree> => Tree))
    }).annotations({ identifier: "a/Tree~x" })
    const definitions = parametersOf(fromSchema(Tree))["$defs"] as { readonly [name: string]: Json }
    assert.deepStrictEqual(definitions["a/Tree~x"]?.["required"], [])
    assert.include(definitions["a/Tree~x"]?.["description"], "Always give `kids`")
  })

  it("of hundreds of definitions that all lead to each other is put into words in no time", () => {
    const definitions = Array.from({ length: 300 }, (_, at): [string, Json] => {
      const names = Array.from({ length: 10 }, (_, index) => `p${index}`)
      const properties = Object.fromEntries(
        names.map((name, index) => [name, { $ref: `#/$defs/d${(at * 7 + index * 13) % 300}` }])
      )
      return [`d${at}`, { type: "object", properties, required: names }]
    })
    const schema = parametersOf({ type: "object", $defs: Object.fromEntries(definitions) })
    for (const each of Object.values(schema["$defs"] as Json)) assert.deepStrictEqual((each as Json)["required"], [])
  })

  it("of Effect's has no keyword that Gemini does not name", () => {
    class Person extends Schema.Class<Person>("Person")({
      name: Schema.NonEmptyString,
      age: Schema.Int.pipe(Schema.positive()),
      role: Schema.Literal("a", 1, null, true),
      pair: Schema.Tuple(Schema.String, Schema.Number),
      at: Schema.DateFromString,
      any: Schema.Unknown,
      maybe: Schema.optional(Schema.NullOr(Schema.String)),
      counts: Schema.Record({ key: Schema.String, value: Schema.Number }),
      id: Schema.UUID,
      share: Schema.Number.pipe(Schema.greaterThan(0), Schema.multipleOf(0.5)),
      word: Schema.Trim.pipe(Schema.maxLength(4)),
      more: Schema.Record({ key: Schema.TemplateLiteral("x-", Schema.String), value: Schema.Object })
    }) {}
    const schema = parametersOf(LlmTool.make("f", { parameters: Person }).parameters)
    assert.deepStrictEqual(unknownKeywords(schema), [])
    assert.include(Object.keys(schema["properties"] as Json), "role")
    FastCheck.assert(
      FastCheck.property(
        FastCheck.object({ key: FastCheck.constantFrom(...keywords, "const", "allOf", "not", "x"), maxDepth: 4 }),
        (each) => {
          assert.deepStrictEqual(unknownKeywords(parametersOf(each as Json)), [])
        }
      )
    )
  })
})

describe("a whole answer of Gemini", () => {
  it("keeps parts that only Gemini understands, in their order", () => {
    const code = { executableCode: { language: "PYTHON", code: "1" }, thoughtSignature: "s" }
    const result = { codeExecutionResult: { outcome: "OUTCOME_OK", output: "1" } }
    const image = { inlineData: { mimeType: "image/png", data: "AQID" } }
    const response = Either.getOrThrow(
      whole(candidate([{ text: "before" }, code, result, { text: "after" }, image, { tomorrow: 1 }, {}], "STOP"))
    )
    assert.strictEqual(response.text, "beforeafter")
    assert.strictEqual(response.finish, "stop")
    const provider = (data: unknown) => ({ type: "provider", provider: "google", data })
    assert.deepStrictEqual<unknown>(response.content, [
      { type: "text", text: "before" },
      provider(code),
      provider(result),
      { type: "text", text: "after" },
      provider(image),
      provider({ tomorrow: 1 })
    ])
  })

  it("that was blocked is an answer without content, not an error", () => {
    const response = Either.getOrThrow(
      whole({
        promptFeedback: { blockReason: "OTHER" },
        usageMetadata: { promptTokenCount: 9, totalTokenCount: 9 },
        modelVersion: "m"
      })
    )
    assert.strictEqual(response.finish, "content-filter")
    assert.strictEqual(response.finishReason, "OTHER")
    assert.strictEqual(response.text, "")
    assert.strictEqual(response.usage.input, 9)
    assert.isUndefined(response.usage.output)
    const empty = whole({ promptFeedback: { safetyRatings: [] } })
    assert.strictEqual(Either.getOrThrow(Either.flip(empty)).reason, "MalformedResponse")
  })

  it("finishes as its reason says", () => {
    const finish = (reason: string, parts: ReadonlyArray<unknown> = [{ text: "a" }]) =>
      Either.getOrThrow(whole(candidate(parts, reason))).finish
    assert.strictEqual(finish("STOP"), "stop")
    assert.strictEqual(finish("STOP", [{ functionCall: { name: "f" } }]), "tool-calls")
    assert.strictEqual(finish("MAX_TOKENS", [{ functionCall: { name: "f" } }]), "length")
    for (const reason of ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"]) {
      assert.strictEqual(finish(reason), "content-filter")
    }
    for (const reason of ["LANGUAGE", "MALFORMED_FUNCTION_CALL", "NOT_YET_INVENTED", "FINISH_REASON_UNSPECIFIED"]) {
      assert.strictEqual(finish(reason), "other")
    }
  })

  it("counts thoughts into the output and once only", () => {
    const usage = (usageMetadata: Json) => Either.getOrThrow(whole({ ...candidate([], "STOP"), usageMetadata })).usage
    assert.deepStrictEqual(
      usage({
        promptTokenCount: 10,
        candidatesTokenCount: 3,
        thoughtsTokenCount: 4,
        cachedContentTokenCount: 8,
        totalTokenCount: 17
      }),
      { input: 10, output: 7, cachedInput: 8, reasoning: 4 }
    )
    assert.strictEqual(usage({ promptTokenCount: 10, thoughtsTokenCount: 4 }).output, 4)
    assert.deepStrictEqual(usage({ trafficType: "ON_DEMAND" }), {})
  })

  it("of the first candidate is decoded, the others are left", () => {
    const body = {
      candidates: [
        { index: 1, content: { parts: [{ text: "second" }] }, finishReason: "STOP" },
        { content: { parts: [{ text: "first" }] }, finishReason: "STOP" }
      ]
    }
    assert.strictEqual(Either.getOrThrow(whole(body)).text, "first")
  })

  it("makes ids where there are none, which do not repeat in a conversation", () => {
    const calls = (responseId: string) =>
      Either.getOrThrow(
        whole({ ...candidate([{ functionCall: { name: "f" } }, { functionCall: { name: "f" } }], "STOP"), responseId })
      ).toolCalls.map((call) => call.id)
    const ids = [...calls("first"), ...calls("second")]
    assert.strictEqual(new Set(ids).size, 4)
    for (const id of ids) assert.match(id, /^[\w-]{1,64}$/)
  })

  it("with arguments that came as text is read all the same", () => {
    const [good, bad] = Either.getOrThrow(
      whole(
        candidate([{ functionCall: { name: "f", args: `{"a":1}` } }, { functionCall: { name: "f", args: "{oops" } }])
      )
    ).toolCalls
    assert.deepStrictEqual(good?.arguments, { a: 1 })
    assert.deepStrictEqual(bad?.arguments, { __invalid: "{oops" })
    assert.strictEqual(bad?.invalid, "{oops")
  })

  it("that is an error inside HTTP 200 is that error, and that is nothing known is malformed", () => {
    const reason = (body: unknown) => Either.getOrThrow(Either.flip(whole(body))).reason
    const error = { code: 503, message: "The model is overloaded.", status: "UNAVAILABLE" }
    assert.strictEqual(reason({ error }), "Overloaded")
    assert.strictEqual(reason([{ error }]), "Overloaded")
    for (const body of ["", "<html>", "null", "[]", "{}", "3", `{"candidates":[]}`, `{"candidates":[{}]}`]) {
      assert.strictEqual(reason(body), "MalformedResponse", body)
    }
  })

  it("that came as the pieces of a stream is put together", () => {
    const response = Either.getOrThrow(whole([candidate([{ text: "a" }]), candidate([{ text: "b" }], "STOP")]))
    assert.strictEqual(response.text, "ab")
    assert.strictEqual(response.finish, "stop")
  })

  it("decodes any JSON without a defect", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.jsonValue(), FastCheck.jsonValue(), (part, call) => {
        whole(part)
        const parts = [part, { functionCall: call }, { text: part, thoughtSignature: call }]
        const response = whole(candidate([...parts, { functionCall: { name: "f", args: part, partialArgs: call } }]))
        assert.isTrue(Either.isRight(response))
        play(sse(part, candidate(parts), candidate([], "STOP")))
      })
    )
  })
})

describe("a streamed answer of Gemini", () => {
  it("takes the last usage, and does not add it up (complaint 5)", () => {
    const chunk = (text: string, tokens: number, reason?: string) => ({
      ...candidate([{ text }], reason),
      usageMetadata: { promptTokenCount: 5, candidatesTokenCount: tokens }
    })
    const response = answer(chunk("a", 1), chunk("b", 2), chunk("c", 3, "STOP"))
    assert.deepStrictEqual(response.usage, { input: 5, output: 3, cachedInput: undefined, reasoning: undefined })
  })

  it("that says STOP with every piece goes on until its end", () => {
    const { decoder, response } = play(sse(candidate([{ text: "a" }], "STOP"), candidate([{ text: "b" }], "STOP")))
    assert.strictEqual(response?.text, "ab")
    // So that nobody stops waiting for more.
    assert.isFalse(decoder.finished())
  })

  it("keeps each signature with its own part", () => {
    const response = answer(
      candidate([{ text: "thinking ", thought: true }]),
      candidate([{ text: "more", thought: true, thoughtSignature: "t" }]),
      candidate([{ text: "Hel" }]),
      candidate([{ text: "lo" }]),
      candidate([{ text: " signed", thoughtSignature: "s1" }]),
      candidate([{ thoughtSignature: "s2" }], "STOP")
    )
    const own = { provider: "google" }
    assert.deepStrictEqual<unknown>(response.content, [
      { type: "reasoning", text: "thinking " },
      { type: "reasoning", text: "more", signature: "t", ...own },
      { type: "text", text: "Hello" },
      { type: "text", text: " signed", signature: "s1", ...own },
      { type: "text", text: "", signature: "s2", ...own }
    ])
    assert.strictEqual(response.reasoning, "thinking more")
    assert.strictEqual(response.text, "Hello signed")
  })

  const call = (functionCall: Json, rest: Json = {}) => candidate([{ functionCall, ...rest }])
  const piece = (jsonPath: string, value: Json, willContinue?: boolean) => ({
    jsonPath,
    ...value,
    ...(willContinue === undefined ? {} : { willContinue })
  })

  it("fills the arguments of a call by their paths (complaint 9)", () => {
    const response = answer(
      call({ name: "cook", willContinue: true }, { thoughtSignature: "s" }),
      call({ partialArgs: [piece("$.recipe.steps[0].text", { stringValue: "st" }, true)], willContinue: true }),
      call({ partialArgs: [piece("$.recipe.steps[0].text", { stringValue: "ir" }, true)], willContinue: true }),
      call({ partialArgs: [piece("$.recipe.steps[0].text", { stringValue: "" })], willContinue: true }),
      call({ willContinue: true }),
      call({
        partialArgs: [
          piece("$.recipe.steps[1].text", { stringValue: "bake" }),
          piece("$.recipe['a name'].x", { numberValue: 0 }),
          piece(`$["quoted\\"name"]`, { boolValue: false }),
          piece("$.nothing", { nullValue: null }),
          piece("$.matrix[0][1]", { numberValue: 7 }),
          piece("$.__proto__.polluted", { boolValue: true }),
          piece("not a path[", { stringValue: "x" }),
          piece("$.none", {}),
          "junk"
        ],
        willContinue: true
      }),
      call({ partialArgs: [piece("$.last", { numberValue: 2 })] }),
      call({}),
      candidate([{ text: "" }], "STOP")
    )
    assert.lengthOf(response.toolCalls, 1)
    const [made] = response.toolCalls
    assert.strictEqual(made?.name, "cook")
    assert.strictEqual(made?.signature, "s")
    const expected = JSON.parse(
      `{"recipe":{"steps":[{"text":"stir"},{"text":"bake"}],"a name":{"x":0}},"quoted\\"name":false,"nothing":null,` +
        `"matrix":[[null,7]],"__proto__":{"polluted":true},"last":2}`
    ) as unknown
    assert.strictEqual(JSON.stringify(made?.arguments), JSON.stringify(expected))
    assert.notProperty({}, "polluted")
    assert.strictEqual(response.finish, "tool-calls")
  })

  it("fills any arguments by their paths, in whatever pieces they come (complaint 9)", () => {
    const scalar = (value: unknown): Json =>
      typeof value === "string"
        ? { stringValue: value }
        : typeof value === "number"
          ? { numberValue: value }
          : typeof value === "boolean"
            ? { boolValue: value }
            : { nullValue: "NULL_VALUE" }
    const piecesOf = (value: unknown, path: string): ReadonlyArray<Json> => {
      if (Array.isArray(value)) return value.flatMap((each, index) => piecesOf(each, `${path}[${index}]`))
      if (typeof value === "object" && value !== null) {
        return Object.entries(value).flatMap(([name, each]) => piecesOf(each, `${path}[${JSON.stringify(name)}]`))
      }
      if (typeof value !== "string") return [piece(path, scalar(value))]
      const half = Math.floor(value.length / 2)
      return [
        piece(path, { stringValue: value.slice(0, half) }, true),
        piece(path, { stringValue: value.slice(half) }, true),
        piece(path, { stringValue: "" })
      ]
    }
    // What has nothing in it has no path of its own.
    const leaves = FastCheck.oneof(
      FastCheck.string(),
      FastCheck.integer(),
      FastCheck.boolean(),
      FastCheck.constant(null)
    )
    const { tree } = FastCheck.letrec((tie) => ({
      tree: FastCheck.oneof({ depthSize: "small" }, leaves, tie("list"), tie("record")),
      list: FastCheck.array(tie("tree"), { minLength: 1, maxLength: 3 }),
      record: FastCheck.dictionary(FastCheck.string({ minLength: 1 }), tie("tree"), { minKeys: 1, maxKeys: 3 })
    }))
    FastCheck.assert(
      FastCheck.property(FastCheck.dictionary(FastCheck.string(), tree), (args) => {
        const response = answer(
          call({ name: "f", willContinue: true }),
          ...piecesOf(args, "$").map((each) => call({ partialArgs: [each], willContinue: true })),
          call({}),
          candidate([], "STOP")
        )
        assert.deepEqual(response.toolCalls[0]?.arguments, { ...args })
      })
    )
  })

  it("takes a second text at a path for a new one, and no list with a gap of millions", () => {
    const response = answer(
      call({ name: "f", args: { a: "other" } }),
      call({
        name: "f",
        partialArgs: [
          piece("$.a", { stringValue: "first" }, true),
          piece("$.a", { stringValue: " half" }),
          piece("$.a", { stringValue: "second" }),
          piece("$.list[999999999]", { stringValue: "far" }),
          piece("$.list[1]", { numberValue: 1 })
        ],
        willContinue: false
      }),
      candidate([], "MAX_TOKENS")
    )
    assert.deepStrictEqual(
      response.toolCalls.map((each) => each.arguments),
      [{ a: "other" }, { a: "second", list: [null, 1] }]
    )
  })

  it("takes a piece without a value for the end of its place, and holds no call with gaps or depths without end", () => {
    const response = answer(
      call({ name: "f", willContinue: true }),
      call({
        partialArgs: [
          piece("$.a", { stringValue: "one" }, true),
          piece("$.a", {}),
          piece("$.a", { stringValue: "two" }),
          piece("$.b", { stringValue: null, numberValue: 3 }),
          ...Array.from({ length: 100 }, (_, index) => piece(`$.list[${(index + 1) * 9000}]`, { boolValue: true })),
          piece(`$${".deep".repeat(100_000)}`, { stringValue: "x" })
        ],
        willContinue: true
      }),
      call({}),
      candidate([], "STOP")
    )
    const args = response.toolCalls[0]?.arguments as { readonly list: ReadonlyArray<unknown> }
    assert.deepStrictEqual({ ...args, list: args.list.length }, { a: "two", b: 3, list: 9001 })
  })

  it("as one JSON array is the same as events, whatever the text and the chunks", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(
          FastCheck.oneof(FastCheck.fullUnicodeString(), FastCheck.stringOf(FastCheck.constantFrom(...'"\\{}[],: a'))),
          { minLength: 1, maxLength: 5 }
        ),
        FastCheck.integer({ min: 1, max: 40 }),
        (texts, size) => {
          const chunks = [...texts.map((text) => candidate([{ text }])), candidate([], "STOP")]
          const bytes = new TextEncoder().encode(JSON.stringify(chunks, null, size % 3))
          const decoder = GenerateContent.makeStreamDecoder(context)
          const parts: Array<LlmResponse.LlmStreamPart> = []
          for (let from = 0; from < bytes.length; from += size) {
            parts.push(...decoder.push(bytes.slice(from, from + size)))
          }
          assert.isTrue(decoder.done())
          assert.strictEqual(LlmResponse.fromParts([...parts, ...decoder.end()])?.text, texts.join(""))
        }
      )
    )
  })

  it("hands on whole calls only, and drops one that the limit of tokens cut off", () => {
    const open = [
      call({ name: "f", args: { a: 1 } }),
      call({ name: "g", willContinue: true }),
      call({ partialArgs: [piece("$.a", { stringValue: "b" }, true)], willContinue: true })
    ]
    const cut = failed(sse(...open))
    assert.strictEqual(cut.reason, "StreamTruncated")
    assert.deepStrictEqual(
      cut.partial?.toolCalls.map((each) => each.name),
      ["f"]
    )
    assert.isFalse(cut.isRetryable)
    const names = (...end: ReadonlyArray<unknown>) => answer(...open, ...end).toolCalls.map((each) => each.name)
    assert.deepStrictEqual(names(candidate([], "MAX_TOKENS")), ["f"])
    assert.deepStrictEqual(names(candidate([], "STOP")), ["f", "g"])
    assert.deepStrictEqual(names(call({ name: "h", args: {} }), candidate([], "STOP")), ["f", "g", "h"])
  })

  it("that ends without a finish reason is truncated (complaint 2)", () => {
    const partial = { ...candidate([{ text: "Hel" }]), responseId: "r", usageMetadata: { promptTokenCount: 3 } }
    const cut = failed(sse(partial))
    assert.strictEqual(cut.reason, "StreamTruncated")
    assert.strictEqual(cut.partial?.text, "Hel")
    assert.strictEqual(cut.partial?.id, "r")
    assert.strictEqual(cut.usage?.input, 3)
    assert.isFalse(cut.isRetryable)
    assert.isTrue(failed("").isRetryable)
    assert.strictEqual(failed(sse("[DONE]")).reason, "StreamTruncated")
    assert.strictEqual(failed("[]").reason, "StreamTruncated")
    assert.strictEqual(failed(sse({ usageMetadata: { promptTokenCount: 3 } })).reason, "StreamTruncated")
  })

  it("that is blocked on the way finishes as withheld", () => {
    const response = answer(candidate([{ text: "Hel" }]), { promptFeedback: { blockReason: "SAFETY" } })
    assert.strictEqual(response.finish, "content-filter")
    assert.strictEqual(response.text, "Hel")
  })

  it("fails with the error that comes inside it (complaint 1: mid-stream errors swallowed)", () => {
    const error = {
      code: 429,
      message: "Resource has been exhausted",
      status: "RESOURCE_EXHAUSTED",
      details: [{ "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "1.5s" }]
    }
    const begun = candidate([{ text: "Hel" }])
    const late = failed(sse(begun, { error }, candidate([{ text: "lo" }], "STOP")))
    assert.strictEqual(late.reason, "RateLimited")
    assert.isTrue(late.midStream)
    assert.isFalse(late.isRetryable)
    assert.strictEqual(late.partial?.text, "Hel")
    const early = failed(sse({ error }))
    assert.isTrue(early.isRetryable)
    assert.strictEqual(early.retryAfter === undefined ? undefined : Duration.toMillis(early.retryAfter), 1500)
    // Beside what had come, and in every form that a server may choose.
    assert.strictEqual(failed(sse({ ...begun, error })).partial?.text, "Hel")
    for (const body of [
      JSON.stringify({ error }),
      JSON.stringify({ error }, null, 2),
      JSON.stringify([{ error }]),
      JSON.stringify([{ error }], null, 2)
    ]) {
      const failure = failed(body)
      assert.strictEqual(failure.reason, "RateLimited")
      assert.isFalse(failure.midStream)
      assert.isTrue(failure.isRetryable)
    }
    const array = failed(`${JSON.stringify([begun]).slice(0, -1)}\n,\r\n{"error": ${JSON.stringify(error)}}]`)
    assert.isTrue(array.midStream)
    assert.strictEqual(array.partial?.text, "Hel")
  })

  it("that is no stream at all is malformed", () => {
    for (const body of ["<html><body>Bad gateway</body></html>", "upstream failed", `["a"]`, "[upstream failed"]) {
      assert.strictEqual(failed(body).reason, "MalformedResponse", body)
    }
    assert.strictEqual(failed(sse("{oops")).reason, "MalformedResponse")
    assert.strictEqual(failed(`[{oops}]`).reason, "MalformedResponse")
  })

  it("is read without blank lines between the events, and over several lines", () => {
    const chunks = [candidate([{ text: "Hel" }]), candidate([{ text: "lo" }], "STOP")]
    const close = chunks.map((each) => `data: ${JSON.stringify(each)}\n`).join("")
    const long = chunks.map((each) => `${JSON.stringify(each, null, 1).replace(/^/gm, "data: ")}\n\n`).join("")
    for (const body of [close, `${close}data: [DONE]\n\n`, long]) assert.strictEqual(play(body).response?.text, "Hello")
  })

  it("that was not streamed is taken whole", () => {
    const body = JSON.stringify(candidate([{ text: "Hello" }], "STOP"), null, 2)
    assert.strictEqual(play(body).response?.text, "Hello")
  })

  it("passes over candidates, events and fields that it does not know", () => {
    const response = answer(
      { candidates: [{ index: 1, content: { parts: [{ text: "other" }] }, finishReason: "STOP" }] },
      { unheard: "of", candidates: "none" },
      { candidates: [null, { content: { parts: "none" } }, { content: null }] },
      candidate([{ text: "a", citation: 1 }, null, 3]),
      { ...candidate([], "STOP"), groundingMetadata: {}, urlContextMetadata: {} }
    )
    assert.strictEqual(response.text, "a")
    assert.strictEqual(response.finish, "stop")
  })

  it("keeps what had come when the connection breaks", () => {
    const decoder = GenerateContent.makeStreamDecoder(context)
    decoder.push(new TextEncoder().encode(sse(candidate([{ text: "Hel" }]))))
    const cause = new LlmError.LlmError({ ...context, reason: "Network", retryable: true, midStream: false })
    const error = decoder.broken(cause)
    assert.strictEqual(error?.reason, "StreamTruncated")
    assert.strictEqual(error?.partial?.text, "Hel")
    assert.isFalse(error?.isRetryable)
    const whole = GenerateContent.makeStreamDecoder(context)
    whole.push(new TextEncoder().encode(sse(candidate([{ text: "Hel" }], "STOP"))))
    assert.isTrue(whole.finished())
    assert.isUndefined(whole.broken(cause))
  })
})

describe("errors of Google", () => {
  const error = (status: number, error: Json) =>
    Protocol.decodeError({ status, headers: {}, body: JSON.stringify({ error }), now: 0 }, context)

  it("are what they say, not what their status says (complaint 10: error mapping)", () => {
    const key = error(400, {
      code: 400,
      message: "API key not valid. Please pass a valid API key.",
      status: "INVALID_ARGUMENT",
      details: [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "API_KEY_INVALID" }]
    })
    assert.strictEqual(key.reason, "Authentication")
    const long = error(400, {
      code: 400,
      message: "The input token count (1048600) exceeds the maximum number of tokens allowed (1048576).",
      status: "INVALID_ARGUMENT"
    })
    assert.strictEqual(long.reason, "ContextLengthExceeded")
    assert.strictEqual(long.actual, 1_048_600)
    assert.strictEqual(long.limit, 1_048_576)
    const format = error(400, {
      code: 400,
      message: "Function calling with a response mime type: 'application/json' is unsupported",
      status: "INVALID_ARGUMENT"
    })
    assert.strictEqual(format.reason, "InvalidRequest")
  })

  it("of a day's quota are never retried, those of a minute are (complaint 4)", () => {
    const quota = (quotaId: string) =>
      error(429, {
        code: 429,
        message: "You exceeded your current quota, please check your plan and billing details.",
        status: "RESOURCE_EXHAUSTED",
        details: [
          { "@type": "type.googleapis.com/google.rpc.QuotaFailure", violations: [{ quotaId }] },
          { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "48s" }
        ]
      })
    const day = quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
    assert.strictEqual(day.reason, "QuotaExhausted")
    assert.isFalse(day.isRetryable)
    const minute = quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")
    assert.strictEqual(minute.reason, "RateLimited")
    assert.isTrue(minute.isRetryable)
    assert.strictEqual(minute.retryAfter === undefined ? 0 : Duration.toMillis(minute.retryAfter), 48_000)
  })
})
