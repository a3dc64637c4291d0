/**
 * The wire formats of embeddings: OpenAI's (also Azure's and that of most servers), Gemini's, the feature extraction of
 * Hugging Face, Ollama's. Each writes a request for many texts and reads the vectors of the answer in their order.
 *
 * @since 0.1.0
 */
import * as Either from "effect/Either"
import { type CallContext, envelopeOf, errorOf, isRecord, ownError, type Place } from "../internal/classify.ts"
import * as Sse from "../internal/sse.ts"
import { count, type Json, string } from "../internal/wire.ts"
import type { LlmError } from "../LlmError.ts"
import type { RateLimits, Usage } from "../LlmResponse.ts"

/**
 * What is asked for: a vector for each text, of `dimensions` numbers if the model is to shorten them.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsRequest {
  readonly texts: ReadonlyArray<string>
  readonly model: string
  readonly dimensions?: number | undefined
}

/**
 * What came: the vectors in the order of the texts, all of the same length, of finite numbers. `usage` has `input` only;
 * `model` and `id` are what the provider named, `rateLimits` what the headers of the (last) response said of its limits.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsResponse {
  readonly vectors: ReadonlyArray<ReadonlyArray<number>>
  readonly usage: Usage
  readonly model?: string | undefined
  readonly id?: string | undefined
  readonly rateLimits?: RateLimits | undefined
}

/**
 * A wire format. `decode` fails with the provider's error if the body is one in spite of its status, and with
 * `MalformedResponse` for anything but `expected` vectors (if that is given, else at least one) of the same length.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsProtocol {
  /** How the vectors are asked for, as `gen_ai.request.encoding_formats` says it. */
  readonly encoding?: string | undefined
  readonly encode: (request: EmbeddingsRequest) => string
  readonly decode: (
    body: string,
    context: CallContext,
    expected?: number | undefined
  ) => Either.Either<EmbeddingsResponse, LlmError>
}

/** What is wrong with a value, by its place and kind. */
type Read<A> = Either.Either<A, string>

type Vector = ReadonlyArray<number>

const numbersIn = (list: ReadonlyArray<unknown>, where: string): Read<Vector> => {
  if (list.length === 0) return Either.left(`${where} has no numbers`)
  for (let at = 0; at < list.length; at++) {
    const value = list[at]
    if (typeof value !== "number") return Either.left(`${where}[${at}] is not a number`)
    if (!Number.isFinite(value)) return Either.left(`${where}[${at}] is not a finite number`)
  }
  return Either.right(list as Vector)
}

const base64 = /^[A-Za-z0-9+/]*={0,2}$/

/** 32-bit floats, the least significant byte first. */
const floatsIn = (text: string, where: string): Read<Vector> => {
  const encoded = text.trim()
  if (encoded.length % 4 !== 0 || !base64.test(encoded)) return Either.left(`${where} is not base64`)
  const bytes = atob(encoded)
  if (bytes.length === 0 || bytes.length % 4 !== 0) return Either.left(`${where} is not a list of 32-bit floats`)
  const view = new DataView(new ArrayBuffer(bytes.length))
  for (let at = 0; at < bytes.length; at++) view.setUint8(at, bytes.charCodeAt(at))
  const vector = new Array<number>(bytes.length / 4)
  for (let at = 0; at < vector.length; at++) {
    const value = view.getFloat32(at * 4, true)
    if (!Number.isFinite(value)) return Either.left(`${where}[${at}] is not a finite number`)
    vector[at] = value
  }
  return Either.right(vector)
}

const meanOf = (rows: ReadonlyArray<Vector>): Vector => {
  const sums = new Array<number>(rows[0]?.length ?? 0).fill(0)
  for (const row of rows) for (let at = 0; at < sums.length; at++) sums[at] = (sums[at] ?? 0) + (row[at] ?? 0)
  return sums.map((sum) => sum / rows.length)
}

// Deeper nesting than this is no tensor of any model.
const maxDepth = 6

/** A vector, however it is written: numbers, base64, or one vector for each token, which are pooled. */
const vectorIn = (value: unknown, where: string, pooling: Pooling, depth = 0): Read<Vector> => {
  if (typeof value === "string") return floatsIn(value, where)
  if (!Array.isArray(value)) return Either.left(`${where} is not a vector`)
  const list: ReadonlyArray<unknown> = value
  if (depth >= maxDepth || !Array.isArray(list[0])) return numbersIn(list, where)
  if (list.length === 1) return vectorIn(list[0], `${where}[0]`, pooling, depth + 1)
  const rows: Array<Vector> = []
  for (let at = 0; at < list.length; at++) {
    const row = vectorIn(list[at], `${where}[${at}]`, pooling, depth + 1)
    if (Either.isLeft(row)) return row
    if (row.right.length !== (rows[0] ?? row.right).length) return Either.left(`${where} has rows of several lengths`)
    rows.push(row.right)
  }
  return Either.right(pooling === "cls" ? (rows[0] ?? []) : meanOf(rows))
}

