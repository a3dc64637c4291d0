/** A caller may give up at any moment: the connection is closed at once and no fiber is left (complaint 8). */
import { FetchHttpClient, type HttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, HttpTransport } from "@underlay/core"
import { Llm, OpenAi } from "@underlay/llm"
import { Effect, Exit, Fiber, Layer, Redacted, Schedule, Stream, Supervisor } from "effect"
import { chunk, type Exchange, json, serve } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

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

const begin = ({ response }: Exchange, status: number, ...texts: ReadonlyArray<string>): void => {
  response.writeHead(status, { "content-type": status === 200 ? "text/event-stream" : "application/json" })
  response.flushHeaders()
  for (const text of texts) response.write(text)
}

/** What the server has done when the caller gives up, and how many connections it must lose. */
const moments: ReadonlyArray<readonly [string, (exchange: Exchange) => void, number]> = [
  ["before any answer", () => {}, 1],
  ["after the headers", (exchange) => begin(exchange, 200), 1],
  ["after a ping", (exchange) => begin(exchange, 200, ": ping\n\n"), 1],
  ["in the middle of the answer", (exchange) => begin(exchange, 200, chunk({ content: "a" })), 1],
  [
    "in the middle of a character",
    (exchange) => begin(exchange, 200, chunk({ content: "a" }), 'data: {"x":"\uD83D'),
    1
  ],
  ["between the finish and the usage", (exchange) => begin(exchange, 200, chunk({ content: "a" }, "stop")), 1],
  ["in the middle of an error's body", (exchange) => begin(exchange, 500, '{"error":'), 1],
  ["while it waits for the next attempt", ({ response }) => json(response, 429, "slow", { "retry-after": "20" }), 0]
]

/** Turns of the event loop in which what the server has written reaches the client. */
const turns = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve))).pipe(Effect.repeatN(50))

for (const [client, layer] of clients) {
  describe(`a caller that gives up, over ${client}`, () => {
    for (const [name, handle, lost] of moments) {
      for (const method of ["stream", "generate"] as const) {
        it.scopedLive(`${name}: ${method}`, () =>
          Effect.gen(function* () {
            const server = yield* serve(handle)
            const supervisor = yield* Supervisor.track
            yield* Effect.gen(function* () {
              const run: Effect.Effect<unknown, unknown, Llm.Llm> =
                method === "stream" ? Stream.runDrain(Llm.stream(ask)) : Llm.generate(ask)
              const fiber = yield* run.pipe(Effect.fork, Effect.supervised(supervisor))
              yield* eventually("the request", () => server.seen.length === 1)
              yield* turns
              const exit = yield* Fiber.interrupt(fiber).pipe(Effect.timeout("20 seconds"))
              assert.isTrue(Exit.isInterrupted(exit), String(exit))
              yield* eventually("the connection is closed", () => server.aborted() === lost)
              const alive = yield* supervisor.value
              assert.deepStrictEqual(
                alive.filter((each) => each.unsafePoll() === null).map((each) => each.id()),
                []
              )
              assert.strictEqual(server.seen.length, 1)
            }).pipe(
              Effect.provide(
                OpenAi.layer({ apiKey: Redacted.make("k"), model: "m", baseUrl: server.url, timeout: "1 minute" })
              )
            )
          }).pipe(Effect.provide(layer))
        )
      }
    }
  })
}

describe("an answer that is finished but never ended", () => {
  it.scopedLive("is whole even where the other limits of time are shorter than the wait for its end", () =>
    Effect.gen(function* () {
      const server = yield* serve((exchange) => begin(exchange, 200, chunk({ content: "a" }, "stop")))
      const parts = yield* Stream.runCollect(Llm.stream(ask)).pipe(
        Effect.provide(
          OpenAi.layer({
            apiKey: Redacted.make("k"),
            model: "m",
            baseUrl: server.url,
            idleTimeout: "300 millis",
            retry: false
          })
        )
      )
      assert.deepStrictEqual(
        [...parts].map(({ type }) => type),
        ["text-delta", "finish"]
      )
      yield* eventually("the connection is closed", () => server.aborted() === 1)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
