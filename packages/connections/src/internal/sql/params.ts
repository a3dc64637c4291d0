/**
 * Parameters as both drivers get them: PostgreSQL's own text of each value, so that one value means the same through
 * either.
 */

/** Why a value cannot be a parameter, in words of ours: what a program throws may hold the value itself. */
export class Unstorable extends Error {}

const json = (value: object): string | null => {
  try {
    return JSON.stringify(value) ?? null
  } catch {
    throw new Unstorable("an object cannot be written as JSON: it holds itself or a bigint, or its toJSON throws")
  }
}

const two = (value: number, digits = 2): string => String(Math.trunc(Math.abs(value))).padStart(digits, "0")

// Local time with its offset: right for timestamptz, and for timestamp it reads back as the same instant.
const date = (value: Date): string => {
  if (Number.isNaN(value.getTime())) throw new Unstorable("an invalid date cannot be stored")
  const year = value.getFullYear()
  // By the clock on the wall and not by getTimezoneOffset, which leaves out the seconds that zones once had.
  const local = new Date(0)
  local.setUTCFullYear(year, value.getMonth(), value.getDate())
  local.setUTCHours(value.getHours(), value.getMinutes(), value.getSeconds(), value.getMilliseconds())
  const offset = Math.round((local.getTime() - value.getTime()) / 1000)
  const shown = year > 0 ? year : 1 - year
  return (
    `${two(shown, 4)}-${two(value.getMonth() + 1)}-${two(value.getDate())}T` +
    `${two(value.getHours())}:${two(value.getMinutes())}:${two(value.getSeconds())}.${two(value.getMilliseconds(), 3)}` +
    `${offset < 0 ? "-" : "+"}${two(offset / 3600)}:${two((offset / 60) % 60)}:${two(offset % 60)}${year > 0 ? "" : " BC"}`
  )
}

const bytes = (value: ArrayBufferView | ArrayBuffer): string =>
  `\\x${Buffer.from(ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : new Uint8Array(value)).toString("hex")}`

const quote = (value: string): string => `"${value.replace(/\\/g, "\\\\").replace(/"/g, '\\"')}"`

const array = (values: ReadonlyArray<unknown>): string =>
  `{${values
    .map((value) => {
      if (value === null || value === undefined) return "NULL"
      if (Array.isArray(value)) return array(value)
      const one = encode(value)
      return one === null ? "NULL" : quote(one)
    })
    .join(",")}}`

/** One parameter. `null` and `undefined` are NULL; a plain object is JSON; an array is an array of PostgreSQL. */
export const encode = (value: unknown): string | null => {
  switch (typeof value) {
    case "undefined":
      return null
    case "string":
      return value
    case "number":
      return Object.is(value, -0) ? "-0" : String(value)
    case "bigint":
    case "boolean":
      return String(value)
    case "object":
      if (value === null) return null
      if (value instanceof Date) return date(value)
      if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return bytes(value)
      if (Array.isArray(value)) return array(value)
      return json(value)
    default:
      throw new Unstorable(`a ${typeof value} cannot be a parameter`)
  }
}
