/**
 * Any server that speaks the Chat Completions format, as a watched language model, and presets for well-known ones.
 * `Groq`, `HuggingFace` and others are made of it.
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
import * as Presets from "./internal/presets.ts"
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
  /** `gen_ai.provider.name`; by default `provider`. */
  readonly telemetryName?: string | undefined
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
  /** Whether the server knows OpenAI's fields for the cache of prompts; by default they are left out. */
  readonly promptCache?: boolean | undefined
  /** Fields of every request, unless the request's `providerOptions` say otherwise. */
  readonly fields?: Readonly<Record<string, unknown>> | undefined
  /**
   * The last word on the body of a request, before the caller's own fields are put in: for what the server calls otherwise
   * or does not know. What it cannot carry is a `Left` that says what to do instead.
   */
  readonly adapt?: ChatCompletions.Dialect["adapt"]
  /** The URL (or what is put after `baseUrl`) that lists the models, for `health`; by default `/models`. */
  readonly modelsUrl?: string | undefined
  /** The models in that list, or none if names say nothing; by default as OpenAI and Ollama list them. */
  readonly listed?: ((body: string) => ReadonlyArray<string>) | undefined
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
  const {
    adapt,
    apiKey,
    fields,
    headers,
    includeUsage,
    listed,
    maxTokensField,
    modelsUrl,
    promptCache,
    reasoningField,
    ...spec
  } = options
  const { provider } = options
  return LlmProvider.make({
    ...spec,
    protocol: ChatCompletions.make({
      provider,
      maxTokensField,
      includeUsage,
      promptCache,
      reasoningField,
      fields,
      adapt
    }),
    endpoint: () => "/chat/completions",
    headers: {
      ...(apiKey === undefined ? {} : { authorization: `Bearer ${Redacted.value(apiKey)}` }),
      ...headers
    },
    health: { endpoint: modelsUrl ?? "/models", models: listed }
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

// ---------------------------------------------------------------------------------------------------------------------
// Presets
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What is particular to a server: to be spread into the options of `layer`, where anything of it can be changed.
 *
 * @since 0.1.0
 * @category models
 */
export type Preset = Omit<OpenAiCompatibleOptions, "model" | "apiKey" | "headers" | keyof LlmProvider.CallSettings>

/** A list whose entries stand in no record, as Together sends it. */
const bareList = (body: string): ReadonlyArray<string> => {
  const names = LlmProvider.modelsIn(body)
  return names.length > 0 ? names : LlmProvider.modelsIn(`{"data":${body}}`)
}

/** Names that say nothing: the server answers with what it has loaded, whatever it is asked for. */
const anyModel = (): ReadonlyArray<string> => []

/**
 * Servers that speak Chat Completions with differences, by their names in errors, telemetry and `providerOptions`.
 *
 * ```ts
 * OpenAiCompatible.layer({ ...OpenAiCompatible.presets.mistral, apiKey, model: "mistral-small-latest" })
 * ```
 *
 * @since 0.1.0
 * @category constants
 */
export const presets = {
  // docs.vllm.ai/en/stable/serving/openai_compatible_server: port 8000, sampling parameters of its own such as `top_k`
  // beside OpenAI's, `stream_options.include_usage`; features/interleaved_thinking: `reasoning` goes back.
  vllm: {
    provider: "vllm",
    baseUrl: "http://127.0.0.1:8000/v1",
    maxTokensField: "max_tokens",
    reasoningField: "reasoning",
    adapt: Presets.withTopK
  },
  // github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md: port 8080, `reasoning_content` both ways, sampling
  // parameters of `/completion`; pypi.org/project/langchain-llama-cpp: a named `tool_choice` silently becomes `auto`.
  llamacpp: {
    provider: "llamacpp",
    baseUrl: "http://127.0.0.1:8080/v1",
    maxTokensField: "max_tokens",
    reasoningField: "reasoning_content",
    adapt: Presets.all(Presets.withTopK, Presets.choiceInWords),
    listed: anyModel
  },
  // lmstudio.ai/docs/developer/openai-compat/chat-completions: port 1234, `top_k`, `max_tokens`, `seed`;
  // lmstudio-ai/lmstudio-bug-tracker#189, #307: `response_format` is `json_schema` or `text`; #670: `tool_choice` is a
  // word only.
  lmstudio: {
    provider: "lmstudio",
    baseUrl: "http://127.0.0.1:1234/v1",
    maxTokensField: "max_tokens",
    adapt: Presets.all(Presets.withTopK, Presets.choiceInWords, Presets.jsonBySchema)
  },
  // api-docs.deepseek.com/api/create-chat-completion: `max_tokens`, `stream_options`, `response_format` is `text` or
  // `json_object`; /guides/thinking_mode: `reasoning_content` of a turn with calls must go back (a 400 where it does not)
  // and is ignored elsewhere, `thinking` switches it off.
  deepseek: {
    provider: "deepseek",
    baseUrl: "https://api.deepseek.com",
    maxTokensField: "max_tokens",
    reasoningField: "reasoning_content",
    adapt: Presets.all(
      Presets.noSchema("DeepSeek"),
      Presets.thinkingSwitch,
      Presets.reasoningBesideCalls("reasoning_content"),
      Presets.without("seed", "parallel_tool_calls")
    )
  },
  // github.com/mistralai/platform-docs-public/blob/main/openapi.yaml: `random_seed`, `max_tokens`, and no further fields
  // (`additionalProperties: false`), so no `stream_options`: the last chunk has the usage unasked; docs.mistral.ai/
  // inference/conversations/advanced/prompt-caching: `prompt_cache_key` alone;
  // mistralai.github.io/mistral-common/usage/tools: ids of calls are nine letters and digits.
  mistral: {
    provider: "mistral",
    telemetryName: "mistral_ai",
    baseUrl: "https://api.mistral.ai/v1",
    maxTokensField: "max_tokens",
    includeUsage: false,
    promptCache: true,
    adapt: Presets.all(
      Presets.renamed("seed", "random_seed"),
      Presets.without("prompt_cache_retention"),
      Presets.shortCallIds(9)
    )
  },
  // github.com/togethercomputer/openapi/blob/main/openapi.yaml: `max_tokens`, `top_k`, `seed`, no `stream_options` and no
  // `parallel_tool_calls`; the usage is in the chunk of the finish.
  together: {
    provider: "together",
    baseUrl: "https://api.together.ai/v1",
    maxTokensField: "max_tokens",
    includeUsage: false,
    adapt: Presets.all(Presets.withTopK, Presets.without("parallel_tool_calls")),
    listed: bareList
  },
  // docs.cohere.com/docs/compatibility-api: address, `max_tokens`, `seed`, and what it does not support;
  // strandsagents.com/docs/user-guide/concepts/model-providers/cohere: `stream_options` is refused. Its models are listed
  // by the API beside it.
  cohere: {
    provider: "cohere",
    baseUrl: "https://api.cohere.ai/compatibility/v1",
    maxTokensField: "max_tokens",
    includeUsage: false,
    adapt: Presets.all(Presets.choiceInWords, Presets.without("parallel_tool_calls")),
    modelsUrl: "/../../v1/models",
    listed: anyModel
  },
  // docs.ai21.com/reference/jamba-1-6-api-ref: `max_tokens`, `response_format` is `text` or `json_object`; there is no
  // `tool_choice`, `seed`, `stream_options` or effort of reasoning.
  ai21: {
    provider: "ai21",
    baseUrl: "https://api.ai21.com/studio/v1",
    maxTokensField: "max_tokens",
    includeUsage: false,
    adapt: Presets.all(
      Presets.noSchema("AI21"),
      Presets.noChoice("AI21"),
      Presets.without("seed", "parallel_tool_calls", "reasoning_effort", "frequency_penalty", "presence_penalty")
    )
  }
} as const satisfies Readonly<Record<string, Preset>>

/**
 * The name of a preset.
 *
 * @since 0.1.0
 * @category models
 */
export type PresetName = keyof typeof presets

/**
 * The presets of servers that run on one's own machines and so may want no key.
 *
 * @since 0.1.0
 * @category constants
 */
export const localPresets: ReadonlyArray<PresetName> = ["vllm", "llamacpp", "lmstudio"]

/**
 * What is left to say where a preset says the rest. `baseUrl` is the preset's unless it is given.
 *
 * @since 0.1.0
 * @category models
 */
export interface PresetOptions extends LlmProvider.CallSettings {
  readonly apiKey?: Redacted.Redacted | undefined
  /** The model that is asked unless the request names another. */
  readonly model: string
  readonly baseUrl?: string | undefined
  /** More headers; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
}

/**
 * Makes the model of a preset. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makePreset = (
  name: PresetName,
  options: PresetOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const preset: Preset = presets[name]
  return make({ ...preset, ...options, baseUrl: options.baseUrl ?? preset.baseUrl })
}

/**
 * The options of a preset as settings, by their own names: `Config.nested(presetSettings("vllm"), "…")` reads them from a
 * table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const presetSettings = (name: PresetName): Config.Config<PresetOptions> => {
  const apiKey = Config.redacted("apiKey")
  return Config.map(
    Config.all([
      Config.all({
        apiKey: localPresets.includes(name) ? Config.option(apiKey) : Config.map(apiKey, Option.some),
        model: Config.nonEmptyString("model"),
        baseUrl: Config.option(Config.nonEmptyString("baseUrl"))
      }),
      LlmProvider.callSettings
    ]),
    ([read, calls]): PresetOptions => ({
      ...calls,
      apiKey: Option.getOrUndefined(read.apiKey),
      model: read.model,
      baseUrl: Option.getOrUndefined(read.baseUrl)
    })
  )
}

/**
 * The options of a preset as settings: `mistral.apiKey` and `mistral.model`, and if they are there `mistral.baseUrl` and
 * the settings of calls (`mistral.timeout`, …). Servers on one's own machines need no key.
 *
 * @since 0.1.0
 * @category config
 */
export const presetConfig = (name: PresetName): Config.Config<PresetOptions> =>
  Config.nested(presetSettings(name), name)

/**
 * A language model behind one of the well-known servers.
 *
 * ```ts
 * const Model = OpenAiCompatible.layerPreset("deepseek", { apiKey: Redacted.make("sk-…"), model: "deepseek-chat" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerPreset = (
  name: PresetName,
  options: PresetOptions
): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> => Layer.scoped(Llm, makePreset(name, options))

/**
 * The same, its options read from the configuration; by default `presetConfig(name)`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerPresetConfig = (
  name: PresetName,
  options: Config.Config.Wrap<PresetOptions> = presetConfig(name)
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(
    Llm,
    Effect.flatMap(Config.unwrap(options), (known) => makePreset(name, known))
  )
