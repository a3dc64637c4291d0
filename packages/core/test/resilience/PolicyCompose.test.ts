import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Fallback, Policy, RateLimit, RetryBudget, Throttle } from "@underlay/core"
import { Data, Deferred, Effect, Fiber, Metric, Option, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy") {
  get isRetryable() {
    return true
  }
}

const make = (options: Omit<Policy.Options, "name">, name = "weather") => Policy.make({ ...options, name })

const refused = (options: Omit<Policy.Options, "name">) =>
  Effect.map(Effect.flip(make(options)), (error) => error.problems.join("; "))

describe("Policy.make refuses combinations that cannot work, each with what to write instead", () => {
  const cases: ReadonlyArray<readonly [what: string, options: Omit<Policy.Options, "name">, fix: string]> = [
    ["no time at all", { timeout: 0 }, "timeout is not positive: give a longer one, or false for no limit"],
    ["no time for an attempt", { attemptTimeout: "-1 seconds" }, "attemptTimeout is not positive: give a longer one"],
    [
      "an attempt timeout that could never end an attempt",
      { timeout: "1 second", attemptTimeout: "2 seconds" },
      "lower attemptTimeout or raise timeout"
    ],
    [
      "an attempt timeout longer than the total by default",
      { attemptTimeout: "1 minute" },
      "attemptTimeout (1m) is longer than timeout (30s)"
    ],
    [
      "several attempts of what must not happen twice",
      { idempotent: false, retry: { attempts: 2 } },
      "set retry.unsentOnly to true"
    ],
    [
      "a hedge of what must not happen twice",
      { idempotent: false, hedge: { delay: "1 second" } },
      "remove hedge, or set idempotent to true"
    ],
    [
      "a second attempt after the end",
      { timeout: "5 seconds", retry: { base: "5 seconds", jitter: "none" } },
      "lower retry.base or raise timeout"
    ],
    [
      "a hedge after the attempt timeout",
      { attemptTimeout: "1 second", hedge: { delay: "1 second" } },
      "hedge.delay (1s) is not shorter than attemptTimeout (1s), so there would never be a hedge: lower hedge.delay"
    ],
    [
      "a hedge after the end",
      { timeout: "1 second", hedge: { delay: "2 seconds" } },
      "is not shorter than timeout (1s)"
    ],
    [
      "a hedge whose shortest delay is too long",
      {
        attemptTimeout: "1 second",
        hedge: { delay: { percentile: 0.9, initial: "2 seconds", min: "1 second", max: "3 seconds" } }
      },
      "lower hedge.delay.min"
    ],
    [
      "a hedge that waits for the first attempt's place",
      { hedge: { delay: "1 second" }, bulkhead: { maxConcurrent: 1 } },
      "raise it or remove hedge"
    ],
    [
      "a probe that loses its place while it may still run",
      { attemptTimeout: "20 seconds", breaker: { probeLease: "10 seconds" } },
      "raise probeLease or lower attemptTimeout"
    ],
    [
      "slow calls that have always failed",
      { attemptTimeout: "1 second", breaker: { slowCallDuration: "2 seconds" } },
      "lower slowCallDuration"
    ],
    [
      "a wait for a place that takes all the time",
      { timeout: "1 second", bulkhead: { maxQueue: 1, maxWait: "1 second" } },
      "lower bulkhead.maxWait or raise timeout"
    ],
    [
      "a wait for a turn that takes all the time",
      { timeout: "1 second", rateLimit: { limit: 1, maxWait: "2 seconds" } },
      "lower rateLimit.maxWait or raise timeout"
    ],
    [
      "two stages of one name",
      {
        stages: [
          Policy.stage({ name: "sign", wrap: (effect) => effect }),
          Policy.stage({ name: "sign", at: "call", wrap: (effect) => effect })
        ]
      },
      'two stages are named "sign": give each a name of its own'
    ],
    ["what the retry itself refuses", { retry: { factor: 0 } }, "retry.factor is 0: give 1 or more"],
    ["what the budget refuses", { budget: { type: "percentage", ratio: -1 } }, "budget.ratio is -1"],
    ["what the hedge refuses", { hedge: { delay: "1 second", maxHedges: 0 } }, "maxHedges"],
    ["what the throttle refuses", { throttle: { ratio: 0.5 } }, "throttle.ratio is 0.5: give 1 or more"],
    ["what the rate limit refuses", { rateLimit: { limit: 0 } }, "rateLimit.limit is 0: give a number above 0"],
    ["what the breaker refuses", { breaker: { halfOpenPermits: 0 } }, "breaker.halfOpenPermits is 0"],
    ["what the bulkhead refuses", { bulkhead: { maxConcurrent: 0 } }, "bulkhead.maxConcurrent is 0"]
  ]
  for (const [what, options, fix] of cases) {
    it.effect(what, () => Effect.map(refused(options), (problems) => assert.include(problems, fix)))
  }

  it.effect("and names the policy", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(make({ timeout: 0 }))
      assert.strictEqual(error._tag, "PolicyInvalid")
      assert.match(error.message, /^The policy "weather" cannot work: /)
    })
  )

  it.effect("but no combination that works", () =>
    Effect.gen(function* () {
      yield* make({ timeout: false, attemptTimeout: "1 hour" })
      yield* make({ timeout: "5 seconds", attemptTimeout: "5 seconds" })
      yield* make({ idempotent: false })
      yield* make({ idempotent: false, retry: { attempts: 3, unsentOnly: true } })
      yield* make({ idempotent: false, retry: false })
      yield* make({ hedge: { delay: "1 second" }, bulkhead: { maxConcurrent: 2 } })
      yield* make({ timeout: "1 second", rateLimit: { limit: 1, maxWait: false } })
    })
  )
})

