/**
 * JSON Schemas in the part of the language that Gemini takes: its reference names the keywords, everything else is said
 * in one of them, in the description, or left out.
 */
import { isRecord } from "./classify.ts"
import * as References from "./schemaReferences.ts"
import type { Json } from "./wire.ts"

/** Keywords whose value goes on as it is: https://ai.google.dev/api/generate-content (`responseJsonSchema`). */
const plain = [
  "$anchor",
  "title",
  "description",
  "required",
  "minItems",
  "maxItems",
  "minimum",
  "maximum",
  "propertyOrdering"
]

/** The formats that Gemini knows; it refuses some of the others. */
const formats = new Set(["date-time", "date", "time", "int32", "int64", "float", "double"])

const pointer = (reference: string): string => reference.replace(/^#\/definitions\//, "#/$defs/")

const typeOfValue = (value: unknown): string | undefined => {
  switch (typeof value) {
    case "string":
      return "string"
    case "number":
      return Number.isInteger(value) ? "integer" : "number"
    case "boolean":
      return "boolean"
    default:
      return value === null ? "null" : undefined
  }
}

/** One type for values of one kind; whole and other numbers are numbers. */
const typeOfValues = (values: ReadonlyArray<unknown>): string | undefined => {
  const types = new Set(values.map(typeOfValue))
  const [first] = types
  if (types.size === 1) return first
  return types.size === 2 && types.has("integer") && types.has("number") ? "number" : undefined
}

/**
 * The values that are allowed. Gemini takes a list of them for strings and numbers only, so that `null` and booleans are
 * said by their types.
 */
const enumeration = (values: ReadonlyArray<unknown>, type: unknown): Json => {
  const listed = values.filter((value) => typeof value === "string" || typeof value === "number")
  const strings = listed.filter((value) => typeof value === "string")
  const numbers = listed.filter((value) => typeof value === "number")
  const options: Array<Json> = []
  for (const group of [strings, numbers]) {
    if (group.length > 0) options.push({ type: typeOfValues(group), enum: group })
  }
  if (values.some((value) => typeof value === "boolean")) options.push({ type: "boolean" })
  if (values.includes(null)) options.push({ type: "null" })
  const [first] = options
  if (first === undefined) return type === undefined ? {} : { type }
  // The type that the schema itself names for one kind of values is the better one: 1 may be a number.
  if (options.length === 1) return typeof type === "string" ? { ...first, type } : first
  return { anyOf: options }
}

/** Several schemas that must all hold, as one. Of two that contradict each other the first wins. */
const intersection = (schemas: ReadonlyArray<Json>): Json => {
  const all: Record<string, unknown> = {}
  for (const schema of schemas) {
    for (const [key, value] of Object.entries(schema)) {
      const before = all[key]
      if (before === undefined) all[key] = value
      else if (key === "properties" && isRecord(before) && isRecord(value)) all[key] = { ...value, ...before }
      else if (key === "required" && Array.isArray(before) && Array.isArray(value)) {
        all[key] = [...new Set([...before, ...value])]
      } else if (key === "minimum" || key === "minItems") all[key] = Math.max(Number(before), Number(value))
      else if (key === "maximum" || key === "maxItems") all[key] = Math.min(Number(before), Number(value))
      else if (key === "type" && before === "number" && value === "integer") all[key] = value
      else if (key === "description" && before !== value) all[key] = `${before} ${value}`
    }
  }
  return all
}

const mapValues = (record: Json, f: (value: unknown) => unknown): Json =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, f(value)]))

const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

const bounds = (schema: Json, out: Record<string, unknown>) => {
  const step = schema["type"] === "integer" ? 1 : 0
  const above = schema["exclusiveMinimum"]
  const below = schema["exclusiveMaximum"]
  // There are inclusive bounds only: exact for whole numbers, a hair too wide for others.
  if (typeof above === "number") out["minimum"] = Math.max(Number(out["minimum"] ?? -Infinity), above + step)
  if (typeof below === "number") out["maximum"] = Math.min(Number(out["maximum"] ?? Infinity), below - step)
}

const items = (schema: Json, out: Record<string, unknown>) => {
  const tuple = Array.isArray(schema["items"]) ? schema["items"] : schema["prefixItems"]
  const rest = Array.isArray(schema["items"]) ? schema["additionalItems"] : schema["items"]
  if (Array.isArray(tuple)) {
    out["prefixItems"] = tuple.map(clean)
    if (rest === false) out["maxItems"] ??= tuple.length
  }
  if (isRecord(rest)) out["items"] = clean(rest)
}

