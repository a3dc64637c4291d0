/**
 * Tools that a model may ask the caller to run, as data: a name, what it is for, and the JSON Schema of its arguments.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
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
 * A tool whose arguments are described by a schema. `strict` is set if the schema is one that providers can enforce (no
 * optional properties).
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
): LlmTool => {
  const parameters = JsonSchema.fromSchema(options.parameters)
  const strict = options.strict ?? JsonSchema.isEnforceable(parameters)
  return {
    name,
    ...(options.description === undefined ? {} : { description: options.description }),
    parameters,
    ...(strict ? { strict } : {})
  }
}
