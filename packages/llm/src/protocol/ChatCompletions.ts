/**
 * The Chat Completions wire format, which OpenAI, Groq, Ollama's `/v1` and many others speak: requests out, JSON answers,
 * streams and errors in. Decoding is lenient about what it does not know and strict about the end of a stream.
 *
 * @since 0.1.0
 */
import type { ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { Assembly, noUsage } from "../internal/assembly.ts"
import { besideChoices, inMessage } from "../internal/citations.ts"
import {
  type CallContext,
  type Envelope,
  envelopeOf,
  envelopeOfBody,
  errorOf,
  isRecord,
  ownError,
  type Place
} from "../internal/classify.ts"
import { cacheFields, fileNameOf, isFileId, makeRetention, marked, marksOf } from "../internal/openAiHints.ts"
import { Sources, type Span } from "../internal/sources.ts"
import * as Sse from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { count, finishOf, type Json, json, resultText, said, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { contentOf, type LlmResponse, type LlmSource, type LlmToolCall, type Usage } from "../LlmResponse.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

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
  /** Whether the server knows OpenAI's fields for the cache of prompts; by default they are left out. */
  readonly promptCache?: boolean | undefined
  /** Fields of every request, unless the request's `providerOptions` say otherwise. */
  readonly fields?: Readonly<Record<string, unknown>> | undefined
  /**
   * The last word on the body of a request, before the caller's own fields are put in: for what a server calls otherwise or
   * does not know. What it cannot carry is a `Left` that says what to do instead.
   */
  readonly adapt?: ((body: Json, request: LlmRequest) => Either.Either<Json, string>) | undefined
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

const audioFormats: ReadonlyMap<string, string> = new Map([
  ["audio/wav", "wav"],
  ["audio/x-wav", "wav"],
  ["audio/wave", "wav"],
  ["audio/vnd.wave", "wav"],
  ["audio/mpeg", "mp3"],
  ["audio/mp3", "mp3"]
])

const encodeFile = (part: FilePart): Either.Either<Json, string> => {
  const image = part.mediaType.startsWith("image/")
  if (part.source.type === "url") {
    if (isFileId(part.source.url)) return Either.right({ type: "file", file: { file_id: part.source.url } })
    return image
      ? Either.right({ type: "image_url", image_url: { url: part.source.url } })
      : Either.left(`Chat Completions takes no ${part.mediaType} by URL, only images: send its bytes`)
  }
  const base64 = Encoding.encodeBase64(part.source.bytes)
  const url = `data:${part.mediaType};base64,${base64}`
  if (image) return Either.right({ type: "image_url", image_url: { url } })
  const format = audioFormats.get(part.mediaType.toLowerCase().replace(/\s*;.*$/s, ""))
  if (format !== undefined) return Either.right({ type: "input_audio", input_audio: { data: base64, format } })
  if (part.mediaType.startsWith("text/")) {
    const text = new TextDecoder().decode(part.source.bytes)
    return Either.right({ type: "text", text: part.name === undefined ? text : `${part.name}:\n${text}` })
  }
  return Either.right({ type: "file", file: { filename: fileNameOf(part.name, part.mediaType), file_data: url } })
}

const encodeMessage = (
  message: ChatMessage,
  dialect: Dialect,
  mark: boolean
): Either.Either<ReadonlyArray<Json>, string> => {
  switch (message.role) {
    case "system": {
      const { content } = message
      return Either.right([
        { role: "system", content: mark ? marked([{ type: "text", text: content }], true) : content }
      ])
    }
    case "user": {
      const [first] = message.content
      // A list of parts must not be empty.
      if (first === undefined) return Either.right([{ role: "user", content: "" }])
      if (message.content.length === 1 && first.type === "text" && !mark) {
        return Either.right([{ role: "user", content: first.text }])
      }
      const parts = message.content.map((part) =>
        part.type === "text" ? Either.right<Json>({ type: "text", text: part.text }) : encodeFile(part)
      )
      return Either.map(Either.all(parts), (content) => [{ role: "user", content: marked(content, mark) }])
    }
    case "assistant": {
      let text = ""
      let reasoning = ""
      const calls: Array<Json> = []
      for (const part of message.content) {
        if (part.type === "text") text += part.text
        else if (part.type === "reasoning") {
          // What another provider signed is for that provider.
          if (part.provider === undefined || part.provider === dialect.provider) reasoning += part.text
        } else if (part.type === "tool-call") {
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
          content: resultText(part.result, part.isError === true)
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
  const model = request.model ?? options.model
  const marks = dialect.promptCache === true ? marksOf(request, model) : undefined
  const encoded = request.messages.map((message, index) => encodeMessage(message, dialect, marks?.has(index) === true))
  return Either.flatMap(Either.all(encoded), (messages) => {
    const body: Record<string, unknown> = { model, messages: messages.flat() }
    const set = (key: string, value: unknown) => {
      if (value !== undefined) body[key] = value
    }
    set("temperature", request.temperature)
    set("top_p", request.topP)
    set("frequency_penalty", request.frequencyPenalty)
    set("presence_penalty", request.presencePenalty)
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
    if (dialect.promptCache === true) Object.assign(body, cacheFields(request.promptCache))
    if (options.stream && dialect.includeUsage !== false) set("stream_options", { include_usage: true })
    // How the answer is decoded depends on `stream`: it is not the caller's to change.
    const adapted = dialect.adapt === undefined ? Either.right<Json>(body) : dialect.adapt(body, request)
    const own = { ...dialect.fields, ...said(request.providerOptions?.[dialect.provider]) }
    return Either.map(adapted, (known) => ({
      ...known,
      ...own,
      // Those that the provider runs itself, beside those of the request.
      ...(Array.isArray(known["tools"]) && Array.isArray(own["tools"])
        ? { tools: [...known["tools"], ...own["tools"]] }
        : {}),
      stream: options.stream
    }))
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
  options: EncodeOptions & { readonly dialect: Dialect }
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

/** The text and the reasoning of a message's content, which some servers send as a part or a list of them. */
const saidIn = (content: unknown): { readonly text: string; readonly reasoning: string; readonly refusal: string } => {
  let text = ""
  let reasoning = ""
  let refusal = ""
  for (const part of Array.isArray(content) ? content : [content]) {
    if (typeof part === "string") text += part
    if (!isRecord(part)) continue
    if (part["type"] === "refusal") refusal += string(part["refusal"]) ?? ""
    else if (part["type"] === "thinking" || part["type"] === "reasoning") {
      const inner = part["thinking"] ?? part["reasoning"] ?? part["text"]
      reasoning += typeof inner === "string" ? inner : saidIn(inner).text
    } else text += string(part["text"]) ?? ""
  }
  return { text, reasoning, refusal }
}

/** Follows the brackets of a JSON text that comes in pieces. */
class Nesting {
  private depth = 0
  private began = false
  private quoted = false
  private escaped = false

  add(text: string): void {
    for (let at = 0; at < text.length; at++) {
      const char = text[at]
      if (this.escaped) this.escaped = false
      else if (this.quoted) {
        if (char === "\\") this.escaped = true
        else if (char === '"') this.quoted = false
      } else if (char === '"') this.quoted = true
      else if (char === "{" || char === "[") {
        this.began = true
        this.depth += 1
      } else if (char === "}" || char === "]") this.depth -= 1
    }
  }

  /** Every bracket that was opened is closed again. */
  get isClosed(): boolean {
    return this.began && this.depth === 0 && !this.quoted
  }
}

/** A call while it is assembled. */
interface OpenCall {
  id: string
  name: string
  args: string
  /** The arguments as far as their brackets tell: looking at the whole would flatten a string that still grows. */
  readonly nesting: Nesting
  spoilt: boolean
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
const isClosed = (call: OpenCall): boolean => {
  if (call.spoilt || !call.nesting.isClosed) return false
  // What is no JSON with all its brackets closed will never be, and is not looked at again.
  call.spoilt = !isWhole(call)
  return !call.spoilt
}

/**
 * Assembles calls from deltas: by id if there is one, else by index, else the last one. Ids and names may come late or be
 * repeated, servers reuse indexes, arguments may be an object.
 */
class Calls {
  readonly all: Array<OpenCall> = []
  private readonly byId = new Map<string, OpenCall>()
  /** The last call of each index. */
  private readonly byIndex = new Map<number, OpenCall>()

  /** The call that a piece without a known id goes on with, as far as its index tells. */
  private candidate(index: number | undefined, anonymous: boolean): OpenCall | undefined {
    const last = this.all.at(-1)
    if (index === undefined) return last
    const same = this.byIndex.get(index)
    // Of a server that leaves out the index of a call's first piece only.
    return same === undefined && anonymous && last?.index === undefined ? last : same
  }

  private find(id: string, index: number | undefined, name: string, text: string): OpenCall | undefined {
    if (id !== "") {
      const same = this.byId.get(id)
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
    // A tool of free text has its own place, and says what it was given in other words.
    const inner = recordOf(entry["function"]) ?? recordOf(entry["custom"]) ?? {}
    const id = string(entry["id"]) ?? ""
    const index = count(entry["index"])
    const name = string(inner["name"]) ?? ""
    const args = inner["arguments"] ?? inner["input"]
    const text = typeof args === "string" ? args : args === undefined || args === null ? "" : json(args)
    let call = this.find(id, index, name, text)
    if (call === undefined) {
      if (id === "" && name === "" && text === "") return undefined
      call = { id, name, args: "", nesting: new Nesting(), spoilt: false, index, position: this.all.length }
      this.all.push(call)
    }
    if (call.id === "") call.id = id
    if (call.name === "") call.name = name
    call.index ??= index
    if (call.id !== "" && !this.byId.has(call.id)) this.byId.set(call.id, call)
    if (call.index !== undefined && call !== this.byIndex.get(call.index)) {
      const other = this.byIndex.get(call.index)
      if (other === undefined || other.position < call.position) this.byIndex.set(call.index, call)
    }
    call.args += text
    call.nesting.add(text)
    return { call, text }
  }
}

const recordOf = (value: unknown): Json | undefined => (isRecord(value) ? value : undefined)

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
  const parts = saidIn(said["content"])
  const assembled: Array<OpenCall> = entriesOf(said).flatMap((entry, position) => {
    const one = new Calls()
    one.add(entry)
    return one.all.map((call) => ({ ...call, position }))
  })
  const toolCalls = assembled.map(wholeCall)
  const answer = {
    text: typeof said["content"] === "string" ? said["content"] : parts.text,
    reasoning: reasoningOf(said) ?? parts.reasoning,
    refusal: string(said["refusal"]) ?? string(parts.refusal),
    toolCalls
  }
  const sources = new Sources(() => answer.text)
  inMessage(said, (source, span) => sources.add(source, span))
  besideChoices(record, (source) => sources.add(source))
  sources.settle()
  return Either.right({
    id: string(record["id"]),
    model: string(record["model"]),
    ...answer,
    ...sources.field,
    content: contentOf(answer),
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

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A decoder for one streamed answer.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  const answer = new Assembly(context)
  const assembled = new Calls()
  let done = false
  let events = 0

  const wholeCalls = () => assembled.all.filter(isWhole).map(wholeCall)

  const finish = () => {
    if (answer.ended) return
    for (const call of assembled.all) answer.onCall(wholeCall(call))
    answer.finish(finishOf(answer.finishReason, assembled.all.length > 0))
  }

  const cite = (source: LlmSource, span?: Span) => answer.onSource(source, span)

  const onDelta = (delta: Json) => {
    const content = delta["content"]
    const thought = reasoningOf(delta)
    // Reasoning that is encrypted, tools that the server runs: they are said in fields of its own.
    const silent = (thought ?? "") === "" && (content ?? "") === ""
    if (silent && Object.keys(delta).some((name) => isWork(name, delta[name]))) answer.onWork()
    if (thought !== undefined) answer.onReasoning(thought)
    if (typeof content === "string") answer.onText(content)
    else if (typeof content === "object" && content !== null) {
      const parts = saidIn(content)
      if (thought === undefined) answer.onReasoning(parts.reasoning)
      answer.onText(parts.text)
      answer.onRefusal(parts.refusal)
    }
    const refused = string(delta["refusal"])
    if (refused !== undefined) answer.onRefusal(refused)
    if (delta["tool_calls"] !== undefined || delta["function_call"] !== undefined) {
      for (const entry of entriesOf(delta)) {
        const added = assembled.add(entry)
        if (added === undefined) continue
        const { call } = added
        answer.onCallDelta(call.position, call.id, call.name, added.text)
      }
    }
    if (delta["annotations"] !== undefined || delta["executed_tools"] !== undefined) inMessage(delta, cite)
  }

  const onChunk = (chunk: Json) => {
    answer.id ??= string(chunk["id"])
    answer.model ??= string(chunk["model"])
    const counted = usageOfChunk(chunk)
    if (counted !== undefined) answer.usage = counted
    const choice = firstChoice(chunk["choices"])
    if (choice !== undefined) {
      // A server that does not stream sends the whole message; one that repeats it at the end adds nothing.
      const delta = choice["delta"] ?? (answer.hadContent ? undefined : choice["message"])
      if (isRecord(delta)) onDelta(delta)
      const reason = string(choice["finish_reason"])
      if (reason !== undefined) answer.finishReason = reason
    }
    if (chunk["citations"] !== undefined || chunk["search_results"] !== undefined) besideChoices(chunk, cite)
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
        return answer.failWith(envelope, !(raw && events === 1), wholeCalls())
      }
    }
    if (isRecord(value)) onChunk(value)
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (answer.failure !== undefined || done) return
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
    if (event === "error") return answer.failWith(envelopeOfBody(data, undefined), true, wholeCalls())
    if (data.trim() === "") return
    events += 1
    answer.failBecause("MalformedResponse", { issue: "an event of the stream is not JSON", calls: wholeCalls() })
  }

  const reader = Sse.make({ onEvent })

  return StreamDecoders.make(answer, context, {
    read: reader.push,
    readEnd: reader.end,
    over: () => done,
    conclude: () => {
      if (answer.finishReason !== undefined) return finish()
      if (events === 0 && reader.hasJunk()) {
        answer.failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of events" })
      } else answer.failBecause("StreamTruncated", { calls: wholeCalls() })
    },
    finished: () => answer.finishReason !== undefined,
    waiting: wholeCalls
  })
}

/** What every delta may have, and what is looked at by itself. */
const usual = new Set(["role", "name", "id", "type", "content", "refusal", "tool_calls", "function_call"])

const isWork = (name: string, value: unknown): boolean =>
  !usual.has(name) &&
  (typeof value === "string"
    ? value !== ""
    : typeof value === "object" && value !== null && Object.keys(value).length > 0)

const hasErrorField = (value: Json): boolean => {
  if (value["error"] !== undefined || value["object"] === "error" || value["type"] === "error") return true
  const groq = value["x_groq"]
  if (isRecord(groq) && groq["error"] !== undefined) return true
  const choices = value["choices"]
  const first: unknown = Array.isArray(choices) ? choices[0] : undefined
  return isRecord(first) && first["error"] !== undefined
}

/**
 * The format as a `Protocol`, in one server's dialect.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dialect: Dialect): Protocol => {
  const retention = makeRetention()
  return {
    encode: (request, options) =>
      encode(retention.fit(request, request.model ?? options.model), { ...options, dialect }),
    decode,
    makeStreamDecoder,
    optionalProperties: "nullable",
    ...(dialect.promptCache === true
      ? { amend: (error, request, { model }) => retention.amend(error, request, model) }
      : {})
  }
}
