/** The proxy does what it says, in front of an echo in this process: no server program is needed. */
import { assert, it } from "@effect/vitest"
import * as FakeRedis from "@underlay/servers/FakeRedis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import { Effect } from "effect"
import { becomes, dial, eventually, open, pause } from "./support.ts"

const echo = FakeRedis.make((request) =>
  request.name === "LONG" ? FakeRedis.bulk("x".repeat(Number(request.args[0]))) : undefined
)

const standing = (options: Partial<FaultProxy.FaultProxyOptions> = {}) =>
  Effect.gen(function* () {
    const server = yield* echo
    const proxy = yield* FaultProxy.make({ host: server.host, port: server.port, ...options })
    return { server, proxy }
  })

it.scoped("hands on requests and replies, of many connections at once, and counts them", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const clients = yield* Effect.all(
      Array.from({ length: 20 }, () => dial(proxy)),
      { concurrency: "unbounded" }
    )
    yield* Effect.forEach(
      clients,
      (client, index) =>
        Effect.gen(function* () {
          client.send("ECHO", `text ${index}`)
          const text = `$${`text ${index}`.length}\r\ntext ${index}\r\n`
          yield* eventually(() => client.text() === text)
        }),
      { concurrency: "unbounded" }
    )
    const counts = yield* proxy.counts
    assert.strictEqual(counts.accepted, 20)
    assert.strictEqual(counts.open, 20)
    assert.strictEqual(counts.lostBytes, 0)
    assert.strictEqual(
      counts.replyBytes,
      clients.reduce((sum, client) => sum + client.text().length, 0)
    )
    for (const client of clients) client.socket.end()
    yield* becomes(proxy.counts, (now) => now.open === 0)
  })
)

it.scoped("hands on a reply of megabytes whole, though the client reads slowly", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const client = yield* dial(proxy)
    client.socket.pause()
    client.send("LONG", "8000000")
    yield* pause(100)
    client.socket.resume()
    yield* eventually(() => client.text().length === 8_000_000 + "$8000000\r\n\r\n".length)
  })
)

it.scoped("resetAll: an RST for every connection, on both sides", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const one = yield* dial(proxy)
    const other = yield* dial(proxy)
    one.send("PING")
    other.send("PING")
    yield* eventually(() => one.text() === "+PONG\r\n" && other.text() === "+PONG\r\n")
    assert.strictEqual(yield* proxy.resetAll, 2)
    yield* eventually(() => one.ended() === "ECONNRESET" && other.ended() === "ECONNRESET")
    yield* becomes(server.connections, (now) => now.open === 0)
    assert.strictEqual((yield* proxy.counts).reset, 2)
    const later = yield* dial(proxy)
    later.send("PING")
    yield* eventually(() => later.text() === "+PONG\r\n")
  })
)

it.scoped("resetAfter(0): the server got the request, the client gets an RST and nothing of the reply", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const client = yield* dial(proxy)
    client.send("PING")
    yield* eventually(() => client.text() === "+PONG\r\n")
    yield* proxy.resetAfter(0)
    client.send("ECHO", "lost")
    yield* eventually(() => client.ended() === "ECONNRESET")
    assert.strictEqual(client.text(), "+PONG\r\n")
    assert.deepStrictEqual(yield* server.received, [["PING"], ["ECHO", "lost"]])
    assert.strictEqual((yield* proxy.counts).lostBytes, "$4\r\nlost\r\n".length)
    const later = yield* dial(proxy)
    later.send("ECHO", "kept")
    yield* eventually(() => later.text() === "$4\r\nkept\r\n")
  })
)

it.scoped("resetAfter(n): the first n bytes of replies pass, then an RST; later connections only if asked for", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const client = yield* dial(proxy)
    yield* becomes(proxy.counts, (now) => now.open === 1)
    yield* proxy.resetAfter(6)
    client.send("ECHO", "abcdefgh")
    yield* eventually(() => client.ended() === "ECONNRESET")
    assert.strictEqual(client.text(), "$8\r\nab")

    yield* proxy.resetAfter(9, { later: true })
    const later = yield* dial(proxy)
    later.send("PING")
    yield* eventually(() => later.text() === "+PONG\r\n")
    later.send("PING")
    yield* eventually(() => later.ended() === "ECONNRESET")
    assert.strictEqual(later.text(), "+PONG\r\n+P")
    yield* proxy.calm
    const last = yield* dial(proxy)
    last.send("ECHO", "abcdefgh")
    yield* eventually(() => last.text() === "$8\r\nabcdefgh\r\n")
  })
)

