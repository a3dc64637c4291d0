import { assert, describe, it } from "@effect/vitest"
import { type LlmError, Protocol } from "@underlay/llm"
import { Duration } from "effect"

const context = { provider: "openai", model: "m", method: "generate" }

const decode = (
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
  now = Date.UTC(2026, 0, 1)
): LlmError.LlmError =>
  Protocol.decodeError({ status, headers, body: typeof body === "string" ? body : JSON.stringify(body), now }, context)

const delayOf = (error: LlmError.LlmError): number | undefined =>
  error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)

const openai = (message: string, code?: string, type?: string) => ({ error: { message, code, type } })

describe("the reason of an error", () => {
  const table: ReadonlyArray<readonly [string, number, unknown, LlmError.Reason, boolean]> = [
    [
      "insufficient_quota",
      429,
      openai("You exceeded your current quota", "insufficient_quota"),
      "QuotaExhausted",
      false
    ],
    ["402", 402, openai("Pay"), "QuotaExhausted", false],
    ["billing codes", 400, openai("x", "billing_hard_limit_reached"), "QuotaExhausted", false],
    ["low credit", 400, openai("Your credit balance is too low to access the API"), "QuotaExhausted", false],
    [
      "a limit of spending that Anthropic calls a wrong request",
      400,
      openai("You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."),
      "QuotaExhausted",
      false
    ],
    [
      "Google's credits that are used up",
      429,
      {
        error: {
          code: 429,
          message: "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
          status: "RESOURCE_EXHAUSTED"
        }
      },
      "QuotaExhausted",
      false
    ],
    [
      "Google's cap of spending",
      429,
      {
        error: {
          code: 429,
          message: "Your project has exceeded its monthly spending cap.",
          status: "RESOURCE_EXHAUSTED"
        }
      },
      "QuotaExhausted",
      false
    ],
    ["a bare quota", 429, openai("Quota exceeded"), "QuotaExhausted", false],
    ["a quota by the minute", 429, openai("Quota exceeded for requests per minute"), "RateLimited", true],
    [
      "a quota by the day",
      429,
      {
        error: {
          code: 429,
          message: "You exceeded your current quota",
          status: "RESOURCE_EXHAUSTED",
          details: [{ violations: [{ quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier" }] }]
        }
      },
      "QuotaExhausted",
      false
    ],
    ["context by code", 400, openai("x", "context_length_exceeded"), "ContextLengthExceeded", false],
    [
      "context by words",
      400,
      openai("This model's maximum context length is 8192 tokens"),
      "ContextLengthExceeded",
      false
    ],
    ["content", 400, openai("x", "content_filter"), "ContentFiltered", false],
    [
      "content in the inner error",
      400,
      { error: { message: "x", code: "y", innererror: { code: "ResponsibleAIPolicyViolation" } } },
      "ContentFiltered",
      false
    ],
    ["401", 401, "", "Authentication", false],
    [
      "Google's 400 of a bad key",
      400,
      { error: { code: 400, status: "INVALID_ARGUMENT", details: [{ reason: "API_KEY_INVALID" }] } },
      "Authentication",
      false
    ],
    ["403", 403, "", "PermissionDenied", false],
    ["404", 404, "", "NotFound", false],
    ["model_not_found under 400", 400, openai("x", "model_not_found"), "NotFound", false],
    ["429", 429, "", "RateLimited", true],
    ["413 above the tokens of a minute", 413, openai("x", "rate_limit_exceeded", "tokens"), "RateLimited", false],
    ["413", 413, "", "InvalidRequest", false],
    ["498", 498, "", "Overloaded", true],
    ["503", 503, "<html>Service Unavailable</html>", "Overloaded", true],
    ["529", 529, "", "Overloaded", true],
    ["500", 500, "", "ServerError", true],
    ["502", 502, "Bad gateway", "ServerError", true],
    ["408", 408, "", "InvalidRequest", true],
    ["409", 409, "", "InvalidRequest", true],
    ["422", 422, "text", "InvalidRequest", false],
    ["302", 302, "", "Unknown", false]
  ]
  for (const [name, status, body, reason, retryable] of table) {
    it(name, () => {
      const error = decode(status, body)
      assert.strictEqual(error.reason, reason)
      assert.strictEqual(error.isRetryable, retryable)
      assert.strictEqual(
        error.errorClass,
        retryable ? (reason === "RateLimited" ? "rate-limited" : "transient") : "permanent"
      )
    })
  }

  it("x-should-retry decides", () => {
    assert.isFalse(decode(500, "", { "x-should-retry": "false" }).isRetryable)
    assert.isTrue(decode(400, "", { "x-should-retry": "true" }).isRetryable)
  })

  it("what a content filter found is kept (complaint 10: detail of content filters lost)", () => {
    const error = decode(400, {
      error: {
        message: "The response was filtered",
        code: "content_filter",
        innererror: {
          code: "ResponsibleAIPolicyViolation",
          content_filter_result: {
            hate: { filtered: false, severity: "safe" },
            jailbreak: { filtered: true, detected: true },
            violence: { filtered: true, severity: "high" }
          }
        }
      }
    })
    assert.strictEqual(error.issue, "filtered for jailbreak, violence (high)")
  })

  it("the limit and the length are read where the provider says them (complaint 10: context overflow untyped)", () => {
    const azure = decode(
      400,
      openai(
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens.",
        "context_length_exceeded"
      )
    )
    assert.deepStrictEqual([azure.limit, azure.actual], [272_000, 509_178])
    const anthropic = decode(400, openai("prompt is too long: 3333404 tokens > 200000 maximum"))
    assert.deepStrictEqual([anthropic.limit, anthropic.actual], [200_000, 3_333_404])
    const gemini = decode(
      400,
      openai("The input token count (1500000) exceeds the maximum number of tokens allowed (1048576).")
    )
    assert.deepStrictEqual([gemini.limit, gemini.actual], [1_048_576, 1_500_000])
    const classic = decode(
      400,
      openai("This model's maximum context length is 8192 tokens. However, your messages resulted in 8500 tokens.")
    )
    assert.deepStrictEqual([classic.limit, classic.actual], [8192, 8500])
    const words: ReadonlyArray<readonly [string, number, number | undefined]> = [
      // The prompt alone would fit, not with the tokens that are kept for the answer.
      [
        "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length or " +
          "`max_tokens` and try again",
        200_000,
        242_959
      ],
      ["The input token count exceeds the maximum number of tokens allowed (1048576).", 1_048_576, undefined],
      [
        "Unable to submit request because the input token count is 32825 but model only supports up to 32768. Reduce " +
          "the input token count and try again.",
        32_768,
        32_825
      ]
    ]
    for (const [message, limit, actual] of words) {
      const error = decode(400, openai(message))
      assert.deepStrictEqual([error.reason, error.isRetryable], ["ContextLengthExceeded", false])
      assert.deepStrictEqual([error.limit, error.actual], [limit, actual])
    }
  })
})

describe("the delay before the next attempt", () => {
  it("is taken from headers first", () => {
    assert.strictEqual(
      delayOf(decode(429, openai("try again in 9s"), { "retry-after": "3", "retry-after-ms": "250" })),
      250
    )
    assert.strictEqual(
      delayOf(decode(429, openai("try again in 9s"), { "retry-after": "3", "retry-after-ms": "0" })),
      3000
    )
    assert.strictEqual(delayOf(decode(429, "", { "retry-after": "1.5" })), 1500)
    assert.strictEqual(delayOf(decode(429, "", { "retry-after": "Thu, 01 Jan 2026 00:00:07 GMT" })), 7000)
    assert.strictEqual(delayOf(decode(429, "", { "retry-after": "Thu, 01 Jan 2025 00:00:00 GMT" })), 0)
    assert.isUndefined(delayOf(decode(429, "", { "retry-after": "soon" })))
  })

  it("or from the words (complaint 4: Retry-After ignored)", () => {
    const hints: ReadonlyArray<readonly [string, number | undefined]> = [
      ["Please try again in 4.77s.", 4770],
      ["Please try again in 634ms. Visit", 634],
      ["try again in 1m2s", 62_000],
      ["Please try again in 7m12.5s.", 432_500],
      ["Please retry in 48.939935699s.", 48_940],
      ["Please retry after 6 seconds.", 6000],
      ["Try again in 20 sec", 20_000],
      ["Request was throttled. Expected available in 1 second.", 1000],
      ["Request was throttled. Expected available in 37 seconds.", 37_000],
      ["less than $5.0 in credit. Your rate limit resets in ~30s.", 30_000],
      ["the model is expected available in May", undefined],
      ["try again in a moment", undefined],
      ["try again later", undefined]
    ]
    for (const [message, expected] of hints)
      assert.strictEqual(delayOf(decode(429, openai(message))), expected, message)
    const google = {
      error: {
        code: 429,
        message: "Please retry in 48.9s",
        details: [{ retryDelay: "48s" }],
        status: "RESOURCE_EXHAUSTED"
      }
    }
    assert.strictEqual(delayOf(decode(429, google)), 48_000)
  })
})

describe("the words of an error", () => {
  const words: ReadonlyArray<readonly [string, unknown, string | undefined]> = [
    ["an envelope", openai("m"), "m"],
    ["a string", { error: "m" }, "m"],
    ["several strings", { error: ["a", "b"] }, "a; b"],
    ["a flat object", { object: "error", message: "m", code: 400 }, "m"],
    ["a detail", { detail: "m" }, "m"],
    ["a list of details", { detail: [{ msg: "a", loc: [] }] }, "a"],
    ["Google's list", [{ error: { message: "m" } }], "m"],
    ["plain text", "m\n", "m"],
    ["HTML", "<html>m</html>", undefined],
    ["nothing", "", undefined]
  ]
  for (const [name, body, message] of words) {
    it(name, () => {
      assert.strictEqual(decode(400, body).providerMessage, message)
    })
  }

  it("are not in the error's message, its JSON or what is printed", () => {
    const error = decode(400, openai("Invalid value: 'my secret prompt' for key sk-123", "invalid_value"))
    for (const text of [error.message, JSON.stringify(error), String(error)]) {
      assert.notInclude(text, "secret")
      assert.notInclude(text, "sk-123")
    }
    assert.include(error.message, "HTTP 400, invalid_value")
  })
})
