/**
 * What is asked of a language model, as data: the conversation, the tools, the shape of the answer. The same request can
 * be sent to every provider.
 *
 * @since 0.1.0
 */
import { ChatMessage } from "@underlay/core/state/ChatMessage"
import * as Schema from "effect/Schema"
import { LlmTool } from "./LlmTool.ts"

/**
 * Whether the model may (`auto`), must not (`none`) or must (`required`) call a tool, or which one it must call.
 *
 * @since 0.1.0
 * @category schemas
 */
export const ToolChoice = Schema.Union(
  Schema.Literal("auto", "none", "required"),
  Schema.Struct({ name: Schema.String })
)
/**
 * @since 0.1.0
 * @category models
 */
export type ToolChoice = typeof ToolChoice.Type

/**
 * The shape of the answer: any text, any JSON object, or JSON that fits a JSON Schema.
 *
 * @since 0.1.0
 * @category schemas
 */
export const ResponseFormat = Schema.Union(
  Schema.Struct({ type: Schema.Literal("text") }),
  Schema.Struct({ type: Schema.Literal("json") }),
  Schema.Struct({
    type: Schema.Literal("json-schema"),
    name: Schema.String,
    description: Schema.optional(Schema.String),
    schema: Schema.Record({ key: Schema.String, value: Schema.Unknown }),
    strict: Schema.optional(Schema.Boolean)
  })
)
/**
 * @since 0.1.0
 * @category models
 */
export type ResponseFormat = typeof ResponseFormat.Type

/**
 * A request. `model` overrides the layer's. `maxTokens` bounds the answer. `reasoningEffort` is the provider's word for
 * how long to think (`low`, `medium`, `high`, …). `providerOptions` has, by provider name, fields that are put into the
 * body as they are: `{ openai: { service_tier: "flex" } }`; those of other providers are left out.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmRequest = Schema.Struct({
  messages: Schema.Array(ChatMessage),
  model: Schema.optional(Schema.String),
  temperature: Schema.optional(Schema.Number),
  topP: Schema.optional(Schema.Number),
  maxTokens: Schema.optional(Schema.Number),
  stop: Schema.optional(Schema.Array(Schema.String)),
  seed: Schema.optional(Schema.Number),
  reasoningEffort: Schema.optional(Schema.String),
  tools: Schema.optional(Schema.Array(LlmTool)),
  toolChoice: Schema.optional(ToolChoice),
  parallelToolCalls: Schema.optional(Schema.Boolean),
  responseFormat: Schema.optional(ResponseFormat),
  providerOptions: Schema.optional(
    Schema.Record({ key: Schema.String, value: Schema.Record({ key: Schema.String, value: Schema.Unknown }) })
  )
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmRequest extends Schema.Schema.Type<typeof LlmRequest> {}
