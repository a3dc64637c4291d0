/** Streams and answers as no provider documents them: what servers, proxies and gateways have been seen to send. */
import { assert, describe, it } from "@effect/vitest"
import { ChatCompletions, type LlmError, LlmResponse, Protocol } from "@underlay/llm"
import { Chunk, Effect, Either, Stream } from "effect"

const context = { provider: "openai", model: "m", method: "stream" }

const utf8 = (text: string) => new TextEncoder().encode(text)

const data = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const choose = (choice: unknown, rest: Record<string, unknown> = {}) => data({ id: "c", choices: [choice], ...rest })
const text = (content: unknown) => choose({ index: 0, delta: { content } })
const calls = (...entries: ReadonlyArray<unknown>) => choose({ index: 0, delta: { tool_calls: entries } })
const end = (reason: unknown = "stop", rest: Record<string, unknown> = {}) =>
  choose({ index: 0, delta: {}, finish_reason: reason }, rest)
const done = "data: [DONE]\n\n"

interface Outcome {
  readonly parts: ReadonlyArray<LlmResponse.LlmStreamPart>
  readonly error: LlmError.LlmError | undefined
  readonly response: LlmResponse.LlmResponse | undefined
}

const run = (body: string, size = Number.POSITIVE_INFINITY): Outcome => {
  const decoder = ChatCompletions.makeStreamDecoder(context)
  const bytes = utf8(body)
  const parts: Array<LlmResponse.LlmStreamPart> = []
  for (let from = 0; from < bytes.length; from += size) parts.push(...decoder.push(bytes.slice(from, from + size)))
  parts.push(...decoder.end())
  return { parts, error: decoder.failure(), response: LlmResponse.fromParts(parts) }
}

/** Runs the body whole and byte by byte, which must be the same. */
const both = (body: string): Outcome => {
  const whole = run(body)
  assert.deepStrictEqual(run(body, 1), whole)
  return whole
}

const callsOf = (body: string) =>
  both(body).response?.toolCalls.map((call) => [call.id, call.name, call.arguments] as const)

describe("hostile streams: choices", () => {
  it("without an index, with an index of null or as a string", () => {
    for (const index of [undefined, null, 0, "0"]) {
      const body =
        choose({ index, delta: { content: "a" } }) + choose({ index, delta: { content: "b" }, finish_reason: "stop" })
      assert.strictEqual(both(body).response?.text, "ab", String(index))
    }
  })

  it("that are null, empty, or two at once in either order", () => {
    const body =
      data({ id: "c", choices: null }) +
      data({ id: "c", choices: [null] }) +
      data({
        choices: [
          { index: 1, delta: { content: "no" }, finish_reason: "length" },
          { index: 0, delta: { content: "yes" } }
        ]
      }) +
      data({ choices: [{ index: 1, delta: { content: "no" }, finish_reason: "stop" }] })
    const unfinished = both(body)
    assert.strictEqual(unfinished.error?.reason, "StreamTruncated")
    assert.strictEqual(unfinished.error?.partial?.text, "yes")
    assert.strictEqual(both(body + end()).response?.text, "yes")
    assert.strictEqual(both(body + end()).response?.finish, "stop")
  })

  it("with a delta that is null, empty, of an unknown role, or a list of contents", () => {
    const body =
      choose({ index: 0, delta: null }) +
      choose({ index: 0 }) +
      choose({ index: 0, delta: { role: "oracle", content: "a" } }) +
      choose({ index: 0, delta: { content: [{ type: "text", text: "b" }, "c", null, 7] } }) +
      choose({ index: 0, delta: { content: { type: "text", text: "d" } } }) +
      choose({ index: 0, delta: { content: null, tool_calls: null, refusal: null, function_call: null } }) +
      text("") +
      end()
    assert.strictEqual(both(body).response?.text, "abcd")
  })

  it("with a finish alone, without any content, are an empty answer", () => {
    const { error, response } = both(end("length") + done)
    assert.isUndefined(error)
    assert.deepStrictEqual([response?.text, response?.finish, response?.toolCalls], ["", "length", []])
  })

  it("with a finish that is empty or null are not finished", () => {
    for (const reason of ["", null, 0, false]) {
      assert.strictEqual(both(text("a") + end(reason) + done).error?.reason, "StreamTruncated", String(reason))
    }
  })
})

