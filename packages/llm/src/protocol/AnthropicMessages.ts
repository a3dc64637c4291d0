/**
 * The Messages wire format of Anthropic, which others imitate: requests out, JSON answers, streams and counts of tokens in.
 * Decoding is lenient about what it does not know and strict about the end of a stream.
 *
 * @since 0.1.0
 */
import type { AssistantPart, ChatMessage, FilePart, ToolResultPart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { enforceable } from "../internal/anthropicSchema.ts"
import { Assembly } from "../internal/assembly.ts"
import { ofTextBlock } from "../internal/citations.ts"
import {
  type CallContext,
  envelopeOf,
  envelopeOfBody,
  errorOf,
  isRecord,
  ownError,
  type Place
} from "../internal/classify.ts"
import { type Abilities, abilitiesOf, effortOf } from "../internal/claude.ts"
import * as Sse from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { TextBuffer } from "../internal/textBuffer.ts"
import { count, finishOf, type Json, json, resultText, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmResponse, LlmToolCall, Usage } from "../LlmResponse.ts"
import type { LlmTool } from "../LlmTool.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

/**
 * In what the servers differ.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found, and whose signatures are replayed. */
  readonly provider: string
  /**
   * The tokens that an answer may have where the request does not say, which the API demands. By default 64,000 for Claude
   * 4.5 and later, 32,000 from 3.7 to 4.1, 8,192 for 3.5 and 4,096 for 3, and 8,192 for models that are not Claude. An
   * answer that was cut off by it has the finish `length`.
   */
  readonly maxTokens?: number | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const images = ["image/jpeg", "image/png", "image/gif", "image/webp"]
const pdf = "application/pdf"
const textual = /^(?:text\/|application\/(?:json|xml|yaml|x-yaml|javascript|x-ndjson)$)|\+(?:json|xml)$/

/** A block of content; mutable, since marks of the cache are put on it. */
type Block = Record<string, unknown>

interface Turn {
  readonly role: "user" | "assistant"
  readonly content: Array<Block>
}

/** Without parameters, and by its proper name. */
const mediaTypeOf = (part: FilePart): string => {
  const name = (part.mediaType.split(";")[0] ?? "").trim().toLowerCase()
  return name === "image/jpg" ? "image/jpeg" : name
}

/** As long as a title may be. */
const maxTitle = 500

const encodeFile = (part: FilePart): Either.Either<Block, string> => {
  const mediaType = mediaTypeOf(part)
  const name = part.name?.trim().slice(0, maxTitle) ?? ""
  const title = name === "" ? {} : { title: name }
  if (part.source.type === "url") {
    const { url } = part.source
    const type = mediaType.startsWith("image/") ? "image" : "document"
    const named = type === "document" ? title : {}
    // A file that was given to Anthropic before.
    if (/^file_\w+$/.test(url)) return Either.right({ type, source: { type: "file", file_id: url }, ...named })
    const data = /^data:[^,]*;base64,(.*)$/s.exec(url)
    if (data !== null) {
      const bytes = Encoding.decodeBase64(data[1] ?? "")
      return Either.isLeft(bytes)
        ? Either.left("a data URL is not base64")
        : encodeFile({ ...part, source: { type: "bytes", bytes: bytes.right } })
    }
    if (!/^https?:\/\//i.test(url)) return Either.left("Anthropic reads files from http and https only: send the bytes")
    if (type === "image") return Either.right({ type, source: { type: "url", url } })
    if (mediaType === pdf) return Either.right({ type, source: { type: "url", url }, ...title })
    return Either.left(`Anthropic takes no ${mediaType} by URL, only images and PDF: send its bytes`)
  }
  const { bytes } = part.source
  if (images.includes(mediaType)) {
    const source = { type: "base64", media_type: mediaType, data: Encoding.encodeBase64(bytes) }
    return Either.right({ type: "image", source })
  }
  if (mediaType === pdf) {
    const source = { type: "base64", media_type: pdf, data: Encoding.encodeBase64(bytes) }
    return Either.right({ type: "document", source, ...title })
  }
  if (textual.test(mediaType)) {
    const source = { type: "text", media_type: "text/plain", data: new TextDecoder().decode(bytes) }
    return Either.right({ type: "document", source, ...title })
  }
  return Either.left(`Anthropic takes no ${mediaType}: only JPEG, PNG, GIF and WebP images, PDF and text`)
}

/**
 * Ids as the API allows them: unlike those of other providers, of a few characters only and never the same twice. Results
 * belong to the calls of the turn before them.
 */
class Ids {
  private readonly used = new Set<string>()
  private readonly open = new Map<string, Array<string>>()

  /** New calls begin: those before them are no longer waited for. */
  begin(): void {
    this.open.clear()
  }

  ofCall(id: string): string {
    const plain = allowed(id)
    let free = plain
    for (let number = 2; this.used.has(free); number++) free = `${plain}_${number}`
    this.used.add(free)
    const waiting = this.open.get(id)
    if (waiting === undefined) this.open.set(id, [free])
    else waiting.push(free)
    return free
  }

  ofResult(id: string): string {
    return this.open.get(id)?.shift() ?? allowed(id)
  }
}

const allowed = (id: string): string => (id === "" ? "call" : id.replace(/[^A-Za-z0-9_-]/g, "_"))

/** What belongs to a call beside its input: who made it, and of which set its tool is. Replayed as it came. */
const proofOf = (block: Json): string | undefined => {
  const { caller, toolset_name: toolset } = block
  const indirect = isRecord(caller) && caller["type"] !== "direct"
  return indirect || typeof toolset === "string"
    ? json({ ...(indirect ? { caller } : {}), ...(typeof toolset === "string" ? { toolset_name: toolset } : {}) })
    : undefined
}

/** Blank text is refused by the API. */
const textBlock = (text: string): ReadonlyArray<Block> => (text.trim() === "" ? [] : [{ type: "text", text }])

const encodeAssistant = (
  part: AssistantPart,
  dialect: Dialect,
  ids: Ids,
  toolsets: Map<string, unknown>
): ReadonlyArray<Block> => {
  switch (part.type) {
    case "text":
      return textBlock(part.text)
    case "reasoning":
      // Unsigned reasoning, or that of another provider, is refused.
      return part.signature === undefined || part.provider !== dialect.provider
        ? []
        : [{ type: "thinking", thinking: part.text, signature: part.signature }]
    case "tool-call": {
      const { arguments: args } = part
      const own = part.provider === dialect.provider && part.signature !== undefined ? Sse.parse(part.signature) : {}
      const proof = isRecord(own) ? own : {}
      if (proof["toolset_name"] !== undefined) toolsets.set(part.id, proof["toolset_name"])
      // The input must be an object.
      const input = isRecord(args) ? args : args === undefined || args === null ? {} : { value: args }
      return [{ type: "tool_use", id: ids.ofCall(part.id), name: part.name, input, ...proof }]
    }
    case "provider":
      return part.provider === dialect.provider && isRecord(part.data) ? [{ ...part.data }] : []
  }
}

const encodeResult = (part: ToolResultPart, ids: Ids, toolsets: ReadonlyMap<string, unknown>): Block => {
  const isError = part.isError === true
  const said = isError && part.result instanceof Error ? part.result.message : part.result
  const text = resultText(said, false)
  // A failure without a word is refused.
  const content = isError && text.trim() === "" ? "the tool failed" : text
  const toolset = toolsets.get(part.id)
  return {
    type: "tool_result",
    tool_use_id: ids.ofResult(part.id),
    ...(content.trim() === "" ? {} : { content }),
    ...(isError ? { is_error: true } : {}),
    ...(toolset === undefined ? {} : { toolset_name: toolset })
  }
}

const isThinking = (block: Block | undefined): boolean =>
  block?.["type"] === "thinking" || block?.["type"] === "redacted_thinking"

/**
 * The turns in the order that the API demands: results before all else that the user says after the calls, and no turn of
 * the model that ends in thinking, as one does that was cut off there.
 */
const ordered = (turns: ReadonlyArray<Turn>): ReadonlyArray<Turn> => {
  const kept: Array<Turn> = []
  for (const turn of turns) {
    const content =
      turn.role === "assistant"
        ? turn.content.slice(0, turn.content.findLastIndex((block) => !isThinking(block)) + 1)
        : turn.content
    const last = kept.at(-1)
    if (last?.role === turn.role) last.content.push(...content)
    else if (content.length > 0) kept.push({ role: turn.role, content })
  }
  for (const { content } of kept) {
    const results = content.filter((block) => block["type"] === "tool_result")
    if (results.length > 0 && results.length < content.length) {
      const rest = content.filter((block) => block["type"] !== "tool_result")
      content.splice(0, content.length, ...results, ...rest)
    }
  }
  return kept
}

interface Conversation {
  readonly system: ReadonlyArray<Block>
  readonly turns: ReadonlyArray<Turn>
  /** What became of each message. */
  readonly blocks: ReadonlyArray<ReadonlyArray<Block>>
}

const encodeMessages = (
  messages: ReadonlyArray<ChatMessage>,
  dialect: Dialect
): Either.Either<Conversation, string> => {
  const ids = new Ids()
  const toolsets = new Map<string, unknown>()
  const system: Array<Block> = []
  const said: Array<Turn> = []
  const all: Array<ReadonlyArray<Block>> = []
  for (const message of messages) {
    const blocks: Array<Block> = []
    if (message.role === "assistant" && said.at(-1)?.role !== "assistant") ids.begin()
    for (const part of message.role === "system" ? [] : message.content) {
      if (part.type === "tool-result") blocks.push(encodeResult(part, ids, toolsets))
      else if (message.role === "assistant" && part.type !== "file") {
        blocks.push(...encodeAssistant(part, dialect, ids, toolsets))
      } else if (part.type === "text") blocks.push(...textBlock(part.text))
      else if (part.type === "file") {
        const file = encodeFile(part)
        if (Either.isLeft(file)) return Either.left(file.left)
        blocks.push(file.right)
      }
    }
    if (message.role === "system") {
      blocks.push(...textBlock(message.content))
      system.push(...blocks)
    } else if (blocks.length > 0) {
      const role = message.role === "assistant" ? "assistant" : "user"
      const last = said.at(-1)
      if (last?.role === role) last.content.push(...blocks)
      else said.push({ role, content: blocks.slice() })
    }
    all.push(blocks)
  }
  const turns = ordered(said)
  const last = turns.at(-1)
  const end = last?.content.at(-1)
  // An answer that the model is to go on with must not end in blanks.
  if (last?.role === "assistant" && end?.["type"] === "text") end["text"] = String(end["text"]).trimEnd()
  return turns.length === 0
    ? Either.left("no message has any content: Anthropic needs at least one of the user")
    : Either.right({ system, turns, blocks: all })
}

/** Blocks that a beginning which is to be kept may end with. */
const markable = new Set(["text", "image", "document", "tool_use", "tool_result"])
const maxBreakpoints = 4

const markCache = (request: LlmRequest, { blocks }: Conversation): string | undefined => {
  const cache = request.promptCache
  if (cache === undefined) return undefined
  const system = request.messages.findLastIndex((message) => message.role === "system")
  const points = new Set(cache.breakpoints ?? [system, request.messages.length - 1])
  if (points.size > maxBreakpoints) return `promptCache.breakpoints: Anthropic takes ${maxBreakpoints} at most`
  for (const point of points) {
    const block = blocks[point]?.findLast((each) => markable.has(String(each["type"])))
    if (block !== undefined) {
      block["cache_control"] = { type: "ephemeral", ...(cache.ttl === "long" ? { ttl: "1h" } : {}) }
    }
  }
  return undefined
}

/** As many tools of a request as can be held to their schemas. */
const maxStrict = 20

const encodeTools = (tools: ReadonlyArray<LlmTool>, abilities: Abilities): ReadonlyArray<Json> => {
  const asked = tools.filter((tool) => tool.strict === true).length
  const strict = abilities.strict && asked <= maxStrict
  return tools.map((tool) => {
    const held = strict && tool.strict === true ? enforceable(tool.parameters) : Either.left("")
    return {
      name: tool.name,
      ...(tool.description === undefined ? {} : { description: tool.description }),
      input_schema: { type: "object", ...(Either.isRight(held) ? held.right : tool.parameters) },
      ...(Either.isRight(held) ? { strict: true } : {})
    }
  })
}

const encodeChoice = (request: LlmRequest): Json | undefined => {
  const choice = request.toolChoice
  const single = request.parallelToolCalls === false ? { disable_parallel_tool_use: true } : {}
  if (choice === "none") return { type: "none" }
  if (choice === "required") return { type: "any", ...single }
  if (typeof choice === "object") return { type: "tool", name: choice.name, ...single }
  return choice === "auto" || request.parallelToolCalls === false ? { type: "auto", ...single } : undefined
}

/** How many tokens of thinking an effort is, for models that know no effort. */
const budgets: Readonly<Record<string, number>> = {
  minimal: 1024,
  low: 2048,
  medium: 8192,
  high: 16_384,
  xhigh: 24_576,
  max: 31_999
}
const minBudget = 1024

interface Reasoning {
  readonly thinking?: Json
  readonly effort?: string
}

/**
 * A turn of calls that was begun without thinking (by another provider's model, say) cannot be gone on with in thought of a
 * fixed budget.
 */
const canResume = (turns: ReadonlyArray<Turn>): boolean => {
  const last = turns.findLast((turn) => turn.role === "assistant")
  if (last === undefined || !last.content.some((block) => block["type"] === "tool_use")) return true
  return isThinking(last.content[0])
}

const encodeReasoning = (
  request: LlmRequest,
  abilities: Abilities,
  options: { readonly maxTokens: number; readonly turns: ReadonlyArray<Turn> }
): Reasoning => {
  const asked = request.reasoningEffort?.toLowerCase()
  if (asked === undefined) return {}
  if (asked === "none") {
    if (abilities.off === "low") return { effort: "low" }
    return abilities.off === "omit" ? {} : { thinking: { type: abilities.off } }
  }
  // A call that is demanded leaves no room for thought.
  const forced = request.toolChoice === "required" || typeof request.toolChoice === "object"
  const said = abilities.efforts.length === 0 ? {} : { effort: effortOf(asked, abilities) }
  if (forced && (request.tools?.length ?? 0) > 0) return said
  if (abilities.thinking === "adaptive") {
    return { ...said, thinking: { type: "adaptive", ...(abilities.silent ? { display: "summarized" } : {}) } }
  }
  // The budget is part of the limit: at least half of it is for the answer.
  const budget = Math.min(budgets[asked] ?? minBudget, Math.floor(options.maxTokens / 2))
  return abilities.thinking === "none" || budget < minBudget || !canResume(options.turns)
    ? said
    : { ...said, thinking: { type: "enabled", budget_tokens: budget } }
}

const jsonOnly = "Answer with one JSON object and nothing else: no words before or after it, no code fence."

const encodeBody = (
  request: LlmRequest,
  { dialect, model, stream }: { readonly model: string; readonly stream: boolean; readonly dialect: Dialect }
): Either.Either<Json, string> => {
  const asked = request.model ?? model
  const abilities = abilitiesOf(asked)
  const own: Json = request.providerOptions?.[dialect.provider] ?? {}
  const conversation = encodeMessages(request.messages, dialect)
  if (Either.isLeft(conversation)) return Either.left(conversation.left)
  const { system, turns } = conversation.right
  const unmarked = markCache(request, conversation.right)
  if (unmarked !== undefined) return Either.left(unmarked)

  const format = request.responseFormat
  const instructions = format?.type === "json" ? [...system, { type: "text", text: jsonOnly }] : system
  const schema = format?.type === "json-schema" ? enforceable(format.schema) : undefined
  if (schema !== undefined && Either.isLeft(schema)) {
    return Either.left(
      `responseFormat: Anthropic cannot hold an answer to this schema (${schema.left}): give a tool with this schema instead`
    )
  }
  const stop = request.stop ?? []
  if (stop.some((text) => text.trim() === "")) {
    return Either.left("stop: Anthropic takes no sequence that is blank")
  }

  const maxTokens = request.maxTokens ?? dialect.maxTokens ?? abilities.maxTokens
  const reasoning = encodeReasoning(request, abilities, { maxTokens, turns })
  const thinking = "thinking" in own ? own["thinking"] : reasoning.thinking
  const thinks = isRecord(thinking) && (thinking["type"] === "enabled" || thinking["type"] === "adaptive")

  const body: Record<string, unknown> = { model: asked, max_tokens: maxTokens }
  const set = (key: string, value: unknown) => {
    if (value !== undefined) body[key] = value
  }
  if (instructions.length > 0) set("system", instructions)
  set("messages", turns)
  // Models that think take none of these, the newest never do.
  if (abilities.sampling !== "none" && !thinks) {
    set("temperature", request.temperature === undefined ? undefined : Math.min(1, request.temperature))
    if (abilities.sampling === "all" || request.temperature === undefined) set("top_p", request.topP)
    set("top_k", request.topK)
  }
  if (stop.length > 0) set("stop_sequences", stop)
  const tools = [
    ...encodeTools(request.tools ?? [], abilities),
    // Those that the provider runs stand beside those of the caller.
    ...(Array.isArray(own["tools"]) ? own["tools"] : [])
  ]
  if (tools.length > 0) {
    set("tools", tools)
    set("tool_choice", encodeChoice(request))
  }
  const output = {
    ...(reasoning.effort === undefined ? {} : { effort: reasoning.effort }),
    ...(schema === undefined ? {} : { format: { type: "json_schema", schema: schema.right } }),
    ...(isRecord(own["output_config"]) ? own["output_config"] : {})
  }
  if (Object.keys(output).length > 0) set("output_config", output)
  set("thinking", thinking)
  const { output_config: _output, thinking: _thinking, tools: _tools, ...others } = own
  // How the answer is decoded depends on `stream`: it is not the caller's to change.
  return Either.right({ ...body, ...others, stream })
}

const written = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect },
  write: (body: Json) => Json
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
    try: () => Either.map(encodeBody(request, options), (body) => JSON.stringify(write(body))),
    catch: () => failed("a tool's arguments or result cannot be written as JSON")
  })
  return Either.flatMap(text, (body) => Either.mapLeft(body, failed))
}

