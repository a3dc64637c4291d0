/**
 * How an entry is written: a JSON object with what there is to know of the value, and the value last.
 */
import * as PlainJson from "../plainJson.ts"

/** What is known of a value. All of it is left out where it says nothing. */
export interface Head {
  /** For how many milliseconds after its freshness it is kept. */
  readonly keep?: number | undefined
  /** How many milliseconds its computation took. */
  readonly took?: number | undefined
  /** The stamps of its tags, as they were before it was computed. */
  readonly tags?: Readonly<Record<string, string>> | undefined
  /** The stamp of its namespace. */
  readonly generation?: string | undefined
  /** The version of the schema, where who wrote it vouches for its shape. */
  readonly schema?: string | undefined
}

export interface Envelope {
  readonly keep: number
  readonly took: number
  readonly tags: Readonly<Record<string, string>> | undefined
  readonly generation: string | undefined
  readonly schema: string | undefined
  readonly none: boolean
  readonly value: unknown
}

/** `value` is JSON text, or undefined to say that there is nothing. */
export const encode = (head: Head, value: string | undefined): string => {
  let text = "{"
  if (head.keep !== undefined && head.keep > 0) text += `"keep":${head.keep},`
  if (head.took !== undefined && head.took > 0) text += `"took":${head.took},`
  if (head.tags !== undefined) text += `"tags":${JSON.stringify(head.tags)},`
  if (head.generation !== undefined) text += `"generation":${JSON.stringify(head.generation)},`
  if (head.schema !== undefined) text += `"schema":${JSON.stringify(head.schema)},`
  return value === undefined ? `${text}"none":true}` : `${text}"value":${value}}`
}

/** The envelope of a text, or undefined where it is none. */
export const decode = (text: string): Envelope | undefined => {
  const parsed: unknown = PlainJson.parse(text)
  if (!isRecord(parsed)) return undefined
  const { generation, keep = 0, none = false, schema, tags, took = 0 } = parsed
  if (typeof none !== "boolean" || none === Object.hasOwn(parsed, "value")) return undefined
  if (!isMillis(keep) || !isMillis(took) || !isTextOrNothing(generation) || !isTextOrNothing(schema)) return undefined
  if (tags !== undefined && !isTexts(tags)) return undefined
  return { keep, took, tags, generation, schema, none, value: parsed["value"] }
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const isMillis = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value) && value >= 0

const isTextOrNothing = (value: unknown): value is string | undefined =>
  value === undefined || typeof value === "string"

const isTexts = (value: unknown): value is Readonly<Record<string, string>> =>
  isRecord(value) && Object.values(value).every((one) => typeof one === "string")
