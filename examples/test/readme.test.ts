import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"

const root = Path.resolve(import.meta.dirname, "../..")
const read = (file: string) => Fs.readFileSync(Path.join(root, file), "utf8")

describe("the README", () => {
  it("its program is the one that the tests run", () => {
    const [, program] = /```ts\n([\s\S]*?)\n```/.exec(read("README.md")) ?? []
    assert.strictEqual(program, read("examples/src/readme.ts").trimEnd())
  })

  it("its links and those of the guides lead to files", () => {
    const guides = Fs.readdirSync(Path.join(root, "docs"), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".md"))
      .map((name) => `docs/${name}`)
    for (const file of ["README.md", ...guides]) {
      for (const [, target] of read(file).matchAll(/\]\((?!https?:)([^)#]+)/g)) {
        const path = Path.join(root, Path.dirname(file), target ?? "")
        assert.isTrue(Fs.existsSync(path), `${file} links to ${target}, which is not there`)
      }
    }
  })

  it("every example program is tested", () => {
    const tested = read("examples/test/programs.test.ts")
    for (const name of Fs.readdirSync(Path.join(root, "examples/src"))) assert.include(tested, `"${name}"`)
  })
})
