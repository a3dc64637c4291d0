/**
 * Anthropic's models, over the Messages API, and servers that imitate it.
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
import * as AnthropicMessages from "./protocol/AnthropicMessages.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "anthropic"

/**
 * @since 0.1.0
 * @category models
 */
export interface AnthropicOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** `https://api.anthropic.com/v1`. */
  readonly baseUrl?: string | undefined
  /** The version of the API: `2023-06-01`. */
  readonly version?: string | undefined
  /** Features of the API that are not for everyone yet, by their names in the `anthropic-beta` header. */
  readonly betas?: ReadonlyArray<string> | undefined
  /**
   * The tokens that an answer may have where the request does not say: the API demands a limit. By default 64,000 for
   * Claude 4.5 and later, 32,000 from 3.7 to 4.1, 8,192 for 3.5 and 4,096 for 3, and 8,192 for models that are not Claude.
   * An answer that was cut off by it has the finish `length`.
   */
  readonly maxTokens?: number | undefined
  /** More headers, such as those of a gateway; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: AnthropicOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, baseUrl, betas, headers, maxTokens, version, ...spec } = options
  const dialect: AnthropicMessages.Dialect = { provider: kind, maxTokens }
  return LlmProvider.make({
    ...spec,
    provider: kind,
    baseUrl: baseUrl ?? "https://api.anthropic.com/v1",
    protocol: AnthropicMessages.make(dialect),
    endpoint: () => "/messages",
    headers: {
      "x-api-key": apiKey,
      "anthropic-version": version ?? "2023-06-01",
      ...(betas === undefined || betas.length === 0 ? {} : { "anthropic-beta": betas.join(",") }),
      ...headers
    },
    countTokens: {
      endpoint: () => "/messages/count_tokens",
      encode: (request, model) => AnthropicMessages.encodeCount(request, { model, dialect }),
      decode: AnthropicMessages.decodeCount
    },
    // As many as one page can hold: the list goes on otherwise.
    health: { endpoint: "/models?limit=1000", models: (body) => LlmProvider.modelsIn(body).flatMap(namesOf) }
  })
}

/** A model's name and those that stand for it: without its date, with `-latest`, with `-0` for a first generation. */
const namesOf = (name: string): ReadonlyArray<string> => {
  const undated = name.replace(/-\d{8}$/, "")
  return undated === name ? [name] : [name, undated, `${undated}-latest`, `${undated}-0`]
}

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<AnthropicOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
      version: Config.option(Config.nonEmptyString("version")),
      betas: Config.option(Config.array(Config.nonEmptyString(), "betas")),
      maxTokens: Config.option(Config.integer("maxTokens"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): AnthropicOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    baseUrl: Option.getOrUndefined(read.baseUrl),
    version: Option.getOrUndefined(read.version),
    betas: Option.getOrUndefined(read.betas),
    maxTokens: Option.getOrUndefined(read.maxTokens)
  })
)

/**
 * The options as settings: `anthropic.apiKey` and `anthropic.model`, and if they are there `anthropic.baseUrl`,
 * `anthropic.version`, `anthropic.betas` (a list), `anthropic.maxTokens` and the settings of calls (`anthropic.timeout`,
 * …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<AnthropicOptions> = Config.nested(settings, kind)

/**
 * Anthropic's models. Some think without being asked to and show nothing of it: let `firstContentTimeout` be longer for
 * those, or ask for a `reasoningEffort`.
 *
 * ```ts
 * const Model = Anthropic.layer({ apiKey: Redacted.make("sk-ant-…"), model: "claude-sonnet-4-5" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: AnthropicOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Anthropic's models, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<AnthropicOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
