/**
 * Classes of errors to the last step: every code by name, the bounds of statuses, circles, and what is left out.
 */
import { HttpClientError, HttpClientRequest, HttpClientResponse } from "@effect/platform"
import { assert, describe, it, vi } from "@effect/vitest"
import { ErrorClass } from "@underlay/core"
import { Duration } from "effect"
import * as RetryAfter from "../../src/internal/resilience/retryAfter.ts"

const request = HttpClientRequest.get("http://localhost/")
const unknown: ErrorClass.Classification = { class: "permanent", assumed: true }

describe("codes of Node and undici", () => {
  it("before a connection stood: nothing was sent", () => {
    for (const code of [
      "ECONNREFUSED",
      "ENOTFOUND",
      "EAI_AGAIN",
      "EHOSTUNREACH",
      "ENETUNREACH",
      "EADDRNOTAVAIL",
      "UND_ERR_CONNECT_TIMEOUT"
    ]) {
      assert.deepStrictEqual(ErrorClass.classify({ code }), { class: "transient", sent: false }, code)
    }
  })

  it("of a connection that broke: nobody knows", () => {
    for (const code of [
      "ECONNRESET",
      "ECONNABORTED",
      "EPIPE",
      "ETIMEDOUT",
      "ESOCKETTIMEDOUT",
      "EHOSTDOWN",
      "ENETDOWN",
      "ENETRESET",
      "UND_ERR_SOCKET",
      "UND_ERR_HEADERS_TIMEOUT",
      "UND_ERR_BODY_TIMEOUT",
      "UND_ERR_RESPONSE_TIMEOUT"
    ]) {
      assert.deepStrictEqual(ErrorClass.classify({ code }), { class: "transient" }, code)
    }
  })

  it("a code that says nothing leaves the word to the status", () => {
    assert.deepStrictEqual(ErrorClass.classify({ code: "ERR_BAD_REQUEST", status: 404 }), { class: "permanent" })
    assert.deepStrictEqual(ErrorClass.classify({ code: 503 }), unknown)
  })
})

describe("statuses", () => {
  it("are those of failures, as numbers", () => {
    for (const status of [200, 399, 600, Number.NaN]) assert.deepStrictEqual(ErrorClass.classify({ status }), unknown)
    assert.deepStrictEqual(ErrorClass.classify({ statusCode: "503" }), unknown)
    assert.deepStrictEqual(ErrorClass.classify({ status: 400 }), { class: "permanent" })
    assert.deepStrictEqual(ErrorClass.classify({ status: 503 }), { class: "transient" })
    assert.deepStrictEqual(ErrorClass.classify({ statusCode: 599 }), { class: "transient" })
  })

  it("what is permanent has no time at which to come again", () => {
    assert.deepStrictEqual(ErrorClass.fromStatus(404, { "retry-after": "7" }), { class: "permanent" })
    assert.deepStrictEqual(ErrorClass.fromStatus(404), { class: "permanent" })
  })

  it("headers come as a list of each, behind a method, or as nothing of use", () => {
    const waits = (headers: unknown) => ErrorClass.classify({ status: 503, headers }).retryAfter
    assert.deepStrictEqual(ErrorClass.fromStatus(503, { "retry-after": ["7"] }).retryAfter, Duration.seconds(7))
    assert.deepStrictEqual(waits(new Map([["retry-after", "3"]])), Duration.seconds(3))
    assert.deepStrictEqual(waits({ get: "no method", "retry-after": "4" }), Duration.seconds(4))
    for (const odd of ["retry-after: 5", 5, null, undefined]) assert.isUndefined(waits(odd))
    assert.deepStrictEqual(ErrorClass.classify({ status: 503, response: { headers: null } }), { class: "transient" })
  })

  it("headers whose values are of other types say nothing, and nothing is thrown", () => {
    for (const odd of [7, [7], [[]], [], {}, null, true]) {
      const headers = { "retry-after": odd }
      for (const each of [headers, new Map(Object.entries(headers))]) {
        const found = ErrorClass.classify({ status: 503, headers: each })
        assert.strictEqual(found.class, "transient")
        assert.isUndefined(found.retryAfter)
        assert.isUndefined(found.retryAt)
      }
    }
  })

  it("the service's own clock is heard also where the headers are behind a method", () => {
    const headers = {
      "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT",
      date: "Sun, 06 Nov 1994 08:49:30 GMT"
    }
    for (const each of [headers, new Headers(headers), new Map(Object.entries(headers))]) {
      assert.deepStrictEqual(ErrorClass.classify({ status: 503, headers: each }).retryAfter, Duration.seconds(7))
    }
  })
})

