/**
 * Any server that speaks the Chat Completions format, as a watched language model. `Groq`, `HuggingFace` and others are
 * made of it.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"

/**
 * A server that speaks Chat Completions.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenAiCompatibleOptions extends LlmProvider.CallSettings {
  /** The provider's name: in errors, telemetry, health, and in requests' `providerOptions`. */
  readonly provider: string
  /** What `/chat/completions` is put after. */
  readonly baseUrl: string
  /** Sent as a bearer token. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** More headers; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** The limit of the answer's tokens goes into this field; by default `max_completion_tokens`. */
  readonly maxTokensField?: "max_completion_tokens" | "max_tokens" | undefined
  /** Whether streams are asked for their usage; by default true. */
  readonly includeUsage?: boolean | undefined
  /** The field in which reasoning goes back to the server; by default it does not. */
  readonly reasoningField?: "reasoning" | "reasoning_content" | undefined
  /** The URL that lists the models, for `health`; by default `baseUrl` and `/models`. */
  readonly modelsUrl?: string | undefined
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together, saying what to change.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OpenAiCompatibleOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, headers, includeUsage, maxTokensField, modelsUrl, reasoningField, ...spec } = options
  return LlmProvider.make({
    ...spec,
    protocol: ChatCompletions.make({ provider: options.provider, maxTokensField, includeUsage, reasoningField }),
    endpoint: () => "/chat/completions",
    headers: {
      ...(apiKey === undefined ? {} : { authorization: `Bearer ${Redacted.value(apiKey)}` }),
      ...headers
    },
    health: { endpoint: modelsUrl ?? "/models" }
  })
}

/**
 * A language model behind any server that speaks Chat Completions.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: OpenAiCompatibleOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * The same, its options read from the configuration.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<OpenAiCompatibleOptions>
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(config), make))
