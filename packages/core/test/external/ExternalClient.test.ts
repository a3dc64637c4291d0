import { assert, describe, it } from "@effect/vitest"
import { ExternalClient, Health, Policy, RetryPolicy } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import * as Shown from "@underlay/servers/Shown"
import {
  Cause,
  Chunk,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  LogLevel,
  Option,
  Schema,
  Stream,
  TestClock
} from "effect"

class Busy extends Data.TaggedError("Busy")<{ readonly message: string }> {
  get isRetryable() {
    return true
  }
}
class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {
  get isRetryable() {
    return false
  }
}

const steady = { jitter: "none" } as const

const failing = (times: number) => {
  let calls = 0
  return Effect.suspend(() =>
    ++calls <= times ? Effect.fail(new Busy({ message: "come back" })) : Effect.succeed("ok")
  )
}

const changes = (service: string) =>
  Effect.gen(function* () {
    const { metrics } = yield* Recording.Recording
    const found = new Map<string, number>()
    for (const each of yield* metrics) {
      if (each.labels["service"] !== service) continue
      const { operation, outcome } = each.labels
      found.set(
        [each.name, operation, outcome].filter((part) => part !== undefined).join(" "),
        each.after - each.before
      )
    }
    return found
  })

const one = <A>(list: ReadonlyArray<A>): A => {
  assert.strictEqual(list.length, 1)
  return list[0] as A
}

