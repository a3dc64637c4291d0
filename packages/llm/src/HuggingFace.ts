/**
 * Models behind Hugging Face's router, or on an inference endpoint of one's own, over Chat Completions.
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
export const kind = "huggingface"

/**
 * Where Hugging Face's router is.
 *
 * @since 0.1.0
 * @category constants
 */
export const routerUrl = "https://router.huggingface.co/v1"

/**
 * @since 0.1.0
 * @category models
 */
export interface HuggingFaceOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /**
   * The model that is asked unless the request names another: `org/name`, which leaves it to the account's preferences who
   * runs it, `org/name:provider`, `org/name:fastest` or `org/name:cheapest`.
   */
  readonly model: string
  /** Who runs the models that are named without one (`together`, `novita`, `fastest`, …), of this router only. */
  readonly inferenceProvider?: string | undefined
  /** `https://router.huggingface.co/v1`, or that of an inference endpoint of one's own. */
  readonly baseUrl?: string | undefined
  /** The organization that is charged. */
  readonly billTo?: string | undefined
}

/** The router lists models without who runs them. */
const listedAs =
  (model: string) =>
  (body: string): ReadonlyArray<string> => {
    const plain = model.replace(/:[^/]*$/, "")
    return LlmProvider.modelsIn(body).map((name) => (name === plain ? model : name))
  }

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: HuggingFaceOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { billTo, inferenceProvider, ...rest } = options
  const routed = (model: string): string =>
    inferenceProvider === undefined || /:[^/]*$/.test(model) ? model : `${model}:${inferenceProvider}`
  const model = routed(options.model)
  return OpenAiCompatible.make({
    ...rest,
    model,
    provider: kind,
    baseUrl: options.baseUrl ?? routerUrl,
    maxTokensField: "max_tokens",
    headers: billTo === undefined ? {} : { "x-hf-bill-to": billTo },
    adapt: (body) => Either.right(typeof body["model"] === "string" ? { ...body, model: routed(body["model"]) } : body),
    listed: listedAs(model)
  })
}

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<HuggingFaceOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
      inferenceProvider: Config.option(Config.nonEmptyString("inferenceProvider")),
      billTo: Config.option(Config.nonEmptyString("billTo"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): HuggingFaceOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    baseUrl: Option.getOrUndefined(read.baseUrl),
    inferenceProvider: Option.getOrUndefined(read.inferenceProvider),
    billTo: Option.getOrUndefined(read.billTo)
  })
)

/**
 * The options as settings: `huggingface.apiKey` and `huggingface.model`, and if they are there `huggingface.baseUrl`,
 * `huggingface.inferenceProvider`, `huggingface.billTo` and the settings of calls (`huggingface.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<HuggingFaceOptions> = Config.nested(settings, kind)

/**
 * Models behind Hugging Face's router.
 *
 * ```ts
 * const Model = HuggingFace.layer({ apiKey: Redacted.make("hf_…"), model: "openai/gpt-oss-120b:together" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: HuggingFaceOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Models behind Hugging Face's router, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<HuggingFaceOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
