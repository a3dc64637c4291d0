/**
 * What a single call changes of its policy, what a reload keeps and passes on, what is told of the breaker in force, and
 * the figures of the standard policies.
 */
import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, type ErrorClass, Fallback, Policy } from "@underlay/core"
import { Cause, Clock, Data, Deferred, Effect, Exit, Fiber, Metric, MetricState, Stream, TestClock } from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly n?: number }> {
  get isRetryable() {
    return true
  }
}

const steady = { jitter: "none" } as const

const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), turn)

const busy = Effect.suspend(() => Effect.fail(new Busy({})))

const make = (options: Omit<Policy.Options, "name"> = {}, name = "x") => Effect.orDie(Policy.make({ ...options, name }))

/** The policy in words, line by line. */
const lines = (policy: Policy.Policy): Readonly<Record<string, string>> =>
  Object.fromEntries(
    policy.description
      .split("\n")
      .slice(1, -1)
      .map((line) => line.trim().split(/ {2,}/))
  )

/** After how many milliseconds each attempt was made. */
const timesOf = (policy: Policy.Policy, options?: Policy.CallOptions, work: Effect.Effect<unknown, unknown> = busy) =>
  Effect.gen(function* () {
    const at: Array<number> = []
    const started = yield* Clock.currentTimeMillis
    const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
      at.push(now - started)
      return work
    })
    const fiber = yield* fork(Effect.exit(options === undefined ? policy.run(call) : policy.run(call, options)))
    yield* TestClock.adjust("5 minutes")
    yield* Fiber.join(fiber)
    return at
  })

describe("a single call", () => {
  it.effect("is made again as often as it says: a part is no retry, and less than one is none", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: steady, breaker: false, budget: false, timeout: false })
      for (const [retries, attempts] of [
        [0, 1],
        [0.9, 1],
        [-3, 1],
        [Number.NaN, 1],
        [1, 2],
        [1.9, 2],
        [4, 5]
      ] as const) {
        assert.strictEqual((yield* timesOf(policy, { retries })).length, attempts, `retries ${retries}`)
      }
      // What is not said is the policy's.
      assert.deepStrictEqual(yield* timesOf(policy, { retryDelay: "2 seconds" }), [0, 2_000, 6_000])
      assert.deepStrictEqual(yield* timesOf(policy, {}), [0, 1_000, 3_000])
      assert.deepStrictEqual(yield* timesOf(policy, { retries: 1 }), [0, 1_000])
    })
  )

  it.effect("may happen twice where it says so, though the policy's may not, and the other way round", () =>
    Effect.gen(function* () {
      const hedge = { delay: "100 millis" } as const
      const idempotent = yield* make({ retry: steady, breaker: false, hedge })
      const slow = Effect.sleep("1 second")
      assert.deepStrictEqual(yield* timesOf(idempotent, undefined, slow), [0, 100])
      assert.deepStrictEqual(yield* timesOf(idempotent, { idempotent: true }, slow), [0, 100])
      assert.deepStrictEqual(yield* timesOf(idempotent, { idempotent: false }, slow), [0])
      assert.deepStrictEqual(yield* timesOf(idempotent, { hedge: false }, slow), [0])
      assert.deepStrictEqual(yield* timesOf(idempotent, { hedge: false }), [0, 1_000, 3_000])
      const once = yield* make({ retry: { ...steady, unsentOnly: true }, breaker: false, idempotent: false })
      assert.deepStrictEqual(yield* timesOf(once), [0])
      assert.deepStrictEqual(yield* timesOf(once, { idempotent: true }), [0, 1_000, 3_000])
      const silent = yield* make({ breaker: false, idempotent: false })
      assert.deepStrictEqual(yield* timesOf(silent), [0])
    })
  )

  it.effect("has its own limits of time, and none where it says so", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false, timeout: "2 seconds", attemptTimeout: "1 second" })
      const tookOf = (options: Policy.CallOptions) =>
        Effect.gen(function* () {
          const started = yield* Clock.currentTimeMillis
          const fiber = yield* fork(
            Effect.zipRight(Effect.exit(policy.run(Effect.sleep("1 hour"), options)), Clock.currentTimeMillis)
          )
          yield* TestClock.adjust("2 hours")
          return (yield* Fiber.join(fiber)) - started
        })
      assert.strictEqual(yield* tookOf({}), 1_000)
      assert.strictEqual(yield* tookOf({ attemptTimeout: false }), 2_000)
      assert.strictEqual(yield* tookOf({ attemptTimeout: "1500 millis" }), 1_500)
      assert.strictEqual(yield* tookOf({ timeout: "500 millis" }), 500)
      assert.strictEqual(yield* tookOf({ timeout: false, attemptTimeout: false }), 3_600_000)
    })
  )

  it.effect("a stream has its own limits too: of the first element, of the others, and none", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false, timeout: false, attemptTimeout: "1 second" })
      const late = Stream.fromEffect(Effect.sleep("5 seconds"))
      const outcome = (stream: Stream.Stream<unknown>, options?: Policy.StreamOptions) =>
        Effect.gen(function* () {
          const fiber = yield* fork(Effect.exit(Stream.runDrain(policy.stream(stream, options))))
          yield* TestClock.adjust("1 minute")
          const exit = yield* Fiber.join(fiber)
          return Exit.isSuccess(exit) ? "success" : (Cause.squash(exit.cause) as { readonly scope?: string }).scope
        })
      assert.strictEqual(yield* outcome(late), "first-element")
      assert.strictEqual(yield* outcome(late, {}), "first-element")
      assert.strictEqual(yield* outcome(late, { firstElementTimeout: false }), "success")
      const paused = Stream.concat(Stream.make(1), late)
      assert.strictEqual(yield* outcome(paused), "success")
      assert.strictEqual(yield* outcome(paused, { idleTimeout: "4 seconds" }), "idle")
      assert.strictEqual(yield* outcome(paused, { idleTimeout: false }), "success")
    })
  )
})