describe("ExternalClient.call", () => {
  it.scoped("a success: one client span, one debug line, its metrics", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({
        service: "weather",
        attributes: { region: "north", "x-api-key": "sk-secret" }
      })
      yield* recording.clear
      assert.strictEqual(yield* client.call("today", Effect.succeed(21), { attributes: { city: "Oslo" } }), 21)
      const span = one(yield* recording.spans)
      assert.deepStrictEqual([span.name, span.kind, span.ends], ["weather.today", "client", 1])
      assert.deepStrictEqual(Object.fromEntries(span.attributes), {
        "peer.service": "weather",
        region: "north",
        city: "Oslo",
        "call.outcome": "success"
      })
      const line = one(yield* recording.lines)
      assert.deepStrictEqual([line.level, line.message], [LogLevel.Debug, "weather.today succeeded (0 ms)"])
      assert.deepStrictEqual(
        [line.annotations["service"], line.annotations["operation"], line.annotations["outcome"]],
        ["weather", "today", "success"]
      )
      assert.strictEqual(Option.getOrThrow(line.parent).spanId, span.spanId)
      const seen = yield* changes("weather")
      assert.strictEqual(seen.get("external_calls_total today success"), 1)
      assert.strictEqual(seen.get("external_call_duration_seconds today"), 1)
      assert.strictEqual(seen.get("external_calls_in_flight") ?? 0, 0)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("retries stay inside the span, as its events; one line tells of the whole call", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: steady } })
      yield* recording.clear
      const fiber = yield* Effect.fork(client.call("today", failing(2)))
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "ok")
      const span = one(yield* recording.spans)
      assert.deepStrictEqual(
        span.events.map((event) => [event.name, event.attributes]),
        [
          ["retry", { attempt: 1, "error.type": "Busy", "retry.delay_ms": 1000 }],
          ["retry", { attempt: 2, "error.type": "Busy", "retry.delay_ms": 2000 }]
        ]
      )
      assert.strictEqual(span.attributes.get("call.retries"), 2)
      assert.strictEqual(one(yield* recording.lines).message, "weather.today succeeded after 3 attempts (3000 ms)")
      assert.strictEqual((yield* changes("weather")).get("external_call_retries_total today"), 2)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a failure: an error line, the span fails, all attempts are reachable", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: steady } })
      yield* recording.clear
      const fiber = yield* Effect.fork(Effect.flip(client.call("today", failing(9))))
      yield* TestClock.adjust("3 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(RetryPolicy.attemptsOf(error).length, 3)
      const line = one(yield* recording.lines)
      assert.deepStrictEqual(
        [line.level, line.message],
        [LogLevel.Error, "weather.today failed after 3 attempts (3000 ms): Busy: come back"]
      )
      const span = one(yield* recording.spans)
      assert.isTrue(span.status._tag === "Ended" && Exit.isFailure(span.status.exit))
      assert.strictEqual(span.attributes.get("error.type"), "Busy")
      assert.strictEqual((yield* changes("weather")).get("external_calls_total today failure"), 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a slow success is a warning; levels can be set, and a line switched off", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", slowAfter: "2 seconds" })
      const quiet = yield* ExternalClient.make({
        service: "quiet",
        logLevels: { success: LogLevel.None, failure: LogLevel.Warning }
      })
      yield* recording.clear
      const fiber = yield* Effect.fork(client.call("today", Effect.sleep("3 seconds")))
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(fiber)
      const line = one(yield* recording.lines)
      assert.deepStrictEqual([line.level, line.message], [LogLevel.Warning, "weather.today was slow (3000 ms)"])
      yield* recording.clear
      yield* quiet.call("today", Effect.void)
      assert.strictEqual((yield* recording.lines).length, 0)
      yield* Effect.exit(quiet.call("today", Effect.fail(new Refused({ message: "no" }))))
      assert.strictEqual(one(yield* recording.lines).level, LogLevel.Warning)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("interruption ends the span as interrupted, is no failure and no error line", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather" })
      yield* recording.clear
      const fiber = yield* Effect.fork(client.call("today", Effect.never))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* client.inFlight, 1)
      yield* Fiber.interrupt(fiber)
      const span = one(yield* recording.spans)
      assert.isTrue(
        span.status._tag === "Ended" &&
          Exit.isFailure(span.status.exit) &&
          Cause.isInterruptedOnly(span.status.exit.cause)
      )
      assert.deepStrictEqual(
        [span.attributes.get("call.outcome"), span.attributes.get("error.type")],
        ["cancelled", undefined]
      )
      assert.strictEqual(one(yield* recording.lines).level, LogLevel.Debug)
      const seen = yield* changes("weather")
      assert.strictEqual(seen.get("external_calls_total today cancelled"), 1)
      assert.isUndefined(seen.get("external_calls_total today failure"))
      assert.strictEqual(yield* client.inFlight, 0)
      assert.strictEqual(client.breaker === undefined ? -1 : (yield* client.breaker.snapshot).failures, 0)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("an open circuit refuses with a warning, and shows as a metric", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* Effect.repeatN(Effect.exit(client.call("today", failing(99))), 4)
      yield* recording.clear
      const error = yield* Effect.flip(client.call("today", Effect.die("not reached")))
      assert.strictEqual(error._tag, "CircuitOpen")
      const line = one(yield* recording.lines)
      assert.deepStrictEqual(
        [line.level, line.message],
        [
          LogLevel.Warning,
          "weather.today was refused (0 ms): CircuitOpen: weather: the circuit is open, ask again in 30s"
        ]
      )
      yield* TestClock.adjust("30 seconds")
      yield* client.call("today", Effect.void)
      const seen = yield* changes("weather")
      assert.deepStrictEqual(
        [seen.get("external_calls_total today rejected"), seen.get("circuit_breaker_state")],
        [1, -2]
      )
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("checks what came back: the message names the place, never the value", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather" })
      const Report = Schema.Struct({ days: Schema.Array(Schema.Struct({ degrees: Schema.NumberFromString })) })
      const answer = (degrees: unknown) => Effect.succeed({ days: [{ degrees: "20" }, { degrees }] })
      const good = yield* client.call("today", answer("21"), {
        schema: Report,
        transform: (report) => report.days.map((day) => day.degrees)
      })
      assert.deepStrictEqual(good, [20, 21])
      yield* recording.clear
      const bad = yield* Effect.flip(client.call("today", answer({ password: "hunter2" }), { schema: Report }))
      assert.strictEqual(
        bad.message,
        "weather.today: the response is not what was expected (days.1.degrees: expected string)"
      )
      const shown = [
        one(yield* recording.lines).message,
        String(Object.fromEntries(one(yield* recording.spans).attributes))
      ]
      assert.notInclude(shown.join(), "hunter2")
      const thrown = yield* Effect.flip(
        client.call("today", Effect.succeed(1), {
          transform: () => {
            throw new SyntaxError(`Unexpected token in "hunter2"`)
          }
        })
      )
      if (thrown._tag !== "ResponseInvalid") return assert.fail(thrown._tag)
      assert.strictEqual(thrown.stage, "transform")
      for (const text of Shown.everyWay(thrown)) assert.notInclude(text, "hunter2")
      assert.instanceOf(thrown.cause, SyntaxError)
      assert.strictEqual(String(thrown.original), `SyntaxError: Unexpected token in "hunter2"`)
      // The service answered: that is no failure of its circuit, and it would answer the same again.
      assert.strictEqual(client.breaker === undefined ? -1 : (yield* client.breaker.snapshot).counters.failures, 0)
      assert.strictEqual((yield* recording.spans).length, 2)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("secrets in messages stay out of log lines and spans", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      yield* recording.clear
      const message = "GET https://api/?api_key=AIzaSyA1234567890abcdefghijklmn Authorization: Bearer abcdef0123456789"
      const error = yield* Effect.flip(client.call("today", Effect.fail(new Refused({ message }))))
      assert.strictEqual(error.message, message)
      const span = one(yield* recording.spans)
      const exit =
        span.status._tag === "Ended" && Exit.isFailure(span.status.exit) ? span.status.exit.cause : Cause.empty
      const shown = [
        one(yield* recording.lines).message,
        Cause.pretty(exit),
        JSON.stringify(Object.fromEntries(span.attributes)),
        JSON.stringify(span.events.map((event) => [event.name, event.attributes]))
      ].join("\n")
      assert.notInclude(shown, "AIzaSyA1234567890abcdefghijklmn")
      assert.notInclude(shown, "abcdef0123456789")
      assert.include(shown, "Refused")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a defect is a failure with its line, and stays a defect", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather" })
      yield* recording.clear
      const exit = yield* Effect.exit(client.call("today", Effect.die(new TypeError("bug"))))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.strictEqual(one(yield* recording.lines).message, "weather.today failed (0 ms): TypeError: bug")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("settings that cannot work are a defect that says what to write", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(
        ExternalClient.make({ service: "x", policy: { timeout: "1 second", attemptTimeout: "2 seconds" } })
      )
      assert.include(String(exit), "lower attemptTimeout or raise timeout")
    })
  )

  it.scoped("call and stream can be taken out of the client", () =>
    Effect.gen(function* () {
      const { call, stream } = yield* ExternalClient.make({ service: "x" })
      assert.strictEqual(yield* call("a", Effect.succeed(1)), 1)
      assert.strictEqual(Chunk.size(yield* Stream.runCollect(stream("b", Stream.make(1, 2)))), 2)
    })
  )

  it.effect("a client as a tag with a layer", () =>
    Effect.gen(function* () {
      class Weather extends ExternalClient.tag("test/Weather", { service: "weather" })<Weather>() {}
      const program = Effect.flatMap(Weather, (client) => client.call("today", Effect.succeed(21)))
      assert.strictEqual(yield* Effect.provide(program, Weather.layer), 21)
    })
  )
})