describe("hostile streams: usage", () => {
  it("of numbers as strings counts, of anything else does not", () => {
    const usage = {
      prompt_tokens: "12",
      completion_tokens: "3",
      prompt_tokens_details: { cached_tokens: "" },
      completion_tokens_details: { reasoning_tokens: "many" }
    }
    assert.deepStrictEqual(both(text("a") + end("stop", { usage })).response?.usage, {
      input: 12,
      output: 3,
      cachedInput: undefined,
      cacheWrite: undefined,
      reasoning: undefined
    })
  })

  it("in chunks without choices, with null choices, or of nothing at all", () => {
    const usage = { prompt_tokens: 12, completion_tokens: 3 }
    for (const rest of [{ choices: null }, { choices: [] }, {}, { choices: [{}] }]) {
      const body = text("a") + end() + data({ ...rest, usage }) + data({ choices: [], usage: {} }) + done
      assert.strictEqual(both(body).response?.usage.input, 12)
      assert.strictEqual(both(body).response?.text, "a")
    }
  })

  it("is kept where an error comes in the same chunk", () => {
    const body = text("a") + data({ choices: [], usage: { prompt_tokens: 5 }, error: { message: "m" } })
    assert.strictEqual(both(body).error?.usage?.input, 5)
  })
})

describe("hostile streams: the body", () => {
  const answer = text("Grüße ") + text("😀") + end() + done

  it("with a byte order mark, lone CRs, no blank after the colon", () => {
    for (const body of [`\uFEFF${answer}`, answer.replace(/\n/g, "\r"), answer.replace(/data: /g, "data:")]) {
      assert.strictEqual(both(body).response?.text, "Grüße 😀")
    }
  })

  it("with [DONE] in the middle ends there", () => {
    const early = both(text("a") + done + text("b") + end())
    assert.strictEqual(early.error?.reason, "StreamTruncated")
    assert.strictEqual(early.error?.partial?.text, "a")
    const late = both(text("a") + end() + done + text("b") + data({ error: { message: "too late" } }))
    assert.strictEqual(late.response?.text, "a")
    assert.isUndefined(late.error)
  })

  it("with two errors fails with the first", () => {
    const body =
      text("a") +
      data({ error: { message: "first", code: 503 } }) +
      `event: error\n${data({ error: { message: "second", code: 401 } })}` +
      end()
    const { error } = both(body)
    assert.deepStrictEqual([error?.reason, error?.providerMessage], ["Overloaded", "first"])
  })

  it("with an error event without data, or with data that is text, fails", () => {
    assert.strictEqual(both(`${text("a")}event: error\n\n${end()}`).error?.reason, "ServerError")
    const { error } = both(`${text("a")}event: error\ndata: upstream went away\n\n${end()}`)
    assert.deepStrictEqual([error?.reason, error?.providerMessage], ["ServerError", "upstream went away"])
  })

  it("with an error that says nothing is none", () => {
    for (const error of [null, "", false, {}, { message: "", type: null }, { message: null, code: null, param: "" }]) {
      const body = choose({ index: 0, delta: { content: "a" } }, { error }) + end("stop", { error })
      assert.strictEqual(both(body).response?.text, "a", JSON.stringify(error))
    }
  })

  it("with an error's JSON over several lines in mid-stream fails with that error", () => {
    const pretty = JSON.stringify({ error: { message: "m", code: 503 } }, null, 2)
    for (const body of [`${text("a")}${pretty}\n`, `${text("a")}${pretty}`, `${text("a")}${pretty}\n\n${done}`]) {
      const { error } = both(body)
      assert.deepStrictEqual([error?.reason, error?.providerMessage], ["Overloaded", "m"])
      assert.strictEqual(error?.partial?.text, "a")
    }
  })

  it("with a stray brace goes on", () => {
    assert.strictEqual(both(`{\n${answer}`).response?.text, "Grüße 😀")
    assert.strictEqual(both(`${text("x")}{ not json\n${answer}`).response?.text, "xGrüße 😀")
  })

  it("that is a list with an error, as Google's compatible endpoint sends it, is that error", () => {
    const list = [{ error: { code: 429, message: "m", status: "RESOURCE_EXHAUSTED" } }]
    for (const body of [JSON.stringify(list), `${JSON.stringify(list)}\n`, JSON.stringify(list, null, 2)]) {
      const { error } = both(body)
      assert.deepStrictEqual([error?.reason, error?.providerMessage, error?.midStream], ["RateLimited", "m", false])
    }
  })

  it("that is a gateway's words, with or without an end of line, is malformed", () => {
    for (const body of ["Bad gateway", "Bad gateway\n", "<html><body>no</body></html>", "data centre on fire"]) {
      const { error } = both(body)
      assert.strictEqual(error?.reason, "MalformedResponse", body)
      assert.isFalse(error?.isRetryable)
    }
    // The beginning of a field is the beginning of a stream.
    for (const body of ["d", "data", "data: {", "event: err", ": ping", "id: 1", "retr"]) {
      assert.strictEqual(both(body).error?.reason, "StreamTruncated", body)
    }
  })

  it("of one huge event, in small pieces, takes linear time", () => {
    const long = "x".repeat(4_000_000)
    const before = process.cpuUsage()
    assert.strictEqual(run(text(long) + end(), 1024).response?.text.length, long.length)
    assert.isBelow(process.cpuUsage(before).user / 1_000, 3000)
  })
})