/**
 * The JSON body of a request.
 *
 * - System messages go to `system`, wherever they stand; turns of the same role become one, with the results of tools first.
 * - `reasoningEffort` becomes `output_config.effort` (the next below it, where the model has no such effort) with adaptive
 *   thinking, a summary of which is shown, or a budget of tokens for models before that (`low` 2,048, `medium` 8,192, `high` 16,384, at most half of the answer's limit); `none`
 *   asks for the least that the model can do with. A forced choice of a tool leaves thinking out.
 * - Settings of sampling that the model refuses are left out, a temperature above 1 becomes 1. `tools` and `output_config`
 *   of the `providerOptions` are added to what the request says.
 * - `responseFormat` of type `json` becomes a sentence in `system`: the format has no such mode.
 *
 * Fails with `InvalidRequest` for what this format cannot carry: kinds of files, schemas that it cannot enforce, blank stop
 * sequences, more than four breakpoints of the cache.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect }
): Either.Either<string, LlmError> => written(request, options, (body) => body)

/** What the service that counts tokens takes of a request. */
const counted = new Set([
  "model",
  "messages",
  "system",
  "tools",
  "tool_choice",
  "thinking",
  "output_config",
  "output_format",
  "compaction",
  "billing_policy",
  "cache_control",
  "context_management",
  "mcp_servers",
  "speed"
])

