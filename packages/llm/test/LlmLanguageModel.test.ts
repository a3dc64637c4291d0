/** Our models as `@effect/ai`'s: prompts both ways, tools, values, streams, errors, spans. */
import {
  AiError,
  Chat,
  EmbeddingModel,
  LanguageModel,
  Prompt,
  type Response,
  Telemetry,
  Tool,
  Toolkit
} from "@effect/ai"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, Embeddings, Withheld } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmError, type LlmRequest, type LlmResponse, LlmTest } from "@underlay/llm"
import * as LlmLanguageModel from "@underlay/llm/LlmLanguageModel"
import {
  Cause,
  Chunk,
  Context,
  Deferred,
  Effect,
  Either,
  Exit,
  FastCheck,
  Fiber,
  Layer,
  Option,
  Ref,
  Schema,
  Stream
} from "effect"

const scripted = (...replies: ReadonlyArray<LlmTest.Reply>) =>
  LlmLanguageModel.layer.pipe(Layer.provideMerge(LlmTest.layerScripted({ replies })))

const requests = Effect.map(
  Effect.flatMap(LlmTest.Script, (script) => script.requests),
  (asked) => asked.map(({ request }) => request)
)

const only = <A>(list: ReadonlyArray<A>): A => {
  assert.strictEqual(list.length, 1)
  return list[0] as A
}

const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

const Weather = Tool.make("weather", {
  description: "The weather of a city",
  parameters: { city: Schema.String },
  success: Schema.Struct({ celsius: Schema.Number }),
  failure: Schema.Struct({ why: Schema.String })
})
const Now = Tool.make("now", { description: "The time", success: Schema.Number })
const Late = Tool.make("late", {
  parameters: { at: Schema.NumberFromString },
  success: Schema.DateFromString,
  failure: Schema.String,
  failureMode: "return"
})
const kit = Toolkit.make(Weather, Now, Late)
const handlers = kit.toLayer({
  weather: ({ city }) =>
    city === "Atlantis" ? Effect.fail({ why: "no such city" }) : Effect.succeed({ celsius: city.length }),
  now: () => Effect.succeed(1234),
  late: ({ at }) => (at < 0 ? Effect.fail("too late") : Effect.succeed(new Date(at)))
})

const call = (name: string, args: unknown, id = "c0") => ({ id, name, arguments: args })

const collect = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

const typesOf = (parts: ReadonlyArray<{ readonly type: string }>) => parts.map(({ type }) => type)

const fail = (reason: LlmError.LlmError["reason"], rest: Partial<LlmError.LlmError> = {}) =>
  new LlmError.LlmError({
    reason,
    method: "generate",
    provider: "scripted",
    model: "scripted",
    retryable: false,
    midStream: false,
    ...rest
  })

/** A model that answers with one response, and the same streamed. */
const answering = (
  response: Partial<LlmResponse.LlmResponse>,
  parts: ReadonlyArray<LlmResponse.LlmStreamPart> = []
): Llm.LlmService =>
  Llm.make({
    provider: "anthropic",
    model: "m",
    generate: () =>
      Effect.succeed({ text: "", reasoning: "", toolCalls: [], content: [], finish: "stop", usage: {}, ...response }),
    stream: () => Stream.fromIterable(parts).pipe(Stream.rechunk(2))
  })

const asModel = (llm: Llm.LlmService) => LlmLanguageModel.layer.pipe(Layer.provide(Layer.succeed(Llm.Llm, llm)))

describe("prompts", () => {
  const send = (prompt: Prompt.RawInput) =>
    Effect.gen(function* () {
      yield* LanguageModel.generateText({ prompt })
      return only(yield* requests)
    }).pipe(Effect.provide(scripted("ok")))

  it.effect("a text is what the user says", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* send("hi"), { messages: [ChatMessage.user("hi")] })
    })
  )

  it.effect("system, files, reasoning with its signature, calls and results become messages", () =>
    Effect.gen(function* () {
      const { messages } = yield* send([
        { role: "system", content: "Be brief." },
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: bytes(1, 2) },
            { type: "file", mediaType: "image/*", data: bytes(0x89, 0x50, 0x4e, 0x47) },
            { type: "file", mediaType: "text/plain", data: "AQI=" },
            { type: "file", mediaType: "image/*", data: "data:image/webp;base64,AQI=" },
            { type: "file", mediaType: "image/*", data: new URL("https://a.example/b.png?c=1") },
            { type: "file", mediaType: "image/jpeg", data: "https://a.example/c" },
            { type: "file", mediaType: "application/pdf", data: "file-abc123" }
          ]
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "hm", options: { anthropic: { signature: "s1" } } },
            { type: "reasoning", text: "", options: { anthropic: { part: { type: "redacted_thinking", data: "r" } } } },
            { type: "text", text: "I look." },
            {
              type: "tool-call",
              id: "c1",
              name: "weather",
              params: { city: "Rome" },
              options: { google: { signature: "s2" } }
            },
            { type: "tool-call", id: "c2", name: "web", params: {}, providerExecuted: true },
            { type: "tool-result", id: "c2", name: "web", isFailure: false, result: {}, providerExecuted: true }
          ]
        },
        {
          role: "tool",
          content: [
            { type: "tool-result", id: "c1", name: "weather", isFailure: true, result: "no", providerExecuted: false }
          ]
        }
      ])
      const file = (mediaType: string, source: unknown, name?: string) => ({
        type: "file",
        mediaType,
        ...(name === undefined ? {} : { name }),
        source
      })
      assert.deepStrictEqual(messages, [
        { role: "system", content: "Be brief." },
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            file("application/pdf", { type: "bytes", bytes: bytes(1, 2) }, "a.pdf"),
            file("image/png", { type: "bytes", bytes: bytes(0x89, 0x50, 0x4e, 0x47) }),
            file("text/plain", { type: "bytes", bytes: bytes(1, 2) }),
            file("image/webp", { type: "bytes", bytes: bytes(1, 2) }),
            file("image/png", { type: "url", url: "https://a.example/b.png?c=1" }),
            file("image/jpeg", { type: "url", url: "https://a.example/c" }),
            file("application/pdf", { type: "url", url: "file-abc123" })
          ]
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "hm", signature: "s1", provider: "anthropic" },
            { type: "provider", provider: "anthropic", data: { type: "redacted_thinking", data: "r" } },
            { type: "text", text: "I look." },
            {
              type: "tool-call",
              id: "c1",
              name: "weather",
              arguments: { city: "Rome" },
              signature: "s2",
              provider: "google"
            }
          ]
        },
        { role: "tool", content: [{ type: "tool-result", id: "c1", name: "weather", result: "no", isError: true }] }
      ] as unknown as typeof messages)
    })
  )

  it.effect("conversations kept with the packages of @effect/ai go on: their names for signatures are known", () =>
    Effect.gen(function* () {
      const { messages } = yield* send([
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "a", options: { anthropic: { type: "thinking", signature: "s" } } },
            { type: "reasoning", text: "", options: { anthropic: { type: "redacted_thinking", redactedData: "r" } } },
            { type: "reasoning", text: "b", options: { openai: { itemId: "rs_1", encryptedContent: "e" } } },
            { type: "tool-call", id: "c", name: "f", params: {}, options: { google: { thoughtSignature: "t" } } },
            { type: "tool-result", id: "c", name: "f", isFailure: false, result: 1, providerExecuted: false },
            { type: "text", text: "done" }
          ]
        }
      ])
      assert.deepStrictEqual(messages, [
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "a", signature: "s", provider: "anthropic" },
            { type: "provider", provider: "anthropic", data: { type: "redacted_thinking", data: "r" } },
            { type: "reasoning", text: "b", id: "rs_1", provider: "openai", signature: "e" },
            { type: "tool-call", id: "c", name: "f", arguments: {}, signature: "t", provider: "google" }
          ]
        },
        { role: "tool", content: [{ type: "tool-result", id: "c", name: "f", result: 1 }] },
        { role: "assistant", content: [{ type: "text", text: "done" }] }
      ])
    })
  )

  it.effect("marks of what is worth keeping are breakpoints of the prompt cache", () =>
    Effect.gen(function* () {
      const mark = { anthropic: { cacheControl: { type: "ephemeral", ttl: "1h" } } }
      const request = yield* send([
        { role: "system", content: "long", options: mark },
        { role: "user", content: "a" },
        { role: "user", content: [{ type: "text", text: "b", options: mark }] }
      ])
      assert.deepStrictEqual(request.promptCache, { breakpoints: [0, 2], ttl: "long" })
    })
  )

  it.effect("what cannot be sent is refused, naming its place and not its content", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [Prompt.RawInput, string]> = [
        [[{ role: "user", content: [{ type: "file", mediaType: "a/b", data: "se cret" }] }], "messages[0].content[0]"],
        [
          [
            { role: "user", content: "x" },
            { role: "assistant", content: [{ type: "file", mediaType: "a/b", data: bytes(1) }] }
          ],
          "messages[1].content[0]"
        ],
        [[{ role: "nobody", content: "secret" }] as never, "the prompt is none"]
      ]
      for (const [prompt, place] of cases) {
        const error = yield* Effect.flip(LanguageModel.generateText({ prompt }).pipe(Effect.provide(scripted("ok"))))
        assert.strictEqual(error._tag, "MalformedInput")
        assert.include(JSON.stringify(error), place)
        assert.notMatch(Cause.pretty(Cause.fail(error)) + JSON.stringify(error), /se ?cret/)
      }
    })
  )
})

