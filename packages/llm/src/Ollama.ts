/**
 * Models on an Ollama server, over its `/v1` endpoint, and a quick look whether there is one.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Timeout from "@underlay/core/resilience/Timeout"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { isRecord } from "./internal/classify.ts"
import * as Sse from "./internal/sse.ts"
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
export const kind = "ollama"

/**
 * Where Ollama listens unless it is told otherwise.
 *
 * @since 0.1.0
 * @category constants
 */
export const defaultHost = "http://127.0.0.1:11434"

/**
 * @since 0.1.0
 * @category models
 */
export interface OllamaOptions extends LlmProvider.CallSettings {
  /** The server, without `/v1`. `http://127.0.0.1:11434`. */
  readonly host?: string | undefined
  /** For Ollama's cloud, or a server behind a gateway. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** The model that is asked unless the request names another. */
  readonly model: string
}

const at = (host: string | undefined, path: string): string =>
  `${(host ?? defaultHost).replace(/\/+$/, "").replace(/\/v1$/, "")}${path}`

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OllamaOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { host, ...rest } = options
  return OpenAiCompatible.make({
    ...rest,
    provider: kind,
    baseUrl: at(host, "/v1"),
    modelsUrl: at(host, "/api/tags"),
    maxTokensField: "max_tokens",
    reasoningField: "reasoning"
  })
}

/**
 * The options as settings: `ollama.model`, and if they are there `ollama.host`, `ollama.apiKey` and the settings of calls
 * (`ollama.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OllamaOptions> = Config.nested(
  Config.map(
    Config.all([
      Config.all({
        apiKey: Config.option(Config.redacted("apiKey")),
        model: Config.nonEmptyString("model"),
        host: Config.option(Config.nonEmptyString("host"))
      }),
      LlmProvider.callSettings
    ]),
    ([read, calls]): OllamaOptions => ({
      ...calls,
      apiKey: Option.getOrUndefined(read.apiKey),
      model: read.model,
      host: Option.getOrUndefined(read.host)
    })
  ),
  kind
)

/**
 * Models on an Ollama server.
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
