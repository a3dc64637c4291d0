/** Embeddings as a whole: batches, order, retries, errors and what is told of them, over loopback servers and replays. */
import { inspect } from "node:util"
import { HttpClient, HttpClientResponse } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { GoogleGenAI } from "@google/genai"
import * as ErrorClass from "@underlay/core/resilience/ErrorClass"
import * as Policy from "@underlay/core/resilience/Policy"
import * as EmbeddingsPort from "@underlay/core/storage/Embeddings"
import * as Recording from "@underlay/core/testing/Recording"
import {
  AzureOpenAiEmbeddings,
  GoogleEmbeddings,
  HuggingFaceEmbeddings,
  type LlmEmbeddings,
  LlmError,
  OllamaEmbeddings,
  OpenAiEmbeddings
} from "@underlay/llm"
import {
  ConfigProvider,
  Duration,
  Effect,
  Exit,
  FastCheck,
  Fiber,
  Layer,
  Option,
  Redacted,
  Schedule,
  type Scope,
  TestClock
} from "effect"
import { Ollama } from "ollama"
import OpenAI from "openai"
import { type Exchange, json, type Server, serve } from "./server.ts"

const key = "sk-test-0123456789abcdef"
const { Embeddings } = EmbeddingsPort

/** A vector that tells its text: how long it is, and its number if it has one. */
const vectorOf = (text: string): ReadonlyArray<number> => [text.length, Number(/\d+/.exec(text)?.[0] ?? -1)]

const inputsOf = (body: string): ReadonlyArray<string> => JSON.parse(body).input

const answer = (texts: ReadonlyArray<string>) => ({
  object: "list",
  // Not in order, as is allowed.
  data: texts.map((text, index) => ({ index, embedding: vectorOf(text) })).reverse(),
  model: "m-2026",
  usage: { prompt_tokens: texts.length * 10, total_tokens: texts.length * 10 }
})

const ok = ({ request, response }: Exchange) => json(response, 200, answer(inputsOf(request.body)))

const openai = (server: Server, options: Partial<OpenAiEmbeddings.OpenAiEmbeddingsOptions> = {}) =>
  OpenAiEmbeddings.make({
    apiKey: Redacted.make(key),
    model: "custom",
    dimensions: 2,
    baseUrl: `${server.url}/v1/`,
    retry: { base: "5 millis", jitter: "none" },
    ...options
  })

const numbered = (count: number) => Array.from({ length: count }, (_, at) => `text ${at}`)

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("30 seconds")))
  )

/** Without a network: every request is answered by the function, by the test's clock. */
const answering = (
  handle: (texts: ReadonlyArray<string>, index: number) => Effect.Effect<readonly [number, unknown]>
) => {
  const asked: Array<ReadonlyArray<string>> = []
  const layer = Layer.succeed(
    HttpClient.HttpClient,
    HttpClient.make((request) =>
      Effect.suspend(() => {
        const body = request.body._tag === "Uint8Array" ? new TextDecoder().decode(request.body.body) : "{}"
        const texts = inputsOf(body)
        const index = asked.push(texts) - 1
        return Effect.map(handle(texts, index), ([status, value]) =>
          HttpClientResponse.fromWeb(request, new Response(JSON.stringify(value), { status }))
        )
      })
    )
  )
  return { asked, layer }
}

const made = (
  http: Layer.Layer<HttpClient.HttpClient>,
  options: Partial<OpenAiEmbeddings.OpenAiEmbeddingsOptions> = {}
) =>
  OpenAiEmbeddings.make({
    apiKey: Redacted.make(key),
    model: "custom",
    dimensions: 2,
    retry: { base: "1 second", jitter: "none" },
    ...options
  }).pipe(Effect.provide(http))

