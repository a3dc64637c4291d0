/**
 * The Chat Completions wire format, which OpenAI, Groq, Ollama's `/v1` and many others speak: requests out, JSON answers,
 * streams and errors in. Decoding is lenient about what it does not know and strict about the end of a stream.
 *
 * @since 0.1.0
 */
import type { ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { CallContext, Envelope, Place, ResponseHeaders } from "../internal/classify.ts"
import { envelopeOf, envelopeOfBody, errorOf, isRecord, ownError } from "../internal/classify.ts"
import * as Sse from "../internal/sse.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Finish, LlmResponse, LlmStreamPart, LlmToolCall, PartialResponse, Usage } from "../LlmResponse.ts"

type Json = Readonly<Record<string, unknown>>

/**
 * Who is asked for what: goes into every error.
 *
 * @since 0.1.0
 * @category models
 */
export type { CallContext, ResponseHeaders }

/**
 * In what the servers differ.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found. */
  readonly provider: string
  /** The field for the limit of the answer's tokens; by default `max_completion_tokens`. */
  readonly maxTokensField?: "max_completion_tokens" | "max_tokens" | undefined
  /** Whether a stream must be asked for its usage; by default true. */
  readonly includeUsage?: boolean | undefined
  /** The field in which reasoning goes back to the server; by default it is left out. */
  readonly reasoningField?: "reasoning" | "reasoning_content" | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const refuse = (dialect: Dialect, request: LlmRequest, model: string, method: string, issue: string): LlmError =>
  new LlmError({
    reason: "InvalidRequest",
    method,
    provider: dialect.provider,
    model: request.model ?? model,
    issue,
    retryable: false,
    midStream: false
  })

const audioFormats: Readonly<Record<string, string>> = {
  "audio/wav": "wav",
  "audio/x-wav": "wav",
  "audio/wave": "wav",
  "audio/mpeg": "mp3",
  "audio/mp3": "mp3"
}

const encodeFile = (part: FilePart): Either.Either<Json, string> => {
  const image = part.mediaType.startsWith("image/")
  if (part.source.type === "url") {
    return image
      ? Either.right({ type: "image_url", image_url: { url: part.source.url } })
      : Either.left(`Chat Completions takes no ${part.mediaType} by URL, only images: send its bytes`)
  }
  const base64 = Encoding.encodeBase64(part.source.bytes)
  const url = `data:${part.mediaType};base64,${base64}`
  if (image) return Either.right({ type: "image_url", image_url: { url } })
  const format = audioFormats[part.mediaType]
  if (format !== undefined) return Either.right({ type: "input_audio", input_audio: { data: base64, format } })
  if (part.mediaType.startsWith("text/")) {
    const text = new TextDecoder().decode(part.source.bytes)
    return Either.right({ type: "text", text: part.name === undefined ? text : `${part.name}:\n${text}` })
  }
  return Either.right({ type: "file", file: { filename: part.name ?? "file", file_data: url } })
}

const json = (value: unknown): string => JSON.stringify(value) ?? "null"

const encodeResult = (result: unknown, isError: boolean): string => {
  if (isError) {
    // The message of an `Error` is no property that JSON writes.
    const said = result instanceof Error ? result.message : result
    return typeof said === "string" ? `Error: ${said}` : json({ error: said ?? null })
  }
  return result === undefined ? "" : typeof result === "string" ? result : json(result)
}

const encodeMessage = (message: ChatMessage, dialect: Dialect): Either.Either<ReadonlyArray<Json>, string> => {
  switch (message.role) {
    case "system":
      return Either.right([{ role: "system", content: message.content }])
    case "user": {
      const [first] = message.content
      // A list of parts must not be empty.
      if (first === undefined) return Either.right([{ role: "user", content: "" }])
      if (message.content.length === 1 && first.type === "text") {
        return Either.right([{ role: "user", content: first.text }])
      }
      const parts = message.content.map((part) =>
        part.type === "text" ? Either.right<Json>({ type: "text", text: part.text }) : encodeFile(part)
      )
      return Either.map(Either.all(parts), (content) => [{ role: "user", content }])
    }
    case "assistant": {
      let text = ""
      let reasoning = ""
      const calls: Array<Json> = []
      for (const part of message.content) {
        if (part.type === "text") text += part.text
        else if (part.type === "reasoning") reasoning += part.text
        else {
          const args = json(part.arguments === undefined ? {} : part.arguments)
          calls.push({ id: part.id, type: "function", function: { name: part.name, arguments: args } })
        }
      }
      return Either.right([
        {
          role: "assistant",
          ...(text === "" && calls.length > 0 ? {} : { content: text }),
          ...(calls.length === 0 ? {} : { tool_calls: calls }),
          ...(dialect.reasoningField === undefined || reasoning === "" ? {} : { [dialect.reasoningField]: reasoning })
        }
      ])
    }
    case "tool":
      return Either.right(
        message.content.map((part) => ({
          role: "tool",
          tool_call_id: part.id,
          content: encodeResult(part.result, part.isError === true)
        }))
      )
  }
}

const encodeFormat = (format: NonNullable<LlmRequest["responseFormat"]>): Json | undefined => {
  switch (format.type) {
    case "text":
      return undefined
    case "json":
      return { type: "json_object" }
    case "json-schema": {
      const { description, name, schema, strict } = format
      return {
        type: "json_schema",
        json_schema: {
          name,
          ...(description === undefined ? {} : { description }),
          schema,
          ...(strict === undefined ? {} : { strict })
        }
      }
    }
  }
}

const encodeBody = (
  request: LlmRequest,
  options: { readonly model: string; readonly stream: boolean; readonly dialect: Dialect }
): Either.Either<Json, string> => {
  const { dialect } = options
  return Either.map(Either.all(request.messages.map((message) => encodeMessage(message, dialect))), (messages) => {
    const body: Record<string, unknown> = { model: request.model ?? options.model, messages: messages.flat() }
    const set = (key: string, value: unknown) => {
      if (value !== undefined) body[key] = value
    }
    set("temperature", request.temperature)
    set("top_p", request.topP)
    set(dialect.maxTokensField ?? "max_completion_tokens", request.maxTokens)
    if (request.stop !== undefined && request.stop.length > 0) set("stop", request.stop)
    set("seed", request.seed)
    set("reasoning_effort", request.reasoningEffort)
    if (request.tools !== undefined && request.tools.length > 0) {
      set(
        "tools",
        request.tools.map((tool) => ({
          type: "function",
          function: {
            name: tool.name,
            ...(tool.description === undefined ? {} : { description: tool.description }),
            parameters: tool.parameters,
            ...(tool.strict === undefined ? {} : { strict: tool.strict })
          }
        }))
      )
      const choice = request.toolChoice
      set("tool_choice", typeof choice === "object" ? { type: "function", function: { name: choice.name } } : choice)
      set("parallel_tool_calls", request.parallelToolCalls)
    }
    if (request.responseFormat !== undefined) set("response_format", encodeFormat(request.responseFormat))
    if (options.stream && dialect.includeUsage !== false) set("stream_options", { include_usage: true })
    // How the answer is decoded depends on `stream`: it is not the caller's to change.
    return { ...body, ...request.providerOptions?.[dialect.provider], stream: options.stream }
  })
}

/**
 * The JSON body of a request. Fails with `InvalidRequest` for what this protocol cannot carry, such as a tool's result
 * that is not JSON or a document by URL.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: { readonly model: string; readonly stream: boolean; readonly dialect: Dialect; readonly method: string }
): Either.Either<string, LlmError> => {
  const failed = (issue: string) => refuse(options.dialect, request, options.model, options.method, issue)
  const text = Either.try({
    try: () => Either.map(encodeBody(request, options), (body) => JSON.stringify(body)),
    catch: () => failed("a tool's arguments or result cannot be written as JSON")
  })
  return Either.flatMap(text, (body) => Either.mapLeft(body, failed))
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const stops = new Set(["stop", "end_turn", "stop_sequence", "eos_token", "eos", "completed"])
const lengths = new Set(["length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "model_length"])
const calls = new Set(["tool_calls", "function_call", "tool_use"])
const filters = new Set([
  "content_filter",
  "refusal",
  "safety",
  "recitation",
  "blocklist",
  "prohibited_content",
  "spii"
])

const finishOf = (reason: string | undefined, hasCalls: boolean): Finish => {
  const name = (reason ?? "").toLowerCase()
  if (stops.has(name)) return hasCalls ? "tool-calls" : "stop"
  if (lengths.has(name)) return "length"
  if (calls.has(name)) return "tool-calls"
  if (filters.has(name)) return "content-filter"
  return name === "pause_turn" ? "pause" : "other"
}

const string = (value: unknown): string | undefined => (typeof value === "string" && value !== "" ? value : undefined)

/** A number, which some servers write as a string. */
const count = (value: unknown): number | undefined => {
  if (typeof value === "string" && /^\d+(?:\.\d+)?$/.test(value)) return Number(value)
  return typeof value === "number" && Number.isFinite(value) ? value : undefined
}

const noUsage: Usage = {}

const usageOf = (value: unknown): Usage | undefined => {
  if (!isRecord(value)) return undefined
  const input = isRecord(value["prompt_tokens_details"]) ? value["prompt_tokens_details"] : {}
  const output = isRecord(value["completion_tokens_details"]) ? value["completion_tokens_details"] : {}
  const usage: Usage = {
    input: count(value["prompt_tokens"]),
    output: count(value["completion_tokens"]),
    cachedInput: count(input["cached_tokens"]) ?? count(value["cached_tokens"]),
    cacheWrite: count(input["cache_write_tokens"]),
    reasoning: count(output["reasoning_tokens"])
  }
  return usage.input === undefined && usage.output === undefined ? undefined : usage
}

const usageOfChunk = (chunk: Json): Usage | undefined => {
  const usage = usageOf(chunk["usage"])
  if (usage !== undefined) return usage
  const groq = chunk["x_groq"]
  return isRecord(groq) ? usageOf(groq["usage"]) : undefined
}

/** The text and the reasoning of `content`, which some servers send as a part or a list of them. */
const contentOf = (
  content: unknown
): { readonly text: string; readonly reasoning: string; readonly refusal: string } => {
  let text = ""
  let reasoning = ""
  let refusal = ""
  for (const part of Array.isArray(content) ? content : [content]) {
    if (typeof part === "string") text += part
    if (!isRecord(part)) continue
    if (part["type"] === "refusal") refusal += string(part["refusal"]) ?? ""
    else if (part["type"] === "thinking" || part["type"] === "reasoning") {
      const inner = part["thinking"] ?? part["reasoning"] ?? part["text"]
      reasoning += typeof inner === "string" ? inner : contentOf(inner).text
    } else text += string(part["text"]) ?? ""
  }
  return { text, reasoning, refusal }
}

/** A call while it is assembled. */
interface OpenCall {
  id: string
  name: string
  args: string
  /** The last piece of the arguments: looking at the whole would flatten a string that still grows. */
  last: string
  index: number | undefined
  readonly position: number
}

const wholeCall = (call: OpenCall): LlmToolCall => {
  // A name that makes the call answerable where the server gave it none.
  const id = call.id === "" ? `call_${call.position}` : call.id
  if (call.args.trim() === "") return { type: "tool-call", id, name: call.name, arguments: {} }
  const value = Sse.parse(call.args)
  if (value === undefined) {
    return { type: "tool-call", id, name: call.name, arguments: { __invalid: call.args }, invalid: call.args }
  }
  return { type: "tool-call", id, name: call.name, arguments: value }
}

const isWhole = (call: OpenCall): boolean => Sse.parse(call.args) !== undefined

/** Whether the arguments are an object that has ended, so that nothing can be added to them. */
const isClosed = (call: OpenCall): boolean => call.last.trimEnd().endsWith("}") && isWhole(call)

/**
 * Assembles calls from deltas: by id if there is one, else by index, else the last one. Ids and names may come late or be
 * repeated, servers reuse indexes, arguments may be an object.
 */
class Calls {
  readonly all: Array<OpenCall> = []

  /** The call that a piece without a known id goes on with, as far as its index tells. */
  private candidate(index: number | undefined, anonymous: boolean): OpenCall | undefined {
    const last = this.all.at(-1)
    if (index === undefined) return last
    const same = this.all.findLast((call) => call.index === index)
    // Of a server that leaves out the index of a call's first piece only.
    return same === undefined && anonymous && last?.index === undefined ? last : same
  }

  private find(id: string, index: number | undefined, name: string, text: string): OpenCall | undefined {
    if (id !== "") {
      const same = this.all.find((call) => call.id === id)
      if (same !== undefined) return same
    }
    const candidate = this.candidate(index, id === "" && name === "")
    if (candidate === undefined) return undefined
    const otherName = name !== "" && candidate.name !== "" && name !== candidate.name
    // An id that was not seen yet is a new call, unless it is the late id of a call that has none.
    if (id !== "") {
      const late = candidate.id === "" && !otherName && (name === "" || candidate.name === "" || !isClosed(candidate))
      return late ? candidate : undefined
    }
    // Named again after whole arguments, it is another call of a server that gives neither ids nor indexes.
    const another = name !== "" && (otherName || text.trim() !== "") && isClosed(candidate)
    return another ? undefined : candidate
  }

  /** Takes one entry of `tool_calls`; gives the call and the new text of its arguments. */
  add(entry: Json): { readonly call: OpenCall; readonly text: string } | undefined {
    const inner = isRecord(entry["function"]) ? entry["function"] : {}
    const id = string(entry["id"]) ?? ""
    const index = count(entry["index"])
    const name = string(inner["name"]) ?? ""
    const args = inner["arguments"]
    const text = typeof args === "string" ? args : args === undefined || args === null ? "" : json(args)
    let call = this.find(id, index, name, text)
    if (call === undefined) {
      if (id === "" && name === "" && text === "") return undefined
      call = { id, name, args: "", last: "", index, position: this.all.length }
      this.all.push(call)
    }
    if (call.id === "") call.id = id
    if (call.name === "") call.name = name
    call.index ??= index
    call.args += text
    if (text !== "") call.last = text
    return { call, text }
  }
}

const entriesOf = (message: Json): ReadonlyArray<Json> => {
  const list = message["tool_calls"]
  const entries = Array.isArray(list) ? list.filter(isRecord) : isRecord(list) ? [list] : []
  // The form that `tool_calls` replaced; proxies send both.
  const legacy = message["function_call"]
  return entries.length === 0 && isRecord(legacy) ? [{ function: legacy }] : entries
}

const reasoningOf = (message: Json): string | undefined =>
  string(message["reasoning"]) ?? string(message["reasoning_content"]) ?? string(message["thinking"])

/**
 * Decodes a JSON answer. Fails with the provider's error if the body is one in spite of its status, and with
 * `MalformedResponse` if it is nothing that the protocol allows.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...place, issue }))
  const value = Sse.parse(body)
  if (value === undefined) return malformed(body.trim() === "" ? "the body is empty" : "the body is not JSON")
  const record = isRecord(value) ? value : undefined
  const choices = record === undefined ? undefined : record["choices"]
  const choice = firstChoice(choices)
  if (record === undefined || choice === undefined) {
    const envelope = envelopeOf(value, false)
    if (envelope !== undefined) return Either.left(errorOf(envelope, place))
    return malformed(Array.isArray(choices) ? "the body has no choice" : "the body has no choices")
  }
  const message = isRecord(choice["message"])
    ? choice["message"]
    : isRecord(choice["delta"])
      ? choice["delta"]
      : undefined
  const error = envelopeOf({ error: choice["error"] ?? record["error"] }, false)
  if (error !== undefined) return Either.left(errorOf(error, place))
  const finishReason = string(choice["finish_reason"])
  // An answer that a filter withheld comes without a message.
  if (message === undefined && typeof choice["text"] !== "string" && finishReason === undefined) {
    return malformed("the choice has no message")
  }
  const said = message ?? { content: choice["text"] }
  const parts = contentOf(said["content"])
  const assembled: Array<OpenCall> = entriesOf(said).flatMap((entry, position) => {
    const one = new Calls()
    one.add(entry)
    return one.all.map((call) => ({ ...call, position }))
  })
  const toolCalls = assembled.map(wholeCall)
  return Either.right({
    id: string(record["id"]),
    model: string(record["model"]),
    text: typeof said["content"] === "string" ? said["content"] : parts.text,
    reasoning: reasoningOf(said) ?? parts.reasoning,
    refusal: string(said["refusal"]) ?? string(parts.refusal),
    toolCalls,
    finish: finishOf(finishReason, toolCalls.length > 0),
    finishReason,
    usage: usageOfChunk(record) ?? noUsage
  })
}

/** The choice that is decoded: the one of index 0. */
const firstChoice = (choices: unknown): Json | undefined => {
  if (!Array.isArray(choices)) return undefined
  for (const choice of choices) {
    if (isRecord(choice) && (count(choice["index"]) ?? 0) === 0) return choice
  }
  return undefined
}

/**
 * The error in a response of status 400 or above. `now` (milliseconds) is what dates in `retry-after` are counted from.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeError = (
  response: { readonly status: number; readonly headers: ResponseHeaders; readonly body: string; readonly now: number },
  context: CallContext
): LlmError =>
  errorOf(envelopeOfBody(response.body, response.headers["content-type"]), {
    context,
    status: response.status,
    midStream: false,
    hadContent: false,
    headers: response.headers,
    now: response.now
  })

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Decodes one streamed answer that is pushed in as bytes. Mutable, since it runs for every chunk.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamDecoder {
  /** Takes bytes; gives the parts that they complete. */
  readonly push: (bytes: Uint8Array) => ReadonlyArray<LlmStreamPart>
  /** The body has ended: gives the last parts. */
  readonly end: () => ReadonlyArray<LlmStreamPart>
  /** Why the stream failed, once it has: nothing that comes after counts. */
  readonly failure: () => LlmError | undefined
  /** The connection broke: the error to fail with, or `undefined` if the answer was already whole. */
  readonly broken: (cause: LlmError) => LlmError | undefined
  /** Whether the finish has been seen, so that nothing but usage can come. */
  readonly finished: () => boolean
  /** Whether the last word of the stream has been seen. */
  readonly done: () => boolean
  /** What has arrived so far. */
  readonly partial: () => PartialResponse
  /** What the provider has said of the usage so far. */
  readonly usage: () => Usage
}

