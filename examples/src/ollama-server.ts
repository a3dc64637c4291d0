/**
 * An Ollama server itself: which models it has, getting one while it says how far it is, and what that one can do.
 * `OLLAMA_HOST` is a real one, which then gets `OLLAMA_MODEL`; without it a small server on loopback plays it.
 */
import { createServer } from "node:http"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { HttpTransport } from "@underlay/core"
import { OllamaServer } from "@underlay/llm"
import { Config, Console, Effect, Layer, Option, Stream } from "effect"

const program = Effect.gen(function* () {
  const server = yield* OllamaServer.OllamaServer
  const wanted = yield* Config.withDefault(Config.string("OLLAMA_MODEL"), "qwen3:0.6b")
  const names = (yield* server.list).map(({ name }) => name)
  yield* Console.log(`it has ${names.join(", ") || "no models"}`)

  yield* server.pull(wanted).pipe(
    Stream.map(({ overall, status }) =>
      overall.total === 0 ? status : `${status}: ${Math.floor((100 * overall.completed) / overall.total)} %`
    ),
    Stream.changes,
    Stream.runForEach((line) => Console.log(line))
  )

  const { capabilities, contextLength, details } = yield* server.show(wanted)
  yield* Console.log(`${details.family} with ${contextLength} tokens can: ${capabilities?.join(", ")}`)
  const missing = yield* Effect.flip(server.show("no-such-model"))
  yield* Console.log(`what is not there is ${missing.reason}`)
})

const line = (value: unknown) => `${JSON.stringify(value)}\n`

/** What Ollama answers, for one model. */
const Played = HttpRouter.empty.pipe(
  HttpRouter.get("/api/tags", HttpServerResponse.json({ models: [{ name: "llama3.2:latest" }] })),
  HttpRouter.post(
    "/api/pull",
    HttpServerResponse.text(
      [
        { status: "pulling manifest" },
        { status: "pulling 7f4030143c1c", digest: "sha256:7f4030143c1c", total: 522_640_096, completed: 130_660_024 },
        { status: "pulling 7f4030143c1c", digest: "sha256:7f4030143c1c", total: 522_640_096, completed: 522_640_096 },
        { status: "verifying sha256 digest" },
        { status: "success" }
      ]
        .map(line)
        .join(""),
      { contentType: "application/x-ndjson" }
    )
  ),
  HttpRouter.post(
    "/api/show",
    Effect.gen(function* () {
      const body = yield* Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => request.text)
      return body.includes("no-such-model")
        ? yield* HttpServerResponse.json({ error: "model 'no-such-model' not found" }, { status: 404 })
        : yield* HttpServerResponse.json({
            capabilities: ["completion", "tools", "thinking"],
            details: { family: "qwen3" },
            model_info: { "general.architecture": "qwen3", "qwen3.context_length": 40_960 }
          })
    })
  ),
  HttpServer.serve()
)

const Loopback = Layer.unwrapScoped(
  HttpServer.addressWith((at) =>
    Effect.succeed(OllamaServer.layer({ host: at._tag === "TcpAddress" ? `http://127.0.0.1:${at.port}` : "" }))
  )
).pipe(Layer.provide(Played), Layer.provide(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })))

const Server = Layer.unwrapEffect(
  Effect.map(Config.option(Config.nonEmptyString("OLLAMA_HOST")), (host) =>
    Option.isSome(host) ? OllamaServer.layer({ host: host.value }) : Loopback
  )
).pipe(Layer.provide(HttpTransport.layerUndici()))

program.pipe(Effect.provide(Server), NodeRuntime.runMain)
