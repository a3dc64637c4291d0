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
 * How the beginning of a request is kept by the provider, so that the next request which begins the same costs less.
 *
 * - `key`: what requests with the same beginning have in common; routes them to the same cache (OpenAI, Azure).
 * - `ttl`: `short` is what the provider keeps by itself (minutes), `long` an hour or a day.
 * - `breakpoints`: the indexes of messages after which the beginning is worth keeping (Anthropic, at most four, by default
 *   after the last system message and after the last message; OpenAI's models from GPT-5.6 on).
 *
 * Providers that keep beginnings by themselves, or not at all, take no notice of what they have no field for.
 *
 * @since 0.1.0
 * @category schemas
 */
export const PromptCache = Schema.Struct({
  key: Schema.optional(Schema.String),
  ttl: Schema.optional(Schema.Literal("short", "long")),
  breakpoints: Schema.optional(Schema.Array(Schema.NonNegativeInt))
})
/**
 * @since 0.1.0
 * @category models
 */
export interface PromptCache extends Schema.Schema.Type<typeof PromptCache> {}

type Fields = Readonly<Record<string, unknown>>

/**
 * Fields of a provider's own, put into the body of the request as they are, by the provider's name: those that are known
 * are typed, others are allowed, and those of another provider are left out.
 *
 * ```ts
 * { openai: { service_tier: "flex" }, anthropic: { thinking: { type: "enabled", budget_tokens: 2048 } } }
 * ```
 *
 * @since 0.1.0
 * @category models
 */
export interface ProviderOptions {
  readonly [provider: string]: Fields | undefined
  readonly openai?:
    | (Fields & {
        readonly service_tier?: "auto" | "default" | "flex" | "scale" | "priority" | undefined
        readonly store?: boolean | undefined
        readonly metadata?: Readonly<Record<string, string>> | undefined
        readonly safety_identifier?: string | undefined
        readonly verbosity?: "low" | "medium" | "high" | undefined
        readonly logit_bias?: Readonly<Record<string, number>> | undefined
        readonly previous_response_id?: string | undefined
        readonly truncation?: "auto" | "disabled" | undefined
        readonly include?: ReadonlyArray<string> | undefined
        readonly max_tool_calls?: number | undefined
        readonly reasoning?:
          | (Fields & {
              readonly summary?: "auto" | "concise" | "detailed" | undefined
              readonly context?: "auto" | "current_turn" | "all_turns" | undefined
            })
          | undefined
        /** Tools that OpenAI runs itself (`{ type: "web_search" }`), added to those of the request. */
        readonly tools?: ReadonlyArray<Fields & { readonly type: string }> | undefined
        readonly prompt_cache_options?:
          | { readonly mode?: "implicit" | "explicit" | undefined; readonly ttl?: string | undefined }
          | undefined
      })
    | undefined
  readonly anthropic?:
    | (Fields & {
        /** Takes the place of what `reasoningEffort` would ask for. `display` says whether the thinking is shown. */
        readonly thinking?:
          | {
              readonly type: "enabled"
              readonly budget_tokens: number
              readonly display?: "summarized" | "omitted" | undefined
            }
          | { readonly type: "adaptive"; readonly display?: "summarized" | "omitted" | undefined }
          | { readonly type: "between_tools" }
          | { readonly type: "disabled" }
          | undefined
        /** Added to the format and the effort that the request asks for; where both say something, this counts. */
        readonly output_config?:
          | (Fields & { readonly effort?: "low" | "medium" | "high" | "xhigh" | "max" | undefined })
          | undefined
        /** Tools that Anthropic runs, such as its web search: added to those of the request. */
        readonly tools?: ReadonlyArray<Fields> | undefined
        readonly service_tier?: "auto" | "standard_only" | undefined
        readonly metadata?: { readonly user_id: string } | undefined
        readonly container?: string | Fields | undefined
        readonly context_management?: Fields | undefined
        readonly mcp_servers?: ReadonlyArray<Fields> | undefined
      })
    | undefined
  readonly google?:
    | (Fields & {
        readonly safetySettings?: ReadonlyArray<{ readonly category: string; readonly threshold: string }> | undefined
        readonly cachedContent?: string | undefined
        readonly generationConfig?:
          | (Fields & {
              readonly thinkingConfig?:
                | {
                    readonly thinkingLevel?: "minimal" | "low" | "medium" | "high" | undefined
                    readonly thinkingBudget?: number | undefined
                    readonly includeThoughts?: boolean | undefined
                  }
                | undefined
              readonly responseModalities?: ReadonlyArray<"TEXT" | "IMAGE" | "AUDIO"> | undefined
              readonly mediaResolution?: string | undefined
            })
          | undefined
        /** Tools that Google runs, beside those of the request: `[{ googleSearch: {} }]`. */
        readonly tools?: ReadonlyArray<Fields> | undefined
        readonly toolConfig?: Fields | undefined
        readonly serviceTier?: "standard" | "flex" | "priority" | undefined
      })
    | undefined
  readonly groq?:
    | (Fields & {
        readonly service_tier?: "auto" | "on_demand" | "flex" | "performance" | undefined
        readonly reasoning_format?: "hidden" | "raw" | "parsed" | undefined
        readonly include_reasoning?: boolean | undefined
      })
    | undefined
  readonly ollama?:
    | (Fields & {
        /** Settings of the model (`num_ctx`, `min_p`, …): these win over those of the request. */
        readonly options?: Fields | undefined
        /** `10m`, or seconds; negative for ever, 0 to unload at once. */
        readonly keep_alive?: string | number | undefined
        /** Takes the place of what `reasoningEffort` would ask for. */
        readonly think?: boolean | "low" | "medium" | "high" | "max" | undefined
        /** False: a conversation above the window is an error; by default the server leaves out its oldest messages. */
        readonly truncate?: boolean | undefined
        /** False: an answer ends where the window does; by default the server forgets the beginning and goes on. */
        readonly shift?: boolean | undefined
        readonly logprobs?: boolean | undefined
        readonly top_logprobs?: number | undefined
      })
    | undefined
}

const ProviderOptions: Schema.Schema<ProviderOptions> = Schema.Record({
  key: Schema.String,
  value: Schema.UndefinedOr(Schema.Record({ key: Schema.String, value: Schema.Unknown }))
}) as Schema.Schema<ProviderOptions>

/**
 * A request. `model` overrides the layer's. `maxTokens` bounds the answer. `reasoningEffort` is the provider's word for
 * how long to think (`low`, `medium`, `high`, …). Of the settings of sampling, a provider that has none of that name takes
 * no notice.
 *
 * `parallelToolCalls: false` asks for at most one call of a tool in an answer. It is a wish: Google's and Ollama's own
 * formats have no word for it and leave it out, so that there may be several calls all the same.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmRequest = Schema.Struct({
  messages: Schema.Array(ChatMessage),
  model: Schema.optional(Schema.String),
  temperature: Schema.optional(Schema.Number),
  topP: Schema.optional(Schema.Number),
  topK: Schema.optional(Schema.Number),
  frequencyPenalty: Schema.optional(Schema.Number),
  presencePenalty: Schema.optional(Schema.Number),
  maxTokens: Schema.optional(Schema.Number),
  stop: Schema.optional(Schema.Array(Schema.String)),
  seed: Schema.optional(Schema.Number),
  reasoningEffort: Schema.optional(Schema.String),
  tools: Schema.optional(Schema.Array(LlmTool)),
  toolChoice: Schema.optional(ToolChoice),
  parallelToolCalls: Schema.optional(Schema.Boolean),
  responseFormat: Schema.optional(ResponseFormat),
  promptCache: Schema.optional(PromptCache),
  providerOptions: Schema.optional(ProviderOptions)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmRequest extends Schema.Schema.Type<typeof LlmRequest> {}
