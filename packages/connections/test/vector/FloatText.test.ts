import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import * as FloatText from "../../src/internal/vector/floatText.ts"

const read = (text: string): ReadonlyArray<number> => {
  const value: unknown = JSON.parse(text)
  return Array.isArray(value) ? value.map(Number) : []
}

/** The float with these bits. */
const floatOf = (bits: number): number => new Float32Array(Uint32Array.of(bits).buffer)[0] ?? 0

describe("32-bit floats in decimal", () => {
  it("every one comes back, whatever its size: all exponents, the ends of each, and what is between", () => {
    const edges: Array<number> = []
    for (let exponent = 0; exponent < 255; exponent++) {
      for (const mantissa of [0, 1, 2, 0x3fffff, 0x400000, 0x7ffffe, 0x7fffff]) {
        edges.push(floatOf((exponent << 23) | mantissa), -floatOf((exponent << 23) | mantissa))
      }
    }
    // where one more digit begins
    for (let power = -12; power <= 12; power++) {
      for (const part of [1, 9.9999995, 9.999999, 1.0000001, 5]) edges.push(Math.fround(part * 10 ** power))
    }
    assert.deepStrictEqual(
      read(FloatText.write(edges)).map(Math.fround),
      edges.map((value) => (value === 0 ? 0 : value))
    )
    FastCheck.assert(
      FastCheck.property(FastCheck.array(FastCheck.maxSafeNat().map((n) => floatOf(n % 2 ** 32))), (given) => {
        const floats = given.filter(Number.isFinite)
        assert.deepStrictEqual(
          read(FloatText.write(floats)).map(Math.fround),
          floats.map((value) => (value === 0 ? 0 : value))
        )
      }),
      { numRuns: 2_000, seed: 9 }
    )
  })

  it("a 64-bit number is the nearest 32-bit one, also in the very middle of two", () => {
    const middle = 1 + 2 ** -24
    const numbers = [0.1, 1 / 3, middle, middle + 2 ** -52, 0.3 * middle, 1e-46, -1e-46, 123456.789, 16777217]
    assert.deepStrictEqual(
      read(FloatText.write(numbers)).map(Math.fround),
      numbers.map((value) => Math.fround(value) + 0)
    )
  })

  it("it is JSON of nine digits at the most, without zeros that say nothing", () => {
    assert.strictEqual(
      FloatText.write([0, -0, 1, -1, 0.5, -0.25, 0.1, 2.5e-3, 123.456, 99999, 1e9, 1 / 3, 12345678.5]),
      "[0,0,1,-1,0.5,-0.25,0.100000001,0.00249999994,123.456001,99999,1000000000,0.333333343,12345678]"
    )
    assert.strictEqual(FloatText.write([]), "[]")
  })

  it("a vector of any length, after a shorter one and before", () => {
    for (const length of [1, 4_000, 3, 65_536, 2]) {
      const vector = Array.from({ length }, (_, n) => Math.fround(-1e30 * (n + 1)))
      assert.deepStrictEqual(read(FloatText.write(vector)).map(Math.fround), vector)
    }
  })
})