describe("generateText", () => {
  it.effect("a long text that only begins like a data URL is looked through once", () =>
    Effect.gen(function* () {
      const data = `data:${"a".repeat(4_000_000)}`
      yield* LanguageModel.generateText({
        prompt: [{ role: "user", content: [{ type: "file", mediaType: "a/b", data }] }]
      })
      const { messages } = only(yield* requests)
      assert.isTrue(messages[0]?.role === "user" && messages[0].content[0]?.type === "file")
    }).pipe(Effect.provide(scripted("ok")))
  )

  it.effect("says what was answered, where it came from, how it ended and what it cost", () =>
    Effect.gen(function* () {
      const response = yield* LanguageModel.generateText({ prompt: "hi" })
      assert.strictEqual(response.text, "Hello")
      assert.strictEqual(response.reasoningText, "hm")
      assert.strictEqual(response.finishReason, "length")
      assert.deepStrictEqual(
        { ...response.usage },
        {
          inputTokens: 10,
          outputTokens: 5,
          totalTokens: 15,
          reasoningTokens: 2,
          cachedInputTokens: 4
        }
      )
      const metadata = response.content.find((part) => part.type === "response-metadata")
      assert.deepStrictEqual([metadata?.id, metadata?.modelId], [Option.some("r1"), Option.some("m-1")])
      assert.deepStrictEqual(typesOf(response.content), ["response-metadata", "reasoning", "text", "finish"])
    }).pipe(
      Effect.provide(
        scripted({
          text: "Hello",
          reasoning: "hm",
          finish: "length",
          id: "r1",
          model: "m-1",
          usage: { input: 10, output: 5, cachedInput: 4, reasoning: 2, cacheWrite: 1 }
        })
      )
    )
  )

  it.effect("settings of the layer and of the call are those of the request", () =>
    Effect.gen(function* () {
      yield* LanguageModel.generateText({ prompt: "a" })
      const of = LanguageModel.streamText({ prompt: "b" }).pipe(
        Stream.provideService(LlmLanguageModel.Settings, {
          temperature: 1,
          seed: 7,
          providerOptions: { openai: { verbosity: "low" } }
        })
      )
      yield* Stream.runDrain(of)
      const [first, second] = yield* requests
      assert.deepStrictEqual(first, {
        messages: [ChatMessage.user("a")],
        temperature: 0,
        model: "other",
        providerOptions: { openai: { store: true } }
      })
      assert.deepStrictEqual(second, {
        messages: [ChatMessage.user("b")],
        temperature: 1,
        seed: 7,
        model: "other",
        providerOptions: { openai: { store: true, verbosity: "low" } }
      })
    }).pipe(
      Effect.provide(
        LlmLanguageModel.layerOf({ temperature: 0, model: "other", providerOptions: { openai: { store: true } } }).pipe(
          Layer.provideMerge(LlmTest.layerScripted({ replies: ["x", "y"] }))
        )
      )
    )
  )

  it.effect("words of a refusal are its text, marked as one", () =>
    Effect.gen(function* () {
      const response = yield* LanguageModel.generateText({ prompt: "hi" })
      assert.strictEqual(response.text, "I will not.")
      const text = response.content.find((part) => part.type === "text")
      assert.deepStrictEqual(text?.metadata, { scripted: { refusal: true } })
      const parts = yield* collect(LanguageModel.streamText({ prompt: "hi" }))
      const start = parts.find((part) => part.type === "text-start")
      assert.deepStrictEqual(start?.metadata, { scripted: { refusal: true } })
    }).pipe(
      Effect.provide(
        scripted(
          { refusal: "I will not.", finish: "content-filter" },
          { refusal: "I will not.", finish: "content-filter" }
        )
      )
    )
  )

  it.effect("sources are parts, whole and streamed, with their places and quotes as the provider's metadata", () => {
    const sources: ReadonlyArray<LlmResponse.LlmSource> = [
      { type: "source", sourceType: "url", url: "https://a.example/", title: "A", start: 0, end: 2 },
      { type: "source", sourceType: "url", url: "https://b.example/" },
      { type: "source", sourceType: "url", url: "no address" },
      { type: "source", sourceType: "document", id: "file-1", title: "c.pdf", quote: "so it is" },
      { type: "source", sourceType: "document", index: 2 }
    ]
    const answer = { text: "It is", sources }
    return Effect.gen(function* () {
      const whole = yield* LanguageModel.generateText({ prompt: "?" })
      const streamed = yield* collect(LanguageModel.streamText({ prompt: "?" }))
      for (const parts of [whole.content, streamed]) {
        const found = parts.flatMap((part) => (part.type === "source" ? [part] : []))
        assert.deepStrictEqual<unknown>(
          found.map(({ id, metadata, sourceType, title, ...rest }) => [
            id,
            sourceType,
            title,
            "url" in rest ? rest.url.href : rest.mediaType,
            metadata
          ]),
          [
            ["source_0", "url", "A", "https://a.example/", { scripted: { start: 0, end: 2 } }],
            ["source_1", "url", "https://b.example/", "https://b.example/", {}],
            [
              "source_3",
              "document",
              "c.pdf",
              "application/octet-stream",
              { scripted: { id: "file-1", quote: "so it is" } }
            ],
            ["source_4", "document", "document 2", "application/octet-stream", { scripted: { index: 2 } }]
          ]
        )
      }
      // They break no text into two, and a conversation goes on without them.
      assert.lengthOf(
        streamed.filter(({ type }) => type === "text-start"),
        1
      )
      const back = Prompt.fromResponseParts(whole.content)
      assert.deepStrictEqual(JSON.stringify(back).includes("a.example"), false)
    }).pipe(Effect.provide(scripted(answer, answer)))
  })

  it.effect("a file that the model made is a part", () =>
    Effect.gen(function* () {
      const { content } = yield* LanguageModel.generateText({ prompt: "draw" })
      const file = content.find((part) => part.type === "file")
      assert.deepStrictEqual([file?.mediaType, file?.data], ["image/png", bytes(1, 2)])
    }).pipe(
      Effect.provide(
        asModel(
          answering({
            content: [
              { type: "provider", provider: "google", data: { inlineData: { mimeType: "image/png", data: "AQI=" } } }
            ]
          })
        )
      )
    )
  )
})

