import { FetchHttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as Recording from "@underlay/core/testing/Recording"
import { LlmTest, OllamaServer } from "@underlay/llm"
import { Chunk, ConfigProvider, DateTime, Effect, Fiber, Layer, Redacted, Schedule, Stream, TestClock } from "effect"
import { json, type Seen, serve } from "./server.ts"

const withServer = <A, E, R>(
  options: OllamaServer.OllamaServerOptions,
  use: (server: OllamaServer.OllamaServerService) => Effect.Effect<A, E, R>
) =>
  Effect.flatMap(OllamaServer.OllamaServer, use).pipe(
    Effect.provide(OllamaServer.layer({ retry: { base: "10 millis", jitter: "none" }, ...options }))
  )

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("5 seconds")))
  )

const lines = (...all: ReadonlyArray<unknown>) => all.map((each) => `${JSON.stringify(each)}\n`).join("")

const asked = ({ body, method, path }: Seen) => [method, path, body === "" ? undefined : JSON.parse(body)]

const details = {
  parent_model: "",
  format: "gguf",
  family: "qwen3",
  families: ["qwen3"],
  parameter_size: "8.2B",
  quantization_level: "Q4_K_M"
}

describe("an Ollama server", () => {
  it.scopedLive("lists its models with what they are, whatever fields are new or missing", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, {
          models: [
            {
              name: "qwen3:8b",
              model: "qwen3:8b",
              modified_at: "2026-05-04T03:02:01.5-07:00",
              size: 5_200_000_000,
              digest: "abc",
              details: { ...details, context_length: 40_960, new_field: {} },
              capabilities: ["completion", "tools"]
            },
            { model: "tiny", modified_at: "0001-01-01T00:00:00Z", remote_host: "https://ollama.com", details: null },
            {},
            "what?"
          ],
          more: 1
        })
      )
      const [first, second, ...rest] = yield* withServer({ host: server.url }, ({ list }) => list)
      assert.deepStrictEqual(server.seen.map(asked), [["GET", "/api/tags", undefined]])
      assert.deepStrictEqual(rest, [])
      assert.deepStrictEqual(
        [first?.name, first?.size, first?.digest, first?.capabilities],
        ["qwen3:8b", 5_200_000_000, "abc", ["completion", "tools"]]
      )
      assert.strictEqual(first?.modifiedAt && DateTime.formatIso(first.modifiedAt), "2026-05-04T10:02:01.500Z")
      assert.deepStrictEqual(first?.details, {
        format: "gguf",
        family: "qwen3",
        families: ["qwen3"],
        parameterSize: "8.2B",
        quantization: "Q4_K_M",
        parentModel: undefined,
        contextLength: 40_960,
        embeddingLength: undefined
      })
      assert.deepStrictEqual(
        [second?.name, second?.modifiedAt, second?.capabilities, second?.remoteHost, second?.details.families],
        ["tiny", undefined, undefined, "https://ollama.com", []]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("without a model has an empty list; what lists nothing is no Ollama", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) => {
        json(response, 200, ["null", '{"models":null}', '{"data":[]}', "<html>"][index] ?? "")
      })
      yield* withServer({ host: server.url }, ({ list }) =>
        Effect.gen(function* () {
          assert.strictEqual((yield* Effect.flip(list)).reason, "MalformedResponse")
          assert.deepStrictEqual(yield* list, [])
          assert.strictEqual((yield* Effect.flip(list)).reason, "MalformedResponse")
          assert.strictEqual((yield* Effect.flip(list)).reason, "MalformedResponse")
        })
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("says which models are loaded, how large and for how long", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, {
          models: [
            {
              name: "qwen3:8b",
              size: 7,
              size_vram: 5,
              context_length: 4096,
              expires_at: "2026-05-04T03:02:01Z",
              digest: "abc",
              details
            }
          ]
        })
      )
      const [model] = yield* withServer({ host: server.url }, ({ running }) => running)
      assert.deepStrictEqual(server.seen.map(asked), [["GET", "/api/ps", undefined]])
      assert.deepStrictEqual(
        [model?.name, model?.size, model?.sizeVram, model?.contextLength, model?.details.family],
        ["qwen3:8b", 7, 5, 4096, "qwen3"]
      )
      assert.strictEqual(model?.expiresAt && DateTime.formatIso(model.expiresAt), "2026-05-04T03:02:01.000Z")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("shows what a model can, its window by the architecture that its file names", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, response }) => {
        if (index > 0) return json(response, 200, { modelfile: "FROM x", details: { family: "llama" } })
        json(response, 200, {
          license: "MIT",
          modelfile: "FROM x",
          parameters: "temperature 0.6",
          template: "{{ .Prompt }}",
          system: "",
          details,
          model_info: {
            "general.architecture": "qwen3moe",
            "qwen3moe.context_length": 40_960,
            "qwen3moe.embedding_length": 4096,
            "tokenizer.ggml.tokens": null
          },
          capabilities: ["completion", "tools", "thinking"],
          modified_at: "2026-05-04T03:02:01Z"
        })
      })
      yield* withServer({ host: server.url }, ({ show }) =>
        Effect.gen(function* () {
          const info = yield* show("qwen3:8b")
          assert.deepStrictEqual(
            [info.capabilities, info.contextLength, info.embeddingLength, info.template, info.parameters, info.system],
            [["completion", "tools", "thinking"], 40_960, 4096, "{{ .Prompt }}", "temperature 0.6", undefined]
          )
          assert.deepStrictEqual([info.details.family, info.license], ["qwen3", "MIT"])
          assert.strictEqual(info.info["general.architecture"], "qwen3moe")
          const old = yield* show("old")
          assert.deepStrictEqual(
            [old.capabilities, old.contextLength, old.details.family, old.info],
            [undefined, undefined, "llama", {}]
          )
        })
      )
      assert.deepStrictEqual(server.seen.map(asked), [
        ["POST", "/api/show", { model: "qwen3:8b" }],
        ["POST", "/api/show", { model: "old" }]
      ])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("copies and removes models, and says its version", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.path === "/api/version") json(response, 200, { version: "0.30.1" })
        else response.writeHead(200).end()
      })
      const version = yield* withServer({ host: server.url, apiKey: Redacted.make("key-1") }, (ollama) =>
        Effect.zipRight(Effect.zipRight(ollama.copy("a", "b"), ollama.delete("b")), ollama.version)
      )
      assert.strictEqual(version, "0.30.1")
      assert.deepStrictEqual(server.seen.map(asked), [
        ["POST", "/api/copy", { source: "a", destination: "b" }],
        ["DELETE", "/api/delete", { model: "b" }],
        ["GET", "/api/version", undefined]
      ])
      assert.isTrue(server.seen.every(({ headers }) => headers["authorization"] === "Bearer key-1"))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("is asked again where that helps; a removal is not, since it may have happened", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, request, response }) => {
        if (request.path === "/api/tags" && index > 0) json(response, 200, { models: [] })
        else json(response, 500, { error: "the disk" })
      })
      const recording = yield* Recording.make
      yield* withServer({ host: server.url }, (ollama) =>
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* ollama.list, [])
          const error = yield* Effect.flip(ollama.delete("m"))
          assert.deepStrictEqual(
            [error.reason, error.method, error.model, error.providerMessage],
            ["ServerError", "delete", "m", "the disk"]
          )
        })
      ).pipe(recording.within)
      assert.strictEqual(server.seen.length, 3)
      const spans = (yield* recording.spans).filter(({ name }) => name.startsWith("ollama-server."))
      assert.deepStrictEqual(
        spans.map(({ kind, name }) => [name, kind]),
        [
          ["ollama-server.list", "client"],
          ["ollama-server.delete", "client"]
        ]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("without such a model says so; where none listens it is the network", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 404, { error: "model 'nope' not found" }))
      const error = yield* Effect.flip(withServer({ host: server.url }, ({ show }) => show("nope")))
      assert.deepStrictEqual([error.reason, error.retryable, error.model], ["NotFound", false, "nope"])
      const gone = yield* Effect.scoped(
        Effect.map(
          serve(() => {}),
          ({ url }) => url
        )
      )
      const network = yield* Effect.flip(withServer({ host: gone, retry: false }, ({ list }) => list))
      assert.strictEqual(network.reason, "Network")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("with settings that cannot work stops the layer and says what to change", () =>
    Effect.gen(function* () {
      const host = yield* Effect.flip(withServer({ host: "ftp://box" }, () => Effect.void))
      assert.include(host.issue ?? "", "http://")
      const retry = yield* Effect.flip(withServer({ retry: { attempts: 0 } }, () => Effect.void))
      assert.include(retry.issue ?? "", "attempts")
    }).pipe(Effect.provide(LlmTest.layerReplay([])))
  )

  it.effect("is configured by settings", () =>
    Effect.gen(function* () {
      const urls: Array<string> = []
      const replay = LlmTest.layerReplay([], { onRequest: (request) => urls.push(request.url) })
      yield* Effect.flatMap(OllamaServer.OllamaServer, ({ list }) => Effect.flip(list)).pipe(
        Effect.provide(Layer.provide(OllamaServer.layerConfig(), replay)),
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["ollama.host", "box:1"]]))),
        Effect.fork,
        Effect.tap(() => TestClock.adjust("1 minute")),
        Effect.flatMap(Fiber.join)
      )
      assert.strictEqual(urls[0], "http://box:1/api/tags")
    })
  )
})

