/**
 * Nothing is left of a call that was given up: its connection is closed within 50 ms, and after thousands of aborted
 * streams there are no more connections, fibers, timers and memory than before.
 */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { FetchHttpClient, type HttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, OpenAi } from "@underlay/llm"
import {
  Chunk,
  Effect,
  Exit,
  Fiber,
  type Layer,
  Logger,
  LogLevel,
  Metric,
  Redacted,
  Schedule,
  Stream,
  Supervisor
} from "effect"
import { chunk, type Exchange, serve } from "./server.ts"

const nightly = process.env["UNDERLAY_NIGHTLY"] === "1"
const total = nightly ? 10_000 : 1_000

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  ["node:http", NodeHttpClient.layer]
]

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("1 millis").pipe(Schedule.upTo("10 seconds")))
  )

const begin = ({ response }: Exchange, ...texts: ReadonlyArray<string>): void => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.flushHeaders()
  for (const text of texts) response.write(text)
}

const model = (url: string, settings: Partial<OpenAi.OpenAiOptions> = {}) =>
  OpenAi.layer({ apiKey: Redacted.make("k"), model: "m", baseUrl: url, retry: false, ...settings })

for (const [client, layer] of clients) {
  describe(`a call that is interrupted, over ${client}`, () => {
    const moments: ReadonlyArray<readonly [string, (exchange: Exchange) => void]> = [
      ["while it waits for an answer", () => {}],
      ["in the middle of a stream", (exchange) => begin(exchange, chunk({ content: "a" }))]
    ]
    for (const [moment, answer] of moments) {
      it.scopedLive(`closes its connection within 50 ms: ${moment}`, () =>
        Effect.gen(function* () {
          let closedAt = Number.NaN
          const server = yield* serve((exchange) => {
            exchange.response.on("close", () => {
              closedAt = performance.now()
            })
            answer(exchange)
          })
          const once = Effect.gen(function* () {
            closedAt = Number.NaN
            let parts = 0
            const before = server.seen.length
            const running = Stream.runForEach(Llm.stream(ask), () => Effect.sync(() => parts++))
            const fiber = yield* Effect.fork(running)
            yield* eventually("the request", () => server.seen.length > before)
            if (moment.includes("stream")) yield* eventually("the first part", () => parts > 0)
            const from = performance.now()
            yield* Fiber.interrupt(fiber)
            yield* eventually("the connection is closed", () => !Number.isNaN(closedAt))
            return closedAt - from
          }).pipe(Effect.provide(model(server.url)))
          // The quickest of several: what a busy machine adds is not ours.
          const took = yield* Effect.replicateEffect(once, 5)
          assert.isAtMost(Math.min(...took), 50)
        }).pipe(Effect.provide(layer))
      )
    }
  })
}

/** One way to give up a stream: what the server does, and what the caller does with the stream. */
interface Way {
  readonly name: string
  readonly answer: (exchange: Exchange) => void
  readonly settings?: Partial<OpenAi.OpenAiOptions>
  readonly run: (
    stream: Stream.Stream<unknown, unknown, Llm.Llm>,
    asked: Effect.Effect<void, unknown>
  ) => Effect.Effect<unknown, unknown, Llm.Llm>
}

const interrupted: Way["run"] = (stream, asked) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.fork(Stream.runDrain(stream))
    yield* asked
    const exit = yield* Fiber.interrupt(fiber)
    if (!Exit.isInterrupted(exit)) yield* Effect.die(`it was not interrupted: ${String(exit)}`)
  })

const failsWith =
  (reason: string): Way["run"] =>
  (stream) =>
    Stream.runDrain(stream).pipe(
      Effect.flip,
      Effect.flatMap((error) =>
        typeof error === "object" && error !== null && Reflect.get(error, "reason") === reason
          ? Effect.void
          : Effect.die(error)
      )
    )

const flowing = (exchange: Exchange): void => begin(exchange, ...Array(20).fill(chunk({ content: "word " })))