/**
 * The JSON body of the question how many tokens a request is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encodeCount = (
  request: LlmRequest,
  options: { readonly model: string; readonly dialect: Dialect }
): Either.Either<string, LlmError> =>
  written(request, { ...options, stream: false, method: "countTokens" }, (body) =>
    Object.fromEntries(Object.entries(body).filter(([key]) => counted.has(key)))
  )

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

/** The figures of an answer: each is the last that was said. */
class Figures {
  private fresh: number | undefined
  private read: number | undefined
  private written: number | undefined
  private output: number | undefined
  private thinking: number | undefined

  /** Takes what is said; gives the usage, unless nothing was. */
  add(value: unknown): Usage | undefined {
    if (!isRecord(value)) return undefined
    this.fresh = count(value["input_tokens"]) ?? this.fresh
    this.read = count(value["cache_read_input_tokens"]) ?? this.read
    this.written = count(value["cache_creation_input_tokens"]) ?? this.written
    this.output = count(value["output_tokens"]) ?? this.output
    const details = value["output_tokens_details"]
    if (isRecord(details)) this.thinking = count(details["thinking_tokens"]) ?? this.thinking
    const known = this.fresh !== undefined || this.read !== undefined || this.written !== undefined
    return {
      input: known ? (this.fresh ?? 0) + (this.read ?? 0) + (this.written ?? 0) : undefined,
      output: this.output,
      cachedInput: this.read,
      cacheWrite: this.written,
      reasoning: this.thinking
    }
  }
}

