/**
 * Language models for tests: one that follows a script and records what it is asked, and recorded traffic of real
 * providers replayed as an `HttpClient`, cut and chunked as a test likes.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { isRecord } from "./internal/classify.ts"
import { endMarkerOf, eventsOf, type Format, formatOf, isStreamed, numbersFrom } from "./internal/recordings.ts"
import { json } from "./internal/wire.ts"
import { Llm, make as makeLlm } from "./Llm.ts"
import { LlmError, type Reason } from "./LlmError.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import {
  type Finish,
  fromParts,
  type LlmResponse,
  type LlmSource,
  type LlmStreamPart,
  type Usage
} from "./LlmResponse.ts"
import * as AnthropicMessages from "./protocol/AnthropicMessages.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"
import * as EmbeddingFormats from "./protocol/EmbeddingFormats.ts"
import * as GenerateContent from "./protocol/GenerateContent.ts"
import * as OllamaChat from "./protocol/OllamaChat.ts"
import { type CallContext, decodeError, type Protocol, type StreamDecoder } from "./protocol/Protocol.ts"
import * as ReplicatePredictions from "./protocol/ReplicatePredictions.ts"
import * as Responses from "./protocol/Responses.ts"

// ---------------------------------------------------------------------------------------------------------------------
// A scripted model
// ---------------------------------------------------------------------------------------------------------------------

/**
 * One step of a scripted stream: text, any part, a pause (by `Clock`), or the error that ends it.
 *
 * @since 0.1.0
 * @category models
 */
export type Step = string | LlmStreamPart | { readonly pause: Duration.DurationInput } | LlmError

/**
 * A scripted answer; what is left out is empty. `steps` says how it comes when it is streamed, and wins over `text`; a
 * `finish` is added at the end unless the steps have one, or an error.
 *
 * @since 0.1.0
 * @category models
 */
export interface Answer {
  readonly text?: string | undefined
  readonly reasoning?: string | undefined
  readonly refusal?: string | undefined
  readonly toolCalls?:
    | ReadonlyArray<{ readonly id?: string | undefined; readonly name: string; readonly arguments?: unknown }>
    | undefined
  readonly sources?: ReadonlyArray<LlmSource> | undefined
  readonly steps?: ReadonlyArray<Step> | undefined
  readonly finish?: Finish | undefined
  readonly usage?: Usage | undefined
  readonly model?: string | undefined
  readonly id?: string | undefined
  /** How long the model thinks before anything comes. */
  readonly delay?: Duration.DurationInput | undefined
}

/**
 * What the model does when it is asked: answers a text, answers, fails, or looks at the request first.
 *
 * @since 0.1.0
 * @category models
 */
export type Reply = string | Answer | LlmError | ((request: LlmRequest) => string | Answer | LlmError)

/**
 * A request that a scripted model got.
 *
 * @since 0.1.0
 * @category models
 */
export interface Asked {
  readonly method: "generate" | "stream"
  readonly request: LlmRequest
}

/**
 * The test's side of a scripted model.
 *
 * @since 0.1.0
 * @category tags
 */
export class Script extends Context.Tag("@underlay/llm/LlmTest/Script")<
  Script,
  {
    /** Every request so far, oldest first. */
    readonly requests: Effect.Effect<ReadonlyArray<Asked>>
    /** Adds replies to the end of the script. */
    readonly push: (...replies: ReadonlyArray<Reply>) => Effect.Effect<void>
    /** How many replies have not been used. */
    readonly remaining: Effect.Effect<number>
  }
>() {}

/**
 * An error as a provider would give it, retryable as that reason usually is.
 *
 * @since 0.1.0
 * @category constructors
 */
export const error = (
  reason: Reason,
  options?: {
    readonly retryAfter?: Duration.DurationInput | undefined
    readonly retryable?: boolean | undefined
    readonly midStream?: boolean | undefined
    readonly status?: number | undefined
    readonly providerMessage?: string | undefined
  }
): LlmError =>
  new LlmError({
    reason,
    method: "generate",
    provider: "scripted",
    model: "scripted",
    status: options?.status,
    providerMessage: options?.providerMessage,
    retryable:
      options?.retryable ??
      (options?.midStream !== true &&
        ["RateLimited", "Overloaded", "ServerError", "Timeout", "Network"].includes(reason)),
    retryAfter: options?.retryAfter === undefined ? undefined : Duration.decode(options.retryAfter),
    midStream: options?.midStream ?? false
  })

