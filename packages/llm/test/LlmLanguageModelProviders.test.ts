/** Every provider as a `LanguageModel` of `@effect/ai`, over loopback servers: by hand-written answers and by recordings. */
import { LanguageModel, Prompt, type Response, Tool, Toolkit } from "@effect/ai"
import { FetchHttpClient, type HttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import * as Recording from "@underlay/core/testing/Recording"
import {
  Anthropic,
  AzureOpenAi,
  Google,
  Groq,
  HuggingFace,
  type Llm,
  LlmError,
  type LlmTest,
  Ollama,
  OpenAi,
  Replicate
} from "@underlay/llm"
import * as LlmLanguageModel from "@underlay/llm/LlmLanguageModel"
import * as Need from "@underlay/servers/Need"
import {
  Chunk,
  Deferred,
  Effect,
  Either,
  Fiber,
  Layer,
  Option,
  Queue,
  Redacted,
  Schema,
  type Scope,
  Stream
} from "effect"
import { casesOf } from "./corpus.ts"
import { type Server, serve } from "./server.ts"

const apiKey = Redacted.make("key-of-a-test")
const settings = { apiKey, model: "m", retry: false } as const

type Made = Layer.Layer<Llm.Llm, LlmError.LlmError, HttpClient.HttpClient>

/** A provider at a loopback server, by its name and what is spoken. */
const providers = {
  openai: (url: string, api: "responses" | "chat-completions" = "responses"): Made =>
    OpenAi.layer({ ...settings, baseUrl: `${url}/v1`, api }),
  azure: (url: string, api: "responses" | "chat-completions" = "responses"): Made =>
    AzureOpenAi.layer({ ...settings, endpoint: url, api }),
  anthropic: (url: string): Made => Anthropic.layer({ ...settings, baseUrl: `${url}/v1` }),
  groq: (url: string): Made => Groq.layer({ ...settings, baseUrl: `${url}/openai/v1` }),
  google: (url: string): Made => Google.layer({ ...settings, baseUrl: `${url}/v1beta` }),
  huggingface: (url: string): Made => HuggingFace.layer({ ...settings, baseUrl: `${url}/v1` }),
  ollama: (url: string, api: "responses" | "chat-completions" | "native" = "native"): Made =>
    Ollama.layer({ ...settings, host: url, api: api === "native" ? "native" : "v1" })
} as const
type Name = keyof typeof providers

const model = (made: Made) => LlmLanguageModel.layer.pipe(Layer.provide(made), Layer.provide(FetchHttpClient.layer))

// ---------------------------------------------------------------------------------------------------------------------
// By hand
// ---------------------------------------------------------------------------------------------------------------------

const Now = Tool.make("now", { description: "The time", success: Schema.Number })
const kit = Toolkit.make(Now)
const handlers = kit.toLayer({ now: () => Effect.succeed(1234) })

const events = (...all: ReadonlyArray<unknown>): string =>
  all.map((each) => `data: ${JSON.stringify(each)}\n\n`).join("")

/** The way in which each says: call `now`; then the whole answer "Noon." Fields that nobody knows are in all of them. */
interface Wire {
  readonly call: string
  readonly type: string
  readonly answer: unknown
  /** What the second request must say of the tool's result. */
  readonly result: RegExp
}

const responses: Wire = {
  type: "text/event-stream",
  call: events(
    { type: "response.created", response: { id: "r1", model: "m-1", status: "in_progress" }, novel: 1 },
    { type: "response.novel.event", sequence_number: 1 },
    {
      type: "response.output_item.added",
      output_index: 0,
      item: { type: "function_call", id: "fc_1", call_id: "c1", name: "now", arguments: "" }
    },
    { type: "response.function_call_arguments.delta", output_index: 0, item_id: "fc_1", delta: "{}" },
    {
      type: "response.output_item.done",
      output_index: 0,
      item: { type: "function_call", id: "fc_1", call_id: "c1", name: "now", arguments: "{}", novel: true }
    },
    {
      type: "response.completed",
      response: {
        id: "r1",
        model: "m-1",
        status: "completed",
        output: [{ type: "function_call", id: "fc_1", call_id: "c1", name: "now", arguments: "{}" }],
        usage: { input_tokens: 3, output_tokens: 2, total_tokens: 5, novel_tokens: 9 }
      }
    }
  ),
  answer: {
    id: "r2",
    model: "m-1",
    status: "completed",
    novel: { a: 1 },
    output: [{ type: "message", role: "assistant", content: [{ type: "output_text", text: "Noon.", novel: 1 }] }],
    usage: { input_tokens: 5, output_tokens: 1, total_tokens: 6 }
  },
  result: /"type":"function_call_output","call_id":"c1","output":"1234"/
}

const chat: Wire = {
  type: "text/event-stream",
  call: `${events(
    { id: "r1", model: "m-1", novel: 1, choices: [{ index: 0, delta: { role: "assistant", novel: 2 } }] },
    {
      id: "r1",
      model: "m-1",
      choices: [
        {
          index: 0,
          delta: { tool_calls: [{ index: 0, id: "c1", type: "function", function: { name: "now", arguments: "{}" } }] }
        }
      ]
    },
    {
      id: "r1",
      model: "m-1",
      choices: [{ index: 0, delta: {}, finish_reason: "tool_calls" }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 }
    }
  )}data: [DONE]\n\n`,
  answer: {
    id: "r2",
    model: "m-1",
    novel: true,
    choices: [{ index: 0, message: { role: "assistant", content: "Noon.", novel: 1 }, finish_reason: "stop" }],
    usage: { prompt_tokens: 5, completion_tokens: 1, total_tokens: 6 }
  },
  result: /"role":"tool"[^}]*"content":"1234"|"content":"1234"[^}]*"role":"tool"/
}