it.scoped("swallowReplies: the server answers, the client waits, the connection stays", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const client = yield* dial(proxy)
    yield* proxy.swallowReplies(true)
    client.send("ECHO", "gone")
    yield* becomes(proxy.counts, (now) => now.lostBytes === "$4\r\ngone\r\n".length)
    assert.deepStrictEqual(yield* server.received, [["ECHO", "gone"]])
    yield* proxy.swallowReplies(false)
    client.send("ECHO", "here")
    yield* eventually(() => client.text() === "$4\r\nhere\r\n")
    assert.isUndefined(client.ended())
  })
)

it.scoped("blackhole: silence both ways, for new connections too; all arrives when it is lifted", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const client = yield* dial(proxy)
    client.send("PING")
    yield* eventually(() => client.text() === "+PONG\r\n")
    yield* proxy.blackhole(true)
    client.send("ECHO", "held")
    const fresh = yield* dial(proxy)
    fresh.send("ECHO", "new")
    yield* pause(100)
    assert.deepStrictEqual(yield* server.received, [["PING"]])
    assert.strictEqual((yield* server.connections).made, 1)
    assert.isUndefined(client.ended())
    yield* proxy.blackhole(false)
    yield* eventually(() => client.text() === "+PONG\r\n$4\r\nheld\r\n" && fresh.text() === "$3\r\nnew\r\n")
  })
)

it.scoped("blackhole of replies alone: the server does it, the reply comes late", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const client = yield* dial(proxy)
    yield* proxy.blackhole(true, "replies")
    client.send("ECHO", "late")
    yield* becomes(server.received, (now) => now.length === 1)
    yield* pause(50)
    assert.strictEqual(client.text(), "")
    yield* proxy.blackhole(false, "replies")
    yield* eventually(() => client.text() === "$4\r\nlate\r\n")
  })
)

it.scoped("latency: each way takes so long, in order; switched off, what waits arrives", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const client = yield* dial(proxy)
    yield* proxy.latency(60)
    client.send("ECHO", "a")
    const started = performance.now()
    yield* eventually(() => client.text() === "$1\r\na\r\n", 1)
    assert.isAtLeast(performance.now() - started, 118)
    yield* proxy.latency(60_000)
    client.send("ECHO", "b")
    client.send("ECHO", "c")
    yield* pause(50)
    assert.strictEqual(client.text(), "$1\r\na\r\n")
    yield* proxy.latency(0)
    yield* eventually(() => client.text() === "$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n")
  })
)

it.scoped("slice(1): the same bytes, one at a time", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const client = yield* dial(proxy)
    yield* proxy.slice(1)
    client.send("ECHO", "piece by piece")
    yield* eventually(() => client.text() === "$14\r\npiece by piece\r\n")
    assert.isAbove(client.chunks(), 10)
  })
)

it.scoped("refuse: new connections are refused, open ones live; switched off, the port is the same", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const client = yield* dial(proxy)
    client.send("PING")
    yield* eventually(() => client.text() === "+PONG\r\n")
    yield* proxy.refuse(true)
    const refused = yield* dial(proxy)
    yield* eventually(() => refused.ended() === "ECONNREFUSED")
    client.send("PING")
    yield* eventually(() => client.text() === "+PONG\r\n+PONG\r\n")
    yield* proxy.refuse(false)
    const accepted = yield* dial(proxy)
    accepted.send("PING")
    yield* eventually(() => accepted.text() === "+PONG\r\n")
  })
)

it.scoped("resetNew: a connection is made and reset", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    yield* proxy.resetNew(true)
    const client = yield* dial(proxy)
    yield* eventually(() => client.ended() !== undefined)
    assert.strictEqual((yield* server.connections).made, 0)
    yield* proxy.calm
    const accepted = yield* dial(proxy)
    accepted.send("PING")
    yield* eventually(() => accepted.text() === "+PONG\r\n")
  })
)

it.scoped("halfClose: the client gets a FIN, its requests still arrive, replies are lost", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const client = yield* dial(proxy, { allowHalfOpen: true })
    client.send("PING")
    yield* eventually(() => client.text() === "+PONG\r\n")
    assert.strictEqual(yield* proxy.halfClose, 1)
    yield* eventually(() => client.finished())
    client.send("ECHO", "still")
    yield* becomes(server.received, (now) => now.length === 2)
    yield* becomes(proxy.counts, (now) => now.lostBytes === "$5\r\nstill\r\n".length)
    assert.strictEqual(client.text(), "+PONG\r\n")
    client.socket.end()
    yield* becomes(server.connections, (now) => now.open === 0)
  })
)

