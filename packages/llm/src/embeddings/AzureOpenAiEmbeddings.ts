/**
 * Embeddings of models that are deployed on Azure.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import { Embeddings, EmbeddingsError } from "@underlay/core/storage/Embeddings"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as LlmEmbeddings from "../LlmEmbeddings.ts"
import type { LlmError } from "../LlmError.ts"
import * as Protocol from "../protocol/Embeddings.ts"
import * as OpenAiEmbeddings from "./OpenAiEmbeddings.ts"

/**
 * The name of the provider, in errors and telemetry.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "azure"

/**
 * @since 0.1.0
 * @category models
 */
export interface AzureOpenAiEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  /** The resource: `https://my-resource.openai.azure.com` or `https://my-resource.services.ai.azure.com`. */
  readonly endpoint: string
  /** The name of the deployment. */
  readonly model: string
  /** The model behind the deployment, such as `text-embedding-3-small`, if the deployment has another name. */
  readonly baseModel?: string | undefined
  /** Sent as `api-key`. Either this or `token` is needed. */
  readonly apiKey?: Redacted.Redacted | undefined
  /**
   * A token of Entra for `https://cognitiveservices.azure.com/.default`, asked for before every request: keep it until it
   * expires.
   */
  readonly token?: Effect.Effect<Redacted.Redacted, LlmError> | undefined
  /** The address: `/openai/v1/embeddings` (by default), or that of the deployment with an `api-version`. */
  readonly style?: "v1" | "deployments" | undefined
  /** For `deployments`. `2024-10-21`. */
  readonly apiVersion?: string | undefined
  /** An id of the end user, by which abuse is found. */
  readonly user?: string | undefined
}

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: AzureOpenAiEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, apiVersion, baseModel, endpoint, style, token, user, ...rest } = options
  if (apiKey === undefined && token === undefined) {
    return new EmbeddingsError({
      reason: "InvalidRequest",
      method: "layer",
      description: `${kind} ${options.model}: give an \`apiKey\` or a \`token\``
    })
  }
  // A base URL of either style says as much as the resource alone.
  const baseUrl = endpoint.replace(/\/+$/, "").replace(/\/openai(?:\/v1)?$/, "")
  return LlmEmbeddings.make({
    ...rest,
    provider: kind,
    telemetryName: "azure.ai.openai",
    baseUrl,
    endpoint:
      style === "deployments"
        ? `/openai/deployments/${encodeURIComponent(options.model)}/embeddings?api-version=${encodeURIComponent(apiVersion ?? "2024-10-21")}`
        : "/openai/v1/embeddings",
    protocol: Protocol.openAi({ encoding: "base64", user }),
    modelDimensions: OpenAiEmbeddings.dimensionsOf(baseModel ?? options.model),
    headers: token === undefined && apiKey !== undefined ? { "api-key": apiKey } : {},
    authorize:
      token === undefined
        ? undefined
        : Effect.map(token, (value) => ({ authorization: `Bearer ${Redacted.value(value)}` })),
    limits: OpenAiEmbeddings.limits
  })
}

/**
 * The options as settings: `azure.endpoint`, `azure.apiKey` and `azure.embeddings.model` (the deployment), and if they are
 * there `azure.embeddings.baseModel`, `azure.embeddings.style`, `azure.embeddings.apiVersion` and
 * `azure.embeddings.dimensions` with the other settings of embeddings.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<AzureOpenAiEmbeddingsOptions> = Config.nested(
  Config.map(
    Config.all([
      Config.all({
        endpoint: Config.nonEmptyString("endpoint"),
        apiKey: Config.redacted("apiKey")
      }),
      Config.nested(
        Config.all({
          model: Config.nonEmptyString("model"),
          baseModel: Config.option(Config.nonEmptyString("baseModel")),
          style: Config.option(Config.literal("v1", "deployments")("style")),
          apiVersion: Config.option(Config.nonEmptyString("apiVersion"))
        }),
        "embeddings"
      ),
      Config.nested(LlmEmbeddings.settings, "embeddings")
    ]),
    ([read, own, settings]): AzureOpenAiEmbeddingsOptions => ({
      ...settings,
      endpoint: read.endpoint,
      apiKey: read.apiKey,
      model: own.model,
      baseModel: Option.getOrUndefined(own.baseModel),
      style: Option.getOrUndefined(own.style),
      apiVersion: Option.getOrUndefined(own.apiVersion)
    })
  ),
  kind
)

/**
 * Embeddings of a deployment on Azure.
 *
 * ```ts
 * const Vectors = AzureOpenAiEmbeddings.layerEmbeddings({
 *   endpoint: "https://my-resource.openai.azure.com",
 *   apiKey: Redacted.make("…"),
 *   model: "my-deployment",
 *   baseModel: "text-embedding-3-small"
 * })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings = (
  options: AzureOpenAiEmbeddingsOptions
): Layer.Layer<Embeddings, EmbeddingsError, HttpClient.HttpClient> => Layer.scoped(Embeddings, make(options))

/**
 * The same, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsConfig = (
  options: Config.Config.Wrap<AzureOpenAiEmbeddingsOptions> = config
): Layer.Layer<Embeddings, EmbeddingsError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Embeddings, Effect.flatMap(Config.unwrap(options), make))