const messages: Wire = {
  type: "text/event-stream",
  call: [
    {
      type: "message_start",
      message: { id: "r1", model: "m-1", usage: { input_tokens: 3, output_tokens: 1 }, novel: 1 }
    },
    { type: "novel_event", index: 0 },
    { type: "content_block_start", index: 0, content_block: { type: "tool_use", id: "c1", name: "now", input: {} } },
    { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: "{}" } },
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: "tool_use", novel: 1 }, usage: { output_tokens: 2 } },
    { type: "message_stop" }
  ]
    .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
    .join(""),
  answer: {
    id: "r2",
    type: "message",
    role: "assistant",
    model: "m-1",
    novel: 1,
    content: [
      { type: "novel_block", data: 1 },
      { type: "text", text: "Noon.", novel: 1 }
    ],
    stop_reason: "end_turn",
    usage: { input_tokens: 5, output_tokens: 1, novel: { a: 1 } }
  },
  result: /"type":"tool_result","tool_use_id":"c1","content":"1234"/
}

const gemini: Wire = {
  type: "text/event-stream",
  call: events({
    responseId: "r1",
    modelVersion: "m-1",
    novel: 1,
    candidates: [
      {
        content: {
          role: "model",
          parts: [{ functionCall: { id: "c1", name: "now", args: {} }, thoughtSignature: "sig" }]
        },
        finishReason: "STOP",
        novel: 2
      }
    ],
    usageMetadata: { promptTokenCount: 3, candidatesTokenCount: 2, totalTokenCount: 5 }
  }).replaceAll("\n", "\r\n"),
  answer: {
    responseId: "r2",
    modelVersion: "m-1",
    candidates: [{ content: { role: "model", parts: [{ text: "Noon." }] }, finishReason: "STOP" }],
    usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 1, totalTokenCount: 6 }
  },
  // Effect-TS/effect#6008: a result that is no object is put into one.
  result: /"functionResponse":\{"id":"c1","name":"now","response":\{"output":1234\}\}/
}

const native: Wire = {
  type: "application/x-ndjson",
  call: [
    {
      model: "m-1",
      message: { role: "assistant", content: "", tool_calls: [{ function: { name: "now", arguments: {} } }] },
      done: false,
      novel: 1
    },
    {
      model: "m-1",
      message: { role: "assistant", content: "" },
      done: true,
      done_reason: "stop",
      prompt_eval_count: 3,
      eval_count: 2
    }
  ]
    .map((line) => `${JSON.stringify(line)}\n`)
    .join(""),
  answer: {
    model: "m-1",
    message: { role: "assistant", content: "Noon.", novel: 1 },
    done: true,
    done_reason: "stop",
    prompt_eval_count: 5,
    eval_count: 1
  },
  result: /"role":"tool"[^}]*"content":"1234"/
}