const isError = (value: unknown): value is LlmError => value instanceof LlmError

/** Words with the blanks that follow them, as models stream them. */
const wordsOf = (text: string): ReadonlyArray<string> => text.match(/\s*\S+\s*/g) ?? (text === "" ? [] : [text])

const stepsOf = (answer: Answer, model: string): ReadonlyArray<Step> => {
  const steps: Array<Step> = []
  if (answer.delay !== undefined) steps.push({ pause: answer.delay })
  if (answer.reasoning !== undefined) {
    for (const text of wordsOf(answer.reasoning)) steps.push({ type: "reasoning-delta", text })
  }
  if (answer.steps !== undefined) steps.push(...answer.steps)
  else for (const text of wordsOf(answer.text ?? "")) steps.push({ type: "text-delta", text })
  if (answer.refusal !== undefined) {
    for (const text of wordsOf(answer.refusal)) steps.push({ type: "refusal-delta", text })
  }
  if (answer.sources !== undefined) steps.push(...answer.sources)
  const toolCalls = answer.toolCalls ?? []
  toolCalls.forEach((call, index) => {
    steps.push({ type: "tool-call", id: call.id ?? `call_${index}`, name: call.name, arguments: call.arguments ?? {} })
  })
  const ends = steps.some(
    (step) => isError(step) || (typeof step === "object" && "type" in step && step.type === "finish")
  )
  if (!ends) {
    const calls = steps.some((step) => typeof step === "object" && "type" in step && step.type === "tool-call")
    steps.push({
      type: "finish",
      finish: answer.finish ?? (calls ? "tool-calls" : "stop"),
      finishReason: undefined,
      usage: answer.usage ?? {},
      model: answer.model ?? model,
      id: answer.id ?? "scripted",
      content: [],
      rateLimits: undefined
    })
  }
  return steps
}

const play = (steps: ReadonlyArray<Step>): Stream.Stream<LlmStreamPart, LlmError> =>
  Stream.mapEffect(
    Stream.fromIterable(steps).pipe(Stream.rechunk(1)),
    (step): Effect.Effect<Option.Option<LlmStreamPart>, LlmError> => {
      if (isError(step)) return Effect.fail(step)
      if (typeof step === "string") return Effect.succeedSome({ type: "text-delta", text: step })
      if ("pause" in step) return Effect.as(Effect.sleep(step.pause), Option.none())
      return Effect.succeedSome(step)
    }
  ).pipe(Stream.filterMap((part) => part))

