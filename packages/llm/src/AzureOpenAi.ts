/**
 * Models deployed in Azure: over its v1 API (Responses or Chat Completions), the older addresses by deployment, or those of
 * model inference, with a key or with tokens of Microsoft Entra.
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
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { makeTokens, resourceOf } from "./internal/azure.ts"
import { unusable } from "./internal/errors.ts"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import type { ObjectOptions } from "./LlmObject.ts"
import * as LlmProvider from "./LlmProvider.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"
import * as Responses from "./protocol/Responses.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "azure"

/**
 * A token of Microsoft Entra and when it ends, in milliseconds since 1970 (what `@azure/identity` calls
 * `expiresOnTimestamp`).
 *
 * @since 0.1.0
 * @category models
 */
export interface AzureToken {
  readonly token: Redacted.Redacted
  readonly expiresAt: number
}

/**
 * - `endpoint`: the resource, such as `https://my-resource.openai.azure.com` or `https://my-resource.services.ai.azure.com`.
 * - `apiKey` or `token`: one of them. A `token` that says when it ends is kept until shortly before, and forgotten when it
 *   is refused; one that does not say is asked for anew for every attempt.
 * - `model`: the name of the deployment. Whether its model reasons is guessed by that name; one that says that it does not
 *   is asked once more without, and remembered.
 * - `style`: `v1` (`/openai/v1/…`, the default), `deployments` (`/openai/deployments/{model}/…`, older), or `models`
 *   (`/models/…` of model inference).
 * - `api`: what the v1 API is asked with, by default `responses`; models that are not OpenAI's may know Chat Completions
 *   only. The other styles have nothing else.
 * - `apiVersion`: by default none for `v1`, `2024-10-21` for `deployments`, `2024-05-01-preview` for `models`.
 * - `maxTokensField`: the field of Chat Completions for the limit of the answer's tokens; by default what the style and the
 *   version know.
 *
 * @since 0.1.0
 * @category models
 */
export interface AzureOpenAiOptions extends LlmProvider.CallSettings {
  readonly endpoint: string
  readonly apiKey?: Redacted.Redacted | undefined
  readonly token?: Effect.Effect<Redacted.Redacted | AzureToken, unknown> | undefined
  readonly model: string
  readonly style?: "v1" | "deployments" | "models" | undefined
  readonly api?: "responses" | "chat-completions" | undefined
  readonly apiVersion?: string | undefined
  readonly maxTokensField?: "max_completion_tokens" | "max_tokens" | undefined
}

/** Since that version streams can be asked for their usage, and the limit of tokens has its newer name. */
const isRecent = (apiVersion: string): boolean => apiVersion >= "2024-09"

const specOf = (
  options: AzureOpenAiOptions
): Pick<LlmProvider.ProviderSpec, "baseUrl" | "endpoint" | "protocol" | "health" | "telemetryName" | "countTokens"> => {
  const resource = resourceOf(options.endpoint)
  const query = (version: string | undefined) =>
    version === undefined ? "" : `?api-version=${encodeURIComponent(version)}`
  // What the list has are the models that can be deployed, not the names of the deployments.
  const health = (endpoint: string) => ({ endpoint, models: () => [] })
  switch (options.style ?? "v1") {
    case "v1": {
      const version = query(options.apiVersion)
      const base = {
        baseUrl: `${resource}/openai/v1`,
        telemetryName: "azure.ai.openai",
        health: health(`/models${version}`)
      }
      return options.api === "chat-completions"
        ? {
            ...base,
            // The older styles have no fields for the cache of prompts.
            protocol: ChatCompletions.make({
              provider: kind,
              maxTokensField: options.maxTokensField,
              promptCache: true
            }),
            endpoint: () => `/chat/completions${version}`
          }
        : { ...base, protocol: Responses.make({ provider: kind }), endpoint: () => `/responses${version}` }
    }
    case "deployments": {
      const apiVersion = options.apiVersion ?? "2024-10-21"
      return {
        baseUrl: resource,
        telemetryName: "azure.ai.openai",
        protocol: ChatCompletions.make({
          provider: kind,
          maxTokensField: options.maxTokensField ?? (isRecent(apiVersion) ? "max_completion_tokens" : "max_tokens"),
          includeUsage: isRecent(apiVersion)
        }),
        endpoint: ({ model }) =>
          `/openai/deployments/${encodeURIComponent(model)}/chat/completions${query(apiVersion)}`,
        health: health(`/openai/models${query(apiVersion)}`)
      }
    }
    case "models": {
      const version = query(options.apiVersion ?? "2024-05-01-preview")
      return {
        baseUrl: `${resource}/models`,
        telemetryName: "azure.ai.inference",
        protocol: ChatCompletions.make({ provider: kind, maxTokensField: options.maxTokensField ?? "max_tokens" }),
        endpoint: () => `/chat/completions${version}`,
        health: health(`/info${version}`)
      }
    }
  }
}

