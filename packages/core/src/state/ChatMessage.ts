/**
 * The messages of a conversation, as data: what conversation memory keeps and what language models are sent. They are
 * plain JSON once encoded, so that a store in another process or another language can hold them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Visible text.
 *
 * @since 0.1.0
 * @category models
 */
export const TextPart = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String })
/**
 * @since 0.1.0
 * @category models
 */
export type TextPart = typeof TextPart.Type

/**
 * What a model said of its reasoning. `signature` is the provider's proof of it, replayed to that provider only;
 * `provider` names which.
 *
 * @since 0.1.0
 * @category models
 */
export const ReasoningPart = Schema.Struct({
  type: Schema.Literal("reasoning"),
  text: Schema.String,
  signature: Schema.optionalWith(Schema.String, { exact: true }),
  provider: Schema.optionalWith(Schema.String, { exact: true })
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
 * A tool that the model asks the caller to run. `arguments` is the parsed JSON value.
 *
 * @since 0.1.0
 * @category models
 */
export const ToolCallPart = Schema.Struct({
  type: Schema.Literal("tool-call"),
  id: Schema.String,
  name: Schema.String,
  arguments: Schema.Unknown
})
/**
 * @since 0.1.0
 * @category models
 */
export type ToolCallPart = typeof ToolCallPart.Type

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
 * What the model said, and which tools it asked for.
 *
 * @since 0.1.0
 * @category models
 */
export const AssistantMessage = Schema.Struct({
  role: Schema.Literal("assistant"),
  content: Schema.Array(Schema.Union(TextPart, ReasoningPart, ToolCallPart))
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
