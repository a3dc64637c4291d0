import { createServer } from "node:http"
import { FetchHttpClient, HttpClient, HttpServer } from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Deferred,
  Effect,
  Equal,
  Exit,
  Fiber,
  type FiberId,
  Layer,
  Option,
  Redacted,
  Scheduler,
  Schema,
  Scope,
  TestClock
} from "effect"
import * as Correlation from "../../src/operations/Correlation.ts"
import * as Health from "../../src/operations/Health.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", { url: Schema.String, message: Schema.String }) {}

const counted = (result: Health.CheckResult, after: Effect.Effect<void> = Effect.void) => {
  const state = { runs: 0 }
  const check = Effect.suspend(() => {
    state.runs++
    return Effect.as(after, result)
  })
  return { state, check }
}

// A scheduler that holds up whatever fiber takes the given step (but never the one that arms it), so that an interruption
// gets in there.
const pausing = (step: number) => {
  const inner = new Scheduler.MixedScheduler(2_048)
  let own: FiberId.FiberId | undefined
  let count = 0
  let hold = false
  const scheduler: Scheduler.Scheduler = {
    shouldYield: (fiber) => {
      if (own !== undefined && !Equal.equals(fiber.id(), own) && count++ === step) {
        hold = true
        return 0
      }
      return inner.shouldYield(fiber)
    },
    scheduleTask: (task, priority, fiber) => {
      if (hold) {
        hold = false
        setTimeout(() => inner.scheduleTask(task, priority, fiber), 2)
      } else {
        inner.scheduleTask(task, priority, fiber)
      }
    }
  }
  return {
    scheduler,
    arm: (id: FiberId.FiberId) => {
      own = id
    },
    disarm: () => {
      own = undefined
    },
    reached: () => count > step
  }
}

