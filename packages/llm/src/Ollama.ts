/**
 * Models on an Ollama server, over its own API or its `/v1` endpoint, and a quick look whether there is one. The server
 * itself (its models, getting more of them) is `OllamaServer`.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Timeout from "@underlay/core/resilience/Timeout"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { isRecord } from "./internal/classify.ts"
import * as Errors from "./internal/errors.ts"
import * as Ollama from "./internal/ollama.ts"
import { noChoice } from "./internal/presets.ts"
import * as Sse from "./internal/sse.ts"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as OpenAiCompatible from "./OpenAiCompatible.ts"
import * as OllamaChat from "./protocol/OllamaChat.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "ollama"

/**
 * Where Ollama listens unless it is told otherwise.
 *
 * @since 0.1.0
 * @category constants
 */
export const defaultHost = Ollama.defaultHost

/**
 * Since the model may have to be loaded from disk first, `timeout` and `firstContentTimeout` are 5 minutes unless they are
 * given.
 *
 * @since 0.1.0
 * @category models
 */
export interface OllamaOptions extends LlmProvider.CallSettings {
  /**
   * The server, without `/v1` or `/api`. `http://127.0.0.1:11434`; `https://ollama.com` for Ollama's cloud. A host without
   * a scheme is asked by HTTP, at port 11434 unless it names another.
   */
  readonly host?: string | undefined
  /** For Ollama's cloud, or a server behind a gateway; sent as a bearer token. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** More headers; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** The model that is asked unless the request names another. */
  readonly model: string
  /**
   * Which of the server's two APIs is spoken: its own (`native`, the default), which alone takes a context window and
   * `keepAlive`, or the one that imitates OpenAI's (`v1`).
   */
  readonly api?: "native" | "v1" | undefined
  /**
   * The context window in tokens (`num_ctx`). The server's default is a few thousand, whatever the model can; from a
   * conversation that is longer the server leaves out the oldest messages without saying so.
   */
  readonly contextLength?: number | undefined
  /** How long the model stays loaded after an answer. The server's default is 5 minutes. */
  readonly keepAlive?: Duration.DurationInput | undefined
  /** Other settings of the model (`min_p`, `num_gpu`, …) for all requests. */
  readonly modelOptions?: OllamaChat.ModelOptions | undefined
}

const at = (host: string | undefined, path: string): string => `${Ollama.rootOf(host)}${path}`

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OllamaOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { api, apiKey, contextLength, headers, host, keepAlive, modelOptions, ...given } = options
  const timeout = options.timeout ?? "5 minutes"
  const calls = { ...given, timeout, firstContentTimeout: options.firstContentTimeout ?? timeout }
  if (api === "v1") {
    if (contextLength !== undefined || keepAlive !== undefined || modelOptions !== undefined) {
      return Effect.fail(
        Errors.unusable(
          { provider: kind, model: options.model },
          "contextLength, keepAlive and modelOptions have no field in /v1: leave them out, or use the native api"
        )
      )
    }
    return OpenAiCompatible.make({
      ...calls,
      provider: kind,
      baseUrl: at(host, "/v1"),
      apiKey,
      headers,
      modelsUrl: at(host, "/api/tags"),
      maxTokensField: "max_tokens",
      reasoningField: "reasoning",
      // github.com/ollama/ollama/issues/17921: the choice of a tool is silently dropped.
      adapt: noChoice("Ollama")
    })
  }
  return LlmProvider.make({
    ...calls,
    provider: kind,
    baseUrl: Ollama.rootOf(host),
    protocol: OllamaChat.make({
      provider: kind,
      options: { ...(contextLength === undefined ? {} : { num_ctx: contextLength }), ...modelOptions },
      keepAlive: keepAlive === undefined ? undefined : Ollama.secondsOf(keepAlive)
    }),
    endpoint: () => "/api/chat",
    headers: Ollama.headersOf({ apiKey, headers }),
    streamType: "application/x-ndjson",
    health: { endpoint: "/api/tags" }
  })
}

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<OllamaOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.option(Config.redacted("apiKey")),
      model: Config.nonEmptyString("model"),
      host: Config.option(Config.nonEmptyString("host")),
      api: Config.option(Config.literal("native", "v1")("api")),
      contextLength: Config.option(Config.integer("contextLength")),
      keepAlive: Config.option(Config.duration("keepAlive"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): OllamaOptions => ({
    ...calls,
    apiKey: Option.getOrUndefined(read.apiKey),
    model: read.model,
    host: Option.getOrUndefined(read.host),
    api: Option.getOrUndefined(read.api),
    contextLength: Option.getOrUndefined(read.contextLength),
    keepAlive: Option.getOrUndefined(read.keepAlive)
  })
)

/**
 * The options as settings: `ollama.model`, and if they are there `ollama.host`, `ollama.apiKey`, `ollama.api`,
 * `ollama.contextLength`, `ollama.keepAlive` and the settings of calls (`ollama.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OllamaOptions> = Config.nested(settings, kind)

/**
 * Models on an Ollama server.
 *
 * ```ts
 * const Model = Ollama.layer({ model: "qwen3", contextLength: 32_768 })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: OllamaOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Models on an Ollama server, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<OllamaOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))

/**
 * The models that an Ollama server has, or none if none answers. Answers within half a second, whatever listens there.
 *
 * @since 0.1.0
 * @category combinators
 */
export const models = (
  host?: string
): Effect.Effect<Option.Option<ReadonlyArray<string>>, never, HttpClient.HttpClient> =>
  Effect.flatMap(HttpClient.HttpClient, (client) => {
    // A look at start-up is no call of a service: it leaves no span.
    const quiet = HttpClient.withTracerDisabledWhen(client, () => true)
    return quiet.execute(HttpClientRequest.get(at(host, "/api/tags"))).pipe(
      Effect.flatMap(HttpClientResponse.filterStatusOk),
      Effect.flatMap((response) => response.text),
      Timeout.within({ duration: "400 millis", service: kind }),
      Effect.filterOrFail((body) => isList(body)),
      Effect.map(LlmProvider.modelsIn),
      Effect.option
    )
  })

/** Other servers may listen on that port: only Ollama lists its models like this. */
const isList = (body: string): boolean => {
  const value = Sse.parse(body)
  return isRecord(value) && Array.isArray(value["models"])
}

/**
 * Whether an Ollama server answers there. Answers within half a second, whatever listens there.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isRunning = (host?: string): Effect.Effect<boolean, never, HttpClient.HttpClient> =>
  Effect.map(models(host), Option.isSome)
