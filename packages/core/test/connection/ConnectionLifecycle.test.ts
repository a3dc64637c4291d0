import { assert, describe, it } from "@effect/vitest"
import { Chunk, Deferred, Effect, Exit, Fiber, FiberRef, Option, Ref, Scope, Stream, TestClock } from "effect"
import * as Connection from "../../src/connection/Connection.ts"
import * as ConnectionLifecycle from "../../src/connection/ConnectionLifecycle.ts"
import * as Health from "../../src/operations/Health.ts"
import * as ConnectionSuite from "../../src/testing/ConnectionSuite.ts"
import * as Recording from "../../src/testing/Recording.ts"

const failure = (reason: Connection.ConnectionErrorReason, description = "it is away", sent?: boolean) =>
  new Connection.ConnectionError({
    reason,
    kind: "fake",
    connection: "fake",
    method: "test",
    description,
    ...(sent === undefined ? {} : { sent })
  })

/** The other side, and what the connection did with it. */
const other = Effect.gen(function* () {
  const opened = yield* Ref.make(0)
  const closed = yield* Ref.make(0)
  const open = yield* Ref.make<Effect.Effect<void, Connection.ConnectionError>>(Effect.void)
  const check = yield* Ref.make<ConnectionLifecycle.Checked>(Effect.void)
  const asked = yield* Ref.make(0)
  const options: ConnectionLifecycle.Options<number> = {
    kind: "fake",
    name: "fake",
    plane: "internal",
    open: Effect.acquireRelease(
      Effect.zipRight(
        Effect.flatten(Ref.get(open)),
        Ref.updateAndGet(opened, (n) => n + 1)
      ),
      () => Ref.update(closed, (n) => n + 1)
    ),
    check: () =>
      Effect.zipRight(
        Ref.update(asked, (n) => n + 1),
        Effect.flatMap(Effect.flatten(Ref.get(check)), (result) =>
          result === undefined ? Effect.void : Effect.succeed(result)
        )
      ) as ConnectionLifecycle.Checked
  }
  return { options, opened, closed, open, check, asked }
})

const errorOf = <A>(exit: Exit.Exit<A, unknown>): Connection.ConnectionError => {
  if (Exit.isSuccess(exit) || exit.cause._tag !== "Fail") throw new Error(`it did not fail typed: ${exit}`)
  if (!(exit.cause.error instanceof Connection.ConnectionError)) throw new Error("another error")
  return exit.cause.error
}

const turns = Effect.repeatN(Effect.yieldNow(), 50)