const layer = (digest: string, total: number, completed?: number) => ({
  status: `pulling ${digest.slice(7)}`,
  digest,
  total,
  ...(completed === undefined ? {} : { completed })
})

for (const [name, client] of [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici]
] as const) {
  describe(`pulling a model over ${name}`, () => {
    const pulled = (body: string, options: OllamaServer.OllamaServerOptions = {}) =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(200, { "content-type": "application/x-ndjson" })
          response.end(body)
        })
        const seen: Array<OllamaServer.PullProgress> = []
        const result = yield* withServer({ host: server.url, ...options }, ({ pull }) =>
          Effect.either(Stream.runForEach(pull("qwen3"), (progress) => Effect.sync(() => seen.push(progress))))
        )
        const error = result._tag === "Left" ? result.left : undefined
        return { seen, error, server }
      })

    it.scopedLive("says how far it is, of each layer and of all, and ends after success", () =>
      Effect.gen(function* () {
        const { error, seen, server } = yield* pulled(
          lines(
            { status: "pulling manifest" },
            layer("sha256:aa", 100),
            layer("sha256:aa", 100, 60),
            layer("sha256:bb", 10, 10),
            layer("sha256:aa", 100, 100),
            { unheard: "of" },
            { status: "verifying sha256 digest" },
            { status: "success" }
          ).replaceAll("\n", "\r\n")
        )
        assert.isUndefined(error)
        assert.deepStrictEqual(server.seen.map(asked), [["POST", "/api/pull", { model: "qwen3", stream: true }]])
        assert.deepStrictEqual(
          seen.map(({ completed, overall, status, total }) => [
            status,
            completed,
            total,
            overall.completed,
            overall.total
          ]),
          [
            ["pulling manifest", undefined, undefined, 0, 0],
            ["pulling aa", 0, 100, 0, 100],
            ["pulling aa", 60, 100, 60, 100],
            ["pulling bb", 10, 10, 70, 110],
            ["pulling aa", 100, 100, 110, 110],
            ["verifying sha256 digest", undefined, undefined, 110, 110],
            ["success", undefined, undefined, 110, 110]
          ]
        )
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("of a name that the library does not have is NotFound, after what had been said", () =>
      Effect.gen(function* () {
        const { error, seen, server } = yield* pulled(
          lines({ status: "pulling manifest" }, { error: "pull model manifest: file does not exist" })
        )
        assert.deepStrictEqual(
          [error?.reason, error?.retryable, error?.method, error?.model, error?.midStream],
          ["NotFound", false, "pull", "qwen3", true]
        )
        assert.strictEqual(error?.providerMessage, "pull model manifest: file does not exist")
        assert.deepStrictEqual([seen.length, server.seen.length], [1, 1])
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("that fails in between is typed and may be asked again, but is not by itself", () =>
      Effect.gen(function* () {
        const { error, seen, server } = yield* pulled(lines({ status: "pulling manifest" }, { error: "no space left" }))
        assert.deepStrictEqual([error?.reason, error?.retryable], ["ServerError", true])
        assert.deepStrictEqual([seen.length, server.seen.length], [1, 1])
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("that ends without success is truncated, never done", () =>
      Effect.gen(function* () {
        const { error, seen } = yield* pulled(lines({ status: "pulling manifest" }, layer("sha256:aa", 100, 50)))
        assert.deepStrictEqual([error?.reason, error?.midStream, seen.length], ["StreamTruncated", true, 2])
        const cut = yield* pulled(`${lines({ status: "pulling manifest" })}{"status":"succ`)
        assert.deepStrictEqual([cut.error?.reason, cut.seen.length], ["StreamTruncated", 1])
        const html = yield* pulled("<html>\n", { retry: false })
        assert.strictEqual(html.error?.reason, "MalformedResponse")
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("whose connection breaks is truncated", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(200, { "content-type": "application/x-ndjson" })
          response.write(lines({ status: "pulling manifest" }), () => setImmediate(() => response.destroy()))
        })
        const error = yield* Effect.flip(
          withServer({ host: server.url, retry: false }, ({ pull }) => Stream.runDrain(pull("m")))
        )
        assert.deepStrictEqual([error.reason, error.retryable, error.midStream], ["StreamTruncated", true, true])
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("that is interrupted closes the connection, so that the server stops", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(200, { "content-type": "application/x-ndjson" })
          response.write(lines({ status: "pulling manifest" }))
        })
        yield* withServer({ host: server.url }, ({ pull }) =>
          Effect.gen(function* () {
            const first = yield* Stream.runCollect(Stream.take(pull("m"), 1))
            assert.strictEqual(Chunk.unsafeHead(first).status, "pulling manifest")
            yield* eventually("the connection is closed", () => server.aborted() === 1)
            const fiber = yield* Effect.fork(Stream.runDrain(pull("m")))
            yield* eventually("it is asked", () => server.seen.length === 2)
            yield* Fiber.interrupt(fiber)
            yield* eventually("the connection is closed", () => server.aborted() === 2)
          })
        )
      }).pipe(Effect.provide(client))
    )
  })
}

describe("pulling a model", () => {
  it.effect("that falls silent times out, however long it took until then", () =>
    Effect.gen(function* () {
      const replay = LlmTest.layerReplay(
        [
          {
            provider: "ollama",
            api: "api/pull",
            stream: true,
            response: {
              status: 200,
              headers: { "content-type": "application/x-ndjson" },
              body: lines({ status: "pulling manifest" }, layer("sha256:aa", 1, 1), { status: "success" })
            }
          }
        ],
        { chunkSize: 30, pause: "20 seconds" }
      )
      const pull = (idleTimeout: "10 minutes" | "50 seconds") =>
        Effect.flatMap(OllamaServer.OllamaServer, ({ pull }) => Stream.runCount(pull("m"))).pipe(
          Effect.provide(Layer.provide(OllamaServer.layer({ idleTimeout }), replay)),
          Effect.either,
          Effect.fork,
          Effect.tap(() => TestClock.adjust("10 minutes")),
          Effect.flatMap(Fiber.join)
        )
      const slow = yield* pull("10 minutes")
      assert.deepStrictEqual(slow._tag === "Right" ? slow.right : slow.left.message, 3)
      const silent = yield* pull("50 seconds")
      assert.strictEqual(silent._tag === "Left" ? silent.left.reason : "done", "Timeout")
    })
  )
})
