import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { answered, json, serve, sse, streamed } from "./server.ts"

const root = Path.join(import.meta.dirname, "..")
const text = Fs.readFileSync(Path.join(root, "README.md"), "utf8")
const blocks = [...text.matchAll(/^## (.*)\n[\s\S]*?```ts\n([\s\S]*?)```/gm)].map(([, title = "", code = ""]) => ({
  title,
  code: code.replace("Effect.runPromise(", "export default Effect.runPromise(")
}))

/** Writes the blocks to files of their own, beside what the compiler wants to know of them. */
const written = Effect.acquireRelease(
  Effect.sync(() => {
    Fs.mkdirSync(Path.join(root, "build"), { recursive: true })
    const folder = Fs.mkdtempSync(Path.join(root, "build", "readme-"))
    const files = blocks.map(({ code }, index) => {
      const file = Path.join(folder, `block${index}.ts`)
      Fs.writeFileSync(file, code)
      return file
    })
    const config = {
      extends: "../../tsconfig.test.json",
      compilerOptions: { rootDir: "../../../..", composite: false, incremental: false, tsBuildInfoFile: null },
      include: ["*.ts"],
      references: []
    }
    Fs.writeFileSync(Path.join(folder, "tsconfig.json"), JSON.stringify(config))
    return { folder, files }
  }),
  ({ folder }) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
)

const compile = (folder: string) =>
  Effect.async<ReadonlyArray<string>>((resume) => {
    const tsc = Path.join(root, "../../node_modules/typescript/bin/tsc")
    execFile(process.execPath, [tsc, "--noEmit", "-p", folder], (error, stdout) =>
      // What is wrong elsewhere in the repository has gates of its own.
      resume(Effect.succeed(error === null ? [] : stdout.split("\n").filter((line) => line.includes("/readme-"))))
    )
  })

describe("README", () => {
  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title.split(/[:,]/)[0]),
      ["OpenAi", "Groq", "Ollama", "Any compatible server", "Tools"]
    )
  })

  it.scopedLive(
    "its examples are type-checked",
    () =>
      Effect.gen(function* () {
        const { folder } = yield* written
        assert.deepStrictEqual(yield* compile(folder), [])
      }),
    120_000
  )

  it.scopedLive(
    "its examples run",
    () =>
      Effect.gen(function* () {
        const { files } = yield* written
        const server = yield* serve(({ request, response }) => {
          if (request.path === "/api/tags") json(response, 200, { models: [{ name: "llama3.2:latest" }] })
          else if (request.body.includes('"stream":true')) sse(response, streamed("Rayleigh ", "scattering."))
          else if (request.body.includes("json_schema")) {
            json(response, 200, answered('{"title":"Production is down","urgency":"high"}'))
          } else json(response, 200, answered("Hello!"))
        })
        const environment = {
          OPENAI_API_KEY: "k",
          OPENAI_BASE_URL: `${server.url}/v1`,
          GROQ_API_KEY: "k",
          GROQ_BASE_URL: `${server.url}/v1`,
          OLLAMA_HOST: server.url,
          MODEL_SERVER_URL: `${server.url}/v1`
        }
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            const before = { ...process.env }
            Object.assign(process.env, environment)
            return before
          }),
          (before) =>
            Effect.sync(() => {
              for (const name of Object.keys(environment)) {
                if (before[name] === undefined) delete process.env[name]
                else process.env[name] = before[name]
              }
            })
        )
        const results: Array<unknown> = []
        for (const file of files) {
          const module: { readonly default: Promise<unknown> } = yield* Effect.promise(
            () => import(pathToFileURL(file).href)
          )
          results.push(yield* Effect.promise(() => module.default))
        }
        assert.strictEqual(results.length, blocks.length)
        assert.strictEqual(JSON.stringify(results[0]).includes("scattering."), true)
        assert.deepStrictEqual(results.slice(1, 4), ["Hello! (3 tokens)", "Hello!", "high: Production is down"])
        assert.include(String(results[4]), "21")
      }),
    60_000
  )
})
