/**
 * Any server that speaks the Chat Completions format, as a watched language model: one span a call with its attempts
 * inside, the metrics of OpenTelemetry's conventions, retries before the first content, one circuit breaker for each
 * model, timeouts that look at content and not at pings. `OpenAi`, `Groq` and `Ollama` are made of it.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as ExternalHttp from "@underlay/core/external/ExternalHttp"
import * as Health from "@underlay/core/operations/Health"
import { BulkheadFull } from "@underlay/core/resilience/Bulkhead"
import type * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import { CircuitOpen } from "@underlay/core/resilience/CircuitBreaker"
import * as Deadline from "@underlay/core/resilience/Deadline"
import type * as ErrorClass from "@underlay/core/resilience/ErrorClass"
import * as Policy from "@underlay/core/resilience/Policy"
import { RateLimitExceeded } from "@underlay/core/resilience/RateLimit"
import type * as RetryPolicy from "@underlay/core/resilience/RetryPolicy"
import { CallThrottled } from "@underlay/core/resilience/Throttle"
import { CallTimeout } from "@underlay/core/resilience/Timeout"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { isRecord } from "./internal/classify.ts"
import * as Sse from "./internal/sse.ts"
import * as Telemetry from "./internal/telemetry.ts"
import { Llm, type LlmService, make as makeLlm } from "./Llm.ts"
import { LlmError } from "./LlmError.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { LlmStreamPart, Usage } from "./LlmResponse.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"

/**
 * How calls are made, the same for every provider.
 *
 * @since 0.1.0
 * @category models
 */
export interface CallSettings {
  /**
   * The limit of a whole call with its retries; for a streamed answer, until its first content. 2 minutes.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /** The limit of each attempt to get the first content of a streamed answer. 1 minute, or `timeout` if that is less. */
  readonly firstContentTimeout?: Duration.DurationInput | undefined
  /** The limit between two pieces of content of a streamed answer; pings and comments do not count. 1 minute. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** The limit of a whole streamed answer. 10 minutes. */
  readonly streamTimeout?: Duration.DurationInput | undefined
  /** By default 3 attempts, 2 seconds x 2 up to 30 seconds, full jitter. False for a single attempt. */
  readonly retry?: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
  /** By default 5 failures in a row open it for 30 seconds; each model has its own. False for none. */
  readonly breaker?: Omit<CircuitBreaker.Options, "name"> | false | undefined
}

/**
 * A server that speaks Chat Completions.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpenAiCompatibleOptions extends CallSettings {
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

// More models than this by one layer are a mistake, or names that users made up: idle ones are forgotten.
const maxModels = 64

const withoutSlash = (url: string): string => url.replace(/\/+$/, "")

const revealed = (value: string | Redacted.Redacted): string =>
  typeof value === "string" ? value : Redacted.value(value)

/** What a failed answer says of the provider: limits of ours or of the account are not its fault. */
const counts = (found: ErrorClass.Classification, error: unknown): CircuitBreaker.Outcome => {
  if (found.rejection === true) return "neutral"
  if (error instanceof LlmError) {
    switch (error.reason) {
      case "ServerError":
      case "Overloaded":
      case "Network":
      case "Timeout":
      case "StreamTruncated":
        return "failure"
      case "RateLimited":
        return "neutral"
      default:
        return "success"
    }
  }
  return found.class === "transient" || found.assumed === true
    ? "failure"
    : found.class === "permanent"
      ? "success"
      : "neutral"
}

