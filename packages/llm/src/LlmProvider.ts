/**
 * A language model of a wire format and an address: what every provider of this package is made of. One span a call with
 * its attempts inside, the metrics of OpenTelemetry's conventions, retries before the first content, one circuit breaker
 * for each model, timeouts that look at content and not at pings. For those who write a provider.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import type * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as ExternalHttp from "@underlay/core/external/ExternalHttp"
import * as Health from "@underlay/core/operations/Health"
import type * as CircuitBreaker from "@underlay/core/resilience/CircuitBreaker"
import * as Deadline from "@underlay/core/resilience/Deadline"
import type * as RetryPolicy from "@underlay/core/resilience/RetryPolicy"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type CallContext, isRecord, type ResponseHeaders } from "./internal/classify.ts"
import * as Clients from "./internal/clients.ts"
import * as Errors from "./internal/errors.ts"
import { authorized, headersOf } from "./internal/headers.ts"
import { measured, Progress } from "./internal/progress.ts"
import { rateLimitsOf, withRateLimits } from "./internal/rateLimits.ts"
import * as Sse from "./internal/sse.ts"
import * as Telemetry from "./internal/telemetry.ts"
import { type LlmService, make as makeLlm } from "./Llm.ts"
import { LlmError } from "./LlmError.ts"
import type { StructuredOutput } from "./LlmObject.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { LlmResponse, LlmStreamPart } from "./LlmResponse.ts"
import { decodePull, type Protocol } from "./protocol/Protocol.ts"

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
  /**
   * The limit of each attempt to get the first content of a streamed answer, which work that is not shown is not. 1 minute,
   * or `timeout` if that is less.
   */
  readonly firstContentTimeout?: Duration.DurationInput | undefined
  /**
   * The limit between two pieces of content of a streamed answer, or of work of the provider that it does not show, such as
   * hidden reasoning and tools of its own; pings and comments do not count. 1 minute.
   */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** The limit of a whole streamed answer. 10 minutes. */
  readonly streamTimeout?: Duration.DurationInput | undefined
  /** By default 3 attempts, 2 seconds x 2 up to 30 seconds, full jitter. False for a single attempt. */
  readonly retry?: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
  /** By default 5 failures in a row open it for 30 seconds; each model has its own. False for none. */
  readonly breaker?: Omit<CircuitBreaker.Options, "name"> | false | undefined
  /** How values are asked for by `generateObject`; by default `auto`. */
  readonly structuredOutput?: StructuredOutput | undefined
  /**
   * Whether spans hold what is asked and answered: messages, instructions, definitions of tools, answers. By default not,
   * and nothing of it leaves the program but to the provider.
   */
  readonly captureContent?: boolean | undefined
}

/**
 * One attempt to get an answer: what is sent where. `execute` sends a request as a part of the call; it fails with the
 * provider's error for a status of 400 or above.
 *
 * @since 0.1.0
 * @category models
 */
export interface Attempt {
  readonly request: LlmRequest
  /** The request as the protocol wrote it. */
  readonly body: string
  readonly model: string
  readonly context: CallContext
  readonly execute: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, LlmError>
}

/**
 * What an exchange gives: the body of the answer, and the headers of its response, by lower-case name, which tell the
 * rate limits.
 *
 * @since 0.1.0
 * @category models
 */
export interface Reply<Body> {
  readonly body: Body
  readonly headers: ResponseHeaders
}

/**
 * How an attempt goes for a provider that needs more than one request for an answer. `generate` gives the body that the
 * protocol decodes, `stream` the bytes that it decodes while they come.
 *
 * @since 0.1.0
 * @category models
 */
export interface Exchange {
  readonly generate: (attempt: Attempt) => Effect.Effect<Reply<string>, LlmError>
  readonly stream: (attempt: Attempt) => Effect.Effect<Reply<Stream.Stream<Uint8Array, LlmError>>, LlmError>
}

