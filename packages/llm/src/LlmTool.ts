/**
 * Tools that a model may ask the caller to run, as data: a name, what it is for, and the JSON Schema of its arguments.
 * `LlmToolLoop` runs them.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import type * as AST from "effect/SchemaAST"
import * as JsonSchema from "./internal/jsonSchema.ts"

/**
 * A tool. `strict` asks the provider to hold the model to the schema, where it can.
 *
 * @since 0.1.0
 * @category schemas
 */
export const LlmTool = Schema.Struct({
  name: Schema.String,
  description: Schema.optional(Schema.String),
  parameters: Schema.Record({ key: Schema.String, value: Schema.Unknown }),
  strict: Schema.optional(Schema.Boolean)
})
/**
 * @since 0.1.0
 * @category models
 */
export interface LlmTool extends Schema.Schema.Type<typeof LlmTool> {}

/**
 * A tool with the schema of its arguments, by which a call's are decoded.
 *
 * @since 0.1.0
 * @category models
 */
export interface TypedTool<in out A, in out I = unknown, out R = never> extends LlmTool {
  readonly schema: Schema.Schema<A, I, R>
}

/** Providers take an object for the arguments: anything else travels as the property of one. */
const parametersOf = (
  ast: AST.AST
): { readonly parameters: Readonly<Record<string, unknown>>; readonly wrapped: boolean } => {
  const parameters = JsonSchema.fromAst(ast)
  const wrapped = parameters["type"] !== "object"
  return { parameters: wrapped ? JsonSchema.wrap(parameters) : parameters, wrapped }
}

const toolOf = (
  name: string,
  options: { readonly description?: string | undefined; readonly ast: AST.AST; readonly strict?: boolean | undefined }
): LlmTool => {
  const { parameters } = parametersOf(options.ast)
  const strict = options.strict ?? JsonSchema.isEnforceable(parameters)
  return {
    name,
    ...(options.description === undefined ? {} : { description: options.description }),
    parameters,
    ...(strict ? { strict } : {})
  }
}

/**
 * A tool whose arguments are described by a schema. `strict` is set if the schema is one that providers can enforce (no
 * optional properties, no tuples, …).
 *
 * ```ts
 * const weather = LlmTool.make("weather", {
 *   description: "The weather of a city",
 *   parameters: Schema.Struct({ city: Schema.String })
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, I, R>(
  name: string,
  options: {
    readonly description?: string | undefined
    readonly parameters: Schema.Schema<A, I, R>
    readonly strict?: boolean | undefined
  }
): TypedTool<A, I, R> => ({
  ...toolOf(name, { description: options.description, ast: options.parameters.ast, strict: options.strict }),
  schema: options.parameters
})

/**
 * The arguments of a call, decoded by the tool's schema. A null counts as left out where the schema has no place for it.
 * Fails with a `ParseError` for those that do not fit or are not JSON.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = <A, I, R>(
  tool: TypedTool<A, I, R>,
  call: { readonly arguments: unknown; readonly invalid?: string | undefined }
): Effect.Effect<A, ParseResult.ParseError, R> => {
  const { ast } = tool.schema
  if (call.invalid !== undefined) {
    const issue = new ParseResult.Type(ast, call.invalid, "the arguments are not JSON")
    return Effect.fail(new ParseResult.ParseError({ issue }))
  }
  const { parameters, wrapped } = parametersOf(ast)
  const decoded = Schema.decodeUnknown(tool.schema, { errors: "all" })
  return JsonSchema.decodeAnswer({ schema: parameters, wrapped }, call.arguments, (value) => decoded(value))
}

/**
 * What is needed of a toolkit of `@effect/ai`, so that nobody needs that package who has none.
 *
 * @since 0.1.0
 * @category models
 */
export interface ToolkitTools {
  readonly tools: Readonly<
    Record<
      string,
      {
        readonly name: string
        readonly description?: string | undefined
        readonly parametersSchema: { readonly ast: AST.AST }
      }
    >
  >
}

/** The provider runs some of a toolkit's tools by itself. */
const isFunction = (tool: object): boolean => !("providerName" in tool)

/**
 * The tools of a `Toolkit` of `@effect/ai`, with or without its handlers. Those that the provider itself runs are left out:
 * they are asked for with `providerOptions`. `LlmToolLoop.fromToolkit` takes the handlers too.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromToolkit = (toolkit: ToolkitTools): ReadonlyArray<LlmTool> =>
  Object.values(toolkit.tools)
    .filter(isFunction)
    .map((tool) => toolOf(tool.name, { description: tool.description, ast: tool.parametersSchema.ast }))
