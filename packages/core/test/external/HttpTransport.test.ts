/**
 * The client over `undici` shows its callers what platform's own clients show them, leaves nothing behind, and closes a
 * connection as soon as nobody waits for it.
 */
import { AsyncLocalStorage } from "node:async_hooks"
import type * as Http from "node:http"
import * as Net from "node:net"
import { Readable } from "node:stream"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as Zlib from "node:zlib"
import {
  Cookies,
  FetchHttpClient,
  HttpBody,
  HttpClient,
  HttpClientError,
  HttpClientRequest,
  type HttpClientResponse,
  UrlParams
} from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ExternalHttp, HttpTransport } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import {
  Cause,
  Chunk,
  Context,
  Deferred,
  Effect,
  Either,
  Exit,
  Fiber,
  Layer,
  Ref,
  Runtime,
  Schedule,
  Scope,
  Stream
} from "effect"
import { type Dispatcher, MockAgent } from "undici"
import { load } from "../../src/internal/optionalPackage.ts"
import * as Server from "./LoopbackServer.ts"

type Answer = (incoming: Http.IncomingMessage, outgoing: Http.ServerResponse, body: Buffer) => void

const layers = {
  ours: Layer.orDie(HttpTransport.layerUndici()),
  undici: NodeHttpClient.layerUndici,
  fetch: FetchHttpClient.layer
}

type Name = keyof typeof layers

/** A server that answers when the whole request is there. */
const serve = (answer: Answer) =>
  Effect.map(
    Server.make([
      (incoming, outgoing) => {
        const parts: Array<Buffer> = []
        incoming.on("data", (part: Buffer) => parts.push(part))
        incoming.on("end", () => answer(incoming, outgoing, Buffer.concat(parts)))
      }
    ]),
    ({ asked, server, url }) => ({ url, asked, server })
  )

const connections = (server: Http.Server): Effect.Effect<number> =>
  Effect.async((resume) => {
    server.getConnections((_, count) => resume(Effect.succeed(count)))
  })

const eventually = (what: string, test: Effect.Effect<boolean>) =>
  Effect.flatMap(test, (is) => (is ? Effect.void : Effect.fail(`not yet: ${what}`))).pipe(
    Effect.retry(Schedule.spaced("1 millis").pipe(Schedule.upTo("10 seconds")))
  )

/** How long it takes until nobody is connected, in milliseconds. */
const untilClosed = (server: Http.Server) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(
      eventually(
        "no connection",
        Effect.map(connections(server), (count) => count === 0)
      ),
      () => performance.now() - from
    )
  })

/** The quickest of several: what a busy machine adds is not ours. */
const quickest = <E, R>(once: Effect.Effect<number, E, R>) =>
  Effect.map(Effect.replicateEffect(once, 5), (took) => Math.min(...took))

/** A TCP server that says what it is told, whatever it is asked. */
const raw = (say: (socket: Net.Socket) => void) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.async<{ readonly server: Net.Server; readonly sockets: Set<Net.Socket> }>((resume) => {
        const sockets = new Set<Net.Socket>()
        const server = Net.createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          socket.once("data", () => say(socket))
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed({ server, sockets })))
      }),
      ({ server, sockets }) =>
        Effect.async<void>((resume) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resume(Effect.void))
        })
    ),
    ({ server }) => `http://127.0.0.1:${(server.address() as Net.AddressInfo).port}`
  )

/** An error as a caller can tell it from another. */
const told = (error: unknown): unknown =>
  HttpClientError.isHttpClientError(error) ? { failed: error._tag, reason: error.reason } : { failed: String(error) }

type Look = (response: HttpClientResponse.HttpClientResponse) => Effect.Effect<unknown, unknown>

/** What a caller sees of a request over one client. */
const seen = (name: Name, request: HttpClientRequest.HttpClientRequest, look: Look): Effect.Effect<unknown> =>
  Effect.flatMap(HttpClient.HttpClient, (client) =>
    client.execute(request).pipe(
      Effect.flatMap(look),
      Effect.match({ onFailure: told, onSuccess: (value) => value }),
      Effect.catchAllCause((cause) => Effect.succeed({ died: Cause.pretty(cause) }))
    )
  ).pipe(Effect.provide(layers[name]))

const bytes = (response: HttpClientResponse.HttpClientResponse) =>
  Stream.runFold(response.stream, "", (all, part) => all + Buffer.from(part).toString("base64"))

const whole = (response: HttpClientResponse.HttpClientResponse) =>
  Stream.runCollect(response.stream).pipe(Effect.map((parts) => Buffer.concat([...parts]).toString("base64")))

const hex = (buffer: ArrayBuffer): string => Buffer.from(buffer).toString("hex")

const html = "<p>ünï ✓ 𝄞</p>"

/** What differs between runs, or is the name of the client. */
const volatile: ReadonlySet<string> = new Set([
  "date",
  "host",
  "user-agent",
  "accept",
  "accept-language",
  "accept-encoding",
  "sec-fetch-mode",
  "connection",
  "keep-alive",
  "traceparent",
  "b3"
])

const echo: Answer = (incoming, outgoing, body) => {
  const headers = Object.fromEntries(Object.entries(incoming.headers).filter(([name]) => !volatile.has(name)))
  const boundary = /boundary=(.*)$/.exec(incoming.headers["content-type"] ?? "")?.[1]
  const text = JSON.stringify({ method: incoming.method, url: incoming.url, headers, body: body.toString("latin1") })
  outgoing.writeHead(200, { "content-type": "application/json" })
  outgoing.end(
    boundary === undefined ? text : text.replaceAll(boundary, "boundary").replace(/"content-length":"\d+",?/, "")
  )
}

const form = () => {
  const data = new FormData()
  data.append("a", "1")
  data.append("file", new Blob(["content"], { type: "text/plain" }), "name.txt")
  return data
}