const millisOf = (input: Duration.DurationInput): number => Duration.toMillis(input)

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together, saying what to change.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OpenAiCompatibleOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const { provider } = options
    const baseUrl = withoutSlash(options.baseUrl)
    const url = yield* Effect.mapError(parseUrl(baseUrl), (issue) => unusable(options, issue))
    const scope = yield* Effect.scope
    const http = yield* HttpClient.HttpClient

    const headers: Record<string, string> = {}
    if (options.apiKey !== undefined) headers["authorization"] = `Bearer ${Redacted.value(options.apiKey)}`
    for (const [name, value] of Object.entries(options.headers ?? {})) headers[name] = revealed(value)

    const timeout = options.timeout ?? "2 minutes"
    const firstContentTimeout = options.firstContentTimeout ?? Math.min(60_000, millisOf(timeout))
    const idleTimeout = options.idleTimeout ?? "1 minute"
    const streamTimeout = options.streamTimeout ?? "10 minutes"
    // A finished answer waits for its usage, but never until one of the other limits makes a failure of it.
    const lastWaitMillis = Math.min(2000, millisOf(idleTimeout) / 2, millisOf(firstContentTimeout) / 2)
    const dialect: ChatCompletions.Dialect = {
      provider,
      maxTokensField: options.maxTokensField,
      includeUsage: options.includeUsage,
      reasoningField: options.reasoningField
    }

    const policyOf = (model: string) =>
      Policy.make({
        name: `${provider}/${model}`,
        timeout,
        retry: options.retry === undefined ? { base: "2 seconds" } : options.retry,
        breaker: options.breaker === false ? false : { counts, ...options.breaker }
      }).pipe(Effect.mapError((error) => unusable(options, error.problems.join("; "))))

    // One client for each model, so that one breaker for each model. They are made within the layer's own context: the
    // ids and deadlines of whoever asks first are not theirs.
    const clients = new Map<
      string,
      { readonly client: ExternalHttp.ExternalHttp; readonly scope: Scope.CloseableScope }
    >()
    const making = yield* Effect.makeSemaphore(1)

    const makeClient = (model: string) =>
      Effect.gen(function* () {
        const policy = yield* policyOf(model)
        const own = yield* Scope.fork(scope, scope.strategy)
        const client = yield* ExternalHttp.make({
          service: `${provider}/${model}`,
          policy,
          headers,
          attributes: { "gen_ai.provider.name": provider },
          slowAfter: "30 seconds"
        }).pipe(Scope.extend(own), Effect.provideService(HttpClient.HttpClient, http))
        return { client, scope: own }
      })

    const forgetOne = Effect.gen(function* () {
      for (const [model, { client, scope }] of clients) {
        if (model === options.model || (yield* client.inFlight) > 0) continue
        if (client.breaker !== undefined && (yield* client.breaker.state) !== "closed") continue
        clients.delete(model)
        return yield* Scope.close(scope, Exit.void)
      }
    })

    const context = yield* Effect.context<never>()
    const clientOf = (model: string): Effect.Effect<ExternalHttp.ExternalHttp, LlmError> =>
      Effect.suspend(() => {
        const known = clients.get(model)
        if (known !== undefined) {
          clients.delete(model)
          clients.set(model, known)
          return Effect.succeed(known.client)
        }
        return making
          .withPermits(1)(
            Effect.suspend(() => {
              const made = clients.get(model)
              if (made !== undefined) return Effect.succeed(made.client)
              return Effect.gen(function* () {
                if (clients.size >= maxModels) yield* forgetOne
                const entry = yield* makeClient(model)
                clients.set(model, entry)
                return entry.client
              })
            })
          )
          .pipe(
            Effect.uninterruptible,
            Effect.mapInputContext(() => context)
          )
      })

    // The usual model's, so that settings which cannot work stop the start and its health shows from the beginning.
    yield* clientOf(options.model)

    const operationOf = (model: string): Telemetry.Operation => ({
      operation: "chat",
      provider,
      model,
      serverAddress: url.hostname,
      serverPort: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port)
    })

    const send = (
      client: ExternalHttp.ExternalHttp,
      body: string,
      stream: boolean
    ): Effect.Effect<Response, HttpClientError.HttpClientError> =>
      client.client.execute(
        HttpClientRequest.post(`${baseUrl}/chat/completions`).pipe(
          HttpClientRequest.accept(stream ? "text/event-stream" : "application/json"),
          HttpClientRequest.bodyText(body, "application/json")
        )
      )

    const generate = (request: LlmRequest) =>
      Effect.suspend(() => {
        const model = request.model ?? options.model
        const context = { provider, model, method: "generate" }
        const encoded = ChatCompletions.encode(request, { model, stream: false, dialect, method: "generate" })
        if (Either.isLeft(encoded)) return Effect.fail(encoded.left)
        const operation = operationOf(model)
        const attempt = (client: ExternalHttp.ExternalHttp) =>
          send(client, encoded.right, false).pipe(
            Effect.flatMap((response) => response.text),
            Effect.catchAll((error) => Effect.flatMap(toLlmError(error, context), Effect.fail)),
            Effect.flatMap((text) => ChatCompletions.decode(text, context)),
            Effect.tap((response) => annotate(Telemetry.responseAttributes(response))),
            Effect.tapError((error) => annotate(Telemetry.errorAttributes(error)))
          )
        return Effect.flatMap(clientOf(model), (client) =>
          client
            .call("chat", attempt(client), {
              spanName: `chat ${model}`,
              attributes: Telemetry.requestAttributes(operation, request, false)
            })
            .pipe(
              Effect.catchAll((error) => Effect.flatMap(toLlmError(error, context), Effect.fail)),
              measured(operation)
            )
        )
      })

    const stream = (request: LlmRequest): Stream.Stream<LlmStreamPart, LlmError> =>
      Stream.suspend(() => {
        const model = request.model ?? options.model
        const context = { provider, model, method: "stream" }
        const encoded = ChatCompletions.encode(request, { model, stream: true, dialect, method: "stream" })
        if (Either.isLeft(encoded)) return Stream.fail(encoded.left)
        const operation = operationOf(model)
        const progress = new Progress()
        const attempt = (client: ExternalHttp.ExternalHttp) =>
          Stream.unwrap(
            Effect.gen(function* () {
              const span = yield* Effect.option(Effect.currentSpan)
              const decoder = ChatCompletions.makeStreamDecoder(context)
              progress.begin(decoder, Option.getOrUndefined(span))
              const response = yield* send(client, encoded.right, true).pipe(
                Effect.catchAll((error) => Effect.flatMap(toLlmError(error, context), Effect.fail)),
                Effect.tapError((error) => annotate(Telemetry.errorAttributes(error)))
              )
              const body = Stream.mapError(response.stream, (error) => networkError(error, context))
              return ChatCompletions.decodeStream(body, context, { decoder, lastWaitMillis })
            })
          ).pipe(
            Stream.mapChunks(progress.seen),
            Stream.tapError((error) => annotate(Telemetry.errorAttributes(error)))
          )
        return Stream.unwrapScoped(
          Effect.gen(function* () {
            const clock = yield* Effect.clock
            progress.start(clock)
            yield* Effect.addFinalizer(() => progress.record(operation))
            const client = yield* clientOf(model)
            return client
              .stream("chat", attempt(client), {
                spanName: `chat ${model}`,
                attributes: Telemetry.requestAttributes(operation, request, true),
                timeout,
                firstElementTimeout: firstContentTimeout,
                idleTimeout
              })
              .pipe(
                Stream.catchAll((error) =>
                  Stream.fromEffect(
                    Effect.flatMap(toLlmError(error, context, progress), (failure) => {
                      progress.failed = failure
                      return Effect.fail(failure)
                    })
                  )
                )
              )
          })
        )
      }).pipe(Deadline.withinStream(streamTimeout))

    const modelsUrl = options.modelsUrl ?? `${baseUrl}/models`
    const watch = yield* ExternalHttp.make({
      service: provider,
      policy: { timeout: "5 seconds", retry: false, breaker: false },
      headers,
      health: false
    })
    const healthContext = { provider, model: options.model, method: "health" }
    const health = watch
      .call(
        "models",
        watch.client.execute(HttpClientRequest.get(modelsUrl)).pipe(
          Effect.flatMap((response) => response.text),
          Effect.catchAll((error) => Effect.flatMap(toLlmError(error, healthContext), Effect.fail))
        )
      )
      .pipe(
        Effect.catchAll((error) => Effect.flatMap(toLlmError(error, healthContext), Effect.fail)),
        Effect.map((text) => {
          const known = modelsIn(text)
          const found = known.length === 0 || known.some((name) => sameModel(name, options.model))
          return found
            ? Health.up({ model: options.model })
            : Health.degraded({ model: options.model, issue: "the provider does not list this model" })
        })
      )

    return makeLlm({ provider, model: options.model, generate, stream, health })
  })

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