/**
 * A provider: an address, a wire format, and what is particular to it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ProviderSpec extends CallSettings {
  /** The provider's name: in errors, log lines, health, and in requests' `providerOptions`. */
  readonly provider: string
  /** `gen_ai.provider.name`; by default `provider`. */
  readonly telemetryName?: string | undefined
  /** `gen_ai.operation.name` and the first word of the span; by default `chat`. */
  readonly operation?: string | undefined
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** Where the provider is, with the scheme. */
  readonly baseUrl: string
  readonly protocol: Protocol
  /** What is put after `baseUrl`, or a whole URL. */
  readonly endpoint: (call: { readonly model: string; readonly stream: boolean }) => string
  /** Headers of every request; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** Headers that are asked for anew for every attempt, such as those with a token that expires. */
  readonly authorize?: Effect.Effect<Readonly<Record<string, string>>, LlmError> | undefined
  /** The `accept` header of a streamed answer; by default that of server-sent events. */
  readonly streamType?: string | undefined
  readonly exchange?: Exchange | undefined
  /** The provider's own count of tokens: where it is asked, with what, and what it answers. */
  readonly countTokens?:
    | {
        readonly endpoint: (model: string) => string
        readonly encode: (request: LlmRequest, model: string) => Either.Either<string, LlmError>
        readonly decode: (body: string, context: CallContext) => Either.Either<number, LlmError>
      }
    | undefined
  /** What `health` asks: a URL (or what is put after `baseUrl`) that costs no tokens. */
  readonly health: {
    readonly endpoint: string
    /** The models that the answer lists; none if it lists none. By default those of OpenAI's form and of Ollama's. */
    readonly models?: ((body: string) => ReadonlyArray<string>) | undefined
  }
}

/** So often a request is amended within an attempt. */
const maxAmendments = 3

/** The request as the protocol writes it; values that JSON has no words for are the caller's fault, not a defect. */
const encodedBy = (
  encode: () => Either.Either<string, LlmError>,
  context: CallContext
): Either.Either<string, LlmError> =>
  Either.getOrElse(Either.try(encode), (cause) =>
    Either.left(
      new LlmError({
        ...context,
        reason: "InvalidRequest",
        retryable: false,
        midStream: false,
        issue: "the request holds something that cannot be written as JSON",
        cause
      })
    )
  )

