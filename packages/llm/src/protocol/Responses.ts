/**
 * The Responses wire format of OpenAI and Azure: requests out, JSON answers, streams and errors in. Nothing is left with
 * the server unless the caller says so: what it must see again (its reasoning, encrypted, and the items of its own tools)
 * goes back with the conversation. Decoding is lenient about what it does not know and strict about the end of a stream.
 *
 * @since 0.1.0
 */
import type { AssistantPart, ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { Assembly } from "../internal/assembly.ts"
import { ofAnnotation } from "../internal/citations.ts"
import {
  type CallContext,
  type Envelope,
  envelopeOf,
  envelopeOfBody,
  errorOf,
  isRecord,
  ownError
} from "../internal/classify.ts"
import { cacheFields, fileNameOf, isFileId, makeRetention, marked, marksOf } from "../internal/openAiHints.ts"
import * as Sse from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { count, finishOf, type Json, json, resultText, said, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmResponse, LlmToolCall, Usage } from "../LlmResponse.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

/**
 * In what the servers differ.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found, and whose parts of a conversation go back. */
  readonly provider: string
  /** Whether the server keeps the answer, unless the request's `providerOptions` say otherwise; by default false. */
  readonly store?: boolean | undefined
  /**
   * Whether reasoning that is not encrypted goes back as it was read, which servers of open models want; by default it is
   * left out, since OpenAI accepts none.
   */
  readonly rawReasoning?: boolean | undefined
  /** The role of a system message that is not among the instructions; by default `developer`, as OpenAI has it. */
  readonly systemRole?: "developer" | "system" | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const refuse = (dialect: Dialect, model: string, method: string, issue: string): LlmError =>
  new LlmError({
    reason: "InvalidRequest",
    method,
    provider: dialect.provider,
    model,
    issue,
    retryable: false,
    midStream: false
  })

// Models that do not reason refuse to be asked for encrypted reasoning, and to be sent any.
const unreasoning = /^(?:.*\/|ft:)?(?:gpt-(?:3|4(?!\d))|chatgpt-|gpt-5-chat|computer-use|davinci|babbage)/i

const encodeFile = ({ mediaType, name, source }: FilePart): Either.Either<Json, string> => {
  if (mediaType.startsWith("audio/") || mediaType.startsWith("video/")) {
    return Either.left(
      `the Responses API takes no ${mediaType}: send its transcript, or use Chat Completions with a model that hears`
    )
  }
  const image = mediaType.startsWith("image/")
  if (source.type === "url") {
    const { url } = source
    if (image) return Either.right({ type: "input_image", detail: "auto", ...at("image_url", url) })
    return Either.right({ type: "input_file", ...at("file_url", url) })
  }
  if (mediaType.startsWith("text/")) {
    const text = new TextDecoder().decode(source.bytes)
    return Either.right({ type: "input_text", text: name === undefined ? text : `${name}:\n${text}` })
  }
  const url = `data:${mediaType};base64,${Encoding.encodeBase64(source.bytes)}`
  if (image) return Either.right({ type: "input_image", detail: "auto", image_url: url })
  return Either.right({ type: "input_file", filename: fileNameOf(name, mediaType), file_data: url })
}

const at = (field: string, url: string): Json => (isFileId(url) ? { file_id: url } : { [field]: url })

const encodeUser = (
  content: Extract<ChatMessage, { readonly role: "user" }>["content"],
  mark: boolean
): Either.Either<Json, string> => {
  const [first] = content
  if (first === undefined) return Either.right({ role: "user", content: "" })
  if (content.length === 1 && first.type === "text" && !mark) return Either.right({ role: "user", content: first.text })
  const parts = content.map((part) =>
    part.type === "text" ? Either.right<Json>({ type: "input_text", text: part.text }) : encodeFile(part)
  )
  return Either.map(Either.all(parts), (all) => ({ role: "user", content: marked(all, mark) }))
}

const encodeSystem = (text: string, role: string, mark: boolean): Json => ({
  role,
  content: mark ? marked([{ type: "input_text", text }], true) : text
})

const maxCallId = 64

/** Ids that other providers made up may be longer than is allowed here: the same one becomes the same shorter one. */
const callIdOf = (id: string): string => {
  if (id.length <= maxCallId) return id
  let hash = 0xcbf29ce484222325n
  for (let index = 0; index < id.length; index++) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(id.charCodeAt(index))) * 0x100000001b3n)
  }
  return `${id.slice(0, maxCallId - 17)}_${hash.toString(16).padStart(16, "0")}`
}

