/** What drivers throw repeats rows and keys. It is reachable, and nothing that prints an error prints it. */
import * as NodeAssert from "node:assert/strict"
import * as Util from "node:util"
import { MessageChannel } from "node:worker_threads"
import { HttpClientError, HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { assert, describe, expect, it } from "@effect/vitest"
import * as Shown from "@underlay/servers/Shown"
import { Cause, Data, Effect, Exit, ParseResult, Schema } from "effect"
import { ConnectionError } from "../../src/connection/Connection.ts"
import { withhold } from "../../src/connection/Withheld.ts"
import * as ErrorClass from "../../src/resilience/ErrorClass.ts"

class MongoServerError extends Error {
  readonly labels = new Set(["RetryableWriteError"])
  readonly #hidden = "hush"
  override get name() {
    return "MongoServerError"
  }
  hasErrorLabel(label: string): boolean {
    return this.#hidden === "hush" && this.labels.has(label)
  }
}

class SqlError extends Data.TaggedError("SqlError")<{ readonly cause: unknown; readonly message: string }> {}

const unfit = ParseResult.decodeUnknownEither(Schema.Struct({ age: Schema.Number }))({ age: "hush" })

const request = HttpClientRequest.post("http://127.0.0.1/hush?key=hush").pipe(
  HttpClientRequest.bodyText("hush", "application/json"),
  HttpClientRequest.setHeaders({ authorization: "Bearer hush", "x-other": "hush" })
)

const failedIn = (name: string, error: object) => {
  const exit = Effect.runSyncExit(Effect.withSpan(Effect.fail(error), name))
  return Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
}

const drivers = {
  "a duplicate key of pg": Object.assign(new Error('duplicate key value violates unique constraint "users" hush'), {
    name: "error",
    code: "23505",
    detail: "Key (email)=(hush@example.com) already exists.",
    where: "COPY users, line 1: hush"
  }),
  "E11000 of MongoDB": Object.assign(new MongoServerError('E11000 duplicate key error dup key: { email: "hush" }'), {
    code: 11000,
    keyValue: { email: "hush" },
    errorResponse: { keyValue: { email: "hush" } }
  }),
  "a refusal of DynamoDB": new Error("The provided key element does not match the schema: hush"),
  "a file that is not there": Object.assign(new Error("ENOENT: no such file or directory, open '/data/hush'"), {
    code: "ENOENT",
    syscall: "open",
    path: "/data/hush"
  }),
  "one inside another": new Error("hush", { cause: Object.assign(new Error("hush"), { row: ["hush"] }) }),
  "one whose code is words": Object.assign(new Error("hush"), { code: "no hush" }),
  "one whose name is words": Object.assign(new Error("hush"), { name: "no hush" }),
  "one whose cause is a text": new Error("hush", { cause: "hush" }),
  "one with texts for errors": Object.assign(new Error("hush"), { errors: ["hush"] }),
  "one with a tag whose cause is a text": new SqlError({ message: "Failed to execute", cause: "hush" }),
  "a row with a name": { name: "hush", message: "hush" },
  "words between those of what was withheld": new Error(
    `its words: hush; ${String(Reflect.get(Object(withhold(new Error("hush"))), "message"))}`
  ),
  "several at once": new AggregateError([new Error("hush")], "hush"),
  "no Error": { message: "hush", rows: ["hush"] },
  "words that look like a stack": new Error("a row:\n    at hush"),
  "an error with a tag around one of a driver": new SqlError({
    message: "Failed to execute",
    cause: Object.assign(new Error("hush"), { detail: "hush" })
  }),
  "what did not fit a schema": unfit._tag === "Left" ? new ParseResult.ParseError({ issue: unfit.left }) : undefined,
  "what Effect does not know": new Cause.UnknownException(new Error("hush"), "it failed: hush"),
  "a request that failed": new HttpClientError.RequestError({ request, reason: "Transport", cause: new Error("hush") }),
  "a response that is refused": new HttpClientError.ResponseError({
    request,
    response: HttpClientResponse.fromWeb(
      request,
      new Response("hush", { status: 400, headers: { "x-other": "hush" } })
    ),
    reason: "StatusCode"
  }),
  "a request that failed in a span": failedIn(
    "POST",
    new HttpClientError.RequestError({ request, reason: "Transport", description: "hush" })
  ),
  "one that failed in a span": failedIn("query", Object.assign(new Error("hush"), { row: "hush" })),
  "one with a tag that failed in a span": failedIn(
    "query",
    new SqlError({ message: "Failed to execute", cause: new Error("hush") })
  ),
  "a cause of Effect": Cause.fail(new Error("hush")),
  "a failure of Effect": Exit.fail({ row: "hush" }),
  "a function": () => "hush",
  "what cannot even be read": new Proxy(new Error("hush"), {
    get: (target, name) => {
      if (name === "message" || name === "stack") throw new Error("hush")
      return Reflect.get(target, name)
    }
  })
}

const errorOf = (cause: unknown) =>
  new ConnectionError({
    reason: "ConstraintViolation",
    kind: "postgres",
    connection: "orders",
    method: "execute",
    description: "there is one like it already",
    cause
  })

const printed = (error: ConnectionError): ReadonlyArray<string> => [
  ...Shown.everyWay(error),
  Util.inspect(Reflect.get(Object(error.cause), "errors"), { depth: 20 }),
  Util.inspect([error, error.cause], { depth: 20, showHidden: true, customInspect: false }),
  JSON.stringify(Schema.encodeSync(ConnectionError)(error)),
  JSON.stringify({ ...error, cause: { ...(error.cause as object) } })
]

describe("ConnectionError.cause", () => {
  for (const [what, thrown] of Object.entries(drivers)) {
    it(`${what}: nothing of it is printed`, () => {
      for (const text of printed(errorOf(thrown))) assert.notInclude(text, "hush")
    })
  }

  it("is read by the names of its fields, is what it was, and is there whole as `original`", () => {
    const pg = errorOf(drivers["a duplicate key of pg"])
    const mongo = errorOf(drivers["E11000 of MongoDB"])
    assert.instanceOf(pg.cause, Error)
    assert.strictEqual(Reflect.get(pg.cause, "code"), "23505")
    assert.strictEqual(Reflect.get(pg.cause, "detail"), "Key (email)=(hush@example.com) already exists.")
    assert.instanceOf(mongo.cause, MongoServerError)
    if (mongo.cause instanceof MongoServerError) {
      assert.isTrue(mongo.cause.hasErrorLabel("RetryableWriteError"))
      assert.isTrue("keyValue" in mongo.cause)
    }
    assert.strictEqual(pg.original, drivers["a duplicate key of pg"])
    assert.strictEqual(mongo.original, drivers["E11000 of MongoDB"])
    // Handed on to another error, it is what it was.
    assert.strictEqual(errorOf(pg.cause).original, pg.original)
    assert.isUndefined(new ConnectionError({ ...pg }).original)
    const other = pg.with({ method: "COMMIT", sent: false })
    assert.strictEqual(other.original, pg.original)
    assert.strictEqual(other.cause, pg.cause)
    assert.deepInclude({ ...other }, { ...pg, method: "COMMIT", sent: false })
    assert.include(other.message, "COMMIT")
    assert.isUndefined(errorOf(undefined).with({ method: "other" }).cause)
  })

  for (const [what, thrown] of Object.entries(drivers)) {
    it(`${what}: a clone of it, and what a worker gets, say what the error says`, async () => {
      const error = errorOf(thrown)
      const { port1, port2 } = new MessageChannel()
      const posted = new Promise<unknown>((resolve) => port2.once("message", resolve))
      port1.postMessage(error)
      const got = await posted
      port1.close()
      for (const clone of [structuredClone(error), got]) {
        assert.instanceOf(clone, Error)
        assert.strictEqual(clone.message, error.message)
        assert.strictEqual(clone.stack, error.stack)
        assert.instanceOf(clone.cause, Error)
        assert.strictEqual(clone.cause.message, Reflect.get(Object(error.cause), "message"))
        assert.strictEqual(clone.cause.stack, Reflect.get(Object(error.cause), "stack"))
      }
    })
  }

  it("errors that say the same are equal, and others are not", () => {
    const refused = (code: string, words = "hush") => errorOf(Object.assign(new Error(words), { code }))
    expect(refused("1")).toStrictEqual(refused("1"))
    expect(refused("1").cause).toStrictEqual(refused("1", "other words").cause)
    expect(refused("1").cause).not.toEqual(refused("2").cause)
    NodeAssert.deepStrictEqual(refused("1").cause, refused("1").cause)
    const mongo = () => errorOf(new MongoServerError("hush")).cause
    NodeAssert.notDeepStrictEqual(mongo(), errorOf(new Error("hush")).cause)
    expect(mongo()).toStrictEqual(mongo())
    expect(mongo()).not.toEqual(errorOf(new Error("hush")).cause)
    const differ = Effect.flip(Effect.try(() => expect(mongo()).toEqual(refused("2").cause))).pipe(Effect.runSync)
    assert.notInclude(Util.inspect(differ.error, { depth: 20 }), "hush")
  })

  it("a stack that is captured on it anew holds none of its words", () => {
    const cause = Object(errorOf(drivers["a duplicate key of pg"]).cause)
    Error.captureStackTrace(cause)
    assert.include(Reflect.get(cause, "stack"), "Withheld.test.ts")
    assert.notInclude(Reflect.get(cause, "stack"), "hush")
  })

  it("in which span it failed is seen behind it", () => {
    const symbol = Symbol.for("effect/SpanAnnotation")
    const cause = Object(errorOf(drivers["one that failed in a span"]).cause)
    assert.isTrue(symbol in cause)
    assert.strictEqual(Reflect.get(Object(Reflect.get(cause, symbol)), "name"), "query")
    assert.include(
      Cause.pretty(Cause.fail(errorOf(drivers["one that failed in a span"])), { renderErrorCause: true }),
      "at query"
    )
    assert.isFalse(symbol in Object(errorOf(new Error("hush")).cause))
  })

  it("one that failed in a span, which Effect hands on as a proxy, is posted as its schema writes it", () => {
    const error = failedIn("query", errorOf(drivers["a duplicate key of pg"]))
    assert.instanceOf(error, ConnectionError)
    assert.throws(() => structuredClone(error))
    const posted = structuredClone(Schema.encodeSync(ConnectionError)(error))
    const received = Schema.decodeSync(ConnectionError)(posted)
    assert.deepStrictEqual([received.message, received.reason], [error.message, error.reason])
    assert.strictEqual(String(received.cause), String(error.cause))
    for (const text of [JSON.stringify(posted), ...printed(received)]) assert.notInclude(text, "hush")
  })

  it("an error of platform is known as one, and what it means too", () => {
    const { cause } = errorOf(drivers["a request that failed in a span"])
    assert.isTrue(HttpClientError.isHttpClientError(cause))
    assert.instanceOf(cause, HttpClientError.RequestError)
    assert.strictEqual(Reflect.get(Object(cause), "request"), request)
    assert.strictEqual(ErrorClass.classify(cause).class, "transient")
  })

  it("goes through its schema and back, and what comes back is withheld as well", () => {
    const encoded = Schema.encodeSync(ConnectionError)(errorOf(drivers["a duplicate key of pg"]))
    const decoded = Schema.decodeUnknownSync(ConnectionError)({ ...encoded, cause: { message: "hush", name: "Error" } })
    assert.instanceOf(decoded, ConnectionError)
    assert.strictEqual(decoded.reason, errorOf(undefined).reason)
    for (const text of printed(decoded)) assert.notInclude(text, "hush")
    assert.strictEqual((decoded.original as Error).message, "hush")
  })

  it("is one for each error, however often it is asked for, and takes what is written to it", () => {
    const cause = errorOf(drivers["one inside another"]).cause as Error
    assert.strictEqual(cause.cause, cause.cause)
    assert.strictEqual(errorOf(drivers["one inside another"]).cause, cause)
    const thrown = new Error("hush")
    Object.assign(errorOf(thrown).cause as Error, { stack: "Error: other", attempt: 2 })
    assert.deepStrictEqual([Reflect.get(thrown, "stack"), Reflect.get(thrown, "attempt")], ["Error: other", 2])
  })

  it("that retries were spent on it is known behind it", () => {
    const thrown = ErrorClass.markExhausted(new Error("hush"))
    assert.isTrue(ErrorClass.isExhausted(errorOf(thrown)))
    assert.isTrue(ErrorClass.isExhausted(errorOf(new Error("outer", { cause: thrown }))))
    assert.isFalse(ErrorClass.isExhausted(errorOf(new Error("other"))))
    // Who goes on with the cause alone marks what stands for it.
    const { cause } = errorOf(new Error("hush"))
    assert.isTrue(ErrorClass.isExhausted(ErrorClass.markExhausted(cause)))
    assert.isTrue(ErrorClass.isExhausted(errorOf(cause)))
  })

  it("an error with a tag keeps its own words", () => {
    const error = errorOf(drivers["an error with a tag around one of a driver"])
    assert.instanceOf(error.cause, SqlError)
    assert.strictEqual(String(error.cause), "SqlError: Failed to execute")
    assert.strictEqual(Reflect.get(Object(Reflect.get(Object(error.cause), "cause")), "detail"), "hush")
    const harmless = new SqlError({ message: "Failed", cause: undefined })
    assert.strictEqual(errorOf(harmless).cause, harmless)
  })

  it("tells its name, its code and where it came from; errors of connections, and ours, are shown as they are", () => {
    const shown = Cause.pretty(Cause.fail(errorOf(drivers["a duplicate key of pg"])), { renderErrorCause: true })
    assert.include(shown, "[23505]")
    assert.include(shown, "Withheld.test.ts")
    const refused = Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:1"), {
      code: "ECONNREFUSED",
      syscall: "connect"
    })
    assert.include(Util.inspect(errorOf(refused)), "127.0.0.1:1")
    const inner = errorOf(undefined)
    assert.strictEqual(errorOf(inner).cause, inner)
  })
})
