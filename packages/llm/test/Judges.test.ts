import * as Fs from "node:fs"
import * as Path from "node:path"
import { FetchHttpClient } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import {
  Anthropic,
  Google,
  type Llm,
  type LlmError,
  LlmResponse,
  LlmTest,
  Ollama,
  OpenAi,
  OpenAiCompatible
} from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Effect, Either, Redacted, type Scope, Stream } from "effect"
import { casesOf } from "./corpus.ts"
import { judgeOf, type Verdict } from "./judges.ts"
import { fixtures } from "./judgesFixtures.ts"
import { type Server, serve } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hello")] }

/** The model that speaks what a recording's provider speaks; none where there is only a decoder. */
const modelOf = ({ api, provider }: LlmTest.Recording, url: string) => {
  const apiKey = Redacted.make("test-key")
  const settings = { apiKey, model: "model", retry: false } as const
  switch (api) {
    case "chat/completions":
      return OpenAiCompatible.make({ ...settings, provider, baseUrl: `${url}/v1` })
    case "responses":
    case "responses/input_tokens":
      return OpenAi.make({ ...settings, api: "responses", baseUrl: `${url}/v1` })
    case "messages":
    case "messages/count_tokens":
      return Anthropic.make({ ...settings, baseUrl: `${url}/v1` })
    case "generateContent":
    case "streamGenerateContent":
    case "countTokens":
      return Google.make({ ...settings, baseUrl: `${url}/v1beta` })
    case "api/chat":
      return Ollama.make({ ...settings, host: url })
    default:
      return undefined
  }
}

const nothing: Verdict = {
  failed: false,
  text: "",
  reasoning: "",
  refusal: null,
  toolCalls: [],
  finishReason: null,
  usage: { input: null, output: null, cachedInput: null, cacheWrite: null, reasoning: null },
  model: null,
  id: null,
  embeddings: null
}

const ofCanonical = (canonical: LlmTest.Canonical, finishReason: string | null): Verdict => ({
  failed: canonical.error !== null,
  text: canonical.text,
  reasoning: canonical.reasoning,
  refusal: canonical.refusal,
  toolCalls: canonical.toolCalls,
  finishReason,
  usage: canonical.usage,
  model: canonical.model,
  id: canonical.id,
  embeddings: canonical.embeddings
})

/** What ours makes of what the server answers. */
const ours = (recording: LlmTest.Recording, url: string) =>
  Effect.gen(function* () {
    const made = modelOf(recording, url)
    if (made === undefined) return ofCanonical(Either.getOrThrow(LlmTest.canonical(recording)), null)
    const llm = yield* made
    if (/count|input_tokens/i.test(recording.api)) {
      const input = yield* llm.countTokens(ask)
      return { ...nothing, usage: { ...nothing.usage, input } }
    }
    const kind = recording.stream ? "stream" : "generate"
    const answer: Effect.Effect<LlmResponse.LlmResponse | undefined, LlmError.LlmError> = recording.stream
      ? Effect.map(Stream.runCollect(llm.stream(ask)), LlmResponse.fromParts)
      : llm.generate(ask)
    const outcome = yield* Effect.either(answer)
    if (Either.isLeft(outcome)) return ofCanonical(LlmTest.canonicalOf(Either.left(outcome.left), kind), null)
    const { right: response } = outcome
    if (response === undefined) return yield* Effect.dieMessage("a stream without a finish")
    return ofCanonical(LlmTest.canonicalOf(Either.right(response), kind), response.finishReason ?? null)
  }).pipe(Effect.provide(FetchHttpClient.layer))

/** A server that answers everything with a recording, in small pieces. */
const serving = (recording: LlmTest.Recording): Effect.Effect<Server, never, Scope.Scope> =>
  serve(({ response }) => {
    const { body, headers, status } = recording.response
    response.writeHead(status, headers)
    const bytes = Buffer.from(body)
    for (let at = 0; at < bytes.length; at += 1499) response.write(bytes.subarray(at, at + 1499))
    response.end()
  })

