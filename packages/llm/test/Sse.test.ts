import { assert, describe, it } from "@effect/vitest"
import { FastCheck } from "effect"
import * as Sse from "../src/internal/sse.ts"

interface Seen {
  readonly event: string
  readonly data: string
}

const read = (chunks: ReadonlyArray<Uint8Array>): ReadonlyArray<Seen> => {
  const seen: Array<Seen> = []
  const reader = Sse.make({ onEvent: (event, data) => seen.push({ event, data }) })
  for (const chunk of chunks) reader.push(chunk)
  reader.end()
  return seen
}

const utf8 = (text: string) => new TextEncoder().encode(text)

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

describe("server-sent events", () => {
  it("reads events with names, with data over several lines, and without a blank after the colon", () => {
    assert.deepStrictEqual(read([utf8("event: error\ndata: a\ndata: b\n\ndata:c\n\ndata\ndata\n\n")]), [
      { event: "error", data: "a\nb" },
      { event: "", data: "c" },
      { event: "", data: "\n" }
    ])
  })

  it("ignores comments, ids, retry times, unknown fields and a byte order mark", () => {
    assert.deepStrictEqual(read([utf8("\uFEFF: hello\nid: 1\nretry: 5\nwhat: ever\n\n:\n\ndata: x\n\n")]), [
      { event: "", data: "x" }
    ])
  })

  it("hands on what the end of the body cut short of its blank line", () => {
    assert.deepStrictEqual(read([utf8("data: x")]), [{ event: "", data: "x" }])
    assert.deepStrictEqual(read([utf8("data: x\n")]), [{ event: "", data: "x" }])
  })

  it("hands on JSON that stands in the body without data before it, on one line or over several", () => {
    assert.deepStrictEqual(read([utf8('data: a\n\n{"error":"b"}\n')]), [
      { event: "", data: "a" },
      { event: "", data: '{"error":"b"}' }
    ])
    assert.deepStrictEqual(read([utf8('{\n  "error": {\n    "message": "b"\n  }\n}')]), [
      { event: "", data: '{\n  "error": {\n    "message": "b"\n  }\n}' }
    ])
  })

  it("takes a body that ends within its first character for one that has not begun", () => {
    for (const length of [1, 2, 3]) {
      const reader = Sse.make({ onEvent: () => assert.fail("an event") })
      reader.push(utf8("\uFEFFdata: x").subarray(0, length))
      reader.end()
      assert.isFalse(reader.hasJunk(), String(length))
    }
  })

  it("knows a body that is no stream of events", () => {
    const reader = Sse.make({ onEvent: () => {} })
    reader.push(utf8("<html>\n<body>Bad gateway</body>\n</html>"))
    reader.end()
    assert.isTrue(reader.hasJunk())
  })

  it("is the same for any chunking and any line ends, with characters split anywhere", () => {
    const text = FastCheck.stringMatching(/^[ -~äß€😀]{0,12}$/u)
    const event = FastCheck.record({
      event: FastCheck.constantFrom("", "error", "message"),
      data: FastCheck.array(text, { minLength: 1, maxLength: 3 }).map((lines) => lines.join("\n"))
    })
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(event, { maxLength: 6 }),
        FastCheck.constantFrom("\n", "\r\n", "\r"),
        FastCheck.array(FastCheck.integer({ min: 0, max: 9 }), { maxLength: 60 }),
        (events, end, sizes) => {
          const body = events
            .map(({ data, event }) => {
              const lines = data.split("\n").map((line) => `data: ${line}${end}`)
              return `${event === "" ? "" : `event: ${event}${end}`}${lines.join("")}${end}`
            })
            .join(`: ping${end}${end}`)
          assert.deepStrictEqual(read(split(utf8(body), sizes)), events)
        }
      ),
      { numRuns: 500 }
    )
  })

  it("takes JSON in a field `error` for an event of that name, and nothing else in it", () => {
    const body = 'data: a\n\nerror: {"code":500}\n\nerror: soon\nerror:\ndata: b\n\n'
    const events = [
      { event: "", data: "a" },
      { event: "error", data: '{"code":500}' },
      { event: "", data: "b" }
    ]
    assert.deepStrictEqual(read([utf8(body)]), events)
    assert.deepStrictEqual(read([...utf8(body)].map((byte) => Uint8Array.of(byte))), events)
    assert.deepStrictEqual(read([utf8('error:{"code":500}')]), [{ event: "error", data: '{"code":500}' }])
  })

  it("reads one long line in small chunks in linear time", () => {
    const size = 4_000_000
    const chunk = utf8("x".repeat(100))
    const chunks = [utf8("data: "), ...Array.from({ length: size / 100 }, () => chunk), utf8("\n\n")]
    const before = process.cpuUsage()
    const [event] = read(chunks)
    assert.strictEqual(event?.data.length, size)
    // Quadratic work would take minutes.
    assert.isBelow(process.cpuUsage(before).user / 1_000, 5000)
  })
})
