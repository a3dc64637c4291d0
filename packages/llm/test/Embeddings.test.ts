/** The wire formats of embeddings: what they read and write, and what the official packages make of the same bytes. */

import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as EmbeddingFormats from "@underlay/llm/protocol/EmbeddingFormats"
import * as Need from "@underlay/servers/Need"
import { Ajv } from "ajv"
import { Either, FastCheck } from "effect"

const context = { provider: "p", model: "m", method: "embed" }

const read = (
  decode: EmbeddingFormats.EmbeddingsProtocol["decode"],
  body: unknown,
  expected?: number
): EmbeddingFormats.EmbeddingsResponse =>
  Either.getOrThrow(decode(typeof body === "string" ? body : JSON.stringify(body), context, expected))

const fault = (decode: EmbeddingFormats.EmbeddingsProtocol["decode"], body: unknown, expected?: number) => {
  const result = decode(typeof body === "string" ? body : JSON.stringify(body), context, expected)
  if (Either.isRight(result)) return assert.fail(`decoded ${result.right.vectors.length} vectors`)
  return result.left
}

const base64 = (...floats: ReadonlyArray<number>): string => {
  const bytes = Buffer.alloc(floats.length * 4)
  floats.forEach((value, at) => void bytes.writeFloatLE(value, at * 4))
  return bytes.toString("base64")
}

const openAi = (...embeddings: ReadonlyArray<unknown>) => ({
  object: "list",
  data: embeddings.map((embedding, index) => ({ object: "embedding", index, embedding })),
  model: "text-embedding-3-small",
  usage: { prompt_tokens: 7, total_tokens: 7 }
})

