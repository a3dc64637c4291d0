import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "..")
const blocks = Readme.blocks(root)

describe("README", () => {
  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title),
      ["PGlite", "Postgres", "PgVector", "The registry"]
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

  for (const block of blocks) {
    const needsServer = block.title === "Postgres"
    it.runIf(!needsServer || !Need.missing("postgres"))(
      `runs: ${needsServer ? Need.title(block.title, "postgres") : block.title}`,
      () =>
        Effect.runPromise(
          Effect.gen(function* () {
            if (needsServer) yield* Readme.environment({ DATABASE_URL: (yield* PostgresServer.make()).url })
            const { files } = yield* Readme.write(root, [block])
            assert.isDefined(yield* Readme.run(files[0] ?? ""))
          }).pipe(Effect.scoped)
        ),
      60_000
    )
  }
})
