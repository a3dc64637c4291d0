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
import { Llm, make as makeLlm } from "./Llm.ts"
import { LlmError, type Reason } from "./LlmError.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import { type Finish, fromParts, type LlmResponse, type LlmStreamPart, type Usage } from "./LlmResponse.ts"
import * as ChatCompletions from "./protocol/ChatCompletions.ts"
import { decodeError } from "./protocol/Protocol.ts"

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
            const error = new LlmError({ ...given, method, provider, model: request.model ?? model })
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

/**
 * A recorded exchange with a provider: what is needed to replay it. `response.body` is the raw body.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Recording = Schema.Struct({
  provider: Schema.String,
  api: Schema.String,
  case: Schema.optional(Schema.String),
  stream: Schema.Boolean,
  recorded_at: Schema.optional(Schema.NullOr(Schema.String)),
  response: Schema.Struct({
    status: Schema.Number,
    headers: Schema.Record({ key: Schema.String, value: Schema.String }),
    body: Schema.String
  })
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Recording extends Schema.Schema.Type<typeof Recording> {}

/**
 * How a body is replayed: in chunks of `chunkSize` bytes (by default whole), ended after `cutAt` bytes as if that were
 * all, or broken after `breakAt` bytes as by a lost connection. `pause` is waited between chunks.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReplayOptions {
  readonly chunkSize?: number | undefined
  readonly cutAt?: number | undefined
  readonly breakAt?: number | undefined
  readonly pause?: Duration.DurationInput | undefined
}

const pieces = (bytes: Uint8Array, options: ReplayOptions): ReadonlyArray<Uint8Array> => {
  const end = Math.min(bytes.length, options.cutAt ?? bytes.length, options.breakAt ?? bytes.length)
  const size = Math.max(1, options.chunkSize ?? Math.max(1, end))
  const all: Array<Uint8Array> = []
  for (let from = 0; from < end; from += size) all.push(bytes.slice(from, Math.min(end, from + size)))
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
  const bytes = new TextEncoder().encode(recording.response.body)
  const chunks = Stream.fromChunk(Chunk.fromIterable(pieces(bytes, options))).pipe(Stream.rechunk(1))
  const { pause } = options
  const paced = pause === undefined ? chunks : Stream.tap(chunks, () => Effect.sleep(pause))
  return options.breakAt === undefined || options.breakAt >= bytes.length
    ? paced
    : Stream.concat(paced, Stream.failSync(options.broken))
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

/**
 * The canonical form of what a client made of an exchange: its response, or the error it failed with.
 *
 * @since 0.1.0
 * @category testing
 */
export const canonicalOf = (result: Either.Either<LlmResponse, LlmError>, kind: "generate" | "stream"): Canonical =>
  Either.match(result, {
    onRight: (response): Canonical => ({
      kind,
      ...canonicalAnswer(response),
      finish: response.finish,
      usage: canonicalUsage(response.usage),
      error: null
    }),
    onLeft: (failure): Canonical => ({
      kind:
        (failure.status ?? 0) >= 400 || (!failure.midStream && failure.reason !== "MalformedResponse") ? "error" : kind,
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
 * What our decoders make of a recording, in canonical form; none for protocols that are not here.
 *
 * @since 0.1.0
 * @category testing
 */
export const canonical = (recording: Recording, options: ReplayOptions = {}): Option.Option<Canonical> => {
  if (recording.api !== "chat/completions") return Option.none()
  const { body, headers, status } = recording.response
  const kind = recording.stream ? "stream" : "generate"
  const context = { provider: recording.provider, model: undefined, method: kind }
  if (status >= 400) {
    const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
    const now = Date.parse(lower["date"] ?? recording.recorded_at ?? "")
    const error = decodeError({ status, headers: lower, body, now: Number.isNaN(now) ? 0 : now }, context)
    return Option.some(canonicalOf(Either.left(error), kind))
  }
  if (!recording.stream) return Option.some(canonicalOf(ChatCompletions.decode(body, context), kind))
  const decoder = ChatCompletions.makeStreamDecoder(context)
  const parts: Array<LlmStreamPart> = []
  for (const piece of pieces(new TextEncoder().encode(body), options)) parts.push(...decoder.push(piece))
  parts.push(...decoder.end())
  const failure = decoder.failure()
  const response = fromParts(parts)
  if (failure !== undefined) return Option.some(canonicalOf(Either.left(failure), kind))
  return response === undefined ? Option.none() : Option.some(canonicalOf(Either.right(response), kind))
}