/**
 * A model that follows a script: each request gets the next reply, and every one is recorded in `Script`. A request after
 * the last reply gets `otherwise`, or dies, since a test that asks more often than it says is wrong. `generate` and
 * `stream` give the same answers.
 *
 * ```ts
 * const TestModel = LlmTest.layerScripted({
 *   replies: [
 *     "Hello",
 *     { steps: ["Hel", { pause: "1 second" }, "lo"] },
 *     LlmTest.error("RateLimited", { retryAfter: "2 seconds" }),
 *     (request) => `You sent ${request.messages.length} messages`
 *   ]
 * })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerScripted = (options: {
  readonly replies: ReadonlyArray<Reply>
  readonly otherwise?: Reply | undefined
  readonly provider?: string | undefined
  readonly model?: string | undefined
}): Layer.Layer<Llm | Script> => {
  const provider = options.provider ?? "scripted"
  const model = options.model ?? "scripted"
  return Layer.effectContext(
    Effect.gen(function* () {
      const script = yield* Ref.make<ReadonlyArray<Reply>>(options.replies)
      const asked = yield* Ref.make<ReadonlyArray<Asked>>([])

      const reply = (method: Asked["method"], request: LlmRequest): Effect.Effect<Answer, LlmError> =>
        Effect.gen(function* () {
          yield* Ref.update(asked, (all) => [...all, { method, request }])
          const next = yield* Ref.modify(script, ([first, ...rest]) => [first ?? options.otherwise, rest])
          if (next === undefined) {
            const number = (yield* Ref.get(asked)).length
            return yield* Effect.dieMessage(`LlmTest: the script has no reply for request ${number}`)
          }
          const given = typeof next === "function" ? next(request) : next
          if (isError(given)) {
            const error = given.with({ method, provider, model: request.model ?? model })
            return yield* Effect.fail(error)
          }
          return typeof given === "string" ? { text: given } : given
        })

      const stream = (request: LlmRequest, method: Asked["method"]) =>
        Stream.unwrap(Effect.map(reply(method, request), (answer) => play(stepsOf(answer, request.model ?? model))))

      const llm = makeLlm({
        provider,
        model,
        generate: (request) =>
          Effect.flatMap(Stream.runCollect(stream(request, "generate")), (parts) => {
            const response: LlmResponse | undefined = fromParts(parts)
            return response === undefined
              ? Effect.dieMessage("LlmTest: the steps have no finish")
              : Effect.succeed(response)
          }),
        stream: (request) => stream(request, "stream")
      })

      return Context.make(Llm, llm).pipe(
        Context.add(Script, {
          requests: Ref.get(asked),
          push: (...replies) => Ref.update(script, (all) => [...all, ...replies]),
          remaining: Effect.map(Ref.get(script), (all) => all.length)
        })
      )
    })
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Recorded traffic
// ---------------------------------------------------------------------------------------------------------------------

const Words = Schema.optional(Schema.NullOr(Schema.String))

const Loose = Schema.optional(Schema.Unknown)

/** As recorders write it: only the answer is needed, and it need not be exact. */
const Found = Schema.Struct({
  provider: Words,
  api: Words,
  case: Words,
  stream: Schema.optional(Schema.NullOr(Schema.Boolean)),
  recorded_at: Words,
  request: Loose,
  response: Schema.Struct({ status: Schema.Number, headers: Loose, body: Loose })
})

const Kept = Schema.Struct({
  provider: Schema.String,
  api: Schema.String,
  case: Schema.optional(Schema.String),
  stream: Schema.Boolean,
  recorded_at: Words,
  request: Schema.optional(
    Schema.NullOr(Schema.Struct({ method: Words, url: Words, body: Schema.optional(Schema.Unknown) }))
  ),
  response: Schema.Struct({
    status: Schema.Number,
    headers: Schema.Record({ key: Schema.String, value: Schema.String }),
    body: Schema.String
  })
})

const stringOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

const headersOf = (headers: unknown): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Object.entries(isRecord(headers) ? headers : {}).flatMap(([name, value]) =>
      value === null || value === undefined || (typeof value === "object" && !Array.isArray(value))
        ? []
        : [[name, Array.isArray(value) ? value.join(", ") : String(value)]]
    )
  )

const kept = (found: typeof Found.Type): typeof Kept.Type => {
  const { request, response } = found
  const headers = headersOf(response.headers)
  const body =
    typeof response.body === "string" ? response.body : response.body === undefined ? "" : json(response.body)
  const named = found.case ?? undefined
  return {
    provider: found.provider ?? "",
    api: found.api ?? "",
    ...(named === undefined ? {} : { case: named }),
    stream: found.stream ?? isStreamed(lowerCase(headers)["content-type"], body),
    ...(found.recorded_at === undefined ? {} : { recorded_at: found.recorded_at }),
    ...(isRecord(request)
      ? { request: { method: stringOf(request["method"]), url: stringOf(request["url"]), body: request["body"] } }
      : {}),
    response: { status: response.status, headers, body }
  }
}

/**
 * A recorded exchange with a provider: what is needed to replay it. `api` says what was asked (`chat/completions`,
 * `messages`, `streamGenerateContent`, `api/chat`, …), `stream` whether the answer came in events, and `response.body` is
 * the raw body. Without `api` the format is told by the address or the body, without `stream` by the type of the content
 * or the body; a body that was kept as JSON is written out.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Recording: Schema.Schema<Recording, unknown> = Schema.compose(
  Schema.Unknown,
  Schema.transform(Found, Schema.typeSchema(Kept), { strict: true, decode: kept, encode: (recording) => recording }),
  { strict: false }
)
/**
 * @since 0.1.0
 * @category models
 */