describe("errors are classified", () => {
  const transient = (): ErrorClass.Classification => ({ class: "transient" })
  const permanent = (): ErrorClass.Classification => ({ class: "permanent" })

  const seen = (options: Omit<Policy.Options, "name">, after?: Omit<Policy.Options, "name">) =>
    Effect.gen(function* () {
      const parts = {
        throttle: { window: "1 hour" },
        breaker: {},
        bulkhead: { algorithm: "aimd" },
        timeout: false
      } as const
      const policy = yield* make({ ...parts, ...options })
      if (after !== undefined) yield* Effect.orDie(policy.reload({ ...parts, ...after }))
      const attempts = (yield* timesOf(policy, undefined, Effect.fail("odd"))).length
      const throttle = yield* Effect.orDie(Effect.fromNullable(policy.throttle))
      const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
      const { accepts } = yield* throttle.snapshot
      return { attempts, accepts, failures: (yield* breaker.snapshot).counters.failures }
    })

  it.effect("for all parts as the policy says, and after a reload as that says", () =>
    Effect.gen(function* () {
      const retry = { ...steady, attempts: 2 }
      const asTransient = { attempts: 2, accepts: 0, failures: 2 }
      const asPermanent = { attempts: 1, accepts: 1, failures: 0 }
      assert.deepStrictEqual(yield* seen({ retry, classify: transient }), asTransient)
      assert.deepStrictEqual(yield* seen({ retry, classify: permanent }), asPermanent)
      assert.deepStrictEqual(yield* seen({ retry, classify: permanent }, { retry, classify: transient }), asTransient)
      assert.deepStrictEqual(yield* seen({ retry, classify: transient }, { retry, classify: permanent }), asPermanent)
    })
  )

  it.effect("for each part as its own settings say, where they do", () =>
    Effect.gen(function* () {
      const options = { retry: { ...steady, attempts: 2 }, classify: permanent }
      assert.deepInclude(yield* seen({ ...options, retry: { ...options.retry, classify: transient } }), {
        attempts: 2,
        accepts: 2,
        failures: 0
      })
      const throttle = (classify: ErrorClass.Classify) => ({ throttle: { window: "1 hour", classify } }) as const
      assert.deepInclude(yield* seen({ ...options, ...throttle(transient) }), { attempts: 1, accepts: 0, failures: 0 })
      assert.deepInclude(yield* seen({ ...options, classify: transient, ...throttle(permanent) }), { accepts: 2 })
      assert.deepInclude(yield* seen(options, { ...options, ...throttle(transient) }), { accepts: 0 })
      assert.deepInclude(yield* seen({ ...options, breaker: { classify: transient } }), { attempts: 1, failures: 1 })
      assert.deepInclude(yield* seen(options, { ...options, breaker: { classify: transient } }), { failures: 1 })
    })
  )

  it.effect("as cancelled by a call, of which a throttle hears nothing", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false, throttle: {} })
      const throttle = yield* Effect.orDie(Effect.fromNullable(policy.throttle))
      const aborted = Object.assign(new Error("aborted"), { name: "AbortError" })
      yield* Effect.exit(policy.run(Effect.fail(aborted)))
      yield* Effect.exit(throttle.run(Effect.fail(aborted)))
      assert.deepInclude(yield* throttle.snapshot, { requests: 0, accepts: 0 })
    })
  )

  it.effect("for a bulkhead too, when it is made and when it is reloaded", () =>
    Effect.gen(function* () {
      const asked: Array<string> = []
      const asking = (name: string) => (): ErrorClass.Classification => {
        asked.push(name)
        return { class: "permanent" }
      }
      const fixed = { retry: { ...steady, classify: permanent }, breaker: false } as const
      const bulkhead = { algorithm: "aimd" } as const
      const policy = yield* make({ ...fixed, bulkhead, classify: asking("first") })
      yield* Effect.exit(policy.run(Effect.fail("no")))
      yield* Effect.orDie(policy.reload({ ...fixed, bulkhead, classify: asking("second") }))
      yield* Effect.exit(policy.run(Effect.fail("no")))
      yield* Effect.orDie(
        policy.reload({ ...fixed, bulkhead: { ...bulkhead, classify: asking("own") }, classify: asking("third") })
      )
      yield* Effect.exit(policy.run(Effect.fail("no")))
      assert.deepStrictEqual([...new Set(asked)], ["first", "second", "own"])
    })
  )
})

