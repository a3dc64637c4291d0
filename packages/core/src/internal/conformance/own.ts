/**
 * Cases of what neither cockatiel nor opossum has, so that there is nothing to abstract from: this library's own modules
 * are called.
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Bulkhead from "../../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../../resilience/CircuitBreaker.ts"
import * as CircuitBreakers from "../../resilience/CircuitBreakers.ts"
import * as CircuitControl from "../../resilience/CircuitControl.ts"
import * as Deadline from "../../resilience/Deadline.ts"
import * as Policy from "../../resilience/Policy.ts"
import * as RateLimit from "../../resilience/RateLimit.ts"
import * as RetryBudget from "../../resilience/RetryBudget.ts"
import * as RetryPolicy from "../../resilience/RetryPolicy.ts"
import * as Throttle from "../../resilience/Throttle.ts"
import * as Timeout from "../../resilience/Timeout.ts"
import * as Suite from "../../testing/Suite.ts"
import type { Case, Driver } from "./driver.ts"
import { Down, issue, make, openFor, reproduced, times } from "./scenario.ts"

export const own = (id: string, title: string, sources: ReadonlyArray<string>, run: Case["run"]): Case =>
  make(id, title, sources, ["underlay"], run)

export const name = "conformance"

export const once = { window: { type: "consecutive", failures: 1 }, openFor } as const

export const steady = { jitter: "none" } as const

export const down = Effect.suspend(() => Effect.fail(new Down()))

export const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null
    ? String(Reflect.get(error, "_tag") ?? Reflect.get(error, "name"))
    : "none"

/** The effect with a count of how often it began, how many ran at once, and when each began. */
export const counted = <A, E, R>(driver: Driver, effect: Effect.Effect<A, E, R>) => {
  const at: Array<number> = []
  const seen = { calls: 0, inFlight: 0, most: 0, at }
  const call = Effect.acquireUseRelease(
    Effect.sync(() => {
      seen.calls++
      seen.inFlight++
      seen.most = Math.max(seen.most, seen.inFlight)
      seen.at.push(driver.time.now())
    }),
    () => effect,
    () => Effect.sync(() => seen.inFlight--)
  )
  return { seen, call }
}

/** Begins it, lets the time pass, and says how it ended. */
export const after = <A, E>(
  driver: Driver,
  millis: number,
  effect: Effect.Effect<A, E>
): Effect.Effect<Exit.Exit<A, E>, Suite.SuiteFailure> =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDaemon(effect)
    yield* driver.time.advance(millis)
    const exit = yield* Fiber.poll(fiber)
    if (Option.isSome(exit)) return exit.value
    yield* Fiber.interruptFork(fiber)
    return yield* new Suite.SuiteFailure({ expectation: "the call", expected: "its end", actual: "it goes on" })
  })

/** What it failed with; its value where it did not. */
export const settled = <A, E>(exit: Exit.Exit<A, E>): unknown =>
  Exit.isSuccess(exit) ? exit.value : Cause.squash(exit.cause)

const opened = (driver: Driver, options: Omit<CircuitBreaker.Options, "name"> = {}) =>
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make({ ...once, ...options, name })
    yield* Effect.exit(breaker.run(down))
    yield* driver.time.advance(openFor)
    return breaker
  })