const problemOf = (options: AzureOpenAiOptions): string | undefined => {
  if ((options.apiKey === undefined) === (options.token === undefined)) return "give apiKey or token, one of the two"
  const style = options.style ?? "v1"
  return options.api === "responses" && style !== "v1"
    ? `the style ${style} has no Responses API: use the style v1, or api chat-completions`
    : undefined
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: AzureOpenAiOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const problem = problemOf(options)
    if (problem !== undefined) return yield* Effect.fail(unusable({ provider: kind, model: options.model }, problem))
    const { api, apiKey, apiVersion, endpoint, maxTokensField, style, token, ...calls } = options
    const spec = { ...calls, ...specOf(options), provider: kind }
    if (token === undefined) {
      return yield* LlmProvider.make({ ...spec, headers: apiKey === undefined ? {} : { "api-key": apiKey } })
    }
    const tokens = yield* makeTokens({ provider: kind, model: options.model }, token)
    const llm = yield* LlmProvider.make({ ...spec, authorize: tokens.authorize })
    return {
      ...llm,
      generate: (request) => Effect.tapError(llm.generate(request), tokens.forget),
      stream: (request) => Stream.tapError(llm.stream(request), tokens.forget),
      generateObject: <A, I, R>(schema: Schema.Schema<A, I, R>, request: LlmRequest, objectOptions?: ObjectOptions) =>
        Effect.tapError(llm.generateObject(schema, request, objectOptions), tokens.forget),
      health: Effect.tapError(llm.health, tokens.forget)
    } satisfies LlmService
  })

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<AzureOpenAiOptions> = Config.map(
  Config.all([
    Config.all({
      endpoint: Config.nonEmptyString("endpoint"),
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      style: Config.option(Config.literal("v1", "deployments", "models")("style")),
      api: Config.option(Config.literal("responses", "chat-completions")("api")),
      apiVersion: Config.option(Config.nonEmptyString("apiVersion"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): AzureOpenAiOptions => ({
    ...calls,
    endpoint: read.endpoint,
    apiKey: read.apiKey,
    model: read.model,
    style: Option.getOrUndefined(read.style),
    api: Option.getOrUndefined(read.api),
    apiVersion: Option.getOrUndefined(read.apiVersion)
  })
)

/**
 * The options as settings: `azure.endpoint`, `azure.apiKey` and `azure.model`, and if they are there `azure.style`,
 * `azure.api`, `azure.apiVersion` and the settings of calls (`azure.timeout`, …). Tokens are no settings: they are given as
 * `token` to `layer`.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<AzureOpenAiOptions> = Config.nested(settings, kind)

/**
 * Models deployed in Azure.
 *
 * ```ts
 * const Model = AzureOpenAi.layer({
 *   endpoint: "https://my-resource.openai.azure.com",
 *   apiKey: Redacted.make("…"),
 *   model: "my-gpt-5"
 * })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: AzureOpenAiOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Models deployed in Azure, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<AzureOpenAiOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
