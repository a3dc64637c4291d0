/**
 * The messages of a conversation, as data: what conversation memory keeps and what language models are sent. They are
 * plain JSON once encoded, so that a store in another process or another language can hold them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

const provenance = {
  signature: Schema.optionalWith(Schema.String, { exact: true }),
  provider: Schema.optionalWith(Schema.String, { exact: true })
}

/**
 * Visible text. Some providers sign what their models write: `signature` is that proof, replayed to `provider` only.
 *
 * @since 0.1.0
 * @category models
 */
export const TextPart = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String, ...provenance })
/**
 * @since 0.1.0
 * @category models
 */
export type TextPart = typeof TextPart.Type

/**
 * What a model said of its reasoning. `signature` is the provider's proof of it (or the whole of it, encrypted) and `id`
 * its name there; both are replayed to that `provider` only.
 *
 * @since 0.1.0
 * @category models
 */
export const ReasoningPart = Schema.Struct({
  type: Schema.Literal("reasoning"),
  text: Schema.String,
  id: Schema.optionalWith(Schema.String, { exact: true }),
  ...provenance
})
/**
 * @since 0.1.0
 * @category models
 */
export type ReasoningPart = typeof ReasoningPart.Type

/**
 * A file or an image: its bytes (base64 when encoded) or an absolute URL that the provider can read.
 *
 * @since 0.1.0
 * @category models
 */
export const FilePart = Schema.Struct({
  type: Schema.Literal("file"),
  mediaType: Schema.String,
  name: Schema.optionalWith(Schema.String, { exact: true }),
  source: Schema.Union(
    Schema.Struct({ type: Schema.Literal("bytes"), bytes: Schema.Uint8ArrayFromBase64 }),
    Schema.Struct({ type: Schema.Literal("url"), url: Schema.String })
  )
})
/**
 * @since 0.1.0
 * @category models
 */
export type FilePart = typeof FilePart.Type

/**
 * A tool that the model asks the caller to run. `arguments` is the parsed JSON value. `signature` is the proof of the
 * reasoning that led to the call, replayed to `provider` only.
 *
 * @since 0.1.0
 * @category models
 */
export const ToolCallPart = Schema.Struct({
  type: Schema.Literal("tool-call"),
  id: Schema.String,
  name: Schema.String,
  arguments: Schema.Unknown,
  ...provenance
})
/**
 * @since 0.1.0
 * @category models
 */
export type ToolCallPart = typeof ToolCallPart.Type

/**
 * A part of an answer that only its `provider` understands (a search that it ran, redacted reasoning, a compaction), in
 * that provider's own words: kept so that it can be sent back as it was, to that provider only.
 *
 * @since 0.1.0
 * @category models
 */
export const ProviderPart = Schema.Struct({
  type: Schema.Literal("provider"),
  provider: Schema.String,
  data: Schema.Unknown
})
/**
 * @since 0.1.0
 * @category models
 */
export type ProviderPart = typeof ProviderPart.Type

/**
 * What the tool of the call with the same `id` answered.
 *
 * @since 0.1.0
 * @category models
 */
export const ToolResultPart = Schema.Struct({
  type: Schema.Literal("tool-result"),
  id: Schema.String,
  name: Schema.String,
  result: Schema.Unknown,
  isError: Schema.optionalWith(Schema.Boolean, { exact: true })
})
/**
 * @since 0.1.0
 * @category models
 */
export type ToolResultPart = typeof ToolResultPart.Type

/**
 * Instructions to the model.
 *
 * @since 0.1.0
 * @category models
 */
export const SystemMessage = Schema.Struct({ role: Schema.Literal("system"), content: Schema.String })
/**
 * What the user said: text, images, files.
 *
 * @since 0.1.0
 * @category models
 */
export const UserMessage = Schema.Struct({
  role: Schema.Literal("user"),
  content: Schema.Array(Schema.Union(TextPart, FilePart))
})
/**
 * One part of what the model said.
 *
 * @since 0.1.0
 * @category models
 */
export const AssistantPart = Schema.Union(TextPart, ReasoningPart, ToolCallPart, ProviderPart)
/**
 * @since 0.1.0
 * @category models
 */
export type AssistantPart = typeof AssistantPart.Type

/**
 * What the model said, and which tools it asked for.
 *
 * @since 0.1.0
 * @category models
 */
export const AssistantMessage = Schema.Struct({
  role: Schema.Literal("assistant"),
  content: Schema.Array(AssistantPart)
})
/**
 * The answers of tools.
 *
 * @since 0.1.0
 * @category models
 */
export const ToolMessage = Schema.Struct({ role: Schema.Literal("tool"), content: Schema.Array(ToolResultPart) })

/**
 * One message of a conversation.
 *
 * @since 0.1.0
 * @category schemas
 */
export const ChatMessage = Schema.Union(SystemMessage, UserMessage, AssistantMessage, ToolMessage)
/**
 * @since 0.1.0
 * @category models
 */
export type ChatMessage = typeof ChatMessage.Type

/**
 * Instructions to the model.
 *
 * @since 0.1.0
 * @category constructors
 */
export const system = (content: string): ChatMessage => ({ role: "system", content })

/**
 * A user's message of text alone.
 *
 * @since 0.1.0
 * @category constructors
 */
export const user = (text: string): ChatMessage => ({ role: "user", content: [{ type: "text", text }] })

/**
 * A model's message of text alone.
 *
 * @since 0.1.0
 * @category constructors
 */
export const assistant = (text: string): ChatMessage => ({ role: "assistant", content: [{ type: "text", text }] })

/**
 * The visible text of a message, its parts joined with nothing between.
 *
 * @since 0.1.0
 * @category combinators
 */
export const textOf = (message: ChatMessage): string => {
  if (message.role === "system") return message.content
  let text = ""
  for (const part of message.content) if (part.type === "text") text += part.text
  return text
}
