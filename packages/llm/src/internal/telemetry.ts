/**
 * The names of OpenTelemetry's conventions for generative AI, kept in one place because they still change, and the
 * metrics of a client. What was asked and answered is looked at only where somebody asked for it.
 */
import * as Redaction from "@underlay/core/operations/Redaction"
import type { AssistantPart, ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricKey from "effect/MetricKey"
import type * as MetricKeyType from "effect/MetricKeyType"
import * as MetricLabel from "effect/MetricLabel"
import type * as Tracer from "effect/Tracer"
import type { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { contentOf, type Finish, type LlmToolCall, type Usage } from "../LlmResponse.ts"

/** Who is asked for what. */
export interface Operation {
  readonly operation: string
  readonly provider: string
  readonly model: string
  readonly serverAddress: string | undefined
  readonly serverPort: number | undefined
}

/** How it went. */
export interface Outcome {
  readonly id?: string | undefined
  readonly model?: string | undefined
  readonly finish: Finish
  readonly finishReason?: string | undefined
  readonly usage: Usage
}

type Attributes = Record<string, unknown>

const put = (attributes: Attributes, name: string, value: unknown) => {
  if (value !== undefined) attributes[name] = value
}

/** The attributes of a span when it begins. */
export const requestAttributes = (operation: Operation, request: LlmRequest, stream: boolean): Attributes => {
  const attributes: Attributes = {
    "gen_ai.operation.name": operation.operation,
    "gen_ai.provider.name": operation.provider,
    "gen_ai.request.model": operation.model
  }
  put(attributes, "server.address", operation.serverAddress)
  put(attributes, "server.port", operation.serverPort)
  if (stream) put(attributes, "gen_ai.request.stream", true)
  put(attributes, "gen_ai.request.temperature", request.temperature)
  put(attributes, "gen_ai.request.top_p", request.topP)
  put(attributes, "gen_ai.request.max_tokens", request.maxTokens)
  put(attributes, "gen_ai.request.top_k", request.topK)
  put(attributes, "gen_ai.request.frequency_penalty", request.frequencyPenalty)
  put(attributes, "gen_ai.request.presence_penalty", request.presencePenalty)
  put(attributes, "gen_ai.request.reasoning.level", request.reasoningEffort)
  put(attributes, "gen_ai.request.seed", request.seed)
  put(attributes, "gen_ai.request.stop_sequences", request.stop)
  const format = request.responseFormat?.type
  put(attributes, "gen_ai.output.type", format === undefined ? undefined : format === "text" ? "text" : "json")
  return attributes
}

const usageAttributes = (usage: Usage): Attributes => {
  const attributes: Attributes = {}
  put(attributes, "gen_ai.usage.input_tokens", usage.input)
  put(attributes, "gen_ai.usage.output_tokens", usage.output)
  put(attributes, "gen_ai.usage.cache_read.input_tokens", usage.cachedInput)
  put(attributes, "gen_ai.usage.cache_creation.input_tokens", usage.cacheWrite)
  put(attributes, "gen_ai.usage.reasoning.output_tokens", usage.reasoning)
  return attributes
}

/** The attributes of a span once the answer is known. */
export const responseAttributes = (outcome: Outcome): Attributes => {
  const attributes = usageAttributes(outcome.usage)
  put(attributes, "gen_ai.response.id", outcome.id)
  put(attributes, "gen_ai.response.model", outcome.model)
  attributes["gen_ai.response.finish_reasons"] = [outcome.finishReason ?? outcome.finish]
  return attributes
}

// Structured values have no place in a span: they go as JSON, without secrets that somebody pasted.
const json = (value: unknown): string => {
  const text = Either.try(() => JSON.stringify(value))
  // What cannot be written is no reason for a call to fail that does not need it written.
  return Redaction.text(Either.getOrUndefined(text) ?? "null")
}

const modalityOf = (mediaType: string): string => {
  const [kind = ""] = mediaType.split("/")
  return kind === "image" || kind === "video" || kind === "audio" ? kind : "document"
}

const fileOf = ({ mediaType, source }: FilePart): Attributes =>
  source.type === "url"
    ? { type: "uri", mime_type: mediaType, modality: modalityOf(mediaType), uri: source.url }
    : {
        type: "blob",
        mime_type: mediaType,
        modality: modalityOf(mediaType),
        content: Encoding.encodeBase64(source.bytes)
      }

const partOf = (part: AssistantPart): Attributes => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return { type: part.type, content: part.text }
    case "tool-call":
      return { type: "tool_call", id: part.id, name: part.name, arguments: part.arguments }
    case "provider": {
      const { data } = part
      const named = typeof data === "object" && data !== null && "type" in data && typeof data.type === "string"
      return { ...(typeof data === "object" ? data : {}), type: named ? data.type : part.provider }
    }
  }
}

