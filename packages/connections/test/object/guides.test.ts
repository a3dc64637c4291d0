import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as RadosgwServer from "@underlay/servers/RadosgwServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const page = (name: string) => Readme.blocksOfGuide(Path.join(root, "../../docs/connections", `${name}.md`))

describe("the pages on object stores", () => {
  it("have three programs", () => {
    const blocks = ["object-store", "s3", "file-system"].flatMap(page)
    assert.strictEqual(blocks.length, 3)
  })

  for (const name of ["object-store", "file-system"]) {
    it.scopedLive(`runs: ${name}`, () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, page(name))
        yield* Readme.run(files[0] ?? "")
      })
    )
  }

  it.runIf(!Need.missing("radosgw"))(
    `runs: ${Need.title("s3", "radosgw")}`,
    () =>
      Effect.gen(function* () {
        const server = yield* RadosgwServer.make
        yield* Readme.environment({
          S3_ENDPOINT: server.endpoint,
          AWS_ACCESS_KEY_ID: server.accessKeyId,
          AWS_SECRET_ACCESS_KEY: server.secretAccessKey
        })
        const { files } = yield* Readme.write(root, page("s3"))
        yield* Readme.run(files[0] ?? "")
      }).pipe(Effect.scoped, Effect.runPromise),
    90_000
  )
})
