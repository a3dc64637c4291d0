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

describe("a failure is told, in part where what hangs on it is large:", () => {
  // each level refers eight times to the one below it: written out these are two million values
  let shared: unknown = "leaf"
  for (let level = 0; level < 7; level++) shared = Object.fromEntries([..."abcdefgh"].map((key) => [key, shared]))
  class Endless {
    get next() {
      return new Endless()
    }
  }

  // they fail as they are to, in a second and not after minutes
  it.fails("values that are shared", () => assert.strictEqual<unknown>(shared, { a: "small" }))
  it.fails("numbers", () => assert.strictEqual<unknown>(new Float64Array(100_000), [1]))
  it.fails("a text", () => assert.strictEqual("x\n".repeat(1_000_000), "small"))
  it.fails("what an error holds", () => {
    throw Object.assign(new Error("it holds much"), { shared, endless: new Endless() })
  })
  it.fails("the cause of an error", () => {
    throw new Error("it has a cause", { cause: Object.assign(new Error("it holds much"), { shared }) })
  })
})