/** An assistant's message as the items it was made of. */
const encodeAssistant = (
  content: ReadonlyArray<AssistantPart>,
  dialect: Dialect,
  options: { readonly stored: boolean; readonly reasons: boolean }
): ReadonlyArray<Json> => {
  const items: Array<Json> = []
  let message: { text: string; readonly phase: string | undefined } | undefined
  let reasoning:
    | { readonly id: string | undefined; readonly texts: Array<string>; signature: string | undefined }
    | undefined

  const flush = () => {
    if (message !== undefined && message.text !== "") {
      const { phase, text } = message
      items.push({ role: "assistant", content: text, ...(phase === undefined ? {} : { phase }) })
    }
    message = undefined
    if (reasoning !== undefined) {
      const { id, signature, texts } = reasoning
      const name = id === undefined ? {} : { id }
      const summary = texts.map((text) => ({ type: "summary_text", text }))
      if (signature !== undefined) items.push({ type: "reasoning", ...name, summary, encrypted_content: signature })
      else if (options.stored && id !== undefined) items.push({ type: "reasoning", id, summary })
      else if (dialect.rawReasoning === true && texts.length > 0) {
        const content = texts.map((text) => ({ type: "reasoning_text", text }))
        items.push({ type: "reasoning", ...name, summary: [], content })
      }
    }
    reasoning = undefined
  }

  for (const part of content) {
    const own = part.provider === dialect.provider
    switch (part.type) {
      case "text": {
        const phase = own ? part.signature : undefined
        if (message === undefined || message.phase !== phase) {
          flush()
          message = { text: "", phase }
        }
        message.text += part.text
        break
      }
      case "reasoning": {
        if (!own || !options.reasons) break
        if (reasoning === undefined || part.id === undefined || reasoning.id !== part.id) {
          flush()
          reasoning = { id: part.id, texts: [], signature: undefined }
        }
        if (part.text !== "") reasoning.texts.push(part.text)
        reasoning.signature = part.signature ?? reasoning.signature
        break
      }
      case "tool-call": {
        flush()
        const rest = own && part.signature !== undefined ? Sse.parse(part.signature) : undefined
        items.push({
          ...(isRecord(rest) ? rest : {}),
          type: "function_call",
          call_id: callIdOf(part.id),
          name: part.name,
          arguments: json(part.arguments === undefined ? {} : part.arguments)
        })
        break
      }
      case "provider":
        if (!own || !isRecord(part.data)) break
        flush()
        items.push(part.data)
        break
    }
  }
  flush()
  return items
}

const encodeInput = (
  request: LlmRequest,
  options: {
    readonly dialect: Dialect
    readonly stored: boolean
    readonly reasons: boolean
    readonly model: string
    readonly instructed: boolean
  }
): Either.Either<Json, string> => {
  const { messages } = request
  const marks = marksOf(request, options.model)
  const role = options.dialect.systemRole ?? "developer"
  // What the system says first are the instructions, unless there is nothing else to be the input. For JSON of any shape
  // the API demands that the input speaks of it, and does not count the instructions.
  let leading = 0
  while (messages[leading]?.role === "system") leading += 1
  const free = request.responseFormat?.type === "json"
  if (options.instructed || free || leading === messages.length) leading = 0
  for (let index = 0; index < leading; index++) if (marks.has(index)) leading = 0

  const instructions: Array<string> = []
  const input: Array<Json> = []
  for (const [index, message] of messages.entries()) {
    switch (message.role) {
      case "system":
        if (index < leading) instructions.push(message.content)
        else input.push(encodeSystem(message.content, role, marks.has(index)))
        break
      case "user": {
        const item = encodeUser(message.content, marks.has(index))
        if (Either.isLeft(item)) return Either.left(item.left)
        input.push(item.right)
        break
      }
      case "assistant":
        input.push(...encodeAssistant(message.content, options.dialect, options))
        break
      case "tool":
        for (const part of message.content) {
          const output = resultText(part.result, part.isError === true)
          input.push({ type: "function_call_output", call_id: callIdOf(part.id), output })
        }
        break
    }
  }
  return Either.right({ input, ...(instructions.length === 0 ? {} : { instructions: instructions.join("\n\n") }) })
}

const encodeFormat = (format: NonNullable<LlmRequest["responseFormat"]>): Json => {
  switch (format.type) {
    case "text":
      return {}
    case "json":
      return { format: { type: "json_object" } }
    case "json-schema": {
      const { description, name, schema, strict } = format
      return {
        format: {
          type: "json_schema",
          name,
          ...(description === undefined ? {} : { description }),
          schema,
          ...(strict === undefined ? {} : { strict })
        }
      }
    }
  }
}

const recordOf = (value: unknown): Json => (isRecord(value) ? value : {})

interface OwnOptions {
  readonly dialect: Dialect
  readonly reasons?: boolean | undefined
}