describe("ExternalClient.stream", () => {
  const collect = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
    Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

  it.scoped("the span lasts as long as the stream", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather" })
      yield* recording.clear
      const gate = yield* Deferred.make<void>()
      const source = Stream.concat(
        Stream.fromEffect(Effect.as(Effect.sleep("1 second"), 1)),
        Stream.fromEffect(Effect.as(Deferred.await(gate), 2))
      )
      const fiber = yield* Effect.fork(collect(client.stream("watch", source)))
      yield* TestClock.adjust("10 seconds")
      const span = one(yield* recording.spans)
      assert.deepStrictEqual([span.status._tag, yield* client.inFlight], ["Started", 1])
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 2])
      assert.deepStrictEqual([span.status._tag, span.ends, yield* client.inFlight], ["Ended", 1, 0])
      assert.deepStrictEqual(
        [span.attributes.get("call.first_element_ms"), span.attributes.get("call.elements")],
        [1000, 2]
      )
      // Its first element came in time: a long stream is not a slow one.
      assert.strictEqual(one(yield* recording.lines).level, LogLevel.Debug)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("retries before the first element are inside one span; the stream's effects run within it", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: steady } })
      yield* recording.clear
      let attempts = 0
      const source = Stream.unwrap(
        Effect.suspend(() =>
          ++attempts < 3 ? Effect.fail(new Busy({ message: "x" })) : Effect.succeed(Stream.make(1))
        ).pipe(Effect.withSpan("attempt"))
      ).pipe(Stream.concat(Stream.fromEffect(Effect.withSpan(Effect.succeed(2), "later"))))
      const fiber = yield* Effect.fork(collect(client.stream("watch", source)))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 2])
      const [span, ...inside] = yield* recording.spans
      assert.deepStrictEqual(
        inside.map((each) => each.name),
        ["attempt", "attempt", "attempt", "later"]
      )
      assert.isTrue(inside.every((each) => Option.getOrThrow(each.parent).spanId === span?.spanId))
      assert.strictEqual((yield* recording.lines).length, 1)
      assert.strictEqual((yield* changes("weather")).get("external_call_retries_total watch"), 2)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("a failure in mid-stream is typed, counted and logged; an end by the consumer is a success", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: steady } })
      yield* recording.clear
      const broken = Stream.concat(Stream.make(1), Stream.fail(new Busy({ message: "cut" })))
      const error = yield* Effect.flip(collect(client.stream("watch", broken)))
      assert.strictEqual(error._tag, "Busy")
      // Effect's own runtime logs a line for every stream that fails, watched or not.
      const lines = (yield* recording.lines).filter((line) => line.annotations["service"] === "weather")
      assert.strictEqual(one(lines).message, "weather.watch failed (0 ms): Busy: cut")
      assert.strictEqual(client.breaker === undefined ? 0 : (yield* client.breaker.snapshot).failures, 1)
      yield* recording.clear
      yield* collect(Stream.take(client.stream("watch", Stream.concat(Stream.make(1), Stream.never)), 1))
      assert.strictEqual(one(yield* recording.lines).level, LogLevel.Debug)
      assert.strictEqual((yield* changes("weather")).get("external_calls_total watch success"), 1)
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("an interrupted stream is cancelled, an idle one times out", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({ service: "weather" })
      yield* recording.clear
      const stalls = Stream.concat(Stream.make(1), Stream.never)
      const fiber = yield* Effect.fork(collect(client.stream("watch", stalls)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(one(yield* recording.spans).attributes.get("call.outcome"), "cancelled")
      const idle = yield* Effect.fork(
        Effect.flip(collect(client.stream("watch", stalls, { idleTimeout: "5 seconds" })))
      )
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(idle)).message, "weather: the next element took longer than 5000 ms")
      const seen = yield* changes("weather")
      assert.deepStrictEqual(
        [seen.get("external_calls_total watch cancelled"), seen.get("external_calls_total watch failure")],
        [1, 1]
      )
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("what its reader fails with is not the service's failure", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.Recording
      const client = yield* ExternalClient.make({
        service: "weather",
        policy: { breaker: { window: { type: "consecutive", failures: 1 } } }
      })
      yield* recording.clear
      const read = Stream.runForEach(client.stream("watch", Stream.make(1, 2)), () => new Refused({ message: "full" }))
      assert.strictEqual((yield* Effect.flip(read))._tag, "Refused")
      // the runtime writes a line of its own about the reader's fiber
      const ours = (yield* recording.lines).filter((line) => String(line.message).includes("weather."))
      assert.strictEqual(one(ours).level, LogLevel.Debug)
      assert.include(String(one(ours).message), "was cancelled")
      const span = one(yield* recording.spans)
      assert.strictEqual(span.attributes.get("call.outcome"), "cancelled")
      assert.isFalse(span.attributes.has("error.type"))
      const seen = yield* changes("weather")
      assert.deepStrictEqual(
        [seen.get("external_calls_total watch cancelled"), seen.get("external_calls_total watch failure")],
        [1, undefined]
      )
      assert.deepStrictEqual(yield* client.breaker?.state ?? Effect.succeed("none"), "closed")
    }).pipe(Effect.provide(Recording.layer))
  )

  it.scoped("each element is checked and transformed", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "weather" })
      const options = { schema: Schema.NumberFromString, transform: (n: number) => n * 2 }
      assert.deepStrictEqual(yield* collect(client.stream("watch", Stream.make("1", "2"), options)), [2, 4])
      const error = yield* Effect.flip(collect(client.stream("watch", Stream.make("1", "x"), options)))
      assert.strictEqual(error._tag, "ResponseInvalid")
    })
  )
})