interface Case {
  readonly title: string
  readonly request: (url: string) => HttpClientRequest.HttpClientRequest
  readonly answer?: Answer
  readonly look?: Look
  /** Why `fetch` shows something else. */
  readonly notFetch?: string
  /** Why platform's client over `undici` does; ours is then as `fetch`. */
  readonly notUndici?: string
}

const post = (body: HttpBody.HttpBody) => (url: string) =>
  HttpClientRequest.setBody(HttpClientRequest.post(`${url}/path?a=1`), body)

const get = (url: string) => HttpClientRequest.get(`${url}/path?a=1`)

const say =
  (status: number, headers: Http.OutgoingHttpHeaders, ...parts: ReadonlyArray<string | Buffer>): Answer =>
  (_, outgoing) => {
    outgoing.writeHead(status, headers)
    for (const part of parts) outgoing.write(part)
    outgoing.end()
  }

const bodies: ReadonlyArray<Case> = [
  { title: "none", request: get },
  { title: "none of a POST", request: (url) => HttpClientRequest.post(url) },
  { title: "bytes", request: post(HttpBody.uint8Array(new Uint8Array([0, 1, 255, 128]))) },
  { title: "part of a buffer", request: post(HttpBody.uint8Array(new Uint8Array([9, 1, 2, 3, 9]).subarray(1, 4))) },
  { title: "no bytes", request: post(HttpBody.uint8Array(new Uint8Array(0))) },
  { title: "text", request: post(HttpBody.text(html, "text/html")) },
  { title: "JSON", request: post(HttpBody.unsafeJson({ a: [1, html] })) },
  { title: "a raw string", request: post(HttpBody.raw("raw ✓", { contentType: "text/plain" })) },
  { title: "URL parameters", request: post(HttpBody.urlParams(UrlParams.fromInput({ a: "1 2", b: "ü" }))) },
  {
    title: "a form with a file",
    request: post(HttpBody.formData(form())),
    notUndici: "undici does not know the forms of Node"
  },
  {
    title: "a raw stream of Node",
    request: (url) => post(HttpBody.raw(Readable.from([Buffer.from("one "), Buffer.from("two")])))(url),
    notFetch: "it asks for a duplex mode"
  },
  {
    title: "a stream",
    request: post(HttpBody.stream(Stream.make(Buffer.from("one "), Buffer.from("two")), "text/plain"))
  },
  {
    title: "a stream of a known length",
    request: post(HttpBody.stream(Stream.make(Buffer.from("one "), Buffer.from("two")), "text/plain", 7)),
    notFetch: "it drops the length"
  },
  {
    title: "a stream that fails",
    request: post(HttpBody.stream(Stream.concat(Stream.make(Buffer.from("one")), Stream.fail("broken"))))
  },
  { title: "three mebibytes", request: post(HttpBody.uint8Array(new Uint8Array(3 * 2 ** 20).fill(120))) },
  {
    title: "headers of one's own",
    request: (url) =>
      HttpClientRequest.setHeaders(get(url), { "X-Own": "a, b", "x-empty": "", authorization: "Bearer k" })
  },
  {
    title: "a header that cannot be",
    request: (url) => HttpClientRequest.setHeader(get(url), "x-own", "a\r\nb: c")
  },
  { title: "a URL that is none", request: () => HttpClientRequest.get("http://a b/") },
  { title: "parameters in the URL", request: (url) => HttpClientRequest.setUrlParam(get(url), "q", "ü &=") }
]

const answers: ReadonlyArray<Case> = [
  {
    title: "text in pieces, cut within a character",
    request: get,
    answer: say(200, {}, Buffer.from(html).subarray(0, 5), Buffer.from(html).subarray(5))
  },
  { title: "text with a byte order mark", request: get, answer: say(200, {}, "\uFEFFtext") },
  { title: "text that is no UTF-8", request: get, answer: say(200, {}, Buffer.from([0x61, 0xff, 0xc3, 0x28, 0x62])) },
  { title: "no text", request: get, answer: say(200, {}) },
  { title: "JSON", request: get, answer: say(200, {}, '{"a":', "[1]}"), look: (response) => response.json },
  { title: "JSON of nothing", request: get, answer: say(200, {}), look: (response) => response.json },
  { title: "JSON that is none", request: get, answer: say(200, {}, "{"), look: (response) => response.json },
  {
    title: "URL parameters",
    request: get,
    answer: say(200, {}, "a=1&b=%C3%BC"),
    look: (response) => response.urlParamsBody
  },
  {
    title: "a buffer",
    request: get,
    answer: say(200, {}, Buffer.from([0, 1, 2]), Buffer.from([255])),
    look: (response) => Effect.map(response.arrayBuffer, hex)
  },
  { title: "a stream", request: get, answer: say(200, {}, "one", "two"), look: whole },
  { title: "a stream of nothing", request: get, answer: say(200, {}), look: whole },
  {
    title: "three mebibytes as text",
    request: get,
    answer: say(200, {}, Buffer.alloc(3 * 2 ** 20, "x")),
    look: (response) => Effect.map(response.text, (text) => text.length)
  },
  {
    title: "three mebibytes as a stream",
    request: get,
    answer: say(200, {}, Buffer.alloc(3 * 2 ** 20, "x")),
    look: (response) => Effect.map(whole(response), (text) => text.length)
  },
  { title: "400", request: get, answer: say(400, {}, "bad") },
  { title: "503", request: get, answer: say(503, { "retry-after": "1" }, "busy") },
  {
    title: "302, which is not followed",
    request: get,
    answer: say(302, { location: "/other" }, "elsewhere"),
    notFetch: "it follows"
  },
  { title: "204", request: get, answer: say(204, {}) },
  { title: "304", request: get, answer: say(304, { etag: '"a"' }) },
  { title: "HEAD", request: (url) => HttpClientRequest.head(url), answer: say(200, { "content-length": "5" }) },
  {
    title: "early hints before the answer",
    request: get,
    answer: (_, outgoing) => outgoing.writeEarlyHints({ link: "</a.css>; rel=preload" }, () => outgoing.end("late"))
  },
  {
    title: "headers and cookies",
    request: get,
    answer: say(
      200,
      { "X-Two": ["a", "b"], "Content-Type": "text/plain", "set-cookie": ["a=1; Path=/", "b=2; HttpOnly"] },
      "x"
    ),
    look: (response) =>
      Effect.succeed([
        Object.entries(response.headers)
          .filter(([name]) => !volatile.has(name) && name !== "set-cookie")
          .sort(),
        Cookies.toCookieHeader(response.cookies),
        response.remoteAddress
      ])
  },
  {
    title: "several cookies in the headers",
    request: get,
    answer: say(200, { "set-cookie": ["a=1", "b=2"] }, "x"),
    look: (response) => Effect.succeed(response.headers["set-cookie"]),
    notFetch: "it keeps the last one"
  },
  {
    title: "compressed without being asked",
    request: get,
    answer: say(200, { "content-encoding": "gzip" }, Zlib.gzipSync("text")),
    look: whole,
    notFetch: "it decompresses"
  }
]

