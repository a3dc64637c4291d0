/** Predictions on Replicate: what is asked, how they are followed, and that none runs on for nobody. */
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmError, LlmResponse, LlmTest, Replicate, ReplicatePredictions } from "@underlay/llm"
import {
  ConfigProvider,
  Deferred,
  Effect,
  Either,
  Exit,
  FastCheck,
  Fiber,
  Layer,
  Redacted,
  Schedule,
  Schema,
  Stream,
  TestClock
} from "effect"
import { type Exchange, json, type Server, serve } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const on = (server: Server, options: Partial<Replicate.ReplicateOptions> = {}) =>
  Replicate.layer({
    apiKey: Redacted.make("r8_secret"),
    model: "meta/llama",
    baseUrl: `${server.url}/v1`,
    retry: false,
    ...options
  })

const prediction = (server: string, status: string, rest: Record<string, unknown> = {}) => ({
  id: "p1",
  model: "meta/llama",
  version: "hidden",
  input: { prompt: "hi" },
  output: null,
  error: null,
  logs: "",
  status,
  created_at: "2026-01-01T00:00:00Z",
  urls: {
    get: `${server}/v1/predictions/p1`,
    cancel: `${server}/v1/predictions/p1/cancel`,
    stream: `${server}/stream/p1`
  },
  ...rest
})

const whole = {
  output: ["Hel", "lo", ""],
  metrics: { input_token_count: 7, output_token_count: 3, predict_time: 0.4 },
  completed_at: "2026-01-01T00:00:01Z"
}

const at = ({ request }: Exchange) => `http://${request.headers.host}`

/** A server of one prediction: `handle` gets what is no matter of course, the cancellation is answered. */
const serving = (handle: (exchange: Exchange, base: string) => void) =>
  serve((exchange) => {
    if (exchange.request.path.endsWith("/cancel")) json(exchange.response, 200, prediction(at(exchange), "canceled"))
    else handle(exchange, at(exchange))
  })

const paths = (server: Server) => server.seen.map(({ method, path }) => `${method} ${path}`)

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("5 seconds")))
  )

const output = (text: string, id = 0): string =>
  `event: output\nid: 1690212292:${id}\n${text
    .split("\n")
    .map((line) => `data: ${line}\n`)
    .join("")}\n`

const done = (reason?: string): string =>
  `event: done\nid: 1690212292:9\ndata: ${JSON.stringify(reason === undefined ? {} : { reason })}\n\n`

const begin = ({ response }: Exchange, body: string): void => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.write(body)
}

