import { describe, it } from "@effect/vitest"
import { Lock } from "@underlay/core"
import { LockSuite, Suite } from "@underlay/core/testing"
import { type Duration, Effect, TestClock } from "effect"

/** In small steps, as time passes: what is woken early in it has its turn. */
const advance = (duration: Duration.Duration) => TestClock.adjust(duration)

describe("Lock.layerMemory", () => {
  for (const one of Suite.applicable(LockSuite.make({ advance }), [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(Lock.layerMemory())))
  }
})
