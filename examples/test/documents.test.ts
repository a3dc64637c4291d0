import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.resolve(import.meta.dirname, "../..")
const below = (folder: string) =>
  Fs.readdirSync(Path.join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => `${folder}/${name.replaceAll("\\", "/")}`)

const packages = Fs.readdirSync(Path.join(root, "packages"))
const documents = ["README.md", ...below("docs"), ...packages.map((name) => `packages/${name}/README.md`)].map(
  (file) => ({
    file,
    blocks: [...Fs.readFileSync(Path.join(root, file), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(
      ([, code = ""]) => ({ title: file, code })
    )
  })
)

/** The package whose dependencies the programs of a guide have. */
const packageOfGuide: Readonly<Record<string, string>> = {
  "docs/cache-guide.md": "redis",
  "docs/llm-guide.md": "llm",
  "docs/migration.md": "redis",
  "docs/redis-guide.md": "redis",
  "docs/connections/your-own.md": "core"
}
const packageOf = (file: string): string | undefined =>
  packageOfGuide[file] ?? /^packages\/(\w+)\//.exec(file)?.[1] ?? /^docs\/(connections)\//.exec(file)?.[1]

/** How many blocks are no program of their own: parts of one, and what stands in a file of the examples. */
const parts: Readonly<Record<string, number>> = { "README.md": 1, "docs/planes.md": 1, "docs/testing.md": 3 }

/** What must be found, each as the only fault of a program. */
const faults: Readonly<Record<string, string>> = {
  TS2345: 'import { Effect } from "effect"\n\nexport default Effect.runPromise("no effect")\n',
  TS2307: 'import { Lock } from "@underlay/cores"\n\nexport default Lock\n',
  TS2339: 'import { Lock } from "@underlay/core"\n\nexport default Lock.layerNowhere\n',
  TS6133: "const unused = 1\n\nexport default 2\n",
  TS1109: "export default 1 +\n"
}

describe("the documents", () => {
  it("every block of TypeScript is a program of a package, or is said to be a part of one", () => {
    const others = documents.filter(({ blocks, file }) => blocks.length > 0 && packageOf(file) === undefined)
    assert.deepStrictEqual(Object.fromEntries(others.map(({ blocks, file }) => [file, blocks.length])), parts)
  })

  it.scopedLive(
    "their programs are type-checked, with the settings of the tests of their package",
    () =>
      Effect.gen(function* () {
        const folders: Array<string> = []
        const documentOf = new Map<string, string>()
        for (const name of packages) {
          const blocks = documents.filter(({ file }) => packageOf(file) === name).flatMap((document) => document.blocks)
          assert.isAbove(blocks.length, 0, name)
          const written = yield* Readme.write(Path.join(root, "packages", name), blocks)
          folders.push(written.folder)
          for (const [index, file] of written.files.entries()) documentOf.set(file, blocks[index]?.title ?? "")
        }
        const planted = yield* Readme.write(
          Path.join(root, "packages/core"),
          Object.entries(faults).map(([title, code]) => ({ title, code }))
        )
        for (const [index, file] of planted.files.entries()) documentOf.set(file, Object.keys(faults)[index] ?? "")

        const found = (yield* Readme.check([...folders, planted.folder])).map((line) => {
          const [, file = "", place = "", said = ""] = /^(.*?)\(([\d,]+)\): error (.*)$/s.exec(line) ?? [
            "",
            "",
            "",
            line
          ]
          return { document: documentOf.get(Path.resolve(file)), place, said }
        })
        const seen = found.filter(({ document = "" }) => document in faults)
        assert.deepStrictEqual(
          found.filter((one) => !seen.includes(one)),
          []
        )
        assert.deepStrictEqual(
          seen.map(({ document, said }) => [document, said.split(":", 1)[0]]),
          Object.keys(faults).map((code) => [code, code])
        )
      }),
    300_000
  )
})