const breakers: ReadonlyArray<Case> = [
  own(
    "half-open-permits",
    "as many probes as are permitted at once, and no more",
    [issue("nodeshift/opossum#819"), issue("resilience4j/resilience4j#1432")],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* opened(driver, { halfOpenPermits: 3 })
        const gate = yield* Deferred.make<void>()
        const { call, seen } = counted(driver, Deferred.await(gate))
        yield* Effect.forEach(times(500), () => Effect.forkDaemon(Effect.exit(breaker.run(call))))
        yield* driver.time.advance(1_000)
        yield* Suite.equal("probes", [seen.calls, seen.most], [3, 3])
        yield* Deferred.succeed(gate, undefined)
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* breaker.state, "closed")
      })
  ),
  own(
    "half-open-success-rate",
    "the circuit closes as soon as the part of the probes that must succeed has, and opens once it no longer can",
    ["https://failsafe-go.dev/circuit-breaker/", "https://resilience4j.readme.io/docs/circuitbreaker"],
    (driver) =>
      Effect.gen(function* () {
        const settings = { halfOpenPermits: 4, halfOpenSuccessRate: 0.5 }
        const good = yield* opened(driver, settings)
        for (const call of [down, Effect.void, down]) yield* Effect.exit(good.run(call))
        yield* Suite.equal("one of three", yield* good.state, "half-open")
        yield* good.run(Effect.void)
        yield* Suite.equal("two of four", yield* good.state, "closed")
        const bad = yield* opened(driver, settings)
        for (const call of [Effect.void, down, down, down]) yield* Effect.exit(bad.run(call))
        yield* Suite.equal("one of four", yield* bad.state, "open")
      })
  ),
  own(
    "half-open-lost-lease",
    "a probe whose place was given away changes nothing when it ends at last",
    [issue("resilience4j/resilience4j#935"), issue("App-vNext/Polly#217")],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* opened(driver, { probeLease: "10 seconds" })
        const late = yield* Deferred.make<void>()
        const old = yield* Effect.forkDaemon(breaker.run(Deferred.await(late)))
        yield* driver.time.advance(9_999)
        yield* Suite.equal("before", tagOf(yield* Effect.flip(breaker.run(Effect.void))), "CircuitOpen")
        yield* driver.time.advance(1)
        yield* Effect.exit(breaker.run(down))
        yield* Suite.equal("the next probe fails", yield* breaker.state, "open")
        yield* Deferred.succeed(late, undefined)
        yield* Fiber.join(old)
        yield* Suite.equal("the old one succeeds", yield* breaker.state, "open")
        const { counters } = yield* breaker.snapshot
        yield* Suite.equal("counted", [counters.leasesLost, counters.stale], [1, 1])
      })
  ),
  own(
    "half-open-neutral-error",
    "a probe that ends with an error that says nothing of the service leaves the circuit to the next probe",
    [issue("resilience4j/resilience4j#544"), issue("resilience4j/resilience4j#2028")],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* opened(driver)
        yield* Effect.exit(breaker.run(Effect.fail({ errorClass: "rate-limited" })))
        yield* Suite.equal("after it", yield* breaker.state, "half-open")
        yield* breaker.run(Effect.void)
        yield* Suite.equal("after the next", yield* breaker.state, "closed")
      })
  ),
  own(
    "ramp-up",
    "after closing the calls come back little by little, not all at once",
    [issue("resilience4j/resilience4j#1432"), reproduced("cockatiel 3.2.1: 499 at once after the probe")],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* opened(driver, { rampUp: { over: "10 seconds", from: 0.1 } })
        yield* breaker.run(Effect.void)
        yield* Suite.equal("the circuit", yield* breaker.state, "closed")
        const passed = Effect.gen(function* () {
          const { call, seen } = counted(driver, Effect.void)
          yield* Effect.forEach(times(1_000), () => Effect.exit(breaker.run(call)), { discard: true })
          return seen.calls
        })
        const first = yield* passed
        yield* Suite.isTrue(`at first ${first} of 1,000`, first >= 50 && first <= 200)
        yield* driver.time.advance(5_000)
        const middle = yield* passed
        yield* Suite.isTrue(`half way ${middle} of 1,000`, middle >= 400 && middle <= 700)
        yield* driver.time.advance(5_000)
        yield* Suite.equal("at last", yield* passed, 1_000)
      })
  ),
  own(
    "slow-calls",
    "calls that succeed but take too long open the circuit",
    ["https://resilience4j.readme.io/docs/circuitbreaker"],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({
          name,
          window: { type: "count", size: 4, failureRate: 1 },
          slowCallDuration: "1 second",
          slowCallRate: 0.5
        })
        const taking = (millis: number) => after(driver, millis, breaker.run(Effect.sleep(Duration.millis(millis))))
        for (const millis of [100, 100, 1_500]) yield* taking(millis)
        yield* Suite.equal("one of three is slow", yield* breaker.state, "closed")
        yield* taking(1_500)
        yield* Suite.equal("two of four", yield* breaker.state, "open")
      })
  ),
  own(
    "metrics-only",
    "a breaker can be tried out: it says what it would do and lets every call pass",
    ["https://resilience4j.readme.io/docs/circuitbreaker", issue("resilience4j/resilience4j#1756")],
    () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ ...once, name })
        yield* breaker.setMode("metrics-only")
        yield* Effect.exit(breaker.run(down))
        yield* Suite.equal("a call", yield* breaker.run(Effect.succeed("fine")), "fine")
        const { counters, state, wouldBe } = yield* breaker.snapshot
        yield* Suite.equal("shown", [state, wouldBe, counters.wouldReject], ["closed", "open", 1])
      })
  ),
  own(
    "open-says-when",
    "the refusal of an open circuit says when to ask again, and is right",
    ["https://www.pollydocs.org/strategies/circuit-breaker.html"],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ ...once, name })
        yield* Effect.exit(breaker.run(down))
        yield* driver.time.advance(10_000)
        const refused = yield* Effect.flip(breaker.run(Effect.void))
        const wait = Duration.toMillis(refused.retryAfter)
        yield* Suite.equal("when", wait, 20_000)
        yield* driver.time.advance(wait - 1)
        yield* Suite.equal("too early", tagOf(yield* Effect.flip(breaker.run(Effect.void))), "CircuitOpen")
        yield* driver.time.advance(1)
        yield* breaker.run(Effect.void)
      })
  ),
  own(
    "rejections-are-cheap",
    "a refusal makes no stack and is the same under a span",
    [reproduced("cockatiel 3.2.1, opossum 8.5.0: 12 to 14 microseconds a refusal")],
    () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ ...once, name })
        yield* Effect.exit(breaker.run(down))
        const policy = yield* Policy.make({ name, breaker: once, retry: false })
        yield* Effect.exit(policy.run(down))
        for (const call of [breaker.run(Effect.void), policy.run(Effect.void)]) {
          const refused: unknown = yield* Effect.flip(Effect.withSpan(call, "call"))
          yield* Suite.isTrue("a refusal", refused instanceof CircuitBreaker.CircuitOpen)
          yield* Suite.isTrue("no error of JavaScript", !(refused instanceof Error) && !("stack" in Object(refused)))
          yield* Suite.isTrue("nor wrapped in another", Cause.originalError(refused) === refused)
        }
      })
  ),
  own(
    "registry-is-bounded",
    "breakers by key do not grow for ever, and an open one is not forgotten",
    [
      issue("resilience4j/resilience4j#650"),
      issue("resilience4j/resilience4j#703"),
      issue("resilience4j/resilience4j#2243"),
      issue("diegosouzapw/OmniRoute!4114")
    ],
    () =>
      Effect.gen(function* () {
        const registry = yield* CircuitBreakers.make({ name, capacity: 1_000, breaker: once })
        yield* Effect.exit(registry.run("the one that is open", down))
        yield* Effect.forEach(times(5_000), (n) => registry.run(`key ${n}`, Effect.void), { discard: true })
        const { evicted, size } = yield* registry.stats
        yield* Suite.equal("kept", size, 1_000)
        yield* Suite.equal("let go", evicted, 4_001)
        const refused = yield* Effect.flip(registry.run("the one that is open", Effect.void))
        yield* Suite.equal("the open one", tagOf(refused), "CircuitOpen")
        yield* Suite.isTrue("without the key, which may be somebody's name", !refused.message.includes("the one"))
        const crowded = yield* CircuitBreakers.make({ name, capacity: 2, breaker: once })
        for (const key of ["a", "b", "c"]) yield* Effect.exit(crowded.run(key, down))
        yield* Effect.forEach(times(10), (n) => crowded.run(`key ${n}`, Effect.void), { discard: true })
        for (const key of ["a", "b", "c"]) {
          yield* Suite.equal("more of them", tagOf(yield* Effect.flip(crowded.run(key, Effect.void))), "CircuitOpen")
        }
      })
  ),
  own(
    "registry-shows-all",
    "the states of all breakers can be seen, for health checks",
    [issue("App-vNext/Polly#1828")],
    (driver) =>
      Effect.gen(function* () {
        const registry = yield* CircuitBreakers.make({ name, breaker: once })
        yield* registry.run("a", Effect.void)
        yield* Effect.exit(registry.run("b", down))
        yield* Suite.equal("states", yield* registry.states, { closed: 1, open: 1, halfOpen: 0 })
        const all = Chunk.toReadonlyArray(yield* Stream.runCollect(registry.snapshots))
        const found = all.map(([key, { state }]) => `${key} ${state}`).sort()
        yield* Suite.equal("each", found, ["a closed", "b open"])
        yield* driver.time.advance(openFor)
        yield* Suite.equal("as they are now", yield* registry.states, { closed: 1, open: 0, halfOpen: 1 })
      })
  ),
  own(
    "shared-forced-open",
    "a circuit is held open in every process at once, and released",
    [
      issue("resilience4j/resilience4j#1756"),
      issue("resilience4j/resilience4j#2298"),
      issue("App-vNext/Polly#287"),
      issue("connor4312/cockatiel#89"),
      issue("sony/gobreaker#73"),
      issue("sony/gobreaker#85")
    ],
    (driver) =>
      Effect.gen(function* () {
        const control = yield* CircuitControl.makeMemory
        const nodes = yield* Effect.forEach(times(3), () => CircuitBreaker.make({ ...once, name }))
        yield* Effect.forEach(nodes, (node) => CircuitControl.follow(node)).pipe(
          Effect.provideService(CircuitControl.CircuitControl, control)
        )
        const states = Effect.zipRight(
          driver.time.advance(0),
          Effect.forEach(nodes, (node) => node.state)
        )
        yield* control.set(name, "forced-open")
        yield* Suite.equal("held", yield* states, ["open", "open", "open"])
        yield* control.clear(name)
        yield* Suite.equal("released", yield* states, ["closed", "closed", "closed"])
      })
  ),
  own(
    "one-bad-node-poisons-none",
    "what one process finds out for itself opens no circuit of another, though they share their control",
    [issue("App-vNext/Polly#287"), issue("nodeshift/opossum#675")],
    (driver) =>
      Effect.gen(function* () {
        const control = yield* CircuitControl.makeMemory
        const bad = yield* CircuitBreaker.make({ ...once, name })
        const good = yield* CircuitBreaker.make({ ...once, name })
        yield* CircuitControl.follow([bad, good]).pipe(Effect.provideService(CircuitControl.CircuitControl, control))
        yield* Effect.exit(bad.run(down))
        yield* driver.time.advance(1_000)
        yield* Suite.equal("states", [yield* bad.state, yield* good.state], ["open", "closed"])
      })
  ),
  own(
    "breaker-reload",
    "other settings come into force at once and close no open circuit",
    ["https://www.pollydocs.org/advanced/dependency-injection.html (dynamic reloads)"],
    (driver) =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ name, window: { type: "consecutive", failures: 3 } })
        yield* Effect.exit(breaker.run(down))
        yield* breaker.reload({ window: { type: "consecutive", failures: 2 }, openFor })
        yield* Effect.exit(breaker.run(down))
        yield* Suite.equal("the second failure", yield* breaker.state, "open")
        yield* breaker.reload({ window: { type: "consecutive", failures: 5 }, openFor })
        yield* Suite.equal("reloaded", yield* breaker.state, "open")
        yield* driver.time.advance(openFor)
        yield* Suite.equal("in its time", yield* breaker.state, "half-open")
      })
  )
]