describe("Health", () => {
  it.effect("without checks everything is up", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      assert.deepStrictEqual(yield* health.report(), { status: "up", checks: {} })
      assert.deepStrictEqual(yield* health.report("ready"), { status: "up", checks: {} })
      assert.deepStrictEqual(yield* health.groups, ["live", "ready"])
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("a dependency that is down fails readiness, not liveness", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      yield* Health.register({ name: "db", check: Effect.succeed(Health.down({ host: "db1" })) })
      yield* Health.register({ name: "loop", groups: ["live"], check: Effect.succeed(Health.up()) })
      assert.strictEqual((yield* health.report("live")).status, "up")
      assert.strictEqual((yield* health.report("ready")).status, "down")
      const all = yield* health.report()
      assert.deepStrictEqual(Object.keys(all.checks), ["db", "loop"])
      assert.deepStrictEqual(all.checks.db?.details, { host: "db1" })
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("a group is as bad as its worst check; what is not critical only degrades it", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      yield* Health.register({ name: "a", groups: ["one", "two"], check: Effect.succeed(Health.up()) })
      yield* Health.register({ name: "b", groups: ["one"], check: Effect.succeed(Health.degraded()) })
      yield* Health.register({
        name: "c",
        groups: ["two"],
        critical: false,
        check: Effect.fail({ _tag: "Gone", message: "gone" })
      })
      assert.strictEqual((yield* health.report("one")).status, "degraded")
      const two = yield* health.report("two")
      assert.strictEqual(two.status, "degraded")
      assert.strictEqual(two.checks.c?.status, "down")
      assert.sameMembers(Array.from(yield* health.groups), ["live", "ready", "one", "two"])
    }).pipe(Effect.provide(Health.layer))
  )

  it.effect("registering without a Health in context does nothing", () =>
    Effect.scoped(Health.register({ name: "x", check: Effect.die("never run") }))
  )

  it.effect("a check leaves with its scope, and names stay apart", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const scope = yield* Scope.make()
      const check = Effect.succeed(Health.up())
      yield* Scope.extend(Health.register({ name: "db", check }), scope)
      const second = yield* Scope.make()
      yield* Scope.extend(Health.register({ name: "db", check }), second)
      assert.deepStrictEqual(Object.keys((yield* health.report()).checks), ["db", "db#2"])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(Object.keys((yield* health.report()).checks), ["db#2"])
      yield* Scope.close(second, Exit.void)
      assert.deepStrictEqual((yield* health.report()).checks, {})
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("checks run in parallel, each with its own timeout", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      for (let n = 0; n < 5; n++) {
        yield* Health.register({
          name: `slow${n}`,
          timeout: "10 seconds",
          check: Effect.as(Effect.sleep("3 seconds"), Health.up())
        })
      }
      yield* Health.register({ name: "hangs", check: Effect.never })
      const asked = yield* Effect.fork(health.report())
      yield* TestClock.adjust("3 seconds")
      const report = yield* Fiber.join(asked)
      assert.strictEqual(report.checks.slow4?.latencyMs, 3_000)
      assert.strictEqual(report.checks.slow4?.status, "up")
      assert.strictEqual(report.checks.hangs?.latencyMs, 2_000)
      assert.deepStrictEqual(report.checks.hangs?.error, { tag: "CheckTimeout", message: "no answer within 2s" })
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("a check that cannot be interrupted does not hold the report, nor is it started twice meanwhile", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const stuck = counted(Health.up(), Effect.uninterruptible(Effect.sleep("1 minute")))
      yield* Health.register({ name: "stuck", timeout: "2 seconds", cacheFor: "1 second", check: stuck.check })
      const first = yield* Effect.fork(health.report())
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(first)).status, "down")
      yield* TestClock.adjust("10 seconds")
      const second = yield* health.report()
      assert.match(second.checks.stuck?.error?.message ?? "", /has still not ended/)
      assert.strictEqual(second.checks.stuck?.latencyMs, 0)
      assert.strictEqual(stuck.state.runs, 1)
      // Once the orphan has ended, the check is made again.
      yield* TestClock.adjust("1 minute")
      const third = yield* Effect.fork(health.report())
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(third)
      assert.strictEqual(stuck.state.runs, 2)
    }).pipe(Effect.provide(Health.layer))
  )

  it.effect("the report is on time even where the asker is uninterruptible", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      yield* Health.register({ name: "hangs", check: Effect.never })
      const asked = yield* Effect.fork(Effect.uninterruptible(health.report()))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(asked)).status, "down")
    }).pipe(Effect.scoped, Effect.provide(Health.layer))
  )

  it.scoped("concurrent askers share one run, and later ones its result until it is old", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const gate = yield* Deferred.make<void>()
      const one = counted(Health.up(), Deferred.await(gate))
      yield* Health.register({ name: "one", cacheFor: "5 seconds", check: one.check })
      const askers = yield* Effect.fork(
        Effect.all(
          Array.from({ length: 20 }, () => health.report()),
          { concurrency: "unbounded" }
        )
      )
      yield* TestClock.adjust("1 second")
      yield* Deferred.succeed(gate, undefined)
      const reports = yield* Fiber.join(askers)
      assert.strictEqual(one.state.runs, 1)
      assert.isTrue(reports.every((report) => report.checks.one?.latencyMs === 1_000))
      yield* TestClock.adjust("4999 millis")
      yield* health.report()
      assert.strictEqual(one.state.runs, 1)
      yield* TestClock.adjust("1 millis")
      yield* health.report()
      assert.strictEqual(one.state.runs, 2)
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("an asker that goes away does not take the shared run with it", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const one = counted(Health.up(), Effect.sleep("1 second"))
      yield* Health.register({ name: "one", check: one.check })
      const first = yield* Effect.fork(health.report())
      yield* TestClock.adjust("100 millis")
      const second = yield* Effect.fork(health.report())
      yield* TestClock.adjust("100 millis")
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust("800 millis")
      assert.strictEqual((yield* Fiber.join(second)).status, "up")
      assert.strictEqual(one.state.runs, 1)
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("since when a status has lasted is told", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      let status: Health.Status = "up"
      yield* Health.register({ name: "x", check: Effect.sync(() => ({ status })) })
      const since = Effect.map(health.report(), (report) => report.checks.x?.since)
      assert.strictEqual(yield* since, "1970-01-01T00:00:00.000Z")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* since, "1970-01-01T00:00:00.000Z")
      status = "down"
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* since, "1970-01-01T00:02:00.000Z")
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("failures and defects are down, by tag and message only, without secrets", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      yield* Health.register({
        name: "typed",
        check: Effect.fail(
          new Refused({
            url: "redis://:hunter2@db",
            message: "cannot reach redis://user:hunter2@db:6379 password=hunter2"
          })
        )
      })
      yield* Health.register({ name: "defect", check: Effect.die(new TypeError("oops")) })
      yield* Health.register({ name: "interrupted", check: Effect.interrupt })
      yield* Health.register({
        name: "details",
        check: Effect.succeed(
          Health.up({
            host: "db1",
            password: "hunter2",
            token: Redacted.make("hunter2"),
            plain: Redacted.make("hunter2"),
            nested: { list: [{ apiKey: "hunter2", url: "https://u:hunter2@example.org/" }] },
            error: new Error("Authorization: Bearer hunter2hunter2")
          })
        )
      })
      const report = yield* health.report()
      assert.deepStrictEqual(report.checks.typed?.error, {
        tag: "Refused",
        message: "cannot reach redis://user:<redacted>@db:6379 password=<redacted>"
      })
      assert.deepStrictEqual(report.checks.defect?.error, { tag: "TypeError", message: "oops" })
      assert.strictEqual(report.checks.interrupted?.status, "down")
      assert.strictEqual(report.checks.details?.details?.host, "db1")
      assert.notInclude(JSON.stringify(report), "hunter2")
    }).pipe(Effect.provide(Health.layer))
  )

  it.scoped("what cannot be read of a check is down, and does not take the report with it", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const hostile = {
        get message(): string {
          throw new Error("no")
        }
      }
      yield* Health.register({ name: "details", check: Effect.succeed(Health.up({ inner: hostile })) })
      yield* Health.register({ name: "error", check: Effect.fail(hostile) })
      yield* Health.register({ name: "well", check: Effect.succeed(Health.up()) })
      const report = yield* health.report()
      assert.strictEqual(report.checks.details?.error?.tag, "CheckUnreadable")
      assert.strictEqual(report.checks.error?.error?.tag, "CheckUnreadable")
      assert.strictEqual(report.checks.well?.status, "up")
      assert.strictEqual(report.status, "down")
    }).pipe(Effect.provide(Health.layer))
  )

  it.live("an asker that is interrupted at any step leaves no flight that never lands", () =>
    Effect.gen(function* () {
      let interrupted = 0
      for (let step = 0; step < 100; step++) {
        const { arm, disarm, reached, scheduler } = pausing(step)
        yield* Effect.gen(function* () {
          const health = yield* Health.make
          yield* health.register({ name: "x", cacheFor: 0, check: Effect.as(Effect.yieldNow(), Health.up()) })
          arm(yield* Effect.fiberId)
          // Not waited for: Effect's own parallel `forEach` may not end when it is interrupted while it is held up.
          const first = yield* Effect.forkDaemon(health.report())
          for (let turn = 0; turn < 60 && !reached(); turn++) {
            yield* Effect.yieldNow()
          }
          interrupted += reached() ? 1 : 0
          disarm()
          yield* Fiber.interruptFork(first)
          const second = yield* Effect.timeoutOption(health.report(), "20 seconds")
          assert.isTrue(Option.isSome(second), `interrupted at step ${step}`)
        }).pipe(Effect.scoped, Effect.withScheduler(scheduler))
      }
      assert.isAbove(interrupted, 50)
    })
  )

  it.scoped("a shared result carries nothing of the one who asked first", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const seen: Array<Option.Option<string>> = []
      yield* Health.register({
        name: "x",
        check: Effect.map(Correlation.Current, (id) => {
          seen.push(id)
          return Health.up()
        })
      })
      yield* Correlation.within(health.report(), "first")
      assert.deepStrictEqual(seen, [Option.none()])
    }).pipe(Effect.provide(Health.layer))
  )

  it.effect("closing the registry ends the checks that are running", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const health = yield* Scope.extend(Health.make, scope)
      const ended = yield* Deferred.make<void>()
      yield* Scope.extend(
        health.register({
          name: "x",
          timeout: "1 hour",
          check: Effect.onInterrupt(Effect.never, () => Deferred.succeed(ended, undefined))
        }),
        scope
      )
      const asked = yield* Effect.fork(health.report())
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      yield* Deferred.await(ended)
      assert.strictEqual((yield* Fiber.join(asked)).status, "down")
    })
  )

  describe("over HTTP", () => {
    const served = (app: typeof Health.httpApp) =>
      HttpServer.serve(app).pipe(
        Layer.provideMerge(Health.layer),
        Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })),
        Layer.provideMerge(FetchHttpClient.layer)
      )

    const get = (path: string) =>
      Effect.gen(function* () {
        const server = yield* HttpServer.HttpServer
        const port = server.address._tag === "TcpAddress" ? server.address.port : 0
        const response = yield* HttpClient.get(`http://127.0.0.1:${port}${path}`)
        const text = yield* response.text
        return { status: response.status, type: response.headers["content-type"], text }
      })

    it.scopedLive("answers 200 when up or degraded, 503 when down, 404 for a group that does not exist", () =>
      Effect.gen(function* () {
        yield* Health.register({
          name: "db",
          check: Effect.fail(new Refused({ url: "x", message: "password=hunter2" }))
        })
        yield* Health.register({ name: "llm", groups: ["models"], check: Effect.succeed(Health.degraded()) })
        const live = yield* get("/health/live")
        assert.strictEqual(live.status, 200)
        assert.deepStrictEqual(JSON.parse(live.text), { status: "up", checks: {} })
        const ready = yield* get("/health/ready")
        assert.strictEqual(ready.status, 503)
        assert.match(ready.type ?? "", /^application\/json/)
        assert.strictEqual(JSON.parse(ready.text).checks.db.status, "down")
        assert.notInclude(ready.text, "hunter2")
        const models = yield* get("/health/models")
        assert.strictEqual(models.status, 200)
        assert.strictEqual(JSON.parse(models.text).status, "degraded")
        const all = yield* get("/health")
        assert.strictEqual(all.status, 503)
        assert.deepStrictEqual(Object.keys(JSON.parse(all.text).checks), ["db", "llm"])
        assert.strictEqual((yield* get("/health/nothing")).status, 404)
        assert.strictEqual((yield* get("/other")).status, 404)
      }).pipe(Effect.provide(served(Health.httpApp)))
    )

    it.scopedLive("a hanging check does not hang the endpoint", () =>
      Effect.gen(function* () {
        yield* Health.register({
          name: "stuck",
          timeout: "50 millis",
          check: Effect.uninterruptible(Effect.as(Effect.sleep("2 seconds"), Health.up()))
        })
        const [duration, response] = yield* Effect.timed(get("/health/ready"))
        assert.strictEqual(response.status, 503)
        assert.isBelow(Number(duration.value._tag === "Millis" ? duration.value.millis : 0), 1_500)
      }).pipe(Effect.provide(served(Health.httpApp)))
    )
  })
})
