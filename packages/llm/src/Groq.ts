/**
 * Models on Groq, over Chat Completions.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { unusable } from "./internal/errors.ts"
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
  /**
   * Where the reasoning of models that show it goes: `parsed` into a field of its own, `raw` between tags in the text,
   * `hidden` nowhere. By default the model's own way. Not together with `includeReasoning`.
   */
  readonly reasoningFormat?: "hidden" | "raw" | "parsed" | undefined
  /** Whether models whose reasoning is always parsed show it. */
  readonly includeReasoning?: boolean | undefined
  /** By default `on_demand`. */
  readonly serviceTier?: "auto" | "on_demand" | "flex" | "performance" | undefined
}

const fieldsOf = (options: GroqOptions): Record<string, unknown> => ({
  ...(options.reasoningFormat === undefined ? {} : { reasoning_format: options.reasoningFormat }),
  ...(options.includeReasoning === undefined ? {} : { include_reasoning: options.includeReasoning }),
  ...(options.serviceTier === undefined ? {} : { service_tier: options.serviceTier })
})

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: GroqOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { includeReasoning, reasoningFormat, serviceTier, ...rest } = options
  if (includeReasoning !== undefined && reasoningFormat !== undefined) {
    return Effect.fail(
      unusable({ provider: kind, model: options.model }, "give reasoningFormat or includeReasoning, not both of them")
    )
  }
  return OpenAiCompatible.make({
    ...rest,
    provider: kind,
    baseUrl: options.baseUrl ?? "https://api.groq.com/openai/v1",
    // It sends the usage of streams unasked.
    includeUsage: false,
    adapt: (body, request) => {
      const own = request.providerOptions?.[kind]
      const fields = { ...fieldsOf(options) }
      // The two exclude each other: what a request asks for replaces what the layer asks for.
      if (own?.["include_reasoning"] !== undefined) delete fields["reasoning_format"]
      if (own?.["reasoning_format"] !== undefined) delete fields["include_reasoning"]
      return Either.right({ ...body, ...fields })
    }
  })
}

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<GroqOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
      reasoningFormat: Config.option(Config.literal("hidden", "raw", "parsed")("reasoningFormat")),
      includeReasoning: Config.option(Config.boolean("includeReasoning")),
      serviceTier: Config.option(Config.literal("auto", "on_demand", "flex", "performance")("serviceTier"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): GroqOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    baseUrl: Option.getOrUndefined(read.baseUrl),
    reasoningFormat: Option.getOrUndefined(read.reasoningFormat),
    includeReasoning: Option.getOrUndefined(read.includeReasoning),
    serviceTier: Option.getOrUndefined(read.serviceTier)
  })
)

/**
 * The options as settings: `groq.apiKey` and `groq.model`, and if they are there `groq.baseUrl`, `groq.reasoningFormat`,
 * `groq.includeReasoning`, `groq.serviceTier` and the settings of calls (`groq.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<GroqOptions> = Config.nested(settings, kind)

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