const millisOf = (input: Duration.DurationInput): number => Duration.toMillis(input)

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together, saying what to change.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (spec: ProviderSpec): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const { protocol, provider } = spec
    const baseUrl = spec.baseUrl.replace(/\/+$/, "")
    const url = yield* Effect.mapError(parseUrl(baseUrl), (issue) => Errors.unusable(spec, issue))
    const telemetryName = spec.telemetryName ?? provider
    const operationName = spec.operation ?? "chat"
    const located = (endpoint: string) => (/^https?:\/\//i.test(endpoint) ? endpoint : `${baseUrl}${endpoint}`)

    const headers = yield* Effect.mapError(headersOf(spec.headers), (issue) => Errors.unusable(spec, issue))

    const timeout = spec.timeout ?? "2 minutes"
    const firstContentTimeout = spec.firstContentTimeout ?? Math.min(60_000, millisOf(timeout))
    const idleTimeout = spec.idleTimeout ?? "1 minute"
    const streamTimeout = spec.streamTimeout ?? "10 minutes"
    // A finished answer waits for its usage, but never until one of the other limits makes a failure of it.
    const lastWaitMillis = Math.min(2000, millisOf(idleTimeout) / 2, millisOf(firstContentTimeout) / 2)

    const clientOf = yield* Clients.make({
      provider,
      model: spec.model,
      telemetryName,
      headers,
      timeout,
      retry: spec.retry,
      breaker: spec.breaker
    })

    // Kept, since the metrics of an operation are found once for each.
    const operations = new Map<string, Telemetry.Operation>()
    const operationOf = (model: string): Telemetry.Operation => {
      const known = operations.get(model)
      if (known !== undefined) return known
      const made: Telemetry.Operation = {
        operation: operationName,
        provider: telemetryName,
        model,
        serverAddress: url.hostname,
        serverPort: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port)
      }
      if (operations.size < Clients.maxModels) operations.set(model, made)
      return made
    }

    const captureContent = spec.captureContent === true
    const askedAttributes = (operation: Telemetry.Operation, request: LlmRequest, stream: boolean) => ({
      ...Telemetry.requestAttributes(operation, request, stream),
      ...(captureContent ? Telemetry.inputAttributes(request) : {})
    })

    const failedAttempt = (error: LlmError): Effect.Effect<void> =>
      Effect.matchEffect(Effect.currentSpan, {
        onFailure: () => Effect.void,
        onSuccess: (span) =>
          Effect.map(Clock.currentTimeNanos, (now) => {
            for (const [name, value] of Object.entries({
              ...Telemetry.errorAttributes(error),
              ...(captureContent ? Telemetry.partialAttributes(error) : {})
            })) {
              span.attribute(name, value)
            }
            Telemetry.exceptionEvent(span, error, now)
          })
      })

    const executeWith =
      (client: ExternalHttp.ExternalHttp, context: CallContext): Attempt["execute"] =>
      (request) =>
        (spec.authorize === undefined
          ? client.client.execute(request)
          : Effect.flatMap(authorized(spec.authorize, context), (own) =>
              client.client.execute(HttpClientRequest.setHeaders(request, own))
            )
        ).pipe(Effect.catchAll((error) => Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)))

    const posted = (endpoint: string, body: string, accept: string) =>
      HttpClientRequest.post(located(endpoint)).pipe(
        HttpClientRequest.accept(accept),
        HttpClientRequest.bodyText(body, "application/json")
      )

    const textOf = (response: HttpClientResponse.HttpClientResponse, context: CallContext) =>
      Effect.catchAll(response.text, (error: HttpClientError.HttpClientError) =>
        Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)
      )

    /** Sends a request, and in its place what the protocol would rather ask where the server refuses it. */
    const send = (
      { body, context, execute, model, request }: Attempt,
      accept: string,
      amendments = maxAmendments
    ): Effect.Effect<HttpClientResponse.HttpClientResponse, LlmError> => {
      const stream = context.method === "stream"
      return Effect.catchAll(execute(posted(spec.endpoint({ model, stream }), body, accept)), (error) => {
        const amended = amendments === 0 ? undefined : protocol.amend?.(error, request, { model })
        if (amended === undefined) return Effect.fail(error)
        const encoded = protocol.encode(amended, { model, stream, method: context.method })
        if (Either.isLeft(encoded) || encoded.right === body) return Effect.fail(error)
        return send({ request: amended, body: encoded.right, model, context, execute }, accept, amendments - 1)
      })
    }

    const exchange: Exchange = spec.exchange ?? {
      generate: (attempt) =>
        Effect.flatMap(send(attempt, "application/json"), (response) =>
          Effect.map(textOf(response, attempt.context), (text) => ({ body: text, headers: response.headers }))
        ),
      stream: (attempt) =>
        Effect.map(send(attempt, spec.streamType ?? "text/event-stream"), (response) => ({
          body: Stream.mapError(response.stream, (error) => Errors.networkError(error, attempt.context)),
          headers: response.headers
        }))
    }

    const generate = (request: LlmRequest): Effect.Effect<LlmResponse, LlmError> =>
      Effect.suspend(() => {
        const model = request.model ?? spec.model
        const context = { provider, model, method: "generate" }
        const options = { model, stream: false, method: "generate" }
        const encoded = encodedBy(() => protocol.encode(request, options), context)
        if (Either.isLeft(encoded)) return Effect.fail(encoded.left)
        const operation = operationOf(model)
        const attempt = (client: ExternalHttp.ExternalHttp) =>
          exchange
            .generate({ request, body: encoded.right, model, context, execute: executeWith(client, context) })
            .pipe(
              Effect.flatMap(({ body, headers }) =>
                Effect.flatMap(Clock.currentTimeMillis, (now) => {
                  const rateLimits = rateLimitsOf(headers, now)
                  return Either.mapBoth(protocol.decode(body, context), {
                    onLeft: (error) => withRateLimits(error, rateLimits),
                    onRight: (response) => (rateLimits === undefined ? response : { ...response, rateLimits })
                  })
                })
              ),
              Effect.tap((response) =>
                annotate({
                  ...Telemetry.responseAttributes(response),
                  ...(captureContent ? Telemetry.outputAttributes(response) : {})
                })
              ),
              Effect.tapError(failedAttempt)
            )
        return Effect.flatMap(clientOf(model), (client) =>
          client
            .call(operationName, attempt(client), {
              spanName: `${operationName} ${model}`,
              attributes: askedAttributes(operation, request, false)
            })
            .pipe(
              Effect.catchAll((error) => Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)),
              measured(operation)
            )
        )
      })

    const stream = (request: LlmRequest): Stream.Stream<LlmStreamPart, LlmError> =>
      Stream.suspend(() => {
        const model = request.model ?? spec.model
        const context = { provider, model, method: "stream" }
        const options = { model, stream: true, method: "stream" }
        const encoded = encodedBy(() => protocol.encode(request, options), context)
        if (Either.isLeft(encoded)) return Stream.fail(encoded.left)
        const operation = operationOf(model)
        const progress = new Progress()
        const failing = (error: LlmError): Effect.Effect<LlmError> => {
          const failure = withRateLimits(error, progress.rateLimits)
          return Effect.as(failedAttempt(failure), failure)
        }
        // Streams within streams cost more for each chunk than to decode it: an attempt is one, and so is the whole.
        const attempt = (client: ExternalHttp.ExternalHttp) =>
          Stream.unwrapScoped(
            Effect.gen(function* () {
              const span = yield* Effect.option(Effect.currentSpan)
              const clock = yield* Effect.clock
              const decoder = protocol.makeStreamDecoder(context)
              progress.begin(decoder, Option.getOrUndefined(span))
              const reply = yield* exchange.stream({
                request,
                body: encoded.right,
                model,
                context,
                execute: executeWith(client, context)
              })
              progress.rateLimits = rateLimitsOf(reply.headers, clock.unsafeCurrentTimeMillis())
              const pull = yield* decodePull(reply.body, decoder, { lastWaitMillis })
              return Stream.repeatEffectChunkOption(
                Effect.matchEffect(pull, {
                  onFailure: (end) =>
                    Option.isNone(end)
                      ? Effect.fail(end)
                      : Effect.flatMap(failing(end.value), (error) => Effect.fail(Option.some(error))),
                  onSuccess: (chunk) => Effect.succeed(progress.seen(chunk))
                })
              )
            }).pipe(Effect.catchAll((error) => Effect.flatMap(failing(error), Effect.fail)))
          )
        return Stream.unwrapScoped(
          Effect.gen(function* () {
            const clock = yield* Effect.clock
            const until = clock.unsafeCurrentTimeMillis() + millisOf(streamTimeout)
            progress.start(clock, operation, captureContent)
            yield* Effect.addFinalizer(() => progress.record)
            const client = yield* clientOf(model)
            return client
              .stream(operationName, attempt(client), {
                spanName: `${operationName} ${model}`,
                attributes: askedAttributes(operation, request, true),
                timeout,
                firstElementTimeout: firstContentTimeout,
                idleTimeout
              })
              .pipe(
                Stream.catchAllCause((cause) =>
                  Either.match(Cause.failureOrCause(cause), {
                    onLeft: (error) =>
                      Stream.fromEffect(
                        Effect.flatMap(Errors.toLlmError(error, context, progress), (failure) => {
                          progress.failed = failure
                          return Effect.fail(failure)
                        })
                      ),
                    onRight: (rest) => {
                      progress.died = Cause.isDie(rest)
                      return Stream.failCause(rest)
                    }
                  })
                ),
                Stream.mapInputContext((outer: Context.Context<never>) =>
                  Context.add(outer, Deadline.Current, Math.min(until, Context.get(outer, Deadline.Current)))
                )
              )
          })
        )
      })

    // Neither of the two is a use of the model: they have no part in its breaker and its service level.
    const beside = { service: provider, headers, health: false } as const
    const watch = yield* ExternalHttp.make({
      ...beside,
      policy: { timeout: "5 seconds", retry: false, breaker: false }
    })
    // A request is as long to send for being counted as it is for being answered.
    const counting = yield* ExternalHttp.make({
      ...beside,
      policy: { timeout, retry: spec.retry ?? Clients.defaultRetry, breaker: false }
    })
    const asked = (
      client: ExternalHttp.ExternalHttp,
      operation: string,
      context: CallContext,
      request: HttpClientRequest.HttpClientRequest
    ) =>
      client
        .call(
          operation,
          Effect.flatMap(executeWith(client, context)(request), (response) => textOf(response, context))
        )
        .pipe(Effect.catchAll((error) => Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)))

    const { countTokens } = spec
    const counted =
      countTokens === undefined
        ? undefined
        : (request: LlmRequest): Effect.Effect<number, LlmError> =>
            Effect.suspend(() => {
              const model = request.model ?? spec.model
              const context = { provider, model, method: "countTokens" }
              const encoded = encodedBy(() => countTokens.encode(request, model), context)
              if (Either.isLeft(encoded)) return Effect.fail(encoded.left)
              const sent = posted(countTokens.endpoint(model), encoded.right, "application/json")
              return Effect.flatMap(asked(counting, "countTokens", context, sent), (text) =>
                countTokens.decode(text, context)
              )
            })

    const listed = spec.health.models ?? modelsIn
    const health = Effect.map(
      asked(
        watch,
        "models",
        { provider, model: spec.model, method: "health" },
        HttpClientRequest.get(located(spec.health.endpoint))
      ),
      (text) => {
        const known = listed(text)
        const found = known.length === 0 || known.some((name) => sameModel(name, spec.model))
        return found
          ? Health.up({ model: spec.model })
          : Health.degraded({ model: spec.model, issue: "the provider does not list this model" })
      }
    )

    return makeLlm({
      provider,
      model: spec.model,
      generate,
      stream,
      structuredOutput: spec.structuredOutput,
      optionalProperties: protocol.optionalProperties,
      countTokens: counted,
      health
    })
  })

