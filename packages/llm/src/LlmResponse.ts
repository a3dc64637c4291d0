/**
 * What a language model answers, as data: a whole response, or the parts of a streamed one.
 *
 * @since 0.1.0
 */
import type { ChatMessage } from "@underlay/core/state/ChatMessage"
import * as Schema from "effect/Schema"

/**
 * Why the model stopped. `stop`: it had finished. `length`: a limit of tokens. `tool-calls`: it waits for the answers of
 * tools. `content-filter`: the provider withheld the rest. `pause`: it will go on when the conversation is sent back as
 * it is. `other`: a reason that has no name here; the provider's own word is in `finishReason`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Finish = Schema.Literal("stop", "length", "tool-calls", "content-filter", "pause", "other")
/**
 * @since 0.1.0
 * @category models
 */
export type Finish = typeof Finish.Type

/**
 * Tokens, as the provider counted them; absent where it did not say. `input` includes what was read from or written to
 * the provider's prompt cache, `output` includes reasoning.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Usage = Schema.Struct({
  input: Schema.optional(Schema.Number),
  output: Schema.optional(Schema.Number),
  cachedInput: Schema.optional(Schema.Number),
  cacheWrite: Schema.optional(Schema.Number),
  reasoning: Schema.optional(Schema.Number)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface Usage extends Schema.Schema.Type<typeof Usage> {}

/**
 * A tool that the model asks the caller to run. `arguments` is the parsed JSON value (`{}` where there are none). If the
 * model wrote something that is not JSON, `invalid` has its text and `arguments` is `{ __invalid: text }`, so that the
 * call can still be answered and sent back.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmToolCall = Schema.Struct({
  type: Schema.Literal("tool-call"),
  id: Schema.String,
  name: Schema.String,
  arguments: Schema.Unknown,
  invalid: Schema.optional(Schema.String)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmToolCall extends Schema.Schema.Type<typeof LlmToolCall> {}

/**
 * A whole answer. `text` is everything visible, `reasoning` what the model showed of its reasoning, `refusal` its words if
 * it refused. `id` and `model` are what the provider named.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmResponse = Schema.Struct({
  id: Schema.optional(Schema.String),
  model: Schema.optional(Schema.String),
  text: Schema.String,
  reasoning: Schema.String,
  refusal: Schema.optional(Schema.String),
  toolCalls: Schema.Array(LlmToolCall),
  finish: Finish,
  finishReason: Schema.optional(Schema.String),
  usage: Usage
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmResponse extends Schema.Schema.Type<typeof LlmResponse> {}

/**
 * What had arrived of an answer that broke. Of the tool calls only the complete ones are kept.
 *
 * @since 0.1.0
 * @category schemas
 */
export const PartialResponse = Schema.Struct({
  id: Schema.optional(Schema.String),
  model: Schema.optional(Schema.String),
  text: Schema.String,
  reasoning: Schema.String,
  refusal: Schema.optional(Schema.String),
  toolCalls: Schema.Array(LlmToolCall)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface PartialResponse extends Schema.Schema.Type<typeof PartialResponse> {}

/**
 * More of the visible text.
 *
 * @since 0.1.0
 * @category models
 */
export interface TextDelta {
  readonly type: "text-delta"
  readonly text: string
}

/**
 * More of the reasoning.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReasoningDelta {
  readonly type: "reasoning-delta"
  readonly text: string
}

/**
 * More of the words with which the model refuses.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefusalDelta {
  readonly type: "refusal-delta"
  readonly text: string
}

/**
 * More of the arguments of the `index`-th tool call, as text, for those who show them while they come. `id` and `name` are
 * empty until the provider has said them. The whole call follows as a `tool-call`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ToolCallDelta {
  readonly type: "tool-call-delta"
  readonly index: number
  readonly id: string
  readonly name: string
  readonly text: string
}

/**
 * The end of the answer: the last part of every stream that does not fail.
 *
 * @since 0.1.0
 * @category models
 */
export interface FinishPart {
  readonly type: "finish"
  readonly finish: Finish
  readonly finishReason: string | undefined
  readonly usage: Usage
  readonly model: string | undefined
  readonly id: string | undefined
}

/**
 * One part of a streamed answer. Texts joined with nothing between give the fields of an `LlmResponse`. A stream that ends
 * without failure ends with exactly one `finish`.
 *
 * @since 0.1.0
 * @category models
 */
export type LlmStreamPart = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | LlmToolCall | FinishPart

/**
 * The answer as a message of the conversation, to be sent back with the next request: reasoning, text and tool calls in
 * this order. A refusal without any text becomes the text.
 *
 * @since 0.1.0
 * @category combinators
 */
export const toMessage = (response: {
  readonly text: string
  readonly reasoning: string
  readonly refusal?: string | undefined
  readonly toolCalls: ReadonlyArray<LlmToolCall>
}): Extract<ChatMessage, { readonly role: "assistant" }> => {
  const text = response.text === "" ? (response.refusal ?? "") : response.text
  return {
    role: "assistant",
    content: [
      ...(response.reasoning === "" ? [] : [{ type: "reasoning" as const, text: response.reasoning }]),
      ...(text === "" ? [] : [{ type: "text" as const, text }]),
      ...response.toolCalls.map((call) => ({
        type: "tool-call" as const,
        id: call.id,
        name: call.name,
        arguments: call.arguments
      }))
    ]
  }
}

/**
 * The parts of a stream put together again; `undefined` while there is no `finish` among them.
 *
 * @since 0.1.0
 * @category combinators
 */
export const fromParts = (parts: Iterable<LlmStreamPart>): LlmResponse | undefined => {
  let text = ""
  let reasoning = ""
  let refusal: string | undefined
  let end: FinishPart | undefined
  const toolCalls: Array<LlmToolCall> = []
  for (const part of parts) {
    switch (part.type) {
      case "text-delta":
        text += part.text
        break
      case "reasoning-delta":
        reasoning += part.text
        break
      case "refusal-delta":
        refusal = (refusal ?? "") + part.text
        break
      case "tool-call":
        toolCalls.push(part)
        break
      case "finish":
        end = part
        break
      case "tool-call-delta":
        break
    }
  }
  if (end === undefined) return undefined
  return {
    id: end.id,
    model: end.model,
    text,
    reasoning,
    refusal,
    toolCalls,
    finish: end.finish,
    finishReason: end.finishReason,
    usage: end.usage
  }
}
