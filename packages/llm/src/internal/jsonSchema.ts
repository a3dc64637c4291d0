/**
 * JSON Schemas of Effect schemas in the shape that providers take: the root is written out, not a reference.
 */
import * as JSONSchema from "effect/JSONSchema"
import type * as Schema from "effect/Schema"

type Json = Readonly<Record<string, unknown>>

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** The JSON Schema of what `schema` encodes to. */
export const fromSchema = <A, I, R>(schema: Schema.Schema<A, I, R>): Json => {
  const definitions: Record<string, JSONSchema.JsonSchema7> = {}
  const root = JSONSchema.fromAST(schema.ast, { definitions, topLevelReferenceStrategy: "skip" })
  const plain: Json = { ...root }
  return Object.keys(definitions).length === 0 ? plain : { ...plain, $defs: definitions }
}

/** Whether the root is an object with properties, which is what providers demand of structured output. */
export const isObject = (schema: Json): boolean => schema["type"] === "object" && isRecord(schema["properties"])

/** What providers refuse in a schema that they are to enforce; without enforcement it is help for the model. */
const unenforceable = ["allOf", "oneOf", "not", "prefixItems", "patternProperties", "if"]

/**
 * Whether a provider can hold a model to this schema: every object names all its properties as required and allows no
 * others, and there are no tuples.
 */
export const isEnforceable = (schema: unknown): boolean => {
  if (Array.isArray(schema)) return schema.every(isEnforceable)
  if (!isRecord(schema)) return true
  if (unenforceable.some((key) => schema[key] !== undefined) || Array.isArray(schema["items"])) return false
  if (schema["type"] === "object" || isRecord(schema["properties"])) {
    if (!isRecord(schema["properties"]) || schema["additionalProperties"] !== false) return false
    const required = Array.isArray(schema["required"]) ? schema["required"] : []
    if (Object.keys(schema["properties"]).some((key) => !required.includes(key))) return false
    if (!Object.values(schema["properties"]).every(isEnforceable)) return false
  } else if (schema["$id"] === "/schemas/unknown" || schema["$id"] === "/schemas/any") return false
  for (const key of ["items", "anyOf"]) {
    if (!isEnforceable(schema[key])) return false
  }
  const definitions = schema["$defs"]
  return !isRecord(definitions) || Object.values(definitions).every(isEnforceable)
}

/** The schema of an object with `value` as its one property, for a root that is not an object. */
export const wrap = (schema: Json): Json => {
  const { $defs, ...value } = schema
  return {
    type: "object",
    properties: { value },
    required: ["value"],
    additionalProperties: false,
    ...($defs === undefined ? {} : { $defs })
  }
}

/** The value of a wrapped answer; the answer itself if the model left the wrapping out. */
export const unwrap = (answer: unknown): unknown => (isRecord(answer) && "value" in answer ? answer["value"] : answer)