const callOf = (block: Json, position: number, args: string, provider: string): LlmToolCall => {
  const signature = proofOf(block)
  const call = {
    type: "tool-call" as const,
    // A name that makes the call answerable where the server gave it none.
    id: string(block["id"]) ?? `call_${position}`,
    name: string(block["name"]) ?? "",
    ...(signature === undefined ? {} : { signature, provider })
  }
  const given = block["input"]
  const text = args.trim() === "" && typeof given === "string" ? given : args
  if (text.trim() === "") {
    return { ...call, arguments: typeof given === "string" || given === undefined || given === null ? {} : given }
  }
  const value = Sse.parse(text)
  return value === undefined
    ? { ...call, arguments: { __invalid: text }, invalid: text }
    : { ...call, arguments: value }
}

/** A block that came whole. */
const takeBlock = (answer: Assembly, block: Json, provider: string): void => {
  switch (block["type"]) {
    case "text": {
      const start = answer.textLength
      answer.onText(string(block["text"]) ?? "")
      answer.close()
      cite(answer, block["citations"], start)
      break
    }
    case "thinking":
      answer.onReasoning(string(block["thinking"]) ?? "")
      signed(answer, block["signature"])
      answer.close()
      break
    case "tool_use":
      answer.onCall(callOf(block, answer.calls.length, "", provider))
      break
    default:
      answer.onProviderPart(block)
  }
}

