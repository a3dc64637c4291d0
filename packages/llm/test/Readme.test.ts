import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { LlmError } from "@underlay/llm"
import * as Readme from "@underlay/servers/Readme"
import { Effect } from "effect"
import * as Fake from "./fake.ts"

const root = Path.join(import.meta.dirname, "..")
const readme = Fs.readFileSync(Path.join(root, "README.md"), "utf8")
const blocks = Readme.blocks(root)

type Asked = ReadonlyArray<Readonly<Record<string, unknown>>>

/** What a program needs, what it must give, and what must have been asked of the models. */
interface Program {
  readonly title: string
  readonly environment?: (url: string) => Readonly<Record<string, string>>
  readonly answers?: ReadonlyArray<Fake.Answer>
  readonly result: unknown
  readonly asked?: (asked: Asked, server: Fake.Fake) => void
}

const openai = (url: string) => ({
  OPENAI_API_KEY: "k",
  OPENAI_MODEL: "gpt-5-mini",
  OPENAI_BASE_URL: `${url}/v1`,
  OPENAI_API: "responses"
})
const anthropic = (url: string) => ({
  ANTHROPIC_API_KEY: "k",
  ANTHROPIC_MODEL: "claude-sonnet-4-5",
  ANTHROPIC_BASE_URL: `${url}/v1`
})
const google = (url: string) => ({
  GOOGLE_API_KEY: "k",
  GOOGLE_MODEL: "gemini-3-flash",
  GOOGLE_BASE_URL: `${url}/v1beta`
})
const groq = (url: string) => ({
  GROQ_API_KEY: "k",
  GROQ_MODEL: "llama-3.3-70b-versatile",
  GROQ_BASE_URL: `${url}/openai/v1`
})

const tooLong = {
  status: 400,
  body: {
    error: {
      message: "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
      type: "invalid_request_error",
      param: "messages",
      code: "context_length_exceeded"
    }
  }
}

const berlin = { name: "weather", arguments: { city: "Berlin" } }
const atlantis = { name: "weather", arguments: { city: "Atlantis" } }