const encodeBody = (request: LlmRequest, options: EncodeOptions & OwnOptions): Either.Either<Json, string> => {
  const { dialect } = options
  const model = request.model ?? options.model
  const reasons = options.reasons ?? !unreasoning.test(model)
  if (request.stop !== undefined && request.stop.length > 0) {
    return Either.left("the Responses API has no stop sequences: use Chat Completions, or leave them out")
  }
  const {
    reasoning: ownReasoning,
    text: ownText,
    tools: ownTools,
    verbosity,
    ...own
  }: Json = said(request.providerOptions?.[dialect.provider])
  const store = typeof own["store"] === "boolean" ? own["store"] : dialect.store === true
  const encoded = encodeInput(request, {
    dialect,
    stored: store,
    reasons,
    model,
    instructed: own["instructions"] !== undefined
  })

  return Either.map(encoded, (input) => {
    const body: Record<string, unknown> = { model, ...input, store }
    const set = (key: string, value: unknown) => {
      if (value !== undefined) body[key] = value
    }
    const setAny = (key: string, value: Json) => {
      if (Object.keys(value).length > 0) body[key] = value
    }
    // Without it, reasoning could not be sent back to a server that keeps nothing.
    if (!store && reasons) set("include", ["reasoning.encrypted_content"])
    set("temperature", request.temperature)
    set("top_p", request.topP)
    set("max_output_tokens", request.maxTokens)
    setAny("reasoning", {
      ...(request.reasoningEffort === undefined ? {} : { effort: request.reasoningEffort }),
      ...recordOf(ownReasoning)
    })
    setAny("text", {
      ...(request.responseFormat === undefined ? {} : encodeFormat(request.responseFormat)),
      ...(verbosity === undefined ? {} : { verbosity }),
      ...recordOf(ownText)
    })
    const tools: ReadonlyArray<unknown> = [
      ...(request.tools ?? []).map((tool) => ({
        type: "function",
        name: tool.name,
        ...(tool.description === undefined ? {} : { description: tool.description }),
        parameters: tool.parameters,
        // Where nothing is said, this API may enforce the schema and make every property a required one.
        strict: tool.strict === true
      })),
      ...(Array.isArray(ownTools) ? ownTools : [])
    ]
    if (tools.length > 0) {
      set("tools", tools)
      const choice = request.toolChoice
      set("tool_choice", typeof choice === "object" ? { type: "function", name: choice.name } : choice)
      set("parallel_tool_calls", request.parallelToolCalls)
    }
    // How the answer is decoded depends on `stream`: it is not the caller's to change.
    return { ...body, ...cacheFields(request.promptCache), ...own, stream: options.stream }
  })
}

const written = (
  request: LlmRequest,
  options: EncodeOptions & OwnOptions,
  shape: (body: Json) => Json
): Either.Either<string, LlmError> => {
  const failed = (issue: string) => refuse(options.dialect, request.model ?? options.model, options.method, issue)
  const text = Either.try({
    try: () => Either.map(encodeBody(request, options), (body) => JSON.stringify(shape(body))),
    catch: () => failed("a tool's arguments or result cannot be written as JSON")
  })
  return Either.flatMap(text, (body) => Either.mapLeft(body, failed))
}

/**
 * The JSON body of a request. Fails with `InvalidRequest` for what this protocol cannot carry, such as a tool's result
 * that is not JSON, stop sequences, or sounds.
 *
 * - System messages at the beginning are the instructions, later ones stay where they are.
 * - A file whose URL is an id (`file-…`) is one that the server has already.
 * - `providerOptions` go in as they are; `tools` are added to those of the request, `reasoning` and `text` are merged with
 *   what the request says, and `verbosity` is put into `text`. `include` replaces what is asked for by default: the
 *   encrypted reasoning, of models that reason, where the server keeps no answers.
 * - `reasons` says whether the model does; by default it is told by the model's name.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect; readonly reasons?: boolean | undefined }
): Either.Either<string, LlmError> => written(request, options, (body) => body)

const counted = [
  "model",
  "input",
  "instructions",
  "previous_response_id",
  "conversation",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "text",
  "reasoning",
  "truncation"
]

/**
 * The JSON body with which `/responses/input_tokens` is asked how long a request is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encodeCount = (
  request: LlmRequest,
  options: { readonly model: string; readonly dialect: Dialect }
): Either.Either<string, LlmError> =>
  // Where an answer stops is nothing to its request's length.
  written({ ...request, stop: undefined }, { ...options, stream: false, method: "countTokens" }, (body) =>
    Object.fromEntries(counted.flatMap((key) => (body[key] === undefined ? [] : [[key, body[key]]])))
  )

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const usageOf = (value: unknown): Usage | undefined => {
  if (!isRecord(value)) return undefined
  const input = recordOf(value["input_tokens_details"])
  const output = recordOf(value["output_tokens_details"])
  const usage: Usage = {
    input: count(value["input_tokens"]),
    output: count(value["output_tokens"]),
    cachedInput: count(input["cached_tokens"]),
    cacheWrite: count(input["cache_write_tokens"]),
    reasoning: count(output["reasoning_tokens"])
  }
  return usage.input === undefined && usage.output === undefined ? undefined : usage
}

// Codes of failed answers that name a fault of the request.
const faulty =
  /^(?:invalid_(?:prompt|image|base64)|image_(?!content_policy)|unsupported_image|empty_image|failed_to_download_image|data_residency)/i

/** An error, with what its code means in this API where the table of all providers does not know it. */
const known = (envelope: Envelope): Envelope => {
  const codes = envelope.codes.filter((code) => code !== "error")
  if (codes.some((code) => faulty.test(code))) return { ...envelope, codes: [...codes, "invalid_request_error"] }
  if (codes.includes("vector_store_timeout")) return { ...envelope, codes: [...codes, "server_error"] }
  if (codes.includes("bio_policy")) return { ...envelope, codes: [...codes, "content_policy_violation"] }
  return { ...envelope, codes }
}