describe("health of an ExternalClient", () => {
  it.scoped("up while the circuit is closed, down while it is open, degraded in between", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const client = yield* ExternalClient.make({ service: "weather", policy: { retry: false } })
      const status = Effect.gen(function* () {
        yield* TestClock.adjust("1500 millis")
        const report = yield* health.report()
        return [report.checks["weather"]?.status, report.checks["weather"]?.details?.["circuit"]]
      })
      assert.deepStrictEqual(yield* status, ["up", "closed"])
      yield* Effect.repeatN(Effect.exit(client.call("today", failing(99))), 4)
      assert.deepStrictEqual(yield* status, ["down", "open"])
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* status, ["degraded", "half-open"])
      yield* client.call("today", Effect.void)
      assert.deepStrictEqual(yield* status, ["up", "closed"])
    }).pipe(Effect.provide(Health.layer))
  )

  it.effect("it goes with the client, and can be left out", () =>
    Effect.gen(function* () {
      const health = yield* Health.Health
      const names = Effect.map(health.report(), (report) => Object.keys(report.checks))
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* ExternalClient.make({ service: "weather", health: { name: "the weather", groups: ["outside"] } })
          yield* ExternalClient.make({ service: "hidden", health: false })
          assert.deepStrictEqual(yield* names, ["the weather"])
        })
      )
      assert.deepStrictEqual(yield* names, [])
    }).pipe(Effect.provide(Health.layer))
  )
})

