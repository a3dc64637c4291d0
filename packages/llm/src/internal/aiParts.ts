/**
 * Answers as the parts of a response of `@effect/ai`, whole or streamed.
 */
import type * as AiError from "@effect/ai/AiError"
import type { ProviderMetadata } from "@effect/ai/Response"
import * as Response from "@effect/ai/Response"
import type * as Tool from "@effect/ai/Tool"
import { AssistantPart, type ChatMessage } from "@underlay/core/state/ChatMessage"
import type * as DateTime from "effect/DateTime"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  contentOf,
  type Finish,
  type FinishPart,
  type LlmResponse,
  type LlmSource,
  type LlmStreamPart,
  type LlmToolCall,
  type RateLimits,
  type Usage
} from "../LlmResponse.ts"
import { optionsOf, optionsOfProviderPart } from "./aiPrompt.ts"
import { isRecord } from "./classify.ts"
import { type Json, string } from "./wire.ts"

/** A call that is known to fit its tool, or one to be answered with what is wrong with it. */
export interface Call {
  readonly id: string
  readonly name: string
  /** As the model wrote them. */
  readonly encoded: unknown
  /** As the tool takes them. */
  readonly params: unknown
  /** Why the tool is not run. */
  readonly misfit: { readonly error: AiError.AiError; readonly words: string } | undefined
}

type Metadata = Record<string, Json>

const given = (metadata: ProviderMetadata | undefined) => (metadata === undefined ? {} : { metadata })

export const usageOf = (usage: Usage): Response.Usage =>
  new Response.Usage({
    inputTokens: usage.input,
    outputTokens: usage.output,
    totalTokens: usage.input === undefined || usage.output === undefined ? undefined : usage.input + usage.output,
    reasoningTokens: usage.reasoning,
    cachedInputTokens: usage.cachedInput
  })

export interface Ending {
  readonly finish: Finish
  readonly finishReason?: string | undefined
  readonly usage: Usage
  readonly rateLimits?: RateLimits | undefined
}

/** Whether the parts of a response alone would not do to send the answer back. */
const isMoreThanText = (content: ReadonlyArray<AssistantPart>): boolean =>
  content.some((part) => (part.type !== "text" && part.type !== "reasoning") || part.provider !== undefined)

export const finishPartOf = (
  provider: string,
  ending: Ending,
  content: ReadonlyArray<AssistantPart>
): Response.FinishPart => {
  const said: Json = {
    ...(ending.finishReason === undefined ? {} : { finishReason: ending.finishReason }),
    ...(ending.usage.cacheWrite === undefined ? {} : { cacheWriteTokens: ending.usage.cacheWrite }),
    ...(ending.rateLimits === undefined ? {} : { rateLimits: ending.rateLimits }),
    ...(isMoreThanText(content) ? { content } : {})
  }
  return Response.finishPart({
    reason: ending.finish,
    usage: usageOf(ending.usage),
    ...(Object.keys(said).length === 0 ? {} : { metadata: { [provider]: said } })
  })
}

const isContent = Schema.is(Schema.NonEmptyArray(AssistantPart))

/** The whole answer that a finish carries, if it does. */
export const contentIn = (part: Response.FinishPart): ReadonlyArray<AssistantPart> | undefined => {
  for (const said of Object.values(part.metadata)) {
    const content = said?.["content"]
    if (isContent(content)) return content
  }
  return undefined
}

export const metadataPartOf = (
  answer: { readonly id?: string | undefined; readonly model?: string | undefined },
  now: DateTime.Utc
): Response.ResponseMetadataPart =>
  Response.responseMetadataPart({
    id: Option.fromNullable(answer.id),
    modelId: Option.fromNullable(answer.model),
    timestamp: Option.some(now)
  })

export const callPartOf = (call: Call, metadata: Metadata | undefined): Response.ToolCallPart<string, unknown> =>
  Response.toolCallPart({
    id: call.id,
    name: call.name,
    params: call.params,
    providerExecuted: false,
    ...given(metadata)
  })

/** A file that the model made, in the words of Gemini and of OpenAI's Responses. */
const fileIn = (data: unknown): { readonly mediaType: string; readonly data: Uint8Array } | undefined => {
  if (!isRecord(data)) return undefined
  const { inlineData } = data
  const [mediaType, base64] = isRecord(inlineData)
    ? [string(inlineData["mimeType"]), string(inlineData["data"])]
    : data["type"] === "image_generation_call"
      ? [`image/${string(data["output_format"]) ?? "png"}`, string(data["result"])]
      : []
  if (mediaType === undefined || base64 === undefined) return undefined
  const bytes = Encoding.decodeBase64(base64)
  return Either.isLeft(bytes) ? undefined : { mediaType, data: bytes.right }
}

