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
})