describe("tools", () => {
  it.effect("are described, called and answered; results go back as they were given", () =>
    Effect.gen(function* () {
      const first = yield* LanguageModel.generateText({ prompt: "?", toolkit: kit, concurrency: "unbounded" })
      assert.deepStrictEqual(
        first.toolCalls.map(({ id, name, params }) => ({ id, name, params })),
        [
          { id: "a", name: "weather", params: { city: "Rome" } },
          { id: "b", name: "now", params: {} },
          { id: "c", name: "late", params: { at: 5 } }
        ] as ReadonlyArray<unknown> as never
      )
      assert.deepStrictEqual(
        first.toolResults.map(({ encodedResult, id, isFailure, result }) => ({ id, result, encodedResult, isFailure })),
        [
          { id: "a", result: { celsius: 4 }, encodedResult: { celsius: 4 }, isFailure: false },
          { id: "b", result: 1234, encodedResult: 1234, isFailure: false },
          { id: "c", result: new Date(5), encodedResult: "1970-01-01T00:00:00.005Z", isFailure: false }
        ] as ReadonlyArray<unknown> as never
      )
      yield* LanguageModel.generateText({
        prompt: Prompt.merge(Prompt.make("?"), LlmLanguageModel.toPrompt(first.content)),
        toolkit: kit
      })
      const [one, two] = yield* requests
      assert.deepStrictEqual(
        one?.tools?.map(({ description, name }) => [name, description]),
        [
          ["weather", "The weather of a city"],
          ["now", "The time"],
          ["late", undefined]
        ]
      )
      assert.deepStrictEqual(one?.tools?.[0]?.parameters["properties"], { city: { type: "string" } })
      for (const tool of one?.tools ?? []) assert.strictEqual(tool.parameters["type"], "object")
      assert.strictEqual(one?.toolChoice, "auto")
      // Effect-TS/effect#6008: a tool may answer a number.
      assert.deepStrictEqual(two?.messages.slice(1), [
        {
          role: "assistant",
          content: [
            { type: "tool-call", id: "a", name: "weather", arguments: { city: "Rome" } },
            // As the model wrote them, not as the tools take them.
            { type: "tool-call", id: "b", name: "now", arguments: { made: "up" } },
            { type: "tool-call", id: "c", name: "late", arguments: { at: "5" } }
          ]
        },
        {
          role: "tool",
          content: [
            { type: "tool-result", id: "a", name: "weather", result: { celsius: 4 } },
            { type: "tool-result", id: "b", name: "now", result: 1234 },
            { type: "tool-result", id: "c", name: "late", result: "1970-01-01T00:00:00.005Z" }
          ]
        }
      ])
    }).pipe(
      Effect.provide([
        handlers,
        scripted(
          {
            toolCalls: [
              call("weather", { city: "Rome" }, "a"),
              call("now", { made: "up" }, "b"),
              call("late", { at: "5" }, "c")
            ]
          },
          "done"
        )
      ])
    )
  )

  it.effect("toolChoice: none, required, one, some", () =>
    Effect.gen(function* () {
      const ask = (toolChoice: LanguageModel.ToolChoice<"weather" | "now" | "late">) =>
        LanguageModel.generateText({ prompt: "?", toolkit: kit, toolChoice })
      yield* ask("none")
      yield* ask("required")
      yield* ask({ tool: "now" })
      yield* ask({ oneOf: ["now", "late"] })
      yield* ask({ mode: "required", oneOf: ["now", "late"] })
      yield* ask({ mode: "required", oneOf: ["late"] })
      assert.deepStrictEqual(
        (yield* requests).map((request) => [request.toolChoice, request.tools?.map((tool) => tool.name).join()]),
        [
          ["none", "weather,now,late"],
          ["required", "weather,now,late"],
          [{ name: "now" }, "weather,now,late"],
          ["auto", "now,late"],
          ["required", "now,late"],
          [{ name: "late" }, "late"]
        ]
      )
      const error = yield* Effect.flip(ask({ tool: "nothing" as "now" }))
      assert.strictEqual(AiError.isAiError(error) ? error._tag : undefined, "MalformedInput")
    }).pipe(Effect.provide([handlers, scripted("1", "2", "3", "4", "5", "6")]))
  )

  it.effect("a provider's own are refused by name", () => {
    const Search = Tool.providerDefined({
      id: "anthropic.web_search",
      toolkitName: "WebSearch",
      providerName: "web_search",
      args: {}
    })({})
    return Effect.gen(function* () {
      const toolkit = Toolkit.make(Search)
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "?", toolkit }))
      assert.strictEqual(error._tag, "MalformedInput")
      assert.match(
        error._tag === "MalformedInput" ? (error.description ?? "") : "",
        /WebSearch.*web_search.*providerOptions/
      )
      assert.lengthOf(yield* requests, 0)
    }).pipe(Effect.provide(scripted("x")))
  })

  it.effect("a failure fails the call, or is answered, as the tool says", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "?", toolkit: kit }))
      assert.deepStrictEqual(error, { why: "no such city" })
      const { toolResults } = yield* LanguageModel.generateText({ prompt: "?", toolkit: kit })
      assert.deepStrictEqual(
        toolResults.map(({ encodedResult, isFailure }) => [encodedResult, isFailure]),
        [["too late", true]]
      )
    }).pipe(
      Effect.provide([
        handlers,
        scripted({ toolCalls: [call("weather", { city: "Atlantis" })] }, { toolCalls: [call("late", { at: "-1" })] })
      ])
    )
  )

  it.effect("arguments that do not fit are answered where failures are (Effect-TS/effect#6335), else typed", () =>
    Effect.gen(function* () {
      const one = LanguageModel.generateText({ prompt: "?", toolkit: kit })
      const { toolCalls, toolResults } = yield* one
      assert.lengthOf(toolCalls, 1)
      assert.isTrue(toolResults[0]?.isFailure)
      assert.match(String(toolResults[0]?.encodedResult), /The arguments do not fit/)
      const error = yield* Effect.flip(one)
      assert.strictEqual(AiError.isAiError(error) ? error._tag : undefined, "MalformedOutput")
      const said = Cause.pretty(Cause.fail(error)) + JSON.stringify(error)
      assert.match(said, /city: /)
      assert.notInclude(said, "secret")
      const unknown = yield* Effect.flip(one)
      assert.match(JSON.stringify(unknown), /nothing that it was not given \(only weather, now, late\)/)
      const parts = yield* collect(LanguageModel.streamText({ prompt: "?", toolkit: kit }))
      assert.deepStrictEqual(typesOf(parts), ["tool-call", "tool-result", "response-metadata", "finish"])
    }).pipe(
      Effect.provide([
        handlers,
        scripted(
          { toolCalls: [call("late", { at: { x: 1 } })] },
          { toolCalls: [call("weather", { city: ["secret"] })] },
          { toolCalls: [call("nothing", {})] },
          { toolCalls: [call("late", "secret")] }
        )
      ])
    )
  )

  it.effect("may be requests with a tag, need services, and values that need services are decoded with them", () => {
    class Unit extends Context.Tag("test/Unit")<Unit, string>() {}
    class Measure extends Schema.TaggedRequest<Measure>()("Measure", {
      payload: { what: Schema.String },
      success: Schema.String,
      failure: Schema.Never
    }) {}
    const Named = Schema.transformOrFail(Schema.String, Schema.String, {
      strict: true,
      decode: (name) => Effect.map(Unit, (unit) => `${name} in ${unit}`),
      encode: (name) => Effect.succeed(name)
    })
    const toolkit = Toolkit.make(
      Tool.fromTaggedRequest(Measure),
      Tool.make("unit", { success: Schema.String, dependencies: [Unit] })
    )
    const layer = toolkit.toLayer({
      Measure: (request) => Effect.succeed(`${request._tag} ${request.what}`),
      unit: () => Unit
    })
    return Effect.gen(function* () {
      const { toolResults } = yield* LanguageModel.generateText({ prompt: "?", toolkit })
      assert.deepStrictEqual(
        toolResults.map(({ result }) => result),
        ["Measure height", "metres"]
      )
      const schema = Schema.Struct({ length: Named })
      const { value } = yield* LanguageModel.generateObject({ prompt: "?", schema })
      assert.deepStrictEqual(value, { length: "3 in metres" })
      const [request] = yield* requests
      assert.strictEqual(request?.tools?.[0]?.parameters["type"], "object")
    }).pipe(
      Effect.provide([
        layer,
        scripted(
          { toolCalls: [call("Measure", { _tag: "Measure", what: "height" }, "a"), call("unit", {}, "b")] },
          '{"length":"3"}'
        )
      ]),
      Effect.provideService(Unit, "metres")
    )
  })

  it.effect("nulls that models write for what may be left out are left out", () => {
    const toolkit = Toolkit.make(
      Tool.make("find", {
        parameters: { what: Schema.String, most: Schema.optional(Schema.Int), by: Schema.NullOr(Schema.String) },
        success: Schema.Unknown
      })
    )
    const said = { what: "x", most: null, by: null }
    return Effect.gen(function* () {
      const first = yield* LanguageModel.generateText({ prompt: "?", toolkit })
      assert.deepStrictEqual(first.toolResults[0]?.result, { what: "x", by: null })
      const parts = yield* collect(LanguageModel.streamText({ prompt: "?", toolkit }))
      assert.deepStrictEqual(
        parts.flatMap((part) => (part.type === "tool-result" ? [part.result] : [])),
        [{ what: "x", by: null }]
      )
      // The model is shown what it wrote.
      yield* LanguageModel.generateText({
        prompt: Prompt.merge(Prompt.make("?"), LlmLanguageModel.toPrompt(first.content)),
        toolkit
      })
      const message = (yield* requests).at(-1)?.messages[1]
      const [part] = message?.role === "assistant" ? message.content : []
      assert.deepStrictEqual(part?.type === "tool-call" ? part.arguments : undefined, said)
    }).pipe(
      Effect.provide([
        toolkit.toLayer({ find: (asked) => Effect.succeed(asked) }),
        scripted({ toolCalls: [call("find", said)] }, { toolCalls: [call("find", said)] }, "ok")
      ])
    )
  })

  it.effect("one that the model was not given this time is not run", () => {
    let ran = 0
    const toolkit = Toolkit.make(Now, Tool.make("erase"))
    return Effect.gen(function* () {
      const asked = { prompt: "?", toolkit, toolChoice: { oneOf: ["now" as const] } }
      const error = yield* Effect.flip(LanguageModel.generateText(asked))
      assert.strictEqual(error._tag, "MalformedOutput")
      assert.match(JSON.stringify(error), /erase that it was not given \(only now\)/)
      assert.strictEqual((yield* Effect.flip(collect(LanguageModel.streamText(asked))))._tag, "MalformedOutput")
      assert.strictEqual(ran, 0)
    }).pipe(
      Effect.provide([
        toolkit.toLayer({ now: () => Effect.succeed(1), erase: () => Effect.sync(() => void ran++) }),
        scripted({ toolCalls: [call("erase", {})] }, { toolCalls: [call("erase", {})] })
      ])
    )
  })

  it.effect("parameters that JSON has no schema for are refused by the tool's name", () => {
    const toolkit = Toolkit.make(Tool.make("odd", { parameters: { at: Schema.DateFromSelf } }))
    return Effect.gen(function* () {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "?", toolkit }))
      assert.strictEqual(error._tag, "MalformedInput")
      assert.match(JSON.stringify(error), /the tool odd/)
    }).pipe(Effect.provide([toolkit.toLayer({ odd: () => Effect.void }), scripted("not asked")]))
  })

  it.effect("thousands of calls with the same id, streamed, take time in proportion", () =>
    Effect.gen(function* () {
      const count = 20_000
      const calls = Array.from({ length: count }, () => ({ ...call("now", {}, "0"), type: "tool-call" as const }))
      const parts: ReadonlyArray<LlmResponse.LlmStreamPart> = [
        ...calls.map((_, index) => ({ type: "tool-call-delta", index, id: "0", name: "now", text: "{}" }) as const),
        ...calls,
        {
          type: "finish",
          finish: "tool-calls",
          usage: {},
          model: "m",
          id: "r",
          content: [],
          rateLimits: undefined,
          finishReason: undefined
        }
      ]
      const toolkit = yield* kit
      const seen = yield* collect(
        LanguageModel.streamText({ prompt: "?", toolkit, disableToolCallResolution: true })
      ).pipe(Effect.provide(asModel(answering({}, parts))))
      const ids = new Set(seen.flatMap((part) => (part.type === "tool-call" ? [part.id] : [])))
      assert.strictEqual(ids.size, count)
      assert.isTrue(ids.has(`0_${count}`))
    }).pipe(Effect.provide(handlers))
  )

  it.effect("with disableToolCallResolution the calls are the caller's", () =>
    Effect.gen(function* () {
      const toolkit = yield* kit
      const { toolCalls, toolResults } = yield* LanguageModel.generateText({
        prompt: "?",
        toolkit,
        disableToolCallResolution: true
      })
      assert.deepStrictEqual([toolCalls.length, toolResults.length], [1, 0])
    }).pipe(Effect.provide([handlers, scripted({ toolCalls: [call("weather", { city: "Atlantis" })] })]))
  )

  it.effect("ids that come again are told apart over the conversation", () =>
    Effect.gen(function* () {
      const first = yield* LanguageModel.generateText({ prompt: "?", toolkit: kit })
      const prompt = Prompt.merge(Prompt.make("?"), LlmLanguageModel.toPrompt(first.content))
      const second = yield* LanguageModel.generateText({ prompt, toolkit: kit })
      assert.deepStrictEqual([second.toolCalls[0]?.id, second.toolResults[0]?.id], ["c0_2", "c0_2"])
      const parts = yield* collect(LanguageModel.streamText({ prompt, toolkit: kit }))
      const ids = parts.flatMap((part) => (part.type === "tool-call" || part.type === "tool-result" ? [part.id] : []))
      assert.deepStrictEqual(ids, ["c0_2", "c0_2"])
    }).pipe(
      Effect.provide([
        handlers,
        scripted({ toolCalls: [call("now", {})] }, { toolCalls: [call("now", {})] }, { toolCalls: [call("now", {})] })
      ])
    )
  )
})

