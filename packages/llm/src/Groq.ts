/**
 * Models on Groq, over Chat Completions.
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
import * as OpenAiCompatible from "./OpenAiCompatible.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "groq"

/**
 * @since 0.1.0
 * @category models
 */
export interface GroqOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** `https://api.groq.com/openai/v1`. */
  readonly baseUrl?: string | undefined
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: GroqOptions): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  OpenAiCompatible.make({
    ...options,
    provider: kind,
    baseUrl: options.baseUrl ?? "https://api.groq.com/openai/v1",
    // It sends the usage of streams unasked.
    includeUsage: false
  })

/**
 * The options as settings: `groq.apiKey` and `groq.model`, and if they are there `groq.baseUrl` and the settings of calls
 * (`groq.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<GroqOptions> = Config.nested(
  Config.map(
    Config.all([
      Config.all({
        apiKey: Config.redacted("apiKey"),
        model: Config.nonEmptyString("model"),
        baseUrl: Config.option(Config.nonEmptyString("baseUrl"))
      }),
      LlmProvider.callSettings
    ]),
    ([read, calls]): GroqOptions => ({
      ...calls,
      apiKey: read.apiKey,
      model: read.model,
      baseUrl: Option.getOrUndefined(read.baseUrl)
    })
  ),
  kind
)

/**
 * Models on Groq.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: GroqOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Models on Groq, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<GroqOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
