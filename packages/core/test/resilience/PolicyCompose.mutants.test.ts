/**
 * Which settings are refused, and how many reasons are given: at each bound, on both sides of it.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  Chaos,
  CircuitBreaker,
  Hedge,
  Policy,
  RateLimit,
  RetryBudget,
  RetryPolicy,
  Throttle
} from "@underlay/core"
import { Duration, Effect } from "effect"

type Options = Omit<Policy.Options, "name">

const make = (options: Options, name = "weather") => Policy.make({ ...options, name })

/** What is wrong, without what to do about it. */
const problems = (options: Options) =>
  Effect.match(make(options), {
    onFailure: (error) => error.problems.map((problem) => problem.replace(/(, so .*|: .*)$/s, "")),
    onSuccess: () => []
  })

const percentile = { percentile: 0.9, initial: "2 seconds" } as const

describe("Policy.make takes settings up to their bounds, and beyond them gives one reason for each", () => {
  const cases: ReadonlyArray<readonly [options: Options, ...found: ReadonlyArray<string>]> = [
    [{ timeout: 1 }],
    [{ timeout: 0 }, "timeout is not positive"],
    [{ attemptTimeout: 1 }],
    [{ attemptTimeout: 0 }, "attemptTimeout is not positive"],
    [{ timeout: "5 seconds", attemptTimeout: 5_001 }, "attemptTimeout (5s 1ms) is longer than timeout (5s)"],
    [{ timeout: "5 seconds", attemptTimeout: false }],
    [{ timeout: false, attemptTimeout: "1 day", retry: { base: "1 day", jitter: "none" } }],
    // The total is 30 seconds where none is given.
    [{ attemptTimeout: 30_000 }],
    [{ attemptTimeout: 30_001 }, "attemptTimeout (30s 1ms) is longer than timeout (30s)"],

    [{ retry: { attempts: 0 } }, "retry.attempts is 0"],
    [{ idempotent: false, retry: {} }, "idempotent is false but retry allows 3 attempts"],
    [{ idempotent: false, retry: { attempts: 2 } }, "idempotent is false but retry allows 2 attempts"],
    [
      { idempotent: false, retry: { attempts: 2, unsentOnly: false } },
      "idempotent is false but retry allows 2 attempts"
    ],
    [{ idempotent: false, retry: { attempts: 1 } }],
    [{ idempotent: false, retry: { unsentOnly: true } }],
    [{ idempotent: true, retry: { attempts: 2 } }],
    [{ timeout: "5 seconds", retry: { base: 4_999, jitter: "none" } }],
    [
      { timeout: "5 seconds", retry: { base: 5_000, jitter: "none" } },
      "the first wait of retry (5s) is not shorter than timeout (5s)"
    ],
    [{ timeout: "5 seconds", retry: { base: 5_000, jitter: "full" } }],
    [{ timeout: "5 seconds", retry: { base: 5_000 } }],
    [{ timeout: "5 seconds", retry: { base: 5_000, jitter: "none", attempts: 1 } }],
    // The base is a second where none is given.
    [{ timeout: 1_000, retry: { jitter: "none" } }, "the first wait of retry (1s) is not shorter than timeout (1s)"],
    [{ timeout: 1_001, retry: { jitter: "none" } }],

    [{ idempotent: false, retry: false, hedge: { delay: 1 } }, "hedge is set but idempotent is false"],
    [{ idempotent: false, retry: false, hedge: false }],
    [{ timeout: "5 seconds", hedge: { delay: 4_999 } }],
    [{ timeout: "5 seconds", hedge: { delay: 5_000 } }, "hedge.delay (5s) is not shorter than timeout (5s)"],
    [{ timeout: "5 seconds", attemptTimeout: "2 seconds", hedge: { delay: 1_999 } }],
    [
      { timeout: "5 seconds", attemptTimeout: "2 seconds", hedge: { delay: 2_000 } },
      "hedge.delay (2s) is not shorter than attemptTimeout (2s)"
    ],
    [
      { timeout: "5 seconds", attemptTimeout: "5 seconds", hedge: { delay: 5_000 } },
      "hedge.delay (5s) is not shorter than attemptTimeout (5s)"
    ],
    // Where the delay follows the service, only its least can be too long.
    [{ timeout: "5 seconds", hedge: { delay: { ...percentile, initial: "9 seconds" } } }],
    [{ timeout: "2 seconds", hedge: { delay: { ...percentile, min: 1_999 } } }],
    [
      { timeout: "2 seconds", hedge: { delay: { ...percentile, min: 2_000 } } },
      "hedge.delay.min (2s) is not shorter than timeout (2s)"
    ],
    [{ timeout: "5 seconds", attemptTimeout: "2 seconds", hedge: { delay: { ...percentile, min: 1_999 } } }],
    [
      { timeout: "5 seconds", attemptTimeout: "2 seconds", hedge: { delay: { ...percentile, min: 2_000 } } },
      "hedge.delay.min (2s) is not shorter than attemptTimeout (2s)"
    ],
    [
      { timeout: "2 seconds", attemptTimeout: "2 seconds", hedge: { delay: { ...percentile, min: 2_000 } } },
      "hedge.delay.min (2s) is not shorter than attemptTimeout (2s)"
    ],
    [{ hedge: { delay: 1 }, bulkhead: { maxConcurrent: 1 } }, "bulkhead.maxConcurrent is 1"],
    [{ hedge: { delay: 1 }, bulkhead: { maxConcurrent: 2 } }],
    [{ hedge: { delay: 1 }, bulkhead: {} }],
    [{ hedge: { delay: 1 }, bulkhead: false }],
    [{ hedge: { delay: 1 }, bulkhead: { algorithm: "aimd" } }],
    [{ hedge: false, bulkhead: { maxConcurrent: 1 } }],

    [{ attemptTimeout: "5 seconds", breaker: { probeLease: 5_000 } }],
    [
      { attemptTimeout: "5 seconds", breaker: { probeLease: 4_999 } },
      "breaker.probeLease (4s 999ms) is shorter than attemptTimeout (5s)"
    ],
    [{ breaker: { probeLease: 1 } }],
    [{ attemptTimeout: "5 seconds", breaker: { slowCallDuration: 4_999 } }],
    [
      { attemptTimeout: "5 seconds", breaker: { slowCallDuration: 5_000 } },
      "breaker.slowCallDuration (5s) is not shorter than attemptTimeout (5s)"
    ],
    [{ breaker: { slowCallDuration: "1 hour" } }],
    [{ breaker: { slowCallDuration: Duration.infinity } }, "breaker.slowCallDuration is Infinity ms"],
    [{ attemptTimeout: "5 seconds", breaker: false }],

    [{ timeout: "5 seconds", bulkhead: { maxQueue: 1, maxWait: 4_999 } }],
    [
      { timeout: "5 seconds", bulkhead: { maxQueue: 1, maxWait: 5_000 } },
      "bulkhead.maxWait (5s) is not shorter than timeout (5s)"
    ],
    [{ timeout: "5 seconds", rateLimit: { limit: 1, maxWait: 4_999 } }],
    [
      { timeout: "5 seconds", rateLimit: { limit: 1, maxWait: 5_000 } },
      "rateLimit.maxWait (5s) is not shorter than timeout (5s)"
    ],
    [{ timeout: "5 seconds", rateLimit: { limit: 1, maxWait: false } }],
    [{ timeout: "5 seconds", rateLimit: { limit: 1 }, bulkhead: {} }],
    // What cannot be is told once, not again of everything that is longer.
    [{ timeout: 0, hedge: { delay: 1 } }, "timeout is not positive"],
    [{ timeout: 0, hedge: { delay: percentile } }, "timeout is not positive"],
    [{ attemptTimeout: 0, hedge: { delay: percentile } }, "attemptTimeout is not positive"],
    [{ timeout: 0, bulkhead: { maxQueue: 1, maxWait: 1 }, rateLimit: { limit: 1 } }, "timeout is not positive"],
    [{ throttle: false, rateLimit: false, bulkhead: false, breaker: false, budget: false, retry: false, hedge: false }]
  ]
  for (const [options, ...found] of cases) {
    const settings = JSON.stringify(options)
    it.effect(found.length === 0 ? `takes ${settings}` : `refuses ${settings}: ${found.join("; ")}`, () =>
      Effect.map(problems(options), (seen) => assert.deepStrictEqual(seen, found))
    )
  }

  it.effect("takes parts that were made elsewhere as they are", () =>
    Effect.gen(function* () {
      const parts = {
        hedge: yield* Hedge.make({ delay: "1 minute" }),
        bulkhead: yield* Bulkhead.make({ name: "b", maxConcurrent: 1, maxQueue: 1, maxWait: "1 minute" }),
        rateLimit: yield* RateLimit.make({ name: "r", limit: 1, maxWait: "1 minute" }),
        breaker: yield* CircuitBreaker.make({ name: "c", probeLease: "1 second", slowCallDuration: "1 minute" }),
        budget: yield* RetryBudget.make({ type: "grpc" }),
        throttle: yield* Throttle.make({ name: "t" }),
        retry: RetryPolicy.exponential({ base: "1 minute", jitter: "none" })
      }
      assert.deepStrictEqual(yield* problems({ ...parts, timeout: "5 seconds", attemptTimeout: "5 seconds" }), [])
    })
  )
})

