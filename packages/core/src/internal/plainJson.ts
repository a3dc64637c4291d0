/**
 * Plain JSON, checked strictly: what a store would change or lose on the way is refused before it is written.
 */

/** A JSON value. */
export type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }

const depthLimit = 200

/** Why `value` is not plain JSON, with the path to the offender; undefined when it is. */
export const problemOf = (value: unknown): string | undefined =>
  // what is written on every request is nearly always in order: nothing is built before it is known not to be
  isPlain(value, 0) ? undefined : explain(value, "", 0)

const isPlain = (value: unknown, depth: number): boolean => {
  if (value === null || typeof value === "string" || typeof value === "boolean") return true
  if (typeof value === "number") return Number.isFinite(value)
  if (typeof value !== "object" || depth > depthLimit) return false
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      if (!isPlain(value[index], depth + 1)) return false
    }
    return true
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return false
  const fields = value as { readonly [key: string]: unknown }
  for (const key of Object.keys(value)) {
    const item = fields[key]
    // an absent optional property: JSON leaves it out, and so may the caller
    if (item !== undefined && !isPlain(item, depth + 1)) return false
  }
  return true
}

const explain = (value: unknown, path: string, depth: number): string | undefined => {
  if (isPlain(value, depth)) return undefined
  const at = path === "" ? "the value" : path
  if (typeof value === "number") return `${at} is not a finite number`
  if (typeof value !== "object" || value === null) return `${at} is of type ${typeof value}, which JSON does not have`
  if (depth > depthLimit) return `${at} is nested deeper than ${depthLimit} levels or refers to itself`
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const problem = explain(value[index], `${path}[${index}]`, depth + 1)
      if (problem !== undefined) return problem
    }
    return undefined
  }
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return `${at} is an object of a class, not plain data`
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) continue
    const problem = explain(item, path === "" ? key : `${path}.${key}`, depth + 1)
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
