import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"

describe("the assertions of the tests", () => {
  it("tell options apart, also within other values", () => {
    for (const [actual, expected] of [
      [Option.none(), Option.some(1)],
      [Option.some(1), Option.none()],
      [[Option.none()], [Option.some(1)]],
      [{ a: Option.some({ b: Option.none() }) }, { a: Option.some({ b: Option.some(1) }) }]
    ]) {
      assert.throws(() => assert.deepStrictEqual(actual, expected))
      assert.throws(() => assert.deepEqual(actual, expected))
      assert.notDeepEqual(actual, expected)
    }
    assert.deepStrictEqual({ a: [Option.some(1)] }, { a: [Option.some(1)] })
  })

  it("tell in part what a value is that is too large to be written out", () => {
    // each level refers eight times to the one below it: written out these are two million values
    let shared: unknown = "leaf"
    for (let level = 0; level < 7; level++) shared = Object.fromEntries([..."abcdefgh"].map((key) => [key, shared]))
    for (const [large, small] of [
      [shared, { a: "small" }],
      [new Float64Array(1_000_000), [1]],
      ["x".repeat(10_000_000), "small"]
    ] as const) {
      try {
        assert.deepStrictEqual<unknown>(large, small)
      } catch (error) {
        assert.instanceOf(error, Error)
        const { actual, expected } = error as Error & { readonly actual: unknown; readonly expected: unknown }
        assert.isBelow(String(actual).length, 30_000)
        assert.isTrue(typeof actual === "string")
        assert.strictEqual(JSON.stringify(expected), JSON.stringify(small))
        continue
      }
      assert.fail("they are not equal")
    }
  })
})