const calls: ReadonlyArray<Case> = [
  own(
    "orphans-are-told",
    "work that goes on after its timeout is counted until it ends: somebody is told",
    [reproduced("Effect.timeout over Effect.promise: the work goes on, nobody is told"), issue("App-vNext/Polly#1133")],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name, retry: false, attemptTimeout: "50 millis" })
        let finish: () => void = () => {}
        const stuck = Effect.uninterruptible(
          Effect.promise(
            () =>
              new Promise<void>((resolve) => {
                finish = resolve
              })
          )
        )
        const error = settled(yield* after(driver, 50, policy.run(stuck)))
        yield* Suite.isTrue("a timeout", error instanceof Timeout.CallTimeout)
        yield* Suite.equal("while it goes on", yield* policy.orphans, { current: 1, total: 1 })
        finish()
        yield* driver.time.advance(1)
        yield* Suite.equal("when it has ended", yield* policy.orphans, { current: 0, total: 1 })
      })
  ),
  own(
    "timeouts-are-told-apart",
    "the timeout of an attempt and that of the whole call are told apart, and only the first is tried again",
    ["https://learn.microsoft.com/dotnet/api/microsoft.extensions.http.resilience.httpstandardresilienceoptions"],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({
          name,
          timeout: "10 seconds",
          attemptTimeout: "3 seconds",
          retry: { ...steady, attempts: 2 }
        })
        const { call, seen } = counted(driver, Effect.never)
        const attempt = settled(yield* after(driver, 7_000, policy.run(call)))
        yield* Suite.equal("attempts", seen.calls, 2)
        yield* Suite.equal("of the attempt", attempt instanceof Timeout.CallTimeout && attempt.scope, "attempt")
        const total = settled(yield* after(driver, 2_000, policy.run(call, { timeout: "2 seconds" })))
        yield* Suite.equal("of the call", total instanceof Timeout.CallTimeout && total.scope, "total")
        yield* Suite.equal("attempts of it", seen.calls, 3)
      })
  ),
  own(
    "deadline-is-inherited",
    "a call within a call does not wait past the deadline of the outer one",
    ["https://grpc.io/docs/guides/deadlines/", issue("CopilotKit/CopilotKit!3842")],
    (driver) =>
      Effect.gen(function* () {
        const outer = yield* Policy.make({ name: "outer", timeout: "2 seconds", retry: false, breaker: false })
        const inner = yield* Policy.make({ name: "inner", retry: { ...steady, base: "5 seconds" }, breaker: false })
        const { call, seen } = counted(driver, down)
        const from = driver.time.now()
        const error = settled(yield* after(driver, 0, outer.run(inner.run(call))))
        yield* Suite.equal("at once, with its own error", tagOf(error), "Down")
        yield* Suite.equal("attempts", [seen.calls, driver.time.now() - from], [1, 0])
      })
  ),
  own(
    "deadline-has-passed",
    "no call is made when the caller's deadline has passed",
    ["https://grpc.io/docs/guides/deadlines/"],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name })
        const { call, seen } = counted(driver, Effect.void)
        const error = yield* Effect.flip(Deadline.at(policy.run(call), driver.time.now() - 1))
        yield* Suite.isTrue("a timeout", error instanceof Timeout.CallTimeout)
        yield* Suite.equal("calls", seen.calls, 0)
      })
  ),
  own(
    "all-causes-kept",
    "the error that leaves a call tells of every attempt, its cause and its time",
    [reproduced("Effect.retry: only the last error"), issue("elennick/retry4j#41"), issue("comet-ml/opik!1334")],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name, retry: steady, breaker: false })
        const from = driver.time.now()
        let n = 0
        const call = Effect.suspend(() => Effect.fail(new Down({ status: 501 + ++n })))
        const error = settled(yield* after(driver, 60_000, policy.run(call)))
        const attempts = RetryPolicy.attemptsOf(error)
        const found = attempts.map(({ cause, startedAt }) => [
          Reflect.get(Object(Cause.squash(cause)), "status"),
          startedAt - from
        ])
        yield* Suite.equal("attempts", found, [
          [502, 0],
          [503, 1_000],
          [504, 3_000]
        ])
      })
  ),
  own(
    "retry-only-what-helps",
    "an error that comes again, and one that nobody knows, are not tried again",
    [issue("apache/opendal#7376"), issue("resilience4j/resilience4j#515")],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name, retry: steady, breaker: false })
        for (const error of [new Down({ status: 400 }), new Down({ status: 501 }), new Error("unknown")]) {
          const { call, seen } = counted(driver, Effect.fail(error))
          yield* after(driver, 0, policy.run(call))
          yield* Suite.equal(error.message, seen.calls, 1)
        }
      })
  ),
  own(
    "retry-not-idempotent",
    "a call that must not happen twice is made again only where nothing was sent",
    [issue("apache/opendal#7376"), "https://github.com/grpc/proposal/blob/master/A6-client-retries.md"],
    (driver) =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({
          name,
          breaker: false,
          retry: { ...steady, unsentOnly: true },
          idempotent: false
        })
        const sent = counted(driver, Effect.fail({ code: "ECONNRESET" }))
        yield* after(driver, 60_000, policy.run(sent.call))
        yield* Suite.equal("perhaps sent", sent.seen.calls, 1)
        const unsent = counted(driver, Effect.fail({ code: "ECONNREFUSED" }))
        yield* after(driver, 60_000, policy.run(unsent.call))
        yield* Suite.equal("not sent", unsent.seen.calls, 3)
      })
  ),
  ...[
    ["retry-after-seconds", "in seconds", "retry-after", "5", 5_000],
    ["retry-after-fraction", "in parts of a second", "retry-after", "1.5", 1_500],
    ["retry-after-milliseconds", "in milliseconds", "retry-after-ms", "250", 250],
    ["retry-after-pushback", "as gRPC pushes back", "grpc-retry-pushback-ms", "400", 400],
    ["retry-after-aws", "as the services of AWS say it", "x-amz-retry-after", "350", 350]
  ].map(([id, how, header, value, millis]) =>
    own(
      String(id),
      `a service that says when to come again, ${how}, is heard`,
      [
        issue("cyanheads/mcp-ts-core#285"),
        issue("dapr/dapr#5872"),
        issue("App-vNext/Polly#414"),
        "https://github.com/grpc/proposal/blob/master/A6-client-retries.md",
        "https://aws.amazon.com/blogs/developer/announcing-updated-retry-behavior-for-aws-sdks-and-tools/"
      ],
      (driver) =>
        Effect.gen(function* () {
          const found = yield* retryAfter(driver, { [String(header)]: String(value) })
          yield* Suite.equal("attempts at", found, [0, Number(millis), 2 * Number(millis)])
        })
    )
  ),
  own(
    "retry-after-date",
    "a service that says when to come again, as a date, is heard, by its own clock where it tells it",
    [issue("vercel/fetch-retry!31"), issue("App-vNext/Polly#414")],
    (driver) =>
      Effect.gen(function* () {
        const inFive = (from: number) => new Date(from + 5_000).toUTCString()
        // Dates know no milliseconds.
        yield* driver.time.advance(1_000 - (driver.time.now() % 1_000))
        const ours = yield* retryAfter(driver, { "retry-after": inFive(driver.time.now()) })
        yield* Suite.equal("by our clock", ours, [0, 5_000, 5_000])
        const theirs = Date.UTC(2001, 0, 1)
        const far = yield* retryAfter(driver, { "retry-after": inFive(theirs), date: new Date(theirs).toUTCString() })
        yield* Suite.equal("by theirs", far, [0, 5_000, 10_000])
      })
  ),
  own(
    "retry-after-never",
    "a service that forbids another attempt is not asked again",
    ["https://github.com/grpc/proposal/blob/master/A6-client-retries.md"],
    (driver) =>
      Effect.gen(function* () {
        yield* Suite.equal("attempts at", yield* retryAfter(driver, { "grpc-retry-pushback-ms": "-1" }), [0])
      })
  ),
  own(
    "retry-after-unreadable",
    "what cannot be read as a time is as good as nothing",
    [issue("vercel/fetch-retry!31")],
    (driver) =>
      Effect.gen(function* () {
        yield* Suite.equal("attempts at", yield* retryAfter(driver, { "retry-after": "soon" }), [0, 1_000, 3_000])
      })
  ),
  own(
    "retry-after-cap",
    "an unreasonable wait is cut, and one that would pass the deadline fails at once",
    [issue("CopilotKit/CopilotKit!3842"), issue("vercel/fetch-retry!31")],
    (driver) =>
      Effect.gen(function* () {
        const headers = { "retry-after": "32400" }
        const cut = yield* retryAfter(driver, headers, {
          timeout: false,
          retry: { ...steady, retryAfterCap: "1 minute" }
        })
        yield* Suite.equal("without a deadline", cut, [0, 60_000, 120_000])
        const policy = yield* Policy.make({ name, retry: steady, breaker: false })
        const { call, seen } = counted(driver, Effect.fail(new Down({ headers })))
        const error = settled(yield* after(driver, 0, policy.run(call)))
        yield* Suite.equal("with one", [tagOf(error), seen.calls], ["Down", 1])
      })
  ),
  own(
    "order-refused",
    "settings that cannot work together are refused when the policy is made, with the remedy",
    [
      issue("resilience4j/resilience4j#515"),
      issue("resilience4j/resilience4j#614"),
      issue("resilience4j/resilience4j#920"),
      "https://thomhurst.github.io/Kevlar/docs/intro"
    ],
    () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(
          Policy.make({ name, timeout: "1 second", attemptTimeout: "1 minute", idempotent: false, retry: {} })
        )
        yield* Suite.equal("problems", error.problems.length, 2)
        yield* Suite.isTrue("the first remedy", error.message.includes("lower attemptTimeout or raise timeout"))
        yield* Suite.isTrue("the second", error.message.includes("set retry.unsentOnly to true"))
      })
  ),
  own(
    "order-described",
    "the pipeline can be read, outermost first",
    ["https://thomhurst.github.io/Kevlar/docs/intro", issue("resilience4j/resilience4j#614")],
    () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make({ name, attemptTimeout: "5 seconds" })
        const text = Policy.describe(policy)
        const lines = text.split("\n").map((line) => line.trim())
        const stages = ["total timeout", "retry ", "circuit breaker", "attempt timeout", "the call"]
        const at = stages.map((stage) => lines.findIndex((line) => line.startsWith(stage)))
        yield* Suite.isTrue(
          `all of ${stages.join(", ")} in order: ${text}`,
          at.every((each, n) => each > (at[n - 1] ?? 0))
        )
      })
  )
]

