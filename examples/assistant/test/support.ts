/**
 * What the assistant's tests share: the assistant as the settings make it, without a server around it.
 */
import * as ChildProcess from "node:child_process"
import * as Http from "node:http"
import { createRequire } from "node:module"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { HttpClient, HttpClientRequest, HttpClientResponse, HttpServer } from "@effect/platform"
import { NodeContext, NodeHttpClient } from "@effect/platform-node"
import { VectorStore } from "@underlay/core"
import { Chunk, Effect, Layer, Option, Schema, type Scope, Stream } from "effect"
import * as Application from "../src/Application.ts"
import * as AppSettings from "../src/AppSettings.ts"
import { Assistant } from "../src/Assistant.ts"
import { AskEvent, type CitedSource } from "../src/Conversation.ts"
import * as Parts from "../src/Parts.ts"
import * as Service from "../src/Service.ts"

/** The folder of the assistant. */
export const folder = Path.resolve(import.meta.dirname, "..")

/** An environment in which nothing real is found: no key, and no Ollama at its address. */
export const bare: Readonly<Record<string, string>> = { LLM_PROVIDER: "local" }

/** The settings files under an environment of the test's own. */
export const settings = (env: Readonly<Record<string, string | undefined>>) =>
  AppSettings.load.pipe(
    Effect.provide(
      AppSettings.layer({ directory: Path.join(folder, "resources"), env }).pipe(Layer.provide(NodeContext.layer))
    )
  )

/** The assistant as it runs with these variables. */
export const assistant = (env: Readonly<Record<string, string | undefined>> = bare) =>
  Layer.unwrapEffect(
    Effect.map(settings(env), (loaded) => Application.layer(loaded, { runbooks: Path.join(folder, "runbooks") }))
  ).pipe(Layer.provide([NodeContext.layer, NodeHttpClient.layerUndici]))

/** One answer, gathered. */
export interface Answer {
  readonly events: ReadonlyArray<AskEvent>
  readonly text: string
  readonly sources: ReadonlyArray<CitedSource>
  readonly last: AskEvent | undefined
  /** The runbooks of the sources, each once, in order. */
  readonly runbooks: ReadonlyArray<string>
}

/** Gathers the events of an answer. */
export const gather = (events: ReadonlyArray<AskEvent>): Answer => {
  const sources = events.flatMap((event) => (event._tag === "sources" ? event.sources : []))
  return {
    events,
    text: events.map((event) => (event._tag === "delta" ? event.text : "")).join(""),
    sources,
    last: events.at(-1),
    runbooks: Array.from(new Set(sources.map((source) => source.runbook)))
  }
}

/** Asks in a session and waits for the end of the answer. */
export const ask = (session: string, question: string) =>
  Effect.gen(function* () {
    const { ask } = yield* Assistant
    const events = yield* ask(session, question)
    return gather(Chunk.toReadonlyArray(yield* Stream.runCollect(events)))
  }).pipe(Effect.scoped)

/** Opens a session. */
export const newSession = Effect.flatMap(Assistant, (service) => service.createSession)

/** The assistant on a free port, as it runs with these variables. */
export const service = (
  env: Readonly<Record<string, string | undefined>> = bare,
  search?: Parts.Chosen<VectorStore.VectorStore>
) =>
  Layer.unwrapEffect(
    Effect.map(settings(env), (loaded) =>
      Service.layer({ host: "127.0.0.1", port: 0, page: Path.join(folder, "src", "page") }).pipe(
        Layer.provide(Application.layer(loaded, { runbooks: Path.join(folder, "runbooks"), search }))
      )
    )
  ).pipe(Layer.provideMerge(NodeHttpClient.layerUndici), Layer.provide(NodeContext.layer))

/** One embedded database with pgvector, for a file of tests that start the service more than once. */
export const sharedIndex: Layer.Layer<VectorStore.VectorStore, unknown> = Layer.unwrapEffect(
  Effect.map(settings(bare), (loaded) => Parts.search(loaded).layer)
)

