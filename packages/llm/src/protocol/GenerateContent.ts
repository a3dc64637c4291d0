/**
 * Gemini's generateContent wire format: requests out, JSON answers, streams (server-sent events or one JSON array) and
 * counts of tokens in. Decoding is lenient about what it does not know and strict about the end of a stream.
 *
 * @since 0.1.0
 */
import type { ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { Assembly } from "../internal/assembly.ts"
import { Grounding } from "../internal/citations.ts"
import { type CallContext, envelopeOf, envelopeOfBody, errorOf, isRecord, ownError } from "../internal/classify.ts"
import { toGeminiSchema } from "../internal/geminiSchema.ts"
import * as JsonArray from "../internal/jsonArray.ts"
import { PartialArgs } from "../internal/partialArgs.ts"
import * as Sse from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { count, finishOf, type Json, json, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Finish, LlmResponse, LlmToolCall, Usage } from "../LlmResponse.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

/**
 * In what the servers differ.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found, and of the signatures that are sent back. */
  readonly provider: string
  /** Agent Platform (Vertex AI) takes the question how many tokens a request is in another form than the Gemini API. */
  readonly agentPlatform?: boolean | undefined
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

/** The models before Gemini 3: they think by a budget of tokens and do not insist on signatures. */
const olderGemini = /gemini-[12](?!\d)|robotics-er-1(?!\d)/i

/** Those before Gemini 2.5 neither think nor hold calls to schemas. */
const canThink = (model: string): boolean => !/gemini-(?:1|2\.0)(?!\d)/i.test(model)

/** What stands for a signature that there cannot be: https://ai.google.dev/gemini-api/docs/thought-signatures (FAQ). */
const noSignature = "skip_thought_signature_validator"

/** Structured texts, for which Gemini has no type of its own. */
const structuredText = /^application\/(?:(?:[\w.-]+\+)?(?:json|xml|yaml)|x-yaml|x-ndjson|toml|sql|graphql)$/i

const mediaTypeOf = (mediaType: string): string => {
  const type = (mediaType.split(";")[0] ?? "").trim()
  return structuredText.test(type) ? "text/plain" : type
}

const encodeFile = (part: FilePart): Json => {
  const mimeType = mediaTypeOf(part.mediaType)
  if (part.source.type === "bytes") return { inlineData: { mimeType, data: Encoding.encodeBase64(part.source.bytes) } }
  const { url } = part.source
  const data = /^data:([^;,]*)(?:;[^,]*)?;base64,/i.exec(url)
  if (data !== null) {
    const named = mediaTypeOf(data[1] ?? "")
    return { inlineData: { mimeType: named === "" ? mimeType : named, data: url.slice(data[0].length) } }
  }
  return { fileData: { mimeType, fileUri: url } }
}

/** As JSON would have it: dates are texts then, and what has no words in JSON is `undefined`. */
const plain = (value: unknown): unknown => {
  const text = JSON.stringify(value)
  return text === undefined ? undefined : JSON.parse(text)
}

/** Arguments and results must be objects. */
const argumentsOf = (value: unknown): Json => {
  const args = plain(value)
  return isRecord(args) ? args : args === undefined || args === null ? {} : { value: args }
}

/** An object that says by `output` or `error` what it is means itself as a whole only when it is put under `output`. */
const resultOf = (result: unknown, isError: boolean): Json => {
  if (isError) {
    // The message of an `Error` is no property that JSON writes.
    const said = result instanceof Error ? result.message : plain(result)
    return { error: said ?? null }
  }
  const value = plain(result)
  if (isRecord(value) && !("output" in value) && !("error" in value)) return value
  return { output: value ?? null }
}

const signed = (part: Json, from: { readonly signature?: string; readonly provider?: string }, provider: string) =>
  from.signature !== undefined && from.provider === provider ? { ...part, thoughtSignature: from.signature } : part

type Content = { readonly role: "user" | "model"; readonly parts: Array<Json> }

const partsOf = (message: Exclude<ChatMessage, { readonly role: "system" }>, dialect: Dialect): ReadonlyArray<Json> => {
  const { provider } = dialect
  switch (message.role) {
    case "user": {
      if (message.content.length === 0) return [{ text: "" }]
      return message.content.map((part) => (part.type === "text" ? { text: part.text } : encodeFile(part)))
    }
    case "assistant": {
      const parts: Array<Json> = []
      for (const part of message.content) {
        const own = part.provider === provider
        switch (part.type) {
          case "text":
            if (part.text !== "" || (own && part.signature !== undefined)) {
              parts.push(signed({ text: part.text }, part, provider))
            }
            break
          case "reasoning":
            // What is not signed is a summary for people, which the model has no use for.
            if (own && part.signature !== undefined)
              parts.push(signed({ text: part.text, thought: true }, part, provider))
            break
          case "tool-call": {
            const functionCall = { id: part.id, name: part.name, args: argumentsOf(part.arguments) }
            parts.push(signed({ functionCall }, part, provider))
            break
          }
          case "provider":
            if (own && isRecord(part.data)) parts.push(part.data)
            break
        }
      }
      return parts
    }
    case "tool":
      return message.content.map((part) => ({
        functionResponse: { id: part.id, name: part.name, response: resultOf(part.result, part.isError === true) }
      }))
  }
}

const isResult = (part: Json): boolean => part["functionResponse"] !== undefined

const encodeContents = (
  request: LlmRequest,
  model: string,
  dialect: Dialect
): { readonly contents: ReadonlyArray<Content>; readonly system: ReadonlyArray<Json> } => {
  const contents: Array<Content> = []
  const system: Array<Json> = []
  for (const message of request.messages) {
    if (message.role === "system") {
      if (message.content !== "") system.push({ text: message.content })
      continue
    }
    const role = message.role === "assistant" ? "model" : "user"
    const parts = partsOf(message, dialect)
    if (parts.length === 0) continue
    // User and model take turns: what one says in several messages is one turn.
    const last = contents.at(-1)
    if (last !== undefined && last.role === role) last.parts.push(...parts)
    else contents.push({ role, parts: [...parts] })
  }
  // Results come directly after the calls, before all else that the user says.
  for (const { parts } of contents) {
    const results = parts.filter(isResult)
    if (results.length > 0) parts.splice(0, parts.length, ...results, ...parts.filter((part) => !isResult(part)))
  }
  if (/gemini/i.test(model) && !olderGemini.test(model)) {
    // Gemini 3 refuses a step whose first call is not signed, such as one of another provider's model.
    for (const { parts, role } of contents) {
      const first = role === "model" ? parts.findIndex((part) => part["functionCall"] !== undefined) : -1
      const part = parts[first]
      if (part !== undefined && part["thoughtSignature"] === undefined) {
        parts[first] = { ...part, thoughtSignature: noSignature }
      }
    }
  }
  // These have no place for instructions: https://ai.google.dev/gemma/docs/core/prompt-structure
  if (system.length > 0 && /gemma-?[123](?!\d)/i.test(model)) {
    const [first] = contents
    if (first?.role === "user") first.parts.unshift(...system)
    else contents.unshift({ role: "user", parts: [...system] })
    return { contents, system: [] }
  }
  return { contents, system }
}

/** Google's own table of efforts: https://ai.google.dev/gemini-api/docs/openai (thinking). */
const budgets: Readonly<Record<string, number>> = { minimal: 1024, low: 1024, medium: 8192, high: 24_576 }

const allLevels = ["minimal", "low", "medium", "high"]

/**
 * The levels that a model takes, the least first: https://ai.google.dev/gemini-api/docs/thinking. It answers 400 to the
 * others. `low` is what all but those that draw have in common.
 */
const levelsOf = (model: string): ReadonlyArray<string> => {
  const name = model.toLowerCase()
  if (!name.includes("gemini")) return allLevels
  if (name.includes("-image")) return name.includes("flash") ? ["minimal", "high"] : ["low", "high"]
  if (name.includes("flash-lite")) return allLevels
  if (/gemini-3(?:\.[1-6])?-flash/.test(name)) return allLevels
  return /gemini-3(?:\.0)?-pro/.test(name) ? ["low", "high"] : ["low", "medium", "high"]
}

/** The level itself, or the next above it that the model takes; none of these models can be kept from thinking. */
const levelOf = (word: string, model: string): string => {
  const rank = word === "none" ? 0 : word === "xhigh" || word === "max" ? allLevels.length - 1 : allLevels.indexOf(word)
  return rank === -1 ? word : (levelsOf(model).find((level) => allLevels.indexOf(level) >= rank) ?? "high")
}

const encodeThinking = (effort: string, model: string): Either.Either<Json | undefined, string> => {
  const word = effort.toLowerCase()
  const includeThoughts = word !== "none"
  if (!olderGemini.test(model)) return Either.right({ includeThoughts, thinkingLevel: levelOf(word, model) })
  if (!canThink(model)) return Either.right(undefined)
  const pro = /pro/i.test(model)
  const most = word === "xhigh" || word === "max"
  const thinkingBudget = word === "none" ? (pro ? 128 : 0) : most ? (pro ? 32_768 : 24_576) : budgets[word]
  return thinkingBudget === undefined
    ? Either.left(
        "this model's reasoning effort is a budget: use none, minimal, low, medium, high or max, or set " +
          "generationConfig.thinkingConfig.thinkingBudget in providerOptions"
      )
    : Either.right({ includeThoughts, thinkingBudget })
}

/** Whether calls can be held to the tools' schemas: from Gemini 2.5 on. */
const canValidate = (model: string): boolean => /gemini/i.test(model) && canThink(model)

const encodeTools = (request: LlmRequest, model: string): Json => {
  const tools = request.tools ?? []
  if (tools.length === 0) return {}
  const functionDeclarations = tools.map((tool) => ({
    name: tool.name,
    ...(tool.description === undefined ? {} : { description: tool.description }),
    // Arguments are an object, also where the schema does not say so.
    parametersJsonSchema: { type: "object", ...toGeminiSchema(tool.parameters) }
  }))
  const choice = request.toolChoice ?? "auto"
  const strict = tools.every((tool) => tool.strict === true) && canValidate(model)
  const functionCallingConfig =
    typeof choice === "object"
      ? { mode: "ANY", allowedFunctionNames: [choice.name] }
      : choice === "required"
        ? { mode: "ANY" }
        : choice === "none"
          ? { mode: "NONE" }
          : strict
            ? { mode: "VALIDATED" }
            : request.toolChoice === undefined
              ? undefined
              : { mode: "AUTO" }
  return {
    tools: [{ functionDeclarations }],
    ...(functionCallingConfig === undefined ? {} : { toolConfig: { functionCallingConfig } })
  }
}

const encodeFormat = (format: NonNullable<LlmRequest["responseFormat"]>): Json => {
  switch (format.type) {
    case "text":
      return {}
    case "json":
      return { responseMimeType: "application/json" }
    case "json-schema": {
      const schema = toGeminiSchema(format.schema)
      const described =
        format.description === undefined || schema["description"] !== undefined || schema["$ref"] !== undefined
          ? schema
          : { ...schema, description: format.description }
      return { responseMimeType: "application/json", responseJsonSchema: described }
    }
  }
}

/** Fields put into fields; lists of tools are joined, all else that is there twice is as the second says. */
const merged = (base: Json, extra: Json): Json => {
  const all: Record<string, unknown> = { ...base }
  for (const [key, value] of Object.entries(extra)) {
    const before = all[key]
    if (value === undefined) continue
    if (isRecord(before) && isRecord(value)) all[key] = merged(before, value)
    else if (key === "tools" && Array.isArray(before) && Array.isArray(value)) all[key] = [...before, ...value]
    else all[key] = value
  }
  return all
}

const encodeBody = (request: LlmRequest, model: string, dialect: Dialect): Either.Either<Json, string> => {
  const { contents, system } = encodeContents(request, model, dialect)
  if (contents.length === 0) {
    return Either.left("Gemini answers nothing but a user or a model: add a message that is not a system message")
  }
  const options = request.providerOptions?.[dialect.provider] ?? {}
  const ownConfig = isRecord(options["generationConfig"]) ? options["generationConfig"] : {}
  const ownThinking = isRecord(ownConfig["thinkingConfig"]) ? ownConfig["thinkingConfig"] : {}
  // A level and a budget exclude each other: the caller's own word counts.
  const hasThinking = ownThinking["thinkingBudget"] !== undefined || ownThinking["thinkingLevel"] !== undefined
  const thinking =
    request.reasoningEffort === undefined || hasThinking
      ? Either.right(undefined)
      : encodeThinking(request.reasoningEffort, model)
  return Either.map(thinking, (thinkingConfig) => {
    const config: Record<string, unknown> = {}
    const set = (key: string, value: unknown) => {
      if (value !== undefined) config[key] = value
    }
    set("temperature", request.temperature)
    set("topP", request.topP)
    set("topK", request.topK)
    set("frequencyPenalty", request.frequencyPenalty)
    set("presencePenalty", request.presencePenalty)
    set("maxOutputTokens", request.maxTokens)
    if (request.stop !== undefined && request.stop.length > 0) set("stopSequences", request.stop)
    set("seed", request.seed)
    set("thinkingConfig", thinkingConfig)
    if (request.responseFormat !== undefined) Object.assign(config, encodeFormat(request.responseFormat))
    const body: Json = {
      contents,
      ...(system.length === 0 ? {} : { systemInstruction: { parts: system } }),
      ...encodeTools(request, model),
      ...(Object.keys(config).length === 0 ? {} : { generationConfig: config })
    }
    return merged(body, options)
  })
}

const written = (
  dialect: Dialect,
  model: string,
  method: string,
  body: () => Either.Either<Json, string>
): Either.Either<string, LlmError> => {
  const failed = (issue: string) => refuse(dialect, model, method, issue)
  const text = Either.try({
    try: () => Either.map(body(), (value) => JSON.stringify(value)),
    catch: () => failed("a tool's arguments or result cannot be written as JSON")
  })
  return Either.flatMap(text, (said) => Either.mapLeft(said, failed))
}

/**
 * The JSON body of a request; the model and whether it is streamed are said by the address.
 *
 * - System messages become the one system instruction, wherever they stand; what the same side says in several messages
 *   is one turn. Gemma up to 3, which knows no instructions, reads them at the beginning of the user's turn.
 * - Results of tools are objects: a result that is none goes under `output`, an error under `error`.
 * - `reasoningEffort` is the thinking level from Gemini 3 on (the next above it, where the model has no such level) and a
 *   budget of tokens in 2.5; it asks for summaries of the thoughts too, unless it is `none`. Older models do not think.
 * - Calls that another provider's model made carry the word that Google documents for them, where Gemini wants a signature.
 * - Schemas are put into the part of JSON Schema that Gemini takes. Tools that are all `strict` are held to theirs.
 * - Files by URL go as `fileData`: addresses of the Files API, Cloud Storage and, for newer models, any public one.
 * - `parallelToolCalls` has no field in this format.
 * - Of `providerOptions`, tools and configurations are put beside those of the request. With `cachedContent` Gemini takes
 *   neither instructions nor tools: they belong into what is cached.
 *
 * Fails with `InvalidRequest` for what it cannot carry, such as a conversation of system messages alone or a tool's result
 * that is not JSON.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect }
): Either.Either<string, LlmError> => {
  const model = request.model ?? options.model
  return written(options.dialect, model, options.method, () => encodeBody(request, model, options.dialect))
}

/**
 * The path of a model: `models/gemini-3-flash` for a name, and names with a collection (`tunedModels/mine`) as they are.
 *
 * @since 0.1.0
 * @category combinators
 */
export const modelPath = (model: string): string =>
  resourceOf(model)
    .split("/")
    .map((name) => encodeURIComponent(name))
    .join("/")

const resourceOf = (model: string): string => (model.includes("/") ? model : `models/${model}`)

/** What Agent Platform takes of a request whose tokens it is to count. */
const counted = new Set(["contents", "systemInstruction", "tools", "generationConfig"])

/**
 * The JSON body that asks how many tokens a request has, with its instructions, tools and schema.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encodeCountTokens = (
  request: LlmRequest,
  options: { readonly model: string; readonly dialect: Dialect }
): Either.Either<string, LlmError> => {
  const model = request.model ?? options.model
  return written(options.dialect, model, "countTokens", () =>
    Either.map(encodeBody(request, model, options.dialect), (body) =>
      options.dialect.agentPlatform === true
        ? Object.fromEntries(Object.entries(body).filter(([key]) => counted.has(key)))
        : { generateContentRequest: { model: resourceOf(model), ...body } }
    )
  )
}

/**
 * The count in the answer to `encodeCountTokens`. Fails with the provider's error if the body is one in spite of its
 * status, and with `MalformedResponse` if there is no count in it.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decodeCountTokens = (body: string, context: CallContext): Either.Either<number, LlmError> => {
  const place = { context, status: 200, midStream: false, hadContent: false }
  const value = Sse.parse(body)
  const total = isRecord(value) ? count(value["totalTokens"]) : undefined
  if (total !== undefined) return Either.right(total)
  const envelope = envelopeOf(value, false)
  if (envelope !== undefined) return Either.left(errorOf(envelope, place))
  const issue = value === undefined ? "the body is not JSON" : "the body has no totalTokens"
  return Either.left(ownError("MalformedResponse", { ...place, issue }))
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const usageOf = (value: unknown): Usage | undefined => {
  if (!isRecord(value)) return undefined
  const candidates = count(value["candidatesTokenCount"])
  const thoughts = count(value["thoughtsTokenCount"])
  const usage: Usage = {
    input: count(value["promptTokenCount"]),
    output: candidates === undefined && thoughts === undefined ? undefined : (candidates ?? 0) + (thoughts ?? 0),
    cachedInput: count(value["cachedContentTokenCount"]),
    reasoning: thoughts
  }
  return usage.input === undefined && usage.output === undefined ? undefined : usage
}

/** A word of an enum that says something. */
const known = (value: unknown): string | undefined => {
  const word = string(value)
  return word === undefined || word.endsWith("_UNSPECIFIED") ? undefined : word
}

const firstCandidate = (candidates: unknown): Json | undefined => {
  if (!Array.isArray(candidates)) return undefined
  for (const candidate of candidates) {
    if (isRecord(candidate) && (count(candidate["index"]) ?? 0) === 0) return candidate
  }
  return undefined
}

/** A call while it is written. */
interface OpenCall {
  readonly index: number
  readonly id: string
  readonly name: string
  readonly args: PartialArgs
  /** What was said whole and is no object. */
  other: unknown
  /** What was said as text that is no JSON. */
  invalid: string | undefined
  signature: string | undefined
}

/** Puts an answer together from the pieces of it, of which a whole answer is one. */
class Reader {
  readonly answer: Assembly
  /** Something of an answer was there, be it that there is none. */
  seen = false
  /** More came after a finish: a server that says it with every piece. */
  resumed = false
  /** How it ended, once it has. */
  finished: Finish = "other"
  private readonly context: CallContext
  private blocked: string | undefined
  private call: OpenCall | undefined
  private opened = 0
  private grounding: Grounding | undefined

  constructor(context: CallContext) {
    this.context = context
    this.answer = new Assembly(context)
  }

  get finishReason(): string | undefined {
    return this.answer.finishReason ?? this.blocked
  }

  onChunk(chunk: Json): void {
    const { answer } = this
    answer.id ??= string(chunk["responseId"])
    answer.model ??= string(chunk["modelVersion"])
    const counted = usageOf(chunk["usageMetadata"])
    if (counted !== undefined) answer.usage = counted
    const feedback = chunk["promptFeedback"]
    if (isRecord(feedback)) {
      const reason = known(feedback["blockReason"])
      if (reason !== undefined) {
        this.seen = true
        this.blocked ??= reason
      }
    }
    const candidate = firstCandidate(chunk["candidates"])
    if (candidate !== undefined) this.onCandidate(candidate)
  }

  private onCandidate(candidate: Json): void {
    const { answer } = this
    const content = candidate["content"]
    const before = answer.textLength
    const reason = known(candidate["finishReason"])
    if (isRecord(content) || reason !== undefined) this.seen = true
    const parts = isRecord(content) ? content["parts"] : undefined
    if (Array.isArray(parts) && parts.length > 0) {
      if (this.finishReason !== undefined) this.resumed = true
      for (const part of parts) if (isRecord(part)) this.onPart(part)
    }
    if (reason !== undefined) answer.finishReason = reason
    if (candidate["groundingMetadata"] === undefined && candidate["citationMetadata"] === undefined) return
    this.grounding ??= new Grounding()
    // Only a candidate that has the whole text has the parts by which places are told.
    this.grounding.add(candidate, before === 0 ? beginningsOf(parts) : [])
    answer.onWork()
  }

  private onPart(part: Json): void {
    const signature = string(part["thoughtSignature"])
    const text = part["text"]
    const call = part["functionCall"]
    const thought = part["thought"] === true
    if (isRecord(call)) this.onCall(call, signature)
    else if (typeof text === "string") this.onText(text, thought, signature)
    else if (Object.keys(part).some((key) => !beside.has(key))) this.answer.onProviderPart(part)
    else if (signature !== undefined) this.onText("", thought, signature)
  }

  private onText(text: string, thought: boolean, signature: string | undefined): void {
    const { answer } = this
    // A signature is that of its own part, which must go back as it came.
    if (signature !== undefined) answer.close()
    if (thought) answer.onReasoning(text)
    else answer.onText(text)
    if (signature !== undefined) {
      answer.sign(thought ? "reasoning" : "text", { signature })
      answer.close()
    }
  }

  private onCall(call: Json, signature: string | undefined): void {
    const id = string(call["id"])
    const name = string(call["name"])
    const pieces = Array.isArray(call["partialArgs"]) ? call["partialArgs"] : []
    const said = call["args"] ?? undefined
    // Proxies send them as text.
    const text = typeof said === "string" ? said : undefined
    const args = text === undefined ? said : Sse.parse(text)
    if (this.call !== undefined && (id === undefined ? name !== undefined : id !== this.call.id)) this.closeCall()
    if (this.call === undefined) {
      const nothing = id === undefined && name === undefined && said === undefined && pieces.length === 0
      // The end of a call that was closed already.
      if (nothing) return
      this.call = {
        index: this.opened,
        id: id ?? this.madeUpId(),
        name: name ?? "",
        args: new PartialArgs(),
        other: undefined,
        invalid: undefined,
        signature: undefined
      }
      this.opened += 1
      this.answer.onCallDelta(this.call.index, this.call.id, this.call.name, "")
    }
    this.call.signature ??= signature
    if (isRecord(args)) this.call.args.merge(args)
    else if (args !== undefined) this.call.other = args
    else if (text !== undefined && text.trim() !== "") this.call.invalid = text
    for (const piece of pieces) this.call.args.add(piece)
    if (call["willContinue"] !== true) this.closeCall()
  }

  /** Older models name no ids; those of one conversation must not be the same. */
  private madeUpId(): string {
    const response = (this.answer.id ?? "").replace(/[^\w-]/g, "").slice(0, 40)
    return response === "" ? `call_${this.opened}` : `call_${response}_${this.opened}`
  }

  private closeCall(): void {
    const { answer, call } = this
    if (call === undefined) return
    this.call = undefined
    const { id, index, invalid, name, signature } = call
    const args = invalid === undefined ? (call.other ?? call.args.value) : { __invalid: invalid }
    answer.onCallDelta(index, id, name, invalid ?? json(args))
    const whole: LlmToolCall = {
      type: "tool-call",
      id,
      name,
      arguments: args,
      ...(invalid === undefined ? {} : { invalid }),
      ...(signature === undefined ? {} : { signature, provider: this.context.provider })
    }
    answer.onCall(whole)
  }

  /** The answer is whole. */
  finish(): void {
    const { answer } = this
    if (answer.ended || answer.failure !== undefined) return
    // A call that nothing closed is whole if the model stopped by itself; else it was cut off, and must not be run.
    if (finishOf(answer.finishReason, false) === "stop") this.closeCall()
    const withheld = answer.finishReason === undefined && this.blocked !== undefined
    answer.finishReason ??= this.blocked
    this.grounding?.tell((source, span) => answer.onSource(source, span))
    this.finished = withheld ? "content-filter" : finishOf(answer.finishReason, answer.calls.length > 0)
    answer.finish(this.finished)
  }
}

/** Where in the visible text each part begins. */
const beginningsOf = (parts: unknown): ReadonlyArray<number> => {
  let length = 0
  return (Array.isArray(parts) ? parts : []).map((part: unknown) => {
    const begin = length
    if (isRecord(part) && typeof part["text"] === "string" && part["thought"] !== true) length += part["text"].length
    return begin
  })
}

/** What says something of a part, but is not the part. */
const beside = new Set(["thought", "thoughtSignature", "partMetadata", "videoMetadata", "mediaResolution"])

/**
 * Decodes a JSON answer; a list of the pieces of a streamed one is put together. Fails with the provider's error if the
 * body is one in spite of its status, and with `MalformedResponse` if it is nothing that the protocol allows. A prompt
 * that was blocked is an answer without content whose `finish` is `content-filter`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const place = { context, status: 200, midStream: false, hadContent: false }
  const malformed = (issue: string) => Either.left(ownError("MalformedResponse", { ...place, issue }))
  const value = Sse.parse(body)
  if (value === undefined) return malformed(body.trim() === "" ? "the body is empty" : "the body is not JSON")
  const reader = new Reader(context)
  const { answer } = reader
  for (const chunk of Array.isArray(value) ? value : [value]) {
    if (!isRecord(chunk)) continue
    const envelope = envelopeOf(chunk, false)
    if (envelope !== undefined) return Either.left(errorOf(envelope, place))
    reader.onChunk(chunk)
  }
  if (!reader.seen) {
    const candidates = isRecord(value) ? value["candidates"] : undefined
    if (!Array.isArray(candidates)) return malformed("the body has no candidates")
    return malformed(
      candidates.length === 0 ? "the body has no candidate" : "the candidate has neither content nor a reason"
    )
  }
  reader.finish()
  const { reasoning, refusal, text, toolCalls } = answer.partial()
  return Either.right({
    id: answer.id,
    model: answer.model,
    text,
    reasoning,
    refusal,
    toolCalls,
    ...answer.cited,
    content: answer.content(),
    finish: reader.finished,
    finishReason: answer.finishReason,
    usage: answer.usage
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

const isBlank = (byte: number): boolean =>
  byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09 || byte === 0xef || byte === 0xbb || byte === 0xbf

const bracket = 0x5b

/**
 * A decoder for one streamed answer, of server-sent events or of one JSON array. Its end is the end of the body after a
 * finish reason.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  const reader = new Reader(context)
  const { answer } = reader
  let done = false
  let events = 0

  const onValue = (value: unknown, event: string, raw: boolean) => {
    events += 1
    if (Array.isArray(value)) {
      events -= 1
      for (const each of value) if (answer.failure === undefined) onValue(each, event, raw)
      return
    }
    const record = isRecord(value) ? value : undefined
    // Only what could hold an error is looked through for one.
    if (record === undefined || event === "error" || record["candidates"] === undefined || record["error"] != null) {
      const envelope = envelopeOf(value, event === "error")
      if (envelope !== undefined) {
        // What stands beside the error still counts.
        if (record !== undefined) reader.onChunk(record)
        return answer.failWith(envelope, !(raw && events === 1))
      }
    }
    if (record !== undefined) reader.onChunk(record)
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (answer.failure !== undefined || done) return
    const value = Sse.parse(data)
    if (value !== undefined) return onValue(value, event, raw)
    // Google does not say it; gateways do.
    if (data.trim() === "[DONE]") {
      events += 1
      done = true
      return
    }
    // A server that leaves out the blank lines between its events.
    if (data.includes("\n")) {
      const lines = data.split("\n").filter((line) => line.trim() !== "")
      if (lines.length > 1 && lines.every((line) => line.trim() === "[DONE]" || Sse.parse(line) !== undefined)) {
        for (const line of lines) onEvent(event, line, raw, complete)
        return
      }
    }
    if (!complete) return
    if (event === "error") return answer.failWith(envelopeOfBody(data, undefined))
    if (data.trim() === "") return
    events += 1
    answer.failBecause("MalformedResponse", { issue: "an event of the stream is not JSON" })
  }

  const sse = Sse.make({ onEvent })
  const list = JsonArray.make((text) => onEvent("", text, true, true))
  let source: Pick<Sse.SseReader, "push" | "end" | "hasJunk"> = sse
  let begun = false

  const push = (bytes: Uint8Array) => {
    if (!begun) {
      const first = bytes.find((byte) => !isBlank(byte))
      begun = first !== undefined
      if (first === bracket) source = list
    }
    source.push(bytes)
    if (source === list && list.ended()) done = true
  }

  return StreamDecoders.make(answer, context, {
    read: push,
    readEnd: () => source.end(),
    over: () => done,
    conclude: () => {
      if (reader.finishReason !== undefined) return reader.finish()
      if (events === 0 && source.hasJunk()) {
        answer.failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of events" })
      } else answer.failBecause("StreamTruncated")
    },
    finished: () => reader.finishReason !== undefined && !reader.resumed,
    whole: () => reader.finishReason !== undefined
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
