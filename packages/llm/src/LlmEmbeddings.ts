/**
 * Embeddings of a wire format and an address: what core's `Embeddings` of every provider here is made of. One span a call
 * with its requests inside, metrics, retries, a circuit breaker; many texts in batches that the provider accepts. For
 * those who write a provider.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Policy from "@underlay/core/resilience/Policy"
import * as Timeout from "@underlay/core/resilience/Timeout"
import { type Embeddings, EmbeddingsError, type EmbeddingsErrorReason } from "@underlay/core/storage/Embeddings"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { type CallContext, ownError } from "./internal/classify.ts"
import * as Clients from "./internal/clients.ts"
import * as Errors from "./internal/errors.ts"
import { authorized, headersOf } from "./internal/headers.ts"
import { measured } from "./internal/progress.ts"
import { rateLimitsOf, withRateLimits } from "./internal/rateLimits.ts"
import type * as Telemetry from "./internal/telemetry.ts"
import type { LlmError, Reason } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import type { RateLimits } from "./LlmResponse.ts"
import type { EmbeddingsProtocol, EmbeddingsResponse } from "./protocol/EmbeddingFormats.ts"

/**
 * How texts are embedded, the same for every provider.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsSettings extends Pick<LlmProvider.CallSettings, "retry" | "breaker"> {
  /**
   * How many numbers a vector has. By default those of the model, if it is one that is known here. A vector of any other
   * length is a `MalformedResponse`.
   */
  readonly dimensions?: number | undefined
  /**
   * Whether the model is asked to shorten its vectors to `dimensions`; if not, that is only what they are checked by. By
   * default where they are not the model's own.
   */
  readonly shorten?: boolean | undefined
  /** Vectors are scaled to length one, so that their scalar product is their cosine. */
  readonly normalize?: boolean | undefined
  /** The limit of a call with its retries, for every `concurrency` batches of it, and of each request. 1 minute. */
  readonly timeout?: Duration.DurationInput | undefined
  /** The most texts in one request; by default as many as suit the provider, which may allow more. */
  readonly maxBatchSize?: number | undefined
  /** The most bytes of text in one request, in UTF-8, of which no token is less than one. A longer text goes alone. */
  readonly maxBatchBytes?: number | undefined
  /** How many requests of one call are under way at once. 4. */
  readonly concurrency?: number | undefined
}

/**
 * What one request may hold.
 *
 * @since 0.1.0
 * @category models
 */
export interface BatchLimits {
  /** The most texts that the provider accepts. */
  readonly inputs: number
  /** How many are sent unless `maxBatchSize` says otherwise; by default `inputs`. */
  readonly preferred?: number | undefined
  /** The most bytes of text, unless `maxBatchBytes` says otherwise. */
  readonly bytes: number
}

/**
 * A provider of embeddings: an address, a wire format, and what is particular to it.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsSpec extends EmbeddingsSettings {
  /** The provider's name, in errors, log lines and health. */
  readonly provider: string
  /** `gen_ai.provider.name`; by default `provider`. */
  readonly telemetryName?: string | undefined
  readonly model: string
  /** How many numbers a vector of this model has unless it is asked for fewer, where that is known. */
  readonly modelDimensions?: number | undefined
  /** Where the provider is, with the scheme. */
  readonly baseUrl: string
  readonly protocol: EmbeddingsProtocol
  /** What is put after `baseUrl`, or a whole URL. */
  readonly endpoint: string
  /** Headers of every request; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** Headers that are asked for anew for every request, such as those with a token that expires. */
  readonly authorize?: Effect.Effect<Readonly<Record<string, string>>, LlmError> | undefined
  readonly limits: BatchLimits
}

/**
 * Core's `Embeddings`, and what else the provider says of them.
 *
 * @since 0.1.0
 * @category models
 */
export interface LlmEmbeddings extends Context.Tag.Service<Embeddings> {
  readonly provider: string
  /** Like `embedMany`, with the tokens that were used, the model that answered and what the provider says of its limits. */
  readonly embedWithUsage: (texts: ReadonlyArray<string>) => Effect.Effect<EmbeddingsResponse, EmbeddingsError>
}

type Inputs = { readonly start: number; readonly end: number }

/** Some of the texts of a call, which are sent together. Mutable: a call that is tried again keeps what has come. */
interface Batch extends Inputs {
  failures: number
  answer: EmbeddingsResponse | undefined
}