/**
 * The settings of calls that can be configured, each optional: `timeout`, `firstContentTimeout`, `idleTimeout`,
 * `streamTimeout`, `attempts`, `retryDelay`.
 *
 * @since 0.1.0
 * @category config
 */
export const callSettings: Config.Config<CallSettings> = Config.map(
  Config.all({
    timeout: Config.option(Config.duration("timeout")),
    firstContentTimeout: Config.option(Config.duration("firstContentTimeout")),
    idleTimeout: Config.option(Config.duration("idleTimeout")),
    streamTimeout: Config.option(Config.duration("streamTimeout")),
    attempts: Config.option(Config.integer("attempts")),
    retryDelay: Config.option(Config.duration("retryDelay"))
  }),
  (read): CallSettings => ({
    timeout: Option.getOrUndefined(read.timeout),
    firstContentTimeout: Option.getOrUndefined(read.firstContentTimeout),
    idleTimeout: Option.getOrUndefined(read.idleTimeout),
    streamTimeout: Option.getOrUndefined(read.streamTimeout),
    retry: {
      base: Option.getOrElse(read.retryDelay, () => Duration.seconds(2)),
      attempts: Option.getOrUndefined(read.attempts)
    }
  })
)

// ---------------------------------------------------------------------------------------------------------------------