const clean = (value: unknown): unknown => {
  if (!isRecord(value)) return {}
  const definitions = References.definitionsOf(value)
  const kept = Object.keys(definitions).length === 0 ? {} : { $defs: mapValues(definitions, clean) }
  // Beside a reference nothing is allowed that does not begin with a dollar sign.
  if (typeof value["$ref"] === "string") return { $ref: pointer(value["$ref"]), ...kept }

  const out: Record<string, unknown> = {}
  for (const key of plain) if (value[key] !== undefined) out[key] = value[key]
  // Names for "anything" that Effect gives to many schemas at once.
  const id = value["$id"]
  if (typeof id === "string" && !id.startsWith("/schemas/")) out["$id"] = id
  const type = value["type"]
  const nullable = value["nullable"] === true && typeof type === "string" && type !== "null"
  if (type !== undefined) out["type"] = nullable ? [type, "null"] : type

  const format = value["format"]
  if (typeof format === "string") {
    if (formats.has(format)) out["format"] = format
    else {
      const said = out["description"]
      out["description"] = typeof said === "string" ? `${said} (format: ${format})` : `Format: ${format}`
    }
  }
  bounds(value, out)
  items(value, out)
  if (isRecord(value["properties"])) out["properties"] = mapValues(value["properties"], clean)
  const additional = value["additionalProperties"]
  if (typeof additional === "boolean") out["additionalProperties"] = additional
  else if (isRecord(additional)) out["additionalProperties"] = clean(additional)
  const alternatives = [...list(value["anyOf"]), ...list(value["oneOf"])]
  if (alternatives.length > 0) {
    out["anyOf"] = alternatives.map(clean)
    if (value["nullable"] === true && type === undefined) out["anyOf"] = [...alternatives.map(clean), { type: "null" }]
  }

  const values = value["const"] === undefined ? value["enum"] : [value["const"]]
  if (Array.isArray(values)) {
    const said = enumeration(values, type)
    // Alternatives say the types themselves.
    if (said["anyOf"] !== undefined) delete out["type"]
    Object.assign(out, said)
    if (nullable && typeof out["type"] === "string") out["type"] = [out["type"], "null"]
  }
  const all = list(value["allOf"]).map(clean).filter(isRecord)
  if (all.length === 0) return { ...out, ...kept }
  const [only] = all
  // One reference alone stays one.
  if (all.length === 1 && only?.["$ref"] !== undefined && Object.keys(out).every((key) => key === "description")) {
    return { ...only, ...kept }
  }
  return { ...intersection([out, ...all]), ...kept }
}

const record = (value: unknown): Json => (isRecord(value) ? value : {})

/** The schema that a reference at the root stands for, written out: the root must say what it is. */
const rooted = (schema: Json): Json => {
  const reference = schema["$ref"]
  if (typeof reference !== "string") return schema
  const name = References.nameOf(reference)
  const target = name === undefined ? undefined : record(schema["$defs"])[name]
  if (!isRecord(target) || target["$ref"] !== undefined) return schema
  return { ...target, $defs: schema["$defs"] }
}

/**
 * Gemini unrolls a schema that refers to itself to some depth, for which the property that does so must not be required:
 * it is said in words that it is. `back` are the names that lead back to the schema.
 */
const unrollable = (schema: unknown, back: ReadonlySet<string>): unknown => {
  if (Array.isArray(schema)) return schema.map((each) => unrollable(each, back))
  if (!isRecord(schema)) return schema
  const walked = mapValues(schema, (value) => unrollable(value, back))
  const properties = schema["properties"]
  if (!isRecord(properties) || !Array.isArray(schema["required"])) return walked
  const names: ReadonlyArray<unknown> = schema["required"]
  const cyclic = names.filter(
    (name): name is string =>
      typeof name === "string" && [...References.namesIn(properties[name])].some((each) => back.has(each))
  )
  if (cyclic.length === 0) return walked
  const said = cyclic.map((name) => `\`${name}\``).join(", ")
  const description = walked["description"]
  const note = `Always give ${said}.`
  return {
    ...walked,
    description: typeof description === "string" ? `${description} ${note}` : note,
    required: names.filter((name) => !cyclic.includes(String(name)))
  }
}

/** A JSON Schema as Gemini takes it. */
export const toGeminiSchema = (schema: Json): Json => {
  const root = rooted(record(clean(schema)))
  if (!References.isRecursive(root)) return root
  const leadingTo = References.leadingTo(root)
  const { $defs, ...rest } = root
  const walked = record(unrollable(rest, leadingTo(References.root)))
  if (!isRecord($defs)) return walked
  return {
    ...walked,
    $defs: Object.fromEntries(Object.entries($defs).map(([name, each]) => [name, unrollable(each, leadingTo(name))]))
  }
}