export interface Recording extends Schema.Schema.Type<typeof Kept> {}

/**
 * A place in a body: after so many bytes, or after so many whole events (lines, of a body that is made of lines).
 *
 * @since 0.1.0
 * @category models
 */
export type Place = number | { readonly events: number }

/**
 * How a body is replayed.
 *
 * - `chunkSize`: in chunks of so many bytes, or of `random` sizes, the same ones for the same `seed`; by default whole.
 * - `lineEnd`: with every line end of a streamed body changed to this one. Places are then counted in the changed body.
 * - `cutAt`: ended there as if that were all.
 * - `breakAt`: broken there as by a lost connection.
 * - `delay`: waited before the first chunk, and `pause` between chunks.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReplayOptions {
  readonly chunkSize?: number | "random" | undefined
  readonly seed?: number | undefined
  readonly lineEnd?: "LF" | "CRLF" | undefined
  readonly cutAt?: Place | undefined
  readonly breakAt?: Place | undefined
  readonly delay?: Duration.DurationInput | undefined
  readonly pause?: Duration.DurationInput | undefined
}

const encoder = new TextEncoder()

const textOf = (recording: Recording, options: ReplayOptions): string => {
  const { body } = recording.response
  if (options.lineEnd === undefined || !recording.stream) return body
  return body.replace(/\r\n|\n|\r/g, options.lineEnd === "LF" ? "\n" : "\r\n")
}

/** Places in a text, given in characters and growing, in bytes. */
const inBytes = (text: string, places: ReadonlyArray<number>): ReadonlyArray<number> => {
  let from = 0
  let bytes = 0
  return places.map((to) => {
    bytes += encoder.encode(text.slice(from, to)).length
    from = to
    return bytes
  })
}

/**
 * Where the events of a streamed body end, in bytes.
 *
 * @since 0.1.0
 * @category testing
 */
export const eventEnds = (
  recording: Recording,
  options: Pick<ReplayOptions, "lineEnd"> = {}
): ReadonlyArray<number> => {
  const text = textOf(recording, options)
  return inBytes(
    text,
    eventsOf(text).map((event) => event.end)
  )
}

const placeOf = (place: Place | undefined, ends: () => ReadonlyArray<number>, length: number): number => {
  if (place === undefined) return length
  if (typeof place === "number") return Math.max(0, Math.min(place, length))
  return place.events <= 0 ? 0 : (ends()[place.events - 1] ?? length)
}

const replayed = (
  recording: Recording,
  options: ReplayOptions
): { readonly pieces: ReadonlyArray<Uint8Array>; readonly broken: boolean } => {
  const bytes = encoder.encode(textOf(recording, options))
  const ends = () => eventEnds(recording, options)
  const cutAt = placeOf(options.cutAt, ends, bytes.length)
  const breakAt = placeOf(options.breakAt, ends, bytes.length)
  return {
    pieces: piecesOf(bytes.subarray(0, Math.min(cutAt, breakAt)), options),
    broken: breakAt < cutAt
  }
}

const piecesOf = (bytes: Uint8Array, options: Pick<ReplayOptions, "chunkSize" | "seed">): ReadonlyArray<Uint8Array> => {
  const { chunkSize } = options
  const next = numbersFrom(options.seed ?? 1)
  // Mostly a few bytes, at times many events at once.
  const random = () => 1 + next(next(8) === 0 ? 4096 : 48)
  const size = chunkSize === "random" ? random : () => Math.max(1, Math.floor(chunkSize ?? bytes.length))
  const all: Array<Uint8Array> = []
  for (let from = 0; from < bytes.length; ) {
    const to = Math.min(bytes.length, from + size())
    all.push(bytes.slice(from, to))
    from = to
  }
  return all
}

/**
 * The body of a recording as a stream of bytes.
 *
 * @since 0.1.0
 * @category testing
 */