describe("a whole answer", () => {
  it.scopedLive("that is ready in time comes with one request", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ response }, base) => json(response, 201, prediction(base, "succeeded", whole)))
      const response = yield* Llm.generate({ ...ask, maxTokens: 20 }).pipe(Effect.provide(on(server)))
      assert.deepStrictEqual(
        [response.text, response.finish, response.finishReason, response.id, response.model],
        ["Hello", "stop", "succeeded", "p1", "meta/llama"]
      )
      assert.deepStrictEqual([response.usage.input, response.usage.output], [7, 3])
      assert.deepStrictEqual(response.content, [{ type: "text", text: "Hello" }])
      assert.deepStrictEqual(paths(server), ["POST /v1/models/meta/llama/predictions"])
      const [seen] = server.seen
      assert.strictEqual(seen?.headers["authorization"], "Bearer r8_secret")
      assert.strictEqual(seen?.headers["prefer"], "wait=5")
      assert.strictEqual(seen?.headers["cancel-after"], "300s")
      assert.deepStrictEqual(JSON.parse(seen?.body ?? ""), { input: { prompt: "hi", max_tokens: 20 } })
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("that is not is asked for again until it is, in one span; a look that fails is none", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ index, response }, base) => {
        if (index === 0) json(response, 202, prediction(base, "starting"))
        else if (index === 1) json(response, 502, "<html>Bad Gateway</html>", { "content-type": "text/html" })
        else if (index === 2) json(response, 200, prediction(base, "processing", { output: ["Hel"] }))
        else json(response, 200, prediction(base, "succeeded", whole))
      })
      const recording = yield* Recording.make
      const { text } = yield* Llm.generate(ask).pipe(
        Effect.provide(on(server, { wait: false, timeout: "30 seconds" })),
        recording.within
      )
      assert.strictEqual(text, "Hello")
      assert.deepStrictEqual(paths(server), [
        "POST /v1/models/meta/llama/predictions",
        "GET /v1/predictions/p1",
        "GET /v1/predictions/p1",
        "GET /v1/predictions/p1"
      ])
      assert.isUndefined(server.seen[0]?.headers["prefer"])
      const spans = yield* recording.spans
      assert.strictEqual(spans.filter(({ name }) => name === "chat meta/llama").length, 1)
      assert.strictEqual(spans.length, 5)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const replayed = (bodies: ReadonlyArray<unknown>, asked: Array<string>) =>
    LlmTest.layerReplay(
      bodies.map((body) => ({
        provider: "replicate",
        api: "predictions",
        stream: false,
        response: { status: 200, headers: { "content-type": "application/json" }, body: JSON.stringify(body) }
      })),
      { onRequest: ({ method, url }) => asked.push(`${method} ${new URL(url).pathname}`) }
    )

  const settle = Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void))).pipe(Effect.repeatN(20))

  it.effect("is waited for ever more patiently, and never beyond the limit of the call; then it is canceled", () =>
    Effect.gen(function* () {
      const asked: Array<string> = []
      const base = "https://api.replicate.com"
      const layer = Replicate.layer({
        apiKey: Redacted.make("k"),
        model: "meta/llama",
        timeout: "20 seconds",
        retry: false
      }).pipe(Layer.provide(replayed([prediction(base, "processing")], asked)))
      const fiber = yield* Llm.generate(ask).pipe(Effect.flip, Effect.provide(layer), Effect.fork)
      const looks: Array<number> = []
      for (let second = 0; second < 20; second++) {
        yield* settle
        yield* TestClock.adjust("1 second")
        looks.push(asked.length)
      }
      yield* settle
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason, "Timeout")
      // After 0.25, 0.63, 1.19, 2.03, 3.3, 5.2, 8.05, 12.3 and 17.3 seconds.
      assert.strictEqual(asked.filter((one) => one.startsWith("GET")).length, 9)
      assert.strictEqual(asked.at(-1), "POST /v1/predictions/p1/cancel")
    })
  )

  it.scopedLive("whose prediction cannot be looked at any more is given up, and canceled", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ index, response }, base) =>
        index === 0
          ? json(response, 201, prediction(base, "processing"))
          : json(response, 401, { title: "Unauthenticated", detail: "You did not pass a token", status: 401 })
      )
      const error = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(on(server)))
      assert.deepStrictEqual([error.reason, error.providerMessage], ["Authentication", "You did not pass a token"])
      assert.deepStrictEqual(paths(server).slice(1), ["GET /v1/predictions/p1", "POST /v1/predictions/p1/cancel"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("can be an object by a schema, which is asked for in words", () =>
    Effect.gen(function* () {
      class City extends Schema.Class<City>("City")({ name: Schema.String }) {}
      const server = yield* serving(({ response }, base) =>
        json(response, 201, prediction(base, "succeeded", { output: ['{"name":', '"Berlin"}'] }))
      )
      const { value } = yield* Llm.generateObject(City, ask).pipe(Effect.provide(on(server)))
      assert.strictEqual(value.name, "Berlin")
      assert.strictEqual(server.seen.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("sends its key to nobody that a response names", () =>
    Effect.gen(function* () {
      const thief = yield* serve(({ response }) => json(response, 200, {}))
      const elsewhere = thief.url.replace("127.0.0.1", "localhost")
      const server = yield* serving(({ request, response }, base) => {
        const urls = {
          get: `${elsewhere}/get`,
          cancel: `${elsewhere}/cancel`,
          stream: `${elsewhere}/stream`
        }
        json(
          response,
          200,
          request.method === "POST" ? prediction(base, "starting", { urls }) : prediction(base, "succeeded", whole)
        )
      })
      assert.strictEqual((yield* Llm.generate(ask).pipe(Effect.provide(on(server)))).text, "Hello")
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(on(server)))
      assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
      assert.deepStrictEqual(thief.seen, [])
      assert.include(paths(server), "GET /v1/predictions/p1")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("Replicate's streams", () => {
  it.effect("are at another domain of its own, and at no other (wire fact)", () =>
    Effect.gen(function* () {
      const asked = (stream: string) =>
        Effect.gen(function* () {
          const urls: Array<string> = []
          const recorded = (status: number, type: string, body: unknown, isStream: boolean) => ({
            provider: "replicate",
            api: "predictions",
            stream: isStream,
            response: {
              status,
              headers: { "content-type": type },
              body: typeof body === "string" ? body : JSON.stringify(body)
            }
          })
          const base = "https://api.replicate.com"
          const first = prediction(base, "starting", { urls: { ...prediction(base, "").urls, stream } })
          const replay = LlmTest.layerReplay(
            [
              recorded(201, "application/json", first, false),
              ...(/^https:.*(?:[.]c[.]replicate[.]net|stream[.]replicate[.]com)[/]/.test(stream)
                ? [recorded(200, "text/event-stream", output("Hello") + done(), true)]
                : []),
              recorded(200, "application/json", prediction(base, "succeeded", whole), false)
            ],
            { onRequest: ({ url }) => urls.push(url) }
          )
          const layer = Layer.provide(
            Replicate.layer({ apiKey: Redacted.make("r8_secret"), model: "meta/llama", retry: false }),
            replay
          )
          const fiber = yield* Effect.fork(Stream.runCollect(Llm.stream(ask)).pipe(Effect.provide(layer)))
          yield* TestClock.adjust("30 seconds")
          const parts = yield* Fiber.join(fiber)
          assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
          return urls.includes(stream)
        })
      assert.isTrue(yield* asked("https://stream-b.svc.ric1.c.replicate.net/v1/streams/abc"))
      assert.isTrue(yield* asked("https://stream.replicate.com/v1/files/abc"))
      for (const host of ["replicate.net.evil.test", "evilreplicate.net", "evil.test"]) {
        assert.isFalse(yield* asked(`https://${host}/v1/streams/abc`), host)
      }
      assert.isFalse(yield* asked("http://stream-b.svc.ric1.c.replicate.net/v1/streams/abc"))
    })
  )
})

describe("a prediction that fails", () => {
  const failed = (error: unknown) => ({ error, completed_at: "2026-01-01T00:00:01Z" })
  const cases: ReadonlyArray<readonly [string, number, unknown, LlmError.Reason, boolean, string | undefined]> = [
    ["in the model", 201, failed("CUDA out of memory"), "ServerError", true, "CUDA out of memory"],
    ["without a word", 201, failed(null), "ServerError", true, undefined],
    [
      "for what was asked",
      201,
      failed("The input or output was flagged as sensitive. Please try again with different inputs. (E005)"),
      "ContentFiltered",
      false,
      "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
    ],
    [
      "for its length",
      201,
      failed("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"),
      "ContextLengthExceeded",
      false,
      "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"
    ]
  ]
  for (const [name, status, rest, reason, retryable, message] of cases) {
    it.scopedLive(name, () =>
      Effect.gen(function* () {
        const server = yield* serving(({ response }, base) =>
          json(response, status, prediction(base, "failed", rest as Record<string, unknown>))
        )
        const error = yield* Effect.flip(Llm.generate(ask)).pipe(Effect.provide(on(server)))
        assert.deepStrictEqual(
          [error.reason, error.isRetryable, error.providerMessage, error.midStream],
          [reason, retryable, message, false]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  for (const status of ["canceled", "aborted"]) {
    it.scopedLive(`or is ${status} by somebody is no answer and not asked for again`, () =>
      Effect.gen(function* () {
        const server = yield* serving(({ response }, base) => json(response, 201, prediction(base, status)))
        const error = yield* Effect.flip(Llm.generate(ask)).pipe(
          Effect.provide(on(server, { retry: { attempts: 3, base: "1 millis" } }))
        )
        assert.deepStrictEqual([error.reason, error.isRetryable, server.seen.length], ["Unknown", false, 1])
        assert.include(error.issue, "canceled")
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  const refusals: ReadonlyArray<readonly [number, unknown, LlmError.Reason]> = [
    [
      402,
      { title: "Insufficient credit", detail: "You have insufficient credit to run this model.", status: 402 },
      "QuotaExhausted"
    ],
    [404, { title: "Not found", detail: "The requested resource could not be found.", status: 404 }, "NotFound"],
    [
      422,
      { title: "Input validation failed", detail: "- input: prompt is required", status: 422, invalid_fields: [] },
      "InvalidRequest"
    ],
    [
      429,
      { title: "Too many requests", detail: "Request was throttled. Try again in 5s.", status: 429 },
      "RateLimited"
    ],
    [
      401,
      { title: "Unauthenticated", detail: "You did not pass a valid authentication token", status: 401 },
      "Authentication"
    ]
  ]
  for (const [status, body, reason] of refusals) {
    it.scopedLive(`to be made: ${status} is ${reason}`, () =>
      Effect.gen(function* () {
        const server = yield* serving(({ response }) =>
          json(response, status, body, { "content-type": "application/problem+json" })
        )
        for (const call of [Llm.generate(ask), Stream.runDrain(Llm.stream(ask))]) {
          const error = yield* Effect.flip(call as Effect.Effect<unknown, LlmError.LlmError, Llm.Llm>).pipe(
            Effect.provide(on(server))
          )
          assert.deepStrictEqual(
            [error.reason, error.status, error.providerMessage],
            [reason, status, (body as { readonly detail: string }).detail]
          )
        }
        assert.strictEqual(server.seen.length, 2)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})

/** A server that makes a prediction, streams `body`, and shows the prediction as `last` afterwards. */
const streaming = (body: string, last: (base: string) => unknown) =>
  serving(({ request, response }, base) => {
    if (request.method === "POST") json(response, 201, prediction(base, "starting"))
    else if (request.path.startsWith("/stream")) {
      response.writeHead(200, { "content-type": "text/event-stream" })
      response.end(body)
    } else json(response, 200, last(base))
  })

const streamed = (server: Server, options: Partial<Replicate.ReplicateOptions> = {}) =>
  Stream.runCollect(Llm.stream(ask)).pipe(Effect.either, Effect.provide(on(server, options)))

describe("a streamed answer", () => {
  it.scopedLive("comes in pieces, its usage from the prediction, and nothing is canceled", () =>
    Effect.gen(function* () {
      const body = `: hi\n\n${output("Hel")}${output("lo\n\nwor", 1)}${output(" ld", 2)}${done()}`
      const server = yield* streaming(body, (base) => prediction(base, "succeeded", whole))
      const outcome = yield* streamed(server)
      const parts = Either.getOrThrow(outcome)
      assert.deepStrictEqual(
        [...parts].flatMap((part) => (part.type === "text-delta" ? part.text : [])),
        ["Hel", "lo\n\nwor", " ld"]
      )
      const response = LlmResponse.fromParts(parts)
      assert.deepStrictEqual(
        [response?.finish, response?.id, response?.model, response?.usage.input, response?.usage.output],
        ["stop", "p1", "meta/llama", 7, 3]
      )
      assert.deepStrictEqual(paths(server), [
        "POST /v1/models/meta/llama/predictions",
        "GET /stream/p1",
        "GET /v1/predictions/p1"
      ])
      assert.strictEqual(server.seen[1]?.headers["accept"], "text/event-stream")
      assert.strictEqual(server.seen[0]?.headers["cancel-after"], "600s")
      assert.isUndefined(server.seen[0]?.headers["prefer"])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("is whole without its usage where the prediction cannot be had afterwards", () =>
    Effect.gen(function* () {
      const server = yield* streaming(`${output("Hello")}${done()}`, () => ({ detail: "gone", status: 404 }))
      const response = LlmResponse.fromParts(Either.getOrThrow(yield* streamed(server)))
      assert.deepStrictEqual([response?.text, response?.usage.input], ["Hello", undefined])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("of a model that does not stream comes at once, when it is ready", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ request, response }, base) =>
        request.method === "POST"
          ? json(response, 201, prediction(base, "starting", { urls: { get: `${base}/v1/predictions/p1` } }))
          : json(response, 200, prediction(base, "succeeded", whole))
      )
      const response = LlmResponse.fromParts(Either.getOrThrow(yield* streamed(server)))
      assert.deepStrictEqual([response?.text, response?.usage.output], ["Hello", 3])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("of a prediction that was ready when it was made needs no second request", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ response }, base) => json(response, 201, prediction(base, "succeeded", whole)))
      assert.strictEqual(LlmResponse.fromParts(Either.getOrThrow(yield* streamed(server)))?.text, "Hello")
      assert.strictEqual(server.seen.length, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const broken: ReadonlyArray<readonly [string, string]> = [
    ["at the beginning", ""],
    ["between two pieces", output("Hel")],
    ["in the middle of a piece", `${output("He")}event: output\ndata: l`],
    ["in the middle of its end", `${output("Hello")}event: done\ndata: {`]
  ]
  for (const [name, body] of broken) {
    it.scopedLive(`that breaks off ${name} is completed from the prediction, nothing twice (complaint 2)`, () =>
      Effect.gen(function* () {
        const server = yield* streaming(body, (base) => prediction(base, "succeeded", whole))
        const parts = Either.getOrThrow(yield* streamed(server))
        assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Hello")
        assert.strictEqual([...parts].filter(({ type }) => type === "finish").length, 1)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("that breaks off and is not the beginning of what the prediction has is truncated", () =>
    Effect.gen(function* () {
      const server = yield* streaming(output("Good"), (base) => prediction(base, "succeeded", whole))
      const outcome = yield* streamed(server)
      assert.isTrue(Either.isLeft(outcome))
      if (Either.isRight(outcome)) return
      assert.deepStrictEqual(
        [outcome.left.reason, outcome.left.partial?.text, outcome.left.isRetryable, outcome.left.usage?.input],
        ["StreamTruncated", "Good", false, 7]
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  const failures: ReadonlyArray<
    readonly [string, string, (base: string) => unknown, LlmError.Reason, string | undefined]
  > = [
    [
      "an error event (complaint 1)",
      `${output("par")}event: error\ndata: {"detail":"the model crashed"}\n\n${output("tial")}${done("error")}`,
      (base) => prediction(base, "failed", { error: "other words" }),
      "ServerError",
      "the model crashed"
    ],
    [
      "an error event of plain words",
      `${output("par")}event: error\ndata: it broke\n\n`,
      (base) => prediction(base, "failed", { error: "other words" }),
      "ServerError",
      "it broke"
    ],
    [
      "an end for an error that only the prediction tells",
      `${output("par")}${done("error")}`,
      (base) => prediction(base, "failed", { error: "flagged as sensitive (E005)" }),
      "ContentFiltered",
      "flagged as sensitive (E005)"
    ],
    [
      "an end for an error that nobody tells",
      `${output("par")}${done("error")}`,
      () => ({ detail: "gone", status: 404 }),
      "ServerError",
      undefined
    ],
    [
      "an end because it was canceled",
      `${output("par")}${done("canceled")}`,
      (base) => prediction(base, "canceled"),
      "Unknown",
      undefined
    ],
    [
      "no end, and a prediction that failed",
      output("par"),
      (base) => prediction(base, "failed", { error: "out of memory" }),
      "ServerError",
      "out of memory"
    ]
  ]
  for (const [name, body, last, reason, message] of failures) {
    it.scopedLive(`with ${name} fails with what had come`, () =>
      Effect.gen(function* () {
        const server = yield* streaming(body, last)
        const outcome = yield* streamed(server)
        assert.isTrue(Either.isLeft(outcome))
        if (Either.isRight(outcome)) return
        const error = outcome.left
        assert.deepStrictEqual(
          [error.reason, error.providerMessage, error.partial?.text, error.isRetryable, error.midStream],
          [reason, message, "par", false, true]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("of a server that cannot be reached is an error of the network", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => response.destroy())
      const outcome = yield* streamed(server)
      assert.deepStrictEqual(Either.isLeft(outcome) && [outcome.left.reason, outcome.left.midStream], [
        "Network",
        false
      ])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("that fails before its first piece is asked for again", () =>
    Effect.gen(function* () {
      let made = 0
      const server = yield* serving(({ request, response }, base) => {
        if (request.method === "POST") {
          made += 1
          json(response, 201, prediction(base, "starting"))
        } else if (request.path.startsWith("/stream")) {
          response.writeHead(200, { "content-type": "text/event-stream" })
          response.end(made === 1 ? `event: error\ndata: {"detail":"cold"}\n\n` : `${output("Hello")}${done()}`)
        } else json(response, 200, prediction(base, made === 1 ? "failed" : "succeeded", whole))
      })
      const outcome = yield* streamed(server, { retry: { attempts: 2, base: "1 millis", jitter: "none" } })
      assert.strictEqual(LlmResponse.fromParts(Either.getOrThrow(outcome))?.text, "Hello")
      assert.strictEqual(made, 2)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("a caller that gives up (complaint 8)", () => {
  const canceled = (server: Server) => paths(server).filter((path) => path === "POST /v1/predictions/p1/cancel").length

  it.scopedLive("between two looks: the prediction is canceled, once", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ response }, base) => json(response, 200, prediction(base, "processing")))
      yield* Effect.gen(function* () {
        const fiber = yield* Effect.fork(Llm.generate(ask))
        yield* eventually("a look", () => server.seen.length >= 2)
        const exit = yield* Fiber.interrupt(fiber)
        assert.isTrue(Exit.isInterrupted(exit))
        assert.strictEqual(canceled(server), 1)
      }).pipe(Effect.provide(on(server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive(
    "while the server holds its answer back: the connection is closed, the deadline ends the prediction",
    () =>
      Effect.gen(function* () {
        const server = yield* serving(() => {})
        yield* Effect.gen(function* () {
          const fiber = yield* Effect.fork(Llm.generate(ask))
          yield* eventually("the request", () => server.seen.length === 1)
          yield* Fiber.interrupt(fiber)
          yield* eventually("the connection is closed", () => server.aborted() === 1)
          assert.isString(server.seen[0]?.headers["cancel-after"])
        }).pipe(Effect.provide(on(server)))
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  for (const how of ["is interrupted", "has enough", "loses patience"] as const) {
    it.scopedLive(
      `in the middle of a stream, because it ${how}: the socket is closed, then the prediction canceled`,
      () =>
        Effect.gen(function* () {
          const server = yield* serving((exchange, base) => {
            if (exchange.request.method === "POST") json(exchange.response, 201, prediction(base, "starting"))
            else if (exchange.request.path.startsWith("/stream")) begin(exchange, output("Hel"))
            else json(exchange.response, 200, prediction(base, "processing"))
          })
          yield* Effect.gen(function* () {
            if (how === "has enough") {
              yield* Llm.stream(ask).pipe(Stream.take(1), Stream.runDrain)
            } else if (how === "loses patience") {
              const error = yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))
              assert.deepStrictEqual([error.reason, error.partial?.text], ["Timeout", "Hel"])
            } else {
              const first = yield* Deferred.make<void>()
              const fiber = yield* Llm.stream(ask).pipe(
                Stream.runForEach(() => Deferred.succeed(first, undefined)),
                Effect.fork
              )
              yield* Deferred.await(first)
              assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
            }
            yield* eventually("the cancellation", () => canceled(server) === 1)
            yield* eventually("the socket of the stream is closed", () => server.aborted() === 1)
          }).pipe(Effect.provide(on(server, how === "loses patience" ? { idleTimeout: "150 millis" } : {})))
        }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }

  it.scopedLive("is not held up by a server that does not answer the cancellation", () =>
    Effect.gen(function* () {
      const server = yield* serve((exchange) => {
        if (!exchange.request.path.endsWith("/cancel")) {
          json(exchange.response, 200, prediction(at(exchange), "processing"))
        }
      })
      yield* Effect.gen(function* () {
        const fiber = yield* Effect.fork(Llm.generate(ask))
        yield* eventually("a look", () => server.seen.length >= 2)
        const exit = yield* Effect.timeout(Fiber.interrupt(fiber), "4 seconds")
        assert.isTrue(Exit.isInterrupted(exit))
        yield* eventually("the cancellation is given up", () => server.aborted() === 1)
      }).pipe(Effect.provide(on(server)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

const encoded = (
  request: Llm.LlmRequest,
  input?: ReplicatePredictions.Dialect["input"],
  model = "meta/llama"
): Either.Either<Record<string, unknown>, string> =>
  ReplicatePredictions.encode(request, {
    model,
    stream: false,
    method: "generate",
    dialect: { provider: "replicate", input }
  }).pipe(
    Either.map((body) => JSON.parse(body) as Record<string, unknown>),
    Either.mapLeft((error) => error.issue ?? "")
  )

const inputs = (request: Llm.LlmRequest, input?: ReplicatePredictions.Dialect["input"]) =>
  Either.map(encoded(request, input), (body) => body["input"])

describe("a model's input", () => {
  const talk: Llm.LlmRequest = {
    messages: [
      ChatMessage.system("Be brief."),
      ChatMessage.user("One?"),
      ChatMessage.assistant("Uno."),
      ChatMessage.user("Two?")
    ]
  }

  it("is a prompt: a question alone as it is, a conversation with its speakers", () => {
    assert.deepStrictEqual(inputs(ask), Either.right({ prompt: "hi" }))
    assert.deepStrictEqual(
      inputs(talk),
      Either.right({
        system_prompt: "Be brief.",
        prompt: "User: One?\n\nAssistant: Uno.\n\nUser: Two?\n\nAssistant:"
      })
    )
    assert.deepStrictEqual(
      inputs({ messages: [ChatMessage.system("Be brief."), ChatMessage.user("One?")] }, { system: false }),
      Either.right({ prompt: "Be brief.\n\nOne?" })
    )
    assert.deepStrictEqual(
      inputs(talk, { system: "system_instruction" }),
      Either.right({
        system_instruction: "Be brief.",
        prompt: "User: One?\n\nAssistant: Uno.\n\nUser: Two?\n\nAssistant:"
      })
    )
  })

  it("or a list of messages", () => {
    assert.deepStrictEqual(
      inputs(talk, { conversation: "messages" }),
      Either.right({
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "One?" },
          { role: "assistant", content: "Uno." },
          { role: "user", content: "Two?" }
        ]
      })
    )
  })

  it("with settings by the names that the model has for them, and the caller's own fields last", () => {
    const request: Llm.LlmRequest = {
      ...ask,
      maxTokens: 9,
      temperature: 0.1,
      topP: 0.2,
      topK: 3,
      seed: 4,
      frequencyPenalty: 0.5,
      presencePenalty: 0.6,
      reasoningEffort: "low",
      stop: ["A", "B"],
      providerOptions: { replicate: { temperature: 1, min_tokens: 2 }, openai: { store: true } }
    }
    assert.deepStrictEqual(
      inputs(request),
      Either.right({
        prompt: "hi",
        max_tokens: 9,
        temperature: 1,
        top_p: 0.2,
        top_k: 3,
        seed: 4,
        frequency_penalty: 0.5,
        presence_penalty: 0.6,
        reasoning_effort: "low",
        stop_sequences: "A,B",
        min_tokens: 2
      })
    )
    assert.deepStrictEqual(
      inputs(request, {
        maxTokens: "max_completion_tokens",
        topK: false,
        seed: false,
        frequencyPenalty: false,
        presencePenalty: false,
        reasoningEffort: false,
        stop: false,
        topP: false
      }),
      Either.right({ prompt: "hi", max_completion_tokens: 9, temperature: 1, min_tokens: 2 })
    )
  })

  it("with images where the model has a field for them", () => {
    const bytes = new Uint8Array([1, 2, 3])
    const shown = (count: number): Llm.LlmRequest => ({
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "what?" },
            ...Array.from({ length: count }, (_, index) => ({
              type: "file" as const,
              mediaType: "image/png",
              source:
                index === 0 ? { type: "bytes" as const, bytes } : { type: "url" as const, url: "https://a.b/c.png" }
            }))
          ]
        }
      ]
    })
    const data = "data:image/png;base64,AQID"
    assert.deepStrictEqual(inputs(shown(1), { image: "image" }), Either.right({ prompt: "what?", image: data }))
    assert.deepStrictEqual(
      inputs(shown(2), { images: "image_input" }),
      Either.right({ prompt: "what?", image_input: [data, "https://a.b/c.png"] })
    )
    assert.include(Either.getOrThrow(Either.flip(inputs(shown(2), { image: "image" }))), "one image")
    assert.include(Either.getOrThrow(Either.flip(inputs(shown(1)))), "images")
  })

  it("cannot carry tools, formats and what else changes the meaning: each is refused, with what to do", () => {
    const tools = [{ name: "t", description: "", parameters: { type: "object" } }]
    const refused = (request: Partial<Llm.LlmRequest>) => Either.getOrThrow(Either.flip(inputs({ ...ask, ...request })))
    assert.include(refused({ tools }), "another provider")
    assert.include(refused({ responseFormat: { type: "json" } }), "prompt")
    assert.include(refused({ responseFormat: { type: "json-schema", name: "n", schema: {} } }), "prompt")
    assert.include(refused({ stop: ["a,b"] }), "comma")
    assert.include(
      refused({
        messages: [{ role: "tool", content: [{ type: "tool-result", id: "a", name: "t", result: "x" }] }]
      }),
      "tools"
    )
    assert.include(
      refused({
        messages: [{ role: "assistant", content: [{ type: "tool-call", id: "a", name: "t", arguments: {} }] }]
      }),
      "tools"
    )
    assert.deepStrictEqual(inputs({ ...ask, tools, toolChoice: "none" }), Either.right({ prompt: "hi" }))
  })

  it("can be made by a function, which may refuse as well", () => {
    const input: ReplicatePredictions.InputOf = ({ messages }) =>
      messages.length > 1 ? Either.left("one message only") : Either.right({ text: "x" })
    assert.deepStrictEqual(inputs(ask, input), Either.right({ text: "x" }))
    assert.deepStrictEqual(inputs(talk, input), Either.left("one message only"))
  })

  it("goes to where the model's name says", () => {
    const version = "a".repeat(64)
    const ways: ReadonlyArray<readonly [model: string, path: string, version: string | undefined]> = [
      ["meta/llama", "/models/meta/llama/predictions", undefined],
      [`me/mine:${version}`, "/predictions", version],
      [version, "/predictions", version],
      ["deployments/me/mine", "/deployments/me/mine/predictions", undefined]
    ]
    for (const [model, path, named] of ways) {
      assert.strictEqual(ReplicatePredictions.endpointOf(model), path)
      assert.deepStrictEqual(
        Either.map(encoded(ask, undefined, model), (body) => body["version"]),
        Either.right(named)
      )
    }
  })
})

describe("the format", () => {
  const context = { provider: "replicate", model: "m", method: "stream" }

  /** What a stream of these bytes, cut into such chunks, comes to. */
  const decoded = (body: string, sizes: ReadonlyArray<number>) => {
    const decoder = ReplicatePredictions.makeStreamDecoder(context)
    const bytes = new TextEncoder().encode(body)
    const parts: Array<Llm.LlmStreamPart> = []
    let from = 0
    for (let index = 0; from < bytes.length; index++) {
      const size = Math.max(1, sizes[index % Math.max(1, sizes.length)] ?? bytes.length)
      parts.push(...decoder.push(bytes.slice(from, from + size)))
      from += size
    }
    parts.push(...decoder.end())
    return { response: LlmResponse.fromParts(parts), failure: decoder.failure() }
  }

  const body = `${output("Hé")}${output("llo\n\n€ wor", 1)}${output("ld 😀", 2)}${done()}`

  it("is the same in any chunks, with LF or CRLF", () => {
    const { response } = decoded(body, [])
    assert.strictEqual(response?.text, "Héllo\n\n€ world 😀")
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(FastCheck.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 10 }),
        FastCheck.boolean(),
        (sizes, crlf) => {
          assert.deepStrictEqual(decoded(crlf ? body.replaceAll("\n", "\r\n") : body, sizes).response, response)
        }
      )
    )
  })

  it("cut anywhere before its end is truncated, with a beginning of the text (complaint 2)", () => {
    const bytes = new TextEncoder().encode(body)
    const end = new TextEncoder().encode(body.slice(0, body.indexOf("{}") + 2)).length
    for (let at = 0; at < end; at++) {
      const cut = ReplicatePredictions.makeStreamDecoder(context)
      cut.push(bytes.slice(0, at))
      const parts = cut.end()
      assert.isUndefined(parts.find(({ type }) => type === "finish"))
      assert.strictEqual(cut.failure()?.reason, "StreamTruncated")
      const text = (cut.failure()?.partial?.text ?? "").replace(/\uFFFD+$/, "")
      assert.isTrue("Héllo\n\n€ world 😀".startsWith(text), JSON.stringify(text))
    }
    for (let at = end; at <= bytes.length; at++) {
      const cut = ReplicatePredictions.makeStreamDecoder(context)
      const parts = [...cut.push(bytes.slice(0, at)), ...cut.end()]
      assert.strictEqual(LlmResponse.fromParts(parts)?.text, "Héllo\n\n€ world 😀")
    }
  })

  it("unknown events, fields and states never fail", () => {
    const { failure, response } = decoded(
      `event: logs\ndata: loading\n\ndata: {"whatever":1}\n\n${output("ok")}event: metrics\ndata: [1]\n\n${done("finished")}`,
      []
    )
    assert.isUndefined(failure)
    assert.deepStrictEqual([response?.text, response?.finish], ["ok", "stop"])
    const odd = ReplicatePredictions.decode(
      JSON.stringify(prediction("https://x", "archived", { ...whole, output: { text: "Hi", extra: 1 } })),
      context
    )
    assert.strictEqual(Either.getOrThrow(odd).text, "Hi")
  })

  it("what is no prediction is malformed, and an error in spite of its status is that error", () => {
    const reason = (text: string) => Either.flip(ReplicatePredictions.decode(text, context)).pipe(Either.getOrThrow)
    assert.strictEqual(reason("").reason, "MalformedResponse")
    assert.strictEqual(reason("<html>").reason, "MalformedResponse")
    assert.strictEqual(reason("[]").reason, "MalformedResponse")
    assert.strictEqual(reason('{"id":"p1"}').reason, "MalformedResponse")
    assert.strictEqual(reason(JSON.stringify(prediction("https://x", "processing"))).reason, "MalformedResponse")
    assert.strictEqual(reason('{"title":"Nope","detail":"no model","status":404}').reason, "NotFound")
    const stream = decoded("<html>busy</html>", [])
    assert.strictEqual(stream.failure?.reason, "MalformedResponse")
    const problem = decoded('{"detail":"no such stream","status":404}', [])
    assert.deepStrictEqual([problem.failure?.reason, problem.failure?.midStream], ["NotFound", false])
  })
})

describe("health and settings", () => {
  it.scopedLive("health asks for the model, or for the account where there is none by name", () =>
    Effect.gen(function* () {
      const server = yield* serving(({ request, response }) =>
        request.path.includes("gone")
          ? json(response, 404, { detail: "no such model", status: 404 })
          : json(response, 200, { owner: "meta", name: "llama" })
      )
      const health = (model: string) =>
        Effect.flatMap(Llm.Llm, (llm) => llm.health).pipe(Effect.either, Effect.provide(on(server, { model })))
      assert.deepStrictEqual(Either.getOrThrow(yield* health("meta/llama")).status, "up")
      yield* health("me/mine:abc")
      yield* health("deployments/me/mine")
      const gone = yield* health("meta/gone")
      assert.strictEqual(Either.isLeft(gone) ? gone.left.reason : "", "NotFound")
      assert.deepStrictEqual(paths(server), [
        "GET /v1/models/meta/llama",
        "GET /v1/models/me/mine",
        "GET /v1/account",
        "GET /v1/models/meta/gone"
      ])
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.effect("can be read from the configuration; an address that is none is refused", () =>
    Effect.gen(function* () {
      const read = (entries: Record<string, string>) =>
        Effect.either(
          Effect.map(Llm.Llm, ({ model, provider }) => [provider, model]).pipe(
            Effect.provide(Replicate.layerConfig().pipe(Layer.provide(LlmTest.layerReplay([])))),
            Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))
          )
        )
      const all = { "replicate.apiKey": "k", "replicate.model": "a/b", "replicate.wait": "10 seconds" }
      assert.deepStrictEqual(yield* read(all), Either.right(["replicate", "a/b"]))
      const wrong = yield* read({ ...all, "replicate.baseUrl": "replicate" })
      assert.isTrue(Either.isLeft(wrong) && wrong.left instanceof LlmError.LlmError)
    })
  )
})
