import { assert, describe, it } from "@effect/vitest"
import { Cache, ConversationMemory, SessionStore } from "@underlay/core"
import { CacheSuite, ConversationMemorySuite, SessionStoreSuite, Suite } from "@underlay/core/testing"
import { Context, Effect, Layer, TestClock } from "effect"

const advance = TestClock.adjust

describe("SessionStore in memory", () => {
  const suite = SessionStoreSuite.make({
    advance,
    store: (options) =>
      Effect.map(Layer.build(SessionStore.layerMemory(options)), Context.get(SessionStore.SessionStore))
  })
  for (const one of Suite.applicable(suite, ["options"])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(SessionStore.layerMemory())))
  }
})

describe("Cache in memory", () => {
  for (const one of Suite.applicable(CacheSuite.make({ advance }), ["leases", "stamps", "invalidations", "counts"])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(Cache.layerMemory())))
  }
})

describe("ConversationMemory in memory", () => {
  for (const one of Suite.applicable(ConversationMemorySuite.make({ advance }), [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(ConversationMemory.layerMemory())))
  }
})

describe("Suite", () => {
  it.effect("a suite fails on a store that breaks its rules, and says which", () =>
    Effect.gen(function* () {
      const forgetful = Effect.map(SessionStore.SessionStore, (store) => ({
        ...store,
        // a store without tombstones and with lost updates
        delete: (id: string) => Effect.map(store.exists(id), (there) => there),
        extendTtl: () => Effect.succeed(true)
      }))
      const results = yield* Suite.run(SessionStoreSuite.make({ advance }), []).pipe(
        Effect.provideServiceEffect(SessionStore.SessionStore, forgetful),
        Effect.provide(SessionStore.layerMemory())
      )
      const failed = results.filter((result) => result.outcome === "failed").map((result) => result.name)
      assert.include(failed, "delete says whether there was a session")
      assert.include(failed, "a logged-out session does not come back by a slow set or update")
      assert.include(failed, "extendTtl prolongs and says whether there is a session")
      assert.notInclude(failed, "gives back what was written, JSON of every kind")
      assert.isTrue(results.some((result) => result.outcome === "not-applicable"))
      assert.match(results.find((result) => result.outcome === "failed")?.problem ?? "", /expected .*, got /)
    })
  )
})