/**
 * A decoder for one streamed answer.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  let out: Array<LlmStreamPart> = []
  let id: string | undefined
  let model: string | undefined
  let text = ""
  let reasoning = ""
  let refusal: string | undefined
  let finishReason: string | undefined
  let usage: Usage = noUsage
  let failure: LlmError | undefined
  let done = false
  let ended = false
  let events = 0
  const assembled = new Calls()

  const hadContent = () => text !== "" || reasoning !== "" || refusal !== undefined || assembled.all.length > 0

  const partial = (): PartialResponse => ({
    id,
    model,
    text,
    reasoning,
    refusal,
    toolCalls: assembled.all.filter(isWhole).map(wholeCall)
  })

  const place = (midStream: boolean): Place => ({
    context,
    status: 200,
    midStream,
    hadContent: hadContent(),
    partial: partial(),
    usage
  })

  const fail = (error: LlmError) => {
    failure ??= error
  }

  const finish = () => {
    if (ended) return
    ended = true
    for (const call of assembled.all) out.push(wholeCall(call))
    out.push({
      type: "finish",
      finish: finishOf(finishReason, assembled.all.length > 0),
      finishReason,
      usage,
      model,
      id
    })
  }

  const onText = (delta: string) => {
    text += delta
    out.push({ type: "text-delta", text: delta })
  }

  const onReasoning = (delta: string) => {
    reasoning += delta
    out.push({ type: "reasoning-delta", text: delta })
  }

  const onRefusal = (delta: string) => {
    refusal = (refusal ?? "") + delta
    out.push({ type: "refusal-delta", text: delta })
  }

  const onDelta = (delta: Json) => {
    const content = delta["content"]
    const thought = reasoningOf(delta)
    if (thought !== undefined) onReasoning(thought)
    if (typeof content === "string") {
      if (content !== "") onText(content)
    } else if (typeof content === "object" && content !== null) {
      const parts = contentOf(content)
      if (thought === undefined && parts.reasoning !== "") onReasoning(parts.reasoning)
      if (parts.text !== "") onText(parts.text)
      if (parts.refusal !== "") onRefusal(parts.refusal)
    }
    const refused = string(delta["refusal"])
    if (refused !== undefined) onRefusal(refused)
    if (delta["tool_calls"] !== undefined || delta["function_call"] !== undefined) {
      for (const entry of entriesOf(delta)) {
        const added = assembled.add(entry)
        if (added === undefined) continue
        const { call } = added
        out.push({ type: "tool-call-delta", index: call.position, id: call.id, name: call.name, text: added.text })
      }
    }
  }

  const onChunk = (chunk: Json) => {
    id ??= string(chunk["id"])
    model ??= string(chunk["model"])
    const counted = usageOfChunk(chunk)
    if (counted !== undefined) usage = counted
    const choices = chunk["choices"]
    const choice = firstChoice(choices)
    if (choice !== undefined) {
      // A server that does not stream sends the whole message; one that repeats it at the end adds nothing.
      const delta = choice["delta"] ?? (hadContent() ? undefined : choice["message"])
      if (isRecord(delta)) onDelta(delta)
      const reason = string(choice["finish_reason"])
      if (reason !== undefined) finishReason = reason
    }
  }

  const errorIn = (value: unknown, event: string): Envelope | undefined => {
    const envelope = envelopeOf(value, event === "error")
    if (envelope !== undefined || !isRecord(value)) return envelope
    const groq = value["x_groq"]
    const choice = firstChoice(value["choices"])
    return (
      (isRecord(groq) ? envelopeOf({ error: groq["error"] }, false) : undefined) ??
      (choice === undefined ? undefined : envelopeOf({ error: choice["error"] }, false))
    )
  }

  const onValue = (value: unknown, event: string, raw: boolean) => {
    events += 1
    // Only what could hold an error is looked through for one.
    if (!isRecord(value) || event === "error" || value["choices"] === undefined || hasErrorField(value)) {
      const envelope = errorIn(value, event)
      if (envelope !== undefined) {
        // What stands beside the error in the same chunk (the usage, say) still counts.
        if (isRecord(value) && value["choices"] !== undefined) onChunk(value)
        return fail(errorOf(envelope, place(!(raw && events === 1))))
      }
    }
    if (isRecord(value)) onChunk(value)
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (failure !== undefined || done) return
    if (data === "[DONE]" || data.trim() === "[DONE]") {
      events += 1
      done = true
      return
    }
    const value = Sse.parse(data)
    if (value !== undefined) return onValue(value, event, raw)
    // A server that leaves out the blank lines between its events.
    if (data.includes("\n")) {
      const lines = data.split("\n").filter((line) => line.trim() !== "")
      if (lines.length > 1 && lines.every((line) => line.trim() === "[DONE]" || Sse.parse(line) !== undefined)) {
        for (const line of lines) onEvent(event, line, raw, complete)
        return
      }
    }
    if (!complete) return
    if (event === "error") {
      return fail(errorOf(envelopeOfBody(data, undefined), place(true)))
    }
    if (data.trim() === "") return
    events += 1
    fail(ownError("MalformedResponse", { ...place(true), issue: "an event of the stream is not JSON" }))
  }

  const reader = Sse.make({ onEvent })

  const take = (): ReadonlyArray<LlmStreamPart> => {
    const parts = out
    out = []
    return parts
  }

  const conclude = () => {
    if (failure !== undefined || ended) return
    if (finishReason !== undefined) return finish()
    fail(
      events === 0 && reader.hasJunk()
        ? ownError("MalformedResponse", { ...place(false), issue: "the body is not a stream of events" })
        : ownError("StreamTruncated", place(true))
    )
  }

  return {
    push: (bytes) => {
      if (failure !== undefined || done) return []
      reader.push(bytes)
      if (done) conclude()
      return take()
    },
    end: () => {
      if (failure === undefined && !done) reader.end()
      conclude()
      return take()
    },
    failure: () => failure,
    broken: (cause) => {
      if (failure !== undefined) return failure
      if (finishReason !== undefined) return undefined
      const at = place(true)
      failure = new LlmError({
        ...context,
        reason: "StreamTruncated",
        status: 200,
        retryable: !at.hadContent,
        midStream: true,
        partial: at.partial,
        usage: at.usage,
        cause: cause.cause ?? cause
      })
      return failure
    },
    finished: () => finishReason !== undefined,
    done: () => done || ended,
    partial,
    usage: () => usage
  }
}

const hasErrorField = (value: Json): boolean => {
  if (value["error"] !== undefined || value["object"] === "error" || value["type"] === "error") return true
  const groq = value["x_groq"]
  if (isRecord(groq) && groq["error"] !== undefined) return true
  const choices = value["choices"]
  const first: unknown = Array.isArray(choices) ? choices[0] : undefined
  return isRecord(first) && first["error"] !== undefined
}

/**
 * Decodes the body of a streamed answer. Text that has arrived is always handed on before the stream fails.
 *
 * A stream that ends before its finish fails with `StreamTruncated`; one that breaks or stalls after it is whole, its usage
 * perhaps unknown. `lastWaitMillis` (by default 2 seconds) is how long the usage and the end are waited for after the
 * finish. A `decoder` of one's own can be looked at while the stream runs.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeStream = (
  body: Stream.Stream<Uint8Array, LlmError>,
  context: CallContext,
  options?: { readonly lastWaitMillis?: number | undefined; readonly decoder?: StreamDecoder | undefined }
): Stream.Stream<LlmStreamPart, LlmError> =>
  Stream.unwrapScoped(
    Effect.map(Stream.toPull(body), (pull) => {
      const decoder = options?.decoder ?? makeStreamDecoder(context)
      const lastWait = options?.lastWaitMillis ?? 2000
      let over = false
      let deadline: number | undefined

      const emit = (
        parts: ReadonlyArray<LlmStreamPart>
      ): Effect.Effect<Chunk.Chunk<LlmStreamPart>, Option.Option<LlmError>> => {
        if (parts.length > 0) return Effect.succeed(Chunk.unsafeFromArray(parts))
        const failure = decoder.failure()
        if (failure !== undefined) return Effect.fail(Option.some(failure))
        return over ? Effect.fail(Option.none()) : next
      }

      const onEnd = () => {
        over = true
        return emit(decoder.end())
      }

      const onBytes = (chunk: Chunk.Chunk<Uint8Array>) => {
        const parts: Array<LlmStreamPart> = []
        for (const bytes of chunk) {
          for (const part of decoder.push(bytes)) parts.push(part)
        }
        return emit(parts)
      }

      const onError = (error: Option.Option<LlmError>) => {
        if (Option.isNone(error)) return onEnd()
        over = true
        const failure = decoder.broken(error.value)
        return failure === undefined ? emit(decoder.end()) : Effect.fail(Option.some(failure))
      }

      // After the finish the server has little left to say: one that keeps the connection open must not hold us.
      const last = Effect.flatMap(Clock.currentTimeMillis, (now) => {
        deadline ??= now + lastWait
        return Effect.matchEffect(Effect.timeoutOption(pull, Math.max(0, deadline - now)), {
          onFailure: onError,
          onSuccess: (chunk) => (Option.isNone(chunk) ? onEnd() : onBytes(chunk.value))
        })
      })

      const next: Effect.Effect<Chunk.Chunk<LlmStreamPart>, Option.Option<LlmError>> = Effect.suspend(() => {
        const failure = decoder.failure()
        if (failure !== undefined) return Effect.fail(Option.some(failure))
        if (over) return Effect.fail(Option.none())
        if (decoder.finished() || decoder.done()) return last
        return Effect.matchEffect(pull, { onFailure: onError, onSuccess: onBytes })
      })

      return Stream.repeatEffectChunkOption(next)
    })
  )