const programs: ReadonlyArray<Program> = [
  {
    title: "OpenAi",
    environment: openai,
    answers: ["Rayleigh scattering."],
    result: "Rayleigh scattering. (stop, 3 tokens)",
    asked: ([first], { seen }) => {
      assert.strictEqual(seen[0]?.path, "/v1/responses")
      assert.deepInclude(first, { model: "gpt-5-mini", max_output_tokens: 500, store: false })
    }
  },
  {
    title: "OpenAi",
    environment: openai,
    answers: ["Rayleigh scattering."],
    result: "Rayleigh scattering.",
    asked: ([first]) => assert.deepInclude(first, { stream: true })
  },
  {
    title: "AzureOpenAi",
    environment: (url) => ({ AZURE_ENDPOINT: url, AZURE_API_KEY: "k", AZURE_MODEL: "my-gpt-5" }),
    answers: ["Hello!"],
    result: "Hello!",
    asked: ([first], { seen }) => {
      assert.strictEqual(seen[0]?.path, "/openai/v1/responses")
      assert.strictEqual(seen[0]?.headers["api-key"], "k")
      assert.deepInclude(first, { model: "my-gpt-5" })
    }
  },
  {
    title: "AzureOpenAi",
    environment: (url) => ({ AZURE_ENDPOINT: url }),
    answers: ["Hello!", "Again!"],
    result: ["Hello!", "Again!"],
    asked: (_, { seen }) => {
      for (const { headers, path } of seen) {
        assert.strictEqual(path, "/openai/deployments/my-gpt-4o/chat/completions?api-version=2024-10-21")
        assert.strictEqual(headers["authorization"], "Bearer eyJ0eXAiOi...")
      }
    }
  },
  {
    title: "Anthropic",
    environment: anthropic,
    answers: ["Jupiter."],
    result: ["Jupiter.", "stop"],
    asked: ([first]) => assert.deepInclude(first, { max_tokens: 64_000, stop_sequences: ["END"] })
  },
  {
    title: "Google",
    environment: google,
    answers: ["Jupiter."],
    result: { text: "Jupiter.", reasoning: 7 },
    asked: ([first]) => {
      const settings = first?.["generationConfig"]
      assert.deepInclude(settings, { topK: 40, seed: 7 })
      assert.property(settings, "thinkingConfig")
    }
  },
  {
    title: "Groq",
    environment: groq,
    answers: ["Hello!"],
    result: "Hello! (3 tokens)",
    asked: ([first]) => assert.deepInclude(first, { temperature: 0, seed: 7, stop: ["END"] })
  },
  {
    title: "HuggingFace",
    environment: (url) => ({
      HUGGINGFACE_API_KEY: "k",
      HUGGINGFACE_MODEL: "openai/gpt-oss-120b:together",
      HUGGINGFACE_BASE_URL: `${url}/v1`
    }),
    answers: ["Hello!"],
    result: "Hello!",
    asked: ([first]) => assert.deepInclude(first, { model: "openai/gpt-oss-120b:together" })
  },
  {
    title: "Ollama",
    environment: (url) => ({ OLLAMA_HOST: url }),
    answers: ["Hello!"],
    result: "Hello!",
    asked: ([first], { seen }) => {
      assert.deepStrictEqual(
        seen.map(({ path }) => path),
        ["/api/tags", "/api/chat"]
      )
      assert.deepInclude(first, { model: "llama3.2:latest", options: { num_ctx: 16_384 }, keep_alive: 1800 })
    }
  },
  {
    title: "OllamaServer",
    environment: (url) => ({ OLLAMA_HOST: url }),
    result: {
      names: ["llama3.2:latest"],
      capabilities: ["completion", "tools", "thinking"],
      contextLength: 40_960,
      family: "qwen3"
    },
    asked: (_, { seen }) =>
      assert.deepStrictEqual(
        seen.map(({ path }) => path),
        ["/api/tags", "/api/pull", "/api/show"]
      )
  },
  {
    title: "OpenAiCompatible",
    environment: (url) => ({ MODEL_SERVER_URL: `${url}/v1` }),
    answers: ["Hello!"],
    result: "Hello!",
    asked: ([first]) => assert.deepInclude(first, { model: "qwen3", max_tokens: 100 })
  },
  {
    title: "OpenAiCompatible",
    environment: (url) => ({
      MISTRAL_API_KEY: "k",
      MISTRAL_MODEL: "mistral-small-latest",
      MISTRAL_BASE_URL: `${url}/v1`,
      VLLM_URL: `${url}/v1`
    }),
    answers: ["Bonjour!", "Hello!"],
    result: ["Bonjour!", "Hello!"],
    asked: ([mistral, vllm]) => {
      assert.deepInclude(mistral, { random_seed: 7 })
      assert.notProperty(mistral, "top_k")
      assert.deepInclude(vllm, { seed: 7, top_k: 20 })
    }
  },
  {
    title: "Replicate",
    environment: (url) => ({
      REPLICATE_API_KEY: "k",
      REPLICATE_MODEL: "meta/meta-llama-3-70b-instruct",
      REPLICATE_BASE_URL: `${url}/v1`
    }),
    answers: ["Hello!"],
    result: "Hello! (3 tokens)",
    asked: (_, { seen }) =>
      assert.deepStrictEqual(
        seen.map(({ path }) => path),
        ["/v1/models/meta/meta-llama-3-70b-instruct/predictions"]
      )
  },
  {
    title: "Tools",
    environment: anthropic,
    answers: [{ calls: [berlin] }, "21 degrees."],
    result: "21 degrees.",
    asked: ([first, second]) => {
      assert.deepInclude(first, { tool_choice: { type: "tool", name: "weather" } })
      assert.include(JSON.stringify(second?.["messages"]), '"tool_use_id":"toolu_0"')
    }
  },
  {
    title: "LlmToolLoop",
    environment: openai,
    answers: [{ calls: [berlin, atlantis] }, "In Berlin."],
    result: { text: "In Berlin.", ended: "finished", steps: 2, failed: 1, tokens: 6 },
    asked: ([, second]) => {
      const outputs = JSON.stringify(second?.["input"])
      assert.include(outputs, "there is no such city")
      assert.include(outputs, "degrees")
    }
  },
  { title: "LlmToolLoop", result: [{ degrees: 21 }, "21 degrees."] },
  {
    title: "Values by schema",
    environment: google,
    answers: ['{"title":"Production is down","urgency":"high"}'],
    result: { ticket: "high: Production is down", mode: "native", repaired: false },
    asked: ([first]) => {
      assert.deepInclude(first?.["generationConfig"], { responseMimeType: "application/json" })
      assert.include(JSON.stringify(first), "at most ten words")
    }
  },
  {
    title: "Images and files",
    environment: anthropic,
    answers: ["The invoice."],
    result: "The invoice.",
    asked: ([first]) => {
      const sent = JSON.stringify(first?.["messages"])
      assert.include(sent, '"type":"document"')
      assert.include(sent, Buffer.from("%PDF-1.7 …").toString("base64"))
      assert.include(sent, '{"type":"url","url":"https://example.org/chart.png"}')
    }
  },
  {
    title: "Sources",
    environment: openai,
    answers: [
      {
        text: "Effect 3 is stable since April 2024.",
        annotations: [
          {
            type: "url_citation",
            url: "https://effect.website/blog",
            title: "Effect 3.0",
            start_index: 0,
            end_index: 18
          }
        ]
      }
    ],
    result: ["Effect 3.0 (https://effect.website/blog): Effect 3 is stable"],
    asked: ([first]) => assert.deepInclude(first, { tools: [{ type: "web_search" }] })
  },
  {
    title: "Reasoning",
    environment: anthropic,
    answers: [{ reasoning: "17 times 23.", text: "No." }, "Yes."],
    result: ["17 times 23.", "No.", "Yes."],
    asked: ([, second]) =>
      assert.include(
        JSON.stringify(second?.["messages"]),
        JSON.stringify({ type: "thinking", thinking: "17 times 23.", signature: "c2lnbmVk" })
      )
  },
  {
    title: "Prompt cache",
    environment: anthropic,
    answers: ["With the button."],
    result: [2004, 0, 2000],
    asked: ([first]) =>
      assert.include(JSON.stringify(first?.["system"]), '"cache_control":{"type":"ephemeral","ttl":"1h"}')
  },
  {
    title: "Provider options",
    environment: openai,
    answers: ["A lot."],
    result: "A lot.",
    asked: ([first]) => {
      assert.deepInclude(first, { service_tier: "flex", tools: [{ type: "web_search" }] })
      assert.notProperty(first, "thinking")
    }
  },
  { title: "Counting tokens", environment: google, result: 21 },
  {
    title: "Rate limits",
    environment: groq,
    answers: ["Hello!"],
    result: { limit: 6000, remaining: 5988, resetAfter: 120 }
  },
  {
    title: "Errors",
    environment: openai,
    answers: [tooLong],
    result: "Say it in fewer words: 9001 tokens where 8192 are possible.",
    asked: (asked) => assert.strictEqual(asked.length, 1, "it is not asked again")
  },
  {
    title: "Health",
    environment: anthropic,
    result: ["anthropic/claude-sonnet-4-5 up", "model up"],
    asked: (asked) => assert.strictEqual(asked.length, 0, "it costs nothing")
  },
  {
    title: "Embeddings of five providers",
    environment: (url) => ({ ...openai(url), OPENAI_EMBEDDINGS_MODEL: "text-embedding-3-small" }),
    result: ["text-embedding-3-small", 1536, 2],
    asked: (_, { seen }) => assert.strictEqual(seen.length, 1, "both in one request")
  },
  {
    title: "Embeddings of five providers",
    environment: (url) => ({ MODELS_URL: url }),
    result: [1536, 3072, 384, 768]
  },
  {
    title: "LlmProviders",
    environment: (url) => ({ MODELS_URL: url }),
    answers: ["Hello!", "Bonjour!"],
    result: { main: "claude-1: Hello!", quick: "m-1: Bonjour!", dimensions: 768, health: ["main up", "quick up"] }
  },
  {
    title: "LlmLanguageModel",
    environment: anthropic,
    answers: [{ reasoning: "hm", calls: [berlin] }, "21 degrees."],
    result: [[{ degrees: 21 }], "21 degrees."],
    asked: ([first, second]) => {
      assert.deepInclude(first, { temperature: 0, max_tokens: 1000 })
      const sent = JSON.stringify(second?.["messages"])
      assert.include(sent, '"signature":"c2lnbmVk"')
      assert.include(sent, '"tool_result"')
    }
  },
  { title: "LlmLanguageModel", result: 256 },
  {
    title: "LlmTest",
    result: [
      "You sent 1 message.",
      "RateLimited",
      4,
      [
        ["generate", undefined],
        ["generate", undefined],
        ["stream", 0]
      ]
    ]
  },
  { title: "LlmTest", result: { reason: "StreamTruncated", partial: "Hello", text: "Hello", faults: [] } },
  {
    title: "LlmProvider",
    environment: (url) => ({ MODEL_SERVER_URL: url }),
    answers: ["Hello!"],
    result: "Hello!",
    asked: (_, { seen }) => {
      assert.strictEqual(seen[0]?.path, "/chat/completions?deployment=house-1")
      assert.strictEqual(seen[0]?.headers["x-house-key"], "sk-...")
    }
  }
]

