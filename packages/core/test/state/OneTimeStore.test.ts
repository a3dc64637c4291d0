import { assert, describe, it } from "@effect/vitest"
import { OneTimeStore } from "@underlay/core"
import { OneTimeStoreSuite, Suite } from "@underlay/core/testing"
import { Effect, TestClock } from "effect"

describe("OneTimeStore in memory", () => {
  for (const one of Suite.applicable(OneTimeStoreSuite.make({ advance: TestClock.adjust }), [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(OneTimeStore.layerMemory())))
  }
})

describe("OneTimeStoreSuite", () => {
  const failedOn = (breaks: (store: OneTimeStore.Service) => Partial<OneTimeStore.Service>) =>
    Effect.gen(function* () {
      const store = OneTimeStore.makeMemory()
      const results = yield* Suite.run(OneTimeStoreSuite.make({ advance: TestClock.adjust }), []).pipe(
        Effect.provideService(OneTimeStore.OneTimeStore, { ...store, ...breaks(store) })
      )
      return results.filter((result) => result.outcome === "failed").map((result) => result.name)
    })

  const broken: Record<string, (store: OneTimeStore.Service) => Partial<OneTimeStore.Service>> = {
    "tries that are not counted": ({ put }) => ({ put: ({ tries: _, ...entry }) => put(entry) }),
    "an entry that is taken twice": ({ put, take }) => {
      const kept = new Map<string, OneTimeStore.Entry>()
      return {
        put: (entry) => Effect.tap(put(entry), () => Effect.sync(() => kept.set(entry.key, entry))),
        // looks, and takes a moment later
        take: (key, token) => {
          const entry = kept.get(key)
          return Effect.flatMap(take(key, token), (taken) =>
            taken._tag === "Absent" && entry?.token === token
              ? Effect.succeed({ _tag: "Taken", text: entry.text })
              : Effect.succeed(taken)
          )
        }
      }
    },
    "a first that gives way": ({ put }) => ({ put: (entry) => put({ ...entry, present: "replace" }) }),
    "no pause": ({ put }) => ({ put: (entry) => put({ ...entry, pause: 0 }) }),
    "no quota": ({ put }) => ({ put: ({ quota: _, ...entry }) => put(entry) }),
    "no end": ({ put }) => ({ put: (entry) => put({ ...entry, ttl: entry.ttl * 1_000 }) }),
    "a look that is a try": ({ drop, peek }) => ({
      peek: (key, token) => Effect.tap(peek(key, token), () => drop(key, token))
    }),
    "a drop by any token": ({ drop }) => ({ drop: (key) => drop(key, undefined) }),
    "any token": ({ put, take }) => ({
      put: (entry) => put({ ...entry, token: "" }),
      take: (key) => take(key, "")
    })
  }

  for (const [name, breaks] of Object.entries(broken)) {
    it.effect(`a store with ${name} does not pass`, () =>
      Effect.map(failedOn(breaks), (failed) => assert.isNotEmpty(failed))
    )
  }

  it.effect("one that is whole does", () =>
    Effect.map(
      failedOn(() => ({})),
      (failed) => assert.deepStrictEqual(failed, [])
    )
  )
})
