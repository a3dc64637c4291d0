import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const page = (name: string) => Readme.blocksOfGuide(Path.join(root, "../../docs/connections", `${name}.md`))

describe("the pages of PostgreSQL and PGlite", () => {
  it("have three programs", () => {
    const blocks = [...page("postgres"), ...page("pglite")]
    assert.strictEqual(blocks.length, 3)
  })

  it.scopedLive.skipIf(Need.missing("postgres"))(
    Need.title("PostgreSQL: run, and the migration is there", "postgres"),
    () =>
      Effect.gen(function* () {
        const server = yield* PostgresServer.make()
        yield* Readme.environment({ DATABASE_URL: server.url })
        const { files } = yield* Readme.write(root, page("postgres"))
        for (const file of files) yield* Readme.run(file)
        assert.strictEqual(yield* server.sql("select name from effect_sql_migrations"), "notes")
      }),
    120_000
  )

  it.scopedLive(
    "PGlite: runs",
    () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, page("pglite"))
        assert.deepStrictEqual(yield* Readme.run(files[0] ?? ""), [{ text: "first" }, { text: "second" }])
      }),
    120_000
  )
})
