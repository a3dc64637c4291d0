import { FileSystem } from "@effect/platform"
import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ErrorClass, Policy, Settings } from "@underlay/core"
import { Config, ConfigProvider, Data, Duration, Effect, type Scope } from "effect"

class Odd extends Data.TaggedError("Odd") {}

const test = (name: string, effect: () => Effect.Effect<void, unknown, FileSystem.FileSystem | Scope.Scope>) =>
  it.scoped(name, () => Effect.provide(effect(), NodeFileSystem.layer))

/** Settings of one YAML file and these variables, cut off from the environment of the process. */
const settings = (yaml: string, env: Readonly<Record<string, string>> = {}) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped()
    yield* fs.writeFileString(`${directory}/app.yaml`, yaml)
    return yield* Settings.make({ directory, files: ["app.yaml"], env, dotenv: false })
  })

const weather = Config.nested(Policy.config, "weather")

const load = (yaml: string, env?: Readonly<Record<string, string>>) =>
  Effect.flatMap(settings(yaml, env), (made) => made.load(weather))

const problems = (yaml: string, env?: Readonly<Record<string, string>>) =>
  Effect.map(Effect.flip(load(yaml, env)), (error) =>
    error._tag === "SettingsError"
      ? error.problems.map((problem) => Settings.formatProblem(problem).replace(/\S*\/app\.yaml/, "app.yaml"))
      : assert.fail(String(error))
  )

const indented = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => `  ${line}`)
    .join("\n")
const ofWeather = (text: string) => `weather:\n${indented(text)}`

/** With durations as millis, since equal ones can be held in different forms. */
const plain = (value: unknown): unknown =>
  Duration.isDuration(value)
    ? `${Duration.toMillis(value)} ms`
    : typeof value === "object" && value !== null
      ? Object.fromEntries(
          Object.entries(value)
            .filter(([, each]) => each !== undefined)
            .map(([key, each]) => [key, plain(each)])
        )
      : value

