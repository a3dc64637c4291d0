/**
 * References inside a JSON Schema: which definitions it has, and which of them a part of it leads to.
 */
import { isRecord } from "./classify.ts"
import type { Json } from "./wire.ts"

/** A schema that refers to itself as a whole. */
export const root = "#"

/** The definitions of a schema, under both of their names. */
export const definitionsOf = (schema: Json): Json => ({
  ...(isRecord(schema["definitions"]) ? schema["definitions"] : {}),
  ...(isRecord(schema["$defs"]) ? schema["$defs"] : {})
})

/** The name of the definition (or `root`) that a reference means; `undefined` for any other place. */
export const nameOf = (reference: string): string | undefined =>
  reference === root
    ? root
    : /^#\/(?:\$defs|definitions)\/([^/]+)$/.exec(reference)?.[1]?.replaceAll("~1", "/").replaceAll("~0", "~")

/** Keywords that hold values, in which nothing is a reference. */
const values = new Set(["enum", "const", "default", "examples"])
/** Keywords that hold schemas by names, which look like keywords to whoever does not mind. */
const named = new Set(["properties", "patternProperties", "dependentSchemas"])

/** The definitions that a schema refers to, in itself or by way of others. */
export const reachOf = (schema: unknown, definitions: Json, found: Set<string> = new Set()): Set<string> => {
  if (Array.isArray(schema)) for (const each of schema) reachOf(each, definitions, found)
  else if (isRecord(schema)) {
    const name = typeof schema["$ref"] === "string" ? nameOf(schema["$ref"]) : undefined
    if (name !== undefined && !found.has(name)) {
      found.add(name)
      if (name !== root) reachOf(definitions[name], definitions, found)
    }
    for (const [key, value] of Object.entries(schema)) {
      if (values.has(key) || key === "$defs" || key === "definitions") continue
      reachOf(named.has(key) && isRecord(value) ? Object.values(value) : value, definitions, found)
    }
  }
  return found
}

/** Whether a schema refers to itself, as a whole or in one of the definitions that it leads to. */
export const isRecursive = (schema: Json): boolean => {
  const definitions = definitionsOf(schema)
  const all = reachOf(schema, definitions)
  return [...all].some((name) => name === root || reachOf(definitions[name], definitions).has(name))
}
