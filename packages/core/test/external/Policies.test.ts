import { FetchHttpClient, HttpClientError, HttpClientRequest } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  type CircuitBreaker,
  ExternalClient,
  ExternalHttp,
  Fallback,
  Policy,
  RateLimit,
  Throttle
} from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { Cause, Chunk, Data, Deferred, Effect, Exit, Fiber, Option, Random, Schema, Stream, TestClock } from "effect"
import * as Server from "./LoopbackServer.ts"

class Busy extends Data.TaggedError("Busy")<{ readonly message: string }> {
  get isRetryable() {
    return true
  }
}

const busy = Effect.suspend(() => Effect.fail(new Busy({ message: "come back" })))

const one = <A>(list: ReadonlyArray<A>): A => {
  assert.strictEqual(list.length, 1)
  return list[0] as A
}

/** How much each metric of the service or policy has changed. */
const changes = (name: string) =>
  Effect.gen(function* () {
    const { metrics } = yield* Recording.Recording
    const found: Record<string, number> = {}
    for (const each of yield* metrics) {
      const { service, policy, ...rest } = each.labels
      if (service !== name && policy !== name) continue
      const change = each.after - each.before
      if (change !== 0) found[[each.name, ...Object.values(rest).sort()].join(" ")] = change
    }
    return found
  })

/** What the one span and the one line of the last call say. */
const told = Effect.gen(function* () {
  const recording = yield* Recording.Recording
  const span = one((yield* recording.spans).filter((each) => each.name.startsWith("weather.")))
  // Effect itself may tell of fibers that ended with an error.
  const line = one((yield* recording.lines).filter((each) => each.annotations["service"] !== undefined))
  assert.strictEqual(span.ends, 1)
  return {
    level: line.level.label,
    message: String(line.message),
    outcome: line.annotations["outcome"],
    attributes: Object.fromEntries(span.attributes),
    annotations: line.annotations,
    events: span.events.map((event) => event.name)
  }
})

/** How many listen to a breaker. */
const listenersOf = (breaker: CircuitBreaker.CircuitBreaker): number =>
  (breaker as unknown as { readonly machine: { readonly listeners: ReadonlySet<unknown> } }).machine.listeners.size

const clear = Effect.flatMap(Recording.Recording, (recording) => recording.clear)

