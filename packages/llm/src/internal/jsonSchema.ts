/**
 * JSON Schemas of Effect schemas in the shape that providers take: the root is written out and not a reference, an empty
 * object is an object, and every description that the schema has is kept.
 */
import * as JSONSchema from "effect/JSONSchema"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"

type Json = Readonly<Record<string, unknown>>

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** The JSON Schema of what `schema` encodes to. */
export const fromSchema = <A, I, R>(schema: Schema.Schema<A, I, R>): Json => fromAst(schema.ast)

/** The same of a schema that is known by its tree only. */
export const fromAst = (ast: AST.AST): Json => {
  const definitions: Record<string, JSONSchema.JsonSchema7> = {}
  const root: Json = { ...JSONSchema.fromAST(ast, { definitions, topLevelReferenceStrategy: "skip" }) }
  const whole = Object.keys(definitions).length === 0 ? root : { ...root, $defs: definitions }
  const plain = plainer(described(ast, whole))
  return isRecord(plain) ? plain : {}
}

const emptyObject: Json = { type: "object", properties: {}, required: [], additionalProperties: false }

/** Where names of properties stand, which look like keywords to whoever does not mind. */
const named = new Set(["properties", "$defs", "patternProperties"])

/** Without the names by which Effect marks its own types, which providers refuse as unknown; values stay as they are. */
const plainer = (schema: unknown): unknown => {
  if (Array.isArray(schema)) return schema.map(plainer)
  if (!isRecord(schema)) return schema
  if (schema["$id"] === "/schemas/%7B%7D") {
    const { $id: _id, anyOf: _anyOf, ...rest } = schema
    return { ...rest, ...emptyObject }
  }
  const plain: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(schema)) {
    if (key === "$id" && typeof value === "string" && value.startsWith("/schemas/")) continue
    if (key === "$comment" && value === "/schemas/enums") continue
    if (key === "enum" || key === "const" || key === "default" || key === "examples") plain[key] = value
    else if (named.has(key) && isRecord(value)) {
      plain[key] = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plainer(inner)]))
    } else plain[key] = plainer(value)
  }
  return plain
}

const descriptionOf = (annotated: AST.Annotated): string | undefined =>
  Option.getOrUndefined(AST.getDescriptionAnnotation(annotated))

const describe = (schema: unknown, description: string | undefined): unknown => {
  if (!isRecord(schema) || description === undefined) return schema
  const known = schema["description"]
  if (known === description) return schema
  if (schema["$ref"] !== undefined) return { allOf: [schema], description }
  return { ...schema, description: typeof known === "string" ? `${description} (${known})` : description }
}

const isOverTransformation = (ast: AST.Refinement): boolean =>
  AST.isTransformation(ast.from) || (AST.isRefinement(ast.from) && isOverTransformation(ast.from))

/**
 * With the descriptions that stand on the decoded side of a transformation: of a field with a default, of a refined date.
 * What a JSON Schema says is of the encoded side alone.
 */
const described = (ast: AST.AST, schema: Json): Json => {
  const inner = (type: AST.AST, value: unknown): unknown => (isRecord(value) ? described(type, value) : value)
  switch (ast._tag) {
    case "Refinement": {
      const found = inner(ast.from, schema)
      const said = isOverTransformation(ast) ? describe(found, descriptionOf(ast)) : found
      return isRecord(said) ? said : schema
    }
    case "Transformation": {
      const from = inner(ast.from, schema)
      const { to, transformation } = ast
      const properties = isRecord(from) ? from["properties"] : undefined
      if (!isRecord(from)) return schema
      if (!isRecord(properties) || !AST.isTypeLiteral(to)) return from
      const renamed = new Map<PropertyKey, PropertyKey>()
      if (transformation._tag === "TypeLiteralTransformation") {
        for (const each of transformation.propertySignatureTransformations) renamed.set(each.to, each.from)
      }
      const all = { ...properties }
      for (const property of to.propertySignatures) {
        const name = String(renamed.get(property.name) ?? property.name)
        if (Object.hasOwn(all, name)) all[name] = describe(all[name], descriptionOf(property))
      }
      return { ...from, properties: all }
    }
    case "TypeLiteral": {
      const properties = schema["properties"]
      if (!isRecord(properties)) return schema
      const all = { ...properties }
      for (const property of ast.propertySignatures) {
        const name = String(property.name)
        if (Object.hasOwn(all, name)) all[name] = inner(property.type, all[name])
      }
      return { ...schema, properties: all }
    }
    case "TupleType": {
      const [only] = ast.rest
      const items = schema["items"]
      return only === undefined || !isRecord(items) ? schema : { ...schema, items: inner(only.type, items) }
    }
    case "Union": {
      const members = schema["anyOf"]
      if (!Array.isArray(members) || members.length !== ast.types.length) return schema
      return { ...schema, anyOf: ast.types.map((type, index) => inner(type, members[index])) }
    }
    default:
      return schema
  }
}

/** Whether the root is an object with properties, which is what providers demand of structured output. */
export const isObject = (schema: Json): boolean => schema["type"] === "object" && isRecord(schema["properties"])

/** What providers refuse in a schema that they are to enforce; without enforcement it is help for the model. */
const unenforceable = [
  "additionalItems",
  "allOf",
  "contains",
  "contentMediaType",
  "else",
  "if",
  "maxLength",
  "minLength",
  "not",
  "oneOf",
  "patternProperties",
  "prefixItems",
  "propertyNames",
  "then",
  "uniqueItems"
]

/** What says which values are meant. */
const kinds = ["type", "anyOf", "enum", "const", "$ref"]

/**
 * Whether a provider can hold a model to this schema: every object names all its properties as required and allows no
 * others, every value has a kind, and there are no tuples.
 */
export const isEnforceable = (schema: unknown): boolean => {
  if (Array.isArray(schema)) return schema.every(isEnforceable)
  if (!isRecord(schema)) return true
  if (!kinds.some((key) => schema[key] !== undefined)) return false
  if (unenforceable.some((key) => schema[key] !== undefined) || Array.isArray(schema["items"])) return false
  if (schema["type"] === "object" || isRecord(schema["properties"])) {
    if (!isRecord(schema["properties"]) || schema["additionalProperties"] !== false) return false
    const required = Array.isArray(schema["required"]) ? schema["required"] : []
    if (Object.keys(schema["properties"]).some((key) => !required.includes(key))) return false
    if (!Object.values(schema["properties"]).every(isEnforceable)) return false
  }
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