describe("OpenAI's format", () => {
  it("numbers, the model and the tokens", () => {
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, openAi([1, 0.5], [-0.25, 2]), 2), {
      vectors: [
        [1, 0.5],
        [-0.25, 2]
      ],
      usage: { input: 7 },
      model: "text-embedding-3-small",
      id: undefined
    })
  })

  it("base64 is little-endian 32-bit floats", () => {
    // 1.0 is 0x3f800000, its least significant byte first.
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, openAi("AACAPwAAAMA=")).vectors, [[1, -2]])
  })

  it("property: base64 gives every finite float back", () => {
    const floats = FastCheck.array(FastCheck.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 1 })
    FastCheck.assert(
      FastCheck.property(floats, (values) => {
        assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, openAi(base64(...values))).vectors, [values])
      })
    )
  })

  it("property: the vectors are in the order of their indexes, however they come", () => {
    const shuffled = FastCheck.integer({ min: 1, max: 30 }).chain((length) =>
      FastCheck.shuffledSubarray(
        Array.from({ length }, (_, index) => index),
        { minLength: length }
      )
    )
    FastCheck.assert(
      FastCheck.property(shuffled, (order) => {
        const data = order.map((index) => ({ index, embedding: [index] }))
        assert.deepStrictEqual(
          read(EmbeddingFormats.decodeOpenAi, { data }, order.length).vectors,
          order.map((_, index) => [index])
        )
      })
    )
  })

  it("servers that know no index, or say 0 of all, answer in order", () => {
    for (const index of [undefined, 0]) {
      const data = [
        { index, embedding: [1] },
        { index, embedding: [2] }
      ]
      assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, { data }).vectors, [[1], [2]])
    }
  })

  it("indexes that contradict each other are no order", () => {
    for (const indexes of [
      [0, 0, 1],
      [1, 1, 1],
      [0, 5],
      [0, -1],
      [0, undefined]
    ]) {
      const error = fault(EmbeddingFormats.decodeOpenAi, { data: indexes.map((index) => ({ index, embedding: [1] })) })
      assert.strictEqual(error.reason, "MalformedResponse")
      assert.include(error.issue, "index")
    }
  })

  it("unknown fields, other kinds of usage and no usage never fail", () => {
    const one = { data: [{ embedding: [1], index: 0, novel: {} }], novel: [null] }
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, one).usage, {})
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, { ...one, usage: null }).usage, {})
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, { ...one, usage: { total_tokens: "9" } }).usage, {
      input: 9
    })
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOpenAi, { ...one, usage: { prompt_tokens: 0 } }).usage, {
      input: 0
    })
    assert.strictEqual(read(EmbeddingFormats.decodeOpenAi, { ...one, id: "e-1" }).id, "e-1")
  })

  it("NaN, infinities and what is no number are refused, with the place", () => {
    for (const [embedding, issue] of [
      [[1, null], "data[0].embedding[1] is not a number"],
      [[1, "2"], "data[0].embedding[1] is not a number"],
      [base64(1, Number.NaN), "data[0].embedding[1] is not a finite number"],
      [base64(Number.POSITIVE_INFINITY), "data[0].embedding[0] is not a finite number"],
      ["AAAA", "data[0].embedding is not a list of 32-bit floats"],
      ["AAAAA", "data[0].embedding is not base64"],
      ["not base64!", "data[0].embedding is not base64"],
      ["", "data[0].embedding is not a list of 32-bit floats"],
      [[], "data[0].embedding has no numbers"],
      [null, "data[0].embedding is not a vector"],
      [undefined, "data[0].embedding is not a vector"],
      [{ 0: 1 }, "data[0].embedding is not a vector"]
    ] as const) {
      const error = fault(EmbeddingFormats.decodeOpenAi, openAi(embedding))
      assert.deepStrictEqual([error.reason, error.issue, error.retryable], ["MalformedResponse", issue, false])
    }
    const infinite = fault(EmbeddingFormats.decodeOpenAi, '{"data":[{"embedding":[1e999]}]}')
    assert.strictEqual(infinite.issue, "data[0].embedding[0] is not a finite number")
  })

  it("vectors of several lengths, and fewer or more than asked for, are refused", () => {
    assert.include(fault(EmbeddingFormats.decodeOpenAi, openAi([1, 2], [1])).issue, "vector 1 has 1 dimensions")
    assert.include(fault(EmbeddingFormats.decodeOpenAi, openAi([1]), 2).issue, "1 vectors for 2 texts")
    assert.include(fault(EmbeddingFormats.decodeOpenAi, openAi([1], [2]), 1).issue, "2 vectors for 1 texts")
    for (const decode of [EmbeddingFormats.decodeOpenAi, EmbeddingFormats.decode]) {
      assert.include(fault(decode, { object: "list", data: [], model: "m" }, 1).issue, "no vectors")
      assert.include(fault(decode, { object: "list", data: [], model: "m" }).issue, "no vectors")
      assert.strictEqual(fault(decode, { data: [], error: { message: "boom" } }).providerMessage, "boom")
    }
    assert.include(fault(EmbeddingFormats.decodeFeatureExtraction, []).issue, "no vectors")
  })

  it("an error inside HTTP 200 is an error (complaint 1)", () => {
    const limited = fault(
      EmbeddingFormats.decodeOpenAi,
      {
        error: { message: "Please try again in 4.77s.", code: "rate_limit_exceeded" },
        data: []
      },
      1
    )
    assert.deepStrictEqual([limited.reason, limited.retryable], ["RateLimited", true])
    assert.strictEqual(
      fault(EmbeddingFormats.decodeOpenAi, { error: "model not loaded" }).providerMessage,
      "model not loaded"
    )
  })

  it("an empty body, HTML and other JSON are malformed", () => {
    for (const body of [
      "",
      "  ",
      "<html>busy</html>",
      "null",
      "7",
      '"text"',
      "[]",
      "{}",
      '{"data":7}',
      '{"data":{}}'
    ]) {
      assert.strictEqual(fault(EmbeddingFormats.decodeOpenAi, body, 1).reason, "MalformedResponse", body)
    }
  })

  it("requests have the texts, and what was asked for only", () => {
    const request = { texts: ["a", "b\ud800"], model: "text-embedding-3-small" }
    assert.deepStrictEqual(JSON.parse(EmbeddingFormats.openAi().encode(request)), {
      model: "text-embedding-3-small",
      input: ["a", "b\ud800"]
    })
    const full = EmbeddingFormats.openAi({
      encoding: "base64",
      user: "u",
      fields: { input_type: "query", model: "other" }
    })
    assert.deepStrictEqual(JSON.parse(full.encode({ ...request, dimensions: 256 })), {
      model: "text-embedding-3-small",
      input: ["a", "b\ud800"],
      encoding_format: "base64",
      dimensions: 256,
      user: "u",
      input_type: "query"
    })
  })
})

