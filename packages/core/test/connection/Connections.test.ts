import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Option,
  Ref,
  Scope,
  TestClock,
  Tracer
} from "effect"
import * as Connection from "../../src/connection/Connection.ts"
import * as ConnectionLifecycle from "../../src/connection/ConnectionLifecycle.ts"
import * as Connections from "../../src/connection/Connections.ts"
import * as Correlation from "../../src/operations/Correlation.ts"
import * as Deadline from "../../src/resilience/Deadline.ts"
import * as ConnectionSuite from "../../src/testing/ConnectionSuite.ts"
import * as Suite from "../../src/testing/Suite.ts"

interface Client {
  readonly number: number
  readonly host: string
  readonly correlation: Option.Option<string>
  readonly deadline: Option.Option<Duration.Duration>
  readonly span: Option.Option<Tracer.AnySpan>
}

const failure = (description: string) =>
  new Connection.ConnectionError({
    reason: "Unavailable",
    kind: "fake",
    connection: "fake",
    method: "make",
    description
  })

/** A kind that counts how often it was built and released, and builds as `build` says. */
const counting = Effect.gen(function* () {
  const built = yield* Ref.make(0)
  const released = yield* Ref.make(0)
  const build = yield* Ref.make<Effect.Effect<void, Connection.ConnectionError>>(Effect.void)
  const health = yield* Ref.make<Effect.Effect<Connection.CheckResult>>(Effect.succeed({ status: "up" }))
  const kind = Connection.kind<Client, { readonly host: string }>({
    kind: "fake",
    settings: Config.all({ host: Config.string("host").pipe(Config.withDefault("localhost")) }),
    make: (name, settings) =>
      Effect.gen(function* () {
        const release = yield* ConnectionLifecycle.track({ kind: "fake", name })
        const number = yield* Ref.updateAndGet(built, (n) => n + 1)
        yield* Effect.addFinalizer(() => Ref.update(released, (n) => n + 1))
        yield* Effect.flatten(Ref.get(build))
        const client: Client = {
          number,
          host: settings.host,
          correlation: yield* Correlation.Current,
          deadline: yield* Deadline.remaining,
          span: yield* Effect.serviceOption(Tracer.ParentSpan)
        }
        const closed = yield* Ref.make(false)
        yield* Effect.addFinalizer(() => Ref.set(closed, true))
        const open = Effect.flatMap(Ref.get(closed), (is) => (is ? failure("it is closed") : Effect.void))
        return {
          name,
          kind: "fake",
          plane: "internal" as const,
          use: (f) => Effect.zipRight(open, f(client)),
          health: Effect.matchEffect(open, {
            onFailure: () => Effect.succeed({ status: "down" as const }),
            onSuccess: () => Effect.flatten(Ref.get(health))
          }),
          stats: Effect.succeed({ total: 0, idle: 0, inUse: 0, waiting: 0 }),
          state: release.state(Effect.succeed("ready" as const)),
          drained: release.drained
        }
      })
  })
  return { kind, built, released, build, health }
})

const numberOf = (connection: Connection.Connection<Client>) => connection.use(({ number }) => Effect.succeed(number))

const settings = (entries: Record<string, string>) =>
  Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries))))