type Response = Effect.Effect.Success<ReturnType<HttpClient.HttpClient["execute"]>>

const unusable = (options: OpenAiCompatibleOptions, issue: string): LlmError =>
  new LlmError({
    reason: "InvalidRequest",
    method: "layer",
    provider: options.provider,
    model: options.model,
    issue,
    retryable: false,
    midStream: false
  })

const parseUrl = (text: string): Effect.Effect<URL, string> =>
  Effect.suspend(() =>
    URL.canParse(text) && /^https?:/i.test(text)
      ? Effect.succeed(new URL(text))
      : Effect.fail("the base URL is not one: it must begin with http:// or https://")
  )

const annotate = (attributes: Record<string, unknown>): Effect.Effect<void> => Effect.annotateCurrentSpan(attributes)

/** The errors of platform's client hold the request, and with it prompts and keys: only what is below them is kept. */
const causeOf = (error: HttpClientError.HttpClientError): unknown =>
  HttpClientError.isHttpClientError(error.cause) ? undefined : error.cause

const networkError = (error: HttpClientError.HttpClientError, context: ChatCompletions.CallContext): LlmError =>
  new LlmError({
    ...context,
    reason: "Network",
    retryable: true,
    midStream: false,
    cause: causeOf(error)
  })

const fromHttp = (
  error: HttpClientError.HttpClientError,
  context: ChatCompletions.CallContext
): Effect.Effect<LlmError> => {
  if (error._tag === "RequestError") {
    // A client with a policy of its own, put below this one, shows the errors of that policy like this.
    const own = error.reason === "Transport" ? fromPolicy(error.cause, context) : undefined
    if (own !== undefined) return Effect.succeed(own)
    return Effect.succeed(
      error.reason === "Transport"
        ? networkError(error, context)
        : new LlmError({
            ...context,
            reason: "InvalidRequest",
            retryable: false,
            midStream: false,
            issue: "the request could not be built"
          })
    )
  }
  if (error.reason !== "StatusCode") return Effect.succeed(networkError(error, context))
  const { headers, status } = error.response
  return Effect.zipWith(
    Effect.orElseSucceed(error.response.text, () => ""),
    Clock.currentTimeMillis,
    (body, now) => ChatCompletions.decodeError({ status, headers, body, now }, context)
  )
}