export const bodyOf = <E>(
  recording: Recording,
  options: ReplayOptions & { readonly broken: () => E }
): Stream.Stream<Uint8Array, E> => {
  const { broken, pieces } = replayed(recording, options)
  const { delay, pause } = options
  const chunks = Stream.fromChunk(Chunk.fromIterable(pieces)).pipe(Stream.rechunk(1))
  const paced = pause === undefined ? chunks : Stream.tap(chunks, () => Effect.sleep(pause))
  const body = broken ? Stream.concat(paced, Stream.failSync(options.broken)) : paced
  return delay === undefined ? body : Stream.unwrap(Effect.as(Effect.sleep(delay), body))
}

/**
 * An `HttpClient` that answers with recordings: each request gets the next one, the last one again and again.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerReplay = (
  recordings: ReadonlyArray<Recording>,
  options: ReplayOptions & {
    /** Is called with every request. */
    readonly onRequest?: ((request: HttpClientRequest.HttpClientRequest) => void) | undefined
  } = {}
): Layer.Layer<HttpClient.HttpClient> =>
  Layer.sync(HttpClient.HttpClient, () => {
    let index = 0
    return HttpClient.make((request) =>
      Effect.suspend(() => {
        options.onRequest?.(request)
        const recording = recordings[Math.min(index, recordings.length - 1)]
        index += 1
        const lost = () =>
          new HttpClientError.RequestError({
            request,
            reason: "Transport",
            description: "the replayed connection broke"
          })
        if (recording === undefined) return Effect.fail(lost())
        const { headers, status } = recording.response
        const empty = status === 204 || status === 304
        // Run by the caller's clock.
        return Effect.map(Stream.toReadableStreamEffect(bodyOf(recording, { ...options, broken: lost })), (body) =>
          HttpClientResponse.fromWeb(request, new Response(empty ? null : body, { status, headers }))
        )
      })
    )
  })

/**
 * The outcome of an exchange in a form that is the same for every provider and every client, so that decoders can be
 * compared with expected results. `null` stands for what does not apply or was not said.
 *
 * @since 0.1.0
 * @category models
 */
export interface Canonical {
  readonly kind: "generate" | "stream" | "embed" | "count" | "error"
  readonly text: string
  readonly reasoning: string
  readonly thinkTags: boolean
  readonly refusal: string | null
  readonly toolCalls: ReadonlyArray<{ readonly name: string; readonly arguments: unknown }>
  readonly finish: Finish | null
  readonly usage: { readonly [K in keyof Required<Usage>]: number | null }
  readonly model: string | null
  readonly id: string | null
  readonly embeddings: { readonly count: number; readonly dimensions: number } | null
  readonly error: {
    readonly reason: Reason
    readonly retryable: boolean
    readonly retryAfterMs: number | null
    readonly message: string | null
    readonly status: number | null
    readonly midStream: boolean
  } | null
}

const canonicalUsage = (usage: Usage): Canonical["usage"] => ({
  input: usage.input ?? null,
  output: usage.output ?? null,
  cachedInput: usage.cachedInput ?? null,
  cacheWrite: usage.cacheWrite ?? null,
  reasoning: usage.reasoning ?? null
})

const canonicalAnswer = (answer: {
  readonly id?: string | undefined
  readonly model?: string | undefined
  readonly text: string
  readonly reasoning: string
  readonly refusal?: string | undefined
  readonly toolCalls: LlmResponse["toolCalls"]
}) => ({
  text: answer.text,
  reasoning: answer.reasoning,
  thinkTags: /<\/?think>/.test(answer.text),
  refusal: answer.refusal ?? null,
  toolCalls: answer.toolCalls.map((call) => ({ name: call.name, arguments: call.arguments })),
  model: answer.model ?? null,
  id: answer.id ?? null,
  embeddings: null
})

const nothing = { text: "", reasoning: "", toolCalls: [] }

/** An outcome that is only figures. */
const figures = (kind: "count" | "embed", usage: Usage): Canonical => ({
  kind,
  ...canonicalAnswer(nothing),
  finish: null,
  usage: canonicalUsage(usage),
  error: null
})

