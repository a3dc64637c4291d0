/**
 * What a language model answers, as data: a whole response, or the parts of a streamed one.
 *
 * @since 0.1.0
 */
import { AssistantPart, type ChatMessage } from "@underlay/core/state/ChatMessage"
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
 * What is left of one limit: `limit` and `remaining` as counts, `resetAfter` the milliseconds until it is whole again.
 *
 * @since 0.1.0
 * @category schemas
 */
export const RateLimit = Schema.Struct({
  limit: Schema.optional(Schema.Number),
  remaining: Schema.optional(Schema.Number),
  resetAfter: Schema.optional(Schema.Number)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface RateLimit extends Schema.Schema.Type<typeof RateLimit> {}

/**
 * What the provider says of its rate limits with an answer, as far as it says anything. The windows are the provider's
 * own: Groq's `requests` are of a day, those of others of a minute.
 *
 * @since 0.1.0
 * @category schemas
 */
export const RateLimits = Schema.Struct({
  requests: Schema.optional(RateLimit),
  tokens: Schema.optional(RateLimit),
  inputTokens: Schema.optional(RateLimit),
  outputTokens: Schema.optional(RateLimit)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface RateLimits extends Schema.Schema.Type<typeof RateLimits> {}

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
  invalid: Schema.optional(Schema.String),
  signature: Schema.optional(Schema.String),
  provider: Schema.optional(Schema.String)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmToolCall extends Schema.Schema.Type<typeof LlmToolCall> {}

const Cited = {
  type: Schema.Literal("source"),
  title: Schema.optional(Schema.String),
  quote: Schema.optional(Schema.String),
  start: Schema.optional(Schema.Number),
  end: Schema.optional(Schema.Number)
}

/**
 * A page of the web that the answer draws on. See `LlmSource`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const UrlSource = Schema.Struct({
  ...Cited,
  sourceType: Schema.Literal("url"),
  url: Schema.String
})
/**
 * @since 0.1.0
 * @category models
 */
export interface UrlSource extends Schema.Schema.Type<typeof UrlSource> {}

/**
 * A document that the answer draws on: one that the request held, that a store of the provider found, or that the provider
 * made. `id` is the provider's name for it (a file id, a resource name), `containerId` the sandbox in which it lies, and
 * `index` its place among the documents of the request, counted from 0. See `LlmSource`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const DocumentSource = Schema.Struct({
  ...Cited,
  sourceType: Schema.Literal("document"),
  id: Schema.optional(Schema.String),
  containerId: Schema.optional(Schema.String),
  index: Schema.optional(Schema.Number)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface DocumentSource extends Schema.Schema.Type<typeof DocumentSource> {}

/**
 * Where something in the answer comes from, as the provider says it; what it does not say is absent. `quote` is the
 * source's own words. A source that is cited at several places, or with several quotes, is there once for each.
 *
 * `start` and `end` tell to what of the answer it belongs: `text.slice(start, end)` of the whole answer's `text`, so they
 * count UTF-16 code units, whatever the provider counts. Anthropic cites for a block of text, which is then the place;
 * Google's bytes are converted, and left out where they do not fit the words that Google repeats with them. Other
 * providers speak of characters without saying which: those are taken for Unicode code points from the beginning of the
 * part, the end not included. A place that is not within the text is left out.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmSource = Schema.Union(UrlSource, DocumentSource)
/**
 * @since 0.1.0
 * @category models
 */
export type LlmSource = typeof LlmSource.Type

/**
 * A whole answer. `text` is everything visible, `reasoning` what the model showed of its reasoning, `refusal` its words if
 * it refused. `id` and `model` are what the provider named. `content` is the same in its order, with all that must go back
 * to the provider when the conversation goes on: see `toMessage`. `sources` are absent where the provider named none.
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
  sources: Schema.optional(Schema.Array(LlmSource)),
  content: Schema.Array(AssistantPart),
  finish: Finish,
  finishReason: Schema.optional(Schema.String),
  usage: Usage,
  rateLimits: Schema.optional(RateLimits)
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
 * The end of the answer: the last part of every stream that does not fail. `content` is the whole answer, as in
 * `LlmResponse`.
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
  readonly content: ReadonlyArray<AssistantPart>
  readonly rateLimits: RateLimits | undefined
}

/**
 * One part of a streamed answer. Texts joined with nothing between give the fields of an `LlmResponse`. A source comes as
 * soon as it and its place are known, though never before the answer has begun: with Anthropic at the end of its block of
 * text, with Google at the end of the answer. A stream that ends without failure ends with exactly one `finish`.
 *
 * @since 0.1.0
 * @category models
 */
export type LlmStreamPart =
  | TextDelta
  | ReasoningDelta
  | RefusalDelta
  | ToolCallDelta
  | LlmToolCall
  | LlmSource
  | FinishPart

/**
 * The parts of an answer that has no structure but its texts and its calls: reasoning, text and calls in this order. A
 * refusal without any text becomes the text.
 *
 * @since 0.1.0
 * @category combinators
 */
export const contentOf = (answer: {
  readonly text: string
  readonly reasoning: string
  readonly refusal?: string | undefined
  readonly toolCalls: ReadonlyArray<LlmToolCall>
}): ReadonlyArray<AssistantPart> => {
  const text = answer.text === "" ? (answer.refusal ?? "") : answer.text
  return [
    ...(answer.reasoning === "" ? [] : [{ type: "reasoning" as const, text: answer.reasoning }]),
    ...(text === "" ? [] : [{ type: "text" as const, text }]),
    ...answer.toolCalls.map(toPart)
  ]
}

const toPart = (call: LlmToolCall): AssistantPart => ({
  type: "tool-call",
  id: call.id,
  name: call.name,
  arguments: call.arguments,
  ...(call.signature === undefined ? {} : { signature: call.signature }),
  ...(call.provider === undefined ? {} : { provider: call.provider })
})

/**
 * The answer as a message of the conversation, to be sent back with the next request: with the signatures and parts that
 * the provider wants to see again. Those of one provider are not sent to another.
 *
 * @since 0.1.0
 * @category combinators
 */
export const toMessage = (response: {
  readonly text: string
  readonly reasoning: string
  readonly refusal?: string | undefined
  readonly toolCalls: ReadonlyArray<LlmToolCall>
  readonly content?: ReadonlyArray<AssistantPart> | undefined
}): Extract<ChatMessage, { readonly role: "assistant" }> => ({
  role: "assistant",
  content: response.content === undefined || response.content.length === 0 ? contentOf(response) : response.content
})

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
  const sources: Array<LlmSource> = []
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
      case "source":
        sources.push(part)
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
    ...(sources.length === 0 ? {} : { sources }),
    content: end.content.length === 0 ? contentOf({ text, reasoning, refusal, toolCalls }) : end.content,
    finish: end.finish,
    finishReason: end.finishReason,
    usage: end.usage,
    ...(end.rateLimits === undefined ? {} : { rateLimits: end.rateLimits })
  }
}