describe("Connections", () => {
  it.scoped("makes a connection on demand from the settings below connections.<name>", () =>
    Effect.gen(function* () {
      const { built, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      assert.strictEqual(yield* Ref.get(built), 0)
      const main = yield* connections.get(kind, "main")
      const other = yield* connections.get(kind)
      assert.strictEqual(yield* main.use(({ host }) => Effect.succeed(host)), "db.example")
      assert.strictEqual(yield* other.use(({ host }) => Effect.succeed(host)), "localhost")
      assert.strictEqual(main.name, "main")
      assert.strictEqual(other.name, "fake")
      assert.strictEqual(yield* Ref.get(built), 2)
    }).pipe(settings({ "connections.main.host": "db.example" }))
  )

  it.scoped("shares a connection while it is in use, also between callers at once", () =>
    Effect.gen(function* () {
      const { built, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      const shared = yield* Effect.all(
        Array.from({ length: 10 }, () => connections.get(kind)),
        { concurrency: "unbounded" }
      )
      const all = shared.map(numberOf)
      const numbers = yield* Effect.all(all, { concurrency: "unbounded" })
      assert.deepStrictEqual(new Set(numbers), new Set([1]))
      assert.strictEqual(yield* Ref.get(built), 1)
    })
  )

  it.scoped("keeps an unused connection for the idle time, then releases it", () =>
    Effect.gen(function* () {
      const { built, kind, released } = yield* counting
      const connections = yield* Connections.make([kind], { idleTimeToLive: "30 seconds" })
      const once = Effect.scoped(Effect.flatMap(connections.get(kind), numberOf))
      assert.strictEqual(yield* once, 1)
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(yield* once, 1, "used again within the time")
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(yield* Ref.get(released), 0, "the second use starts the time anew")
      assert.deepStrictEqual(
        (yield* connections.list).map(({ state }) => state),
        ["idle"]
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Ref.get(released), 1)
      assert.deepStrictEqual(yield* connections.list, [])
      assert.strictEqual(yield* once, 2)
      assert.strictEqual(yield* Ref.get(built), 2)
    })
  )

  it.scoped("with an idle time of zero it releases at once", () =>
    Effect.gen(function* () {
      const { kind, released } = yield* counting
      const connections = yield* Connections.make([kind], { idleTimeToLive: 0 })
      yield* Effect.scoped(connections.get(kind))
      assert.strictEqual(yield* Ref.get(released), 1)
    })
  )

  it.scoped("a first build that fails does not poison the registry", () =>
    Effect.gen(function* () {
      const { build, built, kind, released } = yield* counting
      const connections = yield* Connections.make([kind])
      yield* Ref.set(build, failure("not yet"))
      const error = yield* Effect.flip(Effect.scoped(connections.get(kind)))
      assert.strictEqual(error._tag, "ConnectionError")
      assert.strictEqual(yield* Ref.get(released), 1, "what the failed build had acquired is released")
      assert.deepStrictEqual(yield* connections.list, [])
      yield* Ref.set(build, Effect.void)
      assert.strictEqual(yield* Effect.flatMap(connections.get(kind), numberOf), 2)
      assert.strictEqual(yield* Ref.get(built), 2)
    })
  )

  it.scoped("all who wait for a build that fails get its error, and the next one builds anew", () =>
    Effect.gen(function* () {
      const { build, built, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      const go = yield* Deferred.make<void>()
      yield* Ref.set(build, Effect.zipRight(Deferred.await(go), failure("too bad")))
      const waiting = yield* Effect.forEach([1, 2, 3], () =>
        Effect.fork(Effect.either(Effect.scoped(connections.get(kind))))
      )
      yield* Effect.yieldNow()
      yield* Deferred.succeed(go, undefined)
      const results = yield* Effect.forEach(waiting, Fiber.join)
      assert.deepStrictEqual(
        results.map((each) => each._tag),
        ["Left", "Left", "Left"]
      )
      assert.strictEqual(yield* Ref.get(built), 1)
      yield* Ref.set(build, Effect.void)
      yield* connections.get(kind)
      assert.strictEqual(yield* Ref.get(built), 2)
    })
  )

  it.scoped("wrong settings fail with ConfigError and do not poison the registry either", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const strict = Connection.kind({ ...kind, settings: Config.all({ host: Config.string("host") }) })
      const connections = yield* Connections.make([strict])
      const error = yield* Effect.flip(Effect.scoped(connections.get(strict)))
      assert.include(String(error), "connections.fake.host")
      const again = yield* Effect.flip(Effect.scoped(connections.get(strict)))
      assert.include(String(again), "connections.fake.host")
    }).pipe(settings({}))
  )

  it.scoped("a defect in a build reaches its callers and does not poison the registry", () =>
    Effect.gen(function* () {
      const { build, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      yield* Ref.set(build, Effect.die("a bug"))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.scoped(connections.get(kind)))))
      yield* Ref.set(build, Effect.void)
      assert.strictEqual(yield* Effect.flatMap(connections.get(kind), numberOf), 2)
    })
  )

  it.scoped("interrupting the first caller leaves the build to those who wait for it", () =>
    Effect.gen(function* () {
      const { build, built, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      const go = yield* Deferred.make<void>()
      yield* Ref.set(build, Deferred.await(go))
      const first = yield* Effect.fork(Effect.scoped(connections.get(kind)))
      yield* Effect.yieldNow()
      const second = yield* Effect.fork(Effect.scoped(Effect.flatMap(connections.get(kind), numberOf)))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(second), 1)
      assert.strictEqual(yield* Ref.get(built), 1)
    })
  )

  it.scoped("interrupting the only caller stops the build, and the next one builds anew", () =>
    Effect.gen(function* () {
      const { build, kind, released } = yield* counting
      const connections = yield* Connections.make([kind])
      yield* Ref.set(build, Effect.never)
      const only = yield* Effect.fork(Effect.scoped(connections.get(kind)))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(only)
      yield* Ref.set(build, Effect.void)
      assert.strictEqual(yield* Effect.flatMap(connections.get(kind), numberOf), 2)
      assert.strictEqual(yield* Ref.get(released), 1)
    })
  )

  it.scoped("a build that cannot be interrupted does not hold up its interrupted caller, only its successor", () =>
    Effect.gen(function* () {
      const { build, kind } = yield* counting
      const connections = yield* Connections.make([kind])
      const go = yield* Deferred.make<void>()
      yield* Ref.set(build, Effect.uninterruptible(Deferred.await(go)))
      const only = yield* Effect.fork(Effect.scoped(connections.get(kind)))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(only)
      yield* Ref.set(build, Effect.void)
      const next = yield* Effect.fork(Effect.flatMap(connections.get(kind), numberOf))
      yield* TestClock.adjust("1 minute")
      assert.isTrue(Option.isNone(yield* Fiber.poll(next)), "two at once on one resource could destroy it")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(next), 2)
    })
  )

  it.scoped("a shared connection never carries its first caller's correlation id, deadline or span", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const connections = yield* Connections.make([kind]).pipe(
        Correlation.within("builder"),
        Effect.withSpan("builder")
      )
      const seen = yield* connections.get(kind).pipe(
        Effect.flatMap((connection) => connection.use(Effect.succeed)),
        Correlation.within("first-caller"),
        Deadline.within("1 minute"),
        Effect.withSpan("first caller")
      )
      assert.deepStrictEqual(seen.correlation, Option.none())
      assert.deepStrictEqual(seen.deadline, Option.none())
      assert.isTrue(Option.isNone(seen.span))
    })
  )

  it.scoped("each call through a shared connection sees its own correlation id", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const connections = yield* Connections.make([kind])
      const asked = Effect.scoped(
        Effect.flatMap(connections.get(kind), (connection) => connection.use(() => Correlation.Current))
      )
      const ids = ["one", "two", "three"]
      const seen = yield* Effect.forEach(ids, (id) => Correlation.within(asked, id), { concurrency: "unbounded" })
      assert.deepStrictEqual(seen, ids.map(Option.some))
    })
  )

  it.scoped("health asks all at once; one that hangs is down in time and delays nobody", () =>
    Effect.gen(function* () {
      const { health, kind } = yield* counting
      const connections = yield* Connections.make([kind], { healthTimeout: "2 seconds", healthCacheFor: 0 })
      for (const name of ["a", "b", "c"]) yield* connections.get(kind, name)
      yield* Ref.set(health, Effect.as(Effect.sleep("1 second"), { status: "up" as const }))
      const slow = yield* Effect.fork(connections.health)
      yield* TestClock.adjust("1 second")
      const reports = yield* Fiber.join(slow)
      assert.deepStrictEqual(
        reports.map(({ latencyMs, name, status }) => [name, status, latencyMs]),
        [
          ["a", "up", 1000],
          ["b", "up", 1000],
          ["c", "up", 1000]
        ]
      )
      yield* Ref.set(health, Effect.uninterruptible(Effect.never))
      const hanging = yield* Effect.fork(connections.health)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(
        (yield* Fiber.join(hanging)).map(({ status }) => status),
        ["down", "down", "down"]
      )
      yield* Ref.set(health, Effect.die("a bug"))
      assert.deepStrictEqual(
        (yield* connections.health).map(({ status }) => status),
        ["down", "down", "down"]
      )
    })
  )

  it.effect("closing the registry releases everything, and later callers get Closed", () =>
    Effect.gen(function* () {
      const { kind, released } = yield* counting
      const scope = yield* Scope.make()
      const connections = yield* Scope.extend(Connections.make([kind]), scope)
      const user = yield* Scope.make()
      yield* Scope.extend(connections.get(kind, "used"), user)
      yield* Effect.scoped(connections.get(kind, "idle"))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Ref.get(released), 2)
      const error = yield* Effect.flip(Effect.scoped(connections.get(kind, "used")))
      assert.strictEqual(error._tag === "ConnectionError" ? error.reason : undefined, "Closed")
      yield* Scope.close(user, Exit.void)
      assert.strictEqual(yield* Ref.get(released), 2, "nothing is released twice")
    })
  )

  it.effect("a get while the registry is closing fails with Closed, though builds are still being stopped", () =>
    Effect.gen(function* () {
      const { build, kind } = yield* counting
      const scope = yield* Scope.make()
      const connections = yield* Scope.extend(Connections.make([kind]), scope)
      const go = yield* Deferred.make<void>()
      yield* Ref.set(build, Effect.uninterruptible(Deferred.await(go)))
      yield* Effect.fork(Effect.scoped(connections.get(kind, "slow")))
      yield* TestClock.adjust("1 second")
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      const late = yield* Effect.fork(Effect.flip(Effect.scoped(connections.get(kind, "late"))))
      yield* TestClock.adjust("1 minute")
      const exit = yield* Fiber.poll(late)
      assert.isTrue(Option.isSome(exit), "it must not wait for a build that nobody runs")
      const error = yield* Fiber.join(late)
      assert.strictEqual(error._tag === "ConnectionError" ? error.reason : undefined, "Closed")
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(closing)
    })
  )

  it.live("a release for idleness that is under way is waited for when the registry closes", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const begun = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const released = yield* Ref.make(0)
      const last = Effect.addFinalizer(() => Ref.update(released, (n) => n + 1))
      const first = Effect.addFinalizer(() => Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(go)))
      const slow = Connection.kind({
        ...kind,
        make: (name, from) =>
          kind.make(name, from).pipe(Effect.zipLeft(last), Effect.zipLeft(last), Effect.zipLeft(first))
      })
      const scope = yield* Scope.make()
      const connections = yield* Scope.extend(Connections.make([slow], { idleTimeToLive: "1 millis" }), scope)
      yield* Effect.scoped(connections.get(slow))
      yield* Deferred.await(begun)
      const closing = yield* Effect.fork(Effect.zipRight(Scope.close(scope, Exit.void), Ref.get(released)))
      // The registry begins to close while the first release is held up.
      yield* Effect.repeatN(Effect.yieldNow(), 20)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(closing), 2, "when the registry is closed, all of it is released")
    })
  )

  it.scoped("invalidate: who holds it keeps it, the next one gets a new one", () =>
    Effect.gen(function* () {
      const { kind, released } = yield* counting
      const connections = yield* Connections.make([kind])
      const scope = yield* Scope.make()
      const first = yield* Scope.extend(connections.get(kind), scope)
      yield* connections.invalidate(kind)
      assert.strictEqual(yield* Effect.flatMap(connections.get(kind), numberOf), 2)
      assert.strictEqual(yield* numberOf(first), 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Ref.get(released), 1, "released with its last user, without an idle time")
    })
  )

  it.scoped("a kind that is not in the registry is a typed error that says what to do", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const connections = yield* Connections.make([])
      const error = yield* Effect.flip(Effect.scoped(connections.get(kind)))
      assert.strictEqual(error._tag === "ConnectionError" ? error.reason : undefined, "Unsupported")
      assert.include(String(error), "Connections.layer")
    })
  )

  it.scoped("a test replaces a kind by adding its own under the same name", () =>
    Effect.gen(function* () {
      const { kind } = yield* counting
      const double = yield* counting
      const connections = yield* Connections.make([kind, double.kind])
      yield* connections.get(kind)
      assert.strictEqual(yield* Ref.get(double.built), 1)
    })
  )

  it.scoped("a thousand gets and releases leave nothing behind", () =>
    Effect.gen(function* () {
      const { built, kind, released } = yield* counting
      const connections = yield* Connections.make([kind], { idleTimeToLive: Duration.seconds(1) })
      yield* Effect.forEach(
        Array.from({ length: 1000 }),
        (_, n) => Effect.scoped(Effect.zipRight(connections.get(kind, `n${n % 7}`), Effect.yieldNow())),
        { concurrency: 20, discard: true }
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Ref.get(built), yield* Ref.get(released))
      assert.deepStrictEqual(yield* connections.list, [])
    })
  )

  describe("the connection of the tests passes the suite", () => {
    const suite = ConnectionSuite.suite({
      make: Effect.flatMap(counting, ({ kind }) => kind.make("fake", { host: "h" })),
      ask: (client: Client) => Effect.succeed(client.host),
      expected: "h"
    })
    for (const one of suite.cases) it.live(one.name, () => one.run)
  })

  it.effect("Suite.applicable gives all of them", () =>
    Effect.sync(() => {
      const suite = ConnectionSuite.suite({ make: Effect.never, ask: () => Effect.void, expected: undefined })
      assert.strictEqual(Suite.applicable(suite, []).length, suite.cases.length)
    })
  )
})