/** A part that only its provider understands: a file where it is one, else an empty reasoning. */
export const providerPartOf = (
  part: Extract<AssistantPart, { readonly type: "provider" }>
): Response.FilePart | Response.ReasoningPart => {
  const metadata = optionsOfProviderPart(part)
  const file = fileIn(part.data)
  return file === undefined ? Response.reasoningPart({ text: "", metadata }) : Response.filePart({ ...file, metadata })
}

/** The files among what only the provider understands: in a stream, the one thing of it that has a part. */
export const filesIn = (content: ReadonlyArray<AssistantPart>): ReadonlyArray<Response.FilePart> => {
  const files: Array<Response.FilePart> = []
  for (const part of content) {
    if (part.type !== "provider") continue
    const made = providerPartOf(part)
    if (made.type === "file") files.push(made)
  }
  return files
}

/** A source as a part, `index` being its place among those of the answer; none where its address is no URL. */
const sourcePartOf = (
  provider: string,
  source: LlmSource,
  index: number
): Response.UrlSourcePart | Response.DocumentSourcePart | undefined => {
  const id = `source_${index}`
  if (source.sourceType === "url") {
    const { sourceType: _, title, type: __, url: address, ...rest } = source
    if (!URL.canParse(address)) return undefined
    return Response.urlSourcePart({ id, url: new URL(address), title: title ?? address, ...described(provider, rest) })
  }
  const { sourceType: _, title, type: __, ...rest } = source
  const name = title ?? rest.id ?? (rest.index === undefined ? id : `document ${rest.index}`)
  // What it is in is not said.
  const mediaType = "application/octet-stream"
  return Response.documentSourcePart({ id, mediaType, title: name, ...described(provider, rest) })
}

/** What the parts have no fields for. */
const described = (provider: string, fields: Json) =>
  given(Object.keys(fields).length === 0 ? undefined : { [provider]: fields })

const refused = (provider: string): Metadata => ({ [provider]: { refusal: true } })

/** The parts of an answer, without its metadata and its finish. `calls` are those of the answer, in their order. */
export const partsOf = (
  provider: string,
  response: LlmResponse,
  calls: ReadonlyArray<Call>
): Array<Response.Part<Record<string, Tool.Any>>> => {
  const parts: Array<Response.Part<Record<string, Tool.Any>>> = []
  // Words of a refusal stand for the text where there is none.
  const isRefusal = response.refusal !== undefined && response.text === ""
  const content = response.content.length === 0 ? contentOf(response) : response.content
  let index = 0
  for (const part of content) {
    switch (part.type) {
      case "text": {
        const metadata = isRefusal ? refused(provider) : optionsOf(part)
        parts.push(Response.textPart({ text: part.text, ...given(metadata) }))
        break
      }
      case "reasoning":
        parts.push(Response.reasoningPart({ text: part.text, ...given(optionsOf(part)) }))
        break
      case "tool-call": {
        const call = calls[index++]
        if (call === undefined) break
        const { provider: by, signature } = part
        parts.push(callPartOf(call, optionsOf({ provider: by, signature })) as never)
        break
      }
      case "provider":
        parts.push(providerPartOf(part))
        break
    }
  }
  for (const call of calls.slice(index)) parts.push(callPartOf(call, undefined) as never)
  if (response.refusal !== undefined && !isRefusal) {
    parts.push(Response.textPart({ text: response.refusal, metadata: refused(provider) }))
  }
  for (const [index, source] of (response.sources ?? []).entries()) {
    const part = sourcePartOf(provider, source, index)
    if (part !== undefined) parts.push(part)
  }
  return parts
}

/** The content with the ids of its calls, which are the same calls in the same order. */
export const renamed = (
  content: ReadonlyArray<AssistantPart>,
  calls: ReadonlyArray<{ readonly id: string }>
): ReadonlyArray<AssistantPart> => {
  let index = 0
  return content.map((part) => {
    if (part.type !== "tool-call") return part
    const call = calls[index++]
    return call === undefined || call.id === part.id ? part : { ...part, id: call.id }
  })
}

/**
 * Ids that tell calls apart over the whole conversation: servers that give none, or count them from 0 in every answer, are
 * answered by others that refuse an id twice.
 */
export class Ids {
  private readonly used = new Set<string>()
  /** How often an id has come: counting goes on from there. */
  private readonly counts = new Map<string, number>()

  constructor(messages: ReadonlyArray<ChatMessage>) {
    for (const message of messages) {
      if (message.role !== "assistant") continue
      for (const part of message.content) if (part.type === "tool-call") this.used.add(part.id)
    }
  }

