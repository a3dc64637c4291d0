import * as Http from "node:http"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect } from "effect"
import * as Models from "../src/Models.ts"
import * as Support from "./support.ts"

/** An Ollama with these models, which lists them and nothing else. */
const ollama = (models: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.async<{ readonly server: Http.Server; readonly host: string }>((resume) => {
      const server = Http.createServer((_request, response) => {
        response
          .writeHead(200, { "content-type": "application/json" })
          .end(JSON.stringify({ models: models.map((name) => ({ name, size: 1 })) }))
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ server, host: `127.0.0.1:${port}` }))
      })
    }),
    ({ server }) =>
      Effect.async<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )

const chosen = (env: Readonly<Record<string, string>>) =>
  Effect.flatMap(Support.settings(env), Models.choose).pipe(
    Effect.map(({ part }) => `${part.mode}: ${part.what}`),
    Effect.provide(NodeHttpClient.layerUndici)
  )

/** Nobody listens there: port 9 of this machine. */
const nowhere = { OLLAMA_HOST: "127.0.0.1:9" }

describe("who answers", () => {
  it.live("with no key and no Ollama: the local answerer", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* chosen(nowhere), "embedded: local answerer, no language model")
    })
  )

  it.live("the first provider with a key, with the model of its settings; the named one wins", () =>
    Effect.gen(function* () {
      const keys = { OPENAI_API_KEY: "sk-1", GROQ_API_KEY: "gsk-1", ...nowhere }
      assert.strictEqual(yield* chosen(keys), "real: OpenAI, model gpt-4o-mini")
      assert.strictEqual(yield* chosen({ ...keys, OPENAI_MODEL: "gpt-5-mini" }), "real: OpenAI, model gpt-5-mini")
      assert.strictEqual(yield* chosen({ ...keys, OPENAI_API_KEY: "" }), "real: Groq, model llama-3.3-70b-versatile")
      assert.strictEqual(yield* chosen({ ...keys, LLM_PROVIDER: "groq" }), "real: Groq, model llama-3.3-70b-versatile")
      assert.strictEqual(
        yield* chosen({ ...keys, LLM_PROVIDER: "local" }),
        "embedded: local answerer, no language model"
      )
    })
  )

  it.scopedLive("an Ollama that answers on its port, with its first model or the one that is named", () =>
    Effect.gen(function* () {
      const { host } = yield* ollama(["qwen3:4b", "llama3.2:latest"])
      assert.strictEqual(yield* chosen({ OLLAMA_HOST: host }), "real: Ollama, model qwen3:4b")
      assert.strictEqual(
        yield* chosen({ OLLAMA_HOST: host, OLLAMA_MODEL: "llama3.2" }),
        "real: Ollama, model llama3.2:latest"
      )
      assert.strictEqual(
        yield* chosen({ OLLAMA_HOST: host, OLLAMA_MODEL: "absent" }),
        "embedded: local answerer, no language model"
      )
      assert.strictEqual(
        yield* chosen({ OLLAMA_HOST: host, OPENAI_API_KEY: "sk-1" }),
        "real: OpenAI, model gpt-4o-mini"
      )
    })
  )

  it.scopedLive("an Ollama that accepts and never answers does not hold up the start", () =>
    Effect.gen(function* () {
      const server = yield* Effect.acquireRelease(
        Effect.async<Http.Server>((resume) => {
          const silent = Http.createServer(() => {})
          silent.listen(0, "127.0.0.1", () => resume(Effect.succeed(silent)))
        }),
        (silent) =>
          Effect.async<void>((resume) => {
            silent.close(() => resume(Effect.void))
            silent.closeAllConnections()
          })
      )
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const found = yield* chosen({ OLLAMA_HOST: `127.0.0.1:${port}` }).pipe(Effect.timeout("3 seconds"))
      assert.strictEqual(found, "embedded: local answerer, no language model")
    })
  )

  it.scopedLive("an Ollama that is named must be there, with a model: otherwise the message says what to do", () =>
    Effect.gen(function* () {
      const absent = yield* Effect.flip(chosen({ ...nowhere, LLM_PROVIDER: "ollama" }))
      assert.match(absent.message, /no Ollama answers at http:\/\/127\.0\.0\.1:9\. Start it/)
      const { host } = yield* ollama([])
      const empty = yield* Effect.flip(chosen({ OLLAMA_HOST: host, LLM_PROVIDER: "ollama" }))
      assert.match(empty.message, /has no model\. Get one \(ollama pull/)
    })
  )
})

describe.skipIf(Need.missing("postgres"))(Need.title("the index in PostgreSQL", "postgres"), () => {
  it.scopedLive(
    "the index is on that server, or the start stops with what to install there",
    () =>
      Effect.gen(function* () {
        const postgres = yield* PostgresServer.make()
        const available = yield* postgres.sql("select count(*) from pg_available_extensions where name = 'vector'")
        const running = yield* Support.program(["--ask", "no space left on device"], {
          ...Support.bare,
          DATABASE_URL: postgres.url
        })
        const { code, err, out } = yield* running.exited
        if (/\b1\b/.test(available)) {
          assert.strictEqual(code, 0, err)
          assert.include(out, "Disk full")
        } else {
          assert.strictEqual(code, 1)
          assert.match(err, /PostgreSQL at 127\.0\.0\.1:\d+.* \(DATABASE_URL\) cannot hold the index/)
          assert.match(err, /no pgvector: install it/)
          assert.match(err, /Unset DATABASE_URL to use the embedded database/)
        }
        assert.notInclude(err + out, postgres.password)
      }),
    90_000
  )

  it.scopedLive(
    "a server that is named and not there stops the start with a message that says what to do",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--ask", "x"], {
          ...Support.bare,
          DATABASE_URL: "postgres://someone:hidden-password@127.0.0.1:9/db"
        })
        const { code, err, out } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.match(err, /DATABASE_URL asks for the PostgreSQL at 127\.0\.0\.1:9\/db, which cannot be used\. Start it/)
        assert.notInclude(err + out, "hidden-password")
      }),
    90_000
  )
})
