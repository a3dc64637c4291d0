import { assert, describe, it } from "@effect/vitest"
import { LlmTest, Protocol } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either, Option } from "effect"
import { casesOf } from "./corpus.ts"

const cases = casesOf("chat/completions")
const streams = cases.filter(({ recording }) => recording.stream && recording.response.status < 400)

const canonical = (recording: LlmTest.Recording, options?: LlmTest.ReplayOptions): LlmTest.Canonical =>
  Option.getOrThrow(LlmTest.canonical(recording, options))

const withBody = (recording: LlmTest.Recording, body: string): LlmTest.Recording => ({
  ...recording,
  response: { ...recording.response, body }
})

/** Pseudo-random numbers below `limit`, the same in every run. */
const numbers = (seed: number) => {
  let state = seed
  return (limit: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state % limit
  }
}

describe.skipIf(Need.missing("llm-corpus"))(Need.title("Chat Completions recordings", "llm-corpus"), () => {
  it("are there, of all the providers that speak it", () => {
    const providers = new Set(cases.map(({ recording }) => recording.provider))
    for (const provider of ["openai", "groq", "ollama", "azure", "huggingface"]) assert.isTrue(providers.has(provider))
    assert.isAbove(streams.length, 8)
  })

  for (const { name, recording, expected } of cases) {
    it(`${name} decodes as expected`, () => {
      assert.deepStrictEqual(canonical(recording), expected)
    })
  }

  // Errors are told apart in one table for all providers, whatever protocol they speak.
  for (const { name, recording, expected } of casesOf().filter((each) => each.recording.response.status >= 400)) {
    it(`${name} is the expected error (complaint 10: error mapping)`, () => {
      const { body, headers, status } = recording.response
      const lower = Object.fromEntries(Object.entries(headers).map(([key, value]) => [key.toLowerCase(), value]))
      const now = Date.parse(lower["date"] ?? "2026-11-21T12:00:00Z")
      const context = { provider: recording.provider, model: undefined, method: "generate" }
      const error = Protocol.decodeError({ status, headers: lower, body, now }, context)
      assert.deepStrictEqual(LlmTest.canonicalOf(Either.left(error), "generate").error, expected.error)
    })
  }

  for (const { name, recording, expected } of streams) {
    const bytes = new TextEncoder().encode(recording.response.body)

    it(`${name}: chunking changes nothing`, () => {
      for (const chunkSize of [1, 2, 3, 7, 64, 1000]) {
        assert.deepStrictEqual(canonical(recording, { chunkSize }), expected, `chunks of ${chunkSize}`)
      }
    })

    it(`${name}: LF, CRLF and CR are the same`, () => {
      const lf = recording.response.body.replace(/\r\n?/g, "\n")
      for (const end of ["\r\n", "\r"]) {
        const swapped = withBody(recording, lf.replace(/\n/g, end))
        for (const chunkSize of [1, 5, bytes.length]) {
          assert.deepStrictEqual(canonical(swapped, { chunkSize }), expected)
        }
      }
      assert.deepStrictEqual(canonical(withBody(recording, `\uFEFF${lf}`), { chunkSize: 2 }), expected)
    })

    it(`${name}: comments and pings between the events change nothing`, () => {
      const noisy = recording.response.body.replace(/\r?\n\r?\n/g, "\n\n: ping\n\nid: 7\nretry: 10\nunheard: of\n\n")
      assert.deepStrictEqual(canonical(withBody(recording, noisy)), expected)
    })

    const cutIsHonest = (cutAt: number) => {
      const said = new TextDecoder().decode(bytes.slice(0, cutAt)).replace(/\uFFFD+$/, "")
      const finished = /"finish_reason":\s*"[^"]+"[^\n]*\}\s*(\n|$)/.test(said)
      const result = canonical(recording, { cutAt })
      assert.isTrue(expected.text.startsWith(result.text), `text at ${cutAt}`)
      assert.isTrue(expected.reasoning.startsWith(result.reasoning), `reasoning at ${cutAt}`)
      if (finished) {
        assert.strictEqual(result.text, expected.text)
        return
      }
      assert.isNotNull(result.error, `a success from a stream cut at ${cutAt}`)
      assert.isNull(result.finish)
      if (result.error?.reason !== expected.error?.reason) assert.strictEqual(result.error?.reason, "StreamTruncated")
      const arrived = result.text !== "" || result.reasoning !== "" || /"tool_calls":\s*\[\s*\{[^\n]*\}\r?\n/.test(said)
      if (arrived) assert.isFalse(result.error?.retryable, `retryable at ${cutAt} although content had arrived`)
    }

    it(`${name}: cut after any event it is never a false success`, () => {
      const text = recording.response.body
      for (let at = text.indexOf("\n\n"); at !== -1; at = text.indexOf("\n\n", at + 2)) {
        const cutAt = new TextEncoder().encode(text.slice(0, at + 2)).length
        if (cutAt < bytes.length) cutIsHonest(cutAt)
      }
      cutIsHonest(0)
    })

    it(`${name}: cut at 200 random bytes it is never a false success`, () => {
      const next = numbers(bytes.length)
      for (let count = 0; count < 200; count++) cutIsHonest(next(bytes.length))
    })
  }
})
