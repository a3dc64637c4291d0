/**
 * How a connection ends in every order of events: who is cut, who is not, and what is left when its owner was interrupted.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Connection from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as Connections from "@underlay/core/connection/Connections"
import * as Timeout from "@underlay/core/resilience/Timeout"
import { Chunk, Config, Deferred, Effect, Exit, Fiber, Queue, Scope, Stream, TestClock } from "effect"

const counted = () => {
  const left = { clients: 0 }
  const options = (name: string): ConnectionLifecycle.Options<number> => ({
    kind: "fake",
    name,
    plane: "internal",
    open: Effect.acquireRelease(
      Effect.sync(() => {
        left.clients++
        return 1
      }),
      () =>
        Effect.sync(() => {
          left.clients--
        })
    ),
    check: () => Effect.void
  })
  return { left, options }
}

const turns = Effect.repeatN(Effect.yieldNow(), 50)

const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return "none"
  const { cause } = exit
  return cause._tag === "Fail" && cause.error instanceof Connection.ConnectionError ? cause.error.reason : cause._tag
}

describe("the release of a connection", () => {
  for (const plane of ["internal", "external"] as const) {
    it.effect(`${plane}: by a fiber that is interrupted it drains, cuts, closes and tells as by any other`, () =>
      Effect.gen(function* () {
        const { left, options } = counted()
        const made = yield* Deferred.make<ConnectionLifecycle.Lifecycle<number>>()
        const owner = yield* Effect.fork(
          Effect.scoped(
            Effect.zipRight(
              Effect.flatMap(ConnectionLifecycle.make({ ...options("one"), plane }), (it) =>
                Deferred.succeed(made, it)
              ),
              Effect.never
            )
          )
        )
        const { call, connection } = yield* Deferred.await(made)
        const short = yield* Effect.fork(Effect.exit(call("short", () => Effect.sleep("2 seconds"))))
        const endless = yield* Effect.fork(Effect.exit(call("endless", () => Effect.never)))
        yield* turns
        const closing = yield* Effect.fork(Fiber.interrupt(owner))
        yield* turns
        assert.strictEqual(yield* connection.state, "draining")
        yield* TestClock.adjust("2 seconds")
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(short)))
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual(reasonOf(yield* Fiber.join(endless)), "Closed")
        yield* Fiber.join(closing)
        assert.strictEqual(left.clients, 0)
        const { cut, finished, inUse } = yield* connection.drained
        assert.deepStrictEqual({ cut, finished, inUse }, { cut: 1, finished: 1, inUse: 2 })
      })
    )
  }

  it.effect("two connections released at the same time: the outer call is cut too", () =>
    Effect.gen(function* () {
      const { options } = counted()
      const scopes = [yield* Scope.make(), yield* Scope.make()] as const
      const outer = yield* Scope.extend(ConnectionLifecycle.make(options("outer")), scopes[0])
      const inner = yield* Scope.extend(ConnectionLifecycle.make(options("inner")), scopes[1])
      const fiber = yield* Effect.fork(
        Effect.exit(
          outer.call("outer", () => Effect.zipRight(Effect.exit(inner.call("inner", () => Effect.never)), Effect.never))
        )
      )
      yield* turns
      const closing = yield* Effect.fork(
        Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void), { concurrency: 2 })
      )
      yield* turns
      yield* TestClock.adjust("5 seconds")
      yield* turns
      assert.strictEqual(
        reasonOf((yield* Fiber.poll(fiber)).pipe((o) => (o._tag === "Some" ? Exit.flatten(o.value) : Exit.void))),
        "Closed"
      )
      yield* Fiber.join(closing)
    })
  )

  it.effect("what a caller has forked before its call goes on when the call is cut", () =>
    Effect.gen(function* () {
      const { options } = counted()
      const scope = yield* Scope.make()
      const { call } = yield* Scope.extend(ConnectionLifecycle.make(options("one")), scope)
      const caller = yield* Effect.fork(
        Effect.gen(function* () {
          const child = yield* Effect.fork(Effect.as(Effect.sleep("1 minute"), "it went on"))
          const exit = yield* Effect.exit(call("endless", () => Effect.never))
          return [reasonOf(exit), yield* Effect.map(Fiber.await(child), reasonOf)]
        })
      )
      yield* turns
      yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* turns
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* Fiber.join(caller), ["Closed", "none"])
    })
  )

  it.effect("a caller that cannot be interrupted is cut as well", () =>
    Effect.gen(function* () {
      const { options } = counted()
      const scope = yield* Scope.make()
      const { call } = yield* Scope.extend(ConnectionLifecycle.make(options("one")), scope)
      const caller = yield* Effect.fork(Effect.uninterruptible(Effect.exit(call("endless", () => Effect.never))))
      yield* turns
      yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* turns
      yield* TestClock.adjust("5 seconds")
      yield* turns
      const polled = yield* Fiber.poll(caller)
      assert.strictEqual(polled._tag, "Some")
    })
  )

  describe("with a client whose calls end with it", () => {
    class Lost {
      readonly _tag = "Lost"
    }
    const ending = Effect.gen(function* () {
      const scope = yield* Scope.make()
      const pending = new Set<Deferred.Deferred<number, Lost>>()
      const ask = Effect.flatMap(Deferred.make<number, Lost>(), (reply) => {
        pending.add(reply)
        return Effect.ensuring(
          Deferred.await(reply),
          Effect.sync(() => pending.delete(reply))
        )
      })
      const lifecycle = yield* Scope.extend(
        ConnectionLifecycle.make({
          kind: "fake",
          name: "one",
          plane: "internal",
          callsEndWithClient: true,
          open: Effect.acquireRelease(Effect.succeed(ask), () =>
            Effect.suspend(() => Effect.forEach([...pending], (reply) => Deferred.fail(reply, new Lost())))
          ),
          check: () => Effect.void
        }),
        scope
      )
      return { ...lifecycle, pending, scope }
    })

    it.effect("the release ends them as `Closed`, also where they cannot be interrupted, and nothing else", () =>
      Effect.gen(function* () {
        const { call, connection, pending, scope } = yield* ending
        const caller = yield* Effect.fork(
          Effect.gen(function* () {
            const child = yield* Effect.fork(Effect.as(Effect.sleep("1 minute"), "it went on"))
            const exit = yield* Effect.exit(call("endless", (ask) => ask))
            return [reasonOf(exit), yield* Effect.map(Fiber.await(child), reasonOf)]
          })
        )
        const held = yield* Effect.fork(Effect.uninterruptible(Effect.exit(call("held", (ask) => ask))))
        const answered = yield* Effect.fork(Effect.exit(call("answered", (ask) => ask)))
        yield* turns
        const [, , last] = pending
        assert.isDefined(last)
        assert.strictEqual((yield* connection.stats).inUse, 3)
        yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* turns
        assert.strictEqual(yield* connection.state, "draining")
        if (last !== undefined) yield* Deferred.succeed(last, 7)
        assert.deepStrictEqual(yield* Fiber.join(answered), Exit.succeed(7))
        yield* TestClock.adjust("5 seconds")
        yield* turns
        assert.strictEqual(reasonOf(yield* Fiber.join(held)), "Closed")
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(yield* Fiber.join(caller), ["Closed", "none"])
        const { cut, finished, inUse } = yield* connection.drained
        assert.deepStrictEqual({ cut, finished, inUse }, { cut: 2, finished: 1, inUse: 3 })
      })
    )

    it.effect("their own failures, defects and interruptions stay what they are", () =>
      Effect.gen(function* () {
        const { call, connection, pending, scope } = yield* ending
        assert.deepStrictEqual(yield* Effect.exit(call("fails", () => Effect.fail("own"))), Exit.fail("own"))
        assert.strictEqual(reasonOf(yield* Effect.exit(call("dies", () => Effect.die("a bug")))), "Die")
        const fiber = yield* Effect.fork(call("interrupted", (ask) => ask))
        yield* turns
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
        assert.strictEqual(pending.size, 0)
        assert.strictEqual((yield* connection.stats).inUse, 0)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(reasonOf(yield* Effect.exit(call("late", (ask) => ask))), "Closed")
        assert.strictEqual((yield* connection.drained).cut, 0)
      })
    )
  })

  it.effect("a stream that is between two elements is cut at the next one", () =>
    Effect.gen(function* () {
      const { options } = counted()
      const scope = yield* Scope.make()
      const { stream } = yield* Scope.extend(ConnectionLifecycle.make(options("one")), scope)
      const gate = yield* Queue.unbounded<void>()
      let pulls = 0
      const fiber = yield* Effect.fork(
        Effect.exit(
          Stream.runForEach(
            stream("list", () =>
              Stream.repeatEffectChunk(
                Effect.sync(() => {
                  pulls++
                  return Chunk.of(pulls)
                })
              )
            ),
            () => Queue.take(gate)
          )
        )
      )
      yield* turns
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* turns
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(closing)
      const before = pulls
      yield* Queue.offer(gate, undefined)
      yield* turns
      assert.strictEqual(pulls, before)
      const polled = yield* Fiber.poll(fiber)
      assert.strictEqual(polled._tag === "Some" ? reasonOf(Exit.flatten(polled.value)) : "it hangs", "Closed")
    })
  )

  it.effect("who joins what a use has forked is not let through while it drains", () =>
    Effect.gen(function* () {
      const { options } = counted()
      const scope = yield* Scope.make()
      const { call, connection } = yield* Scope.extend(ConnectionLifecycle.make(options("one")), scope)
      yield* Effect.fork(Effect.exit(call("endless", () => Effect.never)))
      const fiber = yield* connection.use(() => Effect.forkDaemon(Effect.void))
      yield* Fiber.join(fiber)
      yield* turns
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* turns
      assert.strictEqual(reasonOf(yield* Effect.exit(call("late", Effect.succeed))), "Closed")
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(closing)
    })
  )

  it.effect("in the background a defect does not end the attempts", () =>
    Effect.gen(function* () {
      const { options } = counted()
      let tries = 0
      const { connection } = yield* ConnectionLifecycle.make({
        ...options("one"),
        connect: "background",
        open: Effect.suspend(() => (++tries < 3 ? Effect.dieMessage("a bug of the driver") : Effect.succeed(1)))
      })
      yield* turns
      assert.strictEqual(yield* connection.state, "down")
      yield* TestClock.adjust("1 minute")
      yield* turns
      assert.strictEqual(yield* connection.state, "ready")
    }).pipe(Effect.scoped)
  )

  it.effect("a limit of time in the release of an interrupted fiber is no interruption", () =>
    Effect.gen(function* () {
      const ended = yield* Deferred.make<string>()
      const fiber = yield* Effect.fork(
        Effect.onInterrupt(Effect.never, () =>
          Effect.flatMap(
            Effect.exit(
              Timeout.within(Effect.zipRight(Effect.sleep("1 second"), Effect.succeed("done")), {
                duration: "1 minute",
                service: "s"
              })
            ),
            (exit) => Deferred.succeed(ended, Exit.isSuccess(exit) ? exit.value : exit.cause._tag)
          )
        )
      )
      yield* turns
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* turns
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Deferred.await(ended), "done")
      yield* Fiber.join(interrupting)
    })
  )
})

describe("the release of a registry", () => {
  const fake = (make: () => Effect.Effect<void>) =>
    Connection.kind({
      kind: "fake",
      settings: Config.succeed(1),
      make: (name) =>
        Effect.as(make(), {
          name,
          kind: "fake",
          plane: "internal" as const,
          use: <A, E, R>(f: (client: number) => Effect.Effect<A, E, R>) => f(1),
          health: Effect.succeed({ status: "up" as const }),
          stats: Effect.succeed({ total: 0, idle: 0, inUse: 0, waiting: 0 }),
          state: Effect.succeed("ready" as const),
          drained: Effect.never
        })
    })

  it.effect("who waits for a build that a drain stops is told that it is closed, not interrupted", () =>
    Effect.gen(function* () {
      const kind = fake(() => Effect.never)
      const registry = yield* Connections.make([kind])
      const caller = yield* Effect.fork(Effect.exit(Effect.scoped(registry.get(kind))))
      yield* turns
      yield* registry.drain
      assert.strictEqual(reasonOf(yield* Fiber.join(caller)), "Closed")
    }).pipe(Effect.scoped)
  )

  it.live("what is drained or taken out of the registry leaves no timer", () =>
    Effect.gen(function* () {
      const timers = () => process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length
      const kind = fake(() => Effect.void)
      const registry = yield* Connections.make([kind])
      const before = timers()
      for (const end of [registry.invalidate(kind), registry.drain]) {
        yield* Effect.scoped(registry.get(kind))
        assert.strictEqual(timers(), before + 1)
        yield* end
        yield* turns
        assert.strictEqual(timers(), before)
      }
    }).pipe(Effect.scoped)
  )
})
