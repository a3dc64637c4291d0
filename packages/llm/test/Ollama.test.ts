import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmResponse, LlmTest, Ollama } from "@underlay/llm"
import {
  ConfigProvider,
  Deferred,
  Effect,
  Either,
  Fiber,
  Layer,
  Redacted,
  Schedule,
  Schema,
  Stream,
  TestClock
} from "effect"
import { Ollama as Official } from "ollama"
import { rootOf } from "../src/internal/ollama.ts"
import { answered, json, serve } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const line = (content: string, rest: Record<string, unknown> = {}) =>
  `${JSON.stringify({ model: "m:8b", created_at: "2026-01-02T03:04:05Z", message: { role: "assistant", content }, done: false, ...rest })}\n`

const end = line("", { done: true, done_reason: "stop", prompt_eval_count: 9, eval_count: 4 })

const whole = (content: string) =>
  line(content, { done: true, done_reason: "stop", prompt_eval_count: 9, eval_count: 4 })

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("5 seconds")))
  )

const live = (options: Partial<Ollama.OllamaOptions>) =>
  Ollama.layer({ model: "m", retry: { base: "10 millis", jitter: "none" }, ...options })

describe("Ollama", () => {
  it.scopedLive("is asked over its own API, health by the list of its models, one span a call", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.path === "/api/tags") json(response, 200, { models: [{ name: "m:latest", model: "m:latest" }] })
        else if (request.body.includes('"stream":false')) json(response, 200, whole("Hello"))
        else {
          response.writeHead(200, { "content-type": "application/x-ndjson" })
          response.end(line("Hel") + line("lo") + end)
        }
      })
      const recording = yield* Recording.make
      yield* Effect.gen(function* () {
        const llm = yield* Llm.Llm
        assert.deepStrictEqual([llm.provider, llm.model, (yield* llm.health).status], ["ollama", "m", "up"])
        const response = yield* llm.generate({ ...ask, maxTokens: 7 })
        assert.deepStrictEqual(
          [response.text, response.model, response.usage],
          ["Hello", "m:8b", { input: 9, output: 4 }]
        )
        const parts = yield* Stream.runCollect(llm.stream(ask))
        assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
      }).pipe(
        Effect.provide(live({ host: `${server.url}/`, contextLength: 8192, keepAlive: "90 seconds" })),
        recording.within
      )
      assert.deepStrictEqual(
        server.seen.map(({ path }) => path),
        ["/api/tags", "/api/chat", "/api/chat"]
      )
      assert.deepStrictEqual(JSON.parse(server.seen[1]?.body ?? ""), {
        model: "m",
        messages: [{ role: "user", content: "hi" }],
        keep_alive: 90,
        options: { num_ctx: 8192, num_predict: 7 },
        stream: false
      })
      assert.strictEqual(server.seen[2]?.headers["accept"], "application/x-ndjson")
      assert.isUndefined(server.seen[2]?.headers["authorization"])
      const calls = (yield* recording.spans).filter(({ name }) => name === "chat m")
      assert.strictEqual(calls.length, 2)
      for (const call of calls) {
        assert.strictEqual(call.attributes.get("gen_ai.provider.name"), "ollama")
        assert.strictEqual(call.attributes.get("gen_ai.usage.input_tokens"), 9)
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("has its key sent as a bearer token, and other headers beside it", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, whole("Hello")))
      for (const api of ["native", "v1"] as const) {
        yield* Effect.either(Llm.generate(ask)).pipe(
          Effect.provide(
            live({ api, host: server.url, apiKey: Redacted.make("key-1"), headers: { "X-Team": Redacted.make("a") } })
          )
        )
      }
      assert.deepStrictEqual(
        server.seen.map(({ headers, path }) => [path, headers["authorization"], headers["x-team"]]),
        [
          ["/api/chat", "Bearer key-1", "a"],
          ["/v1/chat/completions", "Bearer key-1", "a"]
        ]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("errors tell what to do: no such model, a server that is busy is asked again", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) => {
        if (index === 0) json(response, 404, { error: "model 'm' not found" })
        else if (index === 1)
          json(response, 503, { error: "server busy, please try again.  maximum pending requests exceeded" })
        else json(response, 200, whole("Hello"))
      })
      yield* Effect.gen(function* () {
        const error = yield* Effect.flip(Llm.generate(ask))
        assert.deepStrictEqual(
          [error.reason, error.retryable, error.providerMessage],
          ["NotFound", false, "model 'm' not found"]
        )
        assert.strictEqual((yield* Llm.generate(ask)).text, "Hello")
        assert.strictEqual(server.seen.length, 3)
      }).pipe(Effect.provide(live({ host: server.url })))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("an interrupted stream closes its connection (complaint 8)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.write(line("Hel"))
      })
      const began = yield* Deferred.make<void>()
      const fiber = yield* Llm.stream(ask).pipe(
        Stream.runForEach(() => Deferred.succeed(began, undefined)),
        Effect.provide(live({ host: server.url })),
        Effect.fork
      )
      yield* Deferred.await(began)
      yield* Fiber.interrupt(fiber)
      yield* eventually("the connection is closed", () => server.aborted() === 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a server that keeps the connection open after done does not hold the answer up", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.write(line("Hello") + end)
      })
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(
        Effect.provide(live({ host: server.url, idleTimeout: "400 millis" })),
        Effect.timeout("5 seconds")
      )
      const response = LlmResponse.fromParts(parts)
      assert.deepStrictEqual([response?.text, response?.usage], ["Hello", { input: 9, output: 4 }])
      yield* eventually("the connection is closed", () => server.aborted() === 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive(
    "an error before any content is retried, one after it is not: nothing is said twice (complaint 1)",
    () =>
      Effect.gen(function* () {
        const server = yield* serve(({ index, response }) => {
          response.writeHead(200, { "content-type": "application/x-ndjson" })
          if (index === 0) response.end(`${line("")}{"error":"llama runner process has terminated"}\n`)
          else response.end(`${line("Hel")}{"error":"llama runner process has terminated"}\n`)
        })
        const texts: Array<string> = []
        const error = yield* Llm.stream(ask).pipe(
          Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && texts.push(part.text))),
          Effect.flip,
          Effect.provide(live({ host: server.url }))
        )
        assert.deepStrictEqual(
          [error.reason, error.retryable, error.midStream, error.partial?.text],
          ["ServerError", false, true, "Hel"]
        )
        assert.deepStrictEqual(texts, ["Hel"])
        assert.strictEqual(server.seen.length, 2)
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("has 5 minutes to load a model before its first content, or what is given for the call", () =>
    Effect.gen(function* () {
      const waited = (options: Partial<Ollama.OllamaOptions>) =>
        Effect.gen(function* () {
          const replay = LlmTest.layerReplay(
            [
              {
                provider: "ollama",
                api: "api/chat",
                stream: true,
                response: {
                  status: 200,
                  headers: { "content-type": "application/x-ndjson" },
                  body: line("Hello") + end
                }
              }
            ],
            { pause: "4 minutes" }
          )
          const layer = Layer.provide(live({ retry: false, ...options }), replay)
          const fiber = yield* Stream.runCollect(Llm.stream(ask)).pipe(
            Effect.either,
            Effect.provide(layer),
            Effect.fork
          )
          yield* TestClock.adjust("10 minutes")
          const result = yield* Fiber.join(fiber)
          return Either.isLeft(result) ? result.left.reason : LlmResponse.fromParts(result.right)?.text
        })
      assert.strictEqual(yield* waited({}), "Hello")
      assert.strictEqual(yield* waited({ timeout: "1 minute" }), "Timeout")
      assert.strictEqual(yield* waited({ firstContentTimeout: "1 minute" }), "Timeout")
    })
  )

  it.scopedLive("values of a schema are asked for by format", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, whole('{"city":"Rome"}')))
      const { value } = yield* Llm.generateObject(Schema.Struct({ city: Schema.String }), ask).pipe(
        Effect.provide(live({ host: server.url }))
      )
      assert.deepStrictEqual(value, { city: "Rome" })
      const { format } = JSON.parse(server.seen[0]?.body ?? "") as { format: { type: string; required: unknown } }
      assert.deepStrictEqual([format.type, format.required], ["object", ["city"]])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("its requests are those of the official client", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, whole("Hello")))
      const image = Uint8Array.of(1, 2, 3)
      const parameters = { type: "object", required: ["city"], properties: { city: { type: "string" } } }
      const schema = { type: "object", properties: { answer: { type: "string" } } }
      const official = new Official({ host: server.url })
      yield* Effect.promise(() =>
        official.chat({
          model: "m",
          messages: [
            { role: "system", content: "be kind" },
            { role: "user", content: "look", images: [image] },
            {
              role: "assistant",
              content: "",
              thinking: "hm",
              tool_calls: [{ function: { name: "weather", arguments: { city: "Rome" } } }]
            },
            { role: "tool", content: "21", tool_name: "weather" }
          ],
          tools: [{ type: "function", function: { name: "weather", description: "of a city", parameters } }],
          format: schema,
          think: "low",
          keep_alive: 60,
          stream: false,
          options: { num_ctx: 8192, temperature: 0.5, top_k: 20, num_predict: 9, stop: ["END"], seed: 7 }
        })
      )
      yield* Llm.generate({
        messages: [
          ChatMessage.system("be kind"),
          {
            role: "user",
            content: [
              { type: "text", text: "look" },
              { type: "file", mediaType: "image/png", source: { type: "bytes", bytes: image } }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "hm" },
              { type: "tool-call", id: "c1", name: "weather", arguments: { city: "Rome" } }
            ]
          },
          { role: "tool", content: [{ type: "tool-result", id: "c1", name: "weather", result: "21" }] }
        ],
        tools: [{ name: "weather", description: "of a city", parameters }],
        responseFormat: { type: "json-schema", name: "answer", schema },
        reasoningEffort: "low",
        temperature: 0.5,
        topK: 20,
        maxTokens: 9,
        stop: ["END"],
        seed: 7
      }).pipe(Effect.provide(live({ host: server.url, contextLength: 8192, keepAlive: "1 minute" })))
      const [theirs, ours] = server.seen
      assert.strictEqual(ours?.path, theirs?.path)
      assert.strictEqual(ours?.method, theirs?.method)
      // The server pairs calls and results by the ids that ours says beside what the client's types have.
      const plain = (ours?.body ?? "").replace('"id":"c1",', "").replace(',"tool_call_id":"c1"', "")
      assert.deepStrictEqual(JSON.parse(plain), JSON.parse(theirs?.body ?? ""))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("settings that have no field in /v1 stop the layer and say what to change", () =>
    Effect.gen(function* () {
      for (const wrong of [{ contextLength: 1 }, { keepAlive: "1 minute" }, { modelOptions: { min_p: 1 } }] as const) {
        const error = yield* Effect.flip(Layer.build(live({ api: "v1", ...wrong })))
        assert.strictEqual(error.reason, "InvalidRequest")
        assert.include(error.issue ?? "", "native")
      }
    }).pipe(Effect.scoped, Effect.provide(LlmTest.layerReplay([])))
  )

  it.effect("is found by a host without a scheme, with /v1 or with a slash; for ever is a negative time", () =>
    Effect.gen(function* () {
      for (const host of ["box:11434", "http://box:11434/", "http://box:11434/v1", "http://box:11434/v1/", undefined]) {
        const urls: Array<string> = []
        const bodies: Array<string> = []
        const replay = LlmTest.layerReplay(
          [
            {
              provider: "ollama",
              api: "api/chat",
              stream: false,
              response: { status: 200, headers: { "content-type": "application/json" }, body: whole("Hello") }
            }
          ],
          {
            onRequest: (request) => {
              urls.push(request.url)
              if (request.body._tag === "Uint8Array") bodies.push(new TextDecoder().decode(request.body.body))
            }
          }
        )
        const layer = Layer.provide(live({ host, keepAlive: Number.POSITIVE_INFINITY }), replay)
        yield* Effect.provide(Llm.generate(ask), layer)
        const root = host === undefined ? "http://127.0.0.1:11434" : "http://box:11434"
        assert.deepStrictEqual(urls, [`${root}/api/chat`])
        assert.include(bodies[0] ?? "", '"keep_alive":-1')
      }
    })
  )

  it("is where its own clients look for it: at its own port by a host alone, on this machine by a port alone", () => {
    const hosts: ReadonlyArray<readonly [string | undefined, string]> = [
      [undefined, "http://127.0.0.1:11434"],
      [" ", "http://127.0.0.1:11434"],
      ["box", "http://box:11434"],
      ["0.0.0.0", "http://0.0.0.0:11434"],
      ["box:80", "http://box:80"],
      ["[::1]", "http://[::1]:11434"],
      ["[::1]:11500", "http://[::1]:11500"],
      [":11500", "http://127.0.0.1:11500"],
      ["box/ollama/", "http://box:11434/ollama"],
      ["http://box", "http://box"],
      ["https://ollama.com/v1/", "https://ollama.com"],
      ["https://ollama.com/api", "https://ollama.com"]
    ]
    for (const [host, root] of hosts) assert.strictEqual(rootOf(host), root, host)
  })

  it.scopedLive("in /v1 is never asked for a call that the server would not force", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("ok")))
      const tools = [{ name: "f", parameters: { type: "object", properties: {} } }]
      yield* Effect.gen(function* () {
        for (const toolChoice of ["required", { name: "f" }] as const) {
          const error = yield* Effect.flip(Llm.generate({ ...ask, tools, toolChoice }))
          assert.strictEqual(error.reason, "InvalidRequest")
          assert.include(error.issue ?? "", "toolChoice")
        }
        yield* Llm.generate({ ...ask, tools, toolChoice: "none" })
        yield* Llm.generate({ ...ask, tools, toolChoice: "auto" })
      }).pipe(Effect.provide(live({ host: server.url, api: "v1" })))
      const bodies = server.seen.map(({ body }) => JSON.parse(body) as Record<string, unknown>)
      assert.deepStrictEqual(
        bodies.map((body) => [body["tools"] !== undefined, body["tool_choice"]]),
        [
          [false, undefined],
          [true, undefined]
        ]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("is configured by settings, which are checked", () =>
    Effect.gen(function* () {
      const read = (entries: Record<string, string>) =>
        Ollama.config.pipe(
          Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries)))),
          Effect.either
        )
      const all = yield* read({
        "ollama.model": "qwen3",
        "ollama.host": "http://box:1",
        "ollama.apiKey": "k",
        "ollama.api": "v1",
        "ollama.contextLength": "8192",
        "ollama.keepAlive": "10 minutes"
      })
      const options = Either.getOrThrow(all)
      assert.deepStrictEqual(
        [options.model, options.host, options.api, options.contextLength],
        ["qwen3", "http://box:1", "v1", 8192]
      )
      assert.isTrue(Either.isLeft(yield* read({ "ollama.model": "m", "ollama.api": "v2" })))
      assert.isTrue(Either.isLeft(yield* read({ "ollama.model": "" })))
    })
  )
})