describe("ConnectionLifecycle", () => {
  describe("connects", () => {
    it.effect("eager: open and check come first, and what they fail with is the failure", () =>
      Effect.gen(function* () {
        const it = yield* other
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { connection } = yield* ConnectionLifecycle.make(it.options)
            assert.strictEqual(yield* connection.state, "ready")
            assert.deepStrictEqual([yield* Ref.get(it.opened), yield* Ref.get(it.asked)], [1, 1])
          })
        )
        assert.strictEqual(yield* Ref.get(it.closed), 1)
        yield* Ref.set(it.open, failure("Authentication"))
        const refused = yield* Effect.exit(Effect.scoped(ConnectionLifecycle.make(it.options)))
        assert.strictEqual(errorOf(refused).reason, "Authentication")
        yield* Ref.set(it.open, Effect.void)
        yield* Ref.set(it.check, failure("NotFound"))
        const unchecked = yield* Effect.exit(Effect.scoped(ConnectionLifecycle.make(it.options)))
        assert.strictEqual(errorOf(unchecked).reason, "NotFound")
        yield* Ref.set(it.check, Effect.succeed({ status: "down" }))
        const down = yield* Effect.exit(Effect.scoped(ConnectionLifecycle.make(it.options)))
        assert.strictEqual(errorOf(down).reason, "Unavailable")
        assert.strictEqual(yield* Ref.get(it.opened), yield* Ref.get(it.closed))
      })
    )

    for (const mask of ["interruptible", "uninterruptible"] as const) {
      it.effect(`eager: an opening that never ends is a Timeout after five seconds (${mask})`, () =>
        Effect.gen(function* () {
          const it = yield* other
          const end = yield* Deferred.make<void>()
          yield* Ref.set(it.open, Effect[mask](Deferred.await(end)))
          const fiber = yield* Effect.fork(Effect.scoped(ConnectionLifecycle.make(it.options)).pipe(Effect.exit))
          yield* TestClock.adjust("4999 millis")
          assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
          yield* TestClock.adjust("1 millis")
          // The release waits for what is being opened, within its own limit.
          yield* TestClock.adjust("5 seconds")
          assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Timeout")
          yield* Deferred.succeed(end, undefined)
          yield* turns
          // What was opened too late is closed.
          assert.strictEqual(yield* Ref.get(it.opened), yield* Ref.get(it.closed))
        })
      )
    }

    it.effect("lazy: nothing happens before the first call; then once, however many come", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call, connection } = yield* ConnectionLifecycle.make({ ...it.options, connect: "lazy" })
        assert.strictEqual(yield* connection.state, "idle")
        assert.strictEqual(yield* Ref.get(it.opened), 0)
        const gate = yield* Deferred.make<void>()
        yield* Ref.set(it.open, Deferred.await(gate))
        const fiber = yield* Effect.fork(
          Effect.all(
            Array.from({ length: 20 }, () => call("get", Effect.succeed)),
            { concurrency: "unbounded" }
          )
        )
        yield* turns
        assert.strictEqual(yield* connection.state, "connecting")
        assert.strictEqual((yield* connection.stats).waiting, 20)
        yield* Deferred.succeed(gate, undefined)
        assert.deepStrictEqual(
          yield* Fiber.join(fiber),
          Array.from({ length: 20 }, () => 1)
        )
        assert.strictEqual(yield* connection.state, "ready")
        assert.deepStrictEqual((yield* connection.stats).waiting, 0)
        assert.strictEqual((yield* connection.stats).acquire?.count, 20)
      }).pipe(Effect.scoped)
    )

    it.effect("lazy: after a failure the next call tries anew; all who waited have the failure", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call, connection } = yield* ConnectionLifecycle.make({ ...it.options, connect: "lazy" })
        yield* Ref.set(it.open, failure("Unavailable"))
        const exits = yield* Effect.all(
          Array.from({ length: 3 }, () => Effect.exit(call("get", Effect.succeed))),
          { concurrency: "unbounded" }
        )
        for (const exit of exits) assert.strictEqual(errorOf(exit).reason, "Unavailable")
        assert.strictEqual(yield* connection.state, "down")
        yield* Ref.set(it.open, Effect.void)
        assert.strictEqual(yield* call("get", Effect.succeed), 1)
        assert.strictEqual(yield* connection.state, "ready")
      }).pipe(Effect.scoped)
    )

    it.effect("a caller who is interrupted leaves the opening to the others", () =>
      Effect.gen(function* () {
        const it = yield* other
        const gate = yield* Deferred.make<void>()
        yield* Ref.set(it.open, Deferred.await(gate))
        const { call, connection } = yield* ConnectionLifecycle.make({ ...it.options, connect: "lazy" })
        const first = yield* Effect.fork(call("get", Effect.succeed))
        const second = yield* Effect.fork(call("get", Effect.succeed))
        yield* turns
        yield* Fiber.interrupt(first)
        assert.strictEqual((yield* connection.stats).waiting, 1)
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(second), 1)
      }).pipe(Effect.scoped)
    )

    it.effect("background: it is there at once, tries again with growing waits, and calls try for themselves", () =>
      Effect.gen(function* () {
        const it = yield* other
        const tries = yield* Ref.make(0)
        yield* Ref.set(
          it.open,
          Effect.zipRight(
            Ref.update(tries, (n) => n + 1),
            failure("Unavailable")
          )
        )
        const { call, connection } = yield* ConnectionLifecycle.make({ ...it.options, connect: "background" })
        assert.strictEqual(yield* connection.state, "connecting")
        yield* TestClock.adjust("10 seconds")
        const after10 = yield* Ref.get(tries)
        assert.isTrue(after10 >= 5 && after10 <= 9, String(after10))
        assert.strictEqual(yield* connection.state, "down")
        yield* TestClock.adjust("10 minutes")
        const later = (yield* Ref.get(tries)) - after10
        assert.isTrue(later >= 18 && later <= 40, String(later))
        assert.strictEqual(errorOf(yield* Effect.exit(call("get", Effect.succeed))).reason, "Unavailable")
        yield* Ref.set(it.open, Effect.void)
        yield* TestClock.adjust("40 seconds")
        assert.strictEqual(yield* connection.state, "ready")
        assert.strictEqual(yield* Ref.get(it.opened), 1)
      }).pipe(Effect.scoped)
    )

    it.effect("background: what its check refuses is opened once and asked again", () =>
      Effect.gen(function* () {
        const it = yield* other
        yield* Ref.set(it.check, failure("Unavailable"))
        const { connection } = yield* ConnectionLifecycle.make({ ...it.options, connect: "background" })
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(yield* connection.state, "down")
        yield* Ref.set(it.check, Effect.void)
        yield* TestClock.adjust("1 minutes")
        assert.strictEqual(yield* connection.state, "ready")
        assert.strictEqual(yield* Ref.get(it.opened), 1)
      }).pipe(Effect.scoped)
    )
  })

  describe("lends", () => {
    it.effect("failures, defects and references of the call are the caller's own", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call } = yield* ConnectionLifecycle.make(it.options)
        assert.deepStrictEqual(yield* Effect.exit(call("get", () => Effect.fail("mine"))), Exit.fail("mine"))
        assert.isTrue(Exit.isFailure(yield* Effect.exit(call("get", () => Effect.dieMessage("a bug")))))
        const thrown = yield* Effect.exit(
          call("get", (): Effect.Effect<void> => {
            throw new Error("a bug")
          })
        )
        assert.isTrue(Exit.isFailure(thrown) && thrown.cause._tag === "Die")
        const ref = yield* FiberRef.make(0)
        yield* call("get", () => FiberRef.set(ref, 7))
        assert.strictEqual(yield* FiberRef.get(ref), 7)
      }).pipe(Effect.scoped)
    )

    it.effect("an interruption reaches the call, and is waited for", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call, connection } = yield* ConnectionLifecycle.make(it.options)
        const cleaned = yield* Ref.make(false)
        const fiber = yield* Effect.fork(
          call("get", () => Effect.onInterrupt(Effect.never, () => Effect.delay(Ref.set(cleaned, true), "10 millis")))
        )
        yield* turns
        assert.strictEqual((yield* connection.stats).inUse, 1)
        const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
        yield* TestClock.adjust("10 millis")
        yield* Fiber.join(interrupting)
        assert.isTrue(yield* Ref.get(cleaned))
        assert.strictEqual((yield* connection.stats).inUse, 0)
      }).pipe(Effect.scoped)
    )

    it.effect("interrupted after any number of steps, nothing stays counted", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { borrow, call, connection, stream } = yield* ConnectionLifecycle.make({ ...it.options, connect: "lazy" })
        const works = [
          call("get", (n) => Effect.as(Effect.yieldNow(), n)),
          connection.use(() => Effect.yieldNow()),
          Effect.scoped(Effect.zipRight(borrow, Effect.yieldNow())),
          Stream.runDrain(stream("list", () => Stream.repeatEffect(Effect.yieldNow()).pipe(Stream.take(3))))
        ]
        for (const work of works) {
          for (let steps = 0; steps < 40; steps++) {
            const fiber = yield* Effect.fork(work)
            yield* Effect.repeatN(Effect.yieldNow(), steps)
            yield* Fiber.interrupt(fiber)
            const { inUse, waiting } = yield* connection.stats
            assert.deepStrictEqual([inUse, waiting], [0, 0], `after ${steps} steps`)
          }
        }
      }).pipe(Effect.scoped)
    )

    it.effect("a stream is lent as long as it lasts", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { connection, stream } = yield* ConnectionLifecycle.make(it.options)
        const seen = yield* stream("list", (n) => Stream.make(n, n + 1)).pipe(
          Stream.tap(() => Effect.map(connection.stats, ({ inUse }) => assert.strictEqual(inUse, 1))),
          Stream.runCollect
        )
        assert.deepStrictEqual(Chunk.toArray(seen), [1, 2])
        assert.strictEqual((yield* connection.stats).inUse, 0)
        const failed = yield* Effect.exit(Stream.runDrain(stream("list", () => Stream.fail("mine"))))
        assert.deepStrictEqual(failed, Exit.fail("mine"))
      }).pipe(Effect.scoped)
    )

    it.effect("internal: a limit of time is kept, also over what cannot be interrupted", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call } = yield* ConnectionLifecycle.make(it.options)
        const fiber = yield* Effect.fork(
          Effect.exit(call("get", () => Effect.uninterruptible(Effect.never), { timeout: "1 seconds" }))
        )
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Timeout")
      })
        // The call that cannot be interrupted would hold the release for its drain timeout.
        .pipe(
          (test) => Effect.scoped(test),
          Effect.fork,
          Effect.zipLeft(TestClock.adjust("1 minutes")),
          Effect.flatMap(Fiber.join)
        )
    )

    it.effect("internal: nothing is shown, whatever happens", () =>
      Effect.gen(function* () {
        const it = yield* other
        yield* Effect.gen(function* () {
          const { call, connection, stream } = yield* ConnectionLifecycle.make({ ...it.options, connect: "lazy" })
          yield* Ref.set(it.open, failure("Unavailable"))
          yield* Effect.exit(call("get", Effect.succeed))
          yield* Ref.set(it.open, Effect.void)
          yield* call("get", Effect.succeed)
          yield* Effect.exit(call("get", () => Effect.fail("mine")))
          yield* Effect.exit(call("get", () => Effect.fail("mine"), { timeout: "1 seconds" }))
          yield* Effect.exit(connection.use(() => Effect.fail("mine")))
          // `Stream.runDrain` of a stream that fails has Effect log a line by itself.
          yield* Effect.scoped(Effect.flatMap(Stream.toPull(stream("list", () => Stream.fail("mine"))), Effect.exit))
          yield* connection.health
          yield* Ref.set(it.check, failure("Unavailable"))
          yield* connection.health
        }).pipe(Effect.scoped, Recording.assertSilent)
      })
    )

    it.effect("external: one span and one line for each call and stream; use is none, or one if it is watched", () =>
      Effect.gen(function* () {
        const it = yield* other
        const recording = yield* Recording.make
        yield* recording.within(
          Effect.gen(function* () {
            const { call, connection, stream } = yield* ConnectionLifecycle.make({ ...it.options, plane: "external" })
            yield* call("get", Effect.succeed)
            yield* Effect.exit(call("put", () => Effect.fail(failure("Conflict"))))
            yield* Stream.runDrain(stream("list", () => Stream.make(1, 2, 3)))
            yield* connection.use(Effect.succeed)
            const watched = yield* ConnectionLifecycle.make({ ...it.options, plane: "external", watchUse: true })
            yield* watched.connection.use(Effect.succeed)
          }).pipe(Effect.scoped)
        )
        const spans = (yield* recording.spans).map(({ name }) => name)
        assert.deepStrictEqual(spans, ["fake.get", "fake.put", "fake.list", "fake.use"])
        assert.strictEqual((yield* recording.lines).length, 4)
      })
    )

    it.effect("external: what was not sent is sent again; what was, only if it is idempotent; a conflict never", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call } = yield* ConnectionLifecycle.make({
          ...it.options,
          plane: "external",
          watch: { policy: { breaker: false } }
        })
        const attempts = (error: Connection.ConnectionError, idempotent?: boolean) =>
          Effect.gen(function* () {
            const count = yield* Ref.make(0)
            const fiber = yield* Effect.fork(
              Effect.exit(
                call(
                  "put",
                  () =>
                    Effect.zipRight(
                      Ref.update(count, (n) => n + 1),
                      error
                    ),
                  idempotent === undefined ? {} : { idempotent }
                )
              )
            )
            yield* TestClock.adjust("25 seconds")
            assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, error.reason)
            return yield* Ref.get(count)
          })
        assert.strictEqual(yield* attempts(failure("Unavailable", "it broke off")), 1)
        assert.strictEqual(yield* attempts(failure("Unavailable", "nobody there", false)), 3)
        assert.strictEqual(yield* attempts(failure("Unavailable", "it broke off"), true), 3)
        assert.strictEqual(yield* attempts(failure("Conflict"), true), 1)
        assert.strictEqual(yield* attempts(failure("InvalidRequest"), true), 1)
      }).pipe(Effect.scoped)
    )

    it.effect("external: limits and refusals of the policy come as errors of the connection", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { call } = yield* ConnectionLifecycle.make({
          ...it.options,
          plane: "external",
          watch: { policy: { retry: false } }
        })
        const fiber = yield* Effect.fork(Effect.exit(call("get", () => Effect.never, { timeout: "1 seconds" })))
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Timeout")
        for (let n = 0; n < 5; n++) yield* Effect.exit(call("get", () => failure("Unavailable")))
        const refused = errorOf(yield* Effect.exit(call("get", Effect.succeed)))
        assert.strictEqual(refused.reason, "Unavailable")
        assert.isDefined(refused.retryAfter)
      }).pipe(Effect.scoped)
    )
  })

  describe("health", () => {
    it.effect("is up with what the check tells, down with the reason; the state follows", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { connection } = yield* ConnectionLifecycle.make(it.options)
        yield* Ref.set(it.check, Effect.succeed({ status: "degraded", details: { lag: 3 } }))
        const degraded = yield* connection.health
        assert.deepStrictEqual(degraded, {
          status: "degraded",
          details: { state: "ready", total: 0, idle: 0, inUse: 0, waiting: 0, lag: 3 }
        })
        yield* Ref.set(it.check, failure("Authentication", "the password is wrong"))
        const down = yield* connection.health
        assert.strictEqual(down.status, "down")
        assert.strictEqual(down.details?.["reason"], "Authentication")
        assert.strictEqual(yield* connection.state, "down")
        yield* Ref.set(it.check, Effect.dieMessage("a bug"))
        assert.strictEqual((yield* connection.health).status, "down")
        yield* Ref.set(it.check, Effect.void)
        assert.strictEqual((yield* connection.health).status, "up")
        assert.strictEqual(yield* connection.state, "ready")
      }).pipe(Effect.scoped)
    )

    it.effect("answers in its budget though the check never ends, and asks no second time meanwhile", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { connection } = yield* ConnectionLifecycle.make({ ...it.options, healthTimeout: "1 seconds" })
        const end = yield* Deferred.make<void>()
        yield* Ref.set(it.check, Effect.uninterruptible(Effect.as(Deferred.await(end), undefined)))
        const asked = yield* Ref.get(it.asked)
        const fiber = yield* Effect.fork(Effect.all([connection.health, connection.health], { concurrency: 2 }))
        yield* TestClock.adjust("1 seconds")
        for (const result of yield* Fiber.join(fiber)) assert.strictEqual(result.status, "down")
        assert.strictEqual((yield* Ref.get(it.asked)) - asked, 1)
        // At once: there is one that has not ended yet.
        assert.strictEqual((yield* connection.health).details?.["reason"], "Timeout")
        assert.strictEqual((yield* Ref.get(it.asked)) - asked, 1)
        yield* Deferred.succeed(end, undefined)
        yield* turns
        yield* Ref.set(it.check, Effect.void)
        assert.strictEqual((yield* connection.health).status, "up")
      }).pipe(Effect.scoped)
    )

    it.effect("answers in its budget though the counts never come, or cannot", () =>
      Effect.gen(function* () {
        const it = yield* other
        const counts = yield* Ref.make<Effect.Effect<Connection.ConnectionStats>>(Effect.never)
        const { connection } = yield* ConnectionLifecycle.make({
          ...it.options,
          healthTimeout: "1 seconds",
          stats: () => Effect.flatten(Ref.get(counts))
        })
        const gate = yield* Deferred.make<void>()
        for (const hanging of [Effect.never, Effect.uninterruptible(Effect.never)]) {
          yield* Ref.set(counts, hanging)
          // What the check leaves of the time is theirs.
          yield* Ref.set(it.check, Effect.as(Effect.sleep("400 millis"), undefined))
          const fiber = yield* Effect.fork(connection.health)
          yield* TestClock.adjust("999 millis")
          assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
          yield* TestClock.adjust("1 millis")
          assert.deepStrictEqual(yield* Fiber.join(fiber), { status: "up", details: { state: "ready" } })
        }
        // There at once, they are told also where the check took all of the time.
        yield* Ref.set(counts, Effect.succeed({ total: 3, idle: 1, inUse: 2, waiting: 0 }))
        yield* Ref.set(it.check, Effect.as(Deferred.await(gate), undefined))
        const late = yield* Effect.fork(connection.health)
        yield* TestClock.adjust("1 seconds")
        const told = yield* Fiber.join(late)
        assert.strictEqual(told.status, "down")
        assert.strictEqual(told.details?.["total"], 3)
        yield* Deferred.succeed(gate, undefined)
        yield* turns
        yield* Ref.set(it.check, Effect.void)
        yield* Ref.set(counts, Effect.dieMessage("a bug"))
        assert.deepStrictEqual(yield* connection.health, { status: "up", details: { state: "ready" } })
      }).pipe(Effect.scoped)
    )

    it.effect("who asks and is interrupted does not stop it for the others", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { connection } = yield* ConnectionLifecycle.make(it.options)
        const gate = yield* Deferred.make<void>()
        yield* Ref.set(it.check, Effect.as(Deferred.await(gate), undefined))
        const first = yield* Effect.fork(connection.health)
        const second = yield* Effect.fork(connection.health)
        yield* turns
        yield* Fiber.interrupt(first)
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(second)).status, "up")
      }).pipe(Effect.scoped)
    )

    it.effect("it registers itself for readiness, not for liveness", () =>
      Effect.gen(function* () {
        const it = yield* other
        const health = yield* Health.make
        yield* Effect.provideService(ConnectionLifecycle.make(it.options), Health.Health, health)
        yield* Ref.set(it.check, failure("Unavailable"))
        assert.strictEqual((yield* health.report("ready")).status, "down")
        assert.strictEqual((yield* health.report("live")).status, "up")
      }).pipe(Effect.scoped)
    )
  })

  describe("is released", () => {
    it.effect("at once where nothing is under way", () =>
      Effect.gen(function* () {
        const it = yield* other
        const { connection } = yield* Effect.scoped(ConnectionLifecycle.make(it.options))
        assert.deepStrictEqual(yield* connection.drained, {
          kind: "fake",
          name: "fake",
          inUse: 0,
          finished: 0,
          cut: 0,
          tookMs: 0
        })
        assert.strictEqual(yield* connection.state, "closed")
        assert.strictEqual(errorOf(yield* Effect.exit(connection.use(Effect.succeed))).reason, "Closed")
        assert.strictEqual((yield* connection.health).status, "down")
      })
    )

    it.effect("what is under way may end, what comes after is refused, what takes too long is cut with Closed", () =>
      Effect.gen(function* () {
        const it = yield* other
        const scope = yield* Scope.make()
        const { call, connection } = yield* Scope.extend(ConnectionLifecycle.make(it.options), scope)
        const short = yield* Effect.fork(call("short", () => Effect.sleep("2 seconds")))
        const endless = yield* Effect.fork(Effect.exit(call("endless", () => Effect.never)))
        const stubborn = yield* Effect.fork(Effect.exit(connection.use(() => Effect.uninterruptible(Effect.never))))
        yield* turns
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* turns
        assert.strictEqual(yield* connection.state, "draining")
        assert.strictEqual(errorOf(yield* Effect.exit(call("late", Effect.succeed))).reason, "Closed")
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(short)
        assert.strictEqual(yield* Ref.get(it.closed), 0)
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual(errorOf(yield* Fiber.join(endless)).reason, "Closed")
        assert.strictEqual(errorOf(yield* Fiber.join(stubborn)).reason, "Closed")
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* connection.drained, {
          kind: "fake",
          name: "fake",
          inUse: 3,
          finished: 1,
          cut: 2,
          tookMs: 5_000
        })
        assert.strictEqual(yield* Ref.get(it.closed), 1)
      })
    )

    it.effect("a call that is cut goes on behind its error, uninterrupted, and whoever interrupted it himself is", () =>
      Effect.gen(function* () {
        const it = yield* other
        const scope = yield* Scope.make()
        const { call } = yield* Scope.extend(ConnectionLifecycle.make(it.options), scope)
        const after = yield* Effect.fork(
          Effect.zipRight(
            Effect.exit(call("endless", () => Effect.never)),
            Effect.zipRight(Effect.sleep("1 second"), Effect.succeed("it went on"))
          )
        )
        const slow = yield* Effect.fork(
          Effect.exit(call("slow", () => Effect.onInterrupt(Effect.never, () => Effect.sleep("10 seconds"))))
        )
        yield* turns
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* turns
        const interrupting = yield* Effect.fork(Fiber.interrupt(slow))
        yield* turns
        yield* TestClock.adjust("5 seconds")
        yield* turns
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(after), "it went on")
        yield* TestClock.adjust("10 seconds")
        const interrupted = yield* Fiber.join(interrupting)
        assert.isTrue(
          Exit.isInterrupted(interrupted) || (Exit.isSuccess(interrupted) && Exit.isInterrupted(interrupted.value))
        )
        yield* Fiber.join(closing)
      })
    )

    it.effect("within a use that is under way, calls go on", () =>
      Effect.gen(function* () {
        const it = yield* other
        const scope = yield* Scope.make()
        const { call, connection } = yield* Scope.extend(ConnectionLifecycle.make(it.options), scope)
        const gate = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          connection.use(() => Effect.zipRight(Deferred.await(gate), call("get", Effect.succeed)))
        )
        yield* turns
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* turns
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(fiber), 1)
        yield* Fiber.join(closing)
        assert.strictEqual((yield* connection.drained).cut, 0)
      })
    )

    it.effect("a stream under way is cut with Closed", () =>
      Effect.gen(function* () {
        const it = yield* other
        const scope = yield* Scope.make()
        const { stream } = yield* Scope.extend(ConnectionLifecycle.make(it.options), scope)
        const fiber = yield* Effect.fork(
          Effect.exit(Stream.runDrain(stream("list", () => Stream.concat(Stream.make(1), Stream.never))))
        )
        yield* turns
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(closing)
        assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Closed")
      })
    )

    it.effect("who waits for a client that is being made is told, and what is made then is closed", () =>
      Effect.gen(function* () {
        const it = yield* other
        const gate = yield* Deferred.make<void>()
        yield* Ref.set(it.open, Effect.uninterruptible(Deferred.await(gate)))
        const scope = yield* Scope.make()
        const { call, connection } = yield* Scope.extend(
          ConnectionLifecycle.make({ ...it.options, connect: "lazy" }),
          scope
        )
        const fiber = yield* Effect.fork(Effect.exit(call("get", Effect.succeed)))
        yield* turns
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* turns
        assert.strictEqual(errorOf(yield* Fiber.join(fiber)).reason, "Closed")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(closing)
        assert.strictEqual(yield* Ref.get(it.opened), 1)
        assert.strictEqual(yield* Ref.get(it.closed), 1)
        assert.strictEqual((yield* connection.drained).inUse, 0)
      })
    )

    it.effect("a client whose release never ends holds it up for the drain timeout, no longer", () =>
      Effect.gen(function* () {
        const it = yield* other
        const scope = yield* Scope.make()
        yield* Scope.extend(
          ConnectionLifecycle.make({
            ...it.options,
            open: Effect.acquireRelease(Effect.succeed(1), () => Effect.never),
            drainTimeout: "3 seconds"
          }),
          scope
        )
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("3 seconds")
        yield* Fiber.join(closing)
      })
    )

    it.effect("in the background nothing is tried any more", () =>
      Effect.gen(function* () {
        const it = yield* other
        const tries = yield* Ref.make(0)
        yield* Ref.set(
          it.open,
          Effect.zipRight(
            Ref.update(tries, (n) => n + 1),
            failure("Unavailable")
          )
        )
        yield* Effect.scoped(
          Effect.zipRight(
            ConnectionLifecycle.make({ ...it.options, connect: "background" }),
            TestClock.adjust("1 seconds")
          )
        )
        const before = yield* Ref.get(tries)
        assert.isTrue(before > 0)
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(yield* Ref.get(tries), before)
      })
    )
  })

  describe("track", () => {
    it.effect("tells of the release of a pool that lies between", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const tracker = yield* Effect.gen(function* () {
          const tracker = yield* ConnectionLifecycle.track({ kind: "fake", name: "pool" })
          yield* Effect.addFinalizer(() =>
            Effect.zipRight(
              Effect.sleep("2 seconds"),
              Effect.sync(() => tracker.cut(1))
            )
          )
          yield* tracker.begin(Effect.succeed({ total: 5, idle: 2, inUse: 3, waiting: 0 }))
          return tracker
        }).pipe(Scope.extend(scope))
        const state = tracker.state(Effect.succeed("ready"))
        assert.strictEqual(yield* state, "ready")
        const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(yield* state, "draining")
        yield* TestClock.adjust("1 seconds")
        yield* Fiber.join(closing)
        assert.strictEqual(yield* state, "closed")
        assert.deepStrictEqual(yield* tracker.drained, {
          kind: "fake",
          name: "pool",
          inUse: 3,
          finished: 2,
          cut: 1,
          tookMs: 2_000
        })
      })
    )
  })

  for (const plane of ["internal", "external"] as const) {
    describe(plane, () => {
      const opened = { now: 0 }
      const made = (options: Partial<ConnectionLifecycle.Options<number>> = {}) =>
        Effect.map(
          ConnectionLifecycle.make({
            kind: "fake",
            name: "fake",
            plane,
            watchUse: true,
            open: Effect.acquireRelease(
              Effect.sync(() => {
                opened.now++
                return 1
              }),
              () =>
                Effect.sync(() => {
                  opened.now--
                })
            ),
            check: () => Effect.void,
            ...options
          }),
          ({ connection }) => connection
        )
      const suite = ConnectionSuite.suite({
        make: made(),
        ask: Effect.succeed,
        expected: 1,
        connecting: (connect) => made({ connect }),
        away: (connect) =>
          made({ connect, open: failure("Unavailable"), watch: { policy: { retry: false, breaker: false } } }),
        impatient: made({ drainTimeout: "200 millis" }),
        scopes: 100,
        left: Effect.sync(() => opened.now)
      })
      for (const test of suite.cases) it.live(test.name, () => test.run)
    })
  }
})