describe("Policy.reload", () => {
  it.effect("keeps its metrics and the count of its orphans, and shows them again when they are switched on", () =>
    Effect.gen(function* () {
      const name = "reload-orphans"
      const options = { retry: false, breaker: false, attemptTimeout: "1 second", metrics: true } as const
      const policy = yield* make(options, name)
      const hold = yield* Deferred.make<void>()
      const gauge = Effect.map(Metric.snapshot, (all) => {
        const found = all.find(
          ({ metricKey }) =>
            metricKey.name === "resilience_orphans" && metricKey.tags.some(({ value }) => value === name)
        )?.metricState
        return found !== undefined && MetricState.isGaugeState(found) ? Number(found.value) : undefined
      })
      const late = yield* fork(Effect.exit(policy.run(Effect.uninterruptible(Deferred.await(hold)))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(late)
      yield* Effect.orDie(policy.reload({ ...options, timeout: "20 seconds" }))
      assert.deepStrictEqual([yield* policy.orphans, yield* gauge], [{ current: 1, total: 1 }, 1])
      yield* Deferred.succeed(hold, undefined)
      yield* turn
      assert.deepStrictEqual([yield* policy.orphans, yield* gauge], [{ current: 0, total: 1 }, 0])
      assert.strictEqual(policy.name, name)
    })
  )

  it.effect("names the parts that it makes as the policy is named", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker: false }, "payments")
      yield* Effect.orDie(
        policy.reload({ retry: false, throttle: {}, rateLimit: { limit: 1 }, breaker: {}, bulkhead: {} })
      )
      for (const part of [policy.throttle, policy.rateLimit, policy.breaker, policy.bulkhead]) {
        assert.strictEqual(part?.name, "payments")
      }
    })
  )

  it.effect("can be taken out of the policy and passed on, like all that runs calls", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false })
      const { reload, run, stream, tryPromise } = policy
      yield* Effect.orDie(reload({ retry: false, timeout: "7 seconds" }))
      assert.strictEqual(lines(policy)["total timeout"], "7s")
      assert.strictEqual(yield* run(Effect.succeed(1)), 1)
      assert.strictEqual(yield* tryPromise(() => Promise.resolve(2)), 2)
      assert.deepStrictEqual([...(yield* Stream.runCollect(stream(Stream.make(3))))], [3])
    })
  )
})

