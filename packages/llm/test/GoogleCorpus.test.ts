/** The recordings of Gemini, decoded as the shared data says, however they are cut into chunks and wherever they end. */
import { assert, describe, it } from "@effect/vitest"
import { GenerateContent, type LlmError, LlmResponse, LlmTest } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either, FastCheck } from "effect"
import { casesOf } from "./corpus.ts"

const cases = [...casesOf("generateContent"), ...casesOf("streamGenerateContent")].filter(
  ({ recording }) => recording.response.status < 400
)
const streams = cases.filter(({ recording }) => recording.stream)
const bytesOf = (text: string) => new TextEncoder().encode(text)

const play = (bytes: Uint8Array, sizes: ReadonlyArray<number> = [Number.POSITIVE_INFINITY]) => {
  const decoder = GenerateContent.makeStreamDecoder({ provider: "google", model: undefined, method: "stream" })
  const parts: Array<LlmResponse.LlmStreamPart> = []
  for (let from = 0, at = 0; from < bytes.length; at++) {
    const to = Math.min(bytes.length, from + Math.max(1, sizes[at % sizes.length] ?? 1))
    parts.push(...decoder.push(bytes.slice(from, to)))
    from = to
  }
  parts.push(...decoder.end())
  const failure = decoder.failure()
  const response = LlmResponse.fromParts(parts)
  const result: Either.Either<LlmResponse.LlmResponse, LlmError.LlmError> =
    failure !== undefined ? Either.left(failure) : Either.fromNullable(response, () => assert.fail("no finish"))
  return { result, parts }
}

const streamed = (bytes: Uint8Array, sizes?: ReadonlyArray<number>) =>
  LlmTest.canonicalOf(play(bytes, sizes).result, "stream")

/** What the same pieces are when they are not asked for as events. */
const asArray = (body: string): string => {
  const pieces = body
    .split(/\r?\n\r?\n/)
    .filter((event) => event.startsWith("data:"))
    .map((event) => JSON.stringify(JSON.parse(event.slice(5)), null, 2))
  return `[${pieces.join("\n,\r\n")}\n]\n`
}

describe.skipIf(Need.missing("llm-corpus"))(Need.title("Gemini's recordings", "llm-corpus"), () => {
  it("are there, whole and streamed", () => {
    assert.isAbove(streams.length, 2)
    assert.isAbove(cases.length, streams.length + 2)
  })

  for (const { name, recording, expected } of cases.filter((each) => !each.recording.stream)) {
    it(`${name} decodes as expected`, () => {
      const context = { provider: "google", model: undefined, method: "generate" }
      const result = GenerateContent.decode(recording.response.body, context)
      assert.deepStrictEqual(LlmTest.canonicalOf(result, "generate"), expected)
    })
  }

  for (const { name, recording, expected } of casesOf("countTokens")) {
    it(`${name} decodes as expected`, () => {
      const context = { provider: "google", model: undefined, method: "countTokens" }
      const result = GenerateContent.decodeCountTokens(recording.response.body, context)
      assert.strictEqual(Either.getOrThrow(result), expected.usage.input)
    })
  }

  for (const { name, recording, expected } of streams) {
    const { body } = recording.response
    const bytes = bytesOf(body)

    it(`${name} decodes as expected`, () => {
      assert.deepStrictEqual(streamed(bytes), expected)
    })

    it(`${name}: chunking and line ends change nothing`, () => {
      const lf = body.replace(/\r\n/g, "\n")
      const forms = [body, lf, lf.replace(/\n/g, "\r\n"), lf.replace(/\n/g, "\r"), `\uFEFF${lf}`].map(bytesOf)
      FastCheck.assert(
        FastCheck.property(
          FastCheck.constantFrom(...forms),
          FastCheck.array(FastCheck.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 20 }),
          (form, sizes) => assert.deepStrictEqual(streamed(form, sizes), expected)
        ),
        { numRuns: 40 }
      )
    })

    it(`${name}: as one JSON array it is the same, in any chunks`, () => {
      const array = bytesOf(asArray(body))
      for (const sizes of [[array.length], [1], [7], [64, 3, 1000]]) {
        assert.deepStrictEqual(streamed(array, sizes), expected)
      }
    })

    it(`${name}: its parts put together are its content (complaint 13: signatures lost on replay)`, () => {
      const { parts, result } = play(bytes)
      const response = Either.getOrThrow(result)
      const written = parts.flatMap((part) => (part.type === "tool-call-delta" ? [part] : []))
      response.toolCalls.forEach((call, index) => {
        const text = written.filter((part) => part.index === index).map((part) => part.text)
        assert.deepStrictEqual(JSON.parse(text.join("")), call.arguments)
      })
      assert.strictEqual(new Set(response.toolCalls.map((call) => call.id)).size, response.toolCalls.length)
      // Every signature of the stream is in the message that goes back.
      const sent = JSON.stringify(
        Either.getOrThrow(
          GenerateContent.encode(
            { messages: [{ role: "user", content: [] }, LlmResponse.toMessage(response)] },
            { model: "gemini-3-flash", stream: true, method: "stream", dialect: { provider: "google" } }
          )
        )
      )
      for (const [, signature] of body.matchAll(/"thoughtSignature":\s*"([^"]+)"/g)) {
        assert.include(sent, signature ?? "none")
      }
    })

    const cutIsHonest = (form: Uint8Array, at: number) => {
      const said = new TextDecoder().decode(form.slice(0, at)).replace(/\uFFFD+$/, "")
      const result = streamed(form.slice(0, at))
      assert.isTrue(expected.text.startsWith(result.text), `text at ${at}`)
      assert.isTrue(expected.reasoning.startsWith(result.reasoning), `reasoning at ${at}`)
      assert.deepStrictEqual(result.toolCalls, expected.toolCalls.slice(0, result.toolCalls.length))
      if (result.error === null) {
        assert.match(said, /"finishReason":\s*"/, `a success from a stream cut at ${at}`)
        assert.strictEqual(result.text, expected.text)
        assert.deepStrictEqual(result.toolCalls, expected.toolCalls)
        return
      }
      assert.strictEqual(result.error.reason, "StreamTruncated")
      assert.isNull(result.finish)
      const arrived = result.text !== "" || result.reasoning !== "" || result.toolCalls.length > 0
      if (arrived) assert.isFalse(result.error.retryable, `retryable at ${at} although content had arrived`)
    }

    it(`${name}: cut anywhere it is never a false success (complaint 2: truncated streams)`, () => {
      const array = bytesOf(asArray(body))
      for (const form of [bytes, array]) {
        FastCheck.assert(
          FastCheck.property(FastCheck.integer({ min: 0, max: form.length - 1 }), (at) => cutIsHonest(form, at)),
          { numRuns: 200 }
        )
      }
      for (const match of body.matchAll(/\r?\n\r?\n/g)) {
        cutIsHonest(bytes, bytesOf(body.slice(0, match.index + match[0].length)).length)
      }
      cutIsHonest(bytes, 0)
    })
  }
})
