import { describe, it } from "@effect/vitest"
import { Counters } from "@underlay/core"
import { CountersSuite, Suite } from "@underlay/core/testing"
import { Clock, Effect, TestClock } from "effect"

const suite = CountersSuite.make({ advance: TestClock.adjust, now: Clock.currentTimeMillis })

describe("Counters in memory", () => {
  for (const one of Suite.applicable(suite, [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(Counters.layerMemory())))
  }
})