/** The errors of a policy as ours; undefined for all others. `progress` has what had arrived of a streamed answer. */
const fromPolicy = (
  error: unknown,
  context: ChatCompletions.CallContext,
  progress?: Progress
): LlmError | undefined => {
  if (error instanceof CallTimeout) {
    const decoder = progress?.hadContent === true ? progress.decoder : undefined
    return new LlmError({
      ...context,
      reason: "Timeout",
      retryable: decoder === undefined,
      midStream: decoder !== undefined,
      ...(decoder === undefined ? {} : { status: 200, partial: decoder.partial(), usage: decoder.usage() }),
      issue: waits[error.scope](error.limitMillis),
      cause: error
    })
  }
  const refused = (
    reason: LlmError["reason"],
    retryable: boolean,
    issue: string | undefined,
    retryAfter?: Duration.Duration | undefined
  ): LlmError =>
    new LlmError({
      ...context,
      reason,
      retryable,
      midStream: false,
      ...(retryAfter !== undefined && Duration.isFinite(retryAfter) ? { retryAfter } : {}),
      ...(issue === undefined ? {} : { issue }),
      cause: error
    })
  if (error instanceof CircuitOpen) return refused("CircuitOpen", true, undefined, error.retryAfter)
  if (error instanceof RateLimitExceeded) {
    return refused("RateLimited", true, "our own limit, the provider was not asked", error.retryAfter)
  }
  if (error instanceof BulkheadFull) {
    return error.isRetryable
      ? refused("Overloaded", true, "too many calls are in flight here, the provider was not asked")
      : refused("InvalidRequest", false, "the call weighs more than there are places in its bulkhead")
  }
  if (error instanceof CallThrottled) {
    return refused("Overloaded", true, "the provider refuses much lately, so this call was not made")
  }
  if (error instanceof Policy.StageRejected) {
    return refused(
      error.retryAfter === undefined ? "Overloaded" : "RateLimited",
      true,
      `refused by the stage ${error.stage}, the provider was not asked`,
      error.retryAfter
    )
  }
  return undefined
}

/** Any error of a call as ours. `progress` has what had arrived of a streamed answer. */
const toLlmError = (
  error: unknown,
  context: ChatCompletions.CallContext,
  progress?: Progress
): Effect.Effect<LlmError> => {
  if (error instanceof LlmError) return Effect.succeed(error)
  if (HttpClientError.isHttpClientError(error)) return fromHttp(error, context)
  const own = fromPolicy(error, context, progress)
  if (own !== undefined) return Effect.succeed(own)
  return Effect.succeed(
    new LlmError({ ...context, reason: "MalformedResponse", retryable: false, midStream: false, cause: error })
  )
}

const waits: { readonly [K in CallTimeout["scope"]]: (limit: number) => string } = {
  attempt: (limit) => `an attempt took longer than ${limit} ms`,
  total: (limit) => `the whole call took longer than ${limit} ms`,
  "first-element": (limit) => `no content within ${limit} ms`,
  idle: (limit) => `no further content within ${limit} ms`
}

const seconds = (from: bigint, to: bigint): number => Number(to - from) / 1e9

