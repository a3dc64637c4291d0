/**
 * Models on Replicate: predictions that are made, followed until they end, streamed where the model streams, and canceled
 * when nobody waits for them any more.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Errors from "./internal/errors.ts"
import { Llm, type LlmService } from "./Llm.ts"
import type { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as ReplicatePredictions from "./protocol/ReplicatePredictions.ts"

/**
 * The name of the provider, in errors, telemetry, `providerOptions` and tables of providers.
 *
 * @since 0.1.0
 * @category constants
 */
export const kind = "replicate"

/**
 * Since a model that was idle has to be started first, `timeout` and `firstContentTimeout` are 5 minutes unless they are
 * given.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReplicateOptions extends LlmProvider.CallSettings {
  readonly apiKey: Redacted.Redacted
  /**
   * The model that is asked unless the request names another: `owner/name` (official models), `owner/name:version`, a
   * version alone, or `deployments/owner/name`.
   */
  readonly model: string
  /** How the model's input is called, or is made; by default as most language models of Replicate have it. */
  readonly input?: ReplicatePredictions.InputFields | ReplicatePredictions.InputOf | undefined
  /**
   * How long the server may hold back its first answer until the prediction has ended (1 to 60 seconds); false to be told
   * at once and ask again. By default 5 seconds: a call that is interrupted within this time does not know the prediction
   * yet, so that it ends by its deadline only (which is the call's own).
   */
  readonly wait?: Duration.DurationInput | false | undefined
  /** `https://api.replicate.com/v1`. */
  readonly baseUrl?: string | undefined
}

type Execute = LlmProvider.Attempt["execute"]

/** A prediction, and the body that showed it. */
interface Shown {
  readonly prediction: ReplicatePredictions.Prediction
  readonly body: string
}

const firstDelay = 250
const maxDelay = 5000
/** So many looks in a row may fail before the prediction is given up. */
const maxFailures = 5

/** Replicate's other domain, where its streams are (`stream-b.svc.ric1.c.replicate.net`). */
const ownDomains: ReadonlyArray<string> = ["replicate.com", "replicate.net"]

const within = (hostname: string, domain: string): boolean => hostname === domain || hostname.endsWith(`.${domain}`)

const isOwn = (hostname: string): boolean => ownDomains.some((domain) => within(hostname, domain))

/**
 * An address that the server named, if the key may be sent there: the same host, one of the same domain, or both of them
 * Replicate's.
 */
const trusted = (named: string | undefined, base: URL): string | undefined => {
  if (named === undefined || !URL.canParse(named)) return undefined
  const url = new URL(named)
  if (url.protocol !== base.protocol) return undefined
  if (url.hostname === base.hostname || (isOwn(base.hostname) && isOwn(url.hostname))) return named
  if (/^[\d.]+$|:/.test(base.hostname)) return undefined
  const domain = base.hostname.split(".").slice(-2).join(".")
  return domain.includes(".") && within(url.hostname, domain) ? named : undefined
}

const seconds = (input: Duration.DurationInput): number => Math.ceil(Duration.toMillis(input) / 1000)

/** Replicate takes no deadline under five seconds. */
const deadlineOf = (limit: Duration.DurationInput): Record<string, string> =>
  Number.isFinite(seconds(limit)) ? { "cancel-after": `${Math.max(5, seconds(limit))}s` } : {}

const encoder = new TextEncoder()

/** A prediction as an event of the stream; what came before it may have been cut in the middle of a line. */
const eventOf = ({ body }: Shown): Uint8Array =>
  encoder.encode(
    `\n\nevent: ${ReplicatePredictions.predictionEvent}\n${body
      .split(/\r\n|\r|\n/)
      .map((line) => `data: ${line}\n`)
      .join("")}\n`
  )

