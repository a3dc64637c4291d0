import { assert, describe, it } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import { encode } from "../../../src/internal/postgres/messages.ts"

/** What a server reads: https://www.postgresql.org/docs/current/protocol-message-formats.html */
const read = (bytes: Buffer): ReadonlyArray<object> => {
  const messages: Array<object> = []
  let at = 0
  const past = (count: number) => {
    at += count
    return at - count
  }
  const int16 = () => bytes.readUInt16BE(past(2))
  const int32 = () => bytes.readInt32BE(past(4))
  const take = (count: number) => {
    const from = past(count)
    return bytes.subarray(from, from + count)
  }
  const text = () => {
    const value = take(bytes.indexOf(0, at) - at).toString("utf8")
    at++
    return value
  }
  const many = <A>(count: number, one: () => A) => Array.from({ length: count }, one)
  const body: Readonly<Record<string, () => object>> = {
    P: () => ({ parse: text(), text: text(), types: many(int16(), int32) }),
    B: () => ({
      portal: text(),
      bind: text(),
      formats: many(int16(), int16),
      values: many(int16(), () => {
        const length = int32()
        return length === -1 ? null : take(length).toString("utf8")
      }),
      results: many(int16(), int16)
    }),
    C: () => ({ close: take(1).toString(), name: text() }),
    D: () => ({ describe: take(1).toString(), name: text() }),
    E: () => ({ execute: text(), limit: int32() }),
    S: () => ({ sync: true })
  }
  while (at < bytes.length) {
    const type = take(1).toString()
    const end = at + int32()
    const message = body[type]?.()
    assert.isDefined(message, `no message has the type ${type}`)
    messages.push(message as object)
    assert.strictEqual(at, end, `the length of ${type}`)
  }
  return messages
}

const bind = (name: string, values: ReadonlyArray<string | null>) => ({
  portal: "",
  bind: name,
  formats: [],
  values: [...values],
  results: []
})

// A text ends at its first NUL: the server refuses what is behind it.
const text = fc.string({ unit: "grapheme", maxLength: 40 }).map((value) => value.replaceAll("\0", ""))

describe("messages to PostgreSQL", () => {
  it("are read as what was asked, whatever is in them and whichever there are", () => {
    fc.assert(
      fc.property(
        fc.record({
          begin: fc.option(text, { nil: undefined }),
          close: fc.option(text, { nil: undefined }),
          name: text,
          text: fc.option(text, { nil: undefined }),
          values: fc.array(fc.option(fc.string({ unit: "grapheme" }))),
          describe: fc.boolean()
        }),
        (ask) => {
          assert.deepStrictEqual(read(encode(ask)), [
            ...(ask.begin === undefined
              ? []
              : [{ parse: "", text: ask.begin, types: [] }, bind("", []), { execute: "", limit: 0 }]),
            ...(ask.close === undefined ? [] : [{ close: "S", name: ask.close }]),
            ...(ask.text === undefined ? [] : [{ parse: ask.name, text: ask.text, types: [] }]),
            bind(ask.name, ask.values),
            ...(ask.describe ? [{ describe: "P", name: "" }] : []),
            { execute: "", limit: 0 },
            { sync: true }
          ])
        }
      ),
      { numRuns: 500 }
    )
  })

  it("carry as many values as there can be, and long ones", () => {
    const values = Array.from({ length: 65_535 }, (_, index) => (index % 3 === 0 ? null : String(index)))
    const long = "ü".repeat(1_000_000)
    const ask = { begin: undefined, close: undefined, name: "", text: long, describe: true }
    assert.deepStrictEqual(read(encode({ ...ask, values })).slice(0, 2), [
      { parse: "", text: long, types: [] },
      bind("", values)
    ])
    assert.deepStrictEqual(read(encode({ ...ask, values: [long, "", long] }))[1], bind("", [long, "", long]))
  })

  it("halves of characters are written as what replaces them, with the right length", () => {
    const ask = { begin: undefined, close: undefined, name: "n", text: undefined, describe: false }
    assert.deepStrictEqual(read(encode({ ...ask, values: ["a\ud800b"] }))[0], bind("n", ["a\ufffdb"]))
  })
})
