/** What a filter must not hold: `undefined`, which BSON leaves out, so that the filter would match more than was meant. */

const isPlain = (value: object): boolean => {
  if ("_bsontype" in value) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null || Array.isArray(value)
}

/** The path of the first `undefined`. An empty path is the filter itself. */
export const undefinedAt = (value: unknown, path = ""): string | undefined => {
  if (value === undefined) return path
  if (typeof value !== "object" || value === null || !isPlain(value)) return undefined
  for (const [key, inner] of Object.entries(value)) {
    const found = undefinedAt(inner, path === "" ? key : `${path}.${key}`)
    if (found !== undefined) return found
  }
  return undefined
}
