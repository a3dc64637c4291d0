/** The fake server reads requests however they arrive, and says what it is told to say. */
import { assert, it } from "@effect/vitest"
import * as FakeRedis from "@underlay/servers/FakeRedis"
import { Effect } from "effect"
import { dial, eventually } from "./support.ts"

it.scoped("answers as the handler says, per connection, in order; keeps what was sent", () =>
  Effect.gen(function* () {
    const server = yield* FakeRedis.make((request, connection) => {
      if (request.name !== "COUNT") return undefined
      const count = Number(connection.state.get("count") ?? 0) + Number(request.args[0])
      connection.state.set("count", count)
      return FakeRedis.integer(count)
    })
    const one = yield* dial(server)
    const other = yield* dial(server)
    one.send("count", "2")
    one.send("count", "3")
    one.send("nonsense")
    other.send("count", "10")
    yield* eventually(() => one.text() === ":2\r\n:5\r\n-ERR unknown command 'NONSENSE'\r\n")
    yield* eventually(() => other.text() === ":10\r\n")
    const received = yield* server.received
    assert.deepStrictEqual(
      received.filter(([name, by]) => name === "COUNT" && by !== "10"),
      [
        ["COUNT", "2"],
        ["COUNT", "3"]
      ]
    )
    assert.deepStrictEqual(yield* server.connections, { made: 2, open: 2 })
  })
)

it.scoped("reads requests in pieces, several at once, binary ones, and words on a line", () =>
  Effect.gen(function* () {
    const seen: Array<Buffer> = []
    const server = yield* FakeRedis.make((request) => {
      seen.push(...request.bytes.slice(1))
      return FakeRedis.ok
    })
    const client = yield* dial(server)
    const binary = Buffer.from([0, 13, 10, 255, 36])
    const request = Buffer.concat([Buffer.from("*2\r\n$3\r\nSET\r\n$5\r\n"), binary, Buffer.from("\r\n")])
    for (const byte of request) {
      client.socket.write(Buffer.from([byte]))
      yield* Effect.yieldNow()
    }
    client.socket.write(Buffer.concat([request, request, Buffer.from("PING hello\r\n")]))
    yield* eventually(() => client.text() === FakeRedis.ok.repeat(4))
    assert.deepStrictEqual(seen, [binary, binary, binary, Buffer.from("hello")])
  })
)

it.scoped("what is no request is told and ends the connection, as with the real server", () =>
  Effect.gen(function* () {
    const server = yield* FakeRedis.make()
    const client = yield* dial(server)
    client.socket.write("*x\r\n")
    yield* eventually(() => client.ended() === "closed")
    assert.strictEqual(client.text(), "-ERR Protocol error: invalid multibulk length\r\n")
  })
)

it.scoped("HELLO chooses the protocol, and can be refused; an answer can be none at all", () =>
  Effect.gen(function* () {
    const server = yield* FakeRedis.make((request, connection) => {
      if (request.name === "WHICH") return FakeRedis.integer(connection.protocol)
      if (request.name === "HELLO" && connection.id === 2) return FakeRedis.error("ERR unknown command 'HELLO'")
      return request.name === "MUTE" ? "" : undefined
    })
    const modern = yield* dial(server)
    modern.send("HELLO", "3")
    modern.send("MUTE")
    modern.send("WHICH")
    yield* eventually(() => modern.text().endsWith("\r\n:3\r\n"))
    assert.isTrue(modern.text().startsWith("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"))
    const old = yield* dial(server)
    old.send("HELLO", "3")
    old.send("WHICH")
    yield* eventually(() => old.text() === "-ERR unknown command 'HELLO'\r\n:2\r\n")
  })
)

it.scoped("pushes unasked, resets, ends", () =>
  Effect.gen(function* () {
    const server = yield* FakeRedis.make((request, connection) => {
      if (request.name === "END") {
        connection.push("$5\r\nhal")
        connection.end()
        return ""
      }
      return undefined
    })
    const client = yield* dial(server)
    const other = yield* dial(server)
    client.send("PING")
    other.send("PING")
    yield* eventually(() => client.text() !== "" && other.text() !== "")
    const message = FakeRedis.push([FakeRedis.bulk("message"), FakeRedis.bulk("news"), FakeRedis.bulk("hi")])
    yield* server.push(message)
    yield* eventually(() => client.text() === `+PONG\r\n${message}` && other.text() === client.text())
    other.send("END")
    yield* eventually(() => other.ended() === "closed")
    assert.isTrue(other.text().endsWith("$5\r\nhal"))
    assert.strictEqual(yield* server.resetAll, 1)
    yield* eventually(() => client.ended() === "ECONNRESET")
  })
)

it("writes the answers of both protocols", () => {
  assert.strictEqual(
    FakeRedis.clusterSlots([{ from: 0, to: 16_383, nodes: [{ host: "h", port: 1, id: "n" }] }]),
    "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$1\r\nh\r\n:1\r\n$1\r\nn\r\n"
  )
  assert.strictEqual(FakeRedis.map([[FakeRedis.bulk("é"), FakeRedis.nil]]), "%1\r\n$2\r\né\r\n$-1\r\n")
})