describe("what several clients share", () => {
  it.scoped("a policy made elsewhere", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.make({
        name: "shared",
        retry: false,
        breaker: { window: { type: "consecutive", failures: 1 } }
      })
      const a = yield* ExternalClient.make({ service: "a", policy })
      const b = yield* ExternalClient.make({ service: "b", policy })
      yield* Effect.exit(a.call("x", failing(9)))
      const error = yield* Effect.flip(b.call("y", Effect.void))
      assert.deepStrictEqual(
        [error._tag, error._tag === "CircuitOpen" ? Duration.toMillis(error.retryAfter) : 0],
        ["CircuitOpen", 30_000]
      )
    })
  )

  it.scoped("Recording.assertSilent fails for a client, and passes for what is silent", () =>
    Effect.gen(function* () {
      const client = yield* ExternalClient.make({ service: "loud" })
      const error = yield* Effect.flip(Recording.assertSilent(client.call("x", Effect.void)))
      assert.match(error._tag === "NotSilent" ? error.message : "", /1 spans \(loud.x\), 1 log lines .* metrics/)
      yield* Recording.assertSilent(Effect.repeatN(Effect.yieldNow(), 100))
      assert.strictEqual((yield* Effect.flip(Recording.assertSilent(Effect.fail("own")))) satisfies unknown, "own")
    }).pipe(Effect.provide(Layer.empty))
  )
})
