import { describe, layer } from "@effect/vitest"
import { Suite, VectorStoreSuite } from "@underlay/core/testing"
import * as ChromaServer from "@underlay/servers/ChromaServer"
import * as Need from "@underlay/servers/Need"
import { Context, Effect, Layer } from "effect"
import { Chroma } from "../../src/index.ts"

class TheServer extends Context.Tag("test/ChromaServer")<TheServer, ChromaServer.ChromaServer>() {}

const server = Layer.scoped(TheServer, ChromaServer.make)

const store = (settings: Partial<Chroma.ChromaSettings> = {}) =>
  Layer.unwrapEffect(Effect.map(TheServer, ({ url }) => Chroma.layer({ url, plane: "internal", ...settings })))

const options = { timeout: "60 seconds", excludeTestServices: true } as const

describe.skipIf(Need.missing("chroma"))(Need.title("Chroma", "chroma"), () => {
  layer(server, options)("on the real server", (it) => {
    it.layer(store(), { timeout: "60 seconds" })("the suite of VectorStore", (it) => {
      // a search by HNSW may miss some, and does not here: so few records are all seen
      for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact"])) {
        it.effect(one.name, () => one.run, 60_000)
      }
    })
  })
})