const partsOf = (message: Exclude<ChatMessage, { readonly role: "system" }>): ReadonlyArray<Attributes> => {
  switch (message.role) {
    case "user":
      return message.content.map((part) => (part.type === "file" ? fileOf(part) : { type: "text", content: part.text }))
    case "assistant":
      return message.content.map(partOf)
    case "tool":
      return message.content.map(({ id, result }) => ({ type: "tool_call_response", id, response: result ?? null }))
  }
}

/** What is asked, for those who want it in their spans. */
export const inputAttributes = (request: LlmRequest): Attributes => {
  const attributes: Attributes = {}
  const instructions: Array<Attributes> = []
  const messages: Array<Attributes> = []
  for (const message of request.messages) {
    // Those at the front are instructions; one that comes later is a part of the history.
    if (message.role !== "system") messages.push({ role: message.role, parts: partsOf(message) })
    else if (messages.length === 0) instructions.push({ type: "text", content: message.content })
    else messages.push({ role: "system", parts: [{ type: "text", content: message.content }] })
  }
  attributes["gen_ai.input.messages"] = json(messages)
  if (instructions.length > 0) attributes["gen_ai.system_instructions"] = json(instructions)
  if (request.tools !== undefined && request.tools.length > 0) {
    attributes["gen_ai.tool.definitions"] = json(
      request.tools.map(({ description, name, parameters }) => ({
        type: "function",
        name,
        ...(description === undefined ? {} : { description }),
        parameters
      }))
    )
  }
  return attributes
}

/** What is answered, for those who want it in their spans. */
export const outputAttributes = (answer: {
  readonly content: ReadonlyArray<AssistantPart>
  readonly finish: Finish | "error"
  readonly finishReason?: string | undefined
}): Attributes => ({
  "gen_ai.output.messages": json([
    {
      role: "assistant",
      parts: answer.content.map(partOf),
      finish_reason: finishWords[answer.finish] ?? answer.finishReason ?? answer.finish
    }
  ])
})

/** The convention's own words for why a model stopped. */
const finishWords: { readonly [K in Finish | "error"]?: string } = {
  stop: "stop",
  length: "length",
  "tool-calls": "tool_call",
  "content-filter": "content_filter",
  error: "error"
}

/** What had arrived of an answer that broke, for those who want it in their spans. */
export const partialAttributes = (error: LlmError): Attributes =>
  error.partial === undefined ? {} : outputAttributes({ content: contentOf(error.partial), finish: "error" })

/** The event of a failed attempt: the span of a call that succeeds in the end still tells why it took several. */
export const exceptionEvent = (span: Tracer.Span, error: LlmError, now: bigint): void =>
  span.event("gen_ai.client.operation.exception", now, {
    "error.type": error.reason,
    "exception.type": error._tag,
    "exception.message": error.message
  })

/** What a failed attempt tells of the call. Its `error.type` is set by core, if the call fails in the end. */
export const errorAttributes = (error: LlmError): Attributes => {
  const attributes = usageAttributes(error.usage ?? {})
  put(attributes, "gen_ai.response.id", error.partial?.id)
  put(attributes, "gen_ai.response.model", error.partial?.model)
  return attributes
}

const doubling = (start: number, factor: number, count: number) =>
  MetricBoundaries.fromIterable(Array.from({ length: count }, (_, power) => start * factor ** power))

const duration = MetricKey.histogram(
  "gen_ai.client.operation.duration",
  doubling(0.01, 2, 14),
  "How long calls of language models took, in seconds"
)

const firstChunk = MetricKey.histogram(
  "gen_ai.client.operation.time_to_first_chunk",
  doubling(0.01, 2, 14),
  "How long streamed answers took until their first content, in seconds"
)

const perChunk = MetricKey.histogram(
  "gen_ai.client.operation.time_per_output_chunk",
  doubling(0.01, 2, 14),
  "How long each chunk of a streamed answer took after the one before, in seconds"
)

const toolDuration = MetricKey.histogram(
  "gen_ai.execute_tool.duration",
  doubling(0.01, 2, 14),
  "How long tools took that language models called, in seconds"
)

const tokens = MetricKey.histogram(
  "gen_ai.client.token.usage",
  doubling(1, 4, 14),
  "Tokens that calls of language models used"
)

type Recorded = Metric.Metric<MetricKeyType.MetricKeyType.Histogram, number, unknown>

/** More labels than this are names that somebody made up: their metrics are looked for at each call. */
const maxMetrics = 64

/**
 * The metrics of one operation, each found by its tags once: one that gets them by `Metric.tagged` puts them together and
 * looks for itself at every update, which takes longer than all else that is done for a chunk.
 */
class Metrics {
  readonly firstChunk: Recorded
  readonly perChunk: Recorded
  private readonly tags: Record<string, string>
  private readonly found = new Map<string, Recorded>()

