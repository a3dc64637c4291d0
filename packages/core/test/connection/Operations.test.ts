import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  type Context,
  Deferred,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Metric,
  MetricState,
  Option,
  Ref,
  Scope,
  TestClock
} from "effect"
import * as Connection from "../../src/connection/Connection.ts"
import * as ConnectionLifecycle from "../../src/connection/ConnectionLifecycle.ts"
import * as Connections from "../../src/connection/Connections.ts"
import * as Health from "../../src/operations/Health.ts"
import * as Recording from "../../src/testing/Recording.ts"

type Answer = Effect.Effect<Connection.CheckResult, Connection.ConnectionError>

/** A kind whose checks answer as is said here. */
const checkable = Effect.gen(function* () {
  const asked = yield* Ref.make(0)
  const answer = yield* Ref.make<Answer>(Effect.succeed({ status: "up" }))
  const kind = Connection.kind<string, undefined>({
    kind: "fake",
    settings: Config.succeed(undefined),
    make: (name) =>
      Effect.map(
        ConnectionLifecycle.make({
          kind: "fake",
          name,
          plane: "internal",
          connect: "lazy",
          // Longer than the registry's own.
          healthTimeout: "1 hours",
          open: Effect.succeed(name),
          check: () =>
            Effect.zipRight(
              Ref.update(asked, (n) => n + 1),
              Effect.flatten(Ref.get(answer))
            )
        }),
        ({ connection }) => connection
      )
  })
  return { asked, answer, kind }
})

const turns = Effect.repeatN(Effect.yieldNow(), 100)

/** A kind whose connections take as long to be released as is said here; the registry waits five seconds. */
const releasedIn = (takes: Readonly<Record<string, Duration.DurationInput>>) =>
  Connection.kind<string, undefined>({
    kind: "fake",
    settings: Config.succeed(undefined),
    make: (name) =>
      Effect.map(
        ConnectionLifecycle.make({
          kind: "fake",
          name,
          plane: "internal",
          drainTimeout: "1 minute",
          open: Effect.acquireRelease(Effect.succeed(name), () =>
            Effect.delay(Effect.void, takes[name] ?? "0 seconds")
          ),
          check: () => Effect.void
        }),
        ({ connection }) => connection
      )
  })