const silent: Envelope = { message: undefined, codes: [], status: undefined, quotaIds: [], retryDelay: undefined }

const list = (value: unknown): ReadonlyArray<Json> => (Array.isArray(value) ? value.filter(isRecord) : [])

/** One item of an answer while it comes. */
interface Item {
  readonly id: string
  readonly index: number | undefined
  readonly type: string
  /** Counts the items. */
  readonly order: number
  /** Counts the calls. */
  readonly position: number
  callId: string
  name: string
  args: string
  /** The parts of a message of which something has come, with where in the answer's text they begin. */
  readonly parts: Map<number, number>
  /** Some of them were text. */
  spoke: boolean
  /** The part of the reasoning that is being written: summaries count from 0 up, its own words from -1 down. */
  thought: number | undefined
  summarised: boolean
  reasoned: boolean
  done: boolean
}

/** The items of an answer, found by name and by place without looking through them all. */
class Items {
  readonly all: Array<Item> = []
  private readonly named = new Map<string, Array<Item>>()
  private readonly placed = new Map<string, Array<Item>>()

  add(item: Item): void {
    this.all.push(item)
    if (item.id !== "") put(this.named, `${item.type} ${item.id}`, item)
    put(this.placed, `${item.type} ${item.index}`, item)
  }

  private of(type: string, id: string): ReadonlyArray<Item> {
    return (id === "" ? undefined : this.named.get(`${type} ${id}`)) ?? none
  }

  private at(type: string, index: number | undefined): ReadonlyArray<Item> {
    return this.placed.get(`${type} ${index}`) ?? none
  }

  /** The last of a name, or else of a place, that has not ended. */
  open(type: string, id: string, index: number | undefined): Item | undefined {
    return this.openNamed(type, id) ?? this.at(type, index).findLast(isOpen)
  }

  openNamed(type: string, id: string): Item | undefined {
    return this.of(type, id).findLast(isOpen)
  }

  /** The last of a name, or else of a place, though it may have ended. */
  last(type: string, id: string, index: number | undefined): Item | undefined {
    return this.of(type, id).at(-1) ?? this.at(type, index).at(-1)
  }

  /** Whether the last of a name or a place has ended, so that nothing can be added to it. */
  hasEnded(type: string, id: string, index: number | undefined): boolean {
    const named = this.of(type, id).at(-1)
    const placed = index === undefined ? undefined : this.at(type, index).at(-1)
    const last = named === undefined || (placed !== undefined && placed.order > named.order) ? placed : named
    return last?.done === true
  }

  /** Whether one of a name or a place has ended. */
  had(type: string, id: string, index: number): boolean {
    return this.of(type, id).some(isDone) || this.at(type, index).some(isDone)
  }

  /** Whether the very item has ended: told by its name and its place. */
  repeats(type: string, id: string, index: number | undefined): boolean {
    return this.of(type, id).some((item) => item.done && item.index === index)
  }
}

const none: ReadonlyArray<Item> = []
const isDone = (item: Item) => item.done
const isOpen = (item: Item) => !item.done

const put = (map: Map<string, Array<Item>>, key: string, item: Item) => {
  const list = map.get(key)
  if (list === undefined) map.set(key, [item])
  else list.push(item)
}

/** Reads an answer, whether it comes whole or in events. Mutable, since it runs for every chunk. */
class Reader {
  readonly answer: Assembly
  /** The last word on the answer has come. */
  over = false
  private readonly items = new Items()
  private readonly callIds = new Set<string>()
  private latest: Item | undefined
  private calls = 0
  private messages = false
  private thoughts = false
  private readonly provider: string

  constructor(context: CallContext) {
    this.answer = new Assembly(context)
    this.provider = context.provider
  }

  /** Whose piece this is: by id, or by index of servers that name the same item anew in every event. */
  private itemOf(event: Json, type: string): Item {
    const id = event["item_id"]
    const index = event["output_index"]
    const { latest } = this
    if (latest !== undefined && !latest.done && latest.type === type && latest.id === id && latest.index === index) {
      return latest
    }
    const name = string(id) ?? ""
    const place = count(index)
    this.latest = this.items.open(type, name, place) ?? this.open(name, place, type)
    return this.latest
  }

  /** Whether the item of an event has ended already, so that nothing can be added to it. */
  private isDone(event: Json, type: string): boolean {
    return this.items.hasEnded(type, string(event["item_id"]) ?? "", count(event["output_index"]))
  }

  private open(id: string, index: number | undefined, type: string): Item {
    this.answer.close()
    const item: Item = {
      id,
      index,
      type,
      order: this.items.all.length,
      position: type === "function_call" ? this.calls++ : 0,
      callId: "",
      name: "",
      args: "",
      parts: new Map(),
      spoke: false,
      thought: undefined,
      summarised: false,
      reasoned: false,
      done: false
    }
    this.items.add(item)
    return item
  }

