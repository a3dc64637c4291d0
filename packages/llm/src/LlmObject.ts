/**
 * Values by schema: what is asked for and what comes of it.
 *
 * @since 0.1.0
 */
import type { LlmResponse, Usage } from "./LlmResponse.ts"

/**
 * How a value is asked for.
 *
 * - `native`: with the provider's own JSON Schema format.
 * - `tool`: with a tool whose arguments are the value, which the model must call.
 * - `prompt`: with the JSON Schema in words.
 * - `auto`: natively, and where the provider refuses the request, with a tool, then with words. Which way was taken is
 *   remembered as long as the layer lives: for the model if the provider said that it has no such format, else for this
 *   schema. A request that is refused in all three ways fails with the first refusal.
 *
 * Properties that may be left out are sent as required and nullable to providers that hold a model only to objects with
 * all their properties (OpenAI's format). In every answer a null counts as left out where the schema has no place for it. A model
 * that takes the format or the tool, but not `strict`, is asked without it.
 *
 * @since 0.1.0
 * @category models
 */
export type StructuredOutput = "auto" | "native" | "tool" | "prompt"

/**
 * A value that a model gave for a schema. `usage` is that of all requests that it took, `repaired` whether the first
 * answer did not fit and another one was asked for, `mode` the way in which it was asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface LlmObject<A> {
  readonly value: A
  readonly response: LlmResponse
  readonly usage: Usage
  readonly repaired: boolean
  readonly mode: Exclude<StructuredOutput, "auto">
}

/**
 * How to ask for a value.
 *
 * @since 0.1.0
 * @category models
 */
export interface ObjectOptions {
  /** What the value is called to the model; by default the schema's identifier, or `answer`. */
  readonly name?: string | undefined
  readonly description?: string | undefined
  /** Whether, or how often, to ask again, saying what did not fit; by default once. */
  readonly repair?: boolean | number | undefined
  /** By default as the layer says. */
  readonly structuredOutput?: StructuredOutput | undefined
}
