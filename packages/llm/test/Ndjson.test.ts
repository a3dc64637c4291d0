import { assert, describe, it } from "@effect/vitest"
import { FastCheck } from "effect"
import * as Ndjson from "../src/internal/ndjson.ts"

type Seen = { readonly value: unknown } | "junk"

const read = (chunks: ReadonlyArray<Uint8Array>): ReadonlyArray<Seen> => {
  const seen: Array<Seen> = []
  const reader = Ndjson.make({ onValue: (value) => seen.push({ value }), onJunk: () => seen.push("junk") })
  for (const chunk of chunks) reader.push(chunk)
  reader.end()
  return seen
}

const utf8 = (text: string) => new TextEncoder().encode(text)
const readText = (text: string) => read([utf8(text)])
const values = (...all: ReadonlyArray<unknown>): ReadonlyArray<Seen> => all.map((value) => ({ value }))

const split = (bytes: Uint8Array, sizes: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  let from = 0
  for (const size of sizes) {
    chunks.push(bytes.slice(from, from + size))
    from += size
  }
  chunks.push(bytes.slice(from))
  return chunks
}

describe("lines of JSON", () => {
  it("are read one a line, blank lines and blanks around them ignored, the last one without a line end too", () => {
    assert.deepStrictEqual(readText('{"a":1}\n\n  {"a":2} \n \t\n{"a":3}'), values({ a: 1 }, { a: 2 }, { a: 3 }))
  })

  it("may end in CRLF or CR, also where the chunk ends between the two", () => {
    const expected = values({ a: 1 }, { a: 2 })
    assert.deepStrictEqual(readText('{"a":1}\r\n{"a":2}\r\n'), expected)
    assert.deepStrictEqual(readText('{"a":1}\r{"a":2}\r'), expected)
    assert.deepStrictEqual(read([utf8('{"a":1}\r'), utf8('\n{"a":2}'), utf8("\r\n")]), expected)
  })

  it("may begin with a byte order mark, and have characters split between chunks", () => {
    const bytes = utf8('\uFEFF{"a":"é😀"}\n')
    assert.deepStrictEqual(read([...bytes].map((byte) => Uint8Array.of(byte))), values({ a: "é😀" }))
  })

  it("have not begun where the body ends within its first character", () => {
    for (const length of [1, 2, 3]) assert.deepStrictEqual(read([utf8("\uFEFF{}").subarray(0, length)]), [])
  })

  it("are handed on as soon as their line has ended", () => {
    const seen: Array<unknown> = []
    const reader = Ndjson.make({ onValue: (value) => seen.push(value), onJunk: () => seen.push("junk") })
    reader.push(utf8('{"a":1}\n{"a"'))
    assert.deepStrictEqual(seen, [{ a: 1 }])
    reader.push(utf8(":2}"))
    assert.deepStrictEqual(seen, [{ a: 1 }])
    reader.push(utf8("\n"))
    assert.deepStrictEqual(seen, [{ a: 1 }, { a: 2 }])
  })

  it("may stand behind each other with no line end between them, whatever their texts hold", () => {
    const text = '{"a":"}{\\"}"}{"b":{"c":[{}]}} {"d":"\\\\"}'
    assert.deepStrictEqual(readText(`${text}\n`), values({ a: '}{"}' }, { b: { c: [{}] } }, { d: "\\" }))
    assert.deepStrictEqual(readText(text), values({ a: '}{"}' }, { b: { c: [{}] } }, { d: "\\" }))
  })

  it("may be one indented document, as gateways write their errors", () => {
    const document = { error: { message: "b", details: [{ a: 1 }] } }
    assert.deepStrictEqual(readText(JSON.stringify(document, null, 2)), values(document))
    assert.deepStrictEqual(readText(`${JSON.stringify([document], null, 2)}\n{"a":1}\n`), values([document], { a: 1 }))
  })

  it("that are something else are junk, and what follows is still read", () => {
    const around = [...values({ a: 1 }), "junk" as const, ...values({ a: 2 })]
    assert.deepStrictEqual(readText('{"a":1}\nupstream error\n{"a":2}\n'), around)
    assert.deepStrictEqual(readText("<html>\n</html>"), ["junk", "junk"])
    assert.deepStrictEqual(readText("Internal error"), ["junk"])
    assert.deepStrictEqual(readText('{"a":"x\n{"b":1}\n'), ["junk", ...values({ b: 1 })])
    assert.deepStrictEqual(readText('{"a":1}}\n'), ["junk"])
    assert.deepStrictEqual(readText('{"a":1} and more\n'), ["junk"])
  })

  it("that the end of the body cut short are dropped, not made up and not junk", () => {
    for (const cut of ['{"a":1}\n{"b', '{"a":1}\n{"b":{"c":[1,', '{"a":1}{"b":"x', '{"a":1}\n{\n  "b": 1']) {
      assert.deepStrictEqual(readText(cut), values({ a: 1 }))
    }
    assert.deepStrictEqual(readText('[{"a"'), [])
    assert.deepStrictEqual(readText(""), [])
  })

  const json = FastCheck.object({ withUnicodeString: true, maxDepth: 3 }).map((value): unknown =>
    JSON.parse(JSON.stringify(value))
  )

  it("are the same in any chunks, with any line ends (law)", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(json, { maxLength: 8 }),
        FastCheck.array(FastCheck.nat(9), { maxLength: 60 }),
        FastCheck.constantFrom("\n", "\r\n", "\r", "\n\n", ""),
        FastCheck.boolean(),
        (all, sizes, end, last) => {
          const text = all.map((value) => JSON.stringify(value)).join(end) + (last ? end : "")
          assert.deepStrictEqual(read(split(utf8(text), sizes)), values(...all))
        }
      )
    )
  })

  it("cut at any byte give a prefix of the values (law)", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.array(json, { minLength: 1, maxLength: 4 }), FastCheck.nat(), (all, at) => {
        const bytes = utf8(all.map((value) => `${JSON.stringify(value)}\n`).join(""))
        const seen = read([bytes.slice(0, at % bytes.length)])
        assert.deepStrictEqual(seen, values(...all.slice(0, seen.length)))
      })
    )
  })
})
