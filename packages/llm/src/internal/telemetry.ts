/**
 * The names of OpenTelemetry's conventions for generative AI, kept in one place because they still change, and the
 * metrics of a client. Nothing here ever sees what was asked or answered.
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import type { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Finish, Usage } from "../LlmResponse.ts"

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

/** What a failed attempt tells of the call. Its `error.type` is set by core, if the call fails in the end. */
export const errorAttributes = (error: LlmError): Attributes => {
  const attributes = usageAttributes(error.usage ?? {})
  put(attributes, "gen_ai.response.id", error.partial?.id)
  put(attributes, "gen_ai.response.model", error.partial?.model)
  return attributes
}

const doubling = (start: number, factor: number, count: number) =>
  MetricBoundaries.fromIterable(Array.from({ length: count }, (_, power) => start * factor ** power))

const duration = Metric.histogram(
  "gen_ai.client.operation.duration",
  doubling(0.01, 2, 14),
  "How long calls of language models took, in seconds"
).pipe(Metric.tagged("unit", "s"))

const firstChunk = Metric.histogram(
  "gen_ai.client.operation.time_to_first_chunk",
  doubling(0.01, 2, 14),
  "How long streamed answers took until their first content, in seconds"
).pipe(Metric.tagged("unit", "s"))

const tokens = Metric.histogram(
  "gen_ai.client.token.usage",
  doubling(1, 4, 14),
  "Tokens that calls of language models used"
).pipe(Metric.tagged("unit", "{token}"))

const tagsOf = (operation: Operation): Record<string, string> => ({
  "gen_ai.operation.name": operation.operation,
  "gen_ai.provider.name": operation.provider,
  "gen_ai.request.model": operation.model
})

const tagged = <Type, In, Out>(metric: Metric.Metric<Type, In, Out>, tags: Record<string, string>) => {
  let all = metric
  for (const [name, value] of Object.entries(tags)) all = Metric.tagged(all, name, value)
  return all
}

/** Records a call: how long it took, what it used, and the reason if it failed. */
export const record = (
  operation: Operation,
  seconds: number,
  result: { readonly usage: Usage; readonly model: string | undefined; readonly error: string | undefined }
): Effect.Effect<void> => {
  const tags = tagsOf(operation)
  if (result.model !== undefined) tags["gen_ai.response.model"] = result.model
  const failed = result.error === undefined ? tags : { ...tags, "error.type": result.error }
  const count = (type: string, value: number | undefined) =>
    value === undefined ? Effect.void : Metric.update(tagged(tokens, { ...tags, "gen_ai.token.type": type }), value)
  return Effect.all(
    [
      Metric.update(tagged(duration, failed), seconds),
      count("input", result.usage.input),
      count("output", result.usage.output)
    ],
    { discard: true }
  )
}

/** Records when the first content of a streamed answer came. */
export const recordFirstChunk = (operation: Operation, seconds: number): Effect.Effect<void> =>
  Metric.update(tagged(firstChunk, tagsOf(operation)), seconds)
