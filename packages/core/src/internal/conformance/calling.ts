/**
 * Cases of cancellation, timeouts, retries and places: what happens to a call, not to the circuit.
 */
import * as Effect from "effect/Effect"
import * as Suite from "../../testing/Suite.ts"
import type { Case } from "./driver.ts"
import {
  answer,
  begin,
  Counted,
  call,
  Down,
  ended,
  fail,
  first,
  hang,
  issue,
  make,
  many,
  missing,
  openFor,
  outcome,
  Pending,
  reproduced,
  times
} from "./scenario.ts"

/** To be run before the others: Node warns of a signal only once. */
export const once: ReadonlyArray<Case> = [
  make(
    "concurrent-calls-no-warnings",
    "100 calls at once leave no listener behind and make the process warn of nothing",
    [reproduced("cockatiel 3.2.1: MaxListenersExceededWarning"), issue("connor4312/cockatiel#69")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 1_000 })
        const before = driver.time.warnings().length
        const work = new Pending()
        const calls = yield* Effect.forEach(times(100), () => guard.start(work.leaf, { unwatched: true }))
        yield* driver.time.advance(0)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("ended", calls.filter((each) => outcome(each) === "ok").length, 100)
        yield* Suite.equal("warnings", driver.time.warnings().slice(before), [])
      })
  )
]

const cancellation: ReadonlyArray<Case> = [
  make(
    "cancel-is-no-failure",
    "callers that give up do not open the circuit of a service that is well",
    [
      reproduced("cockatiel 3.2.1: open after 3"),
      issue("resilience4j/resilience4j#682"),
      issue("MCKRUZ/microsoft-agentic-harness#353"),
      issue("microsoft/agent-governance-toolkit!2202")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: { trip: { type: "consecutive", failures: 3 }, openFor } })
        const calls = yield* many(driver, guard, 3, hang)
        yield* Effect.forEach(calls, (each) => each.cancel)
        yield* driver.time.advance(0)
        yield* Suite.equal("the circuit", yield* guard.state, "closed")
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "timeout-is-a-failure",
    "a timeout is not mistaken for a caller that gives up: it opens the circuit",
    [issue("resilience4j/resilience4j#1123"), issue("App-vNext/Polly!3094")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 1_000 })
        const slow = yield* begin(driver, guard, hang)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("the call", outcome(slow), "timeout")
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "cancel-reaches-the-work",
    "a caller that gives up stops the work",
    [issue("App-vNext/Polly#1133")],
    ["caller-signal"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 60_000 })
        const work = new Pending()
        const each = yield* begin(driver, guard, work.leaf)
        yield* each.cancel
        yield* driver.time.advance(0)
        yield* Suite.equal("its signal", work.signals[0]?.aborted, true)
        yield* Suite.equal("the call is over", each.result() !== undefined, true)
      })
  ),
  make(
    "cancel-during-backoff",
    "a caller that gives up between two attempts is free at once, and there is no other attempt",
    [
      reproduced("cockatiel 3.2.1: settles after the whole wait, having called again"),
      issue("vercel/ai#7656"),
      issue("openai/openai-node#2580"),
      issue("browserbase/sdk-node#205")
    ],
    ["retry", "caller-signal"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ retry: { attempts: 3, delay: 1_000 } })
        const service = new Counted(driver, fail)
        const each = yield* begin(driver, guard, service.leaf)
        yield* driver.time.advance(50)
        yield* each.cancel
        yield* driver.time.advance(0)
        yield* Suite.equal("the call is over", each.result() !== undefined, true)
        yield* driver.time.advance(60_000)
        yield* Suite.equal("attempts", service.calls, 1)
      })
  ),
  make(
    "one-timeout-one-call",
    "a call's timeout does not abort another call",
    [reproduced("opossum 8.5.0: one abort controller for all calls of a breaker")],
    ["abort-on-timeout"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "consecutive", failures: 5 }, openFor },
          timeout: 1_000
        })
        const [slow, good] = [new Pending(), new Pending()]
        const late = yield* begin(driver, guard, slow.leaf)
        yield* driver.time.advance(900)
        const innocent = yield* begin(driver, guard, good.leaf)
        yield* driver.time.advance(100)
        yield* Suite.equal("the slow one", outcome(late), "timeout")
        yield* Suite.equal("its signal", slow.signals[0]?.aborted, true)
        yield* Suite.equal("the other's signal", good.signals[0]?.aborted, false)
        good.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the other", outcome(innocent), "ok")
      })
  )
]