/** What the block of text that began at `start` and has ended draws on. */
const cite = (answer: Assembly, citations: unknown, start: number): void => {
  if (!Array.isArray(citations)) return
  const end = answer.textLength
  for (const citation of citations) {
    const source = ofTextBlock(citation)
    if (source !== undefined) answer.onSource(source, { start, end, unit: "utf16" })
  }
}

const signed = (answer: Assembly, value: unknown): void => {
  const signature = string(value)
  if (signature !== undefined) answer.sign("reasoning", { signature })
}

/** Why the model stopped, and its words if it refused. */
const takeStop = (answer: Assembly, message: Json): void => {
  const reason = string(message["stop_reason"])
  if (reason === undefined || reason === answer.finishReason) return
  answer.finishReason = reason
  const details = message["stop_details"]
  if (reason === "refusal" && isRecord(details)) answer.onRefusal(string(details["explanation"]) ?? "")
}

/** A whole message. */
const takeMessage = (answer: Assembly, message: Json, figures: Figures, provider: string): void => {
  answer.id ??= string(message["id"])
  answer.model ??= string(message["model"])
  const content = message["content"]
  if (typeof content === "string") answer.onText(content)
  for (const block of Array.isArray(content) ? content : []) {
    if (isRecord(block)) takeBlock(answer, block, provider)
  }
  const usage = figures.add(message["usage"])
  if (usage !== undefined) answer.usage = usage
  takeStop(answer, message)
}