it.scoped("what either side closes is closed for the other, after what was said before", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    yield* proxy.latency(20)
    const client = yield* dial(proxy)
    client.send("ECHO", "last words")
    client.send("QUIT")
    yield* eventually(() => client.ended() === "closed")
    assert.strictEqual(client.text(), "$10\r\nlast words\r\n+OK\r\n")
    yield* becomes(server.connections, (now) => now.open === 0)
    yield* becomes(proxy.counts, (now) => now.open === 0)
    const other = yield* dial(proxy)
    other.send("PING")
    yield* becomes(server.connections, (now) => now.open === 1)
    yield* server.resetAll
    yield* eventually(() => other.ended() === "ECONNRESET")
  })
)

it.scoped("retarget: new connections go to the other server, old ones stay", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing()
    const second = yield* FakeRedis.make(() => FakeRedis.simple("second"))
    const old = yield* dial(proxy)
    old.send("PING")
    yield* eventually(() => old.text() === "+PONG\r\n")
    yield* proxy.retarget({ port: second.port })
    const fresh = yield* dial(proxy)
    fresh.send("PING")
    old.send("PING")
    yield* eventually(() => fresh.text() === "+second\r\n" && old.text() === "+PONG\r\n+PONG\r\n")
  })
)

it.scoped("spareReplication: a replica's connection meets no fault", () =>
  Effect.gen(function* () {
    const { proxy } = yield* standing({ spareReplication: true })
    const replica = yield* dial(proxy)
    const client = yield* dial(proxy)
    replica.send("REPLCONF", "listening-port", "1")
    client.send("PING")
    yield* eventually(() => replica.text() !== "" && client.text() !== "")
    yield* proxy.swallowReplies(true)
    const before = replica.text()
    replica.send("PING")
    client.send("PING")
    yield* eventually(() => replica.text() === `${before}+PONG\r\n`)
    yield* becomes(proxy.counts, (now) => now.lostBytes === "+PONG\r\n".length)
    assert.strictEqual(client.text(), "+PONG\r\n")
  })
)

it.scoped("nothing is left when the scope closes: no listener, no connection", () =>
  Effect.gen(function* () {
    const server = yield* echo
    const { client, port } = yield* Effect.scoped(
      Effect.gen(function* () {
        const proxy = yield* FaultProxy.make(server)
        const client = yield* Effect.sync(() => open(proxy))
        client.send("PING")
        yield* eventually(() => client.text() === "+PONG\r\n")
        return { client, port: proxy.port }
      })
    )
    yield* eventually(() => client.ended() === "ECONNRESET")
    const again = yield* dial({ host: "127.0.0.1", port })
    yield* eventually(() => again.ended() === "ECONNREFUSED")
    yield* becomes(server.connections, (now) => now.open === 0)
  })
)

it.scoped("halfOpen: what is said is taken and nothing ever comes back, also not when it is switched off", () =>
  Effect.gen(function* () {
    const { proxy, server } = yield* standing()
    const before = yield* dial(proxy)
    before.send("PING")
    yield* eventually(() => before.text() === "+PONG\r\n")
    assert.strictEqual(yield* proxy.halfOpen(true), 1)
    yield* becomes(server.connections, (now) => now.open === 0)
    const during = yield* dial(proxy)
    for (const client of [before, during]) for (let i = 0; i < 1_000; i++) client.send("ECHO", "x".repeat(1_000))
    // Nobody holds up what they say, though nobody is there.
    yield* eventually(() => before.socket.writableLength === 0 && during.socket.writableLength === 0)
    assert.strictEqual(yield* proxy.halfOpen(false), 0)
    before.socket.end()
    const after = yield* dial(proxy)
    after.send("PING")
    yield* eventually(() => after.text() === "+PONG\r\n")
    assert.deepStrictEqual([before.text(), during.text()], ["+PONG\r\n", ""])
    assert.deepStrictEqual([before.ended(), during.ended()], [undefined, undefined])
    const { halfOpen, open, reset } = yield* proxy.counts
    assert.deepStrictEqual({ halfOpen, open, reset }, { halfOpen: 2, open: 1, reset: 0 })
  })
)
