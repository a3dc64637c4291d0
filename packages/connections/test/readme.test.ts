import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import { Effect } from "effect"

const text = Fs.readFileSync(Path.join(import.meta.dirname, "../README.md"), "utf8")
const blocks = [...text.matchAll(/^## (.*)\n[\s\S]*?```ts\n([\s\S]*?)```/gm)].map(([, title = "", code = ""]) => ({
  title,
  code
}))
const folder = Path.join(import.meta.dirname, "../build/readme")

/** Runs a block of the README against the sources, and waits for its program. */
const run = (index: number, code: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      Fs.mkdirSync(folder, { recursive: true })
      const file = Path.join(folder, `block${index}.ts`)
      const source = code
        .replace('"@underlay/connections"', '"../../src/index.ts"')
        .replace("Effect.runPromise(", "export default Effect.runPromise(")
      Fs.writeFileSync(file, source)
      return file
    }),
    (file) =>
      Effect.promise(async () => {
        const module: { readonly default: Promise<unknown> } = await import(pathToFileURL(file).href)
        return await module.default
      }),
    (file) => Effect.sync(() => Fs.rmSync(file, { force: true }))
  )

describe("README", () => {
  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title.split(":")[0]),
      ["PGlite", "Postgres", "PgVector", "The registry"]
    )
  })

  for (const [index, { code, title }] of blocks.entries()) {
    const needsServer = title.startsWith("Postgres")
    const name = needsServer ? Need.title(title, "postgres") : title
    it.runIf(!needsServer || !Need.missing("postgres"))(
      `runs: ${name}`,
      () =>
        Effect.runPromise(
          Effect.gen(function* () {
            if (needsServer) process.env["DATABASE_URL"] = (yield* PostgresServer.make()).url
            const result = yield* run(index, code)
            assert.isDefined(result)
          }).pipe(Effect.scoped)
        ),
      60_000
    )
  }
})