type Read = readonly [string, Look]
const text: Read = ["text", (response) => response.text]
const json: Read = ["json", (response) => response.json]
const buffer: Read = ["arrayBuffer", (response) => Effect.map(response.arrayBuffer, hex)]
const stream: Read = ["stream", whole]
const readings: ReadonlyArray<readonly [Read, Read]> = [
  [text, text],
  [text, json],
  [json, json],
  [buffer, buffer],
  [text, buffer],
  [buffer, text],
  [text, stream],
  [buffer, stream],
  [stream, text],
  [stream, buffer],
  [stream, stream]
]

const twice: ReadonlyArray<Case> = [1, 3 * 2 ** 20].flatMap((size) =>
  readings.map(
    ([[first, a], [second, b]]): Case => ({
      title: `${first}, then ${second}, of ${size} bytes`,
      request: get,
      answer: say(200, {}, Buffer.alloc(size, "1")),
      look: (response) =>
        Effect.gen(function* () {
          const one = yield* Effect.either(a(response))
          const two = yield* Effect.either(b(response))
          return [one, two].map(Either.match({ onLeft: told, onRight: (value) => String(value).length }))
        }),
      ...(second === "stream" ? { notFetch: "it dies" } : {})
    })
  )
)

const everything: Look = (response) =>
  Effect.map(Effect.either(response.text), (read) => ({
    status: response.status,
    body: Either.match(read, { onLeft: told, onRight: (value) => value })
  }))

const same = ({ answer = echo, look = everything, notFetch, notUndici, request, title }: Case) => {
  const differences = [notFetch && `fetch differs: ${notFetch}`, notUndici && `platform's undici differs: ${notUndici}`]
  it.scopedLive([title, ...differences.filter(Boolean)].join("; "), () =>
    Effect.gen(function* () {
      const { url } = yield* serve(answer)
      const ours = yield* seen("ours", request(url), look)
      for (const [name, difference] of [
        ["undici", notUndici],
        ["fetch", notFetch]
      ] as const) {
        const theirs = yield* seen(name, request(url), look)
        if (difference === undefined) assert.deepStrictEqual(ours, theirs)
        else assert.notDeepEqual(ours, theirs)
      }
    })
  )
}

describe("the same request goes out", () => bodies.forEach(same))

describe("the same answer comes back", () => answers.forEach(same))

describe("a body that is read twice", () => twice.forEach(same))