describe("whoever watches the breaker of a policy", () => {
  const watch = (policy: Policy.Policy) => {
    const states: Array<string> = []
    const { watchBreaker } = policy as unknown as {
      readonly watchBreaker: (now: number, watcher: (state: string) => void) => () => void
    }
    return { states, end: watchBreaker(0, (state) => states.push(state)) }
  }
  const breaker = { window: { type: "consecutive", failures: 1 }, openFor: "10 seconds" } as const

  it.effect("is told its state at once and whenever it changes, until it is ended", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: false, breaker })
      const first = watch(policy)
      assert.include(first.states, "closed")
      yield* Effect.exit(policy.run(busy))
      const second = watch(policy)
      assert.strictEqual(first.states.at(-1), "open")
      assert.deepStrictEqual(new Set(second.states), new Set(["open"]))
      second.end()
      yield* TestClock.adjust("10 seconds")
      yield* policy.run(Effect.void)
      assert.strictEqual(first.states.at(-1), "closed")
      assert.strictEqual(second.states.at(-1), "open")
      first.end()
      const before = first.states.length
      yield* Effect.exit(policy.run(busy))
      assert.strictEqual(first.states.length, before)
    })
  )

  it.effect("is told of the breaker that a reload puts in force, also of one that is shared, and of none", () =>
    Effect.gen(function* () {
      const shared = yield* CircuitBreaker.make({ ...breaker, name: "shared" })
      const policy = yield* make({ retry: false, breaker: false })
      const { end, states } = watch(policy)
      yield* Effect.exit(shared.run(busy))
      yield* Effect.orDie(policy.reload({ retry: false, breaker: shared }))
      assert.strictEqual(states.at(-1), "open")
      yield* Effect.orDie(policy.reload({ retry: false, breaker: false }))
      // Every call passes.
      assert.strictEqual(states.at(-1), "closed")
      const before = states.length
      yield* shared.reset
      yield* Effect.exit(shared.run(busy))
      assert.strictEqual(states.length, before)
      end()
    })
  )

  it.effect("leaves the metrics of a breaker that is shared to those who share it, also where it is watched", () =>
    Effect.gen(function* () {
      const name = "watched-shared"
      const shared = yield* CircuitBreaker.make({ ...breaker, name: "shared" })
      const policy = yield* make({ retry: false, breaker: shared, metrics: true }, name)
      const { end } = watch(policy)
      yield* Effect.exit(policy.run(busy))
      const shown = Effect.map(Metric.snapshot, (all) =>
        all.some(
          ({ metricKey }) =>
            metricKey.name === "circuit_breaker_state" && metricKey.tags.some(({ value }) => value === name)
        )
      )
      assert.isFalse(yield* shown)
      yield* Effect.orDie(policy.reload({ retry: false, breaker: {}, metrics: true }))
      assert.isTrue(yield* shown)
      end()
    })
  )

  it.effect("leaves nothing with a breaker that it has watched", () =>
    Effect.gen(function* () {
      const shared = yield* CircuitBreaker.make({ ...breaker, name: "shared" })
      const listeners = (shared as unknown as { readonly machine: { readonly listeners: ReadonlySet<unknown> } })
        .machine.listeners
      const policy = yield* make({ retry: false, breaker: shared, metrics: true })
      assert.strictEqual(listeners.size, 0)
      const { end } = watch(policy)
      assert.strictEqual(listeners.size, 1)
      end()
      assert.strictEqual(listeners.size, 0)
    })
  )
})

describe("a fallback", () => {
  const outcomes = (name: string) =>
    Effect.map(Metric.snapshot, (all) => {
      const found: Record<string, number> = {}
      for (const { metricKey, metricState } of all) {
        const labels = Object.fromEntries(metricKey.tags.map(({ key, value }) => [key, value]))
        if (metricKey.name !== "resilience_fallbacks_total" || labels["policy"] !== name) continue
        found[labels["outcome"] ?? ""] = MetricState.isCounterState(metricState) ? Number(metricState.count) : 0
      }
      return found
    })

  it.effect("that is interrupted, or lets the error pass, has not answered; one that dies has failed", () =>
    Effect.gen(function* () {
      const name = "fallbacks"
      const policy = yield* make({ retry: false, breaker: false, metrics: true }, name)
      const fiber = yield* fork(policy.run(busy, { fallback: Fallback.effect(() => Effect.never) }))
      yield* Fiber.interrupt(fiber)
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.effect((error) => Effect.fail(error)) }))
      assert.deepStrictEqual(yield* outcomes(name), {})
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.effect(() => Effect.die("bug")) }))
      yield* Effect.exit(policy.run(busy, { fallback: Fallback.effect(() => busy) }))
      assert.deepStrictEqual(yield* outcomes(name), { failure: 2 })
      assert.strictEqual(yield* policy.run(busy, { fallback: Fallback.value("calm") }), "calm")
      assert.deepStrictEqual(yield* outcomes(name), { failure: 2, success: 1 })
    })
  )
})

