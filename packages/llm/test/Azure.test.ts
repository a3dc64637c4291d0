/** Models deployed in Azure: where requests go, how they are allowed in, and what its answers have that others' have not. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { AzureOpenAi, Llm, LlmError, LlmResponse, LlmTest } from "@underlay/llm"
import * as AzureOpenAiEmbeddings from "@underlay/llm/embeddings/AzureOpenAiEmbeddings"
import * as Need from "@underlay/servers/Need"
import { Cause, ConfigProvider, Duration, Effect, Either, Fiber, Layer, Redacted, Stream, TestClock } from "effect"
import { casesOf } from "./corpus.ts"
import { answered, chunk, json, type Server, serve, sse, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")], maxTokens: 50 }

const on = (server: Server, options: Partial<AzureOpenAi.AzureOpenAiOptions> = {}) =>
  AzureOpenAi.layer({
    endpoint: server.url,
    model: "my deployment",
    retry: false,
    ...(options.token === undefined ? { apiKey: Redacted.make("azure-key-1") } : {}),
    ...options
  })

const responded = {
  id: "resp_1",
  object: "response",
  status: "completed",
  model: "gpt-5.6",
  output: [{ type: "message", role: "assistant", content: [{ type: "output_text", text: "Hello", annotations: [] }] }],
  usage: { input_tokens: 4, output_tokens: 2 }
}

const either = (path: string) => (path.includes("/responses") ? responded : answered("Hello"))

describe("where requests go", () => {
  const ways: ReadonlyArray<
    readonly [
      name: string,
      options: Partial<AzureOpenAi.AzureOpenAiOptions>,
      path: string,
      limit: string,
      usageAsked: boolean,
      health: string
    ]
  > = [
    ["v1, Responses", {}, "/openai/v1/responses", "max_output_tokens", false, "/openai/v1/models"],
    [
      "v1, Chat Completions",
      { api: "chat-completions" },
      "/openai/v1/chat/completions",
      "max_completion_tokens",
      true,
      "/openai/v1/models"
    ],
    [
      "v1 with a version",
      { api: "chat-completions", apiVersion: "preview" },
      "/openai/v1/chat/completions?api-version=preview",
      "max_completion_tokens",
      true,
      "/openai/v1/models?api-version=preview"
    ],
    [
      "deployments",
      { style: "deployments" },
      "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21",
      "max_completion_tokens",
      true,
      "/openai/models?api-version=2024-10-21"
    ],
    [
      "deployments of a version that knows no stream_options",
      { style: "deployments", apiVersion: "2024-06-01" },
      "/openai/deployments/my%20deployment/chat/completions?api-version=2024-06-01",
      "max_tokens",
      false,
      "/openai/models?api-version=2024-06-01"
    ],
    [
      "deployments of the first version that does",
      { style: "deployments", apiVersion: "2024-09-01-preview" },
      "/openai/deployments/my%20deployment/chat/completions?api-version=2024-09-01-preview",
      "max_completion_tokens",
      true,
      "/openai/models?api-version=2024-09-01-preview"
    ],
    [
      "model inference",
      { style: "models" },
      "/models/chat/completions?api-version=2024-05-01-preview",
      "max_tokens",
      true,
      "/models/info?api-version=2024-05-01-preview"
    ]
  ]
  for (const [name, options, path, limit, usageAsked, health] of ways) {
    it.scopedLive(name, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ request, response }) => {
          if (request.method === "GET") json(response, 200, { data: [{ id: "some-base-model" }] })
          else if (!request.body.includes('"stream":true')) json(response, 200, either(request.path))
          else if (!request.path.includes("/responses")) sse(response, streamed("Hello"))
          else {
            const done = { type: "response.completed", response: responded }
            const delta = { type: "response.output_text.delta", output_index: 0, content_index: 0, delta: "Hello" }
            sse(
              response,
              [delta, done].map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("")
            )
          }
        })
        yield* Effect.gen(function* () {
          assert.strictEqual((yield* Llm.generate(ask)).text, "Hello")
          const parts = yield* Stream.runCollect(Llm.stream(ask))
          assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
          // The list has models, not deployments: that the deployment is not in it means nothing.
          assert.strictEqual((yield* Effect.flatMap(Llm.Llm, (llm) => llm.health)).status, "up")
        }).pipe(Effect.provide(on(server, options)))
        assert.deepStrictEqual(
          server.seen.map((request) => request.path),
          [path, path, health]
        )
        for (const { headers } of server.seen) {
          assert.strictEqual(headers["api-key"], "azure-key-1")
          assert.isUndefined(headers["authorization"])
        }
        const bodies = server.seen.slice(0, 2).map(({ body }) => JSON.parse(body) as Record<string, unknown>)
        for (const body of bodies) {
          assert.strictEqual(body["model"], "my deployment")
          assert.strictEqual(body[limit], 50)
        }
        assert.strictEqual(bodies[1]?.["stream_options"] !== undefined, usageAsked)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("another deployment for a request is another address", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      yield* Llm.generate({ ...ask, model: "a/b?c" }).pipe(Effect.provide(on(server, { style: "deployments" })))
      assert.strictEqual(server.seen[0]?.path, "/openai/deployments/a%2Fb%3Fc/chat/completions?api-version=2024-10-21")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  for (const tail of [
    "/",
    "/openai/v1/",
    "/openai",
    "/openai/deployments/other/chat/completions?api-version=2023-05-15",
    "/openai/responses?api-version=2025-04-01-preview",
    "/openai/v1/chat/completions",
    "/models/chat/completions?api-version=2024-05-01-preview",
    "/models"
  ]) {
    it.scopedLive(`whatever was copied from the portal: …${tail}`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 200, responded))
        yield* Llm.generate(ask).pipe(Effect.provide(on(server, { endpoint: `${server.url}${tail}` })))
        assert.strictEqual(server.seen[0]?.path, "/openai/v1/responses")
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("the address of a project is kept", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, responded))
      for (const tail of ["/api/projects/p", "/api/projects/p/openai/v1", "/gateway/openai-eu"]) {
        yield* Llm.generate(ask).pipe(Effect.provide(on(server, { endpoint: `${server.url}${tail}` })))
      }
      assert.deepStrictEqual(
        server.seen.map(({ path }) => path),
        [
          "/api/projects/p/openai/v1/responses",
          "/api/projects/p/openai/v1/responses",
          "/gateway/openai-eu/openai/v1/responses"
        ]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("only the v1 API is given hints for its cache, the older ones know no such fields", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => json(response, 200, either(request.path)))
      const hinted = { ...ask, promptCache: { key: "tenant-7", ttl: "long" as const } }
      for (const options of [{}, { api: "chat-completions" }, { style: "deployments" }, { style: "models" }] as const) {
        yield* Llm.generate(hinted).pipe(Effect.provide(on(server, options)))
      }
      assert.deepStrictEqual(
        server.seen
          .map(({ body }) => JSON.parse(body) as Record<string, unknown>)
          .map((body) => [body["prompt_cache_key"], body["prompt_cache_retention"]]),
        [
          ["tenant-7", "24h"],
          ["tenant-7", "24h"],
          [undefined, undefined],
          [undefined, undefined]
        ]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a deployment of any name that does not reason says so once, and is asked without from then on", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        const body = JSON.parse(request.body) as { readonly include?: unknown; readonly input: ReadonlyArray<unknown> }
        const refuse = (message: string) =>
          json(response, 400, { error: { message, type: "invalid_request_error", param: "include", code: null } })
        if (body.include !== undefined) return refuse("Encrypted content is not supported with this model.")
        if (body.input.some((item) => JSON.stringify(item).includes('"reasoning"'))) {
          return refuse("Reasoning input items can only be provided to a reasoning or computer use model.")
        }
        if (request.body.includes('"stream":true')) {
          return sse(response, `data: ${JSON.stringify({ type: "response.completed", response: responded })}\n\n`)
        }
        json(response, 200, responded)
      })
      const reasoned: Llm.LlmRequest = {
        messages: [
          ...ask.messages,
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "", id: "rs_1", signature: "opaque", provider: "azure" },
              { type: "text", text: "Hello" }
            ]
          },
          ...ask.messages
        ]
      }
      const recording = yield* Recording.make
      yield* Effect.gen(function* () {
        const parts = yield* Stream.runCollect(Llm.stream(reasoned))
        assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
        assert.strictEqual(server.seen.length, 2)
        assert.strictEqual((yield* Llm.generate(reasoned)).text, "Hello")
        assert.strictEqual(server.seen.length, 3)
        // Another deployment is another model.
        assert.strictEqual((yield* Llm.generate({ ...ask, model: "other" })).text, "Hello")
        assert.strictEqual(server.seen.length, 5)
      }).pipe(Effect.provide(on(server)), recording.within)
      const calls = (yield* recording.spans).filter(({ name }) => name.startsWith("chat "))
      assert.strictEqual(calls.length, 3)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("telemetry names Azure, and which of its services", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => json(response, 200, either(request.path)))
      const nameOf = (style: "v1" | "models") =>
        Effect.gen(function* () {
          const recording = yield* Recording.make
          yield* Llm.generate(ask).pipe(Effect.provide(on(server, { style })), recording.within)
          return (yield* recording.spans)[0]?.attributes.get("gen_ai.provider.name")
        })
      assert.strictEqual(yield* nameOf("v1"), "azure.ai.openai")
      assert.strictEqual(yield* nameOf("models"), "azure.ai.inference")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

/** Answers 200 to every request, and counts them. */
const replies = (count: { asked: Array<string | undefined> }, status: (index: number) => number = () => 200) =>
  Effect.map(
    serve(({ index, request, response }) => {
      count.asked.push(request.headers.authorization)
      if (status(index) === 200) json(response, 200, responded)
      else json(response, status(index), { error: { code: String(status(index)), message: "no" } })
    }),
    (server) => server
  )