describe("generateObject", () => {
  const Person = Schema.Struct({ name: Schema.String, born: Schema.DateFromString })

  it.effect("gives a value that fits, asked for by its name; Schema values are decoded once", () =>
    Effect.gen(function* () {
      const response = yield* LanguageModel.generateObject({ prompt: "who?", schema: Person, objectName: "a person" })
      assert.deepStrictEqual(response.value, { name: "Ada", born: new Date("1815-12-10T00:00:00.000Z") })
      assert.strictEqual(response.finishReason, "stop")
      const { responseFormat } = only(yield* requests)
      assert.strictEqual(responseFormat?.type === "json-schema" ? responseFormat.name : undefined, "a_person")
    }).pipe(Effect.provide(scripted('```json\n{"name":"Ada","born":"1815-12-10T00:00:00.000Z"}\n```')))
  )

  it.effect("is asked for once more if it does not fit; then it fails", () =>
    Effect.gen(function* () {
      const ask = LanguageModel.generateObject({ prompt: "who?", schema: Person })
      const response = yield* ask
      assert.strictEqual(response.value.name, "Ada")
      assert.strictEqual(response.usage.inputTokens, 3)
      const error = yield* Effect.flip(ask)
      assert.strictEqual(error._tag, "MalformedOutput")
      assert.notInclude(Cause.pretty(Cause.fail(error)), "secret")
    }).pipe(
      Effect.provide(
        scripted(
          { text: "{}", usage: { input: 1 } },
          { text: '{"name":"Ada","born":"1815-12-10"}', usage: { input: 2 } },
          '{"name":["secret"]}',
          '{"name":["secret"]}'
        )
      )
    )
  )

  it.effect("where it is asked for as a tool, the answer is a text that a chat can go on from", () =>
    Effect.gen(function* () {
      const chat = yield* Chat.empty
      const { value } = yield* chat.generateObject({ prompt: "who?", schema: Schema.Struct({ a: Schema.Int }) })
      assert.deepStrictEqual(value, { a: 1 })
      yield* chat.generateText({ prompt: "and?" })
      const asked = yield* requests
      assert.deepStrictEqual(asked.at(-1)?.messages, [
        ChatMessage.user("who?"),
        ChatMessage.assistant('{"a":1}'),
        ChatMessage.user("and?")
      ])
    }).pipe(
      Effect.provide(
        scripted(
          fail("InvalidRequest"),
          (request) => ({ toolCalls: [call(request.tools?.[0]?.name ?? "", { a: 1 })] }),
          "more"
        )
      )
    )
  )
})

