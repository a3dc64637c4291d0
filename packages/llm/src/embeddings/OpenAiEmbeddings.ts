/**
 * OpenAI's embeddings, and those of servers that speak the same format.
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
export const kind = "openai"

/**
 * @since 0.1.0
 * @category models
 */
export interface OpenAiEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  readonly apiKey: Redacted.Redacted
  /** Such as `text-embedding-3-small`. The dimensions of OpenAI's own models are known here. */
  readonly model: string
  /** `https://api.openai.com/v1`. */
  readonly baseUrl?: string | undefined
  readonly organization?: string | undefined
  readonly project?: string | undefined
  /** An id of the end user, by which OpenAI finds abuse. */
  readonly user?: string | undefined
  /** How the vectors come. `base64` from OpenAI itself; elsewhere the server decides. */
  readonly encoding?: "float" | "base64" | undefined
  /** More fields of every request, for servers that know more than OpenAI's. */
  readonly fields?: Readonly<Record<string, unknown>> | undefined
}

const known: ReadonlyMap<string, number> = new Map([
  ["text-embedding-3-small", 1536],
  ["text-embedding-3-large", 3072],
  ["text-embedding-ada-002", 1536]
])

const ownBaseUrl = "https://api.openai.com/v1"

/**
 * How many numbers a vector of a model of OpenAI's has, unless it is asked for fewer.
 *
 * @since 0.1.0
 * @category combinators
 */
export const dimensionsOf = (model: string): number | undefined => known.get(model)

/**
 * What OpenAI's and Azure's API takes in one request: 2,048 texts and 300,000 tokens. No token is less than a byte.
 *
 * @since 0.1.0
 * @category constants
 */
export const limits: LlmEmbeddings.BatchLimits = { inputs: 2048, preferred: 256, bytes: 300_000 }

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OpenAiEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, encoding, fields, organization, project, user, ...rest } = options
  const baseUrl = options.baseUrl ?? ownBaseUrl
  const own = baseUrl.replace(/\/+$/, "") === ownBaseUrl
  const modelDimensions = dimensionsOf(options.model)
  return LlmEmbeddings.make({
    ...rest,
    provider: kind,
    baseUrl,
    endpoint: "/embeddings",
    protocol: EmbeddingFormats.openAi({ encoding: encoding ?? (own ? "base64" : undefined), user, fields }),
    modelDimensions,
    // Elsewhere the dimensions of a model that is not known here are said so that they are checked; few servers shorten.
    shorten: options.shorten ?? (own || modelDimensions !== undefined ? undefined : false),
    headers: {
      authorization: `Bearer ${Redacted.value(apiKey)}`,
      ...(organization === undefined ? {} : { "openai-organization": organization }),
      ...(project === undefined ? {} : { "openai-project": project })
    },
    limits
  })
}

/** The options as settings; those that are of embeddings alone are within. */
const settingsWith = (
  within: <A>(config: Config.Config<A>) => Config.Config<A>
): Config.Config<OpenAiEmbeddingsOptions> =>
  Config.map(
    Config.all([
      Config.all({
        apiKey: Config.redacted("apiKey"),
        baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
        organization: Config.option(Config.nonEmptyString("organization")),
        project: Config.option(Config.nonEmptyString("project"))
      }),
      within(Config.nonEmptyString("model")),
      within(LlmEmbeddings.settings)
    ]),
    ([read, model, settings]): OpenAiEmbeddingsOptions => ({
      ...settings,
      apiKey: read.apiKey,
      model,
      baseUrl: Option.getOrUndefined(read.baseUrl),
      organization: Option.getOrUndefined(read.organization),
      project: Option.getOrUndefined(read.project)
    })
  )

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<OpenAiEmbeddingsOptions> = settingsWith((config) => config)

/**
 * The options as settings: `openai.apiKey` and `openai.embeddings.model`, and if they are there `openai.baseUrl`,
 * `openai.organization`, `openai.project` and `openai.embeddings.dimensions` with the other settings of embeddings.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OpenAiEmbeddingsOptions> = Config.nested(
  settingsWith(Config.nested("embeddings")),
  kind
)

/**
 * OpenAI's embeddings.
 *
 * ```ts
 * const Vectors = OpenAiEmbeddings.layerEmbeddings({ apiKey: Redacted.make("sk-…"), model: "text-embedding-3-small" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings = (
  options: OpenAiEmbeddingsOptions
): Layer.Layer<Embeddings, EmbeddingsError, HttpClient.HttpClient> => Layer.scoped(Embeddings, make(options))

/**
 * The same, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsConfig = (
  options: Config.Config.Wrap<OpenAiEmbeddingsOptions> = config
): Layer.Layer<Embeddings, EmbeddingsError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Embeddings, Effect.flatMap(Config.unwrap(options), make))
