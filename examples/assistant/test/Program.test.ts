import * as Http from "node:http"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import * as Support from "./support.ts"

/** A port that somebody listens on. */
const takenPort = Effect.acquireRelease(
  Effect.async<{ readonly server: Http.Server; readonly port: number }>((resume) => {
    const server = Http.createServer()
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      resume(Effect.succeed({ server, port: typeof address === "object" && address !== null ? address.port : 0 }))
    })
  }),
  ({ server }) => Effect.async<void>((resume) => void server.close(() => resume(Effect.void)))
)

describe("the program", () => {
  it.scopedLive(
    "--ask prints one streamed answer with its sources and exits",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--ask", "redis refuses connections"])
        const { code, err, out } = yield* running.exited
        assert.strictEqual(code, 0, err)
        assert.include(out, "Redis connection refused")
        assert.include(out, "local answerer")
        assert.match(out, /Sources:\n {2}\[1\] Redis connection refused: .* \(runbooks\/redis-connection-refused\.md\)/)
        assert.strictEqual(err, "")
      }),
    60_000
  )

  it.scopedLive(
    "it serves, says which parts are embedded and how to switch them, and stops on SIGTERM with code 0",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--port", "0"])
        const out = yield* running.until("Ctrl-C")
        const base = /Underlay assistant: (http:\/\/127\.0\.0\.1:\d+)/.exec(out)?.[1] ?? ""
        assert.match(out, /sessions +embedded +memory of this process +\(real one: REDIS_URL=/)
        assert.match(out, /search +embedded +PGlite.*\(real one: DATABASE_URL=/)
        assert.match(out, /answers +embedded +local answerer/)
        const ready = yield* Effect.promise(() => fetch(`${base}/health/ready`).then((response) => response.status))
        assert.strictEqual(ready, 200)
        yield* running.signal("SIGTERM")
        const [took, { code }] = yield* Effect.timed(running.exited)
        assert.strictEqual(code, 0)
        assert.isBelow(Duration.toMillis(took), 5_000)
      }),
    60_000
  )

  it.scopedLive(
    "everything that is wrong in the settings is said in one message, with its place, before anything starts",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program([], {
          PORT: "eighty",
          LLM_PROVIDER: "groq",
          GROQ_BASE_URL: "not a url",
          REDIS_URL: "http://:hidden-password@example.com",
          DATABASE_URL: "mysql://user:hidden-password@example.com/db",
          SESSION_TTL: "soon"
        })
        const { code, err, out } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.strictEqual(out, "")
        assert.match(err, /6 problems in the settings/)
        assert.match(err, /application-external\.yaml:\d+:\d+: server\.port: expected/)
        assert.match(err, /application-cache\.yaml:\d+:\d+: sessions\.ttl/)
        assert.match(err, /variable REDIS_URL: redis\.url: expected redis:\/\//)
        assert.match(err, /variable DATABASE_URL: database\.url: expected a PostgreSQL URL with a host/)
        assert.match(err, /variable GROQ_BASE_URL: groq\.baseUrl: expected a URL/)
        assert.match(err, /variable LLM_PROVIDER: groq\.apiKey: missing; .* set GROQ_API_KEY/)
        assert.notInclude(err, "hidden-password")
        assert.notMatch(err, /\n\s+at /)
      }),
    60_000
  )

  it.scopedLive(
    "an unknown provider is one problem that lists the known ones",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--ask", "x"], { LLM_PROVIDER: "clippy" })
        const { code, err } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.match(err, /variable LLM_PROVIDER: llm\.provider: expected one of openai, groq, ollama, local/)
      }),
    60_000
  )

  it.scopedLive(
    "a time of nothing, a database without a host and a provider in capitals without its key are problems of the settings",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program([], {
          LLM_PROVIDER: "OpenAI",
          DATABASE_URL: "postgres://",
          SESSION_TTL: "0 seconds"
        })
        const { code, err } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.match(err, /3 problems in the settings/)
        assert.match(err, /sessions\.ttl: expected a time longer than zero/)
        assert.match(err, /variable DATABASE_URL: database\.url: expected a PostgreSQL URL with a host/)
        assert.match(err, /variable LLM_PROVIDER: openai\.apiKey: missing; .* set OPENAI_API_KEY/)
      }),
    60_000
  )

  it.scopedLive(
    "every part that is named and not there is said at once, with what to do about each",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program([], {
          LLM_PROVIDER: "ollama",
          OLLAMA_HOST: "127.0.0.1:9",
          REDIS_URL: "redis://:hidden-password@127.0.0.1:9",
          DATABASE_URL: "postgresql://user:hidden-password@127.0.0.1:9/db"
        })
        const { code, err, out } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.match(
          err,
          /^3 parts cannot be used:\n {2}- REDIS_URL .*\n {2}- DATABASE_URL .*\n {2}- LLM_PROVIDER=ollama/
        )
        assert.notInclude(err + out, "hidden-password")
        assert.notMatch(err, /\n\s+at /)
      }),
    60_000
  )

  it.scopedLive(
    "--ask is held to the limits of the API",
    () =>
      Effect.gen(function* () {
        for (const [question, problem] of [
          ["  ", "The question must not be empty."],
          ["x".repeat(4_001), "The question must not be longer than 4000 characters."]
        ] as const) {
          const { code, err } = yield* (yield* Support.program(["--ask", question])).exited
          assert.strictEqual(code, 2)
          assert.strictEqual(err.trim(), problem)
        }
      }),
    60_000
  )

  it.scopedLive(
    "each log line is printed once, beside the answer, never in it",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--ask", "no space left on device"], {
          LLM_PROVIDER: "openai",
          OPENAI_API_KEY: "sk-hidden",
          OPENAI_BASE_URL: "http://127.0.0.1:9/v1"
        })
        const { code, err, out } = yield* running.exited
        assert.strictEqual(code, 0)
        assert.match(out, /failed: Network\. The local answerer takes over\./)
        assert.strictEqual(err.split("the local answerer takes over").length, 2)
        assert.strictEqual(err.trim().split("\n").length, 2)
        assert.notMatch(out, /WARN|ERROR/)
        assert.notInclude(err + out, "sk-hidden")
      }),
    60_000
  )

  it.scopedLive(
    "a reader who has read enough ends it without a stack",
    () =>
      Effect.gen(function* () {
        const running = yield* Support.program(["--ask", "no space left on device"])
        yield* running.until("runbook")
        yield* running.closeOutput
        const { code, err } = yield* running.exited
        assert.strictEqual(code, 0)
        assert.strictEqual(err, "")
      }),
    60_000
  )

  it.scopedLive(
    "a port that is taken is said clearly",
    () =>
      Effect.gen(function* () {
        const { port } = yield* takenPort
        const running = yield* Support.program(["--port", String(port)])
        const { code, err } = yield* running.exited
        assert.strictEqual(code, 1)
        assert.include(err, `Port ${port} on 127.0.0.1 is taken by another program`)
        assert.notMatch(err, /\n\s+at /)
      }),
    60_000
  )

  it.scopedLive("an unknown option is answered with the usage", () =>
    Effect.gen(function* () {
      const running = yield* Support.program(["--aks", "x"])
      const { code, err } = yield* running.exited
      assert.strictEqual(code, 2)
      assert.include(err, "npm start -- --ask")
    })
  )
})
