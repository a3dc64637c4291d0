/**
 * What every backend of rate limiters must do.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Random from "effect/Random"
import * as machine from "../internal/rateLimiter.ts"
import * as Model from "../internal/rateLimiterModel.ts"
import * as RateLimiter from "../state/RateLimiter.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass for the backend: by `TestClock` for one that goes by `Clock`, by ageing what another keeps. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** Whether `advance` ages what is kept instead of moving the backend's clock. Default: false. */
  readonly ages?: boolean | undefined
  /** How much the backend's clock may go on by itself while one case runs. Default: none. */
  readonly slack?: Duration.DurationInput | undefined
}

type Options_ = Omit<RateLimiter.Options, "name">

const algorithms: ReadonlyArray<RateLimiter.Algorithm> = ["sliding-window", "fixed-window", "token-bucket", "gcra"]

/**
 * The suite. Every case has limiters with names of their own, so all of them can run on one backend.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<never, RateLimiter.RateLimiter | R> => {
  const { advance } = options
  const slack = Duration.toMillis(options.slack ?? 0)
  /** Between too early and due. */
  const margin = Duration.millis(slack + 1)
  const name = Effect.map(SessionStore.makeId, (id) => `suite-${id.slice(0, 12)}`)
  const limiter = (settings: Options_) => Effect.flatMap(name, (name) => RateLimiter.make({ name, ...settings }))
  const tenAnHour = (algorithm: RateLimiter.Algorithm): Options_ => ({
    algorithm,
    limit: 10,
    interval: "1 hour",
    ...(algorithm === "gcra" ? { burst: 10 } : {})
  })

  /** Equal, or sooner by what the clock may have gone on by itself. */
  const near = (what: string, actual: Duration.Duration, expected: Duration.DurationInput) => {
    const [found, wanted] = [Duration.toMillis(actual), Duration.toMillis(expected)]
    return found <= wanted && found >= wanted - slack
      ? Effect.void
      : Suite.equal(what, Duration.format(actual), Duration.format(expected))
  }
  const takes = (
    limiter: RateLimiter.Limiter,
    key: string,
    times: number,
    cost = 1
  ): Effect.Effect<number, RateLimiter.RateLimiterError> =>
    Effect.map(
      Effect.forEach(Array.from({ length: times }), () => limiter.consume(key, cost)),
      (decisions) => decisions.filter((one) => one.allowed).length
    )
  const reason = (expected: RateLimiter.Reason) => (error: RateLimiter.RateLimiterError) => error.reason === expected

  const ofEach = algorithms.flatMap((algorithm) => [
    Suite.test(
      `${algorithm}: lets its limit pass at once, refuses more, and says when to come again`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        for (let n = 1; n <= 10; n++) {
          const { allowed, limit, limits, remaining, retryAfter, source } = yield* hourly.consume("a")
          yield* Suite.equal(
            `${n}`,
            [allowed, limit, remaining, limits.length, source],
            [true, 10, 10 - n, 1, "backend"]
          )
          yield* Suite.equal("no time to wait", retryAfter, Duration.zero)
        }
        const refused = yield* hourly.consume("a")
        yield* Suite.equal("refused", [refused.allowed, refused.remaining], [false, 0])
        const even = algorithm === "token-bucket" || algorithm === "gcra"
        yield* near("retryAfter", refused.retryAfter, even ? "6 minutes" : "1 hour")
        yield* near("resetAfter", refused.resetAfter, "1 hour")
        yield* Suite.equal("another key", yield* takes(hourly, "b", 11), 10)
      })
    ),
    Suite.test(
      `${algorithm}: what was refused passes after retryAfter and not before`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        yield* hourly.consume("a", 4)
        yield* advance(Duration.minutes(10))
        yield* hourly.consume("a", 5)
        for (const cost of [4, 8, 10]) {
          const { allowed, retryAfter } = yield* hourly.peek("a", cost)
          yield* Suite.equal(`${cost}, at once`, allowed, false)
          yield* advance(Duration.subtract(retryAfter, margin))
          yield* Suite.equal(`${cost}, too early`, (yield* hourly.consume("a", cost)).allowed, false)
          yield* advance(margin)
          yield* Suite.equal(`${cost}, in time`, (yield* hourly.consume("a", cost)).allowed, true)
        }
      })
    ),
    Suite.test(
      `${algorithm}: all is back after resetAfter`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        yield* hourly.consume("a", 7)
        yield* advance(Duration.minutes(3))
        const { resetAfter } = yield* hourly.consume("a", 2)
        yield* advance(resetAfter)
        const { remaining, resetAfter: none } = yield* hourly.peek("a")
        yield* Suite.equal("remaining", remaining, 10)
        yield* Suite.equal("resetAfter", none, Duration.zero)
        // a store may take a moment longer to forget than to count anew
        yield* advance(Duration.seconds(1))
        yield* Suite.equal("nothing is kept", yield* hourly.reset("a"), false)
        yield* Suite.equal("all of it", yield* takes(hourly, "a", 12), 10)
      })
    ),
    Suite.test(
      `${algorithm}: looking takes nothing and keeps nothing`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        for (let n = 0; n < 20; n++) yield* hourly.peek("a")
        const zero = yield* hourly.consume("a", 0)
        yield* Suite.equal("a cost of 0", [zero.allowed, zero.remaining, zero.resetAfter], [true, 10, Duration.zero])
        yield* Suite.equal("nothing is kept", yield* hourly.reset("a"), false)
        yield* hourly.consume("a", 10)
        const full = yield* hourly.consume("a", 0)
        yield* Suite.equal("a cost of 0 always passes", [full.allowed, full.remaining], [true, 0])
        yield* Suite.equal("one of 1 would not", (yield* hourly.peek("a")).allowed, false)
      })
    ),
    Suite.test(
      `${algorithm}: a reset forgets, and says whether there was something`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        yield* hourly.consume("a", 10)
        yield* hourly.consume("b", 10)
        yield* Suite.equal("reset", yield* hourly.reset("a"), true)
        yield* Suite.equal("again", yield* hourly.reset("a"), false)
        yield* Suite.equal("a", yield* takes(hourly, "a", 11), 10)
        yield* Suite.equal("b", yield* takes(hourly, "b", 1), 0)
      })
    ),
    Suite.test(
      `${algorithm}: a hundred at once take the limit and no more`,
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour(algorithm))
        const decisions = yield* Effect.forEach(Array.from({ length: 100 }), () => hourly.consume("a"), {
          concurrency: "unbounded"
        })
        const left = decisions.filter((one) => one.allowed).map((one) => one.remaining)
        yield* Suite.equal(
          "each its own",
          [...left].sort((a, b) => b - a),
          [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
        )
      })
    ),
    Suite.test(
      `${algorithm}: what was used up stays so under a new limit`,
      Effect.gen(function* () {
        const which = yield* name
        const settings = tenAnHour(algorithm)
        const before = yield* RateLimiter.make({ name: which, ...settings })
        yield* before.consume("a", 10)
        const hourly = (limit: number) =>
          RateLimiter.make({
            name: which,
            algorithm,
            limit,
            interval: "1 hour",
            burst: settings.burst === undefined ? undefined : limit
          })
        const lower = yield* hourly(5)
        const { allowed, limit, remaining } = yield* lower.peek("a")
        yield* Suite.equal("lower", [allowed, limit, remaining], [false, 5, 0])
        const higher = yield* hourly(20)
        // by a bucket as long to drain as before: all of the hour that it takes
        const even = algorithm === "token-bucket" || algorithm === "gcra"
        yield* Suite.equal("higher", (yield* higher.peek("a")).remaining, even ? 0 : 10)
      })
    )
  ])

  return Suite.make<never, RateLimiter.RateLimiter | R>("RateLimiter", [
    ...ofEach,
    Suite.test(
      "sliding-window: a border between two hours is none",
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour("sliding-window"))
        yield* takes(hourly, "a", 2)
        yield* advance(Duration.minutes(50))
        yield* Suite.equal("before the hour is over", yield* takes(hourly, "a", 10), 8)
        yield* advance(Duration.minutes(10))
        yield* Suite.equal("when it is over", (yield* hourly.peek("a")).remaining, 2)
        yield* advance(Duration.minutes(10))
        yield* Suite.equal("after it", yield* takes(hourly, "a", 10), 2)
        yield* advance(Duration.minutes(30))
        yield* Suite.equal("still", yield* takes(hourly, "a", 10), 0)
        yield* advance(Duration.minutes(15))
        yield* Suite.equal("an hour after those", yield* takes(hourly, "a", 10), 8)
      })
    ),
    Suite.test(
      "sliding-window: a large limit is not exceeded either, and comes back a thousandth of the interval late at most",
      Effect.gen(function* () {
        const hourly = yield* limiter({ limit: 100_000, interval: "1 hour" })
        yield* hourly.consume("a", 60_000)
        yield* advance(Duration.minutes(30))
        yield* hourly.consume("a", 40_000)
        const { allowed, retryAfter } = yield* hourly.peek("a", 60_000)
        yield* Suite.equal("full", allowed, false)
        const minutes = Duration.toMinutes(retryAfter)
        yield* Suite.isTrue("in half an hour", minutes >= 30 - slack / 60_000 && minutes <= 30.06)
        yield* advance(retryAfter)
        yield* Suite.equal("a part of it", (yield* hourly.consume("a", 60_001)).allowed, false)
        yield* Suite.equal("that part", (yield* hourly.consume("a", 60_000)).allowed, true)
      })
    ),
    Suite.test(
      "sliding-window: a thousand entries that end together",
      Effect.gen(function* () {
        const hourly = yield* limiter({ limit: 1_000, interval: "1 hour" })
        yield* Suite.equal("all", yield* takes(hourly, "a", 1_001), 1_000)
        yield* advance(Duration.minutes(59))
        yield* Suite.equal("none", yield* takes(hourly, "a", 1), 0)
        yield* advance(Duration.minutes(2))
        const { remaining } = yield* hourly.consume("a")
        yield* Suite.equal("all but one", remaining, 999)
      })
    ),
    Suite.test(
      "fixed-window: the window begins with the first call and ends as a whole",
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour("fixed-window"))
        yield* hourly.peek("a")
        yield* advance(Duration.minutes(40))
        yield* hourly.consume("a", 3)
        yield* advance(Duration.minutes(50))
        const { remaining, resetAfter } = yield* hourly.consume("a", 7)
        yield* Suite.equal("full", remaining, 0)
        yield* near("the rest of the window", resetAfter, "10 minutes")
        yield* advance(Duration.minutes(10))
        yield* Suite.equal("anew", yield* takes(hourly, "a", 11), 10)
      })
    ),
    Suite.test(
      "token-bucket: is refilled evenly, up to its burst",
      Effect.gen(function* () {
        const bucket = yield* limiter({ algorithm: "token-bucket", limit: 60, interval: "1 hour", burst: 5 })
        yield* Suite.equal("the burst", yield* takes(bucket, "a", 10), 5)
        yield* advance(Duration.minutes(3))
        yield* Suite.equal("three minutes", yield* takes(bucket, "a", 10), 3)
        yield* advance(Duration.minutes(60))
        yield* Suite.equal("no more than the burst", yield* takes(bucket, "a", 10), 5)
      })
    ),
    Suite.test(
      "token-bucket: under a new limit what was used up takes as long to come back as before",
      Effect.gen(function* () {
        const which = yield* name
        const bucket = (limit: number, interval: Duration.DurationInput) =>
          RateLimiter.make({ name: which, algorithm: "token-bucket", limit, interval })
        const [ten, seven, many] = [
          yield* bucket(10, "1 hour"),
          yield* bucket(7, "1 hour"),
          yield* bucket(999_983, "1 day")
        ]
        const about = (what: string, limiter: RateLimiter.Limiter, hours: number, remaining: number) =>
          Effect.flatMap(limiter.peek("a"), (decision) => {
            const off = Duration.toMillis(decision.resetAfter) - hours * 3_600_000
            return Effect.zipRight(
              Suite.equal(what, decision.remaining, remaining),
              Suite.isTrue(`${what}: ${off} ms off`, off <= 1_000 && off >= -1_000 - slack)
            )
          })
        yield* ten.consume("a", 10)
        yield* about("ten an hour", ten, 1, 0)
        yield* about("seven an hour", seven, 1, 0)
        const { remaining } = yield* many.peek("a")
        yield* about("many a day", many, 1, remaining)
        yield* Suite.isTrue("all but an hour's", Math.abs(remaining - (999_983 * 23) / 24) < 200)
        yield* many.consume("a", 41_666)
        yield* about("two hours", ten, 2, 0)
        yield* advance(Duration.minutes(93))
        yield* about("all but 27 minutes", ten, 0.45, 5)
        yield* about("all but 27 minutes", seven, 0.45, 3)
      })
    ),
    Suite.test(
      "gcra: spreads calls evenly",
      Effect.gen(function* () {
        const even = yield* limiter({ algorithm: "gcra", limit: 60, interval: "1 hour" })
        yield* Suite.equal("one", yield* takes(even, "a", 3), 1)
        const { limit, retryAfter } = yield* even.peek("a")
        yield* Suite.equal("at once", limit, 1)
        yield* near("retryAfter", retryAfter, "1 minute")
        let passed = 0
        for (let n = 0; n < 30; n++) {
          yield* advance(Duration.minutes(1))
          passed += yield* takes(even, "a", 2)
        }
        yield* Suite.equal("one a minute", passed, 30)
      })
    ),
    Suite.test(
      "names, keys and kinds of limits are kept apart",
      Effect.gen(function* () {
        const [first, second] = [yield* name, yield* name]
        const a = yield* RateLimiter.make({ name: first, ...tenAnHour("fixed-window") })
        const b = yield* RateLimiter.make({ name: second, ...tenAnHour("fixed-window") })
        yield* a.consume("k", 10)
        yield* Suite.equal("another name", (yield* b.peek("k")).remaining, 10)
        const odd = ["K", "k ", "k:", "{k}", "}{", "*", "k\u0000", "\u{1F511}", "::1", "a".repeat(1_024)]
        for (const key of odd) yield* Suite.equal("another key", (yield* a.consume(key, 4)).remaining, 6)
        for (const key of odd) yield* Suite.equal("the same key", (yield* a.peek(key)).remaining, 6)
      })
    ),
    Suite.test(
      "another algorithm for the same name begins anew",
      Effect.gen(function* () {
        const which = yield* name
        for (const before of algorithms) {
          for (const after of algorithms) {
            const key = `${before} to ${after}`
            const [one, other] = [
              yield* RateLimiter.make({ name: which, ...tenAnHour(before) }),
              yield* RateLimiter.make({ name: which, ...tenAnHour(after) })
            ]
            yield* one.consume(key, 10)
            const { remaining } = yield* other.peek(key)
            // two that share their arithmetic share what was used up
            const buckets = [before, after].every((each) => each === "token-bucket" || each === "gcra")
            yield* Suite.equal(key, remaining, before === after || buckets ? 0 : 10)
            yield* Suite.equal(key, (yield* other.consume(key, remaining)).allowed, true)
            yield* Suite.equal(key, (yield* other.peek(key)).remaining, 0)
          }
        }
      })
    ),
    Suite.test(
      "all: takes of every limit or of none, and says which one binds",
      Effect.gen(function* () {
        const both = yield* RateLimiter.all({
          name: yield* name,
          limits: [
            { limit: 3, interval: "1 minute" },
            { algorithm: "fixed-window", limit: 5, interval: "1 hour" },
            { algorithm: "token-bucket", limit: 100, interval: "1 day" }
          ]
        })
        const left = (decision: RateLimiter.Decision) => decision.limits.map((one) => one.remaining)
        const first = yield* both.consume("a", 3)
        yield* Suite.equal("every one", left(first), [0, 2, 97])
        yield* Suite.equal("the least binds", [first.allowed, first.limit, first.remaining], [true, 3, 0])
        const second = yield* both.consume("a")
        yield* Suite.equal("none", [second.allowed, second.limit, ...left(second)], [false, 3, 0, 2, 97])
        yield* near("by the minute", second.retryAfter, "1 minute")
        yield* advance(Duration.minutes(2))
        const two = yield* both.consume("a", 2)
        yield* Suite.equal("two more", [two.limit, two.remaining, ...left(two).slice(0, 2)], [5, 0, 1, 0])
        const third = yield* both.consume("a")
        yield* Suite.equal("by the hour", [third.allowed, third.limit, left(third)[0]], [false, 5, 1])
        yield* near("by the hour", third.retryAfter, "58 minutes")
        yield* Suite.equal("another key", left(yield* both.peek("b")), [3, 5, 100])
        yield* Suite.fails("the smallest limit", both.consume("b", 4), reason("CostExceedsLimit"))
        yield* Suite.equal("reset", [yield* both.reset("a"), yield* both.reset("a")], [true, false])
        yield* Suite.equal("reset", left(yield* both.peek("a")), [3, 5, 100])
      })
    ),
    Suite.test(
      "all: a hundred at once take of every limit the same",
      Effect.gen(function* () {
        const both = yield* RateLimiter.all({
          name: yield* name,
          limits: algorithms.map((algorithm) => ({ ...tenAnHour(algorithm) }))
        })
        const decisions = yield* Effect.forEach(Array.from({ length: 100 }), () => both.consume("a"), {
          concurrency: "unbounded"
        })
        yield* Suite.equal("allowed", decisions.filter((one) => one.allowed).length, 10)
        const seen = yield* both.consume("a", 0)
        yield* Suite.equal(
          "all used up",
          seen.limits.map((one) => one.remaining),
          [0, 0, 0, 0]
        )
      })
    ),
    Suite.test(
      "what cannot be asked is refused, and takes nothing",
      Effect.gen(function* () {
        const hourly = yield* limiter(tenAnHour("sliding-window"))
        for (const cost of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
          yield* Suite.fails("a cost", hourly.consume("a", cost), reason("InvalidCost"))
          yield* Suite.fails("a cost", hourly.peek("a", cost), reason("InvalidCost"))
        }
        yield* Suite.fails("more than the limit", hourly.consume("a", 11), reason("CostExceedsLimit"))
        for (const key of ["", "a".repeat(1_025), "a\udc00"]) {
          yield* Suite.fails("a key", hourly.consume(key), reason("InvalidKey"))
          yield* Suite.fails("a key", hourly.reset(key), reason("InvalidKey"))
        }
        yield* Suite.equal("nothing", (yield* hourly.peek("a")).remaining, 10)
      })
    ),
    Suite.test(
      "agrees with a plain model over any calls, and never exceeds what is documented",
      Effect.gen(function* () {
        const backend = yield* RateLimiter.RateLimiter
        const seed = yield* Random.nextIntBetween(0, 2 ** 31 - 1)
        for (const [meters, steps] of FastCheck.sample(runs, { seed, numRuns: 20 })) {
          const which = yield* name
          const keys = meters.map((_, index) => `{${which}}:${index}`)
          const model = Model.make(meters)
          let aged = 0
          for (const { cost, passes, take } of steps) {
            yield* advance(Duration.millis(passes))
            if (options.ages === true) aged += passes * 1_000
            const { at, verdicts } = yield* backend.judge({ keys, meters, cost, take })
            const expected = model.judge(at, aged, cost, take)
            yield* Suite.equal(`a model (seed ${seed}: ${JSON.stringify(meters)})`, verdicts, expected)
          }
          const exceeded = model.exceeded()
          yield* Suite.equal(`documented (seed ${seed}: ${JSON.stringify(meters)})`, exceeded, [])
          yield* backend.reset(keys)
        }
      })
    )
  ])
}

