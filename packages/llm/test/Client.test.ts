import { HttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Groq, Llm, LlmResponse, LlmTest, Ollama, OpenAi, OpenAiCompatible, OpenAiEmbeddings } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { ConfigProvider, Duration, Effect, Either, Exit, Fiber, Layer, Redacted, Stream, TestClock } from "effect"
import { casesOf } from "./corpus.ts"
import { chunk, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const recorded = (status: number, body: string, headers: Record<string, string> = {}): LlmTest.Recording => ({
  provider: "openai",
  api: "chat/completions",
  stream: false,
  response: {
    status,
    headers: { "content-type": status === 200 ? "text/event-stream" : "application/json", ...headers },
    body
  }
})

const over = (
  recordings: ReadonlyArray<LlmTest.Recording>,
  options: Partial<OpenAi.OpenAiOptions> & LlmTest.ReplayOptions = {}
) => {
  const asked: Array<string> = []
  const { breakAt, chunkSize, cutAt, pause, ...rest } = options
  const layer = OpenAi.layer({ apiKey: Redacted.make("k"), model: "m", api: "chat-completions", ...rest }).pipe(
    Layer.provide(
      LlmTest.layerReplay(recordings, { breakAt, chunkSize, cutAt, pause, onRequest: ({ url }) => asked.push(url) })
    )
  )
  return { layer, asked }
}

/** Lets promises that the replayed bodies are made of settle; no time passes on the test's clock. */
const settle = Effect.forEach(
  Array.from({ length: 20 }),
  () => Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))),
  { discard: true }
)

const pass = (duration: Duration.DurationInput) =>
  Effect.zipRight(settle, Effect.zipRight(TestClock.adjust(duration), settle))

describe("the wait before the next attempt, by the test's clock", () => {
  const waits: ReadonlyArray<readonly [string, LlmTest.Recording, number]> = [
    ["Retry-After in seconds", recorded(429, "", { "retry-after": "7" }), 7000],
    ["Retry-After in milliseconds", recorded(429, "", { "retry-after-ms": "1500", "retry-after": "9" }), 1500],
    [
      "the words of the body",
      recorded(429, '{"error":{"message":"Please try again in 4.77s.","code":"rate_limit_exceeded"}}'),
      4770
    ],
    ["Retry-After of an overloaded server", recorded(503, "", { "retry-after": "3" }), 3000]
  ]
  for (const [name, first, millis] of waits) {
    it.effect(`is what ${name} say (complaint 4: Retry-After ignored)`, () =>
      Effect.gen(function* () {
        const { asked, layer } = over([first, recorded(200, streamed("once"))])
        const fiber = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(layer), Effect.fork)
        yield* pass(millis - 1)
        assert.strictEqual(asked.length, 1)
        yield* pass(1)
        assert.strictEqual(asked.length, 2)
        assert.strictEqual(LlmResponse.fromParts(yield* Fiber.join(fiber))?.text, "once")
      })
    )
  }

  it.effect(
    "is never one that would pass the limit of the call (complaint 4: uncapped Retry-After stalls fallback)",
    () =>
      Effect.gen(function* () {
        const { asked, layer } = over([recorded(429, "", { "retry-after": "45" })], { timeout: "20 seconds" })
        const fiber = yield* Llm.generate(ask).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
        yield* pass(0)
        const error = yield* Fiber.join(fiber)
        assert.strictEqual(error.reason, "RateLimited")
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(45))
        assert.strictEqual(asked.length, 1)
      })
  )

  it.effect("is none for an error in the middle of an answer", () =>
    Effect.gen(function* () {
      const { asked, layer } = over([
        recorded(200, `${chunk({ content: "a" })}data: {"error":{"message":"try again in 1s","code":429}}\n\n`)
      ])
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      yield* pass("1 minute")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.reason, error.isRetryable, asked.length], ["RateLimited", false, 1])
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(1))
    })
  )
})