describe("batches", () => {
  it.effect("property: as few as the limits allow, and the vectors in the order of the texts", () =>
    Effect.promise(() =>
      FastCheck.assert(
        FastCheck.asyncProperty(
          FastCheck.array(FastCheck.string({ minLength: 1, maxLength: 12, unit: "grapheme" }), { maxLength: 40 }),
          FastCheck.integer({ min: 1, max: 12 }),
          FastCheck.integer({ min: 1, max: 60 }),
          FastCheck.integer({ min: 1, max: 5 }),
          (texts, maxBatchSize, maxBatchBytes, concurrency) =>
            Effect.gen(function* () {
              const { asked, layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
              const embeddings = yield* made(layer, { maxBatchSize, maxBatchBytes, concurrency })
              const vectors = yield* embeddings.embedMany(texts)
              assert.deepStrictEqual(vectors, texts.map(vectorOf))
              assert.deepStrictEqual(asked.flat().sort(), [...texts].sort())
              const bytes = (batch: ReadonlyArray<string>) => new TextEncoder().encode(batch.join("")).length
              for (const batch of asked) {
                assert.isAtMost(batch.length, maxBatchSize)
                if (batch.length > 1) assert.isAtMost(bytes(batch), maxBatchBytes)
              }
              // No two neighbours would have fitted into one.
              if (concurrency === 1) {
                asked.slice(1).forEach((batch, at) => {
                  const joined = [...(asked[at] ?? []), batch[0] ?? ""]
                  assert.isTrue(joined.length > maxBatchSize || bytes(joined) > maxBatchBytes)
                })
              }
            }).pipe(Effect.scoped, Effect.runPromise)
        ),
        { numRuns: 60 }
      )
    )
  )

  it.scoped("no texts give no vectors without a request; an empty text is refused with its place", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
      const embeddings = yield* made(layer)
      assert.deepStrictEqual(yield* embeddings.embedMany([]), [])
      const error = yield* Effect.flip(embeddings.embedMany(["a", "", "b"]))
      assert.strictEqual(error.reason, "InvalidRequest")
      assert.deepStrictEqual(error.inputs, { start: 1, end: 2 })
      assert.include(error.message, "text 1 of 3 is empty")
      assert.strictEqual((yield* Effect.flip(embeddings.embed(""))).reason, "InvalidRequest")
      assert.deepStrictEqual(asked, [])
    })
  )

  it.scoped("concurrency is bounded", () =>
    Effect.gen(function* () {
      let now = 0
      let most = 0
      const { asked, layer } = answering((batch) =>
        Effect.sync(() => {
          now++
          most = Math.max(most, now)
        }).pipe(
          Effect.zipRight(Effect.sleep("1 second")),
          Effect.map(() => {
            now--
            return [200, answer(batch)]
          })
        )
      )
      const embeddings = yield* made(layer, { maxBatchSize: 10, concurrency: 3 })
      const fiber = yield* Effect.fork(embeddings.embedMany(numbered(100)))
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), numbered(100).map(vectorOf))
      assert.deepStrictEqual([asked.length, most], [10, 3])
    })
  )

  it.scoped("a provider that asks for less gets less: too many tokens or texts in one request", () =>
    Effect.gen(function* () {
      for (const refusal of [
        { message: "Requested 354478 tokens, max 300000 tokens per request", code: "max_tokens_per_request" },
        { message: "batch size 8 > maximum allowed batch size 3" },
        { message: "* BatchEmbedContentsRequest.requests: at most 3 requests can be in one batch" }
      ]) {
        const { asked, layer } = answering((batch) =>
          Effect.succeed(batch.length > 3 ? [400, { error: refusal }] : [200, answer(batch)])
        )
        const embeddings = yield* made(layer)
        assert.deepStrictEqual(yield* embeddings.embedMany(numbered(8)), numbered(8).map(vectorOf))
        assert.deepStrictEqual(
          asked.map((batch) => batch.length),
          [8, 4, 2, 2, 4, 2, 2]
        )
      }
    })
  )

  it.scoped("a text that is too long is found among the others", () =>
    Effect.gen(function* () {
      const tooLong = [400, { error: "the input length exceeds the context length" }] as const
      const { layer } = answering((batch) => Effect.succeed(batch.includes("text 5") ? tooLong : [200, answer(batch)]))
      const embeddings = yield* made(layer)
      const error = yield* Effect.flip(embeddings.embedMany(numbered(8)))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["ContextLengthExceeded", false])
      assert.deepStrictEqual(error.inputs, { start: 5, end: 6 })
    })
  )

  it.scoped("a text that the provider names is believed, whatever batch it was in", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch) => {
        const at = batch.indexOf("text 13")
        const message = `Invalid 'input[${at}]': maximum input length is 8192 tokens.`
        return Effect.succeed(at === -1 ? [200, answer(batch)] : [400, { error: { message } }])
      })
      const embeddings = yield* made(layer, { maxBatchSize: 10, concurrency: 1 })
      const error = yield* Effect.flip(embeddings.embedMany(numbered(40)))
      assert.strictEqual(error.reason, "ContextLengthExceeded")
      assert.deepStrictEqual(error.inputs, { start: 13, end: 14 })
      assert.include(error.message, "text 13 of 40")
      assert.strictEqual(asked.length, 2)
    })
  )
})