describe("one span and one line for every end of a call", () => {
  it.scoped("a success after a hedge", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({
        service: "weather",
        policy: { hedge: { delay: "1 second" }, retry: false }
      })
      yield* clear
      let calls = 0
      const fiber = yield* Effect.fork(
        client.call(
          "today",
          Effect.suspend(() => (++calls === 1 ? Effect.never : Effect.succeed(21)))
        )
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), 21)
      const { annotations, attributes, events, level, message } = yield* told
      assert.deepStrictEqual([level, message], ["DEBUG", "weather.today succeeded after 2 attempts (1000 ms)"])
      assert.strictEqual(attributes["call.hedges"], 1)
      assert.strictEqual(annotations["attempts"], 2)
      assert.deepStrictEqual(events, ["hedge"])
      const seen = yield* changes("weather")
      assert.strictEqual(seen["resilience_hedges_total"], 1)
      assert.strictEqual(seen["external_calls_total success today"], 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a fallback that answers: a warning with what led to it", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* clear
      const answer = yield* client.call("today", busy, { fallback: Fallback.value(0) })
      assert.strictEqual(answer, 0)
      const { annotations, attributes, level, message, outcome } = yield* told
      assert.deepStrictEqual(
        [level, message],
        ["WARN", "weather.today succeeded, answered by the fallback (0 ms): Busy: come back"]
      )
      assert.deepStrictEqual([outcome, annotations["fallback"], annotations["error"]], ["success", "success", "Busy"])
      assert.strictEqual(attributes["call.fallback"], "success")
      assert.strictEqual(attributes["call.fallback_reason"], "Busy")
      assert.notProperty(attributes, "error.type")
      const seen = yield* changes("weather")
      assert.strictEqual(seen["resilience_fallbacks_total success"], 1)
      assert.strictEqual(seen["external_calls_total success today"], 1)
      assert.strictEqual(seen["resilience_attempts_total failure"], 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a fallback that fails too, and one whose business the error is not", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* clear
      const error = yield* Effect.flip(
        client.call("today", busy, { fallback: Fallback.effect(() => Effect.fail("no cache" as const)) })
      )
      assert.strictEqual(error, "no cache")
      const failed = yield* told
      assert.strictEqual(failed.level, "ERROR")
      assert.include(failed.message, "weather.today failed, and so did the fallback (0 ms)")
      assert.strictEqual(failed.attributes["call.fallback_reason"], "Busy")
      yield* clear
      const passed = yield* Effect.flip(
        client.call("today", busy, {
          fallback: Fallback.when((error) => error._tag === "CircuitOpen", Fallback.value(0))
        })
      )
      assert.strictEqual(passed._tag, "Busy")
      const pass = yield* told
      assert.strictEqual(pass.message, "weather.today failed (0 ms): Busy: come back")
      assert.notProperty(pass.attributes, "call.fallback")
      assert.notProperty(yield* changes("weather"), "resilience_fallbacks_total failure")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("what a fallback does is within the span, and can be interrupted", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* clear
      yield* client.call("today", busy, {
        fallback: Fallback.effect(() => Effect.withSpan(Effect.succeed(1), "from the cache"))
      })
      const spans = yield* recording.spans
      const outer = spans.find((span) => span.name === "weather.today")
      const inner = spans.find((span) => span.name === "from the cache")
      assert.strictEqual(Option.getOrThrow(inner?.parent ?? Option.none()).spanId, outer?.spanId)
      yield* clear
      const fiber = yield* Effect.fork(client.call("today", busy, { fallback: Fallback.effect(() => Effect.never) }))
      yield* TestClock.adjust("1 second")
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
      assert.strictEqual((yield* told).outcome, "cancelled")
      assert.strictEqual(yield* client.inFlight, 0)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("what a fallback keeps of a success can be interrupted too", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather" })
      const fallback: Fallback.Fallback<unknown, number, never, never, number> = {
        ...Fallback.value(0),
        onSuccess: () => Effect.never
      }
      const fiber = yield* Effect.fork(client.call("today", Effect.succeed(1), { fallback }))
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      assert.strictEqual(yield* client.inFlight, 0)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a success keeps the last good answer for the calls that fail later", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      const stale = yield* Fallback.stale<number>({ capacity: 10, maxAge: "1 hour" })
      const ask = (effect: Effect.Effect<number, Busy>) => client.call("today", effect, { fallback: stale.for("Oslo") })
      assert.strictEqual(yield* ask(Effect.succeed(21)), 21)
      assert.strictEqual(yield* ask(busy), 21)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a budget that is exhausted", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({
        service: "weather",
        policy: { budget: { type: "grpc", maxTokens: 1 }, retry: { jitter: "none" } }
      })
      yield* clear
      yield* Effect.flip(client.call("today", busy))
      const { annotations, attributes, message } = yield* told
      assert.strictEqual(message, "weather.today failed (the retry budget is exhausted) (0 ms): Busy: come back")
      assert.strictEqual(annotations["retryBudget"], "exhausted")
      assert.strictEqual(attributes["call.retry_budget_exhausted"], true)
      assert.strictEqual((yield* changes("weather"))["resilience_retry_budget_refusals_total"], 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  const refusals: ReadonlyArray<
    readonly [tag: string, reason: string, policy: Omit<Policy.Options, "name">, before: "hold" | "fail" | "none"]
  > = [
    ["BulkheadFull", "bulkhead-full", { bulkhead: { maxConcurrent: 1 } }, "hold"],
    ["RateLimitExceeded", "rate-limit", { rateLimit: { limit: 1, interval: "1 minute", maxWait: false } }, "hold"],
    ["CircuitOpen", "circuit-open", { breaker: { window: { type: "consecutive", failures: 1 } } }, "fail"],
    [
      "CallThrottled",
      "throttled",
      { breaker: false, throttle: { ratio: 1, minimumCalls: 1, window: "10 minutes", maxProbability: 1 } },
      "fail"
    ],
    [
      "StageRejected",
      "stage",
      {
        stages: [
          Policy.stage({
            name: "quota",
            wrap: (_, info) =>
              Effect.fail(new Policy.StageRejected({ service: info.policy, stage: "quota", reason: "used up" }))
          })
        ]
      },
      "none"
    ]
  ]
  for (const [tag, reason, policy, before] of refusals) {
    it.scoped(`a refusal by ${tag} is a warning that says refused, and no failure`, () =>
      Effect.gen(function* () {
        const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false, ...policy } })
        const hold = yield* Deferred.make<void>()
        if (before === "hold") yield* Effect.forkScoped(client.call("today", Deferred.await(hold)))
        // Enough that a throttle refuses with a probability of nearly 1; the draw is fixed, so that it does.
        if (before === "fail")
          yield* Effect.repeatN(Effect.ignore(client.call("today", busy)), tag === "CircuitOpen" ? 0 : 999)
        yield* Effect.yieldNow()
        yield* clear
        const error = yield* client
          .call("today", Effect.die("not reached"))
          .pipe(Effect.flip, Effect.withRandom(Random.fixed([0.5])))
        assert.strictEqual(error._tag, tag)
        const { attributes, level, message, outcome } = yield* told
        assert.deepStrictEqual([level, outcome], ["WARN", "rejected"])
        assert.match(message, new RegExp(`^weather\\.today was refused \\(0 ms\\): ${tag}: weather: `))
        assert.strictEqual(attributes["call.outcome"], "rejected")
        const seen = yield* changes("weather")
        assert.strictEqual(seen["external_calls_total rejected today"], 1)
        assert.strictEqual(seen[`resilience_rejections_total ${reason}`], 1)
        assert.strictEqual(seen["resilience_attempts_total rejected"], 1)
        assert.notProperty(seen, "external_call_duration_seconds today")
        assert.notProperty(seen, "external_calls_total failure today")
        yield* Deferred.succeed(hold, undefined)
      }).pipe(Effect.provide(Recording.layer))
    )
  }

  it.scoped("a call interrupted while it waits for its turn", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({
        service: "weather",
        policy: { bulkhead: { maxConcurrent: 1, maxQueue: 1, maxWait: "10 seconds" } }
      })
      const hold = yield* Deferred.make<void>()
      const holder = yield* Effect.fork(client.call("today", Deferred.await(hold)))
      yield* Effect.yieldNow()
      yield* clear
      const fiber = yield* Effect.fork(client.call("today", Effect.void))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      const { level, message } = yield* told
      assert.deepStrictEqual([level, message], ["DEBUG", "weather.today was cancelled (1000 ms)"])
      assert.notProperty(yield* changes("weather"), "resilience_rejections_total bulkhead-full")
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(holder)
      assert.strictEqual(yield* client.inFlight, 0)
    }).pipe(Effect.provide(Recording.layer))
  )
})

