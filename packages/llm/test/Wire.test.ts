import { HttpClient as Client, FetchHttpClient, type HttpClient, HttpClientError } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  ChatMessage,
  CircuitBreaker,
  Correlation,
  ExternalHttp,
  HttpTransport,
  Policy,
  RateLimit,
  RetryPolicy,
  Throttle
} from "@underlay/core"
import * as ErrorClass from "@underlay/core/resilience/ErrorClass"
import * as Recording from "@underlay/core/testing/Recording"
import { Groq, Llm, type LlmError, LlmResponse, Ollama, OpenAi, OpenAiCompatible } from "@underlay/llm"
import {
  Cause,
  Chunk,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Schedule,
  Stream,
  type Tracer
} from "effect"
import { answered, chunk, json, type Server, serve, sse, streamed } from "./server.ts"

const prompt = "the very private question"
const key = "sk-test-0123456789abcdef"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user(prompt)], temperature: 0.5, maxTokens: 100 }

const openai = (server: Server, options: Partial<OpenAi.OpenAiOptions> = {}) =>
  OpenAi.layer({
    apiKey: Redacted.make(key),
    model: "gpt-test",
    baseUrl: `${server.url}/v1/`,
    retry: { base: "10 millis", jitter: "none" },
    ...options
  })

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  ["HttpTransport", Layer.orDie(HttpTransport.layerUndici())],
  ["node:http", NodeHttpClient.layer]
]

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("5 millis").pipe(Schedule.upTo("5 seconds")))
  )

const textOf = (parts: Iterable<Llm.LlmStreamPart>): string => LlmResponse.fromParts(parts)?.text ?? ""