describe("retries", () => {
  it.scoped("repeat only what has not come, and each batch may fail as often as one alone", () =>
    Effect.gen(function* () {
      const failures = new Map<string, number>()
      const { asked, layer } = answering((batch) => {
        const name = batch[0] ?? ""
        const before = failures.get(name) ?? 0
        failures.set(name, before + 1)
        return Effect.succeed(before < 2 ? [500, "oops"] : [200, answer(batch)])
      })
      const embeddings = yield* made(layer, { maxBatchSize: 2, concurrency: 1, breaker: false })
      const fiber = yield* Effect.fork(embeddings.embedMany(numbered(8)))
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(yield* Fiber.join(fiber), numbered(8).map(vectorOf))
      // Four batches, each asked three times, none of them once it had come.
      assert.deepStrictEqual([asked.length, [...failures.values()]], [12, [3, 3, 3, 3]])
    })
  )

  it.scoped("end where one batch has failed three times, and the error says which it was", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch) =>
        Effect.succeed(batch.includes("text 7") ? [503, { error: { message: "busy" } }] : [200, answer(batch)])
      )
      const embeddings = yield* made(layer, { maxBatchSize: 5 })
      const fiber = yield* Effect.fork(Effect.flip(embeddings.embedMany(numbered(20))))
      yield* TestClock.adjust("10 minutes")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Unavailable", true])
      assert.deepStrictEqual(error.inputs, { start: 5, end: 10 })
      assert.include(error.message, "texts 5 to 9 of 20")
      assert.strictEqual(asked.length, 4 + 2)
      // An outer policy does not try again what was tried enough.
      assert.isTrue(ErrorClass.isExhausted(error))
      assert.strictEqual(ErrorClass.classify(error).class, "transient")
    })
  )

  it.scoped("3 x 3 makes 3 attempts: a policy round the call leaves off too, of one batch and of several", () =>
    Effect.gen(function* () {
      for (const maxBatchSize of [4, 2]) {
        const { asked, layer } = answering((batch) =>
          Effect.succeed(batch.includes("text 1") ? [503, { error: { message: "busy" } }] : [200, answer(batch)])
        )
        const embeddings = yield* made(layer, { maxBatchSize })
        const outer = yield* Policy.make({ name: "outer", retry: { attempts: 3, base: "1 second" }, timeout: "1 hour" })
        const fiber = yield* Effect.fork(Effect.flip(outer.run(embeddings.embedMany(numbered(4)))))
        yield* TestClock.adjust("10 minutes")
        const error = yield* Fiber.join(fiber)
        assert.instanceOf(error, EmbeddingsPort.EmbeddingsError)
        assert.strictEqual(asked.filter((batch) => batch.includes("text 1")).length, 3)
      }
    })
  )

  it.scoped("are those of the policy round the call where it has none of its own", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch, index) =>
        Effect.succeed(index === 0 ? [503, { error: { message: "busy" } }] : [200, answer(batch)])
      )
      const embeddings = yield* made(layer, { maxBatchSize: 2, concurrency: 1, retry: false })
      const outer = yield* Policy.make({ name: "outer", retry: { attempts: 3, base: "1 second" }, timeout: "1 hour" })
      const fiber = yield* Effect.fork(outer.run(embeddings.embedMany(numbered(4))))
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(yield* Fiber.join(fiber), numbered(4).map(vectorOf))
      assert.strictEqual(asked.length, 3)
    })
  )

  it.scoped("wait as long as the provider says (complaint 4: Retry-After ignored)", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch, index) =>
        Effect.succeed(index === 0 ? [429, { error: { message: "Please try again in 4.77s." } }] : [200, answer(batch)])
      )
      const embeddings = yield* made(layer)
      const fiber = yield* Effect.fork(embeddings.embed("text 1"))
      yield* TestClock.adjust(4769)
      assert.strictEqual(asked.length, 1)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(fiber), vectorOf("text 1"))
    })
  )

  it.scoped("never for quota, and the others that are under way are left at once (complaint 4)", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch, index) =>
        index === 0
          ? Effect.succeed([429, { error: { message: "You exceeded your current quota", code: "insufficient_quota" } }])
          : Effect.as(Effect.never, [200, answer(batch)])
      )
      const embeddings = yield* made(layer, { maxBatchSize: 5 })
      const error = yield* Effect.flip(embeddings.embedMany(numbered(20)))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["QuotaExhausted", false])
      assert.isAtMost(asked.length, 4)
      assert.deepStrictEqual(error.inputs, { start: 0, end: 5 })
    })
  )

  it.scoped("a failure that may pass lets the others finish, which are not asked for again", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering((batch, index) =>
        index === 0
          ? Effect.succeed([500, "oops"])
          : Effect.delay(Effect.succeed([200, answer(batch)] as const), "10 seconds")
      )
      const embeddings = yield* made(layer, { maxBatchSize: 5, concurrency: 4 })
      const fiber = yield* Effect.fork(embeddings.embedMany(numbered(20)))
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), numbered(20).map(vectorOf))
      assert.strictEqual(asked.length, 5)
    })
  )

  it.scoped("have an end: the limit of a call, for every round of batches", () =>
    Effect.gen(function* () {
      const { layer } = answering((batch) =>
        batch.includes("text 0") ? Effect.succeed([200, answer(batch)]) : Effect.as(Effect.never, [200, answer(batch)])
      )
      const embeddings = yield* made(layer, { maxBatchSize: 5, concurrency: 2, timeout: "10 seconds" })
      const fiber = yield* Effect.fork(Effect.exit(embeddings.embedMany(numbered(20))))
      yield* TestClock.adjust(19_999)
      assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
      yield* TestClock.adjust(1)
      const error = yield* Effect.flip(yield* Fiber.join(fiber))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Timeout", true])
      assert.deepStrictEqual(error.inputs, { start: 5, end: 20 })
    })
  )

  it.scoped("do not wait for a request that hangs until the whole call is over", () =>
    Effect.gen(function* () {
      let hung = 0
      const { asked, layer } = answering((batch) =>
        batch.includes("text 7") && hung++ === 0 ? Effect.never : Effect.succeed([200, answer(batch)])
      )
      const embeddings = yield* made(layer, { maxBatchSize: 1, concurrency: 2, timeout: "10 seconds" })
      const fiber = yield* Effect.fork(embeddings.embedMany(numbered(40)))
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), numbered(40).map(vectorOf))
      assert.strictEqual(asked.length, 41)
    })
  )

  it.scopedLive("tell what the provider says of its limits, of an answer and of an error", () =>
    Effect.gen(function* () {
      const limits = (remaining: number) => ({
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": String(remaining),
        "x-ratelimit-reset-requests": "120ms"
      })
      const server = yield* serve(({ index, request, response }) =>
        index < 2
          ? json(response, 200, answer(inputsOf(request.body)), limits(499 - index))
          : json(response, 429, { error: { message: "slow down" } }, limits(0))
      )
      const embeddings = yield* openai(server, { maxBatchSize: 1, concurrency: 1, retry: false })
      const { rateLimits } = yield* embeddings.embedWithUsage(["a", "b"])
      assert.deepStrictEqual(rateLimits?.requests, { limit: 500, remaining: 498, resetAfter: 120 })
      const error = yield* Effect.flip(embeddings.embed("c"))
      assert.instanceOf(error.cause, LlmError.LlmError)
      assert.strictEqual((error.cause as LlmError.LlmError).rateLimits?.requests?.remaining, 0)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scoped("a provider that fails again and again is left alone for a while", () =>
    Effect.gen(function* () {
      const { asked, layer } = answering(() => Effect.succeed([500, "oops"]))
      const embeddings = yield* made(layer, { retry: false, breaker: { window: { type: "consecutive", failures: 2 } } })
      for (let call = 0; call < 2; call++) yield* Effect.flip(embeddings.embed("a"))
      const error = yield* Effect.flip(embeddings.embed("a"))
      assert.strictEqual(asked.length, 2)
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Unavailable", true])
      assert.include(error.message, "CircuitOpen")
      assert.isTrue(Duration.greaterThan(error.retryAfter ?? Duration.zero, Duration.seconds(1)))
    })
  )
})

describe("errors", () => {
  it.scoped("every reason, with what it is retried for", () =>
    Effect.gen(function* () {
      for (const [status, body, reason, retryable] of [
        [401, { error: { message: "bad key" } }, "Authentication", false],
        [403, {}, "PermissionDenied", false],
        [404, { error: { message: "no such model", code: "model_not_found" } }, "NotFound", false],
        [400, { error: { message: "no" } }, "InvalidRequest", false],
        [400, { error: { message: "no", code: "context_length_exceeded" } }, "ContextLengthExceeded", false],
        [400, { error: { message: "no", code: "content_filter" } }, "ContentFiltered", false],
        [402, {}, "QuotaExhausted", false],
        [429, {}, "RateLimited", true],
        [500, {}, "Unavailable", true],
        [503, {}, "Unavailable", true],
        [200, { data: [] }, "MalformedResponse", false],
        [
          413,
          { error: "`inputs` must have less than 512 tokens. Given: 600", error_type: "Validation" },
          "ContextLengthExceeded",
          false
        ],
        [500, { error: "the input length exceeds the context length" }, "ContextLengthExceeded", false]
      ] as const) {
        const { layer } = answering(() => Effect.succeed([status, body]))
        const embeddings = yield* made(layer, { retry: false })
        const error = yield* Effect.flip(embeddings.embed("a private text"))
        assert.deepStrictEqual([error.reason, error.isRetryable], [reason, retryable], String(status))
        assert.strictEqual(error.method, "embed")
        assert.instanceOf(error.cause, LlmError.LlmError)
        assert.notInclude(error.message, "private")
      }
    })
  )

  it.scoped("a connection that cannot be made", () =>
    Effect.gen(function* () {
      const embeddings = yield* OpenAiEmbeddings.make({
        apiKey: Redacted.make(key),
        model: "custom",
        dimensions: 2,
        baseUrl: "http://127.0.0.1:1/v1",
        retry: false
      })
      const error = yield* Effect.flip(embeddings.embed("a"))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Unavailable", true])
      assert.include(error.message, "Network")
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("an answer that breaks off is asked for again; one that is cut short but ended is malformed", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ index, request, response }) => {
        const body = JSON.stringify(answer(inputsOf(request.body)))
        if (index > 0) return json(response, 200, index === 1 ? body : body.slice(0, -9))
        response.writeHead(200, { "content-type": "application/json", "content-length": String(body.length) })
        response.write(body.slice(0, 20), () => response.destroy())
      })
      const embeddings = yield* openai(server)
      assert.deepStrictEqual(yield* embeddings.embed("text 1"), vectorOf("text 1"))
      assert.strictEqual(server.seen.length, 2)
      const error = yield* Effect.flip(embeddings.embed("text 1"))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["MalformedResponse", false])
      assert.include(error.message, "not JSON")
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("HTML of a gateway is its status (complaint 10: error mapping)", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => {
        response.writeHead(502, { "content-type": "text/html" })
        response.end("<html><body>Bad Gateway: a private text</body></html>")
      })
      const embeddings = yield* openai(server, { retry: false })
      const error = yield* Effect.flip(embeddings.embed("a private text"))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["Unavailable", true])
      assert.notInclude(error.message, "private")
      assert.notInclude(JSON.stringify(error), "private")
      assert.notInclude(inspect(error, { depth: 9 }), "private")
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scoped("a vector of another length is none of the model's", () =>
    Effect.gen(function* () {
      const { layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
      const embeddings = yield* made(layer, { dimensions: 3 })
      const error = yield* Effect.flip(embeddings.embed("a"))
      assert.strictEqual(error.reason, "MalformedResponse")
      assert.include(error.message, "2 dimensions where 3 were expected")
    })
  )

  it.scoped("settings that cannot work", () =>
    Effect.gen(function* () {
      const { layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
      for (const [options, words] of [
        [{ dimensions: undefined }, "give them as `dimensions`"],
        [{ dimensions: 0 }, "dimensions"],
        [{ dimensions: 1.5 }, "dimensions"],
        [{ model: "text-embedding-3-small", dimensions: 3072 }, "1536 dimensions"],
        [{ maxBatchSize: 2049 }, "1 to 2048"],
        [{ maxBatchSize: 0 }, "maxBatchSize"],
        [{ maxBatchBytes: -1 }, "maxBatchBytes"],
        [{ concurrency: 0 }, "concurrency"],
        [{ baseUrl: "api.openai.com" }, "base URL"],
        [{ timeout: "0 seconds" }, "timeout"]
      ] as const) {
        const error = yield* Effect.flip(made(layer, options))
        assert.deepStrictEqual([error.reason, error.method], ["InvalidRequest", "layer"])
        assert.include(error.message, words)
      }
    })
  )
})

describe("what is told of a call", () => {
  it.scopedLive("one span with its requests inside, one line, the metrics; no text, no vector, no key", () =>
    Effect.gen(function* () {
      const secret = "the very private text"
      const server = yield* serve((exchange) => {
        if (exchange.index === 0) json(exchange.response, 500, "oops")
        else ok(exchange)
      })
      const recording = yield* Recording.make
      const embeddings = yield* openai(server, { maxBatchSize: 2, concurrency: 1, encoding: "float" })
      const result = yield* embeddings
        .embedWithUsage([secret, "text 7654321", "text 2", "text 3", "text 4"])
        .pipe(recording.within)
      assert.deepStrictEqual(result.usage, { input: 50 })
      assert.strictEqual(result.model, "m-2026")

      const spans = yield* recording.spans
      const [call, ...others] = spans
      assert.isDefined(call)
      if (call === undefined) return
      assert.deepStrictEqual([call.name, call.kind, call.ends], ["embeddings custom", "client", 1])
      assert.strictEqual(others.length, 4)
      assert.deepStrictEqual(yield* recording.childrenOf(call), others)
      const attribute = (name: string) => call.attributes.get(name)
      assert.strictEqual(attribute("gen_ai.operation.name"), "embeddings")
      assert.strictEqual(attribute("gen_ai.provider.name"), "openai")
      assert.strictEqual(attribute("gen_ai.request.model"), "custom")
      assert.strictEqual(attribute("gen_ai.response.model"), "m-2026")
      assert.strictEqual(attribute("gen_ai.embeddings.dimension.count"), 2)
      assert.deepStrictEqual(attribute("gen_ai.request.encoding_formats"), ["float"])
      assert.strictEqual(attribute("gen_ai.usage.input_tokens"), 50)
      assert.strictEqual(attribute("server.address"), "127.0.0.1")
      assert.isUndefined(attribute("error.type"))

      const lines = (yield* recording.lines).filter(({ annotations }) => "service" in annotations)
      assert.strictEqual(lines.length, 1)
      const metrics = yield* recording.metrics
      const changed = (name: string) =>
        metrics
          .filter((metric) => metric.name === name && metric.labels["gen_ai.request.model"] === "custom")
          .map(({ after, before, labels }) => [labels["gen_ai.operation.name"], after - before])
      assert.deepStrictEqual(changed("gen_ai.client.operation.duration"), [["embeddings", 1]])
      assert.deepStrictEqual(changed("gen_ai.client.token.usage"), [["embeddings", 1]])

      const bigints = (_: string, value: unknown) => (typeof value === "bigint" ? String(value) : value)
      const shown = JSON.stringify(
        [spans.map((span) => [span.name, [...span.attributes], span.events]), lines, metrics],
        bigints
      )
      for (const word of [secret, key, "7654321"]) assert.notInclude(shown, word)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("the tokens of what had come are told of a call that fails", () =>
    Effect.gen(function* () {
      const server = yield* serve((exchange) => {
        if (exchange.index === 1) json(exchange.response, 400, { error: { message: "no" } })
        else ok(exchange)
      })
      const recording = yield* Recording.make
      const embeddings = yield* openai(server, { maxBatchSize: 2, concurrency: 1 })
      yield* Effect.flip(embeddings.embedMany(numbered(4))).pipe(recording.within)
      const [call] = yield* recording.spans
      assert.strictEqual(call?.attributes.get("gen_ai.usage.input_tokens"), 20)
      assert.strictEqual(call?.attributes.get("error.type"), "InvalidRequest")
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("interruption closes the connections (complaint 8: aborts leak)", () =>
    Effect.gen(function* () {
      const server = yield* serve(() => {})
      const embeddings = yield* openai(server, { maxBatchSize: 2, concurrency: 3 })
      const fiber = yield* Effect.fork(embeddings.embedMany(numbered(10)))
      yield* eventually("three requests", () => server.seen.length === 3)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      yield* eventually("closed sockets", () => server.aborted() === 3)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )
})

describe("normalize", () => {
  it.scoped("scales to length one, also what is very large or very small; nothing stays nothing", () =>
    Effect.gen(function* () {
      const vectors = [
        [3, 4],
        [3e200, 4e200],
        [3e-200, 4e-200],
        [0, 0]
      ]
      const { layer } = answering(() =>
        Effect.succeed([200, { data: vectors.map((embedding, index) => ({ index, embedding })) }])
      )
      const embeddings = yield* made(layer, { normalize: true })
      const scaled = yield* embeddings.embedMany(["a", "b", "c", "d"])
      scaled.forEach((vector, at) => {
        assert.closeTo(vector[0] ?? Number.NaN, at === 3 ? 0 : 0.6, 1e-12)
        assert.closeTo(vector[1] ?? Number.NaN, at === 3 ? 0 : 0.8, 1e-12)
      })
    })
  )
})

/** What each provider is asked, and that its answer is understood. */
const provider = (
  name: string,
  options: {
    readonly make: (
      url: string
    ) => Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsPort.EmbeddingsError, HttpClient.HttpClient | Scope.Scope>
    readonly answer: unknown
    readonly path: string
    readonly headers?: Readonly<Record<string, string | undefined>>
    readonly body: unknown
    readonly vectors?: ReadonlyArray<ReadonlyArray<number>>
    readonly usage?: number
    readonly dimensions: number
  }
) =>
  it.scopedLive(name, () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, options.answer))
      const embeddings = yield* options.make(server.url)
      assert.strictEqual(embeddings.dimensions, options.dimensions)
      const found = yield* embeddings.embedWithUsage(["a", "b"])
      if (options.vectors !== undefined) assert.deepStrictEqual(found.vectors, options.vectors)
      assert.strictEqual(found.vectors.length, 2)
      assert.strictEqual(found.usage.input, options.usage)
      const [seen, ...more] = server.seen
      assert.deepStrictEqual(more, [])
      assert.deepStrictEqual([seen?.method, seen?.path], ["POST", options.path])
      for (const [header, value] of Object.entries(options.headers ?? {})) {
        assert.strictEqual(seen?.headers[header], value, header)
      }
      assert.deepStrictEqual(JSON.parse(seen?.body ?? ""), options.body)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

const apiKey = Redacted.make(key)
const two = [
  [1, 2],
  [3, 4]
]
const long = (length: number) => Array.from({ length }, (_, at) => at + 1)
const openAiAnswer = {
  data: two.map((embedding, index) => ({ index, embedding })),
  usage: { prompt_tokens: 4, total_tokens: 4 }
}
const base64 = (vector: ReadonlyArray<number>) => Buffer.from(Float32Array.from(vector).buffer).toString("base64")

describe("providers", () => {
  provider("OpenAI: a model that is known is not asked to shorten unless that is meant", {
    make: (url) =>
      OpenAiEmbeddings.make({
        apiKey,
        model: "text-embedding-3-small",
        baseUrl: url,
        organization: "org",
        project: "proj",
        user: "u",
        encoding: "base64"
      }),
    answer: { data: [0, 1].map((index) => ({ index, embedding: base64(long(1536)) })) },
    path: "/embeddings",
    headers: { authorization: `Bearer ${key}`, "openai-organization": "org", "openai-project": "proj" },
    body: { model: "text-embedding-3-small", input: ["a", "b"], encoding_format: "base64", user: "u" },
    vectors: [long(1536), long(1536)],
    dimensions: 1536
  })

  provider("OpenAI: fewer dimensions are asked for", {
    make: (url) =>
      OpenAiEmbeddings.make({ apiKey, model: "text-embedding-3-large", dimensions: 2, baseUrl: `${url}/v1/` }),
    answer: openAiAnswer,
    path: "/v1/embeddings",
    body: { model: "text-embedding-3-large", input: ["a", "b"], dimensions: 2 },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  provider("a server that imitates OpenAI: nothing is asked that it may not know", {
    make: (url) => OpenAiEmbeddings.make({ apiKey, model: "bge-m3", dimensions: 2, baseUrl: url }),
    answer: openAiAnswer,
    path: "/embeddings",
    body: { model: "bge-m3", input: ["a", "b"] },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  provider("Azure, v1, with a key", {
    make: (endpoint) =>
      AzureOpenAiEmbeddings.make({
        endpoint,
        apiKey,
        model: "dep",
        baseModel: "text-embedding-3-small",
        dimensions: 2
      }),
    answer: openAiAnswer,
    path: "/openai/v1/embeddings",
    headers: { "api-key": key, authorization: undefined },
    body: { model: "dep", input: ["a", "b"], encoding_format: "base64", dimensions: 2 },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  provider("Azure, deployments, with a token", {
    make: (endpoint) =>
      AzureOpenAiEmbeddings.make({
        endpoint: `${endpoint}/openai/v1/`,
        token: Effect.succeed(Redacted.make("entra")),
        model: "my dep",
        style: "deployments",
        dimensions: 2,
        shorten: false
      }),
    answer: openAiAnswer,
    path: "/openai/deployments/my%20dep/embeddings?api-version=2024-10-21",
    headers: { "api-key": undefined, authorization: "Bearer entra" },
    body: { model: "my dep", input: ["a", "b"], encoding_format: "base64" },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  provider("Azure, model inference", {
    make: (endpoint) =>
      AzureOpenAiEmbeddings.make({
        endpoint: `${endpoint}/models`,
        apiKey,
        model: "cohere",
        style: "models",
        dimensions: 2
      }),
    answer: openAiAnswer,
    path: "/models/embeddings?api-version=2024-05-01-preview",
    headers: { "api-key": key },
    body: { model: "cohere", input: ["a", "b"], dimensions: 2 },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  it.scopedLive("Azure: a token is kept until it is refused", () =>
    Effect.gen(function* () {
      let given = 0
      const server = yield* serve(({ index, request, response }) =>
        index === 2 ? json(response, 401, {}) : json(response, 200, answer(inputsOf(request.body)))
      )
      const embeddings = yield* AzureOpenAiEmbeddings.make({
        endpoint: server.url,
        token: Effect.sync(() => ({ token: Redacted.make(`token-${given++}`), expiresAt: Date.now() + 3_600_000 })),
        model: "dep",
        dimensions: 2
      })
      yield* embeddings.embed("a")
      yield* embeddings.embed("b")
      const error = yield* Effect.flip(embeddings.embed("c"))
      assert.strictEqual(error.reason, "Authentication")
      yield* embeddings.embed("d")
      assert.deepStrictEqual(
        server.seen.map(({ headers }) => headers["authorization"]),
        ["Bearer token-0", "Bearer token-0", "Bearer token-0", "Bearer token-1"]
      )
      const refused = yield* AzureOpenAiEmbeddings.make({
        endpoint: server.url,
        token: Effect.fail("no login"),
        model: "dep",
        dimensions: 2
      })
      assert.strictEqual((yield* Effect.flip(refused.embed("a"))).reason, "Authentication")
      assert.strictEqual(server.seen.length, 4)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  provider("Google: what is shortened is scaled to length one", {
    make: (url) =>
      GoogleEmbeddings.make({
        apiKey,
        model: "gemini-embedding-001",
        dimensions: 2,
        taskType: "RETRIEVAL_QUERY",
        baseUrl: `${url}/v1beta`
      }),
    answer: { embeddings: [{ values: [3, 4] }, { values: [0, 2] }], usageMetadata: { promptTokenCount: 5 } },
    path: "/v1beta/models/gemini-embedding-001:batchEmbedContents",
    headers: { "x-goog-api-key": key },
    body: {
      requests: ["a", "b"].map((text) => ({
        model: "models/gemini-embedding-001",
        content: { parts: [{ text }] },
        taskType: "RETRIEVAL_QUERY",
        outputDimensionality: 2
      }))
    },
    vectors: [
      [0.6, 0.8],
      [0, 1]
    ],
    usage: 5,
    dimensions: 2
  })

  provider("Google: whole vectors stay as they are", {
    make: (url) => GoogleEmbeddings.make({ apiKey, model: "models/gemini-embedding-2", baseUrl: url }),
    answer: { embeddings: [{ values: long(3072) }, { values: long(3072) }] },
    path: "/models/gemini-embedding-2:batchEmbedContents",
    body: {
      requests: ["a", "b"].map((text) => ({ model: "models/gemini-embedding-2", content: { parts: [{ text }] } }))
    },
    vectors: [long(3072), long(3072)],
    dimensions: 3072
  })

  provider("Hugging Face: a server of one's own, feature extraction", {
    make: (baseUrl) => HuggingFaceEmbeddings.make({ model: "org/own", dimensions: 2, baseUrl, truncate: true }),
    answer: two,
    path: "/",
    headers: { authorization: undefined },
    body: { inputs: ["a", "b"], truncate: true },
    vectors: two,
    dimensions: 2
  })

  provider("Hugging Face: a server of one's own is asked at the very address", {
    make: (url) => HuggingFaceEmbeddings.make({ model: "org/own", dimensions: 2, baseUrl: `${url}/embed` }),
    answer: two,
    path: "/embed",
    body: { inputs: ["a", "b"] },
    vectors: two,
    dimensions: 2
  })

  provider("Hugging Face: vectors of tokens are pooled", {
    make: (baseUrl) => HuggingFaceEmbeddings.make({ apiKey, model: "org/own", dimensions: 2, baseUrl, pooling: "cls" }),
    answer: [[two], [two]],
    path: "/",
    headers: { authorization: `Bearer ${key}` },
    body: { inputs: ["a", "b"] },
    vectors: [
      [1, 2],
      [1, 2]
    ],
    dimensions: 2
  })

  provider("Hugging Face: a server of one's own, OpenAI's format", {
    make: (baseUrl) => HuggingFaceEmbeddings.make({ model: "org/own", dimensions: 2, baseUrl, api: "openai" }),
    answer: openAiAnswer,
    path: "/v1/embeddings",
    body: { model: "org/own", input: ["a", "b"] },
    vectors: two,
    usage: 4,
    dimensions: 2
  })

  provider("Ollama", {
    make: (url) => OllamaEmbeddings.make({ host: `${url}/v1/`, model: "all-minilm:latest", dimensions: 2 }),
    answer: { model: "all-minilm", embeddings: two, prompt_eval_count: 3 },
    path: "/api/embed",
    headers: { authorization: undefined },
    body: { model: "all-minilm:latest", input: ["a", "b"], truncate: false, dimensions: 2 },
    vectors: two,
    usage: 3,
    dimensions: 2
  })

  provider("Ollama: the dimensions of a model that is not known are checked only", {
    make: (url) =>
      OllamaEmbeddings.make({
        apiKey,
        host: url,
        model: "own",
        dimensions: 2,
        contextLength: 9,
        keepAlive: "1 hour",
        modelOptions: { num_gpu: 1 },
        headers: { "X-Team": Redacted.make("a") }
      }),
    answer: { embeddings: two },
    path: "/api/embed",
    headers: { authorization: `Bearer ${key}`, "x-team": "a" },
    body: { model: "own", input: ["a", "b"], truncate: false, keep_alive: 3600, options: { num_ctx: 9, num_gpu: 1 } },
    vectors: two,
    dimensions: 2
  })

  it.scoped("Hugging Face's router: its own inference, and a provider behind it", () =>
    Effect.gen(function* () {
      const asked: Array<readonly [string, unknown]> = []
      const http = Layer.succeed(
        HttpClient.HttpClient,
        HttpClient.make((request) =>
          Effect.sync(() => {
            const body = request.body._tag === "Uint8Array" ? new TextDecoder().decode(request.body.body) : "{}"
            asked.push([request.url, JSON.parse(body)])
            return HttpClientResponse.fromWeb(request, new Response(JSON.stringify([long(1024)])))
          })
        )
      )
      const own = yield* HuggingFaceEmbeddings.make({ apiKey, model: "BAAI/bge-m3" }).pipe(Effect.provide(http))
      assert.deepStrictEqual(yield* own.embed("a"), long(1024))
      const other = yield* HuggingFaceEmbeddings.make({ apiKey, model: "BAAI/bge-m3:nebius" }).pipe(
        Effect.provide(http)
      )
      yield* Effect.flip(other.embed("a"))
      assert.deepStrictEqual(asked, [
        [
          "https://router.huggingface.co/hf-inference/models/BAAI/bge-m3/pipeline/feature-extraction",
          { inputs: ["a"] }
        ],
        ["https://router.huggingface.co/nebius/v1/embeddings", { model: "BAAI/bge-m3", input: ["a"] }]
      ])
    })
  )

  it.scoped("Azure needs a key or a token", () =>
    Effect.gen(function* () {
      const { layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
      const error = yield* Effect.flip(
        AzureOpenAiEmbeddings.make({ endpoint: "https://r.openai.azure.com", model: "text-embedding-3-small" })
      ).pipe(Effect.provide(layer))
      assert.strictEqual(error.reason, "InvalidRequest")
      assert.include(error.message, "apiKey or token")
    })
  )
})

describe("layers", () => {
  const settings = (values: Record<string, string>) =>
    Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(values))))
  const { layer } = answering((batch) => Effect.succeed([200, answer(batch)]))
  const built = <E>(embeddings: Layer.Layer<EmbeddingsPort.Embeddings, E, HttpClient.HttpClient>) =>
    Embeddings.pipe(Effect.provide(Layer.provide(embeddings, layer)))

  it.effect("from options", () =>
    Effect.gen(function* () {
      const port = yield* built(OpenAiEmbeddings.layerEmbeddings({ apiKey, model: "custom", dimensions: 2 }))
      assert.deepStrictEqual([port.model, port.dimensions], ["custom", 2])
    })
  )

  it.effect("from the configuration, with what a provider may be told of its own", () =>
    Effect.gen(function* () {
      const read = (entries: Record<string, string>) =>
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
      const own = yield* HuggingFaceEmbeddings.config.pipe(
        read({
          "huggingface.embeddings.model": "BAAI/bge-m3",
          "huggingface.embeddings.pooling": "cls",
          "huggingface.embeddings.truncate": "true",
          "huggingface.embeddings.promptName": "query"
        })
      )
      assert.deepStrictEqual([own.pooling, own.truncate, own.promptName], ["cls", true, "query"])
      const local = yield* OllamaEmbeddings.config.pipe(
        read({
          "ollama.host": "box",
          "ollama.embeddings.model": "bge-m3",
          "ollama.embeddings.contextLength": "8192",
          "ollama.embeddings.keepAlive": "10 minutes"
        })
      )
      assert.deepStrictEqual(
        [local.host, local.contextLength, local.keepAlive],
        ["box", 8192, Duration.decode("10 minutes")]
      )
    })
  )

  it.effect("from the configuration, of every provider", () =>
    Effect.gen(function* () {
      const found = [
        yield* built(OpenAiEmbeddings.layerEmbeddingsConfig()).pipe(
          settings({ "openai.apiKey": "k", "openai.embeddings.model": "text-embedding-3-large" })
        ),
        yield* built(AzureOpenAiEmbeddings.layerEmbeddingsConfig()).pipe(
          settings({
            "azure.endpoint": "https://r.openai.azure.com",
            "azure.apiKey": "k",
            "azure.embeddings.model": "dep",
            "azure.embeddings.baseModel": "text-embedding-3-small",
            "azure.embeddings.style": "deployments",
            "azure.embeddings.dimensions": "512"
          })
        ),
        yield* built(GoogleEmbeddings.layerEmbeddingsConfig()).pipe(
          settings({
            "google.apiKey": "k",
            "google.embeddings.model": "gemini-embedding-001",
            "google.embeddings.taskType": "CLUSTERING",
            "google.embeddings.dimensions": "768"
          })
        ),
        yield* built(HuggingFaceEmbeddings.layerEmbeddingsConfig()).pipe(
          settings({ "huggingface.embeddings.model": "BAAI/bge-m3", "huggingface.apiKey": "k" })
        ),
        yield* built(OllamaEmbeddings.layerEmbeddingsConfig()).pipe(
          settings({ "ollama.embeddings.model": "qwen3-embedding:4b", "ollama.embeddings.attempts": "2" })
        )
      ]
      assert.deepStrictEqual(
        found.map(({ dimensions, model }) => [model, dimensions]),
        [
          ["text-embedding-3-large", 3072],
          ["dep", 512],
          ["gemini-embedding-001", 768],
          ["BAAI/bge-m3", 1024],
          ["qwen3-embedding:4b", 2560]
        ]
      )
    })
  )
})

describe("the official packages make the same vectors of the same bytes", () => {
  const vector = [0.1, -0.25, 1e-7].map(Math.fround)
  const texts = ["a", "b"]

  it.scopedLive("openai, as numbers and as base64", () =>
    Effect.gen(function* () {
      for (const encoding of ["float", "base64"] as const) {
        const server = yield* serve(({ response }) =>
          json(response, 200, {
            object: "list",
            data: texts.map((_, index) => ({
              object: "embedding",
              index,
              embedding: encoding === "base64" ? base64(vector) : vector
            })),
            model: "text-embedding-3-small",
            usage: { prompt_tokens: 2, total_tokens: 2 }
          })
        )
        const request = { model: "text-embedding-3-small", input: texts, dimensions: 3 }
        const theirs = yield* Effect.promise(() =>
          new OpenAI({ apiKey: key, baseURL: server.url }).embeddings.create(
            encoding === "base64" ? request : { ...request, encoding_format: "float" }
          )
        )
        const ours = yield* openai(server, {
          model: "text-embedding-3-small",
          dimensions: 3,
          baseUrl: server.url,
          encoding
        })
        const found = yield* ours.embedWithUsage(texts)
        assert.deepStrictEqual(
          found.vectors,
          theirs.data.map(({ embedding }) => Array.from(embedding))
        )
        assert.strictEqual(found.usage.input, theirs.usage.prompt_tokens)
        const [first, second] = server.seen.map(({ body, path }) => [path, JSON.parse(body)])
        assert.deepStrictEqual(second, first)
      }
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("@google/genai", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, { embeddings: texts.map(() => ({ values: vector })) })
      )
      const theirs = yield* Effect.promise(() =>
        new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: server.url } }).models.embedContent({
          model: "gemini-embedding-001",
          contents: texts,
          config: { outputDimensionality: 3, taskType: "CLUSTERING" }
        })
      )
      const ours = yield* GoogleEmbeddings.make({
        apiKey,
        model: "gemini-embedding-001",
        dimensions: 3,
        taskType: "CLUSTERING",
        normalize: false,
        baseUrl: `${server.url}/v1beta`
      })
      assert.deepStrictEqual(
        yield* ours.embedMany(texts),
        theirs.embeddings?.map(({ values }) => values ?? [])
      )
      const [first, second] = server.seen
      assert.strictEqual(second?.path, first?.path)
      // Theirs gives the content a role, which has no meaning here.
      const roleless = JSON.parse(first?.body ?? "", (name, value) => (name === "role" ? undefined : value))
      assert.deepStrictEqual(JSON.parse(second?.body ?? ""), roleless)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.scopedLive("ollama", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) =>
        json(response, 200, { model: "all-minilm", embeddings: texts.map(() => vector), prompt_eval_count: 2 })
      )
      const theirs = yield* Effect.promise(() =>
        new Ollama({ host: server.url }).embed({
          model: "all-minilm",
          input: [...texts],
          truncate: false,
          dimensions: 3
        })
      )
      const ours = yield* OllamaEmbeddings.make({ host: server.url, model: "all-minilm", dimensions: 3 })
      const found = yield* ours.embedWithUsage(texts)
      assert.deepStrictEqual([found.vectors, found.usage.input], [theirs.embeddings, theirs.prompt_eval_count])
      const [first, second] = server.seen.map(({ body, path }) => [path, JSON.parse(body)])
      assert.deepStrictEqual(second, first)
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )
})
