/**
 * JSON Schemas as Anthropic holds a model to them: closed objects, no recursion, no limits of numbers and lengths. What
 * only narrows a value is told to the model in words; what cannot be said at all is refused.
 */
import * as Either from "effect/Either"
import { isRecord } from "./classify.ts"
import { type Json, json } from "./wire.ts"

/** The keywords that are taken as they are. */
const kept = new Set(["type", "enum", "const", "title", "default", "$ref"])
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

const has = (type: unknown, name: string): boolean => (Array.isArray(type) ? type.includes(name) : type === name)

const closed = (schema: unknown, at: string, issues: Array<string>): Json => {
  const fail = (issue: string) => {
    issues.push(`${at}: ${issue}`)
  }
  if (!isRecord(schema)) {
    fail("a schema that allows anything")
    return {}
  }
  for (const key of refused) if (schema[key] !== undefined) fail(`the keyword ${key}`)
  if (Array.isArray(schema["items"])) fail("a list of fixed length")
  const type = schema["type"]
  const shaped = ["enum", "const", "anyOf", "oneOf", "allOf", "$ref"].some((key) => schema[key] !== undefined)
  if (type === undefined && !shaped) fail("a schema that allows anything")
  const out: Record<string, unknown> = {}
  const told: Array<string> = []
  for (const [key, value] of Object.entries(schema)) {
    if (value === undefined || mute.has(key)) continue
    if (kept.has(key)) out[key] = value
    else if (key === "$defs" || key === "definitions") out[key] = named(value, `${at}.${key}`, issues)
    else if (key === "properties") out[key] = named(value, at, issues)
    else if (key === "required") out[key] = value
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
  const description = typeof schema["description"] === "string" ? schema["description"] : ""
  const words = [description, told.length === 0 ? "" : `(${told.join(", ")})`].filter((text) => text !== "").join(" ")
  if (words !== "") out["description"] = words
  return out
}

/** The names of the definitions that a schema refers to. */
const references = (schema: unknown, found: Set<string>): Set<string> => {
  if (Array.isArray(schema)) for (const each of schema) references(each, found)
  else if (isRecord(schema)) {
    for (const [key, value] of Object.entries(schema)) {
      if (key === "$ref" && typeof value === "string") found.add(value.slice(value.lastIndexOf("/") + 1))
      else if (key !== "$defs" && key !== "definitions" && key !== "enum" && key !== "const") references(value, found)
    }
  }
  return found
}

const isRecursive = (schema: Json): boolean => {
  const definitions: Json = {
    ...(isRecord(schema["definitions"]) ? schema["definitions"] : {}),
    ...(isRecord(schema["$defs"]) ? schema["$defs"] : {})
  }
  const done = new Set<string>()
  const loops = (name: string, path: ReadonlySet<string>): boolean => {
    if (name === "#" || path.has(name)) return true
    if (done.has(name)) return false
    const within = new Set(path).add(name)
    const looped = [...references(definitions[name], new Set())].some((next) => loops(next, within))
    done.add(name)
    return looped
  }
  return [...references(schema, new Set())].some((name) => loops(name, new Set()))
}

/** The schema as Anthropic takes it; on the left what in it cannot be enforced there. */
export const enforceable = (schema: Json): Either.Either<Json, string> => {
  if (isRecursive(schema)) return Either.left("a schema that refers to itself")
  const issues: Array<string> = []
  const written = closed(schema, "the root", issues)
  return issues.length === 0 ? Either.right(written) : Either.left(issues.slice(0, 5).join("; "))
}
