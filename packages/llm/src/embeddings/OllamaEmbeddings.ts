/**
 * Embeddings of models on an Ollama server.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import { Embeddings, type EmbeddingsError } from "@underlay/core/storage/Embeddings"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { headersOf, rootOf, secondsOf } from "../internal/ollama.ts"
import * as LlmEmbeddings from "../LlmEmbeddings.ts"
import * as EmbeddingFormats from "../protocol/EmbeddingFormats.ts"
import type { ModelOptions } from "../protocol/OllamaChat.ts"

/**
 * The name of the provider, in errors and telemetry.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "ollama"

/**
 * @since 0.1.0
 * @category models
 */
export interface OllamaEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  /**
   * The server, without `/v1` or `/api`. `http://127.0.0.1:11434`. A host without a scheme is asked by HTTP, at port 11434
   * unless it names another.
   */
  readonly host?: string | undefined
  /** For Ollama's cloud, or a server behind a gateway; sent as a bearer token. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** More headers; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** Such as `nomic-embed-text`. */
  readonly model: string
  /** Whether a text that is too long for the model is cut to fit without a word. By default it is an error. */
  readonly truncate?: boolean | undefined
  /** The context window in tokens (`num_ctx`). */
  readonly contextLength?: number | undefined
  /** How long the model stays loaded after an answer. The server's default is 5 minutes. */
  readonly keepAlive?: Duration.DurationInput | undefined
  /** Other settings of the model (`num_gpu`, …) for all requests. */
  readonly modelOptions?: ModelOptions | undefined
}

/** By name; by name and tag where sizes differ. */
const known: Readonly<Record<string, number>> = {
  "all-minilm": 384,
  "bge-large": 1024,
  "bge-m3": 1024,
  embeddinggemma: 768,
  "granite-embedding:30m": 384,
  "granite-embedding:278m": 768,
  "mxbai-embed-large": 1024,
  "nomic-embed-text": 768,
  "nomic-embed-text-v2-moe": 768,
  "paraphrase-multilingual": 768,
  "qwen3-embedding:0.6b": 1024,
  "qwen3-embedding:4b": 2560,
  "qwen3-embedding:8b": 4096,
  "snowflake-arctic-embed:22m": 384,
  "snowflake-arctic-embed:33m": 384,
  "snowflake-arctic-embed:110m": 768,
  "snowflake-arctic-embed:137m": 768,
  "snowflake-arctic-embed:335m": 1024,
  "snowflake-arctic-embed2": 1024
}

/**
 * How many numbers a vector of a well-known model of Ollama's library has, unless it is asked for fewer.
 *
 * @since 0.1.0
 * @category combinators
 */
export const dimensionsOf = (model: string): number | undefined => {
  for (const name of [model, model.replace(/:.*$/, "")]) if (Object.hasOwn(known, name)) return known[name]
  return undefined
}

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OllamaEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, contextLength, headers, host, keepAlive, modelOptions, truncate, ...rest } = options
  const all = { ...(contextLength === undefined ? {} : { num_ctx: contextLength }), ...modelOptions }
  const modelDimensions = dimensionsOf(options.model)
  return LlmEmbeddings.make({
    ...rest,
    provider: kind,
    baseUrl: rootOf(host),
    endpoint: "/api/embed",
    protocol: EmbeddingFormats.ollama({
      keepAlive: keepAlive === undefined ? undefined : secondsOf(keepAlive),
      options: Object.keys(all).length === 0 ? undefined : all,
      truncate
    }),
    modelDimensions,
    // The dimensions of a model that is not known here are said so that they are checked.
    shorten: options.shorten ?? (modelDimensions === undefined ? false : undefined),
    headers: headersOf({ apiKey, headers }),
    // A server on one machine: more at once would only wait there.
    concurrency: options.concurrency ?? 2,
    limits: { inputs: 10_000, preferred: 64, bytes: 1_000_000 }
  })
}

/** The options as settings; those that are of embeddings alone are within. */
const settingsWith = (
  within: <A>(config: Config.Config<A>) => Config.Config<A>
): Config.Config<OllamaEmbeddingsOptions> =>
  Config.map(
    Config.all([
      Config.all({
        apiKey: Config.option(Config.redacted("apiKey")),
        host: Config.option(Config.nonEmptyString("host"))
      }),
      within(
        Config.all({
          model: Config.nonEmptyString("model"),
          truncate: Config.option(Config.boolean("truncate")),
          contextLength: Config.option(Config.integer("contextLength")),
          keepAlive: Config.option(Config.duration("keepAlive"))
        })
      ),
      within(LlmEmbeddings.settings)
    ]),
    ([read, own, settings]): OllamaEmbeddingsOptions => ({
      ...settings,
      apiKey: Option.getOrUndefined(read.apiKey),
      host: Option.getOrUndefined(read.host),
      model: own.model,
      truncate: Option.getOrUndefined(own.truncate),
      contextLength: Option.getOrUndefined(own.contextLength),
      keepAlive: Option.getOrUndefined(own.keepAlive)
    })
  )

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<OllamaEmbeddingsOptions> = settingsWith((config) => config)

/**
 * The options as settings: `ollama.embeddings.model`, and if they are there `ollama.host`, `ollama.apiKey`,
 * `ollama.embeddings.truncate`, `ollama.embeddings.contextLength`, `ollama.embeddings.keepAlive` and
 * `ollama.embeddings.dimensions` with the other settings of embeddings.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OllamaEmbeddingsOptions> = Config.nested(
  settingsWith(Config.nested("embeddings")),
  kind
)

/**
 * Embeddings of a model on an Ollama server. A text that is too long for the model is an error, unless `truncate` is true.
 *
 * ```ts
 * const Vectors = OllamaEmbeddings.layerEmbeddings({ model: "nomic-embed-text" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings = (
  options: OllamaEmbeddingsOptions
): Layer.Layer<Embeddings, EmbeddingsError, HttpClient.HttpClient> => Layer.scoped(Embeddings, make(options))

/**
 * The same, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsConfig = (
  options: Config.Config.Wrap<OllamaEmbeddingsOptions> = config
): Layer.Layer<Embeddings, EmbeddingsError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Embeddings, Effect.flatMap(Config.unwrap(options), make))