const wires: { readonly [K in Name]: Wire } = {
  openai: responses,
  azure: responses,
  anthropic: messages,
  groq: chat,
  google: gemini,
  huggingface: chat,
  ollama: native
}

const names = Object.keys(wires) as ReadonlyArray<Name>

const collect = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

/** Serves the call, then the answer, then again. */
const conversation = (wire: Wire): Effect.Effect<Server, never, Scope.Scope> =>
  serve(({ index, response }) => {
    response.writeHead(200, { "content-type": index % 2 === 0 ? wire.type : "application/json" })
    response.end(index % 2 === 0 ? wire.call : JSON.stringify(wire.answer))
  })

describe("every provider", () => {
  for (const name of names) {
    const wire = wires[name]
    it.scopedLive(
      `${name}: streams with a toolkit, answers a number, goes on; what is new does not matter (Effect-TS/effect#5079, #6128, #6008)`,
      () =>
        Effect.gen(function* () {
          const server = yield* conversation(wire)
          const recording = yield* Recording.make
          yield* recording.within(
            Effect.gen(function* () {
              const parts = yield* collect(LanguageModel.streamText({ prompt: "What time is it?", toolkit: kit }))
              const [call] = parts.flatMap((part) => (part.type === "tool-call" ? [part] : []))
              const [result] = parts.flatMap((part) => (part.type === "tool-result" ? [part] : []))
              assert.deepStrictEqual([call?.name, call?.params, result?.encodedResult], ["now", {}, 1234])
              assert.strictEqual(result?.id, call?.id)
              const [started] = parts.flatMap((part) => (part.type === "tool-params-start" ? [part] : []))
              if (started !== undefined) assert.strictEqual(started.id, call?.id)
              const end = parts.at(-1)
              assert.strictEqual(end?.type, "finish")
              if (end?.type !== "finish") return
              assert.strictEqual(end.reason, "tool-calls")
              assert.deepStrictEqual([end.usage.inputTokens, end.usage.outputTokens, end.usage.totalTokens], [3, 2, 5])

              const prompt = Prompt.merge(Prompt.make("What time is it?"), LlmLanguageModel.toPrompt(parts))
              const answer = yield* LanguageModel.generateText({ prompt, toolkit: kit })
              assert.deepStrictEqual([answer.text, answer.finishReason], ["Noon.", "stop"])
              assert.strictEqual(answer.usage.totalTokens, 6)
            }).pipe(Effect.provide([handlers, model(providers[name](server.url))]))
          )
          assert.lengthOf(server.seen, 2)
          const [first, second] = server.seen.map(({ body }) => body)
          assert.match(first ?? "", /"now"/)
          assert.match(second ?? "", wire.result)
          if (name === "google") assert.include(second, '"thoughtSignature":"sig"')
          // One span of the client for each call, however many there are round it.
          const spans = yield* recording.spans
          const own = spans.filter((span) => span.attributes.has("gen_ai.operation.name"))
          assert.deepStrictEqual(
            own.map((span) => [span.kind, Option.getOrUndefined(span.parent)?._tag]),
            [
              ["client", "Span"],
              ["client", "Span"]
            ]
          )
          assert.deepStrictEqual(
            spans.filter((span) => Option.isNone(span.parent)).map((span) => span.name),
            ["LanguageModel.streamText", "LanguageModel.generateText"]
          )
        })
    )

    it.scopedLive(`${name}: an error of the provider keeps its reason and whether to try again`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(503, { "content-type": "text/html", "retry-after": "3" })
          response.end("<html>secret</html>")
        })
        const whole = LanguageModel.generateText({ prompt: "secret" })
        const streamed = Stream.runDrain(LanguageModel.streamText({ prompt: "secret" }))
        for (const ask of [whole, streamed] as const) {
          const error = yield* Effect.flip(Effect.provide(ask as typeof whole, model(providers[name](server.url))))
          assert.strictEqual(error._tag, "HttpResponseError")
          assert.notInclude(JSON.stringify(error), "secret")
          const cause = Option.getOrThrow(LlmLanguageModel.errorOf(error))
          assert.isTrue(cause.isRetryable)
          if (cause instanceof LlmError.LlmError) assert.strictEqual(cause.status, 503)
        }
      })
    )
  }

  it.scopedLive("interrupting a stream, or taking no more of it, closes the socket within 50 ms", () =>
    Effect.gen(function* () {
      const closed = yield* Queue.unbounded<number>()
      const server = yield* serve(({ response }) => {
        response.on("close", () => Queue.unsafeOffer(closed, performance.now()))
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(events({ id: "r1", model: "m-1", choices: [{ index: 0, delta: { content: "Hi" } }] }))
      })
      const stream = Stream.provideLayer(LanguageModel.streamText({ prompt: "?" }), model(providers.groq(server.url)))
      // the quickest of several: what a busy machine adds is not ours, and what is slow by itself is slow each time
      const took: Array<number> = []
      while (took.length < 5 && !(Math.min(...took) < 50)) {
        const first = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          Stream.runForEach(stream, (part) =>
            part.type === "text-delta" ? Deferred.succeed(first, undefined) : Effect.void
          )
        )
        yield* Deferred.await(first)
        const before = performance.now()
        yield* Fiber.interrupt(fiber)
        took.push((yield* Queue.take(closed)) - before)
      }
      assert.isBelow(Math.min(...took), 50)
      const [start] = yield* collect(Stream.take(stream, 1))
      assert.strictEqual(start?.type, "text-start")
      yield* Queue.take(closed)
      assert.strictEqual(server.aborted(), took.length + 1)
    })
  )

  it.scopedLive("replicate too, which knows no tools: that is said before it is asked", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        response.writeHead(201, { "content-type": "application/json" })
        const base = `http://${request.headers.host}/v1/predictions/p1`
        response.end(
          JSON.stringify({
            id: "p1",
            model: "meta/llama",
            status: "succeeded",
            output: ["No", "on."],
            urls: { get: base, cancel: `${base}/cancel` },
            metrics: { input_token_count: 7, output_token_count: 3 }
          })
        )
      })
      const made = Replicate.layer({ ...settings, model: "meta/llama", baseUrl: `${server.url}/v1` })
      yield* Effect.gen(function* () {
        const response = yield* LanguageModel.generateText({ prompt: "What time is it?" })
        assert.deepStrictEqual([response.text, response.usage.totalTokens], ["Noon.", 10])
        const error = yield* Effect.flip(
          LanguageModel.generateText({ prompt: "?", toolkit: kit, toolChoice: "required" })
        )
        assert.strictEqual(error._tag, "MalformedInput")
        assert.lengthOf(server.seen, 1)
      }).pipe(Effect.provide([handlers, model(made)]))
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Recordings
// ---------------------------------------------------------------------------------------------------------------------