describe("what goes wrong is the same error", () => {
  const cases: ReadonlyArray<readonly [string, (socket: Net.Socket) => void]> = [
    ["a connection that is closed before the answer", (socket) => socket.destroy()],
    ["a connection that is reset before the answer", (socket) => socket.resetAndDestroy()],
    ["an answer that is no HTTP", (socket) => socket.end("hello\r\n\r\n")],
    ["headers without an end", (socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n")],
    ["a body shorter than it said", (socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")],
    [
      "pieces without an end",
      (socket) => socket.end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    ],
    [
      "pieces that are none",
      (socket) => socket.end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n")
    ],
    ["a body until the connection ends", (socket) => socket.end("HTTP/1.1 200 OK\r\n\r\nabc")]
  ]
  const looks: ReadonlyArray<readonly [string, Look]> = [
    ["text", everything],
    ["stream", bytes]
  ]
  for (const [title, answer] of cases) {
    for (const [as, look] of looks) {
      it.scopedLive(`${title}, read as ${as}`, () =>
        Effect.gen(function* () {
          const url = yield* raw(answer)
          const ours = yield* seen("ours", get(url), look)
          assert.deepStrictEqual(ours, yield* seen("undici", get(url), look))
          assert.deepStrictEqual(ours, yield* seen("fetch", get(url), look))
        })
      )
    }
  }

  it.live("nobody who listens", () =>
    Effect.gen(function* () {
      const request = HttpClientRequest.get("http://127.0.0.1:1/")
      const ours = yield* seen("ours", request, everything)
      assert.deepStrictEqual(ours, { failed: "RequestError", reason: "Transport" })
      assert.deepStrictEqual(ours, yield* seen("undici", request, everything))
    })
  )

  it.scopedLive("a form: read as by fetch; platform's client over undici cannot", () =>
    Effect.gen(function* () {
      const look: Look = (response) =>
        "formData" in response
          ? Effect.map(response.formData as Effect.Effect<FormData, unknown>, (data) => [...data.entries()])
          : Effect.succeed("none")
      const { url } = yield* serve(say(200, { "content-type": "application/x-www-form-urlencoded" }, "a=1&b=2"))
      const ours = yield* seen("ours", get(url), look)
      assert.deepStrictEqual(ours, [
        ["a", "1"],
        ["b", "2"]
      ])
      assert.deepStrictEqual(ours, yield* seen("fetch", get(url), look))
      const broken = yield* serve(say(200, { "content-type": "text/plain" }, "a=1"))
      assert.deepStrictEqual(yield* seen("ours", get(broken.url), look), { failed: "ResponseError", reason: "Decode" })
    })
  )
})

describe("a connection that nobody waits for", () => {
  const hanging: Answer = () => {}
  const begun: Answer = (_, outgoing) => {
    outgoing.writeHead(200)
    outgoing.write("begun")
  }
  const flooding: Answer = (_, outgoing) => {
    outgoing.writeHead(200)
    const more = () => {
      while (!outgoing.destroyed && outgoing.write(Buffer.alloc(65_536))) {}
    }
    outgoing.on("drain", more)
    more()
  }
  const never = HttpBody.stream(Stream.concat(Stream.make(Buffer.from("begun")), Stream.never))
  type Stage = readonly [string, Answer, HttpBody.HttpBody, (read: Deferred.Deferred<void>) => Look]
  const signalled = (read: Deferred.Deferred<void>, effect: Effect.Effect<unknown, unknown>) =>
    Effect.zipRight(Deferred.succeed(read, undefined), effect)
  const stages: ReadonlyArray<Stage> = [
    ["before the headers", hanging, HttpBody.empty, () => () => Effect.void],
    ["before the headers, while the body is sent", hanging, never, () => () => Effect.void],
    [
      "while a text is read",
      begun,
      HttpBody.empty,
      (read) =>
        ({ text }) =>
          signalled(read, text)
    ],
    ["while a buffer is read", begun, HttpBody.empty, (read) => (response) => signalled(read, response.arrayBuffer)],
    [
      "while a stream is read",
      begun,
      HttpBody.empty,
      (read) =>
        ({ stream }) =>
          Stream.runForEach(stream, () => Deferred.succeed(read, undefined))
    ],
    [
      "while a flood is kept whole",
      flooding,
      HttpBody.empty,
      (read) =>
        ({ text }) =>
          signalled(read, text)
    ]
  ]
  for (const [title, answer, body, look] of stages) {
    it.scopedLive(`${title}: is closed within 50 ms`, () =>
      Effect.gen(function* () {
        const { asked, server, url } = yield* Server.make([
          (incoming, outgoing) => answer(incoming, outgoing, Buffer.of())
        ])
        const client = yield* HttpClient.HttpClient
        const once = Effect.gen(function* () {
          const before = asked.length
          const read = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(Effect.flatMap(client.execute(post(body)(url)), look(read)))
          yield* answer === hanging
            ? eventually(
                "asked",
                Effect.sync(() => asked.length > before)
              )
            : Deferred.await(read)
          yield* Fiber.interrupt(fiber)
          return yield* untilClosed(server)
        })
        assert.isBelow(yield* quickest(once), 50)
      }).pipe(Effect.provide(layers.ours))
    )
  }

  it.scopedLive("a body that is pulled of which only a part is wanted", () =>
    Effect.gen(function* () {
      const { server, url } = yield* serve(flooding)
      const client = yield* HttpClient.HttpClient
      // A response whose request no scope ends is wrapped by platform.
      const outer = yield* Effect.scope
      for (const of of [client, HttpClient.withScope(client)]) {
        const once = Effect.gen(function* () {
          const response = yield* Scope.extend(of.execute(get(url)), outer)
          const part = yield* Effect.scoped(Effect.flatten(HttpTransport.pull(response)))
          assert.isAbove(Chunk.size(part), 0)
          return yield* untilClosed(server)
        })
        assert.isBelow(yield* quickest(once), 50)
      }
    }).pipe(Effect.provide(layers.ours))
  )

  for (const connections of [1, 2]) {
    it.live(`what waited for one of ${connections}, when the last was given up, ends with the client`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { asked, url } = yield* serve(() => {})
          const scope = yield* Scope.make()
          const client = yield* Scope.extend(HttpTransport.make({ connections }), scope)
          const begin = Effect.forkDaemon(Effect.exit(client.execute(get(url))))
          const first = yield* Effect.replicateEffect(begin, connections)
          yield* eventually(
            "the first are asked",
            Effect.sync(() => asked.length === connections)
          )
          const queued = yield* begin
          yield* Effect.sleep("20 millis")
          yield* Fiber.interruptAll(first)
          yield* eventually(
            "the next is asked",
            Effect.sync(() => asked.length === connections + 1)
          )
          yield* Scope.close(scope, Exit.void)
          assert.isTrue(Exit.isFailure(yield* Effect.timeout(Fiber.join(queued), "2 seconds")))
        })
      )
    )
  }

  it.scopedLive("a stream of which only a part is wanted", () =>
    Effect.gen(function* () {
      const { server, url } = yield* serve(flooding)
      const client = yield* HttpClient.HttpClient
      const once = Effect.gen(function* () {
        const response = yield* client.execute(get(url))
        const part = yield* Stream.runCollect(Stream.take(response.stream, 1))
        assert.strictEqual(Chunk.size(part), 1)
        return yield* untilClosed(server)
      })
      assert.isBelow(yield* quickest(once), 50)
    }).pipe(Effect.provide(layers.ours))
  )

  it.scopedLive("a response in a scope that is closed, unread", () =>
    Effect.gen(function* () {
      const { server, url } = yield* serve(begun)
      const client = HttpClient.withScope(yield* HttpClient.HttpClient)
      const once = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const response = yield* Scope.extend(client.execute(get(url)), scope)
        assert.strictEqual(yield* connections(server), 1)
        yield* Scope.close(scope, Exit.void)
        const took = yield* untilClosed(server)
        assert.deepStrictEqual(told(yield* Effect.flip(response.text)), { failed: "ResponseError", reason: "Decode" })
        return took
      })
      assert.isBelow(yield* quickest(once), 50)
    }).pipe(Effect.provide(layers.ours))
  )

  it.scopedLive("a request in a scope that is interrupted", () =>
    Effect.gen(function* () {
      const { asked, server, url } = yield* Server.make([() => {}])
      const client = HttpClient.withScope(yield* HttpClient.HttpClient)
      const once = Effect.gen(function* () {
        const before = asked.length
        const fiber = yield* Effect.fork(client.execute(get(url)))
        yield* eventually(
          "asked",
          Effect.sync(() => asked.length > before)
        )
        yield* Fiber.interrupt(fiber)
        return yield* untilClosed(server)
      })
      assert.isBelow(yield* quickest(once), 50)
    }).pipe(Effect.provide(layers.ours))
  )

  it.scopedLive("the layer when it is closed: no connection stays, and what is under way fails", () =>
    Effect.gen(function* () {
      const { asked, server, url } = yield* Server.make([() => {}])
      const scope = yield* Scope.make()
      const client = yield* Scope.extend(HttpTransport.make(), scope)
      const fiber = yield* Effect.fork(Effect.flip(client.execute(get(url))))
      yield* eventually(
        "asked",
        Effect.sync(() => asked.length === 1)
      )
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(told(yield* Fiber.join(fiber)), { failed: "RequestError", reason: "Transport" })
      yield* untilClosed(server)
      assert.deepStrictEqual(told(yield* Effect.flip(client.execute(get(url)))), {
        failed: "RequestError",
        reason: "Transport"
      })
    })
  )

  it.scopedLive("one that waits for its turn leaves the queue, and the connection to the others", () =>
    Effect.gen(function* () {
      const held: Array<Http.ServerResponse> = []
      const { asked, server, url } = yield* Server.make([
        (_, outgoing) => held.push(outgoing),
        (_, outgoing) => outgoing.end("second")
      ])
      let opened = 0
      server.on("connection", () => opened++)
      const client = yield* HttpTransport.make({ connections: 1 })
      const first = yield* Effect.fork(Effect.flatMap(client.execute(get(url)), ({ text }) => text))
      yield* eventually(
        "asked",
        Effect.sync(() => asked.length === 1)
      )
      const queued = yield* Effect.fork(client.execute(HttpClientRequest.get(`${url}/queued`)))
      yield* Effect.yieldNow()
      let body = "none"
      const streamed = HttpBody.stream(
        Stream.unwrapScoped(
          Effect.as(
            Effect.acquireRelease(
              Effect.sync(() => {
                body = "begun"
              }),
              () =>
                Effect.sync(() => {
                  body = "ended"
                })
            ),
            Stream.never
          )
        )
      )
      const queuedBody = yield* Effect.fork(client.execute(post(streamed)(url)))
      yield* eventually(
        "the body is begun",
        Effect.sync(() => body === "begun")
      )
      const last = yield* Effect.fork(
        Effect.flatMap(client.execute(HttpClientRequest.get(`${url}/last`)), ({ text }) => text)
      )
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(queued)
      yield* Fiber.interrupt(queuedBody)
      yield* eventually(
        "the body is ended",
        Effect.sync(() => body === "ended")
      )
      held[0]?.end("first")
      assert.deepStrictEqual([yield* Fiber.join(first), yield* Fiber.join(last)], ["first", "second"])
      assert.deepStrictEqual(
        asked.map((one) => one.url),
        ["/path?a=1", "/last"]
      )
      assert.strictEqual(opened, 1)
    })
  )

  it.scopedLive("a body that nobody reads is not read from the service either", () =>
    Effect.gen(function* () {
      let sent = 0
      const { url } = yield* serve((_, outgoing) => {
        outgoing.writeHead(200)
        const more = () => {
          do sent += 65_536
          while (!outgoing.destroyed && outgoing.write(Buffer.alloc(65_536)))
        }
        outgoing.on("drain", more)
        more()
      })
      const client = yield* HttpClient.HttpClient
      const response = yield* client.execute(get(url))
      const still = Effect.gen(function* () {
        const before = sent
        yield* Effect.sleep("20 millis")
        return sent === before
      })
      yield* eventually("the service waits", still)
      // The buffers of the two sockets in the kernel, and ours.
      assert.isBelow(sent, 32 * 2 ** 20)
      const before = sent
      const read = yield* Stream.runFoldWhile(
        response.stream,
        0,
        (size) => size < before + 2 ** 20,
        (size, part) => size + part.length
      )
      assert.isAtLeast(read, before + 2 ** 20)
    }).pipe(Effect.provide(layers.ours))
  )
})