/** Of an answer that failed, what the packages keep is compared: they have no word for more. */
const compared = (verdict: Verdict, recording: LlmTest.Recording, failed: boolean): Record<string, unknown> => {
  if (failed) return { failed: verdict.failed, text: verdict.text, model: verdict.model, id: verdict.id }
  if (recording.api === "api/generate") return { ...verdict, finishReason: null }
  return { ...verdict }
}

interface Row {
  readonly judge: string
  readonly recording: string
  readonly field: string
  readonly fact: string
}

/** The committed table: where a package says other than ours, and by which fact of the wire. */
const table: ReadonlyArray<Row> = Fs.readFileSync(Path.join(import.meta.dirname, "judges-differences.md"), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("| `"))
  .map((line) => {
    const [judge = "", recording = "", field = "", fact = ""] = line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim().replace(/^`(.*)`$/, "$1"))
    return { judge, recording, field, fact }
  })

/** Whether a row speaks of a place in the outcome: of it, or of what it is a part of. */
const speaksOf = (row: Row, path: string): boolean => row.field === path || path.startsWith(`${row.field}.`)

const answers = [
  ...casesOf().map(({ name, recording }) => ({ name, recording })),
  ...Object.entries(fixtures).map(([name, recording]) => ({ name: `fixtures/${name}`, recording }))
].filter(({ recording }) => recording.response.status < 300)

const judged = answers.flatMap(({ name, recording }) => {
  const judge = judgeOf(recording)
  return judge === undefined ? [] : [{ name, recording, judge }]
})

describe("the providers' own packages read the same bytes", () => {
  for (const { judge, name, recording } of judged) {
    it.scopedLive(`${name}: ${judge.name} and ours say the same`, () =>
      Effect.gen(function* () {
        const { url } = yield* serving(recording)
        const our = yield* ours(recording, url)
        const their = yield* Effect.promise(() => judge.ask(url, recording).catch(() => ({ ...nothing, failed: true })))
        const failed = our.failed || their.failed
        const found = LlmTest.differences(compared(our, recording, failed), compared(their, recording, failed))
        const rows = table.filter((row) => row.judge === judge.name && row.recording === name)
        assert.deepStrictEqual(
          found
            .map(({ actual, expected, path }) => ({ path, ours: actual, theirs: expected }))
            .filter(({ path }) => !rows.some((row) => speaksOf(row, path))),
          []
        )
        // A row that explains nothing any more goes.
        const stale = rows.filter((row) => !found.some(({ path }) => speaksOf(row, path)))
        assert.deepStrictEqual(stale, [])
      })
    )
  }

  it("judge every API that they have", () => {
    // Hugging Face's own API of vectors, and what is asked for one text, have none.
    const unjudged = answers.filter(({ recording }) => judgeOf(recording) === undefined)
    const without = ["feature-extraction", "embedContent", "api/embeddings", "predictions"]
    assert.deepStrictEqual(
      unjudged.filter(({ recording }) => !without.includes(recording.api)).map(({ name }) => name),
      []
    )
    const apis = new Set(judged.map(({ recording }) => `${recording.api} ${recording.stream}`))
    for (const api of ["chat/completions", "responses", "messages", "api/chat", "api/generate"]) {
      assert.isTrue(apis.has(`${api} true`) && apis.has(`${api} false`), api)
    }
    for (const api of ["streamGenerateContent true", "generateContent false", "countTokens false"]) {
      assert.isTrue(apis.has(api), api)
    }
    const judges = new Set(judged.map(({ judge }) => judge.name))
    assert.deepStrictEqual([...judges].sort(), ["@anthropic-ai/sdk", "@google/genai", "groq-sdk", "ollama", "openai"])
  })

  it("differ only for a reason that is written down", () => {
    for (const row of table) assert.isAbove(row.fact.length, 30, `${row.judge} ${row.recording} ${row.field}`)
  })

  it.skipIf(Need.missing("llm-corpus"))(
    Need.title("the table names only recordings that are there", "llm-corpus"),
    () => {
      const names = new Set(judged.map(({ name }) => name))
      assert.deepStrictEqual(
        table.filter((row) => !names.has(row.recording)).map((row) => row.recording),
        []
      )
    }
  )
})
