/** Recordings of the Responses API: decoded as expected, in any chunks, and never a false success when they are cut. */
import { assert, describe, it } from "@effect/vitest"
import { LlmResponse, LlmTest, Responses } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either, FastCheck } from "effect"
import { casesOf } from "./corpus.ts"

const cases = casesOf("responses").filter(({ recording }) => recording.response.status < 400)
const streams = cases.filter(({ recording }) => recording.stream)

const context = (provider: string) => ({ provider, model: undefined, method: "generate" })

const streamed = (pieces: Iterable<Uint8Array>, provider = "openai"): LlmTest.Canonical => {
  const decoder = Responses.makeStreamDecoder(context(provider))
  const parts: Array<LlmResponse.LlmStreamPart> = []
  for (const piece of pieces) parts.push(...decoder.push(piece))
  parts.push(...decoder.end())
  const failure = decoder.failure()
  if (failure !== undefined) return LlmTest.canonicalOf(Either.left(failure), "stream")
  const response = LlmResponse.fromParts(parts)
  return response === undefined ? assert.fail("no end") : LlmTest.canonicalOf(Either.right(response), "stream")
}

const bytesOf = (text: string) => new TextEncoder().encode(text)

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings of the Responses API", "llm-corpus"), () => {
  it("are there, of both providers that speak it, whole and streamed", () => {
    const kinds = new Set(cases.map(({ recording }) => `${recording.provider} ${recording.stream}`))
    for (const kind of ["openai false", "openai true", "azure false", "azure true"])
      assert.isTrue(kinds.has(kind), kind)
  })

  for (const { expected, name, recording } of cases) {
    it(`${name} decodes as expected`, () => {
      const { body } = recording.response
      const result = recording.stream
        ? streamed([bytesOf(body)], recording.provider)
        : LlmTest.canonicalOf(Responses.decode(body, context(recording.provider)), "generate")
      assert.deepStrictEqual(result, expected)
    })
  }

  for (const { expected, name, recording } of streams) {
    const { body } = recording.response
    const bytes = bytesOf(body)
    const marker = bytesOf(body.slice(0, body.search(/event: response\.(?:completed|incomplete)/))).length

    it(`${name}: the whole answer at its end, as it stands when nothing is streamed, is the same`, () => {
      const last = /^data: (\{"type":"response\.completed".*)$/m.exec(body)?.[1]
      assert.isDefined(last)
      const { response } = JSON.parse(last ?? "{}") as { readonly response: unknown }
      const result = LlmTest.canonicalOf(Responses.decode(JSON.stringify(response), context("openai")), "stream")
      assert.deepStrictEqual(result, expected)
    })

    it(`${name}: chunks and line ends change nothing`, () => {
      FastCheck.assert(
        FastCheck.property(
          FastCheck.array(FastCheck.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 50 }),
          FastCheck.constantFrom("\n", "\r\n", "\r"),
          (sizes, end) => {
            const all = bytesOf(body.replace(/\r\n|\r|\n/g, end))
            const pieces: Array<Uint8Array> = []
            for (let from = 0, turn = 0; from < all.length; turn++) {
              const to = Math.min(all.length, from + (sizes[turn % sizes.length] ?? 1))
              pieces.push(all.slice(from, to))
              from = to
            }
            assert.deepStrictEqual(streamed(pieces), expected)
          }
        ),
        { numRuns: 15 }
      )
      assert.deepStrictEqual(streamed(Array.from(bytes, (_, index) => bytes.slice(index, index + 1))), expected)
    })

    const cutIsHonest = (at: number) => {
      const result = streamed([bytes.slice(0, at)])
      assert.isTrue(expected.text.startsWith(result.text), `text at ${at}`)
      assert.isTrue(expected.reasoning.startsWith(result.reasoning), `reasoning at ${at}`)
      assert.isAtMost(result.toolCalls.length, expected.toolCalls.length)
      assert.deepStrictEqual(result.toolCalls, expected.toolCalls.slice(0, result.toolCalls.length))
      assert.strictEqual(result.error?.reason, "StreamTruncated", `at ${at}`)
      assert.isNull(result.finish)
      if (result.text !== "" || result.reasoning !== "" || result.toolCalls.length > 0) {
        assert.isFalse(result.error?.retryable, `retryable at ${at} although content had arrived`)
      }
    }

    it(`${name}: cut after any event and at 200 random bytes it is never a false success`, () => {
      for (let at = body.indexOf("\n\n"); at !== -1; at = body.indexOf("\n\n", at + 2)) {
        const cutAt = bytesOf(body.slice(0, at + 2)).length
        if (cutAt <= marker) cutIsHonest(cutAt)
      }
      FastCheck.assert(FastCheck.property(FastCheck.integer({ min: 0, max: marker }), cutIsHonest), { numRuns: 200 })
    })
  }
})
