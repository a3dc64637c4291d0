/**
 * Plain JSON, checked strictly: what a store would change or lose on the way is refused before it is written.
 */

/** A JSON value. */
export type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }

const depthLimit = 200

/** Why `value` is not plain JSON, with the path to the offender; undefined when it is. */
export const problemOf = (value: unknown, path = "", depth = 0): string | undefined => {
  if (value === null || typeof value === "string" || typeof value === "boolean") return undefined
  const at = path === "" ? "the value" : path
  if (typeof value === "number") return Number.isFinite(value) ? undefined : `${at} is not a finite number`
  if (typeof value !== "object") return `${at} is of type ${typeof value}, which JSON does not have`
  if (depth > depthLimit) return `${at} is nested deeper than ${depthLimit} levels or refers to itself`
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const problem = problemOf(value[index], `${path}[${index}]`, depth + 1)
      if (problem !== undefined) return problem
    }
    return undefined
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return `${at} is an object of a class, not plain data`
  for (const [key, item] of Object.entries(value)) {
    // an absent optional property: JSON leaves it out, and so may the caller
    if (item === undefined) continue
    const problem = problemOf(item, path === "" ? key : `${path}.${key}`, depth + 1)
    if (problem !== undefined) return problem
  }
  return undefined
}

/** The parsed text, or undefined when it is not JSON. JSON has no undefined, so the two cannot be confused. */
export const parse = (text: string): Json | undefined => {
  try {
    return JSON.parse(text) as Json
  } catch {
    return undefined
  }
}

/** Whether a JSON value is an object (not null, not an array). */
export const isObject = (value: Json | undefined): value is { readonly [key: string]: Json } =>
  typeof value === "object" && value !== null && !Array.isArray(value)
