import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { VectorStore } from "../../src/index.ts"
import { Suite, VectorStoreSuite } from "../../src/testing/index.ts"

describe("VectorStore.layerMemory", () => {
  for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(VectorStore.layerMemory)))
  }
})