describe.skipIf(Need.missing("openapi"))(Need.title("OpenAI's description of its API", "openapi"), () => {
  const validator = () => {
    const document = JSON.parse(Fs.readFileSync(Path.join(Need.sharedData, "openapi", "openai.json"), "utf8")) as {
      readonly components: { readonly schemas: Record<string, object> }
    }
    return new Ajv({ strict: false }).compile(document.components.schemas["CreateEmbeddingRequest"] ?? false)
  }

  it("allows our requests", () => {
    const validate = validator()
    for (const texts of [["a"], Array.from({ length: 2048 }, (_, at) => `text ${at}`)]) {
      for (const dimensions of [undefined, 256]) {
        const body = EmbeddingFormats.openAi({ encoding: "base64", user: "u" }).encode({
          texts,
          model: "text-embedding-3-small",
          dimensions
        })
        assert.isTrue(validate(JSON.parse(body)), JSON.stringify(validate.errors))
      }
    }
  })

  it("would refuse others: the check can fail", () => {
    const validate = validator()
    assert.isFalse(validate({ model: "m", input: ["a"], taskType: "CLUSTERING" }))
    assert.isFalse(validate({ input: ["a"] }))
  })
})

describe("Gemini's format", () => {
  it("batches and single answers", () => {
    assert.deepStrictEqual(
      read(EmbeddingFormats.decodeGemini, { embeddings: [{ values: [1, 2] }, { values: [3, 4] }] }).vectors,
      [
        [1, 2],
        [3, 4]
      ]
    )
    assert.deepStrictEqual(read(EmbeddingFormats.decodeGemini, { embedding: { values: [1, 2] } }).vectors, [[1, 2]])
  })

  it("tokens of the whole, or of each", () => {
    const each = (tokenCount?: number) => ({ values: [1], statistics: { tokenCount } })
    assert.deepStrictEqual(
      read(EmbeddingFormats.decodeGemini, { embeddings: [each(1), each(2)], usageMetadata: { promptTokenCount: 9 } })
        .usage,
      { input: 9 }
    )
    assert.deepStrictEqual(read(EmbeddingFormats.decodeGemini, { embeddings: [each(1), each(2)] }).usage, { input: 3 })
    assert.deepStrictEqual(read(EmbeddingFormats.decodeGemini, { embeddings: [each(1), each()] }).usage, {})
    assert.deepStrictEqual(read(EmbeddingFormats.decodeGemini, { embeddings: [{ values: [1] }] }).usage, {})
  })

  it("Vertex AI's predictions", () => {
    const prediction = (value: number) => ({ embeddings: { values: [value], statistics: { token_count: 3 } } })
    for (const decode of [EmbeddingFormats.decodeGemini, EmbeddingFormats.decode]) {
      const found = read(decode, { predictions: [prediction(1), prediction(2)], metadata: {} }, 2)
      assert.deepStrictEqual([found.vectors, found.usage], [[[1], [2]], { input: 6 }])
    }
    assert.include(fault(EmbeddingFormats.decodeGemini, { predictions: [{}] }).issue, "embeddings[0].values")
  })

  it("an embedding without values is refused", () => {
    assert.include(
      fault(EmbeddingFormats.decodeGemini, { embeddings: [{ values: [1] }, {}] }).issue,
      "embeddings[1].values"
    )
    assert.include(fault(EmbeddingFormats.decodeGemini, {}).issue, "no embeddings")
    assert.include(fault(EmbeddingFormats.decodeGemini, { embeddings: [] }).issue, "no vectors")
  })

  it("each text of a request is one of its own, with the model's resource name", () => {
    assert.deepStrictEqual(
      JSON.parse(
        EmbeddingFormats.gemini({ taskType: "RETRIEVAL_DOCUMENT", title: "T" }).encode({
          texts: ["a", "b"],
          model: "gemini-embedding-001",
          dimensions: 768
        })
      ),
      {
        requests: ["a", "b"].map((text) => ({
          model: "models/gemini-embedding-001",
          content: { parts: [{ text }] },
          taskType: "RETRIEVAL_DOCUMENT",
          title: "T",
          outputDimensionality: 768
        }))
      }
    )
    const named = JSON.parse(EmbeddingFormats.gemini().encode({ texts: ["a"], model: "models/embedding-001" }))
    assert.deepStrictEqual(named, {
      requests: [{ model: "models/embedding-001", content: { parts: [{ text: "a" }] } }]
    })
  })
})

