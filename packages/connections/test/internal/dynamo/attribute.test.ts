import { assert, describe, it } from "@effect/vitest"
import { Either } from "effect"
import * as FastCheck from "effect/FastCheck"
import {
  type AttributeMap,
  Exact,
  marshal,
  marshalMap,
  unmarshal,
  unmarshalMap,
  wholeOf
} from "../../../src/internal/dynamo/attribute.ts"

const through = (value: unknown): unknown => Either.getOrThrow(unmarshal(Either.getOrThrow(marshal(value))))

const number = (text: string): unknown => Either.getOrThrow(unmarshal({ N: text }))

describe("values as DynamoDB keeps them", () => {
  it("any value is given back as it was", () => {
    const { tie } = FastCheck.letrec((tie) => ({
      tie: FastCheck.oneof(
        { maxDepth: 4 },
        FastCheck.string({ unit: "binary" }),
        FastCheck.boolean(),
        FastCheck.constant(null),
        FastCheck.double({ noNaN: true, min: -1e125, max: 1e125 }).map((one) => (Math.abs(one) < 1e-130 ? 0 : one)),
        FastCheck.integer(),
        // those that a number is, too, are read as that
        FastCheck.bigInt({ min: 2n ** 53n, max: 10n ** 37n }).filter((one) => wholeOf(Number(one)) !== one),
        FastCheck.uint8Array().map((bytes) => Buffer.from(bytes)),
        FastCheck.array(FastCheck.string(), { minLength: 1 }).map((all) => new Set(all)),
        FastCheck.array(tie("tie")),
        FastCheck.dictionary(FastCheck.string(), tie("tie"), { noNullPrototype: true })
      )
    }))
    FastCheck.assert(
      FastCheck.property(tie, (value) => {
        assert.deepStrictEqual(through(value), value)
      }),
      { numRuns: 150 }
    )
  })

  it("no digit of a number is lost: what a number would change is a bigint or exact", () => {
    assert.strictEqual(number("9007199254740991"), 9007199254740991)
    assert.strictEqual(number("9007199254740992"), 9007199254740992)
    assert.strictEqual(number("1000000000000000000000"), 1e21)
    assert.strictEqual(number("9007199254740993"), 9007199254740993n)
    assert.strictEqual(number("-12345678901234567890123456789012345678"), -12345678901234567890123456789012345678n)
    assert.deepStrictEqual(number("0.1234567890123456789"), new Exact("0.1234567890123456789"))
    assert.strictEqual(number("0.1"), 0.1)
    assert.strictEqual(number("1.50"), 1.5)
    assert.strictEqual(number("1E+5"), 100_000)
    assert.strictEqual(number("1e-7"), 1e-7)
    assert.isTrue(Object.is(through(-0), 0))
    assert.deepStrictEqual(through(new Exact("19.90")), 19.9)
    FastCheck.assert(
      FastCheck.property(FastCheck.stringMatching(/^-?[1-9]\d{0,20}(\.\d{0,16}[1-9])?$/), (text) => {
        const read = number(text)
        const written = read instanceof Exact ? read.text : String(read)
        // no exponents in the texts, so the same digits are the same number
        if (!/e/.test(written)) assert.strictEqual(written, text)
        else assert.strictEqual(Number(written), Number(text))
      }),
      { numRuns: 1_000 }
    )
    for (const text of ["", "x", "0x10", "NaN", "Infinity", " 1", "1_000"]) {
      assert.isTrue(Either.isLeft(unmarshal({ N: text })), text)
    }
  })

  it("what cannot be kept or read is refused with its place", () => {
    const place = (value: object) => Either.getOrThrow(Either.flip(marshalMap(value))).path
    assert.strictEqual(place({ a: { b: [1, { c: Number.NaN }] } }), "a.b[1].c")
    assert.strictEqual(place({ a: new Set() }), "a")
    const readPlace = (value: AttributeMap) => Either.getOrThrow(Either.flip(unmarshalMap(value))).path
    assert.strictEqual(readPlace({ a: { M: { b: { L: [{ S: "x" }, { N: "no" }] } } } }), "a.b[1]")
    assert.strictEqual(readPlace({ a: { X: 1 } }), "a")
    // and the next one that is wrong has its own
    assert.strictEqual(readPlace({ z: { S: 1 } }), "z")
  })

  it("undefined is left out of objects only; a name like __proto__ is a name", () => {
    assert.deepStrictEqual(Either.getOrThrow(marshalMap({ a: undefined, b: null })), { b: { NULL: true } })
    assert.isTrue(Either.isLeft(marshal([undefined])))
    const odd: object = JSON.parse('{"__proto__":{"admin":true},"constructor":1}')
    const back = Either.getOrThrow(unmarshalMap(Either.getOrThrow(marshalMap(odd))))
    assert.deepStrictEqual(Object.keys(back), ["__proto__", "constructor"])
    assert.isUndefined(Reflect.get(Object.getPrototypeOf(back), "admin"))
  })
})