const spoken: Readonly<Record<string, "native" | "responses" | "chat-completions">> = {
  "chat/completions": "chat-completions",
  responses: "responses",
  messages: "native",
  generateContent: "native",
  streamGenerateContent: "native",
  "api/chat": "native"
}

const cases = casesOf().filter(({ recording }) => recording.provider in providers && recording.api in spoken)

const layerFor = ({ api, provider }: LlmTest.Recording, url: string): Made => {
  const how = spoken[api] ?? "native"
  const make = providers[provider as Name] as (url: string, api: typeof how) => Made
  return make(url, how)
}

/** Tools of those names, whatever their arguments are. */
const toolkitOf = (calls: LlmTest.Canonical["toolCalls"]) => {
  const open = Schema.Struct({}, { key: Schema.String, value: Schema.Unknown })
  const tools = [...new Set(calls.map((call) => call.name))].map((name) =>
    Tool.make(name).setParameters(open as unknown as Schema.Struct<{}>)
  )
  const toolkit = Toolkit.make(...tools)
  return Effect.provide(
    toolkit,
    toolkit.toLayer(Object.fromEntries(tools.map(({ name }) => [name, () => Effect.void])) as never)
  )
}

interface Seen {
  text: string
  reasoning: string
  readonly toolCalls: Array<unknown>
  finish: string | null
  usage: unknown
  model: string | null
  id: string | null
}