const limit = FastCheck.oneof(FastCheck.integer({ min: 1, max: 12 }), FastCheck.integer({ min: 1_000, max: 3_000 }))

const interval = FastCheck.oneof(
  FastCheck.integer({ min: 1, max: 50 }),
  FastCheck.integer({ min: 100, max: 10_000 }),
  FastCheck.constant(24 * 60 * 60 * 1_000)
)

const meter: FastCheck.Arbitrary<RateLimiter.Meter> = FastCheck.oneof(
  FastCheck.tuple(limit, interval).map(([limit, millis]) => machine.window(limit, millis * 1_000)),
  FastCheck.tuple(limit, interval).map(([limit, millis]) => machine.log(limit, millis * 1_000)),
  FastCheck.tuple(limit, interval, FastCheck.integer({ min: 1, max: 12 })).map(
    ([limit, millis, burst]) => machine.bucket(limit, millis * 1_000, burst) ?? machine.window(limit, millis * 1_000)
  ),
  // one that is counted in milliseconds
  FastCheck.constant(machine.bucket(999_983, 86_400_000_000, 100_000) ?? machine.window(1, 1))
)

/** Meters of one key, and what is asked of them: after some milliseconds a cost that is often about the limit. */
const runs: FastCheck.Arbitrary<
  readonly [
    ReadonlyArray<RateLimiter.Meter>,
    ReadonlyArray<{ readonly passes: number; readonly cost: number; readonly take: boolean }>
  ]
> = FastCheck.array(meter, { minLength: 1, maxLength: 3 }).chain((meters) => {
  const largest = Math.min(...meters.map(machine.largestOf))
  const longest = Math.max(...meters.map(Model.millisOf))
  const step = FastCheck.record({
    passes: FastCheck.oneof(
      { weight: 2, arbitrary: FastCheck.constant(0) },
      { weight: 2, arbitrary: FastCheck.integer({ min: 0, max: Math.ceil(longest / 10) }) },
      { weight: 1, arbitrary: FastCheck.integer({ min: 0, max: longest + 1 }) },
      // just when something is over
      { weight: 1, arbitrary: FastCheck.constantFrom(...meters.map(Model.millisOf)) }
    ),
    cost: FastCheck.oneof(
      FastCheck.constant(1),
      FastCheck.integer({ min: 0, max: largest }),
      FastCheck.integer({ min: 0, max: Math.ceil(largest / 4) })
    ),
    take: FastCheck.boolean().map((peek) => !peek || largest === 1)
  })
  return FastCheck.tuple(FastCheck.constant(meters), FastCheck.array(step, { minLength: 10, maxLength: 40 }))
})
