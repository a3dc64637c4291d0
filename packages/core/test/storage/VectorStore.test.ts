import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as VectorStore from "../../src/storage/VectorStore.ts"
import * as Suite from "../../src/testing/Suite.ts"
import * as VectorStoreSuite from "../../src/testing/VectorStoreSuite.ts"

describe("VectorStore.layerMemory", () => {
  for (const one of Suite.applicable(VectorStoreSuite.suite, ["exact", "atomicBatches"])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(VectorStore.layerMemory)))
  }
})
