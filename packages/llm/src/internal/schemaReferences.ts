/**
 * References inside a JSON Schema: which definitions it has, which of them its parts name, and which lead back to
 * themselves.
 */
import { isRecord } from "./classify.ts"
import type { Json } from "./wire.ts"

/** The name of the schema as a whole. */
export const root = "#"

/** The definitions of a schema, under both of their keywords. */
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

/** The definitions that a part of a schema names; what those name is not looked at. */
export const namesIn = (schema: unknown, found: Set<string> = new Set()): Set<string> => {
  if (Array.isArray(schema)) for (const each of schema) namesIn(each, found)
  else if (isRecord(schema)) {
    const name = typeof schema["$ref"] === "string" ? nameOf(schema["$ref"]) : undefined
    if (name !== undefined) found.add(name)
    for (const [key, value] of Object.entries(schema)) {
      if (values.has(key) || key === "$defs" || key === "definitions") continue
      namesIn(named.has(key) && isRecord(value) ? Object.values(value) : value, found)
    }
  }
  return found
}

/** Which names each definition, and the schema as a whole, holds. */
type Graph = ReadonlyMap<string, ReadonlySet<string>>

const graphOf = (schema: Json): Graph => {
  const graph = new Map<string, ReadonlySet<string>>([[root, namesIn(schema)]])
  for (const [name, definition] of Object.entries(definitionsOf(schema))) graph.set(name, namesIn(definition))
  return graph
}

/** All that can be reached from a name, over one or more references. */
const reachOf = (start: string, graph: Graph): ReadonlySet<string> => {
  const found = new Set<string>()
  const open = [start]
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    for (const next of graph.get(name) ?? []) {
      if (found.has(next)) continue
      found.add(next)
      open.push(next)
    }
  }
  return found
}

/**
 * For each definition, and the schema as a whole, the names that lead to it, its own among them: a part that holds one of
 * them comes back to it.
 */
export const leadingTo = (schema: Json): ((name: string) => ReadonlySet<string>) => {
  const back = new Map<string, Set<string>>()
  for (const [from, names] of graphOf(schema)) {
    for (const name of names) {
      const before = back.get(name)
      if (before === undefined) back.set(name, new Set([from]))
      else before.add(from)
    }
  }
  return (name) => new Set(reachOf(name, back)).add(name)
}

/** Whether a schema refers to itself, as a whole or in one of its definitions. */
export const isRecursive = (schema: Json): boolean => {
  const graph = graphOf(schema)
  const done = new Set<string>()
  const onPath = new Set<string>()
  const loops = (name: string): boolean => {
    if (onPath.has(name)) return true
    if (done.has(name)) return false
    onPath.add(name)
    const looped = [...(graph.get(name) ?? [])].some(loops)
    onPath.delete(name)
    done.add(name)
    return looped
  }
  return [...graph.keys()].some(loops)
}