describe("Hugging Face's feature extraction", () => {
  const decode = EmbeddingFormats.decodeFeatureExtraction

  it("a vector for each text", () => {
    assert.deepStrictEqual(
      read(
        decode,
        [
          [1, 2],
          [3, 4]
        ],
        2
      ),
      {
        vectors: [
          [1, 2],
          [3, 4]
        ],
        usage: {},
        model: undefined,
        id: undefined
      }
    )
  })

  it("a single vector, however many lists are round it", () => {
    let body: unknown = [1, 2]
    for (let depth = 0; depth < 4; depth++) {
      assert.deepStrictEqual(read(decode, body, 1).vectors, [[1, 2]], JSON.stringify(body))
      body = [body]
    }
  })

  it("vectors of tokens are pooled: by their mean, or the first", () => {
    const tokens = [
      [
        [1, 2],
        [3, 6]
      ],
      [
        [5, 5],
        [7, 7],
        [9, 9]
      ]
    ]
    assert.deepStrictEqual(read(decode, tokens, 2).vectors, [
      [2, 4],
      [7, 7]
    ])
    const cls = Either.getOrThrow(decode(JSON.stringify(tokens), context, 2, "cls"))
    assert.deepStrictEqual(cls.vectors, [
      [1, 2],
      [5, 5]
    ])
    // With a list of one round those of each text, as the pipeline of transformers gives them.
    assert.deepStrictEqual(
      read(
        decode,
        tokens.map((each) => [each]),
        2
      ).vectors,
      [
        [2, 4],
        [7, 7]
      ]
    )
    // Those of a single text, without a list round them.
    assert.deepStrictEqual(read(decode, tokens[0], 1).vectors, [[2, 4]])
  })

  it("tokens of several lengths, text and deep nests are refused", () => {
    assert.include(fault(decode, [[[1, 2], [1]]], 1).issue, "several lengths")
    assert.include(fault(decode, [[1, "a"]], 1).issue, "is not a number")
    assert.include(fault(decode, [[1], 2], 2).issue, "[1] is not a vector")
    assert.include(fault(decode, ["text"], 1).issue, "is not a number")
    let deep: unknown = [1]
    for (let depth = 0; depth < 2000; depth++) deep = [deep]
    assert.strictEqual(fault(decode, deep, 1).reason, "MalformedResponse")
  })

  it("errors inside HTTP 200, as an object or a list", () => {
    assert.strictEqual(fault(decode, { error: "Model is overloaded" }).providerMessage, "Model is overloaded")
    assert.strictEqual(fault(decode, [{ error: { message: "no", code: 503 } }]).reason, "Overloaded")
  })

  it("servers that answer in another form are understood", () => {
    assert.deepStrictEqual(read(decode, openAi([1, 2]), 1).vectors, [[1, 2]])
    assert.deepStrictEqual(read(decode, { embeddings: [[1, 2]] }, 1).vectors, [[1, 2]])
  })

  it("requests say only what was asked for", () => {
    assert.deepStrictEqual(JSON.parse(EmbeddingFormats.featureExtraction().encode({ texts: ["a"], model: "m" })), {
      inputs: ["a"]
    })
    assert.deepStrictEqual(
      JSON.parse(
        EmbeddingFormats.featureExtraction({
          normalize: true,
          truncate: true,
          truncationDirection: "left",
          promptName: "query"
        }).encode({ texts: ["a"], model: "m" })
      ),
      { inputs: ["a"], normalize: true, truncate: true, truncation_direction: "left", prompt_name: "query" }
    )
  })
})

