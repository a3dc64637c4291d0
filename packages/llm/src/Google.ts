/**
 * Google's Gemini and Gemma models, over the Gemini API.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as GenerateContent from "./protocol/GenerateContent.ts"

/**
 * The name of the provider, in errors, `providerOptions` and tables of providers. In telemetry it is `gcp.gemini`.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "google"

/**
 * @since 0.1.0
 * @category models
 */
export interface GoogleOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /** The model that is asked unless the request names another: `gemini-3-flash`, `tunedModels/mine`. */
  readonly model: string
  /**
   * `https://generativelanguage.googleapis.com/v1beta`. Agent Platform (Vertex AI) takes API keys too, at
   * `https://aiplatform.googleapis.com/v1/publishers/google`; it has no list of models for `health`.
   */
  readonly baseUrl?: string | undefined
  /** More headers, such as those of a gateway; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
}

/** The names in a list of models, with and without their collection. */
const namesIn = (body: string): ReadonlyArray<string> =>
  LlmProvider.modelsIn(body).flatMap((name) => (name.startsWith("models/") ? [name, name.slice(7)] : [name]))

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: GoogleOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, baseUrl, headers, ...rest } = options
  const address = baseUrl ?? "https://generativelanguage.googleapis.com/v1beta"
  const agentPlatform = /^https:\/\/(?:[\w-]+-)?aiplatform\.googleapis\.com\//i.test(address)
  const dialect: GenerateContent.Dialect = { provider: kind, agentPlatform }
  return LlmProvider.make({
    ...rest,
    provider: kind,
    telemetryName: "gcp.gemini",
    operation: "generate_content",
    baseUrl: address,
    protocol: GenerateContent.make(dialect),
    endpoint: ({ model, stream }) =>
      `/${GenerateContent.modelPath(model)}:${stream ? "streamGenerateContent?alt=sse" : "generateContent"}`,
    headers: { "x-goog-api-key": apiKey, ...headers },
    countTokens: {
      endpoint: (model) => `/${GenerateContent.modelPath(model)}:countTokens`,
      encode: (request, model) => GenerateContent.encodeCountTokens(request, { model, dialect }),
      decode: GenerateContent.decodeCountTokens
    },
    health: { endpoint: "/models?pageSize=1000", models: namesIn }
  })
}

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<GoogleOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): GoogleOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    baseUrl: Option.getOrUndefined(read.baseUrl)
  })
)

/**
 * The options as settings: `google.apiKey` and `google.model`, and if they are there `google.baseUrl` and the settings of
 * calls (`google.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<GoogleOptions> = Config.nested(settings, kind)

/**
 * Google's models.
 *
 * ```ts
 * const Model = Google.layer({ apiKey: Redacted.make("AIza…"), model: "gemini-3-flash" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: GoogleOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Google's models, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<GoogleOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
