/**
 * Ollama's own wire format: requests for `/api/chat`, answers and NDJSON streams of `/api/chat` and `/api/generate`.
 * Decoding is lenient about what it does not know and strict about the end of a stream, a line with `done: true`.
 *
 * @since 0.1.0
 */
import type { ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { Assembly, noUsage } from "../internal/assembly.ts"
import { type CallContext, envelopeOf, errorOf, isRecord, ownError, type Place } from "../internal/classify.ts"
import * as Ndjson from "../internal/ndjson.ts"
import { parse } from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { count, finishOf, type Json, json, resultText, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { contentOf, fromParts, type LlmResponse, type LlmToolCall, type Usage } from "../LlmResponse.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

/**
 * Settings of a model on the server, as Ollama names them. Others that the server knows are allowed.
 *
 * @since 0.1.0
 * @category models
 */
export interface ModelOptions {
  readonly [name: string]: unknown
  /** The context window in tokens. The server's default is far below what most models can. */
  readonly num_ctx?: number | undefined
  readonly num_predict?: number | undefined
  readonly num_keep?: number | undefined
  readonly temperature?: number | undefined
  readonly top_k?: number | undefined
  readonly top_p?: number | undefined
  readonly min_p?: number | undefined
  readonly typical_p?: number | undefined
  readonly seed?: number | undefined
  readonly stop?: ReadonlyArray<string> | undefined
  readonly repeat_last_n?: number | undefined
  readonly repeat_penalty?: number | undefined
  readonly presence_penalty?: number | undefined
  readonly frequency_penalty?: number | undefined
  readonly num_batch?: number | undefined
  readonly num_gpu?: number | undefined
  readonly num_thread?: number | undefined
}

/**
 * What is said with every request that does not say otherwise.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found. */
  readonly provider: string
  readonly options?: ModelOptions | undefined
  /** How long the model stays loaded after the answer: `5m`, or a number of seconds; negative for ever. */
  readonly keepAlive?: string | number | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const base64Url = /^data:[^,]*;base64,(.*)$/is

/** Images and sound, which Ollama takes in the same field; `undefined` for what it takes nowhere. */
const encodeMedia = (part: FilePart): Either.Either<string, string> | undefined => {
  if (!/^(?:image|audio)\//i.test(part.mediaType)) return undefined
  if (part.source.type === "bytes") return Either.right(Encoding.encodeBase64(part.source.bytes))
  const data = base64Url.exec(part.source.url)?.[1]
  return data === undefined
    ? Either.left(`Ollama takes no ${part.mediaType} by URL: send its bytes`)
    : Either.right(data)
}

const encodeUser = (
  message: Extract<ChatMessage, { readonly role: "user" }>
): Either.Either<ReadonlyArray<Json>, string> => {
  let content = ""
  const images: Array<string> = []
  for (const part of message.content) {
    if (part.type === "text") {
      content += part.text
      continue
    }
    const media = encodeMedia(part)
    if (media !== undefined) {
      if (Either.isLeft(media)) return Either.left(media.left)
      images.push(media.right)
    } else if (part.mediaType.startsWith("text/") && part.source.type === "bytes") {
      const text = new TextDecoder().decode(part.source.bytes)
      content += `${content === "" ? "" : "\n\n"}${part.name === undefined ? "" : `${part.name}:\n`}${text}\n\n`
    } else {
      return Either.left(`Ollama takes no ${part.mediaType}, only images, sound and text by their bytes: send its text`)
    }
  }
  return Either.right([{ role: "user", content, ...(images.length === 0 ? {} : { images }) }])
}

/** The arguments of a call that is sent back: the server takes nothing but an object. */
const encodeArguments = (value: unknown): Json => {
  if (isRecord(value)) return value
  return value === undefined || value === null ? {} : { value }
}

const encodeMessage = (message: ChatMessage, dialect: Dialect): Either.Either<ReadonlyArray<Json>, string> => {
  switch (message.role) {
    case "system":
      return Either.right([{ role: "system", content: message.content }])
    case "user":
      return encodeUser(message)
    case "assistant": {
      let content = ""
      let thinking = ""
      const calls: Array<Json> = []
      for (const part of message.content) {
        if (part.type === "text") content += part.text
        else if (part.type === "reasoning") {
          // What another provider signed is for that provider.
          if (part.provider === undefined || part.provider === dialect.provider) thinking += part.text
        } else if (part.type === "tool-call") {
          calls.push({ id: part.id, function: { name: part.name, arguments: encodeArguments(part.arguments) } })
        }
      }
      return Either.right([
        {
          role: "assistant",
          content,
          ...(thinking === "" ? {} : { thinking }),
          ...(calls.length === 0 ? {} : { tool_calls: calls })
        }
      ])
    }
    case "tool":
      return Either.right(
        message.content.map((part) => ({
          role: "tool",
          content: resultText(part.result, part.isError === true),
          tool_name: part.name,
          tool_call_id: part.id
        }))
      )
  }
}

// Definitions that speak of each other are written out as deep as leaves the whole within so many schemas.
const maxSchemas = 1000
const maxReferences = 16

/**
 * The schema of a tool's arguments in the words that the server keeps: it reads properties into a fixed structure that has
 * no references, so these are written out (a recursive one as far as its own name).
 */
const encodeParameters = (root: Json): Json => {
  for (let depth = maxReferences; depth > 1; depth--) {
    const parameters = writtenOut(root, depth, maxSchemas)
    if (parameters !== undefined) return parameters
  }
  return writtenOut(root, 1, Number.POSITIVE_INFINITY) ?? {}
}

/** The schema with its references written out, at most `depth` of them within each other; none if it is too large. */
const writtenOut = (root: Json, depth: number, limit: number): Json | undefined => {
  let count = 0
  const named = (ref: string): unknown => {
    let value: unknown = root
    for (const step of ref.replace(/^#\/?/, "").split("/")) {
      if (step === "") continue
      const key = decodeStep(step)
      value = isRecord(value) && Object.hasOwn(value, key) ? value[key] : undefined
    }
    return value
  }
  const written = (schema: unknown, within: ReadonlyArray<string>): Json => {
    // `true` and `false` are schemas too.
    if (!isRecord(schema) || ++count > limit) return {}
    const ref = schema["$ref"]
    if (typeof ref === "string") {
      const { $ref: _, ...beside } = schema
      if (within.includes(ref) || within.length >= depth) return { type: "object", ...beside }
      return { ...written(named(ref), [...within, ref]), ...beside }
    }
    const out: Record<string, unknown> = {}
    for (const [key, value] of Object.entries(schema)) {
      if (key === "$defs" || key === "definitions" || key === "$schema") continue
      if (key === "properties" && isRecord(value)) {
        out[key] = Object.fromEntries(Object.entries(value).map(([name, each]) => [name, written(each, within)]))
      } else if ((key === "anyOf" || key === "oneOf") && Array.isArray(value)) {
        const before = Array.isArray(out["anyOf"]) ? out["anyOf"] : []
        out["anyOf"] = [...before, ...value.map((each) => written(each, within))]
      } else if (key === "items") {
        out[key] = Array.isArray(value) ? value.map((each) => written(each, within)) : written(value, within)
      } else if (key === "const") out["enum"] = [value]
      else if (key === "allOf" && Array.isArray(value) && value.length === 1) {
        Object.assign(out, written(value[0], within))
      } else out[key] = value
    }
    return out
  }
  const parameters = written(root, [])
  if (count > limit) return undefined
  return {
    type: "object",
    ...parameters,
    properties: isRecord(parameters["properties"]) ? parameters["properties"] : {}
  }
}

const decodeStep = (step: string): string => {
  const plain = step.replace(/~1/g, "/").replace(/~0/g, "~")
  return Either.getOrElse(Encoding.decodeUriComponent(plain), () => plain)
}

const encodeThink = (effort: string | undefined): boolean | string | undefined => {
  switch (effort) {
    case "none":
      return false
    case "minimal":
      return "low"
    case "xhigh":
      return "max"
    default:
      return effort
  }
}

const encodeFormat = (format: NonNullable<LlmRequest["responseFormat"]>): Json | "json" | undefined =>
  format.type === "text" ? undefined : format.type === "json" ? "json" : format.schema

const defined = (record: Json): Json =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined))

const encodeBody = (
  request: LlmRequest,
  options: { readonly model: string; readonly stream: boolean; readonly dialect: Dialect }
): Either.Either<Json, string> => {
  const { dialect } = options
  if (request.messages.length === 0) {
    return Either.left("to a conversation without a message Ollama only loads the model: add one")
  }
  const choice = request.toolChoice
  const tools = choice === "none" ? [] : (request.tools ?? [])
  if (tools.length > 0 && choice !== undefined && choice !== "auto" && choice !== "none") {
    return Either.left(
      "Ollama cannot be made to call a tool: leave toolChoice out, or ask for the arguments by a json-schema responseFormat"
    )
  }
  return Either.map(Either.all(request.messages.map((message) => encodeMessage(message, dialect))), (messages) => {
    const own = request.providerOptions?.[dialect.provider] ?? {}
    const settings = defined({
      ...dialect.options,
      ...defined({
        temperature: request.temperature,
        top_p: request.topP,
        top_k: request.topK,
        frequency_penalty: request.frequencyPenalty,
        presence_penalty: request.presencePenalty,
        num_predict: request.maxTokens,
        seed: request.seed,
        stop: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop
      }),
      ...(isRecord(own["options"]) ? own["options"] : {})
    })
    return {
      model: request.model ?? options.model,
      messages: messages.flat(),
      ...(tools.length === 0
        ? {}
        : {
            tools: tools.map((tool) => ({
              type: "function",
              function: {
                name: tool.name,
                ...(tool.description === undefined ? {} : { description: tool.description }),
                parameters: encodeParameters(tool.parameters)
              }
            }))
          }),
      ...defined({
        format: request.responseFormat === undefined ? undefined : encodeFormat(request.responseFormat),
        think: encodeThink(request.reasoningEffort),
        keep_alive: dialect.keepAlive,
        ...own
      }),
      ...(Object.keys(settings).length === 0 ? {} : { options: settings }),
      // How the answer is decoded depends on it: it is not the caller's to change.
      stream: options.stream
    }
  })
}

/**
 * The JSON body of a request to `/api/chat`. Fails with `InvalidRequest` for what the format cannot carry: images by URL,
 * documents that are not text, a forced tool, no message at all.
 *
 * - `topK`, the penalties, `seed`, `stop` and `maxTokens` go into `options`, as does `providerOptions.ollama.options`,
 *   which wins.
 * - `reasoningEffort` is `think`: `low`, `medium`, `high` and `max` as they are, `none` as false.
 * - A `toolChoice` of `none` leaves the tools out.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect }
): Either.Either<string, LlmError> => {
  const failed = (issue: string) =>
    new LlmError({
      reason: "InvalidRequest",
      method: options.method,
      provider: options.dialect.provider,
      model: request.model ?? options.model,
      issue,
      retryable: false,
      midStream: false
    })
  const text = Either.try({
    try: () => Either.map(encodeBody(request, options), (body) => JSON.stringify(body)),
    catch: () => failed("a tool's arguments or result cannot be written as JSON")
  })
  return Either.flatMap(text, (body) => Either.mapLeft(body, failed))
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const usageOf = (value: Json): Usage | undefined => {
  const input = count(value["prompt_eval_count"])
  const output = count(value["eval_count"])
  return input === undefined && output === undefined ? undefined : { input, output }
}

/** What a line says: the message of `/api/chat`, or the fields of `/api/generate`. */
const saidIn = (value: Json) => {
  const message = isRecord(value["message"]) ? value["message"] : undefined
  const said = message ?? value
  return {
    known: message !== undefined || typeof value["response"] === "string",
    text: message === undefined ? value["response"] : message["content"],
    reasoning: said["thinking"],
    calls: said["tool_calls"]
  }
}

/** Two numbers of 32 bits that differ for different texts (FNV-1a from two beginnings), as letters and digits. */
const digest = (text: string): string => {
  let first = 0x811c9dc5
  let second = 0x9747b28c
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    first = Math.imul(first ^ code, 0x01000193)
    second = Math.imul(second ^ code, 0x5bd1e995)
  }
  return (first >>> 0).toString(36).padStart(7, "0") + (second >>> 0).toString(36).padStart(7, "0")
}

/**
 * Collects the calls of an answer, each of which comes whole. Servers before 0.12 give them no id: it is made of the time
 * of the answer, so that no two calls of a conversation have the same, and the same bytes decode to the same answer.
 */
class Calls {
  private readonly taken = new Map<string, LlmToolCall>()
  private position = 0

  /** The calls of a line, but for those that the server says once more. */
  take(list: unknown, line: Json): ReadonlyArray<LlmToolCall> {
    const calls: Array<LlmToolCall> = []
    for (const entry of Array.isArray(list) ? list : isRecord(list) ? [list] : []) {
      if (!isRecord(entry)) continue
      const inner = isRecord(entry["function"]) ? entry["function"] : entry
      const name = string(inner["name"])
      const given = string(entry["id"]) ?? string(inner["id"])
      if (name === undefined && given === undefined) continue
      const args = inner["arguments"]
      const before = given === undefined ? undefined : this.taken.get(given)
      const made = () =>
        `call_${digest(`${string(line["created_at"]) ?? ""} ${this.position} ${name ?? ""} ${json(args)}`)}`
      const call = callOf(before === undefined ? (given ?? made()) : made(), name ?? "", args)
      // One id for two calls: the second gets another, so that each can be answered.
      if (before !== undefined && before.name === call.name && json(before.arguments) === json(call.arguments)) continue
      this.taken.set(given ?? call.id, before ?? call)
      this.position += 1
      calls.push(call)
    }
    return calls
  }
}

const callOf = (id: string, name: string, args: unknown): LlmToolCall => {
  if (typeof args !== "string") return { type: "tool-call", id, name, arguments: args ?? {} }
  if (args.trim() === "") return { type: "tool-call", id, name, arguments: {} }
  const value = parse(args)
  return value === undefined
    ? { type: "tool-call", id, name, arguments: { __invalid: args }, invalid: args }
    : { type: "tool-call", id, name, arguments: value }
}

/** Servers before 0.1.35 say no reason: `done` alone means that the model had finished. */
const reasonOf = (value: Json): string | undefined => string(value["done_reason"])

/**
 * Decodes a whole answer of `/api/chat` or `/api/generate`. Fails with the server's error if the body is one in spite of
 * its status, and with `MalformedResponse` if it is nothing that the protocol allows. A stream that was not asked for is
 * put together.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...place, issue }))
  const value = parse(body)
  if (value === undefined) {
    if (body.trim() === "") return malformed("the body is empty")
    return decodeLines(body, context) ?? malformed("the body is not JSON")
  }
  const envelope = envelopeOf(value, false)
  if (envelope !== undefined) return Either.left(errorOf(envelope, place))
  if (!isRecord(value)) return malformed("the body is not an object")
  const said = saidIn(value)
  const finishReason = reasonOf(value)
  if (!said.known) return malformed("the body has neither a message nor a response")
  if (value["done"] === false && finishReason === undefined) return malformed("the answer is not done")
  const answer = {
    text: string(said.text) ?? "",
    reasoning: string(said.reasoning) ?? "",
    toolCalls: new Calls().take(said.calls, value)
  }
  return Either.right({
    id: string(value["id"]),
    model: string(value["model"]),
    ...answer,
    content: contentOf(answer),
    finish: finishOf(finishReason ?? "stop", answer.toolCalls.length > 0),
    finishReason,
    usage: usageOf(value) ?? noUsage
  })
}

/** A body of several lines, from a server that streams whatever it is asked; `undefined` if it is none. */
const decodeLines = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> | undefined => {
  const decoder = makeDecoder(context)
  const parts = [...decoder.push(new TextEncoder().encode(body)), ...decoder.end()]
  const failure = decoder.failure()
  if (decoder.lines() === 0) return undefined
  if (failure !== undefined) return failure.midStream ? Either.left(failure) : undefined
  const response = fromParts(parts)
  return response === undefined ? undefined : Either.right(response)
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A decoder for one streamed answer of `/api/chat` or `/api/generate`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder: (context: CallContext) => StreamDecoder = (context) => makeDecoder(context)

const makeDecoder = (context: CallContext): StreamDecoder & { readonly lines: () => number } => {
  const answer = new Assembly(context)
  const calls = new Calls()
  let lines = 0
  let done = false

  const onLine = (value: Json) => {
    answer.id ??= string(value["id"])
    answer.model ??= string(value["model"])
    const said = saidIn(value)
    if (typeof said.reasoning === "string") answer.onReasoning(said.reasoning)
    if (typeof said.text === "string") answer.onText(said.text)
    if (said.calls !== undefined) for (const call of calls.take(said.calls, value)) answer.onCall(call)
    const usage = usageOf(value)
    if (usage !== undefined) answer.usage = usage
    // There are no pings: a line without a word is a token that the server holds back, such as one of a call.
    answer.onWork()
    if (value["done"] !== true) return
    done = true
    answer.finishReason = reasonOf(value)
    answer.finish(finishOf(answer.finishReason ?? "stop", answer.calls.length > 0))
  }

  const reader = Ndjson.make({
    onValue: (value) => {
      if (answer.failure !== undefined || done) return
      lines += 1
      if (!isRecord(value) || value["error"] !== undefined) {
        const envelope = envelopeOf(value, false)
        // What is nothing but an error is no stream that had begun.
        if (envelope !== undefined) return answer.failWith(envelope, lines > 1)
      }
      if (isRecord(value)) onLine(value)
    },
    onJunk: () => {
      if (answer.failure !== undefined || done) return
      if (lines > 0) answer.failBecause("MalformedResponse", { issue: "a line of the stream is not JSON" })
      else answer.failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of JSON" })
    }
  })

  const decoder = StreamDecoders.make(answer, context, {
    read: reader.push,
    readEnd: reader.end,
    over: () => done,
    conclude: () => {
      if (!done) answer.failBecause("StreamTruncated")
    }
  })
  return { ...decoder, lines: () => lines }
}

/**
 * The format as a `Protocol`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dialect: Dialect): Protocol => ({
  encode: (request, options) => encode(request, { ...options, dialect }),
  decode,
  makeStreamDecoder
})