describe("2,000 calls that are given up leave no connection, no listener and no memory", () => {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc") as () => void
  const total = 2000

  type Call = (url: string) => Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError>
  type Way = (call: Call, asked: (url: string) => Effect.Effect<void>) => Effect.Effect<unknown, unknown>

  const ways: ReadonlyArray<readonly [string, HttpTransport.Settings, Way]> = [
    [
      "before they are connected",
      { connections: 20 },
      (call) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.fork(call("/silent"))
          yield* Effect.yieldNow()
          yield* Fiber.interrupt(fiber)
        })
    ],
    [
      "before their answer",
      {},
      (call, asked) =>
        Effect.gen(function* () {
          const url = `/silent/${Math.random()}`
          const fiber = yield* Effect.fork(call(url))
          yield* asked(url)
          yield* Fiber.interrupt(fiber)
        })
    ],
    [
      "in the middle of their body",
      {},
      (call) => Effect.flatMap(call("/"), ({ stream }) => Stream.runDrain(Stream.take(stream, 1)))
    ],
    ["with a response that nobody reads, when it is collected", {}, (call) => Effect.asVoid(call("/"))]
  ]

  for (const [title, settings, way] of ways) {
    it.scopedLive(
      title,
      () =>
        Effect.gen(function* () {
          let warned = 0
          const warning = () => warned++
          process.on("warning", warning)
          yield* Effect.addFinalizer(() => Effect.sync(() => process.off("warning", warning)))
          const part = Buffer.alloc(1000)
          const waiting = new Map<string, Deferred.Deferred<void>>()
          const { server, url } = yield* Server.make([
            (incoming, outgoing) => {
              const path = incoming.url ?? ""
              const asked = waiting.get(path)
              if (asked !== undefined) Deferred.unsafeDone(asked, Effect.void)
              if (path.startsWith("/silent")) return
              outgoing.writeHead(200)
              outgoing.write(part)
            }
          ])
          // A connection of which the request was given up before it was sent waits for the next one.
          const client = yield* HttpTransport.make({ keepAlive: "50 millis", ...settings })
          const asked = (path: string) =>
            Effect.gen(function* () {
              const deferred = yield* Deferred.make<void>()
              waiting.set(path, deferred)
              yield* Deferred.await(deferred)
              waiting.delete(path)
            })
          const one = way((path) => client.execute(HttpClientRequest.get(`${url}${path}`)), asked)
          // A collection and the turns of what it finalizes take as long as the machine makes them: what bounds them is
          // their number, and no clock.
          const quiet = Effect.zipRight(Effect.sync(collect), Effect.sleep("20 millis")).pipe(
            Effect.zipRight(connections(server)),
            Effect.repeat({ until: (count) => count === 0, times: 200 }),
            Effect.map((left) => assert.strictEqual(left, 0, "connections that stayed"))
          )
          // Some at a time: what waits to be collected would else be thousands of sockets at once.
          const many = (count: number) =>
            Effect.forEach(
              Array.from({ length: count / 250 }),
              () =>
                Effect.zipRight(
                  Effect.forEach(Array.from({ length: 250 }), () => one, { concurrency: 20, discard: true }),
                  quiet
                ),
              { discard: true }
            )
          const held = Effect.gen(function* () {
            // Finalizers have their turns between the collections.
            for (let pass = 0; pass < 5; pass++) {
              collect()
              yield* Effect.sleep("20 millis")
            }
            return {
              heap: process.memoryUsage().heapUsed,
              handles: process.getActiveResourcesInfo().filter((name) => name.startsWith("TCPSocket")).length,
              listeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0)
            }
          })
          yield* many(500)
          const before = yield* held
          yield* many(total)
          // What can be collected need not be at once.
          const after = yield* Effect.repeat(held, {
            until: ({ heap }) => heap - before.heap < 3 * 2 ** 20,
            times: 50
          })
          assert.isBelow(after.heap - before.heap, 3 * 2 ** 20)
          assert.isAtMost(after.handles, before.handles)
          assert.strictEqual(after.listeners, before.listeners)
          assert.strictEqual(warned, 0)
        }),
      600_000
    )
  }
})