/**
 * Decodes a JSON answer. Fails with the provider's error if the body is one in spite of its status, and with
 * `MalformedResponse` if it is nothing that the protocol allows. What the provider ran itself, redacted thinking and
 * blocks that are not known are in `content` only.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...place, issue }))
  const value = Sse.parse(body)
  if (value === undefined) return malformed(body.trim() === "" ? "the body is empty" : "the body is not JSON")
  const content = isRecord(value) ? value["content"] : undefined
  if (!isRecord(value) || !(Array.isArray(content) || typeof content === "string")) {
    const envelope = envelopeOf(value, false)
    if (envelope !== undefined) return Either.left(errorOf(envelope, place))
    return malformed("the body has no content")
  }
  const answer = new Assembly(context)
  takeMessage(answer, value, new Figures(), context.provider)
  return Either.right({
    ...answer.partial(),
    ...answer.cited,
    content: answer.content(),
    finish: finishOf(answer.finishReason, answer.calls.length > 0),
    finishReason: answer.finishReason,
    usage: answer.usage
  })
}

/**
 * Decodes the count of a request's tokens.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeCount = (body: string, context: CallContext): Either.Either<number, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const value = Sse.parse(body)
  const tokens = isRecord(value) ? count(value["input_tokens"]) : undefined
  if (tokens !== undefined) return Either.right(tokens)
  const envelope = envelopeOf(value, false)
  return Either.left(
    envelope === undefined
      ? ownError("MalformedResponse", { ...place, issue: "the body has no input_tokens" })
      : errorOf(envelope, place)
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

interface OpenCall {
  readonly type: "call"
  readonly block: Json
  readonly position: number
  readonly args: TextBuffer
  whole: LlmToolCall | undefined
}

/** A block that is of use only once it is whole. */
type Open = OpenCall | { readonly type: "other"; readonly data: Block; readonly input: TextBuffer }

