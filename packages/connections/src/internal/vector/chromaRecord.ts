/**
 * How a record's metadata is kept in Chroma, and read back.
 *
 * Each key is there by its own name, so that other programs see it; a few names are put differently. Beside it, under
 * names that begin with `~`, is what the server cannot tell by itself: `~t:<key>` the type (absence and type cannot be
 * asked for there), `~x:<key>` and `~f:<key>`, in place of the key, a number that the server would not keep exactly, in full
 * and as the one below it that it does, `~v` a vector whose length is not one, in a collection where all have to have that,
 * and `~shape` which keys the record has, for the server adds to the metadata that it finds instead of replacing it.
 */
import type { Filter as Filters, Metadata } from "@underlay/core/storage/VectorStore"
import * as Numbers from "./chromaNumbers.ts"

type Value = Filters.Value

/** The name of a metadata key: some the server takes for its own, and one of them ends it. */
export const keyOf = (key: string): string => (reserved.test(key) ? `~k:${key}` : key)

const reserved = /^(?:[~$#]|chroma:)/

const keyFrom = (raw: string): string | undefined =>
  raw.startsWith("~") ? (raw.startsWith("~k:") ? raw.slice(3) : undefined) : raw

export const typeKeyOf = (key: string): string => `~t:${key}`
export const exactKeyOf = (key: string): string => `~x:${key}`
export const floorKeyOf = (key: string): string => `~f:${key}`
const vectorKey = "~v"
export const shapeKey = "~shape"

export const types = { string: "s", number: "n", boolean: "b" } as const

export const typeOf = (value: Value): string =>
  typeof value === "string" ? types.string : typeof value === "number" ? types.number : types.boolean

export const valueText = (value: Value): string =>
  typeof value === "number" ? Numbers.written(value) : JSON.stringify(value)

interface Shape {
  readonly hasDocument: boolean
  readonly hasVector: boolean
  readonly keys: ReadonlyArray<string>
  readonly exact: ReadonlySet<string>
}

/** A record's metadata as properties in JSON, with its shape. */
export interface Written {
  readonly shape: string
  /** The names that it has there. */
  readonly names: ReadonlySet<string>
  /** `"name":value,…`, without braces. */
  readonly properties: string
}

export const write = (metadata: Metadata, hasDocument: boolean, vector: string | undefined): Written => {
  const keys: Array<string> = []
  const exact: Array<string> = []
  const names = new Set<string>([shapeKey])
  const properties: Array<string> = []
  const put = (name: string, text: string): void => {
    names.add(name)
    properties.push(`${JSON.stringify(name)}:${text}`)
  }
  for (const key of Object.keys(metadata)) {
    const value = metadata[key]
    if (value === undefined) continue
    keys.push(key)
    put(typeKeyOf(key), `"${typeOf(value)}"`)
    if (typeof value === "number" && !Numbers.isKept(value)) {
      exact.push(key)
      put(exactKeyOf(key), JSON.stringify(String(value)))
      put(floorKeyOf(key), Numbers.written(Numbers.floor(value)))
    } else {
      put(keyOf(key), valueText(value))
    }
  }
  if (vector !== undefined) put(vectorKey, JSON.stringify(vector))
  const shape = JSON.stringify([(hasDocument ? 1 : 0) + (vector === undefined ? 0 : 2), keys.sort(), exact.sort()])
  properties.push(`"${shapeKey}":${JSON.stringify(shape)}`)
  return { shape, names, properties: properties.join(",") }
}

const shapes = new Map<string, Shape | undefined>()

const parse = (text: string): Shape | undefined => {
  try {
    const found: unknown = JSON.parse(text)
    if (!Array.isArray(found)) return undefined
    const [parts, keys, exact]: ReadonlyArray<unknown> = found
    const isTexts = (value: unknown): value is ReadonlyArray<string> =>
      Array.isArray(value) && value.every((each) => typeof each === "string")
    return typeof parts === "number" && isTexts(keys) && isTexts(exact)
      ? { hasDocument: (parts & 1) === 1, hasVector: (parts & 2) === 2, keys, exact: new Set(exact) }
      : undefined
  } catch {
    return undefined
  }
}

const shapeOf = (text: unknown): Shape | undefined => {
  if (typeof text !== "string") return undefined
  if (shapes.has(text)) return shapes.get(text)
  const shape = parse(text)
  if (shapes.size >= 1_000) shapes.clear()
  shapes.set(text, shape)
  return shape
}

const isValue = (value: unknown): value is Value =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean"

export interface Read {
  readonly metadata: Metadata
  readonly hasDocument: boolean
  /** The vector, where it is kept here. */
  readonly vector?: string
}

/** What a record has, by what the server has kept of it; of one that another program wrote, what can be metadata. */
export const read = (raw: { readonly [name: string]: unknown } | undefined): Read => {
  if (raw === undefined) return { metadata: {}, hasDocument: true }
  const own = (name: string): unknown => (Object.hasOwn(raw, name) ? raw[name] : undefined)
  const shape = shapeOf(own(shapeKey))
  const metadata: Array<readonly [string, Value]> = []
  if (shape === undefined) {
    for (const [name, value] of Object.entries(raw)) {
      const key = keyFrom(name)
      if (key !== undefined && isValue(value)) metadata.push([key, value])
    }
    return { metadata: Object.fromEntries(metadata), hasDocument: true }
  }
  for (const key of shape.keys) {
    const value = shape.exact.has(key) ? Number(own(exactKeyOf(key))) : own(keyOf(key))
    if (isValue(value)) metadata.push([key, value])
  }
  const vector = shape.hasVector ? own(vectorKey) : undefined
  return {
    metadata: Object.fromEntries(metadata),
    hasDocument: shape.hasDocument,
    ...(typeof vector === "string" ? { vector } : {})
  }
}

/** The names that a record has on the server and is not to have any more. */
export const stale = (
  raw: { readonly [name: string]: unknown } | undefined,
  names: ReadonlySet<string>
): ReadonlyArray<string> => (raw === undefined ? [] : Object.keys(raw).filter((name) => !names.has(name)))
