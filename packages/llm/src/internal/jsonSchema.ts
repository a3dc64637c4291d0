/**
 * JSON Schemas of Effect schemas in the shape that providers take: the root is written out and not a reference, an empty
 * object is an object, and every description that the schema has is kept.
 */
import * as Effect from "effect/Effect"
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
export const unwrap = (answer: unknown): unknown =>
  isRecord(answer) && Object.hasOwn(answer, "value") ? answer["value"] : answer

const definitionsOf = (schema: Json): Json => (isRecord(schema["$defs"]) ? schema["$defs"] : {})

const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

/** The schemas that a schema stands for: what it refers to, and of alternatives every one. */
const meanings = (schema: unknown, definitions: Json, seen: ReadonlySet<unknown> = new Set()): ReadonlyArray<Json> => {
  if (!isRecord(schema) || seen.has(schema)) return []
  const within = new Set(seen).add(schema)
  const reference = schema["$ref"]
  if (typeof reference === "string") {
    const name = reference
      .replace(/^#\/\$defs\//, "")
      .replaceAll("~1", "/")
      .replaceAll("~0", "~")
    return Object.hasOwn(definitions, name) ? meanings(definitions[name], definitions, within) : []
  }
  const [only, ...more] = list(schema["allOf"])
  if (more.length === 0 && isRecord(only) && schema["type"] === undefined) return meanings(only, definitions, within)
  const alternatives = [...list(schema["anyOf"]), ...list(schema["oneOf"])]
  if (alternatives.length === 0) return [schema]
  return alternatives.flatMap((each) => meanings(each, definitions, within))
}

const takesNull = (schema: unknown, definitions: Json): boolean =>
  meanings(schema, definitions).some((each) => {
    if (each["const"] !== undefined) return each["const"] === null
    if (Array.isArray(each["enum"])) return each["enum"].includes(null)
    const type = each["type"]
    return type === undefined || type === "null" || (Array.isArray(type) && type.includes("null"))
  })

/**
 * The same schema with no optional properties: each may be null instead. For providers that hold a model only to objects
 * with all their properties; `withoutNulls` undoes it in the answer.
 */
export const nullable = (schema: Json): Json => {
  const definitions = definitionsOf(schema)
  const walk = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(walk)
    if (!isRecord(value)) return value
    const out: Record<string, unknown> = { ...value }
    for (const key of ["items", "anyOf", "oneOf", "allOf"]) if (value[key] !== undefined) out[key] = walk(value[key])
    if (isRecord(value["$defs"])) {
      out["$defs"] = Object.fromEntries(Object.entries(value["$defs"]).map(([name, each]) => [name, walk(each)]))
    }
    if (isRecord(value["properties"])) {
      const required = list(value["required"])
      out["properties"] = Object.fromEntries(
        Object.entries(value["properties"]).map(([name, each]) => {
          const walked = walk(each)
          if (required.includes(name) || takesNull(each, definitions)) return [name, walked]
          const alternatives = isRecord(walked) && Array.isArray(walked["anyOf"]) ? walked : undefined
          return [
            name,
            alternatives === undefined
              ? { anyOf: [walked, { type: "null" }] }
              : { ...alternatives, anyOf: [...list(alternatives["anyOf"]), { type: "null" }] }
          ]
        })
      )
      out["required"] = Object.keys(value["properties"])
    }
    return out
  }
  const walked = walk(schema)
  return isRecord(walked) ? walked : schema
}

/** Whether a value may be meant by this one of several schemas of objects: it has what is required, and the right tags. */
const isMeant = (schema: Json, value: Json, definitions: Json): boolean => {
  const properties = isRecord(schema["properties"]) ? schema["properties"] : {}
  return list(schema["required"]).every((name) => {
    if (typeof name !== "string" || !Object.hasOwn(value, name)) return false
    return meanings(properties[name], definitions).every((each) => {
      const values = each["const"] === undefined ? each["enum"] : [each["const"]]
      return !Array.isArray(values) || values.includes(value[name])
    })
  })
}

/**
 * The answer without the nulls that stand for properties which were left out: models write them whether they were told to
 * or not. A null that the schema has a place for stays.
 */
export const withoutNulls = (schema: Json, answer: unknown): unknown => {
  const definitions = definitionsOf(schema)
  const walk = (type: unknown, value: unknown): unknown => {
    if (Array.isArray(value)) {
      const items = meanings(type, definitions).find((each) => isRecord(each["items"]))?.["items"]
      return items === undefined ? value : value.map((each) => walk(items, each))
    }
    if (!isRecord(value)) return value
    const objects = meanings(type, definitions).filter((each) => isRecord(each["properties"]))
    const meant = objects.length === 1 ? objects[0] : objects.find((each) => isMeant(each, value, definitions))
    const properties = meant?.["properties"]
    if (meant === undefined || !isRecord(properties)) return value
    const required = list(meant["required"])
    return Object.fromEntries(
      Object.entries(value).flatMap(([name, each]) => {
        if (!Object.hasOwn(properties, name)) return [[name, each]]
        const leftOut = each === null && !required.includes(name) && !takesNull(properties[name], definitions)
        return leftOut ? [] : [[name, walk(properties[name], each)]]
      })
    )
  }
  return walk(schema, answer)
}

/**
 * What an answer to a schema may mean, likeliest first. Where the schema was wrapped, models leave the wrapping out at
 * times, and what they say then may have a property of the wrapping's name.
 */
const readings = (schema: Json, wrapped: boolean, answer: unknown): ReadonlyArray<unknown> => {
  if (!wrapped) return [withoutNulls(schema, answer)]
  const properties = isRecord(schema["properties"]) ? schema["properties"] : {}
  const own: Json = { ...(isRecord(properties["value"]) ? properties["value"] : {}), $defs: definitionsOf(schema) }
  const inner = unwrap(answer)
  return (inner === answer ? [answer] : [inner, answer]).map((each) => withoutNulls(own, each))
}

/** Decodes an answer to a schema; fails with what does not fit in its likeliest meaning. */
export const decodeAnswer = <A, E, R>(
  sent: { readonly schema: Json; readonly wrapped: boolean },
  answer: unknown,
  decode: (value: unknown) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const [likeliest, ...others] = readings(sent.schema, sent.wrapped, answer)
  return Effect.catchAll(decode(likeliest), (error) =>
    others.reduceRight<Effect.Effect<A, E, R>>(
      (next, other) => Effect.catchAll(decode(other), () => next),
      Effect.fail(error)
    )
  )
}
