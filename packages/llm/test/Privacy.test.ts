/** Nothing that leaves the program by itself (spans, log lines) holds what was asked, what was answered, or a key. */
import * as Util from "node:util"
import { FetchHttpClient, type HttpClient, HttpClientError, HttpClientRequest } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, HttpTransport } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, OpenAi } from "@underlay/llm"
import { Cause, Effect, Exit, Layer, Redacted, Stream } from "effect"
import { answered, chunk, json, serve, sse, streamed } from "./server.ts"

const prompt = "the very private question"
const answer = "the very private answer"
const key = "sk-test-0123456789abcdef"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user(prompt)] }

/** Every string that can be reached from a value, by any property, shown or hidden. */
const reachable = (root: unknown): ReadonlyArray<string> => {
  const found: Array<string> = []
  const seen = new Set<object>()
  const visit = (value: unknown): void => {
    if (typeof value === "string") found.push(value)
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return
    seen.add(value)
    if (value instanceof Map || value instanceof Set) for (const entry of value) visit(entry)
    if (value instanceof Uint8Array) found.push(new TextDecoder().decode(value))
    for (const name of Reflect.ownKeys(value)) {
      const property = Reflect.getOwnPropertyDescriptor(value, name)
      if (property !== undefined && "value" in property) visit(property.value)
    }
  }
  visit(root)
  return found
}

it("the walk finds what platform's errors hold", () => {
  const request = HttpClientRequest.post("http://x").pipe(
    HttpClientRequest.bodyText(prompt),
    HttpClientRequest.bearerToken(key)
  )
  const inside = reachable([Exit.fail(new HttpClientError.RequestError({ request, reason: "Transport" }))]).join("\n")
  assert.include(inside, prompt)
  assert.include(inside, key)
})

const bigints = (_: string, value: unknown): unknown => (typeof value === "bigint" ? String(value) : value)

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  ["HttpTransport", Layer.orDie(HttpTransport.layerUndici())],
  ["node:http", NodeHttpClient.layer]
]

const faults: ReadonlyArray<readonly [string, string, Parameters<typeof serve>[0]]> = [
  [
    "a refusal",
    "InvalidRequest",
    ({ response }) => json(response, 400, { error: { message: "no", code: "bad_value" } })
  ],
  [
    "a refusal that quotes the request",
    "InvalidRequest",
    ({ response }) =>
      json(response, 400, { error: { message: `Invalid: '${prompt}'`, type: `${prompt}!`, param: prompt } })
  ],
  [
    "an error in the middle of an answer",
    "Overloaded",
    ({ response }) =>
      sse(response, `${chunk({ content: answer })}data: {"error":{"message":"${answer}","code":503}}\n\n`)
  ],
  [
    "a lost connection",
    "StreamTruncated",
    ({ response }) => {
      response.writeHead(200, { "content-type": "text/event-stream" })
      response.write(chunk({ content: answer }))
      setTimeout(() => response.destroy(), 20)
    }
  ],
  ["a connection that never was", "Network", ({ response }) => void response.socket?.destroy()],
  [
    "a stall",
    "Timeout",
    ({ response }) => {
      response.writeHead(200, { "content-type": "text/event-stream" })
      response.write(chunk({ content: answer }))
    }
  ]
]

for (const [client, layer] of clients) {
  describe(`what a failed call shows, over ${client}`, () => {
    for (const [name, reason, handle] of faults) {
      it.scopedLive(name, () =>
        Effect.gen(function* () {
          const server = yield* serve(handle)
          const recording = yield* Recording.make
          const error = yield* Stream.runDrain(Llm.stream(ask)).pipe(
            Effect.flip,
            Effect.provide(
              OpenAi.layer({
                apiKey: Redacted.make(key),
                model: "gpt-test",
                baseUrl: server.url,
                retry: false,
                idleTimeout: name === "a stall" ? "100 millis" : "10 seconds"
              })
            ),
            recording.within
          )
          assert.strictEqual(error.reason, reason)
          const spans = yield* recording.spans
          assert.strictEqual(spans.length, 2)
          assert.strictEqual(
            spans.find((span) => span.name === "chat gpt-test")?.attributes.get("call.outcome"),
            "failure"
          )
          const exits = spans.flatMap(({ status }) => (status._tag === "Ended" ? [status.exit] : []))
          assert.strictEqual(exits.length, 2)
          const shown = [
            JSON.stringify(exits),
            Util.inspect(exits, { depth: null }),
            ...exits.flatMap((exit) => (Exit.isFailure(exit) ? [Cause.pretty(exit.cause)] : [])),
            JSON.stringify(
              spans.map((span) => [span.name, [...span.attributes], span.events]),
              bigints
            ),
            JSON.stringify(
              (yield* recording.lines).map(({ annotations, message }) => [message, annotations]),
              bigints
            ),
            error.message,
            String(error)
          ].join("\n")
          for (const secret of [prompt, answer, key]) assert.notInclude(shown, secret)
          // Not even hidden: a tracer that walks through the exits finds neither the request nor the key.
          const inside = reachable(exits).join("\n")
          assert.notInclude(inside, key)
          if (!name.includes("quotes")) assert.notInclude(inside, prompt)
        }).pipe(Effect.provide(layer))
      )
    }
  })
}

describe("the error.type of a call", () => {
  const typeOf = (handle: Parameters<typeof serve>[0], method: "generate" | "stream") =>
    Effect.gen(function* () {
      const server = yield* serve(handle)
      const recording = yield* Recording.make
      const run: Effect.Effect<unknown, unknown, Llm.Llm> =
        method === "stream" ? Stream.runDrain(Llm.stream(ask)) : Llm.generate(ask)
      yield* run.pipe(
        Effect.ignore,
        Effect.provide(
          OpenAi.layer({
            apiKey: Redacted.make(key),
            model: "gpt-test",
            baseUrl: server.url,
            retry: { base: "1 millis" }
          })
        ),
        recording.within
      )
      const spans = yield* recording.spans
      return spans.find((span) => span.name === "chat gpt-test")?.attributes.get("error.type")
    })

  for (const method of ["generate", "stream"] as const) {
    it.scopedLive(`is the reason of what it failed with: ${method}`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* typeOf(({ response }) => json(response, 401, "no"), method), "Authentication")
        assert.strictEqual(yield* typeOf(({ response }) => json(response, 500, "no"), method), "ServerError")
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )

    it.scopedLive(`is absent where a later attempt succeeded: ${method}`, () =>
      Effect.gen(function* () {
        const type = yield* typeOf(({ index, response }) => {
          if (index === 0) json(response, 500, "oops")
          else if (method === "stream") sse(response, streamed("a"))
          else json(response, 200, answered("a"))
        }, method)
        assert.isUndefined(type)
      }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  }
})