  /** An item has begun. */
  onAdded(event: Json): void {
    const raw = event["item"]
    if (!isRecord(raw)) return
    this.answer.onWork()
    const item = this.open(string(raw["id"]) ?? "", count(event["output_index"]), typeOf(raw))
    this.latest = item
    if (item.type !== "function_call") return
    this.describe(item, raw)
    item.args = argumentsOf(raw["arguments"])
    this.answer.onCallDelta(item.position, item.callId, item.name, item.args)
  }

  private describe(item: Item, raw: Json): void {
    item.callId = string(raw["call_id"]) ?? item.callId
    item.name = string(raw["name"]) ?? item.name
  }

  /** More of a message. */
  onText(event: Json): void {
    const { delta } = event
    if (typeof delta !== "string" || delta === "") return
    const item = this.itemOf(event, "message")
    const place = count(event["content_index"]) ?? 0
    if (!item.parts.has(place)) item.parts.set(place, this.answer.textLength)
    item.spoke = true
    this.messages = true
    this.answer.onText(delta)
  }

  onRefusal(event: Json): void {
    const { delta } = event
    if (typeof delta !== "string" || delta === "") return
    this.itemOf(event, "message").parts.set(count(event["content_index"]) ?? 0, this.answer.textLength)
    this.messages = true
    this.answer.onRefusal(delta)
  }

  /** A part of a message is whole: it counts if nothing of it had come. */
  private fill(item: Item, place: number, part: Json): void {
    if (item.parts.has(place)) return
    const begin = this.answer.textLength
    const refusal = string(part["refusal"])
    if (refusal !== undefined && part["type"] === "refusal") this.answer.onRefusal(refusal)
    else if (isText(part) && part.text !== "") {
      item.spoke = true
      this.answer.onText(part.text)
    } else return
    this.messages = true
    item.parts.set(place, begin)
  }

  /** Where a piece of text comes from. It is counted from the beginning of its part. */
  onAnnotation(event: Json): void {
    this.answer.onWork()
    const { latest } = this
    const item =
      this.items.last("message", string(event["item_id"]) ?? "", count(event["output_index"])) ??
      (latest?.type === "message" ? latest : undefined)
    const begin = item?.parts.get(count(event["content_index"]) ?? 0)
    // Nothing of the part has come: it will begin where the text ends now.
    const next = item === undefined || item.done ? undefined : this.answer.textLength
    this.cite([event["annotation"]], begin ?? next)
  }

  private cite(annotations: unknown, begin: number | undefined): void {
    if (!Array.isArray(annotations)) return
    for (const annotation of annotations) {
      const citation = ofAnnotation(annotation, begin)
      if (citation !== undefined) this.answer.onSource(citation.source, citation.span)
    }
  }

  onPart(event: Json, part: Json): void {
    const type = part["type"]
    if (type !== "output_text" && type !== "text" && type !== "refusal") return
    if (this.isDone(event, "message")) return
    const item = this.itemOf(event, "message")
    const place = count(event["content_index"]) ?? 0
    this.fill(item, place, part)
    this.cite(part["annotations"], item.parts.get(place))
  }

  /** More of the reasoning; each part of it is a block of its own, so that it can go back as it was. */
  private think(item: Item, place: number, text: string): void {
    if (text === "") return
    if (item.thought !== undefined && item.thought !== place) {
      if (item.id !== "") this.answer.sign("reasoning", { id: item.id })
      this.answer.close()
    }
    item.thought = place
    if (place >= 0) item.summarised = true
    else item.reasoned = true
    this.thoughts = true
    this.answer.onReasoning(text)
  }

  onThought(event: Json, summary: boolean): void {
    const { delta } = event
    const text = isRecord(delta) ? (string(delta["text"]) ?? "") : (string(delta) ?? "")
    if (text === "") return
    this.think(this.itemOf(event, "reasoning"), thoughtPlace(event, summary), text)
  }

  onThoughtDone(event: Json, summary: boolean): void {
    const text = string(event["text"])
    if (text === undefined || this.isDone(event, "reasoning")) return
    const item = this.itemOf(event, "reasoning")
    if (summary ? !item.summarised : !item.reasoned) this.think(item, thoughtPlace(event, summary), text)
  }

  onArguments(event: Json): void {
    const text = string(event["delta"])
    if (text === undefined) return
    const item = this.itemOf(event, "function_call")
    item.args += text
    this.answer.onCallDelta(item.position, item.callId, item.name, text)
  }

  onArgumentsDone(event: Json): void {
    if (this.isDone(event, "function_call")) return
    const item = this.itemOf(event, "function_call")
    item.name = item.name === "" ? (string(event["name"]) ?? "") : item.name
    const args = argumentsOf(event["arguments"])
    if (args !== "") item.args = args
  }