  constructor(operation: Operation) {
    this.tags = {
      "gen_ai.operation.name": operation.operation,
      "gen_ai.provider.name": operation.provider,
      "gen_ai.request.model": operation.model,
      ...(operation.serverAddress === undefined ? {} : { "server.address": operation.serverAddress }),
      ...(operation.serverAddress === undefined || operation.serverPort === undefined
        ? {}
        : { "server.port": String(operation.serverPort) })
    }
    this.firstChunk = tagged(firstChunk, "s", this.tags)
    this.perChunk = tagged(perChunk, "s", this.tags)
  }

  /** How long calls took whose answer named this model, or that failed so. */
  duration(model: string | undefined, error: string | undefined): Recorded {
    return this.find(`${model ?? ""} ${error ?? ""}`, () =>
      tagged(duration, "s", { ...this.answered(model), ...(error === undefined ? {} : { "error.type": error }) })
    )
  }

  tokens(model: string | undefined, type: "input" | "output"): Recorded {
    return this.find(`${model ?? ""} :${type}`, () =>
      tagged(tokens, "{token}", { ...this.answered(model), "gen_ai.token.type": type })
    )
  }

  private answered(model: string | undefined): Record<string, string> {
    return model === undefined ? this.tags : { ...this.tags, "gen_ai.response.model": model }
  }

  private find(name: string, make: () => Recorded): Recorded {
    const known = this.found.get(name)
    if (known !== undefined) return known
    const made = make()
    if (this.found.size < maxMetrics) this.found.set(name, made)
    return made
  }
}

const tagged = (key: MetricKey.MetricKey.Histogram, unit: string, tags: Record<string, string>): Recorded => {
  const labels = Object.entries(tags).map(([name, value]) => MetricLabel.make(name, value))
  return Metric.fromMetricKey(MetricKey.taggedWithLabels(key, [MetricLabel.make("unit", unit), ...labels]))
}

// With the operation they go: those of a provider are made once for each of its models.
const ofOperation = new WeakMap<Operation, Metrics>()

const metricsOf = (operation: Operation): Metrics => {
  const known = ofOperation.get(operation)
  if (known !== undefined) return known
  const made = new Metrics(operation)
  ofOperation.set(operation, made)
  return made
}

/** Records a call: how long it took, what it used, and the reason if it failed. */
export const record = (
  operation: Operation,
  seconds: number,
  result: { readonly usage: Usage; readonly model: string | undefined; readonly error: string | undefined }
): Effect.Effect<void> =>
  Effect.withFiberRuntime((fiber) => {
    const labels = fiber.getFiberRef(FiberRef.currentMetricLabels)
    const { error, model, usage } = result
    const metrics = metricsOf(operation)
    metrics.duration(model, error).unsafeUpdate(seconds, labels)
    if (usage.input !== undefined) metrics.tokens(model, "input").unsafeUpdate(usage.input, labels)
    if (usage.output !== undefined) metrics.tokens(model, "output").unsafeUpdate(usage.output, labels)
    return Effect.void
  })

/** Records when the first content of a streamed answer came. */
export const recordFirstChunk = (operation: Operation, seconds: number): Effect.Effect<void> =>
  Metric.update(metricsOf(operation).firstChunk, seconds)

const none: ReadonlyArray<never> = []

/** What records the time of each chunk: found once for a stream, since it runs for every chunk. */
export const chunkRecorder = (operation: Operation): ((seconds: number) => void) => {
  const metric = metricsOf(operation).perChunk
  return (seconds) => metric.unsafeUpdate(seconds, none)
}

/** Runs a tool under its span, and times it. A failure that the model is told shows as one. */
export const executed = <A extends { readonly result: unknown; readonly isError: boolean }, E, R>(
  call: Pick<LlmToolCall, "id" | "name" | "arguments">,
  options: { readonly description?: string | undefined; readonly captureContent: boolean },
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Clock.currentTimeNanos, (started) => {
    const attributes: Attributes = {
      "gen_ai.operation.name": "execute_tool",
      "gen_ai.tool.name": call.name,
      "gen_ai.tool.call.id": call.id,
      "gen_ai.tool.type": "function"
    }
    put(attributes, "gen_ai.tool.description", options.description)
    if (options.captureContent) attributes["gen_ai.tool.call.arguments"] = json(call.arguments)
    return effect.pipe(
      Effect.onExit((exit) =>
        Effect.gen(function* () {
          const error = Exit.isSuccess(exit)
            ? exit.value.isError
              ? "tool_error"
              : undefined
            : Cause.isInterruptedOnly(exit.cause)
              ? "cancelled"
              : "defect"
          const found: Attributes = {}
          put(found, "error.type", error)
          if (options.captureContent && Exit.isSuccess(exit)) {
            found["gen_ai.tool.call.result"] = json(exit.value.result)
          }
          yield* Effect.annotateCurrentSpan(found)
          const took = Number((yield* Clock.currentTimeNanos) - started) / 1e9
          const tags = { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name }
          yield* Metric.update(
            tagged(toolDuration, "s", error === undefined ? tags : { ...tags, "error.type": error }),
            took
          )
        })
      ),
      Effect.withSpan(`execute_tool ${call.name}`, { attributes, captureStackTrace: false })
    )
  })
