/**
 * Settings of a policy as configuration: every word and form that is read, and what becomes of each beside the code's.
 */
import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Hedge, Policy, RateLimit, RetryBudget, RetryPolicy, Throttle } from "@underlay/core"
import { Config, ConfigProvider, Duration, Effect } from "effect"

type Variables = Readonly<Record<string, string>>

const provider = (variables: Variables) => ConfigProvider.fromMap(new Map(Object.entries(variables)))

/** With durations as millis, since equal ones can be held in different forms. */
const plain = (value: unknown): unknown =>
  Duration.isDuration(value)
    ? `${Duration.toMillis(value)} ms`
    : typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]))
      : value

const load = (variables: Variables) => Effect.map(provider(variables).load(Policy.config), plain)

const refused = (variables: Variables) => Effect.map(Effect.flip(provider(variables).load(Policy.config)), String)

describe("Policy.config reads", () => {
  const cases: ReadonlyArray<readonly [variables: Variables, settings: unknown]> = [
    ...["none", "full", "equal", "decorrelated"].map(
      (jitter) => [{ "retry.jitter": jitter }, { retry: { jitter } }] as const
    ),
    ...["classic", "2026"].map(
      (mode) => [{ "budget.type": "aws", "budget.mode": mode }, { budget: { type: "aws", mode } }] as const
    ),
    ...["percentage", "grpc", "aws"].map((type) => [{ "budget.type": type }, { budget: { type } }] as const),
    ...["gcra", "sliding-window"].map(
      (algorithm) =>
        [{ "rateLimit.limit": "1", "rateLimit.algorithm": algorithm }, { rateLimit: { limit: 1, algorithm } }] as const
    ),
    ...["gradient", "vegas", "aimd"].map(
      (algorithm) => [{ "bulkhead.algorithm": algorithm }, { bulkhead: { algorithm } }] as const
    ),
    [{ "budget.ratio": "0.5" }, { budget: { ratio: 0.5, type: "percentage" } }],
    [{ timeout: "none" }, { timeout: false }],
    [{ timeout: "false" }, { timeout: false }],
    [{ timeout: " 5 seconds " }, { timeout: "5000 ms" }],
    [{ timeout: "1 day" }, { timeout: "86400000 ms" }],
    [{ attemptTimeout: "none" }, { attemptTimeout: false }],
    [{ "retry.attempts": "unlimited" }, { retry: { attempts: Number.POSITIVE_INFINITY } }],
    [{ "retry.attempts": "+12" }, { retry: { attempts: 12 } }],
    // Which the retry refuses, in words of its own.
    [{ "retry.attempts": "-3" }, { retry: { attempts: -3 } }],
    [{ "rateLimit.limit": "1", "rateLimit.maxQueue": " 7 " }, { rateLimit: { limit: 1, maxQueue: 7 } }],
    [{ "hedge.delay": "1 second" }, { hedge: { delay: "1000 ms" } }],
    [
      { "hedge.delay.percentile": "0.9", "hedge.delay.initial": "1 second" },
      { hedge: { delay: { percentile: 0.9, initial: "1000 ms" } } }
    ],
    [{ "breaker.openFor": "5 seconds" }, { breaker: { openFor: "5000 ms" } }],
    [
      { "breaker.window.type": "consecutive", "breaker.window.failures": "3" },
      { breaker: { window: { type: "consecutive", failures: 3 } } }
    ],
    [{ "bulkhead.enabled": "true" }, { bulkhead: {} }],
    [{ "bulkhead.enabled": "true", "bulkhead.maxConcurrent": "3" }, { bulkhead: { maxConcurrent: 3 } }],
    [{ "bulkhead.enabled": "false", "bulkhead.maxConcurrent": "3" }, { bulkhead: false }],
    [{ "bulkhead.maxQueue": "3" }, { bulkhead: { maxQueue: 3 } }],
    [
      { metrics: "true", idempotent: "false" },
      { metrics: true, idempotent: false }
    ],
    [{}, {}]
  ]
  for (const [variables, settings] of cases) {
    it.effect(`${JSON.stringify(variables)} as it is written, and nothing besides`, () =>
      Effect.map(load(variables), (found) => assert.deepStrictEqual(found, settings))
    )
  }
})