describe("Connections: operations", () => {
  it.scoped("twenty dependencies that hang answer in one budget", () =>
    Effect.gen(function* () {
      const { answer, kind } = yield* checkable
      const connections = yield* Connections.make([kind], { healthTimeout: "2 seconds" })
      for (let n = 0; n < 20; n++) yield* connections.get(kind, `n${n}`)
      yield* Ref.set(answer, Effect.uninterruptible(Effect.never))
      const fiber = yield* Effect.fork(connections.health)
      yield* TestClock.adjust("1999 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
      yield* TestClock.adjust("1 millis")
      const found = yield* Fiber.join(fiber)
      assert.strictEqual(found.length, 20)
      for (const { latencyMs, status } of found) assert.deepStrictEqual([status, latencyMs], ["down", 2_000])
    })
  )

  it.scoped("a result answers for a while, and whoever asks meanwhile waits for the same check", () =>
    Effect.gen(function* () {
      const { answer, asked, kind } = yield* checkable
      const connections = yield* Connections.make([kind], { healthCacheFor: "1 seconds" })
      yield* connections.get(kind, "a")
      const gate = yield* Deferred.make<void>()
      yield* Ref.set(answer, Effect.as(Deferred.await(gate), { status: "up" as const }))
      const fibers = yield* Effect.forEach(Array.from({ length: 10 }), () => Effect.fork(connections.health))
      yield* turns
      // One who does not wait any longer stops it for nobody.
      const [first] = fibers
      if (first !== undefined) yield* Fiber.interrupt(first)
      yield* Deferred.succeed(gate, undefined)
      for (const fiber of fibers.slice(1)) assert.strictEqual((yield* Fiber.join(fiber))[0]?.status, "up")
      assert.strictEqual(yield* Ref.get(asked), 1)
      yield* TestClock.adjust("999 millis")
      yield* connections.health
      assert.strictEqual(yield* Ref.get(asked), 1)
      yield* TestClock.adjust("1 millis")
      yield* connections.health
      assert.strictEqual(yield* Ref.get(asked), 2)
    })
  )

  it.scoped("a check that has not ended is not begun again", () =>
    Effect.gen(function* () {
      const { answer, asked, kind } = yield* checkable
      const connections = yield* Connections.make([kind], { healthTimeout: "1 seconds", healthCacheFor: 0 })
      yield* connections.get(kind, "a")
      yield* Ref.set(answer, Effect.uninterruptible(Effect.never))
      for (let n = 0; n < 3; n++) {
        const fiber = yield* Effect.fork(connections.health)
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual((yield* Fiber.join(fiber))[0]?.status, "down")
      }
      assert.strictEqual(yield* Ref.get(asked), 1)
    })
  )

  it.scoped("a connection that is down: not ready, but alive", () =>
    Effect.gen(function* () {
      const { answer, kind } = yield* checkable
      const health = yield* Health.make
      const connections = yield* Effect.provideService(Connections.make([kind]), Health.Health, health)
      yield* connections.get(kind, "a")
      yield* Ref.set(
        answer,
        new Connection.ConnectionError({
          reason: "Unavailable",
          kind: "fake",
          connection: "a",
          method: "check",
          description: "it is away"
        })
      )
      assert.strictEqual((yield* connections.health)[0]?.status, "down")
      assert.strictEqual((yield* health.report("ready")).status, "down")
      assert.strictEqual((yield* health.report("live")).status, "up")
    })
  )

  it.scoped("drain releases everything at once, held or not, and tells how it went", () =>
    Effect.gen(function* () {
      const { kind } = yield* checkable
      const told = yield* Ref.make<ReadonlyArray<Connection.DrainReport>>([])
      const connections = yield* Connections.make([kind], {
        onDrained: (report) => Ref.update(told, (all) => [...all, report])
      })
      const busy = yield* connections.get(kind, "busy")
      const long = yield* connections.get(kind, "long")
      yield* Effect.scoped(connections.get(kind, "idle"))
      const short = yield* Effect.fork(busy.use(() => Effect.sleep("2 seconds")))
      const endless = yield* Effect.fork(Effect.exit(long.use(() => Effect.never)))
      yield* turns
      const draining = yield* Effect.fork(connections.drain)
      yield* turns
      assert.deepStrictEqual(
        (yield* connections.list).map(({ name }) => name),
        []
      )
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.scoped(connections.get(kind, "late")))))
      yield* TestClock.adjust("5 seconds")
      const reports = yield* Fiber.join(draining)
      assert.deepStrictEqual(
        reports.map(({ cut, finished, inUse, name, tookMs }) => [name, inUse, finished, cut, tookMs]),
        [
          ["busy", 1, 1, 0, 2_000],
          ["long", 1, 0, 1, 5_000],
          ["idle", 0, 0, 0, 0]
        ]
      )
      yield* Fiber.join(short)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(endless)))
      assert.sameDeepMembers([...(yield* Ref.get(told))], [...reports])
      assert.sameDeepMembers([...(yield* connections.reports)], [...reports])
    })
  )

  it.scoped(
    "drain waits a bounded time for what its idle timer, or its last user, releases at that moment, and names it",
    () =>
      Effect.gen(function* () {
        const kind = releasedIn({ quick: "2 seconds", slow: "8 seconds" })
        for (const idleTimeToLive of ["30 seconds", "0 seconds"] as const) {
          // A scope of its own, and fibers of nobody's: where this test fails, nothing waits for the clock that it sets.
          const scope = yield* Scope.make()
          const connections = yield* Scope.extend(Connections.make([kind], { idleTimeToLive }), scope)
          for (const name of ["done", "quick", "slow"]) {
            yield* Effect.forkDaemon(Effect.scoped(connections.get(kind, name)))
          }
          yield* TestClock.adjust(idleTimeToLive)
          assert.deepStrictEqual(yield* connections.list, [], "all of them are being released")
          yield* Scope.extend(connections.get(kind, "open"), scope)
          const drains = [yield* Effect.forkDaemon(connections.drain), yield* Effect.forkDaemon(connections.drain)]
          yield* TestClock.adjust("1999 millis")
          for (const drain of drains) assert.isTrue(Option.isNone(yield* Fiber.poll(drain)))
          yield* TestClock.adjust("1 millis")
          for (const drain of drains) assert.isTrue(Option.isNone(yield* Fiber.poll(drain)), "slow is waited for")
          yield* TestClock.adjust("2999 millis")
          for (const drain of drains) assert.isTrue(Option.isNone(yield* Fiber.poll(drain)))
          yield* TestClock.adjust("1 millis")
          for (const drain of drains) {
            const reports = yield* Fiber.join(drain)
            assert.deepStrictEqual(
              reports.map(({ name, tookMs }) => [name, tookMs]),
              [
                ["quick", 2_000],
                ["open", 0]
              ]
            )
          }
          yield* TestClock.adjust("3 seconds")
          assert.deepStrictEqual(
            (yield* connections.reports).map(({ name }) => name),
            ["done", "open", "quick", "slow"]
          )
          yield* Scope.close(scope, Exit.void)
        }
      })
  )

  for (const idleTimeToLive of ["30 seconds", "0 seconds"] as const) {
    const who = idleTimeToLive === "0 seconds" ? "last user" : "idle timer"
    it.scoped(`the release of the registry waits a bounded time for what its ${who} releases at that moment`, () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const kind = releasedIn({ slow: "8 seconds" })
        const connections = yield* Scope.extend(Connections.make([kind], { idleTimeToLive }), scope)
        yield* Effect.forkDaemon(Effect.scoped(connections.get(kind, "slow")))
        yield* TestClock.adjust(idleTimeToLive)
        assert.deepStrictEqual(yield* connections.list, [], "it is being released")
        const release = yield* Effect.forkDaemon(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("4999 millis")
        assert.isTrue(Option.isNone(yield* Fiber.poll(release)))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(Option.isSome(yield* Fiber.poll(release)))
        // and the release of the connection goes on to its end
        assert.deepStrictEqual(yield* connections.reports, [])
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(
          (yield* connections.reports).map(({ name, tookMs }) => [name, tookMs]),
          [["slow", 8_000]]
        )
      })
    )
  }

  it.scoped("drain stops what is being built", () =>
    Effect.gen(function* () {
      const stopped = yield* Ref.make(0)
      const kind = Connection.kind<never, undefined>({
        kind: "slow",
        settings: Config.succeed(undefined),
        make: () => Effect.onInterrupt(Effect.never, () => Ref.update(stopped, (n) => n + 1))
      })
      const connections = yield* Connections.make([kind])
      const waiting = yield* Effect.fork(Effect.exit(Effect.scoped(connections.get(kind))))
      yield* turns
      assert.deepStrictEqual(yield* connections.drain, [])
      assert.isTrue(Exit.isFailure(yield* Fiber.join(waiting)))
      assert.strictEqual(yield* Ref.get(stopped), 1)
    })
  )

  it.scoped(
    "drain, and the release of the registry, wait a bounded time for what cannot be stopped while it is built",
    () =>
      Effect.gen(function* () {
        const released = yield* Ref.make<ReadonlyArray<string>>([])
        const go = yield* Deferred.make<void>()
        const kind = Connection.kind<never, undefined>({
          kind: "stubborn",
          settings: Config.succeed(undefined),
          make: (name) =>
            Effect.zipRight(
              Effect.acquireRelease(Deferred.await(go), () => Ref.update(released, (all) => [...all, name])),
              Effect.never
            )
        })
        const ends = {
          drain: (connections: Context.Tag.Service<Connections.Connections>) => Effect.asVoid(connections.drain),
          close: (_: unknown, scope: Scope.CloseableScope) => Scope.close(scope, Exit.void)
        }
        for (const [name, end] of Object.entries(ends)) {
          const scope = yield* Scope.make()
          const connections = yield* Scope.extend(Connections.make([kind], { drainTimeout: "3 seconds" }), scope)
          const waiting = yield* Effect.fork(Effect.flip(Effect.scoped(connections.get(kind, name))))
          yield* turns
          const ending = yield* Effect.fork(end(connections, scope))
          yield* TestClock.adjust("2999 millis")
          assert.isTrue(Option.isNone(yield* Fiber.poll(ending)), name)
          yield* TestClock.adjust("1 millis")
          yield* Fiber.join(ending)
          const error = yield* Fiber.join(waiting)
          assert.strictEqual(error._tag === "ConnectionError" ? error.reason : undefined, "Closed")
          assert.deepStrictEqual(yield* connections.list, [])
          yield* Effect.fork(Scope.close(scope, Exit.void))
          yield* TestClock.adjust("3 seconds")
        }
        assert.deepStrictEqual(yield* Ref.get(released), [])
        // What they made in the end is nobody's, and is released.
        yield* Deferred.succeed(go, undefined)
        yield* turns
        assert.deepStrictEqual(yield* Ref.get(released), Object.keys(ends))
      })
  )

  it.scoped("stats: whose counts do not come is left out in time, and delays nobody", () =>
    Effect.gen(function* () {
      const counts: Readonly<Record<string, Effect.Effect<Connection.ConnectionStats>>> = {
        good: Effect.succeed({ total: 2, idle: 1, inUse: 1, waiting: 0 }),
        hanging: Effect.uninterruptible(Effect.never),
        slow: Effect.as(Effect.sleep("900 millis"), { total: 1, idle: 1, inUse: 0, waiting: 0 }),
        bad: Effect.dieMessage("a bug")
      }
      const { kind } = yield* checkable
      const counting = Connection.kind({
        ...kind,
        make: (name, settings) =>
          Effect.map(kind.make(name, settings), (connection) => ({
            ...connection,
            stats: counts[name] ?? connection.stats
          }))
      })
      const connections = yield* Connections.make([counting], { healthTimeout: "1 seconds" })
      for (const name of Object.keys(counts)) yield* connections.get(counting, name)
      const fiber = yield* Effect.fork(connections.stats)
      yield* TestClock.adjust("1 seconds")
      assert.deepStrictEqual(
        (yield* Fiber.join(fiber)).map(({ name, total }) => [name, total]),
        [
          ["good", 2],
          ["slow", 1]
        ]
      )
    })
  )

  it.scoped("one that is released when it is idle is told of, too; one that tells nothing holds nobody up", () =>
    Effect.gen(function* () {
      const { kind } = yield* checkable
      const mute = Connection.kind<never, undefined>({
        kind: "mute",
        settings: Config.succeed(undefined),
        make: (name) =>
          Effect.map(kind.make(name, undefined), (it) => ({ ...it, use: () => Effect.never, drained: Effect.never }))
      })
      const connections = yield* Connections.make([kind, mute], { idleTimeToLive: "10 seconds" })
      yield* Effect.scoped(Effect.zipRight(connections.get(kind), connections.get(mute)))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* connections.list, [])
      assert.deepStrictEqual(
        (yield* connections.reports).map((report) => report.kind),
        ["fake"]
      )
    })
  )

  const tagged = (name: string, tags: Record<string, string>) =>
    Effect.sync(() =>
      Metric.unsafeSnapshot(undefined).find(
        ({ metricKey }) =>
          metricKey.name === name &&
          Object.entries(tags).every(([key, value]) =>
            metricKey.tags.some((tag) => tag.key === key && tag.value === value)
          )
      )
    )
  const gaugeOf = (name: string, tags: Record<string, string>) =>
    Effect.map(tagged(name, tags), (found) =>
      found !== undefined && MetricState.isGaugeState(found.metricState) ? found.metricState.value : undefined
    )

  it.scoped("layerMetrics shows the pools; without it nobody looks and nothing is shown", () =>
    Effect.gen(function* () {
      const { kind } = yield* checkable
      const asked = yield* Ref.make(0)
      const numbers = yield* Ref.make<Connection.ConnectionStats>({
        total: 5,
        idle: 2,
        inUse: 3,
        waiting: 4,
        acquire: { count: 10, totalMs: 500, maxMs: 90 }
      })
      const pool = Connection.kind<never, undefined>({
        kind: "pool",
        settings: Config.succeed(undefined),
        make: (name) =>
          Effect.map(kind.make(name, undefined), (it) => ({
            ...it,
            use: () => Effect.never,
            stats: Effect.zipRight(
              Ref.update(asked, (n) => n + 1),
              Ref.get(numbers)
            )
          }))
      })
      const name = "metrics-test"
      yield* Effect.gen(function* () {
        const connections = yield* Connections.make([pool])
        yield* connections.get(pool, name)
        yield* TestClock.adjust("10 minutes")
      }).pipe(Effect.scoped, Recording.assertSilent)
      assert.strictEqual(yield* Ref.get(asked), 0)

      const scope = yield* Scope.make()
      const connections = yield* Connections.make([pool])
      const held = yield* Scope.make()
      yield* Scope.extend(connections.get(pool, name), held)
      yield* Layer.buildWithScope(
        Layer.provide(
          Connections.layerMetrics({ interval: "1 seconds" }),
          Layer.succeed(Connections.Connections, connections)
        ),
        scope
      )
      yield* turns
      const of = { "db.client.connection.pool.name": name, "connection.kind": "pool" }
      const count = (state: string) =>
        gaugeOf("db.client.connection.count", { ...of, "db.client.connection.state": state })
      assert.deepStrictEqual([yield* count("idle"), yield* count("used")], [2, 3])
      assert.strictEqual(yield* gaugeOf("db.client.connection.pending_requests", of), 4)
      const waits = yield* tagged("db.client.connection.wait_time", of)
      assert.isTrue(waits !== undefined && MetricState.isHistogramState(waits.metricState))
      if (waits !== undefined && MetricState.isHistogramState(waits.metricState)) {
        assert.deepStrictEqual([waits.metricState.count, waits.metricState.sum], [1, 0.05])
      }
      // One that was taken out while it is held, and its successor, are one pool to who looks.
      yield* connections.invalidate(pool, name)
      const successor = yield* Scope.make()
      yield* Scope.extend(connections.get(pool, name), successor)
      yield* TestClock.adjust("1 seconds")
      assert.deepStrictEqual([yield* count("idle"), yield* count("used")], [4, 6])
      yield* Scope.close(successor, Exit.void)
      yield* connections.invalidate(pool, name)
      yield* Ref.set(numbers, { total: 1, idle: 1, inUse: 0, waiting: 0 })
      yield* TestClock.adjust("1 seconds")
      assert.deepStrictEqual([yield* count("idle"), yield* count("used")], [1, 0])
      yield* Scope.close(held, Exit.void)
      yield* connections.invalidate(pool, name)
      yield* TestClock.adjust("1 seconds")
      assert.deepStrictEqual([yield* count("idle"), yield* count("used")], [0, 0])
      yield* Scope.close(scope, Exit.void)
      const before = yield* Ref.get(asked)
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(yield* Ref.get(asked), before)
    })
  )
})