describe("hostile streams: tool calls", () => {
  it("(complaint 9) of one name, all of index 0, without ids, are apart", () => {
    const body =
      calls({ index: 0, function: { name: "weather", arguments: '{"city":"Berlin"}' } }) +
      calls({ index: 0, function: { name: "weather", arguments: '{"city":"Paris"}' } }) +
      end("stop")
    assert.deepStrictEqual(callsOf(body), [
      ["call_0", "weather", { city: "Berlin" }],
      ["call_1", "weather", { city: "Paris" }]
    ])
  })

  it("(complaint 9) with indexes as strings, or an index that only comes later", () => {
    const strings =
      calls({ index: "0", id: "a", function: { name: "f", arguments: '{"x"' } }) +
      calls({ index: "1", id: "b", function: { name: "g", arguments: '{"y"' } }) +
      calls({ index: "0", function: { arguments: ":1}" } }) +
      calls({ index: "1", function: { arguments: ":2}" } }) +
      end("tool_calls")
    assert.deepStrictEqual(callsOf(strings), [
      ["a", "f", { x: 1 }],
      ["b", "g", { y: 2 }]
    ])
    const later =
      calls({ id: "a", function: { name: "f", arguments: "" } }) +
      calls({ index: 0, function: { arguments: '{"x":1}' } }) +
      end("tool_calls")
    assert.deepStrictEqual(callsOf(later), [["a", "f", { x: 1 }]])
  })

  it("(complaint 9) whose name comes after their arguments, with null and empty fields all over", () => {
    const body =
      calls({ index: 0, id: "", type: null, function: { name: null, arguments: '{"x":' } }) +
      calls(null, { index: 0, id: null, function: { name: "", arguments: "1}" } }) +
      calls({ index: 0, id: "late", function: { name: "f", arguments: null } }) +
      calls({ index: 0, function: null }) +
      end("tool_calls")
    assert.deepStrictEqual(callsOf(body), [["late", "f", { x: 1 }]])
  })

  it("(complaint 9) that repeat their name with every piece", () => {
    const body =
      calls({ index: 0, id: "a", function: { name: "f", arguments: "{" } }) +
      calls({ index: 0, id: "", function: { name: "f", arguments: '"x":{}' } }) +
      calls({ index: 0, id: "", function: { name: "f", arguments: "}" } }) +
      calls({ index: 0, id: "", function: { name: "f", arguments: "" } }) +
      end("tool_calls")
    assert.deepStrictEqual(callsOf(body), [["a", "f", { x: {} }]])
  })

  it("(complaint 9) that a proxy sends in the new and the old form at once count once", () => {
    const inner = { name: "f", arguments: '{"x":1}' }
    const both = { tool_calls: [{ index: 0, id: "a", function: inner }], function_call: inner }
    assert.deepStrictEqual(callsOf(choose({ index: 0, delta: both }) + end("tool_calls")), [["a", "f", { x: 1 }]])
  })
})

describe("hostile answers", () => {
  const decode = (body: unknown) =>
    ChatCompletions.decode(typeof body === "string" ? body : JSON.stringify(body), context)

  it("with odd choices, contents and usage", () => {
    const message = { role: "oracle", content: [{ type: "text", text: "a" }, "b", null], tool_calls: null }
    const choices = [
      { index: 1, message: { content: "no" }, finish_reason: "length" },
      { index: "0", message, finish_reason: "stop" }
    ]
    const response = Either.getOrThrow(decode({ choices, usage: { prompt_tokens: "7", completion_tokens: null } }))
    assert.deepStrictEqual([response.text, response.finish, response.usage.input], ["ab", "stop", 7])
    const single = decode({ choices: [{ message: { content: { type: "text", text: "a" } }, finish_reason: "stop" }] })
    assert.strictEqual(Either.getOrThrow(single).text, "a")
  })

  it("with an error that says nothing are answers", () => {
    const choices = [{ index: 0, message: { content: "a" }, finish_reason: "stop" }]
    for (const error of [null, {}, { message: "", code: null }]) {
      assert.strictEqual(Either.getOrThrow(decode({ choices, error })).text, "a")
    }
  })
})