const timeouts: ReadonlyArray<Case> = [
  make(
    "timeout-on-time",
    "a timeout returns on time over work that cannot be stopped",
    [reproduced("Effect.timeout: 505 ms instead of 50"), issue("App-vNext/Polly#1133")],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 50 })
        const from = driver.time.now()
        const work = new Pending({ deaf: true })
        const each = yield* begin(driver, guard, work.leaf, { deaf: true })
        yield* driver.time.advance(500)
        work.succeed()
        yield* driver.time.advance(0)
        const result = yield* ended(each)
        yield* Suite.equal("what", outcome(each), "timeout")
        yield* Suite.equal("when", result.at - from, 50)
      })
  ),
  make(
    "timeout-stops-the-work",
    "a timeout tells the work to stop",
    [issue("App-vNext/Polly#1133"), issue("KanishJebaMathewM/Truxify!11360")],
    ["abort-on-timeout"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 1_000 })
        const work = new Pending()
        yield* begin(driver, guard, work.leaf)
        yield* driver.time.advance(999)
        yield* Suite.equal("before", work.signals[0]?.aborted, false)
        yield* driver.time.advance(1)
        yield* Suite.equal("after", work.signals[0]?.aborted, true)
      })
  ),
  make(
    "timeout-keeps-the-place",
    "work that goes on after its timeout keeps its place: never more of it than there are places",
    [reproduced("opossum 8.5.0: 10 in flight at capacity 2")],
    ["bulkhead"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "consecutive", failures: 1_000 }, openFor },
          timeout: 100,
          bulkhead: { maxConcurrent: 2 }
        })
        const work = new Pending({ deaf: true })
        const service = new Counted(driver, work.leaf)
        for (const _ of times(5)) {
          yield* guard.start(service.leaf, { deaf: true })
          yield* guard.start(service.leaf, { deaf: true })
          yield* driver.time.advance(100)
        }
        yield* Suite.equal("at once", service.most, 2)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("the next", yield* call(driver, guard, answer), "ok")
      })
  ),
  make(
    "settled-calls-hold-no-timer",
    "a call that has ended, and an open circuit, hold no timer that keeps the process alive",
    [
      reproduced("Effect.runFork(Effect.sleep): the process ends when the sleep does"),
      issue("connor4312/cockatiel#11"),
      issue("tim-kos/node-retry#26"),
      issue("connor4312/cockatiel#69")
    ],
    [],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, timeout: 1_800_000 })
        const before = driver.time.timers().holding
        const work = new Pending()
        yield* many(driver, guard, 100, work.leaf)
        yield* Suite.isTrue("while they run", driver.time.timers().holding > before)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("ended", driver.time.timers().holding, before)
        yield* call(driver, guard, fail)
        yield* Suite.equal("open", yield* call(driver, guard, answer), "open")
        yield* Suite.equal("after a failure", driver.time.timers().holding, before)
      })
  ),
  make(
    "total-over-attempts",
    "the total limit holds over all attempts and waits, and nothing is attempted after it",
    [
      "https://learn.microsoft.com/dotnet/api/microsoft.extensions.http.resilience.httpstandardresilienceoptions",
      issue("vercel/ai#7656")
    ],
    ["retry", "total-timeout"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          retry: { attempts: 10, delay: 700 },
          timeout: 600,
          total: 2_000
        })
        const from = driver.time.now()
        const service = new Counted(driver, hang)
        const each = yield* begin(driver, guard, service.leaf)
        yield* driver.time.advance(60_000)
        const result = yield* ended(each)
        yield* Suite.isTrue(`ended after ${result.at - from} ms`, result.at - from <= 2_000)
        yield* Suite.equal(
          "attempts at",
          service.at.map((at) => at - from),
          [0, 1_300]
        )
      })
  )
]

