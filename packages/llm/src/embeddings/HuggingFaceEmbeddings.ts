/**
 * Embeddings of models on Hugging Face: its own inference, the providers behind its router, and servers of your own.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import { Embeddings, type EmbeddingsError } from "@underlay/core/storage/Embeddings"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as LlmEmbeddings from "../LlmEmbeddings.ts"
import * as EmbeddingFormats from "../protocol/EmbeddingFormats.ts"

/**
 * The name of the provider, in errors and telemetry.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "huggingface"

/**
 * @since 0.1.0
 * @category models
 */
export interface HuggingFaceEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  /** A token; a server of your own may need none. */
  readonly apiKey?: Redacted.Redacted | undefined
  /**
   * `org/name` for Hugging Face's own inference; `org/name:provider` for one of the providers behind its router, which is
   * asked in OpenAI's format for the model of that name.
   */
  readonly model: string
  /** A server of your own: an Inference Endpoint, or Text Embeddings Inference. By default Hugging Face's router. */
  readonly baseUrl?: string | undefined
  /**
   * Feature extraction is Hugging Face's own format; OpenAI's is that of the providers behind the router. A server of your
   * own is asked at `baseUrl` itself for the first, at `/v1/embeddings` of it for the second.
   */
  readonly api?: "feature-extraction" | "openai" | undefined
  /** How a vector is made of those of the tokens, for a model that gives one for each. `mean`. */
  readonly pooling?: EmbeddingFormats.Pooling | undefined
  /** Whether a text that is too long is cut to fit without a word. The server decides by default. */
  readonly truncate?: boolean | undefined
  readonly truncationDirection?: "left" | "right" | undefined
  /** The name of a prompt that the model knows, such as `query`. */
  readonly promptName?: string | undefined
}

const router = "https://router.huggingface.co"
const ownProvider = "hf-inference"

const known: Readonly<Record<string, number>> = {
  "sentence-transformers/all-minilm-l6-v2": 384,
  "sentence-transformers/all-minilm-l12-v2": 384,
  "sentence-transformers/all-mpnet-base-v2": 768,
  "sentence-transformers/paraphrase-multilingual-minilm-l12-v2": 384,
  "sentence-transformers/paraphrase-multilingual-mpnet-base-v2": 768,
  "baai/bge-small-en-v1.5": 384,
  "baai/bge-base-en-v1.5": 768,
  "baai/bge-large-en-v1.5": 1024,
  "baai/bge-m3": 1024,
  "intfloat/multilingual-e5-small": 384,
  "intfloat/multilingual-e5-base": 768,
  "intfloat/multilingual-e5-large": 1024,
  "intfloat/multilingual-e5-large-instruct": 1024,
  "thenlper/gte-large": 1024,
  "mixedbread-ai/mxbai-embed-large-v1": 1024,
  "nomic-ai/nomic-embed-text-v1.5": 768,
  "google/embeddinggemma-300m": 768,
  "qwen/qwen3-embedding-0.6b": 1024,
  "qwen/qwen3-embedding-4b": 2560,
  "qwen/qwen3-embedding-8b": 4096
}

/**
 * How many numbers a vector of a well-known model has.
 *
 * @since 0.1.0
 * @category combinators
 */
export const dimensionsOf = (model: string): number | undefined => {
  const name = model.replace(/:.*$/, "").toLowerCase()
  return Object.hasOwn(known, name) ? known[name] : undefined
}

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: HuggingFaceEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> => {
  const { api, apiKey, baseUrl, pooling, promptName, truncate, truncationDirection, ...rest } = options
  const [name = options.model, provider = ownProvider] = options.model.split(":")
  const openAi = api === undefined ? baseUrl === undefined && provider !== ownProvider : api === "openai"
  const endpoint =
    baseUrl !== undefined
      ? openAi
        ? `${/\/v1\/*$/.test(baseUrl) ? "" : "/v1"}/embeddings`
        : ""
      : openAi
        ? `/${encodeURIComponent(provider)}/v1/embeddings`
        : `/${encodeURIComponent(provider)}/models/${name.split("/").map(encodeURIComponent).join("/")}/pipeline/feature-extraction`
  const protocol = openAi
    ? EmbeddingFormats.openAi()
    : EmbeddingFormats.featureExtraction({ pooling, promptName, truncate, truncationDirection })
  return LlmEmbeddings.make({
    ...rest,
    provider: kind,
    baseUrl: baseUrl ?? router,
    endpoint,
    protocol: {
      ...protocol,
      encode: (request) => protocol.encode(baseUrl === undefined ? { ...request, model: name } : request)
    },
    modelDimensions: dimensionsOf(options.model),
    // Few of these servers can shorten.
    shorten: options.shorten ?? false,
    headers: apiKey === undefined ? {} : { authorization: `Bearer ${Redacted.value(apiKey)}` },
    // Text Embeddings Inference takes 32 texts unless it is told otherwise, in a body of up to 2 MB.
    limits: { inputs: 4096, preferred: 32, bytes: 1_000_000 }
  })
}

/** The options as settings; those that are of embeddings alone are within. */
const settingsWith = (
  within: <A>(config: Config.Config<A>) => Config.Config<A>
): Config.Config<HuggingFaceEmbeddingsOptions> =>
  Config.map(
    Config.all([
      Config.option(Config.redacted("apiKey")),
      within(
        Config.all({
          model: Config.nonEmptyString("model"),
          baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
          api: Config.option(Config.literal("feature-extraction", "openai")("api")),
          pooling: Config.option(Config.literal("mean", "cls")("pooling")),
          truncate: Config.option(Config.boolean("truncate")),
          promptName: Config.option(Config.nonEmptyString("promptName"))
        })
      ),
      within(LlmEmbeddings.settings)
    ]),
    ([apiKey, own, settings]): HuggingFaceEmbeddingsOptions => ({
      ...settings,
      apiKey: Option.getOrUndefined(apiKey),
      model: own.model,
      baseUrl: Option.getOrUndefined(own.baseUrl),
      api: Option.getOrUndefined(own.api),
      pooling: Option.getOrUndefined(own.pooling),
      truncate: Option.getOrUndefined(own.truncate),
      promptName: Option.getOrUndefined(own.promptName)
    })
  )

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<HuggingFaceEmbeddingsOptions> = settingsWith((config) => config)

/**
 * The options as settings: `huggingface.embeddings.model`, and if they are there `huggingface.apiKey`,
 * `huggingface.embeddings.baseUrl`, `.api`, `.pooling`, `.truncate`, `.promptName` and `.dimensions` with the other settings
 * of embeddings.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<HuggingFaceEmbeddingsOptions> = Config.nested(
  settingsWith(Config.nested("embeddings")),
  kind
)

/**
 * Embeddings of a model on Hugging Face.
 *
 * ```ts
 * const Vectors = HuggingFaceEmbeddings.layerEmbeddings({ apiKey: Redacted.make("hf_…"), model: "BAAI/bge-m3" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings = (
  options: HuggingFaceEmbeddingsOptions
): Layer.Layer<Embeddings, EmbeddingsError, HttpClient.HttpClient> => Layer.scoped(Embeddings, make(options))

/**
 * The same, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsConfig = (
  options: Config.Config.Wrap<HuggingFaceEmbeddingsOptions> = config
): Layer.Layer<Embeddings, EmbeddingsError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Embeddings, Effect.flatMap(Config.unwrap(options), make))
