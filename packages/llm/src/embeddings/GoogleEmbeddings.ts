/**
 * Embeddings of Google's Gemini API.
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
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as LlmEmbeddings from "../LlmEmbeddings.ts"
import * as EmbeddingFormats from "../protocol/EmbeddingFormats.ts"

/**
 * The name of the provider, in errors and telemetry.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "google"

/**
 * What vectors are for. Models before `gemini-embedding-2` give other vectors for other tasks; that one takes no notice of
 * it and is told in the text.
 *
 * @since 0.1.0
 * @category models
 */
export type TaskType =
  | "RETRIEVAL_QUERY"
  | "RETRIEVAL_DOCUMENT"
  | "SEMANTIC_SIMILARITY"
  | "CLASSIFICATION"
  | "CLUSTERING"
  | "QUESTION_ANSWERING"
  | "FACT_VERIFICATION"
  | "CODE_RETRIEVAL_QUERY"

/**
 * @since 0.1.0
 * @category models
 */
export interface GoogleEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  readonly apiKey: Redacted.Redacted
  /** Such as `gemini-embedding-001`. */
  readonly model: string
  /** `https://generativelanguage.googleapis.com/v1beta`. */
  readonly baseUrl?: string | undefined
  readonly taskType?: TaskType | undefined
  /** The title of the document that all texts are of, for `RETRIEVAL_DOCUMENT`. */
  readonly title?: string | undefined
}

/**
 * How many numbers a vector of a Gemini model has, unless it is asked for fewer.
 *
 * @since 0.1.0
 * @category combinators
 */
export const dimensionsOf = (model: string): number | undefined => {
  const name = model.replace(/^models\//, "")
  if (/^gemini-embedding-/.test(name)) return 3072
  return name === "text-embedding-004" || name === "embedding-001" ? 768 : undefined
}

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: GoogleEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, taskType, title, ...rest } = options
  const modelDimensions = dimensionsOf(options.model)
  return LlmEmbeddings.make({
    ...rest,
    provider: kind,
    telemetryName: "gcp.gemini",
    baseUrl: options.baseUrl ?? "https://generativelanguage.googleapis.com/v1beta",
    endpoint: `/${options.model.includes("/") ? options.model : `models/${options.model}`}:batchEmbedContents`,
    protocol: EmbeddingFormats.gemini({ taskType, title }),
    modelDimensions,
    // Only whole vectors have length one when they come.
    normalize: options.normalize ?? (options.dimensions !== undefined && options.dimensions !== modelDimensions),
    headers: { "x-goog-api-key": apiKey },
    limits: { inputs: 100, bytes: 500_000 }
  })
}

const taskTypes: ReadonlyArray<TaskType> = [
  "RETRIEVAL_QUERY",
  "RETRIEVAL_DOCUMENT",
  "SEMANTIC_SIMILARITY",
  "CLASSIFICATION",
  "CLUSTERING",
  "QUESTION_ANSWERING",
  "FACT_VERIFICATION",
  "CODE_RETRIEVAL_QUERY"
]

/** The options as settings; those that are of embeddings alone are within. */
const settingsWith = (
  within: <A>(config: Config.Config<A>) => Config.Config<A>
): Config.Config<GoogleEmbeddingsOptions> =>
  Config.map(
    Config.all([
      Config.all({
        apiKey: Config.redacted("apiKey"),
        baseUrl: Config.option(Config.nonEmptyString("baseUrl"))
      }),
      within(
        Config.all({
          model: Config.nonEmptyString("model"),
          taskType: Config.option(Config.literal(...taskTypes)("taskType"))
        })
      ),
      within(LlmEmbeddings.settings)
    ]),
    ([read, own, settings]): GoogleEmbeddingsOptions => ({
      ...settings,
      apiKey: read.apiKey,
      model: own.model,
      baseUrl: Option.getOrUndefined(read.baseUrl),
      taskType: Option.getOrUndefined(own.taskType)
    })
  )

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<GoogleEmbeddingsOptions> = settingsWith((config) => config)

/**
 * The options as settings: `google.apiKey` and `google.embeddings.model`, and if they are there `google.baseUrl`,
 * `google.embeddings.taskType` and `google.embeddings.dimensions` with the other settings of embeddings.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<GoogleEmbeddingsOptions> = Config.nested(
  settingsWith(Config.nested("embeddings")),
  kind
)

/**
 * Embeddings of Google's Gemini API. Vectors that are shortened are scaled to length one, unless `normalize` is false.
 *
 * ```ts
 * const Vectors = GoogleEmbeddings.layerEmbeddings({ apiKey: Redacted.make("…"), model: "gemini-embedding-001", dimensions: 768 })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings = (
  options: GoogleEmbeddingsOptions
): Layer.Layer<Embeddings, EmbeddingsError, HttpClient.HttpClient> => Layer.scoped(Embeddings, make(options))

/**
 * The same, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsConfig = (
  options: Config.Config.Wrap<GoogleEmbeddingsOptions> = config
): Layer.Layer<Embeddings, EmbeddingsError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Embeddings, Effect.flatMap(Config.unwrap(options), make))