describe("Policy.describe", () => {
  it.effect("names every stage, outermost first", () =>
    Effect.gen(function* () {
      const policy = yield* make({
        timeout: "20 seconds",
        attemptTimeout: "5 seconds",
        retry: { attempts: 2, base: "100 millis" },
        budget: { type: "grpc" },
        hedge: { delay: "1 second" },
        throttle: {},
        rateLimit: { limit: 50 },
        breaker: { openFor: "5 seconds" },
        bulkhead: { maxConcurrent: 10 },
        stages: [
          Policy.stage({ name: "audit", at: "call", wrap: (effect) => effect }),
          Policy.stage({ name: "sign", wrap: (effect) => effect }),
          Policy.stage({ name: "trace", at: "inner", wrap: (effect) => effect })
        ]
      })
      const lines = Policy.describe(policy).split("\n")
      assert.deepStrictEqual(
        lines.map((line) => line.trim().split(/ {2,}/)[0]),
        [
          'policy "weather"',
          "stage",
          "total timeout",
          "retry",
          "retry budget",
          "hedge",
          "stage",
          "throttle",
          "rate limit",
          "circuit breaker",
          "bulkhead",
          "attempt timeout",
          "stage",
          "the call"
        ]
      )
      assert.match(lines[1] ?? "", /audit$/)
      assert.match(lines[6] ?? "", /sign$/)
      assert.match(lines[12] ?? "", /trace$/)
    })
  )

  it.effect("says what there is not, and leaves out what is idle", () =>
    Effect.gen(function* () {
      const policy = yield* make({ timeout: false, retry: false, breaker: false })
      assert.strictEqual(
        policy.description,
        [
          'policy "weather"',
          "  total timeout    none",
          "  retry            a single attempt",
          "  circuit breaker  none",
          "  attempt timeout  none",
          "  the call"
        ].join("\n")
      )
    })
  )

  it.effect("shows the settings in force after a reload", () =>
    Effect.gen(function* () {
      const policy = yield* make({ bulkhead: { maxConcurrent: 10 } })
      yield* policy.reload({ bulkhead: { maxConcurrent: 20 }, timeout: "5 seconds" })
      assert.include(policy.description, "at most 20 at once")
      assert.include(policy.description, "total timeout    5s")
    })
  )
})