describe("Policy.config reads every setting that is data", () => {
  test("of the retry, the budget, the hedge, the throttle, the rate limit, the breaker, the bulkhead", () =>
    Effect.gen(function* () {
      const found = yield* load(
        ofWeather(`
timeout: 20 seconds
attemptTimeout: 5 seconds
metrics: true
idempotent: true
retry:
  attempts: 4
  base: 100 millis
  factor: 1.5
  cap: 10 seconds
  retryAfterCap: 2 minutes
  jitter: equal
  unsentOnly: true
  retryRejections: true
  retryExhausted: true
budget:
  type: percentage
  ratio: 0.1
  minPerSecond: 5
  ttl: 20 seconds
hedge:
  delay:
    percentile: 0.9
    initial: 1 second
    min: 10 millis
    max: 2 seconds
    minimumSamples: 30
    halfLife: 2 minutes
  maxHedges: 2
throttle:
  ratio: 1.5
  window: 1 minute
  minimumCalls: 20
  maxProbability: 0.9
rateLimit:
  limit: 50
  interval: 1 second
  algorithm: gcra
  burst: 5
  maxWait: none
  maxQueue: unlimited
breaker:
  window:
    type: time
    over: 30 seconds
    failureRate: 0.5
    minimumCalls: 10
    buckets: 15
  openFor:
    initial: 5 seconds
    factor: 3
    max: 1 minute
  openJitter: 0.2
  retryAfterCap: 90 seconds
  halfOpenPermits: 3
  halfOpenSuccessRate: 0.6
  probeLease: 30 seconds
  rampUp:
    over: 10 seconds
    from: 0.1
  slowCallDuration: 2 seconds
  slowCallRate: 0.8
bulkhead:
  algorithm: gradient
  initial: 10
  min: 2
  max: 100
  maxQueue: 50
  maxWait: 500 millis
  window: 2 seconds
  minimumSamples: 20
  smoothing: 0.4
  tolerance: 1.5
  backoff: 0.8
  probeEvery: 2 minutes
`)
      )
      assert.deepStrictEqual(plain(found), {
        timeout: "20000 ms",
        attemptTimeout: "5000 ms",
        metrics: true,
        idempotent: true,
        retry: {
          attempts: 4,
          base: "100 ms",
          factor: 1.5,
          cap: "10000 ms",
          retryAfterCap: "120000 ms",
          jitter: "equal",
          unsentOnly: true,
          retryRejections: true,
          retryExhausted: true
        },
        budget: { type: "percentage", ratio: 0.1, minPerSecond: 5, ttl: "20000 ms" },
        hedge: {
          delay: {
            percentile: 0.9,
            initial: "1000 ms",
            min: "10 ms",
            max: "2000 ms",
            minimumSamples: 30,
            halfLife: "120000 ms"
          },
          maxHedges: 2
        },
        throttle: { ratio: 1.5, window: "60000 ms", minimumCalls: 20, maxProbability: 0.9 },
        rateLimit: {
          limit: 50,
          interval: "1000 ms",
          algorithm: "gcra",
          burst: 5,
          maxWait: false,
          maxQueue: Number.POSITIVE_INFINITY
        },
        breaker: {
          window: { type: "time", over: "30000 ms", failureRate: 0.5, minimumCalls: 10, buckets: 15 },
          openFor: { initial: "5000 ms", factor: 3, max: "60000 ms" },
          openJitter: 0.2,
          retryAfterCap: "90000 ms",
          halfOpenPermits: 3,
          halfOpenSuccessRate: 0.6,
          probeLease: "30000 ms",
          rampUp: { over: "10000 ms", from: 0.1 },
          slowCallDuration: "2000 ms",
          slowCallRate: 0.8
        },
        bulkhead: {
          algorithm: "gradient",
          initial: 10,
          min: 2,
          max: 100,
          maxQueue: 50,
          maxWait: "500 ms",
          window: "2000 ms",
          minimumSamples: 20,
          smoothing: 0.4,
          tolerance: 1.5,
          backoff: 0.8,
          probeEvery: "120000 ms"
        }
      })
      // And a policy can be made of all of it.
      yield* Policy.make({ ...found, name: "weather" })
    }))

  test("budgets, windows and bulkheads of the other kinds; a fixed open time and a fixed delay of hedges", () =>
    Effect.gen(function* () {
      const found = yield* load(
        ofWeather(`
budget: { type: aws, mode: classic, capacity: 300, retryCost: 4, timeoutCost: 8, throttlingCost: 6, successIncrement: 2 }
hedge: { delay: 300 millis }
breaker: { window: { type: count, size: 20, failureRate: 0.25, minimumCalls: 5 }, openFor: 10 seconds }
bulkhead: { maxConcurrent: 10, maxQueue: 5, maxWait: 1 second }
rateLimit: { limit: 0.5, interval: 1 minute, maxWait: 3 seconds, maxQueue: 7 }
`)
      )
      assert.deepStrictEqual(plain(found), {
        budget: {
          type: "aws",
          mode: "classic",
          capacity: 300,
          retryCost: 4,
          timeoutCost: 8,
          throttlingCost: 6,
          successIncrement: 2
        },
        hedge: { delay: "300 ms" },
        breaker: {
          window: { type: "count", size: 20, failureRate: 0.25, minimumCalls: 5 },
          openFor: "10000 ms"
        },
        bulkhead: { maxConcurrent: 10, maxQueue: 5, maxWait: "1000 ms" },
        rateLimit: { limit: 0.5, interval: "60000 ms", maxWait: "3000 ms", maxQueue: 7 }
      })
      const more = yield* load(
        ofWeather(`
budget: { type: grpc, maxTokens: 20, tokenRatio: 0.5 }
breaker: { window: { type: consecutive, failures: 3 } }
retry: { attempts: unlimited }
`)
      )
      assert.deepStrictEqual(plain(more), {
        budget: { type: "grpc", maxTokens: 20, tokenRatio: 0.5 },
        breaker: { window: { type: "consecutive", failures: 3 } },
        retry: { attempts: Number.POSITIVE_INFINITY }
      })
    }))

  test("the environment goes before the files, part by part, and its names are those of the paths", () =>
    Effect.gen(function* () {
      const found = yield* load(
        ofWeather(`
timeout: 20 seconds
retry: { attempts: 4, base: 100 millis }
breaker: { openFor: { initial: 5 seconds } }
`),
        {
          WEATHER_RETRY_ATTEMPTS: "2",
          WEATHER_BREAKER_OPEN_FOR_MAX: "40 seconds",
          WEATHER_ATTEMPT_TIMEOUT: "3 seconds",
          WEATHER_BULKHEAD_MAX_CONCURRENT: "7"
        }
      )
      assert.deepStrictEqual(plain(found), {
        timeout: "20000 ms",
        attemptTimeout: "3000 ms",
        retry: { attempts: 2, base: "100 ms" },
        breaker: { openFor: { initial: "5000 ms", max: "40000 ms" } },
        bulkhead: { maxConcurrent: 7 }
      })
    }))

  it.effect("any provider will do", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromMap(
        new Map([
          ["weather.timeout", "none"],
          ["weather.breaker.openFor.initial", "5 seconds"],
          ["weather.hedge.delay", "1 second"],
          ["weather.bulkhead.enabled", "false"]
        ])
      )
      assert.deepStrictEqual(plain(yield* provider.load(weather)), {
        timeout: false,
        breaker: { openFor: { initial: "5000 ms" } },
        hedge: { delay: "1000 ms" },
        bulkhead: false
      })
    })
  )

  test("what is not set is not there, so that nothing stands above what is given besides", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* load("weather: {}"), {})
      assert.deepStrictEqual(yield* load("other: 1"), {})
      assert.deepStrictEqual(Object.keys(yield* load(ofWeather("breaker: { openJitter: 0.1 }"))), ["breaker"])
    }))

  test("a part is switched off, or on with what it does by default", () =>
    Effect.gen(function* () {
      const off = yield* load(
        ofWeather(
          ["retry", "budget", "hedge", "throttle", "rateLimit", "breaker", "bulkhead"]
            .map((name) => `${name}: { enabled: false }`)
            .join("\n")
        )
      )
      const policy = yield* Policy.make({ ...off, name: "weather" })
      assert.deepStrictEqual(
        [policy.breaker, policy.budget, policy.bulkhead, policy.hedge, policy.throttle, policy.rateLimit],
        [undefined, undefined, undefined, undefined, undefined, undefined]
      )
      assert.strictEqual(policy.retry.attempts, 1)
      const on = yield* load(ofWeather("bulkhead: { enabled: true }\nthrottle: { enabled: true }"))
      assert.deepStrictEqual(plain(on), { bulkhead: {}, throttle: {} })
    }))

  test("settings of a part that is switched off do not matter, and come back with it", () =>
    Effect.gen(function* () {
      const yaml = ofWeather("rateLimit: { enabled: false, interval: 1 minute }")
      assert.deepStrictEqual(yield* load(yaml), { rateLimit: false })
      const [problem = ""] = yield* problems(yaml, { WEATHER_RATE_LIMIT_ENABLED: "true" })
      assert.include(problem, "weather.rateLimit.limit")
    }))
})

