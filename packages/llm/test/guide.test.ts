/** The guide of language models: its programs run, its tables are true. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { LlmError } from "@underlay/llm"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"
import * as Fake from "./fake.ts"
import * as Features from "./features.ts"

const root = Path.join(import.meta.dirname, "..")
const file = Path.join(root, "../../docs/llm-guide.md")
const guide = Fs.readFileSync(file, "utf8")
const blocks = Readme.blocksOfGuide(file)

interface Program {
  readonly title: string
  readonly answers?: ReadonlyArray<Fake.Answer>
  readonly result: unknown
  readonly asked?: (asked: ReadonlyArray<Readonly<Record<string, unknown>>>) => void
}

const calling = { calls: [{ name: "weather", arguments: { city: "Berlin" } }] }
const ticket = '{"title":"Production is down","urgency":"high"}'
const noFormats = {
  status: 400,
  body: {
    error: {
      message: "This model does not support response format `json_schema`.",
      type: "invalid_request_error",
      param: "response_format"
    }
  }
}
const verdict = { calls: [{ name: "answer", arguments: { severity: "high" } }] }

const programs: ReadonlyArray<Program> = [
  { title: "Errors, and what to do about them", result: "Hello from the second." },
  {
    title: "Errors, and what to do about them",
    answers: [{ text: "One two three four five", cut: 4 }],
    result: { reason: "StreamTruncated", isRetryable: false, unfinished: "One two three" },
    asked: (asked) => assert.strictEqual(asked.length, 1, "it is not asked again once there was content")
  },
  { title: "Limits of time", answers: [Fake.silence], result: "Timeout" },
  {
    title: "Values by schema: three ways",
    answers: [noFormats, verdict],
    result: ["tool", "tool", false, "high"],
    asked: ([native, tool, again, ...rest]) => {
      assert.property(native, "response_format")
      for (const one of [tool, again]) {
        assert.property(one, "tool_choice")
        assert.notProperty(one, "response_format")
      }
      assert.deepStrictEqual(rest, [])
    }
  },
  {
    title: "Reasoning, and changing the model in mid-conversation",
    answers: [{ reasoning: "17 times 23.", text: "No." }, "Yes.", "Yes, it is."],
    result: ["17 times 23.", "Yes.", "Yes, it is."],
    asked: ([, same, other]) => {
      assert.include(JSON.stringify(same), "c2lnbmVk")
      assert.notInclude(JSON.stringify(other), "c2lnbmVk")
      assert.include(JSON.stringify(other), "No.")
    }
  },
  {
    title: "What a trace shows",
    answers: ["Sky."],
    result: { spans: ["chat gpt-4o", "POST"], tokens: 3, secrets: false }
  },
  { title: "From `openai`", answers: [{ text: "One two three four five", cut: 4 }], result: "One two three" },
  {
    title: "From `openai`",
    answers: [{ text: "One two three four five", cut: 4 }],
    result: "One two three … (StreamTruncated)"
  },
  { title: "From `@anthropic-ai/sdk`", answers: ["Jupiter."], result: ["Jupiter.", 4] },
  { title: "From `@anthropic-ai/sdk`", answers: ["Jupiter."], result: ["Jupiter.", 2004] },
  { title: "From the AI SDK", answers: [calling, "21 degrees."], result: ["21 degrees.", 2] },
  { title: "From the AI SDK", answers: [calling, "21 degrees."], result: ["21 degrees.", 2] },
  { title: "From LangChain", answers: [ticket], result: "high: Production is down" },
  { title: "From LangChain", answers: [ticket], result: "high: Production is down" }
]

const environment = (url: string) => ({
  OPENAI_API_KEY: "k",
  OPENAI_MODEL: "gpt-4o",
  OPENAI_BASE_URL: `${url}/v1`,
  ANTHROPIC_API_KEY: "k",
  ANTHROPIC_MODEL: "claude-sonnet-4-5",
  ANTHROPIC_BASE_URL: `${url}/v1`,
  GOOGLE_API_KEY: "k",
  GOOGLE_MODEL: "gemini-3-flash",
  GOOGLE_BASE_URL: `${url}/v1beta`,
  GROQ_API_KEY: "k",
  GROQ_MODEL: "llama-3.3-70b-versatile",
  GROQ_BASE_URL: `${url}/openai/v1`,
  OLLAMA_MODEL: "qwen3",
  OLLAMA_HOST: url
})

/** The cells of the table that begins with this row. */
const tableFrom = (row: string): ReadonlyArray<ReadonlyArray<string>> => {
  const lines = guide.slice(guide.indexOf(`\n${row}`) + 1).split("\n")
  const end = lines.findIndex((line) => !line.startsWith("|"))
  const cells = (line: string) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim())
  return lines.slice(0, end).map(cells)
}

describe("the guide of language models", () => {
  it.live(
    "says what each provider takes",
    () =>
      Effect.gen(function* () {
        const table = yield* Features.table
        const [names, , ...rows] = tableFrom("|  | `OpenAi`")
        assert.deepStrictEqual([names, ...rows], table)
      }),
    60_000
  )

  it("says of each reason what to do", () => {
    const said = tableFrom("| reason | what to do |")
      .slice(2)
      .flatMap(([reasons = ""]) => [...reasons.matchAll(/`(\w+)`/g)].map(([, reason]) => reason))
    assert.sameMembers(said, [...LlmError.Reason.literals])
  })

  it("has a test of each program", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title),
      programs.map(({ title }) => title)
    )
  })

  it.scopedLive(
    "its programs run",
    () =>
      Effect.gen(function* () {
        const { files } = yield* Readme.write(root, blocks)
        for (const [index, program] of programs.entries()) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const server = yield* Fake.make(program.answers ?? [])
              yield* Readme.environment(environment(server.url))
              const result = yield* Readme.run(files[index] ?? "").pipe(
                Effect.catchAllDefect((error) => Effect.dieMessage(`${program.title}, program ${index}: ${error}`))
              )
              assert.deepStrictEqual(result, program.result, program.title)
              program.asked?.(server.asked())
            })
          )
        }
      }),
    120_000
  )
})
