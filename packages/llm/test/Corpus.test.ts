import { assert, describe, it } from "@effect/vitest"
import { LlmTest, Protocol } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either } from "effect"
import { endMarkerOf, eventsOf, formatOf } from "../src/internal/recordings.ts"
import { casesOf } from "./corpus.ts"

const cases = casesOf()
const streams = cases.filter(({ recording }) => recording.stream && recording.response.status < 400)

const canonical = (recording: LlmTest.Recording, options?: LlmTest.DecodeOptions): LlmTest.Canonical =>
  Either.getOrThrow(LlmTest.canonical(recording, options))

const withBody = (recording: LlmTest.Recording, body: string): LlmTest.Recording => ({
  ...recording,
  response: { ...recording.response, body }
})

describe.skipIf(Need.missing("llm-corpus"))(Need.title("recordings", "llm-corpus"), () => {
  it("are there, of all the providers", () => {
    const providers = new Set(cases.map(({ recording }) => recording.provider))
    for (const provider of ["openai", "groq", "ollama", "azure", "huggingface", "google", "anthropic"]) {
      assert.isTrue(providers.has(provider), provider)
    }
    assert.isAbove(streams.length, 20)
  })

  for (const { name, recording, expected } of cases) {
    it(`${name} decodes as expected`, () => {
      assert.deepStrictEqual(canonical(recording), expected)
    })

    it(`${name}: its format is known by its body or its address, whatever its api is called`, () => {
      assert.deepStrictEqual(canonical({ ...recording, api: "unheard/of" }), expected)
      if (recording.response.status >= 400 || expected.error !== null || recording.response.body.trim() === "") return
      assert.deepStrictEqual(canonical({ ...recording, api: "unheard/of", request: null }), expected)
    })
  }

  // Errors are told apart in one table for all providers, whatever protocol they speak.
  for (const { name, recording, expected } of cases.filter((each) => each.recording.response.status >= 400)) {
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
    it(`${name}: chunking changes nothing`, () => {
      for (const chunkSize of [1, 2, 3, 7, 64, 1000]) {
        assert.deepStrictEqual(canonical(recording, { chunkSize }), expected, `chunks of ${chunkSize}`)
      }
      for (let seed = 1; seed <= 5; seed++) {
        assert.deepStrictEqual(canonical(recording, { chunkSize: "random", seed }), expected, `seed ${seed}`)
      }
    })

    it(`${name}: LF and CRLF are the same`, () => {
      for (const lineEnd of ["LF", "CRLF"] as const) {
        for (const chunkSize of [1, 5, "random", undefined] as const) {
          assert.deepStrictEqual(canonical(recording, { chunkSize, lineEnd }), expected)
        }
      }
    })

    it(`${name}: cut after any event or at 200 random bytes it is never a false success (complaint 2)`, () => {
      assert.deepStrictEqual(LlmTest.cutFaults(recording), Either.right([]))
      // Many thousands of cuts are enough for the longest ones.
      if (recording.response.body.length > 65_536) return
      assert.deepStrictEqual(LlmTest.cutFaults(recording, { lineEnd: "CRLF", seed: 2 }), Either.right([]))
    }, 60_000)

    it(`${name}: its end marker is where a cut stops being a failure`, () => {
      const text = recording.response.body
      const format = formatOf(recording.api, undefined, text)
      const marker = format === undefined ? undefined : endMarkerOf(format, eventsOf(text))
      if (expected.error === null) assert.isDefined(marker)
      if (marker === undefined) return
      const bytesTo = (characters: number) => new TextEncoder().encode(text.slice(0, characters)).length
      assert.isNotNull(canonical(recording, { cutAt: bytesTo(marker.from) - 1 }).error)
      const { error } = canonical(recording, { cutAt: bytesTo(marker.to) })
      if (expected.error === null) assert.isNull(error)
    })
  }

  const sse = streams.filter(({ recording }) => /^\s*(?:data|event|:)/.test(recording.response.body))
  for (const { name, recording, expected } of sse) {
    it(`${name}: CR, a byte order mark, comments and pings between the events change nothing`, () => {
      const lf = recording.response.body.replace(/\r\n?/g, "\n")
      const cr = lf.replace(/\n/g, "\r")
      for (const body of [cr, `\uFEFF${lf}`, lf.replace(/\n\n/g, "\n\n: ping\n\nid: 7\nretry: 10\nunheard: of\n\n")]) {
        for (const chunkSize of [2, undefined]) {
          assert.deepStrictEqual(canonical(withBody(recording, body), { chunkSize }), expected)
        }
      }
    })
  }
})