const operationName = "embeddings"

const reasons: { readonly [K in Reason]: EmbeddingsErrorReason } = {
  RateLimited: "RateLimited",
  QuotaExhausted: "QuotaExhausted",
  BudgetExceeded: "QuotaExhausted",
  Overloaded: "Unavailable",
  ServerError: "Unavailable",
  Network: "Unavailable",
  StreamTruncated: "Unavailable",
  CircuitOpen: "Unavailable",
  ContextLengthExceeded: "ContextLengthExceeded",
  ContentFiltered: "ContentFiltered",
  Authentication: "Authentication",
  PermissionDenied: "PermissionDenied",
  InvalidRequest: "InvalidRequest",
  NotFound: "NotFound",
  Timeout: "Timeout",
  MalformedResponse: "MalformedResponse",
  Unknown: "Unknown"
}

const shown = ({ end, start }: Inputs): string => (end - start === 1 ? `text ${start}` : `texts ${start} to ${end - 1}`)

/**
 * An error of this package as one of core's `Embeddings`; it is kept as the cause. `inputs` are the texts that it is about.
 *
 * @since 0.1.0
 * @category combinators
 */
export const toEmbeddingsError = (
  error: LlmError,
  method: string,
  about?: { readonly inputs: Inputs; readonly texts: number } | undefined
): EmbeddingsError => {
  const facts: Array<string> = [error.model === undefined ? error.provider : `${error.provider} ${error.model}`]
  if (reasons[error.reason] !== error.reason) facts.push(error.reason)
  if (error.status !== undefined) facts.push(`HTTP ${error.status}`)
  if (error.code !== undefined) facts.push(error.code)
  if (error.issue !== undefined) facts.push(error.issue)
  if (error.limit !== undefined) facts.push(`limit ${error.limit} tokens`)
  if (error.retryAfter !== undefined) facts.push(`try again in ${Duration.toMillis(error.retryAfter)} ms`)
  if (about !== undefined && about.texts > 1) facts.push(`${shown(about.inputs)} of ${about.texts}`)
  return new EmbeddingsError({
    reason: reasons[error.reason],
    method,
    description: facts.join(", "),
    retryable: error.retryable,
    ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
    ...(about === undefined ? {} : { inputs: about.inputs }),
    cause: error
  })
}

/** The texts in as few batches as the limits allow, in order. A text longer than the limit is a batch of its own. */
const batchesOf = (texts: ReadonlyArray<string>, size: number, bytes: number): Array<Batch> => {
  const encoder = new TextEncoder()
  const batches: Array<Batch> = []
  let start = 0
  let held = 0
  for (let at = 0; at < texts.length; at++) {
    const length = encoder.encode(texts[at]).length
    if (at > start && (at - start >= size || held + length > bytes)) {
      batches.push({ start, end: at, failures: 0, answer: undefined })
      start = at
      held = 0
    }
    held += length
  }
  batches.push({ start, end: texts.length, failures: 0, answer: undefined })
  return batches
}

const tooMuch =
  /max_tokens_per_request|max(?:imum)? (?:of )?\d+ tokens per request|maximum allowed batch size|requests can be in one batch|batch size (?:is )?(?:too large|exceeds)|too many (?:inputs|texts|tokens)/i

/** Whether fewer texts in the request may succeed, or tell which of them it was. */
const asksForLess = (error: LlmError): boolean =>
  (error.reason === "ContextLengthExceeded" && namedInput(error) === undefined) ||
  (error.reason === "InvalidRequest" &&
    (error.status === 413 || tooMuch.test(error.code ?? "") || tooMuch.test(error.providerMessage ?? "")))

/** Which text of the request the provider means, if it says so. */
const namedInput = (error: LlmError): number | undefined => {
  const match = /\binputs?\[(\d{1,6})\]/.exec(error.providerMessage?.slice(0, 1000) ?? "")
  return match === null ? undefined : Number(match[1])
}

const scaled = (vector: ReadonlyArray<number>): ReadonlyArray<number> => {
  let largest = 0
  for (const value of vector) largest = Math.max(largest, Math.abs(value))
  if (largest === 0) return vector
  // Squares of what is divided by the largest neither overflow nor vanish.
  let sum = 0
  for (const value of vector) sum += (value / largest) ** 2
  const length = Math.sqrt(sum)
  return vector.map((value) => value / largest / length)
}

