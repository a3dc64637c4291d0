/**
 * Values by schema: what is asked for and what comes of it.
 *
 * @since 0.1.0
 */
import type { LlmResponse, Usage } from "./LlmResponse.ts"

/**
 * A value that a model gave for a schema. `usage` is that of all requests that it took, `repaired` whether the first
 * answer did not fit and a second one was asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface LlmObject<A> {
  readonly value: A
  readonly response: LlmResponse
  readonly usage: Usage
  readonly repaired: boolean
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
  /** Whether to ask once more, saying what did not fit; by default true. */
  readonly repair?: boolean | undefined
}
