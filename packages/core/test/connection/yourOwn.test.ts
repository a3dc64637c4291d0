import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const blocks = Readme.blocksOfGuide(Path.join(root, "../../docs/connections/your-own.md"))

describe("docs/connections/your-own.md", () => {
  it.scopedLive("its program runs, and passes the suite of connections", () =>
    Effect.gen(function* () {
      assert.strictEqual(blocks.length, 1)
      const { files } = yield* Readme.write(root, blocks)
      assert.deepStrictEqual(yield* Readme.run(files[0] ?? ""), [])
    })
  )
})
