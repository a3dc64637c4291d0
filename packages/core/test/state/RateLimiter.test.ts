import { assert, describe, it } from "@effect/vitest"
import { Deadline, ErrorClass, RateLimiter } from "@underlay/core"
import { RateLimiterSuite, Recording, Suite } from "@underlay/core/testing"
import { Clock, Duration, Effect, Fiber, Layer, Option, TestClock } from "effect"

describe("RateLimiter in memory", () => {
  for (const one of Suite.applicable(RateLimiterSuite.make({ advance: TestClock.adjust }), [])) {
    it.effect(one.name, () => one.run.pipe(Effect.provide(RateLimiter.layerMemory())))
  }
})

const memory = Effect.provide(RateLimiter.layerMemory())

/** A backend that can go away. */
const flaky = Effect.gen(function* () {
  const backend = yield* RateLimiter.makeMemory()
  const seen = { away: false, asked: 0, reason: "Unavailable" as RateLimiter.Reason }
  const orAway = <A>(method: string, effect: Effect.Effect<A, RateLimiter.RateLimiterError>) =>
    Effect.suspend(() => {
      seen.asked++
      return seen.away
        ? Effect.fail(
            new RateLimiter.RateLimiterError({
              reason: seen.reason,
              method,
              description: "it is away",
              outcome: "unknown"
            })
          )
        : effect
    })
  const layer = Layer.succeed(RateLimiter.RateLimiter, {
    judge: (request) => orAway(request.take ? "consume" : "peek", backend.judge(request)),
    reset: (keys) => orAway("reset", backend.reset(keys))
  })
  return { seen, layer }
})

/** Turns the clock on or back by some hours. */
const turn = (hours: number) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => TestClock.setTime(now + hours * 3_600_000))

const minutely = { name: "test", limit: 4, interval: "1 minute" } as const

const allowedOf = (limiter: RateLimiter.Limiter, key: string, times: number) =>
  Effect.map(
    Effect.forEach(Array.from({ length: times }), () => limiter.consume(key)),
    (decisions) => decisions.filter((one) => one.allowed).length
  )