/** Whether a body was nothing but an error, and not an answer that says that it failed. */
const isBareError = ({ midStream, partial, reason }: LlmError): boolean =>
  !midStream &&
  reason !== "MalformedResponse" &&
  (partial === undefined ||
    (partial.id === undefined && partial.text === "" && partial.reasoning === "" && partial.toolCalls.length === 0))

/**
 * The canonical form of what a client made of an exchange: its response, or the error it failed with.
 *
 * @since 0.1.0
 * @category testing
 */
export const canonicalOf = (
  result: Either.Either<LlmResponse, LlmError>,
  kind: Exclude<Canonical["kind"], "error">
): Canonical =>
  Either.match(result, {
    onRight: (response): Canonical => ({
      kind,
      ...canonicalAnswer(response),
      finish: response.finish,
      usage: canonicalUsage(response.usage),
      error: null
    }),
    onLeft: (failure): Canonical => ({
      kind: (failure.status ?? 0) >= 400 || isBareError(failure) ? "error" : kind,
      ...canonicalAnswer(failure.partial ?? nothing),
      finish: null,
      usage: canonicalUsage(failure.usage ?? {}),
      error: {
        reason: failure.reason,
        retryable: failure.retryable,
        retryAfterMs: failure.retryAfter === undefined ? null : Duration.toMillis(failure.retryAfter),
        message: failure.providerMessage ?? null,
        status: failure.status ?? null,
        midStream: failure.midStream
      }
    })
  })

/**
 * A recording of a wire format that is not known here, whether by what was asked, by the address or by its body.
 *
 * @since 0.1.0
 * @category errors
 */
export class UnknownApi extends Schema.TaggedError<UnknownApi>("@underlay/llm/LlmTest/UnknownApi")("UnknownApi", {
  provider: Schema.String,
  api: Schema.String
}) {
  override get message(): string {
    const who = this.provider === "" ? "an unnamed provider" : this.provider
    const what = this.api === "" ? "an unnamed api" : `the api "${this.api}"`
    return `no decoder for ${what} of ${who}: neither it, nor the address of the request, nor the body is of a known format`
  }
}

type Answer200 = Either.Either<Canonical, LlmError>

/** How a format is decoded when it did not fail with a status. */
interface Decoder {
  /** What a whole answer is. */
  readonly kind: "generate" | "count" | "embed"
  readonly whole: (body: string, context: CallContext) => Answer200
  readonly stream?: ((context: CallContext) => StreamDecoder) | undefined
}

const language = (protocol: {
  readonly decode: Protocol["decode"]
  readonly makeStreamDecoder: Protocol["makeStreamDecoder"]
}): Decoder => ({
  kind: "generate",
  whole: (body, context) =>
    Either.map(protocol.decode(body, context), (response) => canonicalOf(Either.right(response), "generate")),
  stream: protocol.makeStreamDecoder
})

const counting = (decode: (body: string, context: CallContext) => Either.Either<number, LlmError>): Decoder => ({
  kind: "count",
  whole: (body, context) => Either.map(decode(body, context), (input) => figures("count", { input }))
})

const embedding: Decoder = {
  kind: "embed",
  whole: (body, context) =>
    Either.map(EmbeddingFormats.decode(body, context), ({ id, model, usage, vectors }) => ({
      ...figures("embed", { input: usage.input }),
      id: id ?? null,
      model: model ?? null,
      embeddings: { count: vectors.length, dimensions: vectors[0]?.length ?? 0 }
    }))
}

const decoders: { readonly [K in Format]: Decoder } = {
  "chat-completions": language(ChatCompletions),
  responses: language(Responses),
  "responses-count": counting(Responses.decodeCount),
  messages: language(AnthropicMessages),
  "messages-count": counting(AnthropicMessages.decodeCount),
  gemini: language(GenerateContent),
  "gemini-count": counting(GenerateContent.decodeCountTokens),
  ollama: language(OllamaChat),
  replicate: language(ReplicatePredictions),
  "openai-embeddings": embedding,
  "gemini-embeddings": embedding,
  "ollama-embeddings": embedding,
  "feature-extraction": embedding
}