  next(wanted: string): string {
    let id = wanted
    let count = this.counts.get(wanted) ?? 1
    while (this.used.has(id)) id = `${wanted}_${++count}`
    if (count > 1) this.counts.set(wanted, count)
    this.used.add(id)
    return id
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** The arguments of a call while they come: not begun before its name and id are known. */
interface Writing {
  /** As the provider says it. */
  said: string
  name: string
  /** As it is said here; `undefined` until the part has begun. */
  id: string | undefined
  held: string
}

type Simple = Exclude<LlmStreamPart, LlmToolCall | FinishPart>
type Kind = "text" | "reasoning" | "refusal"
type StreamPart = Response.StreamPart<Record<string, Tool.Any>>

/** A streamed answer as parts: blocks are opened and closed as the kind of what comes changes. Mutable, for each chunk. */
export class Parts {
  private readonly provider: string
  private readonly ids: Ids
  private block: { readonly kind: Kind; readonly id: string } | undefined
  private blocks = 0
  private sources = 0
  private readonly writing = new Map<number, Writing>()

  constructor(provider: string, ids: Ids) {
    this.provider = provider
    this.ids = ids
  }

  /** Ends the text or the reasoning that is being written. */
  close(out: Array<StreamPart>): void {
    const { block } = this
    if (block === undefined) return
    this.block = undefined
    out.push(
      block.kind === "reasoning" ? Response.reasoningEndPart({ id: block.id }) : Response.textEndPart({ id: block.id })
    )
  }

  private delta(kind: Kind, delta: string, out: Array<StreamPart>): void {
    if (delta === "") return
    if (this.block?.kind !== kind) {
      this.close(out)
      this.block = { kind, id: String(this.blocks++) }
      const { id } = this.block
      if (kind === "reasoning") out.push(Response.reasoningStartPart({ id }))
      else out.push(Response.textStartPart({ id, ...given(kind === "refusal" ? refused(this.provider) : undefined) }))
    }
    const { id } = this.block
    out.push(kind === "reasoning" ? Response.reasoningDeltaPart({ id, delta }) : Response.textDeltaPart({ id, delta }))
  }

  private begin(one: Writing, id: string, name: string, out: Array<StreamPart>): void {
    one.id = id
    out.push(Response.toolParamsStartPart({ id, name, providerExecuted: false }))
    if (one.held !== "") out.push(Response.toolParamsDeltaPart({ id, delta: one.held }))
    one.held = ""
  }

  /** What is no whole call and no finish. */
  push(part: Simple, out: Array<StreamPart>): void {
    switch (part.type) {
      case "text-delta":
        this.delta("text", part.text, out)
        break
      case "reasoning-delta":
        this.delta("reasoning", part.text, out)
        break
      case "refusal-delta":
        this.delta("refusal", part.text, out)
        break
      case "source": {
        const source = sourcePartOf(this.provider, part, this.sources++)
        if (source !== undefined) out.push(source)
        break
      }
      case "tool-call-delta": {
        this.close(out)
        let one = this.writing.get(part.index)
        if (one === undefined) {
          one = { said: "", name: "", id: undefined, held: "" }
          this.writing.set(part.index, one)
        }
        if (part.id !== "") one.said = part.id
        if (part.name !== "") one.name = part.name
        if (one.id !== undefined) {
          if (part.text !== "") out.push(Response.toolParamsDeltaPart({ id: one.id, delta: part.text }))
          break
        }
        one.held += part.text
        if (one.said !== "" && one.name !== "") this.begin(one, this.ids.next(one.said), one.name, out)
        break
      }
    }
  }

  private oldest(is: (one: Writing) => boolean): readonly [index: number, one: Writing] | undefined {
    for (const entry of this.writing) if (is(entry[1])) return entry
    return undefined
  }

  /** A call is whole: what was being written of it ends. Gives the id by which it is known. */
  call(call: LlmToolCall, out: Array<StreamPart>): string {
    this.close(out)
    // The deltas of a server that gives no ids have none: then it is the oldest one of that name.
    const found =
      this.oldest((one) => one.said === call.id) ?? this.oldest((one) => one.said === "" && one.name === call.name)
    if (found === undefined) return this.ids.next(call.id)
    const [index, one] = found
    this.writing.delete(index)
    if (one.id === undefined) this.begin(one, this.ids.next(call.id), call.name, out)
    const id = one.id ?? call.id
    out.push(Response.toolParamsEndPart({ id }))
    return id
  }

  /** The answer has ended. */
  end(out: Array<StreamPart>): void {
    this.close(out)
    for (const { id } of this.writing.values()) if (id !== undefined) out.push(Response.toolParamsEndPart({ id }))
    this.writing.clear()
  }
}