describe("Retry-After", () => {
  it("is read with spaces around it, and with every decimal", () => {
    const of = (headers: Record<string, string>) => RetryAfter.fromHeaders(headers)
    assert.deepStrictEqual(of({ "retry-after": " 7 " }), { _tag: "After", millis: 7_000 })
    assert.deepStrictEqual(of({ "retry-after": "0.25" }), { _tag: "After", millis: 250 })
    assert.deepStrictEqual(of({ "grpc-retry-pushback-ms": "100" }), { _tag: "After", millis: 100 })
    assert.deepStrictEqual(of({ "grpc-retry-pushback-ms": "-1" }), { _tag: "Never" })
    const date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert.deepStrictEqual(of({ "retry-after": date }), { _tag: "At", millis: Date.UTC(1994, 10, 6, 8, 49, 37) })
    assert.deepStrictEqual(of({ "retry-after": date, date }), { _tag: "After", millis: 0 })
    assert.isUndefined(of({ "retry-after": `at ${date}` }))
    for (const empty of ["", " "]) {
      assert.deepStrictEqual(of({ "retry-after-ms": empty, "retry-after": "1" }), { _tag: "After", millis: 1_000 })
      assert.deepStrictEqual(of({ "retry-after": date, date: empty })?._tag, "At")
    }
  })

  it("a date without a zone is UTC wherever this runs, and one with a zone is of that zone", () => {
    const { parse } = Date
    const at = Date.UTC(1994, 10, 6, 8, 49, 37)
    // As on a machine in New York.
    const spy = vi
      .spyOn(Date, "parse")
      .mockImplementation((text) => parse(/(?:GMT|\+\d{4})$/.test(text) ? text : `${text} -0500`))
    try {
      assert.strictEqual(Date.parse("Sun Nov  6 08:49:37 1994"), at + 5 * 3_600_000)
      assert.strictEqual(RetryAfter.httpDate("Sun Nov  6 08:49:37 1994"), at)
      assert.strictEqual(RetryAfter.httpDate("Sun, 06 Nov 1994 08:49:37 GMT"), at)
      assert.strictEqual(RetryAfter.httpDate("Sunday, 06-Nov-94 08:49:37 GMT"), at)
      assert.strictEqual(RetryAfter.httpDate("Sun, 06 Nov 1994 08:49:37 +0000"), at)
      assert.strictEqual(RetryAfter.httpDate("Sun, 06 Nov 1994 10:49:37 +0200"), at)
    } finally {
      spy.mockRestore()
    }
  })
})

describe("errors of HttpClient", () => {
  it("a request that could not be made was not sent, and comes out the same again", () => {
    for (const reason of ["Encode", "InvalidUrl"] as const) {
      assert.deepStrictEqual(
        ErrorClass.classify(new HttpClientError.RequestError({ request, reason, cause: { code: "ECONNRESET" } })),
        { class: "permanent", sent: false }
      )
    }
  })

  it("a body that is missing is missing the next time too", () => {
    const response = HttpClientResponse.fromWeb(request, new Response(null))
    const error = new HttpClientError.ResponseError({ request, response, reason: "EmptyBody", cause: { status: 503 } })
    assert.deepStrictEqual(ErrorClass.classify(error), { class: "permanent" })
  })
})

