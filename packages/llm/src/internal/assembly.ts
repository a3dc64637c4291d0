/**
 * One streamed answer while it is put together, the same for every wire format: what has arrived, in its order, the parts
 * that are to be handed on, and how it ended. Mutable, since it is touched for every chunk.
 */
import type { AssistantPart } from "@underlay/core/state/ChatMessage"
import type { LlmError } from "../LlmError.ts"
import type { Finish, LlmSource, LlmStreamPart, LlmToolCall, PartialResponse, Usage } from "../LlmResponse.ts"
import { type CallContext, type Envelope, errorOf, ownError, type Place } from "./classify.ts"
import { Sources, type Span } from "./sources.ts"
import { TextBuffer } from "./textBuffer.ts"

type TextBlock = {
  readonly type: "text" | "reasoning"
  readonly text: TextBuffer
  signature: string | undefined
  id: string | undefined
  closed: boolean
}
type Block = TextBlock | { readonly type: "call"; readonly part: AssistantPart } | { type: "provider"; data: unknown }

/** The empty usage, of which there need be only one. */
export const noUsage: Usage = {}

export class Assembly {
  id: string | undefined
  model: string | undefined
  usage: Usage = noUsage
  finishReason: string | undefined
  /** Set once the stream has failed: nothing that comes after counts. */
  failure: LlmError | undefined
  /** The finish has been handed on. */
  ended = false
  /** Text, reasoning, a refusal or a piece of a call has arrived. */
  hadContent = false
  /** Of the visible text that has come. */
  textLength = 0
  /** How often the provider has shown that it is at work without a part to hand on. */
  private works = 0
  readonly calls: Array<LlmToolCall> = []
  private readonly context: CallContext
  private readonly blocks: Array<Block> = []
  private refusal: TextBuffer | undefined
  private sources: Sources | undefined
  private out: Array<LlmStreamPart> = []

  constructor(context: CallContext) {
    this.context = context
  }

  /** The parts that have come since the last time. */
  take(): ReadonlyArray<LlmStreamPart> {
    const parts = this.out
    if (parts.length > 0) this.out = []
    return parts
  }

  /** The provider works: what it has done now is no part of the answer, or will be later. */
  onWork(): void {
    this.works += 1
  }

  /** Grows with all that shows the provider at work: what it says of that, and what it has used up. */
  get progress(): number {
    const { input = 0, output = 0, reasoning = 0 } = this.usage
    return this.works + input + output + reasoning
  }

  /** Content begins: sources that were told before it come first. */
  private begin(): void {
    this.hadContent = true
    this.handOnSources()
  }

  private handOnSources(): void {
    if (this.sources !== undefined) for (const source of this.sources.all) this.out.push(source)
  }

  private open(type: "text" | "reasoning"): TextBlock {
    const last = this.blocks.at(-1)
    if (last !== undefined && last.type === type && !last.closed) return last
    const block: TextBlock = { type, text: new TextBuffer(), signature: undefined, id: undefined, closed: false }
    this.blocks.push(block)
    return block
  }

  /** More of the visible text. */
  onText(text: string): void {
    if (text === "") return
    if (!this.hadContent) this.begin()
    this.textLength += text.length
    this.open("text").text.add(text)
    if (this.sources !== undefined) this.sources.onText(text)
    this.out.push({ type: "text-delta", text })
  }

  /** More of the reasoning. */
  onReasoning(text: string): void {
    if (text === "") return
    if (!this.hadContent) this.begin()
    this.open("reasoning").text.add(text)
    this.out.push({ type: "reasoning-delta", text })
  }

  /** More of the words with which the model refuses. */
  onRefusal(text: string): void {
    if (text === "") return
    if (!this.hadContent) this.begin()
    this.refusal ??= new TextBuffer()
    this.refusal.add(text)
    this.out.push({ type: "refusal-delta", text })
  }

  /** The proof of the text or reasoning that is being written, or of an empty one: always the whole of it. */
  sign(
    type: "text" | "reasoning",
    proof: { readonly signature?: string | undefined; readonly id?: string | undefined }
  ) {
    const block = this.open(type)
    if (proof.signature !== undefined && proof.signature !== block.signature) {
      block.signature = proof.signature
      this.onWork()
    }
    if (proof.id !== undefined) block.id = proof.id
  }

  /** The text or reasoning that is being written is whole: what comes next is another. */
  close(): void {
    const last = this.blocks.at(-1)
    if (last !== undefined && (last.type === "text" || last.type === "reasoning")) last.closed = true
  }

  /** More of the arguments of a call that is being written; `index` counts the calls from 0. */
  onCallDelta(index: number, id: string, name: string, text: string): void {
    if (!this.hadContent) this.begin()
    this.out.push({ type: "tool-call-delta", index, id, name, text })
  }