describe("limits of time, by the test's clock", () => {
  it.effect("a whole stream has one too, however busy it is", () =>
    Effect.gen(function* () {
      const words = Array.from({ length: 100 }, (_, index) => `w${index} `)
      const body = streamed(...words)
      const { layer } = over([recorded(200, body)], {
        chunkSize: Math.ceil(body.length / 100),
        pause: "2 seconds",
        streamTimeout: "1 minute"
      })
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      for (let second = 0; second < 70; second += 2) yield* pass("2 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason, "Timeout")
      // Not what was left of it for the last piece.
      assert.strictEqual(error.issue, "the whole call took longer than it may")
      assert.isTrue(error.midStream)
      assert.match(error.partial?.text ?? "", /^w0 w1 /)
    })
  )

  it.effect("the first content has one for each attempt", () =>
    Effect.gen(function* () {
      let asked = 0
      const never = Layer.succeed(
        HttpClient.HttpClient,
        HttpClient.make(() =>
          Effect.suspend(() => {
            asked++
            return Effect.never
          })
        )
      )
      const layer = OpenAi.layer({
        apiKey: Redacted.make("k"),
        model: "m",
        retry: { attempts: 2, base: "1 second", jitter: "none" },
        firstContentTimeout: "10 seconds"
      }).pipe(Layer.provide(never))
      const fiber = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      yield* pass("10 seconds")
      assert.strictEqual(asked, 1)
      yield* pass("1 second")
      assert.strictEqual(asked, 2)
      yield* pass("10 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.reason, error.issue], ["Timeout", "no content within 10000 ms"])
    })
  )
})

it.effect("a defect in a stream is measured as one, not as a caller that left", () =>
  Effect.gen(function* () {
    const recording = yield* Recording.make
    const dying = Layer.succeed(
      HttpClient.HttpClient,
      HttpClient.make(() => Effect.die("a fault"))
    )
    const layer = OpenAi.layer({ apiKey: Redacted.make("k"), model: "dies" }).pipe(Layer.provide(dying))
    const exit = yield* Stream.runDrain(Llm.stream(ask)).pipe(Effect.exit, Effect.provide(layer), recording.within)
    assert.isTrue(Exit.isFailure(exit))
    const measured = (yield* recording.metrics).filter(({ name }) => name === "gen_ai.client.operation.duration")
    assert.deepStrictEqual(
      measured.map(({ labels }) => labels["error.type"]),
      ["defect"]
    )
  })
)

describe("settings", () => {
  const from = (entries: Record<string, string>) => (layer: Layer.Layer<Llm.Llm, unknown, HttpClient.HttpClient>) =>
    Effect.map(Llm.Llm, ({ model, provider }) => [provider, model]).pipe(
      Effect.provide(Layer.provide(layer, LlmTest.layerReplay([]))),
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries)))),
      Effect.either
    )

  const table = { openai: OpenAi.layerConfig, groq: Groq.layerConfig, ollama: Ollama.layerConfig }

  it.effect("make each provider of a table by its name", () =>
    Effect.gen(function* () {
      const read = from({
        "openai.apiKey": "a",
        "openai.model": "gpt",
        "openai.timeout": "20 seconds",
        "openai.attempts": "2",
        "groq.apiKey": "b",
        "groq.model": "llama",
        "ollama.model": "gemma"
      })
      for (const [name, model] of [
        [OpenAi.kind, "gpt"],
        [Groq.kind, "llama"],
        [Ollama.kind, "gemma"]
      ] as const) {
        assert.deepStrictEqual(yield* read(table[name]()), Either.right([name, model]))
      }
    })
  )

  it.effect(
    "that are missing or wrong are errors of configuration, that cannot work together errors of the layer",
    () =>
      Effect.gen(function* () {
        const missing = yield* from({})(OpenAi.layerConfig())
        assert.include(String(Either.isLeft(missing) ? missing.left : ""), "apiKey")
        const wrong = yield* from({ "ollama.model": "m", "ollama.timeout": "soon" })(Ollama.layerConfig())
        assert.include(String(Either.isLeft(wrong) ? wrong.left : ""), "timeout")
        const impossible = yield* from({ "ollama.model": "m", "ollama.attempts": "0" })(Ollama.layerConfig())
        assert.include(String(Either.isLeft(impossible) ? impossible.left : ""), "attempts")
      })
  )

  it.effect("never show a key", () =>
    Effect.gen(function* () {
      const key = "sk-very-secret-0123456789"
      const { layer } = over([recorded(401, `{"error":{"message":"Incorrect API key provided: ${key}"}}`)], {
        apiKey: Redacted.make(key)
      })
      const fiber = yield* Llm.generate(ask).pipe(Effect.exit, Effect.provide(layer), Effect.fork)
      yield* pass(0)
      const exit = yield* Fiber.join(fiber)
      assert.isTrue(Exit.isFailure(exit))
      assert.notInclude(JSON.stringify(exit), key)
      assert.notInclude(String(exit), key)
    })
  )
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings through the whole client", "llm-corpus"), () => {
  for (const { expected, name, recording } of casesOf("chat/completions")) {
    it.live(name, () =>
      Effect.gen(function* () {
        const layer = OpenAiCompatible.layer({
          provider: recording.provider,
          baseUrl: "http://127.0.0.1:1",
          model: "m",
          retry: false
        }).pipe(Layer.provide(LlmTest.layerReplay([recording], { chunkSize: 100 })))
        const result = recording.stream
          ? Effect.flatMap(Stream.runCollect(Llm.stream(ask)), (parts) =>
              Effect.fromNullable(LlmResponse.fromParts(parts)).pipe(Effect.orDie)
            )
          : Llm.generate(ask)
        const outcome = yield* result.pipe(Effect.either, Effect.provide(layer))
        assert.deepStrictEqual(LlmTest.canonicalOf(outcome, recording.stream ? "stream" : "generate"), expected)
      })
    )
  }

  const [longest] = casesOf("chat/completions")
    .filter(({ expected, recording }) => recording.stream && expected.error === null)
    .sort((a, b) => b.recording.response.body.length - a.recording.response.body.length)

  it.live("that are cut or lost at random never succeed by mistake and never hang", () =>
    Effect.gen(function* () {
      assert.isDefined(longest)
      if (longest === undefined) return
      const { expected, recording } = longest
      const end = recording.response.body.indexOf('"finish_reason":"')
      for (let step = 1; step <= 20; step++) {
        const at = Math.floor((end * step) / 21)
        for (const how of [{ cutAt: at }, { breakAt: at }]) {
          const { layer } = over([recording], { ...how, chunkSize: 1000, retry: false })
          const outcome = yield* Stream.runCollect(Llm.stream(ask)).pipe(
            Effect.either,
            Effect.provide(layer),
            Effect.timeout("5 seconds")
          )
          assert.isTrue(Either.isLeft(outcome))
          if (Either.isRight(outcome)) continue
          assert.strictEqual(outcome.left.reason, "StreamTruncated")
          assert.isTrue(expected.text.startsWith(outcome.left.partial?.text ?? ""))
        }
      }
    })
  )

  it("a recording of an unknown format is refused", () => {
    assert.isTrue(Either.isLeft(LlmTest.canonical({ ...recorded(200, ""), api: "unheard/of" })))
  })
})

describe("keys that no header can hold", () => {
  // As copied from a page or a chat, with a mark of print or a line end in them.
  const keys = ["\u201ck\u201d", "k\u2013ey", "k\n", "k\u0000"]

  for (const [index, key] of keys.entries()) {
    it.effect(`stop the start and are not shown (${index})`, () =>
      Effect.gen(function* () {
        const http = LlmTest.layerReplay([])
        const error = yield* Effect.flip(
          Effect.scoped(OpenAi.make({ apiKey: Redacted.make(`secret${key}`), model: "m" }).pipe(Effect.provide(http)))
        )
        assert.strictEqual(error.reason, "InvalidRequest")
        assert.isFalse(error.retryable)
        assert.include(error.message, "the header authorization")
        assert.notInclude(JSON.stringify(error) + error.message, "secret")
        const embeddings = yield* Effect.flip(
          Effect.scoped(
            OpenAiEmbeddings.make({ apiKey: Redacted.make(`secret${key}`), model: "text-embedding-3-small" }).pipe(
              Effect.provide(http)
            )
          )
        )
        assert.strictEqual(embeddings.reason, "InvalidRequest")
        assert.notInclude(JSON.stringify(embeddings) + embeddings.message, "secret")
      })
    )
  }
})