describe("Policy.config refuses", () => {
  const cases: ReadonlyArray<readonly [variables: Variables, ...words: ReadonlyArray<string>]> = [
    [{ timeout: "5s" }, "timeout"],
    [{ timeout: "-5 seconds" }, "timeout"],
    [{ timeout: "no" }, "timeout"],
    [{ "retry.attempts": "3 times" }, "retry.attempts"],
    [{ "retry.attempts": "about 3" }, "retry.attempts"],
    [{ "retry.attempts": "1.5" }, "retry.attempts"],
    [{ "retry.attempts": "" }, "retry.attempts"],
    [{ "retry.base": "none" }, "retry.base"],
    [{ "breaker.window.type": "counts" }, "breaker.window.type"],
    [{ "budget.type": "tokens" }, "budget.type"],
    [{ "budget.type": "aws", "budget.ratio": "0.1", "budget.maxTokens": "5" }, "budget.ratio", "budget.maxTokens"],
    [{ "budget.type": "percentage", "budget.capacity": "5" }, "budget.capacity", "in a budget of type percentage"],
    [
      {
        "breaker.window.type": "count",
        "breaker.window.size": "5",
        "breaker.window.failureRate": "0.5",
        "breaker.window.over": "1 second",
        "breaker.window.buckets": "2"
      },
      "breaker.window.over",
      "breaker.window.buckets",
      "in a window of type count"
    ],
    [
      {
        "breaker.window.type": "time",
        "breaker.window.over": "1 second",
        "breaker.window.failureRate": "0.5",
        "breaker.window.failures": "3"
      },
      "breaker.window.failures",
      "in a window of type time"
    ],
    [{ "bulkhead.min": "2", "bulkhead.max": "5" }, "bulkhead.min", "bulkhead.max", "without an algorithm"],
    [{ "bulkhead.algorithm": "aimd", "bulkhead.maxConcurrent": "5" }, "bulkhead.maxConcurrent", "beside an algorithm"],
    [{ "rateLimit.enabled": "true" }, "rateLimit.limit"],
    [{ "hedge.enabled": "true" }, "hedge.delay"]
  ]
  for (const [variables, ...words] of cases) {
    it.effect(JSON.stringify(variables), () =>
      Effect.map(refused(variables), (message) => {
        for (const each of words) assert.include(message, each)
      })
    )
  }
})

describe("Policy.reloadConfig", () => {
  it.effect("keeps the options of the code where configuration says nothing, and the name", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "weather" })
      const options = { timeout: "7 seconds", attemptTimeout: "3 seconds" } as const
      yield* Effect.withConfigProvider(Policy.reloadConfig(policy, options), provider({ attemptTimeout: "2 seconds" }))
      assert.include(policy.description, 'policy "weather"')
      assert.include(policy.description, "total timeout    7s")
      assert.include(policy.description, "attempt timeout  2s")
    })
  )
})

