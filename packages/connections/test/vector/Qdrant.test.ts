import * as Path from "node:path"
import { assert, describe, layer } from "@effect/vitest"
import { VectorStore } from "@underlay/core"
import { Suite, VectorStoreSuite } from "@underlay/core/testing"
import * as Need from "@underlay/servers/Need"
import { Context, Effect, Layer } from "effect"
import { Qdrant } from "../../src/index.ts"
import * as Double from "./QdrantDouble.ts"

const openapi = Path.join(Need.sharedData, "openapi", "qdrant.json")

class TheDouble extends Context.Tag("test/QdrantDouble")<TheDouble, Double.QdrantDouble>() {}

const double = (options: Partial<Double.Options> = {}) =>
  Effect.acquireRelease(
    Effect.promise(() => Double.make({ openapi, ...options })),
    (it) => Effect.promise(it.close)
  )

const store = (settings: Partial<Qdrant.QdrantSettings> = {}) =>
  Layer.unwrapScoped(
    Effect.map(double(), (it) =>
      Layer.mergeAll(
        Qdrant.layer({ url: it.url, plane: "internal", exact: true, ...settings }),
        Layer.succeed(TheDouble, it)
      )
    )
  )

const options = { timeout: "60 seconds", excludeTestServices: true } as const

describe.skipIf(Need.missing("openapi"))(Need.title("Qdrant, on the double", "openapi"), () => {
  layer(store(), options)("the suite of VectorStore", (it) => {
    for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact"])) {
      it.effect(one.name, () => one.run, 60_000)
    }

    it.effect("every request and every answer fitted Qdrant's description", () =>
      Effect.gen(function* () {
        const it = yield* TheDouble
        assert.deepStrictEqual(it.violations.slice(0, 5), [])
        assert.isAbove(it.seen.length, 1_000)
        yield* VectorStore.VectorStore
      })
    )
  })
})