describe("Policy.describe", () => {
  const lines = (options: Options) =>
    Effect.map(make(options), (policy) =>
      Object.fromEntries(
        policy.description
          .split("\n")
          .slice(1, -1)
          .map((line) => line.trim().split(/ {2,}/) as [string, string])
      )
    )

  it.effect("shows the retry budget where there is something to take from it: a retry, or a hedge", () =>
    Effect.gen(function* () {
      assert.property(yield* lines({}), "retry budget")
      assert.property(yield* lines({ retry: { attempts: 2 } }), "retry budget")
      assert.notProperty(yield* lines({ retry: false }), "retry budget")
      assert.property(yield* lines({ retry: false, hedge: { delay: 1 } }), "retry budget")
      assert.notProperty(yield* lines({ budget: false }), "retry budget")
    })
  )

  it.effect("shows faults on purpose, next to the call", () =>
    Effect.gen(function* () {
      const chaos = yield* Chaos.make({ injections: [] })
      const found = yield* lines({ chaos, timeout: false })
      assert.strictEqual(Object.keys(found).at(-1), "chaos")
      assert.strictEqual(found["total timeout"], "none")
    })
  )
})

describe("Policy.compose", () => {
  const order = (outer: Options, inner: Options) =>
    Effect.gen(function* () {
      return yield* Effect.match(Policy.compose("both", [yield* make(outer, "outer"), yield* make(inner, "inner")]), {
        onFailure: (error) =>
          error.problems.map((problem) => problem.replace(/^"outer" round "inner": (.*?)(, so .*|: .*)$/s, "$1")),
        onSuccess: () => []
      })
    })

  const once = { retry: false } as const
  const hedge = { delay: 1 } as const
  const cases: ReadonlyArray<readonly [outer: Options, inner: Options, ...found: ReadonlyArray<string>]> = [
    [{}, { timeout: "5 seconds" }, "both retry"],
    [{ retry: { attempts: 2 } }, { timeout: "5 seconds", retry: { attempts: 2 } }, "both retry"],
    [{ retry: { attempts: 1 } }, { timeout: "5 seconds" }],
    [{}, { timeout: "5 seconds", retry: { attempts: 1 } }],
    [
      { ...once, hedge },
      { ...once, timeout: "5 seconds" }
    ],
    [
      { ...once, hedge },
      { timeout: "5 seconds", retry: { attempts: 2 } },
      "the outer one hedges what the inner one retries already"
    ],
    [
      { ...once, hedge },
      { ...once, timeout: "5 seconds", hedge },
      "the outer one hedges what the inner one hedges already"
    ],
    [once, { timeout: "5 seconds", hedge }],
    [{ ...once, timeout: "5 seconds" }, { timeout: 4_999 }],
    [
      { ...once, timeout: "5 seconds" },
      { timeout: 5_000 },
      "the inner timeout (5s) is not shorter than the outer timeout (5s)"
    ],
    [{ ...once, timeout: "5 seconds" }, { timeout: false }],
    [{ ...once, timeout: false }, { timeout: "1 hour" }],
    [{ ...once, timeout: "9 seconds", attemptTimeout: "5 seconds" }, { timeout: 4_999 }],
    [
      { ...once, timeout: "9 seconds", attemptTimeout: "5 seconds" },
      { timeout: 5_000 },
      "the inner timeout (5s) is not shorter than the outer attemptTimeout (5s)"
    ],
    [
      { ...once, timeout: "5 seconds", attemptTimeout: "5 seconds" },
      { timeout: 5_000 },
      "the inner timeout (5s) is not shorter than the outer timeout (5s)"
    ],
    [
      { ...once, timeout: "5 seconds" },
      { timeout: 6_000, attemptTimeout: 5_000 },
      "the inner timeout (6s) is not shorter than the outer timeout (5s)",
      "the inner attemptTimeout (5s) is not shorter than the outer timeout (5s)"
    ]
  ]
  for (const [outer, inner, ...found] of cases) {
    const settings = `${JSON.stringify(outer)} round ${JSON.stringify(inner)}`
    it.effect(found.length === 0 ? `takes ${settings}` : `refuses ${settings}: ${found.join("; ")}`, () =>
      Effect.map(order({ breaker: false, ...outer }, { breaker: false, ...inner }), (seen) =>
        assert.deepStrictEqual(seen, found)
      )
    )
  }

  it.effect("takes parts of the same kind that are not the same, and a part that neither has", () =>
    Effect.gen(function* () {
      const own: Options = { bulkhead: {}, rateLimit: { limit: 1 }, breaker: {}, throttle: {} }
      assert.deepStrictEqual(yield* order({ ...once, ...own }, { ...own, timeout: "5 seconds" }), [])
      assert.deepStrictEqual(yield* order({ ...once, breaker: false }, { breaker: false, timeout: "5 seconds" }), [])
    })
  )

  it.effect("says of the whole what it says of each, with one call in the middle", () =>
    Effect.gen(function* () {
      const outer = yield* make({ retry: false, breaker: false, timeout: "9 seconds" }, "outer")
      const inner = yield* make({ retry: false, breaker: false, timeout: Duration.seconds(5) }, "inner")
      const both = yield* Policy.compose("both", [outer, inner])
      assert.strictEqual(
        both.description,
        [
          '"both", outermost first',
          ...outer.description.split("\n").slice(0, -1),
          ...inner.description.split("\n").slice(0, -1),
          "  the call"
        ].join("\n")
      )
      assert.strictEqual(both.name, "both")
    })
  )
})