describe("operations", () => {
  it.scoped("settings of one operation: limits, retries, attributes, names; the call's go before them", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({
        service: "weather",
        attributes: { region: "north" },
        policy: { retry: { base: "1 second", jitter: "none" } },
        operations: {
          slow: {
            timeout: "2 minutes",
            attemptTimeout: "1 minute",
            slowAfter: "30 seconds",
            retries: 0,
            spanName: "weather.of-the-past",
            attributes: { archive: true, region: "south" }
          }
        }
      })
      yield* clear
      const slow = (options?: ExternalClient.CallOptions<number>) =>
        client.call("slow", Effect.delay(Effect.succeed(1), "20 seconds"), options)
      const fiber = yield* Effect.fork(slow())
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
      const first = yield* told
      assert.deepStrictEqual([first.level, first.message], ["DEBUG", "weather.slow succeeded (20000 ms)"])
      assert.deepStrictEqual(
        [first.attributes["archive"], first.attributes["region"], first.attributes["peer.service"]],
        [true, "south", "weather"]
      )
      yield* clear
      const again = yield* Effect.fork(
        slow({ slowAfter: "10 seconds", attributes: { archive: false }, timeout: undefined })
      )
      yield* TestClock.adjust("20 seconds")
      yield* Fiber.join(again)
      const second = yield* told
      assert.deepStrictEqual([second.level, second.message], ["WARN", "weather.slow was slow (20000 ms)"])
      assert.deepStrictEqual([second.attributes["archive"], second.attributes["region"]], [false, "south"])
      yield* clear
      // No retries in this operation, but in others.
      yield* Effect.flip(client.call("slow", busy))
      assert.include((yield* told).message, "weather.slow failed (0 ms)")
      yield* clear
      const other = yield* Effect.fork(Effect.flip(client.call("today", busy)))
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(other)
      assert.include((yield* told).message, "weather.today failed after 3 attempts")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("for streams: the wait for the first element, and between elements", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({
        service: "weather",
        policy: { retry: false },
        operations: { live: { firstElementTimeout: "2 seconds", idleTimeout: "5 seconds" } }
      })
      const run = (stream: Stream.Stream<number>) =>
        Effect.fork(Effect.exit(Stream.runCollect(client.stream("live", stream))))
      const silent = yield* run(Stream.never)
      const stuck = yield* run(Stream.concat(Stream.make(1), Stream.never))
      yield* TestClock.adjust("2 seconds")
      assert.include(String(yield* Fiber.join(silent)), "CallTimeout")
      yield* TestClock.adjust("5 seconds")
      assert.include(String(yield* Fiber.join(stuck)), "CallTimeout")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("names that every object has are no operations", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", operations: {} })
      assert.strictEqual(yield* client.call("constructor", Effect.succeed(1)), 1)
      assert.strictEqual(yield* client.call("__proto__", Effect.succeed(1)), 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.effect("settings that cannot work are a defect that names the operation and the fix", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(
        Effect.scoped(
          ExternalClient.make({
            service: "weather",
            operations: {
              past: { attemptTimeout: "1 minute" },
              live: {
                retries: -1,
                weight: 0,
                cost: 0.5,
                idleTimeout: 0,
                timeout: "3 seconds",
                firstElementTimeout: "4 seconds"
              },
              fine: { timeout: false, attemptTimeout: "1 minute", retries: 0 }
            }
          })
        )
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      const text = String(exit)
      for (const words of [
        "operations.past.attemptTimeout (1m) is longer than its timeout (30s), so it could never end an attempt: lower it, or raise operations.past.timeout",
        "operations.live.retries is -1: give a whole number of 0 or more",
        "operations.live.weight is 0: give a whole number of 1 or more",
        "operations.live.cost is 0.5: give a whole number of 1 or more",
        "operations.live.idleTimeout is not positive",
        "operations.live.firstElementTimeout (4s) is longer than its timeout (3s)"
      ]) {
        assert.include(text, words)
      }
      assert.notInclude(text, "operations.fine")
    })
  )

  it.scoped("the response is checked and transformed, and only then kept by the fallback", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      const stale = yield* Fallback.stale<string>({ capacity: 10, maxAge: "1 hour" })
      const ask = (effect: Effect.Effect<unknown, Busy>) =>
        client.call("today", effect, {
          schema: Schema.Struct({ degrees: Schema.Number }),
          transform: ({ degrees }) => `${degrees} C`,
          fallback: stale.for("Oslo")
        })
      assert.strictEqual(yield* ask(Effect.succeed({ degrees: 21 })), "21 C")
      assert.strictEqual(yield* ask(Effect.succeed({ kelvin: 294 })), "21 C")
      assert.strictEqual(yield* ask(busy), "21 C")
    }).pipe(Effect.provide(Recording.layer))
  )
})

describe("a fallback of a stream", () => {
  it.scoped("takes the place of a stream that fails before its first element", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* clear
      const answer = yield* Stream.runCollect(
        client.stream("live", Stream.fail(new Busy({ message: "come back" })), {
          fallback: Fallback.value(Stream.make("calm", "dry"))
        })
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(answer), ["calm", "dry"])
      const { attributes, level, message } = yield* told
      assert.deepStrictEqual(
        [level, message],
        ["WARN", "weather.live succeeded, answered by the fallback (0 ms): Busy: come back"]
      )
      assert.strictEqual(attributes["call.fallback"], "success")
      assert.strictEqual((yield* changes("weather"))["resilience_fallbacks_total success"], 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("not one that fails later, whose error is the reader's to see", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* clear
      const seen: Array<number | string> = []
      const exit = yield* client
        .stream("live", Stream.concat(Stream.make(1), Stream.fail(new Busy({ message: "come back" }))), {
          fallback: Fallback.value(Stream.make("calm"))
        })
        .pipe(
          Stream.runForEach((each) => Effect.sync(() => seen.push(each))),
          Effect.exit
        )
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(seen, [1])
      const { attributes, message } = yield* told
      assert.include(message, "weather.live failed (0 ms): Busy: come back")
      assert.notProperty(attributes, "call.fallback")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("asked once all attempts are made, and told the refusal of an open circuit; the types say so", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* (yield* Effect.fromNullable(client.breaker)).setMode("forced-open")
      const tags: Stream.Stream<string, Busy | ExternalClient.ExternalError> = client.stream(
        "live",
        Stream.fail(new Busy({ message: "x" })) as Stream.Stream<string, Busy>,
        { fallback: Fallback.effect((error) => Effect.succeed(Stream.make(error._tag as string))) }
      )
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Stream.runCollect(tags)), ["CircuitOpen"])
    }).pipe(Effect.provide(Recording.layer))
  )
})