for (const [name, client] of clients) {
  describe(`over ${name}`, () => {
    it.scopedLive("429 with Retry-After, 500, then a stream: one span, three attempts, delivered once", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ index, response }) => {
          if (index === 0) json(response, 429, { error: { message: "slow down" } }, { "retry-after-ms": "300" })
          else if (index === 1) json(response, 500, "oops")
          else sse(response, streamed("Hel", "lo"))
        })
        const recording = yield* Recording.make
        const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(
          Effect.provide(openai(server)),
          Correlation.within("corr-1"),
          recording.within
        )
        assert.strictEqual(textOf(parts), "Hello")
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(parts).map((part) => part.type),
          ["text-delta", "text-delta", "finish"]
        )
        assert.strictEqual(server.seen.length, 3)
        assert.isAtLeast((server.seen[1]?.at ?? 0) - (server.seen[0]?.at ?? 0), 295)

        const spans = yield* recording.spans
        const calls = spans.filter((span) => span.name === "chat gpt-test")
        assert.strictEqual(calls.length, 1)
        const [call] = calls
        assert.isDefined(call)
        if (call === undefined) return
        assert.strictEqual(call.kind, "client")
        assert.strictEqual(call.ends, 1)
        const attempts = yield* recording.childrenOf(call)
        assert.deepStrictEqual(
          attempts.map((span) => [span.name, span.attributes.get("http.response.status_code")]),
          [
            ["POST", 429],
            ["POST", 500],
            ["POST", 200]
          ]
        )
        assert.strictEqual(spans.length, 4)
        assert.deepStrictEqual(
          server.seen.map(({ headers }) => headers["traceparent"]),
          attempts.map((span) => `00-${span.traceId}-${span.spanId}-01`)
        )
        for (const { body, headers, path } of server.seen) {
          assert.strictEqual(path, "/v1/chat/completions")
          assert.strictEqual(headers["authorization"], `Bearer ${key}`)
          assert.strictEqual(headers["x-correlation-id"], "corr-1")
          assert.strictEqual(headers["content-type"], "application/json")
          assert.deepStrictEqual(JSON.parse(body), {
            model: "gpt-test",
            messages: [{ role: "user", content: prompt }],
            temperature: 0.5,
            max_completion_tokens: 100,
            stream: true,
            stream_options: { include_usage: true }
          })
        }

        const attribute = (name: string) => call.attributes.get(name)
        assert.strictEqual(attribute("gen_ai.operation.name"), "chat")
        assert.strictEqual(attribute("gen_ai.provider.name"), "openai")
        assert.strictEqual(attribute("gen_ai.request.model"), "gpt-test")
        assert.strictEqual(attribute("gen_ai.request.max_tokens"), 100)
        assert.strictEqual(attribute("gen_ai.response.model"), "m-2026")
        assert.strictEqual(attribute("gen_ai.response.id"), "c1")
        assert.deepStrictEqual(attribute("gen_ai.response.finish_reasons"), ["stop"])
        assert.strictEqual(attribute("gen_ai.usage.input_tokens"), 12)
        assert.strictEqual(attribute("gen_ai.usage.output_tokens"), 3)
        assert.strictEqual(attribute("gen_ai.usage.cache_read.input_tokens"), 5)
        assert.isNumber(attribute("gen_ai.response.time_to_first_chunk"))

        const lines = (yield* recording.lines).filter(({ annotations }) => "service" in annotations)
        assert.strictEqual(lines.length, 1)
        const metrics = yield* recording.metrics
        const changed = (name: string, labels: Record<string, string> = {}) =>
          metrics
            .filter((metric) => metric.name === name)
            .filter(({ labels: all }) => Object.entries(labels).every(([label, value]) => all[label] === value))
            .map(({ after, before }) => after - before)
        assert.deepStrictEqual(changed("gen_ai.client.operation.duration", { "gen_ai.provider.name": "openai" }), [1])
        assert.deepStrictEqual(changed("gen_ai.client.token.usage", { "gen_ai.token.type": "input" }), [1])
        assert.deepStrictEqual(changed("gen_ai.client.token.usage", { "gen_ai.token.type": "output" }), [1])

        // Neither what was asked nor what was answered nor the key is in anything that leaves the program.
        const shown = JSON.stringify(
          [
            spans.map((span) => [span.name, [...span.attributes], span.events, failureOf(span)], bigints),
            lines.map(({ annotations, message }) => [message, annotations]),
            metrics
          ],
          bigints
        )
        for (const secret of [prompt, key, "Hel"]) assert.notInclude(shown, secret)
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("a whole answer, and one span for it", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 200, answered("Hello")))
        const recording = yield* Recording.make
        const response = yield* Llm.generate(ask).pipe(Effect.provide(openai(server)), recording.within)
        assert.strictEqual(response.text, "Hello")
        assert.strictEqual(response.usage.cachedInput, 5)
        const [call, attempt, ...rest] = yield* recording.spans
        assert.strictEqual(call?.name, "chat gpt-test")
        assert.strictEqual(call?.attributes.get("gen_ai.usage.input_tokens"), 12)
        assert.strictEqual(attempt?.name, "POST")
        assert.deepStrictEqual(rest, [])
        assert.strictEqual((yield* recording.lines).length, 1)
      }).pipe(Effect.provide(client))
    )

    it.scopedLive(
      "interruption closes the connection, of streams and of whole answers (complaint 8: aborts leak)",
      () =>
        Effect.gen(function* () {
          const server = yield* serve(({ request, response }) => {
            if (!request.body.includes('"stream":true')) return
            response.writeHead(200, { "content-type": "text/event-stream" })
            const timer = setInterval(() => response.write(chunk({ content: "and on " })), 5)
            response.on("close", () => clearInterval(timer))
          })
          yield* Effect.gen(function* () {
            // The consumer has enough.
            const some = yield* Llm.stream(ask).pipe(Stream.take(3), Stream.runCollect)
            assert.strictEqual(some.length, 3)
            yield* eventually("the socket of a stream that was left", () => server.aborted() === 1)

            // The fiber is interrupted in mid-stream.
            const flowing = yield* Deferred.make<void>()
            const streaming = yield* Llm.stream(ask).pipe(
              Stream.runForEach(() => Deferred.succeed(flowing, undefined)),
              Effect.fork
            )
            yield* Deferred.await(flowing)
            assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(streaming)))
            yield* eventually("the socket of an interrupted stream", () => server.aborted() === 2)

            // Before there is any answer.
            const waiting = yield* Effect.fork(Llm.generate(ask))
            yield* eventually("the third request", () => server.seen.length === 3)
            yield* Fiber.interrupt(waiting)
            yield* eventually("the socket of an interrupted call", () => server.aborted() === 3)
          }).pipe(Effect.provide(openai(server)))
        }).pipe(Effect.provide(client))
    )

    it.scopedLive("a stream that breaks off in mid-answer fails with what had come (complaint 2)", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(200, { "content-type": "text/event-stream" })
          response.write(chunk({ content: "par" }) + chunk({ content: "tial" }))
          setTimeout(() => response.destroy(), 30)
        })
        const seen: Array<string> = []
        const error = yield* Llm.stream(ask).pipe(
          Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.text))),
          Effect.flip,
          Effect.provide(openai(server))
        )
        assert.deepStrictEqual(seen, ["par", "tial"])
        assert.strictEqual(error.reason, "StreamTruncated")
        assert.strictEqual(error.partial?.text, "partial")
        assert.isFalse(error.isRetryable)
        assert.strictEqual(server.seen.length, 1)
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("pings do not keep a stalled stream alive (complaint 11: stalled streams)", () =>
      Effect.gen(function* () {
        const server = yield* serve(({ index, response }) => {
          response.writeHead(200, { "content-type": "text/event-stream" })
          if (index === 1) response.write(chunk({ content: "one" }))
          const timer = setInterval(() => response.write(": ping\n\n"), 10)
          response.on("close", () => clearInterval(timer))
        })
        yield* Effect.gen(function* () {
          const first = yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))
          assert.strictEqual(first.reason, "Timeout")
          assert.isTrue(first.isRetryable)
          assert.isFalse(first.midStream)
          const idle = yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))
          assert.strictEqual(idle.reason, "Timeout")
          assert.isFalse(idle.isRetryable)
          assert.isTrue(idle.midStream)
          assert.strictEqual(idle.partial?.text, "one")
          yield* eventually("both sockets", () => server.aborted() === 2)
        }).pipe(
          Effect.provide(
            openai(server, {
              retry: false,
              firstContentTimeout: "200 millis",
              idleTimeout: "200 millis",
              timeout: "10 seconds"
            })
          )
        )
      }).pipe(Effect.provide(client))
    )

    it.scopedLive("a server that is not there is a network error, tried again", () =>
      Effect.gen(function* () {
        const gone = yield* Effect.scoped(
          Effect.map(
            serve(() => {}),
            ({ url }) => url
          )
        )
        const recording = yield* Recording.make
        const error = yield* Llm.generate(ask).pipe(
          Effect.flip,
          Effect.provide(openai({ url: gone, seen: [], aborted: () => 0 })),
          recording.within
        )
        assert.strictEqual(error.reason, "Network")
        assert.isTrue(error.isRetryable)
        const [call] = yield* recording.spans
        assert.strictEqual(call === undefined ? 0 : (yield* recording.childrenOf(call)).length, 3)
        assert.notInclude(JSON.stringify(error), prompt)
      }).pipe(Effect.provide(client))
    )
  })
}

