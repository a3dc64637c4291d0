import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"
import { answered, json, serve, sse, streamed } from "./server.ts"

const root = Path.join(import.meta.dirname, "..")
const blocks = Readme.blocks(root)

describe("README", () => {
  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title),
      ["OpenAi", "Groq", "Ollama", "Any compatible server", "Tools"]
    )
  })

  it.scopedLive(
    "its examples are type-checked",
    () =>
      Effect.gen(function* () {
        const { folder } = yield* Readme.write(root, blocks)
        assert.deepStrictEqual(yield* Readme.compile(root, folder), [])
      }),
    120_000
  )

  it.scopedLive(
    "its examples run",
    () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, blocks)
        const server = yield* serve(({ request, response }) => {
          if (request.path === "/api/tags") json(response, 200, { models: [{ name: "llama3.2:latest" }] })
          else if (request.path === "/api/chat") {
            json(response, 200, { message: { role: "assistant", content: "Hello!" }, done: true, done_reason: "stop" })
          } else if (request.body.includes('"stream":true')) sse(response, streamed("Rayleigh ", "scattering."))
          else if (request.body.includes("json_schema")) {
            json(response, 200, answered('{"title":"Production is down","urgency":"high"}'))
          } else json(response, 200, answered("Hello!"))
        })
        yield* Readme.environment({
          OPENAI_API_KEY: "k",
          OPENAI_BASE_URL: `${server.url}/v1`,
          GROQ_API_KEY: "k",
          GROQ_BASE_URL: `${server.url}/v1`,
          OLLAMA_HOST: server.url,
          MODEL_SERVER_URL: `${server.url}/v1`
        })
        const results: Array<unknown> = []
        for (const file of files) {
          results.push(yield* Readme.run(file))
        }
        assert.strictEqual(results.length, blocks.length)
        assert.strictEqual(JSON.stringify(results[0]).includes("scattering."), true)
        assert.deepStrictEqual(results.slice(1, 4), ["Hello! (3 tokens)", "Hello!", "high: Production is down"])
        assert.include(String(results[4]), "21")
      }),
    60_000
  )
})