  /** A whole call. */
  onCall(call: LlmToolCall): void {
    if (!this.hadContent) this.begin()
    this.calls.push(call)
    this.blocks.push({ type: "call", part: callPart(call) })
    this.out.push(call)
  }

  /** Where something in the answer comes from, and to what of it that belongs. It may be said again. */
  onSource(source: LlmSource, span?: Span): void {
    this.sources ??= new Sources(
      () => this.textOf("text"),
      (told) => {
        // No answer has begun with a source alone: whether it may be asked for again is told by its content.
        if (this.hadContent) this.out.push(told)
        else this.onWork()
      }
    )
    this.sources.add(source, span)
  }

  /** The sources as a field of an answer, which has none where there are none. */
  get cited(): { readonly sources?: ReadonlyArray<LlmSource> } {
    return this.sources === undefined ? {} : this.sources.field
  }

  /** A part that only this provider understands. */
  onProviderPart(data: unknown): void {
    this.blocks.push({ type: "provider", data })
    this.onWork()
  }

  /** What has been said, in its order, as it would be sent back. Unsigned blocks without a word are left out. */
  content(): ReadonlyArray<AssistantPart> {
    const { provider } = this.context
    const parts: Array<AssistantPart> = []
    for (const block of this.blocks) {
      if (block.type === "call") parts.push(block.part)
      else if (block.type === "provider") parts.push({ type: "provider", provider, data: block.data })
      else {
        const text = block.text.toString()
        const { id, signature } = block
        const proof = {
          ...(signature === undefined ? {} : { signature }),
          ...(signature === undefined && id === undefined ? {} : { provider })
        }
        if (text === "" && signature === undefined && id === undefined) continue
        parts.push(
          block.type === "text"
            ? { type: "text", text, ...proof }
            : { type: "reasoning", text, ...(id === undefined ? {} : { id }), ...proof }
        )
      }
    }
    if (this.refusal !== undefined && !parts.some((part) => part.type === "text")) {
      parts.push({ type: "text", text: this.refusal.toString() })
    }
    return parts
  }

  private textOf(type: "text" | "reasoning"): string {
    const texts: Array<string> = []
    for (const block of this.blocks) if (block.type === type) texts.push(block.text.toString())
    return texts.length === 1 ? (texts[0] ?? "") : texts.join("")
  }

  /** What has arrived, with the calls that are whole. `calls` are whole ones that have not been handed on. */
  partial(calls: ReadonlyArray<LlmToolCall> = []): PartialResponse {
    return {
      id: this.id,
      model: this.model,
      text: this.textOf("text"),
      reasoning: this.textOf("reasoning"),
      refusal: this.refusal?.toString(),
      toolCalls: [...this.calls, ...calls]
    }
  }

  /** Where an error was found. */
  place(midStream: boolean, calls?: ReadonlyArray<LlmToolCall>): Place {
    return {
      context: this.context,
      status: 200,
      midStream,
      hadContent: this.hadContent,
      partial: this.partial(calls),
      usage: this.usage
    }
  }

  /** The stream has failed; the first failure counts. */
  fail(error: LlmError): void {
    this.failure ??= error
  }

  /** The provider's error inside the stream. */
  failWith(envelope: Envelope, midStream = true, calls?: ReadonlyArray<LlmToolCall>): void {
    this.fail(errorOf(envelope, this.place(midStream, calls)))
  }

  /** A fault of the stream itself. */
  failBecause(
    reason: "StreamTruncated" | "MalformedResponse",
    options?: {
      readonly issue?: string | undefined
      readonly midStream?: boolean | undefined
      readonly calls?: ReadonlyArray<LlmToolCall> | undefined
    }
  ): void {
    this.fail(ownError(reason, { ...this.place(options?.midStream ?? true, options?.calls), issue: options?.issue }))
  }

  /** The answer is whole. */
  finish(finish: Finish): void {
    if (this.ended || this.failure !== undefined) return
    this.sources?.settle()
    if (!this.hadContent) this.handOnSources()
    this.ended = true
    this.out.push({
      type: "finish",
      finish,
      finishReason: this.finishReason,
      usage: this.usage,
      model: this.model,
      id: this.id,
      content: this.content(),
      rateLimits: undefined
    })
  }
}

const callPart = (call: LlmToolCall): AssistantPart => ({
  type: "tool-call",
  id: call.id,
  name: call.name,
  arguments: call.arguments,
  ...(call.signature === undefined ? {} : { signature: call.signature }),
  ...(call.provider === undefined ? {} : { provider: call.provider })
})