describe("tokens of Entra", () => {
  it.scopedLive("one that does not say when it ends is asked for anew for every attempt", () =>
    Effect.gen(function* () {
      const seen: { asked: Array<string | undefined> } = { asked: [] }
      const server = yield* replies(seen, (index) => (index === 0 ? 503 : 200))
      let count = 0
      const token = Effect.sync(() => Redacted.make(`t${++count}`))
      yield* Llm.generate(ask).pipe(
        Effect.provide(on(server, { token, retry: { attempts: 2, base: "1 millis", jitter: "none" } }))
      )
      assert.deepStrictEqual(seen.asked, ["Bearer t1", "Bearer t2"])
      assert.isUndefined(server.seen[0]?.headers["api-key"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const replayed = (asked: Array<string | undefined>, status = 200) =>
    LlmTest.layerReplay(
      [
        {
          provider: "azure",
          api: "responses",
          stream: false,
          response: {
            status,
            headers: { "content-type": "application/json" },
            body: JSON.stringify(status === 200 ? responded : { error: { code: "401", message: "expired" } })
          }
        }
      ],
      { onRequest: ({ headers }) => asked.push(headers["authorization"]) }
    )

  const entra = (token: AzureOpenAi.AzureOpenAiOptions["token"]) =>
    AzureOpenAi.layer({ endpoint: "https://a.openai.azure.com", model: "m", retry: false, token })

  it.effect("one that does is kept until shortly before its end", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      let count = 0
      const token = Effect.map(TestClock.currentTimeMillis, (now) => ({
        token: Redacted.make(`t${++count}`),
        expiresAt: now + 3_600_000
      }))
      yield* Effect.gen(function* () {
        yield* Llm.generate(ask)
        yield* TestClock.adjust("54 minutes")
        yield* Llm.generate(ask)
        yield* TestClock.adjust("2 minutes")
        yield* Llm.generate(ask)
      }).pipe(Effect.provide(Layer.provide(entra(token), replayed(asked))))
      assert.deepStrictEqual(asked, ["Bearer t1", "Bearer t1", "Bearer t2"])
    })
  )

  it.effect("many calls at once ask for one", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      let count = 0
      const token = Effect.map(Effect.yieldNow(), () => ({
        token: Redacted.make(`t${++count}`),
        expiresAt: 3_600_000
      }))
      yield* Effect.all(
        Array.from({ length: 10 }, () => Llm.generate(ask)),
        { concurrency: "unbounded" }
      ).pipe(Effect.provide(Layer.provide(entra(token), replayed(asked))))
      assert.strictEqual(count, 1)
      assert.strictEqual(asked.length, 10)
    })
  )

  it.effect("those that do not say when they end are asked for by many calls side by side", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      let asking = 0
      let most = 0
      const token = Effect.gen(function* () {
        most = Math.max(most, ++asking)
        yield* Effect.sleep("1 second")
        asking -= 1
        return Redacted.make("t")
      })
      const fiber = yield* Effect.gen(function* () {
        yield* Llm.generate(ask)
        yield* Effect.all(
          Array.from({ length: 10 }, () => Llm.generate(ask)),
          { concurrency: "unbounded" }
        )
      }).pipe(Effect.provide(Layer.provide(entra(token), replayed(asked))), Effect.fork)
      for (let second = 0; second < 3; second++) yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual([most, asked.length], [10, 11])
    })
  )

  it.effect("one that is refused is not used again", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      let count = 0
      const token = Effect.sync(() => ({ token: Redacted.make(`t${++count}`), expiresAt: 3_600_000 }))
      yield* Effect.gen(function* () {
        assert.strictEqual((yield* Effect.flip(Llm.generate(ask))).reason, "Authentication")
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))).reason, "Authentication")
        yield* Effect.flip(Llm.generate(ask))
        yield* Effect.flip(Effect.flatMap(Llm.Llm, (llm) => llm.health))
        yield* Effect.flip(Llm.generate(ask))
      }).pipe(Effect.provide(Layer.provide(entra(token), replayed(asked, 401))))
      assert.deepStrictEqual(asked, ["Bearer t1", "Bearer t2", "Bearer t3", "Bearer t4", "Bearer t5"])
    })
  )

  it.effect("that cannot be had are an error of authentication that shows nothing, or the error that was given", () =>
    Effect.gen(function* () {
      const asked: Array<string | undefined> = []
      const fail = (cause: unknown) =>
        Effect.flip(Llm.generate(ask)).pipe(Effect.provide(Layer.provide(entra(Effect.fail(cause)), replayed(asked))))
      const error = yield* fail(new Error("client_secret=very-secret"))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Authentication", false])
      assert.notInclude(JSON.stringify(error) + error.message + String(error), "very-secret")
      const own = yield* fail(
        new LlmError.LlmError({
          reason: "Network",
          method: "token",
          provider: "azure",
          retryable: true,
          midStream: false
        })
      )
      assert.strictEqual(own.reason, "Network")
      assert.deepStrictEqual(asked, [])
    })
  )
})

