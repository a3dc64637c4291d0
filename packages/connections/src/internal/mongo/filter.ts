/**
 * What a filter must not hold, for BSON leaves it out and the filter would match more than was meant: `undefined`, functions
 * and symbols, wherever they are, also in instances of classes and in maps.
 */

/** Values of their own: what they hold is not taken for fields. */
const isLeaf = (value: object): boolean =>
  "_bsontype" in value || value instanceof Date || value instanceof RegExp || ArrayBuffer.isView(value)

const deepest = 200

/** The path of the first thing that would be left out. An empty path is the filter itself. */
export const leftOutAt = (value: unknown, path = "", depth = 0): string | undefined => {
  if (value === undefined || typeof value === "function" || typeof value === "symbol") return path
  if (typeof value !== "object" || value === null || isLeaf(value)) return undefined
  // one that goes in a circle, which BSON refuses
  if (depth > deepest) return path
  for (const [key, inner] of value instanceof Map ? value : Object.entries(value)) {
    const found = leftOutAt(inner, path === "" ? String(key) : `${path}.${String(key)}`, depth + 1)
    if (found !== undefined) return found
  }
  return undefined
}

/** The same, of every `$match` in the stages of a pipeline. */
export const leftOutOfMatch = (value: unknown, path = "", depth = 0): string | undefined => {
  if (typeof value !== "object" || value === null || isLeaf(value) || depth > deepest) return undefined
  for (const [key, inner] of Object.entries(value)) {
    const at = path === "" ? key : `${path}.${key}`
    const found = key === "$match" ? leftOutAt(inner, at) : leftOutOfMatch(inner, at, depth + 1)
    if (found !== undefined) return found
  }
  return undefined
}