describe("parts that several clients share", () => {
  it.scoped("one bulkhead, rate limit and throttle; each client has its own name in its errors and metrics", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ name: "backend", maxConcurrent: 1 })
      const rateLimit = yield* RateLimit.make({ name: "backend", limit: 1000, algorithm: "sliding-window" })
      const throttle = yield* Throttle.make({ name: "backend" })
      const policy = { bulkhead, rateLimit, throttle, retry: false } as const
      const a = yield* ExternalClient.make({ service: "a", policy })
      const b = yield* ExternalClient.make({ service: "b", policy })
      const hold = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(a.call("x", Deferred.await(hold)))
      yield* Effect.yieldNow()
      assert.strictEqual((yield* Effect.flip(b.call("x", Effect.void)))._tag, "BulkheadFull")
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(fiber)
      yield* b.call("x", Effect.void)
      assert.strictEqual((yield* bulkhead.snapshot).active, 0)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("the breaker that a reload puts in place shows as the service's metric, and the old one no more", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "weather", retry: false })
      const client = yield* ExternalClient.make({ service: "weather", policy })
      const first = yield* Effect.fromNullable(client.breaker)
      yield* policy.reload({ retry: false, breaker: false })
      yield* clear
      yield* first.setMode("forced-open")
      assert.notProperty(yield* changes("weather"), "circuit_breaker_state")
      yield* policy.reload({ retry: false })
      yield* clear
      yield* (yield* Effect.fromNullable(client.breaker)).setMode("forced-open")
      assert.strictEqual((yield* changes("weather"))["circuit_breaker_state"], 2)
      yield* policy.reload({ retry: false, breaker: false })
      assert.notProperty(yield* changes("weather"), "circuit_breaker_state")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.effect("a client that is gone listens to no breaker", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({ name: "weather" })
      const breaker = yield* Effect.fromNullable(policy.breaker)
      for (let i = 0; i < 3; i++) yield* Effect.scoped(ExternalClient.make({ service: "weather", policy }))
      assert.strictEqual(listenersOf(breaker), 0)
    })
  )
})

