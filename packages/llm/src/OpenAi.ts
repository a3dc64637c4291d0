/**
 * OpenAI's models, over the Responses API or Chat Completions.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"
import * as Responses from "./protocol/Responses.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "openai"

/**
 * @since 0.1.0
 * @category models
 */
export interface OpenAiOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** `https://api.openai.com/v1`. */
  readonly baseUrl?: string | undefined
  /**
   * What is spoken. By default `responses` at OpenAI's own address, and `chat-completions` at any other `baseUrl`, because
   * that is what servers which imitate OpenAI speak.
   *
   * `responses` keeps no answers at OpenAI unless a request's `providerOptions` say `store: true`: reasoning comes
   * encrypted and goes back with the conversation. It has no stop sequences, seeds, penalties or sounds: a request with
   * stop sequences or sounds fails with `InvalidRequest`, the others are left out.
   */
  readonly api?: "responses" | "chat-completions" | undefined
  readonly organization?: string | undefined
  readonly project?: string | undefined
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OpenAiOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { api, apiKey, baseUrl = address, organization, project, ...settings } = options
  const own = isOwn(baseUrl)
  const responses = api === undefined ? own : api === "responses"
  const dialect: Responses.Dialect = own
    ? { provider: kind }
    : { provider: kind, rawReasoning: true, systemRole: "system" }
  return LlmProvider.make({
    ...settings,
    provider: kind,
    baseUrl,
    protocol: responses ? Responses.make(dialect) : ChatCompletions.make({ provider: kind, promptCache: true }),
    endpoint: () => (responses ? "/responses" : "/chat/completions"),
    headers: {
      authorization: Redacted.make(`Bearer ${Redacted.value(apiKey)}`),
      ...(organization === undefined ? {} : { "openai-organization": organization }),
      ...(project === undefined ? {} : { "openai-project": project })
    },
    // Counts what either API would be sent.
    ...(responses || own
      ? {
          countTokens: {
            endpoint: () => "/responses/input_tokens",
            encode: (request, model) => Responses.encodeCount(request, { model, dialect }),
            decode: Responses.decodeCount
          }
        }
      : {}),
    health: { endpoint: "/models" }
  })
}

const address = "https://api.openai.com/v1"

/** Whether an address is OpenAI's own, in the world or in a region. */
const isOwn = (baseUrl: string): boolean =>
  URL.canParse(baseUrl) && /(?:^|\.)api\.openai\.com$/i.test(new URL(baseUrl).hostname)

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<OpenAiOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl")),
      api: Config.option(Config.literal("responses", "chat-completions")("api")),
      organization: Config.option(Config.nonEmptyString("organization")),
      project: Config.option(Config.nonEmptyString("project"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): OpenAiOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    baseUrl: Option.getOrUndefined(read.baseUrl),
    api: Option.getOrUndefined(read.api),
    organization: Option.getOrUndefined(read.organization),
    project: Option.getOrUndefined(read.project)
  })
)

/**
 * The options as settings: `openai.apiKey` and `openai.model`, and if they are there `openai.baseUrl`,
 * `openai.api` (`responses` or `chat-completions`), `openai.organization`, `openai.project` and the settings of calls
 * (`openai.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OpenAiOptions> = Config.nested(settings, kind)

/**
 * OpenAI's models.
 *
 * ```ts
 * const Model = OpenAi.layer({ apiKey: Redacted.make("sk-…"), model: "gpt-5-mini" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: OpenAiOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * OpenAI's models, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<OpenAiOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