const wholeAtLeast = (value: number, least: number): boolean => Number.isInteger(value) && value >= least

/**
 * Makes the embeddings. Fails with `InvalidRequest` for settings that cannot work together, saying what to change.
 *
 * No texts give no vectors, without a request. An empty text is refused with `InvalidRequest`. Where a request fails, the
 * next attempt repeats only what has not come, and the error says which texts were in it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  spec: EmbeddingsSpec
): Effect.Effect<LlmEmbeddings, EmbeddingsError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const { limits, model, protocol, provider } = spec
    const refuse = (issue: string) =>
      new EmbeddingsError({ reason: "InvalidRequest", method: "layer", description: `${provider} ${model}: ${issue}` })

    const dimensions = spec.dimensions ?? spec.modelDimensions
    const concurrency = spec.concurrency ?? 4
    const size = spec.maxBatchSize ?? Math.min(limits.inputs, limits.preferred ?? limits.inputs)
    const bytes = spec.maxBatchBytes ?? limits.bytes
    if (dimensions === undefined) {
      return yield* refuse("the dimensions of this model are not known here: give them as `dimensions`")
    }
    if (!wholeAtLeast(dimensions, 1)) return yield* refuse("dimensions must be a whole number of 1 or more")
    if (!wholeAtLeast(size, 1) || size > limits.inputs) {
      return yield* refuse(`maxBatchSize must be a whole number, 1 to ${limits.inputs}`)
    }
    if (!wholeAtLeast(bytes, 1)) return yield* refuse("maxBatchBytes must be a whole number of 1 or more")
    if (!wholeAtLeast(concurrency, 1)) return yield* refuse("concurrency must be a whole number of 1 or more")
    if (spec.modelDimensions !== undefined && dimensions > spec.modelDimensions) {
      return yield* refuse(`its vectors have ${spec.modelDimensions} dimensions: give no more as \`dimensions\``)
    }
    const baseUrl = spec.baseUrl.replace(/\/+$/, "")
    const address = /^https?:\/\//i.test(spec.endpoint) ? spec.endpoint : `${baseUrl}${spec.endpoint}`
    if (!/^https?:/i.test(address) || !URL.canParse(address)) {
      return yield* refuse("the base URL is not one: it must begin with http:// or https://")
    }
    const url = new URL(address)
    const asked = (spec.shorten ?? dimensions !== spec.modelDimensions) ? dimensions : undefined

    const revealed = headersOf(spec.headers)
    if (Either.isLeft(revealed)) return yield* refuse(revealed.left)
    const headers = revealed.right

    const timeout = spec.timeout ?? "1 minute"
    const telemetryName = spec.telemetryName ?? provider
    const context: CallContext = { provider, model, method: "embed" }
    const clientOf = yield* Effect.mapError(
      Clients.make({
        provider,
        model,
        telemetryName,
        suffix: operationName,
        headers,
        timeout,
        retry: spec.retry,
        breaker: spec.breaker
      }),
      (error) => toEmbeddingsError(error, "layer")
    )
    const client = yield* Effect.mapError(clientOf(model), (error) => toEmbeddingsError(error, "layer"))

    // The attempts of one batch are counted here, those of the call by its policy: only a policy within it can tell it, and
    // those round it, that they are used up.
    const counted = yield* Effect.orDie(
      Policy.make({
        name: `${provider}/${model}/${operationName}/batch`,
        timeout: false,
        retry: { attempts: 2, base: 0, jitter: "none" },
        breaker: false
      })
    )
    const spent = (error: LlmError): Effect.Effect<never, LlmError> =>
      Effect.catchAll(counted.run(Effect.fail(error)), () => Effect.fail(error))

    const operation: Telemetry.Operation = {
      operation: operationName,
      provider: telemetryName,
      model,
      serverAddress: url.hostname,
      serverPort: url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port)
    }
    const attributes: Record<string, unknown> = {
      "gen_ai.operation.name": operationName,
      "gen_ai.provider.name": telemetryName,
      "gen_ai.request.model": model,
      "gen_ai.embeddings.dimension.count": dimensions,
      "server.address": operation.serverAddress,
      "server.port": operation.serverPort,
      ...(protocol.encoding === undefined ? {} : { "gen_ai.request.encoding_formats": [protocol.encoding] })
    }

    const checked = (response: EmbeddingsResponse): Either.Either<EmbeddingsResponse, LlmError> => {
      const length = response.vectors[0]?.length
      if (length !== undefined && length !== dimensions) {
        const issue = `the vectors have ${length} dimensions where ${dimensions} were expected: look at \`dimensions\``
        return Either.left(
          ownError("MalformedResponse", { context, status: 200, midStream: false, hadContent: false, issue })
        )
      }
      return Either.right(spec.normalize === true ? { ...response, vectors: response.vectors.map(scaled) } : response)
    }

    const failed = (error: unknown) => Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)

    const send = (texts: ReadonlyArray<string>): Effect.Effect<EmbeddingsResponse, LlmError> =>
      Effect.suspend(() => {
        const request = HttpClientRequest.post(address).pipe(
          HttpClientRequest.acceptJson,
          HttpClientRequest.bodyText(protocol.encode({ texts, model, dimensions: asked }), "application/json")
        )
        const answered =
          spec.authorize === undefined
            ? client.client.execute(request)
            : Effect.flatMap(authorized(spec.authorize, context), (own) =>
                client.client.execute(HttpClientRequest.setHeaders(request, own))
              )
        return answered.pipe(
          Effect.flatMap((response) => Effect.map(response.text, (text) => ({ text, headers: response.headers }))),
          // The limit of a call of many batches is far too long a wait for one that hangs.
          Timeout.within({ duration: timeout, service: provider }),
          Effect.catchAll(failed),
          Effect.flatMap(({ headers, text }) =>
            Effect.flatMap(Clock.currentTimeMillis, (now) => {
              const rateLimits = rateLimitsOf(headers, now)
              return Either.mapBoth(Either.flatMap(protocol.decode(text, context, texts.length), checked), {
                onLeft: (error) => withRateLimits(error, rateLimits),
                onRight: (response) => (rateLimits === undefined ? response : { ...response, rateLimits })
              })
            })
          )
        )
      })

    const run = (texts: ReadonlyArray<string>, method: string): Effect.Effect<EmbeddingsResponse, EmbeddingsError> =>
      Effect.suspend(() => {
        if (texts.length === 0) return Effect.succeed({ vectors: [], usage: {} })
        const empty = texts.indexOf("")
        if (empty !== -1) {
          return new EmbeddingsError({
            reason: "InvalidRequest",
            method,
            description: `${provider} ${model}: text ${empty} of ${texts.length} is empty, which has no embedding: leave it out`,
            inputs: { start: empty, end: empty + 1 }
          })
        }
        let batches = batchesOf(texts, size, bytes)
        const rounds = Math.ceil(batches.length / concurrency)
        const { retry } = client.policy
        let exhausted = false
        let blamed: { readonly error: LlmError; readonly inputs: Inputs } | undefined

        const halvesOf = (batch: Batch): ReadonlyArray<Batch> => {
          const middle = Math.ceil((batch.start + batch.end) / 2)
          const halves: ReadonlyArray<Batch> = [
            { start: batch.start, end: middle, failures: 0, answer: undefined },
            { start: middle, end: batch.end, failures: 0, answer: undefined }
          ]
          batches = batches.flatMap((each) => (each === batch ? halves : [each]))
          return halves
        }

        const blame = (batch: Batch, error: LlmError) => {
          const named = namedInput(error)
          const start = named === undefined ? batch.start : batch.start + named
          blamed = {
            error,
            inputs: named === undefined || start >= batch.end ? batch : { start, end: start + 1 }
          }
        }

        const attempt = Effect.suspend(() => {
          // One that may succeed next time lets the others finish: what comes is kept, and need not be asked for again.
          let later: LlmError | undefined
          const embed = (batch: Batch): Effect.Effect<void, LlmError> =>
            Effect.suspend(() =>
              later !== undefined
                ? Effect.void
                : Effect.matchEffect(send(texts.slice(batch.start, batch.end)), {
                    onSuccess: (answer) => {
                      batch.answer = answer
                      return Effect.void
                    },
                    onFailure: (error) => {
                      if (batch.end - batch.start > 1 && asksForLess(error)) {
                        return Effect.forEach(halvesOf(batch), embed, { discard: true })
                      }
                      batch.failures++
                      if (retry.attempts > 1 && batch.failures >= retry.attempts) exhausted = true
                      if (!retry.shouldRetry(error)) {
                        blame(batch, error)
                        return Effect.fail(error)
                      }
                      if (later === undefined) {
                        later = error
                        blame(batch, error)
                      }
                      return Effect.void
                    }
                  })
            )
          return Effect.forEach(
            batches.filter((batch) => batch.answer === undefined),
            embed,
            { concurrency, discard: true }
          ).pipe(
            Effect.flatMap(() =>
              later === undefined ? Effect.sync(() => whole(batches)) : exhausted ? spent(later) : Effect.fail(later)
            )
          )
        }).pipe(
          Effect.onExit(() => Effect.suspend(() => Effect.annotateCurrentSpan(responseAttributes(whole(batches)))))
        )

        return client
          .call(operationName, attempt, {
            spanName: `${operationName} ${model}`,
            attributes,
            // Each batch may fail as often as a call of a single one.
            ...(batches.length === 1
              ? {}
              : {
                  timeout: Duration.times(Duration.decode(timeout), rounds),
                  retries: (retry.attempts - 1) * batches.length
                })
          })
          .pipe(
            Effect.catchAll(failed),
            measured(operation),
            Effect.mapError((error) => {
              const pending = batches.filter((batch) => batch.answer === undefined)
              const inputs =
                blamed?.error === error
                  ? blamed.inputs
                  : { start: pending[0]?.start ?? 0, end: pending[pending.length - 1]?.end ?? texts.length }
              return toEmbeddingsError(error, method, {
                inputs: { start: inputs.start, end: inputs.end },
                texts: texts.length
              })
            })
          )
      })

    return {
      provider,
      model,
      dimensions,
      embed: (text) => Effect.map(run([text], "embed"), ({ vectors }) => vectors[0] ?? []),
      embedMany: (texts) => Effect.map(run(texts, "embedMany"), ({ vectors }) => vectors),
      embedWithUsage: (texts) => run(texts, "embedWithUsage")
    }
  })

/** What has come so far. */
const whole = (batches: ReadonlyArray<Batch>): EmbeddingsResponse => {
  const vectors: Array<ReadonlyArray<number>> = []
  let input: number | undefined
  let model: string | undefined
  let rateLimits: RateLimits | undefined
  for (const { answer } of batches) {
    if (answer === undefined) continue
    for (const vector of answer.vectors) vectors.push(vector)
    model ??= answer.model
    rateLimits = answer.rateLimits ?? rateLimits
    if (answer.usage.input !== undefined) input = (input ?? 0) + answer.usage.input
  }
  const usage = input === undefined ? {} : { input }
  return { vectors, usage, model, ...(rateLimits === undefined ? {} : { rateLimits }) }
}

