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
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { AzureToken } from "../AzureOpenAi.ts"
import { makeTokens, resourceOf } from "../internal/azure.ts"
import * as LlmEmbeddings from "../LlmEmbeddings.ts"
import * as EmbeddingFormats from "../protocol/EmbeddingFormats.ts"
import * as OpenAiEmbeddings from "./OpenAiEmbeddings.ts"

/**
 * The name of the provider, in errors and telemetry.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "azure"

/**
 * - `endpoint`: the resource, such as `https://my-resource.openai.azure.com` or `https://my-resource.services.ai.azure.com`.
 * - `model`: the name of the deployment. `baseModel`: the model behind it, such as `text-embedding-3-small`, if the
 *   deployment has another name: it tells the dimensions.
 * - `apiKey` or `token`: one of them. A `token` that says when it ends is kept until shortly before, and forgotten when it
 *   is refused; one that does not say is asked for anew for every request.
 * - `style`: `v1` (`/openai/v1/embeddings`, the default), `deployments` (`/openai/deployments/{model}/embeddings`, older),
 *   or `models` (`/models/embeddings` of model inference).
 * - `apiVersion`: by default none for `v1`, `2024-10-21` for `deployments`, `2024-05-01-preview` for `models`.
 * - `user`: an id of the end user, by which abuse is found.
 *
 * @since 0.1.0
 * @category models
 */
export interface AzureOpenAiEmbeddingsOptions extends LlmEmbeddings.EmbeddingsSettings {
  readonly endpoint: string
  readonly model: string
  readonly baseModel?: string | undefined
  readonly apiKey?: Redacted.Redacted | undefined
  readonly token?: Effect.Effect<Redacted.Redacted | AzureToken, unknown> | undefined
  readonly style?: "v1" | "deployments" | "models" | undefined
  readonly apiVersion?: string | undefined
  readonly user?: string | undefined
}

const endpointOf = ({ apiVersion, model, style }: AzureOpenAiEmbeddingsOptions): string => {
  const query = (version: string | undefined) =>
    version === undefined ? "" : `?api-version=${encodeURIComponent(version)}`
  switch (style ?? "v1") {
    case "v1":
      return `/openai/v1/embeddings${query(apiVersion)}`
    case "deployments":
      return `/openai/deployments/${encodeURIComponent(model)}/embeddings${query(apiVersion ?? "2024-10-21")}`
    case "models":
      return `/models/embeddings${query(apiVersion ?? "2024-05-01-preview")}`
  }
}

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: AzureOpenAiEmbeddingsOptions
): Effect.Effect<LlmEmbeddings.LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const { apiKey, apiVersion, baseModel, endpoint, style, token, user, ...rest } = options
    if ((apiKey === undefined) === (token === undefined)) {
      return yield* new EmbeddingsError({
        reason: "InvalidRequest",
        method: "layer",
        description: `${kind} ${options.model}: give apiKey or token, one of the two`
      })
    }
    const inference = style === "models"
    const spec: LlmEmbeddings.EmbeddingsSpec = {
      ...rest,
      provider: kind,
      telemetryName: inference ? "azure.ai.inference" : "azure.ai.openai",
      baseUrl: resourceOf(endpoint),
      endpoint: endpointOf(options),
      // Models that are not OpenAI's may know numbers only.
      protocol: EmbeddingFormats.openAi({ encoding: inference ? undefined : "base64", user }),
      modelDimensions: OpenAiEmbeddings.dimensionsOf(baseModel ?? options.model),
      limits: OpenAiEmbeddings.limits
    }
    if (token === undefined) {
      return yield* LlmEmbeddings.make({ ...spec, headers: apiKey === undefined ? {} : { "api-key": apiKey } })
    }
    const tokens = yield* makeTokens({ provider: kind, model: options.model }, token)
    const embeddings = yield* LlmEmbeddings.make({ ...spec, authorize: tokens.authorize })
    return {
      ...embeddings,
      embed: (text) => Effect.tapError(embeddings.embed(text), tokens.forget),
      embedMany: (texts) => Effect.tapError(embeddings.embedMany(texts), tokens.forget),
      embedWithUsage: (texts) => Effect.tapError(embeddings.embedWithUsage(texts), tokens.forget)
    }
  })

/** The options as settings; those that are of embeddings alone are within. */
const settingsWith = (
  within: <A>(config: Config.Config<A>) => Config.Config<A>
): Config.Config<AzureOpenAiEmbeddingsOptions> =>
  Config.map(
    Config.all([
      Config.all({
        endpoint: Config.nonEmptyString("endpoint"),
        apiKey: Config.redacted("apiKey")
      }),
      within(
        Config.all({
          model: Config.nonEmptyString("model"),
          baseModel: Config.option(Config.nonEmptyString("baseModel")),
          style: Config.option(Config.literal("v1", "deployments", "models")("style")),
          apiVersion: Config.option(Config.nonEmptyString("apiVersion"))
        })
      ),
      within(LlmEmbeddings.settings)
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
  )

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<AzureOpenAiEmbeddingsOptions> = settingsWith((config) => config)

/**
 * The options as settings: `azure.endpoint`, `azure.apiKey` and `azure.embeddings.model` (the deployment), and if they are
 * there `azure.embeddings.baseModel`, `azure.embeddings.style`, `azure.embeddings.apiVersion` and
 * `azure.embeddings.dimensions` with the other settings of embeddings. Tokens are no settings: they are given as `token` to
 * `layerEmbeddings`.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<AzureOpenAiEmbeddingsOptions> = Config.nested(
  settingsWith(Config.nested("embeddings")),
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