describe("Policy.config refuses", () => {
  test("durations in the wrong form, with the path and the place", () =>
    Effect.gen(function* () {
      for (const [text, path] of [
        ["timeout: soon", "weather.timeout"],
        ["timeout: 30", "weather.timeout"],
        ["attemptTimeout: 5s", "weather.attemptTimeout"],
        ["retry: { base: -5 seconds }", "weather.retry.base"],
        ["hedge: { delay: quick }", "weather.hedge.delay"],
        ["hedge: { delay: { percentile: 0.9, initial: quick } }", "weather.hedge.delay.initial"],
        ["throttle: { window: long }", "weather.throttle.window"],
        ["rateLimit: { limit: 1, maxWait: never }", "weather.rateLimit.maxWait"],
        ["breaker: { openFor: a while }", "weather.breaker.openFor"],
        ["breaker: { openFor: { initial: a while } }", "weather.breaker.openFor.initial"],
        ["breaker: { openFor: [1, 2] }", "weather.breaker.openFor"],
        ["breaker: { rampUp: { over: ten, from: 0.1 } }", "weather.breaker.rampUp.over"],
        ["breaker: { window: { type: time, over: 5, failureRate: 0.5 } }", "weather.breaker.window.over"],
        ["bulkhead: { maxWait: 2 }", "weather.bulkhead.maxWait"]
      ] as const) {
        const found = yield* problems(ofWeather(text))
        assert.strictEqual(found.length, 1, `${text}: ${found.join("; ")}`)
        assert.include(found[0], path, text)
        assert.include(found[0], "app.yaml:2", text)
        if (!text.includes("[")) assert.include(found[0], "a duration, which is a number and its unit", text)
      }
    }))

  test("rates and numbers in the wrong form, all of them at once", () =>
    Effect.gen(function* () {
      const found = yield* problems(
        ofWeather(`
retry: { attempts: several, jitter: some }
budget: { ratio: 20 % }
breaker: { window: { type: count, size: 1.5, failureRate: half }, openJitter: wide }
bulkhead: { maxConcurrent: many }
metrics: perhaps
`)
      )
      const paths = found.map((problem) => /weather\.[\w.]+/.exec(problem)?.[0])
      assert.deepStrictEqual(paths.sort(), [
        "weather.breaker.openJitter",
        "weather.breaker.window.failureRate",
        "weather.breaker.window.size",
        "weather.budget.ratio",
        "weather.bulkhead.maxConcurrent",
        "weather.metrics",
        "weather.retry.attempts",
        "weather.retry.jitter"
      ])
    }))

  test("what is missing beside something else", () =>
    Effect.gen(function* () {
      for (const [text, path] of [
        ["rateLimit: { burst: 5 }", "weather.rateLimit.limit"],
        ["hedge: { maxHedges: 2 }", "weather.hedge.delay"],
        ["hedge: { delay: { initial: 1 second } }", "weather.hedge.delay.percentile"],
        ["hedge: { delay: { percentile: 0.9 } }", "weather.hedge.delay.initial"],
        ["breaker: { window: { failureRate: 0.5 } }", "weather.breaker.window.type"],
        ["breaker: { window: { type: consecutive } }", "weather.breaker.window.failures"],
        ["breaker: { window: { type: count, failureRate: 0.5 } }", "weather.breaker.window.size"],
        ["breaker: { window: { type: count, size: 5 } }", "weather.breaker.window.failureRate"],
        ["breaker: { window: { type: time, failureRate: 0.5 } }", "weather.breaker.window.over"],
        ["breaker: { openFor: { max: 1 minute } }", "weather.breaker.openFor.initial"],
        ["breaker: { rampUp: { from: 0.5 } }", "weather.breaker.rampUp.over"],
        ["breaker: { rampUp: { over: 5 seconds } }", "weather.breaker.rampUp.from"]
      ] as const) {
        const found = yield* problems(ofWeather(text))
        assert.strictEqual(found.length, 1, `${text}: ${found.join("; ")}`)
        assert.include(found[0], path, text)
      }
    }))

  test("settings that mean nothing beside the others", () =>
    Effect.gen(function* () {
      for (const [text, path] of [
        ["budget: { type: grpc, ratio: 0.1 }", "weather.budget.ratio"],
        ["budget: { maxTokens: 10 }", "weather.budget.maxTokens"],
        ["breaker: { window: { type: consecutive, failures: 3, size: 5 } }", "weather.breaker.window.size"],
        ["bulkhead: { max: 50 }", "weather.bulkhead.max"],
        ["bulkhead: { algorithm: vegas, maxConcurrent: 50 }", "weather.bulkhead.maxConcurrent"]
      ] as const) {
        const found = yield* problems(ofWeather(text))
        assert.strictEqual(found.length, 1, `${text}: ${found.join("; ")}`)
        assert.include(found[0], path)
        assert.include(found[0], "leave it out")
      }
    }))

  it.effect("in the same words and with the same paths from a provider of Effect's own", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromMap(
        new Map([
          ["weather.timeout", "soon"],
          ["weather.hedge.maxHedges", "2"],
          ["weather.breaker.window.type", "count"],
          ["weather.breaker.window.size", "5"]
        ])
      )
      const message = String(yield* Effect.flip(provider.load(weather)))
      for (const path of ["weather.timeout", "weather.hedge.delay", "weather.breaker.window.failureRate"]) {
        assert.include(message, path)
      }
      assert.notInclude(message, "hedge.hedge")
    })
  )

  test("what cannot work together, as Policy.make does: a rate of 50 is told to be 0.5", () =>
    Effect.gen(function* () {
      const made = yield* settings(
        ofWeather("breaker: { window: { type: count, size: 5, failureRate: 50 } }\ntimeout: 0 seconds")
      )
      const error = yield* Effect.flip(
        Effect.withConfigProvider(Policy.fromConfig({ name: "weather" }, weather), made.provider)
      )
      assert.strictEqual(error._tag, "PolicyInvalid")
      assert.include(String(error), "breaker.window.failureRate is 50: give a part above 0 and up to 1 (0.5 is half)")
      assert.include(String(error), "timeout is not positive")
    }))
})

