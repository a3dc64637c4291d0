import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const examples = Readme.blocksOfGuide(Path.join(root, "../../docs/connections/mongodb.md"))

describe("docs of MongoDB", () => {
  it("have one program", () => {
    assert.strictEqual(examples.length, 1)
  })

  it.scopedLive(
    "the program runs, with transactions and without",
    () =>
      Effect.forEach(["replicaSet", "standalone"] as const, (topology) =>
        Effect.scoped(
          Effect.gen(function* () {
            const server = yield* MongoWireServer.make({ topology })
            yield* Readme.environment({ MONGODB_URL: server.url })
            const { files } = yield* Readme.write(root, examples)
            yield* Readme.run(files[0] ?? "")
            const { commands } = yield* server.counts
            assert.strictEqual(commands["insert"], 1)
            assert.strictEqual(commands["commitTransaction"], topology === "replicaSet" ? 1 : undefined)
          })
        )
      ),
    60_000
  )
})