const retries: ReadonlyArray<Case> = [
  make(
    "retry-recovers",
    "a call that fails at first is made again after its wait, and no more often than allowed",
    [issue("apache/opendal#7376")],
    ["retry"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ retry: { attempts: 3, delay: 1_000, factor: 2 } })
        const from = driver.time.now()
        const service = new Counted(driver, fail)
        const each = yield* begin(driver, guard, service.leaf)
        yield* driver.time.advance(60_000)
        yield* Suite.equal("the call", outcome(each), "error")
        yield* Suite.equal(
          "attempts at",
          service.at.map((at) => at - from),
          [0, 1_000, 3_000]
        )
      })
  ),
  make(
    "retry-nested",
    "retries round retries round retries do not multiply: three of three of three make three attempts",
    [issue("apache/opendal#7376"), issue("awslabs/aws-sdk-rust#1234"), issue("joshrotenberg/tower-resilience#171")],
    ["retry"],
    (driver) =>
      Effect.gen(function* () {
        const retry = driver.make({ retry: { attempts: 3, delay: 10 } })
        const guard = driver.nest([yield* retry, yield* retry, yield* retry])
        const service = new Counted(driver, fail)
        const each = yield* begin(driver, guard, service.leaf)
        yield* driver.time.advance(60_000)
        yield* Suite.equal("the call", outcome(each), "error")
        yield* Suite.equal("attempts", service.calls, 3)
      })
  ),
  make(
    "retry-not-an-open-circuit",
    "an open circuit is not asked again and again: the caller hears of it at once",
    [issue("resilience4j/resilience4j#515"), issue("resilience4j/resilience4j#1653")],
    ["retry"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, retry: { attempts: 3, delay: 1_000 } })
        yield* begin(driver, guard, fail)
        yield* driver.time.advance(1_000)
        yield* Suite.equal("a call", yield* call(driver, guard, answer), "open")
      })
  ),
  make(
    "retry-longest-wait",
    "growing waits have a limit",
    ["https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"],
    ["retry"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ retry: { attempts: 6, delay: 1_000, factor: 2, maxDelay: 3_000 } })
        const from = driver.time.now()
        const service = new Counted(driver, fail)
        yield* begin(driver, guard, service.leaf)
        yield* driver.time.advance(60_000)
        yield* Suite.equal(
          "attempts at",
          service.at.map((at) => at - from),
          [0, 1_000, 3_000, 6_000, 9_000, 12_000]
        )
      })
  ),
  make(
    "retry-jitter",
    "callers that failed together do not come back together",
    ["https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/", issue("apache/opendal#7376")],
    ["retry", "jitter"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ retry: { attempts: 2, delay: 1_000, maxDelay: 10_000, jitter: true } })
        const service = new Counted(driver, fail)
        yield* many(driver, guard, 50, service.leaf)
        yield* driver.time.advance(60_000)
        yield* Suite.equal("attempts", service.calls, 100)
        const moments = new Set(service.at.slice(50)).size
        yield* Suite.isTrue(`the second attempts are at ${moments} moments`, moments >= 25)
      })
  ),
  make(
    "retry-of-answers",
    "an answer that is as good as a failure is tried again",
    ["https://www.pollydocs.org/strategies/retry.html", "https://failsafe-go.dev/retry/"],
    ["retry", "retry-of-answers"],
    (driver) =>
      Effect.gen(function* () {
        const unwanted = (found: unknown): boolean => found === "not yet"
        const guard = yield* driver.make({ retry: { attempts: 5, delay: 1_000, unwanted } })
        const answers = ["not yet", "not yet", "done"]
        const each = yield* begin(driver, guard, () => Promise.resolve(answers.shift()))
        yield* driver.time.advance(2_000)
        const result = yield* ended(each)
        yield* Suite.equal("the answer", result.ok && result.value, "done")
      })
  ),
  make(
    "retry-success-costs-nothing",
    "a call that succeeds at once sets no timer for its retries",
    [issue("tim-kos/node-retry#26")],
    ["retry"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ retry: { attempts: 3, delay: 1_000 } })
        const before = driver.time.timers().pending
        const work = new Pending()
        yield* many(driver, guard, 10, work.leaf)
        yield* Suite.equal("timers", driver.time.timers().pending, before)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("timers after it", driver.time.timers().pending, before)
      })
  )
]

