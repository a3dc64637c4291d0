import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as Site from "../../../src/internal/atlassian/site.ts"

type Item = { readonly id: string }

/** What a stream of these pages gave, how many were asked for, and what it failed with. */
const follow = (page: (turn: number) => Site.Page<Item>) =>
  Effect.gen(function* () {
    const found: Array<string> = []
    let asked = 0
    const pages = Site.pages(
      { kind: "jira", name: "jira" },
      "Jira.search",
      ({ id }: Item) => id,
      () => Effect.sync(() => page(asked++))
    )
    const failed = yield* Stream.runForEach(pages, ({ id }) => Effect.sync(() => found.push(id))).pipe(
      Effect.as(undefined),
      Effect.merge
    )
    return { found, asked, failed: failed === undefined ? undefined : `${failed.reason}: ${failed.description}` }
  })

const one = (turn: number): ReadonlyArray<Item> => [{ id: String(turn) }]

describe("pages of Atlassian", () => {
  it.effect("9,999 empty ones in a row, each with another token, are passed over, and any number altogether", () =>
    Effect.gen(function* () {
      const { asked, failed, found } = yield* follow((turn) => ({
        items: turn % 10_000 === 9_999 ? one(turn) : [],
        next: turn === 29_999 ? undefined : String(turn)
      }))
      assert.deepStrictEqual([failed, asked, found], [undefined, 30_000, ["9999", "19999", "29999"]])
    })
  )

  it.effect("10,000 empty ones in a row with more to come are an error that says how many", () =>
    Effect.gen(function* () {
      const { asked, failed } = yield* follow((turn) => ({ items: [], next: String(turn) }))
      assert.strictEqual(asked, 10_000)
      assert.match(failed ?? "", /^Unknown: .*10,000 pages/)
    })
  )

  it.effect("10,000 empty ones in a row, of which the last has no token, are an empty answer", () =>
    Effect.gen(function* () {
      const { asked, failed } = yield* follow((turn) => ({
        items: [],
        next: turn === 9_999 ? undefined : String(turn)
      }))
      assert.deepStrictEqual([failed, asked], [undefined, 10_000])
    })
  )

  for (const [what, items] of [
    ["empty", () => []],
    ["full", one]
  ] as const) {
    it.effect(`a token that was there before is an error at once: ${what} pages`, () =>
      Effect.gen(function* () {
        const same = yield* follow((turn) => ({ items: items(turn), next: "a" }))
        assert.strictEqual(same.asked, 2)
        assert.match(same.failed ?? "", /token of a page twice/)
        const circle = yield* follow((turn) => ({ items: items(turn), next: String(turn % 7) }))
        assert.strictEqual(circle.asked, 8)
        assert.match(circle.failed ?? "", /token of a page twice/)
      })
    )
  }
})