const responseAttributes = ({ model, usage }: EmbeddingsResponse): Record<string, unknown> => ({
  ...(usage.input === undefined ? {} : { "gen_ai.usage.input_tokens": usage.input }),
  ...(model === undefined ? {} : { "gen_ai.response.model": model })
})

/**
 * The settings that can be configured, each optional: `dimensions`, `shorten`, `normalize`, `maxBatchSize`,
 * `maxBatchBytes`, `concurrency`, `timeout`, `attempts`, `retryDelay`.
 *
 * @since 0.1.0
 * @category config
 */
export const settings: Config.Config<EmbeddingsSettings> = Config.map(
  Config.all([
    Config.all({
      dimensions: Config.option(Config.integer("dimensions")),
      shorten: Config.option(Config.boolean("shorten")),
      normalize: Config.option(Config.boolean("normalize")),
      maxBatchSize: Config.option(Config.integer("maxBatchSize")),
      maxBatchBytes: Config.option(Config.integer("maxBatchBytes")),
      concurrency: Config.option(Config.integer("concurrency"))
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]): EmbeddingsSettings => ({
    dimensions: Option.getOrUndefined(read.dimensions),
    shorten: Option.getOrUndefined(read.shorten),
    normalize: Option.getOrUndefined(read.normalize),
    maxBatchSize: Option.getOrUndefined(read.maxBatchSize),
    maxBatchBytes: Option.getOrUndefined(read.maxBatchBytes),
    concurrency: Option.getOrUndefined(read.concurrency),
    timeout: calls.timeout,
    retry: calls.retry
  })
)