describe("Ollama's format", () => {
  it("answers of /api/embed, and of the older /api/embeddings", () => {
    assert.deepStrictEqual(
      read(
        EmbeddingFormats.decodeOllama,
        { model: "all-minilm", embeddings: [[1, 2]], total_duration: 14143917, prompt_eval_count: 8 },
        1
      ),
      { vectors: [[1, 2]], usage: { input: 8 }, model: "all-minilm", id: undefined }
    )
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOllama, { embedding: [1, 2] }, 1).vectors, [[1, 2]])
  })

  it("an empty vector and no vectors are refused", () => {
    assert.include(fault(EmbeddingFormats.decodeOllama, { embedding: [] }, 1).issue, "has no numbers")
    assert.include(fault(EmbeddingFormats.decodeOllama, { embeddings: [] }, 1).issue, "0 vectors for 1 texts")
    // Of a request without a text, which loads the model.
    assert.deepStrictEqual(read(EmbeddingFormats.decodeOllama, { embeddings: [] }).vectors, [])
    assert.include(fault(EmbeddingFormats.decodeOllama, { model: "m" }, 1).issue, "no embeddings")
    assert.strictEqual(fault(EmbeddingFormats.decodeOllama, { error: "boom" }, 1).providerMessage, "boom")
  })

  it("a text that is too long is not cut without a word, unless that is asked for", () => {
    const request = { texts: ["a", "b"], model: "m", dimensions: 128 }
    assert.deepStrictEqual(JSON.parse(EmbeddingFormats.ollama().encode(request)), {
      model: "m",
      input: ["a", "b"],
      truncate: false,
      dimensions: 128
    })
    assert.deepStrictEqual(
      JSON.parse(
        EmbeddingFormats.ollama({ truncate: true, keepAlive: "5m", options: { num_ctx: 512 } }).encode(request)
      ),
      { model: "m", input: ["a", "b"], truncate: true, dimensions: 128, keep_alive: "5m", options: { num_ctx: 512 } }
    )
  })
})

describe("decode", () => {
  it("tells the formats apart by their shape", () => {
    for (const [body, input] of [
      [openAi([1, 2], [3, 4]), 7],
      [openAi(base64(1, 2), base64(3, 4)), 7],
      [{ embeddings: [{ values: [1, 2] }, { values: [3, 4] }], usageMetadata: { promptTokenCount: 5 } }, 5],
      [
        {
          embeddings: [
            [1, 2],
            [3, 4]
          ],
          prompt_eval_count: 6
        },
        6
      ],
      [
        [
          [1, 2],
          [3, 4]
        ],
        undefined
      ]
    ] as const) {
      const found = read(EmbeddingFormats.decode, body)
      assert.deepStrictEqual(found.vectors, [
        [1, 2],
        [3, 4]
      ])
      assert.strictEqual(found.usage.input, input)
    }
    assert.deepStrictEqual(read(EmbeddingFormats.decode, { embedding: { values: [1] } }).vectors, [[1]])
    assert.deepStrictEqual(read(EmbeddingFormats.decode, { embedding: [1] }).vectors, [[1]])
    assert.deepStrictEqual(read(EmbeddingFormats.decode, [1, 2]).vectors, [[1, 2]])
    assert.strictEqual(fault(EmbeddingFormats.decode, {}).reason, "MalformedResponse")
  })

  it("property: whatever JSON comes, it gives vectors of one length or a typed error, and never throws", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.jsonValue(), (body) => {
        for (const decode of [
          EmbeddingFormats.decode,
          EmbeddingFormats.decodeOpenAi,
          EmbeddingFormats.decodeGemini,
          EmbeddingFormats.decodeOllama,
          EmbeddingFormats.decodeFeatureExtraction
        ]) {
          const result = decode(JSON.stringify(body), context)
          if (Either.isLeft(result)) continue
          assert.isAtMost(new Set(result.right.vectors.map((vector) => vector.length)).size, 1)
          for (const value of result.right.vectors.flat()) assert.isTrue(Number.isFinite(value))
        }
      })
    )
  })
})
