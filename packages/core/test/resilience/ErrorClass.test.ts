import { HttpClientError, HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, ErrorClass, Timeout } from "@underlay/core"
import { Cause, Data, Duration } from "effect"

const request = HttpClientRequest.get("http://localhost/")

const answered = (status: number, headers: Record<string, string> = {}): HttpClientError.ResponseError =>
  new HttpClientError.ResponseError({
    request,
    response: HttpClientResponse.fromWeb(request, new Response(null, { status, headers })),
    reason: "StatusCode"
  })

const transport = (cause: unknown): HttpClientError.RequestError =>
  new HttpClientError.RequestError({ request, reason: "Transport", cause })

describe("ErrorClass.classify", () => {
  it("statuses of HTTP", () => {
    const of = (status: number) => ErrorClass.classify(answered(status)).class
    assert.strictEqual(of(429), "rate-limited")
    for (const status of [408, 425, 500, 502, 503, 504, 529]) assert.strictEqual(of(status), "transient", `${status}`)
    for (const status of [400, 401, 403, 404, 409, 422, 501, 505]) {
      assert.strictEqual(of(status), "permanent", `${status}`)
    }
  })

  it("Retry-After in seconds, milliseconds and as all three HTTP dates", () => {
    const of = (headers: Record<string, string>) => ErrorClass.classify(answered(503, headers))
    assert.deepStrictEqual(of({ "retry-after": "7" }).retryAfter, Duration.seconds(7))
    assert.deepStrictEqual(of({ "retry-after": "0.5" }).retryAfter, Duration.millis(500))
    assert.deepStrictEqual(of({ "retry-after-ms": "250", "retry-after": "1" }).retryAfter, Duration.millis(250))
    assert.deepStrictEqual(of({ "x-ms-retry-after-ms": "1500" }).retryAfter, Duration.millis(1500))
    assert.deepStrictEqual(of({ "x-amz-retry-after": "1500", "retry-after": "9" }).retryAfter, Duration.millis(1500))
    assert.deepStrictEqual(of({ "x-amz-retry-after": "soon", "retry-after": "9" }).retryAfter, Duration.seconds(9))
    const at = Date.UTC(1994, 10, 6, 8, 49, 37)
    assert.strictEqual(of({ "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT" }).retryAt, at)
    assert.strictEqual(of({ "retry-after": "Sunday, 06-Nov-94 08:49:37 GMT" }).retryAt, at)
    assert.strictEqual(of({ "retry-after": "Sun Nov  6 08:49:37 1994" }).retryAt, at)
  })

  it("a date is read by the service's own clock where it tells it", () => {
    const found = ErrorClass.classify(
      answered(503, { "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", date: "Sun, 06 Nov 1994 08:49:30 GMT" })
    )
    assert.deepStrictEqual(found.retryAfter, Duration.seconds(7))
    assert.isUndefined(found.retryAt)
  })

  it("a Retry-After that cannot be read is as good as none", () => {
    for (const value of ["soon", "-5", "", "1e3", "NaN", "12 seconds", "Infinity"]) {
      const found = ErrorClass.classify(answered(503, { "retry-after": value }))
      assert.strictEqual(found.class, "transient", value)
      assert.isUndefined(found.retryAfter, value)
      assert.isUndefined(found.retryAt, value)
    }
  })

  it("a negative pushback of gRPC forbids another attempt", () => {
    assert.strictEqual(ErrorClass.classify(answered(503, { "grpc-retry-pushback-ms": "-1" })).class, "permanent")
  })

  it("failures before a connection stood prove that nothing was sent", () => {
    for (const code of ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]) {
      const found = ErrorClass.classify(transport(Object.assign(new Error("x"), { code })))
      assert.deepStrictEqual([found.class, found.sent], ["transient", false], code)
    }
    const reset = ErrorClass.classify(transport(Object.assign(new Error("x"), { code: "ECONNRESET" })))
    assert.deepStrictEqual([reset.class, reset.sent], ["transient", undefined])
  })

  it("fetch hides the code in the cause, happy eyeballs in a list", () => {
    const refused = Object.assign(new Error("connect"), { code: "ECONNREFUSED" })
    const reset = Object.assign(new Error("reset"), { code: "ECONNRESET" })
    const fetched = ErrorClass.classify(transport(new TypeError("fetch failed", { cause: refused })))
    assert.deepStrictEqual([fetched.class, fetched.sent], ["transient", false])
    assert.strictEqual(ErrorClass.classify(new AggregateError([refused, refused])).sent, false)
    assert.isUndefined(ErrorClass.classify(new AggregateError([refused, reset])).sent)
  })

  it("a broken body is transient, a malformed one comes again", () => {
    const response = HttpClientResponse.fromWeb(request, new Response("{"))
    const decode = (cause: unknown) =>
      ErrorClass.classify(new HttpClientError.ResponseError({ request, response, reason: "Decode", cause })).class
    assert.strictEqual(decode(new SyntaxError("Unexpected end of JSON input")), "permanent")
    assert.strictEqual(decode(new TypeError("terminated")), "transient")
  })

  it("what an error says of itself comes first", () => {
    class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter: Duration.Duration }> {
      get isRetryable() {
        return true
      }
    }
    const found = ErrorClass.classify(new Busy({ retryAfter: Duration.seconds(3) }))
    assert.deepStrictEqual([found.class, found.retryAfter], ["transient", Duration.seconds(3)])
    assert.strictEqual(ErrorClass.classify({ isRetryable: false, status: 503 }).class, "permanent")
    assert.strictEqual(ErrorClass.classify({ errorClass: "rate-limited", isRetryable: false }).class, "rate-limited")
  })

  it("errors of clients that carry a status and headers", () => {
    const found = ErrorClass.classify({ status: 429, headers: new Headers({ "retry-after": "2" }) })
    assert.deepStrictEqual([found.class, found.retryAfter], ["rate-limited", Duration.seconds(2)])
    const plain = ErrorClass.classify({ statusCode: 503, response: { headers: { "retry-after": "4" } } })
    assert.deepStrictEqual([plain.class, plain.retryAfter], ["transient", Duration.seconds(4)])
  })

  it("aborts, timeouts, our own refusals", () => {
    const controller = new AbortController()
    controller.abort()
    assert.strictEqual(ErrorClass.classify(controller.signal.reason).class, "cancelled")
    assert.strictEqual(ErrorClass.classify(new Cause.TimeoutException("late")).class, "transient")
    assert.strictEqual(
      ErrorClass.classify(new Timeout.CallTimeout({ service: "s", scope: "attempt", limitMillis: 1 })).class,
      "transient"
    )
    const open = ErrorClass.classify(new CircuitBreaker.CircuitOpen({ service: "s", retryAfter: Duration.seconds(9) }))
    assert.deepStrictEqual(
      [open.class, open.rejection, open.sent, open.retryAfter],
      ["transient", true, false, Duration.seconds(9)]
    )
  })

  it("the cause of an unknown error is asked, and a circle of causes ends", () => {
    const inner = Object.assign(new Error("x"), { code: "ECONNRESET" })
    assert.strictEqual(ErrorClass.classify(new Error("outer", { cause: inner })).class, "transient")
    const circle: { cause?: unknown } = {}
    circle.cause = circle
    assert.deepStrictEqual(ErrorClass.classify(circle), { class: "permanent", assumed: true })
    for (const odd of [undefined, null, "text", 42]) {
      assert.deepStrictEqual(ErrorClass.classify(odd), { class: "permanent", assumed: true })
    }
  })
})

describe("exhausted errors", () => {
  it("are known by themselves and by what they caused", () => {
    const error = Object.assign(new Error("x"), { isRetryable: true })
    assert.isTrue(ErrorClass.isRetryable(error))
    assert.strictEqual(ErrorClass.markExhausted(error), error)
    assert.isFalse(ErrorClass.isRetryable(error))
    assert.isTrue(ErrorClass.isExhausted(new Error("outer", { cause: error })))
    assert.isFalse(ErrorClass.isExhausted(new Error("other")))
  })

  it("a host that goes out of reach behind a connection that stood: what was asked may have been done", () => {
    for (const code of ["EHOSTUNREACH", "ENETUNREACH"]) {
      assert.deepStrictEqual(ErrorClass.classify({ code, syscall: "connect" }), { class: "transient", sent: false })
      for (const syscall of ["read", "write"]) {
        assert.deepStrictEqual(ErrorClass.classify({ code, syscall }), { class: "transient" })
      }
    }
  })
})