const vectorsIn = (
  list: ReadonlyArray<unknown>,
  where: (at: number) => string,
  pooling: Pooling = "mean"
): Read<ReadonlyArray<Vector>> => {
  const vectors: Array<Vector> = []
  for (let at = 0; at < list.length; at++) {
    const vector = vectorIn(list[at], where(at), pooling)
    if (Either.isLeft(vector)) return Either.left(vector.left)
    vectors.push(vector.right)
  }
  return Either.right(vectors)
}

/** The entries in the order of their `index`, if they have one that tells the order. */
const inOrder = (list: ReadonlyArray<unknown>): Read<ReadonlyArray<unknown>> => {
  const indexes = list.map((entry) => (isRecord(entry) ? count(entry["index"]) : undefined))
  // Some servers know no index, or say 0 of every entry: their answers are in order.
  if (indexes.every((index) => index === indexes[0] && (index === undefined || index === 0))) return Either.right(list)
  const ordered = new Array<unknown>(list.length)
  const seen = new Set<number>()
  for (let at = 0; at < list.length; at++) {
    const index = indexes[at]
    if (index === undefined || !Number.isInteger(index) || index < 0 || index >= list.length || seen.has(index)) {
      return Either.left(`data[${at}].index is not the position of one of the texts`)
    }
    seen.add(index)
    ordered[index] = list[at]
  }
  return Either.right(ordered)
}

// None of these takes a request without a text.
const noVectors = "the body has no vectors"

type Found = { readonly vectors: ReadonlyArray<Vector>; readonly usage: Usage }

const usageOf = (input: number | undefined): Usage => (input === undefined ? {} : { input })

const openAiVectors = (list: ReadonlyArray<unknown>): Read<ReadonlyArray<Vector>> =>
  Either.flatMap(inOrder(list), (entries) =>
    vectorsIn(
      entries.map((entry) => (isRecord(entry) ? entry["embedding"] : entry)),
      (at) => `data[${at}].embedding`
    )
  )

const openAiUsage = (record: Json): Usage => {
  const usage = isRecord(record["usage"]) ? record["usage"] : {}
  return usageOf(count(usage["prompt_tokens"]) ?? count(usage["input_tokens"]) ?? count(usage["total_tokens"]))
}

const openAiIn = (value: unknown): Read<Found> => {
  if (!isRecord(value) || !Array.isArray(value["data"])) return Either.left("the body has no list of data")
  if (value["data"].length === 0) return Either.left(noVectors)
  return Either.map(openAiVectors(value["data"]), (vectors) => ({ vectors, usage: openAiUsage(value) }))
}

/** The tokens of all entries, if each says its own. */
const sumOf = (entries: ReadonlyArray<unknown>): number | undefined => {
  let sum: number | undefined
  for (const entry of entries) {
    const statistics = isRecord(entry) && isRecord(entry["statistics"]) ? entry["statistics"] : {}
    const tokens = count(statistics["tokenCount"]) ?? count(statistics["token_count"])
    if (tokens === undefined) return undefined
    sum = (sum ?? 0) + tokens
  }
  return sum
}

const geminiIn = (value: unknown): Read<Found> => {
  if (!isRecord(value)) return Either.left("the body is not an object")
  const predictions: ReadonlyArray<unknown> | undefined = Array.isArray(value["predictions"])
    ? value["predictions"]
    : undefined
  // Vertex AI wraps each embedding in a prediction.
  const said =
    predictions?.map((each) => (isRecord(each) ? each["embeddings"] : each)) ??
    value["embeddings"] ??
    value["embedding"]
  if (said === undefined || said === null) return Either.left("the body has no embeddings")
  const list: ReadonlyArray<unknown> = Array.isArray(said) ? said : [said]
  if (list.length === 0) return Either.left(noVectors)
  const vectors = vectorsIn(
    list.map((entry) => (isRecord(entry) ? entry["values"] : entry)),
    (at) => `embeddings[${at}].values`
  )
  const metadata = isRecord(value["usageMetadata"]) ? value["usageMetadata"] : {}
  const input = count(metadata["promptTokenCount"]) ?? count(metadata["totalTokenCount"]) ?? sumOf(list)
  return Either.map(vectors, (found) => ({ vectors: found, usage: usageOf(input) }))
}