describe("what an error says of itself", () => {
  it("is kept, and nothing is added to it", () => {
    const classify = ErrorClass.classify
    assert.deepStrictEqual(classify({ errorClass: "transient" }), { class: "transient" })
    assert.deepStrictEqual(classify({ errorClass: "permanent", isRetryable: true }), { class: "permanent" })
    assert.deepStrictEqual(classify({ errorClass: "cancelled", isRetryable: true }), { class: "cancelled" })
    assert.deepStrictEqual(classify({ errorClass: "odd", isRetryable: true }), { class: "transient" })
    assert.deepStrictEqual(classify({ isRetryable: true, sent: "no" }), { class: "transient" })
    assert.strictEqual(classify({ isRetryable: true, sent: false }).sent, false)
    assert.strictEqual(classify({ isRetryable: true, sent: true }).sent, true)
    const retryAfter = Duration.seconds(1)
    assert.deepStrictEqual(classify({ isRetryable: true, retryAfter }), { class: "transient", retryAfter })
    assert.isUndefined(classify({ isRetryable: true, retryAfter: 5 }).retryAfter)
    assert.deepStrictEqual(classify({ name: "TimeoutError" }), { class: "transient" })
    assert.deepStrictEqual(classify({ name: "AbortError" }), { class: "cancelled" })
  })

  it("isRetryable: transient and rate-limited, and nothing else", () => {
    assert.isTrue(ErrorClass.isRetryable({ errorClass: "transient" }))
    assert.isTrue(ErrorClass.isRetryable({ status: 429 }))
    assert.isFalse(ErrorClass.isRetryable({ status: 404 }))
    assert.isFalse(ErrorClass.isRetryable({ errorClass: "cancelled" }))
    assert.isFalse(ErrorClass.isRetryable(undefined))
  })
})

describe("errors in errors", () => {
  it("of several, the first that is known counts; that nothing was sent only if it holds for all", () => {
    const refused = { code: "ECONNREFUSED" }
    const reset = { code: "ECONNRESET" }
    assert.deepStrictEqual(ErrorClass.classify({ errors: [{}, refused] }), { class: "transient" })
    assert.deepStrictEqual(ErrorClass.classify({ errors: [refused, reset] }), { class: "transient" })
    assert.deepStrictEqual(ErrorClass.classify({ errors: [refused, refused] }), { class: "transient", sent: false })
    assert.deepStrictEqual(ErrorClass.classify({ errors: [{}, {}] }), unknown)
    assert.deepStrictEqual(ErrorClass.classify({ errors: [], cause: reset }), { class: "transient" })
  })

  it("UnknownException is what it wraps, of whichever copy of Effect it is", () => {
    assert.deepStrictEqual(ErrorClass.classify({ _tag: "UnknownException", error: { status: 503 } }), {
      class: "transient"
    })
    assert.deepStrictEqual(ErrorClass.classify({ _tag: "Other", error: { status: 503 } }), unknown)
  })

  it("circles end, through whatever they go", () => {
    const wrapped: { _tag: string; error?: unknown } = { _tag: "UnknownException" }
    wrapped.error = wrapped
    assert.deepStrictEqual(ErrorClass.classify(wrapped), unknown)
    const many: { errors: Array<unknown> } = { errors: [] }
    many.errors.push(many)
    assert.deepStrictEqual(ErrorClass.classify(many), unknown)
    const inner: { cause?: unknown } = {}
    const outer = new HttpClientError.RequestError({ request, reason: "Transport", cause: inner })
    inner.cause = outer
    assert.strictEqual(ErrorClass.classify(outer).class, "transient")
  })
})

describe("marks of spent attempts", () => {
  it("a circle of causes ends, and what is no object cannot be marked", () => {
    const circle: { cause?: unknown } = {}
    circle.cause = circle
    assert.isFalse(ErrorClass.isExhausted(circle))
    for (const odd of [undefined, null, "text", 42]) {
      assert.strictEqual(ErrorClass.markExhausted(odd), odd)
      assert.isFalse(ErrorClass.isExhausted(odd))
    }
  })
})