describe("Policy.reloadConfig", () => {
  test("puts changed configuration in force over the code's options, and keeps the state of the parts", () =>
    Effect.gen(function* () {
      const code = { classify: (): ErrorClass.Classification => ({ class: "transient" }), retry: false } as const
      const under = <A, E>(effect: Effect.Effect<A, E>, yaml: string) =>
        Effect.flatMap(settings(ofWeather(yaml)), (made) => Effect.withConfigProvider(effect, made.provider))
      const policy = yield* under(
        Policy.fromConfig({ ...code, name: "weather" }, weather),
        "breaker: { window: { type: consecutive, failures: 1 }, openFor: 1 hour }"
      )
      yield* Effect.exit(policy.run(Effect.fail(new Odd())))
      yield* under(Policy.reloadConfig(policy, code, weather), "timeout: 3 seconds")
      assert.include(policy.description, "total timeout    3s")
      assert.strictEqual((yield* Effect.flip(policy.run(Effect.void)))._tag, "CircuitOpen")
      const before = policy.description
      yield* Effect.flip(under(Policy.reloadConfig(policy, code, weather), "timeout: soon"))
      yield* Effect.flip(
        under(Policy.reloadConfig(policy, code, weather), "{ timeout: 1 second, attemptTimeout: 2 seconds }")
      )
      assert.strictEqual(policy.description, before)
    }))
})