describe("generateObject, the odd cases", () => {
  it.effect("a schema that JSON has no words for is a fault of the request, not a defect", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ at: Schema.DateFromSelf }) as unknown as Schema.Schema<unknown, { at: string }>
      const error = yield* Effect.flip(LanguageModel.generateObject({ prompt: "?", schema }))
      assert.strictEqual(error._tag, "MalformedInput")
      const cause = Option.getOrUndefined(LlmLanguageModel.errorOf(error))
      assert.deepStrictEqual([cause?.reason, cause?.isRetryable], ["InvalidRequest", false])
      assert.include(cause?.message, "encode it as one of JSON's")
      assert.include(cause?.message, 'no words for, at ["at"]:')
      assert.include(String(Withheld.originalOf(cause?.cause)), 'at path: ["at"]')
      assert.deepStrictEqual(yield* requests, [])
    }).pipe(Effect.provide(scripted("not asked")))
  )

  it.effect(
    "by a tool: what the model says beside the value, and other tools that it calls, are not of the answer",
    () =>
      Effect.gen(function* () {
        const response = yield* LanguageModel.generateObject({
          prompt: "who?",
          schema: Schema.Struct({ a: Schema.Int }),
          toolkit: yield* kit
        })
        assert.deepStrictEqual(response.value, { a: 1 })
        assert.strictEqual(response.text, '{"a":1}')
        assert.deepStrictEqual(response.toolCalls, [])
        assert.deepStrictEqual(LlmLanguageModel.toPrompt(response.content).content, [
          Prompt.assistantMessage({ content: [Prompt.textPart({ text: '{"a":1}' })] })
        ])
      }).pipe(
        Effect.provide([
          handlers,
          scripted(fail("InvalidRequest"), (request) => ({
            text: "Here it is:",
            toolCalls: [call("now", {}, "x"), call(request.tools?.at(-1)?.name ?? "", { a: 1 }, "y")]
          }))
        ])
      )
  )
})