const ollamaIn = (value: unknown): Read<Found> => {
  if (!isRecord(value)) return Either.left("the body is not an object")
  const many = value["embeddings"]
  const one = value["embedding"]
  if (!Array.isArray(many) && one === undefined) return Either.left("the body has no embeddings")
  // Asked about no text, Ollama loads the model and says so: `embeddings` is an empty list.
  const vectors = Array.isArray(many)
    ? vectorsIn(many, (at) => `embeddings[${at}]`)
    : vectorsIn([one], () => "embedding")
  return Either.map(vectors, (found) => ({ vectors: found, usage: usageOf(count(value["prompt_eval_count"])) }))
}

const featuresIn = (value: unknown, pooling: Pooling, expected: number | undefined): Read<Found> => {
  const said = isRecord(value) ? (value["embeddings"] ?? value["embedding"]) : value
  if (!Array.isArray(said)) {
    return isRecord(value) && Array.isArray(value["data"]) ? openAiIn(value) : Either.left("the body is not a list")
  }
  const list: ReadonlyArray<unknown> = said
  if (list.length === 0) return Either.left(noVectors)
  // The vector of a single text, or the vectors of its tokens, without a list round them.
  const single = !Array.isArray(list[0]) || (expected === 1 && list.length > 1)
  const vectors = vectorsIn(single ? [list] : list, (at) => (single ? "the body" : `[${at}]`), pooling)
  return Either.map(vectors, (found) => ({ vectors: found, usage: {} }))
}

/** What all formats have in common round their vectors. */
const decoded = (
  body: string,
  context: CallContext,
  expected: number | undefined,
  read: (value: unknown) => Read<Found>
): Either.Either<EmbeddingsResponse, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...place, issue }))
  const value = Sse.parse(body)
  if (value === undefined) return malformed(body.trim() === "" ? "the body is empty" : "the body is not JSON")
  const found = read(value)
  const issue = Either.isLeft(found)
    ? found.left
    : expected !== undefined && found.right.vectors.length !== expected
      ? `the body has ${found.right.vectors.length} vectors for ${expected} texts`
      : undefined
  if (Either.isLeft(found) || issue !== undefined) {
    const envelope = envelopeOf(value, false)
    return envelope === undefined ? malformed(issue ?? "the body is no answer") : Either.left(errorOf(envelope, place))
  }
  const { usage, vectors } = found.right
  const length = vectors[0]?.length
  const odd = vectors.findIndex((vector) => vector.length !== length)
  if (odd !== -1) {
    return malformed(`vector ${odd} has ${vectors[odd]?.length} dimensions, those before it have ${length}`)
  }
  const record = isRecord(value) ? value : {}
  return Either.right({
    vectors,
    usage,
    model: string(record["model"]) ?? string(record["modelVersion"]),
    id: string(record["id"]) ?? string(record["responseId"])
  })
}

/**
 * Reads OpenAI's answer: a list of `data`, in the order of their `index`, as numbers or as base64 of little-endian 32-bit
 * floats.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeOpenAi: EmbeddingsProtocol["decode"] = (body, context, expected) =>
  decoded(body, context, expected, openAiIn)

/**
 * Reads the answer of Gemini's `batchEmbedContents` or `embedContent`, or of Vertex AI's `predict`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeGemini: EmbeddingsProtocol["decode"] = (body, context, expected) =>
  decoded(body, context, expected, geminiIn)

/**
 * Reads the answer of Ollama's `/api/embed`, or of the older `/api/embeddings`. The answer to a request without a text, which
 * only loads the model, has no vectors.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeOllama: EmbeddingsProtocol["decode"] = (body, context, expected) =>
  decoded(body, context, expected, ollamaIn)

/**
 * How one vector is made of those of a text's tokens: their mean, or the first one.
 *
 * @since 0.1.0
 * @category models
 */
export type Pooling = "mean" | "cls"