/** The modules of the package and the layers that each exports. */
const layers = Fs.readdirSync(Path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && !file.startsWith("internal"))
  .map((file) => {
    const source = Fs.readFileSync(Path.join(root, "src", file), "utf8")
    return {
      module: Path.basename(file, ".ts"),
      names: [...source.matchAll(/^export const (layer\w*)/gm)].map(([, name = ""]) => name)
    }
  })
  .filter(({ names }) => names.length > 0)

describe("README", () => {
  it("has a program for each module that has a layer, and names every layer", () => {
    assert.isAbove(layers.length, 15)
    const code = blocks.map((block) => block.code).join("\n")
    for (const { module, names } of layers) {
      assert.match(code, new RegExp(`\\b${module}\\.layer`), `no program uses a layer of ${module}`)
      const rows = readme.split("\n").filter((line) => line.startsWith("| [`") && line.includes(`\`${module}`))
      for (const name of names) assert.match(rows.join("\n"), new RegExp(`\\.${name}\``), `${module}.${name}`)
    }
  })

  it("has a row for each reason of errors, and links to headings that are there", () => {
    const [, table = ""] = readme.split("| reason | when | retried |")
    const rows = [...(table.split("\n\n", 1)[0]?.matchAll(/^\| `(\w+)` \|/gm) ?? [])].map(([, name]) => name)
    assert.sameMembers(rows, [...LlmError.Reason.literals])
    const anchors = [...readme.matchAll(/^## (.*)$/gm)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replace(/[^\w\- ]/g, "")
        .replaceAll(" ", "-")
    )
    for (const [, anchor = ""] of readme.matchAll(/\]\(#([^)]*)\)/g)) assert.include(anchors, anchor)
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
              yield* Readme.environment(program.environment?.(server.url) ?? {})
              const result = yield* Readme.run(files[index] ?? "").pipe(
                Effect.catchAllDefect((error) => Effect.dieMessage(`${program.title}, program ${index}: ${error}`))
              )
              assert.deepStrictEqual(result, program.result, program.title)
              program.asked?.(server.asked(), server)
            })
          )
        }
      }),
    120_000
  )
})