describe("streamText", () => {
  const text = (delta: string): LlmResponse.LlmStreamPart => ({ type: "text-delta", text: delta })
  const think = (delta: string): LlmResponse.LlmStreamPart => ({ type: "reasoning-delta", text: delta })
  const finish = (content: LlmResponse.FinishPart["content"] = []): LlmResponse.FinishPart => ({
    type: "finish",
    finish: "stop",
    finishReason: "end_turn",
    usage: { input: 1, output: 2 },
    model: "m-1",
    id: "r1",
    content,
    rateLimits: undefined
  })

  it.effect("opens and closes blocks as what comes changes", () =>
    Effect.gen(function* () {
      const parts = yield* collect(LanguageModel.streamText({ prompt: "hi" }))
      const said = parts.map((part) =>
        "id" in part && "delta" in part ? [part.type, part.id, part.delta] : [part.type]
      )
      assert.deepStrictEqual(said, [
        ["reasoning-start"],
        ["reasoning-delta", "0", "h"],
        ["reasoning-delta", "0", "m"],
        ["reasoning-end"],
        ["text-start"],
        ["text-delta", "1", "Hel"],
        ["text-delta", "1", "lo"],
        ["text-end"],
        ["response-metadata"],
        ["finish"]
      ])
      const end = parts.at(-1)
      assert.strictEqual(end?.type === "finish" ? end.usage.totalTokens : undefined, 3)
      assert.deepStrictEqual(end?.metadata, { anthropic: { finishReason: "end_turn" } })
    }).pipe(
      Effect.provide(asModel(answering({}, [think("h"), think("m"), text("Hel"), text(""), text("lo"), finish()])))
    )
  )

  it.effect("streaming with a toolkit works (Effect-TS/effect#6128): the tool without parameters too", () =>
    Effect.gen(function* () {
      const parts = yield* collect(LanguageModel.streamText({ prompt: "hi", toolkit: kit }))
      assert.deepStrictEqual(typesOf(parts), [
        "text-start",
        "text-delta",
        "text-end",
        "tool-params-start",
        "tool-params-start",
        "tool-params-delta",
        "tool-params-delta",
        "tool-params-end",
        "tool-call",
        "tool-params-end",
        "tool-call",
        "tool-result",
        "tool-result",
        "response-metadata",
        "finish"
      ])
      const calls = parts.flatMap((part) => (part.type === "tool-call" ? [[part.id, part.name, part.params]] : []))
      assert.deepStrictEqual(calls, [
        ["c1", "weather", { city: "Rome" }],
        ["c0", "now", {}]
      ] as ReadonlyArray<unknown> as never)
      const ids = parts.flatMap((part) => (part.type === "tool-params-start" ? [part.id, part.name] : []))
      assert.deepStrictEqual(ids, ["c0", "now", "c1", "weather"])
      const results = parts.flatMap((part) => (part.type === "tool-result" ? [part.encodedResult] : []))
      assert.deepStrictEqual(results, [{ celsius: 4 }, 1234])
    }).pipe(
      Effect.provide([
        handlers,
        asModel(
          answering({}, [
            text("Look:"),
            { type: "tool-call-delta", index: 0, id: "c0", name: "now", text: "" },
            { type: "tool-call-delta", index: 1, id: "", name: "", text: '{"city":' },
            { type: "tool-call-delta", index: 1, id: "c1", name: "weather", text: "" },
            { type: "tool-call-delta", index: 1, id: "", name: "", text: '"Rome"}' },
            { type: "tool-call", id: "c1", name: "weather", arguments: { city: "Rome" } },
            { type: "tool-call", id: "c0", name: "now", arguments: {} },
            { ...finish(), finish: "tool-calls" }
          ])
        )
      ])
    )
  )

  it.effect("arguments whose call had no id while they came have the id of the call", () =>
    Effect.gen(function* () {
      const parts = yield* collect(LanguageModel.streamText({ prompt: "hi", toolkit: kit }))
      const ids = parts.flatMap((part) => (part.type.startsWith("tool-") && "id" in part ? [[part.type, part.id]] : []))
      assert.deepStrictEqual(ids, [
        ["tool-params-start", "made"],
        ["tool-params-delta", "made"],
        ["tool-params-end", "made"],
        ["tool-call", "made"],
        ["tool-result", "made"]
      ])
    }).pipe(
      Effect.provide([
        handlers,
        asModel(
          answering({}, [
            { type: "tool-call-delta", index: 0, id: "", name: "now", text: "{}" },
            { type: "tool-call", id: "made", name: "now", arguments: {} },
            finish()
          ])
        )
      ])
    )
  )

  it("is the same in any chunks; every block begins once, ends once and has its pieces in between", () => {
    const word = FastCheck.string({ maxLength: 3 })
    const delta = FastCheck.oneof(
      FastCheck.record({
        type: FastCheck.constantFrom("text-delta" as const, "reasoning-delta" as const, "refusal-delta" as const),
        text: word
      }),
      FastCheck.record({
        type: FastCheck.constant("tool-call-delta" as const),
        index: FastCheck.nat({ max: 2 }),
        id: FastCheck.constantFrom("", "c0", "c1"),
        name: FastCheck.constantFrom("", "now"),
        text: word
      }),
      FastCheck.record({
        type: FastCheck.constant("tool-call" as const),
        id: FastCheck.constantFrom("c0", "c1", "c2"),
        name: FastCheck.constant("now"),
        arguments: FastCheck.constant({})
      })
    )
    const run = (parts: ReadonlyArray<LlmResponse.LlmStreamPart>, size: number) => {
      const llm = Llm.make({
        ...answering({}),
        stream: () => Stream.fromIterable(parts).pipe(Stream.rechunk(size))
      })
      return LanguageModel.streamText({ prompt: "?", toolkit: kit, disableToolCallResolution: true }).pipe(
        collect,
        Effect.provide([handlers, asModel(llm)]),
        Effect.runSync
      )
    }
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(delta, { maxLength: 20 }),
        FastCheck.integer({ min: 1, max: 30 }),
        (deltas, size) => {
          const given: ReadonlyArray<LlmResponse.LlmStreamPart> = [...deltas, finish()]
          const parts = run(given, size)
          const plain = (all: typeof parts) => JSON.stringify(all.filter((part) => part.type !== "response-metadata"))
          assert.strictEqual(plain(parts), plain(run(given, 1)))
          const open = new Map<string, string>()
          const begun = new Set<string>()
          let text = ""
          for (const part of parts) {
            const [, kind = "", what] = /^(text|reasoning|tool-params)-(start|delta|end)$/.exec(part.type) ?? []
            if (what === undefined || !("id" in part) || typeof part.id !== "string") continue
            const key = `${kind} ${part.id}`
            if (what === "start") {
              assert.isFalse(begun.has(key))
              begun.add(key)
              open.set(key, kind)
            } else assert.isTrue(open.has(key), part.type)
            if (what === "end") open.delete(key)
            if (part.type === "text-delta") text += part.delta
          }
          assert.strictEqual(open.size, 0)
          const said = deltas.map((each) =>
            each.type === "text-delta" || each.type === "refusal-delta" ? each.text : ""
          )
          assert.strictEqual(text, said.join(""))
          const ids = parts.flatMap((part) => (part.type === "tool-call" ? [part.id] : []))
          assert.strictEqual(new Set(ids).size, ids.length)
          assert.lengthOf(ids, deltas.filter((each) => each.type === "tool-call").length)
        }
      ),
      { numRuns: 100 }
    )
  })

  it.effect("no tool runs for an answer that breaks off, and the break is typed", () =>
    Effect.gen(function* () {
      const ran = yield* Ref.make(0)
      const seen: Array<string> = []
      const exit = yield* LanguageModel.streamText({ prompt: "hi", toolkit: Toolkit.make(Now) }).pipe(
        Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))),
        Effect.provide(Toolkit.make(Now).toLayer({ now: () => Ref.updateAndGet(ran, (n) => n + 1) })),
        Effect.exit
      )
      assert.deepStrictEqual(seen, ["text-start", "text-delta", "text-end", "tool-call"])
      assert.strictEqual(yield* Ref.get(ran), 0)
      const error = Exit.isFailure(exit) ? Option.getOrThrow(Cause.failureOption(exit.cause)) : undefined
      assert.strictEqual(error?._tag, "MalformedOutput")
      const cause = Option.getOrThrow(LlmLanguageModel.errorOf(error))
      assert.strictEqual(cause.reason, "StreamTruncated")
    }).pipe(
      Effect.provide(
        scripted({
          steps: [
            "Hi",
            { type: "tool-call", id: "c", name: "now", arguments: {} },
            fail("StreamTruncated", { midStream: true, status: 200 })
          ]
        })
      )
    )
  )

  it.effect("text is handed on while it comes, tools run as many at once as is said, interruption stops them", () =>
    Effect.gen(function* () {
      const begun = yield* Deferred.make<void>()
      const stopped = yield* Deferred.make<void>()
      const running = yield* Ref.make(0)
      const layer = Toolkit.make(Now).toLayer({
        now: () =>
          Effect.gen(function* () {
            if ((yield* Ref.updateAndGet(running, (n) => n + 1)) === 2) yield* Deferred.succeed(begun, undefined)
            return yield* Effect.never
          }).pipe(Effect.onInterrupt(() => Deferred.succeed(stopped, undefined)))
      })
      const seen: Array<string> = []
      const fiber = yield* LanguageModel.streamText({ prompt: "?", toolkit: Toolkit.make(Now), concurrency: 2 }).pipe(
        Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))),
        Effect.provide(layer),
        Effect.fork
      )
      yield* Deferred.await(begun)
      assert.deepStrictEqual(seen, ["text-start", "text-delta", "text-end", "tool-call", "tool-call", "tool-call"])
      yield* Fiber.interrupt(fiber)
      yield* Deferred.await(stopped)
      assert.strictEqual(yield* Ref.get(running), 2)
    }).pipe(
      Effect.provide(
        scripted({ text: "Wait", toolCalls: [call("now", {}, "a"), call("now", {}, "b"), call("now", {}, "c")] })
      )
    )
  )

  it.effect("signatures and parts that only the provider understands go back (complaint 13)", () => {
    const content: LlmResponse.FinishPart["content"] = [
      { type: "reasoning", text: "hm", signature: "s1", provider: "anthropic" },
      { type: "provider", provider: "anthropic", data: { type: "redacted_thinking", data: "r" } },
      { type: "text", text: "Hi" },
      { type: "tool-call", id: "c", name: "now", arguments: {}, signature: "s2", provider: "anthropic" }
    ]
    const made = {
      type: "tool-call",
      id: "c",
      name: "now",
      arguments: {},
      signature: "s2",
      provider: "anthropic"
    } as const
    const llm = answering({ text: "Hi", reasoning: "hm", toolCalls: [made], content }, [
      think("hm"),
      text("Hi"),
      made,
      finish(content)
    ])
    return Effect.gen(function* () {
      const streamed = yield* collect(LanguageModel.streamText({ prompt: "hi", toolkit: kit }))
      const whole = yield* LanguageModel.generateText({ prompt: "hi", toolkit: kit })
      for (const parts of [streamed, whole.content] as ReadonlyArray<ReadonlyArray<Response.AnyPart>>) {
        // Kept as JSON in between, as chats are.
        const prompt = yield* Schema.encode(Prompt.FromJson)(LlmLanguageModel.toPrompt(parts)).pipe(
          Effect.flatMap(Schema.decode(Prompt.FromJson))
        )
        const asked: Array<LlmRequest.LlmRequest> = []
        const next = Llm.make({
          ...llm,
          generate: (request) => {
            asked.push(request)
            return llm.generate(request)
          }
        })
        yield* LanguageModel.generateText({ prompt, toolkit: kit }).pipe(Effect.provide(asModel(next)))
        assert.deepStrictEqual(only(asked).messages, [
          { role: "assistant", content },
          { role: "tool", content: [{ type: "tool-result", id: "c", name: "now", result: 1234 }] }
        ])
      }
      // What a program makes of the parts by hand has them too.
      const reasoning = whole.content.filter((part) => part.type === "reasoning")
      assert.deepStrictEqual(
        reasoning.map(({ metadata }) => metadata),
        [{ anthropic: { signature: "s1" } }, { anthropic: { part: { type: "redacted_thinking", data: "r" } } }]
      )
    }).pipe(Effect.provide([handlers, asModel(llm)]))
  })

  it.effect("a chat of @effect/ai keeps the signatures of answers that call tools, each conversation its own", () => {
    const content = (signature: string): LlmResponse.FinishPart["content"] => [
      { type: "reasoning", text: "hm", signature, provider: "anthropic" },
      { type: "text", text: "Hi" },
      { type: "tool-call", id: "c", name: "late", arguments: { at: "5" } }
    ]
    const made = { type: "tool-call", id: "c", name: "late", arguments: { at: "5" } } as const
    const asked: Array<LlmRequest.LlmRequest> = []
    const answer = (request: LlmRequest.LlmRequest) => {
      asked.push(request)
      return content(`s${asked.length}`)
    }
    const llm = Llm.make({
      provider: "anthropic",
      model: "m",
      generate: (request) =>
        Effect.map(
          Effect.sync(() => answer(request)),
          (said) => ({ text: "Hi", reasoning: "hm", toolCalls: [made], content: said, finish: "tool-calls", usage: {} })
        ),
      stream: (request) =>
        Stream.suspend(() => Stream.fromIterable([think("hm"), text("Hi"), made, finish(answer(request))]))
    })
    return Effect.gen(function* () {
      const first = yield* Chat.empty
      const second = yield* Chat.empty
      yield* first.generateText({ prompt: "one", toolkit: kit })
      yield* Stream.runDrain(second.streamText({ prompt: "one", toolkit: kit }))
      yield* first.generateText({ prompt: "two", toolkit: kit })
      yield* Stream.runDrain(second.streamText({ prompt: "two", toolkit: kit }))
      const said = asked.map(({ messages }) => messages.find((message) => message.role === "assistant")?.content)
      assert.deepStrictEqual(said, [undefined, undefined, content("s1"), content("s2")])
      // One that was changed by hand is what it was changed to.
      const changed = (yield* first.history).content.map((message) =>
        message.role === "assistant"
          ? Prompt.assistantMessage({ content: [...message.content, Prompt.textPart({ text: "!" })] })
          : message
      )
      yield* LanguageModel.generateText({ prompt: Prompt.fromMessages(changed), toolkit: kit })
      const last = asked.at(-1)?.messages.find((message) => message.role === "assistant")
      assert.notInclude(JSON.stringify(last), "s1")
      assert.include(JSON.stringify(last), '"!"')
    }).pipe(Effect.provide([handlers, asModel(llm)]))
  })

  it.effect("what was said before a call that does not fit is handed on, in one chunk or in many", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const error = yield* LanguageModel.streamText({ prompt: "hi", toolkit: kit }).pipe(
        Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))),
        Effect.flip
      )
      assert.strictEqual(AiError.isAiError(error) ? error._tag : undefined, "MalformedOutput")
      assert.deepStrictEqual(seen, ["text-start", "text-delta", "text-end"])
    }).pipe(
      Effect.provide([
        handlers,
        asModel(answering({}, [text("Hi"), { type: "tool-call", id: "c", name: "weather", arguments: 1 }, finish()]))
      ])
    )
  )

  it.effect("an answer without a finish is no success", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Stream.runDrain(LanguageModel.streamText({ prompt: "hi" })))
      assert.strictEqual(error._tag, "MalformedOutput")
    }).pipe(Effect.provide(asModel(answering({}, [text("Hi")]))))
  )

  it.effect("a chat goes on with what was streamed", () =>
    Effect.gen(function* () {
      const chat = yield* Chat.empty
      yield* Stream.runDrain(chat.streamText({ prompt: "one", toolkit: kit }))
      yield* Stream.runDrain(chat.streamText({ prompt: "two", toolkit: kit }))
      assert.deepStrictEqual((yield* requests).at(-1)?.messages, [
        ChatMessage.user("one"),
        {
          role: "assistant",
          content: [
            { type: "text", text: "Wait" },
            { type: "tool-call", id: "c0", name: "now", arguments: {} }
          ]
        },
        { role: "tool", content: [{ type: "tool-result", id: "c0", name: "now", result: 1234 }] },
        ChatMessage.user("two")
      ])
    }).pipe(Effect.provide([handlers, scripted({ text: "Wait", toolCalls: [call("now", {})] }, "ok")]))
  )
})

