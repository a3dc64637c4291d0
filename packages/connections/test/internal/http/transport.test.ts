import * as Http from "node:http"
import { assert, describe, it } from "@effect/vitest"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Sockets from "@underlay/servers/Sockets"
import { Effect, Exit, Fiber, Scope } from "effect"
import * as Transport from "../../../src/internal/http/transport.ts"

/** It answers at once, or, to `/late`, when it is let; and never to `/never`. */
const service = Effect.gen(function* () {
  const late: Array<() => void> = []
  let asked = 0
  const server = yield* Effect.acquireRelease(
    Effect.async<Http.Server>((resume) => {
      const made: Http.Server = Http.createServer((request, response) => {
        asked++
        if (request.url === "/never") return
        if (request.url === "/late") late.push(() => response.end("late"))
        else response.end("ok")
      }).listen(0, "127.0.0.1", () => resume(Effect.succeed(made)))
    }),
    (server) =>
      Effect.async<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )
  const address = server.address()
  const proxy = yield* FaultProxy.make({ port: typeof address === "object" && address !== null ? address.port : 0 })
  const client = yield* Transport.make({ kind: "test", name: "test" }, { connections: 10, connectTimeout: "5 seconds" })
  const get = (path: string) =>
    Effect.flatMap(client.get(`http://127.0.0.1:${proxy.port}${path}`), (response) => response.text)
  return { asked: () => asked, get, late, proxy }
})

const until = <A, E, R>(effect: Effect.Effect<A, E, R>, wanted: (value: A) => boolean): Effect.Effect<A, E, R> =>
  Effect.flatMap(effect, (value) =>
    wanted(value) ? Effect.succeed(value) : Effect.delay(until(effect, wanted), "10 millis")
  )

describe("connections of HTTP", () => {
  it.scopedLive("none is used again once one was silent and nobody heard anything", () =>
    Effect.gen(function* () {
      const { get, proxy } = yield* service
      yield* Effect.all([get("/"), get("/"), get("/")], { concurrency: "unbounded" })
      assert.strictEqual(yield* proxy.halfOpen(true), 3)
      yield* proxy.halfOpen(false)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.timeout(get("/"), "300 millis"))))
      assert.strictEqual(yield* Effect.timeout(get("/"), "2 seconds"), "ok")
      yield* until(Sockets.heldTo(proxy.port), (held) => held === 1).pipe(Effect.timeout("1 second"))
    })
  )

  it.scopedLive("who gives up at once, or while others are answered, costs nobody a connection", () =>
    Effect.gen(function* () {
      const { asked, get, proxy } = yield* service
      yield* Effect.all(
        Array.from({ length: 5 }, () => get("/")),
        { concurrency: "unbounded" }
      )
      // Its own connection is lost, for the answer may still come on it.
      yield* Effect.exit(Effect.timeout(get("/never"), "50 millis"))
      yield* get("/")
      assert.isAtLeast(yield* Sockets.heldTo(proxy.port), 4)
      const before = asked()
      const slow = yield* Effect.fork(Effect.exit(Effect.timeout(get("/never"), "400 millis")))
      yield* until(Effect.sync(asked), (now) => now > before)
      yield* get("/")
      yield* Fiber.join(slow)
      yield* get("/")
      assert.isAtLeast(yield* Sockets.heldTo(proxy.port), 3)
    })
  )

  it.scopedLive("what is under way when they are replaced is answered, and its connection is closed then", () =>
    Effect.gen(function* () {
      const { get, late, proxy } = yield* service
      const waiting = yield* Effect.fork(get("/late"))
      yield* until(
        Effect.sync(() => late.length),
        (count) => count === 1
      )
      yield* Effect.exit(Effect.timeout(get("/never"), "300 millis"))
      yield* get("/")
      for (const answer of late) answer()
      assert.strictEqual(yield* Fiber.join(waiting), "late")
      yield* until(Sockets.heldTo(proxy.port), (held) => held === 1).pipe(Effect.timeout("1 second"))
    })
  )

  it.scopedLive("those who give up while all are silent do not add to the connections without end", () =>
    Effect.gen(function* () {
      const { get, proxy } = yield* service
      for (let time = 0; time < 5; time++) {
        yield* Effect.forkScoped(Effect.exit(get("/never")))
        yield* Effect.exit(Effect.timeout(get("/never"), "250 millis"))
      }
      for (let more = 0; more < 30; more++) yield* Effect.forkScoped(Effect.exit(get("/never")))
      yield* until(Sockets.heldTo(proxy.port), (held) => held >= 11)
      yield* Effect.exit(Effect.timeout(get("/never"), "250 millis"))
      // Ten at the most, and as many again that were replaced.
      assert.isAtMost(yield* Sockets.heldTo(proxy.port), 20)
    })
  )

  it.scopedLive("what waited for a connection, when the last one was given up, ends with the scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { asked, get, proxy } = yield* Scope.extend(service, scope)
      const begin = Effect.forkDaemon(Effect.exit(get("/never")))
      const first = yield* Effect.replicateEffect(begin, 10)
      yield* until(Effect.sync(asked), (now) => now === 10)
      const queued = yield* begin
      yield* Effect.sleep("20 millis")
      yield* Fiber.interruptAll(first)
      yield* until(Effect.sync(asked), (now) => now === 11)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.isFailure(yield* Effect.timeout(Fiber.join(queued), "2 seconds")))
      assert.strictEqual(yield* Sockets.heldTo(proxy.port), 0)
    })
  )

  it.scopedLive("all are closed with the scope, also those that were replaced", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { asked, get, late, proxy } = yield* Scope.extend(service, scope)
      // Nobody interrupts these: it is the end of the connections that ends them.
      const waiting = yield* Effect.forkDaemon(Effect.exit(get("/late")))
      yield* until(
        Effect.sync(() => late.length),
        (count) => count === 1
      )
      yield* Effect.exit(Effect.timeout(get("/never"), "300 millis"))
      yield* get("/")
      const before = asked()
      const current = yield* Effect.forkDaemon(Effect.exit(get("/never")))
      yield* until(Effect.sync(asked), (now) => now > before)
      yield* Scope.close(scope, Exit.void)
      for (const fiber of [waiting, current]) {
        assert.isTrue(Exit.isFailure(yield* Effect.timeout(Fiber.join(fiber), "2 seconds")))
      }
      assert.isTrue(Exit.isFailure(yield* Effect.exit(get("/"))))
      assert.strictEqual(yield* Sockets.heldTo(proxy.port), 0)
    })
  )
})