/**
 * Reads an answer of Hugging Face's feature extraction, nested as it may be: a vector for each text, a vector for each
 * token of each text (which are pooled, by default by their mean), or either of them for a single text.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeFeatureExtraction = (
  body: string,
  context: CallContext,
  expected?: number | undefined,
  pooling: Pooling = "mean"
): Either.Either<EmbeddingsResponse, LlmError> =>
  decoded(body, context, expected, (value) => featuresIn(value, pooling, expected))

/**
 * Reads an answer in any of the formats, told apart by its shape.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode: EmbeddingsProtocol["decode"] = (body, context, expected) =>
  decoded(body, context, expected, (value) => {
    if (Array.isArray(value)) return featuresIn(value, "mean", expected)
    if (!isRecord(value) || Array.isArray(value["data"])) return openAiIn(value)
    const said = value["embeddings"] ?? value["embedding"]
    const first: unknown = Array.isArray(said) ? said[0] : said
    return isRecord(first) || Array.isArray(value["predictions"]) ? geminiIn(value) : ollamaIn(value)
  })

/**
 * What is particular to a server that speaks OpenAI's format. `encoding`: how the vectors come; base64 is smaller and as
 * exact, but not all servers know it; by default it is not asked for and the server decides. `fields` are put into every
 * request.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenAiDialect {
  readonly encoding?: "float" | "base64" | undefined
  readonly user?: string | undefined
  readonly fields?: Readonly<Record<string, unknown>> | undefined
}

/**
 * OpenAI's format: `POST /embeddings`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const openAi = (dialect: OpenAiDialect = {}): EmbeddingsProtocol => ({
  encoding: dialect.encoding,
  encode: ({ dimensions, model, texts }) =>
    JSON.stringify({
      ...dialect.fields,
      model,
      input: texts,
      encoding_format: dialect.encoding,
      dimensions,
      user: dialect.user
    }),
  decode: decodeOpenAi
})

/**
 * What Gemini's models may be told. `taskType` says what the vectors are for; `title` is that of the document, for
 * `RETRIEVAL_DOCUMENT`.
 *
 * @since 0.1.0
 * @category models
 */
export interface GeminiDialect {
  readonly taskType?: string | undefined
  readonly title?: string | undefined
}

/**
 * Gemini's format: `POST /models/{model}:batchEmbedContents`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const gemini = (dialect: GeminiDialect = {}): EmbeddingsProtocol => ({
  encode: ({ dimensions, model, texts }) =>
    JSON.stringify({
      requests: texts.map((text) => ({
        model: model.includes("/") ? model : `models/${model}`,
        content: { parts: [{ text }] },
        taskType: dialect.taskType,
        title: dialect.title,
        outputDimensionality: dimensions
      }))
    }),
  decode: decodeGemini
})

/**
 * What a server of feature extraction may be told; what is not given is left to the server. `promptName` is that of a
 * prompt that the model knows, such as `query`.
 *
 * @since 0.1.0
 * @category models
 */
export interface FeatureExtractionDialect {
  readonly pooling?: Pooling | undefined
  readonly normalize?: boolean | undefined
  readonly truncate?: boolean | undefined
  readonly truncationDirection?: "left" | "right" | undefined
  readonly promptName?: string | undefined
}

/**
 * Hugging Face's format, also that of Text Embeddings Inference.
 *
 * @since 0.1.0
 * @category constructors
 */
export const featureExtraction = (dialect: FeatureExtractionDialect = {}): EmbeddingsProtocol => ({
  encode: ({ dimensions, texts }) =>
    JSON.stringify({
      inputs: texts,
      normalize: dialect.normalize,
      truncate: dialect.truncate,
      truncation_direction: dialect.truncationDirection,
      prompt_name: dialect.promptName,
      dimensions
    }),
  decode: (body, context, expected) => decodeFeatureExtraction(body, context, expected, dialect.pooling)
})

/**
 * What an Ollama server may be told. `truncate`: whether a text that is too long is cut to fit without a word, which is
 * Ollama's own default; here it is an error by default. `keepAlive`: how long the model stays in memory. `options`: such
 * as `num_ctx`.
 *
 * @since 0.1.0
 * @category models
 */
export interface OllamaDialect {
  readonly truncate?: boolean | undefined
  readonly keepAlive?: string | number | undefined
  readonly options?: Readonly<Record<string, unknown>> | undefined
}

/**
 * Ollama's format: `POST /api/embed`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const ollama = (dialect: OllamaDialect = {}): EmbeddingsProtocol => ({
  encode: ({ dimensions, model, texts }) =>
    JSON.stringify({
      model,
      input: texts,
      truncate: dialect.truncate ?? false,
      dimensions,
      keep_alive: dialect.keepAlive,
      options: dialect.options
    }),
  decode: decodeOllama
})