const makeExchange = (
  options: Omit<ReplicateOptions, "timeout"> & { readonly timeout: Duration.DurationInput },
  baseUrl: string
): LlmProvider.Exchange => {
  const base = new URL(baseUrl)
  const wait = options.wait ?? "5 seconds"
  const prefer: Record<string, string> =
    wait === false ? {} : { prefer: `wait=${Math.min(60, Math.max(1, seconds(wait)))}` }

  const shown = (
    { context, execute }: LlmProvider.Attempt,
    request: HttpClientRequest.HttpClientRequest
  ): Effect.Effect<Shown & { readonly headers: Readonly<Record<string, string>> }, LlmError> =>
    Effect.flatMap(execute(HttpClientRequest.acceptJson(request)), (response) =>
      Effect.flatMap(
        Effect.mapError(response.text, (error) => Errors.networkError(error, context)),
        (body) =>
          Effect.map(ReplicatePredictions.predictionOf(body, context), (prediction) => ({
            prediction,
            body,
            headers: response.headers
          }))
      )
    )

  const create = (attempt: LlmProvider.Attempt, headers: Record<string, string>) =>
    shown(
      attempt,
      HttpClientRequest.post(`${baseUrl}${ReplicatePredictions.endpointOf(attempt.model)}`).pipe(
        HttpClientRequest.setHeaders(headers),
        HttpClientRequest.bodyText(attempt.body, "application/json")
      )
    )

  const addressOf = ({ id }: ReplicatePredictions.Prediction) => `${baseUrl}/predictions/${encodeURIComponent(id)}`

  /** Looks at a prediction until it has ended. A look that fails is no failure of the prediction. */
  const follow = (attempt: LlmProvider.Attempt, first: Shown): Effect.Effect<Shown, LlmError> => {
    const url = trusted(first.prediction.getUrl, base) ?? addressOf(first.prediction)
    const again = (delay: number, failures: number): Effect.Effect<Shown, LlmError> =>
      Effect.matchEffect(Effect.delay(shown(attempt, HttpClientRequest.get(url)), delay), {
        onFailure: (error) =>
          error.isRetryable && failures + 1 < maxFailures
            ? again(Math.max(slower(delay), Duration.toMillis(error.retryAfter ?? 0)), failures + 1)
            : Effect.fail(error),
        onSuccess: (now) => (now.prediction.state === "running" ? again(slower(delay), 0) : Effect.succeed(now))
      })
    return first.prediction.state === "running" ? again(firstDelay, 0) : Effect.succeed(first)
  }

  const slower = (delay: number) => Math.min(maxDelay, delay * 1.5)

  /** Ends a prediction that nobody waits for. That it cannot be ended is no reason to wait for it. */
  const cancel = (execute: Execute, prediction: ReplicatePredictions.Prediction): Effect.Effect<void> =>
    Effect.suspend(() =>
      execute(HttpClientRequest.post(trusted(prediction.cancelUrl, base) ?? `${addressOf(prediction)}/cancel`))
    ).pipe(Effect.asVoid, Effect.interruptible, Effect.timeout("2 seconds"), Effect.ignore)

  const generate: LlmProvider.Exchange["generate"] = (attempt) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(create(attempt, { ...prefer, ...deadlineOf(options.timeout) })), (first) =>
        restore(follow(attempt, first)).pipe(
          Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : cancel(attempt.execute, first.prediction))),
          Effect.map(({ body }) => ({ body, headers: first.headers }))
        )
      )
    )

  const events = (attempt: LlmProvider.Attempt, url: string, onEnd: () => void) => {
    const decoder = new TextDecoder("latin1")
    let atLineStart = true
    const look = (bytes: Uint8Array) => {
      const text = decoder.decode(bytes)
      if (/\nevent: ?(?:done|error)/.test(atLineStart ? `\n${text}` : text)) onEnd()
      if (text !== "") atLineStart = text.endsWith("\n")
    }
    return Stream.unwrap(
      Effect.map(
        attempt.execute(HttpClientRequest.accept(HttpClientRequest.get(url), "text/event-stream")),
        (response) => Stream.mapError(response.stream, (error) => Errors.networkError(error, attempt.context))
      )
    ).pipe(
      Stream.tap((bytes) => Effect.sync(() => look(bytes))),
      // What a stream that cannot be had, or breaks off, would have brought, the prediction itself has at its end.
      Stream.catchAll(() => Stream.empty)
    )
  }

  const stream: LlmProvider.Exchange["stream"] = (attempt) =>
    Effect.succeed({
      headers: {},
      body: Stream.unwrapScoped(
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function* () {
            const first = yield* restore(create(attempt, deadlineOf(options.streamTimeout ?? "10 minutes")))
            let ended = first.prediction.state !== "running"
            const onEnd = () => {
              ended = true
            }
            yield* Effect.addFinalizer(() => (ended ? Effect.void : cancel(attempt.execute, first.prediction)))
            const begun = Stream.make(eventOf(first))
            if (ended) return begun
            const url = trusted(first.prediction.streamUrl, base)
            const pieces = url === undefined ? Stream.empty : events(attempt, url, onEnd)
            const last = Stream.fromEffect(Effect.map(Effect.tap(follow(attempt, first), Effect.sync(onEnd)), eventOf))
            return Stream.concat(begun, Stream.concat(pieces, last))
          })
        )
      )
    })

  return { generate, stream }
}