/**
 * The settings of calls that can be configured, each optional: `timeout`, `firstContentTimeout`, `idleTimeout`,
 * `streamTimeout`, `attempts`, `retryDelay`, `structuredOutput`, `captureContent`.
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
    retryDelay: Config.option(Config.duration("retryDelay")),
    structuredOutput: Config.option(Config.literal("auto", "native", "tool", "prompt")("structuredOutput")),
    captureContent: Config.option(Config.boolean("captureContent"))
  }),
  (read): CallSettings => ({
    timeout: Option.getOrUndefined(read.timeout),
    firstContentTimeout: Option.getOrUndefined(read.firstContentTimeout),
    idleTimeout: Option.getOrUndefined(read.idleTimeout),
    streamTimeout: Option.getOrUndefined(read.streamTimeout),
    retry: {
      base: Option.getOrElse(read.retryDelay, () => Duration.seconds(2)),
      attempts: Option.getOrUndefined(read.attempts)
    },
    structuredOutput: Option.getOrUndefined(read.structuredOutput),
    captureContent: Option.getOrUndefined(read.captureContent)
  })
)

const parseUrl = (text: string): Effect.Effect<URL, string> =>
  Effect.suspend(() =>
    URL.canParse(text) && /^https?:/i.test(text)
      ? Effect.succeed(new URL(text))
      : Effect.fail("the base URL is not one: it must begin with http:// or https://")
  )

const annotate = (attributes: Record<string, unknown>): Effect.Effect<void> => Effect.annotateCurrentSpan(attributes)

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