describe("traces", () => {
  it.scopedLive("a span and its headers are what platform's client makes of them", () =>
    Effect.gen(function* () {
      const { asked, url } = yield* serve(say(201, { "x-answer": "yes" }))
      const recorded = (name: Name) =>
        Effect.gen(function* () {
          yield* Effect.flatMap(HttpClient.HttpClient, (client) => client.execute(get(url)))
          const spans = yield* Effect.flatMap(Recording.Recording, (recording) => recording.spans)
          const headers = asked.at(-1)?.headers
          return spans.map((span) => [
            span.name,
            span.kind,
            [...span.attributes].filter(([key]) => !/header\.(date|connection|keep-alive|traceparent|b3)$/.test(key)),
            headers?.["traceparent"] === `00-${span.traceId}-${span.spanId}-01`,
            headers?.["b3"] !== undefined
          ])
        }).pipe(Effect.provide([layers[name], Recording.layer]))
      const ours = yield* recorded("ours")
      assert.strictEqual(ours.length, 1)
      assert.deepStrictEqual(ours, yield* recorded("undici"))
      yield* Effect.flatMap(HttpClient.HttpClient, (client) =>
        HttpClient.withTracerPropagation(client, false).execute(get(url))
      ).pipe(Effect.provide([layers.ours, Recording.layer]))
      assert.notProperty(asked.at(-1)?.headers, "traceparent")
    })
  )

  it.scopedLive("ExternalHttp's own goes out", () =>
    Effect.gen(function* () {
      const { asked, url } = yield* serve(say(200, {}))
      const http = yield* ExternalHttp.make({ service: "x", baseUrl: url })
      yield* http.execute(HttpClientRequest.get("/"))
      const spans = yield* Effect.flatMap(Recording.Recording, (recording) => recording.spans)
      const attempt = spans.find((span) => span.name === "GET")
      assert.strictEqual(asked[0]?.headers["traceparent"], `00-${attempt?.traceId}-${attempt?.spanId}-01`)
    }).pipe(Effect.provide([layers.ours, Recording.layer]))
  )
})

it.scopedLive("each fiber goes on in its own asynchronous context, not in that of the connection", () =>
  Effect.gen(function* () {
    const { url } = yield* serve(say(200, {}, "x"))
    const client = yield* HttpClient.HttpClient
    const storage = new AsyncLocalStorage<string>()
    const runtime = yield* Effect.runtime<never>()
    const within = (name: string) =>
      Effect.promise(() =>
        storage.run(name, () =>
          Runtime.runPromise(runtime)(
            Effect.gen(function* () {
              const response = yield* client.execute(get(url))
              const atHeaders = storage.getStore()
              yield* Stream.runDrain(response.stream)
              return [atHeaders, storage.getStore()]
            })
          )
        )
      )
    assert.deepStrictEqual(
      [yield* within("a"), yield* within("b")],
      [
        ["a", "a"],
        ["b", "b"]
      ]
    )
  }).pipe(Effect.provide(layers.ours))
)

it.scopedLive("to be looked at does not read a body", () =>
  Effect.gen(function* () {
    const { url } = yield* serve(say(200, { "content-type": "text/plain", "set-cookie": "a=secret" }, "private"))
    const response = yield* Effect.flatMap(HttpClient.HttpClient, (client) => client.execute(get(url)))
    assert.notInclude(JSON.stringify(response), "private")
    assert.strictEqual(yield* whole(response), Buffer.from("private").toString("base64"))
    const read = yield* Effect.flatMap(HttpClient.HttpClient, (client) => client.execute(get(url)))
    yield* read.text
    assert.propertyVal(JSON.parse(JSON.stringify(read)), "body", "private")
  }).pipe(Effect.provide(layers.ours))
)