/** The assistant on a free port, over the index of the environment. */
export const serviceOver = (env: Readonly<Record<string, string | undefined>>) =>
  Layer.unwrapEffect(
    Effect.map(VectorStore.VectorStore, (store) =>
      service(env, {
        part: { name: "search", mode: "embedded", what: "the index that these tests share" },
        layer: Layer.succeed(VectorStore.VectorStore, store)
      })
    )
  )

/** Where the service of the environment listens. */
export const origin = Effect.map(HttpServer.HttpServer, ({ address }) =>
  address._tag === "TcpAddress" ? `http://127.0.0.1:${address.port}` : address.path
)

/** A response with its body as JSON. */
export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: unknown
}

/** Calls the service over HTTP. A body that is no text is sent as JSON. */
export const call = (base: string, method: "GET" | "POST", path: string, body?: unknown) =>
  Effect.gen(function* () {
    const client = yield* HttpClient.HttpClient
    const request = HttpClientRequest.make(method)(`${base}${path}`).pipe(
      body === undefined
        ? (same) => same
        : HttpClientRequest.bodyText(typeof body === "string" ? body : JSON.stringify(body), "application/json")
    )
    const response = yield* client.execute(request)
    const text = yield* response.text
    const reply: Reply = {
      status: response.status,
      headers: response.headers,
      body: Option.getOrElse(Schema.decodeOption(Schema.parseJson())(text), () => text)
    }
    return reply
  }).pipe(Effect.scoped)

/** Opens a session over HTTP. */
export const openSession = (base: string) =>
  Effect.flatMap(call(base, "POST", "/api/sessions"), ({ body }) =>
    Effect.map(Schema.decodeUnknown(Schema.Struct({ id: Schema.String }))(body), ({ id }) => id)
  )

/** The events of an answer over HTTP, as they arrive. Comments are left out. */
export const stream = (base: string, session: string, question: string) =>
  Effect.flatMap(HttpClient.HttpClient, (client) =>
    client.execute(
      HttpClientRequest.post(`${base}/api/sessions/${session}/ask`).pipe(
        HttpClientRequest.bodyText(JSON.stringify({ question }), "application/json")
      )
    )
  ).pipe(
    Effect.flatMap(HttpClientResponse.filterStatusOk),
    HttpClientResponse.stream,
    Stream.decodeText(),
    Stream.splitLines,
    Stream.filterMap((line) => (line.startsWith("data: ") ? Option.some(line.slice(6)) : Option.none())),
    Stream.mapEffect(Schema.decode(Schema.parseJson(AskEvent)))
  )

/** An answer over HTTP, gathered. */
export const askHttp = (base: string, session: string, question: string) =>
  Effect.map(Stream.runCollect(stream(base, session, question)), (events) => gather(Chunk.toReadonlyArray(events)))

/** What a program printed and how it ended. */
export interface Finished {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** A running main program. */
export interface Program {
  readonly exited: Effect.Effect<Finished>
  /** Waits until the output holds a text, and gives the output. */
  readonly until: (text: string) => Effect.Effect<string>
  readonly signal: (name: NodeJS.Signals) => Effect.Effect<void>
  /** Reads no more of its output. */
  readonly closeOutput: Effect.Effect<void>
}

/** The assistant as a program of its own, with nothing of this process's settings. Killed when the scope closes. */
export const program = (
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = bare
): Effect.Effect<Program, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = ChildProcess.spawn(
        process.execPath,
        [
          "--import",
          pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href,
          Path.join(folder, "src", "main.ts"),
          ...args
        ],
        { cwd: folder, env: { PATH: process.env["PATH"] ?? "", ...env }, stdio: ["ignore", "pipe", "pipe"] }
      )
      let out = ""
      let err = ""
      const watchers = new Set<() => void>()
      const changed = () => {
        for (const watcher of watchers) watcher()
      }
      child.stdout.on("data", (chunk: Buffer) => {
        out += chunk.toString("utf8")
        changed()
      })
      child.stderr.on("data", (chunk: Buffer) => {
        err += chunk.toString("utf8")
      })
      let finished: Finished | undefined
      child.on("close", (code) => {
        finished = { code, out, err }
        changed()
      })
      const when = <A>(look: () => A | undefined): Effect.Effect<A> =>
        Effect.async<A>((resume) => {
          const watcher = () => {
            const found = look()
            if (found === undefined) return
            watchers.delete(watcher)
            resume(Effect.succeed(found))
          }
          watchers.add(watcher)
          watcher()
          return Effect.sync(() => watchers.delete(watcher))
        })
      const running: Program & { readonly kill: () => void } = {
        exited: when(() => finished),
        until: (text) =>
          when(() => (out.includes(text) ? out : finished === undefined ? undefined : `${out}\n(ended)\n${err}`)),
        signal: (name) => Effect.sync(() => void child.kill(name)),
        closeOutput: Effect.sync(() => void child.stdout.destroy()),
        kill: () => void child.kill("SIGKILL")
      }
      return running
    }),
    (running) => Effect.andThen(Effect.sync(running.kill), running.exited)
  )