describe("Policy.compose", () => {
  const composed = (outer: Omit<Policy.Options, "name">, inner: Omit<Policy.Options, "name">) =>
    Effect.gen(function* () {
      const both = yield* Effect.orDie(
        Policy.compose("both", [
          yield* make({ retry: false, breaker: false, timeout: false, ...outer }, "outer"),
          yield* make({ breaker: false, retry: steady, ...inner }, "inner")
        ])
      )
      return both
    })

  it.effect("runs promises through all of it: what a call changes is for the innermost, and is asked each time", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "b", maxConcurrent: 1 })
      const both = yield* composed({ bulkhead }, {})
      let calls = 0
      const failing = both.tryPromise(
        { try: () => Promise.reject(++calls), catch: (n) => new Busy({ n: Number(n) }) },
        { retries: 0 }
      )
      for (let n = 1; n <= 2; n++) {
        const error = yield* Effect.flip(failing)
        assert.isTrue(error._tag === "Busy" && error.n === n)
      }
      const fiber = yield* fork(both.tryPromise(() => new Promise(() => {})))
      assert.strictEqual((yield* bulkhead.snapshot).active, 1)
      const refused = yield* Effect.flip(both.tryPromise(() => Promise.resolve(1)))
      assert.strictEqual(refused._tag, "BulkheadFull")
      yield* Fiber.interrupt(fiber)
      const unknown = yield* Effect.flip(both.tryPromise(() => Promise.reject("no"), { retries: 0 }))
      assert.isTrue(unknown._tag === "UnknownException" && unknown.error === "no")
      assert.strictEqual((unknown as Cause.UnknownException).message, "the promise was rejected")
    })
  )

  it.effect("gives what a call changes to the innermost only, of effects and of streams", () =>
    Effect.gen(function* () {
      const [outer, inner] = [yield* Bulkhead.make({ name: "o" }), yield* Bulkhead.make({ name: "i" })]
      const both = yield* composed({ bulkhead: outer }, { bulkhead: inner })
      const active = Effect.all([outer.snapshot, inner.snapshot]).pipe(
        Effect.map((all) => all.map((each) => each.active))
      )
      for (const call of [
        both.run(Effect.never, { weight: 3 }),
        Stream.runDrain(both.stream(Stream.never, { weight: 3 }))
      ]) {
        const fiber = yield* fork(call)
        assert.deepStrictEqual(yield* active, [1, 3])
        yield* Fiber.interrupt(fiber)
      }
    })
  )

  it.effect("asks a fallback of the innermost nothing: it is for the whole", () =>
    Effect.gen(function* () {
      const both = yield* composed({}, { retry: false })
      const asked: Array<string> = []
      const fallback = Fallback.effect((error: Busy | Policy.PolicyError) =>
        Effect.sync(() => {
          asked.push(error._tag)
          return "calm"
        })
      )
      assert.strictEqual(yield* both.run(busy as Effect.Effect<string, Busy>, { fallback }), "calm")
      const calm = Fallback.value(Stream.make("calm"))
      const found = yield* Stream.runCollect(both.stream(Stream.fail(new Busy({})), { fallback: calm, retries: 0 }))
      assert.deepStrictEqual([[...found], asked], [["calm"], ["Busy"]])
    })
  )
})

describe("Policy.isPolicy, Policy.run and Policy.tag", () => {
  it.effect("tell a policy from anything else, and run it from either side", () =>
    Effect.gen(function* () {
      const policy = yield* make({ retry: steady, breaker: false })
      assert.isTrue(Policy.isPolicy(policy))
      for (const other of [null, undefined, "policy", {}, () => policy]) assert.isFalse(Policy.isPolicy(other))
      let calls = 0
      const call = Effect.suspend(() => {
        calls++
        return busy
      })
      yield* Effect.exit(Policy.run(call, policy, { retries: 0 }))
      yield* Effect.exit(call.pipe(Policy.run(policy, { retries: 0 })))
      assert.strictEqual(calls, 2)
    })
  )

  it.effect("a tag makes its policy by its layer", () =>
    Effect.gen(function* () {
      class Weather extends Policy.tag("test/WeatherLayer", { name: "weather", timeout: "9 seconds" })<Weather>() {}
      const policy = yield* Effect.provide(Weather, Weather.layer)
      assert.deepStrictEqual([policy.name, lines(policy)["total timeout"]], ["weather", "9s"])
    })
  )

  it.effect("a stage stands round attempts, where it does not say where", () =>
    Effect.sync(() => {
      assert.strictEqual(Policy.stage({ name: "own", wrap: (effect) => effect }).at, "attempt")
      assert.strictEqual(Policy.stage({ name: "own", at: "call", wrap: (effect) => effect }).at, "call")
    })
  )
})