describe("errors", () => {
  const of = (error: LlmError.LlmError) =>
    Effect.flip(LanguageModel.generateText({ prompt: "secret" })).pipe(Effect.provide(scripted(error)))

  it.effect("are of the kind that @effect/ai has for them, with the LlmError as their cause", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [LlmError.LlmError, AiError.AiError["_tag"]]> = [
        [fail("RateLimited", { status: 429, retryable: true }), "HttpResponseError"],
        [fail("InvalidRequest", { status: 400 }), "HttpResponseError"],
        [fail("MalformedResponse", { status: 200 }), "MalformedOutput"],
        [fail("StreamTruncated", { midStream: true }), "MalformedOutput"],
        [fail("Overloaded", { status: 200, midStream: true }), "UnknownError"],
        [fail("Network", { retryable: true }), "HttpRequestError"],
        [fail("Timeout", { retryable: true }), "HttpRequestError"],
        [fail("Timeout", { midStream: true }), "UnknownError"],
        [fail("InvalidRequest"), "MalformedInput"],
        [fail("CircuitOpen", { retryable: true }), "UnknownError"],
        [fail("ContentFiltered"), "UnknownError"]
      ]
      for (const [given, tag] of cases) {
        const error = yield* of(given)
        assert.strictEqual(error._tag, tag, given.reason)
        assert.isTrue(AiError.isAiError(error))
        const cause = Option.getOrThrow(LlmLanguageModel.errorOf(error))
        assert.strictEqual(cause.reason, given.reason)
        assert.strictEqual(cause.isRetryable, given.retryable)
        assert.isTrue(Either.isRight(Schema.encodeEither(AiError.AiError)(error)))
      }
      assert.deepStrictEqual(LlmLanguageModel.errorOf(new Error("other")), Option.none())
    })
  )

  it.effect("say the status and how long to wait, and nothing of the prompt or the provider's words", () =>
    Effect.gen(function* () {
      const error = yield* of(
        LlmTest.error("RateLimited", { status: 429, retryAfter: "1500 millis", providerMessage: "about secret" })
      )
      assert.strictEqual(error._tag, "HttpResponseError")
      if (error._tag !== "HttpResponseError") return
      assert.strictEqual(error.response.status, 429)
      assert.deepStrictEqual({ ...error.response.headers }, { "retry-after": "2", "retry-after-ms": "1500" })
      assert.strictEqual(error.request.url, "llm://scripted/scripted")
      assert.notInclude(error.message + JSON.stringify(error) + Cause.pretty(Cause.fail(error)), "secret")
    })
  )
})