const places: ReadonlyArray<Case> = [
  make(
    "bulkhead-bound",
    "never more calls at once than there are places",
    ["https://resilience4j.readme.io/docs/bulkhead"],
    ["bulkhead"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({
          breaker: { trip: { type: "consecutive", failures: 1_000 }, openFor },
          bulkhead: { maxConcurrent: 3 }
        })
        const work = new Pending()
        const service = new Counted(driver, work.leaf)
        const calls = yield* many(driver, guard, 10, service.leaf)
        yield* Suite.equal("at once", service.most, 3)
        yield* Suite.equal("refused", calls.filter((each) => outcome(each) === "full").length, 7)
        work.fail(new Down())
        yield* driver.time.advance(0)
        yield* many(driver, guard, 3, service.leaf)
        yield* Suite.equal("their places are given back", service.inFlight, 3)
      })
  ),
  make(
    "bulkhead-queue",
    "those who wait are served in the order in which they came, and no more wait than may",
    [reproduced("Effect's semaphore: the first waiter served last")],
    ["bulkhead", "queue"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ bulkhead: { maxConcurrent: 1, maxQueue: 5 } })
        const order: Array<number> = []
        const work = new Pending()
        const calls = yield* Effect.forEach(times(7), (n) =>
          begin(driver, guard, (signal) => {
            order.push(n)
            return work.leaf(signal)
          })
        )
        yield* Suite.equal("the seventh", calls[6] === undefined ? "none" : outcome(calls[6]), "full")
        for (const _ of times(6)) {
          work.succeed()
          yield* driver.time.advance(0)
        }
        yield* Suite.equal("served", order, [0, 1, 2, 3, 4, 5])
      })
  ),
  make(
    "bulkhead-given-up-while-waiting",
    "one who gives up while waiting makes way: the others behind are served",
    [issue("connor4312/cockatiel#112")],
    ["bulkhead", "queue", "caller-signal"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ bulkhead: { maxConcurrent: 1, maxQueue: 2 } })
        const work = new Pending()
        yield* begin(driver, guard, work.leaf)
        const second = yield* begin(driver, guard, work.leaf)
        const third = yield* begin(driver, guard, answer)
        yield* Suite.equal("they wait", [outcome(second), outcome(third)], ["pending", "pending"])
        yield* second.cancel
        yield* driver.time.advance(0)
        work.succeed()
        yield* driver.time.advance(1_000)
        yield* Suite.equal("who gave up", outcome(second), "cancelled")
        yield* Suite.equal("who came after", outcome(third), "ok")
      })
  ),
  make(
    "bulkhead-given-up-frees-the-queue",
    "one who gives up while waiting frees his place in the queue at once",
    [issue("connor4312/cockatiel#112")],
    ["bulkhead", "queue", "caller-signal"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ bulkhead: { maxConcurrent: 1, maxQueue: 1 } })
        const work = new Pending()
        yield* begin(driver, guard, work.leaf)
        const waiting = yield* begin(driver, guard, answer)
        yield* waiting.cancel
        yield* driver.time.advance(0)
        yield* Suite.equal("who gave up", outcome(waiting), "cancelled")
        const next = yield* begin(driver, guard, answer)
        yield* Suite.equal("the next waits", outcome(next), "pending")
        work.succeed()
        yield* driver.time.advance(1_000)
        yield* Suite.equal("and is served", outcome(next), "ok")
      })
  ),
  make(
    "fallback",
    "a fallback answers while the circuit is open",
    ["https://github.com/connor4312/cockatiel#fallbackpolicy", "https://resilience4j.readme.io/docs/getting-started"],
    ["fallback"],
    (driver) =>
      Effect.gen(function* () {
        const guard = yield* driver.make({ breaker: first, fallback: () => "instead" })
        yield* begin(driver, guard, fail)
        yield* Suite.equal("the circuit", yield* guard.state, "open")
        const result = yield* ended(yield* begin(driver, guard, answer))
        yield* Suite.equal("answered", result.ok ? result.value : result.kind, "instead")
      })
  ),
  make(
    "coalescing",
    "100 callers who ask for the same at once make one call",
    ["https://nodeshift.dev/opossum/#coalesce-calls"],
    ["coalescing"],
    (driver) =>
      Effect.gen(function* () {
        const work = new Pending()
        const service = new Counted(driver, work.leaf)
        if (driver.coalesce === undefined) return yield* missing("coalesce")
        const { get } = yield* driver.coalesce(service.leaf)
        const calls = yield* Effect.forEach(times(100), () => get)
        yield* driver.time.advance(0)
        work.succeed()
        yield* driver.time.advance(0)
        yield* Suite.equal("answered", calls.filter((each) => outcome(each) === "ok").length, 100)
        yield* Suite.equal("calls", service.calls, 1)
      })
  )
]

export const cases: ReadonlyArray<Case> = [...cancellation, ...timeouts, ...retries, ...places]