/** A streamed body decoded: the outcome, and the text that was handed on before it. */
const playStream = (
  decoder: StreamDecoder,
  pieces: ReadonlyArray<Uint8Array>
): { readonly result: Canonical; readonly handedOn: string } => {
  const parts: Array<LlmStreamPart> = []
  for (const piece of pieces) for (const part of decoder.push(piece)) parts.push(part)
  for (const part of decoder.end()) parts.push(part)
  const failure = decoder.failure()
  let handedOn = ""
  for (const part of parts) if (part.type === "text-delta") handedOn += part.text
  if (failure !== undefined) return { result: canonicalOf(Either.left(failure), "stream"), handedOn }
  const response = fromParts(parts)
  if (response === undefined) throw new Error("a decoder ended without a finish and without a failure")
  return { result: canonicalOf(Either.right(response), "stream"), handedOn }
}

/**
 * What a recording is decoded with: by default the decoders of this package. `protocol` is one's own, for those who write
 * one of a known format.
 *
 * @since 0.1.0
 * @category models
 */
export interface DecodeOptions extends ReplayOptions {
  readonly protocol?: Pick<Protocol, "decode" | "makeStreamDecoder"> | undefined
}

const lowerCase = (headers: Recording["response"]["headers"]): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

const unknownApi = (recording: Recording) => new UnknownApi({ provider: recording.provider, api: recording.api })

const formatIn = (recording: Recording): Format | undefined =>
  formatOf(recording.api, recording.request?.url ?? undefined, recording.response.body)

/**
 * What our decoders make of a recording, in canonical form. The format is known by what was asked, else by the address of
 * the request, else by the body; `UnknownApi` if by none of them. Errors of status 400 and above need no format.
 *
 * @since 0.1.0
 * @category testing
 */
export const canonical = (recording: Recording, options: DecodeOptions = {}): Either.Either<Canonical, UnknownApi> => {
  const { body, headers, status } = recording.response
  const kind = recording.stream ? "stream" : "generate"
  const context = { provider: recording.provider, model: undefined, method: kind }
  if (status >= 400) {
    const lower = lowerCase(headers)
    const now = Date.parse(lower["date"] ?? recording.recorded_at ?? "")
    const error = decodeError({ status, headers: lower, body, now: Number.isNaN(now) ? 0 : now }, context)
    return Either.right(canonicalOf(Either.left(error), kind))
  }
  const decoder = decoderFor(formatIn(recording), options)
  if (decoder === undefined) return Either.left(unknownApi(recording))
  if (recording.stream && decoder.stream !== undefined) {
    return Either.right(playStream(decoder.stream(context), replayed(recording, options).pieces).result)
  }
  const whole = options.cutAt === undefined ? body : new TextDecoder().decode(join(replayed(recording, options).pieces))
  return Either.right(
    Either.getOrElse(decoder.whole(whole, context), (error) => canonicalOf(Either.left(error), decoder.kind))
  )
}

const decoderFor = (format: Format | undefined, { protocol }: DecodeOptions): Decoder | undefined =>
  protocol !== undefined ? language(protocol) : format === undefined ? undefined : decoders[format]

