import { assert, describe, it } from "@effect/vitest"
import { Cause, type Console, Effect, FastCheck, Redacted } from "effect"
import * as Correlation from "../../src/operations/Correlation.ts"
import * as Logging from "../../src/operations/Logging.ts"

const capture = Effect.map(Effect.console, (real) => {
  const out: Array<string> = []
  const err: Array<string> = []
  const console: Console.Console = {
    ...real,
    unsafe: {
      ...real.unsafe,
      log: (...args: ReadonlyArray<unknown>) => {
        out.push(args.join(" "))
      },
      error: (...args: ReadonlyArray<unknown>) => {
        err.push(args.join(" "))
      }
    }
  }
  return { out, err, console }
})

const logged = (options: Logging.Options, effect: Effect.Effect<unknown>) =>
  Effect.gen(function* () {
    const { console, err, out } = yield* capture
    yield* effect.pipe(Effect.provide(Logging.layer(options)), Effect.withConsole(console))
    return { out, err }
  })

describe("Logging", () => {
  it.effect("writes one JSON object a line, with the correlation id that is current at the call", () =>
    Effect.gen(function* () {
      const { err, out } = yield* logged(
        {},
        Effect.gen(function* () {
          yield* Effect.log("plain")
          yield* Effect.logWarning("two\nlines", { rows: 3, password: "hunter2" }).pipe(
            Effect.annotateLogs({ tenant: "acme", apiKey: "hunter2", token: Redacted.make("hunter2") }),
            Effect.withLogSpan("work"),
            Effect.withSpan("span"),
            Correlation.within("abc")
          )
          yield* Effect.logError("failed", Cause.fail(new Error("postgres://u:hunter2@db is away")))
          yield* Effect.logDebug("not shown")
        })
      )
      assert.deepStrictEqual(out, [])
      assert.strictEqual(err.length, 3)
      const [plain, warning, error] = err.map((line) => JSON.parse(line))
      assert.deepStrictEqual(plain, {
        timestamp: "1970-01-01T00:00:00.000Z",
        level: "INFO",
        message: "plain",
        fiber: plain.fiber
      })
      assert.strictEqual(warning.level, "WARN")
      assert.strictEqual(warning.message, "two\nlines")
      assert.strictEqual(warning.correlationId, "abc")
      assert.isString(warning.traceId)
      assert.isString(warning.spanId)
      assert.deepStrictEqual(warning.data, { rows: 3, password: "<redacted>" })
      assert.deepStrictEqual(warning.annotations, { tenant: "acme", apiKey: "<redacted>", token: "<redacted>" })
      assert.deepStrictEqual(warning.spans, { work: 0 })
      assert.include(error.cause, "postgres://u:<redacted>@db is away")
      assert.notInclude(err.join("\n"), "hunter2")
    })
  )

  it.effect("concurrent calls each have their own id on their lines", () =>
    Effect.gen(function* () {
      const { err } = yield* logged(
        { level: "Debug" },
        Effect.forEach(
          ["a", "b", "c"],
          (id) => Effect.yieldNow().pipe(Effect.andThen(Effect.logDebug(`from ${id}`)), Correlation.within(id)),
          { concurrency: "unbounded" }
        )
      )
      assert.sameMembers(
        err.map((line) => `${JSON.parse(line).message} ${JSON.parse(line).correlationId}`),
        ["from a a", "from b b", "from c c"]
      )
    })
  )

  it.effect("text is one line, and what is logged cannot pass for another", () =>
    Effect.gen(function* () {
      const { err, out } = yield* logged(
        { format: "text", destination: "stdout" },
        Effect.gen(function* () {
          yield* Effect.log("ready").pipe(
            Effect.annotateLogs({ port: 8080, name: "two words" }),
            Correlation.within("abc")
          )
          yield* Effect.log("a\n1970-01-01T00:00:00.000Z ERROR forged\u001b[31m", Cause.fail(new Error("x")))
        })
      )
      assert.deepStrictEqual(err, [])
      assert.strictEqual(out[0], '1970-01-01T00:00:00.000Z INFO  ready name="two words" port=8080 correlationId=abc')
      assert.strictEqual(out.length, 2)
      assert.notInclude(out[1] ?? "", "\n")
      assert.notInclude(out[1] ?? "", "\u001b")
      assert.include(out[1] ?? "", "a\\u000a1970")
    })
  )

  it.effect("whatever is logged is one line, and JSON stays JSON", () =>
    Effect.gen(function* () {
      const hostile = Object.defineProperty({}, "boom", {
        enumerable: true,
        get() {
          throw new Error("no")
        }
      })
      const values = [
        hostile,
        ...FastCheck.sample(FastCheck.anything({ withBigInt: true, withNullPrototype: true }), 50)
      ]
      const json = yield* logged(
        {},
        Effect.forEach(values, (value) => Effect.log(value), { discard: true })
      )
      const text = yield* logged(
        { format: "text" },
        Effect.forEach(values, (value) => Effect.log(value), { discard: true })
      )
      assert.strictEqual(json.err.length, values.length)
      assert.strictEqual(text.err.length, values.length)
      for (const line of json.err) {
        assert.notInclude(line, "\n")
        assert.isObject(JSON.parse(line))
      }
      for (const line of text.err) {
        assert.notInclude(line, "\n")
      }
      assert.include(json.err[0] ?? "", "could not be written")
    })
  )
})