/**
 * Takes a delta into a block that is kept as it is: texts grow, all else is replaced. What a compaction's delta says is
 * the whole of it.
 */
const grow = (data: Block, delta: Json): void => {
  const whole = delta["type"] === "compaction_delta"
  for (const [key, value] of Object.entries(delta)) {
    if (key === "type" || (!whole && (value === null || value === undefined))) continue
    const before = Object.hasOwn(data, key) && !whole && key !== "signature" ? data[key] : undefined
    data[key] = typeof before === "string" && typeof value === "string" ? before + value : value
  }
}

/**
 * A decoder for one streamed answer.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  const { provider } = context
  const answer = new Assembly(context)
  const figures = new Figures()
  const open = new Map<number, Open>()
  // Calls are handed on in the order in which they began, even where a later one is whole first.
  const calls: Array<OpenCall> = []
  let handedOn = 0
  let text: { readonly index: number; readonly start: number; readonly citations: Array<unknown> } | undefined
  let last = 0
  let position = 0
  let started = false
  let events = 0

  /** The block of text that is being written has ended: now it is known to what its citations belong. */
  const onTextEnd = () => {
    if (text !== undefined && text.citations.length > 0) cite(answer, text.citations, text.start)
    text = undefined
  }

  const onStop = (index: number) => {
    if (text?.index === index) onTextEnd()
    const block = open.get(index)
    if (block === undefined) return
    open.delete(index)
    answer.onWork()
    if (block.type === "call") {
      block.whole = callOf(block.block, block.position, block.args.toString(), provider)
      for (let next = calls[handedOn]?.whole; next !== undefined; next = calls[handedOn]?.whole) {
        handedOn += 1
        answer.onCall(next)
      }
      return
    }
    const input = block.input.isEmpty ? undefined : Sse.parse(block.input.toString())
    answer.onProviderPart(input === undefined ? block.data : { ...block.data, input })
  }

  /** Whole calls that wait for one before them. */
  const waiting = () => calls.slice(handedOn).flatMap(({ whole }) => (whole === undefined ? [] : [whole]))

  const failBecause: Assembly["failBecause"] = (reason, options) =>
    answer.failBecause(reason, { ...options, calls: waiting() })

  const onBlock = (index: number, block: Json) => {
    onStop(index)
    onTextEnd()
    last = index
    answer.onWork()
    switch (block["type"]) {
      case "text":
      case "thinking": {
        answer.close()
        if (block["type"] === "text") {
          const { citations } = block
          text = { index, start: answer.textLength, citations: Array.isArray(citations) ? [...citations] : [] }
          return answer.onText(string(block["text"]) ?? "")
        }
        answer.onReasoning(string(block["thinking"]) ?? "")
        return signed(answer, block["signature"])
      }
      case "tool_use": {
        const call: OpenCall = { type: "call", block, position, args: new TextBuffer(), whole: undefined }
        open.set(index, call)
        calls.push(call)
        answer.onCallDelta(position, string(block["id"]) ?? "", string(block["name"]) ?? "", "")
        position += 1
        return
      }
      default: {
        answer.close()
        open.set(index, { type: "other", data: { ...block }, input: new TextBuffer() })
      }
    }
  }

  const onDelta = (index: number, delta: Json) => {
    const block = open.get(index)
    const type = delta["type"]
    if (type === "input_json_delta") {
      const text = string(delta["partial_json"])
      if (text === undefined || block === undefined) return
      if (block.type === "other") {
        if (text !== "") answer.onWork()
        return block.input.add(text)
      }
      block.args.add(text)
      const { id, name } = block.block
      return answer.onCallDelta(block.position, string(id) ?? "", string(name) ?? "", text)
    }
    // Text is written from a source, or a thought goes on that is not shown.
    const counted = (count(delta["estimated_tokens"]) ?? 0) > 0
    if (counted || type === "citations_delta" || block?.type === "other") answer.onWork()
    if (block?.type === "other") return type === "citations_delta" ? undefined : grow(block.data, delta)
    if (type === "citations_delta") {
      // Of a block that has ended, or that never began, the place is not known.
      if (text?.index === index) text.citations.push(delta["citation"])
      else {
        const source = ofTextBlock(delta["citation"])
        if (source !== undefined) answer.onSource(source)
      }
    }
    if (type === "text_delta") answer.onText(string(delta["text"]) ?? "")
    else if (type === "thinking_delta") answer.onReasoning(string(delta["thinking"]) ?? "")
    else if (type === "signature_delta") signed(answer, delta["signature"])
  }

  const closeAll = () => {
    onTextEnd()
    for (const index of [...open.keys()].toSorted((a, b) => a - b)) onStop(index)
  }

  const onMessage = (message: Json) => {
    const id = string(message["id"])
    if (started && id !== undefined && answer.id !== undefined && id !== answer.id) {
      return failBecause("MalformedResponse", { issue: "two answers are spliced into one stream" })
    }
    if (started) return
    started = true
    takeMessage(answer, message, figures, provider)
    position = answer.calls.length
  }

  const onEnd = () => {
    closeAll()
    answer.finish(finishOf(answer.finishReason, answer.calls.length > 0))
  }

  const onError = (value: unknown, certain: boolean, raw: boolean): boolean => {
    const envelope = envelopeOf(value, certain)
    if (envelope === undefined) return false
    answer.failWith(envelope, !(raw && events === 1), waiting())
    return true
  }

  const onValue = (value: unknown, event: string, raw: boolean) => {
    events += 1
    if (!isRecord(value)) {
      onError(value, event === "error", raw)
      return
    }
    const type = string(value["type"]) ?? event
    switch (type) {
      case "content_block_delta": {
        const { delta } = value
        if (isRecord(delta)) onDelta(count(value["index"]) ?? last, delta)
        return
      }
      case "content_block_start": {
        const block = value["content_block"]
        if (isRecord(block)) onBlock(count(value["index"]) ?? last + 1, block)
        return
      }
      case "content_block_stop":
        return onStop(count(value["index"]) ?? last)
      case "message_start": {
        const { message } = value
        if (isRecord(message)) onMessage(message)
        return
      }
      case "message_delta": {
        const usage = figures.add(value["usage"])
        if (usage !== undefined) answer.usage = usage
        if (isRecord(value["delta"])) takeStop(answer, value["delta"])
        return
      }
      case "message_stop":
        return onEnd()
      case "message":
        // A server that does not stream sends the whole answer.
        onMessage(value)
        return answer.failure === undefined ? onEnd() : undefined
      case "ping":
        return
      default:
        onError(value, event === "error" || type === "error", raw)
    }
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (answer.failure !== undefined || answer.ended) return
    const value = Sse.parse(data)
    if (value !== undefined) return onValue(value, event, raw)
    // A server that leaves out the blank lines between its events.
    if (data.includes("\n")) {
      const lines = data.split("\n").filter((line) => line.trim() !== "")
      if (lines.length > 1 && lines.every((line) => Sse.parse(line) !== undefined)) {
        for (const line of lines) onEvent("", line, raw, complete)
        return
      }
    }
    if (!complete) return
    if (event === "error") return answer.failWith(envelopeOfBody(data, undefined), true, waiting())
    // The end of another format, which servers that speak both send after their own.
    if (data.trim() === "" || data.trim() === "[DONE]" || event === "ping") return
    events += 1
    failBecause("MalformedResponse", { issue: "an event of the stream is not JSON" })
  }

  const reader = Sse.make({ onEvent })

  return StreamDecoders.make(answer, context, {
    read: reader.push,
    readEnd: reader.end,
    over: () => answer.ended,
    conclude: () => {
      if (events === 0 && reader.hasJunk()) {
        failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of events" })
      } else failBecause("StreamTruncated")
    },
    waiting
  })
}

/**
 * The format as a `Protocol`, in one server's dialect.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dialect: Dialect): Protocol => ({
  encode: (request, options) => encode(request, { ...options, dialect }),
  decode,
  makeStreamDecoder
})
