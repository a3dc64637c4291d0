/**
 * Nothing is left of a call that was given up: its connection is closed within 50 ms, and after thousands of aborted
 * streams there are no more connections, fibers, timers and memory than before.
 */
import { type ChildProcess, fork } from "node:child_process"
import * as Path from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { FetchHttpClient, type HttpClient } from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, HttpTransport } from "@underlay/core"
import { Llm, OpenAi } from "@underlay/llm"
import {
  Chunk,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  LogLevel,
  Metric,
  Redacted,
  Schedule,
  Stream,
  Supervisor
} from "effect"
import { chunk, type Exchange, serve } from "./server.ts"

const total = 10_000

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  ["HttpTransport", Layer.orDie(HttpTransport.layerUndici())],
  ["node:http", NodeHttpClient.layer]
]

const eventually = (what: string, test: () => boolean) =>
  Effect.suspend(() => (test() ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("1 millis").pipe(Schedule.upTo("1 minute")))
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
  readonly server: "silent" | "ping" | "flowing"
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
    if (!Exit.isInterrupted(exit)) return yield* Effect.die(`it was not interrupted: ${String(exit)}`)
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
  { name: "interrupted before the headers", server: "silent", run: interrupted },
  {
    name: "interrupted in the middle",
    server: "flowing",
    run: (stream) =>
      Effect.gen(function* () {
        const some = yield* Effect.makeLatch()
        const fiber = yield* Effect.fork(Stream.runForEach(stream, () => some.open))
        yield* some.await
        yield* Fiber.interrupt(fiber)
      })
  },
  { name: "left after the first part", server: "flowing", run: (stream) => Stream.runDrain(Stream.take(stream, 1)) },
  {
    name: "left because the reader failed",
    server: "flowing",
    run: (stream) => Effect.exit(Stream.runForEach(stream, () => Effect.fail("enough")))
  },
  {
    name: "no content in time",
    server: "ping",
    settings: { firstContentTimeout: "15 millis" },
    run: failsWith("Timeout")
  },
  {
    name: "silent for too long",
    server: "flowing",
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

/** The server of a way, in a process of its own: what it keeps of a request is not ours. */
const endless = (kind: Way["server"]) =>
  Effect.acquireRelease(
    Effect.async<{
      readonly child: ChildProcess
      readonly url: string
      readonly seen: () => number
      readonly open: () => number
    }>((resume) => {
      const child = fork(Path.join(import.meta.dirname, "endless.ts"), [kind], { execArgv: ["--import", "tsx"] })
      let last = { seen: 0, open: 0 }
      child.on("message", (said: { readonly port?: number; readonly seen: number; readonly open: number }) => {
        if (said.port === undefined) last = said
        else {
          const url = `http://127.0.0.1:${said.port}`
          resume(Effect.succeed({ child, url, seen: () => last.seen, open: () => last.open }))
        }
      })
      child.once("error", (error) => resume(Effect.die(error)))
    }),
    ({ child }) =>
      Effect.async<void>((resume) => {
        child.once("exit", () => resume(Effect.void))
        child.kill()
      })
  )

// Of the thousands, a part is for each way and each client.
const share = Math.ceil(total / 2 / ways.length)

for (const [client, layer] of clients.slice(0, 2)) {
  it.scopedLive(
    `${share * ways.length} aborted streams, over ${client}, in ${ways.length} ways: leave no connection, fiber, timer or memory`,
    () =>
      Effect.gen(function* () {
        const supervisor = yield* Supervisor.track
        const before = yield* inFlight
        const batches = yield* Effect.forEach(ways, (way) =>
          Effect.gen(function* () {
            const server = yield* endless(way.server)
            const context = yield* Layer.build(model(server.url, { breaker: false, ...way.settings }))
            const abort = Effect.suspend(() => {
              const seen = server.seen()
              return way.run(
                Llm.stream(ask),
                eventually("the request", () => server.seen() > seen)
              )
            }).pipe(Effect.provide(context))
            return {
              server,
              once: abort,
              run: (count: number) => Effect.replicateEffect(abort, count, { concurrency: 25, discard: true })
            }
          })
        )
        const all = (count: number) => Effect.forEach(batches, ({ run }) => run(count), { discard: true })
        // Connections that a client has opened and found no use for are closed after some seconds.
        const settled = eventually("the connections are closed", () =>
          batches.every(({ server }) => server.open() === 0)
        )
        // What the engine compiles and caches comes with the first hundreds.
        yield* all(Math.ceil(share / 4))
        yield* settled
        const heap = yield* held
        const sleeping = timers()
        yield* all(share).pipe(Effect.supervised(supervisor))
        yield* settled
        yield* eventually("the timers are gone", () => timers() <= sleeping)
        assert.strictEqual(yield* inFlight, before)
        const alive = (yield* supervisor.value).filter((fiber) => fiber.unsafePoll() === null)
        assert.deepStrictEqual(
          alive.map((fiber) => fiber.id()),
          []
        )
        // What each left would add up. Transports let go of what they held in their own time.
        const limit = 500_000 + share * ways.length * 300
        let grown = Number.NaN
        yield* held.pipe(
          Effect.map((now) => {
            grown = now - heap
            return grown
          }),
          Effect.repeat({ until: (each) => each < limit, schedule: Schedule.spaced("100 millis"), times: 100 })
        )
        assert.isBelow(grown, limit)
        // All of it is still in use, so that nothing of it was collected before it was weighed.
        yield* Effect.forEach(batches, ({ once }) => once)
      }).pipe(Effect.provide(layer), Logger.withMinimumLogLevel(LogLevel.None)),
    400_000
  )
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