const join = (pieces: ReadonlyArray<Uint8Array>): Uint8Array => {
  const all = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  return all
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging
// ---------------------------------------------------------------------------------------------------------------------

/**
 * One thing in which two values differ: where, and both as they are; what is absent is `undefined`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Difference {
  readonly path: string
  readonly expected: unknown
  readonly actual: unknown
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/**
 * Where two JSON values differ, down to the smallest pieces. The order of fields does not count, that of lists does.
 *
 * @since 0.1.0
 * @category testing
 */
export const differences = (actual: unknown, expected: unknown, path = ""): ReadonlyArray<Difference> => {
  // By value: zero is zero, with whatever sign.
  if (actual === expected || Object.is(actual, expected)) return []
  if (!isObject(actual) || !isObject(expected) || Array.isArray(actual) !== Array.isArray(expected)) {
    return [{ path, expected, actual }]
  }
  const names = new Set([...Object.keys(expected), ...Object.keys(actual)])
  return [...names].flatMap((name) => differences(actual[name], expected[name], path === "" ? name : `${path}.${name}`))
}

/**
 * Something wrong with how a recording's decoder took a cut: `at` is the byte at which the body ended.
 *
 * @since 0.1.0
 * @category models
 */
export interface CutFault {
  readonly at: number
  readonly fault: string
}

const isSubsequence = (some: ReadonlyArray<unknown>, all: ReadonlyArray<unknown>): boolean => {
  let at = 0
  for (const one of some) {
    while (at < all.length && differences(one, all[at]).length > 0) at += 1
    if (at === all.length) return false
    at += 1
  }
  return true
}

/**
 * What is wrong with how our decoder takes a streamed recording that ends too early: after every event, and at `random`
 * bytes (by default 200; the same ones for the same `seed`). An honest decoder succeeds only where the end marker had been
 * seen, fails with `StreamTruncated` or the provider's own error elsewhere, is not retryable once there was content, and
 * keeps what had arrived: no other text than was handed on, never less than at an earlier cut, none that the whole answer
 * does not have. Nothing is wrong with a recording that is not of a stream, or that failed with a status.
 *
 * @since 0.1.0
 * @category testing
 */
export const cutFaults = (
  recording: Recording,
  options: DecodeOptions & { readonly random?: number | undefined } = {}
): Either.Either<ReadonlyArray<CutFault>, UnknownApi> => {
  if (!recording.stream || recording.response.status >= 400) return Either.right([])
  const format = formatIn(recording)
  const makeDecoder = decoderFor(format, options)?.stream
  if (format === undefined || makeDecoder === undefined) return Either.left(unknownApi(recording))
  const context = { provider: recording.provider, model: undefined, method: "stream" }
  const text = textOf(recording, options)
  const bytes = encoder.encode(text)
  const play = (at: number) => playStream(makeDecoder(context), piecesOf(bytes.subarray(0, at), options))

  const events = eventsOf(text)
  const ends = inBytes(
    text,
    events.map((event) => event.end)
  )
  const marker = endMarkerOf(format, events)
  const [from, to] = marker === undefined ? [Infinity, Infinity] : inBytes(text, [marker.from, marker.to])
  const next = numbersFrom(options.seed ?? 1)
  const cuts = new Set([0, ...ends])
  for (let count = 0; count < (options.random ?? 200); count++) {
    // Behind the end marker there is little to learn.
    cuts.add(next(Math.min(bytes.length, to === undefined || to === Infinity ? bytes.length : to)))
  }

  const faults: Array<CutFault> = []
  const whole = play(bytes.length).result
  let before = { text: "", reasoning: "" }
  for (const at of [...cuts].filter((cut) => cut < bytes.length).sort((a, b) => a - b)) {
    const wrong = (fault: string) => faults.push({ at, fault })
    let played: ReturnType<typeof play>
    try {
      played = play(at)
    } catch (defect) {
      wrong(`a defect: ${defect instanceof Error ? defect.message : String(defect)}`)
      continue
    }
    const { handedOn, result } = played
    if (result.text !== handedOn) wrong("other text in the outcome than was handed on")
    for (const field of ["text", "reasoning"] as const) {
      if (!whole[field].startsWith(result[field])) wrong(`${field} that the whole answer does not have`)
      if (!result[field].startsWith(before[field])) wrong(`less ${field} than at an earlier cut`)
    }
    before = { text: result.text, reasoning: result.reasoning }
    if (!isSubsequence(result.toolCalls, whole.toolCalls)) wrong("tool calls that the whole answer does not have")
    if (at >= (to ?? Infinity)) {
      if (result.error !== null && result.error.reason !== whole.error?.reason) {
        wrong(`${result.error.reason} although the end had been seen`)
      }
    } else if (result.error === null) {
      if (at < (from ?? Infinity)) wrong("a success although the end had not been seen")
    } else {
      const { reason, retryable } = result.error
      if (reason !== "StreamTruncated" && reason !== whole.error?.reason) wrong(`${reason} for a body that was cut`)
      if (result.finish !== null) wrong("a finish beside an error")
      const content = result.text !== "" || result.reasoning !== "" || result.toolCalls.length > 0
      if (retryable && content) wrong("retryable although content had arrived")
    }
  }
  return Either.right(faults)
}
