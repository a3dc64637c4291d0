import { assert, describe, it } from "@effect/vitest"
import { Policy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Cause, Context, Data, Duration, Effect, Exit, Fiber, Ref, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

/** How much each metric of the policy has changed. */
const changes = (policy: string) =>
  Effect.gen(function* () {
    const { metrics } = yield* Recording.Recording
    const found: Record<string, number> = {}
    for (const each of yield* metrics) {
      const { policy: name, ...rest } = each.labels
      const change = each.after - each.before
      if (name === policy && change !== 0) found[[each.name, ...Object.values(rest).sort()].join(" ")] = change
    }
    return found
  })

const places = ["call", "attempt", "inner"] as const

describe("Policy.stage", () => {
  it.scoped("stands round the call, each attempt, or inside the attempt timeout, in the order given", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const stage = (name: string, at: "call" | "attempt" | "inner") =>
        Policy.stage({
          name,
          at,
          wrap: (effect, info) =>
            Effect.suspend(() => {
              log.push(`${name} of ${info.policy} ${info.attempt}`)
              return Effect.onExit(effect, (exit) => Effect.sync(() => log.push(`${name} ${exit._tag}`)))
            })
        })
      const policy = yield* Policy.make({
        name: "weather",
        retry: { attempts: 2, base: "1 second", jitter: "none" },
        stages: [stage("inner", "inner"), stage("A", "attempt"), stage("B", "attempt"), stage("call", "call")]
      })
      let calls = 0
      const fiber = yield* Effect.fork(
        policy.run(Effect.suspend(() => (++calls === 1 ? Effect.fail(new Busy()) : Effect.succeed("ok"))))
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      assert.deepStrictEqual(log, [
        "call of weather 1",
        "A of weather 1",
        "B of weather 1",
        "inner of weather 1",
        "inner Failure",
        "B Failure",
        "A Failure",
        "A of weather 2",
        "B of weather 2",
        "inner of weather 2",
        "inner Success",
        "B Success",
        "A Success",
        "call Success"
      ])
    })
  )

  for (const at of places) {
    it.scoped(`at ${at}: refuses, is counted and timed by its name, and its refusal is no failure of the service`, () =>
      Effect.gen(function* () {
        const open = yield* Ref.make(true)
        const policy = yield* Policy.make({
          name: "weather",
          retry: false,
          metrics: true,
          breaker: { window: { type: "consecutive", failures: 1 } },
          stages: [
            Policy.stage({
              name: "quota",
              at,
              wrap: (effect, info) =>
                Effect.flatMap(Ref.get(open), (open): typeof effect =>
                  open
                    ? Effect.delay(effect, "1 second")
                    : (Effect.fail(
                        new Policy.StageRejected({
                          service: info.policy,
                          stage: "quota",
                          reason: "the quota is used up",
                          retryAfter: Duration.seconds(5)
                        })
                      ) as never)
                )
            })
          ]
        })
        const recording = yield* Recording.Recording
        yield* recording.clear
        const fiber = yield* Effect.fork(policy.run(Effect.succeed(1)))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), 1)
        yield* Ref.set(open, false)
        const error = yield* Effect.flip(policy.run(Effect.die("not reached")))
        assert.strictEqual(error._tag, "StageRejected")
        assert.strictEqual(error.message, "weather: refused by quota: the quota is used up, ask again in 5s")
        assert.strictEqual(yield* (yield* Effect.fromNullable(policy.breaker)).state, "closed")
        const seen = yield* changes("weather")
        assert.deepStrictEqual(
          {
            success: seen["resilience_stage_runs_total quota success"],
            rejected: seen["resilience_stage_runs_total quota rejected"],
            timed: seen["resilience_stage_duration_seconds quota"],
            refusals: seen["resilience_rejections_total stage"],
            attempts: seen["resilience_attempts_total rejected"],
            failures: seen["resilience_attempts_total failure"]
          },
          {
            success: 1,
            rejected: 1,
            timed: 2,
            refusals: 1,
            // Round the whole call there was no attempt yet.
            attempts: at === "call" ? undefined : 1,
            failures: undefined
          }
        )
      }).pipe(Effect.provide(Recording.layer))
    )

    it.scoped(`at ${at}: what it throws is a defect of the call, and nothing stays taken`, () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({
          name: "weather",
          retry: false,
          bulkhead: { maxConcurrent: 2 },
          hedge: { delay: "1 second" },
          stages: [
            Policy.stage({
              name: "broken",
              at,
              wrap: () => {
                throw new Error("a bug")
              }
            })
          ]
        })
        const exit = yield* Effect.exit(policy.run(Effect.void))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause), String(exit))
        assert.strictEqual((yield* (yield* Effect.fromNullable(policy.bulkhead)).snapshot).active, 0)
      })
    )

    it.scoped(`at ${at}: failures, timeouts, refusals of gates, defects and interruptions are told apart`, () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({
          name: "weather",
          retry: false,
          metrics: true,
          breaker: false,
          timeout: "10 seconds",
          stages: [Policy.stage({ name: "audit", at, wrap: (effect) => effect })]
        })
        const recording = yield* Recording.Recording
        yield* recording.clear
        yield* Effect.exit(policy.run(Effect.fail(new Busy())))
        yield* Effect.exit(policy.run(Effect.die("bug")))
        const waiting = yield* Effect.fork(policy.run(Effect.never))
        yield* Effect.yieldNow()
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(waiting)
        const late = yield* Effect.fork(Effect.exit(policy.run(Effect.never)))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(late)
        const seen = yield* changes("weather")
        assert.deepStrictEqual(
          [
            seen["resilience_stage_runs_total audit failure"],
            seen["resilience_stage_runs_total audit cancelled"],
            seen["resilience_stage_runs_total audit timeout"]
          ],
          // Inside the attempt timeout a stage sees that it is interrupted, and not why.
          at === "inner" ? [2, 2, undefined] : [2, 1, 1]
        )
      }).pipe(Effect.provide(Recording.layer))
    )
  }

  it.scoped("has no metrics where the policy has none", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "weather",
        stages: places.map((at) => Policy.stage({ name: at, at, wrap: (effect) => effect }))
      })
      const recording = yield* Recording.Recording
      yield* recording.clear
      yield* policy.run(Effect.void)
      assert.deepStrictEqual(yield* changes("weather"), {})
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a refusal inside is refused for the stages outside too, and counted once", () =>
    Effect.gen(function* () {
      const outside = Policy.stage({ name: "audit", wrap: (effect) => effect })
      const quota = Policy.stage({
        name: "quota",
        wrap: (_, info) =>
          Effect.fail(new Policy.StageRejected({ service: info.policy, stage: "quota", reason: "used up" }))
      })
      const policy = yield* Policy.make({ name: "weather", metrics: true, stages: [outside, quota] })
      const recording = yield* Recording.Recording
      yield* recording.clear
      yield* Effect.flip(policy.run(Effect.void))
      const seen = yield* changes("weather")
      assert.strictEqual(seen["resilience_stage_runs_total audit rejected"], 1)
      assert.strictEqual(seen["resilience_stage_runs_total quota rejected"], 1)
      assert.strictEqual(seen["resilience_rejections_total stage"], 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("may answer by itself, and may change what the call sees of its context", () =>
    Effect.gen(function* () {
      class Tenant extends Context.Reference<Tenant>()("test/Tenant", { defaultValue: () => "nobody" }) {}
      const policy = yield* Policy.make({
        name: "weather",
        stages: [
          Policy.stage({ name: "tenant", at: "inner", wrap: (effect) => Effect.provideService(effect, Tenant, "us") })
        ]
      })
      assert.strictEqual(yield* policy.run(Tenant), "us")
    })
  )

  it.scoped("goes round promises and streams as well", () =>
    Effect.gen(function* () {
      let times = 0
      const policy = yield* Policy.make({
        name: "weather",
        stages: places.map((at) =>
          Policy.stage({
            name: at,
            at,
            wrap: (effect) =>
              Effect.suspend(() => {
                times++
                return effect
              })
          })
        )
      })
      assert.strictEqual(yield* policy.tryPromise(() => Promise.resolve(1)), 1)
      assert.strictEqual(times, 3)
      assert.deepStrictEqual([...(yield* Stream.runCollect(policy.stream(Stream.make(1, 2))))], [1, 2])
      assert.strictEqual(times, 6)
    })
  )
})