const ways: ReadonlyArray<Way> = [
  { name: "interrupted before the headers", answer: () => {}, run: interrupted },
  {
    name: "interrupted in the middle",
    answer: flowing,
    run: (stream) =>
      Effect.gen(function* () {
        const some = yield* Effect.makeLatch()
        const fiber = yield* Effect.fork(Stream.runForEach(stream, () => some.open))
        yield* some.await
        yield* Fiber.interrupt(fiber)
      })
  },
  { name: "left after the first part", answer: flowing, run: (stream) => Stream.runDrain(Stream.take(stream, 1)) },
  {
    name: "left because the reader failed",
    answer: flowing,
    run: (stream) => Effect.exit(Stream.runForEach(stream, () => Effect.fail("enough")))
  },
  {
    name: "no content in time",
    answer: (exchange) => begin(exchange, ": ping\n\n"),
    settings: { firstContentTimeout: "15 millis" },
    run: failsWith("Timeout")
  },
  {
    name: "silent for too long",
    answer: flowing,
    settings: { idleTimeout: "15 millis" },
    run: failsWith("Timeout")
  }
]

setFlagsFromString("--expose-gc")
const collect: () => void = runInNewContext("gc")

/** The heap that is really held: finalizers get their turns between the collections. */
const held = Effect.gen(function* () {
  for (let pass = 0; pass < 4; pass++) {
    collect()
    yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
  }
  return process.memoryUsage().heapUsed
})

const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length

/** Calls under way, as the metric of the external plane counts them. */
const inFlight = Effect.map(Metric.snapshot, (pairs) =>
  Array.from(pairs)
    .filter(({ metricKey }) => metricKey.name === "external_calls_in_flight")
    .map(({ metricState }) => Number(Reflect.get(metricState, "value")))
    .reduce((sum, each) => sum + each, 0)
)

for (const [client, layer] of clients.slice(0, 2)) {
  describe(`aborted streams, over ${client}`, () => {
    for (const way of ways) {
      it.scopedLive(
        `${way.name}: leave no connection, fiber, timer or memory`,
        () =>
          Effect.gen(function* () {
            const open = new Set<object>()
            const server = yield* serve((exchange) => {
              const { socket } = exchange.response
              if (socket !== null) {
                open.add(socket)
                socket.once("close", () => open.delete(socket))
              }
              way.answer(exchange)
            })
            const supervisor = yield* Supervisor.track
            const before = yield* inFlight
            yield* Effect.gen(function* () {
              const batch = (size: number) =>
                Effect.forEach(
                  Array(size).keys(),
                  () =>
                    Effect.suspend(() => {
                      const seen = server.seen.length
                      return way.run(
                        Llm.stream(ask),
                        eventually("the request", () => server.seen.length > seen)
                      )
                    }),
                  { concurrency: 25, discard: true }
                )
              const count = Math.ceil(total / clients.slice(0, 2).length / ways.length)
              const settled = eventually("the connections are closed", () => open.size === 0)
              yield* batch(50)
              yield* settled
              const heap = yield* held
              const sleeping = timers()
              yield* batch(count).pipe(Effect.supervised(supervisor))
              yield* settled
              yield* eventually("the timers are gone", () => timers() <= sleeping)
              assert.strictEqual(yield* inFlight, before)
              const alive = (yield* supervisor.value).filter((fiber) => fiber.unsafePoll() === null)
              assert.deepStrictEqual(
                alive.map((fiber) => fiber.id()),
                []
              )
              // What each left would add up; what the engine compiles and caches, and what the server has noted of each
              // request, does not count. Transports let go of what they held in their own time.
              const limit = 1_500_000 + count * 3000
              yield* held.pipe(
                Effect.map((now) => now - heap),
                Effect.repeat({ until: (each) => each < limit, schedule: Schedule.spaced("500 millis"), times: 20 })
              )
              assert.isBelow((yield* held) - heap, limit, `after ${count} streams`)
            }).pipe(Effect.provide(model(server.url, { breaker: false, ...way.settings })))
          }).pipe(Effect.provide(layer), Logger.withMinimumLogLevel(LogLevel.None)),
        nightly ? 600_000 : 120_000
      )
    }
  })
}

describe("a stream that is left", () => {
  it.scopedLive("before it is read asks for nothing", () =>
    Effect.gen(function* () {
      const server = yield* serve(flowing)
      const none = yield* Stream.runCollect(Stream.take(Llm.stream(ask), 0)).pipe(Effect.provide(model(server.url)))
      assert.strictEqual(Chunk.size(none), 0)
      assert.strictEqual(server.seen.length, 0)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