describe("Policy.fromConfig", () => {
  const make = (options: Partial<Policy.Options>, variables: Variables) =>
    Effect.withConfigProvider(Policy.fromConfig({ ...options, name: "weather" }), provider(variables))

  /** The policy in words, line by line. */
  const lines = (options: Partial<Policy.Options>, variables: Variables) =>
    Effect.map(
      make(options, variables),
      (policy): Readonly<Record<string, string>> =>
        Object.fromEntries(
          policy.description
            .split("\n")
            .slice(1, -1)
            .map((line) => line.trim().split(/ {2,}/))
        )
    )

  it.effect("keeps of each part of the code what configuration does not set", () =>
    Effect.gen(function* () {
      const found = yield* lines(
        {
          retry: { attempts: 5, base: "2 seconds", jitter: "none" },
          budget: { type: "percentage", ratio: 0.5 },
          hedge: { delay: "1 second", maxHedges: 3 },
          throttle: { ratio: 3 },
          rateLimit: { limit: 5, interval: "1 minute" },
          breaker: { window: { type: "consecutive", failures: 7 } },
          bulkhead: { maxConcurrent: 4, maxQueue: 1 }
        },
        {
          "retry.attempts": "4",
          "budget.minPerSecond": "7",
          "hedge.delay": "2 seconds",
          "throttle.window": "30 seconds",
          "rateLimit.limit": "6",
          "breaker.openFor": "9 seconds",
          "bulkhead.maxQueue": "9"
        }
      )
      assert.strictEqual(found["retry"], "4 attempts, waits of 2s x 2 up to 30s, no jitter")
      assert.strictEqual(found["retry budget"], "50 % of the calls and 7 a second")
      assert.strictEqual(found["hedge"], "up to 3 more attempts, each after 2s")
      assert.include(found["throttle"], "3")
      assert.include(found["rate limit"], "6")
      assert.include(found["rate limit"], "1m")
      assert.include(found["circuit breaker"], "7 failures in a row open it for 9s")
      assert.strictEqual(found["bulkhead"], "at most 4 at once, 9 wait up to 1s")
    })
  )

  it.effect("changes the kind of a bulkhead where a setting of another kind is given, and keeps its queue", () =>
    Effect.gen(function* () {
      const words = (bulkhead: NonNullable<Policy.Options["bulkhead"]>, variables: Variables) =>
        Effect.map(lines({ bulkhead }, variables), (found) => found["bulkhead"])
      const queue = { maxQueue: 3, maxWait: "2 seconds" } as const
      const fixed = { maxConcurrent: 4, ...queue }
      const adaptive = { algorithm: "aimd", initial: 6, min: 2, max: 12, ...queue } as const
      assert.strictEqual(yield* words(fixed, { "bulkhead.maxWait": "1 second" }), "at most 4 at once, 3 wait up to 1s")
      assert.strictEqual(
        yield* words(adaptive, { "bulkhead.maxQueue": "5" }),
        "2 to 12 at once, found by aimd from 6, 5 wait up to 2s"
      )
      assert.strictEqual(
        yield* words(adaptive, { "bulkhead.algorithm": "vegas" }),
        "2 to 12 at once, found by vegas from 6, 3 wait up to 2s"
      )
      assert.strictEqual(
        yield* words(adaptive, { "bulkhead.maxConcurrent": "8" }),
        "at most 8 at once, 3 wait up to 2s"
      )
      assert.strictEqual(
        yield* words(fixed, { "bulkhead.algorithm": "aimd", "bulkhead.initial": "5" }),
        "1 to 200 at once, found by aimd from 5, 3 wait up to 2s"
      )
    })
  )

  it.effect("keeps what a bulkhead takes for a failure, also where its kind changes", () =>
    Effect.gen(function* () {
      const seen: Array<unknown> = []
      const classify = (error: unknown) => {
        seen.push(error)
        return { class: "permanent" } as const
      }
      const policy = yield* make(
        { retry: false, breaker: false, bulkhead: { maxConcurrent: 4, classify } },
        { "bulkhead.algorithm": "aimd" }
      )
      yield* Effect.exit(policy.run(Effect.fail("no")))
      assert.deepStrictEqual(seen, ["no"])
    })
  )

  it.effect("replaces a budget of another kind, and adds to one of the same", () =>
    Effect.gen(function* () {
      const words = (variables: Variables) =>
        Effect.map(lines({ budget: { type: "grpc", maxTokens: 6 } }, variables), (found) => found["retry budget"])
      const before = yield* words({})
      const same = yield* words({ "budget.type": "grpc", "budget.tokenRatio": "0.5" })
      assert.include(before, "6")
      assert.include(same, "6")
      assert.include(same, "0.5")
      assert.strictEqual(yield* words({ "budget.ratio": "0.3" }), "30 % of the calls and 10 a second")
    })
  )

  it.effect("switches on every part that the code switches off, and off every part that it has", () =>
    Effect.gen(function* () {
      const off: Partial<Policy.Options> = {
        retry: false,
        budget: false,
        hedge: false,
        throttle: false,
        rateLimit: false,
        breaker: false,
        bulkhead: false
      }
      const parts = (policy: Policy.Policy) =>
        [policy.budget, policy.hedge, policy.throttle, policy.rateLimit, policy.breaker, policy.bulkhead].map(
          (each) => each !== undefined
        )
      const on = yield* make(off, {
        "retry.attempts": "2",
        "budget.enabled": "true",
        "hedge.delay": "1 second",
        "throttle.enabled": "true",
        "rateLimit.limit": "1",
        "breaker.enabled": "true",
        "bulkhead.enabled": "true"
      })
      assert.deepStrictEqual(parts(on), [true, true, true, true, true, true])
      assert.strictEqual(on.retry.attempts, 2)
      const names = ["retry", "budget", "hedge", "throttle", "rateLimit", "breaker", "bulkhead"]
      const disabled = Object.fromEntries(names.map((name) => [`${name}.enabled`, "false"]))
      const none = yield* make({ hedge: { delay: 1 }, throttle: {}, rateLimit: { limit: 1 }, bulkhead: {} }, disabled)
      assert.deepStrictEqual(parts(none), [false, false, false, false, false, false])
      assert.strictEqual(none.retry.attempts, 1)
    })
  )

  it.effect("leaves parts that were made elsewhere as they are, of every kind, but switches them off", () =>
    Effect.gen(function* () {
      const parts = {
        retry: RetryPolicy.exponential({ attempts: 4 }),
        budget: yield* RetryBudget.make({ type: "grpc" }),
        hedge: yield* Hedge.make({ delay: "1 second" }),
        throttle: yield* Throttle.make({ name: "t" }),
        rateLimit: yield* RateLimit.make({ name: "r", limit: 1 }),
        breaker: yield* CircuitBreaker.make({ name: "c" }),
        bulkhead: yield* Bulkhead.make({ name: "b" })
      }
      const policy = yield* make(parts, {
        "retry.attempts": "2",
        "budget.type": "grpc",
        "hedge.delay": "2 seconds",
        "throttle.ratio": "3",
        "rateLimit.limit": "9",
        "breaker.openFor": "1 second",
        "bulkhead.maxConcurrent": "3"
      })
      for (const [name, part] of Object.entries(parts)) assert.strictEqual(Reflect.get(policy, name), part, name)
      const without = yield* make(parts, { "breaker.enabled": "false", "budget.enabled": "false" })
      assert.deepStrictEqual([without.breaker, without.budget], [undefined, undefined])
    })
  )

  it.effect("takes a part that the settings bring ready made in place of the code's settings, not of its part", () =>
    Effect.gen(function* () {
      const own = yield* CircuitBreaker.make({ name: "own" })
      const given = yield* CircuitBreaker.make({ name: "given" })
      const over = (breaker: Policy.Options["breaker"]) =>
        Policy.fromConfig({ name: "weather", breaker }, Config.succeed({ breaker: given }))
      assert.strictEqual((yield* over({ openFor: "1 second" })).breaker, given)
      assert.strictEqual((yield* over(own)).breaker, own)
    })
  )
})