it.scopedLive("several readers of one text have the same", () =>
  Effect.gen(function* () {
    const { url } = yield* serve(say(200, {}, Buffer.alloc(3 * 2 ** 20, "1")))
    const response = yield* Effect.flatMap(HttpClient.HttpClient, (client) => client.execute(get(url)))
    const texts = yield* Effect.all([response.text, response.text, response.json], { concurrency: "unbounded" })
    assert.deepStrictEqual(
      texts.map((value) => String(value).length > 0),
      [true, true, true]
    )
    assert.strictEqual(texts[0].length, 3 * 2 ** 20)
    assert.strictEqual(texts[0], texts[1])
  }).pipe(Effect.provide(layers.ours))
)

describe("large bodies", () => {
  const patterned = (size: number): Buffer => {
    const bytes = Buffer.allocUnsafe(size)
    for (let at = 0; at < size; at++) bytes[at] = (at * 31 + (at >> 11)) & 255
    return bytes
  }
  const pulled = (response: HttpClientResponse.HttpClientResponse) =>
    Effect.scoped(
      Effect.flatMap(HttpTransport.pull(response), (pull) =>
        Effect.map(Stream.runCollect(Stream.flattenChunks(Stream.repeatEffectOption(pull))), (parts) =>
          Buffer.concat(Chunk.toReadonlyArray(parts))
        )
      )
    )

  for (const size of [1, 65_536, 3_000_001, 18_000_001]) {
    it.scopedLive(
      `of ${size} bytes: the buffer is all of it and its own, and so is what is pulled, of any client`,
      () =>
        Effect.gen(function* () {
          const body = patterned(size)
          const { url } = yield* serve((incoming, outgoing) => {
            if (incoming.url?.startsWith("/known") === true) outgoing.setHeader("content-length", size)
            const half = size >> 1
            outgoing.write(body.subarray(0, half))
            setTimeout(() => outgoing.end(body.subarray(half)), 5)
          })
          for (const name of ["ours", "undici"] as const) {
            const client = Context.get(yield* Layer.build(layers[name]), HttpClient.HttpClient)
            for (const path of ["/known", "/unknown"]) {
              const response = yield* client.execute(get(`${url}${path}`))
              const buffer = yield* response.arrayBuffer
              assert.strictEqual(buffer.byteLength, size)
              assert.isTrue(body.equals(new Uint8Array(buffer)))
              assert.isTrue(body.equals(yield* pulled(yield* client.execute(get(`${url}${path}`)))))
              const scoped = yield* HttpClient.withScope(client).execute(get(`${url}${path}`))
              assert.isTrue(body.equals(yield* pulled(scoped)))
            }
          }
          const client = Context.get(yield* Layer.build(layers.ours), HttpClient.HttpClient)
          const late = yield* client.execute(get(`${url}/known`))
          const reading = yield* Effect.fork(late.arrayBuffer)
          yield* Effect.yieldNow()
          yield* Effect.sleep("1 millis")
          // As text it would be another reader.
          assert.isTrue(Either.isLeft(yield* Effect.either(late.text)))
          assert.isTrue(body.equals(new Uint8Array(yield* Fiber.join(reading))))
          assert.strictEqual((yield* pulled(late)).length, 0)
        })
    )
  }

  it.scopedLive("a dispatcher that gives more or less than the length that it told", () =>
    Effect.gen(function* () {
      for (const told of [3, 7, 20]) {
        const client = HttpTransport.fromDispatcher({
          dispatch: (_: unknown, handler: Required<Dispatcher.DispatchHandler>) => {
            const controller: Dispatcher.DispatchController = {
              aborted: false,
              paused: false,
              reason: null,
              rawHeaders: null,
              rawTrailers: null,
              abort: () => {},
              pause: () => {},
              resume: () => {}
            }
            handler.onRequestStart(controller, null)
            handler.onResponseStart(controller, 200, { "content-length": String(told) }, "OK")
            setTimeout(() => {
              for (const part of ["12", "345", "67"]) handler.onResponseData(controller, Buffer.from(part))
              handler.onResponseEnd(controller, {})
            }, 5)
            return true
          }
        })
        const response = yield* client.execute(get("http://told.test/"))
        assert.strictEqual(Buffer.from(yield* response.arrayBuffer).toString(), "1234567")
      }
    })
  )
})