describe("Policy.fromConfig", () => {
  const made = (yaml: string, options: Partial<Policy.Options>) =>
    Effect.flatMap(settings(yaml), (made) =>
      Effect.withConfigProvider(Policy.fromConfig({ ...options, name: "weather" }, weather), made.provider)
    )

  test("what the code gives holds where configuration says nothing, and what configuration says goes before it", () =>
    Effect.gen(function* () {
      const code: Partial<Policy.Options> = {
        timeout: "10 seconds",
        attemptTimeout: "2 seconds",
        retry: { attempts: 2, base: "1 second", jitter: "none" }
      }
      const policy = yield* made(ofWeather("timeout: 20 seconds\nretry: { attempts: 5 }"), code)
      assert.include(policy.description, "total timeout    20s")
      assert.include(policy.description, "attempt timeout  2s")
      assert.include(policy.description, "5 attempts, waits of 1s x 2 up to 30s, no jitter")
    }))

  test("functions in the code stay beside the settings of the same part", () =>
    Effect.gen(function* () {
      const policy = yield* made(ofWeather("breaker: { window: { type: consecutive, failures: 1 } }"), {
        retry: { retryOn: (error) => error instanceof Odd },
        breaker: { counts: () => "neutral" },
        classify: ErrorClass.classify
      })
      assert.isTrue(policy.retry.shouldRetry(new Odd()))
      yield* Effect.ignore(policy.run(Effect.fail(new Odd()), { retries: 0 }))
      assert.strictEqual(yield* policy.breaker?.state ?? Effect.succeed("none"), "closed")
      assert.include(policy.description, "1 failure")
    }))

  test("another kind of window, budget or bulkhead replaces that of the code whole", () =>
    Effect.gen(function* () {
      const policy = yield* made(
        ofWeather(`
bulkhead: { algorithm: vegas, max: 50 }
budget: { type: grpc }
breaker: { window: { type: consecutive, failures: 7 } }
`),
        {
          bulkhead: { maxConcurrent: 5, maxQueue: 9 },
          budget: { type: "percentage", ratio: 0.5 },
          breaker: { window: { type: "count", size: 10, failureRate: 0.5 }, openFor: "7 seconds" }
        }
      )
      assert.include(policy.description, "1 to 50 at once, found by vegas from 20, 9 wait")
      assert.include(policy.description, "7 failures in a row open it for 7s")
      assert.notInclude(policy.description, "50 %")
    }))

  test("a part that was made elsewhere is not configured, but can be switched off", () =>
    Effect.gen(function* () {
      const shared = yield* CircuitBreaker.make({ name: "shared" })
      const policy = yield* made(ofWeather("breaker: { openFor: 1 second }"), { breaker: shared })
      assert.strictEqual(policy.breaker, shared)
      const without = yield* made(ofWeather("breaker: { enabled: false }"), { breaker: shared })
      assert.isUndefined(without.breaker)
    }))

  test("a part that the code switches off can be switched on", () =>
    Effect.gen(function* () {
      const off = yield* made("other: 1", { breaker: false })
      assert.isUndefined(off.breaker)
      const on = yield* made(ofWeather("breaker: { enabled: true }"), { breaker: false })
      assert.isDefined(on.breaker)
    }))

  test("a tag's layer of configuration", () =>
    Effect.gen(function* () {
      class Weather extends Policy.tag("test/Weather", { name: "weather", timeout: "10 seconds" })<Weather>() {}
      const { provider } = yield* settings(ofWeather("attemptTimeout: 3 seconds"))
      const description = yield* Effect.map(Weather, Policy.describe).pipe(
        Effect.provide(Weather.layerConfig(weather)),
        Effect.withConfigProvider(provider)
      )
      assert.include(description, "total timeout    10s")
      assert.include(description, "attempt timeout  3s")
      const wrong = yield* settings(ofWeather("attemptTimeout: 3 minutes"))
      const error = yield* Effect.flip(
        Effect.scoped(Effect.provide(Weather, Weather.layerConfig(weather))).pipe(
          Effect.withConfigProvider(wrong.provider)
        )
      )
      assert.include(String(error), "attemptTimeout (3m) is longer than timeout (10s)")
    }))
})
