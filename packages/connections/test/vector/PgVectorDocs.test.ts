import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as PgVectorServer from "@underlay/servers/PgVectorServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const blocksOf = (page: string) => Readme.blocksOfGuide(Path.join(root, "../../docs/connections", page))
const vectorStores = blocksOf("vector-store.md")
const pgvector = blocksOf("pgvector.md")

describe("docs of vector stores and pgvector", () => {
  it("have a program each", () => {
    assert.deepStrictEqual([vectorStores.length, pgvector.length], [1, 1])
  })

  it.scopedLive(
    "the one of vector stores runs",
    () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, vectorStores)
        yield* Readme.run(files[0] ?? "")
      }),
    60_000
  )

  it.skipIf(Need.missing("pgvector"))(
    Need.title("the one of pgvector runs", "pgvector"),
    () =>
      Effect.runPromise(
        Effect.gen(function* () {
          yield* Readme.environment({ DATABASE_URL: (yield* PgVectorServer.make()).url })
          const { files } = yield* Readme.write(root, pgvector)
          yield* Readme.run(files[0] ?? "")
        }).pipe(Effect.scoped)
      ),
    60_000
  )
})