describe("telemetry", () => {
  it.scoped("the span of @effect/ai holds the client's, and that of tools no arguments", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      const chat = (request: LlmRequest.LlmRequest) =>
        Effect.withSpan(answering({ text: "x" }).generate(request), "chat m", { kind: "client" })
      const llm = Llm.make({
        ...answering({}),
        generate: (request) =>
          Effect.map(chat(request), (response) => ({
            ...response,
            toolCalls: [{ type: "tool-call" as const, id: "c", name: "weather", arguments: { city: "Secret" } }],
            content: []
          }))
      })
      yield* recording.within(
        LanguageModel.generateText({ prompt: "secret", toolkit: kit }).pipe(Effect.provide([handlers, asModel(llm)]))
      )
      const spans = yield* recording.spans
      assert.deepStrictEqual(
        spans.map((span) => [span.name, span.kind]),
        [
          ["LanguageModel.generateText", "internal"],
          ["chat m", "client"],
          ["Toolkit.handle", "internal"]
        ]
      )
      for (const span of spans.slice(1)) {
        assert.strictEqual(Option.getOrThrow(span.parent).spanId, spans[0]?.spanId)
      }
      const said = JSON.stringify(spans.map((span) => [...span.attributes]))
      assert.notMatch(said, /secret/i)
    })
  )

  it.effect("a span transformer sees the request and the answer, whole and streamed", () =>
    Effect.gen(function* () {
      const seen: Array<ReadonlyArray<string>> = []
      const transformer = Telemetry.CurrentSpanTransformer.of(({ prompt, response, span }) => {
        seen.push([span._tag, String(prompt.content.length), ...typesOf(response)])
      })
      const whole = LanguageModel.generateText({ prompt: "a" })
      const streamed = Stream.runDrain(LanguageModel.streamText({ prompt: "a" }))
      yield* Effect.provideService(Effect.zipRight(whole, streamed), Telemetry.CurrentSpanTransformer, transformer)
      assert.deepStrictEqual(seen, [
        ["Span", "1", "response-metadata", "text", "finish"],
        ["Span", "1", "text-start", "text-delta", "text-end", "response-metadata", "finish"]
      ])
    }).pipe(Effect.provide(scripted("x", "y")))
  )
})

describe("EmbeddingModel", () => {
  const counted = (asked: Array<ReadonlyArray<string>>) =>
    Layer.succeed(
      Embeddings.Embeddings,
      Embeddings.Embeddings.of({
        model: "e",
        dimensions: 2,
        embed: (text) => Effect.succeed([text.length, 0]),
        embedMany: (texts) =>
          Effect.suspend(() => {
            asked.push(texts)
            return texts.includes("bad")
              ? Effect.fail(
                  new Embeddings.EmbeddingsError({
                    reason: "RateLimited",
                    method: "embedMany",
                    description: "slow down",
                    cause: fail("RateLimited", { status: 429, retryable: true })
                  })
                )
              : Effect.succeed(texts.map((text) => [text.length, 1]))
          })
      })
    )

  it.effect("embeds one and many, in order, in one call", () => {
    const asked: Array<ReadonlyArray<string>> = []
    return Effect.gen(function* () {
      const model = yield* EmbeddingModel.EmbeddingModel
      assert.deepStrictEqual(yield* model.embed("abc"), [3, 1])
      assert.deepStrictEqual(yield* model.embedMany(["a", "bb", "a"]), [
        [1, 1],
        [2, 1],
        [1, 1]
      ])
      assert.deepStrictEqual(yield* model.embedMany([]), [])
      assert.deepStrictEqual(asked, [["abc"], ["a", "bb", "a"]])
    }).pipe(Effect.provide(Layer.provide(LlmLanguageModel.layerEmbeddingModel, counted(asked))))
  })

  it.effect("embeds together what is batched, and keeps what it is told to keep", () => {
    const asked: Array<ReadonlyArray<string>> = []
    return Effect.gen(function* () {
      const model = yield* EmbeddingModel.EmbeddingModel
      const each = Effect.forEach(["a", "bb"], (text) => model.embed(text), {
        batching: true,
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* each, [
        [1, 1],
        [2, 1]
      ])
      yield* each
      assert.deepStrictEqual(asked, [["a", "bb"]])
    }).pipe(
      Effect.provide(
        Layer.provide(
          LlmLanguageModel.layerEmbeddingModelOf({ cache: { capacity: 10, timeToLive: "1 hour" } }),
          counted(asked)
        )
      )
    )
  })

  it.effect("errors keep what they were", () =>
    Effect.gen(function* () {
      const model = yield* EmbeddingModel.EmbeddingModel
      for (const ask of [model.embed("bad"), model.embedMany(["bad"])] as ReadonlyArray<
        Effect.Effect<unknown, AiError.AiError>
      >) {
        const error = yield* Effect.flip(ask)
        assert.strictEqual(error._tag, "HttpResponseError")
        const cause = Option.getOrThrow(LlmLanguageModel.errorOf(error))
        assert.deepStrictEqual([cause.reason, cause.isRetryable], ["RateLimited", true])
      }
    }).pipe(Effect.provide(Layer.provide(LlmLanguageModel.layerEmbeddingModel, counted([]))))
  )
})