const nothing = (): Seen => ({
  text: "",
  reasoning: "",
  toolCalls: [],
  finish: null,
  usage: null,
  model: null,
  id: null
})

const see = (parts: ReadonlyArray<Response.AnyPart>): Seen => {
  const seen = nothing()
  const refusals = new Set<string>()
  for (const part of parts) {
    if (part.type === "text" && !JSON.stringify(part.metadata).includes('"refusal":true')) seen.text += part.text
    if (part.type === "text-start" && JSON.stringify(part.metadata).includes('"refusal":true')) refusals.add(part.id)
    if (part.type === "text-delta" && !refusals.has(part.id)) seen.text += part.delta
    if (part.type === "reasoning") seen.reasoning += part.text
    if (part.type === "reasoning-delta") seen.reasoning += part.delta
    if (part.type === "tool-call") seen.toolCalls.push({ name: part.name, arguments: part.params })
    if (part.type === "response-metadata") {
      seen.id = Option.getOrNull(part.id)
      seen.model = Option.getOrNull(part.modelId)
    }
    if (part.type === "finish") {
      const said = Object.values(part.metadata)[0]
      seen.finish = part.reason
      seen.usage = {
        input: part.usage.inputTokens ?? null,
        output: part.usage.outputTokens ?? null,
        cachedInput: part.usage.cachedInputTokens ?? null,
        cacheWrite: said?.["cacheWriteTokens"] ?? null,
        reasoning: part.usage.reasoningTokens ?? null
      }
    }
  }
  return seen
}

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings of the seven providers", "llm-corpus"), () => {
  it("are of all of them, whole and streamed", () => {
    for (const stream of [true, false]) {
      const found = new Set(
        cases.filter((each) => each.recording.stream === stream).map((each) => each.recording.provider)
      )
      assert.deepStrictEqual([...found].sort(), [...names].sort())
    }
  })

  for (const { expected, name, recording } of cases) {
    it.scopedLive(`${name} is the same as a LanguageModel`, () =>
      Effect.gen(function* () {
        const { body, headers, status } = recording.response
        const server = yield* serve(({ response }) => {
          const type = Object.entries(headers).find(([key]) => key.toLowerCase() === "content-type")?.[1]
          const wait = Object.entries(headers).filter(([key]) => /^(?:retry-after|x-should-retry)/i.test(key))
          response.writeHead(status, { "content-type": type ?? "application/json", ...Object.fromEntries(wait) })
          const bytes = Buffer.from(body)
          for (let at = 0; at < bytes.length; at += 97) response.write(bytes.subarray(at, at + 97))
          response.end()
        })
        const toolkit = yield* toolkitOf(expected.toolCalls)
        const options = { prompt: "hi", toolkit, disableToolCallResolution: true } as const
        const parts: Array<Response.AnyPart> = []
        const ask = recording.stream
          ? Stream.runForEach(LanguageModel.streamText(options), (part) => Effect.sync(() => parts.push(part)))
          : Effect.map(LanguageModel.generateText(options), ({ content }) => parts.push(...content))
        const result = yield* Effect.either(Effect.provide(ask, model(layerFor(recording, server.url))))
        if (Either.isLeft(result)) {
          const cause = Option.getOrThrow(LlmLanguageModel.errorOf(result.left))
          assert.isDefined(expected.error ?? undefined, String(result.left))
          assert.deepStrictEqual([cause.reason, cause.isRetryable], [
            expected.error?.reason,
            expected.error?.retryable
          ] as ReadonlyArray<unknown> as never)
          if (recording.stream) assert.strictEqual(see(parts).text, expected.text)
          return
        }
        assert.isNull(expected.error)
        const { finish, id, model: modelId, reasoning, text, toolCalls, usage } = expected
        assert.deepStrictEqual(see(parts), {
          text,
          reasoning,
          toolCalls: [...toolCalls],
          finish,
          usage,
          model: modelId,
          id
        })
      })
    )
  }
})
