import { describe, it } from "@effect/vitest"
import { OneTimeStore } from "@underlay/core"
import { OneTimeStoreSuite, Suite } from "@underlay/core/testing"
import { Effect, TestClock } from "effect"

describe("OneTimeStore in memory", () => {
  for (const one of Suite.applicable(OneTimeStoreSuite.make({ advance: TestClock.adjust }), [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(OneTimeStore.layerMemory())))
  }
})