describe("tokens that no header can hold", () => {
  const hidden = "very-secret"
  const odd = [`"${hidden}\u201d`, `${hidden}\nx`, `${hidden}\u0000`, `${hidden}\u200b`]

  it.scopedLive("are an error of authentication that says what to do, is not tried again, and shows nothing", () =>
    Effect.gen(function* () {
      const seen: { asked: Array<string | undefined> } = { asked: [] }
      const server = yield* replies(seen, () => 200)
      for (const token of odd) {
        let count = 0
        const given = Effect.sync(() => {
          count++
          return Redacted.make(token)
        })
        yield* Effect.gen(function* () {
          const llm = yield* Llm.Llm
          for (const asked of [llm.generate(ask), Stream.runDrain(llm.stream(ask)), llm.health]) {
            count = 0
            const error = yield* Effect.flip(asked as Effect.Effect<unknown, LlmError.LlmError>)
            assert.deepStrictEqual([error.reason, error.isRetryable, count], ["Authentication", false, 1])
            assert.match(error.message, /the token has a character that no header can hold: give the token alone/)
            assert.notInclude(Cause.pretty(Cause.fail(error)) + JSON.stringify(error) + String(error), hidden)
            assert.isUndefined(error.cause)
          }
        }).pipe(Effect.provide(on(server, { token: given, retry: { attempts: 3, base: "1 millis", jitter: "none" } })))
        const embeddings = yield* AzureOpenAiEmbeddings.make({
          endpoint: server.url,
          model: "text-embedding-3-small",
          token: given
        })
        const error = yield* Effect.flip(embeddings.embed("a"))
        assert.strictEqual(error.reason, "Authentication")
        assert.notInclude(Cause.pretty(Cause.fail(error)) + JSON.stringify(error), hidden)
      }
      assert.deepStrictEqual(seen.asked, [])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("are mended where only the end of a file's line is too much", () =>
    Effect.gen(function* () {
      const seen: { asked: Array<string | undefined> } = { asked: [] }
      const server = yield* replies(seen, () => 200)
      yield* Llm.generate(ask).pipe(Effect.provide(on(server, { token: Effect.succeed(Redacted.make("t1\r\n")) })))
      assert.deepStrictEqual(seen.asked, ["Bearer t1"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("settings", () => {
  const made = (options: Partial<AzureOpenAi.AzureOpenAiOptions>) =>
    Effect.asVoid(Llm.Llm).pipe(
      Effect.provide(
        AzureOpenAi.layer({ endpoint: "https://a.openai.azure.com", model: "m", ...options }).pipe(
          Layer.provide(LlmTest.layerReplay([]))
        )
      ),
      Effect.flip
    )

  it.effect("that cannot work together are refused with what to do", () =>
    Effect.gen(function* () {
      const apiKey = Redacted.make("k")
      assert.include((yield* made({})).issue, "apiKey or token")
      assert.include((yield* made({ apiKey, token: Effect.succeed(apiKey) })).issue, "apiKey or token")
      assert.include((yield* made({ apiKey, style: "deployments", api: "responses" })).issue, "style v1")
      assert.include((yield* made({ apiKey, endpoint: "a.openai.azure.com" })).issue, "http")
    })
  )

  it.effect("are read by their names", () =>
    Effect.gen(function* () {
      const read = (entries: Record<string, string>) =>
        Effect.either(
          Effect.map(Llm.Llm, ({ model, provider }) => [provider, model]).pipe(
            Effect.provide(AzureOpenAi.layerConfig().pipe(Layer.provide(LlmTest.layerReplay([])))),
            Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
          )
        )
      const all = {
        "azure.endpoint": "https://a.openai.azure.com",
        "azure.apiKey": "k",
        "azure.model": "m",
        "azure.style": "deployments",
        "azure.apiVersion": "2024-06-01"
      }
      assert.deepStrictEqual(yield* read(all), Either.right(["azure", "m"]))
      const wrong = yield* read({ ...all, "azure.style": "old" })
      assert.include(String(Either.isLeft(wrong) ? wrong.left : ""), "style")
    })
  )
})

describe("answers", () => {
  const chat = (server: Server) => on(server, { style: "deployments" })

  it.scopedLive("a first chunk without choices, id and model, and findings of the filter, are no content", () =>
    Effect.gen(function* () {
      const safe = { hate: { filtered: false, severity: "safe" } }
      const server = yield* serve(({ response }) =>
        sse(
          response,
          [
            `data: ${JSON.stringify({ id: "", model: "", choices: [], prompt_filter_results: [{ prompt_index: 0, content_filter_results: safe }] })}\n\n`,
            chunk({ role: "assistant", content: "" }),
            chunk({ content: "Hello" }),
            // The filter that runs beside the model reports later, on a chunk that has no delta.
            `data: ${JSON.stringify({ id: "", model: "", choices: [{ index: 0, finish_reason: null, content_filter_results: safe, content_filter_offsets: { check_offset: 0, start_offset: 0, end_offset: 5 } }] })}\n\n`,
            chunk({}, "stop"),
            "data: [DONE]\n\n"
          ].join("")
        )
      )
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(chat(server)))
      const response = LlmResponse.fromParts(parts)
      assert.deepStrictEqual([response?.text, response?.id, response?.model], ["Hello", "c1", "m-2026"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const failures: ReadonlyArray<
    readonly [string, number, unknown, Record<string, string>, Partial<LlmError.LlmError>]
  > = [
    [
      "a filtered prompt says for what (complaint 10)",
      400,
      {
        error: {
          code: "content_filter",
          message: "The response was filtered",
          status: 400,
          innererror: {
            code: "ResponsibleAIPolicyViolation",
            content_filter_result: { violence: { filtered: true, severity: "medium" } }
          }
        }
      },
      {},
      { reason: "ContentFiltered", issue: "filtered for violence (medium)", retryable: false }
    ],
    [
      "retry-after-ms of 0 gives way to retry-after",
      429,
      { error: { code: "RateLimitReached", message: "exceeded rate limit" } },
      { "retry-after": "1", "retry-after-ms": "0" },
      { reason: "RateLimited", retryAfter: Duration.seconds(1), retryable: true }
    ],
    [
      "a number for a code",
      401,
      { error: { code: "401", message: "Access denied due to invalid subscription key" } },
      {},
      { reason: "Authentication", retryable: false }
    ],
    [
      "no such deployment",
      404,
      { error: { code: "DeploymentNotFound", message: "The API deployment for this resource does not exist." } },
      {},
      { reason: "NotFound", retryable: false }
    ],
    [
      "a statusCode and a message without an envelope, of the gateway",
      429,
      { statusCode: 429, message: "Rate limit is exceeded. Try again in 12 seconds." },
      {},
      { reason: "RateLimited", retryAfter: Duration.seconds(12), retryable: true }
    ]
  ]
  for (const [name, status, body, headers, expected] of failures) {
    it.scopedLive(name, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, status, body, headers))
        const error = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(chat(server)))
        for (const [key, value] of Object.entries(expected)) {
          assert.deepStrictEqual(error[key as keyof LlmError.LlmError], value, key)
        }
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings through AzureOpenAi", "llm-corpus"), () => {
  for (const { expected, name, recording } of casesOf().filter((each) => each.recording.provider === "azure")) {
    it.live(name, () =>
      Effect.gen(function* () {
        const layer = AzureOpenAi.layer({
          endpoint: "https://a.openai.azure.com",
          apiKey: Redacted.make("k"),
          model: "m",
          api: recording.api === "responses" ? "responses" : "chat-completions",
          retry: false
        }).pipe(Layer.provide(LlmTest.layerReplay([recording], { chunkSize: 100 })))
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
