/**
 * The port of language models: one request type, one response type, one error, whichever provider answers.
 *
 * @since 0.1.0
 */
import type * as Health from "@underlay/core/operations/Health"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Objects from "./internal/objects.ts"
import { LlmError } from "./LlmError.ts"
import type { LlmObject, ObjectOptions, StructuredOutput } from "./LlmObject.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { LlmResponse, LlmStreamPart } from "./LlmResponse.ts"

export type { LlmError } from "./LlmError.ts"
export type { LlmObject, ObjectOptions, StructuredOutput } from "./LlmObject.ts"
export type { LlmRequest, PromptCache, ProviderOptions, ResponseFormat, ToolChoice } from "./LlmRequest.ts"
export type {
  Finish,
  LlmResponse,
  LlmStreamPart,
  LlmToolCall,
  PartialResponse,
  RateLimits,
  Usage
} from "./LlmResponse.ts"
export type { LlmTool } from "./LlmTool.ts"

/**
 * A language model.
 *
 * @since 0.1.0
 * @category models
 */
export interface LlmService {
  /** The provider's name in telemetry: `openai`, `groq`, `ollama`, … */
  readonly provider: string
  /** The model that is asked unless the request names another. */
  readonly model: string
  /** One whole answer. */
  readonly generate: (request: LlmRequest) => Effect.Effect<LlmResponse, LlmError>
  /**
   * The answer while it comes. It is asked for when the stream is run, retried only before the first part, and given up
   * (with the HTTP request) when the stream is interrupted. A stream that ends without failure ends with a `finish`.
   */
  readonly stream: (request: LlmRequest) => Stream.Stream<LlmStreamPart, LlmError>
  /**
   * A value that fits the schema, asked for with the provider's structured output, a tool or words (see
   * `StructuredOutput`), and validated here. If it does not fit it is asked for once more; then it fails with
   * `MalformedResponse`. A refusal is `ContentFiltered`. Tools of the request are not called.
   */
  readonly generateObject: <A, I, R>(
    schema: Schema.Schema<A, I, R>,
    request: LlmRequest,
    options?: ObjectOptions
  ) => Effect.Effect<LlmObject<A>, LlmError, R>
  /**
   * How many tokens the request is, as the provider itself counts them. Fails with `InvalidRequest` where the provider
   * has no such service.
   */
  readonly countTokens: (request: LlmRequest) => Effect.Effect<number, LlmError>
  /** Whether the provider answers and knows the model. Costs no tokens. */
  readonly health: Effect.Effect<Health.CheckResult, LlmError>
}

/**
 * The language model of a program.
 *
 * @since 0.1.0
 * @category tags
 */
export class Llm extends Context.Tag("@underlay/llm/Llm")<Llm, LlmService>() {}

/**
 * A language model from its two ways of answering. For those who write a provider.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly provider: string
  readonly model: string
  readonly generate: LlmService["generate"]
  readonly stream: LlmService["stream"]
  /** How values are asked for by `generateObject`; by default `auto`. */
  readonly structuredOutput?: StructuredOutput | undefined
  /** As `Protocol` has it. */
  readonly optionalProperties?: "nullable" | undefined
  /** By default it fails with `InvalidRequest`: the provider does not count. */
  readonly countTokens?: LlmService["countTokens"] | undefined
  /** By default always `up`. */
  readonly health?: LlmService["health"] | undefined
}): LlmService => {
  const known: Objects.Known = new Map()
  return {
    provider: options.provider,
    model: options.model,
    generate: options.generate,
    stream: options.stream,
    generateObject: (schema, request, objectOptions) =>
      Objects.generateObject(options, known, schema, request, objectOptions ?? {}),
    countTokens:
      options.countTokens ??
      ((request) =>
        Effect.fail(
          new LlmError({
            reason: "InvalidRequest",
            method: "countTokens",
            provider: options.provider,
            model: request.model ?? options.model,
            issue: "this provider has no service that counts tokens",
            retryable: false,
            midStream: false
          })
        )),
    health: options.health ?? Effect.succeed({ status: "up" })
  }
}

/**
 * One whole answer of the program's model.
 *
 * @since 0.1.0
 * @category combinators
 */
export const generate = (request: LlmRequest): Effect.Effect<LlmResponse, LlmError, Llm> =>
  Effect.flatMap(Llm, (llm) => llm.generate(request))

/**
 * A value that fits the schema, from the program's model.
 *
 * @since 0.1.0
 * @category combinators
 */
export const generateObject = <A, I, R>(
  schema: Schema.Schema<A, I, R>,
  request: LlmRequest,
  options?: ObjectOptions
): Effect.Effect<LlmObject<A>, LlmError, R | Llm> =>
  Effect.flatMap(Llm, (llm) => llm.generateObject(schema, request, options))

/**
 * How many tokens the request is, as the provider of the program's model counts them.
 *
 * @since 0.1.0
 * @category combinators
 */
export const countTokens = (request: LlmRequest): Effect.Effect<number, LlmError, Llm> =>
  Effect.flatMap(Llm, (llm) => llm.countTokens(request))

/**
 * The answer of the program's model while it comes.
 *
 * @since 0.1.0
 * @category combinators
 */
export const stream = (request: LlmRequest): Stream.Stream<LlmStreamPart, LlmError, Llm> =>
  Stream.unwrap(Effect.map(Llm, (llm) => llm.stream(request)))