describe("RateLimiter", () => {
  it.effect("options that cannot be are refused, and say what to write instead", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<readonly [Partial<RateLimiter.Options>, RegExp]> = [
        [{ name: "" }, /a name is/],
        [{ name: "a:b" }, /a name is/],
        [{ name: "a{b}" }, /a name is/],
        [{ limit: 0 }, /give a longer one/],
        [{ limit: 0.5 }, /give a longer one/],
        [{ limit: -1 }, /whole number/],
        [{ limit: Number.NaN }, /whole number/],
        [{ limit: Number.POSITIVE_INFINITY }, /whole number/],
        [{ interval: 0 }, /interval/],
        [{ interval: -1 }, /interval/],
        [{ interval: Duration.infinity }, /interval/],
        [{ interval: 0.5 }, /whole milliseconds/],
        [{ interval: "4000 days" }, /ten years/],
        [{ burst: 2 }, /no meaning with sliding-window/],
        [{ algorithm: "fixed-window", burst: 2 }, /no meaning with fixed-window/],
        [{ algorithm: "gcra", burst: 0 }, /burst must be/],
        [{ algorithm: "token-bucket", burst: 1.5 }, /burst must be/],
        [{ algorithm: "leaky" as RateLimiter.Algorithm }, /must be one of sliding-window/],
        [{ algorithm: "gcra", limit: 999_983, interval: 86_400_001, burst: 2 ** 40 }, /too fine/],
        [{ onUnavailable: "ask" as RateLimiter.OnUnavailable }, /fail, allow, deny and local/],
        [{ localShare: 0 }, /localShare/],
        [{ localShare: 1.5 }, /localShare/],
        [{ rememberRefused: -1 }, /rememberRefused/]
      ]
      for (const [options, description] of wrong) {
        const error = yield* Effect.flip(RateLimiter.make({ ...minutely, ...options }))
        assert.strictEqual(error.reason, "InvalidOptions", JSON.stringify(options))
        assert.match(error.message, description)
        assert.isFalse(error.isRetryable)
      }
      const none = yield* Effect.flip(RateLimiter.all({ name: "test", limits: [] }))
      assert.match(none.message, /one to 16 limits/)
      const twice = yield* Effect.flip(RateLimiter.all({ name: "test", limits: [minutely, { ...minutely, limit: 9 }] }))
      assert.match(twice.message, /in common/)
    }).pipe(memory)
  )

  it.effect("a limit that no double could count in microseconds is counted in milliseconds, and exactly", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({
        name: "test",
        algorithm: "token-bucket",
        limit: 999_983,
        interval: "1 day"
      })
      yield* limiter.consume("a", 999_983)
      let passed = 0
      for (let hour = 0; hour < 24; hour++) {
        yield* TestClock.adjust("1 hour")
        const { remaining } = yield* limiter.peek("a")
        passed += remaining
        yield* limiter.consume("a", remaining)
      }
      assert.strictEqual(passed, 999_983)
    }).pipe(memory)
  )

  it.effect("three in a second do not drift: 300 calls, each when it was told to come, take 100 seconds", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({
        name: "test",
        algorithm: "gcra",
        limit: 3,
        interval: "1 second",
        burst: 2
      })
      let waited = 0
      // two pass at once, and the others by thirds of a second, which no clock of milliseconds shows
      for (let passed = 0; passed < 302; ) {
        const { allowed, retryAfter } = yield* limiter.consume("a")
        if (allowed) passed++
        else {
          yield* TestClock.adjust(retryAfter)
          waited += Duration.toMillis(retryAfter)
        }
      }
      assert.strictEqual(waited, 100_000)
    }).pipe(memory)
  )

  it.effect("time that a clock was set back counts as none, and nothing is refused for longer by it", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Duration.toMillis("10 hours"))
      for (const algorithm of ["sliding-window", "fixed-window", "token-bucket", "gcra"] as const) {
        for (const limit of [4, 4_000]) {
          const burst = algorithm === "gcra" ? { burst: limit } : {}
          const limiter = yield* RateLimiter.make({
            name: `${algorithm}-${limit}`,
            algorithm,
            limit,
            interval: "1 minute",
            ...burst
          })
          yield* limiter.consume("a", limit / 2)
          yield* TestClock.adjust("10 seconds")
          yield* limiter.consume("a", limit / 2)
          yield* turn(-5)
          const { allowed, retryAfter } = yield* limiter.consume("a", limit)
          assert.isFalse(allowed, algorithm)
          assert.isAtMost(Duration.toMillis(retryAfter), 60_100, algorithm)
          yield* TestClock.adjust(Duration.subtract(retryAfter, "1 millis"))
          assert.isFalse((yield* limiter.consume("a", limit)).allowed, algorithm)
          yield* TestClock.adjust("1 millis")
          assert.isTrue((yield* limiter.consume("a", limit)).allowed, algorithm)
          yield* turn(5)
        }
      }
    }).pipe(memory)
  )

  it.effect("limiters of one name share what was used up, and one backend is not another", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* RateLimiter.make(minutely), yield* RateLimiter.make(minutely)]
      yield* one.consume("a", 3)
      assert.strictEqual((yield* two.consume("a")).remaining, 0)
      const elsewhere = yield* RateLimiter.make(minutely).pipe(memory)
      assert.strictEqual((yield* elsewhere.peek("a")).remaining, 4)
    }).pipe(memory)
  )

  it.effect("in memory what was used up least recently is forgotten first", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make(minutely)
      for (const key of ["a", "b", "c"]) yield* limiter.consume(key)
      yield* limiter.peek("a")
      yield* limiter.consume("d")
      const left = yield* Effect.forEach(["a", "b", "c", "d"], (key) => limiter.peek(key))
      assert.deepStrictEqual(
        left.map((one) => one.remaining),
        [3, 4, 3, 3]
      )
    }).pipe(Effect.provide(RateLimiter.layerMemory({ capacity: 3 })))
  )

  it.effect("a backend that is away fails the call typed, without the key in its message", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make(minutely).pipe(Effect.provide(layer))
      seen.away = true
      const error = yield* Effect.flip(limiter.consume("somebody"))
      assert.strictEqual(error.message, "RateLimiter.consume: it is away (it may have been done)")
      assert.isFalse(error.isRetryable, "it could take twice")
      assert.isTrue((yield* Effect.flip(limiter.peek("somebody"))).isRetryable)
      assert.isTrue((yield* Effect.flip(limiter.reset("somebody"))).isRetryable)
      assert.deepStrictEqual(yield* limiter.stats, { allowed: 0, refused: 0, remembered: 0, unavailable: 2 })
      seen.away = false
      assert.strictEqual((yield* limiter.consume("somebody")).remaining, 3)
      assert.deepStrictEqual(yield* limiter.stats, { allowed: 1, refused: 0, remembered: 0, unavailable: 2 })
    })
  )

  it.effect("allow and deny answer for a backend that is away or refuses, and say that they assume it", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const [allow, deny] = yield* Effect.all([
        RateLimiter.make({ ...minutely, onUnavailable: "allow" }),
        RateLimiter.make({ ...minutely, onUnavailable: "deny" })
      ]).pipe(Effect.provide(layer))
      yield* allow.consume("a", 4)
      for (const reason of ["Unavailable", "Timeout", "Rejected"] as const) {
        Object.assign(seen, { away: true, reason })
        const allowed = yield* allow.consume("a", 2)
        assert.deepInclude(allowed, { allowed: true, source: "assumed", limit: 4, remaining: 2 })
        const denied = yield* deny.consume("a")
        assert.deepInclude(denied, { allowed: false, source: "assumed", limit: 4, remaining: 0 })
        assert.deepStrictEqual(denied.retryAfter, Duration.seconds(1))
        assert.isFalse((yield* deny.peek("a")).allowed)
        // what cannot be is not answered for
        assert.strictEqual((yield* Effect.flip(allow.consume("a", 5))).reason, "CostExceedsLimit")
        assert.strictEqual((yield* Effect.flip(allow.consume("", 1))).reason, "InvalidKey")
        assert.strictEqual((yield* Effect.flip(allow.reset("a"))).reason, reason)
      }
      seen.away = false
      assert.deepInclude(yield* allow.consume("a"), { allowed: false, source: "backend" })
      assert.strictEqual((yield* allow.stats).unavailable, 3)
    })
  )

  it.effect("local limits within the process for as long as the backend is away, with its share of the limit", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make({
        ...minutely,
        limit: 10,
        onUnavailable: "local",
        localShare: 0.25
      }).pipe(Effect.provide(layer))
      yield* limiter.consume("a", 5)
      seen.away = true
      const first = yield* limiter.consume("a")
      assert.deepInclude(first, { allowed: true, source: "local", limit: 2, remaining: 1 })
      assert.strictEqual(yield* allowedOf(limiter, "a", 5), 1)
      assert.strictEqual(yield* allowedOf(limiter, "b", 5), 2)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* allowedOf(limiter, "a", 5), 2)
      // a cost that no share could ever pass takes all of it
      assert.deepInclude(yield* limiter.consume("c", 10), { allowed: true, remaining: 0 })
      assert.isFalse((yield* limiter.consume("c", 10)).allowed)
      seen.away = false
      assert.deepInclude(yield* limiter.consume("a"), { allowed: true, source: "backend", remaining: 9 })
    })
  )

  it.effect("refusals are remembered, so that a flood does not reach the backend", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make({ ...minutely, algorithm: "token-bucket", rememberRefused: 2 }).pipe(
        Effect.provide(layer)
      )
      yield* limiter.consume("a", 4)
      yield* TestClock.adjust("5 seconds")
      assert.deepInclude(yield* limiter.consume("a"), { allowed: false, source: "backend" })
      seen.asked = 0
      yield* TestClock.adjust("4 seconds")
      const refused = yield* limiter.consume("a", 2)
      assert.deepInclude(refused, { allowed: false, source: "memory", limit: 4 })
      assert.deepStrictEqual(refused.retryAfter, Duration.seconds(6))
      assert.deepStrictEqual(refused.resetAfter, Duration.seconds(51))
      for (let n = 0; n < 1_000; n++) yield* limiter.consume("a")
      assert.strictEqual(seen.asked, 0)
      assert.deepStrictEqual(yield* limiter.stats, { allowed: 1, refused: 1_002, remembered: 1_001, unavailable: 0 })
      // looking asks
      yield* limiter.peek("a")
      yield* limiter.consume("a", 0)
      assert.strictEqual(seen.asked, 2)
      yield* TestClock.adjust("6 seconds")
      assert.deepInclude(yield* limiter.consume("a"), { allowed: true, source: "backend" })
    })
  )

  it.effect("of a refusal that is remembered, less is asked of the backend, and a reset forgets it", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make({ ...minutely, rememberRefused: 2 }).pipe(Effect.provide(layer))
      yield* limiter.consume("a", 3)
      assert.isFalse((yield* limiter.consume("a", 2)).allowed)
      assert.deepInclude(yield* limiter.consume("a", 1), { allowed: true, source: "backend" })
      assert.isFalse((yield* limiter.consume("a", 1)).allowed)
      seen.asked = 0
      assert.isFalse((yield* limiter.consume("a", 1)).allowed)
      assert.strictEqual(seen.asked, 0)
      assert.isTrue(yield* limiter.reset("a"))
      assert.isTrue((yield* limiter.consume("a", 4)).allowed)
      // more keys than are remembered
      for (const key of ["b", "c", "d"]) yield* limiter.consume(key, 4)
      for (const key of ["b", "c", "d"]) yield* limiter.consume(key)
      seen.asked = 0
      for (const key of ["c", "d", "b"]) yield* limiter.consume(key)
      assert.strictEqual(seen.asked, 1)
    })
  )

  it.effect("an answer that was assumed is not remembered", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make({ ...minutely, rememberRefused: 10, onUnavailable: "deny" }).pipe(
        Effect.provide(layer)
      )
      seen.away = true
      assert.isFalse((yield* limiter.consume("a")).allowed)
      seen.away = false
      assert.isTrue((yield* limiter.consume("a")).allowed)
    })
  )

  it.effect("run refuses with what policies know as rate-limited, and does not run the effect", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({ ...minutely, limit: 1 })
      let ran = 0
      const effect = Effect.sync(() => ++ran)
      assert.strictEqual(yield* effect.pipe(RateLimiter.run(limiter, { key: "a" })), 1)
      const error = yield* Effect.flip(RateLimiter.run(effect, limiter, { key: "a" }))
      assert.strictEqual(error._tag, "RateLimitExceeded")
      assert.strictEqual(ErrorClass.classify(error).class, "rate-limited")
      assert.deepInclude(error, { service: "test", retryAfter: Duration.minutes(1) })
      assert.strictEqual(ran, 1)
    }).pipe(memory)
  )

  it.effect("run waits for the limit, but not longer than it may, nor past the deadline", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({ ...minutely, limit: 1 })
      const waiting = { key: "a", maxWait: "90 seconds" } as const
      const effect = Effect.succeed("ran")
      yield* limiter.consume("a")
      const fiber = yield* Effect.fork(RateLimiter.run(effect, limiter, waiting))
      yield* TestClock.adjust("59 seconds")
      assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), "ran")
      const late = yield* Effect.flip(RateLimiter.run(effect, limiter, { key: "a", maxWait: "59 seconds" }))
      assert.deepInclude(late, { _tag: "RateLimitExceeded", retryAfter: Duration.minutes(1) })
      const due = yield* Effect.flip(Deadline.within(RateLimiter.run(effect, limiter, waiting), "30 seconds"))
      assert.strictEqual(due._tag, "RateLimitExceeded")
      // two wait, and one of them is first
      const both = yield* Effect.fork(
        Effect.all(
          [
            Effect.either(RateLimiter.run(effect, limiter, waiting)),
            Effect.either(RateLimiter.run(effect, limiter, waiting))
          ],
          {
            concurrency: 2
          }
        )
      )
      yield* TestClock.adjust("2 minutes")
      const tags = (yield* Fiber.join(both)).map((each) => each._tag).sort()
      assert.deepStrictEqual(tags, ["Left", "Right"])
    }).pipe(memory)
  )

  it.effect("how long run waits is not for the wall clock to say: it may be set back or forth meanwhile", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      for (const jump of [-3_600_000, 3_600_000]) {
        const limiter = yield* RateLimiter.make({ ...minutely, limit: 1 })
        let ahead = 0
        const wall = () => clock.unsafeCurrentTimeMillis() + ahead
        const jumping: Clock.Clock = {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          currentTimeMillis: Effect.sync(wall),
          unsafeCurrentTimeMillis: wall,
          currentTimeNanos: clock.currentTimeNanos,
          unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
          sleep: (duration) => clock.sleep(duration)
        }
        const refusal = yield* Effect.zipRight(limiter.consume("a"), limiter.consume("a"))
        let asked = 0
        const refusing: RateLimiter.Limiter = {
          ...limiter,
          consume: () =>
            Effect.sync(() => {
              asked++
              return refusal
            })
        }
        const waiting = RateLimiter.run(Effect.void, refusing, { key: "a", maxWait: "150 seconds" })
        const fiber = yield* Effect.fork(Effect.withClock(Effect.flip(waiting), jumping))
        yield* TestClock.adjust("30 seconds")
        ahead = jump
        // after one minute and after two there is time for another, and after that there is not
        yield* TestClock.adjust("5 minutes")
        assert.isNotNull(fiber.unsafePoll(), `${jump}`)
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "RateLimitExceeded")
        assert.strictEqual(asked, 3, `${jump}`)
        yield* limiter.reset("a")
      }
    }).pipe(memory)
  )

  it.effect("headers say how the limit stands, in whole seconds that are not too early", () =>
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({ ...minutely, limit: 2 })
      const headersOf = (decision: RateLimiter.Decision) => RateLimiter.headers(decision)
      assert.deepStrictEqual(headersOf(yield* limiter.consume("a", 2)), {
        "ratelimit-limit": "2",
        "ratelimit-remaining": "0",
        "ratelimit-reset": "60"
      })
      yield* TestClock.adjust("900 millis")
      const refused = yield* limiter.consume("a")
      assert.deepStrictEqual(headersOf(refused), {
        "retry-after": "60",
        "ratelimit-limit": "2",
        "ratelimit-remaining": "0",
        "ratelimit-reset": "60"
      })
      assert.deepStrictEqual(RateLimiter.headers(refused, { draft: 8 }), {
        "retry-after": "60",
        ratelimit: '"default";r=0;t=60',
        "ratelimit-policy": '"default";q=2;w=60'
      })
      const both = yield* RateLimiter.all({
        name: "both",
        limits: [
          { limit: 10, interval: "1 second" },
          { limit: 1_000, interval: "1 hour" }
        ]
      })
      assert.deepStrictEqual(RateLimiter.headers(yield* both.consume("a", 3), { draft: 8 }), {
        ratelimit: '"1";r=7;t=1, "2";r=997;t=3600',
        "ratelimit-policy": '"1";q=10;w=1, "2";q=1000;w=3600'
      })
    }).pipe(memory)
  )

  class Logins extends RateLimiter.tag("test/Logins", { ...minutely, name: "logins" })<Logins>() {}
  class Calls extends RateLimiter.tag("test/Calls", {
    name: "calls",
    limits: [
      { limit: 2, interval: "1 second" },
      { limit: 3, interval: "1 hour" }
    ]
  })<Calls>() {}

  it.effect("a tag has the limiter's layer", () =>
    Effect.gen(function* () {
      const [logins, calls] = [yield* Logins, yield* Calls]
      assert.strictEqual((yield* logins.consume("a")).remaining, 3)
      assert.strictEqual((yield* calls.consume("a")).limits.length, 2)
    }).pipe(Effect.provide(Layer.mergeAll(Logins.layer, Calls.layer).pipe(Layer.provide(RateLimiter.layerMemory()))))
  )

  it.effect("emits nothing: no span, no log line, no metric", () =>
    Effect.gen(function* () {
      const { layer, seen } = yield* flaky
      const limiter = yield* RateLimiter.make({ ...minutely, onUnavailable: "local", rememberRefused: 10 }).pipe(
        Effect.provide(layer)
      )
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          for (let n = 0; n < 50; n++) {
            seen.away = n % 3 === 0
            yield* limiter.consume(`${n % 5}`)
            yield* limiter.peek("0")
            yield* Effect.ignore(limiter.reset(`${n % 7}`))
          }
        })
      )
    })
  )
})