  /** An item is whole. */
  onDone(raw: unknown, index: number | undefined): void {
    if (!isRecord(raw)) return
    const type = typeOf(raw)
    const id = string(raw["id"]) ?? ""
    const open = index === undefined ? this.items.openNamed(type, id) : this.items.open(type, id, index)
    if (open === undefined && this.items.repeats(type, id, index)) return
    const item = open ?? this.open(id, index, type)
    item.done = true
    this.answer.onWork()
    switch (type) {
      case "message":
        this.onMessage(item, raw)
        break
      case "reasoning":
        this.onReasoning(item, raw)
        break
      case "function_call":
        this.onCall(item, raw)
        break
      default:
        this.answer.onProviderPart(raw)
    }
  }

  private onMessage(item: Item, raw: Json): void {
    const { content } = raw
    if (typeof content === "string") this.fill(item, 0, { type: "output_text", text: content })
    list(content).forEach((part, place) => {
      this.fill(item, place, part)
      this.cite(part["annotations"], item.parts.get(place))
    })
    const phase = string(raw["phase"])
    if (phase !== undefined && item.spoke) this.answer.sign("text", { signature: phase })
    this.answer.close()
  }

  private onReasoning(item: Item, raw: Json): void {
    const { reasoned, summarised } = item
    if (!summarised) {
      list(raw["summary"]).forEach((part, place) => {
        this.think(item, place, string(part["text"]) ?? "")
      })
    }
    if (!reasoned) {
      list(raw["content"]).forEach((part, place) => {
        this.think(item, -1 - place, string(part["text"]) ?? "")
      })
    }
    const id = item.id === "" ? string(raw["id"]) : (string(raw["id"]) ?? item.id)
    const signature = string(raw["encrypted_content"])
    if (id !== undefined || signature !== undefined) this.answer.sign("reasoning", { id, signature })
    this.thoughts = true
    this.answer.close()
  }

  private onCall(item: Item, raw: Json): void {
    this.describe(item, raw)
    const args = argumentsOf(raw["arguments"])
    if (args !== "") item.args = args
    this.deliver({ ...wholeCall(item), ...this.rest(raw) })
  }

  private deliver(call: LlmToolCall): void {
    this.callIds.add(call.id)
    this.answer.onCall(call)
  }

  /** What must go back with a call beside its arguments. */
  private rest(raw: Json): { readonly signature?: string; readonly provider?: string } {
    const kept: Record<string, unknown> = {}
    for (const key of ["namespace", "caller"]) {
      if (raw[key] !== undefined && raw[key] !== null) kept[key] = raw[key]
    }
    return Object.keys(kept).length === 0 ? {} : { signature: json(kept), provider: this.provider }
  }

  /** The answer itself, as far as it is known. */
  onState(response: unknown): void {
    if (!isRecord(response)) return
    const { answer } = this
    answer.id ??= string(response["id"])
    answer.model ??= string(response["model"])
    const usage = usageOf(response["usage"])
    if (usage !== undefined) answer.usage = usage
  }

  /**
   * The answer as it ended: what it has of which nothing had come counts. Gives the error if it failed, or else has the
   * reason of its end in the assembly.
   */
  onEnd(response: Json, ended: string | undefined): Envelope | undefined {
    this.over = true
    this.onState(response)
    const status = string(response["status"])
    const settled = ["completed", "incomplete", "failed", "cancelled"]
    const says = ended === undefined || (ended !== "failed" && settled.includes(status ?? ""))
    const state = says ? (status ?? ended) : ended
    const envelope = envelopeOf({ error: response["error"] }, state === "failed")
    // Of a stream that failed, what had come stays as it was.
    if (envelope === undefined || ended === undefined) this.complete(list(response["output"]))
    if (envelope !== undefined || state === "failed") return known(envelope ?? silent)
    const details = response["incomplete_details"]
    this.answer.finishReason = (isRecord(details) ? string(details["reason"]) : undefined) ?? state
    return undefined
  }

  private complete(output: ReadonlyArray<Json>): void {
    const { messages, thoughts } = this
    if (messages) {
      this.completeText(output)
      this.completeSources(output)
    }
    for (const [place, raw] of output.entries()) {
      const type = typeOf(raw)
      const delivered =
        type === "message" ? messages : type === "reasoning" ? thoughts : this.hasDelivered(raw, type, place)
      if (!delivered) this.onDone(raw, place)
    }
  }

  /** The words that a server has only told at the end, though it had told others as they came. */
  private completeText(output: ReadonlyArray<Json>): void {
    let text = ""
    for (const item of output) {
      if (typeOf(item) !== "message") continue
      for (const part of list(item["content"])) if (isText(part)) text += part.text
    }
    if (text.length <= this.answer.textLength) return
    const told = this.answer.partial().text
    if (!text.startsWith(told)) return
    this.answer.close()
    this.answer.onText(text.slice(told.length))
  }

  /** The sources that a server has only told at the end. */
  private completeSources(output: ReadonlyArray<Json>): void {
    let begin = 0
    for (const item of output) {
      if (typeOf(item) !== "message") continue
      for (const part of list(item["content"])) {
        this.cite(part["annotations"], begin)
        if (isText(part)) begin += part.text.length
      }
    }
  }

