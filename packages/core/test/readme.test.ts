import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Server from "./external/LoopbackServer.ts"

const root = Path.join(import.meta.dirname, "..")
const text = Fs.readFileSync(Path.join(root, "README.md"), "utf8")

/** Every block of TypeScript, under the heading that it stands below. */
const blocks = text
  .split(/^## /m)
  .slice(1)
  .flatMap((section) => {
    const title = section.slice(0, section.indexOf("\n"))
    return [...section.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = ""]) => ({ title, code }))
  })

/** Writes the blocks to files of their own, beside what the compiler wants to know of them. */
const written = Effect.acquireRelease(
  Effect.sync(() => {
    Fs.mkdirSync(Path.join(root, "build"), { recursive: true })
    const folder = Fs.mkdtempSync(Path.join(root, "build", "readme-"))
    const files = blocks.map(({ code }, index) => {
      const file = Path.join(folder, `block${index}.ts`)
      Fs.writeFileSync(file, code.replace("Effect.runPromise(", "export default Effect.runPromise("))
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

/** What the programs of some blocks give; of all others only that they succeed is tested. */
const results: Record<string, unknown> = {
  Policy: { found: 42, attempts: 3, spent: true },
  ExternalClient: 21,
  ExternalHttp: { degrees: 21 },
  Testing: ["weather.today"]
}

describe("README", () => {
  it("has an example for each layer of this part", () => {
    const titles = new Set(blocks.map(({ title }) => title.split(":")[0]))
    for (const title of Object.keys(results)) assert.isTrue(titles.has(title), title)
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
        const server = yield* Server.make([
          Server.status(200, { "content-type": "application/json" }, '{"degrees":21}')
        ])
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            process.env["WEATHER_URL"] = server.url
          }),
          () =>
            Effect.sync(() => {
              delete process.env["WEATHER_URL"]
            })
        )
        for (const [index, { code, title }] of blocks.entries()) {
          assert.include(code, "Effect.runPromise(", title)
          const module: { readonly default: Promise<unknown> } = yield* Effect.promise(
            () => import(pathToFileURL(files[index] ?? "").href)
          )
          const result = yield* Effect.promise(() => module.default)
          const expected = results[title.split(":")[0] ?? ""]
          if (expected !== undefined) assert.deepStrictEqual(result, expected, title)
        }
        assert.strictEqual(server.asked.length, 1)
      }),
    60_000
  )
})