describe("ExternalHttp", () => {
  const make = (options: Partial<ExternalHttp.Options>, ...answers: Parameters<typeof Server.make>[0]) =>
    Effect.gen(function* () {
      const server = yield* Server.make(answers)
      const http = yield* ExternalHttp.make({ service: "weather", baseUrl: server.url, ...options })
      return { server, http }
    })

  it.scopedLive("refusals of every gate are RequestErrors of the client, and what they are for execute", () =>
    Effect.gen(function* () {
      const { http, server } = yield* make(
        { policy: { retry: false, rateLimit: { limit: 1, interval: "1 minute", maxWait: false } } },
        Server.status(200, {}, "ok")
      )
      yield* http.client.get("/")
      yield* clear
      const error = yield* Effect.flip(http.client.get("/"))
      assert.isTrue(HttpClientError.isHttpClientError(error) && error._tag === "RequestError")
      assert.strictEqual(error.reason, "Transport")
      assert.instanceOf(error.cause, RateLimit.RateLimitExceeded)
      assert.strictEqual((yield* told).outcome, "rejected")
      const raw = yield* Effect.flip(http.execute(HttpClientRequest.get("/")))
      assert.strictEqual(raw._tag, "RateLimitExceeded")
      assert.strictEqual(server.asked.length, 1)
    }).pipe(Effect.provide([FetchHttpClient.layer, Recording.layer]))
  )

  it.scopedLive("operations by the names of requests: a POST that may be sent twice, a path of its own", () =>
    Effect.gen(function* () {
      const { http, server } = yield* make(
        {
          policy: { retry: { base: "1 millis" } },
          operation: (request) => (request.url.includes("/search") ? "search" : request.method),
          operations: { search: { idempotent: true, attributes: { kind: "search" } } }
        },
        Server.status(503, {}, "later"),
        Server.status(200, {}, "found"),
        Server.status(503, {}, "later"),
        Server.status(200, {}, "never asked")
      )
      yield* clear
      yield* http.client.post("/search")
      const { attributes, message } = yield* told
      assert.include(message, "weather.search succeeded after 2 attempts")
      assert.strictEqual(attributes["kind"], "search")
      yield* Effect.flip(http.client.post("/order"))
      assert.strictEqual(server.asked.length, 3)
    }).pipe(Effect.provide([FetchHttpClient.layer, Recording.layer]))
  )

  it.scopedLive("what the options say of a request goes before what its operation says", () =>
    Effect.gen(function* () {
      const { http, server } = yield* make(
        {
          policy: { retry: { base: "1 millis" } },
          idempotent: () => false,
          operations: { POST: { idempotent: true } }
        },
        Server.status(503, {}, "later"),
        Server.status(200, {}, "never asked")
      )
      yield* Effect.flip(http.client.post("/order"))
      assert.strictEqual(server.asked.length, 1)
    }).pipe(Effect.provide([FetchHttpClient.layer, Recording.layer]))
  )
})