  /** Whether an item has come in an event of its own. */
  private hasDelivered(raw: Json, type: string, place: number): boolean {
    const callId = string(raw["call_id"])
    return (
      this.items.had(type, string(raw["id"]) ?? "", place) ||
      (type === "function_call" && callId !== undefined && this.callIds.has(callId))
    )
  }

  /** The answer is whole: calls whose end was not told are whole too. */
  finish(): void {
    for (const item of this.items.all) {
      if (item.done || item.type !== "function_call") continue
      item.done = true
      const call = wholeCall(item)
      if (!this.callIds.has(call.id) && (item.callId !== "" || item.name !== "")) this.deliver(call)
    }
    this.answer.finish(finishOf(this.answer.finishReason, this.answer.calls.length > 0))
  }
}

const typeOf = (raw: Json): string => {
  const type = string(raw["type"]) ?? (raw["content"] === undefined ? "" : "message")
  // What others said is not the model's to say: it only goes back.
  return type === "message" && raw["role"] !== undefined && raw["role"] !== "assistant" ? "message of another" : type
}

const isText = (part: Json): part is Json & { readonly text: string } =>
  typeof part["text"] === "string" && (part["type"] === "output_text" || part["type"] === "text")

const thoughtPlace = (event: Json, summary: boolean): number =>
  summary ? (count(event["summary_index"]) ?? 0) : -1 - (count(event["content_index"]) ?? 0)

const argumentsOf = (value: unknown): string =>
  typeof value === "string" ? value : value === undefined || value === null ? "" : json(value)

const wholeCall = (item: Item): LlmToolCall => {
  const { args, name } = item
  const id = item.callId === "" ? (item.id === "" ? `call_${item.position}` : item.id) : item.callId
  if (args.trim() === "") return { type: "tool-call", id, name, arguments: {} }
  const value = Sse.parse(args)
  return value === undefined
    ? { type: "tool-call", id, name, arguments: { __invalid: args }, invalid: args }
    : { type: "tool-call", id, name, arguments: value }
}

/** Whether a JSON value is an answer as it stands when nothing is streamed. */
const isResponse = (value: unknown): value is Json => isRecord(value) && Array.isArray(value["output"])

/**
 * Decodes a JSON answer. Fails with the provider's error if the body is one in spite of its status, or an answer that
 * failed, and with `MalformedResponse` if it is nothing that the protocol allows.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const reader = new Reader(context)
  const { answer } = reader
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...answer.place(false), issue }))
  const value = Sse.parse(body)
  if (value === undefined) return malformed(body.trim() === "" ? "the body is empty" : "the body is not JSON")
  const failed = isRecord(value) && value["object"] === "response" && value["status"] === "failed"
  if (!isResponse(value) && !failed) {
    const envelope = envelopeOf(value, false)
    const bare = { context, status: 200, midStream: false, hadContent: false }
    return envelope === undefined ? malformed("the body has no output") : Either.left(errorOf(known(envelope), bare))
  }
  const envelope = reader.onEnd(value, undefined)
  if (envelope !== undefined) return Either.left(errorOf(envelope, answer.place(false)))
  reader.finish()
  const { id, model, reasoning, refusal, text, toolCalls } = answer.partial()
  return Either.right({
    id,
    model,
    text,
    reasoning,
    refusal,
    toolCalls,
    ...answer.cited,
    content: answer.content(),
    finish: finishOf(answer.finishReason, toolCalls.length > 0),
    finishReason: answer.finishReason,
    usage: answer.usage
  })
}

/**
 * Decodes what `/responses/input_tokens` answers: the length of the request in tokens.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeCount = (body: string, context: CallContext): Either.Either<number, LlmError> => {
  const place = { context, status: 200, midStream: false, hadContent: false }
  const value = Sse.parse(body)
  const tokens = isRecord(value) ? count(value["input_tokens"]) : undefined
  if (tokens !== undefined) return Either.right(tokens)
  const envelope = envelopeOf(value, false)
  if (envelope !== undefined) return Either.left(errorOf(known(envelope), place))
  return Either.left(ownError("MalformedResponse", { ...place, issue: "the body has no input_tokens" }))
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** Events by which a server keeps a connection open, by whatever name. */
const ping = /(?:ping|keep[-_]?alive|heartbeat)$/