/** Records the metrics of a call, whatever becomes of it. */
const measured =
  (operation: Telemetry.Operation) =>
  <A extends { readonly usage: Usage; readonly model?: string | undefined }>(
    effect: Effect.Effect<A, LlmError>
  ): Effect.Effect<A, LlmError> =>
    Effect.flatMap(Clock.currentTimeNanos, (started) =>
      Effect.onExit(effect, (exit) =>
        Effect.flatMap(Clock.currentTimeNanos, (now) => {
          const took = seconds(started, now)
          if (Exit.isSuccess(exit)) {
            const { model, usage } = exit.value
            return Telemetry.record(operation, took, { usage, model, error: undefined })
          }
          const failure = Option.getOrUndefined(Cause.failureOption(exit.cause))
          return Telemetry.record(operation, took, {
            usage: failure?.usage ?? {},
            model: failure?.partial?.model,
            error: failure?.reason ?? (Cause.isInterrupted(exit.cause) ? "cancelled" : "defect")
          })
        })
      )
    )

/** What is known of one streamed answer while it comes. Mutable, since it is looked at for every chunk. */
class Progress {
  decoder: ChatCompletions.StreamDecoder | undefined
  failed: LlmError | undefined
  hadContent = false
  private span: Tracer.Span | undefined
  private clock: Clock.Clock | undefined
  private started = 0n
  private first: bigint | undefined
  private finish: Extract<LlmStreamPart, { readonly type: "finish" }> | undefined

  start(clock: Clock.Clock): void {
    this.clock = clock
    this.started = clock.unsafeCurrentTimeNanos()
  }

  begin(decoder: ChatCompletions.StreamDecoder, span: Tracer.Span | undefined): void {
    this.decoder = decoder
    this.span = span
  }

  readonly seen = (chunk: Chunk.Chunk<LlmStreamPart>): Chunk.Chunk<LlmStreamPart> => {
    if (!this.hadContent) {
      this.hadContent = true
      this.first = this.clock?.unsafeCurrentTimeNanos()
      if (this.first !== undefined) {
        this.span?.attribute("gen_ai.response.time_to_first_chunk", seconds(this.started, this.first))
      }
    }
    const last = Option.getOrUndefined(Chunk.last(chunk))
    if (last?.type === "finish") {
      this.finish = last
      for (const [name, value] of Object.entries(Telemetry.responseAttributes(last))) this.span?.attribute(name, value)
    }
    return chunk
  }

  /** Records the metrics, with the usage as far as it was said: also of an answer that nobody waited for. */
  record(operation: Telemetry.Operation): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeNanos, (now) => {
      const { failed, finish, first } = this
      const recorded = Telemetry.record(operation, seconds(this.started, now), {
        usage: finish?.usage ?? failed?.usage ?? this.decoder?.usage() ?? {},
        model: finish?.model ?? this.decoder?.partial().model,
        error: failed?.reason ?? (finish === undefined ? "cancelled" : undefined)
      })
      return first === undefined
        ? recorded
        : Effect.zipRight(Telemetry.recordFirstChunk(operation, seconds(this.started, first)), recorded)
    })
  }
}

/**
 * The names of the models in a list of them, in the form of OpenAI (`/models`) or of Ollama (`/api/tags`).
 *
 * @since 0.1.0
 * @category combinators
 */
export const modelsIn = (body: string): ReadonlyArray<string> => {
  const value = Sse.parse(body)
  if (!isRecord(value)) return []
  const list = Array.isArray(value["data"]) ? value["data"] : Array.isArray(value["models"]) ? value["models"] : []
  return list.flatMap((entry: unknown) => {
    if (!isRecord(entry)) return []
    const name = entry["id"] ?? entry["model"] ?? entry["name"]
    return typeof name === "string" ? [name] : []
  })
}

/** Whether a listed model is the one that is meant: a tag may be left out where it is the latest. */
const sameModel = (listed: string, meant: string): boolean =>
  listed === meant || listed === `${meant}:latest` || `${listed}:latest` === meant
