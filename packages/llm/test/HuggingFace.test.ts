/** Hugging Face's router: who runs the model, and the many shapes of what the backends answer. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { HuggingFace, Llm, type LlmError, LlmResponse, LlmTest } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { ConfigProvider, Effect, Layer, Redacted, Stream } from "effect"
import { casesOf } from "./corpus.ts"
import { answered, chunk, json, type Server, serve, sse } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")], maxTokens: 50, seed: 3 }

const on = (server: Server, options: Partial<HuggingFace.HuggingFaceOptions> = {}) =>
  HuggingFace.layer({
    apiKey: Redacted.make("hf_key"),
    model: "org/model",
    baseUrl: `${server.url}/v1`,
    retry: false,
    ...options
  })

describe("requests", () => {
  const routes: ReadonlyArray<
    readonly [model: string, inferenceProvider: string | undefined, asked: string | undefined, sent: string]
  > = [
    ["org/model", undefined, undefined, "org/model"],
    ["org/model:together", undefined, undefined, "org/model:together"],
    ["org/model", "fastest", undefined, "org/model:fastest"],
    ["org/model:novita", "together", undefined, "org/model:novita"],
    ["org/model", "together", "org/other", "org/other:together"],
    ["org/model", "together", "org/other:cheapest", "org/other:cheapest"]
  ]
  for (const [model, inferenceProvider, asked, sent] of routes) {
    it.scopedLive(
      `${model} by ${inferenceProvider ?? "whom the account prefers"}, asked for ${asked ?? "itself"}`,
      () =>
        Effect.gen(function* () {
          const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
          yield* Llm.generate({ ...ask, ...(asked === undefined ? {} : { model: asked }) }).pipe(
            Effect.provide(on(server, { model, inferenceProvider, billTo: "my-org" }))
          )
          const [seen] = server.seen
          assert.strictEqual(seen?.path, "/v1/chat/completions")
          assert.strictEqual(seen?.headers["authorization"], "Bearer hf_key")
          assert.strictEqual(seen?.headers["x-hf-bill-to"], "my-org")
          assert.deepStrictEqual(JSON.parse(seen?.body ?? ""), {
            model: sent,
            messages: [{ role: "user", content: "hi" }],
            max_tokens: 50,
            seed: 3,
            stream: false
          })
        }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("the model is known by the list, which does not say who runs it", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, { object: "list", data: [{ id: "org/model" }] })
      )
      const health = (options: Partial<HuggingFace.HuggingFaceOptions>) =>
        Effect.map(
          Effect.flatMap(Llm.Llm, (llm) => llm.health).pipe(Effect.provide(on(server, options))),
          ({ status }) => status
        )
      assert.strictEqual(yield* health({}), "up")
      assert.strictEqual(yield* health({ model: "org/model:together" }), "up")
      assert.strictEqual(yield* health({ inferenceProvider: "fastest" }), "up")
      assert.strictEqual(yield* health({ model: "org/gone:together" }), "degraded")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("can be set from the configuration", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      const entries = {
        "huggingface.apiKey": "k",
        "huggingface.model": "a/b",
        "huggingface.baseUrl": server.url,
        "huggingface.inferenceProvider": "nebius"
      }
      yield* Llm.generate(ask).pipe(
        Effect.provide(HuggingFace.layerConfig()),
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
      )
      assert.include(server.seen[0]?.body, '"a/b:nebius"')
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("answers", () => {
  it.scopedLive("retry-after on a good answer means nothing (complaint 4)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok"), { "retry-after": "30" }))
      const { text } = yield* Llm.generate(ask).pipe(
        Effect.provide(on(server, { retry: { attempts: 3, base: "1 millis" } }))
      )
      assert.deepStrictEqual([text, server.seen.length], ["ok", 1])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("retry-after of a stream that fails inside is none either", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "text/event-stream", "retry-after": "30" })
        response.end(`data: {"error":{"message":"busy","http_status_code":503}}\n\n`)
      })
      const error = yield* Effect.flip(Stream.runDrain(Llm.stream(ask))).pipe(Effect.provide(on(server)))
      assert.isUndefined(error.retryAfter)
      assert.deepStrictEqual([error.status, error.midStream], [200, true])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const shapes: ReadonlyArray<readonly [string, string, readonly [number | undefined, number | undefined]]> = [
    [
      "usage with no choices, unasked",
      `${chunk({ content: "a" })}${chunk({}, "stop")}data: ${JSON.stringify({ id: "c1", choices: [], usage: { prompt_tokens: 3, completion_tokens: 1 } })}\n\ndata: [DONE]\n\n`,
      [3, 1]
    ],
    [
      "usage in the chunk of the finish, which has choices",
      `${chunk({ content: "a" })}${chunk({}, "stop", { usage: { prompt_tokens: 4, completion_tokens: 2 } })}data: [DONE]\n\n`,
      [4, 2]
    ],
    [
      "no usage, no [DONE], no blank after the colon, a field of text beside the delta",
      `data:${JSON.stringify({ id: "", choices: [{ index: 0, text: "a", delta: { content: "a", token_id: 1 }, finish_reason: null }], usage: null })}\n\ndata:${JSON.stringify({ id: "", choices: [{ index: 0, delta: {}, finish_reason: "eos_token" }] })}\n\n`,
      [undefined, undefined]
    ]
  ]
  for (const [name, body, [input, output]] of shapes) {
    it.scopedLive(`streams: ${name} (complaint 5)`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => sse(response, body))
        const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(on(server)))
        const response = LlmResponse.fromParts(parts)
        assert.deepStrictEqual(
          [response?.text, response?.finish, response?.usage.input, response?.usage.output],
          ["a", "stop", input, output]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  const failures: ReadonlyArray<readonly [number, string, string, LlmError.Reason, string | undefined]> = [
    [422, "text/plain", "Failed to deserialize the JSON body", "InvalidRequest", "Failed to deserialize the JSON body"],
    [404, "application/json", '{"error":"Model a/b does not exist"}', "NotFound", "Model a/b does not exist"],
    [400, "application/json", '{"error":{"message":"not a chat model"}}', "InvalidRequest", "not a chat model"],
    [503, "text/html", "<html><body>Service Unavailable</body></html>", "Overloaded", undefined],
    [
      402,
      "application/json",
      '{"error":"You have exceeded your monthly included credits"}',
      "QuotaExhausted",
      "You have exceeded your monthly included credits"
    ],
    [
      401,
      "application/json",
      '{"error":"Invalid username or password."}',
      "Authentication",
      "Invalid username or password."
    ]
  ]
  for (const [status, type, body, reason, message] of failures) {
    it.scopedLive(`errors: ${status} of ${type} is ${reason}`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, status, body, { "content-type": type }))
        const error = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(on(server)))
        assert.deepStrictEqual([error.reason, error.providerMessage, error.status], [reason, message, status])
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings through HuggingFace", "llm-corpus"), () => {
  for (const { expected, name, recording } of casesOf().filter(
    (each) => each.recording.provider === "huggingface" && each.recording.api === "chat/completions"
  )) {
    it.live(name, () =>
      Effect.gen(function* () {
        const layer = HuggingFace.layer({ apiKey: Redacted.make("k"), model: "m", retry: false }).pipe(
          Layer.provide(LlmTest.layerReplay([recording], { chunkSize: 61 }))
        )
        const result = recording.stream
          ? Effect.flatMap(Stream.runCollect(Llm.stream(ask)), (parts) =>
              Effect.orDie(Effect.fromNullable(LlmResponse.fromParts(parts)))
            )
          : Llm.generate(ask)
        const outcome = yield* result.pipe(Effect.either, Effect.provide(layer))
        assert.deepStrictEqual(LlmTest.canonicalOf(outcome, recording.stream ? "stream" : "generate"), expected)
      })
    )
  }
})