/**
 * A decoder for one streamed answer.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  const reader = new Reader(context)
  const { answer } = reader
  let events = 0

  const end = (response: unknown, ended: string | undefined) => {
    const envelope = reader.onEnd(isRecord(response) ? response : {}, ended)
    if (envelope === undefined) reader.finish()
    else answer.failWith(envelope)
  }

  const onOther = (value: unknown, type: string, event: string, raw: boolean) => {
    // A server that does not stream sends the whole answer.
    if (isRecord(value) && value["type"] === undefined && isResponse(value)) return end(value, undefined)
    // An item that the server works at by itself: a search, code that it runs, an image.
    if (type.startsWith("response.") && !ping.test(type)) answer.onWork()
    const certain = event === "error" || type === "error"
    const envelope = certain || !type.startsWith("response.") ? envelopeOf(value, certain) : undefined
    if (envelope !== undefined) answer.failWith(known(envelope), !(raw && events === 1))
  }

  const onValue = (value: unknown, event: string, raw: boolean) => {
    events += 1
    if (!isRecord(value)) return onOther(value, "", event, raw)
    const type = string(value["type"]) ?? event
    switch (type) {
      case "response.output_text.delta":
        return reader.onText(value)
      case "response.function_call_arguments.delta":
        return reader.onArguments(value)
      case "response.reasoning_summary_text.delta":
      case "response.reasoning_summary.delta":
        return reader.onThought(value, true)
      case "response.reasoning_text.delta":
      case "response.reasoning.delta":
        return reader.onThought(value, false)
      case "response.refusal.delta":
        return reader.onRefusal(value)
      case "response.output_text.done":
        return reader.onPart(value, { type: "output_text", text: value["text"] })
      case "response.refusal.done":
        return reader.onPart(value, { type: "refusal", refusal: value["refusal"] })
      case "response.output_text.annotation.added":
        return reader.onAnnotation(value)
      case "response.content_part.done":
        return isRecord(value["part"]) ? reader.onPart(value, value["part"]) : undefined
      case "response.reasoning_summary_text.done":
      case "response.reasoning_summary.done":
        return reader.onThoughtDone(value, true)
      case "response.reasoning_text.done":
      case "response.reasoning.done":
        return reader.onThoughtDone(value, false)
      case "response.function_call_arguments.done":
        return reader.onArgumentsDone(value)
      case "response.output_item.added":
        return reader.onAdded(value)
      case "response.output_item.done":
        return reader.onDone(value["item"], count(value["output_index"]))
      case "response.created":
      case "response.in_progress":
      case "response.queued":
        return reader.onState(value["response"])
      case "response.completed":
        return end(value["response"], "completed")
      case "response.incomplete":
        return end(value["response"], "incomplete")
      case "response.failed":
        return end(value["response"], "failed")
      default:
        return onOther(value, type, event, raw)
    }
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (answer.failure !== undefined || reader.over) return
    const value = Sse.parse(data)
    if (value !== undefined) return onValue(value, event, raw)
    // A proxy's last word: it ends nothing here.
    if (data.trim() === "[DONE]") {
      events += 1
      return
    }
    // A server that leaves out the blank lines between its events.
    if (data.includes("\n")) {
      const lines = data.split("\n").filter((line) => line.trim() !== "")
      if (lines.length > 1 && lines.every((line) => line.trim() === "[DONE]" || Sse.parse(line) !== undefined)) {
        for (const line of lines) onEvent("", line, raw, complete)
        return
      }
    }
    if (!complete) return
    if (event === "error") return answer.failWith(known(envelopeOfBody(data, undefined)))
    if (data.trim() === "") return
    events += 1
    answer.failBecause("MalformedResponse", { issue: "an event of the stream is not JSON" })
  }

  const sse = Sse.make({ onEvent })

  return StreamDecoders.make(answer, context, {
    read: sse.push,
    readEnd: sse.end,
    over: () => reader.over,
    conclude: () => {
      if (reader.over) return
      if (events === 0 && sse.hasJunk()) {
        answer.failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of events" })
      } else answer.failBecause("StreamTruncated")
    }
  })
}

const unable = /encrypted[ _]content is not supported|reasoning input items can only be provided/i
const unreadable = /encrypted content.{0,200}could not be (?:verified|decrypted|parsed)/is

/** A conversation without the reasoning that `provider` encrypted. */
const withoutReasoning = (request: LlmRequest, provider: string): LlmRequest => ({
  ...request,
  messages: request.messages.map((message) =>
    message.role === "assistant"
      ? {
          ...message,
          content: message.content.filter(
            (part) => part.type !== "reasoning" || part.provider !== provider || part.signature === undefined
          )
        }
      : message
  )
})

/**
 * The format as a `Protocol`, in one server's dialect. Whether a model reasons is guessed by its name, which a deployment
 * may have from anywhere: one that says that it does not is believed, and asked without from then on. Reasoning that the
 * server cannot decrypt, because another account or another key had it written, is left out: the conversation goes on.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dialect: Dialect): Protocol => {
  const unreasoning = new Set<string>()
  const retention = makeRetention()
  return {
    encode: (request, options) => {
      const model = request.model ?? options.model
      const reasons = unreasoning.has(model) ? false : undefined
      return encode(retention.fit(request, model), { ...options, dialect, reasons })
    },
    decode,
    makeStreamDecoder,
    optionalProperties: "nullable",
    amend: (error, request, { model }) => {
      if (error.reason !== "InvalidRequest") return undefined
      const words = error.providerMessage ?? ""
      if (unable.test(words)) {
        unreasoning.add(model)
        return request
      }
      if (error.code === "invalid_encrypted_content" || unreadable.test(words)) {
        return withoutReasoning(request, dialect.provider)
      }
      return retention.amend(error, request, model)
    }
  }
}