describe("Policy.compose", () => {
  const outerOptions: Omit<Policy.Options, "name"> = {
    timeout: "1 minute",
    retry: false,
    breaker: false,
    bulkhead: { maxConcurrent: 1 }
  }
  const composed = Effect.gen(function* () {
    const outer = yield* make(outerOptions, "outer")
    const inner = yield* make({ retry: { attempts: 3, base: "1 second", jitter: "none" }, breaker: false }, "inner")
    return { outer, inner, both: yield* Policy.compose("both", [outer, inner]) }
  })

  it.effect("puts one round the other: a bulkhead round whole calls holds its place through all attempts", () =>
    Effect.gen(function* () {
      const { both, outer } = yield* composed
      let attempts = 0
      const call = Effect.suspend(() => (++attempts < 3 ? Effect.fail(new Busy()) : Effect.succeed("ok")))
      const fiber = yield* Effect.fork(both.run(call))
      yield* TestClock.adjust("500 millis")
      // Between two attempts.
      assert.strictEqual((yield* both.run(Effect.void).pipe(Effect.flip))._tag, "BulkheadFull")
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      const bulkhead = yield* Effect.fromNullable(outer.bulkhead)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    })
  )

  it.effect("runs promises and streams alike, and what a call changes is for the innermost", () =>
    Effect.gen(function* () {
      const { both } = yield* composed
      assert.strictEqual(yield* both.tryPromise(() => Promise.resolve(1)), 1)
      const error = yield* Effect.flip(
        both.tryPromise({ try: () => Promise.reject(new Error("x")), catch: () => "bad" as const })
      )
      assert.strictEqual(error, "bad")
      assert.strictEqual(Option.getOrThrow(yield* Stream.runHead(both.stream(Stream.make(1, 2)))), 1)
      let attempts = 0
      yield* Effect.flip(
        both.run(
          Effect.suspend(() => {
            attempts++
            return Effect.fail(new Busy())
          }),
          { retries: 0 }
        )
      )
      assert.strictEqual(attempts, 1)
      let asked = 0
      yield* Effect.flip(
        Stream.runDrain(
          both.stream(
            Stream.suspend(() => {
              asked++
              return Stream.fail(new Busy())
            }),
            { retries: 0 }
          )
        )
      )
      assert.strictEqual(asked, 1)
    })
  )

  it.effect("a fallback is asked once, when all of it has failed", () =>
    Effect.gen(function* () {
      const outer = yield* make({ ...outerOptions, metrics: true }, "composed-outer")
      const inner = yield* make({ retry: false, breaker: false, metrics: true }, "composed-inner")
      const both = yield* Policy.compose("both", [outer, inner])
      let asked = 0
      const fallback = Fallback.effect((error: Busy | Policy.PolicyError) =>
        Effect.sync(() => {
          asked++
          return error._tag
        })
      )
      assert.strictEqual(yield* both.run(Effect.fail(new Busy()), { fallback }), "Busy")
      assert.strictEqual(asked, 1)
      const hold = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(both.run(Deferred.await(hold)))
      yield* Effect.yieldNow()
      assert.strictEqual(yield* both.run(Effect.fail(new Busy()), { fallback }), "BulkheadFull")
      assert.deepStrictEqual(
        [
          ...(yield* Stream.runCollect(
            both.stream(Stream.fail(new Busy()), { fallback: Fallback.value(Stream.make("calm")) })
          ))
        ],
        ["calm"]
      )
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(fiber)
      const count = (policy: string) =>
        Metric.value(
          Metric.counter("resilience_fallbacks_total", {
            description: "Calls that a fallback answered, by how it ended",
            incremental: true
          }).pipe(Metric.tagged("policy", policy), Metric.tagged("outcome", "success"))
        )
      assert.strictEqual((yield* count("composed-outer")).count, 3)
      assert.strictEqual((yield* count("composed-inner")).count, 0)
    })
  )

  it.effect("describes the whole", () =>
    Effect.gen(function* () {
      const { both } = yield* composed
      const lines = Policy.describe(both).split("\n")
      assert.deepStrictEqual(
        [lines[0], lines[1], lines.filter((line) => line.startsWith("policy")).length, lines.at(-1)],
        ['"both", outermost first', 'policy "outer"', 2, "  the call"]
      )
      assert.strictEqual(lines.filter((line) => line.trim() === "the call").length, 1)
    })
  )

  it.effect("Policy.run takes it, and a fallback, first or last", () =>
    Effect.gen(function* () {
      const { both } = yield* composed
      assert.strictEqual(yield* Effect.succeed(1).pipe(Policy.run(both)), 1)
      assert.strictEqual(yield* Policy.run(Effect.succeed(1), both, { timeout: "1 second" }), 1)
      const piped: Effect.Effect<number | string> = (Effect.fail(new Busy()) as Effect.Effect<number, Busy>).pipe(
        Policy.run(both, { retries: 0, fallback: Fallback.value("calm") })
      )
      assert.strictEqual(yield* piped, "calm")
      const first: Effect.Effect<number | string> = Policy.run(
        Effect.fail(new Busy()) as Effect.Effect<number, Busy>,
        both,
        { retries: 0, fallback: Fallback.value("calm") }
      )
      assert.strictEqual(yield* first, "calm")
    })
  )

  const orders: ReadonlyArray<
    readonly [what: string, outer: Omit<Policy.Options, "name">, inner: Omit<Policy.Options, "name">, fix: string]
  > = [
    ["both retry", {}, { timeout: "5 seconds" }, 'set retry to false in "outer"'],
    [
      "the outer hedges what the inner retries",
      { retry: false, hedge: { delay: "1 second" } },
      { timeout: "5 seconds" },
      'move hedge into "inner"'
    ],
    [
      "the outer hedges what the inner hedges",
      { retry: false, hedge: { delay: "1 second" } },
      { retry: false, timeout: "5 seconds", hedge: { delay: "1 second" } },
      "the outer one hedges what the inner one hedges already"
    ],
    [
      "an inner timeout that is never reached",
      { retry: false, timeout: "10 seconds" },
      { timeout: "10 seconds" },
      'the inner timeout (10s) is not shorter than the outer timeout (10s), so it would never be reached: lower timeout of "inner" or set it to false'
    ],
    [
      "an inner timeout longer than the outer attempt timeout",
      { retry: false, timeout: "1 minute", attemptTimeout: "5 seconds" },
      { timeout: "10 seconds" },
      "the outer attemptTimeout (5s)"
    ],
    [
      "an inner attempt timeout that is never reached",
      { retry: false, timeout: "10 seconds" },
      { timeout: false, attemptTimeout: "20 seconds" },
      "the inner attemptTimeout (20s) is not shorter than the outer timeout (10s)"
    ]
  ]
  for (const [what, outer, inner, fix] of orders) {
    it.effect(`refuses an order that cannot work: ${what}`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(
          Policy.compose("both", [yield* make(outer, "outer"), yield* make(inner, "inner")])
        )
        assert.strictEqual(error.policy, "both")
        assert.include(error.message, fix)
        assert.include(error.message, '"outer" round "inner"')
      })
    )
  }

  it.effect("refuses the same part in two places", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b" })
      const rateLimit = yield* RateLimit.make({ name: "r", limit: 1 })
      const breaker = yield* CircuitBreaker.make({ name: "c" })
      const throttle = yield* Throttle.make({ name: "t" })
      const parts = { retry: false, bulkhead, rateLimit, breaker, throttle } as const
      const error = yield* Effect.flip(
        Policy.compose("both", [yield* make(parts, "outer"), yield* make({ ...parts, timeout: "1 second" }, "inner")])
      )
      assert.strictEqual(error.problems.length, 4)
      for (const what of ["bulkhead", "rate limit", "breaker", "throttle"]) {
        assert.include(error.message, `both have the same ${what}`)
      }
      const policy = yield* make({ retry: false }, "same")
      assert.include((yield* Effect.flip(Policy.compose("twice", [policy, policy]))).message, "the same breaker")
    })
  )

  it.effect("looks at every pair, not only at neighbours", () =>
    Effect.gen(function* () {
      const retrying = { timeout: false, attemptTimeout: false } as const
      const error = yield* Effect.flip(
        Policy.compose("three", [
          yield* make(retrying, "one"),
          yield* make({ retry: false, timeout: false }, "two"),
          yield* make(retrying, "three")
        ])
      )
      assert.include(error.message, '"one" round "three": both retry')
    })
  )
})

describe("parts that are given to a policy", () => {
  it.effect("two policies can share one budget", () =>
    Effect.gen(function* () {
      const budget = yield* RetryBudget.make({ type: "grpc", maxTokens: 2 })
      const retry = { base: "1 millis", jitter: "none" } as const
      const a = yield* make({ budget, retry }, "a")
      const b = yield* make({ budget, retry }, "b")
      assert.strictEqual(a.budget, b.budget)
      let attempts = 0
      const call = Effect.suspend(() => {
        attempts++
        return Effect.fail(new Busy())
      })
      yield* Effect.flip(a.run(call))
      yield* Effect.flip(b.run(call))
      // The first failure leaves one token of two, which is half: no retry in either.
      assert.strictEqual(attempts, 2)
    })
  )
})
