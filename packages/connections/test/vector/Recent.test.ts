import { assert, describe, it } from "@effect/vitest"
import type { VectorStore } from "@underlay/core"
import { Effect } from "effect"
import * as FastCheck from "effect/FastCheck"
import * as Recent from "../../src/internal/vector/recent.ts"
import * as Remote from "../../src/internal/vector/remoteStore.ts"

describe("what was used lately", () => {
  it("keeps the last ones that were set or asked for, as a list of them says", () => {
    const step = FastCheck.tuple(FastCheck.constantFrom("get", "set", "delete"), FastCheck.integer({ min: 0, max: 9 }))
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(step, { maxLength: 200 }),
        FastCheck.integer({ min: 1, max: 8 }),
        (steps, most) => {
          const recent = Recent.make<number>(most)
          let list: ReadonlyArray<readonly [string, number]> = []
          for (const [index, [what, number]] of steps.entries()) {
            const key = `k${number}`
            const found = list.find(([each]) => each === key)
            const others = list.filter(([each]) => each !== key)
            switch (what) {
              case "get":
                assert.strictEqual(recent.get(key), found?.[1])
                if (found !== undefined) list = [...others, found]
                break
              case "set":
                recent.set(key, index)
                list = [...others, [key, index] as const].slice(-most)
                break
              default:
                recent.delete(key)
                list = others
            }
          }
          for (const [key, value] of list) assert.strictEqual(recent.get(key), value)
        }
      )
    )
  })
})

describe("what is known of collections", () => {
  const make = Effect.sync(() => {
    const asked = new Map<string, number>()
    const { forget, withCollection } = Remote.knowledge<VectorStore.CollectionInfo>((_, name) =>
      Effect.sync(() => {
        asked.set(name, (asked.get(name) ?? 0) + 1)
        return { name, dimensions: 2, metric: "l2" }
      })
    )
    return { asked, forget, use: (name: string) => withCollection("count", name, ({ name }) => Effect.succeed(name)) }
  })

  it.effect("a thousand and one collections in turn are each asked for once", () =>
    Effect.gen(function* () {
      const { asked, use } = yield* make
      const names = Array.from({ length: 1_001 }, (_, n) => `name${n}`)
      for (let round = 0; round < 3; round++) {
        for (const name of names) assert.strictEqual(yield* use(name), name)
      }
      assert.deepStrictEqual(
        [...asked.values()],
        Array.from(names, () => 1)
      )
    })
  )

  it.effect("one in use stays known, however many others come and go; one that is forgotten does not", () =>
    Effect.gen(function* () {
      const { asked, forget, use } = yield* make
      for (let n = 0; n < 2 * Recent.mostCollections; n++) {
        yield* use("in-use")
        yield* use(`name${n}`)
      }
      assert.strictEqual(asked.get("in-use"), 1)
      // and what nobody asked for again has made room
      yield* use("name0")
      assert.strictEqual(asked.get("name0"), 2)
      forget("in-use")
      yield* use("in-use")
      assert.strictEqual(asked.get("in-use"), 2)
    })
  )
})
