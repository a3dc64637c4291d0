import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as DynamoDbLocalServer from "@underlay/servers/DynamoDbLocalServer"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as Need from "@underlay/servers/Need"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"

const root = Path.join(import.meta.dirname, "../..")
const page = (name: string) => Readme.blocksOfGuide(Path.join(root, "../../docs/connections", `${name}.md`))

describe("the pages of Memcached and DynamoDB", () => {
  it("have three programs", () => {
    const blocks = [...page("memcached"), ...page("dynamodb")]
    assert.strictEqual(blocks.length, 3)
  })

  const runs = (name: string) =>
    Effect.gen(function* () {
      const { files } = yield* Readme.write(root, page(name))
      for (const file of files) yield* Readme.run(file)
    })

  it.scopedLive.skipIf(Need.missing("memcached"))(Need.title("Memcached: runs", "memcached"), () =>
    Effect.gen(function* () {
      const server = yield* MemcachedServer.make()
      yield* Readme.environment({ MEMCACHED_SERVERS: server.address })
      yield* runs("memcached")
      assert.include(yield* server.command("mg visits:ada v\r\nmn\r\n", "MN"), "VA 1\r\n1\r\n")
    })
  )

  it.scopedLive.skipIf(Need.missing("dynamodb-local"))(Need.title("DynamoDB: runs", "dynamodb-local"), () =>
    Effect.gen(function* () {
      const server = yield* DynamoDbLocalServer.make()
      yield* Readme.environment({ DYNAMODB_ENDPOINT: server.endpoint })
      yield* runs("dynamodb")
    })
  )
})
