/**
 * JSON Schemas as Anthropic holds a model to them: closed objects, no recursion, no limits of numbers and lengths. What
 * only narrows a value is told to the model in words; what cannot be said at all is refused.
 */
import * as Either from "effect/Either"
import { isRecord } from "./classify.ts"
import * as References from "./schemaReferences.ts"
import { type Json, json } from "./wire.ts"

/** The keywords that are taken as they are. */
const kept = new Set(["type", "enum", "const", "title", "default", "required"])
const formats = new Set(["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"])
/** Without these, more values would fit than the schema allows: of another shape, not only of another size. */
const refused = ["not", "if", "prefixItems", "patternProperties", "dependentSchemas", "unevaluatedProperties"]
/** They say nothing of the values. */
const mute = new Set(["$schema", "$id", "$comment", "additionalItems", "examples"])

const schemas = (value: unknown, at: string, issues: Array<string>): ReadonlyArray<Json> =>
  (Array.isArray(value) ? value : []).map((each, index) => closed(each, `${at}[${index}]`, issues))

const named = (value: unknown, at: string, issues: Array<string>): Json =>
  Object.fromEntries(
    Object.entries(isRecord(value) ? value : {}).map(([name, each]) => [name, closed(each, `${at}.${name}`, issues)])
  )

const isPrimitive = (value: unknown): boolean => typeof value !== "object" || value === null

const has = (type: unknown, name: string): boolean => (Array.isArray(type) ? type.includes(name) : type === name)

/** The reference that a schema is, be it as the only one of those that must all hold. */
const referenceIn = (schema: unknown): string | undefined => {
  if (!isRecord(schema)) return undefined
  const { $ref: reference, allOf: all } = schema
  if (typeof reference === "string") return reference
  const [only] = Array.isArray(all) && all.length === 1 ? all : []
  return isRecord(only) && Object.keys(only).length === 1 && typeof only["$ref"] === "string" ? only["$ref"] : undefined
}

/** The description of a schema, and what it says that has no keyword. */
const wordsOf = (schema: Json, told: ReadonlyArray<string>): string => {
  const description = typeof schema["description"] === "string" ? schema["description"] : ""
  return [description, told.length === 0 ? "" : `(${told.join(", ")})`].filter((text) => text !== "").join(" ")
}

const isDefinitions = (key: string): boolean => key === "$defs" || key === "definitions"

/** A reference stands alone: what is said beside it goes round it. */
const referring = (schema: Json, reference: string, at: string, issues: Array<string>): Json => {
  if (References.nameOf(reference) === undefined) issues.push(`${at}: a reference to what is not a definition`)
  const told: Array<string> = []
  const definitions: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(schema)) {
    if (isDefinitions(key)) definitions[key] = named(value, `${at}.${key}`, issues)
    else if (value !== undefined && !mute.has(key) && !["$ref", "allOf", "description", "title"].includes(key)) {
      told.push(`${key}: ${json(value)}`)
    }
  }
  const words = wordsOf(schema, told)
  const alone = { $ref: reference }
  return { ...(words === "" ? alone : { anyOf: [alone], description: words }), ...definitions }
}

const closed = (schema: unknown, at: string, issues: Array<string>): Json => {
  const fail = (issue: string) => {
    issues.push(`${at}: ${issue}`)
  }
  if (!isRecord(schema)) {
    fail("a schema that allows anything")
    return {}
  }
  const reference = referenceIn(schema)
  if (reference !== undefined) return referring(schema, reference, at, issues)
  for (const key of refused) if (schema[key] !== undefined) fail(`the keyword ${key}`)
  if (Array.isArray(schema["items"])) fail("a list of fixed length")
  const values = [...(Array.isArray(schema["enum"]) ? schema["enum"] : []), schema["const"]]
  if (!values.every(isPrimitive)) fail("values that are lists or objects")
  const all = schema["allOf"]
  if (Array.isArray(all) && all.some((each) => referenceIn(each) !== undefined)) fail("allOf with a reference")
  if (schema["anyOf"] !== undefined && schema["oneOf"] !== undefined) fail("anyOf beside oneOf")
  const type = schema["type"]
  const shaped = ["enum", "const", "anyOf", "oneOf", "allOf"].some((key) => schema[key] !== undefined)
  if (type === undefined && !shaped) fail("a schema that allows anything")
  const out: Record<string, unknown> = {}
  const told: Array<string> = []
  for (const [key, value] of Object.entries(schema)) {
    if (value === undefined || mute.has(key)) continue
    if (kept.has(key)) out[key] = value
    else if (isDefinitions(key)) out[key] = named(value, `${at}.${key}`, issues)
    else if (key === "properties") out[key] = named(value, at, issues)
    else if (key === "items") out[key] = closed(value, `${at}[]`, issues)
    else if (key === "anyOf" || key === "allOf") out[key] = schemas(value, at, issues)
    else if (key === "oneOf") out["anyOf"] = schemas(value, at, issues)
    else if (key === "format" && typeof value === "string" && formats.has(value)) out[key] = value
    else if (key === "minItems" && (value === 0 || value === 1)) out[key] = value
    else if (key === "additionalProperties") {
      if (value !== false) fail("an object with properties of any name")
    } else if (key !== "description") told.push(`${key}: ${json(value)}`)
  }
  if (has(type, "object")) {
    if (!isRecord(schema["properties"]) && schema["additionalProperties"] !== false) fail("an object of any kind")
    out["properties"] ??= {}
    out["additionalProperties"] = false
  }
  const words = wordsOf(schema, told)
  if (words !== "") out["description"] = words
  return out
}

/** The schema as Anthropic takes it; on the left what in it cannot be enforced there. */
export const enforceable = (schema: Json): Either.Either<Json, string> => {
  if (References.isRecursive(schema)) return Either.left("a schema that refers to itself")
  const issues: Array<string> = []
  const written = closed(schema, "the root", issues)
  return issues.length === 0 ? Either.right(written) : Either.left(issues.slice(0, 5).join("; "))
}