describe("settings", () => {
  it.scopedLive("what cannot work is a typed error that says why", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [HttpTransport.Settings, string]> = [
        [{ connections: 0 }, "connections"],
        [{ connections: 1.5 }, "connections"],
        [{ keepAlive: "0 seconds" }, "keepAlive"],
        [{ headersTimeout: 0 }, "headersTimeout"],
        [{ bodyTimeout: Number.NaN }, "bodyTimeout"],
        [{ connectTimeout: "soon" as never }, "connectTimeout"],
        [{ agent: { factory: "none" } }, "factory"]
      ]
      for (const [settings, named] of cases) {
        const error = yield* Effect.flip(HttpTransport.make(settings))
        assert.deepStrictEqual(
          [error._tag, error.reason, error.isRetryable],
          ["HttpTransportError", "InvalidOptions", false]
        )
        assert.include(error.message, named)
      }
    })
  )

  it.live("a package that is not installed is a typed error that names it", () =>
    Effect.gen(function* () {
      const missing = "@underlay/no-such-package"
      const error = yield* Effect.flip(
        load(
          missing,
          "7",
          () => import(missing),
          (description) => description
        )
      )
      assert.strictEqual(error, `${missing} is not installed: npm install ${missing}@7`)
      const broken = yield* Effect.flip(
        load(
          "x",
          "7",
          () => Promise.reject(new Error("x")),
          (description) => description
        )
      )
      assert.strictEqual(broken, "x is installed but cannot be loaded: npm install x@7")
    })
  )

  it.scopedLive("no limits of time unless they are given", () =>
    Effect.gen(function* () {
      const asked: Array<unknown> = []
      const agent = {
        factory: () => ({
          on() {
            return this
          },
          destroy: () => Promise.resolve(),
          dispatch: (options: Record<string, unknown>, handler: { onError: (error: Error) => void }) => {
            asked.push([options["headersTimeout"], options["bodyTimeout"]])
            handler.onError(new Error("enough"))
            return true
          }
        })
      }
      const request = HttpClientRequest.get("http://127.0.0.1:1/")
      for (const settings of [
        {},
        { headersTimeout: "2 seconds", bodyTimeout: 3 },
        { bodyTimeout: "90 days" }
      ] as const) {
        const client = yield* HttpTransport.make({ ...settings, agent })
        yield* Effect.flip(client.execute(request))
      }
      assert.deepStrictEqual(asked, [
        [0, 0],
        [2000, 3],
        [0, 0]
      ])
    })
  )

  it.scopedLive("limits of time that are given count", () =>
    Effect.gen(function* () {
      const { url } = yield* Server.make([
        () => {},
        (_, outgoing) => {
          outgoing.writeHead(200)
          outgoing.write("begun")
        }
      ])
      const client = yield* HttpTransport.make({ headersTimeout: "50 millis", bodyTimeout: "50 millis" })
      assert.deepStrictEqual(told(yield* Effect.flip(client.execute(get(url)))), {
        failed: "RequestError",
        reason: "Transport"
      })
      const response = yield* client.execute(get(url))
      assert.deepStrictEqual(told(yield* Effect.flip(response.text)), { failed: "ResponseError", reason: "Decode" })
    })
  )

  it.scopedLive("connections are kept for as long as they are said to be", () =>
    Effect.gen(function* () {
      const { server, url } = yield* serve(say(200, {}, "x"))
      server.keepAliveTimeout = 0
      let opened = 0
      server.on("connection", () => opened++)
      const client = yield* HttpTransport.make({ connections: 1, keepAlive: "40 millis" })
      const call = Effect.flatMap(client.execute(get(url)), ({ text }) => text)
      yield* Effect.all([call, call, call], { concurrency: 3 })
      assert.strictEqual(opened, 1)
      assert.isBelow(yield* untilClosed(server), 2_000)
    })
  )

  it.scopedLive("compression: asked for, undone, and given on as it comes", () =>
    Effect.gen(function* () {
      const zip = { gzip: Zlib.gzipSync, br: Zlib.brotliCompressSync }
      let held: { readonly write: (text: string) => void; readonly end: () => void } | undefined
      const { asked, url } = yield* serve((incoming, outgoing) => {
        const [, how = "", what] = (incoming.url ?? "").split("/")
        if (how === "plain") return void outgoing.end("plain")
        outgoing.writeHead(200, { "content-encoding": how })
        if (what === "live") {
          const packer = Zlib.createGzip()
          packer.pipe(outgoing)
          held = {
            write: (text) => {
              packer.write(text)
              packer.flush()
            },
            end: () => packer.end()
          }
          held.write("one")
          return
        }
        const packed = how in zip ? zip[how as keyof typeof zip](html.repeat(50_000)) : Buffer.from(html)
        outgoing.end(what === "broken" ? Buffer.concat([Buffer.from("no"), packed]) : packed)
      })
      const client = yield* HttpTransport.make({ compression: true })
      const at = (path: string) => client.execute(HttpClientRequest.get(`${url}/${path}`))
      for (const how of ["gzip", "br"]) {
        const response = yield* at(how)
        assert.strictEqual(yield* response.text, html.repeat(50_000))
        assert.strictEqual(Buffer.from(yield* whole(yield* at(how)), "base64").toString(), html.repeat(50_000))
        assert.strictEqual(response.headers["content-encoding"], how)
        assert.deepStrictEqual(told(yield* Effect.flip(Effect.flatMap(at(`${how}/broken`), ({ text }) => text))), {
          failed: "ResponseError",
          reason: "Decode"
        })
      }
      assert.deepStrictEqual(new Set(asked.map((one) => one.headers["accept-encoding"])), new Set(["gzip, br"]))
      assert.strictEqual(yield* Effect.flatMap(at("plain"), ({ text }) => text), "plain")
      assert.strictEqual(yield* Effect.flatMap(at("zstd"), ({ text }) => text), html)
      assert.strictEqual((yield* client.execute(HttpClientRequest.head(`${url}/gzip`))).status, 200)

      const own = yield* client.execute(
        HttpClientRequest.get(`${url}/gzip`, { headers: { "accept-encoding": "gzip" } })
      )
      assert.strictEqual(Zlib.gunzipSync(Buffer.from(yield* own.arrayBuffer)).toString(), html.repeat(50_000))

      const seenSoFar = yield* Ref.make("")
      const live = yield* at("gzip/live")
      const reader = yield* Effect.fork(
        Stream.runForEach(live.stream, (part) => Ref.update(seenSoFar, (text) => text + Buffer.from(part).toString()))
      )
      yield* eventually(
        "one",
        Effect.map(Ref.get(seenSoFar), (text) => text === "one")
      )
      held?.write("two")
      yield* eventually(
        "two",
        Effect.map(Ref.get(seenSoFar), (text) => text === "onetwo")
      )
      held?.end()
      yield* Fiber.join(reader)
    })
  )

  it.scopedLive("a dispatcher of one's own", () =>
    Effect.gen(function* () {
      const agent = yield* Effect.acquireRelease(
        Effect.sync(() => new MockAgent()),
        (agent) => Effect.promise(() => agent.close())
      )
      agent.disableNetConnect()
      agent.get("http://mock.test").intercept({ path: "/a?b=1", method: "POST" }).reply(202, "answered")
      const client = HttpTransport.fromDispatcher(agent)
      const response = yield* client.execute(
        HttpClientRequest.bodyText(HttpClientRequest.post("http://mock.test/a?b=1#fragment"), "asked")
      )
      assert.deepStrictEqual([response.status, yield* response.text], [202, "answered"])
      assert.deepStrictEqual(
        told(yield* Effect.flip(client.execute(HttpClientRequest.get("http://mock.test/other")))),
        {
          failed: "RequestError",
          reason: "Transport"
        }
      )
    })
  )
})
