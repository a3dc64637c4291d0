/** Replies of both protocols are read wherever the pieces end. */
import { assert, it } from "@effect/vitest"
import * as Resp from "@underlay/servers/internal/resp"
import { FastCheck } from "effect"

const samples: ReadonlyArray<readonly [raw: string, value: Resp.Reply]> = [
  ["+OK\r\n", "OK"],
  ["-ERR no\r\n", new Resp.ReplyError("ERR no")],
  [":-12\r\n", -12],
  ["$-1\r\n", null],
  ["$0\r\n\r\n", ""],
  ["$6\r\na\r\nb€\r\n".replace("$6", "$7"), "a\r\nb€"],
  ["*-1\r\n", null],
  ["*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", [1, ["x"]]],
  ["_\r\n", null],
  ["#t\r\n", true],
  [",1.5\r\n", 1.5],
  [",-inf\r\n", Number.NEGATIVE_INFINITY],
  ["(123456789012345678901234567890\r\n", "123456789012345678901234567890"],
  ["!5\r\nERR x\r\n", new Resp.ReplyError("ERR x")],
  ["=6\r\ntxt:hi\r\n", "hi"],
  ["%1\r\n+a\r\n:1\r\n", new Map([["a", 1]])],
  ["~2\r\n:1\r\n:2\r\n", [1, 2]],
  [">2\r\n+message\r\n+x\r\n", new Resp.Push(["message", "x"])],
  ["|1\r\n+ttl\r\n:5\r\n+value\r\n", "value"]
]

it("every kind of reply", () => {
  for (const [raw, value] of samples) {
    const bytes = Buffer.from(raw)
    assert.deepStrictEqual(Resp.readReply(bytes, 0), { value, next: bytes.length }, raw)
    for (let end = 0; end < bytes.length; end++) assert.isUndefined(Resp.readReply(bytes.subarray(0, end), 0), raw)
  }
})

it("replies in pieces of any size", () => {
  FastCheck.assert(
    FastCheck.property(
      FastCheck.array(FastCheck.constantFrom(...samples), { maxLength: 8 }),
      FastCheck.integer({ min: 1, max: 20 }),
      (chosen, size) => {
        const bytes = Buffer.from(chosen.map(([raw]) => raw).join(""))
        const reader = new Resp.Reader(Resp.readReply)
        const found: Array<{ readonly value: Resp.Reply; readonly bytes: Buffer }> = []
        for (let from = 0; from < bytes.length; from += size)
          found.push(...reader.take(bytes.subarray(from, from + size)))
        assert.deepStrictEqual(
          found.map((one) => [one.bytes.toString("utf8"), one.value]),
          chosen.map(([raw, value]) => [raw, value])
        )
      }
    )
  )
})

it("requests are read back as they were written", () => {
  FastCheck.assert(
    FastCheck.property(
      FastCheck.array(FastCheck.array(FastCheck.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 5 }), {
        maxLength: 6
      }),
      FastCheck.integer({ min: 1, max: 30 }),
      (requests, size) => {
        const bytes = Buffer.concat(requests.map((parts) => Resp.encode(parts)))
        const reader = new Resp.Reader(Resp.readRequest)
        const found: Array<ReadonlyArray<Buffer>> = []
        for (let from = 0; from < bytes.length; from += size)
          found.push(...reader.take(bytes.subarray(from, from + size)).map((one) => one.value))
        assert.deepStrictEqual(
          found.map((parts) => parts.map((part) => part.toString("hex"))),
          requests.map((parts) => parts.map((part) => Buffer.from(part).toString("hex")))
        )
      }
    )
  )
})

it("what is not the protocol is refused", () => {
  assert.throws(() => Resp.readReply(Buffer.from("HTTP/1.1 200 OK\r\n"), 0), /not the Redis protocol/)
})