/**
 * Makes the model. Fails with `InvalidRequest` for settings that cannot work together.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: ReplicateOptions
): Effect.Effect<LlmService, LlmError, HttpClient.HttpClient | Scope.Scope> => {
  const { apiKey, baseUrl: given, input, wait: _, ...calls } = options
  const baseUrl = (given ?? "https://api.replicate.com/v1").replace(/\/+$/, "")
  const { model } = options
  const timeout = options.timeout ?? "5 minutes"
  const spec: LlmProvider.ProviderSpec = {
    ...calls,
    timeout,
    firstContentTimeout: options.firstContentTimeout ?? timeout,
    provider: kind,
    baseUrl,
    protocol: ReplicatePredictions.make({ provider: kind, input }),
    endpoint: (call) => ReplicatePredictions.endpointOf(call.model),
    headers: { authorization: `Bearer ${Redacted.value(apiKey)}` },
    health: {
      endpoint: /^[^/:]+\/[^/:]+/.test(model) && !model.startsWith("deployments/") ? modelPath(model) : "/account",
      models: () => []
    }
  }
  // An address that is none is refused with the other settings.
  return LlmProvider.make(
    URL.canParse(baseUrl) ? { ...spec, exchange: makeExchange({ ...options, timeout }, baseUrl) } : spec
  )
}

/** What describes a model, whichever its version. */
const modelPath = (model: string): string =>
  `/models/${model.replace(/:.*$/, "").split("/").map(encodeURIComponent).join("/")}`

/**
 * The options as settings, by their own names: `Config.nested(settings, "…")` reads them from a table of any name.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<ReplicateOptions> = Config.map(
  Config.all([
    Config.all({
      apiKey: Config.redacted("apiKey"),
      model: Config.nonEmptyString("model"),
      wait: Config.option(Config.duration("wait")),
      baseUrl: Config.option(Config.nonEmptyString("baseUrl"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): ReplicateOptions => ({
    ...calls,
    apiKey: read.apiKey,
    model: read.model,
    wait: Option.getOrUndefined(read.wait),
    baseUrl: Option.getOrUndefined(read.baseUrl)
  })
)

/**
 * The options as settings: `replicate.apiKey` and `replicate.model`, and if they are there `replicate.baseUrl`,
 * `replicate.wait` and the settings of calls (`replicate.timeout`, …).
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<ReplicateOptions> = Config.nested(settings, kind)

/**
 * Models on Replicate.
 *
 * ```ts
 * const Model = Replicate.layer({ apiKey: Redacted.make("r8_…"), model: "meta/meta-llama-3-70b-instruct" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: ReplicateOptions): Layer.Layer<Llm, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, make(options))

/**
 * Models on Replicate, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<ReplicateOptions> = config
): Layer.Layer<Llm, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(Llm, Effect.flatMap(Config.unwrap(options), make))