/** One request that the model server got. */
export interface ModelRequest {
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
  readonly at: number
}

/** Answers one request to the model server. */
export type Respond = (request: ModelRequest, response: Http.ServerResponse) => void

/** A loopback server that speaks OpenAI's wire format: each request is answered by the next of `answers`. */
export interface ModelServer {
  readonly url: string
  readonly requests: Array<ModelRequest>
  readonly answers: Array<Respond>
}

/** The model server, for the life of the scope. */
export const modelServer: Effect.Effect<ModelServer, never, Scope.Scope> = Effect.acquireRelease(
  Effect.async<ModelServer & { readonly server: Http.Server }>((resume) => {
    const requests: Array<ModelRequest> = []
    const answers: Array<Respond> = []
    const server = Http.createServer((request, response) => {
      let body = ""
      request.on("data", (chunk: Buffer) => {
        body += chunk.toString("utf8")
      })
      request.on("end", () => {
        if (request.method !== "POST") {
          response.writeHead(200, { "content-type": "application/json" }).end('{"object":"list","data":[]}')
          return
        }
        const got: ModelRequest = { headers: request.headers, body, at: performance.now() }
        requests.push(got)
        const answer = answers.shift()
        if (answer === undefined) response.writeHead(500).end("no answer is left")
        else answer(got, response)
      })
    })
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      resume(Effect.succeed({ url: `http://127.0.0.1:${port}/v1`, requests, answers, server }))
    })
  }),
  ({ server }) =>
    Effect.async<void>((resume) => {
      server.close(() => resume(Effect.void))
      server.closeAllConnections()
    })
)

/** A chunk of a streamed answer, as OpenAI writes it. */
export const chunk = (delta: object, finish: string | null = null): string =>
  `data: ${JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion.chunk",
    created: 1_700_000_000,
    model: "test-model-2026",
    choices: [{ index: 0, delta, finish_reason: finish }]
  })}\n\n`

/** The end of a streamed answer. */
export const end = `${chunk({}, "stop")}data: ${JSON.stringify({
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  created: 1_700_000_000,
  model: "test-model-2026",
  choices: [],
  usage: { prompt_tokens: 900, completion_tokens: 12, total_tokens: 912 }
})}\n\ndata: [DONE]\n\n`

/** A whole streamed answer. */
export const says =
  (...pieces: ReadonlyArray<string>): Respond =>
  (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(chunk({ role: "assistant", content: "" }))
    for (const piece of pieces) response.write(chunk({ content: piece }))
    response.end(end)
  }

/** A refusal. */
export const fails =
  (status: number, headers: Readonly<Record<string, string>> = {}): Respond =>
  (_request, response) => {
    response
      .writeHead(status, { "content-type": "application/json", ...headers })
      .end(JSON.stringify({ error: { message: "refused by the test", type: "test", code: null } }))
  }

/** The variables that make the model server the one that answers. */
export const withModel = (server: ModelServer): Readonly<Record<string, string>> => ({
  LLM_PROVIDER: "openai",
  OPENAI_API_KEY: "sk-test-0000",
  OPENAI_BASE_URL: server.url,
  OPENAI_MODEL: "test-model"
})