/** What exporters of spans show of a failure. */
const failureOf = ({ status }: { readonly status: Tracer.SpanStatus }): string =>
  status._tag === "Ended" && Exit.isFailure(status.exit) ? Cause.pretty(status.exit.cause) : ""

const bigints = (_: string, value: unknown): unknown => (typeof value === "bigint" ? String(value) : value)

describe("retries", () => {
  const runs = (handle: Parameters<typeof serve>[0], options: Partial<OpenAi.OpenAiOptions> = {}) =>
    Effect.gen(function* () {
      const server = yield* serve(handle)
      const exit = yield* Stream.runCollect(Llm.stream(ask)).pipe(
        Effect.either,
        Effect.provide(openai(server, options))
      )
      return { exit, requests: server.seen.length }
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

  const failing = (handle: Parameters<typeof serve>[0]) =>
    Effect.flatMap(runs(handle), ({ exit, requests }) =>
      exit._tag === "Left" ? Effect.succeed({ error: exit.left, requests }) : Effect.dieMessage("it should have failed")
    )

  it.live("are never made for a used-up quota or a request above the limit (complaint 4: quota as rate limit)", () =>
    Effect.gen(function* () {
      const quota = yield* failing(({ response }) =>
        json(response, 429, { error: { message: "You exceeded your current quota", code: "insufficient_quota" } })
      )
      assert.deepStrictEqual([quota.error.reason, quota.requests], ["QuotaExhausted", 1])
      const tooLarge = yield* failing(({ response }) =>
        json(response, 413, { error: { message: "Request too large", code: "rate_limit_exceeded" } })
      )
      assert.deepStrictEqual([tooLarge.error.reason, tooLarge.requests], ["RateLimited", 1])
      const wrong = yield* failing(({ response }) => json(response, 401, "no"))
      assert.deepStrictEqual([wrong.error.reason, wrong.requests], ["Authentication", 1])
    })
  )

  it.live("are made for an error or an end before any content, and what comes is delivered once (complaint 1)", () =>
    Effect.gen(function* () {
      for (const early of [
        'event: error\ndata: {"error":{"message":"x","type":"server_error"}}\n\n',
        chunk({ role: "assistant", content: "" }),
        '{"error":{"message":"busy","code":503}}'
      ]) {
        const { exit, requests } = yield* runs(({ index, response }) =>
          sse(response, index === 0 ? early : streamed("once"))
        )
        assert.strictEqual(exit._tag === "Right" ? textOf(exit.right) : exit.left.message, "once")
        assert.strictEqual(requests, 2)
      }
    })
  )

  it.live("are never made once content has come (complaint 1)", () =>
    Effect.gen(function* () {
      for (const late of [
        'data: {"error":{"message":"x","code":503}}\n\n',
        "",
        'data: {"error":{"message":"x","code":"rate_limit_exceeded"}}\n\n'
      ]) {
        for (const content of [
          { content: "a" },
          { reasoning: "a" },
          { tool_calls: [{ index: 0, id: "1", function: { name: "f", arguments: "{" } }] }
        ]) {
          const { error, requests } = yield* failing(({ response }) => sse(response, chunk(content) + late))
          assert.isFalse(error.isRetryable)
          assert.isTrue(error.midStream)
          assert.strictEqual(requests, 1)
        }
      }
    })
  )

  it.live("end with the last error, marked as spent", () =>
    Effect.gen(function* () {
      const { error, requests } = yield* failing(({ response }) => json(response, 503, "busy"))
      assert.deepStrictEqual([error.reason, requests], ["Overloaded", 3])
      assert.isTrue(ErrorClass.isExhausted(error))
    })
  )
})

describe("calls at once through one layer", () => {
  it.scopedLive("keep their own correlation ids, models and answers", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        const { model } = JSON.parse(request.body) as { readonly model: string }
        setTimeout(() => sse(response, streamed(`${model} `, String(request.headers["x-correlation-id"]))), 20)
      })
      const answers = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, index) => index),
        (index) =>
          Stream.runCollect(Llm.stream({ ...ask, model: `m${index % 3}` })).pipe(
            Effect.map(textOf),
            Correlation.within(`id-${index}`)
          ),
        { concurrency: "unbounded" }
      ).pipe(Effect.provide(openai(server)))
      assert.deepStrictEqual(
        answers,
        answers.map((_, index) => `m${index % 3} id-${index}`)
      )
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive(
    "are counted with what they used also if nobody waits for the end (complaint 5: usage lost on abort)",
    () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => {
          response.writeHead(200, { "content-type": "text/event-stream" })
          response.write(chunk({ content: "a" }, null, { usage: { prompt_tokens: 40, completion_tokens: 1 } }))
        })
        const recording = yield* Recording.make
        yield* Llm.stream({ ...ask, model: "left" }).pipe(
          Stream.take(1),
          Stream.runDrain,
          Effect.provide(openai(server)),
          recording.within
        )
        const changed = (yield* recording.metrics).filter(({ labels }) => labels["gen_ai.request.model"] === "left")
        assert.deepStrictEqual(
          changed.map(({ labels, name }) => [name, labels["gen_ai.token.type"] ?? labels["error.type"]]).sort(),
          [
            ["gen_ai.client.operation.duration", "cancelled"],
            ["gen_ai.client.operation.time_to_first_chunk", undefined],
            ["gen_ai.client.token.usage", "input"],
            ["gen_ai.client.token.usage", "output"]
          ]
        )
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("refusals of a policy below", () => {
  const refusals: ReadonlyArray<
    readonly [
      refusal: object,
      expected: Pick<LlmError.LlmError, "reason" | "errorClass"> & {
        readonly issue: string | undefined
        readonly after?: number
      }
    ]
  > = [
    [
      new RateLimit.RateLimitExceeded({ service: "llm", retryAfter: Duration.seconds(5) }),
      { reason: "RateLimited", errorClass: "rate-limited", issue: "our own limit", after: 5000 }
    ],
    [
      new Bulkhead.BulkheadFull({ service: "llm", reason: "queue-full" }),
      { reason: "Overloaded", errorClass: "transient", issue: "too many calls are in flight here" }
    ],
    [
      new Bulkhead.BulkheadFull({ service: "llm", reason: "weight-above-limit", weight: 9, limit: 2 }),
      { reason: "InvalidRequest", errorClass: "permanent", issue: "weighs more" }
    ],
    [
      new Throttle.CallThrottled({ service: "llm", probability: 0.9 }),
      { reason: "Overloaded", errorClass: "transient", issue: "this call was not made" }
    ],
    [
      new Policy.StageRejected({ service: "llm", stage: "quota", reason: "used up" }),
      { reason: "Overloaded", errorClass: "transient", issue: "refused by the stage quota" }
    ],
    [
      new Policy.StageRejected({
        service: "llm",
        stage: "quota",
        reason: "used up",
        retryAfter: Duration.seconds(7)
      }),
      { reason: "RateLimited", errorClass: "rate-limited", issue: "refused by the stage quota", after: 7000 }
    ],
    [
      new CircuitBreaker.CircuitOpen({ service: "llm", retryAfter: Duration.seconds(3) }),
      { reason: "CircuitOpen", errorClass: "transient", issue: undefined, after: 3000 }
    ]
  ]
  for (const [refusal, expected] of refusals) {
    it.scopedLive(`${String(refusal)}: refused, not tried again, no failure of the provider`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 200, answered("fine")))
        const below = Layer.succeed(
          Client.HttpClient,
          Client.make((request) =>
            Effect.fail(new HttpClientError.RequestError({ request, reason: "Transport", cause: refusal }))
          )
        )
        yield* Effect.gen(function* () {
          for (let count = 0; count < 7; count++) {
            const error = yield* Effect.flip(Llm.generate(ask))
            assert.strictEqual(error.reason, expected.reason)
            assert.strictEqual(error.errorClass, expected.errorClass)
            assert.isTrue(error.rejection)
            if (expected.issue === undefined) assert.isUndefined(error.issue)
            else assert.include(error.issue, expected.issue)
            assert.strictEqual(
              error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter),
              expected.after
            )
            assert.strictEqual(ErrorClass.classify(error).rejection, true)
            assert.lengthOf(RetryPolicy.attemptsOf(error), 0)
          }
          const streamed = yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))
          assert.strictEqual(streamed.reason, expected.reason)
        }).pipe(Effect.provide(Layer.provide(openai(server), below)))
        assert.strictEqual(server.seen.length, 0)
      })
    )
  }

  it.scopedLive("a real one: the HttpClient below has a rate limit of its own", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, answered("fine")))
      const below = ExternalHttp.layer({
        service: "egress",
        policy: { rateLimit: { limit: 1, interval: "1 minute", maxWait: false } }
      })
      yield* Effect.gen(function* () {
        assert.strictEqual((yield* Llm.generate(ask)).text, "fine")
        const error = yield* Effect.flip(Llm.generate(ask))
        assert.deepStrictEqual([error.reason, error.rejection], ["RateLimited", true])
        assert.isAbove(Duration.toMillis(error.retryAfter ?? 0), 30_000)
      }).pipe(Effect.provide(Layer.provide(openai(server), below)))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("the circuit breaker", () => {
  it.scopedLive("is one for each model, and opens by failures of the provider only", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) => {
        if (request.body.includes('"model":"bad"')) json(response, 500, "oops")
        else if (request.body.includes('"model":"limited"')) json(response, 429, "slow")
        else json(response, 200, answered("fine"))
      })
      yield* Effect.gen(function* () {
        for (let count = 0; count < 5; count++) {
          const error = yield* Effect.flip(Llm.generate({ ...ask, model: "bad" }))
          assert.strictEqual(error.reason, "ServerError")
          assert.strictEqual(error.model, "bad")
        }
        const open = yield* Effect.flip(Llm.generate({ ...ask, model: "bad" }))
        assert.strictEqual(open.reason, "CircuitOpen")
        assert.isDefined(open.retryAfter)
        assert.strictEqual(server.seen.length, 5)
        assert.strictEqual((yield* Llm.generate(ask)).text, "fine")
        for (let count = 0; count < 7; count++) {
          assert.strictEqual((yield* Effect.flip(Llm.generate({ ...ask, model: "limited" }))).reason, "RateLimited")
        }
      }).pipe(Effect.provide(openai(server, { retry: false })))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("counts streams that break in the middle", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => sse(response, chunk({ content: "a" })))
      yield* Effect.gen(function* () {
        for (let count = 0; count < 5; count++) {
          assert.strictEqual((yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))).reason, "StreamTruncated")
        }
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(Llm.stream(ask)))).reason, "CircuitOpen")
        assert.strictEqual(server.seen.length, 5)
      }).pipe(Effect.provide(openai(server, { retry: false })))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("providers", () => {
  const models = ({ data }: { readonly data: unknown }) =>
    serve(({ request, response }) => {
      if (request.headers["authorization"] === "Bearer wrong") json(response, 401, { error: { message: "bad key" } })
      else if (request.path === "/v1/models" || request.path === "/api/tags") json(response, 200, data)
      else json(response, 200, answered("hi"))
    })

  it.scopedLive("health costs no tokens and knows the model, a missing model and a wrong key", () =>
    Effect.gen(function* () {
      const server = yield* models({ data: { data: [{ id: "gpt-test" }] } })
      const health = Effect.flatMap(Llm.Llm, (llm) => llm.health)
      const base = { model: "gpt-test", baseUrl: `${server.url}/v1` }
      assert.strictEqual((yield* Effect.provide(health, openai(server))).status, "up")
      const other = yield* Effect.provide(health, Groq.layer({ ...base, model: "nope", apiKey: Redacted.make("k") }))
      assert.strictEqual(other.status, "degraded")
      const error = yield* health.pipe(Effect.provide(openai(server, { apiKey: Redacted.make("wrong") })), Effect.flip)
      assert.strictEqual(error.reason, "Authentication")
      assert.isTrue(server.seen.every(({ method }) => method === "GET"))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("Ollama is asked over /v1 where that is wanted, its health by /api/tags", () =>
    Effect.gen(function* () {
      const server = yield* models({ data: { models: [{ name: "llama3.2:latest", model: "llama3.2:latest" }] } })
      yield* Effect.gen(function* () {
        const llm = yield* Llm.Llm
        assert.strictEqual(llm.provider, "ollama")
        assert.strictEqual((yield* llm.health).status, "up")
        yield* llm.generate({ ...ask, maxTokens: 7 })
        assert.deepStrictEqual(
          server.seen.map(({ path }) => path),
          ["/api/tags", "/v1/chat/completions"]
        )
        assert.include(server.seen[1]?.body, '"max_tokens":7')
        assert.isUndefined(server.seen[1]?.headers["authorization"])
      }).pipe(Effect.provide(Ollama.layer({ api: "v1", host: server.url, model: "llama3.2" })))
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("a look for Ollama answers within half a second, whatever listens there", () =>
    Effect.gen(function* () {
      const ollama = yield* models({ data: { models: [{ name: "llama3.2:latest" }] } })
      assert.isTrue(yield* Ollama.isRunning(ollama.url))
      assert.deepStrictEqual(yield* Ollama.models(`${ollama.url}/`), Option.some(["llama3.2:latest"]))
      const silent = yield* serve(() => {})
      const web = yield* serve(({ response }) => json(response, 200, "<html></html>"))
      const gone = yield* Effect.scoped(
        Effect.map(
          serve(() => {}),
          ({ url }) => url
        )
      )
      for (const url of [silent.url, web.url, gone]) {
        // the quickest of several: what a busy machine adds is not ours
        const took: Array<number> = []
        while (took.length < 10 && !(Math.min(...took) < 500)) {
          const [one, running] = yield* Effect.timed(Ollama.isRunning(url))
          assert.isFalse(running)
          took.push(Duration.toMillis(one))
        }
        assert.isBelow(Math.min(...took), 500)
      }
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("settings that cannot work stop the layer and say what to change", () =>
    Effect.gen(function* () {
      const build = (layer: Layer.Layer<Llm.Llm, unknown, HttpClient.HttpClient>) => Effect.flip(Layer.build(layer))
      const url = yield* build(OpenAi.layer({ apiKey: Redacted.make(key), model: "m", baseUrl: "localhost:1" }))
      assert.include(String(url), "http://")
      const policy = yield* build(
        OpenAiCompatible.layer({ provider: "x", model: "m", baseUrl: "http://127.0.0.1:1", retry: { attempts: 0 } })
      )
      assert.include(String(policy), "attempts")
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )

  it.scopedLive("many made-up models do not pile up", () =>
    Effect.gen(function* () {
      const server = yield* models({ data: {} })
      const recording = yield* Recording.make
      yield* Effect.gen(function* () {
        const llm = yield* Llm.Llm
        for (let count = 0; count < 100; count++) yield* llm.generate({ ...ask, model: `m${count}` })
        assert.strictEqual((yield* llm.generate(ask)).text, "hi")
      }).pipe(Effect.provide(openai(server)), recording.within)
      assert.strictEqual(server.seen.length, 101)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