describe("the standard policies", () => {
  it.effect("say what they do", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(Policy.standardHedged({ name: "weather" }))
      assert.deepStrictEqual(lines(policy), {
        "total timeout": "30s",
        retry: "3 attempts, waits of 1s x 2 up to 30s, full jitter",
        "retry budget": "20 % of the calls and 10 a second",
        hedge:
          "up to 1 more attempt, each after the 95th percentile of recent latencies (at first 2s, at least 5ms, at most 5s)",
        "circuit breaker":
          "50 % of those of the last 30s (at least 20) open it for 5s, growing by 2 up to 1m, 3 probes of which 60 % must " +
          "succeed, then from 20 % to all calls over 10s",
        bulkhead: "at most 100 at once, 100 wait up to 2s",
        "attempt timeout": "10s"
      })
    })
  )

  const opened = (policy: Policy.Policy) =>
    Effect.gen(function* () {
      const breaker = yield* Effect.orDie(Effect.fromNullable(policy.breaker))
      for (let n = 0; n < 20; n++) yield* Effect.exit(policy.run(busy, { retries: 0 }))
      assert.strictEqual(yield* breaker.state, "open")
      return breaker
    })

  it.effect("open for 5 seconds and twice as long each time, up to a minute", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(Policy.standard({ name: "weather", retry: false }))
      const breaker = yield* opened(policy)
      for (const seconds of [5, 10, 20, 40, 60, 60]) {
        yield* TestClock.adjust(seconds * 0.89 * 1_000)
        assert.strictEqual(yield* breaker.state, "open", `${seconds}`)
        yield* TestClock.adjust(seconds * 0.22 * 1_000)
        assert.strictEqual(yield* breaker.state, "half-open", `${seconds}`)
        for (let n = 0; n < 3; n++) yield* Effect.exit(policy.run(busy))
        assert.strictEqual(yield* breaker.state, "open", `${seconds}`)
      }
    })
  )

  it.effect("let 3 probes through at once, of which 2 have to succeed", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(Policy.standard({ name: "weather", retry: false }))
      const breaker = yield* opened(policy)
      yield* TestClock.adjust("10 seconds")
      const gate = yield* Deferred.make<void>()
      const probes = yield* Effect.forEach([true, true, false], (ok) =>
        fork(Effect.exit(policy.run(Effect.zipRight(Deferred.await(gate), ok ? Effect.void : busy))))
      )
      assert.strictEqual((yield* Effect.flip(policy.run(Effect.void)))._tag, "CircuitOpen")
      yield* Deferred.succeed(gate, undefined)
      yield* Effect.forEach(probes, Fiber.join)
      assert.strictEqual(yield* breaker.state, "closed")
      // A fifth of the calls pass at first, all after 10 seconds.
      const passed = Effect.map(
        Effect.forEach(Array.from({ length: 200 }), () => Effect.exit(policy.run(Effect.void))),
        (exits) => exits.filter(Exit.isSuccess).length
      )
      assert.approximately(yield* passed, 40, 25)
      yield* TestClock.adjust("5 seconds")
      assert.approximately(yield* passed, 120, 35)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* passed, 200)
    })
  )

  it.effect("are counted", () =>
    Effect.gen(function* () {
      const name = "standard-counted"
      yield* (yield* Effect.orDie(Policy.standard({ name }))).run(Effect.void)
      const found = yield* Effect.map(Metric.snapshot, (all) =>
        all.filter(({ metricKey }) => metricKey.tags.some(({ value }) => value === name))
      )
      assert.isAbove(found.length, 0)
    })
  )

  it.effect("are named as they are asked to be, whatever else is given", () =>
    Effect.gen(function* () {
      const policy = yield* Effect.orDie(Policy.standard({ name: "weather", metrics: undefined, timeout: false }))
      assert.strictEqual(policy.name, "weather")
      assert.deepInclude(lines(policy), { "total timeout": "none", "attempt timeout": "10s" })
    })
  )
})