/** When the attempts of a call were made whose service answers with these headers, from its beginning. */
const retryAfter = (
  driver: Driver,
  headers: Readonly<Record<string, string>>,
  options: Partial<Policy.Options> = {}
): Effect.Effect<ReadonlyArray<number>, unknown> =>
  Effect.gen(function* () {
    const policy = yield* Policy.make({ name, retry: steady, breaker: false, ...options })
    const { call, seen } = counted(
      driver,
      Effect.suspend(() => Effect.fail(new Down({ headers })))
    )
    const from = driver.time.now()
    yield* after(driver, 180_000, policy.run(call))
    return seen.at.map((at) => at - from)
  })

const limits: ReadonlyArray<Case> = [
  own(
    "bulkhead-longest-wait",
    "nobody waits for a place for longer than allowed, nor past his deadline",
    ["https://resilience4j.readme.io/docs/bulkhead", "https://failsafe-go.dev/bulkhead/"],
    (driver) =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ name, maxConcurrent: 1, maxQueue: 10, maxWait: "1 second" })
        const first = yield* Effect.forkDaemon(bulkhead.run(Effect.never))
        const from = driver.time.now()
        const waiting = yield* Effect.forkDaemon(Effect.flip(bulkhead.run(Effect.void)))
        yield* driver.time.advance(999)
        yield* Suite.isTrue("before", Option.isNone(yield* Fiber.poll(waiting)))
        yield* driver.time.advance(1)
        yield* Suite.equal(
          "then",
          [tagOf(yield* Fiber.join(waiting)), driver.time.now() - from],
          ["BulkheadFull", 1_000]
        )
        const hurried = Deadline.within(bulkhead.run(Effect.void), "100 millis")
        yield* Suite.equal("in a hurry", tagOf(settled(yield* after(driver, 100, hurried))), "BulkheadFull")
        yield* Fiber.interrupt(first)
        yield* Suite.equal("and left no trace", (yield* bulkhead.snapshot).queued, 0)
      })
  ),
  own(
    "bulkhead-nobody-overtakes",
    "one who needs more places than are free is not overtaken by those who need fewer",
    [reproduced("Effect's semaphore: who needs 2 permits and came first is served last")],
    (driver) =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ name, maxConcurrent: 2, maxQueue: 10, maxWait: "1 minute" })
        const order: Array<string> = []
        const gate = yield* Deferred.make<void>()
        const run = (who: string, weight: number) =>
          Effect.forkDaemon(
            bulkhead.run(
              Effect.zipRight(
                Effect.sync(() => order.push(who)),
                Effect.sleep("1 second")
              ),
              { weight }
            )
          )
        yield* Effect.forkDaemon(bulkhead.run(Deferred.await(gate)))
        yield* driver.time.advance(0)
        yield* run("heavy", 2)
        yield* driver.time.advance(0)
        yield* Effect.forEach(times(5), (n) => run(`light ${n}`, 1))
        yield* driver.time.advance(3_000)
        yield* Suite.equal("with one place free", order, [])
        yield* Deferred.succeed(gate, undefined)
        yield* driver.time.advance(10_000)
        yield* Suite.equal("served first", order[0], "heavy")
        yield* Suite.equal("all", order.length, 6)
      })
  ),
  own(
    "bulkhead-priority",
    "who matters more goes first, and takes the place in a full queue of who matters less",
    ["https://failsafe-go.dev/adaptive-limiter/ (prioritized rejection)"],
    (driver) =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ name, maxConcurrent: 1, maxQueue: 2, maxWait: "1 minute" })
        const order: Array<string> = []
        const run = (priority: Bulkhead.Priority) =>
          Effect.forkDaemon(
            Effect.exit(
              bulkhead.run(
                Effect.zipRight(
                  Effect.sync(() => order.push(priority)),
                  Effect.sleep("1 second")
                ),
                { priority }
              )
            )
          )
        yield* run("normal")
        yield* driver.time.advance(0)
        const low = yield* run("low")
        yield* driver.time.advance(0)
        yield* run("normal")
        yield* driver.time.advance(0)
        yield* run("high")
        yield* driver.time.advance(0)
        const exit = yield* Fiber.poll(low)
        const pushed = Option.isSome(exit) && Exit.isSuccess(exit.value) ? settled(exit.value.value) : undefined
        yield* Suite.equal("pushed out", tagOf(pushed), "BulkheadFull")
        yield* driver.time.advance(10_000)
        yield* Suite.equal("served", order, ["normal", "high", "normal"])
      })
  ),
  own(
    "adaptive-limit",
    "a limit of its own making falls when the service slows down, and rises when it is well",
    ["https://failsafe-go.dev/adaptive-limiter/", "https://github.com/Netflix/concurrency-limits"],
    (driver) =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.adaptive({ name, algorithm: "gradient", initial: 20, min: 2, max: 50 })
        let limits: Array<number> = []
        const load = (seconds: number, latency: number) =>
          Effect.gen(function* () {
            limits = []
            for (const _ of times(seconds * 10)) {
              yield* Effect.forEach(times(6), () =>
                Effect.forkDaemon(Effect.exit(bulkhead.run(Effect.sleep(Duration.millis(latency)))))
              )
              yield* driver.time.advance(100)
              limits.push((yield* bulkhead.snapshot).limit)
            }
          })
        yield* load(3, 20)
        const well = limits.at(-1) ?? 0
        yield* load(4, 1_000)
        const slow = Math.min(...limits)
        yield* load(6, 20)
        const again = Math.max(...limits)
        yield* Suite.isTrue(`well ${well}, slow ${slow}, well again ${again}`, slow < well / 2 && again > slow * 2)
      })
  ),
  own(
    "rate-limit-exact",
    "a rate limit lets through what it says, within one part in a hundred",
    [reproduced("Effect's RateLimiter: 781 a second at 1,500, 789 at 3,000")],
    (driver) =>
      Effect.gen(function* () {
        for (const limit of [1_500, 3_000]) {
          const rate = yield* RateLimit.make({ name, limit, maxWait: "1 hour", maxQueue: 100_000 })
          let passed = 0
          const call = rate.run(Effect.sync(() => passed++))
          const fibers = yield* Effect.forEach(times(limit / 4), () => Effect.forkDaemon(call))
          yield* driver.time.advance(200)
          const due = limit / 5
          yield* Suite.isTrue(`${passed} of ${due} in a fifth of a second`, Math.abs(passed - due) <= due / 100)
          yield* Fiber.interruptAll(fibers)
        }
      })
  ),
  own(
    "rate-limit-refuses",
    "a rate limit that does not wait says when to come again, and is right",
    ["https://failsafe-go.dev/rate-limiter/", "https://resilience4j.readme.io/docs/ratelimiter"],
    (driver) =>
      Effect.gen(function* () {
        const rate = yield* RateLimit.make({ name, limit: 1, interval: "2 seconds", maxWait: false })
        yield* rate.run(Effect.void)
        const refused = yield* Effect.flip(rate.run(Effect.void))
        yield* Suite.equal(
          "when",
          [tagOf(refused), Duration.toMillis(refused.retryAfter)],
          ["RateLimitExceeded", 2_000]
        )
        yield* driver.time.advance(1_999)
        yield* Suite.equal("too early", yield* rate.tryTake(), false)
        yield* driver.time.advance(1)
        yield* Suite.equal("in time", yield* rate.tryTake(), true)
      })
  ),
  own(
    "rate-limit-given-up",
    "who gives up waiting for his turn uses up nothing",
    [issue("connor4312/cockatiel#112")],
    (driver) =>
      Effect.gen(function* () {
        const rate = yield* RateLimit.make({ name, limit: 1, maxWait: "1 minute" })
        yield* rate.take()
        const given = yield* Effect.forEach(times(10), () => Effect.forkDaemon(rate.take()))
        yield* driver.time.advance(0)
        yield* Fiber.interruptAll(given)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("the next", yield* rate.tryTake(), true)
      })
  ),
  own(
    "throttle",
    "a service that refuses nearly everything is spared most of the calls",
    ["https://sre.google/sre-book/handling-overload/", "https://failsafe-go.dev/adaptive-throttler/"],
    (driver) =>
      Effect.gen(function* () {
        const throttle = yield* Throttle.make({ name })
        const { call, seen } = counted(driver, down)
        yield* Effect.forEach(times(1_000), () => Effect.exit(throttle.run(call)), { discard: true })
        yield* Suite.isTrue(`${seen.calls} of 1,000 calls were made`, seen.calls < 200)
        yield* driver.time.advance(180_000)
        yield* Suite.equal("forgotten later", yield* throttle.run(Effect.succeed("fine")), "fine")
      })
  ),
  own(
    "budget-storm",
    "a service that is down is not asked three times as often: retries are a fifth of the calls",
    [
      issue("apache/opendal#7376"),
      issue("joshrotenberg/tower-resilience#171"),
      issue("awslabs/aws-sdk-rust#1234"),
      "https://finagle.github.io/blog/2016/02/08/retry-budgets"
    ],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.percentage({ ratio: 0.2, minPerSecond: 0 })
        const { call, seen } = counted(driver, down)
        const schedule = RetryPolicy.exponential({ ...steady, base: "1 milli", attempts: 3 }).schedule
        const retried = RetryBudget.retry(call, { budget, schedule })
        const fibers = yield* Effect.forEach(times(1_000), () => Effect.forkDaemon(Effect.exit(retried)))
        yield* driver.time.advance(1_000)
        yield* Effect.forEach(fibers, Fiber.join, { discard: true })
        yield* Suite.isTrue(`${seen.calls} calls of the service`, seen.calls >= 1_190 && seen.calls <= 1_200)
      })
  ),
  own(
    "budget-grpc",
    "retries stop when half of the tokens are gone, as in gRPC, and come back as calls succeed",
    ["https://github.com/grpc/proposal/blob/master/A6-client-retries.md"],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.grpc({ maxTokens: 10, tokenRatio: 0.5 })
        const { call, seen } = counted(driver, down)
        const schedule = RetryPolicy.exponential({ ...steady, base: "1 milli", attempts: 20 }).schedule
        yield* after(driver, 60_000, Effect.exit(RetryBudget.retry(call, { budget, schedule })))
        yield* Suite.equal("attempts", seen.calls, 5)
        yield* Effect.repeatN(RetryBudget.retry(Effect.void, { budget, schedule }), 3)
        const again = counted(driver, down)
        yield* after(driver, 60_000, Effect.exit(RetryBudget.retry(again.call, { budget, schedule })))
        yield* Suite.equal("attempts after four successes", again.seen.calls, 2)
      })
  ),
  own(
    "budget-aws",
    "500 tokens, a retry takes its cost and gives it back where it succeeds, as in the SDKs of AWS",
    [issue("aws/aws-sdk-cpp#3832"), issue("awslabs/aws-sdk-rust#1234")],
    (driver) =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.aws({ mode: "classic" })
        const { call, seen } = counted(driver, down)
        const schedule = RetryPolicy.exponential({
          ...steady,
          base: "1 milli",
          cap: "1 milli",
          attempts: 1_000
        }).schedule
        yield* after(driver, 1_000, Effect.exit(RetryBudget.retry(call, { budget, schedule })))
        yield* Suite.equal("attempts", seen.calls, 101)
        yield* Suite.equal("left", (yield* budget.snapshot).available, 0)
      })
  ),
  own(
    "budget-aws-2026",
    "a retry costs 14 of 500 tokens, and 5 where the service asks for patience, as in the SDKs of AWS from 2026 on",
    [
      issue("aws/aws-sdk-cpp#3832"),
      "https://aws.amazon.com/blogs/developer/announcing-updated-retry-behavior-for-aws-sdks-and-tools/"
    ],
    (driver) =>
      Effect.gen(function* () {
        const schedule = RetryPolicy.exponential({
          ...steady,
          base: "1 milli",
          cap: "1 milli",
          attempts: 1_000
        }).schedule
        for (const [status, attempts, left] of [
          [503, 36, 10],
          [429, 101, 0]
        ] as const) {
          const budget = yield* RetryBudget.aws({ mode: "2026" })
          const { call, seen } = counted(driver, Effect.fail(new Down({ status })))
          yield* after(driver, 1_000, Effect.exit(RetryBudget.retry(call, { budget, schedule })))
          yield* Suite.equal(`attempts of ${status}`, seen.calls, attempts)
          yield* Suite.equal("left", (yield* budget.snapshot).available, left)
        }
      })
  )
]

export const cases: ReadonlyArray<Case> = [...breakers, ...calls, ...limits]