describe("hostile errors", () => {
  const error = (status: number, body: string, headers: Record<string, string> = {}) =>
    Protocol.decodeError({ status, headers, body, now: Date.parse("2026-11-21T12:00:00Z") }, context)
  const wait = (value: string) => {
    const after = error(429, "", { "retry-after": value }).retryAfter
    return after === undefined ? undefined : Number(after.value._tag === "Millis" ? after.value.millis : -1)
  }

  it("that hold no code show no words in its place", () => {
    const secret = "your prompt 'the launch code is 0000' was refused"
    const bodies = [
      { error: { message: "m", type: secret } },
      { error: secret, reason: secret },
      { error: { message: "m", reason: secret } },
      {
        error: {
          code: "content_filter",
          message: "m",
          innererror: { content_filter_result: { [secret]: { filtered: true } } }
        }
      },
      {
        error: {
          code: "content_filter",
          message: "m",
          content_filter_result: { hate: { filtered: true, severity: secret } }
        }
      }
    ]
    for (const body of bodies) {
      const failed = error(400, JSON.stringify(body))
      for (const shown of [failed.message, String(failed), JSON.stringify(failed)]) assert.notInclude(shown, "launch")
    }
  })

  it("say in many words that the context is too long (complaint 10)", () => {
    const overflow: ReadonlyArray<readonly [string, number | undefined, number | undefined]> = [
      ["This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", 4096, 5000],
      ["This model's maximum prompt length is 131072 but the request contains 200000 tokens.", 131_072, 200_000],
      ["Prompt contains 40000 tokens, too large for model with 32768 maximum context length", 32_768, 40_000],
      ["Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 6000", undefined, undefined],
      ["the request exceeds the available context size, try increasing it", undefined, undefined]
    ]
    for (const [message, limit, actual] of overflow) {
      const failed = error(400, JSON.stringify({ error: { message } }))
      assert.deepStrictEqual([failed.reason, failed.limit, failed.actual], ["ContextLengthExceeded", limit, actual])
      // However much stands before or after it.
      const long = error(400, JSON.stringify({ error: { message: `${"x ".repeat(50_000)}${message}` } }))
      assert.strictEqual(long.reason, "ContextLengthExceeded")
    }
    const coded = error(400, '{"error":{"code":400,"message":"too big","type":"exceed_context_size_error"}}')
    assert.strictEqual(coded.reason, "ContextLengthExceeded")
  })

  it("wait only for what is a time", () => {
    assert.strictEqual(wait("7"), 7000)
    assert.strictEqual(wait("0.5"), 500)
    assert.strictEqual(wait("Sat, 21 Nov 2026 12:00:09 GMT"), 9000)
    assert.strictEqual(wait("Saturday, 21-Nov-26 12:00:09 GMT"), 9000)
    assert.strictEqual(wait("Sat Nov 21 12:00:09 2026"), 9000)
    assert.strictEqual(wait("2026-11-21T12:00:09Z"), 9000)
    assert.strictEqual(wait("3s"), 3000)
    for (const value of ["soon", "-5", "in 5", "5 apples", "NaN", "1e400", ""]) assert.isUndefined(wait(value), value)
  })

  it("in plain words are words, whatever their content type says; markup is not", () => {
    const html = { "content-type": "text/html; charset=utf-8" }
    const plain = error(429, "Too many requests, please try again in 3s", html)
    assert.strictEqual(plain.providerMessage, "Too many requests, please try again in 3s")
    assert.strictEqual(error(502, "\n <!DOCTYPE html><h1>502</h1>", html).providerMessage, undefined)
    assert.strictEqual(error(502, "Oops <b>bad</b> gateway", html).providerMessage, undefined)
  })

  it("of a megabyte are classified at once", () => {
    const before = process.cpuUsage()
    error(400, JSON.stringify({ error: { message: "input token count ".repeat(60_000) } }))
    error(400, "try again in 1m1".repeat(60_000))
    assert.isBelow(process.cpuUsage(before).user / 1_000, 1000)
  })
})

describe("long streams", () => {
  it.effect("are decoded in linear time, however many pieces come at once", () =>
    Effect.gen(function* () {
      const piece = utf8(text("word "))
      const count = 40_000
      const pieces = Chunk.unsafeFromArray([...Array.from({ length: count }, () => piece), utf8(end() + done)])
      const before = process.cpuUsage()
      const parts = yield* Stream.runCollect(
        Protocol.decodeStream(Stream.fromChunk(pieces), ChatCompletions.makeStreamDecoder(context))
      )
      assert.strictEqual(parts.length, count + 1)
      assert.isBelow(process.cpuUsage(before).user / 1_000, 2500)
    })
  )
})
